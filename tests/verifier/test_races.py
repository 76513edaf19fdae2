"""Races as findings: codes, words, signatures, and what becomes of them in an exploration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, run
from racing import Field

from kemu.explore import BoundedDFS, Budget, StickyRandomWalk, check_determinism, explain, explore, replay, shrink
from kemu.runtime import Point, benign, is_benign
from kemu.scenario.program import ScenarioProgram
from kemu.scenario.target import select
from kemu.wdk.wdm import (
    KSPIN_LOCK,
    KeAcquireSpinLock,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
)

FOLDER = Path(__file__).parents[2] / "scenarios"


def two(first: Callable[[Lab, Field], Awaitable[None]], second: Callable[[Lab, Field], Awaitable[None]]) -> Any:
    """A script with a field that two threads access."""

    async def script(lab: Lab) -> None:
        field = Field("Scanner.Count")

        async def one() -> None:
            await first(lab, field)

        async def other() -> None:
            await second(lab, field)

        await lab.together(one(), other())

    return script


async def stores(lab: Lab, field: Field) -> None:
    await Point("go")
    field.store()


async def loads(lab: Lab, field: Field) -> None:
    await Point("go")
    field.load()


async def stores_elsewhere(lab: Lab, field: Field) -> None:
    await stores(lab, field)


@pytest.mark.rule("KE-INTLK-05")
def test_a_finding_tells_of_both_accesses_and_of_what_is_missing() -> None:
    found = run(two(stores, loads), races=True).finding
    assert (found.code, found.severity, found.thread) == ("ke.data-race", "error", "other")
    first, _, rest = found.detail.partition(", then ")
    second, _, missing = rest.partition("; ")
    assert first.startswith("one stores Scanner.Count at ")
    assert first.endswith(" (Field.store)")
    assert second.startswith("other loads it at ")
    assert missing == (
        "no lock, event or hand-off orders the first before the second: one has released nothing since,"
        " other last acquired its start by script"
    )


def test_without_race_detection_there_is_no_finding() -> None:
    assert run(two(stores, loads)).code is None


def test_the_signature_is_the_same_whichever_access_comes_first() -> None:
    runs = all_runs(two(stores, loads), races=True)
    assert {one.code for one in runs} == {"ke.data-race"}
    assert len({one.finding.signature for one in runs}) == 1
    assert len({one.finding.detail.partition(" ")[0] for one in runs}) == 2
    signature = runs[0].finding.signature
    assert signature[0] == "ke.data-race"
    label, *places = signature[1].split()
    assert label == "Scanner.Count"
    # File names only: it is the same wherever the driver lies.
    assert [place.partition(":")[0] for place in places[::2]] == ["racing.py", "racing.py"]


def test_other_accesses_are_another_bug() -> None:
    one, other = run(two(stores, loads), races=True).finding, run(two(stores, stores), races=True).finding
    assert one.signature != other.signature


class Scanner:
    """Fields of drivers are declared by class, and hold for those derived from it."""


class Derived(Scanner):
    pass


benign(Scanner, "Seen")


@pytest.mark.parametrize(("name", "code"), [("Seen", None), ("Stopping", "ke.data-race")])
def test_a_benign_field_is_silent_and_the_next_one_is_not(name: str, code: str | None) -> None:
    async def script(lab: Lab) -> None:
        field = Field(f"Scanner.{name}", benign=is_benign(Derived, name))
        await lab.together(stores(lab, field), stores(lab, field))

    assert {one.code for one in all_runs(script, races=True)} == {code}


@pytest.mark.parametrize("polls", [1, 3])
def test_a_plain_stop_flag_is_a_race(polls: int) -> None:
    async def script(lab: Lab) -> None:
        stopping = Field("Scanner.Stopping")

        async def worker() -> None:
            for _ in range(polls):
                stopping.load()
                await Point("work")

        async def unload() -> None:
            stopping.store()

        await lab.together(worker(), unload())

    assert {one.code for one in all_runs(script, races=True)} == {"ke.data-race"}


def test_an_invariant_looks_at_a_field_and_races_with_nobody() -> None:
    async def script(lab: Lab) -> None:
        field = Field()
        looks: list[int] = []

        def looks_at_it() -> bool:
            field.load()
            looks.append(1)
            return True

        lab.always(looks_at_it, "it is looked at")
        lab.at_end(looks_at_it, "it is looked at")

        async def writer() -> None:
            await Point("step")
            field.store()
            await Point("step")

        await lab.together(writer())
        assert looks

    assert {one.code for one in all_runs(script, races=True)} == {None}


def test_detection_goes_on_after_an_invariant_was_checked() -> None:
    async def script(lab: Lab) -> None:
        lab.always(lambda: True, "nothing")
        field = Field()
        await lab.together(stores(lab, field), stores(lab, field))

    assert run(script, races=True).code == "ke.data-race"


def test_an_invariant_that_raises_leaves_detection_on() -> None:
    async def script(lab: Lab) -> None:
        def broken() -> bool:
            raise ZeroDivisionError

        lab.always(broken, "nothing")
        before = lab.runtime.races
        assert before is not None
        with pytest.raises(ZeroDivisionError):
            lab.runtime.invariants[0]()
        assert lab.runtime.races is before
        lab.runtime.invariants.clear()

    assert run(script, races=True).code is None


# A whole scenario.


def program(variant: str = "buggy", races: bool = True) -> ScenarioProgram:
    """The shipped scenario whose callback looks at callback data that it has handed over."""
    (one,) = select(f"{FOLDER / 'minifilter' / 'touch_after_hand_off.py'}", variant=variant, races=races)
    assert one.races == races
    return one


def test_a_touch_after_the_hand_over_is_found_in_the_plain_run_of_the_scenario() -> None:
    outcome = check_determinism(program())
    assert outcome.failure.code == "hand-off-race"
    assert check_determinism(program(races=False)).failure is None


def test_a_race_is_shrunk_explained_and_replayed_like_any_other_finding() -> None:
    one = program()
    found = explore(one, StickyRandomWalk(3), Budget(schedules=100), keep_going=True)
    assert {finding.failure.code for finding in found.findings} == {"hand-off-race", "cbd-use-after-release"}
    race = next(finding for finding in found.findings if finding.failure.code == "hand-off-race")
    shrunk = shrink(one, race.choices, signature=race.signature, second=race.second)
    # The plain run has it.
    assert shrunk.recording.cost.choices == ()
    explained = explain(one, shrunk.recording.choices)
    assert explained is not None
    assert explained.failure.signature == race.signature
    again = replay(one, shrunk.recording.choices)
    assert again.failure.signature == race.signature


def test_a_live_run_looks_for_no_races() -> None:
    assert program().run_live().failure is None


def test_a_token_is_the_same_run_with_and_without_race_detection() -> None:
    with_races, without = program("fixed"), program("fixed", races=False)
    recording = without.instrumented()
    assert with_races.identity == without.identity == recording.identity
    search, again = BoundedDFS(1), BoundedDFS(1)
    while search.begin():
        assert again.begin()
        one, other = with_races.run(search), without.run(again)
        assert (one.choices, one.steps, one.end) == (other.choices, other.steps, other.end)
        assert one.failure == other.failure
        # What drivers do to their state is recorded with race detection, and then counts for what a run is.
        assert one.fingerprint == replay(recording, one.choices).fingerprint
        search.end(one)
        again.end(other)
    assert not again.begin()


def test_a_lock_that_only_one_of_two_takes_orders_nothing() -> None:
    async def script(lab: Lab) -> None:
        lock, field = KSPIN_LOCK("CountLock"), Field("Scanner.Count")
        KeInitializeSpinLock(lock)

        async def locked() -> None:
            irql = await KeAcquireSpinLock(lock)
            field.store()
            await KeReleaseSpinLock(lock, irql)

        async def unlocked() -> None:
            field.store()

        await lab.together(locked(), unlocked())

    found = run(script, races=True).finding
    assert found.detail.endswith("locked next released CountLock, unlocked last acquired its start by script")
