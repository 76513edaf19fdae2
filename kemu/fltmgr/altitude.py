"""Altitudes: decimal numbers of any length, written as strings (FLT-STACK-05)."""

from __future__ import annotations

import re

_ALTITUDE = re.compile(r"(?=.*[0-9])(?P<whole>[0-9]*)(?:\.(?P<fraction>[0-9]*))?")

AltitudeKey = tuple[int, str, str]
"""Orders altitudes as numbers: the digits of the whole part, counted and then as text, then the fraction's as text."""


def altitude_key(altitude: str) -> AltitudeKey | None:
    """The key of *altitude*, or None if it is malformed: digits with at most one decimal point, nothing else.

    Digits after the point compare as text because that is how fractions without trailing zeros compare: "5" is
    above "45". Never a float, which would take altitudes that differ in the seventeenth digit for equal, nor an
    int, of which Python limits the digits that it reads.
    """
    match = _ALTITUDE.fullmatch(altitude)
    if match is None:
        return None
    whole = match["whole"].lstrip("0")
    return len(whole), whole, (match["fraction"] or "").rstrip("0")
