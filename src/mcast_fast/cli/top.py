"""mcast-fast top: what each stream does now."""

import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mcast_fast import _core
from mcast_fast.cli.codes import LOSS, NOTHING_CAME
from mcast_fast.cli.metrics import served
from mcast_fast.cli.options import GROUP, LONGER, UP_TO_AN_HOUR, groups_alone, receiving, recognised_form, shared
from mcast_fast.cli.output import complain, nothing_came
from mcast_fast.cli.signals import signals_call, stop_signals_call
from mcast_fast.cli.top_keys import Keys, Settings
from mcast_fast.cli.top_view import COLUMNS, Shown, as_object, drops_table, line, screen, stream_table, totals
from mcast_fast.errors import ClosedError, FeatureError, SocketError
from mcast_fast.monitor._monitor import LARGEST_TABLE, MOST_STREAMS, STALLED_AFTER, Monitor, missing
from mcast_fast.monitor._stream import drops
from mcast_fast.monitor._wire import Wire
from mcast_fast.receiver import Receiver

if TYPE_CHECKING:
    from rich.console import Console

OF_GROUPS = ("port", "source", "buffer_size", "background", "watch")  # options
# While the library's thread receives, a little sleep makes batches large: each costs as much as some 20 packets.
AT_ONCE, GATHER = 4096, 0.02  # packets, seconds
REFRESH = 0.8  # seconds, of a screen: with STALLED_AFTER less than 2 s until a stream shows to have stopped
WIDE = 250  # columns where there is no terminal: nothing is folded, so that grep finds whole lines


