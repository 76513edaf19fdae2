"""Paths of a driver's routine that return nothing, or another shape than the others."""

import ast
import textwrap

import pytest

from kemu.errors import DriverSourceError
from kemu.scenario.check import check_source
from kemu.scenario.check_names import SourceFile

HEAD = """\
from contextlib import suppress
from kemu.wdk.fltkernel import *
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import *
class Base(Driver):
    pass
class Scanner(Base):
    REGISTRATION = lambda self: FLT_REGISTRATION(
        [FLT_OPERATION_REGISTRATION(0, 0, self.Pre, PostOperation=self.Post)],
        FilterUnloadCallback=self.Unload, InstanceTeardownStartCallback=self.TeardownStart,
    )
"""
FIRST = HEAD.count("\n") + 1


def check(body: str) -> None:
    tree = ast.parse(HEAD + textwrap.indent(textwrap.dedent(body).strip(), "    "))
    assert check_source(SourceFile("driver.py", "driver", tree)) == []


def refused(body: str) -> tuple[int, str]:
    """The line of *body* (from 1) that is refused, and why."""
    with pytest.raises(DriverSourceError) as caught:
        check(body)
    return caught.value.line - FIRST + 1, caught.value.message


def helper(body: str) -> str:
    return "async def _decide(self, x, y):\n" + textwrap.indent(textwrap.dedent(body).strip(), "    ")


FALLS = [
    ("if x:\n    return 1", 3),
    ("if x:\n    return 1\nelse:\n    y()", 5),
    ("for one in x:\n    return one", 3),
    ("while x:\n    return 1", 3),
    ("while True:\n    if x:\n        break\n    return 1", 5),
    ("while True:\n    for one in x:\n        continue\n    if y:\n        break\n    return 1", 7),
    ("try:\n    return x()\nexcept ValueError:\n    y()", 5),
    ("try:\n    y()\nexcept ValueError:\n    return 1", 5),
    ("try:\n    y()\nexcept ValueError:\n    return 1\nelse:\n    y()", 7),
    ("match x:\n    case 1:\n        return 1", 4),
    ("match x:\n    case 1:\n        return 1\n    case z if z:\n        return 2", 6),
    ("match x:\n    case 1:\n        return 1\n    case _:\n        y()", 6),
    ("with x:\n    if y:\n        return 1", 4),
    ("with suppress(ValueError):\n    return x()", 3),
    ("for one in x:\n    return 1\nelse:\n    y()", 5),
    ("if x:\n    return 1\nassert y", 4),
]


@pytest.mark.parametrize(("body", "line"), FALLS)
def test_falls_off_its_end(body: str, line: int) -> None:
    at, message = refused(helper(body))
    assert at == line
    assert message.startswith("_decide of Scanner falls off its end, though other paths return a value (line ")


@pytest.mark.parametrize(
    "body",
    [
        "if x:\n    return 1\nreturn 2",
        "if x:\n    return 1\nelse:\n    raise ValueError",
        "if x:\n    return 1\nelif y:\n    return 2\nelse:\n    return 3",
        "while True:\n    if x:\n        return 1",
        "while 1:\n    for one in x:\n        break\n    if y:\n        return 1",
        "for one in x:\n    pass\nelse:\n    return 1",
        "try:\n    return x()\nfinally:\n    y()",
        "try:\n    x()\nexcept ValueError:\n    y()\nfinally:\n    return 1",
        "try:\n    x()\nexcept ValueError:\n    return 1\nelse:\n    return 2",
        "match x:\n    case 1:\n        return 1\n    case _:\n        return 2",
        "match x:\n    case 1:\n        return 1\n    case other:\n        return 2",
        "with x:\n    return 1",
        "if x:\n    return 1\nassert False",
        "if x:\n    return None\ny()",
        "x()",
        "async def inner():\n    return 1\nawait inner()",
        "if x:\n    return None\nreturn 1",
        "if x:\n    return\ny()",
    ],
)
def test_every_path_returns_or_none_does(body: str) -> None:
    check(helper(body))


def test_only_drivers_are_looked_at() -> None:
    check(helper("return 1") + "\nclass Other:\n    async def f(self, x):\n        if x:\n            return 1\n")


def test_a_bare_return_among_values() -> None:
    at, message = refused(helper("if x:\n    return\nreturn 1"))
    assert at == 3
    assert message == "_decide of Scanner returns nothing here, though other paths return a value (line 15)"


@pytest.mark.parametrize(
    "header",
    [
        "async def DriverEntry(self, DriverObject, RegistryPath):",
        "async def Pre(self, Data, FltObjects):",
        "async def Post(self, Data, FltObjects, CompletionContext, Flags):",
        "async def Unload(self, Flags):",
    ],
)
def test_a_callback_that_owes_a_status(header: str) -> None:
    name = header.split()[2].partition("(")[0]
    assert refused(f"{header}\n    print(1)") == (
        2,
        f"{name} of Scanner falls off its end, though its caller needs a status",
    )
    assert refused(f"{header}\n    return None") == (
        2,
        f"{name} of Scanner returns nothing here, though its caller needs a status",
    )
    check(f"{header}\n    return STATUS_SUCCESS")


def test_a_callback_that_owes_nothing() -> None:
    check("async def TeardownStart(self, FltObjects, Reason):\n    print(1)")
    check("x = lambda self: FLT_OPERATION_REGISTRATION(self.Major)\nasync def Major(self):\n    print(1)")


def test_a_callback_must_be_async() -> None:
    assert refused("x = 1\ndef Pre(self, Data, FltObjects):\n    return FLT_PREOP_COMPLETE") == (
        2,
        "Pre of Scanner is a callback, but no async def",
    )
    check("def Other(self, Data, FltObjects):\n    return FLT_PREOP_COMPLETE")


def test_a_preoperation_may_return_its_context_on_some_paths() -> None:
    body = """
    async def {0}(self, Data, FltObjects):
        if Data:
            return FLT_PREOP_SUCCESS_WITH_CALLBACK, Data
        return FLT_PREOP_SUCCESS_NO_CALLBACK
    """
    check(body.format("Pre"))
    check(body.format("PerhapsRegisteredElsewhere"))
    assert refused(body.format("Post")) == (4, "Post of Scanner returns one value here and 2 values in line 14")


def test_a_helper_keeps_one_shape() -> None:
    mixed = """
    async def _find(self, x):
        if x:
            return STATUS_SUCCESS, x
        return {0}
    async def go(self, x):
        {1}
    """
    bad = "_find of Scanner returns one value here and 2 values in line 14"
    use = "status, found = await self._find(x)"
    assert refused(mixed.format("STATUS_SUCCESS", use)) == (4, bad)
    assert refused(mixed.format("await ExAllocatePool2(0, 1, 2)", use)) == (4, bad)
    check(mixed.format("STATUS_SUCCESS, None", use))
    check(mixed.format("await self.other()", use))
    check(mixed.format("(*x,)", use))
    assert refused(mixed.format("x, x, x", "pass"))[1].endswith("3 values here and 2 values in line 14")


def test_routines_that_never_return_end_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    body = "if x:\n    return 1\nawait KeSetEvent(x, 0, False)"
    assert refused(helper(body))[0] == 4
    monkeypatch.setattr("kemu.scenario.check_returns.NEVER_RETURN", frozenset({"KeSetEvent"}))
    check(helper(body))
