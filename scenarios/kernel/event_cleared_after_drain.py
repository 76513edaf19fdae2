"""KE-18: an event is cleared after the queue was seen empty, and with it the signal for what came in between.

A worker waits for an event, carries out what is in a queue, and clears the event. Whoever queues something after the
worker has looked for the last time sets an event that is set; then the worker clears it and waits, with work to do.
"""

from __future__ import annotations

from kemu.scenario import World, scenario
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    CONTAINING_RECORD,
    DRIVER_OBJECT,
    KEVENT,
    KSPIN_LOCK,
    LIST_ENTRY,
    Driver,
    InitializeListHead,
    InsertTailList,
    IsListEmpty,
    KeAcquireSpinLock,
    KeClearEvent,
    KeInitializeEvent,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
    KeSetEvent,
    KeWaitForSingleObject,
    NotificationEvent,
    RemoveHeadList,
)


class REQUEST:
    """What is queued; whoever queues it waits until it is done."""

    def __init__(self) -> None:
        self.Entry = LIST_ENTRY(self)
        self.Done = KEVENT("Done")
        KeInitializeEvent(self.Done, NotificationEvent, False)


class Server(Driver):
    """Carries requests out in a thread of its own."""

    def __init__(self) -> None:
        self.Lock = KSPIN_LOCK("Lock")
        self.Requests = LIST_ENTRY()
        self.Ready = KEVENT("Ready")
        self.Served = 0

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        KeInitializeSpinLock(self.Lock)
        InitializeListHead(self.Requests)
        KeInitializeEvent(self.Ready, NotificationEvent, False)
        return STATUS_SUCCESS

    async def Submit(self) -> None:
        """Have a request carried out, and wait for it."""
        request = REQUEST()
        irql = await KeAcquireSpinLock(self.Lock)
        InsertTailList(self.Requests, request.Entry)
        await KeReleaseSpinLock(self.Lock, irql)
        await KeSetEvent(self.Ready)
        await KeWaitForSingleObject(request.Done)

    async def Drain(self) -> None:
        """Carry out what is in the queue, until it is empty."""
        while True:
            irql = await KeAcquireSpinLock(self.Lock)
            if IsListEmpty(self.Requests):
                await KeReleaseSpinLock(self.Lock, irql)
                return
            entry = RemoveHeadList(self.Requests)
            await KeReleaseSpinLock(self.Lock, irql)
            self.Served += 1
            await KeSetEvent(CONTAINING_RECORD(entry).Done)

    async def Serve(self, requests: int) -> None:
        """The worker: ends when it has carried out so many *requests*."""
        raise NotImplementedError


class ClearsAfterDraining(Server):
    """Drains, then clears: what was queued in between has no signal any more."""

    async def Serve(self, requests: int) -> None:
        while self.Served < requests:
            await KeWaitForSingleObject(self.Ready)
            await self.Drain()
            await KeClearEvent(self.Ready)


class ClearsBeforeDraining(Server):
    """Clears, then drains: whatever is queued later than that sets the event anew."""

    async def Serve(self, requests: int) -> None:
        while self.Served < requests:
            await KeWaitForSingleObject(self.Ready)
            await KeClearEvent(self.Ready)
            await self.Drain()


@scenario(variants={"buggy": ClearsAfterDraining, "fixed": ClearsBeforeDraining}, expects={"buggy": "ke.lost-wakeup"})
async def event_cleared_after_drain(world: World, driver: type[Driver]) -> None:
    """Two programs each have a request carried out."""
    loaded = await world.load(driver, altitude="328010")
    server = loaded.driver
    assert isinstance(server, Server)

    async def worker() -> None:
        await server.Serve(2)

    async def submit() -> None:
        await server.Submit()

    await world.together(worker(), submit(), submit())
