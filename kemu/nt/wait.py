"""Waiting for dispatcher objects, and for time to pass (KE-WAIT)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from kemu.nt.apc import takes
from kemu.nt.bugcheck import (
    ATTEMPTED_SWITCH_FROM_DPC,
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    IRQL_NOT_LESS_OR_EQUAL,
    BugCheck,
)
from kemu.nt.dispatcher import TAKES_ALL, Delay, DispatcherObject, Interruptions, WaitForObject, WaitForObjects
from kemu.nt.integer import integer
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, KThread, current_kthread
from kemu.nt.mutex import KMUTEX, check_recursion, note_status
from kemu.nt.onstack import is_on_stack
from kemu.nt.process import KernelMode, UserMode
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_USER_APC
from kemu.nt.system import current_system, refuse, report
from kemu.nt.waitstatus import returned
from kemu.runtime import Cell, current_thread

Executive: Final = 0
"""The usual wait reason."""
UserRequest: Final = 6

WaitAll: Final = 0
WaitAny: Final = 1

THREAD_WAIT_OBJECTS: Final = 3
"""How many objects a thread can wait for with the wait blocks that it has itself."""
MAXIMUM_WAIT_OBJECTS: Final = 64

CLOCK_TICK: Final = 156_250
"""How often the system looks whether a delay is over, in units of 100 ns: 64 times a second (KE-TIMER-12)."""


class KWAIT_BLOCK(Cell):
    """An array of wait blocks, for KeWaitForMultipleObjects of more than three objects."""

    __slots__ = ("count",)

    def __init__(self, count: int, label: str = "wait blocks") -> None:
        super().__init__(current_thread(), label)
        self.count = count


def checked_object(waited: DispatcherObject, where: str) -> DispatcherObject:
    """Return *waited* if it was initialised; finding ``ke.uninitialised`` otherwise (KE-WAIT-02)."""
    if not waited.is_initialised:
        report("ke.uninitialised", f"{where} on {waited.label}, which was not initialised")
    return waited


def checked_timeout(timeout: int | None, name: str) -> int | None:
    """Return *timeout* if it is a LARGE_INTEGER; anything else ends the run with a `UsageError`."""
    if timeout is None:
        return None
    units = "give 100 ns units as an int of 64 bits: negative from now, positive since 1601, 0 to poll, or None"
    return integer(timeout, f"{name} with a timeout of", 64, remedy=units)


def relative_timeout(timeout: int | None) -> int | None:
    """Turn a LARGE_INTEGER timeout into ticks from now (KE-WAIT-03): negative is relative, positive absolute."""
    if timeout is None or timeout == 0:
        return timeout
    if timeout < 0:
        return -timeout
    thread = current_thread()
    return max(timeout - thread.runtime.clock.read(thread), 0)


def wait_stops(irql: int, timeout: int | None) -> tuple[BugCheck | None, BugCheck | None]:
    """What becomes of a wait at *irql*, which is too high (KE-WAIT-04)."""
    thread = current_kthread()
    stop = BugCheck(ATTEMPTED_SWITCH_FROM_DPC) if thread.in_dpc else BugCheck(IRQL_NOT_LESS_OR_EQUAL, (0, irql))
    first = 0x121 if timeout is None else 0x122
    if irql > DISPATCH_LEVEL:
        first = 0x120
    return stop, BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (first, 0, irql))


def single_stops(
    irql: int,
    Object: DispatcherObject,
    WaitReason: int = Executive,
    WaitMode: int = KernelMode,
    Alertable: bool = False,
    Timeout: int | None = None,
) -> tuple[BugCheck | None, BugCheck | None]:
    """What becomes of KeWaitForSingleObject at *irql*, which is too high."""
    return wait_stops(irql, Timeout)


def multiple_stops(
    irql: int,
    Count: int,
    Object: Sequence[DispatcherObject],
    WaitType: int,
    WaitReason: int = Executive,
    WaitMode: int = KernelMode,
    Alertable: bool = False,
    Timeout: int | None = None,
    WaitBlockArray: KWAIT_BLOCK | None = None,
) -> tuple[BugCheck | None, BugCheck | None]:
    """What becomes of KeWaitForMultipleObjects at *irql*, which is too high."""
    return wait_stops(irql, Timeout)


def delay_stops(irql: int, WaitMode: int, Alertable: bool, Interval: int) -> tuple[BugCheck | None, BugCheck | None]:
    """What becomes of KeDelayExecutionThread at *irql*, which is too high."""
    return wait_stops(irql, Interval)


def wait_ceiling(
    Object: DispatcherObject,
    WaitReason: int = Executive,
    WaitMode: int = KernelMode,
    Alertable: bool = False,
    Timeout: int | None = None,
) -> int:
    """<= APC_LEVEL; <= DISPATCH_LEVEL with a zero timeout."""
    return DISPATCH_LEVEL if Timeout == 0 else APC_LEVEL


def waits_ceiling(
    Count: int,
    Object: Sequence[DispatcherObject],
    WaitType: int,
    WaitReason: int = Executive,
    WaitMode: int = KernelMode,
    Alertable: bool = False,
    Timeout: int | None = None,
    WaitBlockArray: KWAIT_BLOCK | None = None,
) -> int:
    """<= APC_LEVEL; <= DISPATCH_LEVEL with a zero timeout."""
    return DISPATCH_LEVEL if Timeout == 0 else APC_LEVEL


def polls(
    Object: DispatcherObject,
    WaitReason: int = Executive,
    WaitMode: int = KernelMode,
    Alertable: bool = False,
    Timeout: int | None = None,
) -> bool:
    """Whether such a wait only looks at the object, so that it may be made under a spin lock (KE-SPIN-08)."""
    return Timeout == 0


def polls_all(
    Count: int,
    Object: Sequence[DispatcherObject],
    WaitType: int,
    WaitReason: int = Executive,
    WaitMode: int = KernelMode,
    Alertable: bool = False,
    Timeout: int | None = None,
    WaitBlockArray: KWAIT_BLOCK | None = None,
) -> bool:
    """Likewise for a wait for several."""
    return Timeout == 0


@routine(
    "wdm",
    """NTSTATUS KeWaitForSingleObject(_In_ PVOID Object, _In_ KWAIT_REASON WaitReason, _In_ KPROCESSOR_MODE WaitMode,
       _In_ BOOLEAN Alertable, _In_opt_ PLARGE_INTEGER Timeout)""",
    max_irql=wait_ceiling,
    under_spin_lock=polls,
    stops=single_stops,
    waits=True,
)
async def KeWaitForSingleObject(
    Object: DispatcherObject,
    WaitReason: int = Executive,
    WaitMode: int = KernelMode,
    Alertable: bool = False,
    Timeout: int | None = None,
) -> NTSTATUS:
    """Wait until *Object* is signalled: STATUS_SUCCESS, or STATUS_TIMEOUT, which is a success code too (KE-WAIT-05).

    *Timeout* in units of 100 ns: None for ever, 0 polls, negative is relative, positive absolute (KE-WAIT-03). A wait
    that is *Alertable* or in UserMode may also end with STATUS_ALERTED or STATUS_USER_APC (KE-WAIT-06), one for a mutex
    whose owner has ended with STATUS_ABANDONED.
    IRQL: <= APC_LEVEL; <= DISPATCH_LEVEL if *Timeout* is 0 (KE-WAIT-04).
    """
    name = "KeWaitForSingleObject"
    checked_object(Object, name)
    checked_timeout(Timeout, name)
    thread = current_kthread()
    if thread.arbitrary and Timeout != 0:
        arbitrary_wait(thread, name)
    if thread.setting_up and Timeout != 0:
        setup_wait(thread, name)
    if WaitMode or Alertable or thread.apcs is not None:
        return await interruptible_wait(name, (Object,), False, WaitMode, Alertable, Timeout)
    if isinstance(Object, KMUTEX):
        check_recursion((Object,), thread, name)
        return note_status((Object,), returned(await WaitForObject(Object, relative_timeout(Timeout))))
    return returned(await WaitForObject(Object, relative_timeout(Timeout)))


@routine(
    "wdm",
    """NTSTATUS KeWaitForMultipleObjects(_In_ ULONG Count, _In_reads_(Count) PVOID Object[], _In_ WAIT_TYPE WaitType,
       _In_ KWAIT_REASON WaitReason, _In_ KPROCESSOR_MODE WaitMode, _In_ BOOLEAN Alertable,
       _In_opt_ PLARGE_INTEGER Timeout, _Inout_opt_ PKWAIT_BLOCK WaitBlockArray)""",
    max_irql=waits_ceiling,
    under_spin_lock=polls_all,
    stops=multiple_stops,
    waits=True,
)
async def KeWaitForMultipleObjects(
    Count: int,
    Object: Sequence[DispatcherObject],
    WaitType: int,
    WaitReason: int = Executive,
    WaitMode: int = KernelMode,
    Alertable: bool = False,
    Timeout: int | None = None,
    WaitBlockArray: KWAIT_BLOCK | None = None,
) -> NTSTATUS:
    """Wait for one of the first *Count* of *Object* (WaitAny), or until all are signalled together (WaitAll).

    WaitAny returns STATUS_WAIT_0 plus the index of the lowest one that is signalled (KE-WAIT-11), or
    STATUS_ABANDONED_WAIT_0 plus the index; WaitAll returns STATUS_SUCCESS and takes nothing before it takes all
    (KE-WAIT-12). Otherwise as KeWaitForSingleObject. More than THREAD_WAIT_OBJECTS need a *WaitBlockArray*, and more
    than MAXIMUM_WAIT_OBJECTS are too many in any case: finding ``ke.wait-objects``, bug check 0xC (KE-WAIT-10).
    IRQL: <= APC_LEVEL; <= DISPATCH_LEVEL if *Timeout* is 0 (KE-WAIT-04).
    """
    name = "KeWaitForMultipleObjects"
    objects = checked_objects(Count, Object, WaitBlockArray, name)
    if WaitType not in {WaitAll, WaitAny}:
        refuse(f"{name} with wait type {WaitType!r}", remedy="use WaitAll or WaitAny")
    checked_timeout(Timeout, name)
    thread = current_kthread()
    if thread.arbitrary and Timeout != 0:
        arbitrary_wait(thread, name)
    if thread.setting_up and Timeout != 0:
        setup_wait(thread, name)
    if WaitMode and WaitBlockArray is not None and is_on_stack(WaitBlockArray):
        stack_object(thread, name, WaitBlockArray)
    return await interruptible_wait(name, objects, WaitType == WaitAll, WaitMode, Alertable, Timeout)


@routine(
    "wdm",
    """NTSTATUS KeDelayExecutionThread(_In_ KPROCESSOR_MODE WaitMode, _In_ BOOLEAN Alertable,
       _In_ PLARGE_INTEGER Interval)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    stops=delay_stops,
    waits=True,
)
async def KeDelayExecutionThread(WaitMode: int, Alertable: bool, Interval: int) -> NTSTATUS:
    """Let at least *Interval* pass, as KeWaitForSingleObject counts it, up to the next tick of the clock (KE-WAIT-18).

    STATUS_SUCCESS, or STATUS_ALERTED or STATUS_USER_APC if it was interrupted. IRQL: <= APC_LEVEL.
    """
    name = "KeDelayExecutionThread"
    if checked_timeout(Interval, name) is None:
        refuse(f"{name} without an interval", remedy="give units of 100 ns: negative from now, positive since 1601")
    thread = current_kthread()
    if thread.arbitrary and Interval != 0:
        arbitrary_wait(thread, name)
    if thread.setting_up and Interval != 0:
        setup_wait(thread, name)
    return await interruptible_wait(name, (), False, WaitMode, Alertable, Interval)


