"""Every exception and warning of mcast-fast; each message names the thing, what the OS answered, and the remedy.

Rules of this module: no I/O, no imports of ours but `_systems`; every other module may import it.
"""

import errno as errno_module
import os
import sys
import warnings
from types import FrameType
from typing import NamedTuple

from mcast_fast._systems import SYSTEM

__all__ = [
    "ArgumentError",
    "CaptureError",
    "ClosedError",
    "Feature",
    "FeatureError",
    "FileError",
    "GroupError",
    "InterfaceError",
    "MulticastError",
    "MulticastWarning",
    "SendError",
    "SocketError",
    "SsmWarning",
]


class Argument(NamedTuple):
    """An argument as a part of a message, `port=5000`, which the command line writes as the option of a verb."""

    name: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.name}={self.value}"


class _InParts:
    """An exception whose message is what its arguments are in a row: text, and here and there an Argument."""

    args: tuple[object, ...]

    def __str__(self) -> str:
        return "".join(map(str, self.args))


class MulticastError(_InParts, Exception):
    """Base of every exception that mcast-fast raises itself (a timeout is the built-in TimeoutError)."""


class GroupError(MulticastError, ValueError):
    """A text or value is not a multicast group in the grammar of `Group.parse`."""


class InterfaceError(MulticastError, ValueError):
    """An interface does not exist, or cannot do what is required."""


class ArgumentError(MulticastError, ValueError):
    """An argument is of a wrong type or out of range, or does not go with another one.

    As with sockets, a TypeError is raised instead where a payload or memory is no bytes-like object, and where a batch
    or packet to be requeued, concatenated or answered is none."""


class ClosedError(MulticastError, ValueError):
    """The receiver or sender was closed before or during the call."""


class FeatureError(MulticastError, NotImplementedError):
    """This backend or operating system cannot do it; `mcast_fast.features()` says why."""


class Feature(NamedTuple):
    """Whether a feature is on; a feature that is on is true. `mcast_fast.features()` lists all of them.

    Attributes:
        on: Whether it is available on this system and backend.
        reason: Why not; empty when it is on.
    """

    on: bool
    reason: str

    def __bool__(self) -> bool:
        return self.on


class CaptureError(MulticastError, ValueError):
    """A capture file cannot be read any further.

    Attributes:
        file: The name of the file.
        offset: The offset of the broken block, in bytes.
        reason: What is wrong with it.
    """

    def __init__(self, file: str, offset: int, reason: str) -> None:
        super().__init__(file, offset, reason)
        self.file = file
        self.offset = offset
        self.reason = reason

    def __str__(self) -> str:
        advice = "; `mcast-fast repair` keeps what comes before it" if self.offset else ""
        return f"{self.file}, offset {self.offset}: {self.reason}{advice}"


class SocketError(MulticastError, OSError):
    """The operating system refused an operation.

    Attributes:
        errno: The error number of the system.
        operation: What was tried: "open", "bind", "join", "leave", "filter", "receive", "send", "ring", "metrics",
            or "".
    """

    def __init__(self, errno: int, message: str, operation: str = "") -> None:
        super().__init__(errno, message)
        self.operation = operation

    def __str__(self) -> str:
        return str(self.args[1])


class FileError(MulticastError, OSError):
    """The operating system refused to open, read or write a capture file.

    Attributes:
        errno: The error number of the system.
        packets: After a failed write: the packets that are in the file, whole; no others are.
        bytes: After a failed write: the bytes of the file.
    """

    def __init__(self, errno: int, message: str, packets: int = 0, bytes: int = 0) -> None:
        super().__init__(errno, message)
        self.packets = packets
        self.bytes = bytes

    def __str__(self) -> str:
        return str(self.args[1])


class SendError(SocketError):
    """The operating system refused to send.

    Attributes:
        sent: The number of datagrams of the call that had left before.
    """

    def __init__(self, errno: int, message: str, sent: int = 0) -> None:
        super().__init__(errno, message, "send")
        self.sent = sent


class MulticastWarning(_InParts, UserWarning):
    """Something works less well than requested: a clipped buffer, an ambiguous interface, a missing extension."""


class SsmWarning(MulticastWarning):
    """Source-specific joins reach the network as any-source ones: the interface uses an older IGMP or MLD version."""


# Modules between a user's call and the code that warns: this package, and the machinery that imports it.
_PASSED = ("mcast_fast", "importlib", "_frozen_importlib", "_frozen_importlib_external")


def warn(message: str | Warning, category: type[Warning] = MulticastWarning, source: object = None) -> None:
    """Warn at the user's line that called the library: the nearest one outside of this package.

    In a thread of the library, and in the command line, that is the outermost line. `category`: of a message that is
    text. `source`: the object that a ResourceWarning is about."""
    frame: FrameType | None = sys._getframe(1)
    outermost = frame
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _PASSED:
        outermost, frame = frame, frame.f_back
    at = frame or outermost
    if at is not None:
        registry = at.f_globals.setdefault("__warningregistry__", {})
        name = str(at.f_globals.get("__name__", "<string>"))
        warnings.warn_explicit(message, category, at.f_code.co_filename, at.f_lineno, name, registry, source=source)


