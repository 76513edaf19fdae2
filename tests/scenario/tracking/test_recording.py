"""What is recorded of each construct: the right cells, in the right mode."""

from __future__ import annotations

import textwrap

import pytest
from scenario.tracking.kit import Files, accept_everything, data_of, events_of, names_of, once, recorded

from kemu.errors import ScenarioError
from kemu.scenario.program import ScenarioProgram

BOX = """
from contextlib import contextmanager

class Box:
    '''Its value is assigned somewhere, so that reading it counts.'''
    def __init__(self, value=0):
        self.value = value
    def get(self):
        return self.value
    @property
    def twice(self):
        return self.value * 2
    @twice.setter
    def twice(self, value):
        self.value = value // 2
    def __len__(self):
        return self.value
    def __getitem__(self, key):
        return self.value
    def __enter__(self):
        self.value += 1
        return self
    def __exit__(self, *error):
        return False
"""

MADE = ["W Box.value"]
"""What making a box records."""

CASES: dict[str, tuple[str, list[str]]] = {
    # statements after ``b = Box()`` -> what they record besides making the box
    "load": ("b.value", ["R Box.value"]),
    "store": ("b.value = 1", []),
    "delete": ("del b.value", []),
    "method": ("b.get()", ["R Box.value"]),
    "method that is never assigned": ("f = b.get", []),
    "property": ("b.twice", ["R Box.value"]),
    "property setter": ("b.twice = 2", []),
    "dunder": ("len(b)", ["R Box.value"]),
    "subscript of an object": ("b[1]", ["R Box.value"]),
    "with": ("with b: pass", ["R Box.value"]),
    "lambda": ("(lambda: b.value)()", ["R Box.value"]),
    "generator expression": ("any(b.value for _ in range(1))", ["R Box.value"]),
    "f-string": ("f'{b.value}'", ["R Box.value"]),
    "default value": ("def f(x=b.value): pass", ["R Box.value"]),
    "decorator": ("b.value = lambda f: f\n@b.value\ndef f(): pass", ["R Box.value"]),
    "match on a value": ("match b.value:\n    case 0: pass", ["R Box.value"]),
    "match on a field": ("match b:\n    case Box(value=0): pass", ["R Box.value"]),
    "match of other fields": ("match b:\n    case Box(): pass", []),
    "getattr": ("getattr(b, 'value')", ["R Box.value"]),
    "getattr of a computed name": ("getattr(b, 'val' + 'ue')", ["R Box.value"]),
    "hasattr": ("hasattr(b, 'value')", ["R Box.value"]),
    "setattr": ("setattr(b, 'more', 1)", ["W Box.more"]),
    "new field": ("b.more = 1", ["W Box.more"]),
    "for target": ("for b.more in [1]: pass", ["W Box.more"]),
    "with target": ("with Box() as b.more: pass", ["R Box.value", "W Box.more"]),
    "unpacking": ("b.more, (b.less, *_) = 1, (2, 3)", ["W Box.more", "W Box.less"]),
    "chained": ("b.more = b.less = b.value", ["R Box.value", "W Box.more", "W Box.less"]),
    "annotated": ("b.more: int = 1", ["W Box.more"]),
    "annotated without a value": ("b.more: int", []),
    "augmented": ("b.value += 1", ["R Box.value"]),
    "private": ("class P:\n    def __init__(self):\n        self.__x = 1\nP()", ["R _P__x of a class", "W P._P__x"]),
    "list display": ("l = [1]; l[0]", ["R l"]),
    "list in a field": ("b.more = [1]; b.more.append(2)", ["W Box.more", "R Box.more", "W more"]),
    "item": ("l = [1]; l[0] = 2", ["W l"]),
    "deleted item": ("l = [1]; del l[0]", ["W l"]),
    "augmented item": ("l = [1]; l[0] += 2", ["R l", "W l"]),
    "truth": ("l = [1]; bool(l)", ["R l"]),
    "condition": ("l = [1]\nif l: pass", ["R l"]),
    "length": ("l = [1]; len(l)", ["R l"]),
    "in": ("l = [1]; 1 in l", ["R l"]),
    "iteration": ("l = [1]\nfor x in l: pass", ["R l"]),
    "unpacking a list": ("l = [1, 2]; x, y = l", ["R l"]),
    "star argument": ("l = [1]; max(0, *l)", ["R l"]),
    "equality": ("l = [1]; [1] == l", ["R l", "R list of line {line}"]),
    "concatenation": ("l = [1]; m = l + [2]; m.append(3)", ["R list of line {line}", "R l", "W list"]),
    "sorted": ("l = [1]; m = sorted(l); m.append(1)", ["R l", "W m"]),
    "sort": ("l = [1]; l.sort()", ["W l"]),
    "reversed": ("l = [1]; list(reversed(l))", ["R l"]),
    "copy": ("l = [1]; m = l.copy(); m.append(1)", ["R l", "W list"]),
    "joining": ("l = ['a']; ','.join(l)", ["R l"]),
    "heap": ("import heapq\nl = [1]; heapq.heappush(l, 2)", ["W l"]),
    "bisect": ("import bisect\nl = [1]; bisect.insort(l, 2)", ["R l", "W l"]),
    "dict": ("d = {}; d[1] = 2; d.get(1)", ["W d", "R d"]),
    "dict display from another": ("d = {}; e = {**d}", ["R d"]),
    "dict items": ("d = {}; list(d.items())", ["R d"]),
    "keyword arguments": ("def f(**k): k['x'] = 1\nf()", ["W k"]),
    "star arguments as keywords": ("d = {}; dict(**d)", ["R d"]),
    "dict comprehension": ("d = {x: x for x in (1,)}; d.clear()", ["W d"]),
    "set": ("s = {1}; s.add(2); s | {3}", ["W s", "R set of line {line}", "R s"]),
    "set looked into": ("s = {1}; frozenset([1]) | s", ["R list of line {line}", "R s"]),
    "set constructor": ("s = set(); s.discard(1)", ["W s"]),
    "deque": ("from collections import deque\nq = deque(); q.append(1); q[0]", ["W q", "R q"]),
    "defaultdict": (
        "from collections import defaultdict\nd = defaultdict(list); d[1].append(2)",
        ["R d", "W d", "W list"],
    ),
    "counter": ("from collections import Counter\nc = Counter('a'); c.total()", ["W c", "R c"]),
    "starred name": ("a, *rest = 1, 2; rest.append(3)", ["W rest"]),
    "rest of a pattern": ("match (1, 2):\n    case [1, *rest]: rest.append(3)", ["W rest"]),
    "call that returns a list": ("l = 'a b'.split(); l.append('c')", ["W list"]),
    "alias": ("b.more = [1]; alias = b.more; alias.append(2)", ["W Box.more", "R Box.more", "W more"]),
    "kernel list": (
        "h = LIST_ENTRY(); InitializeListHead(h); IsListEmpty(h); h.Flink",
        ["W LIST_ENTRY.links", "R LIST_ENTRY.links"],
    ),
    "closure": ("n = 0\ndef f():\n    nonlocal n\n    n += 1\nf()", ["W script.n", "R script.n"]),
    "closure that never changes": ("n = 0\ndef f(): return n\nf()", []),
    "closure that changes later": ("n = 0\ndef f(): return n\nn = 1\nf()", ["W script.n", "R script.n"]),
    "constant of kemu": ("STATUS_SUCCESS + 1", []),
    "constant of a module": ("import math\nmath.pi", []),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ScenarioProgram, list[str]]]:
    """For each case its program, and what it should record; one file has them all."""
    files = Files(tmp_path_factory.mktemp("cases"))
    text = textwrap.dedent(BOX)
    for number, (statements, _) in enumerate(CASES.values()):
        script = textwrap.indent(f"b = Box()\n{statements}\n", "    ")
        text += f"@scenario\nasync def case_{number}(world):\n{script}"
    found: dict[str, tuple[ScenarioProgram, list[str]]] = {}
    for (name, (statements, expected)), program in zip(CASES.items(), files.all(text), strict=True):
        first = program.scenario.line + 2
        line = first + len(statements.splitlines())
        found[name] = program.instrumented(), [one.format(line=line) for one in expected]
    return found


