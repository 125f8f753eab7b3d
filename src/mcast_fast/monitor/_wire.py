"""Wire: what goes to any group on an interface, joined or not, from a ring."""

from typing import TYPE_CHECKING

from mcast_fast import _core
from mcast_fast._core.coalescing import Mode
from mcast_fast._core.layout import MAX_PACKET_SIZE
from mcast_fast._core.lifetime import close_all, weakly
from mcast_fast._host.interfaces import Interface, find_interface, multicast_interfaces
from mcast_fast._host.nic_drops import NicDrops
from mcast_fast._membership.rings import Ring, RingOptions, ring_options, start_whole, unmapped
from mcast_fast._membership.sockets import require
from mcast_fast._receiving import Receiving
from mcast_fast._units import Seconds
from mcast_fast.errors import ArgumentError, ClosedError, InterfaceError
from mcast_fast.stats import Stats

if TYPE_CHECKING:
    from mcast_fast._membership.memberships import Membership

BATCH = 4096  # packets, as of a receiver with a ring
LATENCY = 0.01  # seconds
ALL = "all"


class Wire(Receiving):
    """Every multicast packet that reaches an interface, joined or not: receives as a Receiver with a ring does.

        with monitor.Wire("eth0") as wire:
            watch = monitor.Monitor(wire)
            for batch in wire.batches(duration=10):
                watch.add(batch)

    It joins nothing, so a switch that snoops IGMP or MLD forwards only what somebody behind the port has joined. The
    interface takes all multicast frames meanwhile (IFF_ALLMULTI). Frames that carry a VLAN tag are those of the VLAN's
    own interface; what this machine sends is seen on loopback interfaces alone. Linux, CAP_NET_RAW, Ethernet.

    Args:
        *interfaces: Names, indexes or addresses of interfaces; "all": each that is up and multicast-capable.
        ring: Bytes of the ring of each, or text ("256MiB"); True: 64 MiB.
        timeout: Seconds that a receive waits, or text such as "100ms"; None: no limit.

    Raises:
        InterfaceError: An interface does not exist, or is no Ethernet.
        FeatureError: This backend or system has no rings.
        SocketError: The system refuses a ring: without CAP_NET_RAW, for example.
        ArgumentError: An argument is out of range.
    """

    __module__ = "mcast_fast.monitor"

    def __init__(self, *interfaces: str | int, ring: bool | int | str = True, timeout: Seconds | None = None) -> None:
        require("ring", "a Wire")
        options = ring_options(ring, LATENCY, None, times=True)
        found = _found(interfaces)
        names = {one.index: one.name for one in found}
        super().__init__(_core.slots.Slots(BATCH, MAX_PACKET_SIZE, names, "the wire", Mode.NEVER))
        self.timeout = timeout
        self._interfaces = names
        self._rings: list[Ring] = []
        self._nic = NicDrops()
        self._slots.when_idle = weakly(self._tear_down)
        try:
            self._open(options)
        except BaseException:
            self.close()
            raise

    def _open(self, options: RingOptions) -> None:
        for index, name in self._interfaces.items():
            ring = unmapped(name, options)
            self._rings.append(ring)
            start_whole(ring, self._slots, index, options)
        self._nic.total(self._interfaces)

    @property
    def interfaces(self) -> tuple[str, ...]:
        """The names of the interfaces."""
        return tuple(self._interfaces.values())

    @property
    def memberships(self) -> "list[Membership]":
        """None: it joins nothing."""
        return []

    @property
    def stats(self) -> Stats:
        """The loss ledger so far; after close(), the final one. ClosedError where another process opened it."""
        try:
            with self._slots.inside():
                self._slots.check()
                return self._ledger(self._nic.total(self._interfaces))
        except ClosedError:
            if self._slots.foreign:
                raise
            return self._ledger(self._nic.total(()))
        finally:
            self._slots.settle()

    def _ledger(self, nic: int | None) -> Stats:
        counters = dict(self._slots.counters())
        inexactly, coalesced = counters.pop("dropped_inexactly"), counters["coalesced"]
        return Stats(
            dropped_background=counters.pop("dropped_memory"),
            dropped_nic=nic,
            drops_exact=not (inexactly or (counters["dropped_ring"] and coalesced)),
            **counters,
        )

    def _release(self) -> None:
        if not self._slots.foreign:
            self._nic.total(self._interfaces)  # the last reading
        close_all(ring.socket for ring in self._rings)
        self._nic.close()

    def __repr__(self) -> str:
        return f"<Wire of {', '.join(self.interfaces)}{', closed' if self.closed else ''}>"


def _found(wanted: tuple[str | int, ...]) -> list[Interface]:
    """The interfaces that are meant; ArgumentError, InterfaceError."""
    if not wanted:
        raise ArgumentError("an interface is required, such as monitor.Wire('eth0')")
    found: list[Interface] = []
    for one in wanted:
        if one != ALL:
            found.append(find_interface(one))
            continue
        taken, _ = multicast_interfaces()
        if not taken:
            raise InterfaceError("no interface is up and multicast-capable; list them with `mcast-fast interfaces`")
        found += taken
    return found
