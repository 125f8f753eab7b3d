"""Root's privileges, given up for good."""

import os

from mcast_fast.errors import ArgumentError, os_text


def become(user: str) -> None:
    """Go on as this user, with his groups (setuid(2), for all threads); ArgumentError when there is no such user, or
    this process may not."""
    try:
        import pwd

        entry = pwd.getpwnam(user)
    except ImportError:
        raise ArgumentError(f"user {user!r}: this system has no users to become") from None
    except KeyError:
        raise ArgumentError(f"there is no user {user!r}; see `getent passwd`") from None
    try:
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    except OSError as error:
        raise ArgumentError(f"become user {user!r}: {os_text(error.errno or 0)}; only root can") from error
