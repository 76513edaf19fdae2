"""Looking filters, volumes and instances up, and listing them: what is found, and the reference that comes with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, all_runs, codes, run

from kemu.fltmgr.objects import RundownObject
from kemu.scenario.world import LoadedDriver
from kemu.wdk.fltkernel import (
    FILTER_AGGREGATE_BASIC_INFORMATION,
    FILTER_FULL_INFORMATION,
    FLT_RELATED_OBJECTS,
    INSTANCE_BASIC_INFORMATION,
    INSTANCE_FULL_INFORMATION,
    INSTANCE_PARTIAL_INFORMATION,
    FilterAggregateBasicInformation,
    FilterFullInformation,
    FltDetachVolume,
    FltEnumerateFilters,
    FltEnumerateInstances,
    FltEnumerateVolumes,
    FltGetBottomInstance,
    FltGetDeviceObject,
    FltGetFilterFromInstance,
    FltGetFilterFromName,
    FltGetFilterInformation,
    FltGetInstanceInformation,
    FltGetLowerInstance,
    FltGetTopInstance,
    FltGetUpperInstance,
    FltGetVolumeFromDeviceObject,
    FltGetVolumeFromFileObject,
    FltGetVolumeFromInstance,
    FltGetVolumeFromName,
    FltGetVolumeInstanceFromName,
    FltObjectDereference,
    FltObjectReference,
    InstanceBasicInformation,
    InstanceFullInformation,
    InstancePartialInformation,
)
from kemu.wdk.ntstatus import (
    STATUS_BUFFER_TOO_SMALL,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_FLT_FILTER_NOT_FOUND,
    STATUS_FLT_INSTANCE_NOT_FOUND,
    STATUS_FLT_VOLUME_NOT_FOUND,
    STATUS_INVALID_PARAMETER,
    STATUS_NO_MORE_ENTRIES,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import ObDereferenceObject

LookUp = Callable[[Lab, LoadedDriver], Awaitable[tuple[Any, ...]]]


async def by_device(lab: Lab, driver: LoadedDriver) -> tuple[Any, ...]:
    _, device = await FltGetDeviceObject(driver.filter.instances[0].volume)
    assert device is not None
    found = await FltGetVolumeFromDeviceObject(driver.filter, device)
    await ObDereferenceObject(device)
    return found


async def by_file(lab: Lab, driver: LoadedDriver) -> tuple[Any, ...]:
    return await FltGetVolumeFromFileObject(driver.filter, (await lab.open()).file)


LOOKUPS: dict[str, tuple[LookUp, str]] = {
    "FilterFromInstance": (lambda lab, driver: FltGetFilterFromInstance(driver.filter.instances[0]), "filter"),
    "FilterFromName": (lambda lab, driver: FltGetFilterFromName("d"), "filter"),
    "VolumeFromInstance": (lambda lab, driver: FltGetVolumeFromInstance(driver.filter.instances[0]), "volume"),
    "VolumeFromFileObject": (by_file, "volume"),
    "VolumeFromDeviceObject": (by_device, "volume"),
    "VolumeFromName": (lambda lab, driver: FltGetVolumeFromName(driver.filter, r"\??\C:"), "volume"),
    "TopInstance": (lambda lab, driver: FltGetTopInstance(driver.filter.instances[0].volume), "instance"),
    "BottomInstance": (lambda lab, driver: FltGetBottomInstance(driver.filter.instances[0].volume), "instance"),
    "UpperInstance": (lambda lab, driver: FltGetUpperInstance(lab.below), "instance"),  # type: ignore[attr-defined]
    "LowerInstance": (lambda lab, driver: FltGetLowerInstance(lab.above), "instance"),  # type: ignore[attr-defined]
    "VolumeInstanceFromName": (
        lambda lab, driver: FltGetVolumeInstanceFromName(None, driver.filter.instances[0].volume, "d instance"),
        "instance",
    ),
    "EnumerateFilters": (lambda lab, driver: FltEnumerateFilters(9), "filter"),
    "EnumerateVolumes": (lambda lab, driver: FltEnumerateVolumes(driver.filter, 9), "volume"),
    "EnumerateInstances": (lambda lab, driver: FltEnumerateInstances(None, driver.filter, 9), "instance"),
}


async def ready(lab: Lab, how: str) -> LoadedDriver:
    """A filter D alone, or with a neighbour that the lookup starts from."""
    if how == "LowerInstance":
        lab.above = lab.instance(await lab.filter("Above", UPPER, {}))  # type: ignore[attr-defined]
    if how == "UpperInstance":
        lab.below = lab.instance(await lab.filter("Below", LOWER, {}))  # type: ignore[attr-defined]
    return await lab.filter("D", MIDDLE, {})


@pytest.mark.rule("FLT-REF-02", "FLT-REF-03")
@pytest.mark.parametrize("how", LOOKUPS)
def test_what_is_found_is_referenced_once(how: str) -> None:
    async def script(lab: Lab) -> tuple[bool, int]:
        driver = await ready(lab, how)
        look, kind = LOOKUPS[how]
        status, found, *_ = await look(lab, driver)
        assert status == STATUS_SUCCESS
        instance = lab.instance(driver)
        right = {"filter": driver.filter, "instance": instance, "volume": instance.volume}[kind]
        listed = cast("list[RundownObject]", found if isinstance(found, list) else [found])
        assert right in listed
        for one in listed:
            assert len(one.references) == 1
            await FltObjectDereference(one)
        return right.references == [], await driver.unload()

    one = run(script)
    assert (one.code, one.result) == (None, (True, STATUS_SUCCESS))


@pytest.mark.rule("FLT-REF-03", "FLT-REF-02")
@pytest.mark.parametrize(("how", "code"), [("FilterFromName", "unload-hang"), ("TopInstance", "ref-leak")])
def test_what_was_found_has_to_be_dropped(how: str, code: str) -> None:
    async def script(lab: Lab) -> None:
        driver = await ready(lab, how)
        await LOOKUPS[how][0](lab, driver)
        await driver.unload()

    assert run(script).code == code


@pytest.mark.rule("FLT-REF-03", "FLT-UNLOAD-14")
@pytest.mark.parametrize("kind", ["volume", "instance", "filter", None])
def test_what_a_driver_has_not_dropped_of_others_is_found_at_its_unload(kind: str | None) -> None:
    async def script(lab: Lab) -> None:
        other = await lab.filter("Other", UPPER, {})

        async def setup(FltObjects: FLT_RELATED_OBJECTS, *arguments: Any) -> int:
            if kind == "volume":
                await FltObjectReference(FltObjects.Volume)
            elif kind == "instance":
                await FltGetTopInstance(FltObjects.Volume)
            elif kind == "filter":
                await FltGetFilterFromName("Other")
            return STATUS_SUCCESS

        driver = await lab.filter("D", LOWER, {}, InstanceSetupCallback=setup)
        await driver.unload()
        assert other.filter.instances

    one = run(script)
    assert one.code == (None if kind is None else "ref-leak")
    if kind is not None:
        assert "script took" in one.finding.detail


@pytest.mark.rule("FLT-REF-02")
def test_a_driver_drops_its_own_references_first() -> None:
    async def script(lab: Lab) -> None:
        volume = lab.flt_volume(lab.volume)

        async def setup(FltObjects: FLT_RELATED_OBJECTS, *arguments: Any) -> int:
            await FltObjectReference(FltObjects.Volume)
            return STATUS_SUCCESS

        async def complete(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            await FltObjectDereference(FltObjects.Volume)

        one = await lab.filter("One", UPPER, {}, InstanceSetupCallback=setup, InstanceTeardownCompleteCallback=complete)
        await lab.filter("Two", LOWER, {}, InstanceSetupCallback=setup)
        await one.unload()
        assert len(volume.references) == 1

    assert run(script).code is None


# What is not there.


@pytest.mark.rule("FLT-REF-05")
def test_there_is_nobody_above_the_top_and_below_the_bottom() -> None:
    async def script(lab: Lab) -> list[Any]:
        volume = lab.flt_volume(lab.volume)
        found: list[Any] = [await FltGetTopInstance(volume), await FltGetBottomInstance(volume)]
        top = lab.instance(await lab.filter("Top", UPPER, {}))
        bottom = lab.instance(await lab.filter("Bottom", LOWER, {}))
        found += [await FltGetUpperInstance(top), await FltGetLowerInstance(bottom)]
        for one in (
            await FltGetTopInstance(volume),
            await FltGetBottomInstance(volume),
            await FltGetLowerInstance(top),
            await FltGetUpperInstance(bottom),
        ):
            status, instance = one
            assert instance is not None
            found.append((status, instance.altitude))
            await FltObjectDereference(instance)
        return found

    one = run(script)
    none = (STATUS_NO_MORE_ENTRIES, None)
    assert one.result[:4] == [none] * 4
    assert one.result[4:] == [(STATUS_SUCCESS, altitude) for altitude in (UPPER, LOWER, LOWER, UPPER)]
    assert STATUS_NO_MORE_ENTRIES == 0x8000001A


def test_what_is_not_found() -> None:
    async def script(lab: Lab) -> list[Any]:
        driver = await lab.filter("D", LOWER, {})
        other = await lab.filter("E", UPPER, {})
        volume = lab.flt_volume(lab.volume)
        await other.detach()
        return [
            await FltGetFilterFromName("Nobody"),
            await FltGetVolumeFromName(driver.filter, r"\Device\HarddiskVolume9"),
            await FltGetVolumeInstanceFromName(driver.filter, volume, "Nobody"),
            await FltGetVolumeInstanceFromName(other.filter, volume, None),
        ]

    assert run(script).result == [
        (STATUS_FLT_FILTER_NOT_FOUND, None), (STATUS_FLT_VOLUME_NOT_FOUND, None),
        (STATUS_FLT_INSTANCE_NOT_FOUND, None), (STATUS_FLT_INSTANCE_NOT_FOUND, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        r"\Device\HarddiskVolume2", "\\device\\harddiskvolume2\\", "D:", r"\??\D:", "\\DosDevices\\D:\\",
        r"\??\Volume{00000000-0000-0000-0000-000000000002}",
    ],
)  # fmt: skip
def test_names_of_volumes(name: str) -> None:
    async def script(lab: Lab) -> str:
        lab.add_volume("D:")
        driver = await lab.filter("D", LOWER, {})
        _, volume = await FltGetVolumeFromName(driver.filter, name)
        assert volume is not None
        await FltObjectDereference(volume)
        return volume.label

    assert run(script).result == "D:"


@pytest.mark.rule("FLT-INST-35", "FLT-REF-02")
def test_a_list_has_room_for_all_or_holds_nothing() -> None:
    async def script(lab: Lab) -> list[Any]:
        lab.add_volume("D:")
        one = await lab.filter("One", LOWER, {})
        two = await lab.filter("Two", UPPER, {})
        volume = lab.flt_volume(lab.volume)
        found: list[Any] = []
        for size in (1, 2, 4):
            for status, listed, number in (
                await FltEnumerateFilters(size),
                await FltEnumerateVolumes(one.filter, size),
                await FltEnumerateInstances(volume, None, size),
                await FltEnumerateInstances(None, None, size),
            ):
                found.append((status == STATUS_SUCCESS, len(listed), number))
                assert status in {STATUS_SUCCESS, STATUS_BUFFER_TOO_SMALL}
                for object_ in listed:
                    await FltObjectDereference(object_)
        _, listed, _ = await FltEnumerateInstances(volume, two.filter, 4)
        found.append([instance.altitude for instance in listed])
        await FltObjectDereference(listed[0])
        return found

    small = [(False, 0, 2)] * 3 + [(False, 0, 4)]
    some = [(True, 2, 2)] * 3 + [(False, 0, 4)]
    assert run(script).result == [*small, *some, *[(True, 2, 2)] * 3, (True, 4, 4), [UPPER]]


# Information.


def test_what_a_filter_and_an_instance_tell_of_themselves() -> None:
    async def script(lab: Lab) -> list[Any]:
        lab.add_volume("D:")
        driver = await lab.filter("Spy", LOWER, {})
        instance = driver.filter.instances[0]
        found: list[Any] = []
        for ask, of, kind in (
            (FltGetFilterInformation, driver.filter, FilterFullInformation),
            (FltGetFilterInformation, driver.filter, FilterAggregateBasicInformation),
            (FltGetInstanceInformation, instance, InstanceBasicInformation),
            (FltGetInstanceInformation, instance, InstancePartialInformation),
            (FltGetInstanceInformation, instance, InstanceFullInformation),
        ):
            status, nothing, needed = await ask(of, kind, 4)  # type: ignore[arg-type]
            assert (status, nothing) == (STATUS_BUFFER_TOO_SMALL, None)
            status, information, _ = await ask(of, kind, needed)  # type: ignore[arg-type]
            assert status == STATUS_SUCCESS
            found.append(information)
            assert (await ask(of, 77, 1000))[0] == STATUS_INVALID_PARAMETER  # type: ignore[arg-type]
        return found

    name = "Spy Instance"
    assert run(script).result == [
        FILTER_FULL_INFORMATION(0, 2, "Spy"),
        FILTER_AGGREGATE_BASIC_INFORMATION(0, 2, "Spy", LOWER),
        INSTANCE_BASIC_INFORMATION(name),
        INSTANCE_PARTIAL_INFORMATION(name, LOWER),
        INSTANCE_FULL_INFORMATION(name, LOWER, r"\Device\HarddiskVolume1", "Spy"),
    ]


# What goes away.


@pytest.mark.rule("FLT-INST-31", "FLT-INST-35")
def test_what_is_going_away_is_not_found_and_not_listed() -> None:
    async def script(lab: Lab) -> dict[str, Any]:
        found: dict[str, Any] = {}

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            volume, instance = FltObjects.Volume, FltObjects.Instance
            found["named"] = await FltGetVolumeInstanceFromName(FltObjects.Filter, volume, None)
            found["filter"] = await FltGetFilterFromInstance(instance)
            found["filter named"] = await FltGetFilterFromName("D")
            found["filters"] = [one.filter_name for one in (await FltEnumerateFilters(5))[1]]
            found["instances"] = await FltEnumerateInstances(volume, FltObjects.Filter, 5)
            found["detach"] = await FltDetachVolume(FltObjects.Filter, volume, None)
            _, top = await FltGetTopInstance(volume)
            assert top is not None
            found["top"] = top.filter.filter_name
            await FltObjectDereference(top)
            # The volume stays.
            _, same = await FltGetVolumeFromInstance(instance)
            assert same is volume
            await FltObjectDereference(volume)
            for one in lab.manager.filters:
                if one.references:
                    await FltObjectDereference(one)

        await lab.filter("Other", LOWER, {})
        await (await lab.filter("D", UPPER, {}, InstanceTeardownStartCallback=start)).unload()
        return found

    one = run(script)
    gone = (STATUS_FLT_DELETING_OBJECT, None)
    assert one.code is None
    assert one.result == {
        "named": gone, "filter": gone, "filter named": gone, "filters": ["Other"],
        "instances": (STATUS_SUCCESS, [], 0), "detach": STATUS_FLT_DELETING_OBJECT, "top": "Other",
    }  # fmt: skip


@pytest.mark.rule("FLT-RACE-69", "FLT-REF-04", "FLT-REF-02")
@pytest.mark.parametrize("keeps", [True, False])
def test_what_was_looked_up_may_go_away_before_it_is_used(keeps: bool) -> None:
    """Detached right after the lookup, while it is used, and after its use; nothing but a reference keeps it."""

    async def script(lab: Lab) -> None:
        driver = await lab.filter("D", LOWER, {})
        volume = lab.flt_volume(lab.volume)

        async def user() -> None:
            status, instance = await FltGetTopInstance(volume)
            if instance is None:
                lab.note("gone" if status == STATUS_NO_MORE_ENTRIES else "deleting")
                return
            if not keeps:
                await FltObjectDereference(instance)
            status, _, _ = await FltGetInstanceInformation(instance, InstanceFullInformation, 1000)
            lab.note(f"used: {status}")
            status, again = await FltGetVolumeInstanceFromName(driver.filter, volume, None)
            lab.note(f"again: {status}")
            if again is not None:
                await FltObjectDereference(again)
            if keeps:
                await FltObjectDereference(instance)

        async def detacher() -> None:
            await driver.detach()
            lab.note("detached")

        await lab.together(user(), detacher())

    runs = all_runs(script, bound=3)
    assert codes(runs) == ({None} if keeps else {None, "ref-missing"})
    seen = {tuple(one.order) for one in runs if one.code is None}
    ok, deleting, missing = (
        "used: STATUS_SUCCESS",
        "again: STATUS_FLT_DELETING_OBJECT",
        "again: STATUS_FLT_INSTANCE_NOT_FOUND",
    )
    # Before the lookup, right after it, and after everything.
    assert ("detached", "gone") in seen
    assert (ok, deleting, "detached") in seen
    assert (ok, "again: STATUS_SUCCESS", "detached") in seen
    if keeps:
        # The reference delays the freeing: nobody is told that it is not there any more while it is held.
        assert not any(missing in order for order in seen)
    else:
        assert (ok, "detached", missing) in seen
        assert all("detached" in one.order for one in runs if one.code == "ref-missing")
