"""What the rewritten code of one family of files calls: the names that begin with ``@``.

Most of it records an access and gives the object back, so that the access itself is still made by the driver's own
line, with everything that may come of it. What belongs to kemu, the WDK or the standard library passes through.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import sys
from collections.abc import Callable
from enum import Enum
from types import FunctionType, ModuleType
from typing import Any, Final, cast

from kemu.errors import ScenarioError
from kemu.fltmgr.structures import (
    FLT_IO_PARAMETER_BLOCK,
    FLT_PARAMETERS,
    IO_STATUS_BLOCK,
    _View,  # pyright: ignore[reportPrivateUsage]
)
from kemu.nt.lists import LIST_ENTRY
from kemu.nt.structure import Structure, field_cell, inside_of
from kemu.runtime import Cell, Thread
from kemu.runtime.benign import is_benign
from kemu.runtime.data import CLASSES, COARSE, GLOBAL, DataCell, DriverData, Name, number_of, recorder
from kemu.runtime.thread import host
from kemu.scenario.tracking.containers import ContainerType, imports

VIEWS: Final = (_View, FLT_IO_PARAMETER_BLOCK, FLT_PARAMETERS, IO_STATUS_BLOCK)
DESCRIPTORS: Final = (FunctionType, property, classmethod, staticmethod, functools.partialmethod)

Touched = tuple[DataCell | None, Cell | None]
"""The cell of a field, and the cell of kemu's whose state decides whether the object is still there."""
Touch = Callable[[DriverData, Thread, Any, str], Touched]


class Kind:
    """How accesses to the objects of one class are recorded."""

    __slots__ = ("_constant", "recorded", "touch")

    def __init__(self, touch: Touch, constant: Callable[[str], bool]) -> None:
        self.touch = touch
        self._constant = constant
        self.recorded: dict[str, bool] = {}

    def decide(self, name: str) -> bool:
        """Whether accesses to the attribute *name* are recorded: not to those that never change."""
        decided = self.recorded[name] = not self._constant(name)
        return decided


class Scope:
    """The variables of one call that functions inside it share."""

    def __getattr__(self, name: str) -> Any:
        raise NameError(
            f"cannot access free variable {name!r} where it is not associated with a value in enclosing scope",
            name=name,
        )


class Globals:
    """A module's globals, for statements that assign them."""

    __slots__ = ("_recorder", "_values", "position")

    def __init__(self, recorder: Recorder, values: dict[str, Any], position: int) -> None:
        self._recorder = recorder
        self._values = values
        self.position = position

    def __getitem__(self, name: str) -> Any:
        self._recorder.touch_global(self.position, name, stores=False)
        try:
            return self._values[name]
        except KeyError:
            raise NameError(f"name {name!r} is not defined", name=name) from None

    def __setitem__(self, name: str, value: Any) -> None:
        self._recorder.touch_global(self.position, name, stores=True)
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        self._recorder.touch_global(self.position, name, stores=True)
        try:
            del self._values[name]
        except KeyError:
            raise NameError(f"name {name!r} is not defined", name=name) from None


