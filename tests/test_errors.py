"""Each family of errors has its exit code, says what a reader needs, and survives pickling."""

import pickle
import re

import pytest

import kemu
from kemu import errors
from kemu.errors import (
    EXIT_DIVERGED,
    EXIT_FINDING,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_NOTHING_MATCHED,
    EXIT_OK,
    EXIT_USAGE,
    DriverSourceError,
    ForeignAwaitable,
    InternalError,
    KemuError,
    NonDeterminism,
    NothingMatched,
    ReplayDiverged,
    ScenarioError,
    ScenarioNotDeterministic,
    TokenError,
    UsageError,
)


def test_exit_codes_are_the_documented_numbers() -> None:
    codes = (EXIT_OK, EXIT_FINDING, EXIT_USAGE, EXIT_INTERNAL, EXIT_DIVERGED, EXIT_NOTHING_MATCHED)
    assert codes == (0, 1, 2, 3, 4, 5)
    assert EXIT_INTERRUPTED == 130


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (UsageError, 2),
        (ScenarioError, 2),
        (DriverSourceError, 2),
        (TokenError, 2),
        (ForeignAwaitable, 2),
        (InternalError, 3),
        (NonDeterminism, 4),
        (ReplayDiverged, 4),
        (ScenarioNotDeterministic, 4),
        (NothingMatched, 5),
    ],
)
def test_each_family_has_its_exit_code(kind: type[KemuError], code: int) -> None:
    assert kind.exit_code == code


def test_families_do_not_overlap() -> None:
    for one in (UsageError, NonDeterminism, InternalError):
        for other in (UsageError, NonDeterminism, InternalError):
            assert (one is other) == issubclass(one, other)
    for kind in (ScenarioError, DriverSourceError, TokenError, ForeignAwaitable, NothingMatched):
        assert issubclass(kind, UsageError)


def test_the_tree_in_the_docstring_is_the_hierarchy() -> None:
    drawn = re.findall(r"[|`]- (\w+)|^    (KemuError)$", errors.__doc__ or "", re.MULTILINE)
    names = [inner or outer for inner, outer in drawn]
    real = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert set(names) == real
    assert len(names) == len(set(names))


def test_usage_error_joins_message_and_remedy() -> None:
    error = UsageError("altitude '12x' is not a number", remedy="write a decimal, for example '370030.5'")
    assert str(error) == "altitude '12x' is not a number; write a decimal, for example '370030.5'"
    assert error.message == "altitude '12x' is not a number"
    assert error.remedy == "write a decimal, for example '370030.5'"


def test_usage_error_without_remedy_is_its_message() -> None:
    assert str(ScenarioError("there is no file x.py")) == "there is no file x.py"


def test_driver_source_error_begins_with_the_place() -> None:
    error = DriverSourceError("FltReferenceContext is not awaited", "drivers/av.py", 17, remedy="await it")
    assert str(error) == "drivers/av.py:17: FltReferenceContext is not awaited; await it"
    assert (error.path, error.line) == ("drivers/av.py", 17)


@pytest.mark.parametrize("kind", [NonDeterminism, ReplayDiverged, ScenarioNotDeterministic])
def test_nondeterminism_names_the_step(kind: type[NonDeterminism]) -> None:
    error = kind("expected thread 2 to be ready, found only thread 1", 41)
    assert str(error) == "step 41: expected thread 2 to be ready, found only thread 1"
    assert error.step == 41


def test_internal_error_asks_for_the_token() -> None:
    error = InternalError("a frame has no owner", "KS1.0123abcd.AA")
    assert str(error).startswith("a frame has no owner; ")
    assert "bug in kemu" in str(error)
    assert "report" in str(error)
    assert "KS1.0123abcd.AA" in str(error)


def test_internal_error_outside_a_run_asks_for_the_command() -> None:
    assert "token" not in str(InternalError("the progress line has no width"))
    assert "command" in str(InternalError("the progress line has no width"))


@pytest.mark.parametrize(
    "error",
    [
        UsageError("bad", remedy="mend"),
        NothingMatched("bad", remedy="mend"),
        DriverSourceError("bad", "a.py", 3, remedy="mend"),
        ReplayDiverged("bad", 3),
        InternalError("bad", "KS1.x.y"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error: KemuError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_version_is_a_release_number() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", kemu.__version__)
