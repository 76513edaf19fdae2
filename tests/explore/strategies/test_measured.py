"""The benchmark that compares strategies: what it prints and the page that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import strategies
from explore.catalogue import CLASSICS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "explanation" / "strategies-measured.md"


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--json", "--seeds", "3", "-p", "phase01", "-p", "deadlock01", "-s", "random", "-s", "pct10"]
    assert strategies.main(asked) == 0
    printed = json.loads(capsys.readouterr().out)
    # Every run of phase01 fails.
    assert printed["programs"]["phase01"] == {"random": 1, "pct10": 1}
    assert list(printed["programs"]["deadlock01"]) == ["random", "pct10"]
    assert printed["references"]["prototype"]["reorder_3"]["surw"] == 7
    assert printed["references"]["prototype_mean"]["reorder_3"]["random"] == 22
    assert printed["references"]["published_mean"]["reorder_3"]["random"] is None
    assert "surw" not in printed["references"]["published_mean"]["carter01"]


def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(strategies, "PAGE", page)
    assert strategies.main(["--write", "--seeds", "1", "-p", "phase01", "-p", "queue", "-s", "pos"]) == 0
    text = page.read_text(encoding="utf-8")
    assert "| phase01 | a lock is never given back | 1 | 1 (1, -) |" in text
    assert "(-, 1) |" in text
    assert "phase01" in capsys.readouterr().err


def test_a_median_of_failures_is_none() -> None:
    # One schedule is not enough for what every second one shows at most.
    assert strategies.median_first_bug(CLASSICS["reorder_10"].make(), "random", seeds=3, limit=1) is None


def test_the_page_that_is_there_has_every_program_and_strategy() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert strategies.page({}, strategies.columns()).splitlines()[:16] == text.splitlines()[:16]
    header = next(line for line in text.splitlines() if line.startswith("| program"))
    assert all(f"| `{column}` |" in header for column in strategies.COMPARED)
    for name, classic in CLASSICS.items():
        assert f"| {name} | {classic.bug} | {classic.depth} |" in text
