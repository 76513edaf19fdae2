"""How a test explores: what its decorator says, what the command line and the profile say, and who wins.

The command line wins over the decorator, the decorator over the profile, and that over the defaults. A profile
is a table ``[tool.kemu.profile.NAME]`` of pyproject.toml; ``--kemu-profile`` names one, and otherwise the one
called ``ci`` is taken where the environment variable CI is set.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from kemu.errors import UsageError
from kemu.explore import DEFAULT_STRATEGY, EXHAUSTIVE, Budget, Strategy, strategy_from_name
from kemu.explore.strategies import parse_strategy
from kemu.scenario.declare import nearest

DEFAULT_SCHEDULES: Final = 500
"""A test is one of many: fewer than what ``kemu explore`` makes of a scenario."""

BOUNDED: Final = "dfs"
NO_BOUND: Final = "none"
CI: Final = "ci"
FILE: Final = "pyproject.toml"


@dataclass(frozen=True, slots=True)
class Profile:
    """What a table of pyproject.toml says; None where it says nothing."""

    name: str = ""
    schedules: int | None = None
    strategy: str | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line of pytest says; None where it says nothing."""

    schedules: int | None = None
    seed: int | None = None
    token: str | None = None
    trace: str = "off"
    corpus: bool = True
    profile: Profile = field(default_factory=Profile)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a decorator says; None where it says nothing."""

    schedules: int | None = None
    strategy: str | None = None
    seed: int | None = None
    bound: int | str | None = None

    def check(self, test: str) -> None:
        """Raise `UsageError` for what cannot be meant, now and not when the test runs."""
        _check("schedules", self.schedules, f"{test}: ", least=1)
        _check("seed", self.seed, f"{test}: ", least=0)
        if self.bound is not None and self.bound != NO_BOUND:
            _check("bound", self.bound, f"{test}: ", least=0)
        self.plan(Options())

    def plan(self, options: Options) -> Plan:
        """What is going to be done."""
        profile = options.profile
        if self.bound is not None:
            name, values = parse_strategy(self.strategy or BOUNDED)
            values = {**values, "bound": self.bound if isinstance(self.bound, int) else None}
        else:
            name, values = parse_strategy(self.strategy or profile.strategy or DEFAULT_STRATEGY)
        seed = _first(options.seed, self.seed, profile.seed, 0)
        assert seed is not None
        # An exhaustive search ends by itself, and is cut short only if that is asked for.
        by_itself = None if name in EXHAUSTIVE else _first(profile.schedules, DEFAULT_SCHEDULES)
        schedules = _first(options.schedules, self.schedules, by_itself)
        strategy_from_name(name, seed, **values)
        return Plan(name, values, seed, schedules)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is going to be done."""

    name: str
    values: Mapping[str, int | float | None]
    seed: int
    schedules: int | None

    def strategy(self) -> Strategy:
        """A new strategy."""
        return strategy_from_name(self.name, self.seed, **self.values)

    def budget(self) -> Budget:
        """When to stop."""
        return Budget(self.schedules)


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _check(name: str, value: object, where: str, *, least: int) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise UsageError(f"{where}{name} is {value!r}", remedy=f"write a whole number, {least} or more")


# Profiles.


def load_profile(folder: Path, name: str | None, *, is_ci: bool) -> Profile:
    """The profile called *name* in the project in *folder*; without a name ``ci`` if *is_ci*, or none.

    Raises `UsageError` if there is no such profile, or one is not as it should be.
    """
    path = folder / FILE
    profiles = _profiles(path)
    checked = {one: _profile(path, one, table) for one, table in profiles.items()}
    if name is None:
        return checked[CI] if is_ci and CI in checked else Profile()
    if name not in checked:
        otherwise = "the profiles are" if checked else f"write a table [tool.kemu.profile.{name}] in"
        raise UsageError(
            f"{path} has no profile {name!r}", remedy=nearest(name, list(checked) if checked else [FILE], otherwise)
        )
    return checked[name]


def _profiles(path: Path) -> dict[str, object]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", remedy="correct it") from None
    table: object = content
    for key in ("tool", "kemu", "profile"):
        table = _table(table, path, key).get(key, {})
    return _table(table, path, "profile")


def _table(value: object, path: Path, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise UsageError(f"{path}: {name} is {value!r}", remedy="write a table, such as [tool.kemu.profile.ci]")
    return cast("dict[str, object]", value)


KEYS: Final = ("schedules", "strategy", "seed")


def _profile(path: Path, name: str, value: object) -> Profile:
    where = f"{path}: profile {name!r}: "
    table = _table(value, path, f"profile.{name}")
    for key in table:
        if key not in KEYS:
            raise UsageError(f"{where}there is no {key!r}", remedy=nearest(key, KEYS, "a profile has"))
    _check("schedules", table.get("schedules"), where, least=1)
    _check("seed", table.get("seed"), where, least=0)
    strategy = table.get("strategy")
    if strategy is not None and not isinstance(strategy, str):
        raise UsageError(f"{where}strategy is {strategy!r}", remedy='write for example "pct:depth=3"')
    profile = Profile(name, **cast("dict[str, Any]", table))
    try:
        Wanted().plan(Options(profile=profile))
    except UsageError as error:
        raise UsageError(f"{where}{error.message}", remedy=error.remedy) from None
    return profile
