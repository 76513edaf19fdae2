"""What IRPs and devices order, and what they do not: each edge with it and without it."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, Script, all_runs, run
from io_kit import CODE, Device, complete, device, loaded, spawn
from racing import Field

from kemu.io.device import DEVICE_OBJECT
from kemu.io.irp import IRP
from kemu.nt.driver import DRIVER_OBJECT
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_PENDING
from kemu.wdk.wdm import (
    IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_READ,
    IoMarkIrpPending,
    IoReleaseCancelSpinLock,
    IoSetCancelRoutine,
)


def codes_of_all_runs(script: Script, bound: int = 1) -> set[str | None]:
    """The findings of all runs of *script* with race detection."""
    return {one.code for one in all_runs(script, bound=bound, races=True)}


@pytest.mark.rule("KE-ORD-03")
@pytest.mark.parametrize("before", [True, False])
def test_what_a_driver_does_before_it_completes_is_ordered_before_what_the_issuer_does_after(before: bool) -> None:
    async def script(lab: Lab) -> Any:
        field = Field()

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            async def later() -> None:
                if before:
                    field.store()
                await complete(irp)
                if not before:
                    field.store()

            await IoMarkIrpPending(irp)
            spawn("later", later())
            return STATUS_PENDING

        await device(lab, "D", {IRP_MJ_READ: read})
        await (await lab.app.open(r"\\.\D")).read(4)
        field.load()

    found = codes_of_all_runs(script)
    assert found == {None} if before else "ke.data-race" in found


@pytest.mark.rule("KE-CANCEL-04")
@pytest.mark.parametrize("before", [True, False])
def test_what_is_done_before_the_cancel_routine_is_set_is_ordered_before_it(before: bool) -> None:
    async def script(lab: Lab) -> Any:
        field = Field()

        async def cancel(device: DEVICE_OBJECT, irp: IRP) -> None:
            await IoReleaseCancelSpinLock(irp.CancelIrql)
            field.store()
            await complete(irp, STATUS_CANCELLED)

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            await IoMarkIrpPending(irp)
            if before:
                field.store()
            await IoSetCancelRoutine(irp, cancel)
            if not before:
                field.store()
            return STATUS_PENDING

        await device(lab, "D", {IRP_MJ_READ: read})
        file = await lab.app.open(r"\\.\D", overlapped=True)

        async def canceller() -> None:
            await file.cancel_all()

        async def reader() -> None:
            await file.begin_read(4)

        await lab.together(reader(), canceller())

    # Where the cancellation comes too early the read is never completed; that is not the question here.
    found = codes_of_all_runs(script)
    assert ("ke.data-race" in found) == (not before)


@pytest.mark.rule("KE-UNLOAD-07", "KE-ORD-04")
@pytest.mark.parametrize("holds", [True, False])
def test_what_a_driver_does_while_it_is_referenced_is_ordered_before_its_unload(holds: bool) -> None:
    async def script(lab: Lab) -> Any:
        field = Field()

        async def control(device: DEVICE_OBJECT, irp: IRP) -> int:
            if holds:
                field.store()
            return await complete(irp)

        one, driver = await loaded(lab, "D", {IRP_MJ_DEVICE_CONTROL: control})

        async def unloading() -> None:
            field.store()

        one.on_unload = unloading
        file = await lab.app.open(r"\\.\D")

        async def user() -> None:
            if holds:
                await file.control(CODE)
            await file.close()
            if not holds:
                # The file is closed: nothing orders this before the unload.
                field.store()

        async def stop() -> None:
            await driver.unload()

        await lab.together(user(), stop())

    found = codes_of_all_runs(script)
    assert found == {None} if holds else "ke.data-race" in found


@pytest.mark.rule("KE-INTLK-05")
@pytest.mark.parametrize("before", [True, False])
def test_what_is_done_before_a_link_is_made_is_ordered_before_what_comes_through_it(before: bool) -> None:
    async def script(lab: Lab) -> Any:
        field = Field()

        class Publisher(Device):
            async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
                if before:
                    field.store()
                status = await super().DriverEntry(DriverObject, RegistryPath)
                if not before:
                    field.store()
                return status

        async def control(device: DEVICE_OBJECT, irp: IRP) -> int:
            field.load()
            return await complete(irp)

        driver = Publisher("D", {IRP_MJ_DEVICE_CONTROL: control})

        async def load() -> None:
            await lab.load(driver)

        async def ask() -> None:
            _, file = await lab.app.create(r"\\.\D")
            if file is not None:
                await file.control(CODE)

        await lab.together(load(), ask())

    found = codes_of_all_runs(script, 2)
    assert found == {None} if before else "ke.data-race" in found


@pytest.mark.parametrize("ends", [True, False])
def test_a_use_that_nothing_orders_before_the_end_of_an_irp_is_a_race(ends: bool) -> None:
    async def script(lab: Lab) -> Any:
        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            async def later() -> None:
                await complete(irp)

            await IoMarkIrpPending(irp)
            irp.IoStatus.Information = 0
            spawn("later", later())
            if not ends:
                irp.IoStatus.Information = 0
            return STATUS_PENDING

        await device(lab, "D", {IRP_MJ_READ: read})
        await (await lab.app.open(r"\\.\D")).read(4)

    one = run(script, races=True)
    assert one.code == (None if ends else "hand-off-race")
    if not ends:
        assert "ends" in one.finding.detail
