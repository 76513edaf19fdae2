"""Structures: what lies inside of them, and paged memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fltmgr.kit import Lab, Script, run

from kemu.errors import UsageError
from kemu.nt.kthread import current_kthread
from kemu.nt.structure import offset_of_field
from kemu.wdk.wdm import (
    APC_LEVEL,
    CONTAINING_RECORD,
    DISPATCH_LEVEL,
    FAST_MUTEX,
    KEVENT,
    KSPIN_LOCK,
    LIST_ENTRY,
    LONG,
    PAGED_CODE,
    PASSIVE_LEVEL,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_PAGED,
    POOL_FLAG_UNINITIALIZED,
    PVOID,
    Bytes,
    ExAllocatePool2,
    ExFreePool,
    InitializeListHead,
    InsertTailList,
    KeAcquireSpinLock,
    KeInitializeEvent,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
    KeSetEvent,
    NotificationEvent,
    RemoveHeadList,
    RtlZeroMemory,
    Structure,
    sizeof,
)


class HEADER(Structure):
    Kind: int
    Links: LIST_ENTRY


class REQUEST(Structure):
    Header: HEADER
    Length: int
    Done: KEVENT
    Lock: KSPIN_LOCK
    Count: LONG
    Other: KEVENT | None
    Later: REQUEST_LATER | None
    Next: REQUEST


class REQUEST_LATER(REQUEST):
    Mutex: FAST_MUTEX


class PLAIN(Structure):
    Number: int
    Text: str


def test_what_a_field_holds_is_told_by_its_type_as_in_c() -> None:
    async def script(lab: Lab) -> list[object]:
        block: REQUEST_LATER = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(REQUEST_LATER), "Test")
        inside = [block.Header, block.Header.Links, block.Done, block.Lock, block.Mutex]
        # A name that means nothing yet is a pointer's, and so is one that may be NULL.
        pointers = [block.Other, block.Later, block.Next, block.Length, block.Header.Kind]
        return [[type(one) for one in inside], pointers, block.Done.label, block.Mutex.label]

    assert run(script).result == [
        [HEADER, LIST_ENTRY, KEVENT, KSPIN_LOCK, FAST_MUTEX],
        [0, 0, 0, 0, 0],
        "REQUEST_LATER.Done",
        "REQUEST_LATER.Mutex",
    ]


def test_each_block_has_its_own_and_also_a_structure_that_does_not_come_from_pool() -> None:
    async def script(lab: Lab) -> list[object]:
        first, second = REQUEST(), REQUEST()
        return [first.Done is first.Done, first.Done is second.Done, first.Header.Links.record is first.Header]

    assert run(script).result == [True, False, True]


def test_sizes_and_offsets_follow_the_types() -> None:
    # Kind 8, Links 16; Header 24, Length 8, Done 24, Lock 8, Count 8, three pointers 24.
    assert int(sizeof(HEADER)) == 24
    assert int(sizeof(REQUEST)) == 24 + 8 + 24 + 8 + 8 + 24
    assert int(sizeof(REQUEST_LATER)) == int(sizeof(REQUEST)) + 56
    assert [offset_of_field(REQUEST, name) for name in ("Header", "Length", "Done", "Lock", "Next")] == [
        *(0, 24, 32, 56),
        int(sizeof(REQUEST)) - 8,
    ]


@pytest.mark.rule("KE-WAIT-02")
def test_what_lies_inside_has_to_be_initialised_also_in_zeroed_memory() -> None:
    def script_of(initialises: bool) -> Script:
        async def script(lab: Lab) -> None:
            block: REQUEST = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(REQUEST), "Test")
            if initialises:
                KeInitializeEvent(block.Done, NotificationEvent, False)
            await KeSetEvent(block.Done)

        return script

    assert run(script_of(initialises=False)).code == "ke.uninitialised"
    assert run(script_of(initialises=True)).code is None


def test_a_list_entry_leads_back_to_the_structure_that_it_is_in() -> None:
    async def script(lab: Lab) -> bool:
        head = LIST_ENTRY()
        InitializeListHead(head)
        block: REQUEST = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(REQUEST), "Test")
        InsertTailList(head, block.Header.Links)
        return CONTAINING_RECORD(RemoveHeadList(head), HEADER, "Links") is block.Header

    assert run(script).result is True


def assign_event(block: REQUEST) -> None:
    block.Done = KEVENT()


def assign_header(block: REQUEST) -> None:
    block.Header = HEADER()


def delete_lock(block: REQUEST) -> None:
    del block.Lock


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (assign_event, "REQUEST.Done is a KEVENT inside of its structure, and KEVENT is assigned to it"),
        (assign_header, "REQUEST.Header is a HEADER inside of its structure, and HEADER is assigned to it"),
        (delete_lock, "REQUEST.Lock is deleted"),
    ],
)
def test_what_lies_inside_cannot_be_replaced(change: Callable[[REQUEST], None], words: str) -> None:
    async def script(lab: Lab) -> None:
        change(REQUEST())

    with pytest.raises(UsageError, match=words) as caught:
        run(script)
    assert "test_structure.py" in str(caught.value)


def test_a_variable_inside_is_assigned_as_in_c() -> None:
    async def script(lab: Lab) -> list[int]:
        block = REQUEST()
        # A type checker would want ``.value`` here.
        setattr(block, "Count", 7)  # noqa: B010
        return [block.Count.value, isinstance(block.Count, LONG)]

    assert run(script).result == [7, True]


def test_a_structure_takes_no_arguments_unless_it_says_so() -> None:
    class Own(Structure):
        Number: int

        def __init__(self, number: int) -> None:
            self.Number = number

    async def script(lab: Lab) -> int:
        return Own(3).Number

    assert run(script).result == 3
    with pytest.raises(TypeError, match=r"PLAIN\(\) takes no arguments"):
        PLAIN(1)


# Paged memory.


class PAGEABLE(Structure):
    Number: int
    Header: HEADER
    Count: LONG
    Buffer: PVOID

    def twice(self) -> int:
        return 2


def read_number(block: PAGEABLE) -> None:
    _ = block.Number


def write_number(block: PAGEABLE) -> None:
    block.Number = 1


def read_inside(block: PAGEABLE) -> None:
    _ = block.Header.Kind


def write_inside(block: PAGEABLE) -> None:
    block.Header.Kind = 1


def zero(block: PAGEABLE) -> None:
    RtlZeroMemory(block, sizeof(PAGEABLE))


TOUCHES: list[tuple[Callable[[PAGEABLE], None], str, int]] = [
    (read_number, "reads .Number", 0),
    (write_number, "writes .Number", 1),
    (read_inside, "reads .Header", 0),
    (write_inside, "reads .Header", 0),
    (zero, "copies bytes", 1),
]


@pytest.mark.rule("KE-IRQL-07")
@pytest.mark.parametrize(("touch", "words", "access"), TOUCHES)
@pytest.mark.parametrize("flags", [POOL_FLAG_PAGED, POOL_FLAG_NON_PAGED])
@pytest.mark.parametrize("irql", [APC_LEVEL, DISPATCH_LEVEL])
def test_paged_memory_is_not_touched_above_apc_level(
    touch: Callable[[PAGEABLE], None], words: str, access: int, flags: int, irql: int
) -> None:
    async def script(lab: Lab) -> PAGEABLE:
        block: PAGEABLE = await ExAllocatePool2(flags, sizeof(PAGEABLE), "Test")

        async def at_level() -> None:
            touch(block)

        await (lab.at_dispatch(at_level()) if irql == DISPATCH_LEVEL else at_level())
        assert block.twice() == 2
        return block

    one = run(script)
    if flags == POOL_FLAG_NON_PAGED or irql == APC_LEVEL:
        assert one.code is None
        assert isinstance(one.result, PAGEABLE)
        assert type(one.result).__name__ == "PAGEABLE"
        assert (type(one.result) is PAGEABLE) == (flags == POOL_FLAG_NON_PAGED)
        return
    assert one.code == "ke.paged"
    assert f"script {words} of a PAGEABLE of 48 bytes, tag 'Test', allocated at {__file__}:" in one.finding.detail
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == 0xD1
    assert one.finding.bug_check.parameters[1:] == (2, access)


@pytest.mark.rule("KE-IRQL-07")
def test_a_method_of_the_drivers_is_code_and_no_memory() -> None:
    async def script(lab: Lab) -> int:
        block: PAGEABLE = await ExAllocatePool2(POOL_FLAG_PAGED, sizeof(PAGEABLE), "Test")

        async def call() -> int:
            return block.twice()

        return await lab.at_dispatch(call())

    assert (run(script).code, run(script).result) == (None, 2)


@pytest.mark.rule("KE-IRQL-07")
@pytest.mark.parametrize("flags", [POOL_FLAG_PAGED, POOL_FLAG_NON_PAGED])
def test_bytes_of_paged_pool_are_not_touched_above_apc_level(flags: int) -> None:
    async def script(lab: Lab) -> None:
        block: Bytes = await ExAllocatePool2(flags, 8, "Test")
        block[0] = 1

        async def touch() -> None:
            block[0] = 1

        await lab.at_dispatch(touch())

    assert run(script).code == ("ke.paged" if flags == POOL_FLAG_PAGED else None)


@pytest.mark.rule("KE-IRQL-07")
def test_a_structure_inside_of_a_paged_block_is_paged_too() -> None:
    async def script(lab: Lab) -> None:
        block: PAGEABLE = await ExAllocatePool2(POOL_FLAG_PAGED, sizeof(PAGEABLE), "Test")
        inside = block.Header

        async def touch() -> None:
            inside.Kind = 1

        await lab.at_dispatch(touch())

    one = run(script)
    assert one.code == "ke.paged"
    assert one.finding.detail.startswith("script writes .Kind of a PAGEABLE")


def test_an_invariant_may_look_at_paged_memory_at_any_level() -> None:
    async def script(lab: Lab) -> None:
        block: PAGEABLE = await ExAllocatePool2(POOL_FLAG_PAGED, sizeof(PAGEABLE), "Test")
        lab.always(lambda: block.Number == 0 and block.Count.value == 0, "nothing changes")
        await lab.at_dispatch(lab.step())

    assert run(script).code is None


@pytest.mark.rule("KE-IRQL-07")
def test_freed_paged_memory_is_freed_memory() -> None:
    async def script(lab: Lab) -> None:
        block: PAGEABLE = await ExAllocatePool2(POOL_FLAG_PAGED, sizeof(PAGEABLE), "Test")
        inside = block.Header
        await ExFreePool(block)
        _ = inside.Kind

    assert run(script).code == "ke.use-after-free"


@pytest.mark.rule("KE-WAIT-02", "KE-SPIN-10")
@pytest.mark.parametrize("flags", [POOL_FLAG_PAGED, POOL_FLAG_NON_PAGED])
@pytest.mark.parametrize("kind", ["event", "lock"])
def test_kernel_objects_must_be_resident(flags: int, kind: str) -> None:
    async def script(lab: Lab) -> None:
        block: REQUEST = await ExAllocatePool2(flags | POOL_FLAG_UNINITIALIZED, sizeof(REQUEST), "Test")
        if kind == "event":
            KeInitializeEvent(block.Done, NotificationEvent, False)
        else:
            KeInitializeSpinLock(block.Lock)
            await KeReleaseSpinLock(block.Lock, await KeAcquireSpinLock(block.Lock))

    one = run(script)
    assert one.code == ("ke.pageable-sync" if flags == POOL_FLAG_PAGED else None)
    if one.code:
        assert "in paged pool" in one.finding.detail


def test_a_list_entry_may_be_paged() -> None:
    async def script(lab: Lab) -> None:
        block: PAGEABLE = await ExAllocatePool2(POOL_FLAG_PAGED, sizeof(PAGEABLE), "Test")
        InitializeListHead(block.Header.Links)
        block.Count.value = 1

    assert run(script).code is None


@pytest.mark.rule("KE-IRQL-08")
@pytest.mark.parametrize("irql", [APC_LEVEL, DISPATCH_LEVEL])
def test_paged_code_asserts_its_level_there_and_then(irql: int) -> None:
    async def script(lab: Lab) -> None:
        async def pageable() -> None:
            current_kthread().irql = irql
            PAGED_CODE()
            current_kthread().irql = PASSIVE_LEVEL

        PAGED_CODE()
        await pageable()

    one = run(script)
    assert one.code == ("ke.paged-code" if irql == DISPATCH_LEVEL else None)
    if irql == DISPATCH_LEVEL:
        assert f"PAGED_CODE() at {__file__}:" in one.finding.detail
        assert one.finding.bug_check is None
