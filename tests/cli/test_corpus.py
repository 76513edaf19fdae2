"""What ``kemu explore`` keeps and tries first, and ``kemu corpus``."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from cli import kit

from kemu.errors import ScenarioNotDeterministic

REPAIRED = kit.LOST_UPDATE.replace("if racy:", "if False:")

THREE = """
from kemu.scenario import World, scenario

@scenario
async def three(world: World) -> None:
    answer = world.choose(4, "which")
    assert answer != 1, "bad"
    assert answer != 2, "worse"
"""


def entries(folder: Path = Path(".kemu/corpus")) -> list[Path]:
    return sorted(folder.rglob("*.json"))


@pytest.fixture
def scene(here: Path) -> str:
    """A scenario whose failure is known."""
    name = kit.write(here, kit.LOST_UPDATE)
    assert kit.kemu("explore", name, "-q").code == 1
    return name


def test_what_failed_is_tried_first(here: Path, scene: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def explored(*args: object, **kwargs: object) -> None:
        raise AssertionError("what is known comes first")

    first = kit.kemu("explore", scene, "--no-corpus")
    monkeypatch.setattr("kemu.cli.hunt.explore", explored)
    again = kit.kemu("explore", scene)
    assert again.code == 1
    assert again.lines[:3] == first.lines[:3]
    assert re.search(r"^  found in the corpus, known since schedule \d+ of portfolio, seed 0$", again.out, re.MULTILINE)
    (replay,) = [line for line in first.lines if line.startswith("  replay: ")]
    assert replay in again.lines
    assert again.lines[-1].startswith("corpus: a known failure comes before anything new: --keep-going explores")
    assert kit.kemu("explore", scene, "-q").lines == ["FAIL scene.py::lost_update[racy]: expectation (as expected)"]
    (program,) = kit.kemu("explore", scene, "--json").json["programs"]
    (finding,) = program["findings"]
    assert (finding["run"], program["schedules"]) == (None, 0)
    assert program["corpus"] == [
        {"code": "expectation", "token": finding["token"], "state": "failing", "clean": 0},
    ]


def test_another_variant_or_limit_is_another_program(scene: str) -> None:
    assert kit.kemu("explore", scene, "--variant", "safe", "-n", "5").code == 0
    limited = kit.kemu("explore", scene, "--max-steps", "3")
    assert "found in schedule 1 of 1" in limited.out
    assert "--max-steps 3" in limited.out
    assert len(entries()) == 2
    assert "corpus" in kit.kemu("explore", scene, "--max-steps", "3").out
    (line,) = [one for one in kit.kemu("corpus", "ls").lines if "step-limit" in one]
    shown = kit.kemu("corpus", "show", line.split()[0])
    (replay,) = re.findall(r"  replay: kemu (.*)", shown.out)
    assert shlex.split(replay)[:3] == ["replay", "--max-steps", "3"]
    assert kit.kemu(*shlex.split(replay)).code == 1


def test_a_path_is_one_program_however_it_is_written(here: Path, scene: str) -> None:
    for name in (f"./{scene}", here / scene, f"../{here.name}/{scene}"):
        assert "found in the corpus" in kit.kemu("explore", name).out
    (path,) = entries()
    assert json.loads(path.read_text())["program"] == "scene.py::lost_update[racy]"


def test_a_run_is_tried_on_changed_code_and_kept_as_it_is_now(here: Path, scene: str) -> None:
    (path,) = entries()
    before = json.loads(path.read_text())
    kit.write(here, kit.LOST_UPDATE + "\n# changed\n")
    changed = kit.kemu("explore", scene)
    assert "found in the corpus" in changed.out
    after = json.loads(path.read_text())
    assert after["token"] != before["token"]
    assert {**after, "token": before["token"]} == before
    (replay,) = re.findall(r"  replay: kemu (.*)", changed.out)
    assert kit.kemu(*shlex.split(replay)).code == 1


def test_what_passes_three_times_is_forgotten(here: Path, scene: str) -> None:
    kit.write(here, REPAIRED)
    told: list[Any] = []
    for _ in range(4):
        result = kit.kemu("explore", scene, "-n", "3")
        assert result.code == 0
        told.append([re.sub(r".*\) ", "", line) for line in result.lines if line.startswith("corpus: ")])
    assert told == [
        ["passes now; fixed? 1 of 3 clean replays"],
        ["passes now; fixed? 2 of 3 clean replays"],
        ["passes: fixed, 3 of 3 clean replays; removed"],
        [],
    ]
    assert entries() == []


def test_without_a_corpus_nothing_is_read_or_written(here: Path, scene: str) -> None:
    (path,) = entries()
    before = path.read_bytes()
    kit.write(here, REPAIRED)
    result = kit.kemu("explore", scene, "-n", "3", "--no-corpus")
    assert "corpus" not in result.out
    assert path.read_bytes() == before
    assert kit.kemu("explore", scene, "-n", "3", "--no-corpus", "--json").json["programs"][0]["corpus"] == []
    path.unlink()
    kit.write(here, kit.LOST_UPDATE)
    assert kit.kemu("explore", scene, "-q", "--no-corpus").code == 1
    assert entries() == []


def test_a_corpus_elsewhere(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    assert kit.kemu("explore", scene, "--corpus", "shared/runs").code == 1
    assert len(entries(here / "shared" / "runs")) == 1
    assert not (here / ".kemu").exists()
    assert list((here / "shared").rglob(".gitignore")) == []
    assert "found in the corpus" in kit.kemu("explore", scene, "--corpus", "shared/runs").out
    assert kit.kemu("corpus", "ls", "-q", "--corpus", "shared/runs").lines != []
    both = kit.kemu("explore", scene, "--corpus", "x", "--no-corpus")
    assert (both.code, both.out) == (2, "")
    assert "--corpus and --no-corpus contradict each other" in both.err
    for words in (("explore", scene), ("corpus", "ls")):
        wrong = kit.kemu(*words, "--corpus", scene)
        assert wrong.code == 2
        assert "the corpus scene.py is not a directory" in wrong.err


def test_all_that_is_known_is_reported_on_request(here: Path) -> None:
    scene = kit.write(here, THREE)
    assert (
        kit.kemu("explore", scene, "-n", "100", "--keep-going", "-q").lines
        == ["FAIL scene.py::three[default]: expectation"] * 2
    )
    assert len(entries()) == 2
    one = kit.kemu("explore", scene)
    assert one.out.count("FAIL") == 1
    (line,) = [line for line in one.lines if line.endswith("still fails")]
    assert line.startswith("corpus: expectation (schedule ")
    both = kit.kemu("explore", scene, "-n", "20", "--keep-going")
    assert both.out.count("FAIL") == both.out.count("found in the corpus") == 2
    assert "corpus: " not in both.out


def test_what_cannot_be_read_or_written_is_said_and_stops_nothing(here: Path, scene: str) -> None:
    (path,) = entries()
    path.write_text("{}")
    result = kit.kemu("explore", scene)
    assert result.code == 1
    assert "found in schedule" in result.out
    assert f"kemu: warning: the corpus entry {path} is of the format None, and this kemu reads" in result.err
    (here / "there").write_text("in the way")
    unwritable = kit.kemu("explore", scene, "--corpus", "there/corpus")
    assert unwritable.code == 1
    assert "kemu: warning: the corpus cannot be read: there/corpus/" in unwritable.err
    assert "kemu: warning: expectation cannot be kept in the corpus: there/corpus/" in unwritable.err
    assert "found in schedule" in unwritable.out


def failing(error: BaseException) -> Any:
    def call(*args: object, **kwargs: object) -> None:
        raise error

    return call


@pytest.mark.parametrize("step", ["shrink", "explain"])
def test_an_interrupt_loses_nothing(here: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    with monkeypatch.context() as patch:
        patch.setattr(f"kemu.cli.hunt.{step}", failing(KeyboardInterrupt()))
        assert kit.kemu("explore", scene).code == 130
    (path,) = entries()
    assert json.loads(path.read_text())["cost"] is None
    assert "  not shrunk" in kit.kemu("corpus", "show", kit.kemu("corpus", "ls", "-q").out.strip()).lines
    assert "found in the corpus" in kit.kemu("explore", scene).out
    assert json.loads(path.read_text())["cost"] is not None


def test_what_is_not_deterministic_is_not_kept(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    monkeypatch.setattr("kemu.cli.hunt.shrink", failing(ScenarioNotDeterministic("it now passes", 3)))
    assert kit.kemu("explore", scene).code == 4
    assert entries() == []


def test_an_error_of_the_exploration_does_not_lose_what_is_known(here: Path) -> None:
    scene = kit.write(here, kit.MISUSES.replace('world.choose(0, "nothing to choose from")', "return"))
    assert kit.kemu("explore", scene, "-q").code == 1
    # The exhaustive search comes to the misuse before it comes to the finding.
    kit.write(here, kit.MISUSES)
    result = kit.kemu("explore", scene, "--bound", "1", "--keep-going")
    assert result.code == 2
    assert "there is nothing to choose from" in result.err
    assert "found in the corpus" in result.out
    assert "corpus: " not in result.out


def test_an_interrupt_during_the_replays(here: Path, scene: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kemu.explore.memory.Replay", failing(KeyboardInterrupt()))
    result = kit.kemu("explore", scene)
    assert result.code == 130
    assert result.lines[0] == "ok scene.py::lost_update[racy]: nothing found"
    assert "interrupted: this is what there was until then" in result.out


# kemu corpus.


def test_the_runs_are_listed(here: Path, scene: str) -> None:
    kit.write(here, kit.TWO, "two.py")
    kit.kemu("explore", "two.py", "-q")
    lines = kit.kemu("corpus", "ls").lines
    assert [re.sub("^[0-9a-f]{8}", "ID", line) for line in lines] == [
        "ID  expectation  scene.py::lost_update[racy]",
        "ID  expectation  two.py::second[default]",
    ]
    assert kit.kemu("corpus", "ls", "two.py").lines == lines[1:]
    assert kit.kemu("corpus", "ls", "-q").lines == [line[:8] for line in lines]
    nothing = kit.kemu("corpus", "ls", "three.py")
    assert nothing.code == 5
    assert "the corpus has no run of 'three.py'" in nothing.err
    kit.write(here, REPAIRED)
    kit.kemu("explore", scene, "-n", "1")
    assert kit.kemu("corpus", "ls", "scene").lines == [f"{lines[0]}  1 clean replay"]


def test_an_empty_corpus(here: Path) -> None:
    result = kit.kemu("corpus", "ls")
    assert (result.code, result.out, result.err) == (0, "", "kemu: the corpus is empty\n")
    assert kit.kemu("corpus", "ls", "--json").json["entries"] == []
    assert kit.kemu("corpus", "ls", "-q").err == ""
    assert not (here / ".kemu").exists()


def test_one_run_is_shown_with_the_command_that_replays_it(here: Path, scene: str) -> None:
    (name,) = kit.kemu("corpus", "ls", "-q").lines
    shown = kit.kemu("corpus", "show", name[:5])
    assert shown.lines[:2] == [f"{name} scene.py::lost_update[racy]: expectation", "  about both additions count"]
    assert re.fullmatch(r"  found in schedule \d+ of portfolio, seed 0", shown.lines[2])
    assert "preemptions 1" in shown.lines[3]
    assert kit.kemu(*shlex.split(shown.lines[-1].removeprefix("  replay: kemu "))).code == 1
    assert kit.kemu("corpus", "show", name, "-q").lines == [shown.lines[0], shown.lines[-1]]
    kit.write(here, REPAIRED)
    kit.kemu("explore", scene, "-n", "1")
    assert "  replayed without a failure by the last 1 of the explorations" in kit.kemu("corpus", "show", name).lines


def test_json_of_the_corpus_has_the_documented_keys(scene: str) -> None:
    from kemu.cli import jsonout

    documented = set(re.findall(r"\b[a-z_]+\b", jsonout.__doc__ or ""))
    (entry,) = kit.kemu("corpus", "ls", "--json").json["entries"]
    assert set(entry) <= documented
    assert (entry["program"], entry["clean"], entry["tool"]) == ("scene.py::lost_update[racy]", 0, "kemu")
    assert entry["replay"].endswith(entry["token"])
    assert Path(entry["file"]) == entries()[0]
    assert kit.kemu("corpus", "show", entry["id"], "--json").json["entry"] == entry


def test_a_name_that_means_none_or_two(here: Path, scene: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("zz", ""):
        result = kit.kemu("corpus", "show", word)
        assert result.code == 5
        assert f"the corpus has no run {word!r}" in result.err
    kit.write(here, kit.TWO, "two.py")
    kit.kemu("explore", "two.py", "-q")
    monkeypatch.setattr("kemu.explore.Entry.id", property(lambda self: f"abc{self.code[0]}{self.key.program[0]}"))  # pyright: ignore[reportUnknownMemberType, reportUnknownLambdaType]
    result = kit.kemu("corpus", "rm", "abc")
    assert result.code == 2
    assert "'abc' is the beginning of 2 IDs: abces, abcet" in result.err
    assert len(entries()) == 2


def test_runs_are_removed(here: Path, scene: str) -> None:
    kit.write(here, kit.TWO, "two.py")
    kit.kemu("explore", "two.py", "-q")
    first, second = kit.kemu("corpus", "ls", "-q").lines
    for words in ((), (first, "--all")):
        wrong = kit.kemu("corpus", "rm", *words)
        assert wrong.code == 2
        assert "which runs to remove is not said" in wrong.err
    # One that is not there, and none is removed.
    assert kit.kemu("corpus", "rm", first, "zz").code == 5
    assert len(entries()) == 2
    assert kit.kemu("corpus", "rm", first, first[:7]).lines == [
        f"removed {first}  expectation  scene.py::lost_update[racy]"
    ]
    assert kit.kemu("corpus", "ls", "-q").lines == [second]
    assert kit.kemu("corpus", "rm", "--all", "-q").out == ""
    assert entries() == []


def test_what_cannot_be_removed_is_said(scene: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "unlink", failing(PermissionError(13, "Permission denied")))
    result = kit.kemu("corpus", "rm", "--all")
    assert result.code == 2
    assert "expectation cannot be removed from the corpus: .kemu/corpus/" in result.err
    assert result.out == ""


def test_corpora_are_merged(here: Path, scene: str) -> None:
    kit.write(here, kit.TWO, "two.py")
    kit.kemu("explore", "two.py", scene, "-q", "--corpus", "ci")
    bad = entries(here / "ci")[0].with_name("0" * 32 + ".json")
    bad.write_text("{")
    result = kit.kemu("corpus", "merge", "ci", "ci")
    assert result.code == 0
    assert result.lines == [
        "ci: 1 of 2 runs taken over, the others are known",
        "ci: 0 of 2 runs taken over, the others are known",
    ]
    assert f"kemu: warning: the corpus entry ci/{bad.parent.name}/{bad.name} is damaged: not JSON" in result.err
    assert len(kit.kemu("corpus", "ls").lines) == 2
    assert kit.kemu("corpus", "merge", "ci", "-q").out == ""
    missing = kit.kemu("corpus", "merge", "ci", "nowhere")
    assert missing.code == 2
    assert "there is no corpus nowhere" in missing.err
    (here / "there").write_text("in the way")
    unwritable = kit.kemu("corpus", "merge", "ci", "--corpus", "there/corpus")
    assert unwritable.code == 2
    assert "cannot be kept in the corpus: there/corpus/" in unwritable.err
