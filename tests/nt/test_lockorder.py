"""The order of nested locks: which cycles are reported, which are none, and that no search misses one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, run
from locking import (
    EXCLUSIVE,
    SHARED,
    STARVING,
    Block,
    Kind,
    Maker,
    S,
    Threads,
    X,
    brute,
    cancel,
    fast,
    guarded,
    nest,
    push,
    reduced,
    resource,
)

from kemu.nt.kthread import current_kthread
from kemu.nt.lock import check_thread_end, lock_order
from kemu.nt.lockorder import Callbacks
from kemu.wdk.ntddk import KeEnterCriticalRegion, KeLeaveCriticalRegion
from kemu.wdk.wdm import (
    FAST_MUTEX,
    IRP_MJ_READ,
    KMUTEX,
    KSPIN_LOCK,
    ExAcquireFastMutex,
    ExCreateCallback,
    ExInitializeFastMutex,
    ExNotifyCallback,
    ExRegisterCallback,
    ExReleaseFastMutex,
    ExTryToAcquireFastMutex,
    ExUnregisterCallback,
    InitializeObjectAttributes,
    KeAcquireSpinLock,
    KeInitializeMutex,
    KeInitializeSpinLock,
    KeReleaseMutex,
    KeReleaseSpinLock,
    KeSetEvent,
    KeWaitForSingleObject,
    ObDereferenceObject,
)


def one_after_the_other(makers: dict[str, Maker], threads: Threads) -> str | None:
    """The finding of the plain run, in which each thread comes to its end before the next one begins."""
    return run(nest(makers, threads)).code


def twice(kind: Maker, labels: str = "AB") -> dict[str, Maker]:
    return dict.fromkeys(labels, kind)


def chain(*pairs: tuple[str, str]) -> list[list[Block]]:
    """For each pair a thread that takes the second under the first."""
    return [[[(outer, X), (inner, X)]] for outer, inner in pairs]


# Cycles.


@pytest.mark.rule("KE-DL-01", "KE-DL-02", "KE-SPIN-09", "KE-RACE-05")
@pytest.mark.parametrize("kind", [kind for kind in [*EXCLUSIVE, *SHARED] if kind is not cancel])
def test_opposite_orders_are_reported_although_nobody_waits(kind: Maker) -> None:
    one = run(nest(twice(kind), chain(("A", "B"), ("B", "A"))))
    assert one.code == "ke.lock-order"
    assert one.finding.detail.startswith("thread#2 acquires A at locking.py:")
    assert "while it holds B; thread acquires B at locking.py:" in one.finding.detail
    assert one.finding.detail.endswith("while it holds A")
    assert one.finding.signature == ("ke.lock-order", "A B")
    assert one.finding.verifier is not None
    assert (one.finding.verifier.code, one.finding.verifier.parameters) == (0xC4, (0x1001,))
    assert one_after_the_other(twice(kind), chain(("A", "B"), ("A", "B"))) is None


@pytest.mark.rule("KE-DL-01")
@pytest.mark.parametrize("inner", [cancel, fast, resource, push])
def test_locks_of_different_kinds_are_in_one_graph(inner: Maker) -> None:
    makers: dict[str, Maker] = {"A": EXCLUSIVE[0] if inner is cancel else guarded, "B": inner}
    assert one_after_the_other(makers, chain(("A", "B"), ("B", "A"))) == "ke.lock-order"


@pytest.mark.rule("KE-DL-02")
def test_a_cycle_may_be_long() -> None:
    makers = twice(fast, "ABCD")
    assert one_after_the_other(makers, chain(("A", "B"), ("B", "C"), ("C", "D"))) is None
    assert one_after_the_other(makers, chain(("A", "B"), ("B", "C"), ("C", "D"), ("D", "A"))) == "ke.lock-order"
    assert one_after_the_other(makers, chain(("A", "B"), ("B", "C"), ("A", "C"), ("B", "D"), ("C", "D"))) is None


@pytest.mark.rule("KE-DL-02", "KE-SPIN-09")
def test_a_cycle_counts_whoever_made_it() -> None:
    """As in Driver Verifier: another time two threads run the same code."""
    threads: Threads = [[[("A", X), ("B", X)], [("B", X), ("A", X)]]]
    assert one_after_the_other(twice(fast), threads) == "ke.lock-order"


@pytest.mark.rule("KE-DL-02")
def test_what_is_held_further_out_counts_too() -> None:
    makers = twice(fast, "ABC")
    threads: Threads = [[[("A", X), ("B", X), ("C", X)]], [[("C", X), ("A", X)]]]
    assert one_after_the_other(makers, threads) == "ke.lock-order"


@pytest.mark.rule("KE-DL-02")
@pytest.mark.parametrize(("gates", "found"), [((X, X), False), ((X, S), False), ((S, S), True)])
def test_a_lock_around_both_orders_keeps_them_apart(gates: tuple[str, str], found: bool) -> None:
    makers: dict[str, Maker] = {"G": resource, "A": fast, "B": fast}
    threads: Threads = [
        [[("G", gates[0]), ("A", X), ("B", X)]],
        [[("G", gates[1]), ("B", X), ("A", X)]],
    ]
    assert one_after_the_other(makers, threads) == ("ke.lock-order" if found else None)
    runs = brute(nest(makers, threads))
    assert runs is not None
    assert codes(runs) == ({"ke.deadlock", "ke.lock-order"} if found else {None})


@pytest.mark.rule("KE-DL-02")
def test_a_lock_around_two_of_three_does_not_keep_the_third_apart() -> None:
    makers = twice(fast, "GABC")
    gated: Threads = [
        [[("G", X), ("A", X), ("B", X)]],
        [[("G", X), ("B", X), ("C", X)]],
        [[("C", X), ("A", X)]],
    ]
    # The first two exclude each other, so that no three threads can be in this cycle at a time.
    assert one_after_the_other(makers, gated) is None
    free: Threads = [[[("G", X), ("A", X), ("B", X)]], [[("B", X), ("C", X)]], [[("C", X), ("A", X)]]]
    assert one_after_the_other(makers, free) == "ke.lock-order"


# Shared locks.


@pytest.mark.rule("KE-DL-02")
@pytest.mark.parametrize("kind", SHARED)
def test_readers_need_a_writer_of_each_lock_to_deadlock(kind: Maker) -> None:
    readers: list[list[Block]] = [[[("A", S), ("B", S)]], [[("B", S), ("A", S)]]]
    makers = twice(kind)
    assert one_after_the_other(makers, readers) is None
    assert one_after_the_other(makers, [*readers, [[("A", X)]]]) is None
    written: Threads = [*readers, [[("A", X)]], [[("B", X)]]]
    assert one_after_the_other(makers, written) == "ke.lock-order"


@pytest.mark.rule("KE-DL-02", "KE-RES-06")
def test_a_reader_that_overtakes_writers_does_not_wait_for_them() -> None:
    readers: Threads = [[[("A", S), ("B", STARVING)]], [[("B", S), ("A", STARVING)]], [[("A", X)]], [[("B", X)]]]
    assert one_after_the_other(twice(resource), readers) is None


@pytest.mark.rule("KE-DL-02")
@pytest.mark.parametrize(
    ("first", "second", "found"),
    [((S, X), (S, X), True), ((X, S), (X, S), True), ((S, X), (X, S), False), ((S, S), (S, X), False)],
)
def test_one_writer_at_each_meeting_is_enough(first: tuple[str, str], second: tuple[str, str], found: bool) -> None:
    threads: Threads = [[[("A", first[0]), ("B", first[1])]], [[("B", second[0]), ("A", second[1])]]]
    makers: dict[str, Maker] = {"A": resource, "B": resource}
    # In the third row A is only ever shared, in the last one B.
    assert (one_after_the_other(makers, threads) is not None) is found
    runs = brute(nest(makers, threads))
    assert runs is not None
    assert ("ke.deadlock" in codes(runs)) is found


@pytest.mark.rule("KE-DL-01")
@pytest.mark.parametrize(("timeout", "found"), [(None, True), (-10, True), (0, False)])
def test_mutex_objects_are_in_the_graph_unless_they_are_polled(timeout: int | None, found: bool) -> None:
    async def script(lab: Lab) -> None:
        mutex = KMUTEX("M")
        KeInitializeMutex(mutex, 0)
        acquire, release = resource("R").pairs[X]
        await KeWaitForSingleObject(mutex)
        await release(await acquire())
        await KeReleaseMutex(mutex, False)
        KeEnterCriticalRegion()
        held = await acquire()
        await KeWaitForSingleObject(mutex, Timeout=timeout)
        await KeReleaseMutex(mutex, False)
        await release(held)
        KeLeaveCriticalRegion()

    assert run(script).code == ("ke.lock-order" if found else None)


# What is none.


@pytest.mark.rule("KE-DL-02")
def test_trying_waits_for_nobody() -> None:
    async def script(lab: Lab, tries: bool) -> None:
        a, b = FAST_MUTEX("A"), FAST_MUTEX("B")
        for mutex in (a, b):
            ExInitializeFastMutex(mutex)
        await ExAcquireFastMutex(a)
        await ExAcquireFastMutex(b)
        await ExReleaseFastMutex(b)
        await ExReleaseFastMutex(a)
        await ExAcquireFastMutex(b)
        if tries:
            assert await ExTryToAcquireFastMutex(a)
        else:
            await ExAcquireFastMutex(a)
        await ExReleaseFastMutex(a)
        await ExReleaseFastMutex(b)

    assert run(lambda lab: script(lab, True)).code is None
    assert run(lambda lab: script(lab, False)).code == "ke.lock-order"


@pytest.mark.rule("KE-DL-02")
def test_what_was_tried_is_held_all_the_same() -> None:
    async def script(lab: Lab) -> None:
        a, b = FAST_MUTEX("A"), FAST_MUTEX("B")
        for mutex in (a, b):
            ExInitializeFastMutex(mutex)
        assert await ExTryToAcquireFastMutex(a)
        await ExAcquireFastMutex(b)
        await ExReleaseFastMutex(b)
        await ExReleaseFastMutex(a)
        await ExAcquireFastMutex(b)
        await ExAcquireFastMutex(a)

    assert run(script).code == "ke.lock-order"


def test_recursion_nests_nothing() -> None:
    threads: Threads = [[[("A", X), ("B", X), ("A", S)]], [[("A", X), ("B", X)]]]
    assert one_after_the_other(twice(resource), threads) is None


@pytest.mark.rule("KE-DL-01")
def test_cancelling_under_a_lock_takes_the_cancel_spin_lock() -> None:
    async def script(lab: Lab) -> None:
        mutex = FAST_MUTEX("A")
        ExInitializeFastMutex(mutex)
        await lab.recorder("F", "100000", IRP_MJ_READ)
        file = await lab.open(overlapped=True)
        lab.completes("later")
        pending = await file.begin_read(1)
        await ExAcquireFastMutex(mutex)
        await pending.cancel()
        await ExReleaseFastMutex(mutex)
        (nesting,) = lock_order()._holding[mutex]
        lab.note(nesting.wants.label)

    assert "cancel spin lock" in run(script).order


# Deadlocks.


@pytest.mark.rule("KE-DL-04", "KE-RACE-05")
@pytest.mark.parametrize("kind", [fast, guarded, resource, push])
def test_a_deadlock_that_happens_is_one(kind: Maker) -> None:
    runs = brute(nest(twice(kind), chain(("A", "B"), ("B", "A"))))
    assert runs is not None
    assert codes(runs) == {"ke.deadlock", "ke.lock-order"}
    stuck = next(one for one in runs if one.code == "ke.deadlock")
    assert stuck.finding.detail.startswith("cycle thread -> thread#2 -> thread: ")


@pytest.mark.rule("KE-DL-04")
def test_what_has_no_owner_is_in_no_graph() -> None:
    async def script(lab: Lab) -> None:
        mutex, event = FAST_MUTEX("A"), lab.event("E")
        ExInitializeFastMutex(mutex)

        async def waits() -> None:
            await ExAcquireFastMutex(mutex)
            await KeWaitForSingleObject(event)
            await ExReleaseFastMutex(mutex)

        async def sets() -> None:
            await ExAcquireFastMutex(mutex)
            await KeSetEvent(event)
            await ExReleaseFastMutex(mutex)

        await lab.together(waits(), sets())

    # Only where it happens.
    assert codes(all_runs(script)) == {None, "ke.hang"}


# Callbacks.


@pytest.mark.rule("KE-DL-01")
@pytest.mark.parametrize("under", [True, False])
def test_a_callback_that_takes_the_lock_under_which_it_is_removed_is_a_cycle(under: bool) -> None:
    async def script(lab: Lab) -> None:
        callbacks = Callbacks("the callbacks of R")
        mutex = FAST_MUTEX("A")
        ExInitializeFastMutex(mutex)

        async def callback() -> None:
            callbacks.enter(current_kthread())
            await ExAcquireFastMutex(mutex)
            await ExReleaseFastMutex(mutex)
            callbacks.leave(current_kthread())

        async def remover() -> None:
            if under:
                await ExAcquireFastMutex(mutex)
            callbacks.wait(current_kthread())
            if under:
                await ExReleaseFastMutex(mutex)

        await lab.together(callback(), remover())

    runs = all_runs(script)
    assert codes(runs) == ({"ke.lock-order"} if under else {None})
    if under:
        assert {one.finding.signature for one in runs} == {("ke.lock-order", "A the callbacks of R")}


@pytest.mark.rule("KE-DL-01", "KE-RACE-05", "KE-UNLOAD-06")
@pytest.mark.parametrize("under", [True, False])
def test_a_callback_is_not_unregistered_under_a_lock_that_it_takes(under: bool) -> None:
    async def script(lab: Lab) -> None:
        mutex = FAST_MUTEX("A")
        ExInitializeFastMutex(mutex)
        status, object_ = await ExCreateCallback(InitializeObjectAttributes(r"\Callback\C", 0), True, True)
        assert object_ is not None, status

        async def routine(Context: Any, Argument1: Any, Argument2: Any) -> None:
            await ExAcquireFastMutex(mutex)
            await ExReleaseFastMutex(mutex)

        registration = await ExRegisterCallback(object_, routine, None)
        assert registration is not None

        async def notify() -> None:
            await ExNotifyCallback(object_, None, None)

        async def unregister() -> None:
            if under:
                await ExAcquireFastMutex(mutex)
            await ExUnregisterCallback(registration)
            if under:
                await ExReleaseFastMutex(mutex)

        await lab.together(notify(), unregister())
        await ObDereferenceObject(object_)

    found = codes(all_runs(script, unseen=True))
    # Clean where it is unregistered before it is ever called.
    assert found == ({None, "ke.lock-order", "ke.deadlock"} if under else {None})


# Threads that end.


@pytest.mark.rule("KE-DL-03", "KE-RES-11", "KE-PUSH-05", "KE-RACE-07")
@pytest.mark.parametrize(("kind", "stop"), [(fast, None), (resource, None), (push, 0x153)])
@pytest.mark.parametrize("contended", [True, False])
def test_a_thread_that_ends_owning_a_lock_is_reported(kind: Maker, stop: int | None, contended: bool) -> None:
    async def script(lab: Lab) -> None:
        lock = kind("L")
        acquire, release = lock.pairs[X]

        async def leaks() -> None:
            current_kthread().kernel_apc_disable += 1
            await acquire()

        async def wants() -> None:
            current_kthread().kernel_apc_disable += 1
            await release(await acquire())

        await lab.together(leaks())
        if contended:
            await lab.together(wants())

    one = run(script)
    assert one.code == "ke.lock-leak"
    assert one.finding.detail.startswith("leaks has ended and owns L")
    assert (one.finding.bug_check.code if one.finding.bug_check else None) == stop
    assert one.finding.verifier is not None
    assert one.finding.verifier.parameters == (0x100A,)


@pytest.mark.rule("KE-DL-03")
def test_whoever_ends_a_thread_may_ask() -> None:
    async def script(lab: Lab, holds: bool) -> None:
        lock = KSPIN_LOCK("L")
        KeInitializeSpinLock(lock)
        irql = await KeAcquireSpinLock(lock)
        if holds:
            check_thread_end(current_kthread())
        await KeReleaseSpinLock(lock, irql)
        check_thread_end(current_kthread())

    assert run(lambda lab: script(lab, True)).code == "ke.lock-leak"
    assert run(lambda lab: script(lab, False)).code is None


# Every schedule of a class comes to the same.


def drawn(seed: int) -> tuple[dict[str, Maker], Threads]:
    """A small program that nests locks at random."""
    rng = random.Random(seed)
    modes: dict[Maker, list[str]] = {
        fast: [X],
        guarded: [X],
        resource: [X, S, S, STARVING],
        push: [X, S, S],
    }
    makers = {
        label: rng.choice([fast, guarded, resource, resource, push, push]) for label in "ABC"[: rng.choice([2, 3])]
    }
    threads: list[list[Block]] = []
    for _ in range(rng.choice([2, 2, 3])):
        blocks: list[Block] = []
        for _ in range(rng.choice([1, 1, 2])):
            some = rng.sample(sorted(makers), rng.choice([1, 2, 2]))
            blocks.append([(label, rng.choice(modes[makers[label]])) for label in some])
        threads.append(blocks)
    return makers, threads


def compare(seed: int, limit: int) -> set[str | None] | None:
    """What all runs of a drawn program come to, which the reduced search comes to as well; None if it is too large."""
    script = nest(*drawn(seed))
    everything = brute(script, limit)
    if everything is None:
        return None
    some = reduced(script)
    # A run that fails ends there, so that one failure may hide another; but none hides all of them.
    assert codes(some) <= codes(everything)
    assert (codes(some) == {None}) is (codes(everything) == {None})
    clean = [one.outcome.fingerprint for one in some if one.code is None]
    assert len(clean) == len(set(clean))
    assert set(clean) == {one.outcome.fingerprint for one in everything if one.code is None}
    return codes(everything)


@pytest.mark.rule("KE-DL-02")
def test_the_reduced_search_finds_a_cycle_if_any_run_has_one() -> None:
    came: list[set[str | None]] = [found for seed in range(70) if (found := compare(seed, 150)) is not None]
    assert len(came) >= 15
    assert any("ke.lock-order" in found for found in came)
    assert any("ke.deadlock" in found for found in came)
    assert any(found == {None} for found in came)


@pytest.mark.nightly
def test_the_reduced_search_finds_a_cycle_if_any_run_has_one_in_more_programs() -> None:
    assert sum(compare(seed, 3_000) is not None for seed in range(1_000, 1_600)) > 200


@pytest.mark.rule("KE-DL-02")
def test_equivalent_runs_have_the_same_nestings() -> None:
    """Runs that are clean are told apart by their fingerprints; those of one class nest the same."""

    def script_of(makers: dict[str, Maker], threads: Threads) -> Script:
        inner = nest(makers, threads)

        async def script(lab: Lab) -> Any:
            await inner(lab)
            held = lock_order()._holding
            return sorted(f"{lock.label}: {nesting}" for lock, nestings in held.items() for nesting in nestings)

        return script

    makers: dict[str, Maker] = {"A": resource, "B": push, "C": fast}
    threads: Threads = [[[("A", S), ("B", S)]], [[("A", S), ("B", X)], [("C", X)]]]
    script: Callable[[Lab], Any] = script_of(makers, threads)
    runs = brute(script)
    assert runs is not None
    classes: dict[int, set[str]] = {}
    for one in runs:
        classes.setdefault(one.outcome.fingerprint, set()).add(repr(one.result))
    assert all(len(nestings) == 1 for nestings in classes.values())


def test_no_step_is_dependent_because_of_the_graph() -> None:
    """Two threads that nest locks of their own: one class, as if there were no graph."""

    async def script(lab: Lab) -> None:
        async def thread(name: str) -> None:
            locks: list[Kind] = [fast(f"{name}{number}") for number in range(2)]
            held = [(lock, await lock.pairs[X][0]()) for lock in locks]
            for lock, old in reversed(held):
                await lock.pairs[X][1](old)

        await lab.together(thread("A"), thread("B"))

    assert len(reduced(script)) == 1


def test_nothing_is_noted_as_long_as_nobody_nests() -> None:
    async def script(lab: Lab) -> int:
        lock = fast("L").pairs[X]
        await lock[1](await lock[0]())
        order = lock_order()
        return len(order._known) + len(order._holding)

    assert run(script).result == 0
