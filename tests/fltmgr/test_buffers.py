"""Buffers of operations as drivers see them: how they are passed, decoded, locked and mapped (FLT-BUF)."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, all_runs, codes, queue, resumes, run

from kemu.io.buffers import DIRECT, NEITHER, NO_BUFFER, SYSTEM, buffering, memory_of
from kemu.io.constants import (
    IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_CREATE_MAILSLOT,
    IRP_MJ_CREATE_NAMED_PIPE,
    IRP_MJ_QUERY_EA,
    IRP_MJ_QUERY_QUOTA,
    IRP_MJ_QUERY_SECURITY,
    IRP_MJ_SET_EA,
    IRP_MJ_SET_QUOTA,
    IRP_MJ_SET_SECURITY,
    IRP_MJ_SYSTEM_CONTROL,
    IRP_PAGING_IO,
)
from kemu.io.device import DO_BUFFERED_IO, DO_DIRECT_IO
from kemu.io.file_constants import IRP_MN_QUERY_DIRECTORY, FileBothDirectoryInformation, FileNamesInformation
from kemu.io.request import FAST_IO_OPERATION, FS_FILTER_OPERATION, IRP_OPERATION
from kemu.nt.bugcheck import PAGE_FAULT_IN_NONPAGED_AREA
from kemu.nt.exception import StructuredException
from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread
from kemu.nt.mdl import MDL
from kemu.nt.usermemory import UserBuffer
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_IS_SYSTEM_BUFFER,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_RELATED_OBJECTS,
    FLTFL_CALLBACK_DATA_DIRTY,
    FLTFL_CALLBACK_DATA_SYSTEM_BUFFER,
    FltDecodeParameters,
    FltIsCallbackDataDirty,
    FltLockUserBuffer,
)
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_VIOLATION,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    CTL_CODE,
    IRP_MJ_CLEANUP,
    IRP_MJ_CREATE,
    IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_DIRECTORY_CONTROL,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_INTERNAL_DEVICE_CONTROL,
    IRP_MJ_LOCK_CONTROL,
    IRP_MJ_PNP,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_QUERY_VOLUME_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_SET_INFORMATION,
    IRP_MJ_SET_VOLUME_INFORMATION,
    IRP_MJ_WRITE,
    METHOD_BUFFERED,
    METHOD_IN_DIRECT,
    METHOD_NEITHER,
    METHOD_OUT_DIRECT,
    PAGED_CODE,
    POOL_FLAG_NON_PAGED,
    POOL_FLAG_PAGED,
    ExAllocatePool2,
    ExFreePool,
    IoFreeMdl,
    IoReadAccess,
    IoWriteAccess,
    MmGetMdlByteCount,
    MmGetSystemAddressForMdlSafe,
    NormalPagePriority,
    ProbeForRead,
    ProbeForWrite,
    RtlCopyMemory,
)

NO = FLT_PREOP_SUCCESS_NO_CALLBACK
WITH = FLT_PREOP_SUCCESS_WITH_CALLBACK
FINISHED = FLT_POSTOP_FINISHED_PROCESSING
CONTENT = b"0123456789"


def a_pre(look: Any, status: Any = NO) -> Any:
    """A pre-operation callback that awaits ``look(Data)``, and returns *status*."""

    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        await look(Data)
        return status

    return pre


def a_post(look: Any) -> Any:
    """A post-operation callback that awaits ``look(Data)``."""

    async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
        await look(Data)
        return FINISHED

    return post


def pre_of(major: int, look: Any, status: Any = NO) -> dict[int, Any]:
    return {major: (a_pre(look, status), None)}


def post_of(major: int, look: Any) -> dict[int, Any]:
    return {major: (a_pre(nothing, WITH), a_post(look))}


async def nothing(Data: FLT_CALLBACK_DATA) -> None:
    pass


def code(method: int) -> int:
    return CTL_CODE(0x22, 0x800, method, 0)


# How the I/O manager passes buffers.


METHODS: list[tuple[int, int, dict[str, Any], int]] = [
    (IRP_MJ_CREATE, 0, {"EaBuffer": b"ea"}, SYSTEM),
    (IRP_MJ_CREATE, 0, {}, NO_BUFFER),
    *[
        (major, flags, {}, SYSTEM)
        for flags in (0, DO_DIRECT_IO)
        for major in (
            IRP_MJ_QUERY_INFORMATION,
            IRP_MJ_SET_INFORMATION,
            IRP_MJ_QUERY_VOLUME_INFORMATION,
            IRP_MJ_SET_VOLUME_INFORMATION,
        )
    ],
    *[
        (major, flags, {}, method)
        for flags, method in (
            (DO_BUFFERED_IO, SYSTEM),
            (DO_DIRECT_IO, DIRECT),
            (DO_BUFFERED_IO | DO_DIRECT_IO, SYSTEM),
            (0, NEITHER),
        )
        for major in (
            IRP_MJ_DIRECTORY_CONTROL,
            IRP_MJ_QUERY_EA,
            IRP_MJ_SET_EA,
            IRP_MJ_QUERY_QUOTA,
            IRP_MJ_SET_QUOTA,
            IRP_MJ_READ,
            IRP_MJ_WRITE,
        )
    ],
    *[
        (major, DO_BUFFERED_IO, {}, NEITHER)
        for major in (IRP_MJ_PNP, IRP_MJ_QUERY_SECURITY, IRP_MJ_SET_SECURITY, IRP_MJ_SYSTEM_CONTROL)
    ],
    *[
        (major, flags, {name: code(method)}, expected)
        for flags in (0, DO_BUFFERED_IO)
        for major, name in (
            (IRP_MJ_DEVICE_CONTROL, "IoControlCode"),
            (IRP_MJ_INTERNAL_DEVICE_CONTROL, "IoControlCode"),
            (IRP_MJ_FILE_SYSTEM_CONTROL, "FsControlCode"),
        )
        for method, expected in (
            (METHOD_BUFFERED, SYSTEM),
            (METHOD_IN_DIRECT, DIRECT),
            (METHOD_OUT_DIRECT, DIRECT),
            (METHOD_NEITHER, NEITHER),
        )
    ],
    *[
        (major, DO_BUFFERED_IO, {}, NO_BUFFER)
        for major in (IRP_MJ_CREATE_MAILSLOT, IRP_MJ_CREATE_NAMED_PIPE, IRP_MJ_LOCK_CONTROL)
    ],
]


@pytest.mark.rule("FLT-BUF-01")
@pytest.mark.parametrize(("major", "flags", "parameters", "method"), METHODS)
def test_the_major_function_and_the_device_say_how_a_buffer_is_passed(
    major: int, flags: int, parameters: dict[str, Any], method: int
) -> None:
    async def script(lab: Lab) -> int:
        file = await lab.open()
        lab.volume.device_flags = flags
        return buffering(lab.request(file, major, **parameters))

    assert run(script).result == method


def seen_of(lab: Lab, what: str, member: str) -> Any:
    """Notes what a driver finds in a pre-operation callback: the buffer, its MDL, whether it is a system buffer."""

    async def look(Data: FLT_CALLBACK_DATA) -> None:
        parameters = Data.Iopb.Parameters
        lab.note(what, (getattr(parameters, member), parameters.MdlAddress, FLT_IS_SYSTEM_BUFFER(Data), Data.Flags))

    return look


@pytest.mark.rule("FLT-BUF-01")
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("flags", [0, DO_DIRECT_IO, DO_BUFFERED_IO])
def test_a_driver_finds_a_read_buffer_as_it_was_passed(flags: int, fast: bool) -> None:
    async def script(lab: Lab) -> Any:
        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_READ, seen_of(lab, "seen", "ReadBuffer")))
        lab.volume.device_flags = flags

        async def reader() -> Any:
            file = await lab.quiet_open()
            memory = lab.app.memory(b"-" * 8)
            status, data = await file.read(4, into=memory, fast=fast)
            return memory, status, data

        (result,) = await lab.together(reader(), process=lab.app)
        return result

    one = run(script)
    memory, status, data = one.result
    buffer, mdl, is_system, data_flags = one.note("seen").value
    assert (status, data, bytes(memory.content)) == (STATUS_SUCCESS, b"0123", b"0123----")
    assert is_system is (flags == DO_BUFFERED_IO and not fast)
    assert bool(data_flags & FLTFL_CALLBACK_DATA_SYSTEM_BUFFER) is is_system
    assert (buffer is memory) is not is_system
    # Fast I/O has no MDL; the filter sees no MDL of a system buffer either.
    assert isinstance(mdl, MDL) is (flags == DO_DIRECT_IO and not fast)
    if mdl is not None:
        assert mdl.region is memory


@pytest.mark.rule("FLT-BUF-01")
def test_paging_io_has_an_mdl_and_no_address() -> None:
    async def script(lab: Lab) -> None:
        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_READ, seen_of(lab, "seen", "ReadBuffer")))
        file = await lab.quiet_open()
        await lab.send(lab.request(file, IRP_MJ_READ, flags=IRP_PAGING_IO, Length=4))

    buffer, mdl, is_system, _ = run(script).note("seen").value
    assert buffer is None
    assert isinstance(mdl, MDL)
    assert not is_system


@pytest.mark.parametrize("method", [METHOD_BUFFERED, METHOD_IN_DIRECT, METHOD_NEITHER])
def test_a_driver_answers_a_control_in_the_buffer_of_its_method(method: int) -> None:
    async def answer(Data: FLT_CALLBACK_DATA) -> None:
        control = Data.Iopb.Parameters.DeviceIoControl
        assert (control.InputBufferLength, control.OutputBufferLength) == (2, 4)
        if method == METHOD_BUFFERED:
            target = control.Buffered.SystemBuffer
            given = target[0:2]
        elif method == METHOD_IN_DIRECT:
            given = control.Direct.InputSystemBuffer
            ProbeForRead(given, 2, 1)
            given = given[0:2]
            target = MmGetSystemAddressForMdlSafe(control.Direct.OutputMdlAddress, NormalPagePriority)
        else:
            ProbeForRead(control.Neither.InputBuffer, 2, 1)
            given = control.Neither.InputBuffer[0:2]
            target = control.Neither.OutputBuffer
            ProbeForWrite(target, 4, 1)
        target[0:4] = given + given[::-1]
        Data.IoStatus.Status = STATUS_SUCCESS
        Data.IoStatus.Information = 4

    async def script(lab: Lab) -> Any:
        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_DEVICE_CONTROL, answer, FLT_PREOP_COMPLETE))
        file = await lab.quiet_open()
        request = lab.request(file, IRP_MJ_DEVICE_CONTROL, IoControlCode=code(method), Buffer=b"ab", Length=4)
        await lab.send(request)
        return request.status, request.buffer

    assert run(script).result == (STATUS_SUCCESS, b"abba")


def test_a_driver_completes_a_read_with_what_it_writes_to_the_buffer() -> None:
    async def fill(Data: FLT_CALLBACK_DATA) -> None:
        buffer = Data.Iopb.Parameters.Read.ReadBuffer
        ProbeForWrite(buffer, 4, 1)
        buffer[0:4] = b"mine"
        Data.IoStatus.Status = STATUS_SUCCESS
        Data.IoStatus.Information = 4

    async def script(lab: Lab) -> Any:
        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_READ, fill, FLT_PREOP_COMPLETE))
        return await (await lab.quiet_open()).read(8)

    assert run(script).result == (STATUS_SUCCESS, b"mine")


def test_a_driver_sees_in_its_post_operation_callback_what_was_read_and_may_change_it() -> None:
    async def upper(Data: FLT_CALLBACK_DATA) -> None:
        buffer = Data.Iopb.Parameters.Read.ReadBuffer
        ProbeForWrite(buffer, Data.IoStatus.Information, 1)
        seen = buffer[0 : Data.IoStatus.Information]
        buffer[0 : Data.IoStatus.Information] = seen[::-1]

    async def script(lab: Lab) -> Any:
        await lab.filter("A", MIDDLE, post_of(IRP_MJ_READ, upper))
        return await (await lab.quiet_open()).read(4)

    assert run(script).result == (STATUS_SUCCESS, b"3210")


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("flags", [0, DO_DIRECT_IO, DO_BUFFERED_IO])
def test_a_request_of_a_driver_has_the_drivers_own_buffer(flags: int, looks: bool) -> None:
    """It is the kernel's, wherever the operation comes up; no probe, no process."""

    async def script(lab: Lab) -> Any:
        async def look(Data: FLT_CALLBACK_DATA) -> None:
            buffer = Data.Iopb.Parameters.Read.ReadBuffer
            assert (buffer is own) is (flags != DO_BUFFERED_IO)
            assert buffer[0:4] == b"0123"
            buffer[0] = ord("<")

        if looks:
            await lab.filter("A", MIDDLE, post_of(IRP_MJ_READ, look))
        file = await lab.quiet_open()
        lab.volume.device_flags = flags
        own = await ExAllocatePool2(POOL_FLAG_NON_PAGED, 8, "Own ")
        request = lab.request(file, IRP_MJ_READ, Length=4, Buffer=own)
        request.mode = 0
        await lab.send(request)
        return request.status, own[0:8]

    runs = all_runs(script, completion="explore")
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {(STATUS_SUCCESS, (b"<123" if looks else b"0123") + bytes(4))}


