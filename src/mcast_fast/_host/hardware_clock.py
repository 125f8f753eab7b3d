"""Arrival times by the clock of a network card: switched on at the device, SIOCSHWTSTAMP.

See https://docs.kernel.org/networking/timestamping.html. The card's clock is its own: often TAI, or the time since it
was powered up, unless something such as phc2sys keeps it right.
"""

import array
import os
import socket

from mcast_fast._host import ifreq

SIOCSHWTSTAMP = 0x89B0
SIOCGHWTSTAMP = 0x89B1
FILTER_NONE, FILTER_ALL = 0, 1


def switch_on(sock: socket.socket, interface: str) -> str:
    """Have an interface take the time of every packet it receives; why it does not, '' when it does.

    A filter that another program chose stays as it is. Needs CAP_NET_ADMIN where the times are not on already."""
    config = array.array("i", (0, 0, FILTER_NONE))  # flags, transmit type, receive filter
    try:
        ifreq.call(sock, SIOCGHWTSTAMP, interface, config)
    except OSError as error:
        return os.strerror(error.errno or 0)
    if config[2] != FILTER_NONE:
        return ""
    config[2] = FILTER_ALL
    try:
        ifreq.call(sock, SIOCSHWTSTAMP, interface, config)
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""
