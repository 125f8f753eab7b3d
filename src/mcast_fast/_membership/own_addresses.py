"""This machine's addresses, of which a receiver refuses packets that come from its own port; looked up now and then."""

import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mcast_fast._core.addresses import is_link_local, map_address
from mcast_fast._host.interfaces import interfaces

if TYPE_CHECKING:
    from mcast_fast._core.fast.slots import Slots

FRESH = 1.0  # seconds for which the addresses are taken to stay
Addresses = frozenset[tuple[bytes, int]]


def own_addresses() -> Addresses:
    """Every address, packed, and the interface of one that is link-local: others may have it on other links."""
    return frozenset(
        (packed, interface.index if is_link_local(packed) else 0)
        for interface in interfaces()
        for packed in map(map_address, interface.addresses)
    )


class OwnAddresses:
    """Has the slots of a receiver refuse its own packets. Every call may be made in the middle of another one."""

    def __init__(self, slots: "Slots") -> None:
        self._slots = slots
        self._known: Addresses = frozenset()
        self._until = 0.0  # by the monotonic clock
        self._namespace = _namespace()
        self._lock = threading.RLock()

    def update(self) -> None:
        """Look the addresses up."""
        with self._lock:
            known = own_addresses()
            if known != self._known:
                self._slots.refuse_own(known)
                self._known = known
            self._until = time.monotonic() + FRESH

    def refresh(self, have_changed: bool = False) -> None:
        """Look them up, unless that was done a moment ago; where the system refuses that, they stay as they are, and in
        a thread that is in another network namespace than the receiver."""
        if (have_changed or time.monotonic() >= self._until) and self._namespace == _namespace():
            with contextlib.suppress(OSError):
                self.update()


def _namespace() -> int:
    """The network namespace of this thread, by its inode (namespaces(7)); 0 where there are none."""
    with contextlib.suppress(OSError):
        return Path("/proc/thread-self/ns/net").stat().st_ino
    return 0
