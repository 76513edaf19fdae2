"""What goes to which stream."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading

import pytest

from kemu.cli.console import Console
from kemu.cli.interrupt import gentle_interrupts, say
from kemu.cli.targets import command_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_on_a_terminal_at_most_ten_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr("kemu.cli.console.time.monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", err := Terminal())
    console = Console()
    console.progress("a long line")
    console.progress("too soon")
    now[0] += 0.1
    console.progress("short")
    console.clear()
    console.clear()
    assert err.getvalue() == "\ra long line\rshort      \r     \r"


@pytest.mark.parametrize(("terminal", "quiet"), [(False, False), (True, True)])
def test_no_progress_elsewhere(monkeypatch: pytest.MonkeyPatch, terminal: bool, quiet: bool) -> None:
    monkeypatch.setattr(sys, "stderr", err := Terminal() if terminal else io.StringIO())
    Console(quiet=quiet).progress("line")
    assert err.getvalue() == ""


def test_results_take_the_line_of_progress_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", err := Terminal())
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())
    console = Console()
    console.progress("abc")
    console.print(["result"])
    assert (out.getvalue(), err.getvalue()) == ("result\n", "\rabc\r   \r")


def test_json_silences_everything_else(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=True)
    console.print(["for people"])
    console.json("{}")
    assert capsys.readouterr().out == "{}\n"


def test_a_reader_that_goes_away_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    console = Console()
    console.print(["one"])
    console.print(["two"])
    assert sys.stdout.name == os.devnull


def test_the_first_interrupt_asks_and_the_second_stops() -> None:
    heard: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with gentle_interrupts(heard.append) as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        assert heard == ["kemu: stopping after this run; Ctrl-C once more stops at once"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with gentle_interrupts() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop()


def test_interrupts_outside_the_main_thread_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[bool] = []

    def body() -> None:
        with gentle_interrupts() as stop:
            seen.append(signal.getsignal(signal.SIGINT) is before and not stop())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [True]


def test_what_is_said_of_an_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    say("stopping")
    assert capsys.readouterr().err == "\nstopping\n"


@pytest.mark.parametrize(
    ("system", "line"),
    [
        ("posix", "kemu replay 'a b/x.py::y[z]' KS1.0.A-_"),
        ("nt", 'kemu replay "a b/x.py::y[z]" KS1.0.A-_'),
    ],
)
def test_a_command_line_can_be_pasted(monkeypatch: pytest.MonkeyPatch, system: str, line: str) -> None:
    monkeypatch.setattr("kemu.cli.targets.os.name", system)
    words = ("kemu", "replay", "a b/x.py::y[z]", "KS1.0.A-_")
    result = command_line(*words)
    monkeypatch.undo()
    assert result == line
