"""IRPs that drivers make (KE-IRP-10, KE-IRP-11, KE-IRP-05)."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, Run, all_runs, codes, run
from io_kit import Dispatch, complete, device, loaded, spawn, succeed

from kemu.io.device import DEVICE_OBJECT
from kemu.io.irp import IRP
from kemu.io.irp_made import Irps
from kemu.nt.bugcheck import DRIVER_VERIFIER_DETECTED_VIOLATION, DRIVER_VERIFIER_IOMANAGER_VIOLATION
from kemu.wdk.ntstatus import (
    STATUS_CANCELLED,
    STATUS_END_OF_FILE,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_MORE_PROCESSING_REQUIRED,
    STATUS_PENDING,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    CTL_CODE,
    DO_BUFFERED_IO,
    DO_DIRECT_IO,
    IO_STATUS_BLOCK,
    IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_FLUSH_BUFFERS,
    IRP_MJ_INTERNAL_DEVICE_CONTROL,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
    KEVENT,
    METHOD_BUFFERED,
    METHOD_OUT_DIRECT,
    NT_SUCCESS,
    POOL_FLAG_NON_PAGED,
    ExAllocatePool2,
    Executive,
    ExFreePool,
    ExFreePoolWithTag,
    IoAllocateIrp,
    IoBuildAsynchronousFsdRequest,
    IoBuildDeviceIoControlRequest,
    IoBuildSynchronousFsdRequest,
    IoCallDriver,
    IoFreeIrp,
    IoGetCurrentIrpStackLocation,
    IoGetNextIrpStackLocation,
    IoMarkIrpPending,
    IoReleaseCancelSpinLock,
    IoReuseIrp,
    IoSetCancelRoutine,
    IoSetCompletionRoutine,
    IoSetCompletionRoutineEx,
    KeInitializeEvent,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
    NotificationEvent,
    Structure,
    sizeof,
)


def stop_of(one: Run) -> tuple[int, int] | None:
    """Code and first parameter of the stop with Driver Verifier."""
    stop = one.finding.verifier
    return None if stop is None else (stop.code, stop.parameters[0])


async def pends(device: DEVICE_OBJECT, irp: IRP) -> int:
    """Completed by a thread of its own."""

    async def later() -> None:
        await complete(irp)

    await IoMarkIrpPending(irp)
    spawn("later", later())
    return STATUS_PENDING


def event(label: str = "done") -> KEVENT:
    made = KEVENT(label)
    KeInitializeEvent(made, NotificationEvent, False)
    return made


async def wait(waited: KEVENT) -> None:
    _ = await KeWaitForSingleObject(waited, Executive, KernelMode, False, None)


async def using(lab: Lab, lower: Dispatch, use: Any, **options: Any) -> Any:
    """A driver that does *use* with the device below in a read of its own, and the program that reads."""
    below = await device(lab, "D", dict.fromkeys(range(3, 16), lower), **options)

    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        await use(below.device)
        return await complete(irp)

    await device(lab, "E", {IRP_MJ_READ: read})
    return (await (await lab.app.open(r"\\.\E")).read(4))[0]


def keeps(done: KEVENT | None = None) -> Any:
    async def completed(device: Any, irp: IRP, context: Any) -> int:
        if done is not None:
            await KeSetEvent(done, 0, False)
        return STATUS_MORE_PROCESSING_REQUIRED

    return completed


async def own(size: int = 1) -> IRP:
    """An IRP of the driver's own, for a read."""
    irp = await IoAllocateIrp(size, False)
    assert irp is not None
    IoGetNextIrpStackLocation(irp).MajorFunction = IRP_MJ_READ
    return irp


@pytest.mark.rule("KE-IRP-10")
@pytest.mark.parametrize("lower", [succeed, pends])
def test_a_driver_sends_waits_for_and_frees_an_irp_of_its_own(lower: Any) -> None:
    async def script(lab: Lab) -> Any:
        async def use(below: DEVICE_OBJECT) -> None:
            irp = await own()
            done = event()
            IoSetCompletionRoutine(irp, keeps(done), None, True, True, True)
            if await IoCallDriver(below, irp) == STATUS_PENDING:
                await wait(done)
            assert NT_SUCCESS(irp.IoStatus.Status)
            await IoFreeIrp(irp)
            assert not lab.system.get(Irps).made

        return await using(lab, lower, use)

    runs = all_runs(script, bound=1)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {STATUS_SUCCESS}


