"""Requests, file objects and parameters."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, run

from kemu.io.constants import (
    IRP_MJ_READ,
    IRP_PAGING_IO,
    IRP_SYNCHRONOUS_API,
    IRP_SYNCHRONOUS_PAGING_IO,
    major_name,
)
from kemu.io.request import FAST_IO_OPERATION, FS_FILTER_OPERATION, IRP_OPERATION, Parameters
from kemu.wdk.ntstatus import STATUS_PENDING, STATUS_SUCCESS


@pytest.mark.rule("FLT-CBD-19")
@pytest.mark.parametrize(
    ("overlapped", "kind", "flags", "synchronous"),
    [
        (False, IRP_OPERATION, 0, True),
        (True, IRP_OPERATION, 0, False),
        (True, IRP_OPERATION, IRP_SYNCHRONOUS_API, True),
        (False, IRP_OPERATION, IRP_PAGING_IO, False),
        (True, IRP_OPERATION, IRP_PAGING_IO | IRP_SYNCHRONOUS_PAGING_IO, True),
        (True, FAST_IO_OPERATION, 0, True),
        (True, FS_FILTER_OPERATION, 0, True),
    ],
)
def test_a_request_is_synchronous_if_its_originator_waits(
    overlapped: bool, kind: int, flags: int, synchronous: bool
) -> None:
    async def script(lab: Lab) -> bool:
        file = await lab.open(overlapped=overlapped)
        return lab.request(file, IRP_MJ_READ, kind=kind, flags=flags).is_synchronous

    assert run(script).result is synchronous


def test_a_request_is_pending_until_it_is_finished() -> None:
    async def script(lab: Lab) -> list[Any]:
        request = lab.request(await lab.open(), IRP_MJ_READ, Length=2)
        before = [request.done, request.status]
        await lab.send(request)
        return [*before, request.done, request.status, request.information, request.buffer]

    assert run(script).result == [False, STATUS_PENDING, True, STATUS_SUCCESS, 2, b"01"]


def test_the_names_of_a_request_and_of_its_cancel_state_do_not_depend_on_who_asks_first() -> None:
    def script_of(asks: bool) -> Any:
        async def script(lab: Lab) -> list[tuple[int, ...]]:
            file = await lab.open()
            first = lab.request(file, IRP_MJ_READ)
            if asks:
                _ = first.cancel
            second = lab.request(file, IRP_MJ_READ)
            return [first.name, first.cancel.name, second.name, second.cancel.name]

        return script

    names = run(script_of(asks=True)).result
    assert names == run(script_of(asks=False)).result
    assert len(set(names)) == 4


def test_parameters_are_equal_member_by_member_and_copied() -> None:
    one = Parameters(Length=3, ByteOffset=7, Buffer=b"abc")
    twin = one.copy()
    assert twin == one
    twin.Length = 4
    assert twin != one
    assert one.Length == 3
    assert one != "parameters"


def test_a_major_function_prints_as_its_name() -> None:
    assert major_name(IRP_MJ_READ) == "IRP_MJ_READ"
    assert major_name(0x77) == "IRP_MJ 0x77"
