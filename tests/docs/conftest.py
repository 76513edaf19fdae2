"""The documentation's own tools, loaded from where they stand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def load(name: str) -> ModuleType:
    """The module docs/*name*.py."""
    spec = importlib.util.spec_from_file_location(f"kemu_docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by its name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def transcripts() -> ModuleType:
    """docs/transcripts.py."""
    return load("transcripts")


@pytest.fixture(scope="session")
def conformance() -> ModuleType:
    """docs/conformance.py."""
    return load("conformance")


@pytest.fixture(scope="session")
def generate(conformance: ModuleType) -> ModuleType:
    """docs/generate.py, which imports docs/conformance.py."""
    sys.modules["conformance"] = conformance
    return load("generate")
