"""What was possible when: the states that decide whether an operation can go on, as they were in the current run.

To reverse two steps, a reduced search has to know whether the later one would have been possible before the earlier
one. So the state of each object that threads wait for is kept as it was after every event that changed it, and an
operation is asked again whether it is available with the objects put back to what they were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from kemu.runtime import BlockingOperation, Timer, Waitable

if TYPE_CHECKING:
    from kemu.runtime import Cell, Thread

State = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """An operation that a thread has declared and that may have to wait."""

    thread: Thread
    op: BlockingOperation[Any]
    timer: Timer | None
    """What ends it after its time, if it has a limit."""
    guards: tuple[Waitable, ...]
    """The objects that decide whether it can go on."""


def declared(thread: Thread) -> Wait | None:
    """What *thread* is about to wait for; None if its next operation is always possible."""
    op = thread.op
    if not isinstance(op, BlockingOperation):
        return None
    op = cast("BlockingOperation[Any]", op)
    return Wait(thread, op, op.timer, op.sources)


class Guards:
    """The states of the objects that threads wait for, after each event of the current run that changed them."""

    def __init__(self) -> None:
        self._history: dict[Waitable, list[tuple[int, State]]] = {}
        self._fired: dict[Timer, int] = {}

    def begin(self) -> None:
        """A new run begins."""
        self._history.clear()
        self._fired.clear()

    def after(self, event: int, born: list[Waitable], touched: Iterable[tuple[Cell, int]], *, clock: bool) -> None:
        """Keep the states after *event*, in which the objects in *born* were made; *clock* if it was the clock's."""
        for one in born:
            if one.guards:
                self._history[one] = [(event, _state(one, one.guards))]
        for cell, mode in touched:
            if isinstance(cell, Waitable):
                # Also what was only read: some changes are of no concern to anybody until something else happens.
                if cell.guards:
                    history = self._history.get(cell)
                    state = _state(cell, cell.guards)
                    if history is None:
                        self._history[cell] = [(event, state)]
                    elif history[-1][0] == event:
                        history[-1] = (event, state)
                    elif history[-1][1] != state:
                        history.append((event, state))
            elif clock and mode and isinstance(cell, Timer):
                self._fired[cell] = event

    def allowed(self, wait: Wait, before: int, others: int) -> bool | None:
        """Whether the operation could have gone on before event number *before*, with the *others* done as well.

        None if the objects do not say what it depends on.
        """
        if wait.op.timeout == 0:
            return True
        if wait.op.opaque:
            return None
        if wait.timer is not None:
            fired = self._fired.get(wait.timer)
            if fired is not None and (fired < before or others >> fired & 1):
                return True
        now: list[tuple[Waitable, State]] = []
        for guard in wait.guards:
            names = guard.guards
            if names is None:
                return None
            history = self._history.get(guard)
            if not names or history is None:
                continue
            now.append((guard, tuple(getattr(guard, name) for name in names)))
        try:
            for guard, _ in now:
                _assume(guard, self._then(guard, before, others))
            return wait.op.available(wait.thread)
        finally:
            for guard, state in now:
                _assume(guard, state)

    def _then(self, guard: Waitable, before: int, others: int) -> State:
        history = self._history[guard]
        for event, state in reversed(history):
            if event < before or others >> event & 1:
                return state
        return history[0][1]


def _state(guard: Waitable, names: tuple[str, ...]) -> State:
    state: list[Any] = []
    for name in names:
        value = getattr(guard, name)
        state.append(tuple(cast("list[Any]", value)) if isinstance(value, list | deque) else value)
    return tuple(state)


def _assume(guard: Waitable, state: State) -> None:
    for name, value in zip(cast("tuple[str, ...]", guard.guards), state, strict=True):
        setattr(guard, name, value)
