"""Prints C that compiles only where the pure table of a system (argument 1) agrees with the system's headers."""

import struct
import sys

from mcast_fast import _systems
from mcast_fast._core.pure.tables import SYSTEMS

BY_ANOTHER_NAME = {
    ("macOS", "IP_PKTINFO"): "IP_RECVPKTINFO",
    ("macOS", "MCAST_MSFILTER"): "IP_MSFILTER",
    ("FreeBSD", "MCAST_MSFILTER"): "IP_MSFILTER",
    ("Windows", "SIO_TIMESTAMPING"): "",
}
STEPS = {
    "join": "MCAST_JOIN_GROUP",
    "leave": "MCAST_LEAVE_GROUP",
    "join_source": "MCAST_JOIN_SOURCE_GROUP",
    "leave_source": "MCAST_LEAVE_SOURCE_GROUP",
    "block": "MCAST_BLOCK_SOURCE",
    "unblock": "MCAST_UNBLOCK_SOURCE",
}
OLD_STEPS = {
    "join": "IP_ADD_MEMBERSHIP",
    "leave": "IP_DROP_MEMBERSHIP",
    "join_source": "IP_ADD_SOURCE_MEMBERSHIP",
    "leave_source": "IP_DROP_SOURCE_MEMBERSHIP",
    "block": "IP_BLOCK_SOURCE",
    "unblock": "IP_UNBLOCK_SOURCE",
}
LEVELS = {"SO": "SOL_SOCKET", "IP": "IPPROTO_IP", "IPV6": "IPPROTO_IPV6", "UDP": "IPPROTO_UDP", "MCAST": "IPPROTO_IP"}
LINUX_ONLY = ("SO_", "IP_MULTICAST_ALL", "IPV6_MULTICAST_ALL", "UDP_")  # old headers lack some of these
GROUP = bytes((239, 1, 2, 3))
GROUP6 = bytes(range(0xF0, 0x100))


def claims(name: str) -> dict[str, int]:
    """C expressions, and what the table says they are."""
    table = SYSTEMS[name]
    found = {}
    for option, (level, number) in table.options.items():
        spelled = BY_ANOTHER_NAME.get((name, option), option)
        if name == "Linux" and option.startswith(LINUX_ONLY):
            spelled = f"LINUX_{option}" if option != "SO_BINDTODEVICE" else option
        found[spelled] = number
        found[LEVELS[option.split("_")[0]]] = level
    found |= {STEPS[step]: number for step, number in table.steps.items()}
    found |= {OLD_STEPS[step]: number for step, number in table.old_steps.items()}
    if table.filters_by_library or name == "Linux":
        found |= {"MCAST_EXCLUDE": table.modes["exclude"], "MCAST_INCLUDE": table.modes["include"]}
    request, with_source = (
        ("GROUP_REQ", "GROUP_SOURCE_REQ") if name == "Windows" else ("struct group_req", "struct group_source_req")
    )
    storage = table.sockaddr(GROUP)
    found["sizeof(struct sockaddr_storage)"] = len(storage)
    found["offsetof(struct sockaddr_in, sin_addr)"] = storage.index(GROUP)
    found["offsetof(struct sockaddr_in6, sin6_addr)"] = table.sockaddr(GROUP6).index(GROUP6)
    found["AF_INET6"] = table.sockaddr(GROUP6)[1 if table.filters_by_library else 0]
    # The index goes before the address with the padding that the table gives it; "@" means this machine.
    head = struct.calcsize(table.index_format)
    found[f"offsetof({request}, gr_group)"] = head
    found[f"sizeof({with_source})"] = head + 2 * len(storage)
    return found


def main() -> None:
    """The C of the system named by the first argument."""
    name = sys.argv[1]
    assert any(row.name == name for row in _systems.SYSTEMS.values()), name
    print('#include <stddef.h>\n#include "platform.h"')
    for expression, value in claims(name).items():
        print(f'_Static_assert((long long)({expression}) == {value}, "{name}: {expression} is {value} in tables.py");')


main()
