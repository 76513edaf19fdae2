"""``kemu explore`` with workers, shards, campaigns and clusters, and ``kemu campaign``."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli import kit

from kemu.cli import parallel
from kemu.cli.parallel import FLAGS, Named, cores, loader_of
from kemu.cli.targets import select_one
from kemu.errors import KemuError, WorkerDied
from kemu.log import read_trace


def without_times(result: kit.Result) -> list[str]:
    return [re.sub(r"\d+\.\d s\b", "N s", line) for line in result.lines]


@pytest.mark.parametrize(
    "words", [("--variant", "all", "-n", "300", "--keep-going"), ("--bound", "none", "--variant", "all"), ()]
)
def test_workers_find_what_one_process_finds(here: Path, words: tuple[str, ...]) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    one = kit.kemu("explore", "--no-corpus", scene, *words)
    two = kit.kemu("explore", "--no-corpus", scene, *words, "-j", "2")
    assert (two.code, without_times(two)) == (one.code, without_times(one))
    assert one.err.endswith("\n")
    assert two.err == one.err[:-1] + ", 2 workers\n"


def test_workers_of_the_default_sample_after_a_search_in_this_process(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is small is proved before anybody is hired, and what is found then is found at once."""
    from kemu.explore.campaign import Processes

    def submit(*args: object) -> None:
        raise AssertionError("no worker may be started")

    monkeypatch.setattr(Processes, "submit", submit)
    scene = kit.write(here, kit.LOST_UPDATE)
    proved = kit.kemu("explore", "--no-corpus", scene, "--variant", "safe", "-j", "2")
    assert (proved.code, proved.lines[1][:12]) == (0, "  proof: all")
    found = kit.kemu("explore", "--no-corpus", scene, "-j", "2")
    assert found.code == 1
    assert found.lines[0] == "FAIL scene.py::lost_update[racy]: expectation (as expected)"
    # All there is to be made is made here.
    many = kit.write(here, MANY.replace("FAILS", "15"), "many.py")
    some = kit.kemu("explore", "--no-corpus", many, "-j", "2", "-n", "100")
    assert some.lines[1].startswith("  budget: no proof: 100 schedules (")


MANY = """
from kemu.scenario import World, scenario

@scenario
async def many(world: World) -> None:
    async def steps() -> None:
        for _ in range(9):
            await world.step()

    mask = [world.choose(2, f"bit {bit}") for bit in range(14)]
    await world.together(steps(), steps(), steps())
    world.check(sum(mask) < FAILS, "some are zero")
"""


def test_workers_of_the_default_go_on_where_the_search_ended(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "ALONE", 60)
    clean = kit.write(here, MANY.replace("FAILS", "15"))
    words = ("explore", "--no-corpus", clean, "-j", "2", "--keep-going")
    result = kit.kemu(*words, "-n", "400")
    assert result.code == 0
    # Those made here count as well.
    assert result.lines[1].startswith("  budget: no proof: 400 schedules (")
    # The search had two and then every fourth of the first 60 runs, and goes on with half of the others.
    assert " ".join(line.strip() for line in result.lines[2:4]).startswith(
        "the reduced search has explored 183 classes of schedules that differ"
    )
    (program,) = kit.kemu(*words, "-n", "400", "--json").json["programs"]
    assert sum(one["runs"] for one in program["estimates"]) < 400 - 183
    assert program["failing_share_below"] == min(1, 3 / max(one["runs"] for one in program["estimates"]))
    assert without_times(kit.kemu(*words, "-n", "400")) == without_times(result)
    monkeypatch.setattr(parallel, "ALONE", 2)
    buggy = kit.write(here, MANY.replace("FAILS", "6"), "buggy.py")
    found = kit.kemu("explore", "--no-corpus", buggy, "-j", "2")
    assert found.code == 1
    (origin,) = [line for line in found.lines if line.startswith("  found in schedule ")]
    (number,) = re.findall(r"schedule (\d+) of \1 ", origin)
    assert int(number) > 2


