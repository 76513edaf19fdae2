"""Registering, starting and unregistering minifilters (FLT-REG, FLT-UNLOAD)."""

from __future__ import annotations

from kemu.fltmgr.connection import check_listening, close_connections
from kemu.fltmgr.constants import (
    FLT_REGISTRATION_VERSION,
    FLTFL_FILTER_UNLOAD_MANDATORY,
    FLTFL_INSTANCE_TEARDOWN_FILTER_UNLOAD,
    FLTFL_INSTANCE_TEARDOWN_MANDATORY_FILTER_UNLOAD,
)
from kemu.fltmgr.context import declared_contexts
from kemu.fltmgr.context_end import Contexts, WaitContexts, unlink_all
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.name_provider import can_name
from kemu.fltmgr.objects import DropReference, Filter, RundownObject, TakeReference, WaitGone, WaitRundown
from kemu.fltmgr.objects import Filter as RegisteredFilter
from kemu.fltmgr.service import define
from kemu.fltmgr.structures import FLT_REGISTRATION
from kemu.fltmgr.teardown import BeginTeardown, teardown
from kemu.nt.driver import DRIVER_OBJECT
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL
from kemu.nt.routine import bad_pointer, routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_FLT_INVALID_CONTEXT_REGISTRATION,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_SUCCESS,
)
from kemu.nt.system import current_system, resources_fail
from kemu.runtime import Cell, Operation, Point, Thread, current_thread


