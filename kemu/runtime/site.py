"""The user's line at which something happens, noted cheaply and put into words only if somebody asks.

Every access to a driver's state may turn out to be half of a race, and hardly any does. What is noted is therefore
the raw pair of code and instruction; the line is looked up when a race is reported.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Final

from kemu.runtime.foreign import is_library_file, suspended_calls

if TYPE_CHECKING:
    from kemu.runtime.thread import Thread

Site = tuple[CodeType, int, bool]
"""Code, and an instruction of it; if the third is true, a line of it."""

USERS: Final = 0
LIBRARY: Final = 1
SCHEDULER: Final = 2
"""Below a frame of these files there is whoever runs the exploration, and nothing of the thread."""

_SCHEDULERS: Final = tuple(str(Path(__file__).with_name(name)) for name in ("controlled.py", "live.py"))
_kinds: dict[str, int] = {}
"""Whose each file is. There are as many as files of source, and asking every time would cost more than the rest."""


def kind_of(file: str) -> int:
    """Whose *file* is."""
    kind = _kinds.get(file)
    if kind is None:
        kind = SCHEDULER if file in _SCHEDULERS else LIBRARY if is_library_file(file) else USERS
        _kinds[file] = kind
    return kind


def here(thread: Thread) -> Site | None:
    """The innermost line of the user's that is being carried out on *thread*, the running one.

    While the thread performs an operation its own code is suspended; then that is the line that awaits. None if the
    thread is in nobody's code but kemu's.
    """
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        code = frame.f_code
        kind = _kinds.get(code.co_filename)
        if kind is None:
            kind = kind_of(code.co_filename)
        if kind == USERS:
            return code, frame.f_lasti, False
        if kind == SCHEDULER:
            break
        frame = frame.f_back
    found: Site | None = None
    for code, _, line in suspended_calls(thread.coroutine):
        if kind_of(code.co_filename) == USERS:
            found = (code, line, True)
    return found


def line_of(site: Site) -> int:
    """The line of *site*, counted from 1."""
    code, place, is_line = site
    if is_line:
        return place
    for start, end, line in code.co_lines():
        if start <= place < end and line is not None:
            return line
    return code.co_firstlineno
