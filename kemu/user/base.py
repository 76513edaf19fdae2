"""What the parts of the Win32 layer share: the process, its system services, and each thread's last error."""

from __future__ import annotations

from kemu.io.manager import IoManager
from kemu.io.volume import Volume
from kemu.nt.dispatcher import DispatcherObject, WaitForObject
from kemu.nt.process import Process
from kemu.nt.status import NT_SUCCESS, NTSTATUS
from kemu.runtime import Thread, current_thread
from kemu.user.errors import RtlNtStatusToDosError
from kemu.user.native import Native


class Api:
    """The Win32 layer of one process."""

    def __init__(self, process: Process, manager: IoManager, volume: Volume) -> None:
        self.process = process
        self.native = Native(process, manager, volume)
        self._errors: dict[Thread, int] = {}

    def GetLastError(self) -> int:
        """The error of the calling thread's last call that failed. No scheduling point: nobody else sees it."""
        return self._errors.get(current_thread(), 0)

    def SetLastError(self, dwErrCode: int) -> None:
        """Set what `GetLastError` tells the calling thread."""
        self._errors[current_thread()] = dwErrCode

    set_error = SetLastError

    def fail(self, status: NTSTATUS) -> None:
        """Remember why a call of the calling thread failed."""
        self._errors[current_thread()] = RtlNtStatusToDosError(status)

    def succeeded(self, status: NTSTATUS) -> bool:
        """Turn a status into a BOOL; what makes it False is remembered."""
        if NT_SUCCESS(status):
            return True
        self.fail(status)
        return False

    async def wait_for(self, waited: DispatcherObject, ticks: int | None) -> NTSTATUS:
        """Wait for an object, at most *ticks* of virtual time."""
        return await WaitForObject(waited, ticks)
