"""The syntax tree of a file, rewritten so that its accesses to state are recorded.

``obj.field`` becomes ``@load(obj, "field").field``: the recorder gives the object back, and the access is still made
by the same line, in whatever construct it stands. Names that begin with ``@`` cannot clash with a driver's. New
containers are replaced by ones that record what is done with them; variables that functions share become attributes
of an object.

In an ``async def`` of a run that may be preempted at every access, ``@load`` is awaited: it lets others go first.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any, Final, Literal, TypeVar, cast

from kemu.scenario.check_names import FunctionNode
from kemu.scenario.tracking.containers import METHODS
from kemu.scenario.tracking.state import State, is_super, mangled
from kemu.scenario.tracking.variables import SharedVariables

Flavour = Literal["tracked", "statement", "access"]
DISPLAYS: Final = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
NEW: Final = frozenset(
    {
        *(f"builtins.{name}" for name in ("list", "dict", "set", "bytearray", "sorted")),
        *(f"collections.{name}" for name in ("deque", "defaultdict", "OrderedDict", "Counter")),
    }
)
"""What makes a new container when it is called."""

N = TypeVar("N", bound=ast.AST)


def rewrite(state: State, flavour: Flavour, *, coarse: bool) -> ast.Module:
    """Rewrite the tree of *state*, in place."""
    tree = _Rewriter(state, flavour, coarse).visit(state.source.tree)
    return ast.fix_missing_locations(cast("ast.Module", tree))


def _name(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _call(function: str, *arguments: ast.expr | str | int | tuple[str, ...]) -> ast.Call:
    given = [one if isinstance(one, ast.expr) else ast.Constant(cast("Any", one)) for one in arguments]
    return ast.Call(_name(f"@{function}"), given, [])


def _first(*parts: ast.expr) -> ast.BoolOp:
    """Evaluate the parts in turn, all of which but the last are None; the value of the last."""
    return ast.BoolOp(ast.Or(), list(parts))


def _suspends(node: ast.AST) -> bool:
    """Whether other threads may run while *node* is evaluated."""
    return any(
        isinstance(one, (ast.Await, ast.Yield, ast.YieldFrom)) or (isinstance(one, ast.comprehension) and one.is_async)
        for one in ast.walk(node)
    )


class _Rewriter(ast.NodeTransformer):
    def __init__(self, state: State, flavour: Flavour, coarse: bool) -> None:
        self._state = state
        self._names = state.names
        self._flavour = flavour
        self._coarse = coarse
        self._in_async = False
        """Whether the code at hand may await."""
        self._class: ast.ClassDef | None = None

    @property
    def _awaits(self) -> bool:
        """Whether each access at hand is an operation of its own."""
        return self._in_async and self._flavour == "access"

    # What is recorded.

    def _loaded(self, owner: ast.expr, name: str) -> ast.expr:
        if self._awaits:
            return ast.Await(_call("await_load", owner, name))
        return _call("load", owner, name)

    def _stored(self, owner: ast.expr, name: str) -> ast.expr:
        if self._awaits:
            return ast.Await(_call("await_store", owner, name))
        return _call("store", owner, name)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if self._state.is_external(node):
            return node
        name = mangled(node.attr, self._class)
        if is_super(node.value) or (name.startswith("__") and name.endswith("__")):
            node.value = self.visit(node.value)
            return node
        owner = self.visit(node.value)
        recorded = self._loaded(owner, name) if isinstance(node.ctx, ast.Load) else self._stored(owner, name)
        node.value = ast.copy_location(recorded, node.value)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        external = self._state.is_external(node.value)
        owner, key = self.visit(node.value), self.visit(node.slice)
        if not self._awaits or external:
            node.value, node.slice = owner, key
            return node
        item = "await_item" if isinstance(node.ctx, ast.Load) else "await_item_to_store"
        return self._item(node, item, owner, _key(key), node.ctx)

    def _item(self, node: ast.AST, function: str, owner: ast.expr, key: ast.expr, ctx: ast.expr_context) -> ast.expr:
        return ast.copy_location(ast.Attribute(ast.Await(_call(function, owner, key)), "value", ctx), node)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        shared = self._shared(node)
        if shared is not None:
            return self._variable(node, shared)
        if not self._state.is_global(node):
            return node
        if isinstance(node.ctx, ast.Load):
            seen: ast.expr = ast.Await(_call("await_global", node.id)) if self._awaits else _call("global", node.id)
            return ast.copy_location(_first(seen, node), node)
        taker: ast.expr = ast.Await(_call("await_globals", node.id)) if self._awaits else _name("@globals")
        return ast.copy_location(ast.Subscript(taker, ast.Constant(node.id), node.ctx), node)

    def _shared(self, node: ast.Name) -> SharedVariables | None:
        scope = self._names.scopes.get(node)
        return None if scope is None else self._state.variables.of(node.id, scope)

    def _variable(self, node: ast.Name, shared: SharedVariables) -> ast.expr:
        scope = _name(shared.variable)
        owner = self._loaded(scope, node.id) if isinstance(node.ctx, ast.Load) else self._stored(scope, node.id)
        return ast.copy_location(ast.Attribute(owner, node.id, node.ctx), node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> ast.expr:
        shared, is_global = self._shared(node.target), self._state.is_global(node.target)
        node.value = self._value(node.value, node.target.id)
        name = node.target.id
        if shared is not None:
            scope: ast.expr = _name(shared.variable)
            if self._awaits:
                scope = self._stored(scope, name)
            return ast.copy_location(_call("put_shared", name, node.value, scope), node)
        if is_global:
            return ast.copy_location(_call("put_global", name, node.value), node)
        return node

    # Assignments.

    def visit_Assign(self, node: ast.Assign) -> ast.stmt | list[ast.stmt]:
        starred = [one.value for target in node.targets for one in ast.walk(target) if isinstance(one, ast.Starred)]
        rests = [self._as_container(one) for one in starred if isinstance(one, ast.Name)]
        node.value = self._value(node.value, self._label(node.targets[0]))
        node.targets = [self.visit(target) for target in node.targets]
        return [node, *rests] if rests else node

    def _as_container(self, variable: ast.Name) -> ast.stmt:
        """Replace the plain list or dictionary in *variable*, which Python has just made."""
        shared = self._shared(variable)
        value: ast.expr = _name(variable.id)
        target: ast.expr = ast.Name(variable.id, ast.Store())
        if shared is not None:
            value = ast.Attribute(_name(shared.variable), variable.id, ast.Load())
            target = ast.Attribute(_name(shared.variable), variable.id, ast.Store())
        elif self._state.is_global(variable):
            target = ast.Subscript(_name("@globals"), ast.Constant(variable.id), ast.Store())
        return ast.copy_location(ast.Assign([target], _call("container", value, variable.id)), variable)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        if node.value is None:
            return node
        shared = isinstance(node.target, ast.Name) and self._shared(node.target) is not None
        node.value = self._value(node.value, self._label(node.target))
        node.target = self.visit(node.target)
        if shared or isinstance(node.target, ast.Subscript):
            return ast.copy_location(ast.Assign([node.target], node.value), node)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt | list[ast.stmt]:
        target = node.target
        if isinstance(target, ast.Subscript):
            return self._augment_item(node, target)
        shared = self._shared(target) if isinstance(target, ast.Name) else None
        if isinstance(target, ast.Name) and shared is None:
            return self._augment_name(node, target)
        if isinstance(target, ast.Name):
            assert shared is not None
            owner, name = cast("ast.expr", _name(shared.variable)), target.id
        else:
            owner, name = self.visit(target.value), target.attr
        suspends = _suspends(node.value)
        value = self.visit(node.value)
        field = mangled(name, self._class)
        if not self._awaits and not suspends:
            node.target = ast.copy_location(ast.Attribute(_call("update", owner, field), name, ast.Store()), target)
            node.value = value
            return node
        # The value is read now and assigned later: other threads may come in between.
        keep = ast.Assign([ast.Name("@owner", ast.Store())], owner)
        read = ast.Attribute(self._loaded(_name("@owner"), field), name, ast.Load())
        write = ast.Attribute(self._stored(_name("@owner"), field), name, ast.Store())
        return _placed(node, [keep, *_split(node.op, read, value, write)])

    def _augment_item(self, node: ast.AugAssign, target: ast.Subscript) -> ast.stmt | list[ast.stmt]:
        owner, key, value = self.visit(target.value), self.visit(target.slice), self.visit(node.value)
        if not self._awaits:
            target.value, target.slice, node.value = owner, key, value
            return node
        kept = [
            ast.Assign([ast.Name("@owner", ast.Store())], owner),
            ast.Assign([ast.Name("@key", ast.Store())], _key(key)),
        ]
        read = self._item(target, "await_item", _name("@owner"), _name("@key"), ast.Load())
        write = self._item(target, "await_item_to_store", _name("@owner"), _name("@key"), ast.Store())
        return _placed(node, [*kept, *_split(node.op, read, value, write)])

    def _augment_name(self, node: ast.AugAssign, target: ast.Name) -> ast.stmt | list[ast.stmt]:
        value = self.visit(node.value)
        is_global = self._state.is_global(target)
        node.value = value
        if not is_global:
            return node
        if not self._awaits:
            node.target = self.visit(target)
            return node
        read = self.visit_Name(_like(target, self._names.scopes, ast.Load()))
        return _placed(node, _split(node.op, read, value, self.visit_Name(target)))

    def _label(self, target: ast.expr) -> str:
        """What a container that is assigned to *target* is called."""
        match target:
            case ast.Name(id=name):
                return name
            case ast.Attribute(attr=name):
                return name if self._class is None else f"{self._class.name}.{name}"
            case _:
                return ""

    # Containers.

    def _value(self, node: ast.expr, label: str) -> ast.expr:
        """*node*, the value that something called *label* gets."""
        if isinstance(node, DISPLAYS):
            return self._container(node, label)
        is_new = isinstance(node, ast.Call) and self._names.origin(node.func) in NEW
        value = self.visit(node)
        return ast.copy_location(_call("labelled", value, label), node) if is_new and label else value

    def _container(self, node: ast.expr, label: str = "") -> ast.expr:
        kind = type(node).__name__.removesuffix("Comp").lower()
        return ast.copy_location(
            _call("container", cast("ast.expr", self.generic_visit(node)), label or f"{kind} of line {node.lineno}"),
            node,
        )

    def _display(self, node: ast.expr) -> ast.expr:
        if isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del)):
            return cast("ast.expr", self.generic_visit(node))
        return self._container(node)

    visit_List = visit_Dict = visit_Set = visit_ListComp = visit_DictComp = visit_SetComp = _display

    def _consumed(self, node: ast.expr) -> ast.expr:
        """*node*, whose value nobody gets hold of."""
        if isinstance(node, (ast.List, ast.Set, ast.Dict)):
            return cast("ast.expr", self.generic_visit(node))
        return self.visit(node)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        node.left = self.visit(node.left)
        node.comparators = [
            self._consumed(one) if isinstance(op, (ast.In, ast.NotIn)) else self.visit(one)
            for op, one in zip(node.ops, node.comparators, strict=True)
        ]
        return node

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> ast.expr:
        # The first iterable is evaluated at once, everything else whenever somebody asks for the next value.
        first = node.generators[0]
        iterable = self._consumed(first.iter)
        first.iter = ast.Constant(None)
        before, self._in_async = self._in_async, False
        self.generic_visit(node)
        self._in_async = before
        first.iter = iterable
        if self._coarse:
            node.elt = _first(_call("coarse"), node.elt)
        return node

    # Calls.

    def visit_Call(self, node: ast.Call) -> ast.expr:
        unknown = self._may_return_container(node)
        called = self._called(node)
        return ast.copy_location(_call("made", called), node) if unknown else called

    def visit_Await(self, node: ast.Await) -> ast.expr:
        call = node.value
        if isinstance(call, ast.Call):
            unknown = self._may_return_container(call)
            node.value = self._called(call)
        else:
            unknown = True
            node.value = self.visit(call)
        result: ast.expr = node
        if unknown:
            result = ast.copy_location(_call("made", result), node)
        return self._after(result, node)

    def visit_Yield(self, node: ast.Yield) -> ast.expr:
        return self._after(cast("ast.expr", self.generic_visit(node)), node)

    def visit_YieldFrom(self, node: ast.YieldFrom) -> ast.expr:
        return self._after(cast("ast.expr", self.generic_visit(node)), node)

    def _after(self, value: ast.expr, node: ast.expr) -> ast.expr:
        return ast.copy_location(_call("after", value), node) if self._coarse else value

    def _called(self, node: ast.Call) -> ast.expr:
        function = node.func
        is_method = (
            isinstance(function, ast.Attribute)
            and function.attr in METHODS
            and not is_super(function.value)
            and not self._state.is_external(function)
        )
        self.generic_visit(node)
        if not is_method or not self._awaits:
            return node
        node.args.insert(0, node.func)
        node.func = ast.copy_location(_name("@await_call"), node)
        return ast.copy_location(ast.Await(node), node)

    def _may_return_container(self, node: ast.Call) -> bool:
        """Whether the call may return a new container that does not record."""
        function = node.func
        origin = self._names.origin(function)
        if origin is not None:
            return not origin.startswith(("kemu.", "builtins.", "collections.", "."))
        if isinstance(function, ast.Attribute):
            return not is_super(function.value)
        _, found = self._names.definition(function)
        return not (found and all(isinstance(one, FunctionNode | ast.ClassDef) for one in found))

    # Functions and classes.

    def visit_FunctionDef(self, node: ast.FunctionDef) -> list[ast.stmt]:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> list[ast.stmt]:
        return self._function(node)

    def _function(self, node: FunctionNode) -> list[ast.stmt]:
        scope = self._names.scopes[node]
        kept = self._state.variables.of(node.name, scope)
        is_global = scope.elsewhere.get(node.name) == "global"
        node.decorator_list = [self.visit(one) for one in node.decorator_list]
        self._defaults(node.args)
        before, self._in_async = self._in_async, isinstance(node, ast.AsyncFunctionDef)
        body = node.body
        after_docstring = 1 if ast.get_docstring(node, clean=False) is not None else 0
        rewritten = self._block(body[after_docstring:])
        node.body = [*body[:after_docstring], *_placed(body[0], list(self._prologue(node))), *rewritten]
        self._in_async = before
        if kept is None or is_global:
            return [node]
        target = ast.Attribute(self._stored(_name(kept.variable), node.name), node.name, ast.Store())
        return [node, *_placed(node, [ast.Assign([target], _name(node.name))])]

    def _prologue(self, node: FunctionNode) -> Iterator[ast.stmt]:
        if self._coarse:
            yield ast.Expr(_call("coarse"))
        arguments = node.args
        if arguments.kwarg is not None:
            name = arguments.kwarg.arg
            yield ast.Assign([ast.Name(name, ast.Store())], _call("container", _name(name), name))
        shared = self._state.variables.shared.get(node)
        if shared is not None:
            yield ast.Assign([ast.Name(shared.variable, ast.Store())], _call("scope", node.name))
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            for argument in every:
                if argument is not None and argument.arg in shared.names:
                    owner = _call("store", _name(shared.variable), argument.arg)
                    yield ast.Assign([ast.Attribute(owner, argument.arg, ast.Store())], _name(argument.arg))

    def _defaults(self, arguments: ast.arguments) -> None:
        arguments.defaults = [self.visit(one) for one in arguments.defaults]
        arguments.kw_defaults = [None if one is None else self.visit(one) for one in arguments.kw_defaults]

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        self._defaults(node.args)
        before, self._in_async = self._in_async, False
        node.body = self.visit(node.body)
        self._in_async = before
        if self._coarse:
            node.body = _first(_call("coarse"), node.body)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.stmt:
        node.decorator_list = [self.visit(one) for one in node.decorator_list]
        node.bases = [self.visit(one) for one in node.bases]
        node.keywords = [self.visit(one) for one in node.keywords]
        before = self._in_async, self._class
        self._in_async, self._class = False, node
        node.body = self._block(node.body)
        self._in_async, self._class = before
        place = node.decorator_list[0] if node.decorator_list else node
        # Outermost, so that it sees the class that the name will stand for.
        node.decorator_list.insert(0, ast.copy_location(_name("@class"), place))
        return node

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.stmt:
        scope = self._names.scopes[node]
        node.names = [name for name in node.names if self._state.variables.of(name, scope) is None]
        return node if node.names else ast.copy_location(ast.Pass(), node)

    # Statements.

    def visit(self, node: ast.AST) -> Any:
        if not isinstance(node, ast.stmt) or not self._in_async or self._flavour != "statement":
            return super().visit(node)
        point = self._point(node)
        done = super().visit(node)
        statements = cast("list[ast.stmt]", done if isinstance(done, list) else [done])
        if point is None:
            return statements
        if isinstance(node, ast.While):
            node.test = ast.copy_location(_first(point, node.test), node.test)
            return statements
        return [*_placed(node, [ast.Expr(point)]), *statements]

    def _point(self, node: ast.stmt) -> ast.expr | None:
        """The scheduling point before *node*, if it touches state."""
        if isinstance(node, FunctionNode | ast.ClassDef):
            return None
        if not any(self._state.touches(one) for one in _header(node)):
            return None
        return ast.Await(_call("statement", f"{self._state.source.path}:{node.lineno}"))

    def _block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        done: list[ast.stmt] = []
        for statement in body:
            result = self.visit(statement)
            done += cast("list[ast.stmt]", result if isinstance(result, list) else [result])
        return done

    def visit_For(self, node: ast.For) -> ast.stmt:
        node.iter = self._consumed(node.iter)
        node.target = self.visit(node.target)
        node.body, node.orelse = self._block(node.body), self._block(node.orelse)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.comprehension:
        node.iter = self._consumed(node.iter)
        node.target = self.visit(node.target)
        node.ifs = [self.visit(one) for one in node.ifs]
        return node

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.stmt | list[ast.stmt]:
        self.generic_visit(node)
        return self._resumes(node, node.body, node.orelse)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.stmt | list[ast.stmt]:
        self.generic_visit(node)
        return self._resumes(node, node.body)

    def _resumes(self, node: ast.stmt, *blocks: list[ast.stmt]) -> ast.stmt | list[ast.stmt]:
        """*node*, after parts of which the thread may be in another step."""
        if not self._coarse:
            return node
        for block in blocks:
            if block:
                block[:0] = _placed(block[0], [ast.Expr(_call("coarse"))])
        return [node, *_placed(node, [ast.Expr(_call("coarse"))])]

    def visit_Try(self, node: ast.Try) -> ast.stmt:
        self.generic_visit(node)
        if self._coarse:
            for block in (*(handler.body for handler in node.handlers), node.finalbody):
                if block:
                    block[:0] = _placed(block[0], [ast.Expr(_call("coarse"))])
        return node

    def visit_TryStar(self, node: ast.TryStar) -> ast.stmt:
        return self.visit_Try(cast("ast.Try", node))

    def visit_Match(self, node: ast.Match) -> ast.stmt:
        names: dict[str, None] = {}
        positional = 0
        for case in node.cases:
            for pattern in outer_classes(case.pattern):
                names.update(dict.fromkeys(pattern.kwd_attrs))
                positional = max(positional, len(pattern.patterns))
        node.subject = self.visit(node.subject)
        if names or positional:
            found = _call("matched", node.subject, tuple(names), positional)
            node.subject = ast.copy_location(found, node.subject)
        for case in node.cases:
            rests = [
                rest
                for one in ast.walk(case.pattern)
                if (rest := one.name if isinstance(one, ast.MatchStar) else getattr(one, "rest", None)) is not None
            ]
            if case.guard is not None:
                case.guard = self.visit(case.guard)
            first = case.body[0]
            replaced = [
                ast.Assign([ast.Name(rest, ast.Store())], _call("container", _name(rest), rest)) for rest in rests
            ]
            case.body = [*_placed(first, replaced), *self._block(case.body)]
        return node


def outer_classes(pattern: ast.pattern) -> Iterator[ast.MatchClass]:
    """The class patterns that look at the subject itself."""
    match pattern:
        case ast.MatchClass():
            yield pattern
        case ast.MatchOr(patterns=patterns):
            for one in patterns:
                yield from outer_classes(one)
        case ast.MatchAs(pattern=ast.pattern() as inner):
            yield from outer_classes(inner)
        case _:
            pass


def _key(key: ast.expr) -> ast.expr:
    """What is between the brackets of a subscript, as an expression of its own."""
    match key:
        case ast.Slice(lower=lower, upper=upper, step=step):
            parts = [ast.Constant(None) if one is None else one for one in (lower, upper, step)]
            return ast.copy_location(_call("slice", *parts), key)
        case ast.Tuple(elts=elements):
            key.elts = [_key(one) for one in elements]
            return key
        case _:
            return key


def _like(node: ast.Name, scopes: dict[ast.AST, Any], ctx: ast.expr_context) -> ast.Name:
    """The variable of *node* in another context."""
    twin = ast.copy_location(ast.Name(node.id, ctx), node)
    scopes[twin] = scopes[node]
    return twin


def _split(op: ast.operator, read: ast.expr, value: ast.expr, write: ast.expr) -> list[ast.stmt]:
    """An augmented assignment in its three parts."""
    return [
        ast.Assign([ast.Name("@value", ast.Store())], read),
        ast.AugAssign(ast.Name("@value", ast.Store()), op, value),
        ast.Assign([write], _name("@value")),
    ]


def _placed(where: ast.AST, statements: list[Any]) -> list[Any]:
    """*statements* at the place of *where*."""
    for statement in statements:
        ast.copy_location(statement, where)
    return statements


def _header(node: ast.stmt) -> Iterator[ast.AST]:
    """What runs as part of a statement itself, without the statements and functions in it."""
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "body", "orelse", "finalbody", "handlers", "cases"}:
            continue
        for child in cast("list[object]", value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST):
                yield from _expression(child)


def _expression(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    if not isinstance(node, ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from _expression(child)
