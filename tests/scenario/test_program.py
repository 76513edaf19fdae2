"""A scenario as a program: identity, what a run's end amounts to, and whose fault it is."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from kemu.errors import ForeignAwaitable, InternalError, NonDeterminism, ScenarioError, UsageError
from kemu.explore import BoundedDFS, Budget, RandomWalk, explore
from kemu.io.filesystem import FileSystem
from kemu.runtime import First, Outcome
from kemu.scenario.program import ScenarioProgram
from kemu.scenario.target import select
from kemu.verifier import Finding

HEADER = """
from contextlib import suppress
from kemu.scenario import World, scenario
from kemu.wdk.fltkernel import *
from kemu.wdk.ntstatus import *
from kemu.wdk.wdm import *

class Reads(Driver):
    async def DriverEntry(self, DriverObject, RegistryPath):
        registration = FLT_REGISTRATION([
            FLT_OPERATION_REGISTRATION(IRP_MJ_READ, 0, self.PreRead, None),
            FLT_OPERATION_REGISTRATION(),
        ])
        status, self.Filter = await FltRegisterFilter(DriverObject, registration)
        await FltStartFiltering(self.Filter)
        return status

    async def PreRead(self, Data, FltObjects):
        return FLT_PREOP_SUCCESS_NO_CALLBACK

async def read(world, driver):
    await world.load(driver, "1")
    file = await world.process("app").open("/a")
    return await file.read(1)
"""


class Files:
    """Writes scenario files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def __call__(self, text: str, header: str = HEADER) -> ScenarioProgram:
        self.count += 1
        path = self.folder / f"scenario{self.count}.py"
        path.write_text(header + textwrap.dedent(text))
        (program,) = select(str(path))
        return program

    def line(self, text: str) -> str:
        """``file:line`` of the only line of the last file that ends with *text*."""
        path = self.folder / f"scenario{self.count}.py"
        (number,) = [at for at, line in enumerate(path.read_text().splitlines(), 1) if line.endswith(text)]
        return f"{path}:{number}"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def once(program: ScenarioProgram, **options: Any) -> Outcome:
    return program.run(First(), **options)


def failure(outcome: Outcome) -> Finding:
    assert isinstance(outcome.failure, Finding)
    return outcome.failure


# Identity.


def test_a_program_is_named_after_file_scenario_and_variant(files: Files) -> None:
    program = files("""
        @scenario
        async def race(world: World) -> None:
            pass
    """)
    assert program.name == f"{files.folder}/scenario1.py::race[default]"
    assert len(program.identity) == 16
    assert int(program.identity, 16) >= 0
    assert program.expected is None


def test_the_identity_changes_with_code_scenario_variant_and_bystanders_and_with_nothing_else(tmp_path: Path) -> None:
    text = """
from kemu.scenario import World, scenario

@scenario(variants={"a": 1, "b": 2}, expects={"b": "ke.hang"})
async def one(world: World, which: int) -> None:
    pass

@scenario(variants={"a": 1})
async def two(world: World, which: int) -> None:
    pass
"""
    path = tmp_path / "x.py"
    path.write_text(text)

    def programs() -> list[ScenarioProgram]:
        return select(f"{path}", variant="all")

    first = programs()
    assert [program.expected for program in first] == [None, "ke.hang", None]
    assert len({program.identity for program in first}) == 3
    assert [program.identity for program in programs()] == [program.identity for program in first]
    path.write_text(text + "\n# another line\n")
    assert not {program.identity for program in programs()} & {program.identity for program in first}
    again = programs()[0]
    beside = ScenarioProgram(again.loaded, again.scenario, again.variant, bystanders=2)
    assert beside.identity != again.identity


# Findings.


def test_what_the_script_returns_is_the_result(files: Files) -> None:
    program = files("""
        @scenario
        async def race(world: World) -> int:
            return 7
    """)
    outcome = once(program)
    assert (outcome.result, outcome.failure, outcome.end) == (7, None, "finished")


