"""The live runtime: the same programs, as tasks on trio and on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.lowlevel
from runtime.kit import Acquire, Do, Flag, Increment, Main, Mutex, Put, Release, Script, Variable, Wait, run, spawn
from runtime.test_actor import Callee, Work, Worker

from kemu.errors import ReplayDiverged, UsageError
from kemu.runtime import TICKS_PER_SECOND, Join, Outcome, Point, Thread, Timer, ask, current_thread, tell
from kemu.runtime.live import LiveRuntime, run_live

MILLISECOND = TICKS_PER_SECOND // 1_000

Live = Callable[..., Outcome]


@pytest.fixture(params=["trio", "asyncio"])
def live(request: pytest.FixtureRequest) -> Live:
    def run_on_backend(main: Main, *choices: int) -> Outcome:
        return run_live(main(), "main", LiveRuntime(Script(*choices)), request.param)

    return run_on_backend


async def everything() -> dict[str, object]:
    """Locks, flags, time-outs, actors, messages and joins; the result does not depend on the schedule."""
    thread = current_thread()
    runtime = thread.runtime
    mutex, variable, flag = Mutex("m"), Variable("x"), Flag()
    woken: list[str] = []
    fired: list[str] = []

    async def adder(times: int) -> str:
        for _ in range(times):
            await Acquire(mutex)
            value = variable.value
            await Point("between load and store")
            variable.value = value + 1
            await Release(mutex)
        return current_thread().label

    async def sleeper(timeout: int) -> None:
        assert not await Wait(Flag(), timeout=timeout)
        woken.append(current_thread().label)

    async def patient() -> bool:
        return await Wait(flag, timeout=60_000 * MILLISECOND)

    adders = [spawn(f"adder {number}", adder(number)) for number in (1, 2, 3)]
    sleepers = [spawn(label, sleeper(time * MILLISECOND)) for label, time in (("late", 20), ("early", 2))]
    waiter = spawn("patient", patient())
    worker, callee = Worker("worker"), Callee("callee")
    for item in "12":
        await tell(worker, Work, item)
    Timer(runtime.clock, thread, "timer", lambda: fired.append("fired")).arm(runtime.clock.now + MILLISECOND)
    cancelled = Timer(runtime.clock, thread, "cancelled", lambda: fired.append("cancelled"))
    cancelled.arm(60_000 * MILLISECOND)
    assert cancelled.cancel()
    poll = await Wait(flag, timeout=0)
    await Put(flag)
    answer = await ask(callee, Work, "asked")
    joined = [await Join(each) for each in adders]
    for each in sleepers:
        await Join(each)
    return {
        "sum": variable.value,
        "joined": joined,
        "woken": woken,
        "poll": poll,
        "patient": await Join(waiter),
        "answer": answer,
        "done": worker.done,
        "fired": fired,
        "choice": runtime.choose(3, "which"),
        "names": [each.path for each in (*adders, *sleepers, waiter)],
    }


def test_the_final_state_is_that_of_the_plain_controlled_run(live: Live) -> None:
    controlled, on_loop = run(everything), live(everything)
    assert controlled.crash is None
    assert on_loop.crash is None
    assert (on_loop.end, on_loop.result) == (controlled.end, controlled.result)
    assert on_loop.result["sum"] == 6
    assert on_loop.result["woken"] == ["early", "late"]
    assert on_loop.steps > 20


def test_open_questions_go_to_the_oracle(live: Live) -> None:
    async def main() -> tuple[int, int]:
        choose = current_thread().runtime.choose
        return choose(3, "first"), choose(2, "second")

    outcome = live(main, 2, 1)
    assert outcome.result == (2, 1)
    assert outcome.choices == [2, 1]


def test_an_operation_knows_its_thread(live: Live) -> None:
    async def child() -> None:
        pass

    async def main() -> object:
        def action() -> object:
            thread = current_thread()
            return thread.label, thread.runtime.spawn("child", child()).path

        return await Do(action)

    assert live(main).result == ("main", (0, 0))


def test_what_belongs_to_the_event_loop_can_be_awaited(live: Live) -> None:
    async def main() -> list[str]:
        done: list[str] = []

        async def helper(number: int) -> None:
            await anyio.lowlevel.checkpoint()
            done.append(str(number))

        async with anyio.create_task_group() as group:
            group.start_soon(helper, 1)
        send, receive = anyio.create_memory_object_stream[str](1)
        async with send, receive:
            await send.send("stream")
            done.append(await receive.receive())
        await Point("an operation between")
        try:
            with anyio.fail_after(0.001):
                await anyio.sleep_forever()
        except TimeoutError:
            done.append("timeout")
        return done

    outcome = live(main)
    assert outcome.crash is None
    assert outcome.result == ["1", "stream", "timeout"]


def test_calls_of_one_library() -> None:
    async def on_trio() -> str:
        await trio.lowlevel.checkpoint()
        return "trio"

    async def on_asyncio() -> str:
        await asyncio.sleep(0)
        return await asyncio.get_running_loop().run_in_executor(None, lambda: "asyncio")

    assert run_live(on_trio(), "main", LiveRuntime(), "trio").result == "trio"
    assert run_live(on_asyncio(), "main", LiveRuntime(), "asyncio").result == "asyncio"


def test_a_cancel_scope_around_an_operation(live: Live) -> None:
    async def main() -> tuple[bool, list[Thread], bool]:
        flag = Flag()
        with anyio.move_on_after(0.001) as scope:
            await Wait(flag)
        left = list(flag.watchers)
        await Put(flag)
        return scope.cancelled_caught, left, await Wait(flag)

    assert live(main).result == (True, [], True)


def test_the_event_loops_clock_counts(autojump_clock: trio.testing.MockClock) -> None:
    """An hour of it costs nothing: the time is the loop's, not the host's."""

    async def main() -> list[object]:
        clock = current_thread().runtime.clock
        found: list[object] = [clock.now, await Wait(Flag(), timeout=3_600 * TICKS_PER_SECOND)]
        return [*found, clock.now]

    async def hosted() -> Outcome:
        return await LiveRuntime().run("main", main())

    outcome = trio.run(hosted, clock=autojump_clock)
    assert outcome.result == [0, False, 3_600 * TICKS_PER_SECOND]


@pytest.mark.trio
async def test_inside_a_loop_that_is_running(autojump_clock: object) -> None:
    plain = run(everything)
    outcome = await LiveRuntime().run("main", everything())
    assert outcome.crash is None
    assert outcome.result == plain.result
    with pytest.raises(UsageError, match="outside a run"):
        current_thread()


# How a run ends.


def test_a_deadlock_ends_the_run_with_its_cycle(live: Live) -> None:
    async def both(first: Mutex, second: Mutex, met: Flag, other_met: Flag) -> None:
        await Acquire(first)
        await Put(met)
        await Wait(other_met)
        try:
            await Acquire(second)
        finally:
            # When the tasks are cancelled; what was waited for must have been written down before.
            await Release(first)

    async def main() -> None:
        one, other, here, there = Mutex("A"), Mutex("B"), Flag(), Flag()
        spawn("p", both(one, other, here, there))
        spawn("q", both(other, one, there, here))

    outcome = live(main)
    assert outcome.end == "stuck"
    assert outcome.stuck is not None
    assert outcome.stuck.cycle == ("p", "q")
    assert [str(blocked) for blocked in outcome.stuck.blocked] == [
        "p waits to acquire B, held by q",
        "q waits to acquire A, held by p",
    ]


def test_a_hang_ends_the_run(live: Live) -> None:
    async def main() -> None:
        await Wait(Flag("an answer"))

    outcome = live(main)
    assert outcome.end == "stuck"
    assert outcome.stuck is not None
    assert not outcome.stuck.is_deadlock


def test_stop_ends_the_run_whatever_drivers_do(live: Live) -> None:
    effects: list[str] = []

    async def waiter() -> None:
        try:
            await Wait(Flag())
        finally:
            await Do(lambda: effects.append("in finally"))

    async def shielded() -> None:
        try:
            await Wait(Flag())
        finally:
            with anyio.CancelScope(shield=True):
                await Do(lambda: effects.append("under a shield"))

    async def main() -> None:
        spawn("waiter", waiter())
        spawn("shielded", shielded())
        for _ in range(3):
            await Point("let them wait")
        try:
            current_thread().runtime.stop("bug check")
        except BaseException:  # noqa: BLE001
            await Do(lambda: effects.append("went on"))

    outcome = live(main)
    assert (outcome.end, outcome.failure, outcome.crash, outcome.stuck) == ("stopped", "bug check", None, None)
    assert effects == []
    assert outcome.swallowed == ()


def test_code_that_swallows_its_end_is_left_behind_and_named(live: Live) -> None:
    async def stubborn() -> None:
        while True:
            try:
                await Point("tick")
            except BaseException:  # noqa: BLE001
                continue

    async def main() -> None:
        spawn("stubborn", stubborn())
        for _ in range(3):
            await Point("let it start")
        current_thread().runtime.stop("bug check")

    outcome = live(main)
    assert outcome.end == "stopped"
    assert outcome.swallowed == ("stubborn",)


def test_an_exception_is_a_crash(live: Live) -> None:
    async def worker() -> None:
        raise ValueError("broken")

    async def main() -> None:
        spawn("worker", worker())
        await Wait(Flag())

    outcome = live(main)
    assert isinstance(outcome.crash, ValueError)
    assert outcome.stuck is None


def test_what_an_oracle_raises_cannot_be_swallowed(live: Live) -> None:
    class Diverged(Script):
        def choose(self, n: int, label: str) -> int:
            raise ReplayDiverged("no such question", 3)

    async def main() -> None:
        try:
            current_thread().runtime.choose(2, "asked")
        except BaseException:  # noqa: BLE001
            await Point("swallowed")

    for backend in ("trio", "asyncio"):
        assert isinstance(run_live(main(), "main", LiveRuntime(Diverged()), backend).crash, ReplayDiverged)


@pytest.mark.parametrize("error", [ValueError("broken"), None])
def test_a_timer_may_end_the_run(live: Live, error: Exception | None) -> None:
    async def main() -> None:
        thread = current_thread()

        def expire() -> None:
            if error is not None:
                raise error
            thread.runtime.stop("bug check in a timer")

        Timer(thread.runtime.clock, thread, "timer", expire).arm(1)
        await Wait(Flag())

    outcome = live(main)
    assert outcome.crash is error
    assert outcome.failure == (None if error else "bug check in a timer")


async def in_a_task_group(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(body)


async def in_a_task_group_that_fails_twice(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("beside it")

    async with anyio.create_task_group() as group:
        group.start_soon(fail)
        await anyio.lowlevel.checkpoint()
        group.start_soon(body)


@pytest.mark.parametrize("start", [in_a_task_group, in_a_task_group_that_fails_twice])
def test_an_operation_in_a_task_of_the_drivers_own(
    live: Live, start: Callable[[Callable[[], Coroutine[Any, Any, None]]], Coroutine[Any, Any, None]]
) -> None:
    async def body() -> None:
        await Increment(Variable("x"))

    async def main() -> None:
        await start(body)

    error = live(main).crash
    assert isinstance(error, UsageError)
    assert error.message == "a kernel routine was awaited in a task that the driver started itself"
    assert "World.start" in error.remedy


def test_an_operation_in_an_asyncio_task() -> None:
    async def body() -> None:
        await Point("x")

    async def main() -> None:
        await asyncio.create_task(body())

    outcome = run_live(main(), "main", LiveRuntime(), "asyncio")
    assert isinstance(outcome.crash, UsageError)


def test_idle_services_do_not_keep_a_run_alive(live: Live) -> None:
    async def main() -> Worker:
        worker = Worker("worker", threads=2)
        await tell(worker, Work, "item")
        return worker

    outcome = live(main)
    assert outcome.end == "finished"
    assert [item for _, item in outcome.result.done] == ["item"]


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_invariants_are_checked_after_every_step_of_a_live_run_too(backend: str) -> None:
    seen: list[str] = []

    async def main() -> None:
        await Point("one")
        seen.append("too far")
        await Point("two")
        seen.append("much too far")

    runtime = LiveRuntime()
    runtime.invariants.append(lambda: runtime.stop("broken") if seen else None)
    assert run_live(main(), "main", runtime, backend).failure == "broken"
    assert seen == ["too far"]
