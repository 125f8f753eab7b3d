"""The kernel's filter of a ring, as a program of classic BPF: what goes to the joined groups and ports passes.

No I/O; a program is data. It sees Ethernet frames as packet(7) delivers them, with the outermost VLAN tag taken out
(linux/filter.h has the numbers, bpf(4) of the BSDs describes the machine). Fragments behind the first pass
only where whole frames are wanted: else a fragmented datagram is counted by its first fragment. Sources are checked
behind the ring, not here.

`Filter` keeps the joined groups in sorted intervals, cut into chunks. A chunk is code that does not depend on its place
in the program, so that one join or leave generates one chunk again, and the rest is copied.
"""

import sys
from array import array
from bisect import bisect_right, insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from mcast_fast._core.addresses import is_v4
from mcast_fast._core.layout import FRAMES, UNTAGGED
from mcast_fast._core.protocols import ETHER_IPV4, ETHER_IPV6, EXTENSIONS, UDP, VLAN_TAGS

Wanted = Mapping[bytes, Collection[int]]
"""Ports by group; groups packed, 16 bytes."""

Program = array  # of "Q": each item is one `struct sock_filter`


class Instruction(NamedTuple):
    """One step of a program, `struct sock_filter`: the jumps are numbers of steps to skip."""

    code: int
    if_true: int
    if_false: int
    value: int


# Where the fields of struct sock_filter (code 16 bits, jt 8, jf 8, k 32) are in 64 bits of native order.
CODE, TRUE, FALSE, VALUE = (0, 16, 24, 32) if sys.byteorder == "little" else (48, 40, 32, 0)

# Codes of linux/bpf_common.h, put together; X is the index register.
LOAD_WORD, LOAD_HALF, LOAD_WORD_X, LOAD_HALF_X, LOAD_BYTE_X, LOAD_MEMORY = 0x20, 0x28, 0x40, 0x48, 0x50, 0x60
SET_X, LOAD_X_MEMORY, STORE = 0x01, 0x61, 0x02
AND, SHIFT_LEFT, ADD_X, SUBTRACT = 0x54, 0x64, 0x0C, 0x14
JUMP, IF_EQUAL, IF_ABOVE, IF_AT_LEAST, IF_BITS = 0x05, 0x15, 0x25, 0x35, 0x45
RETURN = 0x06

# Loads from here on are of what the kernel knows beside the bytes (SKF_AD_OFF).
BESIDE = 0xFFFFF000
PACKET_TYPE, VLAN_TAG, VLAN_TAG_PRESENT = BESIDE + 4, BESIDE + 44, BESIDE + 48
OTHER_HOST = 3  # PACKET_OTHERHOST; what is above it was sent from here (linux/if_packet.h)
VLAN_ID = 0x0FFF  # of the tag; 0 = a priority alone, which the stack takes as untagged (802.1Q)

WHOLE = 0x7FFFFFFF  # bytes of a frame that pass
MOST_STEPS = 4096  # BPF_MAXINSNS
MOST_TAGS = 2
ETHERNET_HEADER = 14
IPV4_GROUP, IPV6_GROUP = 16, 24  # offsets in the IP headers
IPV4_PORT, IPV6_PORT = 2, 42  # offsets from where X is: at IPv4's UDP header, or at the IPv6 header, of 40 bytes
# 224.0.0.0, from which groups are counted: a comparison with 2**31 and more becomes two instructions of eBPF
# (bpf_convert_filter()), and it is those that net.core.optmem_max limits.
FIRST_IPV4 = 0xE0000000
TRANSPORT, NEXT_HEADER = 0, 1  # memory: where IPv4's transport header starts, and IPv6's next header

LEAF = 8  # intervals that are compared one by one at the end of a search
FULL, GOOD, SMALL = 64, 48, 16  # intervals of a chunk: at most, when built, and when it is joined to its neighbour
REACH = 250  # steps of a chunk at most: a conditional jump skips 255 at most
INLINE_PORTS = 12  # intervals of ports that are checked inside a chunk; more have a section of their own

