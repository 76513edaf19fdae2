"""What a minifilter must not do with names, and what it has to do: each finding fires, and stays silent (FLT-NAME)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import LOWER, Lab, Run, all_runs, codes, run
from racing import Field

from kemu.io.file_constants import FILE_DELETE_ON_CLOSE, FileLinkInformation, FileRenameInformation
from kemu.io.manager import IoManager
from kemu.io.request import FileObject
from kemu.io.structures import FILE_LINK_INFORMATION, FILE_RENAME_INFORMATION
from kemu.nt.bugcheck import FLTMGR_FILE_SYSTEM
from kemu.nt.kthread import current_kthread
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_FILE_NAME_NORMALIZED,
    FLT_FILE_NAME_OPENED,
    FLT_FILE_NAME_QUERY_CACHE_ONLY,
    FLT_FILE_NAME_QUERY_DEFAULT,
    FLT_FILE_NAME_SHORT,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltGetDestinationFileNameInformation,
    FltGetFileNameInformation,
    FltGetFileNameInformationUnsafe,
    FltGetTunneledName,
    FltParseFileNameInformation,
    FltPurgeFileNameInformationCache,
    FltReferenceFileNameInformation,
    FltReleaseFileNameInformation,
)
from kemu.wdk.ntstatus import (
    STATUS_FLT_INVALID_NAME_REQUEST,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_NAME_INVALID,
    STATUS_OBJECT_PATH_NOT_FOUND,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    DISPATCH_LEVEL,
    FILE_CREATE,
    FILE_OPEN,
    FILE_OPEN_IF,
    IRP_MJ_CLEANUP,
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    IRP_MJ_SET_INFORMATION,
    IRP_PAGING_IO,
    Executive,
    KeLowerIrql,
    KeRaiseIrql,
    KernelMode,
    KeSetEvent,
    KeWaitForSingleObject,
    RtlCopyUnicodeString,
    RtlInitUnicodeString,
)

NORMALISED = FLT_FILE_NAME_NORMALIZED | FLT_FILE_NAME_QUERY_DEFAULT
OPENED = FLT_FILE_NAME_OPENED | FLT_FILE_NAME_QUERY_DEFAULT
SHORT = FLT_FILE_NAME_SHORT | FLT_FILE_NAME_QUERY_DEFAULT
C = r"\Device\HarddiskVolume1"
LONG, ALIAS = "Long file name.text", "LONGFI~1.TEX"

Work = Callable[[Any], Awaitable[Any]]


def with_name(work: Work, *, unload: bool = False, options: int = NORMALISED) -> Run:
    """A run in which a filter gets the name of a file that is read, does *work* with it, and perhaps is unloaded."""

    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            status, info = await FltGetFileNameInformation(Data, options)
            assert status == STATUS_SUCCESS
            lab.note("worked", await work(info))
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        driver = await lab.filter("A", LOWER, {IRP_MJ_READ: (pre, None)})
        await (await lab.open()).read(1)
        if unload:
            await driver.unload()

    return run(script)


# References.


@pytest.mark.rule("FLT-NAME-08")
@pytest.mark.parametrize("references", [0, 1, 2])
def test_a_name_that_is_not_released_is_found_at_unload_with_its_place(references: int) -> None:
    async def work(info: Any) -> None:
        await FltReferenceFileNameInformation(info)
        for _ in range(references):
            await FltReleaseFileNameInformation(info)

    one = with_name(work, unload=True)
    assert one.code == (None if references == 2 else "name-leak")
    if references < 2:
        assert rf"the normalised name {C}\a, got at" in one.finding.detail
        assert "test_name_rules.py" in one.finding.detail


@pytest.mark.rule("FLT-NAME-08")
def test_one_release_too_many_is_a_bug_check() -> None:
    async def work(info: Any) -> None:
        await FltReleaseFileNameInformation(info)
        await FltReleaseFileNameInformation(info)

    one = with_name(work)
    assert one.code == "name-over-release"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == FLTMGR_FILE_SYSTEM
    assert one.finding.bug_check.parameters[0] == 0x68


@pytest.mark.rule("FLT-NAME-08")
@pytest.mark.parametrize("use", ["read", "read inside", "parse", "reference"])
def test_a_name_is_not_used_after_its_last_release(use: str) -> None:
    async def work(info: Any) -> None:
        name = info.Name
        await FltReleaseFileNameInformation(info)
        if use == "read":
            _ = info.Name
        elif use == "read inside":
            _ = name.Length
        elif use == "parse":
            await FltParseFileNameInformation(info)
        else:
            await FltReferenceFileNameInformation(info)

    assert with_name(work).code == "ke.use-after-free"


@pytest.mark.parametrize("what", ["nothing", "another structure", "a part"])
def test_what_is_no_name_is_a_bad_pointer(what: str) -> None:
    async def work(info: Any) -> None:
        wrong: Any = {"nothing": None, "another structure": info.Name, "a part": info}[what]
        if what == "a part":
            wrong = info.ParentDir
        for routine in (FltReleaseFileNameInformation, FltReferenceFileNameInformation, FltParseFileNameInformation):
            await routine(wrong)

    assert with_name(work).code == "ke.bad-pointer"


def test_a_release_in_another_thread_frees_the_name_under_a_reader() -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()
        instance = lab.instance(await lab.recorder("A", LOWER))
        _, info = await FltGetFileNameInformationUnsafe(file.file, instance, NORMALISED)
        assert info is not None

        async def reads() -> None:
            await lab.step()
            _ = info.Name

        await lab.together(reads(), FltReleaseFileNameInformation(info))

    assert codes(all_runs(script)) == {None, "ke.use-after-free"}


@pytest.mark.parametrize("last_only", [True, False])
def test_whoever_releases_last_is_ordered_after_all_others(last_only: bool) -> None:
    async def script(lab: Lab) -> None:
        field = Field()
        file = await lab.quiet_open()
        instance = lab.instance(await lab.recorder("A", LOWER))
        _, info = await FltGetFileNameInformationUnsafe(file.file, instance, NORMALISED)
        assert info is not None
        await FltReferenceFileNameInformation(info)
        block = info.__dict__["_allocation"]

        async def writes() -> None:
            field.store()
            await FltReleaseFileNameInformation(info)

        async def looks() -> None:
            await FltReleaseFileNameInformation(info)
            if block.freed is not None or not last_only:
                field.load()

        await lab.together(writes(), looks())

    assert codes(all_runs(script, races=True, unseen=True)) == ({None} if last_only else {None, "ke.data-race"})


@pytest.mark.parametrize("ordered", [True, False])
def test_a_look_at_a_name_that_nothing_orders_before_its_release_is_a_race(ordered: bool) -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()
        instance = lab.instance(await lab.recorder("A", LOWER))
        _, info = await FltGetFileNameInformationUnsafe(file.file, instance, NORMALISED)
        assert info is not None
        field = Field(lifetime=info.__dict__["_allocation"])
        event = lab.event("read")

        async def looks() -> None:
            field.load()
            await KeSetEvent(event, 0, False)

        async def releases() -> None:
            if ordered:
                await KeWaitForSingleObject(event, Executive, KernelMode, False, None)
            await FltReleaseFileNameInformation(info)

        await lab.together(looks(), releases())

    assert codes(all_runs(script, races=True, unseen=True)) == ({None} if ordered else {"ke.data-race"})


# Reading only.


@pytest.mark.rule("FLT-NAME-09")
@pytest.mark.parametrize("how", ["field", "string", "routine", "replace", "parse", "copy to"])
def test_names_are_not_written_to(how: str) -> None:
    async def work(info: Any) -> None:
        if how == "field":
            info.NamesParsed = 0
        elif how == "string":
            info.Name.Length -= 2
        elif how == "routine":
            RtlInitUnicodeString(info.Name, "other")
        elif how == "copy to":
            RtlCopyUnicodeString(info.Extension, info.Name)
        elif how == "replace":
            info.Name = info.Volume
        else:
            await FltParseFileNameInformation(info)
        await FltReleaseFileNameInformation(info)

    one = with_name(work)
    assert one.code == (None if how == "parse" else "name-modified")
    if how == "string":
        assert "writes .Name.Length" in one.finding.detail


def test_names_lie_in_paged_memory() -> None:
    async def work(info: Any) -> None:
        old = KeRaiseIrql(DISPATCH_LEVEL)
        _ = info.Name.Length
        KeLowerIrql(old)

    assert with_name(work).code == "ke.paged"


# The unsafe routine.


def unsafely(major: int, options: int, *, instance: bool = True, post: bool = False, **request: Any) -> Run:
    async def script(lab: Lab) -> None:
        async def asks(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, *more: Any) -> int:
            file = FltObjects.FileObject
            assert file is not None
            asker = FltObjects.Instance if instance else None
            status, info = await FltGetFileNameInformationUnsafe(file, asker, options)
            lab.note("asked", status if info is None else str(info.Name))
            return FLT_POSTOP_FINISHED_PROCESSING if post else FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("A", LOWER, {major: (None, asks) if post else (asks, None)})
        file = await lab.open()
        if major == IRP_MJ_CLEANUP:
            await file.close()
        elif major == IRP_MJ_READ:
            await lab.send(lab.request(file, major, Length=1, **request))

    return run(script)


@pytest.mark.rule("FLT-NAME-13")
def test_the_unsafe_routine_asks_where_it_may_deadlock() -> None:
    cached = FLT_FILE_NAME_NORMALIZED | FLT_FILE_NAME_QUERY_CACHE_ONLY
    assert unsafely(IRP_MJ_READ, NORMALISED, flags=IRP_PAGING_IO).code == "name-unsafe-context"
    assert unsafely(IRP_MJ_READ, cached, flags=IRP_PAGING_IO).code is None
    assert unsafely(IRP_MJ_CLEANUP, NORMALISED, post=True).code == "name-unsafe-context"
    safe = unsafely(IRP_MJ_READ, NORMALISED)
    assert (safe.code, safe.note("asked").value) == (None, rf"{C}\a")
    assert unsafely(IRP_MJ_CLEANUP, NORMALISED).code is None
    nobody = unsafely(IRP_MJ_READ, NORMALISED, instance=False)
    assert (nobody.code, nobody.note("asked").value) == (None, rf"{C}\a")


@pytest.mark.rule("FLT-NAME-13")
@pytest.mark.parametrize("why", ["top level", "cleaned"])
def test_outside_of_a_callback_the_thread_and_the_file_decide(why: str) -> None:
    async def script(lab: Lab) -> None:
        file = await lab.open()
        instance = lab.instance(await lab.recorder("A", LOWER))
        if why == "top level":
            current_kthread().top_level_irp = file
        else:
            await file.close()
        await FltGetFileNameInformationUnsafe(file.file, instance, NORMALISED)

    assert run(script).code == "name-unsafe-context"


@pytest.mark.rule("FLT-NAME-13")
def test_the_unsafe_routine_takes_open_files_only() -> None:
    one = unsafely(IRP_MJ_CREATE, NORMALISED)
    assert (one.code, one.note("asked").value) == (None, STATUS_FLT_INVALID_NAME_REQUEST)


def test_without_a_filter_on_the_volume_there_is_nobody_to_ask() -> None:
    async def script(lab: Lab) -> Any:
        return (await FltGetFileNameInformationUnsafe((await lab.open()).file, None, NORMALISED))[0]

    assert run(script).result == STATUS_INVALID_PARAMETER


def test_only_the_names_of_open_files_are_purged() -> None:
    async def script(lab: Lab) -> Any:
        instance = lab.instance(await lab.recorder("A", LOWER))
        return await FltPurgeFileNameInformationCache(instance, FileObject(lab.volume, r"\a"))

    assert run(script).result == STATUS_INVALID_PARAMETER


# Tunnelling.


class Namer:
    """A filter that gets a name before a create or a rename, and deals with it afterwards as it is told."""

    def __init__(self, lab: Lab, afterwards: str, options: int = NORMALISED, *, source: bool = False) -> None:
        self.lab = lab
        self.afterwards = afterwards
        self.options = options
        self.source = source

    async def load(self) -> None:
        pair = (self.pre, self.post)
        callbacks: dict[int, Any] = {IRP_MJ_CREATE: pair, IRP_MJ_SET_INFORMATION: pair}
        await self.lab.filter("A", LOWER, callbacks)

    async def pre(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        if Data.Iopb.MajorFunction == IRP_MJ_CREATE or self.source:
            status, info = await FltGetFileNameInformation(Data, self.options)
        else:
            given = Data.Iopb.Parameters.SetFileInformation.InfoBuffer
            file = FltObjects.FileObject
            assert file is not None
            name, root = given.FileName, given.RootDirectory
            status, info = await FltGetDestinationFileNameInformation(
                FltObjects.Instance, file, root, name, 2 * len(name), self.options
            )
        if info is None:
            self.lab.note("name", status)
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        self.lab.note("name", str(info.Name))
        if self.afterwards == "release before":
            await FltReleaseFileNameInformation(info)
            return FLT_PREOP_SUCCESS_WITH_CALLBACK
        return FLT_PREOP_SUCCESS_WITH_CALLBACK, info

    async def post(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
        if Context is None:
            return FLT_POSTOP_FINISHED_PROCESSING
        if self.afterwards == "check":
            status, tunneled = await FltGetTunneledName(Data, Context)
            if tunneled is not None:
                self.lab.note("tunneled", str(tunneled.Name))
                await FltReleaseFileNameInformation(tunneled)
            else:
                self.lab.note("tunneled", status)
        if self.afterwards != "keep":
            await FltReleaseFileNameInformation(Context)
        return FLT_POSTOP_FINISHED_PROCESSING


async def open_(lab: Lab, path: str, disposition: int = FILE_OPEN_IF, **members: Any) -> FileObject | None:
    return (await lab.system.get(IoManager).create(lab.volume, path, disposition, **members))[1]


async def delete(lab: Lab, path: str) -> None:
    file = await open_(lab, path, FILE_OPEN, CreateOptions=FILE_DELETE_ON_CLOSE)
    assert file is not None
    await lab.system.get(IoManager).close(file)


async def rename(lab: Lab, path: str, to: str, root: Any = None, *, link: bool = False) -> Any:
    file = await open_(lab, path, FILE_OPEN)
    assert file is not None
    given = (FILE_LINK_INFORMATION if link else FILE_RENAME_INFORMATION)(to, RootDirectory=root)
    which = FileLinkInformation if link else FileRenameInformation
    parameters: dict[str, Any] = {"FileInformationClass": which, "Length": given.SIZE, "InfoBuffer": given}
    return (await lab.send(lab.request(file, IRP_MJ_SET_INFORMATION, **parameters))).status


def values(one: Run, what: str) -> list[Any]:
    return [note.value for note in one.notes if note.what == what]


@pytest.mark.rule("FLT-NAME-10")
@pytest.mark.parametrize("afterwards", ["check", "release", "keep", "release before"])
@pytest.mark.parametrize("operation", ["create", "rename", "link"])
def test_a_normalised_name_that_is_kept_has_to_be_checked(afterwards: str, operation: str) -> None:
    async def script(lab: Lab) -> None:
        await Namer(lab, afterwards).load()
        if operation == "create":
            await open_(lab, r"\new")
        else:
            await rename(lab, r"\a", r"\b", link=operation == "link")

    one = run(script)
    assert one.code is None
    assert one.warnings == (("name-tunnel-unchecked",) if afterwards in {"release", "keep"} else ())


@pytest.mark.rule("FLT-NAME-10")
@pytest.mark.parametrize("why", ["opened", "existed", "failed", "old name"])
def test_a_name_that_tunnelling_does_not_concern_need_not_be_checked(why: str) -> None:
    async def script(lab: Lab) -> None:
        await Namer(lab, "release", OPENED if why == "opened" else NORMALISED, source=why == "old name").load()
        if why == "old name":
            assert await rename(lab, r"\a", r"\b") == STATUS_SUCCESS
        else:
            await open_(lab, r"\a" if why == "existed" else r"\new", FILE_OPEN if why == "failed" else FILE_OPEN_IF)

    assert run(script).warnings == ()


@pytest.mark.rule("FLT-NAME-11")
def test_what_tunnelling_has_made_of_a_name() -> None:
    async def script(lab: Lab) -> None:
        lab.file(rf"\{LONG}")
        await delete(lab, rf"\{ALIAS}")
        await Namer(lab, "check").load()
        await open_(lab, rf"\{ALIAS}:s", FILE_CREATE)
        await open_(lab, rf"\{ALIAS}", FILE_OPEN)
        await open_(lab, r"\new")
        await open_(lab, r"\new\impossible")
        assert await rename(lab, rf"\{ALIAS}", r"\elsewhere") == STATUS_SUCCESS
        assert await rename(lab, r"\new", rf"\{LONG}") == STATUS_SUCCESS
        assert await rename(lab, rf"\{ALIAS}", r"\elsewhere 2") == STATUS_SUCCESS
        assert await rename(lab, r"\a", ALIAS) == STATUS_SUCCESS

    one = run(script, short_names=True)
    assert (one.code, one.warnings) == (None, ())
    nothing = STATUS_SUCCESS
    assert list(zip(values(one, "name"), values(one, "tunneled"), strict=False))[:3] == [
        (rf"{C}\{ALIAS}:s", rf"{C}\{LONG}:s"),
        (rf"{C}\{LONG}", nothing),
        (rf"{C}\new", nothing),
    ]
    assert [value for value in values(one, "tunneled") if value != nothing] == [rf"{C}\{LONG}:s", rf"{C}\{LONG}"]


@pytest.mark.rule("FLT-NAME-11")
def test_a_failed_create_has_no_tunnelled_name() -> None:
    async def script(lab: Lab) -> None:
        await Namer(lab, "check").load()
        await open_(lab, r"\missing", FILE_OPEN)

    assert values(run(script), "tunneled") == [STATUS_SUCCESS]


@pytest.mark.rule("FLT-NAME-11")
@pytest.mark.parametrize("where", ["pre-create", "post-read", "post-create", "post-set"])
def test_a_tunnelled_name_is_asked_for_after_a_create_or_a_change(where: str) -> None:
    async def script(lab: Lab) -> None:
        async def asks(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, *more: Any) -> int:
            _, info = await FltGetFileNameInformation(Data, NORMALISED)
            assert info is not None
            assert await FltGetTunneledName(Data, info) == (STATUS_SUCCESS, None)
            await FltReleaseFileNameInformation(info)
            return FLT_POSTOP_FINISHED_PROCESSING if more else FLT_PREOP_SUCCESS_NO_CALLBACK

        major = {"read": IRP_MJ_READ, "set": IRP_MJ_SET_INFORMATION}.get(where[5:], IRP_MJ_CREATE)
        await lab.filter("A", LOWER, {major: (asks, None) if where == "pre-create" else (None, asks)})
        await (await lab.open()).read(1)
        await rename(lab, r"\a", r"\b")

    assert run(script).code == ("tunneledname-misplaced" if where in {"pre-create", "post-read"} else None)


@pytest.mark.parametrize("wrong", ["data", "no name", "freed", "memory"])
def test_a_tunnelled_name_needs_callback_data_a_name_and_memory(wrong: str) -> None:
    async def script(lab: Lab) -> None:
        async def post(Data: Any, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            _, info = await FltGetFileNameInformation(Data, NORMALISED)
            if info is None:
                return FLT_POSTOP_FINISHED_PROCESSING
            if wrong == "freed":
                await FltReleaseFileNameInformation(info)
            given: Any = None if wrong == "no name" else info
            status, _ = await FltGetTunneledName(FltObjects if wrong == "data" else Data, given)  # type: ignore[arg-type]
            lab.note("status", status)
            return FLT_POSTOP_FINISHED_PROCESSING

        await lab.filter("A", LOWER, {IRP_MJ_CREATE: (None, post)})
        await lab.open()

    if wrong == "memory":
        runs = all_runs(script, low_resources=True)
        assert {note.value for one in runs for note in one.notes} == {STATUS_SUCCESS, STATUS_INSUFFICIENT_RESOURCES}
    else:
        assert run(script).code == ("ke.use-after-free" if wrong == "freed" else "ke.bad-pointer")


# Destinations.


def destinations(options: int, *renames: tuple[str, str, Any]) -> list[Any]:
    async def script(lab: Lab) -> None:
        lab.file(r"\Dir\File")
        directory = await open_(lab, r"\Dir", FILE_OPEN)
        await Namer(lab, "check", options).load()
        for path, to, root in renames:
            await rename(lab, path, to, directory if root == "dir" else root)

    return values(run(script, short_names=True), "name")


@pytest.mark.rule("FLT-NAME-14")
def test_where_a_rename_leads() -> None:
    def told(options: int, *how: tuple[str, str, Any]) -> list[Any]:
        # The first name is that of the create.
        return destinations(options, *how)[1::2]

    renames = (r"\a", "B", None), (r"\B", r"\dir\b", None), (r"\Dir\b", "c", "dir"), (r"\Dir\c", r"\no\x", None)
    assert told(NORMALISED, *renames) == [rf"{C}\B", rf"{C}\Dir\b", rf"{C}\Dir\c", STATUS_OBJECT_PATH_NOT_FOUND]
    assert told(OPENED, *renames) == [rf"{C}\B", rf"{C}\dir\b", rf"{C}\Dir\c", rf"{C}\no\x"]
    wrong = (r"\a", r"\x", "dir"), (r"\a", "x:", None), (r"\a", "x", "no directory"), ("\\", "x", None)
    assert told(NORMALISED, *wrong) == [
        STATUS_INVALID_PARAMETER, STATUS_OBJECT_NAME_INVALID, STATUS_INVALID_PARAMETER, STATUS_INVALID_PARAMETER,
    ]  # fmt: skip


@pytest.mark.rule("FLT-NAME-14")
@pytest.mark.parametrize("why", ["short", "top level", "options", "another file", "not open", "memory"])
def test_a_destination_that_cannot_be_asked_for(why: str) -> None:
    async def script(lab: Lab) -> None:
        other = await lab.open()

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            file = FltObjects.FileObject
            assert file is not None
            if why == "another file":
                file = other.file
            elif why == "not open":
                file = FileObject(lab.volume, r"\a")
            thread = current_kthread()
            thread.top_level_irp = Data if why == "top level" else None
            options = {"short": SHORT, "options": 0}.get(why, NORMALISED)
            status, info = await FltGetDestinationFileNameInformation(FltObjects.Instance, file, None, "b", 2, options)
            thread.top_level_irp = None
            lab.note("status", status)
            if info is not None:
                await FltReleaseFileNameInformation(info)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("A", LOWER, {IRP_MJ_SET_INFORMATION: (pre, None)})
        await rename(lab, r"\a", "b")

    if why == "memory":
        runs = all_runs(script, low_resources=True)
        assert {note.value for one in runs for note in one.notes} == {STATUS_SUCCESS, STATUS_INSUFFICIENT_RESOURCES}
        return
    expected = STATUS_INVALID_PARAMETER if why == "options" else STATUS_FLT_INVALID_NAME_REQUEST
    assert values(run(script), "status") == [expected]


def test_the_destination_is_that_of_the_rename_in_whose_callback_the_thread_is() -> None:
    async def script(lab: Lab) -> None:
        file = await open_(lab, r"\a", FILE_OPEN)
        assert file is not None
        await Namer(lab, "check").load()

        async def one(to: str) -> None:
            given = FILE_RENAME_INFORMATION(to)
            parameters: dict[str, Any] = {
                "FileInformationClass": FileRenameInformation,
                "Length": given.SIZE,
                "InfoBuffer": given,
            }
            await lab.send(lab.request(file, IRP_MJ_SET_INFORMATION, **parameters))

        await lab.together(one("b"), one("c"))

    # Each checks its own: nothing is asked of one rename on account of the other.
    for one in all_runs(script, bound=2):
        assert (one.code, one.warnings) == (None, ())
