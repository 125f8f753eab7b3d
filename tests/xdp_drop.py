"""Attaches an XDP program to an interface that drops every IPv4 packet of UDP: bpf(2), and IFLA_XDP of rtnetlink(7).

Run as `python xdp_drop.py INTERFACE` where the interface is. The interface keeps the program.
"""

import ctypes
import socket
import struct
import sys

BPF, PROG_LOAD, XDP = 321, 5, 6  # the system call's number on x86-64
RTM_SETLINK, REQUEST_AND_ACK = 19, 5
IFLA_XDP, NESTED = 43, 0x8000
GENERIC = 2  # XDP_FLAGS_SKB_MODE


def step(code, target=0, source=0, offset=0, value=0):
    return struct.pack("=BBhi", code, target | source << 4, offset, value)


def program():
    """Drops what has protocol 17 at byte 23 of an Ethernet frame."""
    return b"".join(
        (
            step(0x61, 2, 1, 0),  # r2 = data
            step(0x61, 3, 1, 4),  # r3 = data_end
            step(0xBF, 4, 2),
            step(0x07, 4, value=24),
            step(0x2D, 4, 3, 3),  # shorter: pass
            step(0x71, 5, 2, 23),  # r5 = protocol
            step(0xB7, 0, value=1),  # XDP_DROP
            step(0x15, 5, 0, 1, 17),
            step(0xB7, 0, value=2),  # XDP_PASS
            step(0x95),
        )
    )


def load():
    code = ctypes.create_string_buffer(program(), len(program()))
    licence = ctypes.create_string_buffer(b"GPL")
    request = struct.pack(
        "=IIQQIIQII", XDP, len(program()) // 8, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0, 0
    )
    request = ctypes.create_string_buffer(request.ljust(128, b"\0"), 128)
    descriptor = ctypes.CDLL(None, use_errno=True).syscall(BPF, PROG_LOAD, request, 128)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "bpf")
    return descriptor


def attach(name, descriptor):
    inner = struct.pack("=HHi", 8, 1, descriptor) + struct.pack("=HHI", 8, 3, GENERIC)
    body = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex(name), 0, 0)
    body += struct.pack("=HH", 4 + len(inner), IFLA_XDP | NESTED) + inner
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.send(struct.pack("=IHHII", 16 + len(body), RTM_SETLINK, REQUEST_AND_ACK, 1, 0) + body)
        (error,) = struct.unpack_from("=i", sock.recv(4096), 16)
        if error:
            raise OSError(-error, "attach")


if __name__ == "__main__":
    attach(sys.argv[1], load())
