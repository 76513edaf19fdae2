"""From what is typed to the programs that are meant."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from kemu.errors import TokenError, UsageError
from kemu.explore import Entry, Key
from kemu.runtime import LogSink, Observer, Oracle, Outcome, Runtime

if TYPE_CHECKING:
    from kemu.scenario.declare import Preemption

LogFactory = Callable[[Runtime], LogSink]


class Program(Protocol):
    """What the scenario layer gives: a scenario with one of its variants."""

    @property
    def name(self) -> str:
        """``path.py::name[variant]``."""
        ...

    @property
    def identity(self) -> str:
        """16 hexadecimal digits that name scenario, variant, options and code."""
        ...

    @property
    def expected(self) -> str | None:
        """The finding that the scenario says this variant has."""
        ...

    @property
    def races(self) -> bool:
        """Whether data races are findings."""
        ...

    def run(
        self,
        oracle: Oracle,
        observer: Observer | None = None,
        log: LogFactory | None = None,
        max_steps: int | None = None,
    ) -> Outcome:
        """Run it once."""
        ...

    def run_live(self, backend: str = "trio", log: LogFactory | None = None) -> Outcome:
        """Run it once on an event loop."""
        ...


class Limited:
    """A program whose runs take at most so many steps."""

    def __init__(self, program: Program, max_steps: int) -> None:
        self.program = program
        self.max_steps = max_steps
        self.loaded: object = getattr(program, "loaded", None)
        self.name = program.name
        self.identity = program.identity
        self.expected = program.expected
        self.races = program.races
        self.verifier: str | None = getattr(program, "verifier", None)
        self.given_preempt: str | None = getattr(program, "given_preempt", None)

    @property
    def can_track(self) -> bool:
        """Whether runs can record what they do to driver state."""
        return bool(getattr(self.program, "can_track", False))

    def instrumented(self, tracked: bool = True) -> Limited:
        """The same program, with runs that record what they do to driver state, or do not."""
        inner: Any = self.program
        return Limited(inner.instrumented(tracked), self.max_steps)

    def run(
        self,
        oracle: Oracle,
        observer: Observer | None = None,
        log: LogFactory | None = None,
        max_steps: int | None = None,
    ) -> Outcome:
        """Run it once."""
        return self.program.run(oracle, observer, log, max_steps or self.max_steps)

    def run_live(self, backend: str = "trio", log: LogFactory | None = None) -> Outcome:
        """Run it once on an event loop, which counts no steps."""
        return self.program.run_live(backend, log)


def select(
    targets: Iterable[str],
    variant: str | None,
    max_steps: int | None = None,
    preempt: str | None = None,
    *,
    races: bool = False,
    verifier: str | None = None,
) -> list[Program]:
    """The programs that *targets* mean, in their order, each once.

    *variant* is for targets that name none; *preempt* replaces what the scenarios say; with *races*, data races are
    findings; *verifier* is settings of it. Raises `UsageError`.
    """
    from kemu.scenario.target import select as select_programs

    found: dict[str, Program] = {}
    for text in targets:
        for program in select_programs(
            text, variant=variant, preempt=cast("Preemption | None", preempt), races=races, verifier=verifier
        ):
            found.setdefault(program.name, program)
    if max_steps is not None:
        return [Limited(program, max_steps) for program in found.values()]
    return list(found.values())


def select_one(
    target: str,
    variant: str | None,
    max_steps: int | None = None,
    preempt: str | None = None,
    *,
    races: bool = False,
    verifier: str | None = None,
) -> Program:
    """The one program that *target* means. Raises `UsageError` if there are more."""
    programs = select([target], variant, max_steps, preempt, races=races, verifier=verifier)
    if len(programs) > 1:
        names = ", ".join(program.name for program in programs[:6])
        more = ", ..." if len(programs) > 6 else ""
        raise UsageError(
            f"{target} means {len(programs)} scenarios and variants: {names}{more}", remedy="name one of them"
        )
    return programs[0]


def choices_of(token: str, program: Program) -> tuple[int, ...]:
    """The choices that *token* has for *program*. Raises `TokenError`, which names what to do."""
    from kemu.explore import decode
    from kemu.scenario.declare import PREEMPTIONS

    inner: Any = program.program if isinstance(program, Limited) else program
    recorded_with = token.strip().split(".")[1:2]
    for preempt in PREEMPTIONS:
        if program.identity[:8] not in recorded_with and hasattr(inner, "identity_with"):
            identity: str = inner.identity_with(preempt)
            if identity[:8] in recorded_with:
                raise TokenError(
                    f"the token {token.strip()[:40]!r} was recorded with preemption {preempt!r}, and this program is"
                    f" preempted at {inner.preempt!r}",
                    remedy=f"give --preempt {preempt}",
                )
    return decode(token, program.identity)


def source_warnings(programs: Iterable[Program]) -> tuple[str, ...]:
    """What the loader would have the author look at, each warning once."""
    found: dict[str, None] = {}
    for program in programs:
        loaded: Any = getattr(program, "loaded", None)
        found.update((str(warning), None) for warning in getattr(loaded, "warnings", ()))
    return tuple(found)


def command_line(*words: Any) -> str:
    """*words* as they can be pasted into a shell of this system."""
    texts = [str(word) for word in words]
    if os.name == "nt":
        return " ".join(f'"{text}"' if any(c in text for c in " &()^|") else text for text in texts)
    return shlex.join(texts)


def replay_command(program: Program, token: str) -> str:
    """The command that replays *token*."""
    limit = ("--max-steps", program.max_steps) if isinstance(program, Limited) else ()
    races = ("--races",) if program.races else ()
    given = getattr(program, "given_preempt", None)
    preempt = ("--preempt", given) if given is not None else ()
    return command_line("kemu", "replay", *limit, *preempt, *races, *verifier_words(program), program.name, token)


def verifier_words(program: Program) -> list[str]:
    """The options that give *program* its verifier settings."""
    settings: str | None = getattr(program, "verifier", None)
    return ["--verifier", settings] if settings is not None else []


def corpus_key(program: Program) -> Key:
    """What the corpus knows *program* by: its name as seen from here, and what makes it another program."""
    path, separator, rest = program.name.partition("::")
    options = ("--max-steps", str(program.max_steps)) if isinstance(program, Limited) else ()
    given = getattr(program, "given_preempt", None)
    if given is not None:
        options += ("--preempt", given)
    if program.races:
        options += ("--races",)
    options += tuple(verifier_words(program))
    return Key(f"{short_path(str(Path(path).resolve()))}{separator}{rest}", options)


def entry_command(entry: Entry) -> str:
    """The command that replays the run of the corpus that *entry* is."""
    key = entry.key
    if key.tool == "pytest":
        return command_line("pytest", *key.options, key.program, "--kemu-token", entry.token)
    return command_line(key.tool, "replay", *key.options, key.program, entry.token)


def short_path(file: str) -> str:
    """*file* as seen from the working directory, if it is below it."""
    try:
        return Path(file).relative_to(Path.cwd()).as_posix()
    except ValueError:
        return file
