"""Buffers that drivers swap in, and the MDLs that belong to them (FLT-BUF-07 to FLT-BUF-12, FLT-INST-26)."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, all_runs, codes, run
from fltmgr.swapping import Swapper, described

from kemu.errors import UsageError
from kemu.io.device import DO_BUFFERED_IO, DO_DIRECT_IO
from kemu.io.file_constants import (
    FILE_NOTIFY_CHANGE_FILE_NAME,
    IRP_MN_NOTIFY_CHANGE_DIRECTORY,
    IRP_MN_QUERY_DIRECTORY,
    FileBothDirectoryInformation,
    FileStandardInformation,
)
from kemu.io.request import FAST_IO_OPERATION, IRP_OPERATION
from kemu.io.structures import FILE_STANDARD_INFORMATION
from kemu.nt.kthread import current_kthread
from kemu.nt.mdl import MDL
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_RELATED_OBJECTS,
    FLTFL_POST_OPERATION_DRAINING,
    FltAllocatePoolAlignedWithTag,
    FltCompletePendedPostOperation,
    FltFreePoolAlignedWithTag,
    FltGetSwappedBufferMdlAddress,
    FltLockUserBuffer,
    FltRetainSwappedBufferMdlAddress,
    FltSetCallbackDataDirty,
)
from kemu.wdk.ntddk import StructuredException
from kemu.wdk.ntstatus import STATUS_ACCESS_VIOLATION, STATUS_CANCELLED, STATUS_END_OF_FILE, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DEVICE_OBJECT,
    DRIVER_OBJECT,
    IRP,
    IRP_MJ_DIRECTORY_CONTROL,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
    IRP_NOCACHE,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_PAGED,
    Driver,
    ExAllocatePool2,
    ExFreePoolWithTag,
    IoAllocateMdl,
    IoAttachDeviceToDeviceStack,
    IoCallDriver,
    IoCreateDevice,
    IoFreeMdl,
    IoSkipCurrentIrpStackLocation,
    KernelMode,
    MmBuildMdlForNonPagedPool,
    MmGetSystemAddressForMdlSafe,
    MmProbeAndLockPages,
    MmUnlockPages,
    NonPagedPoolNx,
    NormalPagePriority,
    ProbeForRead,
    ProbeForWrite,
    RtlCopyMemory,
    UserMode,
)

FINISHED = FLT_POSTOP_FINISHED_PROCESSING
KINDS = [(IRP_OPERATION, 0), (IRP_OPERATION, DO_DIRECT_IO), (IRP_OPERATION, DO_BUFFERED_IO), (FAST_IO_OPERATION, 0)]


class Probing(Swapper):
    """Probes the program's address where it has no other."""

    def original(self, Data: FLT_CALLBACK_DATA) -> Any:
        address = super().original(Data)
        if getattr(address, "is_user_memory", False):
            (ProbeForRead if self.member == "WriteBuffer" else ProbeForWrite)(address, len(address), 1)
        return address


async def transfer(lab: Lab, major: int, *, kind: int = IRP_OPERATION, flags: int = 0, irp_flags: int = 0) -> Any:
    """Read or write four bytes of the file, on a device with those *flags*."""
    file = await lab.quiet_open()
    lab.volume.device_flags = flags
    buffer = b"abcd" if major == IRP_MJ_WRITE else b""
    request = lab.request(file, major, kind=kind, flags=irp_flags, Length=4, Buffer=buffer)
    await lab.send(request)
    return request.status, request.buffer, request.information


def content(lab: Lab) -> bytes:
    """What the file consists of."""
    return bytes(lab.volume.filesystem.find(r"\a").data)  # type: ignore[union-attr]


@pytest.mark.rule("FLT-BUF-07", "FLT-BUF-09")
@pytest.mark.parametrize(("kind", "flags"), KINDS)
def test_the_program_gets_of_a_swapped_read_what_the_driver_copies(kind: int, flags: int) -> None:
    class Upside(Probing):
        def copy(self, Data: FLT_CALLBACK_DATA, buffer: Any) -> None:
            buffer[0:2] = b"<>"
            super().copy(Data, buffer)

    async def script(lab: Lab) -> Any:
        await lab.filter("S", MIDDLE, {IRP_MJ_READ: Upside(lab).pair})
        return await transfer(lab, IRP_MJ_READ, kind=kind, flags=flags)

    assert run(script).result == (STATUS_SUCCESS, b"<>23", 4)


@pytest.mark.rule("FLT-BUF-07")
@pytest.mark.parametrize(("kind", "flags"), KINDS)
def test_the_program_gets_nothing_of_a_swapped_read_that_is_not_copied(kind: int, flags: int) -> None:
    class Forgetful(Swapper):
        def copy(self, Data: FLT_CALLBACK_DATA, buffer: Any) -> None:
            assert buffer[0:4] == b"0123"

    async def script(lab: Lab) -> Any:
        await lab.filter("S", MIDDLE, {IRP_MJ_READ: Forgetful(lab).pair})
        return await transfer(lab, IRP_MJ_READ, kind=kind, flags=flags)

    assert run(script).result == (STATUS_SUCCESS, bytes(4), 4)


