"""One declaration for each WDK routine.

The declaration stands where the routine is implemented and says everything about it once: the header it belongs
to, its C prototype with directions, and the IRQL range. From it come the check at every call, the reference page
and the export list of the header's module. The prototype is kept as C text because that is what its readers know
and what a call from compiled code would have to be translated from.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from kemu.nt.bugcheck import (
    DRIVER_IRQL_NOT_LESS_OR_EQUAL,
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    PAGE_FAULT_IN_NONPAGED_AREA,
    BugCheck,
    BugCheckCode,
)
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, HIGH_LEVEL, PASSIVE_LEVEL, KThread, current_kthread, irql_name
from kemu.nt.system import System, report
from kemu.runtime import Cell

if TYPE_CHECKING:
    from kemu.nt.apc import ApcQueue


class KernelObject:
    """A kernel object that is no cell of its own; a routine that takes one looks at what it is given, as for cells."""

    __slots__ = ()


P = ParamSpec("P")
R = TypeVar("R")

WRITE: Final = 1
"""An access of memory, as bug check 0xD1 has it."""

Ceiling = int | Callable[..., int]
"""A highest IRQL, or a function of the routine's arguments that gives it."""

Stops = Callable[..., tuple[BugCheck | None, BugCheck | None]]
"""Gives, for the caller's IRQL and the routine's arguments, the bug checks of an unverified and a verified system."""


def stops_with(code: BugCheckCode | None = None, *, verifier: int | None = None) -> Stops:
    """The stops that have *code*, and *verifier* as the first parameter of Driver Verifier's."""

    def stops(irql: int, *args: object, **kwargs: object) -> tuple[BugCheck | None, BugCheck | None]:
        plain = BugCheck(code, (0, 0, irql)) if code is not None else None
        verified = BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (verifier, irql)) if verifier is not None else None
        return plain, verified

    return stops


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a C prototype."""

    annotation: str
    c_type: str
    name: str

    @property
    def is_output(self) -> bool:
        """Whether it carries nothing in: such a parameter follows the result in Python's return value."""
        return self.annotation.startswith(("_Out_", "_Outptr_", "_Outptr"))


@dataclass(frozen=True, slots=True)
class Routine:
    """The declaration of one routine."""

    name: str
    header: str
    returns: str
    parameters: tuple[Parameter, ...]
    min_irql: int
    max_irql: Ceiling
    is_awaited: bool
    function: Callable[..., Any]

    @property
    def irql(self) -> str:
        """The IRQL range in words, as the reference page prints it."""
        if callable(self.max_irql):
            note = inspect.getdoc(self.max_irql) or ""
            return note.splitlines()[0] if note else "depends on the arguments"
        if self.max_irql >= HIGH_LEVEL:
            return "any"
        if self.min_irql == self.max_irql:
            return f"= {irql_name(self.max_irql)}"
        return f"<= {irql_name(self.max_irql)}"


REGISTRY: dict[str, Routine] = {}
"""Every declared routine by name, in the order of declaration."""

_PROTOTYPE = re.compile(r"^(?P<returns>[\w\s*]+?)\s*\b(?P<name>\w+)\s*\((?P<parameters>.*)\)\s*$", re.DOTALL)
_PARAMETER = re.compile(
    r"^(?:(?P<annotation>_\w+_(?:\([^)]*\))?)\s+)?(?P<type>[\w\s*]+?[\s*])(?P<name>[A-Za-z_]\w*)(?:\[\])?$", re.DOTALL
)


def parse_prototype(text: str) -> tuple[str, str, tuple[Parameter, ...]]:
    """Split a C prototype into return type, name and parameters."""
    match = _PROTOTYPE.match(" ".join(text.split()))
    if match is None:
        raise ValueError(f"not a C prototype: {text!r}")
    parameters: list[Parameter] = []
    inside = match["parameters"].strip()
    if inside not in {"", "VOID", "void"}:
        for part in re.split(r",(?![^()]*\))", inside):
            if part.strip() == "...":
                # Python's function takes these as ``*Arguments``.
                parameters.append(Parameter("", "...", "Arguments"))
                continue
            one = _PARAMETER.match(part.strip())
            if one is None:
                raise ValueError(f"not a C parameter: {part.strip()!r} in {text!r}")
            parameters.append(Parameter(one["annotation"] or "", one["type"].strip(), one["name"]))
    return match["returns"].strip(), match["name"], tuple(parameters)


