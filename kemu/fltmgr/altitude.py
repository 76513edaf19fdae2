"""Altitudes: decimal numbers of any length, written as strings (FLT-STACK-05)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

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


GROUPS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "Filter": ("420000", "429999"),
        "FSFilter Top": ("400000", "409999"),
        "FSFilter Activity Monitor": ("360000", "389999"),
        "FSFilter Undelete": ("340000", "349999"),
        "FSFilter Anti-Virus": ("320000", "329999"),
        "FSFilter Replication": ("300000", "309999"),
        "FSFilter Continuous Backup": ("280000", "289999"),
        "FSFilter Content Screener": ("260000", "269999"),
        "FSFilter Quota Management": ("240000", "249999"),
        "FSFilter System Recovery": ("220000", "229999"),
        "FSFilter Cluster File System": ("200000", "209999"),
        "FSFilter HSM": ("180000", "189999"),
        "FSFilter Imaging": ("170000", "175000"),
        "FSFilter Compression": ("160000", "169999"),
        "FSFilter Encryption": ("140000", "149999"),
        "FSFilter Virtualization": ("130000", "139999"),
        "FSFilter Physical Quota Management": ("120000", "129999"),
        "FSFilter Open File": ("100000", "109999"),
        "FSFilter Security Enhancer": ("80000", "89999"),
        "FSFilter Copy Protection": ("60000", "69999"),
        "FSFilter Bottom": ("40000", "49999"),
        "FSFilter System": ("20000", "29999"),
        "FSFilter Infrastructure": ("0", "19999"),
    }
)
"""The load order groups of minifilters with the whole parts of their lowest and highest altitudes, the top first."""


def is_within(altitude: str, group: str) -> bool:
    """Whether *altitude*, whatever its fraction, is in the range of the load order group *group*."""
    key = altitude_key(altitude)
    lowest, highest = (altitude_key(end) for end in GROUPS[group])
    return key is not None and lowest is not None and highest is not None and lowest[:2] <= key[:2] <= highest[:2]


def group_of(altitude: str) -> str | None:
    """The load order group in whose range *altitude* is, or None."""
    return next((group for group in GROUPS if is_within(altitude, group)), None)