@pytest.mark.rule("FLT-BUF-07")
@pytest.mark.parametrize(("kind", "flags"), KINDS)
def test_a_swapped_write_writes_what_the_driver_has_put_there(kind: int, flags: int) -> None:
    class Upside(Probing):
        member = "WriteBuffer"

        def fill(self, Data: FLT_CALLBACK_DATA, buffer: Any) -> None:
            super().fill(Data, buffer)
            buffer[0:2] = b"<>"

    async def script(lab: Lab) -> Any:
        await lab.filter("S", MIDDLE, {IRP_MJ_WRITE: Upside(lab).pair})
        result = await transfer(lab, IRP_MJ_WRITE, kind=kind, flags=flags)
        return result[0], content(lab)

    assert run(script).result == (STATUS_SUCCESS, b"<>cd456789")


@pytest.mark.rule("FLT-BUF-09")
def test_two_drivers_swap_one_below_the_other() -> None:
    """Each copies from its own buffer into the one that it was given."""

    class Marks(Swapper):
        mark = b""

        def original(self, Data: FLT_CALLBACK_DATA) -> Any:
            buffer = super().original(Data)
            self.lab.note(f"{self.name}.original", buffer)
            return buffer

        def copy(self, Data: FLT_CALLBACK_DATA, buffer: Any) -> None:
            self.lab.note(f"{self.name}.sees", buffer[0:4])
            buffer[0:1] = self.mark
            super().copy(Data, buffer)

    async def script(lab: Lab) -> Any:
        await lab.filter("U", UPPER, {IRP_MJ_READ: Marks(lab, "U", mark=b"u").pair})
        await lab.recorder("M", MIDDLE)
        await lab.filter("L", LOWER, {IRP_MJ_READ: Marks(lab, "L", mark=b"l").pair})
        return await transfer(lab, IRP_MJ_READ, flags=DO_DIRECT_IO)

    one = run(script)
    assert one.result == (STATUS_SUCCESS, b"u123", 4)
    assert one.note("L.sees").value == b"0123"
    assert one.note("U.sees").value == b"l123"


@pytest.mark.rule("FLT-BUF-09")
def test_the_post_operation_callback_sees_the_original_buffer_and_gets_its_own_mdl() -> None:
    class Looks(Swapper):
        async def finish(self, Data: FLT_CALLBACK_DATA, buffer: Any) -> None:
            mdl = FltGetSwappedBufferMdlAddress(Data)
            assert mdl is not None
            assert mdl.region is buffer
            assert Data.Iopb.Parameters.MdlAddress is not mdl
            assert Data.Iopb.Parameters.ReadBuffer is not buffer
            self.lab.note("mdl", mdl)

    async def script(lab: Lab) -> Any:
        await lab.filter("S", MIDDLE, {IRP_MJ_READ: Looks(lab).pair})
        return await transfer(lab, IRP_MJ_READ, flags=DO_DIRECT_IO)

    one = run(script)
    assert one.result[1] == b"0123"
    # The filter manager has freed it after the callback.
    assert "after the post-operation callback of flt:S" in one.note("mdl").value.freed


@pytest.mark.rule("FLT-BUF-09")
def test_what_is_used_of_a_swapped_mdl_after_the_post_operation_callback_is_gone() -> None:
    class Keeps(Swapper):
        async def finish(self, Data: FLT_CALLBACK_DATA, buffer: Any) -> None:
            kept.append(FltGetSwappedBufferMdlAddress(Data))

    kept: list[Any] = []

    async def script(lab: Lab) -> Any:
        await lab.filter("S", MIDDLE, {IRP_MJ_READ: Keeps(lab).pair})
        await transfer(lab, IRP_MJ_READ, flags=DO_DIRECT_IO)
        MmGetSystemAddressForMdlSafe(kept[0], NormalPagePriority)

    assert run(script).code == "ke.use-after-free"


