"""State that outlives a run: a file is executed once, and every run shares its globals and its classes.

Whatever a run changes there is what the next run starts with, so that a run no longer follows from its choices.
State belongs on the driver object, which is new in each run, or in a variable of the script.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from kemu.scenario.check_awaits import is_self
from kemu.scenario.check_names import (
    COMPREHENSIONS,
    FunctionNode,
    Names,
    Problem,
    Scope,
    SourceFile,
    functions,
    methods,
    own_nodes,
)

CONSTRUCTORS: Final = frozenset(
    {
        *(f"builtins.{name}" for name in ("list", "dict", "set", "bytearray", "iter")),
        *(f"collections.{name}" for name in ("deque", "defaultdict", "Counter", "OrderedDict", "ChainMap")),
        *(f"itertools.{name}" for name in ("count", "cycle")),
        "random.Random",
        "types.SimpleNamespace",
    }
)
MUTATORS: Final = frozenset(
    {
        *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse"),
        *("add", "discard", "update", "difference_update", "intersection_update", "symmetric_difference_update"),
        *("setdefault", "popitem", "appendleft", "extendleft", "popleft", "rotate", "subtract", "move_to_end"),
        *("__setitem__", "__delitem__", "__setattr__", "__next__"),
        *("random", "randint", "randrange", "choice", "choices", "shuffle", "sample", "seed", "getrandbits", "uniform"),
    }
)
MUTABLE: Final = (ast.List, ast.Dict, ast.Set, *COMPREHENSIONS)
REMEDY: Final = "keep it on the driver object (set it in __init__), or in a variable of the script"


def check_state(source: SourceFile) -> Iterator[Problem]:
    """Globals, attributes of classes and default values that functions change."""
    names = source.names
    setup = _run_on_import(source)
    for node in ast.walk(source.tree):
        function = names.function_around(node)
        if function is None or function in setup:
            continue
        for target in _changed(node, names):
            yield from _check_target(target, node, names)
    for cls in names.drivers():
        yield from _check_class_attributes(cls, names)
    yield from _check_shared_drivers(names)


# What is changed.


def _changed(node: ast.AST, names: Names) -> Iterator[ast.expr]:
    """The expressions whose value, or whose binding if it is a name, *node* changes."""
    match node:
        case ast.Assign(targets=targets) | ast.Delete(targets=targets):
            for target in targets:
                yield from _stored(target)
        case ast.AugAssign(target=target) | ast.AnnAssign(target=target, value=ast.expr()):
            yield from _stored(target)
        case ast.For(target=target) | ast.AsyncFor(target=target) | ast.NamedExpr(target=target):
            yield from _stored(target)
        case ast.Call(func=ast.Attribute(value=owner, attr=method)):
            if method in MUTATORS or _changes_itself(owner, method, names):
                yield owner
        case ast.Call(func=ast.Name() as function, args=[first, *_]):
            if names.origin(function) in {"builtins.next", "builtins.setattr", "builtins.delattr"}:
                yield first
        case _:
            pass


def _stored(target: ast.expr) -> Iterator[ast.expr]:
    match target:
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            for element in elements:
                yield from _stored(element)
        case ast.Starred(value=value):
            yield from _stored(value)
        case _:
            yield target


def _changes_itself(owner: ast.expr, method: str, names: Names) -> bool:
    """Whether *owner* is a global instance of a class whose *method* changes it."""
    source, bound = names.definition(owner)
    for node in bound:
        value = _value_bound_to(node, source.names)
        found = source.names.class_of(value.func) if isinstance(value, ast.Call) else None
        if found is not None:
            where, cls = found
            return any(
                one.name == method and _changes_self(one, home.names)
                for home, base in where.names.lineage(cls)
                for one in methods(base)
            )
    return False


def _changes_self(method: FunctionNode, names: Names) -> bool:
    for node in own_nodes(method):
        for target in _plainly_changed(node):
            root = _root(target)
            if root is not target and is_self(root, names):
                return True
    return False


def _plainly_changed(node: ast.AST) -> Iterator[ast.expr]:
    """As `_changed`, without following the methods of instances."""
    match node:
        case ast.Assign(targets=targets) | ast.Delete(targets=targets):
            for target in targets:
                yield from _stored(target)
        case ast.AugAssign(target=target) | ast.AnnAssign(target=target, value=ast.expr()):
            yield from _stored(target)
        case ast.Call(func=ast.Attribute(value=owner, attr=method)) if method in MUTATORS:
            yield owner
        case _:
            pass


def _root(node: ast.expr) -> ast.expr:
    """The name that a chain such as ``a.b[c].d`` begins with."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node


