"""Parses messages of rtnetlink: what the kernel reports of routes, links and addresses (netlink(7), rtnetlink(7)).

Rules of this module: no I/O. Any bytes can be given: what is cut short or invalid ends the parsing, and nothing is
raised. All integers are in native byte order.
"""

import struct
from collections.abc import Iterator

NLMSGHDR = struct.Struct("=IHHII")  # length with this header, type, flags, sequence, port
NLMSGERR = struct.Struct("=i")  # 0 or a negative error number
RTMSG = struct.Struct("=8BI")  # family, dst_len (bits), src_len, tos, table, protocol, scope, type; flags
IFINFOMSG = struct.Struct("=BxHiII")  # family, device type, index, flags, changed flags
IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
RTATTR = struct.Struct("=HH")  # length with this header, type
U32 = struct.Struct("=I")

NETLINK_ROUTE = 0
NETLINK_SOCK_DIAG = 4

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 1
NLM_F_DUMP = 0x300

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22
RTM_NEWROUTE = 24
RTM_GETROUTE = 26

RTA_DST = 1
RTA_OIF = 4
IFLA_IFNAME = 3
IFLA_LINK = 5
IFLA_MASTER = 10
IFLA_LINKINFO = 18
IFLA_LINK_NETNSID = 37
IFLA_XDP = 43
IFLA_PROP_LIST = 52
IFLA_ALT_IFNAME = 53  # in IFLA_PROP_LIST
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2  # in IFLA_LINKINFO
IFLA_BR_MCAST_SNOOPING, IFLA_BR_MCAST_QUERIER = 23, 25  # in IFLA_INFO_DATA of a bridge
IFLA_XDP_PROG_ID, IFLA_XDP_DRV_PROG_ID, IFLA_XDP_SKB_PROG_ID, IFLA_XDP_HW_PROG_ID = 4, 5, 6, 7  # in IFLA_XDP
IFA_ADDRESS = 1  # on a point-to-point link the other end's, where there is an IFA_LOCAL too
IFA_LOCAL = 2
IFA_LABEL = 3
RTA_TYPE_MASK = 0x3FFF  # the two bits above are NLA_F_NESTED and NLA_F_NET_BYTEORDER
RTPROT_KERNEL = 2

# Groups of events to bind to.
RTMGRP_LINK = 1
RTMGRP_IPV4_IFADDR = 0x10
RTMGRP_IPV6_IFADDR = 0x100


def request(kind: int, sequence: int, body: bytes, flags: int = 0) -> bytes:
    """A message to the kernel."""
    return NLMSGHDR.pack(NLMSGHDR.size + len(body), kind, NLM_F_REQUEST | flags, sequence, 0) + body


def messages(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Type, sequence and body of each message, up to the first that is cut short."""
    while len(data) >= NLMSGHDR.size:
        length, kind, _, sequence, _ = NLMSGHDR.unpack_from(data)
        if not NLMSGHDR.size <= length <= len(data):
            return
        yield kind, sequence, data[NLMSGHDR.size : length]
        data = data[_aligned(length) :]


def attributes(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Type and value of each attribute, up to the first that is cut short."""
    while len(data) >= RTATTR.size:
        length, kind = RTATTR.unpack_from(data)
        if not RTATTR.size <= length <= len(data):
            return
        yield kind & RTA_TYPE_MASK, data[RTATTR.size : length]
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3  # NLMSG_ALIGNTO, RTA_ALIGNTO
