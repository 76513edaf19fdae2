"""The routines that set, get and delete the contexts of each kind of object (FLT-CTX-08 to FLT-CTX-20).

The parameter *OldContext* says whether C passes the address of a variable (True) or NULL (None): it decides who gets
the old context's reference. What C would find in the variable follows the status.
"""

from __future__ import annotations

from typing import Any

from kemu.fltmgr.context_links import DeleteFrom, GetContext, SetContext, changed
from kemu.fltmgr.context_rules import the_context, too_high
from kemu.fltmgr.context_types import (
    FLT_FILE_CONTEXT,
    FLT_INSTANCE_CONTEXT,
    FLT_STREAM_CONTEXT,
    FLT_STREAMHANDLE_CONTEXT,
    FLT_TRANSACTION_CONTEXT,
    FLT_VOLUME_CONTEXT,
)
from kemu.fltmgr.objects import Filter, FltVolume, Instance
from kemu.io.request import FileObject
from kemu.nt.kthread import APC_LEVEL
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS
from kemu.nt.transaction import KTRANSACTION

# Volumes: one context for each filter.


@routine(
    "fltkernel",
    """NTSTATUS FltSetVolumeContext(_In_ PFLT_VOLUME Volume, _In_ FLT_SET_CONTEXT_OPERATION Operation,
       _In_ PFLT_CONTEXT NewContext, _Inout_opt_ PFLT_CONTEXT *OldContext)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltSetVolumeContext(
    Volume: FltVolume, Operation: int, NewContext: Any, OldContext: bool | None = None
) -> tuple[NTSTATUS, Any]:
    """Link *NewContext* to a volume, for the filter that has allocated it. As FltSetStreamContext otherwise.

    IRQL: <= APC_LEVEL.
    """
    name = "FltSetVolumeContext"
    context = the_context(NewContext, name, "NewContext")
    return await changed(
        SetContext(name, FLT_VOLUME_CONTEXT, context.filter, Volume, Operation, context, bool(OldContext))
    )


@routine(
    "fltkernel",
    """NTSTATUS FltGetVolumeContext(_In_ PFLT_FILTER Filter, _In_ PFLT_VOLUME Volume,
       _Outptr_ PFLT_CONTEXT *Context)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltGetVolumeContext(Filter: Filter, Volume: FltVolume) -> tuple[NTSTATUS, Any]:
    """The status and the context that *Filter* has linked to a volume, with a reference. As FltGetStreamContext.

    IRQL: <= APC_LEVEL.
    """
    return await GetContext("FltGetVolumeContext", FLT_VOLUME_CONTEXT, Filter, Volume)


@routine(
    "fltkernel",
    """NTSTATUS FltDeleteVolumeContext(_In_ PFLT_FILTER Filter, _In_ PFLT_VOLUME Volume,
       _Inout_opt_ PFLT_CONTEXT *OldContext)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltDeleteVolumeContext(
    Filter: Filter, Volume: FltVolume, OldContext: bool | None = None
) -> tuple[NTSTATUS, Any]:
    """Take the context of *Filter* off a volume. As FltDeleteStreamContext. IRQL: <= APC_LEVEL."""
    name = "FltDeleteVolumeContext"
    return await changed(DeleteFrom(name, FLT_VOLUME_CONTEXT, Filter, Volume, bool(OldContext)))


# An instance.


@routine(
    "fltkernel",
    """NTSTATUS FltSetInstanceContext(_In_ PFLT_INSTANCE Instance,
       _In_ FLT_SET_CONTEXT_OPERATION Operation, _In_ PFLT_CONTEXT NewContext,
       _Inout_opt_ PFLT_CONTEXT *OldContext)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltSetInstanceContext(
    Instance: Instance, Operation: int, NewContext: Any, OldContext: bool | None = None
) -> tuple[NTSTATUS, Any]:
    """Link *NewContext* to an instance, for one instance. As FltSetStreamContext otherwise. IRQL: <= APC_LEVEL."""
    name = "FltSetInstanceContext"
    context = the_context(NewContext, name, "NewContext")
    return await changed(
        SetContext(name, FLT_INSTANCE_CONTEXT, Instance, Instance, Operation, context, bool(OldContext))
    )


@routine(
    "fltkernel",
    """NTSTATUS FltGetInstanceContext(_In_ PFLT_INSTANCE Instance, _Outptr_ PFLT_CONTEXT *Context)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltGetInstanceContext(Instance: Instance) -> tuple[NTSTATUS, Any]:
    """The status and the context that is linked to an instance for one instance. As FltGetStreamContext.

    IRQL: <= APC_LEVEL.
    """
    return await GetContext("FltGetInstanceContext", FLT_INSTANCE_CONTEXT, Instance, Instance)


@routine(
    "fltkernel",
    """NTSTATUS FltDeleteInstanceContext(_In_ PFLT_INSTANCE Instance,
       _Inout_opt_ PFLT_CONTEXT *OldContext)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltDeleteInstanceContext(Instance: Instance, OldContext: bool | None = None) -> tuple[NTSTATUS, Any]:
    """Take the context of one instance off an instance. As FltDeleteStreamContext. IRQL: <= APC_LEVEL."""
    name = "FltDeleteInstanceContext"
    return await changed(DeleteFrom(name, FLT_INSTANCE_CONTEXT, Instance, Instance, bool(OldContext)))


# A file.


@routine(
    "fltkernel",
    """NTSTATUS FltSetFileContext(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _In_ FLT_SET_CONTEXT_OPERATION Operation, _In_ PFLT_CONTEXT NewContext,
       _Inout_opt_ PFLT_CONTEXT *OldContext)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltSetFileContext(
    Instance: Instance, FileObject: FileObject, Operation: int, NewContext: Any, OldContext: bool | None = None
) -> tuple[NTSTATUS, Any]:
    """Link *NewContext* to a file, for one instance. As FltSetStreamContext otherwise. IRQL: <= APC_LEVEL."""
    name = "FltSetFileContext"
    context = the_context(NewContext, name, "NewContext")
    return await changed(SetContext(name, FLT_FILE_CONTEXT, Instance, FileObject, Operation, context, bool(OldContext)))


@routine(
    "fltkernel",
    """NTSTATUS FltGetFileContext(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _Outptr_ PFLT_CONTEXT *Context)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltGetFileContext(Instance: Instance, FileObject: FileObject) -> tuple[NTSTATUS, Any]:
    """The status and the context that is linked to a file for one instance. As FltGetStreamContext.

    IRQL: <= APC_LEVEL.
    """
    return await GetContext("FltGetFileContext", FLT_FILE_CONTEXT, Instance, FileObject)


@routine(
    "fltkernel",
    """NTSTATUS FltDeleteFileContext(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _Inout_opt_ PFLT_CONTEXT *OldContext)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltDeleteFileContext(
    Instance: Instance, FileObject: FileObject, OldContext: bool | None = None
) -> tuple[NTSTATUS, Any]:
    """Take the context of one instance off a file. As FltDeleteStreamContext, in a teardown as well.

    IRQL: <= APC_LEVEL.
    """
    name = "FltDeleteFileContext"
    return await changed(DeleteFrom(name, FLT_FILE_CONTEXT, Instance, FileObject, bool(OldContext)))


# A stream of a file.


@routine(
    "fltkernel",
    """NTSTATUS FltSetStreamContext(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _In_ FLT_SET_CONTEXT_OPERATION Operation, _In_ PFLT_CONTEXT NewContext,
       _Inout_opt_ PFLT_CONTEXT *OldContext)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltSetStreamContext(
    Instance: Instance, FileObject: FileObject, Operation: int, NewContext: Any, OldContext: bool | None = None
) -> tuple[NTSTATUS, Any]:
    """Link *NewContext* to a stream of a file, for one instance. The link holds a reference of its own (FLT-CTX-08).

    If there is one already: with FLT_SET_CONTEXT_KEEP_IF_EXISTS, STATUS_FLT_CONTEXT_ALREADY_DEFINED and nothing
    changes; whoever asks for *OldContext* gets what is there with a reference (FLT-CTX-13). With
    FLT_SET_CONTEXT_REPLACE_IF_EXISTS the old one is unlinked; *OldContext* carries the reference of its link, which is
    dropped if nobody asks (FLT-CTX-14). The caller's reference on *NewContext* stays the caller's either way.
    STATUS_FLT_CONTEXT_ALREADY_LINKED if *NewContext* is linked somewhere (FLT-CTX-16), STATUS_FLT_DELETING_OBJECT while
    the instance is torn down, STATUS_INVALID_PARAMETER for a context of another kind or filter (FLT-CTX-17),
    STATUS_NOT_SUPPORTED for a file that cannot have one (FLT-CTX-27). IRQL: <= APC_LEVEL.
    Findings: ``ctx-unopened-fileobject``, ``ctx-in-precreate``, ``ctx-in-postclose``, ``ctx-on-failed-create``,
    ``ctx-lost-update``, ``ctx-use-after-release``, ``ctx-get-at-dispatch``.
    """
    name = "FltSetStreamContext"
    context = the_context(NewContext, name, "NewContext")
    return await changed(
        SetContext(name, FLT_STREAM_CONTEXT, Instance, FileObject, Operation, context, bool(OldContext))
    )


@routine(
    "fltkernel",
    """NTSTATUS FltGetStreamContext(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _Outptr_ PFLT_CONTEXT *Context)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltGetStreamContext(Instance: Instance, FileObject: FileObject) -> tuple[NTSTATUS, Any]:
    """The status and the context that is linked to a stream of a file for one instance, with a reference (FLT-CTX-10).

    STATUS_NOT_FOUND and None if there is none, STATUS_NOT_SUPPORTED for a file that cannot have one (FLT-CTX-34). Works
    while the instance is torn down, too (FLT-INST-37). IRQL: <= APC_LEVEL. Findings: ``ctx-in-precreate``,
    ``ctx-in-postclose``, ``ctx-get-at-dispatch``, ``ctx-unreferenced-pointer``.
    """
    return await GetContext("FltGetStreamContext", FLT_STREAM_CONTEXT, Instance, FileObject)


@routine(
    "fltkernel",
    """NTSTATUS FltDeleteStreamContext(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _Inout_opt_ PFLT_CONTEXT *OldContext)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltDeleteStreamContext(
    Instance: Instance, FileObject: FileObject, OldContext: bool | None = None
) -> tuple[NTSTATUS, Any]:
    """Take the context of one instance off a stream of a file (FLT-CTX-20); the status and, if asked for, that context.

    *OldContext* carries the reference of the link, which is dropped if nobody asks. STATUS_NOT_FOUND if there is none,
    STATUS_FLT_DELETING_OBJECT while the instance is torn down. IRQL: <= APC_LEVEL. Findings as FltGetStreamContext.
    """
    name = "FltDeleteStreamContext"
    return await changed(DeleteFrom(name, FLT_STREAM_CONTEXT, Instance, FileObject, bool(OldContext)))


# A file object.


@routine(
    "fltkernel",
    """NTSTATUS FltSetStreamHandleContext(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _In_ FLT_SET_CONTEXT_OPERATION Operation, _In_ PFLT_CONTEXT NewContext,
       _Inout_opt_ PFLT_CONTEXT *OldContext)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltSetStreamHandleContext(
    Instance: Instance, FileObject: FileObject, Operation: int, NewContext: Any, OldContext: bool | None = None
) -> tuple[NTSTATUS, Any]:
    """Link *NewContext* to a file object, for one instance. As FltSetStreamContext otherwise. IRQL: <= APC_LEVEL."""
    name = "FltSetStreamHandleContext"
    context = the_context(NewContext, name, "NewContext")
    return await changed(
        SetContext(name, FLT_STREAMHANDLE_CONTEXT, Instance, FileObject, Operation, context, bool(OldContext))
    )


@routine(
    "fltkernel",
    """NTSTATUS FltGetStreamHandleContext(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _Outptr_ PFLT_CONTEXT *Context)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltGetStreamHandleContext(Instance: Instance, FileObject: FileObject) -> tuple[NTSTATUS, Any]:
    """The status and the context that is linked to a file object for one instance. As FltGetStreamContext.

    IRQL: <= APC_LEVEL.
    """
    return await GetContext("FltGetStreamHandleContext", FLT_STREAMHANDLE_CONTEXT, Instance, FileObject)


@routine(
    "fltkernel",
    """NTSTATUS FltDeleteStreamHandleContext(_In_ PFLT_INSTANCE Instance, _In_ PFILE_OBJECT FileObject,
       _Inout_opt_ PFLT_CONTEXT *OldContext)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltDeleteStreamHandleContext(
    Instance: Instance, FileObject: FileObject, OldContext: bool | None = None
) -> tuple[NTSTATUS, Any]:
    """Take the context of one instance off a file object. As FltDeleteStreamContext. IRQL: <= APC_LEVEL."""
    name = "FltDeleteStreamHandleContext"
    return await changed(DeleteFrom(name, FLT_STREAMHANDLE_CONTEXT, Instance, FileObject, bool(OldContext)))


# A transaction.


@routine(
    "fltkernel",
    """NTSTATUS FltSetTransactionContext(_In_ PFLT_INSTANCE Instance, _In_ PKTRANSACTION Transaction,
       _In_ FLT_SET_CONTEXT_OPERATION Operation, _In_ PFLT_CONTEXT NewContext,
       _Inout_opt_ PFLT_CONTEXT *OldContext)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltSetTransactionContext(
    Instance: Instance, Transaction: KTRANSACTION, Operation: int, NewContext: Any, OldContext: bool | None = None
) -> tuple[NTSTATUS, Any]:
    """Link *NewContext* to a transaction, for one instance. As FltSetStreamContext otherwise. IRQL: <= APC_LEVEL."""
    name = "FltSetTransactionContext"
    context = the_context(NewContext, name, "NewContext")
    return await changed(
        SetContext(name, FLT_TRANSACTION_CONTEXT, Instance, Transaction, Operation, context, bool(OldContext))
    )


@routine(
    "fltkernel",
    """NTSTATUS FltGetTransactionContext(_In_ PFLT_INSTANCE Instance, _In_ PKTRANSACTION Transaction,
       _Outptr_ PFLT_CONTEXT *Context)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltGetTransactionContext(Instance: Instance, Transaction: KTRANSACTION) -> tuple[NTSTATUS, Any]:
    """The status and the context that is linked to a transaction for one instance. As FltGetStreamContext.

    IRQL: <= APC_LEVEL.
    """
    return await GetContext("FltGetTransactionContext", FLT_TRANSACTION_CONTEXT, Instance, Transaction)


@routine(
    "fltkernel",
    """NTSTATUS FltDeleteTransactionContext(_In_ PFLT_INSTANCE Instance, _In_ PKTRANSACTION Transaction,
       _Inout_opt_ PFLT_CONTEXT *OldContext)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=too_high,
)
async def FltDeleteTransactionContext(
    Instance: Instance, Transaction: KTRANSACTION, OldContext: bool | None = None
) -> tuple[NTSTATUS, Any]:
    """Take the context of one instance off a transaction. As FltDeleteStreamContext. IRQL: <= APC_LEVEL."""
    name = "FltDeleteTransactionContext"
    return await changed(DeleteFrom(name, FLT_TRANSACTION_CONTEXT, Instance, Transaction, bool(OldContext)))