@pytest.mark.parametrize("name", CASES)
def test_what_is_recorded(cases: dict[str, tuple[ScenarioProgram, list[str]]], name: str) -> None:
    program, expected = cases[name]
    assert program.loaded.coarse == ()
    scripted = [line.replace(f"{program.scenario.name}.", "script.") for line in recorded(program)]
    assert scripted == [*MADE, *expected]


def test_repeated_stores_are_recorded_each_time(files: Files) -> None:
    program = files.script("b = Box()\nawait world.step()\nb.value = 1\nb.value = 2\n", BOX, tracked=True)
    assert [data_of(event) for event in events_of(program)] == [["W Box.value"], ["W Box.value"]]
    (last,) = [event for event in events_of(program) if event.what == "step"]
    assert len(last.footprint) == 3  # twice the value, and the end of the thread


def test_an_augmented_assignment_reads_before_and_writes_after_an_await(files: Files) -> None:
    body = """
    b = Box()
    async def one():
        await world.step()
        return 1
    b.value += await one()
    """
    program = files.script(body, BOX, tracked=True)
    assert [data_of(event) for event in events_of(program)] == [["W Box.value", "R Box.value"], ["W Box.value"]]


def test_iteration_over_an_await_reads_in_each_step(files: Files) -> None:
    body = """
    items = [1, 2]
    for item in items:
        await world.step()
    """
    program = files.script(body, tracked=True)
    assert [data_of(event) for event in events_of(program)] == [["R items"]] * 3


