"""The declaration of WDK routines: prototypes, the check against the Python signature, the check at a call."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, run

from kemu.nt.bugcheck import DRIVER_IRQL_NOT_LESS_OR_EQUAL, PAGE_FAULT_IN_NONPAGED_AREA, BugCheckCode
from kemu.nt.kthread import APC_LEVEL, DISPATCH_LEVEL, HIGH_LEVEL, PASSIVE_LEVEL, current_kthread
from kemu.nt.routine import REGISTRY, Parameter, parse_prototype, routine
from kemu.verifier import Finding
from kemu.wdk.wdm import KEVENT, KeInitializeEvent, KeSetEvent


def test_a_prototype_is_split_into_its_parts() -> None:
    assert parse_prototype("LONG KeSetEvent(_Inout_ PRKEVENT Event, _In_ KPRIORITY Increment)") == (
        "LONG",
        "KeSetEvent",
        (Parameter("_Inout_", "PRKEVENT", "Event"), Parameter("_In_", "KPRIORITY", "Increment")),
    )


def test_a_prototype_may_have_no_parameters_several_lines_pointers_and_annotations_with_arguments() -> None:
    assert parse_prototype("KIRQL KeGetCurrentIrql(VOID)") == ("KIRQL", "KeGetCurrentIrql", ())
    returns, name, parameters = parse_prototype(
        """NTSTATUS FltRegister(_In_ PDRIVER_OBJECT Driver,
           _In_reads_(Count, 2) const FLT *Registration, _Outptr_ PFLT_FILTER *RetFilter)"""
    )
    assert (returns, name) == ("NTSTATUS", "FltRegister")
    assert [(one.annotation, one.c_type, one.name, one.is_output) for one in parameters] == [
        ("_In_", "PDRIVER_OBJECT", "Driver", False),
        ("_In_reads_(Count, 2)", "const FLT *", "Registration", False),
        ("_Outptr_", "PFLT_FILTER *", "RetFilter", True),
    ]


def test_a_prototype_may_take_any_number_of_arguments() -> None:
    assert parse_prototype("ULONG DbgPrint(_In_ PCSTR Format, ...)")[2][-1] == Parameter("", "...", "Arguments")


@pytest.mark.parametrize("text", ["", "KeSetEvent", "LONG KeSetEvent(", "VOID f(_In_ 5)", "VOID f(,)"])
def test_what_is_no_prototype_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a C p"):
        parse_prototype(text)


def test_a_declaration_must_agree_with_its_function() -> None:
    def KeOther() -> None: ...

    def KeThis(Wrong: int) -> None: ...

    before = dict(REGISTRY)
    with pytest.raises(ValueError, match="KeOther is declared with the prototype of KeThis"):
        routine("wdm", "VOID KeThis(VOID)")(KeOther)
    with pytest.raises(ValueError, match=r"KeThis takes \['Wrong'\] where its prototype says \['Right'\]"):
        routine("wdm", "VOID KeThis(_In_ ULONG Right, _Out_ PULONG Result)")(KeThis)
    assert before == REGISTRY


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("KeGetCurrentIrql", "any"),
        ("KeReleaseSpinLock", "= DISPATCH_LEVEL"),
        ("ExAcquireFastMutex", "<= APC_LEVEL"),
        ("KeWaitForSingleObject", "<= APC_LEVEL; <= DISPATCH_LEVEL with a zero timeout."),
    ],
)
def test_a_declaration_says_its_irql_in_words(name: str, words: str) -> None:
    assert REGISTRY[name].irql == words


def declare(name: str, **limits: Any) -> object:
    def body() -> str:
        return "done"

    body.__name__ = name
    try:
        return routine("wdm", f"VOID {name}(VOID)", **limits)(body)
    finally:
        del REGISTRY[name]


@pytest.mark.rule("KE-IRQL-11", "FLT-IRQL-06")
@pytest.mark.parametrize(
    ("limits", "irql", "words"),
    [
        ({"max_irql": PASSIVE_LEVEL}, APC_LEVEL, "KeTest was called at APC_LEVEL; it may be called at PASSIVE_LEVEL"),
        (
            {"max_irql": APC_LEVEL},
            DISPATCH_LEVEL,
            "KeTest was called at DISPATCH_LEVEL; it may be called at APC_LEVEL or below",
        ),
        (
            {"min_irql": DISPATCH_LEVEL, "max_irql": DISPATCH_LEVEL},
            PASSIVE_LEVEL,
            "KeTest was called at PASSIVE_LEVEL; it may be called at DISPATCH_LEVEL",
        ),
        (
            {"min_irql": APC_LEVEL, "max_irql": DISPATCH_LEVEL},
            PASSIVE_LEVEL,
            "KeTest was called at PASSIVE_LEVEL; it may be called between APC_LEVEL and DISPATCH_LEVEL",
        ),
        ({"max_irql": DISPATCH_LEVEL}, 5, "KeTest was called at IRQL 5; it may be called at DISPATCH_LEVEL or below"),
    ],
)
def test_a_call_outside_the_range_is_a_finding_that_says_both_levels(
    limits: dict[str, int], irql: int, words: str
) -> None:
    function = declare("KeTest", **limits)
    assert callable(function)

    async def script(lab: Lab) -> None:
        current_kthread().irql = irql
        function()

    one = run(script)
    assert one.code == "ke.irql"
    assert one.finding.detail == words


@pytest.mark.rule("KE-IRQL-11")
def test_a_call_inside_the_range_is_none() -> None:
    function = declare("KeTest", min_irql=APC_LEVEL, max_irql=DISPATCH_LEVEL)
    anywhere = declare("KeAny", max_irql=HIGH_LEVEL)
    assert callable(function)
    assert callable(anywhere)

    async def script(lab: Lab) -> object:
        current_kthread().irql = HIGH_LEVEL
        anywhere()
        current_kthread().irql = DISPATCH_LEVEL
        function()
        current_kthread().irql = APC_LEVEL
        return function()

    assert run(script).result == "done"


@pytest.mark.rule("KE-WAIT-02")
@pytest.mark.parametrize(
    ("irql", "stop"), [(PASSIVE_LEVEL, PAGE_FAULT_IN_NONPAGED_AREA), (DISPATCH_LEVEL, DRIVER_IRQL_NOT_LESS_OR_EQUAL)]
)
def test_a_pointer_to_nothing_or_to_something_else_is_followed_as_in_c(irql: int, stop: BugCheckCode) -> None:
    def given(*pointers: object) -> Finding | None:
        async def script(lab: Lab) -> None:
            current_kthread().irql = irql
            await KeSetEvent(*pointers)  # type: ignore[arg-type]

        return run(script).outcome.failure

    for pointer, words in (
        (None, "KeSetEvent was given NULL, as Event, which takes a KEVENT"),
        ("event", "KeSetEvent was given a str, as Event, which takes a KEVENT"),
    ):
        found = given(pointer)
        assert found is not None
        assert (found.code, found.detail) == ("ke.bad-pointer", words)
        assert found.bug_check is not None
        assert found.bug_check.code == stop


@pytest.mark.rule("KE-POOL-08")
def test_an_object_in_freed_memory_is_found_by_whatever_routine_it_is_given_to() -> None:
    async def script(lab: Lab) -> None:
        event = KEVENT("Done")
        KeInitializeEvent(event, 0, False)
        lab.system.freed[event] = "whose block was freed by the worker"
        await KeSetEvent(Event=event)

    one = run(script)
    assert one.code == "ke.use-after-free"
    assert one.finding.detail == "KeSetEvent on Done, whose block was freed by the worker"
