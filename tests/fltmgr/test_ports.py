"""Communication ports (FLT-PORT): listening, connecting, messages both ways, and the end of a connection."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, codes, run
from fltmgr.ports_kit import ATTRIBUTES, PORT, SECOND, Talker, as_program, header, reply, service_of, talker

from kemu.nt.driver import in_driver
from kemu.nt.kthread import PASSIVE_LEVEL
from kemu.user.errors import (
    ERROR_ACCESS_DENIED,
    ERROR_CONNECTION_COUNT_LIMIT,
    ERROR_FILE_NOT_FOUND,
    ERROR_INSUFFICIENT_BUFFER,
    ERROR_INVALID_FUNCTION,
    ERROR_INVALID_HANDLE,
    ERROR_IO_INCOMPLETE,
    ERROR_IO_PENDING,
    ERROR_NOACCESS,
    ERROR_OPERATION_ABORTED,
)
from kemu.user.win32 import (
    E_INVALIDARG,
    ERROR_FLT_NO_WAITER_FOR_REPLY,
    HRESULT_FROM_WIN32,
    INVALID_HANDLE_VALUE,
    IS_ERROR,
    OVERLAPPED,
    S_OK,
    WAIT_OBJECT_0,
    WAIT_TIMEOUT,
)
from kemu.wdk.fltkernel import (
    FLT_PORT_ALL_ACCESS,
    PFLT_PORT,
    FltBuildDefaultSecurityDescriptor,
    FltCloseClientPort,
    FltCreateCommunicationPort,
    FltFreeSecurityDescriptor,
    FltSendMessage,
    FltUnregisterFilter,
)
from kemu.wdk.fltuserstructures import FLT_PORT_FLAG_SYNC_HANDLE
from kemu.wdk.ntifs import RtlSetDaclSecurityDescriptor
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_BUFFER_OVERFLOW,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_NAME_COLLISION,
    STATUS_OBJECT_PATH_SYNTAX_BAD,
    STATUS_PORT_DISCONNECTED,
    STATUS_SUCCESS,
    STATUS_THREAD_IS_TERMINATING,
    STATUS_TIMEOUT,
    STATUS_UNSUCCESSFUL,
)
from kemu.wdk.wdm import (
    OBJ_CASE_INSENSITIVE,
    ULONG,
    InitializeObjectAttributes,
    PsGetCurrentProcess,
    RtlCopyMemory,
)

GONE = HRESULT_FROM_WIN32(ERROR_INVALID_HANDLE)
PENDING = HRESULT_FROM_WIN32(ERROR_IO_PENDING)


# Listening.


@pytest.mark.rule("FLT-PORT-01")
@pytest.mark.parametrize(
    ("name", "flags", "limit", "without", "expected"),
    [
        (r"\Other", ATTRIBUTES, 1, "", STATUS_SUCCESS),
        (r"\port", ATTRIBUTES, 1, "", STATUS_OBJECT_NAME_COLLISION),
        (r"\Other", OBJ_CASE_INSENSITIVE, 1, "", STATUS_INVALID_PARAMETER),
        (r"\Other", ATTRIBUTES, 0, "", STATUS_INVALID_PARAMETER),
        (r"\Other", ATTRIBUTES, -1, "", STATUS_INVALID_PARAMETER),
        (r"\Other", ATTRIBUTES, 1, "connect", STATUS_INVALID_PARAMETER),
        (r"\Other", ATTRIBUTES, 1, "disconnect", STATUS_INVALID_PARAMETER),
        (r"\Other", ATTRIBUTES, 1, "message", STATUS_SUCCESS),
        (None, ATTRIBUTES, 1, "", STATUS_INVALID_PARAMETER),
        ("Other", ATTRIBUTES, 1, "", STATUS_OBJECT_PATH_SYNTAX_BAD),
        ("\\Other\\", ATTRIBUTES, 1, "", STATUS_OBJECT_PATH_SYNTAX_BAD),
    ],
)
def test_what_listening_takes(name: str | None, flags: int, limit: int, without: str, expected: int) -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await talker(lab)
        assert driver.Filter is not None
        routines: dict[str, Any] = {
            "connect": driver.Connect,
            "disconnect": driver.Disconnect,
            "message": driver.Message,
        }
        routines.pop(without, None)
        attributes = InitializeObjectAttributes(name, flags)
        status, port = await FltCreateCommunicationPort(
            driver.Filter,
            attributes,
            None,
            routines.get("connect"),
            routines.get("disconnect"),
            routines.get("message"),
            limit,
        )
        assert (port is not None) == (status == STATUS_SUCCESS)
        return status

    assert run(script).result == expected


@pytest.mark.rule("FLT-PORT-01")
def test_a_filter_that_is_being_unregistered_cannot_listen() -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await talker(lab)
        assert driver.Filter is not None
        driver.Filter.deleting = True
        attributes = InitializeObjectAttributes(r"\Other", ATTRIBUTES)
        result = await FltCreateCommunicationPort(
            driver.Filter, attributes, None, driver.Connect, driver.Disconnect, None, 1
        )
        driver.Filter.deleting = False
        return result

    assert run(script).result == (STATUS_FLT_DELETING_OBJECT, None)


@pytest.mark.rule("FLT-PORT-01", "FLT-PORT-15")
def test_resources_may_be_short() -> None:
    async def script(lab: Lab) -> Any:
        driver, loaded = await talker(lab)
        if loaded.status != STATUS_SUCCESS:
            return loaded.status, None
        assert driver.Filter is not None
        built, security = await FltBuildDefaultSecurityDescriptor(FLT_PORT_ALL_ACCESS)
        attributes = InitializeObjectAttributes(r"\Other", ATTRIBUTES, 0, security)
        made = await FltCreateCommunicationPort(
            driver.Filter, attributes, None, driver.Connect, driver.Disconnect, None, 1
        )
        if security is not None:
            await FltFreeSecurityDescriptor(security)
        return built, made[0], await driver.send()

    seen = {one.result for one in all_runs(script, low_resources="once")}
    fails = STATUS_INSUFFICIENT_RESOURCES
    assert seen == {
        (STATUS_SUCCESS, STATUS_SUCCESS, STATUS_PORT_DISCONNECTED),
        (fails, STATUS_SUCCESS, STATUS_PORT_DISCONNECTED),
        (STATUS_SUCCESS, fails, STATUS_PORT_DISCONNECTED),
        (STATUS_SUCCESS, STATUS_SUCCESS, fails),
    }


@pytest.mark.rule("FLT-PORT-01", "FLT-RACE-55")
def test_programs_may_connect_before_the_routine_returns() -> None:
    async def script(lab: Lab) -> None:
        driver = Talker(lab)

        async def load() -> None:
            await lab.load(driver, "300000")
            lab.note("loaded")

        async def program() -> None:
            hr, _ = await lab.app.win32.FilterConnectCommunicationPort(PORT)
            lab.note("connected" if hr == S_OK else "refused")

        lab._started_threads = True
        await lab.together(load(), program())

    orders = {tuple(note for note in one.order if note != "connect") for one in all_runs(script)}
    # Before it listens, between that and its return, after that.
    assert orders == {("refused", "loaded"), ("connected", "loaded"), ("loaded", "connected")}


@pytest.mark.rule("FLT-PORT-02")
@pytest.mark.parametrize(
    ("granted", "dacl", "administrator", "expected"),
    [
        (FLT_PORT_ALL_ACCESS, True, True, S_OK),
        (FLT_PORT_ALL_ACCESS, True, False, HRESULT_FROM_WIN32(ERROR_ACCESS_DENIED)),
        (0x10000, True, True, HRESULT_FROM_WIN32(ERROR_ACCESS_DENIED)),
        (FLT_PORT_ALL_ACCESS, False, False, S_OK),
        (None, True, True, S_OK),
        (None, True, False, HRESULT_FROM_WIN32(ERROR_ACCESS_DENIED)),
    ],
)
def test_who_may_connect(granted: int | None, dacl: bool, administrator: bool, expected: int) -> None:
    async def script(lab: Lab) -> int:
        driver, _ = await talker(lab)
        assert driver.Filter is not None
        security = None
        if granted is not None:
            _, security = await FltBuildDefaultSecurityDescriptor(granted)
            assert security is not None
            if not dacl:
                RtlSetDaclSecurityDescriptor(security, True, None, False)
        attributes = InitializeObjectAttributes(r"\Other", ATTRIBUTES, 0, security)
        await FltCreateCommunicationPort(driver.Filter, attributes, None, driver.Connect, driver.Disconnect, None, 1)
        if security is not None:
            await FltFreeSecurityDescriptor(security)
        lab.app.win32.is_administrator = administrator
        hr, handle = await lab.app.win32.FilterConnectCommunicationPort(r"\other")
        assert (handle is not INVALID_HANDLE_VALUE) == (hr == S_OK)
        return hr

    one = run(script)
    assert (one.result, one.code) == (expected, None)


def test_security_descriptors_are_given_back() -> None:
    def unloads(frees: int) -> str | None:
        async def script(lab: Lab) -> None:
            driver, loaded = await talker(lab)

            async def leaves() -> None:
                _, security = await FltBuildDefaultSecurityDescriptor(FLT_PORT_ALL_ACCESS)
                assert security is not None
                for _ in range(frees):
                    await FltFreeSecurityDescriptor(security)
                await driver.close_server()

            driver.closes = leaves
            await loaded.unload()

        return run(script).code

    assert unloads(0) == "ke.pool-leak"
    assert unloads(1) is None
    assert unloads(2) == "ke.use-after-free"


# Connecting.


@pytest.mark.rule("FLT-PORT-03")
def test_the_driver_is_asked_on_the_programs_thread() -> None:
    async def script(lab: Lab) -> Any:
        async def connect(ClientPort: Any, Cookie: Any, Context: Any, SizeOfContext: int) -> Any:
            lab.note("connect", (Cookie, Context, SizeOfContext, PsGetCurrentProcess() is lab.app.process))
            driver.ClientPort.value = ClientPort
            return STATUS_SUCCESS, "cookie"

        driver, _ = await talker(lab, connect=connect)
        return await as_program(lab.app, lab.app.win32.FilterConnectCommunicationPort(PORT, 0, b"hello!", 5))

    one = run(script)
    note = one.note("connect")
    assert (note.thread, note.irql, note.value) == ("program", PASSIVE_LEVEL, ("server", b"hello", 5, True))
    hr, handle = one.result
    assert hr == S_OK
    assert handle is not None


@pytest.mark.rule("FLT-PORT-03")
def test_without_a_context_there_is_none() -> None:
    async def script(lab: Lab) -> Any:
        await talker(lab)
        await lab.app.win32.FilterConnectCommunicationPort(PORT)

    assert run(script).note("connect").value == ("server", None, 0)


@pytest.mark.rule("FLT-PORT-03")
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (STATUS_ACCESS_DENIED, HRESULT_FROM_WIN32(ERROR_ACCESS_DENIED)),
        (STATUS_FLT_DELETING_OBJECT, 0x801F000B),
        (STATUS_TIMEOUT, S_OK),
    ],
)
def test_a_driver_may_refuse(status: int, expected: int) -> None:
    async def script(lab: Lab) -> Any:
        async def connect(ClientPort: Any, Cookie: Any, Context: Any, SizeOfContext: int) -> int:
            return status

        _, loaded = await talker(lab, connect=connect)
        first = await lab.app.win32.FilterConnectCommunicationPort(PORT)
        # A refused connection takes up no slot.
        second = await lab.app.win32.FilterConnectCommunicationPort(PORT)
        if first[1] is None:
            await loaded.unload()
        return first[0], first[1] is INVALID_HANDLE_VALUE, second[0]

    one = run(script)
    second = expected if expected != S_OK else HRESULT_FROM_WIN32(ERROR_CONNECTION_COUNT_LIMIT)
    assert one.result == (expected, expected != S_OK, second)
    assert "disconnect" not in one.order
    assert one.code is None


@pytest.mark.rule("FLT-PORT-03")
def test_nobody_listens_there() -> None:
    async def script(lab: Lab) -> Any:
        api = lab.app.win32
        return [
            await api.FilterConnectCommunicationPort(r"\Nothing"),
            await api.FilterConnectCommunicationPort(r"\Nothing", 0x10),
            IS_ERROR(S_OK),
            IS_ERROR(GONE),
            HRESULT_FROM_WIN32(0),
        ]

    nothing = (HRESULT_FROM_WIN32(ERROR_FILE_NOT_FOUND), INVALID_HANDLE_VALUE)
    assert run(script).result == [nothing, (E_INVALIDARG, INVALID_HANDLE_VALUE), False, True, S_OK]


@pytest.mark.rule("FLT-PORT-04")
def test_there_are_as_many_connections_as_the_driver_wants() -> None:
    async def script(lab: Lab) -> list[int]:
        ports: dict[str, PFLT_PORT] = {}

        async def connect(ClientPort: Any, Cookie: Any, Context: bytes, SizeOfContext: int) -> Any:
            name = Context.decode()
            ports[name] = PFLT_PORT(ClientPort)
            return STATUS_SUCCESS, name

        async def disconnect(ConnectionCookie: str) -> None:
            assert driver.Filter is not None
            await FltCloseClientPort(driver.Filter, ports.pop(ConnectionCookie))

        driver, _ = await talker(lab, limit=2, connect=connect, disconnect=disconnect)
        api = lab.app.win32
        made = [await api.FilterConnectCommunicationPort(PORT, 0, name) for name in (b"a", b"b", b"c")]
        await api.CloseHandle(made[0][1])
        made.append(await api.FilterConnectCommunicationPort(PORT, 0, b"d"))
        return [hr for hr, _ in made]

    full = HRESULT_FROM_WIN32(ERROR_CONNECTION_COUNT_LIMIT)
    assert run(script).result == [S_OK, S_OK, full, S_OK]


@pytest.mark.rule("FLT-PORT-06", "FLT-ORD-09")
def test_the_last_handle_disconnects() -> None:
    async def script(lab: Lab) -> list[Any]:
        driver, loaded = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        assert handle is not None
        copied, twin = await api.DuplicateHandle(lab.app.process, handle, lab.app.process)
        await api.CloseHandle(handle)
        lab.note("one left")
        closed = await as_program(lab.app, api.CloseHandle(twin), "closer")
        return [copied, closed, await api.CloseHandle(twin), await driver.send(), await loaded.unload()]

    one = run(script)
    assert one.order == ["connect", "one left", "disconnect"]
    note = one.note("disconnect")
    assert (note.thread, note.irql, note.value) == ("closer", PASSIVE_LEVEL, "connection")
    assert one.result == [True, True, False, STATUS_PORT_DISCONNECTED, STATUS_SUCCESS]


@pytest.mark.rule("FLT-PORT-06")
def test_the_end_of_the_process_disconnects() -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await talker(lab)
        service = await service_of(lab)
        sender = lab.start("sender", driver.ask())
        await service.kill()
        return await sender.join(), lab.app.process.has_exited

    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {
        ((STATUS_SUCCESS, b"safe"), True),
        ((STATUS_PORT_DISCONNECTED, b""), True),
    }
    assert all(one.order == ["connect", "disconnect"] for one in runs)


@pytest.mark.rule("FLT-PORT-05")
def test_each_connection_has_its_own_messages() -> None:
    async def script(lab: Lab) -> list[Any]:
        ports: list[PFLT_PORT] = []

        async def connect(ClientPort: Any, Cookie: Any, Context: Any, SizeOfContext: int) -> Any:
            ports.append(PFLT_PORT(ClientPort, f"Port{len(ports)}"))
            return STATUS_SUCCESS, len(ports) - 1

        async def disconnect(ConnectionCookie: int) -> None:
            assert driver.Filter is not None
            await FltCloseClientPort(driver.Filter, ports[ConnectionCookie])

        driver, _ = await talker(lab, limit=2, connect=connect, disconnect=disconnect)
        api = lab.app.win32
        handles = [(await api.FilterConnectCommunicationPort(PORT))[1] for _ in range(2)]
        senders = [lab.start(f"to {at}", driver.send(bytes([at]), None, ports[at])) for at in range(2)]
        got = [(await api.FilterGetMessage(handles[at], 64))[1][16:] for at in (1, 0)]
        statuses = [await one.join() for one in senders]
        # The end of one is not the end of the other.
        senders = [lab.start(f"to {at} again", driver.send(b"", None, ports[at])) for at in range(2)]
        await api.CloseHandle(handles[0])
        hr, _ = await api.FilterGetMessage(handles[1], 64)
        return [got, statuses, hr, [await one.join() for one in senders]]

    for one in all_runs(script, bound=1):
        assert one.result == [
            [b"\1", b"\0"],
            [STATUS_SUCCESS, STATUS_SUCCESS],
            S_OK,
            [STATUS_PORT_DISCONNECTED, STATUS_SUCCESS],
        ]


@pytest.mark.rule("FLT-PORT-05", "FLT-PORT-08", "FLT-PORT-18")
def test_the_driver_may_end_a_connection() -> None:
    async def script(lab: Lab) -> list[Any]:
        driver, loaded = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        overlapped = OVERLAPPED(0, await api.CreateEventW(None, True))
        pending = await api.FilterGetMessage(handle, 64, overlapped)
        assert driver.Filter is not None
        await FltCloseClientPort(driver.Filter, driver.ClientPort)
        results: list[Any] = [pending[0], driver.ClientPort.value, await driver.send()]
        results.append(await api.GetOverlappedResult(handle, overlapped, True))
        results.append(api.GetLastError())
        results.append((await api.FilterGetMessage(handle, 64))[0])
        results.append((await api.FilterSendMessage(handle, b""))[0])
        results.append(await api.FilterReplyMessage(handle, bytes(16)))
        # The driver hears of the program's end of it all the same, and closing NULL does nothing.
        await api.CloseHandle(handle)
        return [*results, await loaded.unload()]

    one = run(script)
    assert one.result == [
        PENDING, None, STATUS_PORT_DISCONNECTED, (False, 0), ERROR_INVALID_HANDLE, GONE, GONE, GONE, STATUS_SUCCESS,
    ]  # fmt: skip
    assert (one.order, one.code) == (["connect", "disconnect"], None)


@pytest.mark.rule("FLT-PORT-11")
def test_connections_outlive_the_server_port() -> None:
    async def script(lab: Lab) -> list[Any]:
        driver, _ = await talker(lab)
        service = await service_of(lab)
        await driver.close_server()
        refused = await lab.app.win32.FilterConnectCommunicationPort(PORT)
        answer = await driver.ask()
        sent = await service.send(b"x")
        await service.stop()
        return [refused[0], answer, sent]

    assert run(script).result == [HRESULT_FROM_WIN32(ERROR_FILE_NOT_FOUND), (STATUS_SUCCESS, b"safe"), (S_OK, b"")]


@pytest.mark.rule("FLT-PORT-11")
def test_a_server_port_is_gone_when_it_is_closed() -> None:
    async def script(lab: Lab) -> None:
        driver, _ = await talker(lab)
        await driver.close_server()
        await driver.close_server()

    one = run(script)
    assert one.code == "ke.use-after-free"
    assert "which script has closed" in one.finding.detail


# The program's messages.


@pytest.mark.rule("FLT-PORT-12", "FLT-PORT-21", "FLT-PORT-25", "FLT-ORD-09")
@pytest.mark.parametrize(
    ("sent", "size", "room", "expected"),
    [(b"abc", 3, 8, (S_OK, b"cba")), (b"abc", 2, 8, (S_OK, b"ba")), (None, 5, 0, (S_OK, b""))],
)
def test_a_program_sends(sent: bytes | None, size: int, room: int, expected: tuple[int, bytes]) -> None:
    async def script(lab: Lab) -> Any:
        async def message(Cookie: Any, Input: Any, InputLength: int, Output: Any, OutputLength: int) -> Any:
            lab.note("message", (Cookie, Input is None, InputLength, Output is None, OutputLength))
            if Output is None or Input is None:
                return STATUS_SUCCESS
            try:
                data = Input[0:InputLength]
                RtlCopyMemory(Output, data[::-1], InputLength)
            except ValueError:
                return STATUS_INVALID_PARAMETER
            return STATUS_SUCCESS, InputLength

        await talker(lab, message=message)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        output = lab.app.memory(bytes(room)) if room else None

        async def program() -> tuple[int, bytes]:
            hr, length = await api.FilterSendMessage(handle, sent, size, output, room)
            return hr, bytes(output.content[:length]) if output is not None else b""

        return await as_program(lab.app, program())

    one = run(script)
    assert one.code is None
    note = one.note("message")
    assert (note.thread, note.irql) == ("program", PASSIVE_LEVEL)
    assert note.value == ("connection", sent is None, size, room == 0, room)
    assert one.result == expected


@pytest.mark.rule("FLT-PORT-12")
def test_a_driver_without_a_message_routine_gets_none() -> None:
    async def script(lab: Lab) -> Any:
        await talker(lab, message=None)
        _, handle = await lab.app.win32.FilterConnectCommunicationPort(PORT)
        return await lab.app.win32.FilterSendMessage(handle, b"abc")

    assert run(script).result == (HRESULT_FROM_WIN32(ERROR_INVALID_FUNCTION), 0)


@pytest.mark.rule("FLT-PORT-12")
def test_the_status_of_the_routine_is_the_result_of_the_call() -> None:
    async def script(lab: Lab) -> Any:
        async def message(*arguments: Any) -> Any:
            return STATUS_ACCESS_DENIED, 3

        await talker(lab, message=message)
        _, handle = await lab.app.win32.FilterConnectCommunicationPort(PORT)
        return await lab.app.win32.FilterSendMessage(handle, b"abc")

    assert run(script).result == (HRESULT_FROM_WIN32(ERROR_ACCESS_DENIED), 0)


@pytest.mark.rule("FLT-PORT-13")
def test_memory_that_is_not_there_does_not_come_to_the_driver() -> None:
    async def script(lab: Lab) -> Any:
        await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        constant = lab.app.memory(b"1234", writable=False)
        return [
            await api.FilterSendMessage(handle, b"abc", 4),
            await api.FilterSendMessage(handle, None, 0, constant, 4),
            await api.FilterSendMessage(handle, constant, 4),
        ]

    one = run(script)
    away = HRESULT_FROM_WIN32(ERROR_NOACCESS), 0
    assert one.result == [away, away, (S_OK, 0)]
    assert one.order == ["connect", "message"]


@pytest.mark.rule("FLT-ORD-09")
def test_a_connection_ends_after_its_last_message() -> None:
    async def script(lab: Lab) -> None:
        async def message(*arguments: Any) -> int:
            lab.note("message begins", arguments[0])
            await lab.step()
            lab.note("message ends")
            return STATUS_SUCCESS

        await talker(lab, message=message)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)

        async def sends() -> None:
            hr, _ = await api.FilterSendMessage(handle)
            lab.note("sent" if hr == S_OK else "not sent")

        sender = lab.start("sender", sends(), lab.app)
        await api.CloseHandle(handle)
        await sender.join()

    runs = all_runs(script)
    assert codes(runs) == {None}
    orders = {tuple(one.order) for one in runs}
    # The message routine is not called, or both its ends come before the disconnect routine.
    assert {order[1:] for order in orders} == {
        ("message begins", "message ends", "sent", "disconnect"),
        ("disconnect", "not sent"),
        ("not sent", "disconnect"),
    }
    assert {order[0] for order in orders} == {"connect"}
    assert {note.value for one in runs for note in one.notes if note.what in {"message begins", "disconnect"}} == {
        "connection"
    }


# The driver's messages.


@pytest.mark.rule("FLT-PORT-14", "FLT-RACE-52")
def test_a_message_waits_for_somebody_to_fetch_it() -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)

        async def sender() -> int:
            status = await driver.send()
            lab.note("sent")
            return status

        async def getter() -> int:
            lab.note("gets")
            hr, _ = await api.FilterGetMessage(handle, 64)
            lab.note("got")
            return hr

        return await lab.together(sender(), getter())

    runs = all_runs(script)
    assert {tuple(one.result) for one in runs} == {(STATUS_SUCCESS, S_OK)}
    # The message is never delivered before somebody asks for it, whoever comes first.
    assert all(one.before("gets", "sent") for one in runs)
    assert {one.before("sent", "got") for one in runs} == {True, False}


@pytest.mark.rule("FLT-PORT-14", "FLT-PORT-15")
def test_the_timeout_is_about_both_waits_together() -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        began = lab.now()

        async def late() -> list[Any]:
            await lab.sleep(0.7)
            _, message = await api.FilterGetMessage(handle, 64)
            await lab.sleep(0.7)
            return [len(message), await api.FilterReplyMessage(handle, reply(message, b"safe"))]

        first = lab.start("sender", driver.ask(timeout=SECOND))
        second = lab.start("late", late())
        status = await first.join()
        return status, lab.now() - began, await second.join()

    one = run(script)
    assert one.result == ((STATUS_TIMEOUT, b""), -SECOND, [16 + 4, ERROR_FLT_NO_WAITER_FOR_REPLY])


@pytest.mark.rule("FLT-PORT-14", "FLT-PORT-15")
@pytest.mark.parametrize("absolute", [False, True])
def test_nobody_fetches_it_in_time(absolute: bool) -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        await lab.sleep(3)
        status = await driver.send(timeout=lab.now() + 50 if absolute else -50)
        later = lab.now()
        # It is gone: the next one to ask waits.
        overlapped = OVERLAPPED()
        return status, later, (await api.FilterGetMessage(handle, 64, overlapped))[0]

    assert run(script).result == (STATUS_TIMEOUT, 30_000_050, PENDING)


@pytest.mark.rule("FLT-PORT-15", "FLT-PORT-20")
@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        (b"ab", 0, (STATUS_SUCCESS, b"ab", 2)),
        (b"", 0, (STATUS_SUCCESS, b"", 0)),
        (b"abcd", 0, (STATUS_SUCCESS, b"abcd", 4)),
        (b"abcdef", 0, (STATUS_BUFFER_OVERFLOW, b"abcd", 4)),
        (b"abcd", -0x3FFFFFFF, (STATUS_UNSUCCESSFUL, b"abcd", 4)),
    ],
)
def test_an_answer(answer: bytes, status: int, expected: Any) -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        buffer, length = bytearray(b"...."), ULONG(4)
        assert driver.Filter is not None
        sending = FltSendMessage(driver.Filter, driver.ClientPort, b"scan", 4, buffer, length, None)
        sender = lab.start("sender", sending)
        _, message = await api.FilterGetMessage(handle, 64)
        assert header(message).ReplyLength == 16 + 4
        assert message[16:] == b"scan"
        hr = await api.FilterReplyMessage(handle, reply(message, answer, status))
        result = await sender.join()
        return hr, (result, bytes(buffer[: length.value]), length.value)

    one = run(script)
    assert one.result == (S_OK, expected)
    assert one.code is None


@pytest.mark.rule("FLT-PORT-15")
@pytest.mark.parametrize("fetched", [False, True])
def test_the_end_of_the_senders_thread_ends_its_wait(fetched: bool) -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        sender = lab.start("sender", driver.ask())
        message = b""
        if fetched:
            _, message = await api.FilterGetMessage(handle, 64)
        await lab.terminate(sender)
        status = await sender.join()
        hr = await api.FilterReplyMessage(handle, reply(message, b"late")) if fetched else None
        return status, hr

    runs = all_runs(script)
    assert codes(runs) == {None}
    late = ERROR_FLT_NO_WAITER_FOR_REPLY if fetched else None
    assert {one.result for one in runs} == {((STATUS_THREAD_IS_TERMINATING, b""), late)}


@pytest.mark.rule("FLT-PORT-08", "FLT-PORT-18")
def test_a_variable_without_a_port_is_no_connection() -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await talker(lab)
        return await driver.send(), await driver.ask()

    assert run(script).result == (STATUS_PORT_DISCONNECTED, (STATUS_PORT_DISCONNECTED, b""))


# Fetching.


@pytest.mark.rule("FLT-PORT-19")
@pytest.mark.parametrize("event", [False, True])
def test_fetching_in_the_background(event: bool) -> None:
    async def script(lab: Lab) -> list[Any]:
        driver, _ = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        hEvent = await api.CreateEventW(None, True, True) if event else None
        overlapped = OVERLAPPED(0, hEvent)
        begun = await api.FilterGetMessage(handle, 64, overlapped)
        results: list[Any] = [begun, api.GetLastError()]
        results.append((await api.GetOverlappedResult(handle, overlapped, False), api.GetLastError()))
        if event:
            results.append(await api.WaitForSingleObject(hEvent, 0))
        sender = lab.start("sender", driver.send())
        if event:
            results.append(await api.WaitForSingleObject(hEvent))
        results.append(await api.GetOverlappedResult(handle, overlapped, True))
        results += [overlapped.buffer[16:], header(overlapped.buffer).ReplyLength, await sender.join()]
        return results

    runs = all_runs(script)
    assert codes(runs) == {None}
    for one in runs:
        waits = [WAIT_TIMEOUT, WAIT_OBJECT_0] if event else []
        assert one.result == [
            (PENDING, b""), ERROR_IO_PENDING, ((False, 0), ERROR_IO_INCOMPLETE), *waits, (True, 20), b"scan", 0,
            STATUS_SUCCESS,
        ]  # fmt: skip


@pytest.mark.rule("FLT-PORT-19")
def test_a_message_that_is_there_is_fetched_at_once() -> None:
    async def script(lab: Lab) -> list[Any]:
        driver, _ = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        sender = lab.start("sender", driver.send())
        await lab.sleep(1)
        overlapped = OVERLAPPED(0, await api.CreateEventW(None, True))
        got = await api.FilterGetMessage(handle, 64, overlapped)
        waited = await api.WaitForSingleObject(overlapped.hEvent, 0)
        return [
            got[0],
            got[1][16:],
            waited,
            await api.GetOverlappedResult(handle, overlapped, False),
            await sender.join(),
        ]

    assert run(script).result == [S_OK, b"scan", WAIT_OBJECT_0, (True, 20), STATUS_SUCCESS]


@pytest.mark.rule("FLT-PORT-19")
def test_a_small_buffer_leaves_the_message_where_it_is() -> None:
    async def script(lab: Lab) -> list[Any]:
        driver, _ = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        small = OVERLAPPED()
        results: list[Any] = [(await api.FilterGetMessage(handle, 15))[0]]
        waiting = (await api.FilterGetMessage(handle, 19, small))[0]
        sender = lab.start("sender", driver.send())
        await lab.sleep(1)
        results += [waiting, await api.GetOverlappedResult(handle, small, True), api.GetLastError()]
        results.append((await api.FilterGetMessage(handle, 19, OVERLAPPED()))[0])
        results.append((await api.FilterGetMessage(handle, 20))[0])
        return [*results, await sender.join()]

    short = HRESULT_FROM_WIN32(ERROR_INSUFFICIENT_BUFFER)
    assert run(script).result == [
        E_INVALIDARG, PENDING, (False, 0), ERROR_INSUFFICIENT_BUFFER, short, S_OK, STATUS_SUCCESS,
    ]  # fmt: skip


@pytest.mark.rule("FLT-PORT-20")
def test_an_answer_that_nobody_waits_for() -> None:
    async def script(lab: Lab) -> list[Any]:
        driver, _ = await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        sender = lab.start("one way", driver.send())
        _, one_way = await api.FilterGetMessage(handle, 64)
        results: list[Any] = [await api.FilterReplyMessage(handle, reply(one_way, b""))]
        asker = lab.start("asks", driver.ask())
        _, message = await api.FilterGetMessage(handle, 64)
        answer = reply(message, b"safe")
        results += [await api.FilterReplyMessage(handle, answer), await api.FilterReplyMessage(handle, answer)]
        results += [await api.FilterReplyMessage(handle, answer, 8), await api.FilterReplyMessage(handle, bytes(16))]
        results.append(header(one_way).MessageId != header(message).MessageId)
        await sender.join()
        return [*results, await asker.join()]

    nobody = ERROR_FLT_NO_WAITER_FOR_REPLY
    assert run(script).result == [nobody, S_OK, nobody, E_INVALIDARG, nobody, True, (STATUS_SUCCESS, b"safe")]


@pytest.mark.rule("FLT-PORT-21")
def test_handles_are_closed_once_and_are_of_a_port() -> None:
    async def script(lab: Lab) -> list[Any]:
        await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        event = await api.CreateEventW()
        results = [
            (await api.FilterGetMessage(event, 64))[0],
            (await api.FilterGetMessage(None, 64))[0],
            await api.FilterReplyMessage(event, bytes(16)),
            (await api.FilterSendMessage(event, b""))[0],
            await api.CancelIoEx(event),
        ]
        await api.CloseHandle(handle)
        return [*results, (await api.FilterGetMessage(handle, 64, OVERLAPPED()))[0]]

    assert run(script).result == [GONE, GONE, GONE, GONE, False, GONE]


@pytest.mark.rule("FLT-PORT-21")
def test_calls_on_a_synchronous_handle_come_one_after_another() -> None:
    def program(flags: int) -> set[tuple[Any, ...]]:
        async def script(lab: Lab) -> Any:
            driver, _ = await talker(lab)
            api = lab.app.win32
            _, handle = await api.FilterConnectCommunicationPort(PORT, flags)

            async def get() -> None:
                # On a synchronous handle the call waits although it was given an OVERLAPPED.
                overlapped = OVERLAPPED()
                hr, _ = await api.FilterGetMessage(handle, 64, overlapped)
                lab.note("got" if hr == S_OK else "gets")

            async def send() -> None:
                await api.FilterSendMessage(handle, b"")
                lab.note("sent")

            async def ask() -> None:
                await lab.sleep(1)
                lab.note("asks")
                await driver.send()

            await lab.together(get(), send(), ask())

        runs = all_runs(script, bound=1)
        assert codes(runs) <= {None, "ke.hang"}
        return {tuple(note for note in one.order if note not in {"connect", "message"}) for one in runs}

    asynchronous, synchronous = program(0), program(FLT_PORT_FLAG_SYNC_HANDLE)
    assert ("gets", "sent", "asks") in {order[:3] for order in asynchronous}
    assert not any("gets" in order for order in synchronous)
    # The send waits for the whole call before it.
    assert ("asks", "got", "sent") in synchronous
    assert ("sent", "asks", "got") in synchronous


def test_waiting_for_messages_can_be_cancelled() -> None:
    async def script(lab: Lab) -> list[Any]:
        await talker(lab)
        api = lab.app.win32
        _, handle = await api.FilterConnectCommunicationPort(PORT)
        first, second = OVERLAPPED(), OVERLAPPED()
        await api.FilterGetMessage(handle, 64, first)
        await api.FilterGetMessage(handle, 64, second)
        results: list[Any] = [await api.CancelIoEx(handle, second)]
        results += [await api.GetOverlappedResult(handle, second, True), api.GetLastError()]
        results += [await api.GetOverlappedResult(handle, first, False), api.GetLastError()]
        results += [await api.CancelIoEx(handle), await api.GetOverlappedResult(handle, first, True)]
        return [*results, await api.CancelIoEx(handle)]

    aborted = ERROR_OPERATION_ABORTED
    assert run(script).result == [
        True, (False, 0), aborted, (False, 0), ERROR_IO_INCOMPLETE, True, (False, 0), False,
    ]  # fmt: skip


# Unloading.


@pytest.mark.rule("FLT-UNLOAD-18", "FLT-PORT-06")
def test_an_unload_closes_connections() -> None:
    async def script(lab: Lab) -> list[Any]:
        _, loaded = await talker(lab)
        service = await service_of(lab)
        status = await loaded.unload()
        lab.note("unloaded")
        for listener in service.listeners:
            await listener.join()
        return [status, (await service.send())[0], await lab.app.win32.CloseHandle(service.port)]

    runs = all_runs(script, bound=1)
    assert codes(runs) == {None}
    for one in runs:
        assert one.result == [STATUS_SUCCESS, GONE, True]
        assert one.order == ["connect", "disconnect", "unloaded"]
        assert one.note("disconnect").thread == "script"


@pytest.mark.rule("FLT-UNLOAD-18", "FLT-ORD-09")
def test_an_unload_waits_for_a_disconnect_routine_that_runs() -> None:
    async def script(lab: Lab) -> None:
        async def disconnect(ConnectionCookie: Any) -> None:
            lab.note("disconnect begins")
            assert driver.Filter is not None
            await FltCloseClientPort(driver.Filter, driver.ClientPort)
            lab.note("disconnect ends")

        driver, loaded = await talker(lab, disconnect=disconnect)
        _, handle = await lab.app.win32.FilterConnectCommunicationPort(PORT)

        async def unload() -> None:
            assert driver.Filter is not None
            await FltUnregisterFilter(driver.Filter)
            lab.note("unloaded")

        await driver.close_server()
        unloader = lab.start("unload", in_driver(loaded.driver_object.actor, "Unload", unload))
        await lab.app.win32.CloseHandle(handle)
        await unloader.join()

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {tuple(one.order) for one in runs} == {("connect", "disconnect begins", "disconnect ends", "unloaded")}
    assert {one.note("disconnect begins").thread for one in runs} == {"unload", "script"}


@pytest.mark.rule("FLT-UNLOAD-07", "FLT-RACE-55")
def test_an_unload_with_an_open_server_port() -> None:
    async def script(lab: Lab) -> None:
        driver, loaded = await talker(lab)

        async def keeps() -> None:
            pass

        driver.closes = keeps
        await loaded.unload()

    one = run(script)
    assert one.code == "unload-port-open"
    assert r"server port \Port is open" in one.finding.detail


@pytest.mark.rule("FLT-UNLOAD-07")
def test_a_failing_driver_entry_that_leaves_its_port_open() -> None:
    class Fails(Talker):
        async def DriverEntry(self, DriverObject: Any, RegistryPath: str) -> int:
            await super().DriverEntry(DriverObject, RegistryPath)
            assert self.Filter is not None
            return STATUS_UNSUCCESSFUL

    async def script(lab: Lab) -> None:
        await lab.load(Fails(lab), "300000")

    assert run(script).code == "driverentry-fail-leak"


@pytest.mark.rule("FLT-PORT-07")
@pytest.mark.parametrize("closes", [False, True])
def test_client_ports_are_closed_by_the_driver(closes: bool) -> None:
    async def script(lab: Lab) -> None:
        async def disconnect(ConnectionCookie: Any) -> None:
            if closes:
                assert driver.Filter is not None
                await FltCloseClientPort(driver.Filter, driver.ClientPort)

        driver, loaded = await talker(lab, disconnect=disconnect)
        service = await service_of(lab)
        await service.stop()
        await loaded.unload()

    one = run(script)
    assert one.code == (None if closes else "client-port-leak")
    if not closes:
        assert one.finding.detail == r"Talker was unloaded and left the client port of app at \Port behind"


def test_a_program_unloads_and_detaches() -> None:
    async def script(lab: Lab) -> list[int]:
        await talker(lab)
        api = lab.app.win32
        return [
            await api.FilterDetach("talker", "D:"),
            await api.FilterDetach("nobody", "C:"),
            await api.FilterDetach("talker", "c:"),
            await api.FilterUnload("nobody"),
            await api.FilterUnload("Talker"),
            await api.FilterUnload("Talker"),
        ]

    assert run(script).result == [0x801F0014, 0x801F0013, S_OK, 0x801F0013, S_OK, 0x801F0013]