def test_a_buffer_of_a_driver_that_is_too_small_is_overrun() -> None:
    async def script(lab: Lab) -> Any:
        file = await lab.quiet_open()
        own = await ExAllocatePool2(POOL_FLAG_NON_PAGED, 2, "Own ")
        await lab.send(lab.request(file, IRP_MJ_READ, Length=4, Buffer=own))

    assert run(script).code == "ke.overrun"


def test_what_is_written_is_what_is_in_the_programs_memory_when_the_file_system_takes_it() -> None:
    async def script(lab: Lab) -> Any:
        async def later(Data: FLT_CALLBACK_DATA) -> None:
            await memory.store(0, b"LATE")

        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_WRITE, later))
        file = await lab.quiet_open()
        memory = lab.app.memory(b"data")
        await file.write(memory)
        return bytes(lab.volume.filesystem.find(r"\a").data)  # type: ignore[union-attr]

    assert run(script).result == b"LATE456789"


@pytest.mark.parametrize("writes", [False, True])
def test_memory_that_the_program_has_unmapped_fails_the_transfer(writes: bool) -> None:
    async def script(lab: Lab) -> Any:
        async def unmap(Data: FLT_CALLBACK_DATA) -> None:
            await memory.unmap()

        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_WRITE if writes else IRP_MJ_READ, unmap))
        file = await lab.quiet_open()
        memory = lab.app.memory(b"data")
        return await (file.write(memory) if writes else file.read(4, into=memory))

    assert run(script).result[0] == STATUS_ACCESS_VIOLATION


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("writes", [False, True])
def test_memory_that_is_too_small_fails_the_transfer(writes: bool, looks: bool) -> None:
    async def script(lab: Lab) -> Any:
        async def look(Data: FLT_CALLBACK_DATA) -> None:
            if looks:
                assert isinstance(Data.Iopb.Parameters.ReadBuffer, UserBuffer)

        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_READ, look) | pre_of(IRP_MJ_WRITE, look))
        file = await lab.quiet_open()
        memory = lab.app.memory(b"data")
        major = IRP_MJ_WRITE if writes else IRP_MJ_READ
        request = await lab.send(lab.request(file, major, Length=5, Buffer=memory))
        return request.status, bytes(memory.content)

    assert run(script).result == (STATUS_ACCESS_VIOLATION, b"data")


