"""The object manager's counts: objects with a header, references by pointer, deletion (KE-REF, OB-OBJ).

Any kernel object can have a header. It comes into being when somebody first counts something: its name follows from
the object's own, so that nobody can tell who that was.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, cast

from kemu.nt.access import EVENT_RIGHTS, PLAIN_RIGHTS, PROCESS_RIGHTS, THREAD_RIGHTS, Rights
from kemu.nt.bugcheck import DRIVER_VERIFIER_DETECTED_VIOLATION, REFERENCE_BY_POINTER, BugCheck
from kemu.nt.driver import DriverActor, current_driver
from kemu.nt.event import KEVENT
from kemu.nt.kthread import DISPATCH_LEVEL, KThread
from kemu.nt.process import KernelMode, Process
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_OBJECT_TYPE_MISMATCH, STATUS_SUCCESS
from kemu.nt.system import Leftover, System, report
from kemu.runtime import Cell, Operation, Thread, current_thread

DEFAULT_TAG: Final = "Dflt"
"""The tag of a reference that was taken without one (KE-REF-04)."""


class ObjectType:
    """OBJECT_TYPE: what objects of one kind have in common.

    `is_held` says whether the system itself keeps such an object, as it does a thread that has not ended; `delete` is
    called when nobody holds it any more, in the thread of the last one.
    """

    def __init__(
        self,
        name: str,
        rights: Rights = PLAIN_RIGHTS,
        *,
        is_held: Callable[[Any, Thread], bool] | None = None,
        delete: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.rights = rights
        self.is_held = is_held
        self.delete = delete

    def __repr__(self) -> str:
        return self.name


class ObjectTypeVariable:
    """An exported variable that points to a type, such as PsProcessType; ``*PsProcessType`` is `contents`."""

    def __init__(self, name: str, contents: ObjectType) -> None:
        self.name = name
        self.contents = contents

    def __repr__(self) -> str:
        return self.name


def _lives(thread: KThread, observer: Thread) -> bool:
    observer.read(thread)
    return thread.alive


def _runs(process: Process, observer: Thread) -> bool:
    observer.read(process)
    return not process.has_exited


THREAD_TYPE: Final = ObjectType("Thread", THREAD_RIGHTS, is_held=_lives)
PROCESS_TYPE: Final = ObjectType("Process", PROCESS_RIGHTS, is_held=_runs)
EVENT_TYPE: Final = ObjectType("Event", EVENT_RIGHTS)

PsThreadType: Final = ObjectTypeVariable("PsThreadType", THREAD_TYPE)
PsProcessType: Final = ObjectTypeVariable("PsProcessType", PROCESS_TYPE)
ExEventObjectType: Final = ObjectTypeVariable("ExEventObjectType", EVENT_TYPE)

_types: dict[type[Cell], ObjectType] = {KThread: THREAD_TYPE, Process: PROCESS_TYPE, KEVENT: EVENT_TYPE}


def register_type(body: type[Cell], object_type: ObjectType) -> None:
    """Objects of class *body* are of *object_type*."""
    _types[body] = object_type


def type_of(body: object) -> ObjectType | None:
    """The type of an object; None for what the object manager does not know."""
    return next((_types[cls] for cls in type(body).__mro__ if cls in _types), None)


class ObjectHeader(Cell):
    """OBJECT_HEADER: the counts of one object.

    `pointers` are the references by pointer, with who took each and its tag, oldest first; `kept` are those of the
    system itself. Every handle counts as a reference, too.
    """

    __slots__ = ("body", "deleted_by", "handles", "kept", "pointers")

    def __init__(self, body: Cell) -> None:
        self.creator = body.creator
        # Names with negative ordinals are nobody else's.
        self.ordinal = -1 - body.ordinal
        self.label = body.label
        self.version = self.written = 0
        self.body = body
        self.pointers: list[tuple[DriverActor | None, str]] = []
        self.handles = 0
        self.kept = 0
        self.deleted_by: str | None = None

    @property
    def pointer_count(self) -> int:
        """PointerCount: references by pointer and by handle, without the system's hold on what is alive."""
        return len(self.pointers) + self.handles + self.kept

    def is_alive(self, thread: Thread) -> bool:
        """Whether anybody holds the object."""
        if self.pointer_count:
            return True
        object_type = type_of(self.body)
        return object_type is not None and object_type.is_held is not None and object_type.is_held(self.body, thread)

    def refer(self, thread: Thread, tag: str = DEFAULT_TAG) -> None:
        """Take a reference for the driver that calls, inside the calling step."""
        # Taking references commutes: only a release can bring the count to zero, and that is a write.
        thread.update(self)
        self.pointers.append((current_driver(), tag))