@pytest.mark.rule("FLT-BUF-14")
@pytest.mark.parametrize(
    ("kind", "flags", "swaps", "has_mdl"),
    [
        (IRP_OPERATION, 0, True, True),
        (IRP_OPERATION, 0, False, False),
        (IRP_OPERATION, DO_BUFFERED_IO, True, False),
        (FAST_IO_OPERATION, 0, True, False),
    ],
)
def test_there_is_an_mdl_of_the_swapped_buffer_if_it_has_one(kind: int, flags: int, swaps: bool, has_mdl: bool) -> None:
    async def script(lab: Lab) -> Any:
        swapper = Probing(lab)

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            assert FltGetSwappedBufferMdlAddress(Data) is None
            if swaps:
                return await swapper.pre(Data, FltObjects)
            return FLT_PREOP_SUCCESS_WITH_CALLBACK

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("mdl", FltGetSwappedBufferMdlAddress(Data))
            # Of nothing there is nothing to retain.
            if not has_mdl:
                FltRetainSwappedBufferMdlAddress(Data)
            return await swapper.post(Data, FltObjects, Context, Flags) if swaps else FINISHED

        await lab.filter("S", MIDDLE, {IRP_MJ_READ: (pre, post)})
        return await transfer(lab, IRP_MJ_READ, kind=kind, flags=flags)

    assert isinstance(run(script).note("mdl").value, MDL) is has_mdl


