"""Two hosts: one listens and counts, the other one sends, and asks it by unicast what came.

The host that listens joins the group that was named on its own command line, and no other. It sends nothing but
answers, to who asks. One run at a time: others are refused until it has been silent for `FORGOTTEN`.
"""

import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from types import TracebackType
from typing import Any

from mcast_fast._bench import wire
from mcast_fast._bench.counting import Counting
from mcast_fast._bench.measure import ring_arguments
from mcast_fast._bench.trial import Counted, How
from mcast_fast.doctor._probe_ends import unicast_port
from mcast_fast.errors import MulticastError, SocketError, socket_error
from mcast_fast.groups import Group

FORGOTTEN = 30.0  # seconds
_LOOK = 0.2  # seconds between two looks at whether it is to end
_PATIENCE = 0.5  # seconds for an answer, until it is asked again
_TRIES = 20
_COUNTS = 6.0  # seconds for an answer that comes when all packets are counted, until it is asked again
_LARGEST = 2048  # bytes of a datagram that is looked at
_WAYS: dict[str, How] = {"sockets": "sockets", "ring": "ring"}


# The host that counts ------------------------------------------------------------------------------------------------


class Listening:
    """Answers requests until `stop()`; closed by `with`.

    Args:
        group: The group, with its port and interface: of a receiver. The next port is that of requests.
        named: Arguments of the Receiver.
        on_event: Called with a line for each run.
    """

    def __init__(self, group: Group, named: dict[str, Any], on_event: Callable[[str], None]) -> None:
        assert group.port is not None
        self._group, self._named, self._say = group, named, on_event
        family = socket.AF_INET if group.version == 4 else socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self.port = unicast_port(group.port)
        try:
            self._socket.bind(("", self.port))
        except OSError as error:
            self._socket.close()
            raise socket_error("bind", f"UDP port {self.port}", error) from None
        self._socket.settimeout(_LOOK)
        self._counting: Counting | None = None
        self._run = ""
        self._latest = 0.0
        self._answered: tuple[int, bytes] = (-1, b"")
        self._is_stopped = False

    def __enter__(self) -> "Listening":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end_run()
        self._socket.close()

    def stop(self) -> None:
        """Have `serve` return: within 0.2 s, or when the request is answered that it is at."""
        self._is_stopped = True

    def serve(self) -> None:
        """Answer until it is stopped."""
        while not self._is_stopped:
            try:
                data, address = self._socket.recvfrom(_LARGEST)
            except TimeoutError:
                if self._run and time.monotonic() - self._latest > FORGOTTEN:
                    self._say("the other host is silent: the run is over")
                    self._end_run()
                continue
            except OSError:  # Windows: that an answer did not arrive
                continue
            found = wire.parse(data, wire.REQUEST)
            if found is not None:
                with contextlib.suppress(OSError):
                    self._socket.sendto(self._answer(found, address[0]), address)

    def _end_run(self) -> None:
        if self._counting is not None:
            self._counting.__exit__(None, None, None)
        self._counting, self._run, self._answered = None, "", (-1, b"")

    def _answer(self, found: dict[str, Any], host: str) -> bytes:
        """The answer; to a request that came again, the same one."""
        run, number, now = found["run"], found["number"], time.monotonic()
        if self._run and run != self._run and now - self._latest <= FORGOTTEN:
            return wire.answer(run, number, refused="another run is going on")
        if run == self._run and number == self._answered[0]:
            return self._answered[1]
        self._latest = now
        try:
            text = wire.answer(run, number, **self._done(found, run, host))
        except MulticastError as error:
            text = wire.answer(run, number, refused=str(error))
            if self._counting is None:
                self._run = ""  # nothing was opened: others may try
        self._latest = time.monotonic()
        self._answered = number, text
        return text

    def _done(self, found: dict[str, Any], run: str, host: str) -> dict[str, Any]:
        """What a request wants is done; the answer's contents."""
        name = found.get("do")
        if name == "open":
            self._end_run()
            self._run = run
            how = _WAYS.get(str(found.get("how")), "sockets")
            self._say(f"{host} measures {how}")
            self._counting = Counting(str(self._group), **self._named, **ring_arguments(how))
            return {"group": str(Group(self._group.address, self._group.port))}
        if self._counting is None:
            return {"refused": "no run is open"}
        if name == "begin":
            self._counting.begin()
            return {}
        key, sent = found.get("key"), found.get("sent")
        if name == "count" and isinstance(key, int) and 0 <= key < 1 << 64 and isinstance(sent, int):
            return asdict(self._counting.counted(key, sent))
        if name == "close":
            self._end_run()
            return {}
        return {"refused": "no such request"}


# The host that sends -------------------------------------------------------------------------------------------------


class Remote:
    """The host that counts, as the other one sees it: `Peer`.

    Args:
        host: Its address.
        port: Of its requests.
        is_over: Whether to give up waiting.
    """

    def __init__(self, host: str, port: int, is_over: Callable[[], bool]) -> None:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            self._address: tuple[Any, ...] = address
            self._socket = socket.socket(family, kind, protocol)
        except OSError as error:
            raise socket_error("find", f"host {host}", error) from None
        self._host = host
        self._is_over = is_over
        self._run = secrets.token_hex(8)
        self._number = 0

    @contextlib.contextmanager
    def opened(self, how: How) -> Iterator["Remote"]:
        """With a receiver there."""
        self._ask("open", how=how)
        try:
            yield self
        finally:
            with contextlib.suppress(MulticastError):
                self._ask("close", tries=2)

    def close(self) -> None:
        """Close the socket of requests."""
        self._socket.close()

    def begin(self) -> None:
        """Have it count anew."""
        self._ask("begin")

    def counted(self, key: int, sent: int) -> Counted:
        """What came there."""
        found = wire.counted_of(self._ask("count", key=key, sent=sent, patience=_COUNTS))
        if found is None:
            raise SocketError(0, f"host {self._host} answers what no version of this program does", "receive")
        return found

    def _ask(self, name: str, tries: int = _TRIES, patience: float = _PATIENCE, **more: Any) -> dict[str, Any]:
        """The answer; SocketError when there is none, or it refuses."""
        self._number += 1
        data = wire.request(name, self._run, self._number, **more)
        for _ in range(tries):
            with contextlib.suppress(OSError):  # refused by ICMP, or no route for now: it is asked again
                self._socket.sendto(data, self._address)
            found = self._awaited(patience)
            if found is not None and "refused" in found:
                raise SocketError(0, f"host {self._host} refuses: {str(found['refused'])[:300]}", "receive")
            if found is not None:
                return found
            if self._is_over():
                break
        remedy = f"run `mcast-fast bench --listen GROUP` there, and let UDP pass to port {self._address[1]}"
        raise SocketError(0, f"host {self._host} does not answer; {remedy}", "receive")

    def _awaited(self, patience: float) -> dict[str, Any] | None:
        end = time.monotonic() + patience
        while (left := end - time.monotonic()) > 0 and not self._is_over():
            self._socket.settimeout(min(left, _LOOK))
            try:
                data, address = self._socket.recvfrom(_LARGEST)
            except TimeoutError:
                continue
            except OSError:  # ICMP: no program is there yet
                time.sleep(min(left, _LOOK))
                continue
            found = wire.parse(data)
            is_ours = address[:2] == self._address[:2] and found is not None
            if is_ours and found is not None and (found["run"], found["number"]) == (self._run, self._number):
                return found
        return None
