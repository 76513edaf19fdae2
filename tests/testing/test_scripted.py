"""Tests that take ``kemu_world``: one run, plain or as a token says, or live."""

from __future__ import annotations

import re

import pytest
from testing import kit
from testing.conftest import Run

pytest_plugins = ["pytester"]

TRIO = ("-p", "pytest_trio.plugin")

BOTH = f"""{kit.HEAD}
async def test_script(kemu_world: World) -> None:
    assert await lose(kemu_world) == 2
    assert kemu_world.choose(3, "which") == 0
"""


@pytest.mark.parametrize("mark", ["", "@pytest.mark.trio", "@pytest.mark.anyio"])
def test_the_body_is_run_once_and_plainly(pytests: Run, mark: str) -> None:
    plugins = {"": (), "@pytest.mark.trio": TRIO, "@pytest.mark.anyio": ("-p", "anyio.pytest_plugin")}[mark]
    session = pytests(
        f"""{kit.HEAD}
calls = []

{mark}
async def test_script(kemu_world, tmp_path):
    calls.append(1)
    assert isinstance(kemu_world, World)
    assert await lose(kemu_world) == 2

def test_calls():
    assert calls == [1]
""",
        *plugins,
        "--kemu-stats",
        "-k",
        "not asyncio",
    )
    assert session.outcomes.get("failed") is None
    assert session.outcomes["passed"] == 2
    assert any(": 1 schedule of plain: passed" in line for line in session.section("kemu"))


def test_in_the_mode_in_which_pytest_trio_marks_everything(pytests: Run, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ntrio_mode = true\n")
    assert pytests(BOTH, *TRIO).outcomes == {"passed": 1}


def test_a_token_decides(pytests: Run, pytester: pytest.Pytester) -> None:
    explored = pytests(kit.LOST)
    (choices,) = re.findall(r"--kemu-token KS1\.[0-9a-f]{8}\.(\S+)", explored.out)
    (pytester.path / "test_it.py").unlink()
    text = BOTH.replace("assert kemu_world.choose", "# assert kemu_world.choose")
    plain = pytests(text, "--junitxml", "out.xml")
    assert plain.outcomes == {"passed": 1}
    (identity,) = re.findall(r'"kemu.token" value="KS1\.([0-9a-f]{8})', (pytester.path / "out.xml").read_text())
    session = pytests(None, "--kemu-token", f"KS1.{identity}.{choices}", "--kemu-trace", "fail")
    assert session.outcomes == {"failed": 1}
    assert ">       assert await lose(kemu_world) == 2" in session.section("test_script")
    report = session.section("kemu")
    assert report[0] == "FAIL test_it.py::test_script: expectation"
    assert "  found in the one run (replay)" in report
    assert f"  replay: pytest test_it.py::test_script --kemu-token KS1.{identity}.{choices}" in report
    assert any("check.violation" in line for line in session.section("kemu trace"))
    stale = pytests(None, "--kemu-token", kit.TOKEN_OF_ANOTHER)
    assert "was recorded with 00000000" in stale.out


def test_a_finding_is_reported_by_its_words(pytests: Run) -> None:
    session = pytests(
        f"""{kit.HEAD}
@pytest.mark.trio
async def test_script(kemu_world, nursery):
    kemu_world.check(await lose(kemu_world) == 1, "one gets lost")
""",
        *TRIO,
    )
    assert session.outcomes == {"failed": 1}
    # Not the group that pytest-trio makes of it because of the nursery.
    assert session.section("test_script")[:3] == [
        "FAIL test_it.py::test_script: expectation",
        "  an expectation of the scenario was not met",
        "  one gets lost",
    ]
    assert "FAILED test_it.py::test_script - expectation: one gets lost" in session.lines


def test_an_event_loop_is_not_for_a_run_under_control(pytests: Run) -> None:
    session = pytests(
        f"""{kit.HEAD}
import trio

@pytest.mark.trio
async def test_script(kemu_world):
    await trio.sleep(1)
""",
        *TRIO,
    )
    assert session.outcomes == {"failed": 1}
    assert "an await that is not kemu's" in session.out


LIVE = f"""{kit.HEAD}
import trio

@pytest.mark.trio
@pytest.mark.kemu(live=True)
async def test_live(kemu_world, autojump_clock, nursery):
    done = trio.Event()

    async def elsewhere():
        done.set()

    nursery.start_soon(elsewhere)
    await done.wait()
    await trio.sleep(60)
    await kemu_world.sleep(60)
    await lose(kemu_world)
    # In units of 100 ns, and on the clock of the test.
    assert kemu_world.now() == {{ticks}}
"""


def test_a_live_test_shares_its_event_loop(pytests: Run) -> None:
    session = pytests(LIVE.format(ticks=1_200_000_000), *TRIO, "--kemu-stats", "-W", "error")
    assert session.outcomes == {"passed": 1}
    assert session.section("kemu") == ["test_it.py::test_live: 1 schedule of live: passed"]
    wrong = pytests(LIVE.format(ticks=1), *TRIO)
    assert wrong.outcomes == {"failed": 1}
    assert "E       assert 1200000000 == 1" in wrong.section("test_live")
    assert "  found in the one run (live)" in wrong.section("kemu")
    assert "replay:" not in wrong.out
    assert "Exception Group" not in wrong.out


def test_a_live_test_without_a_plugin_for_event_loops_has_one_of_its_own(pytests: Run) -> None:
    session = pytests(
        f"""{kit.HEAD}
import anyio

@pytest.mark.kemu(live=True)
async def test_live(kemu_world):
    await anyio.sleep(0)
    await lose(kemu_world)

@pytest.mark.kemu(live=True)
def test_sync(kemu_world):
    kemu_world.check(False, "never")
""",
        "--kemu-stats",
    )
    assert session.outcomes == {"passed": 1, "failed": 1}
    assert "test_it.py::test_live: 1 schedule of live(trio): passed" in session.section("kemu") + session.lines
    assert "FAILED test_it.py::test_sync - expectation: never" in session.lines


def test_a_live_run_has_no_token(pytests: Run) -> None:
    session = pytests(LIVE.format(ticks=1), *TRIO, "--kemu-token", kit.TOKEN_OF_ANOTHER)
    assert session.outcomes == {"failed": 1}
    assert "test_it.py::test_live runs live, where the event loop decides" in session.out


def test_a_fixture_cannot_use_the_world(pytests: Run) -> None:
    session = pytests(f"""{kit.HEAD}
@pytest.fixture
def loaded(kemu_world):
    return kemu_world.process("app")

def test_script(loaded, kemu_world):
    pass
""")
    assert session.outcomes == {"errors": 1}
    assert "kemu_world.process: there is a world only while the test function runs" in session.out


def test_a_test_is_explored_or_scripted(pytests: Run) -> None:
    session = pytests(f"""{kit.HEAD}
@explore
async def test_both(world, kemu_world):
    pass
""")
    assert session.outcomes == {"errors": 1}
    assert "an explored test takes its world as the parameter world, not as kemu_world" in session.out


def test_events_and_warnings(pytests: Run) -> None:
    session = pytests(
        f"""{kit.HEAD}
import random

class TestIt:
    def test_script(self, kemu_world):
        random.Random()
        kemu_world.start("other", lose(kemu_world, False))
""",
        "--kemu-trace",
        "all",
        "-rP",
    )
    assert session.outcomes == {"passed": 1, "warnings": 1}
    assert "KemuWarning: test_it.py::TestIt::test_script: " in session.out
    assert any("actor.spawn" in line for line in session.section("kemu trace"))
