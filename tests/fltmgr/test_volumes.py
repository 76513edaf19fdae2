"""Several volumes: mounting, the first operation, dismounting, handles of volumes, and what volumes tell."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, UPPER, Lab, all_runs, codes, run

from kemu.errors import ScenarioError
from kemu.fltmgr.instance_constants import FLT_FSTYPE_UNKNOWN
from kemu.io.constants import IRP_MJ_CLEANUP, IRP_MJ_CLOSE, IRP_MJ_CREATE, IRP_MJ_READ
from kemu.scenario.world import LoadedDriver
from kemu.wdk.fltkernel import (
    FILE_DEVICE_CD_ROM_FILE_SYSTEM,
    FILE_DEVICE_DISK_FILE_SYSTEM,
    FILE_DEVICE_NETWORK_FILE_SYSTEM,
    FLT_CALLBACK_DATA,
    FLT_FSTYPE_CDFS,
    FLT_FSTYPE_FAT,
    FLT_FSTYPE_LANMAN,
    FLT_FSTYPE_NTFS,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FLTFL_INSTANCE_SETUP_AUTOMATIC_ATTACHMENT,
    FLTFL_INSTANCE_SETUP_DETACHED_VOLUME,
    FLTFL_INSTANCE_SETUP_DEV_VOLUME,
    FLTFL_INSTANCE_SETUP_MANUAL_ATTACHMENT,
    FLTFL_INSTANCE_SETUP_NEWLY_MOUNTED_VOLUME,
    FLTFL_INSTANCE_SETUP_TRUSTED_VOLUME,
    FLTFL_INSTANCE_TEARDOWN_INTERNAL_ERROR,
    FLTFL_INSTANCE_TEARDOWN_MANUAL,
    FLTFL_INSTANCE_TEARDOWN_VOLUME_DISMOUNT,
    FLTFL_OPERATION_REGISTRATION_SKIP_NON_DASD_IO,
    FLTFL_REGISTRATION_SUPPORT_DAX_VOLUME,
    FLTFL_REGISTRATION_SUPPORT_NPFS_MSFS,
    FLTFL_VSI_DETACHED_VOLUME,
    FilterVolumeBasicInformation,
    FilterVolumeStandardInformation,
    FltEnumerateVolumes,
    FltGetDeviceObject,
    FltGetDiskDeviceObject,
    FltGetFileSystemType,
    FltGetVolumeGuidName,
    FltGetVolumeInformation,
    FltGetVolumeName,
    FltGetVolumeProperties,
    FltIsVolumeWritable,
    FltObjectDereference,
    FltObjectReference,
)
from kemu.wdk.ntstatus import (
    STATUS_BUFFER_TOO_SMALL,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_FLT_NO_DEVICE_OBJECT,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS,
    STATUS_VOLUME_DISMOUNTED,
)
from kemu.wdk.wdm import UNICODE_STRING, ObDereferenceObject, RtlInitEmptyUnicodeString

NEW = FLTFL_INSTANCE_SETUP_AUTOMATIC_ATTACHMENT | FLTFL_INSTANCE_SETUP_NEWLY_MOUNTED_VOLUME


async def noting(lab: Lab, name: str = "D", altitude: str = LOWER, **more: Any) -> LoadedDriver:
    """A filter whose setup and teardown callbacks note what they are told."""

    async def setup(FltObjects: FLT_RELATED_OBJECTS, Flags: int, DeviceType: int, FilesystemType: int) -> int:
        lab.note(f"{name} setup {FltObjects.Volume.label}", (Flags, DeviceType, FilesystemType))
        return STATUS_SUCCESS

    async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        lab.note(f"{name} start {FltObjects.Volume.label}", Reason)

    async def complete(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
        lab.note(f"{name} complete {FltObjects.Volume.label}", Reason)

    callbacks = more.pop("callbacks", {})
    return await lab.filter(
        name,
        altitude,
        callbacks,
        InstanceSetupCallback=setup,
        InstanceTeardownStartCallback=start,
        InstanceTeardownCompleteCallback=complete,
        **more,
    )


# Mounting.


@pytest.mark.rule("FLT-INST-01", "FLT-INST-02", "FLT-INST-04", "FLT-INST-38")
def test_a_new_volume_is_offered_with_its_first_operation_to_the_highest_filter_first() -> None:
    async def script(lab: Lab) -> list[bool]:
        await noting(lab, "Lower", LOWER)
        await noting(lab, "Upper", UPPER)
        lab.notes.clear()
        volume = lab.add_volume("D:")
        before = bool(lab.notes)
        await (await lab.app.open(r"D:\x")).close()
        await (await lab.app.open(r"D:\y")).close()
        return [before, len(lab.flt_volume(volume).instances) == 2]

    one = run(script)
    assert (one.code, one.result) == (None, [False, True])
    assert one.order == ["Upper setup D:", "Lower setup D:"]
    assert {note.value for note in one.notes} == {(NEW, FILE_DEVICE_DISK_FILE_SYSTEM, FLT_FSTYPE_NTFS)}
    assert NEW == 0x5
    assert (
        FLTFL_INSTANCE_SETUP_DETACHED_VOLUME,
        FLTFL_INSTANCE_SETUP_DEV_VOLUME,
        FLTFL_INSTANCE_SETUP_TRUSTED_VOLUME,
    ) == (0x8, 0x10, 0x20)


@pytest.mark.rule("FLT-INST-02", "FLT-INST-07")
def test_whatever_comes_first_waits_until_every_filter_has_been_asked_once() -> None:
    async def script(lab: Lab) -> None:
        async def setup(*arguments: Any) -> int:
            lab.note("setup begins")
            await lab.step("in setup")
            lab.note("setup ends")
            return STATUS_SUCCESS

        pre = lab.pre("D", FLT_PREOP_SUCCESS_NO_CALLBACK)
        await lab.filter("D", LOWER, {IRP_MJ_CREATE: (pre, None)}, InstanceSetupCallback=setup)
        lab.add_volume("D:")
        lab.notes.clear()

        async def opener(path: str) -> None:
            status, _ = await lab.app.create(path)
            lab.check(status == STATUS_SUCCESS, path)

        await lab.together(opener(r"D:\x"), opener(r"D:\y"))

    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    assert {tuple(one.order) for one in runs} == {("setup begins", "setup ends", "D.pre", "D.pre")}
    assert {note.thread for one in runs for note in one.notes if note.what == "setup begins"} == {"opener", "opener#2"}


@pytest.mark.rule("FLT-INST-02", "FLT-INST-08")
def test_what_setup_itself_does_with_the_volume_does_not_wait_for_its_end() -> None:
    async def script(lab: Lab) -> None:
        async def setup(FltObjects: FLT_RELATED_OBJECTS, *arguments: Any) -> int:
            lab.note(f"setup {FltObjects.Volume.label}")
            await (await lab.app.open(r"D:\settings.ini")).close()
            lab.note("has read")
            return STATUS_SUCCESS

        lab.add_volume("D:")
        pre = lab.pre("D", FLT_PREOP_SUCCESS_NO_CALLBACK)
        driver = await lab.filter("D", LOWER, {IRP_MJ_CREATE: (pre, None)}, InstanceSetupCallback=setup)
        await driver.detach()
        lab.add_volume("E:")
        lab.notes.clear()
        await lab.app.open(r"E:\x")

    one = run(script)
    assert one.code is None
    # The settings are on a volume that it is attached to.
    assert one.order == ["setup E:", "D.pre", "has read", "D.pre"]


@pytest.mark.rule("FLT-INST-02")
def test_setup_may_open_a_file_on_the_volume_that_it_is_asked_about() -> None:
    async def script(lab: Lab) -> None:
        async def setup(FltObjects: FLT_RELATED_OBJECTS, *arguments: Any) -> int:
            if FltObjects.Volume.label == "D:":
                await (await lab.app.open(r"D:\settings.ini")).close()
                lab.note("has read")
            return STATUS_SUCCESS

        pre = lab.pre("D", FLT_PREOP_SUCCESS_NO_CALLBACK)
        await lab.filter("D", LOWER, {IRP_MJ_CREATE: (pre, None)}, InstanceSetupCallback=setup)
        lab.add_volume("D:")
        await lab.app.open(r"D:\x")

    one = run(script)
    # No callback of the instance's own before it is attached.
    assert (one.code, one.order) == (None, ["has read", "D.pre"])


@pytest.mark.rule("FLT-INST-02")
def test_a_filter_that_starts_after_the_mount_is_asked_at_its_start() -> None:
    async def script(lab: Lab) -> None:
        await noting(lab, "Early", UPPER)
        lab.add_volume("D:")
        await noting(lab, "Late", LOWER)
        lab.notes.append(lab.notes[0])
        await lab.app.open(r"D:\x")

    one = run(script)
    assert one.order == ["Early setup C:", "Late setup C:", "Late setup D:", "Early setup C:", "Early setup D:"]
    assert one.note("Late setup D:").value[0] == FLTFL_INSTANCE_SETUP_AUTOMATIC_ATTACHMENT


@pytest.mark.rule("FLT-INST-05")
@pytest.mark.parametrize(
    ("filesystem", "told"),
    [
        ("FAT", (FILE_DEVICE_DISK_FILE_SYSTEM, FLT_FSTYPE_FAT)),
        ("CDFS", (FILE_DEVICE_CD_ROM_FILE_SYSTEM, FLT_FSTYPE_CDFS)),
        ("SMB", (FILE_DEVICE_NETWORK_FILE_SYSTEM, FLT_FSTYPE_LANMAN)),
    ],
)
def test_setup_is_told_what_kind_of_volume_it_is(filesystem: str, told: tuple[int, int]) -> None:
    async def script(lab: Lab) -> None:
        lab.add_volume("D:", filesystem)
        await noting(lab)

    assert run(script).note("D setup D:").value[1:] == told
    # As in devioctl.h, where 2 is the device itself.
    assert (FILE_DEVICE_CD_ROM_FILE_SYSTEM, FILE_DEVICE_NETWORK_FILE_SYSTEM, FLT_FSTYPE_UNKNOWN) == (0x3, 0x14, 0)


@pytest.mark.rule("FLT-REG-15")
@pytest.mark.parametrize(
    ("filesystem", "flag"),
    [("NPFS", FLTFL_REGISTRATION_SUPPORT_NPFS_MSFS), ("DAX", FLTFL_REGISTRATION_SUPPORT_DAX_VOLUME)],
)
def test_some_volumes_are_offered_only_to_filters_that_support_them(filesystem: str, flag: int) -> None:
    async def script(lab: Lab) -> None:
        lab.add_volume("D:", filesystem)
        await noting(lab, "Plain", UPPER)
        await noting(lab, "Able", LOWER, Flags=flag)

    assert run(script).order == ["Plain setup C:", "Able setup C:", "Able setup D:"]
    assert (FLTFL_REGISTRATION_SUPPORT_NPFS_MSFS, FLTFL_REGISTRATION_SUPPORT_DAX_VOLUME) == (0x2, 0x4)


@pytest.mark.rule("FLT-STACK-01")
def test_an_instance_sees_the_operations_of_its_volume_only() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            lab.note(FltObjects.Volume.label, FltObjects.Instance)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        lab.add_volume("D:")
        await lab.filter("D", LOWER, {IRP_MJ_CREATE: (pre, None)})
        await lab.app.open(r"D:\x")
        await lab.app.open(r"C:\x")

    one = run(script)
    assert one.order == ["D:", "C:"]
    assert one.notes[0].value is not one.notes[1].value


def test_what_cannot_be_mounted() -> None:
    async def script(lab: Lab) -> list[str]:
        said: list[str] = []
        for name, filesystem in (("D", "NTFS"), ("D:", "ext4"), ("c:", "NTFS")):
            try:
                lab.add_volume(name, filesystem)
            except ScenarioError as error:
                said.append(str(error))
        return said

    name, filesystem, mounted = run(script).result
    assert "'D' is no name of a volume" in name
    assert "there is no file system 'ext4'" in filesystem
    assert "c: is mounted already" in mounted


# Handles of volumes.


@pytest.mark.rule("FLT-REG-12")
def test_skip_non_dasd_io_leaves_what_is_issued_on_a_handle_of_the_volume() -> None:
    async def script(lab: Lab) -> list[int]:
        majors: tuple[int, ...] = (IRP_MJ_CREATE, IRP_MJ_READ, IRP_MJ_CLEANUP, IRP_MJ_CLOSE)
        pair = (lab.pre("D"), lab.post("D"))
        skip: dict[int, int] = dict.fromkeys(majors, FLTFL_OPERATION_REGISTRATION_SKIP_NON_DASD_IO)
        await lab.filter("D", LOWER, dict.fromkeys(majors, pair), flags=skip)
        counts: list[int] = []
        for path in (r"\a", r"\\.\C:"):
            lab.notes.clear()
            file = await lab.open(path)
            status, data = await file.read(512)
            assert status == STATUS_SUCCESS
            assert len(data) == (10 if path == r"\a" else 512)
            await file.close()
            counts.append(len(lab.notes))
        return counts

    assert run(script).result == [0, 8]


@pytest.mark.rule("FLT-REG-12")
def test_programs_open_a_volume_by_its_win32_name() -> None:
    async def script(lab: Lab) -> tuple[int, str]:
        lab.add_volume("D:")
        status, _, handle = await lab.app.win32.native.NtCreateFile(0x100001, r"\\.\D:", 0, 7, 1, 0x20)
        assert handle is not None
        return status, handle.object.volume.dos_name

    assert run(script).result == (STATUS_SUCCESS, "D:")


# Dismounting.


@pytest.mark.rule("FLT-INST-36", "FLT-INST-15", "FLT-INST-35", "FLT-INST-16")
def test_after_a_dismount_the_instances_stay_until_the_last_file_is_closed() -> None:
    async def script(lab: Lab) -> list[Any]:
        volume = lab.add_volume("D:")
        driver = await noting(lab)
        file = await lab.app.open(r"D:\x")
        flt_volume = lab.flt_volume(volume)
        lab.notes.clear()
        found: list[Any] = [await lab.dismount(volume), len(flt_volume.instances), lab.notes[:]]
        status, volumes, number = await FltEnumerateVolumes(driver.filter, 5)
        found += [status, [one.label for one in volumes], number]
        for one in volumes:
            _, information, _ = await FltGetVolumeInformation(one, FilterVolumeStandardInformation, 1000)
            found.append(information.Flags)  # type: ignore[union-attr]
            await FltObjectDereference(one)
        found.append((await file.read(1))[0])
        await file.close()
        return found

    runs = all_runs(script, bound=1)
    assert codes(runs) == {None}
    for one in runs:
        assert one.result == [
            STATUS_SUCCESS, 1, [], STATUS_SUCCESS, ["C:", "D:"], 2, 0, FLTFL_VSI_DETACHED_VOLUME,
            STATUS_VOLUME_DISMOUNTED,
        ]  # fmt: skip
        assert one.order == ["D start D:", "D complete D:"]
        assert {(note.value, note.irql, note.thread) for note in one.notes} == {
            (FLTFL_INSTANCE_TEARDOWN_VOLUME_DISMOUNT, 0, "dismount:D:")
        }
    assert (FLTFL_INSTANCE_TEARDOWN_VOLUME_DISMOUNT, FLTFL_INSTANCE_TEARDOWN_INTERNAL_ERROR) == (0x8, 0x10)


@pytest.mark.rule("FLT-INST-36", "FLT-INST-14")
def test_an_instance_on_a_dismounted_volume_may_be_detached_and_the_dismount_asks_nobody() -> None:
    async def script(lab: Lab) -> list[Any]:
        async def query(FltObjects: FLT_RELATED_OBJECTS, Flags: int) -> int:
            lab.note("query")
            return STATUS_SUCCESS

        volume = lab.add_volume("D:")
        one = await noting(lab, "One", UPPER, InstanceQueryTeardownCallback=query)
        await noting(lab, "Two", LOWER, InstanceQueryTeardownCallback=query)
        file = await lab.app.open(r"D:\x")
        await lab.dismount(volume)
        lab.notes.clear()
        found = [await one.detach(volume)]
        await file.close()
        return found

    one = run(script)
    assert one.result == [STATUS_SUCCESS]
    assert one.order == ["query", "One start D:", "One complete D:", "Two start D:", "Two complete D:"]
    assert one.note("One start D:").value == FLTFL_INSTANCE_TEARDOWN_MANUAL


@pytest.mark.rule("FLT-INST-04", "FLT-INST-35")
def test_a_name_may_be_that_of_a_dismounted_volume_and_of_a_mounted_one() -> None:
    async def script(lab: Lab) -> list[Any]:
        old = lab.add_volume("D:")
        driver = await noting(lab)
        file = await lab.app.open(r"D:\x")
        await lab.dismount(old)
        new = lab.add_volume("D:")
        await lab.app.open(r"D:\x")
        lab.notes.clear()
        _, volumes, _ = await FltEnumerateVolumes(driver.filter, 5)
        for one in volumes:
            await FltObjectDereference(one)
        found: list[Any] = [[one.label for one in volumes], new.filesystem.find(r"\x") is not None]
        await driver.detach(old)
        found.append(await lab.attach(driver, LOWER, old))
        await file.close()
        return found

    one = run(script)
    assert one.result == [["C:", "D:", "D:"], True, STATUS_SUCCESS]
    flags = FLTFL_INSTANCE_SETUP_MANUAL_ATTACHMENT | FLTFL_INSTANCE_SETUP_DETACHED_VOLUME
    assert one.note("D setup D:").value[0] == flags


@pytest.mark.rule("FLT-INST-31", "FLT-REF-03", "FLT-REF-01")
@pytest.mark.parametrize("drops", [True, False])
def test_a_volume_is_freed_when_its_last_reference_is_dropped(drops: bool) -> None:
    async def script(lab: Lab) -> list[Any]:
        volume = lab.add_volume("D:")
        driver = await noting(lab)
        flt_volume = lab.flt_volume(volume)
        file = await lab.app.open(r"D:\x")
        await FltObjectReference(flt_volume)
        await lab.dismount(volume)
        await file.close()
        await lab.sleep(1)
        found = [await FltObjectReference(flt_volume), await lab.attach(driver, LOWER, volume)]
        if drops:
            await FltObjectDereference(flt_volume)
        return found

    one = run(script)
    assert one.code == (None if drops else "ref-leak")
    assert one.order[-2:] == ["D start D:", "D complete D:"]
    assert one.result == [STATUS_FLT_DELETING_OBJECT, STATUS_FLT_DELETING_OBJECT]


# What a volume tells.


@pytest.mark.rule("FLT-INST-08", "FLT-INST-05")
def test_the_properties_of_a_volume_can_be_asked_for_in_setup_without_an_operation() -> None:
    async def script(lab: Lab) -> None:
        async def setup(FltObjects: FLT_RELATED_OBJECTS, *arguments: Any) -> int:
            status, properties, length = await FltGetVolumeProperties(FltObjects.Volume, 0)
            assert (status, properties) == (STATUS_BUFFER_TOO_SMALL, None)
            status, properties, _ = await FltGetVolumeProperties(FltObjects.Volume, length)
            lab.note(FltObjects.Volume.label, (status, properties))
            return STATUS_SUCCESS

        callbacks = {IRP_MJ_CREATE: (lab.pre("D"), lab.post("D"))}
        await lab.filter("D", LOWER, callbacks, InstanceSetupCallback=setup)
        lab.add_volume("D:", "CDFS")
        await lab.app.open(r"D:\x")

    one = run(script)
    assert one.order == ["C:", "D:", "D.pre", "D.post"]
    status, properties = one.note("D:").value
    assert (status, properties.DeviceType, properties.SectorSize) == (STATUS_SUCCESS, 0x3, 512)
    assert properties.RealDeviceName == r"\Device\CdRom2"
    assert properties.FileSystemDriverName == r"\FileSystem\CDFS"


def test_names_of_volumes() -> None:
    async def script(lab: Lab) -> list[Any]:
        flt_volume = lab.flt_volume(lab.volume)
        network = lab.flt_volume(lab.add_volume("N:", "SMB"))
        found: list[Any] = [await FltGetVolumeName(flt_volume, None)]
        name = UNICODE_STRING()
        RtlInitEmptyUnicodeString(name, bytearray(200), 200)
        found += [await FltGetVolumeName(flt_volume, name), str(name)]
        found += [await FltGetVolumeGuidName(flt_volume, name), str(name)]
        RtlInitEmptyUnicodeString(name, bytearray(10), 10)
        found += [(await FltGetVolumeGuidName(flt_volume, name))[0], await FltGetVolumeGuidName(network, name)]
        return found

    device, guid = r"\Device\HarddiskVolume1", r"\??\Volume{00000000-0000-0000-0000-000000000001}"
    assert run(script).result == [
        (STATUS_BUFFER_TOO_SMALL, 2 * len(device)),
        (STATUS_SUCCESS, 2 * len(device)), device,
        (STATUS_SUCCESS, 2 * len(guid)), guid,
        STATUS_BUFFER_TOO_SMALL, (STATUS_INVALID_DEVICE_REQUEST, 0),
    ]  # fmt: skip


def test_what_else_can_be_asked_of_a_volume_or_an_instance() -> None:
    async def script(lab: Lab) -> list[Any]:
        disc = lab.add_volume("D:", "CDFS")
        driver = await lab.filter("F", LOWER, {})
        volume, flt_disc = lab.flt_volume(lab.volume), lab.flt_volume(disc)
        instance = volume.instances[0]
        assert driver.filter.instances[0] is instance
        return [
            await FltIsVolumeWritable(volume),
            await FltIsVolumeWritable(instance),
            await FltIsVolumeWritable(flt_disc),
            await FltGetFileSystemType(instance),
            await FltGetFileSystemType(flt_disc),
            (await FltGetVolumeInformation(volume, FilterVolumeBasicInformation, 100))[1].FilterVolumeName,  # type: ignore[union-attr]
            await FltGetVolumeInformation(volume, FilterVolumeBasicInformation, 10),
            (await FltGetVolumeInformation(volume, 9, 100))[0],
        ]

    assert run(script).result == [
        (STATUS_SUCCESS, True), (STATUS_SUCCESS, True), (STATUS_SUCCESS, False),
        (STATUS_SUCCESS, FLT_FSTYPE_NTFS), (STATUS_SUCCESS, FLT_FSTYPE_CDFS),
        r"\Device\HarddiskVolume1", (STATUS_BUFFER_TOO_SMALL, None, 2 + 2 * 23), STATUS_INVALID_PARAMETER,
    ]  # fmt: skip


@pytest.mark.parametrize("routine", [FltIsVolumeWritable, FltGetFileSystemType])
def test_a_filter_is_no_volume(routine: Any) -> None:
    async def script(lab: Lab) -> None:
        await routine((await lab.filter("F", LOWER, {})).filter)

    assert run(script).code == "ke.bad-pointer"


@pytest.mark.parametrize(("drops", "warnings"), [(True, ()), (False, ("ob.ref-leak",) * 2)])
def test_the_device_objects_of_a_volume_are_referenced(drops: bool, warnings: tuple[str, ...]) -> None:
    async def script(lab: Lab) -> list[Any]:
        network = lab.flt_volume(lab.add_volume("N:", "SMB"))
        volume = lab.flt_volume(lab.volume)

        async def setup(*arguments: Any) -> int:
            if lab.notes:
                return STATUS_SUCCESS
            status, device = await FltGetDeviceObject(volume)
            _, disk = await FltGetDiskDeviceObject(volume)
            assert device is not None
            assert disk is not None
            lab.note("devices", (status, device.device_name, disk.device_name))
            if drops:
                await ObDereferenceObject(device)
                await ObDereferenceObject(disk)
            return STATUS_SUCCESS

        driver = await lab.filter("F", LOWER, {}, InstanceSetupCallback=setup)
        await driver.unload()
        return [await FltGetDiskDeviceObject(network)]

    one = run(script)
    assert one.warnings == warnings
    assert one.result == [(STATUS_FLT_NO_DEVICE_OBJECT, None)]
    assert one.notes[0].value == (STATUS_SUCCESS, r"\Device\HarddiskVolume1", r"\Device\Harddisk0\DR0")
