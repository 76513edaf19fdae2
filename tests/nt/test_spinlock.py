"""Spin locks and the cancel spin lock: IRQL, owner, no recursion."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, run

from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL, current_kthread
from kemu.wdk.wdm import (
    KSPIN_LOCK,
    IoAcquireCancelSpinLock,
    IoReleaseCancelSpinLock,
    KeAcquireSpinLock,
    KeGetCurrentIrql,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
)

Acquire = Callable[[], Awaitable[int]]
Release = Callable[[int], Awaitable[None]]


def made(label: str = "lock") -> KSPIN_LOCK:
    lock = KSPIN_LOCK(label)
    KeInitializeSpinLock(lock)
    return lock


def pair(kind: str) -> tuple[Acquire, Release]:
    """How to acquire and release a spin lock of *kind*."""
    if kind == "cancel":
        return IoAcquireCancelSpinLock, IoReleaseCancelSpinLock
    lock = made()
    return lambda: KeAcquireSpinLock(lock), lambda irql: KeReleaseSpinLock(lock, irql)


both = pytest.mark.parametrize("kind", ["spin", "cancel"])


@both
@pytest.mark.rule("KE-SPIN-01")
@pytest.mark.parametrize("level", [PASSIVE_LEVEL, APC_LEVEL, DISPATCH_LEVEL])
def test_a_lock_is_held_at_dispatch_level_and_the_old_level_comes_back(kind: str, level: int) -> None:
    async def script(lab: Lab) -> list[int]:
        acquire, release = pair(kind)
        current_kthread().irql = level
        irql = await acquire()
        levels = [irql, KeGetCurrentIrql()]
        await release(irql)
        return [*levels, KeGetCurrentIrql()]

    assert run(script).result == [level, DISPATCH_LEVEL, level]


@both
@pytest.mark.rule("KE-SPIN-01")
def test_at_most_one_thread_is_inside_in_every_run(kind: str) -> None:
    async def script(lab: Lab) -> None:
        acquire, release = pair(kind)
        inside: list[int] = []

        async def worker(number: int) -> None:
            irql = await acquire()
            inside.append(number)
            lab.check(inside == [number], "two threads are inside")
            await lab.step("inside")
            inside.remove(number)
            await release(irql)
            lab.note(str(number))

        await lab.together(worker(0), worker(1))

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {tuple(one.order) for one in runs} == {("0", "1"), ("1", "0")}


@both
@pytest.mark.rule("KE-SPIN-05")
def test_the_owner_must_not_acquire_again(kind: str) -> None:
    async def script(lab: Lab) -> None:
        acquire, _ = pair(kind)
        await acquire()
        await acquire()

    one = run(script)
    assert one.code == "ke.self-deadlock"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == 0xF


@both
@pytest.mark.rule("KE-SPIN-06")
def test_only_the_owner_may_release(kind: str) -> None:
    def script_of(owned: bool) -> Script:
        async def script(lab: Lab) -> None:
            acquire, release = pair(kind)

            async def owner() -> None:
                await acquire()

            if owned:
                await lab.together(owner())
            current_kthread().irql = DISPATCH_LEVEL
            await release(PASSIVE_LEVEL)

        return script

    for owned, who in ((True, "owner"), (False, "nobody")):
        one = run(script_of(owned))
        assert one.code == "ke.lock-not-owned"
        assert f"which {who} owns" in one.finding.detail


@both
@pytest.mark.rule("KE-SPIN-02", "KE-IRQL-05")
def test_a_release_restores_the_level_of_its_own_acquisition(kind: str) -> None:
    async def script(lab: Lab) -> None:
        acquire, release = pair(kind)
        current_kthread().irql = APC_LEVEL
        await acquire()
        await release(PASSIVE_LEVEL)

    one = run(script)
    assert one.code == "ke.irql-nesting"
    assert "restores IRQL 0" in one.finding.detail
    assert "acquired at 1" in one.finding.detail


@pytest.mark.rule("KE-SPIN-10")
def test_a_lock_must_be_initialised() -> None:
    async def script(lab: Lab) -> None:
        await KeAcquireSpinLock(KSPIN_LOCK("raw"))

    one = run(script)
    assert one.code == "ke.uninitialised"
    assert "KeAcquireSpinLock on raw" in one.finding.detail


@pytest.mark.rule("KE-SPIN-13")
def test_any_spinning_thread_may_win() -> None:
    async def script(lab: Lab) -> None:
        lock = made()
        irql = await KeAcquireSpinLock(lock)

        async def contender(number: int) -> None:
            irql = await KeAcquireSpinLock(lock)
            lab.note(str(number))
            await KeReleaseSpinLock(lock, irql)

        started: list[Any] = [lab.start(f"contender{number}", contender(number)) for number in range(2)]
        await KeReleaseSpinLock(lock, irql)
        for one in started:
            await one.join()

    assert {tuple(one.order) for one in all_runs(script)} == {("0", "1"), ("1", "0")}
