"""The line of the user's code at which a thread stands."""

from __future__ import annotations

import inspect
import sysconfig
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from explore.programs import Load, TestProgram, Variable, spawn

import kemu
from kemu.explore import Place, where
from kemu.explore.where import is_users
from kemu.runtime import First, Operation, Thread, current_thread


class Looking:
    """Notes where the thread "t" stands after its first step."""

    def __init__(self) -> None:
        self.place: Place | None = None

    def before_step(self, thread: Thread | None, pick: int, alternatives: int) -> None:
        pass

    def chose(self, value: int, alternatives: int, label: str) -> None:
        pass

    def after_step(self, thread: Thread | None) -> None:
        if thread is not None and thread.label == "t" and thread.steps == 1:
            self.place = where(thread)


def place_of(routine: Coroutine[Operation[Any], Any, Any]) -> Place | None:
    """Where the thread that runs *routine* stands after its first step."""

    async def main() -> None:
        spawn("t", routine)

    looking = Looking()
    TestProgram(main).run(First(), looking)
    return looking.place


def line(text: str) -> int:
    """The number of the line of this file that ends with the comment *text*."""
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, one in enumerate(lines, 1) if one.endswith(f"# {text}"))


async def outer() -> None:
    await inner()


async def inner() -> None:
    await Load(Variable("x"))  # inner line


@asynccontextmanager
async def held() -> AsyncGenerator[None]:
    await Load(Variable("x"))  # held line
    yield


async def uses_held() -> None:
    async with held():
        pass


async def numbers() -> AsyncIterator[int]:
    await Load(Variable("x"))  # numbers line
    yield 1


async def iterates() -> None:
    async for _ in numbers():
        pass


class Awaitable:
    def __await__(self) -> Any:
        yield from Load(Variable("x")).__await__()  # await method line


class Wrapper:
    def __await__(self) -> Any:
        return inner().__await__()


async def awaits_wrapper() -> None:
    await Wrapper()


async def awaits_object() -> None:
    await Awaitable()


def test_innermost_line() -> None:
    assert place_of(outer()) == Place(__file__, line("inner line"), "inner")


def test_library_frames_are_passed_over() -> None:
    assert place_of(uses_held()) == Place(__file__, line("held line"), "held")


def test_asynchronous_generator() -> None:
    assert place_of(iterates()) == Place(__file__, line("numbers line"), "numbers")


def test_wrapped_coroutine() -> None:
    assert place_of(awaits_wrapper()) == Place(__file__, line("inner line"), "inner")


def test_await_method() -> None:
    assert place_of(awaits_object()) == Place(__file__, line("await method line"), "Awaitable.__await__")


def test_thread_that_has_ended() -> None:
    class Ended:
        coroutine = None

    assert where(cast("Thread", Ended())) is None


def test_thread_before_its_first_step() -> None:
    places: list[Place | None] = []

    async def main() -> None:
        thread: Thread = spawn("t", inner())
        places.append(where(thread))
        places.append(where(current_thread()))

    TestProgram(main).run(First())
    assert places[0] is not None
    assert places[0].line == inspect.getsourcelines(inner)[1]


def test_whose_file_it_is() -> None:
    package = Path(kemu.__file__).parent
    library = Path(sysconfig.get_path("stdlib"))
    assert is_users(__file__)
    assert is_users("driver.py")
    # A folder beside kemu whose name begins like it, and drivers that are installed as packages.
    assert is_users(f"{package}_drivers/mine.py")
    assert is_users(str(library / "site-packages" / "mine" / "driver.py"))
    assert not is_users(str(package / "nt" / "event.py"))
    assert not is_users(str(library / "contextlib.py"))
    assert not is_users("<string>")
