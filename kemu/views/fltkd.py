"""The extension commands of WinDbg that show the filter manager: ``!fltkd.filters`` and its kin.

Addresses are made of the objects' names: the same in every run that has the object, and no place in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from kemu.errors import UsageError
from kemu.fltmgr.altitude import altitude_key
from kemu.fltmgr.frame import Frame, IrpCtrl
from kemu.fltmgr.generated import GeneratedRequest
from kemu.fltmgr.initiated import GeneratedIo
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.objects import ATTACHED, DRAINING, GONE, TEARING_DOWN, Filter, FltVolume, Instance, RundownObject
from kemu.fltmgr.ports import Ports
from kemu.io.constants import IRP_MJ_OPERATION_END, major_name
from kemu.io.irp import address
from kemu.io.manager import IoManager
from kemu.io.request import CLASS_NAMES, Request
from kemu.nt.kthread import KThread
from kemu.nt.system import System
from kemu.runtime import Cell, Runtime

INSTANCE_STATES: Final = {
    ATTACHED: "attached",
    TEARING_DOWN: "tearing down: InstanceTeardownStart",
    DRAINING: "tearing down: draining",
    GONE: "gone",
}
IRQL_NAMES: Final = {0: "PASSIVE_LEVEL", 1: "APC_LEVEL", 2: "DISPATCH_LEVEL"}


def _at(cell: Cell) -> str:
    return f"{address(cell):016x}"


def filter_list(system: System) -> Iterator[str]:
    """``!fltkd.filters``: every filter with its instances."""
    manager = system.get(FilterManager)
    yield f'Filter List: {_at(manager.presence)} "Frame 0"'
    yield from _filters(manager, "   ")


def frames(system: System) -> Iterator[str]:
    """``!fltkd.frames``: the one frame, with what ``!fltkd.filters`` shows."""
    manager = system.get(FilterManager)
    highest = max((one.altitude for one in manager.filters), key=lambda text: altitude_key(text) or (), default="0")
    yield "Frame List:"
    yield f'   FLTP_FRAME: {_at(manager.presence)} "Frame 0" "0 to {highest}"'
    yield from _filters(manager, "      ")


def _filters(manager: FilterManager, indent: str) -> Iterator[str]:
    for one in manager.filters:
        yield f'{indent}FLT_FILTER: {_at(one)} "{one.filter_name}" "{one.altitude}"'
        for instance in one.instances:
            yield f"{indent}   {_instance_line(instance)}"


def _instance_line(instance: Instance) -> str:
    return f'FLT_INSTANCE: {_at(instance)} "{instance.instance_name}" "{instance.altitude}"'


def volume_list(system: System) -> Iterator[str]:
    """``!fltkd.volumes``: every volume with its instances, highest altitude first."""
    manager = system.get(FilterManager)
    yield f'Volume List: {_at(manager.presence)} "Frame 0"'
    for volume in manager.volumes:
        yield f'   FLT_VOLUME: {_at(volume)} "{volume.device_name}"'
        for instance in volume.instances:
            yield f"      {_instance_line(instance)}"


def instance_list(system: System) -> Iterator[str]:
    """``!fltkd.instances``: every instance, by volume."""
    for volume in system.get(FilterManager).volumes:
        for instance in volume.instances:
            yield f"{_instance_line(instance)} on {volume.volume.dos_name}"


def filter_of(system: System, which: str) -> Iterator[str]:
    """``!fltkd.filter``: one filter."""
    one = _pick(system.get(FilterManager).filters, which, "filter", lambda each: each.filter_name)
    registration = one.registration
    yield f'FLT_FILTER: {_at(one)} "{one.filter_name}" "{one.altitude}"'
    yield f"   FLT_OBJECT: {_at(one)}"
    yield from _rundown(one)
    initiated = "FilteringInitiated" if one.started else ""
    yield f"   Flags                    : [{'00000002' if one.started else '00000000'}] {initiated}".rstrip()
    yield f"   DriverObject             : {one.driver_object.name}"
    for name, callback in (
        ("FilterUnload", registration.FilterUnloadCallback),
        ("InstanceSetup", registration.InstanceSetupCallback),
        ("InstanceQueryTeardown", registration.InstanceQueryTeardownCallback),
        ("InstanceTeardownStart", registration.InstanceTeardownStartCallback),
        ("InstanceTeardownComplete", registration.InstanceTeardownCompleteCallback),
        ("TransactionNotification", registration.TransactionNotificationCallback),
        ("SectionNotification", registration.SectionNotificationCallback),
    ):
        yield f"   {name:<25}: {_callback(callback)}"
    yield "   Operations"
    for operation in registration.OperationRegistration:
        if operation.MajorFunction == IRP_MJ_OPERATION_END:
            break
        pre, post = _callback(operation.PreOperation), _callback(operation.PostOperation)
        yield f"      {major_name(operation.MajorFunction):<40} flags {operation.Flags:#x}  pre {pre}  post {post}"
    yield "   Instances"
    for instance in one.instances:
        yield f"      {_instance_line(instance)} on {instance.volume.volume.dos_name}"
    yield from _ports(system, one)
    yield from _contexts(one)


def _ports(system: System, filter_: Filter) -> Iterator[str]:
    servers = system.get(Ports).of(filter_)
    if servers:
        yield "   Ports"
    for server in servers:
        closed = f"  closed by {server.closed_by}" if server.closed_by else ""
        taken = f"{server.taken} of {server.limit}"
        yield f'      FLT_SERVER_PORT_OBJECT: {_at(server)} "{server.port_name}"  {taken}{closed}'
        for port in server.connections:
            state = "connected" if port.connected else "disconnected"
            messages = f"{len(port.queue)} queued, {len(port.waiting)} unanswered"
            yield f"         FLT_PORT_OBJECT: {_at(port)} {port.process.label}  {state}, {messages}"


def _contexts(filter_: Filter) -> Iterator[str]:
    if filter_.contexts:
        yield "   Contexts"
    for context in filter_.contexts:
        where = f"linked, {context.slot.label}" if context.slot is not None else context.unlinked or "not linked"
        references = len(context.holds) + len(context.bound) + (context.slot is not None)
        held = f", held {context.held_words()}" if context.holds or context.bound else ""
        yield f"      {_at(context)} {context.label}  references {references}  {where}{held}"


def instance_of(system: System, which: str) -> Iterator[str]:
    """``!fltkd.instance``: one instance, with the operations that it takes part in."""
    found = [one for volume in system.get(FilterManager).volumes for one in volume.instances]
    one = _pick(found, which, "instance", lambda each: each.instance_name)
    yield _instance_line(one)
    yield f"   FLT_OBJECT: {_at(one)}"
    yield from _rundown(one)
    yield f"   OperationRundownRef      : {len(one.outstanding)}"
    yield f"   Flags                    : {INSTANCE_STATES[one.state]}"
    yield f"   Volume                   : {_at(one.volume)} {one.volume.volume.dos_name}"
    yield f'   Filter                   : {_at(one.filter)} "{one.filter.filter_name}"'
    for major in sorted(one.nodes):
        node = one.nodes[major]
        routines = f"pre {_callback(node.pre)}  post {_callback(node.post)}"
        yield f"   CallbackNodes            : {major_name(major)}  {routines}"
    for queue in one.queues:
        yield f"   Queue                    : {_at(queue)} {queue.label}"
    for frame in one.outstanding:
        operation = frame.operation
        yield f"   Operation                : {operation.request.label} {_at(operation)} ({frame.state_name})"


def volume_of(system: System, which: str) -> Iterator[str]:
    """``!fltkd.volume``: one volume."""
    manager = system.get(FilterManager)
    one: FltVolume = _pick(manager.volumes, which, "volume", lambda each: each.volume.dos_name)
    yield f'FLT_VOLUME: {_at(one)} "{one.device_name}"'
    yield from _rundown(one)
    yield f"   DosName                  : {one.volume.dos_name}"
    yield f"   GuidName                 : {one.guid_name}"
    yield f"   FileSystem               : {one.kind.filesystem}{'' if one.kind.writable else ', read-only'}"
    yield f"   Status                   : {'mounted' if one.volume.filesystem.is_mounted else 'dismounted'}"
    for instance in one.instances:
        yield f"   {_instance_line(instance)}"


def operations(system: System) -> list[Request]:
    """The requests that are under way in the filter manager: those from above, then the filters' own; oldest first."""
    found: list[Request] = [*system.get(IoManager).outstanding]
    found += [one for one in system.get(GeneratedIo).outstanding if one not in found]
    return [one for one in found if not one.done and isinstance(one.filter_context, IrpCtrl)]


