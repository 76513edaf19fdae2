"""``TARGET[@STEP]``: a scenario or a recorded run, and the step after which it is looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kemu.cli.targets import Program, choices_of, select_one
from kemu.errors import UsageError
from kemu.explore import Replay
from kemu.log import read_trace
from kemu.runtime import Runtime
from kemu.views.moment import count_steps, look_at

T = TypeVar("T")


class Watched:
    """A run that can be looked at after any of its steps: each look makes it once more, from the beginning."""

    def __init__(self, program: Program, choices: tuple[int, ...]) -> None:
        self.program = program
        self.choices = choices
        self.steps = count_steps(program, self.oracle())
        """How many steps the run completes."""

    def oracle(self) -> Replay:
        """Decides as the run is recorded."""
        return Replay(self.choices)

    def look(self, step: int, look: Callable[[Runtime], T]) -> T:
        """What *look* makes of the run after *step*. Raises `UsageError` if there is no such step."""
        if not 0 <= step < self.steps:
            raise UsageError(
                f"{self.program.name} has no step {step} in this run",
                remedy=f"give one from 0 to {self.steps - 1}",
            )
        while True:
            seen = look_at(self.program, self.oracle(), step, look)
            if seen is not None:
                return seen
            # The last steps were of the clock alone.
            step -= 1


def watched(text: str, *, token: str | None = None, variant: str | None = None) -> tuple[Watched, int]:
    """The run that ``TARGET[@STEP]`` means, and the step: the last complete one unless it is given.

    TARGET is the file of a trace, or a scenario, which runs as *token* says, or plainly.
    """
    target, step = _split(text)
    path = Path(target)
    if path.is_file() and path.suffix != ".py":
        if token is not None or variant is not None:
            raise UsageError(f"{target} is a recorded run, which says how it went", remedy="leave the option out")
        header = read_trace(path).header
        scenario, token = header.get("scenario"), header.get("token")
        if not isinstance(scenario, str) or not isinstance(token, str):
            raise UsageError(
                f"{target} does not say which run it is: it was recorded live, or the header is damaged",
                remedy="record a controlled run with kemu run or kemu replay and -o DIR",
            )
        program = select_one(scenario, None)
    else:
        program = select_one(target, variant)
    run = Watched(program, () if token is None else choices_of(token, program))
    return run, run.steps - 1 if step is None else step


def _split(text: str) -> tuple[str, int | None]:
    target, at, step = text.rpartition("@")
    if not at:
        return text, None
    if not step.isdecimal():
        raise UsageError(f"{step!r} in {text!r} is no step", remedy="write TARGET@STEP, with a number from 0")
    return target, int(step)
