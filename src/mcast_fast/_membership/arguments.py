"""A receiver's arguments about sockets, rings and the background thread, checked; no I/O."""

import os
from dataclasses import replace
from typing import Literal, get_args

from mcast_fast import _core
from mcast_fast._core.coalescing import Mode
from mcast_fast._core.layout import FRAMES, MAX_PACKET_SIZE, TAGGED, UNTAGGED
from mcast_fast._membership.rings import RingOptions, ring_options
from mcast_fast._membership.sockets import Options, require
from mcast_fast._units import Seconds, checked_number, in_seconds, size_in_bytes, wait_in_ns, whole_number
from mcast_fast.errors import Argument, ArgumentError

Timestamps = Literal["kernel", "hardware"]
TIMESTAMPS = (*get_args(Timestamps), None)
BACKGROUND, LEAST_BACKGROUND = 256 << 20, 64 << 10


def background_bytes(wanted: bool | int | str | None, cpu: int | None) -> int:
    """Bytes that may wait for the consumer; 0 without a thread."""
    if wanted is None or wanted is False:
        if cpu is not None:
            raise ArgumentError("background_cpu needs background=True, or a size such as background='256MiB'")
        return 0
    require("background", Argument("background", repr(wanted)))
    if cpu is not None:
        if cpu not in _processors():
            raise ArgumentError(
                f"background_cpu {cpu!r} is none of those this process may run on: {sorted(_processors())}"
            )
        require("background_cpu", f"background_cpu={cpu!r}")
    return whole_number(
        BACKGROUND if wanted is True else size_in_bytes(wanted, "background"), "background", LEAST_BACKGROUND, 1 << 40
    )


def _processors() -> set[int]:
    """The processors that this process may run on, as far as the system reports them."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def socket_options(
    buffer_size: int | str | None,
    timestamps: str | None,
    gro: bool | None,
    busy_poll: int | None,
    ttl: bool,
    tos: bool,
    reuse: bool,
) -> Options:
    """The arguments about sockets, checked."""
    if timestamps not in TIMESTAMPS:
        raise ArgumentError(f"timestamps {timestamps!r} is not one of: {', '.join(map(repr, TIMESTAMPS))}")
    if ttl:
        require("receive_ttl", "recv_ttl=True")
    if tos:
        require("receive_tos", "recv_tos=True")
    asked = {
        "drops": True,
        "time": timestamps == "kernel",
        "hardware": timestamps == "hardware",
        "ttl": ttl,
        "tos": tos,
    }
    if timestamps == "hardware":
        if gro:
            raise ArgumentError('gro=True and timestamps="hardware": coalesced packets have one time; choose one')
        require("hardware_timestamps", 'timestamps="hardware"')
    if gro:
        require("receive_coalescing", "gro=True")
    if busy_poll is not None:
        whole_number(busy_poll, "busy_poll", 1, 1_000_000)
        require("busy_poll", "busy_poll")
    size = None if buffer_size is None else size_in_bytes(buffer_size, "buffer_size")
    metadata = frozenset(name for name, wanted in asked.items() if wanted)
    return Options(size, metadata, reuse, _coalescing(gro, timestamps), busy_poll)


def _coalescing(gro: bool | None, timestamps: str | None) -> Mode:
    """When packets may come coalesced: at once where no time is lost by it."""
    if gro is not None:
        return Mode.ALWAYS if gro else Mode.NEVER
    if timestamps is None and _core.feature("receive_coalescing"):
        return Mode.ALWAYS
    under_pressure = timestamps == "kernel" and bool(_core.feature("coalescing_under_pressure"))
    return Mode.UNDER_PRESSURE if under_pressure else Mode.NEVER


def for_ring(options: Options, **others: object) -> Options:
    """The options of sockets that hold the groups of rings. A ring takes packets before sockets, and is a background of
    its own: ArgumentError where one of `others` is given, too."""
    for name, value in others.items():
        if value:
            given = Argument(name, repr(value))
            raise ArgumentError(
                given, " is of sockets, and does not go with ", Argument("ring"), ": leave one of them out"
            )
    return replace(options, only_holds=True, coalescing=Mode.NEVER)


def for_given(options: Options, *, comes_coalesced: bool, gro: bool | None, **others: object) -> Options:
    """The options of a socket of the caller's. It is the only one: no ring beside it, none that decides about
    coalescing, and none is opened when an interface comes back. ArgumentError where one of `others` is given, too, or
    the caller has set UDP_GRO, and single packets are requested."""
    for name, value in others.items():
        if value:
            raise ArgumentError(f"{name}={value!r} opens sockets, and does not go with fd=: leave one of them out")
    if comes_coalesced and (gro is False or "hardware" in options.metadata):
        asked = "gro=False" if gro is False else 'timestamps="hardware"'
        raise ArgumentError(f"{asked}: the socket that fd= gives has UDP_GRO set; leave one of them out")
    is_always = comes_coalesced or options.coalescing == Mode.ALWAYS
    return replace(options, coalescing=Mode.ALWAYS if is_always else Mode.NEVER)


def check_numbers(timeout: Seconds | None, ttl: int, max_packet_size: int) -> None:
    """ArgumentError where one of them is out of range."""
    wait_in_ns(timeout)
    whole_number(ttl, "ttl", 0, 255)
    whole_number(max_packet_size, "max_packet_size", 1, MAX_PACKET_SIZE)


def check_sequence(sequence: object, timestamps: object, frames: bool) -> None:
    """ArgumentError where numbers are to be followed without the times of arrival, or without payloads."""
    if sequence is not None and timestamps is None:
        raise ArgumentError("sequence= needs the times of arrival: leave timestamps=None out")
    if sequence is not None and frames:
        raise ArgumentError("sequence= reads payloads, and frames=True delivers whole frames; pass one of them")


def ring_arguments(
    ring: bool | int | str | None,
    latency: Seconds,
    fanout: int | None,
    timestamps: str | None,
    vlan: bool,
    frames: bool,
) -> RingOptions | None:
    """The arguments about rings, checked; None when none is wanted."""
    latency = checked_number(in_seconds(latency, "ring_latency"), "ring_latency", 0.001, 1)
    if ring is None or ring is False:
        if fanout is not None:
            raise ArgumentError("packet_fanout goes with ring= only")
        if vlan:
            raise ArgumentError("vlan=True goes with ring= only: a socket gets no frame that is tagged for a VLAN")
        if frames:
            raise ArgumentError("frames=True goes with ring= only: a socket gets payloads, and no frames")
        return None
    require("ring", Argument("ring"))
    delivers = FRAMES if frames else TAGGED if vlan else UNTAGGED
    return ring_options(ring, latency, fanout, timestamps == "kernel", delivers)
