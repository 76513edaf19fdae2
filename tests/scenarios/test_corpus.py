"""Every shipped scenario: the race is found, shrunk and explained; the repaired twin is clean.

The figures for 20 seeds, with bystanders and with the plain random walk beside the default, come from
``tests/benchmarks/detection.py``; what is checked here takes a few seconds.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kemu.explore import Budget, explain, explore, shrink
from kemu.explore.strategies import DEFAULT_STRATEGY, DPOR, strategy_from_name
from kemu.explore.strategies.dfs import BoundedDFS
from kemu.scenario.program import ScenarioProgram
from kemu.scenario.target import select

FOLDER = Path(__file__).parents[2] / "scenarios"

MINIMA = {
    # name -> (preemptions, answers other than the plain one) of the simplest failing run, derived by hand.
    #
    # The worker must complete while the pre-create stands at its return from the queueing call, and that thread could
    # go on: 1.
    "touch_after_hand_off": (1, 0),
    # One create must set its context between the other's look and its setting (1), which must precede its close (1).
    "context_replaced": (2, 0),
    # One create must set its context between the other's look and its setting: 1.
    "context_leaked_by_loser": (1, 0),
    # The write must come between the read's finding the context and releasing it: 1.
    "context_used_after_release": (1, 0),
    # The write runs to its end, then the close finds the pointer: 0.
    "context_pointer_unreferenced": (0, 0),
    # The walker must come between the last release, in the close, and the lock in the cleanup: 1.
    "context_revived": (1, 0),
    # The file system has deleted, and the other program must run before that is told, where the first could go on: 1.
    "disposition_guessed": (1, 0),
    # The other cleanup must come between the look at the mark and the mark, where this one could go on: 1.
    "delete_notified_twice": (1, 0),
    # The program must come between the two renames, where the backup could go on: 1.
    "tunnelled_past_check": (1, 0),
    # The reader waits for its read of its own accord; the canceller then runs to its end, the worker after it: 0.
    "cancel_and_worker_complete": (0, 0),
    # The create must have begun, so that the instance takes part in it, before the teardown begins: 1.
    "queue_failure_pended": (1, 0),
    # The reader parks its read and waits; the detach then runs by itself: 0.
    "teardown_without_drain": (0, 0),
    # The read must have begun before the teardown (1), and be inserted between the drain and the disable (1).
    "drain_then_disable": (2, 0),
    # The cancellation must come between the request's being outstanding and its insertion: 1.
    "queue_context_reused": (1, 0),
    # The worker must run before the canceller, which could go on: 1.
    "list_beside_queue": (1, 0),
    # The second opener must look while the first scans, which could go on: 1.
    "second_opener_admitted": (1, 0),
    # The write must come between the query of the size and the store of the verdict, by an opener that could go on: 1.
    "empty_file_is_clean": (1, 0),
    # The write must come between the scan and the store of the verdict, by an opener that could go on: 1.
    "verdict_overwrites_change": (1, 0),
    # The opener waits, and time passes before the service, which nobody interrupts, answers: 0.
    "scan_given_up": (0, 0),
    # The writer waits for its write, which the worker carries on with by itself: 0.
    "user_address_in_worker": (0, 0),
    # The other reader must fetch while the first one, which could go on, has a record and no lock: 1.
    "record_put_back": (1, 0),
    # The worker must stand between its last look at the queue and the clearing, where it could go on: 1.
    "event_cleared_after_drain": (1, 0),
    # The canceller must have taken the routine when the worker clears it, and could go on: 1.
    "worker_and_cancel_complete": (1, 0),
    # The worker must complete the read while the dispatch routine, which could go on, stands before the mark: 1.
    "marked_after_queueing": (1, 0),
    # The cancellation must come between the read's arrival and its cancel routine: 1.
    "cancelled_before_routine": (1, 0),
    # The close must free the context while the poller, which could go on, stands behind its completion of the read: 1.
    "cleanup_while_polled": (1, 0),
    # The program must open the device and send its request before DriverEntry, which could go on, goes on: 1.
    "reachable_too_early": (1, 0),
    # The first program ends after its queueing, and the second queues before the worker, which nobody waits for: 0.
    "work_item_requeued": (0, 0),
    # The second program must append between the worker's two critical sections, where the worker could go on: 1.
    "queue_if_idle": (1, 0),
    # Time passes before the cancellation, which is no preemption, and then the remover runs to its end: 0.
    "timer_cancelled_too_late": (0, 0),
    # The issuer comes to wait of its own accord; time passes, and the issuer runs to its end: 0.
    "event_after_timeout": (0, 0),
    # The reader holds the protection, and could go on to ask for the lock, when the detach takes that: 1.
    "rundown_under_lock": (1, 0),
    # The writer runs to its end, then the query does: 0. Nobody has to meet anybody.
    "lock_order_inversion": (0, 0),
    # The second read comes back before the first one's worker has made room; the readers wait of their own accord: 0.
    "post_read_finished_after_queueing": (0, 0),
    # The reader waits for its read of its own accord, and the detach then runs by itself: 0.
    "deferred_while_draining": (0, 0),
    # The reader waits of its own accord; the unload does, for the worker, when it has marked the end: 0.
    "late_worker_leaks_item": (0, 0),
    # The cancellation must come between the release of the lock and the second look: 1.
    "pointer_read_again": (1, 0),
    # The request must come between the pause and the encryption, where the converter could go on: 1.
    "veto_after_pause": (1, 0),
    # Every read does it that is not cancelled before: 0.
    "wait_with_cancel_routine": (0, 0),
    # Every read does it that comes before the unload: 0.
    "resource_held_over_read": (0, 0),
    # The file system must complete a read at DISPATCH_LEVEL, and that is no order of threads: one answer.
    "post_read_takes_mutex": (0, 1),
    # One create must come between the other's look at the name and its store: 1.
    "name_allocated_twice": (1, 0),
    # The worker must come between the create's decrement and its second look at the count: 1.
    "count_read_again": (1, 0),
    # The writer must find the section, where the closing thread could go on (1), and that one must come between the
    # notification's taking the scan and its use (1).
    "conflict_uses_scan_context": (2, 0),
    # The create must have begun, and its thread, which could go on, stand before the post-create callback: 1.
    "globals_freed_early": (1, 0),
    # The program must open its file before DriverEntry, which could go on, goes on: 1.
    "started_before_ready": (1, 0),
    # The reader waits of its own accord, and time passes before the disk is done, which is no preemption: 0.
    "sub_request_freed": (0, 0),
    # The detach must come between the reader's publishing its read and that read's being held, where it could go on: 1.
    "cancelled_on_its_way": (1, 0),
    # The writer runs to its end, then the opener takes the lock and reads under it: 0. Nobody has to meet anybody.
    "lock_across_metadata": (0, 0),
    # The opener waits of its own accord; time passes, the worker opens its handle, the opener gives up: 0.
    "open_cancelled_with_handle": (0, 0),
    # The opener waits for the answer of its own accord, and the service's end is the next thing: 0.
    "service_killed": (0, 0),
    # The service ends before the program opens its file: 0.
    "port_copied": (0, 0),
    # The unload runs before the service ends: 0.
    "port_open_at_unload": (0, 0),
    # One enlistment must fail (one answer), and the other create, which could go on to enlist, have found the context
    # before it is deleted: 1.
    "context_deleted_after_failure": (1, 1),
    # The program goes on with its next transaction, and the thread that tells the outcome of the first is new: 0.
    "second_writer_unreferenced": (0, 0),
}

ORDERS = {
    # name -> the orders that the finding needs, by hand: in which thread and on what each event is.
    #
    # The worker gives the operation back before the pre-create looks at it again.
    "touch_after_hand_off": [("wk:delayed#0", "complete the pended IRP_MJ_CREATE", "open_and_close", "return from")],
    # The one looks before the other sets, sets after it, and before the other's close looks for what it has counted in.
    "context_replaced": [
        ("open_and_close", "FltGetStreamContext", "open_and_close", "FltSetStreamContext"),
        ("open_and_close", "FltSetStreamContext", "open_and_close", "FltSetStreamContext"),
        ("open_and_close", "FltSetStreamContext", "open_and_close", "FltGetStreamContext"),
    ],
    # The one looks before the other sets, and sets after it.
    "context_leaked_by_loser": [
        ("open_and_close", "FltGetStreamContext", "open_and_close", "FltSetStreamContext"),
        ("open_and_close", "FltSetStreamContext", "open_and_close", "FltSetStreamContext"),
    ],
    # The read finds the context before the write takes it away, and releases it after that, as the last.
    "context_used_after_release": [
        ("reader", "FltGetStreamContext", "writer", "FltDeleteStreamContext"),
        ("writer", "FltDeleteStreamContext", "reader", "FltReleaseContext"),
    ],
    # The stream's context is free when the close finds the pointer to it.
    "context_pointer_unreferenced": [("writer", "free the stream context", "closer", "FltGetStreamHandleContext")],
    # The last reference goes with the file; the walker has the lock before the cleanup does.
    "context_revived": [
        ("closer", "performs IRP_MJ_CLOSE", "walker", "FltReferenceContext"),
        ("walker", "acquire ListLock", "closer", "acquire ListLock"),
    ],
    # The second looks after the first has looked, and before that has marked.
    "delete_notified_twice": [
        ("delete", "acquire StateLock", "close", "acquire StateLock"),
        ("close", "acquire StateLock", "delete", "acquire StateLock"),
    ],
    # What is made first is told last; this strategy finds it with the deletion made last.
    "disposition_guessed": [
        ("keep", "performs IRP_MJ_SET_INFORMATION", "delete", "performs IRP_MJ_SET_INFORMATION"),
        ("delete", "acquire StateLock", "keep", "acquire StateLock"),
    ],
    # The short name is free when it is looked at, and when the file is created.
    "tunnelled_past_check": [
        ("rotate", "performs IRP_MJ_SET_INFORMATION", "intrude", "query the normalised name"),
        ("intrude", "performs IRP_MJ_CREATE", "rotate", "performs IRP_MJ_SET_INFORMATION"),
    ],
    # The cancellation is on its way to the driver when the worker completes, or the worker would end it.
    "cancel_and_worker_complete": [("canceller", "CancelOperation", "wk:delayed#0", "complete the pended IRP_MJ_READ")],
    # The create takes part in the instance before the teardown begins, and queues after that.
    "queue_failure_pended": [
        ("open_and_close", "deliver pre-operation", "fltmc_detach", "begin the teardown"),
        ("fltmc_detach", "begin the teardown", "open_and_close", "FltQueueDeferredIoWorkItem"),
    ],
    # The read begins before the teardown does, and parks before the gate is closed.
    "teardown_without_drain": [
        ("reader", "begin IRP_MJ_READ", "fltmc_detach", "begin the teardown"),
        ("reader", "acquire GateLock", "fltmc_detach", "acquire GateLock"),
    ],
    # A read begins before the teardown does; the drain has looked at the queue for the last time before either read
    # is inserted, or it would look again; and one is inserted before the queue is disabled.
    "drain_then_disable": [
        ("reader", "begin IRP_MJ_READ", "fltmc_detach", "begin the teardown"),
        ("fltmc_detach", "acquire QueueLock", "reader", "acquire QueueLock"),
        ("fltmc_detach", "acquire QueueLock", "reader", "acquire QueueLock"),
        ("reader", "FltCbdqInsertIo", "fltmc_detach", "acquire QueueLock"),
    ],
    # The read is cancelled before it is inserted.
    "queue_context_reused": [("canceller", "cancel IRP_MJ_READ", "read_and_cancel", "FltCbdqInsertIo")],
    # The worker completes before the cancellation, which its thread comes to when its pre-read has returned.
    "list_beside_queue": [("wk:delayed#0", "complete the pended", "read_and_cancel", "returns FLT_PREOP_PENDING")],
    # The worker has looked for the last time when the request is queued, and clears the event after that is signalled.
    "event_cleared_after_drain": [
        ("worker", "acquire Lock", "submit", "acquire Lock"),
        ("submit", "set Ready", "worker", "clear Ready"),
    ],
    # The cancellation has the read before the worker clears its routine; and the worker does so, under the lock of the
    # queue, before the cancel routine has taken the read out of it.
    "worker_and_cancel_complete": [
        ("canceller", "cancel IRP_MJ_READ", "wk:delayed#0", "IoSetCancelRoutine"),
        ("wk:delayed#0", "acquire QueueLock", "canceller", "acquire QueueLock"),
    ],
    # The worker completes the read before the dispatch routine marks it.
    "marked_after_queueing": [("wk:delayed#0", "complete IRP_MJ_READ", "reader", "mark pending IRP_MJ_READ")],
    # The read is cancelled before its routine is set.
    "cancelled_before_routine": [("canceller", "cancel IRP_MJ_READ", "reader", "IoSetCancelRoutine")],
    # The close frees the context before the poller is back from completing.
    "cleanup_while_polled": [("read_and_close", "free block 'Poll'", "wk:delayed#0", "return from completing")],
    # The link is there before the program looks for it, and its request is before the driver is ready.
    "reachable_too_early": [
        ("load", "make the symbolic link", "ask", "look up"),
        ("ask", "pass IRP_MJ_DEVICE_CONTROL", "load", "return from making the symbolic link"),
    ],
    # Both queue the item before the worker has taken it for either.
    "work_item_requeued": [
        ("notify", "queue work item", "wk:delayed#0", "take work"),
        ("notify", "queue work item", "wk:delayed#0", "take work"),
    ],
    # The worker has seen the empty list before the second request is in it, and clears Busy after that.
    "queue_if_idle": [
        ("wk:delayed#0", "acquire Lock", "scan", "acquire Lock"),
        ("scan", "acquire Lock", "wk:delayed#0", "acquire Lock"),
    ],
    # The timer expires before it is cancelled, and its DPC comes after the memory has gone.
    "timer_cancelled_too_late": [
        ("clock", "let time pass", "request", "cancel Timer"),
        ("request", "free block", "dpc:Expire", "start"),
    ],
    # The request is freed before the DPC writes to it, which it does in the step in which it releases the lock.
    "event_after_timeout": [("send", "free block", "dpc:Complete", "release Lock")],
    # The read begins before the teardown does, holds the protection before that is run down, and comes too late for the
    # lock.
    "rundown_under_lock": [
        ("reader", "begin IRP_MJ_READ", "fltmc_detach", "begin the teardown"),
        ("reader", "acquire EngineRundown", "fltmc_detach", "run down EngineRundown"),
        ("fltmc_detach", "acquire SettingsLock", "reader", "acquire SettingsLock"),
    ],
    # The second sees that a scan is under way, and decides before there is a verdict.
    "second_opener_admitted": [
        ("opener", "InterlockedCompareExchange of State", "opener", "InterlockedCompareExchange of State"),
        ("opener", "read State", "opener", "InterlockedExchange of State"),
    ],
    # The file is empty when it is asked for its size; that it has changed is stored, and then that it is clean.
    "empty_file_is_clean": [
        ("opener", "performs IRP_MJ_QUERY_INFORMATION", "writer", "performs IRP_MJ_WRITE"),
        ("writer", "InterlockedExchange of State", "opener", "InterlockedExchange of State"),
    ],
    # The file is clean when it is read; that it has changed is stored, and then that it is clean.
    "verdict_overwrites_change": [
        ("opener", "performs IRP_MJ_READ", "writer", "performs IRP_MJ_WRITE"),
        ("writer", "InterlockedExchange of State", "opener", "InterlockedExchange of State"),
    ],
    # The request is taken back before the service has answered it.
    "scan_given_up": [("opener", "InterlockedExchange of Asked", "service", "InterlockedExchange of Asked")],
    # Were the teardown there before, nothing would be queued.
    "user_address_in_worker": [
        ("writer", "FltQueueDeferredIoWorkItem", "fltmc_detach", "begin the teardown"),
    ],
    # The first record is taken before the other reader comes, and put back afterwards.
    "record_put_back": [
        ("broken", "acquire LogLock", "reader", "acquire LogLock"),
        ("reader", "acquire LogLock", "broken", "acquire LogLock"),
    ],
    # The log is empty, and the table's lock not taken, in a query that comes before the write.
    "lock_order_inversion": [("writer", "acquire LogLock", "query", "acquire LogLock")],
    # The first read has taken the room when the second one looks, and neither worker has given it back.
    "post_read_finished_after_queueing": [
        ("reader", "InterlockedIncrement", "reader", "InterlockedIncrement"),
        ("reader", "InterlockedIncrement", "wk:delayed#1", "InterlockedDecrement"),
        ("reader", "InterlockedIncrement", "wk:delayed#0", "InterlockedDecrement"),
    ],
    # The read has begun before the teardown does, and is drained before it completes.
    "deferred_while_draining": [
        ("reader", "deliver pre-operation", "fltmc_detach", "begin the teardown"),
        ("fltmc_detach", "deliver draining post-operation", "io:IRP_MJ_READ@fs:C:", "deliver post-operation"),
    ],
    # The item is queued before the unload begins, and its routine looks after the teardown has said that it is over.
    "late_worker_leaks_item": [
        ("reader", "FltQueueGenericWorkItem", "fltmc_unload", "unregister"),
        ("fltmc_unload", "InterlockedExchange", "wk:delayed#0", "InterlockedCompareExchange"),
    ],
    # The read is there when its cancellation looks for it, and is made cancellable before; and the cancel callback
    # clears the pointer before the pre-read looks at it again.
    "pointer_read_again": [
        ("reader", "start", "canceller", "list the requests"),
        ("reader", "release cancel spin lock", "canceller", "cancel IRP_MJ_READ"),
        ("canceller", "store Shadow", "reader", "load Shadow"),
    ],
    # The request comes after the pause and before the encryption.
    "veto_after_pause": [
        ("converter", "acquire StreamLock", "program", "acquire StreamLock"),
        ("program", "acquire StreamLock", "converter", "acquire StreamLock"),
    ],
    # The wait begins before the cancellation has taken the routine.
    "wait_with_cancel_routine": [("reader", "begin a cancellable wait", "canceller", "cancel IRP_MJ_READ")],
    # The read begins before the teardown does, and is delivered before the teardown has looked at what is outstanding.
    "resource_held_over_read": [
        ("reader", "begin IRP_MJ_READ", "fltmc_unload", "begin the teardown"),
        ("reader", "deliver pre-operation", "fltmc_unload", "see the operations"),
    ],
    # None: it is the file system's decision.
    "post_read_takes_mutex": [],
    # Each of the two looks before the other has stored.
    "name_allocated_twice": [
        ("opener", "load VolumeName", "opener", "store VolumeName"),
        ("opener", "load VolumeName", "opener", "store VolumeName"),
    ],
    # The create has decremented when the worker looks, or the worker would not free; and looks itself after that.
    "count_read_again": [
        ("script", "InterlockedDecrement", "wk:delayed#0", "load RECORD.References"),
        ("wk:delayed#0", "free block", "script", "load RECORD.References"),
    ],
    # The section is there when the writer looks; the notification takes the scan before the scanning thread would,
    # which frees it before it is used.
    "conflict_uses_scan_context": [
        ("close", "begin to make", "shorten", "look for sections"),
        ("shorten", "InterlockedExchangePointer", "close", "InterlockedExchangePointer"),
        ("close", "free block 'Scan'", "shorten", "set SCAN.Abort"),
    ],
    # The create takes part in the instance before the teardown begins, and its callback comes when the table is freed.
    "globals_freed_early": [
        ("opener", "deliver pre-operation", "fltmc_unload", "begin the teardown"),
        ("fltmc_unload", "free block", "opener", "deliver post-operation"),
    ],
    # The create comes when the instance is attached, and its callback before DriverEntry has made the table.
    "started_before_ready": [
        ("load", "attach instance", "opener", "begin IRP_MJ_CREATE"),
        ("opener", "deliver pre-operation", "load", "return from FltStartFiltering"),
    ],
    # The reader gives the callback data up before the callback that it is promised for.
    "sub_request_freed": [("reader", "FltFreeCallbackData", "io:IRP_MJ_READ@fs:C:", "deliver IoCompleted")],
    # The instance takes part in the program's read; the filter's own is published before the teardown looks, and
    # cancelled before it is sent, at the latest before it is made cancellable below.
    "cancelled_on_its_way": [
        ("reader", "begin IRP_MJ_READ", "fltmc_detach", "begin the teardown"),
        ("reader", "acquire Lock", "fltmc_detach", "acquire Lock"),
        ("fltmc_detach", "FltCancelIo", "reader", "FltPerformAsynchronousIo"),
        ("fltmc_detach", "cancel callback data", "reader", "FltSetCancelCompletion"),
    ],
    # The file is stale when the opener looks.
    "lock_across_metadata": [("writer", "acquire Lock", "opener", "acquire Lock")],
    # The time is over before the worker is done, whose handle is there before the opener has seen that.
    "open_cancelled_with_handle": [
        ("clock", "let time pass", "wk:delayed#0", "set Done"),
        ("wk:delayed#0", "open handles of System", "opener", "see the signal of Done"),
    ],
    # The connection ends before the service has answered.
    "service_killed": [("taskkill", "close handle to client port", "service.listener", "answer a message")],
    # The port is closed before it is sent through.
    "port_copied": [("stops", "close the port in CONNECTION.Port", "opener", "send a message through ClientPort")],
    # The unload begins before the server port is closed.
    "port_open_at_unload": [("fltmc_unload", "deliver FilterUnload", "stops", "close server port")],
    # The one finds the context before the other deletes it; that one fails while nobody is enlisted, or it would not
    # be told of want of memory.
    "context_deleted_after_failure": [
        ("opener", "FltGetTransactionContext", "opener", "FltDeleteContext"),
        ("opener", "FltEnlistInTransaction", "opener", "enlist in"),
    ],
    # The second transaction is swapped in before the outcome of the first one is told.
    "second_writer_unreferenced": [
        ("program", "InterlockedExchangePointer", "ktm:transaction 0", "InterlockedCompareExchangePointer")
    ],
}


WITHOUT_ORDER = {"post_read_takes_mutex"}
"""Scenarios whose bug is a matter of what the system decides, and not of which thread is first."""
PLAIN_RACES = {"name_allocated_twice", "count_read_again", "pointer_read_again"}
"""Scenarios whose bug is a plain access beside others: with race detection no run gets to its consequence."""


def programs(variant: str, bystanders: int = 0, *, races: bool = False) -> list[ScenarioProgram]:
    """Every shipped scenario with that variant."""
    return [
        ScenarioProgram(one.loaded, one.scenario, one.variant, bystanders=bystanders, races=races)
        for one in select(str(FOLDER), variant=variant)
    ]


LARGE = {"service_reenters", "scanner"}
"""Scenarios with too many schedules for some of what follows; ``test_port_scenarios`` looks after them."""


def names(variant: str) -> list[str]:
    return [one.scenario.name for one in programs(variant) if one.scenario.name not in LARGE]


def program(name: str, variant: str, bystanders: int = 0, *, races: bool = False) -> ScenarioProgram:
    return next(one for one in programs(variant, bystanders, races=races) if one.scenario.name == name)


def test_every_scenario_has_a_hand_derived_minimum() -> None:
    assert sorted(names("buggy")) == sorted(MINIMA) == sorted(ORDERS)


@pytest.mark.parametrize("bystanders", [0, 5])
@pytest.mark.parametrize("name", names("buggy"))
def test_the_race_is_found_within_500_schedules(name: str, bystanders: int) -> None:
    one = program(name, "buggy", bystanders)
    for seed in range(3):
        found = explore(one, strategy_from_name(DEFAULT_STRATEGY, seed), Budget(schedules=500))
        assert found.findings, f"seed {seed} found nothing in {found.schedules} schedules"


@pytest.mark.parametrize("name", names("buggy"))
def test_the_expected_finding_is_found_and_shrunk(name: str) -> None:
    one = program(name, "buggy")
    found = explore(one, strategy_from_name(DEFAULT_STRATEGY, 1), Budget(schedules=500), keep_going=True)
    expected = next(finding for finding in found.findings if finding.failure.code == one.expected)
    shrunk = shrink(one, expected.choices, second=expected.second)
    assert shrunk.replays <= 70
    cost = shrunk.recording.cost
    preemptions, answers = MINIMA[name]
    assert preemptions <= cost.preemptions <= preemptions + 1
    assert cost.answers == answers
    # With the state of drivers: what matters may be an access to it.
    explained = explain(one.instrumented(), shrunk.recording.choices)
    assert explained is not None
    if name in WITHOUT_ORDER:
        assert explained.conflict is None
        return
    assert explained.conflict is not None
    assert explained.conflict.first.thread != explained.conflict.second.thread
    passing = explained.conflict.choices
    assert passing is not None
    assert explain(one, passing) is None


@pytest.mark.parametrize("name", names("buggy"))
def test_the_orders_that_make_it_fail(name: str) -> None:
    one = program(name, "buggy")
    found = explore(one, strategy_from_name("alternating", 0), Budget(schedules=500))
    shrunk = shrink(one, found.findings[0].choices)
    assert shrunk.recording.cost.preemptions == MINIMA[name][0]
    explained = explain(one.instrumented(), shrunk.recording.choices)
    assert explained is not None
    assert explained.failure.code == one.expected
    orderings = explained.orderings
    assert orderings is not None
    assert orderings.settled
    assert [order.reversal for order in orderings.orders] == ["passes"] * len(ORDERS[name])
    # Of two readers that are alike either may be the one.
    for order, (first, does, second, what) in zip(orderings.orders, ORDERS[name], strict=True):
        assert (order.first.thread.partition("#2")[0], order.second.thread.partition("#2")[0]) == (first, second)
        assert does in order.first.what
        assert what in order.second.what


def test_a_work_item_that_is_freed_too_early_is_found_as_well() -> None:
    one = program("work_item_requeued", "early_free")
    found = explore(one, strategy_from_name(DEFAULT_STRATEGY, 0), Budget(schedules=500))
    assert [finding.failure.code for finding in found.findings] == [one.expected] == ["ke.work-freed-queued"]


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("work_item_requeued", 20),
        ("queue_if_idle", 24),
        # Whether the timer is cancelled in time.
        ("timer_cancelled_too_late", 2),
        ("event_after_timeout", 9),
    ],
)
def test_the_repaired_twins_of_the_kernel_core_are_proved(name: str, classes: int) -> None:
    found = explore(program(name, "fixed"), strategy_from_name("dpor", 0), Budget())
    assert found.exhausted
    assert found.findings == ()
    assert found.distinct == classes


@pytest.mark.parametrize("name", names("fixed"))
def test_the_repaired_twin_is_clean(name: str) -> None:
    one = program(name, "fixed")
    found = explore(one, strategy_from_name(DEFAULT_STRATEGY, 2), Budget(schedules=500))
    assert [finding.failure.summary for finding in found.findings] == []


@pytest.mark.parametrize("bystanders", [0, 3])
@pytest.mark.parametrize("name", names("fixed"))
def test_the_repaired_twin_has_no_race(name: str, bystanders: int) -> None:
    one = program(name, "fixed", bystanders, races=True)
    found = explore(one, strategy_from_name(DEFAULT_STRATEGY, 4), Budget(schedules=400))
    assert [finding.failure.summary for finding in found.findings] == []


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", names("fixed"))
def test_no_schedule_of_the_repaired_twin_has_a_race_at_bound_2(name: str) -> None:
    found = explore(program(name, "fixed", races=True), BoundedDFS(2), Budget())
    assert found.exhausted
    assert [finding.failure.summary for finding in found.findings] == []


PROVED = {
    # name -> the classes of the repaired twin: how far the disk's threads, and the time, are when the reader waits.
    # name -> the classes of the repaired twin. How far the disk and the time have got when the reader waits:
    "sub_request_freed": 8,
    # Of a program's read, the filter's own, which is held below, and a detach.
    "cancelled_on_its_way": 173,
    # Which of the two programs takes the lock first, and what else they share.
    "lock_across_metadata": 4,
    "open_cancelled_with_handle": 7,
    # What two programs do with different files is independent.
    "simulated_reparse_point": 1,
}


@pytest.mark.parametrize("name", PROVED)
def test_the_repaired_twins_of_generated_io_are_proved(name: str) -> None:
    found = explore(program(name, "fixed"), DPOR(), Budget())
    assert found.exhausted
    assert found.findings == ()
    assert found.distinct == PROVED[name]


def test_a_filter_that_reparses_is_clean() -> None:
    found = explore(program("simulated_reparse_point", "fixed"), DPOR(), Budget())
    assert found.exhausted
    assert found.findings == ()


USED_AFTER_FREE = {
    "timer_cancelled_too_late",
    "event_after_timeout",
    "cleanup_while_polled",
    "context_used_after_release",
    "globals_freed_early",
}
"""Where the finding is a use of memory that was freed. Nothing orders the two, so that race detection reports them as
soon as both have happened, whichever came first."""


@pytest.mark.parametrize("name", names("buggy"))
def test_the_expected_finding_is_found_with_race_detection_as_well(name: str) -> None:
    one = program(name, "buggy", races=True)
    found = explore(one, strategy_from_name(DEFAULT_STRATEGY, 1), Budget(schedules=500), keep_going=True)
    expected = "ke.data-race" if name in USED_AFTER_FREE | PLAIN_RACES else one.expected
    assert expected in {finding.failure.code for finding in found.findings}


@pytest.mark.parametrize("name", names("fixed"))
def test_no_schedule_of_the_repaired_twin_fails_at_bound_1(name: str) -> None:
    found = explore(program(name, "fixed"), BoundedDFS(1), Budget())
    assert found.exhausted
    assert [finding.failure.summary for finding in found.findings] == []


@pytest.mark.nightly
@pytest.mark.parametrize("name", names("fixed"))
def test_no_schedule_of_the_repaired_twin_fails_at_bound_2(name: str) -> None:
    found = explore(program(name, "fixed"), BoundedDFS(2), Budget())
    assert found.exhausted
    assert [finding.failure.summary for finding in found.findings] == []


@pytest.mark.nightly
@pytest.mark.parametrize("name", names("fixed"))
def test_the_repaired_twin_is_clean_for_5000_schedules(name: str) -> None:
    found = explore(program(name, "fixed"), strategy_from_name(DEFAULT_STRATEGY, 3), Budget(schedules=5000))
    assert [finding.failure.summary for finding in found.findings] == []


@pytest.mark.parametrize("name", names("fixed"))
def test_the_reduced_search_hardly_begins_a_run_in_vain(name: str) -> None:
    found = explore(program(name, "fixed"), DPOR(), Budget(schedules=600))
    assert found.reduction is not None
    assert found.reduction.traces == found.distinct
    # An unload that waits for references, and for operations that may have to be drained, is looked at more often.
    share = 0.05 if name == "late_worker_leaks_item" else 0.02
    assert found.reduction.blocked <= max(1, share * found.schedules)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_all_classes_of_the_largest_scenario() -> None:
    # As many as without knowing anything of when a teardown that waits could have gone on, and giving up 29,016 runs.
    found = explore(program("drain_then_disable", "fixed"), DPOR(), Budget())
    assert found.exhausted
    assert found.reduction is not None
    assert found.reduction.traces == found.distinct == 99_468
