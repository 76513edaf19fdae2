"""NTSTATUS prints as its name, costs what an int costs, and its values are Windows's."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemu.errors import UsageError
from kemu.nt import status as module
from kemu.nt.status import (
    NT_ERROR,
    NT_INFORMATION,
    NT_SUCCESS,
    NT_WARNING,
    NTSTATUS,
    STATUS_ABANDONED,
    STATUS_ABANDONED_WAIT_0,
    STATUS_ACCESS_DENIED,
    STATUS_CANCELLED,
    STATUS_DEVICE_BUSY,
    STATUS_FLT_BUFFER_TOO_SMALL,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_FLT_IO_COMPLETE,
    STATUS_FWP_DROP_NOICMP,
    STATUS_INVALID_PARAMETER_1,
    STATUS_INVALID_PARAMETER_12,
    STATUS_OBJECT_NAME_EXISTS,
    STATUS_PENDING,
    STATUS_SUCCESS,
    STATUS_TIMEOUT,
    STATUS_USER_APC,
    STATUS_WAIT_0,
    is_known,
    status_from_name,
)

CONSTANTS = {name: value for name, value in vars(module).items() if name.startswith("STATUS_")}

# Values as in ntstatus.h, spread over severities and facilities.
HEADER = {
    "STATUS_SUCCESS": 0x00000000,
    "STATUS_TIMEOUT": 0x00000102,
    "STATUS_PENDING": 0x00000103,
    "STATUS_REPARSE": 0x00000104,
    "STATUS_OBJECT_NAME_EXISTS": 0x40000000,
    "STATUS_BUFFER_OVERFLOW": 0x80000005,
    "STATUS_NO_MORE_ENTRIES": 0x8000001A,
    "STATUS_UNSUCCESSFUL": 0xC0000001,
    "STATUS_ACCESS_VIOLATION": 0xC0000005,
    "STATUS_INVALID_PARAMETER": 0xC000000D,
    "STATUS_INVALID_DEVICE_REQUEST": 0xC0000010,
    "STATUS_END_OF_FILE": 0xC0000011,
    "STATUS_MORE_PROCESSING_REQUIRED": 0xC0000016,
    "STATUS_ACCESS_DENIED": 0xC0000022,
    "STATUS_OBJECT_NAME_NOT_FOUND": 0xC0000034,
    "STATUS_SHARING_VIOLATION": 0xC0000043,
    "STATUS_INSUFFICIENT_RESOURCES": 0xC000009A,
    "STATUS_NOT_SUPPORTED": 0xC00000BB,
    "STATUS_CANCELLED": 0xC0000120,
    "STATUS_FLT_DELETING_OBJECT": 0xC01C000B,
    "STATUS_FLT_CBDQ_DISABLED": 0xC01C000E,
    "STATUS_FLT_INSTANCE_ALTITUDE_COLLISION": 0xC01C0011,
    "STATUS_FLT_WCOS_NOT_SUPPORTED": 0xC01C0024,
    "STATUS_FWP_CANNOT_PEND": 0xC0220103,
}


@pytest.mark.parametrize(("name", "value"), HEADER.items())
def test_values_are_the_headers(name: str, value: int) -> None:
    assert CONSTANTS[name] == value


def test_every_constant_is_a_status_of_32_bits() -> None:
    assert all(type(value) is NTSTATUS and 0 <= value <= 0xFFFFFFFF for value in CONSTANTS.values())


def test_only_the_documented_pairs_share_a_value() -> None:
    # A typing error in the table would most likely show as two names for one code.
    by_value: dict[int, list[str]] = {}
    for name, value in CONSTANTS.items():
        by_value.setdefault(int(value), []).append(name)
    assert [names for names in by_value.values() if len(names) > 1] == [
        ["STATUS_SUCCESS", "STATUS_WAIT_0"],
        ["STATUS_ABANDONED_WAIT_0", "STATUS_ABANDONED"],
    ]


def test_framework_codes_carry_their_facility() -> None:
    # Bits 16 to 27 of a status are its facility: 0x19 transactions, 0x1C filter manager, 0x22 filtering platform.
    facilities = {"TRANSACTION": 0x19, "FLT": 0x1C, "FWP": 0x22}
    older = {"STATUS_TRANSACTION_ABORTED"}
    for name, value in CONSTANTS.items():
        expected = 0 if name in older else facilities.get(name.split("_")[1], 0)
        assert (value >> 16) & 0xFFF == expected, name


def test_families_are_complete() -> None:
    # Filter manager errors run from 1 to 1C, then 20, 23 and 24; two more codes are not errors.
    numbers = [*range(0x01, 0x1D), 0x20, 0x23, 0x24]
    ours = {int(value) for name, value in CONSTANTS.items() if name.startswith("STATUS_FLT_")}
    assert ours == {0xC01C0000 + number for number in numbers} | {0x001C0001, 0x801C0001}
    # Filtering platform: 1 to 2F and 33 to 37, then 100 to 104.
    numbers = [*range(0x01, 0x30), *range(0x33, 0x38), *range(0x100, 0x105)]
    ours = {int(value) for name, value in CONSTANTS.items() if name.startswith("STATUS_FWP_")}
    assert ours == {0xC0220000 + number for number in numbers}
    assert [NTSTATUS(0xC00000EF + i).name for i in range(12)] == [f"STATUS_INVALID_PARAMETER_{i}" for i in range(1, 13)]
    assert (STATUS_INVALID_PARAMETER_1, STATUS_INVALID_PARAMETER_12) == (0xC00000EF, 0xC00000FA)


def test_a_known_status_prints_as_its_name() -> None:
    assert repr(STATUS_FLT_DELETING_OBJECT) == "STATUS_FLT_DELETING_OBJECT"
    assert str(STATUS_FLT_DELETING_OBJECT) == "STATUS_FLT_DELETING_OBJECT"
    assert f"{STATUS_PENDING}" == "STATUS_PENDING"
    assert STATUS_PENDING.name == "STATUS_PENDING"


def test_an_unknown_status_prints_as_eight_digits() -> None:
    assert repr(NTSTATUS(0xE0001234)) == "0xE0001234"
    assert str(NTSTATUS(0x2A0)) == "0x000002A0"
    assert NTSTATUS(0xE0001234).name == "0xE0001234"


def test_formatting_pads_the_name_and_converts_the_number() -> None:
    assert f"{STATUS_PENDING:>16}" == "  STATUS_PENDING"
    assert f"{STATUS_CANCELLED:08X}" == "C0000120"
    assert f"{STATUS_CANCELLED:#x}" == "0xc0000120"
    assert f"{STATUS_TIMEOUT:d}" == "258"


def test_of_two_names_the_general_one_is_printed() -> None:
    assert str(STATUS_WAIT_0) == "STATUS_SUCCESS"
    assert str(STATUS_ABANDONED) == "STATUS_ABANDONED_WAIT_0"


def test_results_of_waiting_on_several_objects_have_names() -> None:
    # The header spells out only some of them; a driver computes the rest as STATUS_WAIT_0 + i.
    assert [NTSTATUS(STATUS_WAIT_0 + i).name for i in range(1, 64)] == [f"STATUS_WAIT_{i}" for i in range(1, 64)]
    assert [NTSTATUS(STATUS_ABANDONED_WAIT_0 + i).name for i in range(64)] == [
        f"STATUS_ABANDONED_WAIT_{i}" for i in range(64)
    ]
    assert NTSTATUS(STATUS_ABANDONED_WAIT_0 + 64) is STATUS_USER_APC
    assert not is_known(64)


def test_a_known_value_is_the_constant_itself() -> None:
    assert NTSTATUS(0xC0000022) is STATUS_ACCESS_DENIED
    assert NTSTATUS(7) is NTSTATUS(7)
    assert pickle.loads(pickle.dumps(STATUS_ACCESS_DENIED)) is STATUS_ACCESS_DENIED
    assert copy.deepcopy(STATUS_ACCESS_DENIED) is STATUS_ACCESS_DENIED


def test_a_status_is_an_int() -> None:
    assert STATUS_PENDING == 0x103
    assert {0x103: "found"}[STATUS_PENDING] == "found"
    assert STATUS_PENDING in (STATUS_SUCCESS, STATUS_PENDING)


def test_c_s_signed_values_mean_the_same_bits() -> None:
    assert NTSTATUS(-0x3FFFFFDE) is STATUS_ACCESS_DENIED
    assert NTSTATUS(-1) == 0xFFFFFFFF
    assert NTSTATUS(-0x80000000) == 0x80000000


@pytest.mark.parametrize("value", [0x1_0000_0000, -0x80000001])
def test_a_value_beyond_32_bits_is_refused(value: int) -> None:
    with pytest.raises(UsageError, match=f"{value:#x}"):
        NTSTATUS(value)


@pytest.mark.parametrize(
    ("status", "success", "information", "warning", "error"),
    [
        (STATUS_SUCCESS, True, False, False, False),
        # The classic trap: these all pass NT_SUCCESS.
        (STATUS_TIMEOUT, True, False, False, False),
        (STATUS_PENDING, True, False, False, False),
        (STATUS_USER_APC, True, False, False, False),
        (STATUS_ABANDONED_WAIT_0, True, False, False, False),
        (STATUS_FLT_IO_COMPLETE, True, False, False, False),
        (NTSTATUS(0x3FFFFFFF), True, False, False, False),
        (STATUS_OBJECT_NAME_EXISTS, True, True, False, False),
        (NTSTATUS(0x7FFFFFFF), True, True, False, False),
        # Warnings are neither a success nor an error.
        (NTSTATUS(0x80000000), False, False, True, False),
        (STATUS_DEVICE_BUSY, False, False, True, False),
        (STATUS_FLT_BUFFER_TOO_SMALL, False, False, True, False),
        (NTSTATUS(0xBFFFFFFF), False, False, True, False),
        (NTSTATUS(0xC0000000), False, False, False, True),
        (STATUS_ACCESS_DENIED, False, False, False, True),
        (STATUS_FWP_DROP_NOICMP, False, False, False, True),
        (NTSTATUS(0xFFFFFFFF), False, False, False, True),
    ],
    ids=str,
)
def test_severity(status: NTSTATUS, success: bool, information: bool, warning: bool, error: bool) -> None:
    assert NT_SUCCESS(status) is success
    assert NT_INFORMATION(status) is information
    assert NT_WARNING(status) is warning
    assert NT_ERROR(status) is error


@given(st.integers(-0x80000000, 0x7FFFFFFF))
def test_severity_of_c_s_signed_value_is_that_of_its_bits(value: int) -> None:
    bits = value & 0xFFFFFFFF
    for test in (NT_SUCCESS, NT_INFORMATION, NT_WARNING, NT_ERROR):
        assert test(value) == test(bits) == test(NTSTATUS(value))
    # The two top bits, by C's definition of the macros.
    assert [NT_INFORMATION(bits), NT_WARNING(bits), NT_ERROR(bits)] == [bits >> 30 == i for i in (1, 2, 3)]
    assert NT_SUCCESS(bits) == (value >= 0)


def test_every_constant_is_found_by_its_name() -> None:
    for name, value in CONSTANTS.items():
        assert status_from_name(name) is NTSTATUS(value)
        assert is_known(value)
    assert status_from_name("STATUS_WAIT_17") == 17


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match=r"STATUS_ACCES_DENIED.*did you mean STATUS_ACCESS_DENIED"):
        status_from_name("STATUS_ACCES_DENIED")
    with pytest.raises(UsageError, match=r"'42'.*ntstatus\.h"):
        status_from_name("42")


def test_unknown_values_are_not_known() -> None:
    assert not is_known(0xE0001234)
    NTSTATUS(0xE0001234)  # making one does not make it known
    assert not is_known(0xE0001234)
