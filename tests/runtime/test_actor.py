"""Actors and messages: ask runs on the sender's thread, tell is handled by the receiver's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runtime.kit import Flag, Increment, Main, Put, Variable, Wait, every_run, ordered, run, spawn

from kemu.runtime import Actor, Deliver, Message, Point, ServingActor, Stuck, ask, current_thread, tell
from kemu.runtime.actor import Send


@dataclass(frozen=True, slots=True)
class Work(Message):
    handler: ClassVar[str] = "work"
    item: str


@dataclass(frozen=True, slots=True)
class Fail(Message):
    handler: ClassVar[str] = "fail"


class Callee(Actor):
    """Counts who is inside its handler."""

    def __init__(self, label: str) -> None:
        super().__init__(current_thread().runtime, label)
        self.inside = 0
        self.most = 0

    async def work(self, item: str) -> tuple[str, str, list[str]]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await Point("inside")
        self.inside -= 1
        thread = current_thread()
        return item, thread.label, [actor.label for actor in thread.actors]

    async def fail(self) -> None:
        raise ValueError("from the handler")


class Caller(Actor):
    async def work(self, item: str, callee: Callee) -> object:
        return await ask(callee, Work, item)


def test_ask_runs_the_handler_on_the_calling_thread() -> None:
    async def main() -> object:
        return await ask(Callee("callee"), Work, "item")

    assert run(main).result == ("item", "main", ["callee"])


def test_an_actor_is_reentrant_for_ask() -> None:
    async def caller(callee: Callee) -> None:
        await ask(callee, Work, "item")

    async def main() -> Callee:
        callee = Callee("callee")
        for label in "ab":
            spawn(label, caller(callee))
        return callee

    # Both have started and are being delivered, then both are inside.
    assert run(main).result.most == 1
    assert ordered(main, "a b a b a b").result.most == 2


def test_the_stack_of_actors_says_in_whose_code_a_thread_is() -> None:
    async def main() -> list[object]:
        thread = current_thread()
        callee, caller = Callee("callee"), Caller(thread.runtime, "caller")
        found: list[object] = [thread.actor]

        class Nested(Message):
            handler = "work"

        found.append(await ask(caller, Nested, "item", callee))
        found.append(thread.actor)
        return found

    assert run(main).result == [None, ("item", "main", ["caller", "callee"]), None]


def test_the_stack_is_right_after_an_exception() -> None:
    async def main() -> list[object]:
        callee = Callee("callee")
        try:
            await ask(callee, Fail)
        except ValueError:
            return list(current_thread().actors)
        raise AssertionError("no exception")

    assert run(main).result == []


def test_a_delivery_is_one_step_and_reads_the_receiver() -> None:
    async def main() -> str:
        callee = Callee("callee")
        assert repr(callee) == "callee"
        await ask(callee, Work, "item")
        return callee.presence.label

    outcome = run(main)
    # Up to the delivery, the delivery and the handler up to its point, and on from there.
    assert outcome.steps == 3
    assert outcome.result == "callee"


class Worker(ServingActor):
    def __init__(self, label: str, *, threads: int = 1) -> None:
        super().__init__(current_thread().runtime, label, threads=threads)
        self.done: list[tuple[str, str]] = []
        self.most = 0
        self._inside = 0

    async def work(self, item: str) -> None:
        self._inside += 1
        self.most = max(self.most, self._inside)
        await Point("work")
        self._inside -= 1
        thread = current_thread()
        assert thread.actor is self
        self.done.append((thread.label, item))


def test_told_messages_are_handled_in_order_on_the_receivers_thread() -> None:
    async def main() -> Worker:
        worker = Worker("worker")
        for item in ("1", "2", "3"):
            await tell(worker, Work, item)
        return worker

    count = 0
    for outcome in every_run(main):
        # The worker waits for more, which is no hang.
        assert outcome.end == "finished"
        assert outcome.result.done == [("worker", "1"), ("worker", "2"), ("worker", "3")]
        assert outcome.result.most == 1
        count += 1
    assert count > 10


def test_messages_of_two_senders_keep_each_senders_order() -> None:
    async def sender(worker: Worker) -> None:
        label = current_thread().label
        for number in "12":
            await tell(worker, Work, label + number)

    async def main() -> Worker:
        worker = Worker("worker")
        for label in "ab":
            spawn(label, sender(worker))
        return worker

    orders: set[tuple[str, ...]] = set()
    for outcome in every_run(main, limit=50_000):
        items = [item for _, item in outcome.result.done]
        assert [item for item in items if item[0] == "a"] == ["a1", "a2"]
        assert [item for item in items if item[0] == "b"] == ["b1", "b2"]
        orders.add(tuple(items))
    # 4! / (2! 2!)
    assert len(orders) == 6


def test_several_threads_serve_one_actor() -> None:
    async def main() -> Worker:
        worker = Worker("worker", threads=2)
        for item in ("1", "2"):
            await tell(worker, Work, item)
        return worker

    both: set[int] = set()
    labels: set[str] = set()
    for outcome in every_run(main, limit=50_000):
        assert outcome.end == "finished"
        assert len(outcome.result.done) == 2
        both.add(outcome.result.most)
        labels |= {label for label, _ in outcome.result.done}
    assert both == {1, 2}
    assert labels == {"worker#0", "worker#1"}


def test_a_service_that_waits_in_the_middle_of_its_work_is_not_at_rest() -> None:
    class Waiting(ServingActor):
        async def work(self, item: str) -> None:
            await Wait(Flag(item))

    async def main() -> None:
        worker = Waiting(current_thread().runtime, "worker")
        await tell(worker, Work, "the answer")

    outcome = run(main)
    assert outcome.end == "stuck"
    assert isinstance(outcome.stuck, Stuck)
    (blocked,) = outcome.stuck.blocked
    assert blocked.service
    assert blocked.actors == ("worker",)
    assert str(blocked) == "worker waits to wait for the answer, which nobody will bring about"


def test_messages_are_built_for_a_log_and_linked_to_their_cause() -> None:
    events: list[tuple[str, int | None, dict[str, Any]]] = []

    def log(event: str, /, *, cause: int | None = None, **fields: Any) -> int:
        events.append((event, cause, fields))
        return len(events)

    async def main() -> None:
        worker, callee = Worker("worker"), Callee("callee")
        current_thread().runtime.log = log
        await tell(worker, Work, "told")
        await ask(callee, Work, "asked")

    run(main)
    messages = [(event, cause, fields["message"]) for event, cause, fields in events if event.startswith("msg")]
    assert messages[0] == ("msg.send", None, Work("told"))
    assert ("msg.recv", 1, Work("told")) in messages
    assert ("msg.send", None, Work("asked")) in messages
    assert [fields["thread_name"] for event, _, fields in events if event == "actor.exit"] == ["main"]


def test_what_a_trace_calls_a_delivery_and_a_sending() -> None:
    async def main() -> None:
        callee, worker = Callee("callee"), Worker("worker")
        deliver, send = Deliver(callee, Work), Send(worker.mailbox, Work, ("item",))
        assert deliver.describe() == "deliver Work to callee"
        assert deliver.target() is callee.presence
        assert send.describe() == "send Work to worker"
        assert send.target() is worker.mailbox

    assert run(main).crash is None


def silent(event: str, /, *, cause: int | None = None, **fields: Any) -> int:
    return 0


def test_a_log_changes_nothing() -> None:
    def program(log: bool) -> Main:
        async def main() -> None:
            if log:
                current_thread().runtime.log = silent
            worker, variable, flag = Worker("worker"), Variable("x"), Flag()
            await tell(worker, Work, "told")
            await Increment(variable)
            await Put(flag)

        return main

    plain = [(outcome.choices, outcome.fingerprint) for outcome in every_run(program(False))]
    assert plain == [(outcome.choices, outcome.fingerprint) for outcome in every_run(program(True))]
