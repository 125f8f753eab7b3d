"""Loss and CPU per packet of live receivers over a veth pair, single packets at the sender's full speed.

Over `--link coalescing` the receiver's end has GRO on, and packets that one poll brings are coalesced for a socket with
UDP_GRO. Each receiver is a process of its own with a port of its own, and is open only while it is its turn: an open
capture looks at every packet of the interface, also at another's. The order turns every round.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from tests.lab import End, Lab, LabError

import mcast_fast
from benchmarks import machine, reference
from benchmarks.live_contenders import CONTENDERS, MODULE
from benchmarks.network import Place
from benchmarks.process import BenchmarkError, Process, open_receivers
from benchmarks.report import NOTHING, Bar, Direction, Report, Table, ratio

ROUNDS = 5
COUNT = 5_000_000
SIZE = 256
SEGMENTS = 64
BUFFER_BYTES = 4 << 20
RING_BYTES = 64 << 20  # what ring=True takes
MORE_LIBRARIES = {"ring_library": "reference_ring.c", "gro_library": "reference_gro.c"}
LINKS = ("single", "coalescing")
QUIET_MS = 1000
WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")  # root's are lost at execve(2)
NAMES = {
    "single": ("batches", "c", "c all", "columns", "recvfrom"),
    "coalescing": ("default", "no gro", "timed gro", "gro", "c", "c gro", "recvfrom"),
}
RING_NAMES = ("ring", "c ring")
# The C loop that a link's receivers are compared with.
LIMITS = {"single": "c", "coalescing": "c gro"}
SETTINGS = ("rounds", "count", "size", "buffer", "ring", "link", "segments", "pin", "unprivileged")
# A short stream for each before its turn, thrown away: memory that a virtual machine touches for the first time takes
# its host milliseconds, and more than the buffer holds arrives meanwhile.
WARM_UP = 10
LOSSLESS_SHARE = 0.8
LOSSLESS = "batches: rounds without loss"
WORSE_THAN_C = "batches: rounds with loss where C had none"
RING_LOST = "ring: lost"
DEFAULT_LOST = "default: lost, % in the worst round"
LOST_BEYOND_GRO = "default: lost beyond gro=True, % of all rounds"


@dataclass(frozen=True)
class Stream:
    """What the sender is told: `segments` packets to a system call, in SPEAD heaps, at a rate a second or at once."""

    count: int
    size: int
    segments: int
    heap: int = 0
    rate: float | None = None


COALESCING_BARS = (
    Bar(DEFAULT_LOST, None, Direction.AT_MOST, 0.05),
    Bar(LOST_BEYOND_GRO, None, Direction.AT_MOST, 0.0),
    Bar("default", "no gro", Direction.AT_MOST, 0.35),
    Bar("default", "c gro", Direction.AT_MOST, 1.15),
)


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--count", type=int, default=COUNT, help="packets a stream (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload (%(default)s)")
    options.add_argument(
        "--buffer", type=int, default=BUFFER_BYTES, help="what SO_RCVBUF is set to, in bytes (%(default)s)"
    )
    options.add_argument("--ring", type=int, default=RING_BYTES, help="bytes of rings and captures (%(default)s)")
    add_link(options)
    options.add_argument(
        "--segments", type=int, default=SEGMENTS, help="packets a system call of the sender, 1 to 64 (%(default)s)"
    )
    options.add_argument("--pin", action="store_true", help="sender on core 0, receivers on core 1")
    add_unprivileged(options)
    options.add_argument("--only", nargs="+", choices=CONTENDERS, metavar="NAME", help=", ".join(CONTENDERS))


def add_unprivileged(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--unprivileged",
        action="store_true",
        help="receivers without capabilities; net.core.rmem_max bounds the buffer",
    )


def add_link(options: argparse.ArgumentParser) -> None:
    options.add_argument("--link", choices=LINKS, default=LINKS[0], help="what the receiver's end does (%(default)s)")


def default_names(link: str) -> tuple[str, ...]:
    return NAMES[link] + RING_NAMES if has_ring() else NAMES[link]


def has_ring() -> bool:
    return bool(mcast_fast.features().get("ring"))


def bars(link: str, rounds: int) -> tuple[Bar, ...]:
    if link == "coalescing":
        return COALESCING_BARS
    socket_bars = (
        Bar(LOSSLESS, None, Direction.AT_LEAST, math.ceil(LOSSLESS_SHARE * rounds)),
        Bar(WORSE_THAN_C, None, Direction.AT_MOST, 0),
        Bar("batches", "c", Direction.AT_MOST, 1.05),
        Bar("batches", "c all", Direction.BELOW, 1.0),
        Bar("recvfrom", "batches", Direction.AT_LEAST, 1.4),
    )
    ring_bars = (Bar(RING_LOST, None, Direction.AT_MOST, 0), Bar("ring", "c ring", Direction.AT_MOST, 1.3))
    return socket_bars + ring_bars if has_ring() else socket_bars


def run(options: argparse.Namespace) -> Report:
    settings = {name: getattr(options, name) for name in SETTINGS}
    report = Report("live", settings, bars(options.link, options.rounds))
    with machine.watched(report.notes), ExitStack() as stack:
        sending, receiving = stack.enter_context(link(coalesces=options.link == "coalescing"))
        library, more_libraries = compile_all(stack)
        place = Place(receiving.interface, options.buffer, QUIET_MS, ring_bytes=options.ring)
        sender_core, receiver_core = (0, 1) if options.pin else (None, None)
        names = options.only or default_names(options.link)
        prefix = inside(receiving, unprivileged=options.unprivileged)
        receivers = closed_receivers(names, place, library, more_libraries, prefix, report.notes, core=receiver_core)
        sender = stack.enter_context(open_sender(sending, library, core=sender_core))
        report.samples = measure(receivers, sender, options)
    report.series = {name: [sample["cpu"] for sample in taken] for name, taken in report.samples.items()}
    report.counts = count_losses(report.samples)
    report.tables = [cost(report, options.link), losses(report)]
    return report


@contextmanager
def link(*, whole: bool = False, coalesces: bool = False) -> Iterator[tuple[End, End]]:
    """The sender's and the receiver's end, between which the packets of a GSO sender travel one by one; or `whole`.

    `coalesces`: the receiver's end hands those that arrive together to GRO."""
    try:
        with Lab(("a", "b")) as lab:
            sending, receiving = lab.link("a", "b")
            if not whole:
                sending.single_packets()
            if coalesces:
                receiving.coalesce_from(sending)
            yield sending, receiving
    except (LabError, FileNotFoundError) as error:
        raise BenchmarkError(f"{error}; network namespaces need root, iproute2 and ethtool") from error


