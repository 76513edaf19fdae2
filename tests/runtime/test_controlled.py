"""The controlled runtime: steps, decisions, how a run ends, and what is left of it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import traceback
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from runtime.kit import (
    Do,
    Flag,
    Increment,
    Load,
    Put,
    Script,
    Store,
    Variable,
    Wait,
    every_run,
    ordered,
    run,
    spawn,
)

from kemu.errors import ReplayDiverged, UsageError
from kemu.runtime import (
    Cell,
    ControlledRuntime,
    DecisionPoint,
    First,
    Outcome,
    Point,
    Thread,
    Timer,
    continues,
    current_thread,
    is_preemption,
    party,
)


async def two_steps() -> None:
    await Load(Variable("own"))


async def main_and_two() -> str:
    spawn("a", two_steps())
    spawn("b", two_steps())
    return "result"


def test_the_plain_run() -> None:
    outcome = ControlledRuntime().run("main", main_and_two())
    assert outcome.end == "finished"
    assert outcome.result == "result"
    assert outcome.failure is outcome.stuck is outcome.crash is None
    assert outcome.swallowed == ()
    # main's only step, then two of each worker.
    assert outcome.steps == 5
    # Decisions: a or b; a goes on or b; after a's end only b is left, and that is not asked.
    assert outcome.choices == [0, 0]


def test_alternatives_are_the_running_thread_and_then_the_ring() -> None:
    seen: list[tuple[list[str], int, str | None, list[bool], list[str | None], bool]] = []

    class Watching(Script):
        def pick(self, n: int, point: DecisionPoint) -> int:
            picks = range(n)
            seen.append(
                (
                    [thread.label for thread in point.ready],
                    point.index,
                    point.running and point.running.label,
                    [is_preemption(point, pick) for pick in picks],
                    [(found := party(point, pick)) and found.label for pick in picks],
                    continues(point),
                )
            )
            return super().pick(n, point)

    ControlledRuntime(Watching(1, 1)).run("main", main_and_two())
    assert seen == [
        # main has ended: nobody is preempted, the ring begins behind it.
        (["a", "b"], 0, "main", [False, False], ["a", "b"], False),
        # 1 was b. It goes on, or a does: the ring is closed.
        (["a", "b"], 1, "b", [False, True], ["b", "a"], True),
        (["a", "b"], 0, "a", [False, True], ["a", "b"], True),
    ]


def test_every_schedule_can_be_chosen() -> None:
    # Two threads of two steps: 4! / (2! 2!).
    assert sum(1 for _ in every_run(main_and_two)) == 6


def test_an_open_question_is_a_decision() -> None:
    async def main() -> tuple[int, int]:
        runtime = current_thread().runtime
        return runtime.choose(3, "three"), runtime.choose(1, "no question")

    outcomes = list(every_run(main))
    assert [outcome.result for outcome in outcomes] == [(0, 0), (1, 0), (2, 0)]
    assert [outcome.choices for outcome in outcomes] == [[0], [1], [2]]


def test_an_operation_knows_its_thread_and_may_ask_and_spawn() -> None:
    async def child() -> None:
        pass

    async def main() -> list[object]:
        runtime = current_thread().runtime

        def action() -> list[object]:
            thread = current_thread()
            spawned = runtime.spawn("child", child())
            return [thread.label, runtime.choose(2, "inside"), spawned.path, spawned.parent is thread]

        return await Do(action)

    outcome = run(main, 1)
    assert outcome.crash is None
    assert outcome.result == ["main", 1, (0, 0), True]


def test_set_up_without_decisions() -> None:
    asked: list[tuple[int, int]] = []

    class Watching:
        def before_step(self, thread: Thread | None, pick: int, alternatives: int) -> None:
            asked.append((pick, alternatives))

        def chose(self, value: int, alternatives: int, label: str) -> None:
            raise AssertionError("nothing was to be chosen")

        def after_step(self, thread: Thread | None) -> None:
            pass

    async def main() -> None:
        runtime = current_thread().runtime
        assert isinstance(runtime, ControlledRuntime)
        runtime.without_decisions()
        spawn("worker", two_steps())
        for _ in range(3):
            await Load(Variable("x"))
        assert runtime.choose(2, "not asked") == 0
        runtime.without_decisions(True)

    script = Script(1, 1, 1)
    outcome = ControlledRuntime(script, observer=Watching()).run("main", main())
    assert outcome.crash is None
    assert outcome.choices == []
    assert script.sizes == []
    # An alternative that nobody was asked about is none to an observer either.
    assert set(asked) == {(0, 1)}


def test_the_same_choices_give_the_same_run() -> None:
    async def worker(variable: Variable, flag: Flag) -> int:
        await Wait(flag, timeout=5)
        if current_thread().runtime.choose(2, "again"):
            await Increment(variable)
        return await Increment(variable)

    async def main() -> int:
        variable, flag = Variable("x"), Flag()
        workers = [spawn(label, worker(variable, flag)) for label in "ab"]
        await Put(flag)
        return sum(len(thread.label) for thread in workers)

    for number, outcome in enumerate(every_run(main)):
        if number % 7 == 0:
            again = run(main, *outcome.choices)
            assert (again.choices, again.fingerprint, again.steps) == (
                outcome.choices,
                outcome.fingerprint,
                outcome.steps,
            )


HASH_SEED_PROGRAM = """
from random import Random
from runtime.kit import *

