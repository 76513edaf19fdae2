"""What the routines of dispatcher objects, levels and contexts do about what a driver should not pass."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, run

from kemu.errors import UsageError
from kemu.nt.process import Process
from kemu.wdk.ntddk import KePulseEvent
from kemu.wdk.ntifs import KeStackAttachProcess, KeUnstackDetachProcess
from kemu.wdk.wdm import (
    KEVENT,
    KMUTEX,
    KSEMAPHORE,
    KSPIN_LOCK,
    Executive,
    KeInitializeEvent,
    KeInitializeMutex,
    KeInitializeSemaphore,
    KeLowerIrql,
    KeRaiseIrql,
    KeReadStateEvent,
    KeReadStateMutex,
    KeReadStateSemaphore,
    KeReleaseMutex,
    KeReleaseSemaphore,
    KernelMode,
    KeSetEvent,
    KeWaitForMultipleObjects,
    KeWaitForSingleObject,
    NotificationEvent,
    WaitAny,
)


def event() -> KEVENT:
    made = KEVENT("Object")
    KeInitializeEvent(made, NotificationEvent, True)
    return made


def mutex() -> KMUTEX:
    made = KMUTEX("Object")
    KeInitializeMutex(made, 0)
    return made


def semaphore() -> KSEMAPHORE:
    made = KSEMAPHORE("Object")
    KeInitializeSemaphore(made, 1, 2)
    return made


CALLS: list[tuple[str, Callable[[Any], Any], Callable[[], Any]]] = [
    ("KeWaitForSingleObject", KeWaitForSingleObject, event),
    ("KeSetEvent", KeSetEvent, event),
    ("KeReadStateEvent", KeReadStateEvent, event),
    ("KePulseEvent", KePulseEvent, event),
    ("KeInitializeMutex", lambda one: KeInitializeMutex(one, 0), mutex),
    ("KeReleaseMutex", lambda one: KeReleaseMutex(one, False), mutex),
    ("KeReadStateMutex", KeReadStateMutex, mutex),
    ("KeInitializeSemaphore", lambda one: KeInitializeSemaphore(one, 0, 1), semaphore),
    ("KeReleaseSemaphore", lambda one: KeReleaseSemaphore(one, 0, 1, False), semaphore),
    ("KeReadStateSemaphore", KeReadStateSemaphore, semaphore),
    ("KeStackAttachProcess", KeStackAttachProcess, lambda: Process("Object")),
]

every_call = pytest.mark.parametrize(("name", "call", "made"), CALLS, ids=[name for name, *_ in CALLS])


async def made_call(call: Callable[[Any], Any], given: Any) -> None:
    result = call(given)
    if isinstance(result, Awaitable):
        await result


@every_call
@pytest.mark.parametrize("what", ["NULL", "a KSPIN_LOCK"])
def test_null_and_foreign_objects(name: str, call: Callable[[Any], Any], made: Callable[[], Any], what: str) -> None:
    async def script(lab: Lab) -> None:
        await made_call(call, None if what == "NULL" else KSPIN_LOCK("Foreign"))

    found = run(script).finding
    assert found.code == "ke.bad-pointer"
    assert name in found.detail
    assert what in found.detail
    assert found.bug_check is not None
    assert found.bug_check.code == 0x50


@every_call
def test_objects_in_freed_memory(name: str, call: Callable[[Any], Any], made: Callable[[], Any]) -> None:
    async def script(lab: Lab) -> None:
        given = made()
        lab.system.freed[given] = "freed by somebody"
        await made_call(call, given)

    found = run(script).finding
    assert found.code == "ke.use-after-free"
    assert f"{name} on Object, freed by somebody" in found.detail


def test_detaching_with_nothing() -> None:
    async def script(lab: Lab) -> None:
        KeUnstackDetachProcess(None)  # type: ignore[arg-type]

    assert run(script).code == "ke.attach-balance"


def test_an_array_of_wait_blocks_is_one() -> None:
    async def script(lab: Lab) -> None:
        await KeWaitForMultipleObjects(
            1, [event()], WaitAny, Executive, KernelMode, False, None, event()  # type: ignore[arg-type]
        )  # fmt: skip

    assert run(script).code == "ke.bad-pointer"


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("KeRaiseIrql to 'high'", lambda: KeRaiseIrql("high")),  # type: ignore[arg-type]
        ("KeLowerIrql to None", lambda: KeLowerIrql(None)),  # type: ignore[arg-type]
        ("KeLowerIrql to True", lambda: KeLowerIrql(True)),
        ("KeInitializeSemaphore with Count 1.5", lambda: KeInitializeSemaphore(KSEMAPHORE(), 1.5, 2)),  # type: ignore[arg-type]
        ("KeInitializeSemaphore with Limit 2147483648", lambda: KeInitializeSemaphore(KSEMAPHORE(), 0, 2**31)),
        ("KeReleaseSemaphore with Adjustment None", lambda: KeReleaseSemaphore(semaphore(), 0, None)),  # type: ignore[arg-type]
        ("KeReleaseSemaphore with Adjustment 2147483648", lambda: KeReleaseSemaphore(semaphore(), 0, 2**31)),
        ("KeWaitForMultipleObjects with Count None", lambda: KeWaitForMultipleObjects(None, [], WaitAny)),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_is_no_number_of_c_is_refused_with_the_line(words: str, call: Callable[[], Any]) -> None:
    async def script(lab: Lab) -> None:
        result = call()
        if isinstance(result, Awaitable):
            await result

    with pytest.raises(UsageError) as caught:
        run(script)
    assert words in str(caught.value)
    assert "test_bad_input.py:" in str(caught.value)
