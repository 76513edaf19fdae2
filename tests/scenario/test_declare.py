"""A declaration is either what its author meant, or an error that names the bad value and the remedy."""

import inspect
from collections.abc import Callable
from typing import Any, cast

import pytest

from kemu.errors import ScenarioError
from kemu.nt.driver import Driver
from kemu.scenario.declare import Scenario, collecting, scenario
from kemu.scenario.world import World


class Buggy(Driver):
    pass


class Fixed(Driver):
    pass


async def two(world: World, driver: type[Driver]) -> None:
    """Two threads, one driver.

    More about it.
    """


async def one(world: World) -> str:
    return "ran"


def declared(function: Any) -> Scenario:
    found = function.__kemu_scenario__
    assert isinstance(found, Scenario)
    return found


def test_bare_decorator_gives_one_default_variant() -> None:
    with collecting() as found:
        assert scenario(one) is one
    assert found == [declared(one)]
    what = found[0]
    assert what.name == "one"
    assert dict(what.variants) == {"default": None}
    assert what.default_variant == "default"
    assert what.expects == {}
    assert not what.takes_variant
    assert (what.completion, what.low_resources, what.worker_threads) == ("explore", False, 3)
    assert (what.explore_setup, what.max_steps, what.force_pending) == (False, None, False)
    assert (what.timer_jitter, what.work_budget) == (False, None)
    assert what.file == __file__
    assert inspect.getsourcelines(one)[1] == what.line


def test_options_are_kept_and_the_first_variant_is_the_default() -> None:
    mark = scenario(
        variants={"buggy": Buggy, "fixed": Fixed},
        expects={"buggy": "pend-double-complete"},
        completion="later",
        low_resources=True,
        force_pending=True,
        worker_threads=1,
        explore_setup=True,
        max_steps=500,
        timer_jitter=True,
        work_budget=2,
    )
    what = declared(mark(two))
    assert list(what.variants.items()) == [("buggy", Buggy), ("fixed", Fixed)]
    assert what.default_variant == "buggy"
    assert what.expects == {"buggy": "pend-double-complete"}
    assert (what.completion, what.low_resources, what.worker_threads) == ("later", True, 1)
    once: Any = scenario(low_resources="once")(one)
    assert once.__kemu_scenario__.low_resources == "once"
    assert (what.explore_setup, what.max_steps, what.force_pending) == (True, 500, True)
    assert (what.timer_jitter, what.work_budget) == (True, 2)
    assert what.doc == "Two threads, one driver.\n\nMore about it."
    assert what.takes_variant


def test_one_expectation_stands_for_every_variant() -> None:
    what = declared(scenario(variants={"a": Buggy, "b": Fixed}, expects="deadlock")(two))
    assert what.expects == {"a": "deadlock", "b": "deadlock"}


def test_start_passes_the_variant_only_to_scripts_that_take_one() -> None:
    seen: list[object] = []

    async def with_variant(world: World, driver: object) -> None:
        seen.append(driver)

    async def without(world: World) -> None:
        seen.append("none")

    world = cast("World", object())
    for function, options, variant in (
        (with_variant, {"variants": {"a": Buggy, "b": Fixed}}, "b"),
        (without, {}, "default"),
    ):
        mark = cast("Any", scenario)(**options)
        coroutine = declared(mark(function)).start(world, variant)
        with pytest.raises(StopIteration):
            coroutine.send(None)
    assert seen == [Fixed, "none"]


def test_nothing_is_collected_outside_and_blocks_nest() -> None:
    with collecting() as outer:
        with collecting() as inner:
            scenario(one)
        assert len(inner) == 1
    assert outer == []


def sync(world: World) -> None:
    pass


async def yields(world: World) -> Any:
    yield 1


@pytest.mark.parametrize(
    ("declare", "message", "remedy"),
    [
        (lambda: scenario(cast("Any", sync)), "sync is not an async function", "write async def sync(world)"),
        (lambda: scenario(cast("Any", yields)), "yields yields", "remove the yield: a script only awaits"),
        (lambda: scenario(cast("Any", Buggy)), "Buggy is a class", "declare an async def function"),
        (lambda: cast("Any", scenario)("name"), "'name' by position", "write @scenario"),
        (lambda: cast("Any", scenario)(one, low_resources=True), "by position", "by its name"),
        (lambda: cast("Any", scenario)(variant={}), "no option 'variant'", "did you mean 'variants'?"),
        (lambda: cast("Any", scenario)(zzz=1), "no option 'zzz'", "the options are variants, expects"),
        (lambda: scenario(two), "takes (world:", "write async def two(world)"),
        (lambda: scenario(variants={"a": Buggy})(one), "takes (world:", "write async def one(world, variant)"),
        (lambda: scenario(variants={})(two), "variants is empty", "name at least one"),
        (lambda: scenario(variants=cast("Any", [Buggy]))(two), "variants is [", '{"buggy": Buggy'),
        (lambda: scenario(variants={"a[1]": Buggy})(two), "'[' in the variant's name", "leave it out"),
        (lambda: scenario(variants={"a\n": Buggy})(two), "'a\\n' is not a variant's name", "use a word"),
        (lambda: scenario(variants={"a\tb": Buggy})(two), "'\\t' in the variant's name", "leave it out"),
        (lambda: scenario(variants={"": Buggy})(two), "'' is not a variant's name", "use a word"),
        (lambda: scenario(variants=cast("Any", {1: Buggy}))(two), "1 is not a variant's name", "use a word"),
        (lambda: scenario(variants={"all": Buggy})(two), "'all', which stands for every", "another name"),
        (lambda: scenario(variants={"a": Buggy()})(two), "'a' is a driver object", "give its class, Buggy"),
        (
            lambda: scenario(variants={"buggy": Buggy}, expects={"bugy": "deadlock"})(two),
            "expects names the variant 'bugy'",
            "did you mean 'buggy'?",
        ),
        (
            lambda: scenario(variants={"buggy": Buggy}, expects={"q": "deadlock"})(two),
            "expects names the variant 'q'",
            "the variants are buggy",
        ),
        (
            lambda: scenario(variants={"a": Buggy}, expects=cast("Any", {"a": None}))(two),
            "expects None of the variant 'a'",
            "leave a variant out that must be clean",
        ),
        (lambda: scenario(expects="two words")(one), "expects 'two words'", "write the code of a finding"),
        (lambda: scenario(expects=cast("Any", 5))(one), "expects is 5", "write a finding's code"),
        (lambda: cast("Any", scenario)(completion="inlin")(one), "completion is 'inlin'", "did you mean 'inline'?"),
        (lambda: cast("Any", scenario)(completion=7)(one), "completion is 7", "write one of explore, inline, later"),
        (lambda: scenario(low_resources=cast("Any", 1))(one), "low_resources is 1", 'write True, False or "once"'),
        (lambda: scenario(explore_setup=cast("Any", "no"))(one), "explore_setup is 'no'", "True or False"),
        (lambda: scenario(worker_threads=0)(one), "worker_threads is 0", "a whole number above 0"),
        (lambda: scenario(worker_threads=True)(one), "worker_threads is True", "a whole number above 0"),
        (lambda: scenario(timer_jitter=cast("Any", "yes"))(one), "timer_jitter is 'yes'", "write True or False"),
        (lambda: scenario(work_budget=0)(one), "work_budget is 0", "a whole number above 0"),
        (lambda: scenario(max_steps=-1)(one), "max_steps is -1", "a whole number above 0"),
    ],
)
def test_bad_declarations(declare: Callable[[], object], message: str, remedy: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        declare()
    assert message in caught.value.message
    assert remedy in caught.value.remedy
