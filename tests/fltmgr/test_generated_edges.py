"""What of generated I/O orders threads, and what does not: each edge with it and without it."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.gio_kit import LOWER, MIDDLE, Lab, acting
from fltmgr.kit import Run, Script, queue, run, sample
from fltmgr.test_generated_races import is_generated, own_read
from racing import Field

from kemu.io.constants import IRP_MJ_READ
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_PREOP_PENDING,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_RELATED_OBJECTS,
    FltCompletePendedPreOperation,
    FltFreeCallbackData,
    FltPerformAsynchronousIo,
    FltReadFile,
)

RACE = "ke.data-race"


def plain(script: Script, **options: Any) -> Run:
    """The plain run of *script* with race detection."""
    return run(script, races=True, **options)


def some_codes(script: Script, **options: Any) -> set[str | None]:
    """The findings of random runs of *script* with race detection."""
    return {one.code for one in sample(script, 60, races=True, **options)}


@pytest.mark.parametrize("whole", [True, False])
def test_what_comes_before_the_call_is_ordered_before_the_callback_and_what_comes_after_is_not(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def completed(Data: FLT_CALLBACK_DATA, Context: Any) -> None:
            field.load()
            await FltFreeCallbackData(Data)

        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
            own = await own_read(FltObjects)
            if whole:
                field.store()
            await FltPerformAsynchronousIo(own, completed, None)
            if not whole:
                field.store()

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)})
        file = await lab.quiet_open()
        lab.completes("later")
        await file.read(1)

    assert plain(script).code == (None if whole else RACE)


@pytest.mark.parametrize("whole", [True, False])
def test_the_callback_is_ordered_before_teardown_complete_and_not_before_teardown_start(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def completed(Data: FLT_CALLBACK_DATA, Context: Any) -> None:
            field.store()
            await FltFreeCallbackData(Data)

        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
            own = await own_read(FltObjects)
            await FltPerformAsynchronousIo(own, completed, None)

        async def phase(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            field.load()

        phases: dict[str, Any] = {f"InstanceTeardown{'Complete' if whole else 'Start'}Callback": phase}
        driver = await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)}, **phases)
        file = await lab.quiet_open()
        lab.completes("later")
        reader = lab.start("reader", file.read(1))
        await lab.sleep(0.1)
        await driver.detach()
        await reader.join()

    if whole:
        assert some_codes(script) == {None}
    else:
        assert RACE in some_codes(script)


@pytest.mark.parametrize("whole", [True, False])
def test_what_a_lower_instance_has_done_is_ordered_before_the_return_of_a_call_that_waits(whole: bool) -> None:
    async def script(lab: Lab) -> None:
        field = Field()

        async def hold(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            if not is_generated(Data):
                return FLT_PREOP_SUCCESS_NO_CALLBACK

            async def work(Data: FLT_CALLBACK_DATA) -> None:
                if whole:
                    field.store()
                await FltCompletePendedPreOperation(Data, FLT_PREOP_SUCCESS_NO_CALLBACK, None)
                if not whole:
                    field.store()

            await queue(Data, work)
            return FLT_PREOP_PENDING

        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
            assert FltObjects.FileObject is not None
            await FltReadFile(FltObjects.Instance, FltObjects.FileObject, 0, 1, bytearray(1), 0, None, None)
            field.load()

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)})
        await lab.filter("L", LOWER, {IRP_MJ_READ: (hold, None)})
        file = await lab.open()
        await file.read(1)

    assert plain(script).code == (None if whole else RACE)
    assert some_codes(script) == ({None} if whole else {RACE})


@pytest.mark.parametrize("touches", [False, True])
def test_callback_data_that_is_touched_after_the_call_races_with_the_callback_also_where_it_came_in_time(
    touches: bool,
) -> None:
    async def script(lab: Lab) -> None:
        async def completed(Data: FLT_CALLBACK_DATA, Context: Any) -> None:
            await FltFreeCallbackData(Data)

        async def act(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> None:
            own = await own_read(FltObjects)
            await FltPerformAsynchronousIo(own, completed, None)
            if touches:
                _ = own.Flags

        await lab.filter("M", MIDDLE, {IRP_MJ_READ: (acting(lab, act), None)})
        file = await lab.quiet_open()
        lab.completes("later")
        await file.read(1)

    assert (None in some_codes(script)) == (not touches)
