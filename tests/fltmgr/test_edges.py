"""What of the filter manager orders threads, and what does not: each edge with it and without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fltmgr.kit import LOWER, UPPER, Lab, Run, Script, all_runs, queue, resumes, resumes_post, run, sample
from racing import Field

from kemu.fltmgr.teardown import BeginTeardown, EndTeardown
from kemu.runtime import Point
from kemu.scenario.world import LoadedDriver
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_CALLBACK_DATA_QUEUE,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_RELATED_OBJECTS,
    FltAllocateGenericWorkItem,
    FltCbdqInitialize,
    FltCbdqInsertIo,
    FltCbdqRemoveNextIo,
    FltClearCancelCompletion,
    FltCompletePendedPreOperation,
    FltFreeGenericWorkItem,
    FltObjectDereference,
    FltObjectReference,
    FltQueueGenericWorkItem,
    FltSetCancelCompletion,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    CONTAINING_RECORD,
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    KSPIN_LOCK,
    LIST_ENTRY,
    DelayedWorkQueue,
    InitializeListHead,
    InsertTailList,
    KeAcquireSpinLock,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
    KeSetEvent,
    KeWaitForSingleObject,
    RemoveEntryList,
)

RACE = "ke.data-race"
PASS = FLT_PREOP_SUCCESS_NO_CALLBACK
LOOK = FLT_PREOP_SUCCESS_WITH_CALLBACK


def plain(script: Script, **options: Any) -> Run:
    """The plain run of *script* with race detection."""
    return run(script, races=True, **options)


def codes_of_all_runs(script: Script, **options: Any) -> set[str | None]:
    """The findings of all runs of *script* with race detection."""
    return {one.code for one in all_runs(script, races=True, **options)}


def some_codes(script: Script, runs: int = 60, **options: Any) -> set[str | None]:
    """The findings of random runs of *script* with race detection."""
    return {one.code for one in sample(script, runs, races=True, **options)}


def does(*actions: Callable[[], object], returns: int = PASS) -> Any:
    """A pre-operation callback."""

    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        for action in actions:
            action()
        return returns

    return pre


def then(*actions: Callable[[], object]) -> Any:
    """A post-operation callback."""

    async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
        for action in actions:
            action()
        return FLT_POSTOP_FINISHED_PROCESSING

    return post


async def a_while(lab: Lab) -> None:
    """Let everybody else run. Time orders nothing."""
    await lab.sleep(0.1)


# Start, callbacks, end.


@pytest.mark.parametrize("whole", [True, False])
def test_attaching_is_ordered_before_the_callbacks(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def user() -> None:
            file = await lab.open()
            await file.read(1)

        async def setup(*arguments: Any) -> int:
            field.store()
            return STATUS_SUCCESS

        # The user is there before the filter: starting its thread orders nothing.
        thread = lab.start("user", user())
        await lab.filter("A", UPPER, {IRP_MJ_READ: (does(field.load), None)}, InstanceSetupCallback=setup)
        if not whole:
            field.store()
        await thread.join()

    assert plain(script).code == (None if whole else RACE)
    assert some_codes(script) <= {None, RACE} if not whole else some_codes(script) == {None}


def test_attaching_is_ordered_before_a_callback_of_an_instance_without_a_preoperation() -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def user() -> None:
            file = await lab.open()
            await file.read(1)

        thread = lab.start("user", user())
        field.store()
        await lab.filter("A", UPPER, {IRP_MJ_READ: (None, then(field.load))})
        await thread.join()

    assert some_codes(script) == {None}


@pytest.mark.rule("FLT-STACK-09")
def test_two_callbacks_of_one_instance_are_not_ordered() -> None:
    """Each takes and drops run-down protection of the instance, and that orders neither."""

    async def script(lab: Lab) -> None:
        field = Field()
        await lab.filter("A", UPPER, {IRP_MJ_READ: (does(field.store), None)})

        async def user() -> None:
            file = await lab.open()
            await file.read(1)

        await lab.together(user(), user())

    assert plain(script).code == RACE
    assert some_codes(script) == {RACE}


async def read_once(lab: Lab) -> None:
    file = await lab.open()
    await file.read(1)


async def loaded(lab: Lab, *actions: Callable[[], object], **callbacks: Any) -> LoadedDriver:
    """A filter whose pre-read does *actions*, used by a thread that nobody joins."""
    filter_ = await lab.filter("A", UPPER, {IRP_MJ_READ: (does(*actions), None)}, **callbacks)
    lab.start("user", read_once(lab))
    await a_while(lab)
    return filter_


@pytest.mark.parametrize("how", ["unload", "detach"])
@pytest.mark.parametrize("whole", [True, False])
def test_callbacks_are_ordered_before_the_end_of_the_teardown(how: str, whole: bool) -> None:
    async def script(lab: Lab) -> None:
        field = Field()
        filter_ = await loaded(lab, field.store)
        if whole:
            await getattr(filter_, how)()
        field.load()

    assert plain(script).code == (None if whole else RACE)


@pytest.mark.parametrize("whole", [True, False])
def test_callbacks_are_ordered_before_teardown_complete_and_not_before_teardown_start(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def callback(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            field.load()

        name = "InstanceTeardownCompleteCallback" if whole else "InstanceTeardownStartCallback"
        filter_ = await loaded(lab, field.store, **{name: callback})
        await filter_.detach()

    assert plain(script).code == (None if whole else RACE)


@pytest.mark.parametrize("where", ["in the callback", "in the thread that resumes"])
def test_a_pended_operation_is_ordered_before_teardown_complete(where: str) -> None:
    """By both: the callback that has returned, and whoever has resumed the operation."""

    async def script(lab: Lab) -> None:
        field = Field()
        pended: list[FLT_CALLBACK_DATA] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            pended.append(Data)
            if where == "in the callback":
                field.store()
            return FLT_PREOP_PENDING

        async def complete(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            field.load()

        async def resumer() -> None:
            if where != "in the callback":
                field.store()
            await FltCompletePendedPreOperation(pended[0], PASS, None)

        filter_ = await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, None)}, InstanceTeardownCompleteCallback=complete)
        lab.start("user", read_once(lab))
        await a_while(lab)
        lab.start("resumer", resumer())
        await a_while(lab)
        await filter_.detach()

    assert plain(script).code is None


def test_a_detach_by_another_thread_is_ordered_before_the_end_of_the_unload() -> None:
    async def script(lab: Lab, whole: bool) -> None:
        field = Field()

        async def callback(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            field.store()

        filter_ = await lab.filter("A", UPPER, {}, InstanceTeardownCompleteCallback=callback)

        async def detacher() -> None:
            await filter_.detach()

        lab.start("detacher", detacher())
        await a_while(lab)
        if whole:
            await filter_.unload()
        field.load()

    assert plain(lambda lab: script(lab, True)).code is None
    assert plain(lambda lab: script(lab, False)).code == RACE


def test_an_unload_that_waits_for_the_detach_of_another_thread_is_ordered_behind_it() -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def callback(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            await Point("step")
            field.store()

        filter_ = await lab.filter("A", UPPER, {}, InstanceTeardownCompleteCallback=callback)

        async def unloader() -> None:
            await filter_.unload()
            field.load()

        await lab.together(filter_.detach(), unloader())

    assert codes_of_all_runs(script, bound=2) == {None}


def test_the_end_of_one_instance_is_ordered_before_the_teardown_of_the_next_that_waited_for_it() -> None:
    async def script(lab: Lab) -> None:
        field = Field()
        seen: list[object] = []

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            field.load()
            seen.append(FltObjects.Instance)

        filter_ = await lab.filter("A", UPPER, {}, InstanceTeardownStartCallback=start)
        await lab.attach(filter_, LOWER)
        first = filter_.filter.instances[0]

        async def detacher() -> None:
            assert await BeginTeardown(first)
            field.store()
            await lab.sleep(0.2)
            await EndTeardown(first)

        lab.start("detacher", detacher())
        await a_while(lab)
        await filter_.unload()
        assert len(seen) == 1

    assert plain(script).code is None


def test_setting_an_instance_up_is_ordered_before_taking_it_down() -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def setup(*arguments: Any) -> int:
            field.store()
            return STATUS_SUCCESS

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            field.load()

        filter_ = await lab.filter("A", UPPER, {}, InstanceSetupCallback=setup, InstanceTeardownStartCallback=start)
        await filter_.detach()
        lab.start("other", lab.attach(filter_, UPPER))
        await a_while(lab)
        await filter_.unload()

    assert plain(script).code is None


@pytest.mark.parametrize("what", ["unload", "detach", "attach"])
def test_starting_is_ordered_before_the_other_callbacks_of_a_filter(what: str) -> None:
    async def script(lab: Lab, whole: bool) -> None:
        field = Field()
        found: list[LoadedDriver] = []

        async def callback(*arguments: Any) -> int:
            if found:
                field.load()
            if found and what == "unload":
                await FltUnregisterFilter(found[0].filter)
            return STATUS_SUCCESS

        async def other() -> None:
            await a_while(lab)
            if what == "attach":
                await lab.attach(found[0], LOWER)
            else:
                await getattr(found[0], what)()

        lab.start("other", other())
        if whole:
            field.store()
        found.append(
            await lab.filter(
                "A",
                UPPER,
                {},
                InstanceSetupCallback=callback,
                InstanceQueryTeardownCallback=callback,
                FilterUnloadCallback=callback,
            )
        )
        if not whole:
            field.store()
        await a_while(lab)

    assert plain(lambda lab: script(lab, True)).code is None
    assert plain(lambda lab: script(lab, False)).code == RACE


@pytest.mark.parametrize("whole", [True, False])
def test_work_items_are_ordered_before_the_end_of_the_unload(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        field = Field()
        filter_ = await lab.filter("A", UPPER, {})

        async def routine(WorkItem: Any, FltObject: Any, Context: Any) -> None:
            field.store()
            await FltFreeGenericWorkItem(WorkItem)

        item = await FltAllocateGenericWorkItem()
        assert item is not None
        await FltQueueGenericWorkItem(item, filter_.filter, routine, DelayedWorkQueue, None)
        await a_while(lab)
        if whole:
            await filter_.unload()
        field.load()

    assert plain(script).code == (None if whole else RACE)


@pytest.mark.parametrize("whole", [True, False])
def test_dropping_a_reference_is_ordered_before_the_end_of_the_unload_and_before_nothing_else(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        fields = [Field("own 0"), Field("own 1")] if whole else [Field("shared")] * 2
        filter_ = await lab.filter("A", UPPER, {})

        async def user(field: Field) -> None:
            await FltObjectReference(filter_.filter)
            field.store()
            await FltObjectDereference(filter_.filter)

        lab.start("user0", user(fields[0]))
        lab.start("user1", user(fields[1]))
        await a_while(lab)
        await filter_.unload()
        for field in fields:
            field.store()

    assert plain(script).code == (None if whole else RACE)


# One operation.


@pytest.mark.parametrize("completion", ["inline", "later"])
@pytest.mark.parametrize("whole", [True, False])
def test_the_preoperation_is_ordered_before_the_postoperation_of_the_same_operation(
    completion: str, whole: bool
) -> None:
    async def script(lab: Lab) -> None:
        mine: dict[str, Field] = {}

        def pre(Data: FLT_CALLBACK_DATA) -> None:
            mine.setdefault(Data.Thread.label if whole and Data.Thread else "", Field()).store()

        async def pre_read(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            pre(Data)
            return LOOK

        async def post_read(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            pre(Data)
            return FLT_POSTOP_FINISHED_PROCESSING

        await lab.filter("A", UPPER, {IRP_MJ_READ: (pre_read, post_read)})
        file = [await lab.quiet_open(), await lab.quiet_open()]

        async def user0() -> None:
            await file[0].read(1)

        async def user1() -> None:
            await file[1].read(1)

        lab.completes(completion)
        await lab.together(user0(), user1())

    assert some_codes(script) == ({None} if whole else {RACE})


def test_the_preoperation_is_ordered_before_the_postoperation_that_a_teardown_drains() -> None:
    drained: list[int] = []

    async def script(lab: Lab) -> None:
        field = Field()

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            field.load()
            drained.append(Flags)
            return FLT_POSTOP_FINISHED_PROCESSING

        filter_ = await lab.filter("A", UPPER, {IRP_MJ_READ: (does(field.store, returns=LOOK), post)})
        file = await lab.quiet_open()
        lab.completes("later")

        async def user() -> None:
            await file.read(1)

        await lab.together(user(), filter_.detach())

    assert some_codes(script, 150) == {None}
    assert any(drained)


def test_no_preoperation_is_ordered_before_a_drained_postoperation_either() -> None:
    async def script(lab: Lab) -> None:
        field = Field()
        filter_ = await lab.filter("B", LOWER, {IRP_MJ_READ: (None, then(field.load))})
        await lab.filter("A", UPPER, {IRP_MJ_READ: (does(field.store), None)})
        file = await lab.quiet_open()
        lab.completes("later")

        async def user() -> None:
            await file.read(1)

        await lab.together(user(), filter_.detach())

    assert some_codes(script, 150) == {None}


@pytest.mark.parametrize("major", [IRP_MJ_CREATE, IRP_MJ_READ])
@pytest.mark.parametrize("whole", [True, False])
def test_what_was_done_before_an_operation_was_handed_over_is_ordered_before_what_runs_next(
    major: int, whole: bool
) -> None:
    """Pre-operation, work item, post-operation, and the program that waits for the completion."""

    async def script(lab: Lab) -> None:
        field = Field()

        async def work(Data: FLT_CALLBACK_DATA) -> None:
            if whole:
                field.store()
            await FltCompletePendedPreOperation(Data, LOOK, None)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            field.store()
            await queue(Data, work)
            if not whole:
                field.store()
            return FLT_PREOP_PENDING

        await lab.filter("A", UPPER, {major: (pre, then(field.load))})

        async def user() -> None:
            file = await lab.open()
            await file.read(1)
            field.load()

        await lab.together(user())

    if whole:
        assert codes_of_all_runs(script) == {None}
    else:
        # The post-create runs in the creating thread, after the callback; it is the program that was wronged there.
        assert (RACE in codes_of_all_runs(script)) == (major == IRP_MJ_READ)


def test_a_completion_below_is_ordered_before_a_synchronised_postoperation() -> None:
    async def script(lab: Lab) -> None:
        field = Field()
        await lab.filter("A", UPPER, {IRP_MJ_READ: (does(returns=FLT_PREOP_SYNCHRONIZE), then(field.load))})
        await lab.filter("B", LOWER, {IRP_MJ_READ: (does(returns=LOOK), then(field.store))})
        file = await lab.quiet_open()
        lab.completes("later")
        await file.read(1)

    assert codes_of_all_runs(script) == {None}


def test_a_pended_postoperation_is_ordered_before_what_runs_after_it() -> None:
    async def script(lab: Lab, whole: bool) -> None:
        field = Field()

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            if whole:
                field.store()
            await queue(Data, resumes_post)
            if not whole:
                field.store()
            return FLT_POSTOP_MORE_PROCESSING_REQUIRED

        await lab.filter("A", LOWER, {IRP_MJ_READ: (does(returns=LOOK), post)})
        await lab.filter("B", UPPER, {IRP_MJ_READ: (does(returns=LOOK), then(field.load))})
        await read_once(lab)

    assert codes_of_all_runs(lambda lab: script(lab, True)) == {None}
    assert plain(lambda lab: script(lab, False)).code == RACE


# Cancellation.


@pytest.mark.parametrize("whole", [True, False])
def test_setting_a_cancel_callback_is_ordered_before_it(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def cancelled(Data: FLT_CALLBACK_DATA) -> None:
            field.load()
            Data.IoStatus.Status = STATUS_CANCELLED
            await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if whole:
                field.store()
            await FltSetCancelCompletion(Data, cancelled)
            if not whole:
                field.store()
            return FLT_PREOP_PENDING

        await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, None)})
        file = await lab.quiet_open(overlapped=True)

        async def reader() -> None:
            await (await file.begin_read(1)).wait()

        async def canceller() -> None:
            while not await file.cancel_all():
                await Point("again")

        lab.start("reader", reader())
        await a_while(lab)
        lab.start("canceller", canceller())

    assert plain(script).code == (None if whole else RACE)


def test_taking_a_cancel_callback_back_is_ordered_behind_setting_it() -> None:
    async def script(lab: Lab, whole: bool) -> None:
        field = Field()
        pended: list[FLT_CALLBACK_DATA] = []

        async def cancelled(Data: FLT_CALLBACK_DATA) -> None:
            raise AssertionError

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if whole:
                field.store()
            await FltSetCancelCompletion(Data, cancelled)
            if not whole:
                field.store()
            pended.append(Data)
            return FLT_PREOP_PENDING

        await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, None)})
        lab.start("user", read_once(lab))
        await a_while(lab)
        assert await FltClearCancelCompletion(pended[0]) == STATUS_SUCCESS
        field.load()
        await FltCompletePendedPreOperation(pended[0], PASS, None)

    assert plain(lambda lab: script(lab, True)).code is None
    assert plain(lambda lab: script(lab, False)).code == RACE


def test_whoever_takes_a_cancel_callback_back_uses_the_callback_data() -> None:
    async def script(lab: Lab) -> None:
        pended: list[FLT_CALLBACK_DATA] = []

        async def cancelled(Data: FLT_CALLBACK_DATA) -> None:
            raise AssertionError

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await FltSetCancelCompletion(Data, cancelled)
            pended.append(Data)
            await KeSetEvent(parked)
            return FLT_PREOP_PENDING

        parked = lab.event("Parked")

        async def worker(completes: bool) -> None:
            if completes:
                await FltCompletePendedPreOperation(pended[0], PASS, None)
            else:
                await FltClearCancelCompletion(pended[0])

        await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, None)})
        lab.start("user", read_once(lab))
        await KeWaitForSingleObject(parked)
        await lab.together(worker(False), worker(True))

    one = plain(script)
    assert one.code == "hand-off-race"
    # The first use is inside the routine; the line is that of the driver's call.
    assert f"worker uses the callback data of IRP_MJ_READ at {__file__}" in one.finding.detail


class Unlocked:
    """A cancel-safe queue whose driver does not lock it: what orders here is the filter manager's own."""

    def __init__(self) -> None:
        self.queue = FLT_CALLBACK_DATA_QUEUE("Queue")
        self.head = LIST_ENTRY()
        self.completed: list[Callable[[], object]] = []
        InitializeListHead(self.head)

    async def setup(self, FltObjects: FLT_RELATED_OBJECTS, *flags: int) -> int:
        return await FltCbdqInitialize(
            FltObjects.Instance,
            self.queue,
            self.insert,
            self.remove,
            self.peek,
            self.acquire,
            self.release,
            self.complete,
        )

    async def insert(self, Cbdq: Any, Data: FLT_CALLBACK_DATA, InsertContext: Any) -> int:
        InsertTailList(self.head, Data.QueueLinks)
        return STATUS_SUCCESS

    async def remove(self, Cbdq: Any, Data: FLT_CALLBACK_DATA) -> None:
        RemoveEntryList(Data.QueueLinks)

    async def peek(self, Cbdq: Any, Data: FLT_CALLBACK_DATA | None, PeekContext: Any) -> FLT_CALLBACK_DATA | None:
        first = self.head.Flink
        return None if first is None or first is self.head else CONTAINING_RECORD(first)

    async def acquire(self, Cbdq: Any) -> None:
        pass

    async def release(self, Cbdq: Any, Irql: Any) -> None:
        pass

    async def complete(self, Cbdq: Any, Data: FLT_CALLBACK_DATA) -> None:
        for action in self.completed:
            action()
        Data.IoStatus.Status = STATUS_CANCELLED
        await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)


