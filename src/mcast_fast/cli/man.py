"""mcast-fast man: man pages, generated from the verbs and their options."""

import datetime
import re
from pathlib import Path

import click

from mcast_fast._version import __version__
from mcast_fast.cli.codes import EXIT_CODES
from mcast_fast.cli.examples import EXAMPLES
from mcast_fast.cli.options import VERB, shared
from mcast_fast.errors import file_error

PROGRAM = "mcast-fast"
BLOCK = "\b"  # begins a paragraph that click leaves as it is


@click.command("man", short_help="Man pages of the program and its verbs.")
@click.argument("verb", type=VERB, required=False)
@click.option("--directory", type=click.Path(path_type=Path), help="Write the pages of all verbs into this directory.")
@shared(json="The names of the pages as an array.")
@click.pass_context
def command(ctx: click.Context, verb: str | None, directory: Path | None, as_json: bool) -> None:
    """Print the man page of VERB, or of the program, in the format of man(7)."""
    import json

    whole = ctx.find_root()
    group = whole.command
    if not isinstance(group, click.Group):
        return
    verbs = group.list_commands(whole)
    if as_json:
        click.echo(json.dumps([page_name(one) for one in (None, *verbs)]))
    elif directory is None:
        if verb is not None:
            group.resolve_command(whole, [verb])
        click.echo(page(group, verb), nl=False)
    else:
        for one in (None, *verbs):
            path = directory / page_name(one)
            try:
                directory.mkdir(parents=True, exist_ok=True)
                path.write_text(page(group, one), encoding="utf-8")
            except OSError as error:
                raise file_error("write", str(path), error) from error
        click.echo(f"wrote {len(verbs) + 1} pages into {directory}", err=True)


def page_name(verb: str | None) -> str:
    """The name of the page's file."""
    return f"{PROGRAM}-{verb}.1" if verb else f"{PROGRAM}.1"


def page(group: click.Group, verb: str | None) -> str:
    """The man page of a verb, or of the program, as troff reads it."""
    whole = click.Context(group, info_name=PROGRAM, **group.context_settings)
    shown = group.get_command(whole, verb) if verb else group
    if shown is None:
        return ""
    context = click.Context(shown, whole, verb) if verb else whole
    title = f"{PROGRAM}-{verb}" if verb else PROGRAM
    summary = (shown.short_help or "multicast packets in batches, with every loss counted").rstrip(".")
    lines = [
        f'.TH "{title.upper()}" 1 "{datetime.date.today():%Y-%m-%d}" "mcast-fast {__version__}" "User Commands"',
        ".SH NAME",
        f"{_text(title)} \\- {_text(summary[0].lower() + summary[1:])}",
        ".SH SYNOPSIS",
        f".B {_text(context.command_path)}",
        _text(" ".join(shown.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        *_paragraphs(shown.help or ""),
        *_options(shown, context),
    ]
    if verb is None:
        lines.append(".SH VERBS")
        for name in group.list_commands(whole):
            one = group.get_command(whole, name)
            lines += [".TP", f".BR {_text(f'{PROGRAM}-{name}')} (1)", _text((one and one.short_help) or "")]
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXIT_CODES.items():
        lines += [".TP", f".B {code}", _text(meaning)]
    if examples := EXAMPLES.get(verb or ""):
        lines.append(".SH EXAMPLES")
        for example, meaning in examples:
            lines += [".TP", f".B {_text(example)}", _text(meaning)]
    return "\n".join((*lines, ".SH SEE ALSO", ".BR mcast-fast (1)" if verb else ".BR tcpdump (1)", ""))


def _options(shown: click.Command, context: click.Context) -> list[str]:
    lines = [".SH OPTIONS"]
    for one in shown.get_params(context):
        record = one.get_help_record(context)
        if record is not None:
            lines += [".TP", f".B {_text(record[0])}", _text(record[1])]
    return lines


def _paragraphs(text: str) -> list[str]:
    """Paragraphs of a help text; those that click leaves as they are stay so."""
    lines: list[str] = []
    for part in re.split(r"\n\s*\n", _dedented(text)):
        if part.startswith(BLOCK):
            lines += [".PP", ".nf", *map(_text, part.removeprefix(BLOCK).strip("\n").split("\n")), ".fi"]
        else:
            lines += [".PP", _text(" ".join(part.split()))]
    return lines[1:] if lines and lines[0] == ".PP" else lines


def _dedented(text: str) -> str:
    import inspect

    return inspect.cleandoc(text)


def _text(text: str) -> str:
    """Text that troff prints as it is."""
    safe = text.replace("\\", "\\e").replace("-", "\\-")
    safe = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in safe)
    return f"\\&{safe}" if safe.startswith((".", "'")) else safe
