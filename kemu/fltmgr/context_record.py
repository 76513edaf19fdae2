"""The filter manager's record of a context, and the places that contexts are linked to (FLT-CTX).

A context is in use as long as somebody holds a reference on it or it is linked to an object; the last of these to go
has it cleaned up. While it is linked nobody is last: then threads take references and drop their own in any order. All
else is a change that others can see: dropping one when there is no link, or one that another thread has taken.

| cell | holds |
| --- | --- |
| `Context` | whether the memory is there; what fields of the driver's depend on |
| `Context.link` | whether it is linked |
| `Context.counts` | who holds it |
| `ContextSlot` | which context is linked to one object for one instance or filter |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from kemu.fltmgr.context_types import KIND_NAMES, Definition
from kemu.io.filesystem.nodes import Stream
from kemu.nt.allocation import Allocation, place, type_name
from kemu.nt.kthread import KThread
from kemu.nt.structure import Structure
from kemu.runtime import Cell, Thread
from kemu.runtime.site import Site, here

if TYPE_CHECKING:
    from kemu.fltmgr.objects import Filter, FltVolume, Instance
    from kemu.io.request import FileObject

SLOT = -7
"""What stands in the name of a place between those of what it is a place of."""
STREAM = -8
"""What stands in it between the name of a file and the number of its stream."""

Hold = tuple[Thread, str, Site | None]
"""A reference: who took it, by which routine, and where."""


class Context(Allocation):
    """One context: its memory, its references, and where it is linked."""

    __slots__ = (
        "bound", "counts", "definition", "dying", "external", "filter", "holds", "kind", "link", "slot", "unlinked",
    )  # fmt: skip

    freed_code: ClassVar[str] = "ctx-use-after-release"
    free_routine: ClassVar[str] = "FltReleaseContext"

    def __init__(
        self, thread: KThread, filter_: Filter, kind: int, definition: Definition, block: Structure, size: int,
        *, is_paged: bool,
    ) -> None:  # fmt: skip
        super().__init__(thread, block, size, definition.tag, is_paged=is_paged)
        self.label = f"{KIND_NAMES[kind]} context {type_name(block)}"
        self.link = Cell(thread, f"link of {self.label}")
        self.counts = Cell(thread, f"references of {self.label}")
        self.filter = filter_
        self.kind = kind
        self.definition = definition
        self.holds: list[Hold] = [(thread, "FltAllocateContext", self.site)]
        self.bound: list[Cell] = []
        """The enlistments and sections for data scans that it was given to, each of which has a reference of its own.

        Such a reference is the filter manager's, as that of a link is: the driver cannot release it.
        """
        self.slot: ContextSlot | None = None
        self.unlinked = ""
        """How the link ended; "" if it was never linked or is so still."""
        self.dying = False
        """Whether the last reference is gone."""
        self.external = False
        """Whether the memory comes from the driver's own routine, which frees it as well."""

    def describe(self) -> str:
        """Words for a finding: what, and where from."""
        return f"the {self.label}, allocated at {place(self.site)}"

    def held_words(self) -> str:
        """Who holds references that nobody has dropped, and where each was taken."""
        taken = [f"by {thread.label} with {how} at {place(site)}" for thread, how, site in self.holds]
        return ", ".join([*taken, *(f"by the {user.label}" for user in self.bound)])

    # Inside a step.

    def take(self, thread: Thread, how: str) -> None:
        """A reference while something else is sure to keep the context: the link, or one of the thread's own."""
        thread.update(self.counts)
        self.holds.append((thread, how, here(thread)))

    def bind(self, thread: Thread, user: Cell) -> None:
        """*user*, an enlistment or a section, takes a reference while the caller is sure to have one."""
        thread.update(self.counts)
        self.bound.append(user)

    def keeps(self, thread: Thread) -> bool:
        """Whether the context is sure to stay whatever other threads do with references of their own."""
        if any(hold[0] is thread for hold in self.holds):
            return True
        thread.read(self.link)
        return self.slot is not None

    def drop(self, thread: Thread) -> bool:
        """*thread* drops a reference, of which there is one; whether that was the last."""
        thread.read(self.link)
        own = [index for index, hold in enumerate(self.holds) if hold[0] is thread]
        if own:
            del self.holds[own[-1]]
        else:
            self.holds.remove(max(self.holds, key=lambda hold: hold[0].path))
        if own and self.slot is not None:
            thread.update(self.counts)
            thread.release_to_waiter(self.counts)
            return False
        return self.lost(thread)

    def lost(self, thread: Thread) -> bool:
        """There is one reference less, or the link is gone; whether nothing is left."""
        thread.write(self.counts)
        if self.holds or self.bound or self.slot is not None:
            thread.release_to_waiter(self.counts)
            return False
        thread.acquire_as_waiter(self.counts)
        self.dying = True
        return True

    @property
    def is_over(self) -> bool:
        """Whether it can no longer be referenced."""
        return self.dying or self.freed is not None


class ContextSlot(Cell):
    """Where a context of one kind may be linked: to one object, for one instance or filter.

    Comes into being when it is first looked at; its name follows from what it belongs to.
    """

    __slots__ = ("_name", "context", "kind", "missed", "object", "owner", "used")

    def __init__(self, kind: int, target: Carrier, owner: Instance | Filter) -> None:
        self.creator = owner.creator
        self.ordinal = -1
        self.version = self.written = 0
        self.label = f"{KIND_NAMES[kind]} context of {owner.label} for {target.label}"
        self.kind = kind
        self.object = target
        self.owner = owner
        self.context: Context | None = None
        self.used = False
        """Whether anything was ever linked here."""
        self.missed: dict[Thread, None] = {}
        """The threads that have found nothing here when they last looked."""
        self._name: tuple[int, ...] | None = None

    @property
    def name(self) -> tuple[int, ...]:
        name = self._name
        if name is None:
            name = self._name = (*_name_of(self.object), SLOT, self.kind, *self.owner.name)
        return name

    # Inside a step.

    def link(self, thread: Thread, context: Context) -> None:
        """Put *context* here, where nothing is."""
        thread.write(context.link)
        self.context = context
        context.slot = self
        context.unlinked = ""
        self.missed.pop(thread, None)

    def unlink(self, thread: Thread, how: str) -> Context:
        """Take away what is here; its link's reference is then the caller's to drop, or to give away."""
        context = self.context
        assert context is not None
        thread.write(self)
        thread.write(context.link)
        thread.exchange(self)
        self.context = None
        context.slot = None
        context.unlinked = how
        return context


if TYPE_CHECKING:
    Carrier = Cell | Stream | FileObject | FltVolume
    """What a context is linked to."""


def _name_of(target: Carrier) -> tuple[int, ...]:
    if isinstance(target, Stream):
        return (*target.node.name, STREAM, target.number)
    return target.name


def context_of(pointer: Any) -> Context | None:
    """The record of the context that a driver's *pointer* points to, which may be anything."""
    if not isinstance(pointer, Structure):
        return None
    fields: dict[str, Any] = object.__getattribute__(pointer, "__dict__")
    return fields.get("_context")
