"""The registry, as far as a driver reads its own parameters: keys and values that are there before the run begins.

Nobody changes it during a run, so that reading it is independent of everything but the handle that it takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from kemu.nt.access import Rights
from kemu.nt.handle import HandleTable, check_attributes, open_handle, table_for
from kemu.nt.kthread import PASSIVE_LEVEL
from kemu.nt.object import ObjectType, header_of, register_type
from kemu.nt.process import KernelMode
from kemu.nt.psapi import OBJECT_ATTRIBUTES
from kemu.nt.routine import bad_pointer, routine
from kemu.nt.status import (
    NTSTATUS,
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
from kemu.nt.strings import UNICODE_STRING, text_of
from kemu.nt.structure import Structure
from kemu.nt.system import current_system, report, resources_fail
from kemu.runtime import Cell, Operation, Thread, current_thread

SERVICES: Final = r"\REGISTRY\MACHINE\SYSTEM\CurrentControlSet\Services"

REG_NONE: Final = 0
REG_SZ: Final = 1
REG_EXPAND_SZ: Final = 2
REG_BINARY: Final = 3
REG_DWORD: Final = 4
REG_MULTI_SZ: Final = 7
REG_QWORD: Final = 11

KEY_QUERY_VALUE: Final = 0x0001
KEY_SET_VALUE: Final = 0x0002
KEY_READ: Final = 0x20019
KEY_WRITE: Final = 0x20006
KEY_ALL_ACCESS: Final = 0xF003F

KeyValueBasicInformation: Final = 0
KeyValueFullInformation: Final = 1
KeyValuePartialInformation: Final = 2

RegistryValue = int | str | bytes | Sequence[str]
"""What a scenario gives: REG_DWORD or REG_QWORD, REG_SZ, REG_BINARY, REG_MULTI_SZ."""


class Value(NamedTuple):
    """One value: its name as it was given, its type and its bytes."""

    name: str
    type: int
    data: bytes


def encode(name: str, value: RegistryValue) -> Value:
    """*value* as the registry has it. Raises ValueError for what it cannot have."""
    if isinstance(value, int):
        if not 0 <= value < 1 << 64:
            raise ValueError(f"{value} is no number of 64 bits")
        size = 4 if value < 1 << 32 else 8
        return Value(name, REG_DWORD if size == 4 else REG_QWORD, value.to_bytes(size, "little"))
    if isinstance(value, bytes):
        return Value(name, REG_BINARY, value)
    if isinstance(value, str):
        return Value(name, REG_SZ, f"{value}\0".encode("utf-16-le"))
    return Value(name, REG_MULTI_SZ, "".join(f"{one}\0" for one in (*value, "")).encode("utf-16-le"))


class Registry:
    """All keys of the machine, by their folded paths."""

    def __init__(self) -> None:
        self.keys: dict[str, dict[str, Value]] = {}

    def put(self, path: str, values: Mapping[str, RegistryValue]) -> None:
        """Make sure that there is a key of that *path*, below the services' unless it is a full one, with *values*."""
        full = path if path.startswith("\\") else rf"{SERVICES}\{path}"
        key = self.keys.setdefault(full.rstrip("\\").upper(), {})
        for name, value in values.items():
            key[name.upper()] = encode(name, value)


class Key(Cell):
    """An open key."""

    __slots__ = ("path", "values")

    def __init__(self, path: str, values: dict[str, Value]) -> None:
        super().__init__(current_thread(), f"key {path}")
        self.path = path
        self.values = values


register_type(Key, ObjectType("Key", Rights(KEY_ALL_ACCESS, KEY_READ, KEY_WRITE, KEY_READ)))


class KEY_VALUE_BASIC_INFORMATION(Structure):
    """The type of a value, and its name as a text."""

    TitleIndex: int
    Type: int
    NameLength: int
    Name: str


class KEY_VALUE_PARTIAL_INFORMATION(Structure):
    """The type of a value, and its bytes."""

    TitleIndex: int
    Type: int
    DataLength: int
    Data: bytes


class KEY_VALUE_FULL_INFORMATION(Structure):
    """The type of a value, its name, and its bytes."""

    TitleIndex: int
    Type: int
    DataOffset: int
    DataLength: int
    NameLength: int
    Name: str
    Data: bytes


class OpenedKey(Operation[Key | NTSTATUS]):
    """See which key a handle is for."""

    __slots__ = ("access", "handle", "table")
    kind = "look up a handle in"

    def __init__(self, table: HandleTable, handle: int, access: int) -> None:
        self.table = table
        self.handle = handle
        self.access = access

    def perform(self, thread: Thread) -> Key | NTSTATUS:
        entry = self.table.find(thread, self.handle)
        if entry is None:
            return STATUS_INVALID_HANDLE
        if not isinstance(entry.body, Key):
            return STATUS_OBJECT_TYPE_MISMATCH
        return entry.body if entry.granted & self.access == self.access else STATUS_ACCESS_DENIED

    def target(self) -> Cell:
        return self.table


async def key_of(handle: int, access: int, name: str) -> Key | NTSTATUS:
    """The key behind *handle*; finding ``ob.bad-handle`` for one that is not open."""
    table = table_for(handle)
    found = STATUS_INVALID_HANDLE if table is None else await OpenedKey(table, handle, access)
    if found == STATUS_INVALID_HANDLE:
        report("ob.bad-handle", f"{name} of 0x{handle:X}, which is not open")
    return found


def _name(name: str | UNICODE_STRING | None, routine_name: str, parameter: str) -> str | None:
    """A name as a text; None, with finding ``ke.bad-pointer``, if it is none."""
    if isinstance(name, str):
        return name
    if isinstance(name, Structure):
        return text_of(name, routine_name)
    bad_pointer(routine_name, parameter, UNICODE_STRING, name)
    return None


