"""Races about contexts: every listed order is reached, and the findings are raised in the harmful ones (FLT-RACE).

What happened is in the notes; `all_runs` makes every run, and compares the reduced search with that.
"""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.context_kit import CONTEXT, KEEP, TAG, Keeper, keeper
from fltmgr.kit import Lab, Run, Script, all_runs, codes, run
from racing import Field

from kemu.explore import DPOR
from kemu.nt.transaction import KTRANSACTION
from kemu.scenario.world import File
from kemu.wdk.fltkernel import (
    FLT_CONTEXT_REGISTRATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_SET_CONTEXT_REPLACE_IF_EXISTS,
    FLT_STREAM_CONTEXT,
    FLT_TRANSACTION_CONTEXT,
    FLTFL_POST_OPERATION_DRAINING,
    FltAllocateContext,
    FltAllocateGenericWorkItem,
    FltDeleteContext,
    FltDeleteStreamContext,
    FltFreeGenericWorkItem,
    FltGetStreamContext,
    FltGetTransactionContext,
    FltQueueGenericWorkItem,
    FltReferenceContext,
    FltReleaseContext,
    FltSetStreamContext,
    FltSetTransactionContext,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import (
    STATUS_FLT_CONTEXT_ALREADY_DEFINED,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_NOT_FOUND,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    FAST_MUTEX,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_READ,
    NT_SUCCESS,
    POOL_FLAG_NON_PAGED,
    DelayedWorkQueue,
    ExAcquireFastMutex,
    ExAllocatePool2,
    ExFreePoolWithTag,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    KeSetEvent,
    KeWaitForSingleObject,
    NonPagedPool,
)

WITH = FLT_PREOP_SUCCESS_WITH_CALLBACK
DONE = FLT_POSTOP_FINISHED_PROCESSING
REPLACE = FLT_SET_CONTEXT_REPLACE_IF_EXISTS
RACE = "ke.data-race"


def outcomes(runs: list[Run], *names: str) -> set[tuple[str, ...]]:
    """In which orders the notes of these *names* were made."""
    return {tuple(what for what in one.order if what in names) for one in runs}


def reduced_search_covers(script: Script, runs: list[Run], **options: Any) -> None:
    """The reduced search comes to everything that these *runs*, which need not be all, have come to."""
    search = DPOR()
    found: set[object] = set()
    while search.begin():
        one = run(script, search, observer=search, **options)
        search.end(one.outcome)
        found.add(one.what_came_of_it)
    assert {one.what_came_of_it for one in runs} <= found


# Get or create (FLT-RACE-40).


async def get_or_create(lab: Lab, driver: Keeper, file: File, *, own: bool = True, winner: bool = True) -> Any:
    """Find the stream's context or make it, as the samples do; without *own* or *winner* a release is forgotten."""
    instance, fo = driver.instance, file.file
    status, context = await FltGetStreamContext(instance, fo)
    if status != STATUS_NOT_FOUND:
        lab.note("found")
        return context
    made = await driver.make()
    status, old = await FltSetStreamContext(instance, fo, KEEP, made, True)
    if NT_SUCCESS(status):
        lab.note("set")
        return made
    assert status == STATUS_FLT_CONTEXT_ALREADY_DEFINED
    lab.note("lost")
    if own:
        await FltReleaseContext(made)
    if not winner:
        await FltReleaseContext(old)
    return old


def creators(**forgets: Any) -> Script:
    async def script(lab: Lab) -> None:
        driver, loaded = await keeper(lab)
        file = await lab.quiet_open()

        async def one() -> None:
            context = await get_or_create(lab, driver, file, **forgets)
            await FltReleaseContext(context)

        async def two() -> None:
            context = await get_or_create(lab, driver, file, **forgets)
            await FltReleaseContext(context)

        await lab.together(one(), two())
        await loaded.unload()

    return script


@pytest.mark.rule("FLT-RACE-40", "FLT-CTX-13")
def test_two_threads_get_or_create() -> None:
    runs = all_runs(creators())
    assert codes(runs) == {None}
    assert {tuple(sorted(one.order)) for one in runs} == {
        ("cleanup", "found", "set"),
        ("cleanup", "cleanup", "lost", "set"),
    }


@pytest.mark.rule("FLT-RACE-40", "FLT-CTX-09")
@pytest.mark.parametrize(("forgets", "code"), [({"own": False}, "ctx-leak"), ({"winner": False}, "ctx-over-release")])
def test_the_loser_of_get_or_create(forgets: dict[str, bool], code: str) -> None:
    runs = all_runs(creators(**forgets))
    assert {(one.code, "lost" in one.order) for one in runs} == {(None, False), (code, True)}


# Replacing (FLT-RACE-41).


@pytest.mark.rule("FLT-RACE-41", "FLT-CTX-14")
def test_a_context_is_replaced_before_and_after_it_is_got() -> None:
    async def script(lab: Lab) -> None:
        driver, loaded = await keeper(lab)
        file = await lab.quiet_open()
        first = await driver.keep(file)

        async def user() -> None:
            _, context = await FltGetStreamContext(driver.instance, file.file)
            lab.note("got old" if context is first else "got new")
            await FltReleaseContext(context)
            lab.note("released")

        async def replacer() -> None:
            second = await driver.make()
            await FltSetStreamContext(driver.instance, file.file, REPLACE, second, None)
            lab.note("replaced")
            await FltReleaseContext(second)

        await lab.together(user(), replacer())
        await loaded.unload()

    runs = all_runs(script)
    assert codes(runs) == {None}
    found = outcomes(runs, "got old", "got new", "replaced", "released")
    assert {
        ("got old", "replaced", "released"),
        ("got old", "released", "replaced"),
        ("replaced", "got new", "released"),
    } <= found
    # Only where it is replaced while the user holds it is anything lost.
    warned = {one.warnings for one in runs if one.order.index("replaced") > one.order.index("released")}
    assert warned == {()}
    assert ("ctx-lost-update",) in {one.warnings for one in runs}
    assert () in {one.warnings for one in runs}


# Delete, get, release (FLT-RACE-42).


@pytest.mark.rule("FLT-RACE-42", "FLT-CTX-19")
def test_two_threads_delete_and_one_gets() -> None:
    async def script(lab: Lab) -> None:
        driver, loaded = await keeper(lab)
        file = await lab.quiet_open()
        context = await driver.keep(file)

        async def delete() -> None:
            _, context = await FltGetStreamContext(driver.instance, file.file)
            if context is not None:
                await FltDeleteContext(context)
                lab.note("deleted")
                await FltReleaseContext(context)

        async def get() -> None:
            _, found = await FltGetStreamContext(driver.instance, file.file)
            lab.note("got" if found is not None else "gone")
            if found is not None:
                assert found is context
                found.Count += 1
                await FltReleaseContext(found)

        await lab.together(delete(), delete(), get())
        lab.note("over")
        await loaded.unload()

    runs = all_runs(script, bound=2)
    reduced_search_covers(script, runs)
    assert codes(runs) == {None}
    assert {("got", "deleted", "deleted"), ("deleted", "gone"), ("got", "deleted"), ("deleted", "deleted", "gone")} <= {
        tuple(what for what in one.order if what not in {"cleanup", "over"}) for one in runs
    }
    # There is one link to be dropped, whoever does it, and one cleanup.
    assert {one.order.count("cleanup") for one in runs} == {1}
    assert all(one.before("cleanup", "over") for one in runs)


@pytest.mark.rule("FLT-RACE-42", "FLT-CTX-12")
@pytest.mark.parametrize("late", [True, False])
def test_a_use_after_the_own_release(late: bool) -> None:
    async def script(lab: Lab) -> None:
        driver, loaded = await keeper(lab)
        file = await lab.quiet_open()
        await driver.keep(file)

        async def user() -> None:
            _, context = await FltGetStreamContext(driver.instance, file.file)
            if context is None:
                lab.note("gone")
                return
            if not late:
                context.Count += 1
            await FltReleaseContext(context)
            lab.note("released")
            if late:
                context.Count += 1

        async def deleter() -> None:
            await FltDeleteStreamContext(driver.instance, file.file, None)
            lab.note("deleted")

        await lab.together(user(), deleter())
        await loaded.unload()

    runs = all_runs(script)
    assert codes(runs) == ({None, "ctx-use-after-release"} if late else {None})
    found = outcomes(runs, "gone", "released", "deleted")
    assert ("deleted", "gone") in found
    assert late or {("released", "deleted"), ("deleted", "released")} <= found


@pytest.mark.rule("FLT-RACE-42", "FLT-CTX-11")
def test_a_thread_that_releases_what_it_was_not_given() -> None:
    async def script(lab: Lab) -> None:
        driver, loaded = await keeper(lab)
        file = await lab.quiet_open()
        context = await driver.keep(file)

        async def user() -> None:
            _, found = await FltGetStreamContext(driver.instance, file.file)
            await FltReleaseContext(found)

        async def culprit() -> None:
            await FltReleaseContext(context)

        await lab.together(user(), culprit())
        await loaded.unload()

    # Whoever comes second finds no reference left but that of the link.
    assert codes(all_runs(script)) == {"ctx-over-release"}


# A list of the driver's own (FLT-ORD-08).


@pytest.mark.rule("FLT-ORD-08", "FLT-CTX-12", "FLT-CTX-23")
def test_a_context_that_is_being_cleaned_up_cannot_be_revived() -> None:
    async def script(lab: Lab) -> None:
        listed: list[CONTEXT] = []

        async def cleanup(Context: CONTEXT, ContextType: int) -> None:
            lab.note("cleanup")
            listed.remove(Context)

        entry = FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, cleanup, CONTEXT, TAG)
        driver, _ = await keeper(lab, contexts=[entry, FLT_CONTEXT_REGISTRATION()])
        context = await driver.make()
        listed.append(context)

        async def releaser() -> None:
            await FltReleaseContext(context)

        async def walker() -> None:
            if listed:
                await FltReferenceContext(listed[0])
                lab.note("revived")
                await FltReleaseContext(context)
            else:
                lab.note("unlisted")

        await lab.together(releaser(), walker())

    runs = all_runs(script, unseen=True)
    assert {(one.code, "revived" in one.order, "unlisted" in one.order) for one in runs} == {
        ("ctx-ref-after-free", False, False),
        (None, True, False),
        (None, False, True),
    }


