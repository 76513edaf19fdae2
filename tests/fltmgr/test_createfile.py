"""Files that a minifilter opens: by which name, and until when."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.gio_kit import LOWER, MIDDLE, Lab, acting, on_read, opened
from fltmgr.kit import all_runs, codes, run

from kemu.io.constants import IRP_MJ_CLOSE, IRP_MJ_READ
from kemu.io.request import FileObject
from kemu.nt.kthread import DISPATCH_LEVEL
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltClose,
    FltCreateFile,
    FltReadFile,
)
from kemu.wdk.ntifs import IoReplaceFileObjectName
from kemu.wdk.ntstatus import (
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_PATH_NOT_FOUND,
    STATUS_PROCESS_IS_TERMINATING,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    FILE_DIRECTORY_FILE,
    FILE_OPEN,
    FILE_READ_DATA,
    FILE_SYNCHRONOUS_IO_NONALERT,
    OBJ_KERNEL_HANDLE,
    OBJECT_ATTRIBUTES,
    ObDereferenceObject,
    ObReferenceObject,
)


async def create(FltObjects: FLT_RELATED_OBJECTS, name: str, root: int = 0, access: int = FILE_READ_DATA) -> Any:
    """FltCreateFile below the instance: status, handle and what came of it."""
    status, handle, block = await FltCreateFile(
        FltObjects.Filter, FltObjects.Instance, access | 0x100000, OBJECT_ATTRIBUTES(name, OBJ_KERNEL_HANDLE, root),
        None, 0, 7, FILE_OPEN, FILE_SYNCHRONOUS_IO_NONALERT, None, 0, 0,
    )  # fmt: skip
    return status, handle, block.Information


@pytest.mark.rule("FLT-IO-11")
@pytest.mark.parametrize("name", [r"\a", r"C:\a", r"\??\C:\a"])
def test_a_name_with_or_without_a_drive(name: str) -> None:
    async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        status, handle, block = await FltCreateFile(
            FltObjects.Filter, None, FILE_READ_DATA, OBJECT_ATTRIBUTES(name, OBJ_KERNEL_HANDLE),
            None, 0, 7, FILE_OPEN, 0, None, 0, 0,
        )  # fmt: skip
        closed = await FltClose(handle)
        return status, block.Status, block.Information, closed

    one = run(on_read(lambda lab: act))
    assert one.code is None
    assert one.note("acted").value == (STATUS_SUCCESS, STATUS_SUCCESS, 1, STATUS_SUCCESS)


def test_a_name_relative_to_a_directory() -> None:
    async def script(lab: Lab) -> None:
        lab.directory(r"\d")
        lab.file(r"\d\f", b"x")

        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            _, root, directory = await opened(FltObjects, r"\d", options=FILE_DIRECTORY_FILE)
            assert directory is not None
            status, handle, _ = await create(FltObjects, "f", root)
            await FltClose(handle)
            await FltClose(root)
            await ObDereferenceObject(directory)
            return status, (await create(FltObjects, "f", 0x4444))[0]

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)})
        file = await lab.quiet_open()
        await file.read(1)

    one = run(script)
    assert one.code is None
    assert one.note("acted").value == (STATUS_SUCCESS, STATUS_OBJECT_PATH_NOT_FOUND)


@pytest.mark.parametrize(("attributes", "status"), [(OBJ_KERNEL_HANDLE, STATUS_SUCCESS), (0, None)])
def test_a_file_that_no_handle_can_be_made_for_is_closed_again(attributes: int, status: int | None) -> None:
    async def script(lab: Lab) -> Any:
        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            lab.system_process.is_exiting = True
            got, handle, file = await opened(FltObjects, attributes=attributes)
            lab.system_process.is_exiting = False
            assert (handle, file) == (0, None)
            return got

        async def close(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("close")
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)})
        await lab.filter("L", LOWER, {IRP_MJ_CLOSE: (close, None)})
        file = await lab.quiet_open()
        await file.read(1)

    one = run(script)
    assert one.code is None
    assert one.note("acted").value in {STATUS_PROCESS_IS_TERMINATING, STATUS_INVALID_PARAMETER}
    assert "close" in one.order


@pytest.mark.rule("FLT-IO-11")
@pytest.mark.parametrize("raised", [False, True])
def test_a_reference_keeps_a_file_object_and_its_end_sends_the_close(raised: bool) -> None:
    """Who sees the close may use the file object yet; afterwards it is gone."""

    async def script(lab: Lab) -> Any:
        kept: list[FileObject] = []

        async def hold(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            assert FltObjects.FileObject is not None
            await ObReferenceObject(FltObjects.FileObject)
            kept.append(FltObjects.FileObject)

        async def close(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            assert FltObjects.FileObject is not None
            lab.note("close")
            assert await IoReplaceFileObjectName(FltObjects.FileObject, r"\gone", 10) == STATUS_SUCCESS
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        driver = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, hold), None), IRP_MJ_CLOSE: (close, None)})
        file = await lab.quiet_open()
        await file.read(1)
        await file.close()
        lab.note("closed")
        drop = ObDereferenceObject(kept[0])
        await (lab.at_dispatch(drop) if raised else drop)
        await lab.sleep(0.1)
        lab.note("dropped")
        if not raised:
            await FltReadFile(lab.instance(driver), kept[0], 0, 1, bytearray(1), 0, None, None)

    one = run(script)
    assert [what for what in one.order if what != "acted"] == ["closed", "close", "dropped"]
    assert one.code == (None if raised else "ke.use-after-free")


@pytest.mark.rule("FLT-IO-11")
def test_a_file_object_is_closed_once_whoever_lets_go_of_it_last() -> None:
    async def script(lab: Lab) -> Any:
        kept: list[FileObject] = []

        async def hold(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            assert FltObjects.FileObject is not None
            await ObReferenceObject(FltObjects.FileObject)
            kept.append(FltObjects.FileObject)

        async def close(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note("close")
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        async def program() -> None:
            await file.close()

        async def driver() -> None:
            await ObDereferenceObject(kept[0])

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, hold), None), IRP_MJ_CLOSE: (close, None)})
        file = await lab.quiet_open()
        await file.read(1)
        await lab.together(program(), driver())

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {one.order.count("close") for one in runs} == {1}
    assert {one.note("close").thread for one in runs} == {"program", "driver"}
    assert {one.note("close").irql for one in runs} <= set(range(DISPATCH_LEVEL))
