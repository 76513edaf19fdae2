"""Critical regions: they nest, belong to the thread, and end where they began."""

from __future__ import annotations

import pytest
from fltmgr.kit import Lab, run

from kemu.wdk.fltkernel import FLT_CALLBACK_DATA, FLT_PREOP_SUCCESS_NO_CALLBACK, FLT_RELATED_OBJECTS
from kemu.wdk.ntddk import KeAreApcsDisabled, KeEnterCriticalRegion, KeLeaveCriticalRegion
from kemu.wdk.wdm import IRP_MJ_READ


@pytest.mark.rule("KE-APC-04", "KE-APC-05", "KE-APC-10")
def test_regions_nest_and_belong_to_the_thread() -> None:
    async def script(lab: Lab) -> list[bool]:
        async def other() -> bool:
            return KeAreApcsDisabled()

        seen = [KeAreApcsDisabled()]
        KeEnterCriticalRegion()
        KeEnterCriticalRegion()
        seen += [KeAreApcsDisabled(), *await lab.together(other())]
        KeLeaveCriticalRegion()
        seen.append(KeAreApcsDisabled())
        KeLeaveCriticalRegion()
        return [*seen, KeAreApcsDisabled()]

    assert run(script).result == [False, True, False, True, False]


@pytest.mark.rule("KE-APC-06")
def test_leaving_what_was_not_entered() -> None:
    async def script(lab: Lab) -> None:
        KeEnterCriticalRegion()
        KeLeaveCriticalRegion()
        KeLeaveCriticalRegion()

    assert run(script).code == "ke.region-balance"


@pytest.mark.rule("FLT-PRE-27")
@pytest.mark.parametrize(("leaves", "code"), [(True, None), (False, "callback-dirty-exit")])
def test_a_callback_leaves_the_region_that_it_entered(leaves: bool, code: str | None) -> None:
    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        KeEnterCriticalRegion()
        if leaves:
            KeLeaveCriticalRegion()
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    async def script(lab: Lab) -> None:
        await lab.filter("D", "1", {IRP_MJ_READ: (pre, None)})
        await (await lab.open()).read(1)

    assert run(script).code == code
