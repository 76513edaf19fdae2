"""The buffer members of a driver's view of the parameters: ``ReadBuffer``, ``MdlAddress`` and so on (FLT-BUF-01).

What the issuer has passed comes into being when a driver looks at it; what a driver puts in its place is kept in the
view, and goes down with the other parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kemu.io.buffers import CONTROLS, MEMBERS, memory_of
from kemu.io.constants import IRP_MJ_FILE_SYSTEM_CONTROL
from kemu.io.parameters import Member, Parameters
from kemu.io.structures import Information

if TYPE_CHECKING:
    from kemu.fltmgr.frame import Frame
    from kemu.io.request import Request

MDL_ADDRESS: Final = "MdlAddress"
_MISSING: Final = object()


def member_of(major: int) -> str:
    """Which member of the parameters has the buffer of a request."""
    return MEMBERS.get(major, "Buffer")


class _Shown(Member[Any]):
    """A member that has a buffer; `show` says what a driver sees of it."""

    def __init__(self) -> None:
        super().__init__(None)

    def __get__(self, parameters: Any, owner: type) -> Any:
        return self if parameters is None else self.show(parameters)

    def __set__(self, parameters: Any, value: Any) -> None:
        parameters.more = {**parameters.more, self.name: parameters.kept(value)}

    def show(self, view: BufferMembers) -> Any:
        """What a driver sees: the memory of the operation, unless something else was put there."""
        return view.shown(self.name, view.more.get(self.name))


class _Structure(_Shown):
    """The buffer of a query: the structure of the class, once the file system has filled it in."""

    def show(self, view: BufferMembers) -> Any:
        value = view.more.get(self.name)
        buffer = view.request.buffer
        return buffer if value is None and isinstance(buffer, Information) else value


class _Input(_Shown):
    """What goes into a control; of a file system control it may be a structure."""

    def show(self, view: BufferMembers) -> Any:
        if view.is_structured or view.request.major not in CONTROLS:
            return view.more.get(self.name)
        return memory_of(view.request).input


class _Output(_Shown):
    """What comes out of a control."""

    def show(self, view: BufferMembers) -> Any:
        return view.more.get(self.name) if view.is_structured else view.shown("Buffer", view.Buffer)

    def __set__(self, parameters: Any, value: Any) -> None:
        parameters.Buffer = parameters.kept(value)


class BufferMembers(Parameters):
    """Parameters whose buffers are memory."""

    __slots__ = ()

    _frame: Frame

    @property
    def Read(self) -> BufferMembers:
        """The same object, as in the base class."""
        return self

    Write = QueryFileInformation = SetFileInformation = Read
    DirectoryControl = QueryDirectory = NotifyDirectory = Read
    QueryVolumeInformation = SetVolumeInformation = FileSystemControl = DeviceIoControl = Read
    Buffered = Direct = Neither = FastIo = Read
    QueryEa = SetEa = QueryQuota = SetQuota = QuerySecurity = Read

    @property
    def request(self) -> Request:
        """The request that these are the parameters of."""
        return self._frame.operation.request

    def shown(self, name: str, value: Any) -> Any:
        """What a driver sees of the member *name*, which holds *value*."""
        request = self.request
        if member_of(request.major) != name:
            return value
        memory = memory_of(request)
        return memory.address if value is memory.given else value

    def kept(self, value: Any) -> Any:
        """How *value*, which a driver assigns to a buffer's member, is kept: the issuer's own is no change."""
        memory = self.request.memory
        return memory.given if memory is not None and value is memory.address else value

    @property
    def ReadBuffer(self) -> Any:
        """``Read.ReadBuffer``: the program's address, a system buffer, or NULL for paging I/O, which has an MDL."""
        return self.shown("Buffer", self.Buffer)

    @ReadBuffer.setter
    def ReadBuffer(self, value: Any) -> None:
        self.Buffer = self.kept(value)

    @property
    def WriteBuffer(self) -> Any:
        """``Write.WriteBuffer``, likewise."""
        return self.shown("Buffer", self.Buffer)

    @WriteBuffer.setter
    def WriteBuffer(self, value: Any) -> None:
        self.Buffer = self.kept(value)

    @property
    def MdlAddress(self) -> Any:
        """The MDL of the buffer, or None (NULL)."""
        found = self.more.get(MDL_ADDRESS, _MISSING)
        return self._own_mdl() if found is _MISSING else found

    def _own_mdl(self) -> Any:
        """The MDL that the operation came with, as long as its buffer is there."""
        request = self.request
        name = member_of(request.major)
        value = self.Buffer if name == "Buffer" else self.more.get(name)
        memory = memory_of(request)
        return memory.mdl if value is memory.given else None

    @MdlAddress.setter
    def MdlAddress(self, value: Any) -> None:
        if self.more.get(MDL_ADDRESS, _MISSING) is not _MISSING or value is not self._own_mdl():
            self.more = {**self.more, MDL_ADDRESS: value}

    OutputMdlAddress = MdlAddress
    DirectoryBuffer = _Shown()
    EaBuffer = _Shown()
    QuotaBuffer = _Shown()
    SecurityBuffer = _Shown()
    InfoBuffer = _Structure()
    VolumeBuffer = _Structure()

    # Controls.

    @property
    def SystemBuffer(self) -> Any:
        """``Buffered.SystemBuffer``: what goes in, and room for what comes out."""
        return self.InputBuffer if self.is_structured else self.shown("Buffer", self.Buffer)

    @SystemBuffer.setter
    def SystemBuffer(self, value: Any) -> None:
        self.Buffer = self.kept(value)

    InputBuffer = _Input()
    """``Neither.InputBuffer``, ``FastIo.InputBuffer``."""
    OutputBuffer = _Output()
    """``Neither.OutputBuffer``, ``Direct.OutputBuffer``, ``FastIo.OutputBuffer``."""

    @property
    def InputSystemBuffer(self) -> Any:
        """``Direct.InputSystemBuffer``."""
        return self.InputBuffer

    @property
    def InputBufferLength(self) -> int:
        """How many bytes go in."""
        given = memory_of(self.request).given
        return len(given) if isinstance(given, bytes | bytearray) else 0

    @property
    def OutputBufferLength(self) -> int:
        """For how many bytes there is room."""
        return self.Length

    @OutputBufferLength.setter
    def OutputBufferLength(self, value: int) -> None:
        self.Length = value

    @property
    def is_structured(self) -> bool:
        """Whether it is a file system control that brings a structure."""
        major = self.request.major
        return major == IRP_MJ_FILE_SYSTEM_CONTROL and self.more.get("InputBuffer") is not None
