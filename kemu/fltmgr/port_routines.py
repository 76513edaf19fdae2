"""The routines about communication ports that minifilters call (FLT-PORT)."""

from __future__ import annotations

from typing import Any

from kemu.fltmgr.connection import CloseClient, Listen, StopListening
from kemu.fltmgr.messaging import AwaitMessage, SendMessage
from kemu.fltmgr.objects import Filter
from kemu.fltmgr.ports import (
    FLT_PORT,
    PFLT_PORT,
    ClientPort,
    ConnectNotify,
    DisconnectNotify,
    MessageNotify,
    PortMessage,
)
from kemu.fltmgr.ports import (
    ServerPort as Server,
)
from kemu.fltmgr.reply import answered, fetch, put, unanswered
from kemu.fltmgr.security import SECURITY_DESCRIPTOR
from kemu.nt.handle import OBJ_KERNEL_HANDLE
from kemu.nt.kthread import APC_LEVEL, PASSIVE_LEVEL, KThread, current_kthread
from kemu.nt.psapi import OBJECT_ATTRIBUTES
from kemu.nt.routine import bad_pointer, routine
from kemu.nt.shared import LONG
from kemu.nt.status import (
    NTSTATUS,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER,
    STATUS_OBJECT_PATH_SYNTAX_BAD,
    STATUS_SUCCESS,
    STATUS_TIMEOUT,
)
from kemu.nt.system import refuse, report, resources_fail
from kemu.nt.wait import checked_timeout, relative_timeout, setup_wait
from kemu.runtime import Point


@routine(
    "fltkernel",
    """NTSTATUS FltCreateCommunicationPort(_In_ PFLT_FILTER Filter, _Outptr_ PFLT_PORT *ServerPort,
       _In_ POBJECT_ATTRIBUTES ObjectAttributes, _In_opt_ PVOID ServerPortCookie,
       _In_ PFLT_CONNECT_NOTIFY ConnectNotifyCallback, _In_ PFLT_DISCONNECT_NOTIFY DisconnectNotifyCallback,
       _In_opt_ PFLT_MESSAGE_NOTIFY MessageNotifyCallback, _In_ LONG MaxConnections)""",
    max_irql=PASSIVE_LEVEL,
)
async def FltCreateCommunicationPort(
    Filter: Filter,
    ObjectAttributes: OBJECT_ATTRIBUTES,
    ServerPortCookie: Any,
    ConnectNotifyCallback: ConnectNotify | None,
    DisconnectNotifyCallback: DisconnectNotify | None,
    MessageNotifyCallback: MessageNotify | None,
    MaxConnections: int,
) -> tuple[NTSTATUS, FLT_PORT | None]:
    r"""Listen for programs at a name such as ``\\ScannerPort``: status and server port (FLT-PORT-01).

    Programs may connect before this returns. The connect routine is given the client port, *ServerPortCookie* and what
    the program has passed, and returns a status, or a tuple of it and a cookie for the other two routines. The message
    routine returns a status, or a tuple of it and how many bytes it has put into the output buffer; without it programs
    cannot send. STATUS_OBJECT_NAME_COLLISION, STATUS_OBJECT_PATH_SYNTAX_BAD, STATUS_FLT_DELETING_OBJECT;
    STATUS_INVALID_PARAMETER without OBJ_KERNEL_HANDLE, without a name or one of the first two routines, and for a
    *MaxConnections* below 1; STATUS_INSUFFICIENT_RESOURCES where low resources are explored. IRQL: PASSIVE_LEVEL.
    """
    name = ObjectAttributes.ObjectName
    security = ObjectAttributes.SecurityDescriptor
    if security is not None and not isinstance(security, SECURITY_DESCRIPTOR):
        bad_pointer("FltCreateCommunicationPort", "ObjectAttributes->SecurityDescriptor", SECURITY_DESCRIPTOR, security)
        return STATUS_INVALID_PARAMETER, None
    if (
        not ObjectAttributes.Attributes & OBJ_KERNEL_HANDLE
        or not name
        or ConnectNotifyCallback is None
        or DisconnectNotifyCallback is None
        or MaxConnections < 1
    ):
        return STATUS_INVALID_PARAMETER, None
    if not name.startswith("\\") or name.endswith("\\"):
        return STATUS_OBJECT_PATH_SYNTAX_BAD, None
    if resources_fail("FltCreateCommunicationPort"):
        return STATUS_INSUFFICIENT_RESOURCES, None
    server = Server(
        Filter,
        name,
        security.copy() if security is not None else None,
        ServerPortCookie,
        ConnectNotifyCallback,
        DisconnectNotifyCallback,
        MessageNotifyCallback,
        MaxConnections,
    )
    status = await Listen(server)
    if status != STATUS_SUCCESS:
        return status, None
    # Programs may connect before the driver has stored what this returns.
    await Point("return from FltCreateCommunicationPort", server)
    return STATUS_SUCCESS, server


