"""Lists, dictionaries, sets and the like that record what is done with them, through whatever name it is done.

A container is one cell: every observation of it is a load, every change a store. The classes are made from the
built-in ones by wrapping each method, so that a method which Python adds one day is not forgotten silently: one that
is in no table here is a store. Drivers that are tracked get these classes in place of the built-in ones, under the
same names, and cannot tell them apart.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Generator, ItemsView, Iterable, Iterator, KeysView, ValuesView
from contextlib import contextmanager
from typing import Any, Final, cast

from kemu.runtime.data import DataCell, DriverData, Name
from kemu.runtime.thread import host

LABEL_SLOTS: Final = ("kemu_cell", "kemu_data", "kemu_label", "kemu_name")

READING: Final = frozenset(
    {
        *("__add__", "__and__", "__contains__", "__copy__", "__eq__", "__format__", "__ge__", "__getitem__", "__gt__"),
        *("__iter__", "__le__", "__len__", "__lt__", "__mod__", "__mul__", "__ne__", "__or__", "__rand__"),
        *("__repr__", "__reversed__", "__rmod__", "__rmul__", "__ror__", "__rsub__", "__rxor__", "__str__", "__sub__"),
        *("__xor__", "__bool__", "__radd__", "__bytes__", "__pos__", "__neg__", "__missing__", "__alloc__"),
        *("copy", "count", "index", "get", "items", "keys", "values", "difference", "intersection", "isdisjoint"),
        *("issubset", "issuperset", "symmetric_difference", "union", "elements", "most_common", "total"),
        # Those of bytearray.
        *("capitalize", "center", "decode", "endswith", "expandtabs", "find", "hex", "isalnum", "isalpha", "isascii"),
        *("isdigit", "islower", "isspace", "istitle", "isupper", "join", "ljust", "lower", "lstrip", "partition"),
        *("removeprefix", "removesuffix", "replace", "rfind", "rindex", "rjust", "rpartition", "rsplit", "rstrip"),
        *("split", "splitlines", "startswith", "strip", "swapcase", "title", "translate", "upper", "zfill"),
    }
)
"""Methods that observe and change nothing; `defaultdict.__missing__` changes by way of `__setitem__`."""

PASSED: Final = frozenset(
    {
        *("__class__", "__class_getitem__", "__delattr__", "__dict__", "__dir__", "__doc__", "__getattribute__"),
        *("__getstate__", "__hash__", "__init__", "__init_subclass__", "__module__", "__new__", "__reduce__"),
        *("__reduce_ex__", "__setattr__", "__setstate__", "__sizeof__", "__subclasshook__", "__weakref__"),
        *("default_factory", "fromkeys", "fromhex", "maketrans", "maxlen", "__buffer__", "__release_buffer__"),
        *("_keep_positive",),
    }
)
"""What has no part in the contents, or is written out below."""

COPYING: Final = frozenset(
    {
        *("__add__", "__and__", "__copy__", "__getitem__", "__mod__", "__mul__", "__or__", "__rand__", "__rmod__"),
        *("__rmul__", "__ror__", "__rsub__", "__rxor__", "__sub__", "__xor__", "__pos__", "__neg__", "copy"),
        *("difference", "intersection", "symmetric_difference", "union", "rsplit", "split", "splitlines"),
        *("most_common", "partition", "rpartition"),
    }
)
"""Methods that may return a new container."""


LOOKING_INTO: Final = frozenset(
    {
        *("__add__", "__and__", "__eq__", "__ge__", "__gt__", "__iand__", "__ior__", "__isub__", "__ixor__", "__le__"),
        *("__lt__", "__ne__", "__or__", "__rand__", "__ror__", "__rsub__", "__rxor__", "__sub__", "__xor__"),
        *("difference", "difference_update", "intersection", "intersection_update", "isdisjoint", "issubset"),
        *("issuperset", "symmetric_difference", "symmetric_difference_update", "union", "update"),
    }
)
"""Methods whose arguments may be containers that C code looks into, past their methods."""


class Importing:
    """Names what is made while a file is imported: by the file's position in its family, and a count."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.count = 0

    def new_name(self) -> Name:
        """The next name."""
        self.count += 1
        return (-1, self.position, self.count)


class Imports:
    """The files that are being imported, innermost last."""

    def __init__(self) -> None:
        self.stack: list[Importing] = []

    @contextmanager
    def of(self, position: int | None) -> Generator[None]:
        """Name what the file at *position* makes inside the block; with None, do nothing."""
        if position is None:
            yield
            return
        self.stack.append(Importing(position))
        try:
            yield
        finally:
            self.stack.pop()


imports: Final = Imports()


class Recorded:
    """Base of all containers that record. The slots are in the subclasses: built-in types share none."""

    __slots__ = ()

    kemu_cell: DataCell
    kemu_data: DriverData | None
    kemu_label: str
    kemu_name: Name | None


