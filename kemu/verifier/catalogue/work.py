"""Work items, worker threads, system threads."""

from kemu.nt.bugcheck import WORKER_INVALID
from kemu.verifier.catalogue.rule import declare

declare("ke.work-requeued", "a work item was queued while it is queued", "KE-WORK-04", "FLT-WORK-09",
      stop=(WORKER_INVALID, 1))  # fmt: skip
declare("ke.work-freed-queued", "a work item was freed while it is queued", "KE-WORK-05", stop=(WORKER_INVALID, 2))
declare("ke.worker-starvation", "all workers wait for work that is queued behind them", "KE-WORK-12")
