"""What the two hosts of a measurement say to each other, as bytes. No I/O.

A datagram is JSON behind a mark. A request has at least as many bytes as its answer: nobody can use a host that listens
to send more to a third one than they sent themselves.
"""

import json
from typing import Any

from mcast_fast._bench.trial import Counted

MARK = b"mcast-fast bench 1\n"
REQUEST = 1200  # bytes, filled up
ANSWER = 1200  # at most
_TEXT = 170  # bytes of a reason, each of which may become six
_RUN = 32  # of the name of a run


def request(name: str, run: str, number: int, **more: Any) -> bytes:
    """A request: what is wanted, of which run, the how-manieth."""
    text = json.dumps({"do": name, "run": run, "number": number, **more}).encode()
    return (MARK + text).ljust(REQUEST)


def answer(run: str, number: int, **more: Any) -> bytes:
    """What is answered; a text that is too long is cut."""
    if "refused" in more:
        more["refused"] = str(more["refused"]).encode("ascii", "replace")[:_TEXT].decode("ascii")
    return (MARK + json.dumps({"run": run, "number": number, **more}).encode())[:ANSWER]


def parse(data: bytes, least: int = 0) -> dict[str, Any] | None:
    """The object in a datagram of at least so many bytes; None: it is none of ours."""
    if len(data) < least or not data.startswith(MARK):
        return None
    try:
        found = json.loads(data[len(MARK) :])
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not _is_count(found.get("number")):
        return None
    run = found.get("run")
    return found if isinstance(run, str) and len(run) <= _RUN and run.isascii() and run.isprintable() else None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def counted_of(found: dict[str, Any]) -> Counted | None:
    """What another host counted; None: that is none."""
    names = ("received", "duplicates", "coalesced")
    drops = ("dropped_socket", "dropped_ring")
    if not all(_is_count(found.get(name)) for name in names):
        return None
    if not all(found.get(name) is None or _is_count(found.get(name)) for name in drops):
        return None
    times = [found.get("cpu"), found.get("seconds")]
    if not all(isinstance(one, int | float) and 0 <= one < 1e6 for one in times):
        return None
    return Counted(**{name: found.get(name) for name in (*names, *drops, "cpu", "seconds")})  # type: ignore[arg-type]
