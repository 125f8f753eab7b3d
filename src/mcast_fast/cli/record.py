"""mcast-fast record: packets into capture files."""

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from mcast_fast import _core
from mcast_fast._host.privileges import become
from mcast_fast._units import plural, whole_number
from mcast_fast.cli.codes import ERROR, LOSS, NOTHING_CAME
from mcast_fast.cli.flows import complain_of, flow_object, missing
from mcast_fast.cli.match import Match
from mcast_fast.cli.metrics import observed
from mcast_fast.cli.options import FILE, GROUP, SIZE, TIME, groups_alone, receiving, shared
from mcast_fast.cli.output import (
    WHOLE_LEDGER,
    complain,
    counted_of,
    ledger_object,
    nothing_came,
    own_line,
    pace_text,
    summarise,
    written_over,
)
from mcast_fast.cli.progress import Progress, shown_as
from mcast_fast.cli.signals import signals_call, stop_signals_call
from mcast_fast.cli.streams import Streams
from mcast_fast.errors import ArgumentError, FileError, file_error, warn
from mcast_fast.files._index import Indexer
from mcast_fast.files._limits import Autostop, Rotation
from mcast_fast.files._recorded import RecordedFile, Recording
from mcast_fast.files._recorder import AT_ONCE, AT_ONCE_OF_RING, Recorder
from mcast_fast.files._streams import is_compressed, plain_suffix
from mcast_fast.files._writer import LINKS
from mcast_fast.receiver import Receiver
from mcast_fast.stats import Stats

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

LEDGER = ("dropped_socket", "dropped_ring", "dropped_background", "dropped_nic", "truncated", "coalesced")
ROTATION_KEYS = ("duration", "interval", "filesize", "packets", "files", "printname")
STOP_KEYS = ("duration", "filesize", "files", "packets")
COUNTED = ("files", "packets")  # keys whose value is a whole number