def identify(container: Recorded, label: str) -> None:
    """Name a container that was made just now."""
    container.kemu_label = label
    container.kemu_data = None
    if imports.stack:
        container.kemu_name = imports.stack[-1].new_name()
        return
    runtime = host.get(None)
    data, thread = (None, None) if runtime is None else (runtime.data, runtime.running)
    if data is None or thread is None:
        container.kemu_name = None
        return
    container.kemu_name = name = data.new_name(thread)
    container.kemu_data = data
    container.kemu_cell = DataCell(thread, (*name, 0), label)


def cell_of(container: Recorded, data: DriverData) -> DataCell:
    """The cell that stands for the contents of *container* in the run of *data*."""
    if container.kemu_data is data:
        return container.kemu_cell
    name = container.kemu_name
    # A container that is left over from an earlier run has a name of that run.
    if name is None or name[0] >= 0:
        return data.anonymous
    return data.named((*name, 0), container.kemu_label)


def load(container: Recorded) -> None:
    """Record that the running thread observes the contents of *container*."""
    runtime = host.get(None)
    if runtime is not None:
        data = runtime.data
        if data is not None and data.recording:
            thread = runtime.running
            if thread is not None:
                data.load(thread, cell_of(container, data))


def store(container: Recorded) -> None:
    """Record that the running thread changes the contents of *container*."""
    runtime = host.get(None)
    if runtime is not None:
        data = runtime.data
        if data is not None and data.recording:
            thread = runtime.running
            if thread is not None:
                data.store(thread, cell_of(container, data))


def _observing(method: Callable[..., Any]) -> Callable[..., Any]:
    def observe(self: Recorded, *args: Any, **kwargs: Any) -> Any:
        load(self)
        return method(self, *args, **kwargs)

    return observe


def _copying(method: Callable[..., Any]) -> Callable[..., Any]:
    def copy(self: Recorded, *args: Any, **kwargs: Any) -> Any:
        load(self)
        return adopted(method(self, *args, **kwargs))

    return copy


def _changing(method: Callable[..., Any]) -> Callable[..., Any]:
    def change(self: Recorded, *args: Any, **kwargs: Any) -> Any:
        store(self)
        return method(self, *args, **kwargs)

    return change


def _looking_into(method: Callable[..., Any]) -> Callable[..., Any]:
    def look(self: Recorded, *args: Any, **kwargs: Any) -> Any:
        for other in args:
            if isinstance(other, Recorded):
                load(other)
        return method(self, *args, **kwargs)

    return look


