"""The registry: what a scenario puts there, and how a driver reads it."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, run

from kemu.errors import ScenarioError
from kemu.nt.kthread import APC_LEVEL, current_kthread
from kemu.wdk.ntifs import ObOpenObjectByPointer
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_BUFFER_OVERFLOW,
    STATUS_BUFFER_TOO_SMALL,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_HANDLE,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_OBJECT_PATH_SYNTAX_BAD,
    STATUS_OBJECT_TYPE_MISMATCH,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    KEY_QUERY_VALUE,
    KEY_READ,
    KEY_SET_VALUE,
    OBJ_KERNEL_HANDLE,
    REG_BINARY,
    REG_DWORD,
    REG_MULTI_SZ,
    REG_QWORD,
    REG_SZ,
    UNICODE_STRING,
    Driver,
    InitializeObjectAttributes,
    KernelMode,
    KeyValueBasicInformation,
    KeyValueFullInformation,
    KeyValuePartialInformation,
    ObDereferenceObject,
    ObReferenceObjectByHandle,
    RtlInitUnicodeString,
    ZwClose,
    ZwOpenKey,
    ZwQueryValueKey,
)

PATH = r"\Registry\Machine\SYSTEM\CurrentControlSet\Services\scanner\Parameters"
VALUES: dict[str, Any] = {
    "Depth": 3,
    "Large": 1 << 40,
    "Title": "a text",
    "Blob": b"\x01\x02\x03",
    "Extensions": ["doc", "txt"],
}


def text(string: str) -> bytes:
    return string.encode("utf-16-le")


async def open_key(path: Any = PATH, access: int = KEY_READ, root: int = 0) -> tuple[Any, int]:
    return await ZwOpenKey(access, InitializeObjectAttributes(path, OBJ_KERNEL_HANDLE, root))


@pytest.mark.parametrize(
    ("name", "kind", "data"),
    [
        ("Depth", REG_DWORD, b"\x03\0\0\0"),
        ("LARGE", REG_QWORD, (1 << 40).to_bytes(8, "little")),
        ("title", REG_SZ, text("a text\0")),
        ("Blob", REG_BINARY, b"\x01\x02\x03"),
        ("Extensions", REG_MULTI_SZ, text("doc\0txt\0\0")),
    ],
)
def test_each_kind_of_value_is_read(name: str, kind: int, data: bytes) -> None:
    async def script(lab: Lab) -> Any:
        lab.registry(r"scanner\Parameters", VALUES)
        status, key = await open_key()
        assert status == STATUS_SUCCESS
        value = UNICODE_STRING()
        RtlInitUnicodeString(value, name)
        partial = await ZwQueryValueKey(key, value, KeyValuePartialInformation, 100)
        full = await ZwQueryValueKey(key, name, KeyValueFullInformation, 100)
        basic = await ZwQueryValueKey(key, name, KeyValueBasicInformation, 100)
        assert await ZwClose(key) == STATUS_SUCCESS
        return partial, full, basic

    partial, full, basic = run(script).result
    given = next(one for one in VALUES if one.upper() == name.upper())
    length = 2 * len(given)
    assert (partial[0], partial[1].Type, partial[1].DataLength, partial[1].Data) == (
        STATUS_SUCCESS,
        kind,
        len(data),
        data,
    )
    assert partial[2] == 12 + len(data)
    assert (full[1].Name, full[1].NameLength, full[1].Data) == (given, length, data)
    assert (full[1].DataOffset, full[2]) == (20 + length, 20 + length + len(data))
    assert (basic[1].Name, basic[1].NameLength, basic[1].Type, basic[2]) == (given, length, kind, 12 + length)


@pytest.mark.parametrize(
    ("which", "length", "status", "told"),
    [
        (KeyValuePartialInformation, 11, STATUS_BUFFER_TOO_SMALL, None),
        (KeyValuePartialInformation, 12, STATUS_BUFFER_OVERFLOW, b""),
        (KeyValuePartialInformation, 15, STATUS_BUFFER_OVERFLOW, b""),
        (KeyValuePartialInformation, 16, STATUS_SUCCESS, b"\x03\0\0\0"),
        (KeyValueFullInformation, 19, STATUS_BUFFER_TOO_SMALL, None),
        (KeyValueFullInformation, 20, STATUS_BUFFER_OVERFLOW, b""),
        (KeyValueBasicInformation, 21, STATUS_BUFFER_OVERFLOW, None),
        (KeyValueBasicInformation, 22, STATUS_SUCCESS, None),
        (77, 100, STATUS_INVALID_PARAMETER, None),
    ],
)
def test_a_buffer_may_be_too_small(which: int, length: int, status: Any, told: bytes | None) -> None:
    async def script(lab: Lab) -> Any:
        lab.registry(PATH, VALUES)
        _, key = await open_key()
        found, information, _ = await ZwQueryValueKey(key, "Depth", which, length)
        return found, getattr(information, "Data", None)

    assert run(script).result == (status, told)


def test_what_is_not_there() -> None:
    async def script(lab: Lab) -> Any:
        lab.registry(PATH, VALUES)
        _, key = await open_key()
        return [
            (await open_key(PATH + "2"))[0],
            (await open_key("Parameters"))[0],
            (await open_key(r"\x", root=key))[0],
            (await open_key("x", root=key))[0],
            (await open_key(access=0x1000_0000_0000))[0],
            (await ZwQueryValueKey(key, "Width", KeyValuePartialInformation, 100))[0],
        ]

    assert run(script).result == [
        STATUS_OBJECT_NAME_NOT_FOUND,
        STATUS_OBJECT_PATH_SYNTAX_BAD,
        STATUS_OBJECT_PATH_SYNTAX_BAD,
        STATUS_OBJECT_NAME_NOT_FOUND,
        STATUS_INVALID_PARAMETER,
        STATUS_OBJECT_NAME_NOT_FOUND,
    ]


def test_keys_are_opened_below_others_and_rights_count() -> None:
    async def script(lab: Lab) -> Any:
        lab.registry(PATH, VALUES)
        lab.registry("scanner", {"Start": 3})
        _, service = await open_key(PATH.rpartition("\\")[0])
        status, key = await open_key("Parameters", root=service)
        again, same = await open_key("", root=key)
        _, writable = await open_key(access=KEY_SET_VALUE)
        return [
            status,
            (await ZwQueryValueKey(key, "Depth", KeyValuePartialInformation, 100))[1].Data[0],
            again,
            (await ZwQueryValueKey(same, "Depth", KeyValuePartialInformation, 100))[0],
            (await ZwQueryValueKey(writable, "Depth", KeyValuePartialInformation, 100))[0],
            (await ZwQueryValueKey(service, "Start", KeyValuePartialInformation, 100))[0],
        ]

    assert run(script).result == [
        STATUS_SUCCESS,
        3,
        STATUS_SUCCESS,
        STATUS_SUCCESS,
        STATUS_ACCESS_DENIED,
        STATUS_SUCCESS,
    ]


def test_a_key_is_an_object_that_lives_as_long_as_a_handle_or_a_reference() -> None:
    async def script(lab: Lab) -> Any:
        lab.registry(PATH, VALUES)
        _, key = await open_key(access=KEY_QUERY_VALUE)
        status, body, _ = await ObReferenceObjectByHandle(key, KEY_QUERY_VALUE, None, KernelMode)
        assert status == STATUS_SUCCESS
        await ZwClose(key)
        await ObDereferenceObject(body)
        return body.label

    assert run(script).result == f"key {PATH}"


@pytest.mark.parametrize("how", ["closed", "of something else"])
def test_a_handle_that_is_no_keys(how: str) -> None:
    async def script(lab: Lab) -> Any:
        lab.registry(PATH, VALUES)
        _, key = await open_key()
        if how == "closed":
            await ZwClose(key)
            return (await ZwQueryValueKey(key, "Depth", KeyValuePartialInformation, 100))[0]
        thread = current_kthread()
        _, handle = await ObOpenObjectByPointer(thread, OBJ_KERNEL_HANDLE, None, 0x1F0000, None, KernelMode)
        return (await ZwQueryValueKey(handle, "Depth", KeyValuePartialInformation, 100))[0]

    one = run(script)
    if how == "closed":
        assert one.warnings == ("ob.bad-handle",)
        assert one.result == STATUS_INVALID_HANDLE
    else:
        assert one.result == STATUS_OBJECT_TYPE_MISMATCH


@pytest.mark.parametrize("what", ["key", "value"])
def test_a_name_is_a_string(what: str) -> None:
    async def script(lab: Lab) -> None:
        lab.registry(PATH, VALUES)
        _, key = await open_key(None if what == "key" else PATH)
        await ZwQueryValueKey(key, None, KeyValuePartialInformation, 100)  # type: ignore[arg-type]

    assert run(script).code == "ke.bad-pointer"


def test_keys_are_read_at_passive_level_and_may_find_no_memory() -> None:
    async def script(lab: Lab) -> None:
        current_kthread().irql = APC_LEVEL
        await open_key()

    assert run(script).code == "ke.irql"

    async def poor(lab: Lab) -> Any:
        lab.registry(PATH, VALUES)
        return (await open_key())[0]

    assert {one.result for one in all_runs(poor, low_resources=True)} == {STATUS_SUCCESS, STATUS_INSUFFICIENT_RESOURCES}


def test_the_key_of_a_drivers_own_service_is_there() -> None:
    class Reads(Driver):
        name = "reader"

        async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
            status, key = await ZwOpenKey(KEY_READ, InitializeObjectAttributes(RegistryPath, OBJ_KERNEL_HANDLE))
            if status == STATUS_SUCCESS:
                await ZwClose(key)
            return status

    async def script(lab: Lab) -> Any:
        return (await lab.load(Reads())).status

    assert run(script).result == STATUS_SUCCESS


@pytest.mark.parametrize("value", [-1, 1 << 64, 1.5, None, [1], {"a": 1}])
def test_what_the_registry_cannot_hold(value: Any) -> None:
    async def script(lab: Lab) -> None:
        lab.registry("x", {"Value": value})

    with pytest.raises(ScenarioError, match="Value"):
        run(script)
