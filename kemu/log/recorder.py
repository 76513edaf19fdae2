"""The recorder: takes the events of one run and keeps each as one flat tuple of atoms.

A tuple that holds no container is let go by the garbage collector after its first look, which is why events
are not dictionaries here: they become those when they are written.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, cast, runtime_checkable

from kemu.errors import InternalError
from kemu.log.atoms import Atom, atom, words
from kemu.log.causes import Causes, keys
from kemu.log.manifest import COMMON, MANIFEST, OPEN_FIELD, fields_of
from kemu.nt.status import STATUS_TIMEOUT
from kemu.runtime import Actor, BlockingOperation, Cell, LogSink, Runtime, Thread

HEAD: Final = COMMON[1:]
"""What a tuple begins with; ``seq`` is its place in the list."""

CLOCK: Final = "clock"
"""The name of the party that lets time pass."""

SEPARATOR: Final = "\n"
"""Between the names of `sched.decide`'s enabled threads while they are one atom."""


@runtime_checkable
class Described(Protocol):
    """Something that an event is about and that says so: an operation, or an instance's part in one."""

    def log_fields(self) -> dict[str, object]:
        """Fields of the event. ``irp`` is the operation itself, which the recorder replaces by a number."""
        ...


class Recorder:
    """Records one run: the run's log, and an observer that adds what the schedule did.

    Give `attach` to the run as the factory of its log, and the recorder as its observer; without the latter
    there are no ``sched.*`` and ``choice`` events. Live runs have no observer.
    """

    def __init__(self, runtime: Runtime | None = None) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.names: dict[object, str] = {}
        """The name of every thread, actor and object that was mentioned, in order of first appearance."""
        self.objects: dict[str, str] = {}
        """The name of every object that an event is about, and its class if that is known."""
        self.step = 0
        self.actors_of_steps: list[str] = []
        """The actor in whose code the thread was, before each step."""
        self._runtime = runtime
        self._labels: dict[tuple[str, str], int] = {}
        self._irps: dict[object, int] = {}
        self._causes = Causes()
        self._threads = _Threads()
        self._stepped: Thread | None = None
        self._running: Thread | None = None
        self._step_began = 0
        self._decided: int | None = None
        self._blocked: dict[Thread, BlockingOperation[Any]] = {}

    def attach(self, runtime: Runtime) -> LogSink:
        """Become the log of *runtime*."""
        self._runtime = runtime
        return self

    @property
    def runtime(self) -> Runtime:
        """The run that is recorded."""
        if self._runtime is None:
            raise InternalError("a recorder observes a run whose log it is not")
        return self._runtime

    # The log.

    def __call__(self, event: str, /, *, cause: int | None = None, **values: Any) -> int:
        thread = self.runtime.running
        irp: object = values.pop("irp", None)
        for key, value in list(values.items()):
            if isinstance(value, Described):
                del values[key]
                described = value.log_fields()
                irp = described.pop("irp", irp)
                values = described | values
        number = self._irp(irp) if irp is not None else None
        seq = self._add(event, thread, cause, number, values)
        if event == "actor.spawn":
            self._threads.spawned(self.runtime.threads[-1], seq)
        return seq

    def _add(
        self,
        event: str,
        thread: Thread | None,
        cause: int | None,
        irp: int | None,
        values: dict[str, Any],
        *,
        party: str | None = None,
    ) -> int:
        seq = len(self.events)
        is_user = event == "user.log"
        if event == "actor.spawn":
            # Labels need not be unique, names are: the thread itself is asked.
            values["thread_name"] = self.runtime.threads[-1]
        elif event == "actor.exit" and thread is not None:
            values["thread_name"] = thread
        if thread is not None and irp is None and is_user:
            irp = self._threads.operation(thread)
        if "obj" in values:
            thing = values["obj"]
            values["obj"] = name = self._name(thing)
            self.objects.setdefault(name, "" if isinstance(thing, str) else _kind_of(thing))
        instance = values.get("inst", values.get("flt"))
        about = keys(irp, words(instance) if instance is not None else None, values.get("obj"))
        if cause is None and thread is not None and not event.startswith("sched."):
            # The latest of what let the thread go on and what made the event possible is the direct cause.
            found = [self._threads.enabled_by(thread)]
            if values.get("status") != STATUS_TIMEOUT:
                found.append(self._causes.find(event, about))
            cause = max((one for one in found if one is not None), default=None)
        elif thread is not None and not event.startswith("sched."):
            self._threads.enabled_by(thread)
        self._causes.note(event, about, seq)
        if thread is not None:
            self._threads.note(thread, event, irp)
        actor = thread.actor if thread is not None else None
        payload: list[Atom] = [self._value(values.pop(field, None)) for field in fields_of(event)]
        extras = cast("dict[str, object]", values.pop(OPEN_FIELD, {})) if is_user else values
        for key, value in extras.items():
            payload += (key, self._value(value))
        self.events.append(
            (
                self.step,
                self.runtime.clock.now,
                self._name(thread) if thread is not None else party,
                self._name(actor) if actor is not None else None,
                getattr(thread, "irql", None),
                event,
                cause,
                irp,
                *payload,
            )
        )
        return seq

    def _value(self, value: object) -> Atom:
        return self._name(value) if isinstance(value, Actor | Cell) else atom(value)

    def _name(self, thing: object) -> str:
        """The name of *thing*; a second thing of the same label gets a number."""
        known = self.names.get(thing)
        if known is not None:
            return known
        label = thing.label if isinstance(thing, Actor | Cell) else words(thing)
        if not isinstance(thing, Actor | Cell):
            # A bare label stands for everything that is called so.
            self.names[label] = label
            return label
        # A worker's thread and the worker itself may share a label: they stand in different columns.
        family = "thread" if isinstance(thing, Thread) else "actor" if isinstance(thing, Actor) else "object"
        count = self._labels.get((family, label), 0) + 1
        self._labels[family, label] = count
        name = label if count == 1 else f"{label}({count})"
        self.names[thing] = name
        return name

    def _irp(self, request: object) -> int:
        return self._irps.setdefault(request, len(self._irps) + 1)

    # The observer.

    def before_step(self, thread: Thread | None, pick: int, alternatives: int) -> None:
        runtime = self.runtime
        self.step = len(self.actors_of_steps)
        actor = thread.actor if thread is not None else None
        self.actors_of_steps.append(actor.label if actor is not None else "")
        self._decided = None
        # The clock's thread is not asked for: it would come to be, and be in the run's fingerprint.
        switched = self.step == 0 or thread is not self._stepped
        if alternatives > 1 or switched:
            ready = cast("list[Thread]", getattr(runtime, "ready", []))
            if thread is not None:
                index = (ready.index(thread) - pick) % len(ready)
            else:
                index = cast("int", getattr(runtime, "index", 0)) if ready else 0
            ranked = ready[index:] + ready[:index]
            enabled = [self._name(one) for one in ranked]
            if alternatives > len(ready):
                enabled.append(CLOCK)
            if thread is None:
                why = CLOCK
            elif alternatives == 1:
                why = "forced"
            elif thread is self._running:
                why = "continue"
            else:
                why = "preempt" if self._running in ready else "switch"
            values = {"enabled": SEPARATOR.join(enabled), "pick": pick, "why": why}
            self._decided = self._add(
                "sched.decide", thread, None, None, values, party=CLOCK if thread is None else None
            )
        self._stepped = thread
        if thread is not None:
            self._running = thread
        self._step_began = len(self.events)

    def chose(self, value: int, alternatives: int, label: str) -> None:
        values = {"what": label, "n": alternatives, "value": value}
        self._add("choice", self.runtime.running, None, None, values)

    def after_step(self, thread: Thread | None) -> None:
        for waiter, op in list(self._blocked.items()):
            if not waiter.parked:
                del self._blocked[waiter]
                cause = self._waker(op)
                self._threads.woken(waiter, self._add("sched.wake", waiter, cause, None, _waits(op)))
        party = thread if thread is not None else self.runtime.clock.ticker
        if party is not None and party.footprint is not None:
            party.footprint.clear()
        if thread is None:
            return
        op = thread.op
        if thread.alive and thread.parked and isinstance(op, BlockingOperation):
            blocking: BlockingOperation[Any] = op
            holders = " and ".join(self._name(holder) for holder in blocking.holders())
            values = _waits(blocking) | {"holder": holders or None}
            self._add("sched.block", thread, None, None, values)
            self._blocked[thread] = blocking

    def _waker(self, op: BlockingOperation[Any]) -> int | None:
        """The event of the current step that let a thread go on which waits in *op*."""
        at = HEAD.index("ev")
        names = {self.names.get(source, source.label) for source in op.sources}
        last: int | None = None
        for seq in range(self._step_began, len(self.events)):
            event = self.events[seq]
            if event[at].startswith("sched."):
                continue
            last = seq
            if names.intersection(value for value in event[len(HEAD) :] if isinstance(value, str)):
                return seq
        return last if last is not None else self._decided

    # What was recorded.

    def rows(self) -> list[dict[str, Any]]:
        """The events as dictionaries, with the fields that apply, in their fixed order."""
        return [_row(seq, event) for seq, event in enumerate(self.events)]

    def named(self, kind: type[Any]) -> list[dict[str, Any]]:
        """The things of class *kind* that were mentioned, numbered in order of first appearance."""
        things = [(thing, name) for thing, name in self.names.items() if isinstance(thing, kind)]
        return [{"id": number, "name": name, "kind": _kind_of(thing)} for number, (thing, name) in enumerate(things, 1)]


