"""What comes to the sockets of a sender: answers, and what was reported of datagrams that left.

Rules of this module: nothing is sent. A socket is received from since the first wait, not sooner: the kernel wakes the
poll set that a socket is in for each datagram that has left (sock_def_write_space), which costs a tenth of sending it.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from mcast_fast import _core
from mcast_fast._core.layout import MAX_PACKET_SIZE
from mcast_fast._membership.sockets import NOWHERE, reports_destination
from mcast_fast._sending.outgoing import ICMP_ANSWERS
from mcast_fast._sending.sockets import SendingSocket, read_times
from mcast_fast._units import NANOSECONDS
from mcast_fast.errors import ClosedError, SocketError
from mcast_fast.stats import TransmitTime

if TYPE_CHECKING:
    from mcast_fast._core.fast.slots import Slots
    from mcast_fast._core.fast.views import Batch, Packet

T = TypeVar("T")

MOST_DISMISSED = 100  # ICMP answers, of a call whose time is over


class Answers:
    """The answers that come to a sender's sockets, and their error queues.

    `names`: of interfaces by index; `lock`: held while the sockets change; `sockets`: the sender's own table of
    those that are open now. With
    `has_times` the error queues have transmit times."""

    def __init__(
        self,
        names: dict[int, str],
        lock: "threading.RLock",
        sockets: Mapping[Any, SendingSocket],
        has_times: bool,
    ) -> None:
        self._names = names
        self._lock = lock
        self._sockets = sockets
        self._has_times = has_times
        self._times: list[TransmitTime] = []
        self._keys: dict[int, int] = {}  # of the slots, by the keys of the sockets
        self._is_listening = False
        self.slots = self._new_slots()

    def _new_slots(self) -> "Slots":
        return _core.slots.Slots(1, MAX_PACKET_SIZE, self._names, "the sender")

    def listen(self, is_closed: Callable[[], bool]) -> "Slots":
        """Receive from now on; what receives. `is_closed`: whether the sender is."""
        if self._is_listening:
            return self.slots
        with self._lock:
            try:
                for sock in list(self._sockets.values()):
                    self._add(sock)
                self._is_listening = True
            except BaseException:  # of what was added nobody may know the key
                self.slots.close()
                self.slots, self._keys = self._new_slots(), {}
                if is_closed():  # meanwhile, and closed the former
                    self.slots.close()
                raise
        return self.slots

    def add(self, sock: SendingSocket) -> None:
        """Receive from this socket too, where anything is received."""
        if self._is_listening:
            self._add(sock)

    def _add(self, sock: SendingSocket) -> None:
        if sock.key in self._keys:
            return
        implied = 0 if reports_destination() else sock.interface.index
        key = self.slots.add(sock.socket, sock.socket.getsockname()[1], NOWHERE, implied)
        self._keys[sock.key] = key
        self.slots.accept(key, None)

    def remove(self, sock: SendingSocket) -> None:
        """Receive from it no more."""
        key = self._keys.pop(sock.key, None)
        if key is not None:
            with contextlib.suppress(ClosedError):
                self.slots.remove(key)

    def receive(self, call: "Callable[[int], T]", timeout_ns: int) -> T:
        """What a call of the slots gives within a time.

        ICMP answers are not its errors: nothing says which datagram they are to."""
        if self._has_times:
            self.read_queues()
        end = time.monotonic_ns() + timeout_ns
        left, dismissed = timeout_ns, 0
        while True:
            try:
                return call(left)
            except SocketError as error:
                self.read_queues()
                if error.errno not in ICMP_ANSWERS or dismissed >= MOST_DISMISSED:
                    raise
            left = timeout_ns if timeout_ns < 0 else max(0, end - time.monotonic_ns())
            dismissed += left == 0

    def read_queues(self) -> None:
        """Empty the error queues: while one holds something, polling its socket answers at once (poll(2))."""
        if "SO_TIMESTAMPING" not in _core.membership.OPTIONS:  # Linux alone has such a queue (recv(2), MSG_ERRQUEUE)
            return
        with self._lock:
            for sock in list(self._sockets.values()):
                self._times += read_times(sock)

    def take_times(self) -> list[TransmitTime]:
        """The transmit times since the last call."""
        self.read_queues()
        with self._lock:
            taken, self._times = self._times, []
        return taken


class Gathering:
    """Packets that come within a time; what comes later stays unread.

    `receive(wait_ns)` gives a batch of one packet, `give_back` takes it for the next call. `timeout_ns`: from `begin`
    on, < 0: forever. What came in time is delivered after it too, as far as packets have a time of arrival.
    `check_process` raises ClosedError in another process than the sender's; a close ends the iteration elsewhere."""

    def __init__(
        self,
        receive: "Callable[[int], Batch]",
        give_back: "Callable[[Batch], object]",
        timeout_ns: int,
        check_process: Callable[[], object],
    ) -> None:
        self._receive = receive
        self._give_back = give_back
        self._timeout_ns = timeout_ns
        self._check_process = check_process
        self._deadline = self._last = 0  # by the monotonic clock, and by that of the arrivals
        self._is_over = False

    def begin(self) -> None:
        """The time begins."""
        self._deadline = time.monotonic_ns() + self._timeout_ns
        self._last = time.time_ns() + self._timeout_ns

    def end(self, error: Exception) -> None:
        """There are no more: it is too late, or the sender is closed; ClosedError in another process."""
        if isinstance(error, ClosedError):
            self._check_process()
        self._is_over = True

    def wait_ns(self) -> int | None:
        """Nanoseconds to wait for the next packet, < 0 forever; None: there is no next one."""
        if self._is_over:
            return None
        return self._timeout_ns if self._timeout_ns < 0 else max(0, self._deadline - time.monotonic_ns())

    def take(self, wait_ns: int) -> "Packet":
        """The next packet; TimeoutError where there is none that came in time."""
        batch = None
        is_late = self._timeout_ns >= 0 and time.monotonic_ns() >= self._deadline
        try:
            batch = self._receive(wait_ns)
            if not is_late or self._came_in_time(batch[0]):
                return batch[0]
        except BaseException:
            if batch is not None:
                self._give_back(batch)
            raise
        self._give_back(batch)
        raise TimeoutError(f"no more packets came within {self._timeout_ns / NANOSECONDS:g} s")

    def _came_in_time(self, packet: "Packet") -> bool:
        return packet.timestamp is not None and packet.timestamp <= self._last

    def __iter__(self) -> Iterator["Packet"]:
        return self

    def __next__(self) -> "Packet":
        wait_ns = self.wait_ns()
        if wait_ns is None:
            raise StopIteration
        try:
            return self.take(wait_ns)
        except (TimeoutError, ClosedError) as error:
            self.end(error)
            raise StopIteration from None
