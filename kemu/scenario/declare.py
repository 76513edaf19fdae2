"""Declaring scenarios: the decorator that a scenario file puts on its scripts.

What is declared is checked here, at the declaration, so that a mistake is reported at its line and not in the
middle of an exploration. Scenario files use `scenario`; the loader gathers what a file declares with
`collecting`.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Coroutine, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeVar, cast, overload

from kemu.errors import ScenarioError
from kemu.nt.driver import Driver
from kemu.nt.system import LowResources

if TYPE_CHECKING:
    from kemu.scenario.world import World

Script = Callable[..., Coroutine[Any, Any, Any]]
S = TypeVar("S", bound=Script)

Completion = Literal["explore", "inline", "later"]
COMPLETIONS: Final = ("explore", "inline", "later")

Preemption = Literal["call", "statement", "access"]
PREEMPTIONS: Final = ("call", "statement", "access")

DEFAULT_VARIANT: Final = "default"
"""The name of the one variant of a scenario that declares none."""
EVERY_VARIANT: Final = "all"
"""What asks for each variant where a variant may be named; no variant can be called this."""

_CODE = re.compile(r"[A-Za-z][\w.-]*")


@dataclass(frozen=True, slots=True)
class Scenario:
    """A declared scenario."""

    name: str
    function: Script
    variants: Mapping[str, object]
    """What each variant passes to the script, in the order of declaration; the first is the default."""
    expects: Mapping[str, str]
    """For each variant that must fail the code of its finding; a variant that is not here must be clean."""
    completion: Completion
    low_resources: LowResources
    worker_threads: int
    explore_setup: bool
    max_steps: int | None
    """The most steps of one run; None leaves it to whoever runs the scenario."""
    doc: str
    file: str
    line: int
    takes_variant: bool
    """Whether the script has a second parameter, for the variant."""
    force_pending: bool = False
    """Whether an IRP may be completed later, after STATUS_PENDING, although its driver completes it at once."""
    io_faults: bool = False
    file_times: bool = False
    short_names: bool = False
    cached_io: bool = False
    fast_io: bool = False
    drain_creates: bool = False
    drain_fast_io: bool = False
    preempt: Preemption = "call"
    """Where another thread may come in between: at calls that wait, before statements, or before every access."""
    timer_jitter: bool = False
    """Whether a timer may expire a clock tick early or late."""
    work_budget: int | None = None
    """How many seconds of virtual time a work item may take; None for as long as it likes."""

    @property
    def default_variant(self) -> str:
        """The variant that runs unless another one is named."""
        return next(iter(self.variants))

    def start(self, world: World, variant: str) -> Coroutine[Any, Any, Any]:
        """The script, ready to be run in *world*."""
        if self.takes_variant:
            return self.function(world, self.variants[variant])
        return self.function(world)


_declared: ContextVar[list[Scenario] | None] = ContextVar("declared", default=None)


@contextmanager
def collecting() -> Generator[list[Scenario]]:
    """Gather what is declared inside the block, in the order of declaration.

    The attributes of a module are not enough: of two scenarios with one name they show only the second.
    """
    found: list[Scenario] = []
    token = _declared.set(found)
    try:
        yield found
    finally:
        _declared.reset(token)


@overload
def scenario(function: S, /) -> S: ...
@overload
def scenario(
    *,
    variants: Mapping[str, Any] | None = None,
    expects: Mapping[str, str] | str | None = None,
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
    preempt: Preemption = "call",
    timer_jitter: bool = False,
    work_budget: int | None = None,
) -> Callable[[S], S]: ...
def scenario(function: Any = None, /, **options: Any) -> Any:
    """Declare an ``async def`` as a scenario, as ``@scenario`` or ``@scenario(...)``.

    The script takes the `World`, and as its second parameter the variant under test if there are *variants*:
    names, each with the value to pass, usually a driver's class. The first is the default. *expects* says
    which finding a variant must have, by its code: one code for all, or a code for each that is not clean.

    *completion* is how the file system and disks complete requests: ``"explore"`` (inline, or later in another
    thread), ``"inline"`` or ``"later"``. With *low_resources* every allocation may fail, with ``"once"`` at most
    one of a run. With *force_pending* an IRP that a driver completes at once may reach the one above later, after
    STATUS_PENDING. *worker_threads* is the size of the system's worker pool. With *io_faults* every transfer may fail
    on the disk. *file_times* has files stamped with virtual time, *short_names* gives them short names and has removed
    names tunnelled. With *cached_io* reads and writes go through a cache, which paging I/O fills and a lazy writer's
    thread writes back; with *fast_io* programs' requests are tried as fast I/O first, where Windows does that. With
    *drain_creates* and *drain_fast_io* a teardown drains creates, and what is no IRP, as it does everything else.
    *explore_setup* lets loading a driver race with
    everything else. *max_steps* limits the length of one run. *preempt* says where another thread may come in
    between in the code of this file: at WDK calls (``"call"``), also before each statement that touches shared
    state (``"statement"``), or before every load and store of it (``"access"``). With *timer_jitter* a timer may
    expire a clock tick early or late. A work item that takes longer than *work_budget* seconds of virtual time is a
    warning.

    Raises `ScenarioError`, which names what is wrong and what to write instead.
    """
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise ScenarioError(
            f"scenario() has no option {unknown[0]!r}",
            remedy=nearest(unknown[0], _OPTIONS, "the options are"),
        )
    if function is None:
        return partial(_declare, options=options)
    if options or not callable(function):
        raise ScenarioError(
            f"scenario() was given {function!r} by position",
            remedy="write @scenario, or @scenario(variants=...) with every option by its name",
        )
    return _declare(function, options)


_OPTIONS: Final = (
    "variants",
    "expects",
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
    "preempt",
    "timer_jitter",
    "work_budget",
)


def nearest(word: str, known: Collection[str], otherwise: str) -> str:
    """The remedy for a word that is not among the *known*: the nearest of them, or all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"{otherwise} {', '.join(known)}"


