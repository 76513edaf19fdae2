"""Driver Verifier's rule classes, and what becomes of a violation."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType

import pytest
from fltmgr.kit import Lab, Run, run

from kemu.errors import UsageError
from kemu.nt.bugcheck import BAD_POOL_CALLER, DRIVER_VERIFIER_DETECTED_VIOLATION, BugCheck
from kemu.verifier import CATALOGUE, ERROR, ending, waits
from kemu.verifier.settings import ALWAYS, CLASSES, FINAL, NO_CLASS, VerifierSettings, class_of, parse_settings
from kemu.wdk.wdm import PASSIVE_LEVEL, KeLowerIrql

REFERENCE = "ob.under-reference"
LEAK = "ob.user-visible-handle"


def reported(code: str, settings: str | None, *violations: str, bug_check: BugCheck | None = None) -> Run:
    """A run that breaks the rule of *code* twice under *settings*."""

    async def script(lab: Lab) -> str:
        lab.verifier.settings = parse_settings(settings, violations)
        for number in range(2):
            lab.system.report(code, f"this happened, {number}", bug_check)
        return "went on"

    return run(script)


@pytest.mark.rule("KE-VER-01")
def test_the_classes_have_driver_verifiers_numbers() -> None:
    assert {one.number: one.name for one in CLASSES} == {
        1: "special-pool",
        2: "force-irql",
        4: "pool-tracking",
        5: "io",
        6: "deadlock",
        9: "security",
        12: "miscellaneous",
        18: "ddi",
        37: "file-system-filter",
    }


@pytest.mark.rule("KE-VER-01")
@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("ke.pool-zero-bytes", 1),
        ("ke.irql", 2),
        ("ke.pool-leak", 4),
        ("ke.spin-forbidden-call", 6),
        ("ob.user-handle-as-kernel", 9),
        ("ke.work-requeued", 12),
        ("pend-double-complete", 37),
        ("ke.hang", None),
        ("invariant", None),
        ("ke.use-after-free", 1),
        ("ke.apc-io-deadlock", 5),
        ("ke.device-attached", 5),
        ("ke.user-unprobed", 9),
    ],
)
def test_a_finding_belongs_to_a_class_or_to_none(code: str, number: int | None) -> None:
    assert class_of(CATALOGUE[code]) == number


def test_every_finding_is_of_a_class_or_always_watched() -> None:
    assert sorted(code for code, rule in CATALOGUE.items() if class_of(rule) is None and code not in ALWAYS) == []


def test_what_is_always_watched_is_an_error_of_the_catalogue() -> None:
    assert sorted(code for code in ALWAYS if code not in CATALOGUE or CATALOGUE[code].severity != ERROR) == []
    assert [code for code in NO_CLASS if class_of(CATALOGUE[code]) is not None] == []


@pytest.mark.parametrize("module", [ending, waits])
def test_what_the_end_of_a_run_amounts_to_is_always_watched(module: ModuleType) -> None:
    # Nobody asks the settings there: the run is over, whatever they say.
    words = {node.value for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Constant)}
    codes = {word for word in words if word in CATALOGUE}
    assert codes
    assert sorted(code for code in codes if code not in FINAL and CATALOGUE[code].bug_check is None) == []


@pytest.mark.rule("KE-VER-01")
def test_what_damages_any_windows_has_driver_verifiers_stop_only_where_it_looks() -> None:
    verifier = CATALOGUE["ke.use-after-free"].verifier
    assert verifier is not None
    assert reported("ke.use-after-free", "special-pool").finding.bug_check == verifier
    unseen = reported("ke.use-after-free", "none").finding
    assert (unseen.code, unseen.bug_check, unseen.verifier) == ("ke.use-after-free", None, None)


def test_what_damages_any_windows_may_be_ignored_by_name() -> None:
    assert reported("ke.lock-not-owned", "none").code == "ke.lock-not-owned"
    assert reported("ke.lock-not-owned", "none", "ke.lock-not-owned=ignore").result == "went on"


def test_a_level_that_was_not_raised_can_be_lowered_where_nobody_looks() -> None:
    async def script(lab: Lab) -> str:
        lab.verifier.settings = parse_settings("none")
        KeLowerIrql(PASSIVE_LEVEL)
        return "went on"

    assert run(script).result == "went on"


def test_without_settings_every_rule_is_watched() -> None:
    assert reported(LEAK, None).code == LEAK
    assert reported("ke.hang", None).code == "ke.hang"


@pytest.mark.rule("KE-VER-01")
@pytest.mark.parametrize(
    ("settings", "code"),
    [("standard", LEAK), ("9", LEAK), ("security", LEAK), ("6,security", LEAK), ("6", None), ("none", None)],
)
def test_a_rule_is_watched_if_its_class_is_on(settings: str, code: str | None) -> None:
    one = reported(LEAK, settings)
    assert one.code == code
    assert one.warnings == ()


@pytest.mark.rule("KE-VER-01")
@pytest.mark.parametrize("settings", ["none", "37"])
def test_what_stops_any_windows_and_what_goes_wrong_anyway_is_watched_always(settings: str) -> None:
    assert reported("ke.double-free", settings).code == "ke.double-free"
    assert reported("ke.hang", settings).code == "ke.hang"


@pytest.mark.rule("KE-VER-01")
def test_the_stop_is_that_of_the_system_that_the_settings_describe() -> None:
    plain, verified = CATALOGUE[REFERENCE].bug_check, CATALOGUE[REFERENCE].verifier
    assert plain is not None
    assert verified is not None

    def stops(settings: str | None) -> tuple[BugCheck | None, BugCheck | None]:
        found = reported(REFERENCE, settings).finding
        return found.bug_check, found.verifier

    assert stops(None) == (plain, verified)
    assert stops("none") == (plain, None)
    assert stops("12") == (verified, None)
    # A class without a stop of its own leaves the system's.
    special = BugCheck(BAD_POOL_CALLER, (7, 1), "a block was freed twice")
    found = reported("ke.double-free", "1", bug_check=special).finding
    assert (found.bug_check, found.verifier) == (special, None)


@pytest.mark.rule("KE-VER-02")
@pytest.mark.parametrize(
    ("action", "code", "warnings", "result"),
    [
        ("break", LEAK, (), None),
        ("ignore", None, (LEAK, LEAK), "went on"),
        ("zap", None, (), "went on"),
        ("remove", None, (), "went on"),
    ],
)
def test_a_violation_breaks_or_is_ignored_zapped_or_removed(
    action: str, code: str | None, warnings: tuple[str, ...], result: str | None
) -> None:
    one = reported(LEAK, None, f"{LEAK}={action}")
    assert (one.code, one.warnings, one.result) == (code, warnings, result)


@pytest.mark.rule("KE-VER-02")
@pytest.mark.parametrize(("action", "logged"), [("ignore", 2), ("zap", 2), ("remove", 0)])
def test_what_is_zapped_is_in_the_trace_and_what_is_removed_is_not(action: str, logged: int) -> None:
    events: list[str] = []

    def log(event: str, /, **fields: object) -> int:
        events.append(event)
        return len(events)

    async def script(lab: Lab) -> None:
        lab.verifier.settings = parse_settings(None, [f"{LEAK}={action}"])
        lab.runtime.log = log
        for number in range(2):
            lab.system.report(LEAK, f"{number}")
        lab.runtime.log = None

    run(script)
    assert events.count("check.violation") == logged


def test_settings_are_one_line_that_means_the_same() -> None:
    settings = parse_settings("security,6", ["ob.user-visible-handle=zap", "ke.irql=ignore"])
    assert settings.text == "6,9 ke.irql=ignore ob.user-visible-handle=zap"
    assert parse_settings(settings.text) == settings
    assert parse_settings("none").text == "none"
    assert parse_settings("ke.irql=zap").text == "ke.irql=zap"
    assert parse_settings(None) == VerifierSettings()
    assert parse_settings(None).text == ""


@pytest.mark.parametrize(
    ("text", "violation", "message"),
    [
        ("dedlock", None, r"'dedlock' is no rule class.*did you mean deadlock"),
        ("3", None, r"'3' is no rule class.*4 pool-tracking"),
        (None, "ke.irqls=zap", r"'ke.irqls' is no finding.*did you mean ke.irql"),
        (None, "ke.irql=zip", r"ke.irql=zip: 'zip' is no action.*did you mean zap"),
        (None, "ke.irql", r"ke.irql=: '' is no action"),
        (None, "ke.double-free=zap", r"ke.double-free cannot be told to do anything but break: it stops any Windows"),
        (None, "ke.hang=zap", r"ke.hang cannot be told .* no matter of settings"),
    ],
)
def test_wrong_settings_are_named_with_a_remedy(text: str | None, violation: str | None, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_settings(text, [] if violation is None else [violation])
    import re

    assert re.search(message, f"{caught.value.message} {caught.value.remedy}")


def test_driver_verifiers_bug_checks_are_its_own() -> None:
    codes = {int(rule.verifier.code) for rule in CATALOGUE.values() if rule.verifier is not None}
    assert int(DRIVER_VERIFIER_DETECTED_VIOLATION) in codes
