"""Processes and threads: identifiers, look-ups, exit."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, codes, run

from kemu.nt.kthread import current_kthread
from kemu.nt.psapi import create_process, exit_process
from kemu.wdk.ntddk import PsGetCurrentProcessId, PsGetCurrentThreadId, PsGetProcessId, PsGetThreadId
from kemu.wdk.ntifs import (
    PsGetProcessCreateTimeQuadPart,
    PsGetProcessExitStatus,
    PsGetThreadProcessId,
    PsIsThreadTerminating,
    PsLookupProcessByProcessId,
    PsLookupThreadByThreadId,
)
from kemu.wdk.ntstatus import STATUS_ACCESS_DENIED, STATUS_INVALID_CID, STATUS_PENDING, STATUS_SUCCESS
from kemu.wdk.wdm import (
    KeWaitForSingleObject,
    ObDereferenceObject,
    ObReferenceObject,
    PsGetCurrentProcess,
    PsGetCurrentThread,
)


def test_who_am_i() -> None:
    async def script(lab: Lab) -> tuple[Any, ...]:
        process = lab.process("app").process
        current_kthread().process = process
        thread = PsGetCurrentThread()
        assert PsGetCurrentProcess() is process
        assert PsGetProcessId(process) == PsGetCurrentProcessId() == PsGetThreadProcessId(thread)
        assert PsGetThreadId(thread) == PsGetCurrentThreadId()
        first = create_process("first").pid
        return PsGetCurrentThreadId() - PsGetCurrentProcessId(), first - PsGetCurrentThreadId()

    # Both are numbers of one space, given out in the order in which they are asked for.
    assert run(script).result == (4, 4)


def test_a_thread_of_no_process_is_the_systems() -> None:
    async def script(lab: Lab) -> int:
        current_kthread().process = None
        return PsGetCurrentProcessId()

    assert run(script).result == 4


@pytest.mark.rule("OB-OBJ-03")
def test_a_look_up_takes_a_reference() -> None:
    async def script(lab: Lab) -> list[Any]:
        process = lab.process("app").process
        number = PsGetCurrentThreadId()
        found = await PsLookupProcessByProcessId(process.pid)
        thread = await PsLookupThreadByThreadId(number)
        missing = await PsLookupProcessByProcessId(number), await PsLookupThreadByThreadId(process.pid)
        assert found == (STATUS_SUCCESS, process)
        assert thread == (STATUS_SUCCESS, current_kthread())
        await ObDereferenceObject(process)
        await ObDereferenceObject(current_kthread())
        return list(missing)

    assert run(script).result == [(STATUS_INVALID_CID, None), (STATUS_INVALID_CID, None)]


@pytest.mark.rule("OB-OBJ-06")
def test_a_process_outlives_its_end_while_it_is_referenced_and_keeps_its_id() -> None:
    async def script(lab: Lab) -> list[Any]:
        process = lab.process("app").process
        number = process.pid
        await ObReferenceObject(process)
        seen: list[Any] = [PsGetProcessExitStatus(process), PsGetProcessCreateTimeQuadPart(process)]
        await exit_process(process, STATUS_ACCESS_DENIED)
        seen += [PsGetProcessExitStatus(process), create_process("next").pid == number]
        await ObDereferenceObject(process)
        seen.append(create_process("after").pid == number)
        return seen

    assert run(script).result == [STATUS_PENDING, 0, STATUS_ACCESS_DENIED, False, True]


@pytest.mark.rule("OB-OBJ-06")
def test_an_id_is_given_out_again_at_once_when_nobody_holds_the_process() -> None:
    async def script(lab: Lab) -> bool:
        one = lab.process("app")
        await one.exit()
        return create_process("next").pid == one.process.pid

    assert run(script).result is True


def test_a_process_that_nobody_holds_is_gone_when_it_ends() -> None:
    async def script(lab: Lab) -> None:
        process = lab.process("app")
        await process.exit()
        await KeWaitForSingleObject(process.process)

    one = run(script)
    assert one.code == "ke.use-after-free"
    assert "app, which was deleted when script dropped the last reference" in one.finding.detail


@pytest.mark.rule("KE-WAIT-01")
def test_processes_and_threads_can_be_waited_for() -> None:
    async def script(lab: Lab) -> None:
        process = lab.process("app")
        await ObReferenceObject(process.process)

        async def worker() -> None:
            await lab.step("work")
            lab.note("worked")

        async def ender() -> None:
            await process.exit()
            lab.note("exited")

        async def waiter() -> None:
            assert await KeWaitForSingleObject(process.process) == STATUS_SUCCESS
            assert await KeWaitForSingleObject(thread.thread) == STATUS_SUCCESS
            assert PsIsThreadTerminating(thread.thread)
            lab.note("seen both")

        thread = lab.start("worker", worker())
        await lab.together(waiter(), ender())

    runs = all_runs(script)
    assert codes(runs) == {None}
    for one in runs:
        assert one.before("worked", "seen both")
