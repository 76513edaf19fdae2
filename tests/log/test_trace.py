"""Trace files: what is written is read, and what is damaged is said."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from log.kit import record

from kemu.errors import UsageError
from kemu.log import SCHEMA, Trace, read_trace, write_trace
from kemu.runtime import Point, current_thread


async def main() -> None:
    log = current_thread().runtime.log
    if log is not None:
        log("user.log", level="info", text="h\u00e4llo\nworld", data={"path": "C:\\x", "seq": 9})
    await Point("one")
    await Point("two")


@pytest.fixture
def trace() -> Trace:
    return record(main).trace


@pytest.mark.parametrize("name", ["run.trace.jsonl", "run.trace.jsonl.gz"])
def test_what_is_written_is_read(tmp_path: Path, trace: Trace, name: str) -> None:
    write_trace(trace, tmp_path / name)
    again = read_trace(tmp_path / name)
    assert again.header == trace.header
    assert again.events == trace.events
    assert again.warnings == []
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_the_same_trace_gives_the_same_bytes(tmp_path: Path, trace: Trace, name: str) -> None:
    write_trace(trace, tmp_path / name)
    write_trace(record(main).trace, tmp_path / f"other-{name}")
    assert (tmp_path / name).read_bytes() == (tmp_path / f"other-{name}").read_bytes()


def test_the_first_lines_of_a_file(tmp_path: Path, trace: Trace) -> None:
    write_trace(trace, tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text("utf-8").splitlines()
    assert json.loads(lines[0])["schema"] == "kemu.trace/1"
    assert "wall" not in json.loads(lines[0])
    assert lines[1] == ('{"seq":0,"step":0,"vt":0,"ev":"actor.spawn","thread_name":"main","service":false}')
    assert lines[3] == (
        '{"seq":2,"step":0,"vt":0,"thread":"main","irql":0,"ev":"user.log","cause":0,"level":"info",'
        '"text":"h\u00e4llo\\nworld","data":{"path":"C:\\\\x","seq":9}}'
    )


def test_fields_that_are_not_known_are_kept_and_come_last(tmp_path: Path, trace: Trace) -> None:
    trace.events[0] = {"zebra": 1, "apple": 2, **trace.events[0]}
    write_trace(trace, tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_text("utf-8").splitlines()[1].endswith('"service":false,"apple":2,"zebra":1}')
    assert read_trace(tmp_path / "a.jsonl").events[0]["zebra"] == 1


def test_a_last_line_that_was_cut_off_is_left_out_with_a_warning(tmp_path: Path, trace: Trace) -> None:
    path = tmp_path / "a.jsonl"
    write_trace(trace, path)
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    again = read_trace(path)
    assert again.events == trace.events[:-1]
    number = len(trace.events) + 1
    assert again.warnings == [f"line {number} of {path} is cut off; the {number - 2} events before it are here"]
    # Only the end of the line is missing: the line is whole.
    path.write_bytes(data[:-1])
    assert read_trace(path).events == trace.events


def test_a_cut_inside_a_letter_is_a_cut_line(tmp_path: Path, trace: Trace) -> None:
    path = tmp_path / "a.jsonl"
    write_trace(trace, path)
    data = path.read_bytes()
    path.write_bytes(data[: data.index("\u00e4".encode()) + 1])
    again = read_trace(path)
    assert again.events == trace.events[:2]
    assert len(again.warnings) == 1


def test_a_compressed_file_that_ends_too_early(tmp_path: Path, trace: Trace) -> None:
    path = tmp_path / "a.jsonl.gz"
    trace.events *= 1
    write_trace(trace, path)
    path.write_bytes(path.read_bytes()[:-12])
    again = read_trace(path)
    assert 0 < len(again.events) <= len(trace.events)
    assert again.warnings[0] == f"{path} ends too early; what could be unpacked is here"


def damaged(tmp_path: Path, trace: Trace, line: int, text: str) -> Path:
    lines = list(trace.lines())
    lines[line - 1] = text
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f"{one}\n" for one in lines), "utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (3, "{oops", "line 3 of .* is not a JSON object"),
        (3, "[1]", "line 3 of .* is not a JSON object"),
        (3, '{"seq":1,"step":0,"vt":0}', "line 3 of .* has ev = None"),
        (3, '{"seq":1,"step":"x","vt":0,"ev":"a"}', "line 3 of .* has step = 'x'"),
        (3, '{"seq":true,"step":0,"vt":0,"ev":"a"}', "line 3 of .* has seq = True"),
        (3, '{"seq":5,"step":0,"vt":0,"ev":"a"}', "line 3 of .* is event 5, and event 1 was to follow"),
        (1, "{", "line 1 of .* is not the header of a kemu.trace/1 trace"),
        (1, "{}", "line 1 of .* is not the header"),
        (1, '{"schema":"kemu.trace/2"}', "is of the schema 'kemu.trace/2', and this kemu reads kemu.trace/1"),
    ],
)
def test_a_damaged_file_names_line_and_remedy(tmp_path: Path, trace: Trace, line: int, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_trace(damaged(tmp_path, trace, line, text))
    assert caught.value.remedy


def test_a_damaged_last_line_with_its_end_is_no_cut(tmp_path: Path, trace: Trace) -> None:
    with pytest.raises(UsageError, match="is not a JSON object"):
        read_trace(damaged(tmp_path, trace, len(trace.events) + 1, '{"seq"'))


def test_files_that_are_no_traces(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the trace .*nowhere cannot be read: No such file"):
        read_trace(tmp_path / "nowhere")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(UsageError, match="empty is empty"):
        read_trace(tmp_path / "empty")
    (tmp_path / "binary").write_bytes(b"{}\n\xff\xfe\x00\n")
    with pytest.raises(UsageError, match=r"line 2 of .* is not UTF-8"):
        read_trace(tmp_path / "binary")
    good = bytearray(gzip.compress(b"x" * 1000))
    good[14] ^= 0xFF
    (tmp_path / "bad.gz").write_bytes(good)
    with pytest.raises(UsageError, match=r"bad\.gz is damaged"):
        read_trace(tmp_path / "bad.gz")


def test_a_place_that_cannot_be_written(tmp_path: Path, trace: Trace) -> None:
    with pytest.raises(UsageError, match="cannot be written") as caught:
        write_trace(trace, tmp_path / "missing" / "a.jsonl")
    assert "directory" in caught.value.remedy


def test_the_caller_may_add_the_time_of_day(tmp_path: Path, trace: Trace) -> None:
    trace.header["wall"] = "2026-01-01T00:00:00Z"
    write_trace(trace, tmp_path / "a.jsonl")
    assert read_trace(tmp_path / "a.jsonl").header["wall"] == "2026-01-01T00:00:00Z"
    assert trace.header["schema"] == SCHEMA
