"""One round of receiving: waits until sockets are ready, and reads those that are, each in its turn.

What is read is kept and counted by state.py; how long a call goes on is up to slots.py.
"""

import contextlib
import errno
import selectors
import socket
import sys
import time

from mcast_fast._core.coalescing import Mode
from mcast_fast._core.layout import RECORD_SIZE
from mcast_fast._core.pure.coalescing import Brought
from mcast_fast._core.pure.reading import Read, Socket
from mcast_fast._core.pure.state import Call, State
from mcast_fast.errors import os_error, socket_error

HAS_DESCRIPTOR = hasattr(selectors.DefaultSelector, "fileno")
_PATCHES = {"gevent.monkey": "gevent", "eventlet.patcher": "eventlet"}  # modules that take epoll and kqueue away


def no_descriptor() -> str:
    """Why there is none; empty where there is one."""
    if HAS_DESCRIPTOR:
        return ""
    patched = next((name for module, name in _PATCHES.items() if module in sys.modules), None)
    if patched is None:
        return "this system has neither epoll nor kqueue"
    return f"{patched} has taken epoll and kqueue out of the select module; the compiled backend has its own"


_ONE_GO = 256  # packets of a socket that are read without looking at the clock
_GO_BYTES = 3 << 18  # that are read in one go: so large a batch is worth handing over
_LONGEST_WAIT = 86_400.0  # seconds
_GRACE = 0.01  # seconds beyond the deadline, to find what is wanted behind what is not
# Nothing interrupts select() on Windows: signals are looked at between slices. Seconds.
_SLICE = None if HAS_DESCRIPTOR else 0.05
# gevent's selector runs no turn of its loop where it need not wait, and knows nothing of what came meanwhile.
_LOOKS_AT_ONCE = selectors.DefaultSelector.__module__ == "selectors"
_GONE = {errno.EBADF, errno.ENOTCONN, errno.ENOTSOCK}  # what is said of a socket that was closed; ENOTCONN by eventlet


