"""Extra create parameters as minifilters allocate, attach, find and free them (FLT-IO-26, FLT-IO-27)."""

from __future__ import annotations

from kemu.fltmgr.callback_data import owned_frame
from kemu.fltmgr.objects import Filter
from kemu.fltmgr.structures import FLT_CALLBACK_DATA
from kemu.io.ecp import ECP_CONTEXT, ECP_LIST, CleanupCallback, Ecps
from kemu.io.request import IRP_OPERATION
from kemu.nt.kthread import APC_LEVEL, PASSIVE_LEVEL
from kemu.nt.routine import routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER,
    STATUS_INVALID_PARAMETER_2,
    STATUS_INVALID_PARAMETER_3,
    STATUS_NOT_FOUND,
    STATUS_SUCCESS,
)
from kemu.nt.system import current_system, report, resources_fail
from kemu.runtime import current_thread


@routine(
    "fltkernel",
    """NTSTATUS FltAllocateExtraCreateParameterList(_In_ PFLT_FILTER Filter,
       _In_ FSRTL_ALLOCATE_ECPLIST_FLAGS Flags, _Outptr_ PECP_LIST *EcpList)""",
    max_irql=APC_LEVEL,
)
async def FltAllocateExtraCreateParameterList(Filter: Filter, Flags: int) -> tuple[NTSTATUS, ECP_LIST | None]:
    """Allocate an empty list: status and list. STATUS_INSUFFICIENT_RESOURCES where low resources are explored.

    Finding ``ecp-leak`` unless it is freed, or attached to a create. IRQL: <= APC_LEVEL.
    """
    if resources_fail("FltAllocateExtraCreateParameterList"):
        return STATUS_INSUFFICIENT_RESOURCES, None
    ecps = ECP_LIST()
    current_system().get(Ecps).alive[ecps] = None
    return STATUS_SUCCESS, ecps


@routine(
    "fltkernel",
    """NTSTATUS FltAllocateExtraCreateParameter(_In_ PFLT_FILTER Filter, _In_ LPCGUID EcpType, _In_ ULONG SizeOfContext,
       _In_ FSRTL_ALLOCATE_ECP_FLAGS Flags,
       _In_opt_ PFSRTL_EXTRA_CREATE_PARAMETER_CLEANUP_CALLBACK CleanupCallback, _In_ ULONG PoolTag,
       _Outptr_ PVOID *EcpContext)""",
    max_irql=APC_LEVEL,
)
async def FltAllocateExtraCreateParameter(
    Filter: Filter,
    EcpType: object,
    SizeOfContext: int,
    Flags: int,
    CleanupCallback: CleanupCallback | None,
    PoolTag: str | int,
) -> tuple[NTSTATUS, ECP_CONTEXT | None]:
    """Allocate a parameter of type *EcpType*, a GUID as text: status and context, which takes any attributes.

    *CleanupCallback* is called when it is freed. STATUS_INSUFFICIENT_RESOURCES where low resources are explored.
    Finding ``ecp-leak`` unless it is freed, or inserted into a list. IRQL: <= APC_LEVEL.
    """
    if resources_fail("FltAllocateExtraCreateParameter"):
        return STATUS_INSUFFICIENT_RESOURCES, None
    context = ECP_CONTEXT(EcpType, SizeOfContext, CleanupCallback)
    current_system().get(Ecps).alive[context] = None
    return STATUS_SUCCESS, context


@routine(
    "fltkernel",
    """NTSTATUS FltInsertExtraCreateParameter(_In_ PFLT_FILTER Filter, _Inout_ PECP_LIST EcpList,
       _In_ PVOID EcpContext)""",
    max_irql=APC_LEVEL,
)
async def FltInsertExtraCreateParameter(Filter: Filter, EcpList: ECP_LIST, EcpContext: ECP_CONTEXT) -> NTSTATUS:
    """Put a parameter into a list, which frees it from then on.

    STATUS_INVALID_PARAMETER if there is one of that type, or *EcpContext* is in a list already. IRQL: <= APC_LEVEL.
    Findings: ``ecp-double-free``.
    """
    _check(EcpList.freed_by, "FltInsertExtraCreateParameter", EcpList.label)
    current_thread().write(EcpList)
    state = EcpContext.state
    if state["_list"] is not None or any(one.kind == EcpContext.kind for one in EcpList.contexts):
        return STATUS_INVALID_PARAMETER
    state["_list"] = EcpList
    EcpList.contexts.append(EcpContext)
    current_system().get(Ecps).alive.pop(EcpContext, None)
    return STATUS_SUCCESS


@routine(
    "fltkernel",
    """NTSTATUS FltFindExtraCreateParameter(_In_ PFLT_FILTER Filter, _In_ PECP_LIST EcpList, _In_ LPCGUID EcpType,
       _Outptr_opt_ PVOID *EcpContext, _Out_opt_ ULONG *EcpContextSize)""",
    max_irql=APC_LEVEL,
)
async def FltFindExtraCreateParameter(
    Filter: Filter, EcpList: ECP_LIST, EcpType: object
) -> tuple[NTSTATUS, ECP_CONTEXT | None, int]:
    """The parameter of type *EcpType*: status, context and its size. STATUS_NOT_FOUND if there is none.

    IRQL: <= APC_LEVEL.
    """
    _check(EcpList.freed_by, "FltFindExtraCreateParameter", EcpList.label)
    current_thread().read(EcpList)
    for one in EcpList.contexts:
        if one.kind == EcpType:
            return STATUS_SUCCESS, one, one.state["_size"]
    return STATUS_NOT_FOUND, None, 0


