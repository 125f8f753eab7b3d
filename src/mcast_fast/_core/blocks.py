"""Capture files in numbers and words, for both backends: magics, block types, option codes, limits, and what can be
wrong with a file.

Rules of this module: data only. pcapng is draft-ietf-opsawg-pcapng, classic pcap draft-ietf-opsawg-pcap; the C enums of
capture.h are held against this page when the fast backend is imported.
"""

from typing import NamedTuple

from mcast_fast._core.layout import Flag

SECTION_HEADER = 0x0A0D0D0A  # reads the same in both byte orders
BYTE_ORDER = 0x1A2B3C4D

INTERFACE_DESCRIPTION = 1
OBSOLETE_PACKET = 2
SIMPLE_PACKET = 3
INTERFACE_STATISTICS = 5
ENHANCED_PACKET = 6

# The least bytes a block of a type has; of any other type, SMALLEST_BLOCK.
SMALLEST = {
    SECTION_HEADER: 28,
    INTERFACE_DESCRIPTION: 20,
    OBSOLETE_PACKET: 32,
    SIMPLE_PACKET: 16,
    INTERFACE_STATISTICS: 24,
    ENHANCED_PACKET: 32,
}
SMALLEST_BLOCK = 12
LARGEST_BLOCK = (16 << 20) + 4096  # 16 MiB of packet, and the block's own header and options
LARGEST_FRAME = 16 << 20
MOST_INTERFACES = 65_536  # in one file
MOST_WRITTEN = 1024  # interfaces in a file of ours
TOO_MANY_WRITTEN = f"a file can be written of {MOST_WRITTEN} interfaces at most"
PIECES = 64  # datagrams that are put together at a time: a fragment of one more discards the one that waits longest
LONGEST_NAME = 127  # bytes of an interface's name; what is longer is cut

COMMENT = 1
IF_NAME = 2
IF_FILTER = 11
IF_TSRESOL = 9
IF_TSOFFSET = 14
EPB_DROPCOUNT = 4
ISB_STARTTIME = 2
ISB_ENDTIME = 3
ISB_IFRECV = 4
ISB_IFDROP = 5
ISB_FILTERACCEPT = 6
ISB_OSDROP = 7
ISB_USRDELIV = 8
SHB_HARDWARE = 2
SHB_OS = 3
SHB_USERAPPL = 4

LINK_ETHERNET = 1
LINK_RAW = 101  # begins with the IP header
# The comment of an interface whose packets have synthetic headers, and what follows it for each of TTL and TOS that is
# not that of the packets.
SYNTHETIC = "mcast-fast: synthetic headers"
UNKNOWN = {Flag.TTL: "; TTL unknown", Flag.TOS: "; TOS unknown"}
SHARED_TIME = "mcast-fast: shared time"  # the comment of a packet whose record has Flag.COALESCED
DEFAULT_TTL = 64  # of a packet whose record has none


class Pcap(NamedTuple):
    """A kind of classic pcap file: ns a tick of its times, and the bytes of a packet's header."""

    tick: int
    header: int


PCAP_HEADER = 24  # bytes of the file's header
PCAP_NS = 0xA1B23C4D
PCAP = {
    0xA1B2C3D4: Pcap(1000, 16),
    PCAP_NS: Pcap(1, 16),
    0xA1B2CD34: Pcap(1000, 24),  # Kuznetzov's, of old Red Hat systems: eight more bytes per packet
}

# What can be wrong with a file, in the order of the C enum MCAST_WRONG_*, from 1 on. {value} is what the file says.
FAILURES = (
    "it starts with {value:#010x}, which is neither pcapng nor pcap",
    "its section header has the byte-order magic {value:#010x}",
    "version {value} of the format is not known",
    "a block of type {other:#x} has an absurd length, {value}",
    "a block has the length {value} at its start and {other} at its end",
    "a packet has {value} captured bytes where {other} are left of its block",
    "a block names interface {value} where {other} are described",
    "an option of {value} bytes runs past the {other} that are left of its block",
    "it describes more than {value} interfaces",
    "it ends in the middle of a block: {value} of {other} bytes are there",
    "a packet has an absurd captured length, {value}",
)
(
    WRONG_MAGIC,
    WRONG_ORDER,
    WRONG_VERSION,
    WRONG_LENGTH,
    WRONG_TRAILER,
    WRONG_CAPTURED,
    WRONG_INTERFACE,
    WRONG_OPTION,
    WRONG_INTERFACES,
    WRONG_END,
    WRONG_FRAME,
) = range(1, len(FAILURES) + 1)

# Why a packet cannot be written; the C enum MCAST_UNFIT_* counts in the same order from 1.
UNFIT = (
    "source and group are not of one family",
    "{length} bytes of payload do not fit an IP datagram",
    "it is a whole Ethernet frame, and the file is of raw IP",
)
UNFIT_FAMILY, UNFIT_LENGTH, UNFIT_LINK = range(1, len(UNFIT) + 1)

# What a frame is that is no UDP: what its number is of; the C enum MCAST_SKIPPED_* counts in the same order.
SKIPPED_OTHERS, SKIPPED_LINK, SKIPPED_ETHERTYPE, SKIPPED_PROTOCOL = range(4)
SKIPPED_KINDS = 32  # that are counted apart, the others among them
SMALLEST_ETHERTYPE = 0x600  # what is less is a length: IEEE 802.3

COUNTERS = (
    "frames",
    "received",
    "bytes",
    "truncated",
    "filtered",
    "fragments",
    "skipped",
    "broken",
    "dropped",
    "batches",
    "reassembled",
)


class Counted(NamedTuple):
    """A flow as a core's Summary counts it: addresses of 16 bytes, of the source's interface its index in the file;
    `bytes` as captured, `wire_bytes`, `smallest` and `largest` as they were; times in ns, None where there are none."""

    group: bytes
    port: int
    source: bytes
    interface: int
    packets: int
    bytes: int
    wire_bytes: int
    first: int | None
    last: int | None
    largest_gap: int
    largest_gap_at: int
    dropped: int
    truncated: int
    smallest: int
    largest: int


class CapturedOn(NamedTuple):
    """An interface as a file describes it, and what its latest statistics block counted (None: it says nothing).

    `synthetic`: the headers of its packets are not those they had, but made from what a socket reports."""

    name: str
    link_type: int
    received: int | None
    dropped: int | None
    dropped_system: int | None
    delivered: int | None
    synthetic: bool = False


def headers_comment(known: int) -> str:
    """The comment of an interface whose packets have synthetic headers; `known`: bits of Flag, TTL and TOS."""
    return SYNTHETIC + "".join(text for flag, text in UNKNOWN.items() if not known & flag)


def unknown_headers(comment: bytes) -> Flag | None:
    """What such a comment says is not known; None for another comment."""
    if not comment.startswith(SYNTHETIC.encode()):
        return None
    for known in (Flag.TTL | Flag.TOS, Flag.TTL, Flag.TOS, Flag(0)):
        if comment == headers_comment(known).encode():
            return (Flag.TTL | Flag.TOS) & ~known
    return Flag(0)


def failure_text(failure: int, value: int, other: int) -> str:
    """What is wrong with a file, in words."""
    return FAILURES[failure - 1].format(value=value, other=other)
