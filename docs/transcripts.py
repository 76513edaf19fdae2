"""Runs what the pages show: `python docs/transcripts.py` compares, `--write` puts the real output into the pages.

In a page, a Python block whose first line is a comment with a file name is that file, a ``diff`` block changes one,
and a ``console`` block holds commands after ``$`` with their output. All are taken in order, in a directory of the
page's own with a copy of ``scenarios/``. Commands of kemu are run, of pytest with no plugin but kemu's, and so is
``echo $?`` after one; others are only shown. A line of output that is ``...`` stands for any number of lines, times in
seconds are not compared, and a command without output must only succeed or find something. What README shows after its
marker is the output of its first command.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from click.testing import CliRunner

import _kemu_pytest
from kemu.cli.app import cli
from kemu.errors import EXIT_FINDING, EXIT_OK

ROOT: Final = Path(__file__).resolve().parents[1]
MARKER: Final = "<!-- report -->"
WILDCARD: Final = "..."

_FENCE: Final = re.compile(r"^```(\w*)\s*$")
_FILE: Final = re.compile(r"^# ([\w./-]+\.py)(, continued)?$")
_SECONDS: Final = re.compile(r"\b\d+(?:\.\d+)? ?s\b")
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_TOKEN: Final = re.compile(r"\bKS1\.[0-9a-f]{8}\.[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Command:
    """A command that a page shows, with the lines of its output."""

    text: str
    first: int
    """The number of the first line of output in the page, from 0."""
    expected: tuple[str, ...]


@dataclass(frozen=True)
class File:
    """A file that a page shows, whole or a part to be added."""

    name: str
    content: str
    is_added: bool

    def apply(self) -> None:
        """Write it."""
        path = Path(self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text(encoding="utf-8") if self.is_added else ""
        path.write_text(before + self.content, encoding="utf-8")


@dataclass(frozen=True)
class Change:
    """A change of a file: lines as in a unified diff, without the numbers."""

    name: str
    lines: tuple[str, ...]

    def apply(self) -> None:
        """Make it, in the one place that it fits."""
        path = Path(self.name)
        before = "".join(f"{line[1:]}\n" for line in self.lines if line[:1] != "+")
        after = "".join(f"{line[1:]}\n" for line in self.lines if line[:1] != "-")
        text = path.read_text(encoding="utf-8")
        if text.count(before) != 1:
            raise ValueError(f"{self.name} has {text.count(before)} places for the change:\n{before}")
        path.write_text(text.replace(before, after), encoding="utf-8")


@dataclass
class Shell:
    """Runs commands in the current directory and remembers how the last one ended."""

    exit_code: int = 0
    runner: CliRunner = field(default_factory=lambda: CliRunner(env={"NO_COLOR": "1", "FORCE_COLOR": None}))

    def run(self, text: str) -> list[str] | None:
        """The lines that the command *text* prints; None for a command that is only shown."""
        words = shlex.split(text)
        if words == ["echo", "$?"]:
            return [str(self.exit_code)]
        if words[0] == "pytest":
            return self.run_pytest(words[1:])
        if words[0] != "kemu":
            return None
        result = self.runner.invoke(cli, words[1:])
        self.exit_code = result.exit_code
        return [line.rstrip() for line in result.output.splitlines()]

    def run_pytest(self, words: list[str]) -> list[str]:
        """The lines that pytest prints, in a process of its own."""
        paths = [str(Path(_kemu_pytest.__file__).parent), os.environ.get("PYTHONPATH", "")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        env |= {"COLUMNS": "100", "NO_COLOR": "1"}
        for name in ("CI", "FORCE_COLOR", "PYTEST_ADDOPTS"):
            env.pop(name, None)
        command = [sys.executable, "-m", "pytest", "-p", "_kemu_pytest", "-p", "no:cacheprovider", *words]
        result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        self.exit_code = result.returncode
        return [line.rstrip() for line in result.stdout.splitlines()]


def pages() -> list[Path]:
    """Every page that may show commands."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(lines: list[str]) -> Iterator[tuple[str, int, int]]:
    """The fenced blocks of a page: language, and the numbers of the first line inside and of the closing fence."""
    start = language = None
    for number, line in enumerate(lines):
        match = _FENCE.match(line)
        if match is None:
            continue
        if start is None:
            start, language = number + 1, match[1]
        else:
            yield language or "", start, number
            start = None


