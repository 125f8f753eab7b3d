"""Many hosts: a plan that says who records what, manifests of what was recorded, and questions to all files at once.

What is listed here is public. Each name is imported when it is first used; Dask and pyarrow (extra `cluster`) when
something needs them.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcast_fast.cluster._captures import Captures, Exported, Work
    from mcast_fast.cluster._captures import open_captures as open
    from mcast_fast.cluster._catalogue import File
    from mcast_fast.cluster._clock import ClockState
    from mcast_fast.cluster._deal import Deal, Share
    from mcast_fast.cluster._engine import Problem
    from mcast_fast.cluster._flows import Flow, Gap, HostFlow
    from mcast_fast.cluster._manifest import Manifest
    from mcast_fast.cluster._plan import Feed, FileRules, Heartbeat, Host, Plan

__all__ = [
    "Captures",
    "ClockState",
    "Deal",
    "Exported",
    "Feed",
    "File",
    "FileRules",
    "Flow",
    "Gap",
    "Heartbeat",
    "Host",
    "HostFlow",
    "Manifest",
    "Plan",
    "Problem",
    "Share",
    "Work",
    "open",
]

_WHERE = {
    "Captures": "_captures",
    "ClockState": "_clock",
    "Deal": "_deal",
    "Exported": "_captures",
    "Feed": "_plan",
    "File": "_catalogue",
    "FileRules": "_plan",
    "Flow": "_flows",
    "Gap": "_flows",
    "Heartbeat": "_plan",
    "Host": "_plan",
    "HostFlow": "_flows",
    "Manifest": "_manifest",
    "Plan": "_plan",
    "Problem": "_engine",
    "Share": "_deal",
    "Work": "_captures",
    "open": "_captures",
}
_CALLED = {"open": "open_captures"}  # there

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a name when it is first used (PEP 562)."""
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"mcast_fast.cluster.{_WHERE[name]}")
        value = globals()[name] = getattr(module, _CALLED.get(name, name))
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
