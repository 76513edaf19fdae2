"""The corpus: failing runs that were found, kept in a directory and tried first the next time.

A run is kept for its program by name and not by its code: after a change its choices are still the first to
try. One file holds one run, and for each bug there is one, the simplest that was found::

    .kemu/.gitignore                    written by kemu: what is in here is of this machine
    .kemu/corpus/<program>/<bug>.json   both names are hashes: of the `Key`, and of the failure's signature

A file is written beside its place and renamed, so that several processes may share a corpus: readers see a
whole file or none. Nothing that is wrong with a corpus may stop an exploration: it goes to `Corpus.problems`,
with the file's name, and the file is left alone. `kemu.explore.memory` says what is done with the runs.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from kemu.errors import TokenError
from kemu.explore.token import decode

T = TypeVar("T")

FORMAT: Final = "kemu.corpus/1"
FOLDER: Final = ".kemu"

NAME: Final = re.compile(r"[0-9a-f]{32}\.json")
PROGRAM: Final = re.compile(r"[0-9a-f]{32}")

GITIGNORE: Final = "# Written by kemu: failures found on this machine.\n*\n"


@dataclass(frozen=True, slots=True)
class Key:
    """What a run is a run of, whatever its code is at the moment."""

    program: str
    """Its name, such as ``scenarios/x.py::name[variant]``, seen from the directory that holds the corpus."""
    options: tuple[str, ...] = ()
    """What was asked for besides and makes it another program, such as ``--max-steps 50``."""
    tool: str = "kemu"
    """Who can replay it: ``kemu``, or ``pytest`` for a test."""

    @property
    def folder(self) -> str:
        """The directory of its runs."""
        return _hash(self.tool, self.program, *self.options)


@dataclass(frozen=True, slots=True)
class Entry:
    """One failing run."""

    key: Key
    token: str
    code: str
    signature: tuple[str, ...]
    cost: tuple[int, int, int, int] | None = None
    """Preemptions, answers, switches and length, as in `Cost`; None for a run that was not shrunk."""
    strategy: str = ""
    seed: int | None = None
    schedule: int | None = None
    """Who found it first, and in which schedule, from 0."""
    clean: int = 0
    """How many explorations in a row have replayed it without a failure."""
    path: Path | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The name of its file in the program's directory."""
        return f"{_hash(*self.signature)}.json"

    @property
    def id(self) -> str:
        """What a user names it by: short, and different for each entry of a corpus."""
        return _hash(self.key.folder, self.name)[:8]

    @property
    def choices(self) -> tuple[int, ...]:
        """The run."""
        return decode(self.token)

    @property
    def rank(self) -> tuple[object, ...]:
        """The smaller one is the simpler run, in the one written order."""
        return (self.cost is None, self.cost or (), self.choices)

    @property
    def origin(self) -> str:
        """Who found it first, in words."""
        how = self.strategy if self.seed is None else f"{self.strategy}, seed {self.seed}"
        return how if self.schedule is None else f"schedule {self.schedule + 1:,} of {how}"


