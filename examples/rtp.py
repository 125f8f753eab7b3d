"""RTP streams (RFC 3550), those of MPEG-TS too: what is in the packets, and at the end what the network lost.

python examples/rtp.py 239.1.1.1%eth0:5004 [PACKETS]
"""

import contextlib
import sys

import mcast_fast as mcast


def describe(data: bytes) -> str:
    """A packet as a line: payload type, number, timestamp, sender, and the PIDs of an MPEG transport stream."""
    start = 12 + 4 * (data[0] & 15) if data else 0  # behind the contributing sources
    if data and data[0] & 0x10:  # an extension
        start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4], "big")
    end = len(data) - (data[-1] if data and data[0] & 0x20 else 0)  # the last byte counts the padding
    if not 12 <= start <= end or data[0] >> 6 != 2:
        return f"{len(data)} bytes: no RTP"
    number, time, ssrc = (int.from_bytes(data[at:to], "big") for at, to in ((2, 4), (4, 8), (8, 12)))
    rows = [data[at : at + 188] for at in range(start, end - 187, 188)]
    pids = {int.from_bytes(row[1:3], "big") & 0x1FFF for row in rows if row[0] == 0x47 and data[1] & 127 == 33}
    more = f", PIDs {sorted(pids)}" if pids else ""
    return f"{ssrc:08x} type {data[1] & 127}, number {number}, time {time}, {end - start} bytes{more}"


if __name__ == "__main__":
    packets = int(sys.argv[2]) if len(sys.argv) > 2 else None
    with mcast.Receiver(sys.argv[1], sequence="rtp") as rx:
        with contextlib.suppress(KeyboardInterrupt):
            for packet in rx.packets(count=packets):
                print(packet.source, describe(packet.data), flush=True)
        for flow in rx.stats.flows:
            print(f"{flow.key.hex()}: {flow.received} packets, {flow.lost + flow.pending} missing")
