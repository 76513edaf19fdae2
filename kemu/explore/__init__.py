"""Exploration: which runs of a program are made, and what is made of one that fails.

- ``program``      what is explored, and what a failure is
- ``strategies/``  how the next run is decided; one strategy a file
- ``explorer``     makes runs until something is found or the budget is spent
- ``recording``    a run as it was made, what it cost, and thereby what *simpler* means
- ``token``        a run in one line
- ``shrink``       the simplest run that fails in the same way
- ``watch``        a run with all its events
- ``where``        the line of the user's code at which a thread stands
- ``races``        the pairs of events of a run whose order nothing else decides
- ``orderings``    the fewest orders of two events that make a run fail
- ``hitting``      the smallest set of which certain clauses are true, for these
- ``explain``      those, the nearest run that passes, the context switches and the decision that matter
- ``blame``        the decision after which the failure was likely
- ``determinism``  the check that nothing but decisions makes runs differ
- ``dependence``   events, what each touched, and which happen before which: for strategies that reduce
- ``guards``       what was possible when, for the same
- ``frames``       the states that they go through, and who sleeps
- ``estimate``     what a sampler is likely not to have seen
- ``contract``     what every strategy promises, checked; on the programs of ``exercise``
- ``corpus``       failing runs that were found, kept in a directory
- ``outcomes``     everything that a program can come to
- ``memory``       what is done with them: tried first, and forgotten once they pass
- ``distinct``, ``collection``  counting fingerprints and collecting garbage while very many runs are made

Knows the runtime and kemu's errors, and no framework. The scenario layer, the command line and authors of
strategies import it.
"""

from kemu.explore.blame import Blame, blame
from kemu.explore.contract import check_strategy
from kemu.explore.corpus import Corpus, Entry, Key
from kemu.explore.determinism import check_determinism
from kemu.explore.estimate import Estimate, SampleCounter
from kemu.explore.explain import Conflict, Explanation, Flip, Switch, explain
from kemu.explore.explorer import Budget, Exploration, Finding, Progress, explore
from kemu.explore.memory import Memory, Replayed
from kemu.explore.orderings import Order, Orderings
from kemu.explore.outcomes import OutcomeSet, Reached, collect_outcomes
from kemu.explore.program import Failure, Program, failure_of, tracked
from kemu.explore.recording import Cost, Decision, Recorder, Recording, record
from kemu.explore.shrink import MAX_REPLAYS, Shrunk, shrink
from kemu.explore.strategies import (
    DEFAULT_STRATEGY,
    DPOR,
    EXHAUSTIVE,
    PCT,
    POS,
    STRATEGIES,
    SURW,
    URW,
    Alternating,
    BoundedDelays,
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
    "EXHAUSTIVE",
    "MAX_REPLAYS",
    "PCT",
    "POS",
    "STRATEGIES",
    "SURW",
    "URW",
    "Alternating",
    "Blame",
    "BoundedDFS",
    "BoundedDelays",
    "Budget",
    "Conflict",
    "Corpus",
    "Cost",
    "Decision",
    "Estimate",
    "Entry",
    "Event",
    "Exploration",
    "Explanation",
    "Failure",
    "Finding",
    "Flip",
    "Order",
    "Orderings",
    "OutcomeSet",
    "Key",
    "Memory",
    "Place",
    "Portfolio",
    "Program",
    "Progress",
    "RandomDelay",
    "RandomWalk",
    "Recorder",
    "Recording",
    "Reached",
    "Reducing",
    "Reduction",
    "Replay",
    "SampleCounter",
    "Replayed",
    "Sampler",
    "Shrunk",
    "StickyRandomWalk",
    "Strategy",
    "Switch",
    "Watcher",
    "blame",
    "check_determinism",
    "check_strategy",
    "collect_outcomes",
    "decode",
    "encode",
    "explain",
    "explore",
    "failure_of",
    "record",
    "replay",
    "shrink",
    "strategy_from_name",
    "tracked",
    "watch",
    "where",
]
