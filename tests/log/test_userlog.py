"""Drivers' own log lines."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import structlog
from log.kit import record

import kemu
from kemu.log.userlog import UserLogger
from kemu.nt.kthread import KThread
from kemu.runtime import Actor, ControlledRuntime, Point, current_thread

log = kemu.get_logger(driver="avscan")


class Operation:
    def log_fields(self) -> dict[str, object]:
        return {"irp": self, "op": "IRP_MJ_READ"}


def test_a_line_knows_its_thread_actor_time_operation_and_place() -> None:
    async def main() -> None:
        thread = current_thread()
        assert isinstance(thread, KThread)
        sink = thread.runtime.log
        assert sink is not None
        thread.runtime.clock.now = 70
        sink("flt.pre.enter", frame=Operation())
        thread.actors.append(Actor(thread.runtime, "flt:avscan"))
        thread.irql = 2
        log.bind(queue="q").info("queued", depth=3)
        thread.irql = 0
        thread.actors.pop()
        sink("flt.pre.return", frame=Operation())
        await Point("end")

    row = record(main).one("user.log")
    assert row.pop("src").startswith("test_userlog.py:")
    row.pop("cause", None)
    assert row == {
        "seq": row["seq"],
        "step": 0,
        "vt": 70,
        "thread": "main",
        "actor": "flt:avscan",
        "irql": 2,
        "ev": "user.log",
        "irp": 1,
        "level": "info",
        "text": "queued",
        "data": {"driver": "avscan", "queue": "q", "depth": 3},
    }


def test_levels_and_arguments() -> None:
    async def main() -> None:
        log.debug("a %d", 1)
        log.warning("b %d")
        log.error("c", "left over")  # noqa: PLE1205 - a mistake that must not end the run
        log.critical(5)
        log.warning("d")
        try:
            raise ValueError("oh")
        except ValueError:
            log.exception("e")
        await Point("end")

    rows = record(main).of("user.log")
    assert [(row["level"], row["text"]) for row in rows] == [
        ("debug", "a 1"),
        ("warning", "b %d"),
        ("error", "c ('left over',)"),
        ("critical", "5"),
        ("warning", "d"),
        ("error", "e"),
    ]
    assert rows[-1]["data"]["exception"] == "ValueError: oh"


def test_fields_may_be_called_like_the_events_own() -> None:
    async def main() -> None:
        log.info("x", cause=1, irp="mine", obj="o", level="l", text="t", data="d", seq=3)
        await Point("end")

    row = record(main).one("user.log")
    assert row["data"] == {
        "driver": "avscan",
        "cause": 1,
        "irp": "mine",
        "obj": "o",
        "level": "l",
        "text": "t",
        "data": "d",
        "seq": 3,
    }
    assert "irp" not in row


def test_values_never_show_addresses() -> None:
    async def main() -> None:
        log.info("x", thing=object(), where=current_thread())
        await Point("end")

    data = record(main).one("user.log")["data"]
    assert (data["thing"], data["where"]) == ("object", "main")


def test_it_has_no_methods_that_need_an_event_loop() -> None:
    # They would ask for a running asyncio loop, which neither a controlled run nor trio has.
    assert [
        name for name in dir(log) if name in {"adebug", "ainfo", "awarning", "aerror", "acritical", "aexception"}
    ] == []
    assert isinstance(log, UserLogger)
    assert isinstance(log.bind(x=1), UserLogger)


def test_outside_a_run_and_in_a_run_that_is_not_logged_nothing_happens(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        log.info("unheard", value=1)
        log.exception("unheard")
        await Point("end")

    log.info("outside")
    assert ControlledRuntime(thread_class=KThread).run("main", main()).crash is None
    assert capsys.readouterr() == ("", "")


def test_structlogs_own_configuration_is_neither_read_nor_changed() -> None:
    seen: list[Any] = []

    def mine(logger: Any, name: str, event: Any) -> Any:
        seen.append(event)
        raise structlog.DropEvent

    structlog.configure(processors=[mine])
    before = structlog.get_config()
    try:

        async def main() -> None:
            kemu.get_logger().info("ours")
            await Point("end")

        assert record(main).one("user.log")["text"] == "ours"
        assert seen == []
        assert structlog.get_config() == before
    finally:
        structlog.reset_defaults()


def test_structlog_is_not_asked_while_no_run_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(UserLogger, "_proxy_to_logger", lambda *args, **kwargs: asked.append(args))  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]

    async def main() -> None:
        log.info("a line", value=1)
        log.exception("another")
        await Point("end")

    ControlledRuntime(thread_class=KThread).run("main", main())
    assert asked == []
    record(main)
    assert len(asked) == 2


def test_kemu_itself_does_not_import_structlog() -> None:
    code = "import sys, kemu; assert 'structlog' not in sys.modules; kemu.get_logger; assert 'structlog' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = kemu.nothing  # type: ignore[attr-defined]