class ObjectManager:
    """The headers of one run."""

    def __init__(self) -> None:
        self._headers: dict[Cell, ObjectHeader] = {}

    def header(self, body: Cell) -> ObjectHeader:
        """The header of *body*."""
        header = self._headers.get(body)
        if header is None:
            header = self._headers[body] = ObjectHeader(body)
        return header

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """The references that *driver* has taken and nobody has dropped."""
        held = sorted(self._headers.values(), key=lambda header: header.name)
        for header in held:
            for owner, tag in header.pointers:
                if owner is driver:
                    yield Leftover("ob.ref-leak", f"a reference of {header.label}, tag '{tag}'")


def header_of(body: Cell) -> ObjectHeader:
    """The header of *body* in the current run."""
    system: System = current_thread().runtime.system
    return system.get(ObjectManager).header(body)


class Reference(Operation[bool]):
    """Raise an object's count; evaluates to whether it was above zero."""

    __slots__ = ("header", "tag")
    kind = "reference"

    def __init__(self, body: Cell, tag: str = DEFAULT_TAG) -> None:
        self.header = header_of(body)
        self.tag = tag

    def perform(self, thread: Thread) -> bool:
        header = self.header
        if not header.is_alive(thread):
            thread.write(header)
            return False
        header.refer(thread, self.tag)
        return True

    def target(self) -> Cell:
        return self.header


class Dereference(Operation[bool | None]):
    """Lower an object's count; evaluates to whether that was the last hold, and to None if there was none."""

    __slots__ = ("header", "tag")
    kind = "dereference"

    def __init__(self, body: Cell, tag: str = DEFAULT_TAG) -> None:
        self.header = header_of(body)
        self.tag = tag

    def perform(self, thread: Thread) -> bool | None:
        header = self.header
        thread.write(header)
        taken = self._taken()
        if taken is None:
            return None
        thread.release_to_waiter(header)
        del header.pointers[taken]
        return close_if_unheld(header, thread)

    def _taken(self) -> int | None:
        """Which of the references this one undoes: the driver's own before others', the newest first."""
        driver = current_driver()
        same_tag = [at for at, (_, tag) in enumerate(self.header.pointers) if tag == self.tag]
        own = [at for at in same_tag if self.header.pointers[at][0] is driver]
        return own[-1] if own else same_tag[-1] if same_tag else None

    def target(self) -> Cell:
        return self.header


def close_if_unheld(header: ObjectHeader, thread: Thread) -> bool:
    """End the object of *header* if nobody holds it any more, inside the calling step; whether that is so."""
    if header.is_alive(thread):
        return False
    thread.acquire_as_waiter(header)
    header.deleted_by = thread.label
    system: System = thread.runtime.system
    system.freed[header.body] = f"which was deleted when {thread.label} dropped the last reference"
    return True


async def delete(body: Cell) -> None:
    """Call the delete procedure of an object that nobody holds any more."""
    object_type = type_of(body)
    if object_type is not None and object_type.delete is not None:
        await object_type.delete(body)


def _dead(body: Cell, change: int) -> None:
    """Report a count that is changed although the object is gone, or was never raised (KE-REF-01, OB-OBJ-04)."""
    header = header_of(body)
    what = "references" if change > 0 else "dereferences"
    gone = f", which {header.deleted_by} has deleted" if header.deleted_by else ", which has no reference to undo"
    report(
        "ob.under-reference",
        f"{current_thread().label} {what} {body.label}{gone}",
        BugCheck(REFERENCE_BY_POINTER),
        verifier=BugCheck(DRIVER_VERIFIER_DETECTED_VIOLATION, (0x3F, 0, 0, change & 0xFFFFFFFFFFFFFFFF)),
    )


@routine("wdm", "VOID ObReferenceObject(_In_ PVOID Object)", max_irql=DISPATCH_LEVEL, unchecked=("Object",))
async def ObReferenceObject(Object: Cell) -> None:
    """Raise the count of *Object*, which the caller knows to be alive (KE-REF-01). IRQL: <= DISPATCH_LEVEL.

    An object that is deleted already, or about to be: finding ``ob.under-reference``, bug check 0x18.
    """
    await ObReferenceObjectWithTag(Object, DEFAULT_TAG)


