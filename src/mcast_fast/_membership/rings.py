"""Rings: the mapped ring of each interface that a receiver listens on, with the kernel's filter kept in step.

Comes between `Joins` and the slots where packets come from rings: what Joins calls a socket only holds memberships
then, and what goes to its port is listened for at the ring of its interface.
"""

import contextlib
import errno
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcast_fast._core.layout import FRAMES, UNTAGGED
from mcast_fast._host import ifreq
from mcast_fast._membership import bpf
from mcast_fast._membership.sockets import OpenSocket, Options, SocketOwner, open_socket
from mcast_fast._units import checked_number, size_in_bytes, whole_number
from mcast_fast.errors import Argument, ArgumentError, ClosedError, InterfaceError, SocketError, explain, socket_error

if TYPE_CHECKING:
    from mcast_fast._core.fast.slots import Slots

DEFAULT_SIZE = 64 << 20
LEAST_SIZE, LARGEST_SIZE = 1 << 20, 1 << 40
# A block is what the kernel hands over at once, full or not: a slow stream fills one in each latency, so that a ring
# lasts for blocks x latency then. Hence many; but each costs a wake-up and a batch, hence large; and one has to hold
# the largest frame (64 KiB, a super-packet).
LEAST_BLOCK, LARGEST_BLOCK, GOOD_BLOCKS = 128 << 10, 1 << 20, 256
LATENCY_MS = (1, 1000)

# linux/if_packet.h, linux/if_arp.h, asm-generic/socket.h, netdevice(7)
ETH_P_ALL = 0x0003
ADDRESS = struct.Struct("=HHiHBB8s")  # sockaddr_ll (packet(7)): family, protocol, index, hardware, kind, address
SOL_PACKET = 263
PACKET_FANOUT, PACKET_FANOUT_HASH, PACKET_FANOUT_FLAG_IGNORE_OUTGOING = 18, 0, 0x4000
PACKET_ADD_MEMBERSHIP, PACKET_MR_ALLMULTI = 1, 2
PACKET_MREQ = struct.Struct("iHH8x")  # interface, kind, length of an address
SO_ATTACH_FILTER = 26
SO_DETACH_FILTER = 27
SIOCGIFHWADDR = 0x8927
ETHERNET_LINKS = {1, 772}  # ARPHRD_ETHER, ARPHRD_LOOPBACK

# A program is made and attached in time that grows with all groups (0.9 ms at 2,000 scattered ones), so that one per
# join would cost the square of them. While joins follow each other quickly, a short and wider program replaces
# it, and the exact ones take 1 / (1 + PAUSE) of the time. Short programs are not worth that.
SHORT, PAUSE = 256, 9
clock = time.monotonic

