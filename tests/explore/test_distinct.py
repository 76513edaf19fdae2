"""Counting distinct fingerprints: exact while there is room, near after that, in bounded memory."""

from __future__ import annotations

import random

import pytest

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


@pytest.mark.parametrize("size", [50, 500, 5_000])
def test_counters_merge_into_what_one_would_have_seen(size: int) -> None:
    generator = random.Random(size)
    numbers = [generator.getrandbits(64) for _ in range(size)]
    whole, parts = DistinctCounter(capacity=100), [DistinctCounter(capacity=100) for _ in range(3)]
    for at, number in enumerate(numbers):
        whole.add(number)
        # Every tenth one is seen by two; the third part sees little, and is not halved as often as the others.
        parts[0 if at % 2 else 1].add(number)
        if at % 10 == 0:
            parts[2].add(number)
    for order in ((0, 1, 2), (2, 1, 0)):
        merged = DistinctCounter(capacity=100)
        for at in order:
            merged.merge(parts[at])
        assert (merged.shift, merged.sample) == (whole.shift, whole.sample)
        assert (merged.count, merged.exact) == (whole.count, whole.exact)
    again = DistinctCounter.restored(whole.shift, whole.sample, capacity=100)
    for number in numbers:
        again.add(number)
    assert (again.shift, again.sample) == (whole.shift, whole.sample)
