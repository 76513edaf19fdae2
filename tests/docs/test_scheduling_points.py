"""The page on scheduling points names every operation there is. A new operation has to be put there, and here."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kemu
from kemu.runtime.operation import BlockingOperation, Operation

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "scheduling-points.md"

# For each operation words of the page that it stands behind; None for one that a driver or script never comes to.
WORDS = {
    "_Start": "start a thread, join it",
    "Access": None,  # of which loads and stores are the two kinds
    "AcquireLock": "acquire or release a fast mutex",
    "Arm": "`FltCbdqInsertIo`",
    "Attach": "attach an instance",
    "AttachDevice": "`IoAttachDeviceToDeviceStack`",
    "AwaitCompletion": "wait for a completion",
    "Begin": "begin an operation",
    "BeginTeardown": "begin a teardown",
    "BeginUnload": "begin a service stop",
    "CallDriver": "`IoCallDriver`",
    "CancelIrp": "`IoCancelIrp`",
    "ChangeLinks": "`IoCreateSymbolicLink`",
    "ClearCancelRoutine": "`FltClearCancelCompletion`",
    "ClearEvent": "`KeClearEvent`",
    "CompleteIrp": "`IoCompleteRequest`",
    "CreateDevice": "`IoCreateDevice`",
    "DeleteDevice": "`IoDeleteDevice`",
    "Deliver": "deliver another callback",
    "DeliverPost": "deliver a pre- or post-operation callback",
    "DeliverPre": "deliver a pre- or post-operation callback",
    "DetachDevice": "`IoDetachDevice`",
    "DevicesReady": "the devices of a driver become ready",
    "Disarm": "`FltCbdqRemoveIo`",
    "DropReference": "`FltObjectDereference`",
    "EndTeardown": "begin a teardown, end it",
    "EndUnload": "discard a driver",
    "EnterQueue": "`IoCsqInsertIrp`",
    "ExchangeCancelRoutine": "`IoSetCancelRoutine`",
    "FindDevice": "look a device up",
    "FreeBlock": "`ExFreePool`",
    "FreeIrp": "`IoFreeIrp`",
    "IsCanceled": "`FltIsIoCanceled`",
    "Join": "start a thread, join it",
    "ListIrpsOf": "of a thread that exits",
    "ListRequests": "list the requests of a file",
    "ListRequestsOf": "of a thread that exits",
    "Load": "each load and each store",
    "MarkPending": "`IoMarkIrpPending`",
    "Perform": "the file system performs a request",
    "Point": "Returns that race",
    "QueueDeferred": "`FltQueueDeferredIoWorkItem`",
    "QueueGeneric": "`FltQueueGenericWorkItem`",
    "QueueItem": "`IoQueueWorkItemEx`",
    "Receive": None,  # of actors that take messages from a mailbox: none of the filter manager's does
    "RegisterShutdown": "`IoRegisterShutdownNotification`",
    "ReleaseDevice": "look a device up, release it",
    "ReleaseLock": "acquire or release a fast mutex",
    "ResumePost": "`FltCompletePendedPostOperation`",
    "ResumePre": "`FltCompletePendedPreOperation`",
    "ReturnMoreProcessing": "`FLT_POSTOP_MORE_PROCESSING_REQUIRED`",
    "ReturnPending": "`FLT_PREOP_PENDING`",
    "Send": None,
    "SetCancelBit": "| cancel |",
    "SetCancelRoutine": "`FltSetCancelCompletion`",
    "SetEvent": "`KeSetEvent`",
    "Statement": "before each statement that touches shared state",
    "StopFiltering": "`FltUnregisterFilter`",
    "Store": "each load and each store",
    "TakeReference": "`FltObjectReference`",
    "TakeWork": "a worker takes a work item",
    "Transfer": "a disk carries a request out",
    "WaitDone": "wait for a completion",
    "BeginCall": "deliver a notification",
    "BeginExit": "end a process",
    "Close": "`ZwClose`",
    "CloseNext": "close one of its handles",
    "Dereference": "`ObDereferenceObject`",
    "Exit": "end a process",
    "EndCall": "return from it",
    "Forget": "free its identifier",
    "Look": "`ObReferenceObjectByHandle`",
    "Lookup": "`PsLookupProcessByProcessId`",
    "Open": "`ObOpenObjectByPointer`",
    "OpenCallback": "`ExCreateCallback`",
    "Reference": "`ObReferenceObject`",
    "Register": "`ExRegisterCallback`",
    "Remove": "`ExUnregisterCallback`",
    "WaitForCalls": "for the last call of a callback",
    "WaitForObject": "`KeWaitForSingleObject`",
    "WaitGone": "for a teardown",
    "WaitOutstanding": "wait for operations",
    "WaitRundown": "for references",
    "WaitUnreferenced": "for the last reference to a driver",
}


def subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    for one in cls.__subclasses__():
        yield one
        yield from subclasses(one)


def test_the_page_names_every_operation() -> None:
    for module in pkgutil.walk_packages(kemu.__path__, "kemu."):
        importlib.import_module(module.name)
    operations = {
        cls.__name__
        for cls in subclasses(Operation)
        # Those that strategies are tried out on are of no system.
        if cls.__module__.startswith("kemu.")
        and cls.__module__ != "kemu.explore.exercise"
        and cls is not BlockingOperation
    }
    assert operations == set(WORDS)
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert [name for name, words in WORDS.items() if words is not None and words not in page] == []
