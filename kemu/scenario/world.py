"""What a scenario's script talks to: drivers, user processes and threads, invariants, the emulated machine.

A script is an ``async def`` that takes a `World` (and the variant under test). It runs in the run's first thread;
`World.together` and `World.start` create more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

from kemu.errors import ScenarioError
from kemu.fltmgr.altitude import altitude_key
from kemu.fltmgr.datascan import DataScans
from kemu.fltmgr.initiated import GeneratedIo
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.messaging import watch_thread_ends as watch_getters
from kemu.fltmgr.name_cache import NameCache
from kemu.fltmgr.name_information import FileNames
from kemu.fltmgr.objects import Filter
from kemu.fltmgr.oplock import Oplocks
from kemu.fltmgr.ports import Ports
from kemu.fltmgr.redirect import Redirections
from kemu.fltmgr.service import InstanceDefinition, define, outside_group
from kemu.fltmgr.service import Service as ServiceKey
from kemu.fltmgr.teardown import detach
from kemu.fltmgr.unload import unload
from kemu.fltmgr.volumes import KINDS
from kemu.fltmgr.workitem import WorkItems
from kemu.io.constants import (
    FILE_OPEN,
    FILE_OPEN_IF,
    IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_QUERY_INFORMATION,
    IRP_MJ_READ,
    IRP_MJ_WRITE,
)
from kemu.io.control import ControlParameters, open_device
from kemu.io.device import DEVICE_OBJECT, Devices
from kemu.io.disk import Disk
from kemu.io.file_constants import FSCTL_DISMOUNT_VOLUME, IRP_MN_USER_FS_REQUEST, FileStandardInformation
from kemu.io.filesystem.names import dos_path, is_volume
from kemu.io.irp_made import Irps
from kemu.io.manager import IoManager
from kemu.io.parameters import Parameters
from kemu.io.request import IRP_OPERATION, FileObject, Request, WaitDone
from kemu.io.shutdown import shut_down
from kemu.io.structures import FILE_STANDARD_INFORMATION
from kemu.io.thread_exit import watch_thread_ends
from kemu.io.unload import discard, unload_driver
from kemu.io.volume import Volume
from kemu.io.volume_stack import VolumeStack
from kemu.nt.apc import LastApcs, takes_apcs
from kemu.nt.callback import CallbackObjects
from kemu.nt.dispatcher import WaitForObject
from kemu.nt.dpc import Dpcs, TargetQueues
from kemu.nt.driver import DRIVER_OBJECT, Driver, load_driver
from kemu.nt.event import KEVENT
from kemu.nt.kthread import KThread, current_kthread
from kemu.nt.lockorder import LockOrder
from kemu.nt.lookaside import Lookasides
from kemu.nt.mdl import Mdls
from kemu.nt.memory import Pool
from kemu.nt.object import ObjectManager
from kemu.nt.onstack import StackObjects
from kemu.nt.ownership import Resources
from kemu.nt.process import SYSTEM_PROCESS_ID, ClientIds, Process
from kemu.nt.psapi import create_process
from kemu.nt.registry import Registry, RegistryValue
from kemu.nt.rundown import CacheAwareRundowns
from kemu.nt.stall import Watchdog
from kemu.nt.status import NT_SUCCESS, NTSTATUS, STATUS_FLT_VOLUME_NOT_FOUND
from kemu.nt.system import Options, System
from kemu.nt.systhread import SystemThreads
from kemu.nt.timer import Timers
from kemu.nt.usermemory import UserBuffer
from kemu.nt.work import WorkerPool
from kemu.nt.workitem import KernelWorkItems
from kemu.runtime import TICKS_PER_SECOND, Actor, ControlledRuntime, Point, Runtime, current_thread
from kemu.runtime.live import LiveRuntime
from kemu.scenario.bystander import PassThrough
from kemu.scenario.service import Answer, Service, serve
from kemu.scenario.threads import Started, Threads
from kemu.scenario.transactions import UserTransaction
from kemu.user import Win32
from kemu.user.processes import end_process
from kemu.verifier.fltmgr import FltChecks
from kemu.verifier.races import detect_races
from kemu.verifier.settings import DEFAULT, VerifierSettings
from kemu.verifier.verifier import Verifier

T = TypeVar("T")


def name_of(driver: Driver | type[Driver]) -> str:
    """The name of the service of *driver*."""
    return driver.name or (driver.__name__ if isinstance(driver, type) else type(driver).__name__)


class Pending:
    """A request that was issued without waiting for it."""

    def __init__(self, manager: IoManager, request: Request) -> None:
        self._manager = manager
        self.request = request

    async def wait(self) -> NTSTATUS:
        """Wait until it is complete; its status."""
        status = await WaitDone(self.request)
        if self.request in self._manager.outstanding:
            self._manager.outstanding.remove(self.request)
        return status

    async def cancel(self) -> bool:
        """Cancel it (CancelIoEx); whether somebody had made it cancellable and was told."""
        return await self._manager.cancel(self.request)


class File:
    """An open file, as a user program has it."""

    def __init__(self, manager: IoManager, file: FileObject) -> None:
        self._manager = manager
        self.file = file

    async def read(
        self,
        length: int,
        offset: int = 0,
        *,
        into: UserBuffer | None = None,
        fast: bool = False,
        flags: int = 0,
    ) -> tuple[NTSTATUS, bytes]:
        """Read and wait; *fast* tries fast I/O first, *flags* are IRP flags. *into* is where the program wants it."""
        parameters = Parameters(Length=length, ByteOffset=offset, Buffer=b"" if into is None else into)
        request = await self._manager.transfer(self.file, IRP_MJ_READ, parameters, fast=fast, flags=flags)
        return request.status, request.buffer

    async def write(
        self, data: bytes | UserBuffer, offset: int = 0, *, fast: bool = False, flags: int = 0
    ) -> tuple[NTSTATUS, int]:
        """Write and wait; the status and how many bytes were written. *data* may be memory of the program's."""
        parameters = Parameters(Length=len(data), ByteOffset=offset, Buffer=data)
        request = await self._manager.transfer(self.file, IRP_MJ_WRITE, parameters, fast=fast, flags=flags)
        return request.status, request.information

    async def size(self, *, fast: bool = False) -> tuple[NTSTATUS, int]:
        """Query FileStandardInformation and wait; the status and the size in bytes."""
        parameters = Parameters(FileInformationClass=FileStandardInformation, Length=24)
        request = await self._manager.transfer(self.file, IRP_MJ_QUERY_INFORMATION, parameters, fast=fast)
        information = request.buffer
        if not isinstance(information, FILE_STANDARD_INFORMATION):
            return request.status, 0
        return request.status, information.EndOfFile

    async def control(
        self, code: int, data: bytes = b"", length: int = 0, *, fast: bool = False
    ) -> tuple[NTSTATUS, bytes]:
        """Send a device control (DeviceIoControl) with *data*, room for *length* bytes; the status and the output."""
        parameters = ControlParameters(code, data, length)
        request = await self._manager.transfer(self.file, IRP_MJ_DEVICE_CONTROL, parameters, fast=fast)
        return request.status, request.buffer

    async def begin_control(self, code: int, data: bytes = b"", length: int = 0) -> Pending:
        """Issue a device control without waiting for it."""
        return await self._begin(IRP_MJ_DEVICE_CONTROL, ControlParameters(code, data, length))

    async def begin_read(self, length: int, offset: int = 0) -> Pending:
        """Issue a read without waiting for it."""
        return await self._begin(IRP_MJ_READ, Parameters(Length=length, ByteOffset=offset))

    async def begin_write(self, data: bytes, offset: int = 0) -> Pending:
        """Issue a write without waiting for it."""
        return await self._begin(IRP_MJ_WRITE, Parameters(Length=len(data), ByteOffset=offset, Buffer=data))

    async def _begin(self, major: int, parameters: Parameters) -> Pending:
        request = Request(self.file.volume, self.file, major, parameters, kind=IRP_OPERATION)
        await self._manager.start(request)
        return Pending(self._manager, request)

    async def cancel_all(self) -> int:
        """Cancel everything that is outstanding on this file (CancelIoEx); how many requests were cancellable."""
        return await self._manager.cancel_file(self.file)

    async def close(self) -> NTSTATUS:
        """Close the handle: cleanup, then close."""
        return await self._manager.close(self.file)


