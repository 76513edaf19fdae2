"""Driver Verifier's rule classes as switches, and what becomes of a violation.

Without settings every rule is watched, and the first violation of one ends the run. With rule classes switched on, a
run shows what a system with these settings would: rules of other classes are not watched, unless breaking them stops
or damages any system. What is done about a violation follows the filter verifier's prompt: break, ignore, zap, remove.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from kemu.errors import UsageError
from kemu.verifier.catalogue import CATALOGUE, ERROR, Rule


@dataclass(frozen=True, slots=True)
class RuleClass:
    """One of Driver Verifier's rule classes: its number, a name, and what it watches."""

    number: int
    name: str
    title: str


SPECIAL_POOL: Final = 1
FORCE_IRQL: Final = 2
POOL_TRACKING: Final = 4
IO: Final = 5
DEADLOCK: Final = 6
SECURITY: Final = 9
MISCELLANEOUS: Final = 12
DDI: Final = 18
FILE_SYSTEM_FILTER: Final = 37

CLASSES: Final = (
    RuleClass(SPECIAL_POOL, "special-pool", "memory that is freed, or beyond an end, is not touched"),
    RuleClass(FORCE_IRQL, "force-irql", "levels are kept, and paged memory is not there at a raised one"),
    RuleClass(POOL_TRACKING, "pool-tracking", "what was allocated is given back before unload"),
    RuleClass(IO, "io", "IRPs, devices, cancellation and their queues"),
    RuleClass(DEADLOCK, "deadlock", "locks: their order and their use"),
    RuleClass(SECURITY, "security", "handles, and what user programs pass"),
    RuleClass(MISCELLANEOUS, "miscellaneous", "events, timers, DPCs, work items, threads, references"),
    RuleClass(DDI, "ddi", "the order of calls, and what goes with them"),
    RuleClass(FILE_SYSTEM_FILTER, "file-system-filter", "minifilters: what callbacks return, change and keep"),
)
"""The classes that watch rules. Those that make something happen instead are options of a scenario: low resources (3
and 19), forced pending (10); the trace is IRP logging (11), and exploring is what delay fuzzing (24) was meant for. All
of these belong to ``/standard``."""

_BY_NUMBER: Final = {one.number: one for one in CLASSES}
_BY_NAME: Final = {one.name: one for one in CLASSES}

_FAMILIES: Final = {
    "KE-IRQL": FORCE_IRQL, "KE-CTX": MISCELLANEOUS, "KE-APC": MISCELLANEOUS, "KE-WAIT": MISCELLANEOUS,
    "KE-EVENT": MISCELLANEOUS, "KE-MUTEX": DEADLOCK, "KE-FMUTEX": DEADLOCK, "KE-SEM": MISCELLANEOUS,
    "KE-TIMER": MISCELLANEOUS, "KE-DPC": MISCELLANEOUS, "KE-SPIN": DEADLOCK, "KE-RES": DEADLOCK, "KE-PUSH": DEADLOCK,
    "KE-RUNDOWN": DEADLOCK, "KE-WORK": MISCELLANEOUS, "KE-THREAD": MISCELLANEOUS, "KE-POOL": SPECIAL_POOL,
    "KE-LOOK": SPECIAL_POOL, "KE-IRP": IO, "KE-CANCEL": IO, "KE-CSQ": IO, "KE-REMLOCK": IO, "KE-REF": MISCELLANEOUS,
    "KE-UNLOAD": POOL_TRACKING, "KE-INTLK": DDI, "KE-LIST": DDI, "KE-DL": DEADLOCK, "KE-EXCB": DDI,
    "OB-HT": SECURITY, "OB-OBJ": MISCELLANEOUS,
}  # fmt: skip

_CODES: Final = {
    "ke.pool-leak": POOL_TRACKING, "ob.ref-leak": POOL_TRACKING, "ke.freed-elsewhere": IO, "ke.apc-io-deadlock": IO,
    "ke.device-attached": IO, "ke.device-double-detach": IO, "ke.device-double-delete": IO,
    "ke.user-unprobed": SECURITY, "ke.double-fetch": SECURITY, "ke.previous-mode": SECURITY,
    "ke.uninit-leak": SECURITY,
}  # fmt: skip
"""What another class watches than the one of its family."""

