"""Small worlds for tests of rules: a machine, drivers made of given callbacks, notes, and all runs of a script.

A script is an ``async def script(lab)``; `run` makes one run of it and `all_runs` every run there is. What happened
is in the notes, which callbacks write with `Lab.note`. Each run has a machine, notes and drivers of its own.

    async def script(lab: Lab) -> None:
        await lab.recorder("A", "100000", IRP_MJ_CREATE)
        await lab.open()

    assert run(script).order == ["A.pre", "A.post"]
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from kemu.explore import DPOR, BoundedDFS, RandomWalk
from kemu.fltmgr.objects import FltVolume, Instance
from kemu.io.constants import IRP_MJ_READ
from kemu.io.manager import IoManager
from kemu.io.request import IRP_OPERATION, FileObject, Parameters, Request
from kemu.io.volume import Volume
from kemu.nt.event import KEVENT
from kemu.nt.kthread import DISPATCH_LEVEL, KThread, current_kthread
from kemu.nt.system import Options
from kemu.runtime import ControlledRuntime, First, Observer, Oracle, Outcome
from kemu.scenario.world import File, LoadedDriver, Pending, World
from kemu.verifier import Finding
from kemu.verifier.ending import judge
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_DEFERRED_IO_WORKITEM,
    FLT_OPERATION_REGISTRATION,
    FLT_POSTOP_FINISHED_PROCESSING,
    FLT_PREOP_SUCCESS_WITH_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    PFLT_FILTER,
    FltAllocateDeferredIoWorkItem,
    FltCompletePendedPostOperation,
    FltCompletePendedPreOperation,
    FltFreeDeferredIoWorkItem,
    FltQueueDeferredIoWorkItem,
    FltRegisterFilter,
    FltStartFiltering,
    FltUnregisterFilter,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import (
    DRIVER_OBJECT,
    NT_SUCCESS,
    DelayedWorkQueue,
    Driver,
    KeInitializeEvent,
    NotificationEvent,
)

Pre = Callable[[FLT_CALLBACK_DATA, FLT_RELATED_OBJECTS], Awaitable[Any]]
Post = Callable[[FLT_CALLBACK_DATA, FLT_RELATED_OBJECTS, Any, int], Awaitable[Any]]
Callbacks = Mapping[int, tuple[Pre | None, Post | None]]
Script = Callable[["Lab"], Coroutine[Any, Any, Any]]

UPPER = "300000"
MIDDLE = "200000"
LOWER = "100000"


@dataclass(frozen=True)
class Note:
    """Something that happened, on which thread and at which IRQL."""

    what: str
    thread: str
    irql: int
    value: Any = None


@dataclass(frozen=True)
class Run:
    """One run of a script."""

    outcome: Outcome
    notes: tuple[Note, ...]
    warnings: tuple[str, ...]

    @property
    def order(self) -> list[str]:
        """What was noted, in order."""
        return [note.what for note in self.notes]

    @property
    def code(self) -> str | None:
        """The finding that the run ended with."""
        failure: Finding | None = self.outcome.failure
        return None if failure is None else failure.code

    @property
    def finding(self) -> Finding:
        """The finding that the run ended with, which there is."""
        assert isinstance(self.outcome.failure, Finding)
        return self.outcome.failure

    @property
    def result(self) -> Any:
        """What the script returned."""
        return self.outcome.result

    @property
    def what_came_of_it(self) -> object:
        """What equivalent runs share: how they end, and what each thread has noted."""
        threads: dict[str, list[tuple[str, int]]] = {}
        for note in self.notes:
            threads.setdefault(note.thread, []).append((note.what, note.irql))
        seen = tuple(sorted((thread, tuple(notes)) for thread, notes in threads.items()))
        return self.code, repr(self.outcome.result), self.warnings, seen

    def note(self, what: str) -> Note:
        """The only note of *what*."""
        (found,) = (note for note in self.notes if note.what == what)
        return found

    def index(self, what: str) -> int:
        """Where the first note of *what* stands."""
        return self.order.index(what)

    def before(self, first: str, second: str) -> bool:
        """Whether the first note of *first* comes before that of *second*."""
        return self.index(first) < self.index(second)


class Minifilter(Driver):
    """A driver that registers given callbacks and starts to filter."""

    def __init__(
        self,
        name: str,
        callbacks: Callbacks,
        *,
        flags: Mapping[int, int] | None = None,
        **registration: Any,
    ) -> None:
        self.name = name
        self.Filter: PFLT_FILTER | None = None
        entries = [
            FLT_OPERATION_REGISTRATION(major, (flags or {}).get(major, 0), pre, post)
            for major, (pre, post) in callbacks.items()
        ]
        registration.setdefault("OperationRegistration", [*entries, FLT_OPERATION_REGISTRATION()])
        registration.setdefault("FilterUnloadCallback", self.Unload)
        registration.setdefault("InstanceQueryTeardownCallback", self.InstanceQueryTeardown)
        self.registration = FLT_REGISTRATION(**registration)

    async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
        status, self.Filter = await FltRegisterFilter(DriverObject, self.registration)
        if not NT_SUCCESS(status) or self.Filter is None:
            return status
        status = await FltStartFiltering(self.Filter)
        if not NT_SUCCESS(status):
            await FltUnregisterFilter(self.Filter)
        return status

    async def Unload(self, Flags: int) -> int:
        assert self.Filter is not None
        await FltUnregisterFilter(self.Filter)
        return STATUS_SUCCESS

    async def InstanceQueryTeardown(self, FltObjects: FLT_RELATED_OBJECTS, Flags: int) -> int:
        return STATUS_SUCCESS


class Lab(World):
    """A world with notes and short ways to common things."""

    def __init__(self, runtime: ControlledRuntime, options: Options, *, races: bool = False) -> None:
        super().__init__(runtime, options, races=races)
        self.notes: list[Note] = []
        self.app = self.process("app")
        self.file(r"\a", b"0123456789")

    # Notes.

    def note(self, what: str, value: Any = None) -> None:
        """Note that *what* happened, here and now."""
        thread = current_kthread()
        self.notes.append(Note(what, thread.label, thread.irql, value))

    # Drivers.

    async def filter(
        self,
        name: str,
        altitude: str,
        callbacks: Callbacks,
        *,
        flags: Mapping[int, int] | None = None,
        **registration: Any,
    ) -> LoadedDriver:
        """Load a minifilter with *callbacks*, ``{IRP_MJ_READ: (pre, post)}``; *flags* are its SKIP flags."""
        return await self.load(Minifilter(name, callbacks, flags=flags, **registration), altitude)

    async def recorder(self, name: str, altitude: str, *majors: int) -> LoadedDriver:
        """Load a filter that lets everything pass and notes ``name.pre`` and ``name.post``."""
        pair = (self.pre(name), self.post(name))
        return await self.filter(name, altitude, dict.fromkeys(majors or (IRP_MJ_READ,), pair))

    def pre(self, name: str, status: Any = FLT_PREOP_SUCCESS_WITH_CALLBACK, context: Any = None) -> Pre:
        """A preoperation callback that notes ``name.pre`` and returns *status* (and *context*)."""

        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> Any:
            self.note(f"{name}.pre")
            return status if context is None else (status, context)

        return pre

    def post(self, name: str, status: Any = FLT_POSTOP_FINISHED_PROCESSING) -> Post:
        """A postoperation callback that notes ``name.post`` with its completion context and returns *status*."""

        async def post(
            Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS, CompletionContext: Any, Flags: int
        ) -> Any:
            self.note(f"{name}.post", CompletionContext)
            return status

        return post

    # The machine.

    def completes(self, how: str) -> None:
        """From now on the file system completes IRPs ``inline``, ``later``, or as ``explore`` decides."""
        self.volume.filesystem._completion = how

    def instance(self, driver: LoadedDriver) -> Instance:
        """The one instance of *driver*."""
        (instance,) = driver.filter.instances
        return instance

    def flt_volume(self, volume: Volume) -> FltVolume:
        """The filter manager's view of *volume*, which is there."""
        found = self.manager.volume_of(volume)
        assert found is not None
        return found

    # Files and requests.

    async def open(self, path: str = r"\a", *, overlapped: bool = False) -> File:
        """Open a file that must open."""
        return await self.app.open(path, overlapped=overlapped)

    async def quiet_open(self, path: str = r"\a", *, overlapped: bool = False) -> File:
        """As `open`, without a decision, and completed inline: for tests that are about something later."""
        before = self.volume.filesystem._completion
        self.completes("inline")
        self._decide(False)
        file = await self.open(path, overlapped=overlapped)
        self._decide(True)
        self.completes(before)
        return file

    def request(
        self, file: File | FileObject, major: int, *, kind: int = IRP_OPERATION, flags: int = 0, **parameters: Any
    ) -> Request:
        """A request of any kind, to be sent with `send`."""
        file_object = file.file if isinstance(file, File) else file
        return Request(self.volume, file_object, major, Parameters(**parameters), kind=kind, flags=flags)

    async def send(self, request: Request) -> Request:
        """Send *request* down, wait for it, and return it."""
        await self.system.get(IoManager).call(request)
        return request

    async def begin(self, request: Request) -> Pending:
        """Send *request* down without waiting for it."""
        manager = self.system.get(IoManager)
        await manager.start(request)
        return Pending(manager, request)

    # Pending.

    def event(self, label: str) -> KEVENT:
        """An initialised notification event, not signalled."""
        event = KEVENT(label)
        KeInitializeEvent(event, NotificationEvent, False)
        return event

    async def at_dispatch(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run *coroutine* at DISPATCH_LEVEL on the calling thread."""
        thread = current_kthread()
        before, thread.irql = thread.irql, DISPATCH_LEVEL
        result = await coroutine
        thread.irql = before
        return result


async def queue(Data: FLT_CALLBACK_DATA, work: Callable[[FLT_CALLBACK_DATA], Awaitable[None]]) -> int:
    """Hand *Data* to a deferred work item that frees itself and runs ``work(Data)``; the queueing's status."""

    async def routine(WorkItem: FLT_DEFERRED_IO_WORKITEM, Data: FLT_CALLBACK_DATA, Context: Any) -> None:
        await FltFreeDeferredIoWorkItem(WorkItem)
        await work(Data)

    item = await FltAllocateDeferredIoWorkItem()
    assert item is not None
    status = await FltQueueDeferredIoWorkItem(item, Data, routine, DelayedWorkQueue, None)
    if not NT_SUCCESS(status):
        await FltFreeDeferredIoWorkItem(item)
    return status


def resumes(status: int = FLT_PREOP_SUCCESS_WITH_CALLBACK, context: Any = None) -> Callable[..., Awaitable[None]]:
    """Work for `queue`: completes the pended preoperation with *status*."""

    async def work(Data: FLT_CALLBACK_DATA) -> None:
        await FltCompletePendedPreOperation(Data, status, context)

    return work


async def resumes_post(Data: FLT_CALLBACK_DATA) -> None:
    """Work for `queue`: completes the pended postoperation."""
    await FltCompletePendedPostOperation(Data)


def run(
    script: Script,
    oracle: Oracle | None = None,
    *,
    observer: Observer | None = None,
    max_steps: int = 5_000,
    races: bool = False,
    **options: Any,
) -> Run:
    """Make one run of *script* under *oracle* (the plain run without one); *options* are those of `Options`.

    With *races*, data races are findings. The file system completes inline unless ``completion`` says otherwise. What
    the script raises is raised.
    """
    options.setdefault("completion", "inline")
    runtime = ControlledRuntime(
        oracle if oracle is not None else First(), thread_class=KThread, max_steps=max_steps, observer=observer
    )
    labs: list[Lab] = []

    async def main() -> Any:
        lab = Lab(runtime, Options(**options), races=races)
        labs.append(lab)
        return await script(lab)

    def conclude(outcome: Outcome) -> Finding | None:
        return judge(labs[0].system, labs[0].verifier, outcome) if labs else None

    runtime.conclude = conclude
    outcome = runtime.run("script", main())
    if outcome.crash is not None:
        raise outcome.crash
    lab = labs[0]
    return Run(outcome, tuple(lab.notes), tuple(finding.code for finding in lab.verifier.advisories))


def all_runs(
    script: Script, *, bound: int | None = None, limit: int = 20_000, unseen: bool = False, **options: Any
) -> list[Run]:
    """Make every run of *script* (every one of a cost within *bound*), of which there are at most *limit*.

    Without a bound, and if none of them fails, the reduced search has to come to the same with one run for each class;
    but not if threads of the *script* share state of their own, which it does not see, and which is thus *unseen*.
    """
    search = BoundedDFS(bound)
    runs: list[Run] = []
    while search.begin():
        one = run(script, search, **options)
        search.end(one.outcome)
        runs.append(one)
        assert len(runs) <= limit, f"there are more than {limit} runs"
    assert search.exhausted or bound is not None
    if bound is None and not unseen and not any(one.code for one in runs):
        check_reduction(script, runs, **options)
    return runs


def check_reduction(script: Script, everything: list[Run], **options: Any) -> int:
    """Compare the reduced search with *everything* that *script* can do; the number of classes."""
    search = DPOR()
    reduced: list[Run] = []
    while search.begin():
        one = run(script, search, observer=search, **options)
        search.end(one.outcome)
        if one.outcome.end != "abandoned":
            reduced.append(one)
    classes = {one.outcome.fingerprint for one in reduced}
    assert not search.doubt
    assert {one.what_came_of_it for one in reduced} == {one.what_came_of_it for one in everything}
    assert classes == {one.outcome.fingerprint for one in everything}
    assert len(reduced) == len(classes)
    return len(classes)


def sample(script: Script, runs: int = 300, *, seed: int = 1, **options: Any) -> list[Run]:
    """Make so many random runs of *script*."""
    walk = RandomWalk(seed)
    made: list[Run] = []
    for _ in range(runs):
        walk.begin()
        made.append(run(script, walk, **options))
    return made


def codes(runs: list[Run]) -> set[str | None]:
    """The findings of *runs*; None is among them if one of them is clean."""
    return {one.code for one in runs}


def orders(runs: list[Run]) -> set[tuple[str, ...]]:
    """The different orders of notes among *runs*."""
    return {tuple(one.order) for one in runs}
