"""Whose thread code runs in (KE-CTX): previous mode, attached processes, the way into and out of a system call."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from kemu.nt.apc import takes
from kemu.nt.bugcheck import (
    APC_INDEX_MISMATCH,
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    INVALID_PROCESS_ATTACH_ATTEMPT,
    INVALID_PROCESS_DETACH_ATTEMPT,
    IRQL_GT_ZERO_AT_SYSTEM_SERVICE,
    BugCheck,
)
from kemu.nt.dispatcher import TAKES_NONE
from kemu.nt.kthread import APC_LEVEL, PASSIVE_LEVEL, KThread, current_kthread
from kemu.nt.process import KernelMode, Process, UserMode
from kemu.nt.psapi import PsGetCurrentProcess
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_ACCESS_VIOLATION, STATUS_INVALID_HANDLE
from kemu.nt.system import report

T = TypeVar("T")


@routine("wdm", "KPROCESSOR_MODE ExGetPreviousMode(VOID)")
def ExGetPreviousMode() -> int:
    """UserMode in a system call that a user program has made, otherwise KernelMode (KE-CTX-05). IRQL: any."""
    return current_kthread().previous_mode


@routine("wdm", "PKTHREAD KeGetCurrentThread(VOID)")
def KeGetCurrentThread() -> KThread:
    """The calling thread, a dispatcher object. IRQL: any."""
    return current_kthread()


IoGetCurrentProcess = PsGetCurrentProcess
"""What wdm.h calls the same: the process whose memory the thread sees, its own or the one that it is attached to."""


# Attaching.


class KAPC_STATE:
    """What KeStackAttachProcess returns and KeUnstackDetachProcess takes."""

    __slots__ = ("attached_to", "process", "thread")

    def __init__(self, thread: KThread, attached_to: Process) -> None:
        self.thread = thread
        self.attached_to = attached_to
        self.process = thread.process
        """The process before."""


def attach_stops(irql: int, *arguments: Any, **named: Any) -> tuple[BugCheck | None, BugCheck | None]:
    """What becomes of attaching at DISPATCH_LEVEL, where a DPC might run (KE-CTX-06)."""
    return BugCheck(INVALID_PROCESS_ATTACH_ATTEMPT, (0, 0, 0, int(current_kthread().in_dpc))), None


@routine(
    "ntifs",
    "VOID KeStackAttachProcess(_Inout_ PRKPROCESS PROCESS, _Out_ PRKAPC_STATE ApcState)",
    max_irql=APC_LEVEL,
    stops=attach_stops,
)
def KeStackAttachProcess(PROCESS: Process) -> KAPC_STATE:
    """Let the calling thread see the memory of *PROCESS*, and return the state to go back to (KE-CTX-06).

    IRQL: <= APC_LEVEL. Meanwhile the thread takes no APCs, so that I/O that it waits for does not complete.
    """
    thread = current_kthread()
    state = KAPC_STATE(thread, PROCESS)
    thread.attached = (*thread.attached, state)
    thread.process = PROCESS
    return state


@routine("ntifs", "VOID KeUnstackDetachProcess(_In_ PRKAPC_STATE ApcState)", max_irql=APC_LEVEL)
def KeUnstackDetachProcess(ApcState: KAPC_STATE) -> None:
    """Go back to the process before. IRQL: <= APC_LEVEL.

    Another state than that of the last KeStackAttachProcess: finding ``ke.attach-balance``, bug check 0x6.
    """
    thread = current_kthread()
    if not thread.attached or thread.attached[-1] is not ApcState:
        report(
            "ke.attach-balance",
            f"KeUnstackDetachProcess in {thread.label} with a state that is not the last KeStackAttachProcess's",
            BugCheck(INVALID_PROCESS_DETACH_ATTEMPT),
        )
    thread.attached = thread.attached[:-1]
    thread.process = ApcState.process


# Calls of Zw and Nt routines.


def check_zw(name: str, *, does_io: bool = False) -> None:
    """What is wrong with the caller's context for the Zw routine called *name* (KE-IRQL-12, KE-CTX-06)."""
    thread = current_kthread()
    if thread.irql != PASSIVE_LEVEL or (takes(thread) == TAKES_NONE and not thread.attached):
        why = f"at IRQL {thread.irql}" if thread.irql else "with special kernel APCs disabled"
        report(
            "ke.zw-apc",
            f"{name} was called {why}; its I/O is completed by an APC, which then never comes",
            verifier=BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0xE6, 0, thread.irql)),
        )
    if does_io and thread.attached:
        report("ke.attached-io", f"{name} was called in {thread.label} while it is attached to another process")


@contextmanager
def called_by_the_kernel() -> Generator[None]:
    """The previous mode inside a Zw routine, which is KernelMode whoever calls it (KE-CTX-05)."""
    thread = current_kthread()
    before, thread.previous_mode = thread.previous_mode, KernelMode
    yield
    thread.previous_mode = before


def probe(name: str, *, kernel_buffer: bool = False, kernel_handle: bool = False) -> NTSTATUS | None:
    """The status with which the Nt routine called *name* refuses a kernel's buffer or handle, or None (KE-CTX-05).

    Called from a driver in a thread whose previous mode is UserMode it takes them for a user program's: finding
    ``ke.previous-mode``.
    """
    if current_kthread().previous_mode == KernelMode or not (kernel_buffer or kernel_handle):
        return None
    status = STATUS_ACCESS_VIOLATION if kernel_buffer else STATUS_INVALID_HANDLE
    report("ke.previous-mode", f"{name} was called in UserMode with a pointer or handle of the kernel: {status}")
    return status


# System calls.


async def system_call(name: str, coroutine: Coroutine[Any, Any, T]) -> T:
    """Carry out *coroutine*, the kernel's part of a user program's system call, on the calling thread.

    Findings: ``ke.dirty-return`` for a thread that would go back to user mode at a raised IRQL, with APCs disabled,
    owning a mutex or attached to another process (KE-APC-07, KE-IRQL-10, KE-MUTEX-05). User APCs that are due are run.
    """
    thread = current_kthread()
    thread.previous_mode = UserMode
    result = await coroutine
    check_return(thread, name)
    if thread.apcs is not None:
        await thread.apcs.return_to_user_mode()
    thread.told_of_user_apc = False
    thread.previous_mode = KernelMode
    return result


def check_return(thread: KThread, name: str) -> None:
    """The findings of a thread that goes back to user mode."""
    stop: BugCheck | None = None
    how = ""
    if thread.irql != PASSIVE_LEVEL:
        how = f"at IRQL {thread.irql}"
        stop = BugCheck(IRQL_GT_ZERO_AT_SYSTEM_SERVICE, (0, thread.irql))
    elif thread.combined_apc_disable:
        owned = [lock.label for lock in thread.locks]
        how = f"owning {' and '.join(owned)}" if owned else "in a critical or guarded region"
        stop = BugCheck(APC_INDEX_MISMATCH, (0, 0, thread.combined_apc_disable, 0))
    elif thread.attached:
        how = "attached to another process"
        stop = BugCheck(INVALID_PROCESS_ATTACH_ATTEMPT)
    if stop is not None:
        report("ke.dirty-return", f"{name} in {thread.label} returns to user mode {how}", stop)