def test_the_mdl_of_a_larger_buffer_describes_what_the_operation_is_about() -> None:
    async def script(lab: Lab) -> None:
        async def look(Data: FLT_CALLBACK_DATA) -> None:
            await FltLockUserBuffer(Data)
            lab.note("count", MmGetMdlByteCount(Data.Iopb.Parameters.MdlAddress))

        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_READ, look))
        await (await lab.quiet_open()).read(4, into=lab.app.memory(b"-" * 16))

    assert run(script).note("count").value == 4


def test_a_system_buffer_is_gone_when_the_request_is_complete() -> None:
    async def script(lab: Lab) -> None:
        kept: list[Any] = []

        async def keep(Data: FLT_CALLBACK_DATA) -> None:
            kept.append(Data.Iopb.Parameters.Read.ReadBuffer)

        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_READ, keep))
        lab.volume.device_flags = DO_BUFFERED_IO
        await (await lab.quiet_open()).read(4)
        kept[0][0:1]

    one = run(script)
    assert one.code == "ke.use-after-free"
    assert "the system buffer of IRP_MJ_READ" in one.finding.detail


@pytest.mark.parametrize("kind", [FileBothDirectoryInformation, FileNamesInformation, 1, 2, 37, 38])
def test_a_directory_buffer_has_the_bytes_of_its_entries(kind: int) -> None:
    """Whoever looks at the bytes sees what the list of structures says, and the program gets the same list."""

    async def script(lab: Lab) -> Any:
        lab.file(r"\d\one")
        lab.file(r"\d\second")
        lengths: list[bytes] = []

        async def look(Data: FLT_CALLBACK_DATA) -> None:
            buffer = Data.Iopb.Parameters.DirectoryControl.QueryDirectory.DirectoryBuffer
            ProbeForRead(buffer, Data.IoStatus.Information, 1)
            lengths.append(buffer[0 : Data.IoStatus.Information])

        async def query() -> Any:
            directory = await lab.quiet_open(r"\d")
            request = lab.request(
                directory, IRP_MJ_DIRECTORY_CONTROL, Length=512, FileInformationClass=kind, FileName="*"
            )
            request.minor = IRP_MN_QUERY_DIRECTORY
            await lab.send(request)
            return request.information, request.buffer

        plain = await query()
        await lab.filter("A", MIDDLE, post_of(IRP_MJ_DIRECTORY_CONTROL, look))
        return plain, await query(), lengths

    plain, looked, (raw,) = run(script).result
    if kind not in {37, 38}:
        # The file's number is in two classes only.
        for entry in plain[1]:
            entry.FileId = 0
    if kind == FileNamesInformation:
        plain = plain[0], [type(entry)(entry.FileName) for entry in plain[1]]
    assert plain == looked
    assert [entry.FileName for entry in plain[1]] == [".", "..", "one", "second"]
    assert len(raw) == plain[0]
    assert "second".encode("utf-16-le") in raw


