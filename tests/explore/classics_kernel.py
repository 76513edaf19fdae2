"""Races that kernels and browsers have had, reduced to the steps that matter.

After the reductions of the CVEs that Wen, He, Wu, Wu, Lin and others measure with ("Controlled concurrency testing via
periodical scheduling", ICSE 2022): who frees, who checks, who uses. An object is a cell that is 1 while it is there.
"""

from __future__ import annotations

from explore.classics import Add, Body, program
from explore.programs import Acquire, Load, Mutex, Release, Store, TestProgram, Variable, fail


async def use(thing: Variable) -> None:
    """Touch *thing*, which has to be there."""
    if not await Load(thing):
        fail(f"{thing.label} is gone")


async def pause(cell: Variable, times: int) -> None:
    """Do something else."""
    for _ in range(times):
        await Load(cell)


def cve_2009_3547() -> TestProgram:
    """Opening a pipe by its path takes the lock of its inode and expects the pipe; the last release has freed it."""

    def bodies() -> list[Body]:
        lock, users, pipe = Mutex("inode"), Variable("users", 1), Variable("pipe", 1)

        async def open_again() -> None:
            await Acquire(lock)
            await use(pipe)
            await Add(users, 1)
            await Release(lock)

        async def release() -> None:
            await Acquire(lock)
            gone = await Add(users, -1) == 0
            if gone:
                await Store(pipe, 0)
            await Release(lock)

        return [open_again(), release()]

    return program("CVE-2009-3547", bodies)


def cve_2011_2183() -> TestProgram:
    """The scanner of memory to share takes the next address space from a list and uses it; its process exits."""

    def bodies() -> list[Body]:
        lock, listed, memory = Mutex("list"), Variable("listed", 1), Variable("address space", 1)

        async def scan() -> None:
            await Acquire(lock)
            there = await Load(listed)
            await Release(lock)
            if there:
                await use(memory)

        async def leave() -> None:
            await Acquire(lock)
            await Store(listed, 0)
            await Release(lock)
            await Store(memory, 0)

        return [scan(), leave()]

    return program("CVE-2011-2183", bodies)


def cve_2013_1792() -> TestProgram:
    """Whoever finds the first of a user's two keyrings made takes the second for made as well."""

    def bodies() -> list[Body]:
        lock, first, second = Mutex("keyrings"), Variable("user keyring"), Variable("session keyring")
        own = [Variable("work"), Variable("work")]

        async def install(number: int) -> None:
            await pause(own[number], 5)
            if not await Load(first):
                await Acquire(lock)
                if not await Load(first):
                    await Store(first, 1)
                    await Store(second, 1)
                await Release(lock)
            await use(second)
            await pause(own[number], 5)

        return [install(0), install(1)]

    return program("CVE-2013-1792", bodies)


def cve_2015_7550() -> TestProgram:
    """A key is read after it was found valid, without its lock; it is revoked between the two."""

    def bodies() -> list[Body]:
        lock, valid, payload = Mutex("key"), Variable("valid", 1), Variable("payload", 1)

        async def read() -> None:
            if await Load(valid):
                await Acquire(lock)
                await use(payload)
                await Release(lock)

        async def revoke() -> None:
            await Acquire(lock)
            await Store(valid, 0)
            await Store(payload, 0)
            await Release(lock)

        return [read(), revoke()]

    return program("CVE-2015-7550", bodies)


def cve_2016_1972() -> TestProgram:
    """One-time set-up counts its users without a lock: the last to leave takes down what a newcomer has found."""

    def bodies() -> list[Body]:
        count, lock = Variable("users"), Variable("lock of the set-up")
        own = [Variable("work"), Variable("work")]

        async def once(number: int) -> None:
            await pause(own[number], 6)
            if await Add(count, 1) == 1:
                await Store(lock, 1)
            await pause(own[number], 2)
            await use(lock)
            if await Add(count, -1) == 0:
                await Store(lock, 0)
            await pause(own[number], 6)

        return [once(0), once(1)]

    return program("CVE-2016-1972", bodies)


def cve_2016_1973() -> TestProgram:
    """A connection is closed, and its object freed, while a message to it is still on its way to be handled."""

    def bodies() -> list[Body]:
        connected, connection, own = Variable("connected", 1), Variable("connection", 1), Variable("work")

        async def deliver() -> None:
            await pause(own, 8)
            if await Load(connected):
                await use(connection)

        async def close() -> None:
            await Store(connected, 0)
            await Store(connection, 0)

        return [deliver(), close()]

    return program("CVE-2016-1973", bodies)


def cve_2016_7911() -> TestProgram:
    """The priority of a process is read through a pointer that was checked once and is read again."""

    def bodies() -> list[Body]:
        lock, context = Mutex("task"), Variable("I/O context", 1)

        async def get_priority() -> None:
            if await Load(context):
                await use(context)

        async def end() -> None:
            await Acquire(lock)
            await Store(context, 0)
            await Release(lock)

        return [get_priority(), end()]

    return program("CVE-2016-7911", bodies)


def cve_2016_9806() -> TestProgram:
    """A dump that has come to its end frees its buffer; a second one that was begun before that frees it again."""

    def bodies() -> list[Body]:
        lock, running, buffer = Mutex("callback"), Variable("running", 1), Variable("buffer", 1)
        own = Variable("work")

        async def dump(work: int) -> None:
            await pause(own, work)
            await Acquire(lock)
            there = await Load(running)
            await Release(lock)
            if there:
                await Store(running, 0)
                await use(buffer)
                await Store(buffer, 0)

        return [dump(0), dump(8)]

    return program("CVE-2016-9806", bodies)


def cve_2017_15265() -> TestProgram:
    """A new port can be found by its number, and deleted, before its creator is done with it."""

    def bodies() -> list[Body]:
        lock, listed, port = Mutex("ports"), Variable("listed"), Variable("port", 1)
        own = [Variable("work"), Variable("work")]

        async def create() -> None:
            await pause(own[0], 4)
            await Acquire(lock)
            await Store(listed, 1)
            await Release(lock)
            await use(port)

        async def delete() -> None:
            await pause(own[1], 4)
            await Acquire(lock)
            found = await Load(listed)
            await Store(listed, 0)
            await Release(lock)
            if found:
                await pause(own[1], 2)
                await Store(port, 0)

        return [create(), delete()]

    return program("CVE-2017-15265", bodies)


def cve_2017_6346() -> TestProgram:
    """Two threads that both find no fan-out group make one each, and one of them is lost."""

    def bodies() -> list[Body]:
        group, made = Variable("group"), Variable("made")

        async def join() -> None:
            if not await Load(group):
                if await Add(made, 1) > 1:
                    fail("made twice")
                await Store(group, 1)

        return [join(), join()]

    return program("CVE-2017-6346", bodies)
