"""Filters, instances, volumes and the references on them."""

from kemu.verifier.catalogue.rule import WARNING, declare

declare("reg-leak-on-start-failure", "FltStartFiltering failed and the driver did not unregister", "FLT-REG-20")
declare("start-before-init", "a callback used what DriverEntry initialises after FltStartFiltering",
        "FLT-REG-18", "FLT-RACE-35")  # fmt: skip
declare("altitude-outside-group", "an instance's altitude is not in the range of the load order group", "FLT-STACK-05",
        severity=WARNING)  # fmt: skip
declare("attach-at-altitude", "FltAttachVolumeAtAltitude is for debugging only", "FLT-INST-11", severity=WARNING)
declare("setup-blocking", "an InstanceSetup callback waits", "FLT-INST-06")
declare("teardown-slow", "something new was begun for an instance after InstanceTeardownStart", "FLT-INST-23",
        severity=WARNING)  # fmt: skip
declare("teardown-reentrancy", "two InstanceTeardownStart callbacks change the same data, and nothing orders them",
        "FLT-RACE-29")  # fmt: skip
declare("unpaired-state", "what the first half of a pair took is kept, and the second half will not be seen",
        "FLT-INST-33", "FLT-RACE-28")  # fmt: skip
declare("unload-free-before-unregister", "a callback used what FilterUnload frees before FltUnregisterFilter",
        "FLT-UNLOAD-08", "FLT-RACE-33")  # fmt: skip
declare("use-after-unregister", "a filter was used after FltUnregisterFilter", "FLT-UNLOAD-15")
declare("unload-self", "a driver asks for its own unload", "FLT-UNLOAD-16")
declare("shutdown-in-unload", "data is written in FilterUnload, which is not called at shutdown", "FLT-UNLOAD-19",
        severity=WARNING)  # fmt: skip
declare("ref-missing", "an instance, filter or volume was used without a reference after it had gone", "FLT-REF-04",
        "FLT-RACE-69")  # fmt: skip
declare("ref-unchecked", "FltObjectReference failed and the driver went on as if it had not", "FLT-REF-06",
        "FLT-RACE-27")  # fmt: skip
