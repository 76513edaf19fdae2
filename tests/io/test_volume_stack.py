"""Legacy filters on a volume, above and below the filter manager: one operation for all of them."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import MIDDLE, Lab, all_runs, codes, queue, resumes, run
from io_kit import Device, complete, spawn

from kemu.fltmgr.constants import FLT_PREOP_PENDING
from kemu.io.device import DEVICE_OBJECT
from kemu.io.irp import IRP
from kemu.wdk.fltkernel import FLT_PREOP_COMPLETE, FLT_PREOP_SUCCESS_NO_CALLBACK
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_CANCELLED,
    STATUS_PENDING,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    IRP_MJ_CREATE,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
    NT_SUCCESS,
    IoCallDriver,
    IoCopyCurrentIrpStackLocationToNext,
    IoGetCurrentIrpStackLocation,
    IoGetDeviceObjectPointer,
    IoMarkIrpPending,
    IoReleaseCancelSpinLock,
    IoSetCancelRoutine,
    IoSetCompletionRoutine,
    IoSkipCurrentIrpStackLocation,
)

MAJORS = (0, 2, 3, 4, 5, 0x12)


async def legacy(lab: Lab, name: str, *, below: bool, notes: bool = True, **special: Any) -> Device:
    """A legacy filter on the volume that notes what it passes on, and what comes back."""
    one = Device(name, {}, over=lab.volume_device(below=below), flags=0)

    async def completed(device: Any, irp: IRP, context: Any) -> int:
        lab.note(f"{name}.completed", irp.IoStatus.Status)
        if irp.PendingReturned:
            await IoMarkIrpPending(irp)
        return STATUS_SUCCESS

    async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
        major = IoGetCurrentIrpStackLocation(irp).MajorFunction
        if not notes or major != IRP_MJ_READ:
            IoSkipCurrentIrpStackLocation(irp)
            return await IoCallDriver(one.lower, irp)
        lab.note(f"{name}.dispatch")
        IoCopyCurrentIrpStackLocationToNext(irp)
        IoSetCompletionRoutine(irp, completed, None, True, True, True)
        return await IoCallDriver(one.lower, irp)

    for major in MAJORS:
        one.dispatch[major] = special.get("read", dispatch) if major == IRP_MJ_READ else dispatch
    one.unloads = False
    await lab.load(one)
    return one


@pytest.mark.rule("KE-ORD-03")
@pytest.mark.parametrize("completion", ["inline", "explore"])
def test_an_operation_passes_legacy_filters_and_minifilters_in_the_order_of_the_stack(completion: str) -> None:
    async def script(lab: Lab) -> Any:
        await legacy(lab, "above", below=False)
        await legacy(lab, "below", below=True)
        await lab.recorder("mini", MIDDLE, IRP_MJ_READ)
        file = await lab.quiet_open()
        lab.notes.clear()
        return await file.read(4, 2)

    runs = all_runs(script, bound=1, completion=completion)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {(STATUS_SUCCESS, b"2345")}
    assert {tuple(one.order) for one in runs} == {
        ("above.dispatch", "mini.pre", "below.dispatch", "below.completed", "mini.post", "above.completed")
    }


@pytest.mark.parametrize("sides", [(False,), (True,), (False, True)])
def test_files_work_as_they_do_without_legacy_filters(sides: tuple[bool, ...]) -> None:
    async def script(lab: Lab) -> Any:
        for below in sides:
            await legacy(lab, f"legacy{below}", below=below, notes=False)
        await lab.recorder("mini", MIDDLE, IRP_MJ_READ, IRP_MJ_WRITE)
        file = await lab.open(r"\new")
        results = [await file.write(b"hello"), await file.read(9), await file.size(), await file.read(2, 1, fast=True)]
        return [*results, await file.close(), (await lab.app.create(r"\missing", 1))[0].name]

    one = run(script)
    assert one.code is None
    assert one.result == [
        (STATUS_SUCCESS, 5),
        (STATUS_SUCCESS, b"hello"),
        (STATUS_SUCCESS, 5),
        (STATUS_SUCCESS, b"el"),
        STATUS_SUCCESS,
        "STATUS_OBJECT_NAME_NOT_FOUND",
    ]


def test_without_an_attached_filter_the_stack_changes_nothing() -> None:
    async def script(lab: Lab) -> Any:
        lab.volume_device()
        return await (await lab.open()).read(4)

    runs = all_runs(script, completion="explore", bound=1)
    assert {one.result for one in runs} == {(STATUS_SUCCESS, b"0123")}


def test_drivers_find_the_devices_of_a_volume_by_name() -> None:
    async def script(lab: Lab) -> Any:
        top, base = lab.volume_device(), lab.volume_device(below=True)
        found = [(await IoGetDeviceObjectPointer(name, 0))[2] for name in (r"\Device\HarddiskVolume1", r"\Ntfs")]
        return found[0] is top, found[1] is base

    assert run(script).result == (True, True)


def test_a_legacy_filter_may_complete_what_minifilters_then_do_not_see() -> None:
    async def script(lab: Lab) -> Any:
        async def denies(device: DEVICE_OBJECT, irp: IRP) -> int:
            return await complete(irp, STATUS_ACCESS_DENIED)

        await legacy(lab, "above", below=False, read=denies)
        await lab.recorder("mini", MIDDLE, IRP_MJ_READ)
        return await (await lab.open()).read(4)

    one = run(script)
    assert (one.result, one.order) == ((STATUS_ACCESS_DENIED, b""), [])


def test_a_legacy_filter_below_may_complete_what_minifilters_then_see_the_result_of() -> None:
    async def script(lab: Lab) -> Any:
        async def denies(device: DEVICE_OBJECT, irp: IRP) -> int:
            async def later() -> None:
                await complete(irp, STATUS_ACCESS_DENIED)

            await IoMarkIrpPending(irp)
            spawn("later", later())
            return STATUS_PENDING

        await legacy(lab, "below", below=True, read=denies)
        await lab.recorder("mini", MIDDLE, IRP_MJ_READ)
        return await (await lab.open()).read(4)

    runs = all_runs(script, bound=1)
    assert codes(runs) == {None}
    assert {(one.result, *one.order) for one in runs} == {((STATUS_ACCESS_DENIED, b""), "mini.pre", "mini.post")}


def test_a_minifilter_may_complete_what_a_legacy_filter_above_then_sees_the_result_of() -> None:
    async def script(lab: Lab) -> Any:
        async def pre(Data: Any, FltObjects: Any) -> int:
            Data.IoStatus.Status = STATUS_ACCESS_DENIED
            return FLT_PREOP_COMPLETE

        await legacy(lab, "above", below=False)
        await legacy(lab, "below", below=True)
        await lab.filter("mini", MIDDLE, {IRP_MJ_READ: (pre, None)})
        return await (await lab.open()).read(4)

    one = run(script)
    assert one.result == (STATUS_ACCESS_DENIED, b"")
    assert [(note.what, note.value) for note in one.notes] == [
        ("above.dispatch", None),
        ("above.completed", STATUS_ACCESS_DENIED),
    ]


def test_a_minifilter_may_pend_what_a_legacy_filter_above_then_hears_of_later() -> None:
    async def script(lab: Lab) -> Any:
        async def pre(Data: Any, FltObjects: Any) -> int:
            status = await queue(Data, resumes(FLT_PREOP_SUCCESS_NO_CALLBACK))
            return FLT_PREOP_PENDING if NT_SUCCESS(status) else FLT_PREOP_SUCCESS_NO_CALLBACK

        await legacy(lab, "above", below=False)
        await lab.filter("mini", MIDDLE, {IRP_MJ_READ: (pre, None)})
        return await (await lab.open()).read(4)

    runs = all_runs(script, bound=1)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {(STATUS_SUCCESS, b"0123")}


def test_what_a_minifilter_pends_for_ever_is_found_below_a_legacy_filter_as_well() -> None:
    async def script(lab: Lab) -> Any:
        async def pre(Data: Any, FltObjects: Any) -> int:
            return FLT_PREOP_PENDING

        await legacy(lab, "above", below=False)
        await lab.filter("mini", MIDDLE, {IRP_MJ_READ: (pre, None)})
        return await (await lab.open()).read(4)

    assert run(script).code == "pend-never-completed"


@pytest.mark.rule("KE-CANCEL-01")
@pytest.mark.parametrize("below", [True, False])
def test_a_request_is_cancelled_wherever_it_is_held(below: bool) -> None:
    async def script(lab: Lab) -> Any:
        async def cancel(device: DEVICE_OBJECT, irp: IRP) -> None:
            await IoReleaseCancelSpinLock(irp.CancelIrql)
            await complete(irp, STATUS_CANCELLED)

        async def holds(device: DEVICE_OBJECT, irp: IRP) -> int:
            await IoMarkIrpPending(irp)
            await IoSetCancelRoutine(irp, cancel)
            return STATUS_PENDING

        await legacy(lab, "legacy", below=below, read=holds)
        await lab.recorder("mini", MIDDLE, IRP_MJ_READ)
        pending = await (await lab.open(overlapped=True)).begin_read(4)
        return await pending.cancel(), await pending.wait()

    one = run(script)
    assert (one.code, one.result) == (None, (True, STATUS_CANCELLED))
    assert one.order == (["mini.pre", "mini.post"] if below else [])


def test_what_a_legacy_filter_changes_is_what_is_carried_out() -> None:
    async def script(lab: Lab) -> Any:
        one = Device("above", {}, over=lab.volume_device(), flags=0, unloads=False)

        async def dispatch(device: DEVICE_OBJECT, irp: IRP) -> int:
            current = IoGetCurrentIrpStackLocation(irp)
            if current.MajorFunction == IRP_MJ_READ:
                current.Parameters.Read.ByteOffset += 3
                assert current.FileObject is not None
                assert current.FileObject.FileName == r"\a"
            if current.MajorFunction == IRP_MJ_WRITE:
                irp.UserBuffer[:] = bytes(irp.UserBuffer).upper()
            IoSkipCurrentIrpStackLocation(irp)
            return await IoCallDriver(one.lower, irp)

        for major in MAJORS:
            one.dispatch[major] = dispatch
        await lab.load(one)
        file = await lab.open()
        before = await file.read(2)
        await file.write(b"xyz")
        return before, await file.size(), lab.volume.filesystem

    assert run(script).result[:2] == ((STATUS_SUCCESS, b"34"), (STATUS_SUCCESS, 10))
    assert IRP_MJ_CREATE in MAJORS
    assert IRP_MJ_QUERY_INFORMATION in MAJORS


def test_an_irp_needs_a_file_object_on_a_volume() -> None:
    from kemu.wdk.wdm import IoAllocateIrp, IoGetNextIrpStackLocation

    async def script(lab: Lab) -> Any:
        irp = await IoAllocateIrp(1, False)
        assert irp is not None
        IoGetNextIrpStackLocation(irp).MajorFunction = IRP_MJ_READ
        await IoCallDriver(lab.volume_device(), irp)

    assert run(script).code == "ke.bad-pointer"
