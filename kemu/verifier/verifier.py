"""Turns reports of broken rules into findings, and what is left at the end of a run as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kemu.errors import InternalError
from kemu.nt.bugcheck import BugCheck
from kemu.runtime import Runtime
from kemu.runtime.thread import current
from kemu.verifier.catalogue import CATALOGUE, ERROR, Rule
from kemu.verifier.finding import Finding
from kemu.verifier.settings import DEFAULT, VERIFIED_ONLY, VerifierSettings, goes_on


class Verifier:
    """The sink for all reports of one run."""

    def __init__(self, runtime: Runtime, settings: VerifierSettings = DEFAULT) -> None:
        self.runtime = runtime
        self.settings = settings
        self.causes: list[Callable[[str, str], str]] = []
        """Each makes, of a code and what happened, the code of the reason behind it, or leaves it."""
        self.advisories: list[Finding] = []
        self.went_on: str | None = None
        """The code of the first error after which the run went on all the same."""

    def report(
        self,
        code: str,
        detail: str,
        bug_check: BugCheck | None = None,
        subject: str = "",
        *,
        verifier: BugCheck | None = None,
    ) -> None:
        """Note a broken rule; an error ends the run, and then this does not return."""
        for cause in self.causes:
            code = cause(code, detail)
        finding = self.finding(code, detail, bug_check, subject, verifier=verifier)
        rule = CATALOGUE[code]
        action = self.settings.action(rule)
        if action == "remove" or not self.settings.watches(rule):
            self._go_on(finding)
            return
        log = self.runtime.log
        if log is not None:
            log("check.violation", check=code, sev=finding.severity, detail=detail)
        if not goes_on(rule, action):
            self.runtime.stop(finding)
        self._go_on(finding)
        if action != "zap" and finding not in self.advisories:
            self.advisories.append(finding)

    def _go_on(self, finding: Finding) -> None:
        if finding.severity == ERROR and self.went_on is None and finding.code not in VERIFIED_ONLY:
            self.went_on = finding.code

    def finding(
        self,
        code: str,
        detail: str,
        bug_check: BugCheck | None = None,
        subject: str = "",
        *,
        verifier: BugCheck | None = None,
    ) -> Finding:
        """Make a finding of *code*; its signature tells it from findings about another driver or *subject*."""
        rule = CATALOGUE.get(code)
        if rule is None:
            raise InternalError(f"the finding {code!r} is not in the catalogue")
        thread = current.get(None)
        actor = thread.actor if thread is not None else None
        actor_label = actor.label if actor is not None else ""
        stop, verified = bug_check or rule.bug_check, verifier or rule.verifier
        if self.settings.classes is not None:
            # It is known which system this is: it has one way to stop.
            stop, verified = (verified or stop, None) if self.settings.is_verified(rule) else (stop, None)
        return Finding(
            code,
            rule.severity,
            rule.title,
            detail,
            rule.rules,
            _worded(stop, rule),
            thread.label if thread is not None else "",
            actor_label,
            self.runtime.clock.now,
            (code, subject or actor_label),
            _worded(verified, rule),
        )


def _worded(bug_check: BugCheck | None, rule: Rule) -> BugCheck | None:
    """*bug_check*, which says in words what *rule* says unless it has words of its own."""
    if bug_check is None or bug_check.text:
        return bug_check
    return replace(bug_check, text=rule.title)
