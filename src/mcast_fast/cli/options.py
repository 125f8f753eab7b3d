"""The options that verbs share, each described once: `@shared("interface", "port", "timeout")`.

A time is seconds, or has a unit (100ms, 5min). A rate is datagrams per second, or has a unit (50k, 50kpps, 800Mbit/s,
10Mbps). A size has a unit (64MiB).
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from mcast_fast import _core
from mcast_fast._units import duration_in_ns, rate_of, size_in_bytes
from mcast_fast.cli import match
from mcast_fast.errors import ArgumentError, GroupError, MulticastError

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # generic from click 8.4 on
    _ParamType = click.ParamType

T = TypeVar("T", bound=Callable[..., Any])

NO_BACKGROUND = "none"

# RFC 2474, 2597, 3246, 5865, 8622: the names that tc, iptables and iperf know too.
DSCP_NAMES = {
    **{f"CS{number}": number * 8 for number in range(8)},
    **{f"AF{row}{column}": row * 8 + column * 2 for row in range(1, 5) for column in range(1, 4)},
    "EF": 46,
    "VA": 44,
    "LE": 1,
    "BE": 0,
}


# Types ---------------------------------------------------------------------------------------------------------------


class Parsed(_ParamType):
    """A value that a function reads, whose ArgumentError is a usage error of the option."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value of a text; what is none (a default) stays as it is."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except MulticastError as error:
            self.fail(str(error).removeprefix("value ").removeprefix("address "), param, ctx)


def _seconds(text: str) -> float:
    if text.lstrip().startswith("-"):
        raise ArgumentError(f"{text!r} is negative")
    return duration_in_ns(text, "value") / 1e9


def _longer_than_nothing(text: str) -> float:
    seconds = _seconds(text)
    if not seconds:
        raise ArgumentError(f"{text!r} is no time; use more than 0, such as 100ms")
    return seconds


def _up_to(longest: float, named: str, text: str) -> float:
    seconds = _longer_than_nothing(text)
    if seconds > longest:
        raise ArgumentError(f"{text!r} is too long; use up to {named}")
    return seconds


def _rate(text: str) -> float | str:
    try:
        rate: float | str = float(text)
    except ValueError:
        rate = text
    rate_of(rate, "value")
    return rate