@pytest.mark.parametrize(("what", "detail"), [(', "one is not two"', "one is not two"), ("", "assert at {line}")])
def test_an_assert_in_a_script_is_an_expectation(files: Files, what: str, detail: str) -> None:
    program = files(f"""
        @scenario
        async def race(world: World) -> None:
            assert 1 == 2{what}
    """)
    found = failure(once(program))
    assert found.code == "expectation"
    assert found.detail == detail.format(line=files.line(f"assert 1 == 2{what}"))


def test_an_assert_in_a_driver_is_an_exception_that_leaves_a_routine(files: Files) -> None:
    program = files("""
        class Asserts(Reads):
            async def PreRead(self, Data, FltObjects):
                assert 1 == 2
                return FLT_PREOP_SUCCESS_NO_CALLBACK

        @scenario
        async def race(world: World) -> None:
            await read(world, Asserts)
    """)
    found = failure(once(program))
    assert found.code == "ke.unhandled-exception"
    assert files.line("assert 1 == 2") in found.detail


def test_what_must_hold_at_the_end_is_looked_at_when_everything_has_come_to_rest(files: Files) -> None:
    program = files("""
        @scenario
        async def race(world: World) -> None:
            done = []

            async def work() -> None:
                await world.step()
                done.append(1)

            world.start("worker", work())
            world.at_end(lambda: len(done) == 1, "the work must be done")
            world.at_end(lambda: len(done) == 2, "it must be done twice")
    """)
    found = failure(once(program))
    assert (found.code, found.detail) == ("invariant", "it must be done twice")
    assert found.signature == ("invariant", "it must be done twice")


def test_nothing_is_looked_at_at_the_end_of_a_run_that_failed(files: Files) -> None:
    program = files("""
        @scenario
        async def race(world: World) -> None:
            world.at_end(lambda: False, "never")
            world.check(False, "earlier")
    """)
    assert failure(once(program)).detail == "earlier"


@pytest.mark.parametrize(
    ("how", "line"), [("at_end", "1 / 0"), ("always", "1 / 0")], ids=["at the end", "after every step"]
)
def test_a_predicate_that_raises_is_the_scripts_mistake_with_its_line(files: Files, how: str, line: str) -> None:
    program = files(f"""
        def broken() -> bool:
            return 1 / 0

        @scenario
        async def race(world: World) -> None:
            world.{how}(broken, "it holds")
            await world.step()
    """)
    with pytest.raises(ScenarioError, match="ZeroDivisionError") as caught:
        once(program)
    assert files.line(line) in str(caught.value)


def test_a_predicate_may_assert(files: Files) -> None:
    program = files("""
        def broken() -> bool:
            assert 1 == 2
            return True

        @scenario
        async def race(world: World) -> None:
            world.at_end(broken, "it holds")
    """)
    assert failure(once(program)).code == "invariant"


def test_two_mutexes_taken_crosswise_are_a_deadlock_that_is_found_and_named(files: Files) -> None:
    program = files("""
        @scenario
        async def race(world: World) -> None:
            a, b = FAST_MUTEX("A"), FAST_MUTEX("B")
            ExInitializeFastMutex(a)
            ExInitializeFastMutex(b)

            async def take(first, second) -> None:
                await ExAcquireFastMutex(first)
                await ExAcquireFastMutex(second)
                await ExReleaseFastMutex(second)
                await ExReleaseFastMutex(first)

            await world.together(take(a, b), take(b, a))
    """)
    result = explore(program, BoundedDFS(1), Budget(), keep_going=True)
    order, found = sorted(result.findings, key=lambda one: one.signature, reverse=True)
    assert order.signature == ("ke.lock-order", "A B")
    assert found.signature == ("ke.deadlock", "take take#2")
    assert isinstance(found.failure, Finding)
    assert found.failure.detail.startswith("cycle take -> take#2 -> take: take waits to acquire B, held by take#2")