@click.command("record", short_help="Record the packets of groups into capture files.")
@click.argument("groups", metavar="GROUP...", type=GROUP, nargs=-1, callback=groups_alone)
@click.option("-w", "--write", "path", metavar="FILE", type=FILE, help="pcapng, or .pcap; - is standard output.")
@shared("interface", "port", "source", "match", "count", "timeout", "duration")
@click.option("-a", "--autostop", multiple=True, metavar="KEY:VALUE", help=f"End at: {', '.join(STOP_KEYS)}.")
@click.option("-b", "--rotate", multiple=True, metavar="KEY:VALUE", help=f"Next file at: {', '.join(ROTATION_KEYS)}.")
@click.option("-C", "rotate_size", metavar="SIZE", help="As -b filesize:SIZE.")
@click.option("-G", "rotate_seconds", metavar="SECONDS", help="As -b duration:SECONDS.")
@click.option("-W", "most_files", metavar="N", help="With -C as -b files:N; with -G alone as -a files:N.")
@click.option("-z", "command", metavar="CMD", help="Run CMD FILE for each finished file.")
@click.option("-Z", "user", metavar="USER", help="Go on as USER once the sockets are open; files are then USER's.")
@click.option("-U", "unbuffered", is_flag=True, help="Flush every batch.")
@click.option(
    "--flush-interval",
    type=TIME,
    help="Longest time until a packet can be read from the file (100ms; 1s for .gz and .zst).",
)
@click.option("--reserve", type=SIZE, help="End before the file system has less free.")
@shared("buffer_size", background="Memory that bridges a stalled disk (256MiB), or none.")
@shared("ring", "watch", "metrics", "metrics_per_source")
@click.option(
    "--link",
    type=click.Choice(LINKS),
    default="ethernet",
    show_default=True,
    help="Headers around what sockets receive: raw is IP alone.",
)
@click.option("--index", "index", is_flag=True, help="Leave an index beside each finished file, for files.scan.")
@click.option("--sequence", metavar="FORMAT", help="Follow the packets' numbers, and end with what is missing.")
@click.option(
    "--plan",
    "plan",
    metavar="PLAN",
    type=FILE,
    help="Record what a plan (TOML) deals to --host, in place of GROUPs and -w.",
)
@click.option("--host", metavar="NAME", help="The name of this host in the plan.")
@shared("stats", "quiet", "progress", json="The summary as an object on standard output.")
@shared(fail_on_loss="Exit 3 when a packet was dropped or, with --sequence, is missing.")
@click.pass_context
def command(ctx: click.Context, /, path: str | None, plan: str | None, host: str | None, **options: Any) -> None:
    """Join groups and record their packets until Ctrl-C; a summary goes to standard error.

    \b
    Rotating, feed.pcapng becomes feed_00001_20261123015511.pcapng, and so on;
    a name with % is a pattern of strftime.
      -b duration:60 -b files:24   a file a minute, the run's newest 24
      -b interval:1h               a file an hour, on the hour (UTC)
      -b filesize:64MiB -z gzip    each file is packed when it is finished
      -b printname:FILE            names of finished files: to FILE, -, stderr

    With --plan PLAN --host NAME the plan says what is recorded, and where to; other hosts take over when this one
    fails (docs/cluster.md).

    \b
    SIGINT, SIGTERM  write what has arrived, and end; a second one aborts
    SIGUSR1          print the counters to standard error
    SIGUSR2          flush
    SIGHUP           go on in the next file; without rotation, end

    --match is as that of receive (`mcast-fast receive --help`); with it, --count and --timeout are of what passes.

    With --ring --sequence is refused: `mcast-fast check FILE` follows the numbers of the recording.

    Without --ring the headers are synthetic: those of a socket's packets are not known, but for TTL and TOS. With it
    each frame is recorded as it came: tagged, in fragments, with a wrong checksum.

    Dropped are packets that reached this machine and were lost in it; dropped_nic may be others' packets too, and is
    ignored by --fail-on-loss. n/a: the system does not report it.

    Exits 0; 1 on an error, after printing what was written; 2 on a usage error; 3 on loss with --fail-on-loss; 4 when
    nothing came before --timeout.
    """
    if plan is not None or host is not None:
        _by_plan(ctx, plan, host)
        return
    if path is None:
        raise click.UsageError("--write is missing")
    match, streams = Match(options["tests"]), Streams(options["stats"])
    _check_usage(options, match)
    rotation, stop, printname = _limits(options)
    indexer = _indexer(path) if options["index"] else None
    note = written_over(path)
    with _receiver(options) as receiver, observed(options, receiver) as see:
        if options["user"]:
            become(options["user"])
        recorder = Recorder(
            receiver,
            _output(path),
            rotate=rotation,
            stop=stop,
            flush_interval=0 if options["unbuffered"] else options["flush_interval"],
            reserve=options["reserve"],
            command=options["command"],
            on_file=_on_file(printname, indexer),
            choose=_choice(match, streams),
            on_batch=see,
            link=options["link"],
            filter_text=" ".join(options["groups"]),
        )
        started = time.monotonic()
        progress = Progress(_read(recorder), recorder.soon, shown_as(options["quiet"], options["progress"]))
        counters = progress.around(lambda: summarise(_text(recorder.result, match, time.monotonic() - started)))
        try:
            with signals_call(_signals(recorder, counters)), stop_signals_call(recorder.stop):
                summarise(f"recording {' '.join(options['groups'])} to {recorder.result.path}{_form(path, note)}")
                with progress:
                    recorder.run()
        except FileError as error:  # here, for click would say nothing of a closed pipe
            complain(str(error))
            raise click.exceptions.Exit(ERROR) from error
        finally:
            if indexer is not None:
                indexer.finish()
            _summarise(recorder.result, match, streams, time.monotonic() - started, options["as_json"], path)
    if code := _exit_code(recorder.result, match, options):
        raise click.exceptions.Exit(code)


def _by_plan(ctx: click.Context, path: str | None, host: str | None) -> None:
    """Record what a plan deals to this host, until a signal comes."""
    given = [one for one in ctx.command.params if _is_given(ctx, one.name or "")]
    if others := [_name_of(one) for one in given if one.name not in ("plan", "host")]:
        raise click.UsageError(f"--plan says what is recorded, and how: leave out {', '.join(others)}")
    if path is None or host is None:
        raise click.UsageError("--plan and --host go together")
    from mcast_fast.cluster._plan import Plan
    from mcast_fast.cluster._station import Station

    plan = Plan.load(path)
    station = Station(plan, host, complain)
    with stop_signals_call(station.stop):
        complain(f"host {host} of the plan {path}, digest {plan.digest}")
        station.run()
    complain(f"written {plural(station.written, 'packet')}, {plural(station.files, 'file')}")


