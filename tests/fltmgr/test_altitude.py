"""Altitudes as numbers, and the order of the instances on a volume (FLT-STACK)."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from fltmgr.kit import Lab, run
from hypothesis import given
from hypothesis import strategies as st

from kemu.errors import ScenarioError
from kemu.fltmgr.altitude import AltitudeKey, altitude_key
from kemu.wdk.ntstatus import STATUS_FLT_INSTANCE_ALTITUDE_COLLISION, STATUS_INVALID_PARAMETER, STATUS_SUCCESS
from kemu.wdk.wdm import IRP_MJ_READ


def key(altitude: str) -> AltitudeKey:
    found = altitude_key(altitude)
    assert found is not None
    return found


@pytest.mark.rule("FLT-STACK-05")
@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("100.123456", "03333"),
        ("9", "10"),
        ("328010", "328010.1"),
        ("328010.45", "328010.5"),
        ("328010.123456789012345678", "328010.123456789012345679"),
        ("99999999999999999999", "100000000000000000000"),
        ("9" * 5_000, "1" + "0" * 5_000),
        (".4", "0.5"),
        ("0", ".0001"),
    ],
)
def test_altitudes_compare_as_numbers(lower: str, higher: str) -> None:
    assert key(lower) < key(higher)


@pytest.mark.rule("FLT-STACK-05")
@pytest.mark.parametrize(
    ("one", "other"), [("0328010", "328010"), ("328010.50", "328010.5"), ("7.", "7"), (".5", "00.500"), ("0", "000.0")]
)
def test_leading_and_trailing_zeros_do_not_count(one: str, other: str) -> None:
    assert key(one) == key(other)


@pytest.mark.rule("FLT-STACK-05")
@pytest.mark.parametrize("text", ["", ".", "1.2.3", "-1", "+1", " 1", "1\n", "1e5", "0x10", "\u0661", "12a"])
def test_what_is_no_altitude(text: str) -> None:
    assert altitude_key(text) is None


DIGITS = st.text("0123456789", max_size=30)
ALTITUDES = st.one_of(
    st.text("0123456789", min_size=1, max_size=30), st.builds("{}.{}".format, DIGITS, DIGITS).filter(lambda t: t != ".")
)


@pytest.mark.rule("FLT-STACK-05")
@given(ALTITUDES, ALTITUDES)
def test_the_order_is_that_of_decimal_numbers(one: str, other: str) -> None:
    with localcontext() as context:
        context.prec = 100
        # Twice as many digits as there are: both are exact.
        assert (key(one) < key(other)) == (Decimal(one) < Decimal(other))
        assert (key(one) == key(other)) == (Decimal(one) == Decimal(other))


@pytest.mark.rule("FLT-STACK-01", "FLT-STACK-05")
def test_the_stack_is_in_the_order_of_numbers() -> None:
    async def script(lab: Lab) -> None:
        # As text, and as floats, these would stand in other orders.
        await lab.recorder("third", "99999.9", IRP_MJ_READ)
        await lab.recorder("first", "100000.00000000000000002", IRP_MJ_READ)
        await lab.recorder("second", "100000.00000000000000001", IRP_MJ_READ)
        await (await lab.open()).read(1)

    assert run(script).order == [
        "first.pre", "second.pre", "third.pre", "third.post", "second.post", "first.post",
    ]  # fmt: skip


@pytest.mark.rule("FLT-STACK-06")
def test_one_instance_at_an_altitude() -> None:
    async def script(lab: Lab) -> list[int]:
        await lab.recorder("A", "328010", IRP_MJ_READ)
        other = await lab.recorder("B", "140000", IRP_MJ_READ)
        return [await lab.attach(other, "328010.00"), await lab.attach(other, "328010.01")]

    assert run(script).result == [STATUS_FLT_INSTANCE_ALTITUDE_COLLISION, STATUS_SUCCESS]


@pytest.mark.rule("FLT-INST-10")
def test_attaching_at_what_is_no_altitude() -> None:
    async def script(lab: Lab) -> int:
        return await lab.attach(await lab.recorder("A", "328010"), "328010a")

    assert run(script).result == STATUS_INVALID_PARAMETER


def test_a_script_is_told_about_a_taken_altitude() -> None:
    async def script(lab: Lab) -> None:
        await lab.recorder("A", "328010")
        await lab.recorder("B", "0328010.0")

    with pytest.raises(ScenarioError, match=r"'0328010\.0' is taken by A; give another one, such as"):
        run(script)


def test_a_script_is_told_about_a_malformed_altitude() -> None:
    async def script(lab: Lab) -> None:
        await lab.recorder("A", "high")

    with pytest.raises(ScenarioError, match="'high' is not an altitude"):
        run(script)


@pytest.mark.rule("FLT-STACK-07")
def test_a_reloaded_filter_comes_back_to_its_place() -> None:
    async def script(lab: Lab) -> None:
        await lab.recorder("A", "300000", IRP_MJ_READ)
        middle = await lab.recorder("B", "200000", IRP_MJ_READ)
        await lab.recorder("C", "100000", IRP_MJ_READ)
        assert await middle.unload() == STATUS_SUCCESS
        await lab.load(middle.driver, "200000")
        await (await lab.open()).read(1)

    assert run(script).order == ["A.pre", "B.pre", "C.pre", "C.post", "B.post", "A.post"]
