"""The decorators of tests: `explore` makes many schedules of one, `replay` certain ones before them."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, overload

from kemu.errors import ScenarioError, TokenError, UsageError
from kemu.explore import decode
from kemu.nt.system import LowResources
from kemu.runtime.hosting import outside_event_loop
from kemu.scenario.declare import Completion, Scenario, nearest, scenario
from kemu.testing import session
from kemu.testing.settings import Wanted
from kemu.verifier.catalogue import CATALOGUE

Test = Callable[..., object]

EXPLORED: Final = "__kemu_explored__"
TOKENS: Final = "__kemu_tokens__"
PARAMETER: Final = "world"


@dataclass(slots=True)
class Explored:
    """A test function, and what its decorators say."""

    function: Test
    wanted: Wanted
    scenario: Scenario
    """What the world is like. Its script is put in for each call, when the fixtures are known."""
    expect: str | None = None
    token: str | None = None
    allow_single: bool = False
    tokens: list[str] = field(default_factory=list[str])
    """Of `replay`, in the order in which they stand in the file."""


@overload
def explore(function: Test, /) -> Callable[..., None]: ...
@overload
def explore(
    *,
    schedules: int | None = None,
    strategy: str | None = None,
    seed: int | None = None,
    bound: int | str | None = None,
    expect: str | None = None,
    token: str | None = None,
    allow_single: bool = False,
    completion: Completion = "explore",
    low_resources: LowResources = False,
    force_pending: bool = False,
    worker_threads: int = 3,
    io_faults: bool = False,
    file_times: bool = False,
    short_names: bool = False,
    cached_io: bool = False,
    fast_io: bool = False,
    drain_creates: bool = False,
    drain_fast_io: bool = False,
    explore_setup: bool = False,
    max_steps: int | None = None,
    timer_jitter: bool = False,
    work_budget: int | None = None,
) -> Callable[[Test], Callable[..., None]]: ...
def explore(function: Any = None, /, **options: Any) -> Any:
    """Let a test run under many schedules, as ``@explore`` or ``@explore(...)``.

    The test, an ``async def`` or a plain ``def``, takes a `World` as its parameter ``world``, and fixtures and
    parameters of pytest as ever. What comes out is a plain function that pytest calls once: every schedule is
    made inside that call, in a world of its own but with the same fixtures. It fails with the first finding,
    shrunk and explained; whatever the test raises is one.

    *schedules*, *strategy* (``"pct:depth=3"``), *seed*: as of ``kemu explore``; 500 schedules unless given.
    *bound*, a number or ``"none"``, asks for every schedule up to a bound instead. *expect* is the code of a
    finding: the test passes only if that one is found. With *token* only that run is made. *allow_single* lets
    a test pass that has nothing to explore. All others are as in `kemu.scenario.scenario`.

    Raises `UsageError`, which names what is wrong and what to write instead.
    """
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise UsageError(
            f"explore() has no option {unknown[0]!r}", remedy=nearest(unknown[0], OPTIONS, "the options are")
        )
    if function is None:
        return functools.partial(_explored, options=options)
    if options or not callable(function):
        raise UsageError(
            f"explore() was given {function!r} by position",
            remedy="write @explore, or @explore(schedules=...) with every option by its name",
        )
    return _explored(function, {})


WORLD_OPTIONS: Final = (
    "completion",
    "low_resources",
    "force_pending",
    "worker_threads",
    "io_faults",
    "file_times",
    "short_names",
    "cached_io",
    "fast_io",
    "drain_creates",
    "drain_fast_io",
    "explore_setup",
    "max_steps",
    "timer_jitter",
    "work_budget",
)
WANTED: Final = ("schedules", "strategy", "seed", "bound")
OPTIONS: Final = (*WANTED, "expect", "token", "allow_single", *WORLD_OPTIONS)


def replay(token: str) -> Callable[[Test], Test]:
    """Let a test that is explored make the run of *token* before any other; stands above or below `explore`.

    The run is not shrunk. As long as the code is that of the token, the run is the one that was recorded;
    afterwards its decisions are followed as far as they are possible.
    """
    _check_token(token)

    def put(function: Test) -> Test:
        declared: Explored | None = getattr(function, EXPLORED, None)
        if declared is not None:
            declared.tokens.insert(0, token)
        else:
            vars(function).setdefault(TOKENS, []).insert(0, token)
        return function

    return put


def _check_token(token: Any, where: str = "") -> None:
    if not isinstance(token, str):
        raise UsageError(f"{where}the token is {token!r}", remedy='give one from a report, such as "KS1.…"')
    try:
        decode(token)
    except TokenError as error:
        raise TokenError(f"{where}{error.message}", remedy=error.remedy) from None


def _explored(function: Any, options: dict[str, Any]) -> Callable[..., None]:
    name = getattr(function, "__name__", repr(function))

    def wrong(message: str, remedy: str) -> NoReturn:
        raise UsageError(f"{name}: {message}", remedy=remedy)

    if not inspect.isfunction(function):
        wrong("it is not a function", "put explore() above a test function, below other decorators of pytest")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        wrong("it yields", "remove the yield: a test only awaits")
    if hasattr(function, EXPLORED):
        wrong("it is explored twice", "leave one explore() out")
    signature = inspect.signature(function)
    if PARAMETER not in signature.parameters:
        wrong("it has no parameter world", f"write def {name}({PARAMETER}, ...)")
    expect = options.get("expect")
    if expect is not None and expect not in CATALOGUE:
        near = difflib.get_close_matches(str(expect), CATALOGUE, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "the reference of findings has all codes"
        wrong(f"there is no finding {expect!r}", remedy)
    allow_single = options.get("allow_single", False)
    if not isinstance(allow_single, bool):
        wrong(f"allow_single is {allow_single!r}", "write True or False")
    token = options.get("token")
    if token is not None:
        _check_token(token, f"{name}: ")
    wanted = Wanted(**{key: options[key] for key in WANTED if key in options})
    wanted.check(name)
    declared = Explored(
        function=function,
        wanted=wanted,
        scenario=world_of(function, {key: options[key] for key in WORLD_OPTIONS if key in options}),
        expect=expect,
        token=token,
        allow_single=allow_single,
        tokens=list(getattr(function, TOKENS, ())),
    )

    @functools.wraps(function)
    def test(*arguments: Any, **fixtures: Any) -> None:
        __tracebackhide__ = True
        from kemu.testing.explored import explore_test

        # In a thread of its own nothing is known of the test that runs here.
        outside_event_loop(explore_test, declared, arguments, fixtures, session.current())

    # pytest asks for what the signature names, and there is no fixture called world.
    parameters = [one for one in signature.parameters.values() if one.name != PARAMETER]
    vars(test)["__signature__"] = signature.replace(parameters=parameters, return_annotation=None)
    vars(test)[EXPLORED] = declared
    return test


def world_of(function: Callable[..., Any], options: dict[str, Any]) -> Scenario:
    """The declaration of a world with these *options*. Raises `UsageError` in the name of *function*."""

    async def script(world: Any) -> None:
        """Stands for the script that is put in later."""

    script.__name__ = function.__name__
    script.__doc__ = function.__doc__
    try:
        scenario(**options)(script)
    except ScenarioError as error:
        message = error.message.removeprefix("scenario ")
        raise UsageError(message, remedy=error.remedy) from None
    declared: Scenario = vars(script)["__kemu_scenario__"]
    return declared
