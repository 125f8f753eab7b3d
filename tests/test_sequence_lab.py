"""What a firewall drops between two hosts is what the numbers miss, to the packet; beside programs that count by themselves."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mcast_fast as mcast
from mcast_fast import files
from tests import lab

pytestmark = [pytest.mark.lab]

GROUP, PORT, COUNT = "239.1.1.1", 5000, 3_000
Ends = tuple[lab.End, lab.End]


@pytest.fixture
def ends() -> Iterator[Ends]:
    with lab.Lab() as made:
        yield made.link("a", "b")


def drop_every(end: lab.End, n: int) -> lab.Counter:
    """Drop every n-th datagram on its way out: a ring sees what the receiver's firewall drops."""
    rule = f"ip daddr {GROUP} numgen inc mod {n} {n - 1} counter name hits drop"
    return end.host.add_table(end.interface, "egress", 0, rule)


def receiver(end: lab.End, form: str, **options: object) -> mcast.Receiver:
    with end.host.enter():
        return mcast.Receiver(f"{GROUP}%{end.interface}:{PORT}", sequence=form, timeout=0.5, **options)


def follow(rx: mcast.Receiver, path: object = None) -> None:
    """Receive until nothing comes any more, into a file too."""
    if path is None:
        for _ in rx.batches():
            pass
        return
    with files.Writer(path) as writer:
        for batch in rx.batches():
            writer.write(batch)


@pytest.mark.parametrize("more", [{}, {"background": True}, {"ring": True}], ids=["plain", "background", "ring"])
@pytest.mark.parametrize("n", [3, 100])
def test_what_a_firewall_drops_is_lost(ends: Ends, tmp_path: Path, n: int, more: dict[str, object]) -> None:
    a, b = ends
    dropped, path = drop_every(a, n), tmp_path / "live.pcapng"
    with receiver(b, "u64be@0", **more) as rx:
        a.blast(GROUP, PORT, count=COUNT, rate=20_000).finish()
        follow(rx, path)
        (flow,) = rx.stats.flows
    lost = dropped.packets
    assert lost == COUNT // n
    last = 1 if COUNT % n == 0 else 0  # the last of all: no later number shows it
    assert (flow.received, flow.lost + flow.pending, flow.duplicates, flow.last) == (
        COUNT - lost,
        lost - last,
        0,
        COUNT - 1 - last,
    )
    assert flow.expected == COUNT - last
    with mcast.open(path, sequence="u64be@0") as reader:
        for _ in reader:
            pass
        (read,) = reader.stats.flows
    assert (read.received, read.expected, read.lost + read.pending) == (
        flow.received,
        flow.expected,
        flow.lost + flow.pending,
    )


IP_AND_UDP, STAMP, SIZE = 28, 32, 64  # bytes


@pytest.mark.parametrize("singles", [True, False], ids=["single packets", "super-packets"])
def test_send_numbers_show_the_last_ones_too(ends: Ends, singles: bool) -> None:
    """`send --sequence` ends with how many there were. nft counts, and drops, a super-packet of UDP_SEGMENT as one packet, so
    that only its bytes show how many numbers were in it. Of the three ends it drops some, too."""
    a, b = ends
    if singles:
        a.single_packets()
    dropped = b.drop_every(7, GROUP)  # on the way out our sender would be told, and try again
    with receiver(b, "mcast-fast") as rx:
        send = ["send", f"{GROUP}%{a.interface}:{PORT}", "--sequence", "-c", str(COUNT)]
        send += ["--size", str(SIZE), "--rate", "20k/s"]
        a.host.spawn([sys.executable, "-m", "mcast_fast", *send]).finish()
        follow(rx)
        (flow,) = rx.stats.flows
    ends_lost = 3 - (flow.packets - flow.received)
    numbers, rest = divmod(dropped.bytes - IP_AND_UDP * dropped.packets - STAMP * ends_lost, STAMP + SIZE)
    assert rest == 0
    assert numbers == dropped.packets - ends_lost if singles else numbers > dropped.packets > 0
    assert flow.expected == COUNT
    assert flow.lost + flow.pending == COUNT - flow.received == numbers
    assert flow.state == "ended"


def full_buffers(host: lab.Host) -> int:
    """Datagrams that were dropped because the buffer of the socket was full, of all sockets there."""
    names, numbers = (
        line.split() for line in host.run("cat", "/proc/net/snmp").splitlines() if line.startswith("Udp:")
    )
    return int(dict(zip(names, numbers, strict=True))["RcvbufErrors"])


