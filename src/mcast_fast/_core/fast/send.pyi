"""The contract of sending."""

import socket as socket_module
from collections.abc import Sequence

from mcast_fast._core.layout import Feature

FEATURES: dict[str, Feature]

def send_batch(
    socket: socket_module.socket,
    payloads: Sequence[bytes | bytearray | memoryview],
    start: int,
    group: bytes,
    port: int,
    interface: int,
) -> int: ...
