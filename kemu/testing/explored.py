"""One call of a test that is explored: which runs are made, in which order, and what comes of them.

Runs that were asked for come first, then those that are known from earlier sessions, then new ones: a failure
that somebody has named should never have to be found again.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kemu.cli.hunt import Found, bare, describe, verdict_of, warnings_of
from kemu.cli.report import failure_lines
from kemu.cli.targets import source_warnings
from kemu.cli.verdict import clean_lines, how, warning_lines
from kemu.errors import KemuError, ScenarioNotDeterministic, UsageError
from kemu.explore import (
    Exploration,
    Finding,
    Key,
    Memory,
    Replay,
    StickyRandomWalk,
    check_determinism,
    decode,
    explore,
    failure_of,
    replay,
    shrink,
)
from kemu.explore.token import DIGEST_LENGTH
from kemu.log import capture
from kemu.log.render import render
from kemu.testing.declare import PARAMETER, Explored
from kemu.testing.failure import FindingError, KemuWarning
from kemu.testing.program import WORLD, Identity, TestedProgram, program_of, the_one_leaf, without_kemu

if TYPE_CHECKING:
    from kemu.runtime import Outcome
    from kemu.testing.session import Session


def explore_test(declared: Explored, arguments: tuple[Any, ...], fixtures: Mapping[str, Any], session: Session) -> None:
    """Make the runs that are wanted. Raises what the test fails with."""
    __tracebackhide__ = True
    identity = session.identity or standing(declared)
    named = {**fixtures, PARAMETER: WORLD}
    program = program_of(identity, declared.scenario, declared.function, arguments, named)
    call = Call(declared, program, identity, session)
    call.make()
    # At the end: where warnings are errors, one must not take the place of a finding.
    for text in call.warnings:
        warnings.warn(f"{program.name}: {text}", KemuWarning, stacklevel=2)


def standing(declared: Explored) -> Identity:
    """Where a test stands that is called without the plugin."""
    code = declared.function.__code__
    return Identity(f"{Path(code.co_filename).name}::{declared.function.__qualname__}", Path(code.co_filename))


@dataclass
class Call:
    """One call of a test."""

    declared: Explored
    program: TestedProgram
    identity: Identity
    session: Session
    warnings: list[str] = field(default_factory=list[str])
    """What is wrong without being a failure."""

    def make(self) -> None:
        """Make the runs, in their order."""
        __tracebackhide__ = True
        options = self.session.options
        if options.token is not None:
            self._only(options.token, replay(self.program, decode(options.token, self.program.identity)))
            return
        if self.declared.token is not None:
            self._only(self.declared.token, self._follow(self.declared.token))
            return
        plan = self.declared.wanted.plan(options)
        self._check(plan.seed)
        for number, token in enumerate(self.declared.tokens):
            outcome = self._follow(token)
            if outcome.failure is not None:
                which = "" if len(self.declared.tokens) == 1 else f" {number + 1}"
                self._note(strategy="replay", schedules=number + 1)
                self._fail_with(outcome, f"the run of token{which} of replay()")
                return
        self._search(plan)

    # Single runs.

    def _follow(self, token: str) -> Outcome:
        """The run of *token*, strictly if it is of this code."""
        is_exact = token.split(".")[1] == self.program.identity[:DIGEST_LENGTH]
        oracle = Replay(decode(token), strict=is_exact)
        oracle.begin()
        outcome = self.program.run(oracle)
        oracle.end(outcome)
        return outcome

    def _only(self, token: str, outcome: Outcome) -> None:
        __tracebackhide__ = True
        self._note(strategy="replay", schedules=1)
        if outcome.failure is not None:
            self._fail_with(outcome, "the run of the token")
            return
        self._note(token=token)
        if self.session.options.trace == "all":
            self._trace(outcome.choices)
        if self.declared.expect is not None:
            headline = f"FAIL {self.program.name}: the run of the token finds nothing"
            self._lacks([headline, f"  the test expects {self.declared.expect}"])

    def _fail_with(self, outcome: Outcome, origin: str) -> None:
        """The run of *outcome*, which somebody asked for, fails: report it as it is."""
        __tracebackhide__ = True
        failure = failure_of(outcome)
        assert failure is not None
        if failure.code == self.declared.expect:
            self._expected(Finding(failure, tuple(outcome.choices), run=0, count=1))
            return
        found = describe(self.program, outcome.choices, about={"strategy": "replay"})
        found.report = replace(found.report, found=origin)
        self._fail(found)

    # Many runs.

    def _check(self, seed: int) -> None:
        """The health checks: a test that is not deterministic, or always the same, cannot be explored."""
        __tracebackhide__ = True
        try:
            plain = check_determinism(self.program)
            other = check_determinism(self.program, StickyRandomWalk(seed))
        except ScenarioNotDeterministic as error:
            error.add_note("fixtures are shared by all schedules: what a test changes, it has to make itself")
            raise
        self.warnings += [*source_warnings([self.program]), *warnings_of(plain.advisories)]
        if not (plain.choices or other.choices or plain.failure is not None or self.declared.allow_single):
            raise UsageError(
                f"{self.program.name} has nothing to explore: it makes no decision, so that all schedules are the same",
                remedy="start threads with world.start() or world.together(), or say allow_single=True",
            )

    def _search(self, plan: Any) -> None:
        """What is known first, then what is new."""
        __tracebackhide__ = True
        strategy = plan.strategy()
        corpus = self.session.corpus() if self.declared.expect is None else None
        memory = Memory(corpus, Key(self.identity.name, tool="pytest")) if corpus is not None else None
        if memory is not None and (memory.recall(self.program) or memory.interrupted):
            exploration = memory.nothing_more(self.program, strategy)
            self._note(known=True)
        else:
            exploration = explore(self.program, strategy, plan.budget())
        verdict = verdict_of(self.program, strategy, exploration)
        self._note(
            schedules=exploration.schedules,
            distinct=exploration.distinct,
            strategy=exploration.strategy,
            seed=exploration.seed,
        )
        for finding in exploration.findings[:1]:
            if finding.failure.code == self.declared.expect:
                self._expected(finding)
                return
            self._report(finding, exploration, memory)
        if exploration.interrupted:
            raise KeyboardInterrupt
        if memory is not None:
            self._tell(memory)
        self._note(verdict=verdict.kind)
        if self.declared.expect is not None:
            self._lacks([f"FAIL {self.program.name}: not found: {self.declared.expect}", *clean_lines(verdict)[1:]])
        if self.session.options.trace == "all":
            self._trace(())

    def _report(self, finding: Finding, exploration: Exploration, memory: Memory | None) -> NoReturn:
        """Shrink, keep, explain, fail."""
        __tracebackhide__ = True
        cost = None
        try:
            shrunk = shrink(self.program, finding.choices, signature=finding.signature, second=finding.second)
            found = describe(self.program, shrunk.recording.choices, shrunk, about={"strategy": exploration.strategy})
            cost = shrunk.recording.cost
        except KeyboardInterrupt:
            if memory is not None:
                memory.keep(finding, bare(self.program, finding, "").token, None, exploration)
            raise
        except KemuError as error:
            found = bare(self.program, finding, f"not shrunk: {error}")
        if memory is not None and cost is not None:
            memory.keep(finding, found.token, cost, exploration)
        known = memory.origin(finding) if memory is not None else ""
        found.report = replace(
            found.report,
            found=known
            or f"schedule {finding.run + 1:,} of {exploration.schedules:,}"
            f" ({how(exploration.strategy, exploration.seed)}, {exploration.seconds:.1f} s)",
        )
        if memory is not None:
            self._tell(memory, finding)
        self._fail(found)

    # What comes of it.

    def _expected(self, finding: Finding) -> None:
        """The finding that the test is about: it passes."""
        found = bare(self.program, finding, "")
        self._note(code=finding.failure.code, token=found.token)
        if self.session.options.trace == "all":
            self._trace(finding.choices)

    def _lacks(self, lines: list[str]) -> NoReturn:
        """The finding that the test is about has not come up."""
        __tracebackhide__ = True
        raise FindingError(f"{self.declared.expect} was expected, and did not come up", lines)

    def _fail(self, found: Found) -> NoReturn:
        """Fail with *found*: with what the test itself raised, or with the report."""
        __tracebackhide__ = True
        found.report = replace(found.report, replay=self.session.replay_command(self.identity, found.token))
        report = found.report
        self._note(code=report.code, token=found.token)
        lines = failure_lines(report)
        if self.declared.expect is not None:
            lines.insert(1, f"  the test expects {self.declared.expect}")
        self.session.say("kemu warnings", warning_lines(tuple(self.warnings)))
        if self.session.options.trace != "off" and found.trace is not None:
            self.session.say("kemu trace", list(render(found.trace)))
        raised = self._raised(decode(found.token))
        if raised is None:
            raise FindingError(f"{report.code}: {report.detail or report.title}", lines)
        self.session.say("kemu", lines)
        raise without_kemu(raised)

    def _raised(self, choices: Sequence[int]) -> BaseException | None:
        """What the test raises in the run of *choices*."""
        crash = replay(self.program, choices).crash
        return None if crash is None else the_one_leaf(crash)

    def _tell(self, memory: Memory, finding: Finding | None = None) -> None:
        """Say what has become of the runs of the corpus, and what is wrong with it."""
        self.session.say("kemu corpus", memory.lines([finding.signature] if finding is not None else []))
        self.warnings += memory.corpus.take_problems()

    def _trace(self, choices: Sequence[int]) -> None:
        oracle = Replay(choices, strict=False)
        _, trace, _ = capture(self.program, oracle)
        self.session.say("kemu trace", list(render(trace)))

    def _note(self, **values: Any) -> None:
        self.session.note(**values)
