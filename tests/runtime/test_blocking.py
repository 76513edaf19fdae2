"""Waiting: who can go on, and what time has to do with it."""

from __future__ import annotations

from itertools import pairwise

from runtime.kit import (
    Acquire,
    Do,
    Flag,
    Increment,
    Load,
    Mutex,
    Put,
    Release,
    Script,
    Variable,
    Wait,
    every_run,
    ordered,
    run,
    spawn,
)

from kemu.runtime import (
    TICKS_PER_SECOND,
    Cell,
    ControlledRuntime,
    DecisionPoint,
    Point,
    Thread,
    Timer,
    current_thread,
    is_preemption,
    party,
)


def now() -> int:
    return current_thread().runtime.clock.now


def test_a_lock_excludes_in_every_run() -> None:
    inside: list[str] = []

    async def worker(mutex: Mutex) -> None:
        await Acquire(mutex)
        assert inside == []
        inside.append(current_thread().label)
        await Point("inside")
        inside.clear()
        await Release(mutex)

    async def main() -> None:
        mutex = Mutex("m")
        for label in "ab":
            spawn(label, worker(mutex))

    count = 0
    for outcome in every_run(main):
        assert outcome.end == "finished"
        count += 1
    # Each takes four steps: start, acquire, point, release. If a has the lock first, of b's steps only the start can
    # come before a's last: before each of a's four steps, or after them: 5 runs. The same with b first: 10.
    assert count == 10


def test_a_thread_that_waits_is_no_alternative() -> None:
    async def waiter(flag: Flag) -> None:
        await Wait(flag)

    async def main() -> None:
        flag = Flag()
        spawn("waiter", waiter(flag))
        await Point("one")
        await Point("two")
        await Put(flag)

    script = Script(1)
    assert ControlledRuntime(script).run("main", main()).end == "finished"
    # waiter starts and waits; main alone until it has set the flag and ended in the same step; the waiter alone.
    assert script.sizes == [2]


def test_a_chance_that_is_gone_is_waited_for_again() -> None:
    got: list[str] = []

    async def waiter(flag: Flag) -> None:
        await Wait(flag)
        got.append(current_thread().label)

    async def main() -> None:
        flag = Flag()
        spawn("a", waiter(flag))
        await Put(flag)
        await Put(flag, False)
        got.append("cleared")
        await Put(flag)

    # a starts and waits; it could go on after the first Put, but main clears the flag before it does.
    outcome = ordered(main, "a main main")
    assert outcome.end == "finished"
    assert got == ["cleared", "a"]


# Time.


def test_time_stands_still_while_threads_run_and_jumps_when_all_wait() -> None:
    async def main() -> list[int]:
        times = [now()]
        await Point("a step")
        times.append(now())
        assert not await Wait(Flag(), timeout=3 * TICKS_PER_SECOND)
        times.append(now())
        return times

    assert run(main).result == [0, 0, 30_000_000]


def test_deadlines_expire_in_their_order() -> None:
    woken: list[tuple[str, int]] = []

    async def waiter(flag: Flag, timeout: int) -> None:
        assert not await Wait(flag, timeout=timeout)
        woken.append((current_thread().label, now()))

    async def main() -> None:
        flag = Flag()
        for label, timeout in (("late", 30), ("early", 10), ("middle", 20)):
            spawn(label, waiter(flag, timeout))

    run(main)
    assert woken == [("early", 10), ("middle", 20), ("late", 30)]
    woken.clear()
    for outcome in every_run(main):
        assert outcome.end == "finished"
        # Threads may be slow after they have been woken, but time never runs backwards.
        assert all(one[1] <= other[1] for one, other in pairwise(woken))
        assert all(time >= {"late": 30, "early": 10, "middle": 20}[label] for label, time in woken)
        woken.clear()


def test_equal_deadlines_expire_by_name_whoever_waited_first() -> None:
    def expired_first(order: str) -> str:
        woken: list[str] = []

        async def waiter(flag: Flag) -> None:
            await Wait(flag, timeout=5)
            woken.append(current_thread().label)

        async def main() -> None:
            flag = Flag()
            for label in "ab":
                spawn(label, waiter(flag))

        ordered(main, order)
        return woken[0]

    assert expired_first("a b") == expired_first("b a") == "a"


def test_early_expiry_is_the_last_alternative_and_no_preemption() -> None:
    seen: list[tuple[int, list[bool]]] = []

    class Watching(Script):
        def pick(self, n: int, point: DecisionPoint) -> int:
            if point.clock_is_enabled:
                assert party(point, n - 1) is None
                seen.append((len(point.ready), [is_preemption(point, pick) for pick in range(n)]))
            return super().pick(n, point)

    async def waiter(flag: Flag) -> bool:
        return await Wait(flag, timeout=10)

    async def main() -> Thread:
        flag = Flag()
        thread = spawn("waiter", waiter(flag))
        await Point("a")
        await Put(flag)
        return thread

    # The waiter starts; main goes on before and after, or the clock (the last of 2) fires first.
    plain = ControlledRuntime(Watching(1)).run("main", main())
    assert plain.result.result is True
    assert seen[0] == (1, [False, False])
    early = ControlledRuntime(Watching(1, 1)).run("main", main())
    assert early.result.result is False


def test_what_is_free_cannot_time_out_any_more() -> None:
    async def waiter(flag: Flag) -> bool:
        return await Wait(flag, timeout=10)

    async def main() -> Thread:
        flag = Flag()
        thread = spawn("waiter", waiter(flag))
        await Put(flag)
        # Long after the deadline of the waiter, who has not run yet.
        await Wait(Flag(), timeout=1_000)
        return thread

    # The waiter waits, main sets the flag: main's deadline is the only one left, and passes first.
    outcome = ordered(main, "waiter main clock")
    assert outcome.result.result is True