NO_CLASS: Final = frozenset(
    {
        "expectation", "invariant", "ke.data-race", "hand-off-race", "ke.mixed-atomic", "ke.dpc-context-race",
        "ke.deadlock", "ke.hang", "ke.lost-wakeup", "ke.apc-reentry", "ke.worker-starvation", "ke.step-limit",
        "ke.unhandled-exception", "ke.uninitialised", "ke.bad-pointer", "ke.list-corruption", "ke.slist-corruption",
        "ke.list-head-as-entry", "ke.rundown-ignored", "ke.rundown-underflow", "ke.callback-twice",
    }
)  # fmt: skip
"""What Driver Verifier does not look for: what a scenario states, and what goes wrong on any system unnoticed."""

FINAL: Final = frozenset(
    {
        "expectation", "invariant", "ke.data-race", "hand-off-race", "ke.unhandled-exception", "ke.uninitialised",
        "ke.bad-pointer", "ke.use-after-free", "ke.list-corruption", "mdl-map-null-unchecked", "ctx-use-after-release",
        # Nothing can go on: whatever the settings, that is where the run has come to.
        "ke.hang", "ke.deadlock", "ke.self-deadlock", "ke.lost-wakeup", "ke.worker-starvation", "ke.step-limit",
        "ke.apc-reentry", "ke.apc-io-deadlock", "ke.lock-leak", "ke.unload-hang", "ke.irp-orphan",
        "ke.irp-not-cancelable",
        "ke.cancel-lost", "ke.cancel-not-completed", "ke.cancel-flag-decision", "pend-never-completed",
        "postpend-never-completed", "cancel-lost", "cancel-not-completed", "unload-hang", "ref-leak", "teardown-hang",
        "ctx-leak", "postop-context-leak",
        "teardown-pended-pre", "teardown-pended-post", "pend-after-teardown-start", "cbdq-not-drained",
        "reentrant-deadlock", "io-on-unopened-file", "bad-redirect", "cbd-foreign-free", "cancel-foreign-io",
        "modwrite-apc-deadlock", "txn-not-completed",
        # What lies behind an exception, a use of freed memory, a race.
        "start-before-init", "unload-free-before-unregister", "teardown-reentrancy",
    }
)  # fmt: skip
"""What cannot be told to do anything but break."""

ALWAYS: Final = NO_CLASS | FINAL | frozenset(
    {
        # Memory is not what its owner takes it for.
        "ke.lookaside-uaf", "ke.overrun", "ke.freed-active", "ke.lookaside-foreign", "ke.lookaside-reinitialised",
        "workitem-double-free", "unload-foreign-callback", "ke.irp-information", "ke.irp-freed-in-use",
        "ke.irp-reused-in-use", "ke.own-irp-completed", "ke.mark-own-irp", "ke.csq-context", "ke.device-attached",
        "ke.device-double-delete",
        # A lock, a count or an operation has another state than those who rely on it believe.
        "ke.lock-not-owned", "ke.lock-mode", "ke.lock-freed", "ke.lockhandle-reuse", "ke.resource-not-deleted",
        "ke.remlock-ignored", "ke.remlock-underflow", "ref-underflow", "pend-double-complete",
        "postpend-double-complete", "cancel-double-complete",
        # Somebody accesses memory that is not there, or is somebody else's.
        "mdl-double-free", "mdl-foreign-free", "swap-inconsistent", "swap-too-small", "pend-unlocked-user-buffer",
        # What all filters share is written to by one.
        "name-modified", "namectrl-buffer-replaced",
        # Something is freed, or used, by two who each take it for theirs.
        "asyncio-cbd-race", "ecp-double-free",
        # A pointer to a port that is gone; a port that nobody can close any more; bytes that nobody has put there.
        "port-copy-race", "port-state-race", "port-overwritten", "port-timeout-as-success",
        # These hang.
        "unload-port-open", "lock-across-message",
        # What the I/O or the oplock package owns is used by somebody else at the same time.
        "nqo-fileobject-escape", "oplock-status-dropped",
        "use-after-unregister", "ref-missing", "ref-unchecked", "whensafe-status-ignored", "whensafe-false-ignored",
        "cbdq-context-lifetime",
    }
)  # fmt: skip
"""What is watched whatever the classes: what a scenario states, and what hangs or damages any system when it happens.

Not in here is what only may go wrong, such as locks in two orders, and what shows by its consequences, such as a level
that is not restored. What has a bug check of an unverified system is always watched anyway.
"""

