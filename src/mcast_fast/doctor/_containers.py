"""Containers and virtual machines, whose networks carry no multicast from outside."""

from collections.abc import Iterator
from pathlib import Path

from mcast_fast._host.stack_counters import text
from mcast_fast.doctor._context import Context
from mcast_fast.doctor._finding import Finding

MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))  # Docker, Podman
RELEASE = Path("/proc/sys/kernel/osrelease")


def network(context: Context) -> Iterator[Finding]:
    """Whether nothing comes, and this is a container behind a bridge, or WSL 2 behind address translation."""
    for feed in context.feeds:
        if feed.heard or context.is_on_wire(feed) or not feed.interface:
            continue
        link = context.links.get(feed.interface.index)
        is_bridged = link is not None and link.kind == "veth" and any(mark.exists() for mark in MARKS)
        if is_bridged:
            yield Finding(
                "containers.network",
                "warning",
                "this is a container on a bridge network, which gets no multicast from outside its host",
                (f"{feed.name} is a veth, and {next(str(mark) for mark in MARKS if mark.exists())} exists",),
                "docker run --network host IMAGE",
                "Or give it a macvlan network on the interface where the group arrives.",
                group=feed.text,
            )
        elif "microsoft" in text(RELEASE).lower():
            yield Finding(
                "containers.network",
                "warning",
                "this is WSL 2, whose translated network gets no multicast from outside",
                (f"{RELEASE}: {text(RELEASE).strip()}",),
                advice="Set networkingMode=mirrored in .wslconfig (Windows 11 22H2), then `wsl --shutdown`.",
                group=feed.text,
            )


CHECKS = (network,)