class Recorder:
    """Records the accesses of one family of files.

    *stored* are the names of all attributes that these files ever assign; None if that cannot be told. Others are
    constants once their object is made, and reading them is not recorded.
    """

    def __init__(self, stored: frozenset[str] | None) -> None:
        self.stored = stored
        self.statics: dict[int, tuple[object, Name, str]] = {}
        """The objects that were made on import, by address."""
        self.modules: dict[ModuleType, int] = {}
        """The files' modules, with their positions in the family."""
        self.files: set[str] = set()
        """The files, as tracebacks show them."""
        self.global_names: dict[int, frozenset[str]] = {}
        """For each position the global variables that functions assign."""
        self._benign: dict[tuple[int, str], bool] = {}
        self._own: set[type] = set()
        self._local: set[type] = set()
        """Those of the files' classes that were made in a run, and may change in it."""
        self._kinds: dict[type, Kind | None] = {Scope: Kind(_own_cell, lambda name: False)}

    # Which cell.

    def kind_of(self, cls: type) -> Kind | None:
        """How accesses to instances of *cls* are recorded; None if they are not."""
        try:
            return self._kinds[cls]
        except KeyError:
            kind = self._kinds[cls] = self._classify(cls)
            return kind

    def _classify(self, cls: type) -> Kind | None:
        if issubclass(cls, Structure):
            return Kind(self._structure_cell, _is_dunder)
        if any(base in self._own for base in cls.__mro__):
            is_local = any(base in self._local for base in cls.__mro__)
            return Kind(_local_cell if is_local else _own_cell, functools.partial(self._is_constant, cls))
        if issubclass(cls, type):
            return Kind(self._class_cell, lambda name: _is_dunder(name) or not self._may_change(name))
        if issubclass(cls, VIEWS):
            return Kind(self._view_cell, _is_dunder)
        if issubclass(cls, LIST_ENTRY):
            return Kind(_link_cell, lambda name: name not in {"Flink", "Blink"})
        if issubclass(cls, ModuleType):
            return Kind(self._module_cell, lambda name: False)
        return None

    def _is_constant(self, cls: type, name: str) -> bool:
        if _is_dunder(name):
            return True
        if not self._may_change(name):
            return not _is_lazy(_in_class(cls, name))
        # Properties record what they do themselves, and cannot be shadowed by a field.
        return isinstance(_in_class(cls, name), property)

    def _may_change(self, name: str) -> bool:
        return self.stored is None or name in self.stored

    def _structure_cell(self, data: DriverData, thread: Thread, obj: Any, name: str) -> Touched:
        fields = object.__getattribute__(obj, "__dict__")
        allocation = fields.get("_allocation")
        if name in inside_of(cast("Any", fields.get("_structure") or type(obj))):
            # What lies inside is always the same object, and tells itself what is done with it.
            return None, allocation
        if allocation is None:
            return data.cell(obj, name), None
        return field_cell(data, obj, name) if self._may_change(name) else None, allocation

    def _view_cell(self, data: DriverData, thread: Thread, obj: Any, name: str) -> Touched:
        frame = object.__getattribute__(obj, "_frame")
        if frame is None:
            return data.anonymous, None
        if not isinstance(frame, Cell):
            # The related objects of an instance callback, which nobody changes or takes back.
            return None, None
        if not self._may_change(name):
            return None, frame
        # A view that is given back has another class, and its fields are the same.
        base = type(obj).__mro__[1 if type(obj).__name__.startswith("Released") else 0].__name__
        # Benign, because for race detection the view itself tells of its uses.
        return data.part(frame, f"{base}.{name}", f"{base}.{name}", benign=True), frame

    def _class_cell(self, data: DriverData, thread: Thread, cls: Any, name: str) -> Touched:
        is_local = any(base in self._local for base in cls.__mro__)
        return None, _class_attribute(data, name) if is_local else None

    def _module_cell(self, data: DriverData, thread: Thread, module: Any, name: str) -> Touched:
        return self.global_cell(data, self.modules[module], name), None

    def global_cell(self, data: DriverData, position: int, name: str) -> DataCell:
        """The cell of a global variable of the file at *position*."""
        benign = self._benign.get((position, name))
        if benign is None:
            owners = [module for module, place in self.modules.items() if place == position]
            benign = self._benign[position, name] = any(is_benign(module, name) for module in owners)
        return data.named((GLOBAL, position, number_of(name)), name, benign=benign)

    def cell_for(self, obj: object, name: str) -> tuple[DriverData, Thread, DataCell | None, Cell | None] | None:
        """What an access to ``obj.name`` touches now; None if it is not recorded."""
        kind = self.kind_of(type(obj))
        if kind is None or not kind.recorded.get(name, name not in kind.recorded and kind.decide(name)):
            return None
        if isinstance(obj, ModuleType) and name not in self.global_names.get(self.modules.get(obj, -1), ()):
            return None
        found = recorder()
        if found is None:
            return None
        data, thread = found
        return (data, thread, *kind.touch(data, thread, obj, name))

    # Accesses.

    def load(self, obj: object, name: str) -> Any:
        """Record that ``obj.name`` is about to be read; *obj*."""
        kinds = self._kinds
        cls = type(obj)
        kind = kinds[cls] if cls in kinds else self.kind_of(cls)
        if kind is None or kind.recorded.get(name) is False:
            return obj
        self._touch(obj, name, DriverData.load)
        return obj

    def store(self, obj: object, name: str) -> Any:
        """Record that ``obj.name`` is about to be assigned or deleted; *obj*."""
        if isinstance(obj, type):
            self._store_class(obj, name)
            return obj
        self._touch(obj, name, DriverData.store)
        return obj

    def _touch(self, obj: object, name: str, record: Callable[[DriverData, Thread, DataCell], None]) -> None:
        """*record* the cell that an access to ``obj.name`` touches, which depends on what keeps the object alive."""
        touched = self.cell_for(obj, name)
        if touched is not None:
            data, thread, cell, keeper = touched
            if keeper is not None:
                thread.read(keeper)
            if cell is not None:
                record(data, thread, cell)

    def update(self, obj: Any, name: str) -> Any:
        """Record that ``obj.name`` is about to be read and assigned; *obj*."""
        self.load(obj, name)
        return self.store(obj, name)

    def _store_class(self, cls: type, name: str) -> None:
        runtime = host.get(None)
        if runtime is None or runtime.running is None or runtime.dead or cls not in self._own:
            return
        if cls in self._local:
            found = recorder()
            if found is not None:
                found[1].write(_class_attribute(found[0], name))
            return
        frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
        runtime.abort(
            ScenarioError(
                f"{cls.__name__}.{name} is changed at {frame.f_code.co_filename}:{frame.f_lineno}, and every run"
                f" shares it: what one run leaves there, the next one starts with",
                remedy="keep it on the driver object (set it in __init__), or in a variable of the script",
            )
        )

    def touch_global(self, position: int, name: str, *, stores: bool) -> None:
        """Record an access to a global variable of the file at *position*."""
        found = recorder()
        if found is not None:
            data, thread = found
            (data.store if stores else data.load)(thread, self.global_cell(data, position, name))

    def coarse(self) -> None:
        """Record that the step may touch any state of these files."""
        found = recorder()
        if found is not None:
            data, thread = found
            thread.write(data.named((COARSE,), "state that cannot be followed"))

    def matched(self, subject: Any, names: tuple[str, ...], positional: int) -> Any:
        """Record what class patterns read of *subject*; *subject*."""
        if positional:
            names = (*names, *getattr(subject, "__match_args__", ())[:positional])
        for name in dict.fromkeys(names):
            self.load(subject, name)
        return subject

    # Objects.

    def register(self, cls: object) -> object:
        """Have the instances of *cls*, a class of one of the files, named when they are made; *cls*."""
        if isinstance(cls, type) and cls not in self._own and _may_have_state(cls):
            self._register(cls)
        return cls

    def _register(self, cls: Any) -> None:
        self._own.add(cls)
        if not imports.stack:
            self._local.add(cls)
        # A decorator may have made an instance before.
        self._kinds.pop(cls, None)
        own = cls.__dict__.get("__new__")
        if own is None:
            type.__setattr__(cls, "__new__", self._allocator())
        elif isinstance(own, staticmethod):
            function: Any = own.__func__  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            type.__setattr__(cls, "__new__", self._naming(function))
        for name in ("__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__repr__", "__hash__"):
            method = cls.__dict__.get(name)
            if dataclasses.is_dataclass(cls) and isinstance(method, FunctionType):
                self._open(cls, name, method)

    def _allocator(self) -> Any:
        following: dict[type, Callable[..., Any]] = {}

        def __new__(cls: Any, *args: Any, **kwargs: Any) -> Any:
            new = following.get(cls)
            if new is None:
                # Where this function stands among the bases: what comes after it would have been called without it.
                holders = iter(cls.__mro__)
                for holder in holders:
                    held = holder.__dict__.get("__new__")
                    if getattr(held, "__func__", None) is __new__:
                        break
                after = next(base for base in holders if "__new__" in base.__dict__)
                new = following[cls] = after.__new__
            if new is object.__new__:
                if (args or kwargs) and cls.__init__ is object.__init__:
                    raise TypeError(f"{cls.__name__}() takes no arguments")
                made: Any = object.__new__(cls)
            else:
                made = new(cls, *args, **kwargs)
            self.adopt(made)
            return made

        return staticmethod(__new__)

    def _naming(self, new: Callable[..., Any]) -> Any:
        @functools.wraps(new)
        def name_it(*args: Any, **kwargs: Any) -> Any:
            made = new(*args, **kwargs)
            self.adopt(made)
            return made

        return staticmethod(name_it)

    def adopt(self, made: object) -> None:
        """Name an object that was made just now, if it is an instance of one of the files' classes."""
        cls = type(made)
        if self.kind_of(cls) is None:
            return
        if imports.stack:
            if id(made) not in self.statics:
                self.statics[id(made)] = (made, imports.stack[-1].new_name(), cls.__name__)
            return
        runtime = host.get(None)
        data, thread = (None, None) if runtime is None else (runtime.data, runtime.running)
        if data is not None and thread is not None:
            data.adopt(made, thread, cls.__name__)

    def _open(self, cls: Any, name: str, method: FunctionType) -> None:
        """Have a method that was generated for a dataclass record the fields that it looks at."""
        if method.__code__.co_filename in self.files:
            return
        fields: tuple[str, ...] = tuple(cls.__dataclass_fields__)

        @functools.wraps(method)
        def look(self_: Any, *others: Any) -> Any:
            for one in (self_, *others):
                if isinstance(one, cls):
                    for field in fields:
                        self.load(one, field)
            return method(self_, *others)

        type.__setattr__(cls, name, look)

    def scope(self, label: str) -> Scope:
        """The shared variables of a call that begins."""
        made = Scope()
        runtime = host.get(None)
        if runtime is not None and runtime.data is not None and runtime.running is not None:
            runtime.data.adopt(made, runtime.running, label)
        return made


