"""All checks together: what is refused, in which order, and how a warning reads."""

import ast

import pytest

from kemu.errors import EXIT_USAGE, DriverSourceError
from kemu.scenario.check import check_source
from kemu.scenario.check_names import SourceFile

CODE = """\
import time
from kemu.wdk.wdm import Driver, ExFreePool, KeGetCurrentIrql
SEEN = []
class Scanner(Driver):
    async def go(self, x):
        {0}
        time.time()
        {1}
"""


def read(first: str, second: str) -> SourceFile:
    return SourceFile("a/driver.py", "driver", ast.parse(CODE.format(first, second)))


def test_the_first_line_that_is_refused_is_reported() -> None:
    for first, second in (("SEEN.append(1)", "ExFreePool(x)"), ("ExFreePool(x)", "SEEN.append(1)")):
        with pytest.raises(DriverSourceError) as caught:
            check_source(read(first, second))
        assert (caught.value.path, caught.value.line) == ("a/driver.py", 6)
        assert str(caught.value).startswith("a/driver.py:6: ")
        assert caught.value.exit_code == EXIT_USAGE


def test_warnings_come_by_line() -> None:
    warnings = check_source(read("try: await x\n        except: pass", "x = time.monotonic()"))
    assert [one.line for one in warnings] == [7, 8, 9]
    assert str(warnings[0]) == (
        "a/driver.py:7: except around an await also swallows the end of the run; write except Exception, or raise again"
    )


def test_a_good_file_is_silent() -> None:
    good = CODE.replace("time.time()", "pass")
    tree = ast.parse(good.format("await ExFreePool(x)", "return KeGetCurrentIrql()"))
    assert check_source(SourceFile("driver.py", "driver", tree)) == []


def test_every_construct_of_the_language_can_be_checked() -> None:
    """The checks read any file, whatever is in it: here a walk over every kind of node."""
    code = """\
from __future__ import annotations
import a.b.c, d.e as f
from .nothing import *
from .. import g
x: int
def outer(p, /, q=1, *r, s=2, **t) -> int:
    nonlocal_ = 1
    def inner():
        nonlocal nonlocal_
        nonlocal_ += (y := 1)
        return [z for z in range(3) if (w := z)], {k: v for k, v in r}, {*r}, (u for u in r)
    match p:
        case {"a": 1, **rest} | [_, *rest]:
            pass
        case str(n) as m if m:
            pass
        case a.B:
            pass
    for i, *j in r:
        continue
    else:
        pass
    with p as (a1, [b1]), q:
        pass
    del p.x, q[0], (i, j)
    try:
        assert p, "no"
    except* (ValueError, TypeError) as e:
        raise RuntimeError from e
    return f"{p!r:>{q}}" if p else (lambda *l: l[0:1:2])(*r, **t)
class C(a.b[int], metaclass=type):
    v: list[int] = []
    async def m(self):
        async for k in self: yield k
        async with self as n, n(): await n
        return
"""
    assert check_source(SourceFile("driver.py", "driver", ast.parse(code))) == []
