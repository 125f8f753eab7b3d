"""Rings: the mapped ring of each interface that a receiver listens on, with the kernel's filter kept in step.

Stands between `Joins` and the slots where packets come from rings: what Joins calls a socket only holds memberships
then, and what goes to its port is listened for at the ring of its interface.
"""

import array
import contextlib
import errno
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcast_fast import bpf
from mcast_fast.errors import ArgumentError, InterfaceError, SocketError, explain, socket_error
from mcast_fast.sockets import IFREQ_NAME, OpenSocket, Options, open_socket
from mcast_fast.units import size_in_bytes, whole_number

if TYPE_CHECKING:
    from mcast_fast._core.fast.slots import Slots

DEFAULT_SIZE = 64 << 20
LEAST_SIZE = 1 << 20
# A block is what the kernel hands over at once, full or not: a slow stream fills one in each latency, so that a ring
# lasts for blocks x latency then. Hence many; but each costs a wake-up and a batch, hence large; and one has to hold
# the largest frame (64 KiB, a super-packet).
LEAST_BLOCK, LARGEST_BLOCK, GOOD_BLOCKS = 128 << 10, 1 << 20, 256
LATENCY_MS = (1, 1000)

# linux/if_packet.h, linux/if_arp.h, asm-generic/socket.h, netdevice(7)
ETH_P_ALL = 0x0003
SOL_PACKET = 263
PACKET_FANOUT, PACKET_FANOUT_HASH, PACKET_FANOUT_FLAG_IGNORE_OUTGOING = 18, 0, 0x4000
SO_ATTACH_FILTER = 26
SIOCGIFHWADDR = 0x8927
ETHERNET_LINKS = {1, 772}  # ARPHRD_ETHER, ARPHRD_LOOPBACK
LINK_TYPE = struct.Struct("=16xH")

