"""The recorder: what becomes of events, what it adds, and that it changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from log.kit import Choices, Failed, Ping, Small, record

from kemu.errors import InternalError
from kemu.log import Recorder, capture
from kemu.log.recorder import HEAD
from kemu.nt.dispatcher import WaitForObject
from kemu.nt.event import KEVENT, SetEvent
from kemu.nt.lock import AcquireLock, OwnedLock, ReleaseLock
from kemu.nt.status import STATUS_SUCCESS
from kemu.runtime import Actor, Cell, First, Join, Point, ServingActor, current_thread, tell


def spawn(label: str, coroutine: Any) -> Any:
    return current_thread().runtime.spawn(label, coroutine)


async def wait_and_set() -> None:
    event = KEVENT("go")

    async def waiter() -> None:
        await WaitForObject(event)

    spawn("waiter", waiter())
    await Point("let it wait")
    await SetEvent(event)


def test_events_are_flat_tuples_of_atoms() -> None:
    result = record(wait_and_set, 1)
    for event in result.recorder.events:
        assert len(event) >= len(HEAD)
        assert {type(value) for value in event} <= {str, int, bool, float, type(None)}


def test_a_wake_is_caused_by_the_signal_and_causes_the_wait() -> None:
    # Main spawns the waiter, which is scheduled (1), blocks, and is woken by main's set.
    result = record(wait_and_set, 1)
    block = result.one("sched.block", thread="waiter")
    wake = result.one("sched.wake")
    wait = result.one("sync.wait")
    assert block["waits_for"] == "see the signal of go"
    assert result.cause_of(wake)["ev"] == "sync.signal"
    assert (wake["thread"], result.cause_of(wake)["thread"]) == ("waiter", "main")
    assert wait["cause"] == wake["seq"]
    assert block["seq"] < wake["seq"] < wait["seq"]


def test_a_wait_that_need_not_wait_is_caused_by_the_signal() -> None:
    result = record(wait_and_set)
    assert result.of("sched.wake") == []
    assert result.cause_of(result.one("sync.wait"))["ev"] == "sync.signal"


def test_a_poll_that_times_out_is_not_caused_by_an_old_signal() -> None:
    async def main() -> None:
        event = KEVENT("go")
        event.type = 1
        await SetEvent(event)
        await WaitForObject(event, 0)
        await WaitForObject(event, 0)

    first, second = record(main).of("sync.wait")
    assert first["status"] == "STATUS_SUCCESS"
    assert second["status"] == "STATUS_TIMEOUT"
    assert "cause" in first
    assert "cause" not in second


def test_time_passing_is_record() -> None:
    async def main() -> None:
        await WaitForObject(KEVENT("never"), 5_000)

    result = record(main)
    clock = result.one("sched.decide", thread="clock")
    assert (clock["why"], clock["enabled"]) == ("clock", ["clock"])
    wake = result.one("sched.wake")
    assert (wake["vt"], wake["cause"]) == (5_000, clock["seq"])
    assert result.one("sync.wait")["cause"] == wake["seq"]


def test_the_first_event_of_a_thread_is_caused_by_its_creation() -> None:
    async def main() -> None:
        async def child() -> None:
            await SetEvent(KEVENT("done"))

        spawn("child", child())

    result = record(main)
    assert result.cause_of(result.one("sync.signal")) == result.one("actor.spawn", thread_name="child")


def test_decisions_say_who_could_run_and_why_it_changed() -> None:
    async def main() -> None:
        async def other() -> None:
            await Point("one")
            await Point("two")

        spawn("other", other())
        await Point("here")
        await Point("there")

    # Steps: main (forced), main goes on, other preempts it, other goes on, main preempts it, then it is over and
    # other is forced.
    result = record(main, 0, 1, 0, 1)
    assert [(row["step"], row["thread"], row["why"]) for row in result.of("sched.decide")] == [
        (0, "main", "forced"),
        (1, "main", "continue"),
        (2, "other", "preempt"),
        (3, "other", "continue"),
        (4, "main", "preempt"),
        (5, "other", "forced"),
    ]
    assert result.of("sched.decide")[2]["enabled"] == ["main", "other"]
    assert result.of("sched.decide")[4]["enabled"] == ["other", "main"]
    assert [row["pick"] for row in result.of("sched.decide")] == [0, 0, 1, 0, 1, 0]


def test_a_choice_is_recorded_with_its_question() -> None:
    async def main() -> None:
        current_thread().runtime.choose(3, "how it ends")

    row = record(main, 2).one("choice")
    assert (row["what"], row["n"], row["value"], row["thread"]) == ("how it ends", 3, 2, "main")


def test_messages_are_shown_and_a_receipt_is_caused_by_the_sending() -> None:
    class Server(ServingActor):
        async def ping(self, number: int) -> None:
            await Point("pong")

    async def main() -> None:
        await tell(Server(current_thread().runtime, "server"), Ping, 7)

    result = record(main)
    received = result.one("msg.recv")
    assert received["message"] == "Ping(7)"
    assert result.cause_of(received) == result.one("msg.send", to="server")
    assert received["thread"] == received["actor"] == "server"


def test_locks_hand_over() -> None:
    async def main() -> None:
        lock = OwnedLock("L")

        async def user() -> None:
            await AcquireLock(lock)
            await ReleaseLock(lock)

        spawn("one", user())
        spawn("two", user())

    first, second = record(main).of("sync.acquire")
    assert "cause" in first
    result = record(main)
    assert result.cause_of(second)["ev"] in {"sync.release", "actor.spawn"}
    assert result.cause_of(result.of("sync.release")[0]) == first


def test_things_of_one_label_are_told_apart() -> None:
    async def main() -> None:
        async def twin() -> None:
            await Point("be")

        first = spawn("twin", twin())
        second = spawn("twin", twin())
        await Join(first)
        await Join(second)

    result = record(main)
    assert [row["thread_name"] for row in result.of("actor.spawn")] == ["main", "twin", "twin(2)"]
    assert sorted(row["thread_name"] for row in result.of("actor.exit")) == ["main", "twin", "twin(2)"]
    assert [one["name"] for one in result.trace.header["threads"]] == ["main", "twin", "twin(2)"]


class Operation:
    """What a framework's operation says of itself."""

    def __init__(self, major: str) -> None:
        self.major = major

    def log_fields(self) -> dict[str, object]:
        return {"irp": self, "op": self.major}


