"""How many classes of schedules whole operations have: a footprint grown too wide shows here first.

An operation consists of cells, and two of them share none, unless they are about one file or one name.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from fltmgr.kit import LOWER, UPPER, Lab, Script, all_runs, queue, resumes, run

from kemu.explore import DPOR
from kemu.io.constants import IRP_MJ_CLOSE, IRP_MJ_CREATE, IRP_MJ_READ
from kemu.scenario.world import Pending
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltCompletePendedPreOperation,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import Executive, KernelMode, KeSetEvent, KeWaitForSingleObject

Action = Coroutine[Any, Any, None]
User = Callable[[Lab, str], Coroutine[Any, Any, None]]


async def create(lab: Lab, path: str) -> None:
    await lab.open(path)


async def create_and_read(lab: Lab, path: str) -> None:
    file = await lab.open(path)
    await file.read(1)


async def create_read_and_close(lab: Lab, path: str) -> None:
    file = await lab.open(path)
    await file.read(1)
    await file.close()


def users(body: User, paths: tuple[str, ...], *, pends: bool = False) -> Script:
    """Users who do *body* at the same time, under two filters; the upper one pends creates if *pends*."""

    async def script(lab: Lab) -> None:
        majors = (IRP_MJ_CREATE, IRP_MJ_READ, IRP_MJ_CLOSE)
        if pends:

            async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
                await queue(Data, resumes())
                return FLT_PREOP_PENDING

            await lab.filter("U", UPPER, {IRP_MJ_CREATE: (pre, lab.post("U"))})
        else:
            await lab.recorder("U", UPPER, *majors)
        await lab.recorder("L", LOWER, *majors)
        await lab.together(*(body(lab, path) for path in paths))

    return script


ONE = (r"\a",)
TWO = (r"\a", r"\b")
EXPLORE = {"completion": "explore"}

CLASSES: dict[str, tuple[Script, dict[str, Any], int]] = {
    "create": (users(create, ONE), {}, 1),
    "create, completed inline or later": (users(create, ONE), EXPLORE, 3),
    "pended create": (users(create, ONE, pends=True), {}, 4),
    # Two names of one directory are two cells: what is left is what each of the creates has, three ways of completion.
    "two creates": (users(create, TWO), {}, 1),
    "two creates, completed inline or later": (users(create, TWO), EXPLORE, 9),
    # The two have the worker threads in common.
    "two pended creates": (users(create, TWO, pends=True), {}, 320),
    "two create-reads": (users(create_and_read, TWO), {}, 1),
    "two create-read-closes": (users(create_read_and_close, TWO), {}, 1),
    # Who opens a file first can be told, as long as it can be opened exclusively.
    "two creates of one file": (users(create, (r"\a", r"\a")), {}, 2),
}


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name: str) -> None:
    script, options, classes = CLASSES[name]
    assert count(script, **options) == classes


@pytest.mark.parametrize("name", list(CLASSES)[:3])
def test_brute_force_comes_to_the_same(name: str) -> None:
    script, options, classes = CLASSES[name]
    assert len({one.outcome.fingerprint for one in all_runs(script, **options)}) == classes


@pytest.mark.nightly
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("name", list(CLASSES)[3:5])
def test_brute_force_comes_to_the_same_with_two_users(name: str) -> None:
    script, options, classes = CLASSES[name]
    runs = all_runs(script, limit=5_000_000, **options)
    assert len({one.outcome.fingerprint for one in runs}) == classes


@pytest.mark.parametrize("filters", [1, 5])
def test_filters_that_let_everything_pass_add_no_class(filters: int) -> None:
    async def script(lab: Lab) -> None:
        for number in range(filters):
            await lab.recorder(f"F{number}", str(200_000 + number), IRP_MJ_CREATE)
        await lab.together(*(lab.open(path) for path in TWO))

    assert count(script) == 1


def count(script: Script, **options: Any) -> int:
    """One complete run of each class; none fails."""
    search = DPOR()
    while search.begin():
        one = run(script, search, observer=search, **options)
        search.end(one.outcome)
        assert one.code is None
    assert not search.doubt
    return search.traces


# What is dependent on what.


def pended_reads(number: int, then: Callable[[Lab, list[FLT_CALLBACK_DATA], list[Pending]], list[Action]]) -> Script:
    """So many reads of one file are pended; what is done with them is done at the same time."""

    async def script(lab: Lab) -> None:
        held: list[FLT_CALLBACK_DATA] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            held.append(Data)
            return FLT_PREOP_PENDING

        await lab.filter("M", UPPER, {IRP_MJ_READ: (pre, None)})
        file = await lab.quiet_open(overlapped=True)
        begun = [await lab.begin(lab.request(file, IRP_MJ_READ, Length=1)) for _ in range(number)]
        await lab.together(*then(lab, held, begun))
        for one in begun:
            await one.wait()

    return script


async def resume(Data: FLT_CALLBACK_DATA) -> None:
    await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)


def test_completing_two_operations_is_independent() -> None:
    script = pended_reads(2, lambda lab, held, begun: [resume(Data) for Data in held])
    assert len({one.outcome.fingerprint for one in all_runs(script)}) == 1
    assert count(script) == 1


async def cancel(pending: Pending) -> None:
    await pending.cancel()


def test_cancelling_and_completing_one_operation_are_dependent() -> None:
    script = pended_reads(1, lambda lab, held, begun: [resume(held[0]), cancel(begun[0])])
    assert count(script) == len({one.outcome.fingerprint for one in all_runs(script)}) > 1


def test_cancelling_one_operation_and_completing_another_are_independent() -> None:
    def both(lab: Lab, held: list[FLT_CALLBACK_DATA], begun: list[Pending]) -> list[Action]:
        return [resume(held[0]), cancel(begun[1]), resume(held[1])]

    one = pended_reads(1, lambda lab, held, begun: [resume(held[0]), cancel(begun[0])])
    assert count(pended_reads(2, both)) == count(one)


def test_an_operation_and_the_teardown_of_its_instance_are_dependent_and_two_operations_are_not() -> None:
    def script(detaches: bool) -> Script:
        async def script(lab: Lab) -> None:
            driver = await lab.filter(
                "M",
                UPPER,
                {IRP_MJ_READ: (lab.pre("M", FLT_PREOP_SUCCESS_NO_CALLBACK), None)},
                InstanceQueryTeardownCallback=agree,
            )
            files = [await lab.quiet_open(path) for path in TWO]

            async def detach() -> None:
                await driver.detach()

            async def read(number: int) -> None:
                await files[number].read(1)

            await lab.together(read(0), detach() if detaches else read(1))

        return script

    assert count(script(detaches=False)) == 1
    assert count(script(detaches=True)) > 1


async def agree(FltObjects: FLT_RELATED_OBJECTS, Flags: int) -> int:
    return STATUS_SUCCESS


def test_whether_time_is_up_before_the_signal_comes_makes_two_classes() -> None:
    def script(signals: bool) -> Script:
        async def script(lab: Lab) -> None:
            event = lab.event("event")

            async def wait() -> None:
                await KeWaitForSingleObject(event, Executive, KernelMode, False, -10)

            async def other() -> None:
                if signals:
                    await KeSetEvent(event, 0, False)
                else:
                    await lab.step("something else")

            await lab.together(wait(), other())

        return script

    runs = {one.outcome.fingerprint for one in all_runs(script(signals=True))}
    assert count(script(signals=True)) == len(runs) > 1
    assert count(script(signals=False)) == 1
