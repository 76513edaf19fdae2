"""Threads: the unit that is scheduled.

A thread carries actors: its stack of actors says in whose code it is. Framework layers subclass `Thread` to
add what they need of it (IRQL, owning process); the runtime itself looks at none of that.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

from kemu.errors import UsageError
from kemu.runtime.footprint import MASK, READ, UPDATE, WRITE, Cell, Waitable
from kemu.runtime.operation import BlockingOperation, Operation

if TYPE_CHECKING:
    from kemu.runtime.actor import Actor
    from kemu.runtime.core import Runtime
    from kemu.runtime.happens_before import Labelled

host: ContextVar[Runtime] = ContextVar("kemu_runtime")
"""The runtime in whose run this code is. Set once for a run; the contexts of its threads inherit it."""
_host = host.get


class _Current:
    """The running thread, to be asked as if it were a context variable."""

    def get(self, default: None = None) -> Thread | None:
        """Return the thread that takes the current step; *default* outside a run."""
        runtime = host.get(None)
        return default if runtime is None else runtime.running


current = _Current()


def current_thread() -> Thread:
    """Return the thread that takes the current step. Raises `UsageError` outside a run."""
    try:
        thread = _host().running
    except LookupError:
        thread = None
    if thread is None:
        raise UsageError(
            "a kernel routine was called outside a run",
            remedy="call it from a driver or a scenario that kemu runs",
        )
    return thread


EMPTY = Context()


class Unwind(BaseException):
    """Ends a coroutine of a run that is over. Private to kemu; a driver must not see it matter."""


class Thread(Waitable):
    """One emulated thread.

    As a `Waitable` the thread is its own exit object: its last step writes it, joining waits for it.
    """

    __slots__ = (
        "actors",
        "alive",
        "children",
        "context",
        "coroutine",
        "footprint",
        "hash",
        "op",
        "ordinals",
        "parent",
        "parked",
        "path",
        "result",
        "runtime",
        "send",
        "service",
        "steps",
    )

    guards = ("alive",)

    def __init__(
        self,
        runtime: Runtime,
        parent: Thread | None,
        label: str,
        coroutine: Coroutine[Operation[Any], Any, Any],
        *,
        service: bool = False,
    ) -> None:
        # One thread is made for each worker of each run: the base classes' constructors are written out here.
        if parent is None:
            self.path: tuple[int, ...] = (0,)
            self.hash = 1
            self.creator = self
            self.ordinals = 1
            self.ordinal = 0
        else:
            self.path = (*parent.path, parent.children)
            parent.children += 1
            self.hash = hash((parent.hash, parent.children))
            self.creator = parent
            self.ordinals = 0
            self.ordinal = parent.ordinals
            parent.ordinals += 1
        self.label = label
        self.version = self.written = 0
        self.watchers = []
        self.children = 0
        self.runtime = runtime
        self.parent = parent
        self.coroutine = coroutine
        self.context: Context = EMPTY
        self.send: Callable[[Any], Operation[Any]] = coroutine.send
        self.op: Operation[Any] = STARTING
        self.actors: list[Actor] = []
        self.alive = True
        self.parked = False
        self.result: Any = None
        self.service = service
        self.steps = 0
        self.footprint: list[tuple[Cell, int]] | None = None
        if runtime.born is not None:
            runtime.born.append(self)

    # The three functions below are the inner loop of every run: `mix` is written out in them on purpose.

    def read(self, cell: Cell) -> None:
        """Record that the current step observed *cell*."""
        self.hash = hash((self.hash, cell.version))
        if self.footprint is not None:
            self.footprint.append((cell, READ))

    def write(self, cell: Cell) -> None:
        """Record that the current step changed *cell* (and so observed it)."""
        self.hash = cell.version = cell.written = hash((self.hash, cell.version))
        if self.footprint is not None:
            self.footprint.append((cell, WRITE))

    def update(self, cell: Cell) -> None:
        """Record a change of *cell* that commutes with the other updates since its last write."""
        self.hash = state = hash((self.hash, cell.written))
        cell.version = (cell.version + state) & MASK
        if self.footprint is not None:
            self.footprint.append((cell, UPDATE))

    def load(self, cell: Cell) -> None:
        """Record that the current step observed *cell*, a piece of a driver's own state."""
        self.read(cell)
        races = self.runtime.races
        if races is not None:
            races.load(self, cell)

    def store(self, cell: Cell) -> None:
        """Record that the current step changed *cell*, a piece of a driver's own state."""
        self.write(cell)
        races = self.runtime.races
        if races is not None:
            races.store(self, cell)

    # What orders threads, and what does not, is told where it happens. Nothing of it is in a footprint: without race
    # detection these do nothing.

    def release(self, cell: Labelled) -> None:
        """Order what this thread did before whoever acquires *cell* next."""
        races = self.runtime.races
        if races is not None:
            races.release(self, cell)

    def acquire(self, cell: Labelled) -> None:
        """Order the last release of *cell* before what this thread does from now on."""
        races = self.runtime.races
        if races is not None:
            races.acquire(self, cell)

    def exchange(self, cell: Labelled) -> None:
        """Acquire and release *cell* by an interlocked operation: those on one cell order each other both ways."""
        races = self.runtime.races
        if races is not None:
            races.exchange(self, cell)

    def release_to_waiter(self, cell: Labelled) -> None:
        """Order what this thread did before whoever waits for all releases of *cell*, and before nobody else.

        Run-down protection, references and shared locks are released so: their holders do not order each other.
        """
        races = self.runtime.races
        if races is not None:
            races.release_to_waiter(self, cell)

    def acquire_as_waiter(self, cell: Labelled) -> None:
        """Order all those releases of *cell* before what this thread does from now on."""
        races = self.runtime.races
        if races is not None:
            races.acquire_as_waiter(self, cell)

    def begin(self, cell: Cell) -> None:
        """Take up what *cell* was released for, as another thread might: nothing done before orders it."""
        races = self.runtime.races
        if races is not None:
            races.begin(self, cell)

    def use(self, cell: Cell) -> None:
        """Tell that the object behind *cell* is used, which no other thread may end meanwhile."""
        races = self.runtime.races
        if races is not None:
            races.use(self, cell)

    def end(self, cell: Cell) -> None:
        """Tell that the object behind *cell* is freed, or given back to whom it belongs."""
        races = self.runtime.races
        if races is not None:
            races.end(self, cell)

    def epilogue(self, result: Any) -> Coroutine[Operation[Any], Any, Any] | None:
        """What the thread has still to do when its coroutine has come to *result*, which is then that one's result."""
        return None

    def finish(self) -> None:
        """Called inside the thread's last step, before anybody may see that it has ended."""

    @property
    def actor(self) -> Actor | None:
        """The actor in whose code the thread is, or None in a bare thread."""
        return self.actors[-1] if self.actors else None

    def holders(self) -> tuple[Thread, ...]:
        return (self,) if self.alive else ()


class _Start(Operation[None]):
    """The operation a thread is declared to be at before its first step."""

    __slots__ = ()
    kind = "start"

    def perform(self, thread: Thread) -> None:
        return None


STARTING = _Start()


class Join(BlockingOperation[Any]):
    """Wait until a thread has ended; evaluates to its result."""

    __slots__ = ("thread",)
    kind = "join"

    def __init__(self, thread: Thread) -> None:
        super().__init__(thread)
        self.thread = thread

    def available(self, thread: Thread) -> bool:
        return not self.thread.alive

    def take(self, thread: Thread) -> Any:
        thread.read(self.thread)
        races = thread.runtime.races
        if races is not None:
            races.join(thread, self.thread)
        return self.thread.result
