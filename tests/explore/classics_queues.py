"""More of the literature's programs: what threads pass to one another through buffers, stacks and queues.

From SCTBench, as those in `classics`: stack, queue, circular buffer and string buffer of CS, the bounded buffer of
Inspect, and the work-stealing queue of CHESS.
"""

from __future__ import annotations

from explore.classics import Add, Body, program
from explore.programs import Acquire, Load, Mutex, Release, Store, TestProgram, Variable, fail

from kemu.runtime import BlockingOperation, Cell, Operation, Thread, Waitable, current_thread

SIZE = 3
"""How many values go through a buffer."""


def stack() -> TestProgram:
    """One thread pushes; the other pops as often as soon as anything was pushed, whether anything is left or not."""

    def bodies() -> list[Body]:
        lock, top, pushed = Mutex("lock"), Variable("top"), Variable("pushed")

        async def push() -> None:
            for _ in range(2 * SIZE):
                await Acquire(lock)
                await Add(top, 1)
                await Store(pushed, 1)
                await Release(lock)

        async def pop() -> None:
            for _ in range(2 * SIZE):
                await Acquire(lock)
                if await Load(pushed) and await Add(top, -1) < 0:
                    fail("popped from an empty stack")
                await Release(lock)

        return [push(), pop()]

    return program("stack", bodies)


def queue() -> TestProgram:
    """Each value is put in after the one before was taken out, but both sides also count the turns they missed."""

    def bodies() -> list[Body]:
        lock, turn = Mutex("lock"), Variable("turn")
        values, expected = list[int](), [-1] * (SIZE + 1)

        async def put() -> None:
            for number in range(SIZE):
                await Acquire(lock)
                if not await Load(turn):
                    values.append(number)
                    expected[number] = number
                    await Store(turn, 1)
                await Release(lock)

        async def take() -> None:
            for number in range(SIZE):
                await Acquire(lock)
                if await Load(turn):
                    if values.pop(0) != expected[number]:
                        fail("not what was put in")
                    await Store(turn, 0)
                await Release(lock)

        return [put(), take()]

    return program("queue", bodies)


def circular_buffer() -> TestProgram:
    """A ring with a flag for each side; the consumer expects the value of the number of its turn."""

    def bodies() -> list[Body]:
        lock, may_send, may_receive = Mutex("lock"), Variable("may send", 1), Variable("may receive")
        first, following = Variable("first"), Variable("next")
        ring = [0] * (SIZE + 1)

        async def send() -> None:
            for number in range(SIZE):
                await Acquire(lock)
                if await Load(may_send):
                    ring[await Add(following, 1) % len(ring) - 1] = number
                    await Store(may_send, 0)
                    await Store(may_receive, 1)
                await Release(lock)

        async def receive() -> None:
            for number in range(SIZE):
                await Acquire(lock)
                if await Load(may_receive):
                    if ring[await Add(first, 1) % len(ring) - 1] != number:
                        fail("removed in another order")
                    await Store(may_receive, 0)
                    await Store(may_send, 1)
                await Release(lock)

        return [send(), receive()]

    return program("circular_buffer", bodies)


def stringbuffer() -> TestProgram:
    """One thread asks how long a string is and copies that much of it; another cuts it short between the two."""

    def bodies() -> list[Body]:
        own, other, length = Mutex("own"), Mutex("other"), Variable("length", 10)

        async def append() -> None:
            await Acquire(own)
            await Acquire(other)
            wanted = await Load(length)
            await Release(other)
            await Acquire(other)
            if wanted > await Load(length):
                fail("copied what is not there any more")
            await Release(other)
            await Release(own)

        async def erase() -> None:
            await Acquire(other)
            await Store(length, await Load(length) - 10)
            await Release(other)

        return [append(), erase()]

    return program("stringbuffer", bodies)


class Condition(Waitable):
    """A condition variable: a signal wakes the one that has waited longest, and is lost if nobody waits."""

    __slots__ = ("awake", "waiting")

    def __init__(self, label: str) -> None:
        super().__init__(current_thread(), label)
        self.waiting: list[Thread] = []
        self.awake: list[Thread] = []


class BeginWait(Operation[None]):
    """Give the lock back and be among those who wait, in one step."""

    __slots__ = ("condition", "mutex")
    kind = "begin to wait for"

    def __init__(self, condition: Condition, mutex: Mutex) -> None:
        self.condition = condition
        self.mutex = mutex

    def perform(self, thread: Thread) -> None:
        thread.write(self.condition)
        thread.write(self.mutex)
        self.condition.waiting.append(thread)
        self.mutex.owner = None
        self.mutex.changed()

    def target(self) -> Cell:
        return self.condition


class Woken(BlockingOperation[None]):
    """Wait for the signal."""

    __slots__ = ("condition",)
    kind = "be woken by"

    def __init__(self, condition: Condition) -> None:
        super().__init__(condition)
        self.condition = condition

    def available(self, thread: Thread) -> bool:
        return thread in self.condition.awake

    def take(self, thread: Thread) -> None:
        thread.write(self.condition)
        self.condition.awake.remove(thread)


class Signal(Operation[None]):
    """Wake one."""

    __slots__ = ("condition",)
    kind = "signal"

    def __init__(self, condition: Condition) -> None:
        self.condition = condition

    def perform(self, thread: Thread) -> None:
        condition = self.condition
        thread.write(condition)
        if condition.waiting:
            condition.awake.append(condition.waiting.pop(0))
            condition.changed()

    def target(self) -> Cell:
        return self.condition


def bounded_buffer() -> TestProgram:
    """Two producers and two consumers of one place wait on one condition: a signal may wake the wrong side."""

    def bodies() -> list[Body]:
        lock, full, changed = Mutex("lock"), Variable("full"), Condition("changed")

        async def move(wanted: int) -> None:
            await Acquire(lock)
            while await Load(full) != wanted:
                await BeginWait(changed, lock)
                await Woken(changed)
                await Acquire(lock)
            await Store(full, 1 - wanted)
            await Signal(changed)
            await Release(lock)

        async def produce() -> None:
            for _ in range(2):
                await move(0)

        async def consume() -> None:
            for _ in range(2):
                await move(1)

        return [produce(), produce(), consume(), consume()]

    return program("bounded_buffer", bodies)


def work_steal_queue() -> TestProgram:
    """The owner takes from the tail without the lock under which thieves take from the head; both get the last one.

    The owner reads the head before it makes its claim on the tail known, and a thief reads the tail after it has made
    its claim on the head: a thief between the two sees the item, and so does the owner.
    """

    def bodies() -> list[Body]:
        lock, head, tail = Mutex("lock"), Variable("head"), Variable("tail")
        taken = [0] * 4

        def take(number: int) -> None:
            taken[number] += 1
            if taken[number] > 1:
                fail("taken twice")

        async def own() -> None:
            for _ in range(2):
                await Store(tail, await Load(tail) + 1)
                await Store(tail, await Load(tail) + 1)
                for _ in range(2):
                    first = await Load(head)
                    last = await Load(tail) - 1
                    await Store(tail, last)
                    if first <= last:
                        take(last)
                    else:
                        await Store(tail, last + 1)

        async def steal() -> None:
            for _ in range(2):
                await Acquire(lock)
                first = await Load(head)
                await Store(head, first + 1)
                if first < await Load(tail):
                    take(first)
                else:
                    await Store(head, first)
                await Release(lock)

        return [own(), steal()]

    return program("work_steal_queue", bodies)
