"""What belongs to an event loop and is awaited in a controlled run: one clear error that names the user's line."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from runtime.kit import Flag, Wait, ordered, run, spawn

from kemu.errors import ForeignAwaitable
from kemu.runtime import Point
from kemu.runtime.foreign import foreign_call, is_library_file


def future() -> Awaitable[None]:
    loop = asyncio.new_event_loop()
    try:
        return loop.create_future()
    finally:
        loop.close()


CALLS: list[tuple[Callable[[], Awaitable[Any]], str]] = [
    (partial(asyncio.sleep, 0), "asyncio.tasks.sleep"),
    (partial(asyncio.sleep, 1), "asyncio.tasks.sleep"),
    (partial(trio.sleep, 1), "trio._timeouts.sleep"),
    (trio.lowlevel.checkpoint, "trio._core._run.checkpoint"),
    (partial(anyio.sleep, 1), "anyio._core._eventloop.sleep"),
    (lambda: anyio.Event().wait(), "anyio._core._synchronization"),
    (future, "Future"),
]


@pytest.mark.parametrize(("call", "name"), CALLS)
def test_the_error_names_the_call_and_the_line(call: Callable[[], Awaitable[Any]], name: str) -> None:
    async def driver() -> None:
        await call()  # here

    async def main() -> None:
        await driver()

    error = run(main).crash
    assert isinstance(error, ForeignAwaitable), error
    line = driver.__code__.co_firstlineno + 1
    assert error.message.startswith("an await that is not kemu's (")
    assert name in error.message
    assert f" at {__file__}:{line} (await call()  # here)" in error.message
    assert error.remedy.endswith("run the scenario with --live to await anyio, trio or asyncio calls")


@pytest.mark.parametrize(("awaited", "name"), [(None, "a bare yield"), (object(), "object")])
def test_an_awaitable_of_the_drivers_own(awaited: object, name: str) -> None:
    class Own:
        def __await__(self) -> Generator[object, None, None]:
            yield awaited

    async def main() -> None:
        await Own()

    error = run(main).crash
    assert isinstance(error, ForeignAwaitable)
    line = Own.__await__.__code__.co_firstlineno + 1
    assert f"({name}) at {__file__}:{line} (yield awaited)" in error.message


def test_the_driver_cannot_swallow_a_foreign_yield_and_is_not_run_to_find_it() -> None:
    seen: list[str] = []

    async def main() -> None:
        try:
            await asyncio.sleep(0)
        except BaseException:  # noqa: BLE001
            seen.append("swallowed")
            await Point("go on")
            seen.append("went on")

    assert isinstance(run(main).crash, ForeignAwaitable)
    # Once, when the run was taken apart.
    assert seen == ["swallowed"]


def test_other_threads_are_unwound() -> None:
    ended: list[str] = []

    async def waiter() -> None:
        try:
            await Wait(Flag())
        finally:
            ended.append("waiter")

    async def main() -> None:
        spawn("waiter", waiter())
        await Point("let it wait")
        await asyncio.sleep(0)

    assert isinstance(ordered(main, "waiter").crash, ForeignAwaitable)
    assert ended == ["waiter"]


def test_an_async_generator_on_the_way() -> None:
    async def generator() -> AsyncIterator[int]:
        await trio.lowlevel.checkpoint()
        yield 1

    async def main() -> None:
        async for _ in generator():
            pass

    error = run(main).crash
    assert isinstance(error, ForeignAwaitable)
    assert f"{__file__}:" in error.message


def test_an_ordinary_error_is_none() -> None:
    assert foreign_call(ValueError("broken")) is None
    assert foreign_call(RuntimeError("no running event loop")) is not None


def test_library_files() -> None:
    assert is_library_file(asyncio.__file__)
    assert is_library_file(trio.__file__)
    assert is_library_file("<string>")
    assert is_library_file(str(Path(sys.modules["kemu"].__file__ or "") / ".." / "nt" / "x.py")) is True
    assert not is_library_file(__file__)
    # A user may keep drivers in folders of these names.
    assert not is_library_file("/home/user/lib/python/drivers/scanner.py")
    assert not is_library_file("/home/user/kemu/scenarios/mine.py")
