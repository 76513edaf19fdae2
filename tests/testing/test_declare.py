"""The decorators: what they make of a function, and what they refuse, at once and with a remedy."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from testing import kit
from testing.conftest import Run

from kemu.errors import TokenError, UsageError
from kemu.testing import explore, replay

pytest_plugins = ["pytester"]


async def fine(self: object, world: object, tmp_path: object, *, limit: int = 3) -> None:
    """It is fine."""


def test_what_comes_out_is_a_plain_function_without_the_world() -> None:
    made = explore(fine)
    assert not inspect.iscoroutinefunction(made)
    assert list(inspect.signature(made).parameters) == ["self", "tmp_path", "limit"]
    assert (made.__name__, made.__doc__) == ("fine", "It is fine.")


async def no_world(tmp_path: object) -> None: ...


def generator(world: object) -> Any:
    yield


async def async_generator(world: object) -> Any:
    yield


class Cls:
    """Not a function."""


@pytest.mark.parametrize(
    ("declare", "message", "remedy"),
    [
        (lambda: explore(no_world), "no_world: it has no parameter world", "write def no_world(world, ...)"),
        (lambda: explore(Cls), "Cls: it is not a function", "put explore() above a test function"),
        (lambda: explore(staticmethod(fine)), "fine: it is not a function", "put explore() above a test function"),
        (lambda: explore(generator), "generator: it yields", "remove the yield"),
        (lambda: explore(async_generator), "async_generator: it yields", "remove the yield"),
        (lambda: explore(explore(fine)), "fine: it is explored twice", "leave one explore() out"),
        (lambda: explore(500), "explore() was given 500 by position", "write @explore"),  # type: ignore[call-overload]
        (lambda: explore(schedule=5), "explore() has no option 'schedule'", "did you mean 'schedules'?"),  # type: ignore[call-overload]
        (lambda: explore(schedules=0)(fine), "fine: schedules is 0", "1 or more"),
        (lambda: explore(strategy="ptc")(fine), "there is no strategy 'ptc'", "did you mean 'pct'?"),
        (
            lambda: explore(expect="pend-double-complet")(fine),
            "fine: there is no finding 'pend-double-complet'",
            "did you mean 'pend-double-complete'?",
        ),
        (lambda: explore(expect="zzz")(fine), "fine: there is no finding 'zzz'", "reference of findings"),
        (lambda: explore(allow_single="no")(fine), "fine: allow_single is 'no'", "True or False"),  # type: ignore[call-overload]
        (lambda: explore(completion="late")(fine), "fine: completion is 'late'", "did you mean 'later'?"),  # type: ignore[call-overload]
        (lambda: explore(worker_threads=0)(fine), "fine: worker_threads is 0", "above 0"),
        (lambda: explore(token="KS1")(fine), "fine: 'KS1' is not a replay token", "copy the whole token"),
        (lambda: replay("KS1.00000000.!"), "the token 'KS1.00000000.!' is damaged", "copy the whole token"),
        (lambda: replay(5), "the token is 5", "from a report"),  # type: ignore[arg-type]
    ],
)
def test_what_is_refused(declare: Callable[[], object], message: str, remedy: str) -> None:
    with pytest.raises(UsageError) as raised:
        declare()
    assert message in raised.value.message
    assert remedy in raised.value.remedy


def test_a_bad_token_is_a_token_error() -> None:
    with pytest.raises(TokenError):
        explore(token="KS2.00000000.AA")(fine)


def test_tokens_stand_above_and_below_in_the_order_of_the_file() -> None:
    def copy(world: object) -> None: ...

    first, second, third = (f"KS1.0000000{number}.0gAB" for number in range(3))
    made = replay(first)(explore(replay(second)(replay(third)(copy))))
    assert getattr(made, "__kemu_explored__").tokens == [first, second, third]  # noqa: B009 - it is no public attribute


def test_a_token_without_explore_is_told(pytests: Run) -> None:
    session = pytests(f"""{kit.HEAD}
@replay("{kit.TOKEN_OF_ANOTHER}")
async def test_it(world):
    pass
""")
    assert session.outcomes == {"errors": 1}
    assert "replay() stands without explore(): put kemu.testing.explore above the test" in session.out


def test_the_world_of_a_test_is_as_declared(pytests: Run) -> None:
    session = pytests(f"""{kit.HEAD}
from kemu.wdk.wdm import ExAllocatePool2, ExFreePoolWithTag, POOL_FLAG_NON_PAGED

@explore(low_resources=True, schedules=60)
async def test_low(world):
    block = await ExAllocatePool2(POOL_FLAG_NON_PAGED, 16, "tset")
    assert block is not None, "the pool was empty"
    await ExFreePoolWithTag(block, "tset")

@explore(max_steps=5, schedules=3)
async def test_long(world):
    for _ in range(9):
        await world.step("again")
""")
    assert session.outcomes == {"failed": 2}
    assert "the pool was empty" in session.out
    assert "FAIL test_it.py::test_long: ke.step-limit" in session.out
