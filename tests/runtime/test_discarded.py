"""Whether a caller drops the result of an await."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from kemu.runtime.discarded import result_is_discarded


async def asked() -> bool:
    return result_is_discarded(sys._getframe(1))


class Asks:
    """Keeps what it is told, so that a result that is dropped can be asked for."""

    def __init__(self) -> None:
        self.told: list[bool] = []

    async def ask(self) -> int:
        self.told.append(result_is_discarded(sys._getframe(1)))
        return 1


def told(function: Any) -> list[bool]:
    asks = Asks()
    with pytest.raises(StopIteration):
        function(asks).send(None)
    return asks.told


async def drops(asks: Asks) -> None:
    await asks.ask()


async def drops_in_a_loop(asks: Asks) -> None:
    for _ in range(3):
        await asks.ask()


async def drops_in_a_branch(asks: Asks) -> None:
    try:
        if asks:
            await asks.ask()
    finally:
        await asks.ask()


async def returns(asks: Asks) -> int:
    return await asks.ask()


async def keeps(asks: Asks) -> None:
    _ = await asks.ask()


async def compares(asks: Asks) -> None:
    if await asks.ask() == 1:
        pass


async def passes_on(asks: Asks) -> None:
    print(await asks.ask(), file=sys.stderr)


async def both(asks: Asks) -> None:
    await asks.ask()
    kept = await asks.ask()
    await asks.ask()
    assert kept


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (drops, [True]),
        (drops_in_a_loop, [True, True, True]),
        (drops_in_a_branch, [True, True]),
        (returns, [False]),
        (keeps, [False]),
        (compares, [False]),
        (passes_on, [False]),
        (both, [True, False, True]),
    ],
)
def test_the_code_that_awaits_tells(function: Any, expected: list[bool]) -> None:
    assert told(function) == expected


def test_where_it_cannot_be_told_the_answer_is_no() -> None:
    assert not result_is_discarded(None)
    # This frame awaits nothing.
    assert not result_is_discarded(sys._getframe())
    with pytest.raises(StopIteration) as stopped:
        asked().send(None)
    assert stopped.value.value is False
