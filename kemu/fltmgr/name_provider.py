"""Name providers: minifilters that tell others above them what a file is called (FLT-NAME-16, FLT-NAME-17)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kemu.fltmgr.messages import GenerateFileName, NormalizeNameComponent
from kemu.fltmgr.name_options import (
    FLT_FILE_NAME_NORMALIZED,
    FLT_FILE_NAME_OPENED,
    FltGetFileNameFormat,
    FltSetFileNameFormat,
)
from kemu.io.filesystem.names import MAXIMUM_COMPONENT
from kemu.io.structures import FILE_NAMES_INFORMATION
from kemu.nt.driver import in_driver, status_of
from kemu.nt.kthread import APC_LEVEL, current_kthread
from kemu.nt.routine import bad_pointer, routine
from kemu.nt.status import NT_SUCCESS, NTSTATUS, STATUS_INSUFFICIENT_RESOURCES, STATUS_NO_SUCH_FILE, STATUS_SUCCESS
from kemu.nt.strings import UNICODE_STRING, RtlInitUnicodeString, text_of
from kemu.nt.structure import Structure
from kemu.nt.system import report, resources_fail
from kemu.runtime import Deliver

if TYPE_CHECKING:
    from kemu.fltmgr.objects import Instance
    from kemu.fltmgr.structures import FLT_CALLBACK_DATA, FLT_REGISTRATION
    from kemu.io.request import FileObject

FIRST_SIZE = 64
"""The bytes that a name control has room for at first: fewer than most names take, so that growing it is no luxury."""


class ControlledString(UNICODE_STRING):
    """The string of a name control, whose buffer belongs to the filter manager."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in {"Buffer", "MaximumLength"}:
            thread = current_kthread()
            report(
                "namectrl-buffer-replaced",
                f"{thread.label} writes .Name.{name} of a name control, whose buffer is the filter manager's: "
                "call FltCheckAndGrowNameControl",
            )
            return
        object.__setattr__(self, name, value)


class FLT_NAME_CONTROL(Structure):
    """Where a name provider puts a name. Drivers get them from the filter manager and fill `Name` in."""

    Name: ControlledString


def grow(string: ControlledString, size: int) -> None:
    """Give *string* a buffer of *size* bytes with the old content."""
    fields = string.__dict__
    old: bytearray = fields["Buffer"]
    fields["Buffer"] = old + bytearray(size - len(old))
    fields["MaximumLength"] = size


def new_control() -> FLT_NAME_CONTROL:
    """A name control with little room and nothing in it."""
    control = FLT_NAME_CONTROL()
    control.Name.__dict__.update(Length=0, MaximumLength=FIRST_SIZE, Buffer=bytearray(FIRST_SIZE))
    return control


@routine(
    "fltkernel",
    "NTSTATUS FltCheckAndGrowNameControl(_Inout_ PFLT_NAME_CONTROL NameCtrl, _In_ USHORT NewSize)",
    max_irql=APC_LEVEL,
)
def FltCheckAndGrowNameControl(NameCtrl: FLT_NAME_CONTROL, NewSize: int) -> NTSTATUS:
    """See to it that a name control has room for *NewSize* bytes; its content stays.

    STATUS_INSUFFICIENT_RESOURCES where low resources are explored. IRQL: <= APC_LEVEL (FLT-NAME-17).
    """
    if not isinstance(NameCtrl, FLT_NAME_CONTROL):  # pyright: ignore[reportUnnecessaryIsInstance]
        bad_pointer("FltCheckAndGrowNameControl", "NameCtrl", FLT_NAME_CONTROL, NameCtrl)
        return STATUS_INSUFFICIENT_RESOURCES
    if NewSize > NameCtrl.Name.MaximumLength:
        if resources_fail("FltCheckAndGrowNameControl"):
            return STATUS_INSUFFICIENT_RESOURCES
        grow(NameCtrl.Name, NewSize)
    return STATUS_SUCCESS


def can_name(registration: FLT_REGISTRATION) -> bool:
    """Whether *registration* is no name provider's, or has what one needs (FLT-REG-23)."""
    return (
        registration.GenerateFileNameCallback is None
        or registration.NormalizeNameComponentCallback is not None
        or registration.NormalizeNameComponentExCallback is not None
    )