# FltDecodeParameters.


DECODED: list[tuple[int, dict[str, Any], str | None, str, str, int]] = [
    (IRP_MJ_READ, {}, "MdlAddress", "ReadBuffer", "Length", IoWriteAccess),
    (IRP_MJ_WRITE, {}, "MdlAddress", "WriteBuffer", "Length", IoReadAccess),
    (IRP_MJ_QUERY_INFORMATION, {}, None, "InfoBuffer", "Length", IoWriteAccess),
    (IRP_MJ_SET_INFORMATION, {}, None, "InfoBuffer", "Length", IoReadAccess),
    (IRP_MJ_QUERY_EA, {}, "MdlAddress", "EaBuffer", "Length", IoWriteAccess),
    (IRP_MJ_DIRECTORY_CONTROL, {}, "MdlAddress", "DirectoryBuffer", "Length", IoWriteAccess),
    (IRP_MJ_QUERY_SECURITY, {}, "MdlAddress", "SecurityBuffer", "Length", IoWriteAccess),
    (IRP_MJ_SET_QUOTA, {}, "MdlAddress", "QuotaBuffer", "Length", IoReadAccess),
    *[
        (IRP_MJ_DEVICE_CONTROL, {"IoControlCode": code(method)}, mdl, buffer, "OutputBufferLength", IoWriteAccess)
        for method, mdl, buffer in (
            (METHOD_BUFFERED, None, "SystemBuffer"),
            (METHOD_OUT_DIRECT, "MdlAddress", "OutputBuffer"),
            (METHOD_NEITHER, "MdlAddress", "OutputBuffer"),
        )
    ],
]


