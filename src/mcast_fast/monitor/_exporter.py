"""Exporter: streams and the loss ledger for Prometheus, OpenMetrics and JSON.

It takes no packets. For an answer it copies what was counted, as any other thread may, and formats the copy.
"""

import gzip
import http
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from typing import Any, TypeAlias

from mcast_fast import _core
from mcast_fast._core import process
from mcast_fast._core.lifetime import Closing
from mcast_fast._units import checked
from mcast_fast._version import __version__
from mcast_fast.errors import ClosedError, warn
from mcast_fast.files._optional import module
from mcast_fast.monitor._families import FEED, Family, Rising, Seen, families
from mcast_fast.monitor._monitor import Monitor
from mcast_fast.monitor._server import Answer, Request, Server, endpoint, plain
from mcast_fast.monitor._stream import drops
from mcast_fast.monitor._wire import Wire
from mcast_fast.receiver import Receiver
from mcast_fast.sequence._arbiter import Arbiter
from mcast_fast.stats import ReaderStats, Stats

ADDRESS = ":9464"  # the port of OpenTelemetry's exporters for Prometheus
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
FASTEST_GZIP = 1
Watched: TypeAlias = Receiver | Wire | Monitor | Arbiter
NO_COUNTERS = {"events", "flows"}


def exporter(watched: Watched, address: str | None = ADDRESS, *, per_source: bool = False) -> "Exporter":
    """Export metrics over HTTP, from a thread of its own, until the exporter is closed.

        with monitor.exporter(watch):
            for batch in rx:
                watch.add(batch)

    `/metrics` has them as OpenMetrics or as Prometheus' text, whichever the client prefers; `/json` has the ledger and
    all streams as JSON. Names, types and labels: docs/metrics.md. A Monitor gives the streams, and the ledger of its
    receiver; a Receiver or a Wire by itself gives its ledger alone; an Arbiter gives its ledger, and what was dropped
    of its legs. They stay open when the exporter is closed, and may be closed before.

    Args:
        watched: What is exported.
        address: `[HOST]:PORT` where it listens; port 0: any that is free. Without a host 127.0.0.1, for there is no
            password, and the metrics name senders and groups; 0.0.0.0 or [::]: every interface. None: nowhere; what
            `collect()` gives is for a registry of prometheus_client.
        per_source: Whether the sources of streams are a label. Anybody who may send to a group can then make series:
            up to the monitor's `max_streams`.

    Returns:
        An Exporter, which is to be closed.

    Raises:
        FeatureError: The package prometheus_client is missing (extra `metrics`).
        ArgumentError: The address is none, or `watched` is none of those.
        SocketError: The system refuses to listen there, for the port is in use, for example.
    """
    return Exporter(watched, address, per_source=per_source)


exporter.__module__ = "mcast_fast.monitor"


