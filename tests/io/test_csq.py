"""Cancel-safe IRP queues (KE-CSQ, KE-RACE-13)."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, codes, run
from io_kit import complete, device, spawn

from kemu.io.device import DEVICE_OBJECT
from kemu.io.irp import IRP
from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread
from kemu.wdk.ntstatus import (
    STATUS_CANCELLED,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_PENDING,
    STATUS_SUCCESS,
    STATUS_UNSUCCESSFUL,
)
from kemu.wdk.wdm import (
    FAST_MUTEX,
    IO_CSQ,
    IO_CSQ_IRP_CONTEXT,
    IRP_MJ_READ,
    KSPIN_LOCK,
    LIST_ENTRY,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    InitializeListHead,
    InsertTailList,
    IoCompleteRequest,
    IoCsqInitialize,
    IoCsqInitializeEx,
    IoCsqInsertIrp,
    IoCsqInsertIrpEx,
    IoCsqRemoveIrp,
    IoCsqRemoveNextIrp,
    KeAcquireSpinLock,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
    RemoveEntryList,
)


class Queue:
    """A cancel-safe queue with its routines."""

    def __init__(self, lab: Lab, *, refuses: bool = False, mutex: bool = False, ex: bool = False) -> None:
        self.lab = lab
        self.refuses = refuses
        self.csq = IO_CSQ("ReadQueue")
        self.head = LIST_ENTRY()
        InitializeListHead(self.head)
        self.lock = KSPIN_LOCK("Lock")
        KeInitializeSpinLock(self.lock)
        self.mutex = FAST_MUTEX("Mutex") if mutex else None
        if self.mutex is not None:
            ExInitializeFastMutex(self.mutex)
        rest = (self.remove, self.peek, self.acquire, self.release, self.complete_canceled)
        if ex:
            assert IoCsqInitializeEx(self.csq, self.insert_ex, *rest) == STATUS_SUCCESS
        else:
            assert IoCsqInitialize(self.csq, self.insert, *rest) == STATUS_SUCCESS

    async def insert(self, csq: IO_CSQ, irp: IRP) -> None:
        InsertTailList(self.head, irp.Tail.Overlay.ListEntry)

    async def insert_ex(self, csq: IO_CSQ, irp: IRP, context: Any) -> int:
        if self.refuses:
            return STATUS_UNSUCCESSFUL
        self.lab.note("insert", context)
        await self.insert(csq, irp)
        return STATUS_SUCCESS

    async def remove(self, csq: IO_CSQ, irp: IRP) -> None:
        RemoveEntryList(irp.Tail.Overlay.ListEntry)

    async def peek(self, csq: IO_CSQ, irp: IRP | None, context: Any) -> IRP | None:
        following = self.head.Flink if irp is None else irp.Tail.Overlay.ListEntry.Flink
        return None if following is None or following is self.head else following.record

    async def acquire(self, csq: IO_CSQ) -> Any:
        if self.mutex is not None:
            return await ExAcquireFastMutex(self.mutex)
        return await KeAcquireSpinLock(self.lock)

    async def release(self, csq: IO_CSQ, irql: Any) -> None:
        if self.mutex is not None:
            await ExReleaseFastMutex(self.mutex)
        else:
            await KeReleaseSpinLock(self.lock, irql)

    async def complete_canceled(self, csq: IO_CSQ, irp: IRP) -> None:
        self.lab.note("canceled", current_kthread().irql)
        # Without the lock: completing is allowed (KE-CSQ-05).
        await complete(irp, STATUS_CANCELLED)

    async def read(self, device: DEVICE_OBJECT, irp: IRP) -> int:
        await IoCsqInsertIrp(self.csq, irp, None)
        return STATUS_PENDING

    async def serve(self) -> None:
        irp = await IoCsqRemoveNextIrp(self.csq, None)
        if irp is not None:
            await complete(irp)


async def a_read(lab: Lab, queue: Queue, read: Any = None) -> Any:
    """A read that is queued, issued and not waited for."""
    await device(lab, "D", {IRP_MJ_READ: read or queue.read})
    file = await lab.app.open(r"\\.\D", overlapped=True)
    return await file.begin_read(4)


@pytest.mark.rule("KE-CSQ-01")
def test_an_irp_in_the_queue_is_pending_and_can_be_cancelled() -> None:
    async def script(lab: Lab) -> Any:
        pending = await a_read(lab, Queue(lab))
        return await pending.cancel(), await pending.wait()

    one = run(script)
    assert (one.code, one.result, one.order) == (None, (True, STATUS_CANCELLED), ["canceled"])
    assert one.note("canceled").value == 0


@pytest.mark.rule("KE-CSQ-01", "KE-RACE-13")
def test_an_irp_that_is_cancelled_before_or_while_it_is_inserted_is_not_left_in_the_queue() -> None:
    async def script(lab: Lab) -> Any:
        queue = Queue(lab)
        arrived = lab.event("arrived")

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            from kemu.wdk.wdm import KeSetEvent

            await KeSetEvent(arrived, 0, False)
            return await queue.read(device, irp)

        await device(lab, "D", {IRP_MJ_READ: read})
        file = await lab.app.open(r"\\.\D", overlapped=True)

        async def reader() -> Any:
            return await (await file.begin_read(4)).wait()

        async def canceller() -> None:
            from kemu.wdk.wdm import KeWaitForSingleObject

            _ = await KeWaitForSingleObject(arrived)
            await file.cancel_all()

        return (await lab.together(reader(), canceller()))[0]

    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    assert {(one.result, *one.order) for one in runs} == {(STATUS_CANCELLED, "canceled")}


@pytest.mark.rule("KE-CSQ-03", "KE-RACE-13")
def test_either_the_remover_gets_an_irp_or_its_cancellation() -> None:
    async def script(lab: Lab) -> Any:
        queue = Queue(lab)

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            status = await queue.read(device, irp)
            spawn("server", queue.serve())
            return status

        pending = await a_read(lab, queue, read)
        told = await pending.cancel()
        return told, await pending.wait()

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {(True, STATUS_CANCELLED), (False, STATUS_SUCCESS)}


@pytest.mark.rule("KE-CSQ-03")
def test_removing_by_context_returns_null_for_an_irp_that_was_cancelled() -> None:
    async def script(lab: Lab) -> Any:
        queue = Queue(lab)
        context = IO_CSQ_IRP_CONTEXT("context")

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            async def later() -> None:
                found = await IoCsqRemoveIrp(queue.csq, context)
                lab.note("none" if found is None else "found")
                if found is not None:
                    await complete(found)

            await IoCsqInsertIrp(queue.csq, irp, context)
            spawn("later", later())
            return STATUS_PENDING

        pending = await a_read(lab, queue, read)
        await pending.cancel()
        return await pending.wait()

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {(one.result, "none" in one.order) for one in runs} == {(STATUS_CANCELLED, True), (STATUS_SUCCESS, False)}


@pytest.mark.rule("KE-CSQ-03")
def test_removing_the_next_one_skips_those_that_are_being_cancelled() -> None:
    async def script(lab: Lab) -> Any:
        queue = Queue(lab)
        await device(lab, "D", {IRP_MJ_READ: queue.read})
        file = await lab.app.open(r"\\.\D", overlapped=True)
        first, second = await file.begin_read(4), await file.begin_read(4)

        async def canceller() -> None:
            await first.cancel()

        async def server() -> None:
            await queue.serve()

        await lab.together(canceller(), server())
        if not second.request.done:
            # The server had the first one.
            await second.cancel()
        return await first.wait(), await second.wait()

    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {
        (STATUS_CANCELLED, STATUS_SUCCESS),
        (STATUS_SUCCESS, STATUS_CANCELLED),
    }


@pytest.mark.rule("KE-CSQ-03")
def test_null_is_nothing_to_complete() -> None:
    async def script(lab: Lab) -> Any:
        queue = Queue(lab)
        found = await IoCsqRemoveNextIrp(queue.csq, None)
        await IoCompleteRequest(found, 0)  # type: ignore[arg-type]

    assert run(script).code == "ke.csq-null"


@pytest.mark.rule("KE-CSQ-02", "KE-RACE-13")
def test_an_irp_is_not_touched_after_it_was_inserted() -> None:
    async def script(lab: Lab) -> Any:
        queue = Queue(lab)

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            spawn("server", queue.serve())
            await queue.read(device, irp)
            irp.IoStatus.Information = 0
            return STATUS_PENDING

        pending = await a_read(lab, queue, read)
        await pending.cancel()
        return await pending.wait()

    assert "ke.csq-after-insert" in codes(all_runs(script, bound=2))


@pytest.mark.rule("KE-CSQ-02")
def test_an_insertion_that_the_driver_refuses_leaves_the_irp_with_the_caller() -> None:
    async def script(lab: Lab) -> Any:
        queue = Queue(lab, refuses=True, ex=True)

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            assert await IoCsqInsertIrpEx(queue.csq, irp, None, "context") == STATUS_UNSUCCESSFUL
            # Not marked pending: another status may be returned.
            return await complete(irp, STATUS_INSUFFICIENT_RESOURCES)

        return await (await a_read(lab, queue, read)).wait()

    one = run(script)
    assert (one.code, one.result) == (None, STATUS_INSUFFICIENT_RESOURCES)


@pytest.mark.rule("KE-CSQ-02", "KE-DOC-12")
def test_an_insertion_may_carry_a_context() -> None:
    async def script(lab: Lab) -> Any:
        queue = Queue(lab, ex=True)

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            assert await IoCsqInsertIrpEx(queue.csq, irp, None, "context") == STATUS_SUCCESS
            return STATUS_PENDING

        pending = await a_read(lab, queue, read)
        await queue.serve()
        return await pending.wait()

    one = run(script)
    assert (one.code, one.result, one.note("insert").value) == (None, STATUS_SUCCESS, "context")


@pytest.mark.rule("KE-CSQ-04")
@pytest.mark.parametrize("index", [0, 3])
def test_the_last_pointer_of_the_driver_context_belongs_to_the_queue(index: int) -> None:
    async def script(lab: Lab) -> Any:
        queue = Queue(lab)

        async def insert(csq: IO_CSQ, irp: IRP) -> None:
            await queue.insert(csq, irp)
            irp.Tail.Overlay.DriverContext[index] = "mine"

        queue.csq.insert = insert
        pending = await a_read(lab, queue)
        return await pending.cancel()

    assert run(script).code == (None if index == 0 else "ke.csq-context")


@pytest.mark.rule("KE-CSQ-04")
def test_a_context_stands_for_one_irp_at_a_time() -> None:
    async def script(lab: Lab) -> Any:
        queue = Queue(lab)
        context = IO_CSQ_IRP_CONTEXT("context")

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            await IoCsqInsertIrp(queue.csq, irp, context)
            return STATUS_PENDING

        await device(lab, "D", {IRP_MJ_READ: read})
        file = await lab.app.open(r"\\.\D", overlapped=True)
        first = await file.begin_read(4)
        await first.cancel()
        # It has left the queue: the context is free.
        await file.begin_read(4)
        lab.note("twice")
        await file.begin_read(4)

    one = run(script)
    assert (one.code, "twice" in one.order) == ("ke.csq-context", True)


@pytest.mark.rule("KE-CSQ-05")
def test_an_irp_is_not_taken_out_of_the_list_by_hand() -> None:
    async def script(lab: Lab) -> Any:
        queue = Queue(lab)

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            await queue.read(device, irp)
            irql = await KeAcquireSpinLock(queue.lock)
            first = queue.head.Flink
            assert first is not None
            RemoveEntryList(first)
            await KeReleaseSpinLock(queue.lock, irql)
            await complete(first.record)
            return STATUS_PENDING

        return await (await a_read(lab, queue, read)).wait()

    assert run(script).code == "ke.csq-bypass"


@pytest.mark.rule("KE-CSQ-05")
def test_the_routines_of_the_queue_do_not_complete_under_its_lock() -> None:
    async def script(lab: Lab) -> Any:
        queue = Queue(lab)

        async def remove(csq: IO_CSQ, irp: IRP) -> None:
            await queue.lab.step("removing")
            await complete(irp)

        queue.csq.remove = remove
        await (await a_read(lab, queue)).cancel()

    assert run(script).code == "ke.spin-forbidden-call"


@pytest.mark.rule("KE-CSQ-06", "KE-DOC-12")
@pytest.mark.parametrize("mutex", [True, False])
@pytest.mark.parametrize("irql", [0, DISPATCH_LEVEL])
def test_a_queue_whose_lock_is_a_mutex_cannot_be_come_to_at_dispatch_level(mutex: bool, irql: int) -> None:
    async def script(lab: Lab) -> Any:
        pending = await a_read(lab, Queue(lab, mutex=mutex))
        thread = current_kthread()
        thread.irql = irql
        await pending.cancel()
        thread.irql = 0
        return await pending.wait()

    one = run(script)
    assert one.code == ("ke.csq-lock-irql" if mutex and irql else None)


def test_a_queue_is_initialised_before_it_is_used() -> None:
    async def script(lab: Lab) -> Any:
        await IoCsqRemoveNextIrp(IO_CSQ("nothing"), None)

    assert run(script).code == "ke.uninitialised"


def test_an_exception_in_a_routine_of_the_queue_is_a_bug_check() -> None:
    async def script(lab: Lab) -> Any:
        queue = Queue(lab)

        async def insert(csq: IO_CSQ, irp: IRP) -> None:
            raise ZeroDivisionError

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            # The queue belongs to the driver that has initialised it.
            rest = (queue.remove, queue.peek, queue.acquire, queue.release, queue.complete_canceled)
            _ = IoCsqInitialize(queue.csq, insert, *rest)
            return await queue.read(device, irp)

        await a_read(lab, queue, read)

    assert run(script).code == "ke.unhandled-exception"
