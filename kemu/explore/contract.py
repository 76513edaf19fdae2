"""What every strategy promises, checked: for authors of strategies."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kemu.errors import KemuError, UsageError
from kemu.explore import exercise
from kemu.explore.strategies.base import observer_of
from kemu.explore.strategies.dfs import BoundedDFS
from kemu.explore.strategies.replay import replay

if TYPE_CHECKING:
    from kemu.explore.exercise import Exercise
    from kemu.explore.strategies.base import Strategy
    from kemu.runtime import DecisionPoint, Outcome, Thread

RUNS: Final = 60
"""Runs of each program for the promises that every run has to keep."""

SUPPORT: Final = 4_000
"""Runs in which a strategy that can make every run has to have made each of the few dozen of a small program."""

HOW: Final = "see docs/how-to/write-a-strategy.md"


class _Point:
    """What a strategy may look at, and nothing else."""

    def __init__(self, point: DecisionPoint) -> None:
        self._point = point

    @property
    def ready(self) -> list[Thread]:
        return self._point.ready

    @property
    def index(self) -> int:
        return self._point.index

    @property
    def running(self) -> Thread | None:
        return self._point.running

    @property
    def clock_is_enabled(self) -> bool:
        return self._point.clock_is_enabled


class _Watched:
    """Passes questions on to a strategy and looks at what it does. The first thing that is wrong is kept in `wrong`."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.wrong = ""

    def begin(self) -> bool:
        return self.strategy.begin()

    def pick(self, n: int, point: DecisionPoint) -> int:
        before = [*point.ready]
        value = self._asked("pick", n, lambda: self.strategy.pick(n, _Point(point)))
        if before != point.ready:
            self._note("pick changes point.ready, which it may only look at")
            point.ready[:] = before
        return value

    def choose(self, n: int, label: str) -> int:
        return self._asked("choose", n, lambda: self.strategy.choose(n, label))

    def _asked(self, what: str, n: int, ask: Callable[[], Any]) -> int:
        try:
            value = ask()
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            hint = ""
            if isinstance(error, AttributeError) and isinstance(error.obj, _Point):
                hint = "; of a decision it may look at ready, index, running and clock_is_enabled"
            self._note(f"{what} raises {type(error).__name__}: {error}{hint}")
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < n:
            self._note(f"{what} returns {value!r} where there are {n} alternatives, 0 to {n - 1}")
            return 0
        return value

    def _note(self, what: str) -> None:
        self.wrong = self.wrong or what


def check_strategy(make_strategy: Callable[[int], Strategy], *, fair: bool = True) -> tuple[str, ...]:
    """Try a strategy on small programs, and return the promises that it has kept, in words.

    *make_strategy* makes a new one from a seed. With *fair* False it need not get away from a thread that spins, as
    an exhaustive search does not. Raises `UsageError`, saying what is wrong, for the first promise that is broken.
    """
    strategy = make_strategy(1)
    name = _attributes(strategy)
    kept: list[str] = []

    def keep(promise: str, wrong: str) -> None:
        if wrong:
            raise UsageError(f"the strategy {name}: {wrong}", remedy=HOW)
        kept.append(promise)

    programs = [
        exercise.alone(),
        exercise.counters(),
        exercise.deadlock(),
        exercise.questions(),
        exercise.family(),
    ]
    keep("keeps to the alternatives and only looks", _first(_stays_in_range(make_strategy, one) for one in programs))
    keep("ends for good when nothing is left", _first(_ends_for_good(make_strategy(1), one) for one in programs))
    keep("makes the same runs from the same seed", _first(_repeats(make_strategy, one) for one in programs))
    keep("does not look at what cells hold", _blind(make_strategy))
    keep("makes runs that can be replayed", _first(_replays(make_strategy(2), one) for one in programs))
    if getattr(strategy, "sampler", None) is not None:
        keep("can make every run", _full_support(make_strategy))
    if fair:
        keep("gets away from a thread that spins", _fair(make_strategy))
    return tuple(kept)


