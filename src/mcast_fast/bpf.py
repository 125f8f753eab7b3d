"""The kernel's filter of a ring, as a program of classic BPF: what goes to the joined groups and ports passes.

Rules of this room: no I/O; a program is data. It sees Ethernet frames; bpf(4) of the BSDs describes the machine,
linux/filter.h has the numbers. Pieces of a datagram behind the first never pass: a fragmented datagram is counted by
its first piece. Whom a group's packets may come from is not asked here: the slots know.
"""

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mcast_fast._core.addresses import is_v4

Wanted = Mapping[bytes, Collection[int]]
"""Ports by group; groups packed, 16 bytes."""


class Instruction(NamedTuple):
    """One step of a program, `struct sock_filter`: the jumps are how many steps to skip."""

    code: int
    if_true: int
    if_false: int
    value: int


SOCK_FILTER = struct.Struct("=HBBI")

# Codes of linux/bpf_common.h, put together; X is the index register.
LOAD_HALF, LOAD_WORD_X, LOAD_HALF_X, LOAD_BYTE_X, LOAD_MEMORY = 0x28, 0x40, 0x48, 0x50, 0x60
SET_X, LOAD_X_MEMORY, STORE, FROM_X = 0x01, 0x61, 0x02, 0x87
AND, SHIFT_LEFT, ADD, ADD_X = 0x54, 0x64, 0x04, 0x0C
JUMP, IF_EQUAL, IF_AT_LEAST, IF_BITS = 0x05, 0x15, 0x35, 0x45
RETURN = 0x06

WHOLE = 0x7FFFFFFF  # bytes of a frame that pass
TAGS = (0x8100, 0x88A8, 0x9100)
MOST_TAGS = 2
IPV4, IPV6 = 0x0800, 0x86DD
UDP = 17
EXTENSIONS = (0, 43, 44, 51, 60, 135, 139, 140)  # headers of IPv6 behind which UDP may stand
ETHERNET_HEADER, IPV6_HEADER = 14, 40
TRANSPORT, NEXT_HEADER = 0, 1  # memory: where the transport header starts, what IPv6 says it is
LEAF = 4  # values that are compared one by one at the end of a search

NOTHING = (Instruction(RETURN, 0, 0, 0),)


@dataclass(slots=True)
class Assembler:
    """A program in the making. Only JUMP goes to labels, for other jumps reach no further than 255 steps."""

    steps: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    jumps: dict[int, str] = field(default_factory=dict)

    def add(self, code: int, value: int = 0, if_true: int = 0, if_false: int = 0) -> None:
        """One step more."""
        self.steps.append(Instruction(code, if_true, if_false, value))

    def mark(self, label: str) -> None:
        """The next step has this name."""
        self.labels[label] = len(self.steps)

    def jump(self, label: str) -> None:
        """Go to a step with a name, further on."""
        self.jumps[len(self.steps)] = label
        self.add(JUMP)

    def jump_if(self, value: int, label: str, code: int = IF_EQUAL) -> None:
        """Go there when the comparison holds."""
        self.add(code, value, 0, 1)
        self.jump(label)

    def jump_unless(self, value: int, label: str, code: int = IF_EQUAL) -> None:
        """Go there when the comparison does not hold."""
        self.add(code, value, 1, 0)
        self.jump(label)

    def program(self) -> tuple[Instruction, ...]:
        """What was written, with its labels resolved."""
        return tuple(
            step._replace(value=self.labels[self.jumps[at]] - at - 1) if at in self.jumps else step
            for at, step in enumerate(self.steps)
        )


def packed(program: Sequence[Instruction]) -> bytes:
    """The program as an array of `struct sock_filter`."""
    return b"".join(SOCK_FILTER.pack(*step) for step in program)


def exact(wanted: Wanted) -> tuple[Instruction, ...]:
    """Lets pass what goes to these groups and ports; behind IPv6 extension headers, the group alone decides."""
    if not wanted:
        return NOTHING
    ports = sorted({tuple(sorted(those)) for those in wanted.values()})
    names = {those: f"ports {number}" for number, those in enumerate(ports)}
    targets = {group: names[tuple(sorted(those))] for group, those in wanted.items()}
    out = Assembler()
    _link(out)
    _ipv4(out)
    out.add(LOAD_WORD_X, 16)
    out.add(LOAD_X_MEMORY, TRANSPORT)
    _search(out, {_word(group, 3): target for group, target in targets.items() if is_v4(group)})
    _ipv6(out)
    _search_ipv6(out, {group: f"ipv6 {target}" for group, target in targets.items() if not is_v4(group)})
    for those, name in names.items():
        _check_ports(out, name, those)
    _end(out)
    return out.program()