def test_iperf_reports_the_same(ends: Ends) -> None:
    """iperf 2 counts the datagram that says the end, too."""
    a, b = ends
    dropped = drop_every(a, 10)
    server = b.host.spawn(["iperf", "-s", "-u", "-B", f"{GROUP}%{b.interface}", "-p", str(PORT), "-i", "0"])
    server.expect("Server listening")
    with receiver(b, "iperf2") as rx:
        a.iperf(GROUP, PORT, count=1_000, rate="20000pps").finish()
        follow(rx)
        (flow,) = rx.stats.flows
        ours = rx.stats.dropped_socket
    report = server.expect(r" (\d+)/\s*(\d+) \(")
    server.stop()
    assert dropped.packets == 100
    its_own = full_buffers(b.host) - ours  # of a server that was held up
    assert (flow.lost + flow.pending - ours + its_own, flow.expected + 1) == (int(report[1]), int(report[2]))


@pytest.mark.needs("sockperf")
def test_sockperf_counts_the_same(ends: Ends) -> None:
    """Its client says how many it sent, its server how many came; neither counts the two by which the client warms up."""
    a, b = ends
    target = ["-i", GROUP, "-p", str(PORT)]
    server = b.host.spawn(["sockperf", "server", *target, "--mc-rx-if", b.ipv4, "--mc-tx-if", b.ipv4])
    server.expect("to block on socket")
    dropped = drop_every(a, 10)
    with receiver(b, "sockperf") as rx:
        client = ["sockperf", "throughput", *target, "--mc-tx-if", a.ipv4, "--mc-ttl", "4", "-m", "64"]
        sent = int(a.host.spawn([*client, "--mps", "2000", "-t", "1"]).expect(r"Total of (\d+) messages sent")[1])
        follow(rx)
        (flow,) = rx.stats.flows
        received = rx.stats.received
    server.process.send_signal(signal.SIGINT)
    handled = int(server.expect(r"Total (\d+) messages received")[1])
    unseen = sent - flow.last  # dropped behind the last one that came
    assert (flow.first, flow.expected) == (1, sent - unseen)
    assert flow.lost + flow.pending + unseen == dropped.packets > 0
    assert handled == flow.received == received - 2


@pytest.mark.needs("ffmpeg")
def test_ffmpeg_misses_the_same(ends: Ends, tmp_path: Path) -> None:
    """Video as RTP from ffmpeg to ffmpeg, which says how many packets it missed at each gap."""
    a, b = ends
    for end in ends:
        end.host.run("ip", "route", "add", f"{GROUP}/32", "dev", end.interface)
    sent = a.count(GROUP, PORT)
    dropped = a.host.add_table(
        a.interface, "egress", 0, f"ip daddr {GROUP} udp dport {PORT} numgen inc mod 10 8 counter name hits drop"
    )
    description = tmp_path / "stream.sdp"
    description.write_text(
        f"v=0\no=- 0 0 IN IP4 {a.ipv4}\ns=x\nc=IN IP4 {GROUP}/4\nt=0 0\nm=video {PORT} RTP/AVP 96\n"
        "a=rtpmap:96 MP4V-ES/90000\n"
    )
    quiet = ["ffmpeg", "-hide_banner", "-nostdin", "-loglevel"]
    source = ["-protocol_whitelist", "file,udp,rtp", "-localaddr", b.ipv4, "-i", str(description)]
    player = b.host.spawn([*quiet, "debug", *source, "-c", "copy", "-f", "null", "-"])
    player.expect("Before avformat_find_stream_info")
    with receiver(b, "rtp") as rx:
        camera = ["-re", "-f", "lavfi", "-i", "testsrc=size=640x480:rate=50:duration=1", "-c:v", "mpeg4", "-b:v", "8M"]
        target = f"rtp://{GROUP}:{PORT}?localaddr={a.ipv4}&ttl=4&pkt_size=300"
        a.host.spawn([*quiet, "error", *camera, "-f", "rtp", target]).finish()
        follow(rx)
        (flow,) = rx.stats.flows
    unseen = sent.packets - flow.expected  # dropped behind the last one that came
    assert flow.lost + flow.pending + unseen == dropped.packets > 0
    missed = 0
    while missed < dropped.packets - unseen:
        missed += int(player.expect(r"RTP: missed (\d+) packets")[1])
    assert missed == flow.lost + flow.pending
    player.process.kill()