# The last close and others' references (FLT-RACE-43).


@pytest.mark.rule("FLT-RACE-43", "FLT-CTX-22", "FLT-CTX-23", "FLT-CTX-24")
def test_the_last_close_and_the_last_user() -> None:
    async def script(lab: Lab) -> None:
        driver, loaded = await keeper(lab)
        file = await lab.quiet_open()
        await driver.keep(file)

        async def closer() -> None:
            await file.close()
            lab.note("closed")

        _, held = await FltGetStreamContext(driver.instance, file.file)

        async def user() -> None:
            held.Count += 1
            await FltReleaseContext(held)
            lab.note("released")

        await lab.together(closer(), user())
        await loaded.unload()

    runs = all_runs(script)
    assert codes(runs) == {None}
    cleaned_by = {(one.note("cleanup").thread, one.order[-1]) for one in runs}
    # Whoever is last has it cleaned up, in its own thread.
    assert {thread for thread, _ in cleaned_by} == {"closer", "user"}


@pytest.mark.rule("FLT-RACE-43")
@pytest.mark.parametrize("under_lock", [True, False])
def test_the_last_user_releases_with_a_lock_that_the_cleanup_needs(under_lock: bool) -> None:
    async def script(lab: Lab) -> None:
        mutex = FAST_MUTEX("ListLock")
        ExInitializeFastMutex(mutex)

        async def cleanup(Context: CONTEXT, ContextType: int) -> None:
            lab.note("cleanup")
            await ExAcquireFastMutex(mutex)
            await ExReleaseFastMutex(mutex)

        entry = FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, cleanup, CONTEXT, TAG)
        driver, loaded = await keeper(lab, contexts=[entry, FLT_CONTEXT_REGISTRATION()])
        file = await lab.quiet_open()
        await driver.keep(file)
        _, held = await FltGetStreamContext(driver.instance, file.file)

        async def closer() -> None:
            await file.close()
            lab.note("closed")

        async def user() -> None:
            await ExAcquireFastMutex(mutex)
            if not under_lock:
                await ExReleaseFastMutex(mutex)
            await FltReleaseContext(held)
            lab.note("released")
            if under_lock:
                await ExReleaseFastMutex(mutex)

        await lab.together(closer(), user())
        await loaded.unload()

    runs = all_runs(script, bound=2)
    by_whom = {(one.note("cleanup").thread, one.code) for one in runs}
    assert by_whom == {("closer", None), ("user", "cleanup-lock-inversion" if under_lock else None)}


