"""Listens for groups at three places: at every interface, by sockets, and as the program would.

At first only what is asked for is joined. What has not come by half of the time is joined on every interface too, from
any source, to find where it arrives. It ends early as soon as each group is decided.
"""

import selectors
import socket
import struct
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address

from mcast_fast import _core
from mcast_fast._core.protocols import ETHER_IPV4, ETHER_IPV6
from mcast_fast._membership import bpf
from mcast_fast._membership.rings import attach_program
from mcast_fast._systems import SYSTEM
from mcast_fast.doctor import _packet_socket
from mcast_fast.doctor._feeds import Feed, add_one
from mcast_fast.doctor._frames import Context, Control, Datagram, parse
from mcast_fast.errors import MulticastError, os_text
from mcast_fast.groups import Group
from mcast_fast.receiver import Receiver

ENOUGH = 50  # packets of a group that decide
SHORTEST = 1.0  # seconds that it listens at least, for drops and other senders
MOST_CONTROLS = 100  # queries and reports that are kept for a bundle
FRAME = 2048  # bytes of a frame that are looked at
AT_ONCE = 200  # frames that are read in one turn
SAMPLED = 100  # packets of a batch that are looked at, and counted
LISTED = 50  # groups that the kernel's filter names; with more it passes all
TURN = 0.1  # seconds

# packet(7), <linux/if_packet.h>
ETH_P_ALL, SOL_PACKET, PACKET_AUXDATA = 3, 263, 8
PACKET_OUTGOING = 4
AUXDATA = struct.Struct("=IIIHHHH")  # status, length, captured, offsets of headers, tag, its protocol
CHECKSUM_NOT_READY, VLAN_VALID = 1 << 3, 1 << 4
PROTOCOL = bpf.BESIDE  # SKF_AD_PROTOCOL


class Listening:
    """What was received for feeds. `wire_fault`: why interfaces could not be looked at; empty when they were."""

    def __init__(self, feeds: Sequence[Feed], *, spread: bool) -> None:
        self.feeds = feeds
        self.refusal: MulticastError | None = None
        self.wire_fault = ""
        self.controls: list[Control] = []
        self.queries: dict[tuple[str, str], float] = {}  # the time of the last one, by interface and protocol
        self.reports = 0  # that left this host
        self.began = self.ended = 0.0
        self.has_joined_everywhere = False
        self._spread = spread
        self._polled: list[tuple[str, Receiver]] = []  # where a receiver has no descriptor to wait for
        self._by_address: dict[str, list[Feed]] = {}
        for feed in feeds:
            self._by_address.setdefault(feed.group.address, []).append(feed)

    @property
    def seconds(self) -> float:
        """For how long it listened."""
        return self.ended - self.began

    def run(self, seconds: float, whole: bool, is_over: Callable[[], bool]) -> None:
        """Listen for that long, until all is decided, or until `is_over` says so."""
        with ExitStack() as opened, selectors.DefaultSelector() as waiting:
            self.began = self.ended = time.monotonic()
            self._open_wire(opened, waiting)
            self._open(opened, waiting, [str(feed.group) for feed in self.feeds if not feed.fault], "asked")
            end = self.began + seconds
            while (now := time.monotonic()) < end and not is_over():
                if not whole and now >= self.began + min(seconds, SHORTEST) and self._is_decided():
                    break
                silent = [feed for feed in self.feeds if not feed.last and not feed.heard]
                if silent and not self.has_joined_everywhere and now >= self.began + min(seconds, 10.0) / 2:
                    self._join_everywhere(opened, waiting, silent)
                for kind, receiver in self._polled:
                    self._receive(receiver, kind, TURN / 2)
                if waiting.get_map():
                    for key, _ in waiting.select(max(0.0, min(end - now, TURN))):
                        self._read(key)
                elif not self._polled:
                    break  # nothing could be opened
            self.ended = time.monotonic()

    def _is_decided(self) -> bool:
        return self.refusal is not None or all(
            feed.fault is not None
            or (feed.interface is not None and not feed.interface.is_up)
            or feed.heard.total() >= ENOUGH
            or feed.elsewhere.total() >= ENOUGH
            or sum(count for frame, count in feed.frames.items() if not frame.is_outgoing) >= ENOUGH
            for feed in self.feeds
        )

    # ---- what is opened ----

    def _open(self, opened: ExitStack, waiting: selectors.BaseSelector, groups: list[str], kind: str) -> None:
        if not groups:
            return
        try:
            receiver = opened.enter_context(Receiver(groups, timeout=0, spread=self._spread, gro=False))
            if _core.features()["descriptor"]:
                waiting.register(receiver.fileno(), selectors.EVENT_READ, (kind, receiver))
            else:
                self._polled.append((kind, receiver))
        except MulticastError as error:
            if kind == "asked":
                self.refusal = error

    def _join_everywhere(self, opened: ExitStack, waiting: selectors.BaseSelector, silent: list[Feed]) -> None:
        self.has_joined_everywhere = True
        texts = {str(Group(feed.group.address, feed.port, "all")) for feed in silent}
        self._open(opened, waiting, sorted(texts), "everywhere")

    def _open_wire(self, opened: ExitStack, waiting: selectors.BaseSelector) -> None:
        if not SYSTEM.has_packet_sockets:
            self.wire_fault = "this system has no packet sockets"
            return
        try:
            wire = opened.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)))
            attach_program(wire, _program([feed.group.address for feed in self.feeds]))
            wire.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            wire.setblocking(False)
            waiting.register(wire, selectors.EVENT_READ, ("wire", wire))
        except OSError as error:
            words = "it needs CAP_NET_RAW" if isinstance(error, PermissionError) else os_text(error.errno or 0)
            self.wire_fault = f"a packet socket is refused: {words}"

    # ---- what is read ----

    def _read(self, key: selectors.SelectorKey) -> None:
        kind, source = key.data
        if kind == "wire":
            for beside, data, protocol in _frames(source):
                self._take(parse(data, protocol, beside))
        else:
            self._receive(source, kind, 0)

    def _take(self, seen: Datagram | Control | None) -> None:
        now = time.monotonic()
        if isinstance(seen, Datagram):
            for feed in self._by_address.get(seen.group, ()):
                feed.see(seen, now)
        elif seen is not None:
            if seen.is_query:
                self.queries[seen.interface, seen.protocol] = now
            self.reports += seen.is_outgoing and not seen.is_query
            if len(self.controls) < MOST_CONTROLS:
                self.controls.append(seen)

    def _receive(self, receiver: Receiver, kind: str, timeout: float) -> None:
        try:
            batch = receiver.recv_batch(timeout=timeout)
        except (TimeoutError, MulticastError):
            return
        now = time.monotonic()
        for at, packet in enumerate(batch):
            if at >= SAMPLED:
                break
            for feed in self._by_address.get(packet.group, ()):
                if feed.port != packet.port:
                    continue
                if kind == "everywhere":
                    add_one(feed.elsewhere, (packet.interface or "", packet.source))
                elif feed.name in ("", packet.interface) and feed.group.source in (None, packet.source):
                    add_one(feed.heard, packet.source)
                    feed.last = now


