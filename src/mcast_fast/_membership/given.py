"""A socket that the caller has opened and bound (`fd=`): checked, and duplicated.

The duplicate and the caller's descriptor are one socket of the kernel: its options, its queue and its memberships are
shared (dup(2)). So what the receiver joins there it has to leave again itself, for the socket may outlive it.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Protocol, SupportsIndex

from mcast_fast import _core
from mcast_fast._core.addresses import map_address, plain_text
from mcast_fast._membership.desired import Changes, Defaults, Endpoint, GroupEndpoint, Wanted
from mcast_fast._membership.sockets import (
    FAMILIES,
    MULTICAST_ALL,
    NOWHERE,
    OpenSocket,
    Options,
    ask_device,
    ask_metadata,
    reports_destination,
    set_buffer,
    set_option,
)
from mcast_fast._systems import SYSTEM
from mcast_fast.errors import ArgumentError, os_text, socket_error

VERSIONS = {family: version for version, family in FAMILIES.items()}
DEVICE_SIZE = 16  # bytes of a name with its NUL (netdevice(7))
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
REMEDY = "pass a UDP socket that is bound to a port"


class HasFileno(Protocol):
    """An object with a descriptor, such as a socket."""

    def fileno(self) -> int:
        """Its descriptor, an open socket's; -1 once it is closed."""


@dataclass(frozen=True, slots=True)
class Given:
    """A duplicate of the caller's socket, and what the caller has bound it to.

    `text`: what errors call it. `group`: the group that it is bound to, or NOWHERE; `device`: a name, or empty."""

    socket: socket.socket
    text: str
    version: int
    port: int
    group: bytes
    device: str

    def filled(self, defaults: Defaults) -> Defaults:
        """The defaults with the port of this socket, where they have none."""
        return replace(defaults, port=self.port) if defaults.port is None else defaults

    def check(self, changes: Changes, held: Wanted, names: Mapping[int, str]) -> None:
        """ArgumentError where this socket cannot receive a group, beside those that it holds."""
        wanted = [one for one, sources in changes.items() if sources is not None]
        for one in wanted:
            self._check(one, names)
        left = {one for one in held if one not in changes}
        if not reports_destination() and len(left | set(wanted)) > 1:
            raise ArgumentError(
                f"{self.text} is one socket, of which this system does not say which group a packet was sent to; "
                "several groups need a receiver each, with a socket of its own"
            )
        if len(used := {one.endpoint.interface for one in left.union(wanted)}) > 1:
            shown = " and ".join(sorted(names.get(index, str(index)) for index in used))
            raise ArgumentError(
                f"{self.text} is one socket, for groups on one interface; groups on {shown} need a receiver each"
            )

    def _check(self, one: GroupEndpoint, names: Mapping[int, str]) -> None:
        (version, port, index), group = one
        shown, name = plain_text(group), names.get(index, str(index))
        if version != self.version:
            raise ArgumentError(f"{self.text} is an IPv{self.version} socket, and {shown} a group of IPv{version}")
        if port != self.port:
            raise ArgumentError(f"{self.text} is bound to port {self.port}, and {shown} is wanted at port {port}")
        if self.group not in (NOWHERE, group):
            raise ArgumentError(
                f"{self.text} is bound to {plain_text(self.group)}, and gets nothing of {shown}; bind it to "
                f"{'0.0.0.0' if version == 4 else '::'} for several groups"
            )
        if self.device not in ("", name):
            raise ArgumentError(f"{self.text} is bound to the interface {self.device}, and {shown} is wanted on {name}")

    def bound(self, group: bytes) -> bytes:
        """What a socket for this group is bound to: the only group it can hold, or NOWHERE."""
        return self.group if self.group != NOWHERE or reports_destination() else group

    def open(self, endpoint: Endpoint, group: bytes, names: Mapping[int, str], options: Options) -> OpenSocket:
        """The socket, ready to join groups at an endpoint; SocketError, with nothing left open."""
        name = names[endpoint.interface]
        with contextlib.ExitStack() as undo:
            try:
                sock = undo.enter_context(self.socket.dup())
                sock.setblocking(False)
                set_option(sock, MULTICAST_ALL[self.version], 0)
                has_device = bool(self.device) or not reports_destination()
                implied = has_device and group != NOWHERE
                ask_metadata(sock, self.version, options.metadata | (set() if implied else {"destination"}))
                if options.buffer_size is not None:
                    set_buffer(sock, options.buffer_size)
                ask_device(sock, name, options)
            except OSError as error:
                raise socket_error("open", f"{self.text} for port {self.port} on {name}", error) from error
            undo.pop_all()
        return OpenSocket(sock, endpoint, group, endpoint.interface if has_device else 0, given={})


