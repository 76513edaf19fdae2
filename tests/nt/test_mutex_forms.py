"""The other forms of fast mutexes - unsafe and trying - and guarded mutexes: APCs, pairing, order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, codes, run

from kemu.nt.kthread import APC_LEVEL, PASSIVE_LEVEL, current_kthread
from kemu.wdk.ntddk import (
    KeEnterCriticalRegion,
    KeEnterGuardedRegion,
    KeLeaveGuardedRegion,
)
from kemu.wdk.wdm import (
    EX_PUSH_LOCK,
    FAST_MUTEX,
    KGUARDED_MUTEX,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_PAGED,
    ExAcquireFastMutex,
    ExAcquireFastMutexUnsafe,
    ExAcquirePushLockExclusive,
    ExAllocatePool2,
    ExInitializeFastMutex,
    ExInitializePushLock,
    ExReleaseFastMutex,
    ExReleaseFastMutexUnsafe,
    ExReleasePushLockExclusive,
    ExTryToAcquireFastMutex,
    KeAcquireGuardedMutex,
    KeAcquireGuardedMutexUnsafe,
    KeAreAllApcsDisabled,
    KeGetCurrentIrql,
    KeInitializeGuardedMutex,
    KeReleaseGuardedMutex,
    KeReleaseGuardedMutexUnsafe,
    KeTryToAcquireGuardedMutex,
    Structure,
    sizeof,
)

Call = Callable[[Any], Awaitable[Any]]


def fast(label: str = "mutex") -> FAST_MUTEX:
    mutex = FAST_MUTEX(label)
    ExInitializeFastMutex(mutex)
    return mutex


def guarded(label: str = "mutex") -> KGUARDED_MUTEX:
    mutex = KGUARDED_MUTEX(label)
    KeInitializeGuardedMutex(mutex)
    return mutex


FORMS: dict[str, tuple[Callable[[], Any], Call, Call]] = {
    "fast": (fast, ExAcquireFastMutex, ExReleaseFastMutex),
    "fast, tried": (fast, ExTryToAcquireFastMutex, ExReleaseFastMutex),
    "fast, unsafe": (fast, ExAcquireFastMutexUnsafe, ExReleaseFastMutexUnsafe),
    "guarded": (guarded, KeAcquireGuardedMutex, KeReleaseGuardedMutex),
    "guarded, tried": (guarded, KeTryToAcquireGuardedMutex, KeReleaseGuardedMutex),
    "guarded, unsafe": (guarded, KeAcquireGuardedMutexUnsafe, KeReleaseGuardedMutexUnsafe),
}


@pytest.mark.rule("KE-FMUTEX-01", "KE-FMUTEX-04", "KE-FMUTEX-06", "KE-FMUTEX-07", "KE-APC-03")
@pytest.mark.parametrize(
    ("form", "irql", "guards"),
    [
        ("fast", APC_LEVEL, 1),
        ("fast, tried", APC_LEVEL, 1),
        ("fast, unsafe", PASSIVE_LEVEL, 1),
        ("guarded", PASSIVE_LEVEL, 2),
        ("guarded, tried", PASSIVE_LEVEL, 2),
        ("guarded, unsafe", PASSIVE_LEVEL, 1),
    ],
)
def test_what_each_form_does_to_its_thread(form: str, irql: int, guards: int) -> None:
    make, acquire, release = FORMS[form]

    async def script(lab: Lab) -> list[Any]:
        thread, mutex = current_kthread(), make()
        KeEnterGuardedRegion()
        await acquire(mutex)
        came = [KeGetCurrentIrql(), thread.special_apc_disable, KeAreAllApcsDisabled()]
        await release(mutex)
        return [*came, KeGetCurrentIrql(), thread.special_apc_disable, thread.locks]

    one = run(script)
    assert (one.code, one.result) == (None, [irql, guards, True, PASSIVE_LEVEL, 1, []])


@pytest.mark.rule("KE-FMUTEX-06")
@pytest.mark.parametrize("form", [form for form in FORMS if "tried" not in form])
def test_at_most_one_thread_is_inside_in_every_run(form: str) -> None:
    make, acquire, release = FORMS[form]

    async def script(lab: Lab) -> None:
        mutex = make()
        inside: list[int] = []

        async def worker(number: int) -> None:
            KeEnterCriticalRegion()
            await acquire(mutex)
            inside.append(number)
            lab.check(inside == [number], "two threads are inside")
            await lab.step("inside")
            inside.remove(number)
            await release(mutex)
            lab.note(str(number))

        await lab.together(worker(0), worker(1))

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {tuple(one.order) for one in runs} == {("0", "1"), ("1", "0")}


@pytest.mark.rule("KE-FMUTEX-07")
@pytest.mark.parametrize("form", ["fast, tried", "guarded, tried"])
def test_trying_changes_nothing_if_somebody_owns_it(form: str) -> None:
    make, attempt, release = FORMS[form]

    async def script(lab: Lab) -> None:
        mutex = make()

        async def tries() -> None:
            thread = current_kthread()
            got = await attempt(mutex)
            lab.note(str(got))
            if got:
                await lab.step()
                await release(mutex)
            lab.check((thread.irql, thread.special_apc_disable, thread.locks) == (0, 0, []), "nothing is left")

        await lab.together(tries(), tries())

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {tuple(sorted(one.order)) for one in runs} == {("False", "True"), ("True", "True")}


@pytest.mark.rule("KE-FMUTEX-07")
@pytest.mark.parametrize("form", ["fast, tried", "guarded, tried"])
def test_the_owner_that_tries_is_refused(form: str) -> None:
    make, attempt, release = FORMS[form]

    async def script(lab: Lab) -> bool:
        mutex = make()
        assert await attempt(mutex)
        again = await attempt(mutex)
        await release(mutex)
        return again

    one = run(script)
    assert (one.code, one.result) == (None, False)


@pytest.mark.rule("KE-FMUTEX-03")
@pytest.mark.parametrize("form", [form for form in FORMS if "tried" not in form])
def test_the_owner_must_not_acquire_again(form: str) -> None:
    make, acquire, _ = FORMS[form]

    async def script(lab: Lab) -> None:
        mutex = make()
        KeEnterCriticalRegion()
        await acquire(mutex)
        await acquire(mutex)

    one = run(script)
    assert one.code == "ke.self-deadlock"
    # Windows hangs; Driver Verifier stops.
    assert one.finding.bug_check is None
    assert one.finding.verifier is not None
    assert one.finding.verifier.code == 0xBF


@pytest.mark.rule("KE-FMUTEX-04")
@pytest.mark.parametrize("form", ["fast, unsafe", "guarded, unsafe"])
@pytest.mark.parametrize("how", ["nothing", "critical", "guarded", "APC_LEVEL"])
@pytest.mark.parametrize("at", ["acquire", "release"])
def test_an_unsafe_form_needs_apcs_disabled(form: str, how: str, at: str) -> None:
    make, acquire, release = FORMS[form]

    async def script(lab: Lab) -> None:
        mutex, thread = make(), current_kthread()
        if at == "release":
            KeEnterGuardedRegion()
            await acquire(mutex)
            KeLeaveGuardedRegion()
        if how == "critical":
            KeEnterCriticalRegion()
        elif how == "guarded":
            KeEnterGuardedRegion()
        elif how == "APC_LEVEL":
            thread.irql = APC_LEVEL
        if at == "acquire":
            await acquire(mutex)
        await release(mutex)

    one = run(script)
    assert one.code == ("ke.irql" if how == "nothing" else None)
    if one.code:
        assert one.finding.verifier is not None
        assert one.finding.verifier.parameters == (0x39 if at == "acquire" else 0x3A, PASSIVE_LEVEL)


@pytest.mark.rule("KE-FMUTEX-05")
@pytest.mark.parametrize("kind", ["fast", "guarded"])
@pytest.mark.parametrize("unsafe_first", [True, False])
def test_safe_and_unsafe_do_not_mix(kind: str, unsafe_first: bool) -> None:
    make, acquire, release = FORMS[kind]
    _, acquire_unsafe, release_unsafe = FORMS[f"{kind}, unsafe"]

    async def script(lab: Lab) -> None:
        mutex = make()
        KeEnterCriticalRegion()
        if unsafe_first:
            await acquire_unsafe(mutex)
            current_kthread().irql = APC_LEVEL
            await release(mutex)
        else:
            await acquire(mutex)
            await release_unsafe(mutex)

    one = run(script)
    assert one.code == "ke.fmutex-mix"


@pytest.mark.rule("KE-FMUTEX-02", "KE-DL-03")
@pytest.mark.parametrize(("form", "found"), [("fast", True), ("guarded", True), ("fast, unsafe", False)])
def test_the_order_of_releases_matters_where_each_restores_what_it_found(form: str, found: bool) -> None:
    make, acquire, release = FORMS[form]

    async def script(lab: Lab) -> None:
        first, second = make(), make()
        KeEnterCriticalRegion()
        await acquire(first)
        await acquire(second)
        await release(first)
        await release(second)

    one = run(script)
    assert one.code == ("ke.lock-release-order" if found else None)
    if found:
        assert one.finding.verifier is not None
        assert one.finding.verifier.parameters == (0x1003,)


@pytest.mark.rule("KE-FMUTEX-02")
@pytest.mark.parametrize("form", [form for form in FORMS if "tried" not in form])
@pytest.mark.parametrize("owned", [True, False])
def test_only_the_owner_releases(form: str, owned: bool) -> None:
    make, acquire, release = FORMS[form]

    async def script(lab: Lab) -> None:
        mutex = make()

        async def owner() -> None:
            KeEnterCriticalRegion()
            await acquire(mutex)

        if owned:
            await lab.together(owner())
        KeEnterCriticalRegion()
        current_kthread().irql = APC_LEVEL
        await release(mutex)

    one = run(script)
    assert one.code == "ke.lock-not-owned"
    assert one.finding.verifier is not None
    assert one.finding.verifier.parameters == (0x1004 if owned else 0x1007,)


@pytest.mark.rule("KE-FMUTEX-02")
@pytest.mark.parametrize(("at", "what"), [("acquire", 0x33), ("release", 0x34)])
def test_the_verifier_names_what_is_off_its_level(at: str, what: int) -> None:
    async def script(lab: Lab) -> None:
        mutex = fast()
        if at == "acquire":
            current_kthread().irql = 2
        await ExAcquireFastMutex(mutex)
        current_kthread().irql = PASSIVE_LEVEL
        await ExReleaseFastMutex(mutex)

    one = run(script)
    assert one.code == "ke.irql"
    assert one.finding.verifier is not None
    assert one.finding.verifier.parameters[0] == what


@pytest.mark.rule("KE-FMUTEX-06", "KE-APC-06")
def test_the_guarded_region_is_left_by_the_release_and_not_before() -> None:
    async def script(lab: Lab) -> None:
        mutex = guarded()
        await KeAcquireGuardedMutex(mutex)
        KeLeaveGuardedRegion()
        await KeReleaseGuardedMutex(mutex)

    assert run(script).code == "ke.region-balance"


@pytest.mark.rule("KE-DL-03")
@pytest.mark.parametrize("again", [lambda: ExInitializeFastMutex(fast()), lambda: KeInitializeGuardedMutex(guarded())])
def test_a_mutex_is_initialised_once(again: Callable[[], None]) -> None:
    async def script(lab: Lab) -> None:
        again()

    assert run(script).code == "ke.lock-reinitialised"


@pytest.mark.rule("KE-DL-03")
@pytest.mark.parametrize("form", FORMS)
def test_a_mutex_is_used_after_initialisation_only(form: str) -> None:
    make, acquire, _ = FORMS[form]

    async def script(lab: Lab) -> None:
        KeEnterCriticalRegion()
        await acquire(type(make())("raw"))

    one = run(script)
    assert one.code == "ke.uninitialised"
    assert one.finding.verifier is not None
    assert one.finding.verifier.parameters == (0x1002,)


class HOLDER(Structure):
    Mutex: FAST_MUTEX
    PushLock: EX_PUSH_LOCK


@pytest.mark.rule("KE-FMUTEX-08", "KE-PUSH-01")
@pytest.mark.parametrize(("flags", "found"), [(POOL_FLAG_PAGED, True), (POOL_FLAG_NON_PAGED, False)])
def test_a_fast_mutex_lies_in_nonpaged_memory_and_a_push_lock_where_it_likes(flags: int, found: bool) -> None:
    async def script(lab: Lab) -> None:
        holder = await ExAllocatePool2(flags, sizeof(HOLDER), "Test")
        ExInitializePushLock(holder.PushLock)
        KeEnterCriticalRegion()
        await ExAcquirePushLockExclusive(holder.PushLock)
        await ExReleasePushLockExclusive(holder.PushLock)
        ExInitializeFastMutex(holder.Mutex)

    one = run(script)
    assert one.code == ("ke.pageable-sync" if found else None)
