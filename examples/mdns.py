"""mDNS (RFC 6762): asks for services, and prints all answers: the records in them by type, name and value.

python examples/mdns.py 224.0.0.251%eth0:5353 _services._dns-sd._udp.local SECONDS
"""

import contextlib
import sys

import mcast_fast as mcast


def name_at(data: bytes, at: int, most: int = 32) -> tuple[str, int]:
    """The name at an offset, and where it ends (RFC 1035, 4.1.4): of this many labels and pointers at most."""
    if not 0 < (size := data[at] if most else 0) < 0xC0:
        return name_at(data, (size & 63) << 8 | data[at + 1], most - 1)[0] if size else "", at + 1 + (size > 0)
    rest, end = name_at(data, at + 1 + size, most - 1)
    return f"{data[at + 1 : at + 1 + size].decode('latin-1')}.{rest}", end


def describe(data: bytes) -> str:
    """The records of an answer as a line, as far as the packet is whole: a name as the value of PTR, else bytes."""
    found, at = list[str](), 12
    with contextlib.suppress(IndexError, ValueError):  # it is cut off, or broken
        questions, *others = (data[place] << 8 | data[place + 1] for place in (4, 6, 8, 10))
        for row in range(questions + sum(others)):
            name, at = name_at(data, at)
            if row >= questions:
                kind, body, at = data[at + 1], at + 10, at + 6 + (data[at + 8] << 8 | data[at + 9])
                value = name_at(data, body)[0] if kind == 12 else ".".join(map(str, data[body : at + 4]))
                found.append(f"{kind} {name!a} {value!a}")
            at += 4
    return "; ".join(found)


if __name__ == "__main__":
    asked = b"".join(bytes([len(label)]) + label.encode() for label in sys.argv[2].split("."))
    with mcast.Sender(sys.argv[1], ttl=255) as tx:  # from a port of its own: answers come by unicast (6.7)
        for answer in tx.gather(bytes(5) + b"\1" + bytes(6) + asked + b"\0\0\x0c\0\1", timeout=float(sys.argv[3])):
            print(answer.source, describe(answer.data), flush=True)
