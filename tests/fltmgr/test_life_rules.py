"""What a driver owes while it starts, while its instances come and go, and while it unloads."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, Lab, Minifilter, all_runs, codes, run

from kemu.io.constants import IRP_MJ_CLEANUP, IRP_MJ_CREATE, IRP_MJ_READ, IRP_MJ_SHUTDOWN
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    FltAllocateGenericWorkItem,
    FltFreeGenericWorkItem,
    FltGetInstanceInformation,
    FltObjectDereference,
    FltObjectReference,
    FltQueryVolumeInformation,
    FltQueueGenericWorkItem,
    FltRegisterFilter,
    FltStartFiltering,
    FltUnregisterFilter,
    InstanceFullInformation,
)
from kemu.wdk.ntifs import FileFsSizeInformation
from kemu.wdk.ntstatus import STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS, STATUS_UNSUCCESSFUL
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    FAST_MUTEX,
    POOL_FLAG_NON_PAGED,
    DelayedWorkQueue,
    Driver,
    ExAcquireFastMutex,
    ExAllocatePool2,
    ExFreePoolWithTag,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    KeDelayExecutionThread,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
    Structure,
    sizeof,
)


class EXTENSIONS(Structure):
    """The globals of a scanner."""

    Count: int


# Start.


@pytest.mark.rule("FLT-REG-20", "FLT-REG-02", "FLT-REG-22")
@pytest.mark.parametrize(
    ("unregisters", "returns", "code"),
    [
        (True, STATUS_INSUFFICIENT_RESOURCES, None),
        (False, STATUS_INSUFFICIENT_RESOURCES, "reg-leak-on-start-failure"),
        (False, STATUS_SUCCESS, "reg-leak-on-start-failure"),
    ],
)
def test_a_start_that_fails_is_undone(unregisters: bool, returns: int, code: str | None) -> None:
    async def script(lab: Lab) -> None:
        class Starts(Driver):
            async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
                lab._decide(True)
                status, filter_ = await FltRegisterFilter(
                    DriverObject, FLT_REGISTRATION([FLT_OPERATION_REGISTRATION()])
                )
                lab.note("registered", status)
                if filter_ is None:
                    return status
                status = await FltStartFiltering(filter_)
                lab.note("started", status)
                lab._decide(False)
                if status == STATUS_SUCCESS:
                    return status
                if unregisters:
                    await FltUnregisterFilter(filter_)
                return returns

        await lab.load(Starts(), LOWER)

    runs = all_runs(script, low_resources="once")
    failed = [one for one in runs if one.order == ["registered", "started"] and one.notes[1].value != STATUS_SUCCESS]
    assert {one.code for one in failed} == {code}
    assert codes([one for one in runs if one not in failed]) == {None}
    assert {one.notes[0].value for one in runs} == {STATUS_SUCCESS, STATUS_INSUFFICIENT_RESOURCES}


@pytest.mark.rule("FLT-REG-18", "FLT-RACE-35")
@pytest.mark.parametrize("first", [True, False])
def test_what_a_callback_uses_must_not_be_null_when_filtering_starts(first: bool) -> None:
    async def script(lab: Lab) -> None:
        class Late(Minifilter):
            Table: list[int] | None = None

            async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
                if first:
                    self.Table = []
                status = await super().DriverEntry(DriverObject, RegistryPath)
                lab.note("started")
                self.Table = self.Table or []
                await lab.step("in DriverEntry")
                return status

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("pre")
            late.Table.append(1)  # type: ignore[union-attr]
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        late = Late("D", {IRP_MJ_CREATE: (pre, None)})

        async def start() -> None:
            await lab.load(late, LOWER)

        await lab.together(start(), lab.open())

    runs = all_runs(script, bound=2)
    assert codes(runs) == ({None} if first else {None, "start-before-init"})
    # Callbacks come before the start is over, between that and the end of DriverEntry, and after it.
    assert any(one.order == ["pre", "started"] for one in runs) is first
    assert any(one.order == ["started", "pre"] for one in runs)
    assert any(one.order == ["pre"] and one.code for one in runs) is not first


@pytest.mark.rule("FLT-REG-18", "FLT-REG-17")
@pytest.mark.parametrize(("where", "code"), [("setup", "start-before-init"), ("entry", "ke.unhandled-exception")])
def test_setup_is_a_callback_also_in_the_thread_of_driver_entry(where: str, code: str) -> None:
    async def script(lab: Lab) -> None:
        table: Any = None

        class Late(Minifilter):
            async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
                status = await super().DriverEntry(DriverObject, RegistryPath)
                if where == "entry":
                    table.append(1)
                return status

        async def setup(*arguments: Any) -> int:
            if where == "setup":
                table.append(1)
            return STATUS_SUCCESS

        await lab.load(Late("D", {}, InstanceSetupCallback=setup), LOWER)

    assert run(script).code == code


@pytest.mark.rule("FLT-UNLOAD-08")
@pytest.mark.parametrize("where", ["unload", "teardown"])
def test_unload_itself_and_the_teardown_callbacks_in_its_thread(where: str) -> None:
    async def script(lab: Lab) -> None:
        block: Any = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(EXTENSIONS), "Scan")

        async def complete(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            lab.note("looks", block.Count)

        async def unload(Flags: int) -> int:
            await ExFreePoolWithTag(block, "Scan")
            if where == "unload":
                lab.note("looks", block.Count)
            await FltUnregisterFilter(driver.filter)
            return STATUS_SUCCESS

        driver = await lab.filter(
            "D", LOWER, {}, FilterUnloadCallback=unload, InstanceTeardownCompleteCallback=complete
        )
        await driver.unload()

    assert run(script).code == ("ke.use-after-free" if where == "unload" else "unload-free-before-unregister")


@pytest.mark.rule("FLT-REG-18")
def test_a_callback_that_fails_by_itself_is_not_taken_for_one_that_came_too_early() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            raise ValueError("on its own")

        async def start() -> None:
            await lab.load(Minifilter("D", {IRP_MJ_CREATE: (pre, None)}), LOWER)

        await lab.together(start(), lab.open())

    assert codes(all_runs(script)) == {None, "ke.unhandled-exception"}


@pytest.mark.rule("FLT-RACE-35", "FLT-REG-22", "FLT-REG-17")
@pytest.mark.parametrize("unregisters", [True, False])
def test_driver_entry_may_fail_when_callbacks_have_come(unregisters: bool) -> None:
    async def script(lab: Lab) -> None:
        class Fails(Minifilter):
            async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
                await super().DriverEntry(DriverObject, RegistryPath)
                lab.note("started")
                assert self.Filter is not None
                if unregisters:
                    await FltUnregisterFilter(self.Filter)
                lab.note("fails")
                return STATUS_UNSUCCESSFUL

        async def start() -> None:
            await lab.load(Fails("D", {IRP_MJ_CREATE: (lab.pre("D"), lab.post("D"))}), LOWER)

        await lab.together(start(), lab.open())

    runs = all_runs(script, bound=2)
    assert codes(runs) == ({None} if unregisters else {"driverentry-fail-leak"})
    if unregisters:
        orders = {tuple(one.order) for one in runs}
        assert {
            ("started", "fails"), ("D.pre", "D.post", "started", "fails"), ("D.pre", "started", "D.post", "fails"),
            ("started", "D.pre", "D.post", "fails"),
        } == orders  # fmt: skip


# Setup.


@pytest.mark.rule("FLT-INST-06")
@pytest.mark.parametrize(
    ("does", "code"),
    [("nothing", None), ("polls", None), ("locks", None), ("waits", "setup-blocking"), ("sleeps", "setup-blocking")],
)
def test_setup_must_not_wait(does: str, code: str | None) -> None:
    async def script(lab: Lab) -> None:
        event, mutex = lab.event("Event"), FAST_MUTEX("Mutex")
        ExInitializeFastMutex(mutex)
        await KeSetEvent(event)

        async def setup(*arguments: Any) -> int:
            if does == "polls":
                await KeWaitForSingleObject(event, Timeout=0)
            elif does == "locks":
                # As one that is private to the instance is taken, which is no finding.
                await ExAcquireFastMutex(mutex)
                await ExReleaseFastMutex(mutex)
            elif does == "waits":
                await KeWaitForSingleObject(event)
            elif does == "sleeps":
                await KeDelayExecutionThread(KernelMode, False, -10)
            return STATUS_SUCCESS

        await lab.filter("D", LOWER, {}, InstanceSetupCallback=setup)
        # Nor is a wait anywhere else.
        await KeWaitForSingleObject(event)

    assert run(script).code == code


# Teardown.


async def queues(FltObject: Any) -> int:
    async def routine(WorkItem: Any, FltObject: Any, Context: Any) -> None:
        await FltFreeGenericWorkItem(WorkItem)

    item = await FltAllocateGenericWorkItem()
    assert item is not None
    return await FltQueueGenericWorkItem(item, FltObject, routine, DelayedWorkQueue, None)


@pytest.mark.rule("FLT-INST-23")
@pytest.mark.parametrize(("when", "warnings"), [("start", ()), ("complete", ("teardown-slow",)), ("before", ())])
def test_nothing_new_is_begun_for_an_instance_after_teardown_start(when: str, warnings: tuple[str, ...]) -> None:
    async def script(lab: Lab) -> None:
        async def phase(name: str, FltObjects: FLT_RELATED_OBJECTS) -> None:
            if when == name:
                lab.note("queued", await queues(FltObjects.Instance))

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            await phase("start", FltObjects)

        async def complete(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            await phase("complete", FltObjects)

        driver = await lab.filter(
            "D", LOWER, {}, InstanceTeardownStartCallback=start, InstanceTeardownCompleteCallback=complete
        )
        if when == "before":
            lab.note("queued", await queues(lab.instance(driver)))
        await driver.detach()

    one = run(script)
    assert (one.code, one.warnings) == (None, warnings)
    assert one.note("queued").value == STATUS_SUCCESS


@pytest.mark.rule("FLT-INST-23")
@pytest.mark.parametrize(("when", "warnings"), [("start", ()), ("complete", ("teardown-slow",))])
def test_no_io_is_begun_for_an_instance_after_teardown_start(when: str, warnings: tuple[str, ...]) -> None:
    async def script(lab: Lab) -> None:
        async def ask(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            status, _, _ = await FltQueryVolumeInformation(FltObjects.Instance, 24, FileFsSizeInformation)
            lab.note("asked", status)

        async def nothing(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            return None

        driver = await lab.filter(
            "D",
            LOWER,
            {},
            InstanceTeardownStartCallback=ask if when == "start" else nothing,
            InstanceTeardownCompleteCallback=ask if when == "complete" else nothing,
        )
        await driver.detach()

    one = run(script)
    assert (one.code, one.warnings) == (None, warnings)
    assert one.note("asked").value == STATUS_SUCCESS


@pytest.mark.rule("FLT-INST-32", "FLT-INST-33", "FLT-RACE-28")
@pytest.mark.parametrize("frees", ["second half only", "teardown as well", "unload"])
def test_what_the_first_half_of_a_pair_allocates_must_not_need_the_second_half(frees: str) -> None:
    """Between the create and the cleanup, before both and after both comes a teardown."""

    async def script(lab: Lab) -> None:
        opened: list[Structure] = []

        async def create(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("create")
            block = await ExAllocatePool2(POOL_FLAG_NON_PAGED, 16, "Open")
            assert block is not None
            opened.append(block)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        async def cleanup(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("cleanup")
            await free()
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        async def free() -> None:
            while opened:
                await ExFreePoolWithTag(opened.pop(), "Open")

        async def complete(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            lab.note("complete")
            if frees == "teardown as well":
                await free()

        async def unload(Flags: int) -> int:
            await FltUnregisterFilter(driver.filter)
            if frees == "unload":
                await free()
            return STATUS_SUCCESS

        callbacks = {IRP_MJ_CREATE: (create, None), IRP_MJ_CLEANUP: (cleanup, None)}
        driver = await lab.filter(
            "D", LOWER, callbacks, FilterUnloadCallback=unload, InstanceTeardownCompleteCallback=complete
        )

        async def user() -> None:
            await (await lab.open()).close()

        await lab.together(user(), driver.unload())

    # The list is shared, and no cell: the reduced search does not see it.
    runs = all_runs(script, bound=2, unseen=True)
    assert codes(runs) == ({None, "unpaired-state"} if frees == "second half only" else {None})
    orders = {tuple(one.order) for one in runs}
    assert orders == {("create", "cleanup", "complete"), ("create", "complete"), ("complete",)}
    assert {tuple(one.order) for one in runs if one.code} <= {("create", "complete")}


@pytest.mark.rule("FLT-INST-33")
def test_other_memory_that_is_not_freed_is_a_plain_leak() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await ExAllocatePool2(POOL_FLAG_NON_PAGED, 16, "Read")
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        driver = await lab.filter("D", LOWER, {IRP_MJ_READ: (pre, None)})
        file = await lab.open()
        await file.read(1)
        await driver.unload()

    assert run(script).code == "ke.pool-leak"


@pytest.mark.rule("FLT-INST-37")
def test_an_instance_tells_of_itself_until_it_is_gone() -> None:
    async def script(lab: Lab) -> list[int]:
        found: list[int] = []

        async def phase(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            status, _, _ = await FltGetInstanceInformation(FltObjects.Instance, InstanceFullInformation, 1000)
            found.append(status)

        driver = await lab.filter(
            "D", LOWER, {}, InstanceTeardownStartCallback=phase, InstanceTeardownCompleteCallback=phase
        )
        await driver.detach()
        return found

    one = run(script)
    assert (one.code, one.result) == (None, [STATUS_SUCCESS] * 2)


# Unload.


@pytest.mark.rule("FLT-UNLOAD-08")
@pytest.mark.parametrize("early", [True, False])
def test_what_callbacks_use_is_freed_after_the_filter_was_unregistered(early: bool) -> None:
    async def script(lab: Lab) -> None:
        block: Any = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(EXTENSIONS), "Scan")

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await lab.step("in the pre-operation")
            lab.note("looks", block.Count)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        async def unload(Flags: int) -> int:
            if early:
                await ExFreePoolWithTag(block, "Scan")
            await FltUnregisterFilter(driver.filter)
            if not early:
                await ExFreePoolWithTag(block, "Scan")
            return STATUS_SUCCESS

        driver = await lab.filter("D", LOWER, {IRP_MJ_CREATE: (pre, None)}, FilterUnloadCallback=unload)
        await lab.together(lab.open(), driver.unload())

    runs = all_runs(script, bound=2)
    assert codes(runs) == ({None, "unload-free-before-unregister"} if early else {None})
    assert any("looks" in one.order for one in runs)


@pytest.mark.rule("FLT-UNLOAD-08")
def test_memory_that_somebody_else_freed_is_a_plain_use_after_free() -> None:
    async def script(lab: Lab) -> None:
        block: Any = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(EXTENSIONS), "Scan")

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await ExFreePoolWithTag(block, "Scan")
            lab.note("looks", block.Count)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        driver = await lab.filter("D", LOWER, {IRP_MJ_CREATE: (pre, None)})
        await lab.together(lab.open(), driver.unload())

    assert codes(all_runs(script, bound=1)) == {None, "ke.use-after-free"}


@pytest.mark.rule("FLT-UNLOAD-15", "FLT-REG-05")
@pytest.mark.parametrize("uses", ["reference", "start", "work", "twice", "drop"])
def test_the_filter_is_dead_after_it_was_unregistered(uses: str) -> None:
    async def script(lab: Lab) -> None:
        async def unload(Flags: int) -> int:
            filter_ = driver.filter
            await FltUnregisterFilter(filter_)
            if uses == "reference":
                await FltObjectReference(filter_)
            elif uses == "start":
                await FltStartFiltering(filter_)
            elif uses == "work":
                await queues(filter_)
            elif uses == "twice":
                await FltUnregisterFilter(filter_)
            else:
                await FltObjectDereference(filter_)
            return STATUS_SUCCESS

        driver = await lab.filter("D", LOWER, {}, FilterUnloadCallback=unload)
        await driver.unload()

    expected = {"twice": "double-unregister", "drop": "ref-underflow"}.get(uses, "use-after-unregister")
    assert run(script).code == expected


@pytest.mark.parametrize("routine", [FltUnregisterFilter, FltObjectDereference])
@pytest.mark.parametrize("thing", [None, "volume"])
def test_what_is_no_filter_is_a_bad_pointer(routine: Any, thing: Any) -> None:
    async def script(lab: Lab) -> None:
        await routine(thing)

    assert run(script).code == "ke.bad-pointer"


@pytest.mark.rule("FLT-UNLOAD-19", "FLT-UNLOAD-05")
@pytest.mark.parametrize(
    ("writes", "shuts_down", "warnings"),
    [(True, False, ("shutdown-in-unload",)), (True, True, ()), (False, False, ())],
)
def test_data_that_is_written_in_unload_is_lost_at_a_shutdown(
    writes: bool, shuts_down: bool, warnings: tuple[str, ...]
) -> None:
    async def script(lab: Lab) -> None:
        file = await lab.open()

        async def unload(Flags: int) -> int:
            if writes:
                await file.write(b"x")
            else:
                await file.read(1)
            await FltUnregisterFilter(driver.filter)
            return STATUS_SUCCESS

        callbacks: Any = {IRP_MJ_SHUTDOWN: (lab.pre("D", FLT_PREOP_SUCCESS_NO_CALLBACK), None)} if shuts_down else {}
        driver = await lab.filter("D", LOWER, callbacks, FilterUnloadCallback=unload)
        await driver.unload()

    one = run(script)
    assert (one.code, one.warnings) == (None, warnings)


# References.


@pytest.mark.rule("FLT-REF-06", "FLT-RACE-27")
@pytest.mark.parametrize("looks", [True, False])
@pytest.mark.parametrize("uses", [True, False])
def test_the_status_of_a_reference_has_to_be_looked_at(looks: bool, uses: bool) -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            instance = FltObjects.Instance
            status = await FltObjectReference(instance)
            lab.note(str(status))
            if looks and status != STATUS_SUCCESS:
                return FLT_PREOP_SUCCESS_NO_CALLBACK

            async def routine(WorkItem: Any, FltObject: Any, Context: Any) -> None:
                await FltFreeGenericWorkItem(WorkItem)
                if uses:
                    await FltGetInstanceInformation(instance, InstanceFullInformation, 1000)
                await FltObjectDereference(instance)

            item = await FltAllocateGenericWorkItem()
            assert item is not None
            await FltQueueGenericWorkItem(item, FltObjects.Filter, routine, DelayedWorkQueue, None)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        driver = await lab.filter("D", LOWER, {IRP_MJ_CREATE: (pre, None)})
        await lab.together(lab.open(), driver.detach())

    runs = all_runs(script, bound=2)
    assert codes(runs) == ({None} if looks else {None, "ref-unchecked"})
    assert {order for one in runs for order in one.order} == {"STATUS_SUCCESS", "STATUS_FLT_DELETING_OBJECT"}
    assert not any(one.code for one in runs if one.order != ["STATUS_FLT_DELETING_OBJECT"])


@pytest.mark.rule("FLT-REF-04")
@pytest.mark.parametrize("references", [True, False])
def test_a_pointer_that_was_kept_needs_a_reference(references: bool) -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            instance = FltObjects.Instance
            if references and await FltObjectReference(instance) != STATUS_SUCCESS:
                return FLT_PREOP_SUCCESS_NO_CALLBACK

            async def routine(WorkItem: Any, FltObject: Any, Context: Any) -> None:
                await FltFreeGenericWorkItem(WorkItem)
                status, _, _ = await FltGetInstanceInformation(instance, InstanceFullInformation, 1000)
                lab.note("used", status)
                if references:
                    await FltObjectDereference(instance)

            item = await FltAllocateGenericWorkItem()
            assert item is not None
            # The item is the filter's, and keeps that.
            await FltQueueGenericWorkItem(item, FltObjects.Filter, routine, DelayedWorkQueue, None)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        driver = await lab.filter("D", LOWER, {IRP_MJ_CREATE: (pre, None)})
        await lab.together(lab.open(), driver.detach())

    runs = all_runs(script, bound=1)
    assert codes(runs) == ({None} if references else {None, "ref-missing"})
    assert any("used" in one.order for one in runs)
