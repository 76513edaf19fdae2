"""What all lock routines have in common: bad pointers, words for traces, what is logged."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, run
from locking import EXCLUSIVE, SHARED, STARVING, Maker, S, X, nest, resource

import kemu.wdk.fltkernel
import kemu.wdk.wdm
from kemu.nt.kthread import current_kthread
from kemu.nt.routine import REGISTRY, Routine
from kemu.nt.rundown import RundownProtection
from kemu.nt.system import current_system
from kemu.runtime import Cell, Thread
from kemu.verifier.settings import parse_settings
from kemu.wdk.wdm import EX_RUNDOWN_REF, EX_RUNDOWN_REF_CACHE_AWARE, KEVENT

MODULES = (
    "kemu.nt.spinlock",
    "kemu.nt.queuedlock",
    "kemu.nt.exspinlock",
    "kemu.nt.fastmutex",
    "kemu.nt.pushlock",
    "kemu.nt.resource",
    "kemu.nt.rundown",
    "kemu.io.removelock",
    "kemu.fltmgr.pushlock",
)
TAKES_A_LOCK = [
    one
    for one in REGISTRY.values()
    if one.function.__module__ in MODULES
    and any(not parameter.is_output for parameter in one.parameters)
    and one.name != "ExAllocateCacheAwareRundownProtection"
]


def call(one: Routine, first: Any) -> Any:
    """Call with *first* and something for the rest, at a level where that is allowed."""
    header = kemu.wdk.fltkernel if one.header == "fltkernel" else kemu.wdk.wdm
    rest = [0 for parameter in one.parameters if not parameter.is_output][1:]
    current_kthread().irql = one.min_irql
    return getattr(header, one.name)(first, *rest)


@pytest.mark.parametrize("one", TAKES_A_LOCK, ids=lambda one: one.name)
@pytest.mark.parametrize("what", ["NULL", "an event", "a number"])
def test_a_pointer_to_something_else_is_a_finding(one: Routine, what: str) -> None:
    async def script(lab: Lab) -> None:
        bad: Any = {"NULL": None, "an event": KEVENT("E"), "a number": 7}[what]
        result = call(one, bad)
        if one.is_awaited:
            await result

    found = run(script)
    assert found.code == "ke.bad-pointer"
    assert one.name in found.finding.detail


@pytest.mark.parametrize("one", TAKES_A_LOCK, ids=lambda one: one.name)
def test_a_lock_in_freed_memory_is_a_finding(one: Routine) -> None:
    async def script(lab: Lab) -> None:
        parameter = next(iter(one.function.__annotations__))
        kind = {**vars(kemu.wdk.wdm), "RundownProtection": RundownProtection}[one.function.__annotations__[parameter]]
        lock: Cell = kind("stale")
        current_system().freed[lock] = "freed by nobody"
        result = call(one, lock)
        if one.is_awaited:
            await result

    found = run(script)
    assert found.code == "ke.use-after-free"
    assert "stale, freed by nobody" in found.finding.detail


class Words:
    """Notes what each step is called and what it is declared on."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def before_step(self, thread: Thread | None, pick: int, alternatives: int) -> None:
        if thread is not None:
            target = thread.op.target()
            self.seen.append((thread.op.describe(), "" if target is None else target.label))

    def chose(self, value: int, alternatives: int, label: str) -> None: ...

    def after_step(self, thread: Thread | None) -> None: ...


def told(makers: dict[str, Maker], *modes: str) -> tuple[list[tuple[str, str]], list[str]]:
    """The steps of one thread that takes a lock in *modes*, and what was logged of them."""
    words, logged = Words(), list[str]()
    inner = nest(makers, [[[("L", mode)] for mode in modes]])

    async def script(lab: Lab) -> None:
        def log(event: str, /, *, cause: int | None = None, **fields: Any) -> int:
            if event.startswith("sync."):
                logged.append(f"{event} {fields['obj'].label}")
            return 0

        lab.runtime.log = log
        await inner(lab)

    assert run(script, observer=words).code is None
    return [one for one in words.seen if one[1] in {"L", "cancel spin lock"}], logged


@pytest.mark.parametrize("kind", [*EXCLUSIVE, *SHARED])
def test_what_a_step_is_called_and_what_is_logged(kind: Maker) -> None:
    steps, logged = told({"L": kind}, X)
    label = steps[0][1]
    assert steps == [(f"acquire {label}", label), (f"release {label}", label)]
    assert logged == [f"sync.acquire {label}", f"sync.release {label}"]


@pytest.mark.parametrize("kind", SHARED)
def test_sharing_is_called_so(kind: Maker) -> None:
    steps, logged = told({"L": kind}, S)
    assert steps == [("acquire shared L", "L"), ("release L", "L")]
    assert logged == ["sync.acquire L", "sync.release L"]


def test_starving_is_sharing() -> None:
    assert told({"L": resource}, STARVING)[0][0] == ("acquire shared L", "L")


WRONG = [one for one in TAKES_A_LOCK if one.is_awaited and ("Release" in one.name or "Convert" in one.name)]

PASSING = (
    "ke.eresource-apc",
    "ke.fmutex-mix",
    "ke.irql",
    "ke.irql-nesting",
    "ke.lock-mode",
    "ke.lock-not-owned",
    "ke.pushlock-apc",
    "ke.region-balance",
    "ke.remlock-underflow",
    "ke.rundown-underflow",
)


@pytest.mark.parametrize("one", WRONG, ids=lambda one: one.name)
def test_what_the_settings_let_pass_goes_on(one: Routine) -> None:
    """A release of what nobody holds, where the verifier's settings say that this is no matter."""

    async def script(lab: Lab) -> None:
        lab.verifier.settings = parse_settings(None, [f"{code}=ignore" for code in PASSING])
        parameter = next(iter(one.function.__annotations__))
        rundown = EX_RUNDOWN_REF_CACHE_AWARE if "CacheAware" in one.name else EX_RUNDOWN_REF
        kind = {**vars(kemu.wdk.wdm), "RundownProtection": rundown}[one.function.__annotations__[parameter]]
        lock: Any = kind("free")
        if hasattr(lock, "initialised"):
            lock.initialised = True
        await call(one, lock)

    assert run(script).code is None
