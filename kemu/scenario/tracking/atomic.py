"""Code that touches state and that no preemption interrupts, because it cannot await."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from kemu.scenario.tracking.state import State


@dataclass(frozen=True, slots=True)
class Atomic:
    """A function that runs as one piece."""

    name: str
    """As ``Class.method``; of what has no name, where it is."""
    path: str
    line: int
    kind: str
    """``function``, ``property``, ``special method``, ``lambda`` or ``generator expression``."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.name} ({self.kind})"


def atomic_parts(state: State) -> tuple[Atomic, ...]:
    """The atomic parts of a file that touch state, by line."""
    found: list[Atomic] = []
    for node in ast.walk(state.source.tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.GeneratorExp) and state.function_touches(node):
            if isinstance(node, ast.GeneratorExp) and not isinstance(
                state.names.function_around(node), ast.AsyncFunctionDef
            ):
                # Part of a function that is listed itself.
                continue
            found.append(Atomic(_name(node, state), state.source.path, node.lineno, _kind(node)))
    return tuple(sorted(found, key=lambda one: (one.line, one.name)))


def _kind(node: ast.FunctionDef | ast.Lambda | ast.GeneratorExp) -> str:
    match node:
        case ast.Lambda():
            return "lambda"
        case ast.GeneratorExp():
            return "generator expression"
        case ast.FunctionDef():
            marks = {
                one.attr if isinstance(one, ast.Attribute) else getattr(one, "id", "") for one in node.decorator_list
            }
            if marks & {"property", "setter", "getter", "deleter", "cached_property"}:
                return "property"
            is_special = node.name.startswith("__") and node.name.endswith("__")
            return "special method" if is_special else "function"


def _name(node: ast.AST, state: State) -> str:
    own = node.name if isinstance(node, ast.FunctionDef) else ""
    return ".".join([*reversed(list(_around(node, state))), *([own] if own else [])]) or "<module>"


def _around(node: ast.AST, state: State) -> Iterator[str]:
    where = state.names.parents.get(node)
    while where is not None:
        if isinstance(where, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield where.name
        where = state.names.parents.get(where)
