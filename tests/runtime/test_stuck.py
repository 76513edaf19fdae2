"""When nothing can go on: a deadlock with its cycle, or a hang."""

from __future__ import annotations

from runtime.kit import Acquire, Flag, Mutex, Release, Wait, every_run, ordered, run, spawn

from kemu.runtime import Join, Point, Stuck, Thread, current_thread
from kemu.runtime.outcome import find_cycle


async def both(first: Mutex, second: Mutex) -> None:
    await Acquire(first)
    await Acquire(second)
    await Release(second)
    await Release(first)


async def abba() -> None:
    one, other = Mutex("A"), Mutex("B")
    spawn("p", both(one, other))
    spawn("q", both(other, one))


def test_a_deadlock_names_who_waits_for_what_who_holds_it_and_the_cycle() -> None:
    outcome = ordered(abba, "p q p q")
    assert outcome.end == "stuck"
    assert isinstance(outcome.stuck, Stuck)
    assert outcome.stuck.is_deadlock
    assert outcome.stuck.cycle == ("p", "q")
    assert [str(blocked) for blocked in outcome.stuck.blocked] == [
        "p waits to acquire B, held by q",
        "q waits to acquire A, held by p",
    ]


def test_a_deadlock_is_found_in_the_runs_that_have_one() -> None:
    ends = [outcome.end for outcome in every_run(abba)]
    # Four steps up to and with the second acquire are two of each thread beyond its start; the deadlock needs both
    # first acquires before either second one. Orders of p's and q's start and acquire: 4! / (2! 2!) = 6, all
    # alternatives to a run in which one of them has released both, or holds both, first.
    assert ends.count("stuck") == 6
    assert ends.count("finished") == len(ends) - 6 > 0


def test_a_hang_has_no_cycle() -> None:
    async def main() -> None:
        await Wait(Flag("an answer"))

    outcome = run(main)
    assert outcome.end == "stuck"
    assert outcome.stuck is not None
    assert not outcome.stuck.is_deadlock
    assert [str(blocked) for blocked in outcome.stuck.blocked] == [
        "main waits to wait for an answer, which nobody will bring about"
    ]


def test_a_waiter_beside_the_cycle_is_listed_but_not_in_it() -> None:
    async def third(mutex: Mutex) -> None:
        await Acquire(mutex)

    async def main() -> None:
        one, other = Mutex("A"), Mutex("B")
        spawn("outside", third(one))
        spawn("p", both(one, other))
        spawn("q", both(other, one))

    outcome = ordered(main, "p q p q outside")
    assert outcome.stuck is not None
    assert [blocked.thread for blocked in outcome.stuck.blocked] == ["outside", "p", "q"]
    assert outcome.stuck.cycle == ("p", "q")


def test_a_thread_that_joins_itself() -> None:
    async def main() -> None:
        await Join(current_thread())

    outcome = run(main)
    assert outcome.stuck is not None
    assert outcome.stuck.cycle == ("main",)


def test_a_cycle_of_a_join_and_a_lock() -> None:
    async def worker(mutex: Mutex) -> None:
        await Acquire(mutex)

    async def main() -> None:
        mutex = Mutex("A")
        await Acquire(mutex)
        await Join(spawn("worker", worker(mutex)))

    outcome = run(main)
    assert outcome.stuck is not None
    assert [str(blocked) for blocked in outcome.stuck.blocked] == [
        "main waits to join worker, held by worker",
        "worker waits to acquire A, held by main",
    ]
    assert outcome.stuck.cycle == ("main", "worker")


def test_threads_of_one_label_are_not_taken_for_one() -> None:
    """Two workers: one waits for what the other holds, who waits for an event. No cycle, though labels repeat."""

    async def holder(mutex: Mutex) -> None:
        await Acquire(mutex)
        await Wait(Flag("event"))

    async def waiter(mutex: Mutex) -> None:
        await Point("later")
        await Acquire(mutex)

    async def main() -> None:
        mutex = Mutex("A")
        spawn("worker", holder(mutex))
        spawn("worker", waiter(mutex))

    outcome = run(main)
    assert outcome.stuck is not None
    assert [blocked.holders for blocked in outcome.stuck.blocked] == [(), ("worker",)]
    assert not outcome.stuck.is_deadlock


def test_a_dead_holder_is_nobody() -> None:
    async def forgetful(mutex: Mutex) -> None:
        await Acquire(mutex)

    async def main() -> None:
        mutex = Mutex("A")
        await Join(spawn("forgetful", forgetful(mutex)))
        await Acquire(mutex)

    outcome = run(main)
    assert outcome.stuck is not None
    assert str(outcome.stuck.blocked[0]) == "main waits to acquire A, which nobody will bring about"


def test_idle_services_do_not_keep_a_run_alive() -> None:
    async def service(flag: Flag) -> None:
        await Wait(flag)

    async def main() -> Thread:
        return spawn("service", service(Flag()), service=True)

    # Being a service is not enough: it has to wait where a service waits when it is idle.
    assert run(main).end == "stuck"


def test_cycles_in_a_graph() -> None:
    a, b, c, d = (0,), (1,), (2,), (3,)
    assert find_cycle({}) == ()
    assert find_cycle({a: (b,), b: (c,), c: ()}) == ()
    assert find_cycle({a: (b,), b: (c,), c: (b,)}) == (b, c)
    assert find_cycle({a: (b, c), b: (d,), c: (d,), d: ()}) == ()
    assert find_cycle({a: (b, c), b: (), c: (d,), d: (a,)}) == (a, c, d)
