"""Everybody who receives from a ring that the kernel maps: as contenders.py has those who receive from a socket.

Each gets a ring of the same size, and the kernel's filter lets only its own port pass.
"""

import contextlib
import ctypes
import socket
import struct
import sys
from dataclasses import replace
from typing import ClassVar

from benchmarks import network, reference
from benchmarks.contenders import Batches, Columns, Ours, Packets, Payloads, Received, Row, Setting
from benchmarks.network import Place

ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_ATTACH_FILTER = 26
MEGABYTE = 1 << 20


class OurRing(Ours):
    """Ours with a ring, for those who read batches in one way or another."""

    batch_size = 4096

    def __init__(self, setting: Setting) -> None:
        import mcast_fast

        place = setting.place
        self._receiver = mcast_fast.Receiver(
            f"{place.group}%{place.interface}:{place.port}",
            batch_size=self.batch_size,
            timeout=place.quiet_ms / 1000,
            ring=place.buffer_bytes,
            **self.options,
        )

    def dropped(self) -> int:
        return self._receiver.stats.dropped_ring


class RingBatches(OurRing, Batches):
    pass


class RingNumbered(RingBatches):
    """Follows the numbers that each packet begins with, in the sender's byte order: they say what is missing."""

    options: ClassVar = {"sequence": f"u64{sys.byteorder[0]}e@0"}

    def dropped(self) -> int:
        return super().dropped() + self._receiver.stats.lost


class RingColumns(OurRing, Columns):
    def __init__(self, setting: Setting) -> None:
        import numpy as np

        super().__init__(setting)
        self._asarray = np.asarray


class SmallColumns(RingColumns):
    """With the batch size that a receiver has by default."""

    batch_size = 256


class RingPayloads(OurRing, Payloads):
    pass


class RingPackets(OurRing, Packets):
    pass


class RingKept(RingColumns):
    """Keeps every batch, so that the payloads have to leave the ring before it comes round."""

    def receive(self, limit: int) -> Received:
        asarray = self._asarray
        packets = total = 0
        kept = []
        try:
            for batch in self._receiver:
                packets += len(batch)
                total += int(asarray(batch)["length"].sum())
                kept.append(batch)
                if packets >= limit:
                    break
        except TimeoutError:
            pass
        return Received(packets, len(kept), total)


class Cypcap:
    """libpcap through cypcap: iteration, as its README shows it."""

    def __init__(self, setting: Setting) -> None:
        import cypcap

        place = setting.place
        self._membership = network.receiving_socket(
            replace(place, port=0)
        )  # at another port, so that nothing queues there
        self._quiet = place.quiet_ms / 1000
        self._pcap = cypcap.create(place.interface)
        self._pcap.set_snaplen(65_535)
        self._pcap.set_buffer_size(place.buffer_bytes)
        self._pcap.set_timeout(0.01)
        self._pcap.activate()
        with contextlib.redirect_stdout(sys.stderr):  # cypcap 0.6.3 prints a number here
            self._pcap.setfilter(f"udp and dst host {place.group} and dst port {place.port}")
        self._dropped = self._pcap.stats().drop

    def receive(self, limit: int) -> Received:
        packets, data = 0, b""
        for header, data in self._pcap:  # noqa: B007 - used after the loop
            if header is None:
                continue
            packets += 1
            if packets >= limit:
                break
        return Received(packets, packets, last=data[42:])

    def dropped(self) -> int:
        return self._pcap.stats().drop - self._dropped

    def close(self) -> None:
        self._pcap.close()
        self._membership.close()


class FilteredSocket:
    """A packet socket of which the kernel's filter lets UDP to one port pass, and a membership of the group."""

    def __init__(self, place: Place) -> None:
        self._membership = network.receiving_socket(
            replace(place, port=0)
        )  # at another port, so that nothing queues there
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        program = b"".join(struct.pack("=HBBI", *step) for step in filter_of(place.port))
        steps = ctypes.create_string_buffer(program, len(program))
        request = struct.pack("HP", len(program) // 8, ctypes.addressof(steps))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, request)
        self._dropped = 0

    def bind(self, interface: str) -> None:
        """Once the ring is there: packets come from now on."""
        self.socket.bind((interface, ETH_P_ALL))

    def dropped(self) -> int:
        told = self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12)
        self._dropped += struct.unpack("=III", told)[1]
        return self._dropped

    def close(self) -> None:
        self.socket.close()
        self._membership.close()