@routine(
    "wdm",
    """NTSTATUS ZwOpenKey(_Out_ PHANDLE KeyHandle, _In_ ACCESS_MASK DesiredAccess,
       _In_ POBJECT_ATTRIBUTES ObjectAttributes)""",
    max_irql=PASSIVE_LEVEL,
)
async def ZwOpenKey(DesiredAccess: int, ObjectAttributes: OBJECT_ATTRIBUTES) -> tuple[NTSTATUS, int]:
    """Open a key: status and handle.

    The name is a full path, such as DriverEntry's RegistryPath, or relative to the key whose handle is RootDirectory.
    STATUS_OBJECT_NAME_NOT_FOUND for a key that the scenario has not put there (`World.registry`). IRQL: PASSIVE_LEVEL.
    Findings: ``ob.user-visible-handle``, ``ob.bad-handle``.
    """
    name = _name(ObjectAttributes.ObjectName, "ZwOpenKey", "ObjectName")
    if name is None:
        return STATUS_INVALID_PARAMETER, 0
    if ObjectAttributes.RootDirectory:
        root = await key_of(ObjectAttributes.RootDirectory, 0, "ZwOpenKey")
        if not isinstance(root, Key):
            return root, 0
        if name.startswith("\\"):
            return STATUS_OBJECT_PATH_SYNTAX_BAD, 0
        name = rf"{root.path}\{name}" if name else root.path
    elif not name.startswith("\\"):
        return STATUS_OBJECT_PATH_SYNTAX_BAD, 0
    check_attributes("ZwOpenKey", ObjectAttributes.Attributes, KernelMode)
    values = current_system().get(Registry).keys.get(name.rstrip("\\").upper())
    if values is None:
        return STATUS_OBJECT_NAME_NOT_FOUND, 0
    if resources_fail("ZwOpenKey"):
        return STATUS_INSUFFICIENT_RESOURCES, 0
    key = Key(name, values)
    # Until there is a handle nobody else holds it.
    header = header_of(key)
    header.kept += 1
    status, handle = await open_handle(key, DesiredAccess, ObjectAttributes.Attributes)
    header.kept -= 1
    return status, handle


Information = KEY_VALUE_BASIC_INFORMATION | KEY_VALUE_FULL_INFORMATION | KEY_VALUE_PARTIAL_INFORMATION


def _describe(value: Value, which: int) -> tuple[Information, int, int] | None:
    """What is told of *value*: the structure, how many bytes it begins with, and how many it is."""
    name = value.name.encode("utf-16-le")
    information: Any
    if which == KeyValueBasicInformation:
        information, head = KEY_VALUE_BASIC_INFORMATION(), 12
        information.NameLength, information.Name = len(name), value.name
        size = head + len(name)
    elif which == KeyValuePartialInformation:
        information, head = KEY_VALUE_PARTIAL_INFORMATION(), 12
        information.DataLength, information.Data = len(value.data), value.data
        size = head + len(value.data)
    elif which == KeyValueFullInformation:
        information, head = KEY_VALUE_FULL_INFORMATION(), 20
        information.NameLength, information.Name = len(name), value.name
        information.DataLength, information.Data = len(value.data), value.data
        information.DataOffset = head + len(name)
        size = head + len(name) + len(value.data)
    else:
        return None
    information.TitleIndex, information.Type = 0, value.type
    return information, head, size


@routine(
    "wdm",
    """NTSTATUS ZwQueryValueKey(_In_ HANDLE KeyHandle, _In_ PUNICODE_STRING ValueName,
       _In_ KEY_VALUE_INFORMATION_CLASS KeyValueInformationClass,
       _Out_writes_bytes_opt_(Length) PVOID KeyValueInformation, _In_ ULONG Length, _Out_ PULONG ResultLength)""",
    max_irql=PASSIVE_LEVEL,
)
async def ZwQueryValueKey(
    KeyHandle: int, ValueName: str | UNICODE_STRING, KeyValueInformationClass: int, Length: int
) -> tuple[NTSTATUS, Any, int]:
    """Read a value: status, the structure of the class (None without one), and how many bytes it takes.

    *Length* is how much room the driver has: STATUS_BUFFER_TOO_SMALL where not even the beginning fits,
    STATUS_BUFFER_OVERFLOW with the structure but none of its bytes where these do not. STATUS_OBJECT_NAME_NOT_FOUND
    for a value that is not there, STATUS_ACCESS_DENIED without KEY_QUERY_VALUE. IRQL: PASSIVE_LEVEL.
    Findings: ``ob.bad-handle``.
    """
    key = await key_of(KeyHandle, KEY_QUERY_VALUE, "ZwQueryValueKey")
    if not isinstance(key, Key):
        return key, None, 0
    name = _name(ValueName, "ZwQueryValueKey", "ValueName")
    if name is None:
        return STATUS_INVALID_PARAMETER, None, 0
    value = key.values.get(name.upper())
    if value is None:
        return STATUS_OBJECT_NAME_NOT_FOUND, None, 0
    described = _describe(value, KeyValueInformationClass)
    if described is None:
        return STATUS_INVALID_PARAMETER, None, 0
    information, head, size = described
    if Length < head:
        return STATUS_BUFFER_TOO_SMALL, None, size
    if Length < size:
        if not isinstance(information, KEY_VALUE_BASIC_INFORMATION):
            information.Data = b""
        return STATUS_BUFFER_OVERFLOW, information, size
    return STATUS_SUCCESS, information, size
