"""Minifilters in transactions (FLT-TXN)."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.context_kit import CONTEXT, TAG
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, all_runs, codes, orders, run

from kemu.nt.transaction import PHASE_NAMES
from kemu.scenario.transactions import UserTransaction
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_CONTEXT_REGISTRATION,
    FLT_INSTANCE_CONTEXT,
    FLT_MAX_TRANSACTION_NOTIFICATIONS,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FLT_SET_CONTEXT_KEEP_IF_EXISTS,
    FLT_TRANSACTION_CONTEXT,
    FltAllocateContext,
    FltCommitComplete,
    FltCommitFinalizeComplete,
    FltDeleteContext,
    FltEnlistInTransaction,
    FltGetTransactionContext,
    FltObjectDereference,
    FltObjectReference,
    FltPrepareComplete,
    FltPrePrepareComplete,
    FltReferenceContext,
    FltReleaseContext,
    FltRollbackComplete,
    FltRollbackEnlistment,
    FltSetTransactionContext,
)
from kemu.wdk.ntifs import IoGetTransactionParameterBlock
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_FLT_ALREADY_ENLISTED,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_INVALID_PARAMETER,
    STATUS_INVALID_PARAMETER_4,
    STATUS_NOT_FOUND,
    STATUS_PENDING,
    STATUS_SUCCESS,
    STATUS_TRANSACTION_ABORTED,
    STATUS_TRANSACTION_ALREADY_ABORTED,
    STATUS_TRANSACTION_ALREADY_COMMITTED,
    STATUS_TRANSACTION_NOT_ACTIVE,
    STATUS_TRANSACTION_REQUEST_NOT_VALID,
)
from kemu.wdk.wdm import (
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    TRANSACTION_NOTIFY_COMMIT,
    TRANSACTION_NOTIFY_COMMIT_FINALIZE,
    TRANSACTION_NOTIFY_PREPARE,
    TRANSACTION_NOTIFY_PREPREPARE,
    TRANSACTION_NOTIFY_ROLLBACK,
    NonPagedPool,
)

NO = FLT_PREOP_SUCCESS_NO_CALLBACK
OK = STATUS_SUCCESS
EVERYTHING = FLT_MAX_TRANSACTION_NOTIFICATIONS
COMPLETES = {
    TRANSACTION_NOTIFY_PREPREPARE: FltPrePrepareComplete,
    TRANSACTION_NOTIFY_PREPARE: FltPrepareComplete,
    TRANSACTION_NOTIFY_COMMIT: FltCommitComplete,
    TRANSACTION_NOTIFY_COMMIT_FINALIZE: FltCommitFinalizeComplete,
    TRANSACTION_NOTIFY_ROLLBACK: FltRollbackComplete,
}
OF_A_COMMIT = ["PREPREPARE", "PREPARE", "COMMIT", "COMMIT_FINALIZE"]


class Enlists:
    """A filter that enlists in the transactions of the files that are opened."""

    def __init__(
        self, lab: Lab, name: str = "D", mask: int = EVERYTHING, answers: dict[int, int] | None = None
    ) -> None:
        self.lab = lab
        self.name = name
        self.mask = mask
        self.answers = answers or {}
        self.later: list[tuple[Any, Any, int]] = []
        self.context: Any = None
        self.notes_cleanup = False

    async def load(self, altitude: str = MIDDLE) -> Any:
        kinds = (FLT_TRANSACTION_CONTEXT, FLT_INSTANCE_CONTEXT)
        return await self.lab.filter(
            self.name,
            altitude,
            {IRP_MJ_CREATE: (None, self.post_create)},
            ContextRegistration=[
                *(FLT_CONTEXT_REGISTRATION(kind, 0, self.cleanup, CONTEXT, TAG) for kind in kinds),
                FLT_CONTEXT_REGISTRATION(),
            ],
            TransactionNotificationCallback=self.notified,
        )

    async def cleanup(self, Context: Any, ContextType: int) -> None:
        if self.notes_cleanup:
            self.lab.note("cleanup")

    async def make(self, instance: Any, kind: int = FLT_TRANSACTION_CONTEXT) -> Any:
        """A context, which the caller holds a reference on."""
        status, context = await FltAllocateContext(instance.filter, kind, CONTEXT, NonPagedPool)
        assert status == OK
        return context

    async def enlist(self, instance: Any, transaction: Any, mask: int | None = None) -> int:
        """Enlist with a context that nobody but the enlistment keeps."""
        context = await self.make(instance)
        status = await FltEnlistInTransaction(instance, transaction, context, self.mask if mask is None else mask)
        if status == OK:
            self.context = context
        await FltReleaseContext(context)
        return status

    async def post_create(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int
    ) -> int:
        transaction = FltObjects.Transaction
        if transaction is None:
            self.lab.note(f"{self.name}.no transaction")
        else:
            status = await self.enlist(FltObjects.Instance, transaction)
            self.lab.note(f"{self.name}.enlists", status)
        return 0

    async def notified(self, FltObjects: FLT_RELATED_OBJECTS, TransactionContext: Any, NotificationMask: int) -> int:
        assert TransactionContext is not None
        assert FltObjects.FileObject is None
        transaction = FltObjects.Transaction
        assert transaction is not None
        phase = PHASE_NAMES[NotificationMask]
        self.lab.note(phase if self.name == "D" else f"{self.name}.{phase}")
        answer = self.answers.get(NotificationMask, OK)
        if answer == STATUS_PENDING:
            self.later.append((FltObjects.Instance, transaction, NotificationMask))
        return answer

    async def complete(self) -> None:
        for instance, transaction, phase in self.later:
            self.lab.note(f"completes {PHASE_NAMES[phase]}")
            assert await COMPLETES[phase](instance, transaction, self) == OK
        self.later.clear()


async def other(lab: Lab) -> Any:
    """A transaction context of another filter."""
    filter_ = Enlists(lab, "O")
    return await filter_.make(lab.instance(await filter_.load(UPPER)))


async def opened(lab: Lab, transaction: UserTransaction | None) -> Any:
    status, file = await lab.app.create(r"\a", transaction=transaction)
    assert status == OK
    return file


def phases(one: Any) -> list[str]:
    return [what for what in one.order if what in PHASE_NAMES.values()]


@pytest.mark.rule("FLT-TXN-01")
@pytest.mark.parametrize("mask", [EVERYTHING, TRANSACTION_NOTIFY_COMMIT, TRANSACTION_NOTIFY_ROLLBACK])
def test_who_is_enlisted_is_told_of_what_it_asked_for(mask: int) -> None:
    async def script(lab: Lab) -> Any:
        await Enlists(lab, mask=mask).load()
        transaction = lab.app.transaction()
        await opened(lab, transaction)
        await opened(lab, None)
        return await transaction.commit()

    one = run(script)
    assert (one.code, one.result) == (None, OK)
    assert phases(one) == [name for phase, name in PHASE_NAMES.items() if phase & mask and name in OF_A_COMMIT]
    assert one.order[:2] == ["D.enlists", "D.no transaction"]


@pytest.mark.rule("FLT-TXN-01")
def test_a_rollback() -> None:
    async def script(lab: Lab) -> Any:
        await Enlists(lab).load()
        transaction = lab.app.transaction()
        await opened(lab, transaction)
        return await transaction.rollback(), await transaction.rollback(), await transaction.commit()

    one = run(script)
    assert one.result == (OK, OK, STATUS_TRANSACTION_ALREADY_ABORTED)
    assert phases(one) == ["ROLLBACK"]


def test_a_transaction_ends_once() -> None:
    async def script(lab: Lab) -> Any:
        transaction = lab.app.transaction()
        first = await transaction.commit()
        return first, await transaction.commit(), await transaction.rollback()

    assert run(script).result == (OK, STATUS_TRANSACTION_ALREADY_COMMITTED, STATUS_TRANSACTION_ALREADY_COMMITTED)


def test_two_ends_at_once() -> None:
    async def script(lab: Lab) -> Any:
        await Enlists(lab).load()
        transaction = lab.app.transaction()
        await opened(lab, transaction)

        async def commits() -> Any:
            return await transaction.commit()

        async def ends() -> Any:
            return await transaction.commit(), await transaction.rollback()

        return await lab.together(commits(), ends())

    results = {(one.result[0], *one.result[1]) for one in all_runs(script, bound=1)}
    assert (STATUS_TRANSACTION_ABORTED, STATUS_TRANSACTION_REQUEST_NOT_VALID, STATUS_PENDING) in results
    assert (OK, STATUS_TRANSACTION_ALREADY_COMMITTED, STATUS_TRANSACTION_ALREADY_COMMITTED) in results


@pytest.mark.rule("FLT-TXN-01")
@pytest.mark.parametrize(
    ("what", "status"),
    [
        ("again", STATUS_FLT_ALREADY_ENLISTED),
        ("no callback", STATUS_INVALID_PARAMETER),
        ("wrong kind", STATUS_INVALID_PARAMETER),
        ("wrong filter", STATUS_INVALID_PARAMETER),
        ("no mask", STATUS_INVALID_PARAMETER_4),
        ("wrong mask", STATUS_INVALID_PARAMETER_4),
        ("detached", STATUS_FLT_DELETING_OBJECT),
        ("late", STATUS_TRANSACTION_NOT_ACTIVE),
    ],
)
def test_why_an_enlistment_fails(what: str, status: int) -> None:
    async def script(lab: Lab) -> Any:
        transaction = lab.app.transaction()
        detaches = None
        if what == "no callback":
            driver = await lab.recorder("D", MIDDLE)
            return await FltEnlistInTransaction(lab.instance(driver), transaction.object, await other(lab), EVERYTHING)
        filter_ = Enlists(lab)
        driver = await filter_.load()
        instance = lab.instance(driver)
        context = await filter_.make(
            instance, FLT_INSTANCE_CONTEXT if what == "wrong kind" else FLT_TRANSACTION_CONTEXT
        )
        if what == "wrong filter":
            context = await other(lab)
        elif what == "again":
            await opened(lab, transaction)
        elif what == "detached":
            # It is going away, and is kept by a reference until then.
            await FltObjectReference(instance)
            detaches = lab.start("detaches", driver.detach())
            await lab.sleep(1)
        elif what == "late":
            await transaction.commit()
        mask = {"no mask": 0, "wrong mask": 0x10}.get(what, EVERYTHING)
        result = await FltEnlistInTransaction(instance, transaction.object, context, mask)
        await FltReleaseContext(context)
        if detaches is not None:
            await FltObjectDereference(instance)
            await detaches.join()
        return result

    assert run(script).result == status


@pytest.mark.rule("FLT-TXN-01")
def test_two_enlist_at_once() -> None:
    async def script(lab: Lab) -> Any:
        filter_ = Enlists(lab)
        driver = await filter_.load()
        instance, transaction = lab.instance(driver), lab.app.transaction()
        context = await filter_.make(instance)

        async def enlists() -> int:
            return await FltEnlistInTransaction(instance, transaction.object, context, EVERYTHING)

        return sorted(await lab.together(enlists(), enlists()))

    assert {tuple(one.result) for one in all_runs(script)} == {(OK, STATUS_FLT_ALREADY_ENLISTED)}


def test_a_driver_finds_the_transaction_of_a_file() -> None:
    async def script(lab: Lab) -> Any:
        found: list[Any] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            file = FltObjects.FileObject
            assert file is not None
            block = IoGetTransactionParameterBlock(file)
            found.append((block and block.TransactionObject, FltObjects.Transaction))
            return NO

        await lab.filter("D", MIDDLE, {IRP_MJ_READ: (pre, None)})
        transaction = lab.app.transaction()
        for one in (transaction, None):
            await (await opened(lab, one)).read(1)
        return found == [(transaction.object, transaction.object), (None, None)]

    assert run(script).result is True


# Answering later.


@pytest.mark.rule("FLT-TXN-02")
@pytest.mark.parametrize("phase", COMPLETES)
@pytest.mark.parametrize("completes", [True, False])
def test_what_is_answered_later_has_to_be_completed(phase: int, completes: bool) -> None:
    async def script(lab: Lab) -> Any:
        filter_ = Enlists(lab, answers={phase: STATUS_PENDING})
        await filter_.load()
        transaction = lab.app.transaction()
        await opened(lab, transaction)

        async def ends() -> Any:
            ended = transaction.rollback if phase == TRANSACTION_NOTIFY_ROLLBACK else transaction.commit
            return await ended()

        thread = lab.start("ends", ends())
        await lab.sleep(1)
        if completes:
            await filter_.complete()
        return await thread.join()

    one = run(script)
    assert one.code == (None if completes else "txn-not-completed")
    if completes:
        assert one.result == OK
        # Nothing goes on before the answer has come.
        name = PHASE_NAMES[phase]
        assert one.order[one.index(name) + 1] == f"completes {name}"


@pytest.mark.rule("FLT-TXN-02")
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("answer", [STATUS_PENDING, STATUS_SUCCESS])
def test_what_is_answered_at_once_is_not_completed(answer: int, inside: bool) -> None:
    """The completion may come before the callback has returned STATUS_PENDING, and never for STATUS_SUCCESS."""

    async def script(lab: Lab) -> Any:
        filter_ = Enlists(lab, mask=TRANSACTION_NOTIFY_PREPARE)

        async def notified(FltObjects: FLT_RELATED_OBJECTS, TransactionContext: Any, NotificationMask: int) -> int:
            assert FltObjects.Transaction is not None
            if inside:
                await FltPrepareComplete(FltObjects.Instance, FltObjects.Transaction, TransactionContext)
            return answer

        filter_.notified = notified  # type: ignore[method-assign]
        driver = await filter_.load()
        instance = lab.instance(driver)
        transaction = lab.app.transaction()
        await opened(lab, transaction)
        thread = lab.start("commits", transaction.commit())
        await lab.sleep(1)
        if not inside:
            await FltPrepareComplete(instance, transaction.object, None)
        return await thread.join()

    one = run(script)
    assert one.code == (None if answer == STATUS_PENDING else "txn-double-complete")


@pytest.mark.rule("FLT-TXN-02")
@pytest.mark.parametrize(("routine", "code"), [(FltPrepareComplete, None), (FltCommitComplete, "txn-double-complete")])
def test_a_notification_is_completed_by_its_own_routine_once(routine: Any, code: str | None) -> None:
    def program(times: int) -> str | None:
        async def script(lab: Lab) -> Any:
            filter_ = Enlists(lab, answers={TRANSACTION_NOTIFY_PREPARE: STATUS_PENDING})
            driver = await filter_.load()
            transaction = lab.app.transaction()
            await opened(lab, transaction)
            thread = lab.start("commits", transaction.commit())
            await lab.sleep(1)
            for _ in range(times):
                await routine(lab.instance(driver), transaction.object, filter_)
            await thread.join()

        return run(script).code

    assert program(1) == code
    assert program(2) == "txn-double-complete"


def test_who_is_not_enlisted_completes_nothing() -> None:
    async def script(lab: Lab) -> Any:
        driver = await Enlists(lab).load()
        instance, transaction = lab.instance(driver), lab.app.transaction()
        return {await routine(instance, transaction.object, None) for routine in COMPLETES.values()} | {
            await FltRollbackEnlistment(instance, transaction.object, None)
        }

    assert run(script).result == {STATUS_NOT_FOUND}


@pytest.mark.rule("FLT-TXN-01")
@pytest.mark.parametrize("when", ["before", "meanwhile", "fails"])
def test_a_driver_rolls_back(when: str) -> None:
    async def script(lab: Lab) -> Any:
        fails: dict[int, int] | None = (
            {TRANSACTION_NOTIFY_PREPREPARE: STATUS_ACCESS_DENIED} if when == "fails" else None
        )
        filter_ = Enlists(lab, answers=fails)
        driver = await filter_.load()
        instance = lab.instance(driver)
        if when == "meanwhile":

            async def notified(FltObjects: FLT_RELATED_OBJECTS, TransactionContext: Any, NotificationMask: int) -> int:
                lab.note(PHASE_NAMES[NotificationMask])
                if NotificationMask == TRANSACTION_NOTIFY_PREPARE:
                    assert FltObjects.Transaction is not None
                    await FltRollbackEnlistment(FltObjects.Instance, FltObjects.Transaction, None)
                return OK

            driver.filter.registration.TransactionNotificationCallback = notified
        transaction = lab.app.transaction()
        await opened(lab, transaction)
        if when == "before":
            assert await FltRollbackEnlistment(instance, transaction.object, None) == OK
        return await transaction.commit()

    one = run(script)
    assert one.result == (STATUS_TRANSACTION_ALREADY_ABORTED if when == "before" else STATUS_TRANSACTION_ABORTED)
    assert (
        phases(one)
        == {
            "before": ["ROLLBACK"],
            "meanwhile": ["PREPREPARE", "PREPARE", "ROLLBACK"],
            "fails": ["PREPREPARE", "ROLLBACK"],
        }[when]
    )


def test_the_outcome_may_be_told_late() -> None:
    """A program goes on, and opens the file in its next transaction, before anybody hears of the end of this one."""

    async def script(lab: Lab) -> Any:
        filter_ = Enlists(lab, mask=TRANSACTION_NOTIFY_COMMIT)
        await filter_.load()
        for number in range(2):
            transaction = lab.app.transaction(f"transaction {number}")
            await opened(lab, transaction)
            await transaction.commit()

    runs = all_runs(script, bound=1, completion="inline")
    assert codes(runs) == {None}
    early, late = ("D.enlists", "COMMIT", "D.enlists", "COMMIT"), ("D.enlists", "D.enlists", "COMMIT", "COMMIT")
    assert {early, late} <= orders(runs)


@pytest.mark.rule("FLT-ORD-07")
def test_a_driver_is_not_unloaded_from_under_a_notification() -> None:
    async def script(lab: Lab) -> Any:
        driver = await Enlists(lab, mask=TRANSACTION_NOTIFY_COMMIT).load()
        transaction = lab.app.transaction()
        await opened(lab, transaction)
        await transaction.commit()
        await driver.unload()
        lab.note("unloaded")

    runs = all_runs(script, bound=2, completion="inline")
    assert codes(runs) == {None}
    assert {tuple(one.order) for one in runs} == {
        ("D.enlists", "COMMIT", "unloaded"), ("D.enlists", "unloaded"),
    }  # fmt: skip


def test_several_filters() -> None:
    async def script(lab: Lab) -> Any:
        await Enlists(lab, "A").load(UPPER)
        await Enlists(lab, "B").load(LOWER)
        transaction = lab.app.transaction()
        await opened(lab, transaction)
        return await transaction.commit()

    one = run(script)
    assert one.result == OK
    assert {f"{name}.{phase}" for name in "AB" for phase in OF_A_COMMIT} <= set(one.order)


@pytest.mark.parametrize("ends", ["commit", "rollback"])
@pytest.mark.parametrize("enlists", [True, False])
def test_what_belongs_to_a_transaction_goes_after_its_last_notification(ends: str, enlists: bool) -> None:
    async def script(lab: Lab) -> Any:
        await Enlists(lab).load()
        transaction = lab.app.transaction()
        if enlists:
            await opened(lab, transaction)

        async def gone() -> None:
            lab.note("gone")

        transaction.object.at_end.append(gone)
        return await getattr(transaction, ends)()

    one = run(script)
    assert one.result == OK
    assert one.order[-1] == "gone"
    assert phases(one) == ((OF_A_COMMIT if ends == "commit" else ["ROLLBACK"]) if enlists else [])


# The context of an enlistment.


@pytest.mark.rule("FLT-TXN-01", "FLT-CTX-23")
@pytest.mark.parametrize("ends", ["commit", "rollback", "detach"])
@pytest.mark.parametrize("mask", [EVERYTHING, TRANSACTION_NOTIFY_PREPARE])
def test_an_enlistment_keeps_its_context_until_it_is_over(ends: str, mask: int) -> None:
    async def script(lab: Lab) -> Any:
        filter_ = Enlists(lab, mask=mask)
        filter_.notes_cleanup = True
        driver = await filter_.load()
        transaction = lab.app.transaction()
        await opened(lab, transaction)
        lab.note("released")
        if ends == "detach":
            await driver.detach()
        else:
            await getattr(transaction, ends)()
        await lab.sleep(1)
        lab.note("over")
        await driver.unload()

    one = run(script)
    assert one.code is None
    told = {"commit": OF_A_COMMIT, "rollback": ["ROLLBACK"], "detach": []}[ends]
    if mask != EVERYTHING:
        told = [name for name in told if name == "PREPARE"]
    assert one.order == ["D.enlists", "released", *told, "cleanup", "over"]


@pytest.mark.rule("FLT-TXN-01")
def test_a_notification_is_given_the_context_of_its_enlistment() -> None:
    """Also when another one is linked to the transaction meanwhile."""

    async def script(lab: Lab) -> Any:
        filter_ = Enlists(lab, mask=TRANSACTION_NOTIFY_PREPARE)
        given: list[Any] = []

        async def notified(FltObjects: FLT_RELATED_OBJECTS, TransactionContext: Any, NotificationMask: int) -> int:
            status, linked = await FltGetTransactionContext(FltObjects.Instance, transaction.object)
            assert status == OK
            given.append((TransactionContext, linked))
            await FltReleaseContext(linked)
            return OK

        filter_.notified = notified  # type: ignore[method-assign]
        driver = await filter_.load()
        instance, transaction = lab.instance(driver), lab.app.transaction()
        first, second = await filter_.make(instance), await filter_.make(instance)
        keep = FLT_SET_CONTEXT_KEEP_IF_EXISTS
        assert (await FltSetTransactionContext(instance, transaction.object, keep, first, None))[0] == OK
        assert await FltEnlistInTransaction(instance, transaction.object, first, filter_.mask) == OK
        await FltDeleteContext(first)
        await FltReleaseContext(first)
        assert (await FltSetTransactionContext(instance, transaction.object, keep, second, None))[0] == OK
        await FltReleaseContext(second)
        await transaction.commit()
        await lab.sleep(1)
        # With the transaction what is linked to it has gone.
        left = await FltGetTransactionContext(instance, transaction.object)
        await driver.unload()
        return given == [(first, second)], left

    one = run(script)
    assert one.code is None
    assert one.result == (True, (STATUS_NOT_FOUND, None))


@pytest.mark.rule("FLT-CTX-22")
def test_a_context_goes_with_a_transaction_that_nobody_is_enlisted_in() -> None:
    async def script(lab: Lab) -> Any:
        filter_ = Enlists(lab)
        filter_.notes_cleanup = True
        driver = await filter_.load()
        instance, transaction = lab.instance(driver), lab.app.transaction()
        context = await filter_.make(instance)
        await FltSetTransactionContext(
            instance, transaction.object, FLT_SET_CONTEXT_KEEP_IF_EXISTS, context, None
        )  # fmt: skip
        await FltReleaseContext(context)
        lab.note("released")
        await transaction.rollback()
        await lab.sleep(1)
        lab.note("over")

    assert run(script).order == ["released", "cleanup", "over"]


@pytest.mark.rule("FLT-CTX-11", "FLT-CTX-12")
@pytest.mark.parametrize("what", ["released", "freed", "null", "foreign", "referenced"])
def test_the_reference_of_an_enlistment_is_not_the_drivers(what: str) -> None:
    async def script(lab: Lab) -> Any:
        filter_ = Enlists(lab)
        driver = await filter_.load()
        instance, transaction = lab.instance(driver), lab.app.transaction()
        context = await filter_.make(instance)
        if what in {"null", "foreign"}:
            given = None if what == "null" else object()
            return await FltEnlistInTransaction(instance, transaction.object, given, EVERYTHING)
        if what == "freed":
            await FltReleaseContext(context)
        status = await FltEnlistInTransaction(instance, transaction.object, context, EVERYTHING)
        if what == "referenced":
            await FltReferenceContext(context)
            await FltReleaseContext(context)
        await FltReleaseContext(context)
        if what == "released":
            await FltReleaseContext(context)
        await transaction.commit()
        return status

    one = run(script)
    assert one.code == {
        "released": "ctx-over-release",
        "freed": "ctx-use-after-release",
        "null": "ke.bad-pointer",
        "foreign": "ke.bad-pointer",
        "referenced": None,
    }[what]  # fmt: skip


@pytest.mark.rule("FLT-CTX-23", "FLT-CTX-24")
def test_the_context_is_cleaned_up_once_whoever_is_last() -> None:
    """The commit ends the enlistment, the detach ends it too, and the driver releases its own reference."""

    async def script(lab: Lab) -> Any:
        lab._decide(False)
        filter_ = Enlists(lab, mask=TRANSACTION_NOTIFY_COMMIT)
        filter_.notes_cleanup = True
        driver = await filter_.load()
        instance, transaction = lab.instance(driver), lab.app.transaction()
        context = await filter_.make(instance)
        assert await FltEnlistInTransaction(instance, transaction.object, context, filter_.mask) == OK
        lab._decide(True)

        async def commits() -> None:
            await transaction.commit()

        async def detaches() -> None:
            await driver.detach()

        async def releases() -> None:
            await FltReleaseContext(context)
            lab.note("released")

        await lab.together(commits(), detaches(), releases())
        await lab.sleep(1)

    runs = all_runs(script, bound=1, completion="inline")
    assert codes(runs) == {None}
    assert {one.order.count("cleanup") for one in runs} == {1}
    assert {tuple(what for what in one.order if what in {"cleanup", "released"}) for one in runs} == {
        ("cleanup", "released"), ("released", "cleanup"),
    }  # fmt: skip


@pytest.mark.rule("FLT-TXN-01", "FLT-CTX-22")
def test_an_enlistment_beside_a_detach_leaves_no_context() -> None:
    async def script(lab: Lab) -> Any:
        lab._decide(False)
        filter_ = Enlists(lab)
        filter_.notes_cleanup = True
        driver = await filter_.load()
        instance, transaction = lab.instance(driver), lab.app.transaction()
        context = await filter_.make(instance)
        await FltObjectReference(instance)
        lab._decide(True)

        async def enlists() -> int:
            status = await FltEnlistInTransaction(instance, transaction.object, context, EVERYTHING)
            await FltReleaseContext(context)
            await FltObjectDereference(instance)
            return status

        async def detaches() -> None:
            await driver.detach()

        status, _ = await lab.together(enlists(), detaches())
        lab._decide(False)
        await driver.unload()
        return status

    runs = all_runs(script, bound=2, completion="inline")
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {OK, STATUS_FLT_DELETING_OBJECT}
    assert {one.order.count("cleanup") for one in runs} == {1}


@pytest.mark.parametrize("what", ["context", "transaction", "instance"])
def test_what_must_not_be_null(what: str) -> None:
    async def script(lab: Lab) -> Any:
        filter_ = Enlists(lab)
        driver = await filter_.load()
        instance: Any = lab.instance(driver)
        transaction: Any = lab.app.transaction().object
        context = None if what == "context" else await filter_.make(instance)
        if what == "instance":
            instance = None
        elif what == "transaction":
            transaction = None
        await FltEnlistInTransaction(instance, transaction, context, EVERYTHING)

    assert run(script).code == "ke.bad-pointer"
