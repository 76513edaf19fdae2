"""Counting distinct fingerprints: exact while there is room, near after that, in bounded memory."""

from __future__ import annotations

import random

from kemu.explore.distinct import DistinctCounter


def test_exact_up_to_the_capacity() -> None:
    counter = DistinctCounter(capacity=100)
    generator = random.Random(1)
    numbers = [generator.getrandbits(64) for _ in range(100)]
    for number in numbers * 3:
        counter.add(number)
    assert (counter.count, counter.exact) == (100, True)


def test_near_beyond_it() -> None:
    # The sample has between 500 and 1,000 members: a standard deviation of at most 4.5 %; four of them are 18 %.
    counter = DistinctCounter(capacity=1_000)
    generator = random.Random(1)
    for number in (generator.getrandbits(64) for _ in range(50_000)):
        counter.add(number)
        counter.add(number)
    assert not counter.exact
    assert abs(counter.count - 50_000) < 0.18 * 50_000


def test_memory_is_bounded() -> None:
    counter = DistinctCounter(capacity=64)
    generator = random.Random(1)
    for _ in range(20_000):
        counter.add(generator.getrandbits(64))
        assert len(counter._seen) <= 64
