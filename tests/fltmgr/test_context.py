"""Contexts: declaring, allocating, linking, finding, deleting, and their statuses (FLT-CTX)."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.context_kit import CONTEXT, KEEP, KINDS, TAG, Keeper, carriers, keeper
from fltmgr.kit import LOWER, Lab, all_runs, run

from kemu.fltmgr.context import DeleteContext, LookAtFilter, ReferenceContext, ReleaseContext
from kemu.fltmgr.context_end import Contexts, FreeContext, Unlink, UnlinkFrom, object_gone
from kemu.fltmgr.context_links import GetContext
from kemu.fltmgr.context_record import context_of
from kemu.fltmgr.context_types import Definitions
from kemu.io.manager import IoManager
from kemu.nt.transaction import KTRANSACTION
from kemu.runtime import Operation
from kemu.scenario.world import File
from kemu.wdk import fltkernel
from kemu.wdk.fltkernel import (
    FLT_ALL_CONTEXTS,
    FLT_CONTEXT_REGISTRATION,
    FLT_FILE_CONTEXT,
    FLT_INSTANCE_CONTEXT,
    FLT_RELATED_CONTEXTS_EX,
    FLT_SECTION_CONTEXT,
    FLT_SET_CONTEXT_REPLACE_IF_EXISTS,
    FLT_STREAM_CONTEXT,
    FLT_STREAMHANDLE_CONTEXT,
    FLT_TRANSACTION_CONTEXT,
    FLT_VARIABLE_SIZED_CONTEXTS,
    FLT_VOLUME_CONTEXT,
    FLTFL_CONTEXT_REGISTRATION_NO_EXACT_SIZE_MATCH,
    FltAllocateContext,
    FltDeleteContext,
    FltDeleteStreamContext,
    FltGetContexts,
    FltGetContextsEx,
    FltGetInstanceContext,
    FltGetStreamContext,
    FltReferenceContext,
    FltReleaseContext,
    FltReleaseContexts,
    FltReleaseContextsEx,
    FltSetInstanceContext,
    FltSetStreamContext,
    FltSupportsFileContexts,
    FltSupportsFileContextsEx,
    FltSupportsStreamContexts,
    FltSupportsStreamHandleContexts,
)
from kemu.wdk.ntstatus import (
    STATUS_FLT_CONTEXT_ALLOCATION_NOT_FOUND,
    STATUS_FLT_CONTEXT_ALREADY_DEFINED,
    STATUS_FLT_CONTEXT_ALREADY_LINKED,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_FLT_DO_NOT_ATTACH,
    STATUS_FLT_INVALID_CONTEXT_REGISTRATION,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_BUFFER_SIZE,
    STATUS_INVALID_PARAMETER,
    STATUS_NOT_FOUND,
    STATUS_NOT_SUPPORTED,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    POOL_FLAG_NON_PAGED,
    SL_OPEN_PAGING_FILE,
    ExAllocatePool2,
    ExFreePoolWithTag,
    NonPagedPool,
    NonPagedPoolNx,
    PagedPool,
    Structure,
    sizeof,
)

REPLACE = FLT_SET_CONTEXT_REPLACE_IF_EXISTS
INEXACT = FLTFL_CONTEXT_REGISTRATION_NO_EXACT_SIZE_MATCH


class SMALL(Structure):
    A: int


class LARGE(Structure):
    A: int
    B: int
    C: int


def routine(verb: str, kind: str) -> Any:
    return getattr(fltkernel, f"Flt{verb}{'StreamHandle' if kind == 'handle' else kind.capitalize()}Context")


def get_arguments(driver: Keeper, kind: str, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """What the routines that get and delete take."""
    return (driver.flt, *given) if kind == "volume" else given


# Declaring and allocating.


@pytest.mark.rule("FLT-CTX-01")
def test_the_kinds_have_the_values_of_the_header() -> None:
    assert [
        FLT_VOLUME_CONTEXT, FLT_INSTANCE_CONTEXT, FLT_FILE_CONTEXT, FLT_STREAM_CONTEXT, FLT_STREAMHANDLE_CONTEXT,
        FLT_TRANSACTION_CONTEXT, FLT_SECTION_CONTEXT,
    ] == [0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x40]  # fmt: skip


def declared(*sizes: int, flags: int = 0, **more: Any) -> Definitions:
    entries = [FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, flags, None, size, TAG, **more) for size in sizes]
    return Definitions([*entries, FLT_CONTEXT_REGISTRATION()])


async def allocate(PoolType: int, Size: int, ContextType: int) -> Any:
    return await ExAllocatePool2(POOL_FLAG_NON_PAGED, Size, TAG)


async def free(Pool: Any, ContextType: int) -> None:
    await ExFreePoolWithTag(Pool, TAG)


@pytest.mark.rule("FLT-CTX-02")
def test_three_fixed_sizes_and_a_variable_one_can_be_declared() -> None:
    assert declared(8, 16, 24, FLT_VARIABLE_SIZED_CONTEXTS).is_valid
    assert not declared(8, 16, 24, 32).is_valid
    assert declared(8, 16, 8, 24, 16).is_valid  # the same again is left aside
    assert declared(8, ContextAllocateCallback=allocate, ContextFreeCallback=free).is_valid
    assert not declared(8, 16, ContextAllocateCallback=allocate, ContextFreeCallback=free).is_valid
    assert not Definitions([FLT_CONTEXT_REGISTRATION(0x3, 0, None, 8, TAG), FLT_CONTEXT_REGISTRATION()]).is_valid


@pytest.mark.rule("FLT-CTX-02", "FLT-REG-02")
def test_a_filter_with_contexts_that_do_not_go_together_is_not_registered() -> None:
    async def script(lab: Lab) -> Any:
        entries = [FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, None, size, TAG) for size in (8, 16, 24, 32)]
        _, loaded = await keeper(lab, contexts=[*entries, FLT_CONTEXT_REGISTRATION()])
        return loaded.status

    assert run(script).result == STATUS_FLT_INVALID_CONTEXT_REGISTRATION


@pytest.mark.rule("FLT-REG-04")
@pytest.mark.parametrize(("end", "code"), [([FLT_CONTEXT_REGISTRATION()], None), ([], "reg-unterminated")])
def test_the_context_array_has_an_end(end: list[FLT_CONTEXT_REGISTRATION], code: str | None) -> None:
    async def script(lab: Lab) -> None:
        await keeper(lab, contexts=[FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, None, CONTEXT, TAG), *end])

    assert run(script).code == code


@pytest.mark.rule("FLT-CTX-03")
@pytest.mark.parametrize(
    ("sizes", "flags", "asked", "chosen"),
    [
        ((8, 16), 0, 16, 16),
        ((16, 8), INEXACT, 8, 8),
        ((16, 8), INEXACT, 4, 8),
        ((8, 16), INEXACT, 12, 16),
        ((8, 16), 0, 12, None),
        ((8, 16, FLT_VARIABLE_SIZED_CONTEXTS), 0, 12, FLT_VARIABLE_SIZED_CONTEXTS),
        ((8, 16, FLT_VARIABLE_SIZED_CONTEXTS), INEXACT, 12, 16),
        ((8, 16), INEXACT, 20, None),
    ],
)
def test_the_declaration_of_an_allocation(sizes: tuple[int, ...], flags: int, asked: int, chosen: int | None) -> None:
    found = declared(*sizes, flags=flags).choose(FLT_STREAM_CONTEXT, asked)
    assert (None if found is None else found.size) == chosen


@pytest.mark.rule("FLT-CTX-02", "FLT-CTX-03", "FLT-CTX-04", "FLT-CTX-05")
@pytest.mark.parametrize(
    ("kind", "size", "pool", "status"),
    [
        (FLT_STREAM_CONTEXT, CONTEXT, NonPagedPool, STATUS_SUCCESS),
        (FLT_STREAM_CONTEXT, sizeof(CONTEXT), PagedPool, STATUS_SUCCESS),
        (FLT_STREAM_CONTEXT, 16, NonPagedPoolNx, STATUS_SUCCESS),
        (FLT_VOLUME_CONTEXT, CONTEXT, NonPagedPoolNx, STATUS_SUCCESS),
        (FLT_STREAM_CONTEXT, LARGE, NonPagedPool, STATUS_FLT_CONTEXT_ALLOCATION_NOT_FOUND),
        (FLT_STREAM_CONTEXT, 8, NonPagedPool, STATUS_FLT_CONTEXT_ALLOCATION_NOT_FOUND),
        (FLT_SECTION_CONTEXT, CONTEXT, NonPagedPool, STATUS_FLT_CONTEXT_ALLOCATION_NOT_FOUND),
        (FLT_STREAM_CONTEXT, 0x10000, NonPagedPool, STATUS_INVALID_BUFFER_SIZE),
        (FLT_STREAM_CONTEXT, 0, NonPagedPool, STATUS_INVALID_PARAMETER),
        (0x3, CONTEXT, NonPagedPool, STATUS_INVALID_PARAMETER),
        (FLT_STREAM_CONTEXT, CONTEXT, 2, STATUS_INVALID_PARAMETER),
    ],
)
def test_allocating(kind: int, size: Any, pool: int, status: int) -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await keeper(lab)
        result, context = await FltAllocateContext(driver.flt, kind, size, pool)
        assert (context is not None) == (status == STATUS_SUCCESS)
        return result

    one = run(script)
    assert (one.code, one.result) == (None, status)


@pytest.mark.rule("FLT-CTX-04")
def test_an_allocation_fails_for_want_of_memory_and_while_the_filter_goes() -> None:
    async def script(lab: Lab) -> Any:
        async def complete(FltObjects: Any, Reason: int) -> None:
            lab.note("going", await FltAllocateContext(driver.flt, FLT_STREAM_CONTEXT, CONTEXT, NonPagedPool))

        driver, loaded = await keeper(lab, InstanceTeardownCompleteCallback=complete)
        await loaded.unload()

    assert run(script).note("going").value == (STATUS_FLT_DELETING_OBJECT, None)

    async def short(lab: Lab) -> Any:
        driver, _ = await keeper(lab)
        return await FltAllocateContext(driver.flt, FLT_STREAM_CONTEXT, CONTEXT, NonPagedPool)

    results = [one.result for one in all_runs(short, low_resources=True, unseen=True)]
    assert (STATUS_INSUFFICIENT_RESOURCES, None) in results
    assert any(status == STATUS_SUCCESS for status, _ in results)


@pytest.mark.rule("FLT-CTX-06")
def test_what_a_context_holds_before_it_is_written() -> None:
    contexts = [
        FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, None, CONTEXT, TAG),
        FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, None, FLT_VARIABLE_SIZED_CONTEXTS, TAG),
        FLT_CONTEXT_REGISTRATION(),
    ]

    async def script(lab: Lab, size: type[Any]) -> Any:
        driver, _ = await keeper(lab, contexts=contexts)
        _, context = await FltAllocateContext(driver.flt, FLT_STREAM_CONTEXT, size, NonPagedPool)
        assert context is not None
        return context.A if size is LARGE else context.Count

    assert run(lambda lab: script(lab, CONTEXT)).code == "ke.uninitialised"
    assert run(lambda lab: script(lab, LARGE)).result == 0


@pytest.mark.rule("FLT-CTX-02", "FLT-CTX-23")
def test_memory_from_the_drivers_own_routines() -> None:
    async def script(lab: Lab) -> Any:
        async def own(PoolType: int, Size: int, ContextType: int) -> Any:
            lab.note("allocate", (PoolType, Size, ContextType))
            return await allocate(PoolType, Size, ContextType)

        async def give(Pool: Any, ContextType: int) -> None:
            lab.note("free", Pool)
            await free(Pool, ContextType)

        async def cleanup(Context: Any, ContextType: int) -> None:
            lab.note("cleanup", Context)

        entry = FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, cleanup, 0, "", own, give)
        driver, loaded = await keeper(lab, contexts=[entry, FLT_CONTEXT_REGISTRATION()])
        status, context = await FltAllocateContext(driver.flt, FLT_STREAM_CONTEXT, LARGE, PagedPool)
        await FltReleaseContext(context)
        await loaded.unload()
        return status, context

    one = run(script)
    status, context = one.result
    assert status == STATUS_SUCCESS
    assert one.code is None
    assert [(note.what, note.value) for note in one.notes] == [
        ("allocate", (PagedPool, 24, FLT_STREAM_CONTEXT)), ("cleanup", context), ("free", context)
    ]  # fmt: skip


@pytest.mark.rule("FLT-CTX-04")
def test_an_allocation_routine_may_have_no_memory() -> None:
    async def script(lab: Lab) -> Any:
        async def none(PoolType: int, Size: int, ContextType: int) -> Any:
            return None

        entry = FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, None, 0, "", none, free)
        driver, _ = await keeper(lab, contexts=[entry, FLT_CONTEXT_REGISTRATION()])
        return await FltAllocateContext(driver.flt, FLT_STREAM_CONTEXT, LARGE, NonPagedPool)

    assert run(script).result == (STATUS_INSUFFICIENT_RESOURCES, None)


# Counts.


@pytest.mark.rule("FLT-CTX-07", "FLT-CTX-23", "FLT-CTX-24")
def test_an_allocator_holds_one_reference() -> None:
    async def script(lab: Lab) -> None:
        driver, _ = await keeper(lab)
        context = await driver.make()
        await FltReferenceContext(context)
        await FltReleaseContext(context)
        lab.note("one left")
        await FltReleaseContext(context)
        lab.note("returned")

    assert run(script).order == ["one left", "cleanup", "returned"]


@pytest.mark.rule("FLT-CTX-08", "FLT-CTX-09", "FLT-CTX-10", "FLT-CTX-18", "FLT-CTX-19", "FLT-CTX-34")
@pytest.mark.parametrize("kind", KINDS)
def test_the_life_of_a_context_of_each_kind(kind: str) -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await keeper(lab)
        file = await lab.open()
        given = carriers(driver, file.file)[kind]
        asked = get_arguments(driver, kind, given)
        assert await routine("Get", kind)(*asked) == (STATUS_NOT_FOUND, None)
        context = await driver.make(KINDS[kind])
        assert await routine("Set", kind)(*given, KEEP, context, None) == (STATUS_SUCCESS, None)
        await FltReleaseContext(context)
        lab.note("linked")
        assert await routine("Get", kind)(*asked) == (STATUS_SUCCESS, context)
        await FltDeleteContext(context)
        assert await routine("Get", kind)(*asked) == (STATUS_NOT_FOUND, None)
        context.Count = 1
        lab.note("deleted")
        await FltReleaseContext(context)
        lab.note("released")

    one = run(script)
    assert one.code is None
    assert one.order == ["linked", "deleted", "cleanup", "released"]


@pytest.mark.rule("FLT-CTX-13", "FLT-CTX-08")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wants", [True, None])
def test_keeping_what_is_there(kind: str, wants: bool | None) -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await keeper(lab)
        file = await lab.open()
        given = carriers(driver, file.file)[kind]
        first, second = await driver.make(KINDS[kind]), await driver.make(KINDS[kind])
        await routine("Set", kind)(*given, KEEP, first, None)
        result = await routine("Set", kind)(*given, KEEP, second, wants)
        assert result == (STATUS_FLT_CONTEXT_ALREADY_DEFINED, first if wants else None)
        await FltReleaseContext(second)
        lab.note("second gone")
        await FltReleaseContext(first)
        if wants:
            await FltReleaseContext(first)
        lab.note("only the link")
        assert await routine("Get", kind)(*get_arguments(driver, kind, given)) == (STATUS_SUCCESS, first)

    one = run(script)
    assert one.code is None
    assert one.order == ["cleanup", "second gone", "only the link"]


@pytest.mark.rule("FLT-CTX-14")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wants", [True, None])
def test_replacing_what_is_there(kind: str, wants: bool | None) -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await keeper(lab)
        file = await lab.open()
        given = carriers(driver, file.file)[kind]
        first, second = await driver.make(KINDS[kind]), await driver.make(KINDS[kind])
        await routine("Set", kind)(*given, KEEP, first, None)
        await FltReleaseContext(first)
        status, old = await routine("Set", kind)(*given, REPLACE, second, wants)
        lab.note("replaced")
        assert (status, old) == (STATUS_SUCCESS, first if wants else None)
        if wants:
            assert first.Count == 0
            await FltReleaseContext(first)
        await FltReleaseContext(second)
        assert await routine("Get", kind)(*get_arguments(driver, kind, given)) == (STATUS_SUCCESS, second)

    one = run(script)
    assert one.code is None
    assert one.order == (["replaced", "cleanup"] if wants else ["cleanup", "replaced"])


@pytest.mark.rule("FLT-CTX-20")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wants", [True, None])
def test_deleting_by_the_object(kind: str, wants: bool | None) -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await keeper(lab)
        file = await lab.open()
        given = carriers(driver, file.file)[kind]
        asked = get_arguments(driver, kind, given)
        assert await routine("Delete", kind)(*asked, wants) == (STATUS_NOT_FOUND, None)
        context = await driver.make(KINDS[kind])
        await routine("Set", kind)(*given, KEEP, context, None)
        await FltReleaseContext(context)
        assert await routine("Delete", kind)(*asked, wants) == (STATUS_SUCCESS, context if wants else None)
        lab.note("deleted")
        if wants:
            await FltReleaseContext(context)
        assert await routine("Get", kind)(*asked) == (STATUS_NOT_FOUND, None)

    one = run(script)
    assert one.code is None
    assert one.order == (["deleted", "cleanup"] if wants else ["cleanup", "deleted"])


@pytest.mark.rule("FLT-CTX-16", "FLT-CTX-17")
def test_what_cannot_be_linked() -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await keeper(lab)
        other, _ = await keeper(lab, name="L", altitude=LOWER)
        file, another = await lab.open(), await lab.open(r"\b")
        context = await driver.make()
        foreign = await other.make()
        instance = driver.instance
        first = await FltSetStreamContext(instance, file.file, KEEP, context, None)
        results = [
            await FltSetStreamContext(instance, another.file, KEEP, context, None),
            await FltSetStreamContext(instance, file.file, REPLACE, context, None),
            await FltSetStreamContext(instance, file.file, 2, context, None),
            await FltSetInstanceContext(instance, KEEP, context, None),
            await FltSetStreamContext(instance, another.file, KEEP, foreign, None),
        ]
        assert first == (STATUS_SUCCESS, None)
        await FltReleaseContext(context)
        lab.note("still linked")
        return [status for status, _ in results]

    one = run(script)
    assert one.result == [
        STATUS_FLT_CONTEXT_ALREADY_LINKED, STATUS_FLT_CONTEXT_ALREADY_LINKED, STATUS_INVALID_PARAMETER,
        STATUS_INVALID_PARAMETER, STATUS_INVALID_PARAMETER,
    ]  # fmt: skip
    assert one.order == ["still linked"]


@pytest.mark.rule("FLT-CTX-18")
def test_each_instance_has_contexts_of_its_own_and_each_object_too() -> None:
    async def script(lab: Lab) -> Any:
        upper, _ = await keeper(lab)
        lower, _ = await keeper(lab, name="L", altitude=LOWER)
        one, same, other = await lab.open(), await lab.open(), await lab.open(r"\b")
        mine, theirs = await upper.keep(one), await lower.keep(one)
        found = {
            (driver.name, number): (await FltGetStreamContext(driver.instance, file.file))[1]
            for driver in (upper, lower)
            for number, file in enumerate((one, same, other))
        }
        assert found == {
            ("K", 0): mine, ("K", 1): mine, ("K", 2): None, ("L", 0): theirs, ("L", 1): theirs, ("L", 2): None
        }  # fmt: skip

    assert run(script).code is None


@pytest.mark.rule("FLT-CTX-18")
def test_streams_of_a_file_share_the_file_context_and_nothing_else() -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await keeper(lab)
        plain, named = await lab.open(), await lab.open(r"\a:other")
        context = await driver.make(FLT_FILE_CONTEXT)
        await fltkernel.FltSetFileContext(driver.instance, plain.file, KEEP, context, None)
        stream = await driver.keep(plain)
        assert await fltkernel.FltGetFileContext(driver.instance, named.file) == (STATUS_SUCCESS, context)
        assert await FltGetStreamContext(driver.instance, named.file) == (STATUS_NOT_FOUND, None)
        assert await FltGetStreamContext(driver.instance, plain.file) == (STATUS_SUCCESS, stream)
        assert await fltkernel.FltGetStreamHandleContext(driver.instance, plain.file) == (STATUS_NOT_FOUND, None)

    assert run(script).code is None


@pytest.mark.rule("FLT-CTX-10")
@pytest.mark.parametrize("extended", [False, True])
def test_several_contexts_at_once(extended: bool) -> None:
    async def script(lab: Lab) -> None:
        async def get(objects: Any, desired: int) -> Any:
            if not extended:
                return await FltGetContexts(objects, desired)
            assert await FltGetContextsEx(objects, desired, 8) == (STATUS_INVALID_PARAMETER, None)
            status, found = await FltGetContextsEx(objects, desired, sizeof(FLT_RELATED_CONTEXTS_EX))
            assert status == STATUS_SUCCESS
            return found

        async def release(found: Any) -> None:
            if extended:
                await FltReleaseContextsEx(sizeof(FLT_RELATED_CONTEXTS_EX), found)
            else:
                await FltReleaseContexts(found)

        async def pre(Data: Any, FltObjects: Any) -> Any:
            stream = await driver.make()
            await FltSetStreamContext(FltObjects.Instance, FltObjects.FileObject, KEEP, stream, None)
            volume = await driver.make(FLT_VOLUME_CONTEXT)
            await fltkernel.FltSetVolumeContext(FltObjects.Volume, KEEP, volume, None)
            everything = await get(FltObjects, FLT_ALL_CONTEXTS | FLT_SECTION_CONTEXT)
            assert everything.StreamContext is stream
            assert everything.VolumeContext is volume
            assert everything.InstanceContext is everything.FileContext is everything.StreamHandleContext is None
            assert everything.TransactionContext is None
            some = await get(FltObjects, FLT_STREAM_CONTEXT)
            assert (some.StreamContext, some.VolumeContext) == (stream, None)
            for found in (everything, some):
                await release(found)
            await FltReleaseContext(stream)
            await FltReleaseContext(volume)
            return fltkernel.FLT_PREOP_SUCCESS_NO_CALLBACK

        driver, loaded = await keeper(lab, {IRP_MJ_READ: (pre, None)})
        file = await lab.open()
        await file.read(4)
        await loaded.unload()

    one = run(script)
    assert one.code is None
    assert one.order == ["cleanup", "cleanup"]


# What can have contexts.


@pytest.mark.rule("FLT-CTX-30")
@pytest.mark.parametrize("own", [True, False])
def test_file_contexts_where_a_file_has_one_stream(own: bool) -> None:
    async def script(lab: Lab) -> Any:
        lab.volume.filesystem.has_file_contexts = own
        driver, _ = await keeper(lab)
        file = await lab.open()
        context = await driver.make(FLT_FILE_CONTEXT)
        assert await fltkernel.FltSetFileContext(driver.instance, file.file, KEEP, context, None) == (
            STATUS_SUCCESS,
            None,
        )
        assert (await fltkernel.FltGetFileContext(driver.instance, file.file))[1] is context
        return (
            FltSupportsFileContexts(file.file),
            FltSupportsFileContextsEx(file.file, None),
            FltSupportsFileContextsEx(file.file, driver.instance),
        )

    assert run(script).result == (own, own, True)


@pytest.mark.rule("FLT-CTX-27", "FLT-CTX-34")
def test_a_paging_file_has_no_contexts() -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await keeper(lab)
        _, file = await lab.system.get(IoManager).create(
            lab.volume, r"\pagefile.sys", OperationFlags=SL_OPEN_PAGING_FILE
        )
        assert file is not None
        context = await driver.make()
        assert FltSupportsStreamContexts(file) is FltSupportsStreamHandleContexts(file) is False
        assert await FltGetStreamContext(driver.instance, file) == (STATUS_NOT_SUPPORTED, None)
        assert await FltSetStreamContext(driver.instance, file, KEEP, context, None) == (STATUS_NOT_SUPPORTED, None)
        assert await FltDeleteStreamContext(driver.instance, file, None) == (STATUS_NOT_SUPPORTED, None)
        usual = await lab.open()
        return FltSupportsStreamContexts(usual.file), FltSupportsStreamHandleContexts(usual.file)

    assert run(script).result == (True, True)


# The end of the object.


@pytest.mark.rule("FLT-CTX-22", "FLT-CTX-23")
def test_contexts_go_when_their_files_are_closed() -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await keeper(lab)
        one, same, stream = await lab.open(), await lab.open(), await lab.open(r"\a:other")
        for kind in ("file", "stream", "handle"):
            context = await driver.make(KINDS[kind])
            context.Other = kind
            await routine("Set", kind)(driver.instance, one.file, KEEP, context, None)
            await FltReleaseContext(context)
        for name, file in (("one", one), ("same", same), ("stream", stream)):
            await file.close()
            lab.note(f"{name} closed")

    one = run(script)
    told = [note.value.Other if note.what == "cleanup" else note.what for note in one.notes if note.what != "cleanup"]
    assert told == ["one closed", "same closed", "stream closed"]
    assert one.order == ["cleanup", "one closed", "cleanup", "same closed", "cleanup", "stream closed"]


@pytest.mark.rule("FLT-CTX-22", "FLT-CTX-23")
def test_contexts_go_with_their_transaction() -> None:
    async def script(lab: Lab) -> None:
        driver, loaded = await keeper(lab)
        transaction, other = KTRANSACTION(), KTRANSACTION()
        for one in (transaction, other):
            context = await driver.make(FLT_TRANSACTION_CONTEXT)
            await fltkernel.FltSetTransactionContext(driver.instance, one, KEEP, context, None)
            await FltReleaseContext(context)
        await object_gone(transaction)
        lab.note("gone")
        assert (await fltkernel.FltGetTransactionContext(driver.instance, transaction))[0] == STATUS_NOT_FOUND
        await object_gone(transaction)
        lab.note("unloading")
        await loaded.unload()

    assert run(script).order == ["cleanup", "gone", "unloading", "cleanup"]


def test_what_a_thread_is_about_to_do_with_a_context() -> None:
    """The words that a trace and a report of orders have for it, and the object that it is about."""

    async def script(lab: Lab) -> Any:
        driver, _ = await keeper(lab)
        file = await lab.open()
        context = context_of(await driver.make())
        assert context is not None
        get = GetContext("FltGetStreamContext", FLT_STREAM_CONTEXT, driver.instance, file.file)
        slot = lab.system.get(Contexts).slot(FLT_STREAM_CONTEXT, file.file.fs_context.stream, driver.instance)
        operations: list[Operation[Any]] = [
            get, ReferenceContext(context), ReleaseContext(context, "FltReleaseContext"), DeleteContext(context),
            FreeContext(context), Unlink(slot), UnlinkFrom(lab.system.get(Contexts), file.file),
            LookAtFilter(driver.flt),
        ]  # fmt: skip
        return [(operation.describe(), str(operation.target())) for operation in operations], repr(slot.name)

    (words, _), again = run(script).result, run(script).result[1]
    context = "stream context CONTEXT"
    place = r"stream context of instance K Instance on C: for \a"
    assert words == [
        (r"FltGetStreamContext of \a for instance K Instance on C:", r"\a"),
        (f"FltReferenceContext references of {context}", f"references of {context}"),
        (f"FltReleaseContext references of {context}", f"references of {context}"),
        (f"FltDeleteContext references of {context}", f"references of {context}"),
        (f"free the {context}", context),
        (f"unlink the {place}", place),
        (r"unlink the contexts of \a", r"\a"),
        ("FltAllocateContext for filter K", "filter K"),
    ]
    assert again == run(script).result[1]


@pytest.mark.rule("FLT-CTX-22", "FLT-CTX-23", "FLT-ORD-08")
def test_a_context_outlives_its_stream_while_somebody_holds_it() -> None:
    async def script(lab: Lab) -> Any:
        driver, _ = await keeper(lab)
        file = await lab.open()
        await driver.keep(file)
        _, context = await FltGetStreamContext(driver.instance, file.file)
        await file.close()
        context.Count += 1
        lab.note("closed")
        await FltReleaseContext(context)

    assert run(script).order == ["closed", "cleanup"]


@pytest.mark.rule("FLT-CTX-22", "FLT-ORD-06")
@pytest.mark.parametrize("how", ["detach", "unload"])
def test_the_order_of_a_teardown(how: str) -> None:
    async def script(lab: Lab) -> Any:
        async def start(FltObjects: Any, Reason: int) -> None:
            lab.note("start")

        async def complete(FltObjects: Any, Reason: int) -> None:
            # What is linked is still to be found (FLT-INST-37).
            status, context = await FltGetInstanceContext(FltObjects.Instance)
            lab.note("complete", status)
            await FltReleaseContext(context)

        driver, loaded = await keeper(
            lab, InstanceTeardownStartCallback=start, InstanceTeardownCompleteCallback=complete
        )
        file = await lab.open()
        given = carriers(driver, file.file)
        for kind in KINDS:
            context = await driver.make(KINDS[kind])
            await routine("Set", kind)(*given[kind], KEEP, context, None)
            await FltReleaseContext(context)
        await (loaded.detach() if how == "detach" else loaded.unload())
        lab.note("returned")
        await file.close()

    one = run(script)
    assert one.code is None
    # The volume's context belongs to the filter, and stays when only an instance goes.
    assert one.order == ["start", "complete", *["cleanup"] * (5 if how == "detach" else 6), "returned"]


@pytest.mark.rule("FLT-CTX-22", "FLT-INST-03")
@pytest.mark.parametrize("attaches", [True, False])
def test_the_context_of_an_instance_that_is_not_attached_goes(attaches: bool) -> None:
    async def script(lab: Lab) -> None:
        async def setup(FltObjects: Any, Flags: int, VolumeDeviceType: int, VolumeFilesystemType: int) -> int:
            _, context = await FltAllocateContext(FltObjects.Filter, FLT_INSTANCE_CONTEXT, CONTEXT, NonPagedPool)
            assert await FltSetInstanceContext(FltObjects.Instance, KEEP, context, None) == (STATUS_SUCCESS, None)
            await FltReleaseContext(context)
            return STATUS_SUCCESS if attaches else STATUS_FLT_DO_NOT_ATTACH

        _, loaded = await keeper(lab, InstanceSetupCallback=setup)
        lab.note("loaded")
        await loaded.unload()

    one = run(script)
    assert one.code is None
    assert one.order == (["loaded", "cleanup"] if attaches else ["cleanup", "loaded"])


@pytest.mark.rule("FLT-INST-31", "FLT-INST-37", "FLT-CTX-17")
def test_what_works_in_a_teardown() -> None:
    async def script(lab: Lab) -> Any:
        async def start(FltObjects: Any, Reason: int) -> None:
            instance = FltObjects.Instance
            lab.note("get", (await FltGetStreamContext(instance, file.file))[0])
            fresh = await driver.make()
            for kind, given in carriers(driver, file.file).items():
                if kind == "volume":
                    continue
                context = await driver.make(KINDS[kind])
                lab.note("set", (await routine("Set", kind)(*given, KEEP, context, None))[0])
                lab.note(f"delete {kind}", (await routine("Delete", kind)(*given, None))[0])
                await FltReleaseContext(context)
            # Taking a context off by itself is not refused.
            await FltDeleteContext(held)
            await FltReleaseContext(held)
            await FltReleaseContext(fresh)

        driver, loaded = await keeper(lab, InstanceTeardownStartCallback=start)
        file = await lab.open()
        held = await driver.make()
        await FltSetStreamContext(driver.instance, file.file, KEEP, held, None)
        await loaded.detach()

    one = run(script)
    assert one.code is None
    assert one.note("get").value == STATUS_SUCCESS
    assert {note.value for note in one.notes if note.what == "set"} == {STATUS_FLT_DELETING_OBJECT}
    refused = {note.what: note.value for note in one.notes if note.what.startswith("delete")}
    # Of the delete routines only that of files does not list the status.
    assert refused.pop("delete file") == STATUS_NOT_FOUND
    assert set(refused.values()) == {STATUS_FLT_DELETING_OBJECT}
    assert len(refused) == 4


@pytest.mark.rule("FLT-CTX-24", "FLT-CTX-25", "FLT-ORD-08")
def test_the_last_release_at_dispatch_leaves_the_cleanup_to_a_worker() -> None:
    async def script(lab: Lab) -> None:
        driver, loaded = await keeper(lab)
        context = await driver.make()
        await lab.at_dispatch(FltReleaseContext(context))
        lab.note("released")
        await loaded.unload()
        lab.note("unloaded")

    one = run(script)
    assert one.code is None
    assert one.note("cleanup").thread.startswith("wk:")
    assert one.note("cleanup").irql == 0
    assert one.before("cleanup", "unloaded")


def test_open_files_that_are_not_asked_about_cost_nothing() -> None:
    async def script(lab: Lab) -> Any:
        await lab.recorder("A", LOWER, IRP_MJ_CREATE)
        file: File = await lab.open()
        await file.close()
        return lab.volume.filesystem.contexts

    assert run(script).result is None
