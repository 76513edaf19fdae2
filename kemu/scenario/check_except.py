"""Handlers that swallow everything, the end of the run included.

A run that is over unwinds its threads with an exception of kemu's own. A driver that swallows it runs on in a
world that is gone; nothing that it does there counts, but it makes a run slower and its author wonder.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from kemu.scenario.check_names import FunctionNode, Names, Problem, SourceFile, own_nodes

WAITS = (ast.Await, ast.AsyncWith, ast.AsyncFor)


def check_handlers(source: SourceFile) -> Iterator[Problem]:
    """Bare ``except:`` and ``except BaseException`` around an ``await``, unless they raise again."""
    names = source.names
    for node in ast.walk(source.tree):
        match node:
            case ast.Try() | ast.TryStar() if any(_waits(statement) for statement in node.body):
                for handler in node.handlers:
                    if _takes_everything(handler.type, names) and not _raises_again(handler):
                        written = "except" if handler.type is None else f"except {ast.unparse(handler.type)}"
                        yield _problem(handler.lineno, written)
            case ast.With() | ast.AsyncWith() if any(_waits(statement) for statement in node.body):
                for item in node.items:
                    call = item.context_expr
                    if (
                        isinstance(call, ast.Call)
                        and names.origin(call.func) == "contextlib.suppress"
                        and any(_takes_everything(argument, names) for argument in call.args)
                    ):
                        yield _problem(node.lineno, ast.unparse(call))
            case _:
                pass


def _problem(line: int, written: str) -> Problem:
    return Problem(
        line,
        f"{written} around an await also swallows the end of the run",
        "write except Exception, or raise again",
    )


def _waits(statement: ast.stmt) -> bool:
    if isinstance(statement, FunctionNode | ast.ClassDef):
        return False
    return isinstance(statement, WAITS) or any(isinstance(node, WAITS) for node in own_nodes(statement))


def _takes_everything(kind: ast.expr | None, names: Names) -> bool:
    if isinstance(kind, ast.Tuple):
        return any(_takes_everything(one, names) for one in kind.elts)
    return kind is None or names.origin(kind) == "builtins.BaseException"


def _raises_again(handler: ast.ExceptHandler) -> bool:
    """Whether the handler ends with a ``raise``, and not with a ``return`` before it."""
    leaves = any(isinstance(node, ast.Return | ast.Break | ast.Continue) for node in own_nodes(handler))
    return isinstance(handler.body[-1], ast.Raise) and not leaves
