"""The shipped scenarios about contexts: the repaired ones are proved, and the one with all kinds is clean."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kemu.explore import Budget, explore
from kemu.explore.strategies import DEFAULT_STRATEGY, strategy_from_name
from kemu.scenario.program import ScenarioProgram
from kemu.scenario.target import select

FOLDER = Path(__file__).parents[2] / "scenarios" / "minifilter"


def program(name: str, variant: str | None = None, *, races: bool = False) -> ScenarioProgram:
    (one,) = select(str(FOLDER / f"{name}.py"), variant=variant)
    return ScenarioProgram(one.loaded, one.scenario, one.variant, races=races)


@pytest.mark.rule("FLT-RACE-40", "FLT-RACE-41", "FLT-RACE-42", "FLT-RACE-43")
@pytest.mark.parametrize(
    "name",
    [
        "context_replaced",
        "context_leaked_by_loser",
        "context_used_after_release",
        "context_pointer_unreferenced",
        "context_revived",
    ],
)
@pytest.mark.parametrize("races", [False, True])
def test_the_repaired_twins_are_proved(name: str, races: bool) -> None:
    found = explore(program(name, "fixed", races=races), strategy_from_name("dpor", 0), Budget(schedules=2000))
    assert found.exhausted
    assert [finding.failure.summary for finding in found.findings] == []


COUNTING = """
from _stream_contexts import StreamContexts

from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_OPERATION_REGISTRATION,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltGetStreamContext,
    FltReleaseContext,
)
from kemu.wdk.wdm import IRP_MJ_READ, NT_SUCCESS, Driver, InterlockedIncrement


class Plain(StreamContexts):
    def operations(self) -> list[FLT_OPERATION_REGISTRATION]:
        return [*super().operations(), FLT_OPERATION_REGISTRATION(IRP_MJ_READ, 0, self.PreRead)]

    async def count(self, context: object) -> None:
        context.Clean += 1

    async def PreRead(self, Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        status, context = await FltGetStreamContext(FltObjects.Instance, FltObjects.FileObject)
        if NT_SUCCESS(status):
            await self.count(context)
            await FltReleaseContext(context)
        return FLT_PREOP_SUCCESS_NO_CALLBACK


class Interlocked(Plain):
    async def count(self, context: object) -> None:
        await InterlockedIncrement(context.Opens)


@scenario(variants={"plain": Plain, "interlocked": Interlocked}, completion="inline")
async def two_readers(world: World, driver: type[Driver]) -> None:
    await world.load(driver, altitude="328020")
    app = world.process("app")
    first, second = await app.open("\\\\a"), await app.open("\\\\a")

    async def one() -> None:
        await first.read(1)

    async def two() -> None:
        await second.read(1)

    await world.together(one(), two(), process=app)
"""


@pytest.mark.rule("FLT-RACE-44")
@pytest.mark.parametrize(("variant", "code"), [("plain", "ke.data-race"), ("interlocked", None)])
def test_two_callbacks_write_a_field_of_one_context(variant: str, code: str | None, tmp_path: Path) -> None:
    shutil.copy(FOLDER / "_stream_contexts.py", tmp_path)
    path = tmp_path / "two_readers.py"
    path.write_text(COUNTING)
    (one,) = select(str(path), variant=variant)
    found = explore(
        ScenarioProgram(one.loaded, one.scenario, one.variant, races=True),
        strategy_from_name("dpor", 0),
        Budget(schedules=2000),
        keep_going=True,
    )
    assert {finding.failure.code for finding in found.findings} == ({code} if code else set())
    if code:
        assert "STREAM_CONTEXT.Clean" in found.findings[0].failure.summary + str(found.findings[0].failure.signature)
    else:
        assert found.exhausted


@pytest.mark.parametrize("races", [False, True])
def test_a_filter_with_contexts_of_each_kind_is_clean(races: bool) -> None:
    one = program("contexts_of_each_kind", races=races)
    found = explore(one, strategy_from_name(DEFAULT_STRATEGY, 0), Budget(schedules=150))
    assert [finding.failure.summary for finding in found.findings] == []
