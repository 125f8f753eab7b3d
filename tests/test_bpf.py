"""The ring's filter: held against the kernel, which runs it over frames on a socket pair (no privilege needed)."""

import ctypes
import random
import socket
import struct
import sys

import pytest

from mcast_fast._core.addresses import map_address
from mcast_fast._core.layout import TAGGED
from mcast_fast._membership import bpf
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
        steps = ctypes.create_string_buffer(program.tobytes())
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
    "a VLAN tag": (ethernet(V4, ipv4(V4, BODY), (0x8100,)), False),
    "two VLAN tags": (ethernet(V6, ipv6(V6, BODY), (0x88A8, 0x8100)), False),
    "IPv6 options": (ethernet(V6, ipv6(V6, frames.options_header() + BODY, first=60)), True),
    "first piece": (ethernet(V4, ipv4(V4, BODY, piece=0x2000)), True),
    "later piece": (ethernet(V4, ipv4(V4, BODY, piece=0x2001)), False),
    "last piece": (ethernet(V4, ipv4(V4, BODY, piece=0x0001)), False),
    "other group": (ethernet("239.1.1.2", ipv4("239.1.1.2", BODY)), False),
    "other group, IPv6": (ethernet("ff15::2", ipv6("ff15::2", BODY)), False),
    "no group": (ethernet(V4, ipv4("111.1.1.1", BODY)), False),
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


@pytest.mark.parametrize("tags", [(), (0x8100,), (0x88A8,), (0x9100,), (0x88A8, 0x8100)])
@pytest.mark.parametrize(
    "make", [lambda: bpf.exact(wanted((V4, PORT), (V6, PORT)), TAGGED), lambda: bpf.coarse(TAGGED)]
)
def test_tagged_frames_pass_when_asked_for(passes, tags, make):
    for group, packet in ((V4, ipv4(V4, BODY)), (V6, ipv6(V6, BODY))):
        assert passes(make(), ethernet(group, packet, tags))
        assert not passes(make(), ethernet(group, packet, (0x8100,) * 3)), "more tags than are walked"


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
        assert passes(bpf.coarse(ports=((PORT, PORT),)), frame)


@pytest.mark.parametrize("version", ["", ", IPv6"], ids=["IPv4", "IPv6"])
def test_the_coarse_program_lets_pass_some_ports_alone(passes, version):
    frame, _ = FRAMES["other port" + version]
    assert not passes(bpf.coarse(ports=((PORT, PORT),)), frame)
    assert passes(bpf.coarse(ports=((PORT, PORT + 1),)), frame)


def test_the_coarse_program_keeps_away_what_is_no_multicast(passes):
    assert not passes(bpf.coarse(), ethernet(V4, ipv4("10.0.0.1", BODY)))
    assert not passes(bpf.coarse(), ethernet(V6, ipv6("fd00::1", BODY)))
    assert not passes(bpf.coarse(), FRAMES["later piece"][0])
    assert passes(bpf.coarse(), FRAMES["other port"][0])


def test_random_bytes_never_upset_the_machine(passes):
    rng = random.Random(3)
    program = bpf.exact(wanted((V4, PORT), (V6, PORT)))
    came = 0
    for _ in range(300):
        frame = bytearray(rng.choice(list(FRAMES.values()))[0])
        frame[rng.randrange(12, len(frame))] ^= 1 << rng.randrange(8)
        came += passes(program, bytes(frame[: rng.randrange(14, len(frame) + 1)]))
    assert 0 < came < 300


# ---- an interpreter: what the kernel knows beside the bytes, and many numbers at once ----


class Machine:
    """Classic BPF as net/core/filter.c defines it, for the instructions that are used."""

    def __init__(self, program):
        self.steps = bpf.instructions(program)
        assert len(self.steps) <= bpf.MOST_STEPS
        assert all(at + 1 + max(one.if_true, one.if_false) < len(self.steps) for at, one in enumerate(self.steps[:-1]))

    def run(self, frame, kind=0, tag=None):  # noqa: PLR0912 - a branch for each instruction
        """How many bytes pass; `kind` is the packet type, `tag` the VLAN tag that was taken out."""
        beside = {bpf.PACKET_TYPE: kind, bpf.VLAN_TAG: tag or 0, bpf.VLAN_TAG_PRESENT: int(tag is not None)}
        a = x = at = 0
        memory = {}
        while True:
            code, true, false, value = self.steps[at]
            at += 1
            if code in LOADS:
                size, is_indexed = LOADS[code]
                if value in beside and not is_indexed:
                    a = beside[value]
                    continue
                start = value + x * is_indexed
                if start + size > len(frame):
                    return 0
                a = int.from_bytes(frame[start : start + size])
            elif code in COMPARES:
                at += true if COMPARES[code](a, value) else false
            elif code == bpf.JUMP:
                at += value
            elif code == bpf.RETURN:
                return value
            elif code == bpf.STORE:
                memory[value] = a
            elif code == bpf.LOAD_MEMORY:
                a = memory[value]
            elif code == bpf.LOAD_X_MEMORY:
                x = memory[value]
            elif code == bpf.SET_X:
                x = value
            elif code in SUMS:
                a = SUMS[code](a, x, value)
            else:
                raise AssertionError(f"code {code:#x}")


