"""The border between kemu and a driver: exceptions, statuses, the state a routine leaves its thread in."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from fltmgr.kit import Lab, Minifilter, Run, queue, run

from kemu.errors import ForeignAwaitable, UsageError
from kemu.io.constants import IRP_MJ_READ
from kemu.nt.driver import Driver, current_driver, routine_name
from kemu.nt.kthread import APC_LEVEL, current_kthread
from kemu.wdk.fltkernel import FLT_PREOP_PENDING, FLT_PREOP_SUCCESS_NO_CALLBACK
from kemu.wdk.ntstatus import STATUS_SUCCESS, STATUS_UNSUCCESSFUL
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    FAST_MUTEX,
    DbgPrint,
    DelayedWorkQueue,
    ExAcquireFastMutex,
    ExInitializeFastMutex,
    IoAllocateWorkItem,
    IoQueueWorkItemEx,
)

RAISED = "ValueError: out of order at "


async def broken(*arguments: Any) -> Any:
    raise ValueError("out of order")


async def dirty(*arguments: Any) -> int:
    """Leaves its thread at another level."""
    current_kthread().irql = APC_LEVEL
    return 0


async def holding(*arguments: Any) -> int:
    mutex = FAST_MUTEX("Held")
    ExInitializeFastMutex(mutex)
    await ExAcquireFastMutex(mutex)
    return 0


class Entry(Driver):
    """A driver whose DriverEntry is given."""

    def __init__(self, entry: Any) -> None:
        self.entry = entry

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        return await self.entry(DriverObject, RegistryPath)


async def entry(lab: Lab, routine: Any) -> None:
    await lab.load(Entry(routine), "1")


async def setup(lab: Lab, routine: Any) -> None:
    await lab.filter("D", "1", {}, InstanceSetupCallback=routine)


async def query(lab: Lab, routine: Any) -> None:
    await (await lab.filter("D", "1", {}, InstanceQueryTeardownCallback=routine)).detach()


async def teardown_start(lab: Lab, routine: Any) -> None:
    await (await lab.filter("D", "1", {}, InstanceTeardownStartCallback=routine)).detach()


async def teardown_complete(lab: Lab, routine: Any) -> None:
    await (await lab.filter("D", "1", {}, InstanceTeardownCompleteCallback=routine)).detach()


async def unload(lab: Lab, routine: Any) -> None:
    await (await lab.filter("D", "1", {}, FilterUnloadCallback=routine)).unload()


async def pre(lab: Lab, routine: Any) -> None:
    await lab.filter("D", "1", {IRP_MJ_READ: (routine, None)})
    await (await lab.open()).read(4)


async def post(lab: Lab, routine: Any) -> None:
    await lab.filter("D", "1", {IRP_MJ_READ: (None, routine)})
    await (await lab.open()).read(4)


async def deferred(lab: Lab, routine: Any) -> None:
    async def pends(Data: Any, FltObjects: Any) -> int:
        await queue(Data, routine)
        return FLT_PREOP_PENDING

    await pre(lab, pends)


async def io_work(lab: Lab, routine: Any) -> None:
    item = await IoAllocateWorkItem((await lab.filter("D", "1", {})).driver_object)
    assert item is not None
    await IoQueueWorkItemEx(item, routine, DelayedWorkQueue, None)


KINDS = [
    entry,
    setup,
    query,
    teardown_start,
    teardown_complete,
    unload,
    pre,
    post,
    deferred,
    io_work,
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def run_kind(kind: Any, routine: Any) -> Run:
    async def script(lab: Lab) -> None:
        await kind(lab, routine)

    return run(script)


@every_kind
@pytest.mark.rule("FLT-PRE-27")
def test_an_exception_that_leaves_a_routine_is_a_finding_with_the_users_line(kind: Any) -> None:
    one = run_kind(kind, broken)
    assert one.code == "ke.unhandled-exception"
    assert RAISED in one.finding.detail
    line = broken.__code__.co_firstlineno + 1
    assert one.finding.detail.endswith(f"test_driver.py:{line} in broken")
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == 0x7E


@every_kind
@pytest.mark.rule("FLT-PRE-27", "KE-IRQL-10")
def test_a_routine_that_returns_at_another_level_is_a_finding(kind: Any) -> None:
    one = run_kind(kind, dirty)
    assert one.code == "callback-dirty-exit"
    assert "returned at IRQL 1 where it was called at 0" in one.finding.detail


@every_kind
@pytest.mark.rule("FLT-PRE-27", "FLT-IRQL-10")
def test_a_routine_that_returns_with_a_lock_is_a_finding(kind: Any) -> None:
    one = run_kind(kind, holding)
    assert one.code == "callback-dirty-exit"
    assert "returned holding Held" in one.finding.detail


@pytest.mark.parametrize("kind", [entry, setup, query, unload], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "None"),
        (True, "True"),
        ("STATUS_SUCCESS", "'STATUS_SUCCESS'"),
        (2**32, "0x100000000"),
        (-(2**31) - 1, "0x-80000001"),
        (0x12345678, "0x12345678"),
    ],
)
def test_a_routine_that_must_return_a_status_and_does_not_is_told_so_with_its_line(
    kind: Any, value: Any, shown: str
) -> None:
    async def forgets(*arguments: Any) -> Any:
        return value

    with pytest.raises(UsageError, match="which is no status") as caught:
        run_kind(kind, forgets)
    assert f"returned {shown}, which" in str(caught.value)
    assert "test_driver.py:" in str(caught.value)


@pytest.mark.parametrize("value", [0, -0x3FFFFFFF, 0xC0000001, 0x2BADBEEF])
def test_statuses_of_the_header_and_of_the_drivers_own_are_statuses(value: int) -> None:
    async def entry_returns(*arguments: Any) -> int:
        return value

    async def script(lab: Lab) -> int:
        return (await lab.load(Entry(entry_returns), "1")).status

    assert run(script).result == value & 0xFFFFFFFF


@every_kind
def test_awaiting_what_is_not_kemus_is_told_so_with_the_users_line(kind: Any) -> None:
    import anyio

    async def sleeps(*arguments: Any) -> int:
        await anyio.sleep(1)
        return 0

    with pytest.raises(ForeignAwaitable, match=r"test_driver\.py") as caught:
        run_kind(kind, sleeps)
    assert "await anyio.sleep(1)" in str(caught.value)


@every_kind
def test_misuse_of_kemu_reaches_the_user_although_the_driver_swallows_exceptions(kind: Any) -> None:
    async def careless(*arguments: Any) -> Any:
        with suppress(Exception):
            DbgPrint("%d")
        return STATUS_SUCCESS

    with pytest.raises(UsageError, match="DbgPrint"):
        run_kind(kind, careless)


def test_a_finding_cannot_be_swallowed_by_code_below_on_the_stack() -> None:
    async def swallows(Data: Any, FltObjects: Any) -> int:
        mutex = FAST_MUTEX("raw")
        try:
            await ExAcquireFastMutex(mutex)
        except BaseException:  # noqa: BLE001
            pass
        finally:
            await ExAcquireFastMutex(mutex)
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    one = run_kind(pre, swallows)
    assert one.code == "ke.uninitialised"


def test_a_driver_is_called_by_its_name_or_its_class() -> None:
    assert repr(Minifilter("Named", {})) == "Named"
    assert repr(Entry(None)) == "Entry"


@pytest.mark.rule("FLT-REG-01")
def test_driver_entry_gets_its_object_and_its_registry_path() -> None:
    seen: list[Any] = []

    async def notes(DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        driver = current_driver()
        assert driver is not None
        seen.extend([DriverObject.name, RegistryPath, current_kthread().irql, driver.label])
        return STATUS_UNSUCCESSFUL

    run_kind(entry, notes)
    assert seen == ["Entry", r"\REGISTRY\MACHINE\SYSTEM\CurrentControlSet\Services\Entry", 0, "flt:Entry"]


def test_outside_a_driver_there_is_no_current_driver() -> None:
    async def script(lab: Lab) -> object:
        await lab.filter("D", "1", {})
        return current_driver()

    assert run(script).result is None


def test_a_callable_object_goes_by_its_class() -> None:
    class Routine:
        async def __call__(self, *arguments: Any) -> None: ...

    assert routine_name(Routine()) == "Routine"
    assert run_kind(io_work, Routine()).code is None
