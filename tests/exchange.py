"""Recordings that travel between machines of different byte order: what `.ci/platforms/slow` carries into its machine and out of it.

`python -m tests.exchange record DIRECTORY`: receives, records as every form, and writes beside it what was received.
`python -m tests.exchange compare DIRECTORY`: reads each of them, and compares every record and payload.
"""

import json
import platform
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import mcast_fast as mcast
from mcast_fast import _core
from mcast_fast._core import blocks
from mcast_fast._core.layout import RECORD, Flag
from tests.conftest import free_port, multicast_ipv6, own_network

FORMS = ("pcapng", "pcap", "pcapng.gz")
SIZES = (0, 1, 2, 3, 7, 8, 9, 255, 1471, 1472, 1473, 9000)
ROUNDS = 50
LONGEST = 1472  # what is longer is truncated
KEPT = Flag.TRUNCATED | Flag.TTL | Flag.TOS  # flags that a file holds
LOST = {".pcap": {"interface": None, "dropped": None}}  # what a form has no place for


def groups() -> list[str]:
    """A group on `lo`, and one of IPv6 where an interface has it."""
    interface = multicast_ipv6()
    found = [f"239.1.1.1%lo:{free_port()}"]
    return found + ([f"[ff11::1%{interface.name}]:{free_port()}"] if interface else [])


def send(wanted: Iterable[str]) -> int:
    """Payloads of many sizes to each group, of different hop limits and classes; how many."""
    sent = 0
    for number, group in enumerate(wanted):
        with mcast.Sender(group, ttl=number, dscp=10 + number) as tx:
            for turn in range(ROUNDS):
                sent += tx.send_batch([bytes((turn + i) % 256 for i in range(size)) for size in SIZES])
    return sent


def rows(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Every packet as names and values that mean the same on all machines."""
    for batch in batches:
        for packet, values in zip(batch, RECORD.iter_unpack(bytes(batch.records)), strict=True):
            time, _, _, dropped, length, wire_length, source, group, source_port, port, flags, ttl, tos = values
            yield {
                "timestamp": time,
                "interface": packet.interface,
                "dropped": dropped,
                "length": length,
                "wire_length": wire_length,
                "source": source.hex(),
                "group": group.hex(),
                "source_port": source_port,
                "port": port,
                "flags": flags & int(KEPT),
                "ttl": ttl,
                "tos": tos,
                "payload": packet.data.hex(),
            }


def describe(path: Path, batch: Any) -> None:
    """What the recordings of the same name must hold."""
    path.write_text(json.dumps({"byteorder": sys.byteorder, "rows": list(rows([batch]))}))


def with_drops(batch: Any) -> Any:
    """The same packets, as if some had been dropped before them: none are, in so short a time."""
    records = b""
    for number, values in enumerate(RECORD.iter_unpack(bytes(batch.records))):
        records += RECORD.pack(*values[:3], number % 3 * 0x010203, *values[4:])
    names = {packet.interface_index: packet.interface for packet in batch}
    return _core.views.Batch.from_bytes(records, bytes(batch.data), names)


def record(directory: Path) -> None:
    """What two receivers of the same groups hear: one's packets are kept, the other's are recorded."""
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{platform.machine()}-{_core.backend}"
    wanted = groups()
    options = {"max_packet_size": LONGEST, "buffer_size": "4MiB", "timeout": 60, "recv_ttl": True, "recv_tos": True}
    with mcast.Receiver(*wanted, **options) as kept, mcast.Receiver(*wanted, **options) as rx:
        recorder = mcast.files.Recorder(rx, directory / f"{name}-live.pcapng")
        running = threading.Thread(target=recorder.run)
        running.start()
        sent = send(wanted)
        batch = kept.collect(sent)
        recorder.stop()
        running.join()
    assert (len(batch), recorder.result.written) == (sent, sent), (len(batch), recorder.result, sent)
    describe(directory / f"{name}-live.json", batch)
    batch = with_drops(batch)
    for form in FORMS:
        with mcast.files.Writer(directory / f"{name}.{form}") as writer:
            writer.write(batch)
    describe(directory / f"{name}.json", batch)
    print(f"exchange: {name}, {sys.byteorder}-endian: {sent} packets recorded, {len(wanted)} groups")


def check_byte_order(path: Path, byteorder: str) -> None:
    """The file has the byte order of the machine it comes from, so that reading it elsewhere crosses over."""
    head = path.read_bytes()[:12]
    magic = blocks.BYTE_ORDER if path.suffix == ".pcapng" else blocks.PCAP_NS
    at = 8 if path.suffix == ".pcapng" else 0
    assert head[at : at + 4] == magic.to_bytes(4, byteorder), f"{path.name} is not {byteorder}-endian"


def in_order(name: str, packets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As they were written; two receivers of two sockets need not take them in the same order, but by their times."""
    if "-live" not in name:
        return packets
    return sorted(packets, key=lambda packet: (packet["port"], packet["timestamp"], packet["payload"]))


def compare_file(path: Path, packets: list[dict[str, Any]], byteorder: str) -> None:
    """One recording against what was received; AssertionError names the first packet that differs."""
    if path.suffix != ".gz":
        check_byte_order(path, byteorder)
    with mcast.files.Reader(path) as reader:
        found = in_order(path.name, list(rows(reader)))
    lost = LOST.get(path.suffix, {})
    wanted = [packet | lost for packet in in_order(path.name, packets)]
    assert len(found) == len(wanted), f"{path.name}: {len(found)} packets of {len(wanted)}"
    for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert one | lost == other, f"{path.name}: packet {number} is {one}, and was {other}"
    print(f"exchange: {path.name}, {byteorder}-endian: {len(found)} packets equal, read by {_core.backend}")


def compare(directory: Path) -> None:
    """Every recording of every backend."""
    described = sorted(directory.glob("*.json"))
    assert described, f"{directory} holds no recording"
    for description in described:
        told = json.loads(description.read_text())
        files = sorted(directory.glob(f"{description.stem}.pcap*"))
        assert files, f"{description}: no recording beside it"
        for path in files:
            compare_file(path, told["rows"], told["byteorder"])


if __name__ == "__main__":
    own_network()
    {"record": record, "compare": compare}[sys.argv[1]](Path(sys.argv[2]))