# Globals.


def _check_target(target: ast.expr, node: ast.AST, names: Names) -> Iterator[Problem]:
    line = getattr(node, "lineno", 0)
    if isinstance(target, ast.Name) and not isinstance(target.ctx, ast.Load):
        scope = names.scopes[target]
        if _is_global(target.id, scope):
            yield _leak(line, target.id, "assigned")
        return
    if isinstance(target, ast.Attribute | ast.Subscript) and _is_own_class(target.value, names):
        yield _leak(line, ast.unparse(target), "changed")
        return
    root = _root(target)
    if not isinstance(root, ast.Name):
        return
    scope = names.scopes[root].find(root.id)
    if scope is not None and scope.parent is not None and root.id not in scope.imported:
        yield from _check_default(root, scope, line)
        return
    if _is_global_of_sibling(target, names):
        yield _leak(line, ast.unparse(target), "assigned")
        return
    owner = _longest(target, names)
    if owner is None:
        return
    source, bound = names.definition(owner)
    if target is not owner and names.class_of(owner) is not None:
        yield _leak(line, ast.unparse(target), "changed")
    elif any(_is_mutable(_value_bound_to(one, source.names), source.names) for one in bound):
        yield _leak(line, ast.unparse(owner), "changed")


def _leak(line: int, name: str, how: str) -> Problem:
    text = f"{name} is {how} here, and every run shares it: what one run leaves there, the next one starts with"
    return Problem(line, text, REMEDY, refused=True)


def _is_global(name: str, scope: Scope) -> bool:
    """Whether an assignment to *name* in *scope* goes to the file's globals."""
    where: Scope | None = scope
    while where is not None and isinstance(where.node, COMPREHENSIONS):
        where = where.parent
    return where is not None and where.elsewhere.get(name) == "global"


def _longest(target: ast.expr, names: Names) -> ast.expr | None:
    """The longest beginning of *target* that names something that these files define."""
    node = target
    while not names.definition(node)[1]:
        if not isinstance(node, ast.Attribute | ast.Subscript):
            return None
        node = node.value
    return node


def _is_global_of_sibling(target: ast.expr, names: Names) -> bool:
    """Whether *target* is an assignment to a global of a file beside this one."""
    if not isinstance(target, ast.Attribute) or isinstance(target.ctx, ast.Load):
        return False
    origin = names.origin(target.value)
    return origin is not None and origin.startswith(".") and origin[1:] in names.source.siblings


def _is_own_class(node: ast.expr, names: Names) -> bool:
    """Whether *node*, or what it begins with, is the class of an object: ``type(self)`` or ``self.__class__``."""
    while True:
        match node:
            case ast.Call(func=ast.Name() as function, args=[_]):
                return names.origin(function) == "builtins.type"
            case ast.Attribute(attr="__class__"):
                return True
            case ast.Name():
                return _is_cls(node, names)
            case ast.Attribute() | ast.Subscript():
                node = node.value
            case _:
                return False


def _is_cls(node: ast.Name, names: Names) -> bool:
    """Whether *node* is the first parameter of a class method."""
    scope = names.scopes[node].find(node.id)
    if scope is None or not isinstance(scope.node, FunctionNode) or not is_self(node, names):
        return False
    return any(isinstance(mark, ast.Name) and mark.id == "classmethod" for mark in scope.node.decorator_list)


def _value_bound_to(node: ast.AST, names: Names) -> ast.expr | None:
    """The value in the assignment that the stored name *node* is a target of."""
    match names.parents.get(node):
        case ast.Assign(value=value) | ast.NamedExpr(value=value):
            return value
        case ast.AnnAssign(value=ast.expr() as value):
            return value
        case ast.Tuple(elts=targets) as parts:
            value = _value_bound_to(parts, names)
            if isinstance(value, ast.Tuple) and len(value.elts) == len(targets):
                return next(one for target, one in zip(targets, value.elts, strict=True) if target is node)
            return None
        case _:
            return None


