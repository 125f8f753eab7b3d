"""Windows sets an event when an interface or an address changes: NotifyIpInterfaceChange (netioapi.h).

What the system is given to call is its own SetEvent, with the event as the caller's context: SetEvent takes its first
argument, and a 64-bit caller removes the others. A function of Python's would be called in a thread that the
interpreter does not know, also while it ends.
"""

import ctypes
import functools
import math
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from mcast_fast._core import pairs, threads
from mcast_fast._host.changes import ANYTHING, Change

HANDLE = ctypes.c_void_p
INFINITE = 0xFFFFFFFF
WAIT_FAILED = 0xFFFFFFFF
WAIT_OBJECT_0 = 0
FD_READ, FD_CLOSE = 0x01, 0x20  # winsock2.h
# Seconds between two looks where a wait would hold up all green threads.
LOOK = 0.05
NOTIFYING = ("NotifyIpInterfaceChange", "NotifyUnicastIpAddressChange")

Function = Callable[..., Any]


class Calls(NamedTuple):
    """Functions of Windows, by their own names in lower case."""

    create_event: Function
    set_event: Function
    close_handle: Function
    wait_for_multiple_objects: Function
    wsa_event_select: Function
    notify: tuple[Function, ...]
    cancel_mib_change_notify2: Function


def _declared(library: Any, name: str, result: Any, *arguments: Any) -> Function:
    function: Any = getattr(library, name)
    function.restype, function.argtypes = result, arguments
    return function  # type: ignore[no-any-return]


@functools.cache
def calls() -> Calls:
    """The functions; OSError, or AttributeError of a function that is not there."""
    load: Any = ctypes.WinDLL  # type: ignore[attr-defined,unused-ignore]  # on Windows alone
    kernel, winsock, helper = (load(name, use_last_error=True) for name in ("kernel32", "ws2_32", "iphlpapi"))
    word, number, pointer = ctypes.c_uint32, ctypes.c_int, ctypes.c_void_p
    notify_arguments = (ctypes.c_uint16, pointer, pointer, ctypes.c_ubyte, ctypes.POINTER(HANDLE))
    return Calls(
        _declared(kernel, "CreateEventW", HANDLE, pointer, number, number, pointer),
        _declared(kernel, "SetEvent", number, HANDLE),
        _declared(kernel, "CloseHandle", number, HANDLE),
        _declared(kernel, "WaitForMultipleObjects", word, word, pointer, number, word),
        _declared(winsock, "WSAEventSelect", number, pointer, HANDLE, ctypes.c_long),
        tuple(_declared(helper, name, word, *notify_arguments) for name in NOTIFYING),
        _declared(helper, "CancelMibChangeNotify2", word, HANDLE),
    )


def _error(number: int) -> OSError:
    make: Any = ctypes.WinError  # type: ignore[attr-defined,unused-ignore]
    error: OSError = make(number)
    return error


def _last_error() -> OSError:
    get: Any = ctypes.get_last_error  # type: ignore[attr-defined,unused-ignore]
    return _error(get())


class Event:
    """An event that resets itself when it was waited for; closed once."""

    def __init__(self) -> None:
        self.handle: int | None = calls().create_event(None, False, False, None)
        if not self.handle:
            raise _last_error()

    def close(self) -> None:
        """Close it; again does nothing."""
        handle, self.handle = self.handle, None
        if handle:
            calls().close_handle(handle)


class EventNews:
    """An event for whatever changes: the interfaces have to be listed."""

    def __init__(self) -> None:
        self._event = Event()
        self._notifications: list[ctypes.c_void_p] = []
        try:
            for notify in calls().notify:
                self._ask(notify)
        except BaseException:
            self.close()
            raise

    def _ask(self, notify: Function) -> None:
        notification = HANDLE()
        self._notifications.append(notification)  # before the call: no signal handler can come between
        call = ctypes.cast(calls().set_event, ctypes.c_void_p)  # type: ignore[arg-type]
        number = notify(socket.AF_UNSPEC, call, self._event.handle, False, ctypes.byref(notification))
        if number:
            raise _error(number)

    def read(self) -> list[Change]:
        """What changed is not said."""
        return [ANYTHING]

    def waiting(self, wake: pairs.End) -> "EventWaiting":
        """By the event, and one of the socket's."""
        return EventWaiting(self._event, wake)

    def close(self) -> None:
        """Have the system call no more, and close the event; again does nothing."""
        while self._notifications:
            notification = self._notifications.pop()
            if notification.value:  # none where it was refused; wine's stub gives none
                calls().cancel_mib_change_notify2(notification)  # waits for a call of SetEvent that is under way
        self._event.close()


class EventWaiting:
    """Waits for the event, and for something to read at a socket.

    Patches of gevent and eventlet do not see a wait of Windows: it would hold up every green thread of this one. There
    it looks every LOOK seconds, and the others run in between."""

    def __init__(self, news: Event, wake: pairs.End) -> None:
        self._news, self._readable = news, Event()
        self._pause = threading.Lock() if threads.are_green() else None
        if self._pause is not None:
            self._pause.acquire()  # never released: waiting for it with a timeout lets the others run
        if calls().wsa_event_select(wake.fileno(), self._readable.handle, FD_READ | FD_CLOSE):
            error = _last_error()
            self._readable.close()
            raise error

    def wait(self, seconds: float | None) -> tuple[bool, bool]:
        """As news.Waiting; the first one of both that is set."""
        if self._pause is None:
            return self._is_set(seconds)
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        while True:
            found = self._is_set(0)
            left = deadline - time.monotonic()
            if any(found) or left <= 0:
                return found
            self._pause.acquire(timeout=min(LOOK, left))

    def _is_set(self, seconds: float | None) -> tuple[bool, bool]:
        milliseconds = INFINITE if seconds is None else min(math.ceil(1000 * seconds), INFINITE - 1)
        handles = (HANDLE * 2)(self._readable.handle, self._news.handle)
        found: int = calls().wait_for_multiple_objects(2, handles, False, milliseconds)
        if found == WAIT_FAILED:
            raise _last_error()
        return found == WAIT_OBJECT_0, found == WAIT_OBJECT_0 + 1

    def close(self) -> None:
        """Close its own event."""
        self._readable.close()
