"""Altitudes: decimal numbers of any length, written as strings (FLT-STACK-05)."""

from __future__ import annotations

import re

_ALTITUDE = re.compile(r"(?=.*[0-9])(?P<whole>[0-9]*)(?:\.(?P<fraction>[0-9]*))?")

AltitudeKey = tuple[int, str]
"""Orders altitudes as numbers: the whole part, then the fraction's digits without trailing zeros, as text."""


def altitude_key(altitude: str) -> AltitudeKey | None:
    """The key of *altitude*, or None if it is malformed: digits with at most one decimal point, nothing else.

    Digits after the point compare as text because that is how fractions without trailing zeros compare: "5" is
    above "45". Never a float, which would take altitudes that differ in the seventeenth digit for equal.
    """
    match = _ALTITUDE.fullmatch(altitude)
    if match is None:
        return None
    return int(match["whole"] or "0"), (match["fraction"] or "").rstrip("0")
