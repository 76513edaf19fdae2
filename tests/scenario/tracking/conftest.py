"""Makes the programs of this folder importable: test folders are not packages."""

import sys
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).resolve().parents[2])
if FOLDER not in sys.path:
    # Behind everything else: a test folder must not hide a module.
    sys.path.append(FOLDER)

from scenario.tracking.kit import Files  # noqa: E402 - found by way of the lines above


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)