def irp_list(system: System) -> Iterator[str]:
    """``!fltkd.irplist``: the operations that are under way."""
    found = operations(system)
    for number, request in enumerate(found, 1):
        operation: Any = request.filter_context
        states = [", ".join(f"{frame.label} {frame.state_name}" for frame in operation.frames)]
        if isinstance(request, GeneratedRequest):
            states.append(f"from {request.initiator.label}")
        tail = "  ".join(filter(None, states))
        yield f"irp{number}  {request.label:<28} {request.file.FileName}  {tail}".rstrip()
    if not found:
        yield "no operation is under way"


def callback_data(system: System, which: str) -> Iterator[str]:
    """``!fltkd.cbd``: one operation, by its number in ``!fltkd.irplist``: IRP_CTRL, callback data, completion nodes."""
    found = operations(system)
    if not found:
        yield "no operation is under way"
        return
    number = which.removeprefix("irp") or "1"
    if not number.isdecimal() or not 1 <= int(number) <= len(found):
        raise UsageError(
            f"{which!r} is none of the operations under way",
            remedy=f"give irp1{f' to irp{len(found)}' if len(found) > 1 else ''}; !fltkd.irplist lists them",
        )
    request = found[int(number) - 1]
    operation = request.filter_context
    assert isinstance(operation, IrpCtrl)
    yield f"IRP_CTRL: {_at(operation)}  {request.label}, minor {request.minor} ({CLASS_NAMES[request.kind]})"
    yield f"FileObject               : {_at(request.file)} {request.file.FileName}"
    yield f"CompletionNodeStack      : Size={len(operation.frames)} Next={operation.up}"
    thread = "NULL" if request.thread is None else request.thread.label
    yield f"Thread                   : {thread}  RequestorMode : {request.mode}"
    yield f"IoStatus                 : {request.status}, Information {request.information}"
    yield "Node  Cmd                                Callbacks / state"
    for index, frame in enumerate(operation.frames):
        yield from _node(index, frame)