def take(fd: HasFileno | SupportsIndex) -> Given:
    """A duplicate of a caller's socket; ArgumentError where it is none that groups can be received by, SocketError
    where the system refuses a descriptor. Nothing is left open, and nothing changed."""
    number, text = _number(fd)
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(_duplicate(number, text))
        version = VERSIONS.get(sock.family)
        if version is None or sock.type != socket.SOCK_DGRAM or sock.proto not in (0, socket.IPPROTO_UDP):
            raise ArgumentError(
                f"{text} is no UDP socket (family {_name(sock.family)}, type {_name(sock.type)}, protocol "
                f"{sock.proto}); {REMEDY}"
            )
        host, port = _bound(sock)
        if not port:
            raise ArgumentError(f"{text} is not bound to a port; {REMEDY}")
        with contextlib.suppress(OSError):
            peer = sock.getpeername()
            raise ArgumentError(
                f"{text} is connected, and gets packets of {peer[0]} port {peer[1]} alone; {REMEDY}, and not connected"
            )
        given = Given(sock, text, version, port, _group(text, host), _device(sock))
        undo.pop_all()
    return given


def comes_coalesced(fd: HasFileno | SupportsIndex) -> bool:
    """Whether the caller has set UDP_GRO on its socket. Switched off, it would spoil what is queued; ArgumentError and
    SocketError as `take`."""
    option = _core.membership.OPTIONS.get("UDP_GRO")
    if option is None:
        return False
    with _duplicate(*_number(fd)) as sock, contextlib.suppress(OSError):
        return bool(sock.getsockopt(*option))
    return False


def _number(fd: HasFileno | SupportsIndex) -> tuple[int, str]:
    """The descriptor, and what errors call it."""
    get = getattr(fd, "fileno", None)
    number: object = get() if callable(get) else fd
    if isinstance(number, bool) or not isinstance(number, SupportsIndex):
        raise ArgumentError(f"fd={fd!r} is neither a descriptor nor an object with fileno(); {REMEDY}")
    number = number.__index__()
    text = f"fd={number}"
    if number < 0:
        raise ArgumentError(f"{text} is closed; {REMEDY}" if callable(get) else f"{text} is no descriptor; {REMEDY}")
    return number, text


def _duplicate(number: int, text: str) -> socket.socket:
    try:
        copy = socket.dup(number)
        try:
            return socket.socket(fileno=copy)
        except BaseException:
            socket.close(copy)
            raise
    except (OSError, OverflowError) as error:
        code = getattr(error, "errno", None) or errno.EBADF
        if code in EXHAUSTED:
            raise socket_error("open", f"a duplicate of {text}", OSError(code, "")) from error
        if code == errno.EINVAL:  # Windows has no address of a socket that is not bound
            raise ArgumentError(f"{text} is not bound to a port; {REMEDY}") from error
        raise ArgumentError(f"{text} is no open socket: {os_text(code)}; {REMEDY}") from error


def _bound(sock: socket.socket) -> tuple[str, int]:
    try:
        host, port, *_ = sock.getsockname()
    except OSError:  # Windows: WSAEINVAL, not bound
        return "", 0
    return host, port


def _group(text: str, host: str) -> bytes:
    """The group that a socket is bound to, NOWHERE of one that gets every group."""
    address = ip_address(host)
    if address.is_multicast:
        return map_address(host.partition("%")[0])
    if not address.is_unspecified and SYSTEM.binds_groups:
        raise ArgumentError(
            f"{text} is bound to {host}, where no packet to a group arrives; bind it to "
            f"{'0.0.0.0' if address.version == 4 else '::'} or to the group"
        )
    return NOWHERE


def _device(sock: socket.socket) -> str:
    """The interface that it is bound to, by SO_BINDTODEVICE (socket(7)); empty without one."""
    option = _core.membership.OPTIONS.get("SO_BINDTODEVICE")
    if option is None:
        return ""
    level, number = option
    try:
        return os.fsdecode(sock.getsockopt(level, number, DEVICE_SIZE).partition(b"\0")[0])
    except OSError:
        return ""


def _name(value: int) -> str:
    return str(getattr(value, "name", value))
