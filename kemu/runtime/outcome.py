"""What came of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from kemu.runtime.thread import Thread

End = Literal["finished", "stopped", "stuck", "step-limit", "abandoned"]
"""How a run ended; *abandoned* if the oracle had no use for the rest of it."""


class Failure(Protocol):
    """A reason to stop a run. Two failures with one signature are the same bug seen twice."""

    @property
    def signature(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Blocked:
    """A thread that cannot go on: what it waits for and which threads would have to act."""

    thread: str
    waits_for: str
    holders: tuple[str, ...]
    actors: tuple[str, ...]
    service: bool

    def __str__(self) -> str:
        if not self.holders:
            return f"{self.thread} waits to {self.waits_for}, which nobody will bring about"
        return f"{self.thread} waits to {self.waits_for}, held by {' and '.join(self.holders)}"


@dataclass(frozen=True, slots=True)
class Stuck:
    """Why nothing can go on: the blocked threads, and the cycle among them if there is one."""

    blocked: tuple[Blocked, ...]
    cycle: tuple[str, ...]

    @property
    def is_deadlock(self) -> bool:
        """Whether threads wait for each other in a cycle. Otherwise it is a hang."""
        return bool(self.cycle)


@dataclass(slots=True)
class Outcome:
    """The result of one run.

    `choices` is the whole run: with the same program it leads to the same outcome on every machine.
    """

    end: End = "finished"
    choices: list[int] = field(default_factory=list[int])
    fingerprint: int = 0
    steps: int = 0
    failure: Any = None
    stuck: Stuck | None = None
    crash: BaseException | None = None
    result: Any = None
    advisories: list[Any] = field(default_factory=list[Any])
    """Warnings: what is wrong with the program without being a failure of this run."""
    named: dict[str, str] = field(default_factory=dict[str, str])
    """What the program says the run came to, as texts under names."""
    swallowed: tuple[str, ...] = ()
    """Threads whose code swallowed the end of the run three times and was abandoned."""


def explain_stuck(threads: list[Thread]) -> Stuck | None:
    """Describe why *threads*, none of which can go on, are stuck; None if only idle services are left."""
    from kemu.runtime.operation import BlockingOperation

    blocked: list[Blocked] = []
    waits: dict[Path, tuple[Path, ...]] = {}
    for thread in threads:
        op = thread.op
        if not isinstance(op, BlockingOperation):
            continue
        if thread.service and op.idle:
            continue
        holders = {holder.path: holder.label for holder in op.holders() if holder.alive}
        # By path: labels are for people, and two threads may have the same.
        waits[thread.path] = tuple(holders)
        actors = tuple(actor.label for actor in thread.actors)
        blocked.append(Blocked(thread.label, op.describe(), tuple(holders.values()), actors, thread.service))
    if not blocked:
        return None
    labels = {thread.path: thread.label for thread in threads}
    return Stuck(tuple(blocked), tuple(labels[path] for path in find_cycle(waits)))


Path = tuple[int, ...]


def find_cycle(waits: dict[Path, tuple[Path, ...]]) -> tuple[Path, ...]:
    """Return one cycle of the wait-for graph, starting at its first member in *waits*' order, or ()."""
    finished: set[Path] = set()
    for start in waits:
        path: list[Path] = []
        todo: list[tuple[Path, int]] = [(start, 0)]
        while todo:
            node, at = todo.pop()
            if at == 0:
                if node in path:
                    return tuple(path[path.index(node) :])
                if node in finished or node not in waits:
                    continue
                path.append(node)
            if at < len(waits[node]):
                todo.append((node, at + 1))
                todo.append((waits[node][at], 0))
            else:
                finished.add(node)
                path.pop()
    return ()
