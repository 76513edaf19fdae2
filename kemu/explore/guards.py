"""What was possible when: the states that decide whether an operation can go on, as they were in the current run.

To reverse two steps, a reduced search has to know whether the later one would have been possible before the earlier
one. So the state of each object that threads wait for is kept as it was after every event that changed it, and an
operation is asked again whether it is available with the objects put back to what they were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from kemu.runtime import BlockingOperation, Timer, Waitable

if TYPE_CHECKING:
    from kemu.explore.dependence import CellNumbers
    from kemu.runtime import Cell, Thread

State = tuple[Any, ...]

SOMETHING: Final = object()
"""Stands for an object of a run that is over."""


@dataclass(slots=True)
class Wait:
    """An operation that a thread has declared and that may have to wait."""

    thread: Thread
    op: BlockingOperation[Any]
    timer: Timer | None
    """What ends it after its time, if it has a limit."""

    @property
    def several(self) -> bool:
        """Whether it waits for more than one object."""
        return len(self.op.sources) > 1

    def guards(self) -> set[Cell]:
        """The cells that decide whether it can go on."""
        return set(self.op.sources) if self.timer is None else {*self.op.sources, self.timer}


def declared(thread: Thread) -> Wait | None:
    """What *thread* is about to wait for; None if its next operation is always possible."""
    op = thread.op
    if not isinstance(op, BlockingOperation):
        return None
    return Wait(thread, op, op.timer)


class Guards:
    """The states of the objects that threads wait for, after each event of the current run that changed them.

    They outlive the run: of a later run with the same beginning, they are the states of that. So they are values that
    do not hold on to anything of a run.
    """

    def __init__(self, cells: CellNumbers) -> None:
        self._number = cells.of
        self._history: dict[int, list[tuple[int, State]]] = {}
        self._changes: list[tuple[int, int]] = []
        self._fired: dict[int, int] = {}

    def truncate(self, length: int) -> None:
        """Forget what came of all events from number *length* on."""
        changes = self._changes
        while changes and changes[-1][0] >= length:
            self._history[changes.pop()[1]].pop()
        for timer in [timer for timer, event in self._fired.items() if event >= length]:
            del self._fired[timer]

    def after(self, event: int, born: list[Waitable], touched: Iterable[tuple[Cell, int]], *, clock: bool) -> None:
        """Keep the states after *event*, in which the objects in *born* were made; *clock* if it was the clock's."""
        for one in born:
            if one.guards:
                self._keep(event, one, one.guards)
        for cell, mode in touched:
            if isinstance(cell, Waitable):
                # Also what was only read: some changes are of no concern to anybody until something else happens.
                if cell.guards:
                    self._keep(event, cell, cell.guards)
            elif clock and mode and isinstance(cell, Timer):
                self._fired[self._number(cell)] = event

    def _keep(self, event: int, guard: Waitable, names: tuple[str, ...]) -> None:
        number = self._number(guard)
        history = self._history.setdefault(number, [])
        state = tuple([_value(getattr(guard, name)) for name in names])
        if history and history[-1][0] == event:
            history[-1] = (event, state)
        elif not history or history[-1][1] != state:
            history.append((event, state))
            self._changes.append((event, number))

    def allowed(self, wait: Wait, before: int, others: int) -> bool | None:
        """Whether the operation could have gone on before event number *before*, with the *others* done as well.

        None if the objects do not say what it depends on.
        """
        if wait.op.timeout == 0:
            return True
        if wait.op.opaque:
            return None
        if wait.timer is not None:
            fired = self._fired.get(self._number(wait.timer))
            if fired is not None and (fired < before or others >> fired & 1):
                return True
        now: list[tuple[Waitable, tuple[str, ...], State]] = []
        for guard in wait.op.sources:
            if guard.guards is None:
                return None
            now.append((guard, guard.guards, tuple([getattr(guard, name) for name in guard.guards])))
        try:
            for guard, names, _ in now:
                history = self._history.get(self._number(guard))
                if history:
                    _assume(guard, names, _then(history, before, others))
            return wait.op.available(wait.thread)
        finally:
            for guard, names, state in now:
                _assume(guard, names, state)


def _then(history: list[tuple[int, State]], before: int, others: int) -> State:
    for event, state in reversed(history):
        if event < before or others >> event & 1:
            return state
    return history[0][1]


def _value(value: Any) -> Any:
    """What an operation may want to know of *value*: what it is if it is plain, else how many there are, or that there
    is something.
    """
    if value is None or isinstance(value, int | str | tuple):
        return cast("object", value)
    return range(len(cast("list[object]", value))) if isinstance(value, list | deque) else SOMETHING


def _assume(guard: Waitable, names: tuple[str, ...], state: State) -> None:
    for name, value in zip(names, state, strict=True):
        setattr(guard, name, value)
