"""Communication ports of minifilters."""

from kemu.verifier.catalogue.rule import WARNING, declare

declare("unload-port-open", "a filter was unregistered while it listened at a communication port", "FLT-UNLOAD-07",
        "FLT-RACE-55")  # fmt: skip
declare("client-port-leak", "a client port was never closed with FltCloseClientPort", "FLT-PORT-07")
declare("port-copy-race", "a client port was used through a copy after it was closed", "FLT-PORT-09", "FLT-RACE-50")
declare("port-state-race", "the port of a connection that was refused was used", "FLT-PORT-10", "FLT-RACE-53")
declare("port-overwritten", "the variable of an open client port was overwritten", "FLT-RACE-54")
declare("port-raw-buffer", "a buffer of the message routine was accessed where it is not safe", "FLT-PORT-13")
declare("port-timeout-as-success", "a reply buffer was read after FltSendMessage has timed out", "FLT-PORT-16",
        "FLT-RACE-51")  # fmt: skip
declare("port-wait-forever", "an operation waits for a service without a timeout", "FLT-PORT-17", severity=WARNING)
declare("port-zero-timeout", "FltSendMessage with a timeout of zero waits for ever", "FLT-PORT-14", severity=WARNING)
declare("port-reply-size", "a reply is too long by the padding of its structure", "FLT-PORT-22", severity=WARNING)
declare("port-bad-params", "FltSendMessage lacks something that it needs", "FLT-PORT-24")
declare("lock-across-message", "a sender holds a lock that the service needs before it answers", "FLT-PORT-23",
        "FLT-RACE-61")  # fmt: skip
declare("reentrant-deadlock", "a callback waits for what waits for it: its own service, or its own I/O", "FLT-IO-28",
      "FLT-RACE-56", "FLT-RACE-66")  # fmt: skip
