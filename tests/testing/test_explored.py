"""Tests that run under many schedules: what pytest sees of them."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest
from testing import kit
from testing.conftest import Run

from kemu.errors import InternalError, UsageError
from kemu.explore import decode

pytest_plugins = ["pytester"]


def token_of(out: str) -> str:
    """The token of the one command in a report."""
    (token,) = re.findall(r"--kemu-token (\S+)", out)
    return token


def test_a_race_is_found_and_shown_by_the_tests_own_assertion(pytests: Run) -> None:
    session = pytests(kit.LOST)
    assert session.outcomes == {"failed": 1}
    shown = session.section("test_lost")
    assert ">       assert count == 2" in shown
    assert "E       assert 1 == 2" in shown
    # Of the frames only the test's own are left.
    assert [line for line in shown if re.match(r"\S+\.py:\d+", line)] == ["test_it.py:21: AssertionError"]
    report = session.section("kemu")
    assert report[:3] == [
        "FAIL test_it.py::test_lost: expectation",
        "  an expectation of the scenario was not met",
        "  assert 1 == 2",
    ]
    assert len(report) <= 25
    assert any(re.search(r"shrunk in \d+ replays: .* preemptions \d+ -> 1,", line) for line in report)
    assert any(line.startswith("  found in schedule ") for line in report)
    assert "FAILED test_it.py::test_lost - assert 1 == 2" in session.lines


def test_the_command_of_the_report_makes_the_run_again(pytests: Run) -> None:
    session = pytests(kit.LOST)
    (command,) = re.findall(r"  replay: pytest (.*)", session.out)
    words = shlex.split(command)
    assert words[:2] == ["test_it.py::test_lost", "--kemu-token"]
    again = pytests(None, *words, "--kemu-stats")
    assert again.outcomes == {"failed": 1}
    assert "  found in the run of the token" in again.section("kemu")
    assert "shrunk" not in again.out
    assert token_of(again.out) == words[2]
    assert "test_it.py::test_lost: 1 schedule of replay: expectation" in again.lines
    passing = pytests(None, words[0], "--kemu-token", words[2].rpartition(".")[0] + ".AA", "--kemu-stats")
    assert passing.outcomes == {"passed": 1}
    assert "test_it.py::test_lost: 1 schedule of replay: passed" in passing.lines
    # The token is of this code.
    pytests(kit.LOST + "\n# changed\n", name="test_it.py")
    stale = pytests(None, *words)
    assert stale.outcomes == {"failed": 1}
    assert "was recorded with" in stale.out
    assert "assert 1 == 2" not in stale.out


def test_a_finding_of_the_verifier_is_the_report(pytests: Run) -> None:
    session = pytests(f"""{kit.HEAD}
@explore
async def test_checked(world):
    world.check(await lose(world) == 2, "both count")
""")
    shown = session.section("test_checked")
    assert shown[:3] == [
        "FAIL test_it.py::test_checked: expectation",
        "  an expectation of the scenario was not met",
        "  both count",
    ]
    assert "Traceback" not in session.out
    assert "def test_checked" not in session.out
    assert "FAILED test_it.py::test_checked - expectation: both count" in session.lines


def test_what_has_no_race_passes_and_says_what_was_done(pytests: Run) -> None:
    session = pytests(kit.SAFE, "--kemu-stats", "--kemu-schedules", "50", "--kemu-seed", "0x10")
    assert session.outcomes == {"passed": 1}
    (line,) = session.section("kemu")
    assert re.fullmatch(
        r"test_it.py::test_lost: 50 schedules \(\d+ distinct\) of portfolio, seed 16: "
        r"nothing found \(budget\)",
        line,
    )
    assert session.kept == []


def test_what_a_test_does_to_its_own_state_is_not_seen_so_that_nothing_is_proved(pytests: Run) -> None:
    # As a scenario this is proved in four schedules.
    session = pytests(kit.SAFE, "--kemu-stats", "--kemu-schedules", "300")
    assert session.outcomes == {"passed": 1}
    (line,) = session.section("kemu")
    assert re.fullmatch(r"test_it.py::test_lost: 300 schedules .* of portfolio, seed 0: nothing found \(budget\)", line)
    lacking = pytests(kit.SAFE.replace(kit.FEW, '@explore(expect="ke.deadlock", schedules=300)'))
    assert "  the reduced search was left out: what the code does to its own state was not seen" in lacking.lines
    # The search by itself sees two threads that have nothing to do with each other: it is through, and misses the bug.
    alone = pytests(kit.LOST.replace("@explore", '@explore(strategy="dpor")'), "--kemu-stats")
    assert alone.outcomes == {"passed": 1}
    assert re.fullmatch(r"test_it.py::test_lost: \d schedules? .* of dpor: nothing found \(budget\)", alone.lines[-2])
    assert pytests(kit.LOST).outcomes == {"failed": 1}


def test_many_schedules_are_made_in_one_test(pytests: Run) -> None:
    session = pytests(f"""{kit.HEAD}
