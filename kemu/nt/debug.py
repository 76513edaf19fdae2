"""Debug output."""

from __future__ import annotations

from kemu.nt.routine import routine
