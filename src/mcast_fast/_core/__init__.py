"""Chooses the backend, once: `fast` (compiled) when it is there, else `pure`; MCAST_FAST_BACKEND=fast|pure decides
otherwise.

All other modules use `_core.slots`, `_core.views`, … and never ask which backend is active.
"""

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from mcast_fast._core import layout, refusals
from mcast_fast._systems import SYSTEM
from mcast_fast.errors import warn

MODULES = ("views", "slots", "membership", "send", "files", "sequence", "placement", "arbiter", "monitor")
SYSTEM_FEATURES = ("watch", "igmp_version")  # what packages above the core do, where the system lets them
BACKENDS = ("fast", "pure")
REBUILD = (  # without the cache: pip keeps the wheel that was built before
    "to build it, install a C compiler and Python's headers, set MCAST_FAST_BUILD=yes and run "
    "`pip install --force-reinstall --no-deps --no-cache-dir --no-binary mcast-fast mcast-fast` "
    "(in a source tree: `pip install --force-reinstall --no-deps .`)"
)

ELSEWHERE = "this is a second interpreter of its process, and the compiled backend runs in one only"
MOVE = (
    "to have it, run this code in the main interpreter, and import mcast_fast there alone, or in a process of its own "
    "(mod_wsgi: `WSGIApplicationGroup %{GLOBAL}`)"
)
_REFUSALS_TO_OTHERS = (  # of a module that is imported by a second interpreter: Cython's words, and CPython's
    "only be loaded into one interpreter per process",
    "does not support loading in subinterpreters",
)


def _load(name: str) -> dict[str, ModuleType]:
    return {module: importlib.import_module(f"mcast_fast._core.{name}.{module}") for module in MODULES}


def _remedy_of(reason: str) -> str:
    return MOVE if reason == ELSEWHERE else REBUILD if reason.startswith("the compiled") else ""


def _choose(wanted: str) -> tuple[str, dict[str, ModuleType], str]:
    """The backend's name, its modules, and why it is not the fast one (empty when it is)."""
    if wanted not in ("", *BACKENDS):
        raise ValueError(f"MCAST_FAST_BACKEND={wanted!r} is not one of: {', '.join(BACKENDS)} (or leave it unset)")
    if wanted == "pure":
        return "pure", _load("pure"), "MCAST_FAST_BACKEND=pure"
    try:
        return "fast", _load("fast"), ""
    except ImportError as error:
        if wanted == "fast":
            raise
        is_elsewhere = any(words in str(error) for words in _REFUSALS_TO_OTHERS)
        reason = ELSEWHERE if is_elsewhere else f"the compiled backend is missing ({error})"
    if sys.implementation.name != "cpython":
        return "pure", _load("pure"), f"{sys.implementation.name} runs the pure backend"
    warn(
        f"mcast-fast: {reason}; the pure Python backend runs, several times slower; {_remedy_of(reason)}; "
        "MCAST_FAST_BACKEND=pure chooses the pure backend without this warning"
    )
    return "pure", _load("pure"), reason


backend: str
backend, _modules, _not_fast = _choose(os.environ.get("MCAST_FAST_BACKEND", ""))

if TYPE_CHECKING:
    from mcast_fast._core.fast import arbiter, files, membership, monitor, placement, send, sequence, slots, views
else:
    views, slots, membership, send, files, sequence, placement, arbiter, monitor = (_modules[name] for name in MODULES)


def remedy() -> str:
    """How to get the compiled backend where it is wanted and missing; else empty."""
    return _remedy_of(_not_fast)


def features() -> dict[str, layout.Feature]:
    """Return what this system and backend can do, as a sandbox lets it now.

    Returns:
        A Feature by the name of each: whether it is available, and the reason where it is not.
    """
    found = _known_features(membership.missing())
    if refused := refusals.of_netlink():
        found["watch"] = layout.Feature(False, refused)
    return found


def feature(name: str) -> layout.Feature:
    """One of features(), as at the import; nothing is asked of the system for it, as an opening should not."""
    return _known_features(membership.MISSING)[name]


def _known_features(missing: dict[str, str]) -> dict[str, layout.Feature]:
    found = {"fast": layout.Feature(backend == "fast", _not_fast)}
    found |= layout.option_features(membership.OPTIONS, membership.SYSTEM, missing)
    found |= {
        name: layout.Feature(name not in SYSTEM.missing, SYSTEM.missing.get(name, "")) for name in SYSTEM_FEATURES
    }
    found |= views.FEATURES | slots.FEATURES | send.FEATURES
    found |= {name: layout.Feature(False, reason) for name, reason in missing.items()}
    unknown = layout.Feature(False, "this build does not know it yet: reinstall")
    return {name: found.get(name, unknown) for name in layout.FEATURES}


features.__module__ = "mcast_fast"
