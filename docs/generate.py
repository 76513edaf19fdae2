"""Writes the reference pages that follow from the code: `python docs/generate.py`, or `--check` to compare.

The WDK routines come from their declarations, the findings from the verifier's catalogue, the events from the
trace's manifest, the options from the command line itself. Nothing on these pages is written by hand.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import click
from conformance import conformance_page

from kemu.cli.app import cli
from kemu.log.manifest import COMMON, MANIFEST
from kemu.nt.routine import REGISTRY, Routine
from kemu.verifier import CATALOGUE

HERE = Path(__file__).parent / "reference"

HEADERS = ("fltkernel", "ntddk", "ntifs", "wdm")


def wdk_page() -> str:
    """Every routine, by header."""
    lines = [
        "# WDK routines",
        "",
        "The routines that kemu emulates, by the header that declares them. Import a routine from the module of its",
        "header: `from kemu.wdk.fltkernel import FltRegisterFilter`. Out parameters are not passed in Python: they",
        "follow the result, in a tuple. A call outside the IRQL range is finding `ke.irql`.",
        "",
    ]
    for header in HEADERS:
        lines += [f"## {header}.h", ""]
        # What a driver can import, not what happens to be declared.
        for name in sorted(importlib.import_module(f"kemu.wdk.{header}").__all__):
            routine = REGISTRY.get(name)
            if routine is not None and routine.header == header:
                lines += routine_section(routine)
    return "\n".join(lines).rstrip() + "\n"


def routine_section(routine: Routine) -> list[str]:
    """One routine: prototype, how it is called here, IRQL, text."""
    parameters = ", ".join(
        "..." if one.c_type == "..." else f"{one.annotation} {one.c_type} {one.name}".strip()
        for one in routine.parameters
    )
    inputs = ", ".join(
        f"*{one.name}" if one.c_type == "..." else one.name for one in routine.parameters if not one.is_output
    )
    outputs = [one.name for one in routine.parameters if one.is_output]
    results = (
        [] if routine.returns in {"VOID", "void"} else ["status" if routine.returns == "NTSTATUS" else "result"]
    ) + outputs
    assignment = f"{', '.join(results)} = " if results else ""
    call = f"{assignment}{'await ' if routine.is_awaited else ''}{routine.name}({inputs})"
    text = inspect.getdoc(routine.function) or ""
    return [
        f"### {routine.name}",
        "",
        "```c",
        f"{routine.returns} {routine.name}({parameters or 'VOID'});",
        "```",
        "",
        f"In Python: `{call}`. IRQL: {routine.irql}.",
        "",
        text,
        "",
    ]


def findings_page() -> str:
    """Every finding."""
    lines = [
        "# Findings",
        "",
        "What kemu reports, with the [rules](rules.md) that are broken and the bug check of Windows. A warning does",
        "not end a run.",
        "",
        "| code | meaning | rules | bug check |",
        "| --- | --- | --- | --- |",
    ]
    for rule in CATALOGUE.values():
        code = f"`{rule.code}`" + (" (warning)" if rule.severity == "warning" else "")
        stop = f"0x{int(rule.bug_check.code):X}" if rule.bug_check is not None else ""
        lines.append(f"| {code} | {rule.title} | {', '.join(rule.rules)} | {stop} |")
    return "\n".join(lines) + "\n"


def events_page() -> str:
    """Every event of a trace."""
    lines = [
        "# Trace events",
        "",
        "The events of a [`kemu.trace/1`](trace.md) file, each with the fields of its own in their order. Every event",
        f"also has {', '.join(f'`{field}`' for field in COMMON)}, as far as they apply.",
        "",
        "| event | fields | meaning |",
        "| --- | --- | --- |",
    ]
    for name, entry in MANIFEST.items():
        fields = ", ".join(f"`{field}`" for field in entry.fields)
        lines.append(f"| `{name}` | {fields} | {entry.doc} |")
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """The command line's own help."""
    lines = ["# Command line", "", "What `kemu --help` and each command's `--help` print.", ""]

    def section(one: click.Command, name: str, parent: click.Context | None) -> None:
        context = click.Context(one, info_name=name, parent=parent, terminal_width=100, **one.context_settings)
        lines.extend([f"## {context.command_path}", "", "```text", one.get_help(context).rstrip(), "```", ""])
        if isinstance(one, click.Group):
            for child in one.list_commands(context):
                found = one.get_command(context, child)
                if found is not None:
                    section(found, child, context)

    section(cli, "kemu", None)
    return "\n".join(lines).rstrip() + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "wdk.md": wdk_page,
    "findings.md": findings_page,
    "events.md": events_page,
    "cli.md": cli_page,
    "conformance.md": conformance_page,
}


def main() -> int:
    """Write the pages, or with --check say which are out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing; exit 1 if a page differs")
    check = parser.parse_args().check
    stale = 0
    for name, make in PAGES.items():
        path = HERE / name
        text = make()
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if text == before:
            continue
        stale += 1
        if check:
            sys.stdout.writelines(
                difflib.unified_diff(before.splitlines(True), text.splitlines(True), f"{name} (there)", f"{name} (now)")
            )
        else:
            HERE.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
