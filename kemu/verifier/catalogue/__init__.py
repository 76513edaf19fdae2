"""Every finding kemu can report: its code, what rule is broken, and what Windows would do about it.

An error ends the run; a warning is noted, and the run goes on. What is merely worth knowing (info) is noted, too, and
shown on request. The rules are listed in docs/reference/rules.md. Where a condition of the filter manager is one of the
kernel's as well, the kernel's code is reported.
"""

from kemu.verifier.catalogue import (
    context,
    dispatcher,
    flt_buffers,
    flt_contexts,
    flt_fastio,
    flt_instances,
    flt_io,
    flt_names,
    flt_operations,
    flt_ports,
    fltmgr,
    io,
    kernel,
    locks,
    memory,
    objects,
    scenario,
    work,
)
from kemu.verifier.catalogue.rule import CATALOGUE, ERROR, INFO, WARNING, Rule

__all__ = [
    "CATALOGUE",
    "ERROR",
    "INFO",
    "WARNING",
    "Rule",
    "context",
    "dispatcher",
    "flt_buffers",
    "flt_contexts",
    "flt_fastio",
    "flt_instances",
    "flt_io",
    "flt_names",
    "flt_operations",
    "flt_ports",
    "fltmgr",
    "io",
    "kernel",
    "locks",
    "memory",
    "objects",
    "scenario",
    "work",
]