@pytest.mark.rule("FLT-RACE-43", "FLT-CTX-22")
def test_two_closes_of_one_stream() -> None:
    async def script(lab: Lab) -> None:
        driver, loaded = await keeper(lab)
        one, two = await lab.quiet_open(), await lab.quiet_open()

        async def first() -> None:
            await one.close()
            lab.note("first closed")

        async def second() -> None:
            context = await driver.make()
            await FltSetStreamContext(driver.instance, two.file, KEEP, context, None)
            await FltReleaseContext(context)
            lab.note("set")
            await two.close()
            lab.note("second closed")

        await lab.together(first(), second())
        await loaded.unload()

    runs = all_runs(script, bound=2)
    reduced_search_covers(script, runs)
    assert codes(runs) == {None}
    assert {one.note("cleanup").thread for one in runs} == {"first", "second"}
    assert {one.order.count("cleanup") for one in runs} == {1}


@pytest.mark.rule("FLT-CTX-22")
def test_whoever_is_last_to_close_depends_on_all_others() -> None:
    async def script(lab: Lab) -> None:
        driver, _ = await keeper(lab)
        one, two = await lab.quiet_open(), await lab.quiet_open()
        await driver.keep(one)
        for file in (one, two):
            await lab.send(lab.request(file, IRP_MJ_CLEANUP))

        async def first() -> None:
            await lab.send(lab.request(one, IRP_MJ_CLOSE))

        async def second() -> None:
            await lab.send(lab.request(two, IRP_MJ_CLOSE))

        await lab.together(first(), second())

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {one.note("cleanup").thread for one in runs} == {"first", "second"}