class Part:
    """An instance's part in an operation."""

    def __init__(self, operation: Operation, flt: str) -> None:
        self.operation = operation
        self.flt = flt

    def log_fields(self) -> dict[str, object]:
        return {**self.operation.log_fields(), "flt": self.flt, "inst": f"{self.flt} instance", "alt": "328010"}


def test_operations_are_numbered_and_their_events_linked() -> None:
    async def main() -> None:
        log = current_thread().runtime.log
        assert log is not None
        create, read = Operation("IRP_MJ_CREATE"), Operation("IRP_MJ_READ")
        part, lower = Part(read, "flt:a"), Part(read, "flt:b")
        log("irp.create", about=create, path="\\x")
        log("irp.create", about=read, path="\\x")
        log("flt.pre.enter", frame=part)
        log("flt.queue", frame=part, status=STATUS_SUCCESS)
        log("flt.pre.return", frame=part, ret=2)
        log("flt.dequeue", frame=part)
        log("flt.complete_pended", frame=part, ret=0)
        log("flt.pre.enter", frame=lower)
        log("flt.pre.return", frame=lower, ret=0)
        log("fs.call", about=read)
        log("fs.return", about=read, status=STATUS_SUCCESS)
        log("flt.post.enter", frame=part)
        log("flt.post.return", frame=part, ret=0)
        log("irp.complete", about=read, status=STATUS_SUCCESS, info=5)

    result = record(main)
    rows = [row for row in result.trace.events if row["ev"].partition(".")[0] in {"irp", "flt", "fs"}]
    assert [row["irp"] for row in rows] == [1, *[2] * 13]
    causes = [(row["ev"], result.cause_of(row)["ev"]) for row in rows[2:]]
    assert causes == [
        ("flt.pre.enter", "irp.create"),
        ("flt.queue", "flt.pre.enter"),
        ("flt.pre.return", "flt.pre.enter"),
        ("flt.dequeue", "flt.queue"),
        ("flt.complete_pended", "flt.pre.return"),
        ("flt.pre.enter", "flt.complete_pended"),
        ("flt.pre.return", "flt.pre.enter"),
        ("fs.call", "flt.pre.return"),
        ("fs.return", "fs.call"),
        ("flt.post.enter", "flt.complete_pended"),
        ("flt.post.return", "flt.post.enter"),
        ("irp.complete", "flt.post.return"),
    ]
    assert rows[2] == rows[2] | {"op": "IRP_MJ_READ", "flt": "flt:a", "inst": "flt:a instance", "alt": "328010"}
    assert rows[-1]["status"] == "STATUS_SUCCESS"


