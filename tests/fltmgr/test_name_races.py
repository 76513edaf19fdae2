"""Races about names and about what becomes of a file: every order comes about, and the harmful ones are told
(FLT-RACE-46, FLT-RACE-47).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import LOWER, Lab, Run, Script, all_runs, run

from kemu.explore import DPOR
from kemu.io.constants import FILE_CREATE, FILE_OPEN, FILE_OPEN_IF
from kemu.io.file_constants import (
    FILE_DELETE_ON_CLOSE,
    FILE_USE_FILE_POINTER_POSITION,
    FileDispositionInformation,
    FileDispositionInformationEx,
    FileRenameInformation,
)
from kemu.io.manager import IoManager
from kemu.io.request import FileObject
from kemu.io.structures import (
    FILE_DISPOSITION_INFORMATION,
    FILE_DISPOSITION_INFORMATION_EX,
    FILE_RENAME_INFORMATION,
)
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_FILE_NAME_NORMALIZED,
    FLT_FILE_NAME_OPENED,
    FLT_FILE_NAME_QUERY_DEFAULT,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltCompletePendedPostOperation,
    FltGetDestinationFileNameInformation,
    FltGetFileNameInformation,
    FltGetFileNameInformationUnsafe,
    FltGetTunneledName,
    FltReferenceFileNameInformation,
    FltReleaseFileNameInformation,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import IRP_MJ_CREATE, IRP_MJ_READ, IRP_MJ_SET_INFORMATION, NT_SUCCESS

NORMALISED = FLT_FILE_NAME_NORMALIZED | FLT_FILE_NAME_QUERY_DEFAULT
OPENED = FLT_FILE_NAME_OPENED | FLT_FILE_NAME_QUERY_DEFAULT
C = r"\Device\HarddiskVolume1"
LONG, ALIAS = "Long file name.text", "LONGFI~1.TEX"


def classes(script: Script, **options: Any) -> list[Run]:
    """A run of each class of runs of *script* that differ by more than the order of independent steps."""
    search = DPOR()
    runs: list[Run] = []
    while search.begin():
        one = run(script, search, observer=search, **options)
        search.end(one.outcome)
        if one.outcome.end != "abandoned":
            runs.append(one)
    assert search.exhausted
    # Nothing is missing that a run with a preemption comes to.
    few = all_runs(script, bound=1, **options)
    assert {one.what_came_of_it for one in few} <= {one.what_came_of_it for one in runs}
    return runs


async def open_(lab: Lab, path: str, disposition: int = FILE_OPEN_IF, **members: Any) -> tuple[Any, FileObject | None]:
    return await lab.system.get(IoManager).create(lab.volume, path, disposition, **members)


async def change(lab: Lab, file: FileObject, which: int, information: Any) -> Any:
    parameters: dict[str, Any] = {"FileInformationClass": which, "Length": information.SIZE, "InfoBuffer": information}
    return (await lab.send(lab.request(file, IRP_MJ_SET_INFORMATION, **parameters))).status


class Watcher:
    """Keeps the name from its pre-operation callback, and uses it in its post-operation callback."""

    def __init__(self, lab: Lab, *, asks_again: bool = False, checks: bool = False, options: int = NORMALISED) -> None:
        self.lab = lab
        self.asks_again = asks_again
        self.checks = checks
        self.options = options
        self.thread = ""
        """Whose operations are looked at."""

    async def load(self, *majors: int) -> None:
        await self.lab.filter("A", LOWER, dict.fromkeys(majors, (self.pre, self.post)))

    async def pre(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        if Data.Thread is None or Data.Thread.label != self.thread:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        if Data.Iopb.MajorFunction == IRP_MJ_SET_INFORMATION:
            given = Data.Iopb.Parameters.SetFileInformation.InfoBuffer
            file = FltObjects.FileObject
            assert file is not None
            status, info = await FltGetDestinationFileNameInformation(
                FltObjects.Instance, file, None, given.FileName, 2 * len(given.FileName), self.options
            )
        else:
            status, info = await FltGetFileNameInformation(Data, self.options)
        self.lab.note("pre", status)
        return (FLT_PREOP_SUCCESS_WITH_CALLBACK, info) if info is not None else FLT_PREOP_SUCCESS_NO_CALLBACK

    async def post(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
        info = Context
        tunneled = None
        if self.checks:
            _, tunneled = await FltGetTunneledName(Data, info)
        if NT_SUCCESS(Data.IoStatus.Status):
            if self.asks_again:
                await FltReleaseFileNameInformation(info)
                _, info = await FltGetFileNameInformation(Data, self.options)
                assert info is not None
            self.lab.note("post", str((tunneled or info).Name))
        for one in (info, tunneled):
            if one is not None:
                await FltReleaseFileNameInformation(one)
        return FLT_POSTOP_FINISHED_PROCESSING


def used(one: Run) -> str:
    """The name that the post-operation callback went by, without the volume's."""
    values = [note.value for note in one.notes if note.what == "post"]
    return values[0].removeprefix(C) if values else "none"


