"""struct ifreq, and flags of an interface: netdevice(7), <net/if.h>. The numbers are the same on every system."""

import array
import os
import socket
import struct

IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_RUNNING = 0x40

NAME_SIZE = 16  # IFNAMSIZ, with the zero at its end; the requested value follows
LARGEST = 256  # bytes: more than any system's struct ifreq
NAME = struct.Struct("=15sx24x")
INDEX = struct.Struct("=16xi20x")
FLAGS = struct.Struct("=16xH")
LINK_TYPE = struct.Struct("=16xH")  # of SIOCGIFHWADDR: an ARPHRD_ number
POINTER = struct.Struct("@16sP")
SIZE = NAME_SIZE + struct.calcsize("@LLH3B0L")  # of Linux: a union whose largest member is struct ifmap
LIST = struct.Struct("@iP")  # struct ifconf: bytes, and where; Linux fills in rows of SIZE
SIOCGIFCONF = 0x8912


def call(sock: socket.socket, request: int, interface: str, data: "array.array[int]") -> None:
    """An ioctl whose ifreq points at data, which the kernel reads and changes. Raises OSError."""
    import fcntl  # Windows has none

    address, _ = data.buffer_info()
    fcntl.ioctl(sock.fileno(), request, POINTER.pack(os.fsencode(interface), address).ljust(LARGEST, b"\0"))
