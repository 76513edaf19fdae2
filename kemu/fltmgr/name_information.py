"""FLT_FILE_NAME_INFORMATION: names that the filter manager has handed out, and their references (FLT-NAME-08).

In Windows all filters that ask for a name share one structure in the filter manager's cache, which is why none of them
may write to it (FLT-NAME-09). Here each query hands out a structure of its own with a count of its own: a release too
many is then seen at once, whoever else holds the name, and whether a structure has been parsed does not depend on
whether another filter was so kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final

from kemu.fltmgr.frame import IN_POST, POST_PENDED, POST_RESUMED_EARLY
from kemu.fltmgr.name_options import (
    FLT_FILE_NAME_SHORT,
    FORMATS,
    PARSED_ALL,
)
from kemu.fltmgr.name_paths import names_now
from kemu.io.filesystem.names import fold
from kemu.nt.allocation import Allocation, place
from kemu.nt.buffer import allocation_of
from kemu.nt.bugcheck import FLTMGR_FILE_SYSTEM, BugCheck
from kemu.nt.driver import DriverActor
from kemu.nt.freeing import release
from kemu.nt.kthread import APC_LEVEL, current_kthread
from kemu.nt.routine import bad_pointer, routine
from kemu.nt.status import NTSTATUS, STATUS_INVALID_PARAMETER, STATUS_SUCCESS
from kemu.nt.strings import UNICODE_STRING, RtlInitUnicodeString, text_of
from kemu.nt.structure import READ, Structure, fields_of, furnish, sizeof, touch_paged
from kemu.nt.system import Leftover, report
from kemu.runtime import Cell, Operation, Thread, current_thread
from kemu.runtime.site import Site, here

if TYPE_CHECKING:
    from kemu.fltmgr.frame import Frame
    from kemu.io.request import FileObject

OVER_RELEASED: Final = 0x68
"""The first parameter of bug check 0xF5 for a reference too many that was dropped."""
NAME_TAG: Final = "FMfn"
POST_STATES: Final = frozenset({IN_POST, POST_PENDED, POST_RESUMED_EARLY})


class NameBlock(Allocation):
    """The record behind one name information: its references, and what it is the name of."""

    __slots__ = (
        "destination",
        "file",
        "format",
        "frame",
        "kept",
        "naming",
        "references",
        "tunnel_checked",
        "warned",
        "whole",
    )

    def __init__(self, creator: Thread, block: Structure, whole: str, format_: int) -> None:
        super().__init__(creator, block, sizeof(FLT_FILE_NAME_INFORMATION), NAME_TAG, is_paged=False)
        self.whole = whole
        self.format = format_
        self.references = 1
        self.file: FileObject | None = None
        """Whose name it is."""
        self.frame: Frame | None = None
        """The operation in whose pre-operation callback it was asked for; None for any other."""
        self.destination = False
        """Whether it is what the file is to be called."""
        self.naming: Frame | None = None
        """The operation that gives the file this name, if it was asked for before that."""
        self.kept = False
        """Whether it was freed only after that had happened."""
        self.tunnel_checked = False
        self.warned = False

    @property
    def words(self) -> str:
        """Words for a finding: which name, and where it comes from."""
        return f"the {FORMATS[self.format]} name {self.whole}, got at {place(self.site)}"


class _ReadOnly(Structure):
    """Memory of the filter manager's that drivers may read, below DISPATCH_LEVEL, and may not write."""

    _field_names: ClassVar[frozenset[str]] = frozenset()

    def __getattribute__(self, name: str) -> Any:
        if name[:1] != "_" and name in object.__getattribute__(self, "_field_names"):
            touch_paged(self, f"reads .{name}", READ, name)
            block: NameBlock = object.__getattribute__(self, "__dict__")["_allocation"]
            if block.frame is not None:
                check_stale(block)
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "__class__":
            # Freeing does that.
            object.__setattr__(self, name, value)
            return
        fields = object.__getattribute__(self, "__dict__")
        where = f"{fields.get('_prefix', '')}{name}"
        block: NameBlock = fields["_allocation"]
        report("name-modified", f"{current_kthread().label} writes .{where} of {block.words}: others use it as well")


class NameString(_ReadOnly, UNICODE_STRING):
    """A string inside a name information."""

    _field_names = frozenset(fields_of(UNICODE_STRING))


