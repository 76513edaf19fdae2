"""Interlocked operations: what they do, what they order, and what is wrong beside them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Run, Script, all_runs, check_reduction, codes, run
from hypothesis import given
from hypothesis import strategies as st
from racing import Field

from kemu.errors import UsageError
from kemu.explore import DPOR
from kemu.nt.routine import REGISTRY
from kemu.scenario import benign
from kemu.wdk import wdm
from kemu.wdk.wdm import (
    KEVENT,
    LONG,
    LONG64,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_UNINITIALIZED,
    PVOID,
    ExAllocatePool2,
    ExFreePool,
    InterlockedAdd,
    InterlockedAnd,
    InterlockedCompareExchange,
    InterlockedCompareExchangePointer,
    InterlockedDecrement,
    InterlockedExchange,
    InterlockedExchangeAdd,
    InterlockedExchangePointer,
    InterlockedIncrement,
    InterlockedOr,
    InterlockedXor,
    KeMemoryBarrier,
    KeSetEvent,
    ReadAcquire,
    ReadNoFence,
    ReadPointerAcquire,
    ReadPointerNoFence,
    Structure,
    WriteNoFence,
    WritePointerNoFence,
    WritePointerRelease,
    WriteRelease,
    sizeof,
)


class ITEM(Structure):
    Count: LONG
    Total: LONG64
    Next: PVOID


# What they do.

LOWEST, HIGHEST = -(1 << 31), (1 << 31) - 1
longs = st.sampled_from([0, 1, -1, 7, LOWEST, HIGHEST, 0x5555])


def wrap(value: int) -> int:
    return (value - LOWEST) % (1 << 32) + LOWEST


ARITHMETIC: list[tuple[str, Callable[[int, int], int], bool]] = [
    ("InterlockedAdd", lambda old, value: old + value, True),
    ("InterlockedExchangeAdd", lambda old, value: old + value, False),
    ("InterlockedExchange", lambda old, value: value, False),
    ("InterlockedAnd", lambda old, value: old & value, False),
    ("InterlockedOr", lambda old, value: old | value, False),
    ("InterlockedXor", lambda old, value: old ^ value, False),
]


@pytest.mark.rule("KE-INTLK-01")
@pytest.mark.parametrize(("name", "make", "returns_new"), ARITHMETIC)
@given(old=longs, value=longs)
def test_each_makes_a_new_value_and_returns_one_of_the_two(
    name: str, make: Callable[[int, int], int], returns_new: bool, old: int, value: int
) -> None:
    async def script(lab: Lab) -> list[int]:
        found: list[int] = []
        for suffix, kind in (("", LONG), ("64", LONG64)):
            shared = kind(old)
            found += [await getattr(wdm, name + suffix)(shared, value), shared.value]
        return found

    new = make(old, value)
    returned = new if returns_new else old
    assert run(script).result == [wrap(returned), wrap(new), returned, new]


@pytest.mark.rule("KE-INTLK-01")
@given(old=longs)
def test_counting_up_and_down_returns_the_new_value(old: int) -> None:
    async def script(lab: Lab) -> list[int]:
        shared = LONG(old)
        return [await InterlockedIncrement(shared), await InterlockedDecrement(shared), shared.value]

    assert run(script).result == [wrap(old + 1), old, old]


def test_numbers_overflow_as_their_type_does() -> None:
    async def script(lab: Lab) -> list[int]:
        wide = LONG64((1 << 63) - 1)
        return [LONG(1 << 31).value, LONG(0xFFFFFFFF).value, await wdm.InterlockedIncrement64(wide)]

    assert run(script).result == [LOWEST, -1, -(1 << 63)]


@pytest.mark.rule("KE-INTLK-04")
@pytest.mark.parametrize("matches", [True, False])
def test_compare_and_exchange_stores_on_a_match_only_and_returns_the_old_value(matches: bool) -> None:
    async def script(lab: Lab) -> list[Any]:
        count, total, pointer = LONG(5), LONG64(1 << 40), PVOID("old")
        found: list[Any] = [await InterlockedCompareExchange(count, 9, 5 if matches else 6), count.value]
        comparand = 1 << 40 if matches else 0
        found += [await wdm.InterlockedCompareExchange64(total, 9, comparand), total.value]
        held = pointer.value
        found += [await InterlockedCompareExchangePointer(pointer, "new", held if matches else None), pointer.value]
        return found

    assert run(script).result == [
        5,
        9 if matches else 5,
        1 << 40,
        9 if matches else 1 << 40,
        "old",
        "new" if matches else "old",
    ]


def test_pointers_are_compared_by_what_they_point_at() -> None:
    async def script(lab: Lab) -> list[Any]:
        one, other = [1], [1]
        pointer = PVOID(one)
        missed = await InterlockedCompareExchangePointer(pointer, None, other)
        return [missed is one, await InterlockedExchangePointer(pointer, other) is one, pointer.value is other]

    assert run(script).result == [True, True, True]


@pytest.mark.rule("KE-INTLK-01")
def test_reads_and_writes_in_one_piece() -> None:
    async def script(lab: Lab) -> list[Any]:
        count, total, pointer = LONG(), LONG64(), PVOID()
        found: list[Any] = [pointer.value]
        await WriteRelease(count, 1 << 31)
        found += [await ReadAcquire(count), await ReadNoFence(count)]
        await WriteNoFence(count, 2)
        await wdm.WriteRelease64(total, 1 << 40)
        found += [count.value, await wdm.ReadAcquire64(total)]
        await wdm.WriteNoFence64(total, 3)
        found += [await wdm.ReadNoFence64(total)]
        await WritePointerRelease(pointer, "thing")
        found += [await ReadPointerAcquire(pointer)]
        await WritePointerNoFence(pointer, 0)
        KeMemoryBarrier()
        return [*found, await ReadPointerNoFence(pointer)]

    assert run(script).result == [None, LOWEST, LOWEST, 2, 1 << 40, 3, "thing", None]


@pytest.mark.rule("KE-INTLK-01")
def test_they_work_at_any_level() -> None:
    for name, one in REGISTRY.items():
        if name.startswith(("Interlocked", "Read", "Write")):
            assert one.irql == "any"


# Wrong variables.


@pytest.mark.parametrize("thing", [None, 7, LONG64, KEVENT])
def test_a_variable_of_another_type_is_a_bad_pointer(thing: Any) -> None:
    async def script(lab: Lab) -> None:
        await InterlockedIncrement(thing() if isinstance(thing, type) else thing)

    assert run(script).code == "ke.bad-pointer"


@pytest.mark.parametrize(("kind", "value"), [(LONG, None), (LONG, "1"), (LONG64, 1.5)])
def test_a_number_is_assigned_a_number(kind: Any, value: Any) -> None:
    async def script(lab: Lab) -> None:
        kind().value = value

    with pytest.raises(UsageError, match="is assigned to LONG"):
        run(script)


@pytest.mark.parametrize("use", ["plain", "interlocked", "read", "compare"])
@pytest.mark.parametrize("written", [True, False])
def test_a_variable_in_memory_that_was_not_zeroed_has_to_be_assigned(use: str, written: bool) -> None:
    async def script(lab: Lab) -> None:
        item: ITEM = await ExAllocatePool2(POOL_FLAG_NON_PAGED | POOL_FLAG_UNINITIALIZED, sizeof(ITEM), "Test")
        if written:
            item.Count.value = 1
        if use == "plain":
            _ = item.Count.value
        elif use == "interlocked":
            await InterlockedIncrement(item.Count)
        elif use == "read":
            await ReadAcquire(item.Count)
        else:
            await InterlockedCompareExchange(item.Count, 1, 1)

    one = run(script)
    assert one.code == (None if written else "ke.uninitialised")
    if not written:
        assert "ITEM.Count was read by" in one.finding.detail


# Interleavings.


@pytest.mark.rule("KE-INTLK-01")
def test_no_increment_is_lost_and_each_sees_another_value() -> None:
    async def script(lab: Lab) -> list[Any]:
        count = LONG(label="Count")

        async def counter() -> int:
            return await InterlockedIncrement(count)

        results = await lab.together(counter(), counter())
        return [sorted(results), count.value]

    assert {repr(one.result) for one in all_runs(script)} == {"[[1, 2], 2]"}


def classes(script: Script, **options: Any) -> int:
    """How many classes of runs the reduced search finds; it is compared with all runs."""
    return check_reduction(script, all_runs(script, **options), **options)


@pytest.mark.rule("KE-INTLK-01")
@pytest.mark.parametrize(
    ("used", "expected"),
    [
        # Nobody sees the order of two sums.
        (False, 1),
        # Each of three threads sees its place among the others: 3!.
        (True, 6),
    ],
)
def test_additions_whose_results_nobody_uses_commute(used: bool, expected: int) -> None:
    async def script(lab: Lab) -> int:
        count = LONG(label="Count")

        async def counter(number: int) -> int:
            if used:
                return await InterlockedAdd(count, number)
            await InterlockedAdd(count, number)
            await InterlockedIncrement(count)
            await InterlockedExchangeAdd(count, 1)
            await InterlockedDecrement(count)
            return 0

        await lab.together(counter(1), counter(2), counter(4))
        return count.value

    if used:
        assert classes(script) == expected
    else:
        search = DPOR()
        runs: list[Run] = []
        while search.begin():
            one = run(script, search, observer=search)
            search.end(one.outcome)
            runs.append(one)
        assert [one.result for one in runs] == [7 + 3] * expected


@pytest.mark.rule("KE-INTLK-01")
def test_an_addition_does_not_commute_with_what_looks_or_assigns() -> None:
    def script_of(other: Callable[[LONG], Awaitable[Any]]) -> Script:
        async def script(lab: Lab) -> list[Any]:
            count = LONG(1, label="Count")

            async def counter() -> None:
                await InterlockedIncrement(count)

            async def looker() -> Any:
                return await other(count)

            return [*await lab.together(counter(), looker()), count.value]

        return script

    others: list[Callable[[LONG], Awaitable[Any]]] = [
        ReadAcquire,
        ReadNoFence,
        lambda count: WriteRelease(count, 7),
        lambda count: InterlockedExchange(count, 7),
        lambda count: InterlockedCompareExchange(count, 7, 1),
        lambda count: InterlockedAnd(count, 1),
        lambda count: InterlockedOr(count, 4),
        lambda count: InterlockedXor(count, 1),
    ]
    for other in others:
        assert classes(script_of(other)) == 2, other


@pytest.mark.rule("KE-INTLK-04")
def test_of_two_who_compare_and_exchange_one_succeeds() -> None:
    async def script(lab: Lab) -> list[int]:
        owner = LONG(label="Owner")

        async def claim(number: int) -> int:
            return await InterlockedCompareExchange(owner, number, 0)

        return [*await lab.together(claim(1), claim(2)), owner.value]

    assert {tuple(one.result) for one in all_runs(script)} == {(0, 1, 1), (2, 0, 2)}


def test_a_plain_read_tells_orders_apart() -> None:
    async def script(lab: Lab) -> list[Any]:
        count = LONG(label="Count")

        async def counter() -> None:
            await InterlockedIncrement(count)

        async def looker() -> int:
            await lab.step()
            return count.value

        return await lab.together(counter(), looker())

    assert classes(script) == 2


# What orders, and what does not.


def found(script: Script) -> set[str | None]:
    """The findings of all runs with race detection."""
    return codes(all_runs(script, races=True, unseen=True))


OnFlag = Callable[[LONG], Awaitable[Any]]

DONE: dict[str, OnFlag] = {
    "exchange": lambda flag: InterlockedExchange(flag, 1),
    "or": lambda flag: InterlockedOr(flag, 1),
    "failing compare": lambda flag: InterlockedCompareExchange(flag, 5, 9),
    "release": lambda flag: WriteRelease(flag, 1),
    "write": lambda flag: WriteNoFence(flag, 1),
    "acquire": ReadAcquire,
    "read": ReadNoFence,
}


@pytest.mark.rule("KE-INTLK-01", "KE-INTLK-02")
@pytest.mark.parametrize(
    ("publish", "look", "orders"),
    [
        ("exchange", "exchange", True),
        ("release", "acquire", True),
        ("or", "acquire", True),
        ("release", "failing compare", True),
        ("write", "acquire", False),
        ("release", "read", False),
    ],
)
def test_what_was_stored_before_is_seen_by_who_has_seen_the_flag(publish: str, look: str, orders: bool) -> None:
    async def script(lab: Lab) -> None:
        flag, data = LONG(label="Flag"), Field()

        async def publisher() -> None:
            data.store()
            await DONE[publish](flag)

        async def reader() -> None:
            if await DONE[look](flag) == 1:
                data.load()

        await lab.together(publisher(), reader())

    assert found(script) == ({None} if orders else {None, "ke.data-race"})


@pytest.mark.rule("KE-INTLK-01")
def test_an_addition_whose_result_is_dropped_releases_and_acquires_nothing() -> None:
    def script_of(uses: bool) -> Script:
        async def script(lab: Lab) -> None:
            count, data = LONG(label="Count"), Field()

            async def worker() -> None:
                data.load()
                await InterlockedIncrement(count)

            async def last() -> None:
                if uses:
                    if await InterlockedIncrement(count) == 3:
                        data.store()
                else:
                    await InterlockedIncrement(count)
                    data.store()

            await lab.together(worker(), worker(), last())

        return script

    assert found(script_of(uses=True)) == {None}
    assert found(script_of(uses=False)) == {"ke.data-race"}


@pytest.mark.rule("KE-RACE-19", "KE-INTLK-02")
@pytest.mark.parametrize("way", ["plain", "barrier", "acquire"])
def test_double_checked_initialisation_needs_more_than_a_plain_flag(way: str) -> None:
    async def script(lab: Lab) -> None:
        ready, table = LONG(label="Ready"), Field()

        async def user() -> None:
            seen = await ReadAcquire(ready) if way == "acquire" else ready.value
            if way == "barrier":
                KeMemoryBarrier()
            if seen:
                table.load()

        async def initialiser() -> None:
            table.store()
            if way == "barrier":
                KeMemoryBarrier()
            if way == "acquire":
                await WriteRelease(ready, 1)
            else:
                ready.value = 1

        await lab.together(user(), initialiser())

    assert found(script) == ({None} if way == "acquire" else {"ke.data-race"})


@pytest.mark.rule("KE-INTLK-03")
@pytest.mark.parametrize("plain", ["store", "load", "none"])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_variable_is_not_assigned_plainly_beside_interlocked_operations(plain: str, ordered: bool) -> None:
    async def script(lab: Lab) -> None:
        count, event = LONG(label="Count"), lab.event("turn")

        async def counter() -> None:
            await InterlockedIncrement(count)
            await KeSetEvent(event)

        async def other() -> None:
            if ordered:
                await wdm.KeWaitForSingleObject(event)
            if plain == "store":
                count.value = 0
            elif plain == "load":
                _ = count.value

        await lab.together(counter(), other())

    runs = all_runs(script, races=True, unseen=True)
    wrong = plain == "store" and not ordered
    assert codes(runs) == ({"ke.mixed-atomic"} if wrong else {None})
    if wrong:
        details = [one.finding.detail for one in runs]
        assert any("counter changes it with an interlocked operation at" in detail for detail in details)


@pytest.mark.rule("KE-INTLK-05", "KE-POOL-08")
@pytest.mark.parametrize("uses", [True, False])
def test_who_frees_has_to_have_seen_that_the_others_are_done(uses: bool) -> None:
    async def script(lab: Lab) -> None:
        item: ITEM = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(ITEM), "Test")
        item.Count.value = 2
        count = item.Count

        async def user() -> None:
            await InterlockedDecrement(count)

        async def owner() -> None:
            if uses and await ReadAcquire(count) != 1:
                return
            await lab.step()
            await ExFreePool(item)

        await lab.together(user(), owner())

    assert found(script) == ({None} if uses else {"ke.data-race", "ke.use-after-free"})


class STATISTICS(Structure):
    Seen: LONG
    Lost: LONG


benign(STATISTICS, "Seen")


@pytest.mark.rule("KE-INTLK-03")
@pytest.mark.parametrize(("name", "code"), [("Seen", None), ("Lost", "ke.mixed-atomic")])
def test_a_variable_that_is_declared_benign_may_be_assigned_beside_the_others(name: str, code: str | None) -> None:
    async def script(lab: Lab) -> None:
        block: STATISTICS = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(STATISTICS), "Test")
        count: LONG = getattr(block, name)

        async def counter() -> None:
            await InterlockedIncrement(count)

        async def clearer() -> None:
            count.value = 0

        await lab.together(counter(), clearer())

    assert found(script) == {code}


@pytest.mark.rule("KE-INTLK-05")
def test_two_plain_stores_race_as_any_others() -> None:
    async def script(lab: Lab) -> None:
        count = LONG(label="Count")

        async def setter() -> None:
            count.value = 1

        await lab.together(setter(), setter())

    assert found(script) == {"ke.data-race"}


@pytest.mark.rule("KE-INTLK-04")
@pytest.mark.parametrize("returns", [True, False])
def test_a_pointer_that_was_another_one_in_between_is_warned_of(returns: bool) -> None:
    async def script(lab: Lab) -> None:
        first, second = [1], [2]
        head = PVOID(first, label="Head")

        async def popper() -> None:
            seen = await ReadPointerAcquire(head)
            await InterlockedCompareExchangePointer(head, None, seen)

        async def changer() -> None:
            await InterlockedExchangePointer(head, second)
            if returns:
                await InterlockedExchangePointer(head, first)

        await lab.together(popper(), changer())

    warned = {warning for one in all_runs(script, unseen=True) for warning in one.warnings}
    assert warned == ({"ke.aba"} if returns else set())


def test_an_invariant_may_look_at_a_variable() -> None:
    async def script(lab: Lab) -> None:
        count = LONG(label="Count")
        lab.always(lambda: count.value < 2, "fewer than two")

        async def counter() -> None:
            await InterlockedIncrement(count)
            await InterlockedDecrement(count)

        await lab.together(counter(), counter())

    assert codes(all_runs(script)) == {None, "invariant"}


def test_what_an_invariant_looks_at_is_no_part_of_a_step() -> None:
    def script_of(looks: bool) -> Script:
        async def script(lab: Lab) -> None:
            count = LONG(label="Count")
            lab.always(lambda: not looks or count.value < 9, "few")
            await InterlockedIncrement(count)

        return script

    one, other = run(script_of(looks=True)), run(script_of(looks=False))
    assert one.outcome.fingerprint == other.outcome.fingerprint


def test_a_variable_has_its_types_name_unless_it_is_given_one() -> None:
    async def script(lab: Lab) -> list[str]:
        return [LONG().label, PVOID(label="Head").label, InterlockedIncrement.__name__]

    assert run(script).result == ["LONG", "Head", "InterlockedIncrement"]
