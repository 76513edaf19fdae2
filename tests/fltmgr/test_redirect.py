"""Redirecting operations to another volume, reparsing creates, extra create parameters."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.gio_kit import LOWER, MIDDLE, UPPER, Lab, acting, on_read, open_on, opened, second_volume, seer
from fltmgr.kit import Script, all_runs, codes, run

from kemu.fltmgr.objects import Instance
from kemu.io.constants import IRP_MJ_CREATE, IRP_MJ_READ
from kemu.io.request import FileObject
from kemu.scenario.world import File
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltAcknowledgeEcp,
    FltAdjustDeviceStackSizeForIoRedirection,
    FltAllocateExtraCreateParameter,
    FltAllocateExtraCreateParameterList,
    FltCancelFileOpen,
    FltClose,
    FltCreateFileEx2,
    FltFindExtraCreateParameter,
    FltFreeExtraCreateParameter,
    FltFreeExtraCreateParameterList,
    FltGetEcpListFromCallbackData,
    FltInsertExtraCreateParameter,
    FltIsEcpAcknowledged,
    FltIsEcpFromUserMode,
    FltIsIoRedirectionAllowed,
    FltIsIoRedirectionAllowedForOperation,
    FltReissueSynchronousIo,
    FltSetCallbackDataDirty,
    FltSetEcpListIntoCallbackData,
)
from kemu.wdk.ntifs import (
    ECP_LIST,
    IO_DRIVER_CREATE_CONTEXT,
    IO_IGNORE_SHARE_ACCESS_CHECK,
    IoInitializeDriverCreateContext,
    IoReplaceFileObjectName,
)
from kemu.wdk.ntstatus import (
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER,
    STATUS_INVALID_PARAMETER_2,
    STATUS_INVALID_PARAMETER_3,
    STATUS_MOUNT_POINT_NOT_RESOLVED,
    STATUS_NOT_FOUND,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_REPARSE,
    STATUS_REPARSE_POINT_NOT_RESOLVED,
    STATUS_SHARING_VIOLATION,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import FILE_READ_DATA, FILE_WRITE_DATA, OBJ_KERNEL_HANDLE, OBJECT_ATTRIBUTES, ObDereferenceObject

# Another volume.


def redirecting(
    *, asks: str | None = "pair", size: int = 8, adjusts: bool = False, wrong: str | None = None, later: bool = False
) -> Script:
    """A read of a file on C: is redirected by M to D:; what the program gets."""

    async def script(lab: Lab) -> Any:
        other = await second_volume(lab)
        other.stack_size = size
        target: list[FileObject] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            if FltObjects.Volume is other:
                lab.note("M on D:")
                return FLT_PREOP_SUCCESS_NO_CALLBACK
            twin = next(one for one in FltObjects.Filter.instances if one.volume is other)
            if adjusts:
                lab.note("adjusted", await FltAdjustDeviceStackSizeForIoRedirection(FltObjects.Instance, twin))
            if asks == "pair":
                lab.note("allowed", await FltIsIoRedirectionAllowed(FltObjects.Instance, twin))
            elif asks == "operation":
                lab.note("allowed", await FltIsIoRedirectionAllowedForOperation(Data, twin))
            wanted: Instance = twin
            if wrong == "filter":
                wanted = next(one for one in other.instances if one.filter is not FltObjects.Filter)
            elif wrong == "nothing":
                wanted = None  # type: ignore[assignment]
            Data.Iopb.TargetInstance = wanted
            Data.Iopb.TargetFileObject = FltObjects.FileObject if wrong == "file" else target[0]  # type: ignore[assignment]
            FltSetCallbackDataDirty(Data)
            return FLT_PREOP_SUCCESS_WITH_CALLBACK

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            assert FltObjects.FileObject is not None
            lab.note("M.post", (FltObjects.FileObject.volume.dos_name, Data.Iopb.TargetInstance is FltObjects.Instance))
            return 0

        async def below(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            assert FltObjects.FileObject is not None
            lab.note("L", (FltObjects.Volume.volume.dos_name, FltObjects.FileObject.volume.dos_name, Data.Flags & ~1))
            return 0

        async def below_post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("L.post", Data.Iopb.TargetFileObject is FltObjects.FileObject)
            return 0

        await seer(lab, "U", UPPER)
        driver = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, post)})
        lower = await lab.filter("L", LOWER, {IRP_MJ_READ: (below, below_post)})
        for one in (driver, lower):
            if not any(instance.volume is other for instance in one.filter.instances):
                await lab.manager.attach(one.filter, other, one.driver_object.altitude, automatic=True)
        file = await lab.quiet_open()
        target.append(await open_on(lab, other))
        if later:
            lab.completes("later")
        return await file.read(4)

    return script


@pytest.mark.rule("FLT-CBD-12", "FLT-CBD-14", "FLT-CBD-09")
@pytest.mark.parametrize("later", [False, True])
def test_a_redirected_operation_goes_on_below_the_target(later: bool) -> None:
    one = run(redirecting(later=later))
    assert one.code is None
    assert one.result == (STATUS_SUCCESS, b"abcd")
    assert one.warnings == ()
    # The instance below on C: and M on D: see nothing of it; the one below M on D: sees the other file.
    assert one.order == ["U.pre", "allowed", "L", "L.post", "M.post", "U.post"]
    assert one.note("L").value == ("D:", "D:", 0)
    assert one.note("L.post").value is True
    assert one.note("M.post").value == ("C:", True)


@pytest.mark.rule("FLT-CBD-14")
def test_a_redirected_operation_ends_in_every_order() -> None:
    runs = all_runs(redirecting(), completion="explore", bound=1)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {(STATUS_SUCCESS, b"abcd")}
    assert {one.note("U.post").irql for one in runs} == {0, 2}


@pytest.mark.rule("FLT-CBD-14")
def test_another_file_of_the_same_volume() -> None:
    async def script(lab: Lab) -> Any:
        lab.file(r"\b", b"zyxwv")
        target: list[FileObject] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            Data.Iopb.TargetFileObject = target[0]
            FltSetCallbackDataDirty(Data)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        async def below(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            assert FltObjects.FileObject is not None
            lab.note("L", FltObjects.FileObject.FileName)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, None)})
        await lab.filter("L", LOWER, {IRP_MJ_READ: (below, None)})
        file = await lab.quiet_open()
        target.append((await lab.quiet_open(r"\b")).file)
        return await file.read(3)

    one = run(script)
    assert (one.code, one.warnings) == (None, ())
    assert one.note("L").value == r"\b"
    assert one.result == (STATUS_SUCCESS, b"zyx")


@pytest.mark.rule("FLT-CBD-12")
@pytest.mark.parametrize(("wrong", "size"), [("filter", 8), ("file", 8), ("nothing", 8), (None, 9)])
def test_a_target_that_cannot_take_the_operation(wrong: str | None, size: int) -> None:
    assert run(redirecting(wrong=wrong, size=size)).code == "bad-redirect"


@pytest.mark.rule("FLT-CBD-13")
def test_redirection_is_asked_about_first() -> None:
    one = run(redirecting(asks=None))
    assert one.code is None
    assert one.warnings == ("redirect-unchecked",)
    assert run(redirecting(asks="operation")).warnings == ()


@pytest.mark.rule("FLT-CBD-13")
def test_a_request_on_its_way_stays_too_small_when_the_stack_size_is_adjusted() -> None:
    one = run(redirecting(asks="operation", size=9, adjusts=True))
    assert one.note("adjusted").value == (STATUS_SUCCESS, True)
    assert one.note("allowed").value == (STATUS_SUCCESS, False, True)
    assert one.code == "bad-redirect"
    assert run(redirecting(size=9)).note("allowed").value == (STATUS_SUCCESS, False)
    assert run(redirecting(size=8, adjusts=True)).note("adjusted").value == (STATUS_SUCCESS, False)


@pytest.mark.rule("FLT-CBD-13")
def test_instances_of_one_volume_are_no_pair() -> None:
    async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        me = FltObjects.Instance
        return (
            await FltIsIoRedirectionAllowed(me, me),
            await FltIsIoRedirectionAllowedForOperation(Data, me),
            await FltAdjustDeviceStackSizeForIoRedirection(me, me),
        )

    no = STATUS_INVALID_PARAMETER
    assert run(on_read(lambda lab: act)).note("acted").value == ((no, False), (no, False, False), (no, False))


# Reparsing.


def reparse(name: str, *, times: int = 1, status: int = STATUS_REPARSE) -> Any:
    """A pre-create callback that sends creates of ``\\a`` to *name*."""

    def make(lab: Lab) -> Any:
        done: list[int] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            file = FltObjects.FileObject
            assert file is not None
            lab.note("R", file.FileName)
            if len(done) >= times:
                return FLT_PREOP_SUCCESS_NO_CALLBACK
            done.append(1)
            assert await IoReplaceFileObjectName(file, name, 2 * len(name)) == STATUS_SUCCESS
            Data.IoStatus.Status, Data.IoStatus.Information = status, 0
            return FLT_PREOP_COMPLETE

        return pre

    return make


@pytest.mark.rule("FLT-IO-24")
@pytest.mark.parametrize("name", [r"\b", r"C:\b", r"\??\C:\b", r"D:\b"])
def test_a_create_that_is_reparsed_begins_again_at_the_top(name: str) -> None:
    async def script(lab: Lab) -> Any:
        other = await second_volume(lab)
        other.volume.filesystem.add(r"\b", b"BB")
        lab.file(r"\b", b"BB")

        async def upper(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            lab.note("U", FltObjects.FileObject)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        above = await lab.filter("U", UPPER, {IRP_MJ_CREATE: (upper, None)})
        await lab.filter("R", MIDDLE, {IRP_MJ_CREATE: (reparse(name)(lab), None)})
        if not any(one.volume is other for one in above.filter.instances):
            await lab.manager.attach(above.filter, other, UPPER, automatic=True)
        status, file = await lab.app.create(r"\a", 1)
        assert file is not None
        return status, file.file.volume.dos_name, await file.read(2), await file.close()

    one = run(script)
    assert one.code is None
    assert one.result == (STATUS_SUCCESS, name[:2] if name[0] == "D" else "C:", (STATUS_SUCCESS, b"BB"), STATUS_SUCCESS)
    files = [note.value for note in one.notes if note.what == "U"]
    # A filter sees two creates for one open, each with a file object of its own.
    assert len(files) == 2
    assert files[0] is not files[1]


@pytest.mark.rule("FLT-IO-24")
def test_a_create_is_not_reparsed_for_ever() -> None:
    async def script(lab: Lab) -> Any:
        await lab.filter("R", MIDDLE, {IRP_MJ_CREATE: (reparse(r"\b", times=1000)(lab), None)})
        return await lab.app.create(r"\a")

    one = run(script)
    assert one.result == (STATUS_REPARSE_POINT_NOT_RESOLVED, None)
    assert one.order.count("R") == 33


def test_a_name_of_half_a_character() -> None:
    async def script(lab: Lab) -> Any:
        file = FileObject(lab.volume, r"\a")
        return await IoReplaceFileObjectName(file, r"\b", 3), await IoReplaceFileObjectName(file, r"\b", 6)

    assert run(script).result == (STATUS_INVALID_PARAMETER, STATUS_INVALID_PARAMETER)


@pytest.mark.rule("FLT-IO-25")
@pytest.mark.parametrize("top", [False, True])
@pytest.mark.parametrize(
    ("name", "times", "status"),
    [
        (r"\b", 1, STATUS_SUCCESS),
        (r"\missing", 1, STATUS_OBJECT_NAME_NOT_FOUND),
        (r"\b", 99, STATUS_REPARSE_POINT_NOT_RESOLVED),
    ],
)
def test_a_driver_never_gets_status_reparse(top: bool, name: str, times: int, status: int) -> None:
    async def script(lab: Lab) -> Any:
        lab.file(r"\b", b"BB")

        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            status, handle, file = await opened(FltObjects, top=top)
            if file is not None:
                await FltClose(handle)
                await ObDereferenceObject(file)
            return status

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)})
        file = await lab.quiet_open()
        await lab.filter("R", LOWER, {IRP_MJ_CREATE: (reparse(name, times=times)(lab), None)})
        await file.read(1)

    one = run(script)
    assert one.code is None
    assert one.note("acted").value == status


@pytest.mark.rule("FLT-IO-25")
def test_what_is_opened_below_an_instance_does_not_leave_its_volume() -> None:
    async def script(lab: Lab) -> Any:
        await second_volume(lab)

        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            return (await opened(FltObjects))[0]

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)})
        file = await lab.quiet_open()
        await lab.filter("R", LOWER, {IRP_MJ_CREATE: (reparse(r"D:\a")(lab), None)})
        await file.read(1)

    assert run(script).note("acted").value == STATUS_MOUNT_POINT_NOT_RESOLVED


# Extra create parameters.

GUID = "{1}"


def in_create(make: Any, *, reparses: bool = False) -> Script:
    """A create, in which M does ``make(lab, Data, FltObjects)``; below it R, which reparses once."""

    async def script(lab: Lab) -> Any:
        lab.file(r"\b", b"BB")
        done: list[Any] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            if not done:
                done.append(await make(lab, Data, FltObjects))
            else:
                lab.note("again", (await FltGetEcpListFromCallbackData(FltObjects.Filter, Data))[1])
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        driver = await lab.filter("M", MIDDLE, {IRP_MJ_CREATE: (pre, None)})
        if reparses:
            await lab.filter("R", LOWER, {IRP_MJ_CREATE: (reparse(r"\b")(lab), None)})
        file = await lab.open()
        await file.close()
        await driver.unload()
        return done[0]

    return script


async def made(lab: Lab, FltObjects: FLT_RELATED_OBJECTS, *, inserts: bool = True) -> tuple[ECP_LIST, Any]:
    """A list with a parameter, whose cleanup is noted."""

    async def cleanup(EcpContext: Any, EcpType: Any) -> None:
        lab.note("cleanup", EcpContext.value)

    status, ecps = await FltAllocateExtraCreateParameterList(FltObjects.Filter, 0)
    assert status == STATUS_SUCCESS
    assert ecps is not None
    status, context = await FltAllocateExtraCreateParameter(FltObjects.Filter, GUID, 8, 0, cleanup, "Test")
    assert context is not None
    context.value = 7
    if inserts:
        assert await FltInsertExtraCreateParameter(FltObjects.Filter, ecps, context) == STATUS_SUCCESS
    return ecps, context


@pytest.mark.rule("FLT-IO-24", "FLT-IO-27")
@pytest.mark.parametrize("reparses", [False, True])
def test_a_list_that_a_filter_attaches_is_freed_when_the_open_is_over(reparses: bool) -> None:
    async def attach(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        assert await FltGetEcpListFromCallbackData(FltObjects.Filter, Data) == (STATUS_SUCCESS, None)
        ecps, _ = await made(lab, FltObjects)
        assert await FltSetEcpListIntoCallbackData(FltObjects.Filter, Data, ecps) == STATUS_SUCCESS
        again = await FltSetEcpListIntoCallbackData(FltObjects.Filter, Data, ecps)
        lab.note("attached", await FltGetEcpListFromCallbackData(FltObjects.Filter, Data) == (STATUS_SUCCESS, ecps))
        return again

    one = run(in_create(attach, reparses=reparses))
    assert one.code is None
    assert one.result == STATUS_INVALID_PARAMETER_3
    assert one.note("attached").value is True
    assert one.note("cleanup").value == 7
    if reparses:
        # The second create of the open has the list too.
        assert one.note("again").value is not None
        assert one.before("again", "cleanup")


@pytest.mark.rule("FLT-IO-27")
def test_a_list_goes_with_creates_only() -> None:
    async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        _, ecps = await FltAllocateExtraCreateParameterList(FltObjects.Filter, 0)
        assert ecps is not None
        status = await FltSetEcpListIntoCallbackData(FltObjects.Filter, Data, ecps)
        await FltFreeExtraCreateParameterList(FltObjects.Filter, ecps)
        return status, await FltGetEcpListFromCallbackData(FltObjects.Filter, Data)

    one = run(on_read(lambda lab: act))
    assert one.note("acted").value == (STATUS_INVALID_PARAMETER_2, (STATUS_INVALID_PARAMETER, None))


@pytest.mark.rule("FLT-IO-26")
def test_what_is_in_a_list() -> None:
    async def use(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        me = FltObjects.Filter
        ecps, context = await made(lab, FltObjects)
        assert await FltFindExtraCreateParameter(me, ecps, GUID) == (STATUS_SUCCESS, context, 8)
        assert await FltFindExtraCreateParameter(me, ecps, "{2}") == (STATUS_NOT_FOUND, None, 0)
        assert not await FltIsEcpAcknowledged(me, context)
        await FltAcknowledgeEcp(me, context)
        assert await FltIsEcpAcknowledged(me, context)
        assert not await FltIsEcpFromUserMode(me, context)
        other, loose = await made(lab, FltObjects, inserts=False)
        assert await FltInsertExtraCreateParameter(me, ecps, loose) == STATUS_INVALID_PARAMETER
        assert await FltInsertExtraCreateParameter(me, other, context) == STATUS_INVALID_PARAMETER
        await FltFreeExtraCreateParameter(me, loose)
        await FltFreeExtraCreateParameterList(me, other)
        await FltFreeExtraCreateParameterList(me, ecps)

    one = run(in_create(use))
    assert one.code is None
    assert one.order.count("cleanup") == 2


@pytest.mark.rule("FLT-IO-26")
@pytest.mark.parametrize("how", ["list twice", "attached", "in a list", "parameter twice", "insert into freed"])
def test_extra_create_parameters_are_freed_once(how: str) -> None:
    async def use(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        me = FltObjects.Filter
        ecps, context = await made(lab, FltObjects, inserts=how not in {"parameter twice", "insert into freed"})
        if how == "attached":
            await FltSetEcpListIntoCallbackData(me, Data, ecps)
        if how in {"list twice", "attached", "insert into freed"}:
            await FltFreeExtraCreateParameterList(me, ecps)
        if how == "insert into freed":
            await FltInsertExtraCreateParameter(me, ecps, context)
        if how == "list twice":
            await FltFreeExtraCreateParameterList(me, ecps)
        await FltFreeExtraCreateParameter(me, context)
        await FltFreeExtraCreateParameter(me, context)

    assert run(in_create(use)).code == "ecp-double-free"


@pytest.mark.rule("FLT-IO-26")
@pytest.mark.parametrize("frees", ["both", "list", "parameter"])
def test_extra_create_parameters_are_freed_at_all(frees: str) -> None:
    async def use(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        ecps, context = await made(lab, FltObjects, inserts=False)
        if frees != "list":
            await FltFreeExtraCreateParameter(FltObjects.Filter, context)
        if frees != "parameter":
            await FltFreeExtraCreateParameterList(FltObjects.Filter, ecps)

    assert run(in_create(use)).code == (None if frees == "both" else "ecp-leak")


@pytest.mark.rule("FLT-IO-26")
@pytest.mark.parametrize("frees", [False, True])
@pytest.mark.parametrize("initialises", [False, True])
def test_a_list_that_goes_with_a_create_of_a_driver_stays_its_own(frees: bool, initialises: bool) -> None:
    async def script(lab: Lab) -> Any:
        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            ecps, _ = await made(lab, FltObjects)
            context = IO_DRIVER_CREATE_CONTEXT()
            if initialises:
                IoInitializeDriverCreateContext(context)
            context.ExtraCreateParameter = ecps
            status, handle, file, block = await FltCreateFileEx2(
                FltObjects.Filter, FltObjects.Instance, FILE_READ_DATA, OBJECT_ATTRIBUTES(r"\a", OBJ_KERNEL_HANDLE),
                None, 0, 7, 1, 0, None, 0, 0, context,
            )  # fmt: skip
            assert block.Status == status
            if file is not None:
                await FltClose(handle)
                await ObDereferenceObject(file)
            if frees:
                await FltFreeExtraCreateParameterList(FltObjects.Filter, ecps)
            return status

        async def below(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            _, ecps = await FltGetEcpListFromCallbackData(FltObjects.Filter, Data)
            assert ecps is not None
            lab.note("below", (await FltFindExtraCreateParameter(FltObjects.Filter, ecps, GUID))[1].value)  # type: ignore[union-attr]
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        driver = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)})
        file = await lab.quiet_open()
        await lab.filter("L", LOWER, {IRP_MJ_CREATE: (below, None)})
        await file.read(1)
        await driver.unload()

    one = run(script)
    assert one.code == (None if frees else "ecp-leak")
    assert one.note("acted").value == (STATUS_SUCCESS if initialises else STATUS_INVALID_PARAMETER)
    assert ("below" in one.order) == initialises


def test_extra_create_parameters_are_not_had_where_low_resources_are_explored() -> None:
    async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        first, ecps = await FltAllocateExtraCreateParameterList(FltObjects.Filter, 0)
        second, context = await FltAllocateExtraCreateParameter(FltObjects.Filter, GUID, 1, 0, None, "Test")
        if ecps is not None:
            await FltFreeExtraCreateParameterList(FltObjects.Filter, ecps)
        if context is not None:
            await FltFreeExtraCreateParameter(FltObjects.Filter, context)
        return first, second

    runs = all_runs(on_read(lambda lab: act, upper=False, lower=False), low_resources=True)
    both = {STATUS_SUCCESS, STATUS_INSUFFICIENT_RESOURCES}
    assert {one.note("acted").value for one in runs} == {(a, b) for a in both for b in both}


@pytest.mark.parametrize("ignores", [False, True])
def test_io_ignore_share_access_check(ignores: bool) -> None:
    async def script(lab: Lab) -> Any:
        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            status, handle, file, _ = await FltCreateFileEx2(
                FltObjects.Filter, FltObjects.Instance, FILE_WRITE_DATA, OBJECT_ATTRIBUTES(r"\a", OBJ_KERNEL_HANDLE),
                None, 0, 0, 1, 0, None, 0, IO_IGNORE_SHARE_ACCESS_CHECK if ignores else 0, None,
            )  # fmt: skip
            if file is not None:
                await FltClose(handle)
                await ObDereferenceObject(file)
            return status

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)})
        file = await lab.quiet_open()
        await file.read(1)

    assert run(script).note("acted").value == (STATUS_SUCCESS if ignores else STATUS_SHARING_VIOLATION)


# Several creates for one open (FLT-RACE-64).


@pytest.mark.rule("FLT-RACE-64")
@pytest.mark.parametrize("how", ["reparsed", "sent again", "undone", "plain"])
def test_creates_cleanups_and_closes_do_not_come_in_pairs(how: str) -> None:
    """What a filter at the bottom counts: successful post-creates against cleanups and closes."""

    async def script(lab: Lab) -> Any:
        lab.file(r"\b", b"BB")

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            lab.note("create", FltObjects.FileObject)
            return 0

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("created", Data.IoStatus.Status)
            return 0

        async def other(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            lab.note("cleanup" if Data.Iopb.MajorFunction == 0x12 else "close")
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        async def middle(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            assert FltObjects.FileObject is not None
            if how == "sent again" and Data.IoStatus.Status == STATUS_OBJECT_NAME_NOT_FOUND:
                Data.Iopb.Parameters.Create.Disposition = 3
                FltSetCallbackDataDirty(Data)
                await FltReissueSynchronousIo(FltObjects.Instance, Data)
            elif how == "undone":
                await FltCancelFileOpen(FltObjects.Instance, FltObjects.FileObject)
                Data.IoStatus.Status, Data.IoStatus.Information = STATUS_OBJECT_NAME_NOT_FOUND, 0
            return 0

        await lab.filter("A", UPPER, {IRP_MJ_CREATE: (lab.pre("A"), post), 0x12: (other, None), 0x02: (other, None)})
        await lab.filter("M", MIDDLE, {IRP_MJ_CREATE: (lab.pre("M"), middle)})
        if how == "reparsed":
            await lab.filter("R", "150000", {IRP_MJ_CREATE: (reparse(r"\b")(lab), None)})
        await lab.filter("B", LOWER, {IRP_MJ_CREATE: (pre, post), 0x12: (other, None), 0x02: (other, None)})
        status, file = await lab.app.create(r"\new" if how == "sent again" else r"\a", 1)
        if isinstance(file, File):
            await file.close()
        return status

    one = run(script)
    assert one.code is None
    counts = {what: one.order.count(what) for what in ("A.pre", "create", "created", "cleanup", "close")}
    assert (
        counts
        == {
            # A sees two creates and the second one's cleanup and close; B only the second create.
            "reparsed": {"A.pre": 2, "create": 1, "created": 3, "cleanup": 2, "close": 2},
            # B sees two creates of one file object.
            "sent again": {"A.pre": 1, "create": 2, "created": 3, "cleanup": 2, "close": 2},
            # B sees a cleanup and a close that A does not, whose create has failed.
            "undone": {"A.pre": 1, "create": 1, "created": 2, "cleanup": 1, "close": 1},
            "plain": {"A.pre": 1, "create": 1, "created": 2, "cleanup": 2, "close": 2},
        }[how]
    )
    if how == "sent again":
        assert len({note.value for note in one.notes if note.what == "create"}) == 1
