"""A campaign's directory: what is explored and how, in ``campaign.json``, and a line for each batch that was done.

``batches.jsonl`` is only ever added to, so that what was done is there whatever happens. A last line that was cut off
is as good as none. A line leaves out the fingerprints that a line before it has, of a batch with a smaller key: the
batches up to any key still have all of theirs together. (A reduced search has none twice, and leaves none out.)
"""

from __future__ import annotations

import json
from array import array
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from sys import byteorder
from typing import Any, Final, NamedTuple, TextIO

from kemu.errors import UsageError
from kemu.explore.campaign.batch import Batch, BatchResult, Key, Recipe, Sighting
from kemu.explore.campaign.source import Shard
from kemu.explore.distinct import DistinctCounter
from kemu.explore.estimate import SampleCounter
from kemu.explore.strategies.base import Reduction, Remainder
from kemu.explore.token import decode, encode

FORMAT: Final = "kemu.campaign/2"
MANIFEST: Final = "campaign.json"
BATCHES: Final = "batches.jsonl"

WORDS: Final = {
    "kemu": "version of kemu",
    "code": "code of kemu",
    "strategy": "strategy",
    "options": "options of the strategy",
    "seed": "seed",
    "keep_going": "setting of --keep-going",
    "shard": "shard",
    "format": "format",
}
"""What has to be the same for a campaign to go on, and what a message calls it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One program of a campaign."""

    name: str
    identity: str
    max_steps: int | None
    size: int
    """How many runs a batch has."""
    flags: tuple[str, ...] = ()
    """What else it was selected with."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a campaign explores, and how."""

    kemu: str
    code: str
    """The digest of kemu's own source files."""
    python: str
    strategy: str
    options: Mapping[str, Any]
    seed: int
    keep_going: bool
    shard: str
    schedules: int | None
    """The most schedules of each program that it was asked for, of all shards together; None for no limit."""
    programs: tuple[Entry, ...]
    format: str = FORMAT

    @property
    def recipe(self) -> Recipe:
        """How its strategy is made."""
        return Recipe(self.strategy, self.options, self.seed)

    @property
    def part(self) -> Shard:
        """Its shard."""
        index, _, count = self.shard.partition("/")
        return Shard(int(index), int(count))


class _Record(NamedTuple):
    """A batch that was done."""

    runs: int
    """How many it was to make."""
    digest: str
    result: BatchResult


@dataclass(slots=True)
class _Written:
    """What is in the file of one program."""

    records: dict[Key, _Record] = field(default_factory=dict[Key, "_Record"])
    distinct: DistinctCounter = field(default_factory=DistinctCounter)
    lowest: dict[int, Key] = field(default_factory=dict[int, Key])
    """For each fingerprint that counts the smallest key of a batch that has it."""