@pytest.mark.rule("KE-IRP-10")
def test_an_irp_may_be_freed_in_its_completion_routine() -> None:
    async def script(lab: Lab) -> Any:
        async def use(below: DEVICE_OBJECT) -> None:
            async def completed(device: Any, irp: IRP, context: Any) -> int:
                assert device is None
                await IoFreeIrp(irp)
                return STATUS_MORE_PROCESSING_REQUIRED

            irp = await own()
            IoSetCompletionRoutine(irp, completed, None, True, True, True)
            await IoCallDriver(below, irp)

        return await using(lab, pends, use)

    assert codes(all_runs(script, bound=1)) == {None}


@pytest.mark.rule("KE-IRP-10")
def test_a_routine_that_frees_an_irp_does_not_let_its_completion_go_on() -> None:
    async def script(lab: Lab) -> Any:
        async def use(below: DEVICE_OBJECT) -> None:
            async def completed(device: Any, irp: IRP, context: Any) -> int:
                await IoFreeIrp(irp)
                return STATUS_SUCCESS

            irp = await own()
            IoSetCompletionRoutine(irp, completed, None, True, True, True)
            await IoCallDriver(below, irp)

        return await using(lab, succeed, use)

    assert run(script).code == "ke.use-after-free"


@pytest.mark.rule("KE-IRP-10")
def test_an_irp_that_the_driver_frees_does_not_go_back_to_the_io_manager() -> None:
    async def script(lab: Lab) -> Any:
        async def use(below: DEVICE_OBJECT) -> None:
            await IoCallDriver(below, await own())

        return await using(lab, succeed, use)

    assert run(script).code == "ke.own-irp-completed"


@pytest.mark.rule("KE-IRP-10")
@pytest.mark.parametrize("what", ["twice", "in use", "foreign", "synchronous", "cancellable"])
def test_an_irp_is_freed_by_its_maker_once_and_not_while_it_is_in_use(what: str) -> None:
    async def script(lab: Lab) -> Any:
        async def use(below: DEVICE_OBJECT) -> None:
            if what == "synchronous":
                built = await IoBuildSynchronousFsdRequest(
                    IRP_MJ_FLUSH_BUFFERS, below, None, None, None, event(), IO_STATUS_BLOCK()
                )
                assert built is not None
                await IoFreeIrp(built)
                return
            irp = await own()
            if what == "cancellable":

                async def cancel(device: Any, irp: IRP) -> None:
                    raise AssertionError

                await IoSetCancelRoutine(irp, cancel)
            if what == "in use":
                IoSetCompletionRoutine(irp, keeps(), None, True, True, True)
                await IoCallDriver(below, irp)
            await IoFreeIrp(irp)
            if what == "twice":
                await IoFreeIrp(irp)

        async def lower(device: DEVICE_OBJECT, irp: IRP) -> int:
            if what == "foreign":
                await IoFreeIrp(irp)
            return await pends(device, irp)

        if what == "foreign":
            await device(lab, "D", {IRP_MJ_READ: lower})
            return await (await lab.app.open(r"\\.\D")).read(4)
        return await using(lab, pends, use)

    one = run(script)
    expected = {
        "twice": ("ke.use-after-free", 0x01),
        "in use": ("ke.irp-freed-in-use", 0x20A),
        "foreign": ("ke.irp-freed-in-use", 0x20B),
        "synchronous": ("ke.irp-freed-in-use", 0x20B),
        "cancellable": ("ke.irp-freed-in-use", 0x20C),
    }
    code, parameter = expected[what]
    assert (one.code, stop_of(one)) == (code, (DRIVER_VERIFIER_IOMANAGER_VIOLATION, parameter))


@pytest.mark.rule("KE-IRP-10", "KE-UNLOAD-03")
@pytest.mark.parametrize("frees", [True, False])
def test_a_driver_frees_its_irps_before_it_is_unloaded(frees: bool) -> None:
    async def script(lab: Lab) -> Any:
        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            made = await own()
            if frees:
                await IoFreeIrp(made)
            return await complete(irp)

        _, driver = await loaded(lab, "D", {IRP_MJ_READ: read})
        file = await lab.app.open(r"\\.\D")
        await file.read(4)
        await file.close()
        return await driver.unload()

    one = run(script)
    assert one.code == (None if frees else "ke.irp-leak")