Row = tuple[bytes, int, bool, Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class RingOptions:
    """How the rings of one receiver are opened: bytes, ms, fanout group."""

    size: int = DEFAULT_SIZE
    latency_ms: int = 10
    fanout: int | None = None
    times: bool = True

    @property
    def block_size(self) -> int:
        """The largest power of two of which the ring holds 256, within bounds."""
        share = self.size // GOOD_BLOCKS
        return max(LEAST_BLOCK, min(LARGEST_BLOCK, 1 << (share.bit_length() - 1)))

    @property
    def blocks(self) -> int:
        """How many of them: what is over is left out."""
        return self.size // self.block_size


def ring_options(ring: bool | int | str, latency: float, fanout: int | None, times: bool) -> RingOptions:
    """The arguments of a receiver, checked; ArgumentError."""
    size = DEFAULT_SIZE if ring is True else size_in_bytes(ring, "ring")
    if size < LEAST_SIZE:
        raise ArgumentError(f"ring {ring!r} is too small; use at least {LEAST_SIZE} bytes (or ring=True)")
    if isinstance(latency, bool) or not isinstance(latency, int | float) or not 0.001 <= latency <= 1:
        raise ArgumentError(f"ring_latency {latency!r} is out of range; use 0.001 to 1 seconds")
    if fanout is not None:
        whole_number(fanout, "packet_fanout", 0, 65_535)
    return RingOptions(size, round(latency * 1000), fanout, times)


@dataclass(slots=True)
class Ring:
    """The ring of one interface: its packet socket, its key in the slots, and what its listeners want."""

    socket: socket.socket
    key: int
    listeners: dict[int, tuple[int, frozenset[bytes]]] = field(default_factory=dict)  # by key: port, groups
    wanted: bpf.Wanted = field(default_factory=dict)

    def follow(self) -> None:
        """Bring the kernel's filter in step with the listeners."""
        wanted: dict[bytes, set[int]] = {}
        for port, groups in self.listeners.values():
            for group in groups:
                wanted.setdefault(group, set()).add(port)
        if wanted != self.wanted:
            attach(self.socket, wanted)
            self.wanted = wanted


class Rings:
    """The slots as Joins sees them where packets come from rings."""

    def __init__(self, slots: "Slots", names: dict[int, str], options: RingOptions) -> None:
        self._slots = slots
        self._names = names
        self._options = options
        self._rings: dict[int, Ring] = {}
        self._ring_of: dict[int, int] = {}  # interface by key of a listener
        self._answering: dict[tuple[int, int, int], socket.socket] = {}
        self._lock = threading.RLock()  # of the answering sockets: replies come from any thread

    def add(self, _socket: socket.socket, port: int, _group: bytes, interface: int) -> int:
        """Listen for a port on an interface, whose ring is opened when it is the first; SocketError, InterfaceError."""
        ring = self._rings.get(interface)
        if ring is None:
            ring = self._rings[interface] = open_ring(self._slots, interface, self._names, self._options)
        try:
            key = self._slots.listen(ring.key, port)
        except BaseException:
            self._close_unused(interface)
            raise
        ring.listeners[key] = (port, frozenset())
        self._ring_of[key] = interface
        return key

    def accept(self, key: int, entries: Iterable[Row]) -> None:
        """What may be delivered to a listener from now on; SocketError when the kernel takes no filter."""
        rows = list(entries)
        ring = self._rings[self._ring_of[key]]
        before = ring.listeners[key]
        ring.listeners[key] = (before[0], frozenset(group for group, *_ in rows))
        try:
            ring.follow()
        except SocketError:
            ring.listeners[key] = before
            raise
        self._slots.accept(key, rows)

    def remove(self, key: int) -> None:
        """Listen no more; the last listener of an interface takes its ring along."""
        interface = self._ring_of.pop(key)
        self._slots.remove(key)
        ring = self._rings[interface]
        del ring.listeners[key]
        with contextlib.suppress(SocketError):  # it lets pass more than it has to
            ring.follow()
        self._close_unused(interface)

    def _close_unused(self, interface: int) -> None:
        ring = self._rings[interface]
        if not ring.listeners:
            del self._rings[interface]
            self._slots.remove(ring.key)
            ring.socket.close()

    def answering(self, one: OpenSocket) -> socket.socket:
        """A socket that is bound to the port, to answer from; it is opened when it is first needed."""
        with self._lock:
            if one.place not in self._answering:
                options = Options(buffer_size=0, metadata=frozenset())
                self._answering[one.place] = open_socket(one.place, bytes(16), self._names, options).socket
            return self._answering[one.place]

    def close(self) -> None:
        """Close every packet socket; the slots are closed before."""
        with self._lock:
            for sock in [ring.socket for ring in self._rings.values()] + list(self._answering.values()):
                sock.close()


def open_ring(slots: "Slots", interface: int, names: dict[int, str], options: RingOptions) -> Ring:
    """The ring of an interface, bound, through which nothing passes yet; SocketError or InterfaceError, with nothing
    left open."""
    name = names[interface]
    subject = f"on {name}"
    with contextlib.ExitStack() as undo:
        try:
            sock = undo.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
            _check_link(sock, name)
            sock.setblocking(False)
            attach(sock, {})
            key = slots.add_ring(sock, interface, options.block_size, options.blocks, options.latency_ms, options.times)
            undo.callback(slots.remove, key)
            sock.bind((name, ETH_P_ALL))
            if options.fanout is not None:
                subject = f"with packet_fanout={options.fanout} on {name}"
                kind = PACKET_FANOUT_HASH | PACKET_FANOUT_FLAG_IGNORE_OUTGOING
                sock.setsockopt(SOL_PACKET, PACKET_FANOUT, options.fanout | kind << 16)
        except PermissionError as error:
            raise _without_privilege(subject, error.errno or errno.EPERM) from error
        except OSError as error:
            if isinstance(error, SocketError):
                raise
            raise socket_error("ring", subject, error) from error
        undo.pop_all()
    return Ring(sock, key)


def _without_privilege(subject: str, number: int) -> SocketError:
    program = os.path.realpath(sys.executable)
    text = explain("ring", subject, number).partition(";")[0]
    return SocketError(
        number, f"{text}; a ring needs CAP_NET_RAW: run as root, or once `setcap cap_net_raw+ep {program}`", "ring"
    )


def _check_link(sock: socket.socket, name: str) -> None:
    import fcntl  # Windows has none

    told = fcntl.ioctl(sock.fileno(), SIOCGIFHWADDR, IFREQ_NAME.pack(name.encode()))
    (link,) = LINK_TYPE.unpack_from(told)
    if link not in ETHERNET_LINKS:
        raise InterfaceError(
            f"ring on {name}: its link is not Ethernet (type {link} of linux/if_arp.h); receive without ring="
        )


def attach(sock: socket.socket, wanted: bpf.Wanted) -> None:
    """Have the kernel let pass what is wanted, from one packet to the next; and all groups where those wanted are too
    many for a program (EINVAL beyond 4,096 steps, ENOMEM beyond net.core.optmem_max). SocketError."""
    try:
        try:
            _attach(sock, bpf.exact(wanted))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOMEM):
                raise
            _attach(sock, bpf.coarse())
    except OSError as error:
        raise socket_error("filter", "a ring", error) from error


def _attach(sock: socket.socket, program: tuple[bpf.Instruction, ...]) -> None:
    steps = array.array("Q", bpf.packed(program))
    if len(program) > 65_535:  # struct sock_fprog counts in 16 bits
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    request = struct.pack("HP", len(program), steps.buffer_info()[0])
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, request)