def _is_mutable(value: ast.expr | None, names: Names) -> bool:
    if isinstance(value, ast.Call):
        return names.origin(value.func) in CONSTRUCTORS or names.class_of(value.func) is not None
    return isinstance(value, MUTABLE)


def _run_on_import(source: SourceFile) -> set[ast.AST]:
    """The functions that run only while the file is imported: what they change is how it begins."""
    names = source.names
    setup: set[ast.AST] = set()
    for function in functions(source.tree):
        if isinstance(function, ast.AsyncFunctionDef) or not isinstance(names.parents[function], ast.Module):
            continue
        uses = [
            node
            for node in ast.walk(source.tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id == function.name
        ]
        if uses and all(names.function_around(use) is None for use in uses):
            setup.add(function)
    return setup


# Defaults of parameters.


def _check_default(root: ast.Name, scope: Scope, line: int) -> Iterator[Problem]:
    if not isinstance(scope.node, FunctionNode) or len(scope.bound[root.id]) != 1:
        return
    arguments = scope.node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs: list[tuple[ast.arg, ast.expr | None]] = []
    if arguments.defaults:
        pairs += zip(positional[-len(arguments.defaults) :], arguments.defaults, strict=True)
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    for parameter, default in pairs:
        if parameter is scope.bound[root.id][0] and isinstance(default, MUTABLE):
            yield _leak(line, f"the default value of {root.id}", "changed")


# Attributes of drivers' classes.


def _check_class_attributes(cls: ast.ClassDef, names: Names) -> Iterator[Problem]:
    """Containers in the body of a driver's class that its methods change through ``self``."""
    shared: dict[str, tuple[ast.ClassDef, int]] = {}
    own: set[str] = set()
    for source, one in names.lineage(cls):
        for statement in one.body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    pass
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    pass
                case _:
                    continue
            if _is_mutable(value, source.names):
                shared.setdefault(name, (one, statement.lineno))
        for method in methods(one):
            if method.name in {"__init__", "DriverEntry"}:
                own.update(_set_on_self(method, source.names))
    for source, one in names.lineage(cls):
        # A base in another file is checked with that file.
        for method in methods(one) if source is names.source else ():
            for node in ast.walk(method):
                for target in _changed(node, names):
                    attribute = _self_attribute(target, node, names)
                    if attribute is None or attribute in own or attribute not in shared:
                        continue
                    owner, line = shared[attribute]
                    if cls in (one, owner):
                        yield Problem(
                            getattr(node, "lineno", method.lineno),
                            f"{attribute} of {owner.name} belongs to the class (line {line}) and is changed here: "
                            f"every run shares it",
                            f"set self.{attribute} in __init__",
                            refused=True,
                        )


def _set_on_self(method: FunctionNode, names: Names) -> Iterator[str]:
    for node in own_nodes(method):
        match node:
            case ast.Assign(targets=targets):
                pass
            case ast.AnnAssign(target=target, value=ast.expr()):
                targets = [target]
            case _:
                continue
        for target in targets:
            if isinstance(target, ast.Attribute) and is_self(target.value, names):
                yield target.attr


def _self_attribute(target: ast.expr, node: ast.AST, names: Names) -> str | None:
    """The attribute of ``self`` whose value is changed; a plain assignment gives the driver its own."""
    if isinstance(target, ast.Attribute) and is_self(target.value, names):
        is_assigned = not isinstance(target.ctx, ast.Load) and not isinstance(node, ast.AugAssign)
        return None if is_assigned else target.attr
    while isinstance(target, ast.Attribute | ast.Subscript):
        target = target.value
        if isinstance(target, ast.Attribute) and is_self(target.value, names):
            return target.attr
    return None


# Driver objects.


def _check_shared_drivers(names: Names) -> Iterator[Problem]:
    """Drivers that are made on import and then used by a function."""
    for node in ast.walk(names.source.tree):
        if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Load):
            continue
        if names.function_around(node) is None:
            continue
        source, bound = names.definition(node)
        for one in bound:
            value = _value_bound_to(one, source.names)
            if not isinstance(value, ast.Call) or source.names.scopes[one].parent is not None:
                continue
            found = source.names.class_of(value.func)
            if found is not None and found[0].names.is_driver(found[1]):
                yield Problem(
                    node.lineno,
                    f"{node.id} is one driver object that every run shares: its state leaks from run to run",
                    f"use the class, {ast.unparse(value.func)}, or make the object in the script",
                    refused=True,
                )
