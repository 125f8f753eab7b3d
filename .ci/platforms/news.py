"""Prints C that compiles only where it is true what we know of how a system (argument 1, System.key) reports changes of
interfaces: the messages of a routing socket, or the functions and numbers of Windows."""

import sys

from mcast_fast._host import events
from mcast_fast._host.changes import HEADER, ROUTE_MESSAGES

TYPES = ("RTM_NEWADDR", "RTM_DELADDR", "RTM_IFANNOUNCE")  # the order of `others`
ROUTE_HEADERS = ("stddef.h", "sys/types.h", "sys/socket.h", "net/if.h", "net/route.h")
WINDOWS_HEADERS = ("winsock2.h", "ws2tcpip.h", "windows.h", "iphlpapi.h")
RESULT = "unsigned long(NETIOAPI_API_ *"
# What ctypes is told of these functions: their arguments and results.
PROTOTYPES = f"""
typedef VOID(NETIOAPI_API_ *change)(PVOID, PMIB_IPINTERFACE_ROW, MIB_NOTIFICATION_TYPE);
typedef VOID(NETIOAPI_API_ *address_change)(PVOID, PMIB_UNICASTIPADDRESS_ROW, MIB_NOTIFICATION_TYPE);
{RESULT}of_interfaces)(unsigned short, change, void *, unsigned char, void **) = NotifyIpInterfaceChange;
{RESULT}of_addresses)(unsigned short, address_change, void *, unsigned char, void **) = NotifyUnicastIpAddressChange;
{RESULT}cancel)(void *) = CancelMibChangeNotify2;
int(WINAPI *set)(void *) = SetEvent;
int(WINAPI *chosen)(SOCKET, void *, long) = WSAEventSelect;
"""


def route_claims(key: str) -> dict[str, int]:
    """C expressions, and what the table says they are."""
    system = ROUTE_MESSAGES[key]
    return {
        "RTM_VERSION": system.version,
        "RTM_IFINFO": system.info,
        **dict(zip(TYPES, system.others, strict=False)),
        "offsetof(struct if_msghdr, ifm_msglen)": 0,
        "offsetof(struct if_msghdr, ifm_version)": 2,
        "offsetof(struct if_msghdr, ifm_type)": HEADER.size - 1,
        "offsetof(struct if_msghdr, ifm_index)": system.index_at,
        "sizeof(((struct if_msghdr *)0)->ifm_index)": 2,
        "offsetof(struct if_msghdr, ifm_flags)": system.flags_at,
        "sizeof(((struct if_msghdr *)0)->ifm_flags)": 4,
        "AF_ROUTE": system.family,
        "IFF_UP": 0x1,
        "IFF_RUNNING": 0x40,
    }


def windows_claims() -> dict[str, int]:
    """The same of Windows."""
    names = ("INFINITE", "WAIT_FAILED", "WAIT_OBJECT_0", "FD_READ", "FD_CLOSE")
    return {name: getattr(events, name) for name in names}


def main() -> None:
    """The C of the system named by the first argument."""
    key = sys.argv[1]
    is_windows = key == "win32"
    for header in WINDOWS_HEADERS if is_windows else ROUTE_HEADERS:
        print(f"#include <{header}>")
    for expression, value in (windows_claims() if is_windows else route_claims(key)).items():
        print(f'_Static_assert((long long)({expression}) == {value}, "{key}: {expression} is not {value}");')
    if is_windows:
        print(PROTOTYPES)


main()
