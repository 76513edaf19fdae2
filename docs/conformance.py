"""Which rules of the specification are kept, and which test shows it: the conformance page.

The tables of `kemu.verifier.rules` list the rules: identifier, what each says in a line, and, where no test checks it
or only a part of it is kept, how far it is modelled. The tests say themselves which rules they check, with
``@pytest.mark.rule("KE-WAIT-05")``.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from kemu.verifier.rules import Entry, tables

ROOT = Path(__file__).resolve().parents[1]

TESTED = "tested"
STATUSES = ("modelled", "not modelled (false alarm)", "not modelled (missed bug)")
"""What a rule that no test checks may be: kept all the same; or not, so that kemu complains without need, or overlooks
what is wrong."""

IN_PART = ("tested in part (false alarm)", "tested in part (missed bug)")
"""What a rule may be that tests check, and of which kemu leaves something out."""

TITLES = {
    "kernel": "The kernel core, the I/O manager, and its notify routines",
    "minifilter": "The Filter Manager and its minifilters",
    "objects": "Objects and handles",
}


def marked() -> dict[str, Counter[str]]:
    """For each rule the test files that check it, with how many tests of each do."""
    found: dict[str, Counter[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = path.relative_to(ROOT / "tests").as_posix()
        for rule in _marks(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(rule, Counter())[name] += 1
    return found


def _marks(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "rule":
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value


def status(entry: Entry) -> str:
    """Where a rule stands."""
    return entry.reserve or TESTED


def conformance_page() -> str:
    """Every rule of the specification, how far kemu keeps it, and where that is tested."""
    tests = marked()
    lines = [
        "# Conformance",
        "",
        "Every rule that kemu knows of, and how far it is kept. *tested*: a test would notice if kemu did otherwise.",
        "*modelled*: kept, without a test of its own. *not modelled*: kemu does otherwise, so that it complains",
        "without need (*false alarm*) or overlooks something (*missed bug*). *Tested in part*: that is so",
        "with something of what the rule says. [Rules](rules.md) names sources.",
    ]
    for name, known in tables().items():
        counts = Counter(status(entry) for entry in known)
        said = ", ".join(f"{counts[one]} {one}" for one in (TESTED, *IN_PART, *STATUSES) if counts[one])
        lines += ["", f"## {TITLES[name]}", "", f"{len(known)} rules: {said}.", ""]
        lines += ["| rule | what it says | status | tests |", "| --- | --- | --- | --- |"]
        for entry in known:
            files = ", ".join(f"{file} ({count})" for file, count in tests.get(entry.rule, Counter[str]()).items())
            lines.append(f"| {entry.rule} | {entry.words} | {status(entry)} | {files} |")
    return "\n".join(lines) + "\n"
