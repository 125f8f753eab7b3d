"""mcast-fast demo: this machine sends to itself, and counts."""

import json
import os
import socket
import sys
import time
from dataclasses import asdict, dataclass

import click

from mcast_fast import _core
from mcast_fast._host.interfaces import Interface, interfaces, multicast_interfaces
from mcast_fast._sending.outgoing import LARGEST_PAYLOAD
from mcast_fast._units import NANOSECONDS, plural
from mcast_fast._version import __version__
from mcast_fast.cli.options import shared
from mcast_fast.cli.output import complain, endpoint_text, wrapped
from mcast_fast.receiver import Receiver
from mcast_fast.sender import Sender

# Neither group leaves the machine: both are sent with TTL 0, and ff11:: is interface-local (RFC 7346).
GROUPS = {4: "239.255.77.1", 6: "ff11::4d01"}
MARK, NUMBER = 8, 8  # bytes a payload starts with: random ones, so that no other program's count, and its number
SMALLEST = MARK + NUMBER
PATIENCE = 1.0  # seconds after which what has not come is lost
QUESTION, ANSWER = b"mcast-fast demo?", b"mcast-fast demo!"

# What an unprivileged receiver is granted at least, net.core.rmem_default of Linux; and what a packet takes of it:
# its memory is rounded up to a power of two, and has a header of the kernel's (sk_buff and skb_shared_info).
SMALLEST_BUFFER = 212_992
PACKET_OVERHEAD = 1_024


# The run -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """What became of the packets of one family; `answered`: a question was answered first, by unicast."""

    family: str
    interface: str
    group: str
    answered: bool
    sent: int
    received: int
    dropped_socket: int | None
    seconds: float

    @property
    def lost(self) -> int:
        """Sent and not received as they were sent."""
        return self.sent - self.received

    @property
    def ns_per_packet(self) -> int:
        """Sending, receiving and checking together."""
        return round(self.seconds * NANOSECONDS / self.received) if self.received else 0

    @property
    def rate(self) -> int:
        """Packets per second."""
        return round(self.received / self.seconds) if self.seconds else 0


def run(version: int, interface: Interface, count: int, size: int) -> Run:
    """Send `count` packets of `size` bytes to ourselves, after one question and its answer."""
    target = f"{GROUPS[version]}%{interface.name}"
    port = _free_port(version)
    sent = received = 0
    seconds = 0.0
    with Receiver(target, port=port) as receiver, Sender(target, port=port, ttl=0) as sender:
        answered = _ask(sender, receiver)
        if answered:
            started = time.perf_counter()
            sent, received = _stream(sender, receiver, count, size)
            seconds = time.perf_counter() - started
        dropped = receiver.stats.dropped_socket
    place = endpoint_text(GROUPS[version], port)
    return Run(f"IPv{version}", interface.name, place, answered, sent, received, dropped, seconds)


def _free_port(version: int) -> int:
    with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    return port


def _ask(sender: Sender, receiver: Receiver) -> bool:
    """Whether a question comes by multicast, and its answer back by unicast."""
    sender.send(QUESTION)
    try:
        question = receiver.recv(timeout=PATIENCE)
        receiver.reply(question, ANSWER)
        return question.data == QUESTION and sender.recv(timeout=PATIENCE).data == ANSWER
    except TimeoutError:
        return False


