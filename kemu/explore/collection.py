"""Garbage collection during an exploration: worlds are cyclic, and there are very many of them."""

from __future__ import annotations

import gc
from types import TracebackType
from typing import Final

RUNS_A_BATCH: Final = 256
STEPS_A_BATCH: Final = 100_000

INTERPRETERS_OWN: Final = 1_000
"""At most so many frozen objects are the interpreter's: CPython 3.12 starts with some hundreds, which may thaw."""


class BatchedCollection:
    """Collects between batches of runs and never in one; within a ``with``, of which it restores the
    settings.

    After the first run, when scenario and drivers are loaded, everything that lives is frozen: a collection
    then looks at what the runs left behind alone. If the host has frozen objects itself, nothing is frozen
    here, because thawing could not tell them apart.
    """

    def __init__(self) -> None:
        self._was_enabled = False
        self._froze = False
        self._runs = 0
        self._steps = 0
        self._first = True

    def __enter__(self) -> BatchedCollection:
        self._was_enabled = gc.isenabled()
        gc.disable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._froze:
            gc.unfreeze()
        if self._was_enabled:
            gc.enable()

    def after_run(self, steps: int) -> None:
        """A run of that many steps is over; collect if the batch is."""
        self._runs += 1
        self._steps += steps
        if self._first:
            self._first = False
            if gc.get_freeze_count() < INTERPRETERS_OWN:
                gc.freeze()
                self._froze = True
        elif self._runs >= RUNS_A_BATCH or self._steps >= STEPS_A_BATCH:
            self._runs = self._steps = 0
            gc.collect()
