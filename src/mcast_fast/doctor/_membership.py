"""What was joined, against what arrives: interface, source, port; limits, versions, and who else has the port."""

import errno
import ipaddress
import itertools
import os
from collections import defaultdict
from collections.abc import Iterator
from shlex import quote

from mcast_fast._host import igmp_version, port_users
from mcast_fast._host.links import ABOVE_MEMBERS
from mcast_fast.doctor._context import Context
from mcast_fast.doctor._feeds import Feed
from mcast_fast.doctor._finding import Finding
from mcast_fast.doctor._listening import NO_FAMILY
from mcast_fast.doctor._readings import setting
from mcast_fast.errors import DOCTOR, SocketError

SHOWN = 10  # sockets
INDEX_FIELDS = {4: "imr_ifindex of IP_ADD_MEMBERSHIP", 6: "ipv6mr_interface of IPV6_JOIN_GROUP"}
IN_USE = (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE))


def refused(context: Context) -> Iterator[Finding]:
    """Why the groups could not be joined."""
    error = context.listening.refusal
    if error is None:
        return
    number = error.errno if isinstance(error, SocketError) else 0
    operation = error.operation if isinstance(error, SocketError) else ""
    if operation == "bind" and number in IN_USE:
        yield from _port_taken(context, str(error))
        return
    is_limit = operation in ("join", "filter") and number == errno.ENOBUFS and _beyond(context)
    if number not in NO_FAMILY and not is_limit:
        yield Finding("membership.refused", "problem", "the system refuses the membership", (str(error),))


def _port_taken(context: Context, error: str) -> Iterator[Finding]:
    """Who has the port without sharing it."""
    for port, users in context.before.users.items():
        known = context.owned(users.values())
        group = next(feed.text for feed in context.feeds if feed.port == port)
        pids = sorted({user.pid for user in known if user.pid})
        is_one = len(pids) == 1 and pids != [os.getpid()]
        if not known and len(context.before.users) > 1:
            continue
        yield Finding(
            "membership.port-taken",
            "problem",
            f"another socket holds port {port} without sharing it",
            (*(port_users.describe(user) for user in known), error.replace(f"; {DOCTOR}", "")),
            f"kill {pids[0]}" if is_one else f"ss -ulpn 'sport = :{port}'",
            ("This ends that program." if is_one else "This lists those that have it; end them.")
            + " Or have them set SO_REUSEADDR before they bind, or use another port.",
            group=group,
        )


def _beyond(context: Context) -> list[tuple[str, str, int, int, str]]:
    """Limits that the groups are beyond: id, sysctl, how many, the limit, what."""
    found: list[tuple[str, str, int, int, str]] = []
    groups: dict[tuple[int, str, int], set[str]] = defaultdict(set)
    sources: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    for feed in context.feeds:
        groups[feed.group.version, feed.name, feed.port].add(feed.group.address)
        if feed.group.source:
            sources[feed.group.address, feed.name, feed.port].add(feed.group.source)
    limit = setting("ipv4/igmp_max_memberships")
    most = max((len(one) for (version, *_), one in groups.items() if version == 4), default=0)
    if limit is not None and most > limit:
        found.append(("membership.limit", "net.ipv4.igmp_max_memberships", most, limit, "groups"))
    for version, name in ((4, "ipv4/igmp_max_msf"), (6, "ipv6/mld_max_msf")):
        limit = setting(name)
        most = max((len(one) for (group, *_), one in sources.items() if (":" in group) is (version == 6)), default=0)
        if limit is not None and most > limit:
            found.append(("membership.source-limit", f"net.{name.replace('/', '.')}", most, limit, "sources"))
    return found


def limits(context: Context) -> Iterator[Finding]:
    """Whether there are more groups or sources than one socket may hold."""
    for name, sysctl, count, limit, what in _beyond(context):
        error = context.listening.refusal
        yield Finding(
            name,
            "problem" if error is not None else "warning",
            f"{count} {what} are more than one socket may hold",
            (f"{sysctl} = {limit}", *([str(error)] if error is not None else [])),
            f"sysctl -w {sysctl}={count}",
            "Or let a Receiver spread them over several sockets, as it does by default (spread=True).",
        )