def test_an_alias_kept_over_an_await_is_the_same_cell(files: Files) -> None:
    body = """
    b = Box([])
    alias = b.value
    await world.step()
    alias.append(1)
    await world.step()
    b.value.append(2)
    """
    first, second, third = events_of(files.script(body, BOX, tracked=True))
    assert data_of(second) == [f"W list of line {files.line('b = Box([])')}"]
    assert {cell for cell, mode in second.footprint if mode == 1} <= {cell for cell, _ in third.footprint}
    assert data_of(first) == ["W Box.value", "R Box.value"]


def test_a_container_is_named_after_what_it_is_assigned_to(files: Files) -> None:
    before = """
    class Keeper:
        def __init__(self):
            self.Items = []
            self.Table: dict = dict()
    """
    program = files.script("k = Keeper()\nk.Items.append(1)\nk.Table[1] = 2\n", before, tracked=True)
    assert set(names_of(program).values()) == {"Keeper.Items", "Keeper.Table"}


def test_fields_of_a_dataclass_are_read_by_its_generated_methods(files: Files) -> None:
    before = """
    from dataclasses import dataclass
    @dataclass
    class Point:
        x: int
        y: int
    """
    body = """
    a, b = Point(1, 2), Point(1, 2)
    a.x = b.y = 3
    await world.step()
    a == b
    await world.step()
    repr(a)
    """
    _, equal, shown = events_of(files.script(body, before, tracked=True))
    # Only fields that the file assigns somewhere can change.
    assert data_of(equal) == ["R Point.x", "R Point.y"]
    assert len(equal.footprint) == 4
    assert data_of(shown) == ["R Point.x", "R Point.y"]
    assert len(shown.footprint) == 3


def test_a_block_from_the_pool_depends_on_being_allocated(files: Files) -> None:
    before = """
    class Item(Structure):
        used: int
        fixed: int
    """
    body = """
    item = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(Item), "Test")
    await world.step()
    item.used = 1
    await world.step()
    item.fixed
    await ExFreePoolWithTag(item, "Test")
    """
    _, store, load, free = events_of(files.script(body, before, tracked=True))
    assert data_of(store) == ["W Item.used"]
    (allocation,) = {cell for cell, _ in store.footprint if cell.label == "block 'Test'"}
    assert (allocation, 0) in store.footprint
    # A field that is never assigned does not change, but the block may go.
    assert load.footprint == ((allocation, 0),)
    assert (allocation, 1) in free.footprint


