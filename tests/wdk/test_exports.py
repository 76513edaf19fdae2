"""The headers' modules export what is declared for them, and what is declared is complete."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from types import ModuleType
from typing import Any

import pytest

import kemu
from kemu.nt.routine import REGISTRY, Routine, parse_prototype
from kemu.nt.status import NTSTATUS
from kemu.wdk import fltkernel, ntddk, ntifs, ntstatus, wdm

for found in pkgutil.walk_packages(kemu.__path__, "kemu."):
    # What is declared somewhere must not depend on what somebody has imported before.
    if found.name.startswith(("kemu.nt.", "kemu.io.", "kemu.fltmgr.")):
        importlib.import_module(found.name)

HEADERS: dict[str, ModuleType] = {"wdm": wdm, "ntddk": ntddk, "ntifs": ntifs, "fltkernel": fltkernel}

# Functions that are macros or inline code in C: they have no prototype and no IRQL of their own.
MACROS: dict[str, set[str]] = {
    "wdm": {
        "AppendTailList",
        "CONTAINING_RECORD",
        "CTL_CODE",
        "ExInitializeSListHead",
        "InitializeListHead",
        "InitializeObjectAttributes",
        "InsertHeadList",
        "InsertTailList",
        "IsListEmpty",
        "IoGetCurrentProcess",
        "KeWaitForMutexObject",
        "KeMemoryBarrier",
        "NT_ERROR",
        "NT_INFORMATION",
        "NT_SUCCESS",
        "NT_WARNING",
        "NtCurrentProcess",
        "NtCurrentThread",
        "PAGED_CODE",
        "PopEntryList",
        "PushEntryList",
        "RemoveEntryList",
        "RemoveHeadList",
        "on_stack",
        "RemoveTailList",
        "RtlCopyMemory",
        "RtlEqualMemory",
        "RtlFillMemory",
        "RtlInitEmptyUnicodeString",
        "RtlMoveMemory",
        "RtlSecureZeroMemory",
        "RtlZeroMemory",
        "sizeof",
    },
    "ntddk": set(),
    "ntifs": set(),
    "fltkernel": {
        "FLT_IS_FASTIO_OPERATION",
        "FLT_IS_FS_FILTER_OPERATION",
        "FLT_IS_IRP_OPERATION",
        "FLT_IS_SYSTEM_BUFFER",
        "FltGetFileNameFormat",
        "FltGetFileNameQueryMethod",
        "FltSetFileNameFormat",
        "FltSetFileNameQueryMethod",
    },
}


def declared(header: str) -> set[str]:
    return {routine.name for routine in REGISTRY.values() if routine.header == header}


def functions(module: ModuleType) -> set[str]:
    return {name for name in exports(module) if inspect.isfunction(getattr(module, name))}


def exports(module: ModuleType) -> list[str]:
    return list(module.__all__)


def test_every_routine_belongs_to_a_header_that_there_is() -> None:
    assert {routine.header for routine in REGISTRY.values()} == set(HEADERS)


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_exports_its_routines_and_no_others(header: str) -> None:
    assert functions(HEADERS[header]) - MACROS[header] == declared(header)


@pytest.mark.parametrize("header", HEADERS)
def test_what_is_exported_is_what_is_declared(header: str) -> None:
    for name in declared(header):
        assert inspect.unwrap(getattr(HEADERS[header], name)) is REGISTRY[name].function


@pytest.mark.parametrize("module", [wdm, ntddk, ntifs, fltkernel, ntstatus], ids=lambda module: module.__name__)
def test_the_list_of_exports_is_everything_public_and_names_nothing_twice(module: ModuleType) -> None:
    public = {name for name, value in vars(module).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert set(exports(module)) == public - {"annotations"}
    assert len(set(exports(module))) == len(exports(module))


def test_no_name_is_exported_by_two_headers() -> None:
    names = [name for module in (wdm, ntddk, ntifs, fltkernel, ntstatus) for name in exports(module)]
    assert sorted(names) == sorted(set(names))


def test_statuses_are_statuses_under_their_own_names() -> None:
    for name in exports(ntstatus):
        status: Any = getattr(ntstatus, name)
        assert isinstance(status, NTSTATUS)
        assert status.name == name or status.name.startswith("STATUS_")


@pytest.mark.parametrize("one", REGISTRY.values(), ids=lambda one: one.name)
def test_a_declaration_is_complete(one: Routine) -> None:
    assert one.name == one.function.__name__
    assert one.returns
    assert one.is_awaited == inspect.iscoroutinefunction(one.function)
    # C's parameters have a direction and a type; a variable number of arguments has neither.
    for parameter in one.parameters:
        assert parameter.c_type
        assert parameter.annotation or parameter.c_type == "..."
    assert len({parameter.name for parameter in one.parameters}) == len(one.parameters)
    # VOID returns nothing in Python either, unless there are out parameters.
    outputs = [parameter for parameter in one.parameters if parameter.is_output]
    returned = inspect.signature(one.function).return_annotation
    assert (returned == "None") == (one.returns == "VOID" and not outputs)


@pytest.mark.parametrize("one", REGISTRY.values(), ids=lambda one: one.name)
def test_a_docstring_says_what_it_does_and_at_which_irql(one: Routine) -> None:
    text = inspect.getdoc(one.function) or ""
    first = text.splitlines()[0]
    assert first.endswith(".")
    if one.name in {"DbgPrintEx", "KdPrint"}:
        assert "DbgPrint" in text
        return
    assert re.search(r"\bIRQL: ", text), "the IRQL"
    stated = text.partition("IRQL: ")[2]
    if isinstance(one.max_irql, int) and not stated.startswith(("as ", "As ", "any")):
        limit = {0: "PASSIVE_LEVEL", 1: "APC_LEVEL", 2: "DISPATCH_LEVEL"}[one.max_irql]
        assert stated.lstrip("<= ").startswith(limit)
        assert stated.startswith("<= ") == (one.min_irql < one.max_irql)


def test_a_prototype_survives_its_own_parser() -> None:
    for one in REGISTRY.values():
        parameters = ", ".join(f"{p.annotation} {p.c_type} {p.name}".strip() for p in one.parameters if p.annotation)
        rest = ", ..." if any(p.c_type == "..." for p in one.parameters) else ""
        assert parse_prototype(f"{one.returns} {one.name}({parameters}{rest})") == (
            one.returns,
            one.name,
            one.parameters,
        )