def _stream(sender: Sender, receiver: Receiver, count: int, size: int) -> tuple[int, int]:
    """Send and receive in turn, few enough at a time that no buffer overflows; how many left, and came as
    they left.

    Ends early at the first loss."""
    mark, filling = os.urandom(MARK), bytes(at & 0xFF for at in range(size - SMALLEST))
    at_once = max(1, SMALLEST_BUFFER // (2 * (size + PACKET_OVERHEAD)))
    sent = received = 0
    while sent < count and sent == received:
        numbers = range(sent, min(sent + at_once, count))
        payloads = [mark + number.to_bytes(NUMBER, "big") + filling for number in numbers]
        sent += sender.send_batch(payloads)
        received += _take(receiver, payloads)
    return sent, received


def _take(receiver: Receiver, payloads: list[bytes]) -> int:
    """How many of the payloads, each unlike any other, came undamaged."""
    missing = set(payloads)
    while missing and (batch := receiver.collect(len(missing), timeout=PATIENCE)):
        missing.difference_update(batch.payloads())
    return len(payloads) - len(missing)


def places() -> tuple[dict[int, Interface], dict[int, str]]:
    """Where each IP version can be tried on this machine, and why one cannot.

    IPv4 uses the loopback. IPv6 has no multicast route there and needs another interface, which loops packets back.
    """
    listed = interfaces()
    fit, _ = multicast_interfaces(listed)
    candidates = {
        4: [one for one in listed if one.is_loopback and one.is_up and one.ipv4],
        6: sorted((one for one in fit if one.ipv6), key=lambda one: not one.has_carrier),
    }
    reasons = {
        4: "no loopback interface is up and has an IPv4 address",
        6: "no interface is up, multicast-capable, not loopback, and has an IPv6 address",
    }
    found = {version: interfaces[0] for version, interfaces in candidates.items() if interfaces}
    return found, {version: reason for version, reason in reasons.items() if version not in found}


# The report ----------------------------------------------------------------------------------------------------------


@click.command("demo", short_help="Send packets to this machine and count what arrives.")
@click.option(
    "-c", "--count", type=click.IntRange(min=1), default=10_000, show_default=True, help="Packets per IP version."
)
@click.option(
    "--size",
    type=click.IntRange(SMALLEST, LARGEST_PAYLOAD[4]),
    default=256,
    show_default=True,
    help="Bytes of payload.",
)
@shared(json="One JSON object instead of lines.")
def command(count: int, size: int, as_json: bool) -> None:
    """Send packets to this machine itself and receive them: IPv4 on the loopback, IPv6 where an interface can.

    Needs no privilege, and nothing leaves the machine (TTL 0). Sends no more at once than any buffer holds, so that
    nothing may be lost. The time is that of sending, receiving and checking each payload. Exits 1 when one is lost.
    """
    say = _silent if as_json else _say
    missing = f" (the compiled one is missing; {remedy})" if (remedy := _core.remedy()) else ""
    packets = f"{plural(count, 'packet')} of {plural(size, 'byte')}"
    say(f"mcast-fast {__version__}, {_core.backend} backend{missing}, {packets}")
    found, skipped = places()
    runs = []
    for version, interface in found.items():
        runs.append(run(version, interface, count, size))
        say(_run_text(runs[-1]))
    for version, reason in skipped.items():
        say(f"IPv{version} not tried: {reason}")
    if as_json:
        click.echo(json.dumps(_as_dict(runs, skipped), indent=2))
    failures = [text for one in runs if (text := _failure(one))] or ([] if runs else ["nothing could be tried"])
    for text in failures:
        complain(text)
    if failures:
        raise click.exceptions.Exit(1)


def _silent(_line: str) -> None:
    pass


def _say(line: str) -> None:
    click.echo(wrapped(line, sys.stdout))


def _run_text(one: Run) -> str:
    answer = "question and answer" if one.answered else "no answer"
    return (
        f"{one.family} on {one.interface} ({one.group}): {answer}, sent {one.sent:,}, received {one.received:,}, "
        f"lost {one.lost:,}, {one.rate:,} packets/s ({one.ns_per_packet:,} ns per packet)"
    )


def _as_dict(runs: list[Run], skipped: dict[int, str]) -> dict[str, object]:
    return {
        "version": __version__,
        "backend": _core.backend,
        "runs": [
            asdict(one) | {"lost": one.lost, "packets_per_second": one.rate, "ns_per_packet": one.ns_per_packet}
            for one in runs
        ],
        "skipped": [{"family": f"IPv{version}", "reason": reason} for version, reason in skipped.items()],
    }


def _failure(one: Run) -> str:
    """One line about what went wrong; empty when nothing did."""
    where = f"over {one.family} on {one.interface}"
    if not one.answered:
        remedy = f"look for a firewall rule that drops {one.group} (`nft list ruleset`)"
        return f"no answer {where} within {PATIENCE:g} s; {remedy}"
    if not one.lost:
        return ""
    dropped = "an unknown number" if one.dropped_socket is None else one.dropped_socket
    return (
        f"lost {one.lost:,} of {plural(one.sent, 'packet')} {where}; the kernel dropped {dropped} of them because the "
        "socket's buffer was full"
    )
