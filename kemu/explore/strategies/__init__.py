"""The strategies: how the next run is decided. One a file, each an oracle; none knows of another's purpose.

- ``base``         what a strategy is; what samplers share
- ``alternate``    sticky and PCT in turn
- ``sticky``       a random walk in which the running thread mostly goes on
- ``pct``          random priorities and a few change points
- ``random_walk``  uniform; the baseline
- ``pos``          a random priority for each pending operation
- ``urw``          who has more left to do goes on more often
- ``surw``         the same, for the operations on one cell
- ``delay``        the plain schedule with a few turns put off
- ``dpor``         one run for each class of equivalent runs
- ``portfolio``    the default: dpor and the samplers in turn
- ``dfs``          exhaustive, with a bound on preemptions and answers that are not plain
- ``delays``       exhaustive, with a bound on delays
- ``replay``       a list of choices
- ``follow``       a plan of who runs, for shrinking
- ``constrain``    another one's runs in which certain events come in a certain order, for explaining

The table below is what the command line can ask for: a new strategy gets a line in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import signature
from typing import Any, Final

from kemu.errors import UsageError
from kemu.explore.strategies.alternate import Alternating
from kemu.explore.strategies.base import Reducing, Reduction, Sampler, Strategy
from kemu.explore.strategies.constrain import Before, Constrain, Moment
from kemu.explore.strategies.delay import RandomDelay
from kemu.explore.strategies.delays import BoundedDelays
from kemu.explore.strategies.dfs import BoundedDFS
from kemu.explore.strategies.dpor import DPOR
from kemu.explore.strategies.follow import Follow, Plan, Slice
from kemu.explore.strategies.pct import PCT
from kemu.explore.strategies.pieces import DivisibleDPOR
from kemu.explore.strategies.portfolio import Portfolio
from kemu.explore.strategies.pos import POS
from kemu.explore.strategies.random_walk import RandomWalk
from kemu.explore.strategies.replay import Replay, replay
from kemu.explore.strategies.sticky import StickyRandomWalk
from kemu.explore.strategies.surw import SURW
from kemu.explore.strategies.urw import URW

DEFAULT_STRATEGY: Final = "portfolio"

Factory = Callable[..., Strategy]

STRATEGIES: Final[Mapping[str, Factory]] = {
    "alternating": Alternating,
    "sticky": StickyRandomWalk,
    "pct": PCT,
    "random": RandomWalk,
    "pos": POS,
    "urw": URW,
    "surw": SURW,
    "delay": RandomDelay,
    "dfs": BoundedDFS,
    "dpor": DivisibleDPOR,
    "portfolio": Portfolio,
    # As the literature calls the iterative searches by number of preemptions and of delays.
    "ipb": BoundedDFS,
    "idb": BoundedDelays,
}

EXHAUSTIVE: Final = frozenset({"dfs", "dpor", "ipb", "idb"})
"""Those that end by themselves."""


def strategy_from_name(name: str, seed: int, **options: Any) -> Strategy:
    """Make the strategy called *name*. A strategy that draws nothing at random takes no notice of *seed*.

    Raises `UsageError`, naming the possibilities, for a name or an option that there is not.
    """
    factory = STRATEGIES.get(name)
    if factory is None:
        raise UsageError(f"there is no strategy {name!r}", remedy=_possibilities(name, STRATEGIES))
    parameters = set(signature(factory).parameters)
    allowed = sorted(parameters - {"seed"})
    for option in options:
        if option not in allowed:
            raise UsageError(f"the strategy {name!r} has no option {option!r}", remedy=_possibilities(option, allowed))
    return factory(*((seed,) if "seed" in parameters else ()), **options)


def parse_strategy(text: str) -> tuple[str, dict[str, int | float | None]]:
    """Take ``name`` or ``name:option=number,...`` apart, without looking whether there are such.

    Raises `UsageError` for what is not written like this.
    """
    name, colon, rest = text.partition(":")
    options: dict[str, int | float | None] = {}
    for part in rest.split(",") if colon else ():
        key, equals, number = part.partition("=")
        if not equals or not re.fullmatch(r"\d+(\.\d+)?|none", number):
            raise UsageError(f"{part!r} in {text!r} is not option=number", remedy="write for example pct:depth=3")
        options[key] = None if number == "none" else float(number) if "." in number else int(number)
    return name, options


def _possibilities(word: str, known: Mapping[str, object] | list[str]) -> str:
    nearest = get_close_matches(word, known, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}choose from {', '.join(known)}" if known else "give none"


__all__ = [
    "DEFAULT_STRATEGY",
    "DPOR",
    "EXHAUSTIVE",
    "PCT",
    "POS",
    "STRATEGIES",
    "SURW",
    "URW",
    "Alternating",
    "Before",
    "BoundedDFS",
    "BoundedDelays",
    "Constrain",
    "DivisibleDPOR",
    "Follow",
    "Moment",
    "Plan",
    "Portfolio",
    "RandomDelay",
    "RandomWalk",
    "Reducing",
    "Reduction",
    "Replay",
    "Sampler",
    "Slice",
    "StickyRandomWalk",
    "Strategy",
    "parse_strategy",
    "replay",
    "strategy_from_name",
]
