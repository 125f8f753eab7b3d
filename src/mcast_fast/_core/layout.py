"""The one record: 64 bytes that describe a received packet, whichever path it came by; and the names of the features.

Rules of this module: data only. Both backends, the files and NumPy read the record as it is described here, and the C
structure is checked against it when the fast backend is imported.
"""

import struct
import sys
from collections.abc import Iterable, Mapping
from enum import IntFlag
from typing import Any, NamedTuple

from mcast_fast.errors import Feature as Feature  # noqa: PLC0414 - beside the names of the features, for those who import it here


class Field(NamedTuple):
    """A field of the record: its name, the `struct` letter of one element, how many elements, and what it holds."""

    name: str
    letter: str
    size: int
    meaning: str


FIELDS = (
    Field("timestamp", "q", 1, "arrival, ns since the Unix epoch; 0 = none"),
    Field("offset", "I", 1, "of the payload in the arena, bytes"),
    Field("interface", "I", 1, "index of the interface it arrived on; 0 = unknown"),
    Field("dropped", "I", 1, "buffers the kernel dropped just before this one"),
    Field("length", "H", 1, "of the payload in the arena, bytes"),
    Field("wire_length", "H", 1, "of the payload before truncation, bytes; 0 = unknown"),
    Field("source", "B", 16, "address of the sender; IPv4 is v4-mapped"),
    Field("group", "B", 16, "true destination address; IPv4 is v4-mapped"),
    Field("source_port", "H", 1, "UDP port of the sender"),
    Field("port", "H", 1, "UDP port of the destination"),
    Field("flags", "H", 1, "bits of Flag"),
    Field("ttl", "B", 1, "TTL or hop limit, when Flag.TTL is set"),
    Field("tos", "B", 1, "TOS or traffic class, when Flag.TOS is set"),
)


class Flag(IntFlag):
    """Bits of the record's `flags`."""

    __module__ = "mcast_fast"

    TRUNCATED = 1  # the payload was longer than max_packet_size
    TTL = 2  # `ttl` was reported by the kernel
    TOS = 4  # `tos` was reported by the kernel
    COALESCED = 8  # came in one piece with its neighbours, and shares their time
    HARDWARE = 16  # `timestamp` is by the clock of the network card
    FRAME = 32  # the payload is the whole Ethernet frame, as it came (Receiver(frames=True))


RECORD = struct.Struct("=" + "".join(f.letter if f.size == 1 else f"{f.size}s" for f in FIELDS))
RECORD_SIZE = RECORD.size

ARENA_LIMIT = 2**32 - 1  # offsets are 32 bits wide
MAX_PACKET_SIZE = 65_535
MOST_PACKETS = 2**26  # in one batch: their records alone are the 4 GiB that an arena may have

# What a ring delivers, by its number in ring.h (MCAST_DELIVERS_*): datagrams that a socket would get, those in VLANs
# too, or whole frames.
RING_DELIVERS = UNTAGGED, TAGGED, FRAMES = range(3)

# What says that an object is not made by calling its class.
NO_BATCH = "batches come from a receiver or a file, or from Batch.from_bytes"
NO_PACKET = "packets come from a batch"

V4_MAPPED = bytes(10) + b"\xff\xff"


def buffer_format(byte_order: str = "<" if sys.byteorder == "little" else ">") -> str:
    """The record in the format language of PEP 3118, as `memoryview.format` shows it."""
    elements = (("" if f.size == 1 else f"({f.size})") + byte_order + f.letter + f":{f.name}:" for f in FIELDS)
    # ctypes, which exports the pure records, names one-byte elements with the byte order too; and what is a long there
    # as well as an int (Windows) it calls a long.
    text = "T{" + "".join(elements) + "}"
    return text.replace(byte_order + "I", byte_order + "L") if struct.calcsize("@l") == 4 else text


def offsets() -> dict[str, int]:
    """Where each field starts in the record, bytes."""
    letters = ["="]
    found = {}
    for field in FIELDS:
        found[field.name] = struct.calcsize("".join(letters))
        letters.append(f"{field.size}{field.letter}")
    return found


