"""Which calls in a script are coroutines of the objects that a script talks to.

``world.together(...)`` or ``file.close()``: what ``file`` is follows from the annotations of what made it,
beginning with the script's `World`. What those do not tell is left alone.
"""

from __future__ import annotations

import ast
import inspect
import sys
import typing
from collections.abc import Iterator
from types import UnionType
from typing import Any

from kemu.scenario.check_names import FunctionNode, Names, SourceFile, functions, kemu_object, own_nodes

SCENARIO = ("kemu.scenario.scenario", "kemu.scenario.declare.scenario")
TEST = ("kemu.testing.explore", "kemu.testing.declare.explore")
"""In a test the world may stand anywhere, and is called ``world``; or ``kemu_world``, if it is a fixture."""


def script_coroutines(source: SourceFile) -> Iterator[ast.Call]:
    """The calls of coroutine functions on a script's objects."""
    names = source.names
    for function in functions(source.tree):
        types = _parameters(function, names)
        if types:
            yield from _Script(types).coroutines(function)


def is_script(function: FunctionNode, names: Names) -> bool:
    """Whether *function* is declared as a scenario."""
    return _has_mark(function, names, SCENARIO)


def _has_mark(function: FunctionNode, names: Names, known: tuple[str, ...]) -> bool:
    marks = [mark.func if isinstance(mark, ast.Call) else mark for mark in function.decorator_list]
    return any(names.origin(mark) in known for mark in marks)


def _parameters(function: FunctionNode, names: Names) -> dict[str, Any]:
    """The types of those parameters that are kemu's, as objects."""
    parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    types: dict[str, Any] = {}
    for parameter in parameters:
        origin = None if parameter.annotation is None else names.origin(parameter.annotation)
        if origin is not None and origin.startswith("kemu.scenario."):
            module, _, name = origin.rpartition(".")
            types[parameter.arg] = kemu_object(module, name)
    if parameters and parameters[0].annotation is None and is_script(function, names):
        types[parameters[0].arg] = kemu_object("kemu.scenario", "World")
    is_test = _has_mark(function, names, TEST)
    for parameter in parameters:
        if parameter.annotation is None and (parameter.arg == "kemu_world" or (is_test and parameter.arg == "world")):
            types[parameter.arg] = kemu_object("kemu.scenario", "World")
    return {name: cls for name, cls in types.items() if inspect.isclass(cls)}


class _Script:
    """Follows the types of a function's variables, in the order of the source."""

    def __init__(self, types: dict[str, Any]) -> None:
        self.types = types

    def coroutines(self, function: FunctionNode) -> Iterator[ast.Call]:
        for node in own_nodes(function):
            match node:
                case ast.Assign(targets=[target], value=value):
                    self._assign(target, self._type(value))
                case ast.AnnAssign(target=target, value=ast.expr() as value):
                    self._assign(target, self._type(value))
                case ast.Call(func=ast.Attribute()) if inspect.iscoroutinefunction(self._method(node)):
                    yield node
                case _:
                    pass
        # Functions inside see these variables, unless they have their own of that name.
        for node in own_nodes(function):
            if isinstance(node, FunctionNode):
                own = {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
                inner = {name: cls for name, cls in self.types.items() if name not in own}
                yield from _Script(inner).coroutines(node)

    def _assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self.types[target.id] = value
        elif isinstance(target, ast.Tuple):
            parts = typing.get_args(value) if typing.get_origin(value) is tuple else ()
            for index, element in enumerate(target.elts):
                self._assign(element, parts[index] if len(parts) == len(target.elts) else None)

    def _method(self, call: ast.Call) -> Any:
        if not isinstance(call.func, ast.Attribute):
            return None
        owner = self._type(call.func.value)
        return getattr(owner, call.func.attr, None) if inspect.isclass(owner) else None

    def _type(self, node: ast.expr) -> Any:
        match node:
            case ast.Name():
                return self.types.get(node.id)
            case ast.Await(value=ast.Call() as call):
                method = self._method(call)
                return _result(method) if inspect.iscoroutinefunction(method) else None
            case ast.Call():
                method = self._method(node)
                return None if inspect.iscoroutinefunction(method) else _result(method)
            case _:
                return None


def _result(function: Any) -> Any:
    """The annotated result of *function*, without the None that it may be instead."""
    if not inspect.isfunction(function):
        return None
    annotation: Any = function.__annotations__.get("return")
    if isinstance(annotation, str):
        try:
            # The annotations of kemu's own methods, which its modules write as text.
            annotation = eval(annotation, vars(sys.modules[function.__module__]))
        except (NameError, AttributeError, TypeError):
            return None
    return _one_class(annotation)


def _one_class(annotation: Any) -> Any:
    if typing.get_origin(annotation) is tuple:
        return tuple[tuple(_one_class(part) for part in typing.get_args(annotation))]
    if isinstance(annotation, UnionType):
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        return _one_class(parts[0]) if len(parts) == 1 else None
    return typing.get_origin(annotation) or annotation