calls = []

@explore(schedules=7)
async def test_it(world):
    calls.append(world)
    await lose(world, False)

def test_after():
    # Twice two for the check of determinism, and each in a world of its own.
    assert len(calls) == len(set(map(id, calls))) == 7 + 4
""")
    assert session.outcomes == {"passed": 2}


def test_beside_pytest_trio_with_all_its_tests_marked(pytests: Run, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ntrio_mode = true\n")
    session = pytests(
        f"""{kit.SAFE}
import trio

async def test_trio():
    await trio.sleep(0)
""",
        "-p",
        "pytest_trio.plugin",
    )
    assert session.outcomes == {"passed": 2}


def test_fixtures_and_parameters_are_passed(pytests: Run) -> None:
    session = pytests(f"""{kit.HEAD}
class TestIt:
    @pytest.mark.parametrize("is_racy", [False, True], ids=["locked", "racy"])
    @explore(schedules=20)
    async def test_method(self, tmp_path, world, is_racy):
        assert tmp_path.is_dir()
        assert await lose(world, is_racy) == 2

@explore(bound="none")
@pytest.mark.parametrize("answer", [0, 1, 2])
def test_sync(answer, world, request):
    assert request.node.name == f"test_sync[{{answer}}]"
    assert world.choose(3, "which") != answer or answer == 0
""")
    assert session.outcomes == {"passed": 2, "failed": 3}
    failed = [line.split(" - ")[0] for line in session.lines if line.startswith("FAILED")]
    assert failed == [
        "FAILED test_it.py::TestIt::test_method[racy]",
        "FAILED test_it.py::test_sync[1]",
        "FAILED test_it.py::test_sync[2]",
    ]
    # Each is a program of its own.
    assert len({entry["token"] for entry in session.kept}) == 3
    (replay,) = [line for line in session.lines if "replay: pytest 'test_it.py::TestIt::test_method[racy]'" in line]
    again = pytests(None, *shlex.split(replay.partition("pytest ")[2]))
    assert again.outcomes == {"failed": 1}


@pytest.mark.parametrize(
    ("body", "detail", "summary"),
    [
        ("assert answer == 0, 'not plain'", "not plain", "AssertionError: not plain"),
        ("raise ValueError('broken')", "ValueError: broken", "ValueError: broken"),
        ("raise LookupError", "LookupError", "LookupError"),
        ("pytest.fail('enough')", "enough", "Failed: enough"),
        ("raise ExceptionGroup('g', [ExceptionGroup('h', [ValueError('x')])])", "ValueError: x", "ValueError: x"),
    ],
)
def test_whatever_a_test_raises_is_a_finding(pytests: Run, body: str, detail: str, summary: str) -> None:
    session = pytests(f"""{kit.HEAD}
@explore
async def test_it(world):
    answer = world.choose(2, "which")
    if answer:
        {body}