def checked_objects(
    count: int, objects: Sequence[DispatcherObject], blocks: KWAIT_BLOCK | None, name: str
) -> tuple[DispatcherObject, ...]:
    """The objects of a wait for several, and the findings of the array that holds them."""
    integer(count, f"{name} with Count", 32)
    most = THREAD_WAIT_OBJECTS if blocks is None else min(MAXIMUM_WAIT_OBJECTS, blocks.count)
    if not 0 < count <= most:
        given = "no wait block array" if blocks is None else f"an array of {blocks.count} wait blocks"
        report("ke.wait-objects", f"{name} for {count} objects with {given}: from 1 to {most} are possible")
    array: Any = objects
    if not isinstance(array, list | tuple) or len(objects) < count:
        there = f"{len(objects)}" if isinstance(array, list | tuple) else f"a {type(array).__name__} instead"
        report("ke.bad-pointer", f"{name} was given {count} as Count, and {there} as Object")
    for one in objects[:count]:
        waited: Any = one
        if not isinstance(waited, DispatcherObject):
            what = "NULL" if waited is None else f"a {type(waited).__name__}"
            report("ke.bad-pointer", f"{name} was given {what} in Object, which takes dispatcher objects")
        check_storage(one, name)
        checked_object(one, name)
    return tuple(objects[:count])


