"""Events, mutexes, semaphores, timers, DPCs, and waiting for them."""

from kemu.nt.bugcheck import KERNEL_SECURITY_CHECK_FAILURE
from kemu.verifier.catalogue.rule import declare

declare("ke.event-reinitialised", "an event was initialised again while threads wait for it", "KE-EVENT-06",
      stop=(KERNEL_SECURITY_CHECK_FAILURE, 3))  # fmt: skip
