"""What send_batch says left is what arrives, byte for byte, whatever refuses in between."""

import asyncio
import errno
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import mcast_fast as mcast
from mcast_fast import ClosedError, SendError, aio
from tests import lab
from tests.test_pcapng import NOW, batch_of, record

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("backend")]

Ends = tuple[lab.End, lab.End]

PORT = 5000
GROUPS = ("239.1.1.1", "ff15::1")
SO_NO_CHECK = 11
SIZES = (0, 1, 1452, 1453, 1472, 1473, 9000, 65_507)


@pytest.fixture(params=GROUPS)
def group(request) -> str:
    return request.param


@pytest.fixture
def made() -> Iterator[lab.Lab]:
    with lab.Lab() as one:
        yield one


@pytest.fixture
def ends(made) -> Ends:
    return made.link("a", "b", number=1)


@pytest.fixture
def tx(ends, group) -> Iterator[mcast.Sender]:
    with sender(ends[0], group) as made:
        yield made


@pytest.fixture
def rx(ends, group) -> Iterator[mcast.Receiver]:
    with ends[1].host.enter():
        receiver = mcast.Receiver(feed(group, ends[1]), buffer_size="64MiB", timeout=5)
    with receiver:
        yield receiver


def feed(group: str, end: lab.End) -> str:
    zoned = f"{group}%{end.interface}"
    return f"[{zoned}]:{PORT}" if ":" in group else f"{zoned}:{PORT}"


def sender(end: lab.End, group: str, **options) -> mcast.Sender:
    with end.host.enter():
        return mcast.Sender(feed(group, end), **options)


