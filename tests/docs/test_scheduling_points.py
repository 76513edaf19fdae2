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
    "AcquireRemoveLock": "acquire or release run-down protection or a remove lock",
    "AcquireRundown": "acquire or release run-down protection",
    "AcquireShared": "acquire or release a fast mutex",
    "Arm": "`FltCbdqInsertIo`",
    "AskExclusive": "begin to wait, which others can see",
    "AskForResource": "acquire, release or convert an ERESOURCE",
    "AwaitCalls": "go on after the last message routine",
    "AwaitGetter": "`FilterGetMessage`",
    "AwaitMessage": "go on when it was fetched, or answered",
    "BeginMessage": "`FilterSendMessage`",
    "CancelGetters": "`CancelIoEx`, or the end of the thread, ends that",
    "EndGetters": "`CancelIoEx`, or the end of the thread, ends that",
    "CloseClient": "`FltCloseClientPort`",
    "Connect": "take a slot of the port",
    "Disconnect": "the last handle of a connection is closed",
    "Establish": "get the handle",
    "FreeDescriptor": "`FltFreeSecurityDescriptor`",
    "FreeSlot": "free the slot",
    "GetMessage": "fetch the oldest message",
    "ListConnections": "see which connections are left",
    "Listen": "`FltCreateCommunicationPort`",
    "Refuse": "give the slot back",
    "ReplyToMessage": "`FilterReplyMessage`",
    "SendMessage": "`FltSendMessage`",
    "StopListening": "`FltCloseCommunicationPort`",
    "Atomic": None,  # of which the interlocked operations are the kinds
    "Attach": "attach an instance",
    "AlertThread": "`World.alert`",
    "AttachDevice": "`IoAttachDeviceToDeviceStack`",
    "AwaitCompletion": "wait for a completion",
    "AwaitExclusive": "go on when it is this thread's turn",
    "AwaitResource": "go on when it is this thread's turn",
    "AwaitRundown": "wait for the last holder",
    "AwaitTurn": "wait for a queued spin lock",
    "Begin": "begin an operation",
    "BeginCall": "deliver a notification",
    "BeginExit": "end a process",
    "BeginRemoval": "begin a run-down",
    "BeginRundown": "begin a run-down",
    "BeginTeardown": "begin a teardown",
    "BeginUnload": "begin a service stop",
    "CallDriver": "`IoCallDriver`",
    "CancelIrp": "`IoCancelIrp`",
    "CancelTimer": "`KeCancelTimer`",
    "Change": "`InterlockedIncrement`",
    "ChangeLinks": "`IoCreateSymbolicLink`",
    "ClearCancelRoutine": "`FltClearCancelCompletion`",
    "ClearEvent": "`KeClearEvent`",
    "Delay": "`KeDelayExecutionThread`",
    "CreateProcess": "make a process",
    "CreateThread": "`PsCreateSystemThread`",
    "DeleteTimer": "`ExDeleteTimer`",
    "EndThread": "`PsTerminateSystemThread`",
    "InsertDpc": "`KeInsertQueueDpc`",
    "LastInstructions": "the routine of a thread that a driver has made",
    "ListDpcs": "`KeFlushQueuedDpcs`",
    "QueueIoItem": "`IoQueueWorkItem`",
    "ReadClock": "`KeQuerySystemTime`",
    "ReadTimer": "`KeReadStateTimer`",
    "RemoveDpc": "`KeRemoveQueueDpc`",
    "SetTimer": "`KeSetTimer`",
    "TakeProcessor": "a DPC starts",
    "WaitForDpcs": "go on after them",
    "Close": "`ZwClose`",
    "CloseNext": "close one of its handles",
    "CompareExchange": "`InterlockedCompareExchange`",
    "CompleteIrp": "`IoCompleteRequest`",
    "CompleteRundown": "complete a run-down",
    "ConvertToShared": "acquire, release or convert an ERESOURCE",
    "CountWaiters": "count its waiters",
    "CreateDevice": "`IoCreateDevice`",
    "DeleteDevice": "`IoDeleteDevice`",
    "DeleteList": "delete a lookaside list",
    "Deliver": "deliver another callback",
    "DeliverPost": "deliver a pre- or post-operation callback",
    "DeliverPre": "deliver a pre- or post-operation callback",
    "Depth": "`ExQueryDepthSList`",
    "Dereference": "`ObDereferenceObject`",
    "DetachDevice": "`IoDetachDevice`",
    "DevicesReady": "the devices of a driver become ready",
    "Disarm": "`FltCbdqRemoveIo`",
    "DropReference": "`FltObjectDereference`",
    "EndCall": "return from it",
    "EndTeardown": "begin a teardown, end it",
    "EndPulse": "`KePulseEvent`",
    "InsertApc": "`World.queue_apc`",
    "EndUnload": "discard a driver",
    "Enqueue": "wait for a queued spin lock",
    "EnterQueue": "`IoCsqInsertIrp`",
    "ExchangeCancelRoutine": "`IoSetCancelRoutine`",
    "Exit": "end a process",
    "FindDevice": "look a device up",
    "Flush": "`InterlockedFlushSList`",
    "Forget": "free its identifier",
    "FreeBlock": "`ExFreePool`",
    "FreeIrp": "`IoFreeIrp`",
    "FreeRundown": "complete a run-down, initialise it again, free it",
    "GiveEntry": "give an entry back to it",
    "IsCanceled": "`FltIsIoCanceled`",
    "Join": "start a thread, join it",
    "LeaveQueue": "acquire or release a fast mutex",
    "ListIrpsOf": "of a thread that exits",
    "ListRequests": "list the requests of a file",
    "ListRequestsOf": "of a thread that exits",
    "Load": "each load and each store",
    "Look": "`ObReferenceObjectByHandle`",
    "Lookup": "`PsLookupProcessByProcessId`",
    "MarkPending": "`IoMarkIrpPending`",
    "Open": "`ObOpenObjectByPointer`",
    "OpenCallback": "`ExCreateCallback`",
    "Perform": "the file system performs a request",
    "Point": "Returns that race",
    "Pop": "`InterlockedPopEntrySList`",
    "Push": "`InterlockedPushEntrySList`",
    "QueueDeferred": "`FltQueueDeferredIoWorkItem`",
    "QueueGeneric": "`FltQueueGenericWorkItem`",
    "ReadState": "`KeReadStateEvent`",
    "QueueItem": "`ExQueueWorkItem`",
    "Read": "`ReadAcquire`",
    "Receive": None,  # of actors that take messages from a mailbox: none of the filter manager's does
    "Reference": "`ObReferenceObject`",
    "Register": "`ExRegisterCallback`",
    "RegisterShutdown": "`IoRegisterShutdownNotification`",
    "ReleaseDevice": "look a device up, release it",
    "ReleaseExclusive": "acquire or release a fast mutex",
    "ReleaseLock": "acquire or release a fast mutex",
    "ReleaseMutex": "`KeReleaseMutex`",
    "ReleaseSemaphore": "`KeReleaseSemaphore`",
    "ReleaseRemoveLock": "acquire or release run-down protection or a remove lock",
    "ReleaseResource": "acquire, release or convert an ERESOURCE",
    "ReleaseRundown": "acquire or release run-down protection",
    "ReleaseShared": "acquire or release a fast mutex",
    "Remove": "`ExUnregisterCallback`",
    "ResumePost": "`FltCompletePendedPostOperation`",
    "ResumePre": "`FltCompletePendedPreOperation`",
    "ReturnMoreProcessing": "`FLT_POSTOP_MORE_PROCESSING_REQUIRED`",
    "ReturnPending": "`FLT_PREOP_PENDING`",
    "ReviveRundown": "initialise it again",
    "Send": None,
    "SequencedOperation": None,  # of which Push, Pop and Flush are the kinds
    "SetCancelBit": "| cancel |",
    "SetCancelRoutine": "`FltSetCancelCompletion`",
    "SetEvent": "`KeSetEvent`",
    "SignalCompletion": "the event of the IRP is set",
    "Statement": "before each statement that touches shared state",
    "StopFiltering": "`FltUnregisterFilter`",
    "Store": "each load and each store",
    "TakeEntry": "take an entry of a lookaside list",
    "TakeReference": "`FltObjectReference`",
    "TakeWork": "a worker takes a work item",
    "TestLock": "try to acquire, convert or test a lock",
    "Transfer": "a disk carries a request out",
    "TryAcquireLock": "try to acquire, convert or test a lock",
    "TryExclusive": "try to acquire, convert or test a lock",
    "TryShared": "try to acquire, convert or test a lock",
    "UnderLock": "`ExInterlockedInsertTailList`",
    "Unmap": "`UserBuffer.unmap`",
    "Upgrade": "try to acquire, convert or test a lock",
    "UserLoad": "`UserBuffer.load`",
    "UserOperation": None,  # of which the three above are the kinds
    "UserStore": "`UserBuffer.store`",
    "WaitDone": "wait for a completion",
    "WaitForCalls": "for the last call of a callback",
    "WaitForObject": "`KeWaitForSingleObject`",
    "WaitForObjects": "`KeWaitForMultipleObjects`",
    "WaitGone": "for a teardown",
    "WaitOutstanding": "wait for operations",
    "CancelWaiting": "stops the waiting of a request",
    "TakeDirtyStream": "take a stream of",
    "TakeDirtyPage": "take a dirty page of",
    "ReferenceHandle": "look up a handle",
    "RemoveHandle": "look up a handle, close it",
    "AddHandle": "duplicate it",
    "AcquireFileLock": "acquire the I/O lock of a file",
    "SizeOf": "see the size of a file",
    "MapView": "map or unmap a view",
    "UnmapView": "map or unmap a view",
    "TouchPages": "touch a view",
    "CloseSection": "close a section",
    "WaitRundown": "for references",
    "WaitUnreferenced": "for the last reference to a driver",
    "Write": "`WriteRelease`",
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
