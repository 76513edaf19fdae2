"""Processes: made, opened, ended and waited for by programs; their handles."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, run

from kemu.errors import UsageError
from kemu.nt.handle import CURRENT_PROCESS, CURRENT_THREAD
from kemu.nt.status import STATUS_ACCESS_DENIED
from kemu.user import Win32
from kemu.user.errors import ERROR_ACCESS_DENIED, ERROR_INVALID_HANDLE, ERROR_INVALID_PARAMETER
from kemu.user.win32 import (
    DUPLICATE_CLOSE_SOURCE,
    DUPLICATE_SAME_ACCESS,
    STILL_ACTIVE,
    WAIT_FAILED,
    WAIT_OBJECT_0,
    WAIT_TIMEOUT,
)
from kemu.wdk.wdm import (
    PROCESS_ALL_ACCESS,
    PROCESS_DUP_HANDLE,
    PROCESS_QUERY_LIMITED_INFORMATION,
    PROCESS_TERMINATE,
    SYNCHRONIZE,
    THREAD_ALL_ACCESS,
)


async def sleeper(api: Win32) -> None:
    await api.WaitForSingleObject(await api.CreateEventW(), 1000)


def in_app(program: Any) -> Any:
    """A script that runs *program* in a thread of the process ``app``; its result."""

    async def script(lab: Lab) -> Any:
        return await lab.start("program", program(lab, lab.app.win32), lab.app).join()

    return script


def test_a_process_is_made_and_waited_for() -> None:
    async def program(lab: Lab, api: Win32) -> Any:
        ran: list[int] = []

        async def child(child_api: Win32) -> None:
            ran.append(child_api.GetCurrentProcessId())

        made, info = await api.CreateProcessW(child)
        assert info is not None
        waited = [await api.WaitForSingleObject(one) for one in (info.hThread, info.hProcess)]
        code = await api.GetExitCodeProcess(info.hProcess)
        same = ran == [info.dwProcessId] == [await api.GetProcessId(info.hProcess)]
        return made, waited, code, same, [await api.CloseHandle(one) for one in (info.hThread, info.hProcess)]

    runs = all_runs(in_app(program))
    assert {one.code for one in runs} == {None}
    for one in runs:
        assert one.result == (True, [WAIT_OBJECT_0, WAIT_OBJECT_0], (True, 0), True, [True, True])


@pytest.mark.rule("OB-HT-08")
def test_opening_by_identifier_needs_one_that_somebody_has() -> None:
    async def program(lab: Lab, api: Win32) -> Any:
        _, info = await api.CreateProcessW(sleeper, "other")
        assert info is not None
        opened = await api.OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, False, info.dwProcessId)
        thread = await api.OpenThread(THREAD_ALL_ACCESS, False, info.dwThreadId)
        nobody = await api.OpenProcess(PROCESS_ALL_ACCESS, False, 4444)
        error = api.GetLastError()
        wrong_kind = await api.OpenProcess(PROCESS_ALL_ACCESS, False, info.dwThreadId)
        same = await api.GetProcessId(opened) == info.dwProcessId
        return opened > 0, thread > 0, nobody, error, wrong_kind, same

    assert run(in_app(program)).result == (True, True, 0, ERROR_INVALID_PARAMETER, 0, True)


@pytest.mark.rule("OB-HT-06")
def test_a_handle_allows_what_it_was_opened_for() -> None:
    async def program(lab: Lab, api: Win32) -> Any:
        _, info = await api.CreateProcessW(sleeper)
        assert info is not None
        weak = await api.OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, False, info.dwProcessId)
        ended = await api.TerminateProcess(weak, 1), api.GetLastError()
        waited = await api.WaitForSingleObject(weak, 0), api.GetLastError()
        code = await api.GetExitCodeProcess(weak)
        strong = await api.OpenProcess(PROCESS_TERMINATE | SYNCHRONIZE, False, info.dwProcessId)
        before = await api.WaitForSingleObject(strong, 0)
        killed = await api.TerminateProcess(strong, STATUS_ACCESS_DENIED)
        after = await api.WaitForSingleObject(strong, 0)
        again = await api.TerminateProcess(strong, 2), api.GetLastError()
        return ended, waited, code, before, killed, after, again, await api.GetExitCodeProcess(weak)

    assert run(in_app(program)).result == (
        (False, ERROR_ACCESS_DENIED),
        (WAIT_FAILED, ERROR_ACCESS_DENIED),
        (True, STILL_ACTIVE),
        WAIT_TIMEOUT,
        True,
        WAIT_OBJECT_0,
        (False, ERROR_ACCESS_DENIED),
        (True, STATUS_ACCESS_DENIED),
    )


@pytest.mark.rule("OB-HT-01")
def test_the_number_of_a_closed_handle_is_the_next_ones() -> None:
    """Whoever keeps a number after closing it may be talking about another object."""

    async def program(lab: Lab, api: Win32) -> Any:
        me = api.GetCurrentProcessId()
        first = await api.OpenProcess(SYNCHRONIZE, False, me)
        closed = await api.CloseHandle(first), await api.CloseHandle(first), api.GetLastError()
        second = await api.OpenProcess(SYNCHRONIZE, False, me)
        return first == second, closed

    assert run(in_app(program)).result == (True, (True, False, ERROR_INVALID_HANDLE))


def test_pseudo_handles_stand_for_the_caller() -> None:
    async def program(lab: Lab, api: Win32) -> Any:
        process, thread = api.GetCurrentProcess(), api.GetCurrentThread()
        return (
            (process, thread) == (CURRENT_PROCESS, CURRENT_THREAD),
            await api.GetProcessId(process) == api.GetCurrentProcessId(),
            await api.GetProcessId(thread),
            await api.CloseHandle(process),
            api.GetCurrentThreadId() > 0,
        )

    assert run(in_app(program)).result == (True, True, 0, True, True)


@pytest.mark.rule("OB-HT-07")
@pytest.mark.parametrize("options", [DUPLICATE_SAME_ACCESS, DUPLICATE_SAME_ACCESS | DUPLICATE_CLOSE_SOURCE])
def test_a_handle_is_duplicated_with_its_access(options: int) -> None:
    async def program(lab: Lab, api: Win32) -> Any:
        me = await api.OpenProcess(PROCESS_DUP_HANDLE, False, api.GetCurrentProcessId())
        source = await api.OpenProcess(SYNCHRONIZE, False, api.GetCurrentProcessId())
        made, handle = await api.DuplicateHandle(me, source, me, 0, False, options)
        weak = await api.TerminateProcess(handle, 1), api.GetLastError()
        return made, weak, await api.WaitForSingleObject(source, 0)

    gone = bool(options & DUPLICATE_CLOSE_SOURCE)
    expected = (True, (False, ERROR_ACCESS_DENIED), WAIT_FAILED if gone else WAIT_TIMEOUT)
    assert run(in_app(program)).result == expected


@pytest.mark.rule("OB-HT-05")
@pytest.mark.parametrize("inherits", [True, False])
def test_a_child_gets_what_was_opened_to_be_inherited(inherits: bool) -> None:
    async def program(lab: Lab, api: Win32) -> Any:
        handle = await api.OpenProcess(SYNCHRONIZE, True, api.GetCurrentProcessId())
        found: list[int] = []

        async def child(child_api: Win32) -> None:
            found.append(await child_api.WaitForSingleObject(handle, 0))

        _, info = await api.CreateProcessW(child, bInheritHandles=inherits)
        assert info is not None
        await api.WaitForSingleObject(info.hProcess)
        return found

    assert run(in_app(program)).result == [WAIT_TIMEOUT if inherits else WAIT_FAILED]


def test_of_two_that_end_a_process_one_does() -> None:
    async def script(lab: Lab) -> Any:
        api = lab.app.win32
        _, info = await api.CreateProcessW(sleeper)
        assert info is not None

        async def kill(code: int) -> bool:
            return await api.TerminateProcess(info.hProcess, code)

        ended = await lab.together(kill(1), kill(2), process=lab.app)
        return ended, (await api.GetExitCodeProcess(info.hProcess))[1]

    found = {(tuple(one.result[0]), one.result[1]) for one in all_runs(script, bound=1)}
    # The program itself may be at its end, and has or has not come to it.
    assert found == {((True, False), 1), ((False, True), 2), ((False, False), 0), ((False, False), STILL_ACTIVE)}


@pytest.mark.parametrize("wrong", [0, None, 4444, "x"])
def test_a_value_that_is_no_handle_is_refused(wrong: Any) -> None:
    async def program(lab: Lab, api: Win32) -> Any:
        done = await api.TerminateProcess(wrong, 1), api.GetLastError()
        return done, await api.WaitForSingleObject(wrong, 0), await api.CloseHandle(wrong)

    assert run(in_app(program)).result == ((False, ERROR_INVALID_HANDLE), WAIT_FAILED, False)


def test_duplicating_is_for_threads_of_the_process() -> None:
    async def script(lab: Lab) -> Any:
        return await lab.app.win32.DuplicateHandle(CURRENT_PROCESS, 4, CURRENT_PROCESS)

    with pytest.raises(UsageError, match="thread of another process"):
        run(script)