# FLT-RACE-46: others rename, delete and create between the two callbacks.


def renamed_beside(how: str, **filter_: Any) -> list[Run]:
    """All runs of an operation on a file while somebody renames it, or a directory above, or swaps it."""

    async def script(lab: Lab) -> Any:
        lab.file(r"\d\f", b"old")
        lab.file(r"\d\g", b"new")
        watcher = Watcher(lab, **filter_)
        await watcher.load(IRP_MJ_READ if how == "read" else IRP_MJ_CREATE)
        watcher.thread = "operates"
        path = r"\d" if how == "rename above" else r"\d\f"
        _, handle = await open_(lab, path, FILE_OPEN)
        _, second = await open_(lab, r"\d\g" if how == "swap" else path, FILE_OPEN)
        assert handle is not None
        assert second is not None

        async def operates() -> Any:
            if how == "read":
                assert second is not None
                return (await lab.send(lab.request(second, IRP_MJ_READ, Length=3))).buffer
            status, file = await open_(lab, r"\d\f", FILE_OPEN)
            if file is None:
                return status
            return bytes(file.fs_context.stream.bytes)

        async def renames() -> None:
            await change(
                lab, handle, FileRenameInformation, FILE_RENAME_INFORMATION(r"\e" if path == r"\d" else r"\d\h")
            )
            if how == "swap":
                await change(lab, second, FileRenameInformation, FILE_RENAME_INFORMATION(r"\d\f"))

        return (await lab.together(operates(), renames()))[0]

    return classes(script)


@pytest.mark.rule("FLT-RACE-46")
def test_a_file_that_is_read_is_renamed_before_between_and_after() -> None:
    runs = renamed_beside("read")
    # Renamed before the pre-operation callback; between the two; after them.
    assert {(used(one), one.warnings) for one in runs} == {
        (r"\d\h", ()),
        (r"\d\f", ("name-stale",)),
        (r"\d\f", ()),
    }
    assert {one.code for one in runs} == {None}


@pytest.mark.rule("FLT-RACE-46")
def test_asking_again_afterwards_is_right_in_every_order() -> None:
    for how in ("read", "swap"):
        runs = renamed_beside(how, asks_again=True)
        assert {one.warnings for one in runs} == {()}
        assert {used(one) for one in runs} >= {r"\d\f", r"\d\h"}


@pytest.mark.rule("FLT-RACE-46")
def test_a_create_opens_what_has_the_name_by_then() -> None:
    runs = renamed_beside("swap")
    # What was opened, by which name it was called, and whether that had become wrong.
    found = {(repr(one.result), used(one), one.warnings) for one in runs}
    assert found >= {
        ("b'old'", r"\d\f", ()),  # before both renames
        ("b'new'", r"\d\f", ()),  # after both, or around both: the name is right again
        ("b'old'", r"\d\f", ("name-stale",)),  # opened before, used after the renames
    }
    assert {one.warnings for one in runs if one.result not in {b"old", b"new"}} == {()}
    for one in runs:
        assert (one.warnings == ("name-stale",)) <= (one.result == b"old")


@pytest.mark.rule("FLT-RACE-46")
def test_a_directory_above_is_renamed_while_a_file_in_it_is_opened() -> None:
    runs = renamed_beside("rename above")
    outcomes = {(repr(one.result), used(one), one.warnings) for one in runs}
    assert outcomes == {
        ("b'old'", r"\d\f", ()),  # the open comes first, and then the rename is refused: the directory is in use
        ("STATUS_OBJECT_PATH_NOT_FOUND", "none", ()),
    }


