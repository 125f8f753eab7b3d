"""By which socket a sender's datagrams go: its sockets, the paths by them, and interfaces that come back.

Rules of this module: nothing is sent. Whoever calls a method is inside the sender.
"""

import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from mcast_fast._core.addresses import native
from mcast_fast._host.interfaces import Interface, find_interface
from mcast_fast._membership.desired import Defaults, Subscription, subscribe
from mcast_fast._sending.answers import Answers
from mcast_fast._sending.destinations import Target, UnicastAddress, destination, towards, with_defaults
from mcast_fast._sending.outgoing import Destination, Paths
from mcast_fast._sending.sockets import (
    OpenSockets,
    Options,
    SendingSocket,
    interface_instead,
    no_segmentation,
    open_anew,
    open_sending,
    readdressed,
)
from mcast_fast.errors import InterfaceError

if TYPE_CHECKING:
    from mcast_fast._core.fast.send import Transmitter

LARGEST_SEGMENT = 65_507

REMEMBERED_GROUPS = 4096  # of send_to


class Routing:
    """The sockets of a sender, and the paths to its groups and to other targets.

    `sockets`: those that are open, by IP version, interface and address to send from; `open_sockets`: what closes them;
    `answers`: what comes to them; `own`: the paths to the sender's groups; `reopened`: how often a socket was opened
    anew."""

    own: Paths
    _transmitter: "Transmitter"

    def __init__(self, subscriptions: list[Subscription], defaults: Defaults, options: Options) -> None:
        self.sockets: dict[tuple[int, int, str | None], SendingSocket] = {}
        self.open_sockets = OpenSockets()
        self.reopened = 0
        self._subscriptions = subscriptions
        self._defaults = defaults
        self._options = options
        self._names = {one.index: one.name for subscription in subscriptions for one in subscription.interfaces}
        self._opening = threading.RLock()  # a signal's handler may send to what its thread is opening
        self._others: dict[Target, Paths] = {}
        self.answers = Answers(self._names, self._opening, self.sockets, options.transmit_times)

    def open(self, transmitter: "Transmitter") -> None:
        """Open the sockets of the sender's groups, which the transmitter sends by. SocketError."""
        self._transmitter = transmitter
        self.own = self._paths(self._subscriptions)

    def _paths(self, subscriptions: list[Subscription]) -> Paths:
        """The destinations of groups, whose sockets are opened where there is none yet."""
        found: list[Destination] = []
        for subscription in subscriptions:
            group = subscription.group
            for interface in subscription.interfaces:
                place = (group.version, interface.index, group.source)
                key = self._socket_at(place, interface).key
                found += [Destination(key, native(one.packed), one.port or 0, interface) for one in group.expand()]
        return Paths(found, self._transmitter.route([one.target for one in found]))

    def _socket_at(self, place: tuple[int, int, str | None], interface: Interface) -> SendingSocket:
        """The socket of an IP version, an interface and an address to send from; opened where there is none."""
        if place not in self.sockets:
            sock = open_sending(place[0], place[2], interface, self._options)
            self.sockets[place] = self._added(sock, interface, None)
        return self.sockets[place]

    def _unicast_path(self, to: UnicastAddress) -> Paths:
        """The path to one host: by a socket of the sender's groups where there is one of this IP version."""
        port, named = with_defaults(to, self._defaults)
        zone = None if named is None else find_interface(named)
        own = [one for one in self.own.destinations if one.version == to.version]
        own = [one for one in own if zone and one.interface == zone] or own
        if own:
            key = own[0].key
        else:
            interface = zone or towards(to)
            if interface is None:
                raise InterfaceError(f"no route to {to.address}: look at `ip route get {to.address}`")
            key = self._socket_at((to.version, interface.index, self._defaults.source), interface).key
        found = Destination(key, native(to.packed), port, zone, True)
        return Paths([found], self._transmitter.route([found.target]))

    def _added(self, sock: socket.socket, interface: Interface, old: SendingSocket | None) -> SendingSocket:
        """Have a socket sent by, in place of an old one; on an error it is closed."""
        self.open_sockets.add(sock)
        try:
            reason = no_segmentation(sock, interface, self._options)
            limit = 0 if reason else LARGEST_SEGMENT
            self._names[interface.index] = interface.name
            if old is None:
                added = SendingSocket(sock, self._transmitter.add(sock, limit), interface, reason)
            else:
                self._transmitter.replace(old.key, sock, limit)
                added = SendingSocket(sock, old.key, interface, reason)
                self._discard(old)
            self.answers.add(added)
        except BaseException:
            self.open_sockets.discard(sock)
            raise
        return added

    def _discard(self, old: SendingSocket) -> None:
        """Close a socket that is no longer sent by."""
        self.answers.remove(old)
        self.open_sockets.discard(old.socket)

    # ---- other targets ----

    def known(self, target: Target) -> Paths | None:
        """The paths to a group or a host that was looked up before."""
        try:
            return self._others.get(target)
        except TypeError:  # not hashable, and no group
            return None

    def look_up(self, target: Target) -> Paths:
        """The paths to a group or a host. GroupError, InterfaceError."""
        named = destination(target)
        subscriptions = [] if isinstance(named, UnicastAddress) else subscribe([named], self._defaults)
        with self._opening:
            known = self._unicast_path(named) if isinstance(named, UnicastAddress) else self._paths(subscriptions)
            if len(self._others) >= REMEMBERED_GROUPS:
                self._others.clear()
            self._others[target] = known
        return known

    # ---- interfaces that come back ----

    def find_again(self, to: Destination) -> bool:
        """Whether an interface that was deleted is there again, by its name, so that sockets were opened anew; or has
        another address, so that they send from that."""
        if to.interface is None:
            return False
        with self._opening:
            if to.is_unicast:
                self._others.clear()  # its zone is looked up anew
                return True
            gone = to.interface.index
            old = {place: one for place, one in self.sockets.items() if place[1] == gone}
            if not old:
                return True  # another thread was faster
            interface = interface_instead(next(iter(old.values())))
            try:
                if interface is None:
                    return self._address_again(old)
                for place, one in old.items():
                    self._open_anew(place, one, interface)
            except OSError:  # such as an address to send from that it does not have yet
                return False
            self._others.clear()
            self._subscriptions = [
                replace(one, interfaces=tuple(interface if i.index == gone else i for i in one.interfaces))
                for one in self._subscriptions
            ]
            self.own = self._paths(self._subscriptions)
            return True

    def _address_again(self, old: dict[tuple[int, int, str | None], SendingSocket]) -> bool:
        """Send by these sockets from the address that their interface has now; whether it is another one. OSError."""
        changed = {}
        for place, one in old.items():
            again = readdressed(one) if place[0] == 4 and place[2] is None else None
            if again is not None:
                changed[place] = again
        self.sockets.update(changed)
        return bool(changed)

    def _open_anew(self, place: tuple[int, int, str | None], old: SendingSocket, interface: Interface) -> None:
        version, _, source = place
        sock = open_anew(old, version, source, interface, self._options)
        self.sockets[version, interface.index, source] = self._added(sock, interface, old)
        del self.sockets[place]
        self.reopened += 1
