"""Exploration: which runs of a program are made, and what is made of one that fails.

- ``program``      what is explored, and what a failure is
- ``strategies/``  how the next run is decided; one strategy a file
- ``explorer``     makes runs until something is found or the budget is spent
- ``recording``    a run as it was made, what it cost, and thereby what *simpler* means
- ``token``        a run in one line
- ``shrink``       the simplest run that fails in the same way
- ``watch``        a run with all its events
- ``where``        the line of the user's code at which a thread stands
- ``explain``      the two events, the context switches and the change that matter
- ``determinism``  the check that nothing but decisions makes runs differ
- ``dependence``   events, what each touched, and which happen before which: for strategies that reduce
- ``guards``       what was possible when, for the same
- ``distinct``, ``collection``  counting fingerprints and collecting garbage while very many runs are made

Knows the runtime and kemu's errors, and no framework. The scenario layer, the command line and authors of
strategies import it.
"""

from kemu.explore.determinism import check_determinism
from kemu.explore.explain import Conflict, Explanation, Flip, Switch, explain
from kemu.explore.explorer import Budget, Exploration, Finding, Progress, explore
from kemu.explore.program import Failure, Program, failure_of
from kemu.explore.recording import Cost, Decision, Recorder, Recording, record
from kemu.explore.shrink import MAX_REPLAYS, Shrunk, shrink
from kemu.explore.strategies import (
    DEFAULT_STRATEGY,
    DPOR,
    PCT,
    POS,
    STRATEGIES,
    SURW,
    URW,
    Alternating,
    BoundedDFS,
    Portfolio,
    RandomDelay,
    RandomWalk,
    Reducing,
    Reduction,
    Replay,
    Sampler,
    StickyRandomWalk,
    Strategy,
    replay,
    strategy_from_name,
)
from kemu.explore.token import decode, encode
from kemu.explore.watch import Event, Watcher, watch
from kemu.explore.where import Place, where

__all__ = [
    "DEFAULT_STRATEGY",
    "DPOR",
    "MAX_REPLAYS",
    "PCT",
    "POS",
    "STRATEGIES",
    "SURW",
    "URW",
    "Alternating",
    "BoundedDFS",
    "Budget",
    "Conflict",
    "Cost",
    "Decision",
    "Event",
    "Exploration",
    "Explanation",
    "Failure",
    "Finding",
    "Flip",
    "Place",
    "Portfolio",
    "Program",
    "Progress",
    "RandomDelay",
    "RandomWalk",
    "Recorder",
    "Recording",
    "Reducing",
    "Reduction",
    "Replay",
    "Sampler",
    "Shrunk",
    "StickyRandomWalk",
    "Strategy",
    "Switch",
    "Watcher",
    "check_determinism",
    "decode",
    "encode",
    "explain",
    "explore",
    "failure_of",
    "record",
    "replay",
    "shrink",
    "strategy_from_name",
    "watch",
    "where",
]