def tunnelled_beside(operation: str, *, checks: bool, options: int = NORMALISED) -> list[Run]:
    """All runs of a create or rename to a short name while somebody removes the file that has it."""

    async def script(lab: Lab) -> None:
        lab.file(rf"\{LONG}")
        watcher = Watcher(lab, checks=checks, options=options)
        await watcher.load(IRP_MJ_CREATE if operation == "create" else IRP_MJ_SET_INFORMATION)
        watcher.thread = "operates"
        manager = lab.system.get(IoManager)
        _, old = await open_(lab, rf"\{ALIAS}", FILE_OPEN, CreateOptions=FILE_DELETE_ON_CLOSE)
        _, source = await open_(lab, r"\a", FILE_OPEN)
        assert old is not None
        assert source is not None

        async def operates() -> None:
            if operation == "create":
                await open_(lab, rf"\{ALIAS}", FILE_CREATE)
            else:
                await change(lab, source, FileRenameInformation, FILE_RENAME_INFORMATION(rf"\{ALIAS}"))

        async def deletes() -> None:
            await manager.close(old)

        await lab.together(operates(), deletes())

    return classes(script, short_names=True)


@pytest.mark.rule("FLT-RACE-46", "FLT-NAME-10", "FLT-NAME-12")
@pytest.mark.parametrize("operation", ["create", "rename"])
def test_a_name_is_removed_and_tunnelled_before_and_between(operation: str) -> None:
    blind = tunnelled_beside(operation, checks=False)
    seen = {(used(one), one.warnings) for one in blind}
    assert seen == {
        # Removed before the pre-operation callback: it finds the short name free, and the new file gets the long one.
        (rf"\{ALIAS}", ("name-stale", "name-tunnel-unchecked")),
        # Removed between the two: the long name was right before and is again.
        (rf"\{LONG}", ("name-tunnel-unchecked",)),
        # Removed after the attempt, which fails.
        ("none", ()),
    }
    checked = tunnelled_beside(operation, checks=True)
    assert {(used(one), one.warnings) for one in checked} == {(rf"\{LONG}", ()), ("none", ())}


@pytest.mark.rule("FLT-NAME-10")
def test_opened_names_are_not_tunnelled() -> None:
    runs = tunnelled_beside("create", checks=False, options=OPENED)
    assert {one.warnings for one in runs} == {()}
    assert {used(one) for one in runs} == {rf"\{ALIAS}", "none"}


@pytest.mark.rule("FLT-RACE-46")
@pytest.mark.parametrize("options", [OPENED, NORMALISED])
@pytest.mark.parametrize("operation", ["create", "rename"])
def test_a_name_that_is_only_spelt_differently_is_not_out_of_date(options: int, operation: str) -> None:
    async def script(lab: Lab) -> None:
        lab.file(r"\A directory\File", b"x")
        _, stream = await open_(lab, r"\A directory\File:Stream", FILE_CREATE)
        assert stream is not None
        _, handle = await open_(lab, r"\a", FILE_OPEN)
        assert handle is not None
        watcher = Watcher(lab, options=options, checks=options == NORMALISED)
        await watcher.load(IRP_MJ_CREATE, IRP_MJ_SET_INFORMATION)
        watcher.thread = "script"
        if operation == "create":
            await open_(lab, r"\adirec~1\FILE:STREAM:$DATA", FILE_OPEN)
        else:
            await change(lab, handle, FileRenameInformation, FILE_RENAME_INFORMATION(r"\ADIREC~1\B"))

    one = run(script, short_names=True)
    assert [note.what for note in one.notes] == ["pre", "post"]
    assert one.warnings == ()


# FLT-RACE-47: two dispositions at the same time.

Told = Callable[[Lab, FLT_CALLBACK_DATA, bool], Awaitable[int]]


async def at_once(lab: Lab, Data: FLT_CALLBACK_DATA, deletes: bool) -> int:
    return FLT_POSTOP_FINISHED_PROCESSING


def dispositions(
    first: bool, second: bool, told: Told = at_once, *, cleanup: bool = False, ex: bool = False
) -> list[Run]:
    """All runs in which two handles set the disposition of one file at once; the first may be closed after that."""

    async def script(lab: Lab) -> bool:
        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            given = Data.Iopb.Parameters.SetFileInformation.InfoBuffer
            deletes = bool(given.Flags if ex else given.DeleteFile)
            if NT_SUCCESS(Data.IoStatus.Status):
                lab.note("told", deletes)
            return await told(lab, Data, deletes)

        await lab.filter("A", LOWER, {IRP_MJ_SET_INFORMATION: (None, post)})
        handles = [(await open_(lab, r"\a", FILE_OPEN))[1] for _ in range(2)]
        node = lab.volume.filesystem.find(r"\a")
        assert node is not None

        async def disposes(file: FileObject | None, deletes: bool) -> None:
            assert file is not None
            which = FileDispositionInformationEx if ex else FileDispositionInformation
            given: Any = FILE_DISPOSITION_INFORMATION_EX(int(deletes)) if ex else FILE_DISPOSITION_INFORMATION(deletes)
            assert await change(lab, file, which, given) == STATUS_SUCCESS
            if cleanup and file is handles[0]:
                await lab.system.get(IoManager).close(file)

        await lab.together(disposes(handles[0], first), disposes(handles[1], second))
        if cleanup:
            # The last handle decides whether the file is there afterwards.
            assert handles[1] is not None
            await lab.system.get(IoManager).close(handles[1])
            return lab.volume.filesystem.find(r"\a") is None
        return node.links[0].deleted

    return classes(script)


