"""The end of contexts: cleanup, freeing, and what ends with files, instances and filters (FLT-CTX-22 to FLT-CTX-24)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kemu.fltmgr.context_record import Context, ContextSlot
from kemu.fltmgr.context_rules import check_pointers
from kemu.fltmgr.context_types import KIND_NAMES
from kemu.fltmgr.objects import Filter, Instance, WaitRundown
from kemu.nt.driver import in_driver
from kemu.nt.freeing import release
from kemu.nt.kthread import APC_LEVEL, PASSIVE_LEVEL, current_kthread
from kemu.nt.system import current_system
from kemu.nt.work import DelayedWorkQueue, WorkerPool, WorkItem
from kemu.runtime import Cell, Deliver, Message, Operation, Thread
from kemu.runtime.site import Site, here

if TYPE_CHECKING:
    from kemu.fltmgr.context_record import Carrier
    from kemu.io.filesystem.nodes import Open
    from kemu.io.request import FileObject
    from kemu.nt.system import System


@dataclass(frozen=True, slots=True)
class ContextCleanup(Message):
    """Filter manager -> minifilter: nobody holds a context any more."""

    handler: ClassVar[str] = "ContextCleanup"
    context: str


class Contexts:
    """The places of contexts of one run, and what ends with their objects."""

    def __init__(self) -> None:
        self._slots: dict[tuple[int, Carrier, Instance | Filter], ContextSlot] = {}
        self._of_object: dict[Carrier, list[ContextSlot]] = {}
        self._of_owner: dict[Instance | Filter, list[ContextSlot]] = {}
        self._ending: dict[FileObject, list[Context]] = {}
        self.on_files = False
        """Whether any filter has declared contexts that go with files, streams or file objects."""
        self.missed: dict[Thread, str] = {}
        """The threads whose last look for a context found none, with words for which."""

    def slot(self, kind: int, target: Carrier, owner: Instance | Filter) -> ContextSlot:
        """The place of contexts of *kind* that *owner* links to *target*."""
        key = (kind, target, owner)
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = ContextSlot(kind, target, owner)
        return slot

    def use(self, slot: ContextSlot) -> None:
        """Something is linked to *slot*: it will have to go with the object and with the owner."""
        if not slot.used:
            slot.used = True
            self._of_object.setdefault(slot.object, []).append(slot)
            self._of_owner.setdefault(slot.owner, []).append(slot)

    def of_owner(self, owner: Instance | Filter) -> list[ContextSlot]:
        """The places that *owner* has ever used, in an order that does not depend on who came first."""
        return sorted(self._of_owner.get(owner, ()), key=lambda slot: slot.name)

    # The file system's side.

    def closed(self, thread: Thread, opened: Open) -> None:
        """The last reference on a file object is gone, in the step of *thread*: unlink what goes with it."""
        stream, node = opened.stream, opened.node
        thread.write(opened)
        # Who is last depends on all others.
        thread.write(node)
        opened.closed = True
        gone: list[Carrier] = [opened.file]
        if not stream.files:
            gone.append(stream)
        if not node.files:
            gone.append(node)
        self._ending[opened.file] = [one for target in gone for one in self.unlink_from(thread, target)]

    def unlink_from(self, thread: Thread, target: Carrier) -> list[Context]:
        """*target* goes away in the step of *thread*: unlink its contexts; those that the caller is to `destroy`."""
        last: list[Context] = []
        for slot in sorted(self._of_object.get(target, ()), key=lambda slot: slot.name):
            if slot.context is None:
                thread.read(slot)
                continue
            context = slot.unlink(thread, "gone")
            if context.lost(thread):
                last.append(context)
        return last

    async def tear_down(self, file: FileObject) -> None:
        """The file system tears down what went with *file*, in the thread of the close, at PASSIVE_LEVEL.

        Only the completion of a close may come at DISPATCH_LEVEL.
        """
        last = self._ending.pop(file, None)
        if last:
            thread = current_kthread()
            before, thread.irql = thread.irql, PASSIVE_LEVEL
            for context in last:
                await destroy(context)
            thread.irql = before


class Unlink(Operation["Context | None"]):
    """The filter manager takes a context off its object; evaluates to it if nobody else holds it."""

    __slots__ = ("slot",)
    kind = "unlink the"

    def __init__(self, slot: ContextSlot) -> None:
        self.slot = slot

    def perform(self, thread: Thread) -> Context | None:
        if self.slot.context is None:
            thread.read(self.slot)
            return None
        return unlinked(thread, self.slot.unlink(thread, "gone"))

    def target(self) -> Cell:
        return self.slot


class UnlinkFrom(Operation["list[Context]"]):
    """An object goes away, and its contexts with it; evaluates to those that nobody else holds."""

    __slots__ = ("contexts", "object")
    kind = "unlink the contexts of"

    def __init__(self, contexts: Contexts, target: Cell) -> None:
        self.contexts = contexts
        self.object = target

    def perform(self, thread: Thread) -> list[Context]:
        return self.contexts.unlink_from(thread, self.object)

    def target(self) -> Cell:
        return self.object


async def object_gone(target: Cell) -> None:
    """*target*, such as a transaction, goes away, and its contexts with it (FLT-CTX-22). IRQL: <= APC_LEVEL."""
    for context in await UnlinkFrom(current_system().get(Contexts), target):
        await destroy(context)


async def unlink_all(contexts: Contexts, owner: Instance | Filter) -> None:
    """Take the contexts of *owner*, which goes away, off their objects, and end its enlistments (FLT-ORD-06)."""
    for slot in contexts.of_owner(owner):
        last = await Unlink(slot)
        if last is not None:
            await destroy(last)
    if isinstance(owner, Instance):
        for notifier in owner.enlisted:
            await notifier.end()


def unlinked(thread: Thread, context: Context) -> Context | None:
    """The reference of a link is dropped, in the step of *thread*: *context* if the caller is to `destroy` it."""
    return ended(thread, context) if context.lost(thread) else None


def ended(thread: Thread, context: Context) -> Context | None:
    """The last reference is gone, in the step of *thread*: *context* if the caller is to `destroy` it.

    At DISPATCH_LEVEL a worker does that (FLT-CTX-24).
    """
    if current_kthread().irql <= APC_LEVEL:
        return context
    system: System = thread.runtime.system
    item = WorkItem(f"cleanup of {context.label}")

    async def run() -> None:
        await destroy(context)

    system.get(WorkerPool).insert(thread, item, DelayedWorkQueue, run)
    return None


async def destroy(context: Context) -> None:
    """Clean *context* up, which nobody holds any more, and free it, on the calling thread (FLT-CTX-23, FLT-ORD-08)."""
    thread = current_kthread()
    definition = context.definition
    actor = context.filter.driver
    if definition.cleanup is not None:
        await Deliver(actor, ContextCleanup, context)
        check_pointers(thread, context)
        system: System = thread.runtime.system
        outer = system.under_locks.get(thread)
        if thread.locks:
            words = f"the cleanup of the {context.label} runs in {thread.label}, which has dropped the last reference"
            system.under_locks[thread] = words, tuple(thread.locks)
        await in_driver(actor, "ContextCleanup", definition.cleanup, context.block, context.kind)
        if outer is not None:
            system.under_locks[thread] = outer
        else:
            system.under_locks.pop(thread, None)
    if definition.frees is not None:
        await in_driver(actor, "ContextFree", definition.frees, context.block, context.kind)
    await FreeContext(context)


class FreeContext(Operation[None]):
    """The memory of a context goes."""

    __slots__ = ("context", "where")
    kind = "free the"

    def __init__(self, context: Context) -> None:
        self.context = context
        self.where: Site | None = here(current_kthread())

    def perform(self, thread: Thread) -> None:
        context = self.context
        thread.write(context)
        if context.external:
            context.freed = thread.label, self.where
        else:
            thread.end(context)
            release(thread, context, self.where)
        log = thread.runtime.log
        if log is not None:
            log("flt.ctx.free", flt=context.filter.driver.label, kind=KIND_NAMES[context.kind], obj=context)
        filter_ = context.filter
        filter_.contexts.remove(context)
        # Nobody counts them before the filter goes.
        (thread.write if filter_.deleting else thread.read)(filter_)
        thread.release_to_waiter(filter_)
        if filter_.deleting:
            filter_.changed()

    def target(self) -> Cell:
        return self.context


class WaitContexts(WaitRundown):
    """Wait until every context of a filter is freed (FLT-ORD-07)."""

    __slots__ = ("filter",)
    kind = "see the contexts freed of"

    def __init__(self, filter_: Filter) -> None:
        super().__init__(filter_)
        self.filter = filter_

    def available(self, thread: Thread) -> bool:
        return not self.filter.contexts

    def describe(self) -> str:
        held = "; ".join(f"{one.describe()}, held {one.held_words()}" for one in self.filter.contexts)
        return f"see the contexts of {self.filter.label} freed" + (f" ({held})" if held else "")