class FLT_FILE_NAME_INFORMATION(_ReadOnly):
    """The name of a file. Only FltParseFileNameInformation fills in what comes after Share (FLT-NAME-09)."""

    Size: int
    NamesParsed: int
    Format: int
    Name: NameString
    Volume: NameString
    Share: NameString
    Extension: NameString
    Stream: NameString
    FinalComponent: NameString
    ParentDir: NameString


FLT_FILE_NAME_INFORMATION._field_names = frozenset(fields_of(FLT_FILE_NAME_INFORMATION))  # pyright: ignore[reportPrivateUsage]


class FileNames:
    """The names that are handed out and not given back, oldest first, and what is checked about them."""

    def __init__(self) -> None:
        self.alive: dict[NameBlock, None] = {}
        self.taken: dict[Frame, list[NameBlock]] = {}
        """By operation: the names that its pre-operation callback got and that its post-operation is to check."""

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """Those that *driver* has not released (FLT-NAME-08)."""
        for block in self.alive:
            if block.driver is driver:
                yield Leftover("name-leak", block.words)


def check_stale(block: NameBlock) -> None:
    """A driver looks at a name that it got in the pre-operation callback of an operation: finding ``name-stale`` if
    the post-operation phase has come and the file is not called so any more (FLT-RACE-46).
    """
    frame, file = block.frame, block.file
    assert frame is not None
    thread = current_kthread()
    if frame.state not in POST_STATES or block.warned or file is None or thread.runtime.looking:
        return
    now = names_now(thread, frame.instance.volume, file, block.format, every_link=block.destination)
    if now and fold(block.whole) not in map(fold, now):
        block.warned = True
        called = " or ".join(now)
        report("name-stale", f"{thread.label} uses {block.words}, for a file that is called {called} by now")


def hand_out(thread: Thread, whole: str, format_: int, volume: str, names: FileNames) -> FLT_FILE_NAME_INFORMATION:
    """A new name information with one reference, inside a step of *thread*."""
    information: FLT_FILE_NAME_INFORMATION = object.__new__(FLT_FILE_NAME_INFORMATION)
    block = NameBlock(thread, information, whole, format_)
    furnish(information, FLT_FILE_NAME_INFORMATION, block, block.parts, zeroed=True)
    # After what lies inside was made: it looks after itself where paged memory is concerned.
    block.is_paged = True
    information.__dict__.update(Size=int(block.size), Format=format_, NamesParsed=0)
    for part in block.parts:
        put(part, "")
    put(information.__dict__["Name"], whole)
    if format_ != FLT_FILE_NAME_SHORT:
        put(information.__dict__["Volume"], volume)
    names.alive[block] = None
    return information


def put(string: Any, text: str) -> None:
    """Let *string*, which drivers may not write, say *text*."""
    length = 2 * len(text)
    object.__getattribute__(string, "__dict__").update(Length=length, MaximumLength=length, Buffer=text or None)


def block_of(information: object, name: str) -> NameBlock | None:
    """The record behind *information*, which may be freed; finding ``ke.bad-pointer`` if it is none."""
    block = allocation_of(information) if isinstance(information, Structure) else None
    if isinstance(block, NameBlock) and block.block is information:
        return block
    bad_pointer(name, "FileNameInformation", FLT_FILE_NAME_INFORMATION, information)
    return None


class ReferenceName(Operation[None]):
    """Take one more reference on a name."""

    __slots__ = ("block",)
    kind = "reference the name"

    def __init__(self, block: NameBlock) -> None:
        self.block = block

    def perform(self, thread: Thread) -> None:
        block = self.block
        thread.write(block)
        if block.freed is not None:
            report("ke.use-after-free", f"{thread.label} references {block.words}, {block.freed_words}")
            return
        block.references += 1

    def target(self) -> Cell:
        return self.block


class ReleaseName(Operation[None]):
    """Drop a reference on a name; the last one frees it."""

    __slots__ = ("block", "where")
    kind = "release the name"

    def __init__(self, block: NameBlock) -> None:
        self.block = block
        self.where: Site | None = here(current_kthread())

    def perform(self, thread: Thread) -> None:
        block = self.block
        thread.write(block)
        if block.freed is not None:
            report(
                "name-over-release",
                f"{thread.label} releases {block.words}, {block.freed_words} already",
                BugCheck(FLTMGR_FILE_SYSTEM, (OVER_RELEASED, block.address)),
            )
            return
        # Whoever drops the last one frees what all others have done with it.
        thread.release_to_waiter(block)
        block.references -= 1
        if not block.references:
            thread.acquire_as_waiter(block)
            if block.naming is not None:
                block.kept = block.naming.state in POST_STATES
            thread.end(block)
            release(thread, block, self.where)
            del thread.runtime.system.get(FileNames).alive[block]

    def target(self) -> Cell:
        return self.block


