"""What is said about findings beyond their titles."""

from __future__ import annotations

import ast

import pytest

from kemu.verifier import CATALOGUE
from kemu.verifier.explanations import explanations, page_of
from kemu.verifier.rules import words_of_rules


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


@pytest.mark.parametrize("code", CATALOGUE)
def test_an_example_is_code(code: str) -> None:
    # Examples stand inside some routine of a driver.
    lines = explanations()[code].example.splitlines()
    ast.parse("async def routine():\n" + "\n".join(f"    {line}" for line in lines))


def test_every_finding_that_windows_knows_has_a_page() -> None:
    assert [code for code, rule in CATALOGUE.items() if not page_of(rule) and rule.rules] == []


def test_rules_are_told_in_a_line() -> None:
    assert words_of_rules()["KE-SPIN-05"] == "Spin locks are not recursive"
    assert all(words and not words.endswith(".") for words in words_of_rules().values())
