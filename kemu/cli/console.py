"""What is printed where: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from typing import Final

import click

PROGRESS_INTERVAL: Final = 0.1
"""Seconds between two updates of the line of progress."""

STYLES: Final = {
    "FAIL": "red",
    "ok": "green",
    "warning:": "yellow",
}
"""How the first word of a line colours it."""


class Console:
    """The two streams of one command."""

    def __init__(
        self, *, color: str = "auto", verbose: bool = False, quiet: bool = False, as_json: bool = False
    ) -> None:
        self.verbose = verbose
        self.quiet = quiet
        self.as_json = as_json
        self.colour = wants_colour(color)
        self._shown = 0
        self._next = 0.0
        self._shows_progress = not quiet and sys.stderr.isatty()

    def print(self, lines: Iterable[str]) -> None:
        """Print lines for a person on stdout; nothing if the command prints JSON."""
        if not self.as_json:
            self._write(self.paint(line) for line in lines)

    def json(self, text: str) -> None:
        """Print the one JSON object on stdout."""
        self._write([text])

    def _write(self, lines: Iterable[str]) -> None:
        self.clear()
        try:
            for line in lines:
                click.echo(line, color=self.colour)
        except BrokenPipeError:
            # Whoever read has seen enough. The verdict still is the exit code.
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for the rest of the process

    def note(self, line: str) -> None:
        """Print a line about what is going on, on stderr."""
        self.clear()
        if not self.quiet:
            click.echo(line, err=True)

    def paint(self, line: str) -> str:
        """*line* in the colour of its first word."""
        if not self.colour:
            return line
        word, _, rest = line.partition(" ")
        colour = STYLES.get(word)
        return line if colour is None else f"{click.style(word, fg=colour, bold=True)} {rest}"

    def progress(self, text: str) -> None:
        """Show *text* as the line of progress, on a terminal, at most ten times a second."""
        now = time.monotonic()
        if not self._shows_progress or now < self._next:
            return
        self._next = now + PROGRESS_INTERVAL
        sys.stderr.write(f"\r{text:<{self._shown}}")
        sys.stderr.flush()
        self._shown = len(text)

    def clear(self) -> None:
        """Take the line of progress away."""
        if self._shown:
            sys.stderr.write(f"\r{'':<{self._shown}}\r")
            sys.stderr.flush()
            self._shown = 0


def wants_colour(choice: str) -> bool:
    """Whether to colour stdout: as asked; otherwise as the environment says, or if it is a terminal."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or sys.stdout.isatty()
