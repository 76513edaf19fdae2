"""Who does the batches: a crew. This one is the process itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from kemu.explore.campaign.batch import BatchResult, Key, Task, perform

Stop = Callable[[], bool]

PATIENCE: Final = 0.1
"""Seconds after which whoever waits is told that nothing has come."""


class Crew(Protocol):
    """Does tasks, several at a time perhaps. After `stop_all` and once `busy` is 0, it can be used again."""

    @property
    def idle(self) -> int:
        """How many tasks may be handed in now."""
        ...

    @property
    def busy(self) -> int:
        """How many are being done."""
        ...

    def submit(self, task: Task) -> None:
        """Have *task* done."""
        ...

    def wait(self, stop: Stop) -> list[tuple[Task, BatchResult]]:
        """The tasks that have been done, perhaps none. A crew that works in this process asks *stop* meanwhile.

        A task whose worker died is done once more, and then has `WorkerDied` as its result's error.
        """
        ...

    def made(self) -> int:
        """The runs that have been made of tasks that are being done."""
        ...

    def stop_all(self, after: Key | None = None) -> None:
        """Have the tasks that are being done end with the current run: all, or those with a key above *after*."""
        ...

    def close(self, *, at_once: bool = False) -> None:
        """Send everybody home; *at_once*, whatever they do."""
        ...


class Alone:
    """The crew of one that is this process."""

    def __init__(self) -> None:
        self._task: Task | None = None
        self._stopped = False

    @property
    def idle(self) -> int:
        return int(self._task is None)

    @property
    def busy(self) -> int:
        return int(self._task is not None)

    def submit(self, task: Task) -> None:
        self._task = task
        self._stopped = False

    def wait(self, stop: Stop) -> list[tuple[Task, BatchResult]]:
        task, self._task = self._task, None
        assert task is not None
        return [(task, perform(task, lambda: self._stopped or stop()))]

    def made(self) -> int:
        return 0

    def stop_all(self, after: Key | None = None) -> None:
        self._stopped = True

    def close(self, *, at_once: bool = False) -> None:
        """Nothing: nobody was hired."""
