"""How a test of kemu's fails."""

from __future__ import annotations


class FindingError(AssertionError):
    """The test has a finding, or lacks the one that it expects. ``str()`` is the whole report."""

    def __init__(self, headline: str, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.headline = headline
        """The report in one line."""


class KemuWarning(UserWarning):
    """Something is wrong that fails no test: what the verifier advises, or a line of source that is suspicious."""