@routine(
    "wdm",
    "VOID ObReferenceObjectWithTag(_In_ PVOID Object, _In_ ULONG Tag)",
    max_irql=DISPATCH_LEVEL,
    unchecked=("Object",),
)
async def ObReferenceObjectWithTag(Object: Cell, Tag: str) -> None:
    """ObReferenceObject, under a tag that the release has to name as well (KE-REF-04). IRQL: <= DISPATCH_LEVEL."""
    if not await Reference(known_object(Object, "ObReferenceObject"), Tag):
        _dead(Object, 1)


@routine("wdm", "BOOLEAN ObReferenceObjectSafe(_In_ PVOID Object)", max_irql=DISPATCH_LEVEL, unchecked=("Object",))
async def ObReferenceObjectSafe(Object: Cell) -> bool:
    """Raise the count of *Object* unless it is being deleted; whether it was raised (KE-REF-03, OB-OBJ-04).

    IRQL: <= DISPATCH_LEVEL.
    """
    return await Reference(known_object(Object, "ObReferenceObjectSafe"))


@routine(
    "wdm",
    """NTSTATUS ObReferenceObjectByPointer(_In_ PVOID Object, _In_ ACCESS_MASK DesiredAccess,
       _In_opt_ POBJECT_TYPE ObjectType, _In_ KPROCESSOR_MODE AccessMode)""",
    max_irql=DISPATCH_LEVEL,
    unchecked=("Object",),
)
async def ObReferenceObjectByPointer(
    Object: Cell, DesiredAccess: int, ObjectType: ObjectType | None, AccessMode: int
) -> NTSTATUS:
    """Raise the count of *Object* if it is of *ObjectType*: STATUS_OBJECT_TYPE_MISMATCH otherwise.

    None as the type goes with *AccessMode* KernelMode only. IRQL: <= DISPATCH_LEVEL.
    """
    if type_of(known_object(Object, "ObReferenceObjectByPointer")) is not ObjectType and (
        ObjectType is not None or AccessMode != KernelMode
    ):
        return STATUS_OBJECT_TYPE_MISMATCH
    if not await Reference(Object):
        _dead(Object, 1)
    return STATUS_SUCCESS


@routine("wdm", "VOID ObDereferenceObject(_In_ PVOID Object)", max_irql=DISPATCH_LEVEL, unchecked=("Object",))
async def ObDereferenceObject(Object: Cell) -> None:
    """Lower the count of *Object*; the last one deletes it, here and now (KE-REF-02). IRQL: <= DISPATCH_LEVEL.

    One too many: finding ``ob.under-reference``, bug check 0x18 (KE-REF-01).
    """
    await ObDereferenceObjectWithTag(Object, DEFAULT_TAG)


@routine(
    "wdm",
    "VOID ObDereferenceObjectWithTag(_In_ PVOID Object, _In_ ULONG Tag)",
    max_irql=DISPATCH_LEVEL,
    unchecked=("Object",),
)
async def ObDereferenceObjectWithTag(Object: Cell, Tag: str) -> None:
    """ObDereferenceObject of a reference that was taken under *Tag* (KE-REF-04). IRQL: <= DISPATCH_LEVEL."""
    last = await Dereference(known_object(Object, "ObDereferenceObject"), Tag)
    if last is None:
        _dead(Object, -1)
    if last:
        await delete(Object)


@routine(
    "wdm", "VOID ObDereferenceObjectDeferDelete(_In_ PVOID Object)", max_irql=DISPATCH_LEVEL, unchecked=("Object",)
)
async def ObDereferenceObjectDeferDelete(Object: Cell) -> None:
    """Lower the count of *Object*; a system thread deletes it later, at PASSIVE_LEVEL (KE-REF-02).

    For callers that hold a lock which deleting needs. IRQL: <= DISPATCH_LEVEL.
    """
    last = await Dereference(known_object(Object, "ObDereferenceObjectDeferDelete"))
    if last is None:
        _dead(Object, -1)
    object_type = type_of(Object)
    if last and object_type is not None and object_type.delete is not None:
        current_thread().runtime.spawn(f"delete {Object.label}", _delete_later(Object))


async def _delete_later(body: Cell) -> None:
    thread = current_thread()
    assert isinstance(thread, KThread)
    system: System = thread.runtime.system
    thread.process = system.get(Process)
    await delete(body)


def known_object(body: Cell, where: str) -> Cell:
    """Return *body* if it is an object of the object manager; finding ``ke.bad-pointer`` otherwise."""
    if type_of(body) is None:
        what = "NULL" if cast("object", body) is None else f"a {type(body).__name__}"
        report("ke.bad-pointer", f"{where} was given {what}, which is no object of the object manager")
    return body
