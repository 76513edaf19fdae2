"""Extra create parameters: what travels with a create beside its parameters, by type (FLT-IO-24, FLT-IO-26)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from kemu.io.request import FileObject
from kemu.nt.driver import DriverActor, current_driver, in_driver
from kemu.nt.system import Leftover
from kemu.runtime import Cell, current_thread

CleanupCallback = Callable[[Any, Any], Awaitable[None]]
"""``async def cleanup(EcpContext, EcpType)``: PFSRTL_EXTRA_CREATE_PARAMETER_CLEANUP_CALLBACK."""


class ECP_CONTEXT(Cell):
    """One extra create parameter. What it holds are attributes that the driver gives it."""

    def __init__(self, kind: object, size: int, cleanup: CleanupCallback | None) -> None:
        super().__init__(current_thread(), f"extra create parameter {kind}")
        self._kind = kind
        self._size = size
        self._cleanup = cleanup
        self._driver: DriverActor | None = current_driver()
        self._list: ECP_LIST | None = None
        self._acknowledged = False
        self._from_user = False
        self._freed_by = ""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    @property
    def kind(self) -> object:
        """Its type, a GUID."""
        return self._kind

    @property
    def state(self) -> dict[str, Any]:
        """What the system keeps of it."""
        return self.__dict__


class ECP_LIST(Cell):
    """A list of them."""

    __slots__ = ("contexts", "driver", "freed_by", "owner_file")

    def __init__(self) -> None:
        super().__init__(current_thread(), "list of extra create parameters")
        self.contexts: list[ECP_CONTEXT] = []
        self.driver: DriverActor | None = current_driver()
        self.freed_by = ""
        self.owner_file: FileObject | None = None
        """The file object of the create that a filter has attached it to: the I/O manager frees it then."""


class Ecps:
    """The extra create parameters of one run."""

    def __init__(self) -> None:
        self.alive: dict[ECP_LIST | ECP_CONTEXT, None] = {}
        """What drivers have allocated and nobody has freed, oldest first; contexts only as long as they are in no list.
        """
        self.of: dict[FileObject, ECP_LIST] = {}
        """The lists of the creates that are under way."""

    def left_by(self, driver: DriverActor) -> Iterator[Leftover]:
        """Those that *driver* has not freed (FLT-IO-26)."""
        for one in self.alive:
            owner = one.driver if isinstance(one, ECP_LIST) else one.state["_driver"]
            if owner is driver:
                yield Leftover("ecp-leak", f"a {one.label}")

    def move(self, old: FileObject, new: FileObject) -> None:
        """The create of *old* goes on as one of *new*."""
        moved = self.of.pop(old, None)
        if moved is not None:
            self.of[new] = moved
            if moved.owner_file is not None:
                moved.owner_file = new

    async def end(self, file: FileObject) -> None:
        """The create is over: what filters have attached to it is freed."""
        attached = self.of.pop(file, None)
        if attached is not None and attached.owner_file is not None:
            await self.free(attached, "the I/O manager")

    async def free(self, ecps: ECP_LIST, who: str) -> None:
        """Free a list and what is in it."""
        ecps.freed_by = who
        self.alive.pop(ecps, None)
        for context in ecps.contexts:
            await self.free_context(context, who)

    async def free_context(self, context: ECP_CONTEXT, who: str) -> None:
        """Free one parameter, after its cleanup callback."""
        state = context.state
        state["_freed_by"] = who
        self.alive.pop(context, None)
        cleanup: CleanupCallback | None = state["_cleanup"]
        driver: DriverActor | None = state["_driver"]
        if cleanup is not None and driver is not None:
            await in_driver(driver, "the ECP cleanup callback", cleanup, context, context.kind)
