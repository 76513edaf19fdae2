"""Remove locks: who is let in, tags, the removal that waits, and how they are misused."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, run
from locking import reduced
from racing import Field

from kemu.io.removelock import IO_REMOVE_LOCK
from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread
from kemu.wdk.ntstatus import STATUS_DELETE_PENDING, STATUS_SUCCESS
from kemu.wdk.wdm import (
    KSPIN_LOCK,
    IoAcquireRemoveLock,
    IoInitializeRemoveLock,
    IoReleaseRemoveLock,
    IoReleaseRemoveLockAndWait,
    KeAcquireSpinLock,
    KeInitializeSpinLock,
)


def made(label: str = "RemoveLock") -> IO_REMOVE_LOCK:
    lock = IO_REMOVE_LOCK(label)
    IoInitializeRemoveLock(lock, "Test", 0, 0)
    return lock


@pytest.mark.rule("KE-REMLOCK-01")
def test_it_is_acquired_until_the_device_is_removed() -> None:
    async def script(lab: Lab) -> list[Any]:
        lock = made()
        came: list[Any] = [await IoAcquireRemoveLock(lock, "irp"), await IoAcquireRemoveLock(lock, "remove")]
        await IoReleaseRemoveLock(lock, "irp")
        await IoReleaseRemoveLockAndWait(lock, "remove")
        return [*came, await IoAcquireRemoveLock(lock, "late")]

    one = run(script)
    assert (one.code, one.result) == (None, [STATUS_SUCCESS, STATUS_SUCCESS, STATUS_DELETE_PENDING])


def requests_and_removal(count: int) -> Script:
    """Requests that use the device as long as they hold the lock, and its removal."""

    async def script(lab: Lab) -> None:
        lock = made()

        async def request() -> None:
            if await IoAcquireRemoveLock(lock, 1) == STATUS_SUCCESS:
                lab.note("used")
                await IoReleaseRemoveLock(lock, 1)
            else:
                lab.note("refused")

        async def removal() -> None:
            assert await IoAcquireRemoveLock(lock, 2) == STATUS_SUCCESS
            await IoReleaseRemoveLockAndWait(lock, 2)
            lab.note("removed")

        await lab.together(*(request() for _ in range(count)), removal())

    return script


@pytest.mark.rule("KE-REMLOCK-01", "KE-RACE-15")
def test_a_request_that_comes_too_late_fails_cleanly() -> None:
    runs = all_runs(requests_and_removal(1))
    assert codes(runs) == {None}
    assert {tuple(sorted(one.order)) for one in runs} == {("removed", "used"), ("refused", "removed")}
    assert all(one.before("used", "removed") for one in runs if "used" in one.order)


def test_requests_do_not_depend_on_each_other() -> None:
    async def script(lab: Lab) -> None:
        lock = made()

        async def request(tag: int) -> None:
            await IoAcquireRemoveLock(lock, tag)
            await IoReleaseRemoveLock(lock, tag)

        await lab.together(request(1), request(2), request(2))

    assert len(reduced(script)) == 1


@pytest.mark.rule("KE-ORD-04")
@pytest.mark.parametrize("waits", [True, False])
def test_what_requests_did_is_ordered_before_the_removal(waits: bool) -> None:
    async def script(lab: Lab) -> None:
        lock, field = made(), Field()

        async def request() -> None:
            if await IoAcquireRemoveLock(lock, 1) == STATUS_SUCCESS:
                field.store()
                await IoReleaseRemoveLock(lock, 1)

        async def removal() -> None:
            await IoAcquireRemoveLock(lock, 2)
            if waits:
                await IoReleaseRemoveLockAndWait(lock, 2)
            else:
                await IoReleaseRemoveLock(lock, 2)
            field.store()

        await lab.together(request(), removal())

    found = codes(all_runs(script, races=True))
    assert found == ({None} if waits else {"ke.data-race"})


# Tags.


@pytest.mark.rule("KE-REMLOCK-02")
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(
    ("acquired", "released", "code"),
    [
        ("a", "a", None),
        (None, None, None),
        (1, 1, None),
        ("a", "b", "ke.remlock-tag"),
        ("a", None, "ke.remlock-tag"),
        (1, True, "ke.remlock-tag"),
    ],
)
def test_a_release_gives_the_tag_of_an_acquisition(waits: bool, acquired: Any, released: Any, code: str | None) -> None:
    async def script(lab: Lab) -> None:
        lock = made()
        await IoAcquireRemoveLock(lock, acquired)
        await (IoReleaseRemoveLockAndWait if waits else IoReleaseRemoveLock)(lock, released)

    one = run(script)
    assert one.code == code
    if code is not None:
        assert one.finding.verifier is not None
        assert one.finding.verifier.parameters == (0xD6 if waits else 0xD5,)


@pytest.mark.rule("KE-REMLOCK-02")
def test_a_pointer_is_a_tag_by_its_identity() -> None:
    async def script(lab: Lab, same: bool) -> None:
        lock, one, other = made(), KSPIN_LOCK("one"), KSPIN_LOCK("other")
        await IoAcquireRemoveLock(lock, one)
        await IoReleaseRemoveLock(lock, one if same else other)

    assert run(lambda lab: script(lab, True)).code is None
    wrong = run(lambda lab: script(lab, False))
    assert wrong.code == "ke.remlock-tag"
    assert wrong.finding.detail.endswith("with tag other; it is acquired with one")


@pytest.mark.rule("KE-REMLOCK-02")
def test_any_thread_may_release_with_the_tag() -> None:
    async def script(lab: Lab) -> None:
        lock, request = made(), object()

        async def dispatch() -> None:
            await IoAcquireRemoveLock(lock, request)

        async def completion() -> None:
            current_kthread().irql = DISPATCH_LEVEL
            await IoReleaseRemoveLock(lock, request)
            current_kthread().irql = 0

        await lab.together(dispatch())
        await IoAcquireRemoveLock(lock, "remove")
        started = lab.start("completion", completion())
        await IoReleaseRemoveLockAndWait(lock, "remove")
        await started.join()

    assert codes(all_runs(script)) == {None}


# Misuse.


@pytest.mark.rule("KE-REMLOCK-01")
def test_there_are_as_many_releases_as_acquisitions() -> None:
    async def script(lab: Lab) -> None:
        lock = made()
        await IoAcquireRemoveLock(lock, 1)
        await IoReleaseRemoveLock(lock, 1)
        await IoReleaseRemoveLock(lock, 1)

    one = run(script)
    assert one.code == "ke.remlock-underflow"
    assert one.finding.verifier is not None
    assert one.finding.verifier.parameters == (0xD5,)


@pytest.mark.rule("KE-REMLOCK-01", "KE-RACE-15")
def test_who_was_refused_must_not_release() -> None:
    async def script(lab: Lab) -> None:
        lock = made()

        async def request() -> None:
            await IoAcquireRemoveLock(lock, 1)
            await IoReleaseRemoveLock(lock, 1)

        async def removal() -> None:
            await IoAcquireRemoveLock(lock, 2)
            await IoReleaseRemoveLockAndWait(lock, 2)

        await lab.together(request(), removal())

    runs = all_runs(script)
    assert codes(runs) == {None, "ke.remlock-ignored"}
    failed = next(one for one in runs if one.code)
    assert failed.finding.detail == (
        "IoReleaseRemoveLock: request releases RemoveLock with tag 1, whose acquisition failed"
    )


@pytest.mark.rule("KE-REMLOCK-03")
def test_a_second_acquisition_of_the_remover_is_waited_for_in_vain() -> None:
    async def script(lab: Lab) -> None:
        lock = made()
        await IoAcquireRemoveLock(lock, 1)
        await IoAcquireRemoveLock(lock, 2)
        await IoReleaseRemoveLockAndWait(lock, 2)

    one = run(script)
    assert one.code == "ke.self-deadlock"
    assert "held by script" in one.finding.detail


@pytest.mark.rule("KE-REMLOCK-03")
def test_a_removal_waits_at_passive_level_and_under_no_spin_lock() -> None:
    async def at_dispatch(lab: Lab) -> None:
        lock = made()
        current_kthread().irql = DISPATCH_LEVEL
        await IoReleaseRemoveLockAndWait(lock, 1)

    async def under_a_lock(lab: Lab) -> None:
        lock, spin = made(), KSPIN_LOCK()
        KeInitializeSpinLock(spin)
        await KeAcquireSpinLock(spin)
        await IoReleaseRemoveLockAndWait(lock, 1)

    assert run(at_dispatch).code == "ke.irql"
    assert run(under_a_lock).code == "ke.spin-forbidden-call"


@pytest.mark.rule("KE-REMLOCK-04")
def test_it_is_initialised_once_before_it_is_used() -> None:
    async def twice(lab: Lab) -> None:
        IoInitializeRemoveLock(made(), "Test", 0, 0)

    async def never(lab: Lab) -> None:
        await IoAcquireRemoveLock(IO_REMOVE_LOCK("raw"), 1)

    one = run(twice)
    assert one.code == "ke.lock-reinitialised"
    assert one.finding.verifier is not None
    assert one.finding.verifier.parameters == (0xD7,)
    assert run(never).code == "ke.uninitialised"


def test_a_tag_that_is_nothing_special_is_shown_without_its_address() -> None:
    async def script(lab: Lab) -> None:
        lock = made()
        await IoAcquireRemoveLock(lock, object())
        await IoReleaseRemoveLock(lock, [])

    assert run(script).finding.detail.endswith("with tag a list; it is acquired with a object")