def _speed(text: str) -> float:
    try:
        speed = float(text.strip().removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise ArgumentError(f"{text!r} is no speed; use more than 0, such as 2 or 0.5x")
    return speed


def _dscp(text: str) -> int:
    name = text.strip().upper()
    if name in DSCP_NAMES:
        return DSCP_NAMES[name]
    if name.isascii() and name.isdigit() and int(name[:9]) < 64:
        return int(name)
    raise ArgumentError(f"{text!r} is no DSCP; use 0 to 63, or one of: {', '.join(DSCP_NAMES)}")


def _percent(text: str) -> float:
    try:
        share = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise ArgumentError(f"{text!r} is no percentage; use 0 to less than 100, such as 0.1%")
    return share


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65_536:
        return int(text)
    raise ArgumentError(f"{text!r} is no UDP port; use 1 to 65535")


def _size(text: str) -> str:
    size_in_bytes(text, "value")
    return text


def _background(text: str) -> str:
    return text if text == NO_BACKGROUND else _size(text)


def _address(text: str) -> str:
    from mcast_fast.monitor._server import endpoint

    endpoint(text)
    return text


ADDRESS = Parsed("[HOST]:PORT", _address)
TIME = Parsed("TIME", _seconds)
LONGER = Parsed("TIME", _longer_than_nothing)
UP_TO_A_MINUTE = Parsed("TIME", partial(_up_to, 60.0, "a minute"))
UP_TO_AN_HOUR = Parsed("TIME", partial(_up_to, 3600.0, "an hour"))
RATE = Parsed("RATE", _rate)
SPEED = Parsed("FACTOR", _speed)
DSCP = Parsed("DSCP", _dscp)
PERCENT = Parsed("PERCENT", _percent)
SIZE = Parsed("SIZE", _size)
BACKGROUND = Parsed("SIZE|none", _background)
MATCH = Parsed("TEST", match.parsed)
PORT = Parsed("PORT", _port)


# Completion in shells ------------------------------------------------------------------------------------------------


class Completed(_ParamType):
    """Any text, which shells complete by what functions find for what is typed so far."""

    name = "text"

    def __init__(self, *found: Callable[[click.Context, str], list[CompletionItem]]) -> None:
        self._found = found

    def shell_complete(self, ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What it may become."""
        return [item for found in self._found for item in found(ctx, incomplete)]


def _files(_ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]  # the shell finds them


def _interfaces(_ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    from mcast_fast._host.interfaces import interfaces

    names = ["all", *(one.name for one in interfaces())]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _interface_of_group(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    group, sign, name = incomplete.rpartition("%")
    return [CompletionItem(group + sign + item.value) for item in _interfaces(ctx, name)] if sign else []


def _verbs(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    program = ctx.find_root().command
    verbs = program.list_commands(ctx) if isinstance(program, click.Group) else []
    return [CompletionItem(verb) for verb in verbs if verb.startswith(incomplete)]


FILE = Completed(_files)
GROUP = Completed(_interface_of_group)
GROUP_OR_FILE = Completed(_interface_of_group, _files)
INTERFACE = Completed(_interfaces)
VERB = Completed(_verbs)


# The table -----------------------------------------------------------------------------------------------------------

_FROM = "Take packets of this source only, for groups that name none."
SHARED: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "interface": (
        ("-i", "--interface"),
        {
            "metavar": "NAME",
            "type": INTERFACE,
            "help": "Name, index or address, or 'all'; for groups that name none.",
        },
    ),
    "port": (("-p", "--port"), {"type": PORT, "help": "UDP port, for groups that name none."}),
    "source": (("--source",), {"metavar": "ADDRESS", "help": _FROM}),
    "sending_source": (
        ("--source", "source"),
        {"metavar": "ADDRESS", "help": "Send from this address of this machine."},
    ),
    "source_port": (("--source-port",), {"type": PORT, "help": "Send from this UDP port."}),
    "count": (
        ("-c", "--count"),
        {"type": click.IntRange(min=1), "metavar": "N", "help": "End after this many packets."},
    ),
    "timeout": (("-t", "--timeout"), {"type": LONGER, "help": "End when nothing arrives for this long (1s, 100ms)."}),
    "duration": (("-d", "--duration"), {"type": LONGER, "help": "End after this long (10s, 5min)."}),
    "buffer_size": (
        ("--buffer-size", "--buffer"),
        {"type": SIZE, "help": "Kernel buffer per socket, such as 4MiB."},
    ),
    "background": (
        ("--background",),
        {"type": BACKGROUND, "help": "Receive in a thread that holds this much while output stalls."},
    ),
    "metrics": (
        ("--metrics",),
        {"type": ADDRESS, "help": "Serve metrics there for Prometheus (:9464); without a host to this machine alone."},
    ),
    "metrics_per_source": (("--metrics-per-source",), {"is_flag": True, "help": "A series for each source."}),
    "ring": (("--ring",), {"is_flag": True, "help": "Receive by the kernel's mapped ring (CAP_NET_RAW)."}),
    "watch": (("--watch",), {"is_flag": True, "help": "Join again when an interface comes back."}),
    "match": (
        ("--match", "tests"),
        {
            "type": MATCH,
            "multiple": True,
            "help": "Only packets that pass: size>=200, u16be@0=0x1234 …; given several times, all.",
        },
    ),
    "ttl": (
        ("--ttl",),
        {
            "type": click.IntRange(0, 255),
            "default": 1,
            "show_default": True,
            "help": "TTL or hop limit; 0 stays on this machine.",
        },
    ),
    "dscp": (("--dscp",), {"type": DSCP, "help": "DSCP of what is sent: 0 to 63, or a name such as EF or AF41."}),
    "rate": (("--rate",), {"type": RATE, "help": "Datagrams per second (50k) or payload (800Mbit/s)."}),
    "no_loopback": (("--no-loopback",), {"is_flag": True, "help": "Do not deliver to receivers on this machine."}),
    "json": (("--json", "as_json"), {"is_flag": True, "help": "The report as JSON."}),
    "fail_on_loss": (("--fail-on-loss",), {"is_flag": True, "help": "Exit 3 when a packet was lost."}),
    "progress": (
        ("--progress",),
        {"is_flag": True, "help": "A line per second on standard error, also when that is no terminal."},
    ),
    "quiet": (("-q", "--quiet"), {"is_flag": True, "help": "No progress line, which a terminal gets each second."}),
    "stats": (("--stats",), {"is_flag": True, "help": "End with full statistics, and with a line for each stream."}),
    "only": (
        ("-g", "--group", "groups"),
        {"multiple": True, "metavar": "GROUP", "help": "Only this group; can be given several times."},
    ),
}


def shared(*names: str, **helps: str) -> Callable[[T], T]:
    """Add options of the table to a verb, in this order; `helps` has other help texts of some, by their names."""

    def add(function: T) -> T:
        for name in reversed((*names, *(name for name in helps if name not in names))):
            declarations, attributes = SHARED[name]
            more = {"help": helps[name]} if name in helps else {}
            function = click.option(*declarations, **(attributes | more))(function)
        return function

    return add


def recognised_form(function: T) -> T:
    """Add the format of numbers to a verb that recognises RTP; in others one is named, or there are no numbers."""
    named = ("-f", "--format", "--sequence", "form")
    about = "Of numbers: auto is RTP; none reads none."
    return click.option(*named, default="auto", show_default=True, help=about)(function)


# What the options of receiving mean ----------------------------------------------------------------------------------

RECEIVING = ("interface", "port", "source", "buffer_size", "background", "ring", "watch")


def receiving(options: dict[str, Any], in_background: bool = False) -> dict[str, Any]:
    """Arguments of a Receiver from the options RECEIVING that a verb has.

    Args:
        options: The verb's options.
        in_background: Receive in a thread where --background says nothing and the system can.
    """
    direct = ("port", "interface", "source", "buffer_size", "watch")
    named = {name: options[name] for name in direct if name in options}
    ring, background = options.get("ring"), options.get("background")
    features = _core.features()
    if ring:
        named["ring"] = True
    if background is None:
        named["background"] = in_background and bool(features["background"]) and not ring
    elif background != NO_BACKGROUND:
        named["background"] = background
    return named


def groups_alone(_ctx: click.Context, _param: click.Parameter, groups: tuple[str, ...]) -> tuple[str, ...]:
    """The groups of a command line, of which none is a port by itself."""
    for before, text in zip(("239.1.1.1", *groups), groups, strict=False):
        if text.isascii() and text.isdigit():
            bracketed = f"[{before}]" if ":" in before else before
            raise GroupError(
                f"{text} was given as a group of its own; a port goes behind its group: {bracketed}:{text}, or in "
                f"--port {text}"
            )
    return groups
