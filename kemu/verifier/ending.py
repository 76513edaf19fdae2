"""What the end of a run shows: threads that are stuck, operations that nobody completed, things not given back."""

from __future__ import annotations

from kemu.fltmgr.cbdq import FLT_CALLBACK_DATA_QUEUE
from kemu.fltmgr.context_end import WaitContexts
from kemu.fltmgr.context_rules import leaks
from kemu.fltmgr.frame import PENDED, POST_PENDED, Frame, IrpCtrl
from kemu.fltmgr.initiated import GeneratedIo
from kemu.fltmgr.manager import FilterManager
from kemu.fltmgr.objects import TEARING_DOWN, Filter, FltVolume, Instance, WaitRundown
from kemu.fltmgr.teardown import WaitOutstanding
from kemu.io.irp import IRP, IrpCancel
from kemu.io.manager import IoManager
from kemu.io.request import Request
from kemu.nt.kthread import KThread
from kemu.nt.lock import leak_of
from kemu.nt.system import System
from kemu.nt.transaction import AwaitAnswers
from kemu.nt.work import WorkerPool
from kemu.runtime import Outcome, Stuck, Thread
from kemu.verifier.catalogue import CATALOGUE
from kemu.verifier.finding import Finding
from kemu.verifier.ports import endless_message
from kemu.verifier.verifier import Verifier
from kemu.verifier.waits import endless_wait


def judge(system: System, verifier: Verifier, outcome: Outcome) -> Finding | None:
    """The finding that the end of a run amounts to, or None."""
    if outcome.end == "step-limit":
        return step_limit(system, verifier, outcome)
    if outcome.stuck is not None:
        return stuck(system, verifier, outcome.stuck)
    leak = leaked_lock(system, verifier)
    if leak is not None:
        return leak
    # Everything came to rest; is an operation left?
    return pended_operation(system, verifier, "") or pended_irp(system, verifier, "")


def step_limit(system: System, verifier: Verifier, outcome: Outcome) -> Finding:
    """A run that would not end: say who took the steps."""
    threads = sorted(system.runtime.threads, key=lambda thread: (-thread.steps, thread.path))
    busiest = threads[0]
    what = busiest.op.describe() if busiest.alive else "ended"
    return verifier.finding(
        "ke.step-limit",
        f"{sum(t.steps for t in threads)} steps, {busiest.steps} of them by {busiest.label}, which is to {what}. "
        "A thread that spins, or a work item that queues itself again, never comes to rest; raise --max-steps if "
        "the run is merely long",
        subject=busiest.label,
    )


def stuck(system: System, verifier: Verifier, report: Stuck) -> Finding:
    """Nothing can go on: name the rule that was broken, the most specific that fits."""
    detail = describe(report)
    threads = [thread for thread in system.runtime.threads if thread.alive]
    # A cycle that no teardown is part of is the cause, and a teardown that waits for its members is not. Likewise a
    # teardown or an operation may wait for an item that no worker is left for.
    endless = endless_wait(verifier, threads, detail)
    if endless is not None:
        return endless
    again = reentered(system, threads)
    if again is not None:
        return verifier.finding("reentrant-deadlock", f"{again}: {detail}", subject=again)
    unanswered = endless_message(verifier, threads, detail)
    if unanswered is not None:
        return unanswered
    waiting = {thread.label for thread in threads if isinstance(thread.op, (WaitOutstanding, WaitRundown))}
    if report.is_deadlock and waiting.isdisjoint(report.cycle):
        # Who waits for itself holds what it waits to see released by everybody, or is what it waits for.
        code = "ke.self-deadlock" if len(report.cycle) == 1 else "ke.deadlock"
        return verifier.finding(code, detail, subject=" ".join(sorted(report.cycle)))
    leak = leaked_lock(system, verifier, detail)
    if leak is not None:
        return leak
    for queue in system.get(WorkerPool).queues:
        if queue.items and len(queue.workers) == queue.limit and not any(w.idle for w in queue.workers):
            return verifier.finding("ke.worker-starvation", detail, subject=queue.label)
    for thread in threads:
        if isinstance(thread.op, AwaitAnswers):
            return verifier.finding("txn-not-completed", detail, subject=thread.op.transaction.label)
    for thread in threads:
        if isinstance(thread.op, WaitOutstanding):
            return teardown_hang(verifier, thread.op.instance, detail)
    for thread in threads:
        if isinstance(thread.op, WaitContexts):
            held = [context for context in thread.op.filter.contexts if context.holds or context.bound]
            if held:
                code, words = leaks(held)
                return verifier.finding(code, f"{words}: {detail}", subject=thread.op.filter.driver.label)
        if isinstance(thread.op, WaitRundown):
            waited = thread.op.object
            if isinstance(waited, Filter):
                return verifier.finding("unload-hang", detail, subject=waited.label)
            if isinstance(waited, Instance | FltVolume) and waited.references:
                return verifier.finding("ref-leak", detail, subject=waited.label)
    for instance in system.get(FilterManager).torn_down():
        if instance.state == TEARING_DOWN and instance.outstanding:
            what = f"InstanceTeardownStart of {instance.label} does not return"
            return verifier.finding("teardown-hang", f"{what}: {detail}", subject=instance.filter.driver.label)
    pended = pended_operation(system, verifier, detail) or pended_irp(system, verifier, detail)
    if pended is not None:
        return pended
    for thread in threads:
        if isinstance(thread, KThread) and thread.unloading is not None:
            return verifier.finding("ke.unload-hang", detail, subject=str(thread.unloading))
    return verifier.finding("ke.hang", detail, subject=report.blocked[0].waits_for)