class _Threads:
    """What the recorder remembers of each thread."""

    def __init__(self) -> None:
        self._enabled: dict[Thread, int] = {}
        self._inside: dict[Thread, list[int]] = {}
        self._at: dict[Thread, int] = {}

    def spawned(self, thread: Thread, seq: int) -> None:
        """*seq* created *thread*: the cause of its first event."""
        self._enabled[thread] = seq

    woken = spawned

    def enabled_by(self, thread: Thread) -> int | None:
        """What let *thread* go on, for its first event since."""
        return self._enabled.pop(thread, None)

    def operation(self, thread: Thread) -> int | None:
        """The operation that *thread* works on: of its innermost callback, or the last one it touched."""
        inside = self._inside.get(thread)
        return inside[-1] if inside else self._at.get(thread)

    def note(self, thread: Thread, event: str, irp: int | None) -> None:
        """*thread* had an *event* of that operation."""
        if event == "work.run":
            self._at.pop(thread, None)
        if irp is None:
            return
        kind = MANIFEST.get(event)
        phase = kind.phase if kind is not None else "i"
        if phase == "B":
            self._inside.setdefault(thread, []).append(irp)
        elif phase == "E" and self._inside.get(thread):
            self._inside[thread].pop()
        if event == "irp.complete":
            self._at.pop(thread, None)
        else:
            self._at[thread] = irp


def _waits(op: BlockingOperation[Any]) -> dict[str, Any]:
    return {"waits_for": op.describe()}


def _kind_of(thing: object) -> str:
    return thing.kind if isinstance(thing, Actor) else type(thing).__name__


def _row(seq: int, event: tuple[Any, ...]) -> dict[str, Any]:
    row: dict[str, Any] = {"seq": seq}
    row.update((key, value) for key, value in zip(HEAD, event, strict=False) if value is not None)
    name = cast("str", row["ev"])
    names = fields_of(name)
    end = len(HEAD) + len(names)
    row.update((key, value) for key, value in zip(names, event[len(HEAD) : end], strict=True) if value is not None)
    if name == "sched.decide":
        row["enabled"] = row["enabled"].split(SEPARATOR)
    extras = {event[at]: event[at + 1] for at in range(end, len(event), 2)}
    if extras and name == "user.log":
        row[OPEN_FIELD] = extras
    else:
        row.update((key, value) for key, value in extras.items() if key not in row)
    return row