Ports = tuple[tuple[int, int], ...]
"""Sorted intervals of ports, ends included; () = any port."""
Interval = tuple[int, int, Ports]
"""First and last number, and the ports that pass for them."""

ACCEPT, REJECT = "accept", "reject"


def step(code: int, value: int = 0, if_true: int = 0, if_false: int = 0) -> int:
    """One `struct sock_filter` as an integer."""
    return code << CODE | if_true << TRUE | if_false << FALSE | value << VALUE


def instructions(program: "Program[int]") -> tuple[Instruction, ...]:
    """The steps of a program taken apart."""
    return tuple(
        Instruction(one >> CODE & 0xFFFF, one >> TRUE & 0xFF, one >> FALSE & 0xFF, one >> VALUE & 0xFFFFFFFF)
        for one in program
    )


NOTHING: "Program[int]" = array("Q", [step(RETURN)])


@dataclass(slots=True)
class Code:
    """A part of a program: its steps, and which of them jump to sections outside of it."""

    steps: "Program[int]"
    jumps: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class Assembler:
    """A program in the making. Labels are reached by JUMP alone: other jumps skip 255 steps at most."""

    steps: "Program[int]" = field(default_factory=lambda: array("Q"))
    labels: dict[str, int] = field(default_factory=dict)
    jumps: dict[int, str] = field(default_factory=dict)

    def add(self, code: int, value: int = 0, if_true: int = 0, if_false: int = 0) -> None:
        """Append one step."""
        self.steps.append(step(code, value, if_true, if_false))

    def append(self, code: Code) -> None:
        """Append a part."""
        start = len(self.steps)
        self.steps += code.steps
        for at, label in code.jumps.items():
            self.jumps[start + at] = label

    def include(self, part: "Assembler") -> None:
        """Append what was written elsewhere, with its labels."""
        start = len(self.steps)
        self.steps += part.steps
        for at, label in part.jumps.items():
            self.jumps[start + at] = label
        for label, at in part.labels.items():
            self.labels[label] = start + at

    def mark(self, label: str) -> None:
        """Name the next step."""
        self.labels[label] = len(self.steps)

    def jump(self, label: str) -> None:
        """Go to a named step further on."""
        self.jumps[len(self.steps)] = label
        self.add(JUMP)

    def jump_if(self, value: int, label: str, code: int = IF_EQUAL) -> None:
        """Go there when the comparison holds."""
        self.add(code, value, 0, 1)
        self.jump(label)

    def reject_if(self, value: int, code: int = IF_EQUAL) -> None:
        """Nothing passes when the comparison holds."""
        self.add(code, value, 0, 1)
        self.add(RETURN)

    def reject_unless(self, value: int, code: int = IF_EQUAL) -> None:
        """Nothing passes when the comparison does not hold."""
        self.add(code, value, 1, 0)
        self.add(RETURN)

    def program(self) -> "Program[int]":
        """What was written, with its labels resolved."""
        for at, label in self.jumps.items():
            self.steps[at] = JUMP << CODE | self.labels[label] - at - 1 << VALUE
        return self.steps


# ---- searching ------------------------------------------------------------------------------------------------------

Test = tuple[int, int, int | str, int | str]  # code, value, and for both outcomes a label, or how many steps to skip


def _tests(intervals: Sequence[Interval], names: Mapping[Ports, str]) -> list[Test]:
    """Comparisons that lead a number to the label of its interval's ports, or to REJECT."""
    if len(intervals) > LEAF:
        middle = len(intervals) // 2
        lower = _tests(intervals[:middle], names)
        return [(IF_AT_LEAST, intervals[middle][0], len(lower), 0), *lower, *_tests(intervals[middle:], names)]
    found: list[Test] = []
    for number, (first, last, ports) in enumerate(intervals, start=1):
        is_last = number == len(intervals)
        if first == last:
            found.append((IF_EQUAL, first, names[ports], REJECT if is_last else 0))
        else:
            found.append((IF_ABOVE, last, REJECT if is_last else 1, 0))
            found.append((IF_AT_LEAST, first, names[ports], REJECT))
    return found


