"""Receives numbered packets in a thread, and counts them by their numbers and by the ledger."""

import threading
import time
from types import TracebackType
from typing import Any

from mcast_fast._bench.trial import Counted
from mcast_fast.errors import ClosedError
from mcast_fast.receiver import Receiver
from mcast_fast.sequence._tracker import Tracker

SILENCE = 0.2  # seconds after which what has not come is lost
_FLOWS = 64  # of other senders too, who may send to the group


class Counting:
    """A receiver in a thread; closed by `with`.

    Args:
        group: The group, with its port and interface.
        named: Arguments of the Receiver, such as `ring`.
    """

    def __init__(self, group: str, **named: Any) -> None:
        self._receiver = Receiver(group, **named)
        self._changed = threading.Condition()
        self._tracker = Tracker("mcast-fast", max_flows=_FLOWS)
        self._noted = 0  # packets, of all trials
        self._cpu = self._started_cpu = 0.0
        self._started: float | None = None
        self._latest = time.monotonic()
        self._newest = 0  # ns since the epoch: when the last packet came that is counted
        self._before = self._receiver.stats
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="bench", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Counting":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._receiver.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            for batch in self._receiver:
                with self._changed:
                    self._tracker.core.note(batch, object())
                    self._noted += len(batch)
                    if self._started is None:  # at the first packets: the sender may take a while to open
                        self._started = time.monotonic()
                    self._cpu, self._latest = time.thread_time(), time.monotonic()
                    self._newest = batch[-1].timestamp or 0
                    self._changed.notify_all()
        except ClosedError:
            pass
        except BaseException as error:  # shown where the figures are asked for
            self.failure = error
        with self._changed:
            self._changed.notify_all()

    # ---- trials ----

    def begin(self) -> None:
        """Count anew."""
        with self._changed:
            self._tracker = Tracker("mcast-fast", max_flows=_FLOWS)
            self._before = self._receiver.stats
            self._started_cpu = self._cpu
            self._started, self._latest = None, time.monotonic()

    def counted(self, key: int, sent: int) -> Counted:
        """What came of the packets of a trial: when all have come, or nothing has for SILENCE.

        Where others go on sending to the group: when a packet is counted that came SILENCE after this call, for all
        that came before it are then. A thread that is slow is waited for."""
        began = time.monotonic()
        over = time.time_ns() + round(SILENCE * 1e9)
        with self._changed:
            while True:
                received, duplicates = self._numbers(key)
                left = max(self._latest, began) + SILENCE - time.monotonic()
                if received >= sent or not self._thread.is_alive() or self._newest >= over:
                    break
                if left <= 0 and self._is_idle():
                    break
                self._changed.wait(max(left, SILENCE / 10))
            if self.failure is not None:
                raise self.failure
            stats = self._receiver.stats - self._before
            return Counted(
                received,
                duplicates,
                stats.dropped_socket,
                stats.dropped_ring,
                stats.coalesced,
                self._cpu - self._started_cpu,
                0.0 if self._started is None else self._latest - self._started,
            )

    def _is_idle(self) -> bool:
        """Whether no packet waits, and the thread holds none that it has not counted."""
        return not self._receiver.wait(0) and self._noted >= self._receiver.stats.received

    def _numbers(self, key: int) -> tuple[int, int]:
        """Packets that came, each once, and again."""
        name = key.to_bytes(8, "big")
        flows = [one for one in self._tracker.core.flows(0) if one.key[:8] == name]
        duplicates = sum(one.duplicates for one in flows)
        return sum(one.received for one in flows) - duplicates, duplicates
