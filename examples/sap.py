"""SAP (RFC 2974): which sessions are announced, by their SDP.

python examples/sap.py [GROUP%INTERFACE:PORT [PACKETS]]
"""

import contextlib
import sys
import zlib

import mcast_fast as mcast

MOST = 65_536  # bytes of a description: a compressed one may claim to be any size
SHOWN = ("s=", "i=", "c=", "m=")  # its name, information, address and media


def describe(data: bytes) -> str:
    """An announcement as a line: whether it begins or ends a session, and what its description says, escaped."""
    start = (20 if data and data[0] & 0x10 else 8) + 4 * (data[1] if len(data) > 1 else 0)  # address, authentication
    if len(data) < start or data[0] >> 5 != 1:
        return f"{len(data)} bytes: no SAP"
    what = "deleted" if data[0] & 4 else "announced"
    if data[0] & 2:
        return f"{what}, encrypted"
    payload = data[start:]
    if data[0] & 1:
        try:
            payload = zlib.decompressobj().decompress(payload, MOST)
        except zlib.error:
            return f"{what}, wrongly compressed"
    sdp = payload.removeprefix(b"application/sdp\0").decode("utf-8", "replace")
    return f"{what} " + ", ".join(ascii(row) for row in sdp.splitlines() if row.startswith(SHOWN))


if __name__ == "__main__":
    group = sys.argv[1] if len(sys.argv) > 1 else "224.2.127.254:9875"
    packets = int(sys.argv[2]) if len(sys.argv) > 2 else None
    with mcast.Receiver(group) as rx, contextlib.suppress(KeyboardInterrupt):
        for packet in rx.packets(count=packets):
            print(packet.source, describe(packet.data), flush=True)
