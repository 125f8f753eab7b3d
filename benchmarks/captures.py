"""Receivers that capture an interface with libpcap, as root; the join is held by a socket that gets no packets.

Immediate mode is off: the kernel hands over whole blocks. libpcap then waits without an end for the first packet, so
that a stream's end can be seen only by polling its descriptor: pcap_get_selectable_fd(3pcap).
"""

import contextlib
import select
import sys
from dataclasses import replace

from benchmarks import network
from benchmarks.contenders import Received, Setting
from benchmarks.network import Place

SNAPLEN = 512
BLOCK_SECONDS = 0.01  # after which a block is handed over that is not full


class Capture:
    """What both bindings of libpcap have in common."""

    def __init__(self, setting: Setting) -> None:
        place = setting.place
        # A port of its own: on the stream's port its buffer would fill, and every packet cost the kernel twice.
        self._membership = network.receiving_socket(replace(place, port=0))
        self._quiet = place.quiet_ms / 1000
        self._open(place, f"udp and dst host {place.group} and dst port {place.port}")

    def _open(self, place: Place, filter_: str) -> None:
        raise NotImplementedError

    def _more(self, descriptor: int) -> bool:
        """Waits for packets; False when none came for so long that the stream is over."""
        return bool(select.select([descriptor], [], [], self._quiet)[0])


class Cypcap(Capture):
    """Iteration over (header, frame), as cypcap's README shows it."""

    def _open(self, place: Place, filter_: str) -> None:
        import cypcap

        self._pcap = cypcap.create(place.interface)
        self._pcap.set_snaplen(SNAPLEN)
        self._pcap.set_buffer_size(place.ring_bytes)
        self._pcap.set_timeout(BLOCK_SECONDS)
        self._pcap.activate()
        with contextlib.redirect_stdout(sys.stderr):  # cypcap 0.6.3 prints a number here
            self._pcap.setfilter(filter_)
        self._pcap.setnonblock(True)

    def receive(self, limit: int) -> Received:
        descriptor = self._pcap.get_selectable_fd()
        packets, batches = 0, 0
        for header, _frame in self._pcap:
            if header is not None:
                packets += 1
                if packets >= limit:
                    break
            elif self._more(descriptor):
                batches += 1
            else:
                break
        return Received(packets, batches)

    def dropped(self) -> int:
        return int(self._pcap.stats().drop)

    def close(self) -> None:
        self._pcap.close()
        self._membership.close()


class Pcapy(Capture):
    """`dispatch` with a callback that gets (header, frame)."""

    def _open(self, place: Place, filter_: str) -> None:
        import pcapy

        self._pcap = pcapy.create(place.interface)
        self._pcap.set_snaplen(SNAPLEN)
        self._pcap.set_promisc(False)
        self._pcap.set_timeout(int(BLOCK_SECONDS * 1000))
        self._pcap.set_buffer_size(place.ring_bytes)
        self._pcap.activate()
        self._pcap.setfilter(filter_)
        self._pcap.setnonblock(True)

    def receive(self, limit: int) -> Received:
        packets, batches = 0, 0

        def count(header: object, frame: bytes) -> None:
            nonlocal packets
            packets += 1

        while packets < limit:
            if self._pcap.dispatch(-1, count):
                batches += 1
            elif not self._more(self._pcap.getfd()):
                break
        return Received(packets, batches)

    def dropped(self) -> int:
        return int(self._pcap.stats()[1])

    def close(self) -> None:
        self._pcap.close()
        self._membership.close()