def _port_tests(ports: Ports, far: Mapping[Ports, str], offset: int, version: int) -> list[Test | str]:
    """Checks of a datagram's port, when the group is found; a text is a section to go on in, with the port at A.

    Behind IPv6 extension headers the group alone decides: whatever else came has been rejected before."""
    found: list[Test | str] = [(LOAD_MEMORY, NEXT_HEADER, 0, 0), (IF_EQUAL, UDP, 0, ACCEPT)] if version == 6 else []
    found.append((LOAD_HALF_X, offset, 0, 0))
    if ports in far:
        return [*found, far[ports]]
    return [*found, *_tests([(first, last, ()) for first, last in ports], {(): ACCEPT})]


def _chunk(intervals: Sequence[Interval], far: Mapping[Ports, str], offset: int, version: int) -> Code | None:
    """The code for some intervals, complete in itself; None where it has too many steps for conditional jumps."""
    sets = dict.fromkeys(ports for *_, ports in intervals)
    names = {ports: f"ports {number}" if ports else ACCEPT for number, ports in enumerate(sets)}
    rows: list[Test | str] = list(_tests(intervals, names))
    labels: dict[str, int] = {}
    for ports, name in names.items():
        if ports:
            labels[name] = len(rows)
            rows += _port_tests(ports, far, offset, version)
    labels[ACCEPT], labels[REJECT] = len(rows), len(rows) + 1
    if len(rows) > REACH:
        return None
    code = Code(array("Q"))
    steps: list[int] = []
    for at, row in enumerate(rows):
        if isinstance(row, str):
            code.jumps[at] = row
            steps.append(step(JUMP))
        else:
            test, value, true, false = row
            skip_true = true if isinstance(true, int) else labels[true] - at - 1
            skip_false = false if isinstance(false, int) else labels[false] - at - 1
            steps.append(test << CODE | skip_true << TRUE | skip_false << FALSE | value << VALUE)
    code.steps.extend((*steps, step(RETURN, WHOLE), step(RETURN)))
    return code


@dataclass(slots=True)
class Chunk:
    """Neighbouring intervals, and their code as long as they stay the same."""

    intervals: list[Interval]
    code: Code | None = None
    wide: tuple[Ports, ...] | None = None

    def port_sets(self) -> tuple[Ports, ...]:
        """The sets of ports that have a section of their own."""
        if self.wide is None:
            self.wide = tuple(ports for *_, ports in self.intervals if len(ports) > INLINE_PORTS)
        return self.wide

    def set(self, number: int, ports: Ports | None) -> None:
        """Have these ports pass for a number; None = nothing passes for it."""
        rows = self.intervals
        at = bisect_right(rows, (number, 1 << 32)) - 1
        if at >= 0 and rows[at][1] >= number:
            first, last, before = rows.pop(at)
            rows[at:at] = [one for one in ((first, number - 1, before), (number + 1, last, before)) if one[0] <= one[1]]
        self.code = self.wide = None
        if ports is None:
            return
        first = last = number
        at = bisect_right(rows, (number, 1 << 32))
        if at < len(rows) and rows[at][0] == number + 1 and rows[at][2] == ports:
            last = rows.pop(at)[1]
        if at > 0 and rows[at - 1][1] == number - 1 and rows[at - 1][2] == ports:
            first = rows.pop(at - 1)[0]
        insort(rows, (first, last, ports))