Row = tuple[bytes, int, bool, Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class RingOptions:
    """How the rings of one receiver are opened: bytes, ms, fanout group; `delivers`: of layout.RING_DELIVERS."""

    size: int = DEFAULT_SIZE
    latency_ms: int = 10
    fanout: int | None = None
    times: bool = True
    delivers: int = UNTAGGED

    @property
    def block_size(self) -> int:
        """The largest power of two of which the ring holds 256, within bounds."""
        share = self.size // GOOD_BLOCKS
        return max(LEAST_BLOCK, min(LARGEST_BLOCK, 1 << (share.bit_length() - 1)))

    @property
    def blocks(self) -> int:
        """How many of them: what is over is left out."""
        return self.size // self.block_size


def ring_options(
    ring: bool | int | str, latency: float, fanout: int | None, times: bool, delivers: int = UNTAGGED
) -> RingOptions:
    """The arguments of a receiver, checked; ArgumentError."""
    size = DEFAULT_SIZE if ring is True else size_in_bytes(ring, "ring")
    if size < LEAST_SIZE:
        raise ArgumentError(f"ring {ring!r} is too small; use at least {LEAST_SIZE} bytes (or ring=True)")
    check_memory(size)
    checked_number(latency, "ring_latency", 0.001, 1)
    if fanout is not None:
        whole_number(fanout, "packet_fanout", 0, 65_535)
    return RingOptions(size, round(latency * 1000), fanout, times, delivers)


# ---- memory ----

MEMINFO = Path("/proc/meminfo")
# Of a cgroup: limit and use of version 2, and of version 1; "max" and absurdly large numbers are no limits.
CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
SPARE = 8  # an eighth of what is free stays for others


def free_memory() -> int | None:
    """Bytes that the machine, or the cgroup of this process, has left; None where the system does not report them."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        rows = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
        found.append(int(rows.get("MemAvailable", "").split()[0]) * 1024)
    for limit, used in CGROUPS:
        with contextlib.suppress(OSError, ValueError):
            found.append(max(0, int(limit.read_text()) - int(used.read_text())))
    return min(found, default=None)


def check_memory(size: int) -> None:
    """Refuse a ring that the free memory cannot hold; ArgumentError.

    The kernel would try: the pages of a ring are charged to no process, so that the OOM killer ends others for it."""
    free = free_memory()
    most = LARGEST_SIZE if free is None else min(LARGEST_SIZE, free - free // SPARE)
    if size > most:
        has = "" if free is None else f": {free >> 20:,} MiB of memory are free, of which an eighth is spared"
        raise ArgumentError(
            f"a ring of {size:,} bytes is more than the {most:,} that there can be{has}; use a smaller one"
        )


@dataclass(slots=True, eq=False)
class Ring:
    """The ring of one interface: its packet socket, its key in the slots, and what its listeners want.

    Every change can be made again from its start, so that an exception of a signal handler in the middle of one does no
    harm. `groups` gets what comes before it loses what goes, and `filter` is rebuilt when it was left in the middle.
    """

    interface: str
    socket: socket.socket
    delivers: int
    keys: list[int] = field(default_factory=list)  # one, once the slots have it
    listeners: dict[int, tuple[int, frozenset[bytes]]] = field(default_factory=dict)  # by key: port, groups
    groups: dict[bytes, dict[int, int]] = field(default_factory=dict)  # by group: ports by key of their listener
    changed: dict[bytes, None] = field(default_factory=dict)  # groups of which the kernel's filter does not know yet
    filter: bpf.Filter | None = None
    coarse: str = ""  # why the kernel lets pass every group
    wide: bpf.Ports | None = None  # the kernel lets pass every group at these ports (() = any); None: fewer groups
    exact_from: float = 0.0  # when the next long program may be attached, by `clock`

    def add_listener(self, key: int, port: int) -> None:
        """Note a listener, which wants no group yet."""
        self.listeners[key] = (port, frozenset())
        if self.wide and not any(first <= port <= last for first, last in self.wide):
            self.wide = None

    def set_groups(self, key: int, groups: frozenset[bytes]) -> None:
        """Note the groups that a listener wants; `update` has the kernel know."""
        port, before = self.listeners[key]
        self.listeners[key] = (port, before | groups)
        for group in groups:
            ports = self.groups.setdefault(group, {})
            if key not in ports:
                self.changed[group] = None
                ports[key] = port
        for group in before - groups:
            ports = self.groups.get(group, {})
            self.changed[group] = None
            ports.pop(key, None)
            if not ports:
                self.groups.pop(group, None)
        self.listeners[key] = (port, groups)

    def is_early(self) -> bool:
        """Whether the last exact program was attached so short a time ago that the next one should wait."""
        return clock() < self.exact_from

    def widen(self) -> None:
        """Have the kernel let pass at least what is wanted, at little cost, until `update` makes it exact; SocketError.

        Whatever is joined meanwhile passes already, but at another port."""
        if self.wide is not None:
            return
        ports = bpf.port_intervals({port for port, _ in self.listeners.values()})
        if len(ports) > bpf.INLINE_PORTS or self.delivers == FRAMES:  # fragments behind the first have no port
            ports = ()
        try:
            _attach_coarse(self.socket, bpf.coarse(self.delivers, ports))
        except OSError as error:
            raise socket_error("filter", "a ring", error) from error
        self.wide = ports

    def update(self) -> None:
        """Bring the kernel's filter up to date; SocketError."""
        if not self.changed:
            return
        start = clock()
        changed = list(self.changed)
        built, self.filter = self.filter, None
        if built is None or len(changed) > 64 + len(self.groups) // 4:
            built = bpf.Filter({group: set(ports.values()) for group, ports in self.groups.items()}, self.delivers)
        else:
            for group in changed:
                built.set(group, set(self.groups.get(group, {}).values()))
        program = built.program()
        if not self.coarse or self.wide != () or len(program) <= bpf.MOST_STEPS:
            self.wide = None  # before the program is another one
            self.coarse = attach(self.socket, program, self.delivers, len(self.groups))
        if self.coarse:
            self.wide = ()
        self.filter = built
        end = clock()
        self.exact_from = end + PAUSE * (end - start) if len(program) > SHORT else 0.0
        for group in changed:
            self.changed.pop(group, None)


class Rings(SocketOwner):
    """The slots as Joins sees them where packets come from rings.

    `is_deferred`: a kernel filter may be wider than it has to be. The slots know of it too, and the next receive call
    calls `settle`."""

    def __init__(self, slots: "Slots", names: dict[int, str], options: RingOptions) -> None:
        self._slots = slots
        self._names = names
        self._options = options
        self._rings: dict[int, Ring] = {}
        self._ring_of: dict[int, Ring] = {}  # by key of a listener
        self.is_deferred = False
        self._coarse: dict[int, str] = {}  # of which a notice was given, by interface
        self._answering: dict[tuple[int, int, int], socket.socket] = {}
        self._lock = threading.RLock()  # of the answering sockets: replies come from any thread

    @property
    def names(self) -> dict[int, str]:
        """Names of the interfaces by index; never changed in place, for batches keep them."""
        return self._names

    @names.setter
    def names(self, names: dict[int, str]) -> None:
        self._names = self._slots.names = names

    @property
    def count(self) -> int:
        """How many rings there are."""
        return len(self._rings)

    def add(
        self,
        _socket: socket.socket,
        port: int,
        _group: bytes,
        interface: int,
        _decider: socket.socket | None = None,
        _used: bool = False,
    ) -> int:
        """Listen for a port on an interface, whose ring is opened when it is the first; SocketError, InterfaceError."""
        keys: list[int] = []
        try:
            ring = self._rings.get(interface) or self._open(interface)
            keys.extend(map(self._slots.listen, ring.keys, (port,)))
            ring.add_listener(keys[0], port)
            self._ring_of[keys[0]] = ring
        except BaseException:
            for key in keys:
                self.remove(key)
            self._close_unused(interface)
            raise
        return keys[0]

    def hand_over(self, _key: int, _heir: int) -> None:
        """Nothing: sockets that only hold memberships have no decider."""

    def _open(self, interface: int) -> Ring:
        """Open the ring of an interface; it is known here before the slots have it, so that nothing is left open."""
        ring = self._rings[interface] = unmapped(self._names[interface], self._options)
        start(ring, self._slots, interface, self._options)
        return ring

    def accept(self, key: int, entries: Iterable[Row]) -> None:
        """What may be delivered to a listener from now on; what is new arrives once `flush` has returned."""
        rows = list(entries)
        self._ring_of[key].set_groups(key, frozenset(group for group, *_ in rows))
        self._slots.accept(key, rows)

    def flush(self) -> None:
        """Have the kernel's filters let pass what is accepted; SocketError.

        Once for any number of listeners: what is to be joined must pass before it is. No more than that, unless the
        last change was a moment ago and nobody may be receiving: then `settle` does the rest."""
        changed = [ring for ring in list(self._rings.values()) if ring.changed]
        early = [ring for ring in changed if ring.is_early()]
        if early and not self._defer():
            early = []
        for ring in changed:
            if ring in early:
                ring.widen()
            else:
                ring.update()
        if self.is_deferred and not early:
            self._end_deferral()

    def _defer(self) -> bool:
        """Leave exact filters to the next receive call; False when a call may be receiving now."""
        self.is_deferred = True
        try:
            return self._slots.defer()
        except ClosedError:
            return False

    def _end_deferral(self) -> None:
        self.is_deferred = False
        with contextlib.suppress(ClosedError):
            self._slots.end_deferral()

    def is_overdue(self) -> bool:
        """Whether a filter is wider than it has to be, and a call may be receiving."""
        return self.is_deferred and not self._defer()

    def settle(self) -> None:
        """Have the kernel's filters let pass what is accepted, and no more.

        What the system refuses makes no call to receive fail: a filter stays wider than it has to be then, and says
        so."""
        for ring in list(self._rings.values()):
            try:
                ring.update()
            except SocketError as error:
                ring.coarse = str(error)
        self._end_deferral()

    def notices(self) -> list[tuple[str, str]]:
        """Interfaces whose kernel filter became coarse since the last call, and why."""
        found = []
        for index, ring in list(self._rings.items()):
            if ring.coarse and index not in self._coarse:
                found.append((ring.interface, ring.coarse))
        self._coarse = {index: ring.coarse for index, ring in list(self._rings.items()) if ring.coarse}
        return found

    def remove(self, key: int) -> None:
        """Listen no more; the last listener of an interface takes its ring along. Again does nothing."""
        ring = self._ring_of.get(key)
        self._slots.remove(key)
        if ring is not None:
            if key in ring.listeners:
                ring.set_groups(key, frozenset())
                del ring.listeners[key]
            self._ring_of.pop(key, None)
            for index in [index for index, one in self._rings.items() if one is ring]:
                self._close_unused(index)

    def _close_unused(self, interface: int) -> None:
        ring = self._rings.get(interface)
        if ring is not None and not ring.listeners:
            for key in ring.keys:
                self._slots.remove(key)
            ring.socket.close()
            del self._rings[interface]

    def answering(self, one: OpenSocket) -> socket.socket:
        """A socket that is bound to the port, to answer from; it is opened when it is first needed."""
        with self._lock:
            if one.endpoint not in self._answering:
                options = Options(buffer_size=0, metadata=frozenset())
                self._answering[one.endpoint] = open_socket(one.endpoint, bytes(16), self._names, options).socket
            return self._answering[one.endpoint]

    def _every_socket(self) -> list[socket.socket]:
        return [ring.socket for ring in list(self._rings.values())] + list(self._answering.values())


def unmapped(name: str, options: RingOptions) -> Ring:
    """The ring of an interface before its start; SocketError, ArgumentError."""
    check_memory(options.size)
    with _errors(f"on {name}", options.fanout):
        return Ring(name, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0), options.delivers)


