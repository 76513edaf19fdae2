"""Ctrl-C: the first one asks the exploration to stop between two runs, the second stops it where it is.

An interrupt that is raised inside a run passes through the driver's code, which could swallow it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

import click


class Interrupts:
    """Whether the user has asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked


@contextmanager
def gentle_interrupts(warn: Callable[[str], None] | None = None) -> Generator[Interrupts]:
    """Within the block, the first Ctrl-C only sets a flag. Outside the main thread nothing changes."""
    state = Interrupts()

    def handle(number: int, frame: FrameType | None) -> None:
        if state.asked:
            raise KeyboardInterrupt
        state.asked = True
        if warn is not None:
            warn("kemu: stopping after this run; Ctrl-C once more stops at once")

    if threading.current_thread() is not threading.main_thread():
        yield state
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield state
    finally:
        signal.signal(signal.SIGINT, before)


def say(line: str) -> None:
    """Tell the user on stderr that the interrupt was heard."""
    click.echo(f"\n{line}", err=True)
