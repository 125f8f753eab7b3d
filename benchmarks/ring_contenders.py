"""Everybody who receives from a ring that the kernel maps: as contenders.py has those who receive from a socket.

Each gets a ring of the same size, and the kernel's filter lets only its own port pass.
"""

import contextlib
import ctypes
import socket
import struct
import sys
from dataclasses import replace

from benchmarks import network
from benchmarks.contenders import Batches, Columns, Ours, Packets, Payloads, Received, Row, Setting
from benchmarks.network import GROUP

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
        )

    def dropped(self) -> int:
        return self._receiver.stats.dropped_ring


class RingBatches(OurRing, Batches):
    pass


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


class ReferenceRing:
    """The C loop over a packet socket with the same filter as ours."""

    def __init__(self, setting: Setting) -> None:
        from mcast_fast import bpf
        from mcast_fast._core.addresses import map_address

        place = setting.place
        self._membership = network.receiving_socket(
            replace(place, port=0)
        )  # at another port, so that nothing queues there
        self._quiet_ms = place.quiet_ms
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        program = bpf.exact({map_address(GROUP): {place.port}})
        steps = ctypes.create_string_buffer(bpf.packed(program))
        request = struct.pack("HP", len(program), ctypes.addressof(steps))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, request)
        self._functions = load(setting.library)
        self._ring = self._functions.reference_ring_open(
            self._socket.fileno(), place.buffer_bytes // MEGABYTE, place.index
        )
        if not self._ring:
            raise OSError("the C reference gets no ring")
        self._socket.bind((place.interface, ETH_P_ALL))
        self._dropped = 0

    def receive(self, limit: int) -> Received:
        total = ctypes.c_uint64()
        packets = self._functions.reference_ring_receive(self._ring, limit, self._quiet_ms, ctypes.byref(total))
        if packets < 0:
            raise OSError(-packets, "poll")
        return Received(packets, self._functions.reference_ring_batches(self._ring), total.value)

    def dropped(self) -> int:
        told = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12)
        self._dropped += struct.unpack("=III", told)[1]
        return self._dropped

    def close(self) -> None:
        self._functions.reference_ring_close(self._ring)
        self._socket.close()
        self._membership.close()


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
    "columns": Row("ours, columns", RingColumns, FAST),
    "columns 256": Row("ours, columns, batches of 256", SmallColumns, FAST),
    "payloads": Row("ours, payloads()", RingPayloads, FAST),
    "packets": Row("ours, packets reading .data", RingPackets, FAST),
    "c": Row("C loop over the ring", ReferenceRing),
}
