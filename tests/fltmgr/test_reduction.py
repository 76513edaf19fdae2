"""How many classes of schedules whole operations have: a footprint grown too wide shows here first.

An operation consists of cells, and what two of them share is little: the directory, when both open a file.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from fltmgr.kit import LOWER, UPPER, Lab, Script, all_runs, queue, resumes, run

from kemu.explore import DPOR
from kemu.io.constants import IRP_MJ_CLOSE, IRP_MJ_CREATE, IRP_MJ_READ
from kemu.wdk.fltkernel import FLT_CALLBACK_DATA, FLT_PREOP_PENDING, FLT_RELATED_OBJECTS

User = Callable[[Lab, str], Awaitable[None]]


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

CLASSES: dict[str, tuple[Script, dict[str, str], int]] = {
    "create": (users(create, ONE), {}, 1),
    "create, completed inline or later": (users(create, ONE), EXPLORE, 3),
    "pended create": (users(create, ONE, pends=True), {}, 4),
    # Who is first in the directory.
    "two creates": (users(create, TWO), {}, 2),
    "two creates, completed inline or later": (users(create, TWO), EXPLORE, 18),
    "two pended creates": (users(create, TWO, pends=True), {}, 320),
    # Everything after the creates is each user's own.
    "two create-reads": (users(create_and_read, TWO), {}, 2),
    "two create-read-closes": (users(create_read_and_close, TWO), {}, 2),
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

    assert count(script) == 2


def count(script: Script, **options: str) -> int:
    """One complete run of each class; none fails."""
    search = DPOR()
    while search.begin():
        one = run(script, search, observer=search, **options)
        search.end(one.outcome)
        assert one.code is None
    assert not search.doubt
    return search.traces
