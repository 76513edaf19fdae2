"""The manifest and the code that emits events name the same things."""

import ast
from collections.abc import Iterator
from pathlib import Path

import kemu
from kemu.log.causes import CAUSES
from kemu.log.manifest import COMMON, MANIFEST, OPEN_FIELD

PACKAGE = Path(kemu.__file__).parent
NOT_FIELDS = {"cause", "irp", "frame", "about"}
"""Keywords that the recorder takes apart itself."""


def emitted() -> Iterator[tuple[str, set[str], str]]:
    """Every event that the package emits: its name, its keywords, and where."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            if name not in {"log", "_add"} or not isinstance(first, ast.Constant) or not isinstance(first.value, str):
                continue
            keywords = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
            # The recorder's own method has keywords that are no fields; it takes those as a dictionary.
            yield first.value, keywords if name == "log" else set[str](), f"{path}:{node.lineno}"


def test_every_event_that_is_emitted_is_in_the_manifest() -> None:
    unknown = [(name, where) for name, _, where in emitted() if name not in MANIFEST]
    assert unknown == []


def test_every_event_in_the_manifest_is_emitted() -> None:
    assert set(MANIFEST) - {name for name, _, _ in emitted()} == set()


def test_every_field_that_is_emitted_is_in_the_manifest() -> None:
    unknown = [
        (name, keywords - set(MANIFEST[name].fields) - NOT_FIELDS - {OPEN_FIELD}, where)
        for name, keywords, where in emitted()
        if keywords - set(MANIFEST[name].fields) - NOT_FIELDS - {OPEN_FIELD}
    ]
    assert unknown == []


def test_no_event_has_a_field_that_every_event_has() -> None:
    assert [name for name, kind in MANIFEST.items() if set(kind.fields) & set(COMMON)] == []


def test_what_begins_ends() -> None:
    begins = [name for name, kind in MANIFEST.items() if kind.phase == "B"]
    ends = [name for name, kind in MANIFEST.items() if kind.phase == "E"]
    assert begins == ["flt.pre.enter", "flt.post.enter", "apc.enter"]
    assert ends == [name.replace("enter", "return") for name in begins]


def test_causes_are_events() -> None:
    assert set(CAUSES) <= set(MANIFEST)
    assert {name for _, names in CAUSES.values() for name in names} <= set(MANIFEST)
