"""Groups: the grammar of a multicast group in text, its scope, and what else an address shows by itself.

    [SOURCE@]GROUP[%INTERFACE][:PORT][+N], IPv6 in brackets when a port follows

Rules of this module: no I/O. An interface is a text that is not looked up yet; a name is never resolved. Two groups
are equal when they mean the same, for every address is kept in its canonical form (RFC 5952; a v4-mapped IPv6 address
as the IPv4 address in it). Every refusal is a GroupError.
"""

import enum
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from mcast_fast.errors import Argument, ArgumentError, GroupError

__all__ = ["Flags", "Group", "Scope", "is_multicast"]

GRAMMAR = "[SOURCE@]GROUP[%INTERFACE][:PORT][+N], IPv6 in brackets when a port follows"

LARGEST_PORT = 65_535
LONGEST_INTERFACE = 127  # bytes of an alternative name of Linux (ALTIFNAMSIZ, with its NUL)
# What the grammar or a URL reads as the end of an interface. Linux allows '+' and '@' in a name; an index has neither.
NOT_IN_AN_INTERFACE = "+@:%[]/?"
# The decimal digits of 2**128: more cannot be a count, and int() refuses texts of thousands.
MOST_DIGITS = 39

URL_SCHEMES = ("udp", "rtp")
# The options that ffmpeg, VLC and GStreamer users paste, and what says the same here.
URL_OPTIONS: dict[str, tuple[str | Argument, ...]] = {
    "localaddr": ("name the interface after the group: GROUP%INTERFACE:PORT",),
    "iface": ("name the interface after the group: GROUP%INTERFACE:PORT",),
    "multicast-iface": ("name the interface after the group: GROUP%INTERFACE:PORT",),
    "sources": ("name the source before the group: SOURCE@GROUP:PORT",),
    "block": ("block the source on the receiver: block(GROUP, SOURCE)",),
    "ttl": ("pass ", Argument("ttl"), " to the sender"),
    "pkt_size": ("pass ", Argument("size"), " to send_batch"),
    "buffer_size": ("pass ", Argument("buffer_size"), " to the receiver"),
    "fifo_size": ("pass ", Argument("background"), " to the receiver"),
    "timeout": ("pass ", Argument("timeout"), " to the receiver"),
    "reuse": ("pass ", Argument("reuse"), " to the receiver"),
}

Address = IPv4Address | IPv6Address

LAST_MULTICAST: dict[int, Address] = {4: IPv4Address("239.255.255.255"), 6: IPv6Address((1 << 128) - 1)}
BROADCAST = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class Scope:
    """How far packets to a group may travel, or what its block of addresses is for.

    Attributes:
        name: The name of the scope or block.
        reference: The RFC and section that define it.
        network: The block as a prefix or as FIRST-LAST; in IPv6, `x` means any flags.
        forwarded: False where no router may forward the packet, whatever its TTL or hop limit; True promises no route.
    """

    name: str
    reference: str
    network: str
    forwarded: bool = True


# RFC 5771 section 3, with RFC 6034 and the divisions of RFC 2365. Ascending and without a gap: a block ends where the
# next one begins.
IPV4_SCOPES = (
    Scope("local network control", "RFC 5771 section 4", "224.0.0.0/24", forwarded=False),
    Scope("internetwork control", "RFC 5771 section 5", "224.0.1.0/24"),
    Scope("AD-HOC block I", "RFC 5771 section 6", "224.0.2.0-224.0.255.255"),
    Scope("reserved", "RFC 5771 section 3", "224.1.0.0/16"),
    Scope("SDP/SAP", "RFC 5771 section 7", "224.2.0.0/16"),
    Scope("AD-HOC block II", "RFC 5771 section 6", "224.3.0.0-224.4.255.255"),
    Scope("reserved", "RFC 5771 section 3", "224.5.0.0-224.255.255.255"),
    Scope("reserved", "RFC 5771 section 3", "225.0.0.0-231.255.255.255"),
    Scope("source-specific", "RFC 5771 section 8, RFC 4607", "232.0.0.0/8"),
    Scope("GLOP", "RFC 5771 section 9, RFC 3180", "233.0.0.0-233.251.255.255"),
    Scope("AD-HOC block III", "RFC 5771 section 6", "233.252.0.0/14"),
    Scope("unicast-prefix-based", "RFC 6034", "234.0.0.0/8"),
    Scope("reserved", "RFC 5771 section 3", "235.0.0.0-238.255.255.255"),
    Scope(
        "administratively scoped: organisation-local expansion", "RFC 2365 section 6.2.1", "239.0.0.0-239.191.255.255"
    ),
    Scope("administratively scoped: organisation-local", "RFC 2365 section 6.2", "239.192.0.0/14"),
    Scope("administratively scoped", "RFC 5771 section 10, RFC 2365", "239.196.0.0-239.252.255.255"),
    Scope("administratively scoped: local expansion", "RFC 2365 section 6.1.1", "239.253.0.0-239.254.255.255"),
    Scope("administratively scoped: local", "RFC 2365 section 6.1", "239.255.0.0/16"),
)
IPV4_SCOPE_STARTS = [IPv4Address(scope.network.partition("-")[0].partition("/")[0]) for scope in IPV4_SCOPES]

