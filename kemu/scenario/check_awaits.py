"""Every routine that gives others a turn is awaited, and nothing else is.

A call that is not awaited only makes a coroutine: the routine never runs, and Python says so at best when the
coroutine is collected.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from kemu.scenario.check_names import FunctionNode, Names, Problem, SourceFile, methods
from kemu.scenario.check_world import script_coroutines

EVENT_LOOPS = ("anyio", "asyncio", "curio", "trio")


def check_awaits(source: SourceFile) -> Iterator[Problem]:
    """Routines without ``await``, ``await`` without need, coroutines that are dropped, foreign awaits."""
    names = source.names
    awaited: set[ast.AST] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Await):
            awaited.update(_results(node.value))
    script = set(script_coroutines(source))
    for node in ast.walk(source.tree):
        match node:
            case ast.Call():
                yield from _check_call(node, names, is_awaited=node in awaited)
            case ast.Await() | ast.AsyncWith() | ast.AsyncFor():
                yield from _check_foreign(node, names)
            case ast.Expr(value=ast.Call() as call) if names.routine(call.func) is None:
                if call in script or _is_coroutine(call.func, names):
                    written = ast.unparse(call.func)
                    yield Problem(
                        call.lineno,
                        f"{written}(...) is not awaited, so it never runs",
                        f"write await {written}(...)",
                        refused=True,
                    )
            case _:
                pass


def _results(node: ast.expr) -> Iterator[ast.expr]:
    """The expressions that may be the value of *node*."""
    match node:
        case ast.IfExp():
            yield from _results(node.body)
            yield from _results(node.orelse)
        case ast.NamedExpr():
            yield from _results(node.value)
        case _:
            yield node


def _check_call(call: ast.Call, names: Names, *, is_awaited: bool) -> Iterator[Problem]:
    routine = names.routine(call.func)
    if routine is None or routine.is_awaited == is_awaited:
        return
    written = ast.unparse(call.func)
    if is_awaited:
        yield Problem(
            call.lineno,
            f"{routine.name} is awaited, but it returns at once",
            f"write {written}(...) without await",
            refused=True,
        )
        return
    function = names.function_around(call)
    remedy = f"write await {written}(...)"
    if isinstance(function, ast.FunctionDef):
        remedy += f" and make {function.name} an async def"
    elif isinstance(function, ast.Lambda):
        remedy += " in an async def instead of the lambda"
    elif function is None:
        remedy += " in a routine of the driver: this line runs on import"
    yield Problem(call.lineno, f"{routine.name} is not awaited, so it never runs", remedy, refused=True)


def _is_coroutine(function: ast.expr, names: Names) -> bool:
    """Whether *function* names an ``async def`` of these files: a function, or a method through ``self``."""
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        method = _method(function.value, function.attr, names)
        if method is not None:
            return isinstance(method, ast.AsyncFunctionDef)
    _, found = names.definition(function)
    return bool(found) and all(isinstance(one, ast.AsyncFunctionDef) for one in found)


def _method(owner: ast.Name, name: str, names: Names) -> FunctionNode | None:
    """The method *name* if *owner* is the ``self`` of the method that it is used in."""
    cls = names.class_around(owner)
    if cls is None or not is_self(owner, names):
        return None
    for _, one in names.lineage(cls):
        for method in methods(one):
            if method.name == name:
                return method
    return None


def is_self(node: ast.AST, names: Names) -> bool:
    """Whether *node* is the first parameter of a method, used in it or in a function inside it."""
    if not isinstance(node, ast.Name):
        return False
    scope = names.scopes[node].find(node.id)
    if scope is None or not isinstance(scope.node, FunctionNode):
        return False
    method = scope.node
    parameters = [*method.args.posonlyargs, *method.args.args]
    return (
        bool(parameters)
        and scope.bound[node.id] == [parameters[0]]
        and isinstance(names.parents.get(method), ast.ClassDef)
        and not any(isinstance(one, ast.Name) and one.id == "staticmethod" for one in method.decorator_list)
    )


def _check_foreign(node: ast.Await | ast.AsyncWith | ast.AsyncFor, names: Names) -> Iterator[Problem]:
    match node:
        case ast.Await():
            values = [node.value]
        case ast.AsyncWith():
            values = [item.context_expr for item in node.items]
        case ast.AsyncFor():
            values = [node.iter]
    for value in values:
        function = value.func if isinstance(value, ast.Call) else value
        origin = names.origin(function)
        if origin is not None and origin.partition(".")[0] in EVENT_LOOPS:
            yield Problem(
                value.lineno,
                f"{origin} belongs to an event loop",
                "await kernel routines only, or run the scenario with --live",
            )
