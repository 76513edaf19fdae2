"""What in a file cannot be followed, found in its source alone.

A file with any of it is *coarse*: each step that runs code of it, or of a file beside it, is taken to conflict with
every other such step. That is a fact about the file, and not about what some run happened to do.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kemu.scenario.check_names import functions
from kemu.scenario.tracking.rewrite import outer_classes
from kemu.scenario.tracking.state import State

REFLECTION: Final = frozenset(
    {
        *(f"builtins.{name}" for name in ("vars", "exec", "eval", "compile", "globals", "locals", "dir")),
        *("builtins.memoryview", "builtins.__import__", "builtins.open", "builtins.breakpoint", "builtins.input"),
    }
)
HIDDEN: Final = frozenset(
    {
        *("__dict__", "__setattr__", "__delattr__", "__getattribute__", "__closure__", "__globals__", "__defaults__"),
        *("__kwdefaults__", "__next__", "f_locals", "f_globals", "gi_frame", "cr_frame", "__reduce_ex__"),
    }
)
"""Attributes through which state is reached past the names of its fields."""

FOLLOWED: Final = frozenset(
    {
        *("__future__", "abc", "base64", "binascii", "bisect", "builtins", "collections", "collections.abc"),
        *("contextlib", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "heapq", "ipaddress"),
        *("itertools", "json", "math", "numbers", "operator", "pathlib", "re", "statistics", "string", "struct"),
        *("textwrap", "time", "types", "typing", "uuid", "warnings", "zlib"),
    }
)
"""Modules of the standard library that keep no state of their users, but for what is listed below."""

STATEFUL: Final = frozenset(
    {
        *("dataclasses.asdict", "dataclasses.astuple", "dataclasses.replace", "json.load", "json.loads"),
        *("types.SimpleNamespace", "operator.attrgetter", "operator.methodcaller", "functools.cache"),
        *("functools.lru_cache", "functools.cached_property", "contextlib.ExitStack", "contextlib.AsyncExitStack"),
        *("itertools.count", "itertools.cycle", "itertools.tee", "collections.ChainMap", "collections.UserDict"),
        *("collections.UserList", "collections.UserString"),
    }
)
ITERATORS: Final = frozenset(f"builtins.{name}" for name in ("iter", "map", "filter", "zip", "enumerate", "reversed"))


@dataclass(frozen=True, slots=True)
class CoarseReason:
    """Why a file is coarse; ``str()`` is one line, as of a compiler's message."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def coarse_reasons(state: State) -> tuple[CoarseReason, ...]:
    """What in the file cannot be followed, by line, each reason once for a line."""
    found = {CoarseReason(state.source.path, line, text) for line, text in _problems(state)}
    return tuple(sorted(found, key=lambda reason: (reason.line, reason.text)))


def _problems(state: State) -> Iterator[tuple[int, str]]:
    yield from state.variables.problems
    for function in functions(state.source.tree):
        if function.name == "__del__":
            yield function.lineno, "__del__ runs when Python frees the object, which is no part of the schedule"
    for node in ast.walk(state.source.tree):
        match node:
            case ast.Import() | ast.ImportFrom():
                yield from _imports(node, state)
            case ast.Name(ctx=ast.Load()) | ast.Attribute(ctx=ast.Load()):
                yield from _uses(node, state)
            case ast.Assign(targets=targets, value=value):
                yield from _iterators(targets, value, state)
                yield from _starred(targets)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                yield from _iterators([target], value, state)
            case ast.For(target=target) | ast.AsyncFor(target=target) | ast.comprehension(target=target):
                if any(isinstance(one, ast.Starred) for one in ast.walk(target)):
                    yield target.lineno, "a starred loop variable is a new list in each round"
            case ast.With(items=items) | ast.AsyncWith(items=items):
                for item in items:
                    if item.optional_vars is not None and _has_star(item.optional_vars):
                        yield item.context_expr.lineno, "a starred target of with is a new list"
            case ast.Lambda() if node.args.kwarg is not None:
                yield node.lineno, f"**{node.args.kwarg.arg} of a lambda is a new dictionary"
            case ast.match_case():
                yield from _patterns(node)
            case _:
                pass


def _imports(node: ast.Import | ast.ImportFrom, state: State) -> Iterator[tuple[int, str]]:
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    if isinstance(node, ast.ImportFrom) and node.level:
        return
    for module in modules:
        top = module.partition(".")[0]
        if top not in sys.stdlib_module_names and top != "kemu" and top not in state.source.siblings:
            yield node.lineno, f"{module} is not beside this file, so that what it keeps is not recorded"


def _uses(node: ast.Name | ast.Attribute, state: State) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Attribute) and node.attr in HIDDEN:
        yield node.lineno, f"{node.attr} reaches state past the names of its fields"
        return
    origin = state.names.origin(node)
    if origin is None or origin.startswith((".", "kemu.")) or origin == "kemu":
        return
    if origin in REFLECTION:
        yield node.lineno, f"{origin.removeprefix('builtins.')} reaches state past its names"
    elif origin == "builtins.next":
        call = state.names.parents.get(node)
        if not (isinstance(call, ast.Call) and call.args and _is_new_iterator(call.args[0], state)):
            yield node.lineno, "next() moves an iterator, whose position is not recorded"
    elif origin in STATEFUL:
        yield node.lineno, f"{origin} keeps or returns state that is not recorded"
    else:
        module = origin.rpartition(".")[0]
        top = origin.partition(".")[0]
        parent = state.names.parents.get(node)
        if isinstance(parent, ast.Attribute) or top not in sys.stdlib_module_names:
            return
        if module not in FOLLOWED and top not in FOLLOWED and origin not in FOLLOWED:
            yield node.lineno, f"{origin} may keep state that is not recorded"


def _is_new_iterator(node: ast.expr, state: State) -> bool:
    """Whether *node* makes an iterator that nobody else has."""
    if isinstance(node, ast.GeneratorExp):
        return True
    return isinstance(node, ast.Call) and state.names.origin(node.func) in ITERATORS


def _iterators(targets: list[ast.expr], value: ast.expr, state: State) -> Iterator[tuple[int, str]]:
    """Iterators that are kept where other threads may find them."""
    if not all(isinstance(target, ast.Name) for target in targets) and (
        _is_new_iterator(value, state)
        or (isinstance(value, ast.Call) and (state.names.origin(value.func) or "").startswith("itertools."))
    ):
        yield value.lineno, "an iterator is kept, whose position is not recorded"


def _starred(targets: list[ast.expr]) -> Iterator[tuple[int, str]]:
    for target in targets:
        for node in ast.walk(target):
            if isinstance(node, ast.Starred) and not isinstance(node.value, ast.Name):
                yield node.lineno, f"*{ast.unparse(node.value)} gets a new list"


def _has_star(target: ast.expr) -> bool:
    return any(isinstance(node, ast.Starred) for node in ast.walk(target))


def _patterns(case: ast.match_case) -> Iterator[tuple[int, str]]:
    outer = set(outer_classes(case.pattern))
    for node in ast.walk(case.pattern):
        if isinstance(node, ast.MatchClass) and node not in outer and (node.kwd_attrs or node.patterns):
            yield node.lineno, "a class pattern inside another pattern reads fields that are not recorded"
