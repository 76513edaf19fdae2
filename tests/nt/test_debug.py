"""DbgPrint and its kin."""

from __future__ import annotations

from typing import Any

import pytest

from kemu.errors import UsageError
from kemu.nt.debug import (
    DPFLTR_ERROR_LEVEL,
    DPFLTR_IHVDRIVER_ID,
    DPFLTR_INFO_LEVEL,
    DPFLTR_TRACE_LEVEL,
    DPFLTR_WARNING_LEVEL,
    DbgPrint,
    DbgPrintEx,
    KdPrint,
    format_message,
)
from kemu.nt.kthread import DISPATCH_LEVEL, KThread
from kemu.nt.routine import REGISTRY
from kemu.nt.status import STATUS_PENDING, STATUS_SUCCESS
from kemu.runtime import Cell, ControlledRuntime, Point, Runtime, current_thread


class Text:
    Buffer = "\\Device\\x"


class Odd:
    @property
    def label(self) -> str:
        raise AssertionError("a driver's own object is not looked into")


def printed(script: Any, *, logged: bool = True) -> list[tuple[str, str]]:
    """The lines that *script* prints, with their levels."""
    lines: list[tuple[str, str]] = []

    def sink(event: str, /, *, cause: int | None = None, **fields: Any) -> int:
        if event == "user.log":
            lines.append((fields["level"], fields["text"]))
        return 0

    async def main() -> None:
        thread = current_thread()
        assert isinstance(thread, KThread)
        thread.irql = DISPATCH_LEVEL
        script()
        await Point("end")

    runtime: Runtime = ControlledRuntime(thread_class=KThread)
    if logged:
        runtime.log = sink
    outcome = runtime.run("main", main())  # type: ignore[attr-defined]
    if outcome.crash is not None:
        raise outcome.crash
    return lines


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("plain 100%%", (), "plain 100%"),
        ("%d|%5d|%-5d|%05d|%+d", (1, 2, 3, 4, 5), "1|    2|3    |00004|+5"),
        ("%u %d", (-1, 0xFFFFFFFF), "4294967295 -1"),
        ("%llu %I64d %lu", (-1, 1 << 63, -1), f"{(1 << 64) - 1} {-(1 << 63)} {(1 << 32) - 1}"),
        ("%x %08X %#x %o", (255, 48879, 255, 8), "ff 0000BEEF 0xff 10"),
        ("%lx", (STATUS_PENDING,), "103"),
        ("%p", (0x1000,), "0000000000001000"),
        ("%s %10s %-6s| %.2s", ("a", "b", "c", "defg"), "a          b c     | de"),
        ("%s %ws %S %ls %hs", ("a", "b", "c", "d", b"e"), "a b c d e"),
        ("%wZ and %Z", ("x", Text()), "x and \\Device\\x"),
        ("%s", (None,), "(null)"),
        ("%p", (None,), "0000000000000000"),
        ("%c%c", ("a", 66), "aB"),
        ("%.3f %e", (1.5, 1.0), "1.500 1.000000e+00"),
        ("%*d %.*s", (4, 7, 2, "abc"), "   7 ab"),
        # What has the wrong type is shown as it is: a log line may not end a run.
        ("%d %x", ("text", None), "text 0000000000000000"),
        ("%p %s %d", (Odd(), Odd(), object()), "Odd Odd object"),
        ("50%, %y", (), "50%, %y"),
    ],
)
def test_format(text: str, arguments: tuple[Any, ...], expected: str) -> None:
    assert format_message(text, arguments) == expected


def test_a_kernel_object_is_its_label() -> None:
    lines = printed(lambda: DbgPrint("%p", Cell(current_thread(), "ScanLock")))
    assert lines == [("info", "ScanLock")]


def test_levels() -> None:
    def script() -> None:
        assert DbgPrint("one\n") == STATUS_SUCCESS
        for level in (DPFLTR_ERROR_LEVEL, DPFLTR_WARNING_LEVEL, DPFLTR_TRACE_LEVEL, DPFLTR_INFO_LEVEL, 31):
            DbgPrintEx(DPFLTR_IHVDRIVER_ID, level, "%d", level)
        KdPrint("x %d", 1)
        KdPrint(("y %d\r\n", 2))

    assert printed(script) == [
        ("info", "one"),
        ("error", "0"),
        ("warning", "1"),
        ("debug", "2"),
        ("info", "3"),
        ("info", "31"),
        ("info", "x 1"),
        ("info", "y 2"),
    ]


@pytest.mark.parametrize("logged", [True, False])
@pytest.mark.parametrize(("text", "arguments", "wanted"), [("%d %d", (1,), 2), ("100%%", (1,), 0), ("%*d", (1,), 2)])
def test_arguments_are_counted_whether_the_run_is_logged_or_not(
    logged: bool, text: str, arguments: tuple[Any, ...], wanted: int
) -> None:
    with pytest.raises(UsageError, match=f"takes {wanted} arguments and got {len(arguments)}"):
        printed(lambda: DbgPrint(text, *arguments), logged=logged)


def test_they_are_declared_routines_of_wdm() -> None:
    for name in ("DbgPrint", "DbgPrintEx", "KdPrint"):
        declared = REGISTRY[name]
        assert (declared.header, declared.irql, declared.is_awaited) == ("wdm", "any", False)
        assert declared.parameters[-1].c_type == "..."
