"""What the plugin costs sessions that have nothing to do with kemu, and what it does at the edges."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import ClassVar

import pytest
from testing import kit
from testing.conftest import Run

import _kemu_pytest

pytest_plugins = ["pytester"]

HEAVY = ("kemu", "trio", "anyio", "structlog", "click")
PLACE = str(Path(_kemu_pytest.__file__).parent)
ROOT = Path(__file__).resolve().parents[2]


def python(*words: str, folder: Path, autoload: bool = False) -> subprocess.CompletedProcess[str]:
    """Run Python, which finds the plugin's module and no other plugin."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    env |= {"PYTHONPATH": PLACE} | ({} if autoload else {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    return subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_importing_the_plugin_imports_nothing_heavy(tmp_path: Path) -> None:
    code = f"import _kemu_pytest, sys; print([name for name in {HEAVY} if name in sys.modules])"
    result = python("-c", code, folder=tmp_path)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_a_session_without_a_test_of_kemus_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(f"""
import sys

def test_it():
    assert [name for name in {HEAVY} if name in sys.modules] == []
""")
    result = python("-m", "pytest", "-p", "_kemu_pytest", "--kemu-stats", "-q", folder=tmp_path)
    assert result.returncode == 0, result.stdout
    assert "kemu" not in result.stdout.replace("kemu: stats=True", "")


def test_a_race_is_found_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(kit.LOST)
    result = python("-m", "pytest", "-p", "_kemu_pytest", folder=tmp_path)
    assert result.returncode == 1
    assert "FAIL test_it.py::test_lost: expectation" in result.stdout
    assert "  replay: pytest test_it.py::test_lost --kemu-token KS1." in result.stdout


def test_importing_kemu_stays_light(tmp_path: Path) -> None:
    code = "import kemu, sys; print([name for name in ('trio', 'structlog', 'pytest') if name in sys.modules])"
    assert python("-c", code, folder=tmp_path).stdout == "[]\n"
    # The decorators need no pytest.
    code = "import kemu.testing, sys; print('pytest' in sys.modules)"
    assert python("-c", code, folder=tmp_path).stdout == "False\n"


def test_the_plugin_is_declared_and_packed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["entry-points"]["pytest11"] == {"kemu": "_kemu_pytest"}
    assert "_kemu_pytest.py" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


IS_INSTALLED = any(one.value == "_kemu_pytest" for one in entry_points(group="pytest11"))


@pytest.mark.skipif(not IS_INSTALLED, reason="kemu is not installed with its plugin")
def test_an_installed_kemu_is_loaded_by_itself(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(kit.SAFE)
    result = python("-m", "pytest", "--kemu-stats", folder=tmp_path, autoload=True)
    assert result.returncode == 0, result.stdout
    assert "test_it.py::test_lost: 20 schedules" in result.stdout


def test_commands_name_the_test_as_seen_from_where_pytest_was_called(
    pytests: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini("[pytest]\n")
    (pytester.path / "tests").mkdir()
    elsewhere = pytester.mkdir("elsewhere")
    session = pytests(kit.LOST, "tests", name="tests/test_it.py")
    assert "--kemu-token" in session.out
    assert "  replay: pytest tests/test_it.py::test_lost --kemu-token" in session.out
    monkeypatch.chdir(pytester.path / "tests")
    assert "  replay: pytest test_it.py::test_lost --kemu-token" in pytests(None).out
    monkeypatch.chdir(elsewhere)
    session = pytests(None, str(pytester.path / "tests"))
    assert f"  replay: pytest {pytester.path}/tests/test_it.py::test_lost --kemu-token" in session.out
    # The corpus is one, at the root, and so is the name that it has there.
    assert {entry["program"] for entry in session.kept} == {"tests/test_it.py::test_lost"}


def test_several_exceptions_stay_a_group(pytests: Run) -> None:
    session = pytests(
        f"""{kit.HEAD}
@pytest.mark.trio
@pytest.mark.kemu(live=True)
async def test_live(kemu_world, nursery):
    async def fails():
        raise ValueError("of the nursery")

    nursery.start_soon(fails)
    raise ValueError("of the test")
""",
        "-p",
        "pytest_trio.plugin",
    )
    assert session.outcomes == {"failed": 1}
    assert "ValueError: of the test" in session.out


def test_a_test_may_be_run_again(pytests: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
import pytest
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    for _ in range(2):
        item._initrequest()
        for report in runtestprotocol(item, nextitem=nextitem, log=False):
            item.ihook.pytest_runtest_logreport(report=report)
    return True
""")
    session = pytests(f"""{kit.HEAD}
async def test_script(kemu_world):
    assert await lose(kemu_world) == 2
""")
    assert session.outcomes == {"passed": 2}


def test_statistics_of_a_session_without_kemus_tests(pytests: Run) -> None:
    session = pytests("def test_it(): pass", "--kemu-stats")
    assert "=== kemu" not in session.out


def test_doctests_and_classes_of_unittest_are_left_alone(pytests: Run) -> None:
    session = pytests(
        '''"""
>>> 1 + 1
2
"""
import unittest

class TestOld(unittest.TestCase):
    def test_it(self):
        pass
''',
        "--doctest-modules",
    )
    assert session.outcomes == {"passed": 2}


# As a worker of pytest-xdist.


WORKER = """
def pytest_cmdline_main(config):
    config.workerinput = {"kemu_seed": 77}
"""


def test_a_worker_is_told_the_seed(pytests: Run, pytester: pytest.Pytester) -> None:
    class Node:
        """What pytest-xdist gives to the hook."""

        config = pytester.parseconfig("-p", "_kemu_pytest", "--kemu-seed", "77")
        workerinput: ClassVar[dict[str, object]] = {}

    node = Node()
    _kemu_pytest.pytest_configure_node(node)
    assert node.workerinput == {"kemu_seed": 77}
    pytester.makeconftest(WORKER)
    session = pytests(kit.SAFE, "--kemu-stats", "--kemu-seed", "random")
    assert "seed 77: nothing found" in session.section("kemu")[0]


def test_in_a_worker_a_mistake_fails_the_tests(pytests: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(WORKER)
    pytester.makepyprojecttoml("[tool.kemu.profile.ci]\nschedule = 5\n")
    session = pytests(kit.SAFE + "\ndef test_other(): pass\n")
    assert session.outcomes == {"errors": 1, "passed": 1}
    assert "profile 'ci': there is no 'schedule'; did you mean 'schedules'?" in session.out
    # A token is refused by all tests but the one that it is of.
    (pytester.path / "pyproject.toml").unlink()
    token = pytests(kit.SAFE + "\n@explore\ndef test_two(world): pass\n", "--kemu-token", kit.TOKEN_OF_ANOTHER)
    assert token.outcomes == {"failed": 2}
