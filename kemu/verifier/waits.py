"""Waits that never end, and why: what is known of the objects, and of the APCs of the threads that wait for them."""

from __future__ import annotations

from collections.abc import Iterable

from kemu.nt.apc import takes, why_not
from kemu.nt.dispatcher import TAKES_NONE, DispatcherObject, WaitForObject, WaitForObjects
from kemu.nt.event import KEVENT
from kemu.nt.kthread import APC_LEVEL, KThread
from kemu.nt.semaphore import KSEMAPHORE
from kemu.runtime import Thread
from kemu.verifier.finding import Finding
from kemu.verifier.verifier import Verifier


def waited_for(thread: Thread) -> tuple[DispatcherObject, ...]:
    """The dispatcher objects that *thread* waits for."""
    if isinstance(thread.op, WaitForObject):
        return (thread.op.object,)
    return thread.op.objects if isinstance(thread.op, WaitForObjects) else ()


def endless_wait(verifier: Verifier, threads: Iterable[Thread], detail: str) -> Finding | None:
    """The finding that the waits of *threads*, none of which can go on, amount to; None if nothing is known of them."""
    stuck = [thread for thread in threads if isinstance(thread, KThread)]
    for judge in (held_back_completion, reentered, preempted_owner, lost_signal):
        for thread in stuck:
            found = judge(verifier, thread, detail)
            if found is not None:
                return found
    return None


def held_back_completion(verifier: Verifier, thread: KThread, detail: str) -> Finding | None:
    """I/O of *thread* is complete, and the thread does not let the APC in that would tell it (KE-APC-13)."""
    if thread.apcs is not None and takes(thread) == TAKES_NONE:
        for apc in thread.apcs.items:
            if apc.completes_io:
                what = f"the {apc.label} is {why_not(thread)}: {detail}"
                return verifier.finding("ke.apc-io-deadlock", what, subject=thread.label)
    return None


def reentered(verifier: Verifier, thread: KThread, detail: str) -> Finding | None:
    """*thread* waits in an APC for what it took itself before the APC came (KE-APC-14)."""
    if thread.apcs is not None and thread.apcs.running:
        apc, _ = thread.apcs.running[-1]
        for one in waited_for(thread):
            if isinstance(one, KEVENT | KSEMAPHORE) and one.taken_by is thread:
                what = f"{apc.describe()} waits for {one.label}, which {thread.label} has taken: {detail}"
                code = "modwrite-apc-deadlock" if apc.releases_pages else "ke.apc-reentry"
                return verifier.finding(code, what, subject=thread.label)
    return None


def preempted_owner(verifier: Verifier, thread: KThread, detail: str) -> Finding | None:
    """*thread* waits in the release of the mapped page writer, and what it held before stops somebody (FLT-FAST-11)."""
    if thread.apcs is None or not thread.apcs.running:
        return None
    apc, locks = thread.apcs.running[-1]
    held = thread.locks[:locks]
    if not apc.releases_pages or not held or thread.irql > APC_LEVEL:
        return None
    what = f"{apc.describe()} waits while {thread.label}, which it interrupts, holds {held[-1].label}: {detail}"
    return verifier.finding("modwrite-apc-deadlock", what, subject=thread.label)


def lost_signal(verifier: Verifier, thread: KThread, detail: str) -> Finding | None:
    """*thread* waits for an event whose signal nobody has seen (KE-EVENT-05)."""
    for one in waited_for(thread):
        if isinstance(one, KEVENT) and one.lost:
            return verifier.finding("ke.lost-wakeup", f"{one.label}: {one.lost}: {detail}", subject=one.label)
    return None
