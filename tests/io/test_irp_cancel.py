"""Cancelling IRPs (KE-CANCEL, KE-RACE-12)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Run, all_runs, codes, run
from io_kit import Device, complete, device, spawn, succeed

from kemu.io.device import DEVICE_OBJECT
from kemu.io.irp import IRP
from kemu.io.manager import IoManager
from kemu.nt.bugcheck import (
    DRIVER_RETURNED_HOLDING_CANCEL_LOCK,
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    DRIVER_VERIFIER_IOMANAGER_VIOLATION,
)
from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread
from kemu.runtime import Point
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_MORE_PROCESSING_REQUIRED, STATUS_PENDING, STATUS_SUCCESS
from kemu.wdk.wdm import (
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    KSPIN_LOCK,
    LIST_ENTRY,
    InitializeListHead,
    InsertTailList,
    IoAcquireCancelSpinLock,
    IoAllocateIrp,
    IoCallDriver,
    IoCancelIrp,
    IoCopyCurrentIrpStackLocationToNext,
    IoFreeIrp,
    IoGetNextIrpStackLocation,
    IoMarkIrpPending,
    IoReleaseCancelSpinLock,
    IoSetCancelRoutine,
    IoSetCompletionRoutine,
    IoSkipCurrentIrpStackLocation,
    KeAcquireSpinLock,
    KeGetCurrentIrql,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
    RemoveEntryList,
)

Dispatch = Callable[[DEVICE_OBJECT, IRP], Awaitable[int]]
Cancel = Callable[[DEVICE_OBJECT, IRP], Awaitable[None]]


async def cancel_read(device: DEVICE_OBJECT, irp: IRP) -> None:
    """A cancel routine as it should be."""
    await IoReleaseCancelSpinLock(irp.CancelIrql)
    await complete(irp, STATUS_CANCELLED)


def holds(cancel: Cancel | None) -> Dispatch:
    """A dispatch routine that holds the IRP, with a cancel routine that was set in time."""

    async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
        await IoMarkIrpPending(irp)
        if cancel is not None:
            await IoSetCancelRoutine(irp, cancel)
        return STATUS_PENDING

    return dispatch


def cancelling(read: Dispatch) -> Callable[[Lab], Any]:
    """A script that issues a read and cancels it when the dispatch routine has returned."""

    async def script(lab: Lab) -> Any:
        await device(lab, "D", {IRP_MJ_READ: read})
        file = await lab.app.open(r"\\.\D", overlapped=True)
        pending = await file.begin_read(4)
        told = await pending.cancel()
        return told, await pending.wait()

    return script


def stop_of(one: Run) -> tuple[int, int] | None:
    """Code and first parameter of the stop with Driver Verifier."""
    stop = one.finding.verifier
    return None if stop is None else (stop.code, stop.parameters[0])


# The protocol.


@pytest.mark.rule("KE-CANCEL-01")
def test_a_cancellation_calls_the_routine_with_the_cancel_spin_lock_held() -> None:
    async def script(lab: Lab) -> Any:
        async def cancel(device: DEVICE_OBJECT, irp: IRP) -> None:
            lock = lab.system.get(IoManager).cancel_lock
            assert device is one.device
            assert lock.owner is current_kthread()
            assert irp.Cancel
            assert irp.CancelIrql == 0
            assert await IoSetCancelRoutine(irp, None) is None
            lab.note("cancel", KeGetCurrentIrql())
            await IoReleaseCancelSpinLock(irp.CancelIrql)
            lab.note("released", KeGetCurrentIrql())
            await complete(irp, STATUS_CANCELLED)

        one = await device(lab, "D", {IRP_MJ_READ: holds(cancel)})
        file = await lab.app.open(r"\\.\D", overlapped=True)
        pending = await file.begin_read(4)
        return await pending.cancel(), await pending.wait(), KeGetCurrentIrql()

    one = run(script)
    assert (one.code, one.result) == (None, (True, STATUS_CANCELLED, 0))
    assert [(note.what, note.value) for note in one.notes] == [("cancel", DISPATCH_LEVEL), ("released", 0)]


@pytest.mark.rule("KE-CANCEL-01")
def test_without_a_routine_a_cancellation_sets_the_bit_and_nothing_else() -> None:
    async def script(lab: Lab) -> Any:
        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            async def later() -> None:
                await lab.step("cancel it now")
                lab.note("cancelled" if irp.Cancel else "not cancelled")
                await complete(irp)

            await IoMarkIrpPending(irp)
            spawn("later", later())
            return STATUS_PENDING

        await device(lab, "D", {IRP_MJ_READ: read})
        file = await lab.app.open(r"\\.\D", overlapped=True)
        pending = await file.begin_read(4)
        return await pending.cancel(), await pending.wait()

    runs = all_runs(script)
    assert {(one.result, *one.order) for one in runs} == {
        ((False, STATUS_SUCCESS), "cancelled"),
        ((False, STATUS_SUCCESS), "not cancelled"),
    }


@pytest.mark.rule("KE-CANCEL-02")
def test_a_cancel_routine_gives_the_lock_up() -> None:
    async def keeps(device: DEVICE_OBJECT, irp: IRP) -> None:
        pass

    one = run(cancelling(holds(keeps)))
    assert one.code == "ke.cancel-lock-held"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == DRIVER_RETURNED_HOLDING_CANCEL_LOCK
    assert run(cancelling(holds(cancel_read))).result == (True, STATUS_CANCELLED)


@pytest.mark.rule("KE-CANCEL-02")
def test_a_cancel_routine_restores_the_irql_that_it_was_told() -> None:
    async def restores(device: DEVICE_OBJECT, irp: IRP) -> None:
        await IoReleaseCancelSpinLock(DISPATCH_LEVEL)
        await complete(irp, STATUS_CANCELLED)

    assert run(cancelling(holds(restores))).code == "ke.irql-nesting"


@pytest.mark.rule("KE-CANCEL-03", "KE-DOC-10")
@pytest.mark.parametrize("what", ["again", "completes", "calls"])
def test_under_the_cancel_spin_lock_a_cancel_routine_does_next_to_nothing(what: str) -> None:
    async def cancel(device: DEVICE_OBJECT, irp: IRP) -> None:
        if what == "again":
            await IoAcquireCancelSpinLock()
        elif what == "completes":
            await complete(irp, STATUS_CANCELLED)
        else:
            IoSkipCurrentIrpStackLocation(irp)
            await IoCallDriver(device, irp)

    one = run(cancelling(holds(cancel)))
    assert one.code == ("ke.self-deadlock" if what == "again" else "ke.spin-forbidden-call")


@pytest.mark.rule("KE-CANCEL-04")
def test_setting_a_cancel_routine_returns_the_old_one() -> None:
    async def other(device: DEVICE_OBJECT, irp: IRP) -> None:
        raise AssertionError

    async def script(lab: Lab) -> Any:
        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            old = [
                await IoSetCancelRoutine(irp, cancel_read),
                await IoSetCancelRoutine(irp, other),
                await IoSetCancelRoutine(irp, None),
                await IoSetCancelRoutine(irp, None),
            ]
            lab.note("old", old)
            return await complete(irp)

        await device(lab, "D", {IRP_MJ_READ: read})
        return await (await lab.app.open(r"\\.\D")).read(4)

    one = run(script)
    assert one.code is None
    assert one.note("old").value == [None, cancel_read, other, None]


# Queues of a driver's own.


class Queue:
    """Holds reads under a spin lock, by the protocol or nearly so."""

    def __init__(self, *, looks: bool = True, tests: bool = True, by_flag: bool = False) -> None:
        self.looks = looks
        """Whether it looks at Irp->Cancel after it has set its routine."""
        self.tests = tests
        """Whether it looks at what clearing the routine returns."""
        self.by_flag = by_flag
        """Whether it decides by Irp->Cancel instead."""
        self.lock = KSPIN_LOCK("Lock")
        KeInitializeSpinLock(self.lock)
        self.head = LIST_ENTRY()
        InitializeListHead(self.head)

    async def read(self, device: DEVICE_OBJECT, irp: IRP) -> int:
        irql = await KeAcquireSpinLock(self.lock)
        await IoMarkIrpPending(irp)
        InsertTailList(self.head, irp.Tail.Overlay.ListEntry)
        await IoSetCancelRoutine(irp, self.cancel)
        mine = self.looks and irp.Cancel and await IoSetCancelRoutine(irp, None) is not None
        if mine:
            RemoveEntryList(irp.Tail.Overlay.ListEntry)
        await KeReleaseSpinLock(self.lock, irql)
        if mine:
            await complete(irp, STATUS_CANCELLED)
        return STATUS_PENDING

    async def cancel(self, device: DEVICE_OBJECT, irp: IRP) -> None:
        await IoReleaseCancelSpinLock(irp.CancelIrql)
        irql = await KeAcquireSpinLock(self.lock)
        RemoveEntryList(irp.Tail.Overlay.ListEntry)
        await KeReleaseSpinLock(self.lock, irql)
        await complete(irp, STATUS_CANCELLED)

    async def serve(self) -> None:
        irql = await KeAcquireSpinLock(self.lock)
        irp: IRP | None = None
        first = self.head.Flink
        if first is not None and first is not self.head:
            irp = first.record
            assert irp is not None
            RemoveEntryList(first)
            InitializeListHead(first)
            old = await IoSetCancelRoutine(irp, None)
            gone = irp.Cancel if self.by_flag else self.tests and old is None
            if gone:
                irp = None
        await KeReleaseSpinLock(self.lock, irql)
        if irp is not None:
            await complete(irp)


def queued(**how: bool) -> Callable[[Lab], Any]:
    """A script in which a read is queued, cancelled, and served, all at the same time."""

    async def script(lab: Lab) -> Any:
        queue = Queue(**how)

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            spawn("server", queue.serve())
            return await queue.read(device, irp)

        await device(lab, "D", {IRP_MJ_READ: read})
        file = await lab.app.open(r"\\.\D", overlapped=True)

        async def reader() -> Any:
            return await (await file.begin_read(4)).wait()

        async def canceller() -> int:
            return await file.cancel_all()

        results = await lab.together(reader(), canceller())
        return results[0]

    return script


def served(**how: bool) -> Callable[[Lab], Any]:
    """As `queued`, but the cancellation comes when the read is in the queue."""

    async def script(lab: Lab) -> Any:
        queue = Queue(**how)

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            status = await queue.read(device, irp)
            spawn("server", queue.serve())
            return status

        await device(lab, "D", {IRP_MJ_READ: read})
        file = await lab.app.open(r"\\.\D", overlapped=True)
        pending = await file.begin_read(4)
        await pending.cancel()
        return await pending.wait()

    return script


@pytest.mark.rule("KE-CANCEL-05", "KE-RACE-12")
def test_a_driver_that_does_not_look_again_loses_a_cancellation() -> None:
    found = codes(all_runs(queued(looks=False), bound=2))
    assert "ke.cancel-lost" in found
    # A server that comes too early, or a cancellation that finds nothing, leaves a read that can still be cancelled.
    assert found <= {None, "ke.cancel-lost", "ke.hang"}
    assert codes(all_runs(queued(), bound=2)) <= {None, "ke.hang"}


@pytest.mark.rule("KE-CANCEL-05", "KE-CANCEL-06", "KE-RACE-12")
def test_by_the_protocol_exactly_one_party_completes() -> None:
    runs = all_runs(served(), bound=2)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {STATUS_SUCCESS, STATUS_CANCELLED}


@pytest.mark.rule("KE-CANCEL-06", "KE-RACE-12")
def test_a_driver_that_ignores_what_clearing_returned_completes_twice() -> None:
    assert "ke.irp-double-complete" in codes(all_runs(served(tests=False), bound=2))


@pytest.mark.rule("KE-CANCEL-07")
def test_the_cancel_flag_is_nothing_to_decide_by() -> None:
    """The bit is set, and the routine was taken back: the read is the driver's, which leaves it to nobody."""

    async def script(lab: Lab) -> Any:
        queue = Queue(by_flag=True)

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            await lab.step("cancel it now")
            irql = await KeAcquireSpinLock(queue.lock)
            await IoMarkIrpPending(irp)
            InsertTailList(queue.head, irp.Tail.Overlay.ListEntry)
            await IoSetCancelRoutine(irp, queue.cancel)
            await KeReleaseSpinLock(queue.lock, irql)
            await queue.serve()
            return STATUS_PENDING

        await device(lab, "D", {IRP_MJ_READ: read})
        file = await lab.app.open(r"\\.\D", overlapped=True)

        async def reader() -> Any:
            return await (await file.begin_read(4)).wait()

        async def canceller() -> int:
            return await file.cancel_all()

        await lab.together(reader(), canceller())

    assert codes(all_runs(script, bound=2)) >= {None, "ke.cancel-flag-decision"}


