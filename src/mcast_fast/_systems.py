"""What differs between operating systems above the core's own tables: one row per system, chosen once.

Rules of this module: data only, and no imports of ours. It alone reads `sys.platform`; every other module reads SYSTEM.
The numbers of socket options are in `_core/pure/tables.py`, and in the headers for the compiled backend.
"""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple


class FlagCall(NamedTuple):
    """How a system reports an interface's flags: SIOCGIFFLAGS, and the value of IFF_MULTICAST in its answer."""

    request: int
    multicast: int


class System(NamedTuple):
    """One operating system.

    `key`: as the remedies of errors are sorted. `reuse`: the options by which several sockets share a port;
    `reuse_when_taken`: those that share it with programs which set no other, where it is taken.
    `binds_groups`: whether binding a group address is possible, and filters. `buffer_factor`: how much larger than the
    requested SO_RCVBUF is reported; `buffer_remedy`: how to raise its limit. `name_request`: SIOCGIFNAME,
    `ethtool_request`: SIOCETHTOOL, 0 where there is none. `flag_call`: None where flags are guessed. `has_rtnetlink`:
    whether routes are queried by rtnetlink(7). `interface_news`: how changes of interfaces are reported, one of
    _host/news.py; empty where they are not. `has_packet_sockets`: whether there is packet(7). `escape`: what takes a
    letter's meaning away in a command. `own_group`: arguments of subprocess.Popen, so that Ctrl-C is not for the
    program it starts. `selects_files`: whether select() takes descriptors of files and pipes. `missing`: feature -> why
    it is off here.
    """

    name: str
    key: str
    reuse: tuple[str, ...] = ("SO_REUSEADDR", "SO_REUSEPORT")
    reuse_when_taken: tuple[str, ...] = ()
    binds_groups: bool = True
    buffer_factor: int = 1
    buffer_remedy: str = "raise the system's limit of socket buffers"
    name_request: int = 0
    ethtool_request: int = 0
    flag_call: FlagCall | None = None
    has_rtnetlink: bool = False
    interface_news: str = ""
    has_packet_sockets: bool = False
    escape: str = "\\"
    own_group: Mapping[str, Any] = {"process_group": 0}
    selects_files: bool = True
    missing: Mapping[str, str] = {}


# netintro(4) and <sys/sockio.h> of the BSDs: _IOWR('i', 17, struct ifreq), where ifreq has 32 bytes (NetBSD: 144).
BSD_FLAGS = FlagCall(0xC0206911, 0x8000)


def _reporting_less(system: System) -> System:
    """A system that reports less than Linux does: with what is missing there."""
    name = system.name
    missing = {"igmp_version": f"{name} does not report which IGMP or MLD version an interface uses"}
    if not system.interface_news:
        missing["watch"] = f"how {name} reports changes of interfaces is not known to mcast-fast"
    return system._replace(missing=missing | dict(system.missing))


# Linux delivers a group's packets to each socket, with SO_REUSEPORT too, which balances unicast alone (socket(7)). But
# of two that have it a hash of the flow decides which is asked about coalescing: it is set where nothing else helps.
# Linux doubles a buffer for its own bookkeeping, and shows the double. Requests: netdevice(7).
LINUX = System(
    name="Linux",
    key="linux",
    reuse=("SO_REUSEADDR",),
    reuse_when_taken=("SO_REUSEPORT",),
    buffer_factor=2,
    buffer_remedy="raise it with `sysctl -w net.core.rmem_max={}`, or run with CAP_NET_ADMIN",
    name_request=0x8910,
    ethtool_request=0x8946,
    flag_call=FlagCall(0x8913, 0x1000),
    has_rtnetlink=True,
    interface_news="netlink",
    has_packet_sockets=True,
)
DARWIN = _reporting_less(
    System(
        name="macOS",
        key="darwin",
        buffer_remedy="raise it with `sysctl -w kern.ipc.maxsockbuf={}`",
        flag_call=BSD_FLAGS,
        interface_news="routing socket",
    )
)
FREEBSD = _reporting_less(
    System(
        name="FreeBSD",
        key="freebsd",
        buffer_remedy="raise it with `sysctl kern.ipc.maxsockbuf={}`",
        flag_call=BSD_FLAGS,
        interface_news="routing socket",
    )
)
DRAGONFLY = _reporting_less(System(name="DragonFly", key="dragonfly", flag_call=BSD_FLAGS))
OPENBSD = _reporting_less(
    System(
        name="OpenBSD",
        key="openbsd",
        flag_call=BSD_FLAGS,
        interface_news="routing socket",
    )
)
NETBSD = _reporting_less(
    System(
        name="NetBSD",
        key="netbsd",
        flag_call=FlagCall(0xC0906911, 0x8000),
        interface_news="routing socket",
    )
)
WATCHED_BY_64_BITS = "a 32-bit Windows program cannot hand a function of the system to another one (_host/events.py)"
# Binding a group answers WSAEADDRNOTAVAIL (10049); SO_REUSEADDR alone shares a port. A backslash is part of a path.
WINDOWS = _reporting_less(
    System(
        name="Windows",
        key="win32",
        reuse=("SO_REUSEADDR",),
        binds_groups=False,
        escape="",
        own_group={"creationflags": 0x200},  # CREATE_NEW_PROCESS_GROUP
        selects_files=False,
        interface_news="notifications",
        missing={} if sys.maxsize > 2**32 else {"watch": WATCHED_BY_64_BITS},
    )
)

SYSTEMS = {
    "linux": LINUX,
    "android": LINUX._replace(name="Android"),
    "darwin": DARWIN,
    "freebsd": FREEBSD,
    "dragonfly": DRAGONFLY,
    "openbsd": OPENBSD,
    "netbsd": NETBSD,
    "win32": WINDOWS,
}


def find(platform: str) -> System:
    """The row of a `sys.platform`; one without a row can do what every system can.

    >>> find("freebsd14").name
    'FreeBSD'
    """
    unknown = _reporting_less(System(name=platform, key=platform))
    return SYSTEMS.get(platform) or SYSTEMS.get(platform.rstrip("0123456789."), unknown)


SYSTEM = find(sys.platform)