@routine(
    "fltkernel",
    "VOID FltReferenceFileNameInformation(_In_ PFLT_FILE_NAME_INFORMATION FileNameInformation)",
    max_irql=APC_LEVEL,
)
async def FltReferenceFileNameInformation(FileNameInformation: FLT_FILE_NAME_INFORMATION) -> None:
    """Keep a name: it is to be released once more. IRQL: <= APC_LEVEL. Findings: ``ke.use-after-free``."""
    block = block_of(FileNameInformation, "FltReferenceFileNameInformation")
    if block is not None:
        await ReferenceName(block)


@routine(
    "fltkernel",
    "VOID FltReleaseFileNameInformation(_In_ PFLT_FILE_NAME_INFORMATION FileNameInformation)",
    max_irql=APC_LEVEL,
)
async def FltReleaseFileNameInformation(FileNameInformation: FLT_FILE_NAME_INFORMATION) -> None:
    """Give a name back; with the last reference it is freed (FLT-NAME-08).

    IRQL: <= APC_LEVEL. Findings: ``name-over-release``, with bug check 0xF5; ``name-leak`` when a driver is unloaded
    that has not.
    """
    block = block_of(FileNameInformation, "FltReleaseFileNameInformation")
    if block is not None:
        await ReleaseName(block)


def parse_name(text: str) -> tuple[str, str, str]:
    """Extension, stream and final component of a name, which may be a path."""
    final = text.rpartition("\\")[2]
    bare, colon, stream = final.partition(":")
    _, dot, extension = bare.rpartition(".")
    return extension if dot else "", colon + stream, final


@routine(
    "fltkernel",
    "NTSTATUS FltParseFileNameInformation(_Inout_ PFLT_FILE_NAME_INFORMATION FileNameInformation)",
    max_irql=APC_LEVEL,
)
async def FltParseFileNameInformation(FileNameInformation: FLT_FILE_NAME_INFORMATION) -> NTSTATUS:
    """Fill in Extension, Stream, FinalComponent, ParentDir and NamesParsed.

    Of a short name there is only an extension. IRQL: <= APC_LEVEL. Findings: ``ke.use-after-free``.
    """
    block = block_of(FileNameInformation, "FltParseFileNameInformation")
    if block is None:
        return STATUS_INVALID_PARAMETER
    thread = current_thread()
    thread.read(block)
    if block.freed is not None:
        report("ke.use-after-free", f"{thread.label} parses {block.words}, {block.freed_words}")
        return STATUS_INVALID_PARAMETER
    fields = FileNameInformation.__dict__
    extension, stream, final = parse_name(block.whole)
    put(fields["Extension"], extension)
    if block.format != FLT_FILE_NAME_SHORT:
        volume: str = object.__getattribute__(fields["Volume"], "__dict__")["Buffer"] or ""
        put(fields["Stream"], stream)
        put(fields["FinalComponent"], final)
        put(fields["ParentDir"], block.whole[len(volume) : len(block.whole) - len(final)])
    fields["NamesParsed"] = PARSED_ALL
    return STATUS_SUCCESS


@routine(
    "fltkernel",
    """NTSTATUS FltParseFileName(_In_ PCUNICODE_STRING FileName, _Inout_opt_ PUNICODE_STRING Extension,
       _Inout_opt_ PUNICODE_STRING Stream, _Inout_opt_ PUNICODE_STRING FinalComponent)""",
    max_irql=APC_LEVEL,
)
def FltParseFileName(
    FileName: UNICODE_STRING,
    Extension: UNICODE_STRING | None = None,
    Stream: UNICODE_STRING | None = None,
    FinalComponent: UNICODE_STRING | None = None,
) -> NTSTATUS:
    """Let the strings that are given be the extension, the stream (with its colon) and the final component of a name.

    IRQL: <= APC_LEVEL.
    """
    if not isinstance(FileName, Structure):  # pyright: ignore[reportUnnecessaryIsInstance]
        bad_pointer("FltParseFileName", "FileName", UNICODE_STRING, FileName)
        return STATUS_INVALID_PARAMETER
    for string, text in zip(
        (Extension, Stream, FinalComponent), parse_name(text_of(FileName, "FltParseFileName")), strict=True
    ):
        if string is not None:
            RtlInitUnicodeString(string, text or None)
    return STATUS_SUCCESS
