"""The ring's filter: held against the kernel, which runs it over frames on a socket pair (no privilege needed)."""

import ctypes
import random
import socket
import struct
import sys

import pytest

from mcast_fast import bpf
from mcast_fast._core.addresses import map_address
from tests import frames
from tests.frames import ethernet, ipv4, ipv6, udp

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="feature ring: classic BPF is Linux's")

SO_ATTACH_FILTER = 26
PORT = 5000
V4, V6 = "239.1.1.1", "ff15::1"


@pytest.fixture
def passes():
    """Whether a frame passes a program, as the kernel runs it."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    right.setblocking(False)

    def run(program, frame):
        steps = ctypes.create_string_buffer(bpf.packed(program))
        request = struct.pack("HP", len(program), ctypes.addressof(steps))
        right.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, request)
        left.send(frame)
        try:
            return right.recv(65_536) == frame
        except BlockingIOError:
            return False

    with left, right:
        yield run


def wanted(*channels):
    found = {}
    for group, port in channels:
        found.setdefault(map_address(group), set()).add(port)
    return found


BODY = udp(b"payload", PORT)
FRAMES = {
    "IPv4": (ethernet(V4, ipv4(V4, BODY)), True),
    "IPv6": (ethernet(V6, ipv6(V6, BODY)), True),
    "IPv4 options": (ethernet(V4, ipv4(V4, BODY, options=b"\x94\x04\x00\x00" * 3)), True),
    "a VLAN tag": (ethernet(V4, ipv4(V4, BODY), (0x8100,)), True),
    "two VLAN tags": (ethernet(V6, ipv6(V6, BODY), (0x88A8, 0x8100)), True),
    "IPv6 options": (ethernet(V6, ipv6(V6, frames.options_header() + BODY, first=60)), True),
    "first piece": (ethernet(V4, ipv4(V4, BODY, piece=0x2000)), True),
    "later piece": (ethernet(V4, ipv4(V4, BODY, piece=0x2001)), False),
    "last piece": (ethernet(V4, ipv4(V4, BODY, piece=0x0001)), False),
    "other group": (ethernet("239.1.1.2", ipv4("239.1.1.2", BODY)), False),
    "other group, IPv6": (ethernet("ff15::2", ipv6("ff15::2", BODY)), False),
    "other beginning, IPv6": (ethernet("ff16::1", ipv6("ff16::1", BODY)), False),
    "other port": (ethernet(V4, ipv4(V4, udp(b"", PORT + 1))), False),
    "other port, IPv6": (ethernet(V6, ipv6(V6, udp(b"", PORT + 1))), False),
    "TCP": (ethernet(V4, ipv4(V4, BODY, protocol=6)), False),
    "TCP, IPv6": (ethernet(V6, ipv6(V6, BODY, first=6)), False),
    "ARP": (bytes(12) + b"\x08\x06" + bytes(46), False),
    "empty frame": (bytes(14), False),
    "header cut off": (ethernet(V4, ipv4(V4, BODY))[:30], False),
}


@pytest.mark.parametrize(("frame", "expected"), FRAMES.values(), ids=FRAMES.keys())
def test_what_goes_to_the_groups_and_ports_passes_and_nothing_else(passes, frame, expected):
    assert passes(bpf.exact(wanted((V4, PORT), (V6, PORT))), frame) is expected


def test_nothing_passes_when_nothing_is_wanted(passes):
    assert not any(passes(bpf.exact({}), frame) for frame, _ in FRAMES.values())


@pytest.mark.parametrize("version", [4, 6])
def test_each_group_has_its_own_ports(passes, version):
    group = "239.1.1.{}" if version == 4 else "ff15::{}"
    packet = ipv4 if version == 4 else ipv6
    program = bpf.exact(wanted((group.format(1), 5001), (group.format(2), 5001), (group.format(2), 5002)))
    found = {
        (number, port): passes(program, ethernet(group.format(number), packet(group.format(number), udp(b"", port))))
        for number in (1, 2, 3)
        for port in (5001, 5002)
    }
    assert {pair for pair, passed in found.items() if passed} == {(1, 5001), (2, 5001), (2, 5002)}


def test_hundreds_of_groups_of_both_families_are_told_apart(passes):
    rng = random.Random(7)
    groups = [f"239.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}" for _ in range(300)]
    groups += [f"ff15:{rng.randrange(2)}::{rng.randrange(65536):x}" for _ in range(150)]
    chosen = {group for group in groups if rng.random() < 0.5}
    program = bpf.exact(wanted(*((group, 5000 + len(group) % 2) for group in chosen)))
    for group in groups:
        packet = ipv6 if ":" in group else ipv4
        frame = ethernet(group, packet(group, udp(b"", 5000 + len(group) % 2)))
        assert passes(program, frame) is (group in chosen), group


@pytest.mark.parametrize(("frame", "expected"), FRAMES.values(), ids=FRAMES.keys())
def test_the_coarse_program_lets_pass_at_least_what_an_exact_one_does(passes, frame, expected):
    if expected:
        assert passes(bpf.coarse(), frame)


def test_the_coarse_program_keeps_away_what_is_no_multicast(passes):
    assert not passes(bpf.coarse(), ethernet(V4, ipv4("10.0.0.1", BODY)))
    assert not passes(bpf.coarse(), ethernet(V6, ipv6("fd00::1", BODY)))
    assert not passes(bpf.coarse(), FRAMES["later piece"][0])
    assert passes(bpf.coarse(), FRAMES["other port"][0])


def test_random_bytes_never_upset_the_machine(passes):
    rng = random.Random(3)
    program = bpf.exact(wanted((V4, PORT), (V6, PORT)))
    for _ in range(300):
        frame = bytearray(rng.choice(list(FRAMES.values()))[0])
        frame[rng.randrange(12, len(frame))] ^= 1 << rng.randrange(8)
        passes(program, bytes(frame[: rng.randrange(14, len(frame) + 1)]))
