"""What a process of the benchmark does: `python -m benchmarks.station ROLE ORDER`, commanded by process.py.

A receiving station holds one contender for its whole life. `prefilled` fills its socket's buffer over loopback and
times the drain; `follow` receives a live stream until it is quiet. A sending station sends with the C sender, UDP GSO.
"""

import json
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import network, reference, ring_contenders
from benchmarks.contenders import CONTENDERS, CountsDrops, Received, Setting
from benchmarks.network import Place

SEQUENCE_BYTES = 8
RETIRED_SECONDS = 0.05  # after which the kernel has handed over the last block of a ring, too
NO_LIMIT = 1 << 62


def say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def cpu_nanoseconds() -> int:
    """User and system time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return int((usage.ru_utime + usage.ru_stime) * 1e9)


def resident_bytes() -> int:
    """Of this process: the second number of proc_pid_statm(5), in pages."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class ReceivingStation:
    def __init__(self, order: dict[str, Any]) -> None:
        place = Place(**order["place"])
        libraries = {name: order.get(name, "") for name in ("library", "ring_library", "gro_library")}
        setting = Setting(place, control_messages=tuple(order["control_messages"]), **libraries)
        self._place = place
        self._sender = order.get("sender", order["library"])
        self._contender = CONTENDERS[order["contender"]].opens(setting)
        self._kernel = None if isinstance(self._contender, CountsDrops) else network.own_socket(place.port)

    def ready(self) -> dict[str, Any]:
        library = sys.modules.get("mcast_fast")
        return {
            "port": self._place.port,
            "asked_for": self._kernel and network.asked_for(self._kernel),
            "receive_buffer": self._kernel and self._kernel.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
            "backend": library and library.backend,
        }

    def prefilled(self, count: int, size: int, segments: int = 1) -> None:
        last = self._fill(count, size, segments)
        cpu, start = cpu_nanoseconds(), time.perf_counter_ns()
        received = self._contender.receive(count)
        end, cpu = time.perf_counter_ns(), cpu_nanoseconds() - cpu
        self._verify(received, count, size, last)
        say(wall=(end - start) / count, cpu=cpu / count)

    def resident(self) -> None:
        say(bytes=resident_bytes())

    def refill(self, times: int, count: int, size: int, segments: int) -> None:
        """As prefilled, but many times, and memory is what counts."""
        for _ in range(times):
            last = self._fill(count, size, segments)
            self._verify(self._contender.receive(count), count, size, last)
        self.resident()

    def released(self) -> None:
        """What is left once the contender is closed: the last that this station can be asked."""
        self._contender.close()
        self.resident()

    def _fill(self, count: int, size: int, segments: int) -> bytes:
        """By this process itself, so that no contender pays for another core's caches. Returns the last payload."""
        with network.sending_socket(self._place.port, self._place.interface, "127.0.0.1") as sock:
            reference.send(self._sender, sock, count, size, segments)
        dropped = network.memory_info(self._kernel)[1]
        if dropped:
            raise RuntimeError(
                f"the buffer does not hold {count} packets: {dropped} dropped; run as root or lower --count"
            )
        return (count - 1).to_bytes(SEQUENCE_BYTES, sys.byteorder) + bytes(size - SEQUENCE_BYTES)

    def _verify(self, received: Received, count: int, size: int, last: bytes) -> None:
        queued = network.memory_info(self._kernel)[0]
        if (received.packets, received.total or count * size, received.last or last, queued) != (
            count,
            count * size,
            last,
            0,
        ):
            raise RuntimeError(f"sent {count} x {size} bytes, but received {received}; {queued} bytes still queued")

    def follow(self) -> None:
        dropped = self._dropped()
        cpu = cpu_nanoseconds()
        say(listening=True)
        received = self._contender.receive(NO_LIMIT)
        cpu = cpu_nanoseconds() - cpu
        say(
            packets=received.packets,
            batches=received.batches,
            bytes=received.total,
            cpu=cpu,
            dropped=self._dropped() - dropped,
        )

    def _dropped(self) -> int:
        return network.memory_info(self._kernel)[1] if self._kernel else self._contender.dropped()


class RingStation:
    """A contender of ring_contenders.py: `drain` times the reading of what has filled its ring."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._place = Place(**order["place"])
        setting = Setting(self._place, order["library"], bytes_library=order["bytes_library"])
        self._contender = ring_contenders.CONTENDERS[order["contender"]].opens(setting)

    def ready(self) -> dict[str, Any]:
        return {"port": self._place.port}

    def drain(self, count: int, size: int) -> None:
        time.sleep(RETIRED_SECONDS)
        cpu, start = cpu_nanoseconds(), time.perf_counter_ns()
        received = self._contender.receive(count)
        end, cpu = time.perf_counter_ns(), cpu_nanoseconds() - cpu
        last = (count - 1).to_bytes(SEQUENCE_BYTES, sys.byteorder).ljust(size, b"\0")
        if (received.packets, received.total or count * size) != (count, count * size):
            raise RuntimeError(f"sent {count} x {size} bytes, but received {received}")
        if (received.last or last)[:SEQUENCE_BYTES] != last[:SEQUENCE_BYTES]:
            raise RuntimeError(f"the last packet is not the last one sent: {received.last!r}")
        say(wall=(end - start) / count, cpu=cpu / count)

    def follow(self) -> None:
        dropped, cpu = self._contender.dropped(), cpu_nanoseconds()
        say(listening=True)
        received = self._contender.receive(NO_LIMIT)
        cpu = cpu_nanoseconds() - cpu
        lost = self._contender.dropped() - dropped
        say(packets=received.packets, batches=received.batches, cpu=cpu, dropped=lost)


class SendingStation:
    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order

    def ready(self) -> dict[str, Any]:
        return {}

    def send(self, port: int, count: int, size: int, segments: int, heap: int = 0, rate: float | None = None) -> None:
        with network.sending_socket(port, self._order["interface"], self._order["address"]) as sock:
            taken = reference.send(self._order["library"], sock, count, size, segments, heap=heap, rate=rate)
        say(nanoseconds=taken)


STATIONS = {"receive": ReceivingStation, "ring": RingStation, "send": SendingStation}


def main() -> None:
    role, order = sys.argv[1], json.loads(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the commanding process; here the end of input follows
    try:
        if order.get("core") is not None:
            os.sched_setaffinity(0, {order["core"]})
        station = STATIONS[role](order)
        say(**station.ready())
        for line in sys.stdin:
            arguments = json.loads(line)
            getattr(station, arguments.pop("verb"))(**arguments)
    except Exception as error:  # told to the commanding process, whatever it is
        say(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
