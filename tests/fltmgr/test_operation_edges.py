"""What orders threads around cancellable waits and posted completions: each edge with it and without it."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, Lab, Run, run
from racing import Field

from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_COMPLETE,
    FLT_PREOP_PENDING,
    FLT_RELATED_OBJECTS,
    FltCancellableWaitForSingleObject,
    FltCompletePendedPreOperation,
    FltDoCompletionProcessingWhenSafe,
)
from kemu.wdk.ntstatus import STATUS_CANCELLED
from kemu.wdk.wdm import IRP_MJ_READ

RACE = "ke.data-race"


def raced(script: Any, **options: Any) -> Run:
    """The plain run with race detection."""
    return run(script, races=True, **options)


@pytest.mark.rule("FLT-CANCEL-14", "FLT-RACE-17")
@pytest.mark.parametrize(("before", "expected"), [(True, None), (False, RACE)])
def test_a_cancellation_is_ordered_before_the_end_of_the_wait(before: bool, expected: str | None) -> None:
    async def script(lab: Lab) -> None:
        field = Field()
        kept: list[FLT_CALLBACK_DATA] = []

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            kept.append(Data)
            return FLT_PREOP_PENDING

        await lab.filter("M", LOWER, {IRP_MJ_READ: (pre, None)})
        pending = await (await lab.quiet_open(overlapped=True)).begin_read(1)
        never = lab.event("Never")

        async def waits() -> None:
            assert await FltCancellableWaitForSingleObject(never, None, kept[0]) == STATUS_CANCELLED
            field.load()

        async def cancels() -> None:
            await lab.sleep(1)
            if before:
                field.store()
            await pending.cancel()
            if not before:
                field.store()

        await lab.together(waits(), cancels())
        kept[0].IoStatus.Status = STATUS_CANCELLED
        await FltCompletePendedPreOperation(kept[0], FLT_PREOP_COMPLETE, None)
        await pending.wait()

    assert raced(script).code == expected


@pytest.mark.rule("FLT-RACE-07", "FLT-POST-19")
@pytest.mark.parametrize(("before", "expected"), [(True, None), (False, RACE)])
def test_posting_a_completion_is_ordered_before_the_safe_callback(before: bool, expected: str | None) -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def safe(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            field.load()
            return FLT_POSTOP_FINISHED_PROCESSING

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            if before:
                field.store()
            _, status = await FltDoCompletionProcessingWhenSafe(Data, FltObjects, Context, Flags, safe)
            if not before:
                field.store()
            return status

        await lab.filter("M", LOWER, {IRP_MJ_READ: (lab.pre("M"), post)})
        file = await lab.quiet_open()
        await lab.at_dispatch(lab.send(lab.request(file, IRP_MJ_READ, Length=1)))

    assert raced(script).code == expected


@pytest.mark.rule("FLT-POST-19")
def test_a_safe_callback_is_ordered_before_what_runs_above() -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def safe(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            field.store()
            return FLT_POSTOP_FINISHED_PROCESSING

        async def post(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, Context: Any, Flags: int) -> int:
            return (await FltDoCompletionProcessingWhenSafe(Data, FltObjects, Context, Flags, safe))[1]

        await lab.filter("M", LOWER, {IRP_MJ_READ: (lab.pre("M"), post)})
        file = await lab.quiet_open()
        await lab.at_dispatch(lab.send(lab.request(file, IRP_MJ_READ, Length=1)))
        # Whoever sees that the read is complete sees what was done on its way.
        field.load()

    assert raced(script).code is None
