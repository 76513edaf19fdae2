"""Services: what the registry knows of minifilters, whether they are loaded or not (FLT-INST-38, FLT-REG-24).

The key of a minifilter's service defines the instances that it may have on every volume: each has a name, an altitude
and flags, and one of them is the default.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from kemu.errors import ScenarioError
from kemu.fltmgr.altitude import GROUPS, altitude_key, group_of, is_within
from kemu.fltmgr.instance_constants import (
    INSTANCE_FLAG_NO_AUTOMATIC_ATTACHMENT,
    INSTANCE_FLAG_NO_MANUAL_ATTACHMENT,
)
from kemu.nt.driver import DRIVER_OBJECT
from kemu.nt.status import NTSTATUS

_FLAGS: Final = INSTANCE_FLAG_NO_AUTOMATIC_ATTACHMENT | INSTANCE_FLAG_NO_MANUAL_ATTACHMENT


@dataclass(frozen=True, slots=True)
class InstanceDefinition:
    """One instance of a service key. *flags* 0x1 suppresses automatic attachment, 0x2 attachment on request."""

    name: str
    altitude: str
    flags: int = 0

    @property
    def is_automatic(self) -> bool:
        """Whether it is attached to every volume that there is or comes."""
        return not self.flags & INSTANCE_FLAG_NO_AUTOMATIC_ATTACHMENT

    @property
    def is_manual(self) -> bool:
        """Whether it may be attached on request."""
        return not self.flags & INSTANCE_FLAG_NO_MANUAL_ATTACHMENT


@dataclass(frozen=True, slots=True)
class Service:
    """A service key of a minifilter."""

    name: str
    definitions: tuple[InstanceDefinition, ...]
    """The default instance first."""
    group: str = ""
    """The load order group."""
    load: Callable[[], Awaitable[tuple[NTSTATUS, DRIVER_OBJECT]]] | None = None
    """Loads the driver; None for one that is loaded by other means."""


def define(
    name: str, altitude: str, instances: Iterable[InstanceDefinition] = (), default: str | None = None, group: str = ""
) -> Service:
    """The service key of the driver *name*: of *instances*, or of one instance at *altitude*. Raises `ScenarioError`.

    *default* is the name of the default instance, the first unless given.
    """
    definitions = tuple(instances) or (InstanceDefinition(f"{name} Instance", altitude),)
    if group and group not in GROUPS:
        raise ScenarioError(f"{group!r} is no load order group", remedy=f"the groups are: {', '.join(GROUPS)}")
    names = [one.name for one in definitions]
    for one in definitions:
        if altitude_key(one.altitude) is None:
            raise ScenarioError(
                f"{one.altitude!r} is not an altitude",
                remedy='write decimal digits with at most one point in a string, such as "328010.5"',
            )
        if one.flags & ~_FLAGS:
            raise ScenarioError(
                f"instance {one.name!r} has flags {one.flags:#x}",
                remedy="give 0, 0x1 (not attached automatically), 0x2 (not attached on request) or both",
            )
        if names.count(one.name) > 1:
            raise ScenarioError(f"the instance {one.name!r} is defined twice", remedy="give each a name of its own")
    if default is not None and default not in names:
        raise ScenarioError(f"{default!r} is no instance of {name}", remedy=f"its instances are: {', '.join(names)}")
    first = names.index(default) if default is not None else 0
    return Service(name, (definitions[first], *definitions[:first], *definitions[first + 1 :]), group)


def outside_group(service: Service) -> str:
    """What is wrong with the altitudes of *service*, in words; nothing if all are in the range of its group."""
    group = service.group
    for one in service.definitions:
        if group and not is_within(one.altitude, group):
            other = group_of(one.altitude)
            belongs = f"is in the range of {other}" if other else "is in no group's range"
            return f"{one.name} is at {one.altitude}, which {belongs}, and the service is in {group}"
    return ""
