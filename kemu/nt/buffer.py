"""Memory as bytes: blocks that were allocated by a number, pointers into them, and the routines that copy.

Every access is checked against the bounds (KE-POOL-09), and every byte remembers whether it was ever written, through
copies as well (KE-POOL-14). The routines are inline code or take no lock: they do not schedule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, cast

from kemu.nt.allocation import Allocation, type_name
from kemu.nt.bugcheck import (
    BAD_POOL_HEADER,
    DRIVER_IRQL_NOT_LESS_OR_EQUAL,
    DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION,
    PAGE_FAULT_IN_NONPAGED_AREA,
    BugCheck,
)
from kemu.nt.driver import followed_null
from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread
from kemu.nt.routine import routine
from kemu.nt.storage import Storage
from kemu.nt.structure import (
    READ,
    WRITE,
    Freed,
    Size,
    Structure,
    field_cell,
    fields_of,
    inside_of,
    size_of_field,
    touch_freed,
    touch_paged,
)
from kemu.nt.system import refuse, report
from kemu.runtime.data import DataCell, DriverData, recorder

CONTENTS: Final = "[]"
"""The field of a block that its bytes are to footprints."""


@dataclass(slots=True)
class Copied:
    """Bytes on their way from one place to another."""

    data: bytes
    written: bytes | None = None
    """For each byte 1 if it was ever written; None if all were."""
    values: dict[int, object] = field(default_factory=dict[int, object])
    """What of it are fields of a structure, by where they begin: a field may hold what has no bytes."""

    def unwritten(self) -> bool:
        """Whether some of it was never written."""
        return self.written is not None and 0 in self.written


class Region:
    """Something that has bytes."""

    __slots__ = ()

    def region_length(self) -> int:
        """How many bytes there are."""
        raise NotImplementedError

    def region_label(self) -> str:
        """What a finding calls it."""
        raise NotImplementedError

    def region_address(self) -> int:
        """Where it begins, as a debugger would show it."""
        return 0

    def region_fetch(self, offset: int, length: int) -> Copied:
        """The bytes there. The bounds have been checked."""
        raise NotImplementedError

    def region_outside(self, offset: int, length: int, access: int, name: str) -> None:
        """An access to bytes that are not all there: finding ``ke.overrun`` (KE-POOL-09)."""
        end = self.region_length()
        verb = "writes" if access else "reads"
        by = f" in {name}" if name else ""
        where = f"{-offset} bytes before the beginning" if offset < 0 else f"{offset + length - end} bytes past the end"
        report(
            "ke.overrun",
            f"{current_kthread().label} {verb} {length} bytes at offset {offset}{by}: {where} of {self.region_label()}",
            BugCheck(BAD_POOL_HEADER, (0x20,)) if access else None,
            verifier=BugCheck(
                DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION, (self.region_address() + min(offset, end), access)
            ),
        )

    def region_put(self, offset: int, copied: Copied) -> None:
        """Write bytes there. The bounds have been checked."""
        raise NotImplementedError

    # What a driver writes: block[3], block[0:4], block + 4.

    def __len__(self) -> int:
        return self.region_length()

    def __getitem__(self, key: int | slice) -> Any:
        return read_item(self, 0, key)

    def __setitem__(self, key: int | slice, value: Any) -> None:
        write_item(self, 0, key, value)

    def __add__(self, offset: int) -> Pointer:
        return Pointer(self, offset)

    def __iter__(self) -> Any:
        return iter(self[0 : len(self)])

    def __bytes__(self) -> bytes:
        return cast("bytes", self[0 : len(self)])


class Pointer:
    """An address inside a block: ``block + 4``."""

    __slots__ = ("offset", "region")

    def __init__(self, region: Region, offset: int) -> None:
        self.region = region
        self.offset = offset

    def __add__(self, offset: int) -> Pointer:
        return Pointer(self.region, self.offset + offset)

    def __sub__(self, offset: int) -> Pointer:
        return Pointer(self.region, self.offset - offset)

    def __getitem__(self, key: int | slice) -> Any:
        return read_item(_alive(self.region), self.offset, key)

    def __setitem__(self, key: int | slice, value: Any) -> None:
        write_item(_alive(self.region), self.offset, key, value)


def _alive(region: Any) -> Region:
    """*region*, whose block may have been freed since."""
    if isinstance(region, Freed):
        touch_freed(region, "follows a pointer into the bytes", READ)
    return cast("Region", region)


class Bytes(Structure, Region):
    """A block that was allocated by a plain number of bytes: ``block[3]``, ``block[0:4]``, ``block + 4``, ``len``.

    An access outside of it is finding ``ke.overrun``.
    """

    _content: bytearray
    _written: bytearray | None

    def region_length(self) -> int:
        return len(self._content)

    def region_label(self) -> str:
        return "bytes" if self._allocation is None else self._allocation.describe()

    def region_address(self) -> int:
        return 0 if self._allocation is None else self._allocation.address

    def region_fetch(self, offset: int, length: int) -> Copied:
        self._touched(READ, f"reads [{offset}:{offset + length}]")
        written = None if self._written is None else bytes(self._written[offset : offset + length])
        return Copied(bytes(self._content[offset : offset + length]), written)

    def region_put(self, offset: int, copied: Copied) -> None:
        length = len(copied.data)
        self._touched(WRITE, f"writes [{offset}:{offset + length}]")
        self._content[offset : offset + length] = copied.data
        if self._written is None and copied.unwritten():
            self._written = bytearray(b"\1" * len(self._content))
        if self._written is not None:
            self._written[offset : offset + length] = copied.written or b"\1" * length

    def _touched(self, access: int, what: str) -> None:
        allocation = self._allocation
        if allocation is None:
            return
        if allocation.is_paged:
            touch_paged(self, what, access)
        found = recorder()
        if found is not None:
            data, thread = found
            thread.read(allocation)
            (data.store if access else data.load)(thread, contents_cell(data, allocation))


def contents_cell(data: DriverData, allocation: Allocation) -> DataCell:
    """The cell of all bytes of a block."""
    return data.part(allocation, CONTENTS, f"bytes of block '{allocation.tag}'", lifetime=allocation)


def fill(block: Bytes, length: int, *, zeroed: bool) -> None:
    """Give a new block its bytes."""
    block.__dict__["_content"] = bytearray(length)
    block.__dict__["_written"] = None if zeroed else bytearray(length)


class Local(Region):
    """A driver's own bytes, on its stack or wherever it has them."""

    __slots__ = ("content",)

    def __init__(self, content: bytes | bytearray) -> None:
        self.content = content

    def region_length(self) -> int:
        return len(self.content)

    def region_label(self) -> str:
        return f"a local buffer of {len(self.content)} bytes"

    def region_fetch(self, offset: int, length: int) -> Copied:
        return Copied(bytes(self.content[offset : offset + length]))

    def region_put(self, offset: int, copied: Copied) -> None:
        if isinstance(self.content, bytes):
            refuse("bytes that cannot change are the destination of a copy", remedy="pass a bytearray")
        self.content[offset : offset + len(copied.data)] = copied.data