# What to do about an answer of the OS: (operation, errno name, key of the system) -> remedy. "" means every
# operation, or every system; what is more special is looked for first. The operations are those that the modules name:
# open, bind, join, leave, filter, receive, send, ring, metrics; and read, write of files.
REMEDIES: dict[tuple[str, str, str], str] = {
    ("", "EMFILE", ""): "the process is out of descriptors; raise `ulimit -n` or close what is not needed",
    ("", "ENFILE", "linux"): "the system is out of descriptors; raise fs.file-max",
    ("", "ENOMEM", ""): "the system is short of memory for sockets",
    ("", "EPERM", ""): "a firewall rule or a missing privilege forbids it",
    ("", "EACCES", ""): "the process lacks the privilege",
    (
        "bind",
        "EADDRINUSE",
        "",
    ): "another socket holds the port without address reuse; open with reuse=True on both sides",
    ("bind", "EADDRINUSE", "linux"): "another socket holds the port without address reuse, or shares it by "
    "SO_REUSEPORT as another user; find it with `ss -ulpn`",
    ("bind", "EACCES", "linux"): "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE; "
    "use a higher port",
    ("bind", "EADDRNOTAVAIL", ""): "the address must be one of this machine's; list them with `mcast-fast interfaces`",
    ("bind", "WSAEADDRNOTAVAIL", "win32"): "Windows binds no group address; bind the interface",
    ("bind", "ENODEV", ""): "the interface has gone; list them with `mcast-fast interfaces`",
    ("bind", "EPERM", "linux"): "a sandbox (seccomp) refuses an option of the socket; or Linux is older "
    "than 5.7, where binding to a device needs CAP_NET_RAW",
    ("join", "ENOBUFS", "linux"): "a membership limit is reached; raise net.ipv4.igmp_max_memberships or igmp_max_msf "
    "(sources; IPv6: net.ipv6.mld_max_msf), and net.core.optmem_max beyond 2,000 groups; or let spread=True use more "
    "sockets",
    ("join", "ENOBUFS", ""): "a membership limit of the system is reached; let spread=True use more sockets",
    ("join", "ENOMEM", "linux"): "the socket's option memory is used up; raise net.core.optmem_max",
    ("join", "ENOMEM", "darwin"): "macOS answers so now and then; try again",
    ("join", "ENODEV", ""): "the interface has gone or is down; list them with `mcast-fast interfaces`",
    (
        "join",
        "EADDRNOTAVAIL",
        "",
    ): "the interface cannot take this group; check that it is up and has the MULTICAST flag",
    ("join", "EADDRINUSE", ""): "the socket holds this group already",
    ("join", "EPERM", "linux"): "a sandbox (seccomp) refuses memberships",
    ("join", "EINVAL", ""): "the group and the source must be of one family, and the interface multicast-capable",
    ("join", "WSAEINVAL", "win32"): "the socket holds this group already, or the interface has gone",
    ("leave", "EPERM", "linux"): "a sandbox (seccomp) refuses memberships",
    ("leave", "EADDRNOTAVAIL", ""): "the socket does not hold this group",
    (
        "filter",
        "ENOBUFS",
        "linux",
    ): "too many sources; raise net.ipv4.igmp_max_msf (IPv6: net.ipv6.mld_max_msf), or let "
    "spread=True use more sockets",
    (
        "send",
        "ENETUNREACH",
        "",
    ): "no route to it: add one, or name another interface for the group with %interface",
    ("send", "EACCES", ""): "a broadcast address is neither a group nor a host; or a firewall rejects it",
    ("send", "EHOSTUNREACH", "linux"): "no route to the destination; check `ip route get`",
    ("send", "EMSGSIZE", ""): "the datagram is larger than the socket or the path takes; send at most 65,507 bytes "
    "(IPv6: 65,527)",
    ("send", "EPERM", "linux"): "a firewall rule drops the output; look at `nft list ruleset`",
    ("send", "ENOBUFS", "linux"): "the interface's queue is full; send more slowly or raise txqueuelen",
    ("send", "ENODEV", ""): "the interface has gone; list them with `mcast-fast interfaces`",
    ("send", "ENETDOWN", "linux"): "the interface is down; `ip link set … up`",
    ("send", "EINVAL", ""): "the group and the address to send from must fit the interface; leave the source out",
    ("send", "EADDRNOTAVAIL", ""): "the interface has no address to send from",
    ("receive", "ENETDOWN", ""): "the interface went down",
    ("open", "EPERM", "linux"): "a sandbox (seccomp, AppArmor, SELinux) or a missing privilege forbids it",
    ("open", "ELOOP", ""): "it is a link, which a recording does not follow; name the file itself",
    ("write", "ENOSPC", ""): "the disk is full; free some of it, or write elsewhere",
    ("write", "EDQUOT", ""): "the quota is used up; free some of it, or write elsewhere",
    ("write", "EFBIG", ""): "the file reached the limit of its size; raise `ulimit -f`, or rotate",
    ("write", "EEXIST", ""): "what is there is never written over; name another file",
    ("write", "EPIPE", ""): "the reader of the pipe is gone",
    ("open", "ENOENT", ""): "check the path",
    ("open", "EISDIR", ""): "name a file in it",
    ("metrics", "EADDRINUSE", ""): "another program listens there; name another port, or 0 for any that is free",
    (
        "metrics",
        "EADDRINUSE",
        "linux",
    ): "another program listens there; find it with `ss -ltnp`, and name another port, or 0 for any that is free",
    ("metrics", "EACCES", "linux"): "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE; "
    "use a higher port",
    (
        "metrics",
        "EADDRNOTAVAIL",
        "",
    ): "the address must be one of this machine's; leave it out, or use 0.0.0.0 or [::] for all of them",
    ("ring", "ENOMEM", ""): "the system has no memory for a ring of this size; use a smaller one",
    ("ring", "EINVAL", "linux"): "a fanout group has one interface and one kind of member; or the ring is too large",
    ("ring", "ENODEV", ""): "the interface has gone; list them with `mcast-fast interfaces`",
    ("ring", "ENOPROTOOPT", "linux"): "a ring needs Linux 4.20",
    ("ring", "EAFNOSUPPORT", "linux"): "this kernel has no packet sockets (CONFIG_PACKET)",
}


