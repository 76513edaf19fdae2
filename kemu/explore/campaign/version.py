"""What code this process runs, so that processes that have to agree can be compared."""

from __future__ import annotations

import hashlib
import importlib
import platform
from functools import cache
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).resolve().parents[2]


@cache
def code_digest() -> str:
    """16 hexadecimal digits that stand for kemu's own source files, wherever they are installed."""
    digest = hashlib.blake2b(digest_size=8)
    files = {file.relative_to(PACKAGE).as_posix(): file for file in PACKAGE.rglob("*.py")}
    for name, file in sorted(files.items()):
        # Line ends differ with the system that the files were checked out on.
        content = file.read_bytes().replace(b"\r\n", b"\n")
        digest.update(b"%s\0%d\0" % (name.encode(), len(content)))
        digest.update(content)
    return digest.hexdigest()


def kemu_version() -> str:
    """Such as 1.2.0."""
    # The package's own module is on top of everything, and has the number all the same.
    version: str = importlib.import_module("kemu").__version__
    return version


def python_version() -> str:
    """Such as 3.11."""
    return ".".join(platform.python_version_tuple()[:2])
