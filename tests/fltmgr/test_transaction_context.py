"""A context of a transaction: found by one thread, and deleted by another whose enlistment has failed (FLT-RACE-48).

The contexts here are the driver's own, counted as the filter manager counts its: one reference for the table that
leads to it and one for each thread that has got it.
"""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import MIDDLE, Lab, run, sample

from kemu.explore import BoundedDFS
from kemu.nt.transaction import KTRANSACTION
from kemu.wdk.fltkernel import (
    FLT_RELATED_OBJECTS,
    FltEnlistInTransaction,
)
from kemu.wdk.ntstatus import STATUS_FLT_ALREADY_ENLISTED, STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS
from kemu.wdk.wdm import (
    FAST_MUTEX,
    IRP_MJ_CREATE,
    LONG,
    NT_SUCCESS,
    POOL_FLAG_NON_PAGED,
    TRANSACTION_NOTIFY_COMMIT,
    ExAcquireFastMutex,
    ExAllocatePool2,
    ExFreePoolWithTag,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    InterlockedDecrement,
    InterlockedIncrement,
    Structure,
    sizeof,
)

TAG = "Txnc"
OK = STATUS_SUCCESS


class CONTEXT(Structure):
    References: LONG
    Files: LONG


class Recorder:
    """A filter that keeps a context for each transaction, as recorders of file changes do."""

    def __init__(self, lab: Lab, *, careful: bool) -> None:
        self.lab = lab
        self.careful = careful
        self.lock = FAST_MUTEX("Contexts")
        self.serial = FAST_MUTEX("Enlisting")
        self.linked: CONTEXT | None = None
        ExInitializeFastMutex(self.lock)
        ExInitializeFastMutex(self.serial)

    async def load(self) -> None:
        driver = await self.lab.filter(
            "R", MIDDLE, {IRP_MJ_CREATE: (self.lab.pre("R", 1), None)}, TransactionNotificationCallback=self.notified
        )
        self.instance = self.lab.instance(driver)

    async def release(self, context: CONTEXT) -> None:
        if await InterlockedDecrement(context.References) == 0:
            await ExFreePoolWithTag(context, TAG)

    async def get_or_create(self) -> CONTEXT | None:
        """The context that is linked, or a new one that is linked from now on, with a reference."""
        new: CONTEXT | None = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(CONTEXT), TAG)
        if new is None:
            return None
        new.References.value = 2
        await ExAcquireFastMutex(self.lock)
        found = self.linked
        if found is None:
            self.linked = new
        else:
            await InterlockedIncrement(found.References)
        await ExReleaseFastMutex(self.lock)
        if found is None:
            self.lab.note("set")
            return new
        await ExFreePoolWithTag(new, TAG)
        self.lab.note("got")
        return found

    async def delete(self, context: CONTEXT) -> None:
        await ExAcquireFastMutex(self.lock)
        linked, self.linked = self.linked, None
        await ExReleaseFastMutex(self.lock)
        if linked is not None:
            self.lab.note("deleted")
            await self.release(linked)

    async def take_part(self, transaction: KTRANSACTION) -> None:
        """What a create in the transaction does."""
        if self.careful:
            await ExAcquireFastMutex(self.serial)
        context = await self.get_or_create()
        if context is not None:
            await self.enlist(transaction, context)
        if self.careful:
            await ExReleaseFastMutex(self.serial)

    async def enlist(self, transaction: KTRANSACTION, context: CONTEXT) -> None:
        status = await FltEnlistInTransaction(self.instance, transaction, context, TRANSACTION_NOTIFY_COMMIT)
        if NT_SUCCESS(status):
            self.lab.note("enlisted")
        elif status != STATUS_FLT_ALREADY_ENLISTED:
            assert status == STATUS_INSUFFICIENT_RESOURCES
            self.lab.note("failed")
            await self.delete(context)
        await self.release(context)

    async def notified(self, FltObjects: FLT_RELATED_OBJECTS, TransactionContext: CONTEXT, Mask: int) -> int:
        self.lab.note("told")
        # The link keeps the context, if nobody else has deleted it.
        await InterlockedIncrement(TransactionContext.Files)
        await self.delete(TransactionContext)
        return OK


def program(careful: bool) -> Any:
    async def script(lab: Lab) -> None:
        recorder = Recorder(lab, careful=careful)
        await recorder.load()
        transaction = lab.app.transaction()

        async def opens() -> None:
            await recorder.take_part(transaction.object)

        async def opens_too() -> None:
            await recorder.take_part(transaction.object)

        await lab.together(opens(), opens_too())
        await transaction.commit()

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


@pytest.mark.rule("FLT-TXN-03", "FLT-RACE-48")
@pytest.mark.parametrize("careful", [True, False])
def test_an_enlistment_that_fails_after_another_thread_has_the_context(careful: bool) -> None:
    runs = all_of(careful)
    found = {one.code for one in runs}
    orders = {tuple(what for what in one.order if what != "told") for one in runs}
    # One after the other: the context is there, or it is gone and made anew.
    assert any(order[:3] == ("set", "enlisted", "got") for order in orders)
    assert ("set", "failed", "deleted", "set", "enlisted", "deleted") in orders
    if careful:
        assert found == {None}
        return
    assert found == {None, "ke.use-after-free"}
    # Set, got by the other, enlistment fails: the other one enlists after the deletion, and before it.
    assert any(order[:5] == ("set", "got", "failed", "deleted", "enlisted") for order in orders)
    assert any(
        order[:4] == ("set", "got", "enlisted", "failed") or order[:3] == ("set", "got", "enlisted") for order in orders
    )
    for one in runs:
        if one.code is not None:
            # It is told of a context that the failure has deleted.
            assert one.before("got", "deleted")
            assert one.before("deleted", "told")


def test_the_harmful_order_is_found_by_chance_too() -> None:
    assert "ke.use-after-free" in {one.code for one in sample(program(False), 400, low_resources="once")}
