"""Memory of programs in requests to devices, and the bytes of directory entries."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, run
from io_kit import Device, complete

from kemu.io.device import DEVICE_OBJECT, DO_BUFFERED_IO, DO_DIRECT_IO
from kemu.io.file_constants import IRP_MN_NOTIFY_CHANGE_DIRECTORY, IRP_MN_QUERY_DIRECTORY
from kemu.io.irp import IRP
from kemu.io.layout import KINDS, WITH_ID, WITH_SHORT_NAME, decode, encode
from kemu.io.structures import FILE_NAMES_INFORMATION, FILE_NOTIFY_INFORMATION
from kemu.wdk.ntstatus import STATUS_ACCESS_VIOLATION, STATUS_SUCCESS
from kemu.wdk.wdm import IRP_MJ_READ, IRP_MJ_WRITE


def transfer_buffer(irp: IRP, flags: int) -> Any:
    """The buffer of a read or write, as the flags of the device say."""
    if flags == DO_DIRECT_IO:
        assert irp.MdlAddress is not None
        return irp.MdlAddress.buffer
    return irp.AssociatedIrp.SystemBuffer if flags == DO_BUFFERED_IO else irp.UserBuffer


@pytest.mark.parametrize("flags", [0, DO_DIRECT_IO, DO_BUFFERED_IO])
@pytest.mark.parametrize("mapped", [True, False])
def test_a_program_passes_memory_of_its_own_to_a_device(flags: int, mapped: bool) -> None:
    async def script(lab: Lab) -> Any:
        written: list[bytes] = []

        async def read(device: DEVICE_OBJECT, irp: IRP) -> int:
            transfer_buffer(irp, flags)[0:3] = b"new"
            if not mapped:
                await memory.unmap()
            return await complete(irp, STATUS_SUCCESS, 3)

        async def write(device: DEVICE_OBJECT, irp: IRP) -> int:
            written.append(bytes(transfer_buffer(irp, flags)))
            return await complete(irp, STATUS_SUCCESS, 4)

        await lab.load(Device("D", {IRP_MJ_READ: read, IRP_MJ_WRITE: write}, flags=flags))
        file = await lab.app.open(r"\\.\D")
        memory = lab.app.memory(b"data--")
        await file.write(lab.app.memory(b"what"))
        result = await file.read(4, into=memory)
        return written, result, bytes(memory.content)

    written, result, content = run(script).result
    assert written == [b"what"]
    if mapped or flags == DO_DIRECT_IO:
        assert (result, content) == ((STATUS_SUCCESS, b"new"), b"newa--")
    elif flags == 0:
        assert (result[0], content) == (STATUS_ACCESS_VIOLATION, b"data--")
    else:
        # The I/O manager has the data, and nowhere to copy it to.
        assert (result, content) == ((STATUS_SUCCESS, b"new"), b"data--")


@pytest.mark.parametrize("number", KINDS)
def test_entries_survive_being_bytes(number: int) -> None:
    kind = KINDS[number]
    members: dict[str, Any] = {"FileIndex": 7}
    if kind is not FILE_NAMES_INFORMATION:
        members |= dict.fromkeys(("CreationTime", "LastWriteTime", "EndOfFile", "AllocationSize"), 1 << 40)
        members |= {"FileAttributes": 0x20}
    if kind in WITH_SHORT_NAME:
        members |= {"ShortName": "LONGNA~1.TXT", "EaSize": 3}
    if kind in WITH_ID:
        members |= {"FileId": 0x1234567890}
    entries = [kind("a", **members), kind("long name \N{SNOWMAN}.txt", **members)]
    data = encode(entries)
    assert decode(data, IRP_MN_QUERY_DIRECTORY, number) == entries
    # The first one is as long as its size says, up to the next multiple of eight.
    assert len(encode(entries[:1])) == entries[0].size
    assert len(data) == -(-entries[0].size // 8) * 8 + entries[1].size


def test_changes_survive_being_bytes() -> None:
    changes = [FILE_NOTIFY_INFORMATION(1, "odd"), FILE_NOTIFY_INFORMATION(3, "even")]
    data = encode(changes)
    assert decode(data, IRP_MN_NOTIFY_CHANGE_DIRECTORY, 0) == changes
    assert len(data) == -(-changes[0].size // 4) * 4 + changes[1].size
    assert decode(b"", IRP_MN_NOTIFY_CHANGE_DIRECTORY, 0) == []
