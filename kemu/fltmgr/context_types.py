"""The kinds of contexts, how a filter declares them, and which declaration an allocation falls under (FLT-CTX-02)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kemu.nt.memory import tag_text
from kemu.nt.structure import Size, Structure

FLT_VOLUME_CONTEXT: Final = 0x01
FLT_INSTANCE_CONTEXT: Final = 0x02
FLT_FILE_CONTEXT: Final = 0x04
FLT_STREAM_CONTEXT: Final = 0x08
FLT_STREAMHANDLE_CONTEXT: Final = 0x10
FLT_TRANSACTION_CONTEXT: Final = 0x20
FLT_SECTION_CONTEXT: Final = 0x40
FLT_ALL_CONTEXTS: Final = 0x3F
"""What FltGetContexts knows; section contexts only FltGetContextsEx does."""
FLT_CONTEXT_END: Final = 0xFFFF

FLTFL_CONTEXT_REGISTRATION_NO_EXACT_SIZE_MATCH: Final = 0x1
FLT_VARIABLE_SIZED_CONTEXTS: Final = (1 << 64) - 1
MAXUSHORT: Final = 0xFFFF

FLT_SET_CONTEXT_REPLACE_IF_EXISTS: Final = 0
FLT_SET_CONTEXT_KEEP_IF_EXISTS: Final = 1

KIND_NAMES: Final = {
    FLT_VOLUME_CONTEXT: "volume",
    FLT_INSTANCE_CONTEXT: "instance",
    FLT_FILE_CONTEXT: "file",
    FLT_STREAM_CONTEXT: "stream",
    FLT_STREAMHANDLE_CONTEXT: "stream handle",
    FLT_TRANSACTION_CONTEXT: "transaction",
    FLT_SECTION_CONTEXT: "section",
}
ON_FILES: Final = FLT_FILE_CONTEXT | FLT_STREAM_CONTEXT | FLT_STREAMHANDLE_CONTEXT

MOST_FIXED_SIZES: Final = 3

ContextCleanupCallback = Callable[[Any, int], Awaitable[None]]
ContextAllocateCallback = Callable[[int, int, int], Awaitable[Any]]
ContextFreeCallback = Callable[[Any, int], Awaitable[None]]


@dataclass(slots=True)
class FLT_CONTEXT_REGISTRATION:
    """How contexts of one kind and size are allocated and freed; the last entry is ``FLT_CONTEXT_REGISTRATION()``.

    *Size* is a structure's class, a number of bytes, or FLT_VARIABLE_SIZED_CONTEXTS.
    """

    ContextType: int = FLT_CONTEXT_END
    Flags: int = 0
    ContextCleanupCallback: ContextCleanupCallback | None = None
    Size: type[Structure] | int = 0
    PoolTag: str | int = ""
    ContextAllocateCallback: ContextAllocateCallback | None = None
    ContextFreeCallback: ContextFreeCallback | None = None


class FLT_RELATED_CONTEXTS(Structure):
    """What FltGetContexts has found, each with a reference; None where there is none (FLT-CTX-10)."""

    VolumeContext: Any
    InstanceContext: Any
    FileContext: Any
    StreamContext: Any
    StreamHandleContext: Any
    TransactionContext: Any


class FLT_RELATED_CONTEXTS_EX(FLT_RELATED_CONTEXTS):
    """The same with the section context."""

    SectionContext: Any


MEMBERS: Final = {
    FLT_VOLUME_CONTEXT: "VolumeContext",
    FLT_INSTANCE_CONTEXT: "InstanceContext",
    FLT_FILE_CONTEXT: "FileContext",
    FLT_STREAM_CONTEXT: "StreamContext",
    FLT_STREAMHANDLE_CONTEXT: "StreamHandleContext",
    FLT_TRANSACTION_CONTEXT: "TransactionContext",
    FLT_SECTION_CONTEXT: "SectionContext",
}


def bytes_of(size: type[Structure] | int) -> int:
    """How many bytes *size* is, which may be a structure's class."""
    return Size(size) if isinstance(size, type) else size


class Definition:
    """One entry of a filter's context registration."""

    __slots__ = ("allocates", "cleanup", "frees", "inexact", "kind", "size", "tag")

    def __init__(self, given: FLT_CONTEXT_REGISTRATION) -> None:
        self.kind = given.ContextType
        self.size = int(bytes_of(given.Size))
        self.tag = tag_text("FLT_CONTEXT_REGISTRATION", given.PoolTag)
        self.inexact = bool(given.Flags & FLTFL_CONTEXT_REGISTRATION_NO_EXACT_SIZE_MATCH)
        self.cleanup = given.ContextCleanupCallback
        self.allocates = given.ContextAllocateCallback
        self.frees = given.ContextFreeCallback

    @property
    def is_variable(self) -> bool:
        """Whether it is for sizes that no other definition is for."""
        return self.size == FLT_VARIABLE_SIZED_CONTEXTS


class Definitions:
    """What a filter has declared of its contexts."""

    __slots__ = ("by_kind", "is_terminated", "is_valid")

    def __init__(self, given: Sequence[FLT_CONTEXT_REGISTRATION]) -> None:
        self.by_kind: dict[int, list[Definition]] = {}
        """The definitions of each kind: fixed sizes from the smallest on, then the variable one."""
        self.is_valid = True
        self.is_terminated = not given
        for entry in given:
            if entry.ContextType == FLT_CONTEXT_END:
                self.is_terminated = True
                break
            if entry.ContextType not in KIND_NAMES:
                self.is_valid = False
                continue
            self._add(Definition(entry))
        for definitions in self.by_kind.values():
            definitions.sort(key=lambda one: one.size)
            fixed = [one for one in definitions if not one.is_variable]
            own = any(one.allocates is not None for one in definitions)
            if len(fixed) > MOST_FIXED_SIZES or (own and len(definitions) > 1):
                self.is_valid = False

    def _add(self, definition: Definition) -> None:
        definitions = self.by_kind.setdefault(definition.kind, [])
        if all(other.size != definition.size for other in definitions):
            definitions.append(definition)

    @property
    def on_files(self) -> bool:
        """Whether there are contexts that go with files, streams or file objects."""
        return any(kind & ON_FILES for kind in self.by_kind)

    def choose(self, kind: int, size: int) -> Definition | None:
        """What a context of *kind* with *size* bytes falls under; None if it cannot be allocated (FLT-CTX-03)."""
        definitions = self.by_kind.get(kind, ())
        for one in definitions:
            if one.allocates is not None:
                # The driver's own routine sees to the size.
                return one
        for one in definitions:
            if one.is_variable or one.size == size or (one.inexact and one.size >= size):
                return one
        return None
