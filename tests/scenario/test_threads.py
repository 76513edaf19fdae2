"""What a script does to threads, in a scenario file: explored, live, and in a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from kemu.explore import DPOR, Budget, explore
from kemu.log import capture
from kemu.runtime import First
from kemu.scenario.program import ScenarioProgram
from kemu.scenario.target import select

TEXT = """
from kemu.scenario import World, scenario
from kemu.wdk.wdm import *


@scenario
async def everything(world: World) -> None:
    never, ready = KEVENT("never"), KEVENT("ready")
    mutex, count = KMUTEX("mutex"), KSEMAPHORE("count")
    for event in (never, ready):
        KeInitializeEvent(event, NotificationEvent, False)
    KeInitializeMutex(mutex, 0)
    KeInitializeSemaphore(count, 0, 1)

    async def apc() -> None:
        await KeSetEvent(ready)

    async def thread() -> None:
        world.outcome(
            all=await KeWaitForMultipleObjects(3, [ready, mutex, count], WaitAll),
            alerted=await KeWaitForSingleObject(never, Executive, KernelMode, True, None),
            delayed=await KeDelayExecutionThread(KernelMode, False, -1),
        )
        await KeReleaseMutex(mutex, False)

    started = world.start("thread", thread(), apcs=True)
    await world.queue_apc(started, apc)
    await KeReleaseSemaphore(count, 0, 1)
    await world.alert(started)
    await started.join()
"""

NAMED = {"all": "STATUS_SUCCESS", "alerted": "STATUS_ALERTED", "delayed": "STATUS_SUCCESS"}


@pytest.fixture
def program(tmp_path: Path) -> ScenarioProgram:
    file = tmp_path / "everything.py"
    file.write_text(TEXT.replace("import *", "import " + ", ".join((
        "KEVENT", "KMUTEX", "KSEMAPHORE", "Executive", "KeDelayExecutionThread", "KeInitializeEvent", "KernelMode",
        "KeInitializeMutex", "KeInitializeSemaphore", "KeReleaseMutex", "KeReleaseSemaphore", "KeSetEvent",
        "KeWaitForMultipleObjects", "KeWaitForSingleObject", "NotificationEvent", "WaitAll",
    ))))  # fmt: skip
    (found,) = select(str(file))
    return found


def test_every_schedule_comes_to_the_same(program: ScenarioProgram) -> None:
    assert program.run(First()).named == NAMED
    found = explore(program, DPOR(), Budget())
    assert found.exhausted
    assert not found.findings


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_live(program: ScenarioProgram, backend: str) -> None:
    outcome = program.run_live(backend)
    assert (outcome.end, outcome.failure, outcome.named) == ("finished", None, NAMED)


def test_the_trace_tells_of_apcs_and_of_what_they_cause(program: ScenarioProgram) -> None:
    rows = list(capture(program, First())[1].events)

    def one(ev: str, **fields: object) -> dict[str, object]:
        (found,) = (row for row in rows if row["ev"] == ev and all(row.get(key) == fields[key] for key in fields))
        return found

    queued, begun, over = one("apc.insert"), one("apc.enter"), one("apc.return")
    assert (queued["thread"], queued["to"], queued["kind"]) == ("script", "thread", "normal kernel APC")
    assert (begun["thread"], begun["cause"]) == ("thread", queued["seq"])
    assert over["cause"] == begun["seq"]
    assert [row["status"] for row in rows if row["ev"] == "sync.wait" and row["obj"] == "never"] == ["STATUS_ALERTED"]
    assert {row["obj"] for row in rows if row["ev"] == "sync.signal"} >= {"count", "ready"}
    assert one("sync.release", obj="mutex")["thread"] == "thread"
    waits = [row["waits_for"] for row in rows if row["ev"] == "sched.block" and row["thread"] == "thread"]
    assert "go on after a delay" in waits