def start(ring: Ring, slots: "Slots", interface: int, options: RingOptions) -> None:
    """Map the ring and bind it; nothing passes through it yet. SocketError, InterfaceError."""
    with _errors(f"on {ring.interface}", options.fanout):
        _start(ring, slots, interface, options)


def start_whole(ring: Ring, slots: "Slots", interface: int, options: RingOptions) -> None:
    """As `start`, and deliver what goes to any group at any port, joined or not.

    The interface takes all multicast frames while the socket is open, whatever is joined (packet(7))."""
    with _errors(f"on {ring.interface}", options.fanout):
        _start(ring, slots, interface, options)
        request = PACKET_MREQ.pack(interface, PACKET_MR_ALLMULTI, 0)
        ring.socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)
        slots.accept(slots.listen(ring.keys[0], 0), None)
        attach_program(ring.socket, bpf.coarse(options.delivers))


def _start(ring: Ring, slots: "Slots", interface: int, options: RingOptions) -> None:
    _check_link(ring.socket, ring.interface)
    ring.socket.setblocking(False)
    attach_program(ring.socket, bpf.NOTHING)
    row = (
        ring.socket,
        interface,
        options.block_size,
        options.blocks,
        options.latency_ms,
        options.times,
        options.delivers,
    )
    # In one call: no signal handler can run between the mapping and the note of its key.
    ring.keys.extend(map(slots.add_ring, *zip(row)))
    try:
        ring.socket.bind((ring.interface, ETH_P_ALL))
    except UnicodeEncodeError:  # Python binds packet sockets by UTF-8 names only
        _bind_by_index(ring.socket, interface)
    if options.fanout is not None:
        kind = PACKET_FANOUT_HASH | PACKET_FANOUT_FLAG_IGNORE_OUTGOING
        ring.socket.setsockopt(SOL_PACKET, PACKET_FANOUT, options.fanout | kind << 16)