def numbered(size: int, count: int) -> list[bytes]:
    """Payloads of one size that differ where they have space."""
    make = random.Random(size)
    return [(number.to_bytes(4, "big") + make.randbytes(64) * (size // 64 + 1))[:size] for number in range(count)]


def segments(tx: mcast.Sender) -> bool:
    """Whether this backend has the kernel cut datagrams apart."""
    return mcast.features()["send_segmentation"].on


# ---- everything arrives ----


@pytest.mark.parametrize("size", SIZES)
def test_a_list_of_any_size_arrives_byte_for_byte(tx, rx, size):
    payloads = numbered(size, 200)
    assert tx.send_batch(payloads) == 200
    assert rx.collect(200).payloads() == payloads
    assert rx.stats.dropped_socket == 0
    assert (tx.stats.datagrams, tx.stats.bytes) == (200, 200 * size)


@pytest.mark.parametrize("size", SIZES[1:])
def test_rows_of_any_size_arrive_byte_for_byte(tx, rx, size):
    payloads = numbered(size, 150)
    buffer = b"".join(payloads)[: -(size // 2) or None]
    wanted = [buffer[at : at + size] for at in range(0, len(buffer), size)]
    assert tx.send_batch(buffer, size=size) == len(wanted)
    assert rx.collect(len(wanted)).payloads() == wanted


def test_mixed_sizes_arrive_in_order(tx, rx):
    make = random.Random(5)
    payloads = [make.randbytes(size) for size in make.choices([*SIZES, 100, 100, 100, 200], k=1000)]
    assert tx.send_batch(payloads) == 1000
    assert rx.collect(1000).payloads() == payloads


def test_a_million_in_rows(tx, rx):
    count = 1_000_000 if segments(tx) else 50_000
    numbers = np.arange(count, dtype=">u8").reshape(-1, 1)
    came = []

    def follow() -> None:
        with suppress(TimeoutError):
            while len(came) < count:
                came.extend(rx.recv_batch().payloads())

    thread = threading.Thread(target=follow)
    thread.start()
    sent = sum(tx.send_batch(part) for part in np.array_split(numbers, count // 10_000) if not_too_far(came, part))
    thread.join()
    assert sent == count
    assert rx.stats.dropped_socket == 0
    assert b"".join(came) == numbers.tobytes()


def not_too_far(came: list[bytes], part: np.ndarray) -> bool:
    """Wait until the receiver is at most 40,000 datagrams behind: its buffer holds more."""
    first = int(part[0, 0])
    deadline = time.monotonic() + 30
    while first - len(came) > 40_000 and time.monotonic() < deadline:
        time.sleep(0.001)
    return True


def test_a_batch_goes_on_as_it_came(tx, rx):
    """Also a part of one, whose arena holds more than its own payloads."""
    payloads = numbered(100, 50) + numbered(300, 50)
    tx.send_batch(payloads)
    batch = rx.collect(100)
    assert tx.send_batch(batch) == 100
    assert rx.collect(100).payloads() == payloads
    assert tx.send_batch(batch[30:70]) == 40
    assert rx.collect(40).payloads() == payloads[30:70]


# ---- segmentation ----


def test_one_size_needs_few_system_calls(tx, rx):
    if not segments(tx):
        pytest.skip("feature send_segmentation: " + mcast.features()["send_segmentation"].reason)
    assert tx.send_batch(bytes(64_000), size=1000) == 64
    assert tx.stats.system_calls == 1
    assert (tx.stats.segmentation, tx.stats.segmentation_reason) == (True, "")
    assert len(rx.collect(64)) == 64


def test_segments_beyond_the_mtu_are_given_up_with_a_reason(tx, rx, ends, group):
    if not segments(tx):
        pytest.skip("feature send_segmentation: " + mcast.features()["send_segmentation"].reason)
    assert tx.send_batch([bytes(1473)] * 100) == 100
    assert len(rx.collect(100)) == 100
    assert "segments above 1472 bytes: Message too long" in tx.stats.segmentation_reason
    assert ends[0].interface in tx.stats.segmentation_reason
    before = tx.stats.system_calls
    assert tx.send_batch([bytes(1400)] * 64) == 64
    assert tx.stats.system_calls == before + 1


def test_a_device_without_segmentation_gets_them_singly(ends, tx, rx):
    ends[0].single_packets()
    payloads = numbered(700, 300)
    assert tx.send_batch(payloads) == 300
    assert rx.collect(300).payloads() == payloads


def test_a_device_without_checksums_gets_everything_all_the_same(ends, tx, rx):
    """Before Linux 6.12 it refuses segments (EIO), udp(7)."""
    ends[0].host.run("ethtool", "-K", ends[0].interface, "tx-checksum-ip-generic", "off")
    payloads = numbered(700, 300)
    assert tx.send_batch(payloads) == 300
    assert rx.collect(300).payloads() == payloads


def test_a_refusal_switches_segmentation_off_and_is_no_error(ends, rx, group):
    """The kernel cuts nothing apart that has no checksum (EINVAL)."""
    if ":" in group:
        pytest.skip("SO_NO_CHECK is of IPv4")
    payloads = numbered(700, 300)
    with sender(ends[0], group) as tx:
        for one in tx._routing.sockets.values():
            one.socket.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        assert tx.send_batch(payloads) == 300
        assert rx.collect(300).payloads() == payloads
        if segments(tx):
            assert tx.stats.retries == 1
            assert "segments above 699 bytes: Invalid argument (22)" in tx.stats.segmentation_reason


def test_segmentation_can_be_switched_off(ends, group, rx):
    payloads = numbered(100, 64)
    with sender(ends[0], group, segmentation=False) as tx:
        for way in (payloads, np.frombuffer(b"".join(payloads), "u1").reshape(64, 100)):
            assert tx.send_batch(way) == 64
            assert rx.collect(64).payloads() == payloads
        assert not tx.stats.segmentation
        if segments(tx):
            assert tx.stats.segmentation_reason == "segmentation=False"
    assert rx.stats.buffers == 128


# ---- shapers ----


def shape(end: lab.End, limit: str, rate: str = "80mbit") -> None:
    """A token bucket filter: it cuts super-packets apart, keeps what fits, and answers success."""
    end.host.run(
        "tc", "qdisc", "replace", "dev", end.interface, "root", "tbf", "rate", rate, "burst", "20kb", "limit", limit
    )


def assert_all_arrive(rx: mcast.Receiver, payloads: list[bytes]) -> None:
    """Each once, in any order: besides the sender, a timer on another processor takes packets out of a shaper's queue,
    and one overtakes the other where a processor is held up."""
    came, wanted = Counter(rx.collect(len(payloads)).payloads()), Counter(payloads)
    missing = [payload[:4].hex() for payload in wanted - came]
    dropped = rx.stats.dropped, Path("/proc/net/softnet_stat").read_text()
    assert not missing, f"{missing} did not arrive; dropped here and by the host: {dropped}"
    assert came == wanted


@pytest.mark.parametrize("limit", ["10kb", "50kb", "150kb"])
@pytest.mark.parametrize("rate", [None, "20k/s"])
def test_a_shaper_with_a_short_queue_delivers_all_that_is_said_to_have_left(ends, group, rx, limit, rate):
    shape(ends[0], limit)
    payloads = numbered(1000, 300)
    with sender(ends[0], group, rate=rate) as tx:
        assert tx.send_batch(payloads) == 300
        assert_all_arrive(rx, payloads)
        if segments(tx):
            assert "queue discipline tbf" in tx.stats.segmentation_reason


def test_a_shaper_below_a_class_is_found_too(ends, group, rx):
    device = ("dev", ends[0].interface)
    ends[0].host.run("tc", "qdisc", "replace", *device, "root", "handle", "1:", "htb", "default", "10")
    ends[0].host.run("tc", "class", "add", *device, "parent", "1:", "classid", "1:10", "htb", "rate", "1gbit")
    shaper = ("tbf", "rate", "80mbit", "burst", "20kb", "limit", "20kb")
    ends[0].host.run("tc", "qdisc", "add", *device, "parent", "1:10", *shaper)
    with sender(ends[0], group) as tx:
        assert tx.send_batch(numbered(1000, 300)) == 300
        assert len(rx.collect(300)) == 300
        assert not tx.stats.segmentation


def test_after_a_full_queue_datagrams_leave_singly(ends, group, rx):
    """The queue came after the sender was opened, and holds no super-packet at all."""
    with sender(ends[0], group) as tx:
        shape(ends[0], "900")
        with suppress(SendError):
            tx.send_batch(numbered(1000, 64))
        if segments(tx):
            assert "refused segmentation: No buffer space available (105)" in tx.stats.segmentation_reason
            assert not tx.stats.segmentation
        shape(ends[0], "10kb")
        before = tx.stats.datagrams
        rx.collect(64, timeout=0.2)
        assert tx.send_batch(numbered(1000, 200)) == 200
        assert len(rx.collect(200)) == 200
        assert tx.stats.datagrams == before + 200


# ---- an interface that comes back ----


def another(group: str) -> str:
    """One of link-local scope in IPv6: its address names the interface to the kernel, by the index."""
    return group.replace("239.1.1.1", "239.1.1.2").replace("ff15::1", "ff12::2")


def recorded(group: str) -> mcast.Batch:
    return batch_of(*((record(data, NOW), data) for data in (b"1", b"2")))


BACK: dict[str, Callable[[mcast.Sender, str], int]] = {
    "send": lambda tx, _: tx.send(b"x"),
    "send_batch": lambda tx, _: tx.send_batch([b"x"] * 100),
    "rows": lambda tx, _: tx.send_batch(bytes(1000), size=10),
    "send_to": lambda tx, other: tx.send_to(b"x", other),
    "send_recorded": lambda tx, other: tx.send_recorded(recorded(other), tx.schedule(lambda _: other)),
    "asyncio": lambda tx, _: asyncio.run(over(tx).send_batch([b"x"] * 100)),
}


def over(tx: mcast.Sender) -> aio.Sender:
    """An aio.Sender that sends by an open sender."""
    made = aio.Sender(tx.groups[0])
    made._sender.close()
    made._sender = tx
    return made


@pytest.mark.parametrize("way", BACK)
@pytest.mark.parametrize("source_port", [None, 6000])
def test_sending_goes_on_by_an_interface_that_was_made_anew(made, ends, group, way, source_port):
    """By its name; also to the groups of send_to that were known, and from the same port."""
    end = ends[0]
    other = feed(another(group), end)
    with sender(end, group, source_port=source_port) as tx, end.host.enter():
        assert tx.send(b"x") == tx.send_to(b"x", other) == 1
        before, port = tx.stats.datagrams, tx.local_addresses[0][1]
        end.host.run("ip", "link", "del", end.interface)
        with pytest.raises(SendError, match=end.interface):
            tx.send(b"gone")
        made.link("a", "b", number=1, names=(end.interface, ends[1].interface))
        with ends[1].host.enter():
            rx = mcast.Receiver(feed(group, ends[1]), feed(another(group), ends[1]), timeout=5)
        with rx:
            sent = BACK[way](tx, other)
            assert len(rx.collect(sent)) == sent
            assert tx.stats.datagrams == before + sent
            assert tx.send(b"a") == tx.send_to(b"b", other) == 1
            packets = rx.collect(2)
            assert packets.payloads() == [b"a", b"b"]
        assert {packet.source_port for packet in packets} == {tx.local_addresses[0][1]}
        assert source_port is None or tx.local_addresses[0][1] == port
        assert len(tx.local_addresses) == 1


def test_an_interface_that_comes_and_goes_leaves_one_socket(made, ends, group):
    end = ends[0]
    with sender(end, group) as tx, end.host.enter():
        for number in (1, 2, 3):
            end.host.run("ip", "link", "del", end.interface)
            made.link("a", "b", number=1, names=(end.interface, ends[1].interface))
            assert tx.send(b"x") == 1
            assert tx.stats.reopened == number
            assert len(tx._routing.open_sockets._sockets) == len(tx._routing.sockets) == 1
    assert not any(one.socket.fileno() >= 0 for one in tx._routing.sockets.values())


@pytest.mark.parametrize("way", ["send", "send_to", "asyncio"])
def test_sending_goes_on_from_an_address_that_came_instead(ends, way):
    """Of the interface, when no address to send from was named; else that one has gone, and nothing can be sent."""
    a, b = ends
    port, other = 5000, "239.1.1.9"
    with b.host.enter():
        rx = mcast.Receiver([f"{one}%{b.interface}:{port}" for one in ("239.1.1.1", other)], timeout=5)
    with rx, sender(a, "239.1.1.1") as tx, sender(a, "239.1.1.1", source=a.ipv4) as named, a.host.enter():
        assert tx.send(b"x") == tx.send_to(b"x", f"{other}%{a.interface}:{port}") == 1
        a.host.run("ip", "addr", "del", f"{a.ipv4}/24", "dev", a.interface)
        a.host.add_address(a.interface, "10.99.0.1/24")
        rx.collect(2)
        sent = BACK[way](tx, f"{other}%{a.interface}:{port}")
        assert {packet.source for packet in rx.collect(sent)} == {"10.99.0.1"}
        assert tx.stats.reopened == 0
        with pytest.raises(SendError):
            named.send(b"x")


def test_an_interface_of_that_name_in_another_namespace_is_not_taken(ends, group, tx):
    """The thread that sends is elsewhere, where an interface has the name of the one that is gone."""
    end = ends[0]
    lab.run("ip", "link", "add", end.interface, "type", "veth", "peer", "name", "elsewhere")
    try:
        lab.run("ip", "link", "set", end.interface, "up")
        lab.run("ip", "address", "add", "10.99.9.1/24", "dev", end.interface)
        end.host.run("ip", "link", "del", end.interface)
        with pytest.raises(SendError):
            tx.send(b"x")
    finally:
        lab.run("ip", "link", "del", end.interface)


# ---- asyncio ----


async def turns(count: int) -> None:
    """The loop runs other tasks meanwhile, this many times at least."""
    for _ in range(count):
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("way", ["cancel", "close"])
def test_a_full_send_buffer_does_not_block_the_event_loop(ends, group, way):
    """A shaper of 160 kbit/s: what is sent would take 20 s."""
    shape(ends[0], "1mb", "160kbit")
    payloads = numbered(1000, 400)

    async def main() -> None:
        with ends[0].host.enter():
            tx = aio.Sender(feed(group, ends[0]))
        one, two = (asyncio.ensure_future(tx.send_batch(payloads)) for _ in range(2))
        while tx.stats.would_blocks == 0:
            await asyncio.sleep(0)
        await turns(20)
        assert not one.done()
        assert not two.done()
        left = tx.stats.datagrams
        assert 0 < left < 400
        if way == "close":
            tx.close()
        else:
            two.cancel()
            one.cancel()
        for task in (one, two):
            with pytest.raises(ClosedError if way == "close" else asyncio.CancelledError):
                await task
        assert left <= tx.stats.datagrams < 400
        if way == "cancel":
            assert await tx.drain() == tx.stats.datagrams
        tx.close()
        assert not tx._space._waiting

    asyncio.run(asyncio.wait_for(main(), 30), debug=True)


def test_a_full_queue_does_not_block_the_event_loop(ends, group, rx):
    shape(ends[0], "10kb", "8mbit")
    payloads = numbered(1000, 200)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    async def main() -> None:
        ticking = asyncio.ensure_future(tick())
        with ends[0].host.enter():
            tx = aio.Sender(feed(group, ends[0]))
        async with tx:
            assert await tx.send_batch(payloads) == 200
            assert tx.stats.retries > 0
        ticking.cancel()

    asyncio.run(asyncio.wait_for(main(), 30))
    assert ticks > 100
    assert_all_arrive(rx, payloads)


# ---- what refuses ----


def test_an_interface_that_goes_down_ends_the_batch_with_the_exact_count(ends, group, rx):
    count, size = 20_000, 200
    with sender(ends[0], group, rate="20k/s") as tx:
        down = threading.Timer(0.2, ends[0].host.run, ["ip", "link", "set", ends[0].interface, "down"])
        down.start()
        with pytest.raises(SendError) as caught:
            tx.send_batch(b"".join(numbered(size, count)), size=size)
        down.join()
    assert caught.value.errno in (errno.ENETDOWN, errno.ENETUNREACH, errno.ENODEV, errno.EADDRNOTAVAIL, errno.ENOBUFS)
    assert 0 < caught.value.sent < count
    assert tx.stats.datagrams == caught.value.sent
    came = rx.collect(count, timeout=0.5).payloads()
    assert came == numbered(size, len(came))
    # Its queue takes what comes while it goes down, and the system says that it has left (NET_XMIT_CN).
    assert 0 <= caught.value.sent - len(came) <= 100
    assert ends[0].interface in str(caught.value)


def test_a_firewall_that_drops_everything_is_an_error_with_nothing_sent(ends, group, tx, rx):
    rule = f"add table inet t; add chain inet t o {{ type filter hook output priority 0; }}; add rule inet t o udp dport {PORT} drop"
    ends[0].host.run("nft", "-f", "-", stdin=rule)
    for send in (
        lambda: tx.send(b"a"),
        lambda: tx.send_batch(numbered(100, 300)),
        lambda: tx.send_batch(bytes(1000), size=10),
    ):
        with pytest.raises(SendError, match="firewall") as caught:
            send()
        assert (caught.value.errno, caught.value.sent) == (errno.EPERM, 0)
    assert tx.stats.datagrams == 0
    with pytest.raises(TimeoutError):
        rx.recv(timeout=0.1)


def test_a_firewall_that_drops_one_kind_stops_there(ends, group, tx, rx):
    rule = "add table inet t; add chain inet t o { type filter hook output priority 0; }; add rule inet t o udp length 308 drop"
    ends[0].host.run("nft", "-f", "-", stdin=rule)
    payloads = [*numbered(100, 100), bytes(300), *numbered(400, 100)]
    with pytest.raises(SendError, match="300 bytes to") as caught:
        tx.send_batch(payloads)
    assert caught.value.sent == 100
    assert rx.collect(101, timeout=0.2).payloads() == payloads[:100]


def test_a_send_buffer_of_4_kib_is_waited_for(ends, group, tx, rx):
    for one in tx._routing.sockets.values():
        one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    payloads = numbered(1400, 500) + numbered(20, 500)
    assert tx.send_batch(payloads) == 1000
    assert rx.collect(1000).payloads() == payloads


# ---- what the wire shows ----


@pytest.mark.parametrize("dscp", [None, 0, 46, 63])
def test_the_class_of_service_is_in_the_packet(ends, group, dscp):
    with ends[1].host.enter():
        rx = mcast.Receiver(feed(group, ends[1]), recv_tos=True, timeout=5)
    with rx, sender(ends[0], group, dscp=dscp) as tx:
        tx.send(b"a")
        assert rx.recv().tos == (dscp or 0) << 2


def test_transmit_times_are_those_of_each_datagram(ends, group, rx):
    with sender(ends[0], group, transmit_times=True) as tx:
        before = time.time_ns()
        assert tx.send_batch([b"x" * 100] * 50) == 50
        times = []
        with suppress(StopIteration):
            for _ in range(100):
                times += tx.transmit_times()
                if len(times) >= 50:
                    raise StopIteration
                time.sleep(0.01)
        assert [one.number for one in times] == list(range(50))
        assert {one.interface for one in times} == {ends[0].interface}
        assert before - 10**9 < times[0].time <= times[-1].time < time.time_ns() + 10**9
        assert not tx.stats.segmentation
        assert "transmit_times" in tx.stats.segmentation_reason or not segments(tx)
        arrivals = [packet.timestamp for packet in rx.collect(50)]
        assert all(abs(one.time - arrival) < 10**9 for one, arrival in zip(times, arrivals, strict=True))


def test_paced_departures_are_never_ahead_of_their_schedule(ends, group, rx):
    """How late they may be is for `benchmarks pace`: the machine is shared."""
    with sender(ends[0], group, rate="5k/s") as tx:
        start = time.monotonic()  # not by the times of arrival: the system's clock may step meanwhile
        assert tx.send_batch(bytes(2500 * 8), size=8) == 2500
        assert time.monotonic() - start > 0.5 * 0.9
        stats = tx.stats
    assert len(rx.collect(2500)) == 2500
    assert 0 < stats.rate < 5000 * 1.1
    assert stats.rate_error == pytest.approx(stats.rate / 5000 - 1)
