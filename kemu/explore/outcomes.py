"""Outcome sets: what a program can come to, with one run for each.

A program says what counts, by putting it into its outcomes under names; a finding is an outcome, too. Equivalent runs
come to the same, so the reduced search is enough to know them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
