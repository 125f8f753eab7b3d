"""Features of an interface by which the kernel coalesces the packets that it receives: ethtool(8), `ethtool -k`.

Rules of this module: it only reads, and needs no privilege; nothing is raised, and what cannot be read is None.
"""

import array
import contextlib
import socket
import struct

from mcast_fast._host import ifreq
from mcast_fast._systems import SYSTEM

# <linux/ethtool.h>
ETHTOOL_GDRVINFO, ETHTOOL_GSTRINGS, ETHTOOL_GSSET_INFO, ETHTOOL_GFEATURES = 0x03, 0x1B, 0x37, 0x3A
ETH_SS_FEATURES = 4
SSET_INFO = struct.Struct("=IIQI")  # command, reserved, mask of sets, length of the first set
GSTRINGS = struct.Struct("=III")  # command, set, length; the strings follow
STRING_BYTES = 32  # ETH_GSTRING_LEN
GFEATURES = struct.Struct("=II")  # command, blocks; the blocks follow
BLOCK = struct.Struct("=IIII")  # available, requested, active, never changed: a bit for each of 32 features
DRVINFO = struct.Struct("=I32s160x")  # command, driver

# As `ethtool -k` names them, and as the kernel does.
GRO, UDP_GRO_FORWARDING, GRO_LIST = "generic-receive-offload", "rx-udp-gro-forwarding", "rx-gro-list"
FEATURES = {GRO: "rx-gro", UDP_GRO_FORWARDING: UDP_GRO_FORWARDING, GRO_LIST: GRO_LIST}


def read(index: int) -> dict[str, bool | None]:
    """Whether each of FEATURES is on at the interface with this index, in the calling thread's network namespace.

    Returns:
        A value for every feature; None where it cannot be read: another system than Linux, no such interface, a call
        that a sandbox refuses, or a kernel that does not know the feature.
    """
    active: dict[str, bool] = {}
    with contextlib.suppress(OSError, OverflowError, ValueError):
        active = _active(socket.if_indextoname(index))
    return {title: active.get(feature) for title, feature in FEATURES.items()}


def driver(name: str) -> str:
    """The driver of an interface, such as "veth"; '' where it is not known."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        return driver_by(asked, name)
    return ""


def driver_by(asked: socket.socket, name: str) -> str:
    """The same by a socket that is open: another one would cost more than the answer."""
    data = array.array("B", DRVINFO.pack(ETHTOOL_GDRVINFO, b""))
    with contextlib.suppress(OSError):
        _ask(asked, name, data)
        return _text(DRVINFO.unpack(data)[1])
    return ""


def _active(name: str) -> dict[str, bool]:
    """Every feature of an interface that the kernel has a name for, and whether it is on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        # GSTRINGS writes all strings, whatever length it is given, so their number has to be known before.
        data = array.array("B", SSET_INFO.pack(ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0))
        _ask(asked, name, data)
        count = SSET_INFO.unpack(data)[3]
        names = array.array("B", GSTRINGS.pack(ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count) + bytes(STRING_BYTES * count))
        _ask(asked, name, names)
        blocks = -(-count // 32)
        states = array.array("B", GFEATURES.pack(ETHTOOL_GFEATURES, blocks) + bytes(BLOCK.size * blocks))
        _ask(asked, name, states)
    bits = [BLOCK.unpack_from(states, GFEATURES.size + BLOCK.size * block)[2] for block in range(blocks)]
    starts = range(GSTRINGS.size, len(names), STRING_BYTES)
    titles = [_text(names[start : start + STRING_BYTES].tobytes()) for start in starts]
    return {title: bool(bits[number // 32] >> number % 32 & 1) for number, title in enumerate(titles)}


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="replace")


def _ask(asked: socket.socket, name: str, data: "array.array[int]") -> None:
    if not SYSTEM.ethtool_request:
        raise OSError("this system has no ethtool requests")
    ifreq.call(asked, SYSTEM.ethtool_request, name, data)
