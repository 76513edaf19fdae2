"""What a driver must not do with contexts: each finding raised, and beside it the driver that does it right."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fltmgr.context_kit import CONTEXT, KEEP, TAG, Keeper, keeper
from fltmgr.kit import LOWER, Lab, Run, all_runs, run

from kemu.nt.bugcheck import FLTMGR_FILE_SYSTEM
from kemu.nt.kthread import current_kthread
from kemu.nt.status import NTSTATUS
from kemu.scenario.world import File
from kemu.verifier.catalogue import CATALOGUE
from kemu.verifier.settings import parse_settings
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_CONTEXT_REGISTRATION,
    FLT_FILE_CONTEXT,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_SECTION_CONTEXT,
    FLT_SET_CONTEXT_REPLACE_IF_EXISTS,
    FLT_STREAM_CONTEXT,
    FLT_STREAMHANDLE_CONTEXT,
    FLT_VOLUME_CONTEXT,
    FltAllocateContext,
    FltCancelFileOpen,
    FltDeleteContext,
    FltDeleteStreamContext,
    FltGetContexts,
    FltGetFileContext,
    FltGetStreamContext,
    FltGetStreamHandleContext,
    FltGetVolumeContext,
    FltReferenceContext,
    FltReleaseContext,
    FltSetFileContext,
    FltSetStreamContext,
    FltSetStreamHandleContext,
    FltSetVolumeContext,
)
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_INVALID_PARAMETER,
    STATUS_NOT_FOUND,
    STATUS_NOT_SUPPORTED,
    STATUS_REPARSE,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    FAST_MUTEX,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    LONG,
    NT_SUCCESS,
    ExAcquireFastMutex,
    ExFreePoolWithTag,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    InterlockedIncrement,
    NonPagedPool,
    PagedPool,
    Structure,
)

WITH = FLT_PREOP_SUCCESS_WITH_CALLBACK
PASS = FLT_PREOP_SUCCESS_NO_CALLBACK
DONE = FLT_POSTOP_FINISHED_PROCESSING
REPLACE = FLT_SET_CONTEXT_REPLACE_IF_EXISTS

Body = Callable[[Lab, Keeper, File], Awaitable[None]]


def with_file(body: Body, *, unload: bool = True) -> Run:
    """Carry *body* out with an open file, close it, and unload."""

    async def script(lab: Lab) -> None:
        driver, loaded = await keeper(lab)
        file = await lab.open()
        await body(lab, driver, file)
        await file.close()
        if unload:
            await loaded.unload()

    return run(script)


# Counts.


@pytest.mark.rule("FLT-CTX-09", "FLT-CTX-32")
@pytest.mark.parametrize("releases", [True, False])
def test_the_allocators_reference_has_to_be_released(releases: bool) -> None:
    async def body(lab: Lab, driver: Keeper, file: File) -> None:
        context = await driver.make()
        await FltSetStreamContext(driver.instance, file.file, KEEP, context, None)
        if releases:
            await FltReleaseContext(context)

    one = with_file(body)
    assert one.code == (None if releases else "ctx-leak")
    if not releases:
        # Where it was allocated, and by whom, is what the author needs.
        assert "FltAllocateContext at" in one.finding.detail
        assert "context_kit.py" in one.finding.detail


@pytest.mark.rule("FLT-CTX-09", "FLT-CTX-32")
@pytest.mark.parametrize("releases", [True, False])
def test_also_after_a_set_that_failed(releases: bool) -> None:
    async def body(lab: Lab, driver: Keeper, file: File) -> None:
        await driver.keep(file)
        second = await driver.make()
        status, _ = await FltSetStreamContext(driver.instance, file.file, KEEP, second, None)
        assert not NT_SUCCESS(status)
        if releases:
            await FltReleaseContext(second)

    assert with_file(body).code == (None if releases else "ctx-leak")


@pytest.mark.rule("FLT-CTX-11", "FLT-CTX-15", "FLT-CTX-32")
@pytest.mark.parametrize("how", ["get", "reference", "kept", "replaced", "deleted"])
@pytest.mark.parametrize("extra", [0, -1, 1])
def test_each_reference_has_to_be_released_once(how: str, extra: int) -> None:
    async def body(lab: Lab, driver: Keeper, file: File) -> None:
        instance, fo = driver.instance, file.file
        context = await driver.keep(file)
        if how == "get":
            _, found = await FltGetStreamContext(instance, fo)
        elif how == "reference":
            _, found = await FltGetStreamContext(instance, fo)
            await FltReferenceContext(found)
            await FltReleaseContext(found)
        elif how == "deleted":
            _, found = await FltDeleteStreamContext(instance, fo, True)
        else:
            second = await driver.make()
            operation = KEEP if how == "kept" else REPLACE
            _, found = await FltSetStreamContext(instance, fo, operation, second, True)
            await FltReleaseContext(second)
        assert found is context
        for _ in range(1 + extra):
            await FltReleaseContext(found)

    one = with_file(body)
    assert one.code == {0: None, -1: "ctx-leak", 1: "ctx-over-release"}[extra]
    if extra == 1:
        check = one.finding.bug_check
        assert check is not None
        assert (check.code, check.parameters[0]) == (FLTMGR_FILE_SYSTEM, 0x6D)


@pytest.mark.rule("FLT-CTX-32")
def test_a_leak_names_the_line_that_took_the_reference() -> None:
    async def body(lab: Lab, driver: Keeper, file: File) -> None:
        await driver.keep(file)
        await FltGetStreamContext(driver.instance, file.file)  # here

    detail = with_file(body).finding.detail
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.endswith("# here"))
    assert f"FltGetStreamContext at {__file__}:{line} " in detail
    assert "FltAllocateContext at" not in detail


@pytest.mark.rule("FLT-CTX-12")
@pytest.mark.parametrize("what", ["read", "write", "set", "delete"])
def test_a_context_that_is_freed_cannot_be_used(what: str) -> None:
    async def body(lab: Lab, driver: Keeper, file: File) -> None:
        context = await driver.make()
        await FltReleaseContext(context)
        if what == "read":
            lab.note("read", context.Count)
        elif what == "write":
            context.Count = 1
        elif what == "set":
            await FltSetStreamContext(driver.instance, file.file, KEEP, context, None)
        else:
            await FltDeleteContext(context)

    assert with_file(body).code == "ctx-use-after-release"


@pytest.mark.rule("FLT-CTX-12")
@pytest.mark.parametrize("freed", [True, False])
def test_an_object_inside_of_a_context_goes_with_it(freed: bool) -> None:
    class COUNTED(Structure):
        References: LONG

    async def script(lab: Lab) -> None:
        entry = FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, None, COUNTED, TAG)
        driver, loaded = await keeper(lab, contexts=[entry, FLT_CONTEXT_REGISTRATION()])
        _, context = await FltAllocateContext(driver.flt, FLT_STREAM_CONTEXT, COUNTED, NonPagedPool)
        assert context is not None
        inside = context.References
        if freed:
            await FltReleaseContext(context)
        inside.value = 1
        await InterlockedIncrement(inside)
        if not freed:
            await FltReleaseContext(context)
        await loaded.unload()

    assert run(script).code == ("ctx-use-after-release" if freed else None)


@pytest.mark.rule("FLT-CTX-12")
def test_a_context_that_is_freed_cannot_be_referenced() -> None:
    async def body(lab: Lab, driver: Keeper, file: File) -> None:
        context = await driver.make()
        await FltReleaseContext(context)
        await FltReferenceContext(context)

    one = with_file(body)
    assert one.code == "ctx-ref-after-free"
    check = one.finding.bug_check
    assert check is not None
    assert (check.code, check.parameters[0]) == (FLTMGR_FILE_SYSTEM, 0x6E)


@pytest.mark.rule("FLT-CTX-12")
def test_a_context_cannot_be_referenced_by_its_cleanup() -> None:
    async def script(lab: Lab) -> None:
        async def cleanup(Context: CONTEXT, ContextType: int) -> None:
            await FltReferenceContext(Context)

        entry = FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, cleanup, CONTEXT, TAG)
        driver, _ = await keeper(lab, contexts=[entry, FLT_CONTEXT_REGISTRATION()])
        await FltReleaseContext(await driver.make())

    assert run(script).code == "ctx-ref-after-free"


@pytest.mark.rule("FLT-CTX-21")
@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("linked", None), ("twice", None), ("gone", None), ("never set", "ctx-delete-invalid"),
        ("replaced", "ctx-delete-invalid"), ("no reference", "ctx-delete-invalid"),
    ],
)  # fmt: skip
def test_what_can_be_deleted(how: str, code: str | None) -> None:
    async def body(lab: Lab, driver: Keeper, file: File) -> None:
        context = await driver.make()
        if how != "never set":
            await FltSetStreamContext(driver.instance, file.file, KEEP, context, None)
        if how == "replaced":
            second = await driver.make()
            await FltSetStreamContext(driver.instance, file.file, REPLACE, second, None)
            await FltReleaseContext(second)
        elif how == "gone":
            other = await lab.open(r"\b")
            third = await driver.keep(other)
            await FltReferenceContext(third)
            await other.close()
            await FltDeleteContext(third)
            await FltReleaseContext(third)
        elif how == "no reference":
            await FltReleaseContext(context)
        elif how == "twice":
            await FltDeleteContext(context)
        await FltDeleteContext(context)
        if how != "no reference":
            await FltReleaseContext(context)

    assert with_file(body).code == code


@pytest.mark.rule("FLT-CTX-31")
@pytest.mark.parametrize("deletes", [True, False])
def test_a_section_context_is_not_deleted(deletes: bool) -> None:
    async def script(lab: Lab) -> None:
        entry = FLT_CONTEXT_REGISTRATION(FLT_SECTION_CONTEXT, 0, None, CONTEXT, TAG)
        driver, loaded = await keeper(lab, contexts=[entry, FLT_CONTEXT_REGISTRATION()])
        context = await driver.make(FLT_SECTION_CONTEXT)
        if deletes:
            await FltDeleteContext(context)
        await FltReleaseContext(context)
        await loaded.unload()

    assert run(script).code == ("section-ctx-delete" if deletes else None)


@pytest.mark.rule("FLT-CTX-33")
@pytest.mark.parametrize("seen_by", ["cleanup", "get"])
@pytest.mark.parametrize("references", [True, False])
def test_a_pointer_to_another_context_needs_a_reference(seen_by: str, references: bool) -> None:
    async def script(lab: Lab) -> None:
        async def cleanup(Context: CONTEXT, ContextType: int) -> None:
            if ContextType == FLT_STREAMHANDLE_CONTEXT and references:
                await FltReleaseContext(Context.Other)

        contexts = [
            *(
                FLT_CONTEXT_REGISTRATION(kind, 0, cleanup, CONTEXT, TAG)
                for kind in (FLT_STREAM_CONTEXT, FLT_STREAMHANDLE_CONTEXT)
            ),
            FLT_CONTEXT_REGISTRATION(),
        ]
        driver, loaded = await keeper(lab, contexts=contexts)
        file = await lab.open()
        stream = await driver.keep(file)
        handle = await driver.make(FLT_STREAMHANDLE_CONTEXT)
        if references:
            await FltReferenceContext(stream)
        handle.Other = stream
        await FltSetStreamHandleContext(driver.instance, file.file, KEEP, handle, None)
        await FltReleaseContext(handle)
        await FltDeleteStreamContext(driver.instance, file.file, None)
        if seen_by == "get":
            _, handle = await FltGetStreamHandleContext(driver.instance, file.file)
            lab.note("got")
            await FltReleaseContext(handle)
        await file.close()
        await loaded.unload()

    one = run(script)
    assert one.code == (None if references else "ctx-unreferenced-pointer")
    assert ("got" in one.order) == (references and seen_by == "get")


@pytest.mark.rule("FLT-CTX-05")
def test_a_volume_context_is_not_paged() -> None:
    async def body(lab: Lab, driver: Keeper, file: File) -> None:
        await FltAllocateContext(driver.flt, FLT_VOLUME_CONTEXT, CONTEXT, PagedPool)

    assert with_file(body).code == "volume-ctx-paged"


@pytest.mark.rule("FLT-CTX-25")
@pytest.mark.parametrize(("pool", "code"), [(NonPagedPool, None), (PagedPool, "ctx-release-irql")])
def test_where_a_context_can_be_released(pool: int, code: str | None) -> None:
    async def body(lab: Lab, driver: Keeper, file: File) -> None:
        context = await driver.make(pool=pool)
        await lab.at_dispatch(FltReleaseContext(context))

    assert with_file(body).code == code


def test_a_context_in_paged_pool_is_paged() -> None:
    async def body(lab: Lab, driver: Keeper, file: File) -> None:
        context = await driver.make(pool=PagedPool)
        current_kthread().irql = 2
        context.Count = 1

    assert with_file(body).code == "ke.paged"


@pytest.mark.rule("FLT-CTX-23")
def test_a_context_is_not_freed_as_pool_is() -> None:
    async def body(lab: Lab, driver: Keeper, file: File) -> None:
        await ExFreePoolWithTag(await driver.make(), TAG)

    assert with_file(body).code == "ke.freed-elsewhere"


@pytest.mark.parametrize("pointer", [None, 7, CONTEXT()])
def test_what_is_no_context(pointer: Any) -> None:
    async def body(lab: Lab, driver: Keeper, file: File) -> None:
        await FltReleaseContext(pointer)

    assert with_file(body).code == "ke.bad-pointer"


# Where in the life of a file.


def creating(pre: Any = None, post: Any = None, below: Any = None) -> Run:
    """Open a file with these callbacks, *below* being the one of a lower filter."""

    async def script(lab: Lab) -> None:
        async def bound_pre(Data: FLT_CALLBACK_DATA, FltObjects: Any) -> Any:
            return WITH if pre is None else await pre(lab, driver, Data, FltObjects)

        async def bound_post(Data: FLT_CALLBACK_DATA, FltObjects: Any, C: Any, Flags: int) -> int:
            if post is not None:
                await post(lab, driver, Data, FltObjects, C)
            return DONE

        driver, loaded = await keeper(lab, {IRP_MJ_CREATE: (bound_pre, bound_post)})
        if below is not None:
            await lab.filter("L", LOWER, {IRP_MJ_CREATE: below})
        status, file = await lab.app.create(r"\a")
        lab.note("created", status)
        if file is not None and NT_SUCCESS(status) and status != STATUS_REPARSE:
            await file.close()
        await loaded.unload()

    return run(script)


GETS = [(FltGetStreamContext, "get"), (FltGetStreamHandleContext, "get"), (FltGetFileContext, "get")]
SETS = [
    (FltSetStreamContext, FLT_STREAM_CONTEXT),
    (FltSetStreamHandleContext, FLT_STREAMHANDLE_CONTEXT),
    (FltSetFileContext, FLT_FILE_CONTEXT),
]


@pytest.mark.rule("FLT-PRE-25", "FLT-CTX-27")
@pytest.mark.parametrize("routine", [one for one, _ in GETS])
def test_a_precreate_callback_asks_for_no_context_of_the_file(routine: Any) -> None:
    async def pre(lab: Lab, driver: Keeper, Data: Any, FltObjects: Any) -> Any:
        await routine(FltObjects.Instance, FltObjects.FileObject)
        return PASS

    assert creating(pre).code == "ctx-in-precreate"


@pytest.mark.rule("FLT-PRE-25", "FLT-CTX-28")
@pytest.mark.parametrize(("routine", "kind"), SETS)
def test_a_precreate_callback_sets_no_context_of_the_file(routine: Any, kind: int) -> None:
    async def pre(lab: Lab, driver: Keeper, Data: Any, FltObjects: Any) -> Any:
        context = await driver.make(kind)
        await routine(FltObjects.Instance, FltObjects.FileObject, KEEP, context, None)
        return PASS

    assert creating(pre).code == "ctx-in-precreate"


@pytest.mark.rule("FLT-PRE-25", "FLT-CTX-28")
@pytest.mark.parametrize(("routine", "kind"), SETS)
def test_a_context_is_allocated_before_a_create_and_set_after_it(routine: Any, kind: int) -> None:
    async def pre(lab: Lab, driver: Keeper, Data: Any, FltObjects: Any) -> Any:
        status, found = await FltGetVolumeContext(FltObjects.Filter, FltObjects.Volume)
        assert (status, found) == (STATUS_NOT_FOUND, None)  # of volumes and instances it may ask
        return WITH, await driver.make(kind)

    async def post(lab: Lab, driver: Keeper, Data: Any, FltObjects: Any, context: Any) -> None:
        status, _ = await routine(FltObjects.Instance, FltObjects.FileObject, KEEP, context, None)
        lab.note("set", status)
        await FltReleaseContext(context)

    one = creating(pre, post)
    assert one.code is None
    assert one.note("set").value == STATUS_SUCCESS
    assert "cleanup" in one.order


@pytest.mark.rule("FLT-CTX-29", "FLT-RACE-64")
@pytest.mark.parametrize("status", [STATUS_ACCESS_DENIED, STATUS_REPARSE])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("looks", [False, True])
def test_a_create_that_failed_leaves_nothing_to_set_a_context_on(status: NTSTATUS, after: bool, looks: bool) -> None:
    """The lower filter fails the create before the file system sees it, or *after* it has succeeded there."""

    async def lower_pre(Data: FLT_CALLBACK_DATA, FltObjects: Any) -> Any:
        if after:
            return WITH
        Data.IoStatus.Status = status
        return FLT_PREOP_COMPLETE

    async def lower_post(Data: FLT_CALLBACK_DATA, FltObjects: Any, C: Any, Flags: int) -> int:
        if status != STATUS_REPARSE:
            await FltCancelFileOpen(FltObjects.Instance, FltObjects.FileObject)
        Data.IoStatus.Status = status
        return DONE

    async def pre(lab: Lab, driver: Keeper, Data: Any, FltObjects: Any) -> Any:
        return WITH, await driver.make()

    async def post(lab: Lab, driver: Keeper, Data: FLT_CALLBACK_DATA, FltObjects: Any, context: Any) -> None:
        if not looks or (NT_SUCCESS(Data.IoStatus.Status) and Data.IoStatus.Status != STATUS_REPARSE):
            await FltSetStreamContext(FltObjects.Instance, FltObjects.FileObject, KEEP, context, None)
        await FltReleaseContext(context)

    assert creating(pre, post, (lower_pre, lower_post)).code == (None if looks else "ctx-on-failed-create")


@pytest.mark.rule("FLT-CTX-28")
def test_a_file_object_that_is_not_open_has_no_place_for_a_context() -> None:
    async def script(lab: Lab) -> Any:
        from kemu.io.request import FileObject

        driver, _ = await keeper(lab)
        context = await driver.make()
        never = FileObject(lab.volume, r"\never")
        # Asking is no harm.
        assert await FltGetStreamContext(driver.instance, never) == (STATUS_NOT_SUPPORTED, None)
        assert await FltDeleteStreamContext(driver.instance, never, None) == (STATUS_NOT_SUPPORTED, None)
        await FltSetStreamContext(driver.instance, never, KEEP, context, None)

    assert run(script).code == "ctx-unopened-fileobject"


@pytest.mark.rule("FLT-POST-26", "FLT-CTX-27")
@pytest.mark.parametrize("when", ["pre", "post"])
@pytest.mark.parametrize("sets", [True, False])
def test_a_postclose_callback_has_no_contexts_of_the_file(when: str, sets: bool) -> None:
    async def script(lab: Lab) -> None:
        async def touch(FltObjects: Any) -> None:
            if sets:
                context = await driver.make()
                await FltSetStreamContext(FltObjects.Instance, FltObjects.FileObject, KEEP, context, None)
                await FltReleaseContext(context)
            else:
                status, _ = await FltGetStreamContext(FltObjects.Instance, FltObjects.FileObject)
                lab.note("got", status)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: Any) -> Any:
            if when == "pre":
                await touch(FltObjects)
            return WITH

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: Any, C: Any, Flags: int) -> int:
            if when == "post":
                await touch(FltObjects)
            return DONE

        driver, loaded = await keeper(lab, {IRP_MJ_CLOSE: (pre, post)})
        file = await lab.open()
        await file.close()
        await loaded.unload()

    assert run(script).code == (None if when == "pre" else "ctx-in-postclose")


@pytest.mark.rule("FLT-POST-05", "FLT-RACE-45", "FLT-CTX-26")
@pytest.mark.parametrize("irql", [0, 1, 2])
@pytest.mark.parametrize(
    "what", ["get", "get all", "get volume", "set", "delete", "delete this", "allocate", "release"]
)
def test_a_postoperation_callback_at_dispatch_can_only_release(what: str, irql: int) -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: Any) -> Any:
            return WITH, await driver.make()

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: Any, context: Any, Flags: int) -> int:
            thread = current_kthread()
            before, thread.irql = thread.irql, irql
            if what == "get":
                await FltGetStreamContext(FltObjects.Instance, FltObjects.FileObject)
            elif what == "set":
                await FltSetStreamContext(FltObjects.Instance, FltObjects.FileObject, KEEP, context, None)
            elif what == "delete":
                await FltDeleteStreamContext(FltObjects.Instance, FltObjects.FileObject, None)
            elif what == "get all":
                await FltGetContexts(FltObjects, FLT_STREAM_CONTEXT)
            elif what == "get volume":
                _, volume = await FltGetVolumeContext(FltObjects.Filter, FltObjects.Volume)
                await FltReleaseContext(volume)
            elif what == "delete this":
                await FltDeleteContext(linked)
            elif what == "allocate":
                _, more = await FltAllocateContext(FltObjects.Filter, FLT_STREAM_CONTEXT, CONTEXT, NonPagedPool)
                await FltReleaseContext(more)
            await FltReleaseContext(context)
            thread.irql = before
            return DONE

        driver, loaded = await keeper(lab, {IRP_MJ_READ: (pre, post)})
        file = await lab.open()
        linked = await driver.make(FLT_VOLUME_CONTEXT)
        await FltSetVolumeContext(driver.volume, KEEP, linked, None)
        await file.read(4)
        await file.close()
        await FltReleaseContext(linked)
        await loaded.unload()

    assert run(script).code == ("ctx-get-at-dispatch" if irql == 2 and what != "release" else None)


@pytest.mark.rule("FLT-CTX-26")
def test_elsewhere_the_level_is_what_is_wrong() -> None:
    async def body(lab: Lab, driver: Keeper, file: File) -> None:
        current_kthread().irql = 2
        await FltGetStreamContext(driver.instance, file.file)

    assert with_file(body).code == "ke.irql"


@pytest.mark.rule("FLT-POST-14", "FLT-RACE-45")
@pytest.mark.parametrize("releases", [True, False])
def test_a_context_that_was_handed_on_has_to_be_released(releases: bool) -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: Any) -> Any:
            return WITH, await driver.make()

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: Any, context: Any, Flags: int) -> int:
            if releases:
                await FltReleaseContext(context)
            return DONE

        driver, loaded = await keeper(lab, {IRP_MJ_READ: (pre, post)})
        file = await lab.open()
        await file.read(4)
        await loaded.unload()

    assert run(script).code == (None if releases else "postop-context-leak")


@pytest.mark.rule("FLT-RACE-36", "FLT-INST-34")
@pytest.mark.parametrize("first", [IRP_MJ_READ, IRP_MJ_CLEANUP, IRP_MJ_CLOSE])
@pytest.mark.parametrize("assumes", [True, False])
def test_a_filter_comes_while_a_file_is_opened(first: int, assumes: bool) -> None:
    """The filter is attached before the create, or after it: then *first* is the first operation that it sees."""

    async def script(lab: Lab) -> None:
        async def post_create(Data: Any, FltObjects: Any, C: Any, Flags: int) -> int:
            lab.note("create")
            context = await driver.make()
            await FltSetStreamContext(FltObjects.Instance, FltObjects.FileObject, KEEP, context, None)
            await FltReleaseContext(context)
            return DONE

        async def pre(Data: Any, FltObjects: Any) -> Any:
            _, context = await FltGetStreamContext(FltObjects.Instance, FltObjects.FileObject)
            is_known = context is not None
            lab.note("known" if is_known else "unknown")
            if assumes or is_known:
                context.Count += 1
                await FltReleaseContext(context)
            return PASS

        driver = Keeper(lab, "K", {IRP_MJ_CREATE: (lab.pre("K"), post_create), first: (pre, None)})

        async def user() -> None:
            file = await lab.open()
            await file.read(4)
            await file.close()

        async def admin() -> None:
            await lab.load(driver, LOWER)

        await lab.together(user(), admin())

    runs = all_runs(script, bound=1)
    seen = {(tuple(what for what in one.order if what in {"create", "known", "unknown"}), one.code) for one in runs}
    assert seen == {
        (("create", "known"), None),
        (("unknown",), "ctx-assumed-present" if assumes else None),
        ((), None),
    }


@pytest.mark.rule("FLT-RACE-36")
@pytest.mark.parametrize("where", ["pre", "post"])
def test_other_mistakes_with_null_are_not_taken_for_that(where: str) -> None:
    async def script(lab: Lab) -> None:
        async def oops(FltObjects: Any) -> None:
            _, context = await FltGetStreamContext(FltObjects.Instance, FltObjects.FileObject)
            assert context is not None
            await FltReleaseContext(context)
            nothing: Any = None
            nothing.Count += 1

        async def pre(Data: Any, FltObjects: Any) -> Any:
            if where == "pre":
                await oops(FltObjects)
            return WITH

        async def post(Data: Any, FltObjects: Any, C: Any, Flags: int) -> int:
            await oops(FltObjects)
            return DONE

        driver, _ = await keeper(lab, {IRP_MJ_READ: (pre, post)})
        file = await lab.open()
        await driver.keep(file)
        await file.read(4)

    assert run(script).code == "ke.unhandled-exception"


@pytest.mark.rule("FLT-RACE-43")
@pytest.mark.parametrize("under_lock", [True, False])
def test_the_cleanup_runs_with_the_locks_of_whoever_releases_last(under_lock: bool) -> None:
    async def script(lab: Lab) -> None:
        mutex = FAST_MUTEX("ListLock")
        ExInitializeFastMutex(mutex)

        async def cleanup(Context: CONTEXT, ContextType: int) -> None:
            await ExAcquireFastMutex(mutex)
            await ExReleaseFastMutex(mutex)

        entry = FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, cleanup, CONTEXT, TAG)
        driver, loaded = await keeper(lab, contexts=[entry, FLT_CONTEXT_REGISTRATION()])
        context = await driver.make()
        await ExAcquireFastMutex(mutex)
        if under_lock:
            await FltReleaseContext(context)
        await ExReleaseFastMutex(mutex)
        if not under_lock:
            await FltReleaseContext(context)
        await loaded.unload()

    assert run(script).code == ("cleanup-lock-inversion" if under_lock else None)


@pytest.mark.rule("FLT-RACE-43")
@pytest.mark.parametrize("asks", ["inner", "outer", "nobody"])
def test_a_cleanup_inside_of_a_cleanup(asks: str) -> None:
    async def script(lab: Lab) -> None:
        mutex = FAST_MUTEX("ListLock")
        ExInitializeFastMutex(mutex)

        async def cleanup(Context: CONTEXT, ContextType: int) -> None:
            if Context.Other is not None:
                await FltReleaseContext(Context.Other)
                if asks == "outer":
                    await ExAcquireFastMutex(mutex)
            elif asks == "inner":
                await ExAcquireFastMutex(mutex)

        entry = FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, cleanup, CONTEXT, TAG)
        driver, loaded = await keeper(lab, contexts=[entry, FLT_CONTEXT_REGISTRATION()])
        outer, inner = await driver.make(), await driver.make()
        outer.Other, inner.Other = inner, None
        await ExAcquireFastMutex(mutex)
        await FltReleaseContext(outer)
        await ExReleaseFastMutex(mutex)
        # Later on the thread may of course be asked to wait for itself, but not by a cleanup.
        await loaded.unload()
        if asks == "nobody":
            await ExAcquireFastMutex(mutex)
            await ExAcquireFastMutex(mutex)

    assert run(script).code == ("ke.self-deadlock" if asks == "nobody" else "cleanup-lock-inversion")


@pytest.mark.rule("FLT-RACE-41")
@pytest.mark.parametrize(
    ("held", "asks", "found", "warns"),
    [
        (False, False, True, False),  # it knew of the old one, and nobody else has it
        (False, False, False, True),  # it had looked and found nothing
        (False, True, False, False),  # but it gets the old one, and can carry over what is there
        (True, True, True, True),  # somebody else is using the old one
    ],
)
def test_replacing_what_others_rely_on(held: bool, asks: bool, found: bool, warns: bool) -> None:
    async def script(lab: Lab) -> None:
        driver, loaded = await keeper(lab)
        file = await lab.open()
        instance, fo = driver.instance, file.file

        async def holder() -> None:
            _, context = await FltGetStreamContext(instance, fo)
            await lab.sleep(1)
            await FltReleaseContext(context)

        if not found:
            await FltGetStreamContext(instance, fo)

        async def other() -> None:
            await driver.keep(file)

        await lab.together(other())

        async def replacer() -> None:
            second = await driver.make()
            _, old = await FltSetStreamContext(instance, fo, REPLACE, second, asks)
            if old is not None:
                await FltReleaseContext(old)
            await FltReleaseContext(second)

        if held:
            await lab.together(holder(), replacer())
        else:
            await replacer()
        await file.close()
        await loaded.unload()

    one = run(script)
    assert one.code is None
    assert one.warnings == (("ctx-lost-update",) if warns else ())


def test_what_a_driver_gets_where_the_run_goes_on() -> None:
    async def script(lab: Lab) -> Any:
        codes = ("volume-ctx-paged", "ctx-delete-invalid", "ctx-in-precreate", "ctx-unopened-fileobject")
        lab.verifier.settings = parse_settings(None, [f"{code}=ignore" for code in codes])

        async def pre(Data: Any, FltObjects: Any) -> Any:
            for routine in (FltGetStreamContext, FltDeleteStreamContext):
                lab.note("pre", await routine(FltObjects.Instance, FltObjects.FileObject))
            lab.note("pre", await FltSetStreamContext(FltObjects.Instance, FltObjects.FileObject, KEEP, context, None))
            return PASS

        driver, loaded = await keeper(lab, {IRP_MJ_CREATE: (pre, None)})
        assert await FltAllocateContext(driver.flt, FLT_VOLUME_CONTEXT, CONTEXT, PagedPool) == (
            STATUS_INVALID_PARAMETER,
            None,
        )
        context = await driver.make()
        await FltDeleteContext(context)
        await lab.open()
        await FltReleaseContext(context)
        await loaded.unload()

    one = run(script)
    assert one.code is None
    assert set(one.warnings) == {
        "volume-ctx-paged", "ctx-delete-invalid", "ctx-in-precreate", "ctx-unopened-fileobject"
    }  # fmt: skip
    assert [note.value for note in one.notes if note.what == "pre"] == [(STATUS_NOT_SUPPORTED, None)] * 3


def test_every_finding_of_contexts_is_tested_here() -> None:
    text = Path(__file__).read_text()
    codes = [code for code, rule in CATALOGUE.items() if any("FLT-CTX" in one for one in rule.rules)]
    assert codes
    assert all(f'"{code}"' in text for code in codes)
