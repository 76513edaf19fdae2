"""Variables with an address, which interlocked operations work on."""

from __future__ import annotations

from typing import Any, ClassVar, Final, cast

from kemu.nt.kthread import current_kthread
from kemu.nt.storage import Storage
from kemu.nt.system import System, refuse, report
from kemu.runtime import Cell, Thread, current_thread
from kemu.runtime.benign import is_benign
from kemu.runtime.thread import host

UNWRITTEN: Final = object()
"""The value of a variable in memory that was not zeroed, until somebody assigns it."""


class Shared(Cell, Storage):
    """A variable with an address. `value` reads and assigns it as plain code does."""

    __slots__ = ("_changes", "_seen", "_value", "benign", "lifetime")

    pageable: ClassVar[bool] = True
    bits: ClassVar[int] = 0
    """How many bits a number has; 0 for a pointer."""

    def __init__(self, value: Any = 0, label: str = "") -> None:
        super().__init__(current_thread(), label or type(self).__name__)
        self.benign = False
        self.lifetime: Cell | None = None
        self._value = value if value is UNWRITTEN else self.wrapped(value)
        self._changes = 0
        self._seen: dict[Thread, int] = {}
        """For each thread that has looked at it: after how many changes."""

    @classmethod
    def embedded(cls, label: str, whole: Any) -> Shared:
        made = cls(UNWRITTEN, label)
        made.benign = is_benign(cast("type[object]", type(whole)), label.rpartition(".")[2])
        made.lifetime = whole.__dict__.get("_allocation")
        return made

    def zeroed(self) -> None:
        self._value = self.wrapped(0)

    def assign(self, name: str, value: object) -> None:
        # C has no other way to write it.
        self.value = value

    def plain_value(self) -> object:
        return self.value

    def overwritten(self, value: object) -> None:
        self.value = value

    # Plain code.

    @property
    def value(self) -> Any:
        """The value, as plain code reads and assigns it. To footprints and races an access to driver state."""
        thread = self._plainly()
        if thread is not None:
            thread.load(self)
            self.seen_by(thread)
        return self.current("a plain read")

    @value.setter
    def value(self, value: Any) -> None:
        thread = self._plainly()
        self.put(value)
        if thread is not None:
            thread.store(self)
            self.changed_by(thread)

    def _plainly(self) -> Thread | None:
        """The thread whose code accesses the value; None if it is nobody's."""
        runtime = host.get(None)
        if runtime is None or runtime.looking or runtime.running is None:
            return None
        self.touch("a plain access")
        return runtime.running

    # Operations.

    def touch(self, name: str) -> None:
        """Finding ``ke.use-after-free`` if the memory that it lies in was freed."""
        system: System = current_thread().runtime.system
        if self in system.freed:
            thread = current_kthread()
            report(system.code_of_freed(self), f"{name} by {thread.label} of {self.label}, {system.freed[self]}")

    def atomic(self, thread: Thread) -> None:
        """Tell race detection that *thread* changes it in one piece."""
        races = thread.runtime.races
        if races is not None:
            races.atomic(thread, self)

    def current(self, name: str) -> Any:
        """The value; finding ``ke.uninitialised`` if it was never assigned."""
        if self._value is UNWRITTEN:
            report("ke.uninitialised", f"{self.label} was read by {name} before it was written")
        return self._value

    def put(self, value: Any) -> Any:
        """Assign the value, and return what has become of it."""
        self._value = self.wrapped(value)
        return self._value

    def changed_by(self, thread: Thread) -> None:
        """*thread* has changed it."""
        self._changes += 1
        self.seen_by(thread)
        runtime = thread.runtime
        if runtime.invariants and runtime.data is not None:
            # An invariant may tell two changes apart that no thread can.
            thread.write(runtime.data.invariants)

    def seen_by(self, thread: Thread) -> None:
        """*thread* knows the value."""
        self._seen[thread] = self._changes

    def check_aba(self, thread: Thread, name: str) -> None:
        """Warning ``ke.aba``: the pointer is what *thread* has seen, and was another one in between (KE-INTLK-04)."""
        seen = self._seen.get(thread)
        if not self.bits and self._value is not None and seen is not None and seen != self._changes:
            what = f"{name} of {self.label} by {thread.label} finds the pointer that it expects"
            report("ke.aba", f"{what}, and since {thread.label} has read it, it was another one")

    def wrapped(self, value: Any) -> Any:
        """*value* as the type has it: numbers overflow."""
        if not self.bits:
            return None if isinstance(value, int) and value == 0 else value
        if not isinstance(value, int):
            refuse(f"{value!r} is assigned to {self.label}", remedy="give a whole number, or declare it as PVOID")
        half = 1 << self.bits - 1
        return (int(value) + half) % (2 * half) - half


class LONG(Shared):
    """A signed number of 32 bits."""

    __slots__ = ()

    storage_size: ClassVar[int] = 8
    bits: ClassVar[int] = 32


class ULONG(LONG):
    """A number of 32 bits without a sign."""

    __slots__ = ()

    def wrapped(self, value: Any) -> Any:
        return super().wrapped(value) & 0xFFFFFFFF


class LONG64(Shared):
    """A signed number of 64 bits."""

    __slots__ = ()

    bits: ClassVar[int] = 64


class PVOID(Shared):
    """A pointer: None, or any object."""

    __slots__ = ()
