"""IRPs: what a dispatch routine owes, completion routines, stack locations (KE-IRP, KE-ORD-03)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Run, all_runs, codes, orders, run
from io_kit import CODE, Device, complete, device, spawn, succeed

from kemu.io.device import DEVICE_OBJECT
from kemu.io.irp import IRP
from kemu.nt.bugcheck import (
    CANCEL_STATE_IN_COMPLETED_IRP,
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    DRIVER_VERIFIER_IOMANAGER_VIOLATION,
    MULTIPLE_IRP_COMPLETE_REQUESTS,
    NO_MORE_IRP_STACK_LOCATIONS,
    PAGE_FAULT_IN_FREED_SPECIAL_POOL,
    PAGE_FAULT_IN_NONPAGED_AREA,
)
from kemu.nt.kthread import DISPATCH_LEVEL, HIGH_LEVEL, current_kthread
from kemu.wdk.ntddk import IoForwardIrpSynchronously, KeEnterCriticalRegion
from kemu.wdk.ntstatus import (
    STATUS_CANCELLED,
    STATUS_END_OF_FILE,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_MORE_PROCESSING_REQUIRED,
    STATUS_PENDING,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    CTL_CODE,
    DO_BUFFERED_IO,
    DO_DIRECT_IO,
    IO_NO_INCREMENT,
    IRP_MJ_CREATE,
    IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_FLUSH_BUFFERS,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
    KEVENT,
    KSPIN_LOCK,
    METHOD_BUFFERED,
    METHOD_IN_DIRECT,
    METHOD_NEITHER,
    METHOD_OUT_DIRECT,
    Executive,
    IoCallDriver,
    IoCompleteRequest,
    IoCopyCurrentIrpStackLocationToNext,
    IofCallDriver,
    IofCompleteRequest,
    IoGetCurrentIrpStackLocation,
    IoGetNextIrpStackLocation,
    IoMarkIrpPending,
    IoSetCancelRoutine,
    IoSetCompletionRoutine,
    IoSetNextIrpStackLocation,
    IoSkipCurrentIrpStackLocation,
    KeAcquireSpinLock,
    KeInitializeEvent,
    KeInitializeSpinLock,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
    MmGetSystemAddressForMdlSafe,
    NotificationEvent,
)

Dispatch = Callable[[DEVICE_OBJECT, IRP], Awaitable[int]]


def reading(read: Dispatch, **options: Any) -> Run:
    """The plain run of a program that reads from a device."""
    return run(reads(read), **options)


def reads(read: Dispatch) -> Callable[[Lab], Any]:
    """A script in which a program reads from a device."""

    async def script(lab: Lab) -> Any:
        await device(lab, "D", {IRP_MJ_READ: read})
        file = await lab.app.open(r"\\.\D")
        return (await file.read(4))[0]

    return script


def stacked(lab: Lab, upper: Callable[[Device], Dispatch], lower: Dispatch) -> Any:
    """A filter over a device, both for reads; the coroutine of one read."""

    async def script() -> Any:
        below = await device(lab, "D", {IRP_MJ_READ: lower})
        above = Device("F", {}, over=below.device)
        above.dispatch[IRP_MJ_READ] = upper(above)
        for major in (IRP_MJ_CREATE,):
            above.dispatch[major] = passes(above)
        await lab.load(above)
        file = await lab.app.open(r"\\.\D")
        return (await file.read(4))[0]

    return script()


def passes(driver: Device) -> Dispatch:
    """A dispatch routine that lets the driver below do it."""

    async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
        IoSkipCurrentIrpStackLocation(irp)
        return await IoCallDriver(driver.lower, irp)

    return dispatch


def pends(work: Callable[[IRP], Awaitable[None]] | None = None) -> Dispatch:
    """A dispatch routine that has the IRP completed by a thread of its own."""

    async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
        async def later() -> None:
            await (complete(irp) if work is None else work(irp))

        await IoMarkIrpPending(irp)
        spawn("later", later())
        return STATUS_PENDING

    return dispatch


def stop_of(one: Run) -> tuple[int, int] | None:
    """Code and first parameter of the stop with Driver Verifier."""
    stop = one.finding.verifier
    return None if stop is None else (stop.code, stop.parameters[0])


# One completion, and nothing after it.


@pytest.mark.rule("KE-IRP-01", "KE-IRP-02")
def test_an_irp_that_is_completed_once_is_all_there_is_to_it() -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        return await complete(irp, STATUS_END_OF_FILE)

    one = reading(read)
    assert (one.code, one.result) == (None, STATUS_END_OF_FILE)


@pytest.mark.rule("KE-IRP-01")
@pytest.mark.parametrize("again", [IoCompleteRequest, IofCompleteRequest])
def test_a_second_completion_is_a_bug_check(again: Any) -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        status = await complete(irp)
        await again(irp, IO_NO_INCREMENT)
        return status

    one = reading(read)
    assert one.code == "ke.irp-double-complete"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == MULTIPLE_IRP_COMPLETE_REQUESTS
    assert one.finding.bug_check.parameters[0] != 0


def look_at_status(irp: IRP) -> Any:
    return irp.IoStatus.Status


def change_status(irp: IRP) -> Any:
    irp.IoStatus.Status = STATUS_SUCCESS


def look_at_location(irp: IRP) -> Any:
    return IoGetCurrentIrpStackLocation(irp)


def look_at_links(irp: IRP) -> Any:
    return irp.Tail.Overlay.ListEntry


@pytest.mark.rule("KE-IRP-01")
@pytest.mark.parametrize("touch", [look_at_status, change_status, look_at_location, look_at_links])
def test_an_irp_is_not_touched_after_its_completion(touch: Callable[[IRP], Any]) -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        status = await complete(irp)
        touch(irp)
        return status

    one = reading(read)
    assert one.code == "ke.irp-after-completion"
    assert one.finding.bug_check is not None
    assert one.finding.verifier is not None
    assert one.finding.bug_check.code == PAGE_FAULT_IN_NONPAGED_AREA
    assert one.finding.verifier.code == PAGE_FAULT_IN_FREED_SPECIAL_POOL


@pytest.mark.rule("KE-IRP-01")
def test_two_threads_that_complete_one_irp_are_found_whoever_is_first() -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        async def finish() -> None:
            await complete(irp)

        await IoMarkIrpPending(irp)
        spawn("one", finish())
        spawn("two", finish())
        return STATUS_PENDING

    assert codes(all_runs(reads(read), bound=1)) == {"ke.irp-double-complete"}


# What a dispatch routine returns.


@pytest.mark.rule("KE-IRP-02")
def test_a_dispatch_routine_does_something_with_its_irp() -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        return STATUS_SUCCESS

    one = reading(read)
    assert (one.code, stop_of(one)) == ("ke.irp-not-handled", (DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x226))


@pytest.mark.rule("KE-IRP-02")
def test_a_dispatch_routine_returns_the_status_that_it_completed_with() -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        await complete(irp, STATUS_END_OF_FILE)
        return STATUS_SUCCESS

    one = reading(read)
    assert (one.code, stop_of(one)) == ("ke.irp-status-mismatch", (DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x224))


@pytest.mark.rule("KE-IRP-02")
@pytest.mark.parametrize("value", [-1, 0xFFFFFFFF])
def test_a_dispatch_routine_does_not_return_minus_one(value: int) -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        await complete(irp)
        return value

    one = reading(read)
    assert (one.code, stop_of(one)) == ("ke.irp-bad-status", (DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x225))


@pytest.mark.rule("KE-IRP-02")
def test_a_request_that_the_driver_has_no_routine_for_is_completed_for_it() -> None:
    async def script(lab: Lab) -> Any:
        await device(lab, "D", {})
        return (await (await lab.app.open(r"\\.\D")).read(4))[0]

    one = run(script)
    assert (one.code, one.result) == (None, STATUS_INVALID_DEVICE_REQUEST)


@pytest.mark.rule("KE-IRP-03")
def test_an_irp_that_is_marked_pending_may_be_complete_when_status_pending_is_returned() -> None:
    runs = all_runs(reads(pends()))
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {STATUS_SUCCESS}

    async def at_once(device: DEVICE_OBJECT, irp: IRP) -> int:
        await IoMarkIrpPending(irp)
        await complete(irp)
        return STATUS_PENDING

    assert reading(at_once).code is None


@pytest.mark.rule("KE-IRP-03")
@pytest.mark.parametrize("completes", [True, False])
def test_status_pending_is_returned_only_for_an_irp_that_is_marked(completes: bool) -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        if completes:
            await complete(irp)
        return STATUS_PENDING

    one = reading(read)
    assert (one.code, stop_of(one)) == ("ke.pending-not-marked", (DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x23D))


@pytest.mark.rule("KE-IRP-03")
def test_for_an_irp_that_is_marked_nothing_but_status_pending_is_returned() -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        await IoMarkIrpPending(irp)
        return await complete(irp)

    one = reading(read)
    assert (one.code, stop_of(one)) == ("ke.pending-not-returned", (DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x23E))


@pytest.mark.rule("KE-IRP-04", "KE-RACE-14")
@pytest.mark.parametrize("first", [True, False])
def test_an_irp_is_marked_before_somebody_else_can_complete_it(first: bool) -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        async def later() -> None:
            await complete(irp)

        if first:
            await IoMarkIrpPending(irp)
        spawn("later", later())
        if not first:
            await IoMarkIrpPending(irp)
        return STATUS_PENDING

    assert codes(all_runs(reads(read), bound=None if first else 1)) == (
        {None} if first else {None, "ke.mark-after-queue"}
    )


@pytest.mark.rule("KE-IRP-04")
@pytest.mark.parametrize("first", [True, False])
def test_a_late_mark_is_a_race_even_if_it_comes_in_time(first: bool) -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        async def later() -> None:
            await complete(irp)

        if first:
            await IoMarkIrpPending(irp)
        spawn("later", later())
        if not first:
            await IoMarkIrpPending(irp)
        return STATUS_PENDING

    assert reading(read, races=True).code == (None if first else "hand-off-race")


# Completion routines.


def with_routine(
    routine: Callable[[Device], Callable[[Any, IRP, Any], Awaitable[int]]], *, marks: bool = False
) -> Callable[[Device], Dispatch]:
    """The dispatch routine of a filter that passes reads on with a completion routine."""

    def make(driver: Device) -> Dispatch:
        async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
            if marks:
                await IoMarkIrpPending(irp)
            IoCopyCurrentIrpStackLocationToNext(irp)
            IoSetCompletionRoutine(irp, routine(driver), "context", True, True, True)
            status = await IoCallDriver(driver.lower, irp)
            return STATUS_PENDING if marks else status

        return dispatch

    return make


@pytest.mark.rule("KE-IRP-05")
@pytest.mark.parametrize("propagates", [True, False])
def test_a_completion_routine_hands_the_pending_bit_on(propagates: bool) -> None:
    def routine(driver: Device) -> Any:
        async def completed(device: Any, irp: IRP, context: Any) -> int:
            if irp.PendingReturned and propagates:
                await IoMarkIrpPending(irp)
            return STATUS_SUCCESS

        return completed

    async def pending(lab: Lab) -> Any:
        return await stacked(lab, with_routine(routine), pends())

    async def inline(lab: Lab) -> Any:
        return await stacked(lab, with_routine(routine), succeed)

    assert codes(all_runs(inline, bound=1)) == {None}
    found = codes(all_runs(pending, bound=1))
    assert found == ({None} if propagates else {"ke.pending-not-propagated"})
    if not propagates:
        assert stop_of(run(pending)) == (DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x228)


@pytest.mark.rule("KE-IRP-05")
def test_without_a_completion_routine_the_io_manager_hands_the_pending_bit_on() -> None:
    def copies(driver: Device) -> Dispatch:
        async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
            IoCopyCurrentIrpStackLocationToNext(irp)
            return await IoCallDriver(driver.lower, irp)

        return dispatch

    async def script(lab: Lab) -> Any:
        return await stacked(lab, copies, pends())

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {STATUS_SUCCESS}


@pytest.mark.rule("KE-IRP-06", "KE-ORD-03")
def test_completion_routines_run_from_the_lowest_up_before_the_issuer_hears_of_it() -> None:
    def noting(lab: Lab, name: str) -> Callable[[Device], Any]:
        def routine(driver: Device) -> Any:
            async def completed(device: Any, irp: IRP, context: Any) -> int:
                lab.note(name, (device is driver.device, context))
                if irp.PendingReturned:
                    await IoMarkIrpPending(irp)
                # Anything but STATUS_MORE_PROCESSING_REQUIRED is the same.
                return STATUS_END_OF_FILE

            return completed

        return routine

    async def script(lab: Lab) -> Any:
        async def bottom(device: DEVICE_OBJECT, irp: IRP) -> int:
            lab.note("dispatch")
            return await pends()(device, irp)

        below = await device(lab, "D", {IRP_MJ_READ: bottom})
        for name in ("low", "high"):
            above = Device(name, {}, over=below.device)
            above.dispatch[IRP_MJ_READ] = with_routine(noting(lab, name))(above)
            above.dispatch[IRP_MJ_CREATE] = passes(above)
            await lab.load(above)
        file = await lab.app.open(r"\\.\D")
        status, _ = await file.read(4)
        lab.note("seen")
        return status

    runs = all_runs(script, bound=1)
    assert orders(runs) == {("dispatch", "low", "high", "seen")}
    assert {one.result for one in runs} == {STATUS_SUCCESS}
    assert all(one.note("low").value == (True, "context") for one in runs)


@pytest.mark.rule("KE-IRP-06")
def test_more_processing_required_keeps_the_irp_until_it_is_completed_again() -> None:
    def waits(driver: Device) -> Dispatch:
        async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
            event = KEVENT("done")
            KeInitializeEvent(event, NotificationEvent, False)

            async def completed(device: Any, irp: IRP, context: Any) -> int:
                await KeSetEvent(event, 0, False)
                return STATUS_MORE_PROCESSING_REQUIRED

            IoCopyCurrentIrpStackLocationToNext(irp)
            IoSetCompletionRoutine(irp, completed, None, True, True, True)
            if await IoCallDriver(driver.lower, irp) == STATUS_PENDING:
                _ = await KeWaitForSingleObject(event, Executive, KernelMode, False, None)
            return await complete(irp, STATUS_END_OF_FILE)

        return dispatch

    async def script(lab: Lab) -> Any:
        return await stacked(lab, waits, pends())

    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {STATUS_END_OF_FILE}


@pytest.mark.rule("KE-IRP-06")
def test_an_irp_that_a_completion_routine_has_kept_for_ever_is_found() -> None:
    def routine(driver: Device) -> Any:
        async def completed(device: Any, irp: IRP, context: Any) -> int:
            return STATUS_MORE_PROCESSING_REQUIRED

        return completed

    async def script(lab: Lab) -> Any:
        return await stacked(lab, with_routine(routine, marks=True), pends())

    assert codes(all_runs(script, bound=1)) == {"ke.irp-orphan"}


@pytest.mark.rule("KE-IRP-06")
def test_the_completion_may_go_on_before_the_routine_that_kept_the_irp_has_returned() -> None:
    def routine(driver: Device) -> Any:
        async def completed(device: Any, irp: IRP, context: Any) -> int:
            async def later() -> None:
                await complete(irp)

            spawn("resumes", later())
            event = KEVENT("pause")
            KeInitializeEvent(event, NotificationEvent, False)
            await KeSetEvent(event, 0, False)
            return STATUS_MORE_PROCESSING_REQUIRED

        return completed

    async def script(lab: Lab) -> Any:
        return await stacked(lab, with_routine(routine, marks=True), pends())

    runs = all_runs(script, bound=1)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {STATUS_SUCCESS}


@pytest.mark.rule("KE-IRP-01", "KE-IRP-06")
def test_a_routine_that_lets_go_of_what_goes_on_elsewhere_completes_it_twice() -> None:
    def routine(driver: Device) -> Any:
        async def completed(device: Any, irp: IRP, context: Any) -> int:
            await complete(irp)
            return STATUS_SUCCESS

        return completed

    async def script(lab: Lab) -> Any:
        return await stacked(lab, with_routine(routine, marks=True), pends())

    assert run(script).code == "ke.irp-double-complete"


@pytest.mark.parametrize(
    ("status", "success", "error", "cancel", "called"),
    [
        (STATUS_SUCCESS, True, False, False, True),
        (STATUS_SUCCESS, False, True, True, False),
        (STATUS_END_OF_FILE, False, True, False, True),
        (STATUS_END_OF_FILE, True, False, True, False),
        (STATUS_CANCELLED, True, False, True, False),
    ],
)
def test_a_completion_routine_is_called_for_what_it_was_set_for(
    status: int, success: bool, error: bool, cancel: bool, called: bool
) -> None:
    async def script(lab: Lab) -> Any:
        def upper(driver: Device) -> Dispatch:
            async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
                async def completed(device: Any, irp: IRP, context: Any) -> int:
                    lab.note("called")
                    return STATUS_SUCCESS

                IoCopyCurrentIrpStackLocationToNext(irp)
                IoSetCompletionRoutine(irp, completed, None, success, error, cancel)
                return await IoCallDriver(driver.lower, irp)

            return dispatch

        async def lower(device: DEVICE_OBJECT, irp: IRP) -> int:
            return await complete(irp, status)

        return await stacked(lab, upper, lower)

    assert (run(script).order == ["called"]) == called


# Completing.


@pytest.mark.rule("KE-IRP-07", "KE-CANCEL-03", "KE-CSQ-05")
def test_an_irp_is_not_completed_under_a_spin_lock() -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        lock = KSPIN_LOCK("Lock")
        KeInitializeSpinLock(lock)
        await KeAcquireSpinLock(lock)
        return await complete(irp)

    assert reading(read).code == "ke.spin-forbidden-call"


@pytest.mark.rule("KE-IRP-07")
@pytest.mark.parametrize("status", [STATUS_PENDING, 0xFFFFFFFF])
def test_an_irp_is_completed_with_a_final_status(status: int) -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        return await complete(irp, status)

    one = reading(read)
    assert (one.code, stop_of(one)) == ("ke.irp-complete-pending", (DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x06))


@pytest.mark.rule("KE-IRP-07")
@pytest.mark.parametrize("clears", [True, False])
def test_an_irp_is_not_completed_with_its_cancel_routine_set(clears: bool) -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        async def cancel(device: DEVICE_OBJECT, irp: IRP) -> None:
            raise AssertionError

        await IoSetCancelRoutine(irp, cancel)
        if clears:
            await IoSetCancelRoutine(irp, None)
        return await complete(irp)

    one = reading(read)
    if clears:
        assert one.code is None
        return
    assert (one.code, stop_of(one)) == ("ke.complete-with-cancel-routine", (DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x07))
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == CANCEL_STATE_IN_COMPLETED_IRP


@pytest.mark.rule("KE-IRP-07")
@pytest.mark.parametrize("count", [4, 5])
def test_an_irp_returns_no_more_bytes_than_its_buffer_has(count: int) -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        return await complete(irp, STATUS_SUCCESS, count)

    one = reading(read)
    assert one.code == (None if count == 4 else "ke.irp-information")
    if one.code is not None:
        assert stop_of(one) == (DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x312)


@pytest.mark.rule("KE-IRQL-14")
@pytest.mark.parametrize("irql", [DISPATCH_LEVEL, HIGH_LEVEL])
def test_an_irp_is_completed_at_dispatch_level_at_most(irql: int) -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        thread = current_kthread()
        irp.IoStatus.Status = STATUS_SUCCESS
        thread.irql = irql
        await IoCompleteRequest(irp, IO_NO_INCREMENT)
        thread.irql = 0
        return STATUS_SUCCESS

    assert reading(read).code == (None if irql == DISPATCH_LEVEL else "ke.irql")


# After IoCallDriver.


@pytest.mark.rule("KE-IRP-08", "KE-RACE-14")
@pytest.mark.parametrize("lower", [succeed, pends()])
def test_an_irp_that_was_passed_on_is_not_looked_at(lower: Dispatch) -> None:
    def upper(driver: Device) -> Dispatch:
        async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
            IoCopyCurrentIrpStackLocationToNext(irp)
            await IoCallDriver(driver.lower, irp)
            return irp.IoStatus.Status

        return dispatch

    async def script(lab: Lab) -> Any:
        return await stacked(lab, upper, lower)

    assert codes(all_runs(script, bound=1)) == {"ke.irp-after-call"}


@pytest.mark.rule("KE-IRP-08", "KE-RACE-14")
def test_an_irp_may_be_complete_before_iocalldriver_returns_status_pending() -> None:
    async def script(lab: Lab) -> Any:
        def upper(driver: Device) -> Dispatch:
            async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
                IoSkipCurrentIrpStackLocation(irp)
                status = await IofCallDriver(driver.lower, irp)
                lab.note("returned", status)
                return status

            return dispatch

        async def work(irp: IRP) -> None:
            lab.note("completed")
            await complete(irp)

        return await stacked(lab, upper, pends(work))

    runs = all_runs(script)
    assert {one.note("returned").value for one in runs} == {STATUS_PENDING}
    assert {one.before("completed", "returned") for one in runs} == {True, False}


@pytest.mark.rule("KE-IRP-08")
def test_a_completion_may_be_put_off_to_see_how_the_driver_above_takes_status_pending() -> None:
    def forgets(driver: Device) -> Dispatch:
        async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
            IoCopyCurrentIrpStackLocationToNext(irp)
            event = KEVENT("done")
            KeInitializeEvent(event, NotificationEvent, False)

            async def completed(device: Any, irp: IRP, context: Any) -> int:
                await KeSetEvent(event, 0, False)
                return STATUS_MORE_PROCESSING_REQUIRED

            IoSetCompletionRoutine(irp, completed, None, True, True, True)
            # It never waits: with the drivers it was tested with that was all right.
            await IoCallDriver(driver.lower, irp)
            return await complete(irp)

        return dispatch

    async def script(lab: Lab) -> Any:
        return await stacked(lab, forgets, succeed)

    async def repaired(lab: Lab) -> Any:
        return await stacked(lab, with_routine(hands_on), succeed)

    def hands_on(driver: Device) -> Any:
        async def completed(device: Any, irp: IRP, context: Any) -> int:
            if irp.PendingReturned:
                await IoMarkIrpPending(irp)
            return STATUS_SUCCESS

        return completed

    assert codes(all_runs(script, bound=1)) == {None}
    assert codes(all_runs(script, bound=1, force_pending=True)) == {None, "ke.irp-after-call"}
    assert codes(all_runs(repaired, bound=1, force_pending=True)) == {None}


# Stack locations.


@pytest.mark.rule("KE-IRP-09")
def test_each_driver_needs_a_stack_location() -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        IoGetNextIrpStackLocation(irp)
        return STATUS_SUCCESS

    async def copies(device: DEVICE_OBJECT, irp: IRP) -> int:
        IoCopyCurrentIrpStackLocationToNext(irp)
        return STATUS_SUCCESS

    async def passes_on(device: DEVICE_OBJECT, irp: IRP) -> int:
        return await IoCallDriver(device, irp)

    for routine in (read, copies, passes_on):
        one = reading(routine)
        assert one.code == "ke.irp-no-location"
        assert one.finding.bug_check is not None
        assert one.finding.bug_check.code == NO_MORE_IRP_STACK_LOCATIONS


@pytest.mark.rule("KE-IRP-09")
@pytest.mark.parametrize("how", ["nothing", "struct", "copy", "skip", "by hand"])
def test_the_next_stack_location_is_filled_in_as_it_should_be(how: str) -> None:
    def upper(driver: Device) -> Dispatch:
        async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
            async def completed(device: Any, irp: IRP, context: Any) -> int:
                return STATUS_SUCCESS

            if how == "struct":
                IoGetNextIrpStackLocation(irp).assign(IoGetCurrentIrpStackLocation(irp))
            elif how == "copy":
                IoCopyCurrentIrpStackLocationToNext(irp)
            elif how == "skip":
                IoSkipCurrentIrpStackLocation(irp)
            elif how == "by hand":
                following = IoGetNextIrpStackLocation(irp)
                following.MajorFunction = IRP_MJ_READ
                following.Parameters.Read.Length = 4
                IoSetCompletionRoutine(irp, completed, None, True, True, True)
            return await IoCallDriver(driver.lower, irp)

        return dispatch

    async def script(lab: Lab) -> Any:
        below = await device(lab, "D", {IRP_MJ_READ: succeed})
        for name, routine in (("low", upper), ("high", with_routine(quiet))):
            above = Device(name, {}, over=below.device)
            above.dispatch[IRP_MJ_READ] = routine(above)
            above.dispatch[IRP_MJ_CREATE] = passes(above)
            await lab.load(above)
        return (await (await lab.app.open(r"\\.\D")).read(4))[0]

    def quiet(driver: Device) -> Any:
        async def completed(device: Any, irp: IRP, context: Any) -> int:
            return STATUS_SUCCESS

        return completed

    one = run(script)
    wrong = {"nothing": ("ke.irp-stack-not-copied", 0x206), "struct": ("ke.irp-stack-copied-routine", 0x207)}
    if how in wrong:
        code, parameter = wrong[how]
        assert (one.code, stop_of(one)) == (code, (DRIVER_VERIFIER_IOMANAGER_VIOLATION, parameter))
    else:
        assert (one.code, one.result) == (None, STATUS_SUCCESS)


def test_a_driver_may_take_a_stack_location_of_its_own() -> None:
    from kemu.wdk.wdm import IoAllocateIrp, IoFreeIrp

    async def script(lab: Lab) -> Any:
        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            own = await IoAllocateIrp(2, False)
            assert own is not None
            IoSetNextIrpStackLocation(own)
            IoGetCurrentIrpStackLocation(own).Parameters.Others.Argument1 = "mine"
            lab.note(str(own.CurrentLocation))
            await IoFreeIrp(own)
            return await complete(irp)

        await device(lab, "D", {IRP_MJ_READ: read})
        return (await (await lab.app.open(r"\\.\D")).read(4))[0]

    assert run(script).order == ["2"]


# IRQL.


@pytest.mark.rule("KE-IRQL-13")
@pytest.mark.parametrize(
    ("major", "irql", "code"),
    [
        (IRP_MJ_READ, DISPATCH_LEVEL, None),
        (IRP_MJ_DEVICE_CONTROL, DISPATCH_LEVEL, None),
        (IRP_MJ_FLUSH_BUFFERS, DISPATCH_LEVEL, "ke.irql"),
        (IRP_MJ_FLUSH_BUFFERS, 0, None),
        (IRP_MJ_READ, HIGH_LEVEL, "ke.irql"),
    ],
)
def test_what_may_be_passed_on_depends_on_the_irql(major: int, irql: int, code: str | None) -> None:
    async def script(lab: Lab) -> Any:
        def upper(driver: Device) -> Dispatch:
            async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
                thread = current_kthread()
                IoCopyCurrentIrpStackLocationToNext(irp)
                IoGetNextIrpStackLocation(irp).MajorFunction = major
                thread.irql = irql
                status = await IoCallDriver(driver.lower, irp)
                thread.irql = 0
                return status

            return dispatch

        below = await device(lab, "D", {IRP_MJ_READ: succeed, major: succeed})
        above = Device("F", {}, over=below.device)
        above.dispatch[IRP_MJ_READ] = upper(above)
        above.dispatch[IRP_MJ_CREATE] = passes(above)
        await lab.load(above)
        return (await (await lab.app.open(r"\\.\D")).read(4))[0]

    one = run(script)
    assert one.code == code
    if code is not None and irql == DISPATCH_LEVEL:
        assert stop_of(one) == (DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x23A)


@pytest.mark.rule("KE-CTX-01", "KE-CTX-02")
@pytest.mark.parametrize(("where", "warned"), [("dispatch", False), ("completion", True), ("afterwards", False)])
def test_a_completion_routine_does_not_make_its_thread_wait(where: str, warned: bool) -> None:
    async def wait() -> None:
        event = KEVENT("event")
        KeInitializeEvent(event, NotificationEvent, True)
        await KeWaitForSingleObject(event)

    def upper(driver: Device) -> Dispatch:
        async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
            async def completed(device: Any, irp: IRP, context: Any) -> int:
                if where == "completion":
                    await wait()
                return STATUS_SUCCESS

            if where == "dispatch":
                await wait()
            IoCopyCurrentIrpStackLocationToNext(irp)
            IoSetCompletionRoutine(irp, completed, None, True, True, True)
            status = await IoCallDriver(driver.lower, irp)
            if where == "afterwards":
                await wait()
            return status

        return dispatch

    async def script(lab: Lab) -> Any:
        return await stacked(lab, upper, succeed)

    one = run(script)
    assert one.code is None
    assert one.warnings == (("ke.arbitrary-wait",) if warned else ())


@pytest.mark.rule("KE-IRQL-09")
@pytest.mark.parametrize("what", ["irql", "apc", "lock", "nothing"])
@pytest.mark.parametrize("where", ["dispatch", "completion"])
def test_a_routine_leaves_its_thread_as_it_was(what: str, where: str) -> None:
    async def change() -> None:
        if what == "irql":
            current_kthread().irql = DISPATCH_LEVEL
        elif what == "apc":
            KeEnterCriticalRegion()
        elif what == "lock":
            lock = KSPIN_LOCK("Lock")
            KeInitializeSpinLock(lock)
            await KeAcquireSpinLock(lock)
            current_kthread().irql = 0

    def upper(driver: Device) -> Dispatch:
        async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
            async def completed(device: Any, irp: IRP, context: Any) -> int:
                if where == "completion":
                    await change()
                return STATUS_SUCCESS

            IoCopyCurrentIrpStackLocationToNext(irp)
            IoSetCompletionRoutine(irp, completed, None, True, True, True)
            status = await IoCallDriver(driver.lower, irp)
            if where == "dispatch":
                await change()
            return status

        return dispatch

    async def script(lab: Lab) -> Any:
        return await stacked(lab, upper, succeed)

    one = run(script)
    if what == "nothing":
        assert one.code is None
        return
    assert one.code == "callback-dirty-exit"
    stop = one.finding.verifier
    if what == "lock":
        assert stop is None
        return
    assert stop is not None
    expected = {
        ("dispatch", "irql"): (DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x05, 0, 0, 2),
        ("completion", "irql"): (DRIVER_VERIFIER_DETECTED_VIOLATION, 0xFA, 0, 0, 2),
        ("dispatch", "apc"): (DRIVER_VERIFIER_DETECTED_VIOLATION, 0xC5, 0, 1, 0),
        ("completion", "apc"): (DRIVER_VERIFIER_DETECTED_VIOLATION, 0xFB, 0, 1, 0),
    }
    assert (stop.code, *stop.parameters) == expected[where, what]


@pytest.mark.rule("KE-IRQL-16", "KE-RACE-23")
def test_a_completion_routine_runs_at_passive_level_and_at_dispatch_level() -> None:
    async def script(lab: Lab) -> Any:
        disk = lab.disk(r"\Device\Disk0", b"0123456789")

        def routine(driver: Device) -> Any:
            async def completed(device: Any, irp: IRP, context: Any) -> int:
                lab.note("completed")
                if irp.PendingReturned:
                    await IoMarkIrpPending(irp)
                return STATUS_SUCCESS

            return completed

        above = Device("F", {}, over=disk.device)
        above.dispatch[IRP_MJ_READ] = with_routine(routine)(above)
        above.dispatch[IRP_MJ_CREATE] = passes(above)
        await lab.load(above)
        file = await lab.app.open(r"\\.\PhysicalDrive0")
        return await file.read(4, 2)

    async def linked(lab: Lab) -> Any:
        from kemu.wdk.wdm import IoCreateSymbolicLink

        _ = await IoCreateSymbolicLink(r"\DosDevices\PhysicalDrive0", r"\Device\Disk0")
        return await script(lab)

    runs = all_runs(linked, bound=1, completion="explore")
    assert {one.note("completed").irql for one in runs} == {0, DISPATCH_LEVEL}
    assert {one.result for one in runs} == {(STATUS_SUCCESS, b"2345")}
    assert codes(runs) == {None}


@pytest.mark.rule("KE-IRQL-16")
def test_a_completion_routine_that_needs_dispatch_level_is_found_in_one_of_the_schedules() -> None:
    from kemu.wdk.wdm import IoCreateSymbolicLink, KeReleaseSpinLock

    async def script(lab: Lab) -> Any:
        disk = lab.disk(r"\Device\Disk0", b"0123456789")
        _ = await IoCreateSymbolicLink(r"\DosDevices\PhysicalDrive0", r"\Device\Disk0")
        lock = KSPIN_LOCK("Lock")
        KeInitializeSpinLock(lock)

        def routine(driver: Device) -> Any:
            async def completed(device: Any, irp: IRP, context: Any) -> int:
                if irp.PendingReturned:
                    await IoMarkIrpPending(irp)
                    # KeReleaseSpinLock is one that requires DISPATCH_LEVEL.
                    await KeReleaseSpinLock(lock, 0)
                return STATUS_SUCCESS

            return completed

        above = Device("F", {}, over=disk.device)
        above.dispatch[IRP_MJ_READ] = with_routine(routine)(above)
        above.dispatch[IRP_MJ_CREATE] = passes(above)
        await lab.load(above)
        return await (await lab.app.open(r"\\.\PhysicalDrive0")).read(4)

    assert "ke.irql" in codes(all_runs(script, bound=1, completion="explore"))


# Forwarding and waiting.


def test_a_driver_may_forward_an_irp_and_wait_for_it() -> None:
    def upper(driver: Device) -> Dispatch:
        async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
            assert await IoForwardIrpSynchronously(driver.lower, irp)
            return await complete(irp, irp.IoStatus.Status)

        return dispatch

    async def later(lab: Lab) -> Any:
        return await stacked(lab, upper, pends())

    async def inline(lab: Lab) -> Any:
        return await stacked(lab, upper, succeed)

    for script in (later, inline):
        runs = all_runs(script, bound=1)
        assert codes(runs) == {None}
        assert {one.result for one in runs} == {STATUS_SUCCESS}


def test_forwarding_needs_a_stack_location() -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        assert not await IoForwardIrpSynchronously(device, irp)
        return await complete(irp, STATUS_INSUFFICIENT_RESOURCES)

    assert reading(read).result == STATUS_INSUFFICIENT_RESOURCES


# Buffers.


@pytest.mark.parametrize("flags", [DO_BUFFERED_IO, DO_DIRECT_IO, 0])
def test_the_buffers_of_reads_and_writes_are_those_that_the_devices_flags_ask_for(flags: int) -> None:
    async def script(lab: Lab) -> Any:
        def buffer(irp: IRP) -> bytearray:
            kinds = (irp.AssociatedIrp.SystemBuffer, irp.MdlAddress, irp.UserBuffer)
            used = [one is not None for one in kinds]
            assert used == [flags == DO_BUFFERED_IO, flags == DO_DIRECT_IO, flags == 0]
            if irp.MdlAddress is not None:
                mapped = MmGetSystemAddressForMdlSafe(irp.MdlAddress, 16)
                assert mapped is not None
                return mapped
            return irp.AssociatedIrp.SystemBuffer if flags else irp.UserBuffer

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            parameters = IoGetCurrentIrpStackLocation(irp).Parameters
            assert (parameters.Read.Length, parameters.Read.ByteOffset) == (4, 7)
            buffer(irp)[:3] = b"abc"
            return await complete(irp, STATUS_SUCCESS, 3)

        async def write(device: DEVICE_OBJECT, irp: IRP) -> int:
            lab.note(bytes(buffer(irp)).decode())
            return await complete(irp, STATUS_SUCCESS, 2)

        await device(lab, "D", {IRP_MJ_READ: read, IRP_MJ_WRITE: write}, flags=flags)
        file = await lab.app.open(r"\\.\D")
        return await file.read(4, 7), await file.write(b"xy")

    one = run(script)
    assert one.code is None
    assert one.result == ((STATUS_SUCCESS, b"abc"), (STATUS_SUCCESS, 2))
    assert one.order == ["xy"]


@pytest.mark.parametrize("method", [METHOD_BUFFERED, METHOD_IN_DIRECT, METHOD_OUT_DIRECT, METHOD_NEITHER])
def test_the_buffers_of_a_device_control_are_those_of_its_method(method: int) -> None:
    code = CTL_CODE(0x22, 0x801, method, 0)

    async def script(lab: Lab) -> Any:
        async def control(device: DEVICE_OBJECT, irp: IRP) -> int:
            parameters = IoGetCurrentIrpStackLocation(irp).Parameters.DeviceIoControl
            lengths = (parameters.IoControlCode, parameters.InputBufferLength, parameters.OutputBufferLength)
            assert lengths == (code, 2, 8)
            given = parameters.Type3InputBuffer if method == METHOD_NEITHER else irp.AssociatedIrp.SystemBuffer
            if method == METHOD_BUFFERED:
                target = irp.AssociatedIrp.SystemBuffer
            elif method == METHOD_NEITHER:
                target = irp.UserBuffer
            else:
                assert irp.MdlAddress is not None
                target = MmGetSystemAddressForMdlSafe(irp.MdlAddress, 16)
            assert target is not None
            target[:4] = bytes(given[:2]) * 2
            return await complete(irp, STATUS_SUCCESS, 4)

        await device(lab, "D", {IRP_MJ_DEVICE_CONTROL: control})
        return await (await lab.app.open(r"\\.\D")).control(code, b"ab", 8)

    one = run(script)
    assert (one.code, one.result) == (None, (STATUS_SUCCESS, b"abab"))


def test_an_error_returns_no_output() -> None:
    async def script(lab: Lab) -> Any:
        async def control(device: DEVICE_OBJECT, irp: IRP) -> int:
            return await complete(irp, STATUS_END_OF_FILE, 8)

        await device(lab, "D", {IRP_MJ_DEVICE_CONTROL: control})
        file = await lab.app.open(r"\\.\D")
        return await file.control(CODE, b"ab", 8), await file.control(CODE)

    assert run(script).result == ((STATUS_END_OF_FILE, b""), (STATUS_END_OF_FILE, b""))


def test_a_device_control_can_be_issued_and_waited_for_later() -> None:
    async def script(lab: Lab) -> Any:
        await device(lab, "D", {IRP_MJ_DEVICE_CONTROL: pends()})
        file = await lab.app.open(r"\\.\D", overlapped=True)
        control = await file.begin_control(CODE, b"", 4)
        return await control.wait()

    assert {one.result for one in all_runs(script, bound=1)} == {STATUS_SUCCESS}
