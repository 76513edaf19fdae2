"""Loading scenario files: what is wrong with one is said in one line; what is right is executed once."""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kemu.errors import EXIT_USAGE, DriverSourceError, InternalError, ScenarioError
from kemu.scenario.loader import PREFIX, has_scenarios, load_file

Write = Callable[..., str]

GOOD = """
from kemu.scenario import World, scenario

@scenario
async def first(world: World) -> None:
    pass

@scenario
async def second(world: World) -> None:
    pass
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, code: str | bytes = GOOD) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(code if isinstance(code, bytes) else textwrap.dedent(code).encode())
        return str(path)

    return write_file


def refused(path: str) -> ScenarioError:
    with pytest.raises(ScenarioError) as caught:
        load_file(path)
    assert caught.value.exit_code == EXIT_USAGE
    assert caught.value.remedy
    return caught.value


# What is loaded.


def test_scenarios_in_the_order_of_declaration(write: Write) -> None:
    path = write("good.py")
    loaded = load_file(path)
    assert loaded.path == path
    assert [one.name for one in loaded.scenarios] == ["first", "second"]
    assert [one.file for one in loaded.scenarios] == [path, path]
    assert loaded.warnings == ()
    assert len(loaded.source_digest) == 32
    assert loaded.module.first.__kemu_scenario__ is loaded.scenarios[0]


def test_a_file_is_executed_once_until_it_changes(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    monkeypatch.setattr(sys, "kemu_test_runs", runs, raising=False)
    path = write("good.py", "import sys\nsys.kemu_test_runs.append(1)\n" + GOOD)
    one, two = load_file(path), load_file(path)
    assert one.module is two.module
    assert one.source_digest == two.source_digest
    assert len(runs) == 1
    write("good.py", "import sys\nsys.kemu_test_runs.append(2)\n" + GOOD)
    three = load_file(path)
    assert three.module is not one.module
    assert three.source_digest != one.source_digest
    assert runs == [1, 2]


def test_one_module_by_whatever_path(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("good.py")
    monkeypatch.chdir(tmp_path)
    absolute, relative = load_file(path), load_file("./good.py")
    assert relative.path == "good.py"
    assert relative.module is absolute.module


def test_the_digest_depends_on_content_and_not_on_the_place(write: Write) -> None:
    assert load_file(write("a/x.py")).source_digest == load_file(write("b/x.py")).source_digest
    assert load_file(write("c/x.py", GOOD + "\n# more")).source_digest != load_file(write("b/x.py")).source_digest


def test_modules_know_their_file_and_dataclasses_work(write: Write) -> None:
    code = """
    from __future__ import annotations
    from dataclasses import dataclass, field
    from kemu.scenario import World, scenario

    @dataclass
    class Box:
        items: list[int] = field(default_factory=list)

    @scenario(variants={"a": Box})
    async def first(world: World, box: type[Box]) -> None:
        pass
    """
    path = write("boxes.py", code)
    module = load_file(path).module
    assert module.__file__ == str(Path(path).resolve())
    assert module.Box().items == []
    assert sys.modules[module.__name__] is module


def test_a_file_is_compiled_without_what_kemu_imports_from_the_future(write: Write) -> None:
    annotations = load_file(write("good.py")).module.first.__annotations__
    assert annotations["world"].__name__ == "World"


def test_warnings_are_handed_on(write: Write) -> None:
    path = write("warned.py", "import time\nSTART = time.time()\n" + GOOD)
    (warning,) = load_file(path).warnings
    assert str(warning).startswith(f"{path}:2: time.time differs from run to run; ")


def test_a_refused_driver_is_never_executed(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    monkeypatch.setattr(sys, "kemu_test_runs", runs, raising=False)
    head = "from kemu.wdk.wdm import KeSetEvent\nimport sys\nsys.kemu_test_runs.append(1)\n"
    path = write("refused.py", f"{head}async def f(e):\n    KeSetEvent(e)\n{GOOD}")
    with pytest.raises(DriverSourceError) as caught:
        load_file(path)
    assert (caught.value.path, caught.value.line, runs) == (path, 5, [])


# Files beside it.


COMMON = "class Shared:\n    pass\nVALUE = 1\n"


@pytest.mark.parametrize(
    ("line", "use"),
    [
        ("from .common import Shared", "Shared"),
        ("from common import Shared as Other", "Other"),
        ("from . import common", "common.Shared"),
        ("import common", "common.Shared"),
        ("import common as c", "c.Shared"),
        ("from .common import *", "Shared"),
    ],
)
def test_files_beside_it(write: Write, line: str, use: str) -> None:
    write("common.py", COMMON)
    before = (list(sys.path), set(sys.modules))
    loaded = load_file(write("uses.py", f"{line}\nFOUND = {use}\n{GOOD}"))
    assert loaded.module.FOUND.__name__ == "Shared"
    assert sys.path == before[0]
    assert all(name.startswith("kemu_scenario_") for name in set(sys.modules) - before[1])
    assert "common" not in sys.modules


def test_two_folders_have_a_common_file_each(write: Write) -> None:
    found: list[Any] = []
    for folder in ("a", "b"):
        write(f"{folder}/common.py", f"NAME = {folder!r}\n")
        found.append(load_file(write(f"{folder}/x.py", "from common import NAME\n" + GOOD)).module.NAME)
    assert found == ["a", "b"]


def test_two_scenario_files_share_one_module(write: Write) -> None:
    write("common.py", COMMON)
    files = [load_file(write(name, "from .common import Shared\n" + GOOD)) for name in ("x.py", "y.py")]
    assert files[0].module.Shared is files[1].module.Shared


def test_a_change_beside_it_is_a_change(write: Write) -> None:
    write("deep.py", "VALUE = 1\n")
    write("common.py", "from .deep import VALUE\n")
    path = write("x.py", "from .common import VALUE\n" + GOOD)
    one = load_file(path)
    write("deep.py", "VALUE = 2\n")
    two = load_file(path)
    assert (one.module.VALUE, two.module.VALUE) == (1, 2)
    assert one.source_digest != two.source_digest


def test_an_import_inside_a_function_counts_as_well(write: Write) -> None:
    write("late.py", "VALUE = 1\n")
    path = write("x.py", "def get():\n    from .late import VALUE\n    return VALUE\n" + GOOD)
    one = load_file(path)
    assert one.module.get() == 1
    write("late.py", "VALUE = 2\n")
    two = load_file(path)
    assert two.source_digest != one.source_digest
    assert two.module.get() == 2


def test_files_that_import_each_other(write: Write) -> None:
    write("common.py", "import x\ndef get():\n    return x.VALUE\n")
    loaded = load_file(write("x.py", "import common\nVALUE = 3\n" + GOOD))
    assert loaded.module.common.get() == 3


def test_files_beside_it_are_checked_with_their_own_path(write: Write) -> None:
    common = write("common.py", "import time\ntime.time()\n")
    path = write("x.py", "import common\n" + GOOD)
    assert [one.path for one in load_file(path).warnings] == [common]
    write("common.py", "X = []\ndef f():\n    X.append(1)\n")
    with pytest.raises(DriverSourceError) as caught:
        load_file(path)
    assert (caught.value.path, caught.value.line) == (common, 3)


def test_scenarios_belong_to_the_file_that_declares_them(write: Write) -> None:
    other = write("other.py")
    code = "from .other import first as imported\n" + GOOD.replace("second", "third")
    assert [one.name for one in load_file(write("x.py", code)).scenarios] == ["first", "third"]
    assert [one.name for one in load_file(other).scenarios] == ["first", "second"]


def test_the_standard_library_and_kemu_are_not_replaced(write: Write) -> None:
    write("queue.py", "raise RuntimeError\n")
    write("kemu.py", "raise RuntimeError\n")
    assert load_file(write("x.py", "import queue\nFOUND = queue.Queue\n" + GOOD)).module.FOUND


# What is not loaded.


def test_no_such_file(write: Write, tmp_path: Path) -> None:
    write("pended_create.py")
    error = refused(str(tmp_path / "pended_craete.py"))
    assert error.message == f"there is no file {tmp_path}/pended_craete.py"
    assert error.remedy == f"did you mean {tmp_path}/pended_create.py?"
    assert refused(str(tmp_path / "zzz.py")).remedy == "give the path of a scenario file, from the current directory"
    assert refused(str(tmp_path / "no" / "x.py")).remedy == f"there is no directory {tmp_path}/no either"


def test_a_directory(write: Write, tmp_path: Path) -> None:
    write("a/good.py")
    error = refused(str(tmp_path / "a"))
    assert error.message == f"{tmp_path}/a is a directory"
    assert error.remedy == f"name a file in it, such as {tmp_path}/a/good.py"
    (tmp_path / "empty").mkdir()
    assert refused(str(tmp_path / "empty")).remedy == "name a file in it"


def test_another_extension(write: Write) -> None:
    path = write("driver.c", "int x;")
    assert refused(path).message == f"{path} is not a Python file"


@pytest.mark.parametrize(
    ("code", "line", "what"),
    [
        ("x = 1\nif x\n    pass\n", 2, "expected ':': if x"),
        ("x = 1\ndef f():\n    await x\n", 3, "'await' outside async function"),
        (b"x = '\xff'\n", 1, ""),
        (b"x = 1\n\0\n", 1, "null byte"),
        ("x = " + "(" * 5000 + ")" * 5000, 1, "too many nested parentheses"),
        # Which limit of the parser this meets, and what it says, differs between Python versions.
        ("x = " + "-" * 10_000 + "1", 1, ""),
    ],
)
def test_not_python(write: Write, code: str | bytes, line: int, what: str) -> None:
    path = write("bad.py", code)
    error = refused(path)
    assert error.message.startswith(f"{path}:{line}: not Python: ")
    assert what in error.message


def test_source_that_is_too_deep_for_the_checks_only(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """How deep that is depends on the interpreter and on who calls; here the checks give up at once."""

    def check_source(source: object) -> list[object]:
        raise RecursionError

    monkeypatch.setattr("kemu.scenario.loader.check_source", check_source)
    path = write("deep.py")
    assert refused(path).message == f"{path} has an expression that is nested too deeply to be checked"


def test_a_file_that_cannot_be_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("secret.py")

    def read_bytes(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert refused(path).message == f"{path} cannot be read: Permission denied"


def test_raises_on_import(write: Write) -> None:
    path = write("bad.py", "def f():\n    return 1 / 0\n\nX = f()\n")
    error = refused(path)
    assert error.message == f"{path}:2: ZeroDivisionError: division by zero, in 'return 1 / 0'"
    assert error.remedy == "a scenario file must be importable: correct that line"
    assert not any(name.endswith("_bad") for name in sys.modules)


def test_raises_in_a_library_that_it_calls(write: Write) -> None:
    path = write("bad.py", "import json\n\njson.loads('{')\n")
    assert refused(path).message.startswith(f"{path}:3: JSONDecodeError: ")


def test_a_syntax_error_that_it_makes_itself(write: Write) -> None:
    path = write("bad.py", "compile('x = = 1', 'made.py', 'exec')\n")
    assert refused(path).message == "made.py:1: SyntaxError: invalid syntax (made.py, line 1), in 'x = = 1'"


def test_a_name_that_cannot_be_imported_in_a_file_beside_it(write: Write) -> None:
    write("common.py", COMMON)
    error = refused(write("x.py", "from .common import Shred\n" + GOOD))
    assert "cannot import name 'Shred' from 'common'" in error.message
    assert error.remedy == "did you mean Shared?"


def test_raises_beside_it(write: Write) -> None:
    common = write("common.py", "\nraise ValueError\n")
    path = write("x.py", "import common\n" + GOOD)
    for _ in range(2):
        assert refused(path).message == f"{common}:2: ValueError, in 'raise ValueError'"


def test_exits_on_import_but_an_interrupt_goes_through(write: Write) -> None:
    path = write("bad.py", "import sys\nsys.exit(3)\n")
    assert refused(path).message == f"{path}:2: SystemExit: 3, in 'sys.exit(3)'"
    with pytest.raises(KeyboardInterrupt):
        load_file(write("stop.py", "raise KeyboardInterrupt\n"))
    with pytest.raises(InternalError):
        load_file(write("ours.py", "from kemu.errors import InternalError\nraise InternalError('x')\n"))
    mine = [name for name in sys.modules if name.startswith(PREFIX)]
    assert not any(name.endswith(("_bad", "_stop", "_ours")) for name in mine)


def test_a_failed_second_version_leaves_the_first(write: Write) -> None:
    path = write("x.py")
    module = load_file(path).module
    write("x.py", "1 / 0\n")
    refused(path)
    assert sys.modules[module.__name__] is module
    write("x.py")
    assert load_file(path).module is module


@pytest.mark.parametrize(
    ("line", "what", "remedy"),
    [
        ("from kemu.wdk.wdm import KeSetEvnt", "cannot import name 'KeSetEvnt'", "did you mean KeSetEvent?"),
        ("from kemu.wdk.wdm import Zzzzzzzz", "cannot import name 'Zzzzzzzz'", "a scenario file must be importable"),
        ("import nothing_of_this_name", "No module named", "a scenario file must be importable"),
        ("import helpers.one", "No module named", "install what is in folders as a package"),
        ("from .missing import x", "there is no file missing.py beside", "must be importable"),
        ("from . import missing", "there is no file missing.py beside", "must be importable"),
        ("from ..up import x", "..up: a scenario file can import the files beside it only", "must be importable"),
        ("import common.deep", "common.py is a file and has no modules in it", "must be importable"),
        ("from .common import missing", "cannot import name 'missing'", "must be importable"),
    ],
)
def test_imports_that_fail(write: Write, line: str, what: str, remedy: str) -> None:
    write("helpers/one.py", "")
    write("common.py", COMMON)
    path = write("bad.py", f"\n{line}\n")
    error = refused(path)
    assert error.message.startswith(f"{path}:2: ")
    assert what in error.message
    assert remedy in error.remedy


def test_a_wrong_declaration_has_its_line_and_keeps_its_remedy(write: Write) -> None:
    code = """
    from kemu.scenario import World, scenario

    @scenario(variants={})
    async def first(world: World, driver: object) -> None:
        pass
    """
    path = write("bad.py", code)
    error = refused(path)
    assert error.message == f"{path}:4: scenario first: variants is empty"
    assert error.remedy == "leave it out, or name at least one variant"


def test_a_syntax_error_in_what_it_imports_is_there(write: Write) -> None:
    common = write("common.py", "x = (\n")
    error = refused(write("x.py", "import common\n" + GOOD))
    assert error.message.startswith(f"{common}:1: not Python: ")


def test_no_scenario(write: Write) -> None:
    path = write("none.py", "X = 1\n")
    error = refused(path)
    assert error.message == f"{path} has no scenario"
    assert "put @scenario above an async def that takes a World" in error.remedy


def test_two_scenarios_with_one_name(write: Write) -> None:
    path = write("twice.py", GOOD.replace("second", "first"))
    error = refused(path)
    assert error.message == f"{path} has two scenarios with the name 'first', in lines 4 and 8"
    assert error.remedy == "rename one of them"


# Which files are scenario files.


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (GOOD, True),
        ("import kemu.scenario as ks\n", True),
        ("from kemu import scenario\n", True),
        ("from kemu.scenario import *\n", True),
        ("from kemu.scenario import World\n", False),
        ("# kemu scenario\n", False),
        ("X = 1\n", False),
        ("if broken\n", False),
    ],
)
def test_has_scenarios(write: Write, code: str, expected: bool) -> None:
    assert has_scenarios(write("x.py", code)) is expected


def test_a_broken_file_that_may_be_a_scenario_file(write: Write) -> None:
    with pytest.raises(ScenarioError, match="not Python"):
        has_scenarios(write("x.py", "from kemu.scenario import scenario\nif broken\n"))
