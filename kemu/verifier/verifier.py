"""Turns reports of broken rules into findings, and what is left at the end of a run as well."""

from __future__ import annotations

from dataclasses import replace

from kemu.errors import InternalError
from kemu.nt.bugcheck import BugCheck
from kemu.runtime import Runtime
from kemu.runtime.thread import current
from kemu.verifier.catalogue import CATALOGUE, WARNING
from kemu.verifier.finding import Finding


class Verifier:
    """The sink for all reports of one run."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.advisories: list[Finding] = []

    def report(self, code: str, detail: str, bug_check: BugCheck | None = None, subject: str = "") -> None:
        """Note a broken rule; an error ends the run, and then this does not return."""
        finding = self.finding(code, detail, bug_check, subject)
        log = self.runtime.log
        if log is not None:
            log("check.violation", check=code, sev=finding.severity, detail=detail)
        if finding.severity == WARNING:
            if finding not in self.advisories:
                self.advisories.append(finding)
            return
        self.runtime.stop(finding)

    def finding(self, code: str, detail: str, bug_check: BugCheck | None = None, subject: str = "") -> Finding:
        """Make a finding of *code*; its signature tells it from findings about another driver or *subject*."""
        rule = CATALOGUE.get(code)
        if rule is None:
            raise InternalError(f"the finding {code!r} is not in the catalogue")
        thread = current.get(None)
        actor = thread.actor if thread is not None else None
        actor_label = actor.label if actor is not None else ""
        chosen = bug_check if bug_check is not None else rule.bug_check
        if chosen is not None and not chosen.text:
            chosen = replace(chosen, text=rule.title)
        return Finding(
            code,
            rule.severity,
            rule.title,
            detail,
            rule.rules,
            chosen,
            thread.label if thread is not None else "",
            actor_label,
            self.runtime.clock.now,
            (code, subject or actor_label),
        )
