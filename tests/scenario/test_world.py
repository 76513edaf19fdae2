"""The World: what a script can do, and how it learns what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, UPPER, Lab, Minifilter, all_runs, codes, run

from kemu.errors import ScenarioError
from kemu.io.constants import FILE_CREATE, IRP_MJ_READ
from kemu.nt.kthread import KThread, current_kthread
from kemu.nt.process import Process
from kemu.runtime import current_thread
from kemu.scenario.world import File
from kemu.wdk.fltkernel import FLT_REGISTRATION, FltRegisterFilter, FltStartFiltering
from kemu.wdk.ntstatus import (
    STATUS_FLT_DELETING_OBJECT,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_OBJECT_NAME_COLLISION,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import DRIVER_OBJECT, Driver

# Drivers.


def test_a_driver_is_loaded_as_a_class_or_an_object_and_has_its_filter() -> None:
    class Plain(Driver):
        async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
            status, filter_ = await FltRegisterFilter(DriverObject, FLT_REGISTRATION())
            assert filter_ is not None
            lab_filters.append(filter_)
            await FltStartFiltering(filter_)
            return status

    lab_filters: list[Any] = []

    async def script(lab: Lab) -> list[Any]:
        one = Plain()
        loaded = [await lab.load(Plain, LOWER), await lab.load(one, UPPER)]
        return [
            [driver.filter for driver in loaded] == lab_filters,
            loaded[1].driver is one,
            [driver.status for driver in loaded],
            loaded[0].filter.altitude,
        ]

    assert run(script).result == [True, True, [STATUS_SUCCESS] * 2, LOWER]


def test_a_driver_whose_entry_failed_is_not_loaded() -> None:
    class Failing(Driver):
        async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
            return STATUS_INSUFFICIENT_RESOURCES

    async def script(lab: Lab) -> list[Any]:
        loaded = await lab.load(Failing, LOWER)
        try:
            _ = loaded.filter
        except ScenarioError as error:
            return [loaded.status, loaded.driver_object.loaded, str(error)]
        return []

    assert run(script).result == [
        STATUS_INSUFFICIENT_RESOURCES,
        False,
        "driver Failing has registered no filter; call FltRegisterFilter in its DriverEntry",
    ]


@pytest.mark.parametrize("altitude", ["", "abc", "1.2.3", "-5", "1e5", " 5", "3_0"])
def test_a_malformed_altitude_is_refused_with_an_example(altitude: str) -> None:
    async def script(lab: Lab) -> None:
        await lab.filter("D", altitude, {})

    with pytest.raises(ScenarioError, match="is not an altitude; write decimal digits") as caught:
        run(script)
    assert repr(altitude) in str(caught.value)


def test_a_taken_altitude_is_refused_with_one_that_is_free() -> None:
    async def script(lab: Lab) -> None:
        await lab.filter("First", LOWER, {})
        await lab.filter("Second", f"0{LOWER}.0", {})

    with pytest.raises(ScenarioError, match=r"altitude '0100000\.0' is taken by First") as caught:
        run(script)
    assert '"0100000.05"' in str(caught.value)


@pytest.mark.rule("FLT-REG-08")
def test_one_major_function_registered_twice_is_a_finding() -> None:
    from kemu.wdk.fltkernel import FLT_OPERATION_REGISTRATION

    async def script(lab: Lab) -> None:
        entry = FLT_OPERATION_REGISTRATION(IRP_MJ_READ, 0, lab.pre("D"))
        operations = [entry, entry, FLT_OPERATION_REGISTRATION()]
        await lab.filter("D", LOWER, {}, OperationRegistration=operations)

    assert run(script).code == "reg-duplicate-major"


def test_loading_takes_no_decisions_until_a_thread_was_started() -> None:
    async def setup(*arguments: Any) -> int:
        current_thread().runtime.choose(3, "in setup")
        return STATUS_SUCCESS

    def script_of(starts: bool) -> Any:
        async def script(lab: Lab) -> None:
            if starts:
                lab.start("other", lab.step("other"))
            await lab.filter("D", LOWER, {}, InstanceSetupCallback=setup)

        return script

    assert len(all_runs(script_of(starts=False))) == 1
    assert len(all_runs(script_of(starts=True))) > 3


def test_attach_detach_and_unload_are_those_of_fltmc() -> None:
    async def script(lab: Lab) -> list[Any]:
        driver = await lab.filter("D", LOWER, {})
        results: list[Any] = [await driver.detach(), driver.filter.instances]
        results += [await lab.attach(driver, UPPER), [one.altitude for one in driver.filter.instances]]
        results += [await driver.unload(), driver.driver_object.loaded, await lab.attach(driver, UPPER)]
        return results

    assert run(script).result == [
        *(STATUS_SUCCESS, []),
        *(STATUS_SUCCESS, [UPPER]),
        *(STATUS_SUCCESS, False, STATUS_FLT_DELETING_OBJECT),
    ]


# Processes and threads.


def test_a_file_is_there_before_the_run_begins() -> None:
    async def script(lab: Lab) -> bytes:
        lab.file(r"\there", b"content")
        file = await lab.open(r"\there")
        return (await file.read(100))[1]

    assert run(script).result == b"content"


def test_a_create_that_fails_gives_no_file_and_an_open_that_fails_is_an_expectation_not_met() -> None:
    async def create(lab: Lab) -> Any:
        return await lab.app.create(r"\a", FILE_CREATE)

    assert run(create).result == (STATUS_OBJECT_NAME_COLLISION, None)

    async def opened(lab: Lab) -> Any:
        async def pre(Data: Any, FltObjects: Any) -> int:
            from kemu.wdk.fltkernel import FLT_PREOP_COMPLETE

            Data.IoStatus.Status = STATUS_INSUFFICIENT_RESOURCES
            return FLT_PREOP_COMPLETE

        await lab.filter("D", LOWER, {0: (pre, None)})
        await lab.open(r"\a")

    one = run(opened)
    assert one.code == "expectation"
    assert one.finding.detail == r"opening \a must succeed, but returned STATUS_INSUFFICIENT_RESOURCES"


def test_threads_are_named_after_their_functions_and_return_in_order() -> None:
    async def script(lab: Lab) -> list[Any]:
        async def work(value: int) -> tuple[int, str]:
            await lab.step()
            return value, current_thread().label

        async def other() -> str:
            return current_thread().label

        return await lab.together(work(1), other(), work(2))

    assert {str(one.result) for one in all_runs(script)} == {str([(1, "work"), "other", (2, "work#2")])}


def test_a_thread_belongs_to_its_process_or_to_the_system() -> None:
    async def script(lab: Lab) -> list[Any]:
        async def process_of() -> Process | None:
            return current_kthread().process

        seen = await lab.together(process_of(), process=lab.app)
        seen += await lab.together(process_of())
        return [seen == [lab.app.process, lab.system_process], current_kthread().process is lab.system_process]

    assert run(script).result == [True, True]


def test_a_thread_can_be_started_and_joined_later() -> None:
    async def script(lab: Lab) -> Any:
        async def work() -> str:
            await lab.step()
            lab.note("work")
            return "result"

        started = lab.start("worker", work(), lab.app)
        assert isinstance(started.thread, KThread)
        lab.note("main")
        return await started.join()

    runs = all_runs(script)
    assert {one.result for one in runs} == {"result"}
    assert {tuple(one.order) for one in runs} == {("main", "work")}


def test_an_overlapped_file_does_not_wait() -> None:
    async def script(lab: Lab) -> list[bool]:
        file: File = await lab.quiet_open(overlapped=True)
        read = await file.begin_read(1)
        write = await file.begin_write(b"x", 5)
        return [read.request.is_synchronous, await read.wait() == await write.wait() == STATUS_SUCCESS]

    assert {tuple(one.result) for one in all_runs(script, bound=1, completion="later")} == {(False, True)}


# Time and choices.


@pytest.mark.parametrize(("seconds", "ticks"), [(1, 10_000_000), (0.5, 5_000_000), (1e-7, 1), (0, 1)])
def test_sleeping_takes_virtual_time(seconds: float, ticks: int) -> None:
    async def script(lab: Lab) -> int:
        before = lab.now()
        await lab.sleep(seconds)
        return lab.now() - before

    assert run(script).result == ticks


def test_a_choice_of_the_script_is_explored() -> None:
    async def script(lab: Lab) -> int:
        return lab.choose(3, "which") * 10 + lab.choose(1, "nothing")

    assert [one.result for one in all_runs(script)] == [0, 10, 20]


@pytest.mark.parametrize("n", [0, -1])
def test_a_choice_needs_something_to_choose_from(n: int) -> None:
    async def script(lab: Lab) -> None:
        lab.choose(n, "which")

    with pytest.raises(ScenarioError, match="there is nothing to choose from; give n >= 1"):
        run(script)


# Expectations and invariants.


@pytest.mark.parametrize("holds", [True, False])
def test_an_expectation(holds: bool) -> None:
    async def script(lab: Lab) -> str:
        lab.check(holds, "it must hold")
        return "went on"

    one = run(script)
    assert (one.code, one.result) == ((None, "went on") if holds else ("expectation", None))
    if not holds:
        assert one.finding.detail == "it must hold"
        assert one.finding.thread == "script"


def test_an_invariant_is_looked_at_after_every_step_of_every_thread() -> None:
    async def script(lab: Lab) -> None:
        balance = [0]
        lab.always(lambda: balance[0] >= 0, "the balance must not be negative")

        async def withdraw() -> None:
            await lab.step("withdraw")
            balance[0] -= 1
            await lab.step("still negative")
            balance[0] += 1

        async def deposit() -> None:
            await lab.step("deposit")
            balance[0] += 1

        await lab.together(withdraw(), deposit())

    runs = all_runs(script)
    assert codes(runs) == {None, "invariant"}
    failed = next(one for one in runs if one.code)
    assert failed.finding.detail == "the balance must not be negative"
    assert failed.finding.thread == "withdraw"
    assert {one.finding.signature for one in runs if one.code} == {failed.finding.signature}


def test_two_invariants_are_two_bugs() -> None:
    async def script(lab: Lab) -> None:
        which = lab.choose(2, "which")
        lab.always(lambda: which != 0, "not the first")
        lab.always(lambda: which != 1, "not the second")
        await lab.step()

    assert len({one.finding.signature for one in all_runs(script)}) == 2


def test_an_invariant_of_a_step_that_ends_the_run_is_looked_at() -> None:
    async def script(lab: Lab) -> None:
        done: list[int] = []
        lab.always(lambda: not done, "not done")

        async def last() -> None:
            done.append(1)

        lab.start("last", last())

    assert run(script).code == "invariant"


def test_bystanders_see_everything_and_change_nothing() -> None:
    async def script(lab: Lab) -> list[Any]:
        lab._bystanders = 3
        await lab.load(Minifilter("D", {}), "200000")
        file = await lab.open()
        names = [instance.filter.driver_object.name for instance in lab.manager.volumes[0].instances]
        return [names, (await file.read(4))[1]]

    assert run(script).result == [["PassThrough2", "PassThrough0", "D", "PassThrough1"], b"0123"]
