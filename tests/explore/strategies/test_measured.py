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
    default, each, elsewhere, bugs = text.split("\n## ")[1:]
    assert "In 0 of the 0 programs" in default
    assert "| queue | 2 | - | 1 (POS) |" in default
    assert "| phase01 | 1 | - | - |" in default
    assert "| phase01 | 1 |" in each
    assert "| phase01 | 1, - | 1, - | 1, - | 1, - | 1, - | 1, - |" in elsewhere
    assert "| queue | -, 1 | -, 3 | -, 2 | -, 1 | -, 2 | -, 2 |" in elsewhere
    assert "- phase01: a lock is never given back" in bugs.splitlines()
    assert "phase01" in capsys.readouterr().err


def test_the_default_is_held_against_what_was_published() -> None:
    rows: dict[str, strategies.Row] = {
        "account": {"portfolio": 4},
        "queue": {"portfolio": 2},
        "CVE-2017-15265": {"portfolio": 2_000},
        "reorder_20": {"portfolio": None},
        "phase01": {"portfolio": 1},
    }
    assert "In 2 of the 4 programs" in strategies.page(rows, strategies.columns()).replace("\n", " ")
    assert strategies.best_published("account") == "4 (POS)"
    assert strategies.best_published("reorder_20") == "6 (SURW)"
    assert strategies.best_published("CVE-2017-15265") == "never"


def test_a_median_of_failures_is_none() -> None:
    # One schedule is not enough for what every second one shows at most.
    assert strategies.median_first_bug(CLASSICS["reorder_10"].make(), "random", seeds=3, limit=1) is None


def test_the_page_that_is_there_has_every_program_and_strategy() -> None:
    text = PAGE.read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [line for line in strategies.page({}, strategies.columns()).splitlines() if line.startswith("#")]
    assert "\n".join(strategies.INTRODUCTION) in text
    assert "\n".join(strategies.bugs(CLASSICS)) in text
    _, default, each, elsewhere, _ = text.split("\n## ")
    columns = [column for column in strategies.columns() if column != "portfolio"]
    assert f"| program | {' | '.join(f'`{column}`' for column in columns)} |" in each
    for name, classic in CLASSICS.items():
        assert f"\n| {name} | {classic.depth} | " in default
        assert f"\n| {name} | " in each
        cells = strategies.elsewhere(name)
        assert (f"| {name} | {' | '.join(cells)} |" in elsewhere) == bool(cells)
