"""``kemu kd``: a debugger over a run that can be had again: forward, back, and what WinDbg shows there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from kemu.cli import options as opt
from kemu.errors import EXIT_OK, EXIT_USAGE, KemuError, UsageError

if TYPE_CHECKING:
    from kemu.cli.console import Console
    from kemu.cli.moments import Watched
    from kemu.runtime import Runtime

HELP: Final = """\
!fltkd.filters  !fltkd.frames  !fltkd.volumes  !fltkd.instances  !fltkd.irplist
!fltkd.filter NAME  !fltkd.instance NAME  !fltkd.volume NAME  !fltkd.cbd irpN (or !fltkd.irpctrl)
!thread  !locks        every thread and where it stands; what threads hold
p, p-                  one step on, one step back (t and t- are the same)
g, g-                  to the last complete step, to the first
!tt N                  to step N
q                      quit"""
COMMANDS: Final = (
    "!fltkd.filters", "!fltkd.frames", "!fltkd.volumes", "!fltkd.instances", "!fltkd.irplist", "!fltkd.filter",
    "!fltkd.instance", "!fltkd.volume", "!fltkd.cbd", "!fltkd.irpctrl", "!fltkd.help", "!thread", "!locks", "!tt",
    "p", "t", "p-", "t-", "g", "g-", "q", "help",
)  # fmt: skip


@click.command(name="kd")
@click.argument("target", metavar="TARGET[@STEP]")
@click.option("-c", "given", metavar="COMMANDS", help="Carry these out, separated by semicolons, and quit.")
@click.option("--token", metavar="TOKEN", help="Run TARGET as this token says, not plainly.")
@opt.variant_option
def command(target: str, given: str | None, token: str | None, variant: str | None) -> int:
    """Look at a run after any of its steps, with the commands of WinDbg; help lists them.

    TARGET is a scenario, or a trace that kemu wrote with -o. Without @STEP the last complete step is meant. Going back
    runs the scenario once more, from its beginning.
    """
    from kemu.cli.console import Console
    from kemu.cli.moments import watched

    console = Console()
    run, step = watched(target, token=token, variant=variant)
    session = Session(console, run, step)
    session.show_position()
    if given is not None:
        for line in given.split(";"):
            if not session.carry_out(line.strip()):
                break
        return EXIT_OK
    return session.read()


class Session:
    """A run, and the step that is looked at."""

    def __init__(self, console: Console, run: Watched, step: int) -> None:
        self.console = console
        self.run = run
        self.step = step

    def show_position(self) -> None:
        """Say which step was taken last, and by whom."""
        self.console.print([f"step {self.step} of 0 to {self.run.steps - 1}: {self.run.look(self.step, _last)}"])

    def read(self) -> int:
        """Carry out what is typed until that ends. A mistake is told, and nothing is lost."""
        prompts = sys.stdin.isatty()
        code = EXIT_OK
        while True:
            if prompts:
                click.echo(f"{self.step}: kd> ", nl=False)
            line = sys.stdin.readline()
            try:
                if not line or not self.carry_out(line.strip()):
                    return code
            except KemuError as error:
                self.console.note(f"kemu: {error}")
                # Somebody who types can do better; a script that goes on has failed.
                code = EXIT_OK if prompts else EXIT_USAGE

    def carry_out(self, line: str) -> bool:
        """Carry out one command; false if it was the last. Raises `UsageError`."""
        word, _, rest = line.partition(" ")
        if not word:
            return True
        if word == "q":
            return False
        if word in {"help", "!fltkd.help"}:
            self.console.print(HELP.splitlines())
        elif word in {"p", "t", "p-", "t-", "g", "g-", "!tt"}:
            self._go(word, rest.strip())
        else:
            self.console.print(self.run.look(self.step, lambda runtime: list(view(runtime, word, rest.strip()))))
        return True

    def _go(self, word: str, rest: str) -> None:
        last = self.run.steps - 1
        if word == "!tt":
            if not rest.isdecimal() or int(rest) > last:
                raise UsageError(f"{rest!r} is no step of this run", remedy=f"give !tt a number from 0 to {last}")
            self.step = int(rest)
        elif word in {"g", "g-"}:
            self.step = last if word == "g" else 0
        else:
            self.step = min(last, max(0, self.step + (-1 if word.endswith("-") else 1)))
        self.show_position()


def _last(runtime: Runtime) -> str:
    thread = runtime.running
    if thread is None:
        return "the clock"
    return f"{thread.label}, {'has ended' if not thread.alive else f'then to {thread.op.describe()}'}"


def view(runtime: Runtime, word: str, rest: str) -> Iterator[str]:
    """What a command that looks shows. Raises `UsageError` for one that is unknown, or that lacks its object."""
    from kemu.cli.app import possibilities
    from kemu.views import fltkd

    if word == "!thread":
        yield from fltkd.thread_list(runtime)
    elif word == "!locks":
        yield from fltkd.lock_list(runtime)
    elif word.startswith("!fltkd.") and word[7:] in fltkd.LISTS:
        yield from fltkd.LISTS[word[7:]](runtime.system)
    elif word.startswith("!fltkd.") and word[7:] in fltkd.DETAILS:
        yield from fltkd.DETAILS[word[7:]](runtime.system, rest)
    else:
        raise UsageError(f"there is no command {word!r}", remedy=possibilities(word, COMMANDS))
