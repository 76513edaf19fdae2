"""The file system against a plain model of one: whatever is done, both say and hold the same.

The model knows files by numbers, names, and who has what open; it has no cells, no steps and no code in common with
the file system.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from disk import Disk
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from kemu.io.request import FileObject

SUCCESS = 0
END_OF_FILE, INVALID_PARAMETER, INVALID_DEVICE_REQUEST = 0xC0000011, 0xC000000D, 0xC0000010
ACCESS_DENIED, NOT_FOUND, PATH_NOT_FOUND, COLLISION = 0xC0000022, 0xC0000034, 0xC000003A, 0xC0000035
SHARING_VIOLATION, DELETE_PENDING, IS_A_DIRECTORY, NOT_A_DIRECTORY = 0xC0000043, 0xC0000056, 0xC00000BA, 0xC0000103
NOT_EMPTY, CANNOT_DELETE = 0xC0000101, 0xC0000121

READ, WRITE, DELETE = 0x1, 0x2, 0x10000
SUPERSEDE, OPEN, CREATE, OPEN_IF, OVERWRITE, OVERWRITE_IF = range(6)
DIRECTORY_FILE, NON_DIRECTORY_FILE, DELETE_ON_CLOSE = 0x1, 0x40, 0x1000

NAMES = ("a", "b", "A", "c")
PATHS = [f"\\{one}" for one in NAMES] + [f"\\{one}\\{other}" for one in "ab" for other in "abC"] + ["\\"]


@dataclass
class Inode:
    directory: bool
    data: bytearray = field(default_factory=bytearray)


@dataclass
class Name:
    """One name of a file, for as long as anybody has it open."""

    path: tuple[str, ...]
    file: Inode
    pending: bool = False
    gone: bool = False


@dataclass
class Use:
    """One open handle."""

    name: Name
    access: int
    share: int
    on_close: bool
    posix: bool = False


class Model:
    """What there should be."""

    def __init__(self) -> None:
        self.root = Name((), Inode(directory=True))
        self.names: list[Name] = [self.root]
        self.uses: list[Use] = []

    def find(self, path: tuple[str, ...]) -> Name | None:
        for name in self.names:
            if tuple(part.upper() for part in name.path) == tuple(part.upper() for part in path):
                return name
        return None

    def inside(self, name: Name) -> list[Name]:
        return [one for one in self.names if one.path and self.find(one.path[:-1]) is name]

    def uses_of(self, file: Inode) -> list[Use]:
        return [one for one in self.uses if one.name.file is file]

    def parent(self, path: tuple[str, ...]) -> Name | None:
        at: Name | None = self.root
        for depth in range(1, len(path)):
            at = self.find(path[:depth])
            if at is None or not at.file.directory:
                return None
        return at

    def create(
        self, path: tuple[str, ...], disposition: int, access: int, share: int, options: int
    ) -> tuple[int, Use | None]:
        replaces = disposition in {SUPERSEDE, OVERWRITE, OVERWRITE_IF}
        if not access:
            return ACCESS_DENIED, None
        if options & DIRECTORY_FILE and (options & NON_DIRECTORY_FILE or replaces):
            return INVALID_PARAMETER, None
        if options & DELETE_ON_CLOSE and not access & DELETE:
            return INVALID_PARAMETER, None
        parent = self.parent(path)
        if parent is None:
            return PATH_NOT_FOUND, None
        name = self.find(path)
        if name is None:
            if disposition in {OPEN, OVERWRITE}:
                return NOT_FOUND, None
            if parent.pending:
                return DELETE_PENDING, None
            name = Name(path, Inode(directory=bool(options & DIRECTORY_FILE)))
            self.names.append(name)
            return self.use(name, access, share, options)
        file = name.file
        if file.directory:
            if options & NON_DIRECTORY_FILE:
                return IS_A_DIRECTORY, None
            if replaces or disposition == CREATE:
                return COLLISION, None
            if options & DELETE_ON_CLOSE and not path:
                return CANNOT_DELETE, None
        elif options & DIRECTORY_FILE:
            return (COLLISION if disposition == CREATE else NOT_A_DIRECTORY), None
        if name.pending:
            return DELETE_PENDING, None
        if disposition == CREATE:
            return COLLISION, None
        needed = access | (DELETE if disposition == SUPERSEDE else WRITE if replaces else 0)
        for other in self.uses_of(file):
            for right, shared in ((READ, 1), (WRITE, 2), (DELETE, 4)):
                if (needed & right and not other.share & shared) or (other.access & right and not share & shared):
                    return SHARING_VIOLATION, None
        if replaces:
            file.data.clear()
        return self.use(name, access, share, options)

    def use(self, name: Name, access: int, share: int, options: int) -> tuple[int, Use]:
        use = Use(name, access, share, bool(options & DELETE_ON_CLOSE))
        self.uses.append(use)
        return SUCCESS, use

    def close(self, use: Use) -> None:
        self.uses.remove(use)
        name = use.name
        if use.on_close and not name.gone and not self.inside(name):
            name.pending = True
        if name.pending and not name.gone and (use.posix or not any(one.name is name for one in self.uses)):
            self.remove(name)

    def remove(self, name: Name) -> None:
        name.gone = True
        self.names.remove(name)

    def dispose(self, use: Use, delete: bool, posix: bool) -> int:
        if not use.access & DELETE:
            return ACCESS_DENIED
        name = use.name
        if not delete:
            name.pending = use.posix = False
            return SUCCESS
        if name is self.root:
            return CANNOT_DELETE
        if self.inside(name):
            return NOT_EMPTY
        name.pending, use.posix = True, posix
        return SUCCESS

    def make_way(self, mine: Name, path: tuple[str, ...], replace: bool) -> int:
        old = self.find(path)
        if old is None or old is mine:
            return SUCCESS
        if not replace:
            return COLLISION
        if old.file.directory or old.pending or any(one.name is old for one in self.uses):
            return ACCESS_DENIED
        self.remove(old)
        return SUCCESS

    def rename(self, use: Use, path: tuple[str, ...], replace: bool) -> int:
        name = use.name
        if not use.access & DELETE:
            return ACCESS_DENIED
        if name.pending or name.gone:
            return ACCESS_DENIED
        parent = self.parent(path)
        if parent is None:
            return PATH_NOT_FOUND
        if name is self.root:
            return INVALID_PARAMETER
        if name.file.directory:
            if len(parent.path) >= len(name.path) and parent.path[: len(name.path)] == name.path:
                return INVALID_PARAMETER
            inside = [
                one for one in self.names if len(one.path) > len(name.path) and one.path[: len(name.path)] == name.path
            ]
            if any(self.uses_of(one.file) for one in inside):
                return ACCESS_DENIED
        if name.path == (*parent.path, path[-1]):
            return SUCCESS
        status = self.make_way(name, path, replace)
        if status != SUCCESS:
            return status
        if parent.pending and self.find(name.path[:-1]) is not parent:
            return ACCESS_DENIED
        before = name.path
        after = (*parent.path, path[-1])
        for one in self.names:
            if one.path[: len(before)] == before and one is not name:
                one.path = (*after, *one.path[len(before) :])
        name.path = after
        return SUCCESS

    def link(self, use: Use, path: tuple[str, ...], replace: bool) -> int:
        if use.name.file.directory:
            return IS_A_DIRECTORY
        if use.name.pending or use.name.gone:
            return ACCESS_DENIED
        parent = self.parent(path)
        if parent is None:
            return PATH_NOT_FOUND
        old = self.find(path)
        if old is not None and old.file is use.name.file:
            return SUCCESS if replace else COLLISION
        status = self.make_way(use.name, path, replace)
        if status != SUCCESS:
            return status
        if parent.pending:
            return ACCESS_DENIED
        self.names.append(Name((*parent.path, path[-1]), use.name.file))
        return SUCCESS


def split(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("\\") if part)


class Compared(RuleBasedStateMachine):
    """Does the same to both."""

    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()
        self.model = Model()

    def teardown(self) -> None:
        self.disk.__exit__(None, None, None)

    @initialize()
    def some_files(self) -> None:
        for path, options in ((r"\a", NON_DIRECTORY_FILE), (r"\b", DIRECTORY_FILE), (r"\b\a", NON_DIRECTORY_FILE)):
            self.disk.close(self.disk.open(path, CREATE, options=options))
            self.model.close(self.model.create(split(path), CREATE, DELETE, 7, options)[1] or pytest.fail("no"))

    @rule(
        target=handles,
        path=st.sampled_from(PATHS),
        disposition=st.sampled_from([OPEN, OPEN, OPEN_IF, OPEN_IF, CREATE, SUPERSEDE, OVERWRITE, OVERWRITE_IF]),
        access=st.sampled_from([READ | WRITE | DELETE, READ | WRITE | DELETE, READ, WRITE, DELETE, READ | DELETE]),
        share=st.sampled_from([7, 7, 7, 3, 5, 1, 0]),
        options=st.sampled_from(
            [0, 0, NON_DIRECTORY_FILE, DIRECTORY_FILE, DELETE_ON_CLOSE, DIRECTORY_FILE | NON_DIRECTORY_FILE]
        ),
    )
    def create(self, path: str, disposition: int, access: int, share: int, options: int) -> Any:
        status, file = self.disk.create(path, disposition, access=access, share=share, options=options)
        expected, use = self.model.create(split(path), disposition, access, share, options)
        assert status == expected
        return cast("Any", multiple()) if file is None else (file, use)

    @rule(pair=consumes(handles))
    def close(self, pair: tuple[FileObject, Use]) -> None:
        self.disk.close(pair[0])
        self.model.close(pair[1])

    @rule(pair=handles, offset=st.integers(0, 12), length=st.integers(0, 12))
    def read(self, pair: tuple[FileObject, Use], offset: int, length: int) -> None:
        file, use = pair
        data = use.name.file.data
        expected = (SUCCESS, bytes(data[offset : offset + length]))
        if use.name.file.directory:
            expected = (INVALID_DEVICE_REQUEST, b"")
        elif length and offset >= len(data):
            expected = (END_OF_FILE, b"")
        assert self.disk.read(file, length, offset) == expected

    @rule(pair=handles, offset=st.integers(0, 12), data=st.binary(max_size=6))
    def write(self, pair: tuple[FileObject, Use], offset: int, data: bytes) -> None:
        file, use = pair
        inode = use.name.file
        status = self.disk.write(file, data, offset)
        if inode.directory:
            assert status == INVALID_DEVICE_REQUEST
            return
        assert status == SUCCESS
        if data:
            inode.data.extend(bytes(max(0, offset - len(inode.data))))
            inode.data[offset : offset + len(data)] = data

    @rule(pair=handles, end=st.integers(0, 12))
    def set_end(self, pair: tuple[FileObject, Use], end: int) -> None:
        file, use = pair
        inode = use.name.file
        status = self.disk.set_end(file, end)
        if inode.directory:
            assert status == INVALID_DEVICE_REQUEST
            return
        assert status == SUCCESS
        inode.data[:] = inode.data[:end].ljust(end, b"\0")

    @rule(pair=handles, delete=st.booleans(), posix=st.booleans())
    def dispose(self, pair: tuple[FileObject, Use], delete: bool, posix: bool) -> None:
        file, use = pair
        assert self.disk.delete_ex(file, delete | posix << 1) == self.model.dispose(use, delete, posix)

    @rule(pair=handles, path=st.sampled_from(PATHS[:-1]), replace=st.booleans())
    def rename(self, pair: tuple[FileObject, Use], path: str, replace: bool) -> None:
        file, use = pair
        assert self.disk.rename(file, path, replace) == self.model.rename(use, split(path), replace)

    @rule(pair=handles, path=st.sampled_from(PATHS[:-1]), replace=st.booleans())
    def link(self, pair: tuple[FileObject, Use], path: str, replace: bool) -> None:
        file, use = pair
        assert self.disk.link(file, path, replace) == self.model.link(use, split(path), replace)

    @rule(pair=handles)
    def query(self, pair: tuple[FileObject, Use]) -> None:
        file, use = pair
        name = use.name
        standard = self.disk.standard(file)
        links = [one for one in self.model.names if one.file is name.file]
        assert standard.EndOfFile == len(name.file.data)
        assert standard.Directory == name.file.directory
        assert standard.NumberOfLinks == sum(not one.pending for one in links)
        assert standard.DeletePending == (name.pending or not links)

    @rule(pair=handles)
    def enumerate(self, pair: tuple[FileObject, Use]) -> None:
        file, use = pair
        if not use.name.file.directory or use.name.gone:
            return
        request = self.disk.list(file, OperationFlags=1)
        found = [one.FileName for one in request.buffer if one.FileName not in {".", ".."}]
        expected = sorted((one.path[-1] for one in self.model.inside(use.name)), key=str.upper)
        assert found == expected

    @invariant()
    def everything_is_the_same(self) -> None:
        names = {name.path: name for name in self.model.names if name.path}
        nodes = self.names_on_disk()
        assert nodes.keys() == names.keys()
        for path, node in nodes.items():
            assert node.is_directory == names[path].file.directory
            assert node.data == names[path].file.data

    def names_on_disk(self) -> dict[tuple[str, ...], Any]:
        found: dict[tuple[str, ...], Any] = {}
        todo: list[tuple[tuple[str, ...], Any]] = [((), self.disk.fs.root)]
        for path, node in todo:
            for link in node.children():
                found[*path, link.name] = link.node
                todo.append(((*path, link.name), link.node))
        return found


QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

TestCompared = Compared.TestCase
TestCompared.settings = settings(max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=QUIET)


@pytest.mark.nightly
class TestComparedAtLength(Compared.TestCase):
    """Ten thousand operations."""

    settings = settings(max_examples=250, stateful_step_count=50, deadline=None, suppress_health_check=QUIET)
