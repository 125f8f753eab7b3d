"""Many datagrams, one system call each: the twin of fast/send.pyx."""

import socket as socket_module
from collections.abc import Sequence

from mcast_fast._core.addresses import endpoint
from mcast_fast._core.layout import V4_MAPPED, Feature

FEATURES = {"batched_send": Feature(False, "the pure backend sends one datagram a system call")}

_AT_MOST = 256


def send_batch(
    socket: socket_module.socket,
    payloads: Sequence[bytes | bytearray | memoryview],
    start: int,
    group: bytes,
    port: int,
    interface: int,
) -> int:
    """Send payloads[start:], a sequence of bytes-like objects, to a packed group without waiting; how many left.

    Fewer than all is no error: the send buffer was full, or the next one failed and the next call tells why
    (sendmmsg(2)). Raises OSError as the system gave it when not even one left (BlockingIOError: the send buffer is
    full)."""
    if len(group) not in (4, 16):
        raise ValueError("the group is a packed address")
    host, *_ = endpoint(V4_MAPPED + group if len(group) == 4 else group, port, 0)
    address = (host, port) if len(group) == 4 else (host, port, 0, interface)
    sent = 0
    # All of them are looked at before one leaves, so that a wrong one stops all.
    for payload in list(map(_as_buffer, payloads[start : start + _AT_MOST])):
        try:
            socket.sendto(payload, socket_module.MSG_DONTWAIT, address)
        except OSError:
            if sent:
                break
            raise
        sent += 1
    return sent


def _as_buffer(payload: object) -> memoryview:
    try:
        view = memoryview(payload)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"a bytes-like object is required, not {type(payload).__name__!r}") from None
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return view
