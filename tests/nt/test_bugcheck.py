"""Bug checks print as a debugger prints them, and their codes are bugcodes.h's."""

from dataclasses import FrozenInstanceError

import pytest

from kemu.nt import bugcheck as module
from kemu.nt.bugcheck import (
    BAD_POOL_CALLER,
    FLTMGR_FILE_SYSTEM,
    IRQL_NOT_LESS_OR_EQUAL,
    THREAD_TERMINATE_HELD_MUTEX,
    BugCheck,
    BugCheckCode,
)

CODES = {name: value for name, value in vars(module).items() if isinstance(value, BugCheckCode)}

# Every code of the kernel specification's table, in its order; names as in bugcodes.h.
SPECIFIED = """
    01 05 06 09 0A 0C 0F 10 11 18 19 1E 20 35 36 39 3B 44 48 4A 50 7E 7F 8E 93 96 B8 BF C1 C2 C4 C5 D0 C6 C7
    C8 C9 CB CC CD CE D1 D3 D4 D5 D6 DF E1 E3 E4 E9 F5 FC 11B 121 132 16E 133 135 139 152 16C 153 162 192
    1D3 4000008A
"""


def test_every_specified_code_has_one_name_and_no_other_has() -> None:
    specified = [int(code, 16) for code in SPECIFIED.split()]
    assert sorted(map(int, CODES.values())) == sorted(specified)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0x0A, "IRQL_NOT_LESS_OR_EQUAL"),
        (0x44, "MULTIPLE_IRP_COMPLETE_REQUESTS"),
        (0x50, "PAGE_FAULT_IN_NONPAGED_AREA"),
        (0x7E, "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED"),
        (0xC2, "BAD_POOL_CALLER"),
        (0xC4, "DRIVER_VERIFIER_DETECTED_VIOLATION"),
        (0xC9, "DRIVER_VERIFIER_IOMANAGER_VIOLATION"),
        (0xCE, "DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS"),
        (0xD1, "DRIVER_IRQL_NOT_LESS_OR_EQUAL"),
        (0xE3, "RESOURCE_NOT_OWNED"),
        (0xF5, "FLTMGR_FILE_SYSTEM"),
        (0x139, "KERNEL_SECURITY_CHECK_FAILURE"),
    ],
)
def test_codes_carry_the_headers_names(code: int, name: str) -> None:
    assert BugCheckCode(code).name == name
    assert CODES[name] == code


def test_a_code_prints_as_number_and_name() -> None:
    assert str(FLTMGR_FILE_SYSTEM) == "0xF5 FLTMGR_FILE_SYSTEM"
    assert repr(IRQL_NOT_LESS_OR_EQUAL) == "0x0A IRQL_NOT_LESS_OR_EQUAL"
    assert f"{THREAD_TERMINATE_HELD_MUTEX}" == "0x4000008A THREAD_TERMINATE_HELD_MUTEX"


def test_a_drivers_own_code_prints_as_its_number() -> None:
    assert str(BugCheckCode(0xDEADDEAD)) == "0xDEADDEAD"
    assert BugCheckCode(0xDEADDEAD).name == ""


def test_a_bug_check_is_one_line() -> None:
    stop = BugCheck(FLTMGR_FILE_SYSTEM, (0x6D, 0xFFFFE00012345678), "context over-dereferenced")
    assert str(stop) == ("BugCheck F5, {6d, ffffe00012345678, 0, 0} FLTMGR_FILE_SYSTEM: context over-dereferenced")


def test_a_bug_check_without_name_or_reason_stays_readable() -> None:
    assert str(BugCheck(BAD_POOL_CALLER)) == "BugCheck C2, {0, 0, 0, 0} BAD_POOL_CALLER"
    assert str(BugCheck(BugCheckCode(0xE2), (1, 2, 3, 4))) == "BugCheck E2, {1, 2, 3, 4}"


def test_parameters_print_as_pointer_sized_bits() -> None:
    assert "{ffffffffffffffff, 0, 0, 0}" in str(BugCheck(FLTMGR_FILE_SYSTEM, (-1,)))


def test_five_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="at most four parameters, not 5"):
        BugCheck(BAD_POOL_CALLER, (1, 2, 3, 4, 5))


def test_a_bug_check_is_a_value() -> None:
    stop = BugCheck(BAD_POOL_CALLER, (7,))
    assert stop == BugCheck(BAD_POOL_CALLER, (7,))
    assert hash(stop) == hash(BugCheck(BAD_POOL_CALLER, (7,)))
    with pytest.raises(FrozenInstanceError):
        stop.text = "changed"  # pyright: ignore[reportAttributeAccessIssue]
