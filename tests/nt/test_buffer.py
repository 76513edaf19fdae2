"""Memory as bytes: bounds, what was never written, and the routines that copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, run
from hypothesis import given
from hypothesis import strategies as st

from kemu.errors import UsageError
from kemu.nt.kthread import current_kthread
from kemu.wdk.wdm import (
    KEVENT,
    LONG,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_UNINITIALIZED,
    Bytes,
    ExAllocatePool2,
    ExFreePool,
    KeInitializeEvent,
    KeSetEvent,
    NotificationEvent,
    RtlCompareMemory,
    RtlCopyMemory,
    RtlEqualMemory,
    RtlFillMemory,
    RtlMoveMemory,
    RtlSecureZeroMemory,
    RtlZeroMemory,
    Structure,
    sizeof,
)


class INNER(Structure):
    First: int
    Second: object


class RECORD(Structure):
    Number: int
    Inner: INNER
    Count: LONG
    Event: KEVENT


async def block_of(size: int, *, zeroed: bool = True) -> Bytes:
    more = 0 if zeroed else POOL_FLAG_UNINITIALIZED
    return await ExAllocatePool2(POOL_FLAG_NON_PAGED | more, size, "Test")


def code_of(touch: Callable[[Bytes], Any], size: int = 16, *, zeroed: bool = True) -> str | None:
    async def script(lab: Lab) -> None:
        touch(await block_of(size, zeroed=zeroed))

    return run(script).code


@given(st.lists(st.tuples(st.integers(0, 15), st.binary(max_size=16)), max_size=8))
def test_a_block_holds_what_was_written(writes: list[tuple[int, bytes]]) -> None:
    model = bytearray(16)

    async def script(lab: Lab) -> list[object]:
        block = await block_of(16)
        for offset, more in writes:
            data = more[: 16 - offset]
            block[offset : offset + len(data)] = data
            model[offset : offset + len(data)] = data
        return [bytes(block), list(block), len(block), block[3], (block + 4)[1], (block + 4 - 2)[0:3], block[14:]]

    assert run(script).result == [bytes(model), list(model), 16, model[3], model[5], model[2:5], model[14:]]


OUTSIDE: list[tuple[Callable[[Bytes], Any], str, int]] = [
    (lambda block: block[16], "reads 1 bytes at offset 16: 1 bytes past the end", 0),
    (lambda block: block[-1], "reads 1 bytes at offset -1: 1 bytes before the beginning", 0),
    (lambda block: block[8:20], "reads 12 bytes at offset 8: 4 bytes past the end", 0),
    (lambda block: (block + 12)[0:8], "reads 8 bytes at offset 12: 4 bytes past the end", 0),
    (lambda block: block.__setitem__(16, 1), "writes 1 bytes at offset 16", 1),
    (lambda block: block.__setitem__(slice(8, 20), bytes(12)), "writes 12 bytes at offset 8", 1),
    (lambda block: RtlZeroMemory(block, 17), "writes 17 bytes at offset 0 in RtlZeroMemory", 1),
    (lambda block: RtlZeroMemory(block, -1), "writes 18446744073709551615 bytes at offset 0", 1),
    (lambda block: RtlFillMemory(block + 8, 9, 1), "writes 9 bytes at offset 8 in RtlFillMemory", 1),
    (lambda block: RtlSecureZeroMemory(block, 17), "in RtlSecureZeroMemory", 1),
    (lambda block: RtlCopyMemory(block, bytes(20), 20), "writes 20 bytes at offset 0 in RtlCopyMemory", 1),
    (lambda block: RtlMoveMemory(bytearray(20), block, 20), "reads 20 bytes at offset 0 in RtlMoveMemory", 0),
    (lambda block: RtlCompareMemory(block, bytes(20), 20), "reads 20 bytes at offset 0 in RtlCompareMemory", 0),
]


@pytest.mark.rule("KE-POOL-09")
@pytest.mark.parametrize(("touch", "words", "access"), OUTSIDE)
def test_an_access_past_the_end_is_found_at_once(touch: Callable[[Bytes], Any], words: str, access: int) -> None:
    async def script(lab: Lab) -> None:
        touch(await block_of(16))

    one = run(script)
    assert one.code == "ke.overrun"
    assert words in one.finding.detail
    assert "of a Bytes of 16 bytes, tag 'Test', allocated at" in one.finding.detail
    assert one.finding.verifier is not None
    assert (one.finding.verifier.code, one.finding.verifier.parameters[1]) == (0xD6, access)
    assert (one.finding.bug_check is None) == (access == 0)


@pytest.mark.rule("KE-POOL-09")
def test_the_last_byte_and_nothing_at_all_are_inside() -> None:
    def touch(block: Bytes) -> None:
        block[15] = 256 + 7
        assert block[15] == 7
        assert block[16:16] == b""
        RtlZeroMemory(block, 16)
        RtlCopyMemory(None, None, 0)
        RtlFillMemory(None, 0, 1)
        assert RtlCompareMemory(None, None, 0) == 0
        assert RtlEqualMemory(None, None, 0)

    assert code_of(touch) is None


@pytest.mark.rule("KE-POOL-09")
def test_a_buffer_on_the_stack_has_an_end_too() -> None:
    one = run(lambda lab: _awaited(lambda: RtlCopyMemory(bytearray(4), bytes(8), 8)))
    assert one.code == "ke.overrun"
    assert "of a local buffer of 4 bytes" in one.finding.detail


async def _awaited(function: Callable[[], Any]) -> Any:
    return function()


TOUCHES: list[Callable[[Any], Any]] = [
    lambda block: block[0],
    lambda block: block[0:4],
    lambda block: block[:4],
    lambda block: block.__setitem__(0, 1),
    bytes,
    lambda block: RtlZeroMemory(block, 1),
    lambda block: RtlCopyMemory(bytearray(4), block, 1),
]


@pytest.mark.rule("KE-POOL-08")
@pytest.mark.parametrize("touch", TOUCHES)
def test_bytes_are_not_used_after_they_were_freed(touch: Callable[[Any], Any]) -> None:
    async def script(lab: Lab) -> None:
        block = await block_of(16)
        await ExFreePool(block)
        touch(block)

    assert run(script).code == "ke.use-after-free"


@pytest.mark.rule("KE-POOL-08")
@pytest.mark.parametrize("access", ["read", "write", "copy"])
def test_a_pointer_into_freed_bytes_leads_there(access: str) -> None:
    async def script(lab: Lab) -> None:
        block = await block_of(16)
        pointer = block + 4
        await ExFreePool(block)
        if access == "read":
            _ = pointer[0]
        elif access == "write":
            pointer[0] = 1
        else:
            RtlZeroMemory(pointer, 1)

    assert run(script).code == "ke.use-after-free"


def test_copies_copy() -> None:
    async def script(lab: Lab) -> list[object]:
        block, other = await block_of(8), bytearray(b"abcdefgh")
        RtlCopyMemory(block, other, 4)
        RtlMoveMemory(block + 2, block, 4)
        first = bytes(block)
        RtlFillMemory(block + 6, 2, 0x141)
        RtlCopyMemory(other, block + 4, 4)
        equal = [RtlCompareMemory(other, block + 4, 4), RtlCompareMemory(other, b"abXd", 4)]
        equal += [RtlEqualMemory(other, block + 4, 4), RtlEqualMemory(other, b"abXd", 4)]
        assert RtlSecureZeroMemory(block, 2) is block
        return [first, bytes(other), bytes(block)[:3], equal]

    assert run(script).result == [b"ababcd\0\0", b"cdAAefgh", b"\0\0a", [4, 0, True, False]]


@pytest.mark.rule("KE-POOL-06")
@pytest.mark.parametrize("irql", [0, 2])
@pytest.mark.parametrize("thing", [None, 7, KEVENT])
def test_what_is_no_address_is_a_bad_pointer(thing: Any, irql: int) -> None:
    async def script(lab: Lab) -> None:
        current_kthread().irql = irql
        RtlZeroMemory(thing, 8)

    one = run(script)
    assert one.code == "ke.bad-pointer"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == (0xD1 if irql else 0x50)


MEANINGLESS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda block: block[0:8:2], "of a block of bytes"),
    (lambda block: block["a"], "of a block of bytes"),
    (lambda block: block.__setitem__(slice(0, 4), b"abc"), "3 bytes are assigned to 4"),
    (lambda block: RtlZeroMemory(b"abcd", 4), "bytes that cannot change"),
]


@pytest.mark.parametrize(("touch", "words"), MEANINGLESS)
def test_what_has_no_meaning_is_refused(touch: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        code_of(touch)


# What was never written.


LOOKS: list[Callable[[Bytes], Any]] = [
    lambda block: block[0],
    lambda block: block[4:8],
    lambda block: RtlCompareMemory(block, bytes(8), 8),
    lambda block: RtlEqualMemory(bytes(8), block, 8),
]


@pytest.mark.rule("KE-POOL-14")
@pytest.mark.parametrize("zeroed", [True, False])
@pytest.mark.parametrize("touch", LOOKS)
def test_bytes_are_written_before_they_are_read(touch: Callable[[Bytes], Any], zeroed: bool) -> None:
    def partly(block: Bytes) -> None:
        block[1:4] = b"abc"
        assert block[2] == ord("b")
        touch(block)

    assert code_of(partly, zeroed=zeroed) == (None if zeroed else "ke.uninitialised")


@pytest.mark.rule("KE-POOL-14")
@pytest.mark.parametrize("reads", [True, False])
def test_a_copy_of_what_was_never_written_was_never_written(reads: bool) -> None:
    async def script(lab: Lab) -> None:
        source, target = await block_of(8, zeroed=False), await block_of(8)
        source[0:4] = b"abcd"
        RtlCopyMemory(target, source, 8)
        assert target[0:4] == b"abcd"
        if reads:
            _ = target[4]
        target[4:8] = b"efgh"
        assert bytes(target) == b"abcdefgh"

    assert run(script).code == ("ke.uninitialised" if reads else None)


# Structures as bytes.


async def record() -> RECORD:
    made: RECORD = await ExAllocatePool2(POOL_FLAG_NON_PAGED | POOL_FLAG_UNINITIALIZED, sizeof(RECORD), "Test")
    return made


def test_a_structure_is_zeroed_as_a_whole_and_its_objects_stay() -> None:
    async def script(lab: Lab) -> list[object]:
        block = await record()
        KeInitializeEvent(block.Event, NotificationEvent, False)
        RtlZeroMemory(block, sizeof(RECORD))
        await KeSetEvent(block.Event)
        return [block.Number, block.Inner.First, block.Inner.Second, block.Count.value]

    one = run(script)
    assert (one.code, one.result) == (None, [0, 0, 0, 0])


def test_structures_are_copied_field_by_field_whatever_is_in_them() -> None:
    async def script(lab: Lab) -> list[object]:
        one, other = await record(), await record()
        thing = object()
        one.Number, one.Inner.First, one.Inner.Second, one.Count.value = -2, 1, thing, 5
        RtlCopyMemory(other, one, sizeof(RECORD))
        return [other.Number, other.Inner.First, other.Inner.Second is thing, other.Count.value]

    assert run(script).result == [-2, 1, True, 5]


@pytest.mark.rule("KE-POOL-14")
def test_a_field_that_was_never_written_is_not_written_by_being_copied() -> None:
    async def script(lab: Lab) -> object:
        one, other = await record(), await record()
        one.Number = other.Number = other.Inner.First = 1
        one.Count.value = 1
        RtlCopyMemory(other, one, sizeof(RECORD))
        return other.Inner.First

    one = run(script)
    assert one.code == "ke.uninitialised"
    assert "INNER.First was read before" in one.finding.detail


def test_numbers_go_from_structures_to_bytes_and_back() -> None:
    async def script(lab: Lab) -> list[object]:
        block, raw = await record(), await block_of(int(sizeof(RECORD)))
        block.Number, block.Inner.First, block.Inner.Second, block.Count.value = 0x0102, 7, 8, 9
        RtlCopyMemory(raw, block, 16)
        other = await record()
        RtlZeroMemory(other, sizeof(RECORD))
        RtlCopyMemory(other, raw + 8, 8)
        return [raw[0:3], raw[8], other.Number]

    assert run(script).result == [b"\x02\x01\0", 7, 7]


@pytest.mark.rule("KE-POOL-09")
def test_a_structure_has_an_end() -> None:
    async def script(lab: Lab) -> None:
        RtlZeroMemory(await record(), sizeof(RECORD) + 8)

    one = run(script)
    assert one.code == "ke.overrun"
    assert "8 bytes past the end of a RECORD of 56 bytes" in one.finding.detail


def test_half_a_field_is_refused() -> None:
    async def script(lab: Lab) -> None:
        RtlZeroMemory(await record(), 12)

    with pytest.raises(UsageError, match=r"12 bytes at offset 0 of RECORD end inside of \.First"):
        run(script)


def test_a_structure_that_does_not_come_from_pool_is_copied_as_well() -> None:
    async def script(lab: Lab) -> list[object]:
        local = INNER()
        RtlZeroMemory(local, sizeof(INNER))
        RtlCopyMemory(local, (5).to_bytes(8, "little"), 8)
        return [local.First, local.Second]

    assert run(script).result == [5, 0]