def coarse() -> tuple[Instruction, ...]:
    """Lets pass every datagram to a group, for as many groups as no exact program has room for."""
    out = Assembler()
    _link(out)
    _ipv4(out)
    out.add(LOAD_WORD_X, 16)
    out.add(AND, 0xF0000000)
    out.jump_if(0xE0000000, "accept")
    out.jump("reject")
    _ipv6(out)
    out.add(LOAD_BYTE_X, 24)
    out.jump_unless(0xFF, "reject")
    out.add(LOAD_MEMORY, NEXT_HEADER)
    out.jump_if(UDP, "accept")
    _end(out)
    return out.program()


def _word(group: bytes, number: int) -> int:
    return int.from_bytes(group[4 * number : 4 * number + 4])


def _link(out: Assembler) -> None:
    """X is where the IP header starts, behind a few VLAN tags at the most."""
    for tags in range(MOST_TAGS + 1):
        header = ETHERNET_HEADER + 4 * tags
        out.add(LOAD_HALF, header - 2)
        out.add(SET_X, header)
        out.jump_if(IPV4, "ipv4")
        out.jump_if(IPV6, "ipv6")
        for tag in TAGS if tags < MOST_TAGS else ():
            out.jump_if(tag, f"tag {tags + 1}")
        out.jump("reject")
        out.mark(f"tag {tags + 1}")


def _ipv4(out: Assembler) -> None:
    """UDP, and no piece but the first; RFC 791."""
    out.mark("ipv4")
    out.add(LOAD_BYTE_X, 9)
    out.jump_unless(UDP, "reject")
    out.add(LOAD_HALF_X, 6)
    out.jump_if(0x1FFF, "reject", IF_BITS)
    out.add(LOAD_BYTE_X, 0)
    out.add(AND, 0x0F)
    out.add(SHIFT_LEFT, 2)
    out.add(ADD_X)
    out.add(STORE, TRANSPORT)


def _ipv6(out: Assembler) -> None:
    """RFC 8200."""
    out.mark("ipv6")
    out.add(LOAD_BYTE_X, 6)
    out.add(STORE, NEXT_HEADER)
    out.add(FROM_X)
    out.add(ADD, IPV6_HEADER)
    out.add(STORE, TRANSPORT)


def _search(out: Assembler, targets: Mapping[int, str]) -> None:
    """Go where the number belongs, or reject: halves, until few are left."""
    numbers = sorted(targets)
    if len(numbers) > LEAF:
        middle = len(numbers) // 2
        upper = f"upper {len(out.steps)}"
        out.jump_if(numbers[middle], upper, IF_AT_LEAST)
        _search(out, {number: targets[number] for number in numbers[:middle]})
        out.mark(upper)
        _search(out, {number: targets[number] for number in numbers[middle:]})
        return
    for number in numbers:
        out.jump_if(number, targets[number])
    out.jump("reject")


def _search_ipv6(out: Assembler, targets: Mapping[bytes, str]) -> None:
    """Groups that begin alike are searched by their last word."""
    for beginning in sorted({group[:12] for group in targets}):
        other = f"not {beginning.hex()}"
        for number in range(3):
            out.add(LOAD_WORD_X, 24 + 4 * number)
            out.jump_unless(_word(beginning, number), other)
        out.add(LOAD_WORD_X, 36)
        _search(out, {_word(group, 3): target for group, target in targets.items() if group[:12] == beginning})
        out.mark(other)
    out.jump("reject")


def _check_ports(out: Assembler, name: str, ports: Collection[int]) -> None:
    """The port of the destination, at X; for IPv6 when UDP follows at once."""
    out.mark(f"ipv6 {name}")
    out.add(LOAD_MEMORY, NEXT_HEADER)
    out.jump_unless(UDP, "extension")
    out.add(LOAD_X_MEMORY, TRANSPORT)
    out.mark(name)
    out.add(LOAD_HALF_X, 2)
    _search(out, dict.fromkeys(ports, "accept"))


def _end(out: Assembler) -> None:
    """What stands at A is a next header of IPv6 that is not UDP; and the two ways to end."""
    out.mark("extension")
    for header in EXTENSIONS:
        out.jump_if(header, "accept")
    out.mark("reject")
    out.add(RETURN, 0)
    out.mark("accept")
    out.add(RETURN, WHOLE)
