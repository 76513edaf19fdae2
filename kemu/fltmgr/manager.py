"""The filter manager: the actor on top of each volume it filters."""

from __future__ import annotations

from typing import cast

from kemu.fltmgr.altitude import altitude_key
from kemu.fltmgr.constants import (
    FILE_DEVICE_DISK_FILE_SYSTEM,
    FLT_FILESYSTEM_TYPE_NTFS,
    FLTFL_INSTANCE_SETUP_AUTOMATIC_ATTACHMENT,
    FLTFL_INSTANCE_SETUP_MANUAL_ATTACHMENT,
)
from kemu.fltmgr.context_end import Contexts, unlink_all
from kemu.fltmgr.frame import Frame, IrpCtrl
from kemu.fltmgr.messages import InstanceSetup
from kemu.fltmgr.objects import Filter, FltVolume, Instance, hold, let_go
from kemu.fltmgr.observer import FltObserver
from kemu.fltmgr.pipeline import Pipeline
from kemu.fltmgr.structures import FLT_RELATED_OBJECTS
from kemu.io.request import Request
from kemu.io.volume import Volume
from kemu.nt.driver import DRIVER_OBJECT, in_driver, status_of
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_FLT_DO_NOT_ATTACH,
    STATUS_FLT_FILTER_NOT_READY,
    STATUS_FLT_INSTANCE_ALTITUDE_COLLISION,
    STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS,
)
from kemu.nt.system import System
from kemu.runtime import Actor, Deliver, Operation, Thread, current_thread


class FilterManager(Actor):
    """Filters, volumes and instances of one run, and the way of operations through them."""

    kind = "fltmgr"

    def __init__(self, system: System, observer: FltObserver) -> None:
        super().__init__(system.runtime, "fltmgr")
        self.system = system
        self.observer = observer
        self.pipeline = Pipeline(self)
        self.filters: list[Filter] = []
        self.volumes: list[FltVolume] = []
        self.by_driver: dict[DRIVER_OBJECT, Filter] = {}
        self.contexts = Contexts()
        system.add(self.contexts)

    def mount(self, volume: Volume) -> FltVolume:
        """Put the filter manager on top of *volume*."""
        flt_volume = FltVolume(volume)
        self.volumes.append(flt_volume)
        volume.top = _VolumeTop(self, flt_volume)
        volume.filesystem.completer = volume.top
        if self.contexts.on_files:
            volume.filesystem.contexts = self.contexts
        return flt_volume

    def keep_file_contexts(self) -> None:
        """A filter has contexts that go with files: have the file systems tell when one is closed."""
        self.contexts.on_files = True
        for volume in self.volumes:
            volume.volume.filesystem.contexts = self.contexts

    async def attach(
        self, filter_: Filter, volume: FltVolume, altitude: str, *, automatic: bool
    ) -> tuple[NTSTATUS, Instance | None]:
        """Attach an instance of *filter_* to *volume* at *altitude* on the calling thread (PASSIVE_LEVEL).

        InstanceSetup may refuse; no callback is made before it has agreed (FLT-INST-03, FLT-INST-07). An unload that
        begins meanwhile waits until this is decided, and then takes the instance down.
        """
        key = altitude_key(altitude)
        if key is None:
            return STATUS_INVALID_PARAMETER, None
        if not filter_.started:
            return STATUS_FLT_FILTER_NOT_READY, None
        thread = current_thread()
        thread.read(filter_)
        thread.acquire(filter_)
        if filter_.deleting:
            return STATUS_FLT_DELETING_OBJECT, None
        thread.write(volume)
        if any(instance.key == key for instance in (*volume.instances, *volume.arriving)):
            return STATUS_FLT_INSTANCE_ALTITUDE_COLLISION, None
        instance = Instance(filter_, volume, altitude, key, f"{filter_.driver_object.name} Instance")
        volume.arriving.append(instance)
        hold(thread, filter_, thread.label)
        status = await self._set_up(instance, automatic=automatic)
        if NT_SUCCESS(status):
            await Attach(instance)
            status = STATUS_SUCCESS
        else:
            await unlink_all(self.contexts, instance)
            thread.write(volume)
            volume.arriving.remove(instance)
            status = STATUS_FLT_DO_NOT_ATTACH
        let_go(thread, filter_, thread.label)
        return status, instance if status == STATUS_SUCCESS else None

    async def _set_up(self, instance: Instance, *, automatic: bool) -> NTSTATUS:
        """Ask the driver whether *instance* may be attached."""
        filter_ = instance.filter
        setup = filter_.registration.InstanceSetupCallback
        if setup is None:
            return STATUS_SUCCESS
        await Deliver(filter_.driver, InstanceSetup, filter_)
        flags = FLTFL_INSTANCE_SETUP_AUTOMATIC_ATTACHMENT if automatic else FLTFL_INSTANCE_SETUP_MANUAL_ATTACHMENT
        returned = await in_driver(
            filter_.driver,
            "InstanceSetup",
            setup,
            related_objects(instance),
            flags,
            FILE_DEVICE_DISK_FILE_SYSTEM,
            FLT_FILESYSTEM_TYPE_NTFS,
        )
        status = status_of(filter_.driver, "InstanceSetup", setup, returned)
        log = current_thread().runtime.log
        if log is not None:
            log(
                "flt.instance.setup",
                flt=filter_.driver.label,
                inst=instance.instance_name,
                alt=instance.altitude,
                status=status,
            )
        return status

    async def dispatch(self, request: Request, volume: FltVolume) -> bool:
        """Take a request in its originator's thread; return whether it is complete."""
        return await self.pipeline.start(await Begin(request, volume))


