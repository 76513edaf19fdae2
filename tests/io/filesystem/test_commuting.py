"""What two requests touch says whether their order matters: the reduced search sees what all orders together come to.

A cell that a request forgets to touch makes the search skip an order, which then is missing from what it comes to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import combinations, combinations_with_replacement
from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, run

from kemu.explore import DPOR
from kemu.io.constants import (
    FILE_CREATE,
    FILE_OPEN,
    FILE_OPEN_IF,
    FILE_OVERWRITE,
    IRP_MJ_CREATE,
    IRP_MJ_DIRECTORY_CONTROL,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_LOCK_CONTROL,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_QUERY_VOLUME_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_WRITE,
)
from kemu.io.file_constants import (
    FILE_COMPLETE_IF_OPLOCKED,
    FILE_DIRECTORY_FILE,
    FILE_SHARE_READ,
    FSCTL_DISMOUNT_VOLUME,
    FSCTL_REQUEST_BATCH_OPLOCK,
    FSCTL_REQUEST_OPLOCK_LEVEL_2,
    FSCTL_SET_ZERO_DATA,
    IRP_MN_LOCK,
    IRP_MN_NOTIFY_CHANGE_DIRECTORY,
    IRP_MN_QUERY_DIRECTORY,
    IRP_MN_UNLOCK_SINGLE,
    FileAllocationInformation,
    FileBasicInformation,
    FileDispositionInformation,
    FileDispositionInformationEx,
    FileEndOfFileInformation,
    FileFsSizeInformation,
    FileLinkInformation,
    FileNameInformation,
    FileNamesInformation,
    FileRenameInformation,
    FileStandardInformation,
    FileValidDataLengthInformation,
)
from kemu.io.filesystem.nodes import Node
from kemu.io.manager import IoManager
from kemu.io.parameters import Parameters
from kemu.io.request import FileObject, Request
from kemu.io.structures import (
    FILE_ALLOCATION_INFORMATION,
    FILE_BASIC_INFORMATION,
    FILE_DISPOSITION_INFORMATION,
    FILE_DISPOSITION_INFORMATION_EX,
    FILE_END_OF_FILE_INFORMATION,
    FILE_LINK_INFORMATION,
    FILE_RENAME_INFORMATION,
    FILE_VALID_DATA_LENGTH_INFORMATION,
    FILE_ZERO_DATA_INFORMATION,
)


class Case:
    """Some open files, and ways to send one request each."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.manager = lab.system.get(IoManager)
        self.files: dict[str, FileObject] = {}
        self.begun: list[Request] = []

    async def prepare(self) -> Case:
        self.lab.directory(r"\d")
        self.lab.directory(r"\e")
        self.lab.file(r"\e\x", b"x")
        for name, path in (("a", r"\a"), ("a2", r"\a"), ("a3", r"\a"), ("d", r"\d"), ("x", r"\e\x"), ("root", "\\")):
            self.files[name] = (await self.lab.quiet_open(path)).file
        return self

    async def send(self, file: str | FileObject, major: int, *, minor: int = 0, **members: Any) -> Any:
        target = self.files[file] if isinstance(file, str) else file
        request = Request(self.lab.volume, target, major, Parameters(**members), minor=minor)
        status = await self.manager.call(request)
        return status, request.information, repr(request.buffer)

    async def begin(self, file: str | FileObject, major: int, *, minor: int = 0, **members: Any) -> None:
        """Send a request that may have to wait."""
        target = self.files[file] if isinstance(file, str) else file
        request = Request(self.lab.volume, target, major, Parameters(**members), minor=minor)
        self.begun.append(request)
        await self.manager.start(request)

    async def create(self, path: str, disposition: int, **members: Any) -> Any:
        file = FileObject(self.lab.volume, path)
        return await self.send(file, IRP_MJ_CREATE, Disposition=disposition, **members)

    async def set(self, file: str, which: int, given: Any) -> Any:
        return await self.send(
            file, IRP_MJ_SET_INFORMATION, FileInformationClass=which, InfoBuffer=given, Length=given.SIZE
        )

    async def query(self, file: str, which: int) -> Any:
        return await self.send(file, IRP_MJ_QUERY_INFORMATION, FileInformationClass=which, Length=256)

    async def lock(self, file: str, minor: int, **members: Any) -> Any:
        return await self.send(file, IRP_MJ_LOCK_CONTROL, minor=minor, Length=2, **members)

    async def close(self, file: str) -> Any:
        return await self.manager.close(self.files[file])


