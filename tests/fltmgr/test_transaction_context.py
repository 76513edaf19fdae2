"""A context of a transaction: found by one thread, and deleted by another whose enlistment has failed (FLT-RACE-48).

The enlistment has a reference of its own, so that nobody is told with memory that is gone. What is lost is what is
counted in a second context, which the next create links where the first one was deleted: nobody is told with that one.
"""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.context_kit import TAG
from fltmgr.kit import MIDDLE, Lab, run, sample

from kemu.explore import BoundedDFS
from kemu.nt.transaction import KTRANSACTION
from kemu.wdk.fltkernel import (
    FLT_CONTEXT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    FLT_SET_CONTEXT_KEEP_IF_EXISTS,
    FLT_TRANSACTION_CONTEXT,
    FltAllocateContext,
    FltDeleteContext,
    FltEnlistInTransaction,
    FltGetTransactionContext,
    FltReleaseContext,
    FltSetTransactionContext,
)
from kemu.wdk.ntstatus import STATUS_FLT_ALREADY_ENLISTED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    FAST_MUTEX,
    IRP_MJ_CREATE,
    LONG,
    NT_SUCCESS,
    TRANSACTION_NOTIFY_COMMIT,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    InterlockedIncrement,
    NonPagedPool,
    Structure,
)

OK = STATUS_SUCCESS


class CONTEXT(Structure):
    Files: LONG


class Recorder:
    """A filter that counts the files of each transaction, as recorders of file changes do."""

    def __init__(self, lab: Lab, *, careful: bool) -> None:
        self.lab = lab
        self.careful = careful
        self.serial = FAST_MUTEX("Enlisting")
        self.counted = 0
        self.told: int | None = None
        ExInitializeFastMutex(self.serial)

    async def load(self) -> None:
        entry = FLT_CONTEXT_REGISTRATION(FLT_TRANSACTION_CONTEXT, 0, None, CONTEXT, TAG)
        driver = await self.lab.filter(
            "R", MIDDLE, {IRP_MJ_CREATE: (self.lab.pre("R", 1), None)},
            ContextRegistration=[entry, FLT_CONTEXT_REGISTRATION()], TransactionNotificationCallback=self.notified,
        )  # fmt: skip
        self.instance = self.lab.instance(driver)

    async def get_or_create(self, transaction: KTRANSACTION) -> CONTEXT | None:
        """The context that is linked, or a new one that is linked from now on, with a reference."""
        status, found = await FltGetTransactionContext(self.instance, transaction)
        if not NT_SUCCESS(status):
            status, new = await FltAllocateContext(self.instance.filter, FLT_TRANSACTION_CONTEXT, CONTEXT, NonPagedPool)
            if new is None:
                return None
            new.Files.value = 0
            status, found = await FltSetTransactionContext(
                self.instance, transaction, FLT_SET_CONTEXT_KEEP_IF_EXISTS, new, True
            )
            if NT_SUCCESS(status):
                self.lab.note("set")
                return new
            await FltReleaseContext(new)
        self.lab.note("got")
        return found

    async def take_part(self, transaction: KTRANSACTION) -> None:
        """What a create in the transaction does."""
        if self.careful:
            await ExAcquireFastMutex(self.serial)
        context = await self.get_or_create(transaction)
        if context is not None:
            await self.enlist(transaction, context)
            await FltReleaseContext(context)
        if self.careful:
            await ExReleaseFastMutex(self.serial)

    async def enlist(self, transaction: KTRANSACTION, context: CONTEXT) -> None:
        status = await FltEnlistInTransaction(self.instance, transaction, context, TRANSACTION_NOTIFY_COMMIT)
        if NT_SUCCESS(status) or status == STATUS_FLT_ALREADY_ENLISTED:
            self.lab.note("enlisted" if NT_SUCCESS(status) else "again")
            self.counted += 1
            await InterlockedIncrement(context.Files)
        else:
            self.lab.note("failed")
            await FltDeleteContext(context)
            self.lab.note("deleted")

    async def notified(self, FltObjects: FLT_RELATED_OBJECTS, TransactionContext: CONTEXT, Mask: int) -> int:
        self.told = TransactionContext.Files.value
        return OK


def program(careful: bool) -> Any:
    async def script(lab: Lab) -> tuple[int, int | None]:
        lab._decide(False)
        recorder = Recorder(lab, careful=careful)
        await recorder.load()
        transaction = lab.app.transaction()
        lab._decide(True)

        async def opens() -> None:
            await recorder.take_part(transaction.object)

        async def opens_too() -> None:
            await recorder.take_part(transaction.object)

        await lab.together(opens(), opens_too())
        lab._decide(False)
        await recorder.take_part(transaction.object)
        await transaction.commit()
        await lab.sleep(1)
        return recorder.counted, recorder.told

    return script


def all_of(careful: bool) -> list[Any]:
    """Every run with at most two preemptions."""
    search = BoundedDFS(2)
    runs: list[Any] = []
    while search.begin():
        one = run(program(careful), search, low_resources="once")
        search.end(one.outcome)
        runs.append(one)
    return runs


def loses(one: Any) -> bool:
    """Whether the notification has not heard of all that was counted."""
    counted, told = one.result
    return counted != told


@pytest.mark.rule("FLT-TXN-03", "FLT-RACE-48")
@pytest.mark.parametrize("careful", [True, False])
def test_an_enlistment_that_fails_after_another_thread_has_the_context(careful: bool) -> None:
    runs = all_of(careful)
    assert {one.code for one in runs} == {None}
    orders = {tuple(one.order) for one in runs}
    # One after the other: the context is there, or it is gone and made anew.
    assert ("set", "enlisted", "got", "again", "got", "again") in orders
    assert any(order[:5] == ("set", "failed", "deleted", "set", "enlisted") for order in orders)
    if careful:
        assert not any(map(loses, runs))
        return
    # Set, got by the other, enlistment fails: the other one enlists after the deletion, and before it.
    after = ("set", "got", "failed", "deleted", "enlisted", "set", "again")
    before = ("set", "failed", "got", "enlisted", "deleted", "set", "again")
    assert after in orders
    assert before in orders
    for one in runs:
        # The last create links another context, and the enlistment is there already: exactly then something is lost.
        assert loses(one) == (tuple(one.order) in {after, before}), one.order


def test_the_harmful_order_is_found_by_chance_too() -> None:
    assert any(map(loses, sample(program(False), 400, low_resources="once")))