def _iterating(method: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    def iterate(self: Recorded) -> Iterator[Any]:
        # An iteration may go on in a later step: what it sees then, it observes then.
        load(self)
        for value in method(self):
            yield value
            load(self)

    return iterate


def adopted(value: object) -> object:
    """*value*, which was made just now, as a container that records if it is one."""
    recorded = RECORDED.get(type(value))
    return value if recorded is None else recorded.of(value)


class ContainerType(type):
    """Takes the built-in containers for instances, as the code that runs with these classes does."""

    standard: type

    def __instancecheck__(cls, instance: object) -> bool:
        if type.__instancecheck__(cls, instance):
            return True
        standard = cls.__dict__.get("_kemu_standard")
        return standard is not None and isinstance(instance, standard)

    def __subclasscheck__(cls, subclass: type) -> bool:
        if type.__subclasscheck__(cls, subclass):
            return True
        standard = cls.__dict__.get("_kemu_standard")
        return standard is not None and issubclass(subclass, standard)

    def of(cls, value: Any, label: str = "") -> Any:
        """A container like *value*, with its contents."""
        made = REBUILD.get(cls.__dict__["_kemu_standard"], _rebuild)(cls, value)
        if label:
            made.kemu_label = label
            if made.kemu_data is not None:
                made.kemu_cell.label = label
        return made


def _rebuild(cls: type, value: Any) -> Any:
    return cls(value)


REBUILD: Final[dict[type, Callable[[type, Any], Any]]] = {
    defaultdict: lambda cls, value: cls(value.default_factory, value),
    deque: lambda cls, value: cls(value, value.maxlen),
}


def _recording(standard: Any) -> Any:
    """The class that records in place of *standard*."""

    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        made = standard.__new__(cls)
        identify(made, standard.__name__)
        return made

    def reduce(self: Any, protocol: int) -> Any:
        load(self)
        parts: list[Any] = list(object.__reduce_ex__(self, max(2, protocol)))
        # A copy is another object, and has a name of its own.
        if len(parts) > 2 and isinstance(parts[2], tuple):
            own, slots = cast("tuple[Any, dict[str, Any] | None]", parts[2])
            kept = {name: value for name, value in (slots or {}).items() if name not in LABEL_SLOTS}
            parts[2] = (own, kept) if kept else own
        return tuple(parts)

    namespace: dict[str, Any] = {
        "__slots__": LABEL_SLOTS,
        "__doc__": standard.__doc__,
        "__module__": standard.__module__,
        "__new__": new,
        "__reduce_ex__": reduce,
        "_kemu_standard": standard,
    }
    for name in dir(standard):
        if name in PASSED:
            continue
        method = getattr(standard, name)
        if name in {"__iter__", "__reversed__"}:
            namespace[name] = _iterating(method)
            continue
        wrap = _copying if name in COPYING else _observing if name in READING else _changing
        namespace[name] = _looking_into(wrap(method)) if name in LOOKING_INTO else wrap(method)
    if issubclass(standard, dict):
        namespace |= {"keys": _keys, "values": _values, "items": _items}
    if standard is list:
        namespace["__radd__"] = _list_radd
    if standard is set:
        namespace["__repr__"] = _set_repr
    for name, method in namespace.items():
        if name not in {"__slots__", "__doc__", "__module__", "_kemu_standard"} and method is not None:
            method.__name__ = name
            method.__qualname__ = f"{standard.__name__}.{name}"
    bases: Any = (Recorded, standard)
    return ContainerType(standard.__name__, bases, namespace)


# Views of dictionaries look into the dictionary whenever they are used.


class _Keys(KeysView[Any]):
    __slots__ = ()

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        return Set(it)

    def __reversed__(self) -> Iterator[Any]:
        return reversed(cast("Any", self)._mapping)

    def __repr__(self) -> str:
        return f"dict_keys({list(self)!r})"


class _Values(ValuesView[Any]):
    __slots__ = ()

    def __reversed__(self) -> Iterator[Any]:
        mapping = cast("Any", self)._mapping
        return (mapping[key] for key in reversed(mapping))

    def __repr__(self) -> str:
        return f"dict_values({list(self)!r})"


class _Items(ItemsView[Any, Any]):
    __slots__ = ()

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        return Set(it)

    def __reversed__(self) -> Iterator[Any]:
        mapping = cast("Any", self)._mapping
        return ((key, mapping[key]) for key in reversed(mapping))

    def __repr__(self) -> str:
        return f"dict_items({list(self)!r})"


def _keys(self: Any) -> Any:
    return _Keys(self)


def _values(self: Any) -> Any:
    return _Values(self)


def _items(self: Any) -> Any:
    return _Items(self)


def _list_radd(self: Any, other: Any) -> Any:
    if not isinstance(other, list):
        return NotImplemented
    load(self)
    return List(list[Any].__add__(cast("list[Any]", other), self))


def _set_repr(self: Any) -> str:
    load(self)
    return repr(set(set[Any].__iter__(self))) if type(self) is Set else set[Any].__repr__(self)


List: Any = _recording(list)
Dict: Any = _recording(dict)
Set: Any = _recording(set)
Deque: Any = _recording(deque)
DefaultDict: Any = _recording(defaultdict)
Ordered: Any = _recording(OrderedDict)
Counting: Any = _recording(Counter)
Bytes: Any = _recording(bytearray)

RECORDED: Final[dict[type, Any]] = {
    list: List,
    dict: Dict,
    set: Set,
    deque: Deque,
    defaultdict: DefaultDict,
    OrderedDict: Ordered,
    Counter: Counting,
    bytearray: Bytes,
}
"""For each container of Python's the one that records in its place."""


def _frozen_method(name: str) -> Any:
    method = getattr(frozenset, name)

    def observe(self: Any, *args: Any) -> Any:
        for other in args:
            if isinstance(other, Recorded):
                load(other)
        result = method(self, *args)
        return Frozen(result) if type(result) is frozenset else result

    observe.__name__ = name
    return observe


FROZEN_OPERATORS: Final = (
    *("__and__", "__or__", "__sub__", "__xor__", "__rand__", "__ror__", "__rsub__", "__rxor__"),
    *("__eq__", "__ne__", "__le__", "__lt__", "__ge__", "__gt__"),
    *("union", "intersection", "difference", "symmetric_difference", "issubset", "issuperset", "isdisjoint"),
)


def _frozen_repr(self: Any) -> str:
    return repr(frozenset(self)) if type(self) is Frozen else frozenset[Any].__repr__(self)


Frozen: Any = ContainerType(
    "frozenset",
    (frozenset,),
    {
        "__slots__": (),
        "__module__": "builtins",
        "__hash__": frozenset[Any].__hash__,
        "__repr__": _frozen_repr,
        "_kemu_standard": frozenset,
        **{name: _frozen_method(name) for name in FROZEN_OPERATORS},
    },
)
"""A frozenset has no state of its own, but looks into the sets that it is compared and combined with."""

METHODS: Final = frozenset(
    name
    for standard in RECORDED
    if standard is not bytearray
    for name in dir(standard)
    if not name.startswith("_") and name not in PASSED
)
"""The names of all containers' methods; those that a bytearray shares with strings are left out."""


def is_store(method: str) -> bool:
    """Whether the container's *method* may change it."""
    return method not in READING
