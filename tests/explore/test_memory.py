"""What is done with the runs of a corpus: tried first, kept while they fail, forgotten once they pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from explore.programs import TestProgram, fail

from kemu.errors import UsageError
from kemu.explore import BoundedDFS, Budget, Corpus, Exploration, Key, Memory, encode, explore, shrink
from kemu.runtime import Point, current_thread

KEY = Key("x.py::asks")


class Asks:
    """A program that asks a question of four answers; `bugs` says what each answer leads to."""

    def __init__(self, **bugs: str) -> None:
        self.bugs = {int(answer[1:]): what for answer, what in bugs.items()}
        self.program = TestProgram(self.asks)

    async def asks(self) -> None:
        await Point("ask")
        what = self.bugs.get(current_thread().runtime.choose(4, "which"))
        if what == "misuse":
            raise UsageError("misused", remedy="do not")
        if what == "interrupt":
            raise KeyboardInterrupt
        if what is not None:
            fail(what)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


def explored(program: TestProgram, *, keep_going: bool = True) -> Exploration:
    return explore(program, BoundedDFS(bound=None), Budget(), keep_going=keep_going)


def find(corpus: Corpus, asks: Asks) -> Memory:
    """Explore, and keep what is found, shrunk."""
    memory = Memory(corpus, KEY)
    memory.recall(asks.program)
    exploration = memory.together_with(explored(asks.program))
    for finding in exploration.findings:
        recording = shrink(asks.program, finding.choices, signature=finding.signature).recording
        memory.keep(finding, encode(recording.choices, asks.program.identity), recording.cost, exploration)
    return memory


def recalled(corpus: Corpus, asks: Asks, stop: Callable[[], bool] | None = None) -> Memory:
    memory = Memory(corpus, KEY)
    memory.recall(asks.program, stop)
    return memory


def test_what_was_found_is_known_the_next_time(corpus: Corpus) -> None:
    asks = Asks(_2="bad")
    find(corpus, asks)
    (entry,) = corpus.entries(KEY)
    assert (entry.choices, entry.code, entry.signature) == ((2,), "WRONG", ("WRONG", "bad"))
    # One answer that is not plain, in one decision.
    assert entry.cost == (0, 1, 0, 1)
    # The plain answer comes first, then 1, then 2.
    assert (entry.strategy, entry.seed, entry.schedule) == ("dfs", None, 2)
    asks.program.runs = 0
    memory = recalled(corpus, asks)
    (finding,) = memory.findings
    assert (finding.choices, finding.count, finding.signature) == ((2,), 1, ("WRONG", "bad"))
    assert asks.program.runs == 1
    assert memory.origin(finding) == "the corpus, known since schedule 3 of dfs"
    assert memory.lines([finding.signature]) == []
    assert memory.lines([]) == ["corpus: WRONG (schedule 3 of dfs) still fails"]
    assert corpus.entries(KEY) == [entry]
    nothing = memory.nothing_more(asks.program, BoundedDFS(bound=None))
    assert (nothing.findings, nothing.schedules, nothing.exhausted) == ((finding,), 0, False)


def test_a_run_is_forgotten_after_three_clean_replays(corpus: Corpus) -> None:
    find(corpus, Asks(_2="bad"))
    fixed = Asks()
    lines = [recalled(corpus, fixed).lines([]) for _ in range(4)]
    assert lines == [
        ["corpus: WRONG (schedule 3 of dfs) passes now; fixed? 1 of 3 clean replays"],
        ["corpus: WRONG (schedule 3 of dfs) passes now; fixed? 2 of 3 clean replays"],
        ["corpus: WRONG (schedule 3 of dfs) passes: fixed, 3 of 3 clean replays; removed"],
        [],
    ]
    assert corpus.entries() == []


def test_clean_replays_have_to_be_in_a_row(corpus: Corpus) -> None:
    asks, fixed = Asks(_2="bad"), Asks()
    find(corpus, asks)
    recalled(corpus, fixed)
    recalled(corpus, fixed)
    assert corpus.entries()[0].clean == 2
    recalled(corpus, asks)
    assert corpus.entries()[0].clean == 0
    assert recalled(corpus, fixed).replayed[0].state == "clean"


def test_a_run_that_fails_otherwise_belongs_to_the_other_bug(corpus: Corpus) -> None:
    find(corpus, Asks(_2="bad"))
    memory = recalled(corpus, Asks(_2="worse"))
    assert [finding.signature for finding in memory.findings] == [("WRONG", "worse")]
    assert memory.lines([("WRONG", "worse")]) == ["corpus: WRONG (schedule 3 of dfs) now fails with WRONG"]
    assert [entry.signature for entry in corpus.entries()] == [("WRONG", "worse")]
    assert recalled(corpus, Asks(_2="worse")).replayed[0].state == "failing"


def test_two_runs_that_come_to_one_bug_are_one_finding(corpus: Corpus) -> None:
    find(corpus, Asks(_2="bad", _3="worse"))
    assert len(corpus.entries()) == 2
    memory = recalled(corpus, Asks(_2="bad", _3="bad"))
    assert [finding.choices for finding in memory.findings] == [(2,)]
    (entry,) = corpus.entries()
    assert entry.choices == (2,)


def test_choices_that_are_not_possible_any_more_are_tried_as_far_as_they_go(corpus: Corpus) -> None:
    find(corpus, Asks(_3="bad"))

    async def asks() -> None:
        if current_thread().runtime.choose(2, "which"):
            fail("bad")

    changed = TestProgram(asks)
    memory = Memory(corpus, KEY)
    (finding,) = memory.recall(changed)
    # 3 is not an answer any more: the nearest that is.
    assert finding.choices == (1,)
    exploration = memory.nothing_more(changed, BoundedDFS(bound=None))
    memory.keep(finding, encode((1,), changed.identity), None, exploration)
    (entry,) = corpus.entries()
    assert entry.choices == (1,)
    # Where it comes from is still told.
    assert (entry.strategy, entry.schedule) == ("dfs", 3)


def test_a_new_run_takes_the_place_of_one_that_does_not_work_any_more(corpus: Corpus) -> None:
    find(corpus, Asks(_1="bad"))
    asks = Asks(_3="bad")
    memory = find(corpus, asks)
    assert memory.replayed[0].state == "clean"
    (entry,) = corpus.entries()
    assert (entry.choices, entry.clean, entry.schedule) == ((3,), 0, 3)


def test_what_is_found_again_is_counted_and_reported_once(corpus: Corpus) -> None:
    asks = Asks(_2="bad", _3="bad")
    find(corpus, asks)
    memory = Memory(corpus, KEY)
    memory.recall(asks.program)
    asks.bugs[1] = "new"
    both = memory.together_with(explored(asks.program))
    assert [(one.signature[1], one.count) for one in both.findings] == [("bad", 3), ("new", 1)]


def test_misuse_in_a_run_of_the_corpus_is_told(corpus: Corpus) -> None:
    find(corpus, Asks(_2="bad"))
    (entry,) = corpus.entries()
    with pytest.raises(UsageError, match="misused") as raised:
        recalled(corpus, Asks(_2="misuse"))
    assert raised.value.__notes__ == [f"in the run of the corpus entry {entry.path}"]


def test_misuse_does_not_lose_what_still_fails(corpus: Corpus) -> None:
    find(corpus, Asks(_2="bad", _3="worse"))
    asks = Asks(_2="bad", _3="misuse")
    memory = recalled(corpus, asks)
    assert [finding.signature[1] for finding in memory.findings] == ["bad"]
    assert memory.nothing_more(asks.program, BoundedDFS(bound=None)).error is memory.error is not None


def test_an_interrupt_ends_the_replays(corpus: Corpus) -> None:
    find(corpus, Asks(_2="bad", _3="worse"))
    asks = Asks(_2="bad", _3="worse")
    memory = recalled(corpus, asks, stop=lambda: asks.program.runs == 1)
    assert (memory.interrupted, len(memory.findings)) == (True, 1)
    memory = recalled(corpus, Asks(_2="bad", _3="interrupt"))
    assert (memory.interrupted, len(memory.findings)) == (True, 1)
    assert memory.together_with(explored(Asks().program)).interrupted
