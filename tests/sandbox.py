"""Takes from this process for good what containers and units take: system calls (seccomp(2)), /proc, /sys, a root that can be
written, capabilities, the privileges of root.

As a program it runs another one so: python -m tests.sandbox netlink mmsg:ENOSYS families:1,2,10 -- python -m pytest …
"""

import ctypes
import errno
import os
import platform
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K
NUMBER, FIRST_ARGUMENT = 0, 16  # offsets in struct seccomp_data

# asm/unistd_64.h, asm-generic/unistd.h
CALLS = {
    "x86_64": {"socket": 41, "setsockopt": 54, "recvmmsg": 299, "sendmmsg": 307},
    "aarch64": {"socket": 198, "setsockopt": 208, "recvmmsg": 243, "sendmmsg": 269},
}
NUMBERS = CALLS.get(platform.machine()) if sys.platform == "linux" else None


class Refusal(NamedTuple):
    """Calls that are refused, those of `socket` for one address family alone, and the answer."""

    calls: tuple[str, ...]
    answer: int
    family: int | None = None


REFUSALS = {
    "netlink": Refusal(("socket",), errno.EAFNOSUPPORT, 16),
    "options": Refusal(("setsockopt",), errno.EPERM),
    "mmsg:ENOSYS": Refusal(("recvmmsg", "sendmmsg"), errno.ENOSYS),
    "mmsg:EPERM": Refusal(("recvmmsg", "sendmmsg"), errno.EPERM),
}


Step = tuple[int, int, int, int]


def refuse(*names: str) -> None:
    """Refuse from now on what these rows of REFUSALS name, in this process and its children."""
    steps: list[Step] = []
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
    _filter([*steps, (RETURN, 0, 0, ALLOW)])


def _filter(steps: list[Step]) -> None:
    """Have the kernel decide about each system call by these steps, from now on, also in children."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))  # struct sock_fprog
    library = ctypes.CDLL(None, use_errno=True)
    for request in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)):
        if library.prctl(*request) != 0:
            raise OSError(ctypes.get_errno(), f"prctl: {os.strerror(ctypes.get_errno())}")


# A unit with SystemCallFilter=@system-service, SystemCallErrorNumber=EPERM and these RestrictAddressFamilies=: AF_UNIX, AF_INET, AF_INET6,
# AF_NETLINK. Numbers of system calls by <asm/unistd.h>.
UNIT_FAMILIES = (1, 2, 10, 16)
UNISTD = "/usr/include/{machine}-linux-gnu/asm/unistd_64.h"


def _allowed(group: str, listed: str) -> set[str]:
    """The system calls of a group, in what `systemd-analyze syscall-filter` lists."""
    words = [line.strip() for line in listed.partition(f"\n{group}\n")[2].partition("\n\n")[0].splitlines()]
    groups = [word for word in words if word.startswith("@")]
    return set(words).union(*(_allowed(one, listed) for one in groups))


def restrict_as_a_unit() -> None:
    """Refuse what systemd refuses to a unit of deploy/; OSError where there is no systemd, or no header."""
    argv = ["systemd-analyze", "--no-pager", "syscall-filter"]
    listed = "\n" + subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    numbers = dict(re.findall(r"__NR_(\w+) (\d+)", Path(UNISTD.format(machine=platform.machine())).read_text("ascii")))
    allowed = {int(numbers[name]) for name in _allowed("@system-service", listed) if name in numbers}
    steps = _of_families(UNIT_FAMILIES)
    for number in sorted(allowed - {NUMBERS["socket"]}):
        steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    _filter([*steps, (RETURN, 0, 0, ERRNO | errno.EPERM)])


def _of_families(numbers: Sequence[int]) -> list[Step]:
    """Decides about socket(2) by the address family, and leaves all other calls to what follows."""
    wanted = [step for number in numbers for step in ((EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW))]
    families = [(LOAD, 0, 0, FIRST_ARGUMENT), *wanted, (RETURN, 0, 0, ERRNO | errno.EAFNOSUPPORT)]
    return [(LOAD, 0, 0, NUMBER), (EQUAL, 0, len(families), NUMBERS["socket"]), *families]


def allow_families(numbers: Sequence[int]) -> None:
    """Refuse sockets of all other address families, as RestrictAddressFamilies= of systemd.exec(5) does."""
    _filter([*_of_families(numbers), (RETURN, 0, 0, ALLOW)])


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


MS_MOVE = 0x2000
NOBODY = 65534


def _open_way(path: Path) -> None:
    """Let every user reach a path, in a mount namespace of this process's own: a folder above it that others may not enter is
    one with nothing but the way, until the process ends."""
    for above in reversed(path.parents):
        if above.stat().st_mode & 0o001:
            continue
        _call("unshare", CLONE_NEWNS)
        _call("mount", b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
        below = above / path.relative_to(above).parts[0]
        kept = tempfile.mkdtemp(dir="/dev/shm").encode()
        _call("mount", bytes(below), kept, None, ctypes.c_ulong(MS_BIND), None)
        _call("mount", b"none", bytes(above), b"tmpfs", 0, b"mode=755")
        below.mkdir()
        _call("mount", kept, bytes(below), None, ctypes.c_ulong(MS_MOVE), None)
        Path(os.fsdecode(kept)).rmdir()


def _become_ordinary() -> None:
    """An ordinary user of the system, who can run this Python."""
    _open_way(Path(sys.executable).resolve())
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


ABSENT: dict[str, Callable[[], None]] = {
    "proc": lambda: _mount(b"none", b"/proc", b"tmpfs", 0),
    "sys": lambda: _mount(b"none", b"/sys", b"tmpfs", 0),
    "writing": lambda: _mount(b"none", b"/", b"", MS_REMOUNT | MS_BIND | MS_RDONLY),
    "capabilities": _drop_capabilities,
}
USERS = {"root": _become_ordinary}
CANNOT = 77  # exit code: this process may not


def main() -> None:
    at = sys.argv.index("--")
    try:
        for name in sys.argv[1:at]:
            if change := (ABSENT | USERS).get(name):
                change()
        refuse(*(name for name in sys.argv[1:at] if name in REFUSALS))
        if "unit" in sys.argv[1:at]:
            restrict_as_a_unit()
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(CANNOT)
    for name in sys.argv[1:at]:
        if name.startswith("families:"):
            allow_families([int(number) for number in name.removeprefix("families:").split(",")])
    os.execvp(sys.argv[at + 1], sys.argv[at + 1 :])


if __name__ == "__main__":
    main()