class Campaign:
    """A campaign's directory, to be read and added to."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self._written = [_Written() for _ in manifest.programs]
        self._file: TextIO | None = None
        self._good = 0
        """Bytes of the file that are whole lines."""

    def journal(self, number: int) -> Journal:
        """What concerns the program of that number."""
        return Journal(self, number, self._written[number])

    @property
    def batches(self) -> int:
        """How many batches it has."""
        return sum(len(written.records) for written in self._written)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def append(self, line: str) -> None:
        """Add a line, behind the last one that is whole."""
        if self._file is None:
            path = self.directory / BATCHES
            if path.exists() and path.stat().st_size > self._good:
                with path.open("r+b") as file:
                    file.truncate(self._good)
            self._file = path.open("a", encoding="ascii", newline="\n")
        self._file.write(line + "\n")
        self._file.flush()

    def read(self) -> None:
        """Read the batches. Raises `UsageError` if a line is damaged, other than the last."""
        path = self.directory / BATCHES
        if not path.exists():
            return
        lines = path.read_bytes().split(b"\n")
        # What stands behind the last line feed was cut off.
        for number, line in enumerate(lines[:-1], 1):
            try:
                value: Any = json.loads(line)
                self._take(value)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                if number == len(lines) - 1:
                    break
                raise UsageError(
                    f"line {number} of {path} is damaged: {error}", remedy="begin again in another directory"
                ) from None
            self._good += len(line) + 1

    def _take(self, value: dict[str, Any]) -> None:
        number: int = value["program"]
        entry = self.manifest.programs[number]
        result = _result(value, entry.identity)
        self._written[number].records[tuple(value["key"])] = _Record(value["runs"], value["digest"], result)
        if not result.watched:
            note(self._written[number], tuple(value["key"]), result.distinct)


@dataclass(frozen=True, slots=True)
class Journal:
    """The batches of one program of a campaign."""

    campaign: Campaign
    number: int
    _written: _Written

    def known(self, batch: Batch) -> BatchResult | None:
        """What came of *batch*, if it was done."""
        record = self._written.records.get(batch.key)
        if record is None or record.digest != batch.digest:
            return None
        result = record.result
        if batch.piece is not None:
            return result
        ended = bool(result.sightings) and not self.campaign.manifest.keep_going
        # It may have been a shorter one, the last of a smaller budget.
        return result if record.runs == batch.runs or (ended and result.schedules <= batch.runs) else None

    def keys(self) -> list[Key]:
        """The batches that were done, in order."""
        return sorted(self._written.records)

    def write(self, batch: Batch, result: BatchResult) -> None:
        """Take note of what came of *batch*."""
        key = batch.key
        record = self._written.records.get(key)
        if record is not None and record.runs > batch.runs and record.digest == batch.digest:
            # The last batch of a smaller budget than before: what is there is more.
            return
        distinct, new = result.distinct, sorted(result.distinct.sample)
        if not result.watched:
            note(self._written, key, distinct)
            distinct, lowest = self._written.distinct, self._written.lowest
            new = [one for one in new if lowest.get(one) == key]
        self._written.records[key] = _Record(batch.runs, batch.digest, result)
        identity = self.campaign.manifest.programs[self.number].identity
        self.campaign.append(_line(self.number, batch, result, distinct.shift, new, identity))


def note(written: _Written, key: Key, distinct: DistinctCounter) -> None:
    """Take note of the fingerprints of the batch *key*."""
    before = written.distinct.shift
    written.distinct.merge(distinct)
    limit = 1 << (64 - written.distinct.shift)
    if written.distinct.shift != before:
        written.lowest = {one: lowest for one, lowest in written.lowest.items() if one < limit}
    for one in distinct.sample:
        if one < limit:
            written.lowest[one] = min(written.lowest.get(one, key), key)


# Lines.


def _line(number: int, batch: Batch, result: BatchResult, shift: int, new: list[int], identity: str) -> str:
    left = result.remainder
    value = {
        "program": number,
        "key": batch.key,
        "runs": batch.runs,
        "digest": batch.digest,
        "schedules": result.schedules,
        "steps": result.steps,
        "shortest": result.shortest,
        "longest": result.longest,
        "seconds": round(result.seconds, 6),
        "whole": result.whole,
        "watched": result.watched,
        "reduction": None if result.reduction is None else asdict(result.reduction),
        "distinct": {"shift": shift, "new": _packed("Q", new)},
        "samples": {
            sampler: {
                "runs": counter.runs,
                "shift": counter.shift,
                "seen": _packed("Q", sorted(counter.counts)),
                "counts": _packed("B", [counter.counts[one] for one in sorted(counter.counts)]),
            }
            for sampler, counter in result.samples.items()
        },
        "findings": [
            {
                **asdict(one),
                "choices": encode(one.choices, identity),
                "second": None if one.second is None else encode(one.second, identity),
            }
            for one in result.sightings
        ],
        "left": None if left is None else {one.name: getattr(left, one.name) for one in fields(left)},
    }
    return json.dumps(value, separators=(",", ":"), default=list)


def _result(value: dict[str, Any], identity: str) -> BatchResult:
    left = value["left"]
    return BatchResult(
        schedules=value["schedules"],
        steps=value["steps"],
        shortest=value["shortest"],
        longest=value["longest"],
        distinct=DistinctCounter.restored(value["distinct"]["shift"], _unpacked("Q", value["distinct"]["new"])),
        sightings=tuple(_sighting(one, identity) for one in value["findings"]),
        seconds=value["seconds"],
        whole=value["whole"],
        watched=value["watched"],
        reduction=None if value["reduction"] is None else Reduction(**value["reduction"]),
        remainder=None
        if left is None
        else Remainder(left["level"], tuple(left["now"]), tuple(left["later"]), left["pruned"]),
        samples={
            sampler: SampleCounter.restored(
                one["runs"],
                one["shift"],
                dict(zip(_unpacked("Q", one["seen"]), _unpacked("B", one["counts"]), strict=True)),
            )
            for sampler, one in value["samples"].items()
        },
    )


def _packed(kind: str, numbers: list[int]) -> str:
    """Numbers of one kind of `array` as a text."""
    packed = array(kind, numbers)
    if byteorder == "big":  # pragma: no cover - the file is the same on every machine
        packed.byteswap()
    return b64encode(packed.tobytes()).decode("ascii")


def _unpacked(kind: str, text: str) -> list[int]:
    packed: array[int] = array(kind, b64decode(text, validate=True))
    if byteorder == "big":  # pragma: no cover - the file is the same on every machine
        packed.byteswap()
    return packed.tolist()


def _sighting(value: dict[str, Any], identity: str) -> Sighting:
    second = value["second"]
    return Sighting(
        code=value["code"],
        signature=tuple(value["signature"]),
        summary=value["summary"],
        choices=decode(value["choices"], identity),
        run=value["run"],
        count=value["count"],
        second=None if second is None else decode(second, identity),
    )


# The directory.


def _entry(flags: list[str], **fields: Any) -> Entry:
    return Entry(**fields, flags=tuple(flags))


def read_campaign(directory: Path) -> Campaign:
    """The campaign in *directory*. Raises `UsageError` if there is none that can be read."""
    path = directory / MANIFEST
    try:
        value: Any = json.loads(path.read_text("utf-8"))
        if value["format"] != FORMAT:
            raise UsageError(
                f"{path} is of the format {value['format']!r}, and this kemu reads {FORMAT}",
                remedy="use the kemu that wrote it",
            )
        entries = tuple(_entry(**one) for one in value.pop("programs"))
        campaign = Campaign(directory, Manifest(**value, programs=entries))
    except FileNotFoundError:
        raise UsageError(
            f"there is no campaign in {directory}", remedy="give a directory that kemu explore --campaign has written"
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}", remedy="check its permissions") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged: {error}", remedy="begin again in another directory") from None
    campaign.read()
    return campaign


def open_campaign(directory: Path, manifest: Manifest) -> Campaign:
    """The campaign in *directory*, begun or gone on with. Raises `UsageError` if it is another one.

    A campaign that goes on keeps its size of batches.
    """
    try:
        if (directory / MANIFEST).exists():
            return _go_on(directory, manifest)
        directory.mkdir(parents=True, exist_ok=True)
        _write_manifest(directory, manifest)
    except OSError as error:
        raise UsageError(
            f"the campaign directory {directory} cannot be written: {error.strerror or error}",
            remedy="give a directory in which you may create files",
        ) from None
    return Campaign(directory, manifest)


def _go_on(directory: Path, manifest: Manifest) -> Campaign:
    campaign = read_campaign(directory)
    there = campaign.manifest
    check_same(directory, there, manifest)
    limits = (there.schedules, manifest.schedules)
    most = None if None in limits else max(limit for limit in limits if limit is not None)
    if most != there.schedules:
        campaign.manifest = replace(there, schedules=most)
        _write_manifest(directory, campaign.manifest)
    return campaign


def _write_manifest(directory: Path, manifest: Manifest) -> None:
    # Under another name first: a manifest is there as a whole, or not at all.
    path = directory / MANIFEST
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(asdict(manifest), indent=2) + "\n", "utf-8")
    beside.replace(path)


def check_same(
    directory: Path, there: Manifest, now: Manifest, *, apart_from: tuple[str, ...] = (), with_sizes: bool = False
) -> None:
    """Raise `UsageError`, naming the first difference, if a campaign is not the one that is meant."""
    for name, word in WORDS.items():
        one, other = getattr(there, name), getattr(now, name)
        if one != other and name not in apart_from:
            raise _other(directory, f"{word} {one!r}", f"{other!r}")
    ours = {entry.name: entry for entry in now.programs}
    theirs = {entry.name: entry for entry in there.programs}
    if list(theirs) != list(ours):
        names = [name for name in theirs if name not in ours] or [name for name in ours if name not in theirs]
        which = f"in which {names[0]} makes the difference" if names else "in another order"
        raise _other(directory, f"{len(theirs)} programs", f"{len(ours)}, {which}")
    for name, entry in ours.items():
        if theirs[name].identity != entry.identity:
            raise _other(directory, f"{name} as {theirs[name].identity[:8]}", f"{entry.identity[:8]}: its code changed")
        if theirs[name].max_steps != entry.max_steps:
            raise _other(directory, f"--max-steps {theirs[name].max_steps}", f"{entry.max_steps}")
        if theirs[name].flags != entry.flags:
            raise _other(directory, f"flags {' '.join(theirs[name].flags)!r}", f"{' '.join(entry.flags)!r}")
        if with_sizes and theirs[name].size != entry.size:
            raise _other(directory, f"batches of {theirs[name].size} runs", f"{entry.size}")


def _other(directory: Path, there: str, now: str) -> UsageError:
    return UsageError(
        f"the campaign in {directory} has the {there}, and here it is {now}",
        remedy="give what it was begun with, or another directory",
    )
