"""Python blocks of the pages are run: Sybil collects them, page by page.

Each page has a namespace of its own, and a directory of its own with a copy of ``scenarios/`` as the current one.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack, chdir
from pathlib import Path
from typing import Any, Final

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

SCENARIOS: Final = Path(__file__).resolve().parents[1] / "scenarios"
PLACE: Final = "_place"


def setup(namespace: dict[str, Any]) -> None:
    """Give a page its directory."""
    stack = namespace[PLACE] = ExitStack()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    shutil.copytree(SCENARIOS, folder / "scenarios", ignore=shutil.ignore_patterns("__pycache__"))
    stack.enter_context(chdir(folder))


def teardown(namespace: dict[str, Any]) -> None:
    """Take it away."""
    namespace[PLACE].close()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()], patterns=["*.md"], setup=setup, teardown=teardown
).pytest()
