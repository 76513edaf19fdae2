"""Linking contexts to objects and finding them there (FLT-CTX-08 to FLT-CTX-20, FLT-CTX-27 to FLT-CTX-34)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from kemu.fltmgr.context_end import Contexts, destroy, object_gone, unlinked
from kemu.fltmgr.context_record import Context
from kemu.fltmgr.context_rules import check_place, check_pointers, used_after_release
from kemu.fltmgr.context_types import (
    FLT_FILE_CONTEXT,
    FLT_SET_CONTEXT_KEEP_IF_EXISTS,
    FLT_SET_CONTEXT_REPLACE_IF_EXISTS,
    FLT_STREAM_CONTEXT,
    ON_FILES,
)
from kemu.fltmgr.objects import Filter, FltVolume, Instance
from kemu.io.filesystem.nodes import Open
from kemu.io.request import FileObject
from kemu.nt.status import (
    NTSTATUS,
    STATUS_FLT_CONTEXT_ALREADY_DEFINED,
    STATUS_FLT_CONTEXT_ALREADY_LINKED,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_INVALID_PARAMETER,
    STATUS_NOT_FOUND,
    STATUS_NOT_SUPPORTED,
    STATUS_SUCCESS,
)
from kemu.nt.structure import Structure
from kemu.nt.system import report
from kemu.nt.transaction import KTRANSACTION
from kemu.runtime import Cell, Operation, Thread

if TYPE_CHECKING:
    from kemu.fltmgr.context_record import Carrier
    from kemu.nt.system import System

Found = tuple[NTSTATUS, Structure | None]
Changed = tuple[NTSTATUS, Structure | None, Context | None]
"""A status, the old context if it was asked for, and one that the caller is to destroy."""


def carrier(thread: Thread, kind: int, file: FileObject) -> Carrier | None:
    """What a context of *kind* of *file* is linked to, inside a step; None if it cannot have one (FLT-CTX-27)."""
    opened = file.fs_context
    if not isinstance(opened, Open):
        thread.read(file)
        return None
    thread.read(opened)
    if opened.closed or opened.stream.is_paging_file:
        return None
    if kind == FLT_STREAM_CONTEXT:
        return opened.stream
    if kind == FLT_FILE_CONTEXT:
        # Where a file has one stream only, the filter manager makes do with the stream's (FLT-CTX-30).
        return opened.node if file.volume.filesystem.has_file_contexts else opened.stream
    return file


class _OnObject(Operation[Any]):
    """An operation on the place of a context: of an object, for an instance or, if it is a volume's, for a filter."""

    __slots__ = ("context_kind", "name", "object", "owner", "quiet")

    sets = False

    def __init__(
        self, name: str, context_kind: int, owner: Instance | Filter, target: Cell, *, quiet: bool = False
    ) -> None:
        self.name = name
        self.context_kind = context_kind
        self.owner = owner
        self.object = target
        self.quiet = quiet

    def carrier(self, thread: Thread) -> Carrier | None:
        """What the context is linked to, after a look at where in its life the object is."""
        if not self.context_kind & ON_FILES:
            return self.object
        assert isinstance(self.object, FileObject)
        if not self.quiet:
            assert isinstance(self.owner, Instance)
            check_place(thread, self.owner, self.object, self.context_kind, self.name, sets=self.sets)
        return carrier(thread, self.context_kind, self.object)

    def is_deleting(self, thread: Thread) -> bool:
        """Whether the instance, the filter or the volume is going away (FLT-INST-31)."""
        thread.read(self.owner)
        if isinstance(self.object, FltVolume):
            thread.read(self.object)
            if self.object.deleting:
                return True
        return self.owner.deleting

    def registry(self, thread: Thread) -> Contexts:
        """The places of contexts of the run."""
        system: System = thread.runtime.system
        return system.get(Contexts)

    def target(self) -> Cell:
        return self.object

    def describe(self) -> str:
        return f"{self.name} of {self.object.label} for {self.owner.label}"


class GetContext(_OnObject):
    """Find a context and take a reference on it."""

    __slots__ = ()
    kind = "get the context of"

    def perform(self, thread: Thread) -> Found:
        registry = self.registry(thread)
        target = self.carrier(thread)
        if target is None:
            registry.missed[thread] = self.name
            return STATUS_NOT_SUPPORTED, None
        slot = registry.slot(self.context_kind, target, self.owner)
        thread.read(slot)
        thread.acquire(slot)
        context = slot.context
        if context is None:
            slot.missed[thread] = None
            registry.missed[thread] = self.name
            return STATUS_NOT_FOUND, None
        registry.missed.pop(thread, None)
        slot.missed.pop(thread, None)
        context.take(thread, self.name)
        check_pointers(thread, context)
        return STATUS_SUCCESS, context.block


