"""Instances: attaching, detaching, and what a teardown drains, waits for and refuses."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, UPPER, Lab, Script, all_runs, codes, queue, resumes, resumes_post, run

from kemu.io.constants import IRP_MJ_CREATE, IRP_MJ_READ
from kemu.io.request import FAST_IO_OPERATION
from kemu.nt.kthread import APC_LEVEL, PASSIVE_LEVEL
from kemu.scenario.world import LoadedDriver
from kemu.wdk.fltkernel import (
    FILE_DEVICE_DISK_FILE_SYSTEM,
    FLT_CALLBACK_DATA,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_RELATED_OBJECTS,
    FLTFL_CALLBACK_DATA_DRAINING_IO,
    FLTFL_INSTANCE_SETUP_AUTOMATIC_ATTACHMENT,
    FLTFL_INSTANCE_SETUP_MANUAL_ATTACHMENT,
    FLTFL_INSTANCE_TEARDOWN_FILTER_UNLOAD,
    FLTFL_INSTANCE_TEARDOWN_MANDATORY_FILTER_UNLOAD,
    FLTFL_INSTANCE_TEARDOWN_MANUAL,
    FLTFL_POST_OPERATION_DRAINING,
    FltCompletePendedPostOperation,
    FltCompletePendedPreOperation,
    FltObjectReference,
)
from kemu.wdk.ntstatus import (
    STATUS_FLT_DELETING_OBJECT,
    STATUS_FLT_DO_NOT_ATTACH,
    STATUS_FLT_DO_NOT_DETACH,
    STATUS_FLT_INSTANCE_ALTITUDE_COLLISION,
    STATUS_FLT_INSTANCE_NOT_FOUND,
    STATUS_FLT_POST_OPERATION_CLEANUP,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_PENDING,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import KeGetCurrentIrql, KeSetEvent, KeWaitForSingleObject


def phases(lab: Lab) -> dict[str, Any]:
    """Teardown callbacks that note when they begin and end."""

    def phase(name: str) -> Any:
        async def callback(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            lab.note(f"{name} begins", (Reason, KeGetCurrentIrql(), FltObjects.Instance.instance_name))
            await lab.step(name)
            lab.note(f"{name} ends")

        return callback

    return {
        "InstanceTeardownStartCallback": phase("start"),
        "InstanceTeardownCompleteCallback": phase("complete"),
    }


# Attaching.


@pytest.mark.rule("FLT-INST-01", "FLT-INST-03", "FLT-INST-04", "FLT-INST-05")
def test_setup_runs_at_passive_level_and_is_told_how_and_to_what_it_attaches() -> None:
    async def script(lab: Lab) -> None:
        async def setup(FltObjects: FLT_RELATED_OBJECTS, Flags: int, DeviceType: int, FilesystemType: int) -> int:
            lab.note("setup", (KeGetCurrentIrql(), Flags, DeviceType, FltObjects.Volume.label, FltObjects.FileObject))
            return STATUS_SUCCESS

        driver = await lab.filter("D", LOWER, {}, InstanceSetupCallback=setup)
        lab.check(await lab.attach(driver, UPPER) == STATUS_SUCCESS, "a second instance")

    automatic, manual = run(script).notes
    assert automatic.value == (PASSIVE_LEVEL, 0x1, FILE_DEVICE_DISK_FILE_SYSTEM, "C:", None)
    assert manual.value[1] == FLTFL_INSTANCE_SETUP_MANUAL_ATTACHMENT == 0x2
    assert FLTFL_INSTANCE_SETUP_AUTOMATIC_ATTACHMENT == 0x1


@pytest.mark.rule("FLT-INST-03")
@pytest.mark.parametrize(
    ("status", "attached"),
    [
        (STATUS_SUCCESS, True),
        (STATUS_PENDING, True),
        (STATUS_FLT_DO_NOT_ATTACH, False),
        (STATUS_INSUFFICIENT_RESOURCES, False),
    ],
)
def test_any_success_attaches_and_any_failure_does_not(status: int, attached: bool) -> None:
    async def script(lab: Lab) -> tuple[bool, int]:
        async def setup(*arguments: Any) -> int:
            return status

        driver = await lab.filter("D", LOWER, {}, InstanceSetupCallback=setup)
        return bool(driver.filter.instances), await lab.attach(driver, UPPER)

    wanted = STATUS_SUCCESS if attached else STATUS_FLT_DO_NOT_ATTACH
    assert run(script).result == (attached, wanted)


@pytest.mark.rule("FLT-INST-07", "FLT-ORD-06")
def test_no_callback_is_made_before_the_setup_has_agreed() -> None:
    async def script(lab: Lab) -> None:
        async def setup(*arguments: Any) -> int:
            lab.note("setup begins")
            await lab.step("in setup")
            lab.note("setup ends")
            return STATUS_SUCCESS

        driver = await lab.filter("D", LOWER, {IRP_MJ_READ: (lab.pre("D"), lab.post("D"))})
        await driver.detach()
        driver.filter.registration.InstanceSetupCallback = setup
        file = await lab.quiet_open()

        async def reader() -> None:
            await file.read(1)

        async def attach() -> None:
            await lab.attach(driver, LOWER)

        await lab.together(reader(), attach())

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {one.before("setup ends", "D.pre") for one in runs if "D.pre" in one.order} == {True}
    assert any("D.pre" not in one.order for one in runs)


@pytest.mark.rule("FLT-STACK-06", "FLT-INST-10")
def test_of_two_attachments_at_one_altitude_the_second_is_refused_before_its_setup() -> None:
    async def script(lab: Lab) -> list[int]:
        async def setup(*arguments: Any) -> int:
            lab.note("setup")
            return STATUS_SUCCESS

        driver = await lab.filter("D", LOWER, {}, InstanceSetupCallback=setup)
        lab.note("--")
        return await lab.together(lab.attach(driver, UPPER), lab.attach(driver, f"0{UPPER}.0"))

    runs = all_runs(script)
    assert {tuple(sorted(one.result)) for one in runs} == {(STATUS_SUCCESS, STATUS_FLT_INSTANCE_ALTITUDE_COLLISION)}
    assert {tuple(one.order) for one in runs} == {("setup", "--", "setup")}


@pytest.mark.rule("FLT-INST-10", "FLT-INST-03")
def test_the_altitude_of_an_attachment_that_was_refused_is_free_again() -> None:
    async def script(lab: Lab) -> list[int]:
        answers = [STATUS_SUCCESS, STATUS_FLT_DO_NOT_ATTACH, STATUS_SUCCESS]

        async def setup(*arguments: Any) -> int:
            return answers.pop(0)

        driver = await lab.filter("D", LOWER, {}, InstanceSetupCallback=setup)
        return [await lab.attach(driver, UPPER), await lab.attach(driver, UPPER)]

    assert run(script).result == [STATUS_FLT_DO_NOT_ATTACH, STATUS_SUCCESS]


@pytest.mark.rule("FLT-INST-34")
def test_an_instance_that_was_attached_later_sees_operations_on_files_it_never_saw_opened() -> None:
    async def script(lab: Lab) -> None:
        driver = await lab.recorder("D", LOWER, IRP_MJ_CREATE, IRP_MJ_READ)
        await driver.detach()
        file = await lab.open()
        await lab.attach(driver, LOWER)
        await file.read(1)

    assert run(script).order == ["D.pre", "D.post"]


# Detaching.


@pytest.mark.rule("FLT-INST-14", "FLT-REG-14")
def test_the_driver_may_veto_a_detach_and_without_a_query_callback_it_does() -> None:
    async def script(lab: Lab) -> list[Any]:
        async def vetoes(FltObjects: FLT_RELATED_OBJECTS, Flags: int) -> int:
            lab.note("query", (KeGetCurrentIrql(), FltObjects.Instance.instance_name))
            return STATUS_FLT_DO_NOT_DETACH

        stays = await lab.filter("Stays", LOWER, {}, InstanceQueryTeardownCallback=vetoes, **phases(lab))
        silent = await lab.filter("Silent", UPPER, {}, InstanceQueryTeardownCallback=None)
        return [await stays.detach(), await silent.detach(), len(stays.filter.instances), len(silent.filter.instances)]

    one = run(script)
    assert one.result == [STATUS_FLT_DO_NOT_DETACH, STATUS_FLT_DO_NOT_DETACH, 1, 1]
    assert [(note.what, note.value) for note in one.notes] == [("query", (PASSIVE_LEVEL, "Stays Instance"))]


@pytest.mark.rule("FLT-INST-14")
def test_an_unload_does_not_ask() -> None:
    async def script(lab: Lab) -> list[Any]:
        async def vetoes(FltObjects: FLT_RELATED_OBJECTS, Flags: int) -> int:
            lab.note("query")
            return STATUS_FLT_DO_NOT_DETACH

        driver = await lab.filter("D", LOWER, {}, InstanceQueryTeardownCallback=vetoes)
        return [await driver.unload(), len(driver.filter.instances)]

    one = run(script)
    assert (one.order, one.result) == ([], [STATUS_SUCCESS, 0])


@pytest.mark.rule("FLT-INST-13", "FLT-INST-01")
def test_a_detach_takes_the_highest_instance_and_there_may_be_none() -> None:
    async def script(lab: Lab) -> list[Any]:
        driver = await lab.filter("D", LOWER, {})
        await lab.attach(driver, UPPER)
        left: list[Any] = []
        for _ in range(3):
            left.append(await driver.detach())
            left.append([instance.altitude for instance in driver.filter.instances])
        return left

    assert run(script).result == [STATUS_SUCCESS, [LOWER], STATUS_SUCCESS, [], STATUS_FLT_INSTANCE_NOT_FOUND, []]


@pytest.mark.rule("FLT-INST-13", "FLT-INST-17", "FLT-RACE-29")
def test_of_two_detaches_at_once_one_takes_the_instance_down_and_the_callbacks_come_once() -> None:
    async def script(lab: Lab) -> list[int]:
        driver = await lab.filter("D", LOWER, {}, **phases(lab))
        return await lab.together(driver.detach(), driver.detach())

    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    assert {tuple(sorted(one.result)) for one in runs} == {
        (STATUS_SUCCESS, STATUS_FLT_DELETING_OBJECT),
        (STATUS_SUCCESS, STATUS_FLT_INSTANCE_NOT_FOUND),
    }
    assert {tuple(one.order) for one in runs} == {("start begins", "start ends", "complete begins", "complete ends")}


@pytest.mark.rule("FLT-INST-15", "FLT-INST-16", "FLT-INST-17", "FLT-UNLOAD-10")
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("detach", FLTFL_INSTANCE_TEARDOWN_MANUAL),
        ("unload", FLTFL_INSTANCE_TEARDOWN_FILTER_UNLOAD),
        ("stop", FLTFL_INSTANCE_TEARDOWN_MANDATORY_FILTER_UNLOAD),
    ],
)
def test_the_teardown_callbacks_come_in_order_at_passive_level_with_the_reason(how: str, reason: int) -> None:
    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", LOWER, {}, **phases(lab))
        if how == "detach":
            await driver.detach()
        else:
            await driver.unload(mandatory=how == "stop")

    one = run(script)
    assert one.order == ["start begins", "start ends", "complete begins", "complete ends"]
    assert one.note("start begins").value == one.note("complete begins").value == (reason, 0, "D Instance")
    assert (
        FLTFL_INSTANCE_TEARDOWN_MANUAL,
        FLTFL_INSTANCE_TEARDOWN_FILTER_UNLOAD,
        FLTFL_INSTANCE_TEARDOWN_MANDATORY_FILTER_UNLOAD,
    ) == (0x1, 0x2, 0x4)


@pytest.mark.rule("FLT-REG-14")
def test_an_instance_goes_without_teardown_callbacks_as_well() -> None:
    async def script(lab: Lab) -> list[Any]:
        driver = await lab.filter("D", LOWER, {})
        return [await driver.detach(), driver.filter.instances]

    assert run(script).result == [STATUS_SUCCESS, []]


# What a teardown does to operations.


def reading(pre: Any = None, post: Any = None) -> Script:
    """One thread reads while another one detaches the filter."""

    async def script(lab: Lab) -> None:
        callbacks = {IRP_MJ_READ: (pre(lab) if pre else lab.pre("D"), post(lab) if post else lab.post("D"))}
        driver = await lab.filter("D", LOWER, callbacks, **phases(lab))
        file = await lab.quiet_open()

        async def reader() -> None:
            await file.read(1)
            lab.note("read ends")

        async def detach() -> None:
            lab.note("detached", await driver.detach())

        await lab.together(reader(), detach())

    return script


@pytest.mark.rule("FLT-INST-18", "FLT-ORD-06", "FLT-ORD-14")
def test_after_teardown_start_only_older_operations_are_shown_to_the_instance_and_none_after_complete() -> None:
    runs = all_runs(reading(), bound=3)
    assert codes(runs) == {None}
    for one in runs:
        for callback in ("D.pre", "D.post"):
            if callback in one.order:
                assert one.before(callback, "complete begins")
    # An operation that began before may be shown while TeardownStart runs, and after it.
    seen = [one for one in runs if "D.pre" in one.order]
    assert {one.before("D.pre", "start begins") for one in seen} == {True, False}
    assert any(one.before("start ends", "D.pre") for one in seen)
    assert any("D.pre" not in one.order for one in runs)
    # The caller never notices.
    assert all(one.order.count("read ends") == 1 for one in runs)


@pytest.mark.rule("FLT-INST-24", "FLT-INST-25", "FLT-RACE-22", "FLT-ORD-03", "FLT-STACK-03")
def test_an_operation_below_is_drained_or_really_completed_and_never_both() -> None:
    def post(lab: Lab) -> Any:
        async def callback(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            draining = bool(Flags & FLTFL_POST_OPERATION_DRAINING)
            lab.note("post", (draining, Context))
            lab.check(bool(Data.Flags & FLTFL_CALLBACK_DATA_DRAINING_IO) == draining, "the callback data says so too")
            lab.check(
                Data.IoStatus.Status == (STATUS_FLT_POST_OPERATION_CLEANUP if draining else STATUS_SUCCESS),
                f"a status of {Data.IoStatus.Status}",
            )
            lab.check(KeGetCurrentIrql() <= APC_LEVEL or not draining, "drained at DISPATCH_LEVEL")
            await lab.step("in the post-operation")
            return FLT_POSTOP_FINISHED_PROCESSING

        return callback

    def pre(lab: Lab) -> Any:
        return lab.pre("D", FLT_PREOP_SUCCESS_WITH_CALLBACK, "context")

    for completion in ("later", "explore", "inline"):
        runs = all_runs(reading(pre, post), bound=2, completion=completion)
        assert codes(runs) == {None}
        called = [one for one in runs if "D.pre" in one.order]
        assert {one.order.count("post") for one in called} == {1}
        assert {one.note("post").value for one in called} == {(True, "context"), (False, "context")}
        drained = [one for one in called if one.note("post").value[0]]
        # Just before the real completion, and instead of it for as long as the operation takes.
        assert {one.before("post", "read ends") for one in drained} == {True}
        assert {one.note("post").thread for one in drained} == {"detach"}
        assert all(one.before("post", "complete begins") for one in called)


@pytest.mark.rule("FLT-RACE-22", "FLT-INST-25")
def test_the_operation_goes_on_for_everybody_else_while_a_drained_callback_runs() -> None:
    async def script(lab: Lab) -> None:
        go = lab.event("the read has ended")
        lab.completes("later")

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            await KeWaitForSingleObject(go)
            return FLT_POSTOP_FINISHED_PROCESSING

        await lab.recorder("Upper", UPPER)
        driver = await lab.filter("D", LOWER, {IRP_MJ_READ: (lab.pre("D"), post)})
        file = await lab.quiet_open()
        read = await file.begin_read(1)
        detach = lab.start("detach", driver.detach())
        await read.wait()
        await KeSetEvent(go)
        await detach.join()

    runs = all_runs(script, bound=1)
    # Where the real completion is first, its callback waits for the end of its own operation: that is a hang.
    assert codes(runs) == {None, "teardown-hang"}
    assert all(one.order == ["Upper.pre", "D.pre", "Upper.post"] for one in runs if one.code is None)


@pytest.mark.rule("FLT-INST-24", "FLT-INST-16")
def test_a_callback_that_was_running_and_asks_for_a_post_operation_is_drained_too() -> None:
    """Otherwise the detach would wait for the lower filter, which holds the operation until the detach is over."""

    async def script(lab: Lab) -> None:
        detached = lab.event("detached")

        async def holds(Data: FLT_CALLBACK_DATA) -> None:
            await KeWaitForSingleObject(detached)
            await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)

        async def lower(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await queue(Data, holds)
            return FLT_PREOP_PENDING

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await lab.step("in the pre-operation")
            lab.note("pre returns")
            return FLT_PREOP_SUCCESS_WITH_CALLBACK

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("post", Flags)
            return FLT_POSTOP_FINISHED_PROCESSING

        await lab.filter("Lower", LOWER, {IRP_MJ_READ: (lower, None)})
        driver = await lab.filter("D", UPPER, {IRP_MJ_READ: (pre, post)}, **phases(lab))
        file = await lab.quiet_open()

        async def reader() -> None:
            await file.read(1)

        async def detach() -> None:
            await driver.detach()
            await KeSetEvent(detached)

        await lab.together(reader(), detach())

    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    late = [one for one in runs if "pre returns" in one.order and one.before("start ends", "pre returns")]
    assert late
    assert {one.note("post").value for one in late} == {FLTFL_POST_OPERATION_DRAINING}


@pytest.mark.rule("FLT-INST-27", "FLT-INST-18")
def test_a_teardown_does_not_wait_for_an_operation_that_a_higher_filter_holds() -> None:
    async def script(lab: Lab) -> None:
        detached = lab.event("detached")

        async def holds(Data: FLT_CALLBACK_DATA) -> None:
            await KeWaitForSingleObject(detached)
            await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_WITH_CALLBACK, None)

        async def upper(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await queue(Data, holds)
            return FLT_PREOP_PENDING

        await lab.filter("Upper", UPPER, {IRP_MJ_READ: (upper, lab.post("Upper"))})
        driver = await lab.recorder("D", LOWER)
        file = await lab.quiet_open(overlapped=True)
        read = await file.begin_read(1)
        await driver.detach()
        lab.note("detached")
        await KeSetEvent(detached)
        await read.wait()

    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    assert {tuple(one.order) for one in runs} == {("detached", "Upper.post")}


@pytest.mark.rule("FLT-INST-24")
@pytest.mark.parametrize("kind", ["create", "fast"])
def test_creates_and_fast_io_are_waited_for_and_not_drained(kind: str) -> None:
    async def script(lab: Lab) -> None:
        major = IRP_MJ_CREATE if kind == "create" else IRP_MJ_READ
        entered = lab.event("entered")

        async def lower(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await KeSetEvent(entered)
            await lab.step("below")
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("post", Flags)
            return FLT_POSTOP_FINISHED_PROCESSING

        file = await lab.quiet_open(r"\b")
        await lab.filter("Lower", LOWER, {major: (lower, None)})
        driver = await lab.filter("D", UPPER, {major: (lab.pre("D"), post)}, **phases(lab))

        async def issuer() -> None:
            if kind == "create":
                await lab.open()
            else:
                await lab.send(lab.request(file, IRP_MJ_READ, Length=1, kind=FAST_IO_OPERATION))

        async def detach() -> None:
            await KeWaitForSingleObject(entered)
            await driver.detach()

        await lab.together(issuer(), detach())

    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    assert {(one.note("post").value, one.note("post").thread) for one in runs} == {(0, "issuer")}
    assert all(one.before("post", "complete begins") for one in runs)
    assert any(one.before("start ends", "post") for one in runs)


@pytest.mark.rule("FLT-ORD-05", "FLT-RACE-23")
def test_a_synchronised_operation_is_drained_in_another_thread_while_its_own_stays_blocked() -> None:
    def pre(lab: Lab) -> Any:
        return lab.pre("D", FLT_PREOP_SYNCHRONIZE)

    runs = all_runs(reading(pre), bound=2, completion="later")
    assert codes(runs) == {None}
    threads = {one.note("D.post").thread for one in runs if "D.post" in one.order}
    assert threads == {"reader", "detach"}
    assert all(one.order.count("D.post") == 1 for one in runs if "D.pre" in one.order)


@pytest.mark.rule("FLT-INST-27", "FLT-RACE-21", "FLT-INST-19")
def test_complete_is_called_after_every_pended_operation_was_resumed() -> None:
    def pre(lab: Lab) -> Any:
        async def callback(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            status = await queue(Data, resumes(FLT_PREOP_SUCCESS_WITH_CALLBACK))
            lab.note("pends" if status == STATUS_SUCCESS else "passes")
            return FLT_PREOP_PENDING if status == STATUS_SUCCESS else FLT_PREOP_SUCCESS_NO_CALLBACK

        return callback

    runs = all_runs(reading(pre), bound=2)
    assert codes(runs) == {None}
    pended = [one for one in runs if "pends" in one.order]
    assert all(one.before("D.post", "complete begins") for one in pended)
    assert any(one.before("start ends", "D.post") for one in pended)


@pytest.mark.rule("FLT-RACE-24", "FLT-INST-20", "FLT-INST-27")
def test_complete_is_called_after_every_pended_post_operation_was_resumed() -> None:
    def post(lab: Lab) -> Any:
        async def callback(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            if Flags & FLTFL_POST_OPERATION_DRAINING:
                return FLT_POSTOP_FINISHED_PROCESSING

            async def work(Data: FLT_CALLBACK_DATA) -> None:
                lab.note("resumed")
                await resumes_post(Data)

            status = await queue(Data, work)
            done = status == STATUS_SUCCESS
            return FLT_POSTOP_MORE_PROCESSING_REQUIRED if done else FLT_POSTOP_FINISHED_PROCESSING

        return callback

    runs = all_runs(reading(None, post), bound=2)
    assert codes(runs) == {None}
    resumed = [one for one in runs if "resumed" in one.order]
    assert all(one.before("resumed", "complete begins") for one in resumed)
    assert any(one.before("start ends", "resumed") for one in resumed)


@pytest.mark.rule("FLT-INST-18", "FLT-INST-27")
def test_callbacks_that_are_running_go_on_beside_teardown_start_and_are_waited_for() -> None:
    def pre(lab: Lab) -> Any:
        async def callback(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("pre begins")
            await lab.step("in the pre-operation")
            lab.note("pre ends")
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        return callback

    runs = all_runs(reading(pre), bound=2)
    called = [one for one in runs if "pre begins" in one.order]
    assert all(one.before("pre ends", "complete begins") for one in called)
    assert any(one.before("pre begins", "start begins") and one.before("start ends", "pre ends") for one in called)


# What a driver leaves behind.


def parked(lab: Lab, store: list[FLT_CALLBACK_DATA]) -> Any:
    async def callback(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        store.append(Data)
        return FLT_PREOP_PENDING

    return callback


@pytest.mark.rule("FLT-INST-19", "FLT-INST-28", "FLT-INST-27")
@pytest.mark.parametrize("completes", [True, False])
def test_teardown_start_must_resume_every_pended_pre_operation(completes: bool) -> None:
    async def script(lab: Lab) -> None:
        store: list[FLT_CALLBACK_DATA] = []

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            if completes:
                await FltCompletePendedPreOperation(store.pop(), FLT_PREOP_SUCCESS_NO_CALLBACK, None)

        callbacks = {IRP_MJ_READ: (parked(lab, store), None)}
        driver = await lab.filter("D", LOWER, callbacks, InstanceTeardownStartCallback=start)
        await (await lab.open(overlapped=True)).begin_read(1)
        await driver.detach()

    one = run(script)
    assert one.code == (None if completes else "teardown-pended-pre")
    if not completes:
        assert "IRP_MJ_READ (pended)" in one.finding.detail


@pytest.mark.rule("FLT-INST-20", "FLT-INST-28")
@pytest.mark.parametrize("completes", [True, False])
def test_teardown_start_must_resume_every_pended_post_operation(completes: bool) -> None:
    async def script(lab: Lab) -> None:
        store: list[FLT_CALLBACK_DATA] = []

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            store.append(Data)
            return FLT_POSTOP_MORE_PROCESSING_REQUIRED

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            if completes:
                await FltCompletePendedPostOperation(store.pop())

        callbacks = {IRP_MJ_READ: (lab.pre("D"), post)}
        driver = await lab.filter("D", LOWER, callbacks, InstanceTeardownStartCallback=start)
        await (await lab.open(overlapped=True)).begin_read(1)
        await driver.detach()

    one = run(script)
    assert one.code == (None if completes else "teardown-pended-post")


@pytest.mark.rule("FLT-INST-21", "FLT-RACE-20")
def test_an_operation_must_not_be_pended_after_teardown_start_has_returned() -> None:
    def script_of(looks: bool) -> Script:
        async def script(lab: Lab) -> None:
            store: list[FLT_CALLBACK_DATA] = []
            closing = False

            async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
                if looks and closing:
                    return FLT_PREOP_SUCCESS_NO_CALLBACK
                store.append(Data)
                return FLT_PREOP_PENDING

            async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
                nonlocal closing
                closing = True
                while store:
                    await FltCompletePendedPreOperation(store.pop(), FLT_PREOP_SUCCESS_NO_CALLBACK, None)

            callbacks = {IRP_MJ_READ: (pre, None)}
            driver = await lab.filter("D", LOWER, callbacks, InstanceTeardownStartCallback=start)
            file = await lab.quiet_open(overlapped=True)

            async def reader() -> None:
                await (await file.begin_read(1)).wait()

            await lab.together(reader(), driver.detach())

        return script

    assert codes(all_runs(script_of(looks=True), bound=3)) == {None}
    careless = codes(all_runs(script_of(looks=False), bound=3))
    assert careless >= {None, "pend-after-teardown-start"}


@pytest.mark.rule("FLT-INST-28", "FLT-RACE-26")
def test_a_teardown_that_cannot_finish_is_a_hang_that_names_what_blocks_it() -> None:
    async def script(lab: Lab) -> None:
        never = lab.event("never")

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await KeWaitForSingleObject(never)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        driver = await lab.filter("D", LOWER, {IRP_MJ_READ: (pre, None)})
        file = await lab.quiet_open()

        async def reader() -> None:
            await file.read(1)

        await lab.together(reader(), driver.detach())

    hung = [one for one in all_runs(script, bound=2) if one.code == "teardown-hang"]
    assert hung
    assert "IRP_MJ_READ (in pre-operation)" in hung[0].finding.detail
    assert "held by reader" in hung[0].finding.detail


@pytest.mark.rule("FLT-INST-30", "FLT-INST-16", "FLT-REF-03")
def test_a_reference_delays_the_end_of_an_instance_and_not_teardown_complete() -> None:
    async def script(lab: Lab) -> None:
        driver: LoadedDriver = await lab.filter("D", LOWER, {}, **phases(lab))
        await FltObjectReference(lab.instance(driver))
        await driver.detach()
        lab.note("detached")

    one = run(script)
    assert one.code == "ref-leak"
    assert one.order == ["start begins", "start ends", "complete begins", "complete ends"]
    assert "script" in one.finding.detail