def inside(end: End, *, unprivileged: bool = False) -> tuple[str, ...]:
    """What runs a command on that end's host; `unprivileged`: without any capability, as a user's would."""
    return ("ip", "netns", "exec", end.host.namespace, *(WITHOUT_CAPABILITIES if unprivileged else ()))


def compile_all(stack: ExitStack) -> tuple[str, dict[str, str]]:
    """The C loop over a socket, and the others as MORE_LIBRARIES names them."""
    library = stack.enter_context(reference.compiled())
    sources = {name: reference.SOURCE.with_name(source) for name, source in MORE_LIBRARIES.items()}
    more = {name: str(stack.enter_context(reference.compiled(source))) for name, source in sources.items()}
    return str(library), more


def closed_receivers(
    names: Sequence[str],
    place: Place,
    library: str,
    more_libraries: dict[str, str],
    prefix: tuple[str, ...],
    notes: list[str],
    *,
    core: int | None = None,
) -> dict[str, Process]:
    """Everybody who could be opened, closed again: `again()` opens them when it is their turn."""
    with ExitStack() as stack:
        return open_receivers(
            stack,
            library,
            names,
            place,
            notes,
            rows=CONTENDERS,
            module=MODULE,
            more_libraries=more_libraries,
            core=core,
            prefix=prefix,
        )


def open_sender(sending: End, library: str, *, core: int | None = None) -> Process:
    order = {"interface": sending.interface, "address": sending.ipv4, "library": library, "core": core}
    return Process("send", order, prefix=inside(sending))