@pytest.mark.parametrize("how", ["removed", "cancelled"])
@pytest.mark.parametrize("whole", [True, False])
def test_inserting_into_a_queue_is_ordered_before_taking_out_of_it(how: str, whole: bool) -> None:
    async def script(lab: Lab) -> None:
        field, unlocked = Field(), Unlocked()
        unlocked.completed.append(field.load)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if whole:
                field.store()
            await FltCbdqInsertIo(unlocked.queue, Data, None, None)
            if not whole:
                field.store()
            return FLT_PREOP_PENDING

        await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, None)}, InstanceSetupCallback=unlocked.setup)
        file = await lab.quiet_open(overlapped=True)

        async def reader() -> None:
            await (await file.begin_read(1)).wait()

        lab.start("reader", reader())
        await a_while(lab)
        if how == "cancelled":
            await file.cancel_all()
        else:
            Data = await FltCbdqRemoveNextIo(unlocked.queue, None)
            assert Data is not None
            field.load()
            await FltCompletePendedPreOperation(Data, PASS, None)

    assert plain(script).code == (None if whole else RACE)


# Hand-over.


Touch = Callable[[FLT_CALLBACK_DATA, FLT_RELATED_OBJECTS], object]


def write_status(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
    Data.IoStatus.Status = STATUS_SUCCESS


def write_parameters(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
    Data.Iopb.Parameters.Length = 1


def write_block(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
    Data.Iopb.IrpFlags = 0


def write_context(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
    Data.QueueContext = 1


TOUCHES: dict[str, Touch] = {
    "Data": lambda Data, _: Data.Flags,
    "Data written": write_context,
    "FltObjects": lambda _, FltObjects: FltObjects.Instance,
    "Iopb": lambda Data, _: Data.Iopb.MajorFunction,
    "Iopb written": write_block,
    "Parameters": lambda Data, _: Data.Iopb.Parameters.Length,
    "Parameters written": write_parameters,
    "IoStatus": lambda Data, _: Data.IoStatus.Status,
    "IoStatus written": write_status,
}


def handing_over(touch: Touch, *, before: bool = False) -> Any:
    """A script whose pre-create hands the operation to a work item, and touches it after that (or before it)."""

    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if before:
                touch(Data, FltObjects)
                Data.IoStatus.Status = STATUS_SUCCESS
            await queue(Data, completes)
            if not before:
                touch(Data, FltObjects)
            return FLT_PREOP_PENDING

        await lab.filter("A", UPPER, {IRP_MJ_CREATE: (pre, None)})
        await lab.open()

    async def completes(Data: FLT_CALLBACK_DATA) -> None:
        Data.IoStatus.Status = STATUS_SUCCESS
        await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)

    return script


@pytest.mark.rule("FLT-WORK-06", "FLT-CBD-18", "FLT-RACE-01")
@pytest.mark.parametrize("name", TOUCHES)
def test_a_touch_after_the_hand_over_is_seen_in_the_plain_run_where_it_came_in_time(name: str) -> None:
    one = plain(handing_over(TOUCHES[name]))
    assert one.code == "hand-off-race"
    assert "script uses the callback data of IRP_MJ_CREATE at " in one.finding.detail
    assert "then wk:delayed#0 gives it back at " in one.finding.detail
    assert one.finding.thread == "wk:delayed#0"


@pytest.mark.parametrize("name", TOUCHES)
def test_without_race_detection_the_same_run_is_clean(name: str) -> None:
    assert run(handing_over(TOUCHES[name])).code is None


def test_where_the_touch_came_too_late_it_is_found_as_before() -> None:
    codes = codes_of_all_runs(handing_over(TOUCHES["Iopb"]))
    assert codes == {"hand-off-race", "cbd-use-after-release"}


@pytest.mark.parametrize("name", TOUCHES)
def test_a_touch_before_the_hand_over_is_none_of_its_business(name: str) -> None:
    assert codes_of_all_runs(handing_over(TOUCHES[name], before=True)) == {None}


def test_a_touch_that_the_new_owner_waits_for_is_legal() -> None:
    async def script(lab: Lab) -> None:
        touched = lab.event("Touched")

        async def work(Data: FLT_CALLBACK_DATA) -> None:
            await KeWaitForSingleObject(touched)
            await FltCompletePendedPreOperation(Data, PASS, None)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await queue(Data, work)
            _ = Data.Iopb.MajorFunction
            await KeSetEvent(touched)
            return FLT_PREOP_PENDING

        await lab.filter("A", UPPER, {IRP_MJ_CREATE: (pre, None)})
        await lab.open()

    assert codes_of_all_runs(script) == {None}


@pytest.mark.parametrize("whole", [True, False])
def test_a_touch_after_the_operation_was_handed_back_is_legal(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        scanned = lab.event("Scanned")

        async def work(Data: FLT_CALLBACK_DATA) -> None:
            _ = Data.Iopb.MajorFunction
            await KeSetEvent(scanned)
            if not whole:
                # It has given the operation back to the other thread, and looks all the same.
                _ = Data.Iopb.MajorFunction

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await queue(Data, work)
            await KeWaitForSingleObject(scanned)
            _ = Data.Iopb.MajorFunction
            await FltCompletePendedPreOperation(Data, PASS, None)
            return FLT_PREOP_PENDING

        await lab.filter("A", UPPER, {IRP_MJ_CREATE: (pre, None)})
        await lab.open()

    codes = codes_of_all_runs(script)
    assert codes == ({None} if whole else {"hand-off-race"})


def test_a_post_operation_is_handed_over_as_well() -> None:
    async def script(lab: Lab) -> None:
        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            await queue(Data, resumes_post)
            _ = Data.IoStatus.Status
            return FLT_POSTOP_MORE_PROCESSING_REQUIRED

        await lab.filter("A", LOWER, {IRP_MJ_READ: (does(returns=LOOK), post)})
        await read_once(lab)

    assert plain(script).code == "hand-off-race"


@pytest.mark.parametrize("phase", ["pre", "post"])
def test_what_kemu_looks_at_when_a_callback_returns_is_no_use(phase: str) -> None:
    """The callback has looked at everything, and written a status, before it handed the operation over."""

    async def script(lab: Lab) -> None:
        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            for touch in TOUCHES.values():
                touch(Data, FltObjects)
            await queue(Data, resumes_post)
            return FLT_POSTOP_MORE_PROCESSING_REQUIRED

        async def complete(Data: FLT_CALLBACK_DATA) -> None:
            await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            for touch in TOUCHES.values():
                touch(Data, FltObjects)
            await queue(Data, complete)
            return FLT_PREOP_PENDING

        callbacks = (pre, None) if phase == "pre" else (does(returns=LOOK), post)
        await lab.filter("A", LOWER, {IRP_MJ_READ: callbacks})
        await read_once(lab)

    assert codes_of_all_runs(script) == {None}


def test_a_stale_touch_is_found_where_the_data_are_valid_again() -> None:
    """The post-operation callback has got the callback data when the pre-operation callback still looks at it."""

    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await queue(Data, resumes(LOOK))
            await Point("the operation goes on")
            _ = Data.Iopb.MajorFunction
            return FLT_PREOP_PENDING

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            await Point("it is valid again")
            return FLT_POSTOP_FINISHED_PROCESSING

        await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, post)})
        await read_once(lab)

    runs = all_runs(script, races=True)
    assert {one.code for one in runs} == {"hand-off-race", "cbd-use-after-release"}
    late = [
        one
        for one in runs
        if one.code == "hand-off-race" and "wk:delayed#0 gives the callback data" in one.finding.detail
    ]
    assert late
    assert {one.finding.thread for one in late} == {"script"}


def test_an_operation_on_a_list_of_the_drivers_own_is_handed_over_by_its_lock() -> None:
    async def script(lab: Lab, touches: bool) -> None:
        lock, parked = KSPIN_LOCK("Parked"), list[FLT_CALLBACK_DATA]()
        KeInitializeSpinLock(lock)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            irql = await KeAcquireSpinLock(lock)
            parked.append(Data)
            _ = Data.Iopb.MajorFunction
            await KeReleaseSpinLock(lock, irql)
            if touches:
                _ = Data.Iopb.MajorFunction
            return FLT_PREOP_PENDING

        await lab.filter("A", UPPER, {IRP_MJ_READ: (pre, None)})
        lab.start("user", read_once(lab))
        while not parked:
            await a_while(lab)
        irql = await KeAcquireSpinLock(lock)
        Data = parked.pop()
        await KeReleaseSpinLock(lock, irql)
        await FltCompletePendedPreOperation(Data, PASS, None)

    assert plain(lambda lab: script(lab, False)).code is None
    assert plain(lambda lab: script(lab, True)).code == "hand-off-race"
