"""A forked child ends in one of many ways; the parent notices nothing: `fork PATH END`.

The child ends by SIGALRM when it hangs. With `daemon` the parent ends at once, and the child is looked at: it has no open
object, every call of it says so, and it neither hangs nor spins.
"""

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mcast_fast import ClosedError
from tests.lifecycle.programs.paths import PATHS, Subject, check

CHILD_SECONDS = 10
WORDS = "another process"
kept: list[Subject] = []  # alive until the interpreter is finalized


def refuses(subject: Subject) -> None:
    """Checks that every call raises ClosedError, which names the reason."""
    for name, call in subject.calls.items():
        try:
            answer = call()
        except ClosedError as error:
            check(WORDS in str(error), f"{name}: ClosedError: {error}")
        else:
            check(False, f"{name} returned {answer!r} in the child")


def close(subject: Subject) -> None:
    subject.close()
    subject.close()
    os._exit(0)


def drop(subject: Subject) -> None:
    kept.clear()
    subject.__dict__.clear()
    gc.collect()
    os._exit(0)


def calls(subject: Subject) -> None:
    refuses(subject)
    subject.close()
    refuses(subject)
    os._exit(0)


def execute(_: Subject) -> None:
    os.execv(sys.executable, [sys.executable, "-c", "pass"])


def fail(_: Subject) -> None:
    raise RuntimeError("the child's own")


def worker(subject: Subject) -> None:
    """What a process of multiprocessing does: it ends by os._exit after its own clean-up."""
    subject.close()


# How a child ends, and its exit code.
ENDS: dict[str, tuple[Callable[[Subject], None], int]] = {
    "close": (close, 0),
    "drop": (drop, 0),
    "calls": (calls, 0),
    "os._exit": (lambda _: os._exit(0), 0),
    "exec": (execute, 0),
    "sys.exit": (lambda _: sys.exit(0), 0),
    "exception": (fail, 1),
}
IN_PARENT = ("worker", "daemon")


def fork(act: Callable[[Subject], None], subject: Subject) -> int:
    """The exit code of a child that does it; negative when a signal ended it."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(CHILD_SECONDS)
        act(subject)
        raise SystemExit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def threads() -> int:
    """How many this process has, those of C too where they can be counted. Nothing but a thread could spin."""
    counted = Path("/proc/self/task")
    return sum(1 for _ in counted.iterdir()) if counted.is_dir() else threading.active_count()


def daemonise(subject: Subject) -> None:
    """The original ends, the child goes on."""
    parent = os.getpid()
    if os.fork():
        sys.exit(0)
    signal.alarm(CHILD_SECONDS)
    while os.getppid() == parent:
        time.sleep(0.01)
    refuses(subject)
    check(threads() == 1, f"{threads()} threads: one that the child did not start could spin")
    print("the daemon is well", flush=True)
    sys.exit(0)


def main(path: str, end: str) -> None:
    subject = PATHS[path]()
    kept.append(subject)
    if end == "daemon":
        daemonise(subject)
    elif end == "worker":
        process = multiprocessing.get_context("fork").Process(target=worker, args=(subject,))
        process.start()
        process.join()
        check(process.exitcode == 0, f"the worker ended with {process.exitcode}")
    else:
        act, wanted = ENDS[end]
        code = fork(act, subject)
        check(code == wanted, f"the child ended with {code}, not {wanted}")
    subject.works()
    subject.close()
    print("the parent is well", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
