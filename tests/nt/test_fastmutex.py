"""Fast mutexes: exclusion, IRQL, owner, no recursion, and the deadlock of two."""

from __future__ import annotations

import pytest
from fltmgr.kit import Lab, all_runs, codes, run

from kemu.nt.kthread import APC_LEVEL, PASSIVE_LEVEL, KThread
from kemu.runtime import Outcome, Stuck
from kemu.wdk.wdm import (
    FAST_MUTEX,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    KeGetCurrentIrql,
)


def made(label: str = "mutex") -> FAST_MUTEX:
    mutex = FAST_MUTEX(label)
    ExInitializeFastMutex(mutex)
    return mutex


@pytest.mark.rule("KE-FMUTEX-01")
def test_a_mutex_is_held_at_apc_level_and_the_old_level_comes_back() -> None:
    async def script(lab: Lab) -> list[int]:
        outer, inner = made("outer"), made("inner")
        levels = [KeGetCurrentIrql()]
        await ExAcquireFastMutex(outer)
        levels.append(KeGetCurrentIrql())
        await ExAcquireFastMutex(inner)
        await ExReleaseFastMutex(inner)
        levels.append(KeGetCurrentIrql())
        await ExReleaseFastMutex(outer)
        levels.append(KeGetCurrentIrql())
        return levels

    assert run(script).result == [PASSIVE_LEVEL, APC_LEVEL, APC_LEVEL, PASSIVE_LEVEL]


@pytest.mark.rule("KE-FMUTEX-01")
def test_at_most_one_thread_is_inside_in_every_run() -> None:
    async def script(lab: Lab) -> None:
        mutex = made()
        inside: list[int] = []

        async def worker(number: int) -> None:
            await ExAcquireFastMutex(mutex)
            inside.append(number)
            lab.check(inside == [number], "two threads are inside")
            await lab.step("inside")
            inside.remove(number)
            await ExReleaseFastMutex(mutex)
            lab.note(str(number))

        await lab.together(worker(0), worker(1), worker(2))

    runs = all_runs(script, bound=1)
    assert codes(runs) == {None}
    assert len({tuple(one.order) for one in runs}) == 6


@pytest.mark.rule("KE-FMUTEX-03")
def test_the_owner_must_not_acquire_again() -> None:
    async def script(lab: Lab) -> None:
        mutex = made()
        await ExAcquireFastMutex(mutex)
        await ExAcquireFastMutex(mutex)

    one = run(script)
    assert one.code == "ke.self-deadlock"
    assert one.finding.detail == "ExAcquireFastMutex: script already owns mutex, which is not recursive"


@pytest.mark.rule("KE-FMUTEX-02")
def test_only_the_owner_may_release() -> None:
    async def script(lab: Lab) -> None:
        mutex = made()

        async def owner() -> None:
            await ExAcquireFastMutex(mutex)

        await lab.together(owner())
        await ExAcquireFastMutex(made("another"))
        await ExReleaseFastMutex(mutex)

    one = run(script)
    assert one.code == "ke.lock-not-owned"
    assert one.finding.detail == "ExReleaseFastMutex: script releases mutex, which owner owns"


@pytest.mark.rule("KE-FMUTEX-02")
def test_a_free_mutex_must_not_be_released() -> None:
    async def script(lab: Lab) -> None:
        await ExAcquireFastMutex(made("another"))
        await ExReleaseFastMutex(made())

    one = run(script)
    assert one.code == "ke.lock-not-owned"
    assert "which nobody owns" in one.finding.detail


@pytest.mark.rule("KE-FMUTEX-02")
def test_mutexes_are_released_in_the_reverse_order_of_acquisition() -> None:
    async def script(lab: Lab) -> None:
        first, second = made("first"), made("second")
        await ExAcquireFastMutex(first)
        await ExAcquireFastMutex(second)
        await ExReleaseFastMutex(first)

    one = run(script)
    assert one.code == "ke.lock-release-order"
    assert one.finding.detail == "ExReleaseFastMutex of first, before second, which script has acquired later"
    assert one.finding.verifier is not None
    assert one.finding.verifier.parameters == (0x1003,)


@pytest.mark.rule("KE-WAIT-02")
def test_a_mutex_must_be_initialised() -> None:
    async def script(lab: Lab) -> None:
        await ExAcquireFastMutex(FAST_MUTEX("raw"))

    one = run(script)
    assert one.code == "ke.uninitialised"
    assert "ExAcquireFastMutex on raw" in one.finding.detail


@pytest.mark.rule("KE-RACE-05", "KE-FMUTEX-01", "KE-DL-02", "KE-DL-04")
def test_two_mutexes_in_opposite_order_deadlock_in_some_runs_and_the_cycle_is_reported() -> None:
    async def script(lab: Lab) -> None:
        a, b = made("A"), made("B")

        async def forward() -> None:
            await ExAcquireFastMutex(a)
            await ExAcquireFastMutex(b)
            await ExReleaseFastMutex(b)
            await ExReleaseFastMutex(a)

        async def backward() -> None:
            await ExAcquireFastMutex(b)
            await ExAcquireFastMutex(a)
            await ExReleaseFastMutex(a)
            await ExReleaseFastMutex(b)

        await lab.together(forward(), backward())

    runs = all_runs(script)
    # No run is clean: where the two do not meet, their orders are told to be opposite.
    assert codes(runs) == {"ke.lock-order", "ke.deadlock"}
    failed = next(one for one in runs if one.code == "ke.deadlock")
    outcome: Outcome = failed.outcome
    assert isinstance(outcome.stuck, Stuck)
    assert sorted(outcome.stuck.cycle) == ["backward", "forward"]
    assert failed.finding.detail.startswith("cycle forward -> backward -> forward: ")
    assert "forward waits to acquire B, held by backward" in failed.finding.detail
    assert "backward waits to acquire A, held by forward" in failed.finding.detail


def test_two_mutexes_in_one_order_never_deadlock() -> None:
    async def script(lab: Lab) -> None:
        a, b = made("A"), made("B")

        async def forward() -> None:
            await ExAcquireFastMutex(a)
            await ExAcquireFastMutex(b)
            await ExReleaseFastMutex(b)
            await ExReleaseFastMutex(a)

        await lab.together(forward(), forward())

    assert codes(all_runs(script)) == {None}


def test_a_thread_remembers_what_it_holds_in_order() -> None:
    async def script(lab: Lab) -> list[list[str]]:
        first, second = made("first"), made("second")
        thread = lab.runtime.running
        assert isinstance(thread, KThread)
        held: list[list[str]] = []
        for step, mutex in ((ExAcquireFastMutex, first), (ExAcquireFastMutex, second), (ExReleaseFastMutex, second)):
            await step(mutex)
            held.append([lock.label for lock in thread.locks])
        return held

    assert run(script).result == [["first"], ["first", "second"], ["first"]]