@click.command("top", short_help="What each stream does now: rates, gaps, loss, states.")
@click.argument("groups", metavar="[GROUP...]", type=GROUP, nargs=-1, callback=groups_alone)
@shared("port", "source", interface="For groups that name none; alone: all that reaches it, joined or not (a ring).")
@recognised_form
@click.option("--interval", type=LONGER, default="1s", show_default=True, help="Between lines, without a terminal.")
@click.option(
    "--stalled-after", type=UP_TO_AN_HOUR, default=STALLED_AFTER, show_default=True, help="A silence that is a stall."
)
@click.option(
    "--streams",
    "most",
    type=click.IntRange(1, LARGEST_TABLE),
    metavar="N",
    default=MOST_STREAMS,
    show_default=True,
    help="Rows at most; others are added up.",
)
@shared("count", "timeout", "duration", "buffer_size", "background", "ring", "watch", "metrics", "metrics_per_source")
@shared(
    json="An object per interval, and one at the end.",
    fail_on_loss="Exit 3 when a packet was dropped, or a number is missing.",
)
def command(groups: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Show what each stream does now, until q or Ctrl-C; a report at the end.

    A stream is what comes from one source to one group and port on one interface. With --interface and no group, it
    shows every multicast stream that reaches the interface, joined or not: by a ring (Linux, CAP_NET_RAW).

    \b
    waiting     joined, and nothing has come yet
    receiving
    stalled     nothing came for --stalled-after; its rates are 0
    restarted   a few seconds ago it came again, or its numbers began anew

    \b
    Keys of the table:
      q          quit                      /          filter by words (Escape)
      t          next view: rates, integrity, timing, drops, memberships
      s  r       next order; reversed      Up Down    select a stream
      p          pause                     Enter      expand it
      x          count anew

    Without a terminal it prints a line per --interval; rates are those of the last second, of payload.

    Exits 0; 1 on an error; 2 on a usage error; 3 on loss with --fail-on-loss; 4 when nothing came before --timeout.
    """
    limits = {name: options[name] for name in ("timeout", "duration", "count")}
    with _opened(groups, options) as receiver:
        watch = Monitor(
            receiver,
            sequence=None if options["form"] == "none" else options["form"],
            stalled_after=options["stalled_after"],
            max_streams=options["most"],
        )
        gathers = isinstance(receiver, Receiver) and receiver.background > 0
        display = _display(receiver, watch, options["interval"], as_json)
        with stop_signals_call(receiver.close), served(options, watch), display.running():
            for batch in receiver.batches(**limits):
                watch.add(batch)
                if gathers and len(batch) < AT_ONCE:
                    time.sleep(GATHER)
        ended = receiver.closed  # by a key or a signal
        display.report()
    if code := _exit_code(display.shown, missing(watch), options, ended, groups):
        raise click.exceptions.Exit(code)


def _opened(groups: tuple[str, ...], options: dict[str, Any]) -> Receiver | Wire:
    """What receives the groups; without any, what goes to all of them on the interface."""
    if groups:
        return Receiver(*groups, batch_size=AT_ONCE, **receiving(options, in_background=True))  # drawing takes long
    interface = options["interface"]
    if interface is None:
        raise click.UsageError("name a group; or --interface eth0 for every multicast stream on it")
    if given := [f"--{name.replace('_', '-')}" for name in OF_GROUPS if options[name]]:
        raise click.UsageError(f"{given[0]} is of groups, and none is named")
    ring = _core.feature("ring")
    if not ring:
        raise FeatureError(f"--interface without a group needs a ring: {ring.reason}; name the groups")
    try:
        return Wire(interface)
    except SocketError as error:
        raise SocketError(error.errno or 0, f"--interface without a group: {error}", error.operation) from error


def _exit_code(shown: Shown, missed: int, options: dict[str, Any], ended: bool, groups: tuple[str, ...]) -> int:
    dropped = sum(value or 0 for cause, value in shown.drops.items() if cause != "nic")
    if options["fail_on_loss"] and (dropped or missed):
        return LOSS
    came = any(one.packets for one in shown.streams)
    if not came and not ended and options["timeout"] is not None:
        if groups:
            named = {name: options[name] for name in ("port", "interface", "source")}
            nothing_came(options["timeout"], groups, **named)
        else:
            complain(
                f"no multicast packet came by {options['interface']} within {options['timeout']:g} s; a switch that "
                "snoops IGMP or MLD forwards only what somebody behind the port has joined"
            )
        return NOTHING_CAME
    return 0


# ---- displays ----


class Lines:
    """A line, or an object, per interval."""

    def __init__(self, receiver: Receiver | Wire, watch: Monitor, interval: float, as_json: bool) -> None:
        self.receiver = receiver
        self.watch = watch
        self.interval: float = interval
        self.as_json = as_json
        self.ended: threading.Event = threading.Event()
        self.began: float = time.monotonic()
        self.failure: Exception | None = None  # of the thread
        self.shown: Shown = Shown((), {}, (), 0.0)
        self.shown = self.look()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Show, in a thread of its own, what comes meanwhile; what cannot be shown ends it, and is raised."""
        thread = threading.Thread(target=self._run_safely, name="top", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.ended.set()
            thread.join()
            self.refresh()
        if self.failure is not None:
            raise self.failure

    def refresh(self, with_memberships: bool = False) -> None:
        """Have what is shown be what there is now."""
        self.shown = self.look(with_memberships)

    def look(self, with_memberships: bool = False) -> Shown:
        """What there is now. The system is asked for each membership: only where they are shown."""
        memberships = self.shown.memberships  # of a receiver that was closed, as they were
        if with_memberships:
            with contextlib.suppress(ClosedError):
                memberships = self.receiver.memberships
        seconds, ledger = time.monotonic() - self.began, self.receiver.stats
        return Shown(self.watch.streams(), drops(ledger), memberships, seconds, ledger.coalesced, ledger.drops_exact)

    def _run_safely(self) -> None:
        try:
            self.run()
        except Exception as error:
            self.failure = error
            self.receiver.close()

    def run(self) -> None:
        """Until `ended`."""
        while not self.ended.wait(self.interval):
            shown = self.look()
            if self.as_json:
                click.echo(json.dumps(as_object(shown, time.time_ns())))
            else:
                click.echo(line(shown, time.time()))

    def report(self) -> None:
        """All streams at the end."""
        shown = self.shown
        if self.as_json:
            click.echo(json.dumps(as_object(shown, time.time_ns(), final=True)))
            return
        console = new_console()
        if not console.is_terminal:
            console.width = WIDE
        console.print(totals(shown))
        for view in COLUMNS:
            console.print(stream_table(shown.streams, view, console.width))
        console.print(drops_table(shown))


class Screen(Lines):
    """A table on a terminal, and keys."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._drawing = threading.Lock()  # held while the terminal is written to, or is given back
        self._keys = Keys()
        self._console = new_console()
        self._has_terminal = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Show it meanwhile; Ctrl-Z gives the terminal back for as long as the program is stopped."""
        # Where Ctrl-Z does nothing (without job control, SIG_IGN), it stays so.
        stops = signal.getsignal(getattr(signal, "SIGTSTP", signal.SIGINT)) is signal.SIG_DFL
        with signals_call({"SIGTSTP": self._stop} if stops else {}), super().running():
            yield

    def run(self) -> None:
        """Until `ended`, or a key says so."""
        from rich.live import Live

        console, settings = self._console, Settings()
        with Live(console=console, screen=True, auto_refresh=False) as live, self._terminal():
            while not self.ended.is_set():
                if not settings.is_paused:
                    self.refresh(settings.view == "memberships")
                with self._drawing:
                    live.update(screen(self.shown, settings, self.watch.history, *console.size), refresh=True)
                for key in self._keys.typed(REFRESH):
                    self.press(settings, key)

    @contextlib.contextmanager
    def _terminal(self) -> Iterator[None]:
        """The terminal is ours, with its keys."""
        with self._drawing:
            self._keys.begin()
            self._has_terminal = True
        try:
            yield
        finally:
            with self._drawing:
                self._has_terminal = False
                self._keys.end()

    def _stop(self) -> None:
        """Stop as Ctrl-Z does, until `fg`. The thread of signal handlers is here, and another one draws."""
        with self._drawing:
            if self._has_terminal:
                self._keys.end()
                self._console.show_cursor(True)
                self._console.set_alt_screen(False)
            before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, before)
            if self._has_terminal:
                self._keys.begin()
                self._console.set_alt_screen(True)
                self._console.show_cursor(False)

    def press(self, settings: Settings, key: str) -> None:
        """Do what a key says."""
        wanted = settings.press(key)
        if wanted == "quit":
            self.ended.set()
            self.receiver.close()
        elif wanted == "reset":
            self.watch.reset()


def new_console() -> "Console":
    """Rich's, to which no text is markup."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)


def _display(receiver: Receiver | Wire, watch: Monitor, interval: float, as_json: bool) -> Lines:
    if as_json or not new_console().is_terminal:
        return Lines(receiver, watch, interval, as_json)
    return Screen(receiver, watch, interval, as_json)