IPV6_SCOPE_NAMES = (
    *(
        "reserved",
        "interface-local",
        "link-local",
        "realm-local",
        "admin-local",
        "site-local",
        "unassigned",
        "unassigned",
    ),
    *("organisation-local", "unassigned", "unassigned", "unassigned", "unassigned", "unassigned", "global", "reserved"),
)
# Indexed by the four bits of the scope field. RFC 4291 section 2.7: packets of scope 0 are dropped on arrival, and
# scope F is treated as E.
IPV6_SCOPES = tuple(
    Scope(name, "RFC 7346 section 2", f"ffx{field:x}::/16", forwarded=field > 2)
    for field, name in enumerate(IPV6_SCOPE_NAMES)
)


class Flags(enum.Flag):
    """The four flag bits of an IPv6 group, by their letters; an IPv4 group has no flags.

    RFC 4291 section 2.7 (T), RFC 3306 section 4 (P), RFC 3956 section 3 (R), RFC 7371 (X).
    """

    T = 1
    """Transient: not assigned permanently by IANA."""
    P = 2
    """Derived from a unicast prefix, or source-specific when that prefix is empty."""
    R = 4
    """Holds the address of its rendezvous point."""
    X = 8
    """Reserved."""

    @property
    def is_valid(self) -> bool:
        """Whether the RFCs allow the combination: R needs P, and P needs T; X may be anything."""
        return self & ~Flags.X in (Flags(0), Flags.T, Flags.P | Flags.T, Flags.R | Flags.P | Flags.T)


