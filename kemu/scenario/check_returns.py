"""Every path through a driver's routine returns, and returns the same shape.

A routine that falls off its end returns None, which is no status; as C's compiler would say. One that returns
``status, context`` here and ``status`` there breaks the caller that unpacks it. Both shapes together are right
in a preoperation callback only, whose completion context goes out with the status.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final

from kemu.scenario.check_awaits import is_self
from kemu.scenario.check_names import (
    FunctionNode,
    Names,
    Problem,
    SourceFile,
    kemu_object,
    methods,
    own_nodes,
)

PRE_OPERATION: Final = "PreOperation"
VOID_ROLES: Final = frozenset({"InstanceTeardownStartCallback", "InstanceTeardownCompleteCallback"})
REGISTRATIONS: Final = ("FLT_OPERATION_REGISTRATION", "FLT_REGISTRATION")
NEVER_RETURN: Final = frozenset({"KeBugCheck", "KeBugCheckEx", "ExRaiseStatus"})


def check_returns(source: SourceFile) -> Iterator[Problem]:
    """Routines of drivers that fall off their end, or whose results have several shapes."""
    names = source.names
    roles = registered_roles(source)
    unpacked = {
        node.func.attr
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_self(node.func.value, names)
    }
    for cls in names.drivers():
        for method in methods(cls):
            if isinstance(method, ast.FunctionDef) and method.name in (*roles, "DriverEntry"):
                text = f"{method.name} of {cls.name} is a callback, but no async def"
                yield Problem(method.lineno, text, f"write async def {method.name}", refused=True)
            elif isinstance(method, ast.AsyncFunctionDef) and not _yields(method):
                role = "DriverEntry" if method.name == "DriverEntry" else roles.get(method.name)
                called = method.name in unpacked
                yield from _Routine(names, cls, method, role, called).check()


def registered_roles(source: SourceFile) -> dict[str, str]:
    """For each method that the file registers as a callback, the member of the structure that names it."""
    names = source.names
    roles: dict[str, str] = {}
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        module, _, structure = (names.origin(node.func) or "").rpartition(".")
        if structure not in REGISTRATIONS or not module.startswith("kemu."):
            continue
        members = [member.name for member in dataclasses.fields(kemu_object(module, structure))]
        given = [*zip(members, node.args, strict=False)]
        given += [(keyword.arg, keyword.value) for keyword in node.keywords if keyword.arg is not None]
        for member, value in given:
            if member.endswith(("Operation", "Callback")) and isinstance(value, ast.Attribute):
                roles[value.attr] = member
    return roles


@dataclasses.dataclass(frozen=True)
class _Routine:
    names: Names
    cls: ast.ClassDef
    method: ast.AsyncFunctionDef
    role: str | None
    is_called: bool
    """Whether the driver calls it itself, and so depends on its shape."""

    @property
    def title(self) -> str:
        return f"{self.method.name} of {self.cls.name}"

    def check(self) -> Iterator[Problem]:
        returns = [node for node in own_nodes(self.method) if isinstance(node, ast.Return)]
        valued = [node for node in returns if node.value is not None and not _is_none(node.value)]
        is_status = self.role is not None and self.role not in VOID_ROLES
        if is_status or valued:
            reason = f"other paths return a value (line {valued[0].lineno})" if valued else "its caller needs a status"
            remedy = "return a status on every path" if is_status else "return a value, or None, on every path"
            for node in returns:
                # A helper may say with None that there is nothing; a status is never None.
                if node.value is None or (is_status and _is_none(node.value)):
                    text = f"{self.title} returns nothing here, though {reason}"
                    yield Problem(node.lineno, text, remedy, refused=True)
            if "end" in self._exits(self.method.body):
                text = f"{self.title} falls off its end, though {reason}"
                yield Problem(_last_line(self.method.body), text, remedy, refused=True)
        yield from self._check_shapes(valued)

    def _check_shapes(self, valued: list[ast.Return]) -> Iterator[Problem]:
        shapes = [(node, self._shape(node.value)) for node in valued]
        known = [(node, shape) for node, shape in shapes if shape is not None]
        if self.role == PRE_OPERATION or (self.role is None and not self.is_called):
            # It is a preoperation callback, or may be one that is registered somewhere else.
            known = [(node, shape) for node, shape in known if shape > 1]
        for node, shape in known:
            if shape != known[0][1]:
                first, other = known[0]
                yield Problem(
                    node.lineno,
                    f"{self.title} returns {_count(shape)} here and {_count(other)} in line {first.lineno}",
                    "return as many values on every path, with None for what there is not",
                    refused=True,
                )
                return

    def _shape(self, value: ast.expr | None) -> int | None:
        """How many values are returned; None if that cannot be told from the source."""
        match value:
            case ast.Tuple(elts=elements) if not any(isinstance(one, ast.Starred) for one in elements):
                return len(elements)
            case ast.Constant():
                return 1
            case ast.Name() | ast.Attribute():
                origin = self.names.origin(value)
                return 1 if origin is not None and origin.startswith("kemu.") else None
            case ast.Await(value=ast.Call() as call):
                routine = self.names.routine(call.func)
                if routine is None:
                    return None
                results = sum(parameter.is_output for parameter in routine.parameters)
                return results + (routine.returns != "VOID")
            case _:
                return None

    # Which ways a list of statements can be left, other than by return and raise.

    def _exits(self, statements: Sequence[ast.stmt]) -> set[str]:
        exits: set[str] = {"end"}
        for statement in statements:
            exits.discard("end")
            exits |= self._exits_of(statement)
            if "end" not in exits:
                return exits
        return exits

    def _exits_of(self, node: ast.stmt) -> set[str]:
        match node:
            case ast.Return() | ast.Raise():
                return set()
            case ast.Assert(test=ast.Constant(value=value)) if not value:
                return set()
            case ast.Break():
                return {"break"}
            case ast.Continue():
                return {"continue"}
            case ast.Expr(value=ast.Await(value=ast.Call() as call)) | ast.Expr(value=ast.Call() as call):
                routine = self.names.routine(call.func)
                return set() if routine is not None and routine.name in NEVER_RETURN else {"end"}
            case ast.If():
                return self._exits(node.body) | self._exits(node.orelse)
            case ast.While() | ast.For() | ast.AsyncFor():
                return self._exits_of_loop(node)
            case ast.With() | ast.AsyncWith():
                swallows = any(
                    isinstance(item.context_expr, ast.Call)
                    and self.names.origin(item.context_expr.func) == "contextlib.suppress"
                    for item in node.items
                )
                exits = self._exits(node.body)
                return exits | {"end"} if swallows else exits
            case ast.Try() | ast.TryStar():
                return self._exits_of_try(node)
            case ast.Match():
                exits = {exit_ for case in node.cases for exit_ in self._exits(case.body)}
                return exits if any(_takes_all(case) for case in node.cases) else exits | {"end"}
            case _:
                return {"end"}

    def _exits_of_loop(self, node: ast.While | ast.For | ast.AsyncFor) -> set[str]:
        inside = self._exits(node.body)
        is_endless = isinstance(node, ast.While) and isinstance(node.test, ast.Constant) and bool(node.test.value)
        after: set[str] = set() if is_endless else self._exits(node.orelse)
        return after | {"end"} if "break" in inside else after

    def _exits_of_try(self, node: ast.Try | ast.TryStar) -> set[str]:
        exits = self._exits(node.body)
        if "end" in exits:
            exits = (exits - {"end"}) | self._exits(node.orelse)
        for handler in node.handlers:
            exits |= self._exits(handler.body)
        last = self._exits(node.finalbody)
        return exits | (last - {"end"}) if "end" in last else last


def _yields(function: FunctionNode) -> bool:
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in own_nodes(function))


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _takes_all(case: ast.match_case) -> bool:
    return case.guard is None and isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None


def _last_line(statements: Sequence[ast.stmt]) -> int:
    return statements[-1].end_lineno or statements[-1].lineno


def _count(shape: int) -> str:
    return "one value" if shape == 1 else f"{shape} values"