@pytest.mark.rule("KE-CANCEL-06")
def test_a_cancel_routine_completes_its_irp() -> None:
    async def forgets(device: DEVICE_OBJECT, irp: IRP) -> None:
        await IoReleaseCancelSpinLock(irp.CancelIrql)

    assert run(cancelling(holds(forgets))).code == "ke.cancel-not-completed"


# Other drivers' IRPs.


@pytest.mark.rule("KE-CANCEL-08")
@pytest.mark.parametrize("clears", [True, False])
def test_the_cancel_routine_is_cleared_before_the_irp_is_passed_on(clears: bool) -> None:
    async def script(lab: Lab) -> Any:
        below = await device(lab, "D", {IRP_MJ_READ: succeed})
        above = Device("F", {}, over=below.device)

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            await IoSetCancelRoutine(irp, cancel_read)
            if clears:
                await IoSetCancelRoutine(irp, None)
            IoSkipCurrentIrpStackLocation(irp)
            return await IoCallDriver(above.lower, irp)

        async def create(device: DEVICE_OBJECT, irp: IRP) -> int:
            IoSkipCurrentIrpStackLocation(irp)
            return await IoCallDriver(above.lower, irp)

        above.dispatch |= {IRP_MJ_READ: read, IRP_MJ_CREATE: create}
        await lab.load(above)
        return await (await lab.app.open(r"\\.\D")).read(4)

    one = run(script)
    if clears:
        assert one.code is None
    else:
        assert one.code == "ke.forward-with-cancel-routine"
        assert stop_of(one) == (DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x203)


