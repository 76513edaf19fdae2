"""Asynchronous I/O: OVERLAPPED, events, cancelling; threads and waiting; when the close comes."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, run

from kemu.io.constants import IRP_MJ_CLEANUP, IRP_MJ_CLOSE, IRP_MJ_READ
from kemu.io.file_constants import FILE_SHARE_VALID_FLAGS, GENERIC_READ, GENERIC_WRITE
from kemu.user import Win32
from kemu.user.errors import (
    ERROR_INVALID_HANDLE,
    ERROR_IO_INCOMPLETE,
    ERROR_IO_PENDING,
    ERROR_NOT_FOUND,
    ERROR_OPERATION_ABORTED,
)
from kemu.user.win32 import (
    FILE_FLAG_OVERLAPPED,
    LOCKFILE_EXCLUSIVE_LOCK,
    OPEN_EXISTING,
    OVERLAPPED,
    WAIT_FAILED,
    WAIT_OBJECT_0,
    WAIT_TIMEOUT,
    Handle,
)
from kemu.wdk.fltkernel import FLT_PREOP_SUCCESS_NO_CALLBACK

READ_WRITE = GENERIC_READ | GENERIC_WRITE


async def opened(api: Win32, flags: int = FILE_FLAG_OVERLAPPED) -> Handle:
    handle = await api.CreateFileW("a", READ_WRITE, FILE_SHARE_VALID_FLAGS, None, OPEN_EXISTING, flags)
    assert handle is not None
    return handle


@pytest.mark.parametrize("event", [False, True])
def test_a_read_goes_on_after_the_call(event: bool) -> None:
    async def script(lab: Lab) -> list[Any]:
        api = lab.app.win32
        handle = await opened(api)
        lab.completes("later")
        overlapped = OVERLAPPED(3, await api.CreateEventW(None, True) if event else None)
        begun = await api.ReadFile(handle, 2, overlapped)
        error = api.GetLastError()
        waited = await api.GetOverlappedResult(handle, overlapped, True)
        again = await api.GetOverlappedResult(handle, overlapped, False)
        return [begun, error, waited, again, overlapped.buffer]

    runs = all_runs(script, completion="inline")
    assert {one.code for one in runs} == {None}
    for one in runs:
        assert one.result == [(False, b""), ERROR_IO_PENDING, (True, 2), (True, 2), b"34"]


def test_a_read_that_is_complete_at_once_needs_no_waiting() -> None:
    async def script(lab: Lab) -> list[Any]:
        api = lab.app.win32
        overlapped = OVERLAPPED(3)
        return [
            await api.ReadFile(await opened(api), 2, overlapped),
            await api.GetOverlappedResult(None, overlapped, False),
            await api.WriteFile(await opened(api), b"xy", None, OVERLAPPED(1)),
        ]

    assert run(script).result == [(True, b"34"), (True, 2), (True, 2)]


def test_one_may_look_whether_it_is_over() -> None:
    async def script(lab: Lab) -> tuple[Any, int]:
        api = lab.app.win32
        handle = await opened(api)
        lab.completes("later")
        overlapped = OVERLAPPED(0)
        await api.WriteFile(handle, b"x", None, overlapped)
        await lab.step("meanwhile")
        found = await api.GetOverlappedResult(handle, overlapped, False)
        error = 0 if found[0] else api.GetLastError()
        await api.GetOverlappedResult(handle, overlapped, True)
        return found, error

    assert {one.result for one in all_runs(script)} == {((True, 1), 0), ((False, 0), ERROR_IO_INCOMPLETE)}


def test_an_event_that_somebody_else_waits_for_too_is_missed() -> None:
    async def script(lab: Lab) -> None:
        api = lab.app.win32
        handle = await opened(api)
        lab.completes("later")
        # It resets itself when one wait is satisfied.
        event = await api.CreateEventW()
        overlapped = OVERLAPPED(0, event)
        await api.ReadFile(handle, 1, overlapped)

        async def other() -> None:
            await api.WaitForSingleObject(event)

        async def result() -> None:
            await api.GetOverlappedResult(handle, overlapped, True)

        await lab.together(other(), result())

    assert "ke.hang" in {one.code for one in all_runs(script, bound=1)}


async def locked(api: Win32) -> tuple[Handle, Handle, OVERLAPPED]:
    """A handle with a lock, and another one whose lock of the same range is pending."""
    mine, other = await opened(api), await opened(api)
    await api.LockFileEx(mine, LOCKFILE_EXCLUSIVE_LOCK, 0, 1, 0, OVERLAPPED())
    waiting = OVERLAPPED(0)
    assert not await api.LockFileEx(other, LOCKFILE_EXCLUSIVE_LOCK, 0, 1, 0, waiting)
    assert api.GetLastError() == ERROR_IO_PENDING
    return mine, other, waiting


def test_what_is_cancelled_ends_as_aborted() -> None:
    async def script(lab: Lab) -> list[Any]:
        api = lab.app.win32
        _, handle, waiting = await locked(api)
        nothing = await api.CancelIoEx(handle, OVERLAPPED())
        error = api.GetLastError()
        cancelled = await api.CancelIoEx(handle, waiting)
        ended = await api.GetOverlappedResult(handle, waiting, True)
        return [nothing, error, cancelled, ended, api.GetLastError(), await api.CancelIoEx(handle), api.GetLastError()]

    assert run(script).result == [
        False, ERROR_NOT_FOUND, True, (False, 0), ERROR_OPERATION_ABORTED, False, ERROR_NOT_FOUND,
    ]  # fmt: skip


def test_a_thread_cancels_what_it_has_issued_itself() -> None:
    async def script(lab: Lab) -> list[Any]:
        api = lab.app.win32
        _, handle, waiting = await locked(api)

        async def other() -> bool:
            return await api.CancelIo(handle)

        by_other = await lab.start("other", other()).join()
        before = await api.GetOverlappedResult(handle, waiting, False)
        by_me = await api.CancelIo(handle)
        return [by_other, before, by_me, await api.GetOverlappedResult(handle, waiting, True), await api.CancelIo(None)]

    assert run(script).result == [True, (False, 0), True, (False, 0), False]


def test_a_synchronous_call_is_cancelled_from_another_thread() -> None:
    async def script(lab: Lab) -> list[Any]:
        api = lab.app.win32
        mine, other = await opened(api), await opened(api, 0)
        await api.LockFileEx(mine, LOCKFILE_EXCLUSIVE_LOCK, 0, 1, 0, OVERLAPPED())

        async def lock(parameter: Any) -> Any:
            done = await api.LockFileEx(other, LOCKFILE_EXCLUSIVE_LOCK, 0, 1, 0, OVERLAPPED())
            return done, api.GetLastError()

        thread = await api.CreateThread(None, 0, lock)
        while not await api.CancelSynchronousIo(thread):
            assert api.GetLastError() == ERROR_NOT_FOUND
            await lab.sleep(1)
        await api.WaitForSingleObject(thread)
        return [thread.object.result, await api.CancelSynchronousIo(None), api.GetLastError()]

    one = run(script)
    assert one.code is None
    assert one.result == [(False, ERROR_OPERATION_ABORTED), False, ERROR_INVALID_HANDLE]


def test_a_lock_that_is_waited_for_is_given_when_it_is_free() -> None:
    async def script(lab: Lab) -> Any:
        api = lab.app.win32
        mine, other, waiting = await locked(api)
        await api.UnlockFileEx(mine, 0, 1, 0, OVERLAPPED())
        return await api.GetOverlappedResult(other, waiting, True)

    assert run(script).result == (True, 0)


def test_unlocking_and_cancelling_a_wait_race() -> None:
    async def script(lab: Lab) -> Any:
        api = lab.app.win32
        mine, other, waiting = await locked(api)

        async def unlock() -> None:
            await api.UnlockFileEx(mine, 0, 1, 0, OVERLAPPED())

        async def cancel() -> None:
            await api.CancelIoEx(other, waiting)

        await lab.together(unlock(), cancel())
        return (await api.GetOverlappedResult(other, waiting, True))[0]

    runs = all_runs(script, bound=2)
    assert {one.code for one in runs} == {None}
    assert {one.result for one in runs} == {True, False}


def test_the_close_waits_for_what_is_under_way() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: Any, FltObjects: Any) -> int:
            lab.note({IRP_MJ_CLEANUP: "cleanup", IRP_MJ_CLOSE: "close", IRP_MJ_READ: "read"}[Data.Iopb.MajorFunction])
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        async def post(Data: Any, FltObjects: Any, Context: Any, Flags: int) -> int:
            lab.note("read ends")
            return 0

        api = lab.app.win32
        await lab.filter(
            "D", "1", {IRP_MJ_READ: (lab.pre("read"), post), IRP_MJ_CLEANUP: (pre, None), IRP_MJ_CLOSE: (pre, None)}
        )
        handle = await opened(api)
        lab.completes("later")
        overlapped = OVERLAPPED()
        await api.ReadFile(handle, 1, overlapped)
        lab.completes("inline")
        await api.CloseHandle(handle)
        await api.GetOverlappedResult(None, overlapped, True)

    runs = all_runs(script, bound=2)
    assert {one.code for one in runs} == {None}
    orders = {tuple(one.order) for one in runs}
    assert all(order.index("read ends") < order.index("close") for order in orders)
    assert any(order.index("cleanup") < order.index("read ends") for order in orders)
    assert any(order.index("cleanup") > order.index("read ends") for order in orders)


def test_events_and_waits() -> None:
    async def script(lab: Lab) -> list[Any]:
        api = lab.app.win32
        event = await api.CreateEventW(None, True)
        found = [
            await api.WaitForSingleObject(event, 5),
            await api.SetEvent(event),
            await api.WaitForSingleObject(event),
            await api.ResetEvent(event),
            await api.WaitForSingleObject(event, 0),
            await api.WaitForSingleObject(None),
            api.GetLastError(),
            await api.SetEvent(None),
            await api.ResetEvent(None),
        ]
        await api.CloseHandle(event)
        return [*found, await api.SetEvent(event)]

    assert run(script).result == [
        WAIT_TIMEOUT, True, WAIT_OBJECT_0, True, WAIT_TIMEOUT, WAIT_FAILED, ERROR_INVALID_HANDLE, False, False, False,
    ]  # fmt: skip


def test_a_thread_is_waited_for_by_its_handle() -> None:
    async def script(lab: Lab) -> list[Any]:
        api = lab.app.win32
        seen: list[Any] = []

        async def work(parameter: Any) -> None:
            seen.append(parameter)

        thread = await api.CreateThread(None, 0, work, "parameter")
        assert thread.object.process is lab.app.process
        return [await api.WaitForSingleObject(thread), seen]

    assert {repr(one.result) for one in all_runs(script)} == {repr([WAIT_OBJECT_0, ["parameter"]])}
