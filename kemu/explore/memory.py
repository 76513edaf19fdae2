"""What is known of a program from earlier explorations: its runs in the corpus, tried before anything new.

A run of the corpus is replayed as far as it goes: the code may have changed since. If it still fails, that is
a finding like any other. If it passes, the bug may be fixed, or the change may have moved the race out of this
run's way: only after `REPLAYS` explorations in a row that replayed it without a failure is it taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from kemu.errors import KemuError
from kemu.explore.corpus import Corpus, Entry, Key
from kemu.explore.explorer import Exploration, Finding
from kemu.explore.program import failure_of
from kemu.explore.strategies.replay import Replay
from kemu.explore.token import encode

if TYPE_CHECKING:
    from kemu.explore.program import Program
    from kemu.explore.recording import Cost
    from kemu.explore.strategies import Strategy

REPLAYS: Final = 3
"""How many explorations in a row have to replay a run without a failure before it is forgotten."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A run of the corpus, and what has become of it."""

    entry: Entry
    state: Literal["failing", "other", "clean", "fixed"]
    """Whether it fails as it did, fails otherwise, passes, or has passed often enough to be taken out."""
    code: str = ""
    """What it fails with now."""

    def __str__(self) -> str:
        what = f"{self.entry.code} ({self.entry.origin})"
        if self.state == "failing":
            return f"corpus: {what} still fails"
        if self.state == "other":
            return f"corpus: {what} now fails with {self.code}"
        count = f"{self.entry.clean} of {REPLAYS} clean replays"
        if self.state == "clean":
            return f"corpus: {what} passes now; fixed? {count}"
        return f"corpus: {what} passes: fixed, {count}; removed"


class Memory:
    """The corpus, as it is used for one exploration of one program."""

    def __init__(self, corpus: Corpus, key: Key) -> None:
        self.corpus = corpus
        self.key = key
        self.replayed: list[Replayed] = []
        self.findings: list[Finding] = []
        """What still fails: one for each signature, the simplest run first."""
        self.known: dict[tuple[str, ...], Entry] = {}
        """For each of these signatures the run that shows it."""
        self.error: KemuError | None = None
        """What ended the replays after something had been found."""
        self.interrupted = False

    def recall(self, program: Program, stop: Callable[[], bool] | None = None) -> list[Finding]:
        """Replay every run that is known of *program*, and return what still fails.

        An exception of `kemu.errors` that a run raises is raised, unless something has been found before.
        """
        for entry in self.corpus.entries(self.key):
            if stop is not None and stop():
                self.interrupted = True
                break
            try:
                self._replay(program, entry)
            except KeyboardInterrupt:
                self.interrupted = True
                break
            except KemuError as error:
                error.add_note(f"in the run of the corpus entry {entry.path}")
                if not self.findings:
                    raise
                self.error = error
                break
        return self.findings

    def _replay(self, program: Program, entry: Entry) -> None:
        oracle = Replay(entry.choices, strict=False)
        oracle.begin()
        outcome = program.run(oracle)
        failure = failure_of(outcome)
        if failure is None:
            entry = replace(entry, clean=entry.clean + 1)
            is_over = entry.clean >= REPLAYS
            self.replayed.append(Replayed(entry, "fixed" if is_over else "clean"))
            if is_over:
                self.corpus.remove(entry)
            else:
                self.corpus.put(entry)
            return
        known_before = entry
        same = failure.signature == entry.signature
        self.replayed.append(Replayed(entry, "failing" if same else "other", failure.code))
        if not same:
            # From here on the run belongs to the bug that it shows.
            self.corpus.remove(entry)
            entry = replace(entry, signature=failure.signature, code=failure.code)
        choices = tuple(outcome.choices)
        if failure.signature not in self.known:
            self.known[failure.signature] = entry
            self.findings.append(Finding(failure, choices, run=0, count=1))
        entry = replace(entry, token=encode(choices, program.identity), clean=0)
        if not same:
            self.corpus.add(entry)
        elif known_before.clean:
            self.corpus.put(entry)

    def keep(self, finding: Finding, token: str, cost: Cost | None, exploration: Exploration) -> None:
        """Keep the run of *token*, which is what *finding* was shrunk to; without *cost*, as it was found."""
        known = self.known.get(finding.signature)
        entry = Entry(
            self.key,
            token=token,
            code=finding.failure.code,
            signature=finding.signature,
            cost=None if cost is None else (cost.preemptions, cost.answers, cost.switches, cost.length),
            strategy=known.strategy if known is not None else exploration.strategy,
            seed=known.seed if known is not None else exploration.seed,
            schedule=known.schedule if known is not None else finding.run,
        )
        # What this exploration has replayed is known to be worse, or not to work any more.
        if any(one.entry.signature == entry.signature for one in self.replayed) or known is not None:
            self.corpus.put(entry)
        else:
            self.corpus.add(entry)

    def nothing_more(self, program: Program, strategy: Strategy) -> Exploration:
        """The exploration that is not made, because something that is known still fails."""
        return Exploration(
            program=program.name,
            strategy=strategy.name,
            seed=strategy.seed,
            schedules=0,
            distinct=0,
            distinct_is_exact=True,
            steps=0,
            shortest=0,
            longest=0,
            findings=tuple(self.findings[:1]),
            exhausted=False,
            bound=None,
            seconds=0.0,
            interrupted=self.interrupted,
            error=self.error,
        )

    def together_with(self, exploration: Exploration) -> Exploration:
        """*exploration* with what was known before; a bug that it has found once more is counted there."""
        counts = {finding.signature: finding.count for finding in exploration.findings}
        known = [replace(one, count=one.count + counts.get(one.signature, 0)) for one in self.findings]
        new = [one for one in exploration.findings if one.signature not in self.known]
        return replace(
            exploration,
            findings=(*known, *new),
            interrupted=exploration.interrupted or self.interrupted,
            error=self.error or exploration.error,
        )

    def origin(self, finding: Finding) -> str:
        """Where *finding* comes from, if it was known before; otherwise nothing."""
        known = self.known.get(finding.signature)
        return f"the corpus, known since {known.origin}" if known is not None else ""

    def lines(self, reported: Iterable[tuple[str, ...]]) -> list[str]:
        """What has become of the known runs, as far as the findings of the *reported* signatures do not say so."""
        told = set(reported)
        return [str(one) for one in self.replayed if one.state != "failing" or one.entry.signature not in told]
