"""`python -m benchmarks VERB`: one verb a benchmark, each a file that adds its own options and runs."""

import argparse
import signal
import sys
from pathlib import Path

from benchmarks import cluster, coalescing_burst, coalescing_times, everything, files, memory, plot, record, replay
from benchmarks.process import BenchmarkError

BENCHMARKS = everything.BENCHMARKS | {
    "cluster": cluster,
    "coalescing-burst": coalescing_burst,
    "coalescing-times": coalescing_times,
    "files": files,
    "memory": memory,
    "record": record,
    "replay": replay,
}
VERBS = BENCHMARKS | {"all": everything, "plot": plot}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        summary = verb.__doc__.splitlines()[0]
        options = verbs.add_parser(name, help=summary, description=summary)
        if name in BENCHMARKS:
            everything.add_own_options(options, verb)
        else:
            verb.add_options(options)
        if verb is not plot:
            options.add_argument("--json", type=Path, metavar="FILE", help="write every measurement to FILE")
            options.add_argument(
                "--check", action="store_true", help="exit 1 when a bar is missed or cannot be measured"
            )
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    # A benchmark that is told to stop still removes its namespaces.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        report = VERBS[options.verb].run(options)
    except BenchmarkError as error:
        print(f"benchmarks {options.verb}: {error}", file=sys.stderr)
        return 2
    if options.verb == "plot":
        return 0
    report.print()
    if options.json:
        report.write_json(options.json)
    return 1 if options.check and report.missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
