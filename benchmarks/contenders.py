"""Everybody who receives: one class a way of receiving, and the table that names them.

A new contender is a class with `receive` and `close`, and a row in CONTENDERS. `receive(limit)` ends after `limit`
packets or when `place.quiet_ms` passed without one, and does for each packet what its row says and nothing else.
"""

import socket
import struct
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from benchmarks import network, reference
from benchmarks.network import IP_PKTINFO, SO_RXQ_OVFL, SO_TIMESTAMPNS, Place

# More than any packet here. Python allocates this much for every recv, so a round 64 KiB would slow the others down.
RECEIVE_BYTES = 2048
ANCILLARY_BYTES = 256
BATCH_SIZE = 256
# What our receiver asks for when it cannot be opened to be asked: everything a record can hold but TTL and TOS.
ALL_METADATA = ("pktinfo", "timestamp", "overflow")
PKTINFO = struct.Struct("=I4s4s")
TIMESPEC = struct.Struct("@ll")
UNSIGNED = struct.Struct("=I")
# `flags & socket.MSG_TRUNC` makes an enum member, which costs a receiver more than the rest of its parsing.
MSG_TRUNC = int(socket.MSG_TRUNC)


@dataclass(frozen=True)
class Received:
    """What came, in how many batches; total bytes and the last payload where the contender sees them, else None."""

    packets: int
    batches: int
    total: int | None = None
    last: bytes | None = None


@dataclass(frozen=True)
class Setting:
    """What the contender's process is told: the place, the compiled C, and what the C loop over a socket asks for."""

    place: Place
    library: str
    control_messages: tuple[str, ...] = ALL_METADATA
    ring_library: str = ""
    gro_library: str = ""
    bytes_library: str = ""


class Contender(Protocol):
    def __init__(self, setting: Setting) -> None: ...
    def receive(self, limit: int) -> Received: ...
    def close(self) -> None: ...


@runtime_checkable
class CountsDrops(Protocol):
    """A contender whose packets come by no UDP socket, so that only itself knows what was dropped since it opened."""

    def dropped(self) -> int: ...


class Recvfrom:
    def __init__(self, setting: Setting) -> None:
        self._socket = network.receiving_socket(setting.place)

    def receive(self, limit: int) -> Received:
        receive = self._socket.recvfrom
        packets, data = 0, b""
        try:
            for packets in range(1, limit + 1):  # noqa: B007 - used after the loop
                data, _source = receive(RECEIVE_BYTES)
        except BlockingIOError:
            packets -= 1
        return Received(packets, packets, last=data)

    def close(self) -> None:
        self._socket.close()


class Recvmsg:
    def __init__(self, setting: Setting) -> None:
        self._socket = network.receiving_socket(setting.place, ALL_METADATA)

    def receive(self, limit: int) -> Received:
        receive, timespec, number, pktinfo = self._socket.recvmsg, TIMESPEC.unpack, UNSIGNED.unpack, PKTINFO.unpack
        packets, data, overflow = 0, b"", 0
        try:
            for packets in range(1, limit + 1):  # noqa: B007 - used after the loop
                data, ancillary, flags, _source = receive(RECEIVE_BYTES, ANCILLARY_BYTES)
                _truncated = flags & MSG_TRUNC
                for level, kind, value in ancillary:
                    if level == socket.SOL_SOCKET:
                        if kind == SO_TIMESTAMPNS:
                            seconds, nanoseconds = timespec(value)
                            _timestamp = seconds * 1_000_000_000 + nanoseconds
                        elif kind == SO_RXQ_OVFL:
                            (total,) = number(value)
                            _dropped, overflow = (total - overflow) & 0xFFFFFFFF, total
                    elif level == socket.IPPROTO_IP and kind == IP_PKTINFO:
                        _interface, _local, _group = pktinfo(value)
        except BlockingIOError:
            packets -= 1
        return Received(packets, packets, last=data)

    def close(self) -> None:
        self._socket.close()


class MulticastExpert:
    def __init__(self, setting: Setting) -> None:
        import multicast_expert

        place = setting.place
        self._socket = multicast_expert.McastRxSocket(
            socket.AF_INET,
            [place.group],
            place.port,
            iface=place.interface,
            timeout=place.quiet_ms / 1000,
        )
        self._socket.__enter__()
        network.set_receive_buffer(self._socket.sockets[0], place.buffer_bytes)

    def receive(self, limit: int) -> Received:
        receive = self._socket.recvfrom
        packets, data = 0, b""
        while packets < limit:
            answer = receive()
            if answer is None:
                break
            data, _source = answer
            packets += 1
        return Received(packets, packets, last=data)

    def close(self) -> None:
        self._socket.__exit__(None, None, None)


