"""What a driver can do wrong with communication ports (FLT-PORT): each finding, and the same without it."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, codes, run
from fltmgr.ports_kit import ATTRIBUTES, PORT, SECOND, Talker, as_program, reply, safe, service_of, talker

from kemu.errors import UsageError
from kemu.io.constants import IRP_MJ_CREATE, IRP_MJ_READ
from kemu.nt.driver import in_driver
from kemu.nt.usermemory import UserBuffer
from kemu.user.win32 import S_OK
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    PFLT_PORT,
    FltCloseClientPort,
    FltCloseCommunicationPort,
    FltCreateCommunicationPort,
    FltSendMessage,
)
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_BUFFER_OVERFLOW,
    STATUS_PORT_DISCONNECTED,
    STATUS_SUCCESS,
    STATUS_TIMEOUT,
)
from kemu.wdk.wdm import (
    FAST_MUTEX,
    NT_SUCCESS,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_PAGED,
    ULONG,
    ExAcquireFastMutex,
    ExAllocatePool2,
    ExFreePool,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    InitializeObjectAttributes,
    RtlCopyMemory,
    RtlZeroMemory,
    Structure,
    sizeof,
)


class SCAN_REPLY(Structure):
    SafeToOpen: int
    Reason: int


async def connected(lab: Lab, driver: Talker) -> Any:
    """A handle of a program that fetches nothing."""
    hr, handle = await lab.app.win32.FilterConnectCommunicationPort(PORT)
    assert hr == S_OK
    return handle


@pytest.mark.rule("FLT-INST-06")
def test_setup_must_not_send_messages() -> None:
    async def script(lab: Lab) -> None:
        driver, loaded = await talker(lab)
        await connected(lab, driver)

        async def setup(*arguments: Any) -> int:
            return await driver.send(timeout=SECOND)

        registration = loaded.filter.registration
        registration.InstanceSetupCallback = setup
        await lab.attach(loaded, "52000.5")

    assert run(script).code == "setup-blocking"


# Copies of the port.


@pytest.mark.rule("FLT-PORT-09", "FLT-PORT-08")
@pytest.mark.parametrize("copied", [False, True])
def test_a_copy_of_a_port_is_not_cleared(copied: bool) -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await talker(lab)
        handle = await connected(lab, driver)
        mine = PFLT_PORT(driver.ClientPort.value, "Mine") if copied else driver.ClientPort
        sender = lab.start("sender", driver.send(timeout=SECOND, variable=mine))
        await lab.app.win32.CloseHandle(handle)
        return await sender.join()

    runs = all_runs(script)
    if copied:
        # As long as it is used before the connection ends, nobody minds.
        assert codes(runs) == {None, "port-copy-race"}
        found = next(one.finding.detail for one in runs if one.code)
        assert "through Mine, which still holds it: script has closed it" in found
    else:
        assert codes(runs) == {None}
    assert {one.result for one in runs if one.code is None} <= {STATUS_PORT_DISCONNECTED, STATUS_TIMEOUT}


@pytest.mark.rule("FLT-PORT-09")
def test_a_copy_is_closed_again() -> None:
    async def script(lab: Lab) -> None:
        driver, _ = await talker(lab)
        handle = await connected(lab, driver)
        mine = PFLT_PORT(driver.ClientPort.value)
        await lab.app.win32.CloseHandle(handle)
        assert driver.Filter is not None
        await FltCloseClientPort(driver.Filter, mine)

    assert run(script).code == "port-copy-race"


@pytest.mark.rule("FLT-PORT-10", "FLT-RACE-53")
@pytest.mark.parametrize("clears", [False, True])
def test_a_port_of_a_refused_connection(clears: bool) -> None:
    async def script(lab: Lab) -> Any:
        async def connect(ClientPort: Any, *rest: Any) -> int:
            driver.ClientPort.value = ClientPort
            if clears:
                assert driver.Filter is not None
                await FltCloseClientPort(driver.Filter, driver.ClientPort)
            return STATUS_ACCESS_DENIED

        driver, _ = await talker(lab, connect=connect)
        await lab.app.win32.FilterConnectCommunicationPort(PORT)
        return await driver.send()

    one = run(script)
    assert one.code == (None if clears else "port-state-race")
    if clears:
        assert one.result == STATUS_PORT_DISCONNECTED


@pytest.mark.rule("FLT-RACE-54")
@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("value", ["another", None])
def test_a_port_that_is_overwritten(closes: bool, value: str | None) -> None:
    async def script(lab: Lab) -> None:
        async def connect(ClientPort: Any, *rest: Any) -> int:
            if driver.ClientPort.value is not None and closes:
                assert driver.Filter is not None
                await FltCloseClientPort(driver.Filter, driver.ClientPort)
            driver.ClientPort.value = ClientPort if value is not None or driver.ClientPort.value is None else None
            return STATUS_SUCCESS

        driver, _ = await talker(lab, limit=2, connect=connect)
        await connected(lab, driver)
        await connected(lab, driver)

    assert run(script).code == (None if closes else "port-overwritten")


def test_storing_a_port_again_is_no_overwriting() -> None:
    async def script(lab: Lab) -> None:
        async def connect(ClientPort: Any, *rest: Any) -> int:
            driver.ClientPort.value = ClientPort
            driver.ClientPort.value = ClientPort
            return STATUS_SUCCESS

        driver, _ = await talker(lab, connect=connect)
        await connected(lab, driver)

    assert run(script).code is None


# What FltSendMessage takes.


@pytest.mark.rule("FLT-PORT-24")
@pytest.mark.parametrize(
    "missing", ["Filter", "ClientPort", "SenderBuffer", "ReplyLength", "another filter", "nothing"]
)
def test_what_sending_takes(missing: str) -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await talker(lab)
        other = await lab.filter("Other", "310000", {})
        await connected(lab, driver)
        filter_: Any = {"Filter": None, "another filter": other.filter}.get(missing, driver.Filter)
        port: Any = None if missing == "ClientPort" else driver.ClientPort
        data: Any = None if missing == "SenderBuffer" else b"scan"
        length = None if missing == "ReplyLength" else ULONG(4)
        return await FltSendMessage(filter_, port, data, 4, bytearray(4), length, SECOND)

    one = run(script)
    assert one.code == (None if missing == "nothing" else "port-bad-params")
    if missing == "nothing":
        assert one.result == STATUS_TIMEOUT


@pytest.mark.rule("FLT-PORT-24")
def test_a_server_port_is_no_client_port() -> None:
    async def script(lab: Lab) -> None:
        driver, _ = await talker(lab)
        await driver.send(variable=PFLT_PORT(driver.ServerPort))

    assert run(script).code == "port-bad-params"


@pytest.mark.rule("FLT-PORT-24")
@pytest.mark.parametrize("what", ["filter", "descriptor", "server port", "client port", "instance"])
def test_what_is_none_of_what_is_asked_for(what: str) -> None:
    async def script(lab: Lab) -> None:
        driver, loaded = await talker(lab)
        await connected(lab, driver)
        assert driver.Filter is not None
        nothing: Any = None
        if what == "filter":
            await FltCloseClientPort(nothing, driver.ClientPort)
        elif what == "client port":
            await FltCloseClientPort(driver.Filter, nothing)
        elif what == "server port":
            await FltCloseCommunicationPort(driver.ClientPort.value)
        elif what == "descriptor":
            attributes = InitializeObjectAttributes(r"\Other", ATTRIBUTES, 0, b"descriptor")
            await FltCreateCommunicationPort(
                driver.Filter, attributes, None, driver.Connect, driver.Disconnect, None, 1
            )
        else:
            instance: Any = lab.instance(loaded)
            await FltSendMessage(instance, driver.ClientPort, b"scan", 4, None, None, SECOND)

    assert run(script).code == ("port-bad-params" if what == "instance" else "ke.bad-pointer")


def test_a_length_that_is_no_variable_is_refused() -> None:
    async def script(lab: Lab) -> None:
        driver, _ = await talker(lab)
        length: Any = 4
        assert driver.Filter is not None
        await FltSendMessage(driver.Filter, driver.ClientPort, b"scan", 4, bytearray(4), length, None)

    with pytest.raises(UsageError, match="takes the address of a variable") as caught:
        run(script)
    assert caught.value.remedy == "give it a variable, such as ULONG(4)"


@pytest.mark.parametrize("what", ["port", "number"])
def test_a_port_is_no_variable(what: str) -> None:
    async def script(lab: Lab) -> None:
        driver, _ = await talker(lab)
        await connected(lab, driver)
        given: Any = driver.ClientPort.value if what == "port" else 17
        await driver.send(variable=given)

    if what == "port":
        with pytest.raises(UsageError, match="takes the address of the variable") as caught:
            run(script)
        assert "self.ClientPort = PFLT_PORT()" in str(caught.value.remedy)
    else:
        assert run(script).code == "ke.bad-pointer"


def test_only_ports_go_into_the_variable() -> None:
    async def script(lab: Lab) -> None:
        driver, _ = await talker(lab)
        driver.ClientPort.value = 0
        assert driver.ClientPort.value is None
        driver.ClientPort.value = "port"

    with pytest.raises(UsageError, match=r"'port' is assigned to Talker\.ClientPort"):
        run(script)


def test_a_variable_inside_a_structure() -> None:
    class GLOBALS(Structure):
        ClientPort: PFLT_PORT

    async def script(lab: Lab) -> list[Any]:
        driver, _ = await talker(lab)
        block = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(GLOBALS), "Glob")
        results = [await driver.send(variable=block.ClientPort)]
        handle = await connected(lab, driver)
        block.ClientPort = driver.ClientPort.value
        results.append(await driver.send(timeout=SECOND, variable=block.ClientPort))
        variable = block.ClientPort
        await ExFreePool(block)
        await lab.app.win32.CloseHandle(handle)
        await driver.send(variable=variable)
        return results

    one = run(script)
    assert one.code == "ke.use-after-free"


# Waiting.


@pytest.mark.rule("FLT-PORT-17")
@pytest.mark.parametrize(("timeout", "inside"), [(None, True), (SECOND, True), (None, False)])
def test_an_operation_that_waits_for_ever(timeout: int | None, inside: bool) -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if inside:
                await driver.send(timeout=timeout)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        driver, _ = await talker(lab, {IRP_MJ_CREATE: (pre, None)})
        await service_of(lab)
        await lab.open()
        if not inside:
            await driver.send(timeout=timeout)

    one = run(script)
    assert one.code is None
    assert ("port-wait-forever" in one.warnings) == (timeout is None and inside)


@pytest.mark.rule("FLT-PORT-17")
def test_a_service_that_hangs_blocks_the_unload() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await driver.send()
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        driver, loaded = await talker(lab, {IRP_MJ_CREATE: (pre, None)})
        await connected(lab, driver)
        lab.start("opener", lab.open())
        await lab.sleep(1)
        await loaded.unload()

    one = run(script)
    assert one.code == "teardown-hang"
    assert "port-wait-forever" in one.warnings


@pytest.mark.rule("FLT-PORT-14")
@pytest.mark.parametrize("timeout", [0, SECOND])
def test_a_timeout_of_zero_is_none(timeout: int) -> None:
    async def script(lab: Lab) -> tuple[int, int]:
        driver, _ = await talker(lab)
        api = lab.app.win32
        handle = await connected(lab, driver)

        async def late() -> None:
            await lab.sleep(5)
            await api.FilterGetMessage(handle, 64)

        lab.start("late", late())
        return await driver.send(timeout=timeout), lab.now()

    one = run(script)
    if timeout:
        assert one.result == (STATUS_TIMEOUT, -SECOND)
        assert one.warnings == ()
    else:
        assert one.result == (STATUS_SUCCESS, 50_000_000)
        assert one.warnings == ("port-zero-timeout",)


# The reply buffer.


async def times_out(driver: Talker, buffer: Any, size: int) -> int:
    """Ask nobody, with *buffer* for the answer; the status."""
    assert driver.Filter is not None
    return await FltSendMessage(driver.Filter, driver.ClientPort, b"scan", 4, buffer, ULONG(size), SECOND)


@pytest.mark.rule("FLT-PORT-16", "FLT-RACE-51")
@pytest.mark.parametrize("paged", [False, True])
def test_bytes_that_nobody_has_put_into_the_buffer(paged: bool) -> None:
    def program(use: str) -> str | None:
        async def script(lab: Lab) -> None:
            driver, _ = await talker(lab)
            await connected(lab, driver)
            block = await ExAllocatePool2(POOL_FLAG_PAGED if paged else POOL_FLAG_NON_PAGED, 8, "Answ")
            assert block is not None
            status = await times_out(driver, block + 2, 4)
            assert NT_SUCCESS(status)
            match use:
                case "reads":
                    _ = block[2]
                case "reads beside it":
                    _ = block[0:2], block[6]
                case "copies":
                    RtlCopyMemory(bytearray(8), block, 8)
                case "writes first":
                    RtlZeroMemory(block, 8)
                    _ = block[2]
                case "asks again":
                    service = lab.start("service", answer(lab))
                    status = await times_out(driver, block + 2, 4)
                    assert status == STATUS_SUCCESS
                    assert block[2:6] == b"safe"
                    await service.join()
                case _:
                    pass
            await ExFreePool(block)
            if use == "frees":
                _ = block[2]

        async def answer(lab: Lab) -> None:
            api = lab.app.win32
            (handle,) = lab.app.process.handles
            _, message = await api.FilterGetMessage(handle, 64)
            await api.FilterReplyMessage(handle, reply(message, b"safe"))

        return run(script).code

    assert program("nothing") is None
    assert program("reads") == program("copies") == "port-timeout-as-success"
    assert program("reads beside it") is None
    assert program("writes first") is None
    assert program("asks again") is None
    assert program("frees") == "ke.use-after-free"


@pytest.mark.rule("FLT-PORT-16", "FLT-RACE-51")
def test_fields_that_nobody_has_put_into_the_buffer() -> None:
    def program(use: str) -> str | None:
        async def script(lab: Lab) -> None:
            driver, _ = await talker(lab)
            await connected(lab, driver)
            answer = SCAN_REPLY()
            answer.SafeToOpen = answer.Reason = 0
            await times_out(driver, answer, 8)
            if use == "first":
                _ = answer.SafeToOpen
            elif use == "second":
                _ = answer.Reason
            elif use == "written":
                answer.SafeToOpen = 1
                assert answer.SafeToOpen == 1
            elif use == "bytes":
                # Bytes of Python's own cannot be watched.
                plain = bytearray(4)
                await times_out(driver, plain, 4)
                assert plain[0] == 0

        return run(script).code

    assert program("first") == "port-timeout-as-success"
    assert program("second") is None
    assert program("written") is None
    assert program("bytes") is None


@pytest.mark.rule("FLT-PORT-16")
def test_an_answer_into_a_structure() -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await talker(lab)

        async def scan(message: bytes) -> bytes:
            return (1).to_bytes(8, "little")

        await service_of(lab, scan)
        answer = SCAN_REPLY()
        status = await times_out(driver, answer, 8)
        return status, answer.SafeToOpen

    assert run(script).result == (STATUS_SUCCESS, 1)


@pytest.mark.rule("FLT-PORT-22")
@pytest.mark.parametrize(("size", "warns"), [(4, False), (8, True), (5, False), (16, False)])
def test_an_answer_with_the_padding_of_its_structure(size: int, warns: bool) -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await talker(lab)

        async def scan(message: bytes) -> bytes:
            return bytes(size)

        await service_of(lab, scan)
        return (await driver.ask(size=4))[0]

    one = run(script)
    assert one.result == (STATUS_SUCCESS if size == 4 else STATUS_BUFFER_OVERFLOW)
    assert ("port-reply-size" in one.warnings) is warns


# The buffers of the message routine.


@pytest.mark.rule("FLT-PORT-13")
@pytest.mark.parametrize("handled", ["try", "caller", "no"])
def test_the_programs_memory_is_read_where_exceptions_are_handled(handled: str) -> None:
    async def script(lab: Lab) -> Any:
        def first(buffer: Any) -> int:
            return buffer[0]

        async def message(Cookie: Any, Input: Any, InputLength: int, Output: Any, OutputLength: int) -> Any:
            if handled == "no":
                assert first(Input) == 97
                return STATUS_SUCCESS
            try:
                if handled == "try":
                    assert Input[0] == 97
                else:
                    assert first(Input) == 97
            except ValueError:
                return STATUS_ACCESS_DENIED
            return STATUS_SUCCESS

        await talker(lab, message=message)
        service = await service_of(lab)
        return await as_program(lab.app, service.send(b"abc"))

    assert run(script).code == ("port-raw-buffer" if handled == "no" else None)


@pytest.mark.rule("FLT-PORT-13")
def test_it_may_be_gone_all_the_same() -> None:
    # The kernel's finding, which is about every exception that nobody handles.
    async def script(lab: Lab) -> None:
        async def message(Cookie: Any, Input: Any, InputLength: int, Output: Any, OutputLength: int) -> Any:
            await lab.step()
            try:
                _ = Input[0]
            except ValueError:
                return STATUS_ACCESS_DENIED
            return STATUS_SUCCESS

        await talker(lab, message=message)
        service = await service_of(lab)
        buffer = lab.app.memory(b"abc")

        async def sends() -> None:
            await service.win32.FilterSendMessage(service.port, buffer, 3)

        await lab.together(sends(), buffer.unmap(), process=lab.app)

    assert codes(all_runs(script, bound=1)) == {None, "ke.unhandled-exception"}


@pytest.mark.rule("FLT-PORT-13")
@pytest.mark.parametrize("elsewhere", ["no", "later", "another thread", "another process", "the program"])
def test_the_programs_memory_belongs_to_the_call(elsewhere: str) -> None:
    async def script(lab: Lab) -> None:
        kept: list[UserBuffer] = []

        async def message(Cookie: Any, Input: UserBuffer, *rest: Any) -> int:
            kept.append(Input)
            if elsewhere == "another thread":
                await as_program(lab.app, in_driver(actor, "Use", use), "other")
            return STATUS_SUCCESS

        async def use() -> None:
            try:
                _ = kept[0][0]
            except ValueError:
                lab.note("raised")

        driver, loaded = await talker(lab, message=message)
        actor = loaded.driver_object.actor
        assert driver is loaded.driver
        service = await service_of(lab)
        buffer = lab.app.memory(b"abc")
        await as_program(lab.app, service.win32.FilterSendMessage(service.port, buffer, 3))
        if elsewhere == "later":
            await as_program(lab.app, in_driver(actor, "Use", use))
        elif elsewhere == "another process":
            await in_driver(actor, "Use", use)
        elif elsewhere == "the program":
            assert await buffer.load(0, 1) == b"a"

    expected = {
        "later": "port-raw-buffer",
        "another thread": "port-raw-buffer",
        "another process": "ke.user-va-context",
    }
    assert run(script).code == expected.get(elsewhere)


# Locks, and waiting for whoever waits.


@pytest.mark.rule("FLT-PORT-23", "FLT-RACE-61")
@pytest.mark.parametrize("needs", ["message", "create", "nothing", "another"])
def test_a_lock_is_held_across_a_message(needs: str) -> None:
    async def script(lab: Lab) -> None:
        lock, other = FAST_MUTEX("Lock"), FAST_MUTEX("Other")
        ExInitializeFastMutex(lock)
        ExInitializeFastMutex(other)

        async def take(which: FAST_MUTEX) -> None:
            await ExAcquireFastMutex(which)
            await ExReleaseFastMutex(which)

        async def message(*arguments: Any) -> int:
            await take(other if needs == "another" else lock)
            return STATUS_SUCCESS

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await take(lock)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        async def scan(data: bytes) -> bytes:
            if needs in {"message", "another"}:
                await service.send()
            elif needs == "create":
                await lab.open()
            return b"safe"

        driver, _ = await talker(lab, {IRP_MJ_CREATE: (pre, None)}, message=message)
        service = await service_of(lab, scan)
        # Before and after the answer the service may come for the lock as it likes.
        await service.send()

        async def callback() -> None:
            await ExAcquireFastMutex(lock)
            await driver.ask(timeout=SECOND)
            await ExReleaseFastMutex(lock)

        if needs == "nothing":
            await callback()
        else:
            # Once without the lock: the order of the two is known from then on, and nobody has to wait for anybody.
            await driver.ask()
            await callback()

    assert run(script).code == ("lock-across-message" if needs in {"message", "create"} else None)


@pytest.mark.rule("FLT-PORT-23")
@pytest.mark.parametrize("answered", [False, True])
def test_a_lock_that_the_service_needs_after_its_answer(answered: bool) -> None:
    async def script(lab: Lab) -> None:
        lock = FAST_MUTEX("Lock")
        ExInitializeFastMutex(lock)

        async def message(*arguments: Any) -> int:
            await ExAcquireFastMutex(lock)
            await ExReleaseFastMutex(lock)
            return STATUS_SUCCESS

        driver, _ = await talker(lab, message=message)
        handle = await connected(lab, driver)
        api = lab.app.win32

        async def serves() -> None:
            for _ in range(2):
                _, got = await api.FilterGetMessage(handle, 64)
                if answered:
                    await api.FilterReplyMessage(handle, reply(got, b"safe"))
                await api.FilterSendMessage(handle)
                if not answered:
                    await api.FilterReplyMessage(handle, reply(got, b"safe"))

        service = lab.start("service", serves(), lab.app)
        await driver.ask()
        await lab.sleep(1)
        await ExAcquireFastMutex(lock)
        await driver.ask(timeout=SECOND)
        await ExReleaseFastMutex(lock)
        await service.join()

    assert run(script).code == (None if answered else "lock-across-message")


@pytest.mark.rule("FLT-PORT-23")
def test_a_lock_across_a_message_that_is_needed_for_the_answer_now() -> None:
    async def script(lab: Lab) -> None:
        lock = FAST_MUTEX("Lock")
        ExInitializeFastMutex(lock)

        async def message(*arguments: Any) -> int:
            await ExAcquireFastMutex(lock)
            await ExReleaseFastMutex(lock)
            return STATUS_SUCCESS

        async def scan(data: bytes) -> bytes:
            await service.send()
            return b"safe"

        driver, _ = await talker(lab, message=message)
        service = await service_of(lab, scan)
        await ExAcquireFastMutex(lock)
        await driver.ask()

    one = run(script)
    assert one.code == "lock-across-message"
    assert "app.listener, which would have to answer, needs Lock" in one.finding.detail


@pytest.mark.rule("FLT-IO-28", "FLT-RACE-56")
@pytest.mark.parametrize(
    ("threads", "exempt", "timeout", "expected"),
    [(1, False, None, "reentrant-deadlock"), (1, True, None, None), (2, False, None, None), (1, False, SECOND, None)],
)
def test_a_service_that_waits_for_itself(threads: int, exempt: bool, timeout: int | None, expected: str | None) -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if not (exempt and Data.Thread in [one.thread for one in service.listeners]):
                await driver.ask(timeout=timeout)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        busy: list[str] = []

        async def scan(data: bytes) -> bytes:
            # The first message makes the service open a file itself.
            if not busy:
                busy.append("scan")
                await lab.open()
            return b"safe"

        driver, _ = await talker(lab, {IRP_MJ_CREATE: (pre, None)})
        service = await service_of(lab, scan, threads)
        await lab.open()

    one = run(script)
    assert one.code == expected
    if expected:
        assert "app.listener of the service at \\Port waits for that service" in one.finding.detail


@pytest.mark.rule("FLT-PORT-10")
@pytest.mark.parametrize("locked", [False, True])
def test_state_of_the_connection_needs_synchronisation(locked: bool) -> None:
    # The kernel's finding, which is about every unordered access to what threads share.
    async def script(lab: Lab) -> None:
        lock = FAST_MUTEX("Lock")
        ExInitializeFastMutex(lock)
        state = ULONG(0, "UserProcessId")

        async def change(value: int) -> None:
            if locked:
                await ExAcquireFastMutex(lock)
            state.value = value
            if locked:
                await ExReleaseFastMutex(lock)

        async def connect(ClientPort: Any, *rest: Any) -> int:
            driver.ClientPort.value = ClientPort
            await change(8)
            return STATUS_SUCCESS

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if locked:
                await ExAcquireFastMutex(lock)
            _ = state.value
            if locked:
                await ExReleaseFastMutex(lock)
            await driver.send(timeout=SECOND)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        driver, _ = await talker(lab, {IRP_MJ_READ: (pre, None)}, connect=connect)
        file = await lab.quiet_open()
        await lab.together(connected(lab, driver), file.read(1), process=lab.app)

    found = run(script, races=True)
    assert found.code == (None if locked else "ke.data-race")
    if not locked:
        assert "UserProcessId" in found.finding.detail


def test_the_port_itself_is_no_such_state() -> None:
    async def script(lab: Lab) -> None:
        driver, _ = await talker(lab)
        await lab.together(service_of(lab, safe), driver.send(timeout=SECOND), process=lab.app)

    assert codes(all_runs(script, bound=1, races=True)) == {None}