class Search:
    """Leads 32-bit numbers to the ports that pass for them: chunks in ascending order."""

    def __init__(self, numbers: Iterable[tuple[int, Ports]], offset: int, version: int) -> None:
        intervals: list[Interval] = []
        for number, ports in sorted(numbers):
            if intervals and intervals[-1][1] == number - 1 and intervals[-1][2] == ports:
                intervals[-1] = (intervals[-1][0], number, ports)
            else:
                intervals.append((number, number, ports))
        self._offset, self._version = offset, version
        self._fill(intervals)

    @classmethod
    def of_ports(cls, ports: Ports) -> "Search":
        """The search that accepts these ports."""
        made = cls((), 0, 4)
        made._fill([(first, last, ()) for first, last in ports])
        return made

    def _fill(self, intervals: Sequence[Interval]) -> None:
        self._chunks = [Chunk(list(intervals[at : at + GOOD])) for at in range(0, len(intervals), GOOD)]
        self._starts = [chunk.intervals[0][0] for chunk in self._chunks]

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def set(self, number: int, ports: Ports | None) -> None:
        """Have these ports pass for a number; None = nothing passes for it."""
        at = max(0, bisect_right(self._starts, number) - 1)
        if not self._chunks:
            self._chunks, self._starts = [Chunk([])], [number]
        chunk = self._chunks[at]
        chunk.set(number, ports)
        if len(chunk.intervals) > FULL:
            self._split(at)
        elif len(chunk.intervals) < SMALL:
            self._shrink(at)
        else:
            self._starts[at] = chunk.intervals[0][0]

    def _split(self, at: int) -> None:
        rows = self._chunks[at].intervals
        middle = len(rows) // 2
        self._chunks[at : at + 1] = [Chunk(rows[:middle]), Chunk(rows[middle:])]
        self._starts[at : at + 1] = [rows[0][0], rows[middle][0]]

    def _shrink(self, at: int) -> None:
        """Join a small chunk to its neighbour where both together are not large; drop an empty one."""
        first = min(at, max(0, len(self._chunks) - 2))
        rows = [row for chunk in self._chunks[first : first + 2] for row in chunk.intervals]
        if len(rows) <= GOOD:
            self._chunks[first : first + 2] = [Chunk(rows)] if rows else []
            self._starts[first : first + 2] = [rows[0][0]] if rows else []
        elif not self._chunks[at].intervals:
            del self._chunks[at], self._starts[at]
        else:
            self._starts[at] = self._chunks[at].intervals[0][0]

    def port_sets(self) -> Iterable[Ports]:
        """The sets of ports that have a section of their own."""
        return (ports for chunk in self._chunks for ports in chunk.port_sets())

    def write(self, out: Assembler, far: Mapping[Ports, str]) -> None:
        """Append the code: the number at A, and X where the ports' offset counts from."""
        at = 0
        while at < len(self._chunks):
            chunk = self._chunks[at]
            if chunk.code is None or chunk.code.jumps:  # the names of sections change
                chunk.code = _chunk(chunk.intervals, far, self._offset, self._version)
            if chunk.code is None:
                self._split(at)
            else:
                at += 1
        if self._chunks:
            out.append(self._joined(0, len(self._chunks)))
        else:
            out.add(RETURN)

    def _joined(self, start: int, end: int) -> Code:
        """The code of some chunks, behind comparisons that lead to each: halves, and halves of them."""
        if end - start == 1:
            code = self._chunks[start].code
            assert code is not None
            return code
        middle = (start + end) // 2
        lower, upper = self._joined(start, middle), self._joined(middle, end)
        size = len(lower.steps)
        head = (step(IF_AT_LEAST, self._starts[middle], 0, 1), step(JUMP, size))
        joined = Code(array("Q", head) + lower.steps + upper.steps)
        for code, at in ((lower, len(head)), (upper, len(head) + size)):
            for place, label in code.jumps.items():
                joined.jumps[at + place] = label
        return joined


# ---- the filter -----------------------------------------------------------------------------------------------------


def port_intervals(ports: Collection[int]) -> Ports:
    """Sorted intervals of neighbouring ports."""
    found: list[tuple[int, int]] = []
    for port in sorted(ports):
        if found and found[-1][1] >= port - 1:
            found[-1] = (found[-1][0], port)
        else:
            found.append((port, port))
    return tuple(found)