class _VolumeTop:
    """The filter manager's device object on a volume: the top of the volume's stack."""

    def __init__(self, manager: FilterManager, volume: FltVolume) -> None:
        self.manager = manager
        self.volume = volume

    async def dispatch(self, request: Request) -> bool:
        return await self.manager.dispatch(request, self.volume)

    async def completed(self, request: Request) -> None:
        """The file system has completed *request* later, in the calling thread."""
        await self.manager.pipeline.complete_up(operation_of(request), None)


def operation_of(request: Request) -> IrpCtrl:
    """The filter manager's record of *request*."""
    return cast("IrpCtrl", request.filter_context)


class Begin(Operation[IrpCtrl]):
    """An operation enters the filter manager: the instances that take part in it are fixed."""

    __slots__ = ("request", "volume")
    kind = "begin"

    def __init__(self, request: Request, volume: FltVolume) -> None:
        self.request = request
        self.volume = volume

    def perform(self, thread: Thread) -> IrpCtrl:
        thread.read(self.volume)
        request = self.request
        request.filter_context = operation = IrpCtrl(request)
        frames = operation.frames
        major = request.major
        for instance in self.volume.instances:
            node = instance.nodes.get(major)
            # Operations that arrive after the teardown has begun are not shown to the instance (FLT-INST-18).
            if node is not None and not instance.deleting and not (node.flags and node.skips(request)):
                frame = Frame(operation, node, len(frames))
                frames.append(frame)
                instance.outstanding.append(frame)
        return operation

    def target(self) -> FltVolume:
        return self.volume

    def describe(self) -> str:
        return f"begin {self.request.label} on {self.volume.label}"


class Attach(Operation[None]):
    """An instance joins its volume's stack."""

    __slots__ = ("instance",)
    kind = "attach"

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    def perform(self, thread: Thread) -> None:
        instance = self.instance
        volume = instance.volume
        thread.write(volume)
        thread.write(instance.filter)
        thread.release(instance)
        volume.arriving.remove(instance)
        volume.instances.append(instance)
        volume.instances.sort(key=lambda other: other.key, reverse=True)
        instance.filter.instances.append(instance)

    def target(self) -> FltVolume:
        return self.instance.volume

    def describe(self) -> str:
        return f"attach {self.instance.label}"


class _NoOperation:
    """Stands where a frame would be in the related objects of an instance callback."""

    __slots__ = ("file", "instance")

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.file = None


def related_objects(instance: Instance) -> FLT_RELATED_OBJECTS:
    """The related objects of an instance callback, which has no operation."""
    return FLT_RELATED_OBJECTS(cast("Frame", _NoOperation(instance)))