# Answers whose cause `mcast-fast doctor` names, with what cures it: (operation, errno name).
EXAMINED = frozenset(
    {
        ("bind", "EADDRINUSE"),
        *(("join", name) for name in ("ENOBUFS", "ENOMEM", "ENODEV", "EADDRNOTAVAIL")),
        ("filter", "ENOBUFS"),
        *(("send", name) for name in ("ENETUNREACH", "ENETDOWN")),
    }
)
DOCTOR = "run: mcast-fast doctor"
WINSOCK = 10_000


def remedy(operation: str, errno: int, system: str = SYSTEM.key) -> str:
    """What a user can do about `errno` from `operation`; empty when nothing better is known than the OS's text."""
    code = errno_module.errorcode.get(errno, "")
    name = code.removeprefix("WSA")  # Windows calls 10048 both EADDRINUSE and WSAEADDRINUSE
    keys = (
        (operation, code, system), (operation, name, system), (operation, name, ""), ("", name, system), ("", name, "")
    )  # fmt: skip
    return next((REMEDIES[key] for key in keys if key in REMEDIES), "")


def _examined(operation: str, errno: int) -> str:
    """Where the doctor can say more: how to run it."""
    name = errno_module.errorcode.get(errno, "").removeprefix("WSA")
    return DOCTOR if (operation, name) in EXAMINED else ""


def os_words(errno: int) -> str:
    """What the OS says to a number; Windows has words of its own for Winsock's, which begin at 10000."""
    if errno >= WINSOCK:
        import ctypes

        format_error = getattr(ctypes, "FormatError", None)  # on Windows only
        words = str(format_error(errno)).strip().rstrip(".") if format_error else ""
        if words and not words.startswith("<"):  # "<no description>"
            return words
    return os.strerror(errno)


def os_error(errno: int) -> OSError:
    """The OSError of a number, with the OS's own words."""
    return OSError(errno, os_words(errno))


def os_text(errno: int) -> str:
    """The OS's own words and number: 'No buffer space available (105)'."""
    return f"{os_words(errno)} ({errno})"


def explain(operation: str, subject: str, errno: int) -> str:
    """One line: what was requested, what the OS answered, what to do.

    >>> explain("join", "239.1.1.1 on eth0", 19)
    'join 239.1.1.1 on eth0: No such device (19); the interface has gone or is down; list them with `mcast-fast
    interfaces`; run: mcast-fast doctor'
    """
    advice = filter(None, (remedy(operation, errno), _examined(operation, errno)))
    return "; ".join((f"{operation} {subject}: {os_text(errno)}", *advice))


def escaped(text: str) -> str:
    """Text of a file, of the network or of another program for a terminal, which it must not control: with Python's
    escapes."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def file_error(operation: str, subject: str, error: OSError) -> FileError:
    """`error`, raised by `operation` on the file `subject`, as ours."""
    errno = error.errno or 0
    return FileError(errno, explain(operation, subject, errno) if errno else f"{operation} {subject}: {error}")


def socket_error(operation: str, subject: str, error: OSError) -> SocketError:
    """`error`, raised by `operation` on `subject`, as ours."""
    errno = error.errno or 0
    return SocketError(errno, explain(operation, subject, errno), operation)
