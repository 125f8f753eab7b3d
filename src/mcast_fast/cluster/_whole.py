"""Files that are there whole or not at all: written beside their place, brought to the disk, and put there."""

import contextlib
import os
import secrets
from pathlib import Path

from mcast_fast.errors import file_error
from mcast_fast.files._streams import open_private


def write_whole(path: str, data: bytes, mode: int = 0o600) -> None:
    """Put a file in its place by write, fsync(2) and rename(2); FileError."""
    beside = f"{path}.{secrets.token_hex(4)}"
    try:
        with open(beside, "xb", opener=open_private) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).chmod(mode & 0o666)
        Path(beside).replace(path)
        _sync_directory(path)
    except OSError as error:
        raise file_error("write", path, error) from error
    finally:
        with contextlib.suppress(OSError):
            Path(beside).unlink()  # it is there after a failure, or an exception of a signal handler


def _sync_directory(path: str) -> None:
    """Bring the name to the disk too, where directories can be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
