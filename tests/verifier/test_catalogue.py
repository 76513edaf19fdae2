"""The catalogue lists exactly the findings that the code reports, and every entry is complete."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fltmgr.kit import Lab, run

import kemu
from kemu.errors import InternalError
from kemu.nt.bugcheck import BugCheck
from kemu.verifier import CATALOGUE, ERROR, INFO, WARNING, Finding

PACKAGE = Path(kemu.__file__).parent
CODE = re.compile(r"[a-z]+(?:[.-][a-z0-9]+)*")
RULE = re.compile(r"(?:KE|FLT|OB)-(?:[A-Z]+-)?[A-Z]+-\d\d")
REPORTING = {"Leftover", "_wrong_handle", "finding", "report"}
"""The functions whose first argument is the code of a finding."""


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def constants(node: ast.expr) -> Iterator[str]:
    """The strings that an expression may evaluate to, as far as it says."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from constants(node.body)
        yield from constants(node.orelse)


def reported() -> set[str]:
    """The codes that are passed to a reporting function, directly or through a variable called ``code``."""
    found: set[str] = set()
    for _, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args:
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in REPORTING:
                    found.update(constants(node.args[0]))
            elif isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["code"]:
                found.update(text for text in constants(node.value) if CODE.fullmatch(text))
    return found


def test_every_code_that_is_reported_is_in_the_catalogue_and_every_code_of_the_catalogue_is_reported() -> None:
    assert reported() == set(CATALOGUE)


@pytest.mark.parametrize("code", CATALOGUE)
def test_an_entry_is_complete(code: str) -> None:
    rule = CATALOGUE[code]
    assert rule.code == code
    assert CODE.fullmatch(code)
    assert rule.severity in {ERROR, INFO, WARNING}
    assert rule.title
    assert not rule.title.endswith(".")


@pytest.mark.parametrize("code", sorted(set(CATALOGUE) - {"invariant", "expectation"}))
def test_an_entry_names_rules_of_the_specification(code: str) -> None:
    rules = CATALOGUE[code].rules
    assert rules
    assert len(set(rules)) == len(rules)
    assert all(RULE.fullmatch(rule) for rule in rules)


NOT_ERRORS = {
    "disposition-race": WARNING,
    "name-stale": WARNING,
    "name-tunnel-unchecked": WARNING,
    "ke.thread-stop": WARNING,
    "ke.timer-dpc-shared": WARNING,
    "ke.timer-units": WARNING,
    "ke.work-leak": WARNING,
    "ke.work-long": WARNING,
    "ke.work-queue-type": WARNING,
    "disallow-fastio-status": WARNING,
    "ke.abandoned": WARNING,
    "ke.arbitrary-wait": WARNING,
    "ke.attached-io": WARNING,
    "ke.budget": WARNING,
    "ke.init-irql": INFO,
    "ke.pulse": WARNING,
    "ke.user-apc-loop": WARNING,
    "ke.wait-mode": INFO,
    "ke.wait-status": WARNING,
    "ob.bad-handle": WARNING,
    "ob.null-handle": WARNING,
    "ob.ref-leak": WARNING,
    "ke.rundown-suspend": WARNING,
    "ke.test-spin": WARNING,
    "ke.aba": WARNING,
    "ke.pool-deprecated": INFO,
    "ke.pool-executable": WARNING,
    "ke.uninit-leak": WARNING,
    "port-reply-size": WARNING,
    "port-wait-forever": WARNING,
    "port-zero-timeout": WARNING,
    "sync-on-create": WARNING,
    "postop-reads-own-change": WARNING,
    "status-snapshot-stale": WARNING,
    "workqueue-flood": WARNING,
    "altitude-outside-group": WARNING,
    "attach-at-altitude": WARNING,
    "shutdown-in-unload": WARNING,
    "teardown-slow": WARNING,
    "placeholder-io": WARNING,
    "byteoffset-race": WARNING,
    "redirect-unchecked": WARNING,
    "ctx-lost-update": WARNING,
    "fsfilter-acquire-failed": WARNING,
    "lock-fastio-fields": WARNING,
    "double-count": WARNING,
    "oplock-unchecked": WARNING,
    "toctou-state": WARNING,
    "cancel-unresponsive": WARNING,
}


def test_what_is_no_error_is_what_the_specification_makes_a_warning_or_a_remark() -> None:
    assert {code: rule.severity for code, rule in CATALOGUE.items() if rule.severity != ERROR} == NOT_ERRORS


def test_what_the_bug_check_says_is_the_rule_unless_there_is_more_to_say() -> None:
    for rule in CATALOGUE.values():
        assert rule.bug_check is None or rule.bug_check.text == rule.title


def made(code: str, **more: object) -> Finding:
    async def script(lab: Lab) -> Finding:
        return lab.verifier.finding(code, "this happened", **more)  # type: ignore[arg-type]

    return run(script).result


def test_a_finding_says_what_is_in_the_catalogue_and_what_happened() -> None:
    found = made("ke.double-free")
    rule = CATALOGUE["ke.double-free"]
    assert (found.code, found.title, found.rules, found.severity) == (rule.code, rule.title, rule.rules, ERROR)
    assert found.detail == "this happened"
    assert found.summary == f"ke.double-free: {rule.title}"
    assert (found.thread, found.actor, found.vt) == ("script", "", 0)
    assert found.bug_check == rule.bug_check


def test_two_findings_are_one_bug_if_code_and_subject_agree() -> None:
    assert made("ke.hang", subject="A").signature == made("ke.hang", subject="A").signature
    assert made("ke.hang", subject="A").signature != made("ke.hang", subject="B").signature
    assert made("ke.hang", subject="A").signature != made("ke.deadlock", subject="A").signature


def test_the_bug_check_of_an_occurrence_has_its_own_parameters_and_the_rules_words() -> None:
    rule = CATALOGUE["ke.double-free"]
    assert rule.bug_check is not None
    stop = BugCheck(rule.bug_check.code, (1, 2))
    found = made("ke.double-free", bug_check=stop)
    assert found.bug_check == BugCheck(stop.code, (1, 2), rule.title)


def test_a_code_that_is_not_in_the_catalogue_is_a_bug_of_kemu() -> None:
    with pytest.raises(InternalError, match=r"'ke\.typo' is not in the catalogue"):
        made("ke.typo")


def test_a_warning_is_noted_once_and_the_run_goes_on() -> None:
    async def script(lab: Lab) -> str:
        for _ in range(2):
            lab.system.report("sync-on-create", "this happened")
        return "went on"

    one = run(script)
    assert (one.code, one.result, one.warnings) == (None, "went on", ("sync-on-create",))


def test_an_error_ends_the_run_and_only_the_first_counts() -> None:
    async def script(lab: Lab) -> str:
        try:
            lab.system.report("ke.hang", "first")
        finally:
            lab.system.report("ke.deadlock", "second")
        return "went on"

    one = run(script)
    assert (one.code, one.result, one.finding.detail) == ("ke.hang", None, "first")