class Rounds(State):
    """Sockets that are waited for together. SocketError.

    Whoever calls a method is inside the receiver; the lock `_state` is held only where sockets are read or change."""

    _rotation = 0
    _removals = 0  # of sockets from those that are waited for
    _failure: OSError | None = None  # behind packets: for the next call

    # ---- the sockets ----

    def _register(self, one: Socket) -> None:
        if one.socket.fileno() < 0:
            raise os_error(errno.EBADF)
        try:
            self._selector.register(one.socket, selectors.EVENT_READ, one)
        except KeyError:
            before = self._selector.get_key(one.socket)
            if before.fileobj is one.socket and before.data.key in self._sockets:
                raise os_error(errno.EEXIST) from None
            self._selector.unregister(before.fileobj)  # it was closed, or an exception ended its removal
            self._selector.register(one.socket, selectors.EVENT_READ, one)

    def _unregister(self, one: Socket) -> None:
        with contextlib.suppress(KeyError, ValueError):  # closed by its opener
            self._selector.unregister(one.socket)
        self._removals += 1  # last: a wait that begins with this number does not list the socket

    # ---- waiting ----

    def _wait(self, deadline: float | None) -> bool:
        while True:
            self._life.check()
            if self._pending is not None or self._unread is not None:
                return True
            left = _time_left(deadline)
            ready = self._select(left)
            self._life.check()
            if [key for key, _ in ready if key.data is not None]:
                return True
            if ready:
                self._look_why_woken()
            elif left == 0:
                return False

    def _select(self, left: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        removals = self._removals
        try:
            ready = self._selector.select(_slice(left))
        except OSError as error:
            # select(2), on Windows or under eventlet, refuses what another thread removed and closed after the
            # descriptors were listed; eventlet may report it in the next wait only.
            if self._removals == removals and not (error.errno in _GONE and self._all_open()):
                raise self._refused(error) from error
            return self._peek()  # the caller looks at its deadline, and whether it is closed, before it waits again
        return ready if ready or left != 0 or _LOOKS_AT_ONCE else self._peek()

    def _all_open(self) -> bool:
        try:
            for one in list(self._sockets.values()):
                one.socket.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        except OSError:
            return False
        return True

    def _peek(self) -> list[tuple[selectors.SelectorKey, int]]:
        """The sockets that have something now, each asked."""
        return [
            (selectors.SelectorKey(one.socket, one.socket.fileno(), selectors.EVENT_READ, one), selectors.EVENT_READ)
            for one in list(self._sockets.values())  # not the selector's, which other threads change meanwhile
            if _has_something(one.socket)
        ]

    def _refused(self, error: OSError) -> OSError:
        """What a call raises for an error of the system; that of a signal's handler has no number, and stays itself."""
        return error if error.errno is None else socket_error("receive", f"by {self._subject}", error)

    # ---- reading ----

    def _fill(self, call: Call, limit: int, deadline: float | None) -> bool:
        """One round: adds what is there, or waits for something until the deadline; False when the time is over."""
        self._life.check()
        if self._pending is not None:
            self._recover()
            return True
        self._raise_failure(call)
        left = _time_left(deadline)
        ready = self._select(left)
        self._life.check()
        if not ready:
            return left != 0
        sockets: list[Socket] = [key.data for key, _ in ready if key.data is not None]
        before = len(call.records)
        if sockets:
            self._read(sockets, call, limit)
        if len(call.records) > before:
            return True
        if len(sockets) < len(ready):
            self._look_why_woken()
            return True
        return deadline is None or time.monotonic() <= deadline + _GRACE

    def _raise_failure(self, call: Call) -> None:
        """An error behind packets waits for the next call: the packets are delivered first."""
        if self._failure is not None and not call.records:
            failure, self._failure = self._failure, None
            raise self._refused(failure) from failure

    def _read(self, sockets: list[Socket], call: Call, limit: int) -> None:
        """Reads the sockets that are ready, each in its turn first, so that none starves behind busy ones."""
        with self._state:
            counters = self._counters
            self._counters = counters | {"wakeups": counters["wakeups"] + 1}
            self._rotation += 1
            start = self._rotation % len(sockets)
            for one in sockets[start:] + sockets[:start]:
                if self._sockets.get(one.key) is not one:
                    self._unregister(one)  # removed meanwhile, or an exception ended its removal
                elif self._failure is None:
                    self._drain(one, call, limit)
            self._raise_failure(call)

    def _drain(self, one: Socket, call: Call, limit: int) -> None:
        """Reads a socket until it is empty, the batch is full, or others should have their turn."""
        enough, most = len(call.data) + _GO_BYTES, _ONE_GO
        while most > 0 and len(call.data) < enough and not self._life.closed:
            room = self._room(call, limit)
            if room <= 0:
                return
            read, before = Read(one, one.filter, self._own, self._epoch), self._counters
            more = self._receive_from(read, room)
            self._pack(call)
            if self._has_cut:
                self._has_cut = False
                self._grow_buffers()
            if self._coalescing.mode != Mode.NEVER:
                brought = _brought(read, more, before, self._counters, call.records)
                self._coalescing.note(one, brought, self._grow_buffers)
            if not more:
                return
            most -= room

    def _receive_from(self, read: Read, room: int) -> bool:
        """Makes a read of up to `room` packets pending; whether there may be more."""
        calls, store = self._buffers.calls(read.one, room), read.results.extend
        try:
            if self._pending is None:  # else the handler of a signal came in between, and left something
                self._pending = read
                store(calls)  # one step: no handler runs between a system call and the storing of its result
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionResetError:  # Windows: an ICMP answer to what was sent from here
            return True
        except OSError as error:
            if error.errno is None:
                raise  # by the handler of a signal
            self._failure = error
            return False
        return True


def _has_something(sock: socket.socket) -> bool:
    """Whether a read would bring a datagram or an error."""
    try:
        sock.recv(1, socket.MSG_PEEK | getattr(socket, "MSG_DONTWAIT", 0))
    except BlockingIOError:
        return False
    except OSError:  # the datagram is larger (Windows), or the read brings this error
        return True
    return True


def _brought(read: Read, more: bool, before: dict[str, int], after: dict[str, int], records: bytearray) -> Brought:
    """What a read brought, by the counters before and after it, and the records of the batch."""
    packets = sum(after[name] - before[name] for name in ("received", "filtered"))
    last = int.from_bytes(records[-RECORD_SIZE:][:8], sys.byteorder)  # its timestamp
    size = after["bytes"] - before["bytes"]
    return Brought(len(read.results), size, packets, after["coalesced"] - before["coalesced"], more, last)


def _time_left(deadline: float | None) -> float | None:
    """Seconds to wait now: a day at most, for longer ones overflow what the system takes."""
    return None if deadline is None else min(max(0.0, deadline - time.monotonic()), _LONGEST_WAIT)


def _slice(left: float | None) -> float | None:
    """Seconds to wait at once, of those left."""
    return left if _SLICE is None else _SLICE if left is None else min(left, _SLICE)
