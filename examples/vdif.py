"""VDIF, the frames of radio telescopes: what is in them, and at the end what the network lost of each thread.

python examples/vdif.py 239.1.1.1%eth0:5000 FRAMES_PER_SECOND [PACKETS]
"""

import contextlib
import datetime
import struct
import sys

import mcast_fast as mcast

HEADER = struct.Struct("<4I")  # the words that every frame has; a "legacy" one has no more


def describe(data: bytes) -> str:
    """A frame as a line: when, which, from where, and how its samples are coded (vlbi.org, VDIF 1.1.1)."""
    if len(data) < HEADER.size:
        return f"{len(data)} bytes: no VDIF"
    first, second, third, fourth = HEADER.unpack_from(data)
    epoch, seconds, size = second >> 24 & 63, first & (1 << 30) - 1, 8 * (third & (1 << 24) - 1)
    begin = datetime.datetime(2000 + epoch // 2, 1 + 6 * (epoch % 2), 1)  # half-years since 2000, UTC
    station, bits, channels = (fourth & 0xFFFF).to_bytes(2, "little"), (fourth >> 26 & 31) + 1, 1 << (third >> 24 & 31)
    kind = "complex" if fourth >> 31 else "real"
    wrong = ", marked invalid" if first >> 31 else "" if size == len(data) else f", but {len(data)} bytes came"
    return (
        f"{begin + datetime.timedelta(seconds=seconds)} frame {second & (1 << 24) - 1}, thread {fourth >> 16 & 1023}, "
        f"station {station!r}: {channels} channels of {bits} bits, {kind}, {size} bytes{wrong}"
    )


if __name__ == "__main__":
    packets = int(sys.argv[3]) if len(sys.argv) > 3 else None
    with mcast.Receiver(sys.argv[1], sequence=f"vdif:{sys.argv[2]}") as rx, contextlib.suppress(KeyboardInterrupt):
        for packet in rx.packets(count=packets):
            print(packet.source, describe(packet.data), flush=True)
    for flow in rx.stats.flows:
        print(f"{flow.source} {flow.key.hex()}: {flow.received} frames, {flow.lost + flow.pending} missing")
