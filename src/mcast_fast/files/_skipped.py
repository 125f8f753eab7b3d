"""The names of what a capture file holds beside UDP: links, Ethernet types, protocols; no I/O."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from mcast_fast._core.blocks import SKIPPED_ETHERTYPE, SKIPPED_LINK, SKIPPED_PROTOCOL

# https://www.tcpdump.org/linktypes.html
LINKS = {
    9: "PPP",
    50: "PPP in HDLC",
    51: "PPPoE",
    104: "Cisco HDLC",
    105: "802.11",
    107: "Frame Relay",
    127: "802.11 radiotap",
    147: "user 0",
    189: "USB",
    192: "PPI",
    195: "802.15.4",
    197: "ERF",
    220: "USB",
    239: "NFLOG",
    247: "InfiniBand",
    249: "USBPcap",
    253: "netlink",
}
# https://www.iana.org/assignments/ieee-802-numbers
ETHERTYPES = {
    0: "802.3 with LLC",
    0x0806: "ARP",
    0x22F3: "TRILL",
    0x6558: "Ethernet bridging",
    0x8035: "RARP",
    0x8847: "MPLS",
    0x8848: "MPLS multicast",
    0x8863: "PPPoE discovery",
    0x8864: "PPPoE",
    0x8809: "slow protocols (LACP)",
    0x888E: "802.1X",
    0x88CC: "LLDP",
    0x88E5: "MACsec",
    0x88E7: "802.1ah",
    0x88F7: "PTP",
    0x894F: "NSH",
    0x9000: "loopback test",
}
# https://www.iana.org/assignments/protocol-numbers
PROTOCOLS = {
    1: "ICMP",
    2: "IGMP",
    4: "IPv4 in IP",
    6: "TCP",
    41: "IPv6 in IP",
    47: "GRE",
    50: "ESP",
    51: "AH",
    58: "ICMPv6",
    59: "IPv6 without a next header",
    88: "EIGRP",
    89: "OSPF",
    103: "PIM",
    112: "VRRP",
    115: "L2TP",
    132: "SCTP",
    136: "UDP-Lite",
    137: "MPLS in IP",
}


def name_of(kind: int, number: int) -> str:
    """What a number of a kind is called, or that number."""
    if kind == SKIPPED_LINK:
        known = LINKS.get(number)
        return f"link type {number}" + (f" ({known})" if known else "")
    if kind == SKIPPED_ETHERTYPE:
        return ETHERTYPES.get(number, f"ethertype {number:#06x}")
    if kind == SKIPPED_PROTOCOL:
        return PROTOCOLS.get(number, f"IP protocol {number}")
    return "others"


def named(counted: Iterable[tuple[int, int, int]]) -> dict[str, int]:
    """The frames by name, the most first."""
    found: dict[str, int] = {}
    for kind, number, frames in counted:
        name = name_of(kind, number)
        found[name] = found.get(name, 0) + frames
    return dict(sorted(found.items(), key=lambda item: -item[1]))


class LeftOut(Protocol):
    """What of a file was neither sent nor converted."""

    @property
    def fragments(self) -> int:
        """Datagrams of which not all fragments are there."""

    @property
    def skipped(self) -> int:
        """Frames that are no UDP, or cannot be read."""

    @property
    def skipped_kinds(self) -> Mapping[str, int]:
        """What those are."""

    @property
    def broken(self) -> int:
        """Frames whose headers contradict each other."""


def kinds_text(kinds: Mapping[str, int]) -> str:
    """'TCP 10, ARP 2'."""
    return ", ".join(f"{name} {frames}" for name, frames in kinds.items())


def left_out_text(result: LeftOut) -> str:
    """'fragments 2, skipped 12 (TCP 10, ARP 2), broken 1'; '' where nothing was left out but what was not requested."""
    skipped = f"{result.skipped} ({kinds_text(result.skipped_kinds)})" if result.skipped else ""
    counts = {
        "fragments": result.fragments,
        "skipped": skipped,
        "broken": result.broken,
    }
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)