class Reference:
    slots = 256

    def __init__(self, setting: Setting) -> None:
        place = setting.place
        sock = network.receiving_socket(place, setting.control_messages)
        self._loop = reference.Loop(setting.library, sock, place, self.slots)

    def receive(self, limit: int) -> Received:
        return Received(*self._loop.receive(limit))

    def close(self) -> None:
        self._loop.close()


class SmallReference(Reference):
    """Few enough slots for the first level of the cache: shows that their number is not what sets the limit."""

    slots = 64


class Ours:
    """What the three ways of reading our batches have in common; `options` of the receiver beyond the usual."""

    options: ClassVar[dict[str, Any]] = {}
    batch_size = BATCH_SIZE

    def __init__(self, setting: Setting) -> None:
        import mcast_fast

        place = setting.place
        self._receiver = mcast_fast.Receiver(
            f"{place.group}%{place.interface}:{place.port}",
            batch_size=self.batch_size,
            buffer_size=place.buffer_bytes,
            timeout=place.quiet_ms / 1000,
            **self.options,
        )

    def close(self) -> None:
        self._receiver.close()


class Batches(Ours):
    """Receives and counts, as the C loop and recvfrom do; the ledger tells the bytes."""

    # The ledger's when the last receive ended: a background thread counts before it is asked for anything.
    _bytes = 0

    def receive(self, limit: int) -> Received:
        packets = batches = 0
        try:
            for batch in self._receiver:
                packets += len(batch)
                batches += 1
                if packets >= limit:
                    break
        except TimeoutError:
            pass
        before, self._bytes = self._bytes, self._receiver.stats.bytes
        return Received(packets, batches, self._bytes - before)


class Columns(Ours):
    def __init__(self, setting: Setting) -> None:
        import numpy as np

        super().__init__(setting)
        self._asarray = np.asarray

    def receive(self, limit: int) -> Received:
        asarray = self._asarray
        packets = batches = total = 0
        try:
            for batch in self._receiver:
                packets += len(batch)
                total += int(asarray(batch)["length"].sum())
                batches += 1
                if packets >= limit:
                    break
        except TimeoutError:
            pass
        return Received(packets, batches, total)


class Payloads(Ours):
    def receive(self, limit: int) -> Received:
        packets, batches, payloads = 0, 0, [b""]
        try:
            for batch in self._receiver:
                payloads = batch.payloads()
                packets += len(payloads)
                batches += 1
                if packets >= limit:
                    break
        except TimeoutError:
            pass
        return Received(packets, batches, last=payloads[-1])


class Packets(Ours):
    def receive(self, limit: int) -> Received:
        packets, batches, data = 0, 0, b""
        try:
            for batch in self._receiver:
                for packet in batch:
                    data = packet.data
                packets += len(batch)
                batches += 1
                if packets >= limit:
                    break
        except TimeoutError:
            pass
        return Received(packets, batches, last=data)


@dataclass(frozen=True)
class Row:
    """One line of the tables: what it is called, how it receives, what its process needs."""

    title: str
    opens: type[Contender]
    environment: dict[str, str] = field(default_factory=dict)
    asks_as_ours: bool = False
    """Ask for exactly the control messages that our receiver asks for."""
    heap: int = 0
    """It needs SPEAD packets, in heaps of so many."""


FAST = {"MCAST_FAST_BACKEND": "fast"}
PURE = {"MCAST_FAST_BACKEND": "pure"}

CONTENDERS = {
    "recvfrom": Row("socket.recvfrom", Recvfrom),
    "recvmsg": Row("socket.recvmsg, metadata parsed", Recvmsg),
    "multicast_expert": Row("multicast_expert", MulticastExpert),
    "batches": Row("ours, batches", Batches, FAST),
    "columns": Row("ours, columns", Columns, FAST),
    "payloads": Row("ours, payloads()", Payloads, FAST),
    "packets": Row("ours, packets reading .data", Packets, FAST),
    "pure": Row("ours, columns, pure backend", Columns, PURE),
    "c": Row("C recvmmsg, metadata as ours", Reference, asks_as_ours=True),
    "c 64": Row("C recvmmsg, 64 slots, metadata as ours", SmallReference, asks_as_ours=True),
    "c all": Row("C recvmmsg, all metadata", Reference),
}
