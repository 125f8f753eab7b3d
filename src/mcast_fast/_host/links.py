"""What an interface is made of: its kind, and the interfaces that it lies above (ip-link(8), rtnetlink(7)).

Rules of this module: nothing is raised; what cannot be read is None.
"""

import contextlib
from dataclasses import dataclass

from mcast_fast._host import dumps, netlink

# Kinds whose packets arrive at another interface first: at IFLA_LINK, or at those whose IFLA_MASTER they are. The
# IFLA_LINK of a veth is its other end, that of a tunnel what it sends by.
ABOVE_ONE = frozenset({"vlan", "macvlan", "macvtap", "ipvlan"})
ABOVE_MEMBERS = frozenset({"bridge", "bond", "team"})
# What ETHTOOL_GDRVINFO calls these kinds (drivers/net, net/8021q/vlan_dev.c, net/bridge/br_device.c).
DRIVERS_ABOVE = frozenset({"802.1Q VLAN Support", "macvlan", "ipvlan", "bridge", "bonding", "team"})


@dataclass(frozen=True, slots=True)
class Link:
    """One interface, as RTM_GETLINK describes it.

    `kind`: as `ip -d link` shows it, '' for hardware. `lower`: IFLA_LINK, 0 without one, None when it is in another
    network namespace. `master`: the bridge or bond that it is part of, 0 without one. `snooping`, `querier`: whether a
    bridge forwards groups only to ports that reported them, and whether it sends queries; None for what is no bridge.
    `xdp`: the XDP programs that get its packets first, each as its way of `ip link set dev … xdpdrv off` and its id.
    """

    kind: str
    lower: int | None
    master: int
    snooping: bool | None = None
    querier: bool | None = None
    xdp: tuple[tuple[str, int], ...] = ()


def lowest(index: int) -> list[int] | None:
    """The indexes of the interfaces at which the packets of one arrive first: those below it that lie above none.

    Returns:
        An empty list for one that lies above none itself, also when there is no such interface or netlink is refused;
        None when what is below is in another network namespace, as with a container's macvlan.
    """
    every: dict[int, Link] = {}
    with contextlib.suppress(OSError):
        every = read()
    found: dict[int, list[int]] = {}
    waiting = [index]
    while waiting:
        one = waiting.pop()
        below = _below(one, every)
        if below is None:
            return None
        found[one] = below
        waiting += [number for number in below if number not in found]
    return sorted(number for number, below in found.items() if not below and number != index)


def _below(index: int, every: dict[int, Link]) -> list[int] | None:
    link = every.get(index)
    if link is not None and link.kind in ABOVE_MEMBERS:
        return [number for number, member in every.items() if member.master == index]
    if link is None or link.kind not in ABOVE_ONE:
        return []
    return [link.lower] if link.lower in every else None


def read() -> dict[int, Link]:
    """Every interface of the calling thread's network namespace by index. Raises OSError."""
    return dict(
        link
        for kind, body in dumps.dump(netlink.NETLINK_ROUTE, netlink.RTM_GETLINK, netlink.IFINFOMSG.pack(0, 0, 0, 0, 0))
        if kind == netlink.RTM_NEWLINK and (link := parse(body)) is not None
    )


def parse(body: memoryview) -> tuple[int, Link] | None:
    """Index and description in the body of an RTM_NEWLINK; None when it is cut short. Any bytes can be given."""
    if len(body) < netlink.IFINFOMSG.size:
        return None
    _, _, index, _, _ = netlink.IFINFOMSG.unpack_from(body)
    values = dict(netlink.attributes(body[netlink.IFINFOMSG.size :]))
    info = _nested(values, netlink.IFLA_LINKINFO)
    data = _nested(info, netlink.IFLA_INFO_DATA)
    kind = bytes(info.get(netlink.IFLA_INFO_KIND, b"")).rstrip(b"\0").decode(errors="replace")
    is_bridge = kind == "bridge"
    return index, Link(
        kind=kind,
        lower=None if netlink.IFLA_LINK_NETNSID in values else _number(values.get(netlink.IFLA_LINK)),
        master=_number(values.get(netlink.IFLA_MASTER)),
        snooping=_flag(data.get(netlink.IFLA_BR_MCAST_SNOOPING)) if is_bridge else None,
        querier=_flag(data.get(netlink.IFLA_BR_MCAST_QUERIER)) if is_bridge else None,
        xdp=_programs(_nested(values, netlink.IFLA_XDP)),
    )


# rtnl_xdp_fill() in net/core/rtnetlink.c: an id for each way, and IFLA_XDP_PROG_ID where there is one program alone.
XDP_WAYS = {
    netlink.IFLA_XDP_DRV_PROG_ID: "xdpdrv",
    netlink.IFLA_XDP_SKB_PROG_ID: "xdpgeneric",
    netlink.IFLA_XDP_HW_PROG_ID: "xdpoffload",
}


def _programs(xdp: dict[int, memoryview]) -> tuple[tuple[str, int], ...]:
    found = tuple((way, number) for attribute, way in XDP_WAYS.items() if (number := _number(xdp.get(attribute))))
    alone = _number(xdp.get(netlink.IFLA_XDP_PROG_ID))
    return found or ((("xdp", alone),) if alone else ())


def _nested(values: dict[int, memoryview], attribute: int) -> dict[int, memoryview]:
    return dict(netlink.attributes(values.get(attribute, memoryview(b""))))


def _flag(value: memoryview | None) -> bool | None:
    return None if value is None or not len(value) else value[0] != 0


def _number(value: memoryview | None) -> int:
    return netlink.U32.unpack(value)[0] if value is not None and len(value) == netlink.U32.size else 0
