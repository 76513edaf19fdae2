"""Unloading a driver with devices while it has deferred something: what keeps it, what is waited for, what is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, codes

from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    DEVICE_OBJECT,
    DRIVER_OBJECT,
    FILE_DEVICE_UNKNOWN,
    KDPC,
    THREAD_ALL_ACCESS,
    DelayedWorkQueue,
    Driver,
    IoAllocateWorkItem,
    IoCreateDevice,
    IoCreateSystemThread,
    IoDeleteDevice,
    IoFreeWorkItem,
    IoQueueWorkItem,
    KeInitializeDpc,
    KeInsertQueueDpc,
    KeSetEvent,
    KeWaitForSingleObject,
    PsCreateSystemThread,
    ZwClose,
)

Start = Callable[["Deferring"], Awaitable[None]]


class Deferring(Driver):
    """Has one device, and defers something when it is told to."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.Device: DEVICE_OBJECT | None = None

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        DriverObject.DriverUnload = self.Unload
        status, self.Device = await IoCreateDevice(DriverObject, 0, None, FILE_DEVICE_UNKNOWN, 0, False)
        await self.start(self)
        return status

    async def Unload(self, DriverObject: DRIVER_OBJECT) -> None:
        assert self.Device is not None
        await IoDeleteDevice(self.Device)


def found(start: Callable[[Lab], Start], *, bound: int = 1) -> set[str | None]:
    async def script(lab: Lab) -> None:
        driver = await lab.load(Deferring(start(lab)))
        assert await driver.unload() == STATUS_SUCCESS

    return codes(all_runs(script, bound=bound))


@pytest.mark.rule("KE-WORK-07", "KE-UNLOAD-07", "KE-UNLOAD-01")
def test_a_devices_work_item_keeps_the_driver_loaded() -> None:
    def start(lab: Lab) -> Start:
        async def queues(driver: Deferring) -> None:
            item = await IoAllocateWorkItem(driver.Device)
            assert item is not None

            async def work(DeviceObject: DEVICE_OBJECT, Context: Any) -> None:
                await IoFreeWorkItem(item)
                await lab.step("in the routine")

            await IoQueueWorkItem(item, work, DelayedWorkQueue, None)

        return queues

    assert found(start) == {None}


@pytest.mark.rule("KE-THREAD-05", "KE-THREAD-04", "KE-UNLOAD-07", "KE-RACE-16")
@pytest.mark.parametrize("keeps", [True, False])
def test_a_thread_of_the_io_manager_keeps_the_driver_loaded_and_another_does_not(keeps: bool) -> None:
    def start(lab: Lab) -> Start:
        async def creates(driver: Deferring) -> None:
            async def run(Context: Any) -> None:
                await lab.step("in the thread")

            if keeps:
                _, handle, _ = await IoCreateSystemThread(driver.Device, THREAD_ALL_ACCESS, None, None, run, None)
            else:
                _, handle, _ = await PsCreateSystemThread(THREAD_ALL_ACCESS, None, None, run, None)
            await ZwClose(handle)

        return creates

    codes_ = found(start)
    assert codes_ == {None} if keeps else codes_ >= {"ke.thread-left", "ke.thread-unload-race"}


@pytest.mark.rule("KE-TIMER-17", "KE-DPC-08")
@pytest.mark.parametrize("started", [True, False])
def test_a_dpc_that_runs_is_waited_for_and_one_that_is_queued_is_reported(started: bool) -> None:
    def start(lab: Lab) -> Start:
        async def queues(driver: Deferring) -> None:
            inside = lab.event("Inside")

            async def routine(*arguments: Any) -> None:
                await KeSetEvent(inside)
                await lab.step("in the DPC")

            dpc = KDPC("Dpc")
            KeInitializeDpc(dpc, routine, None)
            await KeInsertQueueDpc(dpc, None, None)
            if started:
                await KeWaitForSingleObject(inside)

        return queues

    assert found(start) == ({None} if started else {None, "ke.dpc-left"})