@pytest.mark.rule("KE-CANCEL-08")
def test_a_driver_does_not_set_its_cancel_routine_over_that_of_another() -> None:
    async def script(lab: Lab) -> Any:
        below = await device(lab, "D", {IRP_MJ_READ: holds(cancel_read)})
        above = Device("F", {}, over=below.device)

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            IoCopyCurrentIrpStackLocationToNext(irp)
            status = await IoCallDriver(above.lower, irp)
            # What makes this possible at all: it takes the IRP for its own.
            irp.holder = above.object.actor if above.object is not None else None
            await IoSetCancelRoutine(irp, cancel_read)
            return status

        async def create(device: DEVICE_OBJECT, irp: IRP) -> int:
            IoSkipCurrentIrpStackLocation(irp)
            return await IoCallDriver(above.lower, irp)

        above.dispatch |= {IRP_MJ_READ: read, IRP_MJ_CREATE: create}
        await lab.load(above)
        return await (await lab.app.open(r"\\.\D")).read(4)

    one = run(script)
    assert one.code == "ke.cancel-routine-overwritten"
    assert stop_of(one) == (DRIVER_VERIFIER_IOMANAGER_VIOLATION, 0x229)


@pytest.mark.rule("KE-CANCEL-09")
def test_a_driver_cancels_only_what_it_has_made() -> None:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        await IoCancelIrp(irp)
        return await complete(irp)

    async def script(lab: Lab) -> Any:
        await device(lab, "D", {IRP_MJ_READ: read})
        return await (await lab.app.open(r"\\.\D")).read(4)

    assert run(script).code == "ke.cancel-foreign"