def _node(index: int, frame: Frame) -> Iterator[str]:
    node = frame.node
    yield (
        f'[{index:x},{node.flags:x}]  {major_name(node.major):<34} ("{node.filter.filter_name}",'
        f'"{frame.instance.instance_name}") post {_callback(node.post)}'
    )
    inside = ", ".join(thread.label for thread in frame.inside)
    detail = f"{frame.state_name}, flags {frame.flags:#010x}"
    if frame.context is not None:
        detail += f", completion context {type(frame.context).__name__}"
    yield f"       {detail}{f', inside: {inside}' if inside else ''}"


def _rundown(one: RundownObject) -> Iterator[str]:
    held = [*one.references, *one.holds]
    who = f" ({', '.join(held)})" if held else ""
    yield f"   RundownRef               : {len(held)}{who}{' deleting' if one.deleting else ''}"


def _callback(callback: object) -> str:
    return "(null)" if callback is None else str(getattr(callback, "__qualname__", type(callback).__name__))


def _pick(found: list[Any], which: str, what: str, name: Callable[[Any], str]) -> Any:
    wanted = which.strip('"').casefold()
    matching = [one for one in found if wanted in {name(one).casefold(), _at(one)}]
    if not matching and not wanted and len(found) == 1:
        return found[0]
    if not matching:
        names = ", ".join(dict.fromkeys(name(one) for one in found)) or f"there is no {what}"
        raise UsageError(f"{which!r} is no {what} at this step", remedy=f"choose from: {names}")
    return matching[0]


# What is not the filter manager's.


def thread_list(runtime: Runtime) -> Iterator[str]:
    """``!thread``: every thread that lives, where it stands, and at which level."""
    for thread in runtime.threads:
        if not thread.alive or thread.service:
            continue
        irql = thread.irql if isinstance(thread, KThread) else 0
        waits = "waits to " if thread.parked else "next: "
        actor = f" in {thread.actor.label}" if thread.actor is not None else ""
        yield f"{thread.label:<24} {IRQL_NAMES.get(irql, str(irql)):<14} {waits}{thread.op.describe()}{actor}"


def lock_list(runtime: Runtime) -> Iterator[str]:
    """``!locks``: what threads hold."""
    held = [(lock, one) for one in runtime.threads if isinstance(one, KThread) and one.alive for lock in one.locks]
    for lock, thread in held:
        yield f"{lock.label:<32} held by {thread.label}"
    if not held:
        yield "no lock is held"


LISTS: Final[dict[str, Callable[[System], Iterator[str]]]] = {
    "filters": filter_list,
    "frames": frames,
    "volumes": volume_list,
    "instances": instance_list,
    "irplist": irp_list,
}
"""The extension's commands that take nothing."""

DETAILS: Final[dict[str, Callable[[System, str], Iterator[str]]]] = {
    "filter": filter_of,
    "instance": instance_of,
    "volume": volume_of,
    "cbd": callback_data,
    "irpctrl": callback_data,
}
"""Those that take one object: its name or its address."""
