"""The command in processes of its own: exit codes, Ctrl-C, and the same bytes in each."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli import kit

CORPUS = Path(__file__).resolve().parents[2] / "scenarios" / "minifilter"
COMMAND = [sys.executable, "-c", "import kemu.cli; kemu.cli.main()"]


def call(here: Path, *words: str, seed: str = "0") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    return subprocess.run([*COMMAND, *words], cwd=here, env=environment, capture_output=True, timeout=100, check=False)


def test_exit_codes(here: Path) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    assert call(here, "explore", scene).returncode == 1
    assert call(here, "explore", scene, "--variant", "safe", "-n", "9").returncode == 0
    assert call(here, "explore", "nowhere.py").returncode == 2
    assert call(here, "explore", f"{scene}::nothing").returncode == 5
    assert call(here, "explore", kit.write(here, kit.CHANGES, "changes.py")).returncode == 4


def test_the_same_token_gives_the_same_bytes_in_every_process(here: Path) -> None:
    scene = str(CORPUS / "drain_then_disable.py")
    found = json.loads(call(here, "explore", scene, "--json", "-o", "first", seed="1").stdout)
    (finding,) = found["programs"][0]["findings"]
    name = Path(finding["trace"]).name
    traces: list[bytes] = []
    for seed in ("2", "77"):
        again = call(here, "replay", scene, finding["token"], "-o", f"out{seed}", seed=seed)
        assert again.returncode == 1, again.stderr
        traces.append((here / f"out{seed}" / name).read_bytes())
    assert traces[0] == traces[1]
    assert len(traces[0].splitlines()) > 30
    # The exploration's own trace is of the same run; its header says besides where it comes from.
    assert (here / "first" / name).read_bytes().split(b"\n", 1)[1] == traces[0].split(b"\n", 1)[1]


def test_the_same_exploration_in_every_process(here: Path) -> None:
    scene = str(CORPUS / "teardown_without_drain.py")
    words = ("explore", scene, "--seed", "3", "--keep-going", "-n", "200", "--no-corpus")
    outputs = [re.sub(rb"\d+\.\d s\b", b"", call(here, *words, seed=seed).stdout) for seed in ("1", "55")]
    assert outputs[0] == outputs[1]
    assert outputs[0].startswith(b"FAIL")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="how busy a process is cannot be told here")
@pytest.mark.parametrize("found", [False, True])
def test_an_interrupt_prints_what_was_found(here: Path, found: bool) -> None:
    scene = kit.write(here, kit.LOST_UPDATE)
    # One that does not come to an end by itself.
    words = [
        "explore",
        scene,
        "--strategy",
        "sticky",
        "--keep-going",
        "-t",
        "90s",
        *([] if found else ["--variant", "safe"]),
    ]
    process = subprocess.Popen([*COMMAND, *words], cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    # The first line is printed when the exploration begins; the check before it takes milliseconds.
    assert process.stderr.readline().startswith(b"kemu: 1 program")
    wait_until_busy(process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"kemu: stopping after this run" in err
    assert b"kemu: interrupted" in err
    assert b"Traceback" not in err
    if found:
        assert out.startswith(b"FAIL scene.py::lost_update[racy]: expectation")
        assert b"  replay: kemu replay " in out
    else:
        assert out.startswith(b"ok scene.py::lost_update[safe]: nothing found")
        assert b"  interrupted: " in out


def wait_until_busy(process: subprocess.Popen[bytes]) -> None:
    """Wait until the process has used a second of processor time: by then it explores."""
    ticks = os.sysconf("SC_CLK_TCK")
    used = 0
    while used <= ticks:
        assert process.poll() is None, "it has ended"
        # After the name, which may hold anything, the times in user and kernel mode are the 12th and 13th field.
        fields = Path(f"/proc/{process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        used = int(fields[11]) + int(fields[12])


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no process groups here")
def test_an_interrupt_of_the_whole_group_ends_workers_without_a_word(here: Path) -> None:
    process, children = working(here)
    workers = [child for child in children if not is_resource_tracker(child)]
    assert workers or not children
    # As a terminal does: it goes to every process of the group.
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode().splitlines()[1:] == [
        "",
        "kemu: stopping after this run; Ctrl-C once more stops at once",
        "",
        "kemu: interrupted",
    ]
    assert out.startswith(b"ok scene.py::lost_update[safe]: nothing found")
    assert b"  interrupted: " in out
    assert all(is_gone(worker) for worker in workers)
    # What was done is kept, as is what the interrupted batches had come to on the screen.
    done = (here / "kept" / "batches.jsonl").read_bytes().count(b"\n")
    assert done >= 1
    (schedules,) = re.findall(r"([\d,]+) schedules \(", out.decode())
    assert int(schedules.replace(",", "")) > done


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="whether a process has ended cannot be told here")
def test_workers_do_not_outlive_the_command(here: Path) -> None:
    process, children = working(here)
    process.kill()
    process.communicate(timeout=60)
    for child in children:
        while not is_gone(child):
            os.sched_yield()


def working(here: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A command with two workers that has done a batch already, and the processes that it started."""
    scene = kit.write(here, kit.LOST_UPDATE)
    words = ["explore", scene, "--variant", "safe", "-n", "20000", "-j", "2", "--strategy", "pos", "--campaign", "kept"]
    process = subprocess.Popen(
        [*COMMAND, *words], cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    batches = here / "kept" / "batches.jsonl"
    while not (batches.exists() and b"\n" in batches.read_bytes()):
        # Waiting for its end leaves the processor to it.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
    threads = Path(f"/proc/{process.pid}/task")
    children = (
        [int(child) for task in threads.iterdir() for child in (task / "children").read_text("ascii").split()]
        if threads.exists()
        else []
    )
    return process, children


def is_resource_tracker(pid: int) -> bool:
    """Whether it is the process of `multiprocessing` that cleans up, and ends a moment after its parent."""
    return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()


def is_gone(pid: int) -> bool:
    """Whether the process has ended, or is only waiting for somebody to take note of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
