"""What of communication ports orders threads, and what does not (FLT-ORD-09, FLT-PORT-08)."""

from __future__ import annotations

from typing import Any

from fltmgr.kit import Lab, all_runs, codes, run
from fltmgr.ports_kit import PORT, SECOND, Talker, reply, talker
from racing import Field

from kemu.user.win32 import S_OK
from kemu.wdk.fltkernel import FltCloseClientPort
from kemu.wdk.ntstatus import STATUS_PORT_DISCONNECTED, STATUS_SUCCESS

RACE = "ke.data-race"


async def connects(lab: Lab) -> Any:
    """A connection of the program."""
    hr, handle = await lab.app.win32.FilterConnectCommunicationPort(PORT)
    return handle if hr == S_OK else None


def test_listening_is_before_the_connect_routine() -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def connect(*arguments: Any) -> int:
            field.load()
            return STATUS_SUCCESS

        async def load() -> None:
            field.store()
            await lab.load(Talker(lab, connect=connect), "300000")

        lab._started_threads = True
        await lab.together(load(), connects(lab))

    runs = all_runs(script, races=True, bound=1)
    assert codes(runs) == {None}


def test_the_connect_routine_is_before_messages_and_they_are_not_ordered() -> None:
    def program(field_of: str) -> set[str | None]:
        async def script(lab: Lab) -> None:
            field = Field()
            handles: list[Any] = []

            async def connect(*arguments: Any) -> int:
                if field_of == "the connect routine":
                    field.store()
                return STATUS_SUCCESS

            async def message(*arguments: Any) -> int:
                (field.store if field_of == "the messages" else field.load)()
                return STATUS_SUCCESS

            async def program() -> None:
                handles.append(await connects(lab))

            async def sends() -> None:
                if handles:
                    await lab.app.win32.FilterSendMessage(handles[0])

            await talker(lab, connect=connect, message=message)
            await lab.together(program(), sends(), sends(), process=lab.app)

        return codes(all_runs(script, races=True, bound=2))

    assert program("the connect routine") == {None}
    assert program("the messages") == {None, RACE}


def test_messages_are_before_the_disconnect_routine() -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def message(*arguments: Any) -> int:
            field.store()
            return STATUS_SUCCESS

        async def disconnect(Cookie: Any) -> None:
            field.load()

        await talker(lab, message=message, disconnect=disconnect)
        handle = await connects(lab)

        async def sends() -> None:
            await lab.app.win32.FilterSendMessage(handle)

        async def closes() -> None:
            await lab.app.win32.CloseHandle(handle)

        await lab.together(sends(), closes(), process=lab.app)

    assert codes(all_runs(script, races=True, bound=2)) == {None}


def test_closing_a_port_is_before_whoever_finds_it_closed() -> None:
    def program(sends: bool) -> str | None:
        async def script(lab: Lab) -> None:
            field = Field()

            async def disconnect(Cookie: Any) -> None:
                field.store()
                assert driver.Filter is not None
                await FltCloseClientPort(driver.Filter, driver.ClientPort)

            driver, _ = await talker(lab, disconnect=disconnect)
            handle = await connects(lab)

            async def later() -> None:
                await lab.sleep(1)
                if sends:
                    assert await driver.send() == STATUS_PORT_DISCONNECTED
                field.load()

            async def closes() -> None:
                await lab.app.win32.CloseHandle(handle)

            await lab.together(closes(), later(), process=lab.app)

        return run(script, races=True).code

    assert program(sends=True) is None
    assert program(sends=False) == RACE


def test_sending_is_before_closing() -> None:
    def program(sends_first: bool) -> str | None:
        async def script(lab: Lab) -> None:
            field = Field()

            async def disconnect(Cookie: Any) -> None:
                assert driver.Filter is not None
                await FltCloseClientPort(driver.Filter, driver.ClientPort)
                field.load()

            driver, _ = await talker(lab, disconnect=disconnect)
            handle = await connects(lab)

            async def sends() -> None:
                if not sends_first:
                    await lab.sleep(1)
                field.store()
                await driver.send(timeout=SECOND)

            async def closes() -> None:
                if sends_first:
                    await lab.sleep(0.5)
                await lab.app.win32.CloseHandle(handle)

            await lab.together(sends(), closes(), process=lab.app)

        return run(script, races=True).code

    assert program(sends_first=True) is None
    assert program(sends_first=False) == RACE


def test_an_answer_is_before_its_sender_goes_on_and_a_message_before_its_reader() -> None:
    async def script(lab: Lab) -> None:
        asked, answered = Field("Asked"), Field("Answered")

        async def message(*arguments: Any) -> int:
            asked.load()
            answered.store()
            return STATUS_SUCCESS

        driver, _ = await talker(lab, message=message)
        handle = await connects(lab)
        api = lab.app.win32

        async def serves() -> None:
            _, got = await api.FilterGetMessage(handle, 64)
            await api.FilterSendMessage(handle)
            await api.FilterReplyMessage(handle, reply(got, b"safe"))

        async def asks() -> None:
            asked.store()
            status, _ = await driver.ask()
            assert status == STATUS_SUCCESS
            answered.load()

        await lab.together(serves(), asks(), process=lab.app)

    assert codes(all_runs(script, races=True, bound=1)) == {None}


def test_a_disconnect_routine_is_before_the_next_connect_routine_that_had_to_wait_for_it() -> None:
    def program(limit: int) -> set[str | None]:
        async def script(lab: Lab) -> None:
            field = Field()

            async def connect(ClientPort: Any, *rest: Any) -> int:
                field.load()
                return STATUS_SUCCESS

            async def disconnect(Cookie: Any) -> None:
                field.store()

            await talker(lab, limit=limit, connect=connect, disconnect=disconnect)
            handle = await connects(lab)

            async def closes() -> None:
                await lab.app.win32.CloseHandle(handle)

            async def again() -> None:
                await connects(lab)

            await lab.together(closes(), again(), process=lab.app)

        return codes(all_runs(script, races=True, bound=2))

    assert program(1) == {None}
    assert program(2) == {RACE}
