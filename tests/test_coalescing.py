"""What the kernel coalesces (UDP_GRO) comes apart again: every packet, at its size, in its order."""

import socket
import struct

import numpy as np
import pytest

import mcast_fast as mcast
from mcast_fast import Flag
from tests import lab
from tests.conftest import free_port

UDP_SEGMENT, UDP_GRO = 103, 104
IPV4 = "239.1.1.1"


def able():
    have = mcast.features()["receive_coalescing"]
    if not have:
        pytest.skip(f"feature receive_coalescing: {have.reason}")


@pytest.fixture
def port(backend):
    able()
    return free_port()


@pytest.fixture
def blast():
    """Sends one super-packet that the kernel may cut into pieces of `size` bytes, udp(7): the payload as it is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        index = socket.if_nametoindex("lo")
        outgoing = struct.pack("4s4si", bytes(4), socket.inet_aton("127.0.0.1"), index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, outgoing)

        def send(port, payload, size):
            sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
            sock.sendto(payload, (IPV4, port))

        yield send


def receiver(port, **options):
    return mcast.Receiver(f"{IPV4}%lo:{port}", **({"timestamps": None, "timeout": 5} | options))


def numbered(length):
    return bytes(number * 7 % 251 for number in range(length))


def pieces(payload, size):
    return [payload[at : at + size] for at in range(0, len(payload), size)]


@pytest.mark.parametrize(
    ("size", "length"), [(1, 60), (100, 101), (100, 6400), (256, 16_384), (1316, 57_904), (1316, 50_000), (700, 700)]
)
def test_every_piece_is_a_packet_also_the_short_last_one(port, blast, size, length):
    with receiver(port) as rx:
        for _ in range(3):
            blast(port, numbered(length), size)
        wanted = pieces(numbered(length), size) * 3
        batch = rx.collect(len(wanted))
        assert batch.payloads() == wanted
        assert np.asarray(batch)["wire_length"].tolist() == [len(piece) for piece in wanted]
        assert {packet.source for packet in batch} == {"127.0.0.1"}
        assert {bool(packet.flags & Flag.COALESCED) for packet in batch} == {length > size}
        assert not any(packet.truncated for packet in batch)
        stats = rx.stats
        assert (stats.received, stats.bytes, stats.buffers) == (len(wanted), 3 * length, 3)
        assert stats.coalesced == (len(wanted) if length > size else 0)
        assert stats.drops_exact  # nothing was dropped


@pytest.mark.parametrize("batch_size", [1, 7, 64, 200])
def test_a_batch_keeps_to_its_limit_and_the_rest_comes_next(port, blast, batch_size):
    sent = [number.to_bytes(4, "big") for number in range(1000)]
    with receiver(port, batch_size=batch_size) as rx:
        for start in range(0, 1000, 50):
            blast(port, b"".join(sent[start : start + 50]), 4)
        received = [rx.recv().data, rx.recv().data]
        received += rx.collect(100).payloads()
        for batch in rx:
            assert 1 <= len(batch) <= batch_size
            received += batch.payloads()
            if len(received) == 1000:
                break
        assert received == sent
        assert rx.wait(0) is False
        assert rx.stats.received == 1000


def test_what_comes_larger_than_before_is_whole(port, blast):
    """Space is made as large as the last ones needed: what is larger has its end elsewhere, and several are so at once."""
    lengths = [9000 + 1500 * number for number in range(8)]
    with receiver(port) as rx:
        blast(port, numbered(9000), 1000)
        assert rx.collect(9).payloads() == pieces(numbered(9000), 1000)
        wanted = []
        for number, length in enumerate(lengths):
            payload = bytes([number]) + numbered(length)
            blast(port, payload, 1000)
            wanted += pieces(payload, 1000)
        assert rx.collect(len(wanted)).payloads() == wanted


def test_drops_are_told_with_the_first_piece_of_what_comes_next(port, blast):
    with receiver(port, buffer_size="64KiB") as rx:
        sent = 0
        while not rx.stats.dropped_socket:
            blast(port, numbered(6400), 100)
            sent += 1
        told = sum(packet.dropped for packet in rx.collect(64 * sent, timeout=0))
        blast(port, numbered(500), 100)
        batch = rx.collect(5)
        assert [packet.dropped for packet in batch] == [rx.stats.dropped_socket - told, 0, 0, 0, 0]
        assert batch[0].dropped > 0


def test_pieces_and_single_packets_mixed(port, blast):
    sent = []
    with receiver(port) as rx, mcast.Sender(f"{IPV4}%lo:{port}", ttl=0) as tx:
        for number in range(1, 40):
            blast(port, numbered(number * 100), 100)
            sent += pieces(numbered(number * 100), 100)
            tx.send(bytes([number]))
            sent.append(bytes([number]))
        assert rx.collect(len(sent)).payloads() == sent


def test_each_piece_is_truncated_by_itself(port, blast):
    with receiver(port, max_packet_size=10) as rx:
        blast(port, numbered(95), 30)
        blast(port, numbered(30), 30)
        batch = rx.collect(5)
        assert batch.payloads() == [numbered(95)[at : at + 10] for at in (0, 30, 60)] + [
            numbered(95)[90:],
            numbered(30)[:10],
        ]
        assert [packet.truncated for packet in batch] == [True, True, True, False, True]
        assert [packet.wire_length for packet in batch] == [30, 30, 30, 5, 30]
        assert (rx.stats.truncated, rx.stats.bytes) == (4, 45)


def test_by_default_packets_are_coalesced_only_when_nobody_wants_their_times(port, blast):
    with receiver(port, timestamps="kernel") as timed, receiver(port, gro=False) as plain, receiver(port) as fast:
        blast(port, numbered(500), 100)
        for rx, coalesced in ((timed, False), (plain, False), (fast, True)):
            batch = rx.collect(5)
            assert batch.payloads() == pieces(numbered(500), 100)
            assert {bool(packet.flags & Flag.COALESCED) for packet in batch} == {coalesced}
            assert rx.stats.buffers == (1 if coalesced else 5)


def test_coalesced_packets_share_one_time_and_say_so(port, blast):
    with receiver(port, timestamps="kernel", gro=True) as rx:
        blast(port, numbered(500), 100)
        batch = rx.collect(5)
        assert len({packet.timestamp for packet in batch}) == 1
        assert batch[0].timestamp > 0
        assert all(packet.flags & Flag.COALESCED for packet in batch)


def test_what_was_left_counts_piece_by_piece_as_filtered(port, blast):
    with receiver(port) as rx:
        blast(port, numbered(500), 100)
        assert rx.recv().data == numbered(100)
        rx.leave(f"{IPV4}%lo:{port}")
        assert (rx.stats.received, rx.stats.filtered) == (1, 4)
        with pytest.raises(TimeoutError):
            rx.recv(timeout=0)


@pytest.mark.lab
@pytest.mark.parametrize("buffer_size", ["64MiB", "512KiB"])
def test_sent_buffers_are_received_or_dropped(backend, buffer_size):
    """Counted by the sender's own firewall, which sees a super-packet as one."""
    able()
    with lab.Lab() as made:
        sending, receiving = made.link("a", "b")
        with receiving.host.enter():
            rx = mcast.Receiver(f"{IPV4}%{receiving.interface}:5000", timestamps=None, buffer_size=buffer_size)
        counter = sending.count(IPV4, 5000)
        with rx, sending.host.enter():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                outgoing = struct.pack("4s4si", bytes(4), bytes(4), socket.if_nametoindex(sending.interface))
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, outgoing)
                sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 200)
                for _ in range(400):
                    sock.sendto(bytes(200 * 64), (IPV4, 5000))
            sent = counter.packets
            batch = rx.collect(400 * 64, timeout=0.5)
            stats = rx.stats
        assert sent == 400
        assert stats.buffers + stats.dropped_socket == sent
        assert (stats.received, len(batch)) == (stats.buffers * 64,) * 2
        assert (stats.dropped_socket > 0) == (buffer_size == "512KiB")
        assert stats.drops_exact == (stats.dropped_socket == 0)


