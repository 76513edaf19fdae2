"""Registration and start (FLT-REG)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, Minifilter, all_runs, codes, orders, run

from kemu.io.request import FAST_IO_OPERATION, FS_FILTER_OPERATION
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    FLTFL_OPERATION_REGISTRATION_SKIP_CACHED_IO,
    FLTFL_OPERATION_REGISTRATION_SKIP_NON_CACHED_NON_PAGING_IO,
    FLTFL_OPERATION_REGISTRATION_SKIP_NON_DASD_IO,
    FLTFL_OPERATION_REGISTRATION_SKIP_PAGING_IO,
    FLTFL_REGISTRATION_DO_NOT_SUPPORT_SERVICE_STOP,
    PFLT_FILTER,
    FltRegisterFilter,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import (
    STATUS_FLT_DO_NOT_DETACH,
    STATUS_FLT_FILTER_NOT_READY,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_SUCCESS,
    STATUS_UNSUCCESSFUL,
)
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    FAST_MUTEX,
    IRP_MJ_CLOSE,
    IRP_MJ_CREATE,
    IRP_MJ_DEVICE_CHANGE,
    IRP_MJ_OPERATION_END,
    IRP_MJ_POWER,
    IRP_MJ_QUERY_EA,
    IRP_MJ_QUERY_OPEN,
    IRP_MJ_READ,
    IRP_MJ_SHUTDOWN,
    IRP_MJ_WRITE,
    IRP_NOCACHE,
    IRP_PAGING_IO,
    POOL_FLAG_NON_PAGED,
    Driver,
    ExAcquireFastMutex,
    ExAllocatePool2,
    ExFreePoolWithTag,
    ExInitializeFastMutex,
    ExReleaseFastMutex,
)


class Bare(Driver):
    """Registers what it is given, and does nothing else unless told so."""

    def __init__(self, registration: FLT_REGISTRATION, *, starts: bool = True, returns: int | None = None) -> None:
        self.registration = registration
        self.starts = starts
        self.returns = returns
        self.Filter: PFLT_FILTER | None = None
        self.statuses: list[int] = []

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        status, self.Filter = await FltRegisterFilter(DriverObject, self.registration)
        self.statuses.append(status)
        if self.Filter is not None and self.starts:
            self.statuses.append(await FltStartFiltering(self.Filter))
        return status if self.returns is None else self.returns


def registering(lab: Lab, *entries: FLT_OPERATION_REGISTRATION, end: bool = True, **more: Any) -> FLT_REGISTRATION:
    return FLT_REGISTRATION([*entries, *([FLT_OPERATION_REGISTRATION()] if end else [])], **more)


def outcome_of(**more: Any) -> str | None:
    """The finding of a driver that registers a pre-read with *more*."""

    async def script(lab: Lab) -> None:
        entry = FLT_OPERATION_REGISTRATION(IRP_MJ_READ, 0, lab.pre("A"), lab.post("A"))
        await lab.load(Bare(registering(lab, entry, **more)), UPPER)

    return run(script).code


@pytest.mark.rule("FLT-REG-02")
def test_registering_succeeds() -> None:
    async def script(lab: Lab) -> Sequence[int]:
        driver = Bare(registering(lab))
        assert (await lab.load(driver, UPPER)).status == STATUS_SUCCESS
        assert driver.Filter is not None
        return driver.statuses

    assert run(script).result == [STATUS_SUCCESS, STATUS_SUCCESS]


@pytest.mark.rule("FLT-REG-02")
def test_registering_without_an_instance_in_the_registry() -> None:
    async def script(lab: Lab) -> Sequence[int]:
        driver = Bare(registering(lab))
        driver_object: list[DRIVER_OBJECT] = []

        class Unconfigured(Driver):
            async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
                DriverObject.altitude = ""
                driver_object.append(DriverObject)
                return await driver.DriverEntry(DriverObject, RegistryPath)

        await lab.load(Unconfigured(), UPPER)
        return driver.statuses

    assert run(script).result == [STATUS_OBJECT_NAME_NOT_FOUND]


@pytest.mark.rule("FLT-REG-03")
@pytest.mark.parametrize(
    ("version", "code"),
    [(0x203, None), (0x200, None), (0x202, None), (0x204, "reg-version"), (0x100, "reg-version"), (0, "reg-version")],
)
def test_version(version: int, code: str | None) -> None:
    assert outcome_of(Version=version) == code


@pytest.mark.rule("FLT-REG-04")
@pytest.mark.parametrize(("end", "code"), [(True, None), (False, "reg-unterminated")])
def test_the_array_ends_with_its_terminator(end: bool, code: str | None) -> None:
    assert outcome_of(end=end) == code


@pytest.mark.rule("FLT-REG-04")
def test_what_follows_the_terminator_is_not_registered() -> None:
    async def script(lab: Lab) -> None:
        read = FLT_OPERATION_REGISTRATION(IRP_MJ_READ, 0, lab.pre("read"), lab.post("read"))
        write = FLT_OPERATION_REGISTRATION(IRP_MJ_WRITE, 0, lab.pre("write"), lab.post("write"))
        await lab.load(Bare(registering(lab, read, FLT_OPERATION_REGISTRATION(), write)), UPPER)
        file = await lab.open()
        await file.read(1)
        await file.write(b"x")

    one = run(script)
    assert one.code is None
    assert one.order == ["read.pre", "read.post"]


@pytest.mark.rule("FLT-REG-05")
@pytest.mark.parametrize("own", [True, False])
def test_a_driver_registers_itself_only(own: bool) -> None:
    async def script(lab: Lab) -> None:
        first = await lab.load(Bare(registering(lab)), UPPER)

        class Meddler(Driver):
            async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
                victim = DriverObject if own else first.driver_object
                status, filter_ = await FltRegisterFilter(victim, registering(lab))
                return await FltStartFiltering(filter_) if filter_ is not None else status

        await lab.load(Meddler(), LOWER)

    assert run(script).code == (None if own else "reg-foreign")


@pytest.mark.rule("FLT-REG-05", "FLT-UNLOAD-15")
@pytest.mark.parametrize(("who", "code"), [("own", None), ("foreign", "reg-foreign"), ("twice", "double-unregister")])
def test_a_driver_unregisters_itself_once(who: str, code: str | None) -> None:
    async def script(lab: Lab) -> None:
        first = Bare(registering(lab))
        await lab.load(first, UPPER)
        second = Bare(registering(lab))

        async def unload(Flags: int) -> int:
            victim = first.Filter if who == "foreign" else second.Filter
            assert victim is not None
            await FltUnregisterFilter(victim)
            if who == "twice":
                await FltUnregisterFilter(victim)
            return STATUS_SUCCESS

        second.registration.FilterUnloadCallback = unload
        await (await lab.load(second, LOWER)).unload()

    assert run(script).code == code


@pytest.mark.rule("FLT-REG-06")
@pytest.mark.parametrize("major", [IRP_MJ_POWER, IRP_MJ_DEVICE_CHANGE])
def test_majors_that_no_file_system_receives(major: int) -> None:
    async def script(lab: Lab) -> None:
        entry = FLT_OPERATION_REGISTRATION(major, 0, lab.pre("A"))
        await lab.load(Bare(registering(lab, entry)), UPPER)

    assert run(script).code == "reg-illegal-major"


@pytest.mark.rule("FLT-REG-07")
@pytest.mark.parametrize("with_post", [False, True])
def test_shutdown_has_no_post(with_post: bool) -> None:
    async def script(lab: Lab) -> None:
        entry = FLT_OPERATION_REGISTRATION(IRP_MJ_SHUTDOWN, 0, lab.pre("A"), lab.post("A") if with_post else None)
        await lab.load(Bare(registering(lab, entry)), UPPER)

    assert run(script).code == ("reg-shutdown-postop" if with_post else None)


@pytest.mark.rule("FLT-REG-08", "FLT-PRE-28")
@pytest.mark.parametrize("second", [IRP_MJ_WRITE, IRP_MJ_READ])
def test_one_routine_may_serve_several_majors_but_a_major_has_one_entry(second: int) -> None:
    async def script(lab: Lab) -> None:
        pre, post = lab.pre("A"), lab.post("A")
        entries = [FLT_OPERATION_REGISTRATION(major, 0, pre, post) for major in (IRP_MJ_READ, second)]
        await lab.load(Bare(registering(lab, *entries)), UPPER)
        file = await lab.open()
        await file.read(1)
        await file.write(b"x")

    one = run(script)
    if second == IRP_MJ_READ:
        assert one.code == "reg-duplicate-major"
    else:
        assert one.code is None
        assert one.order == ["A.pre", "A.post"] * 2


@pytest.mark.rule("FLT-REG-09")
def test_a_major_that_never_comes_is_no_error() -> None:
    async def script(lab: Lab) -> None:
        await lab.recorder("A", UPPER, IRP_MJ_QUERY_EA, IRP_MJ_OPERATION_END + 1)
        await (await lab.open()).close()

    one = run(script)
    assert (one.code, one.order) == (None, [])


CACHED, PAGING, NONCACHED, FAST, OTHER = "cached", "paging", "noncached", "fast", "other"
FLAGS = {
    CACHED: 0,
    PAGING: IRP_PAGING_IO | IRP_NOCACHE,
    NONCACHED: IRP_NOCACHE,
    FAST: IRP_NOCACHE,
    OTHER: IRP_PAGING_IO,
}


@pytest.mark.rule("FLT-REG-10", "FLT-REG-11", "FLT-REG-12", "FLT-REG-13")
@pytest.mark.parametrize("major", [IRP_MJ_READ, IRP_MJ_WRITE])
@pytest.mark.parametrize(
    ("flag", "seen"),
    [
        (0, {CACHED, PAGING, NONCACHED, FAST, OTHER}),
        (FLTFL_OPERATION_REGISTRATION_SKIP_PAGING_IO, {CACHED, NONCACHED, FAST, OTHER}),
        (FLTFL_OPERATION_REGISTRATION_SKIP_CACHED_IO, {PAGING, NONCACHED, OTHER}),
        # No handle of kemu's is one of a volume, so that this bypasses everything.
        (FLTFL_OPERATION_REGISTRATION_SKIP_NON_DASD_IO, set[str]()),
        (FLTFL_OPERATION_REGISTRATION_SKIP_NON_CACHED_NON_PAGING_IO, {CACHED, PAGING, FAST, OTHER}),
        (
            FLTFL_OPERATION_REGISTRATION_SKIP_PAGING_IO
            | FLTFL_OPERATION_REGISTRATION_SKIP_CACHED_IO
            | FLTFL_OPERATION_REGISTRATION_SKIP_NON_CACHED_NON_PAGING_IO,
            {OTHER},
        ),
    ],
)
def test_skip_flags_bypass_both_callbacks(major: int, flag: int, seen: set[str]) -> None:
    async def script(lab: Lab) -> set[str]:
        majors = (major, IRP_MJ_CLOSE)
        found: set[str] = set()
        await lab.filter(
            "A",
            UPPER,
            dict.fromkeys(majors, (lab.pre("A"), lab.post("A"))),
            flags=dict.fromkeys(majors, flag),
        )
        file = await lab.quiet_open()
        for what, irp_flags in FLAGS.items():
            kind = FAST_IO_OPERATION if what == FAST else 1
            lab.notes.clear()
            # OTHER is no read or write: the flags about those say nothing about it, whatever its IRP flags.
            await lab.send(
                lab.request(file, IRP_MJ_CLOSE if what == OTHER else major, kind=kind, flags=irp_flags, Length=1)
            )
            notes = [note.what for note in lab.notes]
            assert notes in ([], ["A.pre", "A.post"])
            if notes:
                found.add(what)
        return found

    assert run(script).result == seen


@pytest.mark.rule("FLT-REG-10")
def test_skip_paging_says_nothing_about_what_is_no_irp() -> None:
    async def script(lab: Lab) -> None:
        pair = (lab.pre("A"), lab.post("A"))
        skip = FLTFL_OPERATION_REGISTRATION_SKIP_PAGING_IO
        await lab.filter(
            "A", UPPER, {IRP_MJ_READ: pair, IRP_MJ_QUERY_OPEN: pair}, flags={IRP_MJ_READ: skip, IRP_MJ_QUERY_OPEN: skip}
        )
        file = await lab.quiet_open()
        await lab.send(lab.request(file, IRP_MJ_READ, kind=FAST_IO_OPERATION, flags=IRP_PAGING_IO, Length=1))
        await lab.send(lab.request(file, IRP_MJ_QUERY_OPEN, kind=FS_FILTER_OPERATION, flags=IRP_PAGING_IO))

    assert run(script).order == ["A.pre", "A.post"] * 2


@pytest.mark.rule("FLT-REG-14", "FLT-UNLOAD-04")
def test_what_the_optional_callbacks_stand_for() -> None:
    async def script(lab: Lab) -> Sequence[int]:
        # No InstanceSetup: attach. No InstanceQueryTeardown: no manual detach. No FilterUnload: no unload.
        rigid = await lab.filter("A", UPPER, {}, FilterUnloadCallback=None, InstanceQueryTeardownCallback=None)
        assert len(rigid.filter.instances) == 1
        # No teardown callbacks: the teardown happens all the same.
        loose = await lab.filter("B", LOWER, {})
        return [
            await rigid.detach(), await rigid.unload(), await rigid.unload(mandatory=True), await loose.detach(),
            len(rigid.filter.instances), len(loose.filter.instances),
        ]  # fmt: skip

    refused = STATUS_FLT_DO_NOT_DETACH
    assert run(script).result == [refused, refused, refused, STATUS_SUCCESS, 1, 0]


@pytest.mark.rule("FLT-REG-15", "FLT-UNLOAD-03")
@pytest.mark.parametrize("flags", [0, FLTFL_REGISTRATION_DO_NOT_SUPPORT_SERVICE_STOP])
def test_a_filter_that_does_not_support_a_service_stop(flags: int) -> None:
    async def script(lab: Lab) -> Sequence[int]:
        filter_ = await lab.filter("A", UPPER, {}, Flags=flags)
        statuses = [await filter_.unload(mandatory=True)]
        if statuses[0] != STATUS_SUCCESS:
            statuses.append(await filter_.unload())
        return statuses

    assert run(script).result == ([STATUS_FLT_DO_NOT_DETACH, STATUS_SUCCESS] if flags else [STATUS_SUCCESS])


@pytest.mark.rule("FLT-REG-01", "FLT-REG-16")
def test_nothing_is_filtered_before_the_start() -> None:
    async def script(lab: Lab) -> list[Any]:
        found: list[Any] = []

        class Waits(Driver):
            async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
                entry = FLT_OPERATION_REGISTRATION(IRP_MJ_CREATE, 0, lab.pre("A"), lab.post("A"))
                status, filter_ = await FltRegisterFilter(DriverObject, registering(lab, entry))
                assert filter_ is not None
                found.append(list(filter_.instances))
                (volume,) = lab.manager.volumes
                attached, _ = await lab.manager.attach(filter_, volume, "5", automatic=False)
                found.append(attached)
                await lab.open()
                found.append(list(lab.notes))
                found.append(await FltStartFiltering(filter_))
                found.append(len(filter_.instances))
                return status

        await lab.load(Waits(), UPPER)
        return found

    one = run(script)
    assert one.code is None
    assert one.result == [[], STATUS_FLT_FILTER_NOT_READY, [], STATUS_SUCCESS, 1]


@pytest.mark.rule("FLT-REG-01")
def test_a_driver_that_never_starts() -> None:
    async def script(lab: Lab) -> None:
        await lab.load(Bare(registering(lab), starts=False), UPPER)

    assert run(script).code == "reg-order"


@pytest.mark.rule("FLT-REG-17", "FLT-INST-07")
def test_callbacks_may_come_before_the_start_has_returned_and_never_before_setup() -> None:
    async def script(lab: Lab) -> None:
        async def setup(FltObjects: FLT_RELATED_OBJECTS, Flags: int, DeviceType: int, FilesystemType: int) -> int:
            lab.note("setup")
            return STATUS_SUCCESS

        class Notes(Minifilter):
            async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
                status = await super().DriverEntry(DriverObject, RegistryPath)
                lab.note("started")
                return status

        async def start() -> None:
            callbacks = {IRP_MJ_READ: (lab.pre("A"), lab.post("A"))}
            await lab.load(Notes("A", callbacks, InstanceSetupCallback=setup), UPPER)

        file = await lab.quiet_open()

        async def reader() -> None:
            await file.read(1)

        await lab.together(start(), reader())

    runs = all_runs(script)
    assert codes(runs) == {None}
    # The read comes before the attachment, before the return of FltStartFiltering, after it, and around it.
    assert orders(runs) == {
        ("setup", "started"),
        ("setup", "A.pre", "A.post", "started"),
        ("setup", "started", "A.pre", "A.post"),
        ("setup", "A.pre", "started", "A.post"),
    }


@pytest.mark.rule("FLT-REG-19")
def test_starting_twice() -> None:
    async def script(lab: Lab) -> Sequence[int]:
        driver = Bare(registering(lab))
        await lab.load(driver, UPPER)
        assert driver.Filter is not None
        return [await FltStartFiltering(driver.Filter), len(driver.Filter.instances)]

    assert run(script).result == [STATUS_INVALID_PARAMETER, 1]


@pytest.mark.rule("FLT-REG-21", "FLT-REG-22", "FLT-UNLOAD-05")
@pytest.mark.parametrize(
    ("cleans", "code"), [("both", None), ("memory", "driverentry-fail-leak"), ("filter", "driverentry-fail-leak")]
)
def test_a_driver_entry_that_fails_cleans_up_itself(cleans: str, code: str | None) -> None:
    async def script(lab: Lab) -> int:
        class Fails(Driver):
            async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
                block = await ExAllocatePool2(POOL_FLAG_NON_PAGED, 16, "Fail")
                status, filter_ = await FltRegisterFilter(
                    DriverObject, registering(lab, FilterUnloadCallback=self.Unload)
                )
                assert filter_ is not None
                await FltStartFiltering(filter_)
                if cleans in {"both", "filter"}:
                    await FltUnregisterFilter(filter_)
                if cleans in {"both", "memory"}:
                    await ExFreePoolWithTag(block, "Fail")
                return STATUS_UNSUCCESSFUL if status == STATUS_SUCCESS else STATUS_INSUFFICIENT_RESOURCES

            async def Unload(self, Flags: int) -> int:
                lab.note("unload")
                return STATUS_SUCCESS

        loaded = await lab.load(Fails(), UPPER)
        assert not loaded.driver_object.loaded
        return loaded.status

    one = run(script)
    assert one.code == code
    assert one.order == []
    if code is None:
        assert one.result == STATUS_UNSUCCESSFUL


@pytest.mark.rule("FLT-REG-14", "FLT-INST-03")
def test_a_filter_that_does_not_want_the_volume() -> None:
    async def script(lab: Lab) -> int:
        async def setup(FltObjects: FLT_RELATED_OBJECTS, Flags: int, DeviceType: int, FilesystemType: int) -> int:
            return STATUS_UNSUCCESSFUL

        loaded = await lab.filter("A", MIDDLE, {IRP_MJ_READ: (lab.pre("A"), None)}, InstanceSetupCallback=setup)
        await (await lab.open()).read(1)
        return len(loaded.filter.instances)

    one = run(script)
    assert (one.code, one.result, one.order) == (None, 0, [])


@pytest.mark.rule("FLT-REG-18", "FLT-RACE-35")
@pytest.mark.parametrize(("first", "expected"), [(True, {None}), (False, {None, "start-before-init"})])
def test_what_callbacks_use_is_initialised_before_the_start(first: bool, expected: set[str | None]) -> None:
    async def script(lab: Lab) -> None:
        mutex = FAST_MUTEX("Mutex")

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await ExAcquireFastMutex(mutex)
            await ExReleaseFastMutex(mutex)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        class Starts(Minifilter):
            async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
                if first:
                    ExInitializeFastMutex(mutex)
                status = await super().DriverEntry(DriverObject, RegistryPath)
                if not first:
                    ExInitializeFastMutex(mutex)
                return status

        file = await lab.quiet_open()

        async def reader() -> None:
            await file.read(1)

        async def start() -> None:
            await lab.load(Starts("A", {IRP_MJ_READ: (pre, None)}), UPPER)

        await lab.together(reader(), start())

    assert codes(all_runs(script)) == expected