def _attributes(strategy: Strategy) -> str:
    for what, kinds, words in (
        ("name", (str,), "a text"),
        ("seed", (int, type(None)), "a number or None"),
        ("completed", (int, type(None)), "a number or None"),
    ):
        value = getattr(strategy, what, ...)
        if not isinstance(value, kinds) or value == "":
            shown = "nothing" if value is ... else repr(value)
            raise UsageError(f"a strategy's {what} has to be {words}, and is {shown}", remedy=HOW)
    return strategy.name


def _first(results: Any) -> str:
    return next((wrong for wrong in results if wrong), "")


def _runs(strategy: Strategy, program: Exercise, count: int) -> list[Outcome]:
    """The outcomes of at most *count* runs."""
    outcomes: list[Outcome] = []
    for _ in range(count):
        if not strategy.begin():
            break
        outcome = program.run(strategy, observer_of(strategy))
        strategy.end(outcome)
        outcomes.append(outcome)
    return outcomes


def _stays_in_range(make_strategy: Callable[[int], Strategy], program: Exercise) -> str:
    for seed in (1, 2):
        watched = _Watched(make_strategy(seed))
        for _ in range(RUNS):
            begun: Any = watched.begin()
            if begun is not True and begun is not False:
                return f"begin returns {begun!r}; it has to return True or False"
            if not begun:
                break
            outcome = program.run(watched, observer_of(watched.strategy))
            if watched.wrong:
                return f"{watched.wrong} (seed {seed}, program: {program.name})"
            watched.strategy.end(outcome)
    return ""


def _ends_for_good(strategy: Strategy, program: Exercise) -> str:
    for _ in range(RUNS):
        if not strategy.begin():
            return f"begin returns False and then True (program: {program.name})" if strategy.begin() else ""
        # Without `end`: a run that raised has none.
        program.run(strategy, observer_of(strategy))
    return ""


def _repeats(make_strategy: Callable[[int], Strategy], program: Exercise) -> str:
    runs: list[list[list[int]]] = []
    state = random.getstate()
    try:
        for other in (1, 2):
            # The generator that everybody shares may not matter.
            random.seed(other)
            runs.append([outcome.choices for outcome in _runs(make_strategy(3), program, RUNS)])
    finally:
        random.setstate(state)
    for number, (one, two) in enumerate(zip(*runs, strict=False)):
        if one != two:
            return f"run {number} with seed 3 is {one} and then {two}, with the same seed (program: {program.name})"
    if len(runs[0]) != len(runs[1]):
        return f"it makes {len(runs[0])} runs and then {len(runs[1])} with the same seed (program: {program.name})"
    return ""


def _blind(make_strategy: Callable[[int], Strategy]) -> str:
    plain, other = (
        [outcome.choices for outcome in _runs(make_strategy(4), exercise.counters(first), RUNS)] for first in (0, 1_000)
    )
    return "" if plain == other else "its runs depend on the value of a variable, which it may not look at"


def _replays(strategy: Strategy, program: Exercise) -> str:
    for outcome in _runs(strategy, program, RUNS):
        if outcome.end == "abandoned":
            continue
        try:
            again = replay(program, outcome.choices, complete=True)
        except KemuError as error:
            return f"a run of it cannot be replayed: {error} (program: {program.name})"
        if again.fingerprint != outcome.fingerprint:
            return f"the replay of a run of it is another run (program: {program.name})"
    return ""


def _full_support(make_strategy: Callable[[int], Strategy]) -> str:
    program = exercise.counters()
    everything = {outcome.fingerprint for outcome in _runs(BoundedDFS(None), program, 1 << 20)}
    made = {outcome.fingerprint for outcome in _runs(make_strategy(5), program, SUPPORT)}
    if made == everything:
        return ""
    return (
        f"it says that it can make every run, but {SUPPORT:,} runs show {len(made)} of the {len(everything)} different"
        f" ones there are (program: {program.name})"
    )


def _fair(make_strategy: Callable[[int], Strategy]) -> str:
    program = exercise.spinner()
    for number, outcome in enumerate(_runs(make_strategy(6), program, RUNS // 2)):
        if outcome.failure is not None:
            return (
                f"run {number} has not ended after {exercise.MAX_STEPS:,} steps: it lets a thread spin for ever while"
                " the one that would stop it can go on"
            )
    return ""
