"""Drivers: loading, running their routines, unloading.

A driver is a class derived from `Driver` with an ``async def DriverEntry``. Every routine of it runs inside
`in_driver`, which is the border between kemu and the driver: an exception that crosses it is a bug check, as an
unhandled exception in kernel mode is.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Final

from kemu.errors import KemuError, UsageError
from kemu.nt.bugcheck import (
    KMODE_EXCEPTION_NOT_HANDLED,
    SYSTEM_EXIT_OWNED_MUTEX,
    SYSTEM_SERVICE_EXCEPTION,
    SYSTEM_THREAD_EXCEPTION_NOT_HANDLED,
    UNEXPECTED_KERNEL_MODE_TRAP,
    BugCheck,
    BugCheckCode,
)
from kemu.nt.callout import CALLOUT, WORKER_ROUTINE, Callout, apcs_changed, irql_changed, kind_of
from kemu.nt.exception import StructuredException
from kemu.nt.kthread import DISPATCH_LEVEL, KThread, OwnerAware, current_kthread
from kemu.nt.routine import KernelObject
from kemu.nt.status import NTSTATUS, STATUS_ACCESS_VIOLATION, is_known
from kemu.nt.system import System, report
from kemu.runtime import Actor, Runtime, Thread, Waitable, current_thread
from kemu.runtime.core import foreign_call, is_library_file

IRP_MJ_MAXIMUM_FUNCTION: Final = 0x1B
"""The highest major function code that a driver has a dispatch routine for."""

DispatchRoutine = Callable[[Any, Any], Awaitable[int]]
"""``async def Dispatch(self, DeviceObject, Irp)``, which returns a status."""

DEEPEST: Final = 16
"""How many callbacks may be inside of each other before the kernel stack of a thread is full (KE-CTX-07; a choice of
kemu's: a stack has some pages, and a callback takes about a kilobyte)."""
CUSTOMER_BIT: Final = 0x20000000
"""Set in statuses that Microsoft has not defined."""


class Driver:
    """Base of all drivers. Subclasses have ``async def DriverEntry(self, DriverObject, RegistryPath)``."""

    name: str = ""
    """The name of the driver's service; the class's name unless given."""

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        """Register with the frameworks and return a status. IRQL: PASSIVE_LEVEL, in a system thread."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.name or type(self).__name__


class DriverActor(Actor):
    """The actor that a loaded driver is to everybody else."""

    kind = "driver"

    def __init__(self, runtime: Runtime, driver: Driver, kind: str = "flt") -> None:
        super().__init__(runtime, f"{kind}:{driver}")
        self.driver = driver
        self.object: DRIVER_OBJECT | None = None
        """What DriverEntry was given."""

    @property
    def is_minifilter(self) -> bool:
        """Whether the filter manager unloads it."""
        return self.object is not None and bool(self.object.altitude)

    @property
    def is_loaded(self) -> bool:
        """Whether the driver's code is in memory. Who asks reads `presence`; the unload writes it."""
        return self.object is None or self.object.loaded


class DriverImage(Waitable):
    """What keeps a driver in memory: how many references there are to its device objects (KE-UNLOAD-07)."""

    __slots__ = ("references", "unload_pending")

    guards = ("references",)

    def __init__(self, label: str) -> None:
        super().__init__(current_thread(), label)
        self.references = 0
        """Open files, attachments and requests of its devices."""
        self.unload_pending = False
        """Whether an unload has begun: from then on nobody gets a new reference (KE-UNLOAD-05)."""

    # In a step of the thread's.

    def reference(self, thread: Thread) -> None:
        """Keep the driver loaded. Whether an unload has begun is the caller's question."""
        thread.read(self)
        self.references += 1

    def dereference(self, thread: Thread) -> None:
        """The reverse. References commute until somebody waits for the last of them."""
        self.references -= 1
        thread.release_to_waiter(self)
        if self.unload_pending:
            thread.write(self)
            self.changed()
        else:
            thread.read(self)


class DRIVER_OBJECT(KernelObject):
    """What Windows hands to DriverEntry.

    A driver with devices fills `MajorFunction` and `DriverUnload` in; a minifilter leaves them alone.
    """

    __slots__ = (
        "DeviceObject",
        "DriverUnload",
        "MajorFunction",
        "actor",
        "altitude",
        "image",
        "loaded",
        "name",
    )

    def __init__(self, actor: DriverActor, name: str, altitude: str) -> None:
        self.actor = actor
        self.name = name
        self.altitude = altitude
        """The altitude of the default instance, from the service's registry key; empty if that names none."""
        self.loaded = True
        self.image = DriverImage(f"driver {name}")
        self.MajorFunction: list[DispatchRoutine | None] = [None] * (IRP_MJ_MAXIMUM_FUNCTION + 1)
        """The dispatch routines by major function code; None is completed with STATUS_INVALID_DEVICE_REQUEST."""
        self.DriverUnload: Callable[[Any], Awaitable[None]] | None = None
        self.DeviceObject: Any = None
        """The device object that was created last; the others follow by NextDevice."""

    def reference(self, thread: Thread) -> None:
        """Keep the driver loaded, inside the step of *thread*."""
        self.image.reference(thread)

    def dereference(self, thread: Thread) -> None:
        """The reverse."""
        self.image.dereference(thread)


def current_driver() -> DriverActor | None:
    """The driver in whose code the calling thread is."""
    for actor in reversed(current_thread().actors):
        if isinstance(actor, DriverActor):
            return actor
    return None


def site_of(error: BaseException) -> str:
    """The user's line that raised *error*, as ``file:line in function``, for a one-line report."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not is_library_file(frame.filename):
            return f"{frame.filename}:{frame.lineno} in {frame.name}"
    return "unknown place"


def routine_name(routine: Callable[..., Any]) -> str:
    """The name of a driver's routine, for findings; a callable object goes by its class's."""
    return getattr(routine, "__name__", type(routine).__name__)


def crashed(actor: DriverActor, routine: str, error: Exception) -> None:
    """Turn an exception that left a driver's routine into what it is on Windows. Does not return normally."""
    # Misuse of kemu is not the driver's behaviour: the user has to hear it as such. It is no exception any more from
    # here, because the code of another driver may be below this one on the stack and swallow it.
    misuse = error if isinstance(error, KemuError) else foreign_call(error) or _no_coroutine(actor, routine, error)
    if misuse is not None:
        current_thread().runtime.abort(misuse)
    if isinstance(error, RecursionError):
        detail = f"{routine} of {actor.driver} calls itself too deep at {site_of(error)}"
        report("ke.stack-overflow", detail, BugCheck(UNEXPECTED_KERNEL_MODE_TRAP, (8,)))
    if isinstance(error, TypeError | AttributeError) and "NoneType" in str(error):
        followed_null(current_kthread(), f"{routine} of {actor.driver}")
    code = error.ExceptionCode if isinstance(error, StructuredException) else STATUS_ACCESS_VIOLATION
    report(
        "ke.unhandled-exception",
        f"{routine} of {actor.driver} raised {type(error).__name__}: {error} at {site_of(error)}",
        BugCheck(_unhandled(current_kthread()), (int(code),)),
    )


def _no_coroutine(actor: DriverActor, routine: str, error: Exception) -> UsageError | None:
    """The mistake behind *error* if it is kemu's own await of what a routine has returned that failed."""
    trace = error.__traceback__
    if not isinstance(error, TypeError) or trace is None or trace.tb_next is not None or "await" not in str(error):
        return None
    return UsageError(
        f"{routine} of {actor.driver} is no coroutine function: {error}", remedy="declare it with async def"
    )


def followed_null(thread: KThread, name: str) -> None:
    """*thread* follows a NULL in *name*: it is told if a failed mapping is where that comes from (FLT-BUF-16)."""
    unmapped, thread.unmapped = thread.unmapped, None
    if unmapped is not None:
        report("mdl-map-null-unchecked", f"{name} uses an address for {unmapped}, where there was none to be had")


def _unhandled(thread: KThread) -> BugCheckCode:
    """Which bug check an exception is that nobody on *thread* handles."""
    if thread.irql >= DISPATCH_LEVEL:
        return KMODE_EXCEPTION_NOT_HANDLED
    if thread.process is not None and thread.process.is_system:
        return SYSTEM_THREAD_EXCEPTION_NOT_HANDLED
    return SYSTEM_SERVICE_EXCEPTION


async def in_driver(
    actor: DriverActor, name: str, routine: Callable[..., Awaitable[Any]], *arguments: Any, kind: Callout = CALLOUT
) -> Any:
    """Run *routine* of a driver, which is of that *kind*, on the calling thread and return its result.

    Findings: ``ke.unhandled-exception``, and ``callback-dirty-exit`` for a routine that returns at another IRQL,
    with another APC disable count or with a lock that it did not hold when it was called (FLT-PRE-27, KE-IRQL-10).
    """
    thread = current_kthread()
    irql, locks = thread.irql, len(thread.locks)
    apc = thread.kernel_apc_disable, thread.special_apc_disable
    arbitrary, thread.arbitrary = thread.arbitrary, kind.arbitrary
    setting_up, thread.setting_up = thread.setting_up, kind.must_not_wait
    if len(thread.actors) > DEEPEST:
        inside = " > ".join(one.label for one in thread.actors)
        detail = f"{name} of {actor.driver} is called {DEEPEST + 1} callbacks deep: {inside}"
        report("ke.stack-overflow", detail, BugCheck(UNEXPECTED_KERNEL_MODE_TRAP, (8,)))
    thread.actors.append(actor)
    try:
        result = await routine(*arguments)
    except Exception as error:
        crashed(actor, name, error)
        raise
    if (
        thread.irql != irql
        or len(thread.locks) != locks
        or (thread.kernel_apc_disable, thread.special_apc_disable) != apc
    ):
        left_dirty(f"{name} of {actor.driver}", irql, locks, combined(*apc), kind)
    thread.arbitrary = arbitrary
    thread.setting_up = setting_up
    thread.actors.pop()
    # An unload that comes before this finds the thread in the driver's code.
    thread.read(actor.presence)
    return result


def combined(kernel: int, special: int) -> int:
    """CombinedApcDisable of these two counts."""
    return (-special & 0xFFFF) << 16 | (-kernel & 0xFFFF)


def dirty_exit(actor: DriverActor, name: str, irql: int, locks: int, regions: tuple[int, int]) -> None:
    """Report how a callback called *name* left its thread, which was in so many critical and guarded *regions*."""
    left_dirty(f"{name} of {actor.driver}", irql, locks, combined(*regions), CALLOUT)


def left_dirty(what: str, irql: int, locks: int, disabled: int, kind: Callout) -> None:
    """Report how *what* left its thread, which it found at *irql* with so many *locks* and *disabled* APCs."""
    thread = current_kthread()
    kind = kind_of(kind, thread)
    now = thread.combined_apc_disable
    if len(thread.locks) > locks:
        how = f"holding {' and '.join(lock.label for lock in thread.locks[locks:])}"
    elif thread.announced is not None:
        how = f"after {thread.announced[0]} with Wait = TRUE, without the wait that this announces"
    elif thread.irql != irql:
        how = f"at IRQL {thread.irql} where it was called at {irql}"
    else:
        how = "with another lock held or in another critical or guarded region than it was called with"
    if thread.irql != irql:
        stop, verifier = irql_changed(kind, irql, thread.irql)
    elif kind is WORKER_ROUTINE and any(isinstance(lock, OwnerAware) for lock in thread.locks[locks:]):
        stop, verifier = BugCheck(SYSTEM_EXIT_OWNED_MUTEX), None
    elif now != disabled:
        stop, verifier = apcs_changed(kind, disabled, now)
    else:
        stop = verifier = None
    report("callback-dirty-exit", f"{what} returned {how}", stop, verifier=verifier)


def status_of(actor: DriverActor, name: str, routine: Callable[..., Any], value: object) -> NTSTATUS:
    """What *routine* of a driver returned, as a status; anything that is none ends the run with a `UsageError`.

    A value that ntstatus.h does not have is a status only with the customer bit set.
    """
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not -0x80000000 <= value <= 0xFFFFFFFF
        or not (is_known(NTSTATUS(value)) or value & CUSTOMER_BIT)
    ):
        code: Any = getattr(routine, "__code__", None)
        shown = f"0x{value:08X}" if isinstance(value, int) and not isinstance(value, bool) else repr(value)
        where = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
        current_thread().runtime.abort(
            UsageError(
                f"{name} of {actor.driver}{where} returned {shown}, which is no status",
                remedy="return an NTSTATUS, such as STATUS_SUCCESS, on every path",
            )
        )
    return NTSTATUS(value)


async def load_driver(system: System, driver: Driver, altitude: str | None) -> tuple[NTSTATUS, DRIVER_OBJECT]:
    """Run DriverEntry of *driver* on the calling thread, which must be a system thread at PASSIVE_LEVEL.

    A driver without an *altitude* is no minifilter.
    """
    actor = DriverActor(system.runtime, driver, "drv" if altitude is None else "flt")
    name = driver.name or type(driver).__name__
    actor.object = driver_object = DRIVER_OBJECT(actor, name, altitude or "")
    path = rf"\REGISTRY\MACHINE\SYSTEM\CurrentControlSet\Services\{name}"
    status = await in_driver(actor, "DriverEntry", driver.DriverEntry, driver_object, path)
    return status_of(actor, "DriverEntry", driver.DriverEntry, status), driver_object
