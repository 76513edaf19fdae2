"""The fingerprint of a run: equal for the same events in the same order, up to swaps of independent ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from runtime.kit import Access, Bump, Increment, Load, Order, Store, Variable, every_run, run, spawn

from kemu.runtime import Cell, ControlledRuntime, current_thread

Event = tuple[int, str]
"""Which of three cells, and how it is accessed."""

KINDS: dict[str, type[Access]] = {"read": Load, "write": Store, "update": Bump}

programs = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(sorted(KINDS))), min_size=1, max_size=4),
    min_size=2,
    max_size=3,
)


@st.composite
def two_orders(draw: st.DrawFn) -> tuple[list[list[Event]], list[int], list[int]]:
    """A program, as a list of events for each thread, and two orders of its steps."""
    program = draw(programs)
    steps = [number for number, events in enumerate(program) for _ in range(len(events) + 1)]
    return program, draw(st.permutations(steps)), draw(st.permutations(steps))


def fingerprint(program: list[list[Event]], order: list[int]) -> int:
    async def worker(cells: list[Variable], events: list[Event]) -> None:
        for cell, kind in events:
            await KINDS[kind](cells[cell])

    async def main() -> None:
        cells = [Variable(f"cell {number}") for number in range(3)]
        for number, events in enumerate(program):
            spawn(str(number), worker(cells, events))

    # Forced steps are not asked for: when one thread is left, the rest of the order is its own.
    outcome = ControlledRuntime(Order(*map(str, order))).run("main", main())
    assert outcome.end == "finished"
    assert outcome.steps == len(order) + 1
    return outcome.fingerprint


def conflicts(program: list[list[Event]], order: list[int]) -> set[tuple[tuple[int, int], tuple[int, int]]]:
    """The pairs of dependent events, in order. Orders with the same pairs are Mazurkiewicz-equivalent."""
    done: list[tuple[tuple[int, int], Event]] = []
    count = dict.fromkeys(range(len(program)), -1)
    pairs: set[tuple[tuple[int, int], tuple[int, int]]] = set()
    for thread in order:
        count[thread] += 1
        if count[thread] == 0:
            # The step up to the first operation.
            continue
        name, event = (thread, count[thread]), program[thread][count[thread] - 1]
        for earlier, (cell, kind) in done:
            independent = cell != event[0] or (kind == event[1] and kind != "write")
            if earlier[0] != thread and not independent:
                pairs.add((earlier, name))
        done.append((name, event))
    return pairs


@given(two_orders())
def test_equal_exactly_for_equivalent_orders(case: tuple[list[list[Event]], list[int], list[int]]) -> None:
    program, one, other = case
    same = conflicts(program, one) == conflicts(program, other)
    assert (fingerprint(program, one) == fingerprint(program, other)) == same


@given(programs, st.data())
def test_a_swap_of_neighbours(program: list[list[Event]], data: st.DataObject) -> None:
    """The smallest difference: what random orders seldom are."""
    steps = [number for number, events in enumerate(program) for _ in range(len(events) + 1)]
    order = data.draw(st.permutations(steps))
    at = data.draw(st.integers(0, len(order) - 2))
    swapped = [*order[:at], order[at + 1], order[at], *order[at + 2 :]]
    same = conflicts(program, order) == conflicts(program, swapped)
    assert (fingerprint(program, order) == fingerprint(program, swapped)) == same


def test_updates_commute_and_a_read_between_them_does_not() -> None:
    assert fingerprint([[(0, "update")], [(0, "update")]], [0, 0, 1, 1]) == fingerprint(
        [[(0, "update")], [(0, "update")]], [0, 1, 1, 0]
    )
    program: list[list[Event]] = [[(0, "update")], [(0, "update")], [(0, "read")]]
    orders = (
        [0, 1, 2, 0, 1, 2],
        [0, 1, 2, 1, 0, 2],
        [0, 1, 2, 0, 2, 1],
        [0, 1, 2, 1, 2, 0],
        [0, 1, 2, 2, 0, 1],
    )
    both, both_again, first, second, none = (fingerprint(program, list(order)) for order in orders)
    assert both == both_again
    assert len({both, first, second, none}) == 4


def test_three_read_modify_writes_have_as_many_traces_as_orders() -> None:
    async def worker(variable: Variable) -> None:
        await Increment(variable)

    async def main() -> None:
        variable = Variable("x")
        for label in "abc":
            spawn(label, worker(variable))

    # Each thread takes two steps, of which the second conflicts: 6! / (2! 2! 2!) = 90 runs, 3! = 6 traces.
    runs = [outcome.fingerprint for outcome in every_run(main)]
    assert len(runs) == 90
    assert len(set(runs)) == 6


def test_answers_count() -> None:
    async def main() -> None:
        current_thread().runtime.choose(3, "which")

    assert len({outcome.fingerprint for outcome in every_run(main)}) == 3


def test_writing_again_and_again_wears_no_bits_out() -> None:
    hashes: list[int] = []

    async def main() -> None:
        thread = current_thread()
        cell = Cell(thread, "own")
        for _ in range(1_000):
            thread.write(cell)
            hashes.append(thread.hash)

    run(main)
    assert len(set(hashes)) == 1_000
    for bit in range(60):
        ones = sum(value >> bit & 1 for value in hashes)
        # 500 are expected; the standard deviation of a fair coin is 16.
        assert 400 < ones < 600, bit


def test_fingerprints_have_64_bits() -> None:
    assert 0 <= fingerprint([[(0, "write")], [(0, "write")]], [0, 0, 1, 1]) < 1 << 64


def test_a_cell_is_named_by_its_creator() -> None:
    names: dict[str, tuple[int, ...]] = {}

    async def worker(label: str) -> None:
        for number in range(2):
            cell = Cell(current_thread(), f"{label}{number}")
            names[cell.label] = cell.name
            assert repr(cell) == cell.label
            await Load(Variable("other"))

    async def main() -> None:
        spawn("a", worker("a"))
        spawn("b", worker("b"))

    seen: list[dict[str, tuple[int, ...]]] = []
    for _ in every_run(main):
        seen.append(dict(names))
        names.clear()
    # Each worker makes its own cells in its own order: 0, a variable, 2.
    assert all(found == {"a0": (0, 0, 0), "a1": (0, 0, 2), "b0": (0, 1, 0), "b1": (0, 1, 2)} for found in seen)
    assert len(seen) == 20
