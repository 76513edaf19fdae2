"""Repaired scenarios live: as tasks of trio inside a loop that is running, and of asyncio in one of their own.

What a live run comes to is compared with the controlled runtime's plain run: the emulated machine is the same, and
only who goes first is up to the event loop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kemu.nt.kthread import KThread
from kemu.runtime import First, Outcome
from kemu.runtime.live import LiveRuntime
from kemu.scenario.program import ScenarioProgram
from kemu.scenario.target import select
from kemu.scenario.world import World

CORPUS = Path(__file__).parents[2] / "scenarios" / "minifilter"

# Writes and reads through a filter that pends; what it returns is the final state that a user would look at.
WORKLOAD = r"""
from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import *
from kemu.wdk.ntstatus import *
from kemu.wdk.wdm import *


class Pends(Driver):
    '''Pends every write and resumes it from a work item; counts under a fast mutex.'''

    def __init__(self):
        self.Lock = FAST_MUTEX("Lock")
        self.Count = 0

    async def DriverEntry(self, DriverObject, RegistryPath):
        ExInitializeFastMutex(self.Lock)
        registration = FLT_REGISTRATION(
            [FLT_OPERATION_REGISTRATION(IRP_MJ_WRITE, 0, self.PreWrite, self.PostWrite), FLT_OPERATION_REGISTRATION()],
            self.Unload,
        )
        status, self.Filter = await FltRegisterFilter(DriverObject, registration)
        if not NT_SUCCESS(status):
            return status
        return await FltStartFiltering(self.Filter)

    async def Unload(self, Flags):
        await FltUnregisterFilter(self.Filter)
        return STATUS_SUCCESS

    async def PreWrite(self, Data, FltObjects):
        item = await FltAllocateDeferredIoWorkItem()
        if item is None:
            return FLT_PREOP_SUCCESS_NO_CALLBACK
        status = await FltQueueDeferredIoWorkItem(item, Data, self.Work, DelayedWorkQueue, None)
        if NT_SUCCESS(status):
            return FLT_PREOP_PENDING
        await FltFreeDeferredIoWorkItem(item)
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def Work(self, WorkItem, Data, Context):
        await FltFreeDeferredIoWorkItem(WorkItem)
        await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_WITH_CALLBACK, None)

    async def PostWrite(self, Data, FltObjects, CompletionContext, Flags):
        await ExAcquireFastMutex(self.Lock)
        self.Count += 1
        await ExReleaseFastMutex(self.Lock)
        return FLT_POSTOP_FINISHED_PROCESSING


@scenario(completion="later")
async def workload(world: World):
    driver = await world.load(Pends, "328010")
    app = world.process("app")
    file = await app.open("/out", overlapped=True)

    async def writer(number):
        write = await file.begin_write(bytes([48 + number]) * 4, 4 * number)
        return await write.wait()

    statuses = await world.together(writer(0), writer(1), writer(2), process=app)
    event = KEVENT("event")
    KeInitializeEvent(event, NotificationEvent, False)
    timeout = await KeWaitForSingleObject(event, Executive, KernelMode, False, -1000)
    unloaded = await driver.unload()
    status, content = await file.read(100)
    world.at_end(lambda: driver.driver.Count == 3, "every write must be seen")
    return [*statuses, int(timeout), unloaded, status, content, driver.driver.Count]
