"""Attaching to volumes and detaching from them on a driver's own request (FLT-INST-09 to FLT-INST-13)."""

from __future__ import annotations

from kemu.fltmgr.altitude import altitude_key
from kemu.fltmgr.instance_constants import INSTANCE_NAME_MAX_CHARS
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.objects import Filter, FltVolume, Instance, RundownObject
from kemu.fltmgr.teardown import detach
from kemu.nt.kthread import APC_LEVEL, PASSIVE_LEVEL, current_kthread
from kemu.nt.routine import routine
from kemu.nt.status import (
    NTSTATUS,
    STATUS_FLT_DO_NOT_ATTACH,
    STATUS_FLT_INSTANCE_ALTITUDE_COLLISION,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_NAME_COLLISION,
    STATUS_OBJECT_NAME_NOT_FOUND,
)
from kemu.nt.strings import UNICODE_STRING
from kemu.nt.system import current_system, report, resources_fail
from kemu.runtime import Operation, Thread

Name = str | UNICODE_STRING


class Use(Operation[None]):
    """A routine is called with objects of the filter manager's, which have to be there."""

    __slots__ = ("name", "objects")
    kind = "use"

    def __init__(self, name: str, *objects: RundownObject) -> None:
        self.name = name
        self.objects = objects

    def perform(self, thread: Thread) -> None:
        for one in self.objects:
            one.check_alive(thread, self.name)

    def target(self) -> RundownObject:
        return self.objects[-1]

    def describe(self) -> str:
        return f"{self.name} of {self.objects[-1].label}"


@routine(
    "fltkernel",
    """NTSTATUS FltAttachVolume(_Inout_ PFLT_FILTER Filter, _Inout_ PFLT_VOLUME Volume,
       _In_opt_ PCUNICODE_STRING InstanceName, _Outptr_opt_ PFLT_INSTANCE *RetInstance)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltAttachVolume(
    Filter: Filter, Volume: FltVolume, InstanceName: Name | None
) -> tuple[NTSTATUS, Instance | None]:
    """Attach an instance of the service key, the default one without a name; returns the status and the instance.

    The instance is referenced and has to be given to FltObjectDereference (FLT-INST-12). STATUS_FLT_FILTER_NOT_READY
    before FltStartFiltering (FLT-REG-16), STATUS_FLT_DELETING_OBJECT if the filter or the volume is going away,
    STATUS_FLT_INSTANCE_NAME_COLLISION, STATUS_OBJECT_NAME_COLLISION if the altitude is taken, STATUS_FLT_DO_NOT_ATTACH
    if InstanceSetup refuses or the instance must not be attached on request, STATUS_OBJECT_NAME_NOT_FOUND if the key
    has no such instance, STATUS_INSUFFICIENT_RESOURCES where low resources are explored (FLT-INST-09).
    IRQL: PASSIVE_LEVEL. Findings: ``ref-leak``.
    """
    await Use("FltAttachVolume", Filter, Volume)
    name = None if InstanceName is None else str(InstanceName)
    definition = next((one for one in Filter.definitions if name in {None, one.name}), None)
    if definition is None:
        return STATUS_OBJECT_NAME_NOT_FOUND, None
    if not definition.is_manual:
        return STATUS_FLT_DO_NOT_ATTACH, None
    if resources_fail("FltAttachVolume"):
        return STATUS_INSUFFICIENT_RESOURCES, None
    manager = current_system().get(FilterManager)
    status, instance = await manager.attach(
        Filter, Volume, definition.altitude, name=definition.name, automatic=False, referenced=True
    )
    if status == STATUS_FLT_INSTANCE_ALTITUDE_COLLISION:
        status = STATUS_OBJECT_NAME_COLLISION
    return status, instance


@routine(
    "fltkernel",
    """NTSTATUS FltAttachVolumeAtAltitude(_Inout_ PFLT_FILTER Filter, _Inout_ PFLT_VOLUME Volume,
       _In_ PCUNICODE_STRING Altitude, _In_opt_ PCUNICODE_STRING InstanceName,
       _Outptr_opt_ PFLT_INSTANCE *RetInstance)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltAttachVolumeAtAltitude(
    Filter: Filter, Volume: FltVolume, Altitude: Name, InstanceName: Name | None
) -> tuple[NTSTATUS, Instance | None]:
    """Attach an instance wherever the caller likes, which is for debugging only: warning ``attach-at-altitude``.

    As FltAttachVolume; STATUS_FLT_INSTANCE_ALTITUDE_COLLISION if the altitude is taken, STATUS_INVALID_PARAMETER if it
    is none. Without a name one is made (FLT-INST-10). IRQL: PASSIVE_LEVEL.
    """
    await Use("FltAttachVolumeAtAltitude", Filter, Volume)
    altitude = str(Altitude)
    report("attach-at-altitude", f"{current_kthread().label} attaches {Filter.label} at {altitude}")
    if altitude_key(altitude) is None:
        return STATUS_INVALID_PARAMETER, None
    if resources_fail("FltAttachVolumeAtAltitude"):
        return STATUS_INSUFFICIENT_RESOURCES, None
    name = f"{Filter.filter_name} - {altitude}" if InstanceName is None else str(InstanceName)
    manager = current_system().get(FilterManager)
    return await manager.attach(
        Filter, Volume, altitude, name=name[:INSTANCE_NAME_MAX_CHARS], automatic=False, referenced=True
    )


@routine(
    "fltkernel",
    """NTSTATUS FltDetachVolume(_Inout_ PFLT_FILTER Filter, _Inout_ PFLT_VOLUME Volume,
       _In_opt_ PCUNICODE_STRING InstanceName)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def FltDetachVolume(Filter: Filter, Volume: FltVolume, InstanceName: Name | None) -> NTSTATUS:
    """Take down the instance called *InstanceName*, without a name the highest one of the filter on the volume.

    STATUS_FLT_INSTANCE_NOT_FOUND; STATUS_FLT_DELETING_OBJECT if it is going away already (FLT-INST-13);
    STATUS_FLT_DO_NOT_DETACH if InstanceQueryTeardown refuses or is missing (FLT-INST-14). Returns when the instance is
    gone; called from one of the instance's own callbacks for an operation, which the teardown has to wait for, it
    returns at once, and a system thread takes the instance down (FLT-RACE-30). IRQL: <= APC_LEVEL; at APC_LEVEL a
    system thread calls the driver's callbacks, too.
    """
    await Use("FltDetachVolume", Filter, Volume)
    name = None if InstanceName is None else str(InstanceName)
    return await detach(current_system().get(FilterManager), Filter, Volume, name)