@pytest.mark.rule("FLT-CTX-08", "FLT-CTX-23")
def test_a_context_is_set_while_another_thread_lets_go_of_it() -> None:
    async def script(lab: Lab) -> None:
        driver, loaded = await keeper(lab)
        file = await lab.quiet_open()
        context = await driver.make()
        ready = lab.event("ready")

        async def setter() -> None:
            await FltReferenceContext(context)
            await KeSetEvent(ready)
            status, _ = await FltSetStreamContext(driver.instance, file.file, KEEP, context, None)
            assert status == STATUS_SUCCESS
            await FltReleaseContext(context)

        async def other() -> None:
            await FltReferenceContext(context)
            await KeWaitForSingleObject(ready)
            await FltReleaseContext(context)

        await lab.together(setter(), other())
        await FltReleaseContext(context)
        lab.note("linked")
        await loaded.unload()

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {tuple(one.order) for one in runs} == {("linked", "cleanup")}


@pytest.mark.rule("FLT-RACE-43", "FLT-CTX-22")
def test_a_close_and_an_open_of_the_same_stream() -> None:
    async def script(lab: Lab) -> None:
        driver, loaded = await keeper(lab)
        file = await lab.quiet_open()
        await driver.keep(file)

        async def closer() -> None:
            await file.close()

        async def opener() -> None:
            again = await lab.open()
            _, context = await FltGetStreamContext(driver.instance, again.file)
            lab.note("found" if context is not None else "not found")
            if context is not None:
                await FltReleaseContext(context)
            await again.close()

        await lab.together(closer(), opener())
        await loaded.unload()

    runs = all_runs(script, bound=2)
    reduced_search_covers(script, runs)
    assert codes(runs) == {None}
    assert {"found", "not found"} <= {what for one in runs for what in one.order}
    assert {one.order.count("cleanup") for one in runs} == {1}


# Teardown and unload.


@pytest.mark.rule("FLT-RACE-27", "FLT-CTX-09", "FLT-INST-31")
@pytest.mark.parametrize("releases", [True, False])
def test_a_teardown_comes_between_allocating_and_setting(releases: bool) -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: Any, FltObjects: Any) -> Any:
            status, context = await FltAllocateContext(driver.flt, FLT_STREAM_CONTEXT, CONTEXT, NonPagedPool)
            if context is None:
                lab.note("going")
                return WITH
            status, _ = await FltSetStreamContext(FltObjects.Instance, FltObjects.FileObject, KEEP, context, None)
            lab.note("set" if NT_SUCCESS(status) else "refused")
            assert status in {STATUS_SUCCESS, STATUS_FLT_DELETING_OBJECT}
            if releases or NT_SUCCESS(status):
                await FltReleaseContext(context)
            return WITH

        file = await lab.quiet_open()
        driver, loaded = await keeper(lab, {IRP_MJ_READ: (pre, lab.post("K"))})

        async def reader() -> None:
            await file.read(4)

        async def admin() -> None:
            await loaded.unload()

        await lab.together(reader(), admin())

    runs = all_runs(script, bound=2)
    if releases:
        reduced_search_covers(script, runs)
    seen = {("set" in one.order, "refused" in one.order) for one in runs}
    assert seen == {(True, False), (False, True), (False, False)}
    assert {one.code for one in runs if "refused" in one.order} == {None if releases else "ctx-leak"}
    assert {one.code for one in runs if "refused" not in one.order} == {None}