# What a backend or an operating system may lack: name -> what it gives. `mcast_fast.features()` says which are on.
FEATURES = {
    "fast": "the compiled backend",
    "batched_receive": "many packets per system call (recvmmsg)",
    "batched_send": "many packets per system call (sendmmsg)",
    "send_segmentation": "many datagrams of one size as one packet that the kernel cuts apart (UDP_SEGMENT)",
    "pacing": "sending at a rate, by absolute deadlines on the monotonic clock",
    "transmit_times": "when each datagram left, in ns, by the kernel (SO_TIMESTAMPING)",
    "destination": "the true destination and interface of each packet (pktinfo)",
    "hardware_timestamps": "arrival times by the clock of the network card (SO_TIMESTAMPING)",
    "kernel_timestamps": "arrival times by the kernel (SO_TIMESTAMPNS; SO_TIMESTAMP: microseconds)",
    "drop_gaps": "where in the stream the kernel dropped buffers (SO_RXQ_OVFL)",
    "drop_totals": "how many buffers the kernel dropped in all (SO_MEMINFO)",
    "multicast_all_off": "the kernel keeps other processes' groups away (IP_MULTICAST_ALL)",
    "bind_to_device": "a socket receives from one interface only (SO_BINDTODEVICE)",
    "source_filters": "full-state source filters (RFC 3678)",
    "receive_ttl": "TTL or hop limit of each packet (IP_RECVTTL)",
    "receive_tos": "TOS or traffic class of each packet (IP_RECVTOS)",
    "receive_coalescing": "many packets of one sender handed over as one (UDP_GRO, UDP_RECV_MAX_COALESCED_SIZE)",
    "coalescing_under_pressure": "packets are coalesced while the receiver does not keep up, and only then (UDP_GRO)",
    "busy_poll": "the kernel looks at the device itself before it sleeps (SO_BUSY_POLL)",
    "background": "a thread that receives while Python is busy",
    "background_cpu": "the processor that this thread runs on",
    "wire_length": "the length before truncation (MSG_TRUNC)",
    "ring": "packets from a ring that the kernel maps (AF_PACKET, TPACKET_V3)",
    "descriptor": "one descriptor to poll for the whole receiver (epoll, kqueue)",
    "watch": "interfaces that go and come back are joined again (rtnetlink, route(4), NotifyIpInterfaceChange)",
    "arrow": "batches and files for pyarrow, polars and DuckDB (the Arrow C interfaces)",
    "packet_buffer": "a packet supports the buffer protocol: struct.unpack_from(format, packet)",
    "igmp_version": "a warning where source filters do not reach the network (IGMPv2, MLDv1)",
}

# Feature -> the options that give it, each by itself.
FEATURE_OPTIONS = {
    "destination": ("IP_PKTINFO", "IP_RECVDSTADDR"),
    "hardware_timestamps": ("SO_TIMESTAMPING",),
    "kernel_timestamps": ("SO_TIMESTAMPNS", "SO_TIMESTAMP", "SIO_TIMESTAMPING"),
    "drop_gaps": ("SO_RXQ_OVFL",),
    "drop_totals": ("SO_MEMINFO",),
    "multicast_all_off": ("IP_MULTICAST_ALL",),
    "bind_to_device": ("SO_BINDTODEVICE",),
    "source_filters": ("MCAST_MSFILTER",),
    "receive_ttl": ("IP_RECVTTL",),
    "receive_tos": ("IP_RECVTOS",),
    "transmit_times": ("SO_TIMESTAMPING",),
    "receive_coalescing": ("UDP_GRO", "UDP_RECV_MAX_COALESCED_SIZE"),
    "coalescing_under_pressure": ("UDP_GRO",),
    "busy_poll": ("SO_BUSY_POLL",),
}


def option_features(options: Iterable[str], platform: str, missing: Mapping[str, str]) -> dict[str, Feature]:
    """The features that are on because the operating system has an option; `missing`: better reasons than that."""
    have = set(options)
    return {
        feature: Feature(True, "")
        if have.intersection(any_of)
        else Feature(False, missing.get(feature, f"{platform} has no {' or '.join(any_of)}"))
        for feature, any_of in FEATURE_OPTIONS.items()
    }


def numpy_dtype() -> Any:
    """The record as a NumPy type; NumPy is imported when this is first called, for it is never required."""
    import numpy as np

    letters = {"B": "u1"}
    types = [(f.name, letters.get(f.letter, "=" + f.letter), f.size) for f in FIELDS]
    return np.dtype([(name, kind) if size == 1 else (name, kind, (size,)) for name, kind, size in types])


def packet_text(packet: Any) -> str:
    """How a packet of either backend shows itself."""
    return (
        f"<Packet {packet.source}:{packet.source_port} > {packet.group}:{packet.port} on {packet.interface or '?'}, "
        f"{packet.wire_length or len(packet)} bytes{', truncated' if packet.truncated else ''}>"
    )


def check_names(names: object) -> None:
    """TypeError for what is no dict of interface indexes and names."""
    if not isinstance(names, dict) or not all(isinstance(i, int) and isinstance(one, str) for i, one in names.items()):
        raise TypeError(f"a dict of interface indexes and names is required, not {names!r}")
