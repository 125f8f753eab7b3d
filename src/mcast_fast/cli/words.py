"""Messages of the library in the words of the command line: options in place of arguments; no I/O."""

from collections.abc import Iterable, Mapping

import click

from mcast_fast.errors import Argument


def options_of(command: click.Command) -> dict[str, str]:
    """The options of a verb by the names of the arguments they become: {"buffer_size": "--buffer-size"}."""
    return {one.name or "": max(one.opts, key=len) for one in command.params if isinstance(one, click.Option)}


def in_options(error: Exception, options: Mapping[str, str]) -> str:
    """The message of an error or warning of ours, with `--port 5000` in place of `port=5000` where a verb has that.

    >>> in_options(GroupError("write 239.1.1.1:5000, or pass ", Argument("port", "5000")), {"port": "--port"})
    'write 239.1.1.1:5000, or pass --port 5000'
    """
    if not any(isinstance(part, Argument) for part in error.args):
        return str(error)
    return "".join(_option(part, options) if isinstance(part, Argument) else str(part) for part in error.args)


def _option(argument: Argument, options: Mapping[str, str]) -> str:
    if argument.name not in options:
        return str(argument)
    value = argument.value.strip("'")
    return options[argument.name] if value in ("", "True") else f"{options[argument.name]} {value}"


def nearest(word: str, words: Iterable[str], before: str = "") -> str:
    """' (did you mean …?)' where a word is near, with what is put before each; empty elsewhere."""
    from difflib import get_close_matches

    near = [before + one for one in get_close_matches(word, list(words), 2, 0.6)]
    return f" (did you mean {' or '.join(near)}?)" if near else ""