def routine(
    header: str,
    prototype: str,
    *,
    max_irql: Ceiling = HIGH_LEVEL,
    min_irql: int = PASSIVE_LEVEL,
    unchecked: tuple[str, ...] = (),
    under_spin_lock: bool | Callable[..., bool] = True,
    stops: Stops | None = None,
    waits: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare the decorated function as the WDK routine of *prototype*, declared in *header*.

    A call outside the IRQL range is finding ``ke.irql`` (KE-IRQL-11, FLT-IRQL-06). Out parameters do not appear
    in the Python signature; all others must, in C's order. A parameter whose annotation is a kernel object's class
    takes nothing else: NULL (unless the annotation allows None) and other objects are finding ``ke.bad-pointer``,
    an object in freed memory is ``ke.use-after-free``; one in paged memory that must not be there is
    ``ke.pageable-sync``, and one that may, above APC_LEVEL, ``ke.paged``. *unchecked* are parameters that the routine
    itself looks at.

    *under_spin_lock* says whether a thread that holds a spin lock may call it, or is a function of the arguments that
    does; a call that may not be made is finding ``ke.spin-forbidden-call`` (KE-SPIN-08). *stops* says what Windows
    does about a call outside the IRQL range, where that is not Driver Verifier's general answer. Only a routine that
    *waits* may be called after one with Wait = TRUE (KE-WAIT-17). Before a routine that is awaited, the caller's APCs
    are delivered.
    """
    returns, name, parameters = parse_prototype(prototype)

    def declare(function: Callable[P, R]) -> Callable[P, R]:
        if function.__name__ != name:
            raise ValueError(f"{function.__name__} is declared with the prototype of {name}")
        expected = [parameter.name for parameter in parameters if not parameter.is_output]
        actual = list(inspect.signature(function).parameters)
        if actual != expected:
            raise ValueError(f"{name} takes {actual} where its prototype says {expected}")
        REGISTRY[name] = Routine(
            name,
            header,
            returns,
            parameters,
            min_irql,
            max_irql,
            inspect.iscoroutinefunction(function),
            function,
        )
        return _checked(function, name, min_irql, max_irql, unchecked, under_spin_lock, stops, waits)

    return declare


Checks = tuple[tuple[int, str, type, bool], ...]
"""Of each parameter that takes a kernel object: its position, its name, the object's class, and whether it may be
NULL."""


def _object_parameters(function: Callable[..., Any]) -> Checks:
    """The parameters of *function* that its annotations declare to be kernel objects."""
    hints = get_type_hints(function)
    checks: list[tuple[int, str, type, bool]] = []
    for position, name in enumerate(inspect.signature(function).parameters):
        hint = hints[name]
        # Of a list of objects the routine itself looks at the members.
        is_union = get_origin(hint) in {Union, UnionType}
        kinds = [kind for kind in (get_args(hint) if is_union else (hint,)) if kind is not type(None)]
        if len(kinds) == 1 and isinstance(kinds[0], type) and issubclass(kinds[0], Cell | KernelObject):
            checks.append((position, name, kinds[0], is_union))
    return tuple(checks)


def _checked(
    function: Callable[P, R],
    name: str,
    lowest: int,
    ceiling: Ceiling,
    unchecked: tuple[str, ...],
    under_spin_lock: bool | Callable[..., bool],
    stops: Stops | None,
    waits: bool,
) -> Callable[P, R]:
    """*function*, which first looks at the caller's IRQL, its locks, and the objects that it is given."""
    checks: Checks | None = None
    spin_locks_matter = under_spin_lock is not True
    is_awaited = inspect.iscoroutinefunction(function)
    ceiling_of = ceiling if callable(ceiling) else None
    limit = HIGH_LEVEL if callable(ceiling) else ceiling

    # Every call of a driver's comes through here.
    @wraps(function)
    def check(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal checks
        if checks is None:
            # Not before the first call: annotations may name what is defined after the routine.
            checks = tuple(one for one in _object_parameters(function) if one[1] not in unchecked)
        thread = current_kthread()
        if thread.announced is not None:
            _announced(thread, name, waits)
        irql = thread.irql
        # Before the level, which is the wrong one because of the lock.
        if spin_locks_matter and thread.locks and not (callable(under_spin_lock) and under_spin_lock(*args, **kwargs)):
            _not_under_spin_lock(thread, name)
        highest = limit if ceiling_of is None else ceiling_of(*args, **kwargs)
        if not lowest <= irql <= highest:
            _off_limits(name, lowest, highest, (None, None) if stops is None else stops(irql, *args, **kwargs))
        if checks:
            system: System = thread.runtime.system
            given = len(args)
            all_live = not (system.freed or system.paged)
            for position, parameter, kind, may_be_null in checks:
                if position < given:
                    value = args[position]
                    if all_live and value.__class__ is kind:
                        continue
                elif parameter in kwargs:
                    value = kwargs[parameter]
                else:
                    continue
                if not isinstance(value, kind):
                    if value is not None or not may_be_null:
                        bad_pointer(name, parameter, kind, value)
                elif system.freed and value in system.freed:
                    report("ke.use-after-free", f"{name} on {value}, {system.freed[value]}")
                elif system.paged and value in system.paged:
                    _check_paged(name, value, system.paged[value], irql)
        if is_awaited and thread.apcs is not None:
            routine = cast("Callable[..., Coroutine[Any, Any, Any]]", function)
            return cast("R", _after_apcs(thread.apcs, routine, args, kwargs))
        return function(*args, **kwargs)

    return check


async def _after_apcs(
    apcs: ApcQueue, function: Callable[..., Coroutine[Any, Any, Any]], args: Any, kwargs: dict[str, Any]
) -> Any:
    """Call *function* after the APCs that are due."""
    await apcs.deliver()
    return await function(*args, **kwargs)


def _announced(thread: KThread, name: str, waits: bool) -> None:
    """The first call after one with Wait = TRUE: it must be a wait, at the level that the thread was at
    (KE-WAIT-17).
    """
    assert thread.announced is not None
    announcing, irql = thread.announced
    thread.announced = None
    thread.irql = irql
    if not waits:
        report("ke.wait-true", f"{name} was called after {announcing} with Wait = TRUE, which a wait must follow")


def bad_pointer(name: str, parameter: str, kind: type, value: object) -> None:
    """Report a pointer to nothing, or to something else than the routine takes. C would follow it."""
    thread = current_kthread()
    what = "NULL" if value is None else f"a {type(value).__name__}"
    if isinstance(value, Cell):
        what = f"{value.label}, {what}"
    if thread.irql >= DISPATCH_LEVEL:
        stop = BugCheck(DRIVER_IRQL_NOT_LESS_OR_EQUAL, (0, thread.irql))
    else:
        stop = BugCheck(PAGE_FAULT_IN_NONPAGED_AREA)
    report("ke.bad-pointer", f"{name} was given {what}, as {parameter}, which takes a {kind.__name__}", stop)


def _check_paged(name: str, value: Any, memory: str, irql: int) -> None:
    """Findings of a call of *name* with *value*, which is a part of *memory*, in paged pool."""
    where = f"{name} on {value}, in {memory} in paged pool"
    if not value.pageable:
        # Whoever signals it, or expires it, may do so at DISPATCH_LEVEL.
        report("ke.pageable-sync", where)
    elif irql > APC_LEVEL:
        stop = BugCheck(DRIVER_IRQL_NOT_LESS_OR_EQUAL, (0, irql, WRITE))
        report("ke.paged", f"{where}, at {irql_name(irql)}", stop)


def _not_under_spin_lock(thread: KThread, name: str) -> None:
    """Report a call of *name* if *thread* holds a spin lock (KE-SPIN-08)."""
    for lock in thread.locks:
        if lock.spins:
            report("ke.spin-forbidden-call", f"{name} was called while {thread.label} holds spin lock {lock.label}")


def _off_limits(name: str, lowest: int, highest: int, stops: tuple[BugCheck | None, BugCheck | None]) -> None:
    irql = current_kthread().irql
    limit = f"at {irql_name(highest)}" if lowest == highest else f"at {irql_name(highest)} or below"
    if irql < lowest != highest:
        limit = f"between {irql_name(lowest)} and {irql_name(highest)}"
    detail = f"{name} was called at {irql_name(irql)}; it may be called {limit}"
    verifier = stops[1] or BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0xE5, irql))
    report("ke.irql", detail, stops[0], verifier=verifier)
