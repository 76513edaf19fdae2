"""The programs on which strategies are measured, by name, with the bug that each is known to have.

The depth is the number of ordering constraints that the bug needs. Interleavings and traces (interleavings that differ
by more than the order of independent steps) are those of an independent implementation, whose threads have no step
to start with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from explore import classics, classics_kernel, classics_queues
from explore.programs import TestProgram


@dataclass(frozen=True)
class Classic:
    """One program, and what is known of it."""

    make: Callable[[], TestProgram]
    bug: str
    depth: int
    interleavings: int | None = None
    traces: int | None = None


_DEADLOCK: Final = "each holds the lock that the next one waits for"
_REORDER: Final = "the reader sees one half of an update of two cells"
_TWOSTAGE: Final = "the reader comes between the two phases of an update"
_LOCKS: Final = "one cell is updated under two locks"

CLASSICS: Final[dict[str, Classic]] = {
    "account": Classic(classics.account, "the check of the total is wrong once both transfers are done", 2, 6, 6),
    "bluetooth_driver": Classic(classics.bluetooth_driver, "I/O after the device was stopped", 2, 73, 10),
    "carter01": Classic(classics.carter01, _DEADLOCK, 2, 724, 4),
    "circular_buffer": Classic(classics_queues.circular_buffer, "values are expected by turn, not by number", 2),
    "deadlock01": Classic(classics.deadlock01, _DEADLOCK, 2, 6, 3),
    "din_phil2": Classic(partial(classics.din_phil, 2), _DEADLOCK, 2, 6, 3),
    "din_phil3": Classic(partial(classics.din_phil, 3), _DEADLOCK, 3, 234, 7),
    "din_phil5": Classic(partial(classics.din_phil, 5), _DEADLOCK, 5),
    "din_phil7": Classic(partial(classics.din_phil, 7), _DEADLOCK, 7),
    "lazy01": Classic(classics.lazy01, "the third thread comes after both others", 2, 6, 6),
    "phase01": Classic(classics.phase01, "a lock is never given back", 1),
    "sync01": Classic(classics.sync01, "a condition is waited for under the lock that its signal needs", 1),
    "token_ring": Classic(classics.token_ring, "three hand-offs in the wrong order", 3, 24, 24),
    "reorder_3": Classic(partial(classics.reorder, 3), _REORDER, 2),
    "reorder_4": Classic(partial(classics.reorder, 4), _REORDER, 2),
    "reorder_5": Classic(partial(classics.reorder, 5), _REORDER, 2),
    "reorder_10": Classic(partial(classics.reorder, 10), _REORDER, 2),
    "reorder_20": Classic(partial(classics.reorder, 20), _REORDER, 2),
    "twostage": Classic(classics.twostage, _TWOSTAGE, 2, 37, 3),
    "twostage_11": Classic(partial(classics.twostage, 10), _TWOSTAGE, 2),
    "twostage_20": Classic(partial(classics.twostage, 19), _TWOSTAGE, 2),
    "wronglock_3": Classic(partial(classics.wronglock, 3), _LOCKS, 2),
    "wronglock": Classic(partial(classics.wronglock, 7), _LOCKS, 2),
    "stack": Classic(classics_queues.stack, "popped from an empty stack", 2),
    "queue": Classic(classics_queues.queue, "values are expected by turn, not by number", 2),
    "stringbuffer": Classic(
        classics_queues.stringbuffer, "cut short between asking for the length and copying", 2, 11, 3
    ),
    "bounded_buffer": Classic(classics_queues.bounded_buffer, "a signal wakes the wrong side", 3),
    "work_steal_queue": Classic(classics_queues.work_steal_queue, "owner and thief both get the last item", 3),
    "CVE-2009-3547": Classic(classics_kernel.cve_2009_3547, "a pipe is opened after its last release", 1, 2, 2),
    "CVE-2011-2183": Classic(classics_kernel.cve_2011_2183, "the scanned address space goes away", 2),
    "CVE-2013-1792": Classic(classics_kernel.cve_2013_1792, "the second keyring is not there yet", 2),
    "CVE-2015-7550": Classic(classics_kernel.cve_2015_7550, "the key is revoked after it was found valid", 2),
    "CVE-2016-1972": Classic(classics_kernel.cve_2016_1972, "set-up is not done yet, or taken down already", 2),
    "CVE-2016-1973": Classic(classics_kernel.cve_2016_1973, "a message is handled on a closed connection", 2),
    "CVE-2016-7911": Classic(classics_kernel.cve_2016_7911, "a pointer is checked and read again", 2),
    "CVE-2016-9806": Classic(classics_kernel.cve_2016_9806, "a buffer is freed twice", 2),
    "CVE-2017-15265": Classic(classics_kernel.cve_2017_15265, "a port is deleted while it is made", 3),
    "CVE-2017-6346": Classic(classics_kernel.cve_2017_6346, "two groups are made", 2),
    # Main creates the threads one by one, and those that are there go on meanwhile.
    "bluetooth_driver+staggered": Classic(
        partial(classics.bluetooth_driver, staggered=True), "I/O after the device was stopped", 2
    ),
    "reorder_3+staggered": Classic(partial(classics.reorder, 3, staggered=True), _REORDER, 2),
    "reorder_5+staggered": Classic(partial(classics.reorder, 5, staggered=True), _REORDER, 2),
    "reorder_10+staggered": Classic(partial(classics.reorder, 10, staggered=True), _REORDER, 2),
    "reorder_20+staggered": Classic(partial(classics.reorder, 20, staggered=True), _REORDER, 2),
    "twostage+staggered": Classic(partial(classics.twostage, staggered=True), _TWOSTAGE, 2),
    "twostage_20+staggered": Classic(partial(classics.twostage, 19, staggered=True), _TWOSTAGE, 2),
}