def test_a_deadline_holds_while_the_chance_comes_and_goes() -> None:
    async def waiter(flag: Flag) -> int:
        assert not await Wait(flag, timeout=10)
        return now()

    async def main() -> Thread:
        flag = Flag()
        thread = spawn("waiter", waiter(flag))
        await Put(flag)
        await Wait(Flag(), timeout=4)
        await Put(flag, False)
        return thread

    # waiter starts; flag set; 4 ticks pass; flag cleared before the waiter has run: 6 ticks are left of its 10.
    assert ordered(main, "waiter main clock main").result.result == 10


def test_an_expired_wait_stays_expired() -> None:
    async def waiter(flag: Flag) -> bool:
        return await Wait(flag, timeout=10)

    async def main() -> Thread:
        flag = Flag()
        thread = spawn("waiter", waiter(flag))
        await Put(flag)
        return thread

    assert ordered(main, "waiter clock main").result.result is False


def test_a_poll_does_not_wait() -> None:
    async def main() -> list[object]:
        flag = Flag()
        results: list[object] = [await Wait(flag, timeout=0)]
        await Put(flag)
        results += [await Wait(flag, timeout=0), now()]
        return results

    outcome = run(main)
    assert outcome.result == [False, True, 0]
    assert outcome.choices == []


def test_an_operation_can_be_awaited_again() -> None:
    async def main() -> list[bool]:
        flag = Flag()
        wait = Wait(flag, timeout=5)
        results = [await wait, await wait]
        await Put(flag)
        return [*results, await wait]

    assert run(main).result == [False, False, True]


def test_names_do_not_depend_on_whether_a_thread_had_to_wait() -> None:
    """Two runs that differ in independent steps only: in one, b's wait begins while the lock is held."""
    names: list[tuple[int, ...]] = []

    async def holder(mutex: Mutex) -> None:
        await Acquire(mutex)
        await Release(mutex)

    async def waiter(mutex: Mutex) -> None:
        assert await Acquire(mutex, timeout=10)
        names.append(Cell(current_thread(), "made afterwards").name)

    async def main() -> None:
        mutex = Mutex("m")
        spawn("a", holder(mutex))
        spawn("b", waiter(mutex))

    ordered(main, "a a b")
    ordered(main, "a a a b")
    assert len(names) == 2
    assert len(set(names)) == 1


def test_runs_that_differ_in_time_have_different_fingerprints() -> None:
    async def sleeper() -> None:
        await Wait(Flag(), timeout=10)

    async def main() -> int:
        spawn("sleeper", sleeper())
        await Point("a")
        thread = current_thread()
        return thread.runtime.clock.read(thread)

    results: dict[int, set[int]] = {}
    for outcome in every_run(main):
        results.setdefault(outcome.fingerprint, set()).add(outcome.result)
    assert all(len(times) == 1 for times in results.values())
    assert {time for times in results.values() for time in times} == {0, 10}


# Timers.


def test_a_timer_can_be_set_anew_and_cancelled() -> None:
    fired: list[tuple[str, int]] = []

    async def main() -> None:
        thread = current_thread()
        clock = thread.runtime.clock

        def timer(label: str) -> Timer:
            return Timer(clock, thread, label, lambda: fired.append((label, clock.now)))

        once, moved, cancelled = timer("once"), timer("moved"), timer("cancelled")
        for each in (once, moved, cancelled):
            each.arm(10)
        moved.arm(25)
        assert cancelled.cancel()
        assert not cancelled.cancel()
        assert clock.armed == 2
        assert clock.next_due() == 10

    outcome = run(main)
    assert outcome.crash is None
    assert fired == [("once", 10), ("moved", 25)]
    # main's step and the clock's two.
    assert outcome.steps == 3


def test_a_deadline_in_the_past_does_not_turn_time_back() -> None:
    async def main() -> list[int]:
        times: list[int] = []
        thread = current_thread()
        clock = thread.runtime.clock
        await Wait(Flag(), timeout=10)
        Timer(clock, thread, "late", lambda: times.append(clock.now)).arm(3)
        await Wait(Flag(), timeout=10)
        return [*times, now()]

    assert run(main).result == [10, 20]


def test_the_clock_runs_as_a_thread_of_its_own() -> None:
    async def child() -> None:
        pass

    async def main() -> list[object]:
        found: list[object] = []
        thread = current_thread()
        runtime = thread.runtime

        def expire() -> None:
            clock = current_thread()
            spawned = runtime.spawn("from the clock", child())
            found.extend([clock.label, clock.path, spawned.path, runtime.choose(2, "in the timer")])

        Timer(runtime.clock, thread, "timer", expire).arm(5)
        await Wait(Flag(), timeout=9)
        return [*found, current_thread() is thread]

    outcome = run(main)
    assert outcome.crash is None
    assert outcome.result == ["clock", (1,), (1, 0), 0, True]


def test_describe_and_target() -> None:
    async def main() -> None:
        mutex, variable = Mutex("ScanLock"), Variable("x")
        acquire = Acquire(mutex)
        assert acquire.describe() == "acquire ScanLock"
        assert acquire.target() is mutex
        assert Increment(variable).target() is variable
        assert Do(print).describe() == "do"
        assert Do(print).target() is None
        assert Load(variable).describe() == "load x"

    assert run(main).crash is None
