"""No call from Python crashes: every type of the library, made without its constructor, and everything it then offers.

`bare`: calls each attribute without arguments, and with some; only exceptions may come of it.
"""

import contextlib
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType

import mcast_fast as mcast
from mcast_fast import _core, aio

ARGUMENTS: tuple[tuple[object, ...], ...] = ((), (0,), (None,), (b"x",), (1, 2), (-1,), ([],))
# They run forever by design, or end the process.
LEFT_OUT = {"__class__", "__init_subclass__", "__subclasshook__", "__new__", "__dir__"}


def modules() -> list[ModuleType]:
    return [mcast, aio, *(getattr(_core, name) for name in _core.MODULES)]


def types() -> Iterator[type]:
    """Every class of ours that a module shows; exceptions and enums are plain Python."""
    seen = set()
    for module in modules():
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__.startswith("mcast_fast") and kind not in seen:
                seen.add(kind)
                if not issubclass(kind, BaseException):
                    yield kind


def abuse(thing: object) -> int:
    """How many attributes were tried."""
    names = [name for name in dir(type(thing)) if name not in LEFT_OUT]
    for name in names:
        with contextlib.suppress(Exception):
            attribute = getattr(thing, name)
            if callable(attribute):
                for arguments in ARGUMENTS:
                    with contextlib.suppress(Exception):
                        attribute(*arguments)
    for call in (len, repr, iter, hash, memoryview, bytes, list, lambda one: one == one, lambda one: one[0]):  # noqa: PLR0124
        with contextlib.suppress(Exception):
            call(thing)
    return len(names)


def main() -> None:
    tried = 0
    for kind in types():
        print(kind.__qualname__, flush=True)  # the last line before a crash
        with contextlib.suppress(Exception):
            thing = kind.__new__(kind)
            tried += abuse(thing)
            del thing
    print(f"held: {tried} attributes" if tried > 100 else f"only {tried} attributes were tried", flush=True)


if __name__ == "__main__":
    sys.exit(main())