def test_a_completion_before_the_return_is_caused_by_the_queueing() -> None:
    async def main() -> None:
        log = current_thread().runtime.log
        assert log is not None
        part = Part(Operation("IRP_MJ_READ"), "flt:a")
        for event in ("flt.pre.enter", "flt.queue", "flt.complete_pended", "flt.pre.return"):
            log(event, frame=part)

    result = record(main)
    assert result.cause_of(result.one("flt.complete_pended"))["ev"] == "flt.queue"


def test_the_actor_in_whose_code_the_thread_is() -> None:
    async def main() -> None:
        thread = current_thread()
        event = KEVENT("e")
        thread.actors.append(Actor(thread.runtime, "flt:outer"))
        await SetEvent(event)
        thread.actors.append(Actor(thread.runtime, "flt:inner"))
        await SetEvent(event)
        thread.actors.clear()

    result = record(main)
    assert [row["actor"] for row in result.of("sync.signal")] == ["flt:outer", "flt:inner"]
    assert result.trace.header["actors"] == [
        {"id": 1, "name": "flt:outer", "kind": "actor"},
        {"id": 2, "name": "flt:inner", "kind": "actor"},
    ]
    assert result.recorder.actors_of_steps == ["", "flt:outer", "flt:inner"]


def test_objects_are_listed_in_order_of_appearance() -> None:
    async def main() -> None:
        log = current_thread().runtime.log
        assert log is not None
        twin = Cell(current_thread(), "lock")
        log("sync.acquire", obj=Cell(current_thread(), "lock"))
        log("sync.acquire", obj=twin)
        log("sync.acquire", obj="bare")

    assert record(main).trace.header["objects"] == [
        {"id": 1, "name": "lock", "kind": "Cell"},
        {"id": 2, "name": "lock(2)", "kind": "Cell"},
        {"id": 3, "name": "bare"},
    ]


def test_what_the_manifest_does_not_know_is_kept() -> None:
    async def main() -> None:
        log = current_thread().runtime.log
        assert log is not None
        log("new.event", colour="red", seq=99)

    row = record(main).one("new.event")
    assert row["colour"] == "red"
    assert row["seq"] != 99


def test_a_finding_at_the_end_of_a_run_is_its_last_event() -> None:
    program = Small(wait_and_set)
    program.failure = Failed()
    _, trace, _ = capture(program, First())
    assert trace.events[-1]["ev"] == "check.violation"
    assert trace.events[-1]["check"] == "test-failure"
    assert trace.header["outcome"] == "finding"
    assert trace.header["failure"] == {"check": "test-failure", "summary": "it failed", "sig": ["test-failure"]}


@pytest.mark.parametrize("choices", [(), (1,), (0, 1), (1, 1, 1)])
def test_recording_changes_nothing(choices: tuple[int, ...]) -> None:
    async def main() -> None:
        await wait_and_set()
        current_thread().runtime.choose(2, "what")
        await WaitForObject(KEVENT("never"), 5_000)

    plain = Small(main).run(Choices(*choices))
    logged, trace, _ = capture(Small(main), Choices(*choices))
    assert (plain.choices, plain.fingerprint, plain.steps) == (logged.choices, logged.fingerprint, logged.steps)
    assert trace.header["digest"] == f"{plain.fingerprint:016x}"


def test_the_same_run_gives_the_same_lines() -> None:
    first = list(capture(Small(wait_and_set), First())[1].lines())
    assert list(capture(Small(wait_and_set), First())[1].lines()) == first


def test_a_recorder_that_is_not_the_log_says_so() -> None:
    with pytest.raises(InternalError, match="whose log it is not"):
        Recorder().before_step(None, 0, 1)
