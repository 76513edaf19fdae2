"""Unloading: who may refuse, in which order things go, and that nothing of the driver runs afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, UPPER, Lab, Run, Script, all_runs, codes, queue, run

from kemu.io.constants import IRP_MJ_READ
from kemu.scenario.world import LoadedDriver
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_POSTOP_MORE_PROCESSING_REQUIRED,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_RELATED_OBJECTS,
    FLTFL_FILTER_UNLOAD_MANDATORY,
    FLTFL_POST_OPERATION_DRAINING,
    FLTFL_REGISTRATION_DO_NOT_SUPPORT_SERVICE_STOP,
    FltCompletePendedPostOperation,
    FltCompletePendedPreOperation,
    FltObjectReference,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import (
    STATUS_FLT_DELETING_OBJECT,
    STATUS_FLT_DO_NOT_DETACH,
    STATUS_FLT_FILTER_NOT_FOUND,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import DRIVER_OBJECT, Driver, KeGetCurrentIrql


class Guest:
    """A filter all of whose routines note that they run, and whether they still do so after the unload."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.gone = False
        self.driver: LoadedDriver | None = None

    async def step(self, name: str) -> None:
        """In one of the routines."""
        for _ in range(2):
            self.lab.check(not self.gone, f"{name} runs after the unload")
            self.lab.note(name)
            await self.lab.step(name)
        self.lab.check(not self.gone, f"{name} returns after the unload")

    async def load(self) -> LoadedDriver:
        callbacks: dict[int, Any] = {IRP_MJ_READ: (self.pre, self.post)}
        self.driver = await self.lab.filter(
            "Guest",
            LOWER,
            callbacks,
            FilterUnloadCallback=self.unload,
            InstanceSetupCallback=self.setup,
            InstanceQueryTeardownCallback=self.query,
            InstanceTeardownStartCallback=self.start,
            InstanceTeardownCompleteCallback=self.complete,
        )
        return self.driver

    async def unload(self, Flags: int) -> int:
        assert self.driver is not None
        await FltUnregisterFilter(self.driver.filter)
        self.lab.note("unregistered")
        self.gone = True
        return STATUS_SUCCESS

    async def setup(self, *arguments: Any) -> int:
        await self.step("setup")
        return STATUS_SUCCESS

    async def query(self, *arguments: Any) -> int:
        await self.step("query")
        return STATUS_SUCCESS

    async def start(self, *arguments: Any) -> None:
        await self.step("start")

    async def complete(self, *arguments: Any) -> None:
        await self.step("complete")

    async def pre(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        await self.step("pre")
        return FLT_PREOP_SUCCESS_WITH_CALLBACK

    async def post(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
        await self.step("post")
        return FLT_POSTOP_FINISHED_PROCESSING


class PendingGuest(Guest):
    """Pends before and after the operation, and lingers in both callbacks and both routines."""

    async def pre(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        async def work(Data: FLT_CALLBACK_DATA) -> None:
            await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_WITH_CALLBACK, None)
            await self.step("worker")

        pended = await queue(Data, work) == STATUS_SUCCESS
        await self.step("pre")
        return FLT_PREOP_PENDING if pended else FLT_PREOP_SUCCESS_NO_CALLBACK

    async def post(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
        async def work(Data: FLT_CALLBACK_DATA) -> None:
            await FltCompletePendedPostOperation(Data)
            await self.step("post worker")

        pended = not Flags & FLTFL_POST_OPERATION_DRAINING and await queue(Data, work) == STATUS_SUCCESS
        await self.step("post")
        return FLT_POSTOP_MORE_PROCESSING_REQUIRED if pended else FLT_POSTOP_FINISHED_PROCESSING


def guest_beside(kind: type[Guest], what: str) -> Script:
    """An unload beside a read, a detach, or an attachment."""

    async def script(lab: Lab) -> None:
        guest = kind(lab)
        driver = await guest.load()
        file = await lab.quiet_open()
        lab.notes.clear()

        async def beside() -> None:
            if what == "read":
                await file.read(1)
            elif what == "detach":
                await driver.detach()
            else:
                await lab.attach(driver, UPPER)

        async def unload() -> None:
            lab.note("unload", await driver.unload())

        await lab.together(beside(), unload())

    return script


@pytest.mark.rule("FLT-ORD-07", "FLT-UNLOAD-10", "FLT-UNLOAD-13", "FLT-RACE-29", "FLT-INST-09")
@pytest.mark.parametrize(
    ("kind", "what", "completion"),
    [
        (Guest, "detach", "inline"),
        (Guest, "attach", "inline"),
        (Guest, "read", "inline"),
        (Guest, "read", "later"),
        (PendingGuest, "read", "inline"),
        (PendingGuest, "read", "later"),
    ],
)
def test_nothing_of_the_driver_runs_after_its_unload(kind: type[Guest], what: str, completion: str) -> None:
    # The pending guest takes many steps; one preemption at any of them is what the others need, too.
    runs = all_runs(guest_beside(kind, what), bound=1 if kind is PendingGuest else 2, completion=completion)
    assert codes(runs) == {None}
    assert {one.note("unload").value for one in runs} == {STATUS_SUCCESS}
    # The routine did run beside the unload, or there would be nothing to see.
    name = {"read": "pre", "detach": "query", "attach": "setup"}[what]
    assert {name in one.order for one in runs} == {True, False}


@pytest.mark.rule("FLT-RACE-29", "FLT-INST-16", "FLT-INST-17")
def test_an_instance_is_taken_down_once_by_a_detach_or_by_the_unload() -> None:
    for one in all_runs(guest_beside(Guest, "detach"), bound=2):
        # Each phase notes itself twice.
        assert [what for what in one.order if what in {"start", "complete"}] == [*["start"] * 2, *["complete"] * 2]
        assert one.before("complete", "unregistered")


@pytest.mark.rule("FLT-INST-09", "FLT-ORD-06")
def test_an_attachment_beside_an_unload_is_refused_or_taken_down_again() -> None:
    runs = all_runs(guest_beside(Guest, "attach"), bound=2)
    for one in runs:
        setups, starts = one.order.count("setup") // 2, one.order.count("start") // 2
        assert (setups, starts) in {(0, 1), (1, 2)}
    assert {one.order.count("setup") for one in runs} == {0, 2}


# Requests.


def unloadable(lab: Lab, **registration: Any) -> Any:
    return lab.filter("D", LOWER, {}, **registration)


@pytest.mark.rule("FLT-UNLOAD-01", "FLT-UNLOAD-02")
@pytest.mark.parametrize(("mandatory", "flags"), [(False, 0), (True, FLTFL_FILTER_UNLOAD_MANDATORY)])
def test_the_callback_runs_at_passive_level_and_is_told_whether_it_may_refuse(mandatory: bool, flags: int) -> None:
    async def script(lab: Lab) -> int:
        async def unload(Flags: int) -> int:
            lab.note("unload", (Flags, KeGetCurrentIrql()))
            await FltUnregisterFilter(driver.filter)
            return STATUS_SUCCESS

        driver = await unloadable(lab, FilterUnloadCallback=unload)
        return await driver.unload(mandatory=mandatory)

    one = run(script)
    assert (one.result, one.note("unload").value) == (STATUS_SUCCESS, (flags, 0))
    assert FLTFL_FILTER_UNLOAD_MANDATORY == 0x1


@pytest.mark.rule("FLT-UNLOAD-02")
@pytest.mark.parametrize("mandatory", [False, True])
def test_a_refusal_counts_unless_the_unload_is_mandatory(mandatory: bool) -> None:
    async def script(lab: Lab) -> list[Any]:
        async def unload(Flags: int) -> int:
            lab.note("asked")
            if Flags & FLTFL_FILTER_UNLOAD_MANDATORY:
                await FltUnregisterFilter(driver.filter)
            return STATUS_FLT_DO_NOT_DETACH

        driver = await unloadable(lab, FilterUnloadCallback=unload)
        first = await driver.unload(mandatory=mandatory)
        return [first, driver.driver_object.loaded, len(driver.filter.instances), await driver.unload()]

    one = run(script)
    assert one.code is None
    if mandatory:
        assert one.result == [STATUS_SUCCESS, False, 0, STATUS_FLT_FILTER_NOT_FOUND]
    else:
        # It can be asked again.
        assert one.result == [STATUS_FLT_DO_NOT_DETACH, True, 1, STATUS_FLT_DO_NOT_DETACH]
        assert one.order == ["asked", "asked"]


@pytest.mark.rule("FLT-UNLOAD-03")
@pytest.mark.parametrize(("mandatory", "unloads"), [(False, True), (True, False)])
def test_a_filter_may_register_that_it_does_not_support_a_service_stop(mandatory: bool, unloads: bool) -> None:
    async def script(lab: Lab) -> bool:
        driver = await unloadable(lab, Flags=FLTFL_REGISTRATION_DO_NOT_SUPPORT_SERVICE_STOP)
        return await driver.unload(mandatory=mandatory) == STATUS_SUCCESS

    assert run(script).result is unloads


@pytest.mark.rule("FLT-UNLOAD-04", "FLT-REG-14")
@pytest.mark.parametrize("mandatory", [False, True])
def test_a_filter_without_a_callback_is_never_unloaded(mandatory: bool) -> None:
    async def script(lab: Lab) -> list[Any]:
        driver = await unloadable(lab, FilterUnloadCallback=None)
        return [await driver.unload(mandatory=mandatory) == STATUS_SUCCESS, len(driver.filter.instances)]

    assert run(script).result == [False, 1]


@pytest.mark.rule("FLT-UNLOAD-16", "FLT-RACE-34")
def test_of_two_unloads_at_once_one_is_made() -> None:
    async def script(lab: Lab) -> list[Any]:
        async def unload(Flags: int) -> int:
            lab.note("asked")
            await FltUnregisterFilter(driver.filter)
            return STATUS_SUCCESS

        driver = await unloadable(lab, FilterUnloadCallback=unload)
        return await lab.together(driver.unload(), driver.unload(mandatory=True))

    runs = all_runs(script, bound=2)
    assert codes(runs) == {None}
    assert {tuple(one.order) for one in runs} == {("asked",)}
    assert {frozenset(one.result) for one in runs} == {
        frozenset({STATUS_SUCCESS, STATUS_FLT_DELETING_OBJECT}),
        frozenset({STATUS_SUCCESS, STATUS_FLT_FILTER_NOT_FOUND}),
    }


@pytest.mark.rule("FLT-UNLOAD-05", "FLT-REG-21")
def test_a_driver_whose_entry_failed_is_not_asked() -> None:
    class Failing(Driver):
        async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
            return STATUS_FLT_DO_NOT_DETACH

    async def script(lab: Lab) -> bool:
        return (await lab.load(Failing, LOWER)).driver_object.loaded

    assert run(script).result is False


# What a callback must do.


def unloading(unload: Any, *, mandatory: bool = False) -> Run:
    """Unload a filter with a callback that is given the driver."""

    async def script(lab: Lab) -> int:
        async def callback(Flags: int) -> int:
            return await unload(driver)

        driver = await unloadable(lab, FilterUnloadCallback=callback)
        return await driver.unload(mandatory=mandatory)

    return run(script)


@pytest.mark.rule("FLT-UNLOAD-06", "FLT-UNLOAD-09", "FLT-UNLOAD-15")
def test_success_means_unregistered_once_and_refusal_means_not_unregistered() -> None:
    async def right(driver: LoadedDriver) -> int:
        await FltUnregisterFilter(driver.filter)
        return STATUS_SUCCESS

    async def forgets(driver: LoadedDriver) -> int:
        return STATUS_SUCCESS

    async def refuses(driver: LoadedDriver) -> int:
        return STATUS_FLT_DO_NOT_DETACH

    async def refuses_too_late(driver: LoadedDriver) -> int:
        await FltUnregisterFilter(driver.filter)
        return STATUS_FLT_DO_NOT_DETACH

    async def twice(driver: LoadedDriver) -> int:
        await FltUnregisterFilter(driver.filter)
        await FltUnregisterFilter(driver.filter)
        return STATUS_SUCCESS

    assert unloading(right).code is None
    assert unloading(refuses).code is None
    assert unloading(forgets).code == "unload-no-unregister"
    # The answer to a mandatory unload is ignored, not so what must be done.
    assert unloading(refuses, mandatory=True).code == "unload-no-unregister"
    assert unloading(refuses_too_late, mandatory=True).code is None
    assert unloading(refuses_too_late).code == "unload-refused-after-teardown"
    assert unloading(twice).code == "double-unregister"


@pytest.mark.rule("FLT-UNLOAD-14", "FLT-UNLOAD-11", "FLT-REF-03")
def test_a_reference_on_the_filter_that_is_never_dropped_hangs_the_unload() -> None:
    async def leaks(driver: LoadedDriver) -> int:
        await FltObjectReference(driver.filter)
        await FltUnregisterFilter(driver.filter)
        return STATUS_SUCCESS

    one = unloading(leaks)
    assert one.code == "unload-hang"
    assert "see the references on filter D dropped (script)" in one.finding.detail


@pytest.mark.rule("FLT-REG-05")
def test_a_driver_unregisters_only_itself() -> None:
    async def script(lab: Lab) -> None:
        other = await lab.filter("Other", UPPER, {})

        async def callback(Flags: int) -> int:
            await FltUnregisterFilter(other.filter)
            return STATUS_SUCCESS

        await (await unloadable(lab, FilterUnloadCallback=callback)).unload()

    assert run(script).code == "reg-foreign"


@pytest.mark.rule("FLT-STACK-07", "FLT-UNLOAD-13")
def test_operations_go_on_without_a_filter_that_was_unloaded() -> None:
    async def script(lab: Lab) -> bytes:
        lab.completes("later")
        driver = await lab.recorder("D", LOWER)
        file = await lab.quiet_open(overlapped=True)
        read = await file.begin_read(2)
        await driver.unload()
        lab.note("unloaded")
        await read.wait()
        await lab.recorder("Again", LOWER)
        await file.read(1)
        return read.request.buffer

    runs = all_runs(script, bound=1)
    assert {one.result for one in runs} == {b"01"}
    assert {tuple(one.order) for one in runs} == {("D.pre", "D.post", "unloaded", "Again.pre", "Again.post")}
