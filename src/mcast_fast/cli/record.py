"""mcast-fast record: packets into capture files."""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import click

from mcast_fast import _core
from mcast_fast._host.privileges import become
from mcast_fast._units import whole_number
from mcast_fast.cli.flows import LOSS, complain_of, flow_object, missing
from mcast_fast.cli.output import NOTHING_CAME, complain, nothing_came
from mcast_fast.cli.progress import Progress
from mcast_fast.cli.signals import signals_call, stop_signals_call
from mcast_fast.errors import ArgumentError, FeatureError, FileError, file_error, warn
from mcast_fast.files._index import Indexer
from mcast_fast.files._limits import Autostop, Rotation
from mcast_fast.files._recorded import RecordedFile, Recording
from mcast_fast.files._recorder import AT_ONCE, AT_ONCE_OF_RING, Recorder
from mcast_fast.files._streams import is_compressed
from mcast_fast.files._writer import LINKS
from mcast_fast.receiver import Receiver

LEDGER = ("dropped_socket", "dropped_ring", "dropped_background", "dropped_nic", "truncated", "coalesced")
ROTATION_KEYS = ("duration", "interval", "filesize", "packets", "files", "printname")
STOP_KEYS = ("duration", "filesize", "files", "packets")
COUNTED = ("files", "packets")  # keys whose value is a whole number
NO_BACKGROUND = "none"


@click.command("record", short_help="Record the packets of groups into capture files.")
@click.argument("groups", metavar="GROUP...", nargs=-1, required=True)
@click.option("-w", "--write", "path", metavar="FILE", required=True, help="pcapng, or .pcap; - is standard output.")
@click.option("-i", "--interface", help="Name, index or address, or 'all'; for groups that name none.")
@click.option("-p", "--port", type=int, help="UDP port, for groups that name none.")
@click.option("--source", help="Take packets of this source only, for groups that name none.")
@click.option("-c", "--count", type=click.IntRange(min=1), help="End after this many packets.")
@click.option(
    "-t",
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    help="End when nothing arrives for this long (seconds).",
)
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
    metavar="TIME",
    help="Longest time until a packet can be read from the file (100ms; 1s for .gz and .zst).",
)
@click.option("--reserve", metavar="SIZE", help="End before the file system has less free.")
@click.option("--buffer-size", "--buffer", metavar="SIZE", help="Kernel buffer per socket, such as 4MiB.")
@click.option("--background", metavar="SIZE", help=f"Memory that bridges a stalled disk (256MiB), or {NO_BACKGROUND}.")
@click.option("--ring", is_flag=True, help="Receive by the kernel's mapped ring (CAP_NET_RAW).")
@click.option("--watch", is_flag=True, help="Join again when an interface comes back (Linux).")
@click.option(
    "--link",
    type=click.Choice(LINKS),
    default="ethernet",
    show_default=True,
    help="Headers around what sockets receive: raw is IP alone.",
)
@click.option("--index", "index", is_flag=True, help="Leave an index beside each finished file, for files.scan.")
@click.option("--sequence", metavar="FORMAT", help="Follow the packets' numbers, and end with what is missing.")
@click.option("-q", "--quiet", is_flag=True, help="No progress line, which a terminal gets each second.")
@click.option("--json", "as_json", is_flag=True, help="The summary as an object on standard output.")
@click.option("--fail-on-loss", is_flag=True, help="Exit 3 when a packet was dropped or, with --sequence, is missing.")
def command(path: str, **options: Any) -> None:
    """Join groups and record their packets until Ctrl-C; a summary goes to standard error.

    \b
    Sizes have a unit (64MiB); times are seconds, or have one (100ms, 5min).
    Rotating, feed.pcapng becomes feed_00001_20261123015511.pcapng, and so on;
    a name with % is a pattern of strftime.
      -b duration:60 -b files:24   a file a minute, the newest 24 are kept
      -b interval:1h               a file an hour, on the hour (UTC)
      -b filesize:64MiB -z gzip    each file is packed when it is finished
      -b printname:FILE            names of finished files: to FILE, -, stderr

    \b
    SIGINT, SIGTERM  write what has arrived, and end; a second one aborts
    SIGUSR1          print the counters to standard error
    SIGUSR2          flush
    SIGHUP           go on in the next file; without rotation, end

    Without --ring the headers are synthetic: those of a socket's packets are not known, but for TTL and TOS. With it
    each frame is recorded as it came: tagged, in fragments, with a wrong checksum.

    Dropped are packets that reached this machine and were lost in it; dropped_nic may be others' packets too, and is
    ignored by --fail-on-loss. n/a: the system does not report it.

    Exits 0; 1 on an error, after printing what was written; 2 on a usage error; 3 on loss with --fail-on-loss; 4 when
    nothing came before --timeout.
    """
    rotation, stop, printname = _limits(options)
    indexer = _indexer(path) if options["index"] else None
    with _receiver(options) as receiver:
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
            link=options["link"],
            filter_text=" ".join(options["groups"]),
        )
        progress = Progress(recorder, wanted=not options["quiet"])
        counters = progress.around(lambda: complain(_text(recorder.result)))
        signals: dict[str, Callable[[], None]] = {
            "SIGUSR1": lambda: recorder.soon(counters),
            "SIGUSR2": recorder.flush,
            "SIGHUP": recorder.rotate,
        }
        try:
            with signals_call(signals), stop_signals_call(recorder.stop):
                complain(f"recording {' '.join(options['groups'])} to {recorder.result.path}")
                with progress:
                    recorder.run()
        except FileError as error:  # here, for click would say nothing of a closed pipe
            complain(str(error))
            raise click.exceptions.Exit(1) from error
        finally:
            if indexer is not None:
                indexer.finish()
            _summarise(recorder.result, options["as_json"], path)
    code = _exit_code(recorder.result, options)
    if code:
        raise click.exceptions.Exit(code)


