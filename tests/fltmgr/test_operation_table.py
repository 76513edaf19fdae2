"""The table of operations: the level and thread of both callbacks, for every major function that there is.

Every major function is sent through the filter manager in every class that it comes in; and a program, a cache and a
mapped page writer produce most of them by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from fltmgr.kit import LOWER, UPPER, Lab, Post, Pre, all_runs, codes, sample

from kemu.io.request import CLASS_NAMES, FAST_IO_OPERATION, FS_FILTER_OPERATION, IRP_OPERATION
from kemu.nt.kthread import current_kthread
from kemu.user.native import IO_STATUS_BLOCK
from kemu.user.win32 import FILE_MAP_WRITE, OPEN_ALWAYS
from kemu.wdk import wdm
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_RELATED_OBJECTS,
)
from kemu.wdk.ntifs import FSCTL_IS_VOLUME_MOUNTED, FileFsSizeInformation
from kemu.wdk.wdm import (
    APC_LEVEL,
    DISPATCH_LEVEL,
    GENERIC_READ,
    GENERIC_WRITE,
    IRP_PAGING_IO,
    PASSIVE_LEVEL,
    FileBasicInformation,
)

IRP, FAST, FS = IRP_OPERATION, FAST_IO_OPERATION, FS_FILTER_OPERATION


@dataclass(frozen=True)
class Row:
    """One row: the major function, its classes, the highest level before, and where the callback afterwards runs."""

    name: str
    code: int
    classes: tuple[int, ...]
    highest: int = PASSIVE_LEVEL
    original: bool = True
    """Whether the thread before is the originator's, and not just any."""
    post: str = "any"
    """``any``: any thread, up to DISPATCH_LEVEL; ``original``: PASSIVE_LEVEL, the originator's; ``none``: none."""

    @property
    def major(self) -> int:
        """The constant of this name."""
        return getattr(wdm, f"IRP_MJ_{self.name}", self.code)


TABLE = (
    Row("CREATE", 0x00, (IRP,), post="original"),
    Row("CLOSE", 0x02, (IRP,), APC_LEVEL, original=False),
    Row("READ", 0x03, (IRP, FAST)),
    Row("WRITE", 0x04, (IRP, FAST)),
    Row("QUERY_INFORMATION", 0x05, (IRP, FAST)),
    Row("SET_INFORMATION", 0x06, (IRP,)),
    Row("QUERY_EA", 0x07, (IRP,)),
    Row("SET_EA", 0x08, (IRP,)),
    Row("FLUSH_BUFFERS", 0x09, (IRP,)),
    Row("QUERY_VOLUME_INFORMATION", 0x0A, (IRP,)),
    Row("SET_VOLUME_INFORMATION", 0x0B, (IRP,)),
    Row("DIRECTORY_CONTROL", 0x0C, (IRP,), APC_LEVEL, original=False),
    Row("FILE_SYSTEM_CONTROL", 0x0D, (IRP,)),
    Row("DEVICE_CONTROL", 0x0E, (IRP, FAST)),
    Row("INTERNAL_DEVICE_CONTROL", 0x0F, (IRP,)),
    Row("SHUTDOWN", 0x10, (IRP,), original=False, post="none"),
    Row("LOCK_CONTROL", 0x11, (IRP, FAST)),
    Row("CLEANUP", 0x12, (IRP,)),
    Row("QUERY_SECURITY", 0x14, (IRP,)),
    Row("SET_SECURITY", 0x15, (IRP,)),
    Row("SYSTEM_CONTROL", 0x17, (IRP,), APC_LEVEL, original=False),
    Row("QUERY_QUOTA", 0x19, (IRP,)),
    Row("SET_QUOTA", 0x1A, (IRP,)),
    Row("PNP", 0x1B, (IRP,), original=False),
    Row("VOLUME_DISMOUNT", 0xEC, (FAST,)),
    Row("VOLUME_MOUNT", 0xED, (FAST,)),
    Row("NETWORK_QUERY_OPEN", 0xF2, (FAST,), APC_LEVEL),
    Row("FAST_IO_CHECK_IF_POSSIBLE", 0xF3, (FAST,), APC_LEVEL),
    Row("QUERY_OPEN", 0xF9, (FS,), APC_LEVEL),
    Row("RELEASE_FOR_CC_FLUSH", 0xFA, (FS,), APC_LEVEL, original=False),
    Row("ACQUIRE_FOR_CC_FLUSH", 0xFB, (FS,), APC_LEVEL, original=False),
    Row("RELEASE_FOR_MOD_WRITE", 0xFC, (FS,), APC_LEVEL, original=False),
    Row("ACQUIRE_FOR_MOD_WRITE", 0xFD, (FS,), APC_LEVEL, original=False),
    Row("RELEASE_FOR_SECTION_SYNCHRONIZATION", 0xFE, (FS,), APC_LEVEL),
    Row("ACQUIRE_FOR_SECTION_SYNCHRONIZATION", 0xFF, (FS,), APC_LEVEL),
)
ROWS = {row.code: row for row in TABLE}
ALL = 7