@routine(
    "fltkernel",
    """NTSTATUS FltGetEcpListFromCallbackData(_In_ PFLT_FILTER Filter, _In_ PFLT_CALLBACK_DATA CallbackData,
       _Outptr_ PECP_LIST *EcpList)""",
    max_irql=APC_LEVEL,
)
async def FltGetEcpListFromCallbackData(
    Filter: Filter, CallbackData: FLT_CALLBACK_DATA
) -> tuple[NTSTATUS, ECP_LIST | None]:
    """The list that travels with a create: status, and the list or None. STATUS_INVALID_PARAMETER for other operations.

    IRQL: <= APC_LEVEL.
    """
    frame = owned_frame(CallbackData)
    if not frame.operation.is_create or frame.operation.request.kind != IRP_OPERATION:
        return STATUS_INVALID_PARAMETER, None
    return STATUS_SUCCESS, current_system().get(Ecps).of.get(frame.operation.request.file)


@routine(
    "fltkernel",
    """NTSTATUS FltSetEcpListIntoCallbackData(_In_ PFLT_FILTER Filter, _In_ PFLT_CALLBACK_DATA CallbackData,
       _In_ PECP_LIST EcpList)""",
    max_irql=APC_LEVEL,
)
async def FltSetEcpListIntoCallbackData(Filter: Filter, CallbackData: FLT_CALLBACK_DATA, EcpList: ECP_LIST) -> NTSTATUS:
    """Attach a list to a create: the I/O manager frees it when the open is over, also if that is reparsed.

    STATUS_INVALID_PARAMETER_2 for other operations, STATUS_INVALID_PARAMETER_3 if there is a list (FLT-IO-27).
    IRQL: <= APC_LEVEL. Findings: ``ecp-double-free``.
    """
    _check(EcpList.freed_by, "FltSetEcpListIntoCallbackData", EcpList.label)
    frame = owned_frame(CallbackData)
    request = frame.operation.request
    if not frame.operation.is_create or request.kind != IRP_OPERATION:
        return STATUS_INVALID_PARAMETER_2
    registry = current_system().get(Ecps)
    if request.file in registry.of:
        return STATUS_INVALID_PARAMETER_3
    current_thread().write(EcpList)
    registry.of[request.file] = EcpList
    EcpList.owner_file = request.file
    registry.alive.pop(EcpList, None)
    return STATUS_SUCCESS


@routine(
    "fltkernel",
    """VOID FltFreeExtraCreateParameterList(_In_ PFLT_FILTER Filter, _In_ PECP_LIST EcpList)""",
    max_irql=APC_LEVEL,
)
async def FltFreeExtraCreateParameterList(Filter: Filter, EcpList: ECP_LIST) -> None:
    """Free a list and the parameters in it. IRQL: <= APC_LEVEL.

    Finding ``ecp-double-free`` for a list that is freed already, or attached to a create (FLT-IO-26).
    """
    _check(EcpList.freed_by, "FltFreeExtraCreateParameterList", EcpList.label)
    if EcpList.owner_file is not None:
        report("ecp-double-free", f"{current_thread().label} frees a {EcpList.label} that the I/O manager will free")
    current_thread().write(EcpList)
    await current_system().get(Ecps).free(EcpList, current_thread().label)


@routine(
    "fltkernel",
    "VOID FltFreeExtraCreateParameter(_In_ PFLT_FILTER Filter, _In_ PVOID EcpContext)",
    max_irql=APC_LEVEL,
)
async def FltFreeExtraCreateParameter(Filter: Filter, EcpContext: ECP_CONTEXT) -> None:
    """Free a parameter that is in no list. IRQL: <= APC_LEVEL. Findings: ``ecp-double-free``."""
    state = EcpContext.state
    _check(state["_freed_by"], "FltFreeExtraCreateParameter", EcpContext.label)
    if state["_list"] is not None:
        report("ecp-double-free", f"{current_thread().label} frees {EcpContext.label}, which its list will free")
    current_thread().write(EcpContext)
    await current_system().get(Ecps).free_context(EcpContext, current_thread().label)


@routine(
    "fltkernel",
    "VOID FltAcknowledgeEcp(_In_ PFLT_FILTER Filter, _In_ PVOID EcpContext)",
    max_irql=PASSIVE_LEVEL,
)
async def FltAcknowledgeEcp(Filter: Filter, EcpContext: ECP_CONTEXT) -> None:
    """Say that a parameter was used. IRQL: PASSIVE_LEVEL."""
    current_thread().write(EcpContext)
    EcpContext.state["_acknowledged"] = True


@routine(
    "fltkernel",
    "BOOLEAN FltIsEcpAcknowledged(_In_ PFLT_FILTER Filter, _In_ PVOID EcpContext)",
    max_irql=PASSIVE_LEVEL,
)
async def FltIsEcpAcknowledged(Filter: Filter, EcpContext: ECP_CONTEXT) -> bool:
    """Whether somebody has used a parameter. IRQL: PASSIVE_LEVEL."""
    current_thread().read(EcpContext)
    return EcpContext.state["_acknowledged"]


@routine(
    "fltkernel",
    "BOOLEAN FltIsEcpFromUserMode(_In_ PFLT_FILTER Filter, _In_ PVOID EcpContext)",
    max_irql=PASSIVE_LEVEL,
)
async def FltIsEcpFromUserMode(Filter: Filter, EcpContext: ECP_CONTEXT) -> bool:
    """Whether a program has made a parameter: never here, because what there is was made by drivers.

    IRQL: PASSIVE_LEVEL.
    """
    return EcpContext.state["_from_user"]


def _check(freed_by: str, name: str, label: str) -> None:
    """Finding ``ecp-double-free`` for what was freed before."""
    if freed_by:
        report("ecp-double-free", f"{name} of a {label}, which {freed_by} has freed")
