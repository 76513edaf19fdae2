"""A crew on several machines: the workers of a dask scheduler. Needs the extra ``cluster``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass
from typing import Any, Final

from kemu.errors import KemuError, UsageError, WorkerDied
from kemu.explore.campaign.batch import BatchResult, Key, Loader, Task, failed, find, perform
from kemu.explore.campaign.crew import PATIENCE, Stop
from kemu.explore.campaign.version import code_digest, kemu_version, python_version

CONNECTING: Final = 10.0
"""Seconds to wait for the scheduler."""
AHEAD: Final = 2
"""Tasks handed in for each worker: one that it does, and one for when that is done."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a process says of itself."""

    kemu: str
    python: str
    code: str
    error: KemuError | None = None
    """Why it cannot load the programs."""

    def difference(self, ours: Probe) -> str:
        """The first difference from *ours*, in words; empty if there is none."""
        if self.kemu != ours.kemu:
            return f"has kemu {self.kemu}, and this is {ours.kemu}"
        if self.python != ours.python:
            return f"runs Python {self.python}, and this is {ours.python}"
        if self.code != ours.code:
            return f"has other source files of kemu {self.kemu} ({self.code[:8]}, and here {ours.code[:8]})"
        return "" if self.error is None else f"cannot run what is to be explored: {self.error}"


def probe(programs: Sequence[tuple[Loader, str]]) -> Probe:
    """What this process is, and whether it loads *programs*, each a loader with the identity that is expected."""
    error: KemuError | None = None
    try:
        for load, identity in programs:
            find(load, identity)
    except KemuError as raised:
        error = raised
    return Probe(kemu_version(), python_version(), code_digest(), error)


class Cluster:
    """The crew."""

    def __init__(self, address: str, programs: Sequence[tuple[Loader, str]]) -> None:
        """Connect to the scheduler, and ask every worker what it runs. Raises `UsageError` if that will not do."""
        self._address = address
        self._tasks: dict[Future[BatchResult], Task] = {}
        self._distributed = _distributed()
        try:
            self._client: Any = self._distributed.Client(address, timeout=CONNECTING, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(
                f"there is no dask scheduler at {address}: {error}",
                remedy="give the address that dask scheduler prints, such as tcp://host:8786",
            ) from None
        try:
            self._workers = self._ask(programs)
        except BaseException:
            self.close()
            raise
        self._executor: Any = self._client.get_executor(pure=False)

    def _ask(self, programs: Sequence[tuple[Loader, str]]) -> int:
        answers: dict[str, Any] = self._client.run(probe, programs, on_error="return")
        if not answers:
            raise UsageError(
                f"the cluster at {self._address} has no workers", remedy=f"start one: dask worker {self._address}"
            )
        ours = Probe(kemu_version(), python_version(), code_digest())
        for worker, answer in sorted(answers.items()):
            wrong = f"cannot run kemu: {answer!r}"
            if isinstance(answer, Probe):
                wrong = answer.difference(ours)
            if wrong:
                raise UsageError(
                    f"the worker {worker} {wrong}",
                    remedy="install the same kemu and Python on every machine, and give it the same scenario files",
                )
        return len(answers)

    @property
    def idle(self) -> int:
        return max(0, AHEAD * self._workers - len(self._tasks))

    @property
    def busy(self) -> int:
        return len(self._tasks)

    def submit(self, task: Task) -> None:
        self._tasks[self._executor.submit(perform, task)] = task

    def wait(self, stop: Stop) -> list[tuple[Task, BatchResult]]:
        done, _ = wait(self._tasks, PATIENCE, FIRST_COMPLETED)
        finished = [(future, task) for future, task in self._tasks.items() if future in done]
        for future, _ in finished:
            del self._tasks[future]
        return [(task, self._result(future, task)) for future, task in finished]

    def _result(self, future: Future[BatchResult], task: Task) -> BatchResult:
        try:
            return future.result()
        except self._distributed.KilledWorker:
            return failed(WorkerDied(task.describe()))
        except CancelledError:
            return failed(
                UsageError(
                    f"the cluster at {self._address} is gone; it was to make {task.describe()}",
                    remedy="start it again; with --campaign, an exploration goes on from where it was",
                )
            )

    def made(self) -> int:
        return 0

    def stop_all(self, after: Key | None = None) -> None:
        # What runs cannot be reached. It ends by itself, in a second or so; what is of no use is not waited for.
        for future, task in list(self._tasks.items()):
            if after is not None and task.batch.key > after:
                del self._tasks[future]
                future.cancel()

    def close(self, *, at_once: bool = False) -> None:
        self._tasks.clear()
        self._client.close()


def _distributed() -> Any:
    """The library, or the line that installs it."""
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise UsageError(
            f"--cluster needs dask.distributed, which cannot be imported: {error}",
            remedy='install it: pip install "kemu[cluster]"',
        ) from None
