"""``kemu fltmc`` and ``kemu kd``: a run looked at after one of its steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli import kit

FILE = Path(__file__).resolve().parents[2] / "scenarios/minifilter/drain_then_disable.py"
SCENARIO = f"{FILE}::drain_then_disable"
BUGGY = f"{SCENARIO}[buggy]"


def test_filters_are_listed_in_the_columns_of_windows() -> None:
    result = kit.kemu("fltmc", "filters", f"{BUGGY}@20")
    assert result.code == 0
    assert result.out.splitlines() == [
        "Filter Name                     Num Instances    Altitude    Frame",
        "------------------------------  -------------  ------------  -----",
        "DrainsFirst                             1       328010         0",
    ]


def test_instances_are_listed_in_the_columns_of_windows() -> None:
    text = """\
Filter                Volume Name                              Altitude        Instance Name       Frame   SprtFtrs  VlStatus
--------------------  -------------------------------------  ------------  ----------------------  -----   --------  --------
DrainsFirst           C:                                        328010     DrainsFirst Instance      0     00000000
"""  # noqa: E501 - as Windows prints it
    expected = text.splitlines()
    assert kit.kemu("fltmc", "instances", f"{BUGGY}@20").out.splitlines() == expected
    assert kit.kemu("fltmc", "instances", "-f", "drainsfirst", "-v", "c:", f"{BUGGY}@20").out.splitlines() == expected
    assert kit.kemu("fltmc", "instances", "-f", "other", f"{BUGGY}@20").out.splitlines() == expected[:2]
    assert kit.kemu("fltmc", "instances", "-v", "D:", f"{BUGGY}@20").out.splitlines() == expected[:2]


def test_the_last_step_is_meant_unless_one_is_given() -> None:
    """At the end of the plain run the filter is detached."""
    assert kit.kemu("fltmc", "filters", BUGGY).out.splitlines()[-1].split() == ["DrainsFirst", "0", "328010", "0"]


def test_volumes_are_listed_for_people_and_machines() -> None:
    assert kit.kemu("fltmc", "volumes", BUGGY).out.splitlines()[-1].split() == [
        "C:",
        r"\Device\HarddiskVolume1",
        "NTFS",
    ]
    shown = json.loads(kit.kemu("fltmc", "instances", "--json", f"{BUGGY}@20").out)
    assert (shown["command"], shown["step"]) == ("fltmc", 20)
    assert shown["instances"][0]["instance"] == "DrainsFirst Instance"


def test_a_recorded_run_is_looked_at(here: Path) -> None:
    recorded = kit.kemu("explore", BUGGY, "-o", "traces", "-q", "--no-corpus")
    assert recorded.code == 1
    (trace,) = sorted((here / "traces").glob("*.trace.jsonl"))
    result = kit.kemu("kd", str(trace), "-c", "!fltkd.irplist; !fltkd.cbd irp1; !thread")
    assert result.code == 0
    assert "flt:DrainsFirst pended" in result.out
    assert "IRP_CTRL: ffffa" in result.out
    assert "fltmc_detach" in result.out
    header, *rest = trace.read_text(encoding="utf-8").splitlines(keepends=True)
    fields = json.loads(header)
    del fields["token"]
    trace.write_text(json.dumps(fields) + "\n" + "".join(rest), encoding="utf-8")
    broken = kit.kemu("kd", str(trace))
    assert broken.code == 2
    assert "does not say which run it is" in broken.err


def test_every_extension_command_shows_something() -> None:
    script = "!fltkd.filters;!fltkd.frames;!fltkd.volumes;!fltkd.instances;!fltkd.filter;!fltkd.instance;!fltkd.volume"
    out = kit.kemu("kd", f"{BUGGY}@29", "-c", f"{script};!fltkd.irpctrl;!locks;help").out
    for part in (
        "FLT_FILTER: ffffa",
        '040 "DrainsFirst" "328010"',
        '"Frame 0" "0 to 328010"',
        r'"\Device\HarddiskVolume1"',
        "InstanceSetup            : QueuedReads.InstanceSetup",
        "Flags                    : tearing down: InstanceTeardownStart",
        "Status                   : mounted",
        '("DrainsFirst","DrainsFirst Instance")',
        "no lock is held",
        "!tt N",
    ):
        assert part in out


def shown(name: str, step: int, command: str) -> str:
    """What a command of the debugger shows of the repaired variant of a scenario."""
    return kit.kemu("kd", f"{FILE.parent / name}.py::{name}[fixed]@{step}", "-c", command).out


def test_a_filter_is_shown_with_its_ports_and_contexts() -> None:
    talking = shown("port_copied", 14, "!fltkd.filter")
    assert r'"\ScanPort"  1 of 1' in talking
    assert "service  connected, 0 queued, 1 unanswered" in talking
    assert "service  disconnected, 0 queued, 0 unanswered" in shown("port_copied", 18, "!fltkd.filter")
    # Its link, and the close that has found it.
    kept = shown("context_leaked_by_loser", 40, "!fltkd.filter")
    assert "references 2  linked, stream context of instance StreamContexts Instance on C:" in kept
    assert "held by open_and_close#2 with FltGetStreamContext at " in kept
    early = shown("context_leaked_by_loser", 1, "!fltkd.filter")
    assert "   Contexts" not in early
    assert "   Ports" not in early


def test_the_list_of_operations_has_those_of_filters_as_well() -> None:
    lines = shown("sub_request_freed", 13, "!fltkd.irplist").splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["irp1", "IRP_MJ_READ"], ["irp2", "IRP_MJ_READ"]]
    assert lines[1].endswith("in pre-operation")
    assert lines[2].endswith("from instance FreesInTheCallback Instance on C:")


def test_a_volume_is_shown_with_its_file_system_and_names() -> None:
    volume = shown("port_copied", 14, "!fltkd.volume")
    assert r'"\Device\HarddiskVolume1"' in volume
    assert "FileSystem               : NTFS" in volume
    assert r"GuidName                 : \??\Volume{00000000-0000-0000-0000-000000000001}" in volume


def test_an_object_is_named_or_given_by_address() -> None:
    named = kit.kemu("kd", f"{BUGGY}@20", "-c", '!fltkd.filter "DrainsFirst"')
    assert named.code == 0
    address = named.out.splitlines()[1].split()[1]
    assert kit.kemu("kd", f"{BUGGY}@20", "-c", f"!fltkd.filter {address}").out == named.out


def test_a_run_is_walked_back_and_forth(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(script: str) -> list[int]:
        out = kit.kemu("kd", f"{BUGGY}@10", "-c", script).out
        return [int(line.split()[1]) for line in out.splitlines() if line.startswith("step ")]

    last = steps("g")[-1]
    assert steps("p;t;p-;t-;p-") == [10, 11, 12, 11, 10, 9]
    assert steps("g-;p-;g;p;!tt 5;q;p") == [10, 0, 0, last, last, 5]


def test_commands_are_read_from_the_input() -> None:
    result = kit.kemu("kd", f"{BUGGY}@10", stdin="p\n\n!fltkd.filters\nq\np\n")
    assert result.code == 0
    assert [line for line in result.out.splitlines() if line.startswith("step ")][-1].startswith("step 11 ")
    wrong = kit.kemu("kd", f"{BUGGY}@10", stdin="!fltkd.filter\n!nope\n!tt x\n")
    assert wrong.code == 2
    assert wrong.err.count("kemu:") == 2


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("fltmc", "filters", f"{BUGGY}@x"), "is no step"),
        (("fltmc", "filters", f"{BUGGY}@4000"), "has no step 4000"),
        (("fltmc", "filters", "-f", "a", BUGGY), "-f and -v are for instances"),
        (("fltmc", "legacy", BUGGY), "'filters', 'instances', 'volumes'"),
        (("kd", BUGGY, "-c", "!fltkd.filtres"), "did you mean '!fltkd.filters'"),
        (("kd", BUGGY, "-c", "!fltkd.volume D:"), "choose from: C:"),
        (("kd", f"{BUGGY}@20", "-c", "!fltkd.cbd irp9"), "none of the operations under way"),
        (("kd", BUGGY, "--token", "KS1.x.y"), "token"),
        (("kd", "missing.trace.jsonl"), "missing.trace.jsonl"),
    ],
)
def test_what_is_wrong_is_named(words: tuple[str, ...], part: str) -> None:
    result = kit.kemu(*words)
    assert result.code == 2
    assert part in result.err