@dataclass(frozen=True)
class Visit:
    """What a callback has seen of itself."""

    major: int
    kind: int
    paging: bool
    is_original: bool
    """Whether it ran in the originator's thread."""


def watcher(lab: Lab, name: str) -> tuple[Pre, Post]:
    """Callbacks that note where they run."""

    def visit(Data: FLT_CALLBACK_DATA) -> Visit:
        paging = bool(Data.Iopb.IrpFlags & IRP_PAGING_IO)
        return Visit(Data.Iopb.MajorFunction, Data.Flags & 7, paging, Data.Thread is current_kthread())

    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        lab.note(f"{name}.pre", visit(Data))
        return FLT_PREOP_SUCCESS_WITH_CALLBACK, current_kthread()

    async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
        lab.note(f"{name}.post", (visit(Data), Context is current_kthread()))
        return FLT_POSTOP_FINISHED_PROCESSING

    return pre, post


async def watch(lab: Lab) -> None:
    """Watch all operations there are, with two filters."""
    for name, altitude in (("A", UPPER), ("B", LOWER)):
        pre, post = watcher(lab, name)
        callbacks = {row.major: (pre, None if row.post == "none" else post) for row in TABLE}
        if any(row.post == "none" for row in TABLE):

            async def alone(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, before: Pre = pre) -> int:
                await before(Data, FltObjects)
                return 1

            callbacks.update({row.major: (alone, None) for row in TABLE if row.post == "none"})
        await lab.filter(name, altitude, callbacks)


def check_before(visit: Visit, irql: int) -> None:
    """The level and thread of a pre-operation callback."""
    row = ROWS[visit.major]
    assert irql <= (APC_LEVEL if visit.paging else row.highest), row
    if row.original and not visit.paging:
        assert visit.is_original, row


def check_after(visit: Visit, irql: int, same: bool) -> None:
    """Those of a post-operation callback; *same* is whether it runs in the thread of the one before."""
    row = ROWS[visit.major]
    assert row.post != "none"
    if row.post == "original":
        assert (irql, visit.is_original) == (PASSIVE_LEVEL, True), row
    elif visit.kind != IRP:
        assert irql <= APC_LEVEL, row
        assert same, row
    else:
        assert irql <= DISPATCH_LEVEL


def test_the_codes_are_those_of_the_header() -> None:
    for row in TABLE:
        assert row.major == row.code


@pytest.mark.rule("FLT-PRE-01", "FLT-POST-01", "FLT-POST-02", "FLT-IRQL-08", "FLT-RACE-08")
@pytest.mark.parametrize(
    ("row", "kind"),
    [(row, kind) for row in TABLE for kind in row.classes],
    ids=lambda value: value.name if isinstance(value, Row) else None,
)
def test_every_operation_that_is_sent(row: Row, kind: int) -> None:
    async def script(lab: Lab) -> None:
        file = await lab.quiet_open()
        await watch(lab)
        if row.name == "CREATE":
            await lab.app.create(r"\b")
        else:
            await lab.begin(lab.request(file, row.major, kind=kind, Length=1))

    runs = all_runs(script, completion="explore")
    assert codes(runs) == {None}
    levels: set[int] = set()
    threads: set[bool] = set()
    for one in runs:
        for note in one.notes:
            if note.what.endswith(".pre"):
                assert (note.value.major, note.value.kind) == (row.major, kind)
                check_before(note.value, note.irql)
            else:
                visit, same = note.value
                check_after(visit, note.irql, same)
                levels.add(note.irql)
                threads.add(same)
    # An IRP completes at either level, in its own thread and in another one; nothing else does.
    either = kind == IRP and row.post == "any"
    if row.post != "none":
        assert levels == ({PASSIVE_LEVEL, DISPATCH_LEVEL} if either else {PASSIVE_LEVEL}), CLASS_NAMES[kind]
        assert threads == ({True, False} if either else {True})