@routine(
    "fltkernel",
    "VOID FltCloseCommunicationPort(_In_ PFLT_PORT ServerPort)",
    max_irql=PASSIVE_LEVEL,
)
async def FltCloseCommunicationPort(ServerPort: FLT_PORT) -> None:
    """Stop listening. Connections live on until either end closes them, or the driver is unloaded (FLT-PORT-11).

    To be called before FltUnregisterFilter: finding ``unload-port-open``. Twice: ``ke.use-after-free``.
    IRQL: PASSIVE_LEVEL.
    """
    if not isinstance(ServerPort, Server):
        bad_pointer("FltCloseCommunicationPort", "ServerPort", Server, ServerPort)
        return
    await StopListening(ServerPort)


@routine(
    "fltkernel",
    "VOID FltCloseClientPort(_In_ PFLT_FILTER Filter, _Inout_ PFLT_PORT *ClientPort)",
    max_irql=PASSIVE_LEVEL,
    unchecked=("ClientPort",),
)
async def FltCloseClientPort(Filter: Filter, ClientPort: PFLT_PORT) -> None:
    """Close the client port in the variable *ClientPort*, and set that to NULL (FLT-PORT-08). IRQL: PASSIVE_LEVEL.

    Whoever waits in FltSendMessage for this connection goes on with STATUS_PORT_DISCONNECTED, and the program's calls
    fail. Normally the disconnect routine calls this; a port that nobody has closed when the driver is unloaded is
    finding ``client-port-leak``. A copy of a port that is closed already: ``port-copy-race``.
    """
    variable = _variable("FltCloseClientPort", ClientPort)
    if variable is not None:
        await CloseClient(variable)


@routine(
    "fltkernel",
    """NTSTATUS FltSendMessage(_In_ PFLT_FILTER Filter, _In_ PFLT_PORT *ClientPort, _In_ PVOID SenderBuffer,
       _In_ ULONG SenderBufferLength, _In_opt_ PVOID ReplyBuffer, _Inout_opt_ PULONG ReplyLength,
       _In_opt_ PLARGE_INTEGER Timeout)""",
    max_irql=APC_LEVEL,
    under_spin_lock=False,
    unchecked=("Filter", "ClientPort", "ReplyLength"),
)
async def FltSendMessage(
    Filter: Filter,
    ClientPort: PFLT_PORT,
    SenderBuffer: Any,
    SenderBufferLength: int,
    ReplyBuffer: Any,
    ReplyLength: LONG | None,
    Timeout: int | None,
) -> NTSTATUS:
    """Send a message to the program at the other end of the port in the variable *ClientPort* (FLT-PORT-14).

    It waits until the program has fetched the message, and with a *ReplyBuffer* until it has answered; *ReplyLength*
    is a variable, such as ``ULONG(4)``, which holds the buffer's size before and the answer's after. *Timeout* is about
    both waits together: in units of 100 ns, negative from now, or None for as long as it takes. IRQL: <= APC_LEVEL.

    STATUS_SUCCESS, or the status of the answer; STATUS_TIMEOUT, which is a success code; STATUS_PORT_DISCONNECTED, also
    for a variable that holds NULL; STATUS_THREAD_IS_TERMINATING; STATUS_BUFFER_OVERFLOW for an answer that is too long;
    STATUS_INSUFFICIENT_RESOURCES where low resources are explored. Findings: ``port-bad-params``, ``port-copy-race``,
    ``port-state-race``, ``port-timeout-as-success``, ``port-zero-timeout``, ``port-wait-forever``,
    ``lock-across-message``, ``reentrant-deadlock``.
    """
    missing = _missing(Filter, ClientPort, SenderBuffer, ReplyBuffer, ReplyLength)
    if missing:
        report("port-bad-params", f"FltSendMessage with {missing}")
        return STATUS_INVALID_PARAMETER
    variable = _variable("FltSendMessage", ClientPort)
    timeout = checked_timeout(Timeout, "FltSendMessage")
    if variable is None:
        return STATUS_INVALID_PARAMETER
    expected = None
    if ReplyBuffer is not None:
        if not isinstance(ReplyLength, LONG):
            refuse(
                f"FltSendMessage with {ReplyLength!r} as ReplyLength, which takes the address of a variable",
                remedy="give it a variable, such as ULONG(4)",
            )
        expected = ReplyLength.value
        answered(ReplyBuffer)
    _check_wait(Filter, variable, timeout)
    if resources_fail("FltSendMessage"):
        return STATUS_INSUFFICIENT_RESOURCES
    sent = await SendMessage(variable, fetch(SenderBuffer, SenderBufferLength), expected)
    if isinstance(sent, NTSTATUS):
        return sent
    thread = current_kthread()
    if thread.locks:
        sent.port.round_trip.wait(thread)
    # A zero that is pointed to is as good as no timeout.
    status = await AwaitMessage(sent, relative_timeout(timeout) if timeout else None)
    if expected is not None and ReplyLength is not None:
        _take_answer(sent, status, ReplyBuffer, ReplyLength, expected)
    return status


