"""Rundown references on filters, instances and volumes."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, Lab, Script, all_runs, codes, run

from kemu.wdk.fltkernel import (
    FLT_RELATED_OBJECTS,
    FltAllocateGenericWorkItem,
    FltFreeGenericWorkItem,
    FltObjectDereference,
    FltObjectReference,
    FltQueueGenericWorkItem,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_FLT_DELETING_OBJECT, STATUS_SUCCESS
from kemu.wdk.wdm import DelayedWorkQueue

KINDS = ["filter", "instance", "volume"]


async def target(lab: Lab, kind: str, **registration: Any) -> tuple[Any, Any]:
    """A driver, and one of its objects."""
    driver = await lab.filter("D", LOWER, {}, **registration)
    instance = lab.instance(driver)
    return driver, {"filter": driver.filter, "instance": instance, "volume": instance.volume}[kind]


@pytest.mark.rule("FLT-REF-01")
@pytest.mark.parametrize("kind", KINDS)
def test_references_are_counted(kind: str) -> None:
    async def script(lab: Lab) -> list[int]:
        driver, thing = await target(lab, kind)
        statuses = [await FltObjectReference(thing), await FltObjectReference(thing)]
        await FltObjectDereference(thing)
        await FltObjectDereference(thing)
        return [*statuses, await driver.unload()]

    one = run(script)
    assert (one.code, one.result) == (None, [STATUS_SUCCESS] * 3)


@pytest.mark.rule("FLT-REF-03")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("taken", [0, 1])
def test_what_was_not_taken_cannot_be_dropped(kind: str, taken: int) -> None:
    async def script(lab: Lab) -> None:
        _, thing = await target(lab, kind)
        for _ in range(taken):
            await FltObjectReference(thing)
        for _ in range(taken + 1):
            await FltObjectDereference(thing)

    one = run(script)
    assert one.code == "ref-underflow"
    assert "which nobody has referenced" in one.finding.detail


@pytest.mark.rule("FLT-REF-03", "FLT-WORK-10")
def test_the_hold_of_a_work_item_is_not_the_drivers_to_drop() -> None:
    async def script(lab: Lab) -> None:
        driver, _ = await target(lab, "filter")

        async def routine(WorkItem: Any, FltObject: Any, Context: Any) -> None:
            await FltObjectDereference(FltObject)
            await FltFreeGenericWorkItem(WorkItem)

        item = await FltAllocateGenericWorkItem()
        assert item is not None
        await FltQueueGenericWorkItem(item, driver.filter, routine, DelayedWorkQueue, None)

    assert run(script).code == "ref-underflow"


@pytest.mark.rule("FLT-REF-01", "FLT-INST-31", "FLT-RACE-27")
@pytest.mark.parametrize(("kind", "gone"), [("filter", "use-after-unregister"), ("instance", "ref-missing")])
def test_no_reference_is_given_once_the_deletion_has_begun(kind: str, gone: str) -> None:
    async def script(lab: Lab) -> None:
        async def unload(Flags: int) -> int:
            await FltUnregisterFilter(driver.filter)
            lab.note("unregistered")
            return STATUS_SUCCESS

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            lab.note("start", await FltObjectReference(thing))

        async def taker() -> None:
            status = await FltObjectReference(thing)
            if status == STATUS_SUCCESS:
                lab.note("taken")
                await FltObjectDereference(thing)
                lab.note("dropped")
            else:
                lab.note("refused", status)

        driver, thing = await target(lab, kind, FilterUnloadCallback=unload, InstanceTeardownStartCallback=start)
        await lab.together(taker(), driver.unload())

    runs = all_runs(script, bound=2)
    # Who comes when even the freeing is over has a pointer to nothing.
    assert codes(runs) == {None, gone}
    assert all("unregistered" in one.order or kind == "instance" for one in runs if one.code == gone)
    runs = [one for one in runs if one.code is None]
    assert {one.note("start").value for one in runs} == {STATUS_FLT_DELETING_OBJECT}
    assert {one.note("refused").value for one in runs if "refused" in one.order} == {STATUS_FLT_DELETING_OBJECT}
    taken = [one for one in runs if "taken" in one.order]
    assert all(one.before("taken", "unregistered") for one in taken)
    # The unload waits for a reference that was taken in time.
    assert any(one.before("start", "dropped") for one in taken)


@pytest.mark.rule("FLT-REF-03", "FLT-UNLOAD-14", "FLT-INST-30")
@pytest.mark.parametrize(("kind", "code"), [("filter", "unload-hang"), ("instance", "ref-leak")])
@pytest.mark.parametrize("drops", [True, False])
def test_a_reference_that_is_never_dropped_blocks_the_end(kind: str, code: str, drops: bool) -> None:
    def script_of() -> Script:
        async def script(lab: Lab) -> None:
            driver, thing = await target(lab, kind)

            async def taker() -> None:
                await FltObjectReference(thing)
                if drops:
                    await FltObjectDereference(thing)

            await lab.together(taker())
            await driver.unload()

        return script

    one = run(script_of())
    assert one.code == (None if drops else code)
    if not drops:
        assert "(taker)" in one.finding.detail
