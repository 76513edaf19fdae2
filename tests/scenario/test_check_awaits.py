"""What is not awaited, or awaited without need, is found; what only looks like it is not."""

import ast
import textwrap
from collections.abc import Callable

import pytest

from kemu.errors import DriverSourceError
from kemu.scenario.check import SourceWarning, check_source
from kemu.scenario.check_names import SourceFile

Check = Callable[[str], list[SourceWarning]]


def check(code: str) -> list[SourceWarning]:
    tree = ast.parse(textwrap.dedent(code))
    return check_source(SourceFile("driver.py", "driver", tree))


def refused(code: str) -> DriverSourceError:
    with pytest.raises(DriverSourceError) as caught:
        check(code)
    assert caught.value.path == "driver.py"
    return caught.value


IMPORTS = [
    ("from kemu.wdk.wdm import KeSetEvent", "KeSetEvent"),
    ("from kemu.wdk.wdm import KeSetEvent as signal", "signal"),
    ("from kemu.wdk.wdm import *", "KeSetEvent"),
    ("from kemu.wdk import wdm", "wdm.KeSetEvent"),
    ("import kemu.wdk.wdm", "kemu.wdk.wdm.KeSetEvent"),
    ("import kemu.wdk.wdm as wdm", "wdm.KeSetEvent"),
]


@pytest.mark.parametrize(("line", "name"), IMPORTS)
def test_routine_without_await(line: str, name: str) -> None:
    error = refused(f"{line}\nasync def go(event):\n    {name}(event, 0, False)\n")
    assert error.line == 3
    assert error.message == "KeSetEvent is not awaited, so it never runs"
    assert error.remedy == f"write await {name}(...)"


@pytest.mark.parametrize(("line", "name"), IMPORTS)
def test_routine_with_await(line: str, name: str) -> None:
    assert check(f"{line}\nasync def go(event):\n    await {name}(event, 0, False)\n") == []


@pytest.mark.parametrize(
    "use",
    [
        "x = KeSetEvent(e, 0, False)",
        "return KeSetEvent(e, 0, False)",
        "await world.together(KeSetEvent(e, 0, False))",
        "if KeSetEvent(e, 0, False): pass",
        "await (KeSetEvent(e, 0, False) or 1)",
    ],
)
def test_a_routine_may_not_be_passed_on_without_running(use: str) -> None:
    assert refused(f"from kemu.wdk.wdm import KeSetEvent\nasync def go(e, world):\n    {use}\n").line == 3


@pytest.mark.parametrize(
    "use",
    [
        "await (KeSetEvent(e, 0, False) if x else KeClearEvent(e))",
        "await (y := KeSetEvent(e, 0, False))",
        "await world.together(helper(e), helper(e))",
        "z = KeSetEvent",
    ],
)
def test_awaited_by_other_ways(use: str) -> None:
    source = f"""
    from kemu.wdk.wdm import KeClearEvent, KeSetEvent
    async def helper(e):
        await KeSetEvent(e, 0, False)
    async def go(e, x, world):
        {use}
    """
    assert check(source) == []


def test_the_remedy_knows_where_await_cannot_stand() -> None:
    sync = refused("from kemu.wdk.wdm import KeSetEvent\ndef go(e):\n    KeSetEvent(e)\n")
    assert sync.remedy == "write await KeSetEvent(...) and make go an async def"
    inside = refused("from kemu.wdk.wdm import KeSetEvent\ngo = lambda e: KeSetEvent(e)\n")
    assert inside.remedy.endswith("in an async def instead of the lambda")
    outside = refused("from kemu.wdk.wdm import KeSetEvent\nKeSetEvent(0)\n")
    assert "this line runs on import" in outside.remedy


def test_only_the_wdk_name_counts() -> None:
    shadowed = """
    from kemu.wdk.wdm import KeSetEvent
    async def by_parameter(KeSetEvent):
        KeSetEvent(1)
    async def by_assignment(e):
        KeSetEvent = print
        KeSetEvent(e)
    """
    assert check(shadowed) == []
    assert check("from mine import KeSetEvent\nasync def go(e):\n    KeSetEvent(e)\n") == []
    assert check("def KeSetEvent(e): pass\nasync def go(e):\n    KeSetEvent(e)\n") == []


def test_a_class_body_does_not_hide_names_from_its_methods() -> None:
    code = """
    from kemu.wdk.wdm import KeSetEvent
    class Other:
        KeSetEvent = print
        async def go(self, e):
            KeSetEvent(e)
    """
    assert refused(code).line == 6


