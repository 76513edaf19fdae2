"""Races of communication ports (FLT-RACE-50 to 57): every order that a rule lists comes up, and what is wrong in it."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, Run, all_runs, codes, sample
from fltmgr.ports_kit import PORT, SECOND, reply, service_of, talker

from kemu.fltmgr.ports import ClientPort
from kemu.io.constants import IRP_MJ_CREATE
from kemu.runtime import Thread
from kemu.user.errors import ERROR_CONNECTION_COUNT_LIMIT, ERROR_FILE_NOT_FOUND, ERROR_OPERATION_ABORTED
from kemu.user.win32 import ERROR_FLT_NO_WAITER_FOR_REPLY, HRESULT_FROM_WIN32, OVERLAPPED, S_OK
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    PFLT_PORT,
    FltCloseClientPort,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_PORT_DISCONNECTED,
    STATUS_SUCCESS,
    STATUS_TIMEOUT,
)

NOT_FOUND = HRESULT_FROM_WIN32(ERROR_FILE_NOT_FOUND)
FULL = HRESULT_FROM_WIN32(ERROR_CONNECTION_COUNT_LIMIT)


def orders(runs: list[Run], *ignored: str) -> set[tuple[str, ...]]:
    """What was noted in each run, in order."""
    return {tuple(note for note in one.order if note not in ignored) for one in runs}


@pytest.mark.rule("FLT-RACE-50", "FLT-PORT-18", "FLT-PORT-08")
@pytest.mark.parametrize("copied", [False, True])
def test_a_disconnect_in_every_phase_of_sending(copied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = ""
    end = ClientPort.end

    def noted(port: ClientPort, thread: Thread) -> None:
        nonlocal phase
        if port.connected:
            phase = (
                "waits for the answer" if port.waiting else "waits for delivery" if port.queue else "before or after"
            )
        end(port, thread)

    monkeypatch.setattr(ClientPort, "end", noted)

    async def script(lab: Lab) -> None:
        driver, _ = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        used = PFLT_PORT(driver.ClientPort.value, "Mine") if copied else driver.ClientPort

        async def ask() -> None:
            status, _ = await driver.ask(variable=used)
            lab.note(str(status), phase)

        asker = lab.start("asker", ask())
        await api.FilterGetMessage(handle, 64, OVERLAPPED())
        await lab.step("with the message or without")
        await api.CloseHandle(handle)
        await asker.join()

    runs = all_runs(script, unseen=True)
    phases = {one.note("STATUS_PORT_DISCONNECTED").value for one in runs if one.code is None}
    assert phases == {"before or after", "waits for the answer"}
    # That the variable was cleared before the send shows through the variable itself, and not through the copy.
    assert codes(runs) == ({None, "port-copy-race"} if copied else {None})


@pytest.mark.rule("FLT-RACE-50", "FLT-PORT-18")
def test_a_disconnect_while_nobody_has_fetched_the_message() -> None:
    async def script(lab: Lab) -> int:
        driver, _ = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        port = driver.ClientPort.value
        sender = lab.start("sender", driver.send())
        await lab.step("before it is sent or after")
        lab.note("waits for delivery" if port.queue else "is not sent")
        await api.CloseHandle(handle)
        return await sender.join()

    runs = all_runs(script, unseen=True)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {STATUS_PORT_DISCONNECTED}
    assert orders(runs, "connect", "disconnect") == {("waits for delivery",), ("is not sent",)}


@pytest.mark.rule("FLT-RACE-51", "FLT-PORT-20", "FLT-PORT-15")
def test_an_answer_about_when_the_time_is_up() -> None:
    async def script(lab: Lab) -> tuple[Any, ...]:
        driver, _ = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)

        async def answers() -> int | None:
            overlapped = OVERLAPPED()
            await api.FilterGetMessage(handle, 64, overlapped)
            got, _ = await api.GetOverlappedResult(handle, overlapped, True)
            return await api.FilterReplyMessage(handle, reply(overlapped.buffer, b"safe")) if got else None

        service = lab.start("service", answers(), lab.app)
        status, answer = await driver.ask(timeout=SECOND)
        # Somebody who has fetched nothing so far stops waiting.
        await api.CloseHandle(handle)
        return status, answer, await service.join()

    runs = all_runs(script)
    assert codes(runs) == {None}
    nobody = ERROR_FLT_NO_WAITER_FOR_REPLY
    assert {one.result for one in runs} >= {
        (STATUS_SUCCESS, b"safe", S_OK),
        (STATUS_TIMEOUT, b"", nobody),
        (STATUS_TIMEOUT, b"", None),
    }
    # There is an answer for both of them, or for neither.
    assert all((one.result[0] == STATUS_SUCCESS) == (one.result[2] == S_OK) for one in runs)


@pytest.mark.rule("FLT-RACE-51", "FLT-PORT-16")
@pytest.mark.parametrize("tests", ["NT_SUCCESS", "STATUS_SUCCESS"])
def test_a_driver_that_takes_a_timeout_for_an_answer(tests: str) -> None:
    from kemu.wdk.fltkernel import FltSendMessage
    from kemu.wdk.wdm import NT_SUCCESS, POOL_FLAG_PAGED, ULONG, ExAllocatePool2, ExFreePool

    async def script(lab: Lab) -> int:
        driver, _ = await talker(lab)
        await service_of(lab)
        block = await ExAllocatePool2(POOL_FLAG_PAGED, 4, "Answ")
        assert block is not None
        assert driver.Filter is not None
        status = await FltSendMessage(driver.Filter, driver.ClientPort, b"scan", 4, block, ULONG(4), SECOND)
        if NT_SUCCESS(status) if tests == "NT_SUCCESS" else status == STATUS_SUCCESS:
            _ = block[0]
        await ExFreePool(block)
        return status

    runs = all_runs(script)
    harmful = {"port-timeout-as-success"} if tests == "NT_SUCCESS" else set[str]()
    assert codes(runs) == {None} | harmful
    statuses = {one.result for one in runs if one.code is None}
    assert statuses == ({STATUS_SUCCESS} if harmful else {STATUS_SUCCESS, STATUS_TIMEOUT})


@pytest.mark.rule("FLT-RACE-52", "FLT-PORT-14")
def test_sending_before_and_after_several_who_fetch() -> None:
    async def script(lab: Lab) -> tuple[Any, ...]:
        driver, _ = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)

        async def fetches(name: str) -> str:
            hr, message = await api.FilterGetMessage(handle, 64)
            lab.note(name if hr == S_OK else f"not {name}")
            return message[16:].decode()

        async def sends() -> int:
            status = await driver.send(timeout=SECOND)
            lab.note(f"sent {status}")
            return status

        first = lab.start("first", fetches("first"), lab.app)
        second = lab.start("second", fetches("second"), lab.app)
        sender = lab.start("sender", sends())
        status = await sender.join()
        await api.CancelIoEx(handle)
        await api.CloseHandle(handle)
        return status, await first.join(), await second.join()

    runs = all_runs(script, bound=1)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {
        (STATUS_SUCCESS, "scan", ""),
        (STATUS_SUCCESS, "", "scan"),
        (STATUS_TIMEOUT, "", ""),
    }


@pytest.mark.rule("FLT-RACE-52")
@pytest.mark.parametrize("answers", [False, True])
def test_the_thread_that_fetches_ends(answers: bool) -> None:
    async def script(lab: Lab) -> tuple[Any, ...]:
        driver, _ = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)

        async def fetches() -> int:
            # It ends without an answer, whatever it got.
            hr, _ = await api.FilterGetMessage(handle, 64)
            return hr

        getter = lab.start("getter", fetches(), lab.app)
        sending = driver.ask(timeout=SECOND) if answers else driver.send(timeout=SECOND)
        sender = lab.start("sender", sending)
        await lab.terminate(getter)
        result = await sender.join()
        return result[0] if isinstance(result, tuple) else result, await getter.join()

    runs = all_runs(script)
    assert codes(runs) == {None}
    aborted = HRESULT_FROM_WIN32(ERROR_OPERATION_ABORTED)
    results = {one.result for one in runs}
    # With nobody to fetch it, or to answer it, the time passes.
    assert results == (
        {(STATUS_TIMEOUT, aborted), (STATUS_TIMEOUT, S_OK)}
        if answers
        else {(STATUS_TIMEOUT, aborted), (STATUS_SUCCESS, S_OK)}
    )


@pytest.mark.rule("FLT-RACE-52")
def test_the_thread_that_fetches_in_the_background_ends() -> None:
    async def script(lab: Lab) -> tuple[Any, ...]:
        driver, _ = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        overlapped = OVERLAPPED()

        async def fetches() -> None:
            await api.FilterGetMessage(handle, 64, overlapped)

        getter = lab.start("getter", fetches(), lab.app)
        status = await driver.send(timeout=SECOND)
        await getter.join()
        got, _ = await api.GetOverlappedResult(handle, overlapped, True)
        return status, got, overlapped.buffer[16:]

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {(STATUS_SUCCESS, True, b"scan"), (STATUS_TIMEOUT, False, b"")}


@pytest.mark.rule("FLT-RACE-53", "FLT-PORT-03")
@pytest.mark.parametrize("how", ["agrees", "refuses", "refuses and clears"])
def test_sending_while_a_program_connects(how: str) -> None:
    async def script(lab: Lab) -> tuple[Any, ...]:
        async def connect(ClientPort: Any, *rest: Any) -> int:
            await lab.step("before the store")
            driver.ClientPort.value = ClientPort
            lab.note("stored")
            await lab.step("after the store")
            if how == "refuses and clears":
                assert driver.Filter is not None
                await FltCloseClientPort(driver.Filter, driver.ClientPort)
            lab.note("returns")
            return STATUS_SUCCESS if how == "agrees" else STATUS_ACCESS_DENIED

        driver, _ = await talker(lab, connect=connect)
        api = lab.app.win32

        async def sends() -> int:
            lab.note("sends")
            status = await driver.send(timeout=SECOND)
            lab.note(f"{status}")
            return status

        sender = lab.start("sender", sends())
        hr, handle = await api.FilterConnectCommunicationPort(PORT)
        lab.note("connected" if hr == S_OK else "refused")
        got = b""
        if handle is not None:
            overlapped = OVERLAPPED()
            await api.FilterGetMessage(handle, 64, overlapped)
            status = await sender.join()
            got = overlapped.buffer[16:]
        else:
            status = await sender.join()
        return status, got

    runs = all_runs(script, unseen=True)
    found = {(one.code, one.result) for one in runs}
    gone = (STATUS_PORT_DISCONNECTED, b"")
    if how == "agrees":
        # Nothing stored yet; the message waits for the program to have its handle, and longer than its time.
        assert found == {(None, gone), (None, (STATUS_SUCCESS, b"scan")), (None, (STATUS_TIMEOUT, b""))}
        # It was sent before the connect routine had returned.
        assert any(one.before("sends", "returns") and one.result[0] == STATUS_SUCCESS for one in runs)
    elif how == "refuses and clears":
        assert {code for code, _ in found} == {None}
        assert gone in {result for _, result in found}
    else:
        assert {code for code, _ in found} == {None, "port-state-race"}
        # Only after the refusal, that is, after the connect routine has returned.
        assert all("returns" in one.order for one in runs if one.code)
        # A message on its way when the connection is refused comes back.
        assert any(one.code is None and one.before("stored", "STATUS_PORT_DISCONNECTED") for one in runs)


@pytest.mark.rule("FLT-RACE-54", "FLT-PORT-04")
@pytest.mark.parametrize("limit", [1, 2])
def test_a_program_connects_again_while_the_driver_hears_of_the_end(limit: int) -> None:
    async def script(lab: Lab) -> int:
        async def disconnect(ConnectionCookie: Any) -> None:
            lab.note("disconnect")
            assert driver.Filter is not None
            await FltCloseClientPort(driver.Filter, driver.ClientPort)
            await lab.step("still in the routine")
            lab.note("disconnected")

        driver, _ = await talker(lab, limit=limit, disconnect=disconnect)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)

        async def closes() -> None:
            await api.CloseHandle(handle)

        async def connects() -> int:
            hr, _ = await api.FilterConnectCommunicationPort(PORT)
            lab.note("connected" if hr == S_OK else "refused")
            return hr

        closer = lab.start("closer", closes())
        hr = await connects()
        await closer.join()
        return hr

    runs = all_runs(script, unseen=True)
    if limit == 1:
        assert codes(runs) == {None}
        assert {one.result for one in runs} == {S_OK, FULL}
        # A slot is free when the routine has returned, and not while it runs.
        for one in runs:
            assert (one.result == S_OK) == ("connected" in one.order and one.before("disconnected", "connected"))
        assert any(one.result == FULL and one.before("disconnect", "refused") for one in runs)
    else:
        # The second client comes before the first port is closed, or after that.
        assert codes(runs) == {None, "port-overwritten"}
        assert all(one.before("disconnect", "connected") for one in runs if one.code is None)
        assert any("disconnect" not in one.order for one in runs if one.code)
        assert any("disconnect" in one.order for one in runs if one.code)


@pytest.mark.rule("FLT-RACE-55", "FLT-PORT-11")
def test_connecting_while_the_server_port_is_closed() -> None:
    async def script(lab: Lab) -> int:
        async def connect(ClientPort: Any, *rest: Any) -> int:
            lab.note("begins")
            driver.ClientPort.value = ClientPort
            await lab.step("connecting")
            lab.note("agrees")
            return STATUS_SUCCESS

        driver, _ = await talker(lab, connect=connect)
        api = lab.app.win32

        async def connects() -> int:
            hr, handle = await api.FilterConnectCommunicationPort(PORT)
            if handle is None:
                return hr
            # The connection stays usable, whatever becomes of the server port.
            hr, _ = await api.FilterSendMessage(handle, b"still here")
            return hr

        program = lab.start("program", connects(), lab.app)
        await driver.close_server()
        lab.note("closed")
        return await program.join()

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {(*one.order, one.result) for one in runs} == {
        ("begins", "agrees", "message", "closed", S_OK),
        ("begins", "agrees", "closed", "message", S_OK),
        ("begins", "closed", "agrees", "message", S_OK),
        ("closed", NOT_FOUND),
    }


@pytest.mark.rule("FLT-RACE-55", "FLT-UNLOAD-07")
@pytest.mark.parametrize("first", ["close", "unregister"])
def test_a_program_connects_while_the_driver_is_unloaded(first: str) -> None:
    async def script(lab: Lab) -> Any:
        driver, loaded = await talker(lab)
        if first == "unregister":

            async def closes_late() -> None:
                assert driver.Filter is not None
                await FltUnregisterFilter(driver.Filter)

            driver.closes = closes_late
        api = lab.app.win32
        program = lab.start("program", api.FilterConnectCommunicationPort(PORT), lab.app)
        status = await loaded.unload()
        hr, _ = await program.join()
        return status, hr

    runs = all_runs(script, bound=2)
    if first == "unregister":
        assert codes(runs) == {"unload-port-open"}
        return
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {(STATUS_SUCCESS, S_OK), (STATUS_SUCCESS, NOT_FOUND)}
    # Who has connected before the server port was closed is told of the end.
    assert orders(runs) == {("connect", "disconnect"), ()}


@pytest.mark.rule("FLT-RACE-56", "FLT-IO-28")
@pytest.mark.parametrize("exempt", [False, True])
def test_all_threads_of_a_service_are_busy(exempt: bool) -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            own = Data.Thread in [one.thread for one in service.listeners]
            if not (own and exempt):
                await driver.ask(b"own" if own else b"app")
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        async def scan(data: bytes) -> bytes:
            # Before it answers about a program's file it opens the file itself.
            if data == b"app":
                await lab.open()
            return b"safe"

        driver, _ = await talker(lab, {IRP_MJ_CREATE: (pre, None)})
        service = await service_of(lab, scan, 2)
        await lab.together(lab.open(), lab.open())

    runs = sample(script, 80)
    # The second thread answers what the first has caused, or both open files.
    assert codes(runs) == ({None} if exempt else {None, "reentrant-deadlock"})


@pytest.mark.rule("FLT-RACE-57", "FLT-PORT-18")
@pytest.mark.parametrize("timeout", [SECOND, None])
def test_the_service_is_told_of_the_unload(timeout: int | None) -> None:
    async def script(lab: Lab) -> Any:
        driver, loaded = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        statuses: list[int] = []

        async def closes() -> None:
            await driver.close_server()
            statuses.append((await driver.ask(b"unloading", timeout=timeout))[0])

        driver.closes = closes

        async def service() -> str:
            how = ("answers", "has died", "hangs")[lab.choose(3, "the service")]
            if how == "answers":
                hr, message = await api.FilterGetMessage(handle, 64)
                if hr == S_OK:
                    await api.FilterReplyMessage(handle, reply(message, b"bye!"))
            elif how == "has died":
                await api.CloseHandle(handle)
            return how

        program = lab.start("program", service(), lab.app)
        unloaded = await loaded.unload()
        return await program.join(), statuses[0], unloaded

    runs = all_runs(script, bound=1)
    done = {one.result for one in runs if one.code is None}
    answered = ("answers", STATUS_SUCCESS, STATUS_SUCCESS)
    died = ("has died", STATUS_PORT_DISCONNECTED, STATUS_SUCCESS)
    if timeout is None:
        assert done == {answered, died}
        assert codes(runs) == {None, "unload-hang"}
    else:
        assert codes(runs) == {None}
        assert done == {
            answered,
            died,
            *((how, STATUS_TIMEOUT, STATUS_SUCCESS) for how in ("hangs", "answers", "has died")),
        }
