"""Turns reports of broken rules into findings, and what is left at the end of a run as well."""

from __future__ import annotations

from dataclasses import replace

from kemu.errors import InternalError
from kemu.nt.bugcheck import BugCheck
from kemu.runtime import Runtime
from kemu.runtime.thread import current
from kemu.verifier.catalogue import CATALOGUE, ERROR, Rule
from kemu.verifier.finding import Finding


class Verifier:
    """The sink for all reports of one run."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.advisories: list[Finding] = []

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
        finding = self.finding(code, detail, bug_check, subject, verifier=verifier)
        log = self.runtime.log
        if log is not None:
            log("check.violation", check=code, sev=finding.severity, detail=detail)
        if finding.severity != ERROR:
            if finding not in self.advisories:
                self.advisories.append(finding)
            return
        self.runtime.stop(finding)

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
        return Finding(
            code,
            rule.severity,
            rule.title,
            detail,
            rule.rules,
            _worded(bug_check or rule.bug_check, rule),
            thread.label if thread is not None else "",
            actor_label,
            self.runtime.clock.now,
            (code, subject or actor_label),
            _worded(verifier or rule.verifier, rule),
        )


def _worded(bug_check: BugCheck | None, rule: Rule) -> BugCheck | None:
    """*bug_check*, which says in words what *rule* says unless it has words of its own."""
    if bug_check is None or bug_check.text:
        return bug_check
    return replace(bug_check, text=rule.title)
