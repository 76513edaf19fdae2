"""What tests of locks share: the kinds of lock under one roof, and threads that nest them as they are told.

A thread's program is a list of blocks; a block is a list of locks, each in a mode, that are acquired one after the
other and released in the reverse order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fltmgr.kit import Lab, Run, Script, run

from kemu.explore import DPOR, BoundedDFS
from kemu.wdk.ntddk import KeEnterCriticalRegion, KeLeaveCriticalRegion
from kemu.wdk.wdm import (
    ERESOURCE,
    EX_PUSH_LOCK,
    EX_SPIN_LOCK,
    FAST_MUTEX,
    KGUARDED_MUTEX,
    KLOCK_QUEUE_HANDLE,
    KSPIN_LOCK,
    ExAcquireFastMutex,
    ExAcquirePushLockExclusive,
    ExAcquirePushLockShared,
    ExAcquireResourceExclusiveLite,
    ExAcquireResourceSharedLite,
    ExAcquireSharedStarveExclusive,
    ExAcquireSpinLockExclusive,
    ExAcquireSpinLockShared,
    ExInitializeFastMutex,
    ExInitializePushLock,
    ExInitializeResourceLite,
    ExReleaseFastMutex,
    ExReleasePushLockExclusive,
    ExReleasePushLockShared,
    ExReleaseResourceLite,
    ExReleaseSpinLockExclusive,
    ExReleaseSpinLockShared,
    IoAcquireCancelSpinLock,
    IoReleaseCancelSpinLock,
    KeAcquireGuardedMutex,
    KeAcquireInStackQueuedSpinLock,
    KeAcquireSpinLock,
    KeInitializeGuardedMutex,
    KeInitializeSpinLock,
    KeReleaseGuardedMutex,
    KeReleaseInStackQueuedSpinLock,
    KeReleaseSpinLock,
)

X = "exclusive"
S = "shared"
STARVING = "starving"

Acquire = Callable[[], Awaitable[Any]]
Release = Callable[[Any], Awaitable[None]]


@dataclass(frozen=True)
class Kind:
    """How a lock of one kind is acquired and released in each mode; a release gets what the acquisition returned."""

    pairs: dict[str, tuple[Acquire, Release]]


def spin(label: str) -> Kind:
    lock = KSPIN_LOCK(label)
    KeInitializeSpinLock(lock)
    return Kind({X: (lambda: KeAcquireSpinLock(lock), lambda irql: KeReleaseSpinLock(lock, irql))})


def queued(label: str) -> Kind:
    lock = KSPIN_LOCK(label)
    KeInitializeSpinLock(lock)

    async def acquire() -> KLOCK_QUEUE_HANDLE:
        handle = KLOCK_QUEUE_HANDLE()
        await KeAcquireInStackQueuedSpinLock(lock, handle)
        return handle

    return Kind({X: (acquire, KeReleaseInStackQueuedSpinLock)})


def reader_writer(label: str) -> Kind:
    lock = EX_SPIN_LOCK(label)
    return Kind(
        {
            X: (lambda: ExAcquireSpinLockExclusive(lock), lambda irql: ExReleaseSpinLockExclusive(lock, irql)),
            S: (lambda: ExAcquireSpinLockShared(lock), lambda irql: ExReleaseSpinLockShared(lock, irql)),
        }
    )


def cancel(label: str) -> Kind:
    return Kind({X: (IoAcquireCancelSpinLock, IoReleaseCancelSpinLock)})


def fast(label: str) -> Kind:
    mutex = FAST_MUTEX(label)
    ExInitializeFastMutex(mutex)
    return Kind({X: (lambda: ExAcquireFastMutex(mutex), lambda _: ExReleaseFastMutex(mutex))})


def guarded(label: str) -> Kind:
    mutex = KGUARDED_MUTEX(label)
    KeInitializeGuardedMutex(mutex)
    return Kind({X: (lambda: KeAcquireGuardedMutex(mutex), lambda _: KeReleaseGuardedMutex(mutex))})


def resource(label: str) -> Kind:
    made = ERESOURCE(label)
    ExInitializeResourceLite(made)

    def release(_: Any) -> Awaitable[None]:
        return ExReleaseResourceLite(made)

    return Kind(
        {
            X: (lambda: ExAcquireResourceExclusiveLite(made, True), release),
            S: (lambda: ExAcquireResourceSharedLite(made, True), release),
            STARVING: (lambda: ExAcquireSharedStarveExclusive(made, True), release),
        }
    )


def push(label: str) -> Kind:
    lock = EX_PUSH_LOCK(label)
    ExInitializePushLock(lock)
    return Kind(
        {
            X: (lambda: ExAcquirePushLockExclusive(lock), lambda _: ExReleasePushLockExclusive(lock)),
            S: (lambda: ExAcquirePushLockShared(lock), lambda _: ExReleasePushLockShared(lock)),
        }
    )


Maker = Callable[[str], Kind]
EXCLUSIVE: list[Maker] = [spin, queued, cancel, fast, guarded]
SHARED: list[Maker] = [reader_writer, resource, push]

Block = Sequence[tuple[str, str]]
Threads = Sequence[Sequence[Block]]


def nest(makers: dict[str, Maker], threads: Threads) -> Script:
    """A script whose threads take the locks, which are made by *makers*, as they are told."""

    async def script(lab: Lab) -> None:
        locks = {label: make(label) for label, make in makers.items()}

        async def thread(blocks: Sequence[Block]) -> None:
            KeEnterCriticalRegion()
            for block in blocks:
                held: list[tuple[Release, Any]] = []
                for label, mode in block:
                    acquire, release = locks[label].pairs[mode]
                    held.append((release, await acquire()))
                    lab.note(f"{label} {mode}")
                for release, old in reversed(held):
                    await release(old)
            KeLeaveCriticalRegion()

        await lab.together(*(thread(blocks) for blocks in threads))

    return script


def brute(script: Script, limit: int = 4_000) -> list[Run] | None:
    """Every run of *script*; None if there are more than *limit*."""
    search = BoundedDFS(None)
    runs: list[Run] = []
    while search.begin():
        one = run(script, search)
        search.end(one.outcome)
        runs.append(one)
        if len(runs) > limit:
            return None
    return runs


def reduced(script: Script) -> list[Run]:
    """One run of each class of *script*."""
    search = DPOR()
    runs: list[Run] = []
    while search.begin():
        one = run(script, search, observer=search)
        search.end(one.outcome)
        if one.outcome.end != "abandoned":
            runs.append(one)
    assert search.doubt in {"", "a run was cut short"}
    return runs
