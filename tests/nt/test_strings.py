"""Counted strings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, run
from hypothesis import given
from hypothesis import strategies as st

from kemu.nt.kthread import current_kthread
from kemu.wdk.ntstatus import STATUS_BUFFER_TOO_SMALL, STATUS_SUCCESS
from kemu.wdk.wdm import (
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_PAGED,
    POOL_FLAG_UNINITIALIZED,
    UNICODE_STRING,
    ExAllocatePool2,
    ExFreePool,
    RtlAppendUnicodeStringToString,
    RtlAppendUnicodeToString,
    RtlCompareUnicodeString,
    RtlCopyUnicodeString,
    RtlEqualUnicodeString,
    RtlInitEmptyUnicodeString,
    RtlInitUnicodeString,
    RtlPrefixUnicodeString,
    Structure,
    sizeof,
)


def literal(text: str | None) -> UNICODE_STRING:
    made = UNICODE_STRING()
    RtlInitUnicodeString(made, text)
    return made


def room(buffer: Any, size: int) -> UNICODE_STRING:
    made = UNICODE_STRING()
    RtlInitEmptyUnicodeString(made, buffer, size)
    return made


def done(function: Callable[[], Any]) -> Any:
    """What *function* returns in a run without findings."""

    async def script(lab: Lab) -> Any:
        return function()

    one = run(script)
    assert one.code is None
    return one.result


def test_a_literal_is_counted_without_its_zero() -> None:
    def lengths(text: str | None) -> Any:
        made = literal(text)
        return made.Length, made.MaximumLength, str(made)

    assert done(lambda: lengths("abc")) == (6, 8, "abc")
    assert done(lambda: lengths("")) == (0, 2, "")
    assert done(lambda: lengths(None)) == (0, 0, "")
    assert done(lambda: lengths("x" * 40_000)[:2]) == (0xFFFC, 0xFFFE)


@given(st.text(max_size=6), st.integers(0, 16))
def test_a_copy_takes_what_there_is_room_for(text: str, size: int) -> None:
    def copy() -> Any:
        buffer = bytearray(16)
        made = room(buffer, size)
        RtlCopyUnicodeString(made, literal(text))
        return made.Length, bytes(buffer)

    kept = text[: size // 2].encode("utf-16-le")
    if len(kept) <= 16:
        assert done(copy) == (len(kept), kept + bytes(16 - len(kept)))


def test_a_copy_of_nothing_is_empty() -> None:
    def copy() -> int:
        made = room(bytearray(8), 8)
        RtlCopyUnicodeString(made, literal("abc"))
        RtlCopyUnicodeString(made, None)
        return made.Length

    assert done(copy) == 0


def test_appending_needs_room_for_everything() -> None:
    def append() -> Any:
        made = room(bytearray(10), 10)
        found = [
            RtlAppendUnicodeToString(made, "ab"),
            RtlAppendUnicodeToString(made, None),
            RtlAppendUnicodeStringToString(made, literal("cde")),
            RtlAppendUnicodeToString(made, "f"),
        ]
        return found, str(made)

    assert done(append) == ([STATUS_SUCCESS, STATUS_SUCCESS, STATUS_SUCCESS, STATUS_BUFFER_TOO_SMALL], "abcde")


@given(st.text("aBc\N{LATIN SMALL LETTER SHARP S}", max_size=4), st.text("AbC", max_size=4), st.booleans())
def test_comparing_follows_the_codes_of_the_characters(one: str, other: str, ignores: bool) -> None:
    def compare() -> Any:
        first, second = literal(one), literal(other)
        order = RtlCompareUnicodeString(first, second, ignores)
        return (
            (order > 0) - (order < 0),
            RtlEqualUnicodeString(first, second, ignores),
            RtlPrefixUnicodeString(first, second, ignores),
        )

    mine, yours = [
        "".join(c if c == "\N{LATIN SMALL LETTER SHARP S}" else c.upper() for c in text) if ignores else text
        for text in (one, other)
    ]
    assert done(compare) == ((mine > yours) - (mine < yours), mine == yours, yours.startswith(mine))


class RECORD(Structure):
    Name: UNICODE_STRING


@pytest.mark.rule("KE-POOL-09", "KE-POOL-08", "KE-POOL-14", "KE-POOL-06")
@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("right", None),
        ("room that is not there", "ke.overrun"),
        ("length that is not there", "ke.overrun"),
        ("freed", "ke.use-after-free"),
        ("freed record", "ke.use-after-free"),
        ("never written", "ke.uninitialised"),
        ("literal", "ke.bad-pointer"),
        ("null", "ke.bad-pointer"),
        ("number", "ke.bad-pointer"),
        ("no buffer", "ke.bad-pointer"),
    ],
)
def test_a_string_in_memory_has_the_bounds_and_the_life_of_memory(how: str, code: str | None) -> None:
    async def script(lab: Lab) -> str:
        flags = POOL_FLAG_NON_PAGED | (POOL_FLAG_UNINITIALIZED if how == "never written" else 0)
        record: RECORD = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(RECORD), "Test")
        buffer = await ExAllocatePool2(flags, 8, "Test")
        name: Any = record.Name
        RtlInitEmptyUnicodeString(name, buffer, 16 if how == "room that is not there" else 8)
        if how in {"length that is not there", "never written"}:
            name.Length = 10 if how == "length that is not there" else 8
            return str(name)
        if how == "freed":
            await ExFreePool(buffer)
        elif how == "freed record":
            await ExFreePool(record)
        elif how == "literal":
            RtlInitUnicodeString(name, "abcd")
        elif how == "no buffer":
            name.Buffer = None
        targets: dict[str, Any] = {"null": None, "number": 7}
        RtlCopyUnicodeString(targets.get(how, name), literal("abcdefgh"))
        return str(name)

    one = run(script)
    assert one.code == code
    if code is None:
        assert one.result == "abcd"


USES: list[Callable[[Any], Any]] = [
    lambda nothing: RtlInitUnicodeString(nothing, "a"),
    lambda nothing: RtlInitEmptyUnicodeString(nothing, None, 0),
    lambda nothing: RtlAppendUnicodeToString(nothing, "a"),
    lambda nothing: RtlAppendUnicodeStringToString(room(bytearray(4), 4), nothing),
    lambda nothing: RtlCompareUnicodeString(nothing, literal("a"), False),
    lambda nothing: RtlEqualUnicodeString(literal("a"), nothing, True),
    lambda nothing: RtlPrefixUnicodeString(nothing, nothing, True),
]


@pytest.mark.rule("KE-POOL-06")
@pytest.mark.parametrize("use", USES)
def test_what_is_no_string_is_a_bad_pointer(use: Any) -> None:
    async def script(lab: Lab) -> None:
        use(None)

    assert run(script).code == "ke.bad-pointer"


@pytest.mark.rule("KE-IRQL-07")
def test_a_string_in_paged_pool_is_paged() -> None:
    async def script(lab: Lab) -> None:
        buffer = await ExAllocatePool2(POOL_FLAG_PAGED, 8, "Test")
        name = room(buffer, 8)
        current_kthread().irql = 2
        RtlCopyUnicodeString(name, literal("abc"))

    assert run(script).code == "ke.paged"
