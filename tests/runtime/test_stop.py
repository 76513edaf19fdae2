"""Ending a run from inside: no driver code can change the verdict, and what refuses to end is named."""

from __future__ import annotations

from typing import Any
from weakref import ref

import pytest
from runtime.kit import Do, Flag, Increment, Main, Variable, Wait, ordered, run, spawn

from kemu.runtime import First, Outcome, Point, Timer, Unwind, current_thread
from kemu.runtime.controlled import ControlledRuntime

EFFECTS: list[str] = []


@pytest.fixture(autouse=True)
def no_effects() -> None:
    EFFECTS.clear()


def stop() -> None:
    current_thread().runtime.stop("bug check")


async def effect(what: str) -> None:
    await Do(lambda: EFFECTS.append(what))


def stopped(main: Main, order: str = "") -> Outcome:
    outcome = ordered(main, order)
    assert outcome.end == "stopped"
    assert outcome.failure == "bug check"
    assert outcome.crash is None
    assert outcome.stuck is None
    return outcome


def test_stop_ends_the_run() -> None:
    async def other() -> None:
        await effect("another thread went on")

    async def main() -> None:
        spawn("other", other())
        stop()
        EFFECTS.append("stop returned")

    outcome = stopped(main)
    assert EFFECTS == []
    assert outcome.steps == 1
    assert outcome.swallowed == ()


def test_stop_inside_an_operation() -> None:
    async def main() -> None:
        try:
            await Do(stop)
        except Exception:  # noqa: BLE001
            EFFECTS.append("the driver saw an exception")
        EFFECTS.append("went on")

    assert stopped(main).swallowed == ()
    assert EFFECTS == []


def test_stop_inside_a_timer() -> None:
    async def main() -> None:
        thread = current_thread()
        Timer(thread.runtime.clock, thread, "timer", stop).arm(5)
        await Wait(Flag())

    stopped(main)


def test_the_first_failure_counts() -> None:
    async def main() -> None:
        try:
            stop()
        finally:
            current_thread().runtime.stop("another failure")

    stopped(main)


def test_a_driver_that_swallows_and_goes_on() -> None:
    async def main() -> None:
        try:
            stop()
        except BaseException:  # noqa: BLE001
            await effect("went on")
        await effect("and on")

    assert stopped(main).swallowed == ()
    assert EFFECTS == []


def test_a_driver_that_raises_something_else_instead() -> None:
    async def main() -> None:
        try:
            stop()
        except BaseException:  # noqa: BLE001
            raise ValueError("hides the failure") from None

    stopped(main)


def test_a_driver_that_awaits_in_finally() -> None:
    async def waiter() -> None:
        try:
            await Wait(Flag())
        finally:
            await effect("in finally")
            await effect("again")

    async def main() -> None:
        spawn("waiter", waiter())
        await Point("let it wait")
        stop()

    assert stopped(main, "waiter").swallowed == ()
    assert EFFECTS == []


@pytest.mark.parametrize("stopper_swallows", [False, True])
def test_a_driver_that_swallows_for_ever_is_named(stopper_swallows: bool) -> None:
    async def stubborn() -> None:
        while True:
            try:
                await effect("tick")
            except BaseException:  # noqa: BLE001
                continue

    async def main() -> None:
        spawn("stubborn", stubborn())
        await Point("let it start")
        try:
            stop()
        except BaseException:
            if not stopper_swallows:
                raise

    outcome = stopped(main, "stubborn stubborn main")
    assert outcome.swallowed == ("stubborn",)
    assert EFFECTS == ["tick"]


def test_what_a_swallowing_driver_does_has_no_effect() -> None:
    async def main() -> None:
        thread = current_thread()
        runtime = thread.runtime
        flag, variable = Flag(), Variable("x")
        spawn("waiter", waiter(flag))
        await Point("let it wait")
        try:
            stop()
        except BaseException:  # noqa: BLE001
            spawn("born too late", effect("born too late"))
            Timer(runtime.clock, thread, "late", lambda: EFFECTS.append("timer")).arm(1)
            assert runtime.choose(2, "not asked any more") == 0
            flag.is_set = True
            flag.changed()
            await Wait(flag)
            await Increment(variable)

    async def waiter(flag: Flag) -> None:
        await Wait(flag)
        EFFECTS.append("woken")

    outcome = stopped(main, "waiter")
    assert EFFECTS == []
    assert len(outcome.choices) == 1
    assert outcome.steps == 3


def test_nothing_is_logged_after_the_end() -> None:
    events: list[str] = []

    def log(event: str, /, *, cause: int | None = None, **fields: Any) -> int:
        events.append(event)
        return 0

    async def main() -> None:
        current_thread().runtime.log = log
        spawn("one", effect("x"))
        try:
            stop()
        except Unwind:
            spawn("two", effect("x"))

    stopped(main)
    assert events == ["actor.spawn"]


def test_abort_is_the_same_with_an_error_of_kemus() -> None:
    error = RuntimeError("misuse")

    async def main() -> None:
        try:
            current_thread().runtime.abort(error)
        except BaseException:  # noqa: BLE001
            await effect("went on")
        current_thread().runtime.stop("too late")

    outcome = run(main)
    assert outcome.crash is error
    assert outcome.failure is None
    assert EFFECTS == []


def test_an_interrupt_while_a_run_is_taken_apart() -> None:
    async def waiter() -> None:
        try:
            await Wait(Flag())
        finally:
            raise KeyboardInterrupt

    async def main() -> None:
        spawn("waiter", waiter())

    with pytest.raises(KeyboardInterrupt):
        ControlledRuntime(First()).run("main", main())


def test_a_coroutine_that_refuses_to_end_is_freed_with_the_run() -> None:
    """If it were freed at the exit of the interpreter, its loop would find no globals and never end."""
    coroutines: list[ref[object]] = []

    async def stubborn() -> None:
        while True:
            try:
                await effect("tick")
            except BaseException:  # noqa: BLE001
                continue

    async def main() -> None:
        coroutines.append(ref(spawn("stubborn", stubborn()).coroutine))
        await Point("let it start")
        stop()

    assert stopped(main, "stubborn main").swallowed == ("stubborn",)
    assert coroutines[0]() is None
