"""Sender: every datagram to every group, all counted, and the answers back."""

import array
import errno
import select
import socket
import threading
import time

import pytest

import mcast_fast as mcast
from mcast_fast import ArgumentError, ClosedError, GroupError, InterfaceError, MulticastError, SendError, SocketError
from tests.conftest import free_port, interrupt_main, loopback

LARGEST = {4: 65_507, 6: 65_527}


@pytest.fixture
def rx(backend, group):
    with mcast.Receiver(group, timeout=5) as receiver:
        yield receiver


# ---- opening ----

WRONG = {
    "no group": ((), {}, ArgumentError, ["no group"]),
    "no interface": (("239.1.1.1%nope0:5000",), {}, InterfaceError, ["nope0"]),
    "unicast": (("10.0.0.1:5000",), {}, GroupError, ["10.0.0.1", "multicast"]),
    "no port": (("239.1.1.1%lo",), {}, GroupError, ["has no port", "239.1.1.1:5000", "port=5000"]),
    "no port, IPv6": (("ff15::1",), {}, GroupError, ["has no port", "[ff15::1]:5000"]),
    "ttl too large": (("239.1.1.1%lo:5000",), {"ttl": 256}, ArgumentError, ["ttl", "256", "0 to 255"]),
    "ttl negative": (("239.1.1.1%lo:5000",), {"ttl": -1}, ArgumentError, ["ttl", "0 to 255"]),
    "ttl of a text": (("239.1.1.1%lo:5000",), {"ttl": "1"}, ArgumentError, ["ttl", "'1'"]),
    "source_port": (("239.1.1.1%lo:5000",), {"source_port": 0}, ArgumentError, ["source_port", "1 to 65535"]),
    "dscp": (("239.1.1.1%lo:5000",), {"dscp": 64}, ArgumentError, ["dscp", "0 to 63"]),
    "rate of nothing": (("239.1.1.1%lo:5000",), {"rate": 0}, ArgumentError, ["rate", "more than 0"]),
    "rate without a unit": (("239.1.1.1%lo:5000",), {"rate": "50"}, ArgumentError, ["rate", "'50'", "Mbit/s"]),
    "burst": (("239.1.1.1%lo:5000",), {"rate": 10, "burst": 0}, ArgumentError, ["burst"]),
    "pacing": (("239.1.1.1%lo:5000",), {"pacing": "fast"}, ArgumentError, ["'fast'", "sender, kernel"]),
    "kernel pacing in datagrams": (("239.1.1.1%lo:5000",), {"pacing": "kernel", "rate": "1k/s"}, ArgumentError, ["bits"]),
    "timeout": (("239.1.1.1%lo:5000",), {"timeout": -1}, ArgumentError, ["timeout"]),
    "source of another host": (("239.1.1.1%lo:5000",), {"source": "203.0.113.9"}, SocketError, ["203.0.113.9", "lo"]),
    "source of the other family": (("239.1.1.1%lo:5000",), {"source": "::1"}, GroupError, ["::1"]),
}  # fmt: skip


@pytest.mark.parametrize(("groups", "options", "kind", "told"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_opened_is_an_error_of_ours_that_leaves_nothing_open(
    backend, no_leak, groups, options, kind, told
):
    with pytest.raises(kind) as caught:
        mcast.Sender(*groups, **options)
    assert isinstance(caught.value, MulticastError)
    assert [text for text in told if text not in str(caught.value)] == [], str(caught.value)


def test_a_later_group_that_cannot_be_opened_undoes_the_earlier_ones(backend, no_leak, group):
    with pytest.raises(SocketError):
        mcast.Sender(group, "203.0.113.9@239.1.1.1%lo:5000")


def test_a_sender_says_what_it_is(backend, group, no_leak):
    tx = mcast.Sender(group)
    assert repr(tx) == f"<Sender to {mcast.Group.parse(group)}>"
    assert [str(one) for one in tx.groups] == [str(mcast.Group.parse(group))]
    tx.close()
    tx.close()
    assert tx.closed
    assert repr(tx).endswith("closed>")


# ---- sending ----


def test_one_datagram(rx, tx):
    assert tx.send(b"one") == 1
    assert rx.recv().data == b"one"


MIXED = [
    b"bytes",
    bytearray(b"bytearray"),
    memoryview(b"a memoryview")[2:],
    b"",
    array.array("H", [1, 2, 3]),
    bytes(3000),
]


def test_a_batch_of_mixed_types_and_sizes(rx, tx):
    assert tx.send_batch(MIXED) == len(MIXED)
    assert rx.collect(len(MIXED)).payloads() == [bytes(memoryview(one).cast("B")) for one in MIXED]


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, pytest.param(1000, marks=pytest.mark.needs("large buffers"))])
def test_a_batch_of_any_length_leaves_whole_and_in_order(rx, tx, count):
    payloads = [number.to_bytes(2, "big") for number in range(count)]
    assert tx.send_batch(tuple(payloads)) == count
    assert rx.collect(count or 1, timeout=5 if count else 0).payloads() == payloads


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize(("length", "rows"), [(0, 0), (1, 1), (1316, 1), (1317, 2), (5000, 4)])
def test_one_buffer_in_rows(rx, tx, kind, length, rows):
    buffer = bytes(number % 251 for number in range(length))
    assert tx.send_batch(kind(buffer), size=1316) == rows
    received = rx.collect(rows or 1, timeout=5 if rows else 0).payloads()
    assert received == [buffer[at : at + 1316] for at in range(0, length, 1316)]