# What was requested --------------------------------------------------------------------------------------------------


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
    if options["timeout"] is not None:
        end["idle"] = options["timeout"]
    return Rotation(**turn) if turn else None, Autostop(**end), printname


def _receiver(options: dict[str, Any]) -> Receiver:
    named = {name: options[name] for name in ("port", "interface", "source", "buffer_size", "watch", "sequence")}
    at_once = AT_ONCE
    background, features = options["background"], _core.features()
    if background is None:
        named["background"] = bool(features["background"]) and not options["ring"]
    elif background != NO_BACKGROUND:
        named["background"] = background
    if options["ring"]:
        if not (ring := features["ring"]):
            raise FeatureError(f"--ring: {ring.reason}")
        if options["link"] == "raw":
            raise ArgumentError("--link raw is of sockets: a ring records the frames as they came")
        named["ring"] = named["frames"] = True
        at_once = AT_ONCE_OF_RING
    else:
        named["recv_ttl"], named["recv_tos"] = bool(features["receive_ttl"]), bool(features["receive_tos"])
    return Receiver(*options["groups"], batch_size=at_once, **named)


def _output(path: str) -> str | IO[bytes]:
    """The path; or standard output without Python's buffer, which would be a second one."""
    return getattr(sys.stdout.buffer, "raw", sys.stdout.buffer) if path == "-" else path


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


def _counters(result: Recording) -> dict[str, int | None]:
    """The summary; `dropped_ring` is reported by receivers that have a ring."""
    ledger = {name: getattr(result.stats, name, None) for name in LEDGER}
    lost = getattr(result.stats, "lost", None)
    if lost is not None:
        ledger["lost"] = lost
    return {"received": result.stats.received, "written": result.written, **ledger, "bytes": result.bytes}


def _text(result: Recording) -> str:
    return ", ".join(f"{name} {'n/a' if value is None else value}" for name, value in _counters(result).items())


def _summarise(result: Recording, as_json: bool, path: str) -> None:
    """One line on standard error, or an object on standard output, where that is not the recording's."""
    flows = result.stats.flows
    if not as_json:
        complain(_text(result))
        complain_of(flows)
    else:
        fields: dict[str, Any] = {
            **_counters(result),
            "files": result.files,
            "last_file": result.path,
            "reason": result.reason,
        }
        if flows:
            fields["flows"] = [flow_object(one) for one in flows]
        click.echo(json.dumps(fields), err=path == "-")
    unwritten = result.stats.received - result.written
    if result.reason == "error" and unwritten > 0:
        complain(f"{unwritten} packets were received and not written")


def _exit_code(result: Recording, options: dict[str, Any]) -> int:
    if options["fail_on_loss"]:
        if result.stats.dropped is None:
            warn("--fail-on-loss: this system does not report all drops")
        drops = (getattr(result.stats, name, None) for name in LEDGER[:3])
        if any(drops) or result.stats.lost or missing(result.stats.flows):
            return LOSS
    if result.reason == "idle" and not result.stats.received:
        named = {name: options[name] for name in ("port", "interface", "source")}
        nothing_came(options["timeout"], options["groups"], **named)
        return NOTHING_CAME
    return 0
