"""The reference pages follow from the code."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

import kemu
from kemu.verifier.rules import tables, words_of_rules

RULE = re.compile(r"\b(?:FLT|KE|OB)-[A-Z]+-\d+\b")
REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", ["wdk.md", "findings.md", "events.md", "cli.md", "conformance.md"])
def test_a_generated_page_is_up_to_date(name: str, generate: ModuleType) -> None:
    there = (REFERENCE / name).read_text(encoding="utf-8")
    assert there == generate.PAGES[name](), "python docs/generate.py writes it"


def test_every_generated_page_is_tested(generate: ModuleType) -> None:
    assert sorted(generate.PAGES) == ["cli.md", "conformance.md", "events.md", "findings.md", "wdk.md"]


def test_every_rule_that_kemu_names_is_explained() -> None:
    pages = (REFERENCE / name for name in ("rules.md", "conformance.md"))
    page = "".join(path.read_text(encoding="utf-8") for path in pages)
    package = Path(kemu.__file__).parent
    named = {rule for file in package.rglob("*.py") for rule in RULE.findall(file.read_text(encoding="utf-8"))}
    assert len(named) > 100
    assert sorted(rule for rule in named if f"| {rule} |" not in page) == []


def test_a_rule_that_no_test_checks_says_how_far_it_is_modelled_and_no_other_does(conformance: ModuleType) -> None:
    tests = conformance.marked()
    rules: list[str] = []
    for table in tables().values():
        for entry in table:
            rules.append(entry.rule)
            assert RULE.fullmatch(entry.rule) or entry.rule.startswith(("CM-", "PS-"))
            assert entry.words
            known = ("", *conformance.IN_PART) if entry.rule in tests else conformance.STATUSES
            assert entry.reserve in known, entry.rule
    assert len(set(rules)) == len(rules)


def test_marks_name_rules_that_there_are(conformance: ModuleType) -> None:
    known = set(words_of_rules())
    families = {rule.rpartition("-")[0] for rule in known}
    assert (
        sorted(rule for rule in conformance.marked() if rule.rpartition("-")[0] in families and rule not in known) == []
    )


def test_check_names_what_differs(
    tmp_path: Path, generate: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "HERE", tmp_path)
    monkeypatch.setattr("sys.argv", ["generate.py", "--check"])
    assert generate.main() == 1
    assert "+# Findings" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("sys.argv", ["generate.py"])
    assert generate.main() == 0
    monkeypatch.setattr("sys.argv", ["generate.py", "--check"])
    assert generate.main() == 0
