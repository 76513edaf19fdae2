"""Races of starting, tearing down, dismounting and unloading: each order there is, and which of them does harm."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, UPPER, Lab, all_runs, codes, queue, resumes, run, sample
from racing import Field

from kemu.io.constants import IRP_MJ_CLEANUP, IRP_MJ_CLOSE, IRP_MJ_CREATE, IRP_MJ_READ
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FLTFL_FILTER_UNLOAD_MANDATORY,
    FLTFL_INSTANCE_TEARDOWN_MANUAL,
    FLTFL_INSTANCE_TEARDOWN_VOLUME_DISMOUNT,
    FltAllocateGenericWorkItem,
    FltCompletePendedPreOperation,
    FltFreeGenericWorkItem,
    FltQueueGenericWorkItem,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import (
    STATUS_FLT_DELETING_OBJECT,
    STATUS_FLT_DO_NOT_DETACH,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    FAST_MUTEX,
    DelayedWorkQueue,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    KeSetEvent,
    KeWaitForSingleObject,
)


class Parking:
    """A filter that parks reads on a list of its own, unless it is shutting down, and resumes them in TeardownStart."""

    def __init__(self, lab: Lab, *, locks: bool) -> None:
        self.lab = lab
        self.locks = locks
        self.mutex = FAST_MUTEX("Mutex")
        ExInitializeFastMutex(self.mutex)
        self.closing = False
        self.parked: list[FLT_CALLBACK_DATA] = []

    async def pre(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        if self.locks:
            await ExAcquireFastMutex(self.mutex)
        closing = self.closing
        self.lab.note("checks", closing)
        if not self.locks:
            await self.lab.step("between the check and the hand-over")
        if not closing:
            self.parked.append(Data)
            self.lab.note("parks")
        if self.locks:
            await ExReleaseFastMutex(self.mutex)
        return FLT_PREOP_SUCCESS_NO_CALLBACK if closing else FLT_PREOP_PENDING

    async def start(self, FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        self.lab.note("start begins")
        await ExAcquireFastMutex(self.mutex)
        self.closing = True
        parked, self.parked = self.parked, []
        self.lab.note("drains")
        await ExReleaseFastMutex(self.mutex)
        for data in parked:
            await FltCompletePendedPreOperation(data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)
        self.lab.note("start ends")


@pytest.mark.rule("FLT-RACE-20", "FLT-INST-21", "FLT-INST-19")
@pytest.mark.parametrize("locks", [True, False])
def test_a_callback_past_its_check_pends_after_the_drain(locks: bool) -> None:
    async def script(lab: Lab) -> None:
        parking = Parking(lab, locks=locks)
        driver = await lab.filter(
            "D", LOWER, {IRP_MJ_READ: (parking.pre, None)}, InstanceTeardownStartCallback=parking.start
        )
        file = await lab.quiet_open(overlapped=True)

        async def reader() -> None:
            await (await file.begin_read(1)).wait()

        await lab.together(reader(), driver.detach())

    # The flag and the list are no cells: with a lock their order is that of the lock.
    runs = all_runs(script, bound=3, unseen=True)
    orders = {tuple(note.what for note in one.notes) for one in runs}
    whole = ("start begins", "drains", "start ends")
    # TeardownStart as a whole after the hand-over, before the check, and before the operation is shown.
    assert ("checks", "parks", *whole) in orders
    assert (*whole, "checks") in orders
    assert whole in orders
    late = [one for one in runs if {"parks", "drains"} <= {*one.order} and one.before("drains", "parks")]
    assert codes([one for one in runs if one not in late]) == {None}
    assert bool(late) is not locks
    if not locks:
        # TeardownStart entirely between the check and the hand-over: nobody will resume the read.
        assert ("checks", *whole, "parks") in orders
        assert codes(late) <= {"pend-after-teardown-start", "teardown-pended-pre"}


@pytest.mark.rule("FLT-RACE-21", "FLT-INST-27", "FLT-INST-28")
@pytest.mark.parametrize("completes", [True, False])
def test_a_worker_holds_an_operation_that_the_drain_cannot_see(completes: bool) -> None:
    """The worker completes before TeardownStart has returned, after it, or never."""

    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            async def work(Data: FLT_CALLBACK_DATA) -> None:
                lab.note("dequeued")
                await lab.step("holds it")
                if completes:
                    lab.note("completes")
                    await resumes(FLT_PREOP_SUCCESS_NO_CALLBACK)(Data)

            pended = await queue(Data, work) == STATUS_SUCCESS
            return FLT_PREOP_PENDING if pended else FLT_PREOP_SUCCESS_NO_CALLBACK

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            lab.note("start begins")
            await lab.step("finds nothing to drain")
            lab.note("start ends")

        async def complete(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            lab.note("complete")

        driver = await lab.filter(
            "D", LOWER, {IRP_MJ_READ: (pre, None)},
            InstanceTeardownStartCallback=start, InstanceTeardownCompleteCallback=complete,
        )  # fmt: skip
        file = await lab.quiet_open(overlapped=True)
        read = await file.begin_read(1)
        await driver.detach()
        await read.wait()

    runs = all_runs(script, bound=2)
    if completes:
        assert codes(runs) == {None}
        assert {one.before("completes", "start begins") for one in runs} == {True, False}
        assert {one.before("completes", "start ends") for one in runs} == {True, False}
        assert all(one.before("completes", "complete") for one in runs)
    else:
        assert codes(runs) == {"teardown-pended-pre"}
        assert all("complete" not in one.order for one in runs)


@pytest.mark.rule("FLT-RACE-26", "FLT-INST-28")
@pytest.mark.parametrize("waits_for", ["pended", "nothing"])
def test_teardown_start_waits_for_what_its_own_operation_has_to_do(waits_for: str) -> None:
    async def script(lab: Lab) -> None:
        done = lab.event("done")
        parked: list[FLT_CALLBACK_DATA] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            parked.append(Data)
            return FLT_PREOP_PENDING

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            if waits_for == "pended":
                # It is set when the read is over, which this thread is to resume.
                await KeWaitForSingleObject(done)
            await FltCompletePendedPreOperation(parked.pop(), FLT_PREOP_SUCCESS_NO_CALLBACK, None)

        driver = await lab.filter("D", LOWER, {IRP_MJ_READ: (pre, None)}, InstanceTeardownStartCallback=start)
        file = await lab.quiet_open(overlapped=True)
        read = await file.begin_read(1)

        async def reader() -> None:
            await read.wait()
            await KeSetEvent(done)

        await lab.together(reader(), driver.detach())

    runs = all_runs(script, bound=2)
    hung = {one.code for one in runs}
    assert hung == ({None} if waits_for == "nothing" else {"teardown-hang"})
    if waits_for == "pended":
        assert "InstanceTeardownStart" in runs[0].finding.detail
        assert "see the completion of IRP_MJ_READ" in runs[0].finding.detail


@pytest.mark.rule("FLT-RACE-29", "FLT-INST-13", "FLT-INST-17", "FLT-INST-15")
def test_detach_unload_and_dismount_at_once_take_an_instance_down_once() -> None:
    async def script(lab: Lab) -> list[Any]:
        volume = lab.add_volume("D:")
        reasons: list[int] = []

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            lab.note(f"start {FltObjects.Volume.label}", Reason)
            reasons.append(Reason)

        async def complete(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            lab.note(f"complete {FltObjects.Volume.label}", Reason)

        lab.completes("inline")
        driver = await lab.filter(
            "D", LOWER, {}, InstanceTeardownStartCallback=start, InstanceTeardownCompleteCallback=complete
        )
        lab._decide(False)
        file = await lab.app.open(r"D:\x")
        await lab.dismount(volume)
        lab._decide(True)

        async def detach() -> int:
            return await driver.detach(volume)

        async def unload() -> int:
            return await driver.unload()

        async def close() -> int:
            return await file.close()

        return await lab.together(detach(), unload(), close())

    runs = sample(script, 400)
    assert codes(runs) == {None}
    for one in runs:
        assert one.order.count("start D:") == one.order.count("complete D:") == 1
        assert one.before("start D:", "complete D:")
    # Each of the three is the one; who comes second is told so, or waits for the end.
    assert {one.note("start D:").value for one in runs} == {
        FLTFL_INSTANCE_TEARDOWN_MANUAL, 0x2, FLTFL_INSTANCE_TEARDOWN_VOLUME_DISMOUNT,
    }  # fmt: skip
    assert {one.result[0] for one in runs} >= {STATUS_SUCCESS, STATUS_FLT_DELETING_OBJECT}
    assert {one.result[1] for one in runs} == {STATUS_SUCCESS}


@pytest.mark.rule("FLT-RACE-29")
@pytest.mark.parametrize("locks", [True, False])
def test_two_teardowns_of_one_filter_change_what_they_share_under_a_lock(locks: bool) -> None:
    async def script(lab: Lab) -> None:
        mutex = FAST_MUTEX("Mutex")
        ExInitializeFastMutex(mutex)
        count = Field("Driver.Instances")
        volume = lab.add_volume("D:")

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            if locks:
                await ExAcquireFastMutex(mutex)
            count.load()
            count.store()
            if locks:
                await ExReleaseFastMutex(mutex)

        driver = await lab.filter("D", LOWER, {}, InstanceTeardownStartCallback=start)
        await lab.together(driver.detach(), driver.detach(volume))

    runs = sample(script, 60, races=True)
    assert codes(runs) == ({None} if locks else {"teardown-reentrancy"})


@pytest.mark.rule("FLT-RACE-29")
def test_a_race_of_one_teardown_with_somebody_else_is_a_plain_race() -> None:
    async def script(lab: Lab) -> None:
        count = Field("Driver.Instances")

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            count.store()

        async def worker() -> None:
            count.store()

        driver = await lab.filter("D", LOWER, {}, InstanceTeardownStartCallback=start)
        await lab.together(driver.detach(), worker())

    assert codes(sample(script, 30, races=True)) == {"ke.data-race"}


@pytest.mark.rule("FLT-RACE-31", "FLT-UNLOAD-11", "FLT-WORK-11")
@pytest.mark.parametrize("handles", [True, False])
def test_an_item_that_queues_itself_again_ends_when_the_unload_begins(handles: bool) -> None:
    """Queued before the unload begins, and then again: refused once it has. An item that is then not freed leaks."""

    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", LOWER, {})
        rounds = 0

        async def routine(WorkItem: Any, FltObject: Any, Context: Any) -> None:
            nonlocal rounds
            rounds += 1
            lab.note("runs")
            status = STATUS_FLT_DELETING_OBJECT
            if rounds < 3:
                status = await FltQueueGenericWorkItem(WorkItem, FltObject, routine, DelayedWorkQueue, None)
                lab.note(f"again: {status}")
            if status != STATUS_SUCCESS and (handles or rounds == 3):
                await FltFreeGenericWorkItem(WorkItem)

        item = await FltAllocateGenericWorkItem()
        assert item is not None
        await FltQueueGenericWorkItem(item, driver.filter, routine, DelayedWorkQueue, None)
        lab.note("unload", await driver.unload())

    runs = all_runs(script, bound=2, unseen=True)
    refused = [one for one in runs if "again: STATUS_FLT_DELETING_OBJECT" in one.order]
    accepted = [one for one in runs if one not in refused]
    assert refused
    assert accepted
    assert codes(accepted) == {None}
    # The item was allocated by the script, which is no driver: what leaks is told at the end of the run, if at all.
    assert all("unload" in one.order for one in runs if one.code is None)
    assert all(one.order[-1] == "unload" for one in runs if one.code is None)


@pytest.mark.rule("FLT-RACE-34", "FLT-UNLOAD-02", "FLT-UNLOAD-09")
@pytest.mark.parametrize("early", [False, True])
def test_a_refused_unload_beside_a_mandatory_one(early: bool) -> None:
    async def script(lab: Lab) -> list[int]:
        async def unload(Flags: int) -> int:
            lab.note("mandatory" if Flags & FLTFL_FILTER_UNLOAD_MANDATORY else "asked")
            if early or Flags & FLTFL_FILTER_UNLOAD_MANDATORY:
                await FltUnregisterFilter(driver.filter)
            return STATUS_FLT_DO_NOT_DETACH

        driver = await lab.filter("D", LOWER, {}, FilterUnloadCallback=unload)

        async def asks() -> int:
            return await driver.unload()

        async def stops() -> int:
            return await driver.unload(mandatory=True)

        return await lab.together(asks(), stops())

    runs = all_runs(script)
    if early:
        assert {one.code for one in runs if one.order[0] == "asked"} == {"unload-refused-after-teardown"}
        assert {one.code for one in runs if one.order[0] == "mandatory"} == {None}
        return
    assert codes(runs) == {None}
    # Refused first and then stopped; stopped first; the stop while the other was being asked.
    assert {tuple(one.order) for one in runs} == {("asked", "mandatory"), ("mandatory",), ("asked",)}
    assert {(one.order[0], tuple(one.result)) for one in runs} >= {
        ("asked", (STATUS_FLT_DO_NOT_DETACH, STATUS_SUCCESS)),
        ("asked", (STATUS_FLT_DO_NOT_DETACH, STATUS_FLT_DELETING_OBJECT)),
        ("mandatory", (STATUS_FLT_DELETING_OBJECT, STATUS_SUCCESS)),
    }


@pytest.mark.rule("FLT-RACE-36", "FLT-INST-34")
@pytest.mark.parametrize("careful", [True, False])
def test_the_first_operation_that_is_seen_may_be_any(careful: bool) -> None:
    """Attached before the create, between any two operations of the file, and after the close."""

    async def script(lab: Lab) -> None:
        known: dict[Any, str] = {}

        async def create(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("create")
            known[FltObjects.FileObject] = "context"
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        def other(name: str) -> Any:
            async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
                lab.note(name)
                context = known.get(FltObjects.FileObject)
                if careful and context is None:
                    return FLT_PREOP_SUCCESS_NO_CALLBACK
                assert context.upper() == "CONTEXT"  # type: ignore[union-attr]
                return FLT_PREOP_SUCCESS_NO_CALLBACK

            return pre

        callbacks: dict[int, Any] = {
            IRP_MJ_CREATE: (create, None), IRP_MJ_READ: (other("read"), None),
            IRP_MJ_CLEANUP: (other("cleanup"), None), IRP_MJ_CLOSE: (other("close"), None),
        }  # fmt: skip
        driver = await lab.filter("D", LOWER, callbacks)
        await driver.detach()

        async def user() -> None:
            file = await lab.open()
            await file.read(1)
            await file.close()

        async def attach() -> None:
            await lab.attach(driver, UPPER)

        await lab.together(user(), attach())

    runs = all_runs(script)
    whole = ("create", "read", "cleanup", "close")
    firsts = {one.order[0] if one.order else "none" for one in runs}
    assert firsts == {*whole, "none"}
    if careful:
        assert codes(runs) == {None}
        assert {tuple(one.order) for one in runs} == {whole[place:] for place in range(5)}
    else:
        # A NULL context is followed in every order but that with the create.
        assert {one.code for one in runs if one.order[:1] == ["create"]} == {None}
        assert {one.code for one in runs if one.order[:1] not in ([], ["create"])} == {"ke.unhandled-exception"}


@pytest.mark.rule("FLT-ORD-06", "FLT-ORD-07", "FLT-INST-16", "FLT-ORD-14")
def test_the_life_of_an_instance_from_setup_to_its_freeing() -> None:
    async def script(lab: Lab) -> None:
        async def setup(*arguments: Any) -> int:
            lab.note("setup begins")
            await lab.step("setup")
            lab.note("setup ends")
            return STATUS_SUCCESS

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            lab.note("start")

        async def complete(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            lab.note("complete")

        async def unload(Flags: int) -> int:
            await FltUnregisterFilter(lab.manager.filters[0])
            lab.note("unregistered")
            return STATUS_SUCCESS

        pre = lab.pre("D", FLT_PREOP_SUCCESS_NO_CALLBACK)
        file = await lab.quiet_open()

        async def life() -> None:
            driver = await lab.filter(
                "D", LOWER, {IRP_MJ_READ: (pre, None)}, FilterUnloadCallback=unload, InstanceSetupCallback=setup,
                InstanceTeardownStartCallback=start, InstanceTeardownCompleteCallback=complete,
            )  # fmt: skip
            await driver.unload()
            lab.note("unloaded")

        async def reader() -> None:
            await file.read(1)

        await lab.together(life(), reader())

    runs = all_runs(script, bound=3)
    assert codes(runs) == {None}
    life = ["setup begins", "setup ends", "start", "complete", "unregistered", "unloaded"]
    places: set[int] = set()
    for one in runs:
        assert [what for what in one.order if what != "D.pre"] == life
        if "D.pre" in one.order:
            places.add(one.index("D.pre"))
    # Between the setup and TeardownStart, and beside TeardownStart, as an older operation; never before or after.
    assert places == {2, 3}


@pytest.mark.rule("FLT-ORD-14", "FLT-UNLOAD-10", "FLT-INST-16")
def test_an_unload_takes_several_instances_down_in_any_order() -> None:
    async def script(lab: Lab) -> None:
        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            lab.note(f"start {FltObjects.Volume.label}")

        async def complete(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            lab.note(f"complete {FltObjects.Volume.label}")

        lab.add_volume("D:")
        driver = await lab.filter(
            "D", LOWER, {}, InstanceTeardownStartCallback=start, InstanceTeardownCompleteCallback=complete
        )
        await driver.unload()

    orders = [tuple(one.order) for one in all_runs(script)]
    c, d = ("start C:", "complete C:"), ("start D:", "complete D:")
    assert orders == [(*c, *d), (*d, *c)]


def test_a_script_that_does_nothing_takes_no_decision() -> None:
    async def script(lab: Lab) -> None:
        lab.add_volume("D:")

    assert run(script).outcome.choices == []
