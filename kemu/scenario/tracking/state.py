"""Which expressions of a file touch state that threads may share, as far as the source tells."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from kemu.scenario.check_names import FunctionNode, Names, SourceFile, own_nodes
from kemu.scenario.tracking.containers import METHODS
from kemu.scenario.tracking.variables import Variables, assigned_globals, shared_variables


def stored_attributes(sources: Iterable[SourceFile]) -> frozenset[str] | None:
    """The names of all attributes that the files assign or delete; None if some of them are computed."""
    found: set[str] = set()
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
                found.add(mangled(node.attr, source.names.class_around(node)))
            elif isinstance(node, ast.Name) and source.names.origin(node) in {"builtins.setattr", "builtins.delattr"}:
                call = source.names.parents.get(node)
                if not isinstance(call, ast.Call) or call.func is not node or len(call.args) < 2:
                    return None
                name = call.args[1]
                if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
                    return None
                found.add(name.value)
    return frozenset(found)


def mangled(name: str, cls: ast.ClassDef | None) -> str:
    """An attribute's name as the compiler has it: private names carry their class's."""
    if cls is None or not name.startswith("__") or name.endswith("__"):
        return name
    owner = cls.name.lstrip("_")
    return f"_{owner}{name}" if owner else name


def is_super(node: ast.expr) -> bool:
    """Whether *node* is a call of ``super``, which works in the method itself only."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


@dataclass(eq=False)
class State:
    """What a file touches."""

    source: SourceFile
    stored: frozenset[str] | None
    """The attributes that the whole family of files assigns."""

    @property
    def names(self) -> Names:
        """What the names in the file stand for."""
        return self.source.names

    @cached_property
    def variables(self) -> Variables:
        """The variables of calls that inner functions share."""
        return shared_variables(self.names)

    @cached_property
    def global_names(self) -> frozenset[str]:
        """The global variables that functions assign, or that are assigned as attributes of the module."""
        own = self.names.module.bound
        reached = () if self.stored is None else (name for name in self.stored if name in own)
        return assigned_globals(self.names).union(own if self.stored is None else reached)

    def is_external(self, node: ast.expr) -> bool:
        """Whether *node* names something of kemu, of Python or of another package."""
        origin = self.names.origin(node)
        return origin is not None and not origin.startswith(".")

    def is_global(self, node: ast.Name) -> bool:
        """Whether *node* is a global variable that functions assign."""
        scope = self.names.scopes.get(node)
        if node.id not in self.global_names or scope is None or self.names.function_around(node) is None:
            return False
        found = scope.find(node.id)
        return found is None or found.parent is None

    def touches(self, node: ast.AST) -> bool:
        """Whether *node* itself, without what is in it, reads or changes state."""
        match node:
            case ast.Attribute():
                if self.is_external(node) or is_super(node.value):
                    return False
                known = self.stored is None or mangled(node.attr, self.names.class_around(node)) in self.stored
                # A variable that interlocked operations work on is read and assigned by this name.
                return known or node.attr in METHODS or node.attr == "value"
            case ast.Subscript():
                return not self.is_external(node.value)
            case ast.Name():
                scope = self.names.scopes.get(node)
                return scope is not None and (self.is_global(node) or self.variables.of(node.id, scope) is not None)
            case _:
                return False

    def function_touches(self, function: FunctionNode | ast.Lambda | ast.GeneratorExp) -> bool:
        """Whether the code of *function* reads or changes state."""
        inside = own_nodes(function) if isinstance(function, FunctionNode) else ast.walk(function)
        return any(self.touches(node) for node in inside)
