"""The filter manager: the actor on top of each volume it filters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from kemu.fltmgr.altitude import altitude_key
from kemu.fltmgr.constants import (
    FLTFL_INSTANCE_SETUP_AUTOMATIC_ATTACHMENT,
    FLTFL_INSTANCE_SETUP_MANUAL_ATTACHMENT,
    FLTFL_INSTANCE_SETUP_NEWLY_MOUNTED_VOLUME,
)
from kemu.fltmgr.context_end import Contexts, unlink_all
from kemu.fltmgr.frame import Frame, IrpCtrl
from kemu.fltmgr.instance_constants import FLTFL_INSTANCE_SETUP_DETACHED_VOLUME, INSTANCE_NAME_MAX_CHARS
from kemu.fltmgr.messages import InstanceSetup
from kemu.fltmgr.objects import ASKED, UNASKED, Filter, FltVolume, Instance, RundownObject, hold, let_go
from kemu.fltmgr.observer import FltObserver
from kemu.fltmgr.pipeline import Pipeline
from kemu.fltmgr.related import related_objects
from kemu.fltmgr.service import Service
from kemu.fltmgr.teardown import system_thread
from kemu.fltmgr.volumes import NTFS, VolumeKind, dismount, first_operation
from kemu.io.request import Request
from kemu.io.volume import Volume
from kemu.nt.callout import INSTANCE_SETUP
from kemu.nt.driver import DRIVER_OBJECT, DriverActor, in_driver, status_of
from kemu.nt.kthread import current_kthread
from kemu.nt.status import (
    NT_SUCCESS,
    NTSTATUS,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_FLT_DO_NOT_ATTACH,
    STATUS_FLT_FILTER_NOT_READY,
    STATUS_FLT_INSTANCE_ALTITUDE_COLLISION,
    STATUS_FLT_INSTANCE_NAME_COLLISION,
    STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS,
)
from kemu.nt.system import Leftover, System
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
        self.services: dict[str, Service] = {}
        """The service keys of minifilters that have more than an altitude, by name."""
        self.loading: list[str] = []
        """The services whose DriverEntry FltLoadFilter has called and is waiting for."""
        self.mounted = 0
        """How many volumes there have been."""

    def mount(self, volume: Volume, kind: VolumeKind = NTFS) -> FltVolume:
        """Put the filter manager on top of *volume*. The filters that there are learn of it with its first operation,
        the highest first (FLT-INST-02, FLT-INST-38).
        """
        self.mounted += 1
        flt_volume = FltVolume(volume, kind, self.mounted)
        thread = current_thread()
        thread.write(self.presence)
        self.volumes.append(flt_volume)
        volume.top = _VolumeTop(self, flt_volume)
        volume.filesystem.completer = volume.top
        if self.contexts.on_files:
            volume.filesystem.contexts = self.contexts
        there = [one for one in self.filters if one.started and not one.deleting]
        if there:
            there.sort(key=lambda one: altitude_key(one.altitude) or (0, "", ""), reverse=True)
            flt_volume.newcomers = tuple(there)
            flt_volume.is_late, flt_volume.stage = True, UNASKED

        def emptied(closing: Thread) -> None:
            system_thread(self, f"dismount:{volume.dos_name}", dismount(self, flt_volume))

        volume.filesystem.emptied = emptied
        return flt_volume

    def keep_file_contexts(self) -> None:
        """A filter has contexts that go with files: have the file systems tell when one is closed."""
        self.contexts.on_files = True
        for volume in self.volumes:
            volume.volume.filesystem.contexts = self.contexts

    def volume_of(self, volume: Volume) -> FltVolume | None:
        """The filter manager's view of *volume*; None if it was dismounted and is gone."""
        current_thread().read(self.presence)
        return next((one for one in self.volumes if one.volume is volume), None)

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """The references that *driver* has taken and not dropped (FLT-REF-03)."""
        for object_ in self.objects():
            for who, owner in zip(object_.references, object_.drivers, strict=True):
                if owner is driver:
                    yield Leftover("ref-leak", f"a reference on {object_.label}, which {who} took,")

    def objects(self) -> Iterator[RundownObject]:
        """Whatever can be referenced and is there, in order."""
        yield from self.filters
        for volume in self.volumes:
            yield volume
            yield from volume.instances

    def torn_down(self) -> list[Instance]:
        """The instances that are being taken down."""
        return [one for volume in self.volumes for one in volume.instances if one.deleting]

    async def attach_all(self, filter_: Filter, volume: FltVolume, *, newly_mounted: bool = False) -> None:
        """Offer *volume* to the instances of *filter_* that are attached automatically."""
        for definition in filter_.definitions:
            if definition.is_automatic:
                # The name of an instance that is in no service key is not asked for, and gives way.
                name = definition.name if filter_.filter_name in self.services else None
                await self.attach(
                    filter_, volume, definition.altitude, name=name, automatic=True, newly_mounted=newly_mounted
                )

    async def attach(
        self,
        filter_: Filter,
        volume: FltVolume,
        altitude: str,
        *,
        automatic: bool,
        name: str | None = None,
        newly_mounted: bool = False,
        referenced: bool = False,
    ) -> tuple[NTSTATUS, Instance | None]:
        """Attach an instance of *filter_* called *name* to *volume* at *altitude*, at PASSIVE_LEVEL.

        InstanceSetup may refuse; no callback is made before it has agreed (FLT-INST-03, FLT-INST-07). An unload that
        begins meanwhile waits until this is decided, and then takes the instance down. If it is *referenced*, the
        caller gets a reference with it. Without a name the first one that is free on the volume is given.
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
        if volume.deleting:
            return STATUS_FLT_DELETING_OBJECT, None
        if volume.kind.needs & ~filter_.registration.Flags:
            # The filter has not registered that it can do with such a volume (FLT-REG-15).
            return STATUS_FLT_DO_NOT_ATTACH, None
        there = (*volume.instances, *volume.arriving)
        if any(instance.key == key for instance in there):
            return STATUS_FLT_INSTANCE_ALTITUDE_COLLISION, None
        if name is None:
            name = _free_name(filter_, altitude, there)
        elif any(instance.instance_name == name for instance in there):
            return STATUS_FLT_INSTANCE_NAME_COLLISION, None
        instance = Instance(filter_, volume, altitude, key, name)
        volume.arriving.append(instance)
        hold(thread, filter_, thread.label)
        hold(thread, volume, thread.label)
        flags = FLTFL_INSTANCE_SETUP_AUTOMATIC_ATTACHMENT if automatic else FLTFL_INSTANCE_SETUP_MANUAL_ATTACHMENT
        if newly_mounted:
            flags |= FLTFL_INSTANCE_SETUP_NEWLY_MOUNTED_VOLUME
        if volume.is_detached(thread):
            flags |= FLTFL_INSTANCE_SETUP_DETACHED_VOLUME
        status = await self._set_up(instance, flags)
        if NT_SUCCESS(status):
            await Attach(instance, referenced=referenced)
            status = STATUS_SUCCESS
        else:
            await unlink_all(self.contexts, instance)
            thread.write(volume)
            volume.arriving.remove(instance)
            status = STATUS_FLT_DO_NOT_ATTACH
        let_go(thread, volume, thread.label)
        let_go(thread, filter_, thread.label)
        return status, instance if status == STATUS_SUCCESS else None

    async def _set_up(self, instance: Instance, flags: int) -> NTSTATUS:
        """Ask the driver whether *instance* may be attached."""
        filter_ = instance.filter
        setup = filter_.registration.InstanceSetupCallback
        if setup is None:
            return STATUS_SUCCESS
        await Deliver(filter_.driver, InstanceSetup, filter_)
        kind = instance.volume.kind
        returned = await in_driver(
            filter_.driver,
            "InstanceSetup",
            setup,
            related_objects(instance),
            flags,
            kind.device_type,
            kind.filesystem_type,
            kind=INSTANCE_SETUP,
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
        thread = current_kthread()
        if thread.unloading is not None:
            self.observer.sent_by_unload(request, thread)
        if volume.is_late:
            thread.read(volume)
            if volume.stage != ASKED:
                await first_operation(self, volume)
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


def _free_name(filter_: Filter, altitude: str, there: tuple[Instance, ...]) -> str:
    """A name for an instance at *altitude* that none on the volume has: the default's if that is free."""
    taken = {instance.instance_name for instance in there}
    default = filter_.definitions[0].name
    return default if default not in taken else f"{filter_.filter_name} - {altitude}"[:INSTANCE_NAME_MAX_CHARS]


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

    __slots__ = ("instance", "referenced")
    kind = "attach"

    def __init__(self, instance: Instance, *, referenced: bool = False) -> None:
        self.instance = instance
        self.referenced = referenced

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
        if self.referenced:
            instance.add_reference(thread, thread.label)

    def target(self) -> FltVolume:
        return self.instance.volume

    def describe(self) -> str:
        return f"attach {self.instance.label}"