def reentered(system: System, threads: list[Thread]) -> str | None:
    """A driver whose callback has come, by I/O that it waits for, to a callback of its own in the same thread."""
    operations = [one.filter_context for one in (*system.get(IoManager).outstanding, *initiated(system))]
    inside = [frame for one in operations if isinstance(one, IrpCtrl) for frame in one.frames if frame.inside]
    for thread in threads:
        filters = [frame.node.filter for frame in inside if thread in frame.inside]
        for filter_ in filters:
            if filters.count(filter_) > 1:
                return f"{filter_.driver.driver} in {thread.label}"
    return None


def initiated(system: System) -> list[Request]:
    """What minifilters have initiated and what is not over, in that order."""
    return list(system.get(GeneratedIo).outstanding)


def leaked_lock(system: System, verifier: Verifier, detail: str = "") -> Finding | None:
    """A lock that is owned by a thread which has ended, so that nobody will ever release it."""
    rule, settings = CATALOGUE["ke.lock-leak"], verifier.settings
    if not settings.watches(rule) or settings.action(rule) != "break":
        return None
    for thread in system.runtime.threads:
        if not thread.alive and isinstance(thread, KThread) and thread.locks:
            leak = leak_of(thread)
            what = f"{leak.what}: {detail}" if detail else leak.what
            return verifier.finding(leak.code, what, leak.bug_check, leak.what, verifier=leak.verifier)
    return None


def describe(report: Stuck) -> str:
    """The wait-for graph in words."""
    # The cycle first: what else waits, waits for its members.
    blocked = sorted(report.blocked, key=lambda one: one.thread not in report.cycle)
    waits = "; ".join(map(str, blocked))
    if report.is_deadlock:
        return f"cycle {' -> '.join((*report.cycle, report.cycle[0]))}: {waits}"
    return waits


def teardown_hang(verifier: Verifier, instance: Instance, detail: str) -> Finding:
    """A teardown waits for operations: say which obligation of the driver was not met."""
    code = "teardown-hang"
    for frame in instance.outstanding:
        if frame.state == PENDED and isinstance(frame.cbdq, FLT_CALLBACK_DATA_QUEUE) and frame.cbdq.disabled:
            code = "cbdq-not-drained"
        elif frame.state == PENDED:
            code = "pend-after-teardown-start" if frame.late else "teardown-pended-pre"
        elif frame.state == POST_PENDED:
            code = "teardown-pended-post"
        else:
            continue
        break
    return verifier.finding(code, detail, subject=instance.filter.driver.label)


def unfinished(system: System) -> list[Frame]:
    """The frames that a driver has pended and not resumed, in the order in which their operations were issued."""
    frames: list[Frame] = []
    for request in (*system.get(IoManager).outstanding, *initiated(system)):
        operation = request.filter_context
        if isinstance(operation, Request):
            # It has come to the filter manager in an IRP.
            operation = operation.filter_context
        if not request.done and isinstance(operation, IrpCtrl):
            frames += [frame for frame in operation.frames if frame.state in {PENDED, POST_PENDED}]
    return frames


def pended_operation(system: System, verifier: Verifier, detail: str) -> Finding | None:
    """An operation that a driver has pended and nobody will complete."""
    for frame in unfinished(system):
        cancel = frame.operation.request.cancel
        code = "pend-never-completed" if frame.state == PENDED else "postpend-never-completed"
        if frame.state == PENDED and frame.cancel_taken:
            code = "cancel-not-completed"
        elif frame.state == PENDED and frame.cancel_armed and cancel.requested and cancel.routine is not None:
            code = "cancel-lost"
        what = f"{frame.operation.label} is {frame.state_name} by {frame.label}"
        return verifier.finding(code, f"{what}: {detail}" if detail else what, subject=frame.label)
    return None


def irps_outstanding(system: System) -> list[IRP]:
    """The IRPs of requests that are not complete, in the order in which the requests were issued."""
    found: list[IRP] = []
    for request in system.get(IoManager).outstanding:
        cancel = request.cancel
        if not request.done and isinstance(cancel, IrpCancel):
            found.append(cancel.irp)
    return found


def pended_irp(system: System, verifier: Verifier, detail: str) -> Finding | None:
    """An IRP that a driver holds and nobody will complete: say which of its obligations was not met."""
    for irp in irps_outstanding(system):
        cancel = irp.cancel
        holder = irp.holder
        if holder is None:
            continue
        how = f"{holder.driver} holds {irp.label}"
        if irp.kept_by:
            code = "ke.irp-orphan"
            how += f" since {irp.kept_by}"
        elif cancel.requested and cancel.routine is not None:
            code = "ke.cancel-lost"
            how += ", which was cancelled before its cancel routine was set"
        elif cancel.taken:
            code = "ke.cancel-not-completed"
            how += ", whose cancel routine was called"
        elif cancel.taken_back:
            code = "ke.cancel-flag-decision"
            how += ", whose cancel routine it took back after the cancellation"
        elif cancel.routine is None:
            code = "ke.irp-not-cancelable"
            how += " without a cancel routine"
        else:
            # It can be cancelled, and nobody has: that is no fault of the driver's.
            continue
        return verifier.finding(code, f"{how}: {detail}" if detail else how, subject=holder.label)
    return None
