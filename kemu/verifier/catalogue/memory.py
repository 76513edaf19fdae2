"""Pool, lookaside lists, lists, interlocked operations, races on data."""

from kemu.nt.bugcheck import (
    BAD_POOL_CALLER,
    DRIVER_IRQL_NOT_LESS_OR_EQUAL,
    DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION,
    DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL,
    DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS,
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    KERNEL_SECURITY_CHECK_FAILURE,
    PAGE_FAULT_IN_NONPAGED_AREA,
)
from kemu.verifier.catalogue.rule import INFO, WARNING, declare

declare("ke.use-after-free", "memory was used after it was freed", "KE-POOL-08",
        verifier=(DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL, 0))  # fmt: skip
declare("ke.data-race", "two threads access the same data, one of them changes it, and nothing orders them",
      "KE-INTLK-05", "KE-WORK-06", "KE-WORK-15", "FLT-STACK-09")  # fmt: skip
declare("ke.double-free", "a block was freed twice", "KE-POOL-07", stop=(BAD_POOL_CALLER, 7))
declare("ke.pool-wrong-tag", "a block was freed with another tag", "KE-POOL-07", stop=(BAD_POOL_CALLER, 0xA))
declare("ke.pool-wrong-address", "something was freed that pool did not hand out", "KE-POOL-07",
      stop=(BAD_POOL_CALLER, 0x99))  # fmt: skip
declare("ke.pool-zero-bytes", "zero bytes were allocated", "KE-POOL-04", stop=(BAD_POOL_CALLER, 0))
declare("ke.pool-leak", "pool was not freed when its driver was unloaded", "KE-POOL-11")
declare("ke.list-corruption", "a list entry's neighbours do not point at it", "KE-LIST-03",
      stop=(KERNEL_SECURITY_CHECK_FAILURE, 3))  # fmt: skip
declare("ke.pool-bad-tag", "pool was allocated with a tag that is none", "KE-POOL-04", stop=(BAD_POOL_CALLER, 0x9B))
declare("ke.pool-must-succeed", "pool was asked for that no longer exists", "KE-POOL-03", stop=(BAD_POOL_CALLER, 0x9A))
declare("ke.pool-deprecated", "a routine was called that is deprecated", "KE-POOL-03", severity=INFO)
declare("ke.pool-executable", "memory was allocated that can be executed", "KE-POOL-13", severity=WARNING,
        verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0x2000))  # fmt: skip
declare("ke.quota-context", "quota was charged where the requester is not the current process", "KE-POOL-12",
        verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0x10B))  # fmt: skip
declare("ke.freed-elsewhere", "an object was freed as pool that has a routine of its own", "KE-POOL-15",
        verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0x105))  # fmt: skip
declare("ke.freed-active", "memory was freed while something in it is in use", "KE-POOL-10", "KE-EVENT-06",
        "KE-SPIN-10")  # fmt: skip
declare("ke.overrun", "memory was accessed past its end", "KE-POOL-09",
        verifier=(DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION, 0))  # fmt: skip
declare("ke.uninit-leak", "memory that was never written reaches user mode", "KE-POOL-14", severity=WARNING)
declare("ke.paged", "paged memory was touched above APC_LEVEL", "KE-IRQL-07", "FLT-IRQL-07", "FLT-BUF-04",
        "FLT-POST-04", stop=(DRIVER_IRQL_NOT_LESS_OR_EQUAL, 0))  # fmt: skip
declare("ke.paged-code", "code that may be paged out runs above APC_LEVEL", "KE-IRQL-08", "FLT-IRQL-07")
declare("ke.pageable-sync", "an object that must be resident lies in paged memory", "KE-WAIT-02", "KE-SPIN-10",
        stop=(DRIVER_IRQL_NOT_LESS_OR_EQUAL, 0), verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0xE1))  # fmt: skip
declare("ke.list-mix", "a list is used with a lock and without, or with two locks", "KE-LIST-01")
declare("ke.list-head-as-entry", "the head of an empty list was taken for an entry", "KE-LIST-02")
declare("ke.slist-corruption", "an entry was pushed that is in a sequenced list already", "KE-LIST-04")
declare("ke.mixed-atomic", "a variable is changed by an interlocked operation and assigned plainly, in no order",
        "KE-INTLK-03")  # fmt: skip
declare("ke.aba", "a pointer was compared that was another one in between", "KE-INTLK-04", severity=WARNING)
declare("ke.lookaside-uaf", "an entry of a lookaside list was used after it was given back", "KE-LOOK-02", "KE-POOL-08",
        verifier=(DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL, 0))  # fmt: skip
declare("ke.lookaside-reinitialised", "a lookaside list was initialised while it is in use", "KE-LOOK-01",
        verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0xCA))  # fmt: skip
declare("ke.lookaside-leak", "a lookaside list was not deleted when its driver was unloaded", "KE-LOOK-01",
        "KE-UNLOAD-03", stop=(DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS, 0))  # fmt: skip
declare("ke.lookaside-type", "a driver's routine allocated something else than the lookaside list is for", "KE-LOOK-03")
declare("ke.lookaside-foreign", "something was given to a lookaside list that does not come from it", "KE-LOOK-04")
declare("ke.lookaside-outstanding", "a lookaside list was deleted before all its entries were back", "KE-LOOK-04")
declare("ke.lookaside-size", "the entries of a lookaside list are smaller than a link", "KE-LOOK-05",
        verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0xCD))  # fmt: skip
declare("ke.user-va-context", "user memory was accessed in another process", "KE-CTX-04",
        stop=(PAGE_FAULT_IN_NONPAGED_AREA, 0))  # fmt: skip
declare("ke.user-unprobed", "user memory was accessed without having been probed", "KE-CTX-04", "FLT-BUF-02")
declare("ke.double-fetch", "user memory was read twice", "KE-CTX-04", "KE-RACE-19", "FLT-BUF-03", "FLT-RACE-68")