@pytest.mark.rule("KE-IRP-05")
def test_a_driver_does_not_mark_an_irp_pending_that_it_has_made() -> None:
    async def script(lab: Lab) -> Any:
        async def use(below: DEVICE_OBJECT) -> None:
            async def completed(device: Any, irp: IRP, context: Any) -> int:
                if irp.PendingReturned:
                    await IoMarkIrpPending(irp)
                return STATUS_MORE_PROCESSING_REQUIRED

            irp = await own()
            IoSetCompletionRoutine(irp, completed, None, True, True, True)
            await IoCallDriver(below, irp)

        return await using(lab, pends, use)

    assert codes(all_runs(script, bound=1)) == {"ke.mark-own-irp"}


@pytest.mark.rule("KE-IRP-10")
@pytest.mark.parametrize("again", [True, False])
def test_an_irp_may_be_used_again_once_it_is_back(again: bool) -> None:
    async def script(lab: Lab) -> Any:
        async def use(below: DEVICE_OBJECT) -> None:
            irp = await own()
            done = event()
            IoSetCompletionRoutine(irp, keeps(done), None, True, True, True)
            await IoCallDriver(below, irp)
            if again:
                await wait(done)
            IoReuseIrp(irp, STATUS_END_OF_FILE)
            assert irp.IoStatus.Status == STATUS_END_OF_FILE
            IoGetNextIrpStackLocation(irp).MajorFunction = IRP_MJ_READ
            once_more = event()
            IoSetCompletionRoutine(irp, keeps(once_more), None, True, True, True)
            await IoCallDriver(below, irp)
            await wait(once_more)
            assert irp.IoStatus.Status == STATUS_SUCCESS
            await IoFreeIrp(irp)

        return await using(lab, pends, use)

    found = all_runs(script, bound=1)
    assert codes(found) == ({None} if again else {None, "ke.irp-reused-in-use"})
    if not again:
        failed = next(one for one in found if one.code is not None)
        assert stop_of(failed) == (DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x310)


def test_a_free_irp_is_not_used_again() -> None:
    async def script(lab: Lab) -> Any:
        async def use(below: DEVICE_OBJECT) -> None:
            irp = await own()
            await IoFreeIrp(irp)
            IoReuseIrp(irp, STATUS_SUCCESS)

        return await using(lab, succeed, use)

    assert run(script).code == "ke.use-after-free"


def test_an_irp_is_not_freed_as_pool() -> None:
    async def script(lab: Lab) -> Any:
        async def use(_: Any) -> Any:
            await ExFreePoolWithTag(await IoAllocateIrp(1, False), "Irp ")

        return await using(lab, succeed, use)

    one = run(script)
    assert one.code == "ke.freed-elsewhere"
    assert one.finding.verifier is not None
    assert (one.finding.verifier.code, one.finding.verifier.parameters[0]) == (
        DRIVER_VERIFIER_DETECTED_VIOLATION,
        0x105,
    )


def test_an_irp_has_a_stack_location_at_least() -> None:
    async def script(lab: Lab) -> Any:
        await IoAllocateIrp(0, False)

    assert run(script).code == "ke.irp-no-location"


# Built requests.