def last_told(one: Run) -> bool:
    return [note.value for note in one.notes if note.what == "told"][-1]


@pytest.mark.rule("FLT-RACE-47")
@pytest.mark.parametrize("cleanup", [False, True])
@pytest.mark.parametrize("ex", [False, True])
def test_the_last_word_need_not_be_the_truth(cleanup: bool, ex: bool) -> None:
    runs = dispositions(True, False, cleanup=cleanup, ex=ex)
    # What becomes of the file, and what the filter hears last: all four come about.
    assert {(one.result, last_told(one)) for one in runs} == {
        (True, True), (False, False), (True, False), (False, True)
    }  # fmt: skip
    # The finding is there exactly where the two differ.
    for one in runs:
        assert (one.warnings == ("disposition-race",)) == (one.result != last_told(one))
        assert one.code is None


@pytest.mark.rule("FLT-RACE-47")
def test_two_that_want_the_same_do_no_harm() -> None:
    for both in (True, False):
        assert {one.warnings for one in dispositions(both, both)} == {()}


@pytest.mark.rule("FLT-RACE-47")
def test_what_counts_is_when_the_filter_gives_the_operation_back() -> None:
    async def pends(lab: Lab, Data: FLT_CALLBACK_DATA, deletes: bool) -> int:
        await FltCompletePendedPostOperation(Data)
        return FLT_POSTOP_MORE_PROCESSING_REQUIRED

    def returned(one: Run) -> bool:
        return one.warnings == ("disposition-race",)

    async def script(lab: Lab) -> None:
        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            return await pends(lab, Data, True)

        await lab.filter("A", LOWER, {IRP_MJ_SET_INFORMATION: (None, post)})
        handles = [(await open_(lab, r"\a", FILE_OPEN))[1] for _ in range(2)]

        async def disposes(file: FileObject | None, deletes: bool) -> None:
            assert file is not None
            await change(lab, file, FileDispositionInformation, FILE_DISPOSITION_INFORMATION(deletes))

        await lab.together(disposes(handles[0], True), disposes(handles[1], False))

    runs = classes(script)
    assert {returned(one) for one in runs} == {True, False}
    assert {one.code for one in runs} == {None}


def test_a_disposition_that_fails_changes_nothing() -> None:
    async def script(lab: Lab) -> None:
        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            return FLT_POSTOP_FINISHED_PROCESSING

        await lab.filter("A", LOWER, {IRP_MJ_SET_INFORMATION: (None, post)})
        lab.directory(r"\d")
        lab.file(r"\d\f")
        _, file = await open_(lab, r"\d", FILE_OPEN)
        assert file is not None
        assert not NT_SUCCESS(await change(lab, file, FileDispositionInformation, FILE_DISPOSITION_INFORMATION(True)))

    assert run(script).warnings == ()


# References.


def test_a_reference_and_the_last_release_come_in_both_orders() -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()
        instance = lab.instance(await lab.recorder("A", LOWER))
        _, info = await FltGetFileNameInformationUnsafe(file.file, instance, NORMALISED)
        assert info is not None
        await lab.together(FltReferenceFileNameInformation(info), FltReleaseFileNameInformation(info))

    search = DPOR()
    found: set[str | None] = set()
    while search.begin():
        one = run(script, search, observer=search)
        search.end(one.outcome)
        found.add(one.code)
    assert found == {None, "ke.use-after-free"}


# FLT-RACE-67: the position of a file object belongs to nobody.


def test_two_reads_at_the_position_come_in_either_order() -> None:
    async def script(lab: Lab) -> list[bytes]:
        file = await lab.quiet_open()

        async def reads() -> bytes:
            request = lab.request(file, IRP_MJ_READ, Length=4, ByteOffset=FILE_USE_FILE_POINTER_POSITION)
            return (await lab.send(request)).buffer

        return await lab.together(reads(), reads())

    # The reduced search comes to the same: the position is part of what a read looks at and changes.
    assert {tuple(one.result) for one in all_runs(script)} == {(b"0123", b"4567"), (b"4567", b"0123")}
