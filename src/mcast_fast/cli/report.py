"""mcast-fast report: what came of files or groups, as one page."""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcast_fast._report import page, pictures, text
from mcast_fast._report.collect import Collector, figures_of, new_grid
from mcast_fast._report.figures import Figures
from mcast_fast._report.legs import Tap
from mcast_fast.cli.codes import ERROR, LOSS, NOTHING_CAME
from mcast_fast.cli.options import (
    FILE,
    GROUP_OR_FILE,
    LONGER,
    UP_TO_A_MINUTE,
    groups_alone,
    receiving,
    recognised_form,
    shared,
)
from mcast_fast.cli.output import complain, nothing_came, standard_input, wrapped, write_whole
from mcast_fast.cli.signals import stop_signals_call
from mcast_fast.errors import ArgumentError, CaptureError, MulticastError, file_error
from mcast_fast.files._reader import Reader
from mcast_fast.files._streams import check_writable, is_same_file, is_same_path
from mcast_fast.monitor._monitor import AUTO
from mcast_fast.monitor._stream import drops
from mcast_fast.receiver import Receiver
from mcast_fast.sequence._arbiter import HOLD, Arbiter

if TYPE_CHECKING:
    from mcast_fast.doctor._finding import Finding, Report

FOR = 60.0  # seconds, of groups
DOCTOR = 2.0  # seconds that it listens at most
BATCH = 4096  # packets of a file at once
PATH = "report.html"


@click.command("report", short_help="A page of what came: rates, gaps, loss, legs, streams that stopped.")
@click.argument(
    "sources", metavar="GROUP...|FILE...", type=GROUP_OR_FILE, nargs=-1, required=True, callback=groups_alone
)
@click.option(
    "-d", "--for", "--duration", "duration", type=LONGER, help="Receive groups for this long.  [default: 60s]"
)
@click.option(
    "-o", "--output", "path", metavar="FILE", type=FILE, default=PATH, show_default=True, help="The page; - is stdout."
)
@click.option("--svg", metavar="FILE", type=FILE, help="The charts over time alone, as one picture.")
@recognised_form
@click.option("--legs", is_flag=True, help="Each GROUP or FILE is a leg of one feed: compare them.")
@click.option(
    "--hold", type=UP_TO_A_MINUTE, default=HOLD, show_default=True, help="How much later a leg may bring a number."
)
@click.option("--no-doctor", is_flag=True, help="Of groups: do not examine this host meanwhile.")
@shared("interface", "port", "source", "buffer_size", "background", "ring", "watch")
@shared(json="The figures as an object on standard output.", fail_on_loss="Exit 3 when something is missing.")
def command(sources: tuple[str, ...], as_json: bool, fail_on_loss: bool, **options: Any) -> None:
    """Write a page that shows what came of groups for --for, or of capture files (- is standard input).

    It shows rates over time, gaps and sizes, loss and drops and when, legs side by side, streams that stopped, and
    what the doctor finds on this host.

    One file of HTML, which needs no network and no script; it prints well, and is light or dark as its reader wants.

    Needs NumPy (pip install 'mcast-fast[numpy]'). Of groups, Ctrl-C ends the time early, and the page is written.

    Exits 0; 1 on an error; 2 on a usage error; 3 on loss with --fail-on-loss; 4 when nothing came, without a page.
    """
    are_files = [one == "-" or Path(one).is_file() for one in sources]
    if any(are_files) and not all(are_files):
        raise click.UsageError("give groups or files, not both")
    if all(are_files) and options["duration"] is not None:
        raise click.UsageError("--for is for groups; a file is read to its end")
    if options["legs"] and len(sources) < 2:
        raise click.UsageError("--legs compares two files or groups, or more")
    if options["legs"] and _form(options) is None:
        raise click.UsageError("--legs compares numbers: --format none has none")
    _check_outputs(sources if all(are_files) else (), options)
    figures = _of_files(sources, options) if all(are_files) else _of_groups(sources, options)
    if not figures.streams:
        for error in figures.errors:
            complain(error)
        _complain_of_nothing(sources, figures, options)
        raise click.exceptions.Exit(ERROR if figures.errors else NOTHING_CAME)
    _write_all(figures, options)
    if as_json:
        click.echo(json.dumps(figures.as_dict()), err=options["path"] == "-")
    else:
        click.echo(wrapped(f"{text.headline(figures)}.", sys.stdout), err=options["path"] == "-")
    for error in figures.errors:
        complain(error)
    if figures.errors:
        raise click.exceptions.Exit(ERROR)
    if fail_on_loss and (figures.lost or figures.all_dropped):
        raise click.exceptions.Exit(LOSS)


def _check_outputs(files: tuple[str, ...], options: dict[str, Any]) -> None:
    """Before anything is received or read: the page and the picture are none of the files, and can be written."""
    outputs = {"--output": options["path"], "--svg": options["svg"]}
    outputs = {option: path for option, path in outputs.items() if path not in (None, "-")}
    for option, path in outputs.items():
        if any(is_same_file(path, standard_input(file)) for file in files):
            raise ArgumentError(f"{option} {path} is a file that is read; name another one")
        check_writable(path)
    if len(outputs) > 1 and is_same_path(*outputs.values()):
        raise ArgumentError(f"--output and --svg are both {options['svg']}; name two files")


def _complain_of_nothing(sources: tuple[str, ...], figures: Figures, options: dict[str, Any]) -> None:
    if figures.is_live:
        nothing_came(
            round(figures.seconds, 1), sources, **{name: options[name] for name in ("port", "interface", "source")}
        )
    elif not figures.errors:
        complain(f"no multicast packet in {text.listed(sources)}; no page was written")