@pytest.mark.rule("KE-CANCEL-09", "KE-CANCEL-01")
@pytest.mark.parametrize("cancellable", [True, False])
def test_a_driver_may_cancel_an_irp_of_its_own_which_may_succeed_all_the_same(cancellable: bool) -> None:
    async def script(lab: Lab) -> Any:
        below = await device(lab, "D", {IRP_MJ_READ: holds(cancel_read) if cancellable else later})
        out: list[Any] = []

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            own = await IoAllocateIrp(below.device.StackSize, False)
            assert own is not None
            IoGetNextIrpStackLocation(own).MajorFunction = IRP_MJ_READ

            async def completed(device: Any, irp: IRP, context: Any) -> int:
                out.append(irp.IoStatus.Status)
                return STATUS_MORE_PROCESSING_REQUIRED

            IoSetCompletionRoutine(own, completed, None, True, True, True)
            await IoCallDriver(below.device, own)
            told = await IoCancelIrp(own)
            while not out:
                await Point("wait")
                await lab.sleep(1)
            await IoFreeIrp(own)
            lab.note("told", told)
            return await complete(irp)

        await device(lab, "E", {IRP_MJ_READ: read})
        await (await lab.app.open(r"\\.\E")).read(4)
        return out

    async def later(device: DEVICE_OBJECT, irp: IRP) -> int:
        async def work() -> None:
            await complete(irp)

        await IoMarkIrpPending(irp)
        spawn("later", work())
        return STATUS_PENDING

    one = run(script)
    assert one.code is None
    assert (one.note("told").value, one.result) == (
        cancellable,
        [STATUS_CANCELLED if cancellable else STATUS_SUCCESS],
    )