@pytest.mark.rule("FLT-BUF-13")
@pytest.mark.parametrize(("major", "parameters", "mdl", "buffer", "length", "access"), DECODED)
def test_parameters_are_decoded_to_pointers_to_their_members(
    major: int, parameters: dict[str, Any], mdl: str | None, buffer: str, length: str, access: int
) -> None:
    async def decode(Data: FLT_CALLBACK_DATA) -> None:
        status, mdl_pointer, buffer_pointer, length_pointer, desired = FltDecodeParameters(Data)
        assert (status, desired) == (STATUS_SUCCESS, access)
        assert buffer_pointer is not None
        assert length_pointer is not None
        view = Data.Iopb.Parameters
        assert repr(buffer_pointer) == f"&Parameters.{buffer}"
        assert repr(length_pointer) == f"&Parameters.{length}"
        assert buffer_pointer.value is getattr(view, buffer)
        assert length_pointer.value == 8
        assert (mdl_pointer is None) is (mdl is None)
        # They point into the parameters: what is written through them is there.
        length_pointer.value = 4
        assert getattr(view, length) == 4
        length_pointer.value = 8
        if mdl_pointer is not None and mdl is not None:
            assert mdl_pointer.value is getattr(view, mdl)
        Data.IoStatus.Status = STATUS_INVALID_DEVICE_REQUEST

    async def script(lab: Lab) -> None:
        await lab.filter("A", MIDDLE, pre_of(major, decode, FLT_PREOP_COMPLETE))
        lab.volume.device_flags = DO_DIRECT_IO
        file = await lab.quiet_open()
        lab.volume.device_flags = DO_DIRECT_IO
        await lab.send(lab.request(file, major, Length=8, **parameters))

    assert run(script).code is None


@pytest.mark.rule("FLT-BUF-13")
@pytest.mark.parametrize(
    ("major", "kind"),
    [
        (IRP_MJ_CLEANUP, IRP_OPERATION),
        (IRP_MJ_LOCK_CONTROL, IRP_OPERATION),
        (IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION, FS_FILTER_OPERATION),
    ],
)
def test_an_operation_without_a_buffer_is_not_decoded(major: int, kind: int) -> None:
    async def script(lab: Lab) -> None:
        async def decode(Data: FLT_CALLBACK_DATA) -> None:
            lab.note("decoded", FltDecodeParameters(Data))

        await lab.filter("A", MIDDLE, pre_of(major, decode))
        await lab.send(lab.request(await lab.quiet_open(), major, kind=kind))

    assert run(script).note("decoded").value == (STATUS_INVALID_PARAMETER, None, None, None, None)


@pytest.mark.rule("FLT-BUF-13")
@pytest.mark.parametrize("irql", [0, DISPATCH_LEVEL])
def test_fast_io_is_decoded_at_any_irql(irql: int) -> None:
    async def script(lab: Lab) -> None:
        async def decode(Data: FLT_CALLBACK_DATA) -> None:
            thread = current_kthread()
            before, thread.irql = thread.irql, irql
            lab.note("decoded", FltDecodeParameters(Data))
            thread.irql = before
            lab.note("control", FltDecodeParameters(Data)[1])

        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_READ, decode) | pre_of(IRP_MJ_DEVICE_CONTROL, decode))
        file = await lab.quiet_open()
        await lab.send(lab.request(file, IRP_MJ_READ, kind=FAST_IO_OPERATION, Length=4))
        # A control by fast I/O has no MDL.
        await lab.send(lab.request(file, IRP_MJ_DEVICE_CONTROL, kind=FAST_IO_OPERATION, IoControlCode=code(1)))

    one = run(script)
    decoded = [note.value for note in one.notes if note.what == "decoded"]
    assert decoded[0][0] == STATUS_SUCCESS
    assert repr(decoded[0][2]) == "&Parameters.ReadBuffer"
    assert [note.value for note in one.notes if note.what == "control"][1] is None


# FltLockUserBuffer.


def locker(lab: Lab, *, twice: bool = False) -> Any:
    """Locks the buffer, once or twice, and notes the status, the MDLs, and whether the parameters are dirty."""

    async def look(Data: FLT_CALLBACK_DATA) -> None:
        before = bool(Data.Flags & FLTFL_CALLBACK_DATA_DIRTY)
        status = await FltLockUserBuffer(Data)
        first = Data.Iopb.Parameters.MdlAddress
        if twice:
            assert await FltLockUserBuffer(Data) == STATUS_SUCCESS
        lab.note("locked", (status, first, Data.Iopb.Parameters.MdlAddress, before, FltIsCallbackDataDirty(Data)))

    return look


@pytest.mark.rule("FLT-BUF-05")
@pytest.mark.parametrize("flags", [0, DO_DIRECT_IO])
def test_locking_gives_the_operation_an_mdl_once_and_makes_it_dirty(flags: int) -> None:
    async def script(lab: Lab) -> None:
        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_READ, locker(lab, twice=True)))
        file = await lab.quiet_open()
        lab.volume.device_flags = flags
        status, data = await file.read(4)
        assert (status, data) == (STATUS_SUCCESS, b"0123")

    status, first, second, before, after = run(script).note("locked").value
    assert status == STATUS_SUCCESS
    assert isinstance(first, MDL)
    assert first is second
    # One that the operation came with is left as it is.
    assert (before, after) == (False, flags == 0)
    # It is freed at the end, by whoever has made it.
    assert first.freed.startswith("FltLockUserBuffer" if flags == 0 else "the I/O manager")


