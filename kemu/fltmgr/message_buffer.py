"""The buffers that a message routine gets: a program's memory, as it is (FLT-PORT-13).

The filter manager has probed them and nothing else. They mean something on the calling thread, as long as the routine
runs, and every access may raise, so that it belongs where exceptions are handled. Whether it does is read from the
driver's source: the statement stands in a ``try`` with handlers, or a call that it is part of does.
"""

from __future__ import annotations

import ast
import linecache
import sys
from functools import lru_cache
from types import FrameType
from typing import Final

from kemu.nt.driver import DriverActor, in_driver
from kemu.nt.kthread import KThread
from kemu.nt.structure import READ, WRITE
from kemu.nt.system import report
from kemu.nt.usermemory import UserBuffer
from kemu.runtime.foreign import is_library_file

_IN_DRIVER: Final = in_driver.__code__


class MessageCall:
    """One call of a message routine, and what of its buffers it may do."""

    __slots__ = ("driver", "over", "thread")

    def __init__(self, thread: KThread, driver: DriverActor) -> None:
        self.thread = thread
        self.driver = driver
        self.over = False

    def lend(self, buffer: UserBuffer, length: int, access: int) -> None:
        """Pass *length* bytes of *buffer* to the driver, probed for *access*."""
        buffer.guard = self.check
        for how in (READ, WRITE)[: access + 1]:
            buffer.probed.append((self.thread, self.driver, how, (0, length)))

    def check(self, thread: KThread) -> None:
        """Look at an access of the driver's."""
        if self.over or thread is not self.thread:
            when = "after the routine has returned" if self.over else "on another thread than the routine's"
            report(
                "port-raw-buffer",
                f"{thread.label} accesses a buffer of the message routine {when}: it is the program's",
            )
        elif not handles_exceptions():
            report(
                "port-raw-buffer",
                f"{thread.label} accesses a buffer of the message routine where no exception is handled: the program "
                "may have freed it",
            )


def handles_exceptions() -> bool:
    """Whether the driver's code that is running handles exceptions, as far as its source tells."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_code is not _IN_DRIVER:
        name = frame.f_code.co_filename
        if not is_library_file(name):
            ranges = _handled(name)
            if ranges is None or any(first <= frame.f_lineno <= last for first, last in ranges):
                return True
        frame = frame.f_back
    return False


@lru_cache(maxsize=256)
def _handled(filename: str) -> tuple[tuple[int, int], ...] | None:
    """The lines of *filename* that stand in a ``try`` with handlers; None if there is no source."""
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except SyntaxError:
        return None
    tries = [node for node in ast.walk(tree) if isinstance(node, ast.Try) and node.handlers]
    return tuple((node.body[0].lineno, node.body[-1].end_lineno or node.body[-1].lineno) for node in tries)
