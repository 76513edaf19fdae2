"""A volume to be tried out operation by operation, in one thread and without a schedule.

    with Disk() as disk:
        status, file = disk.create(r"\\a", access=FILE_READ_DATA)

Operations that would have to wait leave their request pending; `Disk.begin` returns it.
"""

from __future__ import annotations

from collections.abc import Coroutine
from types import TracebackType
from typing import Any

from kemu.io.constants import (
    FILE_OPEN,
    FO_SYNCHRONOUS_IO,
    IRP_MJ_DIRECTORY_CONTROL,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_LOCK_CONTROL,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_WRITE,
)
from kemu.io.file_constants import (
    FILE_SHARE_VALID_FLAGS,
    IRP_MN_NOTIFY_CHANGE_DIRECTORY,
    IRP_MN_QUERY_DIRECTORY,
    FileBothDirectoryInformation,
    FileDispositionInformation,
    FileDispositionInformationEx,
    FileEndOfFileInformation,
    FileLinkInformation,
    FileRenameInformation,
    FileStandardInformation,
)
from kemu.io.manager import IoManager
from kemu.io.parameters import USUAL_ACCESS, Parameters
from kemu.io.request import FileObject, Request
from kemu.io.structures import (
    FILE_DISPOSITION_INFORMATION,
    FILE_DISPOSITION_INFORMATION_EX,
    FILE_END_OF_FILE_INFORMATION,
    FILE_LINK_INFORMATION,
    FILE_RENAME_INFORMATION,
    FILE_STANDARD_INFORMATION,
    Information,
)
from kemu.io.volume import Volume
from kemu.nt.kthread import KThread
from kemu.nt.object import ObjectManager
from kemu.nt.status import NTSTATUS
from kemu.nt.system import Options, System
from kemu.runtime import ControlledRuntime
from kemu.runtime.thread import host


async def nothing() -> None:
    """The code of the only thread."""


class Findings:
    def report(self, code: str, detail: str, *_: Any, **__: Any) -> None:
        raise AssertionError(f"{code}: {detail}")


