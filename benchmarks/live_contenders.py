"""Everybody who can follow a live stream: those of contenders.py, and those who need a thread, a loop or a capture.

`python -m benchmarks.live_contenders ROLE ORDER` is the station that knows them all.
"""

import logging
import select
from dataclasses import replace
from typing import ClassVar

from benchmarks import contenders, event_loops, network, station
from benchmarks.captures import Cypcap, Pcapy
from benchmarks.contenders import FAST, RECEIVE_BYTES, Batches, Received, Row, Setting
from benchmarks.gro import CGro

MODULE = "benchmarks.live_contenders"
HEAP_PACKETS = 64
HEAPS = 64
RING_BATCH_SIZE = 4096  # whole blocks, as the C loop takes them


class GroBatches(Batches):
    options: ClassVar = {"timestamps": None, "gro": True}


class DefaultBatches(Batches):
    batch_size = None


class PlainBatches(DefaultBatches):
    options: ClassVar = {"gro": False}


class TimedGroBatches(DefaultBatches):
    options: ClassVar = {"gro": True}


class GroReference(CGro):
    """The C loop with UDP_GRO of the `gro` benchmark."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(replace(setting, library=setting.gro_library))


class BackgroundBatches(Batches):
    options: ClassVar = {"background": True}


class RingBatches(Batches):
    batch_size = RING_BATCH_SIZE

    def __init__(self, setting: Setting) -> None:
        self.options = {"ring": setting.place.ring_bytes}
        super().__init__(setting)

    def dropped(self) -> int:
        return int(self._receiver.stats.dropped_ring)


class RingReference:
    """The C loop over a mapped ring of the `ring` benchmark."""

    def __init__(self, setting: Setting) -> None:
        from benchmarks.ring_contenders import ReferenceRing

        place = replace(setting.place, buffer_bytes=setting.place.ring_bytes)
        self._ring = ReferenceRing(replace(setting, place=place, library=setting.ring_library))

    def receive(self, limit: int) -> Received:
        return self._ring.receive(limit)

    def dropped(self) -> int:
        return int(self._ring.dropped())

    def close(self) -> None:
        self._ring.close()


class Spead2:
    """spead2.recv.Stream: a thread of C++ that also puts heaps together; its own count of packets is ours."""

    def __init__(self, setting: Setting) -> None:
        import spead2.recv

        logging.getLogger("spead2").setLevel(logging.ERROR)  # it warns of each heap that is not whole, as at the end
        self._empty = spead2.Empty
        self._quiet = setting.place.quiet_ms / 1000
        self._socket = network.receiving_socket(setting.place)
        self._stream = spead2.recv.Stream(
            spead2.ThreadPool(),
            spead2.recv.StreamConfig(max_heaps=HEAPS),
            spead2.recv.RingStreamConfig(heaps=HEAPS),
        )
        self._stream.add_udp_reader(socket=self._socket, max_size=RECEIVE_BYTES)

    def receive(self, limit: int) -> Received:
        before, packets = self._stream.stats, 0
        while packets < limit:
            try:
                self._stream.get_nowait()
            except self._empty:
                packets = self._stream.stats["packets"] - before["packets"]
                if not select.select([self._stream.fd], [], [], self._quiet)[0]:
                    break
        stats = self._stream.stats
        return Received(stats["packets"] - before["packets"], stats["batches"] - before["batches"])

    def close(self) -> None:
        self._stream.stop()
        self._socket.close()


CONTENDERS = contenders.CONTENDERS | {
    "gro": Row("ours, gro, timestamps=None", GroBatches, FAST),
    "default": Row("ours, Receiver()", DefaultBatches, FAST),
    "no gro": Row("ours, gro=False", PlainBatches, FAST),
    "timed gro": Row("ours, gro=True", TimedGroBatches, FAST),
    "background": Row("ours, background=True", BackgroundBatches, FAST),
    "ring": Row("ours, ring, batches of 4096", RingBatches, FAST),
    "aio": Row("ours, async for batch in aio rx", event_loops.AioBatches, FAST),
    "asyncio": Row("asyncio.DatagramProtocol", event_loops.Protocol),
    "uvloop": Row("DatagramProtocol, uvloop", event_loops.ProtocolOnUvloop),
    "spead2": Row("spead2, which also assembles heaps", Spead2, heap=HEAP_PACKETS),
    "cypcap": Row("cypcap (libpcap), frames", Cypcap),
    "pcapy-ng": Row("pcapy-ng (libpcap), frames", Pcapy),
    "c gro": Row("C recvmmsg, UDP_GRO, metadata as ours", GroReference, asks_as_ours=True),
    "c ring": Row("C loop over a mapped ring", RingReference),
}

if __name__ == "__main__":
    contenders.CONTENDERS.update(CONTENDERS)
    station.main()
