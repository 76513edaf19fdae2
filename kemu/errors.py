"""What can go wrong, in families; each family has one exit code of the command line.

::

    finding                     exit 1  the driver's or the scenario's bug. A value, not an exception, because
                                        the driver that it is about could swallow an exception
    KemuError
    |- UsageError               exit 2  kemu was asked for what it cannot do; names bad value and remedy
    |  |- ScenarioError                 a scenario file or declaration is wrong
    |  |- DriverSourceError             the loader refused a driver; has path and line
    |  |- TokenError                    a replay token is damaged, of another version, or of other code
    |  |- ForeignAwaitable              something that is not kemu's was awaited where kemu schedules
    |  `- NothingMatched        exit 5  no scenario matched what was asked for
    |- NonDeterminism           exit 4  the same choices gave another run; names the first difference
    |  |- ReplayDiverged                a replay left the recorded run
    |  `- ScenarioNotDeterministic      two runs of one scenario differ
    |- WorkerDied               exit 3  a worker process was killed, twice; names the runs it was to make
    `- InternalError            exit 3  a bug of kemu itself; asks for the replay token

Exit code 0 means that nothing was found within the budget, 130 that the user interrupted.

Everybody may import this module; it imports nothing of kemu. Failures of emulated routines are not here:
those are statuses (``kemu.nt.status``), because that is what a driver has to deal with.
"""

from __future__ import annotations

from typing import ClassVar, Final

EXIT_OK: Final = 0
EXIT_FINDING: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERNAL: Final = 3
EXIT_DIVERGED: Final = 4
EXIT_NOTHING_MATCHED: Final = 5
EXIT_INTERRUPTED: Final = 130


class KemuError(Exception):
    """The base of every exception that kemu raises on purpose."""

    exit_code: ClassVar[int] = EXIT_INTERNAL


class UsageError(KemuError):
    """kemu was asked for something it cannot do.

    ``message`` names the bad value, ``remedy`` says what to write or do instead. Both start in lower case
    and end without a full stop; ``str()`` joins them.
    """

    exit_code: ClassVar[int] = EXIT_USAGE

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class ScenarioError(UsageError):
    """A scenario file cannot be used, or what it declares is wrong."""


class DriverSourceError(UsageError):
    """The loader refused a driver's source: what it found would not be what the author meant.

    ``path`` and ``line`` (from 1) say where; ``str()`` begins with them, as a compiler's message does.
    """

    def __init__(self, message: str, path: str, line: int, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        # An exception is copied and pickled by calling its class with `args`.
        self.args = (message, path, line)
        self.path = path
        self.line = line

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {super().__str__()}"


class TokenError(UsageError):
    """A replay token cannot be used: damaged, of another version, or recorded with other code."""


class ForeignAwaitable(UsageError):
    """Something that is not a kemu operation was awaited where kemu decides who runs."""


class NothingMatched(UsageError):
    """No scenario matched what was asked for."""

    exit_code: ClassVar[int] = EXIT_NOTHING_MATCHED


class NonDeterminism(KemuError):
    """The same choices did not give the same run.

    ``step`` (from 0) is the first one that differs; ``message`` says what was expected there and what came.
    """

    exit_code: ClassVar[int] = EXIT_DIVERGED

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message, step)
        self.message = message
        self.step = step

    def __str__(self) -> str:
        return f"step {self.step}: {self.message}"


class ReplayDiverged(NonDeterminism):
    """A replay could not follow its token: what was recorded at ``step`` is not possible there now."""


class ScenarioNotDeterministic(NonDeterminism):
    """Two runs of one scenario with the same choices differ at ``step``.

    Something that kemu does not own decides: the wall clock, ``random``, the order of a set, a real thread.
    """


class WorkerDied(KemuError):
    """Worker processes, two or more, were killed or ended while they made the same runs: ``what``."""

    exit_code: ClassVar[int] = EXIT_INTERNAL

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return (
            f"one worker after another died while it made {self.what}; the system may have been short of memory, or"
            " the driver's code ended the process"
        )


class InternalError(KemuError):
    """A bug of kemu itself. ``token`` is the replay token of the run it happened in, where there is one."""

    exit_code: ClassVar[int] = EXIT_INTERNAL

    def __init__(self, message: str, token: str = "") -> None:
        super().__init__(message, token)
        self.message = message
        self.token = token

    def __str__(self) -> str:
        token = f"the replay token {self.token}" if self.token else "the command that led here"
        return f"{self.message}; this is a bug in kemu: please report it with {token}"
