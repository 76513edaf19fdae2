"""Campaigns' directories: what is in one, and what several come to together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kemu.cli.hunt import Hunt, Plan, hunt
from kemu.cli.parallel import Named
from kemu.cli.targets import Program, command_line
from kemu.errors import KemuError, UsageError
from kemu.explore import Budget, Exploration, Strategy, encode
from kemu.explore.campaign import Campaign, read_campaign
from kemu.explore.campaign.merge import Part, check_parts, merged, part_of


class Merging:
    """Several directories, one after another of the programs in them."""

    def __init__(self, directories: Sequence[Path], output: Path | None) -> None:
        """Read them. Raises `UsageError` if they do not belong together, or the scenarios are other ones now."""
        self.campaigns = [read_campaign(directory) for directory in directories]
        self.missing = check_parts(self.campaigns)
        self.done: list[Hunt] = []
        self.error: KemuError | None = None
        self._output = output
        self._programs = [self._program(number) for number in range(len(self.campaigns[0].manifest.programs))]

    def _program(self, number: int) -> Program:
        entry = self.campaigns[0].manifest.programs[number]
        program = Named(entry.name, entry.max_steps, str(Path.cwd()), entry.flags)()
        if program.identity != entry.identity:
            raise UsageError(
                f"{entry.name} is {program.identity[:8]} now, and was {entry.identity[:8]} when it was explored",
                remedy="merge with the files as they were then, or explore again",
            )
        return program

    @property
    def notes(self) -> list[str]:
        """What has to be known about the whole."""
        count = self.campaigns[0].manifest.part.count
        lines = [f"{len(self.campaigns)} of {count} shards, {sum(one.batches for one in self.campaigns)} batches"]
        if self.missing:
            lines.append(f"warning: missing: {', '.join(self.missing)}")
        for campaign in self.campaigns:
            left = [part for part in _parts(campaign) if not part.done]
            if left and campaign.manifest.schedules is not None:
                lines.append(f"warning: {campaign.directory} is not done yet; the command that began it goes on")
        return lines

    def hunts(self, note: Callable[[str], None]) -> Iterator[Hunt]:
        """Report on one program after another; stops where something goes wrong."""
        manifest = self.campaigns[0].manifest
        for number, program in enumerate(self._programs):
            engine = _Merged(self.campaigns, number)
            options = dict(manifest.options)
            plan = Plan(
                manifest.strategy, options, manifest.seed, Budget(), manifest.keep_going, self._output, engine=engine
            )
            try:
                one = hunt(program, plan, note=note)
            except KemuError as error:
                self.error = error
                return
            self.done.append(one)
            yield one
            if one.interrupted:
                raise KeyboardInterrupt
            if one.error is not None:
                self.error = one.error
                return


@dataclass(frozen=True, slots=True)
class _Merged:
    """Takes the place of an exploration."""

    campaigns: Sequence[Campaign]
    number: int

    def __call__(self, program: Program, strategy: Strategy, *_: object, **__: object) -> Exploration:
        return merged(self.campaigns, self.number, program, strategy)


def _parts(campaign: Campaign) -> list[Part]:
    return [part_of(campaign, number) for number in range(len(campaign.manifest.programs))]


def campaign_object(campaign: Campaign) -> dict[str, Any]:
    """What is in a directory, for JSON."""
    manifest = campaign.manifest
    programs: list[dict[str, Any]] = []
    for entry, part in zip(manifest.programs, _parts(campaign), strict=True):
        total = part.total
        programs.append(
            {
                "program": entry.name,
                "identity": entry.identity,
                "batches": part.batches,
                "schedules": total.schedules,
                "distinct": total.distinct.count,
                "distinct_is_exact": total.distinct.exact,
                "seconds": round(total.seconds, 3),
                "done": part.done,
                "findings": [
                    {
                        "code": one.code,
                        "signature": list(one.signature),
                        "summary": one.summary,
                        "run": one.run,
                        "count": one.count,
                        "token": encode(one.choices, entry.identity),
                    }
                    for one in total.sightings.values()
                ],
            }
        )
    return {
        "directory": str(campaign.directory),
        "python": manifest.python,
        "strategy": manifest.strategy,
        "seed": manifest.seed,
        "shard": manifest.shard,
        "budget": manifest.schedules,
        "programs": programs,
    }


def campaign_lines(campaign: Campaign, *, short: bool = False) -> list[str]:
    """What is in a directory, for a person; *short* leaves out everything but the programs and their findings."""
    manifest = campaign.manifest
    shown = campaign_object(campaign)
    limit = "" if manifest.schedules is None else f", {manifest.schedules:,} schedules each"
    options = "".join(f", {name}={value}" for name, value in manifest.options.items())
    what = f"{manifest.strategy}{options}, seed {manifest.seed}, shard {manifest.shard}{limit}"
    lines = [f"campaign {campaign.directory}: {what}; kemu {manifest.kemu}, Python {manifest.python}"]
    for entry, program in zip(manifest.programs, shown["programs"], strict=True):
        about = "" if program["distinct_is_exact"] else "about "
        state = "done" if program["done"] else "goes on"
        lines.append(
            f"{entry.name}: {program['schedules']:,} schedules ({about}{program['distinct']:,} distinct) in"
            f" {program['batches']} batches, {program['seconds']:.1f} s; {state}"
        )
        limits = ("--max-steps", entry.max_steps) if entry.max_steps is not None else ()
        flags = [f"--{flag}" for flag in entry.flags]
        for one in program["findings"]:
            seen = f"{one['count']:,} schedule{'s' * (one['count'] != 1)}"
            lines.append(f"  {one['code']}: {seen}, the first is {one['run'] + 1:,}")
            lines.append(f"    {command_line('kemu', 'replay', *limits, *flags, entry.name, one['token'])}")
    return lines[1:] if short else lines