def _declare(function: Any, options: dict[str, Any]) -> Any:
    script = _checked_script(function)
    name = script.__name__

    def wrong(message: str, remedy: str) -> NoReturn:
        raise ScenarioError(f"scenario {name}: {message}", remedy=remedy)

    given = options.get("variants")
    variants = {DEFAULT_VARIANT: None} if given is None else _checked_variants(given, wrong)
    _check_parameters(script, given is not None, wrong)
    code = inspect.unwrap(script).__code__
    declared = Scenario(
        name=name,
        function=script,
        variants=variants,
        expects=_checked_expects(options.get("expects"), variants, wrong),
        completion=_checked_completion(options.get("completion", "explore"), wrong),
        low_resources=_checked_low_resources(options.get("low_resources", False), wrong),
        force_pending=_checked_flag("force_pending", options.get("force_pending", False), wrong),
        worker_threads=_checked_number("worker_threads", options.get("worker_threads", 3), wrong),
        explore_setup=_checked_flag("explore_setup", options.get("explore_setup", False), wrong),
        max_steps=_checked_limit("max_steps", options.get("max_steps"), wrong),
        doc=inspect.getdoc(script) or "",
        file=code.co_filename,
        line=code.co_firstlineno,
        takes_variant=given is not None,
        io_faults=_checked_flag("io_faults", options.get("io_faults", False), wrong),
        file_times=_checked_flag("file_times", options.get("file_times", False), wrong),
        short_names=_checked_flag("short_names", options.get("short_names", False), wrong),
        cached_io=_checked_flag("cached_io", options.get("cached_io", False), wrong),
        fast_io=_checked_flag("fast_io", options.get("fast_io", False), wrong),
        drain_creates=_checked_flag("drain_creates", options.get("drain_creates", False), wrong),
        drain_fast_io=_checked_flag("drain_fast_io", options.get("drain_fast_io", False), wrong),
        preempt=_checked_preemption(options.get("preempt", "call"), wrong),
        timer_jitter=_checked_flag("timer_jitter", options.get("timer_jitter", False), wrong),
        work_budget=_checked_limit("work_budget", options.get("work_budget"), wrong),
    )
    found = _declared.get()
    if found is not None:
        found.append(declared)
    vars(script)["__kemu_scenario__"] = declared
    return script


Wrong = Callable[[str, str], NoReturn]


