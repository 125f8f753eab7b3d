"""Frames as they arrive at every interface of this network namespace: a packet socket, packet(7), as tcpdump has one.

By the C library's recvmsg(2): CPython's own reads the names of interfaces as UTF-8, and loses the frame where Linux has
other bytes in one.
"""

import ctypes
import socket
import struct
from array import array
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address

from mcast_fast._core.protocols import ETHER_IPV4, ETHER_IPV6
from mcast_fast._host.interfaces import interface_name
from mcast_fast._membership import bpf
from mcast_fast._membership.rings import (
    ADDRESS,
    ETH_P_ALL,
    PACKET_ADD_MEMBERSHIP,
    PACKET_MR_ALLMULTI,
    PACKET_MREQ,
    SOL_PACKET,
    attach_program,
)
from mcast_fast.doctor._frames import Context

FRAME = 2048  # bytes of a frame that are looked at
AT_ONCE = 200  # frames that are read in one turn
LISTED = 50  # groups that the kernel's filter names; with more it passes all

# packet(7), <linux/if_packet.h>
PACKET_DROP_MEMBERSHIP, PACKET_AUXDATA, PACKET_OUTGOING = 2, 8, 4
CONTROL = struct.Struct("@Nii")  # cmsghdr: length, level, type
AUXDATA = struct.Struct("=IIIHHHH")  # status, length, captured, offsets of headers, tag, its protocol
CHECKSUM_NOT_READY, VLAN_VALID = 1 << 3, 1 << 4
PROTOCOL = bpf.BESIDE  # SKF_AD_PROTOCOL


class _Part(ctypes.Structure):
    """struct iovec."""

    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Message(ctypes.Structure):
    """struct msghdr."""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("parts", ctypes.POINTER(_Part)),
        ("count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class Wire:
    """Opened, or OSError; closed by `with`. `groups`: whose packets come beside queries and reports; None: of all."""

    def __init__(self, groups: Iterable[str] | None) -> None:
        self._receive = ctypes.CDLL(None, use_errno=True).recvmsg
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        try:
            attach_program(self._socket, program(groups))
            self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise
        self._data = ctypes.create_string_buffer(FRAME)
        self._address = ctypes.create_string_buffer(ADDRESS.size)
        self._control = ctypes.create_string_buffer(socket.CMSG_SPACE(AUXDATA.size))
        self._part = _Part(ctypes.addressof(self._data), FRAME)

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """To wait for frames."""
        return self._socket.fileno()

    def take_all(self, index: int, *, begins: bool) -> None:
        """Have an interface take the packets of all groups, whatever its filter says, or no longer; packet(7)."""
        option = PACKET_ADD_MEMBERSHIP if begins else PACKET_DROP_MEMBERSHIP
        self._socket.setsockopt(SOL_PACKET, option, PACKET_MREQ.pack(index, PACKET_MR_ALLMULTI, 0))

    def frames(self) -> Iterator[tuple[Context, bytes, int]]:
        """Packets that wait, with what the kernel says of each, and their ethertypes."""
        names: dict[int, str] = {}
        for _ in range(AT_ONCE):
            message = _Message(
                *(ctypes.addressof(self._address), ADDRESS.size, ctypes.pointer(self._part), 1),
                *(ctypes.addressof(self._control), len(self._control)),
            )
            size = self._receive(self._socket.fileno(), ctypes.byref(message), socket.MSG_DONTWAIT)
            if size < 0:  # nothing waits, or an interface went down, which is said once
                return
            _, protocol, index, _, kind, *_ = ADDRESS.unpack(self._address.raw)
            if index not in names:
                names[index] = interface_name(index)
            status, tag = _auxiliary(self._control.raw[: message.control_length])
            vlan = tag & bpf.VLAN_ID if status & VLAN_VALID else 0
            is_outgoing = kind == PACKET_OUTGOING
            can_check = not is_outgoing and not status & CHECKSUM_NOT_READY
            beside = Context(names[index], vlan, is_outgoing, can_check)
            yield beside, self._data.raw[:size], socket.ntohs(protocol)


def _auxiliary(control: bytes) -> tuple[int, int]:
    """The status of a packet, and its tag: struct tpacket_auxdata."""
    if len(control) >= socket.CMSG_LEN(AUXDATA.size):
        _, level, option = CONTROL.unpack_from(control)
        if (level, option) == (SOL_PACKET, PACKET_AUXDATA):
            status, *_, tag, _ = AUXDATA.unpack_from(control, socket.CMSG_LEN(0))
            return status, tag
    return CHECKSUM_NOT_READY, 0


def program(groups: Iterable[str] | None) -> "array[int]":
    """What passes to us: these groups (all, when they are many or None), and what goes to groups of the local network,
    as queries and reports do. Packets are without a link header."""
    wanted = sorted(set(groups or ()))
    ipv4 = [int(IPv4Address(one)) for one in wanted if ":" not in one][: LISTED + 1]
    ipv6 = [int(IPv6Address(one)) & 0xFFFFFFFF for one in wanted if ":" in one][: LISTED + 1]
    # IPv4: the destination is at 16; IPv6: at 24, and its last word at 36.
    first = _section(16, 0xFFFFFF00, 0xE0000000, 16, None if groups is None else ipv4, 0xE0000000)
    second = _section(24, 0xFFFF0000, 0xFF020000, 36, None if groups is None else ipv6, 0xFF000000)
    head = [bpf.step(bpf.LOAD_WORD, PROTOCOL), bpf.step(bpf.IF_EQUAL, ETHER_IPV4, 0, len(first))]
    middle = [bpf.step(bpf.LOAD_WORD, PROTOCOL), bpf.step(bpf.IF_EQUAL, ETHER_IPV6, 1, 0), bpf.step(bpf.RETURN)]
    return array("Q", [*head, *first, *middle, *second])


def _section(at: int, mask: int, local: int, last: int, groups: list[int] | None, multicast: int) -> list[int]:
    """Accepts or rejects by the destination; each ends the program."""
    steps = [
        bpf.step(bpf.LOAD_WORD, at),
        bpf.step(bpf.AND, mask),
        bpf.step(bpf.IF_EQUAL, local, 0, 1),
        bpf.step(bpf.RETURN, bpf.WHOLE),
    ]
    listed = groups if groups is not None and len(groups) <= LISTED else None
    for group in listed or ():
        steps += [
            bpf.step(bpf.LOAD_WORD, last),
            bpf.step(bpf.IF_EQUAL, group, 0, 1),
            bpf.step(bpf.RETURN, bpf.WHOLE),
        ]
    if listed is None:
        steps += [
            bpf.step(bpf.LOAD_WORD, at),
            bpf.step(bpf.IF_AT_LEAST, multicast, 0, 1),
            bpf.step(bpf.RETURN, bpf.WHOLE),
        ]
    return [*steps, bpf.step(bpf.RETURN)]
