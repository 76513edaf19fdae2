"""KE-09: a detach waits for run-down protection under a lock that a holder of the protection needs.

Reads hold the protection of the scan engine while they look at its settings, which a mutex protects. The detach takes
the engine down under that mutex: a read that holds the protection and is about to ask for the mutex then waits for the
detach, and the detach for the read. A wait for run-down takes no locks along. Whoever holds the protection should not
be suspended meanwhile, or the detach waits until it is resumed; a critical region sees to that.
"""

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    PFLT_FILTER,
    FltRegisterFilter,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntddk import KeEnterCriticalRegion, KeLeaveCriticalRegion
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    EX_RUNDOWN_REF,
    FAST_MUTEX,
    IRP_MJ_READ,
    NT_SUCCESS,
    Driver,
    ExAcquireFastMutex,
    ExAcquireRundownProtection,
    ExInitializeFastMutex,
    ExInitializeRundownProtection,
    ExReleaseFastMutex,
    ExReleaseRundownProtection,
    ExWaitForRundownProtectionRelease,
)


class Scanner(Driver):
    """Looks at the settings of its engine in every read, and takes the engine down when it is detached."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None
        self.Engine = EX_RUNDOWN_REF("EngineRundown")
        self.SettingsLock = FAST_MUTEX("SettingsLock")
        self.Enabled = True

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        ExInitializeRundownProtection(self.Engine)
        ExInitializeFastMutex(self.SettingsLock)
        registration = FLT_REGISTRATION(
            OperationRegistration=[
                FLT_OPERATION_REGISTRATION(IRP_MJ_READ, 0, self.PreRead),
                FLT_OPERATION_REGISTRATION(),
            ],
            FilterUnloadCallback=self.Unload,
            InstanceQueryTeardownCallback=self.InstanceQueryTeardown,
            InstanceTeardownStartCallback=self.InstanceTeardownStart,
        )
        status, self.Filter = await FltRegisterFilter(DriverObject, registration)
        if not NT_SUCCESS(status) or self.Filter is None:
            return status
        status = await FltStartFiltering(self.Filter)
        if not NT_SUCCESS(status):
            await FltUnregisterFilter(self.Filter)
        return status

    async def Unload(self, Flags: int) -> int:
        assert self.Filter is not None
        await FltUnregisterFilter(self.Filter)
        return STATUS_SUCCESS

    async def InstanceQueryTeardown(self, FltObjects: FLT_RELATED_OBJECTS, Flags: int) -> int:
        return STATUS_SUCCESS

    async def InstanceTeardownStart(self, FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        raise NotImplementedError

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        await self.scan()
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def scan(self) -> None:
        """Use the engine, if it is still there."""
        if await ExAcquireRundownProtection(self.Engine):
            await ExAcquireFastMutex(self.SettingsLock)
            _ = self.Enabled
            await ExReleaseFastMutex(self.SettingsLock)
            await ExReleaseRundownProtection(self.Engine)


class WaitsUnderTheLock(Scanner):
    """Switches the engine off and waits for its users in one go, under the lock."""

    async def InstanceTeardownStart(self, FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        await ExAcquireFastMutex(self.SettingsLock)
        self.Enabled = False
        await ExWaitForRundownProtectionRelease(self.Engine)
        await ExReleaseFastMutex(self.SettingsLock)


class DropsTheLock(Scanner):
    """Switches the engine off, drops the lock, and waits then; its users cannot be suspended."""

    async def InstanceTeardownStart(self, FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        await ExAcquireFastMutex(self.SettingsLock)
        self.Enabled = False
        await ExReleaseFastMutex(self.SettingsLock)
        await ExWaitForRundownProtectionRelease(self.Engine)

    async def scan(self) -> None:
        KeEnterCriticalRegion()
        await super().scan()
        KeLeaveCriticalRegion()


@scenario(
    variants={"buggy": WaitsUnderTheLock, "fixed": DropsTheLock},
    expects={"buggy": "ke.deadlock"},
    completion="inline",
)
async def rundown_under_lock(world: World, driver: type[Driver]) -> None:
    """A program reads an open file while an administrator detaches the filter."""
    world.file(r"\data.bin", b"0123456789")
    scanner = await world.load(driver, altitude="328010")
    app = world.process("app")
    file = await app.open(r"\data.bin")

    async def reader() -> None:
        status, data = await file.read(4)
        world.check(status == STATUS_SUCCESS and data == b"0123", f"the read must succeed, but returned {status}")

    async def fltmc_detach() -> None:
        status = await scanner.detach()
        world.check(status == STATUS_SUCCESS, f"the detach must succeed, but returned {status}")

    await world.together(reader(), fltmc_detach(), process=app)