def test_sync_routine_awaited() -> None:
    error = refused("from kemu.wdk.wdm import KeGetCurrentIrql\nasync def go():\n    await KeGetCurrentIrql()\n")
    assert (error.line, error.message) == (3, "KeGetCurrentIrql is awaited, but it returns at once")
    assert error.remedy == "write KeGetCurrentIrql(...) without await"
    assert check("from kemu.wdk.wdm import KeGetCurrentIrql\nasync def go():\n    return KeGetCurrentIrql()\n") == []


def test_own_coroutines_that_are_dropped() -> None:
    error = refused("async def helper(): pass\nasync def go():\n    helper()\n")
    assert (error.line, error.message) == (3, "helper(...) is not awaited, so it never runs")
    assert error.remedy == "write await helper(...)"
    method = """
    class Base:
        async def _complete(self): pass
    class Scanner(Base):
        async def go(self):
            self._complete()
    """
    assert refused(method).line == 6
    local = "async def go():\n    async def inner(): pass\n    inner()\n"
    assert refused(local).line == 3


def test_own_calls_that_are_fine() -> None:
    code = """
    async def helper(): pass
    def plain(): pass
    class Scanner:
        def note(self): pass
        async def go(self, other, helper):
            self.note()
            plain()
            other.go()
            helper()
            self.unknown()
            task = self.go(other, helper)
            await task
    """
    assert check(code) == []


SCRIPT = """
from kemu.scenario import File, UserProcess, World, scenario

@scenario
async def script(world):
    driver = await world.load(object, "1")
    app = world.process("app")
    status, file = await app.create("a")
    other: File = await app.open("b")
    pending = await other.begin_read(1)
    {0}

async def typed(w: World, u: UserProcess):
    async def inner():
        {1}
    thread = w.start("t", inner())
    {2}
"""


@pytest.mark.parametrize(
    "call",
    [
        "world.together()",
        "world.load(object, '1')",
        "driver.unload()",
        "app.create('x')",
        "file.close()",
        "other.close()",
        "pending.cancel()",
    ],
)
def test_dropped_coroutines_of_a_scripts_objects(call: str) -> None:
    error = refused(SCRIPT.format(call, "pass", "pass"))
    assert error.line == 11
    assert error.remedy == f"write await {call.partition('(')[0]}(...)"


@pytest.mark.parametrize(("inner", "outer", "line"), [("u.open('x')", "pass", 15), ("pass", "thread.join()", 17)])
def test_dropped_coroutines_of_annotated_parameters(inner: str, outer: str, line: int) -> None:
    assert refused(SCRIPT.format("pass", inner, outer)).line == line


@pytest.mark.parametrize(
    ("first", "inner", "last"),
    [
        ("world.check(True, 'x')", "u.process.name", "w.now()"),
        ("await world.together(file.close(), other.close())", "await u.open('x')", "await thread.join()"),
        ("unknown = object(); unknown.close()", "close = u.open('x')", "status.close()"),
    ],
)
def test_calls_of_a_scripts_objects_that_are_fine(first: str, inner: str, last: str) -> None:
    assert check(SCRIPT.format(first, inner, last)) == []


def test_a_parameter_inside_hides_the_object_outside() -> None:
    code = """
    from kemu.scenario import World
    async def script(world: World):
        async def inner(world):
            world.together()
        await inner(None)
    """
    assert check(code) == []


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("await asyncio.sleep(1)", "asyncio.sleep"),
        ("await trio.lowlevel.checkpoint()", "trio.lowlevel.checkpoint"),
        ("await anyio.to_thread.run_sync(f)", "anyio.to_thread.run_sync"),
        ("async with trio.open_nursery() as n: pass", "trio.open_nursery"),
        ("async with f(), asyncio.timeout(1): pass", "asyncio.timeout"),
        ("await nap(1)", "asyncio.sleep"),
    ],
)
def test_foreign_awaits_are_warned_of(line: str, name: str) -> None:
    code = f"import asyncio, anyio, trio\nfrom asyncio import sleep as nap\nasync def go(f):\n    {line}\n"
    (warning,) = check(code)
    assert (warning.path, warning.line) == ("driver.py", 4)
    assert warning.text == f"{name} belongs to an event loop"
    assert "--live" in warning.remedy


def test_own_awaits_with_such_names_are_fine() -> None:
    code = "async def go(asyncio, world):\n    await asyncio.sleep(1)\n    await world.sleep(1)\n"
    assert check(code) == []


def test_names_that_do_not_exist_are_left_to_the_import() -> None:
    code = """
    from kemu.nothing import *
    from kemu.nothing import KeSetEvent
    from kemu.scenario import World as Nothing, Zzz
    async def go(e: Zzz, w: Nothing):
        KeSetEvent(e)
        e.close()
        w.zzz().close()
    """
    assert check(code) == []
