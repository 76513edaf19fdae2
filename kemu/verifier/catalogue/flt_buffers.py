"""Buffers of operations: user memory, MDLs, swapping.

What the kernel finds in any driver has the kernel's code: ``ke.user-unprobed`` (FLT-BUF-02), ``ke.double-fetch``
(FLT-BUF-03), ``ke.user-va-context``, and ``ke.paged`` for user memory or paged pool above APC_LEVEL (FLT-BUF-04,
FLT-IRQL-07).
"""

from kemu.verifier.catalogue.rule import declare

declare("mdl-map-null-unchecked", "the pages of an MDL could not be mapped, and the driver uses an address for them",
        "FLT-BUF-16")  # fmt: skip
declare("mdl-foreign-free", "a driver frees an MDL that is not its own", "FLT-BUF-06", "FLT-BUF-07")
declare("mdl-double-free", "an MDL is freed twice", "FLT-BUF-10")
declare("mdl-leak", "an MDL was never freed", "FLT-BUF-10")
declare("swap-inconsistent", "a buffer was swapped for one that does not fit the kind of operation", "FLT-BUF-07")
declare("swap-without-postop", "a buffer was swapped, and no post-operation callback asked for", "FLT-BUF-08")
declare("swap-buffer-leak", "a buffer that was swapped in was never freed", "FLT-BUF-08")
declare("swap-too-small", "a buffer was swapped for one that is too small", "FLT-BUF-12")
declare("pend-unlocked-user-buffer", "an operation goes on in another process than its buffer is in", "FLT-PEND-14",
        "FLT-RACE-05")  # fmt: skip