@dataclass(frozen=True, slots=True)
class Group:
    """A multicast group, or a run of consecutive ones, with what a receiver or sender needs to join it.

    A Group made directly is checked as strictly as a parsed one. `scope`, `flags`, `packed` and `is_ssm` are those of
    the first group of a run.

    Args:
        address: The group's address, without a zone; it is kept in its canonical form.
        port: UDP port, 1 to 65,535; None: left to the receiver or sender.
        interface: A name, an index or an IPv4 address as text; None: left to the receiver or sender.
        source: The address of the only source to receive, or the address to send from; None: any.
        count: The number of consecutive groups from `address` on.

    Raises:
        GroupError: A value cannot be; the message names it and the remedy.
    """

    address: str
    port: int | None = None
    interface: str | None = None
    source: str | None = None
    count: int = 1

    def __post_init__(self) -> None:
        address = group_address(self.address)
        object.__setattr__(self, "address", str(address))
        if self.port is not None:
            check_port(self.port)
        if self.interface is not None:
            check_interface(self.interface)
        if self.source is not None:
            object.__setattr__(self, "source", str(source_address(self.source, address)))
        check_count(self.count, address)

    @classmethod
    def parse(cls, text: str) -> "Group":
        """Parse a group: `[SOURCE@]GROUP[%INTERFACE][:PORT][+N]`, or a udp:// or rtp:// URL of it.

        IPv6 addresses are in brackets when a port follows, with the interface inside or behind them; `+N` means N
        consecutive groups in total.

        Args:
            text: The text.

        Returns:
            The Group.

        Raises:
            GroupError: It is no such text; the message names the text, what is wrong with it, and the remedy.

        Examples:
            >>> Group.parse("10.0.0.5@232.1.1.1%eth0:5000")
            Group(address='232.1.1.1', port=5000, interface='eth0', source='10.0.0.5', count=1)
            >>> str(Group.parse("udp://@[FF15::0:1%eth0]:5000/"))
            '[ff15::1%eth0]:5000'
        """
        require_text("group", text)
        try:
            return parsed(text)
        except GroupError as error:
            raise GroupError(f"group {text!r}: ", *error.args) from None

    @classmethod
    def coerce(cls, value: "str | Group") -> "Group":
        """Return a Group as it is, and parse a text.

        Args:
            value: A Group, or a text for `parse`.

        Returns:
            The Group.

        Raises:
            GroupError: As for `parse`.
        """
        return value if isinstance(value, Group) else cls.parse(value)

    def __str__(self) -> str:
        """The canonical text: `Group.parse(str(group)) == group`."""
        source = "" if self.source is None else f"{self.source}@"
        target = self.address if self.interface is None else f"{self.address}%{self.interface}"
        if self.port is not None:
            target = f"[{target}]:{self.port}" if self.version == 6 else f"{target}:{self.port}"
        return source + target + (f"+{self.count}" if self.count > 1 else "")

    @property
    def version(self) -> int:
        """The IP version, 4 or 6."""
        return 6 if ":" in self.address else 4

    @property
    def packed(self) -> bytes:
        """The address in 16 bytes, as in a record: IPv4 is v4-mapped, `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2)."""
        packed = ip_address(self.address).packed
        return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed

    @property
    def is_ssm(self) -> bool:
        """Whether the address is source-specific, 232.0.0.0/8 or ff3x::/32, so that joins need a source (RFC 4607)."""
        packed = ip_address(self.address).packed
        if len(packed) == 4:
            return packed[0] == 232
        return packed[1] >> 4 == 3 and packed[2:4] == b"\0\0"

    @property
    def scope(self) -> Scope:
        """The block of RFC 5771 that holds an IPv4 group, or the scope of RFC 7346 that an IPv6 group carries."""
        address = ip_address(self.address)
        if isinstance(address, IPv4Address):
            return IPV4_SCOPES[bisect_right(IPV4_SCOPE_STARTS, address) - 1]
        return IPV6_SCOPES[address.packed[1] & 0xF]

    @property
    def flags(self) -> Flags:
        """The flags that an IPv6 group carries; none for IPv4."""
        return Flags(ip_address(self.address).packed[1] >> 4) if self.version == 6 else Flags(0)

    def expand(self) -> Iterator["Group"]:
        """Iterate over the groups of the run, each with the same port, interface and source.

        Returns:
            An iterator over `count` Groups, each made when it is needed.
        """
        first = ip_address(self.address)
        return (replace(self, address=str(first + offset), count=1) for offset in range(self.count))


Groups: TypeAlias = str | Group | Iterable[str | Group]
"""What a class takes for each of its `*groups`: one group, or a sequence of them."""


def listed(groups: Iterable[Groups]) -> tuple[str | Group, ...]:
    """The groups of a call, of which each argument may be a sequence: `Receiver("a", "b")` and `Receiver(["a", "b"])`.

    What is neither text nor a Group nor a sequence stays as it is: `Group.coerce` refuses it by its name."""
    found: list[str | Group] = []
    for one in groups:
        if isinstance(one, str | bytes | Group) or not isinstance(one, Iterable):
            found.append(one)
        else:
            found += one
    return tuple(found)


def at_least_one(groups: Iterable[Groups]) -> tuple[str | Group, ...]:
    """The groups of a call that needs one; ArgumentError."""
    found = listed(groups)
    if not found:
        raise ArgumentError("no group given; name at least one, such as '239.1.1.1%eth0:5000'")
    return found


def is_multicast(address: str | bytes | IPv4Address | IPv6Address) -> bool:
    """Return whether an address is multicast: in 224.0.0.0/4 (RFC 5771) or ff00::/8 (RFC 4291).

    Args:
        address: Text, which may have a zone (`ff02::1%eth0`); a packed address of 4 or 16 bytes; or an object of the
            module ipaddress. A v4-mapped IPv6 address counts as the IPv4 address in it.

    Returns:
        True for a multicast address, False for any other one.

    Raises:
        GroupError: It is no address at all.
    """
    return as_address(address).is_multicast


