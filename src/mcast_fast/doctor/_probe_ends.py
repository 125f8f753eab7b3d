"""The sockets of a probe: a Receiver for the group, and a Sender to the group and to hosts.

Rules of this module: what arrives and what is refused is only handed on.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mcast_fast import _core
from mcast_fast._core.addresses import endpoint, map_address
from mcast_fast._host.interfaces import find_interface
from mcast_fast.doctor._probe_peer import Arrival
from mcast_fast.doctor._probe_state import Sending
from mcast_fast.errors import ClosedError, MulticastError, SocketError
from mcast_fast.groups import LARGEST_PORT, Group
from mcast_fast.receiver import Receiver
from mcast_fast.sender import Sender

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Packet

MOST_BATCHES = 16  # that are taken in a row, so that a flood does not keep this host from sending
MOST_ANSWERS = 512
MOST_REFUSALS = 4  # texts that are kept


def unicast_port(port: int) -> int:
    """Where a probe is reached by unicast, unless another program has that port: the next one."""
    return port + 1 if port < LARGEST_PORT else port - 1


class Ends:
    """Opens both whole, or raises; closed by `with`."""

    def __init__(
        self,
        group: Group,
        sources: tuple[str, ...],
        interface: str | int | None,
        source: str | None,
        ttl: int,
        dscp: int,
    ) -> None:
        self.refusals: dict[str, None] = {}
        features = _core.features()
        with contextlib.ExitStack() as undo:
            wanted: list[str | Group] = [f"{one}@{group}" for one in sources]
            self.receiver = undo.enter_context(
                Receiver(
                    wanted or [group],
                    interface=interface if interface is not None else source,
                    gro=False,
                    recv_ttl=bool(features["receive_ttl"]),
                    recv_tos=bool(features["receive_tos"]),
                )
            )
            self.interface = self.receiver.memberships[0].interface
            self._index = find_interface(self.interface).index
            self.sender = undo.enter_context(self._sender(group, source, ttl, dscp))
            self._undo = undo.pop_all()
        self.version = group.version

    def _sender(self, group: Group, source: str | None, ttl: int, dscp: int) -> Sender:
        """By the interface that the group was joined on, from the port behind the group's where that is free."""
        assert group.port is not None

        def opened(port: int | None) -> Sender:
            # A burst of segments that the kernel cuts would be no burst of packets.
            return Sender(
                Group(group.address, group.port),
                interface=self._index,
                source=source,
                source_port=port,
                ttl=ttl,
                dscp=dscp or None,
                segmentation=False,
            )

        try:
            return opened(unicast_port(group.port))
        except SocketError as error:
            if error.operation != "bind":
                raise
            return opened(None)

    def __enter__(self) -> "Ends":
        return self

    def __exit__(self, *exception: object) -> None:
        self._undo.close()

    @property
    def port(self) -> int:
        """Where this host is reached by unicast."""
        return self.sender.local_addresses[0][1]

    @property
    def dropped(self) -> int:
        """Datagrams that the receiver's socket dropped."""
        return self.receiver.stats.dropped_socket or 0

    # ---- out ----

    def send(self, sending: Sending) -> tuple[int, bool]:
        """The number of datagrams that the system took, and whether that is all of them."""
        try:
            if sending.target is None:
                return self.sender.send_batch(sending.payloads), True
            return self.sender.send_to(sending.payloads[0], endpoint(*sending.target, self._index)), True
        except ClosedError:
            raise
        except MulticastError as error:  # also that there is no route to a host, which a stranger may have named
            if sending.step is None and len(self.refusals) < MOST_REFUSALS:
                self.refusals[str(error)] = None
            return getattr(error, "sent", 0), False

    # ---- in ----

    def arrivals(self, timeout: float) -> Iterator[tuple[bytes, Arrival]]:
        """What has come; waits for datagrams to the group.

        Unicast first: a host sends a hello to the group, and then one that counts it by unicast."""
        self.receiver.wait(timeout)
        with contextlib.suppress(TimeoutError):
            for _ in range(MOST_ANSWERS):
                packet = self.sender.recv(timeout=0)
                yield packet.data, _arrival(packet, is_unicast=True)
        with contextlib.suppress(TimeoutError):
            for _ in range(MOST_BATCHES):
                for packet in self.receiver.recv_batch(timeout=0):
                    yield packet.data, _arrival(packet, is_unicast=False)


def _arrival(packet: "Packet", is_unicast: bool) -> Arrival:
    """Where a packet came from, and when: now, where the system gives no time of arrival."""
    source = map_address(packet.source), packet.source_port
    return Arrival(is_unicast, source, packet.timestamp or time.time_ns(), packet.ttl, packet.tos)
