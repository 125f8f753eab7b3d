"""Why the packets of a group do not come coalesced although a socket has UDP_GRO: one sentence, with the remedy.

The kernel coalesces in the NAPI poll of the interface where a packet arrives first, for the one socket that a lookup
there finds, or for any flow with rx-udp-gro-forwarding (udp_gro_receive in net/ipv4/udp_offload.c).
"""

import contextlib
from collections.abc import Collection

from mcast_fast._host import links, offloads, port_users
from mcast_fast._host.interfaces import Interface, find_interface, interface_name
from mcast_fast.errors import MulticastError


def explain(interface: int, group: str | bytes, port: int, own_inodes: Collection[int]) -> str:
    """Say why no packets to (group, port) come coalesced over an interface.

    It reads what Linux shows of this network namespace, without a privilege: features of the interface and of those
    below it, and the sockets on the port. Never raises; causes that it cannot see it names as possible. Takes a few
    milliseconds, and up to OWNER_SECONDS of `port_users` when it looks for the process of another socket.

    Args:
        interface: The index of the interface that the group is joined on.
        group: Text, or 4 or 16 bytes.
        port: In host byte order.
        own_inodes: Of the sockets that have UDP_GRO: `os.fstat(descriptor).st_ino`.
    """
    found = _find(interface)
    if found is None:
        return f"interface index {interface} does not exist"
    if found.is_loopback:
        return f"{found.name} never coalesces what is sent one packet per call"
    below = links.lowest(interface)
    if below is None:
        return (
            f"{found.name} lies above an interface of another network namespace, which coalesces for sockets of that "
            f"namespace only; there, `ethtool -K <interface> {offloads.UDP_GRO_FORWARDING} on` coalesces for all"
        )
    first = below or [interface]
    reasons = (_no_offload(index) or _other_socket(index, found, group, port, own_inodes) for index in first)
    return next(filter(None, reasons), "") or _possible(first, group, port)


def _find(index: int) -> Interface | None:
    with contextlib.suppress(MulticastError):
        return find_interface(index)
    return None


def _no_offload(index: int) -> str:
    """What is switched off at the interface where packets arrive first; '' when nothing is known to be."""
    if offloads.read(index)[offloads.GRO] is not False:
        return ""
    name = interface_name(index)
    return f"{offloads.GRO} is off on {name}: switch it on with `ethtool -K {name} gro on`"


def _other_socket(index: int, joined: Interface, group: str | bytes, port: int, own_inodes: Collection[int]) -> str:
    """Which socket decides at the interface where packets arrive first; '' when it is ours, or unknown."""
    users = _sockets(index, group, port)
    if users is None or (users and users[0].inode in own_inodes):
        return ""
    if users:
        return f"{port_users.describe(port_users.with_owners(users[:1])[0])} decides, and seems not to have UDP_GRO"
    if offloads.read(index)[offloads.UDP_GRO_FORWARDING] is not False or index == joined.index:
        return ""
    name = interface_name(index)
    return (
        f"{joined.name} lies above {name}, where packets are coalesced, and a socket bound to {joined.name} is not "
        f"found there; without a socket it coalesces by `ethtool -K {name} {offloads.UDP_GRO_FORWARDING} on`"
    )


def _sockets(index: int, group: str | bytes, port: int) -> list[port_users.PortUser] | None:
    """Those that may be found at an interface, the one that decides first; None when their order cannot be known."""
    users = port_users.found_by(group, port, index)
    return None if users is None or any(user.interface is None for user in users) else users


def _possible(first: list[int], group: str | bytes, port: int) -> str:
    """What no reading shows."""
    names = [interface_name(index) for index in first]
    causes = [
        "the sender sends too slowly for several packets to be there at once",
        "its datagrams have no UDP checksum",
    ]
    if any(_depends_on_other_end(index) for index in first):
        causes.insert(0, "the other end of the veth pair has TSO on (`ethtool -K <that end> tso off`)")
    if any(_sockets(index, group, port) is None for index in first):
        causes.insert(0, f"another socket on port {port} decides")
    is_known = all(offloads.read(index)[offloads.GRO] for index in first)
    can = (
        "can coalesce, so perhaps"
        if is_known
        else "may be unable to coalesce (its offloads cannot be read), or perhaps"
    )
    return f"{' and '.join(names)} {can} {', or '.join(causes)}"


def _depends_on_other_end(index: int) -> bool:
    """Whether this is a veth that hands packets to GRO only when its other end has no TSO (drivers/net/veth.c); which
    other end that is, and what it has on, cannot be read from another network namespace."""
    features = offloads.read(index)
    return offloads.driver(interface_name(index)) == "veth" and not (
        features[offloads.UDP_GRO_FORWARDING] or features[offloads.GRO_LIST]
    )
