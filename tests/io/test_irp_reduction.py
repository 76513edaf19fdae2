"""The reduced search comes to the same findings as every interleaving: what the failing paths touch is complete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, Script, all_runs, codes, run
from io_kit import complete, device, loaded, spawn

from kemu.explore import DPOR
from kemu.io.device import DEVICE_OBJECT
from kemu.io.irp import IRP
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_PENDING, STATUS_SUCCESS
from kemu.wdk.wdm import (
    IRP_MJ_READ,
    IoAllocateIrp,
    IoFreeIrp,
    IoMarkIrpPending,
    IoReleaseCancelSpinLock,
    IoSetCancelRoutine,
)


def found_by_reduction(script: Script) -> set[str | None]:
    """What the reduced search finds when it goes on after each finding."""
    search = DPOR()
    found: set[str | None] = set()
    count = 0
    while search.begin():
        one = run(script, search, observer=search)
        search.end(one.outcome)
        count += 1
        assert count < 20_000
        if one.outcome.end != "abandoned":
            found.add(one.code)
    return found


async def late_mark(lab: Lab) -> Any:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        async def later() -> None:
            await complete(irp)

        spawn("later", later())
        await IoMarkIrpPending(irp)
        return STATUS_PENDING

    await device(lab, "D", {IRP_MJ_READ: read})
    return (await (await lab.app.open(r"\\.\D")).read(4))[0]


async def two_completers(lab: Lab) -> Any:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        async def one() -> None:
            await complete(irp)

        await IoMarkIrpPending(irp)
        spawn("one", one())
        spawn("two", one())
        return STATUS_PENDING

    await device(lab, "D", {IRP_MJ_READ: read})
    return (await (await lab.app.open(r"\\.\D")).read(4))[0]


async def lost_cancellation(lab: Lab) -> Any:
    async def cancel(device: DEVICE_OBJECT, irp: IRP) -> None:
        await IoReleaseCancelSpinLock(irp.CancelIrql)
        await complete(irp, STATUS_CANCELLED)

    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        await IoMarkIrpPending(irp)
        await IoSetCancelRoutine(irp, cancel)
        return STATUS_PENDING

    await device(lab, "D", {IRP_MJ_READ: read})
    file = await lab.app.open(r"\\.\D", overlapped=True)

    async def reader() -> None:
        await file.begin_read(4)

    async def canceller() -> None:
        await file.cancel_all()

    await lab.together(reader(), canceller())


async def used_after_it_was_freed(lab: Lab) -> Any:
    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        own = await IoAllocateIrp(1, False)
        assert own is not None

        async def frees() -> None:
            await IoFreeIrp(own)

        spawn("frees", frees())
        await lab.step("before")
        own.IoStatus.Status = STATUS_SUCCESS
        return await complete(irp)

    await device(lab, "D", {IRP_MJ_READ: read})
    return (await (await lab.app.open(r"\\.\D")).read(4))[0]


async def running_at_the_unload(lab: Lab) -> Any:
    one, driver = await loaded(lab, "D", {})

    async def works() -> None:
        await lab.step("work")

    async def unloading() -> None:
        spawn("worker", works())

    one.on_unload = unloading
    await driver.unload()


async def completing_when_the_driver_goes(lab: Lab) -> Any:
    """The thread that has completed the last request of a closed file has not come out of the driver yet."""

    async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
        async def later() -> None:
            await complete(irp)

        await IoMarkIrpPending(irp)
        spawn("later", later())
        return STATUS_PENDING

    _, driver = await loaded(lab, "D", {IRP_MJ_READ: read})
    file = await lab.app.open(r"\\.\D")
    await file.read(4)
    await file.close()
    await driver.unload()


SCRIPTS: dict[Callable[[Lab], Any], set[str | None]] = {
    late_mark: {None, "ke.mark-after-queue"},
    two_completers: {"ke.irp-double-complete"},
    lost_cancellation: {None, "ke.cancel-lost", "ke.irp-not-cancelable"},
    used_after_it_was_freed: {None, "ke.use-after-free"},
    running_at_the_unload: {None, "ke.unload-running"},
    completing_when_the_driver_goes: {None, "ke.unload-running"},
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_the_reduced_search_finds_what_every_interleaving_shows(script: Script) -> None:
    everything = codes(all_runs(script))
    # A run that ends with a finding does not show what else would have come, so that the clean ones may be fewer.
    assert found_by_reduction(script) - {None} == everything - {None}
    assert everything <= SCRIPTS[script]
    assert everything & {code for code in SCRIPTS[script] if code is not None}
