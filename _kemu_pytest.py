"""The pytest plugin of kemu: options, the fixture ``kemu_world``, what reports say.

Every run of pytest on a machine with kemu imports this module. So it stands outside of the package, needs
nothing but pytest and the standard library, and imports kemu only when a test of kemu's is there.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from kemu.testing.session import Session
    from kemu.testing.settings import Options

EXPLORED = "__kemu_explored__"
TOKENS = "__kemu_tokens__"
FIXTURE = "kemu_world"
LOOPS = ("trio", "anyio", "asyncio")
"""Markers of the plugins that run coroutine functions."""

OPTIONS = {
    "kemu_schedules": None,
    "kemu_seed": None,
    "kemu_profile": None,
    "kemu_token": None,
    "kemu_trace": "off",
    "kemu_stats": False,
    "kemu_no_corpus": False,
}
"""The options and what they are if not given."""

SESSION: pytest.StashKey[Session] = pytest.StashKey()
MISTAKE: pytest.StashKey[str] = pytest.StashKey()
SETTINGS: pytest.StashKey[Options] = pytest.StashKey()


# Options.


def schedules(text: str) -> int:
    """A number of schedules."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of schedules: give 1 or more")
    return int(text)


def seed(text: str) -> int:
    """A seed: a number, in hexadecimal too, or random."""
    if text == "random":
        import secrets

        return secrets.randbelow(1 << 32)
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed: give a number, such as 7 or 0x5eed, or random")
    return number


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("kemu", "kemu: tests under many schedules")
    group.addoption("--kemu-schedules", type=schedules, metavar="N", help="make at most this many schedules of a test")
    group.addoption("--kemu-seed", type=seed, metavar="SEED", help="draw schedules with this seed; random for any")
    group.addoption(
        "--kemu-profile", metavar="NAME", help="take [tool.kemu.profile.NAME] of pyproject.toml; ci if CI is set"
    )
    group.addoption("--kemu-token", metavar="TOKEN", help="make only the run that this token says; of one test")
    group.addoption(
        "--kemu-trace",
        choices=("off", "fail", "all"),
        default="off",
        help="put the events of the reported run, or of the plain run of tests that pass, into the report",
    )
    group.addoption("--kemu-stats", action="store_true", help="say at the end what was done in each test")
    group.addoption(
        "--kemu-no-corpus", action="store_true", help="neither replay failures of earlier sessions nor keep any"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "kemu(live=False): a test that kemu runs; set by itself, and to be written only to let a test with"
        " kemu_world run live, on its event loop",
    )
    worker = worker_of(config)
    if worker is not None:
        config.option.kemu_seed = worker["kemu_seed"]


def worker_of(config: pytest.Config) -> dict[str, Any] | None:
    """In a process that pytest-xdist has started, what the first process has told it."""
    return getattr(config, "workerinput", None)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker the seed: it reads the command line again, and random is to be drawn once."""
    node.workerinput["kemu_seed"] = node.config.getoption("kemu_seed")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what was asked for; with -v, also that nothing was."""
    given = [
        f"{name.removeprefix('kemu_').replace('_', '-')}={value}"
        for name, default in OPTIONS.items()
        if (value := config.getoption(name)) != default
    ]
    if not given and config.get_verbosity() < 1:
        return None
    return f"kemu: {', '.join(given) or 'no options'}"


# Which tests are kemu's.


def is_ours(item: pytest.Item) -> bool:
    """Whether kemu runs *item*."""
    return is_explored(item) or is_scripted(item)


def is_explored(item: pytest.Item) -> bool:
    """Whether it runs under many schedules."""
    return hasattr(getattr(item, "obj", None), EXPLORED)


