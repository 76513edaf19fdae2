"""IRQL, APCs and what a routine leaves behind on its thread."""

from kemu.verifier.catalogue.rule import declare

declare("ke.irql", "a routine was called outside its IRQL range", "KE-IRQL-11", "FLT-IRQL-06")
declare(
    "ke.irql-nesting",
    "IRQL is restored to another value than the acquisition saved",
    "KE-SPIN-02",
    "KE-IRQL-05",
)
declare("ke.region-balance", "a critical region is left that was not entered", "KE-APC-06")
declare(
    "callback-dirty-exit",
    "a callback returned with another IRQL or with a lock held",
    "FLT-PRE-27",
    "FLT-IRQL-10",
)
