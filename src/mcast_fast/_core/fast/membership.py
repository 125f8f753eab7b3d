"""What the compiled core has of memberships and socket options: membership.pxi."""

from mcast_fast._core.fast.compiled import (
    MISSING,
    OPTIONS,
    SYSTEM,
    block,
    features_of,
    get_filter,
    join,
    leave,
    missing,
    set_filter,
    set_option,
    set_send_interface,
    unblock,
)

__all__ = [
    "MISSING",
    "OPTIONS",
    "SYSTEM",
    "block",
    "features_of",
    "get_filter",
    "join",
    "leave",
    "missing",
    "set_filter",
    "set_option",
    "set_send_interface",
    "unblock",
]
