"""Threads: their names, their creation and their end."""

from __future__ import annotations

from typing import Any

from runtime.kit import Increment, Variable, every_run, ordered, run, spawn

from kemu.runtime import Join, Operation, Point, Thread, current_thread


async def child(label: str, depth: int) -> None:
    if depth:
        for number in range(2):
            await Point("between")
            spawn(f"{label}{number}", child(f"{label}{number}", depth - 1))


def test_names_do_not_depend_on_the_schedule() -> None:
    names: dict[str, tuple[int, ...]] = {}

    class Named(Thread):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            names[self.label] = self.path

    async def main() -> None:
        for label in "ab":
            spawn(label, child(label, 1))

    expected = {
        "main": (0,),
        "a": (0, 0),
        "b": (0, 1),
        "a0": (0, 0, 0),
        "a1": (0, 0, 1),
        "b0": (0, 1, 0),
        "b1": (0, 1, 1),
    }
    count = 0
    for number, outcome in enumerate(every_run(main, limit=100_000, thread_class=Named)):
        assert outcome.end == "finished"
        assert names == expected
        names.clear()
        count = number + 1
        if count == 2_000:
            break
    assert count == 2_000


def test_a_thread_is_a_cell_of_its_creator() -> None:
    async def main() -> list[object]:
        first, variable, second = spawn("first", child("", 0)), Variable("x"), spawn("second", child("", 0))
        return [first.name, variable.name, second.name, first.creator is current_thread()]

    # main's own name took ordinal 0.
    assert run(main).result == [(0, 1), (0, 2), (0, 3), True]


def test_join_waits_for_the_end_and_evaluates_to_the_result() -> None:
    async def worker(variable: Variable) -> str:
        await Increment(variable)
        await Increment(variable)
        return "done"

    async def main() -> tuple[str, int, str]:
        variable = Variable("x")
        thread = spawn("worker", worker(variable))
        result = await Join(thread)
        # Joining again does not wait.
        return result, variable.value, await Join(thread)

    for outcome in every_run(main):
        assert outcome.result == ("done", 2, "done")


def test_a_join_sees_the_joined_threads_writes() -> None:
    """The end of a thread is a write of it, and joining a read: what it did comes before."""

    async def worker(variable: Variable) -> None:
        await Increment(variable)

    async def main() -> None:
        variable = Variable("x")
        threads = [spawn(label, worker(variable)) for label in "ab"]
        for thread in threads:
            await Join(thread)

    fingerprints: dict[int, set[tuple[str, ...]]] = {}
    for outcome in every_run(main):
        fingerprints.setdefault(outcome.fingerprint, set()).add(())
    # Which of the two increments is first, and nothing else.
    assert len(fingerprints) == 2


def test_the_ring_is_ordered_by_path() -> None:
    """A child stands behind its creator and before its creator's next sibling."""
    seen: list[list[str]] = []

    async def note() -> None:
        runtime = current_thread().runtime
        seen.append([thread.label for thread in sorted(runtime.threads, key=lambda thread: thread.path)])

    async def parent() -> None:
        spawn("a0", note())

    async def main() -> None:
        spawn("a", parent())
        spawn("b", child("b", 0))
        await Point("stay")

    ordered(main, "a a0")
    assert seen == [["main", "a", "a0", "b"]]


def test_a_thread_that_was_never_started_is_closed_quietly() -> None:
    async def main() -> None:
        spawn("never started", child("x", 1))
        current_thread().runtime.stop("enough")

    # A coroutine that is never awaited would warn, and warnings are errors.
    assert run(main).end == "stopped"


def test_layers_above_have_their_own_thread() -> None:
    class Kernel(Thread):
        __slots__ = ("irql",)

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.irql = 0

    class Raise(Operation[int]):
        __slots__ = ()

        def perform(self, thread: Thread) -> int:
            assert isinstance(thread, Kernel)
            thread.irql = 2
            return thread.irql

    async def main() -> int:
        return await Raise()

    assert run(main, thread_class=Kernel).result == 2
