"""References, handles, processes, callback objects."""

from kemu.nt.bugcheck import (
    DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS,
    DRIVER_VERIFIER_DETECTED_VIOLATION,
    INVALID_KERNEL_HANDLE,
    REFERENCE_BY_POINTER,
)
from kemu.verifier.catalogue.rule import WARNING, declare

declare("ob.under-reference", "an object's count is lowered, or raised, that is zero already",
        "KE-REF-01", "KE-REF-03", "OB-OBJ-03", "OB-OBJ-04",
        stop=(REFERENCE_BY_POINTER, 0), verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0x3F))  # fmt: skip
declare("ob.ref-leak", "a reference of an object was never dropped", "KE-REF-01", "KE-REF-04", "OB-OBJ-03",
        severity=WARNING)  # fmt: skip
declare("ob.null-handle", "a NULL handle is referenced", "OB-HT-03",
        severity=WARNING, verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0xF5))  # fmt: skip
declare("ob.bad-handle", "a handle is referenced from kernel mode that is not open", "OB-HT-03",
        severity=WARNING, verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0x3C))  # fmt: skip
declare("ob.user-handle-as-kernel", "a user program's handle is referenced as if the kernel had made it", "OB-HT-03",
        verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0xF6))  # fmt: skip
declare("ob.kernel-handle-as-user", "a kernel handle is referenced as if a user program had passed it", "OB-HT-03",
        verifier=(DRIVER_VERIFIER_DETECTED_VIOLATION, 0xF7))  # fmt: skip
declare("ob.user-visible-handle", "a driver's own handle is made in the table of whatever process is running",
        "OB-HT-02", "KE-REF-06")  # fmt: skip
declare("ob.kernel-handle-closed-twice", "a kernel handle is closed that is not open", "OB-HT-04", "KE-REF-06",
        stop=(INVALID_KERNEL_HANDLE, 0))  # fmt: skip
declare("ke.callback-left", "a registration with a callback object was not undone when its driver was unloaded",
        "KE-UNLOAD-03", stop=(DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS, 0))  # fmt: skip
declare("ke.callback-twice", "a registration with a callback object is undone twice", "KE-EXCB-02")
