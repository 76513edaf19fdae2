"""Dependence is what its definition says, and sets of events are sets."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from explore.programs import TestProgram, Variable, spawn
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.explore.dependence import THREADS, CellNumbers, Dependence, Footprint, dependent, members
from kemu.runtime import READ, UPDATE, WRITE, current_thread

MODES = (READ, WRITE, UPDATE)


@pytest.mark.parametrize("one", MODES)
@pytest.mark.parametrize("other", MODES)
def test_two_steps_commute_if_both_read_or_both_update(one: int, other: int) -> None:
    commute = one == other and one != WRITE
    assert dependent({1: one}, {1: other}) is not commute
    # What else they touch changes nothing, on either side.
    assert dependent({1: one, 2: WRITE}, {1: other, 3: WRITE, 4: WRITE}) is not commute
    assert dependent({1: one, 3: WRITE, 4: WRITE}, {1: other, 2: WRITE}) is not commute


def test_steps_that_share_no_cell_commute() -> None:
    assert not dependent({}, {1: WRITE})
    assert not dependent({1: WRITE}, {2: WRITE})


@given(st.sets(st.integers(0, 200)))
def test_members(events: set[int]) -> None:
    assert list(members(sum(1 << event for event in events))) == sorted(events)


def test_numbers_of_cells_outlive_the_run() -> None:
    numbers = CellNumbers()
    seen: list[list[int]] = []

    async def main() -> None:
        async def nothing() -> None:
            pass

        x, y = Variable("x"), Variable("y")
        child = spawn("child", nothing())
        # In the second run, in another order: a number goes with the name and not with the turn.
        cells = [x, y, child, current_thread()]
        order = range(4) if not seen else (3, 1, 0, 2)
        found = {at: numbers.of(cells[at]) for at in order}
        seen.append([found[at] for at in range(4)])
        assert numbers.known(x.name) == found[0]
        assert numbers.known((THREADS, *child.path)) == found[2]
        assert numbers.known((THREADS, 77)) is None

    program = TestProgram(main)
    for _ in range(2):
        program.run(_Plain())
    assert seen == [[0, 1, 2, 3]] * 2


class _Plain:
    """Decides everything plainly."""

    def begin(self) -> bool:
        return True

    def pick(self, n: int, point: object) -> int:
        return 0

    def choose(self, n: int, label: str) -> int:
        return 0


@pytest.mark.parametrize(
    ("modes", "together"),
    [
        ([READ], READ),
        ([UPDATE, UPDATE], UPDATE),
        ([READ, READ], READ),
        ([READ, UPDATE], WRITE),
        ([READ, WRITE, READ], WRITE),
        ([UPDATE, READ, UPDATE], WRITE),
    ],
)
def test_a_cell_that_was_touched_in_several_ways_counts_as_written(modes: list[int], together: int) -> None:
    numbers = CellNumbers()

    async def main() -> None:
        x, y = Variable("x"), Variable("y")
        footprint = numbers.footprint([(y, READ), *((x, mode) for mode in modes)])
        assert footprint == {0: READ, 1: together}
        assert numbers.of(x) == 1

    TestProgram(main).run(_Plain())


# Against the definition.


@dataclass
class Plain:
    """The same relation, from pairs of events."""

    threads: list[int] = field(default_factory=list[int])
    footprints: list[Footprint] = field(default_factory=list[Footprint])
    spawned: dict[int, int] = field(default_factory=dict[int, int])

    def depends(self, earlier: int, later: int) -> bool:
        same = self.threads[earlier] == self.threads[later]
        made = self.spawned.get(self.threads[later]) == earlier
        return same or made or dependent(self.footprints[earlier], self.footprints[later])

    def past(self, event: int) -> set[int]:
        """Those that happen before *event*, and itself."""
        found = {event}
        for earlier in reversed(range(event)):
            if any(self.depends(earlier, later) for later in found):
                found.add(earlier)
        return found


@dataclass(frozen=True)
class Step:
    thread: int
    footprint: Footprint
    spawns: bool
    """Whether it creates the next thread that is not there yet."""


STEPS = st.lists(
    st.builds(Step, st.integers(0, 4), st.dictionaries(st.integers(0, 3), st.sampled_from(MODES)), st.booleans()),
    max_size=14,
)


def extend(events: Dependence, plain: Plain, steps: list[Step]) -> None:
    """Add *steps*; threads above 1 only act once they have been created."""
    for step in steps:
        there = 2 + len(plain.spawned)
        thread = step.thread % there
        past = events.past_of(thread)
        number = len(plain.threads)
        conflicts = events.conflicts(step.footprint, past)
        plain.threads.append(thread)
        plain.footprints.append(step.footprint)
        before = plain.past(number) - {number}
        rivals = {
            other
            for other in before - set(members(past))
            if plain.threads[other] != thread and dependent(plain.footprints[other], step.footprint)
        }
        # Some that happen before others may be left out, and nothing else.
        assert set(members(conflicts)) <= rivals
        last = {one for one in rivals if not any(one in plain.past(other) for other in rivals - {one})}
        assert last <= set(members(conflicts))
        assert set(members(events.latest(conflicts))) == last
        assert events.append(thread, step.footprint, past, conflicts) == number
        assert set(members(events.past[number])) == before | {number}
        if step.spawns and there < 5:
            plain.spawned[there] = number
            events.spawned(there, number)


@given(STEPS)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_what_happens_before_what(steps: list[Step]) -> None:
    events, plain = Dependence(), Plain()
    extend(events, plain, steps)
    count = len(events)
    assert count == len(steps)
    for event in range(count):
        after = {other for other in range(event + 1, count) if event in plain.past(other)}
        assert set(members(events.not_after(event, count))) == set(range(event + 1, count)) - after
    for thread in range(2):
        mine = [event for event in range(count) if plain.threads[event] == thread]
        assert set(members(events.past_of(thread))) == (plain.past(mine[-1]) if mine else set())


@given(STEPS, st.integers(0, 14), STEPS)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_after_truncation_it_is_as_if_the_rest_had_never_been(steps: list[Step], length: int, then: list[Step]) -> None:
    length = min(length, len(steps))
    # Who was created in what is cut off is created anew, if at all, before it does anything.
    events, plain = Dependence(), Plain()
    extend(events, plain, steps)
    events.truncate(length)
    plain = Plain(
        plain.threads[:length],
        plain.footprints[:length],
        {thread: event for thread, event in plain.spawned.items() if event < length},
    )
    assert len(events) == length
    # This compares with the definition at every step.
    extend(events, plain, then)


@given(STEPS, st.sets(st.integers(0, 3)), st.booleans(), st.integers(0, (1 << 14) - 1))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_who_touched_it(steps: list[Step], cells: set[int], reads: bool, past: int) -> None:
    events, plain = Dependence(), Plain()
    extend(events, plain, steps)
    expected = [
        event
        for event, footprint in enumerate(plain.footprints)
        if not past >> event & 1 and any(cell in cells and (reads or mode != READ) for cell, mode in footprint.items())
    ]
    assert events.touching(cells, past, reads=reads) == expected[::-1]


@given(STEPS, st.integers(0, (1 << 14) - 1))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_who_can_begin(steps: list[Step], chosen: int) -> None:
    events, plain = Dependence(), Plain()
    extend(events, plain, steps)
    some = {event for event in members(chosen) if event < len(steps)}
    expected: list[int] = []
    for event in sorted(some):
        first = min(other for other in some if plain.threads[other] == plain.threads[event])
        if event == first and not (plain.past(event) - {event}) & some:
            expected.append(plain.threads[event])
    assert events.initials(sum(1 << event for event in some)) == expected


def test_a_thread_that_has_done_nothing_comes_after_its_creation() -> None:
    events = Dependence()
    assert events.past_of(3) == 0
    events.append(0, {0: WRITE}, 0, 0)
    events.append(0, {0: WRITE}, events.past_of(0), 0)
    events.spawned(3, 0)
    assert events.past_of(3) == 0b01
    events.append(3, {}, events.past_of(3), 0)
    assert events.past == [0b01, 0b11, 0b101]
    # The last write shadows those before it.
    assert events.conflicts({0: READ}, 0) == 0b10
    assert events.latest(0b11) == 0b10
    assert events.latest(0) == 0