@pytest.mark.rule("FLT-BUF-05")
def test_a_lock_in_a_post_operation_callback_makes_nothing_dirty() -> None:
    async def script(lab: Lab) -> None:
        await lab.filter("A", MIDDLE, post_of(IRP_MJ_READ, locker(lab)))
        await (await lab.quiet_open()).read(4)

    assert run(script).note("locked").value[3:] == (False, False)


@pytest.mark.rule("FLT-BUF-05", "FLT-PEND-14")
def test_a_worker_locks_the_buffer_in_the_process_that_it_is_in_and_maps_it_for_itself() -> None:
    """The pages are the program's, whatever process the worker is in; without a lock its address is not."""

    async def script(lab: Lab) -> Any:
        async def work(Data: FLT_CALLBACK_DATA) -> None:
            assert current_kthread().process is not lab.app.process
            assert await FltLockUserBuffer(Data) == STATUS_SUCCESS
            pages = MmGetSystemAddressForMdlSafe(Data.Iopb.Parameters.MdlAddress, NormalPagePriority)
            assert pages[0:4] == b"data"
            pages[0:4] = b"DATA"
            await resumes(NO)(Data)

        async def pend(Data: FLT_CALLBACK_DATA) -> None:
            await queue(Data, work)

        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_WRITE, pend, FLT_PREOP_PENDING))

        async def writer() -> Any:
            file = await lab.quiet_open()
            memory = lab.app.memory(b"data")
            status, _ = await file.write(memory)
            return status, bytes(memory.content), bytes(lab.volume.filesystem.find(r"\a").data)  # type: ignore[union-attr]

        (result,) = await lab.together(writer(), process=lab.app)
        return result

    assert run(script).result == (STATUS_SUCCESS, b"DATA", b"DATA456789")
    assert codes(all_runs(script)) == {None}


@pytest.mark.rule("FLT-BUF-05", "FLT-BUF-15")
@pytest.mark.parametrize(
    ("major", "minor", "status"),
    [
        (IRP_MJ_READ, 0, STATUS_SUCCESS),
        (IRP_MJ_WRITE, 0, STATUS_SUCCESS),
        (IRP_MJ_READ, 2, STATUS_INVALID_PARAMETER),
        (IRP_MJ_WRITE, 2, STATUS_INVALID_PARAMETER),
        (IRP_MJ_DIRECTORY_CONTROL, IRP_MN_QUERY_DIRECTORY, STATUS_SUCCESS),
        (IRP_MJ_DEVICE_CONTROL, 0, STATUS_SUCCESS),
        (IRP_MJ_INTERNAL_DEVICE_CONTROL, 0, STATUS_SUCCESS),
        (IRP_MJ_FILE_SYSTEM_CONTROL, 0, STATUS_SUCCESS),
        (IRP_MJ_QUERY_EA, 0, STATUS_SUCCESS),
        (IRP_MJ_SET_EA, 0, STATUS_SUCCESS),
        (IRP_MJ_QUERY_QUOTA, 0, STATUS_SUCCESS),
        (IRP_MJ_SET_QUOTA, 0, STATUS_SUCCESS),
        (IRP_MJ_QUERY_SECURITY, 0, STATUS_SUCCESS),
        (IRP_MJ_QUERY_INFORMATION, 0, STATUS_INVALID_PARAMETER),
        (IRP_MJ_SET_INFORMATION, 0, STATUS_INVALID_PARAMETER),
        (IRP_MJ_CLEANUP, 0, STATUS_INVALID_PARAMETER),
        (IRP_MJ_LOCK_CONTROL, 0, STATUS_INVALID_PARAMETER),
    ],
)
@pytest.mark.parametrize("kind", [IRP_OPERATION, FAST_IO_OPERATION])
def test_only_what_has_an_mdl_is_locked(kind: int, major: int, minor: int, status: int) -> None:
    async def script(lab: Lab) -> None:
        async def look(Data: FLT_CALLBACK_DATA) -> None:
            lab.note("status", await FltLockUserBuffer(Data))
            if status == STATUS_SUCCESS:
                assert isinstance(Data.Iopb.Parameters.MdlAddress, MDL)
            Data.IoStatus.Status = STATUS_SUCCESS

        await lab.filter("A", MIDDLE, pre_of(major, look, FLT_PREOP_COMPLETE))
        request = lab.request(await lab.quiet_open(), major, kind=kind, Length=4)
        request.minor = minor
        await lab.send(request)

    assert run(script).note("status").value == status


@pytest.mark.rule("FLT-BUF-05")
def test_memory_that_is_not_there_cannot_be_locked() -> None:
    async def script(lab: Lab) -> None:
        async def look(Data: FLT_CALLBACK_DATA) -> None:
            lab.note("status", await FltLockUserBuffer(Data))

        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_READ, look) | pre_of(IRP_MJ_WRITE, look))
        file = await lab.quiet_open()
        memory = lab.app.memory(b"data", writable=False)
        await file.read(4, into=memory)
        await file.write(memory)
        await memory.unmap()
        await file.write(memory)

    statuses = [note.value for note in run(script).notes]
    assert statuses == [STATUS_ACCESS_VIOLATION, STATUS_SUCCESS, STATUS_ACCESS_VIOLATION]