def test_a_script_that_never_ends_says_what_it_does(files: Files) -> None:
    program = files("""
        @scenario(max_steps=100)
        async def race(world: World) -> None:
            while True:
                await world.step("spin again")
    """)
    outcome = once(program)
    assert outcome.end == "step-limit"
    found = failure(outcome)
    assert found.code == "ke.step-limit"
    assert "100 steps" in found.detail
    assert "by script, which is to spin again" in found.detail
    assert "raise --max-steps" in found.detail
    assert once(program, max_steps=50).steps == 50


def test_a_work_item_that_queues_itself_for_ever_says_so(files: Files) -> None:
    program = files("""
        class Loops(Reads):
            async def PreRead(self, Data, FltObjects):
                item = await FltAllocateGenericWorkItem()
                await FltQueueGenericWorkItem(item, FltObjects.Instance, self.Work, DelayedWorkQueue, None)
                return FLT_PREOP_SUCCESS_NO_CALLBACK

            async def Work(self, WorkItem, FltObject, Context):
                await FltQueueGenericWorkItem(WorkItem, FltObject, self.Work, DelayedWorkQueue, None)

        @scenario(max_steps=500)
        async def race(world: World) -> None:
            await read(world, Loops)
    """)
    found = failure(once(program))
    assert found.code == "ke.step-limit"
    assert "by wk:delayed#" in found.detail


# Whose fault it is.


def test_what_a_script_raises_is_its_mistake_with_its_line(files: Files) -> None:
    program = files("""
        @scenario
        async def race(world: World) -> None:
            {}["missing"]
    """)
    with pytest.raises(ScenarioError, match="raised KeyError: 'missing' at") as caught:
        once(program)
    assert files.line('{}["missing"]') in str(caught.value)
    assert "fix the script" in str(caught.value)


def test_what_a_library_raises_for_a_script_is_the_scripts_mistake(files: Files) -> None:
    program = files("""
        import json

        @scenario
        async def race(world: World) -> None:
            json.loads("nonsense")
    """)
    with pytest.raises(ScenarioError, match="JSONDecodeError") as caught:
        once(program)
    assert files.line('json.loads("nonsense")') in str(caught.value)


def test_misuse_of_the_world_names_the_line(files: Files) -> None:
    program = files("""
        @scenario
        async def race(world: World) -> None:
            await world.load(Reads, "no altitude")
    """)
    with pytest.raises(ScenarioError, match="'no altitude' is not an altitude") as caught:
        once(program)
    assert files.line('await world.load(Reads, "no altitude")') in str(caught.value)
    assert str(caught.value).endswith('such as "328010.5"')


def test_a_bug_of_kemu_is_called_one(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is missing makes the file system raise a TypeError.
    monkeypatch.setattr(FileSystem, "carry_out", None)
    program = files("""
        @scenario
        async def race(world: World) -> None:
            await read(world, Reads)
    """)
    with pytest.raises(InternalError, match=r"TypeError: .* this is a bug in kemu"):
        once(program)


def test_a_foreign_await_in_a_script_names_the_line(files: Files) -> None:
    program = files(
        """
        import anyio

        @scenario
        async def race(world: World) -> None:
            await anyio.sleep(1)
    """
    )
    with pytest.raises(ForeignAwaitable, match="--live") as caught:
        once(program)
    assert files.line("await anyio.sleep(1)") in str(caught.value)


def test_a_foreign_await_in_a_driver_that_swallows_everything_names_the_line(files: Files) -> None:
    program = files("""
        class Elsewhere:
            def __await__(self):
                yield "for another event loop"

        class Foreign(Reads):
            async def PreRead(self, Data, FltObjects):
                try:
                    await Elsewhere()
                except BaseException:
                    pass
                return FLT_PREOP_SUCCESS_NO_CALLBACK

        @scenario
        async def race(world: World) -> None:
            await read(world, Foreign)
    """)
    with pytest.raises(ForeignAwaitable, match="an await that is not kemu's") as caught:
        once(program)
    assert files.line('yield "for another event loop"') in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        "except BaseException: pass",
        "finally: await ExAcquireFastMutex(self.Mutex)",
        "except BaseException: await ExAcquireFastMutex(self.Mutex)",
        "except BaseException: return 17",
        "except BaseException: raise ValueError('another')",
    ],
)
def test_a_driver_cannot_change_the_verdict_whatever_it_does_with_the_end(files: Files, body: str) -> None:
    program = files(f"""
        class Stubborn(Reads):
            async def PreRead(self, Data, FltObjects):
                self.Mutex = FAST_MUTEX("raw")
                try:
                    await ExAcquireFastMutex(self.Mutex)
                {body}
                return FLT_PREOP_SUCCESS_NO_CALLBACK

        @scenario
        async def race(world: World) -> None:
            await read(world, Stubborn)
    """)
    outcomes = [once(program) for _ in range(2)]
    assert {failure(outcome).code for outcome in outcomes} == {"ke.uninitialised"}
    assert len({(outcome.fingerprint, outcome.steps) for outcome in outcomes}) == 1


