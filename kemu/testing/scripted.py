"""One call of a test that takes ``kemu_world``: its body is the script of a single run, made once.

Unless told otherwise the run is the plain one, or that of ``--kemu-token``, under kemu's control: nothing of an
event loop can be awaited in it, and it is the same every time. Marked ``kemu(live=True)`` it runs on the event
loop of the test, with a real clock, and may await what belongs to that as well; the schedule is the loop's then.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kemu.cli.hunt import failure_fields, warnings_of
from kemu.cli.report import Report, failure_lines
from kemu.cli.targets import source_warnings
from kemu.errors import UsageError
from kemu.explore import Replay, decode, encode
from kemu.log import Recorder
from kemu.log.capture import finish
from kemu.log.render import render
from kemu.runtime import Outcome
from kemu.runtime.hosting import outside_event_loop
from kemu.testing.declare import world_of
from kemu.testing.failure import FindingError, KemuWarning
from kemu.testing.program import Identity, TestedProgram, program_of, the_one_leaf, without_kemu
from kemu.testing.session import Session


@dataclass(frozen=True, slots=True)
class Script:
    """A test function with ``kemu_world``, ready to be put in the place of the function."""

    function: Callable[..., Any]
    session: Session
    identity: Identity
    is_live: bool

    def wrapped(self, *, by_loop: bool) -> Callable[..., Any]:
        """What pytest calls; a coroutine function if somebody else runs the test on an event loop, *by_loop*."""

        @functools.wraps(self.function)
        def call(*arguments: Any, **fixtures: Any) -> None:
            __tracebackhide__ = True
            outside_event_loop(self.run, arguments, fixtures)

        @functools.wraps(self.function)
        async def call_in_loop(*arguments: Any, **fixtures: Any) -> None:
            __tracebackhide__ = True
            if self.is_live:
                await self.run_here(arguments, fixtures)
            else:
                outside_event_loop(self.run, arguments, fixtures)

        return call_in_loop if by_loop else call

    def run(self, arguments: tuple[Any, ...], fixtures: Mapping[str, Any]) -> None:
        """Make the run outside of an event loop, or live on one of its own."""
        __tracebackhide__ = True
        program, recorder = self._program(arguments, fixtures), Recorder()
        if self.is_live:
            self._conclude(program, recorder, program.run_live("trio", recorder.attach), "live(trio)")
            return
        token = self.session.options.token
        oracle = Replay(() if token is None else decode(token, program.identity))
        oracle.begin()
        outcome = program.run(oracle, recorder, recorder.attach)
        oracle.end(outcome)
        self._conclude(program, recorder, outcome, "plain" if token is None else "replay")

    async def run_here(self, arguments: tuple[Any, ...], fixtures: Mapping[str, Any]) -> None:
        """Make the run live on the event loop of the test."""
        __tracebackhide__ = True
        program, recorder = self._program(arguments, fixtures), Recorder()
        self._conclude(program, recorder, await program.run_here(recorder.attach), "live")

    def _program(self, arguments: tuple[Any, ...], fixtures: Mapping[str, Any]) -> TestedProgram:
        if self.is_live and self.session.options.token is not None:
            raise UsageError(
                f"{self.identity.name} runs live, where the event loop decides",
                remedy="leave --kemu-token out, or live=True",
            )
        return program_of(self.identity, world_of(self.function, {}), self.function, arguments, fixtures)

    def _conclude(self, program: TestedProgram, recorder: Recorder, outcome: Outcome, strategy: str) -> None:
        __tracebackhide__ = True
        session = self.session
        token = None if self.is_live else encode(outcome.choices, program.identity)
        session.note(schedules=1, strategy=strategy, token=token)
        # Of what is suspicious in the source most is right in a live run: waiting for the event loop, or real time.
        suspicious = () if self.is_live else source_warnings([program])
        for text in (*suspicious, *warnings_of(outcome.advisories)):
            warnings.warn(f"{program.name}: {text}", KemuWarning, stacklevel=2)
        failure = outcome.failure
        if session.options.trace == "all" or (failure is not None and session.options.trace == "fail"):
            trace = finish(recorder, program, outcome, {"strategy": strategy})
            session.say("kemu trace", list(render(trace)))
        if failure is None:
            return
        session.note(code=failure.code)
        replay = session.replay_command(self.identity, token) if token is not None else ""
        report = Report(**failure_fields(program, failure), found=f"the one run ({strategy})", replay=replay)
        lines = failure_lines(report)
        if outcome.crash is not None:
            session.say("kemu", lines)
            raise without_kemu(the_one_leaf(outcome.crash))
        raise FindingError(f"{failure.code}: {report.detail or report.title}", lines)
