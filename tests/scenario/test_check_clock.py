"""Uses of what differs from run to run."""

import ast

import pytest

from kemu.scenario.check import check_source
from kemu.scenario.check_names import SourceFile

IMPORTS = (
    "import concurrent.futures, datetime, os, random, secrets, threading, time, uuid\n"
    "from time import monotonic as now\nfrom datetime import datetime as dt\nfrom random import choice\n"
)


def warned(line: str, head: str = IMPORTS) -> list[tuple[int, str]]:
    tree = ast.parse(f"{head}async def go(self):\n    {line}\n")
    return [(one.line, one.text) for one in check_source(SourceFile("driver.py", "driver", tree))]


@pytest.mark.parametrize(
    ("line", "origin"),
    [
        ("x = time.time()", "time.time"),
        ("x = now()", "time.monotonic"),
        ("x = time.perf_counter_ns()", "time.perf_counter_ns"),
        ("time.sleep(1)", "time.sleep"),
        ("x = datetime.datetime.now()", "datetime.datetime.now"),
        ("x = dt.utcnow()", "datetime.datetime.utcnow"),
        ("x = datetime.date.today()", "datetime.date.today"),
        ("x = choice([1, 2])", "random.choice"),
        ("x = random.random()", "random.random"),
        ("x = random.Random()", "random.Random"),
        ("x = random.SystemRandom(1)", "random.SystemRandom"),
        ("x = uuid.uuid4()", "uuid.uuid4"),
        ("x = os.urandom(4)", "os.urandom"),
        ("x = secrets.token_hex()", "secrets.token_hex"),
        ("threading.Thread(target=self).start()", "threading.Thread"),
        ("x = concurrent.futures.ThreadPoolExecutor()", "concurrent.futures.ThreadPoolExecutor"),
        ("x = sorted([1], key=time.time)", "time.time"),
    ],
)
def test_warned(line: str, origin: str) -> None:
    assert warned(line) == [(6, f"{origin} differs from run to run")]


@pytest.mark.parametrize(
    "line",
    [
        "x = random.Random(1)",
        "x = dt(2024, 1, 1)",
        "x = datetime.timedelta(seconds=1)",
        "x = uuid.UUID(int=1)",
        "x = os.path.join('a')",
        "x = self.time.time()",
        "time = self\n    time.time()",
        "x = time.strftime('%Y', (1,) * 9)",
    ],
)
def test_silent(line: str) -> None:
    assert warned(line) == []


def test_names_of_the_users_own_are_silent() -> None:
    assert warned("time.time()", "import mine as time\n") == []
    assert warned("random()", "from mine import random\n") == []
