"""What a driver must not do with contexts, checked where it does it (FLT-CTX, FLT-PRE-25, FLT-POST-05, FLT-POST-26)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kemu.fltmgr.context_record import Context, context_of
from kemu.fltmgr.context_types import KIND_NAMES
from kemu.fltmgr.frame import (
    IN_POST,
    IN_PREOP,
    PENDED,
    POST_PENDED,
    POST_RESUMED_EARLY,
    RESUMED_EARLY,
    Frame,
)
from kemu.fltmgr.objects import Filter, Instance
from kemu.fltmgr.structures import FLT_RELATED_OBJECTS
from kemu.io.constants import IRP_MJ_CREATE
from kemu.io.filesystem.nodes import Open
from kemu.nt.allocation import type_name
from kemu.nt.buffer import allocation_of
from kemu.nt.bugcheck import FLTMGR_FILE_SYSTEM, BugCheck
from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread
from kemu.nt.routine import bad_pointer
from kemu.nt.status import NT_SUCCESS, NTSTATUS, STATUS_REPARSE
from kemu.nt.structure import fields_of
from kemu.nt.system import report
from kemu.runtime import Thread

if TYPE_CHECKING:
    from kemu.io.request import FileObject

BEFORE: Final = frozenset({IN_PREOP, PENDED, RESUMED_EARLY})
AFTER: Final = frozenset({IN_POST, POST_PENDED, POST_RESUMED_EARLY})

OVER_RELEASED: Final = 0x6D
REFERENCED_AFTER_FREE: Final = 0x6E


def the_context(pointer: Any, name: str, parameter: str = "Context") -> Context:
    """The context that a driver passes to routine *name*; NULL and other memory are finding ``ke.bad-pointer``."""
    context = context_of(pointer)
    if context is None:
        bad_pointer(name, parameter, Context, pointer)
    assert context is not None
    return context


def over_released(thread: Thread, context: Context, name: str) -> None:
    """A release of a reference that nobody holds (FLT-CTX-11)."""
    what = f"which is freed, {context.freed_words}" if context.freed is not None else "whose references are all dropped"
    if context.slot is not None:
        what = f"which is still linked and has no reference but that of its link, {context.slot.label}"
    elif context.bound:
        what = f"which has no reference but that of the {context.bound[-1].label}"
    report(
        "ctx-over-release",
        f"{thread.label} calls {name} on {context.describe()}, {what}",
        BugCheck(FLTMGR_FILE_SYSTEM, (OVER_RELEASED, context.address)),
    )


def referenced_after_free(thread: Thread, context: Context, name: str) -> None:
    """A reference on a context that is being cleaned up, or that is freed (FLT-CTX-12)."""
    what = f"which is {context.freed_words}" if context.freed is not None else "whose last reference is gone"
    report(
        "ctx-ref-after-free",
        f"{thread.label} calls {name} on {context.describe()}, {what}",
        BugCheck(FLTMGR_FILE_SYSTEM, (REFERENCED_AFTER_FREE, context.address)),
    )


def used_after_release(thread: Thread, context: Context, name: str) -> None:
    """A context that is gone is passed to a routine (FLT-CTX-12)."""
    what = context.freed_words if context.freed is not None else "its last reference is gone"
    report("ctx-use-after-release", f"{thread.label} calls {name} with {context.describe()}, {what}")


# Where in the life of a file.


def check_place(thread: Thread, instance: Instance, file: FileObject, kind: int, name: str, *, sets: bool) -> None:
    """What is wrong with asking for, or changing, a context of *kind* of *file* now; *sets* if one is to be linked."""
    what = f"{thread.label} calls {name} for {file.FileName}"
    for frame in instance.outstanding:
        request = frame.operation.request
        if request.file is not file or request.major != IRP_MJ_CREATE:
            continue
        thread.read(frame)
        if frame.state in BEFORE:
            report("ctx-in-precreate", f"{what}, whose create is still on its way to the file system")
        elif sets and frame.state in AFTER:
            status = frame.written_status
            status = NTSTATUS(request.status if status is None else status)
            if not NT_SUCCESS(status) or status == STATUS_REPARSE:
                report("ctx-on-failed-create", f"{what}, whose create has ended with {status}")
    opened = file.fs_context
    if isinstance(opened, Open):
        if opened.closed:
            report("ctx-in-postclose", f"{what}, which the file system has closed")
    elif sets:
        report("ctx-unopened-fileobject", f"{what}, which is not open: its {KIND_NAMES[kind]} context has no place")


def _filter_of(arguments: tuple[object, ...]) -> Filter | None:
    """The filter that a routine was called for, whatever it takes."""
    for argument in arguments:
        if isinstance(argument, Filter):
            return argument
        if isinstance(argument, Instance):
            return argument.filter
        if isinstance(argument, FLT_RELATED_OBJECTS):
            return argument.Filter
        context = context_of(argument)
        if context is not None:
            return context.filter
    return None


def _in_post(filter_: Filter | None, thread: Thread) -> Frame | None:
    """The operation whose postoperation callback of *filter_* the thread is inside of, if it is."""
    for instance in () if filter_ is None else filter_.instances:
        for frame in instance.outstanding:
            if frame.state in AFTER and thread in frame.inside:
                return frame
    return None


def too_high(irql: int, *arguments: object) -> tuple[None, None]:
    """What a call above APC_LEVEL is beside ``ke.irql``: in a postoperation callback, finding ``ctx-get-at-dispatch``
    (FLT-POST-05).
    """
    thread = current_kthread()
    frame = _in_post(_filter_of(arguments), thread) if irql == DISPATCH_LEVEL else None
    if frame is not None:
        report(
            "ctx-get-at-dispatch",
            f"the post-operation callback of {frame.label} for {frame.operation.label} gets, sets or deletes a context "
            f"at DISPATCH_LEVEL; there it can only release one that its pre-operation callback has got",
        )
    return None, None


# Pointers from one context to another.


def check_pointers(thread: Thread, context: Context) -> None:
    """Look for pointers in *context* to contexts that are freed: it holds no reference on them (FLT-CTX-33)."""
    block = context.block
    fields: dict[str, Any] = object.__getattribute__(block, "__dict__")
    for name in fields_of(type(block)):
        other = context_of(fields.get(name))
        if other is None or other is context:
            continue
        thread.read(other)
        if other.freed is not None:
            report(
                "ctx-unreferenced-pointer",
                f"{type_name(block)}.{name} of {context.describe()} points to {other.describe()}, "
                f"{other.freed_words}: a pointer that is kept needs a reference of its own",
            )


# Contexts that are taken to be there.


def assumed_present(error: Exception, missed: str | None, what: str) -> None:
    """Report a callback that has used NULL as the context that it has not found (FLT-RACE-36)."""
    if missed is None or not isinstance(error, AttributeError) or error.obj is not None:
        return
    report("ctx-assumed-present", f"{what} uses the context that {missed} did not find: {error}")


def hand_over(block: object, operation: str) -> None:
    """A preoperation callback hands *block* to its postoperation callback, which has to free it (FLT-POST-14)."""
    allocation = context_of(block) or allocation_of(block)
    if allocation is not None:
        allocation.passed = operation


def leaks(contexts: list[Context]) -> tuple[str, str]:
    """The finding that references left on *contexts* are, and words for them (FLT-CTX-32, FLT-POST-14, FLT-SCAN-03)."""
    code = "postop-context-leak" if any(one.passed for one in contexts) else "ctx-leak"
    if any(one.bound for one in contexts):
        # Enlistments end with their instance.
        code = "section-leak"
    words: list[str] = []
    for one in contexts:
        passed = f", handed on as the completion context of {one.passed}" if one.passed else ""
        words.append(f"{one.describe()}{passed}, is held {one.held_words()}")
    return code, "; ".join(words)
