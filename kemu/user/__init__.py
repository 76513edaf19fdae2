"""User side: what a program calls. Win32 on top of the system services, both by their own names.

`Win32` belongs to a process. Its calls are made by the process's threads, as ``await api.ReadFile(handle, 10)``: out
parameters follow the result in a tuple, failures are False or INVALID_HANDLE_VALUE with the reason in GetLastError.

Used by scenarios, through `kemu.scenario.world.UserProcess.win32`.
"""

from kemu.user.win32 import Win32

__all__ = ["Win32"]