def _name_of(one: click.Parameter) -> str:
    return max(one.opts, key=len) if isinstance(one, click.Option) else one.human_readable_name


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


# What was requested --------------------------------------------------------------------------------------------------


def _check_usage(options: dict[str, Any], match: Match) -> None:
    """UsageError where no group is named, or options exclude each other."""
    if not options["groups"]:
        raise click.UsageError("name a group, such as 239.1.1.1%eth0:5000")
    if options["sequence"] and options["ring"]:
        raise click.UsageError(
            "--sequence reads payloads, and --ring records whole frames; leave one of them out, and `mcast-fast check` "
            "follows the numbers of the recording"
        )
    if match.reads_payload and options["ring"]:
        raise click.UsageError(
            "--match tests sizes and payloads, and --ring records whole frames; leave one of them out"
        )


def _pairs(option: str, texts: Iterable[str], keys: tuple[str, ...]) -> dict[str, Any]:
    """KEY:VALUE texts taken apart; ArgumentError."""
    found: dict[str, Any] = {}
    for text in texts:
        key, colon, value = text.partition(":")
        if key not in keys or not colon:
            raise ArgumentError(f"{option} {text!r} is not one of: {', '.join(f'{key}:…' for key in keys)}")
        found[key] = _whole(f"{option} {text!r}", value) if key in COUNTED else value
    return found