class Disk:
    """One volume, and the thread that uses it."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("completion", "inline")
        self.runtime = ControlledRuntime(thread_class=KThread)
        self._token = host.set(self.runtime)
        coroutine = nothing()
        self.thread = KThread(self.runtime, None, "test", coroutine)
        coroutine.close()
        self.runtime.running = self.thread
        self.system = System(self.runtime, Findings(), Options(**options))
        self.system.add(ObjectManager())
        self.manager = IoManager(self.system)
        self.system.add(self.manager)
        self.volume = Volume(self.system, "C:")
        self.manager.mount(self.volume)
        self.fs = self.volume.filesystem

    def __enter__(self) -> Disk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        host.reset(self._token)

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run *coroutine*, which may not have to wait, to its end."""
        value: Any = None
        try:
            while True:
                operation = coroutine.send(value)
                if operation.blocks:
                    assert operation.available(self.thread), operation.describe()
                    value = operation.take(self.thread)
                else:
                    value = operation.perform(self.thread)
        except StopIteration as stop:
            return stop.value

    # Operations.

    def create(
        self,
        path: str,
        disposition: int = FILE_OPEN,
        *,
        access: int = USUAL_ACCESS,
        share: int = FILE_SHARE_VALID_FLAGS,
        options: int = 0,
        synchronous: bool = True,
        **more: Any,
    ) -> tuple[NTSTATUS, FileObject | None]:
        """IRP_MJ_CREATE."""
        return self.do(
            self.manager.create(
                self.volume,
                path,
                disposition,
                synchronous=synchronous,
                DesiredAccess=access,
                ShareAccess=share,
                CreateOptions=options,
                **more,
            )
        )

    def begin_create(self, path: str, disposition: int = FILE_OPEN, **members: Any) -> Request:
        """IRP_MJ_CREATE that may have to wait."""
        file = FileObject(self.volume, path, FO_SYNCHRONOUS_IO)
        request = Request(self.volume, file, 0, Parameters(Disposition=disposition, **members))
        self.do(self.manager.start(request))
        return request

    def open(self, path: str, disposition: int = FILE_OPEN, **how: Any) -> FileObject:
        """A create that has to succeed."""
        status, file = self.create(path, disposition, **how)
        assert file is not None, status
        return file

    def close(self, file: FileObject) -> None:
        """Close the handle."""
        self.do(self.manager.close(file))

    def begin(self, file: FileObject, major: int, *, minor: int = 0, flags: int = 0, **members: Any) -> Request:
        """Send a request, which may have to wait."""
        request = Request(self.volume, file, major, Parameters(**members), minor=minor, flags=flags)
        self.do(self.manager.start(request))
        return request

    def send(self, file: FileObject, major: int, **how: Any) -> Request:
        """Send a request, which may not have to wait."""
        request = self.begin(file, major, **how)
        assert request.done, f"{request.label} waits"
        return request

    def read(self, file: FileObject, length: int, offset: int = 0, **how: Any) -> tuple[NTSTATUS, bytes]:
        request = self.send(file, IRP_MJ_READ, Length=length, ByteOffset=offset, **how)
        return request.status, request.buffer

    def write(self, file: FileObject, data: bytes, offset: int = 0, **how: Any) -> NTSTATUS:
        return self.send(file, IRP_MJ_WRITE, Length=len(data), Buffer=data, ByteOffset=offset, **how).status

    def query(self, file: FileObject, which: int, length: int = 65_536, **members: Any) -> Request:
        return self.send(file, IRP_MJ_QUERY_INFORMATION, FileInformationClass=which, Length=length, **members)

    def standard(self, file: FileObject) -> FILE_STANDARD_INFORMATION:
        return self.query(file, FileStandardInformation).buffer

    def change(self, file: FileObject, which: int, information: Information) -> NTSTATUS:
        return self.send(
            file, IRP_MJ_SET_INFORMATION, FileInformationClass=which, InfoBuffer=information, Length=information.SIZE
        ).status

    def delete(self, file: FileObject, on: bool = True) -> NTSTATUS:
        return self.change(file, FileDispositionInformation, FILE_DISPOSITION_INFORMATION(on))

    def delete_ex(self, file: FileObject, flags: int) -> NTSTATUS:
        return self.change(file, FileDispositionInformationEx, FILE_DISPOSITION_INFORMATION_EX(flags))

    def rename(self, file: FileObject, name: str, replace: bool = False) -> NTSTATUS:
        return self.change(file, FileRenameInformation, FILE_RENAME_INFORMATION(name, replace))

    def link(self, file: FileObject, name: str, replace: bool = False) -> NTSTATUS:
        return self.change(file, FileLinkInformation, FILE_LINK_INFORMATION(name, replace))

    def set_end(self, file: FileObject, end: int) -> NTSTATUS:
        return self.change(file, FileEndOfFileInformation, FILE_END_OF_FILE_INFORMATION(end))

    def list(self, file: FileObject, pattern: str | None = None, **members: Any) -> Request:
        members.setdefault("FileInformationClass", FileBothDirectoryInformation)
        members.setdefault("Length", 65_536)
        return self.send(file, IRP_MJ_DIRECTORY_CONTROL, minor=IRP_MN_QUERY_DIRECTORY, FileName=pattern, **members)

    def watch(self, file: FileObject, filter_: int, length: int = 4096, **members: Any) -> Request:
        return self.begin(
            file,
            IRP_MJ_DIRECTORY_CONTROL,
            minor=IRP_MN_NOTIFY_CHANGE_DIRECTORY,
            CompletionFilter=filter_,
            Length=length,
            **members,
        )

    def lock(self, file: FileObject, minor: int, start: int = 0, length: int = 1, **members: Any) -> Request:
        return self.begin(file, IRP_MJ_LOCK_CONTROL, minor=minor, ByteOffset=start, Length=length, **members)

    def control(self, file: FileObject, code: int, **members: Any) -> Request:
        return self.begin(file, IRP_MJ_FILE_SYSTEM_CONTROL, FsControlCode=code, **members)

    def cancel(self, request: Request) -> None:
        self.do(self.manager.cancel(request))
