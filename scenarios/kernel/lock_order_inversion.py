"""KE-15: two paths of a driver take the same two spin locks in opposite orders.

Writes are counted in a table, and logged under the table's lock. A query takes what is in the log over into the table,
under the log's lock, if there is anything in it. A write and a query that meet each other halfway wait for each other
for ever, at DISPATCH_LEVEL. That takes three threads and two preemptions; the orders themselves can be seen in any run
in which a query follows a write.
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
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_WRITE,
    KSPIN_LOCK,
    NT_SUCCESS,
    Driver,
    KeAcquireSpinLock,
    KeInitializeSpinLock,
    KeReleaseSpinLock,
)


class Accountant(Driver):
    """Counts writes in a table and logs them; a query takes the log over."""

    def __init__(self) -> None:
        self.Filter: PFLT_FILTER | None = None
        self.TableLock = KSPIN_LOCK("TableLock")
        self.LogLock = KSPIN_LOCK("LogLock")
        self.Writes = 0
        self.Reported = 0
        self.Logged = 0

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        KeInitializeSpinLock(self.TableLock)
        KeInitializeSpinLock(self.LogLock)
        registration = FLT_REGISTRATION(
            OperationRegistration=[
                FLT_OPERATION_REGISTRATION(IRP_MJ_WRITE, 0, self.PreWrite),
                FLT_OPERATION_REGISTRATION(IRP_MJ_QUERY_INFORMATION, 0, self.PreQuery),
                FLT_OPERATION_REGISTRATION(),
            ],
            FilterUnloadCallback=self.Unload,
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

    async def PreWrite(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        irql = await KeAcquireSpinLock(self.TableLock)
        self.Writes += 1
        inner = await KeAcquireSpinLock(self.LogLock)
        self.Logged += 1
        await KeReleaseSpinLock(self.LogLock, inner)
        await KeReleaseSpinLock(self.TableLock, irql)
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def PreQuery(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        await self.take_log_over()
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def take_log_over(self) -> None:
        """Empty the log into the table."""
        raise NotImplementedError


class NestsTheOtherWay(Accountant):
    """Takes the table's lock under the log's."""

    async def take_log_over(self) -> None:
        irql = await KeAcquireSpinLock(self.LogLock)
        if self.Logged:
            inner = await KeAcquireSpinLock(self.TableLock)
            self.Reported += self.Logged
            await KeReleaseSpinLock(self.TableLock, inner)
            self.Logged = 0
        await KeReleaseSpinLock(self.LogLock, irql)


class DropsTheFirst(Accountant):
    """Empties the log under its own lock, drops that, and takes the table's then."""

    async def take_log_over(self) -> None:
        irql = await KeAcquireSpinLock(self.LogLock)
        logged, self.Logged = self.Logged, 0
        await KeReleaseSpinLock(self.LogLock, irql)
        if logged:
            irql = await KeAcquireSpinLock(self.TableLock)
            self.Reported += logged
            await KeReleaseSpinLock(self.TableLock, irql)


@scenario(
    variants={"buggy": NestsTheOtherWay, "fixed": DropsTheFirst},
    expects={"buggy": "ke.lock-order"},
    completion="inline",
)
async def lock_order_inversion(world: World, driver: type[Driver]) -> None:
    """A program queries the size of an open file while it writes to it."""
    world.file(r"\data.bin", b"0123456789")
    await world.load(driver, altitude="328010")
    app = world.process("app")
    file = await app.open(r"\data.bin")

    async def query() -> None:
        status, _ = await file.size()
        world.check(status == STATUS_SUCCESS, f"the query must succeed, but returned {status}")

    async def writer() -> None:
        status, written = await file.write(b"new")
        world.check(status == STATUS_SUCCESS and written == 3, f"the write must succeed, but returned {status}")

    await world.together(query(), writer(), process=app)