def test_capture_files_say_which_times_are_shared(port, blast, tmp_path):
    path = tmp_path / "shared.pcapng"
    with receiver(port, gro=True, timestamps="kernel") as rx:
        blast(port, numbered(1000), 100)
        blast(port, numbered(100), 100)
        batch = rx.collect(11)
    with mcast.files.Writer(path) as writer:
        writer.write(batch)
    with mcast.open(path) as reader:
        read = reader.collect(11)
    assert read.payloads() == batch.payloads()
    assert [bool(packet.flags & Flag.COALESCED) for packet in read] == [True] * 10 + [False]
    assert path.read_bytes().count(b"mcast-fast: shared time") == 10


@pytest.fixture
def given(port):
    """A socket of the caller's, bound to the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", port))
        yield sock


def test_a_given_socket_that_the_caller_has_coalesced_loses_no_piece(port, blast, given):
    payload = numbered(6400)
    given.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    with mcast.Receiver(f"{IPV4}%lo:{port}", fd=given, max_packet_size=50, timeout=5) as rx:
        blast(port, payload, 100)
        batch = rx.collect(64)
        assert batch.payloads() == [piece[:50] for piece in pieces(payload, 100)]
        assert {(packet.flags & Flag.COALESCED, packet.wire_length) for packet in batch} == {(Flag.COALESCED, 100)}
        assert (rx.stats.coalesced, rx.stats.truncated, rx.stats.dropped) == (64, 64, 0)


@pytest.mark.parametrize("options", [{"gro": False}, {"timestamps": "hardware"}])
def test_a_given_socket_that_the_caller_has_coalesced_brings_no_single_packets(port, given, options):
    if "timestamps" in options and not (have := mcast.features()["hardware_timestamps"]):
        pytest.skip(f"feature hardware_timestamps: {have.reason}")
    given.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    with pytest.raises(mcast.ArgumentError, match="has UDP_GRO set; leave one of them out"):
        mcast.Receiver(f"{IPV4}%lo:{port}", fd=given, **options)


@pytest.mark.parametrize(("limit", "kept", "truncated"), [(250, 3, 1), (200, 2, 0), (50, 1, 1)])
def test_a_given_socket_that_is_coalesced_later_counts_what_did_not_fit_and_makes_room(
    port, blast, given, limit, kept, truncated
):
    """What was cut off is in the ledger, and in `dropped` of the next packet."""
    payload = numbered(6400)
    sent = pieces(payload, 100)
    with mcast.Receiver(f"{IPV4}%lo:{port}", fd=given, max_packet_size=limit, timeout=5) as rx:
        given.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        blast(port, payload, 100)
        first = rx.recv_batch()
        assert b"".join(first.payloads()) == payload[:limit]
        assert [packet.wire_length for packet in first] == [100] * kept
        assert [bool(packet.flags & Flag.TRUNCATED) for packet in first].count(True) == truncated
        assert bool(first[-1].flags & Flag.TRUNCATED) == bool(truncated)
        stats = rx.stats
        assert (stats.received, stats.truncated, stats.dropped) == (kept, truncated, 64 - kept)
        blast(port, payload, 100)
        second = rx.collect(64)
        assert second.payloads() == [piece[:limit] for piece in sent]
        assert [packet.dropped for packet in second] == [64 - kept] + [0] * 63
        assert rx.stats.dropped == 64 - kept


def test_a_super_packet_that_did_not_fit_is_filtered_with_all_its_pieces(port, blast, given):
    with mcast.Receiver(f"{IPV4}%lo:{port}", fd=given, max_packet_size=150, timeout=5) as rx:
        given.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        blast(port, numbered(6400), 100)
        rx.block(f"{IPV4}%lo:{port}", "127.0.0.1")  # what is queued was sent before
        with pytest.raises(TimeoutError):
            rx.recv(timeout=0)
        assert (rx.stats.received, rx.stats.filtered, rx.stats.dropped) == (0, 64, 0)