def is_provider(instance: Instance) -> bool:
    """Whether *instance* belongs to a name provider."""
    return instance.filter.registration.GenerateFileNameCallback is not None


def provider_below(instance: Instance, *, itself: bool) -> Instance | None:
    """The highest name provider below *instance*, or at its altitude if it may ask *itself*."""
    for one in instance.volume.instances:
        # The instances stand in order, the highest first.
        if is_provider(one) and not one.deleting and (one.key < instance.key or (itself and one is instance)):
            return one
    return None


async def generate(
    provider: Instance, file: FileObject, data: FLT_CALLBACK_DATA | None, options: int
) -> tuple[NTSTATUS, str, bool]:
    """Ask *provider* for a name: status, the whole name, and whether that may be cached."""
    status, name, cacheable = await _generate(provider, file, data, options)
    if NT_SUCCESS(status) or FltGetFileNameFormat(options) != FLT_FILE_NAME_NORMALIZED:
        return status, name, cacheable
    opened = FltSetFileNameFormat(options, FLT_FILE_NAME_OPENED)
    status, name, cacheable = await _generate(provider, file, data, opened)
    if not NT_SUCCESS(status):
        return status, name, cacheable
    status, name = await normalise_name(provider, file, name, 0)
    return status, name, cacheable


async def _generate(
    provider: Instance, file: FileObject, data: FLT_CALLBACK_DATA | None, options: int
) -> tuple[NTSTATUS, str, bool]:
    driver = provider.filter.driver
    callback = provider.filter.registration.GenerateFileNameCallback
    assert callback is not None
    control = new_control()
    await Deliver(driver, GenerateFileName, provider)
    returned: Any = await in_driver(driver, "GenerateFileName", callback, provider, file, data, options, control)
    cacheable = True
    if returned.__class__ is tuple and len(returned) == 2:
        returned, cacheable = returned
    status = status_of(driver, "GenerateFileName", callback, returned)
    return status, text_of(control.Name, "GenerateFileName"), bool(cacheable)


async def normalise_name(provider: Instance, file: FileObject, name: str, flags: int) -> tuple[NTSTATUS, str]:
    """Have *provider* expand the components of *name* one by one; what it does not know of stays as it is."""
    registration = provider.filter.registration
    plain, extended = registration.NormalizeNameComponentCallback, registration.NormalizeNameComponentExCallback
    volume = provider.volume.device_name
    path, colon, stream = name.removeprefix(volume).partition(":")
    done = volume
    context: Any = None
    status: NTSTATUS = STATUS_SUCCESS
    components = [one for one in path.split("\\") if one]
    for place, component in enumerate(components):
        parent, part = UNICODE_STRING(), UNICODE_STRING()
        RtlInitUnicodeString(parent, done + "\\")
        RtlInitUnicodeString(part, component)
        expanded = FILE_NAMES_INFORMATION()
        size = FILE_NAMES_INFORMATION.SIZE + 2 * MAXIMUM_COMPONENT
        start = (provider, file) if extended is not None else (provider,)
        callback = extended or plain
        assert callback is not None
        await Deliver(provider.filter.driver, NormalizeNameComponent, provider)
        returned: Any = await in_driver(
            provider.filter.driver,
            "NormalizeNameComponent",
            callback,
            *start,
            parent,
            2 * len(volume),
            part,
            expanded,
            size,
            flags,
            context,
        )
        if returned.__class__ is tuple and len(returned) == 2:
            returned, context = returned
        status = status_of(provider.filter.driver, "NormalizeNameComponent", callback, returned)
        if not NT_SUCCESS(status):
            if status != STATUS_NO_SUCH_FILE or place < len(components) - 1:
                break
            # The final component need not exist (FLT-NAME-05).
            expanded.FileName, status = component, STATUS_SUCCESS
        done += "\\" + expanded.FileName
    cleanup = registration.NormalizeContextCleanupCallback
    if context is not None and cleanup is not None:
        await in_driver(provider.filter.driver, "NormalizeContextCleanup", cleanup, context)
    stream = stream.removesuffix(":$DATA").removesuffix("$DATA") if colon else ""
    return status, done + (f":{stream}" if stream else "")