class Exporter(Closing):
    """Metrics over HTTP: what `exporter()` opens. Arguments and errors are those of `mcast_fast.monitor.exporter`.

    Any thread and any signal handler may close it. It belongs to the process that opened it: in a forked child close()
    closes that process's descriptors and nothing else, and collect() raises ClosedError. An exporter that is collected
    without close() is closed, with a ResourceWarning.
    """

    __module__ = "mcast_fast.monitor"

    def __init__(self, watched: Watched, address: str | None = ADDRESS, *, per_source: bool = False) -> None:
        checked(watched, Watched, "watched", "a Receiver, a Wire, a Monitor, or an Arbiter")
        self._pages = _Pages(watched, bool(per_source))
        self._closed = False
        self._servers: list[Server] = []  # one, or none
        if address is not None:
            host, port = endpoint(checked(address, str, "address", "a text such as ':9464'"))
            # In one call: no signal handler can run between the start of the thread and the note of it.
            self._servers.extend(map(Server, [host], [port], [self._pages.answer]))

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port on which it listens; None without a server."""
        return self._servers[0].address if self._servers else None

    @property
    def url(self) -> str:
        """Where Prometheus gets the metrics; empty without a server."""
        if self.address is None:
            return ""
        host, port = self.address
        return f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def collect(self) -> Iterator[Any]:
        """Give the metrics, as a collector for a registry of prometheus_client does.

            prometheus_client.REGISTRY.register(monitor.exporter(watch, None))

        Yields:
            Metric families of prometheus_client.

        Raises:
            ClosedError: The exporter is closed, or another process opened what it shows.
        """
        if self._closed:
            raise ClosedError("the exporter is closed")
        return self._pages.collect()

    def close(self) -> None:
        """Close the socket and all connections, and end the thread; closing again does nothing.

        Any thread and any signal handler may call it at any moment. It waits for the thread, for a second at most: an
        answer in progress is finished first.
        """
        try:
            self._close()
        except BaseException:  # a signal handler raised: it is closed nevertheless
            self._close()
            raise

    def _close(self) -> None:
        self._closed = True
        for server in self._servers:
            server.close()

    def __del__(self, is_exit: Callable[[], bool] = sys.is_finalizing) -> None:
        servers = getattr(self, "_servers", None)
        if not servers or self._closed or is_exit():  # then modules are taken apart, and the system closes all
            return
        try:
            if not servers[0].foreign:
                warn(f"unclosed {self!r}", ResourceWarning, self)
        finally:
            self.close()

    def __repr__(self) -> str:
        return f"<Exporter{f' at {self.url}' if self.url else ''}{', closed' if self._closed else ''}>"


class _Pages:
    """What is answered: the thread refers to this, and not to the exporter, which may be forgotten."""

    def __init__(self, watched: Watched, per_source: bool) -> None:
        what = "an exporter of metrics"
        self._core = module("prometheus_client.core", what, "metrics")
        self._texts = {
            PROMETHEUS: module("prometheus_client.exposition", what, "metrics").generate_latest,
            OPEN_METRICS: module("prometheus_client.openmetrics.exposition", what, "metrics").generate_latest,
        }
        self._watched = watched
        self._per_source = per_source
        self._build = {"version": __version__, "backend": _core.backend}
        self._process = process.number
        self._rising = Rising()
        self._looking = threading.RLock()  # held from a look until it is remembered
        self._is_looking = False

    def answer(self, request: Request) -> Answer:
        """What a client gets."""
        page = {"/": self._index, "/metrics": self._metrics, "/json": self._json}.get(request.path.partition("?")[0])
        if page is None:
            return plain("there are /metrics and /json", http.HTTPStatus.NOT_FOUND)
        answer = page(request)
        if not _accepts(request.headers.get("accept-encoding", ""), "gzip"):
            return answer
        encoded = (("Content-Encoding", "gzip"), ("Vary", "Accept, Accept-Encoding"))
        return answer._replace(body=gzip.compress(answer.body, FASTEST_GZIP), headers=encoded)

    def collect(self) -> Iterator[Any]:
        """As Exporter.collect."""
        if self._process != process.number:  # the thread that holds the lock may not be here
            self._seen()
        with self._looking:
            is_first, self._is_looking = not self._is_looking, True  # else a signal handler looks in the middle
            try:
                found = families(self._seen(), self._per_source, self._build)
                shown = [self._rising.shown(one, is_kept=is_first) for one in found]
            finally:
                self._is_looking = not is_first
        return map(self._metric, shown)

    def _seen(self) -> Seen:
        if isinstance(self._watched, Arbiter):
            ledgers = [one.stats for one in self._watched.legs]
            dropped = tuple(drops(one) if isinstance(one, Stats | ReaderStats) else {} for one in ledgers)
            return Seen(None, (), self._watched.stats, dropped)
        if isinstance(self._watched, Monitor):
            receiver, streams = self._watched.receiver, self._watched.streams()
        else:
            receiver, streams = self._watched, ()
        return Seen(None if receiver is None else receiver.stats, streams)

    def _metric(self, family: Family) -> Any:
        """A family as one of prometheus_client."""
        kinds = {"counter": "Counter", "gauge": "Gauge", "histogram": "Histogram", "info": "Info"}
        make = getattr(self._core, f"{kinds[family.kind]}MetricFamily")
        if family.kind == "info":
            return make(family.name, family.help, dict(zip(family.labels, family.samples[0][0], strict=True)))
        metric = make(family.name, family.help, labels=family.labels, unit=family.unit)
        for labels, value in family.samples:
            metric.add_metric(labels, *(value if family.kind == "histogram" else (value,)))
        return metric

    def _index(self, _request: Request) -> Answer:
        return plain(f"mcast-fast {__version__}: metrics for Prometheus at /metrics, JSON at /json")

    def _metrics(self, request: Request) -> Answer:
        kind = OPEN_METRICS if prefers_open_metrics(request.headers.get("accept", "")) else PROMETHEUS
        return Answer(kind, self._texts[kind](self))

    def _json(self, _request: Request) -> Answer:
        seen = self._seen()
        found = {"time": time.time_ns(), **self._build, **_as_object(seen)}
        return Answer("application/json", json.dumps(found).encode())


def _as_object(seen: Seen) -> dict[str, Any]:
    """What was counted, for JSON."""
    found: dict[str, Any] = {"streams": [one._asdict() for one in seen.streams]}
    if seen.feed is not None:
        found["feed"] = {one.name.removeprefix("mcast_feed_"): one.value(seen.feed) for one in FEED}
        legs = zip(seen.feed.legs, seen.leg_drops, strict=True)
        found["legs"] = [asdict(leg) | {"drops": dropped} for leg, dropped in legs]
    if seen.stats is not None:
        names = [one.name for one in fields(Stats) if one.name not in NO_COUNTERS]
        found["ledger"] = {name: getattr(seen.stats, name) for name in names}
        found["drops"] = drops(seen.stats)
        found["flows"] = [asdict(one) | {"key": one.key.hex()} for one in seen.stats.flows]
    return found


# ---- content negotiation (RFC 9110, 12.5) ----


def _choices(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """What a client accepts: each with its parameters, and how much it likes it."""
    for one in header.lower().split(","):
        name, *rest = (part.strip() for part in one.split(";"))
        parameters = {key.strip(): value.strip() for key, _, value in (part.partition("=") for part in rest)}
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 0.0
        yield name, parameters, quality


def prefers_open_metrics(accept: str) -> bool:
    """Whether a client that sends this header likes OpenMetrics 1.0 no less than Prometheus' text."""
    choices = list(_choices(accept))
    open_metrics, text = (
        max(
            (quality for name, more, quality in choices if name in names and more.get("version") in versions), default=0
        )
        for names, versions in (
            (("application/openmetrics-text",), (None, "1.0.0")),
            (("text/plain",), (None, "0.0.4")),
        )
    )
    return open_metrics > 0 and open_metrics >= text


def _accepts(header: str, encoding: str) -> bool:
    return any(name == encoding and quality > 0 for name, _, quality in _choices(header))