def test_callback_data_depends_on_who_has_the_operation(files: Files) -> None:
    driver = """
    class Reader(Driver):
        async def DriverEntry(self, DriverObject, RegistryPath):
            registration = FLT_REGISTRATION([
                FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreCreate, None),
                FLT_OPERATION_REGISTRATION(),
            ])
            status, self.Filter = await FltRegisterFilter(DriverObject, registration)
            await FltStartFiltering(self.Filter)
            return status

        async def PreCreate(self, Data, FltObjects):
            Data.IoStatus.Information = 5
            FLT_IS_IRP_OPERATION(Data)
            return FLT_PREOP_SUCCESS_NO_CALLBACK
    """
    body = """
    await world.load(Reader, "1")
    await world.process("app").open("/a")
    """
    events = events_of(files.script(body, driver, tracked=True))
    (pre,) = [event for event in events if event.what.startswith("deliver pre")]
    assert data_of(pre) == ["W IO_STATUS_BLOCK.Information"]
    frames = {cell for cell, mode in pre.footprint if mode == 1 and cell.label == "flt:Reader"}
    assert {cell for cell, mode in pre.footprint if mode == 0} & frames


def test_nothing_is_recorded_in_a_set_up_that_is_not_explored(files: Files) -> None:
    driver = """
    class Quiet(Driver):
        def __init__(self):
            self.Count = 0
        async def DriverEntry(self, DriverObject, RegistryPath):
            self.Count += 1
            return STATUS_UNSUCCESSFUL
    """
    program = files.script('await world.load(Quiet, "1")\n', driver, tracked=True)
    assert recorded(program) == []
    text = (
        driver
        + '\n    @scenario(explore_setup=True)\n    async def script(world):\n        await world.load(Quiet, "1")\n'
    )
    assert recorded(files(text, tracked=True)) == ["W Quiet.Count", "R Quiet.Count"]


def test_a_plain_run_records_nothing(files: Files) -> None:
    program = files.script("b = Box()\nb.value = [1]\nb.value.append(2)\n", BOX)
    assert recorded(program) == []
    assert recorded(program.instrumented()) != []
    assert recorded(program.instrumented().instrumented(False)) == []


def test_globals_are_named_by_file_and_name(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    accept_everything(monkeypatch)
    files.beside("beside.py", "Total = 0\nFixed = 1\ndef add():\n    global Total\n    Total += 1\n")
    before = """
    import beside
    Total = 0
    Fixed = 2
    def count():
        global Total
        Total = Total + Fixed
        for Total in range(3): pass
    """
    body = """
    count()
    await world.step()
    beside.add()
    await world.step()
    beside.Total
    await world.step()
    beside.Fixed, Fixed
    await world.step()
    return Total
    """
    program = files.script(body, before, tracked=True)
    own, add, other, constant, last = events_of(program)
    assert data_of(own) == ["R Total", "W Total"]
    assert data_of(add) == ["R Total", "W Total"]
    assert data_of(other) == ["R Total"]
    assert data_of(constant) == []
    assert data_of(last) == ["R Total"]
    named = [
        [cell.name[:2] for cell, _ in event.footprint if cell.label == "Total"] for event in (own, add, other, last)
    ]
    # The scenario file comes first, the files beside it follow by name.
    assert [names[0] for names in named] == [(-2, 0), (-2, 1), (-2, 1), (-2, 0)]


def test_objects_that_a_file_makes_on_import_are_named_by_their_order(files: Files) -> None:
    files.beside("parts.py", "LIST = [1]\n")
    before = """
    from parts import LIST
    TABLE = {"a": [1], "b": [2]}
    class Config:
        def __init__(self):
            self.limit = 1
    CONFIG = Config()
    """
    body = """
    len(TABLE["b"]), len(LIST), CONFIG.limit
    """
    names = names_of(files.script(body, before, tracked=True))
    assert {name[:3]: label for name, label in names.items()} == {
        (-1, 0, 3): "TABLE",
        (-1, 0, 2): names[-1, 0, 2, 0],
        (-1, 1, 1): "LIST",
        (-1, 0, 4): "Config.limit",
    }


def test_an_attribute_of_a_class_may_not_change(files: Files) -> None:
    before = """
    class Counted:
        count = 0
    """
    program = files.script("cls = Counted().__class__\nother = cls\nother.count = 1\n", before, tracked=True)
    with pytest.raises(ScenarioError, match=r"Counted\.count is changed at .*every run shares it"):
        once(program)
