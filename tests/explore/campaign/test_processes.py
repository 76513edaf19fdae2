"""Workers that are processes: as good as none where the result is concerned, and dispensable."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from explore.campaign import kit

from kemu.errors import KemuError, ScenarioNotDeterministic, UsageError, WorkerDied
from kemu.explore import Budget, Exploration, RandomWalk, explore
from kemu.explore.campaign import Batch, Processes, Recipe, Task, explore_in_batches, processes
from kemu.explore.campaign.processes import STOP


@pytest.fixture(scope="module")
def crew() -> Iterator[Processes]:
    """Two workers for all tests that leave them alive: starting one takes half a second."""
    crew = Processes(2)
    yield crew
    assert crew.busy == 0
    crew.close()
    assert multiprocessing.active_children() == []


def explored(load: kit.Load, crew: Processes, schedules: int = 200, size: int = 16) -> Exploration:
    recipe = Recipe("random", {}, 1)
    budget = Budget(schedules=schedules)
    return explore_in_batches(load(), load, recipe, recipe.make(), budget, crew, size=size, keep_going=True)


def test_the_result_is_that_of_one_process(crew: Processes) -> None:
    load = kit.Load("many_bugs")
    one, other, _, _ = kit.both(load, "alternating", Budget(schedules=300), crew)
    assert one == other
    assert len(one.findings) == 3
    one, other, _, _ = kit.both(load, "dfs", Budget(), crew, bound=1)
    assert one == other
    # What is of no use any more is called off, and the crew can be used again.
    load = kit.Load("rare")
    budget = Budget(schedules=5_000)
    # Far enough behind for batches beyond the finding to be given out; where that is, is up to the seed alone.
    seed = next(seed for seed in range(40) if 500 < explore(load(), RandomWalk(seed), budget).schedules < 5_000)
    one, other, _, _ = kit.both(load, "random", budget, crew, seed=seed, keep_going=False)
    assert one == other
    assert one.findings
    assert one.schedules > 500


def test_stopping_ends_the_batches_that_are_being_made(crew: Processes) -> None:
    load = kit.Load("many_bugs")
    recipe = Recipe("random", {}, 1)
    made: list[int] = []
    # A batch has a million runs: all that there is comes from batches that were cut short.
    result = explore_in_batches(
        load(),
        load,
        recipe,
        recipe.make(),
        Budget(),
        crew,
        size=1_000_000,
        keep_going=True,
        progress=lambda progress: made.append(progress.schedules),
        stop=lambda: bool(made) and made[-1] > 100,
    )
    assert result.interrupted
    assert 100 < result.schedules < 2_000_000
    assert len(result.findings) == 3


def test_a_worker_with_another_program_is_refused(crew: Processes) -> None:
    with pytest.raises(UsageError, match="other code, or other options"):
        explored(kit.Load("other"), crew)


def test_errors_of_a_worker_are_those_of_the_program(crew: Processes) -> None:
    with pytest.raises(UsageError, match="misused") as caught:
        explored(kit.Load("misuses", (5,)), crew)
    assert caught.value.remedy == "do not"
    assert any(note.startswith("in run ") for note in caught.value.__notes__)


def test_a_program_that_is_another_one_in_a_worker_is_not_deterministic(crew: Processes) -> None:
    result = explored(kit.Load("changes"), crew)
    assert isinstance(result.error, ScenarioNotDeterministic)
    (finding,) = result.findings
    assert finding.failure.summary == "WRONG: only there"


def test_a_batch_whose_worker_died_is_made_again(tmp_path: Path) -> None:
    load = kit.Load("dies", text=str(tmp_path / "marker"))
    crew = Processes(1)
    result = explored(load, crew, 40)
    crew.close()
    # As if nothing had happened; the exploration itself is never ended in this process.
    (tmp_path / "marker").unlink()
    plain = explore(load(), Recipe("random", {}, 1).make(), Budget(schedules=40), keep_going=True)
    assert (result.schedules, result.error) == (40, None)
    assert result.findings == plain.findings
    assert not (tmp_path / "marker").exists()


def test_a_worker_that_died_while_it_had_nothing_to_do_is_replaced() -> None:
    before = set(multiprocessing.active_children())
    crew = Processes(1)
    load = kit.Load("abba")
    first = explored(load, crew, 20)
    (worker,) = set(multiprocessing.active_children()) - before
    worker.kill()
    worker.join()
    # That it is gone may be noticed before the next task is handed in, or by its not coming back.
    again = explored(load, crew, 20)
    assert (again.schedules, again.findings) == (first.schedules, first.findings)
    crew.close()
    assert (crew.busy, crew.idle) == (0, 1)


def test_a_worker_that_dies_again_is_an_error_that_names_its_batch() -> None:
    before = set(multiprocessing.active_children())
    crew = Processes(1)
    with pytest.raises(WorkerDied, match=r"while it made runs 0 to 15 \(random, seed 1\) of dies") as caught:
        explored(kit.Load("dies", text="always"), crew)
    assert caught.value.exit_code == 3
    crew.close()
    assert set(multiprocessing.active_children()) == before


def test_closing_at_once_ends_workers_whatever_they_do() -> None:
    before = set(multiprocessing.active_children())
    crew = Processes(1)
    made: list[int] = []

    class Interrupted(Exception):
        pass

    def progress(one: object) -> None:
        made.append(crew.made())
        if made[-1] > 10:
            # A worker that takes no notice of being told to stop.
            raise Interrupted

    load = kit.Load("many_bugs")
    recipe = Recipe("random", {}, 1)
    with pytest.raises(Interrupted):
        explore_in_batches(
            load(), load, recipe, recipe.make(), Budget(), crew, size=10**6, keep_going=True, progress=progress
        )
    assert set(multiprocessing.active_children()) == before
    crew.close()


def test_what_a_worker_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # As a worker does it, but in this process, which has no parent to outlive.
    ignored: list[object] = []

    def note(number: int, what: object) -> None:
        ignored.append((number, what))

    monkeypatch.setattr(signal, "signal", note)
    board = [0, 0]
    monkeypatch.setattr(processes, "_board", None)
    processes._begin(board)
    assert ignored == [(signal.SIGINT, signal.SIG_IGN)]
    load = kit.Load("abba")
    task = Task(load, "abba", load().identity, Recipe("random", {}, 1), Batch((0,), 7), True, None)
    assert processes._work(task).schedules == 7
    assert board == [0, 7]
    board[STOP] = 1
    result = processes._work(task)
    assert (result.schedules, result.interrupted, result.whole) == (1, True, False)


def test_a_worker_ends_when_its_parent_has(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    class Parent:
        def join(self) -> None:
            seen.append("joined")

    monkeypatch.setattr(multiprocessing, "parent_process", Parent)
    monkeypatch.setattr(os, "_exit", seen.append)
    processes._outlive_nobody()
    assert seen == ["joined", 1]


def test_what_is_kept_when_errors_are_sent() -> None:
    import pickle

    error: KemuError = pickle.loads(pickle.dumps(WorkerDied("runs 0 to 15")))
    assert str(error).startswith("one worker after another died while it made runs 0 to 15;")
    assert STOP == 0