def _bind_by_index(sock: socket.socket, index: int) -> None:
    """Bind a packet socket to an interface; OSError."""
    import ctypes

    address = ADDRESS.pack(socket.AF_PACKET, socket.htons(ETH_P_ALL), index, 0, 0, 0, b"")
    if ctypes.CDLL(None, use_errno=True).bind(sock.fileno(), address, ADDRESS.size) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def _errors(subject: str, fanout: int | None) -> Iterator[None]:
    """What the system refuses at an opening, as an error of ours."""
    try:
        yield
    except PermissionError as error:
        raise _without_privilege(subject, error.errno or errno.EPERM) from error
    except OSError as error:
        if isinstance(error, SocketError):
            raise
        with_fanout = f"with packet_fanout={fanout} " if fanout is not None else ""
        raise socket_error("ring", with_fanout + subject, error) from error


def _without_privilege(subject: str, number: int) -> SocketError:
    program = os.path.realpath(sys.executable)
    text = explain("ring", subject, number).partition(";")[0]
    return SocketError(
        number, f"{text}; a ring needs CAP_NET_RAW: run as root, or once `setcap cap_net_raw+ep {program}`", "ring"
    )


def _check_link(sock: socket.socket, name: str) -> None:
    import fcntl  # Windows has none

    answer = fcntl.ioctl(sock.fileno(), SIOCGIFHWADDR, ifreq.NAME.pack(os.fsencode(name)))
    (link,) = ifreq.LINK_TYPE.unpack_from(answer)
    if link not in ETHERNET_LINKS:
        text = f"ring on {name}: its link is not Ethernet (type {link} of linux/if_arp.h); receive without "
        raise InterfaceError(text, Argument("ring"))