""")
    assert session.outcomes == {"failed": 1}
    report = session.section("kemu")
    assert report[0] == "FAIL test_it.py::test_it: expectation"
    assert report[2] == f"  {detail}"
    assert any(line.startswith(f"FAILED test_it.py::test_it - {summary}") for line in session.lines)
    assert "Exception Group" not in session.out


def test_an_assertion_is_known_by_its_line_and_not_by_its_values(pytests: Run) -> None:
    # The values differ from run to run, and one of them is an address in memory.
    session = pytests(f"""{kit.HEAD}
@explore
async def test_it(world):
    answer = world.choose(5, "which")
    assert [object(), answer] == [] or answer == 0
""")
    assert session.outcomes == {"failed": 1}
    (entry,) = session.kept
    assert entry["signature"] == ["expectation", "assert [object(), answer] == [] or answer == 0"]
    assert decode(entry["token"]) == (1,)


def test_a_group_of_several_is_one_finding(pytests: Run) -> None:
    session = pytests(f"""{kit.HEAD}
@explore
async def test_it(world):
    if world.choose(2, "which"):
        raise ExceptionGroup("both", [ValueError("x"), ValueError("y")])
""")
    assert session.outcomes == {"failed": 1}
    assert "  ExceptionGroup: both (2 sub-exceptions)" in session.section("kemu")


def test_misuse_of_kemu_is_told_with_the_remedy(pytests: Run) -> None:
    session = pytests(f"""{kit.HEAD}
from kemu.nt.driver import Driver

Made = type("Made", (Driver,), {{"__module__": __name__}})

@explore
async def test_it(world):
    world.choose(0, "nothing")
""")
    assert session.outcomes == {"failed": 1}
    error, remedy = session.section("test_it")
    assert error.startswith("kemu: error: choose(0, 'nothing'): there is nothing to choose from, at ")
    assert remedy == "  remedy: give n >= 1"


def test_an_exception_out_of_kemus_own_code_is_not_the_tests(pytests: Run) -> None:
    session = pytests(f"""{kit.HEAD}
@explore
async def test_it(world):
    world.file(5)
""")
    assert session.outcomes == {"failed": 1}
    assert "this is a bug in kemu" in session.out
    assert "expectation" not in session.out


def test_a_skip_is_a_skip(pytests: Run) -> None:
    session = pytests(f"""{kit.HEAD}
@explore
async def test_skip(world):
    pytest.skip("not today")

@explore
async def test_xfail(world):
    pytest.xfail("known")

@pytest.mark.xfail(strict=True)
@explore
async def test_marked(world):
    assert await lose(world) == 2
""")
    assert session.outcomes == {"skipped": 1, "xfailed": 2}


def test_a_finding_that_is_expected(pytests: Run) -> None:
    session = pytests(
        f"""{kit.HEAD}
@explore(expect="expectation")
async def test_found(world):
    assert await lose(world) == 2

@explore(expect="expectation", schedules=3)
async def test_not_found(world):
    assert await lose(world, False) == 2

@explore(expect="ke.deadlock")
async def test_other(world):
    assert await lose(world) == 2
""",
        "--kemu-stats",
    )
    assert session.outcomes == {"passed": 1, "failed": 2}
    assert session.section("test_not_found")[:2] == [
        "FAIL test_it.py::test_not_found: not found: expectation",
        "  budget: no proof: 3 schedules (1 distinct) of portfolio, seed 0 in "
        + session.section("test_not_found")[1].rpartition(" in ")[2],
    ]
    assert "FAILED test_it.py::test_not_found - expectation was expected, and did not come up" in session.lines
    assert session.section("kemu")[:2] == [
        "FAIL test_it.py::test_other: expectation",
        "  the test expects ke.deadlock",
    ]
    # What is expected has to be found each time: it is neither kept nor tried first.
    assert session.kept == []
    assert any(re.match(r"test_it.py::test_found: \d+ schedules? .*: expectation$", line) for line in session.lines)


def test_a_bound_is_a_proof_within_it(pytests: Run) -> None:
    session = pytests(
        f"""{kit.HEAD}
