"""MF-17: a pre-read callback stores a request of its own under a lock, and fetches it again after it dropped the lock.

The cancel callback takes the stored request under the same lock, and leaves NULL. What was published under a lock is
not to be looked at again outside: the callback has the pointer, and sends that.
"""

from typing import Any

from _reads import Reads

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_RELATED_OBJECTS,
    FltCompletePendedPreOperation,
    FltIsIoCanceled,
    FltSetCancelCompletion,
)
from kemu.wdk.ntstatus import STATUS_CANCELLED
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    KSPIN_LOCK,
    PVOID,
    Driver,
    IoAcquireCancelSpinLock,
    IoReleaseCancelSpinLock,
    KeAcquireSpinLock,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
)


class SubRequest:
    """What is sent on behalf of a read."""

    def __init__(self) -> None:
        self.Sent = False

    def send(self) -> None:
        """Send it."""
        self.Sent = True


class Forwarder(Reads):
    """Holds each read, and sends a request of its own instead; a cancellation takes that back."""

    def __init__(self) -> None:
        super().__init__()
        self.Lock = KSPIN_LOCK("ContextLock")
        self.Shadow = PVOID(label="Shadow")

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        KeInitializeSpinLock(self.Lock)
        return await super().DriverEntry(DriverObject, RegistryPath)

    async def publish(self, Data: FLT_CALLBACK_DATA, request: SubRequest) -> bool:
        """Store *request*, and make the read cancellable; false if it is cancelled already."""
        irql = await KeAcquireSpinLock(self.Lock)
        self.Shadow.value = request
        cancel = await IoAcquireCancelSpinLock()
        cancelled = await FltIsIoCanceled(Data)
        if not cancelled:
            await FltSetCancelCompletion(Data, self.Canceled)
        await IoReleaseCancelSpinLock(cancel)
        await KeReleaseSpinLock(self.Lock, irql)
        return not cancelled

    async def Canceled(self, Data: FLT_CALLBACK_DATA) -> None:
        irql = await KeAcquireSpinLock(self.Lock)
        self.Shadow.value = None
        await KeReleaseSpinLock(self.Lock, irql)
        Data.IoStatus.Status = STATUS_CANCELLED
        Data.IoStatus.Information = 0
        await FltCompletePendedPreOperation(Data, FLT_PREOP_COMPLETE, None)

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
        request = SubRequest()
        if not await self.publish(Data, request):
            Data.IoStatus.Status = STATUS_CANCELLED
            return FLT_PREOP_COMPLETE
        await self.forward(request)
        return FLT_PREOP_PENDING

    async def forward(self, request: SubRequest) -> None:
        raise NotImplementedError


class FetchesItAgain(Forwarder):
    """Sends what it finds in the context."""

    async def forward(self, request: SubRequest) -> None:
        self.Shadow.value.send()


class KeepsIt(Forwarder):
    """Sends what it has made."""

    async def forward(self, request: SubRequest) -> None:
        request.send()


@scenario(
    variants={"buggy": FetchesItAgain, "fixed": KeepsIt},
    expects={"buggy": "ke.unhandled-exception"},
    completion="inline",
    preempt="access",
)
async def pointer_read_again(world: World, driver: type[Driver]) -> None:
    """A program reads, and cancels the read from another thread."""
    world.file(r"\data.bin", b"0123456789")
    await world.load(driver, altitude="328010")
    app = world.process("app")
    file = await app.open(r"\data.bin", overlapped=True)

    async def reader() -> None:
        pending = await file.begin_read(4)
        await pending.cancel()
        status = await pending.wait()
        world.check(status == STATUS_CANCELLED, f"the read must be cancelled, but returned {status}")

    async def canceller() -> None:
        await file.cancel_all()

    await world.together(reader(), canceller(), process=app)
