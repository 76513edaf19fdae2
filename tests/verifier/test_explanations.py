"""What is said about findings beyond their titles."""

from __future__ import annotations

import ast
import inspect

import pytest

from kemu.verifier import CATALOGUE
from kemu.verifier.explanations import explanations, page_of
from kemu.verifier.rules import words_of_rules
from kemu.wdk import fltkernel, ntddk, ntifs, wdm

ROUTINES: dict[str, object] = {
    name: vars(header)[name] for header in (wdm, ntddk, ntifs, fltkernel) for name in header.__all__
}


def test_every_finding_is_explained_and_nothing_else() -> None:
    assert sorted(explanations()) == sorted(CATALOGUE)


@pytest.mark.parametrize("code", CATALOGUE)
def test_an_explanation_is_complete(code: str) -> None:
    one = explanations()[code]
    assert len(one.cause.split()) >= 5
    assert one.cause.endswith(".")
    assert one.page or code in {"expectation", "invariant", "ke.step-limit"}
    assert one.example
    assert max(map(len, one.example.splitlines())) <= 100


def tree(code: str) -> ast.Module:
    """The example of *code*, which stands inside some routine of a driver."""
    lines = explanations()[code].example.splitlines()
    return ast.parse("async def routine():\n" + "\n".join(f"    {line}" for line in lines))


NOT_EMULATED = {"NtReadFile", "ZwReadFile"}


@pytest.mark.parametrize("code", CATALOGUE)
def test_an_example_calls_what_there_is_as_it_is_declared(code: str) -> None:
    example = tree(code)
    awaited = {node.value for node in ast.walk(example) if isinstance(node, ast.Await)}
    for call in ast.walk(example):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            continue
        name = call.func.id
        if name[0].islower() or name in NOT_EMULATED:
            continue
        routine = ROUTINES[name]
        if inspect.isfunction(routine):
            inspect.signature(routine).bind(*call.args, **{str(one.arg): one.value for one in call.keywords})
            assert inspect.iscoroutinefunction(inspect.unwrap(routine)) is (call in awaited), name


def test_what_counts_as_not_emulated_is_not() -> None:
    assert NOT_EMULATED.isdisjoint(ROUTINES)


def test_every_finding_that_windows_knows_has_a_page() -> None:
    assert [code for code, rule in CATALOGUE.items() if not page_of(rule) and rule.rules] == []


def test_rules_are_told_in_a_line() -> None:
    assert words_of_rules()["KE-SPIN-05"] == "Spin locks are not recursive"
    assert all(words and not words.endswith(".") for words in words_of_rules().values())
