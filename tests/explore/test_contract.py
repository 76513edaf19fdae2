"""The check for authors of strategies: kemu's own keep their promises, and each broken one is named."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from kemu.errors import UsageError
from kemu.explore import EXHAUSTIVE, STRATEGIES, RandomWalk, Sampler, check_strategy, strategy_from_name
from kemu.runtime import DecisionPoint, Outcome


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_kemu_ships_keeps_its_promises(name: str) -> None:
    kept = check_strategy(lambda seed: strategy_from_name(name, seed), fair=name not in EXHAUSTIVE)
    assert "makes the same runs from the same seed" in kept
    assert ("gets away from a thread that spins" in kept) == (name not in EXHAUSTIVE)
    assert ("can make every run" in kept) == (name in {"alternating", "sticky", "random", "pos", "urw"})


class Plain(Sampler):
    """Always the plain thing; broken in one way by each of those below."""

    name = "plain"

    def pick(self, n: int, point: DecisionPoint) -> int:
        return 0

    def choose(self, n: int, label: str) -> int:
        return 0


class Nameless(Plain):
    name = ""


class Unseeded(Plain):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.seed: Any = "seed"


class TooHigh(Plain):
    def choose(self, n: int, label: str) -> int:
        return n


class TooTrue(Plain):
    def pick(self, n: int, point: DecisionPoint) -> int:
        return True


class Raising(Plain):
    def pick(self, n: int, point: DecisionPoint) -> int:
        raise LookupError("nothing here")


class Curious(Plain):
    def pick(self, n: int, point: Any) -> int:
        return len(point.choices) % n


class Meddling(Plain):
    def pick(self, n: int, point: DecisionPoint) -> int:
        point.ready.reverse()
        return 0


class Vague(Plain):
    def begin(self) -> Any:
        super().begin()


class Undead(Plain):
    def begin(self) -> bool:
        super().begin()
        return self.run != 3


NUMBERS = count()


class Remembering(Plain):
    """Runs depend on those of others before."""

    def pick(self, n: int, point: DecisionPoint) -> int:
        return next(NUMBERS) % 7 % n


class Borrowing(Plain):
    def pick(self, n: int, point: DecisionPoint) -> int:
        return random.randrange(n)


class Shrinking(Plain):
    """The second one that is made makes fewer runs."""

    made = 0

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        Shrinking.made += 1
        self.left = 80 - Shrinking.made

    def begin(self) -> bool:
        self.left = max(0, self.left - 1)
        return super().begin() and self.left > 0


class Peeping(Plain):
    def pick(self, n: int, point: DecisionPoint) -> int:
        target: Any = point.ready[0].op.target()
        return 1 if target is not None and target.value > 500 else 0


class Changing(Plain):
    """Takes a step of its own."""

    def choose(self, n: int, label: str) -> int:
        from kemu.runtime import current_thread

        thread = current_thread()
        thread.hash = hash((thread.hash, next(NUMBERS)))
        return 0


class Forgetting(Plain):
    def end(self, outcome: Outcome) -> None:
        del outcome.choices[1:]


class Boasting(Plain):
    full_support = True


class Starving(Plain):
    """The one that was there first always goes on."""

    def pick(self, n: int, point: DecisionPoint) -> int:
        return -point.index % len(point.ready)


def nothing_at_all(seed: int) -> object:
    return object()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Nameless, "a strategy's name has to be a text, and is ''"),
        (nothing_at_all, "a strategy's name has to be a text, and is nothing"),
        (Unseeded, "a strategy's seed has to be a number or None, and is 'seed'"),
        (TooHigh, r"plain: choose returns 3 where there are 3 alternatives, 0 to 2 \(seed 1, program: open questions"),
        (TooTrue, "plain: pick returns True where there are"),
        (Raising, "plain: pick raises LookupError: nothing here"),
        (Curious, "of a decision it may look at ready, index, running and clock_is_enabled"),
        (Meddling, "plain: pick changes point.ready, which it may only look at"),
        (Vague, "plain: begin returns None; it has to return True or False"),
        (Undead, "plain: begin returns False and then True"),
        (Remembering, "plain: run 0 with seed 3 is .* and then .*, with the same seed"),
        (Borrowing, "plain: run 0 with seed 3 is .* and then .*, with the same seed"),
        (Shrinking, "plain: it makes .* runs and then .* with the same seed"),
        (Peeping, "plain: its runs depend on the value of a variable"),
        (Changing, r"plain: the replay of a run of it is another run \(program: open questions\)"),
        (Forgetting, "plain: a run of it cannot be replayed: step 2: the recording ends after 1 decisions"),
        (Boasting, "plain: it says that it can make every run, but 4,000 runs show 1 of the 36 different ones"),
        (Starving, "plain: run 0 has not ended after 10,000 steps: it lets a thread spin for ever"),
    ],
)
def test_each_broken_promise_is_named(make: Callable[[int], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_strategy(make)


def test_the_shared_generator_is_left_alone() -> None:
    random.seed(5)
    expected = random.random()
    random.seed(5)
    check_strategy(RandomWalk)
    assert random.random() == expected
