"""Makes the programs of this folder importable: test folders are not packages."""

import sys
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).resolve().parents[1])
if FOLDER not in sys.path:
    # Behind everything else: a test folder must not hide a module.
    sys.path.append(FOLDER)


@pytest.fixture
def plain_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the start of a thread a step like others in every run, as the derivation of the expected numbers does."""
    monkeypatch.setattr("kemu.explore.strategies.base.EAGER", 256)
