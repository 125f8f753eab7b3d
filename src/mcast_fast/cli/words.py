"""Messages of the library in the words of the command line: options in place of arguments; no I/O."""

import re
from collections.abc import Iterable

import click

# Where an option has another name than the argument that it becomes.
OTHER_NAMES = {"fastest": "--max", "loops": "--loop", "mapping": "--map", "to": "--to", "sequence": "--sequence"}
_GIVEN = re.compile(r"\b([a-z_]+)=((?:'[^']*'|[\w.]+)?)")
_NAMED = re.compile(r"([a-z_]+)(?= (?:'[^']*'|-?[0-9][\w.]*) is )")
_PASS = re.compile(r"\b(?:pass|give) (?=--)")


def options_of(command: click.Command) -> dict[str, str]:
    """The options of a verb by the names of the arguments they become: {"buffer_size": "--buffer-size"}."""
    found = {}
    for one in command.params:
        if isinstance(one, click.Option):
            long = next((name for name in one.opts if name.startswith("--")), one.opts[0])
            found[one.name or ""] = long
            found[long.removeprefix("--").replace("-", "_")] = long
    return found


def in_options(message: str, options: dict[str, str]) -> str:
    """A message in which `port=5000` is `--port 5000`, and `ttl 300 is out of range` begins with --ttl.

    >>> in_options("has no port; write 239.1.1.1:5000, or pass port=5000", {"port": "--port"})
    'has no port; write 239.1.1.1:5000, or use --port 5000'
    """
    known = {name: option for name, option in OTHER_NAMES.items() if option in options.values()} | options

    def given(match: re.Match[str]) -> str:
        name, value = match[1], match[2].strip("'")
        if name not in known:
            return match[0]
        return known[name] if value in ("", "True") else f"{known[name]} {value}"

    def named(match: re.Match[str]) -> str:
        return known.get(match[1], match[1])

    begun = _NAMED.match(message)
    if begun and begun[1] in known and begun[1] not in ("port", "interface", "source", "group"):
        message = named(begun) + message[begun.end() :]
    return _PASS.sub("use ", _GIVEN.sub(given, message))


def nearest(word: str, words: Iterable[str]) -> str:
    """' (did you mean …?)' where a word is near; empty elsewhere."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(words), 2, 0.6)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