def check_storage(object_: DispatcherObject, name: str) -> None:
    """Findings ``ke.use-after-free`` and ``ke.pageable-sync`` for an object whose storage is free, or paged."""
    system = current_system()
    if object_ in system.freed:
        report(system.code_of_freed(object_), f"{name} on {object_}, {system.freed[object_]}")
    if object_ in system.paged:
        report("ke.pageable-sync", f"{name} on {object_}, in {system.paged[object_]} in paged pool")


async def interruptible_wait(
    name: str,
    objects: tuple[DispatcherObject, ...],
    all_of_them: bool,
    mode: int,
    alertable: bool,
    timeout: int | None,
) -> NTSTATUS:
    """Wait for *objects* (none: for the time to pass), by whatever the wait may be interrupted."""
    thread = current_kthread()
    check_mode(thread, name, objects, mode, alertable, timeout)
    check_recursion(objects, thread, name)
    interruptions = None
    if mode or alertable or thread.apcs is not None:
        interruptions = Interruptions(thread, takes(thread), user_mode=mode != KernelMode, alertable=alertable)
    ticks = relative_timeout(timeout)
    if not objects and ticks:
        ticks = whole_ticks(thread, ticks)
    while True:
        if objects:
            wait = WaitForObjects(objects, all_of_them=all_of_them, timeout=ticks, interruptions=interruptions)
        else:
            assert ticks is not None
            wait = Delay(ticks, interruptions)
        status = await wait
        if status is not None:
            break
        assert thread.apcs is not None
        await thread.apcs.deliver()
        if ticks:
            # What an APC takes belongs to the time that the thread has to wait.
            ticks = max(wait.deadline - thread.runtime.clock.read(thread), 0)
    if thread.apcs is not None:
        await thread.apcs.deliver()
    if status == STATUS_USER_APC:
        if thread.told_of_user_apc:
            report(
                "ke.user-apc-loop",
                f"{name}: {thread.label} waits again after STATUS_USER_APC, which does not go away before it returns "
                "to user mode",
            )
        thread.told_of_user_apc = True
    return note_status(objects, returned(status))


