"""One socket of a receiver: its filter, what is read from it, and the records of that. The twin of c/socket_source.c.

Nothing here changes a batch or a counter: `state.py` does that, in one step for each read.
"""

import dataclasses
import socket as socket_module
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from itertools import repeat, starmap
from typing import Any

from mcast_fast._core.layout import RECORD, V4_MAPPED, Flag
from mcast_fast._core.pure.control import READERS, Ancillary
from mcast_fast._core.pure.tables import SYSTEM

HAS_RECVMSG = hasattr(socket_module.socket, "recvmsg_into")
REPORTS_DROPS = "SO_MEMINFO" in SYSTEM.options

Row = tuple[bytes, int, bool, Iterable[bytes]]

_CONTROL_SIZE = 256
_MEMINFO = struct.Struct("=9I")  # the last one: buffers dropped at the socket (sock_diag(7), SK_MEMINFO_DROPS)
_UINT32 = 2**32 - 1  # the kernel counts drops modulo 2^32
_INT32_MAX = 0x7FFF_FFFF
# Plain integers: arithmetic with enum members costs a sixth of the time per packet here.
_TRUNCATED, _COALESCED = int(Flag.TRUNCATED), int(Flag.COALESCED)
_MSG_TRUNC = int(socket_module.MSG_TRUNC)
_NOWAIT = int(getattr(socket_module, "MSG_DONTWAIT", 0))  # Windows has none: the sockets themselves do not wait
_RECEIVE = _NOWAIT | _MSG_TRUNC
_LARGEST = 65_536  # bytes, more than any datagram
_BUFFERS = 16  # of one read, in
_BUFFER_BYTES = 512 << 10  # of memory at most


class Filter:
    """What a socket may deliver: (group, interface) -> sources to include or exclude (RFC 3678); None = everything."""

    def __init__(self, rows: Iterable[Row] | None) -> None:
        self.everything = rows is None
        self.entries = {
            (group, index): (bool(exclude), frozenset(sources)) for group, index, exclude, sources in rows or ()
        }
        addresses = [group for group, _ in self.entries]
        addresses += [source for _, sources in self.entries.values() for source in sources]
        if any(len(address) != 16 for address in addresses):
            raise ValueError("groups and sources are packed addresses of 16 bytes")

    def allows(self, group: bytes, interface: int, source: bytes) -> bool:
        """Whether the group, interface and source of a packet were requested."""
        if self.everything:
            return True
        entry = self.entries.get((group, interface)) or self.entries.get((group, 0))
        if entry is None:
            return False
        exclude, sources = entry
        return (source in sources) != exclude


NOTHING = Filter(())
Own = frozenset[tuple[bytes, int]]  # this machine's addresses, where own packets are refused; interface 0 = any


def is_own(own: Own, source: bytes, source_port: int, port: int, interface: int) -> bool:
    """Whether a packet came from one of these addresses, and from the port that it went to."""
    return source_port == port and ((source, interface) in own or (source, 0) in own)


@dataclasses.dataclass(slots=True, eq=False)
class Socket:
    """A socket, what its binding implies for every packet, and what its kernel counters were when last read."""

    socket: socket_module.socket
    key: int
    port: int
    group: bytes
    interface: int
    family: int
    decider: socket_module.socket | None = None  # see coalescing.py
    filter: Filter = NOTHING
    overflow: int = 0  # the kernel's drop counter, as last reported with a packet
    pending_drops: int = 0  # drops reported with packets that were filtered: they belong to the next record
    meminfo_drops: int = 0  # the same counter, as last read
    drops: int = 0  # in all, as last read
    inexact_drops: int = 0  # of them, those of buffers that may have held several packets
    coalesces: bool = False  # packets may come coalesced
    discarded: list[Any] = dataclasses.field(default_factory=list)  # what was queued when it was removed, as received

    def begin(self) -> None:
        """Count the drops from now on, of a socket that was open before."""
        self.read_memory()
        self.drops = self.inexact_drops = 0
        self.overflow = self.meminfo_drops

    def read_memory(self) -> tuple[int, int] | None:
        """How full the buffer is: bytes of backlog and at the most (SO_MEMINFO). Counts the drops so far.

        None where it is not known: nothing is counted then."""
        if not REPORTS_DROPS:
            return None
        with suppress(OSError):
            info = self.socket.getsockopt(*SYSTEM.options["SO_MEMINFO"], _MEMINFO.size)
            if len(info) == _MEMINFO.size:
                backlog, buffer, *_, drops = _MEMINFO.unpack(info)
                more = drops - self.meminfo_drops & _UINT32
                inexact = more if self.coalesces else 0
                self.drops, self.inexact_drops, self.meminfo_drops = (
                    self.drops + more, self.inexact_drops + inexact, drops,
                )  # fmt: skip
                return backlog, buffer
        return None


