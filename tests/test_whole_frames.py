"""Whole frames through a ring: recorded as they came, held against tcpdump on the same interface."""

import re
import socket
import struct
import subprocess
from ipaddress import ip_address

import pytest

import mcast_fast as mcast
from mcast_fast import ArgumentError, Flag
from mcast_fast.files._limits import Autostop
from mcast_fast.files._recorder import Recorder
from tests import frames, lab
from tests.frames import ethernet, ipv4, ipv6, udp
from tests.test_ring import PORT, V4, V6, ends, packet_socket, receiver, ring  # noqa: F401 - fixtures

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("ring")]

SOL_PACKET, PACKET_VNET_HDR = 263, 15  # packet(7), linux/if_packet.h
NEEDS_CSUM, GSO_UDP_L4 = 1, 5  # linux/virtio_net.h

BODY = udp(b"payload" * 20, PORT)
OTHER = ethernet(V4, ipv4(V4, udp(b"payload", PORT + 1)))


def wrong_sum(packet: bytes) -> bytes:
    """With a wrong checksum in its IPv4 header."""
    return packet[:10] + bytes([packet[10] ^ 1]) + packet[11:]


def pieces(payload: bytes) -> list[bytes]:
    """A datagram in fragments of 1,480 bytes."""
    datagram = udp(payload, PORT)
    return [
        ethernet(V4, ipv4(V4, datagram[at : at + 1480], piece=at // 8 | (0x2000 if at + 1480 < len(datagram) else 0)))
        for at in range(0, len(datagram), 1480)
    ]


WANTED = [
    ethernet(V4, ipv4(V4, BODY)),
    ethernet(V4, ipv4(V4, BODY), (0x8100,)),
    ethernet(V4, ipv4(V4, BODY, ttl=7, tos=46 << 2), (0x8100,)),
    ethernet(V4, ipv4(V4, BODY), (0x88A8, 0x8100)),
    ethernet(V6, ipv6(V6, BODY), (0x8100,)),
    ethernet(V4, ipv4(V4, BODY[:6] + b"\x12\x34" + BODY[8:])),
    ethernet(V4, wrong_sum(ipv4(V4, BODY))),
    ethernet(V4, ipv4(V4, BODY, options=b"\x94\x04\x00\x00")),
    ethernet(V4, ipv4(V4, udp(b"x", PORT))) + bytes(30),  # padding
    ethernet(V6, ipv6(V6, frames.options_header() + BODY, first=60)),
    ethernet(V4, ipv4(V4, BODY[:4] + b"\x7f\xff" + BODY[6:])),  # a length beyond the packet
    *pieces(bytes(3000)),
    ethernet(V6, ipv6(V6, frames.fragment_header(0, True) + udp(bytes(16), PORT), first=frames.FRAGMENT)),
    ethernet(V6, ipv6(V6, frames.fragment_header(24, False) + bytes(8), first=frames.FRAGMENT)),
]


def test_each_wanted_frame_comes_as_it_was_sent(ends):  # noqa: F811
    a, b = ends
    with receiver(b, V4, V6, frames=True) as rx, packet_socket(a) as raw:
        for frame in WANTED:
            raw.send(OTHER)
            raw.send(frame)
        batch = rx.collect(len(WANTED))
        assert batch.payloads() == WANTED
        assert all(packet.flags & Flag.FRAME for packet in batch)
        assert {packet.group for packet in batch} == {V4, V6}
        assert rx.collect(1, timeout=0.05).payloads() == []
        assert rx.stats.received == len(WANTED)


@pytest.mark.parametrize("dense", [False, True])
def test_a_recording_holds_what_tcpdump_writes_beside_it(ends, tmp_path, dense):  # noqa: F811
    """`dense`: blocks that are full enough to stay in place."""
    a, b = ends
    theirs, ours = tmp_path / "theirs.pcap", tmp_path / "ours.pcap"
    sent = WANTED * (60 if dense else 1)
    with receiver(b, V4, V6, frames=True, batch_size=4096, ring_latency=0.3 if dense else 0.01) as rx:
        # The frames made here have that source; the host's own reports of memberships (MLD) may come at any moment.
        made = "ether src 00:00:00:00:00:00"
        udp_of_groups = f"udp and (dst host {V4} or dst host {V6})"
        wanted = f"{made} and ({udp_of_groups} or ip[6:2] & 0x1fff != 0 or ip6 multicast or vlan)"
        tcpdump = b.host.spawn(
            [
                "tcpdump",
                "-U",
                "-n",
                "-s",
                "0",
                "--nano",
                "-i",
                b.interface,
                "-c",
                str(len(sent)),
                "-w",
                str(theirs),
                wanted,
            ]
        )
        tcpdump.expect("listening on")
        with Recorder(rx, ours, stop=Autostop(packets=len(sent))) as recorder, packet_socket(a) as raw:
            for frame in sent:
                raw.send(frame)
            recorder.run()
        tcpdump.finish()
    assert packets_of(ours) == packets_of(theirs) == sent
    assert times_of(ours) == times_of(theirs)


@pytest.mark.needs("tshark")
def test_tshark_puts_recorded_fragments_together(ends, tmp_path):  # noqa: F811
    a, b = ends
    path, sent = tmp_path / "feed.pcapng", [ethernet(V4, ipv4(V4, BODY)), *pieces(bytes(range(250)) * 20)]
    recording = {"stop": Autostop(packets=len(sent))}
    with receiver(b, V4, frames=True) as rx, packet_socket(a) as raw, Recorder(rx, path, **recording) as recorder:
        for frame in sent:
            raw.send(frame)
        recorder.run()
    argv = ["tshark", "-n", "-o", "ip.defragment:TRUE", "-r", path, "-Y", "udp", "-T", "fields", "-e", "data.len"]
    shown = subprocess.check_output(argv, text=True, stderr=subprocess.DEVNULL)
    assert shown.split() == [str(len(BODY) - 8), "5000"]


@pytest.mark.needs("capinfos")
@pytest.mark.parametrize("frames", [True, False])
def test_a_recording_of_two_ports_and_two_families_is_in_strict_time_order(ends, tmp_path, frames):  # noqa: F811
    """As capinfos sees it, through a ring and through four sockets."""
    a, b = ends
    path = tmp_path / "feed.pcapng"
    groups = [f"{V4}%{b.interface}:{PORT}", f"{V4}%{b.interface}:{PORT + 1}"]
    groups += [f"[{V6}]%{b.interface}:{PORT}", f"[{V6}]%{b.interface}:{PORT + 1}"]
    bodies = [udp(b"payload" * 20, PORT + at) for at in range(2)]
    sent = [ethernet(V4, ipv4(V4, body)) for body in bodies] + [
        ethernet(V6, ipv6(V6, with_sum(body))) for body in bodies
    ]
    with b.host.enter():
        rx = mcast.Receiver(*groups, ring=True, frames=True) if frames else mcast.Receiver(*groups)
    with rx, packet_socket(a) as raw, Recorder(rx, path, stop=Autostop(packets=2000)) as recorder:
        for number in range(2000):
            raw.send(sent[number % len(sent)])
        recorder.run()
    told = subprocess.check_output(["capinfos", "-c", "-o", path], text=True)
    assert re.search(r"Number of packets:\s+2000\b", told), told
    assert re.search(r"Strict time order:\s+True", told), told


def with_sum(datagram: bytes) -> bytes:
    """With the checksum that IPv6 wants, for V6 from the source of frames.ipv6."""
    pseudo = ip_address("fd00:77::1").packed + ip_address(V6).packed + struct.pack("!II", len(datagram), 17)
    whole = pseudo + datagram + bytes(len(datagram) % 2)
    total = sum(struct.unpack(f"!{len(whole) // 2}H", whole))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return datagram[:6] + struct.pack("!H", ~total & 0xFFFF or 0xFFFF) + datagram[8:]


def records_of(path):
    """(ns, frame) of a classic pcap file with ns."""
    data, at = path.read_bytes(), 24
    while at < len(data):
        seconds, rest, size, _ = struct.unpack_from("=4I", data, at)
        yield seconds * 10**9 + rest, data[at + 16 : at + 16 + size]
        at += 16 + size


def packets_of(path):
    return [frame for _, frame in records_of(path)]


def times_of(path):
    return [time for time, _ in records_of(path)]


@pytest.mark.needs("tshark", "super packets in rings")
@pytest.mark.parametrize("group", [V4, V6])
def test_a_super_packet_is_cut_into_the_frames_that_a_card_makes(ends, tmp_path, group):  # noqa: F811
    """tshark checks the sums; the identification counts up as the kernel's own segmentation has it."""
    a, b = ends
    path = tmp_path / "cut.pcap"
    with receiver(b, V4, V6, frames=True) as rx, a.host.enter():
        with socket.socket(socket.AF_INET if group == V4 else socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_UDP, lab.UDP_SEGMENT, 700)
            index = socket.if_nametoindex(a.interface)
            if group == V4:
                sender.setsockopt(
                    socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("4s4si", bytes(4), bytes(4), index)
                )
                sender.sendto(bytes(range(256)) * 11, (group, PORT))
            else:
                sender.sendto(bytes(range(256)) * 11, (group, PORT, 0, index))
        batch = rx.collect(5, timeout=5)
        with mcast.files.Writer(path) as writer:
            writer.write(batch)
    assert [len(frame) for frame in batch.payloads()] == [
        (42 if group == V4 else 62) + one for one in (700, 700, 700, 700, 16)
    ]
    with mcast.open(path) as reader:
        assert b"".join(reader.collect(9).payloads()) == bytes(range(256)) * 11
    fields = ["-T", "fields", "-e", "udp.checksum.status", "-e", "ip.checksum.status", "-e", "ip.id"]
    checks = ["-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    shown = subprocess.check_output(
        ["tshark", "-n", *checks, "-r", path, *fields], text=True, stderr=subprocess.DEVNULL
    )
    rows = [line.split() for line in shown.splitlines()]
    assert len(rows) == 5, shown
    assert all(set(row[: 2 if group == V4 else 1]) == {"1"} for row in rows), shown
    if group == V4:
        first = int(rows[0][2], 16)
        assert [int(row[2], 16) for row in rows] == [(first + number) & 0xFFFF for number in range(5)]


@pytest.mark.needs("super packets in rings")
def test_a_tagged_super_packet_is_cut_into_tagged_frames(ends):  # noqa: F811
    """The kernel takes the tag out of what it hands over; each frame gets it back, and is as long as that."""
    a, b = ends
    payloads = [b"x" * 500] * 9 + [b"y" * 3]
    packet = ipv4(V4, udp(b"".join(payloads), PORT))
    frame = ethernet(V4, packet, (0x8100,))
    headers = len(frame) - len(b"".join(payloads))
    udp_at = headers - 8
    pseudo = sum(struct.unpack(">4H", packet[12:20])) + socket.IPPROTO_UDP + len(packet) - 20
    pseudo = (pseudo & 0xFFFF) + (pseudo >> 16)
    frame = frame[: udp_at + 6] + struct.pack(">H", pseudo) + frame[udp_at + 8 :]
    vnet = struct.pack("=BBHHHH", NEEDS_CSUM, GSO_UDP_L4, headers, 500, udp_at, 6)
    with receiver(b, frames=True) as rx, packet_socket(a) as raw:
        raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        raw.send(vnet + frame)
        batch = rx.collect(10)
    assert [(len(frame), frame[12:18], frame[46:]) for frame in batch.payloads()] == [
        (46 + len(payload), frame[12:18], payload) for payload in payloads
    ]
    assert all(packet.flags & Flag.COALESCED and packet.wire_length == len(packet) for packet in batch)


def test_frames_have_no_numbers():
    """Which are places in payloads; a recording of frames is checked."""
    with pytest.raises(ArgumentError, match="sequence= reads payloads"):
        mcast.Receiver("239.1.1.1%lo:5000", ring=True, frames=True, sequence="rtp")


def test_frames_go_with_a_ring_only():
    with pytest.raises(ArgumentError, match="frames=True goes with ring= only"):
        mcast.Receiver("239.1.1.1%lo:5000", frames=True)