def test_locked_pages_stay_when_the_program_unmaps_them() -> None:
    async def script(lab: Lab) -> Any:
        async def look(Data: FLT_CALLBACK_DATA) -> None:
            await FltLockUserBuffer(Data)
            await memory.unmap()
            pages = MmGetSystemAddressForMdlSafe(Data.Iopb.Parameters.MdlAddress, NormalPagePriority)
            lab.note("pages", (pages[0:4], len(pages), MmGetMdlByteCount(Data.Iopb.Parameters.MdlAddress)))

        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_WRITE, look))
        file = await lab.quiet_open()
        memory = lab.app.memory(b"data")
        await file.write(memory)

    assert run(script).note("pages").value == (b"data", 4, 4)


def test_a_lock_fails_where_resources_are_short() -> None:
    async def script(lab: Lab) -> None:
        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_READ, locker(lab)))
        await (await lab.quiet_open()).read(4)

    statuses = {one.note("locked").value[0] for one in all_runs(script, low_resources=True) if "locked" in one.order}
    assert statuses == {STATUS_SUCCESS, STATUS_INSUFFICIENT_RESOURCES}


# What drivers do wrong.


@pytest.mark.rule("FLT-BUF-06")
@pytest.mark.parametrize("flags", [0, DO_DIRECT_IO])
def test_an_mdl_of_the_filter_manager_or_the_io_manager_is_not_the_drivers_to_free(flags: int) -> None:
    async def script(lab: Lab) -> None:
        async def look(Data: FLT_CALLBACK_DATA) -> None:
            await FltLockUserBuffer(Data)
            await IoFreeMdl(Data.Iopb.Parameters.MdlAddress)

        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_READ, look))
        file = await lab.quiet_open()
        lab.volume.device_flags = flags
        await file.read(4)

    assert run(script).code == "mdl-foreign-free"


def raw(lab: Lab, *, probes: bool, times: int = 1) -> Any:
    """Reads the program's bytes by its own address."""

    async def look(Data: FLT_CALLBACK_DATA) -> None:
        buffer = Data.Iopb.Parameters.Write.WriteBuffer
        try:
            if probes:
                ProbeForRead(buffer, 4, 1)
            for _ in range(times):
                lab.note("bytes", buffer[0:4])
        except StructuredException as error:
            lab.note("failed", error.ExceptionCode)

    return look


@pytest.mark.rule("FLT-BUF-02")
@pytest.mark.parametrize(("probes", "found"), [(False, "ke.user-unprobed"), (True, None)])
def test_a_programs_address_has_to_be_probed(probes: bool, found: str | None) -> None:
    """What the specification calls ``user-buffer-unprobed`` is the kernel's ``ke.user-unprobed``."""

    async def script(lab: Lab) -> None:
        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_WRITE, raw(lab, probes=probes)))
        await (await lab.quiet_open()).write(b"data")

    one = run(script)
    assert one.code == found
    assert ("bytes" in one.order) is probes


@pytest.mark.rule("FLT-BUF-02")
def test_an_address_is_good_in_the_process_of_its_program_only() -> None:
    async def script(lab: Lab) -> None:
        async def work(Data: FLT_CALLBACK_DATA) -> None:
            await raw(lab, probes=True)(Data)
            await resumes(FLT_PREOP_COMPLETE)(Data)

        async def pend(Data: FLT_CALLBACK_DATA) -> None:
            await queue(Data, work)

        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_WRITE, pend, FLT_PREOP_PENDING))

        async def writer() -> None:
            await (await lab.quiet_open()).write(b"data")

        await lab.together(writer(), process=lab.app)

    one = run(script)
    assert one.code == "ke.user-va-context"
    assert one.finding.bug_check is not None
    assert one.finding.bug_check.code == PAGE_FAULT_IN_NONPAGED_AREA


@pytest.mark.rule("FLT-BUF-03")
@pytest.mark.parametrize(("times", "found"), [(2, "ke.double-fetch"), (1, None)])
def test_what_was_checked_must_not_be_read_again(times: int, found: str | None) -> None:
    """What the specification calls ``user-buffer-toctou`` is the kernel's ``ke.double-fetch``."""

    async def script(lab: Lab) -> None:
        await lab.filter("A", UPPER, pre_of(IRP_MJ_WRITE, raw(lab, probes=True, times=times)))
        # Another driver on the same operation is another reader.
        await lab.filter("B", LOWER, pre_of(IRP_MJ_WRITE, raw(lab, probes=True)))

        async def writer() -> None:
            file = await lab.quiet_open()
            memory = lab.app.memory(b"data")
            await file.write(memory)
            await file.write(memory)

        await lab.together(writer(), process=lab.app)

    assert run(script).code == found


def dispatch_post(lab: Lab, how: str) -> Any:
    """Looks at what was written in a post-operation callback, wherever that runs."""

    async def look(Data: FLT_CALLBACK_DATA) -> None:
        parameters = Data.Iopb.Parameters
        if how == "mapped":
            lab.note("bytes", MmGetSystemAddressForMdlSafe(parameters.MdlAddress, NormalPagePriority)[0:4])
        elif how == "raw":
            ProbeForRead(parameters.WriteBuffer, 4, 1)
        else:
            lab.note("bytes", parameters.WriteBuffer[0:4])

    return look


