"""How the work of an exploration is divided: workers, shards, a cluster, a campaign's directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, chdir, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from kemu import __version__
from kemu.cli.hunt import Plan
from kemu.cli.targets import Limited, Program, select_one
from kemu.errors import UsageError
from kemu.explore import Budget, Exploration, Progress, Reducing, Strategy, explore
from kemu.explore.campaign import (
    Alone,
    Campaign,
    Crew,
    Entry,
    Manifest,
    Processes,
    Recipe,
    Shard,
    explore_in_batches,
    open_campaign,
)
from kemu.explore.campaign.batch import result_of
from kemu.explore.campaign.conductor import batch_size, source_of
from kemu.explore.campaign.tree import DivisibleSearch
from kemu.explore.campaign.version import code_digest, python_version
from kemu.explore.explorer import Collector

ALONE: Final = 500
"""How many runs a strategy with a reduced search makes in this process, before workers are hired for the rest. A small
program is proved by then."""


@dataclass(frozen=True, slots=True)
class Division:
    """What the options say."""

    jobs: int | None = None
    shard: Shard | None = None
    campaign: Path | None = None
    cluster: str | None = None

    def __post_init__(self) -> None:
        if self.cluster is not None and self.jobs is not None:
            raise UsageError("-j and --cluster each say who makes the runs", remedy="give one of them")

    def engine(self, plan: Plan, programs: Sequence[Program]) -> AbstractContextManager[Engine | None]:
        """What explores *programs*, for a ``with``: see `engine_for`."""
        return engine_for(plan, programs, self)

    def __str__(self) -> str:
        parts = [f"shard {self.shard}"] if self.shard is not None else []
        parts += [f"{self.jobs} workers"] if self.jobs is not None and self.jobs > 1 else []
        return "".join(f", {part}" for part in parts)

    @property
    def is_plain(self) -> bool:
        """Whether it all comes to an exploration in this process."""
        return self.jobs in {None, 1} and self.shard is None and self.campaign is None and self.cluster is None


def divided(jobs: int | None, shard: tuple[int, int] | None, campaign: str | None, cluster: str | None) -> Division:
    """What the options say. Raises `UsageError` where they contradict each other."""
    return Division(
        jobs,
        None if shard is None else Shard(*shard),
        None if campaign is None else Path(campaign),
        cluster,
    )


@dataclass(frozen=True, slots=True)
class Named:
    """Loads a program by its name, in this process or another."""

    name: str
    max_steps: int | None
    folder: str
    """The working directory in which the name is right."""
    flags: tuple[str, ...] = ()
    """What else `select_one` is to be told: parameters of it, with a value after ``=`` if it is not True."""

    def __call__(self) -> Program:
        path = self.name.partition("::")[0]
        flags: dict[str, Any] = {}
        for flag in self.flags:
            name, _, value = flag.partition("=")
            flags[name] = value or True
        if not Path(path).exists() and Path(self.folder, path).exists():
            # A worker that was started elsewhere. The name stays as it is, because findings tell of it.
            with chdir(self.folder):
                return select_one(self.name, None, self.max_steps, **flags)
        return select_one(self.name, None, self.max_steps, **flags)


FLAGS: Final = ("races",)
"""What a program may have been selected with: attributes of it, and parameters of `select_one`, of the same name."""


def loader_of(program: Program) -> Named:
    """What loads *program* in another process."""
    limit = program.max_steps if isinstance(program, Limited) else None
    flags = tuple(flag for flag in FLAGS if getattr(program, flag, False))
    preempt: str | None = getattr(program, "given_preempt", None)
    if preempt is not None:
        flags += (f"preempt={preempt}",)
    verifier: str | None = getattr(program, "verifier", None)
    if verifier is not None:
        flags += (f"verifier={verifier}",)
    return Named(program.name, limit, str(Path.cwd()), flags)


@dataclass(slots=True)
class Engine:
    """Explores one program after another, in batches, as `kemu.explore.explore` would."""

    recipe: Recipe
    crew: Crew
    shard: Shard
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    """How many runs a batch of each program has."""
    campaign: Campaign | None = None

    def __call__(
        self,
        program: Program,
        strategy: Strategy,
        budget: Budget,
        *,
        keep_going: bool = False,
        progress: Callable[[Progress], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Exploration:
        collected = Collector()
        alone = self._alone(
            program, strategy, budget, keep_going=keep_going, progress=progress, stop=stop, collected=collected
        )
        begun = None
        if alone is not None:
            left = _left(budget, alone)
            if left is None or (alone.findings and not keep_going):
                return alone
            budget = left
            begun = result_of(collected, seconds=alone.seconds, reduction=alone.reduction)
            progress = _after(alone, progress)
        journal = None
        if self.campaign is not None:
            names = [entry.name for entry in self.campaign.manifest.programs]
            journal = self.campaign.journal(names.index(program.name))
        result = explore_in_batches(
            program,
            loader_of(program),
            self.recipe,
            strategy,
            budget,
            self.crew,
            size=self.sizes[program.name],
            shard=self.shard,
            journal=journal,
            begun=begun,
            keep_going=keep_going,
            progress=progress,
            stop=stop,
        )
        if alone is None:
            return result
        return replace(result, seconds=alone.seconds + result.seconds)

    def _alone(self, program: Program, strategy: Strategy, budget: Budget, **options: Any) -> Exploration | None:
        """The first runs of a strategy with a reduced search, which may already prove the program."""
        if not isinstance(strategy, Reducing) or self.campaign is not None or self.shard.count > 1:
            return None
        if isinstance(strategy, DivisibleSearch):
            strategy.prepare()
        runs = ALONE if budget.schedules is None else min(ALONE, budget.schedules)
        return explore(program, strategy, Budget(runs, budget.seconds), **options)


def _after(done: Exploration, progress: Callable[[Progress], None] | None) -> Callable[[Progress], None]:
    """A *progress* of what comes after *done*, whose time counts as well."""

    def show(one: Progress) -> None:
        if progress is not None:
            progress(replace(one, seconds=done.seconds + one.seconds))

    return show


def _left(budget: Budget, done: Exploration) -> Budget | None:
    """What *done* leaves of *budget*, whose schedules count from the first; None if there is nothing left to do."""
    if done.exhausted or done.interrupted or done.error is not None:
        return None
    if budget.schedules is not None and done.schedules >= budget.schedules:
        return None
    if budget.seconds is None:
        return budget
    seconds = budget.seconds - done.seconds
    return Budget(budget.schedules, seconds) if seconds > 0 else None


@contextmanager
def engine_for(plan: Plan, programs: Sequence[Program], division: Division) -> Generator[Engine | None]:
    """What explores *programs*, while the block lasts; None if this process does, run by run.

    Raises `UsageError` for what cannot be divided, a directory of another campaign, or a cluster of other code.
    """
    if division.is_plain:
        yield None
        return
    recipe = Recipe(plan.strategy, plan.options, plan.seed)
    shard = division.shard or Shard()
    sizes = {program.name: batch_size(program, plan.budget.schedules) for program in programs}
    source_of(recipe, plan.make_strategy(), 1, None)
    campaign = None
    if division.campaign is not None:
        campaign = open_campaign(division.campaign, manifest_of(plan, programs, sizes, shard))
        sizes = {entry.name: entry.size for entry in campaign.manifest.programs}
    try:
        crew = hire(division, programs)
        try:
            yield Engine(recipe, crew, shard, sizes, campaign)
        finally:
            crew.close()
    finally:
        if campaign is not None:
            campaign.close()


def hire(division: Division, programs: Sequence[Program]) -> Crew:
    """The workers that *division* asks for."""
    if division.cluster is not None:
        from kemu.explore.campaign.cluster import Cluster

        return Cluster(division.cluster, [(loader_of(program), program.identity) for program in programs])
    return Alone() if division.jobs in {None, 1} else Processes(division.jobs or 1)


def manifest_of(plan: Plan, programs: Sequence[Program], sizes: dict[str, int], shard: Shard) -> Manifest:
    """What a campaign of this plan has in its manifest."""
    return Manifest(
        kemu=__version__,
        code=code_digest(),
        python=python_version(),
        strategy=plan.strategy,
        options=dict(plan.options),
        seed=plan.seed,
        keep_going=plan.keep_going,
        shard=str(shard),
        schedules=plan.budget.schedules,
        programs=tuple(entry_of(program, sizes[program.name]) for program in programs),
    )


def entry_of(program: Program, size: int) -> Entry:
    """*program* as a manifest names it."""
    load = loader_of(program)
    return Entry(program.name, program.identity, load.max_steps, size, load.flags)


def cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