class Walk(Script):
    random = Random(7)
    def _next(self, n, label):
        return self.random.randrange(n)

async def worker(mutex, variable):
    for _ in range(3):
        await Acquire(mutex, timeout=4)
        await Increment(variable)
        if mutex.owner is current_thread():
            await Release(mutex)

async def main():
    mutex, variable = Mutex("m"), Variable("x")
    for label in ("a", "b", "c"):
        spawn(label, worker(mutex, variable))

for _ in range(20):
    outcome = ControlledRuntime(Walk()).run("main", main())
    assert outcome.crash is None
    print(outcome.end, outcome.choices, outcome.fingerprint, outcome.steps)
"""


def test_a_run_does_not_depend_on_the_hash_seed() -> None:
    tests = str(Path(__file__).parents[1])
    printed = {
        subprocess.run(
            [sys.executable, "-c", HASH_SEED_PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": tests},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
    assert len(set(printed.pop().splitlines())) > 10


def test_context_variables_belong_to_a_thread() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="outside")
    seen: list[tuple[str, str]] = []

    async def worker(label: str) -> None:
        seen.append((label, variable.get()))
        variable.set(label)
        await Point("between")
        seen.append((label, variable.get()))

    async def main() -> None:
        variable.set("main")
        spawn("a", worker("a"))
        spawn("b", worker("b"))

    ordered(main, "a b a b")
    # Inherited from the creator, as in every other thing called a task.
    assert seen == [("a", "main"), ("b", "main"), ("a", "a"), ("b", "b")]
    assert variable.get() == "outside"


def test_a_run_inside_a_run() -> None:
    async def inner() -> tuple[int, ...]:
        return current_thread().path

    async def main() -> tuple[Any, bool]:
        thread = current_thread()
        result = ControlledRuntime().run("inner", inner()).result
        return result, current_thread() is thread

    assert run(main).result == ((0,), True)


def test_outside_a_run_there_is_no_thread() -> None:
    with pytest.raises(UsageError, match="outside a run; call it from a driver or a scenario that kemu runs"):
        current_thread()
    run(two_steps)
    with pytest.raises(UsageError, match="outside a run"):
        current_thread()


# How a run ends.


def test_an_exception_is_a_crash_with_its_traceback() -> None:
    async def worker() -> None:
        await Point("before")
        raise ValueError("broken")

    async def main() -> None:
        spawn("worker", worker())

    outcome = run(main)
    assert isinstance(outcome.crash, ValueError)
    assert traceback.extract_tb(outcome.crash.__traceback__)[-1].name == "worker"
    assert outcome.end == "finished"


@pytest.mark.parametrize("error", [SystemExit(1), GeneratorExit(), BaseException("odd")])
def test_whatever_a_driver_raises_is_a_crash(error: BaseException) -> None:
    async def main() -> None:
        raise error

    assert run(main).crash is error


def test_what_an_operation_raises_is_a_crash_and_not_the_drivers_business() -> None:
    def action() -> None:
        raise StopIteration("not the end of the thread")

    async def main() -> None:
        try:
            await Do(action)
        except BaseException:  # noqa: BLE001 (a driver that swallows everything)
            raise AssertionError("the driver saw it") from None

    assert isinstance(run(main).crash, StopIteration)


def test_an_interrupt_goes_through_and_leaves_nothing_suspended() -> None:
    ended: list[str] = []

    async def waiter(flag: Flag) -> None:
        try:
            await Wait(flag)
        finally:
            ended.append("waiter")

    async def main() -> None:
        spawn("waiter", waiter(Flag()))
        await Point("let it wait")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ordered(main, "waiter")
    assert ended == ["waiter"]
    with pytest.raises(UsageError):
        current_thread()


def test_what_an_oracle_raises_cannot_be_swallowed() -> None:
    class Diverged(Script):
        def choose(self, n: int, label: str) -> int:
            raise ReplayDiverged("no such question", 3)

    after: list[str] = []

    async def main() -> None:
        try:
            current_thread().runtime.choose(2, "asked under the driver")
        except BaseException:  # noqa: BLE001 (a driver that swallows everything)
            after.append("swallowed")
        await Point("and goes on")
        after.append("went on")

    outcome = ControlledRuntime(Diverged()).run("main", main())
    assert isinstance(outcome.crash, ReplayDiverged)
    assert after == ["swallowed"]


def test_an_oracle_that_raises_while_it_picks() -> None:
    class Diverged(Script):
        def pick(self, n: int, point: DecisionPoint) -> int:
            raise ReplayDiverged("no such thread", 3)

    assert isinstance(ControlledRuntime(Diverged()).run("main", main_and_two()).crash, ReplayDiverged)


def test_the_step_limit() -> None:
    async def forever() -> None:
        while True:
            await Point("spin")

    outcome = ControlledRuntime(max_steps=50).run("main", forever())
    assert outcome.end == "step-limit"
    assert outcome.steps == 50
    assert outcome.stuck is None


def test_a_run_of_exactly_the_limit_is_finished() -> None:
    assert ControlledRuntime(max_steps=5).run("main", main_and_two()).end == "finished"
    assert ControlledRuntime(max_steps=4).run("main", main_and_two()).end == "step-limit"


def test_a_timer_that_sets_itself_again_reaches_the_step_limit() -> None:
    async def main() -> None:
        thread = current_thread()
        clock = thread.runtime.clock
        timer = Timer(clock, thread, "periodic", lambda: timer.arm(clock.now + 10))
        timer.arm(10)

    outcome = ControlledRuntime(max_steps=30).run("main", main())
    assert outcome.end == "step-limit"
    # 30 were taken: the thread's one and 29 of the clock.
    assert outcome.steps == 30


def test_an_invariant_is_asked_after_every_step_and_may_end_the_run() -> None:
    async def main() -> None:
        variable = Variable("x")

        def small() -> None:
            if variable.value > 2:
                current_thread().runtime.stop(f"x is {variable.value}")

        current_thread().runtime.invariants.append(small)
        for _ in range(10):
            await Increment(variable)

    outcome = run(main)
    assert (outcome.end, outcome.failure, outcome.steps) == ("stopped", "x is 3", 4)


def test_the_layer_above_judges_a_run_that_came_to_its_end() -> None:
    def conclude(outcome: Outcome) -> str | None:
        return "leak" if outcome.result == "leaks" else None

    async def main(how: str) -> str:
        runtime = current_thread().runtime
        runtime.conclude = conclude
        if how == "stops":
            runtime.stop("bug check")
        return how

    assert run(lambda: main("ends")).failure is None
    assert run(lambda: main("leaks")).failure == "leak"
    assert run(lambda: main("stops")).failure == "bug check"


# What is left.


def test_a_finished_run_is_freed_without_a_collection() -> None:
    async def worker(variable: Variable, flag: Flag) -> None:
        await Increment(variable)
        await Wait(flag, timeout=100)

    async def main() -> None:
        variable, flag = Variable("x"), Flag()
        for label in "ab":
            spawn(label, worker(variable, flag))
        spawn("blocked", worker(variable, Flag()))
        spawn("service", worker(variable, flag), service=True)
        await Increment(variable)
        await Put(flag)

    run(main)
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            run(main, 1, 2, 0, 1)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_stuck_run_is_freed_without_a_collection() -> None:
    async def main() -> None:
        await Wait(Flag())

    assert run(main).end == "stuck"
    gc.collect()
    gc.disable()
    try:
        run(main)
        assert gc.collect() == 0
    finally:
        gc.enable()


# Watching.


class Recorder:
    """Notes what an observer is told, and the footprint of each step."""

    def __init__(self) -> None:
        self.runtime: ControlledRuntime | None = None
        self.events: list[tuple[str, ...]] = []

    def before_step(self, thread: Thread | None, pick: int, alternatives: int) -> None:
        self.events.append(("before", thread.label if thread else "clock", f"{pick}/{alternatives}"))

    def chose(self, value: int, alternatives: int, label: str) -> None:
        self.events.append(("chose", f"{value}/{alternatives}", label))

    def after_step(self, thread: Thread | None) -> None:
        assert self.runtime is not None
        stepped = thread or self.runtime.clock.thread(self.runtime)
        footprint = stepped.footprint
        assert footprint is not None
        touched = [f"{'RWU'[mode]} {cell.label}" for cell, mode in footprint]
        self.events.append(("after", stepped.label, *touched))
        footprint.clear()


def test_an_observer_sees_steps_questions_and_footprints() -> None:
    async def worker(variable: Variable) -> None:
        await Increment(variable)

    async def main() -> None:
        variable = Variable("x")
        spawn("worker", worker(variable))
        await Load(variable)
        current_thread().runtime.choose(2, "which")

    recorder = Recorder()
    recorder.runtime = ControlledRuntime(Script(0, 1), observer=recorder)
    assert recorder.runtime.run("main", main()).crash is None
    assert recorder.events == [
        ("before", "main", "0/1"),
        ("after", "main", "W worker"),
        ("before", "main", "0/2"),
        ("chose", "1/2", "which"),
        ("after", "main", "R x", "W main"),
        ("before", "worker", "0/1"),
        ("after", "worker"),
        ("before", "worker", "0/1"),
        ("after", "worker", "W x", "W worker"),
    ]


def test_time_is_in_the_footprints() -> None:
    async def main() -> None:
        flag = Flag()
        assert not await Wait(flag, timeout=7)
        thread = current_thread()
        assert thread.runtime.clock.read(thread) == 7

    recorder = Recorder()
    recorder.runtime = ControlledRuntime(observer=recorder)
    assert recorder.runtime.run("main", main()).crash is None
    timer = "timeout of main"
    assert recorder.events == [
        ("before", "main", "0/1"),
        # The deadline counts from now; that the flag is not set is why the timer is set: both were observed.
        ("after", "main", "R flag", "R clock", "R clock", f"W {timer}"),
        ("before", "clock", "0/1"),
        ("after", "clock", "W clock", f"W {timer}", "R flag"),
        ("before", "main", "0/1"),
        ("after", "main", f"R {timer}", "R flag", "R clock", "W main"),
    ]


def test_an_observer_changes_nothing() -> None:
    async def main() -> None:
        variable, flag = Variable("x"), Flag()
        for label in "ab":
            spawn(label, increment_after(flag, variable))
        await Store(variable, 5)

    async def increment_after(flag: Flag, variable: Variable) -> None:
        await Wait(flag, timeout=3)
        await Increment(variable)

    for outcome in every_run(main):
        recorder = Recorder()
        recorder.runtime = ControlledRuntime(Script(*outcome.choices), observer=recorder)
        watched = recorder.runtime.run("main", main())
        assert (watched.choices, watched.fingerprint) == (outcome.choices, outcome.fingerprint)


def test_a_point_reads_its_cell() -> None:
    async def main() -> None:
        await Point("return PENDING", Cell(current_thread(), "frame"))

    recorder = Recorder()
    recorder.runtime = ControlledRuntime(First(), observer=recorder)
    recorder.runtime.run("main", main())
    assert recorder.events[-1] == ("after", "main", "R frame", "W main")
    assert Point("return PENDING").describe() == "return PENDING"