Do = Callable[[Case], Awaitable[Any]]
OPERATIONS: dict[str, Do] = {
    "open": lambda c: c.create(r"\a", FILE_OPEN),
    "open exclusively": lambda c: c.create(r"\a", FILE_OPEN, ShareAccess=FILE_SHARE_READ, DesiredAccess=1),
    "look for n": lambda c: c.create(r"\n", FILE_OPEN),
    "create n": lambda c: c.create(r"\n", FILE_CREATE),
    "open or create n": lambda c: c.create(r"\N", FILE_OPEN_IF),
    "create m": lambda c: c.create(r"\m", FILE_CREATE),
    "create in d": lambda c: c.create(r"\d\n", FILE_CREATE),
    "create d\\s": lambda c: c.create(r"\d\n", FILE_CREATE, CreateOptions=FILE_DIRECTORY_FILE),
    "create a stream": lambda c: c.create(r"\a:s", FILE_OPEN_IF),
    "overwrite": lambda c: c.create(r"\a", FILE_OVERWRITE),
    "read": lambda c: c.send("a", IRP_MJ_READ, Length=20),
    "write": lambda c: c.send("a2", IRP_MJ_WRITE, Buffer=b"xy", Length=2),
    "append": lambda c: c.send("a2", IRP_MJ_WRITE, Buffer=b"xy", Length=2, ByteOffset=10),
    "shorten": lambda c: c.set("a", FileEndOfFileInformation, FILE_END_OF_FILE_INFORMATION(4)),
    "lengthen": lambda c: c.set("a", FileEndOfFileInformation, FILE_END_OF_FILE_INFORMATION(14)),
    "allocate": lambda c: c.set("a2", FileAllocationInformation, FILE_ALLOCATION_INFORMATION(9000)),
    "validate": lambda c: c.set("a2", FileValidDataLengthInformation, FILE_VALID_DATA_LENGTH_INFORMATION(11)),
    "zero": lambda c: c.send(
        "a",
        IRP_MJ_FILE_SYSTEM_CONTROL,
        FsControlCode=FSCTL_SET_ZERO_DATA,
        InputBuffer=FILE_ZERO_DATA_INFORMATION(1, 99),
    ),
    "query": lambda c: c.query("a3", FileStandardInformation),
    "query the name": lambda c: c.query("x", FileNameInformation),
    "hide": lambda c: c.set("a", FileBasicInformation, FILE_BASIC_INFORMATION(FileAttributes=2)),
    "make read-only": lambda c: c.set("a3", FileBasicInformation, FILE_BASIC_INFORMATION(FileAttributes=1)),
    "delete": lambda c: c.set("a", FileDispositionInformation, FILE_DISPOSITION_INFORMATION(DeleteFile=True)),
    "undelete": lambda c: c.set("a2", FileDispositionInformation, FILE_DISPOSITION_INFORMATION(DeleteFile=False)),
    "delete at once": lambda c: c.set("a2", FileDispositionInformationEx, FILE_DISPOSITION_INFORMATION_EX(3)),
    "delete d": lambda c: c.set("d", FileDispositionInformation, FILE_DISPOSITION_INFORMATION(DeleteFile=True)),
    "rename": lambda c: c.set("a", FileRenameInformation, FILE_RENAME_INFORMATION("n")),
    "rename away": lambda c: c.set("a2", FileRenameInformation, FILE_RENAME_INFORMATION(r"\d\n")),
    "rename x": lambda c: c.set("x", FileRenameInformation, FILE_RENAME_INFORMATION(r"\n")),
    "link": lambda c: c.set("a3", FileLinkInformation, FILE_LINK_INFORMATION("n")),
    "list": lambda c: c.send(
        "root",
        IRP_MJ_DIRECTORY_CONTROL,
        minor=IRP_MN_QUERY_DIRECTORY,
        FileInformationClass=FileNamesInformation,
        Length=999,
    ),
    "lock": lambda c: c.lock("a", IRP_MN_LOCK, ExclusiveLock=True, FailImmediately=True),
    "lock too": lambda c: c.lock("a2", IRP_MN_LOCK, FailImmediately=True),
    "unlock": lambda c: c.lock("a", IRP_MN_UNLOCK_SINGLE),
    "close a": lambda c: c.close("a"),
    "close a2": lambda c: c.close("a2"),
    "free space": lambda c: c.send(
        "root", IRP_MJ_QUERY_VOLUME_INFORMATION, FsInformationClass=FileFsSizeInformation, Length=99
    ),
    "dismount": lambda c: c.send("root", IRP_MJ_FILE_SYSTEM_CONTROL, FsControlCode=FSCTL_DISMOUNT_VOLUME),
}


def everything(node: Node) -> Any:
    """What is on a volume, as far as anybody could find out."""
    stream = node.stream
    return (
        node.attributes,
        bytes(stream.bytes),
        stream.valid,
        stream.allocation,
        [(lock.start, lock.exclusive) for lock in stream.locks],
        len(node.all_opened()),
        sorted((name, bytes(one.bytes)) for name, one in node.streams.items()),
        [(link.name, link.deleted, everything(link.node)) for link in node.children()],
    )


