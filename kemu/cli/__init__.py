"""The command line: parses arguments and prints.

- ``app``        the group of commands, loaded lazily; what an exception becomes; exit codes
- ``options``    options and kinds of values that commands share
- ``commands/``  one command a file
- ``targets``    from what is typed to the programs that are meant
- ``hunt``       one program explored, its findings shrunk, explained and traced, as data
- ``single``     one run: made, and reported
- ``listing``    what there is to run
- ``order``      a schedule written by hand, as an oracle
- ``report``     a failure, as lines of text
- ``verdict``    an exploration that has found nothing, as lines of text
- ``jsonout``    data to the objects that ``--json`` prints, with their keys documented
- ``console``    what goes to which stream, in colour or not; progress
- ``interrupt``  Ctrl-C

Stands on top of everything; nobody imports it. Importing this package loads nothing else, so that help and
version come at once.
"""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """The entry point of the ``kemu`` command. Never returns: the exit code is that of `kemu.errors`."""
    try:
        from kemu.cli.app import run

        run()
    except KeyboardInterrupt:
        # So early, or so late, that the commands' own handling is not in force.
        raise SystemExit(130) from None
