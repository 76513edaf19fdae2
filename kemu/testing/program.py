"""A test as a program: what the decorated function, its fixtures and its file make together."""

from __future__ import annotations

import hashlib
import inspect
import linecache
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from kemu import __version__
from kemu.errors import DriverSourceError, KemuError
from kemu.nt.driver import Driver
from kemu.runtime import Outcome
from kemu.runtime.foreign import is_kemu_file, is_library_file
from kemu.runtime.live import leaves
from kemu.scenario.check import CHECKS, SourceWarning
from kemu.scenario.check_state import check_state
from kemu.scenario.declare import DEFAULT_VARIANT, Scenario
from kemu.scenario.loader import LoadedFile, read_source
from kemu.scenario.program import ScenarioProgram

if TYPE_CHECKING:
    from kemu.scenario.world import World
    from kemu.verifier.finding import Finding


@dataclass(frozen=True, slots=True)
class Identity:
    """Where a test stands."""

    name: str
    """As pytest names it from its root directory: ``tests/test_x.py::test_y[parameter]``."""
    path: Path


def program_of(
    identity: Identity, scenario: Scenario, test: Callable[..., Any], arguments: tuple[Any, ...], fixtures: Any
) -> TestedProgram:
    """The program that runs *test* with its *arguments* and *fixtures* and a world of its own each time."""

    async def script(world: World) -> None:
        result = test(*arguments, **{name: world if value is WORLD else value for name, value in fixtures.items()})
        if inspect.isawaitable(result):
            await result

    module = sys.modules.get(test.__module__) or ModuleType(test.__module__)
    source = _sources.get(module)
    if source is None:
        source = _sources[module] = Source(identity.path, module)
    declared = replace(scenario, function=script, takes_variant=False)
    loaded = LoadedFile(str(identity.path), module, (declared,), source.digest, tuple(source.check(test)))
    return TestedProgram(identity, loaded, declared)


class _World:
    """Stands for the world among the arguments of a test until a run makes one."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(
            f"kemu_world.{name}: there is a world only while the test function runs; a fixture cannot use it"
        )


WORLD: Any = _World()


class TestedProgram(ScenarioProgram):
    """Runs a test once for each call of `run`.

    Other than in a scenario, whatever the test raises is a finding, and known again by the line that raises it:
    what an assertion says, with the values that pytest adds, may differ from run to run.
    """

    __test__ = False

    def __init__(self, identity: Identity, loaded: LoadedFile, scenario: Scenario) -> None:
        super().__init__(loaded, scenario, DEFAULT_VARIANT)
        self.name = identity.name
        text = f"{identity.name}\0{loaded.source_digest}\0{__version__}"
        self.identity = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def _failed_assertion(self, crash: BaseException, cell: list[World]) -> Finding | None:
        error = the_one_leaf(crash)
        if not cell or isinstance(error, KemuError) or not is_failure(error):
            return None
        frame = user_frame(error)
        if frame is None:
            return None
        frame_line = linecache.getline(frame.f_code.co_filename, line_of(error, frame)).strip()
        # pytest adds lines with the values; it shows them itself.
        text = str(error).partition("\n")[0]
        if not isinstance(error, (AssertionError, *outcome_classes("Failed"))):
            text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        subject = frame_line or f"{frame.f_code.co_qualname}:{line_of(error, frame)}"
        what = text or subject
        return cell[0].verifier.finding("expectation", what, subject=subject)

    def _finish(self, outcome: Outcome, cell: list[World]) -> Outcome:
        crash = outcome.crash
        if crash is not None and is_pytests(the_one_leaf(crash)):
            # A skip, an expected failure or the end of the session: not the run's to judge.
            raise the_one_leaf(crash)
        return super()._finish(outcome, cell)


def the_one_leaf(error: BaseException) -> BaseException:
    """What a group of a single exception is about; anything else as it is."""
    found = list(leaves(error))
    if len(found) != 1:
        return error
    if found[0].__traceback__ is None:
        # It was put into the group without having been raised.
        found[0].__traceback__ = error.__traceback__
    return found[0]


def outcome_classes(*names: str) -> tuple[type[BaseException], ...]:
    """The exceptions of these names with which pytest ends a test; none of what is not loaded."""
    outcomes = sys.modules.get("_pytest.outcomes")
    return tuple(getattr(outcomes, name) for name in names) if outcomes is not None else ()


def is_pytests(error: BaseException) -> bool:
    """Whether *error* is pytest's own way to end a test or the session without failing it."""
    return isinstance(error, outcome_classes("Skipped", "XFailed", "Exit"))


def is_failure(error: BaseException) -> bool:
    """Whether pytest would call a test failed that raises *error*."""
    return isinstance(error, (Exception, *outcome_classes("Failed")))


# Where an exception comes from.


def frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """The frames that *error* has passed, outermost first, with the lines."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def user_frame(error: BaseException) -> FrameType | None:
    """The innermost frame of the user's code; None if kemu's own code raises *error*, further in."""
    for frame, _ in reversed(list(frames(error))):
        file = frame.f_code.co_filename
        if is_kemu_file(file):
            return None
        if not is_library_file(file):
            return frame
    return None


def line_of(error: BaseException, frame: FrameType) -> int:
    """The line at which *error* has left *frame*."""
    return next(line for one, line in frames(error) if one is frame)


def without_kemu(error: BaseException) -> BaseException:
    """*error* with a traceback that has only the frames that are not kemu's."""
    kept: TracebackType | None = None
    trace = error.__traceback__
    entries: list[TracebackType] = []
    while trace is not None:
        if not is_kemu_file(trace.tb_frame.f_code.co_filename):
            entries.append(trace)
        trace = trace.tb_next
    for entry in reversed(entries):
        kept = TracebackType(kept, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return error.with_traceback(kept)


# The checks of the loader, which does not load modules of tests.


class Source:
    """A file of tests, read and checked when the first of its tests runs."""

    def __init__(self, path: Path, module: ModuleType) -> None:
        source, self.digest = read_source(str(path))
        self.path = source.path
        self.problems = [(find, problem) for find in CHECKS for problem in dict.fromkeys(find(source))]
        self.drivers: set[int] = set()
        """The lines of the drivers that are defined in it."""
        for value in list(vars(module).values()):
            if isinstance(value, type) and issubclass(value, Driver) and value.__module__ == module.__name__:
                self.drivers |= _lines(value)

    def check(self, test: Callable[..., Any]) -> Iterator[SourceWarning]:
        """What is suspicious in *test* and in the drivers beside it; the rest of the file is not kemu's business.

        Raises `DriverSourceError` for a line that cannot be meant like this.
        """
        both = self.drivers | _lines(test)
        # A test may gather what its runs have seen. Whether that changes them shows when it is run twice.
        problems = [one for find, one in self.problems if one.line in (self.drivers if find is check_state else both)]
        for problem in sorted(problems, key=lambda one: one.line):
            if problem.refused:
                raise DriverSourceError(problem.text, self.path, problem.line, remedy=problem.remedy)
            yield SourceWarning(self.path, problem.line, problem.text, problem.remedy)


_sources: WeakKeyDictionary[ModuleType, Source] = WeakKeyDictionary()
"""By module: what runs is what the file was when it was imported."""


def _lines(thing: Any) -> set[int]:
    try:
        text, first = inspect.getsourcelines(thing)
    except (OSError, TypeError):
        return set()
    return set(range(first, first + len(text)))