def old_version(context: Context) -> Iterator[Finding]:
    """Whether a source-specific join reaches the network as an any-source one."""
    done: set[tuple[int, str]] = set()
    for feed in context.feeds:
        key = (feed.group.version, feed.name)
        if not (feed.group.source or feed.group.is_ssm) or not feed.name or key in done:
            continue
        done.add(key)
        if reason := igmp_version.obstacle(*key):
            command = igmp_version.lift(reason)
            yield Finding(
                "membership.old-version",
                "warning" if feed.heard else "problem",
                "the network is asked for every source of the group, not for this one: IGMP or MLD is too old",
                (reason,),
                command,
                "" if command else "Set the querier, a router or a switch, to IGMPv3 (MLDv2 for IPv6).",
                group=feed.text,
            )


def wrong_interface(context: Context) -> Iterator[Finding]:
    """Whether the packets arrive at another interface than the one that was joined."""
    for feed in context.feeds:
        if feed.heard or not feed.name or not context.is_opened(feed):
            continue
        if kind_and_name := _above(context, feed):
            yield _joined_on_a_port(feed, *kind_and_name)
            continue
        if feed.arrived():
            continue
        counts: dict[str, int] = defaultdict(int)
        for (name, source), count in feed.elsewhere.items():
            if name not in ("", feed.name) and feed.group.source in (None, source):
                counts[name] += count
        for frame, count in feed.arrived(here=False) if not counts else ():
            if feed.group.source in (None, frame.source) and not _is_port(context, frame.interface):
                counts[frame.interface] += count
        for name, count in sorted(counts.items(), key=lambda one: -one[1])[:1]:
            has_zone = feed.group.interface is not None
            is_ipv6 = feed.group.version == 6
            yield Finding(
                "membership.no-zone" if is_ipv6 and not has_zone else "membership.wrong-interface",
                "problem",
                f"the packets arrive at {name}, and the group is joined on {feed.name}"
                + ("" if has_zone else ", which the routing table names"),
                (f"{count} packets at {name}, none at {feed.name}",),
                feed.call(feed.at(name)),
                f"Or in another program: name {name} where it joins ({INDEX_FIELDS[feed.group.version]}).",
                group=feed.text,
            )


def _above(context: Context, feed: Feed) -> tuple[str, str] | None:
    """The kind and name of what takes all packets of the feed's interface."""
    link = context.links.get(feed.interface.index) if feed.interface is not None else None
    above = context.links.get(link.master) if link is not None else None
    if link is None or above is None or above.kind not in ABOVE_MEMBERS:
        return None
    return next(((above.kind, one.name) for one in context.interfaces if one.index == link.master), None)


def _joined_on_a_port(feed: Feed, kind: str, name: str) -> Finding:
    count = sum(count for _, count in feed.arrived())
    return Finding(
        "membership.wrong-interface",
        "problem",
        f"{feed.name} is part of the {kind} {name}, which gets all its packets; the group is joined on {feed.name}",
        (f"`ip link show {quote(feed.name)}`: master {name}", f"{count} packets at {feed.name}"),
        feed.call(feed.at(name)),
        f"Or in another program: name {name} where it joins ({INDEX_FIELDS[feed.group.version]}).",
        group=feed.text,
    )


def _is_port(context: Context, name: str) -> bool:
    """Whether an interface is part of a bridge or bond, where nothing is joined."""
    return any(
        one.name == name and (link := context.links.get(one.index)) is not None and bool(link.master)
        for one in context.interfaces
    )


def wrong_source(context: Context) -> Iterator[Finding]:
    """Whether only other sources send to the group."""
    for feed in context.feeds:
        wanted, sources = feed.group.source, feed.sources
        if wanted is None or feed.heard or not sources or wanted in sources or not context.is_opened(feed):
            continue
        yield Finding(
            "membership.wrong-source",
            "problem",
            f"the group is sent by {', '.join(sources[:3])}, not by {wanted}",
            (f"packets at {feed.name} from {', '.join(sources[:10])}; none from {wanted}",),
            feed.call(feed.at(None, source=sources[0])),
            group=feed.text,
        )


def joined_elsewhere(context: Context) -> Iterator[Finding]:
    """Whether the programs of this host that want the group joined it where its packets do not arrive."""
    for feed in context.feeds:
        names = context.before.joined.get(feed.group.address, {})
        if not names or not feed.name or feed.name in names or not (feed.heard or feed.arrived()):
            continue
        users = _users(context, feed)
        yield Finding(
            "membership.joined-elsewhere",
            "warning",
            f"programs here joined the group on {', '.join(sorted(names))}, and its packets arrive at {feed.name}",
            (
                f"/proc/net/{'igmp' if feed.group.version == 4 else 'igmp6'}, before the doctor joined: "
                f"{', '.join(sorted(names))}",
                *(port_users.describe(user) for user in users),
            ),
            feed.call(),
            f"Without this library: name {feed.name} where they join ({INDEX_FIELDS[feed.group.version]}).",
            group=feed.text,
        )


