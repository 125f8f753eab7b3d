"""What `mcast-fast top` shows: streams as a table, a line and JSON. What comes from the network is escaped."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mcast_fast._core.extraction import HISTORY
from mcast_fast._membership.memberships import Membership
from mcast_fast._units import bound, plural
from mcast_fast.cli.output import brief_time, endpoint_text
from mcast_fast.cli.top_keys import HELP, Settings
from mcast_fast.errors import escaped
from mcast_fast.monitor._stream import OTHER, Stream, StreamState, gap_bound

if TYPE_CHECKING:
    from rich.console import RenderableType

MEGABIT = 1_000_000
BARS = " ▁▂▃▄▅▆▇█"
NAMED = 3  # streams that a line names
STYLES = {StreamState.STALLED: "bold red", StreamState.RESTARTED: "yellow", StreamState.WAITING: "dim"}
AROUND = 5  # lines of the screen that are no rows: totals, headings, view, keys, and one that stays free
DETAILS = 9  # lines of an expanded stream
WITHOUT_BARS = 85  # columns of a table of IPv4 without sparklines
FEWEST_BARS = 5
NAMES = 4  # columns that are no numbers
LEAST_NAME = 8  # columns of the terminal
# What an address of IPv4 takes, and a group with its port: these stay whole, and columns are left out instead.
WHOLE_NAMES = len("255.255.255.255:65535"), len("255.255.255.255")
LEFT_OUT_FIRST: dict[str, tuple[str, ...]] = {
    "rates": ("bytes", "packets"),
    "integrity": ("numbers", "restarts", "reordered"),
    "timing": ("silences", "silence", "median gap"),
}

History = Callable[[Stream], Sequence[tuple[int, int]]]


class Shown(NamedTuple):
    """What is shown at one moment."""

    streams: tuple[Stream, ...]
    drops: dict[str, int | None]
    memberships: Sequence[Membership]
    seconds: float  # since the program began
    coalesced: int = 0  # packets that share their time
    drops_exact: bool = True  # else the drops are a lower bound


# ---- texts ----


def name_of(stream: Stream) -> tuple[str, str, str]:
    """Group and port, source, interface."""
    group = OTHER if stream.group == OTHER else endpoint_text(stream.group, stream.port)
    return escaped(group), escaped(stream.source or "-"), escaped(stream.interface or "-")


def duration_text(ns: int | None) -> str:
    """A time; what is not known is a dash."""
    return "-" if ns is None else brief_time(ns)


def count_text(value: int | None) -> str:
    """Thousands separated; what is not known is a dash."""
    return "-" if value is None else f"{value:,}"


def megabits(stream: Stream) -> str:
    """Mbit/s of payload."""
    return f"{stream.bits_per_second / MEGABIT:,.1f}"


def sizes(stream: Stream, to: str = "-") -> str:
    """Bytes of the smallest and the largest payload; one number where all have the same."""
    if not stream.packets:
        return "-"
    return str(stream.largest) if stream.smallest == stream.largest else f"{stream.smallest}{to}{stream.largest}"


def sparkline(values: Iterable[int]) -> str:
    """A bar for each value, the largest of which is the highest one."""
    values = list(values)
    most = max(values, default=0) or 1
    return "".join(BARS[-(-value * (len(BARS) - 1) // most)] for value in values)


def typical_gap(stream: Stream) -> str:
    """What half of the gaps do not reach."""
    total, below = sum(stream.arrival_gaps), 0
    for bucket, count in enumerate(stream.arrival_gaps):
        below += count
        if total and 2 * below >= total:
            bound = gap_bound(bucket)
            return "long" if bound is None else f"< {duration_text(bound)}"
    return "-"


# ---- views ----

COLUMNS: dict[str, tuple[tuple[str, Callable[[Stream], str]], ...]] = {
    "rates": (
        ("packets/s", lambda one: count_text(one.packets_per_second)),
        ("Mbit/s", megabits),
        ("packets", lambda one: count_text(one.packets)),
        ("bytes", sizes),
    ),
    "integrity": (
        ("numbers", lambda one: escaped(one.sequence or "-")),
        ("lost", lambda one: count_text(one.lost)),
        ("twice", lambda one: count_text(one.duplicates)),
        ("reordered", lambda one: count_text(one.reordered)),
        ("restarts", lambda one: count_text(one.restarts)),
    ),
    "timing": (
        ("median gap", typical_gap),
        ("largest gap", lambda one: duration_text(one.largest_gap or None)),
        ("silence", lambda one: duration_text(one.silent)),
        ("silences", lambda one: count_text(one.silences)),
    ),
}
BY: dict[str, Callable[[Stream], Any]] = {
    "name": lambda one: 0,  # in the order in which they began
    "rate": lambda one: -one.packets_per_second,
    "bits": lambda one: -one.bits_per_second,
    "lost": lambda one: -(one.lost or 0),
    "gap": lambda one: -one.largest_gap,
    "silent": lambda one: -(one.silent or 0),
}


def chosen(streams: Iterable[Stream], settings: Settings) -> list[Stream]:
    """The streams that the filter names, sorted."""
    words = settings.filter.lower().split()
    if words:
        streams = [
            one for one in streams if all(word in " ".join((*name_of(one), one.state)).lower() for word in words)
        ]
    return sorted(streams, key=BY[settings.sort], reverse=settings.is_reversed)


def totals(shown: Shown) -> str:
    """All streams on one line."""
    packets = sum(one.packets_per_second for one in shown.streams)
    bits = sum(one.bits_per_second for one in shown.streams)
    waiting = sum(one.state is StreamState.WAITING for one in shown.streams)
    streams = len(shown.streams) - waiting
    parts = [
        plural(streams, "stream"),
        f"{packets:,} packets/s",
        f"{bits / MEGABIT:,.1f} Mbit/s",
    ]
    if any(one.lost is not None for one in shown.streams):
        parts.append(f"lost {sum(one.lost or 0 for one in shown.streams):,}")
    dropped = sum(value or 0 for cause, value in shown.drops.items() if cause != "nic")
    parts.append(f"dropped {bound(dropped, shown.drops_exact)}{dropped:,}")
    named = {"coalesced": shown.coalesced, "waiting": waiting}
    return ", ".join(parts + [f"{name} {count:,}" for name, count in named.items() if count])


def line(shown: Shown, now: float) -> str:
    """What is shown each second where there is no terminal."""
    stalled = [one for one in shown.streams if one.state is StreamState.STALLED]
    names = [f"{group} from {source} on {interface}" for group, source, interface in map(name_of, stalled[:NAMED])]
    if len(stalled) > NAMED:
        names.append(f"{len(stalled) - NAMED:,} more")
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    return f"{stamp} {totals(shown)}" + (f", stalled {len(stalled):,}: {', '.join(names)}" if stalled else "")


def as_object(shown: Shown, now: int, final: bool = False) -> dict[str, Any]:
    """What `--json` prints; `time` in ns since the epoch."""
    streams = [one._asdict() for one in shown.streams]
    bare = shown._asdict() | {"streams": streams}
    del bare["memberships"]
    return {"time": now, "final": final, **bare}


# ---- tables ----


def stream_table(
    streams: Sequence[Stream],
    view: str,
    width: int,
    history: History | None = None,
    seconds: int = 0,
    selected: int = -1,
) -> "RenderableType":
    """Streams as lines; `history`: of each a sparkline of that many seconds.

    Lines are put together here: a table of rich took most of the time of a screen.
    """
    from rich.cells import cell_len
    from rich.console import Group
    from rich.text import Text

    columns = COLUMNS[view]
    rows = [["group", "source", "iface", "state", *(heading for heading, _ in columns)]]
    rows += [[*name_of(one), str(one.state), *(text(one) for _, text in columns)] for one in streams]
    width -= seconds + 1 if history is not None else 0
    rows = _fitting(rows, LEFT_OUT_FIRST[view], width)
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for at in (1, 0):  # addresses of IPv6 are cut, before numbers are
        widths[at] = max(LEAST_NAME, min(widths[at], widths[at] + width - sum(widths) - len(widths) + 1))
    bars = ["" for _ in streams]
    if history is not None:
        bars = [sparkline(packets for packets, _ in history(one)[-seconds:]) for one in streams]
    styles = ["bold", *("reverse" if at == selected else STYLES.get(one.state, "") for at, one in enumerate(streams))]
    lines = []
    for row, bar, style in zip(rows, [f"{seconds} s" if seconds > 0 and history else "", *bars], styles, strict=True):
        cells = [_fitted(cell, size, at >= NAMES) for at, (cell, size) in enumerate(zip(row, widths, strict=True))]
        lines.append(Text(" ".join([*cells, bar]).rstrip(), style=style, no_wrap=True, overflow="ellipsis"))
    return Group(*lines)


def _fitting(rows: list[list[str]], left_out_first: Sequence[str], width: int) -> list[list[str]]:
    """Rows without the columns for which there is no place beside the names."""
    from rich.cells import cell_len

    columns = list(zip(*rows, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    widths[:2] = map(min, widths, WHOLE_NAMES)
    kept = list(range(len(columns)))
    for heading in left_out_first:
        if sum(widths[at] + 1 for at in kept) - 1 <= width:
            break
        kept.remove(rows[0].index(heading))
    return [[row[at] for at in kept] for row in rows]


def _fitted(cell: str, size: int, right: bool) -> str:
    """A cell in its columns of the terminal."""
    from rich.cells import cell_len, set_cell_size

    if (wide := cell_len(cell)) > size:
        return set_cell_size(cell, size - 1) + "…"
    return " " * (size - wide) + cell if right else cell + " " * (size - wide)


def pairs_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> "RenderableType":
    """A table of texts."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(Text(escaped(cell)) for cell in row))
    return table


