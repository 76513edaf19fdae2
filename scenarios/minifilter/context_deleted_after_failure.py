"""MF-38: an enlistment fails, and the context is deleted that another thread has found meanwhile.

Two creates in one transaction link its context, or find it, and enlist. The one whose enlistment fails takes the
context off the transaction again, so that nobody is left with a context that nobody is told with. But the other one may
have it by then, and enlist with it. The next create finds no context, links another one, and counts its file there:
nobody will ever ask for that, because the instance is enlisted already.
"""

from typing import Any

from _transactions import Transactions

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_RELATED_OBJECTS,
    FltDeleteContext,
    FltEnlistInTransaction,
    FltReleaseContext,
)
from kemu.wdk.ntstatus import STATUS_FLT_ALREADY_ENLISTED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    FAST_MUTEX,
    NT_SUCCESS,
    TRANSACTION_NOTIFY_COMMIT,
    Driver,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
    InterlockedIncrement,
)

PATH = r"\report.docx"


class DeletesWhatFailed(Transactions):
    """Deletes the context if its own enlistment has failed."""

    notifications = TRANSACTION_NOTIFY_COMMIT

    async def opened(self, FltObjects: FLT_RELATED_OBJECTS) -> None:
        context = await self.find_or_create(FltObjects)
        if context is not None:
            await self.enlist(FltObjects, context)
            await FltReleaseContext(context)

    async def enlist(self, FltObjects: FLT_RELATED_OBJECTS, context: Any) -> None:
        assert FltObjects.Transaction is not None
        status = await FltEnlistInTransaction(FltObjects.Instance, FltObjects.Transaction, context, self.notifications)
        if NT_SUCCESS(status) or status == STATUS_FLT_ALREADY_ENLISTED:
            self.Counted += 1
            await InterlockedIncrement(context.Files)
        else:
            await FltDeleteContext(context)


class OneAtATime(DeletesWhatFailed):
    """Has set and enlisted under one lock, so that nobody finds a context whose enlistment may fail yet."""

    def __init__(self) -> None:
        super().__init__()
        self.EnlistLock = FAST_MUTEX("EnlistLock")

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        ExInitializeFastMutex(self.EnlistLock)
        return await super().DriverEntry(DriverObject, RegistryPath)

    async def opened(self, FltObjects: FLT_RELATED_OBJECTS) -> None:
        await ExAcquireFastMutex(self.EnlistLock)
        await super().opened(FltObjects)
        await ExReleaseFastMutex(self.EnlistLock)


@scenario(
    variants={"buggy": DeletesWhatFailed, "fixed": OneAtATime},
    expects={"buggy": "invariant"},
    completion="inline",
    low_resources="once",
)
async def context_deleted_after_failure(world: World, driver: type[Driver]) -> None:
    """Two threads of a program open a file in one transaction, then a third; the system is short of memory once."""
    world.file(PATH)
    loaded = await world.load(driver, altitude="385100")
    filter_ = loaded.driver
    assert isinstance(filter_, Transactions)
    app = world.process("app")
    transaction = app.transaction()

    async def opener() -> None:
        await app.create(PATH, transaction=transaction)

    await world.together(opener(), opener(), process=app)
    await app.create(PATH, transaction=transaction)
    status = await transaction.commit()
    world.check(status == STATUS_SUCCESS, f"the transaction must be committed, but that returned {status}")

    def all_told() -> bool:
        return sum(filter_.Told) == filter_.Counted

    world.at_end(all_told, "all files that were counted must be told of at the commit")
