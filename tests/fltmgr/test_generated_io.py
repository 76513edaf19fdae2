"""I/O that a minifilter begins: who sees it, how it ends, and what waits for it (FLT-IO)."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.gio_kit import LOWER, MIDDLE, UPPER, Lab, acting, on_read, opened, seer
from fltmgr.kit import all_runs, codes, queue, resumes, run

from kemu.io.constants import (
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_READ,
    IRP_NOCACHE,
    IRP_PAGING_IO,
    IRP_SYNCHRONOUS_PAGING_IO,
)
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_RELATED_OBJECTS,
    FLTFL_CALLBACK_DATA_GENERATED_IO,
    FLTFL_CALLBACK_DATA_IRP_OPERATION,
    FLTFL_CALLBACK_DATA_POST_OPERATION,
    FLTFL_CALLBACK_DATA_REISSUED_IO,
    FLTFL_IO_OPERATION_DO_NOT_UPDATE_BYTE_OFFSET,
    FLTFL_IO_OPERATION_NON_CACHED,
    FLTFL_IO_OPERATION_PAGING,
    FLTFL_IO_OPERATION_SYNCHRONOUS_PAGING,
    FltAllocateCallbackData,
    FltAllocateCallbackDataEx,
    FltAllocatePoolAlignedWithTag,
    FltClose,
    FltDeviceIoControlFile,
    FltFlushBuffers,
    FltFreeCallbackData,
    FltFreePoolAlignedWithTag,
    FltFsControlFile,
    FltOpenVolume,
    FltPerformAsynchronousIo,
    FltPerformSynchronousIo,
    FltQueryDirectoryFile,
    FltQueryInformationFile,
    FltQuerySecurityObject,
    FltQueryVolumeInformation,
    FltQueryVolumeInformationFile,
    FltReadFile,
    FltReissueSynchronousIo,
    FltReuseCallbackData,
    FltSetCallbackDataDirty,
    FltSetInformationFile,
    FltSetVolumeInformation,
    FltTagFile,
    FltUntagFile,
    FltWriteFile,
)
from kemu.wdk.ntifs import (
    FILE_DIRECTORY_INFORMATION,
    FILE_END_OF_FILE_INFORMATION,
    FILE_FS_LABEL_INFORMATION,
    FSCTL_IS_VOLUME_MOUNTED,
    FileFsLabelInformation,
    FileFsSizeInformation,
    FileFsVolumeInformation,
)
from kemu.wdk.ntstatus import (
    STATUS_END_OF_FILE,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_FLT_INVALID_ASYNCHRONOUS_REQUEST,
    STATUS_FLT_IO_COMPLETE,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_PENDING,
    STATUS_SUCCESS,
    STATUS_UNSUCCESSFUL,
)
from kemu.wdk.wdm import (
    FILE_DIRECTORY_FILE,
    FILE_READ_DATA,
    FILE_WRITE_DATA,
    IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION,
    FileDirectoryInformation,
    FileEndOfFileInformation,
    FileStandardInformation,
    KeSetEvent,
    KeWaitForSingleObject,
    NonPagedPoolNx,
    ObDereferenceObject,
)

GENERATED = FLTFL_CALLBACK_DATA_IRP_OPERATION | FLTFL_CALLBACK_DATA_GENERATED_IO
WRITE = FILE_READ_DATA | FILE_WRITE_DATA


def reads_first(lab: Lab, *, flags: int = 0, callback: Any = None, offset: int | None = 2, length: int = 3) -> Any:
    """Act: read with FltReadFile from the file object of the operation; status, count and bytes."""

    async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        assert FltObjects.FileObject is not None
        buffer = bytearray(length)
        status, count = await FltReadFile(
            FltObjects.Instance, FltObjects.FileObject, offset, length, buffer, flags, callback, buffer
        )
        return status, count, bytes(buffer)

    return act


# Who sees it.


@pytest.mark.rule("FLT-IO-01", "FLT-IO-03", "FLT-CBD-02")
def test_only_the_instances_below_see_what_an_instance_begins_and_they_see_that_it_was_generated() -> None:
    one = run(on_read(reads_first))
    assert one.note("acted").value == (STATUS_SUCCESS, 3, b"234")
    # The program's read is seen by U, then M begins its own, which only L sees; then L sees the program's.
    assert one.order == ["U.pre", "L.pre", "L.post", "acted", "L.pre", "L.post", "U.post"]
    lower = [note.value[1] for note in one.notes if note.what == "L.pre"]
    assert lower == [GENERATED, FLTFL_CALLBACK_DATA_IRP_OPERATION]
    posts = [note.value[1] for note in one.notes if note.what == "L.post"]
    assert posts[0] == GENERATED | FLTFL_CALLBACK_DATA_POST_OPERATION
    assert one.result == (STATUS_SUCCESS, b"0123")


@pytest.mark.rule("FLT-IO-02")
@pytest.mark.parametrize("top", [False, True])
def test_a_create_without_an_instance_is_seen_by_all_and_with_one_by_those_below(top: bool) -> None:
    majors = (IRP_MJ_CREATE, IRP_MJ_CLEANUP, IRP_MJ_CLOSE)

    async def script(lab: Lab) -> Any:
        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            status, handle, file = await opened(FltObjects, top=top)
            assert file is not None
            assert await FltClose(handle) == STATUS_SUCCESS
            await ObDereferenceObject(file)
            return status

        await seer(lab, "U", UPPER, *majors)
        pre = acting(lab, act)

        async def seen(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("M.pre", (Data.Iopb.MajorFunction, Data.Flags))
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (pre, None)} | dict.fromkeys(majors, (seen, None)))
        await seer(lab, "L", LOWER, *majors)
        file = await lab.quiet_open()
        lab.notes.clear()
        await file.read(1)

    one = run(script)
    assert one.code is None
    assert one.note("acted").value == STATUS_SUCCESS
    order = [(note.what, note.value[0]) for note in one.notes if note.what.endswith(".pre")]
    levels = ["U.pre", "M.pre", "L.pre"] if top else ["L.pre"]
    assert order == [(level, major) for major in majors for level in levels]
    flag = [note.value[1] & FLTFL_CALLBACK_DATA_GENERATED_IO for note in one.notes if note.what == "L.pre"]
    assert all(flag) == (not top)


@pytest.mark.rule("FLT-IO-03")
@pytest.mark.parametrize("major", [IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION, 0x80, 0x40])
def test_only_irp_operations_can_be_initiated(major: int) -> None:
    def make(lab: Lab) -> Any:
        async def completed(Data: FLT_CALLBACK_DATA, Context: Any) -> None:
            lab.note("callback", Data.IoStatus.Status)

        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            _, own = await FltAllocateCallbackData(FltObjects.Instance, FltObjects.FileObject)
            assert own is not None
            own.Iopb.MajorFunction = major
            await FltPerformSynchronousIo(own)
            status = own.IoStatus.Status
            await FltReuseCallbackData(own)
            own.Iopb.MajorFunction = major
            returned = await FltPerformAsynchronousIo(own, completed, None)
            await FltFreeCallbackData(own)
            return status, returned

        return act

    one = run(on_read(make))
    assert one.note("acted").value == (STATUS_INVALID_PARAMETER, STATUS_INVALID_PARAMETER)
    assert one.note("callback").value == STATUS_INVALID_PARAMETER
    assert one.order.count("L.pre") == 1


# Reading and writing.


@pytest.mark.rule("FLT-IO-06")
@pytest.mark.parametrize("overlapped", [False, True])
def test_without_a_callback_routine_the_call_waits_whatever_the_file_object_is_for(overlapped: bool) -> None:
    for one in all_runs(on_read(reads_first, upper=False, overlapped=overlapped), completion="explore", bound=2):
        assert one.note("acted").value == (STATUS_SUCCESS, 3, b"234")
        assert one.code is None


def with_callback(lab: Lab) -> Any:
    """Act: read with a callback routine and wait for that on an event."""
    event = lab.event("read")

    async def completed(Data: FLT_CALLBACK_DATA, Context: Any) -> None:
        lab.note("callback", (Data.IoStatus.Status, Data.IoStatus.Information, bytes(Context)))
        await KeSetEvent(event, 0, False)

    inner = reads_first(lab, callback=completed)

    async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        result = await inner(Data, FltObjects)
        lab.note("returned")
        await KeWaitForSingleObject(event, 0, 0, False, None)
        return result

    return act


@pytest.mark.rule("FLT-IO-06")
def test_with_a_callback_routine_the_call_does_not_wait_and_the_callback_has_the_result() -> None:
    runs = all_runs(on_read(with_callback, upper=False, lower=False), completion="explore", bound=2)
    assert codes(runs) == {None}
    orders: set[tuple[object, ...]] = set()
    for one in runs:
        assert one.note("callback").value == (STATUS_SUCCESS, 3, b"234")
        status, count, _ = one.note("acted").value
        assert count == 0
        assert status in {STATUS_SUCCESS, STATUS_PENDING}
        orders.add((one.before("callback", "returned"), status))
    # Inline; in another thread, before the call returns and after.
    assert orders == {(True, STATUS_SUCCESS), (True, STATUS_PENDING), (False, STATUS_PENDING)}


@pytest.mark.rule("FLT-IO-06", "FLT-CBD-18")
def test_callback_data_of_a_callback_routine_is_gone_when_that_has_returned() -> None:
    def make(lab: Lab) -> Any:
        kept: list[FLT_CALLBACK_DATA] = []

        async def completed(Data: FLT_CALLBACK_DATA, Context: Any) -> None:
            kept.append(Data)

        inner = reads_first(lab, callback=completed)

        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            await inner(Data, FltObjects)
            return kept[0].IoStatus.Status

        return act

    assert run(on_read(make)).code == "cbd-use-after-release"


@pytest.mark.rule("FLT-IO-08")
def test_flags_become_irp_flags_and_the_position_is_put_back_for_the_caller() -> None:
    async def script(lab: Lab) -> Any:
        positions: list[int] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            lab.note("flags", Data.Iopb.IrpFlags)
            return 0

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            assert FltObjects.FileObject is not None
            positions.append(FltObjects.FileObject.CurrentByteOffset)
            return 0

        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            file = FltObjects.FileObject
            assert file is not None
            keep = FLTFL_IO_OPERATION_DO_NOT_UPDATE_BYTE_OFFSET
            await reads_first(lab, flags=keep, offset=2)(Data, FltObjects)
            kept = file.CurrentByteOffset
            await reads_first(lab, offset=2)(Data, FltObjects)
            moved = file.CurrentByteOffset
            result = await reads_first(lab, offset=None, length=2)(Data, FltObjects)
            await reads_first(lab, flags=FLTFL_IO_OPERATION_NON_CACHED, offset=0, length=512)(Data, FltObjects)
            paging = FLTFL_IO_OPERATION_PAGING | FLTFL_IO_OPERATION_SYNCHRONOUS_PAGING
            await reads_first(lab, flags=paging, offset=0)(Data, FltObjects)

            async def completed(Own: FLT_CALLBACK_DATA, Context: Any) -> None:
                lab.note("callback", file.CurrentByteOffset)

            file.CurrentByteOffset = 1
            await reads_first(lab, flags=keep, offset=2, callback=completed)(Data, FltObjects)
            return kept, moved, result

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)})
        await lab.filter("L", LOWER, {IRP_MJ_READ: (pre, post)})
        file = await lab.quiet_open()
        await file.read(1)
        return positions

    one = run(script)
    assert one.code is None
    assert one.note("acted").value == (0, 5, (STATUS_SUCCESS, 2, b"56"))
    assert one.note("callback").value == 1
    # The instance below sees the position that its read has led to, also where that is put back.
    assert one.result[:3] == [5, 5, 7]
    flags = [note.value for note in one.notes if note.what == "flags"]
    assert flags[3:5] == [IRP_NOCACHE, IRP_PAGING_IO | IRP_SYNCHRONOUS_PAGING_IO]


def test_what_is_written_below_is_there() -> None:
    def make(lab: Lab) -> Any:
        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            assert FltObjects.FileObject is not None
            wrote = await FltWriteFile(FltObjects.Instance, FltObjects.FileObject, 1, 2, b"xyz", 0, None, None)
            block = await FltAllocatePoolAlignedWithTag(FltObjects.Instance, NonPagedPoolNx, 3, "Test")
            read = await FltReadFile(FltObjects.Instance, FltObjects.FileObject, 0, 3, block, 0, None, None)
            again = await FltWriteFile(FltObjects.Instance, FltObjects.FileObject, 4, 3, block, 0, None, None)
            size = len(block)
            await FltFreePoolAlignedWithTag(FltObjects.Instance, block, "Test")
            return wrote, read, again, size

        return act

    one = run(on_read(make))
    assert one.code is None
    assert one.note("acted").value == ((STATUS_SUCCESS, 2), (STATUS_SUCCESS, 3), (STATUS_SUCCESS, 3), 3)
    assert one.result == (STATUS_SUCCESS, b"0xy3")


def test_the_other_routines_send_what_they_are_named_after() -> None:
    def make(lab: Lab) -> Any:
        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            instance, file = FltObjects.Instance, FltObjects.FileObject
            assert file is not None
            status, standard, size = await FltQueryInformationFile(instance, file, 24, FileStandardInformation)
            assert (status, standard.EndOfFile, size) == (STATUS_SUCCESS, 10, 24)
            bigger = FILE_END_OF_FILE_INFORMATION(12)
            assert await FltSetInformationFile(instance, file, bigger, 8, FileEndOfFileInformation) == STATUS_SUCCESS
            status, block, label = await FltQueryVolumeInformation(instance, 100, FileFsVolumeInformation)
            assert (status, block.Status, label.VolumeLabel) == (STATUS_SUCCESS, STATUS_SUCCESS, "")
            new = FILE_FS_LABEL_INFORMATION("Data")
            status, block = await FltSetVolumeInformation(instance, new, new.size, FileFsLabelInformation)
            assert status == block.Status == STATUS_SUCCESS
            status, space, _ = await FltQueryVolumeInformationFile(instance, file, 24, FileFsSizeInformation)
            assert (status, space.BytesPerSector) == (STATUS_SUCCESS, 512)
            assert await FltFlushBuffers(instance, file) == STATUS_SUCCESS
            assert (await FltFsControlFile(instance, file, FSCTL_IS_VOLUME_MOUNTED, None, 0, 0))[0] == STATUS_SUCCESS
            none = STATUS_INVALID_DEVICE_REQUEST
            assert (await FltDeviceIoControlFile(instance, file, 0x22_0000, b"abc", 3, 0))[0] == none
            assert await FltTagFile(instance, file, 0x1234, None, b"data", 4) == none
            assert await FltUntagFile(instance, file, 0x1234, None) == none
            assert (await FltQuerySecurityObject(instance, file, 4, 100))[0] == none
            status, handle, directory = await opened(FltObjects, "\\", options=FILE_DIRECTORY_FILE)
            assert directory is not None
            status, names, _ = await FltQueryDirectoryFile(
                instance, directory, 1000, FileDirectoryInformation, True, None, True
            )
            assert isinstance(names[0], FILE_DIRECTORY_INFORMATION)
            await FltClose(handle)
            await ObDereferenceObject(directory)
            status, handle, volume = await FltOpenVolume(instance)
            assert status == STATUS_SUCCESS
            assert volume is not None
            await FltClose(handle)
            await ObDereferenceObject(volume)
            return names[0].FileName

        return act

    one = run(on_read(make))
    assert one.code is None
    assert one.note("acted").value == "a"


# Callback data of a driver's own.


def performing(lab: Lab, *, major: int = IRP_MJ_READ, offset: int = 2, waits: bool = True) -> Any:
    """Act: a read by callback data of its own, asynchronous; what the call returned, freed in the callback."""
    event = lab.event("done")

    async def completed(Data: FLT_CALLBACK_DATA, Context: Any) -> None:
        lab.note("callback", Data.IoStatus.Status)
        await FltFreeCallbackData(Data)
        await KeSetEvent(event, 0, False)

    async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        status, own = await FltAllocateCallbackData(FltObjects.Instance, FltObjects.FileObject)
        assert own is not None
        own.Iopb.MajorFunction = major
        own.Iopb.Parameters.Length, own.Iopb.Parameters.ByteOffset = 3, offset
        status = await FltPerformAsynchronousIo(own, completed, None)
        lab.note("returned", status)
        if waits:
            await KeWaitForSingleObject(event, 0, 0, False, None)
        return status

    return act


@pytest.mark.rule("FLT-IO-13", "FLT-IO-14")
def test_callback_data_is_allocated_performed_reused_and_freed() -> None:
    def make(lab: Lab) -> Any:
        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            _, own = await FltAllocateCallbackDataEx(FltObjects.Instance, FltObjects.FileObject, 1)
            assert own is not None
            assert own.Flags == GENERATED
            assert own.RequestorMode == 0
            buffer = bytearray(3)
            own.Iopb.MajorFunction = IRP_MJ_READ
            own.Iopb.Parameters.Read.Length = 3
            own.Iopb.Parameters.Read.ByteOffset = 4
            own.Iopb.Parameters.Buffer = buffer
            await FltPerformSynchronousIo(own)
            first = own.IoStatus.Status, own.IoStatus.Information, bytes(buffer)
            await FltReuseCallbackData(own)
            kept = own.Iopb.TargetFileObject is FltObjects.FileObject, own.Iopb.TargetInstance is FltObjects.Instance
            fresh = own.Iopb.MajorFunction, own.Iopb.Parameters.Length
            own.Iopb.MajorFunction = IRP_MJ_READ
            own.Iopb.Parameters.Length, own.Iopb.Parameters.ByteOffset = 1, 100
            await FltPerformSynchronousIo(own)
            second = own.IoStatus.Status
            await FltFreeCallbackData(own)
            assert (await FltAllocateCallbackDataEx(FltObjects.Instance, None, 2))[0] == STATUS_INVALID_PARAMETER
            return first, kept, fresh, second

        return act

    one = run(on_read(make))
    assert one.code is None
    assert one.note("acted").value == (
        (STATUS_SUCCESS, 3, b"456"),
        (True, True),
        (IRP_MJ_CREATE, 0),
        STATUS_END_OF_FILE,
    )
    assert one.order.count("L.pre") == 3


def test_allocation_fails_where_low_resources_are_explored() -> None:
    def make(lab: Lab) -> Any:
        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            status, own = await FltAllocateCallbackData(FltObjects.Instance, None)
            if own is not None:
                await FltFreeCallbackData(own)
            return status

        return act

    runs = all_runs(on_read(make, upper=False, lower=False), low_resources=True)
    assert {one.note("acted").value for one in runs} == {STATUS_SUCCESS, STATUS_INSUFFICIENT_RESOURCES}


@pytest.mark.rule("FLT-IO-15", "FLT-RACE-60")
def test_the_callback_of_asynchronous_io_is_called_inline_early_in_another_thread_and_late() -> None:
    runs = all_runs(on_read(performing, upper=False, lower=False), completion="explore")
    assert codes(runs) == {None}
    orders: set[tuple[object, ...]] = set()
    for one in runs:
        assert one.order.count("callback") == 1
        assert one.note("callback").value == STATUS_SUCCESS
        same = one.note("callback").thread == one.note("returned").thread
        orders.add((one.before("callback", "returned"), same, one.note("returned").value))
        assert one.note("callback").irql <= 2
    assert orders == {(True, True, STATUS_SUCCESS), (True, False, STATUS_PENDING), (False, False, STATUS_PENDING)}
    assert {one.note("callback").irql for one in runs} == {0, 2}


@pytest.mark.rule("FLT-IO-15", "FLT-ORD-10", "FLT-PRE-26")
@pytest.mark.parametrize("pends", [False, True])
def test_a_lower_instance_that_completes_gives_its_result_to_the_initiator(pends: bool) -> None:
    async def script(lab: Lab) -> Any:
        async def complete(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            if not Data.Flags & FLTFL_CALLBACK_DATA_GENERATED_IO:
                return FLT_PREOP_SUCCESS_NO_CALLBACK
            Data.IoStatus.Status = STATUS_UNSUCCESSFUL
            if pends:
                await queue(Data, resumes(FLT_PREOP_COMPLETE))
                return FLT_PREOP_PENDING
            return FLT_PREOP_COMPLETE

        await lab.filter("M", "250000", {IRP_MJ_READ: (acting(lab, performing(lab)), None)})
        await seer(lab, "A", MIDDLE)
        await lab.filter("C", LOWER, {IRP_MJ_READ: (complete, None)})
        file = await lab.quiet_open()
        return await file.read(4)

    runs = all_runs(script, bound=1)
    assert codes(runs) == {None}
    for one in runs:
        assert one.note("callback").value == STATUS_UNSUCCESSFUL
        assert one.result == (STATUS_SUCCESS, b"0123")
        # The callback comes after the post-operation callbacks of the instances below the initiator.
        assert one.before("A.post", "callback")
    returned = {one.note("returned").value for one in runs}
    assert returned == ({STATUS_PENDING} if pends else {STATUS_FLT_IO_COMPLETE})


@pytest.mark.rule("FLT-IO-15")
def test_an_asynchronous_create_is_refused_and_the_callback_called_all_the_same() -> None:
    one = run(on_read(lambda lab: performing(lab, major=IRP_MJ_CREATE)))
    assert one.note("returned").value == STATUS_FLT_INVALID_ASYNCHRONOUS_REQUEST
    assert one.note("callback").value == STATUS_FLT_INVALID_ASYNCHRONOUS_REQUEST
    assert one.code is None


@pytest.mark.rule("FLT-IO-15")
def test_a_failure_is_told_to_the_callback_not_by_the_call() -> None:
    one = run(on_read(lambda lab: performing(lab, offset=100)))
    assert one.note("returned").value == STATUS_SUCCESS
    assert one.note("callback").value == STATUS_END_OF_FILE


# Sending again.


@pytest.mark.rule("FLT-IO-19", "FLT-IO-20")
def test_an_operation_that_was_synchronised_is_sent_again_below_the_instance() -> None:
    async def script(lab: Lab) -> Any:
        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            before = Data.IoStatus.Status
            Data.Iopb.Parameters.ByteOffset = 0
            FltSetCallbackDataDirty(Data)
            await FltReissueSynchronousIo(FltObjects.Instance, Data)
            lab.note("again", (before, Data.IoStatus.Status, bool(Data.Flags & FLTFL_CALLBACK_DATA_REISSUED_IO)))
            return 0

        await seer(lab, "U", UPPER)
        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (lab.pre("M", FLT_PREOP_SYNCHRONIZE), post)})
        await seer(lab, "L", LOWER)
        file = await lab.quiet_open()
        return await file.read(4, 100)

    one = run(script)
    assert one.code is None
    assert one.note("again").value == (STATUS_END_OF_FILE, STATUS_SUCCESS, True)
    assert one.result == (STATUS_SUCCESS, b"0123")
    assert one.order == ["U.pre", "M.pre", "L.pre", "L.post", "L.pre", "L.post", "again", "U.post"]
    flags = [note.value[1] for note in one.notes if note.what == "L.pre"]
    assert flags == [1, GENERATED | FLTFL_CALLBACK_DATA_REISSUED_IO]


@pytest.mark.rule("FLT-IO-19", "FLT-IO-20")
def test_what_was_performed_synchronously_is_sent_again() -> None:
    def make(lab: Lab) -> Any:
        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            _, own = await FltAllocateCallbackData(FltObjects.Instance, FltObjects.FileObject)
            assert own is not None
            own.Iopb.MajorFunction = IRP_MJ_READ
            own.Iopb.Parameters.Length = 3
            await FltPerformSynchronousIo(own)
            own.Iopb.Parameters.ByteOffset = 50
            await FltReissueSynchronousIo(FltObjects.Instance, own)
            lab.note("status", own.IoStatus.Status)
            await FltFreeCallbackData(own)

        return act

    one = run(on_read(make))
    assert one.code is None
    assert one.note("status").value == STATUS_END_OF_FILE


# What waits for it.


def torn_down(lab: Lab, act: Any, *, unloads: bool = False) -> Any:
    """A program reads, which the callback of M answers with I/O of its own, while M is detached or unloaded."""

    async def script() -> Any:
        async def complete(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            lab.note("complete")

        driver = await lab.filter(
            "M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)}, InstanceTeardownCompleteCallback=complete
        )
        file = await lab.quiet_open()

        async def reader() -> None:
            await file.read(4)

        async def remover() -> None:
            status = await (driver.unload() if unloads else driver.detach())
            lab.note("gone", status)

        await lab.together(reader(), remover())

    return script()


@pytest.mark.rule("FLT-INST-27", "FLT-UNLOAD-12")
@pytest.mark.parametrize("unloads", [False, True])
def test_teardown_complete_and_unload_wait_for_the_callback_of_what_the_instance_has_initiated(unloads: bool) -> None:
    async def script(lab: Lab) -> None:
        lab.completes("later")
        await torn_down(lab, performing(lab, waits=False), unloads=unloads)

    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    assert any("callback" in one.order for one in runs)
    overlapped = 0
    for one in runs:
        if "callback" in one.order:
            assert one.before("callback", "complete")
            # The read's own part in the operation was over when the callback came.
            overlapped += one.before("acted", "callback")
    assert overlapped


@pytest.mark.rule("FLT-INST-27", "FLT-INST-28")
def test_a_teardown_that_waits_for_initiated_io_for_ever_names_it() -> None:
    async def script(lab: Lab) -> None:
        async def hold(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            return FLT_PREOP_PENDING if Data.Flags & FLTFL_CALLBACK_DATA_GENERATED_IO else FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("H", LOWER, {IRP_MJ_READ: (hold, None)})
        driver = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, performing(lab, waits=False)), None)})
        file = await lab.quiet_open()
        await file.read(4)
        await driver.detach()

    one = run(script)
    assert one.code == "teardown-hang"
    assert "IRP_MJ_READ (initiated)" in one.finding.detail


@pytest.mark.rule("FLT-INST-31")
def test_a_volume_is_not_opened_through_an_instance_that_is_going_away() -> None:
    async def script(lab: Lab) -> Any:
        seen: list[Any] = []

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            seen.append(await FltOpenVolume(FltObjects.Instance))

        driver = await lab.filter("M", MIDDLE, {}, InstanceTeardownStartCallback=start)
        await driver.detach()
        return seen

    assert run(script).result == [(STATUS_FLT_DELETING_OBJECT, 0, None)]


def test_a_file_that_is_not_there() -> None:
    def make(lab: Lab) -> Any:
        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            return await opened(FltObjects, r"\missing"), await opened(FltObjects, r"\missing", top=True)

        return act

    one = run(on_read(make))
    missing = (STATUS_OBJECT_NAME_NOT_FOUND, 0, None)
    assert one.note("acted").value == (missing, missing)
    assert one.code is None