@pytest.mark.rule("FLT-RACE-33", "FLT-ORD-07", "FLT-CTX-24")
@pytest.mark.parametrize("frees_first", [True, False])
def test_a_deferred_cleanup_and_the_unload(frees_first: bool) -> None:
    """The cleanup uses a global of the driver's, which the unload frees before or after it has unregistered."""

    async def script(lab: Lab) -> None:
        async def cleanup(Context: CONTEXT, ContextType: int) -> None:
            lab.note("cleanup")
            lab.note("used", bytes(driver.global_[0:1]))  # type: ignore[attr-defined]

        async def unload(Flags: int) -> int:
            block = driver.global_  # type: ignore[attr-defined]
            if frees_first:
                await ExFreePoolWithTag(block, "Glob")
                lab.note("freed")
            await FltUnregisterFilter(driver.flt)
            lab.note("unregistered")
            if not frees_first:
                await ExFreePoolWithTag(block, "Glob")
                lab.note("freed")
            return STATUS_SUCCESS

        entry = FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, cleanup, CONTEXT, TAG)
        driver, loaded = await keeper(lab, contexts=[entry, FLT_CONTEXT_REGISTRATION()], FilterUnloadCallback=unload)
        driver.global_ = await ExAllocatePool2(POOL_FLAG_NON_PAGED, 8, "Glob")  # type: ignore[attr-defined]
        context = await driver.make()

        async def dpc() -> None:
            await lab.at_dispatch(FltReleaseContext(context))
            lab.note("released")

        async def admin() -> None:
            await loaded.unload()

        await lab.together(dpc(), admin())

    runs = all_runs(script, bound=2)
    found = outcomes(runs, "cleanup", "freed")
    if frees_first:
        # The kernel's finding of freed memory is what this is.
        assert {one.code for one in runs if one.order.index("cleanup") < one.order.index("freed")} <= {None}
        assert {("cleanup", "freed"), ("freed", "cleanup")} <= found
        assert codes(runs) == {None, "unload-free-before-unregister"}
    else:
        reduced_search_covers(script, runs)
        assert found == {("cleanup", "freed")}
        assert codes(runs) == {None}
        assert {one.before("cleanup", "released") for one in runs} == {True, False}
        assert all(one.before("cleanup", "unregistered") for one in runs)


# The context data (FLT-RACE-44).


@pytest.mark.rule("FLT-RACE-44")
@pytest.mark.parametrize("how", ["both write", "one each"])
def test_fields_of_a_context_are_plain_memory(how: str) -> None:
    async def script(lab: Lab) -> None:
        driver, loaded = await keeper(lab)
        file = await lab.quiet_open()
        await driver.keep(file)
        fields = Field("CONTEXT.Count"), Field("CONTEXT.Other")

        async def user(number: int) -> None:
            _, context = await FltGetStreamContext(driver.instance, file.file)
            fields[0 if how == "both write" else number].store()
            await FltReleaseContext(context)

        await lab.together(user(0), user(1))
        await loaded.unload()

    runs = [one.code for one in all_runs(script, races=True, unseen=True)]
    assert set(runs) == ({RACE} if how == "both write" else {None})


# From the preoperation callback to the postoperation callback (FLT-RACE-09, FLT-RACE-45).


