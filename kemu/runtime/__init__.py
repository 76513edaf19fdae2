"""Threads, actors, messages, operations, decisions and virtual time: the engine below every emulated
framework. And what orders threads and what does not, for those who look for data races.

Imports nothing of kemu but its errors. `controlled` runs a program under an oracle, one step at a time;
`live` runs the same program on trio or asyncio. Frameworks are written with what this package exports.
"""

from kemu.runtime.actor import Actor, Deliver, Mailbox, Message, ServingActor, ask, tell
from kemu.runtime.benign import benign, is_benign
from kemu.runtime.clock import TICKS_PER_SECOND, Clock, Timer
from kemu.runtime.controlled import DEFAULT_MAX_STEPS, ControlledRuntime
from kemu.runtime.core import DataAccesses, LogSink, Observer, Races, Runtime
from kemu.runtime.footprint import READ, UPDATE, WRITE, Cell, Waitable
from kemu.runtime.operation import BlockingOperation, Operation, Point
from kemu.runtime.oracle import DecisionPoint, First, Oracle, continues, is_preemption, party
from kemu.runtime.outcome import Blocked, Failure, Outcome, Stuck
from kemu.runtime.races import Access, Race, RaceDetector
from kemu.runtime.thread import Join, Thread, Unwind, current_thread

__all__ = [
    "DEFAULT_MAX_STEPS",
    "READ",
    "TICKS_PER_SECOND",
    "UPDATE",
    "WRITE",
    "Access",
    "Actor",
    "Blocked",
    "BlockingOperation",
    "Cell",
    "Clock",
    "ControlledRuntime",
    "DataAccesses",
    "DecisionPoint",
    "Deliver",
    "Failure",
    "First",
    "Join",
    "LogSink",
    "Mailbox",
    "Message",
    "Observer",
    "Operation",
    "Oracle",
    "Outcome",
    "Point",
    "Race",
    "RaceDetector",
    "Races",
    "Runtime",
    "ServingActor",
    "Stuck",
    "Thread",
    "Timer",
    "Unwind",
    "Waitable",
    "ask",
    "benign",
    "continues",
    "current_thread",
    "is_benign",
    "is_preemption",
    "party",
    "tell",
]
