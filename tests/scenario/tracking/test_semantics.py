"""Rewritten code does what the code does: a table of snippets, each run plainly and in every other flavour."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
from scenario.tracking.kit import Files, accept_everything, once
from scenario.tracking.snippets import HEADER, SNIPPETS

from kemu.scenario.program import ScenarioProgram

COARSE = {
    "getattr hooks",
    "reflection",
    "generators",
    "augmented yield",
    "copying",
    "json",
    "match",
    "class bodies",
    "closures before assignment",
    "starred attribute",
    "star imports and modules",
}
"""Snippets with something that cannot be followed; all others are in a file of their own."""

FLAVOURS: dict[str, dict[str, Any]] = {
    "tracked": {"tracked": True},
    "statement": {"preempt": "statement"},
    "access": {"preempt": "access"},
}


def written(names: list[str]) -> str:
    """A file whose script runs the snippets in turn and returns what each returns or raises."""
    parts = [HEADER]
    for number, name in enumerate(names):
        body = textwrap.dedent(SNIPPETS[name]).strip("\n")
        parts.append(f"async def snippet_{number}(world):\n{textwrap.indent(body, '    ')}\n")
    calls = ", ".join(f"snippet_{number}" for number in range(len(names)))
    parts.append(f"""
@scenario
async def script(world):
    found = []
    for snippet in ({calls}):
        try:
            found.append(repr(await snippet(world)))
        except Exception as error:
            found.append(f"raised {{error!r}}")
    return found
""")
    return "\n".join(parts)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, str]]:
    """For each file and flavour what each snippet returned."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    with pytest.MonkeyPatch.context() as patch:
        # The loader refuses some of the snippets, such as those that change a global.
        accept_everything(patch)
        files = Files(tmp_path_factory.mktemp("snippets"))
        for file, names in {"followed": sorted(SNIPPETS.keys() - COARSE), "coarse": sorted(SNIPPETS)}.items():
            plain = files(written(names))
            assert [str(reason) for reason in plain.loaded.coarse] == [] or file == "coarse"
            for flavour, options in {"plain": {}, **FLAVOURS}.items():
                program = ScenarioProgram(plain.loaded, plain.scenario, plain.variant, **options)
                found[file, flavour] = dict(zip(names, once(program).result, strict=True))
    return found


Results = dict[tuple[str, str], dict[str, str]]


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("name", SNIPPETS)
def test_every_flavour_computes_the_same(results: Results, name: str, flavour: str) -> None:
    plain = results["coarse", "plain"][name]
    assert not plain.startswith("raised")
    assert plain != "None"
    assert results["coarse", flavour][name] == plain
    if name not in COARSE:
        assert results["followed", flavour][name] == results["followed", "plain"][name]