class UserProcess(Actor):
    """A user process: opens files."""

    kind = "process"

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world.runtime, f"user:{name}")
        self.world = world
        self.process = create_process(name)
        self._win32: Win32 | None = None

    @property
    def win32(self) -> Win32:
        """What the process's threads call: CreateFileW, ReadFile and so on, by their Win32 names."""
        if self._win32 is None:
            self._win32 = Win32(self.process, self.world.system.get(IoManager), self.world.volume)
        return self._win32

    def transaction(self, label: str = "transaction") -> UserTransaction:
        """Begin a transaction (CreateTransaction)."""
        return UserTransaction(label)

    async def exit(self, status: int = 0) -> None:
        """End the process on the calling thread: what its threads have issued is cancelled (KE-CANCEL-10), then its
        files are closed.
        """
        await end_process(self.world.system.get(IoManager), self.process, status)

    async def serve(self, port_name: str, answer: Answer, *, threads: int = 1, context: bytes = b"") -> Service:
        """Connect to a minifilter's port, which must agree, and answer its messages with ``await answer(message)``.

        Each of the *threads* fetches a message, answers it and fetches the next; what it returns is the reply, without
        the header, and None gives none.
        """
        hr, service = await serve(self.world, self, port_name, answer, threads=threads, context=context)
        self.world.check(service is not None, f"connecting to {port_name} must succeed, but returned 0x{hr:08X}")
        assert service is not None
        return service

    def memory(self, content: bytes, *, writable: bool = True) -> UserBuffer:
        """Memory of the process with *content*: what a program passes the address of to a driver."""
        return UserBuffer(self.process, content, is_writable=writable)

    async def create(
        self,
        path: str,
        disposition: int = FILE_OPEN_IF,
        *,
        overlapped: bool = False,
        volume: Volume | None = None,
        transaction: UserTransaction | None = None,
    ) -> tuple[NTSTATUS, File | None]:
        r"""Open or create a file; *overlapped* opens it for asynchronous I/O. None instead of a file on failure.

        A *path* such as ``\\.\Echo`` opens the device that a driver's symbolic link of that name leads to, ``\\.\C:``
        a volume itself, and ``D:\a`` a file on another volume than the first. With a *transaction* it is opened in
        that. Drivers are told so; what is changed is seen at once all the same.
        """
        manager = self.world.system.get(IoManager)
        named = manager.volume_named(path) if ":" in path[:6] else None
        if is_volume(path) and named is not None:
            status, file = await manager.create(named, "", disposition, synchronous=not overlapped)
            return status, File(manager, file) if file is not None else None
        if path.startswith(("\\\\.\\", "\\\\?\\")):
            status, device_file = await open_device(manager, path, synchronous=not overlapped)
            return status, File(manager, device_file) if device_file is not None else None
        name = dos_path(path)
        status, file = await manager.create(
            volume or named or self.world.volume,
            name,
            disposition,
            synchronous=not overlapped,
            transaction=None if transaction is None else transaction.object,
        )
        return status, File(manager, file) if file is not None else None

    async def open(self, path: str, *, overlapped: bool = False, volume: Volume | None = None) -> File:
        """Open or create a file that must open; anything but success is a failed expectation."""
        status, file = await self.create(path, overlapped=overlapped, volume=volume)
        self.world.check(file is not None, f"opening {path} must succeed, but returned {status}")
        assert file is not None
        return file


