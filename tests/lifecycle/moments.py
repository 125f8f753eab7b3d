"""Every moment of a call: something happens at the first moment of ours, at the second, and so on.

A handler of a signal runs where the interpreter looks for one: when a function of Python begins, and after a call of C
(CPython's ceval: RESUME and CALL check the eval breaker). A profiler is called at the same places, and what it raises
is raised there. Trying them one after the other finds what random signals find once in a thousand times."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

SOURCE = Path(__file__).parents[2] / "src" / "mcast_fast"


class Moment:
    """At moment `number` of the named modules' code `act` is called, once. `came`: whether it was."""

    def __init__(self, number: int, act: Callable[[], object], modules: tuple[str, ...]) -> None:
        self.came = False
        self._left = number
        self._act = act
        self._files = {str(SOURCE / name) for name in modules}

    def __enter__(self) -> "Moment":
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        if event not in ("call", "c_return") or self.came or frame.f_code.co_filename not in self._files:
            return
        if self._left == 0:
            self.came = True
            self._act()
        self._left -= 1


def moments(most: int = 5000) -> Iterator[int]:
    """Numbers for Moment; the caller breaks when one no longer comes."""
    yield from range(most)
    raise AssertionError(f"the call has more than {most} moments")
