"""``--preempt``, tokens of runs with it, and ``kemu list --atomic``."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli import kit

COUNTER = '''
from kemu.scenario import World, scenario


class Counter:
    def __init__(self) -> None:
        self.n = 0

    async def bump(self) -> None:
        self.n += 1


@scenario
async def bumps(world: World) -> None:
    """Two threads count."""
    counter = Counter()
    await world.together(counter.bump(), counter.bump())
    world.check(counter.n == 2, "both count")
'''


@pytest.fixture
def scene(here: Path) -> str:
    return kit.write(here, COUNTER)


@pytest.fixture
def token(scene: str) -> str:
    """A token of a run in which an update is lost."""
    found = kit.kemu("explore", scene, "--preempt", "access", "--bound", "1", "--json")
    assert found.code == 1
    text: str = found.json["programs"][0]["findings"][0]["token"]
    return text


@pytest.mark.parametrize(("preempt", "code"), [("call", 0), ("statement", 0), ("access", 1)])
def test_the_lost_update_is_found_between_accesses(scene: str, preempt: str, code: int) -> None:
    assert kit.kemu("explore", scene, "--preempt", preempt, "--bound", "1").code == code


def test_the_report_names_the_accesses_and_how_to_have_them_again(scene: str) -> None:
    result = kit.kemu("explore", scene, "--preempt", "access", "--bound", "1")
    assert "Counter.n" in result.out
    (line,) = [line for line in result.lines if line.startswith("  replay:")]
    command = line.split("kemu ", 1)[1].replace("'", "").split()
    assert command[:3] == ["replay", "--preempt", "access"]
    assert kit.kemu(*command).code == 1
    assert kit.kemu("run", "--preempt", "access", scene, "--token", command[-1]).code == 1
    assert kit.kemu("shrink", "--preempt", "access", scene, command[-1]).code == 1


@pytest.mark.parametrize("command", [("replay",), ("shrink",)])
@pytest.mark.parametrize("options", [(), ("--preempt", "statement"), ("--max-steps", "99")])
def test_a_token_of_another_preemption_is_refused(
    scene: str, token: str, command: tuple[str, ...], options: tuple[str, ...]
) -> None:
    result = kit.kemu(*command, *options, scene, token)
    asked = "statement" if "statement" in options else "call"
    assert result.code == 2
    assert f"was recorded with preemption 'access', and this program is preempted at '{asked}'" in result.err
    assert "remedy: give --preempt access" in result.err


def test_a_run_refuses_it_too(scene: str, token: str) -> None:
    result = kit.kemu("run", scene, "--token", token)
    assert (result.code, "give --preempt access" in result.err) == (2, True)


def test_a_token_of_something_else_is_refused_as_ever(scene: str) -> None:
    result = kit.kemu("replay", scene, "KS1.00000000.AA")
    assert result.code == 2
    assert "another scenario, variant or parameter" in result.err
    assert "is not a replay token" in kit.kemu("replay", scene, "nonsense").err


def test_a_live_run_takes_none(scene: str) -> None:
    result = kit.kemu("run", scene, "--live", "--preempt", "access")
    assert result.code == 2
    assert "--preempt is for controlled runs" in result.err


def test_a_wrong_preemption_is_refused(scene: str) -> None:
    result = kit.kemu("explore", scene, "--preempt", "acess")
    assert result.code == 2
    assert "'access'" in result.err


def test_the_limit_of_steps_goes_with_it(scene: str) -> None:
    result = kit.kemu("explore", scene, "--preempt", "access", "--max-steps", "99", "--bound", "1")
    (line,) = [line for line in result.lines if line.startswith("  replay:")]
    assert "--max-steps 99 --preempt access" in line


def test_atomic_code_is_listed(scene: str) -> None:
    (line,) = [at for at, text in enumerate(COUNTER.splitlines(), 1) if "__init__" in text]
    assert kit.kemu("list", "--atomic", scene).lines == [scene, f"    Counter.__init__ (special method), line {line}"]
    assert kit.kemu("list", "--atomic", scene, "-q").lines == [f"{scene}:{line}"]
    assert kit.kemu("list", "--atomic", scene, "--json").json["atomic"] == [
        {"path": scene, "line": line, "name": "Counter.__init__", "kind": "special method"}
    ]


def test_a_limited_program_can_be_instrumented(scene: str) -> None:
    from kemu.cli.targets import Limited, select_one

    program = select_one(scene, None, 99)
    assert isinstance(program, Limited)
    tracked = program.instrumented()
    assert (tracked.max_steps, tracked.name, tracked.identity) == (99, program.name, program.identity)
    assert getattr(tracked.program, "tracked", False)
    assert not getattr(program.program, "tracked", True)
