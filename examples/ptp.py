"""PTP (IEEE 1588) over UDP: who sends which messages, and which clock is announced.

python examples/ptp.py 224.0.1.129%eth0:319 224.0.1.129%eth0:320 [PACKETS]
"""

import contextlib
import struct
import sys

import mcast_fast as mcast

HEADER = struct.Struct(">BBHBBHqI8sHHBb")  # type, version, length, domain, flags, correction, clock, port, number, …
ANNOUNCE = struct.Struct(">hBBBBHB8sHB")  # UTC offset, then of the grandmaster: priority, class, accuracy, …
TYPES = {0: "Sync", 1: "Delay_Req", 2: "Pdelay_Req", 3: "Pdelay_Resp", 8: "Follow_Up", 9: "Delay_Resp", 11: "Announce"}


def describe(data: bytes) -> str:
    """A message as a line: its kind, number, sender and domain, and its time or what it announces."""
    if len(data) < HEADER.size + 10 or data[1] & 15 != 2:
        return f"{len(data)} bytes: no message of PTP version 2"
    kind, _, _, domain, _, _, correction, _, clock, port, number, _, _ = HEADER.unpack_from(data)
    text = f"{TYPES.get(kind & 15, f'type {kind & 15}')} {number} of {clock.hex()}-{port}, domain {domain}"
    if kind & 15 == 11 and len(data) >= 44 + ANNOUNCE.size:
        offset, _, first, rank, accuracy, _, second, grandmaster, steps, _ = ANNOUNCE.unpack_from(data, 44)
        text += f": grandmaster {grandmaster.hex()}, priorities {first} and {second}, class {rank}, "
        return f"{text}accuracy {accuracy:#x}, UTC offset {offset} s, {steps} steps away"
    seconds, nanoseconds = int.from_bytes(data[34:40], "big"), int.from_bytes(data[40:44], "big")
    return f"{text}: time {seconds}.{nanoseconds:09}, correction {correction / 65536:.0f} ns"


if __name__ == "__main__":
    groups = [text for text in sys.argv[1:] if not text.isdecimal()]
    packets = int(sys.argv[-1]) if sys.argv[-1].isdecimal() else None
    with mcast.Receiver(*groups) as rx, contextlib.suppress(KeyboardInterrupt):
        for packet in rx.packets(count=packets):
            print(packet.source, describe(packet.data), flush=True)
