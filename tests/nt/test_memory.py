"""Pool: what allocation gives, what is found when blocks are misused, and what is left at unload."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, run

from kemu.errors import UsageError
from kemu.nt.bugcheck import BugCheck
from kemu.nt.structure import fields_of
from kemu.wdk.ntddk import StructuredException
from kemu.wdk.ntstatus import STATUS_INSUFFICIENT_RESOURCES
from kemu.wdk.wdm import (
    LIST_ENTRY,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_NON_PAGED_EXECUTE,
    POOL_FLAG_PAGED,
    POOL_FLAG_RAISE_ON_FAILURE,
    POOL_FLAG_UNINITIALIZED,
    Bytes,
    ExAllocatePool2,
    ExFreePool,
    ExFreePoolWithTag,
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


@pytest.mark.rule("KE-POOL-04")
def test_zero_bytes_are_a_bug_check() -> None:
    async def script(lab: Lab) -> None:
        await ExAllocatePool2(POOL_FLAG_NON_PAGED, 0, "Test")

    one = run(script)
    assert one.code == "ke.pool-zero-bytes"
    assert stop(one.finding.bug_check) == (0xC2, (0, 0, 512, 0x54657374))
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
    assert (code, kind, allocated, used) == (0xC2, 0x0A, 0x4974656D, 0x49746D65)
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
