"""What the names in a scenario file stand for, found without running it.

The static checks ask here: which routine is called, which class is derived from, whose state is changed.
A name is followed through scopes and imports, also into the files beside this one that it imports. What
cannot be followed has no origin, and the checks say nothing about it. For the checks and the loader only.
"""

from __future__ import annotations

import ast
import builtins
import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kemu.nt.routine import REGISTRY, Routine

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
ScopeNode = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.expr
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True, slots=True)
class Problem:
    """What a check has found in one line."""

    line: int
    text: str
    remedy: str
    refused: bool = False
    """Whether the file cannot be used like this; otherwise it is worth a warning."""


@dataclass(eq=False)
class Scope:
    """A region of the source in which names are bound."""

    node: ast.AST
    parent: Scope | None
    bound: dict[str, list[ast.AST]] = field(default_factory=dict[str, list[ast.AST]])
    """For each name what binds it here: definitions, parameters, imports, or assigned names."""
    imported: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    """For each imported name where it comes from."""
    elsewhere: dict[str, str] = field(default_factory=dict[str, str])
    """Names declared ``global`` or ``nonlocal`` here."""

    def bind(self, name: str, node: ast.AST) -> None:
        """Note that *node* binds *name*."""
        self.bound.setdefault(name, []).append(node)

    @property
    def module(self) -> Scope:
        """The scope of the file."""
        return self if self.parent is None else self.parent.module

    def find(self, name: str) -> Scope | None:
        """The scope that *name* belongs to when it is used here; None for a builtin or an unknown name."""
        scope: Scope | None = self
        while scope is not None:
            if scope.elsewhere.get(name) == "global":
                module = scope.module
                return module if name in module.bound else None
            # The names of a class are visible in its own body only, not in its methods.
            hidden = isinstance(scope.node, ast.ClassDef) and scope is not self
            if name in scope.bound and name not in scope.elsewhere and not hidden:
                return scope
            scope = scope.parent
        return None


@dataclass(eq=False)
class SourceFile:
    """One file: the scenario file, or one beside it that it imports."""

    path: str
    """As the user wrote it; messages begin with it."""
    stem: str
    tree: ast.Module
    siblings: dict[str, SourceFile] = field(default_factory=dict[str, "SourceFile"])
    """The files beside it, by the name of the module."""

    @cached_property
    def names(self) -> Names:
        """What the names in this file stand for."""
        return Names(self)