@explore(bound=0)
async def test_bound(world):
    assert await lose(world) == 2

@explore(bound="none")
async def test_proof(world):
    assert await lose(world, False) == 2

@explore(bound=1)
async def test_fails(world):
    assert await lose(world) == 2
""",
        "--kemu-stats",
    )
    assert session.outcomes == {"passed": 2, "failed": 1}
    summary = session.section("kemu") if session.section("kemu")[0].startswith("test_it") else session.lines
    assert any(re.match(r"test_it.py::test_bound: .*dfs.*: nothing found \(bound\)$", line) for line in summary)
    assert any(re.match(r"test_it.py::test_proof: .*dfs: nothing found \(proof\)$", line) for line in summary)


def test_a_seed_and_a_strategy_decide_which_schedules_are_made(pytests: Run) -> None:
    text = f"""{kit.HEAD}
import json

seen = []

@explore(schedules=20, strategy="pct:depth=2", seed=3)
async def test_it(world):
    seen.append(world.choose(9, "which") * 9 + world.choose(9, "again"))

def test_print():
    print("SEEN", json.dumps(seen))
"""

    def drawn(*words: str) -> Any:
        (line,) = [line for line in pytests(text, "-s", *words).lines if "SEEN" in line]
        return json.loads(line.partition("SEEN ")[2])

    first = drawn()
    assert drawn() == first
    assert drawn("--kemu-seed", "3") == first
    assert drawn("--kemu-seed", "4") != first


# Health.


def test_a_test_without_a_decision_cannot_be_explored(pytests: Run) -> None:
    session = pytests(f"""{kit.HEAD}
@explore
async def test_alone(world):
    await world.step()

@explore(allow_single=True)
async def test_allowed(world):
    await world.step()

@explore
async def test_fails(world):
    assert False, "it fails anyway"
""")
    assert session.outcomes == {"passed": 1, "failed": 2}
    line, remedy = session.section("test_alone")
    assert line.startswith("kemu: error: test_it.py::test_alone has nothing to explore: it makes no decision")
    assert "allow_single=True" in remedy
    assert "it fails anyway" in session.section("kemu")[2]


def test_a_test_that_is_not_deterministic_is_told(pytests: Run) -> None:
    session = pytests(f"""{kit.HEAD}
@pytest.fixture
def numbers():
    return []

@explore
async def test_it(world, numbers):
    numbers.append(1)
    await world.step(f"number {{len(numbers)}}")
    await lose(world)
""")
    assert session.outcomes == {"failed": 1}
    shown = "\n".join(session.section("test_it"))
    assert "in one run script performs 'number 1'" in shown
    assert "fixtures are shared by all schedules: what a test changes, it has to make itself" in shown


DRIVER = """
from kemu.wdk.wdm import Driver, KeInitializeEvent, KeSetEvent, KEVENT, NotificationEvent

class Forgets(Driver):
    async def DriverEntry(self, DriverObject, RegistryPath):
        event = KEVENT("event")
        KeInitializeEvent(event, NotificationEvent, False)
        {call}
        return 0
"""


def test_a_driver_beside_the_test_is_checked(pytests: Run) -> None:
    test = f"""{kit.HEAD}{DRIVER}
import time

@explore(schedules=3)
async def test_it(world):
    await world.load(Forgets, "1000")
    await lose(world, False)

def test_other():
    time.time()
