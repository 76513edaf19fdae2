"""Storage: kernel objects that a driver declares as fields of its own structures, as C does.

``Event: KEVENT`` in a `Structure` is an event inside of it, which comes and goes with the block; ``KEVENT | None`` is
a pointer to one. A class whose objects can be such fields derives from `Storage` and says here what it means for one
that its memory is zeroed or freed.
"""

from __future__ import annotations

from typing import Any, ClassVar

from kemu.nt.system import Leftover, refuse


class Storage:
    """Something that may be a field of a structure. Its constructor takes a label."""

    __slots__ = ()

    storage_size: ClassVar[int] = 8
    """What it takes of a structure, in bytes."""
    pageable: ClassVar[bool] = False
    """Whether it may be in paged memory (KE-WAIT-02)."""

    @classmethod
    def embedded(cls, label: str, whole: Any) -> Any:
        """One that lies in the structure *whole*, where it is called *label*: not initialised."""
        make: Any = cls
        return make(label)

    def zeroed(self) -> None:
        """The memory is zeroed. Most objects have to be initialised all the same."""

    def still_active(self) -> Leftover | None:
        """What is wrong with the memory being freed now; None if nothing uses the object any more."""
        return None

    def storage_freed(self, words: str) -> None:
        """The memory is freed, as *words* tell. For objects that are looked at past `System.freed`."""

    def assign(self, name: str, value: object) -> None:
        """The driver assigns *value* to the field. C would copy one object over the other."""
        kind = type(self).__name__
        article = "an" if kind[:1] in "AEIOU" else "a"
        refuse(
            f"{name} is {article} {kind} inside of its structure, and {type(value).__name__} is assigned to it",
            remedy=f"initialise it where it is, or declare a pointer: {name.rpartition('.')[2]}: {kind} | None",
        )

    def plain_value(self) -> object:
        """What a copy of the structure's bytes takes of it."""
        return 0

    def overwritten(self, value: object) -> None:
        """Bytes are copied over it, of which *value* is one. Only a variable has a value; other objects stay."""