@pytest.mark.rule("KE-CANCEL-09")
@pytest.mark.parametrize("frees", [True, False])
def test_a_complete_irp_is_not_cancelled(frees: bool) -> None:
    async def script(lab: Lab) -> Any:
        below = await device(lab, "D", {IRP_MJ_READ: succeed})

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            own = await IoAllocateIrp(1, False)
            assert own is not None
            IoGetNextIrpStackLocation(own).MajorFunction = IRP_MJ_READ

            async def completed(device: Any, irp: IRP, context: Any) -> int:
                if frees:
                    await IoFreeIrp(irp)
                return STATUS_MORE_PROCESSING_REQUIRED

            IoSetCompletionRoutine(own, completed, None, True, True, True)
            await IoCallDriver(below.device, own)
            await IoCancelIrp(own)
            await IoFreeIrp(own)
            return await complete(irp)

        await device(lab, "E", {IRP_MJ_READ: read})
        await (await lab.app.open(r"\\.\E")).read(4)

    assert run(script).code == ("ke.use-after-free" if frees else None)


# What nobody can get rid of.


@pytest.mark.rule("KE-CANCEL-10")
@pytest.mark.parametrize("waits", [True, False])
def test_an_irp_that_is_held_for_ever_can_be_cancelled(waits: bool) -> None:
    def script(read: Dispatch) -> Callable[[Lab], Any]:
        async def script(lab: Lab) -> Any:
            await device(lab, "D", {IRP_MJ_READ: read})
            pending = await (await lab.app.open(r"\\.\D", overlapped=True)).begin_read(4)
            if waits:
                await pending.wait()

        return script

    one = run(script(holds(None)))
    assert one.code == "ke.irp-not-cancelable"
    assert stop_of(one) == (DRIVER_VERIFIER_DETECTED_VIOLATION, 0x135)
    # Nobody has cancelled this one: a program that waits for it waits in vain, and that is all.
    assert run(script(holds(cancel_read))).code == ("ke.hang" if waits else None)


@pytest.mark.rule("KE-CANCEL-10")
def test_a_thread_that_exits_cancels_what_it_has_issued() -> None:
    async def script(lab: Lab) -> Any:
        await device(lab, "D", {IRP_MJ_READ: holds(cancel_read)})
        file = await lab.app.open(r"\\.\D", overlapped=True)
        other = await file.begin_read(4)

        async def program() -> Any:
            return await file.begin_read(4)

        mine = await lab.start("program", program(), lab.app).join()
        done = mine.request.done, other.request.done
        await other.cancel()
        return done, await mine.wait()

    assert run(script).result == ((True, False), STATUS_CANCELLED)


@pytest.mark.rule("KE-CANCEL-10")
def test_a_process_that_exits_cancels_what_its_threads_have_issued() -> None:
    async def script(lab: Lab) -> Any:
        await device(lab, "D", {IRP_MJ_READ: holds(cancel_read)})
        other = lab.process("other")
        out: list[Any] = []

        async def program() -> None:
            file = await lab.app.open(r"\\.\D", overlapped=True)
            pending = await file.begin_read(4)
            out.append(pending)
            await pending.wait()

        for process in (lab.app, other):
            lab.start("program", program(), process)
        await lab.sleep(1)
        await lab.app.exit()
        states = [one.request.done for one in out]
        await other.exit()
        return [*states, await out[0].wait(), await out[1].wait()]

    assert run(script).result == [True, False, STATUS_CANCELLED, STATUS_CANCELLED]


@pytest.mark.rule("KE-CANCEL-11")
def test_a_driver_with_a_queue_of_its_own_does_without_the_cancel_spin_lock() -> None:
    """While one thread holds that lock, another one queues and serves a read."""

    async def script(lab: Lab) -> Any:
        queue = Queue()

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            status = await queue.read(device, irp)
            await queue.serve()
            return status

        await device(lab, "D", {IRP_MJ_READ: read})
        file = await lab.app.open(r"\\.\D")
        irql = await IoAcquireCancelSpinLock()
        current_kthread().irql = 0
        reader = lab.start("reader", file.read(4))
        status, _ = await reader.join()
        current_kthread().irql = DISPATCH_LEVEL
        await IoReleaseCancelSpinLock(irql)
        return status

    assert run(script).result == STATUS_SUCCESS