def test_code_that_refuses_to_end_is_named(files: Files) -> None:
    program = files("""
        @scenario
        async def race(world: World) -> None:
            async def immortal() -> None:
                while True:
                    with suppress(BaseException):
                        await world.step("live on")

            world.start("immortal", immortal())
            for _ in range(9):
                await world.step()
            world.check(False, "enough")
    """)
    walk = RandomWalk(1)
    walk.begin()
    outcome = program.run(walk)
    assert failure(outcome).detail == "enough"
    assert outcome.swallowed == ("immortal",)


def test_a_status_that_is_none_is_named_with_its_routine(files: Files) -> None:
    program = files("""
        class Forgets(Driver):
            async def DriverEntry(self, DriverObject, RegistryPath):
                return 0x12345678

        @scenario
        async def race(world: World) -> None:
            await world.load(Forgets, "1")
    """)
    with pytest.raises(UsageError, match="returned 0x12345678, which is no status") as caught:
        once(program)
    assert "DriverEntry of Forgets" in str(caught.value)


# Runs.


RACY = """
    @scenario
    async def race(world: World) -> list:
        order = []

        async def work(name) -> None:
            await world.step()
            order.append(name)

        await world.together(work("a"), work("b"))
        return order
"""


def test_the_same_choices_give_the_same_run(files: Files) -> None:
    program = files(RACY)

    def runs() -> list[tuple[Any, ...]]:
        walk = RandomWalk(3)
        made: list[tuple[Any, ...]] = []
        for _ in range(20):
            walk.begin()
            one = program.run(walk)
            made.append((tuple(one.choices), one.fingerprint, one.steps, tuple(one.result)))
        return made

    assert runs() == runs()
    assert len({one[3] for one in runs()}) == 2


def test_a_program_is_explored_to_the_end(files: Files) -> None:
    result = explore(files(RACY), BoundedDFS(None), Budget(schedules=1_000))
    assert result.exhausted
    assert not result.findings


def test_a_script_that_is_not_deterministic_is_noticed(files: Files) -> None:
    program = files(RACY)
    flips = iter([True, False] * 50)
    start = type(program.scenario).start

    def unstable(self: Any, world: Any, variant: str) -> Any:
        if next(flips):
            world.start("sometimes", world.step())
        return start(self, world, variant)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(program.scenario), "start", unstable)
        with pytest.raises(NonDeterminism):
            explore(program, BoundedDFS(None), Budget(schedules=50))


def test_a_log_is_made_of_the_run_it_was_asked_for_and_does_not_change_it(files: Files) -> None:
    program = files(RACY)
    events: list[str] = []

    def factory(runtime: Any) -> Any:
        def log(event: str, /, *, cause: int | None = None, **fields: Any) -> int:
            events.append(event)
            return len(events)

        return log

    plain, logged = once(program), once(program, log=factory)
    assert (plain.fingerprint, plain.steps, plain.choices) == (logged.fingerprint, logged.steps, logged.choices)
    assert events.count("actor.spawn") == 3
    assert events.count("actor.exit") == 3