def measure(
    receivers: dict[str, Process], sender: Process, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in receivers}
    order = list(receivers)
    for _ in range(options.rounds):
        for name in order:
            stream = Stream(options.count, options.size, options.segments, CONTENDERS[name].heap)
            with receivers[name].again() as receiver:
                follow(receiver, sender, replace(stream, count=stream.count // WARM_UP))
                samples[name].append(follow(receiver, sender, stream))
        order.append(order.pop(0))
    return samples


def follow(receiver: Process, sender: Process, stream: Stream) -> dict[str, Any]:
    """One stream into one receiver: who lost what, and what it cost.

    `machine`: what all processes and the kernel had of all cores, per packet sent: that of the sender is in it."""
    receiver.ask("follow")
    busy = machine.busy_seconds()
    sent = sender.ask("send", port=receiver.ready["port"], **asdict(stream))
    got = receiver.answer()
    busy = machine.busy_seconds() - busy
    if got["bytes"] not in (None, got["packets"] * stream.size):
        raise BenchmarkError(f"{receiver.name}: {got['packets']} packets hold {got['bytes']} bytes")
    return {
        "received": got["packets"],
        "lost": stream.count - got["packets"],
        "dropped": got["dropped"],
        "batch": got["packets"] / max(1, got["batches"]),
        "cpu": got["cpu"] / max(1, got["packets"]),
        "machine": busy * 1e9 / stream.count,
        "rate": stream.count / sent["nanoseconds"] * 1e9,
    }


def count_losses(samples: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    lost = {name: [sample["lost"] for sample in taken] for name, taken in samples.items()}
    counts: dict[str, float] = {}
    if "batches" in lost:
        counts[LOSSLESS] = lost["batches"].count(0)
    if "batches" in lost and "c" in lost:
        counts[WORSE_THAN_C] = sum(ours > 0 and c == 0 for ours, c in zip(lost["batches"], lost["c"], strict=True))
    if "ring" in lost:
        counts[RING_LOST] = sum(lost["ring"])
    if "default" in lost:
        counts[DEFAULT_LOST] = 100 * max(map(lost_share, samples["default"]))
    if "default" in lost and "timed gro" in lost:
        sent = sum(sample["received"] + sample["lost"] for sample in samples["default"])
        counts[LOST_BEYOND_GRO] = 100 * (sum(lost["default"]) - sum(lost["timed gro"])) / sent
    return counts


def lost_share(sample: dict[str, Any]) -> float:
    return float(sample["lost"] / (sample["received"] + sample["lost"]))


def cost(report: Report, link: str) -> Table:
    to = report.measured
    limit = to.get(LIMITS[link])
    rows = []
    for name, taken in report.samples.items():
        faster = f"{to['recvfrom'] / to[name]:.2f} x" if "recvfrom" in to else NOTHING
        rate, batch, whole = (median(sample[what] for sample in taken) for what in ("rate", "batch", "machine"))
        rows.append(
            (
                CONTENDERS[name].title,
                f"{to[name]:,.0f}",
                ratio(to[name], limit),
                faster,
                f"{whole:,.0f}",
                f"{median(map(lost_share, taken)):.2%}",
                f"{batch:.1f}",
                f"{rate:,.0f}",
            )
        )
    of_limit = f"of {CONTENDERS[LIMITS[link]].title.partition(', meta')[0]}"
    costs = ("CPU ns per packet", of_limit, "against recvfrom", "machine ns per packet", "lost")
    return Table("cost of a live stream (medians)", ("", *costs, "packets per batch", "sent per second"), rows)


def losses(report: Report) -> Table:
    rows = []
    for name, taken in report.samples.items():
        cells = tuple(f"{sample['lost']:,} ({sample['dropped']:,})" for sample in taken)
        rows.append((CONTENDERS[name].title, *cells))
    headings = ("", *(f"round {number}" for number in range(1, report.settings["rounds"] + 1)))
    return Table("lost: sent less received (and what the receiver's own counter of drops says)", headings, rows)