def whole_ticks(thread: KThread, ticks: int) -> int:
    """*ticks* from now, up to the next time that the system's clock ticks."""
    now = thread.runtime.clock.read(thread)
    return -(-(now + ticks) // CLOCK_TICK) * CLOCK_TICK - now


def check_mode(
    thread: KThread,
    name: str,
    objects: tuple[DispatcherObject, ...],
    mode: int,
    alertable: bool,
    timeout: int | None,
) -> None:
    """What is wrong with the mode of a wait."""
    if mode not in {KernelMode, UserMode}:
        refuse(f"{name} with wait mode {mode!r}", remedy="use KernelMode or UserMode")
    if mode == KernelMode:
        if alertable:
            report("ke.wait-mode", f"{name}: {thread.label} waits in KernelMode and is alertable")
        return
    for one in objects:
        if isinstance(one, KMUTEX):
            report("ke.mutex-usermode", f"{name}: {thread.label} waits in UserMode for the mutex {one.label}")
        if is_on_stack(one):
            stack_object(thread, name, one)
    ends = timeout is not None or thread.process is None or thread.process.is_system
    if not ends and takes(thread) != TAKES_ALL:
        report(
            "ke.unkillable-wait",
            f"{name}: {thread.label} waits in UserMode, without a timeout and with APCs disabled: it cannot be ended",
        )


def stack_object(thread: KThread, name: str, object_: Cell) -> None:
    """Report a wait in UserMode with something on the stack, which may be paged out meanwhile (KE-WAIT-09)."""
    report("ke.stack-object-usermode", f"{name}: {thread.label} waits in UserMode with {object_.label} on its stack")


def arbitrary_wait(thread: KThread, name: str) -> None:
    """Report a wait in whatever thread happens to be current (KE-CTX-02)."""
    report("ke.arbitrary-wait", f"{name}: {thread.label} is made to wait by a routine that runs in an arbitrary thread")


def setup_wait(thread: KThread, name: str) -> None:
    """Report a wait in an InstanceSetup callback, which operations of the volume wait for (FLT-INST-06)."""
    report("setup-blocking", f"{name}: {thread.label} waits in an InstanceSetup callback, where its volume is held up")


KeWaitForMutexObject = KeWaitForSingleObject
"""What wdm.h calls the wait for a mutex."""
