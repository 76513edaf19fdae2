"""References: counts, tags, the last one, what is deleted already."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, Run, all_runs, codes, run

from kemu.nt.object import ObjectType, header_of, register_type
from kemu.runtime import Cell, current_thread
from kemu.wdk.ntifs import PsLookupProcessByProcessId
from kemu.wdk.ntstatus import STATUS_OBJECT_TYPE_MISMATCH, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    Driver,
    KernelMode,
    ObDereferenceObject,
    ObDereferenceObjectDeferDelete,
    ObDereferenceObjectWithTag,
    ObReferenceObject,
    ObReferenceObjectByPointer,
    ObReferenceObjectSafe,
    ObReferenceObjectWithTag,
    PsProcessType,
    PsThreadType,
    UserMode,
)


class Thing(Cell):
    """An object that only its references keep."""

    __slots__ = ("deleted_at",)

    def __init__(self) -> None:
        super().__init__(current_thread(), "thing")
        self.deleted_at: tuple[str, int] | None = None


async def delete_thing(thing: Thing) -> None:
    thread: Any = current_thread()
    thing.deleted_at = thread.label, thread.irql


register_type(Thing, ObjectType("Thing", delete=delete_thing))


def made() -> Thing:
    """A thing with one reference, its creator's."""
    thing = Thing()
    header_of(thing).pointers.append((None, "Dflt"))
    return thing


@pytest.mark.rule("OB-OBJ-01", "KE-REF-02")
def test_an_object_is_deleted_by_whoever_drops_the_last_reference() -> None:
    async def script(lab: Lab) -> Thing:
        thing = made()
        await ObReferenceObject(thing)
        assert header_of(thing).pointer_count == 2

        async def first() -> None:
            await ObDereferenceObject(thing)

        async def second() -> None:
            await ObDereferenceObject(thing)

        await lab.together(first(), second())
        return thing

    deleted = {one.result.deleted_at for one in all_runs(script)}
    assert deleted == {("first", 0), ("second", 0)}


@pytest.mark.rule("KE-REF-02")
def test_a_deferred_deletion_happens_in_a_system_thread_at_passive_level() -> None:
    async def script(lab: Lab) -> Thing:
        thing = made()
        current_thread().irql = 2  # type: ignore[attr-defined]
        await ObDereferenceObjectDeferDelete(thing)
        current_thread().irql = 0  # type: ignore[attr-defined]
        return thing

    for one in all_runs(script):
        assert one.result.deleted_at == ("delete thing", 0)


@pytest.mark.rule("KE-REF-01", "OB-OBJ-03", "OB-OBJ-04")
def test_a_count_that_is_zero_is_neither_lowered_nor_raised() -> None:
    async def under(lab: Lab) -> None:
        thing = made()
        await ObDereferenceObject(thing)
        await ObDereferenceObject(thing)

    async def from_zero(lab: Lab) -> None:
        thing = made()
        await ObDereferenceObject(thing)
        await ObReferenceObject(thing)

    async def balanced(lab: Lab) -> None:
        thing = made()
        await ObReferenceObject(thing)
        await ObDereferenceObject(thing)
        await ObDereferenceObject(thing)

    for script, direction in ((under, 2**64 - 1), (from_zero, 1)):
        found = run(script).finding
        assert found.code == "ob.under-reference"
        assert "which script has deleted" in found.detail
        assert found.bug_check is not None
        assert found.bug_check.code == 0x18
        assert found.verifier is not None
        assert (found.verifier.code, found.verifier.parameters[0]) == (0xC4, 0x3F)
        assert found.verifier.parameters[3] == direction
    assert run(balanced).code is None


@pytest.mark.rule("KE-REF-03", "KE-RACE-09", "OB-OBJ-04")
def test_a_cached_pointer_is_taken_safely_or_races_with_the_last_dereference() -> None:
    def program(safe: bool) -> Any:
        async def script(lab: Lab) -> None:
            thing = made()

            async def finder() -> None:
                if safe:
                    if await ObReferenceObjectSafe(thing):
                        await ObDereferenceObject(thing)
                else:
                    await ObReferenceObject(thing)
                    await ObDereferenceObject(thing)

            async def owner() -> None:
                await ObDereferenceObject(thing)

            await lab.together(finder(), owner())

        return script

    assert codes(all_runs(program(safe=True))) == {None}
    assert codes(all_runs(program(safe=False))) == {None, "ob.under-reference"}


@pytest.mark.rule("KE-REF-04")
def test_a_reference_is_undone_under_its_own_tag() -> None:
    def program(tag: str) -> Run:
        async def script(lab: Lab) -> None:
            thing = made()
            await ObReferenceObjectWithTag(thing, "Scan")
            await ObDereferenceObjectWithTag(thing, tag)
            assert [one for _, one in header_of(thing).pointers] == ["Dflt"]

        return run(script)

    assert program("Scan").code is None
    assert program("Scam").code == "ob.under-reference"


@pytest.mark.rule("OB-OBJ-01")
def test_a_type_may_be_asked_for() -> None:
    async def script(lab: Lab) -> list[int]:
        process = lab.process("app").process
        return [
            await ObReferenceObjectByPointer(process, 0, PsProcessType.contents, KernelMode),
            await ObReferenceObjectByPointer(process, 0, PsThreadType.contents, KernelMode),
            await ObReferenceObjectByPointer(process, 0, None, KernelMode),
            await ObReferenceObjectByPointer(process, 0, None, UserMode),
        ]

    assert run(script).result == [
        STATUS_SUCCESS,
        STATUS_OBJECT_TYPE_MISMATCH,
        STATUS_SUCCESS,
        STATUS_OBJECT_TYPE_MISMATCH,
    ]


def test_the_system_holds_what_is_alive() -> None:
    async def script(lab: Lab) -> bool:
        process = lab.process("app").process
        await ObReferenceObject(process)
        await ObDereferenceObject(process)
        return process in lab.system.freed

    assert run(script).result is False


@pytest.mark.parametrize("pointer", [None, "text", Cell])
def test_what_is_no_object_is_a_bad_pointer(pointer: Any) -> None:
    async def script(lab: Lab) -> None:
        await ObReferenceObject(Cell(current_thread(), "cell") if pointer is Cell else pointer)

    assert run(script).code == "ke.bad-pointer"


@pytest.mark.rule("KE-REF-01", "KE-REF-04", "OB-OBJ-03")
@pytest.mark.parametrize("drops", [True, False])
def test_references_that_are_left_are_listed_when_the_driver_is_unloaded(drops: bool) -> None:
    class Keeper(Driver):
        async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
            _, self.process = await PsLookupProcessByProcessId(4)
            assert self.process is not None
            if drops:
                await ObDereferenceObject(self.process)
            return STATUS_SUCCESS

    async def script(lab: Lab) -> list[str]:
        loaded = await lab.load(Keeper, "100000")
        return [left.what for left in lab.system.left_by(loaded.driver_object.actor)]

    assert run(script).result == ([] if drops else ["a reference of System, tag 'Dflt'"])
