"""The rules about filters and instances as they come and go: start, teardown, unload, references."""

from __future__ import annotations

from typing import Final

from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.objects import DRAINING, Filter, Instance, RundownObject
from kemu.fltmgr.observer import FltObserver
from kemu.io.constants import (
    IRP_MJ_ACQUIRE_FOR_CC_FLUSH,
    IRP_MJ_ACQUIRE_FOR_MOD_WRITE,
    IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_FLUSH_BUFFERS,
    IRP_MJ_RELEASE_FOR_CC_FLUSH,
    IRP_MJ_RELEASE_FOR_MOD_WRITE,
    IRP_MJ_RELEASE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_SHUTDOWN,
    IRP_MJ_WRITE,
)
from kemu.io.request import Request
from kemu.nt.allocation import Allocation
from kemu.nt.driver import current_driver
from kemu.nt.kthread import KThread, current_kthread
from kemu.nt.memory import Pool
from kemu.nt.system import System
from kemu.runtime.thread import current
from kemu.verifier.verifier import Verifier

SECOND_HALVES: Final = {
    IRP_MJ_CREATE: {IRP_MJ_CLEANUP, IRP_MJ_CLOSE},
    IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION: {IRP_MJ_RELEASE_FOR_SECTION_SYNCHRONIZATION},
    IRP_MJ_ACQUIRE_FOR_MOD_WRITE: {IRP_MJ_RELEASE_FOR_MOD_WRITE},
    IRP_MJ_ACQUIRE_FOR_CC_FLUSH: {IRP_MJ_RELEASE_FOR_CC_FLUSH},
}
"""What undoes an operation, and may come when the instance is gone (FLT-INST-32)."""

WRITES: Final = frozenset({IRP_MJ_WRITE, IRP_MJ_SET_INFORMATION, IRP_MJ_FLUSH_BUFFERS})
"""What a driver that saves its state sends."""

NOT_READY: Final = frozenset({"ke.uninitialised", "ke.bad-pointer", "ke.unhandled-exception"})
"""What using something that is not there yet comes to. Of the last two those that are about NULL."""

FREED: Final = frozenset({"ke.use-after-free", "ke.lookaside-uaf"})


class InstanceChecks(FltObserver):
    """Checks them where the filter manager says that something happened."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.report = system.report
        self.pairs: dict[Allocation, Instance] = {}
        """Memory that was allocated in a callback for the first half of a pair, by the instance. Asked in order."""
        findings = system.findings
        if isinstance(findings, Verifier):
            findings.causes.append(self.cause)

    def watch_pairs(self) -> None:
        """Take note of what is allocated from here on."""
        self.system.get(Pool).told = self.allocated

    # The reason behind a finding of the kernel's.

    def cause(self, code: str, detail: str) -> str:
        """What a finding with *code* is really about, if that is the life of a filter: another code."""
        thread = current.get(None)
        driver = current_driver() if isinstance(thread, KThread) else None
        if driver is None:
            return code
        filter_ = self.system.get(FilterManager).by_driver.get(driver.object)  # type: ignore[arg-type]
        if filter_ is None:
            return code
        here = current_kthread()
        label = here.label
        # DriverEntry and FilterUnload themselves are no callbacks that come while others run.
        in_callback = label != filter_.starter or here.setting_up
        in_unload = label == filter_.unloader and not filter_.deleting
        about_null = code == "ke.uninitialised" or "NoneType" in detail or "NULL" in detail
        freed_by_unload = f"freed by {filter_.unloader} at" in detail and not in_unload
        if code in NOT_READY and about_null and filter_.started and not filter_.entered and in_callback:
            code = "start-before-init"
        elif code in FREED and filter_.unloader and filter_.registered and freed_by_unload:
            code = "unload-free-before-unregister"
        elif code == "ke.data-race" and label in filter_.tearing:
            # The other access was made by another teardown if that is named beside this one.
            others = [other for other in filter_.tearing if other != label and f"{other} " in detail]
            if others:
                code = "teardown-reentrancy"
        return code

    # Start.

    def never_started(self, filter_: Filter, status: int) -> bool:
        """DriverEntry has returned after a start that failed; whether the driver has left the filter registered."""
        if filter_.start_failed and not filter_.started and filter_.registered:
            self.report("reg-leak-on-start-failure", f"{filter_.filter_name} failed to start and is still registered")
            return True
        return False

    # Teardown.

    def late_work(self, instance: Instance, what: str) -> None:
        if instance.state >= DRAINING:
            self.report("teardown-slow", f"{current_kthread().label} begins {what} for {instance.label}")

    def teardown_started(self, instance: Instance) -> None:
        label = current_kthread().label
        if label not in instance.filter.tearing:
            instance.filter.tearing.append(label)

    def teardown_complete_returned(self, instance: Instance) -> None:
        for allocation, owner in self.pairs.items():
            if owner is instance:
                allocation.stranded = f"for an operation whose second half {instance.label} will not see"

    def allocated(self, allocation: Allocation) -> None:
        """Memory was allocated: is it for the first half of a pair?"""
        driver = allocation.driver
        if driver is None or driver.object is None:
            return
        filter_ = self.system.get(FilterManager).by_driver.get(driver.object)
        if filter_ is None:
            return
        thread = current_kthread()
        # Only a driver that asks to see the second half can rely on it.
        registered = {one.MajorFunction for one in filter_.registration.OperationRegistration}
        for instance in filter_.instances:
            for frame in instance.outstanding:
                seconds = SECOND_HALVES.get(frame.operation.request.major)
                if thread in frame.inside and seconds is not None and not registered.isdisjoint(seconds):
                    self.pairs[allocation] = instance

    # Unload and references.

    def sent_by_unload(self, request: Request, thread: KThread) -> None:
        driver = current_driver()
        filter_ = self.system.get(FilterManager).by_driver.get(driver.object) if driver is not None else None  # type: ignore[arg-type]
        if filter_ is None or filter_.unload_flags is None or request.major not in WRITES:
            return
        registered = {one.MajorFunction for one in filter_.registration.OperationRegistration}
        if IRP_MJ_SHUTDOWN not in registered:
            self.report(
                "shutdown-in-unload",
                f"FilterUnload of {filter_.filter_name} sends {request.label}, and at a shutdown nothing does",
            )

    def dereferencing(self, object_: RundownObject, had_reference: bool) -> None:
        if had_reference:
            return
        if current_driver() in object_.refused:
            self.report(
                "ref-unchecked", f"FltObjectDereference of {object_.label}, for which FltObjectReference had failed"
            )
        self.report("ref-underflow", f"FltObjectDereference of {object_.label}, which nobody has referenced")