"""


async def inside(program: ScenarioProgram) -> Outcome:
    """Run *program* live on the event loop that is running."""
    runtime = LiveRuntime(thread_class=KThread)
    cell: list[World] = []
    runtime.conclude = lambda outcome: program._judge(cell, outcome)
    return program._finish(await runtime.run("script", program._main(runtime, cell)), cell)


def final(outcome: Outcome) -> tuple[Any, ...]:
    return outcome.end, outcome.failure, outcome.result, outcome.swallowed


@pytest.fixture
def workload(tmp_path: Path) -> ScenarioProgram:
    path = tmp_path / "workload.py"
    path.write_text(WORKLOAD)
    (program,) = select(str(path))
    return program


def corpus() -> list[str]:
    files = (path for path in CORPUS.glob("[!_]*.py") if '"fixed"' in path.read_text(encoding="utf-8"))
    return sorted(path.name for path in files)


def repaired(name: str) -> ScenarioProgram:
    """What the file has that is to be clean: the repaired variant, or the only one."""
    return next(one for one in select(str(CORPUS / name), variant="all") if not one.expected)


PLAIN = [0, 0, 0, 0x102, 0, 0, b"000011112222", 3]
"""Three writes, a timeout, an unload and a read: statuses, content, and how many writes the filter saw."""


def test_the_plain_run_under_control(workload: ScenarioProgram) -> None:
    assert final(workload.run(First())) == ("finished", None, PLAIN, ())


@pytest.mark.trio
async def test_live_on_the_trio_loop_that_is_running(workload: ScenarioProgram) -> None:
    assert final(await inside(workload)) == ("finished", None, PLAIN, ())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_live_on_a_loop_of_its_own(workload: ScenarioProgram, backend: str) -> None:
    assert final(workload.run_live(backend)) == ("finished", None, PLAIN, ())


@pytest.mark.trio
@pytest.mark.parametrize("name", corpus())
async def test_a_repaired_scenario_is_clean_on_trio(name: str) -> None:
    assert final(await inside(repaired(name))) == final(repaired(name).run(First()))


@pytest.mark.parametrize("name", corpus())
def test_a_repaired_scenario_is_clean_on_asyncio(name: str) -> None:
    assert final(repaired(name).run_live("asyncio")) == final(repaired(name).run(First()))


@pytest.mark.trio
async def test_a_controlled_run_inside_a_running_loop_is_the_same(workload: ScenarioProgram) -> None:
    assert final(workload.run(First())) == ("finished", None, PLAIN, ())


LIVE_ONLY = r"""
import anyio
from kemu.scenario import World, scenario


@scenario
async def files(world: World):
    target = anyio.Path({path!r})
    await target.write_text("from a live run")
    file = await world.process("app").open("/copy")
    await file.write((await target.read_text()).encode())
    world.check((await target.read_text()) == "from a live run", "it must be there")
    return (await file.read(100))[1]
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_live_script_may_await_what_belongs_to_the_event_loop(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "files.py"
    path.write_text(LIVE_ONLY.format(path=str(tmp_path / "out.txt")))
    (program,) = select(str(path))
    assert program.run_live(backend).result == b"from a live run"
    assert (tmp_path / "out.txt").read_text() == "from a live run"


FAILING = r"""
from kemu.scenario import World, scenario
from kemu.wdk.wdm import *


@scenario(variants={"expectation": 0, "hang": 1, "raises": 2})
async def fails(world: World, how: int):
    async def other():
        await world.step()
        if how == 0:
            world.check(False, "it must hold")
        if how == 1:
            event = KEVENT("never")
            KeInitializeEvent(event, NotificationEvent, False)
            await KeWaitForSingleObject(event)
        if how == 2:
            {}["missing"]

    await world.together(other())
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(("variant", "code"), [("expectation", "expectation"), ("hang", "ke.hang")])
def test_a_live_run_that_fails_has_the_finding_that_a_controlled_one_has(
    tmp_path: Path, backend: str, variant: str, code: str
) -> None:
    path = tmp_path / "fails.py"
    path.write_text(FAILING)
    (program,) = select(str(path), variant=variant)
    live, controlled = program.run_live(backend), program.run(First())
    assert (live.end, live.failure.code) == (controlled.end, code)
    assert live.failure.signature == controlled.failure.signature


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_a_live_script_raises_is_its_mistake(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "fails.py"
    path.write_text(FAILING)
    (program,) = select(str(path), variant="raises")
    with pytest.raises(Exception, match=r"KeyError: 'missing' at .*fails\.py:"):
        program.run_live(backend)