def _own_cell(data: DriverData, thread: Thread, obj: Any, name: str) -> Touched:
    return data.cell(obj, name), None


def _local_cell(data: DriverData, thread: Thread, obj: Any, name: str) -> Touched:
    # What the object itself has not, its class may have.
    return data.cell(obj, name), _class_attribute(data, name)


def _class_attribute(data: DriverData, name: str) -> DataCell:
    return data.named((CLASSES, number_of(name)), f"{name} of a class")


def _link_cell(data: DriverData, thread: Thread, obj: Any, name: str) -> Touched:
    return data.cell(obj, "links"), None


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _in_class(cls: type, name: str) -> object:
    for base in cls.__mro__:
        if name in base.__dict__:
            return base.__dict__[name]
    return None


def _is_lazy(found: object) -> bool:
    """Whether a class's attribute is a descriptor that may keep its value in the object, as cached_property does."""
    return (
        found is not None
        and not isinstance(found, DESCRIPTORS)
        and hasattr(type(found), "__get__")
        and type(found).__module__ != "builtins"
    )


def _may_have_state(cls: type[object]) -> bool:
    if issubclass(cls, Enum) or (hasattr(cls, "_fields") and issubclass(cls, tuple)):
        return False
    return cls.__class__ is type or isinstance(cls, (abc.ABCMeta, ContainerType))