def drops_table(shown: Shown) -> "RenderableType":
    """Drops by their causes."""
    heading = "packets" if shown.drops_exact else "packets, at least"
    return pairs_table(("dropped by", heading), [(cause, count_text(value)) for cause, value in shown.drops.items()])


def memberships_table(shown: Shown, rows: int) -> "RenderableType":
    """Memberships, as many as there are rows for."""
    texts = [
        (
            endpoint_text(one.group, one.port),
            one.interface,
            " ".join((one.mode, *one.sources)) if one.sources or one.mode == "include" else "any",
            "joined" if one.joined else one.reason,
        )
        for one in shown.memberships[:rows]
    ]
    return pairs_table(("group", "interface", "sources", "state"), texts)


def details(stream: Stream, history: History) -> "RenderableType":
    """One stream expanded."""
    gaps = [(bucket, count) for bucket, count in enumerate(stream.arrival_gaps) if count]
    bounds = [gap_bound(bucket) for bucket, _ in gaps]
    texts = [
        ("stream", " ".join(name_of(stream))),
        ("state", f"{stream.state}, silent {duration_text(stream.silent)}, silences {stream.silences:,}"),
        ("packets", f"{stream.packets:,}, {stream.bytes:,} bytes, {sizes(stream, ' to ')} each"),
        ("numbers", f"{stream.sequence or '-'}: lost {count_text(stream.lost)}, twice {count_text(stream.duplicates)}"),
        ("largest gap", duration_text(stream.largest_gap)),
        (
            "gaps",
            ", ".join(
                f"{'longer' if bound is None else f'< {duration_text(bound)}'}: {count:,}"
                for (_, count), bound in zip(gaps, bounds, strict=True)
            ),
        ),
        ("30 s", sparkline(packets for packets, _ in history(stream))),
    ]
    return pairs_table(("", ""), texts)


