"""Deadlines of the virtual clock: those that count, and the lazy ones, which expire when nothing else can go on."""

from __future__ import annotations

from runtime.kit import Flag, Wait, every_run, run, spawn

from kemu.runtime import Join, Point, Timer, current_thread


def timer(label: str, expired: list[str], flag: Flag | None = None) -> Timer:
    """A timer that notes its expiry and the time, and puts *flag* up."""
    thread = current_thread()

    def expire() -> None:
        expired.append(f"{label} at {thread.runtime.clock.now}")
        if flag is not None:
            flag.is_set = True
            flag.changed()

    return Timer(thread.runtime.clock, thread, label, expire)


def test_a_lazy_deadline_expires_when_somebody_waits_and_nobody_can_go_on() -> None:
    async def main() -> list[str]:
        expired: list[str] = []
        flag = Flag()
        timer("lazy", expired, flag).arm(5, lazy=True)
        for _ in range(3):
            await Point("go on")
        expired.append("waits")
        await Wait(flag)
        return expired

    # Never before that, whoever is picked: there is only one run.
    assert [outcome.result for outcome in every_run(main)] == [["waits", "lazy at 5"]]


def test_it_does_not_keep_a_run_from_ending() -> None:
    expired: list[str] = []

    async def main() -> None:
        timer("lazy", expired).arm(5, lazy=True)

    outcome = run(main)
    assert (outcome.end, expired) == ("finished", [])


def test_a_service_that_is_at_rest_does_not_count_as_somebody_who_waits() -> None:
    expired: list[str] = []

    class Rest(Wait):
        __slots__ = ()
        idle = True

    async def main() -> None:
        async def service() -> None:
            await Rest(Flag())

        spawn("service", service(), service=True)
        timer("lazy", expired).arm(5, lazy=True)
        await Point("let the service start")

    assert (run(main).end, expired) == ("finished", [])


def test_lazy_and_other_deadlines_expire_in_the_order_of_time_when_nobody_can_go_on() -> None:
    async def main() -> list[str]:
        expired: list[str] = []
        flag = Flag()
        timer("later", expired, flag).arm(20)
        timer("second", expired).arm(10, lazy=True)
        timer("first", expired).arm(5, lazy=True)
        timer("too late", expired).arm(30, lazy=True)
        await Wait(flag)
        return expired

    assert run(main).result == ["first at 5", "second at 10", "later at 20"]


def test_while_somebody_can_go_on_only_the_others_expire_and_time_never_runs_backwards() -> None:
    async def main() -> list[str]:
        expired: list[str] = []
        flag = Flag()
        timer("lazy", expired).arm(5, lazy=True)
        timer("other", expired, flag).arm(10)
        await Point("here the clock may be picked")
        await Wait(flag)
        # Nobody waits any more: the lazy one is left, unless it came first.
        return expired

    assert {tuple(outcome.result) for outcome in every_run(main)} == {
        ("lazy at 5", "other at 10"),
        ("other at 10",),
    }


def test_a_lazy_deadline_is_cancelled_and_set_anew_like_any_other() -> None:
    async def main() -> object:
        expired: list[str] = []
        flag = Flag()
        one, two = timer("one", expired, flag), timer("two", expired, flag)
        one.arm(5, lazy=True)
        two.arm(7, lazy=True)
        cancelled = one.cancel(), one.cancel()
        two.arm(9)
        armed = current_thread().runtime.clock.armed
        two.arm(11, lazy=True)
        counts = armed, current_thread().runtime.clock.armed
        await Wait(flag)
        return cancelled, counts, expired, current_thread().runtime.clock.dormant

    assert run(main).result == ((True, False), (1, 0), ["two at 11"], False)


def test_what_a_timer_starts_has_a_thread_of_its_own() -> None:
    async def main() -> object:
        thread = current_thread()
        started: list[str] = []

        async def child() -> None:
            started.append(current_thread().label)

        one = Timer(thread.runtime.clock, thread, "one", lambda: children.append(spawn("child", child())))
        children: list[object] = []
        one.arm(5)
        await Wait(Flag(), timeout=10)
        await Join(children[0])  # type: ignore[arg-type]
        return started, thread.runtime.clock.now

    assert run(main).result == (["child"], 10)
