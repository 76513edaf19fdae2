"""What a wait returns when it was not simply satisfied: a success code that means that there was no success.

STATUS_TIMEOUT, STATUS_ALERTED, STATUS_USER_APC and the codes of an abandoned mutex all pass NT_SUCCESS, so that a
driver has to compare with the exact value (KE-WAIT-05). Such a status remembers whether the driver did.
"""

from __future__ import annotations

from typing import Any, Final

from kemu.nt.status import NTSTATUS, STATUS_ABANDONED_WAIT_0, STATUS_ALERTED, STATUS_TIMEOUT, STATUS_USER_APC
from kemu.nt.system import report

ABANDONED: Final = range(STATUS_ABANDONED_WAIT_0, STATUS_ABANDONED_WAIT_0 + 64)
UNSATISFIED: Final = frozenset((int(STATUS_TIMEOUT), int(STATUS_ALERTED), int(STATUS_USER_APC)))


class WaitStatus(NTSTATUS):
    """The status of a wait that was not satisfied, or that found a mutex abandoned."""

    looked_at: bool

    def __new__(cls, value: int) -> WaitStatus:
        status = int.__new__(cls, value)
        status.looked_at = False
        return status

    @property
    def name(self) -> str:
        return NTSTATUS(int(self)).name

    def __eq__(self, other: object) -> bool:
        self.looked_at = True
        return int(self) == other

    def __ne__(self, other: object) -> bool:
        self.looked_at = True
        return int(self) != other

    __hash__ = NTSTATUS.__hash__

    def __ge__(self, other: Any) -> bool:
        # ``0 <= status``, which is what NT_SUCCESS comes to.
        if not self.looked_at and int(self) in UNSATISFIED:
            report("ke.wait-status", f"a wait returned {self.name}, and NT_SUCCESS takes that for a success")
        return int(self) >= other


def returned(status: NTSTATUS) -> NTSTATUS:
    """What the driver gets for *status*."""
    return WaitStatus(status) if status and (status in ABANDONED or status in UNSATISFIED) else status
