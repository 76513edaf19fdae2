"""What a tracked file finds in place of built-in functions, classes and modules."""

from __future__ import annotations

import builtins
import collections
import heapq
from collections.abc import Callable
from sys import getrefcount
from types import ModuleType
from typing import Any, Final, cast

from kemu.scenario.tracking import containers
from kemu.scenario.tracking.accesses import Accesses, Statement
from kemu.scenario.tracking.containers import RECORDED, Dict, Frozen, List, Recorded, Set
from kemu.scenario.tracking.recorder import Globals, Recorder

_PLAIN: Final = frozenset(RECORDED)


def _references(value: Any) -> int:
    return getrefcount(value)


_FRESH: Final = _references([])
"""How many references there are to something that its caller alone has got."""


def made(value: Any) -> Any:
    """*value*, which a call returned, as a container that records if it is a container that nobody else knows."""
    if type(value) in _PLAIN and getrefcount(value) == _FRESH:
        return RECORDED[type(value)].of(value)
    return value


def container(value: object, label: str) -> object:
    """*value*, a new container, as one that records, under a name for people."""
    recorded = RECORDED.get(type(value))
    return value if recorded is None else recorded.of(value, label)


def labelled(value: Any, label: str) -> Any:
    """*value*, which a call made; a container is called *label* from now on, unless it was called something before."""
    if isinstance(value, Recorded) and value.kemu_label in _KINDS:
        value.kemu_label = label
        if value.kemu_data is not None:
            value.kemu_cell.label = label
    return value


_KINDS: Final = frozenset(kind.__name__ for kind in RECORDED)


def functions(recorder: Recorder, module: ModuleType, position: int) -> dict[str, Any]:
    """What the rewritten code of *module* finds among its built-ins."""
    accesses = Accesses(recorder)
    get, put, drop, has = builtins.getattr, builtins.setattr, builtins.delattr, builtins.hasattr

    def track_getattr(obj: Any, name: object, *default: Any) -> Any:
        if isinstance(name, str):
            recorder.load(obj, name)
        return get(obj, cast("str", name), *default)

    def track_hasattr(obj: Any, name: object) -> bool:
        if isinstance(name, str):
            recorder.load(obj, name)
        return has(obj, cast("str", name))

    def track_setattr(obj: Any, name: object, value: Any) -> None:
        if isinstance(name, str):
            recorder.store(obj, name)
        put(obj, cast("str", name), value)

    def track_delattr(obj: Any, name: object) -> None:
        if isinstance(name, str):
            recorder.store(obj, name)
        drop(obj, cast("str", name))

    def after(value: Any) -> Any:
        recorder.coarse()
        return value

    def read_global(name: str) -> None:
        recorder.touch_global(position, name, stores=False)

    def put_global(name: str, value: Any) -> Any:
        shared[name] = value
        return value

    def put_shared(name: str, value: Any, scope: Any) -> Any:
        put(recorder.store(scope, name), name, value)
        return value

    async def await_global(name: str) -> None:
        await accesses.load_global(position, name)

    async def await_shared(name: str) -> Globals:
        return await accesses.store_global(shared, name)

    shared = Globals(recorder, vars(module), position)
    return {
        "@load": recorder.load,
        "@store": recorder.store,
        "@update": recorder.update,
        "@matched": recorder.matched,
        "@class": recorder.register,
        "@scope": recorder.scope,
        "@coarse": recorder.coarse,
        "@after": after,
        "@made": made,
        "@container": container,
        "@labelled": labelled,
        "@globals": shared,
        "@global": read_global,
        "@put_global": put_global,
        "@put_shared": put_shared,
        "@slice": slice,
        "@await_load": accesses.load,
        "@await_store": accesses.store,
        "@await_item": accesses.item,
        "@await_item_to_store": accesses.item_to_store,
        "@await_call": accesses.call,
        "@await_global": await_global,
        "@await_globals": await_shared,
        "@statement": Statement,
        "getattr": track_getattr,
        "hasattr": track_hasattr,
        "setattr": track_setattr,
        "delattr": track_delattr,
        "sorted": _sorted,
        "list": List,
        "dict": Dict,
        "set": Set,
        "frozenset": Frozen,
        "bytearray": containers.Bytes,
    }


def _sorted(iterable: Any, /, *, key: Any = None, reverse: bool = False) -> Any:
    return List.of(builtins.sorted(iterable, key=key, reverse=reverse))


def _changes_heap(function: Callable[..., Any]) -> Callable[..., Any]:
    def change(heap: Any, *args: Any) -> Any:
        if isinstance(heap, Recorded):
            # The function is written in C, and looks into the list past its methods.
            containers.store(heap)
        return function(heap, *args)

    change.__name__ = function.__name__
    return change


def _module(original: ModuleType, replaced: dict[str, Any]) -> ModuleType:
    module = ModuleType(original.__name__, original.__doc__)
    vars(module).update({**vars(original), **replaced})
    return module


MODULES: Final[dict[str, ModuleType]] = {
    "collections": _module(
        collections, {kind.__name__: RECORDED[kind] for kind in RECORDED if kind.__module__ == "collections"}
    ),
    "heapq": _module(
        heapq,
        {
            name: _changes_heap(vars(heapq)[name])
            for name in ("heappush", "heappop", "heapify", "heapreplace", "heappushpop")
        },
    ),
}
"""The modules of the standard library that a tracked file gets in another version."""
