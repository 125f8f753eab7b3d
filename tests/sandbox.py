"""Has the kernel refuse system calls to this process for good, as a container's or a unit's filter does (seccomp(2)).

As a program it runs another under the filter: python -m tests.sandbox netlink mmsg:ENOSYS -- python -m pytest …
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import NamedTuple

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K
NUMBER, FIRST_ARGUMENT = 0, 16  # offsets in struct seccomp_data

# asm/unistd_64.h, asm-generic/unistd.h
CALLS = {
    "x86_64": {"socket": 41, "recvmmsg": 299, "sendmmsg": 307},
    "aarch64": {"socket": 198, "recvmmsg": 243, "sendmmsg": 269},
}
NUMBERS = CALLS.get(platform.machine()) if sys.platform == "linux" else None


class Refusal(NamedTuple):
    """Calls that are refused, those of `socket` for one address family alone, and the answer."""

    calls: tuple[str, ...]
    answer: int
    family: int | None = None


REFUSALS = {
    "netlink": Refusal(("socket",), errno.EAFNOSUPPORT, 16),
    "mmsg:ENOSYS": Refusal(("recvmmsg", "sendmmsg"), errno.ENOSYS),
    "mmsg:EPERM": Refusal(("recvmmsg", "sendmmsg"), errno.EPERM),
}


def refuse(*names: str) -> None:
    """Refuse from now on what these rows of REFUSALS name, in this process and its children."""
    steps: list[tuple[int, int, int, int]] = []
    for name in names:
        refusal = REFUSALS[name]
        for call in refusal.calls:
            steps.append((LOAD, 0, 0, NUMBER))
            answer = (RETURN, 0, 0, ERRNO | refusal.answer)
            if refusal.family is None:
                steps += [(EQUAL, 0, 1, NUMBERS[call]), answer]
            else:
                family = [(LOAD, 0, 0, FIRST_ARGUMENT), (EQUAL, 0, 1, refusal.family), answer]
                steps += [(EQUAL, 0, len(family), NUMBERS[call]), *family]
    steps.append((RETURN, 0, 0, ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))  # struct sock_fprog
    library = ctypes.CDLL(None, use_errno=True)
    for request in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)):
        if library.prctl(*request) != 0:
            raise OSError(ctypes.get_errno(), f"prctl: {os.strerror(ctypes.get_errno())}")


def main() -> None:
    at = sys.argv.index("--")
    refuse(*sys.argv[1:at])
    os.execvp(sys.argv[at + 1], sys.argv[at + 1 :])


if __name__ == "__main__":
    main()
