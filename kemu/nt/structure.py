"""Structures: a driver's own types, the kernel objects inside of them, and what becomes of both when memory is freed.

The annotated fields of a class derived from `Structure` are what C's declaration lists. A field whose type is a
kernel object (`Storage`) or another structure lies inside; any other field is a plain value. A name that has no meaning
yet where the class is declared can only be a pointer's, as in C, where a field needs a complete type.

Freeing a block changes the class of its structure, and a block of paged pool has a class of its own, so that every
access can be looked at and a block of nonpaged pool costs nothing while it is alive.
"""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import Any, ClassVar, Final, NoReturn, cast

from kemu.nt.allocation import Allocation, type_name
from kemu.nt.bugcheck import DRIVER_IRQL_NOT_LESS_OR_EQUAL, DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL, BugCheck
from kemu.nt.deferred import stale_context
from kemu.nt.kthread import APC_LEVEL, current_kthread, irql_name
from kemu.nt.storage import Storage
from kemu.nt.system import current_system, refuse, report
from kemu.runtime import Cell
from kemu.runtime.benign import is_benign
from kemu.runtime.data import DataCell, DriverData, created

READ: Final = 0
WRITE: Final = 1


class Structure:
    """Base of a driver's own structures. Annotated fields exist and are zero in zeroed memory; a field of
    uninitialised memory that is read before it is written is finding ``ke.uninitialised``.
    """

    _allocation: Allocation | None = None
    _inside: ClassVar[dict[str, type[Storage | Structure]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        inside: dict[str, type[Storage | Structure]] = {}
        for name, annotation in inspect.get_annotations(cls).items():
            kind = None if name.startswith("_") else _inside(annotation, frame)
            if kind is not None:
                inside[name] = kind
        if inside:
            cls._inside = {**cls._inside, **inside}
            for name in inside:
                setattr(cls, name, Inside(name))

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if (args or kwargs) and cls.__init__ is object.__init__:
            raise TypeError(f"{cls.__name__}() takes no arguments")
        made = object.__new__(cls)
        if cls._inside:
            furnish(made, cls, None, [], zeroed=False)
        return made

    def __getattr__(self, name: str) -> Any:
        if self._allocation is not None and name in fields_of(type(self)):
            report("ke.uninitialised", f"{type(self).__name__}.{name} was read before it was written")
        raise AttributeError(f"{type(self).__name__} has no field {name!r}")


def _inside(annotation: Any, frame: FrameType) -> type[Storage | Structure] | None:
    """The type of what a field with that *annotation* holds inside the structure; None for a plain value."""
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, frame.f_globals, frame.f_locals)
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it names no complete type
            return None
    return annotation if isinstance(annotation, type) and issubclass(annotation, Storage | Structure) else None


class Inside:
    """The field of a structure that holds a kernel object or another structure."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, whole: Structure | None, owner: type) -> Any:
        return self if whole is None else whole.__dict__[self._name]

    def __set__(self, whole: Structure, value: object) -> None:
        part = whole.__dict__[self._name]
        name = f"{type_name(whole)}.{self._name}"
        if isinstance(part, Structure):
            kind = type_name(part)
            refuse(
                f"{name} is a {kind} inside of its structure, and {type(value).__name__} is assigned to it",
                remedy=f"assign its fields, or declare a pointer: {self._name}: {kind} | None",
            )
        part.assign(name, value)

    def __delete__(self, whole: Structure) -> NoReturn:
        refuse(f"{type_name(whole)}.{self._name} is deleted", remedy="free the block that it is part of")


def fields_of(structure: type[Structure]) -> dict[str, Any]:
    """The annotated fields of *structure*, the base class's first."""
    return {
        name: kind
        for cls in reversed(structure.__mro__)
        for name, kind in inspect.get_annotations(cls).items()
        if not name.startswith("_")
    }


def inside_of(structure: type[Structure]) -> dict[str, type[Storage | Structure]]:
    """Those fields of *structure* that hold a kernel object or another structure."""
    return structure._inside  # pyright: ignore[reportPrivateUsage]


def size_of_field(structure: type[Structure], field: str) -> int:
    """How many bytes *field* takes: eight unless the type says otherwise."""
    kind = inside_of(structure).get(field)
    if kind is None:
        return 8
    return Size(kind) if issubclass(kind, Structure) else kind.storage_size


def offset_of_field(structure: type[Structure], field: str) -> int:
    """Where *field* begins in *structure*, in bytes."""
    offset = 0
    for name in fields_of(structure):
        if name == field:
            break
        offset += size_of_field(structure, name)
    return offset


class Size(int):
    """A size in bytes that remembers the structure it is the size of."""

    structure: type[Structure]

    def __new__(cls, structure: type[Structure]) -> Size:
        bytes_ = sum(size_of_field(structure, name) for name in fields_of(structure))
        size = super().__new__(cls, max(8, bytes_))
        size.structure = structure
        return size


def sizeof(structure: type[Structure]) -> Size:
    """The size of *structure*, as C's operator; eight bytes a field, and what a kernel object or structure takes."""
    return Size(structure)


def furnish(
    whole: Structure,
    structure: type[Structure],
    allocation: Allocation | None,
    parts: list[Any],
    *,
    zeroed: bool,
    prefix: str = "",
) -> Structure:
    """Put into *whole* what lies inside a *structure*, and zeroes into its other fields if the memory is *zeroed*."""
    fields = whole.__dict__
    inside = inside_of(structure)
    if zeroed:
        fields.update((name, 0) for name in fields_of(structure) if name not in inside)
    if allocation is not None:
        fields["_allocation"] = allocation
    for name, kind in inside.items():
        if issubclass(kind, Structure):
            base = paged_class(kind) if allocation is not None and allocation.is_paged else kind
            part: Any = object.__new__(base)
            part.__dict__["_prefix"] = f"{prefix}{name}."
            if allocation is None:
                created(part, kind.__name__)
            furnish(part, kind, allocation, parts, zeroed=zeroed, prefix=f"{prefix}{name}.")
        else:
            part = kind.embedded(f"{structure.__name__}.{name}", whole)
            if zeroed:
                part.zeroed()
            if allocation is not None and allocation.is_paged and isinstance(part, Cell):
                current_system().paged[part] = allocation.describe()
        fields[name] = part
        parts.append(part)
    return whole


def field_cell(data: DriverData, block: Structure, name: str) -> DataCell:
    """The cell of one field, also of a structure whose memory was freed."""
    fields = object.__getattribute__(block, "__dict__")
    allocation: Allocation | None = fields.get("_allocation")
    if allocation is None:
        return data.cell(block, name)
    # A block that is freed has another class, and its fields are the same.
    structure: type[Structure] = fields.get("_structure") or type(block)
    label = f"{structure.__name__}.{name}"
    benign = is_benign(structure, name)
    return data.part(allocation, fields.get("_prefix", "") + name, label, benign=benign, lifetime=allocation)


# Freed memory.


class Freed(Structure):
    """What a structure becomes when its memory is freed."""

    def __getattribute__(self, name: str) -> Any:
        if name in {"__class__", "__dict__", "_allocation"}:
            return object.__getattribute__(self, name)
        return touch_freed(self, f"reads .{name}", READ, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "__class__":
            object.__setattr__(self, name, value)
        else:
            touch_freed(self, f"writes .{name}", WRITE, name)

    def __getitem__(self, key: Any) -> Any:
        return touch_freed(self, f"reads [{_key(key)}]", READ)

    def __setitem__(self, key: Any, value: Any) -> None:
        touch_freed(self, f"writes [{_key(key)}]", WRITE)

    def __bytes__(self) -> Any:
        return touch_freed(self, "reads the bytes", READ)


def _key(key: Any) -> str:
    if isinstance(key, slice):
        bounds = cast("slice[int | None, int | None, int | None]", key)
        return f"{bounds.start or 0}:{'' if bounds.stop is None else bounds.stop}"
    return str(key)


def touch_freed(block: Structure, what: str, access: int, field: str = "") -> None:
    """Report that the running thread uses freed memory (KE-POOL-08)."""
    allocation: Allocation = object.__getattribute__(block, "__dict__")["_allocation"]
    structure: type[Structure] = object.__getattribute__(block, "__dict__")["_structure"]
    address = allocation.address + (offset_of_field(structure, field) if field else 0)
    code = allocation.freed_code if allocation.from_lookaside is None else "ke.lookaside-uaf"
    code = stale_context(block) or code
    report(
        code,
        f"{current_kthread().label} {what} of {allocation.describe()}, {allocation.freed_words}",
        verifier=BugCheck(DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL, (address, access)),
    )


def become_freed(block: Structure) -> None:
    """From here on, every access to *block* is a use of freed memory."""
    fields = block.__dict__
    fields["_name"] = type(block).__name__
    fields["_structure"] = type(block)
    block.__class__ = Freed


# Paged memory.


class Paged(Structure):
    """Base of structures in paged pool, whose accesses look at the IRQL."""

    def __getattribute__(self, name: str) -> Any:
        if name[:1] != "_" and name in object.__getattribute__(self, "_field_names"):
            touch_paged(self, f"reads .{name}", READ, name)
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name[:1] != "_":
            touch_paged(self, f"writes .{name}", WRITE, name)
        object.__setattr__(self, name, value)


def paged_class(structure: type[Structure]) -> type[Structure]:
    """The class of *structure* in paged pool."""
    twin: type[Structure] | None = structure.__dict__.get("_paged_twin")
    if twin is None:
        names = frozenset(fields_of(structure))
        more = {"__module__": structure.__module__, "__qualname__": structure.__qualname__, "_field_names": names}
        twin = type(structure.__name__, (Paged, structure), more)
        type.__setattr__(structure, "_paged_twin", twin)
    return twin


def touch_paged(block: Structure, what: str, access: int, field: str = "") -> None:
    """Look at the IRQL of an access to paged memory (KE-IRQL-07): above APC_LEVEL it is finding ``ke.paged``.

    Whether the page would have been there cannot be known, so it never is, as with the verifier's forced IRQL checking.
    """
    thread = current_kthread()
    if thread.irql <= APC_LEVEL or thread.runtime.looking:
        return
    allocation: Allocation = object.__getattribute__(block, "__dict__")["_allocation"]
    if allocation.locked:
        return
    address = allocation.address + (offset_of_field(type(block), field) if field else 0)
    report(
        "ke.paged",
        f"{thread.label} {what} of {allocation.describe()} in paged pool, at {irql_name(thread.irql)}",
        BugCheck(DRIVER_IRQL_NOT_LESS_OR_EQUAL, (address, thread.irql, access)),
    )
