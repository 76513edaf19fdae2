"""Where in the user's code a thread stands."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from gc import get_referents
from pathlib import Path
from types import AsyncGeneratorType, CodeType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kemu.runtime import Thread

KEMU: Final = str(Path(__file__).resolve().parent.parent)
LIBRARIES: Final = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
DEEPEST: Final = 1_000
"""Levels of awaits that are looked at; driver code that awaits more deeply than this has lost its way."""


@dataclass(frozen=True, slots=True)
class Place:
    """A line of source. `line` counts from 1."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def where(thread: Thread) -> Place | None:
    """The line of the user's code at which *thread* is suspended: the innermost one that is not kemu's.

    None if there is no such line: the thread runs kemu's code alone, has ended, or was taken apart.
    """
    found: Place | None = None
    awaited: Any = thread.coroutine
    for _ in range(DEEPEST):
        if awaited is None:
            break
        # A coroutine, a generator and an asynchronous generator differ in the first two letters of their names.
        for kind, following in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            code = getattr(awaited, f"{kind}_code", None)
            if isinstance(code, CodeType):
                frame = getattr(awaited, f"{kind}_frame", None)
                if frame is not None and is_users(code.co_filename):
                    found = Place(code.co_filename, frame.f_lineno or code.co_firstlineno, code.co_qualname)
                awaited = getattr(awaited, f"{kind}_{following}", None)
                break
        else:
            awaited = _wrapped(awaited)
    return found


def _wrapped(awaited: object) -> object | None:
    """What has a frame behind *awaited*, which has none, such as a step of an asynchronous generator."""
    # There is no attribute for it, but the garbage collector has to know.
    wrapped = (CoroutineType, GeneratorType, AsyncGeneratorType)
    behind: list[object] = get_referents(awaited)
    return next((one for one in behind if type(one) in wrapped), None)


def is_users(file: str) -> bool:
    """Whether *file* is neither kemu's nor the standard library's."""
    if file.startswith("<") or _below(file, KEMU):
        return False
    return "site-packages" in file or not any(_below(file, library) for library in LIBRARIES)


def _below(file: str, folder: str) -> bool:
    return file.startswith(folder) and file[len(folder) : len(folder) + 1] in ("/", "\\")
