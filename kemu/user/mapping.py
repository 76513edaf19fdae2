"""File mappings: CreateFileMappingW and views (memoryapi.h)."""

from __future__ import annotations

from typing import Any, Final

from kemu.io.section import View
from kemu.nt.status import NT_SUCCESS
from kemu.user.errors import ERROR_INVALID_HANDLE
from kemu.user.handles import Handle
from kemu.user.threads import ThreadApi

FILE_MAP_WRITE: Final = 0x2
FILE_MAP_READ: Final = 0x4


class MappingApi(ThreadApi):
    """The calls about file mappings. Scenarios that use them are declared with ``cached_io=True``."""

    async def CreateFileMappingW(
        self,
        hFile: Any,
        lpFileMappingAttributes: object,
        flProtect: int,
        dwMaximumSizeHigh: int = 0,
        dwMaximumSizeLow: int = 0,
    ) -> Handle | None:
        """Make a mapping of a file, at least as long as the file: a handle, or None."""
        size = dwMaximumSizeHigh << 32 | dwMaximumSizeLow
        status, handle = await self.native.NtCreateSection(size, flProtect & 0xFF, hFile)
        if not NT_SUCCESS(status):
            self.fail(status)
        return handle

    async def MapViewOfFile(
        self,
        hFileMappingObject: Any,
        dwDesiredAccess: int,
        dwFileOffsetHigh: int = 0,
        dwFileOffsetLow: int = 0,
        dwNumberOfBytesToMap: int = 0,
    ) -> View | None:
        """Map a view, which is then read and written by ``await view.read(start, length)`` and ``view.write``."""
        offset = dwFileOffsetHigh << 32 | dwFileOffsetLow
        status, view = await self.native.NtMapViewOfSection(hFileMappingObject, offset, dwNumberOfBytesToMap)
        if not NT_SUCCESS(status):
            self.fail(status)
        return view

    async def UnmapViewOfFile(self, lpBaseAddress: View | None) -> bool:
        """Give a view back."""
        if lpBaseAddress is None:
            self.set_error(ERROR_INVALID_HANDLE)
            return False
        return self.succeeded(await self.native.NtUnmapViewOfSection(lpBaseAddress))

    async def FlushViewOfFile(self, lpBaseAddress: View, dwNumberOfBytesToFlush: int = 0) -> bool:
        """Write back what was changed of the file behind a view."""
        return self.succeeded(await self.native.NtFlushVirtualMemory(lpBaseAddress))
