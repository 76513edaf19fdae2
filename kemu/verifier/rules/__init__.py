"""The rules of the specification: identifier, what each says in a line, and how far one that no test checks, or not
all of it, is kept.

The files are tables with tabs, one for each part of the specification. `docs/conformance.py` makes the conformance page
of them, and ``kemu explain`` shows the lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Entry:
    """One rule: its line in a table."""

    rule: str
    words: str
    reserve: str
    """Where it stands if it is not tested, or in part only; else nothing."""


@cache
def tables() -> dict[str, tuple[Entry, ...]]:
    """Every table by its name, with its rules in their order."""
    found: dict[str, tuple[Entry, ...]] = {}
    for file in sorted(files(__name__).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".tsv"):
            lines = file.read_text(encoding="utf-8").splitlines()
            found[file.name.removesuffix(".tsv")] = tuple(_entry(line) for line in lines)
    return found


def _entry(line: str) -> Entry:
    rule, words, *status = line.split("\t")
    return Entry(rule, words, status[0] if status else "")


@cache
def words_of_rules() -> dict[str, str]:
    """What each rule says, by its identifier."""
    return {entry.rule: entry.words for table in tables().values() for entry in table}
