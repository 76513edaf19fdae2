"""The determinism check passes programs that follow from their decisions, and names the step of one that does not."""

from __future__ import annotations

import pytest
from explore.programs import (
    Load,
    Store,
    TestProgram,
    Variable,
    abba,
    fail,
    lost_update,
    periodic,
    questions,
    spawn,
    timed_wait,
)

from kemu.errors import ScenarioNotDeterministic
from kemu.explore import RandomWalk, check_determinism
from kemu.runtime import current_thread


@pytest.mark.parametrize("main", [abba, lost_update, timed_wait, questions, periodic])
def test_deterministic_programs_pass(main: object) -> None:
    program = TestProgram(main)  # type: ignore[arg-type]
    strategy = RandomWalk(1)
    for _ in range(20):
        outcome = check_determinism(program, strategy)
        assert check_determinism(program, outcome.choices).fingerprint == outcome.fingerprint
    assert check_determinism(program).choices == check_determinism(program, [0]).choices


def test_another_operation() -> None:
    log: list[int] = []

    async def remembers() -> None:
        x = Variable("x")
        await Load(x)
        log.append(0)
        await (Store(x, 1) if len(log) > 1 else Load(x))

    # Start is step 0, the first load step 1.
    with pytest.raises(ScenarioNotDeterministic) as caught:
        check_determinism(TestProgram(remembers))
    assert caught.value.step == 2
    assert str(caught.value).startswith(
        "step 2: in one run main performs 'load x', 1 alternatives; in the next main performs 'store x'"
    )
    assert "wall clock" in str(caught.value)
    assert "state of a module or class that survives a run" in str(caught.value)


def test_another_number_of_threads() -> None:
    log: list[int] = []

    async def idle() -> None:
        await Load(Variable("own"))

    async def grows() -> None:
        log.append(0)
        for number in range(1 + len(log)):
            spawn(f"t{number}", idle())

    with pytest.raises(ScenarioNotDeterministic, match=r"step 1: .*2 alternatives; in the next .*3 alternatives"):
        check_determinism(TestProgram(grows))


def test_another_question() -> None:
    log: list[int] = []

    async def asks() -> None:
        log.append(0)
        current_thread().runtime.choose(2, f"allocation {len(log)}")

    with pytest.raises(ScenarioNotDeterministic, match=r"step 0: .*'allocation 1' has 2 .*'allocation 2' has 2"):
        check_determinism(TestProgram(asks))


def test_a_run_that_is_longer() -> None:
    log: list[int] = []

    async def longer() -> None:
        log.append(0)
        if len(log) > 1:
            await Load(Variable("x"))

    with pytest.raises(ScenarioNotDeterministic, match="step 1: in one run the run is over; in the next main performs"):
        check_determinism(TestProgram(longer))


def test_another_end() -> None:
    log: list[int] = []

    async def fails_once() -> None:
        log.append(0)
        if len(log) > 1:
            fail("the second time")

    with pytest.raises(
        ScenarioNotDeterministic, match=r"step 1: the same steps ended as .*finished.* and then as .*WRONG"
    ):
        check_determinism(TestProgram(fails_once))


def test_another_value_that_only_cells_see() -> None:
    # The same operations on the same cells, but what was read before differs: the fingerprint tells.
    log: list[int] = []

    async def touches() -> None:
        log.append(0)
        thread = current_thread()
        x = Variable("x")
        if len(log) > 1:
            thread.write(x)
        await Load(x)

    with pytest.raises(ScenarioNotDeterministic, match="fingerprint"):
        check_determinism(TestProgram(touches))
