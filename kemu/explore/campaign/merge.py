"""What the directories of campaigns come to, without making any more runs: one, or the shards of one together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kemu.errors import UsageError
from kemu.explore.campaign.conductor import Recount, exploration_of, source_of
from kemu.explore.campaign.journal import Campaign, check_same
from kemu.explore.campaign.total import Total
from kemu.explore.strategies.base import Divisible, Strategy

if TYPE_CHECKING:
    from kemu.explore.explorer import Exploration
    from kemu.explore.program import Program

WITHOUT_END: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class Part:
    """What one directory has of one program."""

    shard: str
    total: Total
    strategy: Strategy
    """As it is after what was done."""
    done: bool
    """Whether there is nothing left of it: it ended with a finding, or has made all its runs."""
    ended: bool
    """Whether it ended with a finding."""
    batches: int


def part_of(campaign: Campaign, number: int) -> Part:
    """What *campaign* has of its program of that number."""
    manifest = campaign.manifest
    recipe, journal = manifest.recipe, campaign.journal(number)
    strategy = recipe.make()
    source = source_of(recipe, strategy, manifest.programs[number].size, manifest.schedules, manifest.part)
    recount = Recount(source, journal, keep_going=manifest.keep_going)
    recount.conduct()
    recount.conclude(strategy)
    done = recount.over or source.lowest() is None
    return Part(manifest.shard, recount.total, strategy, done, recount.ended, len(journal.keys()))


def check_parts(campaigns: Sequence[Campaign]) -> tuple[str, ...]:
    """The shards that are missing. Raises `UsageError` if the campaigns do not belong together."""
    first = campaigns[0]
    count = first.manifest.part.count
    seen: dict[str, Campaign] = {}
    for campaign in campaigns:
        check_same(campaign.directory, campaign.manifest, first.manifest, apart_from=("shard",), with_sizes=True)
        shard = campaign.manifest.shard
        if campaign.manifest.part.count != count:
            raise UsageError(
                f"the campaign in {campaign.directory} is shard {shard}, and that in {first.directory}"
                f" {first.manifest.shard}",
                remedy="merge the shards of one division",
            )
        if shard in seen:
            raise UsageError(
                f"the campaigns in {seen[shard].directory} and {campaign.directory} are the same shard, {shard}",
                remedy="give each shard once",
            )
        seen[shard] = campaign
    return tuple(f"{index}/{count}" for index in range(1, count + 1) if f"{index}/{count}" not in seen)


def merged(campaigns: Sequence[Campaign], number: int, program: Program, strategy: Strategy) -> Exploration:
    """What *campaigns* have of *program* together. *strategy* is told what was completed, if no shard is missing."""
    parts = [part_of(campaign, number) for campaign in campaigns]
    missing = check_parts(campaigns)
    total = Total()
    for part in parts:
        total.merge(part.total)
    ended = any(part.ended for part in parts)
    exhausted = False
    if isinstance(strategy, Divisible):
        exhausted = not missing and not ended and all(part.done for part in parts)
        bounds = [_bound(part.strategy) for part in parts]
        lowest = -1 if missing else min(bounds)
        complete = exhausted and lowest == WITHOUT_END
        if complete:
            lowest = max(part.strategy.completed or 0 for part in parts)
        strategy.conclude(lowest if lowest >= 0 else None, exhausted=complete)
    shard = "" if not missing else " and ".join(part.shard for part in parts)
    return exploration_of(
        total, program, strategy, seconds=total.seconds, exhausted=exhausted, interrupted=False, shard=shard
    )


def _bound(strategy: Strategy) -> int:
    """The largest bound that a shard has completed."""
    if getattr(strategy, "exhausted", False):
        return WITHOUT_END
    return -1 if strategy.completed is None else strategy.completed