def _write_all(figures: Figures, options: dict[str, Any]) -> None:
    """The page, and the picture where one is wanted."""
    legend = pictures.legend_of(figures)
    _write(options["path"], page.page(figures, legend, text.date(time.time_ns())))
    if options["svg"]:
        _write(options["svg"], pictures.standalone(figures, legend))


def _write(path: str, contents: str) -> None:
    """To a file, or to standard output."""
    if path == "-":
        write_whole(contents.encode())
        return
    try:
        Path(path).write_text(contents, encoding="utf-8")
    except OSError as error:
        raise file_error("write", path, error) from None
    complain(f"wrote {path}")


def _form(options: dict[str, Any]) -> str | None:
    return None if options["form"] == "none" else options["form"]


# Files ---------------------------------------------------------------------------------------------------------------


def _of_files(paths: tuple[str, ...], options: dict[str, Any]) -> Figures:
    grid, errors = new_grid(), []
    names = [Path(path).name for path in paths]
    origins = names if len(set(names)) == len(names) else paths
    collectors = [Collector(grid, origin, _form(options)) for origin in origins]
    more: dict[str, Any] = {}
    with contextlib.ExitStack() as opened:
        readers = [opened.enter_context(_reader(path, options)) for path in paths]
        if options["legs"]:
            more, error = _arbitrated(readers, collectors, tuple(origins), options, {})
            errors += error
        else:
            for reader, collector in zip(readers, collectors, strict=True):
                try:
                    for batch in reader:
                        collector.add(batch)
                except CaptureError as wrong:
                    errors.append(str(wrong))
        dropped: dict[str, int | None] = {"recorded": sum(drops(one.stats)["recorded"] or 0 for one in readers)}
    return figures_of(paths, collectors, grid, dropped=dropped, is_live=False, errors=tuple(errors), **more)


def _reader(path: str, options: dict[str, Any]) -> Reader:
    named = {name: options[name] for name in ("port", "interface", "source")}
    return Reader(standard_input(path), batch_size=BATCH, **named)


# Groups --------------------------------------------------------------------------------------------------------------


def _of_groups(groups: tuple[str, ...], options: dict[str, Any]) -> Figures:
    grid = new_grid()
    limits: dict[str, Any] = {"duration": FOR if options["duration"] is None else options["duration"]}

    def stop() -> None:
        for one in receivers:
            one.close()

    more: dict[str, Any] = {}
    with contextlib.ExitStack() as opened:
        receivers = [
            opened.enter_context(Receiver(*named, **receiving(options, in_background=True)))
            for named in ([(one,) for one in groups] if options["legs"] else [groups])
        ]
        opened.enter_context(stop_signals_call(stop))
        collectors = [Collector(grid, "", _form(options), one) for one in receivers]
        complain(f"receiving for {text.seconds(limits['duration'])}; Ctrl-C ends it early")
        examination = _Examination(groups, options)
        opened.callback(examination.findings)  # its thread ends, whatever ends this
        started = time.monotonic()
        if options["legs"]:
            more, _ = _arbitrated(receivers, collectors, groups, options, limits)
        else:
            for batch in receivers[0].batches(**limits):
                collectors[0].add(batch)
        seconds = time.monotonic() - started
        more |= {"seconds": seconds, "is_live": True, "findings": examination.findings()}
        more["drops_exact"] = all(one.stats.drops_exact for one in receivers)
        return figures_of(groups, collectors, grid, dropped=_dropped(receivers), **more)


def _dropped(receivers: list[Receiver]) -> dict[str, int | None]:
    """Of all receivers, by cause; None where no system says so."""
    found = [drops(one.stats) for one in receivers]
    return {
        cause: None if all(one[cause] is None for one in found) else sum(one[cause] or 0 for one in found)
        for cause in found[0]
    }


class _Examination:
    """What the doctor finds while the groups are received, in a thread: behind them nothing may come any more."""

    def __init__(self, groups: tuple[str, ...], options: dict[str, Any]) -> None:
        self._ended = threading.Event()
        self._report: Report | None = None
        self._thread = threading.Thread(target=self._run, args=(groups, options), name="doctor", daemon=True)
        if not options["no_doctor"]:
            self._thread.start()

    def _run(self, groups: tuple[str, ...], options: dict[str, Any]) -> None:
        from mcast_fast.doctor._examination import examined

        more = {"interface": options["interface"], "port": options["port"], "ring": bool(options["ring"])}
        with contextlib.suppress(MulticastError):  # what is refused here is refused to the receiver too, and said there
            self._report = examined(groups, self._ended.is_set, seconds=DOCTOR, watch=False, spread=True, **more)

    def findings(self) -> "tuple[Finding, ...] | None":
        """What was found by now; None: it did not look, or did not come to an end."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        return None if self._report is None else self._report.findings


# Legs ----------------------------------------------------------------------------------------------------------------


def _arbitrated(
    legs: Sequence[Receiver | Reader],
    collectors: list[Collector],
    names: tuple[str, ...],
    options: dict[str, Any],
    limits: dict[str, Any],
) -> tuple[dict[str, Any], list[str]]:
    """Take all that comes of the legs; the fields of Figures that this makes, and why a file ended early."""
    form = "rtp" if options["form"] == AUTO else options["form"]
    taps = [Tap(leg, collector) for leg, collector in zip(legs, collectors, strict=True)]
    errors = []
    with Arbiter(taps, form, options["hold"]) as arbiter:
        try:
            for _ in arbiter.batches(**limits):
                pass
        except CaptureError as wrong:
            errors.append(str(wrong))
        return {"legs": arbiter.stats, "names": names}, errors
