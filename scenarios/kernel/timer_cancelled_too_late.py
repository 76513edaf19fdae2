"""KE-10: a driver cancels its timer, does not look whether that was in time, and frees what the timer's DPC uses.

KeCancelTimer does not wait for a DPC that is queued or running. For a timer that expires once it says so: it returns
FALSE.
"""

from kemu.scenario import World, scenario
from kemu.wdk.ntstatus import STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    KDPC,
    KEVENT,
    KTIMER,
    POOL_FLAG_NON_PAGED,
    Driver,
    ExAllocatePool2,
    ExFreePoolWithTag,
    KeCancelTimer,
    KeInitializeDpc,
    KeInitializeEvent,
    KeInitializeTimer,
    KeSetEvent,
    KeSetTimer,
    KeWaitForSingleObject,
    NotificationEvent,
    Structure,
    sizeof,
)

TAG = "Wtch"
HALF_A_SECOND = -5_000_000


class WATCH(Structure):
    """What a watched request is known by."""

    Expired: int


class Watchdog(Driver):
    """Watches one request at a time: if it takes too long, the DPC notes that."""

    def __init__(self) -> None:
        self.Timer = KTIMER("Timer")
        self.Dpc = KDPC("Dpc")
        self.Finished = KEVENT("Finished")
        self.Watch: WATCH | None = None

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        KeInitializeTimer(self.Timer)
        KeInitializeEvent(self.Finished, NotificationEvent, False)
        return STATUS_SUCCESS

    async def Begin(self) -> int:
        """Watch a request."""
        watch: WATCH | None = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(WATCH), TAG)
        if watch is None:
            return STATUS_INSUFFICIENT_RESOURCES
        self.Watch = watch
        KeInitializeDpc(self.Dpc, self.Expire, watch)
        await KeSetTimer(self.Timer, HALF_A_SECOND, self.Dpc)
        return STATUS_SUCCESS

    async def Expire(self, Dpc: KDPC, Watch: WATCH, SystemArgument1: object, SystemArgument2: object) -> None:
        """The request takes too long."""
        Watch.Expired = 1
        await KeSetEvent(self.Finished)

    async def End(self) -> None:
        """The request is done."""
        raise NotImplementedError


class IgnoresTheResult(Watchdog):
    """Frees the record as soon as KeCancelTimer has returned."""

    async def End(self) -> None:
        assert self.Watch is not None
        await KeCancelTimer(self.Timer)
        await ExFreePoolWithTag(self.Watch, TAG)


class WaitsForTheDpc(Watchdog):
    """Waits for the DPC to say that it is done with the record, if it is too late to cancel it."""

    async def End(self) -> None:
        assert self.Watch is not None
        if not await KeCancelTimer(self.Timer):
            await KeWaitForSingleObject(self.Finished)
        await ExFreePoolWithTag(self.Watch, TAG)


@scenario(variants={"buggy": IgnoresTheResult, "fixed": WaitsForTheDpc}, expects={"buggy": "ke.timer-dpc-race"})
async def timer_cancelled_too_late(world: World, driver: type[Driver]) -> None:
    """A request takes exactly as long as it may."""
    loaded = await world.load(driver, altitude="328010")
    watchdog = loaded.driver
    assert isinstance(watchdog, Watchdog)

    async def request() -> None:
        status = await watchdog.Begin()
        world.check(status == STATUS_SUCCESS, f"watching must succeed, but returned {status}")
        await world.sleep(0.5)
        await watchdog.End()

    await world.together(request())
