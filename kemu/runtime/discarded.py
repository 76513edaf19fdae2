"""Whether a caller throws the result of an await away, told from its code.

``await InterlockedIncrement(count)`` as a statement is another thing than ``if await InterlockedIncrement(count) == 1``
- nobody can see in which order two of the former came. Python does not tell a coroutine; the code that awaits it does.
Where that cannot be read with certainty the answer is no, which is right for everybody.
"""

from __future__ import annotations

import dis
from types import CodeType, FrameType

_known: dict[tuple[CodeType, int], bool] = {}


def result_is_discarded(frame: FrameType | None) -> bool:
    """Whether *frame*, which awaits something now, drops the result."""
    if frame is None:
        return False
    key = frame.f_code, frame.f_lasti
    known = _known.get(key)
    if known is None:
        known = _known[key] = _reads_as_discarded(*key)
    return known


def _reads_as_discarded(code: CodeType, place: int) -> bool:
    instructions = {one.offset: one for one in dis.get_instructions(code)}
    waiting = instructions.get(place)
    if waiting is None or waiting.opname != "SEND":
        return False
    # Where the code goes on with the result: it is dropped there, or something is made of it.
    rest = [one.opname for offset, one in instructions.items() if offset >= waiting.argval]
    return rest[:1] == ["POP_TOP"] or rest[:2] == ["END_SEND", "POP_TOP"]