def attach(sock: socket.socket, program: "bpf.Program[int]", delivers: int, groups: int) -> str:
    """Have the kernel let pass what a program does, from one packet to the next; "" when it takes it.

    Where it is too long (4,096 steps; net.core.optmem_max), all groups pass, and the answer says why. SocketError."""
    try:
        number = _try(sock, program)
        if number == errno.ENOMEM:
            _detach(sock)
            number = _try(sock, program)
        if number:
            _attach_coarse(sock, bpf.coarse(delivers))
    except OSError as error:
        raise socket_error("filter", "a ring", error) from error
    return _why_coarse(len(program), groups, number) if number else ""


def _attach_coarse(sock: socket.socket, program: "bpf.Program[int]") -> None:
    """Attach a short program, whatever the length of the one before."""
    try:
        attach_program(sock, program)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        _detach(sock)
        attach_program(sock, program)


def _detach(sock: socket.socket) -> None:
    """Take the program off, for the kernel counts it beside the one that replaces it (sk_filter_charge()). Everything
    passes until the next one is attached."""
    sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def _try(sock: socket.socket, program: "bpf.Program[int]") -> int:
    """Attach a program; ENOMEM or EINVAL where it is too long."""
    if len(program) > bpf.MOST_STEPS:
        return errno.EINVAL
    try:
        attach_program(sock, program)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOMEM):
            raise
        return error.errno
    return 0


def _why_coarse(steps: int, groups: int, number: int) -> str:
    if number == errno.ENOMEM:
        remedy = "raise net.core.optmem_max (20 KiB take some 1,700 steps, 128 KiB all that the kernel does)"
    else:
        remedy = f"the kernel takes {bpf.MOST_STEPS:,}; use several receivers"
    return (
        f"the kernel filter for {groups:,} groups has {steps:,} steps, and was refused: every multicast datagram "
        f"passes to this process, which filters them more slowly; {remedy}"
    )


def attach_program(sock: socket.socket, program: "bpf.Program[int]") -> None:
    """Let a packet socket have only what the program passes, packet(7). Raises OSError."""
    request = struct.pack("HP", len(program), program.buffer_info()[0])
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, request)
