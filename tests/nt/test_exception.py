"""Which exceptions a filter is to handle."""

from __future__ import annotations

import pytest
from fltmgr.kit import Lab, run

from kemu.nt.kthread import HIGH_LEVEL, current_kthread
from kemu.wdk.ntifs import FsRtlIsNtstatusExpected
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_VIOLATION,
    STATUS_DATATYPE_MISALIGNMENT,
    STATUS_DISK_FULL,
    STATUS_ILLEGAL_INSTRUCTION,
    STATUS_INSTRUCTION_MISALIGNMENT,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_USER_BUFFER,
    STATUS_SUCCESS,
)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (STATUS_ACCESS_VIOLATION, False),
        (STATUS_DATATYPE_MISALIGNMENT, False),
        (STATUS_ILLEGAL_INSTRUCTION, False),
        (STATUS_INSTRUCTION_MISALIGNMENT, False),
        (STATUS_INSUFFICIENT_RESOURCES, True),
        (STATUS_INVALID_USER_BUFFER, True),
        (STATUS_DISK_FULL, True),
        (STATUS_SUCCESS, True),
        # As C's NTSTATUS, which is signed.
        (0xC0000005 - 0x1_0000_0000, False),
    ],
)
def test_what_a_filter_is_to_handle(status: int, expected: bool) -> None:
    async def script(lab: Lab) -> bool:
        current_kthread().irql = HIGH_LEVEL
        return FsRtlIsNtstatusExpected(status)

    one = run(script)
    assert (one.code, one.result) == (None, expected)