def items(text: str) -> list[File | Change | Command]:
    """The files, their changes and the commands of a page, in order."""
    lines = text.splitlines()
    found: list[File | Change | Command] = []
    is_after_marker = False
    for language, start, end in blocks(lines):
        inside = lines[start:end]
        if language == "python" and inside:
            name = _FILE.match(inside[0])
            if name is not None:
                found.append(File(name[1], "\n".join([*inside, ""]), name[2] is not None))
        elif language == "diff" and inside[0].startswith("--- "):
            found.append(Change(inside[0].removeprefix("--- "), tuple(inside[1:])))
        elif language == "console":
            found += _commands(inside, start)
        elif language == "text" and MARKER in lines[:start] and not is_after_marker:
            is_after_marker = True
            shown = next(one for one in found if isinstance(one, Command))
            found.append(Command(shown.text.rpartition("&&")[2].strip(), start, tuple(inside)))
    return found


def _commands(inside: list[str], start: int) -> Iterator[Command]:
    at = 0
    while at < len(inside):
        line = inside[at]
        at += 1
        if not line.startswith("$ "):
            raise ValueError(f"line {start + at}: a console block begins with a command after '$ '")
        text = line.removeprefix("$ ")
        while text.endswith("\\"):
            text = text.removesuffix("\\") + inside[at].strip()
            at += 1
        first = at
        while at < len(inside) and not inside[at].startswith("$ "):
            at += 1
        yield Command(text, start + first, tuple(inside[first:at]))


def matches(expected: tuple[str, ...], actual: list[str]) -> bool:
    """Whether a page's lines stand for *actual*."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == WILDCARD else re.escape(_SECONDS.sub("N s", line)) + r"\n" for line in expected
    )
    return re.fullmatch(pattern, "".join(f"{_SECONDS.sub('N s', line)}\n" for line in actual)) is not None


@contextmanager
def workplace() -> Generator[None]:
    """A directory of its own, with the scenarios, as the current one."""
    with tempfile.TemporaryDirectory() as folder:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "scenarios", Path(folder) / "scenarios", ignore=ignored)
        with chdir(folder):
            yield


def compare(page: Path) -> tuple[str, list[str]]:
    """The text of *page* as it should be, and what is wrong with it as it is."""
    text = page.read_text(encoding="utf-8")
    wrong: list[str] = []
    with workplace():
        shell = Shell()
        for number in range(len(items(text))):
            # Again each time: what an earlier command prints may have moved and changed what follows.
            item = items(text)[number]
            if not isinstance(item, Command):
                item.apply()
                continue
            actual = shell.run(item.text)
            if actual is None:
                continue
            where = f"{page.relative_to(ROOT).as_posix()}:{item.first}: {item.text}"
            if not item.expected:
                if shell.exit_code not in {EXIT_OK, EXIT_FINDING}:
                    wrong.append("\n".join([f"{where} exits with {shell.exit_code}:", *actual]))
            elif not matches(item.expected, actual):
                wrong.append("\n".join([f"{where} prints:", *actual]))
                text = _replaced(text, item, actual)
    return text, wrong


def abridged(expected: tuple[str, ...], actual: list[str]) -> list[str]:
    """As many lines of *actual* at the beginning and at the end as *expected* shows, if it leaves lines out."""
    if WILDCARD not in expected:
        return actual
    head, tail = expected.index(WILDCARD), expected[::-1].index(WILDCARD)
    if head + tail >= len(actual):
        return actual
    return [*actual[:head], WILDCARD, *actual[len(actual) - tail :]]


def _replaced(text: str, command: Command, actual: list[str]) -> str:
    lines = text.splitlines()
    lines[command.first : command.first + len(command.expected)] = abridged(command.expected, actual)
    text = "\n".join([*lines, ""])
    old = _TOKEN.findall("\n".join(command.expected))
    new = _TOKEN.findall("\n".join(actual))
    for one, other in zip(old, new, strict=False):
        text = text.replace(one, other)
    return text


def broken_links(page: Path) -> Iterator[str]:
    """The links of *page* to files and headings that are not there."""
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        if "://" in link:
            continue
        if not target.exists() or (heading and heading not in _headings(target)):
            yield link


def _headings(page: Path) -> set[str]:
    """The headings of *page* as links name them."""
    lines = page.read_text(encoding="utf-8").splitlines()
    titles = [line.lstrip("#").strip().lower() for line in lines if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def main() -> int:
    """Compare the pages, or with --write correct them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the real output into the pages")
    parser.add_argument("pages", nargs="*", type=Path, help="the pages; all of them unless given")
    arguments = parser.parse_args()
    problems = 0
    for page in [one.resolve() for one in arguments.pages] or pages():
        text, wrong = compare(page)
        problems += len(wrong)
        for problem in wrong:
            print(problem, end="\n\n")
        if arguments.write and wrong:
            page.write_text(text, encoding="utf-8")
            print(f"wrote {page}")
    return 1 if problems and not arguments.write else 0


if __name__ == "__main__":
    sys.exit(main())
