"""``kemu explain`` and ``kemu verifier``, and the verifier's options of the other commands."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from cli import kit

from kemu.errors import InternalError, UsageError
from kemu.nt.routine import parse_prototype
from kemu.scenario.target import select

LEAKING = """
from kemu.nt.handle import open_handle
from kemu.nt.kthread import current_kthread
from kemu.scenario import World, scenario
from kemu.wdk.ntifs import ObOpenObjectByPointer
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import Driver, KernelMode, PsProcessType

class Opener(Driver):
    async def DriverEntry(self, DriverObject, RegistryPath):
        process = current_kthread().process
        status, _ = await ObOpenObjectByPointer(process, 0, None, 0, PsProcessType.contents, KernelMode)
        assert status == STATUS_SUCCESS
        return STATUS_SUCCESS

@scenario
async def leaking(world: World) -> None:
    async def load() -> None:
        await world.load(Opener, "100000")

    await world.start("loader", load(), world.process("app")).join()
"""


def test_a_finding_is_explained() -> None:
    result = kit.kemu("explain", "ke.double-free")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == "ke.double-free (error): a block was freed twice"
    assert "  Windows: BugCheck C2, {7, 0, 0, 0} BAD_POOL_CALLER" in lines
    assert any(line.startswith("  KE-POOL-07: ") for line in lines)
    assert lines[-1].startswith('  WDK: "')


def test_a_rule_or_a_bug_check_stands_for_its_findings() -> None:
    assert "ke.double-free" in kit.kemu("explain", "KE-POOL-07").out
    assert "ke.double-free" in kit.kemu("explain", "0xc2").out
    assert "ke.double-free" in kit.kemu("explain").out
    assert kit.kemu("explain", "ke.double-free", "-q").out.split() == [
        "ke.double-free",
        *["a", "block", "was", "freed", "twice"],
    ]


def test_the_explanation_is_there_for_machines() -> None:
    result = kit.kemu("explain", "ke.double-free", "--json")
    (found,) = json.loads(result.out)["findings"]
    assert found["code"] == "ke.double-free"
    assert found["rule_class"] == 1
    assert found["bug_check"] == "BugCheck C2, {7, 0, 0, 0} BAD_POOL_CALLER"
    assert found["cause"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("ke.doublefree", "did you mean ke.double-free?"),
        ("0xZZ", "is no finding, rule or bug check"),
        ("0xFFFF", "is no finding, rule or bug check"),
        ("KE-IRQL-02", "no finding reports a violation of KE-IRQL-02"),
    ],
)
def test_what_there_is_not_is_a_usage_error(code: str, words: str) -> None:
    result = kit.kemu("explain", code)
    assert result.code == 2
    assert words in result.err


def test_the_rule_classes_are_listed() -> None:
    result = kit.kemu("verifier")
    assert result.code == 0
    assert "  6  deadlock" in result.out
    assert "ke.spin-forbidden-call" not in result.out
    assert "       ke.spin-forbidden-call" in kit.kemu("verifier", "--codes").out
    assert "6 deadlock" in kit.kemu("verifier", "-q").out.splitlines()
    listed = json.loads(kit.kemu("verifier", "--json").out)
    assert [one["number"] for one in listed["classes"]] == [1, 2, 4, 5, 6, 9, 12, 18, 37]
    assert "ke.hang" in listed["always"]


def test_rule_classes_decide_what_a_run_reports(here: Path) -> None:
    name = kit.write(here, LEAKING)
    assert "ob.user-visible-handle" in kit.kemu("run", name).out
    assert kit.kemu("run", name).code == 1
    assert kit.kemu("run", name, "--verifier", "security").code == 1
    assert kit.kemu("run", name, "--verifier", "deadlock").code == 0
    ignored = kit.kemu("run", name, "--on-violation", "ob.user-visible-handle=ignore")
    assert ignored.code == 0
    assert "ob.user-visible-handle" in ignored.out


def test_a_replay_is_told_the_settings(here: Path) -> None:
    name = kit.write(here, LEAKING)
    result = kit.kemu(
        "explore", name, "--verifier", "security", "--on-violation", "ke.irql=zap", "-n", "5", "--no-corpus"
    )
    assert result.code == 1
    line = next(line for line in result.out.splitlines() if "kemu replay" in line)
    words = shlex.split(line[line.index("kemu replay") :])[1:]
    assert "9 ke.irql=zap" in words
    again = kit.kemu(*words)
    assert again.code == 1
    # Settings are part of what the token is for.
    plain = [word for word in words if word not in {"--verifier", "9 ke.irql=zap"}]
    assert kit.kemu(*plain).code == 2


def test_workers_get_the_settings(here: Path) -> None:
    name = kit.write(here, LEAKING)
    words = ("explore", name, "-n", "40", "-j", "2", "--no-corpus", "-q", "--strategy", "random")
    assert kit.kemu(*words, "--verifier", "deadlock").code == 0
    assert kit.kemu(*words, "--verifier", "security").code == 1


def test_a_run_that_cannot_go_on_names_the_rule_to_let_break(here: Path) -> None:
    (program,) = select(kit.write(here, LEAKING))
    crash: Exception | None = None
    try:
        parse_prototype("nothing")
    except ValueError as error:
        crash = error
    assert crash is not None
    error = program.explain(crash, "ob.user-visible-handle")
    assert isinstance(error, UsageError)
    assert "cannot go on after ob.user-visible-handle" in error.message
    assert error.remedy == "let ob.user-visible-handle break"
    assert isinstance(program.explain(crash), InternalError)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--verifier", "dedlock"), "'dedlock' is no rule class"),
        (("--on-violation", "ke.irql=stop"), "'stop' is no action"),
    ],
)
def test_wrong_options_are_usage_errors(here: Path, words: tuple[str, ...], message: str) -> None:
    result = kit.kemu("run", kit.write(here, LEAKING), *words)
    assert result.code == 2
    assert message in result.err
