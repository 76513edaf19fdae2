"""Runs files of tests with the plugin, in this process."""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import _kemu_pytest

# What is imported here stays: otherwise each inner session would import it again, and have classes of its own.
for _name in ("kemu.testing.explored", "kemu.testing.scripted", "kemu.cli.app", "kemu.log.render", "structlog.dev"):
    importlib.import_module(_name)

FOLDER = str(Path(__file__).resolve().parents[1])
if FOLDER not in sys.path:
    # Behind everything else: a test folder must not hide a module.
    sys.path.append(FOLDER)

Run = Callable[..., "Session"]


class Session:
    """What came of an inner session."""

    def __init__(self, result: pytest.RunResult, place: Path) -> None:
        self.result = result
        self.place = place
        self.out = result.stdout.str()
        self.err = result.stderr.str()
        self.code = int(result.ret)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def outcomes(self) -> dict[str, int]:
        return self.result.parseoutcomes()

    @property
    def kept(self) -> list[dict[str, Any]]:
        """The runs in the corpus."""
        return [json.loads(path.read_text()) for path in sorted(self.place.glob(".kemu/corpus/*/*.json"))]

    def section(self, title: str) -> list[str]:
        """The lines of the first section with this title."""
        start = next(number for number, line in enumerate(self.lines) if line.strip("-=_ ") == title)
        found: list[str] = []
        for line in self.lines[start + 1 :]:
            if line.startswith(("---", "===", "___")):
                break
            if line:
                found.append(line)
        return found


@pytest.fixture
def pytests(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Writes a file of tests, if one is given, and runs pytest."""
    for name in ("CI", "PYTEST_ADDOPTS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    # Nor does the outer session's setting count.
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    # The short summary cuts its lines.
    monkeypatch.setenv("COLUMNS", "200")
    # The plugin is given, installed or not; loading the others would take longer than the tests.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(text: str | None, *words: str, name: str = "test_it.py") -> Session:
        if text is not None:
            (pytester.path / name).write_text(text, "utf-8")
        with warnings.catch_warnings():
            # That warnings are errors is a matter of the outer session.
            warnings.simplefilter("default")
            words = ("-p", "no:cacheprovider", *words)
            result = pytester.runpytest_inprocess(*words, plugins=[_kemu_pytest], no_reraise_ctrlc=True)
        return Session(result, pytester.path)

    return run