class SetContext(_OnObject):
    """Link a context to an object."""

    __slots__ = ("context", "operation", "wants_old")
    kind = "set the context of"
    sets = True

    def __init__(
        self, name: str, context_kind: int, owner: Instance | Filter, target: Cell, operation: int, context: Context,
        wants_old: bool,
    ) -> None:  # fmt: skip
        super().__init__(name, context_kind, owner, target)
        self.operation = operation
        self.context = context
        self.wants_old = wants_old

    def perform(self, thread: Thread) -> Changed:
        context = self.context
        thread.read(context)
        if not context.keeps(thread):
            thread.write(context.counts)
        if context.is_over:
            used_after_release(thread, context, self.name)
            return STATUS_INVALID_PARAMETER, None, None
        filter_ = self.owner.filter if isinstance(self.owner, Instance) else self.owner
        if (
            self.operation not in {FLT_SET_CONTEXT_KEEP_IF_EXISTS, FLT_SET_CONTEXT_REPLACE_IF_EXISTS}
            or context.kind != self.context_kind
            or context.filter is not filter_
        ):
            return STATUS_INVALID_PARAMETER, None, None
        if self.is_deleting(thread):
            return STATUS_FLT_DELETING_OBJECT, None, None
        target = self.carrier(thread)
        if target is None:
            return STATUS_NOT_SUPPORTED, None, None
        thread.read(context.link)
        if context.slot is not None:
            return STATUS_FLT_CONTEXT_ALREADY_LINKED, None, None
        registry = self.registry(thread)
        slot = registry.slot(self.context_kind, target, self.owner)
        if slot.context is None:
            thread.write(slot)
            thread.exchange(slot)
            if isinstance(target, KTRANSACTION) and not slot.used:
                # It goes when the transaction has ended, after the last notification of it.
                thread.write(target)
                target.at_end.append(partial(object_gone, target))
            registry.use(slot)
            slot.link(thread, context)
            return STATUS_SUCCESS, None, None
        if self.operation == FLT_SET_CONTEXT_KEEP_IF_EXISTS:
            return self._kept(thread, slot.context)
        return self._replaced(thread, slot.context)

    def _kept(self, thread: Thread, existing: Context) -> Changed:
        assert existing.slot is not None
        thread.read(existing.slot)
        thread.acquire(existing.slot)
        old = None
        if self.wants_old:
            existing.take(thread, self.name)
            old = existing.block
        return STATUS_FLT_CONTEXT_ALREADY_DEFINED, old, None

    def _replaced(self, thread: Thread, existing: Context) -> Changed:
        slot = existing.slot
        assert slot is not None
        thread.write(existing.counts)
        others = [one for one in existing.holds if one[0] is not thread]
        if others or (thread in slot.missed and not self.wants_old):
            users = f"held {existing.held_words()}" if others else "which this thread had not found before"
            report(
                "ctx-lost-update",
                f"{thread.label} replaces {existing.describe()}, {users}: what is kept there is lost",
            )
        slot.unlink(thread, "replaced")
        slot.link(thread, self.context)
        if self.wants_old:
            existing.holds.append((thread, self.name, None))
            return STATUS_SUCCESS, existing.block, None
        return STATUS_SUCCESS, None, unlinked(thread, existing)


class DeleteFrom(_OnObject):
    """Take the context off an object."""

    __slots__ = ("wants_old",)
    kind = "delete the context of"

    def __init__(self, name: str, context_kind: int, owner: Instance | Filter, target: Cell, wants_old: bool) -> None:
        super().__init__(name, context_kind, owner, target)
        self.wants_old = wants_old

    def perform(self, thread: Thread) -> Changed:
        if self.context_kind != FLT_FILE_CONTEXT and self.is_deleting(thread):
            return STATUS_FLT_DELETING_OBJECT, None, None
        target = self.carrier(thread)
        if target is None:
            return STATUS_NOT_SUPPORTED, None, None
        slot = self.registry(thread).slot(self.context_kind, target, self.owner)
        if slot.context is None:
            thread.read(slot)
            return STATUS_NOT_FOUND, None, None
        context = slot.unlink(thread, "deleted")
        if self.wants_old:
            thread.write(context.counts)
            context.holds.append((thread, self.name, None))
            return STATUS_SUCCESS, context.block, None
        return STATUS_SUCCESS, None, unlinked(thread, context)


async def changed(operation: SetContext | DeleteFrom) -> Found:
    """Carry out a change, and clean up what it leaves nobody with."""
    status, old, last = await operation
    if last is not None:
        await destroy(last)
    return status, old
