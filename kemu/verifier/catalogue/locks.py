"""Spin locks, fast and guarded mutexes, ERESOURCEs, push locks, run-down protection, lock order."""

from kemu.nt.bugcheck import SPIN_LOCK_ALREADY_OWNED
from kemu.verifier.catalogue.rule import declare

declare("ke.self-deadlock", "a thread acquires a lock that it owns and that is not recursive",
      "KE-FMUTEX-03", "KE-SPIN-05", stop=(SPIN_LOCK_ALREADY_OWNED, 0))  # fmt: skip
declare("ke.lock-not-owned", "a lock is released by a thread that does not own it", "KE-FMUTEX-02", "KE-SPIN-06")
declare("ke.spin-forbidden-call", "a thread waits while it holds a spin lock", "KE-SPIN-08")
declare("ke.deadlock", "threads wait for each other in a cycle", "KE-RACE-05")
