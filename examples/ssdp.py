"""SSDP (UPnP): asks which devices and services there are, and prints the answers, and what is announced meanwhile.

python examples/ssdp.py [GROUP%INTERFACE:PORT [SECONDS]]
"""

import sys

import mcast_fast as mcast

SEARCH = 'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\nST: ssdp:all\r\n\r\n'
SHOWN = ("NT", "NTS", "ST", "USN", "LOCATION", "SERVER")


def describe(data: bytes) -> str:
    """A message as a line: its first line, and the headers that say what it is about; others' bytes are escaped."""
    first, *rows = data.decode("latin-1").split("\r\n")
    headers = dict(row.split(":", 1) for row in rows if ":" in row)
    known = {name.strip().upper(): value.strip() for name, value in headers.items()}
    return f"{first!a} " + ", ".join(f"{name} {known[name]!a}" for name in SHOWN if name in known)


if __name__ == "__main__":
    group = sys.argv[1] if len(sys.argv) > 1 else "239.255.255.250:1900"
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 3.0
    with mcast.Receiver(group) as rx, mcast.Sender(group, ttl=2) as tx:
        for answer in tx.gather(SEARCH.encode(), timeout=seconds):
            print(answer.source, "answers", describe(answer.data), flush=True)
        for packet in rx.packets(timeout=0):
            print(packet.source, "sends", describe(packet.data), flush=True)
