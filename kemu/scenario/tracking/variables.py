"""Which variables several functions share: globals that functions assign, and variables of a call that inner
functions see change.

A variable of a call that has its value before the first function inside can see it is a constant for those functions.
All others are state: two of the inner functions may run in two threads.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from kemu.scenario.check_names import COMPREHENSIONS, FunctionNode, Names, Scope

AnyFunction = FunctionNode | ast.Lambda
LOOPS = (ast.For, ast.AsyncFor, ast.While)
MATCHES = (ast.MatchAs, ast.MatchStar, ast.MatchMapping)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(eq=False)
class SharedVariables:
    """What one function shares with the functions in it."""

    function: FunctionNode
    number: int
    """Tells the function from those around it."""
    names: set[str] = field(default_factory=set[str])

    @property
    def variable(self) -> str:
        """The variable that holds them in the rewritten code."""
        return f"@scope{self.number}"


@dataclass
class Variables:
    """What the functions of one file share."""

    shared: dict[ast.AST, SharedVariables]
    """For each function that shares some."""
    problems: list[tuple[int, str]]
    """Lines with shared variables that cannot be followed, and why."""

    def of(self, name: str, scope: Scope) -> SharedVariables | None:
        """Where the variable *name*, used in *scope*, is kept; None if it is not shared."""
        owner = scope.find(name)
        found = None if owner is None else self.shared.get(owner.node)
        return found if found is not None and name in found.names else None


def assigned_globals(names: Names) -> frozenset[str]:
    """The global variables that functions of the file assign."""
    found: set[str] = set()
    for scope in names.inner.values():
        for name, where in scope.elsewhere.items():
            if where == "global" and name in scope.bound:
                found.add(name)
    return frozenset(found)


def shared_variables(names: Names) -> Variables:
    """Find the variables that functions of the file share with functions inside them."""
    result = Variables({}, list(_odd_bindings(names)))
    for owner, uses in _uses(names).items():
        if not isinstance(owner.node, FunctionNode | ast.Lambda):
            result.problems.extend(_of_comprehension(owner, uses, names))
            continue
        for name, nodes in uses.items():
            inner = [node for node in nodes if _function_of(names.scopes[node]) is not owner]
            if not inner or _is_settled(name, owner, nodes, inner, names):
                continue
            problem = _problem(name, owner, nodes, names)
            if problem is not None:
                result.problems.append(problem)
            else:
                assert isinstance(owner.node, FunctionNode)
                known = result.shared.get(owner.node)
                if known is None:
                    known = result.shared[owner.node] = SharedVariables(owner.node, len(result.shared) + 1)
                known.names.add(name)
    return result


def _odd_bindings(names: Names) -> Iterator[tuple[int, str]]:
    """Variables of outer functions and of the file that a function binds by something else than an assignment."""
    for scope in names.inner.values():
        for name in scope.elsewhere:
            for node in scope.bound.get(name, ()):
                if not isinstance(node, ast.Name | ast.NamedExpr):
                    yield (
                        _position(node)[0],
                        f"{name} is no variable of this function and bound by more than assignment",
                    )


def _uses(names: Names) -> dict[Scope, dict[str, list[ast.Name]]]:
    """For each scope that is no module's and no class's its variables, with where they are used."""
    found: dict[Scope, dict[str, list[ast.Name]]] = {}
    for node, scope in names.scopes.items():
        if isinstance(node, ast.Name):
            owner = scope.find(node.id)
            if owner is not None and owner.parent is not None and not isinstance(owner.node, ast.ClassDef):
                found.setdefault(owner, {}).setdefault(node.id, []).append(node)
    return found


def _function_of(scope: Scope) -> Scope | None:
    """The scope of the function that code in *scope* runs in; a generator runs later, as a function does."""
    where: Scope | None = scope
    while where is not None and isinstance(where.node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.ClassDef)):
        where = where.parent
    return where


def _position(node: ast.AST) -> tuple[int, int]:
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0)


def _is_settled(name: str, owner: Scope, nodes: list[ast.Name], inner: list[ast.Name], names: Names) -> bool:
    """Whether the variable has its value before any function in *owner* can see it."""
    if any(not isinstance(node.ctx, ast.Load) for node in inner):
        return False
    seers = [_outermost(node, owner, names) for node in inner]
    first = min(_position(seer) for seer in seers)
    bindings = [*owner.bound[name], *(node for node in nodes if not isinstance(node.ctx, ast.Load))]
    for binding in bindings:
        if isinstance(binding, ast.arg):
            continue
        if _position(binding) > first:
            return False
        around = set(_loops(binding, owner, names))
        if any(loop in around for seer in seers for loop in _loops(seer, owner, names)):
            # A function that is defined in one round of the loop sees the next.
            return isinstance(binding, DEFINITIONS) and len(bindings) == 1
    return True


def _outermost(node: ast.AST, owner: Scope, names: Names) -> ast.AST:
    """The function directly in *owner* that *node* is in."""
    found = node
    scope: Scope | None = names.scopes[node]
    while scope is not None and scope is not owner:
        found = scope.node
        scope = scope.parent
    return found


def _loops(node: ast.AST, owner: Scope, names: Names) -> Iterator[ast.AST]:
    """The loops in *owner* around *node*."""
    where: ast.AST | None = names.parents.get(node)
    while where is not None and where is not owner.node:
        if isinstance(where, LOOPS):
            yield where
        where = names.parents.get(where)


def _problem(name: str, owner: Scope, nodes: list[ast.Name], names: Names) -> tuple[int, str] | None:
    """Why the shared variable *name* cannot be followed."""
    if isinstance(owner.node, ast.Lambda):
        return owner.node.lineno, f"{name} of a lambda is shared with a function in it"
    for binding in owner.bound[name]:
        if isinstance(binding, (ast.Import, ast.ImportFrom, ast.ExceptHandler, *MATCHES)):
            return _position(binding)[0], f"{name} is shared with a function inside and bound by more than assignment"
        if isinstance(binding, ast.ClassDef):
            return _position(binding)[0], f"the class {name} is shared with a function inside that may see it early"
    return None


def _of_comprehension(owner: Scope, uses: dict[str, list[ast.Name]], names: Names) -> Iterator[tuple[int, str]]:
    """Functions in a comprehension that see its variables, where the comprehension may be interrupted."""
    if not isinstance(owner.node, COMPREHENSIONS):
        return
    waits = isinstance(owner.node, ast.GeneratorExp) or any(isinstance(one, ast.Await) for one in ast.walk(owner.node))
    for name, nodes in uses.items():
        if waits and any(_function_of(names.scopes[node]) is not _function_of(owner) for node in nodes):
            yield owner.node.lineno, f"{name} of a comprehension is shared with a function in it"
