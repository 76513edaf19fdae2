"""What a minifilter that asks for the name of a file is told, and when it is told nothing (FLT-NAME)."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, Lab, all_runs, run

from kemu.io.file_constants import (
    FILE_DIRECTORY_FILE,
    FILE_OPEN_BY_FILE_ID,
    SL_OPEN_TARGET_DIRECTORY,
    FileDispositionInformationEx,
    FileRenameInformation,
)
from kemu.io.manager import IoManager
from kemu.io.parameters import Parameters
from kemu.io.request import FS_FILTER_OPERATION, FileObject, Request
from kemu.io.structures import FILE_DISPOSITION_INFORMATION_EX, FILE_LINK_INFORMATION, FILE_RENAME_INFORMATION
from kemu.nt.kthread import current_kthread
from kemu.wdk import fltkernel, wdm
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_FILE_NAME_ALLOW_QUERY_ON_REPARSE,
    FLT_FILE_NAME_DO_NOT_CACHE,
    FLT_FILE_NAME_NORMALIZED,
    FLT_FILE_NAME_OPENED,
    FLT_FILE_NAME_QUERY_ALWAYS_ALLOW_CACHE_LOOKUP,
    FLT_FILE_NAME_QUERY_CACHE_ONLY,
    FLT_FILE_NAME_QUERY_DEFAULT,
    FLT_FILE_NAME_QUERY_FILESYSTEM_ONLY,
    FLT_FILE_NAME_SHORT,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltGetFileNameFormat,
    FltGetFileNameInformation,
    FltGetFileNameInformationUnsafe,
    FltGetFileNameQueryMethod,
    FltParseFileName,
    FltParseFileNameInformation,
    FltReferenceFileNameInformation,
    FltReleaseFileNameInformation,
    FltSetFileNameFormat,
    FltSetFileNameQueryMethod,
)
from kemu.wdk.ntddk import KeEnterGuardedRegion, KeLeaveGuardedRegion
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_FILE_DELETED,
    STATUS_FLT_INVALID_NAME_REQUEST,
    STATUS_FLT_NAME_CACHE_MISS,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_NAME_INVALID,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_OBJECT_PATH_NOT_FOUND,
    STATUS_REPARSE,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    APC_LEVEL,
    FILE_CREATE,
    FILE_OPEN,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    IRP_MJ_SET_INFORMATION,
    IRP_PAGING_IO,
    UNICODE_STRING,
    KeLowerIrql,
    KeRaiseIrql,
    RtlInitUnicodeString,
)

NORMALISED = FLT_FILE_NAME_NORMALIZED | FLT_FILE_NAME_QUERY_DEFAULT
OPENED = FLT_FILE_NAME_OPENED | FLT_FILE_NAME_QUERY_DEFAULT
SHORT = FLT_FILE_NAME_SHORT | FLT_FILE_NAME_QUERY_DEFAULT
CACHED = FLT_FILE_NAME_NORMALIZED | FLT_FILE_NAME_QUERY_CACHE_ONLY
DIRECT = FLT_FILE_NAME_NORMALIZED | FLT_FILE_NAME_QUERY_FILESYSTEM_ONLY
ALWAYS = FLT_FILE_NAME_NORMALIZED | FLT_FILE_NAME_QUERY_ALWAYS_ALLOW_CACHE_LOOKUP
C = r"\Device\HarddiskVolume1"


async def ask(Data: FLT_CALLBACK_DATA, options: int) -> Any:
    """The name that *options* come to, or the status if there is none."""
    status, info = await FltGetFileNameInformation(Data, options)
    if info is None:
        return status
    name = str(info.Name)
    await FltReleaseFileNameInformation(info)
    return name


async def asker(
    lab: Lab, major: int, *options: int, post: bool = False, altitude: str = LOWER, name: str = "A"
) -> None:
    """Load a filter that notes what each of *options* comes to in its pre- or post-operation callback."""

    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        if not post:
            for one in options:
                lab.note(name, await ask(Data, one))
        return FLT_PREOP_SUCCESS_WITH_CALLBACK

    async def after(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
        if post:
            for one in options:
                lab.note(name, await ask(Data, one))
        return FLT_POSTOP_FINISHED_PROCESSING

    await lab.filter(name, altitude, {major: (pre, after)})


def answers(one: Any, name: str = "A") -> list[Any]:
    return [note.value for note in one.notes if note.what == name]


async def create(lab: Lab, path: str, disposition: int = FILE_OPEN, **members: Any) -> tuple[Any, FileObject | None]:
    manager = lab.system.get(IoManager)
    return await manager.create(lab.volume, path, disposition, **members)


async def change(lab: Lab, file: FileObject, information: Any, which: int) -> Any:
    parameters: dict[str, Any] = {"FileInformationClass": which, "Length": information.SIZE, "InfoBuffer": information}
    return (await lab.send(lab.request(file, IRP_MJ_SET_INFORMATION, **parameters))).status


# Options.


@pytest.mark.rule("FLT-NAME-01")
def test_options_are_one_format_one_method_and_flags() -> None:
    values = {
        "FLT_FILE_NAME_NORMALIZED": 1,
        "FLT_FILE_NAME_OPENED": 2,
        "FLT_FILE_NAME_SHORT": 3,
        "FLT_FILE_NAME_QUERY_DEFAULT": 0x100,
        "FLT_FILE_NAME_QUERY_CACHE_ONLY": 0x200,
        "FLT_FILE_NAME_QUERY_FILESYSTEM_ONLY": 0x300,
        "FLT_FILE_NAME_QUERY_ALWAYS_ALLOW_CACHE_LOOKUP": 0x400,
        "FLT_FILE_NAME_REQUEST_FROM_CURRENT_PROVIDER": 0x01000000,
        "FLT_FILE_NAME_DO_NOT_CACHE": 0x02000000,
        "FLT_FILE_NAME_ALLOW_QUERY_ON_REPARSE": 0x04000000,
    }
    assert {name: getattr(fltkernel, name) for name in values} == values
    options = FLT_FILE_NAME_OPENED | FLT_FILE_NAME_QUERY_CACHE_ONLY | FLT_FILE_NAME_DO_NOT_CACHE
    assert FltGetFileNameFormat(options) == FLT_FILE_NAME_OPENED
    assert FltGetFileNameQueryMethod(options) == FLT_FILE_NAME_QUERY_CACHE_ONLY
    options = FltSetFileNameFormat(options, FLT_FILE_NAME_NORMALIZED)
    options = FltSetFileNameQueryMethod(options, FLT_FILE_NAME_QUERY_DEFAULT)
    assert options == NORMALISED | FLT_FILE_NAME_DO_NOT_CACHE


@pytest.mark.rule("FLT-NAME-01", "FLT-NAME-07")
@pytest.mark.parametrize(
    "options",
    [0, FLT_FILE_NAME_NORMALIZED, FLT_FILE_NAME_QUERY_DEFAULT, 0x104, 0x501, NORMALISED | 0x10000, 0x08000101, None],
)
def test_other_options_are_refused(options: Any) -> None:
    async def script(lab: Lab) -> list[Any]:
        found: list[Any] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            found.append((await FltGetFileNameInformation(Data, options))[0])
            file = FltObjects.FileObject
            assert file is not None
            found.append((await FltGetFileNameInformationUnsafe(file, FltObjects.Instance, options))[0])
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("A", LOWER, {IRP_MJ_READ: (pre, None)})
        await (await lab.open()).read(1)
        return found

    assert run(script).result == [STATUS_INVALID_PARAMETER] * 2


@pytest.mark.rule("FLT-NAME-07")
def test_a_query_may_find_no_memory() -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()
        await asker(lab, IRP_MJ_READ, NORMALISED)
        await file.read(1)

    runs = all_runs(script, low_resources=True)
    assert {tuple(answers(one)) for one in runs} == {(STATUS_INSUFFICIENT_RESOURCES,), (rf"{C}\a",)}


def test_what_is_no_callback_data_is_a_bad_pointer() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await FltGetFileNameInformation(FltObjects, NORMALISED)  # type: ignore[arg-type]
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("A", LOWER, {IRP_MJ_CREATE: (pre, None)})
        await lab.open()

    assert run(script).code == "ke.bad-pointer"


# Formats.


@pytest.mark.rule("FLT-NAME-05")
def test_before_a_create_the_path_need_not_exist() -> None:
    async def script(lab: Lab) -> None:
        lab.file(r"\Dir\File.txt")
        await asker(lab, IRP_MJ_CREATE, OPENED, NORMALISED)
        for path in (r"\dir\file.TXT", r"\DIR\New", r"\no\such", r"\dir\file.txt\x", r"\dir\file.txt:Stream:$DATA"):
            await create(lab, path)

    assert answers(run(script)) == [
        rf"{C}\dir\file.TXT",
        rf"{C}\Dir\File.txt",
        rf"{C}\DIR\New",
        rf"{C}\Dir\New",
        rf"{C}\no\such",
        STATUS_OBJECT_PATH_NOT_FOUND,
        rf"{C}\dir\file.txt\x",
        STATUS_OBJECT_PATH_NOT_FOUND,
        rf"{C}\dir\file.txt:Stream:$DATA",
        rf"{C}\Dir\File.txt:Stream",
    ]


@pytest.mark.rule("FLT-NAME-06")
def test_before_an_open_of_the_target_directory_the_name_is_the_directorys() -> None:
    async def script(lab: Lab) -> None:
        lab.file(r"\Dir\File.txt")
        await asker(lab, IRP_MJ_CREATE, OPENED, NORMALISED)
        for path in (r"\dir\new", r"\new"):
            await create(lab, path, OperationFlags=SL_OPEN_TARGET_DIRECTORY)

    assert answers(run(script)) == [rf"{C}\dir", rf"{C}\Dir", f"{C}\\", f"{C}\\"]


@pytest.mark.rule("FLT-NAME-04")
def test_the_short_name_is_not_there_before_a_create() -> None:
    async def script(lab: Lab) -> None:
        lab.file(r"\Some long name.text")
        await asker(lab, IRP_MJ_CREATE, SHORT)
        await asker(lab, IRP_MJ_CREATE, SHORT, post=True, altitude=MIDDLE, name="B")
        await create(lab, r"\some long name.text")

    one = run(script, short_names=True)
    assert answers(one) == [STATUS_FLT_INVALID_NAME_REQUEST]
    assert answers(one, "B") == ["SOMELO~1.TEX"]


def test_the_short_name_of_what_is_short_already_is_itself_and_long_names_may_have_none() -> None:
    async def script(lab: Lab) -> None:
        lab.file(r"\Some long name.text")
        await asker(lab, IRP_MJ_READ, SHORT)
        for path in (r"\a", r"\some long name.text"):
            await (await lab.open(path)).read(1)
        _, file = await create(lab, r"\a:stream", FILE_CREATE)
        assert file is not None
        await lab.send(lab.request(file, IRP_MJ_READ, Length=1))

    assert answers(run(script)) == ["a", STATUS_OBJECT_NAME_NOT_FOUND, STATUS_OBJECT_NAME_NOT_FOUND]


def test_the_opened_name_of_an_open_file_says_what_it_was_opened_by() -> None:
    async def script(lab: Lab) -> None:
        lab.file(r"\Dir\Some long name.text")
        await asker(lab, IRP_MJ_READ, OPENED, NORMALISED)
        for path in (r"\dir\SOMELO~1.TEX", r"\dir\SOMELO~1.TEX::$DATA", r"\Dir\some long name.text:s:$DATA"):
            _, file = await create(lab, path, FILE_OPEN if ":s" not in path else FILE_CREATE)
            assert file is not None
            await lab.send(lab.request(file, IRP_MJ_READ, Length=1))

    long = rf"{C}\Dir\Some long name.text"
    short = rf"{C}\Dir\SOMELO~1.TEX"
    assert answers(run(script, short_names=True)) == [
        short, long, f"{short}::$DATA", long, f"{long}:s:$DATA", f"{long}:s"
    ]  # fmt: skip


def test_an_open_by_number_has_the_number_for_a_name_until_it_is_open() -> None:
    async def script(lab: Lab) -> int:
        node = lab.volume.filesystem.find(r"\a")
        assert node is not None
        await asker(lab, IRP_MJ_CREATE, OPENED, NORMALISED)
        await asker(lab, IRP_MJ_CREATE, NORMALISED, post=True, altitude=MIDDLE, name="B")
        await create(lab, str(node.number), CreateOptions=FILE_OPEN_BY_FILE_ID)
        await create(lab, "123", CreateOptions=FILE_OPEN_BY_FILE_ID)
        return node.number

    one = run(script)
    assert answers(one) == [rf"{C}\{one.result}", rf"{C}\a", rf"{C}\123", STATUS_INVALID_PARAMETER]
    assert answers(one, "B") == [rf"{C}\a", STATUS_INVALID_PARAMETER]


def test_a_number_whose_file_is_gone_has_no_name() -> None:
    async def script(lab: Lab) -> None:
        node = lab.volume.filesystem.find(r"\a")
        assert node is not None
        file = await lab.open()
        flags = FILE_DISPOSITION_INFORMATION_EX(3)
        await change(lab, file.file, flags, FileDispositionInformationEx)
        await file.close()
        await asker(lab, IRP_MJ_CREATE, NORMALISED)
        await create(lab, str(node.number), CreateOptions=FILE_OPEN_BY_FILE_ID)

    assert answers(run(script)) == [STATUS_INVALID_PARAMETER]


def test_what_cannot_be_a_path_has_no_name_before_the_create() -> None:
    async def script(lab: Lab) -> None:
        await asker(lab, IRP_MJ_CREATE, NORMALISED)
        await create(lab, r"\a\\b")

    assert answers(run(script)) == [STATUS_OBJECT_NAME_INVALID]


def test_a_file_that_was_deleted_has_no_name() -> None:
    async def script(lab: Lab) -> None:
        first, second = await lab.open(), await lab.open()
        await change(lab, first.file, FILE_DISPOSITION_INFORMATION_EX(3), FileDispositionInformationEx)
        await first.close()
        await asker(lab, IRP_MJ_READ, NORMALISED, CACHED)
        await second.read(1)

    assert answers(run(script)) == [STATUS_FILE_DELETED] * 2


def test_the_second_volume_has_another_device() -> None:
    from kemu.io.volume import Volume

    async def script(lab: Lab) -> None:
        other = Volume(lab.system, "D:")
        lab.system.get(IoManager).mount(other)
        lab.manager.mount(other)
        await asker(lab, IRP_MJ_CREATE, NORMALISED)
        await lab.system.get(IoManager).create(other, r"\x", FILE_CREATE)

    assert answers(run(script)) == [r"\Device\HarddiskVolume2\x"]


def test_the_parts_of_a_name() -> None:
    def parts(info: Any) -> list[str]:
        fields = ("Volume", "Share", "Extension", "Stream", "FinalComponent", "ParentDir")
        return [str(getattr(info, field)) for field in fields]

    async def script(lab: Lab) -> list[Any]:
        found: list[Any] = []
        lab.file(r"\My Documents\Test Results.txt")

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            for options in (NORMALISED, SHORT):
                status, info = await FltGetFileNameInformation(Data, options)
                if info is None:
                    found.append(status)
                    continue
                found.append((info.NamesParsed, info.Format, *parts(info)))
                assert await FltParseFileNameInformation(info) == STATUS_SUCCESS
                found.append((info.NamesParsed, info.Size > 0, *parts(info)))
                await FltReleaseFileNameInformation(info)
            return FLT_POSTOP_FINISHED_PROCESSING

        await lab.filter("A", LOWER, {IRP_MJ_CREATE: (None, post)})
        await create(lab, r"\My Documents\Test Results.txt:stream1", FILE_CREATE)
        await create(lab, r"\My Documents\Test Results.txt")
        await create(lab, r"\My Documents", CreateOptions=FILE_DIRECTORY_FILE)
        return found

    final = "Test Results.txt"
    assert run(script, short_names=True).result == [
        (0, 1, C, "", "", "", "", ""),
        (15, True, C, "", "txt", ":stream1", f"{final}:stream1", "\\My Documents\\"),
        STATUS_OBJECT_NAME_NOT_FOUND,
        (0, 1, C, "", "", "", "", ""),
        (15, True, C, "", "txt", "", final, "\\My Documents\\"),
        (0, 3, "", "", "", "", "", ""),
        (15, True, "", "", "TXT", "", "", ""),
        (0, 1, C, "", "", "", "", ""),
        (15, True, C, "", "", "", "My Documents", "\\"),
        (0, 3, "", "", "", "", "", ""),
        (15, True, "", "", "", "", "", ""),
    ]


def test_the_parts_of_any_string() -> None:
    async def script(lab: Lab) -> list[Any]:
        found: list[Any] = []
        for text in (r"\a\Test Results.txt:stream1", "TestRe~1.txt", "\\a\\", "name"):
            name, extension, stream, final = (UNICODE_STRING() for _ in range(4))
            RtlInitUnicodeString(name, text)
            assert FltParseFileName(name, extension, stream, final) == STATUS_SUCCESS
            found.append(tuple(str(one) for one in (extension, stream, final)))
            assert FltParseFileName(name, None, None, None) == STATUS_SUCCESS
        return found

    assert run(script).result == [
        ("txt", ":stream1", "Test Results.txt:stream1"),
        ("txt", "", "TestRe~1.txt"),
        ("", "", ""),
        ("", "", "name"),
    ]

    async def wrong(lab: Lab) -> None:
        FltParseFileName(None, None, None, None)  # type: ignore[arg-type]

    assert run(wrong).code == "ke.bad-pointer"


# The cache.


@pytest.mark.rule("FLT-NAME-02")
def test_the_methods_look_into_the_cache_and_fill_it() -> None:
    async def script(lab: Lab, *options: int) -> None:
        await asker(lab, IRP_MJ_READ, *options)
        await (await lab.open()).read(1)

    name = rf"{C}\a"
    miss = STATUS_FLT_NAME_CACHE_MISS

    def told(*options: int) -> list[Any]:
        return answers(run(lambda lab: script(lab, *options)))

    assert told(CACHED, NORMALISED, CACHED) == [miss, name, name]
    assert told(DIRECT, CACHED) == [name, miss]
    assert told(ALWAYS, CACHED) == [name, name]
    assert told(NORMALISED | FLT_FILE_NAME_DO_NOT_CACHE, CACHED) == [name, miss]
    assert told(OPENED, CACHED) == [name, miss]


@pytest.mark.rule("FLT-NAME-02")
def test_each_open_has_names_of_its_own_in_the_cache_and_a_create_has_too() -> None:
    async def script(lab: Lab) -> None:
        await asker(lab, IRP_MJ_CREATE, NORMALISED, CACHED, altitude=MIDDLE)
        await asker(lab, IRP_MJ_CREATE, CACHED, name="B")
        await asker(lab, IRP_MJ_READ, CACHED, altitude="100001", name="C")
        await (await lab.open()).read(1)

    one = run(script)
    assert answers(one) == [rf"{C}\a"] * 2
    assert answers(one, "B") == [rf"{C}\a"]
    assert answers(one, "C") == [STATUS_FLT_NAME_CACHE_MISS]


@pytest.mark.parametrize("how", ["rename", "rename above", "hard link"])
def test_what_gives_a_file_another_name_takes_it_out_of_the_cache(how: str) -> None:
    async def script(lab: Lab) -> None:
        lab.file(r"\d\f")
        file = await lab.open(r"\d\f")
        await asker(lab, IRP_MJ_READ, CACHED, NORMALISED, CACHED)
        await file.read(1)
        if how == "rename above":
            # A directory in which something is open is not renamed: the file is opened again.
            node = lab.volume.filesystem.find(r"\d")
            assert node is not None
            node.links[0].name = "e"
        else:
            other = await lab.open(r"\d\f")
            kind = FILE_RENAME_INFORMATION if how == "rename" else FILE_LINK_INFORMATION
            which = FileRenameInformation if how == "rename" else 11
            assert await change(lab, other.file, kind(r"\d\g"), which) == STATUS_SUCCESS
        await file.read(1)

    names = {"rename": r"\d\g", "rename above": r"\e\f", "hard link": r"\d\f"}
    assert answers(run(script)) == [
        STATUS_FLT_NAME_CACHE_MISS, rf"{C}\d\f", rf"{C}\d\f",
        STATUS_FLT_NAME_CACHE_MISS, C + names[how], C + names[how],
    ]  # fmt: skip


def test_two_queries_of_one_file_commute_unless_one_may_miss() -> None:
    async def script(lab: Lab, options: int) -> list[Any]:
        file = await lab.quiet_open()
        instance = lab.instance(await lab.recorder("A", LOWER))

        async def query(options: int) -> Any:
            status, info = await FltGetFileNameInformationUnsafe(file.file, instance, options)
            if info is not None:
                await FltReleaseFileNameInformation(info)
            return status

        return await lab.together(query(NORMALISED), query(options))

    def statuses(options: int) -> set[Any]:
        return {one.result[1] for one in all_runs(lambda lab: script(lab, options))}

    assert statuses(NORMALISED) == {STATUS_SUCCESS}
    assert statuses(CACHED) == {STATUS_SUCCESS, STATUS_FLT_NAME_CACHE_MISS}


# Where it is unsafe.


def unsafe(major: int, *options: int, post: bool = False, cached: bool = False, **request: Any) -> list[Any]:
    """What a filter is told in the middle of such a request, of a file whose name is *cached* or not."""

    async def script(lab: Lab) -> None:
        file = await lab.open()
        if cached:
            await asker(lab, IRP_MJ_READ, NORMALISED, altitude=MIDDLE, name="B")
            await file.read(1)
        await asker(lab, major, *options, post=post)
        if major in {IRP_MJ_CLEANUP, IRP_MJ_CLOSE}:
            await file.close()
        else:
            await lab.send(lab.request(file, major, **request))

    return answers(run(script))


REFUSED = STATUS_FLT_INVALID_NAME_REQUEST
SITUATIONS: dict[str, dict[str, Any]] = {
    "paging": {"major": IRP_MJ_READ, "flags": IRP_PAGING_IO, "Length": 1},
    "paging afterwards": {"major": IRP_MJ_READ, "flags": IRP_PAGING_IO, "Length": 1, "post": True},
    "post-cleanup": {"major": IRP_MJ_CLEANUP, "post": True},
    "pre-close": {"major": IRP_MJ_CLOSE},
    "post-close": {"major": IRP_MJ_CLOSE, "post": True},
    **{
        f"{name}{' afterwards' * post}": {
            "major": getattr(wdm, f"IRP_MJ_{name}"), "post": post, "kind": FS_FILTER_OPERATION
        }
        for name in (
            "ACQUIRE_FOR_CC_FLUSH", "RELEASE_FOR_CC_FLUSH", "ACQUIRE_FOR_MOD_WRITE", "RELEASE_FOR_MOD_WRITE",
            "RELEASE_FOR_SECTION_SYNCHRONIZATION",
        )
        for post in (False, True)
    },
    "section afterwards": {"major": 0xFF, "post": True, "kind": FS_FILTER_OPERATION},
}  # fmt: skip


@pytest.mark.rule("FLT-NAME-03", "FLT-NAME-02")
@pytest.mark.parametrize("situation", SITUATIONS)
def test_where_asking_is_unsafe_only_the_cache_may_answer(situation: str) -> None:
    how = dict(SITUATIONS[situation])
    major = how.pop("major")
    miss, name = STATUS_FLT_NAME_CACHE_MISS, rf"{C}\a"
    assert unsafe(major, NORMALISED, DIRECT, CACHED, ALWAYS, **how) == [REFUSED, REFUSED, miss, miss]
    if situation not in {"post-cleanup", "pre-close", "post-close"}:
        assert unsafe(major, NORMALISED, DIRECT, CACHED, ALWAYS, cached=True, **how) == [REFUSED, REFUSED, name, name]


@pytest.mark.rule("FLT-NAME-03")
@pytest.mark.parametrize("how", [{"major": IRP_MJ_CLEANUP}, {"major": 0xFF, "kind": FS_FILTER_OPERATION}])
def test_before_a_cleanup_and_before_a_section_is_made_asking_is_safe(how: dict[str, Any]) -> None:
    given = dict(how)
    assert unsafe(given.pop("major"), NORMALISED, **given) == [rf"{C}\a"]


@pytest.mark.rule("FLT-NAME-03")
@pytest.mark.parametrize("why", ["top level", "guarded", "APC_LEVEL", "nothing"])
def test_a_thread_that_takes_no_apcs_or_is_inside_the_file_system_must_not_ask(why: str) -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            thread = current_kthread()
            if why == "top level":
                thread.top_level_irp = Data
            elif why == "guarded":
                KeEnterGuardedRegion()
            old = KeRaiseIrql(APC_LEVEL) if why == "APC_LEVEL" else 0
            lab.note("A", await ask(Data, NORMALISED))
            lab.note("A", await ask(Data, ALWAYS))
            if why == "APC_LEVEL":
                KeLowerIrql(old)
            if why == "guarded":
                KeLeaveGuardedRegion()
            thread.top_level_irp = None
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("A", LOWER, {IRP_MJ_READ: (pre, None)})
        await (await lab.open()).read(1)

    expected = [rf"{C}\a"] * 2 if why == "nothing" else [REFUSED, STATUS_FLT_NAME_CACHE_MISS]
    assert answers(run(script)) == expected


@pytest.mark.rule("FLT-NAME-03")
def test_after_the_cleanup_any_operation_is_too_late() -> None:
    async def script(lab: Lab) -> None:
        await asker(lab, IRP_MJ_READ, NORMALISED, ALWAYS)
        file = await lab.open()
        await file.close()
        await lab.send(lab.request(file, IRP_MJ_READ, Length=1))

    assert answers(run(script)) == [REFUSED, STATUS_FLT_NAME_CACHE_MISS]


def test_a_file_that_is_not_open_has_a_name_only_in_its_create() -> None:
    async def script(lab: Lab) -> None:
        await asker(lab, IRP_MJ_READ, NORMALISED)
        file = FileObject(lab.volume, r"\a")

        async def complete(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            Data.IoStatus.Status = STATUS_SUCCESS
            return FLT_PREOP_COMPLETE

        await lab.filter("B", "50000", {IRP_MJ_READ: (complete, None)})
        await lab.send(Request(lab.volume, file, IRP_MJ_READ, Parameters(Length=1)))

    assert answers(run(script)) == [REFUSED]


def test_after_a_reparse_a_name_provider_says_that_the_name_is_still_good() -> None:
    async def script(lab: Lab) -> None:
        statuses = [STATUS_REPARSE]

        async def complete(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            Data.IoStatus.Status = statuses.pop() if statuses else STATUS_ACCESS_DENIED
            return FLT_PREOP_COMPLETE

        await asker(lab, IRP_MJ_CREATE, NORMALISED, NORMALISED | FLT_FILE_NAME_ALLOW_QUERY_ON_REPARSE, post=True)
        await lab.filter("B", "50000", {IRP_MJ_CREATE: (complete, None)})
        await create(lab, r"\a")

    # The create comes again, as that of another name.
    assert answers(run(script))[:2] == [REFUSED, rf"{C}\a"]


# References.


@pytest.mark.rule("FLT-NAME-15")
def test_a_name_stays_what_it_is_until_its_last_reference_is_dropped() -> None:
    async def script(lab: Lab) -> list[str]:
        found: list[str] = []
        file = await lab.open()
        instance = lab.instance(await lab.recorder("A", LOWER))
        _, info = await FltGetFileNameInformationUnsafe(file.file, instance, NORMALISED)
        assert info is not None
        await FltReferenceFileNameInformation(info)
        assert await fltkernel.FltPurgeFileNameInformationCache(instance, None) == STATUS_SUCCESS
        assert await fltkernel.FltPurgeFileNameInformationCache(instance, file.file) == STATUS_SUCCESS
        await change(lab, file.file, FILE_RENAME_INFORMATION(r"\b"), FileRenameInformation)
        found.append(str(info.Name))
        await FltReleaseFileNameInformation(info)
        found.append(str(info.Name))
        await FltReleaseFileNameInformation(info)
        return found

    assert run(script).result == [rf"{C}\a"] * 2
