"""What the catalogue consists of."""

from __future__ import annotations

from dataclasses import dataclass

from kemu.nt.bugcheck import BugCheck, BugCheckCode

ERROR = "error"
WARNING = "warning"
INFO = "info"


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of finding.

    `bug_check` is what an unverified Windows would stop with, `verifier` what it would with Driver Verifier on, if that
    notices more or says something else. Without either Windows hangs, goes on with damaged data, or says nothing.
    """

    code: str
    title: str
    rules: tuple[str, ...]
    severity: str = ERROR
    bug_check: BugCheck | None = None
    verifier: BugCheck | None = None


CATALOGUE: dict[str, Rule] = {}

Stop = tuple[BugCheckCode, int]


def declare(
    code: str,
    title: str,
    *rules: str,
    severity: str = ERROR,
    stop: Stop | None = None,
    verifier: Stop | None = None,
) -> None:
    """Add a finding to the catalogue; *stop* and *verifier* are bug checks with their first parameters.

    Parameters that differ from case to case are given where the finding is reported.
    """
    if code in CATALOGUE:
        raise ValueError(f"finding {code!r} is declared twice")

    def bug_check(given: Stop | None) -> BugCheck | None:
        return BugCheck(given[0], (given[1],), title) if given is not None else None

    CATALOGUE[code] = Rule(code, title, rules, severity, bug_check(stop), bug_check(verifier))