def as_address(value: object) -> Address:
    """`value`, in any of the forms that `is_multicast` takes, as a canonical address."""
    if isinstance(value, str):
        text, percent, zone = value.partition("%")
        if percent:
            check_interface(zone)
        return text_address(text, "address")
    if not isinstance(value, bytes | IPv4Address | IPv6Address):
        raise GroupError(f"{value!r} is not an IP address; give text, packed bytes or an ipaddress object")
    try:
        return without_mapping(ip_address(value))
    except ValueError:
        raise GroupError(f"{value!r} is not a packed IP address; give 4 bytes for IPv4 or 16 for IPv6") from None


def text_address(text: str, what: str = "") -> Address:
    """The address that `text` spells, without a zone; `what` it is meant for, where the message is to say so."""
    try:
        return without_mapping(IPv6Address(text) if ":" in text else IPv4Address(text))
    except ValueError as error:
        remedy = "write digits as in 239.1.1.1 or ff15::1; names are not looked up"
        if ":" in text:
            remedy = f"write {GRAMMAR}" if "." in text else "a port goes behind brackets: [ff15::1]:5000"
        named = f"{what} {text!r} is " if what else ""  # elsewhere the reason has the text
        raise GroupError(f"{named}not an IP address ({error}); {remedy}") from None


def without_mapping(address: Address) -> Address:
    """The IPv4 address inside a v4-mapped one, or else `address`."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def kind(address: Address) -> str:
    """What sort of address it is, in words for a message."""
    if address.is_multicast:
        return "a multicast address"
    if address.is_unspecified:
        return "the unspecified address"
    return "the broadcast address" if address == BROADCAST else "a unicast address"


def group_address(value: object) -> Address:
    """`value` as the address of a group, checked."""
    text = require_text("group", value)
    if "%" in text:
        raise GroupError(f"{text} carries a zone; give it as ", Argument("interface"))
    address = text_address(text)
    if not address.is_multicast:
        raise GroupError(f"{address} is {kind(address)}; multicast is 224.0.0.0/4 and ff00::/8")
    return address


def source_address(value: object, group: Address) -> Address:
    """`value` as the address of a source of `group`, checked."""
    text = require_text("source", value)
    host, percent, zone = text.partition("%")
    if percent:
        raise GroupError(f"source {text} carries a zone; the interface goes after the group: {host}@{group}%{zone}")
    address = text_address(host, "source")
    if address.is_multicast or address.is_unspecified or address == BROADCAST:
        raise GroupError(f"source {address} is {kind(address)}; name the sender's own, a unicast address")
    if address.version != group.version:
        raise GroupError(
            f"source {address} is IPv{address.version} and group {group} is IPv{group.version}; use one family for both"
        )
    return address


def check_port(port: object) -> None:
    """Refuse what is not a UDP port that one can join or send to."""
    number = require_integer("port", port)
    if number == 0:
        raise GroupError(f"port 0 means any free port, and a group needs a certain one; use 1 to {LARGEST_PORT}")
    if not 0 < number <= LARGEST_PORT:
        raise GroupError(f"port {number} is out of range; use 1 to {LARGEST_PORT}")


def check_interface(interface: object) -> None:
    """Refuse what cannot name an interface in the grammar; whether it exists is checked elsewhere."""
    name = require_text("interface", interface)
    if not name:
        raise GroupError("the interface after '%' is empty; give a name or an index, or leave out the '%'")
    if len(name) > LONGEST_INTERFACE:
        raise GroupError(f"interface {name!r} has more than {LONGEST_INTERFACE} characters; use its index")
    for character in name:
        shows = character.isprintable() or "\udc80" <= character <= "\udcff"  # os.fsdecode: a byte that is no UTF-8
        if character in NOT_IN_AN_INTERFACE or character.isspace() or not shows:
            raise GroupError(
                f"interface {name!r} holds {character!r}, which a group's interface may not; use its index, "
                f"and mind the order {GRAMMAR}"
            )


def check_count(count: object, first: Address) -> None:
    """Refuse a run of groups from `first` that is empty or leaves the multicast addresses."""
    number = require_integer("count", count)
    if number < 1:
        raise GroupError(f"count {number} is out of range; +N is the number of groups in total, at least 1")
    last = LAST_MULTICAST[first.version]
    room = int(last) - int(first) + 1
    if number > room:
        raise GroupError(f"count {number} runs past {last}, the last group; use at most {room} from {first} on")


def require_text(what: str, value: object) -> str:
    """`value`, which has to be text."""
    if not isinstance(value, str):
        raise GroupError(f"{what} {value!r} is not text; give it as a str")
    return value


def require_integer(what: str, value: object) -> int:
    """`value`, which has to be an integer."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise GroupError(f"{what} {value!r} is not an integer; give it as an int")
    return value


