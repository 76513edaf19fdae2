"""What of the kernel core orders threads, and what does not: each edge with it and without it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import locking
import pytest
from fltmgr.kit import UPPER, Lab, Run, Script, all_runs, run, sample
from racing import Field

from kemu.explore import RandomWalk
from kemu.nt.buffer import allocation_of
from kemu.runtime import Point
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_RELATED_OBJECTS,
    FltCompletePendedPreOperation,
    FltSetCancelCompletion,
)
from kemu.wdk.ntddk import KeEnterCriticalRegion
from kemu.wdk.ntstatus import STATUS_CANCELLED
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    ERESOURCE,
    IRP_MJ_READ,
    KDPC,
    KEVENT,
    KMUTEX,
    KSEMAPHORE,
    KTIMER,
    POOL_FLAG_NON_PAGED,
    THREAD_ALL_ACCESS,
    WORK_QUEUE_ITEM,
    DelayedWorkQueue,
    Driver,
    ExAcquireResourceExclusiveLite,
    ExAcquireResourceSharedLite,
    ExAllocatePool2,
    ExAllocateTimer,
    ExConvertExclusiveToSharedLite,
    ExDeleteTimer,
    ExFreePoolWithTag,
    ExInitializeResourceLite,
    ExInitializeWorkItem,
    ExQueueWorkItem,
    ExReleaseResourceForThreadLite,
    ExReleaseResourceLite,
    ExSetResourceOwnerPointer,
    ExSetTimer,
    IoAcquireCancelSpinLock,
    IoAllocateWorkItem,
    IoFreeWorkItem,
    IoQueueWorkItemEx,
    IoReleaseCancelSpinLock,
    KeCancelTimer,
    KeClearEvent,
    KeFlushQueuedDpcs,
    KeInitializeDpc,
    KeInitializeEvent,
    KeInitializeMutex,
    KeInitializeSemaphore,
    KeInitializeTimer,
    KeInsertQueueDpc,
    KeReadStateTimer,
    KeReleaseMutex,
    KeReleaseSemaphore,
    KeResetEvent,
    KernelMode,
    KeSetEvent,
    KeSetTimer,
    KeWaitForMultipleObjects,
    KeWaitForSingleObject,
    NotificationEvent,
    ObReferenceObjectByHandle,
    PsCreateSystemThread,
    Structure,
    SynchronizationEvent,
    WaitAll,
    WaitAny,
    sizeof,
)


def codes_of_all_runs(script: Script, **options: Any) -> set[str | None]:
    """The findings of all runs of *script* with race detection."""
    return {one.code for one in all_runs(script, races=True, **options)}


def plain(script: Script, **options: Any) -> Run:
    """The plain run of *script* with race detection."""
    return run(script, races=True, **options)


# Locks.

Locks = tuple[Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]]


def spin_lock() -> Locks:
    return locking.spin("Lock").pairs[locking.X]


@pytest.mark.rule("KE-INTLK-05", "KE-ORD-01")
@pytest.mark.parametrize("kind", [*locking.EXCLUSIVE, *locking.SHARED])
@pytest.mark.parametrize("whole", [True, False])
def test_a_lock_orders_who_holds_it(kind: locking.Maker, whole: bool) -> None:
    async def script(lab: Lab) -> None:
        acquire, release = kind("Lock").pairs[locking.X]
        field = Field()

        async def worker(locks: bool) -> None:
            KeEnterCriticalRegion()
            if locks:
                old = await acquire()
                field.store()
                await release(old)
            else:
                field.store()

        await lab.together(worker(True), worker(whole))

    if whole:
        assert codes_of_all_runs(script) == {None}
    else:
        assert plain(script).code == "ke.data-race"
        assert codes_of_all_runs(script) == {"ke.data-race"}


@pytest.mark.rule("KE-ORD-01")
@pytest.mark.parametrize("kind", locking.SHARED)
@pytest.mark.parametrize("writes", [True, False])
def test_who_shares_a_lock_is_ordered_with_its_owners_and_not_with_others_who_share_it(
    kind: locking.Maker, writes: bool
) -> None:
    async def script(lab: Lab) -> None:
        pairs = kind("Lock").pairs
        field = Field()

        async def reader() -> None:
            KeEnterCriticalRegion()
            acquire, release = pairs[locking.S]
            old = await acquire()
            field.load() if writes else field.store()
            await release(old)

        async def writer() -> None:
            KeEnterCriticalRegion()
            acquire, release = pairs[locking.X]
            old = await acquire()
            field.store()
            await release(old)

        await lab.together(reader(), writer() if writes else reader())

    assert codes_of_all_runs(script) == ({None} if writes else {"ke.data-race"})


@pytest.mark.rule("KE-ORD-01")
@pytest.mark.parametrize("whole", [True, False])
def test_an_owner_that_converts_is_ordered_before_those_it_lets_in(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        resource, field = ERESOURCE("Resource"), Field()
        ExInitializeResourceLite(resource)

        async def owner() -> None:
            KeEnterCriticalRegion()
            await ExAcquireResourceExclusiveLite(resource, True)
            if whole:
                field.store()
            await ExConvertExclusiveToSharedLite(resource)
            if not whole:
                field.store()
            await ExReleaseResourceLite(resource)

        async def reader() -> None:
            KeEnterCriticalRegion()
            await ExAcquireResourceSharedLite(resource, True)
            field.load()
            await ExReleaseResourceLite(resource)

        await lab.together(owner(), reader())

    found = codes_of_all_runs(script)
    assert found == {None} if whole else "ke.data-race" in found


@pytest.mark.rule("KE-ORD-01", "KE-RES-10")
@pytest.mark.parametrize("whole", [True, False])
def test_who_gives_ownership_away_is_ordered_before_the_next_owner(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        resource, field = ERESOURCE("Resource"), Field()
        ExInitializeResourceLite(resource)

        async def manager() -> None:
            KeEnterCriticalRegion()
            await ExAcquireResourceExclusiveLite(resource, True)
            if whole:
                field.store()
            ExSetResourceOwnerPointer(resource, 7)
            if not whole:
                field.store()

        async def user() -> None:
            KeEnterCriticalRegion()
            await ExReleaseResourceForThreadLite(resource, 7)
            await ExAcquireResourceExclusiveLite(resource, True)
            field.store()
            await ExReleaseResourceLite(resource)

        thread = lab.start("manager", manager())
        while not resource.moved:
            await lab.step()
        await lab.together(user())
        await thread.join()

    # The threads see each other's state behind the kernel's back, so that the reduced search has no say.
    assert {one.code for one in sample(script, 30, races=True)} == ({None} if whole else {"ke.data-race"})


def test_what_is_done_after_a_release_is_not_ordered_by_it_although_it_is_one_step() -> None:
    async def script(lab: Lab) -> None:
        acquire, release = spin_lock()
        field = Field()

        async def early() -> None:
            await release(await acquire())
            field.store()

        async def late() -> None:
            old = await acquire()
            field.store()
            await release(old)

        await lab.together(early(), late())

    assert plain(script).code == "ke.data-race"


# Events.


@pytest.mark.rule("KE-INTLK-05")
@pytest.mark.parametrize("kind", [NotificationEvent, SynchronizationEvent])
@pytest.mark.parametrize("whole", [True, False])
def test_a_set_is_ordered_before_the_wait_that_it_ends(kind: int, whole: bool) -> None:
    async def script(lab: Lab) -> None:
        field, event = Field(), KEVENT("Ready")
        KeInitializeEvent(event, kind, False)

        async def setter() -> None:
            if whole:
                field.store()
            await KeSetEvent(event)
            if not whole:
                field.store()

        async def waiter() -> None:
            await KeWaitForSingleObject(event)
            field.load()

        await lab.together(setter(), waiter())

    if whole:
        assert codes_of_all_runs(script) == {None}
    else:
        assert plain(script).code == "ke.data-race"


def test_a_wait_that_times_out_is_ordered_behind_nobody() -> None:
    async def script(lab: Lab) -> None:
        field, event = Field(), KEVENT("Never")
        KeInitializeEvent(event, NotificationEvent, False)

        async def setter() -> None:
            field.store()

        async def waiter() -> None:
            await KeWaitForSingleObject(event, Timeout=-10)
            field.load()

        await lab.together(setter(), waiter())

    assert plain(script).code == "ke.data-race"


def test_an_event_that_is_made_signalled_orders_who_made_it() -> None:
    async def script(lab: Lab, signalled: bool) -> None:
        field, event, other = Field(), KEVENT("Ready"), lab.event("Other")
        await KeSetEvent(other)

        async def maker() -> None:
            field.store()
            KeInitializeEvent(event, NotificationEvent, signalled)
            if not signalled:
                await Point("the waiter polls")

        async def waiter() -> None:
            await Point("until it is made")
            await KeWaitForSingleObject(event, Timeout=0)
            field.load()

        await lab.together(maker(), waiter())

    assert plain(lambda lab: script(lab, True)).code is None
    assert plain(lambda lab: script(lab, False)).code == "ke.data-race"


def test_setting_what_is_signalled_orders_nothing() -> None:
    """The wait would have ended without it, so another time it ends before it."""

    async def script(lab: Lab) -> None:
        field, event = Field(), lab.event("Ready")

        async def first() -> None:
            await KeSetEvent(event)

        async def second() -> None:
            field.store()
            await KeSetEvent(event)

        async def waiter() -> None:
            await KeWaitForSingleObject(event)
            field.load()

        await lab.together(first(), second(), waiter())

    assert plain(script).code == "ke.data-race"


@pytest.mark.parametrize(
    ("call", "orders"),
    [(KeSetEvent, True), (KeResetEvent, True), (KeClearEvent, False)],
    ids=["KeSetEvent", "KeResetEvent", "KeClearEvent"],
)
def test_who_is_told_that_an_event_was_signalled_knows_who_signalled_it(call: Any, orders: bool) -> None:
    async def script(lab: Lab) -> None:
        field, event = Field(), lab.event("Ready")

        async def first() -> None:
            field.store()
            await KeSetEvent(event)

        async def second() -> None:
            if await call(event) or not orders:
                field.load()

        await lab.together(first(), second())

    assert plain(script).code == (None if orders else "ke.data-race")
    if orders:
        assert codes_of_all_runs(script) == {None}


# Threads.


@pytest.mark.parametrize("whole", [True, False])
def test_a_join_is_ordered_behind_the_whole_thread(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        field = Field()
        field.store()

        async def child() -> None:
            field.store()
            await Point("step")
            field.store()

        thread = lab.start("child", child())
        if whole:
            await thread.join()
        field.load()

    assert codes_of_all_runs(script) == ({None} if whole else {"ke.data-race"})


# Work items.


class Service(Driver):
    """Queues work items for `IoQueueWorkItemEx`."""

    def __init__(self) -> None:
        self.object: DRIVER_OBJECT | None = None

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        self.object = DriverObject
        return 0

    async def queue(self, work: Callable[[], object], *, frees: bool = True) -> Any:
        """Have a worker call *work*; the work item."""
        assert self.object is not None

        async def routine(IoObject: Any, Context: Any, WorkItem: Any) -> None:
            work()
            if frees:
                await IoFreeWorkItem(WorkItem)

        item = await IoAllocateWorkItem(self.object)
        assert item is not None
        await IoQueueWorkItemEx(item, routine, DelayedWorkQueue, None)
        return item


async def service(lab: Lab) -> Service:
    loaded = await lab.load(Service, "100000")
    assert isinstance(loaded.driver, Service)
    return loaded.driver


@pytest.mark.rule("KE-INTLK-05", "KE-WORK-15")
@pytest.mark.parametrize("whole", [True, False])
def test_queueing_is_ordered_before_the_routine(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        driver, field = await service(lab), Field()
        if whole:
            field.store()
        await driver.queue(field.load)
        if not whole:
            field.store()

    if whole:
        assert codes_of_all_runs(script) == {None}
    else:
        assert plain(script).code == "ke.data-race"
        assert codes_of_all_runs(script) == {"ke.data-race"}


def test_the_worker_that_happens_to_carry_out_two_items_does_not_order_them() -> None:
    async def script(lab: Lab) -> None:
        driver, field = await service(lab), Field()
        await driver.queue(field.store)
        await driver.queue(field.store)

    one = plain(script, worker_threads=1)
    assert one.code == "ke.data-race"
    assert one.finding.thread == "wk:delayed#0"


def test_the_worker_that_one_thread_brought_into_being_is_not_ordered_behind_it() -> None:
    async def script(lab: Lab) -> None:
        driver, field = await service(lab), Field()

        async def first() -> None:
            field.store()
            await driver.queue(lambda: None)

        async def second() -> None:
            await driver.queue(field.load)

        await lab.together(first(), second())

    assert plain(script, worker_threads=1).code == "ke.data-race"


@pytest.mark.rule("KE-WORK-06")
def test_the_routine_of_an_item_that_is_queued_again_is_ordered_behind_that_queueing_only() -> None:
    async def script(lab: Lab, whole: bool) -> None:
        driver, fields, done = await service(lab), [Field("first"), Field("second")], lab.event("Done")
        assert driver.object is not None
        runs: list[int] = []

        async def routine(IoObject: Any, Context: Any, WorkItem: Any) -> None:
            # The second run looks at what was stored before the first.
            (fields[0] if runs and not whole else fields[len(runs)]).load()
            runs.append(1)

        item = await IoAllocateWorkItem(driver.object)
        assert item is not None

        async def first() -> None:
            fields[0].store()
            await IoQueueWorkItemEx(item, routine, DelayedWorkQueue, None)

        async def second() -> None:
            fields[1].store()
            await KeWaitForSingleObject(done, Timeout=-100)
            await IoQueueWorkItemEx(item, routine, DelayedWorkQueue, None)

        await lab.together(first(), second())

    assert plain(lambda lab: script(lab, True)).code is None
    assert plain(lambda lab: script(lab, False)).code == "ke.data-race"


@pytest.mark.rule("FLT-WORK-06")
@pytest.mark.parametrize("waits", [True, False])
def test_freeing_an_item_after_it_was_queued_races_with_its_routine(waits: bool) -> None:
    async def script(lab: Lab) -> None:
        driver, done, started = await service(lab), lab.event("Done"), lab.event("Started")
        assert driver.object is not None

        async def routine(IoObject: Any, Context: Any, WorkItem: Any) -> None:
            started.signalled = True  # behind the kernel's back
            started.changed()
            await KeSetEvent(done)

        item = await IoAllocateWorkItem(driver.object)
        assert item is not None
        await IoQueueWorkItemEx(item, routine, DelayedWorkQueue, None)
        await KeWaitForSingleObject(done if waits else started)
        await IoFreeWorkItem(item)

    one = plain(script)
    assert one.code == (None if waits else "hand-off-race")
    if not waits:
        assert "wk:delayed#0 uses the work item of Service" in one.finding.detail
        assert "then script frees it at " in one.finding.detail
    assert codes_of_all_runs(script) == ({None} if waits else {"hand-off-race"})


@pytest.mark.parametrize("whole", [True, False])
def test_a_cancellation_holds_the_cancel_spin_lock(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def cancelled(Data: FLT_CALLBACK_DATA) -> None:
            field.load()
            Data.IoStatus.Status = STATUS_CANCELLED
            await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await FltSetCancelCompletion(Data, cancelled)
            irql = await IoAcquireCancelSpinLock()
            if whole:
                field.store()
            await IoReleaseCancelSpinLock(irql)
            if not whole:
                field.store()
            return FLT_PREOP_PENDING

        await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, None)})
        file = await lab.quiet_open(overlapped=True)

        async def reader() -> None:
            await (await file.begin_read(1)).wait()

        lab.start("reader", reader())
        await lab.sleep(0.1)
        await file.cancel_all()

    assert plain(script).code == (None if whole else "ke.data-race")


# Pool.


class BLOCK(Structure):
    Value: int


@pytest.mark.rule("KE-POOL-08", "KE-INTLK-05")
@pytest.mark.parametrize("whole", [True, False])
def test_freeing_a_block_races_with_an_access_to_it(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        acquire, release = spin_lock()
        block = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(BLOCK), "Test")
        field = Field("BLOCK.Value", lifetime=allocation_of(block))

        async def uses() -> None:
            old = await acquire()
            if whole:
                field.load()
            await release(old)
            if not whole:
                field.load()

        async def frees() -> None:
            await release(await acquire())
            await ExFreePoolWithTag(block, "Test")

        await lab.together(uses(), frees())

    one = plain(script)
    assert one.code == (None if whole else "ke.data-race")
    if not whole:
        assert "uses loads the block 'Test' at " in one.finding.detail
        # The block is freed inside an operation; the line is that of the driver's call.
        assert "then frees frees it at " + __file__ in one.finding.detail


# The file system's own.


def test_seeing_what_another_has_written_to_a_file_orders_nothing() -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def writer() -> None:
            file = await lab.open()
            field.store()
            await file.write(b"new")

        async def reader() -> None:
            file = await lab.open()
            await file.read(3)
            field.load()

        await lab.together(writer(), reader())

    assert plain(script).code == "ke.data-race"


@pytest.mark.parametrize("completion", ["inline", "later"])
def test_a_request_is_ordered_from_its_start_to_its_completion(completion: str) -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def user() -> None:
            file = await lab.open()
            field.store()
            await file.read(3)
            field.store()

        await lab.together(user())
        field.load()

    walk = RandomWalk(1)
    for _ in range(30):
        walk.begin()
        assert run(script, walk, races=True, completion=completion).code is None


# Mutexes, semaphores, waits for several, APCs.


def mutex_object() -> Locks:
    mutex = KMUTEX("Mutex")
    KeInitializeMutex(mutex, 0)
    return (lambda: KeWaitForSingleObject(mutex)), (lambda _: release_mutex(mutex))


async def release_mutex(mutex: KMUTEX) -> None:
    await KeReleaseMutex(mutex, False)


@pytest.mark.rule("KE-INTLK-05", "KE-ORD-01")
@pytest.mark.parametrize("whole", [True, False])
def test_a_mutex_orders_its_owners(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        acquire, release = mutex_object()
        field = Field()

        async def worker(locks: bool) -> None:
            if locks:
                await acquire()
                field.store()
                await release(None)
            else:
                field.store()

        await lab.together(worker(True), worker(whole))

    assert codes_of_all_runs(script) == ({None} if whole else {"ke.data-race"})


@pytest.mark.rule("KE-ORD-01")
def test_only_the_last_release_of_a_mutex_orders() -> None:
    async def script(lab: Lab, whole: bool) -> None:
        acquire, release = mutex_object()
        field = Field()

        async def twice() -> None:
            await acquire()
            await acquire()
            await release(None)
            if whole:
                field.store()
            await release(None)
            if not whole:
                field.store()

        async def once() -> None:
            await acquire()
            field.store()
            await release(None)

        await lab.together(twice(), once())

    assert plain(lambda lab: script(lab, True)).code is None
    assert plain(lambda lab: script(lab, False)).code == "ke.data-race"


@pytest.mark.rule("KE-ORD-01")
@pytest.mark.parametrize("whole", [True, False])
def test_a_mutant_that_is_abandoned_orders_as_one_that_is_released(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        mutant, field = lab.mutant(), Field()

        async def dies() -> None:
            if whole:
                await KeWaitForSingleObject(mutant)
            field.store()

        async def lives() -> None:
            await KeWaitForSingleObject(mutant)
            field.store()
            await KeReleaseMutex(mutant, False)

        await lab.together(dies(), lives())

    assert codes_of_all_runs(script) == ({None} if whole else {"ke.data-race"})


@pytest.mark.rule("KE-ORD-01")
@pytest.mark.parametrize("whole", [True, False])
def test_a_release_of_a_semaphore_is_ordered_before_the_wait_that_it_ends(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        semaphore, field = KSEMAPHORE("Semaphore"), Field()
        KeInitializeSemaphore(semaphore, 0, 2)

        async def releaser() -> None:
            if whole:
                field.store()
            await KeReleaseSemaphore(semaphore, 0, 1)
            if not whole:
                field.store()

        async def waiter() -> None:
            await KeWaitForSingleObject(semaphore)
            field.load()

        await lab.together(releaser(), waiter())

    if whole:
        assert codes_of_all_runs(script) == {None}
    else:
        assert plain(script).code == "ke.data-race"


@pytest.mark.rule("KE-ORD-01")
def test_two_releases_of_a_semaphore_do_not_order_each_other_and_who_has_waited_for_both_is_behind_both() -> None:
    async def script(lab: Lab, one_field: bool) -> None:
        semaphore, fields = KSEMAPHORE("Semaphore"), (Field(), Field())
        KeInitializeSemaphore(semaphore, 0, 2)

        async def releaser(number: int) -> None:
            fields[0 if one_field else number].store()
            await KeReleaseSemaphore(semaphore, 0, 1)

        async def waiter() -> None:
            await KeWaitForSingleObject(semaphore)
            await KeWaitForSingleObject(semaphore)
            fields[0].load()
            fields[1].load()

        await lab.together(releaser(0), releaser(1), waiter())

    assert codes_of_all_runs(lambda lab: script(lab, False)) == {None}
    assert codes_of_all_runs(lambda lab: script(lab, True)) == {"ke.data-race"}


@pytest.mark.rule("KE-ORD-01")
@pytest.mark.parametrize("wait_type", [WaitAny, WaitAll])
@pytest.mark.parametrize("whole", [True, False])
def test_a_wait_for_several_is_behind_those_that_satisfied_it(wait_type: int, whole: bool) -> None:
    async def script(lab: Lab) -> None:
        field, first, second = Field(), KEVENT("first"), KEVENT("second")
        for event in (first, second):
            KeInitializeEvent(event, NotificationEvent, False)
        await KeSetEvent(first)

        async def setter() -> None:
            field.store()
            await KeSetEvent(second)

        async def waiter() -> None:
            # WaitAny is satisfied by the event that the setter has nothing to do with.
            await KeWaitForMultipleObjects(2, [second, first] if whole else [first, second], wait_type)
            field.load()

        await lab.together(setter(), waiter())

    if wait_type == WaitAll:
        assert codes_of_all_runs(script) == {None}
    elif whole:
        assert plain(script).code is None
    else:
        assert plain(script).code == "ke.data-race"


@pytest.mark.rule("KE-ORD-07")
@pytest.mark.parametrize("whole", [True, False])
def test_queueing_an_apc_is_ordered_before_its_routine(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        field, go = Field(), lab.event("Go")

        async def apc() -> None:
            field.load()

        async def target() -> None:
            await KeWaitForSingleObject(go)

        started = lab.start("target", target(), apcs=True)
        if whole:
            field.store()
        await lab.queue_apc(started, apc)
        if not whole:
            field.store()
        await KeSetEvent(go)
        await started.join()

    if whole:
        assert codes_of_all_runs(script) == {None}
    else:
        assert plain(script).code == "ke.data-race"


def test_an_alert_orders_nothing() -> None:
    async def script(lab: Lab) -> None:
        field, never = Field(), lab.event("Never")

        async def target() -> None:
            await KeWaitForSingleObject(never, Alertable=True)
            field.load()

        started = lab.start("target", target())
        field.store()
        await lab.alert(started)
        await started.join()

    assert plain(script).code == "ke.data-race"


# DPCs, timers, threads, bare work items.


def field_dpc(access: Callable[[], object], *, waits: Callable[[], Awaitable[Any]] | None = None) -> KDPC:
    """A DPC whose routine makes an access, after it has waited for nothing or taken a step."""

    async def routine(*arguments: Any) -> None:
        if waits is not None:
            await waits()
        access()

    made = KDPC("Dpc")
    KeInitializeDpc(made, routine, None)
    return made


@pytest.mark.rule("KE-ORD-02", "KE-INTLK-05")
@pytest.mark.parametrize("whole", [True, False])
def test_queueing_a_dpc_is_ordered_before_its_run(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        field = Field()
        dpc = field_dpc(field.load)
        if whole:
            field.store()
        await KeInsertQueueDpc(dpc, None, None)
        if not whole:
            field.store()

    assert codes_of_all_runs(script) == ({None} if whole else {"ke.data-race"})


@pytest.mark.rule("KE-DPC-03", "KE-DPC-10", "KE-RACE-03")
@pytest.mark.parametrize("locks", [True, False])
def test_two_runs_of_one_dpc_are_not_ordered(locks: bool) -> None:
    async def script(lab: Lab) -> None:
        field = Field()
        acquire, release = spin_lock()

        async def routine(*arguments: Any) -> None:
            old = await acquire() if locks else None
            field.store()
            if locks:
                await release(old)

        dpc = KDPC("Dpc")
        KeInitializeDpc(dpc, routine, None)
        await KeInsertQueueDpc(dpc, None, None)
        await KeInsertQueueDpc(dpc, None, None)

    # Where the second insertion comes too early there is one run, and no race.
    assert codes_of_all_runs(script) == ({None} if locks else {None, "ke.data-race"})


@pytest.mark.rule("KE-DPC-01")
def test_what_a_dpc_queues_to_its_own_processor_is_ordered_behind_all_of_it() -> None:
    async def script(lab: Lab) -> None:
        field = Field()
        second = field_dpc(field.load)

        async def routine(*arguments: Any) -> None:
            await KeInsertQueueDpc(second, None, None)
            field.store()

        first = KDPC("First")
        KeInitializeDpc(first, routine, None)
        await KeInsertQueueDpc(first, None, None)

    assert codes_of_all_runs(script) == {None}


@pytest.mark.rule("KE-ORD-06", "KE-DPC-07")
@pytest.mark.parametrize("flushes", [True, False])
def test_a_flush_is_ordered_behind_the_dpcs_that_were_queued(flushes: bool) -> None:
    async def script(lab: Lab) -> None:
        field = Field()
        await KeInsertQueueDpc(field_dpc(field.store), None, None)
        if flushes:
            await KeFlushQueuedDpcs()
        field.load()

    assert codes_of_all_runs(script) == ({None} if flushes else {"ke.data-race"})


@pytest.mark.rule("KE-ORD-02", "KE-TIMER-04")
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("by_dpc", [True, False])
def test_setting_a_timer_is_ordered_before_its_expiry(whole: bool, by_dpc: bool) -> None:
    async def script(lab: Lab) -> None:
        field, timer = Field(), KTIMER("Timer")
        KeInitializeTimer(timer)

        async def waiter() -> None:
            await KeWaitForSingleObject(timer)
            field.load()

        async def setter() -> None:
            if whole:
                field.store()
            await KeSetTimer(timer, -10_000_000, field_dpc(field.load) if by_dpc else None)
            if not whole:
                field.store()

        await lab.together(setter(), *([] if by_dpc else [waiter()]))

    assert codes_of_all_runs(script) == ({None} if whole else {"ke.data-race"})


@pytest.mark.rule("KE-ORD-06", "KE-RACE-02", "KE-TIMER-06")
@pytest.mark.parametrize("by", ["cancel", "flush"])
def test_cancelling_a_timer_is_not_ordered_behind_its_dpc_and_a_flush_is(by: str) -> None:
    async def script(lab: Lab) -> None:
        field, timer = Field(), KTIMER("Timer")
        KeInitializeTimer(timer)
        await KeSetTimer(timer, -10_000_000, field_dpc(field.store))
        await lab.sleep(2)
        await KeCancelTimer(timer)
        if by == "flush":
            await KeFlushQueuedDpcs()
        field.load()

    assert codes_of_all_runs(script) == ({None} if by == "flush" else {"ke.data-race"})


@pytest.mark.rule("KE-ORD-06", "KE-TIMER-13")
@pytest.mark.parametrize("waits", [True, False])
def test_deleting_a_timer_with_wait_is_ordered_behind_its_callback(waits: bool) -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def callback(Timer: Any, Context: Any) -> None:
            field.store()

        timer = await ExAllocateTimer(callback, None, 0)
        assert timer is not None
        await ExSetTimer(timer, -10_000_000, 0, None)
        await lab.sleep(2)
        await ExDeleteTimer(timer, True, waits, None)
        field.load()

    assert codes_of_all_runs(script) == ({None} if waits else {"ke.data-race"})


def test_reading_that_a_timer_is_signalled_is_ordered_behind_setting_it() -> None:
    async def script(lab: Lab) -> None:
        field, timer = Field(), KTIMER("Timer")
        KeInitializeTimer(timer)

        async def setter() -> None:
            field.store()
            await KeSetTimer(timer, -10_000_000, None)

        async def reader() -> None:
            if await KeReadStateTimer(timer):
                field.load()

        await lab.together(setter(), reader())

    assert codes_of_all_runs(script) == {None}


@pytest.mark.rule("KE-ORD-02", "KE-WORK-06")
@pytest.mark.parametrize("whole", [True, False])
def test_queueing_a_bare_work_item_is_ordered_before_its_routine(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        field, item = Field(), WORK_QUEUE_ITEM("Item")

        async def routine(Context: Any) -> None:
            field.load()

        ExInitializeWorkItem(item, routine, None)
        if whole:
            field.store()
        await ExQueueWorkItem(item, DelayedWorkQueue)
        if not whole:
            field.store()

    assert codes_of_all_runs(script) == ({None} if whole else {"ke.data-race"})


@pytest.mark.rule("KE-ORD-01", "KE-THREAD-01")
@pytest.mark.parametrize("whole", [True, False])
def test_creating_a_thread_is_ordered_before_it_and_the_wait_for_it_behind_it(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def routine(Context: Any) -> None:
            field.store()

        field.store()
        _, handle, _ = await PsCreateSystemThread(THREAD_ALL_ACCESS, None, None, routine, None)
        _, thread, _ = await ObReferenceObjectByHandle(handle, THREAD_ALL_ACCESS, None, KernelMode)
        if whole:
            await KeWaitForSingleObject(thread)
        field.load()

    assert codes_of_all_runs(script) == ({None} if whole else {"ke.data-race"})
