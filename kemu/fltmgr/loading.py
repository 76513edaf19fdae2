"""Loading and unloading minifilters on another driver's request, and finding routines by their names."""

from __future__ import annotations

import sys
from typing import Any

from kemu.fltmgr.attaching import Name
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.unload import unload
from kemu.nt.driver import current_driver
from kemu.nt.kthread import PASSIVE_LEVEL, current_kthread
from kemu.nt.process import Process
from kemu.nt.routine import REGISTRY, bad_pointer, routine
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_DRIVER_FAILED_PRIOR_UNLOAD,
    STATUS_FAILED_DRIVER_ENTRY,
    STATUS_FLT_FILTER_NOT_FOUND,
    STATUS_IMAGE_ALREADY_LOADED,
    STATUS_OBJECT_NAME_NOT_FOUND,
)
from kemu.nt.strings import UNICODE_STRING
from kemu.nt.system import current_system, report
from kemu.runtime import Cell, Operation, Thread


class BeginLoad(Operation[NTSTATUS | None]):
    """A minifilter is about to be loaded; a status if it cannot be."""

    __slots__ = ("manager", "name")
    kind = "FltLoadFilter"

    def __init__(self, manager: FilterManager, name: str) -> None:
        self.manager = manager
        self.name = name

    def perform(self, thread: Thread) -> NTSTATUS | None:
        manager = self.manager
        thread.write(manager.presence)
        service = manager.services.get(self.name)
        if service is None or service.load is None:
            return STATUS_OBJECT_NAME_NOT_FOUND
        if self.name in manager.loading:
            return STATUS_IMAGE_ALREADY_LOADED
        for one in manager.by_driver.values():
            thread.read(one)
            if one.filter_name == self.name and one.driver_object.loaded:
                # Its image is there as long as an unload has not been carried through.
                return STATUS_IMAGE_ALREADY_LOADED if one.registered else STATUS_DRIVER_FAILED_PRIOR_UNLOAD
        manager.loading.append(self.name)
        return None

    def target(self) -> Cell:
        return self.manager.presence


@routine("fltkernel", "NTSTATUS FltLoadFilter(_In_ PCUNICODE_STRING FilterName)", max_irql=PASSIVE_LEVEL)
async def FltLoadFilter(FilterName: Name) -> NTSTATUS:
    """Load the minifilter of that service (`World.service`), on the calling thread (FLT-REG-24).

    STATUS_OBJECT_NAME_NOT_FOUND without such a service, STATUS_IMAGE_ALREADY_LOADED, STATUS_DRIVER_FAILED_PRIOR_UNLOAD
    if it has unregistered and is still in memory, STATUS_FAILED_DRIVER_ENTRY if its DriverEntry fails.
    IRQL: PASSIVE_LEVEL.
    """
    manager = current_system().get(FilterManager)
    name = str(FilterName)
    refused = await BeginLoad(manager, name)
    if refused is not None:
        return refused
    load = manager.services[name].load
    assert load is not None
    thread = current_kthread()
    # DriverEntry is called by the system: none of the caller's routines is below it.
    actors, thread.actors = thread.actors, []
    process, thread.process = thread.process, current_system().get(Process)
    status, _ = await load()
    thread.actors, thread.process = actors, process
    thread.write(manager.presence)
    manager.loading.remove(name)
    return status if NT_SUCCESS(status) else STATUS_FAILED_DRIVER_ENTRY


@routine("fltkernel", "NTSTATUS FltUnloadFilter(_In_ PCUNICODE_STRING FilterName)", max_irql=PASSIVE_LEVEL)
async def FltUnloadFilter(FilterName: Name) -> NTSTATUS:
    """Ask another driver's minifilter to unload, as ``fltmc unload`` does: it may refuse (FLT-UNLOAD-16).

    STATUS_FLT_FILTER_NOT_FOUND, STATUS_FLT_DELETING_OBJECT if an unload is going on. IRQL: PASSIVE_LEVEL.
    Finding: ``unload-self``.
    """
    manager = current_system().get(FilterManager)
    name = str(FilterName)
    found = await FindFilter(manager, name)
    if found is None:
        return STATUS_FLT_FILTER_NOT_FOUND
    driver = current_driver()
    if driver is found.driver:
        report("unload-self", f"{current_kthread().label} asks for the unload of {found.label}, whose code it runs")
    return await unload(manager, found)


class FindFilter(Operation[Any]):
    """Look a registered filter up by its name."""

    __slots__ = ("manager", "name")
    kind = "FltUnloadFilter"

    def __init__(self, manager: FilterManager, name: str) -> None:
        self.manager = manager
        self.name = name

    def perform(self, thread: Thread) -> Any:
        thread.read(self.manager.presence)
        return next((one for one in self.manager.filters if one.filter_name == self.name), None)

    def target(self) -> Cell:
        return self.manager.presence


def _exported(name: str, *, by_fltmgr: bool) -> Any:
    """The routine called *name*, as drivers call it, or None."""
    found = REGISTRY.get(name)
    if found is None or (found.header == "fltkernel") is not by_fltmgr:
        return None
    return getattr(sys.modules[found.function.__module__], name)


@routine("fltkernel", "PVOID FltGetRoutineAddress(_In_ PCSTR FltMgrRoutineName)", max_irql=PASSIVE_LEVEL)
def FltGetRoutineAddress(FltMgrRoutineName: str) -> Any:
    """The routine of the filter manager that has this name, or None. IRQL: PASSIVE_LEVEL."""
    return _exported(FltMgrRoutineName, by_fltmgr=True)


@routine("wdm", "PVOID MmGetSystemRoutineAddress(_In_ PUNICODE_STRING SystemRoutineName)", max_irql=PASSIVE_LEVEL)
def MmGetSystemRoutineAddress(SystemRoutineName: Name) -> Any:
    """The routine of the kernel or the HAL that has this name, or None; those of the filter manager are not there.

    IRQL: PASSIVE_LEVEL.
    """
    if not isinstance(SystemRoutineName, Name):  # pyright: ignore[reportUnnecessaryIsInstance]
        bad_pointer("MmGetSystemRoutineAddress", "SystemRoutineName", UNICODE_STRING, SystemRoutineName)
    return _exported(str(SystemRoutineName), by_fltmgr=False)