def _checked_script(function: Any) -> Any:
    name = getattr(function, "__name__", repr(function))
    if inspect.isclass(function):
        raise ScenarioError(f"scenario {name} is a class", remedy="declare an async def function")
    if inspect.isasyncgenfunction(function):
        raise ScenarioError(f"scenario {name} yields", remedy="remove the yield: a script only awaits")
    if not inspect.isfunction(function) or not inspect.iscoroutinefunction(function):
        raise ScenarioError(f"scenario {name} is not an async function", remedy=f"write async def {name}(world)")
    return function


def _checked_variants(given: Any, wrong: Wrong) -> dict[str, object]:
    if not isinstance(given, Mapping):
        wrong(f"variants is {given!r}", 'write a dictionary, such as {"buggy": Buggy, "fixed": Fixed}')
    variants: dict[Any, object] = dict(cast("Mapping[Any, object]", given))
    if not variants:
        wrong("variants is empty", "leave it out, or name at least one variant")
    for name, value in variants.items():
        if isinstance(value, Driver):
            wrong(
                f"variant {name!r} is a driver object, which every run would share",
                f"give its class, {type(value).__name__}, and make the object in the script",
            )
        if not isinstance(name, str) or not name or name != name.strip():
            wrong(f"{name!r} is not a variant's name", "use a word, such as 'buggy'")
        bad = next((character for character in name if character in "[]" or not character.isprintable()), None)
        if bad is not None:
            wrong(
                f"{bad!r} in the variant's name {name!r}",
                "leave it out: brackets stand around the variant in a target",
            )
        if name == EVERY_VARIANT:
            wrong(f"a variant is called {name!r}, which stands for every variant", "give it another name")
    return variants


def _check_parameters(script: Script, has_variants: bool, wrong: Wrong) -> None:
    wanted = "(world, variant)" if has_variants else "(world)"
    signature = inspect.signature(script)
    try:
        signature.bind(*(["world", "variant"] if has_variants else ["world"]))
    except TypeError:
        why = "it has variants" if has_variants else "it has no variants"
        wrong(f"its script takes {signature}, and {why}", f"write async def {script.__name__}{wanted}")


def _checked_expects(given: Any, variants: Mapping[str, object], wrong: Wrong) -> dict[str, str]:
    if given is None:
        return {}
    if isinstance(given, str):
        given = dict.fromkeys(variants, given)
    if not isinstance(given, Mapping):
        wrong(
            f"expects is {given!r}",
            'write a finding\'s code, or a dictionary such as {"buggy": "pend-double-complete"}',
        )
    expects: dict[Any, Any] = dict(cast("Mapping[Any, Any]", given))
    for variant, code in expects.items():
        if variant not in variants:
            wrong(
                f"expects names the variant {variant!r}, which it does not have",
                nearest(str(variant), list(variants), "the variants are"),
            )
        if not isinstance(code, str) or _CODE.fullmatch(code) is None:
            wrong(
                f"expects {code!r} of the variant {variant!r}",
                "write the code of a finding, or leave a variant out that must be clean",
            )
    return expects


def _checked_completion(value: Any, wrong: Wrong) -> Completion:
    if value not in COMPLETIONS:
        wrong(f"completion is {value!r}", nearest(str(value), COMPLETIONS, "write one of"))
    return value


def _checked_preemption(value: Any, wrong: Wrong) -> Preemption:
    if value not in PREEMPTIONS:
        wrong(f"preempt is {value!r}", nearest(str(value), PREEMPTIONS, "write one of"))
    return value


def _checked_low_resources(value: Any, wrong: Wrong) -> LowResources:
    if value == "once":
        return "once"
    if not isinstance(value, bool):
        wrong(f"low_resources is {value!r}", 'write True, False or "once"')
    return value


def _checked_flag(name: str, value: Any, wrong: Wrong) -> bool:
    if not isinstance(value, bool):
        wrong(f"{name} is {value!r}", "write True or False")
    return value


def _checked_number(name: str, value: Any, wrong: Wrong) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        wrong(f"{name} is {value!r}", "write a whole number above 0")
    return value


def _checked_limit(name: str, value: Any, wrong: Wrong) -> int | None:
    return None if value is None else _checked_number(name, value, wrong)
