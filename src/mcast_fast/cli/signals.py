"""What signals do while a verb runs."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

from mcast_fast.cli.output import interrupted

STOP_NAMES = ("SIGINT", "SIGTERM", "SIGBREAK")  # the last: Ctrl-Break on Windows, and its window was closed
STOP: list[int] = [getattr(signal, name) for name in STOP_NAMES if hasattr(signal, name)]


@contextlib.contextmanager
def stop_signals_call(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM (SIGBREAK) call `stop` once; a second one aborts, for standard output may be what is stuck."""
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in STOP}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(_number: int, _frame: FrameType | None) -> None:
        restore()
        interrupted()
        stop()

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()


@contextlib.contextmanager
def signals_call(actions: Mapping[str, Callable[[], None]]) -> Iterator[None]:
    """Signals by name call their actions, as often as they come; those that the system does not have are left out."""
    known = {number: action for name, action in actions.items() if (number := getattr(signal, name, None)) is not None}
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in known}

    def handle(number: int, _frame: FrameType | None) -> None:
        known[number]()

    try:
        for number in known:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
