"""A scenario with one of its variants, as what is run and explored."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kemu import __version__
from kemu.errors import InternalError, KemuError, ScenarioError, UsageError
from kemu.nt.kthread import KThread
from kemu.nt.system import Options
from kemu.runtime import ControlledRuntime, LogSink, Observer, Oracle, Outcome, Runtime, current_thread
from kemu.runtime.data import DriverData
from kemu.runtime.foreign import is_kemu_file, is_library_file
from kemu.runtime.live import LiveRuntime, run_live
from kemu.scenario import tracking
from kemu.scenario.world import World
from kemu.verifier.ending import judge
from kemu.verifier.finding import Finding
from kemu.verifier.settings import parse_settings

if TYPE_CHECKING:
    from kemu.scenario.declare import Preemption, Scenario
    from kemu.scenario.loader import LoadedFile
    from kemu.scenario.tracking.recorder import Recorder

TRACKING: Final = str(Path(tracking.__file__).parent)

LogFactory = Callable[[Runtime], LogSink]


class ScenarioProgram:
    """Runs one scenario with one variant, once for each call of `run`."""

    def __init__(
        self,
        loaded: LoadedFile,
        scenario: Scenario,
        variant: str,
        *,
        bystanders: int = 0,
        races: bool = False,
        preempt: Preemption | None = None,
        tracked: bool = False,
        verifier: str | None = None,
    ) -> None:
        self.loaded = loaded
        self.races = races
        """Whether data races are findings. That changes no decision, so a token does not depend on it."""
        self.bystanders = bystanders
        """How many pass-through filters share the volume with the drivers under test."""
        self.settings = parse_settings(verifier)
        """Which rules are watched, and what becomes of violations."""
        self.scenario = scenario
        self.variant = variant
        self.name = f"{loaded.path}::{scenario.name}[{variant}]"
        self._options = Options(
            scenario.completion,
            scenario.low_resources,
            scenario.worker_threads,
            io_faults=scenario.io_faults,
            file_times=scenario.file_times,
            short_names=scenario.short_names,
            cached_io=scenario.cached_io,
            fast_io=scenario.fast_io,
            drain_creates=scenario.drain_creates,
            drain_fast_io=scenario.drain_fast_io,
            timer_jitter=scenario.timer_jitter,
            work_budget=scenario.work_budget or 0,
            force_pending=scenario.force_pending,
        )
        self.given_preempt: Preemption | None = preempt
        """The preemption that was asked for, if it was not left to the scenario."""
        self.preempt: Preemption = preempt or scenario.preempt
        """Where other threads may come in between in the code of drivers and scripts."""
        self.tracked = self.can_track and (tracked or races or self.preempt != "call")
        """Whether runs record what they do to the state of drivers and scripts."""
        self.identity = self.identity_with(self.preempt)
        """Names scenario, variant, options, code and kemu's version; a token of anything else has another one."""

    def identity_with(self, preempt: Preemption) -> str:
        """The identity of the same program with another preemption."""
        scenario, loaded = self.scenario, self.loaded
        text = f"{scenario.name}\0{self.variant}\0{self.bystanders}\0{loaded.source_digest}\0{__version__}"
        if preempt != "call":
            text += f"\0{preempt}"
        if self.verifier is not None:
            text += f"\0verifier {self.verifier}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def verifier(self) -> str | None:
        """The settings of the verifier in one line, if they are not the usual ones."""
        return self.settings.text or None

    @property
    def can_track(self) -> bool:
        """Whether runs can record what they do to the state of drivers and scripts."""
        return self.loaded.text is not None

    def instrumented(self, tracked: bool = True) -> ScenarioProgram:
        """The same program, with runs that record what they do to the state of drivers and scripts, or do not.

        Its runs take the same decisions, so that the two share identity and tokens. With a preemption other than
        ``"call"`` runs record in any case.
        """
        return ScenarioProgram(
            self.loaded,
            self.scenario,
            self.variant,
            bystanders=self.bystanders,
            races=self.races,
            preempt=self.given_preempt,
            tracked=tracked,
            verifier=self.verifier,
        )

    @property
    def expected(self) -> str | None:
        """The finding that the scenario says this variant has, or None if it should be clean."""
        return self.scenario.expects.get(self.variant)

    def run(
        self,
        oracle: Oracle,
        observer: Observer | None = None,
        log: LogFactory | None = None,
        max_steps: int | None = None,
    ) -> Outcome:
        """Run once under *oracle*. A finding is in the outcome; usage errors and internal errors are raised."""
        limit = max_steps or self.scenario.max_steps
        limits = {} if limit is None else {"max_steps": limit}
        runtime = ControlledRuntime(oracle, thread_class=KThread, observer=observer, **limits)
        if log is not None:
            runtime.log = log(runtime)
        scenario, recorder = self.scenario, None
        if self.tracked:
            flavoured = self.loaded.flavoured("tracked" if self.preempt == "call" else self.preempt)
            scenario, recorder = flavoured.scenarios[scenario.name], flavoured.recorder
        cell: list[World] = []
        runtime.conclude = lambda outcome: self._judge(cell, outcome)
        return self._finish(runtime.run("script", self._main(runtime, cell, scenario, recorder)), cell)

    def run_live(self, backend: str = "trio", log: LogFactory | None = None) -> Outcome:
        """Run once on an event loop of its own of *backend*, with a real clock."""
        runtime, cell = self._live(log)
        return self._finish(run_live(self._main(runtime, cell), "script", runtime, backend), cell)

    async def run_here(self, log: LogFactory | None = None) -> Outcome:
        """Run once on the event loop that is running, with a real clock."""
        runtime, cell = self._live(log)
        return self._finish(await runtime.run("script", self._main(runtime, cell)), cell)

    def _live(self, log: LogFactory | None) -> tuple[LiveRuntime, list[World]]:
        runtime = LiveRuntime(thread_class=KThread)
        if log is not None:
            runtime.log = log(runtime)
        cell: list[World] = []
        runtime.conclude = lambda outcome: self._judge(cell, outcome)
        return runtime, cell

    async def _main(
        self,
        runtime: Runtime,
        cell: list[World],
        scenario: Scenario | None = None,
        recorder: Recorder | None = None,
    ) -> Any:
        if recorder is not None:
            runtime.data = DriverData(current_thread(), recorder.statics)
        world = World(
            runtime,
            self._options,
            explore_setup=self.scenario.explore_setup,
            bystanders=self.bystanders,
            # What locks of the event loop order is not known, so that a live run would have false alarms.
            races=self.races and not isinstance(runtime, LiveRuntime),
            settings=self.settings,
        )
        cell.append(world)
        return await (scenario or self.scenario).start(world, self.variant)

    def _judge(self, cell: list[World], outcome: Outcome) -> Finding | None:
        if not cell:
            return None
        world = cell[0]
        # What the conditions of the end look at is at rest.
        world.runtime.races = None
        found = judge(world.system, world.verifier, outcome)
        if found is None:
            for predicate, what in world.at_end_checks:
                if not self._holds(predicate):
                    return world.verifier.finding("invariant", what, subject=what)
        return found

    def _holds(self, predicate: Callable[[], bool]) -> bool:
        try:
            return predicate()
        except AssertionError:
            return False
        except Exception as error:
            raise self.explain(error) from error

    def _finish(self, outcome: Outcome, cell: list[World]) -> Outcome:
        crash = outcome.crash
        if crash is not None:
            failed = self._failed_assertion(crash, cell)
            if failed is None:
                raise self.explain(crash, cell[0].verifier.went_on if cell else None) from crash
            outcome.failure = failed
        if cell:
            outcome.advisories = list(cell[0].verifier.advisories)
        return outcome

    def _failed_assertion(self, crash: BaseException, cell: list[World]) -> Finding | None:
        """An ``assert`` in the script is an expectation like any other."""
        if not isinstance(crash, AssertionError) or not cell or _is_ours(crash):
            return None
        what = str(crash) or f"assert at {_user_line(crash)}"
        return cell[0].verifier.finding("expectation", what, subject=what)

    def explain(self, crash: BaseException, went_on: str | None = None) -> BaseException:
        """The error of kemu that *crash* of a run amounts to; *went_on* is a violation after which the run went on."""
        if isinstance(crash, KemuError):
            line = _user_line(crash)
            if isinstance(crash, ScenarioError) and line is not None:
                crash.message += f", at {line}"
            return crash
        if _is_ours(crash) and went_on is not None:
            return UsageError(
                f"{self.name} cannot go on after {went_on}, which its verifier settings let pass:"
                f" {type(crash).__name__}: {crash}",
                remedy=f"let {went_on} break",
            )
        if _is_ours(crash):
            return InternalError(f"{type(crash).__name__}: {crash}")
        return ScenarioError(
            f"{self.name} raised {type(crash).__name__}: {crash} at {_user_line(crash) or 'an unknown line'}",
            remedy="fix the script, or handle the exception in it",
        )


def _is_ours(error: BaseException) -> bool:
    """Whether kemu's own code raised *error*: the innermost frame that is not a library's is kemu's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(TRACKING):
            # What a tracked container or access raises is what a plain one would have raised.
            continue
        if is_kemu_file(frame.filename) or not is_library_file(frame.filename):
            return is_kemu_file(frame.filename)
    return True


def _user_line(error: BaseException) -> str | None:
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not is_library_file(frame.filename):
            return f"{frame.filename}:{frame.lineno}"
    return None
