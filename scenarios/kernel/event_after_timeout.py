"""KE-12: a driver gives up waiting for its request, and the completion signals an event that is gone.

The issuer of a request waits for its event for five seconds. Whether that time is over says nothing about the request:
its completion will still write the status and set the event. In C both are variables of the issuer's, whose stack
others use as soon as it has returned; here they are in a block that it frees then.
"""

from kemu.scenario import World, scenario
from kemu.wdk.ntstatus import STATUS_CANCELLED, STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS, STATUS_TIMEOUT
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    KDPC,
    KEVENT,
    KSPIN_LOCK,
    POOL_FLAG_NON_PAGED,
    Driver,
    ExAllocatePool2,
    ExFreePoolWithTag,
    KeAcquireSpinLock,
    KeInitializeDpc,
    KeInitializeEvent,
    KeInitializeSpinLock,
    KeInsertQueueDpc,
    KeReleaseSpinLock,
    KeSetEvent,
    KeWaitForSingleObject,
    NotificationEvent,
    Structure,
    sizeof,
)

TAG = "Rqst"
FIVE_SECONDS = -50_000_000


class REQUEST(Structure):
    """The variables of the issuer's that the completion writes."""

    Done: KEVENT
    Status: int


class Lower(Driver):
    """Has one request at a time, which is completed in a DPC."""

    def __init__(self) -> None:
        self.Lock = KSPIN_LOCK("Lock")
        self.Dpc = KDPC("Dpc")
        self.Pending: REQUEST | None = None

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        KeInitializeSpinLock(self.Lock)
        KeInitializeDpc(self.Dpc, self.Complete, None)
        return STATUS_SUCCESS

    async def Complete(self, Dpc: KDPC, Context: object, SystemArgument1: object, SystemArgument2: object) -> None:
        """Complete the request, if there is one that nobody has cancelled."""
        request = await self.Take()
        if request is not None:
            request.Status = STATUS_SUCCESS
            await KeSetEvent(request.Done)

    async def Take(self) -> REQUEST | None:
        """Whoever gets the request completes it, and nobody else."""
        irql = await KeAcquireSpinLock(self.Lock)
        request, self.Pending = self.Pending, None
        await KeReleaseSpinLock(self.Lock, irql)
        return request

    async def Send(self) -> int:
        """Send a request, and wait for it."""
        request: REQUEST | None = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(REQUEST), TAG)
        if request is None:
            return STATUS_INSUFFICIENT_RESOURCES
        KeInitializeEvent(request.Done, NotificationEvent, False)
        irql = await KeAcquireSpinLock(self.Lock)
        self.Pending = request
        await KeReleaseSpinLock(self.Lock, irql)
        # The device is quick to interrupt, but what its DPC waits for may take its time.
        await KeInsertQueueDpc(self.Dpc, None, None)
        status = await self.Wait(request)
        await ExFreePoolWithTag(request, TAG)
        return status

    async def Wait(self, request: REQUEST) -> int:
        """Wait until the request is done, or takes too long."""
        raise NotImplementedError


class GivesUp(Lower):
    """Forgets the request after five seconds; the device does not."""

    async def Wait(self, request: REQUEST) -> int:
        status = await KeWaitForSingleObject(request.Done, Timeout=FIVE_SECONDS)
        if status == STATUS_TIMEOUT:
            return STATUS_TIMEOUT
        return request.Status


class CancelsAndWaits(Lower):
    """Takes the request back after five seconds; if that is too late, its completion is not far."""

    async def Wait(self, request: REQUEST) -> int:
        status = await KeWaitForSingleObject(request.Done, Timeout=FIVE_SECONDS)
        if status == STATUS_TIMEOUT:
            if await self.Take() is not None:
                return STATUS_CANCELLED
            await KeWaitForSingleObject(request.Done)
        return request.Status


@scenario(variants={"buggy": GivesUp, "fixed": CancelsAndWaits}, expects={"buggy": "ke.use-after-free"})
async def event_after_timeout(world: World, driver: type[Driver]) -> None:
    """A program sends a request, which takes about as long as the program waits."""
    loaded = await world.load(driver, altitude="328010")
    lower = loaded.driver
    assert isinstance(lower, Lower)

    async def send() -> None:
        await lower.Send()

    await world.together(send())
