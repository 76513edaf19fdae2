"""Callback objects: a driver notifies others that have registered with an object (KE-EXCB)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from kemu.nt.driver import DriverActor, current_driver, in_driver, routine_name
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, current_kthread
from kemu.nt.lockorder import Callbacks
from kemu.nt.object import ObjectType, ObjectTypeVariable, header_of, register_type
from kemu.nt.psapi import OBJECT_ATTRIBUTES
from kemu.nt.routine import routine
from kemu.nt.status import NTSTATUS, STATUS_OBJECT_NAME_NOT_FOUND, STATUS_SUCCESS, STATUS_UNSUCCESSFUL
from kemu.nt.system import Leftover, current_system, report, resources_fail
from kemu.runtime import BlockingOperation, Cell, Operation, Point, Thread, Waitable, current_thread

CallbackFunction = Callable[[Any, Any, Any], Awaitable[None]]


class Registration(Waitable):
    """One registration with a callback object. Unregistering waits for the calls of it that are running."""

    __slots__ = ("calls", "context", "driver", "function", "object", "removed", "running")

    guards = ("running",)

    def __init__(self, object_: CALLBACK_OBJECT, function: CallbackFunction, context: Any) -> None:
        super().__init__(current_thread(), f"{routine_name(function)} at {object_.label}")
        self.object = object_
        self.function = function
        self.context = context
        self.driver: DriverActor | None = current_driver()
        self.running: list[Thread] = []
        self.removed = False
        self.calls = Callbacks(self.label)
        """Its calls as a part of the lock order."""

    def holders(self) -> tuple[Thread, ...]:
        return tuple(self.running)


class CALLBACK_OBJECT(Cell):
    """A callback object: the routines that are registered with it, in order."""

    __slots__ = ("multiple", "registrations")

    def __init__(self, name: str, multiple: bool) -> None:
        super().__init__(current_thread(), name)
        self.multiple = multiple
        self.registrations: list[Registration] = []


CALLBACK_TYPE = ObjectType("Callback")
ExCallbackObjectType = ObjectTypeVariable("ExCallbackObjectType", CALLBACK_TYPE)
register_type(CALLBACK_OBJECT, CALLBACK_TYPE)


class CallbackObjects(Cell):
    """The callback objects of the system, by name."""

    __slots__ = ("by_name",)

    def __init__(self) -> None:
        super().__init__(current_thread(), "callback objects")
        self.by_name: dict[str, CALLBACK_OBJECT] = {}

    def left_by(self, driver: DriverActor) -> list[Leftover]:
        """The registrations of *driver* that it has not undone."""
        objects = self.by_name.values()
        return [
            Leftover("ke.callback-left", f"its registration of {one.label}")
            for object_ in objects
            for one in object_.registrations
            if one.driver is driver
        ]


class OpenCallback(Operation[tuple[NTSTATUS, CALLBACK_OBJECT | None]]):
    """Open a callback object, or make it."""

    __slots__ = ("attributes", "create", "multiple", "objects")
    kind = "open a callback object in"

    def __init__(self, attributes: OBJECT_ATTRIBUTES, create: bool, multiple: bool) -> None:
        self.objects = current_system().get(CallbackObjects)
        self.attributes = attributes
        self.create = create
        self.multiple = multiple

    def perform(self, thread: Thread) -> tuple[NTSTATUS, CALLBACK_OBJECT | None]:
        name = self.attributes.ObjectName
        if not name:
            return STATUS_UNSUCCESSFUL, None
        by_name = self.objects.by_name
        found = by_name.get(name.upper())
        if found is None:
            if not self.create:
                thread.read(self.objects)
                return STATUS_OBJECT_NAME_NOT_FOUND, None
            thread.write(self.objects)
            found = by_name[name.upper()] = CALLBACK_OBJECT(name, self.multiple)
        else:
            thread.read(self.objects)
        header_of(found).refer(thread)
        return STATUS_SUCCESS, found

    def target(self) -> Cell:
        return self.objects


class Register(Operation[bool]):
    """Add a registration to its object, if that takes one more."""

    __slots__ = ("registration",)
    kind = "register with"

    def __init__(self, registration: Registration) -> None:
        self.registration = registration

    def perform(self, thread: Thread) -> bool:
        object_ = self.registration.object
        if object_.registrations and not object_.multiple:
            thread.read(object_)
            return False
        thread.write(object_)
        thread.release(object_)
        object_.registrations.append(self.registration)
        return True

    def target(self) -> Cell:
        return self.registration.object


class BeginCall(Operation[Registration | None]):
    """Begin the next call of a notification; evaluates to the registration, or to None after the last."""

    __slots__ = ("after", "object")
    kind = "notify"

    def __init__(self, object_: CALLBACK_OBJECT, after: list[Registration]) -> None:
        self.object = object_
        self.after = after

    def perform(self, thread: Thread) -> Registration | None:
        thread.read(self.object)
        thread.acquire(self.object)
        for one in self.object.registrations:
            if one not in self.after:
                thread.write(one)
                one.running.append(thread)
                return one
        return None

    def target(self) -> Cell:
        return self.object


class EndCall(Operation[None]):
    """A call has returned."""

    __slots__ = ("registration",)
    kind = "return from"

    def __init__(self, registration: Registration) -> None:
        self.registration = registration

    def perform(self, thread: Thread) -> None:
        registration = self.registration
        thread.write(registration)
        thread.release_to_waiter(registration)
        registration.running.remove(thread)
        registration.changed()

    def target(self) -> Cell:
        return self.registration


class Remove(Operation[bool]):
    """Take a registration out of its object; whether it was in it."""

    __slots__ = ("registration",)
    kind = "unregister"

    def __init__(self, registration: Registration) -> None:
        self.registration = registration

    def perform(self, thread: Thread) -> bool:
        registration = self.registration
        thread.write(registration.object)
        if registration.removed:
            return False
        registration.removed = True
        registration.object.registrations.remove(registration)
        return True

    def target(self) -> Cell:
        return self.registration.object


class WaitForCalls(BlockingOperation[None]):
    """Wait until no call of a registration is running."""

    __slots__ = ("registration",)
    kind = "see the last call of"

    def __init__(self, registration: Registration) -> None:
        super().__init__(registration)
        self.registration = registration

    def available(self, thread: Thread) -> bool:
        return not self.registration.running

    def take(self, thread: Thread) -> None:
        thread.write(self.registration)
        thread.acquire_as_waiter(self.registration)


@routine(
    "wdm",
    """NTSTATUS ExCreateCallback(_Outptr_ PCALLBACK_OBJECT *CallbackObject, _In_ POBJECT_ATTRIBUTES ObjectAttributes,
       _In_ BOOLEAN Create, _In_ BOOLEAN AllowMultipleCallbacks)""",
    max_irql=APC_LEVEL,
)
async def ExCreateCallback(
    ObjectAttributes: OBJECT_ATTRIBUTES, Create: bool, AllowMultipleCallbacks: bool
) -> tuple[NTSTATUS, CALLBACK_OBJECT | None]:
    """Open the callback object of that name, or make it if *Create*: status and object, referenced.

    STATUS_UNSUCCESSFUL without a name, STATUS_OBJECT_NAME_NOT_FOUND for an unknown one. IRQL: <= APC_LEVEL.
    """
    return await OpenCallback(ObjectAttributes, Create, AllowMultipleCallbacks)


@routine(
    "wdm",
    """PVOID ExRegisterCallback(_Inout_ PCALLBACK_OBJECT CallbackObject, _In_ PCALLBACK_FUNCTION CallbackFunction,
       _In_opt_ PVOID CallbackContext)""",
    max_irql=APC_LEVEL,
)
async def ExRegisterCallback(
    CallbackObject: CALLBACK_OBJECT, CallbackFunction: CallbackFunction, CallbackContext: Any
) -> Registration | None:
    """Have *CallbackFunction* called with *CallbackContext* at each notification; the registration, or None.

    None where the object takes one routine and has it, and where low resources are explored (KE-EXCB-01).
    IRQL: <= APC_LEVEL.
    """
    if resources_fail("ExRegisterCallback"):
        return None
    registration = Registration(CallbackObject, CallbackFunction, CallbackContext)
    if not await Register(registration):
        return None
    # The routine may be called before the caller has stored what this returns (KE-RACE-18).
    await Point("return from ExRegisterCallback", registration)
    return registration


@routine(
    "wdm",
    "VOID ExNotifyCallback(_In_ PVOID CallbackObject, _In_opt_ PVOID Argument1, _In_opt_ PVOID Argument2)",
    max_irql=DISPATCH_LEVEL,
    under_spin_lock=False,
)
async def ExNotifyCallback(CallbackObject: CALLBACK_OBJECT, Argument1: Any, Argument2: Any) -> None:
    """Call the registered routines, in the order of registration, on this thread and at its IRQL (KE-EXCB-01).

    IRQL: <= DISPATCH_LEVEL.
    """
    called: list[Registration] = []
    while (registration := await BeginCall(CallbackObject, called)) is not None:
        called.append(registration)
        registration.calls.enter(current_kthread())
        arguments = registration.context, Argument1, Argument2
        if registration.driver is None:
            await registration.function(*arguments)
        else:
            name = routine_name(registration.function)
            await in_driver(registration.driver, name, registration.function, *arguments)
        registration.calls.leave(current_kthread())
        await EndCall(registration)


@routine(
    "wdm",
    "VOID ExUnregisterCallback(_Inout_ PVOID CallbackRegistration)",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
)
async def ExUnregisterCallback(CallbackRegistration: Registration) -> None:
    """Undo a registration, and wait until its routine is not running any more (KE-EXCB-02). IRQL: <= APC_LEVEL.

    From inside the routine that waits for itself: finding ``ke.self-deadlock``. Under a lock that the routine takes:
    ``ke.lock-order``, or ``ke.deadlock`` where it happens (KE-DL-01). Twice: ``ke.callback-twice``.
    """
    if not await Remove(CallbackRegistration):
        report("ke.callback-twice", f"{CallbackRegistration.label} is unregistered again")
    if current_thread() in CallbackRegistration.running:
        report(
            "ke.self-deadlock",
            f"{current_thread().label} unregisters {CallbackRegistration.label} from inside of it",
        )
    CallbackRegistration.calls.wait(current_kthread())
    await WaitForCalls(CallbackRegistration)
