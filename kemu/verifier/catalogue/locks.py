"""Spin locks, fast and guarded mutexes, ERESOURCEs, push locks, run-down protection, remove locks, lock order."""

from kemu.nt.bugcheck import (
    APC_INDEX_MISMATCH,
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    INVALID_PUSH_LOCK_FLAGS,
    INVALID_RUNDOWN_PROTECTION_FLAGS,
    RESOURCE_OWNER_POINTER_INVALID,
)
from kemu.verifier.catalogue.rule import WARNING, declare

# What all locks have in common.
declare("ke.self-deadlock", "a thread waits for a lock, or for a run-down, that it keeps from happening itself",
      "KE-FMUTEX-03", "KE-SPIN-05", "KE-SPIN-14", "KE-SPIN-18", "KE-RES-04", "KE-RES-06", "KE-PUSH-03",
      "KE-RUNDOWN-04", "KE-REMLOCK-03")  # fmt: skip
declare("ke.lock-not-owned", "a lock is released by a thread that does not own it",
      "KE-FMUTEX-02", "KE-SPIN-06", "KE-RES-09", "KE-RES-10", "KE-PUSH-05")  # fmt: skip
declare("ke.lock-mode", "a lock is released in another mode than the thread holds it in", "KE-PUSH-05", "KE-SPIN-14")
declare("ke.lock-reinitialised", "a lock is initialised twice", "KE-SPIN-10", "KE-RES-01", "KE-REMLOCK-04", "KE-DL-03")
declare("ke.lock-freed", "a lock is deleted or freed while a thread owns it or waits for it",
      "KE-SPIN-10", "KE-RES-01", "KE-DL-03")  # fmt: skip
declare("ke.lock-leak", "a thread has ended and owns a lock", "KE-RES-11", "KE-PUSH-05", "KE-DL-03")
declare("ke.lock-order", "locks are acquired in opposite orders, which may deadlock",
      "KE-DL-02", "KE-SPIN-09", "KE-RACE-05",
      verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0x1001))  # fmt: skip
declare("ke.deadlock", "threads wait for each other in a cycle", "KE-RACE-05", "KE-DL-04")

# Spin locks.
declare("ke.spin-forbidden-call", "a routine is called that must not be called under a spin lock", "KE-SPIN-08")
declare("ke.spin-lowered", "the IRQL is lowered below what a spin lock that is held needs", "KE-SPIN-07")
declare("ke.spin-release-mismatch", "a spin lock is released by a routine that does not go with its acquisition",
      "KE-SPIN-04")  # fmt: skip
declare("ke.spin-mixed", "a spin lock is acquired with a queue handle and without one", "KE-SPIN-12", "KE-DL-03")
declare("ke.oldirql-shared", "a spin lock is released with the IRQL that another one's acquisition has saved",
      "KE-SPIN-02")  # fmt: skip
declare("ke.lockhandle-reuse", "a lock queue handle is used for two acquisitions at a time", "KE-SPIN-11")
declare("ke.test-spin", "a decision is made on KeTestSpinLock, whose answer may be wrong at once", "KE-SPIN-16",
      severity=WARNING)  # fmt: skip

# Fast and guarded mutexes.
declare("ke.lock-release-order", "mutexes are released in another order than the reverse of their acquisition",
      "KE-FMUTEX-02", "KE-DL-03")  # fmt: skip
declare("ke.fmutex-unsafe-level", "an unsafe routine of a fast mutex is called below APC_LEVEL, in a region",
        "KE-FMUTEX-04", "KE-DOC-07", verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0x39))  # fmt: skip
declare("ke.fmutex-mix", "a mutex is released by a routine that does not go with its acquisition", "KE-FMUTEX-05")

# Executive resources.
declare("ke.eresource-apc", "a resource is acquired or released with normal kernel APCs enabled",
      "KE-RES-02", "KE-APC-11")  # fmt: skip
declare("ke.eresource-transferred", "a thread uses a resource whose ownership it has given away", "KE-RES-10")
declare("ke.eresource-owner-pointer", "the owner pointer of a resource has not its two lowest bits set", "KE-RES-10",
      stop=(RESOURCE_OWNER_POINTER_INVALID, 0))  # fmt: skip
declare("ke.resource-not-deleted", "a resource was not deleted before its memory goes away", "KE-RES-01")

# Push locks.
declare("ke.pushlock-apc", "a push lock is acquired or released with normal kernel APCs enabled",
      "KE-PUSH-02", "KE-APC-11")  # fmt: skip
declare("ke.push-shared-recursion", "a thread shares a push lock that it shares already", "KE-PUSH-03")
declare("ke.push-flags", "a push lock routine gets flags that there are not", "KE-PUSH-05",
      stop=(INVALID_PUSH_LOCK_FLAGS, 0))  # fmt: skip
declare("ke.push-mix", "a push lock is acquired with an Ex routine and released with a Flt routine, or the reverse",
      "KE-PUSH-06", stop=(APC_INDEX_MISMATCH, 0))  # fmt: skip

# Run-down protection and remove locks.
declare("ke.rundown-ignored", "run-down protection is released that could not be acquired", "KE-RUNDOWN-03")
declare("ke.rundown-underflow", "run-down protection is released more often than acquired", "KE-RUNDOWN-03")
declare("ke.rundown-reinit", "run-down protection is initialised again without being run down", "KE-RUNDOWN-09")
declare("ke.rundown-mix", "a routine for cache-aware run-down protection gets a plain one, or the reverse",
      "KE-RUNDOWN-10", stop=(INVALID_RUNDOWN_PROTECTION_FLAGS, 0))  # fmt: skip
declare("ke.rundown-suspend", "a run-down waits for a holder that may be suspended", "KE-RUNDOWN-07",
      severity=WARNING)  # fmt: skip
declare("ke.remlock-ignored", "a remove lock is released that could not be acquired", "KE-REMLOCK-01")
declare("ke.remlock-underflow", "a remove lock is released more often than acquired", "KE-REMLOCK-01")
declare("ke.remlock-tag", "a remove lock is released with a tag that it was not acquired with", "KE-REMLOCK-02")
