"""What a minifilter owes when it begins I/O: each rule broken, and kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fltmgr.gio_kit import LOWER, MIDDLE, Lab, acting, on_read, opened
from fltmgr.kit import all_runs, codes, run

from kemu.io.constants import IRP_MJ_CREATE, IRP_MJ_READ, IRP_NOCACHE
from kemu.io.request import FileObject
from kemu.nt.bugcheck import FLTMGR_FILE_SYSTEM
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, current_kthread
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_PREOP_SYNCHRONIZE,
    FLT_RELATED_OBJECTS,
    FLTFL_IO_OPERATION_NON_CACHED,
    FLTFL_IO_OPERATION_PAGING,
    FLTFL_IO_OPERATION_SYNCHRONOUS_PAGING,
    FltAcquirePushLockExclusive,
    FltAllocateCallbackData,
    FltCancelFileOpen,
    FltCancelIo,
    FltClose,
    FltCreateFile,
    FltDeletePushLock,
    FltDeviceIoControlFile,
    FltFlushBuffers,
    FltFreeCallbackData,
    FltFsControlFile,
    FltInitializePushLock,
    FltOpenVolume,
    FltPerformAsynchronousIo,
    FltPerformSynchronousIo,
    FltQueryInformationFile,
    FltQueryVolumeInformation,
    FltReadFile,
    FltReissueSynchronousIo,
    FltReleasePushLock,
    FltReuseCallbackData,
    FltSetCallbackDataDirty,
    FltSetInformationFile,
    FltTagFile,
    FltWriteFile,
)
from kemu.wdk.ntddk import (
    KeEnterCriticalRegion,
    KeEnterGuardedRegion,
    KeLeaveCriticalRegion,
    KeLeaveGuardedRegion,
)
from kemu.wdk.ntifs import (
    FILE_ATTRIBUTE_RECALL_ON_DATA_ACCESS,
    FILE_END_OF_FILE_INFORMATION,
    FSCTL_IS_VOLUME_MOUNTED,
    FileFsVolumeInformation,
    ObOpenObjectByPointer,
)
from kemu.wdk.ntstatus import STATUS_ACCESS_DENIED, STATUS_REPARSE
from kemu.wdk.wdm import (
    EX_PUSH_LOCK,
    FILE_READ_DATA,
    OBJECT_ATTRIBUTES,
    FileEndOfFileInformation,
    FileStandardInformation,
    IoFileObjectType,
    KeClearEvent,
    KeSetEvent,
    KeWaitForSingleObject,
    ObDereferenceObject,
    ObReferenceObject,
)


def code_of(act: Any, **more: Any) -> str | None:
    """The finding of a run in which M does ``act(lab, Data, FltObjects)`` when a program reads."""

    def make(lab: Lab) -> Any:
        async def once(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            return await act(lab, Data, FltObjects)

        return once

    return run(on_read(make, **more)).code


async def read(FltObjects: FLT_RELATED_OBJECTS, *, offset: int | None = 0, length: int = 3, flags: int = 0) -> Any:
    assert FltObjects.FileObject is not None
    buffer = bytearray(length)
    return await FltReadFile(FltObjects.Instance, FltObjects.FileObject, offset, length, buffer, flags, None, None)


# IRQL.


def the_file(FltObjects: FLT_RELATED_OBJECTS) -> FileObject:
    assert FltObjects.FileObject is not None
    return FltObjects.FileObject


Call = Callable[[FLT_RELATED_OBJECTS], Awaitable[Any]]
CALLS: list[Call] = [
    read,
    lambda o: FltWriteFile(o.Instance, the_file(o), 0, 1, b"x", 0, None, None),
    opened,
    lambda o: FltCreateFile(o.Filter, None, FILE_READ_DATA, OBJECT_ATTRIBUTES(r"\a"), None, 0, 7, 1, 0, None, 0, 0),
    lambda o: FltClose(4),
    lambda o: FltQueryInformationFile(o.Instance, the_file(o), 24, FileStandardInformation),
    lambda o: FltSetInformationFile(
        o.Instance, the_file(o), FILE_END_OF_FILE_INFORMATION(1), 8, FileEndOfFileInformation
    ),
    lambda o: FltFsControlFile(o.Instance, the_file(o), FSCTL_IS_VOLUME_MOUNTED, None, 0, 0),
    lambda o: FltDeviceIoControlFile(o.Instance, the_file(o), 0x22_0000, None, 0, 0),
    lambda o: FltFlushBuffers(o.Instance, the_file(o)),
    lambda o: FltTagFile(o.Instance, the_file(o), 1, None, b"", 0),
    lambda o: FltOpenVolume(o.Instance),
]


@pytest.mark.rule("FLT-IO-04")
@pytest.mark.parametrize("irql", [APC_LEVEL, DISPATCH_LEVEL])
@pytest.mark.parametrize("call", CALLS)
def test_io_at_a_raised_irql_is_the_finding_of_the_kernel(irql: int, call: Call) -> None:
    async def act(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        current_kthread().irql = irql
        await call(FltObjects)

    assert code_of(act) == "ke.irql"


@pytest.mark.rule("FLT-IO-18")
@pytest.mark.parametrize(
    ("asynchronous", "flags", "irql", "code"),
    [
        (True, 0, APC_LEVEL, "ke.irql"),
        (True, 2, APC_LEVEL, None),
        (True, 2, DISPATCH_LEVEL, "ke.irql"),
        (False, 0, APC_LEVEL, None),
        (False, 0, DISPATCH_LEVEL, "ke.irql"),
    ],
)
def test_performing_io_at_a_raised_irql(asynchronous: bool, flags: int, irql: int, code: str | None) -> None:
    async def completed(Data: FLT_CALLBACK_DATA, Context: Any) -> None:
        pass

    async def act(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        _, own = await FltAllocateCallbackData(FltObjects.Instance, FltObjects.FileObject)
        assert own is not None
        own.Iopb.MajorFunction, own.Iopb.IrpFlags = IRP_MJ_READ, flags
        current_kthread().irql = irql
        if asynchronous:
            await FltPerformAsynchronousIo(own, completed, None)
        else:
            await FltPerformSynchronousIo(own)
        current_kthread().irql = 0
        await FltFreeCallbackData(own)

    assert code_of(act) == code


# The file object and the parameters.


@pytest.mark.rule("FLT-IO-05")
def test_io_on_a_file_object_that_is_not_open_yet() -> None:
    async def script(lab: Lab) -> None:
        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            return await read(FltObjects)

        await lab.filter("M", MIDDLE, {IRP_MJ_CREATE: (acting(lab, act), None)})
        await lab.open()

    assert run(script).code == "io-on-unopened-file"


@pytest.mark.rule("FLT-IO-05")
@pytest.mark.parametrize("paging", [False, True])
def test_io_on_a_file_object_whose_last_handle_is_closed(paging: bool) -> None:
    async def act(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        _, handle, file = await opened(FltObjects)
        assert file is not None
        await FltClose(handle)
        flags = FLTFL_IO_OPERATION_PAGING if paging else 0
        await FltReadFile(FltObjects.Instance, file, 0, 3, bytearray(3), flags, None, None)
        await ObDereferenceObject(file)

    assert code_of(act) == (None if paging else "io-on-unopened-file")


@pytest.mark.rule("FLT-IO-07")
@pytest.mark.parametrize(
    ("offset", "length", "code"),
    [(0, 512, None), (512, 1024, None), (1, 512, "noncached-misaligned"), (0, 511, "noncached-misaligned")],
)
@pytest.mark.parametrize("how", ["FltReadFile", "FltPerformSynchronousIo"])
def test_uncached_io_comes_in_sectors(how: str, offset: int, length: int, code: str | None) -> None:
    async def act(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        if how == "FltReadFile":
            await read(FltObjects, offset=offset, length=length, flags=FLTFL_IO_OPERATION_NON_CACHED)
            return
        _, own = await FltAllocateCallbackData(FltObjects.Instance, FltObjects.FileObject)
        assert own is not None
        own.Iopb.MajorFunction, own.Iopb.IrpFlags = IRP_MJ_READ, IRP_NOCACHE
        own.Iopb.Parameters.ByteOffset, own.Iopb.Parameters.Length = offset, length
        await FltPerformSynchronousIo(own)
        await FltFreeCallbackData(own)

    assert code_of(act) == code


@pytest.mark.rule("FLT-IO-07")
def test_cached_io_needs_no_sectors() -> None:
    async def act(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        await read(FltObjects, offset=1, length=3)

    assert code_of(act) is None


@pytest.mark.rule("FLT-IO-09")
@pytest.mark.parametrize(
    ("offset", "flags", "overlapped", "code"),
    [
        (0, FLTFL_IO_OPERATION_SYNCHRONOUS_PAGING, False, "io-bad-params"),
        (0, FLTFL_IO_OPERATION_SYNCHRONOUS_PAGING | FLTFL_IO_OPERATION_PAGING, False, None),
        (None, 0, True, "io-bad-params"),
        (-2, 0, True, "io-bad-params"),
        (None, 0, False, None),
        (0, 0, True, None),
    ],
)
def test_flags_and_offset_have_to_fit(offset: int | None, flags: int, overlapped: bool, code: str | None) -> None:
    async def act(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        await read(FltObjects, offset=offset, flags=flags)

    assert code_of(act, overlapped=overlapped) == code


@pytest.mark.rule("FLT-IO-10")
@pytest.mark.parametrize("how", ["create", "volume", "query", "read"])
def test_opening_and_querying_under_a_top_level_irp(how: str) -> None:
    async def act(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        current_kthread().top_level_irp = "somebody's"
        if how == "create":
            await opened(FltObjects)
        elif how == "volume":
            await FltOpenVolume(FltObjects.Instance)
        elif how == "query":
            await FltQueryInformationFile(FltObjects.Instance, the_file(FltObjects), 24, FileStandardInformation)
        else:
            await read(FltObjects)
        current_kthread().top_level_irp = None

    assert code_of(act) == (None if how == "read" else "io-with-toplevel-irp")


@pytest.mark.rule("FLT-IO-10")
@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("queries", [False, True])
def test_opening_and_querying_with_all_apcs_disabled(guarded: bool, queries: bool) -> None:
    async def act(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        KeEnterGuardedRegion() if guarded else KeEnterCriticalRegion()
        if queries:
            await FltQueryInformationFile(FltObjects.Instance, the_file(FltObjects), 24, FileStandardInformation)
        else:
            _, handle, file = await opened(FltObjects)
            assert file is not None
            await FltClose(handle)
            await ObDereferenceObject(file)
        KeLeaveGuardedRegion() if guarded else KeLeaveCriticalRegion()

    assert code_of(act) == ("io-apcs-disabled" if guarded else None)


@pytest.mark.rule("FLT-IO-29")
@pytest.mark.parametrize(
    ("recalled", "altitude", "warns"), [(True, "140000", 1), (True, "190000", 0), (False, "140000", 0)]
)
def test_data_that_is_elsewhere_is_not_read_from_below_who_brings_it(recalled: bool, altitude: str, warns: int) -> None:
    async def script(lab: Lab) -> None:
        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            return await read(FltObjects)

        if recalled:
            node = lab.volume.filesystem.find(r"\a")
            assert node is not None
            node.attributes |= FILE_ATTRIBUTE_RECALL_ON_DATA_ACCESS
        await lab.filter("M", altitude, {IRP_MJ_READ: (acting(lab, act), None)})
        file = await lab.open()
        await file.read(1)

    assert run(script).warnings == ("placeholder-io",) * warns


# Locks.


@pytest.mark.rule("FLT-IO-12")
@pytest.mark.parametrize("how", ["read", "create", "perform", "volume", None])
def test_a_lock_is_held_while_io_is_sent(how: str | None) -> None:
    async def act(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        lock = EX_PUSH_LOCK("Lock")
        FltInitializePushLock(lock)
        await FltAcquirePushLockExclusive(lock)
        if how == "read":
            await read(FltObjects)
        elif how == "create":
            await opened(FltObjects)
        elif how == "volume":
            await FltQueryVolumeInformation(FltObjects.Instance, 100, FileFsVolumeInformation)
        elif how == "perform":
            _, own = await FltAllocateCallbackData(FltObjects.Instance, FltObjects.FileObject)
            assert own is not None
            own.Iopb.MajorFunction = IRP_MJ_READ
            await FltPerformSynchronousIo(own)
        await FltReleasePushLock(lock)
        await read(FltObjects)
        FltDeletePushLock(lock)

    assert code_of(act) == (None if how is None else "lock-across-io")


# Callback data.


async def own_read(FltObjects: FLT_RELATED_OBJECTS, offset: int = 0) -> FLT_CALLBACK_DATA:
    _, own = await FltAllocateCallbackData(FltObjects.Instance, FltObjects.FileObject)
    assert own is not None
    own.Iopb.MajorFunction = IRP_MJ_READ
    own.Iopb.Parameters.Length, own.Iopb.Parameters.ByteOffset = 3, offset
    return own


@pytest.mark.rule("FLT-IO-13")
@pytest.mark.parametrize("frees", [False, True])
def test_callback_data_that_is_never_freed(frees: bool) -> None:
    async def script(lab: Lab) -> None:
        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
            own = await own_read(FltObjects)
            await FltPerformSynchronousIo(own)
            if frees:
                await FltFreeCallbackData(own)

        driver = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)})
        file = await lab.open()
        await file.read(1)
        await file.close()
        await driver.unload()

    assert run(script).code == (None if frees else "cbd-leak")


@pytest.mark.rule("FLT-IO-13")
@pytest.mark.parametrize("routine", [FltFreeCallbackData, FltReuseCallbackData, FltPerformSynchronousIo])
def test_callback_data_of_somebody_else(routine: Any) -> None:
    async def act(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        await routine(Data)

    assert code_of(act) == "cbd-foreign-free"


@pytest.mark.rule("FLT-IO-13")
@pytest.mark.parametrize("what", ["free", "touch", "parameters", "status"])
def test_callback_data_that_was_freed(what: str) -> None:
    async def act(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        own = await own_read(FltObjects)
        parameters, status = own.Iopb.Parameters, own.IoStatus
        await FltFreeCallbackData(own)
        if what == "free":
            await FltFreeCallbackData(own)
        elif what == "parameters":
            parameters.Length = 1
        elif what == "status":
            return status.Status
        return own.Flags

    assert code_of(act) == "ke.use-after-free"


@pytest.mark.rule("FLT-IO-16")
@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("offset", [0, 100])
@pytest.mark.parametrize("reuses", [False, True])
def test_how_asynchronous_io_ended_is_in_iostatus(looks: bool, offset: int, reuses: bool) -> None:
    async def act(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        own = await own_read(FltObjects, offset)

        async def completed(Own: FLT_CALLBACK_DATA, Context: Any) -> None:
            if looks:
                lab.note("status", Own.IoStatus.Status)
            if reuses:
                await FltReuseCallbackData(Own)
            await FltFreeCallbackData(Own)

        await FltPerformAsynchronousIo(own, completed, None)

    assert code_of(act) == ("asyncio-status-misread" if offset and not looks else None)


@pytest.mark.rule("FLT-IO-17")
@pytest.mark.parametrize("what", ["free", "reuse", "touch", "nothing"])
def test_callback_data_is_not_the_issuers_until_the_callback(what: str) -> None:
    def make(lab: Lab) -> Any:
        event = lab.event("done")

        async def completed(Own: FLT_CALLBACK_DATA, Context: Any) -> None:
            lab.note("callback", Own.IoStatus.Status)
            await KeSetEvent(event, 0, False)

        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            own = await own_read(FltObjects)
            await FltPerformAsynchronousIo(own, completed, None)
            if what == "free":
                await FltFreeCallbackData(own)
                return
            if what == "reuse":
                await FltReuseCallbackData(own)
            elif what == "touch":
                lab.note("touched", own.IoStatus.Status)
            await KeWaitForSingleObject(event, 0, 0, False, None)
            await FltFreeCallbackData(own)

        return act

    runs = all_runs(on_read(make, upper=False, lower=False), bound=2, completion="explore")
    bad = {"asyncio-cbd-race"}
    assert codes(runs) == ({None} if what == "nothing" else {None} | bad)
    for one in runs:
        # Wrong exactly where the callback had not come yet.
        assert (one.code in bad) == ("callback" not in one.order)


@pytest.mark.rule("FLT-IO-20")
@pytest.mark.parametrize(
    ("status", "code"), [(FLT_PREOP_SYNCHRONIZE, None), (FLT_PREOP_SUCCESS_WITH_CALLBACK, "reissue-not-synchronized")]
)
def test_only_what_was_synchronised_is_sent_again(status: int, code: str | None) -> None:
    async def script(lab: Lab) -> None:
        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            await FltReissueSynchronousIo(FltObjects.Instance, Data)
            return 0

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (lab.pre("M", status), post)})
        file = await lab.open()
        await file.read(1)

    assert run(script).code == code


@pytest.mark.rule("FLT-IO-20")
def test_nothing_is_sent_again_from_a_preoperation_callback() -> None:
    async def act(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        await FltReissueSynchronousIo(FltObjects.Instance, Data)

    assert code_of(act) == "reissue-not-synchronized"


@pytest.mark.rule("FLT-IO-20")
@pytest.mark.parametrize("performed", [False, True])
def test_own_callback_data_is_sent_again_only_after_it_was_performed(performed: bool) -> None:
    async def act(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        own = await own_read(FltObjects)
        if performed:
            await FltPerformSynchronousIo(own)
        await FltReissueSynchronousIo(FltObjects.Instance, own)
        await FltFreeCallbackData(own)

    assert code_of(act) == (None if performed else "reissue-not-synchronized")


@pytest.mark.rule("FLT-IO-20")
@pytest.mark.parametrize("declares", [False, True])
def test_changed_parameters_are_declared_before_an_operation_is_sent_again(declares: bool) -> None:
    async def script(lab: Lab) -> None:
        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            Data.Iopb.Parameters.ByteOffset = 1
            if declares:
                FltSetCallbackDataDirty(Data)
            await FltReissueSynchronousIo(FltObjects.Instance, Data)
            return 0

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (lab.pre("M", FLT_PREOP_SYNCHRONIZE), post)})
        file = await lab.open()
        await file.read(1)

    assert run(script).code == (None if declares else "params-not-dirty")


@pytest.mark.rule("FLT-IO-19")
def test_an_operation_is_sent_again_below_its_own_instance_only() -> None:
    async def script(lab: Lab) -> None:
        other = await lab.recorder("L", LOWER)

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            await FltReissueSynchronousIo(lab.instance(other), Data)
            return 0

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (lab.pre("M", FLT_PREOP_SYNCHRONIZE), post)})
        file = await lab.open()
        await file.read(1)

    assert run(script).code == "reissue-not-synchronized"


# Files.


@pytest.mark.rule("FLT-IO-11")
@pytest.mark.parametrize(("closes", "drops"), [(True, True), (False, True), (True, False)])
def test_a_handle_is_closed_and_a_file_object_dereferenced(closes: bool, drops: bool) -> None:
    async def script(lab: Lab) -> None:
        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
            _, handle, file = await opened(FltObjects, top=True)
            assert file is not None
            if closes:
                await FltClose(handle)
            if drops:
                await ObDereferenceObject(file)

        driver = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)})
        file = await lab.open()
        await file.read(1)
        await file.close()
        await driver.unload()

    one = run(script)
    assert one.code == (None if closes else "handle-leak")
    assert one.warnings == (() if drops else ("ob.ref-leak",))


@pytest.mark.rule("FLT-IO-11")
@pytest.mark.parametrize("kernel", [False, True])
def test_a_handle_in_the_table_of_a_program_is_the_finding_of_the_kernel(kernel: bool) -> None:
    async def script(lab: Lab) -> None:
        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
            _, handle, file = await opened(FltObjects, attributes=0x200 if kernel else 0)
            assert file is not None
            await FltClose(handle)
            await ObDereferenceObject(file)

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)})

        async def program() -> None:
            file = await lab.open()
            await file.read(1)

        await lab.together(program(), process=lab.app)

    assert run(script).code == (None if kernel else "ob.user-visible-handle")


@pytest.mark.rule("FLT-INST-29")
@pytest.mark.parametrize("closes", ["start", "complete", "never"])
def test_files_are_closed_when_the_instance_is_gone_that_they_were_opened_through(closes: str) -> None:
    async def script(lab: Lab) -> None:
        handles: list[int] = []

        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
            _, handle, file = await opened(FltObjects)
            assert file is not None
            await ObDereferenceObject(file)
            handles.append(handle)

        def closing(phase: str) -> Any:
            async def callback(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
                if phase == closes:
                    await FltClose(handles[0])

            return callback

        driver = await lab.filter(
            "M",
            MIDDLE,
            {IRP_MJ_READ: (acting(lab, act), None)},
            InstanceTeardownStartCallback=closing("start"),
            InstanceTeardownCompleteCallback=closing("complete"),
        )
        file = await lab.open()
        await file.read(1)
        await driver.detach()

    assert run(script).code == ("teardown-file-leak" if closes == "never" else None)


# Failing a create.


def failing(how: str, *, before: Any = None) -> Any:
    """A create that the file system grants and M fails; *how* it undoes that."""

    async def script(lab: Lab) -> Any:
        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            file = FltObjects.FileObject
            assert file is not None
            if before is not None:
                await before(lab, Data, FltObjects)
            if how == "cancels":
                await FltCancelFileOpen(FltObjects.Instance, file)
            if how != "reparses":
                Data.IoStatus.Status, Data.IoStatus.Information = STATUS_ACCESS_DENIED, 0
            return 0

        async def note(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            lab.note("lower", Data.Iopb.MajorFunction)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("M", MIDDLE, {IRP_MJ_CREATE: (lab.pre("M"), post)})
        await lab.filter("L", LOWER, dict.fromkeys((IRP_MJ_CREATE, 0x12, 0x02), (note, None)))
        status, _ = await lab.app.create(r"\a")
        return status

    return script


@pytest.mark.rule("FLT-POST-24", "FLT-IO-23")
def test_a_create_that_was_granted_is_undone_before_it_is_failed() -> None:
    assert run(failing("only fails")).code == "create-failed-not-cancelled"
    one = run(failing("cancels"))
    assert one.code is None
    assert one.result == STATUS_ACCESS_DENIED
    assert [note.value for note in one.notes if note.what == "lower"] == [IRP_MJ_CREATE, 0x12, 0x02]


@pytest.mark.rule("FLT-POST-24")
@pytest.mark.parametrize("status", [STATUS_ACCESS_DENIED, STATUS_REPARSE])
def test_a_create_that_was_not_granted_needs_no_undoing(status: int) -> None:
    async def script(lab: Lab) -> None:
        done: list[int] = []

        async def refuse(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if done:
                return FLT_PREOP_SUCCESS_NO_CALLBACK
            done.append(1)
            Data.IoStatus.Status = status
            return FLT_PREOP_COMPLETE

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            if Data.IoStatus.Status == status:
                Data.IoStatus.Status = STATUS_ACCESS_DENIED
            return 0

        await lab.filter("M", MIDDLE, {IRP_MJ_CREATE: (lab.pre("M"), post)})
        await lab.filter("L", LOWER, {IRP_MJ_CREATE: (refuse, None)})
        await lab.app.create(r"\a")

    assert run(script).code is None


@pytest.mark.rule("FLT-IO-22")
def test_an_open_is_not_undone_in_a_preoperation_callback_nor_for_a_failed_create() -> None:
    async def act(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        assert FltObjects.FileObject is not None
        await FltCancelFileOpen(FltObjects.Instance, FltObjects.FileObject)

    async def pre_create(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await act(lab, Data, FltObjects)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("M", MIDDLE, {IRP_MJ_CREATE: (pre, None)})
        await lab.open()

    async def failed(lab: Lab) -> None:
        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            await act(lab, Data, FltObjects)
            return 0

        await lab.filter("M", MIDDLE, {IRP_MJ_CREATE: (lab.pre("M"), post)})
        await lab.app.create(r"\missing", 1)

    assert run(pre_create).code == "cancelfileopen-misuse"
    assert run(failed).code == "cancelfileopen-misuse"


@pytest.mark.rule("FLT-IO-22")
def test_an_open_is_not_undone_once_there_is_a_handle() -> None:
    async def late(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        await FltCancelFileOpen(FltObjects.Instance, the_file(FltObjects))

    def make(lab: Lab) -> Any:
        async def once(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            return await late(lab, Data, FltObjects)

        return once

    async def opens(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        await ObOpenObjectByPointer(
            the_file(FltObjects),
            0x200,
            None,
            FILE_READ_DATA,
            IoFileObjectType.contents,
            0,  # type: ignore[arg-type]
        )

    for one in (run(on_read(make)), run(failing("cancels", before=opens))):
        assert one.code == "cancelfileopen-misuse"
        assert one.finding.bug_check is not None
        assert (one.finding.bug_check.code, one.finding.bug_check.parameters[0]) == (FLTMGR_FILE_SYSTEM, 0x6A)


@pytest.mark.rule("FLT-IO-21", "FLT-IO-23")
def test_a_create_whose_open_was_undone_is_not_sent_again() -> None:
    async def again(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        assert FltObjects.FileObject is not None
        await FltCancelFileOpen(FltObjects.Instance, FltObjects.FileObject)
        await FltReissueSynchronousIo(FltObjects.Instance, Data)
        lab.note("again", str(Data.IoStatus.Status))

    one = run(failing("only fails", before=again))
    assert one.note("again").value == "STATUS_CANCELLED"
    assert one.code is None


@pytest.mark.rule("FLT-IO-22")
def test_a_reference_keeps_an_undone_file_object_until_it_is_dropped() -> None:
    async def script(lab: Lab) -> None:
        kept: list[Any] = []

        async def hold(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
            assert FltObjects.FileObject is not None
            await ObReferenceObject(FltObjects.FileObject)
            kept.append(FltObjects.FileObject)

        await failing("cancels", before=hold)(lab)
        lab.note("dropping")
        await ObDereferenceObject(kept[0])

    one = run(script)
    assert [note.value for note in one.notes if note.what != "M.pre"] == [IRP_MJ_CREATE, 0x12, None, 0x02]


# Cancelling.


@pytest.mark.rule("FLT-CANCEL-11")
def test_only_own_io_is_cancelled_and_only_before_its_end_is_told() -> None:
    async def foreign(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        await FltCancelIo(Data)

    async def over(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        own = await own_read(FltObjects)
        await FltPerformSynchronousIo(own)
        await FltCancelIo(own)

    async def before(lab: Lab, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
        own = await own_read(FltObjects)
        assert not await FltCancelIo(own)
        await FltPerformSynchronousIo(own)
        lab.note("status", str(own.IoStatus.Status))
        await FltFreeCallbackData(own)

    assert code_of(foreign) == "cancel-foreign-io"
    assert code_of(over) == "cancel-completed-io"
    assert code_of(before) is None


# Re-entry.


@pytest.mark.rule("FLT-IO-28")
@pytest.mark.parametrize("excludes", [False, True])
def test_io_to_the_top_of_the_stack_comes_back_to_the_callback_that_waits_for_it(excludes: bool) -> None:
    async def script(lab: Lab) -> None:
        event = lab.event("Idle")
        await KeSetEvent(event, 0, False)
        inside: list[Any] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if excludes and Data.Thread in inside:
                return FLT_PREOP_SUCCESS_NO_CALLBACK
            await KeWaitForSingleObject(event, 0, 0, False, None)
            await KeClearEvent(event)
            inside.append(Data.Thread)
            _, handle, file = await opened(FltObjects, top=True)
            assert file is not None
            await FltClose(handle)
            await ObDereferenceObject(file)
            inside.remove(Data.Thread)
            await KeSetEvent(event, 0, False)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("M", MIDDLE, {IRP_MJ_CREATE: (pre, None)})
        await lab.open()

    one = run(script)
    assert one.code == (None if excludes else "reentrant-deadlock")


@pytest.mark.rule("FLT-IO-28")
def test_io_to_the_top_of_the_stack_without_end_is_a_stack_overflow() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await opened(FltObjects, top=True)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("M", MIDDLE, {IRP_MJ_CREATE: (pre, None)})
        await lab.open()

    assert run(script).code == "ke.stack-overflow"
