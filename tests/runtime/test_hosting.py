"""A controlled run under a running event loop takes place in a plain thread."""

from __future__ import annotations

import _thread
import asyncio
import subprocess
import sys
import threading

import pytest
import trio
from runtime.kit import Variable, run

from kemu.errors import ForeignAwaitable
from kemu.runtime import hosting
from kemu.runtime.hosting import inside_event_loop, outside_event_loop


def where() -> tuple[str, bool]:
    return threading.current_thread().name, inside_event_loop()


def test_without_an_event_loop_nothing_changes() -> None:
    assert outside_event_loop(where) == (threading.current_thread().name, False)


def test_under_asyncio() -> None:
    async def host() -> tuple[str, bool]:
        assert inside_event_loop()
        return outside_event_loop(where)

    assert asyncio.run(host()) == ("kemu", False)
    assert not inside_event_loop()


@pytest.mark.trio
async def test_under_trio() -> None:
    assert inside_event_loop()
    assert outside_event_loop(where) == ("kemu", False)


@pytest.mark.trio
async def test_arguments_and_result() -> None:
    def add(one: int, other: int, *, third: int) -> int:
        return one + other + third

    assert outside_event_loop(add, 1, 2, third=3) == 6


@pytest.mark.trio
@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), SystemExit(3)])
async def test_what_is_raised_comes_back(error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        outside_event_loop(fail)
    assert caught.value is error


def test_an_interrupt_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def endless() -> None:
        _thread.interrupt_main()
        release.wait(60)

    monkeypatch.setattr(hosting, "inside_event_loop", lambda: True)
    with pytest.raises(KeyboardInterrupt):
        outside_event_loop(endless)
    release.set()


@pytest.mark.trio
async def test_a_foreign_await_is_found_under_its_own_loop() -> None:
    """In the loop's own thread ``trio.sleep`` would have armed a timer of the host."""

    async def main() -> None:
        await trio.sleep(1_000)

    assert isinstance(outside_event_loop(run, main).crash, ForeignAwaitable)


@pytest.mark.trio
async def test_a_run_is_the_same() -> None:
    async def main() -> str:
        return Variable("x").label

    assert outside_event_loop(run, main).fingerprint == run(main).fingerprint


def test_no_event_loop_library_is_imported() -> None:
    program = (
        "import sys; from kemu.runtime.hosting import outside_event_loop; outside_event_loop(int); "
        "print(sorted({'trio', 'asyncio', 'anyio'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "[]"
