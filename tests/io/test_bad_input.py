"""Every routine about IRPs and devices, given what it does not take: the finding names it, and kemu goes on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from fltmgr.kit import Lab, run
from io_kit import complete, device, loaded, succeed

from kemu.errors import UsageError
from kemu.io.csq import IO_CSQ, IO_CSQ_IRP_CONTEXT
from kemu.io.device import DEVICE_OBJECT
from kemu.io.irp import IRP
from kemu.nt.routine import REGISTRY
from kemu.wdk import ntddk, wdm
from kemu.wdk.ntstatus import STATUS_INSUFFICIENT_RESOURCES
from kemu.wdk.wdm import (
    IO_STATUS_BLOCK,
    IRP_MJ_READ,
    KEVENT,
    IoAllocateIrp,
    IoBuildAsynchronousFsdRequest,
    IoBuildDeviceIoControlRequest,
    IoBuildSynchronousFsdRequest,
    IoCallDriver,
    IoCreateDevice,
    IoCreateSymbolicLink,
    IoCsqInitialize,
    IoCsqRemoveNextIrp,
    IoDeleteDevice,
    IoFreeIrp,
    IoSetCompletionRoutine,
)

OBJECTS = {"DriverObject", "DeviceObject", "SourceDevice", "TargetDevice", "Irp", "Csq", "Context", "Event", "Mdl"}
MODULES = (
    "kemu.io.call",
    "kemu.io.cancel",
    "kemu.io.completion",
    "kemu.io.csq",
    "kemu.io.device",
    "kemu.io.irp_made",
    "kemu.io.shutdown",
)

MINE = [name for name, one in REGISTRY.items() if one.function.__module__ in MODULES]
TAKES = [
    (name, parameter.name)
    for name in MINE
    for parameter in REGISTRY[name].parameters
    if parameter.name in OBJECTS
    and not parameter.is_output
    and "opt" not in parameter.annotation
    and (parameter.name != "Context" or "CSQ" in parameter.c_type)
]


def test_there_are_routines_to_try() -> None:
    assert len(MINE) > 30
    assert len(TAKES) > 30


async def sample(lab: Lab, name: str) -> Any:
    """Something right for a parameter of that name."""
    one = await device(lab, f"S{name}", {})
    if name in {"DeviceObject", "SourceDevice", "TargetDevice"}:
        return one.device
    if name == "DriverObject":
        return one.object
    made: dict[str, Callable[[], Any]] = {"Csq": IO_CSQ, "Context": IO_CSQ_IRP_CONTEXT, "Event": KEVENT}
    if name in made:
        return made[name]()
    if name == "Irp":
        return await IoAllocateIrp(1, False)
    return 0


async def call(name: str, arguments: dict[str, Any]) -> None:
    function = getattr(wdm, name, None) or getattr(ntddk, name)
    called = function(*arguments.values())
    if inspect.isawaitable(called):
        await called


@pytest.mark.parametrize("value", [None, "text", "other"])
@pytest.mark.parametrize(("name", "parameter"), TAKES)
def test_what_is_no_such_object_is_a_bad_pointer(name: str, parameter: str, value: Any) -> None:
    async def script(lab: Lab) -> Any:
        arguments = {one.name: await sample(lab, one.name) for one in REGISTRY[name].parameters if not one.is_output}
        arguments[parameter] = KEVENT("other") if value == "other" else value
        if value == "other" and parameter == "Event":
            arguments[parameter] = IO_CSQ()
        await call(name, arguments)

    one = run(script)
    assert one.code == "ke.bad-pointer"
    assert parameter in one.finding.detail


@pytest.mark.parametrize("name", ["IoCallDriver", "IoAttachDeviceToDeviceStack", "IoDetachDevice", "IoDeleteDevice"])
def test_a_device_in_freed_memory_is_found(name: str) -> None:
    async def script(lab: Lab) -> Any:
        gone, driver = await loaded(lab, "G", {})
        await driver.unload()
        arguments = {one.name: await sample(lab, one.name) for one in REGISTRY[name].parameters}
        for parameter in ("DeviceObject", "TargetDevice"):
            if parameter in arguments:
                arguments[parameter] = gone.device
        await call(name, arguments)

    assert run(script).code == "ke.use-after-free"


FREED = [
    name
    for name, parameter in TAKES
    if parameter == "Irp"
    and name not in {"IoCompleteRequest", "IofCompleteRequest", "IoCsqInsertIrp", "IoCsqInsertIrpEx"}
]


@pytest.mark.parametrize("name", FREED)
def test_an_irp_in_freed_memory_is_found(name: str) -> None:
    async def script(lab: Lab) -> Any:
        irp = await IoAllocateIrp(2, False)
        assert irp is not None
        await IoFreeIrp(irp)
        arguments = {
            one.name: irp if one.name == "Irp" else await sample(lab, one.name)
            for one in REGISTRY[name].parameters
            if not one.is_output
        }
        await call(name, arguments)

    assert run(script).code in {"ke.use-after-free", "ke.mark-after-queue"}


# Names, sizes, routines.


@pytest.mark.parametrize("value", [None, 7, b"name"])
@pytest.mark.parametrize(
    "name", ["IoCreateSymbolicLink", "IoDeleteSymbolicLink", "IoGetDeviceObjectPointer", "IoCreateDevice"]
)
def test_what_is_no_name_is_a_bad_pointer(name: str, value: Any) -> None:
    async def script(lab: Lab) -> Any:
        if name == "IoCreateDevice":
            one = await device(lab, "D", {})
            assert one.object is not None
            await IoCreateDevice(one.object, 0, value, 0, 0, False)
        elif name == "IoCreateSymbolicLink":
            await IoCreateSymbolicLink(r"\??\X", value)
        else:
            await call(name, {"Name": value} | ({"Access": 0} if name == "IoGetDeviceObjectPointer" else {}))

    # A device may have no name.
    assert run(script).code == (None if name == "IoCreateDevice" and value is None else "ke.bad-pointer")


def test_a_negative_size_is_one_that_there_is_no_memory_for() -> None:
    async def script(lab: Lab) -> Any:
        one = await device(lab, "D", {})
        assert one.object is not None
        block, event = IO_STATUS_BLOCK(), KEVENT("event")
        status, made = await IoCreateDevice(one.object, -1, None, 0, 0, False)
        return [
            status,
            made,
            await IoBuildSynchronousFsdRequest(IRP_MJ_READ, one.device, bytearray(4), -4, 0, event, block),
            await IoBuildAsynchronousFsdRequest(IRP_MJ_READ, one.device, bytearray(4), -4, 0, None),
            await IoBuildDeviceIoControlRequest(0, one.device, None, -1, None, 0, False, None, block),
            await IoBuildDeviceIoControlRequest(0, one.device, None, 0, None, -1, False, None, block),
        ]

    assert run(script).result == [STATUS_INSUFFICIENT_RESOURCES, None, None, None, None, None]


@pytest.mark.parametrize("size", [-1, 0])
def test_an_irp_without_stack_locations_is_none(size: int) -> None:
    async def script(lab: Lab) -> Any:
        await IoAllocateIrp(size, False)

    assert run(script).code == "ke.irp-no-location"


def test_a_queue_with_a_routine_that_is_null_is_found_when_it_is_called() -> None:
    async def script(lab: Lab) -> Any:
        queue = IO_CSQ("queue")
        nothing: Any = None
        _ = IoCsqInitialize(queue, nothing, nothing, nothing, nothing, nothing, nothing)
        await IoCsqRemoveNextIrp(queue, None)

    assert run(script).code == "ke.bad-pointer"


@pytest.mark.parametrize("routine", [7, "text"])
def test_a_dispatch_routine_that_is_none_is_a_bug_check(routine: Any) -> None:
    async def script(lab: Lab) -> Any:
        await device(lab, "D", {IRP_MJ_READ: routine})
        await (await lab.app.open(r"\\.\D")).read(4)

    assert run(script).code == "ke.unhandled-exception"


@pytest.mark.parametrize("value", [None, "text", 0x12345678])
def test_a_routine_that_returns_no_status_is_told_to_the_user(value: Any) -> None:
    async def dispatches(lab: Lab) -> Any:
        async def read(device: DEVICE_OBJECT, irp: IRP) -> Any:
            await complete(irp)
            return value

        await device(lab, "D", {IRP_MJ_READ: read})
        await (await lab.app.open(r"\\.\D")).read(4)

    async def completes(lab: Lab) -> Any:
        below = await device(lab, "B", {IRP_MJ_READ: succeed})

        async def completed(device: Any, irp: IRP, context: Any) -> Any:
            return value

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            own = await IoAllocateIrp(1, False)
            assert own is not None
            wdm.IoGetNextIrpStackLocation(own).MajorFunction = IRP_MJ_READ
            IoSetCompletionRoutine(own, completed, None, True, True, True)
            await IoCallDriver(below.device, own)
            return await complete(irp)

        await device(lab, "D", {IRP_MJ_READ: read})
        await (await lab.app.open(r"\\.\D")).read(4)

    for script in (dispatches, completes):
        with pytest.raises(UsageError, match="which is no status"):
            run(script)


def test_deleting_a_device_in_freed_memory_again_is_found() -> None:
    async def script(lab: Lab) -> Any:
        one = await device(lab, "D", {})
        await IoDeleteDevice(one.device)
        await IoDeleteDevice(one.device)

    assert run(script).code == "ke.use-after-free"
