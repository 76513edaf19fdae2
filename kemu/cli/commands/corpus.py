"""``kemu corpus``: the failing runs that explorations have kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kemu.cli import options as opt
from kemu.errors import EXIT_OK, NothingMatched, UsageError

if TYPE_CHECKING:
    from kemu.cli.console import Console
    from kemu.explore import Corpus, Entry


@click.group(name="corpus")
def command() -> None:
    """Show, remove and merge the failing runs that explorations have kept.

    kemu explore keeps what it finds, and tries it first the next time. An ID is the first column of kemu corpus
    ls, or as much of its beginning as tells it from the others.
    """


@command.command(name="ls")
@click.argument("program", required=False)
@opt.corpus_option
@opt.json_option
@opt.quiet_option("Print the IDs only.")
def ls(program: str | None, corpus: str | None, as_json: bool, quiet: bool) -> int:
    """List the runs, of every program or of those in whose name PROGRAM occurs."""
    from kemu.cli.console import Console
    from kemu.cli.jsonout import dump, entry_object

    console = Console(as_json=as_json, quiet=quiet)
    entries = [one for one in read(console, corpus) if program is None or program in one.key.program]
    if program is not None and not entries:
        raise NothingMatched(f"the corpus has no run of {program!r}", remedy="kemu corpus ls shows what it has")
    if not entries:
        console.note("kemu: the corpus is empty")
    for entry in entries:
        clean = f"  {entry.clean} clean replay{'s' * (entry.clean != 1)}" if entry.clean else ""
        options = "".join(f" {word}" for word in entry.key.options)
        console.print([entry.id if console.quiet else f"{entry.id}  {entry.code}  {entry.key.program}{options}{clean}"])
    if as_json:
        console.json(dump("corpus ls", {"entries": [entry_object(one) for one in entries]}))
    return EXIT_OK


@command.command(name="show")
@click.argument("entry_id", metavar="ID")
@opt.corpus_option
@opt.json_option
@opt.quiet_option("Print the program and the command only.")
def show(entry_id: str, corpus: str | None, as_json: bool, quiet: bool) -> int:
    """Show one run, with the command that replays it."""
    from kemu.cli.console import Console
    from kemu.cli.jsonout import dump, entry_object
    from kemu.cli.targets import entry_command

    console = Console(as_json=as_json, quiet=quiet)
    entry = the_one(entry_id, read(console, corpus))
    lines = [f"{entry.id} {entry.key.program}: {entry.code}"]
    if not console.quiet:
        about = entry.signature[1:]
        lines += [f"  about {' '.join(about)}"] if any(about) else []
        lines.append(f"  found in {entry.origin}")
        if entry.cost is None:
            lines.append("  not shrunk")
        else:
            preemptions, answers, switches, length = entry.cost
            lines.append(
                f"  decisions {length}, preemptions {preemptions}, answers that are not plain {answers},"
                f" switches {switches}"
            )
        if entry.clean:
            lines.append(f"  replayed without a failure by the last {entry.clean} of the explorations")
    lines.append(f"  replay: {entry_command(entry)}")
    console.print(lines)
    if as_json:
        console.json(dump("corpus show", {"entry": entry_object(entry)}))
    return EXIT_OK


@command.command(name="rm")
@click.argument("entry_ids", metavar="ID...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Remove every run.")
@opt.corpus_option
@opt.quiet_option("Print nothing.")
def rm(entry_ids: tuple[str, ...], everything: bool, corpus: str | None, quiet: bool) -> int:
    """Remove runs."""
    from kemu.cli.console import Console

    console = Console(quiet=quiet)
    if everything == bool(entry_ids):
        raise UsageError("which runs to remove is not said", remedy="give their IDs, or --all")
    kept = place(corpus)
    entries = read(console, corpus)
    # Before the first one is removed, every word has to mean one.
    chosen = entries if everything else list(dict.fromkeys(the_one(one, entries) for one in entry_ids))
    for entry in chosen:
        if kept.remove(entry) and not console.quiet:
            console.print([f"removed {entry.id}  {entry.code}  {entry.key.program}"])
    if problems := kept.take_problems():
        raise UsageError("; ".join(problems), remedy="remove the files yourself, or as somebody who may")
    return EXIT_OK


@command.command(name="merge")
@click.argument("directories", metavar="DIR...", nargs=-1, required=True)
@opt.corpus_option
@opt.quiet_option("Print nothing.")
def merge(directories: tuple[str, ...], corpus: str | None, quiet: bool) -> int:
    """Take over the runs of other corpora, such as those of CI; of one bug, the simplest run stays."""
    from kemu.cli.console import Console
    from kemu.explore import Corpus

    console = Console(quiet=quiet)
    kept = place(corpus)
    for directory in directories:
        if not Path(directory).is_dir():
            raise UsageError(f"there is no corpus {directory}", remedy="give a directory such as .kemu/corpus")
    for directory in directories:
        other = Corpus(Path(directory))
        entries = other.entries()
        added = sum(kept.add(entry) for entry in entries)
        warn(console, other)
        if problems := kept.take_problems():
            raise UsageError("; ".join(problems), remedy="give a corpus that you may write to")
        if not console.quiet:
            console.print([f"{directory}: {added} of {len(entries)} runs taken over, the others are known"])
    return EXIT_OK


def place(directory: str | None) -> Corpus:
    """The corpus that is meant."""
    from kemu.cli.hunt import corpus_of

    corpus = corpus_of(directory)
    assert corpus is not None
    return corpus


def read(console: Console, directory: str | None) -> list[Entry]:
    """Its runs; what cannot be read is named on stderr."""
    corpus = place(directory)
    entries = corpus.entries()
    warn(console, corpus)
    return entries


def warn(console: Console, corpus: Corpus) -> None:
    """Say what is wrong with *corpus*."""
    for problem in corpus.take_problems():
        console.note(f"kemu: warning: {problem}")


def the_one(text: str, entries: list[Entry]) -> Entry:
    """The entry whose ID begins with *text*."""
    found = [entry for entry in entries if text and entry.id.startswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{text!r} is the beginning of {len(found)} IDs: {', '.join(one.id for one in found[:6])}",
            remedy="give more of the one that you mean",
        )
    raise NothingMatched(f"the corpus has no run {text!r}", remedy="kemu corpus ls shows the IDs")
