"""An exchange feed in MoldUDP64: its packets and messages, and at the end what the network lost.

python examples/moldudp64.py 10.0.0.5@232.1.1.1%eth0:5000 [PACKETS]
"""

import contextlib
import struct
import sys

import mcast_fast as mcast

HEADER = struct.Struct(">10sQH")  # session, number of the first message, number of messages
END = 0xFFFF


def describe(data: bytes) -> str:
    """A packet as a line: where its messages are, and of which types (the first byte, as in ITCH)."""
    if len(data) < HEADER.size:
        return f"{len(data)} bytes: no MoldUDP64"
    session, number, count = HEADER.unpack_from(data)
    if count in (0, END):
        return f"{session!r} {'heartbeat' if count == 0 else 'end of session'}, next {number}"
    types, at = b"", HEADER.size
    while len(types) < count and at + 2 < len(data):
        types += data[at + 2 : at + 3]
        at += 2 + int.from_bytes(data[at : at + 2], "big")
    broken = "" if len(types) == count and at == len(data) else ", and its lengths are wrong"
    return f"{session!r} {number} to {number + count - 1}: {len(data)} bytes, types {types!r}{broken}"


if __name__ == "__main__":
    packets = int(sys.argv[2]) if len(sys.argv) > 2 else None
    with mcast.Receiver(sys.argv[1], sequence="moldudp64") as rx:
        with contextlib.suppress(KeyboardInterrupt):
            for packet in rx.packets(count=packets):
                print(packet.source, describe(packet.data), flush=True)
        for flow in rx.stats.flows:
            print(f"{flow.source}: {flow.received} messages, {flow.lost + flow.pending} missing")
