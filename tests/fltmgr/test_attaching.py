"""Attaching and detaching by drivers themselves, instances of service keys, loading and unloading by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, Minifilter, all_runs, codes, run

from kemu.errors import ScenarioError
from kemu.fltmgr.altitude import GROUPS, group_of, is_within
from kemu.fltmgr.service import InstanceDefinition
from kemu.io.constants import IRP_MJ_CREATE, IRP_MJ_READ
from kemu.nt.kthread import APC_LEVEL, current_kthread
from kemu.scenario.world import LoadedDriver
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FLTFL_INSTANCE_SETUP_MANUAL_ATTACHMENT,
    INSTANCE_NAME_MAX_CHARS,
    FltAttachVolume,
    FltAttachVolumeAtAltitude,
    FltCompareInstanceAltitudes,
    FltDetachVolume,
    FltGetRoutineAddress,
    FltLoadFilter,
    FltObjectDereference,
    FltUnloadFilter,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import (
    STATUS_DRIVER_FAILED_PRIOR_UNLOAD,
    STATUS_FAILED_DRIVER_ENTRY,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_FLT_DO_NOT_ATTACH,
    STATUS_FLT_DO_NOT_DETACH,
    STATUS_FLT_FILTER_NOT_FOUND,
    STATUS_FLT_INSTANCE_ALTITUDE_COLLISION,
    STATUS_FLT_INSTANCE_NAME_COLLISION,
    STATUS_FLT_INSTANCE_NOT_FOUND,
    STATUS_IMAGE_ALREADY_LOADED,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_NAME_COLLISION,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    UNICODE_STRING,
    KeGetCurrentIrql,
    MmGetSystemRoutineAddress,
    RtlInitUnicodeString,
)

TOP = InstanceDefinition("Top", UPPER)
MID = InstanceDefinition("Mid", MIDDLE, 0x1)
LOW = InstanceDefinition("Low", LOWER, 0x2)


async def with_instances(lab: Lab, *instances: InstanceDefinition, name: str = "D", **more: Any) -> LoadedDriver:
    """A filter with these instances in its service key."""
    default = more.pop("default", None)
    group = more.pop("group", "")
    return await lab.load(Minifilter(name, {}, **more), instances=instances, default=default, group=group)


def attached(driver: LoadedDriver) -> list[tuple[str, str]]:
    return [(one.volume.label, one.instance_name) for one in driver.filter.instances]


# Service keys.


@pytest.mark.rule("FLT-INST-38", "FLT-INST-01")
def test_a_service_key_defines_instances_for_every_volume() -> None:
    async def script(lab: Lab) -> list[Any]:
        lab.add_volume("D:")
        driver = await with_instances(lab, TOP, MID, LOW, default="Low")
        names = [one.name for one in driver.filter.definitions]
        return [names, driver.filter.altitude, attached(driver)]

    # Mid has flag 0x1: it is not attached automatically.
    volumes = [(volume, name) for volume in ("C:", "D:") for name in ("Low", "Top")]
    assert run(script).result == [["Low", "Top", "Mid"], LOWER, volumes]


@pytest.mark.rule("FLT-INST-38", "FLT-INST-09", "FLT-INST-12", "FLT-INST-04")
def test_attach_without_a_name_takes_the_default_instance_and_flags_may_forbid_it() -> None:
    async def script(lab: Lab) -> list[Any]:
        async def setup(FltObjects: FLT_RELATED_OBJECTS, Flags: int, *arguments: Any) -> int:
            lab.note(FltObjects.Instance.instance_name, Flags)
            return STATUS_SUCCESS

        driver = await with_instances(lab, MID, LOW, TOP, InstanceSetupCallback=setup)
        volume = lab.flt_volume(lab.volume)
        lab.notes.clear()
        status, instance = await FltAttachVolume(driver.filter, volume, None)
        assert instance is not None
        await FltObjectDereference(instance)
        name = UNICODE_STRING()
        RtlInitUnicodeString(name, "Low")
        return [
            status,
            instance.instance_name,
            instance.altitude,
            (await FltAttachVolume(driver.filter, volume, name))[0],
        ]

    one = run(script)
    assert one.result == [STATUS_SUCCESS, "Mid", MIDDLE, STATUS_FLT_DO_NOT_ATTACH]
    assert [(note.what, note.value) for note in one.notes] == [("Mid", FLTFL_INSTANCE_SETUP_MANUAL_ATTACHMENT)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"instances": (InstanceDefinition("A", "x"),)}, "'x' is not an altitude"),
        ({"instances": (InstanceDefinition("A", "1", 4),)}, "instance 'A' has flags 0x4"),
        ({"instances": (TOP, TOP)}, "the instance 'Top' is defined twice"),
        ({"instances": (TOP,), "default": "A"}, "'A' is no instance of D"),
        ({"altitude": "1", "default": "A"}, "'A' is no instance: there are none"),
        ({"altitude": "1", "group": "FSFilter"}, "'FSFilter' is no load order group"),
    ],
)
def test_what_is_wrong_with_a_service_key(arguments: dict[str, Any], said: str) -> None:
    async def script(lab: Lab) -> None:
        with pytest.raises(ScenarioError, match=said.replace("'", ".")):
            await lab.load(Minifilter("D", {}), **arguments)

    run(script)


# Section 23.


def test_ranges_of_load_order_groups() -> None:
    assert next(iter(GROUPS)) == "Filter"
    assert len(GROUPS) == 23
    bounds = [int(end) for group in reversed(list(GROUPS)) for end in GROUPS[group]]
    assert bounds == sorted(bounds)
    assert is_within("329999.999", "FSFilter Anti-Virus")
    assert not is_within("330000", "FSFilter Anti-Virus")
    assert not is_within("319999.9", "FSFilter Anti-Virus")
    assert not is_within("x", "FSFilter Anti-Virus")
    assert group_of("0180000.5") == "FSFilter HSM"
    assert group_of("15") == "FSFilter Infrastructure"
    assert group_of("175001") is None


@pytest.mark.rule("FLT-STACK-05")
@pytest.mark.parametrize(
    ("altitude", "group", "words"),
    [
        ("328010.5", "FSFilter Anti-Virus", None),
        ("328010.5", "", None),
        ("141000", "FSFilter Anti-Virus", "is in the range of FSFilter Encryption"),
        ("430000", "FSFilter Anti-Virus", "is in no group's range"),
    ],
)
def test_an_altitude_outside_of_its_group_is_a_warning(altitude: str, group: str, words: str | None) -> None:
    async def script(lab: Lab) -> list[str]:
        await lab.load(Minifilter("D", {}), altitude, group=group)
        return [finding.detail for finding in lab.verifier.advisories]

    one = run(script)
    assert one.warnings == (() if words is None else ("altitude-outside-group",))
    assert words is None or words in one.result[0]


# FltAttachVolume, FltAttachVolumeAtAltitude.


@pytest.mark.rule("FLT-INST-09", "FLT-INST-10", "FLT-REG-16")
def test_statuses_of_attaching() -> None:
    async def script(lab: Lab) -> dict[str, int]:
        found: dict[str, int] = {}
        volume = lab.flt_volume(lab.volume)

        async def attach(what: str, driver: Any, name: str | None = None, altitude: str | None = None) -> None:
            if altitude is None:
                status, instance = await FltAttachVolume(driver, volume, name)
            else:
                status, instance = await FltAttachVolumeAtAltitude(driver, volume, altitude, name)
            found[what] = status
            assert (instance is None) is (status != STATUS_SUCCESS)
            if instance is not None:
                await FltObjectDereference(instance)

        class Early(Minifilter):
            async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
                from kemu.wdk.fltkernel import FltRegisterFilter, FltStartFiltering

                _, self.Filter = await FltRegisterFilter(DriverObject, self.registration)
                assert self.Filter is not None
                await attach("early", self.Filter)
                await attach("early at", self.Filter, None, "5")
                return await FltStartFiltering(self.Filter)

        await lab.load(Early("Early", {}), "7")
        other = await with_instances(lab, InstanceDefinition("Other", MIDDLE), name="Other")
        driver = await with_instances(lab, TOP, InstanceDefinition("Mid", MIDDLE, 0x1))
        await attach("there", driver.filter, "Top")
        await attach("altitude", driver.filter, "Mid")
        await attach("no such", driver.filter, "Else")
        await attach("altitude at", driver.filter, "X", f"0{MIDDLE}.0")
        await attach("malformed", driver.filter, "X", "1.2.3")
        await attach("name at", driver.filter, "Other", "9")
        await attach("at", driver.filter, None, "9")
        found["names"] = attached(driver)[-1]  # type: ignore[assignment]
        await other.detach()
        await attach("free again", driver.filter, "Mid")
        return found

    one = run(script)
    assert one.result == {
        "early": 0xC01C0008, "early at": 0xC01C0008, "there": STATUS_OBJECT_NAME_COLLISION,
        "altitude": STATUS_OBJECT_NAME_COLLISION, "no such": STATUS_OBJECT_NAME_NOT_FOUND,
        "altitude at": STATUS_FLT_INSTANCE_ALTITUDE_COLLISION, "malformed": STATUS_INVALID_PARAMETER,
        "name at": STATUS_FLT_INSTANCE_NAME_COLLISION, "at": STATUS_SUCCESS, "names": ("C:", "D - 9"),
        "free again": STATUS_SUCCESS,
    }  # fmt: skip


@pytest.mark.rule("FLT-INST-09")
def test_an_instance_name_is_given_once_for_each_volume() -> None:
    async def script(lab: Lab) -> list[int]:
        driver = await with_instances(lab, TOP, InstanceDefinition("Mid", MIDDLE, 0x1))
        one, other = lab.flt_volume(lab.volume), lab.flt_volume(lab.add_volume("D:"))
        found: list[int] = []
        await lab.attach(driver, "5", name="Mid")
        for volume in (one, other):
            status, instance = await FltAttachVolume(driver.filter, volume, "Mid")
            found.append(status)
            if instance is not None:
                await FltObjectDereference(instance)
        return found

    assert run(script).result == [STATUS_FLT_INSTANCE_NAME_COLLISION, STATUS_SUCCESS]


@pytest.mark.rule("FLT-INST-10")
def test_a_name_that_is_made_up_is_not_longer_than_names_are() -> None:
    async def script(lab: Lab) -> int:
        driver = await with_instances(lab, TOP)
        altitude = "1." + "5" * 400
        volume = lab.flt_volume(lab.volume)
        _, instance = await FltAttachVolumeAtAltitude(driver.filter, volume, altitude, None)
        assert instance is not None
        await FltObjectDereference(instance)
        return len(instance.instance_name)

    assert run(script).result == INSTANCE_NAME_MAX_CHARS == 255


@pytest.mark.rule("FLT-INST-11")
@pytest.mark.parametrize("at", [True, False])
def test_attaching_anywhere_is_for_debugging(at: bool) -> None:
    async def script(lab: Lab) -> None:
        driver = await with_instances(lab, TOP, MID)
        volume = lab.flt_volume(lab.volume)
        if at:
            _, instance = await FltAttachVolumeAtAltitude(driver.filter, volume, "5", None)
        else:
            _, instance = await FltAttachVolume(driver.filter, volume, "Mid")
        assert instance is not None
        await FltObjectDereference(instance)

    one = run(script)
    assert (one.code, one.warnings) == (None, ("attach-at-altitude",) if at else ())


@pytest.mark.rule("FLT-INST-09")
@pytest.mark.parametrize("at", [True, False])
def test_an_attachment_may_fail_for_want_of_memory(at: bool) -> None:
    async def script(lab: Lab) -> int:
        driver = await with_instances(lab, TOP, MID)
        lab.verifier.advisories.clear()
        volume = lab.flt_volume(lab.volume)
        lab._decide(True)
        if at:
            status, instance = await FltAttachVolumeAtAltitude(driver.filter, volume, "5", None)
        else:
            status, instance = await FltAttachVolume(driver.filter, volume, "Mid")
        if instance is not None:
            await FltObjectDereference(instance)
        return status

    runs = all_runs(script, low_resources=True)
    assert {one.result for one in runs} == {STATUS_SUCCESS, STATUS_INSUFFICIENT_RESOURCES}


@pytest.mark.rule("FLT-INST-12", "FLT-REF-02", "FLT-REF-03")
@pytest.mark.parametrize("drops", [True, False])
def test_the_instance_that_an_attachment_returns_is_referenced(drops: bool) -> None:
    async def script(lab: Lab) -> int:
        driver = await with_instances(lab, TOP, MID)
        _, instance = await FltAttachVolume(driver.filter, lab.flt_volume(lab.volume), "Mid")
        assert instance is not None
        if drops:
            await FltObjectDereference(instance)
        return await driver.unload()

    one = run(script)
    assert one.code == (None if drops else "ref-leak")


@pytest.mark.rule("FLT-INST-09", "FLT-INST-31")
def test_nothing_is_attached_by_a_filter_that_goes_away() -> None:
    async def script(lab: Lab) -> None:
        volume = lab.flt_volume(lab.volume)

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            status, _ = await FltAttachVolume(FltObjects.Filter, volume, "Mid")
            lab.note("attach", status)
            status, _ = await FltAttachVolumeAtAltitude(FltObjects.Filter, volume, "5", None)
            lab.note("at", status)
            lab.note("detach", await FltDetachVolume(FltObjects.Filter, volume, None))

        driver = await with_instances(lab, TOP, MID, InstanceTeardownStartCallback=start)
        await driver.unload()

    one = run(script)
    assert [note.value for note in one.notes] == [STATUS_FLT_DELETING_OBJECT] * 3


# FltDetachVolume.


@pytest.mark.rule("FLT-INST-13", "FLT-INST-14")
def test_detaching_by_name_and_without() -> None:
    async def script(lab: Lab) -> list[Any]:
        async def query(FltObjects: FLT_RELATED_OBJECTS, Flags: int) -> int:
            return STATUS_FLT_DO_NOT_DETACH if FltObjects.Instance.instance_name == "Low" else STATUS_SUCCESS

        low = InstanceDefinition("Low", LOWER)
        mid = InstanceDefinition("Mid", MIDDLE)
        driver = await with_instances(lab, low, mid, TOP, InstanceQueryTeardownCallback=query)
        volume = lab.flt_volume(lab.volume)
        found: list[Any] = []
        for name in ("Else", "Mid", "Low", None, None):
            found.append(await FltDetachVolume(driver.filter, volume, name))
            found.append([one for _, one in attached(driver)])
        return found

    assert run(script).result == [
        STATUS_FLT_INSTANCE_NOT_FOUND, ["Low", "Mid", "Top"], STATUS_SUCCESS, ["Low", "Top"],
        STATUS_FLT_DO_NOT_DETACH, ["Low", "Top"], STATUS_SUCCESS, ["Low"], STATUS_FLT_DO_NOT_DETACH, ["Low"],
    ]  # fmt: skip


@pytest.mark.rule("FLT-INST-13", "FLT-INST-17", "FLT-INST-14")
@pytest.mark.parametrize("vetoes", [False, True])
def test_a_detach_at_apc_level_has_the_callbacks_made_at_passive_level(vetoes: bool) -> None:
    async def script(lab: Lab) -> int:
        async def phase(FltObjects: FLT_RELATED_OBJECTS, value: int) -> int:
            lab.note("called", KeGetCurrentIrql())
            return STATUS_FLT_DO_NOT_DETACH if vetoes else STATUS_SUCCESS

        driver = await with_instances(
            lab, TOP, InstanceQueryTeardownCallback=phase,
            InstanceTeardownStartCallback=phase, InstanceTeardownCompleteCallback=phase,
        )  # fmt: skip
        thread = current_kthread()
        thread.irql = APC_LEVEL
        status = await FltDetachVolume(driver.filter, lab.flt_volume(lab.volume), None)
        assert KeGetCurrentIrql() == APC_LEVEL
        thread.irql = 0
        return status

    one = run(script)
    assert one.code is None
    assert one.result == (STATUS_FLT_DO_NOT_DETACH if vetoes else STATUS_SUCCESS)
    assert [note.value for note in one.notes] == [0] * (1 if vetoes else 3)


@pytest.mark.rule("FLT-RACE-30", "FLT-INST-27")
@pytest.mark.parametrize("phase", ["pre", "post"])
@pytest.mark.parametrize("vetoes", [False, True])
def test_an_instance_may_be_detached_by_a_callback_that_the_teardown_waits_for(phase: str, vetoes: bool) -> None:
    """The call is back before the teardown is over, in every order: it waits for the callback."""

    async def script(lab: Lab) -> None:
        async def detach(FltObjects: FLT_RELATED_OBJECTS) -> None:
            lab.note("asked", await FltDetachVolume(FltObjects.Filter, FltObjects.Volume, None))
            await lab.step("in the callback")
            lab.note("callback ends")

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if phase == "pre":
                await detach(FltObjects)
            return FLT_PREOP_SUCCESS_NO_CALLBACK if phase == "pre" else 0

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            await detach(FltObjects)
            return 0

        async def query(FltObjects: FLT_RELATED_OBJECTS, Flags: int) -> int:
            return STATUS_FLT_DO_NOT_DETACH if vetoes else STATUS_SUCCESS

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            lab.note("start")

        async def complete(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            lab.note("complete")

        await lab.filter(
            "D", LOWER, {IRP_MJ_CREATE: (pre, post)}, InstanceQueryTeardownCallback=query,
            InstanceTeardownStartCallback=start, InstanceTeardownCompleteCallback=complete,
        )  # fmt: skip
        await lab.open()

    runs = all_runs(script)
    assert codes(runs) == {None}
    if vetoes:
        assert {tuple(one.order) for one in runs} == {("asked", "callback ends")}
        return
    assert {one.note("asked").value for one in runs} == {STATUS_SUCCESS}
    # TeardownStart comes before the call returns, beside the callback, and after it; Complete never before its end.
    orders = {tuple(one.order) for one in runs}
    assert orders == {
        ("start", "asked", "callback ends", "complete"),
        ("asked", "start", "callback ends", "complete"),
        ("asked", "callback ends", "start", "complete"),
    }


# Comparing.


@pytest.mark.rule("FLT-STACK-06")
def test_altitudes_of_instances_are_compared_as_numbers() -> None:
    async def script(lab: Lab) -> Sequence[int]:
        low, high = InstanceDefinition("A", "100.123456"), InstanceDefinition("B", "03333")
        driver = await with_instances(lab, low, high)
        lab.add_volume("D:")
        await lab.app.open(r"D:\x")
        a, b, a_of_d, _ = driver.filter.instances
        pairs = [(a, b), (b, a), (a, a), (a, a_of_d)]
        return [FltCompareInstanceAltitudes(*pair) for pair in pairs]

    assert run(script).result == [-1, 1, 0, 0]


# Loading and unloading.


@pytest.mark.rule("FLT-REG-24", "FLT-REG-21")
def test_loading_a_filter_by_its_name() -> None:
    class Fails(Minifilter):
        def __init__(self) -> None:
            super().__init__("Fails", {})

        async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
            return STATUS_INSUFFICIENT_RESOURCES

    Fails.name = "Fails"

    async def script(lab: Lab) -> list[Any]:
        name = lab.service(Minifilter("Other", {IRP_MJ_READ: (lab.pre("Other"), lab.post("Other"))}), MIDDLE)
        lab.service(Fails, LOWER)
        found: list[Any] = [name]
        found += [await FltLoadFilter(one) for one in ("Nobody", "Other", "Other", "Fails")]
        await (await lab.open()).read(1)
        found.append([one.filter_name for one in lab.manager.filters])
        found.append(await FltUnloadFilter("Other"))
        found.append(await FltUnloadFilter("Other"))
        found.append(await FltLoadFilter("Other"))
        return found

    one = run(script)
    assert one.code is None
    assert one.result == [
        "Other", STATUS_OBJECT_NAME_NOT_FOUND, STATUS_SUCCESS, STATUS_IMAGE_ALREADY_LOADED,
        STATUS_FAILED_DRIVER_ENTRY, ["Other"], STATUS_SUCCESS, STATUS_FLT_FILTER_NOT_FOUND, STATUS_SUCCESS,
    ]  # fmt: skip
    assert one.order == ["Other.pre", "Other.post"]


@pytest.mark.rule("FLT-REG-24")
def test_of_two_loads_at_once_one_is_made_and_none_before_an_unload_is_over() -> None:
    async def script(lab: Lab) -> list[int]:
        async def unload(Flags: int) -> int:
            await FltUnregisterFilter(lab.manager.filters[0])
            lab.note("prior", await FltLoadFilter("Other"))
            return STATUS_SUCCESS

        lab.service(Minifilter("Other", {}, FilterUnloadCallback=unload), MIDDLE)

        async def load() -> int:
            return await FltLoadFilter("Other")

        found = await lab.together(load(), load())
        await FltUnloadFilter("Other")
        return sorted(found)

    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    assert {tuple(one.result) for one in runs} == {(STATUS_SUCCESS, STATUS_IMAGE_ALREADY_LOADED)}
    assert {one.note("prior").value for one in runs} == {STATUS_DRIVER_FAILED_PRIOR_UNLOAD}


@pytest.mark.rule("FLT-UNLOAD-16", "FLT-UNLOAD-20", "FLT-UNLOAD-01")
def test_unloading_another_filter_asks_it_and_nobody_who_depends_on_it() -> None:
    async def script(lab: Lab) -> list[Any]:
        async def unload(Flags: int) -> int:
            lab.note("asked", Flags)
            if len(lab.notes) == 1:
                return STATUS_FLT_DO_NOT_DETACH
            lab.note("again", await FltUnloadFilter("Elsewhere"))
            await FltUnregisterFilter(other.filter)
            return STATUS_SUCCESS

        other = await lab.filter("Other", MIDDLE, {}, FilterUnloadCallback=unload)
        # Loaded after it, as a service that depends on it is.
        dependent = await lab.filter("Dependent", LOWER, {})
        found: list[Any] = [await FltUnloadFilter("Other"), await FltUnloadFilter("Other")]
        found.append(len(dependent.filter.instances))
        return found

    one = run(script)
    assert one.code is None
    assert one.result == [STATUS_FLT_DO_NOT_DETACH, STATUS_SUCCESS, 1]
    assert [note.value for note in one.notes] == [0, 0, STATUS_FLT_FILTER_NOT_FOUND]


@pytest.mark.rule("FLT-UNLOAD-16")
@pytest.mark.parametrize("whose", ["Own", "Other"])
def test_a_driver_must_not_unload_itself(whose: str) -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            await FltUnloadFilter(whose)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("Other", UPPER, {})
        await lab.filter("Own", LOWER, {IRP_MJ_CREATE: (pre, None)})
        await lab.open()

    assert run(script).code == ("unload-self" if whose == "Own" else None)


def test_routines_are_found_by_their_names() -> None:
    async def script(lab: Lab) -> list[Any]:
        name = UNICODE_STRING()
        RtlInitUnicodeString(name, "KeGetCurrentIrql")
        found = [FltGetRoutineAddress("FltDetachVolume"), MmGetSystemRoutineAddress(name)]
        absent = [FltGetRoutineAddress("KeGetCurrentIrql"), MmGetSystemRoutineAddress("FltDetachVolume")]
        return [*found, *absent, FltGetRoutineAddress("FltNoSuchRoutine")]

    assert run(script).result == [FltDetachVolume, KeGetCurrentIrql, None, None, None]


def test_a_name_of_a_routine_is_a_string() -> None:
    async def script(lab: Lab) -> None:
        MmGetSystemRoutineAddress(None)  # type: ignore[arg-type]

    assert run(script).code == "ke.bad-pointer"


@pytest.mark.rule("FLT-INST-38")
def test_a_driver_that_names_itself_has_the_instances_of_that_name() -> None:
    class Named(Minifilter):
        def __init__(self) -> None:
            super().__init__("Spy", {})

    async def script(lab: Lab) -> list[Any]:
        driver = await lab.load(Named, instances=(TOP, MID))
        return [one.name for one in driver.filter.definitions]

    assert run(script).result == ["Top", "Mid"]