VERIFIED_ONLY: Final = frozenset({"ke.fmutex-unsafe-level"})
"""What any Windows accepts and Driver Verifier does not: watched only where its class is switched on."""

ACTIONS: Final = ("break", "ignore", "zap", "remove")
"""End the run; note the violation and go on; leave it in the trace only; not even that."""


def class_of(rule: Rule) -> int | None:
    """The rule class that a finding belongs to; None for what Driver Verifier does not look for."""
    if rule.code in NO_CLASS:
        return None
    if rule.code in _CODES:
        return _CODES[rule.code]
    for one in rule.rules:
        family = one.rpartition("-")[0]
        if family.startswith("FLT-"):
            return FILE_SYSTEM_FILTER
        if family in _FAMILIES:
            return _FAMILIES[family]
    return None


@dataclass(frozen=True, slots=True)
class VerifierSettings:
    """Which rule classes are on, and what becomes of violations. All are on if `classes` is None."""

    classes: frozenset[int] | None = None
    actions: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """The settings in one line, the same for equal ones; "" for those that change nothing."""
        words = [f"{code}={action}" for code, action in self.actions]
        if self.classes is not None:
            words.insert(0, ",".join(map(str, sorted(self.classes))) or "none")
        return " ".join(words)

    def watches(self, rule: Rule) -> bool:
        """Whether a violation of *rule* shows on a system with these settings."""
        if rule.code in VERIFIED_ONLY:
            return self.is_verified(rule)
        if self.classes is None or rule.bug_check is not None or rule.code in ALWAYS:
            return True
        return class_of(rule) in self.classes

    def is_verified(self, rule: Rule) -> bool:
        """Whether it is Driver Verifier that notices a violation of *rule*, so that the stop is its own."""
        return self.classes is not None and class_of(rule) in self.classes

    def action(self, rule: Rule) -> str:
        """What becomes of a violation of *rule*."""
        return dict(self.actions).get(rule.code, "break")


DEFAULT: Final = VerifierSettings()


def parse_settings(text: str | None, violations: Iterable[str] = ()) -> VerifierSettings:
    """The settings that *text* (classes) and *violations* (``code=action``) stand for. Raises `UsageError`."""
    words = (text or "").split()
    classes = None
    if words and "=" not in words[0]:
        classes = _classes(words.pop(0))
    actions: dict[str, str] = {}
    for one in (*words, *violations):
        code, _, action = one.partition("=")
        actions[_known_code(code)] = _known_action(code, action)
    return VerifierSettings(classes, tuple(sorted(actions.items())))


def _classes(text: str) -> frozenset[int] | None:
    if text == "standard":
        return frozenset(_BY_NUMBER)
    if text == "none":
        return frozenset()
    return frozenset(_class(word) for word in text.split(","))


def _class(word: str) -> int:
    if word.isdigit() and int(word) in _BY_NUMBER:
        return int(word)
    if word in _BY_NAME:
        return _BY_NAME[word].number
    known = ", ".join(f"{one.number} {one.name}" for one in CLASSES)
    raise UsageError(
        f"{word!r} is no rule class",
        remedy=f"{_near(word, list(_BY_NAME))}give standard, none, or classes by number or name: {known}",
    )


def _known_code(code: str) -> str:
    rule = CATALOGUE.get(code)
    if rule is None:
        near = _near(code, list(CATALOGUE))
        raise UsageError(f"{code!r} is no finding", remedy=f"{near}kemu explain lists them")
    if rule.code in FINAL or rule.bug_check is not None:
        why = "stops any Windows" if rule.bug_check is not None else "is no matter of settings"
        raise UsageError(f"{code} cannot be told to do anything but break: it {why}", remedy="leave it out")
    return code


def _known_action(code: str, action: str) -> str:
    if action not in ACTIONS:
        near = _near(action, ACTIONS)
        raise UsageError(f"{code}={action}: {action!r} is no action", remedy=f"{near}give one of {', '.join(ACTIONS)}")
    return action


def _near(word: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {found[0]}? " if found else ""


def goes_on(rule: Rule, action: str) -> bool:
    """Whether a run goes on after a violation of *rule*."""
    return rule.severity != ERROR or action != "break"
