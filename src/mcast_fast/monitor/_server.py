"""A small HTTP server (RFC 9110, RFC 9112): one thread, a few clients, and one answer for each connection.

What a client sends costs no more than LONGEST_REQUEST bytes and PATIENCE seconds of a place among MOST_CLIENTS, of whom
the oldest gives way. The thread closes what it serves, and nobody waits for a client.
"""

import contextlib
import errno
import http
import logging
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mcast_fast._core import pairs, process, threads
from mcast_fast._core.lifetime import close_all
from mcast_fast.errors import ArgumentError, escaped, socket_error

PATIENCE = 5.0  # seconds for a request, and for each piece of its answer
MOST_CLIENTS = 16
LONGEST_REQUEST = 16 << 10
PIECE = 1 << 18  # bytes of an answer
PAUSE = 0.1  # seconds without new clients when the process is out of descriptors
ENDING = 1.0  # seconds that close() gives the thread
HOST = "127.0.0.1"
OPENER, THREAD = "opener", "thread"
METHODS = ("GET", "HEAD")

log = logging.getLogger("mcast_fast")


class Request(NamedTuple):
    """What a client requests; the names of its headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]


class Answer(NamedTuple):
    """What it gets: the kind of its content, the content, and further headers."""

    kind: str
    body: bytes
    status: http.HTTPStatus = http.HTTPStatus.OK
    headers: tuple[tuple[str, str], ...] = ()


def plain(text: str, status: http.HTTPStatus = http.HTTPStatus.OK) -> Answer:
    """A line of text."""
    return Answer("text/plain; charset=utf-8", f"{text}\n".encode(), status)


def endpoint(text: str) -> tuple[str, int]:
    """[HOST]:PORT taken apart; without a host this machine alone is meant. ArgumentError.

    >>> endpoint("[::1]:9464")
    ('::1', 9464)
    """
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_wrong = ":" in host if bare == host else ":" not in bare
    if not colon or is_wrong or not (port.isascii() and port.isdigit() and len(port) < 6) or int(port) > 65_535:
        raise ArgumentError(
            f"address {escaped(text)!r} is not [HOST]:PORT; use :9464 (this machine), 0.0.0.0:9464 or [::]:9464 "
            "(every interface), or port 0 (any that is free)"
        )
    return bare or HOST, int(port)


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections there; SocketError, ArgumentError."""
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ArgumentError(
            f"address {shown}: no such host: {error.args[-1]}; use an address of this machine"
        ) from None
    except OSError as error:  # no descriptor is left to read the system's files by (EAI_SYSTEM, getaddrinfo(3))
        raise socket_error("metrics", shown, error) from error
    family, kind, protocol, _, address = found[0]
    try:
        listener = socket.socket(family, kind, protocol)
        try:
            # A port that was closed a moment ago is free: not on Windows, where the option shares one that is in use.
            option = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
            listener.setsockopt(socket.SOL_SOCKET, option, 1)
            listener.bind(address)
            listener.listen(MOST_CLIENTS)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise socket_error("metrics", shown, error) from error
    return listener


def _pair() -> tuple[pairs.End, pairs.End]:
    """Two sockets to wake the thread by; SocketError."""
    try:
        return pairs.connected()
    except OSError as error:
        if error.errno is None:  # of a signal handler
            raise
        raise socket_error("open", "a pair of sockets for metrics", error) from error


