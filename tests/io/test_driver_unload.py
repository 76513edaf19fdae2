"""Unloading drivers that are no minifilters (KE-UNLOAD, KE-RACE-16, KE-IRP-11)."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, codes, run
from io_kit import Device, complete, device, loaded, spawn, succeed

from kemu.io.device import DEVICE_OBJECT
from kemu.io.irp import IRP
from kemu.nt.bugcheck import DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS
from kemu.nt.driver import DRIVER_OBJECT, Driver
from kemu.nt.kthread import PASSIVE_LEVEL, current_kthread
from kemu.wdk.ntstatus import (
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_MORE_PROCESSING_REQUIRED,
    STATUS_PENDING,
    STATUS_SUCCESS,
    STATUS_UNSUCCESSFUL,
)
from kemu.wdk.wdm import (
    FILE_DEVICE_UNKNOWN,
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    POOL_FLAG_NON_PAGED,
    DelayedWorkQueue,
    ExAllocatePool2,
    ExFreePoolWithTag,
    IoAllocateIrp,
    IoAllocateWorkItem,
    IoCallDriver,
    IoCreateDevice,
    IoCreateSymbolicLink,
    IoFreeIrp,
    IoFreeWorkItem,
    IoGetNextIrpStackLocation,
    IoMarkIrpPending,
    IoQueueWorkItemEx,
    IoSetCompletionRoutine,
    IoSetCompletionRoutineEx,
    Structure,
    sizeof,
)


class STATE(Structure):
    Count: int


@pytest.mark.rule("KE-UNLOAD-01")
def test_unload_runs_at_passive_level_in_a_system_thread_once_nothing_refers_to_the_driver() -> None:
    async def script(lab: Lab) -> Any:
        one, driver = await loaded(lab, "D", {IRP_MJ_READ: succeed})

        async def noted() -> None:
            thread = current_kthread()
            assert thread.process is not None
            lab.note("unload", (thread.irql, thread.process.is_system, thread.label))

        one.on_unload = noted
        file = await lab.app.open(r"\\.\D")

        async def stop() -> Any:
            return await driver.unload()

        async def use() -> None:
            await file.read(4)
            lab.note("closing")
            await file.close()

        status, _ = await lab.together(stop(), use())
        return status

    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {STATUS_SUCCESS}
    assert all(one.before("closing", "unload") for one in runs)
    assert {one.note("unload").value for one in runs} == {(PASSIVE_LEVEL, True, "unload:D")}


@pytest.mark.rule("KE-UNLOAD-01")
def test_a_driver_without_an_unload_routine_or_that_goes_already_is_not_unloaded() -> None:
    async def script(lab: Lab) -> Any:
        _, stays = await loaded(lab, "D", {}, unloads=False)
        _, goes = await loaded(lab, "E", {})
        return await stays.unload(), await goes.unload(), await goes.unload()

    assert run(script).result == (STATUS_INVALID_DEVICE_REQUEST, STATUS_SUCCESS, STATUS_INVALID_DEVICE_REQUEST)


class Failing(Driver):
    """A DriverEntry that fails, and leaves what it was told to leave."""

    def __init__(self, leaves: str) -> None:
        self.leaves = leaves
        self.object: DRIVER_OBJECT | None = None

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        DriverObject.DriverUnload = self.Unload
        DriverObject.MajorFunction[IRP_MJ_CREATE] = succeed
        self.object = DriverObject
        if self.leaves == "device":
            _ = await IoCreateDevice(DriverObject, 0, r"\Device\F", FILE_DEVICE_UNKNOWN, 0, False)
        elif self.leaves == "link":
            _ = await IoCreateSymbolicLink(r"\??\F", r"\Device\F")
        elif self.leaves == "irp":
            _ = await IoAllocateIrp(1, False)
        elif self.leaves == "pool":
            _ = await ExAllocatePool2(POOL_FLAG_NON_PAGED, 8, "Test")
        return STATUS_UNSUCCESSFUL

    async def Unload(self, DriverObject: DRIVER_OBJECT) -> None:
        raise AssertionError


@pytest.mark.rule("KE-UNLOAD-02", "KE-UNLOAD-01")
@pytest.mark.parametrize("leaves", ["device", "link", "irp", "pool", "nothing"])
def test_a_driverentry_that_fails_undoes_everything_and_is_not_followed_by_an_unload(leaves: str) -> None:
    async def script(lab: Lab) -> Any:
        driver = await lab.load(Failing(leaves))
        return driver.status, driver.driver_object.loaded, await driver.unload()

    one = run(script)
    if leaves == "nothing":
        assert one.result == (STATUS_UNSUCCESSFUL, False, STATUS_INVALID_DEVICE_REQUEST)
    else:
        assert one.code == "driverentry-fail-leak"


@pytest.mark.rule("KE-UNLOAD-03")
@pytest.mark.parametrize("left", ["device", "link", "pool", "nothing"])
def test_what_a_driver_leaves_behind_is_listed(left: str) -> None:
    class Leaver(Device):
        async def Unload(self, DriverObject: DRIVER_OBJECT) -> None:
            if left == "device":
                self.made = None
                _, self.made = await IoCreateDevice(DriverObject, 0, None, FILE_DEVICE_UNKNOWN, 0, False)
            elif left == "link":
                _ = await IoCreateSymbolicLink(r"\??\Other", r"\Device\D")
            elif left == "pool":
                _ = await ExAllocatePool2(POOL_FLAG_NON_PAGED, 8, "Test")
            if left != "device":
                await super().Unload(DriverObject)

    async def script(lab: Lab) -> Any:
        return await (await lab.load(Leaver("D", {}))).unload()

    one = run(script)
    expected = {"device": "ke.unload-leftover", "link": "ke.unload-leftover", "pool": "ke.pool-leak", "nothing": None}
    assert one.code == expected[left]


@pytest.mark.rule("KE-UNLOAD-03", "KE-RACE-16")
def test_a_thread_that_is_in_the_drivers_code_when_it_goes_is_found() -> None:
    async def script(lab: Lab) -> Any:
        one, driver = await loaded(lab, "D", {})

        async def works() -> None:
            await lab.step("work")
            await lab.step("more work")

        async def unloading() -> None:
            spawn("worker", works())

        one.on_unload = unloading
        await driver.unload()

    found = codes(all_runs(script, bound=1))
    assert "ke.unload-running" in found
    stop = run(script).finding.bug_check
    assert stop is not None
    assert stop.code == DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS


@pytest.mark.rule("KE-UNLOAD-04", "KE-RACE-16")
@pytest.mark.parametrize("drains", [True, False])
def test_memory_is_freed_after_those_who_use_it_are_gone(drains: bool) -> None:
    async def script(lab: Lab) -> Any:
        state: STATE = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(STATE), "Test")
        idle = lab.event("idle")

        async def work(IoObject: Any, Context: Any, WorkItem: Any) -> None:
            from kemu.wdk.wdm import KeSetEvent

            await IoFreeWorkItem(WorkItem)
            state.Count += 1
            await KeSetEvent(idle, 0, False)

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            item = await IoAllocateWorkItem(device.DriverObject)
            assert item is not None
            await IoQueueWorkItemEx(item, work, DelayedWorkQueue, None)
            return await complete(irp)

        one, driver = await loaded(lab, "D", {IRP_MJ_READ: read})

        async def unloading() -> None:
            from kemu.wdk.wdm import KeWaitForSingleObject

            if drains:
                _ = await KeWaitForSingleObject(idle)
            await ExFreePoolWithTag(state, "Test")

        one.on_unload = unloading
        file = await lab.app.open(r"\\.\D")
        await file.read(4)
        await file.close()
        await driver.unload()

    found = codes(all_runs(script, bound=1))
    if drains:
        assert "ke.use-after-free" not in found
    else:
        assert "ke.use-after-free" in found


@pytest.mark.rule("KE-UNLOAD-07", "KE-IRP-11", "KE-RACE-16")
@pytest.mark.parametrize("ex", [True, False])
def test_a_completion_routine_keeps_its_driver_only_if_it_was_set_so(ex: bool) -> None:
    """An IRP of the driver's own is still below when its device is closed and the driver is stopped."""

    async def script(lab: Lab) -> Any:
        async def lower(device: DEVICE_OBJECT, irp: IRP) -> int:
            async def later() -> None:
                await lab.step("busy")
                await complete(irp)

            await IoMarkIrpPending(irp)
            spawn("disk", later())
            return STATUS_PENDING

        below = await device(lab, "B", {IRP_MJ_READ: lower})

        async def completed(device: Any, irp: IRP, context: Any) -> int:
            await IoFreeIrp(irp)
            return STATUS_MORE_PROCESSING_REQUIRED

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            own = await IoAllocateIrp(1, False)
            assert own is not None
            IoGetNextIrpStackLocation(own).MajorFunction = IRP_MJ_READ
            if ex:
                _ = await IoSetCompletionRoutineEx(device, own, completed, None, True, True, True)
            else:
                IoSetCompletionRoutine(own, completed, None, True, True, True)
            await IoCallDriver(below.device, own)
            return await complete(irp)

        _, driver = await loaded(lab, "D", {IRP_MJ_READ: read})
        file = await lab.app.open(r"\\.\D")
        await file.read(4)
        await file.close()
        return await driver.unload()

    found = codes(all_runs(script, bound=1))
    if ex:
        assert found == {None}
    else:
        assert found >= {None}
        assert found <= {None, "ke.unload-running", "ke.irp-leak"}
        assert len(found) > 1


