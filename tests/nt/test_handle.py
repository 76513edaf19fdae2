"""Handles: what they grant, whose they are, duplicating, inheriting, closing, reuse."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, Run, Script, all_runs, codes, run

from kemu.nt.handle import KERNEL_HANDLE_MASK, OBJ_PROTECT_CLOSE, duplicate, open_handle, table_of
from kemu.nt.kthread import current_kthread
from kemu.nt.object import header_of
from kemu.nt.process import Process
from kemu.nt.psapi import create_process, exit_process, open_by_id
from kemu.verifier import Finding
from kemu.wdk.ntddk import ZwOpenProcess
from kemu.wdk.ntifs import (
    DUPLICATE_CLOSE_SOURCE,
    DUPLICATE_SAME_ACCESS,
    DUPLICATE_SAME_ATTRIBUTES,
    ObCloseHandle,
    ObOpenObjectByPointer,
    ZwDuplicateObject,
)
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_HANDLE_NOT_CLOSABLE,
    STATUS_INVALID_CID,
    STATUS_INVALID_HANDLE,
    STATUS_INVALID_PARAMETER,
    STATUS_INVALID_PARAMETER_MIX,
    STATUS_OBJECT_TYPE_MISMATCH,
    STATUS_PROCESS_IS_TERMINATING,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    CLIENT_ID,
    DRIVER_OBJECT,
    GENERIC_READ,
    MAXIMUM_ALLOWED,
    OBJ_FORCE_ACCESS_CHECK,
    OBJ_INHERIT,
    OBJ_KERNEL_HANDLE,
    OBJECT_ATTRIBUTES,
    PROCESS_ALL_ACCESS,
    PROCESS_DUP_HANDLE,
    PROCESS_QUERY_INFORMATION,
    PROCESS_QUERY_LIMITED_INFORMATION,
    PROCESS_TERMINATE,
    Driver,
    InitializeObjectAttributes,
    KernelMode,
    NtCurrentProcess,
    NtCurrentThread,
    ObDereferenceObject,
    ObReferenceObjectByHandle,
    PsProcessType,
    PsThreadType,
    UserMode,
    ZwClose,
)


def result_of(script: Script, expected: str | None = None) -> Any:
    one = run(script)
    assert one.code == expected
    return one.result


def enter(process: Process) -> None:
    """Let the calling thread be one of *process*."""
    current_kthread().process = process


@pytest.mark.rule("OB-HT-01")
def test_a_user_handle_is_of_its_process_and_a_kernel_handle_of_all() -> None:
    async def script(lab: Lab) -> list[int]:
        first, second = lab.process("first").process, lab.process("second").process
        _, user = await open_handle(first, PROCESS_TERMINATE, process=first)
        _, kernel = await open_handle(first, PROCESS_TERMINATE, OBJ_KERNEL_HANDLE)
        assert kernel & KERNEL_HANDLE_MASK == KERNEL_HANDLE_MASK
        assert user == 4
        seen: list[int] = []
        for process in (first, second):
            enter(process)
            for handle in (user, kernel):
                status, body, _ = await ObReferenceObjectByHandle(handle, 0, PsProcessType.contents, KernelMode)
                assert body is (first if status == STATUS_SUCCESS else None)
                seen.append(status)
            status, _, _ = await ObReferenceObjectByHandle(kernel, 0, PsProcessType.contents, UserMode)
            seen.append(status)
        return seen

    one = run(script)
    refused = STATUS_INVALID_HANDLE
    assert one.result == [STATUS_SUCCESS, STATUS_SUCCESS, refused, refused, STATUS_SUCCESS, refused]
    assert one.warnings == ("ob.bad-handle",)


@pytest.mark.rule("OB-HT-03")
def test_a_reference_by_handle_checks_type_and_access() -> None:
    async def script(lab: Lab) -> list[Any]:
        process = lab.process("app").process
        enter(process)
        _, handle = await open_handle(process, PROCESS_QUERY_INFORMATION, mode=UserMode)
        seen: list[Any] = []
        for access, kind in (
            (PROCESS_QUERY_INFORMATION, PsProcessType.contents),
            (PROCESS_QUERY_LIMITED_INFORMATION, None),
            (PROCESS_TERMINATE, PsProcessType.contents),
            (0, PsThreadType.contents),
        ):
            status, body, information = await ObReferenceObjectByHandle(handle, access, kind, UserMode)
            seen.append((status, information))
            if body is not None:
                await ObDereferenceObject(body)
        # Nothing of all this is left behind.
        assert header_of(process).pointer_count == 1
        return seen

    granted = (0, PROCESS_QUERY_INFORMATION | PROCESS_QUERY_LIMITED_INFORMATION)
    assert result_of(script) == [
        (STATUS_SUCCESS, granted),
        (STATUS_SUCCESS, granted),
        (STATUS_ACCESS_DENIED, None),
        (STATUS_OBJECT_TYPE_MISMATCH, None),
    ]


@pytest.mark.rule("OB-HT-03")
@pytest.mark.parametrize(
    ("code", "subcode"),
    [
        ("ob.null-handle", 0xF5),
        ("ob.user-handle-as-kernel", 0xF6),
        ("ob.kernel-handle-as-user", 0xF7),
        ("ob.bad-handle", 0x3C),
    ],
)
def test_handles_that_are_not_what_the_driver_takes_them_for(code: str, subcode: int) -> None:
    async def script(lab: Lab) -> Finding:
        process = lab.process("app").process
        handle, mode = 0, KernelMode
        if code == "ob.user-handle-as-kernel":
            enter(process)
            _, handle = await open_handle(process, 0, mode=UserMode)
        elif code == "ob.kernel-handle-as-user":
            _, handle = await open_handle(process, 0, OBJ_KERNEL_HANDLE)
            mode = UserMode
        elif code == "ob.bad-handle":
            handle = 0x44
        status, _, _ = await ObReferenceObjectByHandle(handle, 0, None, mode)
        # Without the verifier the routine just fails.
        assert status == STATUS_INVALID_HANDLE
        return lab.verifier.advisories[0]

    one = run(script)
    finding = one.result if one.code is None else one.finding
    assert finding.code == code
    assert finding.verifier is not None
    assert finding.verifier.parameters[0] == subcode


def test_pseudo_handles_stand_for_the_caller() -> None:
    async def script(lab: Lab) -> list[Any]:
        process = lab.process("app").process
        enter(process)
        seen: list[Any] = []
        for handle, kind in (
            (NtCurrentProcess(), PsProcessType.contents),
            (NtCurrentThread(), PsThreadType.contents),
            (NtCurrentThread(), PsProcessType.contents),
        ):
            status, body, _ = await ObReferenceObjectByHandle(handle, 0, kind, KernelMode)
            seen.append((status, body.label if body is not None else None))
        assert await ZwClose(NtCurrentProcess()) == STATUS_SUCCESS
        return seen

    assert result_of(script) == [
        (STATUS_SUCCESS, "app"),
        (STATUS_SUCCESS, "script"),
        (STATUS_OBJECT_TYPE_MISMATCH, None),
    ]


@pytest.mark.rule("OB-HT-04", "KE-REF-06")
@pytest.mark.parametrize(("attributes", "reason"), [(0, 1), (OBJ_PROTECT_CLOSE, 0)])
def test_a_kernel_handle_that_cannot_be_closed_is_a_bug_check(attributes: int, reason: int) -> None:
    async def script(lab: Lab) -> None:
        process = lab.process("app").process
        _, handle = await open_handle(process, 0, OBJ_KERNEL_HANDLE | attributes)
        if not attributes:
            assert await ZwClose(handle) == STATUS_SUCCESS
        await ZwClose(handle)

    found = run(script).finding
    assert found.code == "ob.kernel-handle-closed-twice"
    assert found.bug_check is not None
    assert (found.bug_check.code, found.bug_check.parameters[1]) == (0x93, reason)


@pytest.mark.rule("OB-HT-04")
def test_a_user_handle_that_cannot_be_closed_is_a_status() -> None:
    async def script(lab: Lab) -> list[int]:
        process = lab.process("app").process
        enter(process)
        _, protected = await open_handle(process, 0, OBJ_PROTECT_CLOSE)
        _, kernel = await open_handle(process, 0, OBJ_KERNEL_HANDLE)
        return [
            await ZwClose(0x44),
            await ZwClose(protected),
            await ObCloseHandle(kernel, UserMode),
            await ObCloseHandle(kernel, KernelMode),
        ]

    assert result_of(script) == [
        STATUS_INVALID_HANDLE,
        STATUS_HANDLE_NOT_CLOSABLE,
        STATUS_INVALID_HANDLE,
        STATUS_SUCCESS,
    ]


@pytest.mark.rule("OB-OBJ-01")
def test_a_handle_counts_as_a_handle_and_as_a_reference() -> None:
    async def script(lab: Lab) -> list[tuple[int, int]]:
        process = lab.process("app").process
        header = header_of(process)
        seen = [(header.handles, header.pointer_count)]
        _, handle = await open_handle(process, 0, OBJ_KERNEL_HANDLE)
        seen.append((header.handles, header.pointer_count))
        await ZwClose(handle)
        seen.append((header.handles, header.pointer_count))
        return seen

    assert result_of(script) == [(0, 0), (1, 1), (0, 0)]


@pytest.mark.rule("KE-REF-06", "OB-HT-01")
def test_a_value_is_used_again_at_once_so_that_a_late_close_hits_somebody_elses_handle() -> None:
    async def script(lab: Lab) -> None:
        process = lab.process("app").process
        other = lab.process("other").process
        _, handle = await open_handle(process, 0, OBJ_KERNEL_HANDLE)

        async def closer() -> None:
            await ZwClose(handle)
            await ZwClose(handle)

        async def opener() -> None:
            _, mine = await open_handle(other, 0, OBJ_KERNEL_HANDLE)
            status, _, _ = await ObReferenceObjectByHandle(mine, 0, None, KernelMode)
            lab.note(f"{status}")

        await lab.together(closer(), opener())

    runs = all_runs(script)
    assert codes(runs) == {"ob.kernel-handle-closed-twice", None}
    assert {one.order[0] for one in runs if one.code is None} == {"STATUS_SUCCESS", "STATUS_INVALID_HANDLE"}


class Opener(Driver):
    """Opens the process it is called in, with given attributes."""

    def __init__(self, attributes: int) -> None:
        self.attributes = attributes

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        process = current_kthread().process
        assert process is not None
        status, handle = await ObOpenObjectByPointer(
            process, self.attributes, None, PROCESS_ALL_ACCESS, PsProcessType.contents, KernelMode
        )
        await ZwClose(handle)
        return status


@pytest.mark.rule("OB-HT-02", "KE-REF-06")
@pytest.mark.parametrize(
    ("attributes", "in_system", "code"),
    [
        (0, False, "ob.user-visible-handle"),
        (OBJ_KERNEL_HANDLE, False, None),
        (0, True, None),
    ],
)
def test_a_drivers_own_handle_belongs_into_the_system_process(
    attributes: int, in_system: bool, code: str | None
) -> None:
    async def script(lab: Lab) -> None:
        if not in_system:
            enter(lab.process("app").process)
        await lab.load(Opener(attributes), "100000")

    assert run(script).code == code


@pytest.mark.rule("OB-HT-08")
def test_opening_a_process_by_its_id() -> None:
    async def script(lab: Lab) -> list[int]:
        process = lab.process("app").process
        plain = InitializeObjectAttributes(None, OBJ_KERNEL_HANDLE)
        one = CLIENT_ID(process.pid)
        seen: list[int] = []
        for access, attributes, client in (
            (PROCESS_TERMINATE, plain, one),
            (PROCESS_TERMINATE, OBJECT_ATTRIBUTES("app"), one),
            (PROCESS_TERMINATE, plain, None),
            (PROCESS_TERMINATE, plain, CLIENT_ID(4444)),
            (PROCESS_TERMINATE, plain, CLIENT_ID(process.pid, 4444)),
            (0x08000000, plain, one),
        ):
            status, _ = await ZwOpenProcess(access, attributes, client)
            seen.append(status)
        return seen

    assert result_of(script) == [
        STATUS_SUCCESS,
        STATUS_INVALID_PARAMETER_MIX,
        STATUS_INVALID_PARAMETER_MIX,
        STATUS_INVALID_CID,
        STATUS_INVALID_CID,
        STATUS_INVALID_PARAMETER,
    ]


@pytest.mark.rule("OB-HT-09", "OB-HT-06")
def test_kernel_mode_bypasses_the_access_check_unless_it_is_forced() -> None:
    async def script(lab: Lab) -> list[tuple[int, int]]:
        process = lab.process("app").process
        enter(process)
        seen: list[tuple[int, int]] = []
        for mode, attributes in ((KernelMode, 0), (KernelMode, OBJ_FORCE_ACCESS_CHECK), (UserMode, 0)):
            status, handle = await open_handle(
                process, PROCESS_ALL_ACCESS, attributes, mode=mode, allowed=PROCESS_TERMINATE
            )
            entry = table_of(process).entries.get(handle)
            seen.append((status, entry.granted if entry is not None else 0))
        return seen

    assert result_of(script) == [
        (STATUS_SUCCESS, PROCESS_ALL_ACCESS),
        (STATUS_ACCESS_DENIED, 0),
        (STATUS_ACCESS_DENIED, 0),
    ]


@pytest.mark.parametrize(
    ("wanted", "granted"),
    [
        (MAXIMUM_ALLOWED, PROCESS_ALL_ACCESS),
        (GENERIC_READ, 0x00020410 | PROCESS_QUERY_LIMITED_INFORMATION),
        (PROCESS_TERMINATE, PROCESS_TERMINATE),
    ],
)
def test_generic_rights_stand_for_those_of_the_type(wanted: int, granted: int) -> None:
    async def script(lab: Lab) -> int:
        process = lab.process("app").process
        _, handle = await open_handle(process, wanted, process=process)
        return table_of(process).entries[handle].granted

    assert result_of(script) == granted


@pytest.mark.rule("OB-HT-05")
def test_a_child_inherits_the_handles_that_are_marked_so() -> None:
    async def script(lab: Lab) -> list[tuple[int, int]]:
        parent = lab.process("parent").process
        await open_handle(parent, PROCESS_TERMINATE, process=parent)
        await open_handle(parent, PROCESS_DUP_HANDLE, OBJ_INHERIT, process=parent)
        child = create_process("child", parent, inherits=True)
        orphan = create_process("orphan", parent)
        assert not table_of(orphan).entries
        assert header_of(parent).handles == 3
        return [(handle, entry.granted) for handle, entry in table_of(child).entries.items()]

    assert result_of(script) == [(8, PROCESS_DUP_HANDLE)]


@pytest.mark.rule("OB-HT-07")
@pytest.mark.parametrize(
    ("options", "granted", "marks", "source_left"),
    [
        (0, PROCESS_TERMINATE, OBJ_INHERIT, True),
        (DUPLICATE_SAME_ACCESS, PROCESS_DUP_HANDLE | PROCESS_TERMINATE, OBJ_INHERIT, True),
        (DUPLICATE_SAME_ATTRIBUTES, PROCESS_TERMINATE, 0, True),
        (DUPLICATE_CLOSE_SOURCE, PROCESS_TERMINATE, OBJ_INHERIT, False),
    ],
)
def test_what_a_duplicate_takes_of_its_source(options: int, granted: int, marks: int, source_left: bool) -> None:
    async def script(lab: Lab) -> list[Any]:
        process = lab.process("app").process
        enter(process)
        _, source = await open_handle(process, PROCESS_DUP_HANDLE | PROCESS_TERMINATE)
        me = NtCurrentProcess()
        status, copy = await ZwDuplicateObject(me, source, me, PROCESS_TERMINATE, OBJ_INHERIT, options)
        entries = table_of(process).entries
        assert status == STATUS_SUCCESS
        assert header_of(process).pointer_count == len(entries)
        return [entries[copy].granted, entries[copy].attributes, source in entries]

    assert result_of(script) == [granted, marks, source_left]


@pytest.mark.rule("OB-HT-07")
def test_the_source_is_closed_also_when_the_duplication_fails_or_there_is_no_target() -> None:
    async def script(lab: Lab) -> list[tuple[int, int]]:
        process = lab.process("app").process
        other = lab.process("other").process
        enter(process)
        _, weak = await open_handle(other, PROCESS_TERMINATE)
        seen: list[tuple[int, int]] = []
        for target in (weak, 0):
            _, source = await open_handle(process, PROCESS_TERMINATE)
            status, _ = await duplicate(NtCurrentProcess(), source, target, 0, 0, DUPLICATE_CLOSE_SOURCE, mode=UserMode)
            seen.append((status, int(source in table_of(process).entries)))
        return seen

    assert result_of(script) == [(STATUS_ACCESS_DENIED, 0), (STATUS_SUCCESS, 0)]


@pytest.mark.rule("OB-HT-07")
def test_duplicating_needs_the_right_handles() -> None:
    async def script(lab: Lab) -> list[int]:
        process = lab.process("app").process
        enter(process)
        me = NtCurrentProcess()
        _, thread = await open_handle(current_kthread(), 0)
        seen: list[int] = []
        for source_process, source, target in (
            (me, 0x44, me),
            (0x44, NtCurrentThread(), me),
            (thread, NtCurrentThread(), me),
            (me, NtCurrentThread(), me),
            (me, NtCurrentProcess(), me),
        ):
            status, _ = await ZwDuplicateObject(source_process, source, target, 0, 0, DUPLICATE_SAME_ACCESS)
            seen.append(status)
        return seen

    assert result_of(script) == [
        STATUS_INVALID_HANDLE,
        STATUS_INVALID_HANDLE,
        STATUS_ACCESS_DENIED,
        STATUS_SUCCESS,
        STATUS_SUCCESS,
    ]


@pytest.mark.rule("OB-OBJ-06")
def test_no_handle_is_made_in_a_process_that_has_ended_and_its_own_are_closed() -> None:
    def program() -> list[Run]:
        async def script(lab: Lab) -> None:
            process = lab.process("app").process
            other = lab.process("other").process
            await open_handle(other, 0, process=process)

            async def opener() -> None:
                status, _ = await open_handle(other, 0, process=process)
                lab.note(f"{status}")

            async def ender() -> None:
                await exit_process(process)

            await lab.together(opener(), ender())
            status, handle = await open_by_id(process.pid, Process, 0, OBJ_KERNEL_HANDLE)
            lab.note(f"{status} {handle:X}")

        return all_runs(script)

    seen = {tuple(one.order) for one in program()}
    gone = f"{STATUS_INVALID_CID} 0"
    assert seen == {("STATUS_SUCCESS", gone), (f"{STATUS_PROCESS_IS_TERMINATING}", gone)}
