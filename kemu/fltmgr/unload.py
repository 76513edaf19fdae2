"""Unloading minifilters on request (FLT-UNLOAD)."""

from __future__ import annotations

from kemu.fltmgr.constants import (
    FLTFL_FILTER_UNLOAD_MANDATORY,
    FLTFL_REGISTRATION_DO_NOT_SUPPORT_SERVICE_STOP,
)
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.messages import FilterUnload
from kemu.fltmgr.objects import Filter
from kemu.nt.driver import in_driver, status_of
from kemu.nt.kthread import current_kthread
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_FLT_DO_NOT_DETACH,
    STATUS_FLT_FILTER_NOT_FOUND,
    STATUS_SUCCESS,
)
from kemu.runtime import Deliver


async def unload(manager: FilterManager, filter_: Filter, *, mandatory: bool = False) -> NTSTATUS:
    """Ask a filter to unload, on the calling thread at PASSIVE_LEVEL.

    ``fltmc unload`` is not mandatory: the filter may refuse (FLT-UNLOAD-02). A service stop is, unless the filter
    registered that it does not support one (FLT-UNLOAD-03). Without a FilterUnloadCallback both fail
    (FLT-UNLOAD-04). STATUS_FLT_DELETING_OBJECT while another unload is going on, STATUS_FLT_FILTER_NOT_FOUND after it
    (FLT-UNLOAD-16).
    """
    registration = filter_.registration
    callback = registration.FilterUnloadCallback
    if callback is None:
        return STATUS_FLT_DO_NOT_DETACH
    if mandatory and registration.Flags & FLTFL_REGISTRATION_DO_NOT_SUPPORT_SERVICE_STOP:
        return STATUS_FLT_DO_NOT_DETACH
    thread = current_kthread()
    thread.read(filter_.driver.presence)
    if not filter_.driver_object.loaded:
        return STATUS_FLT_FILTER_NOT_FOUND
    thread.write(filter_)
    thread.acquire(filter_)
    if filter_.unload_flags is not None or filter_.deleting:
        return STATUS_FLT_DELETING_OBJECT
    filter_.unloader = thread.label
    filter_.unload_flags = flags = FLTFL_FILTER_UNLOAD_MANDATORY if mandatory else 0
    await Deliver(filter_.driver, FilterUnload, filter_)
    unloading, thread.unloading = thread.unloading, filter_.driver.driver
    returned = await in_driver(filter_.driver, "FilterUnload", callback, flags)
    thread.unloading = unloading
    status = status_of(filter_.driver, "FilterUnload", callback, returned)
    manager.observer.unload_returned(filter_, status, mandatory)
    if not NT_SUCCESS(status) and not mandatory:
        thread.write(filter_)
        filter_.unload_flags = None
        return status
    thread.write(filter_.driver.presence)
    filter_.driver_object.loaded = False
    return STATUS_SUCCESS