PRODUCED = {
    "CREATE", "CLOSE", "READ", "WRITE", "QUERY_INFORMATION", "SET_INFORMATION", "FLUSH_BUFFERS",
    "QUERY_VOLUME_INFORMATION", "DIRECTORY_CONTROL", "FILE_SYSTEM_CONTROL", "LOCK_CONTROL", "CLEANUP",
    "RELEASE_FOR_CC_FLUSH", "ACQUIRE_FOR_CC_FLUSH", "RELEASE_FOR_MOD_WRITE", "ACQUIRE_FOR_MOD_WRITE",
    "RELEASE_FOR_SECTION_SYNCHRONIZATION", "ACQUIRE_FOR_SECTION_SYNCHRONIZATION",
}  # fmt: skip
"""What a program gets done without knowing of requests."""


@pytest.mark.rule("FLT-PRE-01", "FLT-POST-01", "FLT-POST-02", "FLT-IRQL-08", "FLT-FAST-10")
def test_every_operation_that_programs_and_the_system_produce() -> None:
    async def script(lab: Lab) -> None:
        await watch(lab)
        win32 = lab.app.win32
        native = win32.native

        async def program() -> None:
            file = await win32.CreateFileW("a", GENERIC_READ | GENERIC_WRITE, ALL, None, OPEN_ALWAYS)
            await win32.WriteFile(file, b"0123456789")
            await win32.ReadFile(file, 4)
            await win32.FlushFileBuffers(file)
            await win32.GetFileSizeEx(file)
            await win32.SetEndOfFile(file)
            await native.NtQueryInformationFile(file, 40, FileBasicInformation)
            await native.NtQueryVolumeInformationFile(file, 24, FileFsSizeInformation)
            await native.NtLockFile(file, None, IO_STATUS_BLOCK(), 0, 1, 0, True, True)
            await native.NtFsControlFile(file, None, IO_STATUS_BLOCK(), FSCTL_IS_VOLUME_MOUNTED)
            section = await win32.CreateFileMappingW(file, None, 0x04, 0, 0)
            view = await win32.MapViewOfFile(section, FILE_MAP_WRITE)
            assert view is not None
            await view.write(0, b"XY")
            await lab.sleep(1)
            await win32.UnmapViewOfFile(view)
            await win32.CloseHandle(section)
            await win32.CloseHandle(file)
            search, _ = await win32.FindFirstFileW("*")
            await win32.FindClose(search)

        await lab.together(program(), process=lab.app)

    runs = sample(script, 60, completion="explore", cached_io=True)
    assert codes(runs) == {None}
    seen: set[str] = set()
    for one in runs:
        for note in one.notes:
            if note.what.endswith(".pre"):
                seen.add(ROWS[note.value.major].name)
                check_before(note.value, note.irql)
                if note.value.major == wdm.IRP_MJ_RELEASE_FOR_MOD_WRITE:
                    assert note.irql == APC_LEVEL
            else:
                check_after(note.value[0], note.irql, note.value[1])
    assert seen == PRODUCED
    after = {(note.value[0].kind, note.irql) for one in runs for note in one.notes if note.what.endswith(".post")}
    # Post-operation callbacks of IRPs at PASSIVE_LEVEL and at DISPATCH_LEVEL, those of others nowhere above APC_LEVEL.
    assert {irql for kind, irql in after if kind == IRP} >= {PASSIVE_LEVEL, DISPATCH_LEVEL}
    assert {irql for kind, irql in after if kind != IRP} == {PASSIVE_LEVEL, APC_LEVEL}