def is_scripted(item: pytest.Item) -> bool:
    """Whether its body is the script of one run."""
    return isinstance(item, pytest.Function) and FIXTURE in getattr(item, "fixturenames", ())


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what is kemu's, for ``-m kemu``."""
    if is_ours(item) and item.get_closest_marker("kemu") is None:
        item.add_marker("kemu")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Find out how to explore, once there is something to explore; a mistake ends the session before it begins."""
    config = session.config
    ours = [item for item in session.items if is_ours(item)]
    token = config.getoption("kemu_token")
    if token is not None and len(ours) != 1 and worker_of(config) is None:
        raise pytest.UsageError(f"--kemu-token is of one test, and {len(ours)} of kemu's are selected: name one")
    if not ours:
        return
    from kemu.errors import UsageError
    from kemu.testing.settings import Options, load_profile

    try:
        profile = load_profile(config.rootpath, config.getoption("kemu_profile"), is_ci=bool(os.environ.get("CI")))
    except UsageError as error:
        if worker_of(config) is None:
            raise pytest.UsageError(str(error)) from None
        # A worker that ends before it has begun looks like a bug of pytest-xdist: every test is going to say so.
        config.stash[MISTAKE] = str(error)
        return
    given: dict[str, Any] = {name: config.getoption(f"kemu_{name}") for name in ("schedules", "seed", "token", "trace")}
    config.stash[SETTINGS] = Options(**given, corpus=not config.getoption("kemu_no_corpus"), profile=profile)


# Running them.


@pytest.fixture
def kemu_world() -> Any:
    """The world of a test that is the script of one run: a `kemu.scenario.World`, while the test runs."""
    from kemu.testing.program import WORLD

    return WORLD


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say what is wrong with a test before pytest does, who would say that there is no fixture called world."""
    test = getattr(item, "obj", None)
    if is_ours(item) and MISTAKE in item.config.stash:
        pytest.fail(item.config.stash[MISTAKE], pytrace=False)
    if hasattr(test, TOKENS) and not is_explored(item):
        pytest.fail("replay() stands without explore(): put kemu.testing.explore above the test", pytrace=False)
    if is_explored(item) and is_scripted(item):
        pytest.fail("an explored test takes its world as the parameter world, not as kemu_world", pytrace=False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Tell kemu which test runs, and pytest what kemu has made of it."""
    if not is_ours(item):
        return (yield)
    from kemu.testing.session import running

    session = item.stash[SESSION] = session_of(item)
    test: Any = item
    function = test.obj
    try:
        if is_scripted(item):
            script(item, session)
        with running(session):
            return (yield)
    except BaseExceptionGroup as group:
        error = the_one_in(group)
    finally:
        # Also what a plugin for an event loop has put there: the test may be run once more.
        test.obj = function
        item.user_properties += session.properties
    # Here, where the group is not its context any more: the test's own exception is what is shown.
    raise error


def the_one_in(error: BaseException) -> BaseException:
    """What a group of a single exception is about; anything else as it is."""
    while isinstance(error, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
        if len(inner) != 1:
            break
        error = inner[0]
    return cast("BaseException", error)


def session_of(item: pytest.Item) -> Session:
    """What kemu has to know of *item*."""
    from kemu.testing.program import Identity
    from kemu.testing.session import Session

    config = item.config
    rest = item.nodeid.partition("::")[2]
    try:
        shown = item.path.relative_to(config.invocation_params.dir).as_posix()
    except ValueError:
        shown = str(item.path)
    return Session(
        identity=Identity(item.nodeid, item.path),
        shown=f"{shown}::{rest}",
        options=config.stash[SETTINGS],
        root=config.rootpath,
    )


def script(item: pytest.Item, session: Session) -> None:
    """Put the run into the place of the test function."""
    import inspect

    from kemu.testing.scripted import Script

    test: Any = item
    marker = item.get_closest_marker("kemu")
    is_live = bool(marker is not None and marker.kwargs.get("live"))
    by_loop = inspect.iscoroutinefunction(test.obj) and any(item.get_closest_marker(one) for one in LOOPS)
    assert session.identity is not None
    test.obj = Script(test.obj, session, session.identity, is_live).wrapped(by_loop=by_loop)


# Reporting them.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add kemu's sections; show a finding, and what kemu was asked for in vain, by their words alone."""
    report = yield
    session = item.stash.get(SESSION, None)
    if session is None or call.when != "call":
        return report
    report.sections += session.sections
    # What xdist sends home has to be JSON.
    vars(report)["kemu"] = dict(session.properties)
    if call.excinfo is None or report.outcome != "failed":
        return report
    from kemu.errors import InternalError, KemuError
    from kemu.testing.failure import FindingError

    error = call.excinfo.value
    if isinstance(error, FindingError):
        report.longrepr = words(call.excinfo, error.headline, str(error).splitlines())
    elif isinstance(error, KemuError) and not isinstance(error, InternalError):
        from kemu.cli.app import error_lines

        report.longrepr = words(call.excinfo, str(error), error_lines(error))
    return report


def words(excinfo: pytest.ExceptionInfo[BaseException], headline: str, lines: list[str]) -> Any:
    """The representation of an exception by *lines* alone, with *headline* for the short summary."""
    shown: Any = excinfo.getrepr(style="value", chain=False)
    (entry,) = shown.reprtraceback.reprentries
    entry.lines = lines
    shown.reprcrash.message = headline
    return shown


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """With --kemu-stats, say what was done in each test."""
    if not config.getoption("kemu_stats"):
        return
    reports = [one for reports in terminalreporter.stats.values() for one in reports if hasattr(one, "kemu")]
    if not reports:
        return
    terminalreporter.section("kemu")
    for report in sorted(reports, key=lambda one: one.nodeid):
        terminalreporter.write_line(f"{report.nodeid}: {statistics(report.kemu, report.outcome)}")


def statistics(values: dict[str, Any], outcome: str) -> str:
    """What was done in a test, in one line."""
    get = values.get
    made = get("kemu.schedules", 0)
    distinct = f" ({get('kemu.distinct'):,} distinct)" if "kemu.distinct" in values else ""
    drawn = f", seed {get('kemu.seed')}" if "kemu.seed" in values else ""
    how = f" of {get('kemu.strategy')}{drawn}" if "kemu.strategy" in values else ""
    end = get("kemu.code") or outcome
    if get("kemu.known"):
        return f"a run of the corpus still fails: {end}"
    if "kemu.verdict" in values:
        end = f"nothing found ({get('kemu.verdict')})"
    return f"{made:,} schedule{'' if made == 1 else 's'}{distinct}{how}: {end}"