def test_rows_of_a_buffer_with_wider_elements(rx, tx):
    buffer = array.array("I", range(100))
    assert tx.send_batch(memoryview(buffer), size=150) == 3
    assert b"".join(rx.collect(3).payloads()) == buffer.tobytes()


@pytest.mark.parametrize("size", [0, -1, 70_000, "1316", 1.5, True])
def test_a_wrong_row_size_is_refused(tx, size):
    with pytest.raises(ArgumentError, match="size"):
        tx.send_batch(bytes(10), size=size)


@pytest.mark.parametrize("buffer", [[b"a", b"b"], "text", 5, memoryview(bytes(10))[::2]])
def test_rows_of_what_is_no_contiguous_buffer_are_refused(tx, buffer):
    with pytest.raises(ArgumentError, match="size= goes with one contiguous buffer"):
        tx.send_batch(buffer, size=2)


@pytest.mark.parametrize("buffer", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
def test_one_buffer_without_a_size_is_refused_with_the_remedy(tx, buffer):
    with pytest.raises(ArgumentError, match="size="):
        tx.send_batch(buffer)


@pytest.mark.parametrize("payload", ["text", 5, None, [1], object()])
def test_a_payload_of_a_wrong_type_is_a_type_error_and_nothing_leaves(rx, tx, payload):
    with pytest.raises(TypeError):
        tx.send(payload)
    with pytest.raises(TypeError):
        tx.send_batch([b"before", payload])
    tx.send(b"marker")
    assert rx.recv().data == b"marker"


def test_the_largest_payload_leaves_and_one_byte_more_does_not(rx, tx, place):
    largest = LARGEST[place.version]
    assert tx.send(bytes(largest)) == 1
    with pytest.raises(SendError) as caught:
        tx.send(bytes(largest + 1))
    assert (caught.value.errno, caught.value.sent) == (errno.EMSGSIZE, 0)
    for told in (f"{largest + 1} bytes", f"{largest:,}", place.interface, str(tx.groups[0].port), tx.groups[0].address):
        assert told in str(caught.value)
    assert len(rx.recv()) == largest


def test_the_payloads_before_one_that_is_too_large_have_left(rx, tx):
    with pytest.raises(SendError) as caught:
        tx.send_batch([b"a", b"b", bytes(70_000), b"c"])
    assert caught.value.sent == 2
    tx.send(b"marker")
    assert rx.collect(3).payloads() == [b"a", b"b", b"marker"]


@pytest.mark.needs("destination")
def test_several_groups_each_get_every_payload_in_order(backend, place):
    groups = [place.group(1, 15_031), place.group(2, 15_031), place.group(3, 15_032)]
    with mcast.Receiver(*groups, timeout=5) as rx, mcast.Sender(*groups, ttl=0) as tx:
        assert tx.send(b"0") == 3
        assert tx.send_batch([b"1", b"2", b"3"]) == 9
        batch = rx.collect(12)
    for one in map(mcast.Group.parse, groups):
        mine = [packet.data for packet in batch if (packet.group, packet.port) == (one.address, one.port)]
        assert mine == [b"0", b"1", b"2", b"3"]


def test_an_error_among_several_groups_tells_how_many_left(backend, place):
    groups = [place.group(1, 15_033), place.group(2, 15_033)]
    with mcast.Sender(*groups, ttl=0) as tx, pytest.raises(SendError) as caught:
        tx.send_batch([b"a", bytes(70_000)])
    assert caught.value.sent == 2


@pytest.mark.needs("destination")
def test_a_row_of_groups(backend, place):
    text = f"{place.group(1, 15_034)}+3"
    with mcast.Receiver(text, timeout=5) as rx, mcast.Sender(text, ttl=0) as tx:
        assert tx.send_batch([b"a", b"b"]) == 6
        assert len({packet.group for packet in rx.collect(6)}) == 3


def test_without_loopback_this_machine_hears_nothing(backend, rx, group):
    with mcast.Sender(group, loopback=False) as silent, mcast.Sender(group, ttl=0) as heard:
        if mcast.Group.parse(group).interface == loopback():
            pytest.skip("feature loopback: what is sent by `lo` arrives at `lo`, whatever IP_MULTICAST_LOOP says")
        assert silent.send_batch([b"silent"] * 10) == 10
        heard.send(b"heard")
        assert rx.recv().data == b"heard"


@pytest.mark.needs("receive_ttl")
@pytest.mark.parametrize("ttl", [0, 1, 255])
def test_the_ttl_is_in_the_packet_and_0_stays_on_this_machine(backend, group, ttl):
    with mcast.Receiver(group, recv_ttl=True, timeout=5) as rx, mcast.Sender(group, ttl=ttl) as tx:
        tx.send(b"a")
        assert rx.recv().ttl == ttl


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2", "127.1.2.3"])
@pytest.mark.parametrize("way", ["argument", "group"])
def test_the_source_is_the_one_asked_for(backend, source, way):
    text = f"239.1.1.1%{loopback()}:{free_port()}"
    groups, options = ([text], {"source": source}) if way == "argument" else ([f"{source}@{text}"], {})
    with mcast.Receiver(text, timeout=5) as rx, mcast.Sender(*groups, ttl=0, **options) as tx:
        assert tx.local_addresses[0][0] == source
        tx.send(b"a")
        packet = rx.recv()
        assert packet.source == source
        assert packet.source_port == tx.local_addresses[0][1]


def test_local_addresses_name_the_port_that_datagrams_come_from(rx, tx):
    tx.send(b"a")
    assert rx.recv().source_port == tx.local_addresses[0][1]
    assert len(tx.local_addresses) == 1


@pytest.mark.needs("large buffers")
@pytest.mark.parametrize("way", ["list", "rows"])
def test_a_full_send_buffer_is_waited_for_and_everything_leaves(backend, group, way):
    """With the smallest send buffer there is, the kernel refuses most calls at first."""
    count, size = 300, 1400
    payloads = [number.to_bytes(2, "big") * (size // 2) for number in range(count)]
    with mcast.Receiver(group, timeout=5, buffer_size="2MiB") as rx, mcast.Sender(group, ttl=0) as tx:
        for one in tx._routing.sockets.values():
            one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        sent = tx.send_batch(payloads) if way == "list" else tx.send_batch(b"".join(payloads), size=size)
        assert sent == count
        assert rx.collect(count).payloads() == payloads


def test_a_close_ends_a_sender_that_waits_for_its_turn(backend, group):
    tx = mcast.Sender(group, ttl=0, rate="1/s")
    timer = threading.Timer(0.05, tx.close)
    timer.start()
    with pytest.raises(ClosedError, match="sender is closed"):
        tx.send_batch([b"a"] * 10)
    assert tx.stats.datagrams == 1
    timer.join()


# ---- rows of arrays, batches, other groups ----


def test_rows_of_an_array_of_two_dimensions(rx, tx):
    np = pytest.importorskip("numpy")
    rows = np.arange(60, dtype="u2").reshape(12, 5)
    assert tx.send_batch(rows) == 12
    assert rx.collect(12).payloads() == [row.tobytes() for row in rows]
    assert tx.send_batch(rows[:0]) == 0
    assert tx.send_batch(rows[:3, :0]) == 3
    assert rx.collect(3).payloads() == [b""] * 3
    with pytest.raises(ArgumentError, match="contiguous"):
        tx.send_batch(rows[:, 1:3])


def test_a_batch_is_sent_on_without_a_copy_in_python(rx, tx):
    assert tx.send_batch(MIXED) == len(MIXED)
    batch = rx.collect(len(MIXED))
    assert tx.send_batch(batch) == len(MIXED)
    assert rx.collect(len(MIXED)).payloads() == batch.payloads()
    assert tx.send_batch(batch[2:4]) == 2
    assert rx.collect(2).payloads() == batch.payloads()[2:4]


def test_records_that_point_outside_are_refused(backend, tx):
    from mcast_fast import _core
    from mcast_fast._core.layout import FIELDS, RECORD

    values = [bytes(field.size) if field.size > 1 else 0 for field in FIELDS]
    values[1], values[4] = 90, 20
    record = memoryview(RECORD.pack(*values))
    for records, data in ((record, bytes(100)), (record[:60], bytes(200))):
        with pytest.raises(ValueError, match="do not fit"):
            tx._transmitter.send_records(tx._routing.own.route, records, memoryview(data))
    assert tx._transmitter.send_records(tx._routing.own.route, record, memoryview(bytes(110))) == (1, 0)
    assert _core.backend == backend


def test_another_group_by_the_same_socket(backend, tx, place):
    other = place.group(7)
    with mcast.Receiver(other, timeout=5) as rx:
        assert [tx.send_to(b"there", other) for _ in range(3)] == [1] * 3
        packets = [rx.recv() for _ in range(3)]
    assert [packet.data for packet in packets] == [b"there"] * 3
    assert {packet.source_port for packet in packets} == {tx.local_addresses[0][1]}
    assert tx.stats.datagrams == 3


@pytest.mark.parametrize(("other", "kind"), [("0.0.0.0:1", GroupError), ("239.1.1.1%nope0:1", InterfaceError)])
def test_another_group_that_cannot_be_reached(tx, other, kind):
    with pytest.raises(kind):
        tx.send_to(b"a", other)


@pytest.mark.needs("answers of Linux")
def test_the_source_port_is_the_one_asked_for(backend, rx, group):
    port = free_port()
    with mcast.Sender(group, ttl=0, source_port=port) as tx:
        assert tx.send(b"a") == 1
        assert rx.recv().source_port == port
        with pytest.raises(SocketError, match="ss -ulpn"):
            mcast.Sender(group, ttl=0, source_port=port)


# ---- counting and pacing ----


def test_the_statistics_count_what_left(rx, tx):
    assert tx.stats.datagrams == tx.stats.bytes == tx.stats.system_calls == 0
    tx.send_batch([b"abc"] * 10)
    tx.send_batch(bytes(100), size=30)
    stats = tx.stats
    assert (stats.datagrams, stats.bytes, stats.would_blocks, stats.retries) == (14, 130, 0, 0)
    assert (stats.rate, stats.rate_error) == (None, None)
    assert 1 <= stats.system_calls <= 14
    tx.close()
    assert tx.stats == stats


def test_the_statistics_are_exact_after_an_error(rx, tx):
    with pytest.raises(SendError) as caught:
        tx.send_batch([b"a"] * 300 + [bytes(70_000)] + [b"a"] * 300)
    assert (caught.value.sent, tx.stats.datagrams) == (300, 300)


@pytest.mark.long
@pytest.mark.needs("fine clock")
@pytest.mark.parametrize(("rate", "size", "count"), [(2000, 10, 200), ("2k/s", 10, 200), ("1.6Mbit/s", 100, 200)])
def test_a_rate_is_kept_by_absolute_deadlines(backend, rx, group, rate, size, count):
    with mcast.Sender(group, ttl=0, rate=rate) as tx:
        before = time.monotonic()
        tx.send_batch(bytes(count * size // 2), size=size)
        tx.send_batch([bytes(size)] * (count // 2))
        assert time.monotonic() - before >= (count - 1) / 2000
        assert tx.stats.rate_error is not None
    assert len(rx.collect(count)) == count


def test_a_burst_leaves_together(backend, rx, group):
    """And the next one long after it: at this rate no second datagram would leave by itself."""
    tx = mcast.Sender(group, ttl=0, rate=0.001, burst=5)

    def send():
        with pytest.raises(ClosedError):
            tx.send_batch([b"a"] * 15)

    thread = threading.Thread(target=send)
    thread.start()
    assert len(rx.collect(5, timeout=10)) == 5
    tx.close()
    thread.join()
    assert tx.stats.datagrams == 5


@pytest.mark.needs("fine clock")
def test_bursts_keep_the_rate(backend, group):
    with mcast.Sender(group, ttl=0, rate=500, burst=5) as tx:
        before = time.monotonic()
        tx.send_batch([b"a"] * 15)
        assert time.monotonic() - before >= 10 / 500


@pytest.mark.long
def test_a_pause_is_no_credit(backend, group):
    with mcast.Sender(group, ttl=0, rate=100) as tx:
        tx.send(b"a")
        time.sleep(0.1)
        before = time.monotonic()
        tx.send_batch([b"a"] * 6)
        assert time.monotonic() - before > 0.045


@pytest.mark.long
def test_a_signal_ends_a_paced_send_and_the_count_is_exact(backend, group):
    with mcast.Sender(group, ttl=0, rate=10) as tx:
        timer = threading.Timer(0.15, interrupt_main)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            tx.send_batch([b"a"] * 100)
        assert 1 <= tx.stats.datagrams <= 10
        timer.join()


def test_times_that_were_not_asked_for_are_an_error(tx):
    with pytest.raises(ArgumentError, match="transmit_times=True"):
        tx.transmit_times()


# ---- answers ----


def answer(rx, tx, payload):
    tx.send(b"question")
    rx.reply(rx.recv(), payload)


def test_an_answer_comes_back_with_its_source(rx, tx, place):
    answer(rx, tx, b"answer")
    packet = tx.recv(timeout=5)
    assert packet.data == b"answer"
    assert packet.source_port == tx.groups[0].port
    if place.version == 6:
        assert packet.source.endswith(f"%{place.interface}")


def test_anybody_may_answer(rx, tx, place):
    tx.send(b"question")
    packet = rx.recv()
    family = socket.AF_INET if place.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as plain:
        for number in range(3):
            plain.sendto(bytes([number]), packet.source_address)
        assert [tx.recv(timeout=5).data for _ in range(3)] == [b"\0", b"\1", b"\2"]


@pytest.mark.needs("descriptor")
def test_the_descriptor_shows_an_answer(rx, tx):
    assert select.select([tx], [], [], 0)[0] == []
    answer(rx, tx, b"answer")
    assert select.select([tx], [], [], 5)[0] == [tx]
    assert tx.recv(timeout=0).data == b"answer"
    assert select.select([tx], [], [], 0)[0] == []


def test_no_answer_in_time_is_a_timeout(backend, group):
    with mcast.Sender(group, ttl=0, timeout=0.02) as tx:
        with pytest.raises(TimeoutError, match=r"0\.02 s"):
            tx.recv()
        with pytest.raises(TimeoutError):
            tx.recv(timeout=0)
        with pytest.raises(ArgumentError, match="timeout"):
            tx.recv(timeout=-1)


def test_a_close_wakes_who_waits_for_an_answer(backend, group):
    tx = mcast.Sender(group, ttl=0)
    timer = threading.Timer(0.05, tx.close)
    timer.start()
    with pytest.raises(ClosedError, match="closed"):
        tx.recv(timeout=None)
    timer.join()


CLOSED_CALLS = {
    "send": lambda tx: tx.send(b"a"),
    "send_batch": lambda tx: tx.send_batch([b"a"]),
    "rows": lambda tx: tx.send_batch(b"abc", size=1),
    "nothing": lambda tx: tx.send_batch([]),
    "recv": lambda tx: tx.recv(),
    "recv at once": lambda tx: tx.recv(timeout=0),
    "send_to": lambda tx: tx.send_to(b"a", "239.1.1.1%lo:5000"),
    "transmit_times": lambda tx: tx.transmit_times(),
    "fileno": lambda tx: tx.fileno(),
    "local_addresses": lambda tx: tx.local_addresses,
}


@pytest.mark.parametrize("call", CLOSED_CALLS.values(), ids=CLOSED_CALLS.keys())
def test_every_call_on_a_closed_sender_says_so(backend, group, no_leak, call):
    with mcast.Sender(group) as tx:
        pass
    with pytest.raises(ClosedError, match="sender is closed"):
        call(tx)