class Corpus:
    """A directory of failing runs. It need not exist; the first run that is kept makes it."""

    def __init__(self, root: Path, *, ignore: Path | None = None) -> None:
        self.root = root
        self.ignore = ignore
        """Where a ``.gitignore`` belongs, if the directory is kemu's own."""
        self.problems: list[str] = []
        """What went wrong, each with the file it is about, since somebody last took it away."""

    @classmethod
    def beside(cls, place: Path) -> Corpus:
        """The corpus in *place*, where scenarios are run from."""
        own = place / FOLDER
        return cls(own / "corpus", ignore=own / ".gitignore")

    def take_problems(self) -> tuple[str, ...]:
        """What went wrong since the last call."""
        problems = tuple(self.problems)
        self.problems.clear()
        return problems

    # Reading.

    def entries(self, key: Key | None = None) -> list[Entry]:
        """The runs of *key*, or of all programs: by program, the simplest first."""
        folders = [self.root / key.folder] if key is not None else self._listed(self.root, PROGRAM)
        found = [entry for folder in folders for path in self._listed(folder, NAME) for entry in self._read(path)]
        if key is not None:
            # Another key with the same hash is as good as impossible, a file that was copied here is not.
            found = [entry for entry in found if entry.key == key]
        return sorted(found, key=lambda one: (one.key.program, one.key.options, one.key.tool, one.rank, one.signature))

    def _listed(self, folder: Path, pattern: re.Pattern[str]) -> list[Path]:
        try:
            return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            self._complain(folder, error)
            return []

    def _read(self, path: Path) -> Iterator[Entry]:
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            # Another process has removed it since.
            return
        except UnicodeDecodeError:
            self.problems.append(f"the corpus entry {path} is damaged: not text; it is left out")
            return
        except OSError as error:
            self._complain(path, error)
            return
        try:
            yield replace(from_json(text), path=path)
        except ValueError as error:
            self.problems.append(f"the corpus entry {path} is {error}; it is left out")

    # Writing.

    def add(self, entry: Entry) -> bool:
        """Keep *entry* unless a simpler run of the same bug is there; return whether it was kept."""
        path = self._path(entry)
        if any(known.rank <= entry.rank for known in (self._read(path) if path.exists() else ())):
            return False
        return self.put(entry)

    def put(self, entry: Entry) -> bool:
        """Keep *entry* in the place of what there is of the same bug; return whether that was possible."""
        path = self._path(entry)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.ignore is not None and not self.ignore.exists():
                _write(self.ignore, GITIGNORE)
            _write(path, to_json(entry))
        except OSError as error:
            self.problems.append(f"{entry.code} cannot be kept in the corpus: {path}: {error.strerror or error}")
            return False
        return True

    def remove(self, entry: Entry) -> bool:
        """Take *entry* away; return whether it is gone."""
        path = self._path(entry)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self.problems.append(f"{entry.code} cannot be removed from the corpus: {path}: {error.strerror or error}")
            return False
        # Others are in it, or another process has removed it already.
        with suppress(OSError):
            path.parent.rmdir()
        return True

    def _path(self, entry: Entry) -> Path:
        return self.root / entry.key.folder / entry.name

    def _complain(self, path: Path, error: OSError) -> None:
        self.problems.append(f"the corpus cannot be read: {path}: {error.strerror or error}")


def _write(path: Path, text: str) -> None:
    """Write *text* to *path* so that nobody ever sees a part of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _hash(*parts: str) -> str:
    return blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


# The file format.


def to_json(entry: Entry) -> str:
    """*entry* as the text of its file."""
    return json.dumps({"format": FORMAT, **as_object(entry)}, indent=1) + "\n"


def as_object(entry: Entry) -> dict[str, Any]:
    """*entry* as a JSON object."""
    return {
        "program": entry.key.program,
        "options": list(entry.key.options),
        "tool": entry.key.tool,
        "code": entry.code,
        "signature": list(entry.signature),
        "token": entry.token,
        "cost": None if entry.cost is None else list(entry.cost),
        "strategy": entry.strategy,
        "seed": entry.seed,
        "schedule": entry.schedule,
        "clean": entry.clean,
    }


def from_json(text: str) -> Entry:
    """The entry that *text* is of. Raises `ValueError`, which says what it is instead."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("damaged: not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("damaged: not an object")
    fields = cast("dict[str, object]", value)
    if fields.get("format") != FORMAT:
        raise ValueError(f"of the format {fields.get('format')!r}, and this kemu reads {FORMAT!r}")
    cost = fields.get("cost")
    if cost is not None and not (_is_list(cost, int) and len(cast("list[int]", cost)) == 4):
        raise ValueError(f"damaged: its cost is {cost!r}")
    entry = Entry(
        Key(_field(fields, "program", str), _texts(fields, "options"), _field(fields, "tool", str)),
        token=_field(fields, "token", str),
        code=_field(fields, "code", str),
        signature=_texts(fields, "signature"),
        cost=None if cost is None else cast("tuple[int, int, int, int]", tuple(cast("list[int]", cost))),
        strategy=_field(fields, "strategy", str),
        seed=_number(fields, "seed"),
        schedule=_number(fields, "schedule"),
        clean=_field(fields, "clean", int),
    )
    try:
        decode(entry.token)
    except TokenError as error:
        raise ValueError(f"damaged: {error.message}") from None
    return entry


def _field(fields: dict[str, object], name: str, kind: type[T]) -> T:
    value = fields.get(name)
    if not isinstance(value, kind):
        raise ValueError(f"damaged: its {name} is {value!r}")
    return value


def _number(fields: dict[str, object], name: str) -> int | None:
    return None if fields.get(name) is None else _field(fields, name, int)


def _texts(fields: dict[str, object], name: str) -> tuple[str, ...]:
    value = fields.get(name)
    if not _is_list(value, str):
        raise ValueError(f"damaged: its {name} is {value!r}")
    return tuple(cast("list[str]", value))


def _is_list(value: object, kind: type[object]) -> bool:
    return isinstance(value, list) and all(isinstance(one, kind) for one in cast("list[object]", value))
