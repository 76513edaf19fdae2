"""Pool, lookaside lists, lists, interlocked operations, races on data."""

from kemu.nt.bugcheck import BAD_POOL_CALLER, KERNEL_SECURITY_CHECK_FAILURE
from kemu.verifier.catalogue.rule import declare

declare("ke.use-after-free", "memory was used after it was freed", "KE-POOL-08")
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
