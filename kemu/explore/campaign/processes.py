"""A crew of processes on this machine. Each has an executor of its own, so that it is known whose worker died."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any, Final

from kemu.errors import WorkerDied
from kemu.explore.campaign.batch import BatchResult, Key, Task, failed, perform
from kemu.explore.campaign.crew import PATIENCE, Stop

STOP: Final = 0
MADE: Final = 1
"""What the two numbers that a process shares with its worker say: whether to stop, and how many runs are made."""

_board: Any = (0, 0)
"""The two numbers, in a worker."""


def _begin(board: Any) -> None:
    """Get a worker ready."""
    global _board
    _board = board
    # The terminal sends Ctrl-C to every process; it is for the one that can report what was found.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_outlive_nobody, name="kemu-parent", daemon=True).start()


def _outlive_nobody() -> None:
    """End with the process that started this one, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(task: Task) -> BatchResult:
    board = _board
    made = 0

    def stop() -> bool:
        nonlocal made
        made += 1
        board[MADE] = made
        return bool(board[STOP])

    return perform(task, stop)


class _Worker:
    """One process, and the task that it does. The process is started with the first task, and again if it died."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._executor: ProcessPoolExecutor | None = None
        self._processes: list[BaseProcess] = []
        self.board: Any = self._context.RawArray("q", 2)
        self.task: Task | None = None
        self.future: Future[BatchResult] | None = None
        self._again = False

    def submit(self, task: Task) -> None:
        self.task = task
        self._again = False
        self._start(task)

    def _start(self, task: Task) -> None:
        if self._executor is not None:
            self._clear()
            try:
                self.future = self._executor.submit(_work, task)
            except BrokenProcessPool:
                # It died while it had nothing to do.
                self.close(at_once=True)
            else:
                return
        self._clear()
        self._executor = ProcessPoolExecutor(1, mp_context=self._context, initializer=_begin, initargs=(self.board,))
        before = multiprocessing.active_children()
        with _no_interrupts():
            self.future = self._executor.submit(_work, task)
        self._processes = [one for one in multiprocessing.active_children() if one not in before]

    def _clear(self) -> None:
        self.board[STOP] = self.board[MADE] = 0

    def result(self) -> BatchResult | None:
        """What came of the task, which has been done; None if it has to be done once more."""
        assert self.future is not None
        assert self.task is not None
        try:
            result = self.future.result()
        except BrokenProcessPool:
            self.close(at_once=True)
            if not self._again:
                self._again = True
                self._start(self.task)
                return None
            result = failed(WorkerDied(self.task.describe()))
        self.future = None
        return result

    def close(self, *, at_once: bool) -> None:
        if self._executor is None:
            return
        self.board[STOP] = 1
        if at_once:
            for process in self._processes:
                process.kill()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = self.future = None


@contextmanager
def _no_interrupts() -> Generator[None]:
    """A process that is started within the block never hears of Ctrl-C, not even before it can say so itself."""
    if not hasattr(signal, "pthread_sigmask"):  # pragma: no cover - Windows has no such thing
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Processes:
    """The crew."""

    def __init__(self, number: int) -> None:
        self._workers = [_Worker() for _ in range(number)]

    @property
    def idle(self) -> int:
        return sum(worker.future is None for worker in self._workers)

    @property
    def busy(self) -> int:
        return len(self._workers) - self.idle

    def submit(self, task: Task) -> None:
        next(worker for worker in self._workers if worker.future is None).submit(task)

    def wait(self, stop: Stop) -> list[tuple[Task, BatchResult]]:
        futures = {worker.future: worker for worker in self._workers if worker.future is not None}
        done, _ = wait(futures, PATIENCE, FIRST_COMPLETED)
        results: list[tuple[Task, BatchResult]] = []
        for worker in self._workers:
            if worker.future in done:
                task, result = worker.task, worker.result()
                if result is not None and task is not None:
                    results.append((task, result))
        return results

    def made(self) -> int:
        return sum(int(worker.board[MADE]) for worker in self._workers if worker.future is not None)

    def stop_all(self, after: Key | None = None) -> None:
        for worker in self._workers:
            task = worker.task
            if worker.future is not None and task is not None and (after is None or task.batch.key > after):
                worker.board[STOP] = 1

    def close(self, *, at_once: bool = False) -> None:
        for worker in self._workers:
            worker.close(at_once=at_once)
