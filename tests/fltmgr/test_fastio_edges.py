"""What oplocks, transactions and sections order, and what they do not: each edge with it and without it."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, run
from fltmgr.test_datascan import CACHED, Scanner, shorten
from fltmgr.test_oplock import LEVEL_1, Keeper, fsctl, owned
from fltmgr.test_transaction import Enlists, opened
from racing import Field

from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_RELATED_OBJECTS,
    FltCommitComplete,
    FltPrepareComplete,
    FltUninitializeOplock,
)
from kemu.wdk.ntifs import FSCTL_OPLOCK_BREAK_ACKNOWLEDGE
from kemu.wdk.ntstatus import STATUS_PENDING, STATUS_SUCCESS
from kemu.wdk.wdm import TRANSACTION_NOTIFY_COMMIT, TRANSACTION_NOTIFY_PREPARE

RACE = "ke.data-race"


@pytest.mark.parametrize("late", [True, False])
def test_a_check_is_ordered_before_its_completion(late: bool) -> None:
    async def script(lab: Lab) -> None:
        keeper, owner, request, other = await owned(lab, LEVEL_1, exclusive=False)
        field = Field()

        async def before(Data: FLT_CALLBACK_DATA, Context: Any) -> None:
            field.store()

        async def done(Data: FLT_CALLBACK_DATA, Context: Any) -> None:
            field.load()
            await Keeper.done(keeper, Data, Context)

        keeper.before, keeper.done = before, done  # type: ignore[method-assign]

        async def reader() -> None:
            await (await other.begin_read(4)).wait()
            if late:
                field.store()

        async def acknowledges() -> None:
            await request.wait()
            await fsctl(lab, owner, FSCTL_OPLOCK_BREAK_ACKNOWLEDGE)
            if late:
                field.store()

        await lab.together(reader(), acknowledges())
        await FltUninitializeOplock(keeper.oplock)

    found = {one.code for one in all_runs(script, bound=1, races=True, completion="inline")}
    assert found <= {None, RACE}
    assert (RACE in found) == late


@pytest.mark.parametrize("ordered", [True, False])
def test_an_enlistment_is_ordered_before_its_notification(ordered: bool) -> None:
    async def script(lab: Lab) -> None:
        filter_ = Enlists(lab, mask=TRANSACTION_NOTIFY_COMMIT)
        field = Field()

        async def notified(FltObjects: FLT_RELATED_OBJECTS, TransactionContext: Any, NotificationMask: int) -> int:
            field.store()
            return STATUS_SUCCESS

        filter_.notified = notified  # type: ignore[method-assign]
        await filter_.load()
        transaction = lab.app.transaction()

        async def opens() -> None:
            if ordered:
                field.store()
            await opened(lab, transaction)
            if not ordered:
                field.store()

        async def ends() -> None:
            await lab.sleep(1)
            await transaction.commit()

        await lab.together(opens(), ends())

    assert run(script, races=True).code == (None if ordered else RACE)


@pytest.mark.parametrize("phase", [TRANSACTION_NOTIFY_PREPARE, TRANSACTION_NOTIFY_COMMIT])
def test_an_answer_is_ordered_before_what_waits_for_it(phase: int) -> None:
    async def script(lab: Lab) -> None:
        filter_ = Enlists(lab, mask=phase, answers={phase: STATUS_PENDING})
        driver = await filter_.load()
        transaction = lab.app.transaction()
        await opened(lab, transaction)
        field = Field()

        async def answers() -> None:
            await lab.sleep(1)
            field.store()
            routine = FltPrepareComplete if phase == TRANSACTION_NOTIFY_PREPARE else FltCommitComplete
            await routine(lab.instance(driver), transaction.object, None)

        thread = lab.start("answers", answers())
        await transaction.commit()
        if phase == TRANSACTION_NOTIFY_COMMIT:
            # The program goes on before anybody has heard of the outcome, and time orders nothing.
            await lab.sleep(2)
        field.store()
        await thread.join()

    assert run(script, races=True).code == (None if phase == TRANSACTION_NOTIFY_PREPARE else RACE)


@pytest.mark.parametrize("ordered", [True, False])
def test_making_a_section_is_ordered_before_its_notification(ordered: bool) -> None:
    async def script(lab: Lab) -> None:
        scanner = Scanner(lab, closes=True)
        field = Field()

        async def notified(Instance: Any, SectionContext: Any, Data: FLT_CALLBACK_DATA) -> int:
            field.store()
            return await Scanner.notified(scanner, Instance, SectionContext, Data)

        scanner.notified = notified  # type: ignore[method-assign]
        await scanner.load()
        file, other = await lab.quiet_open(), await lab.quiet_open()

        async def scans() -> None:
            if ordered:
                field.store()
            await scanner.create(file)
            if not ordered:
                field.store()

        async def truncates() -> None:
            await lab.sleep(1)
            await shorten(lab, other)

        await lab.together(scans(), truncates())

    assert run(script, races=True, **CACHED).code == (None if ordered else RACE)
