"""LCM, messages between the parts of a robot: their channels, and at the end what the network lost.

python examples/lcm.py 239.255.76.67%lo:7667 [PACKETS]
"""

import contextlib
import struct
import sys

import mcast_fast as mcast

SMALL = struct.Struct(">4sI")  # LC02 and a number; then the channel, a zero, and the message
PIECE = struct.Struct(">4sIIIHH")  # LC03, number, size of the message, offset, which piece, of how many


def describe(data: bytes) -> str:
    """A packet as a line: a message, or a piece of one, the first of which names the channel."""
    name, zero, body = data[SMALL.size :].partition(b"\0")
    if data.startswith(b"LC02") and zero:
        return f"message {SMALL.unpack_from(data)[1]} on {name!r}: {len(body)} bytes"
    if not data.startswith(b"LC03") or len(data) < PIECE.size:
        return f"{len(data)} bytes: no LCM"
    _, number, size, offset, piece, pieces = PIECE.unpack_from(data)
    channel = f" on {data[PIECE.size :].partition(bytes(1))[0][:63]!r}" if piece == 0 else ""
    return f"message {number}{channel}: piece {piece + 1} of {pieces}, at {offset} of {size} bytes"


if __name__ == "__main__":
    packets = int(sys.argv[2]) if len(sys.argv) > 2 else None
    with mcast.Receiver(sys.argv[1], sequence="lcm") as rx, contextlib.suppress(KeyboardInterrupt):
        for packet in rx.packets(count=packets):
            print(packet.source, describe(packet.data), flush=True)
    for flow in rx.stats.flows:
        print(f"{flow.source}:{flow.source_port}: {flow.received} messages, {flow.lost + flow.pending} missing")