class Names:
    """The scopes of a file, and where its names come from."""

    def __init__(self, source: SourceFile) -> None:
        self.source = source
        self.scopes: dict[ast.AST, Scope] = {}
        """For each node the scope that its names are looked up in."""
        self.inner: dict[ast.AST, Scope] = {}
        """For each function, class and so on the scope that it opens."""
        self.parents: dict[ast.AST, ast.AST] = {}
        self.module = self._open(source.tree, None)
        for child in source.tree.body:
            self._visit(child, self.module, source.tree)

    # Building.

    def _open(self, node: ast.AST, parent: Scope | None) -> Scope:
        scope = self.inner[node] = Scope(node, parent)
        return scope

    def _visit(self, node: ast.AST, scope: Scope, parent: ast.AST) -> None:
        self.scopes[node] = scope
        self.parents[node] = parent
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                self._visit_function(node, scope)
                return
            case ast.ClassDef():
                scope.bind(node.name, node)
                inner = self._open(node, scope)
                for child in ast.iter_child_nodes(node):
                    self._visit(child, inner if child in node.body else scope, node)
                return
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                inner = self._open(node, scope)
                for child in ast.iter_child_nodes(node):
                    self._visit(child, inner, node)
                return
            case ast.Name(ctx=ast.Store() | ast.Del()):
                scope.bind(node.id, node)
            case ast.NamedExpr():
                # Inside a comprehension it binds in the function around it.
                outer = scope
                while isinstance(outer.node, COMPREHENSIONS) and outer.parent is not None:
                    outer = outer.parent
                outer.bind(node.target.id, node)
                self._visit(node.value, scope, node)
                self.scopes[node.target] = outer
                self.parents[node.target] = node
                return
            case ast.Global() | ast.Nonlocal():
                kind = "global" if isinstance(node, ast.Global) else "nonlocal"
                scope.elsewhere.update(dict.fromkeys(node.names, kind))
            case ast.Import() | ast.ImportFrom():
                self._visit_import(node, scope)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                scope.bind(name, node)
            case ast.MatchMapping(rest=str(name)):
                scope.bind(name, node)
            case _:
                pass
        for child in ast.iter_child_nodes(node):
            self._visit(child, scope, node)

    def _visit_function(self, node: FunctionNode | ast.Lambda, scope: Scope) -> None:
        inner = self._open(node, scope)
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
        for argument in every:
            inner.bind(argument.arg, argument)
        body = node.body if isinstance(node.body, list) else [node.body]
        if not isinstance(node, ast.Lambda):
            scope.bind(node.name, node)
        for child in ast.iter_child_nodes(node):
            self._visit(child, inner if child in body else scope, node)

    def _visit_import(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
        for alias in node.names:
            if isinstance(node, ast.Import):
                top = alias.name.partition(".")[0]
                origin = alias.name if alias.asname else top
                if top in self.source.siblings:
                    origin = f".{origin}"
                self._bind_import(scope, alias.asname or top, origin, node)
                continue
            module = node.module or ""
            if node.level or module in self.source.siblings:
                module = f".{module}"
            if alias.name == "*":
                for name in _exported(module, self.source):
                    self._bind_import(scope, name, f"{module}.{name}", node)
            else:
                dot = "" if module.endswith(".") else "."
                self._bind_import(scope, alias.asname or alias.name, f"{module}{dot}{alias.name}", node)

    def _bind_import(self, scope: Scope, name: str, origin: str, node: ast.AST) -> None:
        scope.bind(name, node)
        scope.imported.setdefault(name, set()).add(origin)

    # Asking.

    def origin(self, node: ast.AST) -> str | None:
        """Where a name or a dotted name comes from.

        ``kemu.wdk.wdm.KeSetEvent``, ``time.time``, ``builtins.list``; for what this file or one beside it
        defines, ``.stem.name``; None for everything local to a function and whatever cannot be followed.
        """
        if isinstance(node, ast.Attribute):
            base = self.origin(node.value)
            return None if base is None else self._through(f"{base}.{node.attr}")
        if not isinstance(node, ast.Name) or node not in self.scopes:
            return None
        scope = self.scopes[node].find(node.id)
        if scope is None:
            return f"builtins.{node.id}" if hasattr(builtins, node.id) else None
        origins = scope.imported.get(node.id, set())
        if len(origins) == 1 and all(isinstance(one, ast.Import | ast.ImportFrom) for one in scope.bound[node.id]):
            return self._through(next(iter(origins)))
        return f".{self.source.stem}.{node.id}" if scope.parent is None else None

    def _through(self, origin: str, depth: int = 0) -> str:
        """Follow a name that a file beside this one has imported itself to where that comes from."""
        found = self._elsewhere(origin)
        if found is None or depth > 8:
            return origin
        source, name = found
        imported = source.names.module.imported.get(name, set())
        if len(imported) != 1 or source is self.source:
            return origin
        return source.names._through(next(iter(imported)), depth + 1)

    def _elsewhere(self, origin: str) -> tuple[SourceFile, str] | None:
        """The file and the name there that an origin ``.stem.name`` stands for."""
        parts = origin.split(".")
        if len(parts) != 3 or parts[0]:
            return None
        if parts[1] == self.source.stem:
            return self.source, parts[2]
        source = _sibling(self.source, parts[1], set())
        return None if source is None else (source, parts[2])

    def definition(self, node: ast.AST) -> tuple[SourceFile, list[ast.AST]]:
        """What binds the name *node*, and in which file; nothing if that cannot be followed."""
        if isinstance(node, ast.Name) and node in self.scopes:
            scope = self.scopes[node].find(node.id)
            if scope is not None and scope.parent is not None and node.id not in scope.imported:
                return self.source, scope.bound[node.id]
        origin = self.origin(node)
        found = None if origin is None else self._elsewhere(origin)
        if found is None:
            return self.source, []
        source, name = found
        return source, source.names.module.bound.get(name, [])

    def routine(self, node: ast.AST) -> Routine | None:
        """The WDK routine that *node* names."""
        origin = self.origin(node)
        if origin is None or not origin.startswith("kemu."):
            return None
        module, _, name = origin.rpartition(".")
        found = kemu_object(module, name)
        # wdm.h has some routines under two names.
        return None if found is None else REGISTRY.get(getattr(found, "__name__", name))

    def class_of(self, node: ast.AST) -> tuple[SourceFile, ast.ClassDef] | None:
        """The class that *node* names, if this file or one beside it defines it."""
        source, found = self.definition(node)
        if len(found) == 1 and isinstance(found[0], ast.ClassDef):
            return source, found[0]
        return None

    def lineage(self, cls: ast.ClassDef) -> Iterator[tuple[SourceFile, ast.ClassDef]]:
        """*cls* and those of its bases that are in these files, nearest first."""
        seen: set[ast.ClassDef] = set()
        waiting = [(self.source, cls)]
        while waiting:
            source, one = waiting.pop(0)
            if one in seen:
                continue
            seen.add(one)
            yield source, one
            for base in one.bases:
                named = base.value if isinstance(base, ast.Subscript) else base
                found = source.names.class_of(named)
                if found is not None:
                    waiting.append(found)

    def is_driver(self, cls: ast.ClassDef) -> bool:
        """Whether *cls* derives from `Driver`, directly or not."""
        for source, one in self.lineage(cls):
            for base in one.bases:
                origin = source.names.origin(base) or ""
                if origin.startswith("kemu.") and origin.endswith(".Driver"):
                    return True
        return False

    def drivers(self) -> Iterator[ast.ClassDef]:
        """The drivers that this file defines."""
        for node in ast.walk(self.source.tree):
            if isinstance(node, ast.ClassDef) and self.is_driver(node):
                yield node

    def function_around(self, node: ast.AST) -> FunctionNode | ast.Lambda | None:
        """The innermost function that *node* runs in; None if it runs when the file is imported."""
        scope: Scope | None = self.scopes.get(node)
        while scope is not None:
            if isinstance(scope.node, FunctionNode | ast.Lambda):
                return scope.node
            scope = scope.parent
        return None

    def class_around(self, node: ast.AST) -> ast.ClassDef | None:
        """The class whose method *node* stands in, at any depth."""
        scope: Scope | None = self.scopes.get(node)
        while scope is not None:
            if isinstance(scope.node, ast.ClassDef):
                return scope.node
            scope = scope.parent
        return None


def methods(cls: ast.ClassDef) -> Iterator[FunctionNode]:
    """The functions in the body of *cls*."""
    for node in cls.body:
        if isinstance(node, FunctionNode):
            yield node


def own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """What runs as part of *node*, in the order of the source; not what is in functions or classes in it."""
    children = node.body if isinstance(node, FunctionNode) else ast.iter_child_nodes(node)
    for child in children:
        yield child
        if not isinstance(child, FunctionNode | ast.Lambda | ast.ClassDef):
            yield from own_nodes(child)


def functions(tree: ast.AST) -> Iterator[FunctionNode]:
    """Every ``def`` and ``async def`` in *tree*."""
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode):
            yield node


def kemu_object(module: str, name: str) -> Any:
    """The object *name* of kemu's *module*, which is imported for it; None if there is none."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def _sibling(source: SourceFile, stem: str, seen: set[str]) -> SourceFile | None:
    """The file *stem*, if *source* imports it or one of those that it imports does."""
    if stem in source.siblings:
        return source.siblings[stem]
    seen.add(source.stem)
    for name, other in source.siblings.items():
        if name not in seen:
            found = _sibling(other, stem, seen)
            if found is not None:
                return found
    return None


def _exported(module: str, source: SourceFile) -> list[str]:
    """The names that ``from module import *`` binds."""
    if module.startswith("."):
        sibling = source.siblings.get(module[1:])
        names = [] if sibling is None else list(sibling.names.module.bound)
        return [name for name in names if not name.startswith("_")]
    return list(kemu_object(module, "__all__") or ()) if module.startswith("kemu.") else []
