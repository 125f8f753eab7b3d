"""DIS (IEEE 1278.1): the PDUs of a simulation, and of entities their name and place.

python examples/dis_pdus.py 239.1.2.3%eth0:3000 [PACKETS]
"""

import contextlib
import struct
import sys

import mcast_fast as mcast

HEADER = struct.Struct(">BBBBIHH")  # version, exercise, type, family, timestamp, length, status and padding
ENTITY = struct.Struct(">3HBB8B8B3f3d3f")  # of an Entity State PDU, behind the header; then the marking at 128
TYPES = {1: "entity state", 2: "fire", 3: "detonation", 4: "collision", 20: "data", 25: "transmitter", 26: "signal"}


def describe(data: bytes) -> str:
    """The PDUs of a packet as a line; there may be several (5.2.1 of 1278.2)."""
    found, at = list[str](), 0
    while at + HEADER.size <= len(data):
        version, exercise, kind, _, _, size, _ = HEADER.unpack_from(data, at)
        pdu = data[at : at + size]
        text = f"exercise {exercise}, {TYPES.get(kind, f'type {kind}')}, version {version}"
        if kind == 1 and len(pdu) >= 140:
            site, application, entity, force, *_ = fields = ENTITY.unpack_from(pdu, HEADER.size)
            x, y, z = fields[24:27]  # metres from the centre of the Earth
            marking = pdu[129:140].rstrip(b"\0")
            text += f": {site}:{application}:{entity} {marking!r}, force {force}, at {x:.1f} {y:.1f} {z:.1f}"
        found.append(text if HEADER.size <= size == len(pdu) else f"{text}, cut off")
        at += max(size, HEADER.size)
    return "; ".join(found) or f"{len(data)} bytes: no DIS"


if __name__ == "__main__":
    packets = int(sys.argv[2]) if len(sys.argv) > 2 else None
    with mcast.Receiver(sys.argv[1]) as rx, contextlib.suppress(KeyboardInterrupt):
        for packet in rx.packets(count=packets):
            print(packet.source, describe(packet.data), flush=True)
