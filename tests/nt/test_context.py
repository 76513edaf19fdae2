"""Whose thread it is: previous mode, attached processes, arbitrary context, the way back to user mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, run

from kemu.io.constants import IRP_MJ_READ
from kemu.nt.bugcheck import BugCheck
from kemu.nt.callout import (
    APC_ROUTINE,
    CALLOUT,
    CANCEL_ROUTINE,
    COMPLETION_ROUTINE,
    DISPATCH_ROUTINE,
    DPC_ROUTINE,
    FAST_IO_ROUTINE,
    INTERRUPT_ROUTINE,
    LOWER_DISPATCH_ROUTINE,
    TIMER_DPC_ROUTINE,
    WORKER_ROUTINE,
    Callout,
)
from kemu.nt.context import called_by_the_kernel, check_zw, probe
from kemu.nt.driver import in_driver
from kemu.nt.kthread import KThread, current_kthread
from kemu.nt.process import Process
from kemu.wdk.fltkernel import FLT_PREOP_SUCCESS_NO_CALLBACK
from kemu.wdk.ntddk import (
    KeEnterCriticalRegion,
    KeEnterGuardedRegion,
    KeLeaveCriticalRegion,
    KeLeaveGuardedRegion,
)
from kemu.wdk.ntifs import KAPC_STATE, KeStackAttachProcess, KeUnstackDetachProcess
from kemu.wdk.ntstatus import STATUS_ACCESS_VIOLATION, STATUS_INVALID_HANDLE, STATUS_SUCCESS
from kemu.wdk.wdm import (
    FAST_MUTEX,
    KEVENT,
    KWAIT_BLOCK,
    DelayedWorkQueue,
    ExAcquireFastMutex,
    Executive,
    ExGetPreviousMode,
    ExInitializeFastMutex,
    IoAllocateWorkItem,
    IoGetCurrentProcess,
    IoQueueWorkItemEx,
    KeDelayExecutionThread,
    KeGetCurrentIrql,
    KeGetCurrentThread,
    KeInitializeEvent,
    KernelMode,
    KeSetEvent,
    KeWaitForMultipleObjects,
    KeWaitForSingleObject,
    NotificationEvent,
    PsGetCurrentProcess,
    PsGetCurrentThread,
    UserMode,
    WaitAny,
)


def signalled() -> KEVENT:
    event = KEVENT("event")
    KeInitializeEvent(event, NotificationEvent, True)
    return event


# Threads and processes.


@pytest.mark.rule("KE-CTX-03")
def test_a_work_item_runs_in_the_system_process_at_passive_level() -> None:
    async def script(lab: Lab) -> list[Any]:
        driver = await lab.filter("D", "1", {})
        item = await IoAllocateWorkItem(driver.driver_object)
        assert item is not None
        seen: list[Any] = []
        done = KEVENT("done")
        KeInitializeEvent(done, NotificationEvent, False)

        async def routine(*arguments: Any) -> None:
            process = IoGetCurrentProcess()
            assert process is not None
            seen.extend([process.is_system, KeGetCurrentIrql(), ExGetPreviousMode()])
            seen.append(current_kthread().arbitrary)
            await KeSetEvent(done)

        await IoQueueWorkItemEx(item, routine, DelayedWorkQueue, None)
        await KeWaitForSingleObject(done)
        return seen

    assert run(script).result == [True, 0, KernelMode, False]


def test_the_current_thread_is_the_one_that_asks() -> None:
    async def script(lab: Lab) -> list[Any]:
        async def who() -> Any:
            await lab.step()
            assert KeGetCurrentThread() is PsGetCurrentThread()
            return KeGetCurrentThread()

        one, other = lab.start("one", who()), lab.start("other", who())
        return [await one.join() is one.thread, await other.join() is other.thread]

    assert run(script).result == [True, True]
    assert PsGetCurrentProcess is IoGetCurrentProcess


@pytest.mark.rule("KE-CTX-05")
def test_the_previous_mode_is_user_mode_in_a_system_call() -> None:
    async def script(lab: Lab) -> list[int]:
        async def call() -> list[int]:
            with called_by_the_kernel():
                inside = ExGetPreviousMode()
            return [ExGetPreviousMode(), inside, ExGetPreviousMode()]

        async def program() -> list[int]:
            return [ExGetPreviousMode(), *await lab.system_call(call()), ExGetPreviousMode()]

        return await lab.start("program", program(), lab.app).join()

    assert run(script).result == [KernelMode, UserMode, KernelMode, UserMode, KernelMode]


@pytest.mark.rule("KE-CTX-05")
@pytest.mark.parametrize(
    ("what", "status"),
    [({"kernel_buffer": True}, STATUS_ACCESS_VIOLATION), ({"kernel_handle": True}, STATUS_INVALID_HANDLE), ({}, None)],
)
@pytest.mark.parametrize("in_call", [True, False])
def test_an_nt_routine_in_a_system_call_takes_arguments_for_a_users(
    what: dict[str, bool], status: int | None, in_call: bool
) -> None:
    async def script(lab: Lab) -> Any:
        async def call() -> Any:
            return probe("NtReadFile", **what)

        return await (lab.system_call(call()) if in_call else call())

    one = run(script)
    if in_call and status is not None:
        assert one.code == "ke.previous-mode"
        assert repr(status) in one.finding.detail
    else:
        assert (one.code, one.result) == (None, None)


# Attaching.


@pytest.mark.rule("KE-CTX-06")
def test_attaching_shows_another_process_and_detaching_the_one_before() -> None:
    async def script(lab: Lab) -> list[Any]:
        own, first, second = IoGetCurrentProcess(), Process("first"), Process("second")
        seen = [IoGetCurrentProcess() is own]
        one = KeStackAttachProcess(first)
        two = KeStackAttachProcess(second)
        seen.append(IoGetCurrentProcess() is second)
        KeUnstackDetachProcess(two)
        seen.append(IoGetCurrentProcess() is first)
        KeUnstackDetachProcess(one)
        return [*seen, IoGetCurrentProcess() is own]

    assert run(script).result == [True, True, True, True]


@pytest.mark.rule("KE-CTX-06")
@pytest.mark.parametrize("how", ["twice", "order", "made up"])
def test_attaching_and_detaching_pair_up(how: str) -> None:
    async def script(lab: Lab) -> None:
        state = KeStackAttachProcess(Process("first"))
        if how == "order":
            KeStackAttachProcess(Process("second"))
            KeUnstackDetachProcess(state)
        elif how == "twice":
            KeUnstackDetachProcess(state)
            KeUnstackDetachProcess(state)
        else:
            KeUnstackDetachProcess(KAPC_STATE(current_kthread(), Process("third")))

    found = run(script).finding
    assert found.code == "ke.attach-balance"
    assert found.bug_check is not None
    assert found.bug_check.code == 0x6


@pytest.mark.rule("KE-CTX-06")
@pytest.mark.parametrize("in_dpc", [True, False])
def test_attaching_in_a_dpc_stops_the_system(in_dpc: bool) -> None:
    async def script(lab: Lab) -> None:
        thread = current_kthread()
        thread.irql, thread.in_dpc = 2, in_dpc
        KeStackAttachProcess(Process("other"))

    found = run(script).finding
    assert found.code == "ke.irql"
    assert found.bug_check is not None
    assert (found.bug_check.code, found.bug_check.parameters) == (0x5, (0, 0, 0, int(in_dpc)))


@pytest.mark.rule("KE-CTX-06")
def test_io_while_attached_is_a_warning() -> None:
    async def script(lab: Lab, attached: bool, does_io: bool) -> None:
        if attached:
            KeStackAttachProcess(Process("other"))
        check_zw("ZwReadFile", does_io=does_io)

    for attached in (True, False):
        for does_io in (True, False):
            one = run(lambda lab: script(lab, attached, does_io))  # noqa: B023
            assert one.code is None
            assert one.warnings == (("ke.attached-io",) if attached and does_io else ())


@pytest.mark.rule("KE-IRQL-12", "KE-APC-11")
@pytest.mark.parametrize(
    ("how", "fine"), [("plain", True), ("critical", True), ("guarded", False), ("mutex", False), ("apc", False)]
)
def test_zw_routines_need_special_kernel_apcs(how: str, fine: bool) -> None:
    async def script(lab: Lab) -> None:
        mutex = FAST_MUTEX("Fast")
        ExInitializeFastMutex(mutex)
        if how == "critical":
            KeEnterCriticalRegion()
        elif how == "guarded":
            KeEnterGuardedRegion()
        elif how == "mutex":
            await ExAcquireFastMutex(mutex)
        elif how == "apc":
            current_kthread().irql = 1
        check_zw("ZwCreateFile", does_io=True)

    one = run(script)
    assert one.code == (None if fine else "ke.zw-apc")
    if not fine:
        assert one.finding.verifier is not None
        assert (one.finding.verifier.code, one.finding.verifier.parameters[0]) == (0xC4, 0xE6)


# The way back to user mode.


@pytest.mark.rule("KE-APC-07", "KE-IRQL-10", "KE-CTX-06")
@pytest.mark.parametrize(
    ("leaves", "stop"),
    [
        (KeEnterCriticalRegion, BugCheck(0x1, (0, 0, 0x0000FFFF, 0))),  # type: ignore[arg-type]
        (KeEnterGuardedRegion, BugCheck(0x1, (0, 0, 0xFFFF0000, 0))),  # type: ignore[arg-type]
        (lambda: setattr(current_kthread(), "irql", 2), BugCheck(0x4A, (0, 2))),  # type: ignore[arg-type]
        (lambda: KeStackAttachProcess(Process("other")), BugCheck(0x5)),  # type: ignore[arg-type]
    ],
    ids=["critical", "guarded", "irql", "attached"],
)
def test_a_system_call_ends_as_it_began(leaves: Callable[[], Any], stop: BugCheck) -> None:
    async def script(lab: Lab) -> None:
        async def call() -> None:
            leaves()

        await lab.system_call(call())

    found = run(script).finding
    assert found.code == "ke.dirty-return"
    assert "call in script returns to user mode" in found.detail
    assert found.bug_check is not None
    assert (found.bug_check.code, found.bug_check.parameters) == (stop.code, stop.parameters)


def test_a_balanced_system_call_is_clean() -> None:
    async def script(lab: Lab) -> int:
        async def call() -> int:
            KeEnterCriticalRegion()
            KeEnterGuardedRegion()
            KeLeaveGuardedRegion()
            KeLeaveCriticalRegion()
            return 7

        return await lab.system_call(call())

    assert run(script).result == 7


# What a routine of a driver leaves behind.

IRQL_CODES = [
    (CALLOUT, (0xC8, 2 << 16 | 2), None),
    (DISPATCH_ROUTINE, (0xC8, 2 << 16 | 2), (0xC9, 0x05)),
    (LOWER_DISPATCH_ROUTINE, (0xC8, 2 << 16 | 2), (0xC9, 0x05)),
    (FAST_IO_ROUTINE, (0xC8, 2 << 16 | 2), None),
    (COMPLETION_ROUTINE, (0xC8, 2 << 16 | 2), (0xC4, 0xFA)),
    (CANCEL_ROUTINE, (0xC8, 2 << 16 | 2), None),
    (INTERRUPT_ROUTINE, (0xC8, 2 << 16 | 3), (0xC4, 0x111)),
    (APC_ROUTINE, (0xC8, 2 << 16 | 1), None),
    (WORKER_ROUTINE, (0xE1, 0), None),
]

APC_CODES = [
    (CALLOUT, (0x1, 0), None),
    (DISPATCH_ROUTINE, (0x1, 0), (0xC4, 0xC5)),
    (FAST_IO_ROUTINE, (0x1, 0), (0xC4, 0xC6)),
    (COMPLETION_ROUTINE, (0x1, 0), (0xC4, 0xFB)),
    (DPC_ROUTINE, (0x1, 0), (0xC7, 4)),
    (TIMER_DPC_ROUTINE, (0x1, 0), (0xC7, 5)),
    (WORKER_ROUTINE, (0x1, 1), None),
]


def left_by(kind: Callout, leaves: Callable[[], Any]) -> Any:
    """The finding of a routine of that *kind* that leaves its thread so."""

    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", "1", {})

        async def routine() -> None:
            leaves()

        await in_driver(driver.driver_object.actor, "Routine", routine, kind=kind)

    found = run(script).finding
    assert found.code == "callback-dirty-exit"
    assert found.bug_check is not None
    return found


@pytest.mark.rule("KE-IRQL-09", "KE-IRQL-10")
@pytest.mark.parametrize(("kind", "stop", "verifier"), IRQL_CODES)
def test_what_windows_does_about_a_changed_irql(
    kind: Callout, stop: tuple[int, int], verifier: tuple[int, int] | None
) -> None:
    found = left_by(kind, lambda: setattr(current_kthread(), "irql", 2))
    assert (found.bug_check.code, found.bug_check.parameters[0]) == stop
    if verifier is None:
        assert found.verifier is None
    else:
        assert (found.verifier.code, found.verifier.parameters[0]) == verifier
        if verifier[0] == 0xC9:
            assert found.verifier.parameters[2:] == (0, 2)
    if kind is WORKER_ROUTINE:
        assert found.bug_check.parameters[1] == 2


@pytest.mark.rule("KE-IRQL-10")
def test_a_worker_that_returns_at_apc_level_is_a_callout_like_others() -> None:
    found = left_by(WORKER_ROUTINE, lambda: setattr(current_kthread(), "irql", 1))
    assert (found.bug_check.code, found.bug_check.parameters) == (0xC8, (1 << 16 | 2,))


@pytest.mark.rule("KE-APC-07", "KE-APC-08")
@pytest.mark.parametrize(("kind", "stop", "verifier"), APC_CODES)
def test_what_windows_does_about_a_changed_apc_count(
    kind: Callout, stop: tuple[int, int], verifier: tuple[int, int] | None
) -> None:
    found = left_by(kind, KeEnterCriticalRegion)
    assert (found.bug_check.code, found.bug_check.parameters[2:]) == (stop[0], (0xFFFF, stop[1]))
    if verifier is None:
        assert found.verifier is None
    else:
        assert (found.verifier.code, found.verifier.parameters) == (verifier[0], (verifier[1], 0, 0xFFFF, 0))


@pytest.mark.rule("KE-APC-07")
def test_a_work_item_that_returns_in_a_critical_region() -> None:
    async def script(lab: Lab) -> None:
        item = await IoAllocateWorkItem((await lab.filter("D", "1", {})).driver_object)
        assert item is not None

        async def routine(*arguments: Any) -> None:
            KeEnterCriticalRegion()

        await IoQueueWorkItemEx(item, routine, DelayedWorkQueue, None)

    found = run(script).finding
    assert found.bug_check is not None
    assert (found.bug_check.code, found.bug_check.parameters) == (0x1, (0, 0, 0xFFFF, 1))


@pytest.mark.rule("KE-APC-06", "FLT-PRE-27")
@pytest.mark.parametrize("which", ["pre", "post"])
@pytest.mark.parametrize(("enter", "count"), [(KeEnterCriticalRegion, 0xFFFF), (KeEnterGuardedRegion, 0xFFFF0000)])
def test_a_callback_that_returns_in_a_region(which: str, enter: Callable[[], None], count: int) -> None:
    async def callback(*arguments: Any) -> int:
        enter()
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def script(lab: Lab) -> None:
        await lab.filter("D", "1", {IRP_MJ_READ: (callback, None) if which == "pre" else (None, callback)})
        await (await lab.open()).read(1)

    found = run(script).finding
    assert found.code == "callback-dirty-exit"
    assert found.bug_check is not None
    assert (found.bug_check.code, found.bug_check.parameters) == (0x1, (0, 0, count, 0))


@pytest.mark.rule("KE-WAIT-17")
def test_a_routine_that_returns_after_announcing_a_wait() -> None:
    async def script(lab: Lab) -> None:
        async def pre(*arguments: Any) -> int:
            await KeSetEvent(signalled(), 0, True)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("D", "1", {IRP_MJ_READ: (pre, None)})
        await (await lab.open()).read(1)

    one = run(script)
    assert one.code == "callback-dirty-exit"
    assert "after KeSetEvent with Wait = TRUE, without the wait" in one.finding.detail


# Arbitrary threads.


@pytest.mark.rule("KE-CTX-01", "KE-CTX-02")
@pytest.mark.parametrize(
    ("kind", "warned"),
    [
        (CALLOUT, False), (DISPATCH_ROUTINE, False), (FAST_IO_ROUTINE, False), (WORKER_ROUTINE, False),
        (LOWER_DISPATCH_ROUTINE, True), (COMPLETION_ROUTINE, True), (APC_ROUTINE, True), (CANCEL_ROUTINE, True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("what", ["one", "several", "delay", "poll"])
def test_an_arbitrary_thread_is_not_made_to_wait(kind: Callout, warned: bool, what: str) -> None:
    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", "1", {})

        async def routine() -> None:
            if what == "one":
                await KeWaitForSingleObject(signalled())
            elif what == "several":
                await KeWaitForMultipleObjects(
                    1, [signalled()], WaitAny, Executive, KernelMode, False, -1, KWAIT_BLOCK(1)
                )
            elif what == "delay":
                await KeDelayExecutionThread(KernelMode, False, -1)
            else:
                await KeWaitForSingleObject(signalled(), Executive, KernelMode, False, 0)

        await in_driver(driver.driver_object.actor, "Routine", routine, kind=kind)
        # Whoever called it is what it was.
        await KeWaitForSingleObject(signalled())

    assert run(script).warnings == (("ke.arbitrary-wait",) if warned and what != "poll" else ())


@pytest.mark.rule("KE-CTX-01")
def test_driver_entry_and_callbacks_of_filters_may_wait() -> None:
    async def script(lab: Lab) -> None:
        async def pre(*arguments: Any) -> int:
            assert await KeWaitForSingleObject(signalled()) == STATUS_SUCCESS
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("D", "1", {IRP_MJ_READ: (pre, None)})
        await (await lab.open()).read(1)

    assert run(script).warnings == ()


def test_a_thread_counts_its_apc_disables_as_windows_does() -> None:
    async def script(lab: Lab) -> int:
        KeEnterCriticalRegion()
        KeEnterCriticalRegion()
        KeEnterGuardedRegion()
        thread = current_kthread()
        assert isinstance(thread, KThread)
        return thread.combined_apc_disable

    assert run(script).result == 0xFFFF_FFFE
