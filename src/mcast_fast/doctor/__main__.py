"""`python -m mcast_fast.doctor`: the verb `mcast-fast doctor` without the command line's libraries."""

import argparse
import contextlib
import io
import shutil
import signal
import sys
from collections.abc import Callable, Iterator

from mcast_fast.doctor._examination import SECONDS, examined
from mcast_fast.doctor._text import as_json, lines, write_bundle
from mcast_fast.errors import FileError, MulticastError


def main(arguments: list[str] | None = None) -> int:
    """Examine, print, and return the exit code: 0 without a problem, 1 with one, 2 for wrong arguments."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that its encoding does not have is no error
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _until_interrupted() as is_over:
            report = examined(
                options.groups,
                is_over,
                interface=options.interface,
                port=options.port,
                seconds=options.watch if options.watch is not None else options.seconds,
                watch=options.watch is not None,
                ring=options.ring,
                spread=not options.no_spread,
            )
        if options.json:
            print(as_json(report))
        else:
            for _, line in lines(report, shutil.get_terminal_size().columns):
                print(line)
        if options.bundle:  # last: where it cannot be written the report is not lost
            write_bundle(report, options.bundle, masked=options.mask)
    except MulticastError as error:
        sys.stderr.write(f"mcast-fast: {error}\n")
        return 1 if isinstance(error, FileError) else 2
    return 1 if report.problems else 0


@contextlib.contextmanager
def _until_interrupted() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C came, which ends the listening; a second one ends the program."""
    ended: list[int] = []

    def handle(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        ended.append(number)

    before = signal.signal(signal.SIGINT, handle) or signal.SIG_DFL  # None: one that was not set from Python
    try:
        yield lambda: bool(ended)
    finally:
        signal.signal(signal.SIGINT, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mcast_fast.doctor", description="Say why packets of groups do not arrive, and what cures it."
    )
    parser.add_argument("groups", metavar="GROUP", nargs="*", help="[SOURCE@]GROUP[%%INTERFACE]:PORT; none: the host")
    parser.add_argument("-i", "--interface", help="for groups that name none; without a group: what arrives there")
    parser.add_argument("--port", type=int, help="for groups that name none")
    parser.add_argument("--seconds", default=SECONDS, help="listen for this long at most (10)")
    parser.add_argument("--for", dest="watch", help="listen for this long (10min), and say when and why packets stop")
    parser.add_argument("--ring", action="store_true", help="the program is to have a ring")
    parser.add_argument("--no-spread", action="store_true", help="the program has one socket for all groups")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument("--bundle", metavar="FILE", help="write everything that was read as a .tar.gz")
    parser.add_argument("--mask", action="store_true", help="in the bundle, without addresses of hosts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