@pytest.mark.parametrize("strategy", ["dpor", "portfolio"])
def test_workers_prove_what_one_process_proves(here: Path, monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    scene = kit.write(here, COUNTERS)
    words = ("explore", "--no-corpus", scene, "--strategy", strategy)
    one = kit.kemu(*words)
    assert one.lines[1].startswith("  proof: all 1,680 classes of schedules that differ by")
    monkeypatch.setattr(parallel, "ALONE", 60)
    two = kit.kemu(*words, "-j", "2")
    assert two.code == 0
    assert two.lines[:2] == one.lines[:2]
    first = kit.kemu(*words, "--campaign", "kept", "-n", "500")
    assert first.lines[1].startswith("  budget: no proof: 500 schedules")
    kept = kit.kemu(*words, "--campaign", "kept", "-t", "60s")
    assert kept.lines[:2] == one.lines[:2]
    looked = kit.kemu("campaign", "merge", "kept")
    assert without_times(looked)[1:] == without_times(kept)[1:]


COUNTERS = """
from kemu.scenario import World, scenario

@scenario
async def counters(world: World) -> None:
    shared = [0]

    async def thrice() -> None:
        for _ in range(3):
            await world.step()
            shared[0] += 1

    await world.together(thrice(), thrice(), thrice())
"""


def test_the_time_of_an_exploration_counts_for_the_search_and_the_workers(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kemu.explore import Budget, Exploration, Progress

    given: list[Budget] = []
    shown: list[int] = []
    done: list[Exploration] = []

    def explore(*args: Any, **options: Any) -> Exploration:
        done.append(parallel_explore(*args, **options))
        done[-1] = replace(done[-1], seconds=4.0)
        return done[-1]

    def batches(*args: Any, **options: Any) -> Exploration:
        given.append(args[4])
        options["progress"](Progress(1, 1, 0, 1.0))
        return replace(done[-1], seconds=1.5)

    def show(console: Any, text: str) -> None:
        shown.extend(int(seconds) for seconds in re.findall(r" (\d+) s$", text))

    parallel_explore = parallel.explore
    monkeypatch.setattr(parallel, "explore", explore)
    monkeypatch.setattr(parallel, "explore_in_batches", batches)
    monkeypatch.setattr(parallel, "ALONE", 10)
    monkeypatch.setattr("kemu.cli.console.Console.progress", show)
    scene = kit.write(here, MANY.replace("FAILS", "15"))
    result = kit.kemu("explore", "--no-corpus", scene, "-j", "2", "-t", "10s")
    assert given == [Budget(None, 6.0)]
    assert shown[-1] == 5
    assert " in 5.5 s" in result.lines[1]
    # There is nothing left.
    given.clear()
    result = kit.kemu("explore", "--no-corpus", scene, "-j", "2", "-t", "4s")
    assert given == []
    assert " in 4.0 s" in result.lines[1]


def test_workers_and_a_corpus(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    words = ("explore", scene, "-j", "2", "-n", "300")
    first = kit.kemu(*words)
    assert first.code == 1
    assert "found in schedule" in first.out
    again = kit.kemu(*words)
    assert "found in the corpus, known since schedule" in again.out
    assert again.lines[-1].startswith("corpus: a known failure comes before anything new")
    more = kit.kemu(*words, "--keep-going")
    assert more.out.count("FAIL") == 1
    assert "schedules show it" in more.out
    kit.write(here, kit.LOST_UPDATE.replace("if racy:", "if False:"))
    repaired = kit.kemu(*words)
    assert repaired.code == 0
    assert repaired.lines[1].startswith("  proof: all ")
    assert repaired.lines[-1].endswith("passes now; fixed? 1 of 3 clean replays")


def test_a_shard_has_no_search_of_its_own(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    result = kit.kemu("explore", "--no-corpus", scene, "--variant", "safe", "-n", "64", "--shard", "1/2", "--json")
    (program,) = result.json["programs"]
    assert (program["verdict"], program["schedules"]) == ("shard", 32)


def test_one_job_is_this_process_and_auto_is_every_core(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)

    def hired(*args: object) -> None:
        raise AssertionError("nobody may be hired")

    monkeypatch.setattr(parallel, "hire", hired)
    assert kit.kemu("explore", "--no-corpus", scene, "-j", "1", "-q").code == 1
    assert cores() >= 1
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    assert kit.kemu("explore", "--no-corpus", scene, "--jobs", "auto", "-q").code == 1
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    assert parallel.cores() == 1
    assert cores() == 3


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        (["-j", "0"], "'0' workers", "give a number from 1 to 512, or auto"),
        (["-j", "-1"], "'-1' workers", "give a number from 1 to 512, or auto"),
        (["-j", "513"], "'513' workers", "give a number from 1 to 512, or auto"),
        (["-j", "many"], "'many' workers", "give a number from 1 to 512, or auto"),
        (["--shard", "3/2"], "there is no shard 3 of 2", "with i from 1 to n, such as 1/4"),
        (["--shard", "0/2"], "there is no shard 0 of 2", "with i from 1 to n, such as 1/4"),
        (["--shard", "2"], "'2' is not a shard", "such as 1/4"),
        (["-j", "2", "--cluster", "tcp://x:1"], "-j and --cluster each say who makes the runs", "give one of them"),
        (["--campaign", "scene.py"], "the campaign directory scene.py cannot be written", "give a directory in which"),
    ],
)
def test_what_is_asked_for_wrongly(here: Path, words: list[str], message: str, remedy: str) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    result = kit.kemu("explore", "--no-corpus", scene, *words)
    assert (result.code, result.out) == (2, "")
    first, second = [line for line in result.err.splitlines() if not line.startswith("kemu: 1 program")]
    assert message in first
    assert second.startswith("  remedy: ")
    assert remedy in second


def test_a_live_run_has_no_workers(here: Path) -> None:
    result = kit.kemu("run", kit.write(here, kit.LOST_UPDATE), "--live", "-j", "2")
    assert (result.code, result.out) == (2, "")
    assert "there is no option -j" in result.err


def test_a_cluster_without_the_extra(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    real = importlib.import_module

    def import_module(name: str, package: str | None = None) -> Any:
        if name == "distributed":
            raise ModuleNotFoundError("No module named 'distributed'")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", import_module)
    result = kit.kemu("explore", "--no-corpus", kit.write(here, kit.LOST_UPDATE), "--cluster", "tcp://127.0.0.1:1")
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[-1] == '  remedy: install it: pip install "kemu[cluster]"'


def test_a_worker_that_died_does_not_take_findings_along(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kemu.explore.campaign import crew

    real = crew.perform

    def perform(task: Any, stop: Any) -> Any:
        result = real(task, stop)
        if task.batch.first != 32:
            return result
        from kemu.explore.campaign.batch import failed

        return failed(WorkerDied(task.describe()))

    monkeypatch.setattr(crew, "perform", perform)
    scene = kit.write(here, kit.LOST_UPDATE)
    result = kit.kemu("explore", "--no-corpus", scene, "-n", "100", "--keep-going", "--campaign", "kept")
    assert result.code == 3
    assert result.lines[0] == "FAIL scene.py::lost_update[racy]: expectation (as expected)"
    assert "kemu: error: one worker after another died while it made runs 32 to 47 (portfolio, seed 0)" in result.err
    monkeypatch.undo()
    monkeypatch.chdir(here)
    # What was done need not be done again.
    again = kit.kemu("explore", "--no-corpus", scene, "-n", "100", "--keep-going", "--campaign", "kept", "--json")
    assert again.code == 1
    assert again.json["programs"][0]["schedules"] == 100


def test_a_shard_says_that_it_is_one(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    result = kit.kemu("explore", "--no-corpus", scene, "--variant", "safe", "--bound", "none", "--shard", "1/2")
    assert result.code == 0
    assert result.err == "kemu: 1 program, strategy dfs, shard 1/2\n"
    assert re.match(r"  shard 1/2: a part of the exploration, which proves nothing by itself: \d+ sch", result.lines[1])
    assert len(result.lines) == 2
    drawn = kit.kemu("explore", "--no-corpus", scene, "--variant", "safe", "-n", "64", "--shard", "2/2", "--json")
    (program,) = drawn.json["programs"]
    assert (program["verdict"], program["schedules"], program["bound"]) == ("shard", 32, None)
    # Of several samplers that get more runs the better they do, only one counts.
    (most, *_) = [one["runs"] for one in program["estimates"]]
    assert most < 32
    assert program["failing_share_below"] == min(1, 3 / most)
    words = ("--variant", "safe", "-n", "64", "--shard", "2/2", "--strategy", "alternating", "--json")
    (program,) = kit.kemu("explore", "--no-corpus", scene, *words).json["programs"]
    assert (program["verdict"], program["schedules"]) == ("shard", 32)
    assert program["failing_share_below"] == pytest.approx(3 / 32)


def test_shards_are_merged_into_one_report(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    words = (
        "explore",
        scene,
        "--no-corpus",
        "--variant",
        "all",
        "-n",
        "128",
        "--keep-going",
        "--strategy",
        "alternating",
    )
    whole = kit.kemu(*words)
    for index in (1, 2):
        part = kit.kemu(*words, "--shard", f"{index}/2", "--campaign", f"part{index}")
        assert part.code == 1
    merged = kit.kemu("campaign", "merge", "part1", "part2", "-o", "traces")
    assert merged.code == 1
    assert merged.err == "kemu: 2 of 2 shards, 16 batches\n"
    expected = [line for line in whole.lines if not line.startswith(("  found in", "  budget:"))]
    shown = [line for line in merged.lines if not line.startswith(("  found in", "  budget:", "  trace:"))]
    assert [line for line in shown if line] == [line for line in expected if line]
    (trace,) = [line.split()[-1] for line in merged.lines if line.startswith("  trace:")]
    assert read_trace(here / trace).header["failure"]["check"] == "expectation"
    answer = kit.kemu("campaign", "merge", "part2", "part1", "--json").json
    assert (answer["exit_code"], answer["missing"], answer["error"]) == (1, [], None)
    assert [program["schedules"] for program in answer["programs"]] == [128, 128]
    (seen,) = [line for line in whole.lines if "schedules show it" in line]
    (finding,) = answer["programs"][0]["findings"]
    assert f"; {finding['count']} schedules show it" in seen
    quiet = kit.kemu("campaign", "merge", "part1", "part2", "-q")
    assert quiet.lines == [
        "FAIL scene.py::lost_update[racy]: expectation (as expected)",
        "ok scene.py::lost_update[safe]: nothing found",
    ]


def test_a_missing_shard_is_said(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    for index in (1, 3):
        kit.kemu(
            "explore",
            scene,
            "--variant",
            "safe",
            "--bound",
            "none",
            "--shard",
            f"{index}/3",
            "--campaign",
            f"part{index}",
        )
    result = kit.kemu("campaign", "merge", "part1", "part3")
    assert result.code == 0
    assert "kemu: warning: missing: 2/3\n" in result.err
    assert result.lines[1].startswith("  shard 1/3 and 3/3: a part of the exploration")
    kit.kemu(
        "explore", "--no-corpus", scene, "--variant", "safe", "--bound", "none", "--shard", "2/3", "--campaign", "part2"
    )
    whole = kit.kemu("campaign", "merge", "part1", "part2", "part3")
    assert whole.lines[1].startswith("  proof: every schedule there is was made, without a bound: ")
    alone = kit.kemu("explore", "--no-corpus", scene, "--variant", "safe", "--bound", "none")
    assert without_times(whole)[0] == without_times(alone)[0]
    assert without_times(whole)[1] == without_times(alone)[1]


def test_a_campaign_goes_on_with_the_same_command(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    words = ("explore", scene, "--variant", "safe", "--strategy", "pos", "--campaign", "soak")
    # Time counts for each call, schedules for all of them.
    first = kit.kemu(*words, "-n", "160", "--json").json["programs"][0]["schedules"]
    second = kit.kemu(*words, "-t", "100ms", "--json").json["programs"][0]["schedules"]
    assert second > first == 160
    shown = kit.kemu("campaign", "show", "soak")
    assert shown.code == 0
    assert shown.lines[0].startswith("campaign soak: pos, seed 0, shard 1/1; kemu ")
    assert re.fullmatch(
        r"scene.py::lost_update\[safe\]: [\d,]+ schedules \(\d+ distinct\) in \d+ batches, \d+\.\d s; goes on",
        shown.lines[1],
    )
    refused = kit.kemu(*words, "-t", "1s", "--seed", "1")
    assert refused.code == 2
    assert "the campaign in soak has the seed 0, and here it is 1" in refused.err
    kit.write(here, kit.LOST_UPDATE + "\n# Changed.\n")
    changed = kit.kemu(*words, "-t", "1s")
    assert changed.code == 2
    assert "its code changed" in changed.err
    gone = kit.kemu("campaign", "merge", "soak")
    assert gone.code == 2
    assert re.search(r"lost_update\[safe\] is [0-9a-f]{8} now, and was [0-9a-f]{8} when it was explored", gone.err)
    # To be looked at it needs nothing.
    (here / scene).unlink()
    assert kit.kemu("campaign", "show", "soak", "-q").lines == shown.lines[1:]


def test_what_is_found_is_shown_with_the_command_that_replays_it(here: Path) -> None:
    scene = kit.write(here, kit.SPINS.replace("while True", "while world.choose(2, 'again')"))
    words = ("explore", scene, "--max-steps", "20", "--bound", "none", "--keep-going", "--campaign", "kept")
    assert kit.kemu(*words).code == 1
    shown = kit.kemu("campaign", "show", "kept")
    assert shown.lines[0].startswith("campaign kept: dfs, bound=None, seed 0, shard 1/1; kemu ")
    assert shown.lines[1].endswith("; done")
    assert re.fullmatch(r"  ke.step-limit: \d+ schedules?, the first is \d+", shown.lines[2])
    replay = shown.lines[3].strip()
    assert replay.startswith("kemu replay --max-steps 20 'scene.py::spins[default]' KS1.")
    again = kit.kemu(*shlex.split(replay)[1:])
    assert again.lines[0] == "FAIL scene.py::spins[default]: ke.step-limit"
    answer = kit.kemu("campaign", "show", "kept", "--json").json
    (program,) = answer["programs"]
    (finding,) = program["findings"]
    assert finding["token"] == replay.split()[-1]
    assert (answer["command"], answer["shard"], program["done"]) == ("campaign show", "1/1", True)
    merged = kit.kemu("campaign", "merge", "kept")
    assert merged.lines[0] == again.lines[0]


def test_a_campaign_that_is_not_done_is_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kemu.explore.campaign import conductor

    scene = kit.write(here, kit.LOST_UPDATE)
    real = conductor.Conductor._wait

    def wait(self: Any, stop: Any) -> None:
        real(self, stop)
        if self.total.schedules > 50:
            raise KeyboardInterrupt

    monkeypatch.setattr(conductor.Conductor, "_wait", wait)
    words = ("explore", scene, "--variant", "safe", "--strategy", "pos", "-n", "200", "--campaign", "kept")
    result = kit.kemu(*words)
    assert result.code == 130
    assert result.lines[-1] == "  interrupted: this is what there was until then"
    monkeypatch.undo()
    monkeypatch.chdir(here)
    merged = kit.kemu("campaign", "merge", "kept")
    assert "kemu: warning: kept is not done yet; the command that began it goes on\n" in merged.err
    assert merged.lines[1].startswith("  budget: no proof: 64 schedules")
    kit.kemu(*words)
    assert kit.kemu("campaign", "merge", "kept").lines[1].startswith("  budget: no proof: 200 schedules")


@pytest.mark.parametrize("as_json", [False, True])
def test_errors_while_merging_leave_what_was_reported(
    here: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    kit.kemu("explore", "--no-corpus", scene, "--variant", "all", "-n", "64", "--campaign", "kept")
    from kemu.cli import merging

    real = merging.merged
    error = KemuError("it broke")

    def merged(campaigns: Any, number: int, *rest: Any) -> Any:
        if number == 1:
            raise error
        return real(campaigns, number, *rest)

    monkeypatch.setattr(merging, "merged", merged)
    result = kit.kemu("campaign", "merge", "kept", *(["--json"] if as_json else []))
    assert result.code == 3
    assert "kemu: error: it broke" in result.err
    if as_json:
        assert [program["verdict"] for program in result.json["programs"]] == ["finding"]
        assert result.json["error"] == "it broke"
    else:
        assert result.lines[0].startswith("FAIL scene.py::lost_update[racy]")
    monkeypatch.setattr(merging, "merged", real)
    monkeypatch.setattr("kemu.cli.hunt.shrink", failing(KeyboardInterrupt()))
    assert kit.kemu("campaign", "merge", "kept").code == 130
    monkeypatch.setattr("kemu.cli.hunt.shrink", failing(error))
    broken = kit.kemu("campaign", "merge", "kept")
    assert (broken.code, "not shrunk: it broke" in broken.out) == (3, True)


def failing(error: BaseException) -> Any:
    def call(*args: object, **kwargs: object) -> None:
        raise error

    return call


def test_no_campaign(here: Path) -> None:
    result = kit.kemu("campaign", "show", "nowhere")
    assert (result.code, result.out) == (2, "")
    assert "there is no campaign in nowhere" in result.err


def test_the_documented_keys_are_the_keys(here: Path) -> None:
    from kemu.cli import jsonout

    documented = set(re.findall(r"\b[a-z_]+\b", jsonout.__doc__ or ""))
    kit.kemu("explore", "--no-corpus", kit.write(here, kit.LOST_UPDATE), "--campaign", "kept")
    for words in (("show", "kept"), ("merge", "kept")):
        answer = kit.kemu("campaign", *words, "--json").json
        assert set(answer) - documented == set()
        assert {key for program in answer["programs"] for key in program} - documented == set()


def test_a_program_is_loaded_where_its_name_is_right(
    here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    program = select_one(scene, "safe", 33)
    load = loader_of(program)
    assert load == Named("scene.py::lost_update[safe]", 33, str(here))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    again = load()
    assert (again.name, again.identity) == (program.name, program.identity)
    assert Path.cwd() == elsewhere


def test_what_a_program_was_selected_with_goes_along(here: Path) -> None:
    program: Any = select_one(kit.write(here, kit.LOST_UPDATE), None)
    for flag in FLAGS:
        setattr(program, flag, True)
    assert loader_of(program).flags == FLAGS