@dataclass(frozen=True, slots=True)
class Slot:
    """One field of a structure, and where its bytes are."""

    whole: Structure
    name: str
    offset: int
    size: int


class Fields(Region):
    """A structure as bytes: each plain field is a number of eight bytes."""

    __slots__ = ("slots", "structure")

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.slots = list(_slots(structure, 0))

    def region_length(self) -> int:
        return max(8, sum(slot.size for slot in self.slots))

    def region_label(self) -> str:
        allocation = allocation_of(self.structure)
        return type_name(self.structure) if allocation is None else allocation.describe()

    def region_address(self) -> int:
        allocation = allocation_of(self.structure)
        return 0 if allocation is None else allocation.address

    def region_fetch(self, offset: int, length: int) -> Copied:
        content, written = bytearray(length), bytearray(length)
        values: dict[int, object] = {}
        for slot in self._touched(offset, length, READ):
            place = slot.offset - offset
            value = slot.whole.__dict__.get(slot.name, _MISSING)
            if value is _MISSING:
                continue
            if isinstance(value, Storage):
                value = value.plain_value()
            values[place] = value
            number = value if isinstance(value, int) else 0
            content[place : place + slot.size] = (number % (1 << 8 * slot.size)).to_bytes(slot.size, "little")
            written[place : place + slot.size] = b"\1" * slot.size
        return Copied(bytes(content), bytes(written), values)

    def region_put(self, offset: int, copied: Copied) -> None:
        for slot in self._touched(offset, len(copied.data), WRITE):
            place = slot.offset - offset
            written = b"\1" if copied.written is None else copied.written[place : place + slot.size]
            value = copied.values.get(place, int.from_bytes(copied.data[place : place + slot.size], "little"))
            held = slot.whole.__dict__.get(slot.name)
            if isinstance(held, Storage):
                held.overwritten(value)
            elif 0 in written:
                slot.whole.__dict__.pop(slot.name, None)
            else:
                slot.whole.__dict__[slot.name] = value

    def _touched(self, offset: int, length: int, access: int) -> list[Slot]:
        """The fields of those bytes, which are accessed."""
        touched = [slot for slot in self.slots if slot.offset < offset + length and offset < slot.offset + slot.size]
        for slot in touched:
            if slot.offset < offset or slot.offset + slot.size > offset + length:
                refuse(
                    f"{length} bytes at offset {offset} of {type_name(self.structure)} end inside of .{slot.name}",
                    remedy="copy whole fields, each of which has eight bytes; or allocate by a number of bytes",
                )
        allocation = allocation_of(self.structure)
        if allocation is not None and allocation.is_paged:
            touch_paged(self.structure, "copies bytes" if access else "reads bytes", access)
        found = recorder()
        if found is not None:
            data, thread = found
            if allocation is not None:
                # The fields may be constants as far as assignments tell: whoever reads one depends on the block.
                (thread.write if access else thread.read)(allocation)
            for slot in touched:
                (data.store if access else data.load)(thread, field_cell(data, slot.whole, slot.name))
        return touched