def bound_to_host(context: Context) -> Iterator[Finding]:
    """Whether a program on the port is bound to an address of a host, where no group's packets go."""
    done: set[tuple[int, int]] = set()
    for feed in context.feeds:
        if (key := (feed.group.version, feed.port)) in done:
            continue
        done.add(key)
        bound = [one for one in port_users.on_port(feed.group.address, feed.port) if not _takes_groups(one.address)]
        for user in port_users.with_owners(bound[:1]):
            yield Finding(
                "membership.bound-to-host",
                "warning",
                f"{port_users.describe(user)} gets no packets of groups: it is bound to an address of this host",
                (f"sockets on port {feed.port} that are bound so: {', '.join(one.address for one in bound[:10])}",),
                f'sock.bind(("{feed.group.address}", {feed.port}))',
                "In that program, if it is to receive the group; or bind no address at all.",
                group=feed.text,
            )


def _users(context: Context, feed: Feed) -> list[port_users.PortUser]:
    """Some sockets that were on its port."""
    return context.owned(itertools.islice(context.before.users.get(feed.port, {}).values(), SHOWN))


def not_joined(context: Context) -> Iterator[Finding]:
    """Whether a program is bound to the group, and none had joined it."""
    for feed in context.feeds:
        users = context.before.users.get(feed.port, {}).values()
        bound = [one for one in users if one.address == feed.group.address]
        if not bound or not feed.heard or context.before.joined.get(feed.group.address):
            continue
        yield Finding(
            "membership.not-joined",
            "warning",
            f"{port_users.describe(context.owned(bound[:1])[0])} is not a member of the group: nobody had joined it "
            "before the doctor did",
            (f"/proc/net/{'igmp' if feed.group.version == 4 else 'igmp6'}, before: no membership of the group",),
            feed.call(watch=True),
            "It never joined, or its interface was removed and made again, which ends memberships. Start it again; "
            "watch=True joins again by itself.",
            group=feed.text,
        )


def filtered(context: Context) -> Iterator[Finding]:
    """Whether the programs that joined the group want other sources than those that send."""
    for feed in context.feeds:
        wanted = context.before.included.get((feed.group.address, feed.name), {})
        members = context.before.joined.get(feed.group.address, {}).get(feed.name, 0)
        if not wanted or max(wanted.values()) < members or not feed.heard or set(wanted) & set(feed.heard):
            continue
        users = _users(context, feed)
        yield Finding(
            "membership.filtered-elsewhere",
            "warning",
            f"programs here joined the group for {', '.join(sorted(wanted)[:3])}, and {', '.join(feed.sources[:3])} "
            "sends it",
            (
                f"/proc/net/{'mcfilter' if feed.group.version == 4 else 'mcfilter6'}, before the doctor joined: "
                f"{', '.join(sorted(wanted)[:10])}",
                *(port_users.describe(user) for user in users),
            ),
            feed.call(feed.at(None, source=feed.sources[0])),
            "In those programs; or without a source, to take any.",
            group=feed.text,
        )


def _takes_groups(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return parsed.is_multicast or parsed.is_unspecified


def wrong_port(context: Context) -> Iterator[Finding]:
    """Whether the group is sent to another port."""
    for feed in context.feeds:
        if feed.heard or feed.arrived() or not context.is_opened(feed):
            continue
        ports: dict[int, int] = defaultdict(int)
        for frame, count in feed.frames.items():
            if not frame.is_outgoing and frame.interface == feed.name and frame.port and not frame.vlan:
                ports[frame.port] += count
        for port, count in sorted(ports.items(), key=lambda one: -one[1])[:1]:
            yield Finding(
                "membership.wrong-port",
                "problem",
                f"the group is sent to port {port}, not to {feed.port}",
                (f"{count} packets to port {port} at {feed.name}, none to {feed.port}",),
                feed.call(feed.at(None, port=port)),
                group=feed.text,
            )


CHECKS = (
    refused,
    limits,
    old_version,
    wrong_interface,
    wrong_source,
    wrong_port,
    joined_elsewhere,
    bound_to_host,
    not_joined,
    filtered,
)
