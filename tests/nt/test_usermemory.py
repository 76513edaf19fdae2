"""Memory of user processes: context, probing, fetching once, and what is gone meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Run, Script, all_runs, codes, run

from kemu.errors import UsageError
from kemu.nt.driver import DEEPEST, DriverActor, in_driver
from kemu.nt.kthread import current_kthread
from kemu.nt.usermemory import UserBuffer
from kemu.wdk.ntddk import StructuredException
from kemu.wdk.ntstatus import STATUS_ACCESS_VIOLATION, STATUS_DATATYPE_MISALIGNMENT
from kemu.wdk.wdm import (
    KEVENT,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_UNINITIALIZED,
    Bytes,
    Driver,
    ExAllocatePool2,
    ExFreePool,
    ProbeForRead,
    ProbeForWrite,
    RtlCopyMemory,
    RtlZeroMemory,
    Structure,
    sizeof,
)

Handler = Callable[[UserBuffer], Awaitable[Any]]


async def call(lab: Lab, handler: Handler, buffer: UserBuffer) -> Any:
    """Have a driver handle *buffer* on the calling thread, as a device control request with neither I/O does."""
    return await in_driver(DriverActor(lab.runtime, Driver()), "DeviceControl", handler, buffer)


def handled(handler: Handler, *, process: bool = True, content: bytes = bytes(range(16)), **options: Any) -> Run:
    """The plain run of a program that passes some memory to a driver."""

    async def script(lab: Lab) -> Any:
        buffer = lab.app.memory(content, **options)
        (result,) = await lab.together(call(lab, handler, buffer), process=lab.app if process else None)
        return result

    return run(script)


def guarded(use: Callable[[UserBuffer], Any]) -> Handler:
    """A handler that catches what *use* raises, and returns its status."""

    async def handler(buffer: UserBuffer) -> Any:
        try:
            return use(buffer)
        except StructuredException as error:
            return error.ExceptionCode

    return handler


def probed(use: Callable[[UserBuffer], Any]) -> Handler:
    """As `guarded`, after a probe of everything."""

    def both(buffer: UserBuffer) -> Any:
        ProbeForWrite(buffer, len(buffer), 1)
        return use(buffer)

    return guarded(both)


@pytest.mark.rule("KE-CTX-04")
def test_what_was_probed_can_be_read_and_written() -> None:
    async def script(lab: Lab) -> list[Any]:
        buffer = lab.app.memory(b"abcdefgh")

        async def handler(memory: UserBuffer) -> Any:
            ProbeForRead(memory, 4, 4)
            ProbeForWrite(memory + 4, 4, 4)
            local = bytearray(4)
            RtlCopyMemory(local, memory, 4)
            RtlCopyMemory(memory + 4, local, 2)
            memory[6] = ord("x")
            return bytes(local)

        (result,) = await lab.together(call(lab, handler, buffer), process=lab.app)
        return [result, await buffer.load(0, 8)]

    one = run(script)
    assert (one.code, one.result) == (None, [b"abcd", b"abcdabxh"])


@pytest.mark.rule("KE-CTX-04")
@pytest.mark.parametrize("access", ["read", "write", "probe", "outside"])
def test_user_memory_means_something_in_its_own_process_only(access: str) -> None:
    async def handler(buffer: UserBuffer) -> None:
        ProbeForRead(buffer, 16, 1)
        if access == "read":
            _ = buffer[0]
        elif access == "write":
            buffer[0] = 1
        elif access == "outside":
            _ = buffer[99]
        else:
            ProbeForWrite(buffer, 16, 1)

    one = handled(handler, process=False)
    assert one.code == "ke.user-va-context"
    assert one.finding.detail.endswith(
        f", in System, {'reads' if access in {'read', 'outside'} else 'writes'} a user buffer of app"
    )
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == 0x50
    assert one.finding.bug_check.parameters[3] == 0xF


@pytest.mark.rule("KE-CTX-04")
@pytest.mark.parametrize(
    ("probe", "use", "right"),
    [
        (None, "read", False),
        ("read", "read", True),
        ("read", "write", False),
        ("write", "read", True),
        ("write", "write", True),
        ("part", "read", False),
        ("other", "read", False),
        ("nothing", "read", False),
    ],
)
def test_user_memory_is_probed_for_what_it_is_used_for(probe: str | None, use: str, right: bool) -> None:
    async def handler(buffer: UserBuffer) -> None:
        if probe == "read":
            ProbeForRead(buffer, 16, 1)
        elif probe == "write":
            ProbeForWrite(buffer, 16, 1)
        elif probe == "part":
            ProbeForRead(buffer, 4, 1)
        elif probe == "other":
            ProbeForRead(buffer + 8, 8, 1)
        elif probe == "nothing":
            ProbeForRead(buffer, 0, 1)
        if use == "read":
            _ = buffer[0:8]
        else:
            buffer[0:8] = bytes(8)

    assert handled(handler).code == (None if right else "ke.user-unprobed")


@pytest.mark.rule("KE-CTX-04")
def test_one_drivers_probe_is_not_anothers() -> None:
    async def script(lab: Lab) -> None:
        buffer = lab.app.memory(bytes(8))

        async def prober(memory: UserBuffer) -> None:
            ProbeForRead(memory, 8, 1)

        async def reader(memory: UserBuffer) -> None:
            _ = memory[0]

        async def program() -> None:
            await call(lab, prober, buffer)
            await call(lab, reader, buffer)

        await lab.together(program(), process=lab.app)

    assert run(script).code == "ke.user-unprobed"


@pytest.mark.rule("KE-CTX-04", "KE-RACE-19")
@pytest.mark.parametrize(
    ("second", "right"),
    [(slice(0, 4), False), (slice(3, 8), False), (slice(4, 8), True), (slice(8, 16), True)],
)
def test_user_memory_is_read_once(second: slice, right: bool) -> None:
    async def handler(buffer: UserBuffer) -> None:
        ProbeForRead(buffer, 16, 1)
        _ = buffer[0:4]
        _ = buffer[second]

    one = handled(handler)
    assert one.code == (None if right else "ke.double-fetch")
    if not right:
        assert f"of a user buffer of app at {__file__}:" in one.finding.detail
        assert "has read bytes 0 to 4 at" in one.finding.detail


@pytest.mark.rule("KE-CTX-04")
def test_the_next_call_may_read_it_again() -> None:
    async def script(lab: Lab) -> None:
        buffer = lab.app.memory(bytes(8))

        async def handler(memory: UserBuffer) -> None:
            ProbeForRead(memory, 8, 1)
            _ = memory[0:8]

        async def program() -> None:
            await call(lab, handler, buffer)
            await call(lab, handler, buffer)

        await lab.together(program(), process=lab.app)

    assert run(script).code is None


@pytest.mark.rule("KE-RACE-19")
@pytest.mark.parametrize("captures", [True, False])
def test_a_program_changes_its_memory_between_two_reads(captures: bool) -> None:
    async def script(lab: Lab) -> set[bytes]:
        buffer = lab.app.memory(b"\4")

        async def handler(memory: UserBuffer) -> bytes:
            ProbeForRead(memory, 1, 1)
            length = memory[0:1]
            await lab.step()
            return length if captures else length + memory[0:1]

        async def attacker() -> None:
            await buffer.store(0, b"\xff")

        (first, _) = await lab.together(call(lab, handler, buffer), attacker(), process=lab.app)
        return {first}

    runs = all_runs(script)
    assert codes(runs) == ({None} if captures else {"ke.double-fetch"})
    if captures:
        assert {repr(one.result) for one in runs} == {"{b'\\x04'}", "{b'\\xff'}"}


@pytest.mark.rule("KE-CTX-04")
def test_a_program_may_take_its_memory_away_at_any_time() -> None:
    def script_of(catches: bool) -> Script:
        async def script(lab: Lab) -> Any:
            buffer = lab.app.memory(bytes(4))

            async def handler(memory: UserBuffer) -> Any:
                try:
                    ProbeForWrite(memory, 4, 1)
                    await lab.step()
                    _ = memory[0]
                except StructuredException as error:
                    if catches:
                        return error.ExceptionCode
                    raise
                return 0

            (result, _) = await lab.together(call(lab, handler, buffer), buffer.unmap(), process=lab.app)
            return result

        return script

    runs = all_runs(script_of(catches=True))
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {0, STATUS_ACCESS_VIOLATION}
    assert codes(all_runs(script_of(catches=False))) == {None, "ke.unhandled-exception"}


WRONG: list[tuple[Callable[[Any], Any], Any]] = [
    (lambda buffer: ProbeForRead(buffer + 2, 4, 4), STATUS_DATATYPE_MISALIGNMENT),
    (lambda buffer: ProbeForWrite(buffer + 1, 4, 2), STATUS_DATATYPE_MISALIGNMENT),
    (lambda buffer: ProbeForRead(buffer, -1, 1), STATUS_ACCESS_VIOLATION),
    (lambda buffer: ProbeForWrite(buffer, 17, 1), STATUS_ACCESS_VIOLATION),
    (lambda buffer: ProbeForWrite(buffer + -1, 1, 1), STATUS_ACCESS_VIOLATION),
    (lambda buffer: ProbeForWrite(None, 1, 1), STATUS_ACCESS_VIOLATION),
    (lambda buffer: ProbeForRead(None, 1, 1), None),
    (lambda buffer: ProbeForRead(KEVENT(), 1, 1), STATUS_ACCESS_VIOLATION),
    (lambda buffer: ProbeForRead(KEVENT(), 0, 1), None),
    (lambda buffer: ProbeForRead(buffer, 99, 1), None),
    (lambda buffer: buffer[16], STATUS_ACCESS_VIOLATION),
    (lambda buffer: buffer[12:20], STATUS_ACCESS_VIOLATION),
    (lambda buffer: RtlZeroMemory(buffer, 17), STATUS_ACCESS_VIOLATION),
]


@pytest.mark.rule("KE-CTX-04")
@pytest.mark.parametrize(("use", "status"), WRONG)
def test_what_is_no_user_memory_raises(use: Any, status: Any) -> None:
    assert handled(guarded(use)).result == status


@pytest.mark.rule("KE-CTX-04")
def test_memory_that_cannot_be_written_raises_where_it_is_written_or_probed_for_it() -> None:
    def read(buffer: UserBuffer) -> int:
        ProbeForRead(buffer, 16, 1)
        return buffer[3]

    def write(buffer: UserBuffer) -> None:
        ProbeForRead(buffer, 16, 1)
        buffer[0] = 1

    assert handled(guarded(read), writable=False).result == 3
    assert handled(guarded(write), writable=False).result == STATUS_ACCESS_VIOLATION
    assert handled(probed(lambda buffer: 0), writable=False).result == STATUS_ACCESS_VIOLATION


@pytest.mark.rule("KE-IRQL-07")
def test_user_memory_may_be_paged_out() -> None:
    async def handler(buffer: UserBuffer) -> None:
        ProbeForRead(buffer, 16, 1)
        current_kthread().irql = 2
        _ = buffer[0]

    assert handled(handler).code == "ke.paged"


def test_an_alignment_is_a_power_of_two() -> None:
    with pytest.raises(UsageError, match="Alignment 3"):
        handled(guarded(lambda buffer: ProbeForRead(buffer, 1, 3)))


@pytest.mark.rule("KE-POOL-07")
def test_user_memory_is_not_freed_as_pool() -> None:
    async def script(lab: Lab) -> None:
        await ExFreePool(lab.app.memory(b"x"))

    one = run(script)
    assert one.code == "ke.pool-wrong-address"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.parameters == (0x40,)


class REPLY(Structure):
    Status: int
    Length: int


@pytest.mark.rule("KE-POOL-14")
@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("kind", ["bytes", "structure", "copied"])
def test_what_was_never_written_does_not_reach_a_program(kind: str, written: bool) -> None:
    async def handler(buffer: UserBuffer) -> None:
        flags = POOL_FLAG_NON_PAGED | POOL_FLAG_UNINITIALIZED
        source: Any
        if kind == "structure":
            source = await ExAllocatePool2(flags, sizeof(REPLY), "Test")
            source.Status = 1
            if written:
                source.Length = 2
        else:
            block: Bytes = await ExAllocatePool2(flags, 16, "Test")
            block[0 : 16 if written else 15] = bytes(16 if written else 15)
            source = block
            if kind == "copied":
                source = await ExAllocatePool2(POOL_FLAG_NON_PAGED, 16, "Test")
                RtlCopyMemory(source, block, 16)
        ProbeForWrite(buffer, 16, 1)
        RtlCopyMemory(buffer, source, 16)

    one = handled(handler)
    assert (one.code, one.warnings) == (None, () if written else ("ke.uninit-leak",))


def test_an_invariant_may_look_at_it_from_anywhere() -> None:
    async def script(lab: Lab) -> None:
        buffer = lab.app.memory(b"abcd")
        lab.always(lambda: buffer[0] == ord("a"), "the first byte stays")
        await lab.at_dispatch(lab.step())

    assert run(script).code is None


def test_the_program_itself_just_uses_its_memory() -> None:
    async def script(lab: Lab) -> list[Any]:
        buffer = lab.app.memory(b"abcd")

        async def program() -> list[Any]:
            buffer[1] = ord("x")
            return [buffer[0:4], bytes(buffer), await buffer.load(1, 2)]

        return (await lab.together(program(), process=lab.app))[0]

    assert run(script).result == [b"axcd", b"axcd", b"xc"]


# The kernel stack.


@pytest.mark.rule("KE-CTX-07")
@pytest.mark.parametrize("depth", [DEEPEST, DEEPEST + 1, DEEPEST + 2])
def test_callbacks_are_not_nested_without_end(depth: int) -> None:
    async def script(lab: Lab) -> None:
        actor = DriverActor(lab.runtime, Driver())

        async def callback(left: int) -> None:
            if left > 1:
                await in_driver(actor, "Callback", callback, left - 1)

        await in_driver(actor, "Callback", callback, depth)

    one = run(script)
    assert one.code == (None if depth <= DEEPEST + 1 else "ke.stack-overflow")
    if one.code:
        assert one.finding.bug_check is not None
        assert (one.finding.bug_check.code, one.finding.bug_check.parameters) == (0x7F, (8,))


@pytest.mark.rule("KE-CTX-07")
def test_a_routine_that_calls_itself_without_end_overflows_the_stack() -> None:
    async def script(lab: Lab) -> None:
        def recurse(level: int) -> int:
            return recurse(level + 1) + 1

        async def callback() -> None:
            recurse(0)

        await in_driver(DriverActor(lab.runtime, Driver()), "Callback", callback)

    one = run(script)
    assert one.code == "ke.stack-overflow"
    assert one.finding.detail.startswith("Callback of Driver calls itself too deep at ")
