"""Makes `disk` importable: test folders are not packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).resolve().parents[1])
if FOLDER not in sys.path:
    # Behind everything else: a test folder must not hide a module.
    sys.path.append(FOLDER)

from disk import Disk  # noqa: E402


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A volume with the file ``a``, which holds ten digits, and the directory ``d``."""
    with Disk() as one:
        one.fs.add(r"\a", b"0123456789")
        one.fs.add_directory(r"\d")
        yield one
