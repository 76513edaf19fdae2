"""A crew on a dask scheduler, if that is installed: here the workers are threads of this process."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import Any

import pytest
from explore.campaign import kit

from kemu.errors import UsageError, WorkerDied
from kemu.explore import Budget
from kemu.explore.campaign import cluster as module
from kemu.explore.campaign.batch import Batch, Recipe, Task, perform
from kemu.explore.campaign.cluster import Cluster, Probe, probe


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a scheduler with two workers."""
    distributed = pytest.importorskip("distributed")
    # A scheduler says what it thinks of time by warnings, and closes by cancelling.
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, silence_logs=50
    ) as local:
        yield str(local.scheduler_address)


def crew(address: str, *loads: kit.Load) -> Cluster:
    return Cluster(address, [(load, load().identity) for load in loads])


@pytest.mark.filterwarnings("default")
def test_the_result_is_that_of_one_process(address: str) -> None:
    load = kit.Load("many_bugs")
    workers = crew(address, load)
    try:
        assert (workers.idle, workers.busy) == (4, 0)
        one, other, _, _ = kit.both(load, "random", Budget(schedules=200), workers)
        assert one == other
        one, other, _, _ = kit.both(load, "dfs", Budget(), workers, bound=1)
        assert one == other
        rare = kit.Load("rare")
        one, other, _, _ = kit.both(rare, "random", Budget(schedules=3_000), workers, seed=11, keep_going=False)
        assert one == other
        assert (workers.busy, workers.made()) == (0, 0)
    finally:
        workers.close()


@pytest.mark.filterwarnings("default")
def test_a_worker_that_loads_something_else_is_refused(address: str) -> None:
    load = kit.Load("abba")
    with pytest.raises(UsageError, match=r"the worker \S+ cannot run what is to be explored: abba is ") as caught:
        Cluster(address, [(load, "0" * 16)])
    assert "the same scenario files" in caught.value.remedy


@pytest.mark.filterwarnings("default")
def test_a_worker_that_cannot_answer_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(programs: object) -> Probe:
        raise ModuleNotFoundError("No module named 'kemu'")

    monkeypatch.setattr(module, "probe", broken)
    with pytest.raises(UsageError, match=r"the worker \S+ cannot run kemu: ModuleNotFoundError"):
        crew(address)


@pytest.mark.filterwarnings("default")
def test_a_cluster_without_workers_is_refused() -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None, silence_logs=50) as local,
        pytest.raises(UsageError, match="has no workers; start one: dask worker"),
    ):
        crew(str(local.scheduler_address))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x"])
def test_an_address_where_nobody_is(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(module, "CONNECTING", 0.2)
    with pytest.raises(UsageError, match=f"there is no dask scheduler at {address}"):
        crew(address)


# Without dask.


def test_differences() -> None:
    ours = Probe("1.0", "3.11", "c0dec0dec0de")
    assert ours.difference(ours) == ""
    assert Probe("1.1", "3.11", "c0dec0dec0de").difference(ours) == "has kemu 1.1, and this is 1.0"
    assert Probe("1.0", "3.12", "c0dec0dec0de").difference(ours) == "runs Python 3.12, and this is 3.11"
    assert Probe("1.0", "3.11", "5eaf00d5eaf0").difference(ours) == (
        "has other source files of kemu 1.0 (5eaf00d5, and here c0dec0de)"
    )
    error = UsageError("there is no file x.py", remedy="copy it")
    assert Probe("1.0", "3.11", "c0dec0dec0de", error).difference(ours) == (
        "cannot run what is to be explored: there is no file x.py; copy it"
    )


def test_what_a_process_says_of_itself() -> None:
    load = kit.Load("abba")
    assert probe([(load, load().identity)]) == probe(())
    assert "and 00000000 where" in str(probe([(load, "0" * 16)]).error)


def test_without_the_extra_the_line_that_installs_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def import_module(name: str) -> Any:
        if name == "distributed":
            raise ModuleNotFoundError("No module named 'distributed'")
        return real(name)

    monkeypatch.setattr(module.importlib, "import_module", import_module)
    with pytest.raises(UsageError) as caught:
        Cluster("tcp://127.0.0.1:1", ())
    assert caught.value.remedy == 'install it: pip install "kemu[cluster]"'


def test_a_task_from_other_code_is_refused() -> None:
    load = kit.Load("abba")
    task = Task(load, "abba", load().identity, Recipe("random", {}, 1), Batch((0,), 3), True, None, code="5eaf00d5")
    result = perform(task)
    assert result.schedules == 0
    assert "a worker has other source files of kemu" in str(result.error)


@pytest.mark.parametrize(("error", "kind"), [("KilledWorker", WorkerDied), ("CancelledError", UsageError)])
def test_what_becomes_of_a_task_that_was_lost(
    monkeypatch: pytest.MonkeyPatch, error: str, kind: type[Exception]
) -> None:
    library = FakeLibrary()
    monkeypatch.setattr(module, "_distributed", lambda: library)
    workers = Cluster("tcp://fake", ())
    load = kit.Load("abba")
    task = Task(load, "abba", load().identity, Recipe("random", {}, 1), Batch((0,), 3), True, None)
    workers.submit(task)
    (future,) = workers._tasks
    if error == "KilledWorker":
        future.set_exception(FakeLibrary.KilledWorker())
    else:
        future.cancel()
        future.set_running_or_notify_cancel()
    ((done, result),) = workers.wait(lambda: False)
    assert done is task
    assert isinstance(result.error, kind)
    assert "runs 0 to 2 (random, seed 1) of abba" in str(result.error)
    workers.close(at_once=True)
    assert library.closed


def test_what_is_of_no_use_any_more_is_called_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_distributed", FakeLibrary)
    workers = Cluster("tcp://fake", ())
    load = kit.Load("abba")
    for number in range(3):
        batch = Batch((number,), 3)
        workers.submit(Task(load, "abba", load().identity, Recipe("random", {}, 1), batch, True, None))
    futures = list(workers._tasks)
    # One worker, two tasks for it: there are more than it wants.
    assert (workers.idle, workers.busy) == (0, 3)
    workers.stop_all(after=(1,))
    assert [future.cancelled() for future in futures] == [False, False, True]
    assert workers.busy == 2
    # What has been begun ends by itself.
    workers.stop_all()
    assert workers.busy == 2


class FakeLibrary:
    """As much of the library as a crew uses."""

    class KilledWorker(Exception):
        pass

    def __init__(self) -> None:
        self.closed = False

    def Client(self, address: str, **options: object) -> FakeLibrary:
        return self

    def run(self, function: Any, *arguments: Any, on_error: str) -> dict[str, Any]:
        return {"worker": function(*arguments)}

    def get_executor(self, pure: bool) -> FakeLibrary:
        return self

    def submit(self, *words: object) -> Any:
        from concurrent.futures import Future

        return Future[Any]()

    def close(self) -> None:
        self.closed = True