class LoadedDriver:
    """A driver in memory."""

    def __init__(self, world: World, driver: Driver, driver_object: DRIVER_OBJECT, status: NTSTATUS) -> None:
        self._world = world
        self.driver = driver
        self.driver_object = driver_object
        self.status = status
        """What DriverEntry returned."""

    @property
    def filter(self) -> Filter:
        """The filter that the driver has registered."""
        filter_ = self._world.manager.by_driver.get(self.driver_object)
        if filter_ is None:
            raise ScenarioError(
                f"driver {self.driver_object.name} has registered no filter",
                remedy="call FltRegisterFilter in its DriverEntry",
            )
        return filter_

    async def detach(self, volume: Volume | None = None, name: str | None = None) -> NTSTATUS:
        """``fltmc detach``: tear the highest instance on *volume* down, or the one called *name*."""
        return await self._world.detach(self, volume, name)

    async def unload(self, *, mandatory: bool = False) -> NTSTATUS:
        """``fltmc unload``, or a service stop if *mandatory*; for a driver that is no minifilter, a service stop."""
        return await self._world.unload(self, mandatory=mandatory)


class World(Threads):
    """One emulated machine with a volume, ``C:``, and those that are added."""

    def __init__(
        self,
        runtime: Runtime,
        options: Options,
        *,
        explore_setup: bool = False,
        bystanders: int = 0,
        races: bool = False,
        settings: VerifierSettings = DEFAULT,
    ) -> None:
        self.runtime = runtime
        self._bystanders = bystanders
        self.verifier = Verifier(runtime, settings)
        if races:
            detect_races(self.verifier)
        self.system = System(runtime, self.verifier, options)
        self._explore_setup = explore_setup
        self._started_threads = False
        self.at_end_checks: list[tuple[Callable[[], bool], str]] = []
        self.system_process = Process("System", is_system=True)
        current_kthread().process = self.system_process
        self.system.add(self.system_process)
        client_ids = ClientIds()
        self.system_process.pid = client_ids.give(current_kthread(), self.system_process, SYSTEM_PROCESS_ID)
        self.system.add(client_ids)
        self.system.add(ObjectManager())
        self.system.add(CallbackObjects())
        self.system.add(LockOrder(self.system))
        self.system.add(Resources())
        self.system.add(CacheAwareRundowns())
        self.system.add(StackObjects())
        self.system.add(Watchdog())
        self.system.add(WorkItems())
        self.system.add(FileNames())
        self.system.add(NameCache())
        self.system.add(Registry())
        self.system.add(Pool())
        self.system.add(Mdls())
        self.system.add(Lookasides())
        self.system.add(WorkerPool(self.system, self.system_process))
        self.system.add(KernelWorkItems())
        self.system.add(SystemThreads())
        self.system.add(Dpcs(self.system_process))
        self.system.add(TargetQueues())
        self.system.add(Timers())
        self.system.add(IoManager(self.system))
        self.system.add(Devices())
        self.system.add(Irps())
        watch_thread_ends(self.system)
        self.system.add(Oplocks())
        self.system.add(DataScans())
        checks = FltChecks(self.system)
        self.manager = FilterManager(self.system, checks)
        self.system.add(self.manager)
        checks.watch_pairs()
        self.system.add(GeneratedIo())
        self.system.add(Redirections())
        self.volume = Volume(self.system, "C:")
        self.system.get(IoManager).mount(self.volume)
        self.manager.mount(self.volume)
        self.system.add(Ports())
        watch_getters(self.system)
        self._stack: VolumeStack | None = None

    # Drivers.

    async def load(
        self,
        driver: Driver | type[Driver],
        altitude: str | None = None,
        *,
        instances: Iterable[InstanceDefinition] = (),
        default: str | None = None,
        group: str = "",
    ) -> LoadedDriver:
        """Load a driver. Of a minifilter the default instance has *altitude*, and is attached to every volume.

        A driver without an altitude is no minifilter: what it can be reached by are the devices that it creates. With
        *instances* the service key defines these, of which *default* is the default one (the first unless given), and
        *altitude* is left out. *group* is its load order group.

        Loading takes no decisions as long as the scenario has started no thread, unless it is declared with
        ``explore_setup=True``. An altitude that is malformed or taken is a `ScenarioError`: the driver would run
        unattached, and the scenario would test nothing. Use `attach` to see how a filter takes a collision.
        """
        instances = tuple(instances)
        service: ServiceKey | None = None
        if instances or group:
            service = define(name_of(driver), altitude or "", instances, default, group)
            altitude = service.definitions[0].altitude
        elif default is not None:
            raise ScenarioError(f"{default!r} is no instance: there are none", remedy="give instances=, too")
        if altitude is not None:
            self._check_altitude(altitude)
        quiet = not self._explore_setup and not self._started_threads
        if quiet:
            self._decide(False)
        one = driver() if isinstance(driver, type) else driver
        self.system.get(Registry).put(name_of(one), {})
        if service is not None:
            self._declare(replace(service, name=name_of(one)))
        else:
            self.manager.services.pop(name_of(one), None)
        while self._bystanders:
            self._bystanders -= 1
            # Above and below in turn, so that the drivers under test stand in the middle of the stack.
            side = 140000 if self._bystanders % 2 else 385000
            await load_driver(self.system, PassThrough(self._bystanders), str(side + self._bystanders))
        status, driver_object = await self._load(one, altitude)
        if quiet:
            self._decide(True)
        return LoadedDriver(self, one, driver_object, status)

    async def _load(self, driver: Driver, altitude: str | None) -> tuple[NTSTATUS, DRIVER_OBJECT]:
        """Call DriverEntry of *driver* on the calling thread, and act on the result."""
        status, driver_object = await load_driver(self.system, driver, altitude)
        filter_ = self.manager.by_driver.get(driver_object)
        if filter_ is not None:
            current_thread().write(filter_)
            filter_.entered = True
        self.manager.observer.driver_entered(driver_object, filter_, status)
        if not NT_SUCCESS(status):
            discard(driver_object, current_thread())
        elif driver_object.DeviceObject is not None:
            await self.system.get(Devices).ready(driver_object)
        return status, driver_object

    def service(
        self,
        driver: Driver | type[Driver],
        altitude: str = "",
        *,
        instances: Iterable[InstanceDefinition] = (),
        default: str | None = None,
        group: str = "",
    ) -> str:
        """Install a minifilter without loading it, for FltLoadFilter; the name of its service. Arguments as for `load`.

        A class is made into a new driver with every load.
        """

        async def load() -> tuple[NTSTATUS, DRIVER_OBJECT]:
            one = driver() if isinstance(driver, type) else driver
            return await self._load(one, service.definitions[0].altitude)

        name = name_of(driver)
        service = define(name, altitude, instances, default, group)
        self._declare(replace(service, load=load))
        return name

    def _declare(self, service: ServiceKey) -> None:
        wrong = outside_group(service)
        if wrong:
            self.verifier.report("altitude-outside-group", wrong, subject=service.name)
        self.manager.services[service.name] = service

    def _check_altitude(self, altitude: str) -> None:
        key = altitude_key(altitude)
        if key is None:
            raise ScenarioError(
                f"{altitude!r} is not an altitude",
                remedy='write decimal digits with at most one point in a string, such as "328010.5"',
            )
        flt_volume = self.manager.volume_of(self.volume)
        for instance in flt_volume.instances if flt_volume is not None else ():
            if instance.key == key:
                raise ScenarioError(
                    f"altitude {altitude!r} is taken by {instance.filter.driver.driver}",
                    remedy=f'give another one, such as "{altitude.rstrip(".")}{"" if "." in altitude else "."}5"',
                )

    async def unload(self, driver: LoadedDriver, *, mandatory: bool = False) -> NTSTATUS:
        """``fltmc unload``, or a service stop if *mandatory*, on the calling thread.

        A driver that is no minifilter is stopped as a service: its DriverUnload is called in a system thread, once
        nothing refers to its devices any more, and this waits for it.
        """
        if driver.driver_object not in self.manager.by_driver and not driver.driver_object.altitude:
            return await unload_driver(self.system, driver.driver_object, self.system_process)
        return await unload(self.manager, driver.filter, mandatory=mandatory)

    async def detach(self, driver: LoadedDriver, volume: Volume | None = None, name: str | None = None) -> NTSTATUS:
        """``fltmc detach`` on the calling thread: the highest instance on *volume*, or the one called *name*.

        STATUS_FLT_VOLUME_NOT_FOUND if the volume was dismounted and is gone.
        """
        flt_volume = self.manager.volume_of(volume or self.volume)
        if flt_volume is None:
            return STATUS_FLT_VOLUME_NOT_FOUND
        return await detach(self.manager, driver.filter, flt_volume, name)

    async def attach(
        self, driver: LoadedDriver, altitude: str, volume: Volume | None = None, name: str | None = None
    ) -> NTSTATUS:
        """``fltmc attach`` at *altitude* on the calling thread, to *volume*, as an instance called *name*.

        STATUS_FLT_VOLUME_NOT_FOUND if the volume was dismounted and is gone.
        """
        flt_volume = self.manager.volume_of(volume or self.volume)
        if flt_volume is None:
            return STATUS_FLT_VOLUME_NOT_FOUND
        status, _ = await self.manager.attach(driver.filter, flt_volume, altitude, name=name, automatic=False)
        return status

    # Volumes.

    def add_volume(self, name: str, filesystem: str = "NTFS") -> Volume:
        """Mount another volume, ``D:``, with that file system: NTFS, ReFS, FAT, exFAT, CDFS, SMB, NPFS or DAX.

        The filters that are there are asked whether they want to be attached when the first operation comes
        (FLT-INST-02). What the file system does is that of NTFS whatever it is called. A volume that was dismounted may
        be mounted again under its name, as a new one. Call it while no thread opens files by that name.
        """
        if not re.fullmatch("[A-Za-z]:", name):
            raise ScenarioError(f"{name!r} is no name of a volume", remedy='give a letter and a colon, such as "D:"')
        kind = KINDS.get(filesystem)
        if kind is None:
            remedy = f"the file systems are: {', '.join(KINDS)}"
            raise ScenarioError(f"there is no file system {filesystem!r}", remedy=remedy)
        manager = self.system.get(IoManager)
        there = manager.volume_named(name)
        if there is not None and there.filesystem.is_mounted:
            raise ScenarioError(f"{name} is mounted already", remedy="give another letter, or dismount it first")
        volume = Volume(self.system, name.upper())
        manager.mount(volume)
        self.manager.mount(volume, kind)
        return volume

    async def dismount(self, volume: Volume | None = None) -> NTSTATUS:
        """Dismount *volume* as ``fsutil volume dismount`` does: by a handle of the volume, which is closed then.

        What else is open on it can only be closed from here on. When nothing is, the instances on it are taken down
        (FLT-INST-36), by a system thread.
        """
        manager = self.system.get(IoManager)
        volume = volume or self.volume
        status, file = await manager.create(volume, "", FILE_OPEN)
        if file is None:
            return status
        parameters = Parameters(FsControlCode=FSCTL_DISMOUNT_VOLUME)
        request = Request(volume, file, IRP_MJ_FILE_SYSTEM_CONTROL, parameters, minor=IRP_MN_USER_FS_REQUEST)
        status = await manager.call(request)
        await manager.close(file)
        return status

    def _decide(self, decides: bool) -> None:
        if isinstance(self.runtime, ControlledRuntime | LiveRuntime):
            self.runtime.without_decisions(decides)

    # Processes and threads.

    def process(self, name: str) -> UserProcess:
        """A user process."""
        return UserProcess(self, name)

    def disk(self, name: str = r"\Device\Disk0", data: bytes = b"") -> Disk:
        """A disk, whose device drivers get by its *name* and attach to or send IRPs to.

        It completes each IRP at once, or later at PASSIVE_LEVEL or DISPATCH_LEVEL, as the file system does.
        """
        return Disk(self.system, name, data)

    def volume_device(self, *, below: bool = False) -> DEVICE_OBJECT:
        r"""The device object of ``C:`` that legacy filters attach to: above the filter manager, or *below* it.

        Drivers that are loaded later also find them by name: ``\Device\HarddiskVolume1``, and ``\Ntfs`` for those that
        were there before the filter manager. To be called by the script before any request is under way.
        """
        if self._stack is None:
            self._stack = VolumeStack(self.system, self.volume)
        return self._stack.base if below else self._stack.top

    async def shutdown(self) -> None:
        """Shut the system down, as far as drivers are told of it: no driver is unloaded (KE-UNLOAD-01)."""
        await shut_down(self.system.get(IoManager))

    def file(self, path: str, data: bytes = b"", volume: Volume | None = None) -> None:
        """Put a file on *volume*, the first one unless given, before the run begins."""
        (volume or self.volume).filesystem.add(dos_path(path), data)

    def registry(self, key: str, values: Mapping[str, RegistryValue] | None = None) -> None:
        r"""Put a key into the registry before the run begins, with *values*: numbers, texts, bytes, lists of texts.

        *key* is a full path, or one below the services' key: ``scanner\Parameters``. The key of a driver's own service
        is there without that.
        """
        given: Mapping[str, Any] = values or {}
        for name, value in given.items():
            known = isinstance(value, int | str | bytes)
            if isinstance(value, list | tuple):
                known = all(isinstance(one, str) for one in cast("list[Any]", value))
            if not known or (isinstance(value, int) and not 0 <= value < 1 << 64):
                raise ScenarioError(
                    f"the registry value {name!r} cannot be {value!r}",
                    remedy="give a number of at most 64 bits, a text, bytes or a list of texts",
                )
        self.system.get(Registry).put(key, given)

    def directory(self, path: str) -> None:
        """Put a directory on the volume before the run begins."""
        self.volume.filesystem.add_directory(dos_path(path))

    def start(
        self, name: str, coroutine: Coroutine[Any, Any, T], process: UserProcess | None = None, *, apcs: bool = False
    ) -> Started[T]:
        """Start a thread that runs *coroutine*; in *process*, or in the System process.

        With *apcs* the thread takes APCs (`queue_apc`); otherwise none may be queued to it.
        """
        self._started_threads = True
        thread = self.runtime.spawn(name, LastApcs(coroutine) if apcs else coroutine)
        assert isinstance(thread, KThread)
        thread.process = process.process if process is not None else self.system_process
        if process is not None:
            thread.exits = True
            thread.actors.append(process)
        if apcs:
            takes_apcs(thread)
        return Started(thread)

    async def together(self, *coroutines: Coroutine[Any, Any, Any], process: UserProcess | None = None) -> list[Any]:
        """Run each coroutine in a thread of its own, wait for all of them, and return their results in order.

        The threads are named after the coroutines' functions.
        """
        names: dict[str, int] = {}
        started: list[Started[Any]] = []
        for coroutine in coroutines:
            base: str = getattr(coroutine, "__name__", "thread")
            names[base] = names.get(base, 0) + 1
            name = base if names[base] == 1 else f"{base}#{names[base]}"
            started.append(self.start(name, coroutine, process))
        return [await one.join() for one in started]

    # Time, choices, events.

    async def sleep(self, seconds: float) -> None:
        """Let *seconds* of virtual time pass for the calling thread."""
        await WaitForObject(KEVENT("sleep"), max(1, round(seconds * TICKS_PER_SECOND)))

    async def step(self, what: str = "step") -> None:
        """A scheduling point of the script's own."""
        await Point(what)

    def choose(self, n: int, label: str) -> int:
        """A choice of the script's own: 0 to n - 1, explored like any other; 0 in the plain run."""
        if n < 1:
            raise ScenarioError(f"choose({n}, {label!r}): there is nothing to choose from", remedy="give n >= 1")
        return self.runtime.choose(n, label)

    # Invariants and expectations.

    def check(self, condition: bool, what: str) -> None:
        """End the run with finding ``expectation`` unless *condition* holds."""
        if not condition:
            self.verifier.report("expectation", what, subject=what)

    def always(self, predicate: Callable[[], bool], what: str) -> None:
        """State an invariant that must hold after every step; finding ``invariant`` if it does not."""

        def invariant() -> None:
            # It is nobody's code that looks here: nothing it sees is a race with anybody, and what it reads and makes
            # is no part of the step that has just been taken. `DriverData.store` and the searches take care that no
            # step which an invariant may tell from another passes for independent.
            runtime = self.runtime
            data, runtime.data = runtime.data, None
            races, runtime.races = runtime.races, None
            runtime.looking = True
            try:
                holds = predicate()
            finally:
                runtime.looking = False
                if not runtime.dead:
                    runtime.data, runtime.races = data, races
            if not holds:
                self.verifier.report("invariant", what, subject=what)

        self.runtime.invariants.append(invariant)

    def at_end(self, predicate: Callable[[], bool], what: str) -> None:
        """State what must hold when everything has come to rest; finding ``invariant`` if it does not."""
        self.at_end_checks.append((predicate, what))

    def outcome(self, **values: object) -> None:
        """Say what this run comes to: ``world.outcome(create=status)``, for ``kemu explore --outcomes``.

        Each name may be given once in a run. Values are kept as their texts, so give statuses, numbers and texts: what
        has no text of its own that is the same in every run, such as an object with its address, is refused.
        """
        named = self.runtime.outcome.named
        for name, value in values.items():
            if name in named:
                raise ScenarioError(
                    f"the outcome {name!r} is given twice in one run",
                    remedy="give each thread a name of its own, or collect the values and give them once, at the end",
                )
            if type(value).__repr__ is object.__repr__:
                raise ScenarioError(
                    f"the outcome {name!r} is a {type(value).__name__}, whose text differs from run to run",
                    remedy="give a status, a number or a text",
                )
            named[name] = str(value)

    def now(self) -> int:
        """Virtual time, in ticks of 100 ns."""
        return self.runtime.clock.read(current_thread())