_MISSING: Final = object()


def _slots(structure: Structure, offset: int) -> Any:
    kind = type(structure)
    inside = inside_of(kind)
    for name in fields_of(kind):
        part = structure.__dict__.get(name) if name in inside else None
        if isinstance(part, Structure):
            yield from _slots(part, offset)
            offset += Size(type(part))
        else:
            size = size_of_field(kind, name)
            yield Slot(structure, name, offset, size)
            offset += size


def allocation_of(block: object) -> Allocation | None:
    """The pool's record of *block*, which may be anything a driver passes, and may be free."""
    if not isinstance(block, Structure):
        return None
    allocation: Allocation | None = object.__getattribute__(block, "__dict__").get("_allocation")
    return allocation


# Accesses.


def span_of(value: Any, name: str, parameter: str, access: int) -> tuple[Region, int]:
    """The region that the pointer *value* points into, and where; finding ``ke.bad-pointer`` if to nothing."""
    offset = 0
    if isinstance(value, Pointer):
        value, offset = value.region, value.offset
    if isinstance(value, Freed):
        touch_freed(value, f"passes to {name}, as {parameter}, the bytes", access)
    if isinstance(value, Region):
        return value, offset
    if isinstance(value, Structure):
        return Fields(value), offset
    if isinstance(value, bytes | bytearray):
        return Local(value), offset
    thread = current_kthread()
    if value is None:
        followed_null(thread, name)
    what = "NULL" if value is None else f"a {type(value).__name__}"
    code = DRIVER_IRQL_NOT_LESS_OR_EQUAL if thread.irql >= DISPATCH_LEVEL else PAGE_FAULT_IN_NONPAGED_AREA
    report("ke.bad-pointer", f"{name} was given {what}, as {parameter}, which takes an address", BugCheck(code))
    return Local(b""), 0


def check_bounds(region: Region, offset: int, length: int, access: int, name: str = "") -> bool:
    """Whether *length* bytes at *offset* are inside of *region*, which is told if they are not."""
    # A negative length is a number of 64 bits in C.
    length %= 1 << 64
    if offset >= 0 and offset + length <= region.region_length():
        return True
    region.region_outside(offset, length, access, name)
    return False


def _range(region: Region, start: int, key: Any) -> tuple[int, int]:
    """Where the item *key* begins, and how many bytes it has."""
    if isinstance(key, slice):
        bounds = cast("slice[int | None, int | None, int | None]", key)
        if bounds.step is None:
            first = 0 if bounds.start is None else bounds.start
            stop = region.region_length() - start if bounds.stop is None else bounds.stop
            return start + first, stop - first
    if not isinstance(key, int):
        refuse(f"[{key!r}] of a block of bytes", remedy="use a number, or a slice without a step")
    return start + key, 1