def handing_over(*, drained: bool = True, normal: bool = True, shared: str = "") -> Script:
    """A pre-read callback hands a context on; which postoperation callbacks release it, and who else has it."""

    async def script(lab: Lab) -> None:
        async def routine(WorkItem: Any, FltObject: Any, Context: Any) -> None:
            await FltFreeGenericWorkItem(WorkItem)
            lab.note("worker")
            Context.Count += 1
            if shared == "referenced":
                await FltReleaseContext(Context)

        async def pre(Data: Any, FltObjects: Any) -> Any:
            _, context = await FltAllocateContext(driver.flt, FLT_STREAM_CONTEXT, CONTEXT, NonPagedPool)
            if context is None:
                return FLT_PREOP_SUCCESS_NO_CALLBACK
            context.Count = 0
            if shared:
                if shared == "referenced":
                    await FltReferenceContext(context)
                item = await FltAllocateGenericWorkItem()
                assert item is not None
                status = await FltQueueGenericWorkItem(item, driver.flt, routine, DelayedWorkQueue, context)
                assert status == STATUS_SUCCESS
            return WITH, context

        async def post(Data: Any, FltObjects: Any, Context: Any, Flags: int) -> int:
            is_drained = bool(Flags & FLTFL_POST_OPERATION_DRAINING)
            lab.note("drained" if is_drained else "post")
            if drained if is_drained else normal:
                await FltReleaseContext(Context)
            return DONE

        file = await lab.quiet_open()
        driver, loaded = await keeper(lab, {IRP_MJ_READ: (pre, post)})

        async def reader() -> None:
            await file.read(4)

        async def admin() -> None:
            await loaded.unload()

        if shared:
            await reader()
            await admin()
        else:
            await lab.together(reader(), admin())

    return script


@pytest.mark.rule("FLT-RACE-45", "FLT-POST-14", "FLT-RACE-22")
@pytest.mark.parametrize("completion", ["inline", "later", "explore"])
@pytest.mark.parametrize(("drained", "normal"), [(True, True), (False, True), (True, False)])
def test_a_context_that_is_handed_on_is_released_on_every_path(completion: str, drained: bool, normal: bool) -> None:
    runs = all_runs(handing_over(drained=drained, normal=normal), bound=1, completion=completion)
    by_path: dict[tuple[bool, bool], set[str | None]] = {}
    for one in runs:
        by_path.setdefault(("drained" in one.order, "post" in one.order), set()).add(one.code)
    assert by_path[False, True] == ({None} if normal else {"postop-context-leak"})
    assert by_path[False, False] == {None}
    if completion != "inline":
        assert by_path[True, False] == ({None} if drained else {"postop-context-leak"})
        levels = {note.irql for one in runs for note in one.notes if note.what == "post"}
        assert levels == {0, 2} if completion == "explore" else levels


@pytest.mark.rule("FLT-RACE-09")
@pytest.mark.parametrize("shared", ["pointer", "referenced"])
def test_a_worker_shares_the_completion_context(shared: str) -> None:
    runs = all_runs(handing_over(shared=shared), bound=2)
    seen = {(tuple(w for w in one.order if w in {"worker", "post"}), one.code) for one in runs}
    late = "ctx-use-after-release" if shared == "pointer" else None
    assert {(("worker", "post"), None), (("post", "worker"), late)} <= seen
    assert codes(runs) == {None, late}


# Transactions (FLT-RACE-48).


@pytest.mark.rule("FLT-RACE-48", "FLT-TXN-03")
@pytest.mark.parametrize("references", [True, False])
def test_an_enlistment_fails_after_another_thread_has_found_the_context(references: bool) -> None:
    """One thread sets the context and then cannot enlist; the other has found it, and enlists."""

    async def script(lab: Lab) -> None:
        driver, loaded = await keeper(lab)
        transaction = KTRANSACTION()
        instance = driver.instance

        async def fails() -> None:
            context = await driver.make(FLT_TRANSACTION_CONTEXT)
            status, _ = await FltSetTransactionContext(instance, transaction, KEEP, context, None)
            lab.note("set")
            if NT_SUCCESS(status):
                # FltEnlistInTransaction fails.
                await FltDeleteContext(context)
                lab.note("deleted")
            await FltReleaseContext(context)

        async def other() -> None:
            status, context = await FltGetTransactionContext(instance, transaction)
            if context is None:
                lab.note("not found")
                assert status == STATUS_NOT_FOUND
                return
            lab.note("found")
            if not references:
                await FltReleaseContext(context)
            context.Count += 1
            lab.note("enlisted")
            if references:
                await FltReleaseContext(context)

        await lab.together(fails(), other())
        await loaded.unload()

    runs = all_runs(script)
    found = outcomes(runs, "set", "deleted", "found", "not found")
    assert {
        ("set", "deleted", "not found"), ("not found", "set", "deleted"),
        ("set", "found", "deleted"),
    } <= found  # fmt: skip
    assert codes(runs) == ({None} if references else {None, "ctx-use-after-release"})
    assert {one.code for one in runs if "not found" in one.order} == {None}


# What orders threads, and what does not.


