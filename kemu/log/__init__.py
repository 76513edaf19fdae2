"""A run as typed events: what is recorded, the file it goes to, and how it is shown.

- ``manifest``  every event: its fields in order, its phase and category, what it means
- ``recorder``  takes the events of one run as flat tuples, names what they mention, and finds their causes
- ``capture``   runs a program once with a recorder: the second phase of two-phase logging
- ``trace``     header and events as values; reading and writing ``kemu.trace/1`` files
- ``render``    a trace as text for people
- ``userlog``   drivers' own log lines, through structlog, as events of the run

Knows the runtime and the kernel core, and no framework: objects that events mention describe themselves
(`recorder.Described`). The command line and the scenario layer import it; drivers get ``kemu.get_logger``.
structlog is imported when a line is rendered or a driver asks for a logger, not before.
"""

from kemu.log.capture import Loggable, capture
from kemu.log.manifest import MANIFEST, EventKind
from kemu.log.recorder import Described, Recorder
from kemu.log.trace import SCHEMA, Trace, read_trace, write_trace

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "Described",
    "EventKind",
    "Loggable",
    "Recorder",
    "Trace",
    "capture",
    "read_trace",
    "write_trace",
]
