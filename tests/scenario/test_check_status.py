"""Statuses that nobody reads."""

import ast
import textwrap

import pytest

from kemu.scenario.check import check_source
from kemu.scenario.check_names import SourceFile

HEAD = """\
from kemu.wdk.fltkernel import FltObjectReference, FltRegisterFilter
from kemu.wdk.wdm import KeSetEvent, KeWaitForSingleObject, KeWaitForMutexObject, KeDelayExecutionThread, NT_SUCCESS
async def go(self, flt, event, x):
"""


def warned(body: str) -> list[tuple[int, str]]:
    """The lines of *body* (from 1) with a warning, and its text."""
    tree = ast.parse(HEAD + textwrap.indent(textwrap.dedent(body).strip(), "    "))
    warnings = check_source(SourceFile("driver.py", "driver", tree))
    known = ("FltObjectReference", "Wait", "Reg", "KeDelay")
    assert all(any(name in one.remedy for name in known) for one in warnings)
    return [(one.line - 3, one.text) for one in warnings]


DROPPED = "the status of FltObjectReference is never read"
UNREAD = "status, the status of FltObjectReference, is never read"


def test_a_dropped_status() -> None:
    assert warned("await FltObjectReference(flt)") == [(1, DROPPED)]
    assert warned("_ = await FltObjectReference(flt)") == []
    assert warned("await KeSetEvent(event, 0, False)") == []
    assert warned("return await FltObjectReference(flt)") == []
    assert warned("if NT_SUCCESS(await FltObjectReference(flt)): pass") == []


@pytest.mark.parametrize(
    ("call", "is_warned"),
    [
        ("event", False),
        ("event, 0, 0, False, None", False),
        ("event, Timeout=None, Alertable=False", False),
        ("event, 0, 0, False, 0", True),
        ("event, 0, 0, True, None", True),
        ("event, Timeout=x", True),
    ],
)
def test_a_wait_has_one_result_unless_it_is_limited_or_alertable(call: str, is_warned: bool) -> None:
    assert bool(warned(f"await KeWaitForSingleObject({call})")) is is_warned
    assert bool(warned(f"status = await KeWaitForSingleObject({call})")) is is_warned


@pytest.mark.parametrize(
    ("call", "is_warned"),
    [
        ("KeWaitForMutexObject(event)", False),
        ("KeWaitForMutexObject(event, 0, 0, False, x)", True),
        ("KeDelayExecutionThread(0, False, x)", False),
        ("KeDelayExecutionThread(0, True, x)", True),
        ("KeDelayExecutionThread(0, Alertable=x, Interval=x)", True),
        ("x.y(event)", False),
    ],
)
def test_other_waits_that_have_one_result(call: str, is_warned: bool) -> None:
    assert bool(warned(f"await {call}")) is is_warned


@pytest.mark.parametrize(
    "body",
    [
        "status = await FltObjectReference(flt)",
        "status: int = await FltObjectReference(flt)",
        "print(x)\nstatus = await FltObjectReference(flt)\nprint(x)",
        "status = 0\nprint(status)\nstatus = await FltObjectReference(flt)",
        "status = await FltObjectReference(flt)\nstatus = 0\nreturn status",
        "status = await FltObjectReference(flt)\nprint(x)\nstatus, y = x\nreturn status",
        "if x:\n    status = await FltObjectReference(flt)\nelse:\n    return x",
        "status = await FltObjectReference(flt)\nx.status = 1",
    ],
)
def test_a_variable_that_is_never_read(body: str) -> None:
    ((_, text),) = warned(body)
    assert text == UNREAD


def test_a_context_that_is_used_without_its_status() -> None:
    code = "status, handle = await FltRegisterFilter(flt, x)\nself.filter = handle"
    assert warned(code) == [(1, "status, the status of FltRegisterFilter, is never read")]
    assert warned("_status, handle = await FltRegisterFilter(flt, x)\nself.filter = handle") == []
    assert warned("status, handle = await FltRegisterFilter(flt, x)\nreturn status") == []


@pytest.mark.parametrize(
    "body",
    [
        "status = await FltObjectReference(flt)\nreturn status",
        "status = await FltObjectReference(flt)\nif x:\n    return status\nstatus = 0",
        "status = await FltObjectReference(flt)\nstatus |= 1",
        "if x:\n    status = await FltObjectReference(flt)\nelse:\n    status = 0\nreturn status",
        "status = 0\nwhile status == 0:\n    status = await FltObjectReference(flt)",
        "status = await FltObjectReference(flt)\ndef later():\n    return status",
        "def later():\n    return status\nstatus = await FltObjectReference(flt)",
        "_status = await FltObjectReference(flt)",
        "global status\nstatus2 = status\n",
        "self.status = await FltObjectReference(flt)",
        "status = await self.reference(flt)",
    ],
)
def test_a_variable_that_is_read(body: str) -> None:
    assert warned(body) == []
