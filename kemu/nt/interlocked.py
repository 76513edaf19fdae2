"""Interlocked operations, and the variables that they work on (KE-INTLK).

C's ``InterlockedIncrement(&Count)`` takes an address. So a variable that is used like that is an object here: a field
``Count: LONG`` of a structure, or ``self.Count = LONG(0)``. Its name stands for its address, and `Shared.value` is what
a plain read or a plain assignment reaches:

    if await InterlockedDecrement(item.Count) == 0: ...
    item.Count.value = 1

Each interlocked operation is a place where another thread may come in before, and takes one step. An addition whose
result nobody looks at commutes with others like it, and searches leave out the orders of those.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from kemu.nt.routine import routine
from kemu.nt.shared import LONG, LONG64, PVOID, Shared
from kemu.runtime import Cell, Operation, Thread
from kemu.runtime.discarded import result_is_discarded


class Atomic(Operation[Any]):
    """Base of what is done to a variable in one step that no other comes between."""

    __slots__ = ("shared",)

    def __init__(self, shared: Shared) -> None:
        self.shared = shared

    def target(self) -> Cell:
        return self.shared


class Change(Atomic):
    """Replace the value by another that is made from it; evaluates to the old one and the new one."""

    __slots__ = ("commutes", "make", "name")
    kind = "change"

    def __init__(self, shared: Shared, name: str, make: Callable[[Any], Any], *, commutes: bool = False) -> None:
        super().__init__(shared)
        self.name = name
        self.make = make
        self.commutes = commutes

    def perform(self, thread: Thread) -> tuple[Any, Any]:
        shared = self.shared
        shared.touch(self.name)
        if self.commutes:
            # Nobody sees how far the others have come, so that it acquires nothing.
            thread.update(shared)
            shared.atomic(thread)
            thread.release_to_waiter(shared)
        else:
            thread.write(shared)
            thread.acquire(shared)
            thread.acquire_as_waiter(shared)
            shared.atomic(thread)
            thread.release(shared)
        old = shared.current(self.name)
        new = shared.put(self.make(old))
        shared.changed_by(thread)
        attempts = thread.runtime.system.attempts
        if attempts is not None:
            attempts.counted(thread, shared, old, new)
        return old, new

    def describe(self) -> str:
        return f"{self.name} of {self.shared.label}"


class CompareExchange(Atomic):
    """Replace the value if it is what the caller expects; evaluates to the old one."""

    __slots__ = ("comparand", "name", "new")
    kind = "compare and exchange"

    def __init__(self, shared: Shared, name: str, new: Any, comparand: Any) -> None:
        super().__init__(shared)
        self.name = name
        self.new = new
        self.comparand = shared.wrapped(comparand)

    def perform(self, thread: Thread) -> Any:
        shared = self.shared
        shared.touch(self.name)
        old = shared.current(self.name)
        matches = old is self.comparand if shared.bits == 0 else old == self.comparand
        (thread.write if matches else thread.read)(shared)
        thread.acquire(shared)
        thread.acquire_as_waiter(shared)
        shared.atomic(thread)
        if matches:
            thread.release(shared)
            shared.check_aba(thread, self.name)
            shared.put(self.new)
            shared.changed_by(thread)
        else:
            shared.seen_by(thread)
        return old

    def describe(self) -> str:
        return f"{self.name} of {self.shared.label}"


class Read(Atomic):
    """Read the value; *acquires* if what was released before is ordered before what follows."""

    __slots__ = ("acquires", "name")
    kind = "read"

    def __init__(self, shared: Shared, name: str, *, acquires: bool) -> None:
        super().__init__(shared)
        self.name = name
        self.acquires = acquires

    def perform(self, thread: Thread) -> Any:
        shared = self.shared
        shared.touch(self.name)
        thread.read(shared)
        if self.acquires:
            thread.acquire(shared)
            thread.acquire_as_waiter(shared)
        shared.atomic(thread)
        shared.seen_by(thread)
        return shared.current(self.name)


class Write(Atomic):
    """Assign the value; *releases* if what came before is ordered before whoever acquires it."""

    __slots__ = ("name", "releases", "value")
    kind = "write"

    def __init__(self, shared: Shared, name: str, value: Any, *, releases: bool) -> None:
        super().__init__(shared)
        self.name = name
        self.value = value
        self.releases = releases

    def perform(self, thread: Thread) -> None:
        shared = self.shared
        shared.touch(self.name)
        thread.write(shared)
        shared.atomic(thread)
        if self.releases:
            thread.release(shared)
        shared.put(self.value)
        shared.changed_by(thread)


async def _add(shared: Shared, name: str, value: int) -> tuple[int, int]:
    # The frame that awaits the routine which awaits this.
    commutes = result_is_discarded(sys._getframe(2))  # pyright: ignore[reportPrivateUsage]
    return await Change(shared, name, lambda old: old + value, commutes=commutes)


def KeMemoryBarrier() -> None:
    """Order the caller's reads and writes around it (KE-INTLK-02). IRQL: any.

    Memory is sequentially consistent here, so that it has nothing to do, and of itself it orders no two threads.
    """


@routine("wdm", "LONG InterlockedIncrement(_Inout_ LONG volatile *Addend)")
async def InterlockedIncrement(Addend: LONG) -> int:
    """Add 1; the new value. IRQL: any (KE-INTLK-01)."""
    return (await _add(Addend, "InterlockedIncrement", 1))[1]


@routine("wdm", "LONG InterlockedDecrement(_Inout_ LONG volatile *Addend)")
async def InterlockedDecrement(Addend: LONG) -> int:
    """Subtract 1; the new value. IRQL: any (KE-INTLK-01)."""
    return (await _add(Addend, "InterlockedDecrement", -1))[1]


@routine("wdm", "LONG InterlockedAdd(_Inout_ LONG volatile *Addend, _In_ LONG Value)")
async def InterlockedAdd(Addend: LONG, Value: int) -> int:
    """Add *Value*; the new value. IRQL: any (KE-INTLK-01)."""
    return (await _add(Addend, "InterlockedAdd", Value))[1]


@routine("wdm", "LONG InterlockedExchangeAdd(_Inout_ LONG volatile *Addend, _In_ LONG Value)")
async def InterlockedExchangeAdd(Addend: LONG, Value: int) -> int:
    """Add *Value*; the old value. IRQL: any (KE-INTLK-01)."""
    return (await _add(Addend, "InterlockedExchangeAdd", Value))[0]


@routine("wdm", "LONG InterlockedExchange(_Inout_ LONG volatile *Target, _In_ LONG Value)")
async def InterlockedExchange(Target: LONG, Value: int) -> int:
    """Assign *Value*; the old value. IRQL: any (KE-INTLK-01)."""
    return (await Change(Target, "InterlockedExchange", lambda _: Value))[0]


@routine(
    "wdm",
    """LONG InterlockedCompareExchange(_Inout_ LONG volatile *Destination, _In_ LONG ExChange,
       _In_ LONG Comperand)""",
)
async def InterlockedCompareExchange(Destination: LONG, ExChange: int, Comperand: int) -> int:
    """Assign *ExChange* if the value is *Comperand*; the old value either way (KE-INTLK-04). IRQL: any."""
    return await CompareExchange(Destination, "InterlockedCompareExchange", ExChange, Comperand)


@routine("wdm", "LONG InterlockedAnd(_Inout_ LONG volatile *Destination, _In_ LONG Value)")
async def InterlockedAnd(Destination: LONG, Value: int) -> int:
    """Combine the value with *Value* bit by bit; the old value. IRQL: any (KE-INTLK-01)."""
    return (await Change(Destination, "InterlockedAnd", lambda old: old & Value))[0]


@routine("wdm", "LONG InterlockedOr(_Inout_ LONG volatile *Destination, _In_ LONG Value)")
async def InterlockedOr(Destination: LONG, Value: int) -> int:
    """Combine the value with *Value* bit by bit; the old value. IRQL: any (KE-INTLK-01)."""
    return (await Change(Destination, "InterlockedOr", lambda old: old | Value))[0]


@routine("wdm", "LONG InterlockedXor(_Inout_ LONG volatile *Destination, _In_ LONG Value)")
async def InterlockedXor(Destination: LONG, Value: int) -> int:
    """Combine the value with *Value* bit by bit; the old value. IRQL: any (KE-INTLK-01)."""
    return (await Change(Destination, "InterlockedXor", lambda old: old ^ Value))[0]


@routine("wdm", "LONG64 InterlockedIncrement64(_Inout_ LONG64 volatile *Addend)")
async def InterlockedIncrement64(Addend: LONG64) -> int:
    """Add 1; the new value. IRQL: any (KE-INTLK-01)."""
    return (await _add(Addend, "InterlockedIncrement64", 1))[1]


@routine("wdm", "LONG64 InterlockedDecrement64(_Inout_ LONG64 volatile *Addend)")
async def InterlockedDecrement64(Addend: LONG64) -> int:
    """Subtract 1; the new value. IRQL: any (KE-INTLK-01)."""
    return (await _add(Addend, "InterlockedDecrement64", -1))[1]


@routine("wdm", "LONG64 InterlockedAdd64(_Inout_ LONG64 volatile *Addend, _In_ LONG64 Value)")
async def InterlockedAdd64(Addend: LONG64, Value: int) -> int:
    """Add *Value*; the new value. IRQL: any (KE-INTLK-01)."""
    return (await _add(Addend, "InterlockedAdd64", Value))[1]


@routine("wdm", "LONG64 InterlockedExchangeAdd64(_Inout_ LONG64 volatile *Addend, _In_ LONG64 Value)")
async def InterlockedExchangeAdd64(Addend: LONG64, Value: int) -> int:
    """Add *Value*; the old value. IRQL: any (KE-INTLK-01)."""
    return (await _add(Addend, "InterlockedExchangeAdd64", Value))[0]


@routine("wdm", "LONG64 InterlockedExchange64(_Inout_ LONG64 volatile *Target, _In_ LONG64 Value)")
async def InterlockedExchange64(Target: LONG64, Value: int) -> int:
    """Assign *Value*; the old value. IRQL: any (KE-INTLK-01)."""
    return (await Change(Target, "InterlockedExchange64", lambda _: Value))[0]


@routine(
    "wdm",
    """LONG64 InterlockedCompareExchange64(_Inout_ LONG64 volatile *Destination, _In_ LONG64 ExChange,
       _In_ LONG64 Comperand)""",
)
async def InterlockedCompareExchange64(Destination: LONG64, ExChange: int, Comperand: int) -> int:
    """Assign *ExChange* if the value is *Comperand*; the old value either way (KE-INTLK-04). IRQL: any."""
    return await CompareExchange(Destination, "InterlockedCompareExchange64", ExChange, Comperand)


@routine("wdm", "LONG64 InterlockedAnd64(_Inout_ LONG64 volatile *Destination, _In_ LONG64 Value)")
async def InterlockedAnd64(Destination: LONG64, Value: int) -> int:
    """Combine the value with *Value* bit by bit; the old value. IRQL: any (KE-INTLK-01)."""
    return (await Change(Destination, "InterlockedAnd64", lambda old: old & Value))[0]


@routine("wdm", "LONG64 InterlockedOr64(_Inout_ LONG64 volatile *Destination, _In_ LONG64 Value)")
async def InterlockedOr64(Destination: LONG64, Value: int) -> int:
    """Combine the value with *Value* bit by bit; the old value. IRQL: any (KE-INTLK-01)."""
    return (await Change(Destination, "InterlockedOr64", lambda old: old | Value))[0]


@routine("wdm", "LONG64 InterlockedXor64(_Inout_ LONG64 volatile *Destination, _In_ LONG64 Value)")
async def InterlockedXor64(Destination: LONG64, Value: int) -> int:
    """Combine the value with *Value* bit by bit; the old value. IRQL: any (KE-INTLK-01)."""
    return (await Change(Destination, "InterlockedXor64", lambda old: old ^ Value))[0]


@routine("wdm", "PVOID InterlockedExchangePointer(_Inout_ PVOID volatile *Target, _In_opt_ PVOID Value)")
async def InterlockedExchangePointer(Target: PVOID, Value: Any) -> Any:
    """Assign *Value*; the old value. IRQL: any (KE-INTLK-01)."""
    return (await Change(Target, "InterlockedExchangePointer", lambda _: Value))[0]


@routine(
    "wdm",
    """PVOID InterlockedCompareExchangePointer(_Inout_ PVOID volatile *Destination, _In_opt_ PVOID ExChange,
       _In_opt_ PVOID Comperand)""",
)
async def InterlockedCompareExchangePointer(Destination: PVOID, ExChange: Any, Comperand: Any) -> Any:
    """Assign *ExChange* if the value is *Comperand*; the old value either way (KE-INTLK-04). IRQL: any.

    A pointer that is what the caller has seen, but was another one in between, is warning ``ke.aba``.
    """
    return await CompareExchange(Destination, "InterlockedCompareExchangePointer", ExChange, Comperand)


@routine("wdm", "LONG ReadAcquire(_In_ LONG const volatile *Source)")
async def ReadAcquire(Source: LONG) -> int:
    """Read the value, ordered behind whoever has released it. IRQL: any (KE-INTLK-01)."""
    return await Read(Source, "ReadAcquire", acquires=True)


@routine("wdm", "LONG ReadNoFence(_In_ LONG const volatile *Source)")
async def ReadNoFence(Source: LONG) -> int:
    """Read the value, which orders nothing. IRQL: any (KE-INTLK-01)."""
    return await Read(Source, "ReadNoFence", acquires=False)


@routine("wdm", "VOID WriteRelease(_Inout_ LONG volatile *Destination, _In_ LONG Value)")
async def WriteRelease(Destination: LONG, Value: int) -> None:
    """Assign *Value*, and order what came before ahead of whoever acquires it. IRQL: any (KE-INTLK-01)."""
    await Write(Destination, "WriteRelease", Value, releases=True)


@routine("wdm", "VOID WriteNoFence(_Inout_ LONG volatile *Destination, _In_ LONG Value)")
async def WriteNoFence(Destination: LONG, Value: int) -> None:
    """Assign *Value*, which orders nothing. IRQL: any (KE-INTLK-01)."""
    await Write(Destination, "WriteNoFence", Value, releases=False)


@routine("wdm", "LONG64 ReadAcquire64(_In_ LONG64 const volatile *Source)")
async def ReadAcquire64(Source: LONG64) -> int:
    """Read the value, ordered behind whoever has released it. IRQL: any (KE-INTLK-01)."""
    return await Read(Source, "ReadAcquire64", acquires=True)


@routine("wdm", "LONG64 ReadNoFence64(_In_ LONG64 const volatile *Source)")
async def ReadNoFence64(Source: LONG64) -> int:
    """Read the value, which orders nothing. IRQL: any (KE-INTLK-01)."""
    return await Read(Source, "ReadNoFence64", acquires=False)


@routine("wdm", "VOID WriteRelease64(_Inout_ LONG64 volatile *Destination, _In_ LONG64 Value)")
async def WriteRelease64(Destination: LONG64, Value: int) -> None:
    """Assign *Value*, and order what came before ahead of whoever acquires it. IRQL: any (KE-INTLK-01)."""
    await Write(Destination, "WriteRelease64", Value, releases=True)


@routine("wdm", "VOID WriteNoFence64(_Inout_ LONG64 volatile *Destination, _In_ LONG64 Value)")
async def WriteNoFence64(Destination: LONG64, Value: int) -> None:
    """Assign *Value*, which orders nothing. IRQL: any (KE-INTLK-01)."""
    await Write(Destination, "WriteNoFence64", Value, releases=False)


@routine("wdm", "PVOID ReadPointerAcquire(_In_ PVOID const volatile *Source)")
async def ReadPointerAcquire(Source: PVOID) -> Any:
    """Read the value, ordered behind whoever has released it. IRQL: any (KE-INTLK-01)."""
    return await Read(Source, "ReadPointerAcquire", acquires=True)


@routine("wdm", "PVOID ReadPointerNoFence(_In_ PVOID const volatile *Source)")
async def ReadPointerNoFence(Source: PVOID) -> Any:
    """Read the value, which orders nothing. IRQL: any (KE-INTLK-01)."""
    return await Read(Source, "ReadPointerNoFence", acquires=False)


@routine("wdm", "VOID WritePointerRelease(_Inout_ PVOID volatile *Destination, _In_ PVOID Value)")
async def WritePointerRelease(Destination: PVOID, Value: Any) -> None:
    """Assign *Value*, and order what came before ahead of whoever acquires it. IRQL: any (KE-INTLK-01)."""
    await Write(Destination, "WritePointerRelease", Value, releases=True)


@routine("wdm", "VOID WritePointerNoFence(_Inout_ PVOID volatile *Destination, _In_ PVOID Value)")
async def WritePointerNoFence(Destination: PVOID, Value: Any) -> None:
    """Assign *Value*, which orders nothing. IRQL: any (KE-INTLK-01)."""
    await Write(Destination, "WritePointerNoFence", Value, releases=False)