@pytest.mark.rule("KE-IRP-10")
@pytest.mark.parametrize("lower", [succeed, pends])
@pytest.mark.parametrize("flags", [DO_BUFFERED_IO, DO_DIRECT_IO, 0])
def test_a_synchronous_request_fills_the_status_block_and_the_buffer_and_sets_the_event(lower: Any, flags: int) -> None:
    async def script(lab: Lab) -> Any:
        async def reads(device: DEVICE_OBJECT, irp: IRP) -> int:
            location = IoGetCurrentIrpStackLocation(irp)
            assert (location.Parameters.Length, location.Parameters.ByteOffset) == (4, 7)
            mdl = irp.MdlAddress
            buffer = irp.AssociatedIrp.SystemBuffer if flags == DO_BUFFERED_IO else irp.UserBuffer
            (mdl.buffer if mdl is not None else buffer)[:3] = b"abc"
            irp.IoStatus.Information = 3
            if lower is succeed:
                return await complete(irp, STATUS_SUCCESS, 3)

            async def later() -> None:
                await complete(irp, STATUS_SUCCESS, 3)

            await IoMarkIrpPending(irp)
            spawn("later", later())
            return STATUS_PENDING

        async def use(below: DEVICE_OBJECT) -> None:
            block, done, buffer = IO_STATUS_BLOCK(), event(), bytearray(4)
            irp = await IoBuildSynchronousFsdRequest(IRP_MJ_READ, below, buffer, 4, 7, done, block)
            assert irp is not None
            status = await IoCallDriver(below, irp)
            if status == STATUS_PENDING:
                await wait(done)
                status = block.Status
            assert (status, block.Status, block.Information, bytes(buffer)) == (0, 0, 3, b"abc\0")

        return await using(lab, reads, use, flags=flags)

    runs = all_runs(script, bound=1)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {STATUS_SUCCESS}


class ISSUER(Structure):
    Done: KEVENT


@pytest.mark.rule("KE-EVENT-07")
@pytest.mark.parametrize("waits", [True, False])
def test_the_event_of_a_request_outlives_it(waits: bool) -> None:
    async def script(lab: Lab) -> Any:
        async def use(below: DEVICE_OBJECT) -> None:
            issuer: ISSUER = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(ISSUER), "Test")
            KeInitializeEvent(issuer.Done, NotificationEvent, False)
            block = IO_STATUS_BLOCK()
            irp = await IoBuildSynchronousFsdRequest(IRP_MJ_FLUSH_BUFFERS, below, None, None, None, issuer.Done, block)
            assert irp is not None
            assert await IoCallDriver(below, irp) == STATUS_PENDING
            if waits:
                await wait(issuer.Done)
            await ExFreePool(issuer)

        return await using(lab, pends, use)

    runs = all_runs(script, bound=1)
    assert codes(runs) == ({None} if waits else {None, "ke.use-after-free"})
    late = [one for one in runs if one.code and " sets ISSUER.Done, in an ISSUER of 24 bytes" in one.finding.detail]
    assert bool(late) is not waits


def test_a_synchronous_write_carries_its_data() -> None:
    async def script(lab: Lab) -> Any:
        async def write(device: DEVICE_OBJECT, irp: IRP) -> int:
            lab.note(bytes(irp.AssociatedIrp.SystemBuffer).decode())
            return await complete(irp)

        async def use(below: DEVICE_OBJECT) -> None:
            data = bytearray(b"wxyz")
            irp = await IoBuildSynchronousFsdRequest(IRP_MJ_WRITE, below, data, 2, 0, event(), IO_STATUS_BLOCK())
            assert irp is not None
            await IoCallDriver(below, irp)

        return await using(lab, write, use, flags=DO_BUFFERED_IO)

    assert run(script).order == ["wx"]


@pytest.mark.parametrize("internal", [True, False])
@pytest.mark.parametrize("method", [METHOD_BUFFERED, METHOD_OUT_DIRECT])
def test_a_device_control_can_be_built(internal: bool, method: int) -> None:
    code = CTL_CODE(0x22, 0x801, method, 0)

    async def script(lab: Lab) -> Any:
        async def control(device: DEVICE_OBJECT, irp: IRP) -> int:
            location = IoGetCurrentIrpStackLocation(irp)
            assert location.MajorFunction == (IRP_MJ_INTERNAL_DEVICE_CONTROL if internal else IRP_MJ_DEVICE_CONTROL)
            given = bytes(irp.AssociatedIrp.SystemBuffer[:2])
            target = irp.MdlAddress.buffer if irp.MdlAddress is not None else irp.AssociatedIrp.SystemBuffer
            target[:4] = given * 2
            return await complete(irp, STATUS_SUCCESS, 4)

        async def use(below: DEVICE_OBJECT) -> None:
            block, output = IO_STATUS_BLOCK(), bytearray(8)
            irp = await IoBuildDeviceIoControlRequest(code, below, b"abc", 2, output, 8, internal, None, block)
            assert irp is not None
            await IoCallDriver(below, irp)
            assert (block.Status, block.Information, bytes(output[:4])) == (STATUS_SUCCESS, 4, b"abab")

        return await using(lab, control, use)

    assert run(script).result == STATUS_SUCCESS


