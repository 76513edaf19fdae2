"""``kemu explore`` from the outside: what it prints, writes and returns."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cli import kit

from kemu.errors import InternalError, KemuError, ScenarioNotDeterministic, UsageError
from kemu.explore import Progress, explain
from kemu.log import read_trace

CORPUS = Path(__file__).resolve().parents[2] / "scenarios" / "minifilter"


def test_a_finding_is_reported_with_a_command_that_replays_it(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    result = kit.kemu("explore", scene)
    assert result.code == 1
    assert result.err == "kemu: 1 program, strategy portfolio, seed 0\n"
    assert result.lines[:3] == [
        "FAIL scene.py::lost_update[racy]: expectation (as expected)",
        "  an expectation of the scenario was not met",
        "  both additions count",
    ]
    assert len(result.lines) <= 25
    # One load has to come between the other's load and store: one preemption.
    (shrunk,) = [line for line in result.lines if line.startswith("  shrunk in ")]
    assert re.search(r"preemptions \d+ -> 1,", shrunk)
    (replay,) = [line for line in result.lines if line.startswith("  replay: ")]
    again = kit.kemu(*shlex.split(replay.removeprefix("  replay: kemu ")))
    assert (again.code, again.lines[:3]) == (1, result.lines[:3])
    assert again.lines[-1] == result.lines[-1]


def test_a_race_of_the_corpus(here: Path) -> None:
    result = kit.kemu("explore", CORPUS / "touch_after_hand_off.py")
    assert result.code == 1
    assert "cbd-use-after-release (as expected)" in result.lines[0]
    assert "in this order; it passes the other way round:" in result.out
    events = [line for line in result.lines if re.match(r"    step \d+ +\S+ in flt:\S+: ", line)]
    assert len(events) == 2
    assert result.out.count("touch_after_hand_off.py:") >= 2
    assert "  passes if step" in result.out
    assert len(result.lines) <= 25


def test_every_bound_and_the_default_say_what_they_prove(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    budget = kit.kemu("explore", scene, "--variant", "safe", "-n", "20", "--strategy", "alternating")
    assert budget.code == 0
    assert budget.lines[1].startswith("  budget: no proof: 20 schedules (")
    assert budget.lines[2].endswith(" less than 0.15 (3/20) of the schedules that this strategy draws fail")
    # Who adds first is all there is. The first two runs are the search's, and it ends with them.
    whole = kit.kemu("explore", scene, "--variant", "safe")
    assert whole.code == 0
    assert whole.lines[1:2] == [
        "  proof: all 2 classes of schedules that differ by more than the order of independent steps were explored:"
    ]
    assert whole.lines[2].startswith("  2 schedules (")
    assert len(whole.lines) == 3
    some = kit.kemu("explore", scene, "--variant", "safe", "-n", "1")
    assert some.lines[1].startswith("  budget: no proof: 1 schedule (")
    words = " ".join(line.strip() for line in some.lines[2:4])
    assert words.startswith("the reduced search has explored 1 class of schedules that differ ")
    assert words.endswith("; there are more")
    # Nothing is lost without a preemption.
    bound = kit.kemu("explore", f"{scene}::lost_update[racy]", "--bound", "0")
    assert bound.code == 0
    assert bound.lines[1].startswith("  bound: every schedule with at most 0 preemptions")
    proof = kit.kemu("explore", scene, "--variant", "safe", "--strategy", "dfs:bound=none")
    assert proof.lines[1].startswith("  proof: every schedule there is was made, without a bound: ")
    assert kit.kemu("explore", scene, "--variant", "safe", "--bound", "none").lines[1][:60] == proof.lines[1][:60]


def test_a_proof_says_what_could_not_be_followed(here: Path) -> None:
    coarse = kit.LOST_UPDATE.replace("    count = [0]\n", "    count = [0]\n    vars(world)\n    vars(world)\n")
    scene = kit.write(here, coarse)
    result = kit.kemu("explore", scene, "--variant", "safe")
    assert result.lines[1].startswith("  proof: all 2 classes ")
    (reason,) = result.lines[3:]
    assert reason == (
        "  all steps of the drivers' code count as dependent:"
        " scene.py:11: vars reaches state past its names, and 1 more"
    )
    assert "count as dependent" not in kit.kemu("explore", scene, "--variant", "safe", "--bound", "none").out


def test_without_a_proof_the_default_tells_of_the_search_and_of_one_sampler(here: Path) -> None:
    words = ("explore", CORPUS / "drain_then_disable.py", "--variant", "fixed", "-n", "120")
    result = kit.kemu(*words)
    assert result.code == 0
    assert result.lines[1].startswith("  budget: no proof: 120 schedules (")
    classes, chance, unseen = " ".join(line.strip() for line in result.lines[2:4]), *result.lines[4:]
    assert re.match(
        r"the reduced search has explored \d+ classes of schedules that differ .*; there are more$", classes
    )
    found = re.fullmatch(
        r"  with 95 % confidence less than \S+ \(3/(\d+)\) of the schedules that (\w+) draws fail", chance
    )
    assert found is not None
    assert unseen.endswith(f" % of this sampler's mass is unseen ({found[1]} runs of {found[2]}); not a bound on bugs")
    (program,) = kit.kemu(*words, "--json").json["programs"]
    runs = {one["sampler"]: one["runs"] for one in program["estimates"]}
    assert runs[found[2]] == int(found[1]) == max(runs.values())
    assert len(runs) > 2
    assert program["failing_share_below"] == 3 / int(found[1])


def test_a_generous_bound_that_leaves_nothing_out_is_a_proof(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    result = kit.kemu("explore", scene, "--variant", "safe", "--bound", "50")
    assert result.lines[1].startswith("  proof: ")


def test_json_is_one_object_and_nothing_else(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    result = kit.kemu("explore", scene, "--variant", "all", "--seed", "0x10", "-n", "300", "--json", "-o", "out")
    whole = result.json["programs"][1]
    assert (whole["verdict"], whole["strategy"], whole["exhausted"]) == ("proof", "portfolio", True)
    assert (whole["schedules"] < 300, whole["findings"], whole["failing_share_below"]) == (True, [], None)
    words = ("--variant", "all", "--seed", "0x10", "-n", "300", "--strategy", "alternating", "--no-corpus", "-o", "out")
    result = kit.kemu("explore", scene, *words, "--json")
    assert result.code == 1
    answer = result.json
    assert {key: answer[key] for key in ("command", "seed", "exit_code", "interrupted", "error")} == {
        "command": "explore",
        "seed": 16,
        "exit_code": 1,
        "interrupted": False,
        "error": None,
    }
    racy, safe = answer["programs"]
    assert (racy["program"], racy["verdict"], racy["expected"]) == (
        "scene.py::lost_update[racy]",
        "finding",
        "expectation",
    )
    assert racy["failing_share_below"] is None
    (finding,) = racy["findings"]
    assert finding["code"] == "expectation"
    assert finding["replay"].endswith(finding["token"])
    assert finding["after"]["preemptions"] == 1
    assert finding["run"] < racy["schedules"]
    assert read_trace(here / finding["trace"]).header["token"] == finding["token"]
    assert (safe["verdict"], safe["schedules"], safe["findings"]) == ("budget", 300, [])
    assert safe["failing_share_below"] == 0.01
    assert safe["strategy"] == "alternating"


def test_the_documented_keys_are_the_keys(here: Path) -> None:
    from kemu.cli import jsonout

    documented = set(re.findall(r"\b[a-z_]+\b", jsonout.__doc__ or ""))
    scene = kit.write(here, kit.LOST_UPDATE)

    def keys(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {key for one in value.values() for key in keys(one)}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return {key for one in value for key in keys(one)} if isinstance(value, list) else set()  # pyright: ignore[reportUnknownVariableType]

    for words in (("explore", scene, "-o", "out"), ("list", scene), ("run", scene)):
        assert keys(kit.kemu(*words, "--json").json) - documented == set()


def test_the_trace_is_written_where_asked(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    result = kit.kemu("explore", scene, "--output", "new/folder")
    path = here / "new" / "folder" / "lost_update-racy-expectation.trace.jsonl"
    assert result.lines[-1] == f"  trace:  {path.relative_to(here).as_posix()}"
    trace = read_trace(path)
    assert trace.header["failure"]["check"] == "expectation"
    assert trace.header["strategy"] == "portfolio"
    # What is there is not overwritten.
    again = kit.kemu("explore", scene, "--output", "new/folder", "--no-corpus")
    assert again.lines[-1].endswith("lost_update-racy-expectation-2.trace.jsonl")
    assert path.with_name("lost_update-racy-expectation-2.trace.jsonl").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("made", ["file", "below"])
def test_an_output_directory_that_cannot_be_written_is_said_before_anything_runs(
    here: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    (here / "file").write_text("in the way")

    def explored(*args: object, **kwargs: object) -> None:
        raise AssertionError("nothing may be explored")

    monkeypatch.setattr("kemu.cli.hunt.explore", explored)
    result = kit.kemu("explore", scene, "-o", "file" if made == "file" else "file/below")
    assert result.code == 2
    assert result.err.startswith("kemu: error: the output directory file")
    assert "cannot be written" in result.err


def test_keep_going_reports_each_finding_once(here: Path) -> None:
    text = kit.TWO.replace(
        'world.check(world.choose(2, "is it bad") == 0, "it is good")',
        'answer = world.choose(3, "how bad")\n    assert answer != 1, "bad"\n    assert answer != 2, "awful"',
    )
    scene = kit.write(here, text)
    result = kit.kemu("explore", f"{scene}::second", "-n", "200", "--keep-going", "-q")
    assert result.lines == ["FAIL scene.py::second[default]: expectation"] * 2
    assert result.err == ""
    first = kit.kemu("explore", f"{scene}::second", "-n", "200", "-q")
    assert len(first.lines) == 1


def test_several_programs_are_each_reported(here: Path) -> None:
    kit.write(here, kit.TWO, "two.py")
    kit.write(here, kit.LOST_UPDATE, "lost.py")
    result = kit.kemu("explore", "two.py", "lost.py", "two.py::first", "-n", "100", "-q")
    assert [line.split(":")[0] + line.split("::")[1] for line in result.lines] == [
        "ok two.pyfirst[default]: nothing found",
        "FAIL two.pysecond[default]: expectation",
        "FAIL lost.pylost_update[racy]: expectation (as expected)",
    ]
    assert result.code == 1


def test_an_expected_finding_that_does_not_come_up_is_said(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE.replace("if racy:", "if False:"))
    result = kit.kemu("explore", scene, "-n", "5")
    assert result.code == 0
    assert result.lines[-1] == "  the scenario expects expectation, which did not come up"


def test_max_steps_is_part_of_the_replay_command(here: Path) -> None:
    scene = kit.write(here, kit.SPINS)
    result = kit.kemu("explore", scene, "--max-steps", "77")
    assert result.lines[0] == "FAIL scene.py::spins[default]: ke.step-limit"
    assert "77 steps" in result.out
    assert result.lines[-1].startswith("  replay: kemu replay --max-steps 77 'scene.py::spins[default]' KS1.")


def test_a_time_budget(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    # One that does not come to an end by itself.
    result = kit.kemu("explore", scene, "--strategy", "sticky", "--variant", "safe", "--time", "50ms", "--json")
    (program,) = result.json["programs"]
    assert program["verdict"] == "budget"
    assert 0.05 <= program["seconds"] < 10


def test_a_random_seed_is_told(here: Path) -> None:
    result = kit.kemu("explore", kit.write(here, kit.LOST_UPDATE), "--seed", "random")
    (seed,) = re.findall(r"seed (\d+)", result.err)
    assert f"(portfolio, seed {seed}, " in result.out


def test_misuse_in_some_run_names_it(here: Path) -> None:
    # The exhaustive search comes to the misuse before it comes to the finding.
    result = kit.kemu("explore", "--bound", "1", kit.write(here, kit.MISUSES))
    assert result.code == 2
    assert "there is nothing to choose from" in result.err
    assert result.out == ""


def test_a_scenario_that_is_not_deterministic(here: Path) -> None:
    result = kit.kemu("explore", kit.write(here, kit.CHANGES))
    assert result.code == 4
    assert re.match(r"kemu: 1 program.*\nkemu: error: step 1: in one run script performs 'number \d+'", result.err)
    assert "usual causes" in result.err


def failing(error: BaseException) -> Any:
    def call(*args: object, **kwargs: object) -> None:
        raise error

    return call


@pytest.mark.parametrize("step", ["shrink", "explain", "capture"])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ScenarioNotDeterministic("it now passes", 3), 4),
        (InternalError("it broke"), 3),
        (UsageError("misused", remedy="do not"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_what_was_found_is_not_lost(
    here: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException, code: int, as_json: bool
) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    monkeypatch.setattr(f"kemu.cli.hunt.{step}", failing(error))
    result = kit.kemu("explore", scene, *(["--json"] if as_json else []))
    assert result.code == code
    why = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
    if as_json:
        (program,) = result.json["programs"]
        (finding,) = program["findings"]
        token = finding["token"]
        assert finding["notes"] == [f"not shrunk: {why}"]
        assert result.json["exit_code"] == code
    else:
        assert result.lines[0] == "FAIL scene.py::lost_update[racy]: expectation (as expected)"
        assert any(line.startswith("  not shrunk: ") for line in result.lines)
        token = result.lines[-1].split()[-1]
    assert ("kemu: interrupted" if code == 130 else f"kemu: error: {str(error).split(';')[0]}") in result.err
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert kit.kemu("replay", scene, token).code == 1


def test_an_error_after_a_finding_comes_with_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from kemu.cli import hunt

    real = hunt.explore
    error: KemuError = InternalError("it broke later")

    def explore(*args: Any, **kwargs: Any) -> Any:
        return replace(real(*args, **kwargs), error=error)

    monkeypatch.setattr(hunt, "explore", explore)
    scene = kit.write(here, kit.LOST_UPDATE)
    result = kit.kemu("explore", scene)
    assert (result.code, result.lines[0].split(":")[0]) == (3, "FAIL scene.py")
    assert "kemu: error: it broke later; this is a bug in kemu" in result.err
    answer = kit.kemu("explore", scene, "--json", "--no-corpus").json
    assert (answer["exit_code"], answer["error"]) == (3, str(error))
    assert answer["programs"][0]["error"] == str(error)


def test_an_interrupt_between_programs_keeps_what_there_is(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kemu.cli import hunt

    real = hunt.check_determinism
    seen: list[object] = []

    def check(program: Any, *rest: Any) -> Any:
        seen.append(program)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(program, *rest)

    monkeypatch.setattr(hunt, "check_determinism", check)
    kit.write(here, kit.LOST_UPDATE, "one.py")
    kit.write(here, kit.LOST_UPDATE, "two.py")
    result = kit.kemu("explore", "one.py", "two.py", "--json")
    assert result.code == 130
    assert [program["program"] for program in result.json["programs"]] == ["one.py::lost_update[racy]"]
    assert (result.json["interrupted"], result.json["exit_code"]) == (True, 130)


def test_verbose_prints_the_events_of_the_run(here: Path) -> None:
    result = kit.kemu("explore", kit.write(here, kit.LOST_UPDATE), "-v")
    heading = next(number for number, line in enumerate(result.lines) if line.startswith("step  "))
    assert result.lines[heading - 1].startswith("  replay: ")
    assert "check.violation" in result.lines[-1]


def test_colour_is_for_those_who_want_it(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    assert "\x1b" not in kit.kemu("explore", scene).out
    assert kit.kemu("explore", scene, "--color", "always").out.startswith("\x1b[31m\x1b[1mFAIL\x1b[0m scene.py")
    assert kit.kemu("explore", scene, env={"FORCE_COLOR": "1"}).out.startswith("\x1b[31m")
    assert kit.kemu("explore", scene, env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).out.startswith("FAIL")
    assert kit.kemu("explore", scene, "--color", "never", env={"FORCE_COLOR": "1"}).out.startswith("FAIL")


def test_the_line_of_progress(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kemu.cli import hunt
    from kemu.cli.console import Console

    shown: list[str] = []
    monkeypatch.setattr(Console, "progress", lambda self, text: shown.append(text))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    real = hunt.explore

    def explore(*args: Any, **kwargs: Any) -> Any:
        kwargs["progress"](Progress(1_234, 56, 0, 3.4))
        return real(*args, **kwargs)

    monkeypatch.setattr(hunt, "explore", explore)
    kit.kemu("explore", kit.write(here, kit.LOST_UPDATE))
    assert shown[0] == "scene.py::lost_update[racy]: 1,234 schedules, 56 distinct, 0 found, 3 s"
    assert shown[-1] == "expectation: shrinking and explaining"


@pytest.mark.parametrize("command", ["explore", "replay", "run"])
def test_an_interrupt_of_the_explanation_keeps_the_report(
    here: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    whole = kit.kemu("explore", scene, "--json").json["programs"][0]["findings"][0]
    assert (len(whole["orders"]), whole["depth"], whole["why_no_orders"]) == (2, 2, "")
    assert whole["orders"][0]["first"]["place"].startswith("scene.py:")

    def impatient(*words: Any, **options: Any) -> Any:
        asked = count()
        return explain(*words, **{**options, "stop": lambda: next(asked) >= 6})

    monkeypatch.setattr("kemu.cli.hunt.explain", impatient)
    target = "scene.py::lost_update[racy]"
    typed = {
        "explore": ["explore", scene],
        "replay": ["replay", target, whole["token"]],
        "run": ["run", target, "--token", whole["token"]],
    }[command]
    result = kit.kemu(*typed)
    assert result.code == 130
    assert "FAIL scene.py::lost_update[racy]: expectation (as expected)" in result.lines
    assert "  which orders of events make it fail is not known: interrupted" in result.lines
    assert any(line.startswith("  replay: kemu replay ") for line in result.lines)


def test_who_stops_the_exploration_still_has_its_findings_explained(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)

    @contextmanager
    def asked_already(warn: object) -> Generator[Callable[[], bool]]:
        yield lambda: True

    monkeypatch.setattr("kemu.cli.commands.explore.gentle_interrupts", asked_already)
    # The first schedule of this seed fails, and then the question is answered for the first time.
    result = kit.kemu("explore", scene, "--strategy", "alternating", "--seed", "12")
    assert any(line.endswith("(20 of 20 runs), and passes if either is reversed:") for line in result.lines)
