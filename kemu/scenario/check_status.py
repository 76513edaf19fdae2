"""Statuses that nobody reads: every routine that can fail says so in its result only."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import cast

from kemu.nt.routine import Routine
from kemu.scenario.check_names import FunctionNode, Names, Problem, SourceFile, functions, own_nodes


def check_statuses(source: SourceFile) -> Iterator[Problem]:
    """Statuses that are dropped, or kept in a variable that is never read."""
    names = source.names
    for function in functions(source.tree):
        for node in own_nodes(function):
            match node:
                case ast.Expr(value=value):
                    routine = _status_of(value, names)
                    if routine is not None and not _cannot_fail(value):
                        yield Problem(
                            node.lineno,
                            f"the status of {routine.name} is never read",
                            f"look at what {routine.name} returns, or assign it to _ if every status is fine",
                        )
                case ast.Assign(targets=[target], value=value):
                    yield from _check_variable(function, node, target, value, names)
                case ast.AnnAssign(target=target, value=ast.expr() as value):
                    yield from _check_variable(function, node, target, value, names)
                case _:
                    pass


def _status_of(value: ast.expr, names: Names) -> Routine | None:
    """The routine whose status *value* is, or begins with."""
    call = value.value if isinstance(value, ast.Await) else value
    if not isinstance(call, ast.Call):
        return None
    routine = names.routine(call.func)
    return routine if routine is not None and routine.returns == "NTSTATUS" else None


_DECISIVE = {
    "KeWaitForSingleObject": (3, ("Alertable", "Timeout")),
    "KeWaitForMutexObject": (3, ("Alertable", "Timeout")),
    "KeDelayExecutionThread": (1, ("Alertable",)),
}
"""Of each wait that may have only one result, which arguments decide that, from which place on."""


def _cannot_fail(value: ast.expr) -> bool:
    """Whether it is a wait that is neither limited nor alertable: it has only one result."""
    call = value.value if isinstance(value, ast.Await) else value
    if not isinstance(call, ast.Call):
        return False
    decisive = _DECISIVE.get(ast.unparse(call.func).rpartition(".")[2])
    if decisive is None:
        return False
    place, names = decisive
    last = {word.arg: word.value for word in call.keywords if word.arg in names}
    last.update(zip(names, call.args[place:], strict=False))
    return all(isinstance(one, ast.Constant) and (one.value is None or one.value is False) for one in last.values())


def _check_variable(
    function: FunctionNode, node: ast.stmt, target: ast.expr, value: ast.expr, names: Names
) -> Iterator[Problem]:
    routine = _status_of(value, names)
    if isinstance(target, ast.Tuple) and target.elts:
        target = target.elts[0]
    if routine is None or not isinstance(target, ast.Name) or target.id.startswith("_") or _cannot_fail(value):
        return
    scope = names.scopes[target]
    if target.id in scope.elsewhere or _is_read(function, node, target.id, names):
        return
    yield Problem(
        node.lineno,
        f"{target.id}, the status of {routine.name}, is never read",
        f"look at {target.id} before you rely on what {routine.name} did, or call it _{target.id}",
    )


def _is_read(function: FunctionNode, assignment: ast.stmt, name: str, names: Names) -> bool:
    for statement in _after(assignment, names):
        if _reads(statement, name):
            return True
        if _overwrites(statement, name):
            return False
    start = (assignment.end_lineno or assignment.lineno, assignment.end_col_offset or 0)
    around = _loops_around(assignment, function, names)
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load | ast.Del):
            is_later = (node.lineno, node.col_offset) >= start
            if is_later or names.function_around(node) is not function or any(node in loop for loop in around):
                return True
    return False


def _after(assignment: ast.stmt, names: Names) -> Sequence[ast.stmt]:
    """The statements that follow *assignment* in its block."""
    parent = names.parents[assignment]
    for _, value in ast.iter_fields(parent):
        if isinstance(value, list) and assignment in value:
            block = cast("list[ast.stmt]", value)
            return block[block.index(assignment) + 1 :]
    return ()


def _reads(statement: ast.stmt, name: str) -> bool:
    """Whether anything in *statement* reads the variable, an augmented assignment to it included."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Store):
            return True
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            return True
    return False


def _overwrites(statement: ast.stmt, name: str) -> bool:
    """Whether *statement* certainly gives the variable another value."""
    match statement:
        case ast.Assign(targets=targets):
            found = targets
        case ast.AnnAssign(target=target, value=ast.expr()):
            found = [target]
        case _:
            return False
    flat = [one for target in found for one in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return any(isinstance(one, ast.Name) and one.id == name for one in flat)


def _loops_around(node: ast.AST, function: FunctionNode, names: Names) -> list[set[ast.AST]]:
    loops: list[set[ast.AST]] = []
    while node is not function:
        node = names.parents[node]
        if isinstance(node, ast.While | ast.For | ast.AsyncFor):
            loops.append(set(ast.walk(node)))
    return loops
