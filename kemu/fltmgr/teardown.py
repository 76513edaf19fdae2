"""Taking an instance down (FLT-INST-16): mark, start, drain, wait, complete, free."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from kemu.fltmgr.constants import FLTFL_INSTANCE_TEARDOWN_MANUAL
from kemu.fltmgr.context_end import unlink_all
from kemu.fltmgr.frame import AWAIT_POST, NOT_CALLED, PASSED, Frame
from kemu.fltmgr.initiated import GeneratedIo
from kemu.fltmgr.messages import InstanceTeardown
from kemu.fltmgr.objects import (
    DRAINING,
    GONE,
    TEARING_DOWN,
    Filter,
    FltVolume,
    Instance,
    WaitRundown,
    hold,
    let_go,
)
from kemu.fltmgr.pipeline import drain
from kemu.fltmgr.related import related_objects
from kemu.fltmgr.structures import InstanceTeardownCallback
from kemu.io.manager import IoManager
from kemu.io.request import IRP_OPERATION
from kemu.nt.driver import in_driver, status_of
from kemu.nt.kthread import PASSIVE_LEVEL, KThread, current_kthread
from kemu.nt.process import Process
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_FLT_DO_NOT_DETACH,
    STATUS_FLT_INSTANCE_NOT_FOUND,
    STATUS_SUCCESS,
)
from kemu.runtime import BlockingOperation, Cell, Deliver, Join, Operation, Point, Thread, current_thread

if TYPE_CHECKING:
    from kemu.fltmgr.manager import FilterManager
from kemu.nt.system import Options, report


class BeginTeardown(Operation[bool]):
    """Mark an instance as going away; false if somebody has done so already."""

    __slots__ = ("instance",)
    kind = "begin the teardown of"

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    def perform(self, thread: Thread) -> bool:
        instance = self.instance
        thread.write(instance)
        thread.acquire(instance)
        # Who begins an operation from now on does not see the instance: that is a change of the volume's stack.
        thread.write(instance.volume)
        if instance.deleting:
            return False
        instance.deleting = True
        instance.state = TEARING_DOWN
        return True

    def target(self) -> Cell:
        return self.instance


class EndTeardown(Operation[None]):
    """Take an instance off its volume."""

    __slots__ = ("instance",)
    kind = "free"

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    def perform(self, thread: Thread) -> None:
        instance = self.instance
        thread.write(instance.volume)
        thread.write(instance)
        thread.release(instance)
        thread.release_to_waiter(instance.filter)
        instance.state = GONE
        instance.volume.instances.remove(instance)
        instance.filter.instances.remove(instance)
        instance.free(thread, f"which {thread.label} has freed at the end of its teardown")
        instance.changed()

    def target(self) -> Cell:
        return self.instance


async def teardown(manager: FilterManager, instance: Instance, reason: int) -> None:
    """Take down an instance that `BeginTeardown` has marked, on the calling thread at PASSIVE_LEVEL."""
    registration = instance.filter.registration
    manager.observer.teardown_started(instance)
    await call(instance, registration.InstanceTeardownStartCallback, "start", reason)
    thread = current_thread()
    thread.write(instance)
    instance.state = DRAINING
    manager.observer.teardown_start_returned(instance)
    finished = False
    while not finished:
        for frame in list(instance.outstanding):
            thread.read(frame)
            if drains(frame):
                await drain(manager.pipeline, frame)
            elif must_cancel(frame):
                assert frame.swap is not None
                frame.swap.cancelled = True
                await manager.system.get(IoManager).cancel(frame.operation.request)
        # A callback that was running may still ask for a post-operation callback: that one is drained as well.
        finished = await WaitOutstanding(instance)
    await call(instance, registration.InstanceTeardownCompleteCallback, "complete", reason)
    left = manager.system.get(GeneratedIo).still_open(current_thread(), instance)
    if left is not None:
        report("teardown-file-leak", f"{left.file.label} is still open, which was opened through {instance.label}")
    manager.observer.teardown_complete_returned(instance)
    # References delay only the freeing, not TeardownComplete (FLT-INST-30).
    await WaitRundown(instance)
    await unlink_all(manager.contexts, instance)
    await EndTeardown(instance)


def drains(frame: Frame) -> bool:
    """Whether a teardown gives *frame* its post-operation callback early; others are waited for."""
    if frame.state != AWAIT_POST or frame.swap is not None:
        return False
    operation = frame.operation
    options: Options = frame.creator.runtime.system.options
    if operation.is_create:
        return options.drain_creates
    return operation.request.kind == IRP_OPERATION or options.drain_fast_io


def must_cancel(frame: Frame) -> bool:
    """Whether a teardown has to cancel the operation of *frame*: one with swapped buffers cannot be drained, because
    the buffer is in use below (FLT-INST-26).
    """
    return frame.state == AWAIT_POST and frame.swap is not None and not frame.swap.cancelled


class WaitOutstanding(BlockingOperation[bool]):
    """Wait until no operation is outstanding on an instance; false if there is one that may have to be drained first.

    An operation that has not come as far as the instance, because a higher one holds it, is not waited for: the
    instance will not be asked any more.
    """

    __slots__ = ("instance",)
    kind = "see the operations finished of"
    opaque = True

    def __init__(self, instance: Instance) -> None:
        super().__init__(instance)
        self.instance = instance

    def available(self, thread: Thread) -> bool:
        waits = bool(self.instance.initiated)
        for frame in self.instance.outstanding:
            if drains(frame) or must_cancel(frame):
                return True
            waits = waits or frame.state != NOT_CALLED
        return not waits

    def take(self, thread: Thread) -> bool:
        instance = self.instance
        thread.write(instance)
        thread.acquire_as_waiter(instance.operations)
        if instance.initiated:
            return False
        for frame in instance.outstanding:
            thread.read(frame)
            # The operation may have moved on since this thread was woken: then it looks again.
            if frame.state != NOT_CALLED:
                return False
        for frame in instance.outstanding:
            thread.write(frame)
            frame.state = PASSED
        instance.outstanding.clear()
        return True

    def describe(self) -> str:
        frames = [f"{f.operation.request.label} ({f.state_name})" for f in self.instance.outstanding]
        names = ", ".join([*frames, *(f"{request.label} (initiated)" for request in self.instance.initiated)])
        return f"see the operations of {self.instance.label} finished" + (f" ({names})" if names else "")


async def call(instance: Instance, callback: InstanceTeardownCallback | None, phase: str, reason: int) -> None:
    """Call one of the teardown callbacks, if the filter has it (FLT-REG-14)."""
    log = current_thread().runtime.log
    if log is not None:
        log("flt.instance.teardown", flt=instance.filter.driver.label, inst=instance.instance_name, phase=phase)
    if callback is not None:
        await Deliver(instance.filter.driver, InstanceTeardown, instance)
        await in_driver(
            instance.filter.driver, f"InstanceTeardown {phase}", callback, related_objects(instance), reason
        )


async def detach(manager: FilterManager, filter_: Filter, volume: FltVolume, name: str | None = None) -> NTSTATUS:
    """``fltmc detach``: take down the highest instance of *filter_* on *volume*, or that called *name*, if it agrees.

    STATUS_FLT_INSTANCE_NOT_FOUND, STATUS_FLT_DELETING_OBJECT if it is going away already (FLT-INST-13),
    STATUS_FLT_DO_NOT_DETACH if InstanceQueryTeardown vetoes or is missing (FLT-INST-14, FLT-REG-14).
    """
    instance = next(
        (one for one in volume.instances if one.filter is filter_ and name in {None, one.instance_name}), None
    )
    thread = current_kthread()
    thread.read(volume)
    if instance is None:
        return STATUS_FLT_INSTANCE_NOT_FOUND
    if instance.deleting:
        return STATUS_FLT_DELETING_OBJECT
    if any(thread in frame.inside for frame in instance.outstanding):
        # The teardown waits for the very callback that asks for it: only the question is put here (FLT-RACE-30).
        status = await may_detach(instance)
        if NT_SUCCESS(status):
            begin_detached(manager, instance)
            await Point("return from FltDetachVolume", instance)
        return status
    if thread.irql > PASSIVE_LEVEL:
        results: list[NTSTATUS] = []

        async def at_passive_level() -> None:
            results.append(await detach_now(manager, instance))

        await Join(system_thread(manager, f"detach:{instance.instance_name}", at_passive_level()))
        return results[0]
    return await detach_now(manager, instance)


async def detach_now(manager: FilterManager, instance: Instance) -> NTSTATUS:
    """Take *instance* down on the calling thread, if its filter agrees."""
    status = await may_detach(instance)
    if NT_SUCCESS(status):
        await teardown(manager, instance, FLTFL_INSTANCE_TEARDOWN_MANUAL)
    return status


async def may_detach(instance: Instance) -> NTSTATUS:
    """Ask the filter whether *instance* may be detached, and mark it as going away if so."""
    filter_ = instance.filter
    thread = current_thread()
    query = filter_.registration.InstanceQueryTeardownCallback
    if query is None:
        return STATUS_FLT_DO_NOT_DETACH
    # An unload that begins meanwhile waits for the driver's answer (FLT-ORD-07).
    hold(thread, filter_, thread.label)
    thread.acquire(instance)
    await Deliver(filter_.driver, InstanceTeardown, instance)
    returned = await in_driver(filter_.driver, "InstanceQueryTeardown", query, related_objects(instance), 0)
    status = status_of(filter_.driver, "InstanceQueryTeardown", query, returned)
    let_go(thread, filter_, thread.label)
    if not NT_SUCCESS(status):
        return status
    return STATUS_SUCCESS if await BeginTeardown(instance) else STATUS_FLT_DELETING_OBJECT


def begin_detached(manager: FilterManager, instance: Instance) -> None:
    """Have a system thread take down *instance*, which is marked."""
    coroutine = teardown(manager, instance, FLTFL_INSTANCE_TEARDOWN_MANUAL)
    system_thread(manager, f"detach:{instance.instance_name}", coroutine)


def system_thread(manager: FilterManager, name: str, coroutine: Coroutine[Any, Any, None]) -> KThread:
    """A thread of the System process, at PASSIVE_LEVEL, that runs *coroutine*."""
    thread = manager.system.runtime.spawn(name, coroutine)
    assert isinstance(thread, KThread)
    thread.process = manager.system.get(Process)
    return thread
