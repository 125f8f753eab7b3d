"""Numbers of the protocols below UDP: ethertypes, VLAN tags, extension headers of IPv6; the same as in c/frames.h."""

ETHER_IPV4, ETHER_IPV6 = 0x0800, 0x86DD
VLAN_TAGS = (0x8100, 0x88A8, 0x9100)  # 802.1Q, 802.1ad, and QinQ of before 802.1ad
UDP = 17
FRAGMENT, AUTHENTICATION = 44, 51
# hop-by-hop, routing, destination, mobility, HIP, Shim6: each of (second byte + 1) * 8 bytes (RFC 8200, 4)
STEPPED_OVER = (0, 43, 60, 135, 139, 140)
EXTENSIONS = (*STEPPED_OVER, FRAGMENT, AUTHENTICATION)  # headers behind which UDP may follow