def _take_answer(sent: PortMessage, status: NTSTATUS, buffer: Any, length: LONG, expected: int) -> None:
    if status == STATUS_TIMEOUT and not sent.is_answered:
        unanswered(buffer, expected)
    elif sent.is_answered:
        put(buffer, sent.reply[:expected])
        length.value = min(len(sent.reply), expected)


def _missing(filter_: object, port: object, buffer: object, reply: object, length: object) -> str:
    """What FltSendMessage has to be given and was not, in words (FLT-PORT-24)."""
    given = {"Filter": filter_, "ClientPort": port, "SenderBuffer": buffer}
    for name, value in given.items():
        if value is None:
            return f"NULL as {name}"
    if not isinstance(filter_, Filter):
        return f"a {type(filter_).__name__} as Filter"
    if reply is not None and length is None:
        return "a ReplyBuffer and NULL as ReplyLength"
    held = port._value if isinstance(port, PFLT_PORT) else None  # pyright: ignore[reportPrivateUsage]
    if isinstance(held, ClientPort) and held.server.filter is not filter_:
        return f"the filter {filter_.label}, whose port {held.label} is not"
    if isinstance(held, Server):
        return f"the {held.label}, which is no client port"
    return ""


def _variable(name: str, given: object) -> PFLT_PORT | None:
    """The variable that a routine was given the address of."""
    if isinstance(given, PFLT_PORT):
        return given
    if isinstance(given, FLT_PORT):
        refuse(
            f"{name} was given a port, and takes the address of the variable that holds it",
            remedy="declare the variable as self.ClientPort = PFLT_PORT(), assign the port to self.ClientPort.value, "
            "and pass self.ClientPort",
        )
    bad_pointer(name, "ClientPort", PFLT_PORT, given)
    return None


def _check_wait(filter_: Filter, variable: PFLT_PORT, timeout: int | None) -> None:
    """Warnings of waits that may never end."""
    thread = current_kthread()
    if thread.setting_up:
        setup_wait(thread, "FltSendMessage")
    if timeout == 0:
        report(
            "port-zero-timeout",
            f"{thread.label} calls FltSendMessage with a timeout of 0, which means for ever, and no polling",
        )
    elif timeout is None and in_operation(thread, filter_):
        report(
            "port-wait-forever",
            f"{thread.label} calls FltSendMessage without a timeout inside an operation's callback: a service that "
            "hangs blocks the operation, the teardown and the unload",
        )


def in_operation(thread: KThread, filter_: Filter) -> bool:
    """Whether *thread* is inside a pre- or post-operation callback of *filter_*."""
    return any(thread in frame.inside for instance in filter_.instances for frame in instance.outstanding)
