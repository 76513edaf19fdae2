"""Static checks of a scenario file: what C's compiler, and a careful reader, would say before anything runs.

Each check is a function of a source file that finds problems, in a file of its own. What cannot be meant like
this is refused; what is merely suspicious is a warning. The loader calls `check_source`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from kemu.errors import DriverSourceError
from kemu.scenario.check_awaits import check_awaits
from kemu.scenario.check_clock import check_clock
from kemu.scenario.check_except import check_handlers
from kemu.scenario.check_names import Problem, SourceFile
from kemu.scenario.check_returns import check_returns
from kemu.scenario.check_state import check_state
from kemu.scenario.check_status import check_statuses

CHECKS: Final[tuple[Callable[[SourceFile], Iterator[Problem]], ...]] = (
    check_awaits,
    check_returns,
    check_statuses,
    check_handlers,
    check_state,
    check_clock,
)


@dataclass(frozen=True, slots=True)
class SourceWarning:
    """Something suspicious in a file; ``line`` from 1. ``str()`` is one line, as of a compiler's message."""

    path: str
    line: int
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}; {self.remedy}"


def check_source(source: SourceFile) -> list[SourceWarning]:
    """Check one file and return the warnings, by line.

    Raises `DriverSourceError` for the first line that cannot be meant like this.
    """
    # A dictionary drops what two ways to the same place have found twice.
    problems = list(dict.fromkeys(problem for check in CHECKS for problem in check(source)))
    problems.sort(key=lambda problem: problem.line)
    for problem in problems:
        if problem.refused:
            raise DriverSourceError(problem.text, source.path, problem.line, remedy=problem.remedy)
    return [SourceWarning(source.path, problem.line, problem.text, problem.remedy) for problem in problems]