@dataclasses.dataclass(slots=True, eq=False)
class Read:
    """What was read from a socket and is in no batch yet: for each buffer in use, what its system call returned.

    `filter` and `own` decide what is wanted, and were in force at the number `epoch` of changes."""

    one: Socket
    filter: Filter
    own: Own
    epoch: int
    results: list[Any] = dataclasses.field(default_factory=list)


def discard(one: Socket, most: int) -> None:
    """Read and drop what is queued at a socket, at most that many buffers; `one.discarded` has what each call returned.

    It has a buffer of its own: what an interrupted call has read may be in the others."""
    scratch = bytearray(_LARGEST)  # Windows refuses to cut a packet short
    call: Any = one.socket.recvmsg_into if HAS_RECVMSG else one.socket.recv_into
    arguments = ([scratch], _CONTROL_SIZE, _NOWAIT) if HAS_RECVMSG else (scratch, 0, _NOWAIT)
    while len(one.discarded) < most:
        try:
            one.discarded.extend(starmap(call, repeat(arguments, most)))
        except ConnectionResetError:  # Windows: an ICMP answer to what was sent from here
            continue
        except OSError:
            return


def packets_in(result: Any) -> int:
    """How many packets a buffer of `discard` held."""
    if not HAS_RECVMSG:
        return 1
    length, control, _, _ = result
    sizes = (value for level, kind, value in control if READERS.get((level, kind)) is Ancillary.segment_size)
    segment = next((int.from_bytes(value[:4], sys.byteorder) for value in sizes if len(value) >= 4), 0)
    return -(-length // segment) if 0 < segment < length else 1


class Buffers:
    """The memory that packets are read into, `size` bytes each at most, before they are packed into a batch."""

    def __init__(self, count: int, size: int) -> None:
        self.size = size
        # Without recvmsg nothing reports that a packet was truncated, so that none is until it is here.
        room = size if HAS_RECVMSG else _LARGEST
        count = max(1, min(count, _BUFFERS, _BUFFER_BYTES // room))
        self.views = [memoryview(bytearray(room)) for _ in range(count)]
        self._arguments = [([view], _CONTROL_SIZE, _RECEIVE) if HAS_RECVMSG else (view,) for view in self.views]

    def __len__(self) -> int:
        return len(self.views)

    def calls(self, one: Socket, count: int) -> "starmap[Any]":
        """The next `count` packets of a socket: one system call for each, made by C when it is iterated over."""
        call: Any = one.socket.recvmsg_into if HAS_RECVMSG else one.socket.recvfrom_into
        return starmap(call, self._arguments[:count])


class Packing:
    """The records and payloads of a read, and what they add to the counters."""

    __slots__ = (
        "_filter", "_limit", "_one", "_own", "_size", "bytes", "coalesced", "cut_off", "end", "filtered", "has_cut",
        "overflow", "payloads", "pending_drops", "received", "records", "truncated",
    )  # fmt: skip

    def __init__(self, read: Read, buffers: Buffers, packet_limit: int, base: int) -> None:
        """`packet_limit`: bytes that are kept per packet; `base`: where in the arena the payloads will be."""
        self._one, self._filter, self._own = read.one, read.filter, read.own
        self._size, self._limit = buffers.size, packet_limit
        self.overflow, self.pending_drops = read.one.overflow, read.one.pending_drops
        self.records, self.payloads, self.end = bytearray(), list[memoryview](), base
        self.received = self.bytes = self.truncated = self.filtered = self.coalesced = self.cut_off = 0
        self.has_cut = False  # a buffer was too small for what was coalesced: by somebody else
        for view, result in zip(buffers.views, read.results, strict=False):
            if HAS_RECVMSG:
                self._add(view, *result)
            else:
                wire, name = result
                self._add(view, wire, (), _MSG_TRUNC if wire > self._size else 0, name)

    def counters(self, before: dict[str, int]) -> dict[str, int]:
        """The counters with this read in them."""
        return before | {
            "received": before["received"] + self.received,
            "bytes": before["bytes"] + self.bytes,
            "truncated": before["truncated"] + self.truncated,
            "filtered": before["filtered"] + self.filtered,
            "buffers": before["buffers"] + len(self.payloads),
            "coalesced": before["coalesced"] + self.coalesced,
            "dropped_memory": before["dropped_memory"] + self.cut_off,
        }

    def _add(self, view: memoryview, wire: int, control: Any, flags: int, name: Any) -> None:
        """What one buffer holds: one packet, or several of one size that the kernel coalesced."""
        one = self._one
        length = min(wire, self._size)
        cut = flags & _MSG_TRUNC
        if cut and wire <= length:
            wire = 0  # not known: macOS and BSD report the length after truncation
        ancillary = Ancillary(one.group, one.interface, self.overflow)
        for level, kind, value in control:
            read = READERS.get((level, kind))
            if read is not None:
                read(ancillary, value)
        dropped = self.pending_drops
        if ancillary.overflow != self.overflow:
            more = ancillary.overflow - self.overflow & _UINT32  # modulo 2^32, as the kernel counts
            if more <= _INT32_MAX:  # else queued before the socket was added, and what was dropped since then
                dropped = dropped + more & _UINT32
                self.overflow = ancillary.overflow
        source = _packed_source(one.family, name[0])
        whole = max(wire, length)
        segment = ancillary.segment if 0 < ancillary.segment < whole else 0
        self.has_cut |= segment > 0 and whole > length
        if not self._filter.allows(ancillary.group, ancillary.interface, source) or (
            self._own and is_own(self._own, source, name[1], one.port, ancillary.interface)
        ):
            self.pending_drops = dropped
            self.filtered += -(-whole // segment) if segment else 1
            return
        bits = ancillary.flags | (_COALESCED if segment else _TRUNCATED if cut else 0)
        for at in range(0, length, segment) if segment else (0,):
            size = min(segment, whole - at) if segment else length
            kept = min(size, length - at, self._limit)
            flag = bits | _TRUNCATED if kept < size else bits
            self.records += RECORD.pack(
                ancillary.timestamp, self.end + at, ancillary.interface, dropped, kept,
                size if segment else wire, source, ancillary.group, name[1], one.port,
                flag, ancillary.ttl, ancillary.tos,
            )  # fmt: skip
            dropped = 0
            self.bytes += kept
            self.received += 1
            if flag & _TRUNCATED:
                self.truncated += 1
            if segment:
                self.coalesced += 1
        self.pending_drops = -(-whole // segment) - -(-length // segment) if segment else 0
        self.cut_off += self.pending_drops
        self.payloads.append(view[:length])
        self.end += length


@lru_cache(maxsize=4096)
def _packed_source(family: int, host: str) -> bytes:
    packed = socket_module.inet_pton(family, host.partition("%")[0])
    return V4_MAPPED + packed if len(packed) == 4 else packed
