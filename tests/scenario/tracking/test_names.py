"""Names and footprints over all interleavings: what searches that compare executions rely on."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenario.tracking.kit import Files, accept_everything

from kemu.explore import BoundedDFS, Budget, Event, RandomWalk, Replay, explore, watch
from kemu.runtime import READ, Cell, Outcome
from kemu.runtime.data import ANONYMOUS, DataCell
from kemu.scenario.program import ScenarioProgram

SHARED = """
from collections import deque
class Node:
    def __init__(self, value):
        self.value = value
        self.items = [value]
class State:
    def __init__(self):
        self.a = 0
        self.b = 0
        self.items = [0]
        self.table = {}
        self.marks = {0}
        self.queue = deque()
        self.node = Node(0)
        self.first = None
        self.head = LIST_ENTRY()
        InitializeListHead(self.head)
class Inner(Structure):
    number: int
class Block(Structure):
    used: int
    inner: Inner
    count: LONG
    links: LIST_ENTRY

async def prepare():
    s = State()
    s.raw = await ExAllocatePool2(POOL_FLAG_NON_PAGED, 16, "Raw")
    s.stack = SLIST_HEADER()
    InitializeSListHead(s.stack)
    s.next = PVOID()
    first = LIST_ENTRY(0)
    InsertTailList(s.head, first)
    return s, first, await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(Block), "Test")

async def finish(s, block, *more):
    made = s.first.items if isinstance(s.first, Node) else s.first
    kernel = []
    while not IsListEmpty(s.head):
        kernel.append(RemoveHeadList(s.head).record)
    used = block.used, block.inner.number, block.count.value, s.next.value, bytes(s.raw)
    while (entry := await InterlockedPopEntrySList(s.stack)) is not None:
        kernel.append(entry.record)
    await ExFreePoolWithTag(block, "Test")
    left = s.a, s.b, s.items, s.table, s.marks, s.queue, s.node.value, s.node.items, made
    return repr((used, kernel, s.shared.total, left, more))