class Filter:
    """The groups and ports that pass, and the program for them."""

    def __init__(self, wanted: Wanted, delivers: int = UNTAGGED) -> None:
        self._delivers = delivers
        ipv4: list[tuple[int, Ports]] = []
        ipv6: dict[bytes, list[tuple[int, Ports]]] = {}
        known: dict[tuple[int, ...], Ports] = {}
        for group, ports in wanted.items():
            key = tuple(ports)
            intervals = known[key] = known.get(key) or self._intervals(ports)
            into = ipv4 if is_v4(group) else ipv6.setdefault(group[:12], [])
            into.append((_number(group), intervals))
        self._ipv4 = _search_ipv4(ipv4)
        self._ipv6 = {beginning: _search_ipv6(those) for beginning, those in ipv6.items()}

    def set(self, group: bytes, ports: Collection[int]) -> None:
        """Have datagrams to a group pass that go to these ports; no ports: none of them."""
        after = self._intervals(ports) if ports else None
        if is_v4(group):
            self._ipv4.set(_number(group), after)
            return
        search = self._ipv6.get(group[:12])
        if search is None:
            search = self._ipv6[group[:12]] = _search_ipv6(())
        search.set(_number(group), after)
        if not search:
            del self._ipv6[group[:12]]

    def _intervals(self, ports: Collection[int]) -> Ports:
        """The ports that pass; any where whole frames are wanted, for fragments behind the first have none."""
        return () if self._delivers == FRAMES else port_intervals(ports)

    def program(self) -> "Program[int]":
        """Lets pass what goes to these groups and ports; behind IPv6 extension headers, the group alone decides."""
        if not self._ipv4 and not self._ipv6:
            return NOTHING
        searches = [self._ipv4, *self._ipv6.values()]
        sets = dict.fromkeys(ports for search in searches for ports in search.port_sets())
        far = {ports: f"section {number}" for number, ports in enumerate(sets)}
        out = Assembler()
        out.include(_ipv4_head(self._delivers))
        out.add(SUBTRACT, FIRST_IPV4)
        out.add(LOAD_X_MEMORY, TRANSPORT)
        self._ipv4.write(out, far)
        out.include(_ipv6_head())
        self._write_beginnings(out, sorted(self._ipv6), 0, far)
        for ports, name in far.items():
            out.mark(name)
            Search.of_ports(ports).write(out, {})
        _write_ends(out)
        return out.program()

    def _write_beginnings(
        self, out: Assembler, beginnings: Sequence[bytes], number: int, far: Mapping[Ports, str]
    ) -> None:
        """Compare the words of an IPv6 group from the number-th on, for groups whose words before are alike."""
        out.add(LOAD_WORD_X, IPV6_GROUP + 4 * number)
        if number == 3:
            self._ipv6[beginnings[0]].write(out, far)
            return
        alike: dict[int, list[bytes]] = {}
        for one in beginnings:
            alike.setdefault(_word(one, number), []).append(one)
        self._write_words(out, list(alike.items()), number, far)

    def _write_words(
        self, out: Assembler, words: Sequence[tuple[int, list[bytes]]], number: int, far: Mapping[Ports, str]
    ) -> None:
        if len(words) > 1:
            middle = len(words) // 2
            upper = f"words {len(out.steps)}"
            out.jump_if(words[middle][0], upper, IF_AT_LEAST)
            self._write_words(out, words[:middle], number, far)
            out.mark(upper)
            self._write_words(out, words[middle:], number, far)
        elif words:
            out.reject_unless(words[0][0])
            self._write_beginnings(out, words[0][1], number + 1, far)
        else:
            out.add(RETURN)


def exact(wanted: Wanted, delivers: int = UNTAGGED) -> "Program[int]":
    """The program that lets pass what goes to these groups and ports; `delivers`: of layout.RING_DELIVERS."""
    return Filter(wanted, delivers).program()