def edge(script: Script) -> set[str | None]:
    return {one.code for one in all_runs(script, bound=2, races=True)}


@pytest.mark.parametrize("where", ["before", "after"])
def test_setting_is_ordered_before_getting(where: str) -> None:
    async def script(lab: Lab) -> None:
        driver, _ = await keeper(lab)
        file = await lab.quiet_open()
        field = Field()

        async def setter() -> None:
            context = await driver.make()
            if where == "before":
                field.store()
            await FltSetStreamContext(driver.instance, file.file, KEEP, context, None)
            if where == "after":
                field.store()
            await FltReleaseContext(context)

        async def getter() -> None:
            _, context = await FltGetStreamContext(driver.instance, file.file)
            if context is not None:
                field.load()
                await FltReleaseContext(context)

        await lab.together(setter(), getter())

    assert edge(script) == ({None} if where == "before" else {None, RACE})


@pytest.mark.rule("FLT-ORD-08")
@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("deferred", [False, True])
def test_every_release_is_ordered_before_the_cleanup(where: str, deferred: bool) -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def cleanup(Context: CONTEXT, ContextType: int) -> None:
            field.store()

        entry = FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, cleanup, CONTEXT, TAG)
        driver, loaded = await keeper(lab, contexts=[entry, FLT_CONTEXT_REGISTRATION()])
        context = await driver.make()
        await FltReferenceContext(context)

        async def user() -> None:
            if where == "before":
                field.load()
            release = FltReleaseContext(context)
            await (lab.at_dispatch(release) if deferred else release)
            if where == "after":
                field.load()

        async def other() -> None:
            release = FltReleaseContext(context)
            await (lab.at_dispatch(release) if deferred else release)

        await lab.together(user(), other())
        await loaded.unload()

    # A worker cleans up while the user goes on; otherwise the user may be the one who cleans up.
    assert edge(script) == ({None} if where == "before" else {RACE} if deferred else {None, RACE})


def test_releases_do_not_order_each_other() -> None:
    async def script(lab: Lab) -> None:
        driver, _ = await keeper(lab)
        context = await driver.make()
        await FltReferenceContext(context)
        await FltReferenceContext(context)
        field = Field()

        async def user() -> None:
            field.store()
            await FltReleaseContext(context)

        await lab.together(user(), user())

    assert edge(script) == {RACE}


def test_the_cleanups_are_ordered_before_the_end_of_the_unload() -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def cleanup(Context: CONTEXT, ContextType: int) -> None:
            field.store()

        entry = FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, cleanup, CONTEXT, TAG)
        driver, loaded = await keeper(lab, contexts=[entry, FLT_CONTEXT_REGISTRATION()])
        context = await driver.make()
        await lab.at_dispatch(FltReleaseContext(context))
        await loaded.unload()
        field.load()

    assert run(script, races=True).code is None


@pytest.mark.rule("FLT-RACE-42", "FLT-RACE-44")
def test_a_use_after_the_own_release_is_a_race_even_where_it_comes_in_time() -> None:
    async def script(lab: Lab, late: bool) -> None:
        driver, _ = await keeper(lab)
        file = await lab.quiet_open()
        context = await driver.keep(file)
        record = object.__getattribute__(context, "__dict__")["_context"]
        field = Field("CONTEXT.Count", lifetime=record)

        async def user() -> None:
            _, found = await FltGetStreamContext(driver.instance, file.file)
            if not late:
                field.load()
            await FltReleaseContext(found)
            if late:
                field.load()

        async def deleter() -> None:
            await lab.sleep(1)
            await FltDeleteStreamContext(driver.instance, file.file, None)

        await lab.together(user(), deleter())

    assert run(lambda lab: script(lab, True), races=True).code == RACE
    assert run(lambda lab: script(lab, False), races=True).code is None


@pytest.mark.rule("FLT-CTX-26")
def test_gets_and_releases_of_one_context_commute() -> None:
    """However many threads get and release: there is one class of runs, and it is found in one."""

    async def script(lab: Lab) -> None:
        driver, loaded = await keeper(lab)
        file = await lab.quiet_open()
        await driver.keep(file)

        async def user() -> None:
            _, context = await FltGetStreamContext(driver.instance, file.file)
            await FltReleaseContext(context)

        await lab.together(user(), user())
        await loaded.unload()

    runs = all_runs(script)
    assert len(runs) > 1
    assert len({one.outcome.fingerprint for one in runs}) == 1
