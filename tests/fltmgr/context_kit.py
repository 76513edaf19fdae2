"""Drivers with contexts, for tests: everything that is allocated, cleaned up and found is noted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fltmgr.kit import UPPER, Callbacks, Lab, Minifilter

from kemu.fltmgr.objects import FltVolume, Instance
from kemu.io.request import FileObject
from kemu.nt.transaction import KTRANSACTION
from kemu.scenario.world import File, LoadedDriver
from kemu.wdk.fltkernel import (
    FLT_CONTEXT_REGISTRATION,
    FLT_FILE_CONTEXT,
    FLT_INSTANCE_CONTEXT,
    FLT_SET_CONTEXT_KEEP_IF_EXISTS,
    FLT_STREAM_CONTEXT,
    FLT_STREAMHANDLE_CONTEXT,
    FLT_TRANSACTION_CONTEXT,
    FLT_VOLUME_CONTEXT,
    PFLT_FILTER,
    FltAllocateContext,
    FltReleaseContext,
    FltSetStreamContext,
)
from kemu.wdk.ntstatus import STATUS_SUCCESS
from kemu.wdk.wdm import NonPagedPool, Structure

KEEP = FLT_SET_CONTEXT_KEEP_IF_EXISTS
KINDS = {
    "volume": FLT_VOLUME_CONTEXT,
    "instance": FLT_INSTANCE_CONTEXT,
    "file": FLT_FILE_CONTEXT,
    "stream": FLT_STREAM_CONTEXT,
    "handle": FLT_STREAMHANDLE_CONTEXT,
    "transaction": FLT_TRANSACTION_CONTEXT,
}
TAG = "Ctx "


class CONTEXT(Structure):
    """A driver's context."""

    Count: int
    Other: Any


class Keeper(Minifilter):
    """A filter that declares one context of each kind, and notes each cleanup."""

    def __init__(
        self, lab: Lab, name: str, callbacks: Callbacks, contexts: Sequence[FLT_CONTEXT_REGISTRATION] | None = None,
        **registration: Any,
    ) -> None:  # fmt: skip
        self.lab = lab
        if contexts is None:
            contexts = [
                *(FLT_CONTEXT_REGISTRATION(kind, 0, self.cleanup, CONTEXT, TAG) for kind in KINDS.values()),
                FLT_CONTEXT_REGISTRATION(),
            ]
        super().__init__(name, callbacks, ContextRegistration=contexts, **registration)

    @property
    def flt(self) -> PFLT_FILTER:
        assert self.Filter is not None
        return self.Filter

    async def cleanup(self, Context: CONTEXT, ContextType: int) -> None:
        self.lab.note("cleanup", Context)

    async def make(self, kind: int = FLT_STREAM_CONTEXT, pool: int = NonPagedPool) -> CONTEXT:
        """A context that must be allocated."""
        status, context = await FltAllocateContext(self.flt, kind, CONTEXT, pool)
        assert status == STATUS_SUCCESS
        assert context is not None
        context.Count = 0
        return context

    async def keep(self, file: File, *, pool: int = NonPagedPool) -> CONTEXT:
        """A stream context that is linked and released: only its link holds it."""
        context = await self.make(pool=pool)
        status, _ = await FltSetStreamContext(self.instance, file.file, KEEP, context, None)
        assert status == STATUS_SUCCESS
        await FltReleaseContext(context)
        return context

    @property
    def instance(self) -> Instance:
        """Its one instance."""
        (instance,) = self.flt.instances
        return instance

    @property
    def volume(self) -> FltVolume:
        """The volume of that."""
        return self.instance.volume


async def keeper(
    lab: Lab, callbacks: Callbacks | None = None, contexts: Sequence[FLT_CONTEXT_REGISTRATION] | None = None,
    name: str = "K", altitude: str = UPPER, **registration: Any,
) -> tuple[Keeper, LoadedDriver]:  # fmt: skip
    """Load a `Keeper`."""
    driver = Keeper(lab, name, callbacks or {}, contexts, **registration)
    return driver, await lab.load(driver, altitude)


def carriers(driver: Keeper, file: FileObject) -> dict[str, tuple[Any, ...]]:
    """For each kind what its routines take before the rest."""
    return {
        "volume": (driver.volume,),
        "instance": (driver.instance,),
        "file": (driver.instance, file),
        "stream": (driver.instance, file),
        "handle": (driver.instance, file),
        "transaction": (driver.instance, KTRANSACTION()),
    }
