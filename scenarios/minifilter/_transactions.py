"""A minifilter that takes part in the transactions of programs; the drivers of several scenarios derive from it.

The first create in a transaction links a context to it and enlists, later ones find both; each counts the file that it
opens. When the transaction ends, the notification tells how many files it was about.
"""

from typing import Any

from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_CONTEXT_REGISTRATION,
    FLT_MAX_TRANSACTION_NOTIFICATIONS,
    FLT_OPERATION_REGISTRATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    FLT_SET_CONTEXT_KEEP_IF_EXISTS,
    FLT_TRANSACTION_CONTEXT,
    FLTFL_POST_OPERATION_DRAINING,
    PFLT_FILTER,
    FltAllocateContext,
    FltGetTransactionContext,
    FltRegisterFilter,
    FltReleaseContext,
    FltSetTransactionContext,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_FLT_CONTEXT_ALREADY_DEFINED, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    IRP_MJ_CREATE,
    LONG,
    NT_SUCCESS,
    Driver,
    NonPagedPool,
    Structure,
)


class TRANSACTION_CONTEXT(Structure):
    """What is known of one transaction."""

    Files: LONG


class Transactions(Driver):
    """Counts the files that are opened in each transaction."""

    structure: type[Structure] = TRANSACTION_CONTEXT
    notifications = FLT_MAX_TRANSACTION_NOTIFICATIONS

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None
        self.Counted = 0
        """How many creates have been counted, in whichever context."""
        self.Told: list[int] = []
        """What the notifications have found in theirs."""

    def contexts(self) -> list[FLT_CONTEXT_REGISTRATION]:
        """What the driver declares of contexts."""
        return [FLT_CONTEXT_REGISTRATION(FLT_TRANSACTION_CONTEXT, 0, None, self.structure, "Txnc")]

    def operations(self) -> list[FLT_OPERATION_REGISTRATION]:
        """The operations that it takes part in."""
        return [FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, self.PreCreate, self.PostCreate)]

    async def registered(self) -> int:
        """The filter is registered, and does not filter yet."""
        return STATUS_SUCCESS

    def registration(self) -> FLT_REGISTRATION:
        """What the driver registers."""
        return FLT_REGISTRATION(
            ContextRegistration=[*self.contexts(), FLT_CONTEXT_REGISTRATION()],
            OperationRegistration=[*self.operations(), FLT_OPERATION_REGISTRATION()],
            FilterUnloadCallback=self.Unload,
            TransactionNotificationCallback=self.TransactionNotification,
        )

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        status, self.Filter = await FltRegisterFilter(DriverObject, self.registration())
        if not NT_SUCCESS(status) or self.Filter is None:
            return status
        status = await self.registered()
        if NT_SUCCESS(status):
            status = await FltStartFiltering(self.Filter)
        if not NT_SUCCESS(status):
            await FltUnregisterFilter(self.Filter)
        return status

    async def Unload(self, Flags: int) -> int:
        assert self.Filter is not None
        await FltUnregisterFilter(self.Filter)
        return STATUS_SUCCESS

    async def PreCreate(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        return FLT_PREOP_SUCCESS_WITH_CALLBACK

    async def PostCreate(
        self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
    ) -> int:
        drained = Flags & FLTFL_POST_OPERATION_DRAINING
        if not drained and FltObjects.Transaction is not None and NT_SUCCESS(Data.IoStatus.Status):
            await self.opened(FltObjects)
        return FLT_POSTOP_FINISHED_PROCESSING

    async def opened(self, FltObjects: FLT_RELATED_OBJECTS) -> None:
        """A file was opened in a transaction."""
        raise NotImplementedError

    async def find_or_create(self, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        """The transaction's context with a reference, or None. Whoever sets it first wins, and others take that one."""
        assert FltObjects.Transaction is not None
        status, found = await FltGetTransactionContext(FltObjects.Instance, FltObjects.Transaction)
        if NT_SUCCESS(status):
            return found
        status, created = await FltAllocateContext(
            FltObjects.Filter, FLT_TRANSACTION_CONTEXT, self.structure, NonPagedPool
        )
        if not NT_SUCCESS(status) or created is None:
            return None
        self.initialise(created)
        status, winner = await FltSetTransactionContext(
            FltObjects.Instance, FltObjects.Transaction, FLT_SET_CONTEXT_KEEP_IF_EXISTS, created, True
        )
        if NT_SUCCESS(status):
            return created
        await FltReleaseContext(created)
        return winner if status == STATUS_FLT_CONTEXT_ALREADY_DEFINED else None

    def initialise(self, created: Any) -> None:
        """Give the fields of a new context their values."""
        created.Files.value = 0

    async def TransactionNotification(
        self, FltObjects: FLT_RELATED_OBJECTS, TransactionContext: Any, NotificationMask: int
    ) -> int:
        """A phase of the transaction has come."""
        self.Told.append(TransactionContext.Files.value)
        return STATUS_SUCCESS
