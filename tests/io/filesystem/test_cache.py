"""Cached I/O: what filters see of it, what reaches the disk and when, when the close comes."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, Run, all_runs, run

from kemu.explore import RandomWalk
from kemu.io.constants import (
    IRP_MJ_ACQUIRE_FOR_CC_FLUSH,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
    IRP_MJ_FLUSH_BUFFERS,
    IRP_MJ_READ,
    IRP_MJ_RELEASE_FOR_CC_FLUSH,
    IRP_MJ_WRITE,
    IRP_NOCACHE,
    IRP_PAGING_IO,
    major_name,
)
from kemu.io.filesystem.cache import FSRTL_CACHE_TOP_LEVEL_IRP, PAGE
from kemu.nt.kthread import current_kthread
from kemu.nt.status import STATUS_DISK_FULL, STATUS_IO_DEVICE_ERROR, STATUS_SUCCESS
from kemu.wdk.fltkernel import (
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FltSetCallbackDataDirty,
)

MAJORS = (
    IRP_MJ_READ,
    IRP_MJ_WRITE,
    IRP_MJ_FLUSH_BUFFERS,
    IRP_MJ_ACQUIRE_FOR_CC_FLUSH,
    IRP_MJ_RELEASE_FOR_CC_FLUSH,
    IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE,
)
CACHED: dict[str, Any] = {"cached_io": True}


async def watch(lab: Lab) -> None:
    """A filter that notes each request: what it is, whether it is paging I/O, and whose thread it is in."""

    async def pre(Data: Any, FltObjects: Any) -> int:
        name = major_name(Data.Iopb.MajorFunction).removeprefix("IRP_MJ_").lower()
        paging = "paging " if Data.Iopb.IrpFlags & IRP_PAGING_IO else ""
        lab.note(f"{paging}{name}", Data.Iopb.Parameters.ByteOffset)
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    await lab.filter("D", "1", dict.fromkeys(MAJORS, (pre, None)))


def disk(lab: Lab) -> bytes:
    node = lab.volume.filesystem.find(r"\a")
    assert node is not None
    return bytes(node.data)


async def flush(lab: Lab, file: Any) -> Any:
    return (await lab.send(lab.request(file, IRP_MJ_FLUSH_BUFFERS))).status


def test_a_page_is_read_once() -> None:
    async def script(lab: Lab) -> list[bytes]:
        await watch(lab)
        file = await lab.open()
        return [(await file.read(3))[1], (await file.read(99, 2))[1], (await file.read(1, 99))[1]]

    one = run(script, **CACHED)
    assert one.result == [b"012", b"23456789", b""]
    assert one.order == ["read", "paging read", "read", "read"]


def test_a_write_stays_in_the_cache_until_the_lazy_writer_comes() -> None:
    async def script(lab: Lab) -> list[bytes]:
        await watch(lab)
        file = await lab.open()
        await file.write(b"XY", 4)
        before = disk(lab)
        read = (await file.read(99))[1]
        await lab.sleep(1)
        return [before, read, disk(lab)]

    one = run(script, **CACHED)
    assert one.result == [b"0123456789", b"0123XY6789", b"0123XY6789"]
    assert one.order == ["write", "paging read", "read", "paging write"]
    assert one.note("paging write").thread == "lazy writer of fs:C:"


def test_the_lazy_writer_may_come_at_any_time() -> None:
    async def script(lab: Lab) -> bytes:
        file = await lab.quiet_open()
        await file.write(b"X")
        await lab.step("meanwhile")
        return disk(lab)[:1]

    runs = all_runs(script, bound=2, **CACHED)
    assert {one.code for one in runs} == {None}
    assert {one.result for one in runs} == {b"0", b"X"}


def test_a_flush_writes_everything_before_it_is_over() -> None:
    async def script(lab: Lab) -> Any:
        await watch(lab)
        file = await lab.quiet_open()
        await file.write(b"A")
        await file.write(b"B", 2 * PAGE)
        status = await flush(lab, file)
        return status, disk(lab) == b"A123456789" + bytes(2 * PAGE - 10) + b"B"

    runs = all_runs(script, bound=1, **CACHED)
    assert {(one.code, one.result) for one in runs} == {(None, (STATUS_SUCCESS, True))}
    plain = run(script, **CACHED)
    assert plain.order == [
        "write", "paging read", "write", "flush_buffers", "acquire_for_cc_flush", "paging write", "paging write",
        "release_for_cc_flush",
    ]  # fmt: skip
    assert [note.value for note in plain.notes if note.what == "paging write"] == [0, 2 * PAGE]


@pytest.mark.parametrize("direct", [IRP_NOCACHE])
def test_what_bypasses_the_cache_sees_what_is_in_it(direct: int) -> None:
    async def script(lab: Lab) -> list[Any]:
        file = await lab.quiet_open()
        await file.write(b"X")
        first = (await file.read(2, flags=direct))[1]
        await file.write(b"YZ", flags=direct)
        return [first, (await file.read(4))[1]]

    runs = all_runs(script, bound=1, **CACHED)
    assert {(one.code, repr(one.result)) for one in runs} == {(None, repr([b"X1", b"YZ23"]))}


def test_a_filter_that_changes_pages_on_their_way() -> None:
    flip = bytes.maketrans(b"0123456789", b"9876543210")

    async def script(lab: Lab) -> Any:
        async def pre_write(Data: Any, FltObjects: Any) -> int:
            if Data.Iopb.IrpFlags & IRP_PAGING_IO:
                Data.Iopb.Parameters.Buffer = Data.Iopb.Parameters.Buffer.translate(flip)
                FltSetCallbackDataDirty(Data)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("D", "1", {IRP_MJ_WRITE: (pre_write, None)})
        file = await lab.open()
        await file.write(b"1")
        seen = (await file.read(1))[1]
        await lab.sleep(1)
        return seen, disk(lab)[:2]

    # The whole page is written, not only what was changed of it.
    assert run(script, **CACHED).result == (b"1", b"88")


def test_a_page_that_cannot_be_read_fails_the_read() -> None:
    async def script(lab: Lab) -> Any:
        async def pre(Data: Any, FltObjects: Any) -> int:
            if not Data.Iopb.IrpFlags & IRP_PAGING_IO:
                return FLT_PREOP_SUCCESS_NO_CALLBACK
            Data.IoStatus.Status = STATUS_IO_DEVICE_ERROR
            return FLT_PREOP_COMPLETE

        await lab.filter("D", "1", {IRP_MJ_READ: (pre, None)})
        file = await lab.open()
        return (await file.read(1))[0], (await file.write(b"x"))[0], (await file.write(bytes(PAGE)))[0]

    # A page that is written as a whole need not be read.
    assert run(script, **CACHED).result == (STATUS_IO_DEVICE_ERROR, STATUS_IO_DEVICE_ERROR, STATUS_SUCCESS)


def test_a_page_that_cannot_be_written_is_lost() -> None:
    async def script(lab: Lab) -> Any:
        async def pre(Data: Any, FltObjects: Any) -> int:
            if not Data.Iopb.IrpFlags & IRP_PAGING_IO:
                return FLT_PREOP_SUCCESS_NO_CALLBACK
            Data.IoStatus.Status = STATUS_DISK_FULL
            return FLT_PREOP_COMPLETE

        await lab.filter("D", "1", {IRP_MJ_WRITE: (pre, None)})
        file = await lab.open()
        written, _ = await file.write(b"x")
        return written, await flush(lab, file), await flush(lab, file), disk(lab)[:1]

    assert run(script, **CACHED).result == (STATUS_SUCCESS, STATUS_DISK_FULL, STATUS_SUCCESS, b"0")


def test_the_close_comes_after_the_last_page_is_written() -> None:
    async def script(lab: Lab) -> None:
        await watch(lab)
        file = await lab.quiet_open()
        await file.write(b"X")
        await file.close()
        await lab.step("closed")

    runs = all_runs(script, bound=1, **CACHED)
    assert {one.code for one in runs} == {None}
    for one in runs:
        assert one.index("paging write") < one.index("close")
    assert any(one.index("cleanup") < one.index("paging write") for one in runs)
    plain = run(script, **CACHED)
    assert plain.note("close").thread.startswith("close:")


def test_the_cache_keeps_the_first_file_object_for_the_others() -> None:
    async def script(lab: Lab) -> list[str]:
        await watch(lab)
        first, second = await lab.open(), await lab.open()
        await first.read(1)
        await second.read(1)
        await first.close()
        before = [note.what for note in lab.notes].count("close")
        await second.close()
        await lab.sleep(1)
        return [str(before), str([note.what for note in lab.notes].count("close"))]

    assert run(script, **CACHED).result == ["0", "2"]


def test_a_deleted_file_is_not_written() -> None:
    async def script(lab: Lab) -> list[str]:
        await watch(lab)
        api = lab.app.win32
        handle = await api.CreateFileW("n", 0xC0010000, 7, None, 1)
        await api.WriteFile(handle, b"x")
        await api.DeleteFileW("n")
        await api.CloseHandle(handle)
        await lab.sleep(1)
        return [note.what for note in lab.notes if "paging" in note.what]

    assert run(script, **CACHED).result == []


def test_truncation_forgets_pages() -> None:
    async def script(lab: Lab) -> Any:
        api = lab.app.win32
        handle = await api.CreateFileW("a", 0xC0000000, 7, None, 3)
        await api.WriteFile(handle, b"x" * (PAGE + 10))
        await api.SetFilePointerEx(handle, 5)
        await api.SetEndOfFile(handle)
        await api.SetFilePointerEx(handle, 8)
        await api.SetEndOfFile(handle)
        await api.SetFilePointerEx(handle, 0)
        read = await api.ReadFile(handle, 99)
        await api.FlushFileBuffers(handle)
        return read, disk(lab)

    assert run(script, **CACHED).result == ((True, b"xxxxx\0\0\0"), b"xxxxx\0\0\0")


def test_the_valid_data_length_follows_the_lazy_writer() -> None:
    async def script(lab: Lab) -> list[int]:
        file = await lab.open()
        stream = file.file.fs_context.stream
        found = [stream.valid]
        await file.write(b"x", 20)
        found += [stream.valid, len(stream.bytes)]
        await flush(lab, file)
        return [*found, stream.valid]

    assert run(script, **CACHED).result == [10, 10, 21, 21]


def test_the_lazy_writer_says_so() -> None:
    async def script(lab: Lab) -> Any:
        seen: list[object] = []

        async def pre(Data: Any, FltObjects: Any) -> int:
            if Data.Iopb.IrpFlags & IRP_PAGING_IO:
                top = current_kthread().top_level_irp
                seen.append(top if isinstance(top, int) else type(top).__name__)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("D", "1", {IRP_MJ_READ: (pre, None), IRP_MJ_WRITE: (pre, None)})
        file = await lab.open()
        await file.write(b"x")
        await lab.sleep(1)
        return seen, current_kthread().top_level_irp

    assert run(script, **CACHED).result == (["Request", FSRTL_CACHE_TOP_LEVEL_IRP], None)


def test_two_writes_of_one_page_come_in_order() -> None:
    async def script(lab: Lab) -> bytes:
        file = await lab.quiet_open()
        await file.write(b"1")
        await file.write(b"2")

        async def one() -> None:
            await flush(lab, file)

        async def other() -> None:
            await file.write(b"3")
            await flush(lab, file)

        await lab.together(one(), other())
        return disk(lab)[:1]

    results: set[Any] = set()
    for seed in range(150):
        walk: Run = run(script, RandomWalk(seed), completion="explore", **CACHED)
        results.add((walk.code, walk.result))
    assert results == {(None, b"3")}


def test_a_pended_paging_write_holds_a_flush_up() -> None:
    async def script(lab: Lab) -> Any:
        held: list[Any] = []

        async def pre(Data: Any, FltObjects: Any) -> int:
            if Data.Iopb.IrpFlags & IRP_PAGING_IO:
                held.append(Data)
                return FLT_PREOP_PENDING
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("D", "1", {IRP_MJ_WRITE: (pre, None)})
        file = await lab.open()
        await file.write(b"x")
        await flush(lab, file)

    assert run(script, **CACHED).code == "pend-never-completed"


def test_without_the_option_there_is_no_lazy_writer() -> None:
    async def script(lab: Lab) -> list[str]:
        await (await lab.open()).write(b"x")
        return [thread.label for thread in lab.runtime.threads]

    assert run(script).result == ["script"]
    assert run(script, **CACHED).result == ["script", "lazy writer of fs:C:"]