"""
    refused = pytests(test.format(call="KeSetEvent(event, 0, False)"))
    assert refused.outcomes == {"failed": 1, "passed": 1}
    assert re.match(r".*test_it.py:24: KeSetEvent is not awaited", refused.section("test_it")[0])
    # What the rest of the file does is not kemu's business.
    accepted = pytests(test.format(call="await KeSetEvent(event, 0, False)"), "-W", "error")
    assert accepted.outcomes == {"passed": 2}


@pytest.mark.parametrize("function", ["@explore\nasync def test_it(tmp_path, world)", "async def test_it(kemu_world)"])
def test_a_script_is_checked_without_an_annotation(pytests: Run, function: str) -> None:
    name = "kemu_world" if "kemu_world" in function else "world"
    session = pytests(f"{kit.HEAD}\n{function}:\n    {name}.together(lose({name}))\n")
    assert session.outcomes == {"failed": 1}
    assert f"{name}.together(...) is not awaited" in session.out


def test_suspicious_source_is_a_warning(pytests: Run) -> None:
    session = pytests(f"""{kit.HEAD}
import random

@explore(schedules=3)
async def test_it(world):
    random.Random()
    await lose(world, False)
""")
    assert session.outcomes == {"passed": 1, "warnings": 1}
    assert "KemuWarning: test_it.py::test_it: " in session.out
    assert "random.Random differs from run to run; give it a seed" in session.out


# What was asked for, and what was found before.


def test_a_token_in_the_decorator_is_the_only_run(pytests: Run) -> None:
    token = token_of(pytests(kit.LOST).out)
    session = pytests(kit.LOST.replace("@explore", f'@explore(token="{token}")'), "--kemu-stats")
    assert session.outcomes == {"failed": 1}
    assert "  found in the run of the token" in session.section("kemu")
    assert "test_it.py::test_lost: 1 schedule of replay: expectation" in session.lines
    passing = pytests(kit.SAFE.replace(kit.FEW, f'@explore(token="{token}")'), "--kemu-stats")
    assert passing.outcomes == {"passed": 1}
    assert passing.section("kemu") == ["test_it.py::test_lost: 1 schedule of replay: passed"]
    lacking = pytests(kit.SAFE.replace(kit.FEW, f'@explore(token="{token}", expect="expectation")'))
    assert lacking.outcomes == {"failed": 1}
    assert lacking.section("test_lost") == [
        "FAIL test_it.py::test_lost: the run of the token finds nothing",
        "  the test expects expectation",
    ]
    having = pytests(kit.LOST.replace("@explore", f'@explore(token="{token}", expect="expectation")'))
    assert having.outcomes == {"passed": 1}


def test_a_run_in_a_decorator_comes_first_and_is_not_shrunk(pytests: Run) -> None:
    text = f"""{kit.HEAD}
@replay("{kit.TOKEN_OF_ANOTHER}")
@explore
@replay("KS1.00000000.NgE")
async def test_it(world):
    await lose(world)
    answer = world.choose(6, "which")
    assert answer != 5
"""
    # (5): the only decisions before the question are the plain ones.
    found = pytests(text, "--kemu-no-corpus")
    token = token_of(found.out)
    expected = text.replace("KS1.00000000.NgE", token).replace("@explore", '@explore(expect="expectation")')
    assert pytests(expected).outcomes == {"passed": 1}
    longer = text.replace("KS1.00000000.NgE", token).replace("assert answer", "assert True or answer")
    assert pytests(longer).outcomes == {"passed": 1}
    session = pytests(text.replace("KS1.00000000.NgE", token), "--kemu-stats")
    assert session.outcomes == {"failed": 1}
    assert "  found in the run of token 2 of replay()" in session.section("kemu")
    assert not any("shrunk" in line for line in session.section("kemu"))
    assert "test_it.py::test_it: 2 schedules of replay: expectation" in session.lines
    assert session.kept == []


def test_a_run_in_a_decorator_is_strict_as_long_as_it_is_of_this_code(pytests: Run) -> None:
    # A decision that is not possible, under the identity that the file has.
    text = f"""{kit.HEAD}
import os
from kemu.explore import encode

TOKEN = encode((9, 9, 9), os.environ["IDENTITY"])

@replay(TOKEN)
@explore
async def test_lost(world):
    assert await lose(world, False) == 2
