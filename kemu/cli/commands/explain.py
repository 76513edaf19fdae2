"""``kemu explain``: what a finding means, how it comes about, and what Windows would do."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from kemu.cli import options as opt
from kemu.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from kemu.verifier import Rule

WIDTH = 100


@click.command(name="explain")
@click.argument("code", required=False)
@opt.json_option
@opt.quiet_option("Print the title only.")
def command(code: str | None, as_json: bool, quiet: bool) -> int:
    """Explain a finding: how it comes about, an example, the rules behind it, and what Windows would do.

    CODE is a finding's, such as ke.self-deadlock, a rule's, such as KE-WAIT-05, or a bug check's number, such as 0xC4.
    Without it, every finding is listed.
    """
    from kemu.cli.console import Console
    from kemu.cli.jsonout import dump
    from kemu.verifier import CATALOGUE

    console = Console(as_json=as_json, quiet=quiet)
    found = list(CATALOGUE.values()) if code is None else matching(code)
    if as_json:
        console.json(dump("explain", {"exit_code": EXIT_OK, "findings": [as_object(rule) for rule in found]}))
    elif code is None or quiet or len(found) > 1:
        console.print(f"{rule.code:<32} {rule.title}" for rule in found)
    else:
        console.print(explanation_lines(found[0]))
    return EXIT_OK


def matching(code: str) -> list[Rule]:
    """The findings that *code* stands for. Raises `UsageError` if there are none."""
    from kemu.verifier import CATALOGUE
    from kemu.verifier.rules import words_of_rules

    if code in CATALOGUE:
        return [CATALOGUE[code]]
    rule = code.upper()
    found = [one for one in CATALOGUE.values() if rule in one.rules]
    if not found and code[:2].lower() == "0x":
        found = [one for one in CATALOGUE.values() if _stops_with(one, code)]
    if found:
        return found
    if rule in words_of_rules():
        raise UsageError(
            f"no finding reports a violation of {rule}: {words_of_rules()[rule]}",
            remedy="see docs/reference/conformance.md",
        )
    nearest = get_close_matches(code, CATALOGUE, n=1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise UsageError(f"{code!r} is no finding, rule or bug check", remedy=f"{hint}kemu explain lists every finding")


def _stops_with(rule: Rule, code: str) -> bool:
    try:
        number = int(code, 16)
    except ValueError:
        return False
    return any(stop is not None and int(stop.code) == number for stop in (rule.bug_check, rule.verifier))


def as_object(rule: Rule) -> dict[str, Any]:
    """*rule* for ``--json``."""
    from kemu.verifier.explanations import explanations
    from kemu.verifier.settings import class_of

    known = explanations().get(rule.code)
    return {
        "code": rule.code,
        "severity": rule.severity,
        "title": rule.title,
        "rules": list(rule.rules),
        "bug_check": _stop(rule.bug_check),
        "verifier": _stop(rule.verifier),
        "rule_class": class_of(rule),
        "cause": known.cause if known is not None else "",
        "example": known.example if known is not None else "",
        "page": known.page if known is not None else "",
    }


def explanation_lines(rule: Rule) -> Iterator[str]:
    """All that is known of *rule*, for a person."""
    from kemu.cli.report import wrap
    from kemu.verifier.explanations import explanations
    from kemu.verifier.rules import words_of_rules
    from kemu.verifier.settings import CLASSES, class_of

    yield f"{rule.code} ({rule.severity}): {rule.title}"
    known = explanations().get(rule.code)
    if known is not None:
        yield ""
        yield from wrap(" ".join(known.cause.split()), most=12)
        if known.example:
            yield ""
            yield from (f"      {line}".rstrip() for line in known.example.splitlines())
    yield ""
    yield f"  Windows: {_stop(rule.bug_check) or 'no bug check of its own'}"
    number = class_of(rule)
    if rule.verifier is not None or number is not None:
        named = next((f"{one.number} {one.name}" for one in CLASSES if one.number == number), "")
        switch = f" (rule class {named})" if named else ""
        yield f"  Driver Verifier: {_stop(rule.verifier) or 'watches this'}{switch}"
    words = words_of_rules()
    for one in rule.rules:
        yield f"  {one}: {words[one]}" if one in words else f"  {one}"
    if known is not None and known.page:
        yield f'  WDK: "{known.page}"'


def _stop(stop: Any) -> str:
    return str(stop).removesuffix(f": {stop.text}") if stop is not None else ""