"""

GROUPS = {
    "fields": [
        "s.a += 1",
        "s.b = s.a",
        "s.a = s.b + {n}",
        "seen.append(s.a)",
        "s.a, s.b = s.b, {n}",
        "del s.a; s.a = {n}",
    ],
    "list": [
        "s.items.append({n})",
        "alias.append({n})",
        "alias.extend([{n}])",
        "s.items = [*s.items, {n}]",
        "seen.append(len(s.items))",
        "seen.append(sum(alias))",
        "for x in s.items: s.b += x",
        "s.items.sort(key=lambda x: -x)",
        "seen.append({{*s.items}} == {{*alias}})",
        "if s.items: s.items[0], s.b = s.b, s.items[0]",
        "del s.items[1:]",
        "s.items.insert(0, {n})",
        "seen.append(s.items.pop() if s.items else None)",
        "seen.append([9] + s.items)",
        "seen.append({n} in s.items)",
        "alias *= 2",
    ],
    "dictionary": [
        "s.table[{n}] = s.a",
        "seen.append(sorted(s.table))",
        "seen.append(s.table.get(1, s.b))",
        "s.table.pop(1, None)",
        "s.table.setdefault(1, {n})",
        "s.table.update({{1: {n}}})",
        "seen.append(list(s.table.items()))",
        "seen.append(bool(s.table))",
        "seen.append({{**s.table}})",
        "s.table |= {{2: {n}}}",
    ],
    "set": [
        "s.marks.add({n})",
        "s.marks.discard(1)",
        "seen.append(s.marks | {{5}})",
        "seen.append({{5}} | s.marks)",
        "seen.append(frozenset([1]) & s.marks)",
        "s.marks |= {{{n}}}",
        "s.marks -= {{1}}",
    ],
    "queue": ["s.queue.append({n})", "s.queue.appendleft({n})", "seen.append(s.queue.popleft() if s.queue else None)"],
    "objects": [
        "s.node = Node(s.a)",
        "s.node.value += {n}",
        "s.node.items.append(s.node.value)",
        "node.items.append({n})",
        "seen.append(node.value)",
        "s.first = s.first or Node({n})",
        "s.first = s.first or [{n}]",
        "setattr(node, 'val' + 'ue', {n})",
        "seen.append(getattr(node, 'value'))",
    ],
    "closure": ["count += 1", "seen.append(count)", "count = {n}"],
    "kernel": [
        "InsertTailList(s.head, LIST_ENTRY({n}))",
        "InsertHeadList(s.head, LIST_ENTRY({n}))",
        "seen.append(None if IsListEmpty(s.head) else RemoveHeadList(s.head).record)",
        "if s.head.Blink is not s.head: RemoveEntryList(s.head.Blink)",
        "if first.Flink.Blink is first: RemoveEntryList(first)",
    ],
    "variables": [
        "block.count.value += {n}",
        "seen.append(block.count.value)",
        "await InterlockedIncrement(block.count)",
        "seen.append(await InterlockedAdd(block.count, {n}))",
        "await InterlockedExchange(block.count, {n})",
        "seen.append(await InterlockedCompareExchange(block.count, {n}, 0))",
        "seen.append(await ReadNoFence(block.count))",
        "seen.append(await InterlockedCompareExchangePointer(s.next, {n}, None))",
        "s.next.value = None",
    ],
    "memory": [
        "block.inner.number += {n}",
        "seen.append(block.inner.number)",
        "RtlZeroMemory(block, sizeof(Block))",
        "RtlCopyMemory(block, s.raw, 16)",
        "RtlCopyMemory(s.raw, block, 16)",
        "s.raw[0] = {n}",
        "seen.append((s.raw + 8)[0:2])",
        "seen.append(RtlCompareMemory(s.raw, bytes(16), 16))",
        "await InterlockedPushEntrySList(s.stack, SLIST_ENTRY({n}))",
        "seen.append(await InterlockedPopEntrySList(s.stack) is None)",
        "InsertTailList(s.head, block.links); RemoveEntryList(block.links)",
    ],
    "block": ["block.used += {n}", "seen.append(block.used)", "block.used = {n}"],
    "class": [
        "Shared.total += {n}",
        "Shared.total = s.shared.total + {n}",
        "s.shared.total = {n}",
        "seen.append(s.shared.total)",
    ],
}
STEP = "await world.step()"

threads = st.lists(
    st.lists(st.sampled_from([*(line for lines in GROUPS.values() for line in lines), *[STEP] * 9]), max_size=4).filter(
        lambda lines: lines.count(STEP) < 3
    ),
    min_size=2,
    max_size=2,
)


def body(programs: Sequence[Sequence[str]], begin: str = STEP) -> str:
    """A script with one thread for each of *programs*; its result is everything that they could tell apart."""
    parts = [
        "class Shared: total = 0",
        "count = 0",
        "s, first, block = await prepare()",
        "s.shared = Shared()",
    ]
    for number, lines in enumerate(programs, 1):
        parts += [
            f"async def thread{number}():",
            "    nonlocal count",
            "    seen, alias, node = [], s.items, s.node",
            f"    {begin}",
            *("    " + line.format(n=number) for line in lines),
            "    return seen",
        ]
    calls = ", ".join(f"thread{number}()" for number in range(1, len(programs) + 1))
    parts += [f"seen = await world.together({calls})", "return await finish(s, block, seen, Shared.total, count)"]
    return "\n".join(parts)


def runs(program: ScenarioProgram) -> list[Outcome]:
    """The outcomes of all runs."""
    found: list[Outcome] = []
    strategy = BoundedDFS(None)
    end = strategy.end

    def keep(outcome: Outcome) -> None:
        found.append(outcome)
        end(outcome)

    strategy.end = keep  # type: ignore[method-assign]
    assert explore(program, strategy, Budget(schedules=3_000)).exhausted
    return found


def assert_sound(plain: ScenarioProgram) -> None:
    """Runs that footprints take for one have one result, and the plain runs are the tracked ones."""
    tracked = runs(plain.instrumented())
    results: dict[int, set[Any]] = {}
    for outcome in tracked:
        results.setdefault(outcome.fingerprint, set()).add(outcome.result)
    assert all(len(found) == 1 for found in results.values()), results
    assert [(one.choices, one.steps, one.result) for one in runs(plain)] == [
        (one.choices, one.steps, one.result) for one in tracked
    ]


def assert_independent_steps_commute(tracked: ScenarioProgram) -> None:
    """Neighbouring steps of two threads that touch nothing in common may be swapped: the result is the same."""
    made: dict[tuple[str, ...], tuple[list[Event], Any]] = {}
    for outcome in runs(tracked):
        _, events = watch(tracked, Replay(outcome.choices))
        made[tuple(event.thread for event in events)] = events, outcome.result
    assert len(made) > 1
    for order, (events, result) in made.items():
        for at, (one, other) in enumerate(itertools.pairwise(events)):
            if one.thread != other.thread and not conflict(one, other):
                swapped = (*order[:at], other.thread, one.thread, *order[at + 2 :])
                assert swapped in made
                assert made[swapped][1] == result, (one, other)


def conflict(one: Event, other: Event) -> bool:
    """Whether the steps touch something in common, and one of them changes it; things are told by their names."""
    touched = [{(name_of(cell), mode != READ) for cell, mode in event.footprint} for event in (one, other)]
    return any(
        mine == yours and (changes or changes_too) for mine, changes in touched[0] for yours, changes_too in touched[1]
    )


def name_of(cell: Cell) -> object:
    """The name of driver state; other cells are told by themselves, because their names go with their run."""
    return cell.name if isinstance(cell, DataCell) else cell


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[ScenarioProgram]]:
    """For each group the programs in which two threads do one thing each."""
    text, names = textwrap.dedent(SHARED), list[str]()
    for group, lines in GROUPS.items():
        for one, other in itertools.combinations_with_replacement(lines, 2):
            script = textwrap.indent(body([[one], [other]], "pass"), "    ")
            text += f"@scenario\nasync def pair_{len(names)}(world):\n{script}\n"
            names.append(group)
    found: dict[str, list[ScenarioProgram]] = {}
    with pytest.MonkeyPatch.context() as patch:
        accept_everything(patch)
        for group, program in zip(names, Files(tmp_path_factory.mktemp("pairs")).all(text), strict=True):
            found.setdefault(group, []).append(program)
    return found


@pytest.mark.parametrize("group", GROUPS)
def test_whatever_two_threads_do_footprints_tell_results_apart(
    pairs: dict[str, list[ScenarioProgram]], group: str
) -> None:
    for program in pairs[group]:
        assert program.loaded.coarse == ()
        assert_sound(program)
        assert_independent_steps_commute(program.instrumented())


@given(threads)
@settings(max_examples=10)
def test_runs_with_one_fingerprint_have_one_result(
    tmp_path_factory: pytest.TempPathFactory, lines: list[list[str]]
) -> None:
    assert_sound(Files(tmp_path_factory.mktemp("names")).script(body(lines), SHARED))


@given(threads)
@settings(max_examples=10)
def test_a_name_stands_for_one_thing_in_all_runs(
    tmp_path_factory: pytest.TempPathFactory, lines: list[list[str]]
) -> None:
    program = Files(tmp_path_factory.mktemp("names")).script(body(lines), SHARED, tracked=True)
    labels: dict[tuple[int, ...], str] = {}
    for seed in range(10):
        _, events = watch(program, RandomWalk(seed))
        for event in events:
            cells = {cell for cell, _ in event.footprint if isinstance(cell, DataCell)}
            assert len({cell.name for cell in cells}) == len(cells)
            for cell in cells:
                assert cell.name[0] != ANONYMOUS
                assert labels.setdefault(cell.name, cell.label) == cell.label
    assert labels


def test_who_touches_a_field_first_has_no_part_in_names(files: Files) -> None:
    # Each thread touches a field that nobody touched before, and all of them create something then: a lock's name is
    # made of its thread's ordinals, and must depend neither on who made the cells nor on whether they are made yet.
    script = """
    class State: pass
    s = State()
    async def one():
        s.a = 1
        return KEVENT("made").name
    async def two():
        s.a = 2
        s.b = 2
        return KEVENT("made").name
    started = [world.start("one", one()), world.start("two", two())]
    await world.step()
    made = KEVENT("made").name
    return [made, *[await thread.join() for thread in started]]
    """
    outcomes = runs(files.script(script, tracked=True))
    assert len({tuple(outcome.result) for outcome in outcomes}) == 1
    assert len({outcome.fingerprint for outcome in outcomes}) == 2


def test_objects_made_by_two_threads_have_names_of_their_threads(files: Files) -> None:
    body = """
    kept = []
    async def make():
        await world.step()
        kept.append(Made())
        await world.step()
        kept[0].value = 1
    await world.together(make(), make())
    """
    before = """
    class Made:
        def __init__(self):
            self.value = 0
    """
    program = files.script(body, before, tracked=True)
    makers: set[tuple[int, ...]] = set()
    for outcome in runs(program):
        del outcome
    for seed in range(20):
        _, events = watch(program, RandomWalk(seed))
        makers |= {cell.name[:-1] for event in events for cell, _ in event.footprint if cell.label == "Made.value"}
    # Two threads, and each is the first of its objects.
    assert len(makers) == 2
    assert {name[-1] for name in makers} == {-1}


def test_a_store_that_an_invariant_may_see_depends_on_all_others(files: Files) -> None:
    body = """
    class Pair:
        def __init__(self):
            self.x = self.y = 0
    p = Pair()
    {always}
    async def first():
        await world.step()
        p.x = 1
        await world.step()
        p.x = 0
    async def second():
        await world.step()
        p.y = 1
        await world.step()
        p.y = 0
    await world.together(first(), second())
    """
    free = runs(files.script(body.format(always=""), tracked=True))
    assert len({outcome.fingerprint for outcome in free}) == 1
    watched = files.script(body.format(always='world.always(lambda: p.x + p.y < 3, "never")'), tracked=True)
    # Two stores of each thread, in any order that keeps the threads': 4! / (2! * 2!).
    assert len({outcome.fingerprint for outcome in runs(watched)}) == 6
    failing = files.script(body.format(always='world.always(lambda: not (p.x and p.y), "both")'), tracked=True)
    outcomes = explore(failing, BoundedDFS(None), Budget(), keep_going=True)
    assert [finding.failure.code for finding in outcomes.findings] == ["invariant"]


def test_what_an_invariant_makes_takes_no_names(files: Files) -> None:
    body = """
    class Made:
        def __init__(self):
            self.value = 0
    world.always(lambda: Made().value == 0 and [1], "made")
    await world.step()
    await world.step()
    Made().value = 1
    """
    program = files.script(body, tracked=True)
    _, events = watch(program, RandomWalk(0))
    names = {cell.name for event in events for cell, _ in event.footprint if cell.label == "Made.value"}
    assert {name[:-1] for name in names} == {(0, -1)}
