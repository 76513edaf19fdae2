"""State that one run would leave to the next."""

import ast
import textwrap

import pytest

from kemu.errors import DriverSourceError
from kemu.scenario.check import check_source
from kemu.scenario.check_names import SourceFile


def source(code: str, name: str, siblings: dict[str, SourceFile]) -> SourceFile:
    return SourceFile(f"{name}.py", name, ast.parse(textwrap.dedent(code)), siblings)


def check(code: str, **siblings: SourceFile) -> None:
    assert check_source(source(code, "driver", siblings)) == []


def refused(code: str, **siblings: SourceFile) -> tuple[int, str]:
    with pytest.raises(DriverSourceError) as caught:
        check(code, **siblings)
    assert caught.value.remedy
    return caught.value.line, caught.value.message.partition(",")[0]


HEAD = "import collections, itertools, random\nfrom collections import deque\nclass Table:\n    pass\n"


@pytest.mark.parametrize(
    ("value", "change", "what"),
    [
        ("[]", "X.append(1)", "X is changed here"),
        ("{}", "X[1] = 2", "X is changed here"),
        ("{1: []}", "X[1].append(2)", "X is changed here"),
        ("{1, 2}", "X.discard(1)", "X is changed here"),
        ("[0 for _ in range(3)]", "X[0] += 1", "X is changed here"),
        ("{n: 0 for n in range(3)}", "del X[0]", "X is changed here"),
        ("list()", "X.sort()", "X is changed here"),
        ("deque()", "X.popleft()", "X is changed here"),
        ("collections.defaultdict(int)", "X[1] += 1", "X is changed here"),
        ("itertools.count()", "next(X)", "X is changed here"),
        ("random.Random(1)", "X.shuffle([])", "X is changed here"),
        ("Table()", "X.size = 1", "X is changed here"),
        ("Table()", "X.size += 1", "X is changed here"),
        ("Table()", "X.entries.append(1)", "X is changed here"),
        ("Table()", "setattr(X, 'size', 1)", "X is changed here"),
        ("Table()", "(X.a, X.b) = 1, 2", "X is changed here"),
        ("Table()", "[y, *X.a] = 1, 2", "X is changed here"),
        ("Table()", "for X.a in (): pass", "X is changed here"),
        ("Table()", "X.a: int = 1", "X is changed here"),
        ("0", "global X; X = 1", "X is assigned here"),
        ("0", "global X; X += 1", "X is assigned here"),
        ("None", "global X; del X", "X is assigned here"),
        ("[]", "global X; X += [1]", "X is assigned here"),
        ("0", "Table.size = 1", "Table.size is changed here"),
        ("0", "Table.sizes[0] = 1", "Table.sizes[0] is changed here"),
        ("0", "Table.sizes.append(1)", "Table.sizes is changed here"),
        ("[]", "f = lambda: X.append(1)", "X is changed here"),
        ("[]", "[X.append(n) for n in range(3)]", "X is changed here"),
    ],
)
def test_a_global_that_a_function_changes(value: str, change: str, what: str) -> None:
    line, message = refused(f"{HEAD}X = {value}\nasync def go():\n    {change}\n")
    assert (line, message) == (7, what)


@pytest.mark.parametrize(
    ("value", "use"),
    [
        ("[]", "return X[0]"),
        ("[]", "X = []; X.append(1)"),
        ("[]", "return [X for X in ([],) if X.append(1)]"),
        ("[]", "y = list(X); y.append(1)"),
        ("{}", "return X.get(1)"),
        ("()", "X.append(1)"),
        ("0", "X = 1; X += 1"),
        ("Table()", "return X.size"),
        ("Table()", "y = Table(); y.size = 1"),
        ("[]", "self.X.append(1)"),
        ("itertools.count()", "next(iter(X))"),
        ("[]", "global X; return X"),
    ],
)
def test_a_global_that_is_only_read(value: str, use: str) -> None:
    check(f"{HEAD}X = {value}\nasync def go(self):\n    {use}\n")


def test_two_globals_in_one_assignment() -> None:
    assert refused("A, B = 0, []\ndef go():\n    B.append(1)\n") == (3, "B is changed here")
    check("A, B = [], ()\ndef go():\n    B.append(1)\n")


def test_an_instance_that_changes_itself() -> None:
    code = """
    class Counter:
        def __init__(self): self.n = 0
        def increment(self): self.n += 1
        def reset(self): (self.n, _) = 0, 0
        def fill(self): self.entries.append(1)
        def value(self): return self.n
    class Better(Counter):
        pass
    X = Better()
    async def go():
        {0}
    """
    for change in ("X.increment()", "X.reset()", "X.fill()"):
        assert refused(code.format(change)) == (12, "X is changed here")
    check(code.format("X.value()"))


def test_filling_a_table_on_import_is_not_a_change() -> None:
    code = """
    HANDLERS = {{}}
    def handler(name):
        def mark(function):
            return function
        HANDLERS[name] = 1
        return mark
    @handler("a")
    def one(): {0}
    HANDLERS.update(b=2)
    """
    check(code.format("pass"))
    assert refused(code.format("handler('b')")) == (6, "HANDLERS is changed here")
    routine = "X = []\n{0} def go():\n    X.append(1)\nTABLE = (go,)\n"
    assert refused(routine.format("async")) == (3, "X is changed here")