@pytest.mark.rule("KE-IRP-10")
def test_an_asynchronous_request_is_the_drivers_to_free() -> None:
    async def script(lab: Lab) -> Any:
        async def use(below: DEVICE_OBJECT) -> None:
            async def completed(device: Any, irp: IRP, context: Any) -> int:
                await IoFreeIrp(irp)
                return STATUS_MORE_PROCESSING_REQUIRED

            irp = await IoBuildAsynchronousFsdRequest(IRP_MJ_FLUSH_BUFFERS, below, None, None, None, None)
            assert irp is not None
            IoSetCompletionRoutine(irp, completed, None, True, True, True)
            await IoCallDriver(below, irp)

        return await using(lab, pends, use)

    assert codes(all_runs(script, bound=1)) == {None}


@pytest.mark.rule("KE-IRP-10")
@pytest.mark.parametrize("is_program", [True, False])
def test_a_program_thread_that_exits_cancels_the_synchronous_requests_that_it_has_made(is_program: bool) -> None:
    async def script(lab: Lab) -> Any:
        async def cancel(device: DEVICE_OBJECT, irp: IRP) -> None:
            await IoReleaseCancelSpinLock(irp.CancelIrql)
            await complete(irp, STATUS_CANCELLED)

        async def holds(device: DEVICE_OBJECT, irp: IRP) -> int:
            await IoMarkIrpPending(irp)
            await IoSetCancelRoutine(irp, cancel)
            return STATUS_PENDING

        block = IO_STATUS_BLOCK(STATUS_PENDING)

        async def use(below: DEVICE_OBJECT) -> None:
            irp = await IoBuildSynchronousFsdRequest(IRP_MJ_FLUSH_BUFFERS, below, None, None, None, event(), block)
            assert irp is not None
            await IoCallDriver(below, irp)

        # The script's own thread has no end that anybody sees.
        await lab.start("program", using(lab, holds, use), lab.app if is_program else None).join()
        return block.Status

    assert run(script).result == (STATUS_CANCELLED if is_program else STATUS_PENDING)


# Completion routines and unloading, low resources.


@pytest.mark.rule("KE-IRP-11")
@pytest.mark.parametrize("looks", [True, False])
def test_the_status_of_setting_a_routine_that_keeps_the_driver_is_looked_at(looks: bool) -> None:
    async def script(lab: Lab) -> Any:
        below = await device(lab, "D", {IRP_MJ_READ: succeed})

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            made = await IoAllocateIrp(1, False)
            if made is None:
                return await complete(irp, STATUS_INSUFFICIENT_RESOURCES)
            IoGetNextIrpStackLocation(made).MajorFunction = IRP_MJ_READ
            status = await IoSetCompletionRoutineEx(device, made, keeps(), None, True, True, True)
            if NT_SUCCESS(status) or not looks:
                await IoCallDriver(below.device, made)
            await IoFreeIrp(made)
            return await complete(irp, status)

        await device(lab, "E", {IRP_MJ_READ: read})
        return (await (await lab.app.open(r"\\.\E")).read(4))[0]

    runs = all_runs(script, bound=1, low_resources=True)
    found = [one for one in runs if one.code is not None]
    assert codes(runs) == ({None} if looks else {None, "ke.completion-ex-unchecked"})
    for one in found:
        assert stop_of(one) == (DRIVER_VERIFIER_DETECTED_VIOLATION, 0x0004100F)


def test_making_irps_may_fail() -> None:
    async def script(lab: Lab) -> Any:
        made: list[Any] = []

        async def use(below: DEVICE_OBJECT) -> None:
            block = IO_STATUS_BLOCK()
            made.append(await IoAllocateIrp(1, False))
            made.append(await IoBuildSynchronousFsdRequest(9, below, None, None, None, event(), block))
            made.append(await IoBuildAsynchronousFsdRequest(9, below, None, None, None, None))
            made.append(await IoBuildDeviceIoControlRequest(0, below, None, 0, None, 0, False, None, block))

        await using(lab, succeed, use)
        return [one is None for one in made]

    runs = all_runs(script, bound=1, low_resources=True)
    results = [one.result for one in runs]
    assert all([index == failing for index in range(4)] in results for failing in range(4))
