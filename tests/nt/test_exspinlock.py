"""Reader/writer spin locks: who gets in, who keeps whom out, no recursion, conversion, and how they are misused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, run

from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL, current_kthread
from kemu.wdk.wdm import (
    EX_SPIN_LOCK,
    KSPIN_LOCK,
    ExAcquireSpinLockExclusive,
    ExAcquireSpinLockExclusiveAtDpcLevel,
    ExAcquireSpinLockShared,
    ExAcquireSpinLockSharedAtDpcLevel,
    ExReleaseSpinLockExclusive,
    ExReleaseSpinLockExclusiveFromDpcLevel,
    ExReleaseSpinLockShared,
    ExReleaseSpinLockSharedFromDpcLevel,
    ExTryAcquireSpinLockExclusiveAtDpcLevel,
    ExTryAcquireSpinLockSharedAtDpcLevel,
    ExTryConvertSharedSpinLockExclusive,
    KeAcquireSpinLock,
    KeGetCurrentIrql,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
)

Acquire = Callable[[EX_SPIN_LOCK], Awaitable[Any]]
Release = Callable[[EX_SPIN_LOCK, int], Awaitable[None]]


def from_dpc(release: Callable[[EX_SPIN_LOCK], Awaitable[None]]) -> Release:
    return lambda lock, _: release(lock)


WAYS: dict[str, tuple[Acquire, Release, bool]] = {
    "exclusive": (ExAcquireSpinLockExclusive, ExReleaseSpinLockExclusive, True),
    "shared": (ExAcquireSpinLockShared, ExReleaseSpinLockShared, True),
    "exclusive at DPC level": (
        ExAcquireSpinLockExclusiveAtDpcLevel,
        from_dpc(ExReleaseSpinLockExclusiveFromDpcLevel),
        False,
    ),
    "shared at DPC level": (ExAcquireSpinLockSharedAtDpcLevel, from_dpc(ExReleaseSpinLockSharedFromDpcLevel), False),
    "try exclusive": (
        ExTryAcquireSpinLockExclusiveAtDpcLevel,
        from_dpc(ExReleaseSpinLockExclusiveFromDpcLevel),
        False,
    ),
    "try shared": (ExTryAcquireSpinLockSharedAtDpcLevel, from_dpc(ExReleaseSpinLockSharedFromDpcLevel), False),
}


@pytest.mark.rule("KE-SPIN-14", "KE-SPIN-03")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("level", [PASSIVE_LEVEL, APC_LEVEL, DISPATCH_LEVEL])
def test_it_is_held_at_dispatch_level_and_the_old_level_comes_back(way: str, level: int) -> None:
    acquire, release, raises = WAYS[way]

    async def script(lab: Lab) -> list[int]:
        lock = EX_SPIN_LOCK()
        current_kthread().irql = level
        old = await acquire(lock)
        levels = [KeGetCurrentIrql()]
        await release(lock, old)
        return [*levels, KeGetCurrentIrql()]

    one = run(script)
    if raises or level == DISPATCH_LEVEL:
        assert one.result == [DISPATCH_LEVEL, level]
    else:
        assert one.code == "ke.irql"


def crowd(*modes: str, notes: bool = True) -> Script:
    """A thread for each mode, which goes in and out; at most one writer, or any number of readers, are inside."""

    async def script(lab: Lab) -> list[tuple[int, int]]:
        lock = EX_SPIN_LOCK()
        inside: dict[str, int] = {"shared": 0, "exclusive": 0}
        seen: list[tuple[int, int]] = []

        async def worker(mode: str) -> None:
            acquire, release, _ = WAYS[mode]
            old = await acquire(lock)
            inside[mode] += 1
            seen.append((inside["shared"], inside["exclusive"]))
            lab.check(not (inside["exclusive"] and sum(inside.values()) > 1), "a writer is not alone")
            await lab.step("inside")
            inside[mode] -= 1
            await release(lock, old)

        await lab.together(*map(worker, modes))
        return seen

    return script


@pytest.mark.rule("KE-SPIN-14")
def test_a_writer_is_alone_and_readers_are_not() -> None:
    runs = all_runs(crowd("shared", "exclusive"), unseen=True)
    assert codes(runs) == {None}
    both = all_runs(crowd("shared", "shared"), unseen=True)
    assert codes(both) == {None}
    assert any((2, 0) in one.result for one in both)


@pytest.mark.rule("KE-SPIN-14")
def test_the_reduced_search_comes_to_the_same() -> None:
    def script_of(*modes: str) -> Script:
        async def script(lab: Lab) -> None:
            lock = EX_SPIN_LOCK()

            async def worker(mode: str) -> None:
                acquire, release, _ = WAYS[mode]
                old = await acquire(lock)
                lab.note(mode)
                await release(lock, old)

            await lab.together(*map(worker, modes))

        return script

    for modes in (("shared", "exclusive"), ("exclusive", "exclusive"), ("shared", "shared")):
        assert codes(all_runs(script_of(*modes))) == {None}


@pytest.mark.rule("KE-SPIN-14")
def test_a_writer_that_waits_keeps_later_readers_out() -> None:
    async def script(lab: Lab) -> list[str]:
        lock = EX_SPIN_LOCK()
        order: list[str] = []
        irql = await ExAcquireSpinLockShared(lock)

        async def writer() -> None:
            old = await ExAcquireSpinLockExclusive(lock)
            order.append("writer")
            await ExReleaseSpinLockExclusive(lock, old)

        async def reader() -> None:
            old = await ExAcquireSpinLockShared(lock)
            order.append("reader")
            await ExReleaseSpinLockShared(lock, old)

        first = lab.start("writer", writer())
        await lab.sleep(1)
        waits = len(lock.waiting)
        second = lab.start("reader", reader())
        await lab.sleep(1)
        await ExReleaseSpinLockShared(lock, irql)
        await first.join()
        await second.join()
        if waits:
            lab.check(order == ["writer", "reader"], "the reader came after the writer began to wait")
        return order

    # Not every run lets the writer ask before the reader: time may pass first.
    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    assert {tuple(one.result) for one in runs} == {("writer", "reader"), ("reader", "writer")}


@pytest.mark.rule("KE-SPIN-14", "KE-SPIN-05")
@pytest.mark.parametrize("held", ["exclusive", "shared"])
@pytest.mark.parametrize("again", ["exclusive", "shared", "try shared"])
def test_there_is_no_recursion(held: str, again: str) -> None:
    async def script(lab: Lab) -> None:
        lock = EX_SPIN_LOCK("lock")
        await WAYS[held][0](lock)
        await WAYS[again][0](lock)

    one = run(script)
    assert one.code == "ke.self-deadlock"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == 0xF


@pytest.mark.rule("KE-SPIN-14")
def test_trying_fails_where_waiting_would_have_been_necessary() -> None:
    async def script(lab: Lab, held: str, asked: str) -> bool:
        lock = EX_SPIN_LOCK()

        async def holder() -> None:
            await WAYS[held][0](lock)
            current_kthread().locks.clear()

        await lab.together(holder())
        current_kthread().irql = DISPATCH_LEVEL
        acquired = await WAYS[asked][0](lock)
        current_kthread().locks.clear()
        return acquired

    results = {
        (held, asked): run(lambda lab, held=held, asked=asked: script(lab, held, asked)).result  # type: ignore[misc]
        for held in ("exclusive", "shared")
        for asked in ("try exclusive", "try shared")
    }
    assert [pair for pair, acquired in results.items() if acquired] == [("shared", "try shared")]


@pytest.mark.rule("KE-SPIN-15")
def test_the_only_reader_becomes_the_writer_if_none_waits() -> None:
    async def script(lab: Lab) -> None:
        lock = EX_SPIN_LOCK()

        async def upgrade() -> None:
            irql = await ExAcquireSpinLockShared(lock)
            converted = await ExTryConvertSharedSpinLockExclusive(lock)
            lab.note(f"converted {converted}")
            lab.check(not converted or lock.owner is current_kthread(), "it is the owner")
            await (ExReleaseSpinLockExclusive if converted else ExReleaseSpinLockShared)(lock, irql)
            lab.check(KeGetCurrentIrql() == PASSIVE_LEVEL, "the level of the shared acquisition comes back")

        await lab.together(upgrade(), upgrade())

    runs = all_runs(script)
    assert codes(runs) == {None}
    # Never both at a time; one, both after each other, or, if they see each other, neither.
    assert {tuple(sorted(one.order)) for one in runs} == {
        ("converted True", "converted True"),
        ("converted False", "converted True"),
        ("converted False", "converted False"),
    }


@pytest.mark.rule("KE-SPIN-15")
def test_a_writer_that_waits_goes_before_a_conversion() -> None:
    async def script(lab: Lab) -> None:
        lock = EX_SPIN_LOCK()
        irql = await ExAcquireSpinLockShared(lock)

        async def writer() -> None:
            await ExReleaseSpinLockExclusive(lock, await ExAcquireSpinLockExclusive(lock))

        started = lab.start("writer", writer())
        await lab.step()
        waited = bool(lock.waiting)
        converted = await ExTryConvertSharedSpinLockExclusive(lock)
        lab.check(not (waited and converted), "somebody waits")
        lab.note(f"{waited} {converted}")
        await (ExReleaseSpinLockExclusive if converted else ExReleaseSpinLockShared)(lock, irql)
        await started.join()

    runs = all_runs(script, unseen=True)
    assert codes(runs) == {None}
    assert {one.order[0] for one in runs} == {"True False", "False False", "False True"}


@pytest.mark.rule("KE-SPIN-15")
def test_only_a_reader_converts() -> None:
    async def script(lab: Lab) -> None:
        current_kthread().irql = DISPATCH_LEVEL
        await ExTryConvertSharedSpinLockExclusive(EX_SPIN_LOCK())

    assert run(script).code == "ke.lock-not-owned"


@pytest.mark.rule("KE-SPIN-14")
@pytest.mark.parametrize(
    ("acquire", "release", "code"),
    [
        ("exclusive", "shared", "ke.lock-mode"),
        ("shared", "exclusive", "ke.lock-mode"),
        ("exclusive", "exclusive at DPC level", "ke.spin-release-mismatch"),
        ("shared", "shared at DPC level", "ke.spin-release-mismatch"),
        ("", "shared", "ke.lock-not-owned"),
        ("", "exclusive", "ke.lock-not-owned"),
    ],
)
def test_a_release_goes_with_its_acquisition(acquire: str, release: str, code: str) -> None:
    async def script(lab: Lab) -> None:
        lock, old = EX_SPIN_LOCK(), 0
        if acquire:
            old = await WAYS[acquire][0](lock)
        current_kthread().irql = DISPATCH_LEVEL
        await WAYS[release][1](lock, old)

    assert run(script).code == code


@pytest.mark.rule("KE-SPIN-02", "KE-SPIN-06")
def test_the_level_and_the_owner_are_this_acquisitions() -> None:
    async def another(lab: Lab) -> None:
        lock, other = EX_SPIN_LOCK(), KSPIN_LOCK()
        KeInitializeSpinLock(other)
        await ExAcquireSpinLockShared(lock)
        old = await KeAcquireSpinLock(other)
        await KeReleaseSpinLock(other, old)
        await ExReleaseSpinLockShared(lock, old)

    async def invented(lab: Lab) -> None:
        lock = EX_SPIN_LOCK()
        await ExAcquireSpinLockExclusive(lock)
        await ExReleaseSpinLockExclusive(lock, APC_LEVEL)

    async def others(lab: Lab) -> None:
        lock = EX_SPIN_LOCK()

        async def owner() -> None:
            await ExAcquireSpinLockExclusive(lock)

        await lab.together(owner())
        current_kthread().irql = DISPATCH_LEVEL
        await ExReleaseSpinLockExclusive(lock, PASSIVE_LEVEL)

    assert run(another).code == "ke.oldirql-shared"
    assert run(invented).code == "ke.irql-nesting"
    one = run(others)
    assert one.code == "ke.lock-not-owned"
    assert one.finding.verifier is not None
    assert one.finding.verifier.parameters == (0x1004,)


@pytest.mark.rule("KE-SPIN-07")
def test_releasing_the_outer_one_first_lowers_the_irql_under_the_inner_one() -> None:
    async def script(lab: Lab) -> None:
        outer, inner = EX_SPIN_LOCK("outer"), EX_SPIN_LOCK("inner")
        old = await ExAcquireSpinLockShared(outer)
        await ExAcquireSpinLockShared(inner)
        await ExReleaseSpinLockShared(outer, old)

    assert run(script).code == "ke.spin-lowered"


@pytest.mark.rule("KE-SPIN-10")
def test_it_is_not_freed_while_it_is_held() -> None:
    async def script(lab: Lab) -> Any:
        lock = EX_SPIN_LOCK("lock")
        assert lock.still_active() is None
        irql = await ExAcquireSpinLockShared(lock)
        left = lock.still_active()
        await ExReleaseSpinLockShared(lock, irql)
        return left

    left = run(script).result
    assert (left.code, left.what) == ("ke.lock-freed", "lock, which script owns")