def coarse(delivers: int = UNTAGGED, ports: Ports = ()) -> "Program[int]":
    """Lets pass every datagram to a group and one of these ports, for as many groups as no exact program has space for,
    or as long as they change quickly."""
    out = Assembler()
    out.include(_ipv4_head(delivers))
    out.add(AND, 0xF0000000)
    out.reject_unless(FIRST_IPV4)
    if ports:
        out.add(LOAD_X_MEMORY, TRANSPORT)
        out.add(LOAD_HALF_X, IPV4_PORT)
    out.jump("ports")
    out.include(_ipv6_head())
    out.add(LOAD_BYTE_X, IPV6_GROUP)
    out.reject_unless(0xFF)
    if ports:
        out.add(LOAD_MEMORY, NEXT_HEADER)
        out.add(IF_EQUAL, UDP, 1, 0)
        out.jump(ACCEPT)
        out.add(LOAD_HALF_X, IPV6_PORT)
    out.mark("ports")
    if ports:
        Search.of_ports(ports).write(out, {})
    _write_ends(out)
    return out.program()


def _search_ipv4(numbers: Iterable[tuple[int, Ports]]) -> Search:
    return Search(numbers, IPV4_PORT, 4)


def _search_ipv6(numbers: Iterable[tuple[int, Ports]]) -> Search:
    return Search(numbers, IPV6_PORT, 6)


def _number(group: bytes) -> int:
    """The number that a group is searched by: what differs of an IPv4 one, the last word of an IPv6 one."""
    return _word(group, 3) - FIRST_IPV4 if is_v4(group) else _word(group, 3)


def _word(group: bytes, number: int) -> int:
    return int.from_bytes(group[4 * number : 4 * number + 4])


def _write_link(out: Assembler, tagged: bool) -> None:
    """Only frames for this host, and without a VLAN tag unless requested; X is where the IP header starts.

    A socket gets no frame that is tagged for a VLAN: vlan_do_receive() gives those to the VLAN's own device. The
    outermost tag is no part of the bytes any more."""
    out.add(LOAD_WORD, PACKET_TYPE)
    out.reject_if(OTHER_HOST, IF_AT_LEAST)
    if not tagged:
        out.add(LOAD_WORD, VLAN_TAG_PRESENT)
        out.add(IF_EQUAL, 0, 3, 0)
        out.add(LOAD_WORD, VLAN_TAG)
        out.reject_if(VLAN_ID, IF_BITS)
    inside = MOST_TAGS if tagged else 0
    for tags in range(inside + 1):
        header = ETHERNET_HEADER + 4 * tags
        out.add(LOAD_HALF, header - 2)
        out.add(SET_X, header)
        out.jump_if(ETHER_IPV4, "ipv4")
        out.jump_if(ETHER_IPV6, "ipv6")
        for tag in VLAN_TAGS if tags < inside else ():
            out.jump_if(tag, f"tag {tags + 1}")
        out.add(RETURN)
        out.mark(f"tag {tags + 1}")


@cache
def _ipv4_head(delivers: int) -> Assembler:
    """Up to IPv4's group at A: UDP, and (of whole frames: any fragment) the first fragment or the whole; RFC 791."""
    out = Assembler()
    _write_link(out, delivers != UNTAGGED)
    out.mark("ipv4")
    out.add(LOAD_BYTE_X, 9)
    out.reject_unless(UDP)
    if delivers != FRAMES:
        out.add(LOAD_HALF_X, 6)
        out.reject_if(0x1FFF, IF_BITS)
    out.add(LOAD_BYTE_X, 0)
    out.add(AND, 0x0F)
    out.add(SHIFT_LEFT, 2)
    out.add(ADD_X)
    out.add(STORE, TRANSPORT)
    out.add(LOAD_WORD_X, IPV4_GROUP)
    return out


@cache
def _ipv6_head() -> Assembler:
    """UDP, or an extension header behind which it may follow; RFC 8200."""
    out = Assembler()
    out.mark("ipv6")
    out.add(LOAD_BYTE_X, 6)
    out.add(STORE, NEXT_HEADER)
    headers = (UDP, *EXTENSIONS)
    for left, header in zip(range(len(headers) - 1, -1, -1), headers, strict=True):
        out.add(IF_EQUAL, header, left + 1, 0)
    out.add(RETURN)
    return out


def _write_ends(out: Assembler) -> None:
    out.mark(ACCEPT)
    out.add(RETURN, WHOLE)