def _frames(wire: socket.socket) -> Iterator[tuple[Context, bytes, int]]:
    """Frames that wait, with what the kernel says of each."""
    for _ in range(AT_ONCE):
        received = _packet_socket.receive(wire, FRAME)
        if received is None:
            return
        data, control, name, protocol, kind = received
        status, tag = CHECKSUM_NOT_READY, 0
        for level, option, value in control:
            if (level, option) == (SOL_PACKET, PACKET_AUXDATA) and len(value) >= AUXDATA.size:
                status, *_, tag, _ = AUXDATA.unpack_from(value)
        vlan = tag & bpf.VLAN_ID if status & VLAN_VALID else 0
        is_outgoing = kind == PACKET_OUTGOING
        yield Context(name, vlan, is_outgoing, not is_outgoing and not status & CHECKSUM_NOT_READY), data, protocol


def _program(addresses: Iterable[str]) -> "array[int]":
    """What passes to us: these groups (all, when they are many), and what goes to groups of the local network, as
    queries and reports do. Packets are without a link header."""
    wanted = sorted(set(addresses))
    ipv4 = [int(IPv4Address(one)) for one in wanted if ":" not in one][: LISTED + 1]
    ipv6 = [int(IPv6Address(one)) & 0xFFFFFFFF for one in wanted if ":" in one][: LISTED + 1]
    # IPv4: the destination is at 16; IPv6: at 24, and its last word at 36.
    first = _section(16, 0xFFFFFF00, 0xE0000000, 16, ipv4, 0xE0000000)
    second = _section(24, 0xFFFF0000, 0xFF020000, 36, ipv6, 0xFF000000)
    head = [bpf.step(bpf.LOAD_WORD, PROTOCOL), bpf.step(bpf.IF_EQUAL, ETHER_IPV4, 0, len(first))]
    middle = [bpf.step(bpf.LOAD_WORD, PROTOCOL), bpf.step(bpf.IF_EQUAL, ETHER_IPV6, 1, 0), bpf.step(bpf.RETURN)]
    return array("Q", [*head, *first, *middle, *second])


def _section(at: int, mask: int, local: int, last: int, groups: list[int], multicast: int) -> list[int]:
    """Accepts or rejects by the destination; each ends the program."""
    is_listed = len(groups) <= LISTED
    steps = [
        bpf.step(bpf.LOAD_WORD, at),
        bpf.step(bpf.AND, mask),
        bpf.step(bpf.IF_EQUAL, local, 0, 1),
        bpf.step(bpf.RETURN, bpf.WHOLE),
    ]
    for group in groups if is_listed else ():
        steps += [
            bpf.step(bpf.LOAD_WORD, last),
            bpf.step(bpf.IF_EQUAL, group, 0, 1),
            bpf.step(bpf.RETURN, bpf.WHOLE),
        ]
    if not is_listed:
        steps += [
            bpf.step(bpf.LOAD_WORD, at),
            bpf.step(bpf.IF_AT_LEAST, multicast, 0, 1),
            bpf.step(bpf.RETURN, bpf.WHOLE),
        ]
    return [*steps, bpf.step(bpf.RETURN)]