class _Client:
    """A connection: what has come of its request, and what of the answer is to be sent."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.received = b""
        self.unsent = memoryview(b"")
        self.is_answered = False
        self.until = 0.0
        self.wait()

    def wait(self) -> None:
        """Have it begin its patience anew."""
        self.until = time.monotonic() + PATIENCE


class Server:
    """Answers requests at an address, from its construction until `close`.

    The thread refers to this object alone, and to `answer`, which it calls for each request; what that raises is
    answered with 500 and logged. SocketError, ArgumentError, with nothing left open."""

    def __init__(self, host: str, port: int, answer: Callable[[Request], Answer]) -> None:
        self._process = process.number
        self._answer = answer
        self._clients: dict[int, _Client] = {}  # by descriptor, the oldest first
        self._owner: dict[str, str] = {}
        self._thread = 0
        self._closed = False
        self._ended = threading.Lock()
        self._ended.acquire()  # until the thread ends
        self._listens_from = 0.0  # when it accepts again
        self._listener = listen(host, port)
        self._ends: list[Any] = []
        try:
            self.address: tuple[str, int] = self._listener.getsockname()[:2]
            self._ends.extend(_pair())
            self._ends[1].setblocking(False)
            threads.start(self._run, name="mcast-fast metrics")
        except BaseException as error:
            self.close()
            if isinstance(error, RuntimeError) and "new thread" in str(error):  # and not one of a signal handler's own
                raise socket_error("open", "a thread for metrics", OSError(errno.EAGAIN, "")) from error
            raise

    @property
    def foreign(self) -> bool:
        """Whether another process opened it."""
        return self._process != process.number

    def close(self) -> None:
        """Have the thread close everything, and end; again does nothing.

        Waits for it, but no longer than ENDING: it may wait for what the caller, a signal handler, has interrupted. In
        a forked child, which has no such thread, it closes the child's descriptors and does nothing else."""
        if self.foreign or self._is_owner(OPENER):
            self._close_sockets()
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._ends[1].send(b"!")
        # At the end of the interpreter no other thread runs any more.
        if self._thread != threading.get_ident() and not sys.is_finalizing() and self._ended.acquire(timeout=ENDING):
            self._ended.release()

    def _close_sockets(self) -> None:
        close_all([self._listener, *self._ends, *(one.socket for one in list(self._clients.values()))])

    def _is_owner(self, who: str) -> bool:
        """Whether the sockets are this one's to close: of OPENER and THREAD the first one to call this is the owner."""
        return self._owner.setdefault("", who) == who  # one step, and the same answer again after an exception

    # ---- the thread ----

    def _run(self) -> None:
        if not self._is_owner(THREAD):
            return
        self._thread = threading.get_ident()
        # No descriptor of its own.
        waiting: selectors.BaseSelector = getattr(selectors, "PollSelector", selectors.SelectSelector)()
        try:
            waiting.register(self._ends[0], selectors.EVENT_READ)
            waiting.register(self._listener, selectors.EVENT_READ)
            while not self._closed:
                self._turn(waiting)
        finally:
            waiting.close()
            self._close_sockets()
            self._clients.clear()
            self._ended.release()

    def _turn(self, waiting: selectors.BaseSelector) -> None:
        for key, _ in waiting.select(self._until_next()):
            client = self._clients.get(key.fd)
            if key.fileobj is self._listener:
                self._accept(waiting)
            elif client is not None and client is key.data:  # not dropped, or another one, meanwhile
                self._serve(waiting, client)
        now = time.monotonic()
        for client in [one for one in self._clients.values() if one.until <= now]:
            self._drop(waiting, client)
        if self._listens_from and self._listens_from <= now:
            self._listens_from = 0.0
            waiting.register(self._listener, selectors.EVENT_READ)

    def _until_next(self) -> float | None:
        times = [one.until for one in self._clients.values()]
        if self._listens_from:
            times.append(self._listens_from)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _accept(self, waiting: selectors.BaseSelector) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # it has gone again
            return
        except OSError as error:  # no descriptor is left, or no memory
            log.warning("metrics: a client cannot be accepted: %s", error)
            waiting.unregister(self._listener)
            self._listens_from = time.monotonic() + PAUSE
            return
        if len(self._clients) >= MOST_CLIENTS:
            self._drop(waiting, next(iter(self._clients.values())))
        connection.setblocking(False)
        client = self._clients[connection.fileno()] = _Client(connection)
        waiting.register(connection, selectors.EVENT_READ, client)

    def _drop(self, waiting: selectors.BaseSelector, client: _Client) -> None:
        self._clients.pop(client.socket.fileno(), None)
        waiting.unregister(client.socket)
        client.socket.close()

    def _serve(self, waiting: selectors.BaseSelector, client: _Client) -> None:
        try:
            if client.unsent:
                self._send(waiting, client)
            else:
                self._receive(waiting, client)
        except BlockingIOError:
            return
        except OSError:
            self._drop(waiting, client)

    def _receive(self, waiting: selectors.BaseSelector, client: _Client) -> None:
        data = client.socket.recv(LONGEST_REQUEST)
        if not data:
            self._drop(waiting, client)
        elif not client.is_answered:  # one that is answered is read to its end: a reset could overtake the answer
            client.received += data
            is_long = len(client.received) > LONGEST_REQUEST
            if b"\r\n\r\n" in client.received or is_long:
                client.unsent = memoryview(self._response(client.received, is_long))
                client.is_answered = True
                client.wait()
                waiting.modify(client.socket, selectors.EVENT_WRITE, client)

    def _send(self, waiting: selectors.BaseSelector, client: _Client) -> None:
        client.unsent = client.unsent[client.socket.send(client.unsent[:PIECE]) :]
        client.wait()
        if not client.unsent:
            client.socket.shutdown(socket.SHUT_WR)
            waiting.modify(client.socket, selectors.EVENT_READ, client)

    def _response(self, received: bytes, is_long: bool) -> bytes:
        request = None if is_long else parse(received)
        if request is None:
            status = http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if is_long else http.HTTPStatus.BAD_REQUEST
            answer = plain(status.phrase, status)
        elif request.method not in METHODS:
            answer = plain("use GET", http.HTTPStatus.METHOD_NOT_ALLOWED)._replace(headers=(("Allow", "GET, HEAD"),))
        else:
            answer = self._answered(request)
        return b"".join(_pieces(answer, request is None or request.method != "HEAD"))

    def _answered(self, request: Request) -> Answer:
        try:
            return self._answer(request)
        except Exception as error:
            log.exception("metrics: %s cannot be answered", escaped(request.path))
            return plain(f"{type(error).__name__}: {error}", http.HTTPStatus.INTERNAL_SERVER_ERROR)


def parse(received: bytes) -> Request | None:
    """A request; None where it is none. Any bytes can be given."""
    head = received.partition(b"\r\n\r\n")[0].decode("latin-1")
    first, *lines = head.split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1.") or not parts[1].startswith("/"):
        return None
    named = (line.partition(":") for line in lines)
    return Request(parts[0], parts[1], {name.strip().lower(): value.strip() for name, _, value in named})


def _pieces(answer: Answer, with_body: bool) -> Iterator[bytes]:
    fields = (
        ("Content-Type", answer.kind),
        ("Content-Length", str(len(answer.body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Connection", "close"),
        *answer.headers,
    )
    yield f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n".encode()
    yield from (f"{name}: {value}\r\n".encode() for name, value in fields)
    yield b"\r\n"
    if with_body:
        yield answer.body
