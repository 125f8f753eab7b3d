"""--metrics: what a verb receives, for Prometheus."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mcast_fast.cli.output import complain
from mcast_fast.errors import SocketError

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch
    from mcast_fast.monitor._monitor import Monitor
    from mcast_fast.receiver import Receiver
    from mcast_fast.sequence._arbiter import Arbiter


@contextlib.contextmanager
def served(options: dict[str, Any], watch: "Monitor | Arbiter") -> Iterator[None]:
    """Metrics of a monitor or an arbiter meanwhile, where --metrics says so."""
    if options["metrics"] is None:
        yield
        return
    from mcast_fast.monitor._exporter import exporter

    try:
        opened = exporter(watch, options["metrics"], per_source=options.get("metrics_per_source", False))
    except SocketError as error:
        raise SocketError(error.errno or 0, f"--{error}", error.operation) from error
    with opened:
        complain(f"metrics at {opened.url}")
        yield


@contextlib.contextmanager
def observed(options: dict[str, Any], receiver: "Receiver") -> Iterator["Callable[[Batch], None] | None"]:
    """What is to be called with each batch of the receiver, whose streams are served meanwhile; None without --metrics.

    Numbers are those of the receiver's own format, which its ledger has; without one RTP is recognised."""
    if options["metrics"] is None:
        yield None
        return
    from mcast_fast.monitor._monitor import AUTO, Monitor

    watch = Monitor(receiver, sequence=AUTO if receiver.stats.lost is None else None)
    with served(options, watch):
        yield watch.add