def filter_of(port: int) -> list[tuple[int, int, int, int]]:
    """IPv4 to a multicast group, UDP, not outgoing, to this port: classic BPF (kernel: networking/filter)."""
    load_half, load_byte, equal, accept = 0x28, 0x30, 0x15, 0x06
    packet_type = 0xFFFFF000 + 4  # SKF_AD_OFF + SKF_AD_PKTTYPE
    return [
        (load_byte, 0, 0, packet_type),
        (equal, 9, 0, 4),  # PACKET_OUTGOING
        (load_half, 0, 0, 12),
        (equal, 0, 7, 0x0800),
        (load_byte, 0, 0, 23),
        (equal, 0, 5, socket.IPPROTO_UDP),
        (load_byte, 0, 0, 30),
        (0x35, 0, 3, 224),  # jump if greater or equal
        (load_half, 0, 0, 36),
        (equal, 0, 1, port),
        (accept, 0, 0, 0xFFFFFFFF),
        (accept, 0, 0, 0),
    ]


class ReferenceRing:
    """The C loop over a packet socket; its filter looks at the port alone, however many groups are sent to."""

    def __init__(self, setting: Setting) -> None:
        place = setting.place
        self._quiet_ms = place.quiet_ms
        self._filtered = FilteredSocket(place)
        self._functions = load(setting.library)
        self._ring = self._functions.reference_ring_open(
            self._filtered.socket.fileno(), place.buffer_bytes // MEGABYTE, place.index
        )
        if not self._ring:
            raise OSError("the C reference gets no ring")
        self._filtered.bind(place.interface)

    def receive(self, limit: int) -> Received:
        total = ctypes.c_uint64()
        packets = self._functions.reference_ring_receive(self._ring, limit, self._quiet_ms, ctypes.byref(total))
        if packets < 0:
            raise OSError(-packets, "poll")
        return Received(packets, self._functions.reference_ring_batches(self._ring), total.value)

    def dropped(self) -> int:
        return self._filtered.dropped()

    def close(self) -> None:
        self._functions.reference_ring_close(self._ring)
        self._filtered.close()


class ReferenceBytes:
    """The Cython loop that makes one bytes object per packet, and drops it."""

    kept = False

    def __init__(self, setting: Setting) -> None:
        place = setting.place
        self._quiet_ms = place.quiet_ms
        self._filtered = FilteredSocket(place)
        module = reference.load_extension(setting.bytes_library, "reference_bytes")
        self._ring = module.Ring(self._filtered.socket.fileno(), place.buffer_bytes // MEGABYTE, place.index)
        self._filtered.bind(place.interface)

    def receive(self, limit: int) -> Received:
        packets, last = self._ring.receive(limit, self._quiet_ms, self.kept)
        return Received(packets, self._ring.batches, last=last)

    def dropped(self) -> int:
        return self._filtered.dropped()

    def close(self) -> None:
        del self._ring
        self._filtered.close()


class ReferenceList(ReferenceBytes):
    """The same, with a list of those of a block."""

    kept = True


def load(library: str) -> ctypes.CDLL:
    functions = ctypes.CDLL(library)
    functions.reference_ring_open.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint32]
    functions.reference_ring_open.restype = ctypes.c_void_p
    functions.reference_ring_close.argtypes = [ctypes.c_void_p]
    functions.reference_ring_close.restype = None
    functions.reference_ring_receive.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_uint64),
    ]
    functions.reference_ring_receive.restype = ctypes.c_int64
    functions.reference_ring_batches.argtypes = [ctypes.c_void_p]
    functions.reference_ring_batches.restype = ctypes.c_int64
    return functions


FAST = {"MCAST_FAST_BACKEND": "fast"}

CONTENDERS = {
    "cypcap": Row("cypcap (libpcap)", Cypcap),
    "batches": Row("ours, batches", RingBatches, FAST),
    "numbered": Row("ours, batches, with sequence=", RingNumbered, FAST),
    "columns": Row("ours, columns", RingColumns, FAST),
    "columns 256": Row("ours, columns, batches of 256", SmallColumns, FAST),
    "payloads": Row("ours, payloads()", RingPayloads, FAST),
    "packets": Row("ours, packets reading .data", RingPackets, FAST),
    "kept": Row("ours, columns, every batch kept", RingKept, FAST),
    "bytes": Row("Cython loop, one bytes object per packet", ReferenceBytes),
    "bytes list": Row("Cython loop, a list of bytes per block", ReferenceList),
    "c": Row("C loop over the ring", ReferenceRing),
}