@routine(
    "fltkernel",
    """NTSTATUS FltRegisterFilter(_In_ PDRIVER_OBJECT Driver, _In_ const FLT_REGISTRATION *Registration,
       _Outptr_ PFLT_FILTER *RetFilter)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def FltRegisterFilter(Driver: DRIVER_OBJECT, Registration: FLT_REGISTRATION) -> tuple[NTSTATUS, Filter | None]:
    """Register a minifilter; returns the status and the filter.

    STATUS_INVALID_PARAMETER for a bad version, or a name provider that cannot normalise (FLT-REG-23),
    STATUS_OBJECT_NAME_NOT_FOUND if the service key defines no altitude (FLT-REG-02),
    STATUS_FLT_INVALID_CONTEXT_REGISTRATION for contexts that cannot be declared together (FLT-CTX-02).
    IRQL: <= APC_LEVEL. Findings: ``reg-version``, ``reg-unterminated``,
    ``reg-illegal-major``, ``reg-shutdown-postop``, ``reg-duplicate-major``, ``reg-foreign``.
    """
    manager = current_system().get(FilterManager)
    manager.observer.registering(Driver, Registration)
    if Registration.Version >> 8 != FLT_REGISTRATION_VERSION >> 8:
        return STATUS_INVALID_PARAMETER, None
    if not can_name(Registration):
        return STATUS_INVALID_PARAMETER, None
    if not Driver.altitude:
        return STATUS_OBJECT_NAME_NOT_FOUND, None
    definitions = declared_contexts(Driver, Registration)
    if definitions is not None and not definitions.is_valid:
        return STATUS_FLT_INVALID_CONTEXT_REGISTRATION, None
    if resources_fail("FltRegisterFilter"):
        return STATUS_INSUFFICIENT_RESOURCES, None
    filter_ = Filter(Driver, Registration)
    filter_.context_definitions = definitions
    if definitions is not None and definitions.on_files:
        manager.keep_file_contexts()
    service = manager.services.get(Driver.name) or define(Driver.name, Driver.altitude)
    filter_.definitions = service.definitions
    current_thread().write(filter_)
    current_thread().write(manager.presence)
    manager.filters.append(filter_)
    manager.by_driver[Driver] = filter_
    log = current_thread().runtime.log
    if log is not None:
        log("flt.filter.register", flt=filter_.driver.label, alt=filter_.altitude)
    return STATUS_SUCCESS, filter_


@routine("fltkernel", "NTSTATUS FltStartFiltering(_In_ PFLT_FILTER Filter)", max_irql=APC_LEVEL, under_spin_lock=False)
async def FltStartFiltering(Filter: Filter) -> NTSTATUS:
    """Attach to the volumes there are and begin to filter.

    Callbacks may run before this returns (FLT-REG-17). STATUS_INVALID_PARAMETER the second time (FLT-REG-19).
    IRQL: <= APC_LEVEL.
    """
    manager = current_system().get(FilterManager)
    if Filter.started:
        return STATUS_INVALID_PARAMETER
    if resources_fail("FltStartFiltering"):
        Filter.start_failed = True
        return STATUS_INSUFFICIENT_RESOURCES
    Filter.started = True
    thread = current_thread()
    Filter.starter = thread.label
    thread.write(Filter)
    thread.release(Filter)
    thread.read(manager.presence)
    for volume in list(manager.volumes):
        await manager.attach_all(Filter, volume)
    # Operations may reach the callbacks before DriverEntry goes on (FLT-REG-17, FLT-RACE-35).
    await Point("return from FltStartFiltering", Filter)
    return STATUS_SUCCESS


class StopFiltering(Operation[None]):
    """Mark a filter as going away: nothing new is attached or queued from here on."""

    __slots__ = ("filter",)
    kind = "unregister"

    def __init__(self, filter_: Filter) -> None:
        self.filter = filter_

    def perform(self, thread: Thread) -> None:
        thread.write(self.filter)
        self.filter.deleting = True

    def target(self) -> Cell:
        return self.filter


@routine(
    "fltkernel",
    "VOID FltUnregisterFilter(_In_ PFLT_FILTER Filter)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    unchecked=("Filter",),
)
async def FltUnregisterFilter(Filter: Filter) -> None:
    """Tear down every instance and wait until nobody references the filter (FLT-UNLOAD-10, FLT-UNLOAD-11).

    Callbacks run until this returns. IRQL: <= APC_LEVEL. Findings: ``double-unregister``,
    ``unload-port-open``.
    """
    system = current_system()
    manager = system.get(FilterManager)
    if not isinstance(Filter, RegisteredFilter):  # pyright: ignore[reportUnnecessaryIsInstance]
        bad_pointer("FltUnregisterFilter", "Filter", RegisteredFilter, Filter)
    manager.observer.unregistering(Filter)
    check_listening(Filter)
    reason = FLTFL_INSTANCE_TEARDOWN_FILTER_UNLOAD
    if Filter.unload_flags == FLTFL_FILTER_UNLOAD_MANDATORY:
        reason = FLTFL_INSTANCE_TEARDOWN_MANDATORY_FILTER_UNLOAD
    await StopFiltering(Filter)
    while True:
        left = list(Filter.instances)
        while left:
            # Which of several goes first is nowhere said.
            first = system.runtime.choose(len(left), f"{Filter.label} takes down") if left[1:] else 0
            instance = left.pop(first)
            if await BeginTeardown(instance):
                await teardown(manager, instance, reason)
            else:
                await WaitGone(instance)
        # Ends also the attachments that had begun before; what they brought is taken down as well.
        await WaitRundown(Filter)
        if not Filter.instances:
            break
    # Not before the operations are over: a callback that waits for a service that hangs keeps the unload waiting.
    await close_connections(Filter)
    await unlink_all(system.get(Contexts), Filter)
    if Filter.contexts:
        await WaitContexts(Filter)
    Filter.registered = False
    thread = current_thread()
    thread.write(Filter)
    thread.write(manager.presence)
    manager.filters.remove(Filter)
    Filter.free(thread, f"which {thread.label} has unregistered")
    log = current_thread().runtime.log
    if log is not None:
        log("flt.filter.unload", flt=Filter.driver.label)


@routine("fltkernel", "NTSTATUS FltObjectReference(_Inout_ PVOID FltObject)", max_irql=DISPATCH_LEVEL)
async def FltObjectReference(FltObject: RundownObject) -> NTSTATUS:
    """Take a rundown reference on a filter, an instance or a volume (FLT-REF-01).

    STATUS_FLT_DELETING_OBJECT once its deletion has begun. IRQL: <= DISPATCH_LEVEL.
    """
    if await TakeReference(FltObject, current_thread().label):
        return STATUS_SUCCESS
    return STATUS_FLT_DELETING_OBJECT


@routine(
    "fltkernel",
    "VOID FltObjectDereference(_Inout_ PVOID FltObject)",
    max_irql=DISPATCH_LEVEL,
    unchecked=("FltObject",),
)
async def FltObjectDereference(FltObject: RundownObject) -> None:
    """Drop a rundown reference. IRQL: <= DISPATCH_LEVEL.

    Findings: ``ref-unchecked`` if FltObjectReference had failed (FLT-REF-06), ``ref-underflow`` (FLT-REF-03).
    """
    if not isinstance(FltObject, RundownObject):  # pyright: ignore[reportUnnecessaryIsInstance]
        bad_pointer("FltObjectDereference", "FltObject", RundownObject, FltObject)
    had_reference = await DropReference(FltObject)
    current_system().get(FilterManager).observer.dereferencing(FltObject, had_reference)
