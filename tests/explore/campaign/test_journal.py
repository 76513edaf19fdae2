"""A campaign's directory: what was done is there, whatever happened then; and nothing else is added to it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from explore.campaign import kit

from kemu.errors import UsageError
from kemu.explore import Budget, Exploration, Strategy
from kemu.explore.campaign import (
    Alone,
    Batch,
    Campaign,
    Entry,
    Manifest,
    Recipe,
    Shard,
    explore_in_batches,
    open_campaign,
    read_campaign,
    run_batch,
)
from kemu.explore.campaign.merge import check_parts, merged, part_of
from kemu.explore.distinct import DistinctCounter


def manifest(load: kit.Load, strategy: str = "random", **fields: Any) -> Manifest:
    program = load()
    options = {"bound": None} if strategy == "dfs" else {}
    entry = Entry(program.name, program.identity, None, 16)
    whole = Manifest("1.0", "c0de", "3.11", strategy, options, 1, True, "1/1", 200, (entry,))
    return replace(whole, **fields)


def go(
    directory: Path, load: kit.Load, meant: Manifest, crew: Any, schedules: int | None = 200, **more: Any
) -> tuple[Exploration, Strategy]:
    """Explore with a campaign in *directory*."""
    campaign = open_campaign(directory, meant)
    strategy = meant.recipe.make()
    try:
        result = explore_in_batches(
            load(),
            load,
            meant.recipe,
            strategy,
            Budget(schedules=schedules),
            crew,
            size=campaign.manifest.programs[0].size,
            shard=campaign.manifest.part,
            journal=campaign.journal(0),
            keep_going=meant.keep_going,
            **more,
        )
    finally:
        campaign.close()
    return replace(result, seconds=0), strategy


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "batches.jsonl").read_text("ascii").splitlines()]


class Dying(kit.Disorderly):
    """Is interrupted after so many tasks."""

    def __init__(self, after: int, size: int = 3) -> None:
        super().__init__(size)
        self.after = after

    def wait(self, stop: Any) -> Any:
        if len(self.done) == self.after:
            raise KeyboardInterrupt
        return super().wait(stop)


@pytest.mark.parametrize("keep_going", [True, False])
@pytest.mark.parametrize("strategy", ["random", "alternating", "dfs"])
@pytest.mark.parametrize("after", [1, 4, 9])
def test_going_on_comes_to_the_same_as_never_stopping(
    tmp_path: Path, after: int, strategy: str, keep_going: bool
) -> None:
    load = kit.Load("rare") if not keep_going and strategy != "dfs" else kit.Load("abba")
    meant = manifest(load, strategy, keep_going=keep_going)
    schedules = None if strategy == "dfs" else 200
    whole, whole_strategy = go(tmp_path / "whole", load, meant, Alone(), schedules)
    first, _ = go(tmp_path / "parts", load, meant, Dying(after), schedules)
    done = len(lines(tmp_path / "parts"))
    assert done >= 1
    crew = kit.Disorderly(2)
    second, strategy_then = go(tmp_path / "parts", load, meant, crew, schedules)
    assert first.interrupted or first == whole
    assert second == whole
    assert (strategy_then.completed, getattr(strategy_then, "exhausted", None)) == (
        whole_strategy.completed,
        getattr(whole_strategy, "exhausted", None),
    )
    # Once more: everything is there.
    crew = kit.Disorderly(2)
    third, _ = go(tmp_path / "parts", load, meant, crew, schedules)
    assert third == whole
    assert crew.given == 0


def test_a_batch_of_a_search_that_was_cut_short_counts(tmp_path: Path) -> None:
    load = kit.Load("steps_program", (2, 2, 1))
    meant = manifest(load, "dfs", schedules=None)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(0)
        return len(asked) > 30

    first, _ = go(tmp_path, load, meant, Alone(), None, stop=stop)
    assert first.interrupted
    assert sum(line["schedules"] for line in lines(tmp_path)) == first.schedules
    assert not all(line["whole"] for line in lines(tmp_path))
    second, _ = go(tmp_path, load, meant, Alone(), None)
    assert (second.schedules, second.exhausted) == (560, True)


def test_more_schedules_go_on_from_fewer(tmp_path: Path) -> None:
    load = kit.Load("many_bugs")
    meant = manifest(load)
    # Three batches, the last of eight runs; it is made again as a whole.
    go(tmp_path / "parts", load, meant, Alone(), 40)
    crew = kit.Disorderly(1)
    more, _ = go(tmp_path / "parts", load, meant, crew, 100)
    assert [task.batch.first for task in crew.done] == [32, 48, 64, 80, 96]
    assert more == go(tmp_path / "whole", load, meant, Alone(), 100)[0]


def test_the_largest_budget_is_that_of_the_campaign(tmp_path: Path) -> None:
    load = kit.Load("many_bugs")
    for asked, expected in ((40, 40), (100, 100), (60, 100), (None, None), (10, None)):
        go(tmp_path, load, manifest(load, schedules=asked), Alone(), asked or 100)
        campaign = read_campaign(tmp_path)
        assert campaign.manifest.schedules == expected
        part = part_of(campaign, 0)
        # Without a limit it never is done, and the last batch but one, which was a short one, is to be made again.
        assert (part.total.schedules, part.done) == ((expected, True) if expected is not None else (96, False))


@pytest.mark.parametrize("cut", [1, 17, 200])
def test_a_last_line_that_was_cut_off_is_as_good_as_none(tmp_path: Path, cut: int) -> None:
    load = kit.Load("many_bugs")
    meant = manifest(load)
    whole, _ = go(tmp_path, load, meant, Alone())
    path = tmp_path / "batches.jsonl"
    content = path.read_bytes()
    count = content.count(b"\n")
    path.write_bytes(content[:-cut])
    assert read_campaign(tmp_path).batches == count - 1
    crew = kit.Disorderly(1)
    again, _ = go(tmp_path, load, meant, crew)
    assert again == whole
    assert crew.given == 1
    assert len(lines(tmp_path)) == count


def test_a_last_line_that_makes_no_sense_is_dropped_and_any_other_is_damage(tmp_path: Path) -> None:
    load = kit.Load("many_bugs")
    go(tmp_path, load, manifest(load), Alone(), 48)
    path = tmp_path / "batches.jsonl"
    good = path.read_bytes()
    path.write_bytes(good + b"\0\0\0\n")
    assert read_campaign(tmp_path).batches == 3
    path.write_bytes(good + b"{}\n" + good)
    with pytest.raises(UsageError, match=r"line 4 of .*batches.jsonl is damaged"):
        read_campaign(tmp_path)


def test_fingerprints_are_written_once(tmp_path: Path) -> None:
    load = kit.Load("many_bugs")
    result, _ = go(tmp_path, load, manifest(load), kit.Disorderly(3, lambda n: 0))
    campaign = read_campaign(tmp_path)
    keys = campaign.journal(0).keys()
    sizes = [len(campaign.journal(0)._written.records[key].result.distinct.sample) for key in keys]
    assert sum(sizes) == result.distinct
    assert sizes[0] > sizes[-1]


def test_many_fingerprints_are_sampled(tmp_path: Path) -> None:
    load = kit.Load("many_bugs")
    program = load()
    campaign = open_campaign(tmp_path, manifest(load))
    journal = campaign.journal(0)
    journal._written.distinct = DistinctCounter(capacity=8)
    total = DistinctCounter(capacity=8)
    for number in range(4):
        batch = Batch((number,), 16, number * 16)
        result = run_batch(program, Recipe("random", {}, 1), batch, keep_going=True)
        journal.write(batch, result)
        total.merge(result.distinct)
    campaign.close()
    assert not total.exact
    again = DistinctCounter(capacity=8)
    for line in read_campaign(tmp_path).journal(0)._written.records.values():
        again.merge(line.result.distinct)
    assert (again.shift, again.sample) == (total.shift, total.sample)


DIFFERENCES: list[tuple[dict[str, Any], str]] = [
    ({"seed": 2}, "the seed 1, and here it is 2"),
    ({"strategy": "pos"}, "the strategy 'random', and here it is 'pos'"),
    ({"options": {"start": 3}}, r"the options of the strategy \{\}, and here it is \{'start': 3\}"),
    ({"keep_going": False}, "the setting of --keep-going True, and here it is False"),
    ({"shard": "1/2"}, "the shard '1/1', and here it is '1/2'"),
    ({"kemu": "2.0"}, "the version of kemu '1.0', and here it is '2.0'"),
    ({"code": "5ea"}, "the code of kemu 'c0de', and here it is '5ea'"),
    ({"programs": ()}, "the 1 programs, and here it is 0, in which abba makes the difference"),
    ({"programs": (Entry("abba", "0" * 16, None, 16),)}, "the abba as .*, and here it is 00000000: its code changed"),
]


@pytest.mark.parametrize(("fields", "message"), DIFFERENCES)
def test_another_campaign_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    load = kit.Load("abba")
    open_campaign(tmp_path, manifest(load))
    with pytest.raises(UsageError, match=message):
        open_campaign(tmp_path, manifest(load, **fields))


def test_other_options_of_a_program_are_another_campaign(tmp_path: Path) -> None:
    load = kit.Load("abba")
    meant = manifest(load)
    (entry,) = meant.programs
    open_campaign(tmp_path, meant)
    for fields, message in (({"max_steps": 5}, "--max-steps None"), ({"flags": ("races",)}, "flags ''")):
        with pytest.raises(UsageError, match=message):
            open_campaign(tmp_path, replace(meant, programs=(replace(entry, **fields),)))
    two = replace(meant, programs=(entry, replace(entry, name="b")))
    open_campaign(tmp_path / "two", two)
    with pytest.raises(UsageError, match="in another order"):
        open_campaign(tmp_path / "two", replace(two, programs=two.programs[::-1]))


def test_a_python_of_another_version_is_welcome(tmp_path: Path) -> None:
    load = kit.Load("abba")
    open_campaign(tmp_path, manifest(load))
    assert open_campaign(tmp_path, manifest(load, python="3.14")).manifest.python == "3.11"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no campaign in"),
        ("{", "campaign.json is damaged"),
        ("[]", "campaign.json is damaged"),
        ('{"format": "kemu.campaign/2"}', "campaign.json is damaged"),
        ('{"format": "kemu.campaign/9"}', "is of the format 'kemu.campaign/9'"),
    ],
)
def test_what_is_no_campaign(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "campaign.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        read_campaign(tmp_path)


def test_directories_that_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"the campaign directory .* cannot be written"):
        open_campaign(tmp_path / "file" / "below", manifest(kit.Load("abba")))
    (tmp_path / "campaign.json").mkdir()
    with pytest.raises(UsageError, match=r"campaign\.json cannot be read"):
        read_campaign(tmp_path)


# Merging.


def shards(tmp_path: Path, load: kit.Load, strategy: str, count: int, **fields: Any) -> list[Campaign]:
    found: list[Campaign] = []
    for index in range(1, count + 1):
        meant = manifest(load, strategy, shard=f"{index}/{count}", **fields)
        go(tmp_path / str(index), load, meant, kit.Disorderly(2), meant.schedules)
        found.append(read_campaign(tmp_path / str(index)))
    return found


@pytest.mark.parametrize("name", ["random", "dfs"])
@pytest.mark.parametrize("count", [1, 3])
def test_shards_merge_into_the_whole(tmp_path: Path, name: str, count: int) -> None:
    load = kit.Load("abba")
    fields: dict[str, Any] = {"schedules": None} if name == "dfs" else {}
    options: dict[str, Any] = {"bound": None} if name == "dfs" else {}
    campaigns = shards(tmp_path, load, name, count, **fields)
    assert check_parts(campaigns) == ()
    strategy = campaigns[0].manifest.recipe.make()
    result = merged(campaigns, 0, load(), strategy)
    whole, plain, _, plain_strategy = kit.both(
        load,
        name,
        Budget(schedules=fields.get("schedules", 200)),
        Alone(),
        **options,
    )
    assert whole == plain
    for field in ("schedules", "steps", "shortest", "longest", "distinct", "exhausted", "bound", "shard"):
        assert getattr(result, field) == getattr(whole, field)
    assert [(one.signature, one.count) for one in result.findings] == [
        (one.signature, one.count) for one in whole.findings
    ]
    assert getattr(strategy, "exhausted", None) == getattr(plain_strategy, "exhausted", None)
    assert result.seconds > 0
    assert all(part_of(campaign, 0).done for campaign in campaigns)


def test_a_bound_is_that_of_the_shard_that_has_come_least_far(tmp_path: Path) -> None:
    load = kit.Load("steps_program", (2, 2, 1))
    options: dict[str, Any] = {"bound": 1}
    campaigns = shards(tmp_path, load, "dfs", 2, schedules=None, options=options)
    strategy = Recipe("dfs", options, 0).make()
    result = merged(campaigns, 0, load(), strategy)
    whole, _, _, _ = kit.both(load, "dfs", Budget(), Alone(), **options)
    assert (result.schedules, result.exhausted, result.bound) == (whole.schedules, True, 1)
    assert getattr(strategy, "exhausted", None) is False


def test_a_shard_that_is_missing_leaves_nothing_proved(tmp_path: Path) -> None:
    load = kit.Load("abba")
    campaigns = shards(tmp_path, load, "dfs", 3, schedules=None)
    del campaigns[1]
    assert check_parts(campaigns) == ("2/3",)
    strategy = campaigns[0].manifest.recipe.make()
    result = merged(campaigns, 0, load(), strategy)
    assert (result.exhausted, result.bound, result.shard) == (False, None, "1/3 and 3/3")
    assert getattr(strategy, "exhausted", None) is False


def test_an_unfinished_shard_is_told_from_one_that_is_done(tmp_path: Path) -> None:
    load = kit.Load("many_bugs")
    go(tmp_path, load, manifest(load), Dying(3))
    part = part_of(read_campaign(tmp_path), 0)
    # Three at a time, the last handed in comes first: batches 2, 3 and 4 of 13.
    assert (part.done, part.ended, part.batches, part.total.schedules) == (False, False, 3, 48)
    assert len(part.total.sightings) == 3


def test_campaigns_that_do_not_belong_together(tmp_path: Path) -> None:
    load = kit.Load("abba")
    one, two, _ = shards(tmp_path / "three", load, "random", 3)
    with pytest.raises(UsageError, match="are the same shard, 1/3"):
        check_parts([one, two, one])
    other, _ = shards(tmp_path / "two", load, "random", 2)
    with pytest.raises(UsageError, match="is shard 1/2, and that in"):
        check_parts([two, other])
    (seed,) = shards(tmp_path / "seed", load, "random", 1, seed=9)
    with pytest.raises(UsageError, match="has the seed 9, and here it is 1"):
        check_parts([two, seed])
    (entry,) = two.manifest.programs
    larger = Campaign(tmp_path, replace(two.manifest, shard="3/3", programs=(replace(entry, size=99),)))
    with pytest.raises(UsageError, match="batches of 99 runs"):
        check_parts([two, larger])
    assert one.manifest.part == Shard(1, 3)