@pytest.mark.rule("KE-IRP-11", "KE-UNLOAD-03")
def test_a_completion_routine_of_a_driver_that_is_gone_is_not_called() -> None:
    """The IRP is that of a program: nothing is left behind but the routine."""

    async def script(lab: Lab) -> Any:
        held: list[IRP] = []

        async def lower(device: DEVICE_OBJECT, irp: IRP) -> int:
            await IoMarkIrpPending(irp)
            held.append(irp)
            return STATUS_PENDING

        async def serve(device: DEVICE_OBJECT, irp: IRP) -> int:
            await complete(held.pop())
            return await complete(irp)

        below = await device(lab, "B", {IRP_MJ_READ: lower, 4: serve})
        above = Device("F", {}, over=below.device)

        async def completed(device: Any, irp: IRP, context: Any) -> int:
            raise AssertionError

        async def passes(device: DEVICE_OBJECT, irp: IRP) -> int:
            from kemu.wdk.wdm import IoCopyCurrentIrpStackLocationToNext

            IoCopyCurrentIrpStackLocationToNext(irp)
            if irp.Tail.Overlay.CurrentStackLocation.MajorFunction == IRP_MJ_READ:
                IoSetCompletionRoutine(irp, completed, None, True, True, True)
            return await IoCallDriver(above.lower, irp)

        for major in (IRP_MJ_CREATE, IRP_MJ_READ, 4):
            above.dispatch[major] = passes
        driver = await lab.load(above)
        file = await lab.app.open(r"\\.\B", overlapped=True)
        await file.begin_read(4)
        await driver.unload()
        await file.write(b"go")

    one = run(script)
    assert one.code == "ke.unload-running"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS
