"""What pytest knows of the test that runs, for kemu; and what kemu has to say of it, for pytest's reports.

The plugin's module, which every run of pytest imports, makes a `Session` when a test of kemu's is about to
run, and takes what is in it when the test is over. A test that is called without the plugin has one of its own.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kemu.cli.targets import command_line
from kemu.explore import Corpus
from kemu.testing.program import Identity
from kemu.testing.settings import Options


@dataclass(slots=True)
class Session:
    """One call of one test."""

    identity: Identity | None = None
    """None without the plugin; the function says where it stands, then."""
    shown: str = ""
    """The test as it is named in a command, from where pytest was called."""
    options: Options = field(default_factory=Options)
    root: Path = field(default_factory=Path)
    """Where names of tests and the corpus begin."""

    properties: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    """For JUnit and whoever else reads `user_properties`: only what JSON knows."""
    sections: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Titles and texts for the report of the test."""
    summary: str = ""
    """One line on what was done."""

    def note(self, **values: Any) -> None:
        """Add properties; what is None is left out."""
        self.properties += [(f"kemu.{name}", value) for name, value in values.items() if value is not None]

    def say(self, title: str, lines: list[str]) -> None:
        """Add a section."""
        if lines:
            self.sections.append((title, "\n".join(lines)))

    def replay_command(self, identity: Identity, token: str) -> str:
        """The command that runs the test as *token* says."""
        return command_line("pytest", self.shown or identity.name, "--kemu-token", token)

    def corpus(self) -> Corpus | None:
        """Where failing runs are kept, if they are."""
        return Corpus.beside(self.root) if self.options.corpus and self.identity is not None else None


_current: ContextVar[Session | None] = ContextVar("kemu_session", default=None)


def current() -> Session:
    """The call of the test that is running."""
    return _current.get() or Session()


@contextmanager
def running(session: Session) -> Generator[Session]:
    """Within the block, *session* is the current one."""
    token = _current.set(session)
    try:
        yield session
    finally:
        _current.reset(token)
