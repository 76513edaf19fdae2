"""Unloading drivers that are no minifilters (KE-UNLOAD).

What keeps such a driver loaded are the references to its device objects. When an unload has begun there are no new
ones; with the last of them a system thread calls DriverUnload, and when that returns the image is gone. Whoever is in
it by then, or comes into it later, runs code that is not there any more.
"""

from __future__ import annotations

from kemu.io.irp_messages import DriverUnload
from kemu.nt.bugcheck import DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS, BugCheck
from kemu.nt.dpc import flush_for
from kemu.nt.driver import DRIVER_OBJECT, in_driver
from kemu.nt.kthread import KThread, current_kthread
from kemu.nt.process import Process
from kemu.nt.status import NTSTATUS, STATUS_INVALID_DEVICE_REQUEST, STATUS_SUCCESS
from kemu.nt.system import System, report
from kemu.nt.systhread import SystemThreads
from kemu.runtime import BlockingOperation, Cell, Deliver, Join, Operation, Thread


class BeginUnload(Operation[NTSTATUS]):
    """From here on nobody gets a new reference to the driver (KE-UNLOAD-05)."""

    __slots__ = ("driver",)
    kind = "begin the unload of"

    def __init__(self, driver: DRIVER_OBJECT) -> None:
        self.driver = driver

    def perform(self, thread: Thread) -> NTSTATUS:
        driver = self.driver
        thread.write(driver.image)
        if driver.DriverUnload is None or driver.image.unload_pending or not driver.loaded:
            return STATUS_INVALID_DEVICE_REQUEST
        driver.image.unload_pending = True
        return STATUS_SUCCESS

    def target(self) -> Cell:
        return self.driver.image


class WaitUnreferenced(BlockingOperation[None]):
    """Wait until nothing keeps the driver loaded any more."""

    __slots__ = ("driver",)
    kind = "see the last reference dropped to"

    def __init__(self, driver: DRIVER_OBJECT) -> None:
        super().__init__(driver.image)
        self.driver = driver

    def available(self, thread: Thread) -> bool:
        return self.driver.image.references == 0

    def take(self, thread: Thread) -> None:
        thread.read(self.driver.image)
        thread.acquire_as_waiter(self.driver.image)


class EndUnload(Operation[None]):
    """The driver's image goes away."""

    __slots__ = ("driver",)
    kind = "discard the image of"

    def __init__(self, driver: DRIVER_OBJECT) -> None:
        self.driver = driver

    def perform(self, thread: Thread) -> None:
        driver = self.driver
        discard(driver, thread)
        thread.runtime.system.report_leftovers(driver.name, driver.actor)

    def target(self) -> Cell:
        return self.driver.image


def discard(driver: DRIVER_OBJECT, thread: Thread) -> None:
    """*driver* is not in memory any more, inside a step of *thread*'s (KE-UNLOAD-03)."""
    actor = driver.actor
    thread.write(driver.image)
    thread.write(actor.presence)
    driver.loaded = False
    # The driver's own threads are among what it leaves behind, which says more of them.
    system: System = thread.runtime.system
    own = system.get(SystemThreads).made
    for other in thread.runtime.threads:
        if other is thread or actor not in other.actors or other in own:
            continue
        # Its last step comes before this, or after it.
        thread.read(other)
        if other.alive:
            report(
                "ke.unload-running",
                f"{driver.name} was unloaded while {other.label} runs its code",
                BugCheck(DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS),
            )


async def unload_driver(system: System, driver: DRIVER_OBJECT, process: Process) -> NTSTATUS:
    """Ask *driver* to unload, and wait until it has (``sc stop``).

    STATUS_INVALID_DEVICE_REQUEST if it has no DriverUnload, or goes away already.
    """
    status = await BeginUnload(driver)
    if status != STATUS_SUCCESS:
        return status
    thread = system.runtime.spawn(f"unload:{driver.name}", _unload(driver))
    assert isinstance(thread, KThread)
    thread.process = process
    await Join(thread)
    return STATUS_SUCCESS


async def _unload(driver: DRIVER_OBJECT) -> None:
    current_kthread().unloading = driver.actor.driver
    await WaitUnreferenced(driver)
    await Deliver(driver.actor, DriverUnload)
    unload = driver.DriverUnload
    assert unload is not None
    await in_driver(driver.actor, "DriverUnload", unload, driver)
    await flush_for(driver.actor, driver.name)
    await EndUnload(driver)
