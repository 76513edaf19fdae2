"""``kemu run``, ``replay``, ``shrink``, ``list`` and ``trace show``."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from cli import kit

from kemu.log import read_trace


@pytest.fixture
def scene(here: Path) -> str:
    return kit.write(here, kit.LOST_UPDATE)


@pytest.fixture
def token(scene: str) -> str:
    """A token of a failing run that is not the simplest."""
    found = kit.kemu("run", scene, "--order", "script, add#2*1, add, add#2", "--json")
    assert found.code == 1
    text: str = found.json["token"]
    return text


# Races. The scenario is one of those that are shipped: it touches callback data that it has handed over.


TOUCHES = Path(__file__).parents[2] / "scenarios" / "minifilter" / "touch_after_hand_off.py"


def test_races_are_looked_for_if_asked(here: Path) -> None:
    (here / "touch.py").write_bytes(TOUCHES.read_bytes())
    assert kit.kemu("run", "touch.py").code == 0
    result = kit.kemu("run", "touch.py", "--races", "--json")
    assert (result.code, result.json["finding"]["code"]) == (1, "hand-off-race")
    replay = result.json["finding"]["replay"]
    assert replay.startswith("kemu replay --races 'touch.py::touch_after_hand_off[buggy]' KS1.")


def test_a_race_is_replayed_and_shrunk_in_the_same_mode(here: Path) -> None:
    (here / "touch.py").write_bytes(TOUCHES.read_bytes())
    found = kit.kemu("explore", "touch.py", "--races", "--json")
    (finding,) = found.json["programs"][0]["findings"]
    assert (found.code, finding["code"]) == (1, "hand-off-race")
    words = shlex.split(finding["replay"])
    assert words[:3] == ["kemu", "replay", "--races"]
    again = kit.kemu(*words[1:], "--json")
    assert (again.code, again.json["finding"]["signature"]) == (1, finding["signature"])
    shrunk = kit.kemu("shrink", *words[2:], "--json")
    assert (shrunk.code, shrunk.json["finding"]["code"]) == (1, "hand-off-race")
    # Without the mode it is the same run, and nothing is wrong with it.
    assert kit.kemu("replay", *words[3:]).code == 0


@pytest.mark.parametrize("races", [True, False])
def test_a_verdict_says_whether_races_were_looked_for(here: Path, races: bool) -> None:
    (here / "touch.py").write_bytes(TOUCHES.read_bytes())
    words = ["explore", "touch.py", "--variant", "fixed", "-n", "5", *(["--races"] if races else [])]
    assert ("  races: none in these schedules" in kit.kemu(*words).lines) == races
    assert kit.kemu(*words, "--json").json["programs"][0]["races"] is races


def test_the_mode_and_a_limit_of_steps_go_together(here: Path) -> None:
    (here / "touch.py").write_bytes(TOUCHES.read_bytes())
    result = kit.kemu("run", "touch.py", "--races", "--max-steps", "500", "--json")
    assert result.json["finding"]["replay"].startswith("kemu replay --max-steps 500 --races ")


def test_a_live_run_looks_for_no_races(scene: str) -> None:
    result = kit.kemu("run", scene, "--live", "--races")
    assert result.code == 2
    assert "--races is for controlled runs" in result.err


# run


def test_the_plain_run(scene: str) -> None:
    result = kit.kemu("run", scene)
    assert (result.code, result.err) == (0, "")
    assert result.lines[0].split() == ["step", "ms", "q", "irp", "thread", "actor", "event"]
    assert result.lines[-3] == "ok scene.py::lost_update[racy]: this run finds nothing"
    assert result.lines[-1].startswith("  replay: kemu replay 'scene.py::lost_update[racy]' KS1.")


def test_a_run_by_seed_is_always_the_same(scene: str) -> None:
    first = kit.kemu("run", scene, "--seed", "5")
    assert kit.kemu("run", scene, "--seed", "0x5").out == first.out
    assert first.out != kit.kemu("run", scene).out


def test_a_run_by_token_is_that_run(scene: str, token: str) -> None:
    result = kit.kemu("run", scene, "--token", token, "--json")
    assert (result.code, result.json["token"]) == (1, token)
    assert result.json["finding"]["code"] == "expectation"
    assert result.json["finding"]["expected"] is True


def test_the_trace_of_a_run(scene: str) -> None:
    result = kit.kemu("run", scene, "-o", "out", "--json")
    path = Path("out/lost_update-racy-run.trace.jsonl")
    assert result.json["trace"] == path.as_posix()
    trace = read_trace(path)
    assert trace.header["token"] == result.json["token"]
    assert (trace.header["strategy"], trace.header["outcome"]) == ("plain", "clean")
    assert result.json["steps"] == trace.header["steps"]
    assert (result.json["end"], result.json["result"], result.json["vt"]) == ("finished", None, 0)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_live_run(here: Path, backend: str) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    result = kit.kemu("run", scene, "--variant", "safe", "--live", "--backend", backend, "--json", "-o", "out")
    assert result.code == 0
    assert result.json["token"] is None
    trace = read_trace(here / result.json["trace"])
    assert trace.header["strategy"] == f"live({backend})"
    assert [row["thread_name"] for row in trace.events if row["ev"] == "actor.spawn"] == ["script", "add", "add#2"]


def test_a_live_run_that_fails(here: Path) -> None:
    scene = kit.write(here, kit.TWO.replace("== 0", "== 1"))
    result = kit.kemu("run", f"{scene}::second", "--live")
    assert result.code == 1
    assert result.lines[-1] == "FAIL scene.py::second[default]: expectation: an expectation of the scenario was not met"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seed", "1", "--order", "a"), "--seed and --order each say how to run"),
        (("--token", "x", "--live"), "--token and --live each say how to run"),
        (("--backend", "trio"), "--backend is for live runs"),
        (("--live", "--max-steps", "5"), "--max-steps is for controlled runs"),
        (("--live", "--backend", "curio"), "invalid value for '--backend'"),
        (("--token", "x"), "'x' is not a replay token"),
        (("--variant", "racey"), "has no variant 'racey'"),
        (("--variant", "all"), "scene.py means 2 scenarios and variants: scene.py::lost_update[racy], "),
    ],
)
def test_what_cannot_be_run(scene: str, options: tuple[str, ...], message: str) -> None:
    result = kit.kemu("run", scene, *options)
    assert result.code == (5 if "variant '" in message else 2)
    assert result.out == ""
    assert message in result.err


# replay


def test_a_replay(scene: str, token: str) -> None:
    result = kit.kemu("replay", scene, token)
    assert (result.code, result.err) == (1, "")
    assert result.lines[0] == "FAIL scene.py::lost_update[racy]: expectation (as expected)"
    assert "shrunk" not in result.out
    assert result.lines[-1] == f"  replay: kemu replay 'scene.py::lost_update[racy]' {token}"
    assert kit.kemu("replay", scene, token, "-q").lines == result.lines[:1]
    answer = kit.kemu("replay", scene, token, "--json").json
    assert (answer["exit_code"], answer["finding"]["token"]) == (1, token)


def test_a_replay_of_a_run_that_passes(scene: str) -> None:
    token = kit.kemu("run", scene, "--json").json["token"]
    result = kit.kemu("replay", scene, token)
    assert result.code == 0
    assert result.lines[0] == "ok scene.py::lost_update[racy]: this run finds nothing"
    assert "one run is no proof" in result.lines[1]
    assert kit.kemu("replay", scene, token, "--json").json["finding"] is None


def test_a_replay_writes_the_trace(scene: str, token: str) -> None:
    result = kit.kemu("replay", scene, token, "-o", "out", "-v")
    path = Path("out/lost_update-racy-expectation.trace.jsonl")
    assert f"  trace:  {path.as_posix()}" in result.lines
    assert read_trace(path).header["token"] == token
    assert "check.violation" in result.lines[-1]


def test_a_token_of_other_code_is_refused(here: Path, scene: str, token: str) -> None:
    kit.write(here, kit.LOST_UPDATE.replace("+ 1", "+ 1 # changed"))
    result = kit.kemu("replay", scene, token)
    assert result.code == 2
    assert "code that has changed since" in result.err
    other = kit.kemu("replay", scene, token, "--variant", "safe")
    assert "another scenario, variant or parameter" in other.err


def test_a_token_that_is_damaged_is_refused(scene: str, token: str) -> None:
    for broken, message in (
        (token[:-1], "is damaged"),
        (token.replace("KS1", "KS9"), "is of version KS9"),
        ("nonsense", "is not a replay token"),
    ):
        result = kit.kemu("replay", scene, broken)
        assert (result.code, message in result.err) == (2, True)


def test_a_token_that_does_not_fit_diverges(here: Path, scene: str, token: str) -> None:
    from kemu.explore import encode

    head = token.split(".")[1]
    result = kit.kemu("replay", scene, encode([0, 9], head))
    assert result.code == 4
    assert "decision 1 was recorded as 9, but 2 parties can go on" in result.err
    result = kit.kemu("run", scene, "--token", encode([0, 1, 0, 0, 0, 0, 0, 1], head))
    assert result.code == 4
    assert "recorded choices are left" in result.err


# shrink


def test_shrinking(scene: str, token: str) -> None:
    result = kit.kemu("shrink", scene, token)
    assert result.code == 1
    assert any(line.startswith("  shrunk in ") for line in result.lines)
    # One thread has to be preempted between its load and its store.
    answer = kit.kemu("shrink", scene, token, "--json", "-o", "out").json
    assert answer["finding"]["after"]["preemptions"] == 1
    again = kit.kemu("replay", scene, answer["finding"]["token"])
    assert again.code == 1
    assert Path(answer["finding"]["trace"]).exists()


def test_shrinking_may_be_cut_short(scene: str, token: str) -> None:
    answer = kit.kemu("shrink", scene, token, "--replays", "1", "--json").json
    assert answer["finding"]["replays"] == 1
    assert answer["finding"]["token"] == token
    assert answer["finding"]["notes"] == ["there may be a simpler run: the replays were used up"]


def test_a_run_that_passes_cannot_be_shrunk(scene: str) -> None:
    token = kit.kemu("run", scene, "--json").json["token"]
    result = kit.kemu("shrink", scene, token)
    assert result.code == 2
    assert "passes in scene.py::lost_update[racy]" in result.err


# list


def test_listing(here: Path, scene: str) -> None:
    (here / "scenarios" / "deep").mkdir(parents=True)
    kit.write(here / "scenarios", kit.TWO, "two.py")
    kit.write(here / "scenarios" / "deep", kit.LOST_UPDATE, "lost.py")
    assert kit.kemu("list").lines == [
        "scenarios/two.py::first",
        "    variants: default",
        "scenarios/two.py::second",
        "    It asks a question.",
        "    variants: default",
        "scenarios/deep/lost.py::lost_update",
        "    Two threads add one each.",
        "    variants: racy (expects expectation), safe",
    ]
    assert kit.kemu("list", scene, "scenarios/two.py::first", scene, "-q").lines == [
        "scene.py::lost_update",
        "scenarios/two.py::first",
    ]
    assert kit.kemu("list", scene, "--json").json["scenarios"] == [
        {
            "target": "scene.py::lost_update",
            "path": "scene.py",
            "line": 4,
            "name": "lost_update",
            "variants": [{"name": "racy", "expects": "expectation"}, {"name": "safe", "expects": None}],
            "doc": "Two threads add one each.",
        }
    ]


def test_nothing_to_list(here: Path) -> None:
    assert kit.kemu("list").code == 2
    (here / "scenarios").mkdir()
    result = kit.kemu("list")
    assert result.code == 5
    assert "there is no scenario file in scenarios" in result.err


# trace show


def test_showing_a_trace(scene: str, token: str) -> None:
    kit.kemu("replay", scene, token, "-o", "out")
    path = "out/lost_update-racy-expectation.trace.jsonl"
    shown = kit.kemu("trace", "show", path)
    assert (shown.code, shown.err) == (0, "")
    assert shown.lines[0] == "scene.py::lost_update[racy]: expectation: an expectation of the scenario was not met"
    assert shown.lines[1] == f"token {token}"
    run = kit.kemu("run", scene, "--token", token)
    assert shown.lines[2:] == run.lines[: len(shown.lines) - 2]
    assert kit.kemu("trace", "show", path, "-q").lines == shown.lines[2:]
    assert kit.kemu("trace", "show", path, "--style", "minispy", "-q").lines[0].startswith("Opr SeqNum")
    assert "\x1b[" in kit.kemu("trace", "show", path, "--color", "always").out


def test_showing_a_trace_that_was_cut_off(scene: str) -> None:
    kit.kemu("run", scene, "-o", "out")
    path = Path("out/lost_update-racy-run.trace.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    shown = kit.kemu("trace", "show", path)
    assert shown.code == 0
    assert shown.err.startswith("kemu: warning: line ")
    assert shown.lines[0] == "scene.py::lost_update[racy]: clean"


def test_a_trace_with_an_odd_header(here: Path) -> None:
    (here / "odd.jsonl").write_text('{"schema":"kemu.trace/1","failure":7}\n')
    assert kit.kemu("trace", "show", "odd.jsonl").lines[0] == "unknown scenario: 7"