def parsed(text: str) -> Group:
    """`Group.parse` without the text in its errors."""
    body = without_url(text.strip())
    if not body:
        raise GroupError(f"nothing is named; write {GRAMMAR}")
    body, plus, count = body.partition("+")
    source, at, target = body.partition("@") if "@" in body else ("", "", body)
    host, port = split_port(target)
    address, percent, interface = host.partition("%")
    if at and is_group(source) and not is_group(address):
        raise GroupError(f"the source goes before the group: {target.replace(address, f'{address}@{source}', 1)}")
    return Group(
        address,
        None if port is None else decimal("port", port),
        interface if percent else None,
        split_source(source) if at else None,
        decimal("count", count) if plus else 1,
    )


def is_group(text: str) -> bool:
    """Whether it spells the address of a group."""
    try:
        return ip_address(text).is_multicast
    except ValueError:
        return False


def without_url(text: str) -> str:
    """`text` without the scheme, the empty user and the closing slash of a URL; other texts as they are.

    An option of a URL is refused rather than ignored, for its author expects it to act.
    """
    scheme, separator, body = text.partition("://")
    if not separator:
        return text
    if scheme.lower() not in URL_SCHEMES:
        raise GroupError(f"scheme {scheme!r} is not known; use udp://, rtp:// or the group alone")
    body, _, query = body.partition("?")
    if query:
        name = query.partition("&")[0].partition("=")[0]
        raise GroupError(f"URL option {name!r} is not understood here; ", *URL_OPTIONS.get(name, ("remove it",)))
    body = body.removesuffix("/").removeprefix("@")
    if is_bare_ipv6(body.rpartition("@")[2]):
        raise GroupError("an IPv6 group in a URL needs brackets: udp://[ff15::1]:5000")
    return body


def is_bare_ipv6(target: str) -> bool:
    """Whether `target` begins with an IPv6 address that is not in brackets, so that every colon belongs to it."""
    return not target.startswith("[") and target.partition("%")[0].count(":") > 1


def split_port(target: str) -> tuple[str, str | None]:
    """`A%I:P`, `[A%I]:P` or `[A]%I:P` as `A%I` and `P`; a port that was not said is None."""
    if is_bare_ipv6(target):
        address, _, zone = target.partition("%")
        if ":" in zone:
            interface, _, port = zone.partition(":")
            raise GroupError(f"IPv6 needs brackets when a port follows: [{address}%{interface}]:{port}")
        return target, None
    if not target.startswith("["):
        host, colon, port = target.partition(":")
        number, percent, interface = port.partition("%")
        if percent and interface and "%" not in host:
            raise GroupError(f"the interface goes before the port: {host}%{interface}:{number}")
        return host, port if colon else None
    inside, closing, tail = target[1:].partition("]")
    zone, colon, port = tail.partition(":")
    if not closing or zone[:1] not in ("", "%"):
        raise GroupError(f"{target!r} has brackets amiss; write [ff15::1%eth0]:5000")
    if ":" not in inside:
        raise GroupError(f"brackets are for IPv6, and {inside!r} is not; leave them out")
    return inside + zone, port if colon else None


def split_source(text: str) -> str:
    """The source before the '@', out of its brackets if it has any."""
    if not text:
        raise GroupError("the source before '@' is empty; name it, or leave out the '@'")
    source, port = split_port(text)
    if port is not None:
        raise GroupError(f"source {text} has a port; the port goes after the group")
    return source


def decimal(what: str, text: str) -> int:
    """The number that `text` spells in ASCII digits."""
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        raise GroupError(f"{what} {text!r} is not a decimal number of at most {MOST_DIGITS} digits; write {GRAMMAR}")
    return int(text)