LOADS = {
    bpf.LOAD_WORD: (4, False),
    bpf.LOAD_HALF: (2, False),
    bpf.LOAD_WORD_X: (4, True),
    bpf.LOAD_HALF_X: (2, True),
    bpf.LOAD_BYTE_X: (1, True),
}
COMPARES = {
    bpf.IF_EQUAL: lambda a, value: a == value,
    bpf.IF_ABOVE: lambda a, value: a > value,
    bpf.IF_AT_LEAST: lambda a, value: a >= value,
    bpf.IF_BITS: lambda a, value: a & value != 0,
}
SUMS = {
    bpf.AND: lambda a, _, value: a & value,
    bpf.SHIFT_LEFT: lambda a, _, value: a << value & 0xFFFFFFFF,
    bpf.ADD_X: lambda a, x, _: (a + x) & 0xFFFFFFFF,
    bpf.SUBTRACT: lambda a, _, value: (a - value) & 0xFFFFFFFF,
}


@pytest.mark.parametrize(("frame", "expected"), FRAMES.values(), ids=FRAMES.keys())
def test_the_interpreter_agrees_with_the_kernel(passes, frame, expected):
    for vlan in (False, True):
        program = bpf.exact(wanted((V4, PORT), (V6, PORT)), vlan)
        assert (Machine(program).run(frame) > 0) is passes(program, frame)
        assert vlan or passes(program, frame) is expected


@pytest.mark.parametrize("vlan", [False, True])
@pytest.mark.parametrize("kind", ["exact", "coarse"])
def test_only_what_a_socket_of_this_host_would_get_passes(vlan, kind):
    """PACKET_HOST, BROADCAST and MULTICAST pass; for others and from here not. A tag of VLAN 0 is a priority."""
    machine = Machine(bpf.exact(wanted((V4, PORT)), vlan) if kind == "exact" else bpf.coarse(vlan))
    frame = FRAMES["IPv4"][0]
    assert [machine.run(frame, kind) > 0 for kind in range(8)] == [True] * 3 + [False] * 5
    tags = {None: True, 0: True, 0xE000: True, 1: vlan, 0x0FFF: vlan, 0xE005: vlan}
    assert {tag: machine.run(frame, 2, tag) > 0 for tag in tags} == tags


def group_frames(group, port):
    packet = ipv6 if ":" in group else ipv4
    return ethernet(group, packet(group, udp(b"", port)))


def addresses(rng, shape):
    """Groups of a family, close to each other or not."""
    base = rng.randrange(1 << 28)
    number = {
        "neighbours": lambda: (base + rng.randrange(40)) % (1 << 28),
        "runs": lambda: (base + rng.randrange(8) * 1000 + rng.randrange(30)) % (1 << 28),
        "scattered": lambda: rng.randrange(1 << 28),
        "ends": lambda: rng.choice((0, 1, (1 << 28) - 1, (1 << 28) - 2)),
    }[shape]()
    version = rng.choice((4, 4, 6))
    if version == 4:
        return socket.inet_ntoa((0xE0000000 + number).to_bytes(4))
    return f"ff15:{rng.choice((0, 1, 0xFFFF)):x}::{rng.choice((0, 7)):x}:{number >> 16:x}:{number & 0xFFFF:x}"


PORT_SETS = [(5000,), (5001,), (5000, 5001, 5002), tuple(range(5000, 5060, 2)), (0, 65535), tuple(range(1000, 1300, 7))]


@pytest.mark.long
@pytest.mark.parametrize("shape", ["neighbours", "runs", "scattered", "ends"])
@pytest.mark.parametrize("seed", range(8))
def test_any_sequence_of_changes_gives_the_exact_filter(shape, seed):
    """After changes one by one, as after all at once: what is wanted passes, its neighbours and other ports do not."""
    rng = random.Random(f"{shape} {seed}")
    changed, state = bpf.Filter({}), {}
    port_sets = PORT_SETS[: (1, 2, 3, len(PORT_SETS))[seed % 4]]
    for turn in range(4):
        for _ in range((5, 150, 400, 100)[turn]):
            group = (
                rng.choice(list(state))
                if state and rng.random() < (0.2, 0.2, 0.3, 0.9)[turn]
                else addresses(rng, shape)
            )
            ports = rng.choice(port_sets) if rng.random() < (0.9, 0.9, 0.8, 0.3)[turn] else ()
            changed.set(map_address(group), ports)
            state.pop(group, None)
            if ports:
                state[group] = ports
        programs = [changed.program(), bpf.exact({map_address(group): ports for group, ports in state.items()})]
        for machine in map(Machine, programs):
            for group in [*rng.sample(sorted(state), min(60, len(state))), *(addresses(rng, shape) for _ in range(60))]:
                for port in (rng.choice(rng.choice(PORT_SETS)), 4999, 5001):
                    passed = machine.run(group_frames(group, port)) > 0
                    assert passed is (port in state.get(group, ())), (group, port)


def test_every_group_of_a_large_set_and_its_neighbours_are_told_apart():
    rng = random.Random(11)
    numbers = {0xE0000000 + rng.randrange(1 << 28) for _ in range(2_900)}
    program = bpf.exact({map_address(socket.inet_ntoa(number.to_bytes(4))): (PORT,) for number in numbers})
    machine = Machine(program)
    head, tail = group_frames(V4, PORT)[:30], group_frames(V4, PORT)[34:]
    for number in numbers:
        for near in (number - 1, number, number + 1):
            assert (machine.run(head + near.to_bytes(4) + tail) > 0) is (near in numbers)


@pytest.mark.parametrize(("count", "spacing", "most"), [(2_000, 1, 78), (2_000, 129, 2_640), (3_000, 129, 4_000)])
def test_how_long_a_program_is(count, spacing, most):
    """4,096 steps are the kernel's limit."""
    wanted = {map_address(socket.inet_ntoa((0xEF000000 + spacing * n).to_bytes(4))): (PORT,) for n in range(count)}
    assert len(bpf.exact(wanted)) <= most
