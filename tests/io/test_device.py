"""Device objects: names, opens, stacks, deletion (KE-REF-05, KE-UNLOAD-05)."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, Run, all_runs, codes, run
from io_kit import Device, complete, device, loaded, spawn, succeed

from kemu.io.device import DEVICE_OBJECT, Devices
from kemu.io.irp import IRP
from kemu.nt.bugcheck import DRIVER_VERIFIER_IOMANAGER_VIOLATION
from kemu.nt.driver import DRIVER_OBJECT, Driver
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_NO_SUCH_DEVICE,
    STATUS_OBJECT_NAME_COLLISION,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_PENDING,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    DO_DEVICE_INITIALIZING,
    FILE_DEVICE_UNKNOWN,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    IRP_MJ_SHUTDOWN,
    KSPIN_LOCK,
    IoAttachDeviceToDeviceStack,
    IoCallDriver,
    IoCreateDevice,
    IoCreateSymbolicLink,
    IoDeleteDevice,
    IoDeleteSymbolicLink,
    IoDetachDevice,
    IoGetCurrentIrpStackLocation,
    IoGetDeviceObjectPointer,
    IoMarkIrpPending,
    IoRegisterShutdownNotification,
    IoSkipCurrentIrpStackLocation,
    IoUnregisterShutdownNotification,
    KeAcquireSpinLock,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
    Structure,
    sizeof,
)


def stop_of(one: Run) -> tuple[int, int] | None:
    """Code and first parameter of the stop with Driver Verifier."""
    stop = one.finding.verifier
    return None if stop is None else (stop.code, stop.parameters[0])


class EXTENSION(Structure):
    Lock: KSPIN_LOCK
    Count: int


# Creating and opening.


def test_a_device_has_a_zeroed_extension_of_the_size_that_was_asked_for() -> None:
    async def script(lab: Lab) -> Any:
        one = await device(lab, "D", {}, extension=sizeof(EXTENSION))
        extension: EXTENSION = one.device.DeviceExtension
        before = extension.Count
        extension.Count += 1
        plain = await device(lab, "E", {}, extension=16)
        none = await device(lab, "F", {})
        return before, extension.Count, bytes(plain.device.DeviceExtension), none.device.DeviceExtension

    assert run(script).result == (0, 1, bytes(16), None)


@pytest.mark.rule("KE-REF-05")
def test_the_extension_of_a_deleted_device_is_in_freed_memory() -> None:
    async def script(lab: Lab) -> Any:
        one, driver = await loaded(lab, "D", {}, extension=sizeof(EXTENSION))
        extension = one.device.DeviceExtension
        await driver.unload()
        return extension.Count

    assert run(script).code == "ke.use-after-free"


@pytest.mark.rule("KE-REF-05")
def test_a_deleted_device_is_no_parameter_any_more() -> None:
    async def script(lab: Lab) -> Any:
        one, driver = await loaded(lab, "D", {})
        await driver.unload()
        await IoAttachDeviceToDeviceStack(one.device, one.device)

    assert run(script).code == "ke.use-after-free"


def test_opening_and_closing_a_device_is_a_create_a_cleanup_and_a_close() -> None:
    async def script(lab: Lab) -> Any:
        def noting(name: str) -> Any:
            async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
                file = IoGetCurrentIrpStackLocation(irp).FileObject
                assert file is not None
                lab.note(f"{name} {file.FileName}")
                return await complete(irp)

            return dispatch

        majors = {"create": IRP_MJ_CREATE, "cleanup": IRP_MJ_CLEANUP, "close": IRP_MJ_CLOSE}
        await device(lab, "D", {major: noting(name) for name, major in majors.items()})
        return await (await lab.app.open(r"\\.\d\rest\of it")).close()

    one = run(script)
    assert one.result == STATUS_SUCCESS
    assert one.order == [rf"{name} \rest\of it" for name in ("create", "cleanup", "close")]


def test_a_device_that_is_not_there_cannot_be_opened() -> None:
    async def script(lab: Lab) -> Any:
        await device(lab, "D", {})
        gone = await IoCreateSymbolicLink(r"\DosDevices\Nowhere", r"\Device\Nowhere")
        return gone, [(await lab.app.create(path))[0] for path in (r"\\.\E", r"\\.\Nowhere", r"\\?\D")]

    assert run(script).result == (
        STATUS_SUCCESS,
        [STATUS_OBJECT_NAME_NOT_FOUND, STATUS_OBJECT_NAME_NOT_FOUND, STATUS_SUCCESS],
    )


def test_a_create_that_fails_opens_nothing() -> None:
    async def script(lab: Lab) -> Any:
        async def refuses(device: DEVICE_OBJECT, irp: IRP) -> int:
            return await complete(irp, STATUS_ACCESS_DENIED)

        one, driver = await loaded(lab, "D", {IRP_MJ_CREATE: refuses})
        opened = await lab.app.create(r"\\.\D")
        return opened, one.device.ReferenceCount, await driver.unload()

    assert run(script).result == ((STATUS_ACCESS_DENIED, None), 0, STATUS_SUCCESS)


def test_an_exclusive_device_is_open_once() -> None:
    class Exclusive(Device):
        async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
            for major, routine in self.dispatch.items():
                DriverObject.MajorFunction[major] = routine
            status, self.made = await IoCreateDevice(DriverObject, 0, r"\Device\X", FILE_DEVICE_UNKNOWN, 0x100, True)
            assert status == STATUS_SUCCESS
            return await IoCreateSymbolicLink(r"\??\X", r"\Device\X")

    async def script(lab: Lab) -> Any:
        await lab.load(Exclusive("X", {}))
        first = await lab.app.open(r"\\.\X")
        second, _ = await lab.app.create(r"\\.\X")
        await first.close()
        third, _ = await lab.app.create(r"\\.\X")
        return second, third

    assert run(script).result == (STATUS_ACCESS_DENIED, STATUS_SUCCESS)


def test_names_are_taken_once() -> None:
    async def script(lab: Lab) -> Any:
        one = await device(lab, "D", {})
        assert one.object is not None
        again, none = await IoCreateDevice(one.object, 0, r"\DEVICE\d", FILE_DEVICE_UNKNOWN, 0, False)
        return (
            again,
            none,
            await IoCreateSymbolicLink(r"\GLOBAL??\d", r"\Device\D"),
            await IoCreateSymbolicLink(r"\Elsewhere\d", r"\Device\D"),
            await IoDeleteSymbolicLink(r"\??\D"),
            await IoDeleteSymbolicLink(r"\??\D"),
            await IoDeleteSymbolicLink(r"D"),
        )

    assert run(script).result == (
        STATUS_OBJECT_NAME_COLLISION,
        None,
        STATUS_OBJECT_NAME_COLLISION,
        STATUS_OBJECT_NAME_NOT_FOUND,
        STATUS_SUCCESS,
        STATUS_OBJECT_NAME_NOT_FOUND,
        STATUS_OBJECT_NAME_NOT_FOUND,
    )


def test_a_device_that_is_initialising_cannot_be_opened_until_its_driver_or_driverentry_is_done() -> None:
    class Early(Driver):
        def __init__(self, clears: bool) -> None:
            self.clears = clears
            self.seen: Any = None

        async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
            DriverObject.MajorFunction[IRP_MJ_CREATE] = succeed
            status, made = await IoCreateDevice(DriverObject, 0, r"\Device\X", FILE_DEVICE_UNKNOWN, 0, False)
            assert made is not None
            assert made.Flags & DO_DEVICE_INITIALIZING
            if self.clears:
                made.Flags &= ~DO_DEVICE_INITIALIZING
            status = await IoCreateSymbolicLink(r"\??\X", r"\Device\X")
            self.seen, _, _ = await IoGetDeviceObjectPointer(r"\Device\X", 0)
            return status

    async def script(lab: Lab) -> Any:
        results: list[Any] = []
        driver = Early(lab.choose(2, "clears") == 1)
        await lab.load(driver)
        results += [driver.seen, (await lab.app.create(r"\\.\X"))[0]]
        return tuple(results)

    assert {one.result for one in all_runs(script)} == {
        (STATUS_NO_SUCH_DEVICE, STATUS_SUCCESS),
        (STATUS_SUCCESS, STATUS_SUCCESS),
    }


def test_low_resources_may_leave_a_driver_without_a_device() -> None:
    async def script(lab: Lab) -> Any:
        lab._explore_setup = True
        return (await lab.load(Device("D", {}))).status

    assert {one.result for one in all_runs(script, low_resources=True)} == {
        STATUS_SUCCESS,
        STATUS_INSUFFICIENT_RESOURCES,
    }


@pytest.mark.parametrize("value", [None, "text", 7])
def test_what_is_no_driver_object_is_a_bad_pointer(value: Any) -> None:
    async def script(lab: Lab) -> Any:
        await IoCreateDevice(value, 0, None, FILE_DEVICE_UNKNOWN, 0, False)

    assert run(script).code == "ke.bad-pointer"


def test_fast_io_is_tried_again_as_an_irp() -> None:
    async def script(lab: Lab) -> Any:
        await device(lab, "D", {IRP_MJ_READ: succeed})
        return await (await lab.app.open(r"\\.\D")).read(4, fast=True)

    assert run(script).result == (STATUS_SUCCESS, b"")


# Closing with requests outstanding.


def test_a_close_waits_for_the_requests_that_are_outstanding_and_the_program_does_not() -> None:
    async def script(lab: Lab) -> Any:
        async def close(device: DEVICE_OBJECT, irp: IRP) -> int:
            lab.note("close")
            return await complete(irp)

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            async def later() -> None:
                await lab.step("reading")
                lab.note("complete")
                await complete(irp)

            await IoMarkIrpPending(irp)
            spawn("later", later())
            return STATUS_PENDING

        await device(lab, "D", {IRP_MJ_CLOSE: close, IRP_MJ_READ: read})
        file = await lab.app.open(r"\\.\D", overlapped=True)
        pending = await file.begin_read(4)
        await file.close()
        lab.note("closed")
        return await pending.wait()

    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {STATUS_SUCCESS}
    assert all(one.before("complete", "close") for one in runs)
    assert {one.before("closed", "complete") for one in runs} == {True, False}


# Stacks.


def test_an_irp_goes_from_the_top_of_the_stack_down() -> None:
    async def script(lab: Lab) -> Any:
        async def bottom(device: DEVICE_OBJECT, irp: IRP) -> int:
            lab.note("bottom")
            return await complete(irp)

        below = await device(lab, "D", dict.fromkeys((IRP_MJ_READ, IRP_MJ_CREATE), bottom))
        for name in ("low", "high"):
            above = Device(name, {}, over=below.device)

            async def passes(device: DEVICE_OBJECT, irp: IRP, above: Device = above, name: str = name) -> int:
                lab.note(name)
                IoSkipCurrentIrpStackLocation(irp)
                return await IoCallDriver(above.lower, irp)

            above.dispatch |= {IRP_MJ_READ: passes, IRP_MJ_CREATE: passes}
            await lab.load(above)
        assert below.device.AttachedDevice is not None
        assert [below.device.StackSize, below.device.top().StackSize] == [1, 3]
        return (await (await lab.app.open(r"\\.\D")).read(4))[0]

    one = run(script)
    assert one.result == STATUS_SUCCESS
    assert one.order == ["high", "low", "bottom"] * 2


def test_a_pointer_to_a_device_is_one_to_the_top_of_its_stack_and_keeps_it() -> None:
    async def script(lab: Lab) -> Any:
        below, driver = await loaded(lab, "D", {})
        above = await device(lab, "F", {}, over=below.device)
        status, file, top = await IoGetDeviceObjectPointer(r"\Device\D", 0)
        assert file is not None
        missing = await IoGetDeviceObjectPointer(r"\Device\E", 0)
        assert above.object is not None
        return status, top is above.device, missing, driver.driver_object.image.references

    assert run(script).result == (STATUS_SUCCESS, True, (STATUS_OBJECT_NAME_NOT_FOUND, None, None), 2)


@pytest.mark.rule("KE-UNLOAD-07", "KE-REF-05")
def test_a_driver_is_not_unloaded_before_pointers_to_its_device_are_given_back() -> None:
    from kemu.wdk.wdm import ObDereferenceObject, ObReferenceObject

    async def script(lab: Lab) -> Any:
        one, driver = await loaded(lab, "D", {})

        async def unloading() -> None:
            lab.note("unload")

        one.on_unload = unloading
        _, file, _ = await IoGetDeviceObjectPointer(r"\Device\D", 0)
        assert file is not None
        await ObReferenceObject(file)

        async def user() -> None:
            await ObDereferenceObject(file)
            lab.note("last")
            await ObDereferenceObject(file)

        async def unload() -> None:
            await driver.unload()

        await lab.together(unload(), user())

    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    assert {tuple(one.order) for one in runs} == {("last", "unload")}


def test_a_pointer_is_given_back_once() -> None:
    from kemu.wdk.wdm import ObDereferenceObject

    async def script(lab: Lab) -> Any:
        await device(lab, "D", {})
        _, file, _ = await IoGetDeviceObjectPointer(r"\Device\D", 0)
        assert file is not None
        await ObDereferenceObject(file)
        await ObDereferenceObject(file)

    assert run(script).code == "ob.under-reference"


@pytest.mark.rule("KE-UNLOAD-05")
def test_nobody_attaches_to_or_opens_what_is_going_away() -> None:
    async def script(lab: Lab) -> Any:
        below, driver = await loaded(lab, "D", {})
        file = await lab.app.open(r"\\.\D")

        async def unload() -> None:
            await driver.unload()

        stopping = lab.start("sc stop", unload())
        while not driver.driver_object.image.unload_pending:
            await lab.step("wait for the stop")
        late = Device("F", {}, over=below.device)
        await lab.load(late)
        opened, _ = await lab.app.create(r"\\.\D")
        # What is outstanding may finish.
        status, _ = await file.read(4)
        await file.close()
        await stopping.join()
        return late.below, opened, status

    one = run(script, __import__("kemu.explore", fromlist=["RandomWalk"]).RandomWalk(1))
    assert one.result == (None, STATUS_NO_SUCH_DEVICE, STATUS_INVALID_DEVICE_REQUEST)


@pytest.mark.rule("KE-REF-05")
@pytest.mark.parametrize("which", ["upper", "lower", "none"])
def test_a_device_is_deleted_when_it_is_part_of_no_stack(which: str) -> None:
    async def script(lab: Lab) -> Any:
        below = await device(lab, "D", {})
        above = await device(lab, "F", {}, over=below.device)
        if which == "none":
            await IoDetachDevice(below.device)
        await IoDeleteDevice(below.device if which == "lower" else above.device)

    one = run(script)
    if which == "none":
        assert one.code is None
    else:
        assert (one.code, stop_of(one)) == ("ke.device-attached", (DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x201))


@pytest.mark.rule("KE-REF-05")
def test_a_device_is_deleted_once_and_detached_once() -> None:
    async def twice(lab: Lab) -> Any:
        one = await device(lab, "D", {})
        await lab.app.open(r"\\.\D")
        # With a file open it lingers: this is not yet a use of freed memory.
        await IoDeleteDevice(one.device)
        await IoDeleteDevice(one.device)

    async def detaches(lab: Lab) -> Any:
        await IoDetachDevice((await device(lab, "D", {})).device)

    one, other = run(twice), run(detaches)
    assert (one.code, stop_of(one)) == ("ke.device-double-delete", (DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x240))
    assert (other.code, stop_of(other)) == ("ke.device-double-detach", (DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x202))


@pytest.mark.rule("KE-REF-05")
def test_a_deleted_device_lingers_until_the_last_file_is_closed() -> None:
    async def script(lab: Lab) -> Any:
        first = await device(lab, "D", {IRP_MJ_READ: succeed}, extension=sizeof(EXTENSION))
        driver = first.object
        assert driver is not None
        _, second = await IoCreateDevice(driver, 0, None, FILE_DEVICE_UNKNOWN, 0, False)
        _, third = await IoCreateDevice(driver, 0, None, FILE_DEVICE_UNKNOWN, 0, False)
        assert second is not None
        file = await lab.app.open(r"\\.\D")
        await IoDeleteDevice(first.device)
        await IoDeleteDevice(second)
        assert driver.DeviceObject is third
        opened, _ = await lab.app.create(r"\\.\D")
        read, _ = await file.read(4)
        before = first.device.gone
        await file.close()
        return opened, read, before, first.device.gone

    assert run(script).result == (STATUS_OBJECT_NAME_NOT_FOUND, STATUS_SUCCESS, False, True)


# Shutdown.


@pytest.mark.rule("KE-UNLOAD-01")
def test_a_shutdown_tells_the_devices_that_asked_for_it_and_unloads_nobody() -> None:
    async def script(lab: Lab) -> Any:
        made: list[Device] = []
        for name in ("one", "two", "three"):

            async def shutdown(device: DEVICE_OBJECT, irp: IRP, name: str = name) -> int:
                lab.note(name)
                return await complete(irp)

            async def unloaded() -> None:
                raise AssertionError

            one = await device(lab, name, {IRP_MJ_SHUTDOWN: shutdown})
            one.on_unload = unloaded
            assert await IoRegisterShutdownNotification(one.device) == STATUS_SUCCESS
            made.append(one)
        await IoUnregisterShutdownNotification(made[1].device)
        await lab.shutdown()

    one = run(script)
    assert (one.code, one.order) == (None, ["three", "one"])


def test_a_deleted_device_is_not_told_of_a_shutdown() -> None:
    async def script(lab: Lab) -> Any:
        one, driver = await loaded(lab, "D", {})
        await IoRegisterShutdownNotification(one.device)
        await driver.unload()
        await lab.shutdown()
        return lab.system.get(Devices).shutdown

    assert run(script).result == []


def test_a_lock_in_an_extension_works() -> None:
    async def script(lab: Lab) -> Any:
        one = await device(lab, "D", {}, extension=sizeof(EXTENSION))
        extension: EXTENSION = one.device.DeviceExtension
        KeInitializeSpinLock(extension.Lock)
        await KeReleaseSpinLock(extension.Lock, await KeAcquireSpinLock(extension.Lock))

    assert run(script).code is None
