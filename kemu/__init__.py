"""kemu: emulates the parts of the Windows kernel that call into drivers, and owns the order of all they do.

What lives where, from the bottom up:

- ``kemu.errors``    what goes wrong, in families, and the exit codes of the command line
- ``kemu.runtime``   threads, actors, mailboxes, operations, choices, the virtual clock; who runs next
- ``kemu.nt``        the kernel core: status codes, bug checks, IRQL, dispatcher objects, locks, pool
- ``kemu.io``        the I/O manager: requests, file objects, volumes, an in-memory file system
- ``kemu.fltmgr``    the filter manager and its minifilters
- ``kemu.wdk``       the driver author's door: one module per WDK header, names as in C
- ``kemu.verifier``  the documented rules; each watches what the layers publish and raises a finding
- ``kemu.log``       a run as typed events: records, rendering, export
- ``kemu.explore``   strategies, replay, shrinking, explanation
- ``kemu.scenario``  declaring, loading and checking scenarios; the world that a script talks to
- ``kemu.cli``       parses arguments and prints, nothing else
- ``kemu.testing``   tests with pytest; beside the package the plugin, ``_kemu_pytest``, which every pytest imports

Who may import whom: ``runtime <- nt <- io <- fltmgr <- wdk``, and no framework imports another. ``explore``
knows only ``runtime``; ``verifier`` and ``log`` know what the layers publish; ``scenario`` puts it together;
``cli`` and ``testing`` are on top and ``errors`` below everything. The contracts in ``pyproject.toml`` hold
every import to this.

A driver author imports ``kemu.wdk``, and ``get_logger`` from here; the author of a scenario,
``kemu.scenario``; of a test, ``kemu.testing``; of a strategy, ``kemu.explore``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kemu.log.userlog import get_logger

__all__ = ["__version__", "get_logger"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazily: structlog takes longer to import than everything that a short command does.
    if name == "get_logger":
        from kemu.log.userlog import get_logger

        return get_logger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