def test_default_values_that_are_changed() -> None:
    assert refused("def go(a, seen=[]):\n    seen.append(1)\n") == (2, "the default value of seen is changed here")
    assert refused("def go(*, seen={}):\n    seen[1] = 1\n") == (2, "the default value of seen is changed here")
    check("def go(seen=[]):\n    return seen[0]\n")
    check("def go(a=[], seen=None):\n    seen.append(1)\n")
    check("def go(seen=[]):\n    seen = list(seen)\n    seen.append(1)\n")


DRIVER = """
from kemu.wdk.wdm import Driver
class Base(Driver):
    inherited = {{}}
class Scanner(Base):
    pending = []
    limit = 3
    seen: set = set()
    found: set = set()
    def __init__(self, other):
        other.pending = []
        self.seen = set()
        self.found: set = set()
    async def go(self, other):
        {0}
"""


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("self.pending.append(1)", "pending of Scanner belongs to the class (line 6) and is changed here: every run"),
        ("self.pending[0] = 1", "pending of Scanner belongs to the class (line 6) and is changed here: every run"),
        ("self.pending += [1]", "pending of Scanner belongs to the class (line 6) and is changed here: every run"),
        ("del self.pending[0]", "pending of Scanner belongs to the class (line 6) and is changed here: every run"),
        ("self.inherited[1] = 1", "inherited of Base belongs to the class (line 4) and is changed here: every run"),
        ("self.inherited[1].x = 1", "inherited of Base belongs to the class (line 4) and is changed here: every run"),
        ("Scanner.limit = 4", "Scanner.limit is changed here"),
        ("Scanner.limit += 1", "Scanner.limit is changed here"),
        ("type(self).limit = 4", "type(self).limit is changed here"),
        ("self.__class__.pending.append(1)", "self.__class__.pending is changed here"),
    ],
)
def test_a_drivers_class_that_is_changed(change: str, what: str) -> None:
    line, message = refused(DRIVER.format(change))
    assert line == 15
    assert message.startswith(what)


@pytest.mark.parametrize(
    "use",
    [
        "self.limit += 1",
        "self.pending = [1]",
        "self.seen.add(1)",
        "self.found.add(1)",
        "return self.pending[0]",
        "other.pending.append(1)",
        "self.queue.append(1)",
        "type(self).limit",
    ],
)
def test_a_drivers_own_attributes(use: str) -> None:
    check(DRIVER.format(use))


def test_a_class_method_changes_the_class() -> None:
    code = "class A:\n    {0}\n    def go(cls):\n        cls.x = 1\n"
    assert refused(code.format("@classmethod")) == (4, "cls.x is changed here")
    check(code.format("y = 1"))


def test_a_driver_object_made_on_import() -> None:
    code = """
    from kemu.wdk.wdm import Driver
    class Scanner(Driver):
        pass
    class Other:
        pass
    DRIVER = {0}()
    async def script(world):
        await world.load({1}, "1")
    """
    line, message = refused(code.format("Scanner", "DRIVER"))
    assert (line, message) == (9, "DRIVER is one driver object that every run shares: its state leaks from run to run")
    check(code.format("Scanner", "Scanner()"))
    check(code.format("Other", "DRIVER"))
    check(code.format("Scanner", "Scanner()") + "NAME = repr(DRIVER)\n")


COMMON = source(
    """
    from kemu.wdk.wdm import Driver, KeSetEvent
    TABLE = []
    COUNT = 0
    FIXED = (1, 2)
    class Base(Driver):
        shared = []
    """,
    "common",
    {},
)


@pytest.mark.parametrize(
    ("head", "change", "what"),
    [
        ("from .common import TABLE", "TABLE.append(1)", "TABLE is changed here"),
        ("from common import TABLE as t", "t.append(1)", "t is changed here"),
        ("from common import *", "TABLE.append(1)", "TABLE is changed here"),
        ("from . import common", "common.TABLE.append(1)", "common.TABLE is changed here"),
        ("import common", "common.TABLE[0] = 1", "common.TABLE is changed here"),
        ("import common as c", "c.COUNT = 1", "c.COUNT is assigned here"),
        ("import common as c", "c.COUNT += 1", "c.COUNT is assigned here"),
        ("import common", "common.Base.shared = 1", "common.Base.shared is changed here"),
    ],
)
def test_globals_of_a_file_beside_this_one(head: str, change: str, what: str) -> None:
    assert refused(f"{head}\ndef go():\n    {change}\n", common=COMMON) == (3, what)


def test_a_file_beside_this_one_is_followed_for_routines_and_bases() -> None:
    routine = "from .common import KeSetEvent\nasync def go(e):\n    KeSetEvent(e)\n"
    assert refused(routine, common=COMMON)[0] == 3
    base = "from .common import Base\nclass A(Base):\n    async def go(self):\n        self.shared.append(1)\n"
    line, message = refused(base, common=COMMON)
    assert line == 4
    assert message.startswith("shared of Base belongs to the class (line 7)")
    check("from .common import FIXED\ndef go():\n    FIXED.append(1)\n", common=COMMON)
    check("import common\ndef go():\n    return common.TABLE[0], common.COUNT\n", common=COMMON)


def test_what_several_files_pass_on_is_followed_to_where_it_is() -> None:
    middle = source("from .common import TABLE, Base\nclass Middle(Base):\n    pass\n", "middle", {"common": COMMON})
    code = "from .middle import TABLE, Middle\nclass A(Middle, Middle):\n    async def go(self):\n        {0}\n"
    assert refused(code.format("TABLE.append(1)"), middle=middle) == (4, "TABLE is changed here")
    assert refused(code.format("self.shared.append(1)"), middle=middle)[0] == 4
    check(code.format("self.other.append(1)"), middle=middle)
