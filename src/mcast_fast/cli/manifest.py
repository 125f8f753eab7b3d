"""mcast-fast manifest: what finished files hold, written beside them, and whether that is still so."""

import json
import socket
from collections.abc import Callable, Iterable
from dataclasses import asdict

import click

from mcast_fast._units import plural
from mcast_fast.cli.codes import ERROR
from mcast_fast.cli.options import FILE, TIME, shared
from mcast_fast.cli.output import complain, time_text
from mcast_fast.cluster._clock import clock_state
from mcast_fast.cluster._manifest import Manifest, make_manifest, path_of
from mcast_fast.cluster._plan import Plan, formats_of
from mcast_fast.cluster._table import store_table
from mcast_fast.cluster._tasks import capture_paths
from mcast_fast.cluster._verify import CLOCK_LIMIT, Finding, verify

ACTIONS = ("make", "verify", "show", "index")


@click.command("manifest", short_help="What finished files hold, and whether that is still so.")
@click.argument("action", type=click.Choice(ACTIONS))
@click.argument("paths", metavar="FILE...|DIRECTORY...", type=FILE, nargs=-1, required=True)
@click.option("-w", "--write", "target", metavar="OUT", type=FILE, help="index: the Parquet file.")
@click.option(
    "--host", metavar="NAME", help="make: the host that recorded the files; this one's name where it is left out."
)
@click.option(
    "--plan", "plan_path", metavar="FILE", type=FILE, help="make: the plan, which says the formats of groups."
)
@click.option(
    "-f",
    "--format",
    "--sequence",
    "form",
    metavar="FORMAT",
    help="make: where the packets' numbers are, of all groups.",
)
@click.option("--quick", is_flag=True, help="verify: compare sizes and times, and read no file.")
@click.option(
    "--clock", "limit", type=TIME, default=CLOCK_LIMIT, show_default=True, help="verify: a clock may be off by this."
)
@shared(json="The report as an object.")
def command(action: str, paths: tuple[str, ...], **options: object) -> None:
    """Work on the manifests of capture files: FILE.manifest.json beside each FILE.

    \b
    make    read the files, and write their manifests
    verify  read the files again: torn, missing, changed, unlisted, clock
    show    what manifests say
    index   all manifests as one Parquet file, with -w

    Exits 0; 1 when verify finds something, or a file cannot be read; 2 on a usage error.
    """
    files = capture_paths(paths)
    code = ACTIONS_DO[action](files, options)
    if code:
        raise click.exceptions.Exit(code)


def _make(files: list[str], options: dict[str, object]) -> int:
    plan = Plan.load(str(options["plan_path"])) if options["plan_path"] else None
    formats = {"": str(options["form"])} if options["form"] else formats_of(plan)
    host = str(options["host"] or socket.gethostname())
    for path in files:
        made = make_manifest(path, host, formats, clock_state(), plan.digest if plan is not None else "")
        click.echo(made.store())
    return 0


def _verify(files: list[str], options: dict[str, object]) -> int:
    limit = options["limit"]
    findings = verify(
        files, quick=bool(options["quick"]), clock_limit=limit if isinstance(limit, str | int | float) else CLOCK_LIMIT
    )
    if options["as_json"]:
        click.echo(json.dumps({"files": len(files), "findings": [asdict(one) for one in findings]}, indent=2))
    else:
        for one in findings:
            complain(_text(one))
        click.echo(f"{len(files)} files, {len(findings)} findings")
    return ERROR if findings else 0


def _text(finding: Finding) -> str:
    return f"{finding.kind}: {finding.text}"


def _show(files: list[str], options: dict[str, object]) -> int:
    manifests = _loaded(files)
    if options["as_json"]:
        click.echo(json.dumps([one.as_dict() for one in manifests]))
        return 0
    for one in manifests:
        times = " to ".join(time_text(time) if time is not None else "?" for time in (one.first_time, one.last_time))
        click.echo(f"{one.path}: {one.host}, {plural(one.packets, 'packet')}, {times}, sha256 {one.sha256[:16]}…")
    return 0


def _index(files: list[str], options: dict[str, object]) -> int:
    if not options["target"]:
        raise click.UsageError("index needs -w OUT.parquet")
    count = store_table(_loaded(files), str(options["target"]))
    click.echo(f"{options['target']}: {count} manifests")
    return 0


def _loaded(files: Iterable[str]) -> list[Manifest]:
    return [Manifest.load(path_of(path)) for path in files]


ACTIONS_DO: dict[str, Callable[[list[str], dict[str, object]], int]] = {
    "make": _make,
    "verify": _verify,
    "show": _show,
    "index": _index,
}
