"""Drivers' own log lines: structlog loggers whose lines become ``user.log`` events of the run.

Thread, actor, virtual time and operation are the run's business and need not be bound. structlog is wrapped
privately: its global configuration is neither read nor changed. A line costs one look at the current thread
while a run is not logged, which is almost always.
"""

from __future__ import annotations

import sys
from pathlib import PurePath
from typing import Any, Final

import structlog
from structlog.typing import EventDict, WrappedLogger

from kemu.runtime import current_thread
from kemu.runtime.thread import current

LEVELS: Final = ("debug", "info", "warning", "error", "critical")


def is_logged() -> bool:
    """Whether the calling code is in a run that is being logged."""
    thread = current.get(None)
    return thread is not None and thread.runtime.log is not None


class UserLogger(structlog.BoundLoggerBase):
    """A structlog logger bound to whatever its driver gave it. `bind`, `unbind` and `new` are structlog's.

    It has no ``ainfo`` and the like: those need a running asyncio loop, which a controlled run does not have.
    """

    def debug(self, event: object = "", *args: object, **fields: Any) -> None:
        """Log a line that only its driver's author wants to see."""
        self._line("debug", event, args, fields)

    def info(self, event: object = "", *args: object, **fields: Any) -> None:
        """Log a line."""
        self._line("info", event, args, fields)

    def warning(self, event: object = "", *args: object, **fields: Any) -> None:
        """Log something that should not be."""
        self._line("warning", event, args, fields)

    def error(self, event: object = "", *args: object, **fields: Any) -> None:
        """Log that something failed."""
        self._line("error", event, args, fields)

    def critical(self, event: object = "", *args: object, **fields: Any) -> None:
        """Log that nothing can go on."""
        self._line("critical", event, args, fields)

    warn = warning
    fatal = critical

    def exception(self, event: object = "", *args: object, **fields: Any) -> None:
        """Log that something failed, with the exception that is being handled as the field ``exception``."""
        if is_logged():
            error = sys.exception()
            if error is not None:
                fields.setdefault("exception", f"{type(error).__name__}: {error}")
            self._line("error", event, args, fields)

    def _line(self, level: str, event: object, args: tuple[object, ...], fields: dict[str, Any]) -> None:
        if is_logged():
            text = str(event)
            if args:
                try:
                    text %= args
                except (TypeError, ValueError):
                    text = f"{text} {args!r}"
            self._proxy_to_logger(level, text, **fields)


def _emit(_: WrappedLogger, level: str, event: EventDict) -> EventDict:
    """The one processor: hand the line to the run's log, which `UserLogger` has seen to be there."""
    log = current_thread().runtime.log
    assert log is not None
    text = event.pop("event", "")
    log("user.log", level=level, text=text, src=_caller(), data=dict(event))
    raise structlog.DropEvent


def _caller() -> str | None:
    """The line of the user's code that logs, as ``file.py:12``: of whatever is outside kemu and structlog."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage] - what logging does to find a caller
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in {"kemu", "structlog"}:
            return f"{PurePath(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    return None


def get_logger(**bound: Any) -> UserLogger:
    """A logger for a driver or a script, with *bound* in every line.

    ``log = kemu.get_logger(driver="avscan")``, then ``log.info("queued", depth=3)``. The lines are
    ``user.log`` events of runs that are logged, and nothing otherwise. Usable everywhere, at any IRQL, inside
    a run or outside.
    """
    logger: UserLogger = structlog.wrap_logger(
        None, processors=[_emit], wrapper_class=UserLogger, context_class=dict
    ).bind(**bound)
    return logger