"""
    identity = "0" * 16
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IDENTITY", identity)
        assert pytests(text).outcomes == {"passed": 1}
        stale = pytests(None, "--kemu-token", kit.TOKEN_OF_ANOTHER)
        (identity,) = set(re.findall(r"and this is ([0-9a-f]{8})", stale.out))
        patch.setenv("IDENTITY", identity)
        session = pytests(None)
    assert session.outcomes == {"failed": 1}
    assert "decision 0 was recorded as 9, but" in session.out


def test_what_failed_before_is_tried_first(pytests: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pytests(kit.LOST)
    (entry,) = first.kept
    assert (entry["program"], entry["tool"], entry["code"]) == ("test_it.py::test_lost", "pytest", "expectation")
    assert entry["token"] == token_of(first.out)
    # Also if the lines have moved.
    moved = kit.LOST.replace("import pytest", "import pytest\n\n\n")
    session = pytests(moved, "--kemu-schedules", "1", "--kemu-stats")
    assert session.outcomes == {"failed": 1}
    assert any("found in the corpus, known since schedule" in line for line in session.section("kemu"))
    assert "test_it.py::test_lost: a run of the corpus still fails: expectation" in session.lines
    assert len(session.kept) == 1
    assert session.kept[0]["token"] != entry["token"]
    told: list[list[str]] = []
    for _ in range(3):
        fixed = pytests(kit.SAFE, "--kemu-schedules", "2", "-rP")
        assert fixed.outcomes == {"passed": 1}
        told.append([re.sub(r".*\) ", "", line) for line in fixed.section("kemu corpus")])
    assert told == [
        ["passes now; fixed? 1 of 3 clean replays"],
        ["passes now; fixed? 2 of 3 clean replays"],
        ["passes: fixed, 3 of 3 clean replays; removed"],
    ]
    assert pytests(None).kept == []


def test_without_the_corpus_nothing_is_kept(pytests: Run) -> None:
    assert pytests(kit.LOST, "--kemu-no-corpus").kept == []
    pytests(kit.LOST)
    session = pytests(None, "--kemu-no-corpus")
    assert "corpus" not in session.section("kemu")


def test_a_kept_run_is_shown_with_the_command_of_pytest(pytests: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from cli.kit import kemu

    pytests(kit.LOST)
    (name,) = kemu("corpus", "ls", "-q").lines
    replay = kemu("corpus", "show", name).lines[-1]
    again = pytests(None, *shlex.split(replay.removeprefix("  replay: pytest ")))
    assert again.outcomes == {"failed": 1}
    assert "  found in the run of the token" in again.section("kemu")


def test_a_corpus_that_cannot_be_used_is_a_warning(pytests: Run, pytester: pytest.Pytester) -> None:
    (pytester.path / ".kemu").write_text("in the way")
    session = pytests(kit.LOST)
    assert session.outcomes == {"failed": 1}
    said = " ".join(session.section("kemu warnings"))
    assert said.startswith("warning: the corpus cannot be read: ")
    assert "expectation cannot be kept in the corpus" in said
    # Where warnings are errors, this is one; but it does not hide a finding.
    assert "assert 1 == 2" in pytests(kit.LOST, "-W", "error").out
    passing = pytests(kit.SAFE, "--kemu-schedules", "3")
    assert passing.outcomes == {"passed": 1, "warnings": 1}
    assert "KemuWarning: test_it.py::test_lost: the corpus cannot be read: " in passing.out


def failing(error: BaseException) -> Any:
    def call(*args: object, **kwargs: object) -> None:
        raise error

    return call


def test_an_interrupt_while_shrinking_loses_nothing(pytests: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("kemu.testing.explored.shrink", failing(KeyboardInterrupt()))
        session = pytests(kit.LOST)
    assert session.code == 2
    (entry,) = session.kept
    assert entry["cost"] is None
    assert "found in the corpus" in pytests(None).out


def test_an_interrupt_while_exploring_ends_the_session(pytests: Run) -> None:
    session = pytests(f"""{kit.HEAD}