def screen(shown: Shown, settings: Settings, history: History, width: int, height: int) -> "RenderableType":
    """The whole screen; the selected row is always on it."""
    from rich.console import Group
    from rich.text import Text

    is_expanded = settings.is_expanded and settings.view in COLUMNS
    rows = max(1, height - AROUND - (DETAILS if is_expanded else 0))
    streams = chosen(shown.streams, settings)
    settings.selected = min(settings.selected, max(0, len(streams) - 1))
    first = max(0, settings.selected - rows + 1)
    state = f"{settings.view}, by {settings.sort}{' reversed' if settings.is_reversed else ''}"
    if settings.filter or settings.is_typing:
        state += f", filter {settings.filter}{'_' if settings.is_typing else ''}: {len(streams):,}"
    above = totals(shown) + (", paused" if settings.is_paused else "")
    parts: list[RenderableType] = [Text(above, no_wrap=True, overflow="ellipsis")]
    if settings.view == "drops":
        parts.append(drops_table(shown))
    elif settings.view == "memberships":
        parts.append(memberships_table(shown, rows))
    else:
        seen = streams[first : first + rows]
        seconds = min(HISTORY, width - WITHOUT_BARS)
        bars = history if settings.view == "rates" and seconds >= FEWEST_BARS else None
        parts.append(stream_table(seen, settings.view, width, bars, seconds, settings.selected - first))
        if is_expanded and streams:
            parts.append(details(streams[settings.selected], history))
    parts += [Text(text, style="dim", no_wrap=True, overflow="ellipsis") for text in (state, _help(width))]
    return Group(*parts)


def _help(width: int) -> str:
    """The keys, as many as there are columns for."""
    shown = ""
    for key in HELP:
        if len(shown) + len(key) + 2 * bool(shown) > width:
            break
        shown += f"  {key}" if shown else key
    return shown
