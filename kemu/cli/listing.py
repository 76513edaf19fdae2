"""What there is to run, as data and as lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kemu.cli.targets import select


@dataclass(frozen=True, slots=True)
class Entry:
    """One scenario."""

    path: str
    line: int
    name: str
    variants: tuple[tuple[str, str], ...]
    """Name and expected finding, "" for none; the first is the default."""
    doc: str
    """The first line of its docstring."""

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "target": f"{self.path}::{self.name}",
            "path": self.path,
            "line": self.line,
            "name": self.name,
            "variants": [{"name": name, "expects": expects or None} for name, expects in self.variants],
            "doc": self.doc,
        }


def listed(targets: Sequence[str]) -> list[Entry]:
    """The scenarios that *targets* mean, each once. Raises `UsageError`."""
    entries: dict[tuple[str, str], Entry] = {}
    for program in select(targets, None):
        scenario: Any = getattr(program, "scenario", None)
        path, _, _ = program.name.partition("::")
        variants = tuple((name, scenario.expects.get(name, "")) for name in scenario.variants)
        doc = scenario.doc.strip().partition("\n")[0]
        entries.setdefault((path, scenario.name), Entry(path, scenario.line, scenario.name, variants, doc))
    return list(entries.values())


@dataclass(frozen=True, slots=True)
class AtomicPart:
    """Code that touches shared state and is never interrupted."""

    path: str
    line: int
    name: str
    kind: str

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        return {"path": self.path, "line": self.line, "name": self.name, "kind": self.kind}


def atomic_parts(targets: Sequence[str]) -> list[AtomicPart]:
    """The atomic code of the files that *targets* mean, and of those beside them that they import, each once."""
    found: dict[AtomicPart, None] = {}
    for program in select(targets, None):
        loaded: Any = getattr(program, "loaded", None)
        found.update((AtomicPart(one.path, one.line, one.name, one.kind), None) for one in loaded.atomic)
    return list(found)


def atomic_lines(parts: Sequence[AtomicPart], *, short: bool = False) -> list[str]:
    """Atomic code for a person, by file; *short* gives the places only."""
    if short:
        return [f"{part.path}:{part.line}" for part in parts]
    lines: list[str] = []
    path = ""
    for part in sorted(parts, key=lambda part: part.path):
        if part.path != path:
            path = part.path
            lines.append(path)
        lines.append(f"    {part.name} ({part.kind}), line {part.line}")
    return lines


def listing_lines(entries: Sequence[Entry], *, short: bool = False) -> list[str]:
    """The scenarios for a person; *short* gives their targets only."""
    if short:
        return [f"{entry.path}::{entry.name}" for entry in entries]
    lines: list[str] = []
    for entry in entries:
        lines.append(f"{entry.path}::{entry.name}")
        if entry.doc:
            lines.append(f"    {entry.doc}")
        variants = ", ".join(name if not expects else f"{name} (expects {expects})" for name, expects in entry.variants)
        lines.append(f"    variants: {variants}")
    return lines
