"""Waiting for dispatcher objects (KE-WAIT)."""

from __future__ import annotations

from typing import Final

from kemu.nt.dispatcher import DispatcherObject, WaitForObject
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL
from kemu.nt.process import KernelMode
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS
from kemu.nt.system import report
from kemu.runtime import current_thread

Executive: Final = 0
"""The usual wait reason."""
UserRequest: Final = 6


def checked_object(waited: DispatcherObject, where: str) -> DispatcherObject:
    """Return *waited* if it was initialised; finding ``ke.uninitialised`` otherwise (KE-WAIT-02)."""
    if not waited.is_initialised:
        report("ke.uninitialised", f"{where} on {waited.label}, which was not initialised")
    return waited


def relative_timeout(timeout: int | None) -> int | None:
    """Turn a LARGE_INTEGER timeout into ticks from now (KE-WAIT-03): negative is relative, positive absolute."""
    if timeout is None or timeout == 0:
        return timeout
    if timeout < 0:
        return -timeout
    thread = current_thread()
    return max(timeout - thread.runtime.clock.read(thread), 0)


def wait_ceiling(
    Object: DispatcherObject,
    WaitReason: int = Executive,
    WaitMode: int = KernelMode,
    Alertable: bool = False,
    Timeout: int | None = None,
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


@routine(
    "wdm",
    """NTSTATUS KeWaitForSingleObject(_In_ PVOID Object, _In_ KWAIT_REASON WaitReason, _In_ KPROCESSOR_MODE WaitMode,
       _In_ BOOLEAN Alertable, _In_opt_ PLARGE_INTEGER Timeout)""",
    max_irql=wait_ceiling,
    under_spin_lock=polls,
)
async def KeWaitForSingleObject(
    Object: DispatcherObject,
    WaitReason: int = Executive,
    WaitMode: int = KernelMode,
    Alertable: bool = False,
    Timeout: int | None = None,
) -> NTSTATUS:
    """Wait until *Object* is signalled: STATUS_SUCCESS, or STATUS_TIMEOUT, which is a success code too (KE-WAIT-05).

    *Timeout* in units of 100 ns: None for ever, 0 polls, negative is relative, positive absolute (KE-WAIT-03).
    IRQL: <= APC_LEVEL; <= DISPATCH_LEVEL if *Timeout* is 0 (KE-WAIT-04).
    """
    checked_object(Object, "KeWaitForSingleObject")
    return await WaitForObject(Object, relative_timeout(Timeout))
