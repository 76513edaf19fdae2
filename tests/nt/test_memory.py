"""Pool: what allocation gives, what is found when blocks are misused, and what is left at unload."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, run

from kemu.errors import UsageError
from kemu.nt.buffer import allocation_of
from kemu.nt.bugcheck import BugCheck
from kemu.nt.kthread import current_kthread
from kemu.nt.structure import fields_of
from kemu.wdk.fltkernel import FLT_PREOP_SUCCESS_NO_CALLBACK
from kemu.wdk.ntddk import StructuredException
from kemu.wdk.ntstatus import STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER, STATUS_QUOTA_EXCEEDED
from kemu.wdk.wdm import (
    IRP_MJ_READ,
    KDPC,
    KSPIN_LOCK,
    LIST_ENTRY,
    PAGE_SIZE,
    POOL_FLAG_CACHE_ALIGNED,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_NON_PAGED_EXECUTE,
    POOL_FLAG_PAGED,
    POOL_FLAG_RAISE_ON_FAILURE,
    POOL_FLAG_SPECIAL_POOL,
    POOL_FLAG_UNINITIALIZED,
    POOL_FLAG_USE_QUOTA,
    POOL_QUOTA_FAIL_INSTEAD_OF_RAISE,
    POOL_RAISE_IF_ALLOCATION_FAILURE,
    Bytes,
    DrvRtPoolNxOptIn,
    ExAllocatePool,
    ExAllocatePool2,
    ExAllocatePoolQuotaUninitialized,
    ExAllocatePoolQuotaZero,
    ExAllocatePoolUninitialized,
    ExAllocatePoolWithQuotaTag,
    ExAllocatePoolWithTag,
    ExAllocatePoolZero,
    ExFreePool,
    ExFreePoolWithTag,
    ExInitializeDriverRuntime,
    KeAcquireSpinLock,
    KeInitializeDpc,
    KeInitializeSpinLock,
    KeInsertQueueDpc,
    KeReleaseSpinLock,
    NonPagedPool,
    NonPagedPoolMustSucceed,
    NonPagedPoolNx,
    PagedPool,
    Structure,
    sizeof,
)


class ITEM(Structure):
    Number: int
    Text: str


class LONGER(ITEM):
    More: object


async def item(flags: int = POOL_FLAG_NON_PAGED) -> ITEM:
    return await ExAllocatePool2(flags, sizeof(ITEM), "Item")


@pytest.mark.rule("KE-POOL-02")
def test_an_allocation_is_an_instance_of_its_structure_and_zeroed() -> None:
    async def script(lab: Lab) -> list[object]:
        block = await item()
        raw = await ExAllocatePool2(POOL_FLAG_PAGED, 5, "Raw ")
        return [type(block), block.Number, block.Text, type(raw), bytes(raw)]

    assert run(script).result == [ITEM, 0, 0, Bytes, bytes(5)]


def test_a_size_counts_eight_bytes_a_field_of_all_base_classes() -> None:
    assert [int(sizeof(one)) for one in (ITEM, LONGER)] == [16, 24]
    assert sizeof(LONGER).structure is LONGER
    assert list(fields_of(LONGER)) == ["Number", "Text", "More"]


@pytest.mark.rule("KE-POOL-02")
@pytest.mark.parametrize(
    ("flags", "tag"),
    [
        (0, "Test"),
        (POOL_FLAG_NON_PAGED | POOL_FLAG_PAGED, "Test"),
        (POOL_FLAG_NON_PAGED | POOL_FLAG_NON_PAGED_EXECUTE, "Test"),
        (POOL_FLAG_NON_PAGED, ""),
        (POOL_FLAG_NON_PAGED, 0),
    ],
)
def test_no_kind_of_pool_two_kinds_or_no_tag_give_nothing(flags: int, tag: Any) -> None:
    async def script(lab: Lab) -> object:
        return await ExAllocatePool2(flags, 8, tag)

    one = run(script)
    assert (one.code, one.result) == (None, None)


@pytest.mark.rule("KE-POOL-04")
@pytest.mark.parametrize("tag", ["Tag12", "Ta\x01g", "Täg"])
def test_a_tag_is_one_to_four_printable_characters(tag: str) -> None:
    async def script(lab: Lab) -> None:
        await ExAllocatePool2(POOL_FLAG_NON_PAGED, 8, tag)

    with pytest.raises(UsageError, match="ExAllocatePool2 with tag") as caught:
        run(script)
    assert "test_memory.py" in str(caught.value)


@pytest.mark.rule("KE-POOL-02")
def test_uninitialised_memory_must_be_written_before_it_is_read() -> None:
    def script_of(writes: bool, flags: int = POOL_FLAG_NON_PAGED | POOL_FLAG_UNINITIALIZED) -> Script:
        async def script(lab: Lab) -> int:
            block = await item(flags)
            if writes:
                block.Number = 7
            return block.Number

        return script

    one = run(script_of(writes=False))
    assert one.code == "ke.uninitialised"
    assert one.finding.detail == "ITEM.Number was read before it was written"
    assert run(script_of(writes=True)).result == 7


def test_a_field_that_does_not_exist_is_the_drivers_mistake_as_in_python() -> None:
    async def script(lab: Lab) -> None:
        _ = (await item()).Nummer  # type: ignore[attr-defined]

    with pytest.raises(AttributeError, match="ITEM has no field 'Nummer'"):
        run(script)


@pytest.mark.rule("KE-POOL-06")
@pytest.mark.parametrize("flags", [POOL_FLAG_NON_PAGED, POOL_FLAG_NON_PAGED | POOL_FLAG_RAISE_ON_FAILURE])
def test_an_allocation_may_fail_where_low_resources_are_explored(flags: int) -> None:
    async def script(lab: Lab) -> str:
        try:
            return "none" if await ExAllocatePool2(flags, 8, "Test") is None else "block"
        except StructuredException:
            return "raised"

    failed = "raised" if flags & POOL_FLAG_RAISE_ON_FAILURE else "none"
    assert {one.result for one in all_runs(script, low_resources=True)} == {"block", failed}
    assert {one.result for one in all_runs(script)} == {"block"}


@pytest.mark.rule("KE-POOL-06")
def test_one_allocation_of_a_run_fails_each_in_its_turn() -> None:
    async def script(lab: Lab) -> tuple[int, ...]:
        found = [await ExAllocatePool2(POOL_FLAG_NON_PAGED, 8, "Test") for _ in range(3)]
        return tuple(number for number, block in enumerate(found) if block is None)

    runs = all_runs(script, low_resources="once")
    assert sorted(one.result for one in runs) == [(), (0,), (1,), (2,)]
    assert len({one.result for one in all_runs(script, low_resources=True)}) == 8


@pytest.mark.rule("KE-POOL-06")
def test_one_allocation_of_several_threads_fails() -> None:
    async def script(lab: Lab) -> tuple[bool, ...]:
        async def allocator() -> bool:
            await lab.step()
            return await ExAllocatePool2(POOL_FLAG_NON_PAGED, 8, "Test") is None

        return tuple(await lab.together(allocator(), allocator()))

    found = {one.result for one in all_runs(script, low_resources="once")}
    assert found == {(False, False), (True, False), (False, True)}


@pytest.mark.rule("KE-POOL-04")
def test_zero_bytes_are_a_bug_check() -> None:
    async def script(lab: Lab) -> None:
        await ExAllocatePool2(POOL_FLAG_NON_PAGED, 0, "Test")

    one = run(script)
    assert one.code == "ke.pool-zero-bytes"
    assert stop(one.finding.bug_check) == (0xC2, (0, 0, 512, 0x74736554))
    assert stop(one.finding.verifier) == (0xC4, (0, 0, 512, 0))


def stop(bug_check: BugCheck | None) -> tuple[int, tuple[int, ...]]:
    assert bug_check is not None
    return bug_check.code, bug_check.parameters


async def free_with_tag(block: Any) -> None:
    await ExFreePoolWithTag(block, "Item")


def read_number(block: ITEM) -> None:
    _ = block.Number


def write_number(block: ITEM) -> None:
    block.Number = 1


@pytest.mark.rule("KE-POOL-08")
@pytest.mark.parametrize("free", [ExFreePool, free_with_tag])
@pytest.mark.parametrize(("use", "words"), [(read_number, "reads .Number"), (write_number, "writes .Number")])
def test_memory_must_not_be_used_after_it_was_freed(
    free: Callable[[ITEM], Awaitable[None]], use: Callable[[ITEM], None], words: str
) -> None:
    async def script(lab: Lab) -> None:
        block = await item()
        use(block)
        await free(block)
        use(block)

    one = run(script)
    assert one.code == "ke.use-after-free"
    assert one.finding.detail.startswith(f"script {words} of an ITEM of 16 bytes, tag 'Item', allocated at {__file__}:")
    assert f"(item), freed by script at {__file__}:" in one.finding.detail
    assert stop(one.finding.verifier)[0] == 0xD5
    assert stop(one.finding.verifier)[1][1] == (use is write_number)


@pytest.mark.rule("KE-POOL-08")
def test_freeing_races_with_a_use_by_another_thread() -> None:
    async def script(lab: Lab) -> None:
        block = await item()

        async def user() -> None:
            await lab.step()
            block.Number = 1

        async def freer() -> None:
            await ExFreePool(block)

        await lab.together(user(), freer())

    assert codes(all_runs(script)) == {None, "ke.use-after-free"}


@pytest.mark.rule("KE-POOL-07")
def test_a_block_is_freed_once() -> None:
    async def script(lab: Lab) -> None:
        block = await item()
        await ExFreePool(block)
        await ExFreePoolWithTag(block, "Item")

    one = run(script)
    assert one.code == "ke.double-free"
    assert stop(one.finding.bug_check)[1][0] == 0x07
    assert stop(one.finding.verifier)[1][0] == 0x13
    assert "freed by script at" in one.finding.detail


@pytest.mark.rule("KE-POOL-07")
def test_a_block_is_freed_with_its_own_tag() -> None:
    async def script(lab: Lab) -> None:
        await ExFreePoolWithTag(await item(), "Itme")

    one = run(script)
    assert one.code == "ke.pool-wrong-tag"
    assert "tag 'Itme'" in one.finding.detail
    assert "tag 'Item'" in one.finding.detail
    code, (kind, address, allocated, used) = stop(one.finding.bug_check)
    assert (code, kind, allocated, used) == (0xC2, 0x0A, 0x6D657449, 0x656D7449)
    assert address % 16 == 0


@pytest.mark.rule("KE-POOL-07")
@pytest.mark.parametrize("free", [ExFreePool, free_with_tag])
@pytest.mark.parametrize("thing", [ITEM(), LIST_ENTRY(), None, 7, "text"])
def test_only_what_pool_handed_out_can_be_freed(thing: Any, free: Callable[[Any], Awaitable[None]]) -> None:
    async def script(lab: Lab) -> None:
        await free(thing)

    one = run(script)
    assert one.code == "ke.pool-wrong-address"
    assert stop(one.finding.bug_check) == (0xC2, (0x99,))


@pytest.mark.rule("KE-POOL-11")
@pytest.mark.parametrize("frees", [True, False])
def test_what_a_driver_left_at_its_unload_is_a_leak(frees: bool) -> None:
    async def script(lab: Lab) -> None:
        async def setup(FltObjects: Any, Flags: int, DeviceType: int, FilesystemType: int) -> int:
            block = await item()
            if frees:
                await ExFreePool(block)
            return 0

        driver = await lab.filter("Leaky", "1", {}, InstanceSetupCallback=setup)
        await driver.unload()

    one = run(script)
    assert one.code == (None if frees else "ke.pool-leak")
    if not frees:
        assert "Leaky was unloaded and left an ITEM of 16 bytes, tag 'Item'" in one.finding.detail


@pytest.mark.rule("KE-UNLOAD-02", "FLT-REG-22")
@pytest.mark.parametrize("frees", [True, False])
def test_what_a_failing_driver_entry_left_is_a_leak(frees: bool) -> None:
    from kemu.wdk.wdm import DRIVER_OBJECT, Driver

    class Failing(Driver):
        async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
            block = await item()
            if frees:
                await ExFreePool(block)
            return STATUS_INSUFFICIENT_RESOURCES

    async def script(lab: Lab) -> object:
        return (await lab.load(Failing, "1")).status

    one = run(script)
    assert one.code == (None if frees else "driverentry-fail-leak")
    if frees:
        assert one.result == STATUS_INSUFFICIENT_RESOURCES


# The older family.

OLDER: list[tuple[Any, bool, bool]] = [
    (ExAllocatePoolZero, True, False),
    (ExAllocatePoolUninitialized, False, False),
    (ExAllocatePoolQuotaZero, True, True),
    (ExAllocatePoolQuotaUninitialized, False, True),
    (ExAllocatePoolWithTag, False, False),
    (ExAllocatePoolWithQuotaTag, False, True),
]


@pytest.mark.rule("KE-POOL-03")
@pytest.mark.parametrize(("routine", "zeroed", "quota"), OLDER)
def test_the_older_routines_zero_the_memory_or_do_not(routine: Any, zeroed: bool, quota: bool) -> None:
    async def script(lab: Lab) -> int:
        block: ITEM = await routine(NonPagedPoolNx, sizeof(ITEM), "Item")
        return block.Number

    one = run(script)
    assert (one.code, one.result) == ((None, 0) if zeroed else ("ke.uninitialised", None))


@pytest.mark.rule("KE-POOL-03")
@pytest.mark.parametrize(("routine", "zeroed", "quota"), OLDER)
@pytest.mark.parametrize(
    "more", [0, POOL_QUOTA_FAIL_INSTEAD_OF_RAISE, POOL_RAISE_IF_ALLOCATION_FAILURE], ids=["plain", "fail", "raise"]
)
def test_the_older_routines_fail_or_raise(routine: Any, zeroed: bool, quota: bool, more: int) -> None:
    async def script(lab: Lab) -> object:
        try:
            return await routine(NonPagedPoolNx | more, 8, "Test") is None
        except StructuredException as error:
            return error.ExceptionCode

    expected: object = True
    if quota and more != POOL_QUOTA_FAIL_INSTEAD_OF_RAISE:
        expected = STATUS_QUOTA_EXCEEDED
    elif not quota and more == POOL_RAISE_IF_ALLOCATION_FAILURE:
        expected = STATUS_INSUFFICIENT_RESOURCES
    assert {one.result for one in all_runs(script, low_resources=True)} == {False, expected}


@pytest.mark.rule("KE-POOL-03")
def test_a_raise_that_nobody_handles_stops_the_system() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: Any, FltObjects: Any) -> int:
            await ExAllocatePoolQuotaZero(NonPagedPoolNx, 8, "Test")
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("Quota", "1", {IRP_MJ_READ: (pre, None)})
        await (await lab.quiet_open()).read(1)

    runs = {one.code: one for one in all_runs(script, low_resources=True)}
    assert set(runs) == {None, "ke.unhandled-exception"}
    assert stop(runs["ke.unhandled-exception"].finding.bug_check) == (0x7E, (0xC0000044,))


@pytest.mark.rule("KE-POOL-03")
@pytest.mark.parametrize(
    ("routine", "arguments", "deprecated"),
    [
        (ExAllocatePoolWithTag, (NonPagedPoolNx, 8, "Test"), True),
        (ExAllocatePoolWithQuotaTag, (NonPagedPoolNx, 8, "Test"), True),
        (ExAllocatePool, (NonPagedPoolNx, 8), True),
        (ExAllocatePoolZero, (NonPagedPoolNx, 8, "Test"), False),
        (ExAllocatePool2, (POOL_FLAG_NON_PAGED, 8, "Test"), False),
    ],
)
def test_what_is_deprecated_is_remarked_upon(routine: Any, arguments: tuple[Any, ...], deprecated: bool) -> None:
    async def script(lab: Lab) -> None:
        await routine(*arguments)

    one = run(script)
    assert (one.code, one.warnings) == (None, ("ke.pool-deprecated",) if deprecated else ())


@pytest.mark.rule("KE-POOL-04")
@pytest.mark.parametrize(
    ("tag", "first"),
    [("", 0x9B), (0, 0x9B), ("BIG", 0x9C), ("BIG ", 0x9C), ("!-!", 0x9D), ("B!G", None), ("Big", None)],
)
@pytest.mark.parametrize(("routine", "zeroed", "quota"), OLDER)
def test_the_older_routines_stop_for_a_bad_tag(
    routine: Any, zeroed: bool, quota: bool, tag: Any, first: int | None
) -> None:
    async def script(lab: Lab) -> None:
        await routine(NonPagedPoolNx, 8, tag)

    one = run(script)
    assert one.code == (None if first is None else "ke.pool-bad-tag")
    if first is not None:
        assert stop(one.finding.bug_check) == (0xC2, (first, NonPagedPoolNx, 8))


@pytest.mark.rule("KE-POOL-04")
@pytest.mark.parametrize(
    ("flags", "tag", "status"),
    [
        (POOL_FLAG_NON_PAGED, 0, STATUS_INVALID_PARAMETER),
        (POOL_FLAG_NON_PAGED | 0x10, "Test", STATUS_INVALID_PARAMETER),
        (0, "Test", STATUS_INVALID_PARAMETER),
        (POOL_FLAG_NON_PAGED | 0x8000_0000, "Test", STATUS_INVALID_PARAMETER),
        # What nobody knows in the upper half is optional.
        (POOL_FLAG_NON_PAGED | POOL_FLAG_SPECIAL_POOL | 0x80_0000_0000, "Test", None),
        (POOL_FLAG_NON_PAGED | POOL_FLAG_CACHE_ALIGNED | POOL_FLAG_USE_QUOTA, "Test", None),
    ],
)
def test_bad_flags_and_no_tag_raise_where_failure_raises(flags: int, tag: Any, status: Any) -> None:
    async def script(lab: Lab) -> object:
        plain = await ExAllocatePool2(flags, 8, tag)
        try:
            raising = await ExAllocatePool2(flags | POOL_FLAG_RAISE_ON_FAILURE, 8, tag)
        except StructuredException as error:
            return plain is None and error.ExceptionCode
        return plain is None or raising is None

    assert run(script).result == (False if status is None else status)


@pytest.mark.rule("KE-POOL-02")
@pytest.mark.parametrize("size", [-1, 1 << 40, (1 << 64) - 8])
def test_more_than_there_is_cannot_be_had(size: int) -> None:
    async def script(lab: Lab) -> object:
        return await ExAllocatePool2(POOL_FLAG_NON_PAGED, size, "Test")

    assert (run(script).code, run(script).result) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((POOL_FLAG_NON_PAGED, "8", "Test"), "NumberOfBytes '8'"),
        ((POOL_FLAG_NON_PAGED, 8.0, "Test"), "NumberOfBytes 8.0"),
        ((None, 8, "Test"), "Flags None"),
        ((POOL_FLAG_NON_PAGED, 8, None), "tag None"),
    ],
)
def test_what_c_would_not_compile_is_a_mistake_of_the_scenario(arguments: Any, words: str) -> None:
    async def script(lab: Lab) -> None:
        await ExAllocatePool2(*arguments)

    with pytest.raises(UsageError, match=words):
        run(script)


@pytest.mark.rule("KE-POOL-04")
def test_a_tag_may_be_a_number_as_in_c() -> None:
    async def script(lab: Lab) -> None:
        await ExFreePoolWithTag(await ExAllocatePool2(POOL_FLAG_NON_PAGED, 8, 0x74736554), "Test")

    assert run(script).code is None


@pytest.mark.rule("KE-POOL-03")
def test_pool_that_must_succeed_is_gone() -> None:
    async def script(lab: Lab) -> None:
        await ExAllocatePoolZero(NonPagedPoolMustSucceed, 8, "Test")

    assert stop(run(script).finding.bug_check)[1][0] == 0x9A


@pytest.mark.rule("KE-POOL-05")
@pytest.mark.parametrize("size", [1, 8, 16, 24, 100, 4095, 4096, 4097, 10000])
def test_a_block_has_an_address_that_is_aligned(size: int) -> None:
    async def script(lab: Lab) -> list[int]:
        blocks = [await ExAllocatePool2(POOL_FLAG_NON_PAGED, size, "Test") for _ in range(20)]
        return [allocation.address for block in blocks if (allocation := allocation_of(block)) is not None]

    addresses = run(script).result
    assert addresses == run(script).result
    assert len(set(addresses)) == 20
    for address in addresses:
        assert address % 16 == 0
        if size >= PAGE_SIZE:
            assert address % PAGE_SIZE == 0
        else:
            assert address // PAGE_SIZE == (address + size - 1) // PAGE_SIZE


@pytest.mark.rule("KE-POOL-12")
@pytest.mark.parametrize("routine", ["flag", "older"])
@pytest.mark.parametrize("where", ["requester", "dpc", "locked"])
def test_quota_is_charged_to_the_requester_alone(routine: str, where: str) -> None:
    async def allocate() -> None:
        if routine == "flag":
            await ExAllocatePool2(POOL_FLAG_NON_PAGED | POOL_FLAG_USE_QUOTA, 8, "Test")
        else:
            await ExAllocatePoolQuotaZero(NonPagedPoolNx, 8, "Test")

    async def script(lab: Lab) -> None:
        if where == "requester":
            await lab.together(lab.at_dispatch(allocate()), process=lab.app)
        elif where == "dpc":

            async def routine(*arguments: object) -> None:
                await allocate()

            dpc = KDPC()
            KeInitializeDpc(dpc, routine, None)
            await KeInsertQueueDpc(dpc, None, None)
        else:
            lock = KSPIN_LOCK()
            KeInitializeSpinLock(lock)
            irql = await KeAcquireSpinLock(lock)
            await allocate()
            await KeReleaseSpinLock(lock, irql)

    one = run(script)
    assert one.code == ("ke.quota-context" if where == "dpc" else None)
    if one.code:
        assert stop(one.finding.verifier) == (0xC4, (0x10B,))


@pytest.mark.rule("KE-POOL-13")
@pytest.mark.parametrize(
    ("how", "warns"), [("flag", True), ("type", True), ("opted in", False), ("other driver", True), ("nx", False)]
)
def test_memory_that_can_be_executed_is_warned_of(how: str, warns: bool) -> None:
    async def script(lab: Lab) -> None:
        async def opts_in(FltObjects: Any, Flags: int, DeviceType: int, FilesystemType: int) -> int:
            ExInitializeDriverRuntime(DrvRtPoolNxOptIn)
            if how == "opted in":
                await ExAllocatePoolZero(NonPagedPool, 8, "Test")
            return 0

        if how in {"opted in", "other driver"}:
            await lab.filter("Careful", "1", {}, InstanceSetupCallback=opts_in)
        if how == "flag":
            await ExAllocatePool2(POOL_FLAG_NON_PAGED_EXECUTE, 8, "Test")
        elif how != "opted in":
            await ExAllocatePoolZero(NonPagedPoolNx if how == "nx" else NonPagedPool, 8, "Test")

    one = run(script)
    assert (one.code, one.warnings) == (None, ("ke.pool-executable",) if warns else ())


@pytest.mark.rule("KE-POOL-01")
@pytest.mark.parametrize(
    ("routine", "kind", "irql", "first"),
    [
        (ExAllocatePool2, POOL_FLAG_PAGED, 2, 0x01),
        (ExAllocatePool2, POOL_FLAG_NON_PAGED, 3, 0x02),
        (ExAllocatePoolZero, PagedPool, 2, 0x01),
        (ExAllocatePoolZero, NonPagedPoolNx, 3, 0x02),
        (ExAllocatePoolZero, NonPagedPoolNx, 2, None),
        (ExAllocatePoolZero, PagedPool, 1, None),
    ],
)
def test_allocating_too_high_has_bug_checks_of_its_own(routine: Any, kind: int, irql: int, first: int | None) -> None:
    async def script(lab: Lab) -> None:
        current_kthread().irql = irql
        await routine(kind, 24, "Test")
        current_kthread().irql = 0

    one = run(script)
    assert one.code == (None if first is None else "ke.irql")
    if first is not None:
        assert stop(one.finding.bug_check) == (0xC2, (0x08, irql, kind, 24))
        assert stop(one.finding.verifier) == (0xC4, (first, irql, kind, 24))
