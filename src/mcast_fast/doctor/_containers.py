"""Containers and virtual machines, whose networks carry no multicast from outside."""

from collections.abc import Iterator
from pathlib import Path

from mcast_fast._host.stack_counters import text
from mcast_fast.doctor._context import Context
from mcast_fast.doctor._finding import Finding

MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))  # Docker, Podman
FIRMWARE = Path("/sys/class/dmi/id")
TUNNEL = "Tunnel it (VXLAN with a list of hosts), or send unicast to each host."
CLOUDS = (  # file, what it contains, whose machine it is, what can be done
    ("sys_vendor", "Amazon EC2", "Amazon EC2", "A transit gateway with a multicast domain carries it. " + TUNNEL),
    ("sys_vendor", "Google", "Google Cloud", TUNNEL),
    ("chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77", "Azure", TUNNEL),
)
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


def cloud(context: Context) -> Iterator[Finding]:
    """Whether nothing comes, and this is a machine of a cloud whose networks carry no multicast."""
    silent = [feed for feed in context.feeds if not feed.heard and not context.is_on_wire(feed)]
    for file, words, name, advice in CLOUDS:
        shown = text(FIRMWARE / file).strip()
        if words not in shown:
            continue
        for feed in silent:
            yield Finding(
                "containers.cloud",
                "warning",
                f"this is a machine of {name}, whose virtual networks carry no multicast by themselves",
                (f"{FIRMWARE / file}: {shown}",),
                advice=advice,
                group=feed.text,
            )
        return


CHECKS = (network, cloud)