@explore
async def test_it(world):
    await lose(world, False)
    if world.choose(2, "whether"):
        raise KeyboardInterrupt
""")
    assert session.code == 2
    assert "KeyboardInterrupt" in session.out


def test_a_finding_that_cannot_be_shrunk_is_reported_as_it_is(pytests: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kemu.testing.explored.shrink", failing(UsageError("misused", remedy="do not")))
    session = pytests(kit.LOST)
    assert session.outcomes == {"failed": 1}
    assert "  not shrunk: misused; do not" in session.section("kemu")
    assert session.kept == []


def test_a_bug_of_kemu_is_shown_with_its_traceback(pytests: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kemu.testing.explored.explore", failing(InternalError("it broke")))
    session = pytests(kit.LOST)
    assert session.outcomes == {"failed": 1}
    assert "it broke; this is a bug in kemu" in session.out
    assert "def call(" in session.out


# Traces and reports for machines.


def test_events_of_the_run_in_the_report(pytests: Run) -> None:
    assert "kemu trace" not in pytests(kit.LOST).out
    failed = pytests(kit.LOST, "--kemu-trace", "fail", "--kemu-no-corpus")
    assert any("check.violation" in line for line in failed.section("kemu trace"))
    assert "kemu trace" not in pytests(kit.SAFE, "--kemu-trace", "fail", "-rP").out
    passed = pytests(None, "--kemu-trace", "all", "-rP")
    assert sum("actor.exit" in line for line in passed.section("kemu trace")) == 3
    expected = pytests(kit.LOST.replace("@explore", '@explore(expect="expectation")'), "--kemu-trace", "all", "-rP")
    assert any("check.violation" in line for line in expected.section("kemu trace"))
    token = token_of(pytests(kit.LOST, "--kemu-no-corpus").out)
    one = pytests(kit.SAFE.replace(kit.FEW, f'@explore(token="{token}")'), "--kemu-trace", "all", "-rP")
    assert any("actor.exit" in line for line in one.section("kemu trace"))


def test_junit_has_the_figures(pytests: Run, pytester: pytest.Pytester) -> None:
    session = pytests(kit.LOST, "--junitxml", "out.xml", "--kemu-seed", "5")
    text = (pytester.path / "out.xml").read_text()
    properties = dict(re.findall(r'<property name="kemu\.(\w+)" value="([^"]*)"', text))
    assert properties.keys() == {"schedules", "distinct", "strategy", "seed", "code", "token"}
    assert (properties["strategy"], properties["seed"], properties["code"]) == ("portfolio", "5", "expectation")
    assert properties["token"] == token_of(session.out)
    pytests(kit.SAFE, "--junitxml", "out.xml", "--kemu-schedules", "9")
    text = (pytester.path / "out.xml").read_text()
    assert '<property name="kemu.schedules" value="9"' in text
    assert '<property name="kemu.verdict" value="budget"' in text


def test_what_a_report_carries_is_json(pytests: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
import json

def pytest_runtest_logreport(report):
    if report.when == "call":
        print("JSON", json.dumps([report.kemu, report.user_properties, report.sections]) != "")
""")
    session = pytests(kit.LOST, "-s", "--kemu-trace", "all")
    assert "JSON True" in session.out


# Without pytest's help.


def test_an_explored_function_can_simply_be_called(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from kemu.scenario import World
    from kemu.testing import FindingError, explore

    monkeypatch.chdir(tmp_path)

    @explore(schedules=10)
    async def asks(world: World, limit: int) -> None:
        world.check(world.choose(4, "which") < limit, "it is small")

    asks(limit=4)
    with pytest.raises(FindingError, match="it is small") as raised:
        asks(limit=2)
    assert raised.value.headline == "expectation: it is small"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.trio
async def test_an_explored_function_can_be_called_beside_an_event_loop() -> None:
    from kemu.scenario import World
    from kemu.testing import explore

    @explore(schedules=5)
    async def asks(world: World) -> None:
        world.choose(4, "which")
        await world.step()

    asks()
