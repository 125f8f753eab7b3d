"""Takes from this process for good what containers and units take: system calls (seccomp(2)), /proc, /sys, a root that can be
written, capabilities.

As a program it runs another one so: python -m tests.sandbox netlink mmsg:ENOSYS families:1,2,10 -- python -m pytest …
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Callable, Sequence
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
    _filter(steps)


def _filter(steps: Sequence[tuple[int, int, int, int]]) -> None:
    """Have each system call pass this program of classic BPF."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))  # struct sock_fprog
    library = ctypes.CDLL(None, use_errno=True)
    for request in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)):
        if library.prctl(*request) != 0:
            raise OSError(ctypes.get_errno(), f"prctl: {os.strerror(ctypes.get_errno())}")


def allow_families(numbers: Sequence[int]) -> None:
    """Refuse sockets of all other address families, as RestrictAddressFamilies= of systemd.exec(5) does."""
    wanted = [step for number in numbers for step in ((EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW))]
    families = [(LOAD, 0, 0, FIRST_ARGUMENT), *wanted, (RETURN, 0, 0, ERRNO | errno.EAFNOSUPPORT)]
    _filter([(LOAD, 0, 0, NUMBER), (EQUAL, 0, len(families), NUMBERS["socket"]), *families, (RETURN, 0, 0, ALLOW)])


CLONE_NEWNS = 0x20000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24


def _call(name: str, *arguments: object) -> int:
    """A function of the C library; OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    result: int = getattr(library, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def _mount(source: bytes, target: bytes, kind: bytes, flags: int) -> None:
    """In a mount namespace of this process's own."""
    _call("unshare", CLONE_NEWNS)
    _call("mount", b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
    _call("mount", source, target, kind, ctypes.c_ulong(flags), None)


def _drop_capabilities() -> None:
    """What is executed next has none, also as root: capabilities(7), "bounding set"."""
    for number in range(64):
        try:
            _call("prctl", PR_CAPBSET_READ, number, 0, 0, 0)
        except OSError:
            return
        _call("prctl", PR_CAPBSET_DROP, number, 0, 0, 0)


ABSENT: dict[str, Callable[[], None]] = {
    "proc": lambda: _mount(b"none", b"/proc", b"tmpfs", 0),
    "sys": lambda: _mount(b"none", b"/sys", b"tmpfs", 0),
    "writing": lambda: _mount(b"none", b"/", b"", MS_REMOUNT | MS_BIND | MS_RDONLY),
    "capabilities": _drop_capabilities,
}
CANNOT = 77  # exit code: this process may not


def main() -> None:
    at = sys.argv.index("--")
    try:
        for name in sys.argv[1:at]:
            if name in ABSENT:
                ABSENT[name]()
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(CANNOT)
    refuse(*(name for name in sys.argv[1:at] if name in REFUSALS))
    for name in sys.argv[1:at]:
        if name.startswith("families:"):
            allow_families([int(number) for number in name.removeprefix("families:").split(",")])
    os.execvp(sys.argv[at + 1], sys.argv[at + 1 :])


if __name__ == "__main__":
    main()
