"""The contract of the membership calls, and of the table of socket options."""

import socket as socket_module

OPTIONS: dict[str, tuple[int, int]]
SYSTEM: str

def join(socket: socket_module.socket, interface: int, group: bytes, source: bytes | None = None) -> None: ...
def leave(socket: socket_module.socket, interface: int, group: bytes, source: bytes | None = None) -> None: ...
def set_send_interface(socket: socket_module.socket, interface: int, source: bytes) -> None: ...