def read_item(region: Region, start: int, key: int | slice) -> int | bytes:
    """``region[key]``, counted from *start*. Bytes that were never written are finding ``ke.uninitialised``."""
    offset, length = _range(region, start, key)
    if not check_bounds(region, offset, length, READ):
        return b""
    copied = region.region_fetch(offset, length)
    if copied.unwritten():
        report("ke.uninitialised", f"bytes of {region.region_label()} were read before they were written")
    return copied.data[0] if isinstance(key, int) else copied.data


def write_item(region: Region, start: int, key: int | slice, value: Any) -> None:
    """``region[key] = value``, counted from *start*."""
    offset, length = _range(region, start, key)
    data = bytes((value & 0xFF,)) if isinstance(key, int) and isinstance(value, int) else bytes(value)
    if not check_bounds(region, offset, length, WRITE):
        return
    if len(data) != length:
        refuse(f"{len(data)} bytes are assigned to {length}", remedy="give as many as the slice has")
    region.region_put(offset, Copied(data))


# The routines.


def _fetch(value: Any, length: int, name: str, parameter: str) -> Copied:
    region, offset = span_of(value, name, parameter, READ)
    if not check_bounds(region, offset, length, READ, name):
        return Copied(b"")
    return region.region_fetch(offset, length)


def _copy(name: str, destination: Any, source: Any, length: int) -> None:
    if length:
        # The destination first: a length that is past its end is known before anything is read.
        region, offset = span_of(destination, name, "Destination", WRITE)
        if check_bounds(region, offset, length, WRITE, name):
            copied = _fetch(source, length, name, "Source")
            if isinstance(region, Fields) or not copied.values:
                region.region_put(offset, copied)
            else:
                region.region_put(offset, Copied(copied.data, copied.written))


def RtlCopyMemory(Destination: Any, Source: Any, Length: int) -> None:
    """Copy *Length* bytes, whether they were ever written or not. IRQL: any, if both are resident."""
    _copy("RtlCopyMemory", Destination, Source, Length)


def RtlMoveMemory(Destination: Any, Source: Any, Length: int) -> None:
    """Copy *Length* bytes, which may overlap. IRQL: any, if both are resident."""
    _copy("RtlMoveMemory", Destination, Source, Length)


def _set(name: str, destination: Any, length: int, value: int) -> None:
    if length:
        region, offset = span_of(destination, name, "Destination", WRITE)
        if check_bounds(region, offset, length, WRITE, name):
            region.region_put(offset, Copied(bytes((value & 0xFF,)) * length))


def RtlZeroMemory(Destination: Any, Length: int) -> None:
    """Fill *Length* bytes with zeroes. IRQL: any, if they are resident."""
    _set("RtlZeroMemory", Destination, Length, 0)


def RtlSecureZeroMemory(ptr: Any, cnt: int) -> Any:
    """Fill *cnt* bytes with zeroes, also where a compiler would leave that out; *ptr*. IRQL: any."""
    _set("RtlSecureZeroMemory", ptr, cnt, 0)
    return ptr


def RtlFillMemory(Destination: Any, Length: int, Fill: int) -> None:
    """Fill *Length* bytes with the byte *Fill*. IRQL: any, if they are resident."""
    _set("RtlFillMemory", Destination, Length, Fill)


def _equal_bytes(name: str, first: Any, second: Any, length: int) -> int:
    one, other = _fetch(first, length, name, "Source1"), _fetch(second, length, name, "Source2")
    if one.unwritten() or other.unwritten():
        report("ke.uninitialised", f"{name} compares bytes that were never written")
    return next((at for at in range(length) if one.data[at] != other.data[at]), length)


@routine("wdm", "SIZE_T RtlCompareMemory(_In_ const VOID *Source1, _In_ const VOID *Source2, _In_ SIZE_T Length)")
def RtlCompareMemory(Source1: Any, Source2: Any, Length: int) -> int:
    """How many bytes from the beginning are equal. IRQL: any, if both are resident."""
    return _equal_bytes("RtlCompareMemory", Source1, Source2, Length) if Length else 0


def RtlEqualMemory(Source1: Any, Source2: Any, Length: int) -> bool:
    """Whether all bytes are equal. IRQL: any, if both are resident."""
    return not Length or _equal_bytes("RtlEqualMemory", Source1, Source2, Length) == Length