def script_of(*names: str) -> Callable[[Lab], Any]:
    async def script(lab: Lab) -> Any:
        lab.volume.filesystem.limit = 40
        case = await Case(lab).prepare()

        async def do(name: str) -> Any:
            return await OPERATIONS[name](case)

        results = await lab.together(*(do(name) for name in names))
        return results, everything(lab.volume.filesystem.root)

    return script


PAIRS = [pair for pair in combinations_with_replacement(OPERATIONS, 2) if pair != ("close a", "close a")]
CLOSE = [("close a2", "dismount"), ("create n", "rename x"), ("delete d", "create in d"), ("lock", "write")]


@pytest.mark.parametrize("part", range(4))
def test_the_order_of_two_requests(part: int) -> None:
    # A few of all pairs, spread over them, and some that have gone wrong before.
    for pair in [*PAIRS[part * 3 :: 31], CLOSE[part]]:
        all_runs(script_of(*pair))


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(8))
def test_the_order_of_any_two_requests(part: int) -> None:
    for pair in PAIRS[part::8]:
        all_runs(script_of(*pair))


@pytest.mark.nightly
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("part", range(4))
def test_the_order_of_three_requests(part: int) -> None:
    for three in list(combinations(OPERATIONS, 3))[part * 17 :: 211]:
        all_runs(script_of(*three))


def classes(*names: str) -> int:
    search = DPOR()
    while search.begin():
        search.end(run(script_of(*names), search, observer=search).outcome)
    return search.traces


WAITING: dict[str, tuple[Do, Do]] = {
    "a lock and an unlock": (
        lambda c: c.begin("a2", IRP_MJ_LOCK_CONTROL, minor=IRP_MN_LOCK, Length=2, ExclusiveLock=True),
        lambda c: c.lock("a", IRP_MN_UNLOCK_SINGLE),
    ),
    "a lock and a close": (
        lambda c: c.begin("a2", IRP_MJ_LOCK_CONTROL, minor=IRP_MN_LOCK, Length=2, ExclusiveLock=True),
        lambda c: c.close("a"),
    ),
    "a watch and a create": (
        lambda c: c.begin(
            "root", IRP_MJ_DIRECTORY_CONTROL, minor=IRP_MN_NOTIFY_CHANGE_DIRECTORY, CompletionFilter=1, Length=99
        ),
        lambda c: c.create(r"\n", FILE_CREATE),
    ),
    "an oplock and an open": (
        lambda c: c.begin("own", IRP_MJ_FILE_SYSTEM_CONTROL, FsControlCode=FSCTL_REQUEST_OPLOCK_LEVEL_2),
        lambda c: c.create(r"\own", FILE_OVERWRITE),
    ),
    "a batch oplock and an open": (
        lambda c: c.begin("own", IRP_MJ_FILE_SYSTEM_CONTROL, FsControlCode=FSCTL_REQUEST_BATCH_OPLOCK),
        lambda c: c.create(r"\own", FILE_OPEN, CreateOptions=FILE_COMPLETE_IF_OPLOCKED),
    ),
    "a batch oplock and its end": (
        lambda c: c.begin("own", IRP_MJ_FILE_SYSTEM_CONTROL, FsControlCode=FSCTL_REQUEST_BATCH_OPLOCK),
        lambda c: c.close("own"),
    ),
}


@pytest.mark.parametrize("name", WAITING)
def test_the_order_of_what_waits(name: str) -> None:
    async def script(lab: Lab) -> Any:
        case = await Case(lab).prepare()
        lab.file(r"\own")
        case.files["own"] = (await lab.quiet_open(r"\own", overlapped=True)).file
        await case.lock("a", IRP_MN_LOCK, ExclusiveLock=True)

        async def do(what: Do) -> Any:
            return await what(case)

        async def cancel() -> None:
            for request in list(case.begun):
                await case.manager.cancel(request)

        both = [do(one) for one in WAITING[name]]
        await lab.together(*both)
        before = [(request.done, request.status, request.information) for request in case.begun]
        await lab.together(cancel())
        after = [(request.done, request.status) for request in case.begun]
        return before, after, everything(lab.volume.filesystem.root)

    assert all(request for one in all_runs(script) for request, *_ in one.result[1])


INDEPENDENT = [
    ("create n", "create m"),
    ("look for n", "create m"),
    ("create n", "create in d"),
    ("open", "read"),
    ("open", "write"),
    ("write", "query"),
    ("read", "read"),
    ("read", "query"),
    ("hide", "write"),
    ("list", "write"),
    ("lock", "query"),
    ("rename x", "write"),
]


@pytest.mark.parametrize("names", INDEPENDENT)
def test_what_has_nothing_to_do_with_each_other_is_not_tried_in_both_orders(names: tuple[str, str]) -> None:
    assert classes(*names) == 1


def test_there_are_pairs_whose_order_matters() -> None:
    pairs = list(combinations_with_replacement(["create n", "rename", "delete", "write", "append", "list"], 2))
    assert sum(classes(*pair) > 1 for pair in pairs) > len(pairs) // 2