@pytest.mark.rule("FLT-BUF-14")
def test_a_lower_driver_gives_a_swapped_system_buffer_an_mdl() -> None:
    class Looks(Swapper):
        async def finish(self, Data: FLT_CALLBACK_DATA, buffer: Any) -> None:
            mdl = FltGetSwappedBufferMdlAddress(Data)
            assert mdl is not None
            assert mdl.region is buffer

    async def script(lab: Lab) -> Any:
        async def lock(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            assert await FltLockUserBuffer(Data) == STATUS_SUCCESS
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("S", UPPER, {IRP_MJ_READ: Looks(lab).pair})
        await lab.filter("L", LOWER, {IRP_MJ_READ: (lock, None)})
        return await transfer(lab, IRP_MJ_READ, flags=DO_BUFFERED_IO)

    one = run(script)
    assert one.code is None
    assert one.result[1] == b"0123"


@pytest.mark.rule("FLT-BUF-14")
def test_only_the_mdl_of_paging_io_is_swapped() -> None:
    class OnlyMdl(Swapper):
        def put(self, Data: FLT_CALLBACK_DATA, buffer: Any, mdl: Any) -> None:
            assert Data.Iopb.Parameters.ReadBuffer is None
            Data.Iopb.Parameters.MdlAddress = mdl

        async def finish(self, Data: FLT_CALLBACK_DATA, buffer: Any) -> None:
            mdl = FltGetSwappedBufferMdlAddress(Data)
            assert mdl is not None
            assert mdl.region is buffer
            assert buffer[0:4] == b"0123"

    async def script(lab: Lab) -> Any:
        await lab.filter("S", MIDDLE, {IRP_MJ_READ: OnlyMdl(lab, size=512).pair})
        return await transfer(lab, IRP_MJ_READ, irp_flags=0x2 | 0x40)

    one = run(script)
    assert one.code is None
    assert one.result[1] == b"0123"


def test_a_buffer_that_is_put_back_is_no_swap() -> None:
    async def script(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            parameters = Data.Iopb.Parameters
            parameters.ReadBuffer = parameters.ReadBuffer
            parameters.MdlAddress = parameters.MdlAddress
            parameters.Buffer = parameters.Buffer
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("S", MIDDLE, {IRP_MJ_READ: (pre, None)})
        return [await transfer(lab, IRP_MJ_READ, flags=flags) for flags in (0, DO_DIRECT_IO, DO_BUFFERED_IO)]

    assert run(script).result == [(STATUS_SUCCESS, b"0123", 4)] * 3


def test_a_structure_is_swapped_as_well() -> None:
    """Of a query, the buffer is the structure; the program's has what the driver puts there."""

    async def script(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            own = FILE_STANDARD_INFORMATION()
            Data.Iopb.Parameters.QueryFileInformation.InfoBuffer = own
            FltSetCallbackDataDirty(Data)
            return FLT_PREOP_SUCCESS_WITH_CALLBACK, own

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            original = Data.Iopb.Parameters.QueryFileInformation.InfoBuffer
            assert original is not Context
            original.EndOfFile = Context.EndOfFile + 1000
            return FINISHED

        await lab.filter("S", MIDDLE, {IRP_MJ_QUERY_INFORMATION: (pre, post)})
        file = await lab.quiet_open()
        request = lab.request(file, IRP_MJ_QUERY_INFORMATION, Length=24, FileInformationClass=FileStandardInformation)
        await lab.send(request)
        return request.buffer.EndOfFile

    assert run(script).result == 1010


@pytest.mark.parametrize("fails", [False, True])
def test_directory_queries_are_swapped(fails: bool) -> None:
    async def script(lab: Lab) -> Any:
        lab.file(r"\d\one")
        await lab.filter("S", MIDDLE, {IRP_MJ_DIRECTORY_CONTROL: Swapper(lab, member="DirectoryBuffer").pair})
        directory = await lab.quiet_open(r"\d")
        lab.volume.device_flags = DO_DIRECT_IO
        given: list[Any] = []
        request = lab.request(
            directory,
            IRP_MJ_DIRECTORY_CONTROL,
            Length=512,
            FileInformationClass=FileBothDirectoryInformation,
            FileName="nobody" if fails else "*",
            DirectoryBuffer=given,
        )
        request.minor = IRP_MN_QUERY_DIRECTORY
        await lab.send(request)
        return [entry.FileName for entry in given]

    assert run(script).result == ([] if fails else [".", "..", "one"])


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("major", [IRP_MJ_READ, IRP_MJ_WRITE])
def test_what_is_swapped_passes_legacy_filters(major: int, above: bool) -> None:
    class PassesOn(Driver):
        """A legacy filter on the volume."""

        name = "legacy"

        async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
            status, device = await IoCreateDevice(DriverObject, 0, None, 8, 0, False)
            assert device is not None
            for number in range(len(DriverObject.MajorFunction)):
                DriverObject.MajorFunction[number] = self.dispatch
            self.lower = await IoAttachDeviceToDeviceStack(device, self.target)
            return status

        def __init__(self, target: DEVICE_OBJECT) -> None:
            self.target = target

        async def dispatch(self, device: DEVICE_OBJECT, irp: IRP) -> int:
            IoSkipCurrentIrpStackLocation(irp)
            assert self.lower is not None
            return await IoCallDriver(self.lower, irp)

    class Marks(Probing):
        def fill(self, Data: FLT_CALLBACK_DATA, buffer: Any) -> None:
            super().fill(Data, buffer)
            buffer[0] = ord("<")

        def copy(self, Data: FLT_CALLBACK_DATA, buffer: Any) -> None:
            buffer[0] = ord("<")
            super().copy(Data, buffer)

    async def script(lab: Lab) -> Any:
        await lab.load(PassesOn(lab.volume_device(below=not above)))
        member = "ReadBuffer" if major == IRP_MJ_READ else "WriteBuffer"
        await lab.filter("S", MIDDLE, {major: Marks(lab, member=member).pair})
        file = await lab.quiet_open()
        if major == IRP_MJ_READ:
            return await file.read(4)
        await file.write(b"abcd")
        return content(lab)

    expected = (STATUS_SUCCESS, b"<123") if major == IRP_MJ_READ else b"<bcd456789"
    assert run(script).result == expected


# What drivers do wrong.


def inconsistent(how: str) -> type[Swapper]:
    """A driver that swaps in what does not fit."""

    class Wrong(Probing):
        async def pre(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            parameters = Data.Iopb.Parameters
            buffer, mdl = await described(512)
            if how == "no mdl":
                parameters.ReadBuffer = buffer
            elif how == "other mdl":
                _, mdl = await described(512)
                parameters.ReadBuffer, parameters.MdlAddress = buffer, mdl
            elif how == "mdl only":
                parameters.MdlAddress = mdl
            elif how == "paged":
                parameters.ReadBuffer = await ExAllocatePool2(POOL_FLAG_PAGED, 512, "Swap")
                parameters.MdlAddress = None
            elif how == "unbuilt":
                parameters.ReadBuffer = await ExAllocatePool2(POOL_FLAG_PAGED, 512, "Swap")
                parameters.MdlAddress = await IoAllocateMdl(parameters.ReadBuffer, 512, False, False, None)
            elif how == "into":
                parameters.ReadBuffer, parameters.MdlAddress = buffer + 4, mdl
            else:
                parameters.ReadBuffer, parameters.MdlAddress = buffer, mdl
            FltSetCallbackDataDirty(Data)
            return FLT_PREOP_SUCCESS_WITH_CALLBACK, buffer

        async def post(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            return FINISHED

    return Wrong


@pytest.mark.rule("FLT-BUF-07")
@pytest.mark.parametrize(
    ("how", "kind", "flags", "found"),
    [
        ("both", IRP_OPERATION, 0, None),
        ("no mdl", IRP_OPERATION, 0, "swap-inconsistent"),
        ("no mdl", IRP_OPERATION, DO_DIRECT_IO, "swap-inconsistent"),
        ("no mdl", IRP_OPERATION, DO_BUFFERED_IO, None),
        ("no mdl", FAST_IO_OPERATION, 0, None),
        ("other mdl", IRP_OPERATION, 0, "swap-inconsistent"),
        ("into", IRP_OPERATION, 0, "swap-inconsistent"),
        ("unbuilt", IRP_OPERATION, 0, "swap-inconsistent"),
        ("mdl only", IRP_OPERATION, DO_DIRECT_IO, "swap-inconsistent"),
        ("both", IRP_OPERATION, DO_BUFFERED_IO, "swap-inconsistent"),
        ("paged", IRP_OPERATION, DO_BUFFERED_IO, "swap-inconsistent"),
        ("both", FAST_IO_OPERATION, 0, "swap-inconsistent"),
    ],
)
def test_what_is_swapped_in_has_to_fit_the_kind_of_operation(
    how: str, kind: int, flags: int, found: str | None
) -> None:
    async def script(lab: Lab) -> Any:
        await lab.filter("S", MIDDLE, {IRP_MJ_READ: inconsistent(how)(lab).pair})
        return await transfer(lab, IRP_MJ_READ, kind=kind, flags=flags)

    assert run(script).code == found


@pytest.mark.rule("FLT-BUF-07")
@pytest.mark.parametrize("what", [None, 5])
@pytest.mark.parametrize("major", [IRP_MJ_READ, IRP_MJ_WRITE])
def test_what_is_no_memory_is_no_buffer(major: int, what: Any) -> None:
    async def script(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            Data.Iopb.Parameters.WriteBuffer = what
            FltSetCallbackDataDirty(Data)
            return FLT_PREOP_SUCCESS_WITH_CALLBACK

        await lab.filter("S", MIDDLE, {major: (pre, lab.post("S"))})
        return await transfer(lab, major)

    one = run(script)
    assert one.code == "swap-inconsistent"
    assert ("NULL" if what is None else "a int") in one.finding.detail


def test_plain_bytes_are_written_but_nothing_is_read_into_them() -> None:
    async def script(lab: Lab, major: int) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            Data.Iopb.Parameters.WriteBuffer = b"mine"
            FltSetCallbackDataDirty(Data)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("S", MIDDLE, {major: (pre, None)})
        await transfer(lab, major)
        return content(lab)

    assert run(lambda lab: script(lab, IRP_MJ_WRITE)).result == b"mine456789"
    with pytest.raises(UsageError, match="swaps in plain bytes for IRP_MJ_READ"):
        run(lambda lab: script(lab, IRP_MJ_READ))


@pytest.mark.rule("FLT-BUF-07")
def test_the_issuers_mdl_is_not_the_drivers_to_free() -> None:
    class Frees(Swapper):
        def put(self, Data: FLT_CALLBACK_DATA, buffer: Any, mdl: Any) -> None:
            self.before = Data.Iopb.Parameters.MdlAddress
            super().put(Data, buffer, mdl)

        async def finish(self, Data: FLT_CALLBACK_DATA, buffer: Any) -> None:
            await IoFreeMdl(self.before)

    async def script(lab: Lab) -> Any:
        await lab.filter("S", MIDDLE, {IRP_MJ_READ: Frees(lab).pair})
        return await transfer(lab, IRP_MJ_READ, flags=DO_DIRECT_IO)

    assert run(script).code == "mdl-foreign-free"


@pytest.mark.rule("FLT-BUF-08")
@pytest.mark.parametrize(
    ("status", "found"),
    [
        (FLT_PREOP_SUCCESS_NO_CALLBACK, "swap-without-postop"),
        (FLT_PREOP_SUCCESS_WITH_CALLBACK, None),
    ],
)
def test_a_swap_needs_a_post_operation_callback(status: Any, found: str | None) -> None:
    async def script(lab: Lab) -> Any:
        await lab.filter("S", MIDDLE, {IRP_MJ_READ: Swapper(lab, status=status).pair})
        return await transfer(lab, IRP_MJ_READ, flags=DO_DIRECT_IO)

    assert run(script).code == found


@pytest.mark.rule("FLT-BUF-08")
def test_a_synchronised_operation_may_have_a_swapped_buffer() -> None:
    class Synchronised(Swapper):
        async def pre(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            _, buffer = await super().pre(Data, FltObjects)
            return FLT_PREOP_SYNCHRONIZE, buffer

    async def script(lab: Lab) -> Any:
        await lab.filter("S", MIDDLE, {IRP_MJ_READ: Synchronised(lab).pair})
        return await transfer(lab, IRP_MJ_READ, flags=DO_DIRECT_IO)

    runs = all_runs(script, completion="explore")
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {(STATUS_SUCCESS, b"0123", 4)}


@pytest.mark.rule("FLT-BUF-07", "FLT-BUF-04")
@pytest.mark.parametrize(("unlocks", "found"), [(False, {None}), (True, {None, "ke.paged"})])
def test_a_paged_buffer_is_swapped_in_with_its_pages_locked(unlocks: bool, found: set[str | None]) -> None:
    """The pages stay until the MDL is freed: the file system and the driver access them at DISPATCH_LEVEL."""
    kept: list[Any] = []

    async def script(lab: Lab) -> Any:
        kept.clear()

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            buffer = await ExAllocatePool2(POOL_FLAG_PAGED, 16, "Swap")
            mdl = await IoAllocateMdl(buffer, 16, False, False, None)
            assert mdl is not None
            await MmProbeAndLockPages(mdl, KernelMode, 1)
            Data.Iopb.Parameters.ReadBuffer, Data.Iopb.Parameters.MdlAddress = buffer, mdl
            FltSetCallbackDataDirty(Data)
            kept.append(buffer)
            return FLT_PREOP_SUCCESS_WITH_CALLBACK, buffer

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            if unlocks:
                mdl = FltGetSwappedBufferMdlAddress(Data)
                assert mdl is not None
                MmUnlockPages(mdl)
            lab.note("read", Context[0:4])
            return FINISHED

        await lab.filter("S", MIDDLE, {IRP_MJ_READ: (pre, post)})
        file = await lab.quiet_open()
        await lab.send(lab.request(file, IRP_MJ_READ, Length=4))
        await ExFreePoolWithTag(kept[0], "Swap")

    runs = all_runs(script, completion="explore")
    assert codes(runs) == found
    assert {note.irql for one in runs for note in one.notes} == ({0} if unlocks else {0, 2})
    assert {note.value for one in runs for note in one.notes} == {b"0123"}


@pytest.mark.rule("FLT-BUF-08")
@pytest.mark.parametrize(("frees", "found"), [(True, None), (False, "swap-buffer-leak")])
def test_a_swapped_buffer_is_the_drivers_to_free(frees: bool, found: str | None) -> None:
    async def script(lab: Lab) -> Any:
        driver = await lab.filter("S", MIDDLE, {IRP_MJ_READ: Swapper(lab, frees=frees).pair})
        await transfer(lab, IRP_MJ_READ, flags=DO_DIRECT_IO)
        await driver.unload()

    assert run(script).code == found


class Retains(Swapper):
    """Retains the MDL that it has swapped in, or not, and frees it so many times."""

    retains = True
    times = 1

    async def finish(self, Data: FLT_CALLBACK_DATA, buffer: Any) -> None:
        mdl = FltGetSwappedBufferMdlAddress(Data)
        assert mdl is not None
        if self.retains:
            FltRetainSwappedBufferMdlAddress(Data)
        for _ in range(self.times):
            await IoFreeMdl(mdl)


@pytest.mark.rule("FLT-BUF-10")
@pytest.mark.parametrize(
    ("retains", "times", "found"),
    [
        (True, 1, None),
        (False, 0, None),
        (True, 0, "mdl-leak"),
        (True, 2, "mdl-double-free"),
        (False, 1, "mdl-double-free"),
    ],
)
def test_a_retained_mdl_is_the_drivers_to_free_and_another_is_not(retains: bool, times: int, found: str | None) -> None:
    async def script(lab: Lab) -> Any:
        driver = await lab.filter("S", MIDDLE, {IRP_MJ_READ: Retains(lab, retains=retains, times=times).pair})
        await transfer(lab, IRP_MJ_READ, flags=DO_DIRECT_IO)
        await driver.unload()

    assert run(script).code == found


@pytest.mark.rule("FLT-BUF-10", "FLT-BUF-14")
def test_the_mdl_of_a_lower_driver_is_retained_as_well() -> None:
    class Keeps(Swapper):
        """Frees the MDL long after the operation."""

        async def finish(self, Data: FLT_CALLBACK_DATA, buffer: Any) -> None:
            kept.append(FltGetSwappedBufferMdlAddress(Data))
            FltRetainSwappedBufferMdlAddress(Data)

    kept: list[Any] = []

    async def script(lab: Lab) -> Any:
        kept.clear()

        async def lock(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            await FltLockUserBuffer(Data)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        driver = await lab.filter("S", UPPER, {IRP_MJ_READ: Keeps(lab).pair})
        await lab.filter("L", LOWER, {IRP_MJ_READ: (lock, None)})
        await transfer(lab, IRP_MJ_READ, flags=DO_BUFFERED_IO)
        await IoFreeMdl(kept[0])
        await driver.unload()

    assert run(script).code is None


def test_freeing_an_mdl_and_using_it_depend_on_each_other() -> None:
    async def script(lab: Lab) -> Any:
        _, mdl = await described(16)

        async def frees() -> None:
            await IoFreeMdl(mdl)

        async def uses() -> None:
            await lab.step("come here")
            MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority)

        await lab.together(frees(), uses())

    assert codes(all_runs(script)) == {None, "ke.use-after-free"}


@pytest.mark.rule("FLT-BUF-10")
def test_an_mdl_that_was_never_given_away_is_left_behind() -> None:
    async def script(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            buffer, _ = await described(16)
            await ExFreePoolWithTag(buffer, "Swap")
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        driver = await lab.filter("S", MIDDLE, {IRP_MJ_READ: (pre, None)})
        await transfer(lab, IRP_MJ_READ)
        await driver.unload()

    assert run(script).code == "mdl-leak"


@pytest.mark.rule("FLT-BUF-12")
@pytest.mark.parametrize(
    ("size", "flags", "found"),
    [
        (4, 0, None),
        (3, 0, "swap-too-small"),
        (512, IRP_NOCACHE, None),
        (4, IRP_NOCACHE, "swap-too-small"),
        (511, IRP_NOCACHE, "swap-too-small"),
    ],
)
@pytest.mark.parametrize("major", [IRP_MJ_READ, IRP_MJ_WRITE])
def test_noncached_io_fills_whole_sectors(major: int, size: int, flags: int, found: str | None) -> None:
    class Sized(Swapper):
        def fill(self, Data: FLT_CALLBACK_DATA, buffer: Any) -> None:
            RtlCopyMemory(buffer, self.original(Data), min(4, len(buffer)))

    async def script(lab: Lab) -> Any:
        member = "ReadBuffer" if major == IRP_MJ_READ else "WriteBuffer"
        await lab.filter("S", MIDDLE, {major: Sized(lab, size=size, member=member).pair})
        return await transfer(lab, major, flags=DO_DIRECT_IO, irp_flags=flags)

    assert run(script).code == found


def test_a_read_at_the_end_of_the_file_leaves_the_buffer_alone() -> None:
    async def script(lab: Lab) -> Any:
        await lab.filter("S", MIDDLE, {IRP_MJ_READ: Swapper(lab).pair})
        file = await lab.quiet_open()
        lab.volume.device_flags = DO_DIRECT_IO
        memory = lab.app.memory(b"before")
        status, data = await file.read(4, 100, into=memory)
        return status, data, bytes(memory.content)

    assert run(script).result == (STATUS_END_OF_FILE, b"", b"before")


# The routines.


@pytest.mark.parametrize("mode", [KernelMode, UserMode])
def test_pages_of_the_kernel_are_locked_for_the_kernel_only(mode: int) -> None:
    async def script(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            buffer = await ExAllocatePool2(POOL_FLAG_PAGED, 16, "Swap")
            mdl = await IoAllocateMdl(buffer, 16, False, False, None)
            assert mdl is not None
            try:
                await MmProbeAndLockPages(mdl, mode, 0)
                MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority)[0:2] = b"ok"
                lab.note("locked", buffer[0:2])
                MmUnlockPages(mdl)
            except Exception as error:  # noqa: BLE001
                lab.note("raised", type(error).__name__)
            await IoFreeMdl(mdl)
            await ExFreePoolWithTag(buffer, "Swap")
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("S", MIDDLE, {IRP_MJ_READ: (pre, None)})
        await transfer(lab, IRP_MJ_READ)

    one = run(script)
    assert one.code is None
    assert one.order == (["locked"] if mode == KernelMode else ["raised"])


@pytest.mark.parametrize(("how", "found"), [("mine", None), ("foreign", "ke.user-va-context"), ("gone", None)])
def test_pages_of_a_program_are_locked_in_its_process(how: str, found: str | None) -> None:
    async def script(lab: Lab) -> Any:
        memory = lab.app.memory(b"data")

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            mdl = await IoAllocateMdl(memory + 1, 2, False, False, None)
            assert mdl is not None
            if how == "gone":
                await memory.unmap()
            try:
                await MmProbeAndLockPages(mdl, UserMode, 0)
                lab.note("bytes", MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority)[0:2])
            except Exception as error:  # noqa: BLE001
                lab.note("raised", type(error).__name__)
            await IoFreeMdl(mdl)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("S", MIDDLE, {IRP_MJ_READ: (pre, None)})

        async def reader() -> None:
            await transfer(lab, IRP_MJ_READ)

        await lab.together(reader(), process=None if how == "foreign" else lab.app)

    one = run(script)
    assert one.code == found
    if how == "mine":
        assert one.note("bytes").value == b"at"
    elif how == "gone":
        assert one.note("raised").value == "StructuredException"


@pytest.mark.parametrize(("what", "found"), [("paged", "ke.paged"), ("unbuilt", "ke.uninitialised")])
def test_an_mdl_has_to_describe_pages_that_are_there(what: str, found: str) -> None:
    async def script(lab: Lab) -> Any:
        buffer = await ExAllocatePool2(POOL_FLAG_PAGED, 16, "Swap")
        mdl = await IoAllocateMdl(buffer, 16, False, False, None)
        assert mdl is not None
        if what == "paged":
            MmBuildMdlForNonPagedPool(mdl)
        MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority)

    assert run(script).code == found


@pytest.mark.parametrize("length", [17, -1])
def test_an_mdl_describes_no_more_than_there_is(length: int) -> None:
    async def script(lab: Lab) -> Any:
        buffer = await ExAllocatePool2(POOL_FLAG_NON_PAGED, 16, "Swap")
        mdl = await IoAllocateMdl(buffer, length, False, False, None)
        assert mdl is not None
        MmBuildMdlForNonPagedPool(mdl)

    async def user(lab: Lab) -> Any:
        mdl = await IoAllocateMdl(lab.app.memory(bytes(16)), length, False, False, None)
        assert mdl is not None
        current_kthread().process = lab.app.process
        try:
            await MmProbeAndLockPages(mdl, UserMode, 0)
        except StructuredException as error:
            return error.ExceptionCode

    assert run(script).code == "ke.overrun"
    assert run(user).result == STATUS_ACCESS_VIOLATION


def test_there_may_be_no_mdl_to_be_had() -> None:
    async def script(lab: Lab) -> Any:
        mdl = await IoAllocateMdl(bytearray(4), 4, False, False, None)
        if mdl is not None:
            await IoFreeMdl(mdl)
        return mdl is None

    assert {one.result for one in all_runs(script, low_resources=True)} == {False, True}


def test_an_aligned_buffer_is_allocated_and_freed() -> None:
    async def script(lab: Lab) -> Any:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            buffer = await FltAllocatePoolAlignedWithTag(FltObjects.Instance, NonPagedPoolNx, 16, "Swap")
            buffer[0:4] = b"abcd"
            await FltFreePoolAlignedWithTag(FltObjects.Instance, buffer, "Swap")
            await FltFreePoolAlignedWithTag(FltObjects.Instance, buffer, "Swap")
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("S", MIDDLE, {IRP_MJ_READ: (pre, None)})
        await transfer(lab, IRP_MJ_READ)

    assert run(script).code == "ke.double-free"


# Teardown.


class Parker:
    """A lower driver that parks the operation in its post-operation callback until it is told to go on."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.parked: list[FLT_CALLBACK_DATA] = []

    async def pre(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        return FLT_PREOP_SUCCESS_WITH_CALLBACK

    async def post(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
        self.parked.append(Data)
        self.lab.note("parked")
        return FLT_POSTOP_MORE_PROCESSING_REQUIRED


@pytest.mark.rule("FLT-INST-26", "FLT-BUF-11")
@pytest.mark.parametrize("swaps", [True, False])
def test_a_teardown_waits_for_a_swapped_operation_and_does_not_drain_it(swaps: bool) -> None:
    async def script(lab: Lab) -> None:
        swapper = Swapper(lab)
        parker = Parker(lab)

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            lab.note("S.post", Flags)
            return FINISHED

        pair = swapper.pair if swaps else (lab.pre("S"), post)
        driver = await lab.filter("S", UPPER, {IRP_MJ_READ: pair})
        await lab.filter("L", LOWER, {IRP_MJ_READ: (parker.pre, parker.post)})
        file = await lab.quiet_open(overlapped=True)
        lab.volume.device_flags = DO_DIRECT_IO
        pending = await lab.begin(lab.request(file, IRP_MJ_READ, Length=4))

        async def detach() -> None:
            await driver.detach()
            lab.note("detached")

        async def go_on() -> None:
            lab.note("resuming", pending.request.cancel.requested)
            await FltCompletePendedPostOperation(parker.parked[0])

        await lab.together(detach(), go_on())
        assert await pending.wait() == STATUS_SUCCESS
        assert pending.request.buffer == b"0123"

    runs = all_runs(script, unseen=True)
    assert codes(runs) == {None}
    flags = {note.value for one in runs for note in one.notes if note.what == "S.post"}
    assert flags == ({0} if swaps else {0, FLTFL_POST_OPERATION_DRAINING})
    if swaps:
        # It is over when the operation is, and has asked for that.
        assert all(one.before("S.post", "detached") for one in runs)
        assert all(one.before("resuming", "S.post") for one in runs)
        assert {one.note("resuming").value for one in runs} == {False, True}


@pytest.mark.rule("FLT-INST-26", "FLT-BUF-11")
def test_an_operation_that_only_a_cancellation_ends_is_cancelled_by_the_teardown() -> None:
    async def script(lab: Lab) -> Any:
        driver = await lab.filter("S", MIDDLE, {IRP_MJ_DIRECTORY_CONTROL: Swapper(lab, member="DirectoryBuffer").pair})
        lab.directory(r"\d")
        directory = await lab.quiet_open(r"\d", overlapped=True)
        lab.volume.device_flags = DO_DIRECT_IO
        request = lab.request(
            directory, IRP_MJ_DIRECTORY_CONTROL, Length=64, CompletionFilter=FILE_NOTIFY_CHANGE_FILE_NAME
        )
        request.minor = IRP_MN_NOTIFY_CHANGE_DIRECTORY
        pending = await lab.begin(request)
        assert not request.done
        await driver.detach()
        lab.note("detached")
        return await pending.wait()

    one = run(script)
    assert one.result == STATUS_CANCELLED
    assert one.order == ["S.pre", "S.post", "detached"]
    assert one.note("S.post").value == 0