@pytest.mark.rule("FLT-BUF-04", "FLT-POST-04", "FLT-IRQL-07")
@pytest.mark.parametrize(
    ("how", "flags", "found"),
    [
        # A DPC runs in no process, so that the address is wrong before the page may be missing.
        ("plain", 0, {"ke.user-unprobed", "ke.user-va-context"}),
        ("plain", DO_BUFFERED_IO, {None}),
        ("mapped", DO_DIRECT_IO, {None}),
    ],
)
def test_at_dispatch_level_only_resident_memory_is_there(how: str, flags: int, found: set[str | None]) -> None:
    """What the specification calls ``user-buffer-at-dispatch`` is the kernel's ``ke.paged``."""

    async def script(lab: Lab) -> None:
        await lab.filter("A", MIDDLE, post_of(IRP_MJ_WRITE, dispatch_post(lab, how)))

        async def writer() -> None:
            file = await lab.quiet_open()
            lab.volume.device_flags = flags
            await file.write(b"data")

        await lab.together(writer(), process=lab.app)

    runs = all_runs(script, completion="explore")
    assert codes(runs) == found
    assert {note.irql for one in runs for note in one.notes} == (set() if flags == 0 else {0, DISPATCH_LEVEL})


@pytest.mark.rule("FLT-BUF-04")
def test_user_memory_at_dispatch_level_is_a_page_fault() -> None:
    async def script(lab: Lab) -> None:
        async def look(Data: FLT_CALLBACK_DATA) -> None:
            buffer = Data.Iopb.Parameters.Write.WriteBuffer
            ProbeForRead(buffer, 4, 1)
            current_kthread().irql = DISPATCH_LEVEL
            buffer[0:4]

        await lab.filter("A", MIDDLE, post_of(IRP_MJ_WRITE, look))
        await (await lab.quiet_open()).write(b"data")

    assert run(script).code == "ke.paged"


@pytest.mark.rule("FLT-POST-04", "FLT-IRQL-07")
@pytest.mark.parametrize(("what", "found"), [("pool", "ke.paged"), ("code", "ke.paged-code"), ("resident", None)])
def test_a_post_operation_callback_must_be_resident(what: str, found: str | None) -> None:
    """What the specification calls ``paged-at-dispatch`` is the kernel's ``ke.paged`` and ``ke.paged-code``."""

    async def script(lab: Lab) -> None:
        flags = POOL_FLAG_PAGED if what == "pool" else POOL_FLAG_NON_PAGED
        block = await ExAllocatePool2(flags, 16, "Test")

        async def look(Data: FLT_CALLBACK_DATA) -> None:
            lab.note("post")
            if what == "code":
                PAGED_CODE()
            else:
                block[0] = 1

        await lab.filter("A", MIDDLE, post_of(IRP_MJ_READ, look))
        await (await lab.quiet_open()).read(4)
        await ExFreePool(block)

    runs = all_runs(script, completion="explore")
    assert codes(runs) == {None, found}
    assert all((one.code is None) == (one.note("post").irql < DISPATCH_LEVEL) for one in runs if found is not None)


@pytest.mark.rule("FLT-BUF-16")
@pytest.mark.parametrize("how", ["copies", "subscript", "checks"])
def test_a_mapping_may_fail_and_has_to_be_looked_at(how: str) -> None:
    async def script(lab: Lab) -> None:
        async def look(Data: FLT_CALLBACK_DATA) -> None:
            buffer = MmGetSystemAddressForMdlSafe(Data.Iopb.Parameters.MdlAddress, NormalPagePriority)
            if how == "copies":
                RtlCopyMemory(buffer, b"data", 4)
            elif how == "subscript":
                buffer[0] = 1
            elif buffer is None:
                lab.note("failed")
                Data.IoStatus.Status = STATUS_INSUFFICIENT_RESOURCES

        await lab.filter("A", MIDDLE, post_of(IRP_MJ_READ, look))
        file = await lab.quiet_open()
        lab.volume.device_flags = DO_DIRECT_IO
        status, _ = await file.read(4)
        lab.note("status", status)

    runs = all_runs(script, low_resources=True)
    assert codes(runs) == ({None} if how == "checks" else {None, "mdl-map-null-unchecked"})
    if how == "checks":
        assert {one.note("status").value for one in runs} == {STATUS_SUCCESS, STATUS_INSUFFICIENT_RESOURCES}
        assert any("failed" in one.order for one in runs)


@pytest.mark.rule("FLT-BUF-16")
def test_a_null_that_comes_from_nowhere_is_no_failed_mapping() -> None:
    async def script(lab: Lab) -> None:
        async def look(Data: FLT_CALLBACK_DATA) -> None:
            RtlCopyMemory(None, b"data", 4)

        await lab.filter("A", MIDDLE, pre_of(IRP_MJ_READ, look))
        await (await lab.quiet_open()).read(4)

    assert run(script).code == "ke.bad-pointer"


def test_nobody_pays_for_buffers_that_nobody_looks_at() -> None:
    async def script(lab: Lab) -> None:
        await lab.recorder("A", MIDDLE, IRP_MJ_READ)
        file = await lab.quiet_open()
        request = await lab.send(lab.request(file, IRP_MJ_READ, Length=4))
        assert request.memory is None
        assert memory_of(request).address is not None

    assert run(script).code is None
