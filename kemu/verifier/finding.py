"""A finding: one broken rule, seen once. A value, never an exception."""

from __future__ import annotations

from dataclasses import dataclass

from kemu.nt.bugcheck import BugCheck


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule.

    `title` is the rule in one sentence, `detail` what happened here. `thread` and `actor` say who was running,
    `vt` the virtual time in ticks of 100 ns, `bug_check` what Windows would stop with.
    """

    code: str
    severity: str
    title: str
    detail: str
    rules: tuple[str, ...]
    bug_check: BugCheck | None
    thread: str
    actor: str
    vt: int
    signature: tuple[str, ...]
    verifier: BugCheck | None = None
    """The bug check of a system that runs Driver Verifier, where it is another one."""

    @property
    def summary(self) -> str:
        """Code and sentence, for one line."""
        return f"{self.code}: {self.title}"