def _whole(what: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ArgumentError(f"{what}: {text!r} is not a whole number")
    return whole_number(int(text), what, 1, 2**62)


def _limits(options: dict[str, Any]) -> tuple[Rotation | None, Autostop, str | None]:
    """When to begin the next file, when to end, and where the names of files go."""
    turn = _pairs("-b", options["rotate"], ROTATION_KEYS)
    end = _pairs("-a", options["autostop"], STOP_KEYS)
    printname = turn.pop("printname", None)
    for key, value in (("filesize", options["rotate_size"]), ("duration", options["rotate_seconds"])):
        if value is not None:
            turn[key] = value
    if options["most_files"] is not None:
        # tcpdump: with -C a ring; with -G alone the recording ends after that number.
        if not turn.keys() & {"filesize", "duration"}:
            raise ArgumentError("-W needs -C or -G")
        (turn if "filesize" in turn else end)["files"] = _whole("-W", options["most_files"])
    if options["count"] is not None:
        end["packets"] = min(options["count"], end.get("packets", options["count"]))
    if options["duration"] is not None:
        if "duration" in end:
            raise ArgumentError("-a duration: and --duration exclude each other")
        end["duration"] = options["duration"]
    if options["timeout"] is not None:
        end["idle"] = options["timeout"]
    return Rotation(**turn) if turn else None, Autostop(**end), printname


def _receiver(options: dict[str, Any]) -> Receiver:
    named = receiving(options, in_background=True) | {"sequence": options["sequence"]}
    at_once, features = AT_ONCE, _core.features()
    if options["ring"]:
        if options["link"] == "raw":
            raise ArgumentError("--link raw is of sockets: a ring records the frames as they came")
        named["frames"] = True
        at_once = AT_ONCE_OF_RING
    else:
        named["recv_ttl"], named["recv_tos"] = bool(features["receive_ttl"]), bool(features["receive_tos"])
    return Receiver(*options["groups"], batch_size=at_once, **named)


def _choice(match: Match, streams: Streams) -> "Callable[[Batch], Batch] | None":
    """What is done with each batch before it is written."""
    if not match and not streams:
        return None

    def choose(batch: "Batch") -> "Batch":
        found = match(batch)
        streams.add(found)
        return found

    return choose


def _output(path: str) -> str | IO[bytes]:
    """The path; or standard output without Python's buffer, which would be a second one."""
    return getattr(sys.stdout.buffer, "raw", sys.stdout.buffer) if path == "-" else path


def _form(path: str, note: str) -> str:
    """The form that the suffix gives, and a note."""
    if path == "-":
        return ""
    return f" ({'pcap' if plain_suffix(path) == '.pcap' else 'pcapng'}{note})"


def _indexer(path: str) -> Indexer:
    """What makes indexes of finished files; ArgumentError where a file will have none."""
    if path == "-" or is_compressed(path):
        raise ArgumentError(f"--index: {path} can have no index; it is of files that are not compressed")
    return Indexer()


def _on_file(name: str | None, indexer: Indexer | None) -> Callable[[RecordedFile], None] | None:
    """What is called with each finished file."""
    printer = _printer(name)
    if indexer is None:
        return printer

    def both(file: RecordedFile) -> None:
        if printer is not None:
            printer(file)
        indexer.add(file.path)

    return both


def _printer(name: str | None) -> Callable[[RecordedFile], None] | None:
    """What prints the names of finished files; a file is created for its owner alone."""
    if name is None:
        return None
    if name in ("-", "stdout", "stderr"):
        return lambda file: click.echo(file.path, err=name == "stderr")
    names = Path(name)
    try:
        names.touch(0o600)
    except OSError as error:
        raise file_error("open", name, error) from error

    def append(file: RecordedFile) -> None:
        try:
            with names.open("a") as lines:
                lines.write(f"{file.path}\n")
        except OSError as error:
            raise file_error("write", name, error) from error

    return append


# What became of it ---------------------------------------------------------------------------------------------------


def _counters(result: Recording, match: Match) -> dict[str, int | None]:
    """The summary; `dropped_ring` is reported by receivers that have a ring."""
    ledger: dict[str, int | None] = {name: getattr(result.stats, name, None) for name in LEDGER}
    lost = getattr(result.stats, "lost", None)
    if lost is not None:
        ledger["lost"] = lost
    came = {"received": result.stats.received, **match.counted(), "written": result.written}
    return {**came, **ledger, "bytes": result.bytes}


def _signals(recorder: Recorder, counters: Callable[[], None]) -> dict[str, Callable[[], None]]:
    """What signals do."""
    return {"SIGUSR1": lambda: recorder.soon(counters), "SIGUSR2": recorder.flush, "SIGHUP": recorder.rotate}


def _read(recorder: Recorder) -> Callable[[], tuple[Stats, str]]:
    """What the progress line shows."""

    def read() -> tuple[Stats, str]:
        result = recorder.result
        return result.stats, result.path

    return read


def _text(result: Recording, match: Match, seconds: float, whole: bool = False) -> str:
    """The counters in a line; the whole ledger."""
    counters = _counters(result, match)
    if whole:
        counters |= {name: getattr(result.stats, name, None) for name in WHOLE_LEDGER if name not in counters}
    counts = ", ".join(f"{name} {counted_of(result.stats, name, value)}" for name, value in counters.items())
    return f"{counts}, {pace_text(seconds, result.stats.received, result.stats.bytes)}"


def _summarise(result: Recording, match: Match, streams: Streams, seconds: float, as_json: bool, path: str) -> None:
    """One line on standard error, or an object on standard output, where that is not the recording's."""
    flows = result.stats.flows
    if not as_json:
        summarise(_text(result, match, seconds, bool(streams)))
        streams.show(seconds)
        complain_of(flows)
    else:
        own_line()
        fields: dict[str, Any] = {
            **_counters(result, match),
            **ledger_object(result.stats, seconds, WHOLE_LEDGER if streams else ()),
            **streams.objects(),
            "files": result.files,
            "last_file": result.path,
            "reason": result.reason,
        }
        if flows:
            fields["flows"] = [flow_object(one) for one in flows]
        click.echo(json.dumps(fields), err=path == "-")
    unwritten = result.stats.received - result.written - match.unmatched
    if result.reason == "error" and unwritten > 0:
        complain(f"{plural(unwritten, 'packet')} received and not written")


def _exit_code(result: Recording, match: Match, options: dict[str, Any]) -> int:
    if options["fail_on_loss"]:
        if result.stats.dropped is None:
            warn("--fail-on-loss: this system does not report all drops")
        drops = (getattr(result.stats, name, None) for name in LEDGER[:3])
        if any(drops) or result.stats.lost or missing(result.stats.flows):
            return LOSS
    if result.reason == "idle" and not result.written:
        named = {name: options[name] for name in ("port", "interface", "source")}
        nothing_came(options["timeout"], options["groups"], match.unmatched, **named)
        return NOTHING_CAME
    return 0
