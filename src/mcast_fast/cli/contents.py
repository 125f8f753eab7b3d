"""What a capture file holds instead, where nothing of the named groups is in it."""

from collections.abc import Iterable
from pathlib import Path

from mcast_fast.cli.output import endpoint_text
from mcast_fast.errors import ArgumentError, GroupError, MulticastError
from mcast_fast.files._reader import Reader
from mcast_fast.files._summary import summarise
from mcast_fast.groups import Group

LISTED = 4  # groups by name


def is_a_file(text: str) -> bool:
    """Whether an argument that is a file or a group is a file, or standard input; ArgumentError where it is neither."""
    if text == "-" or Path(text).is_file():
        return True
    try:
        Group.parse(text)
    except GroupError as error:
        if "/" in text or Path(text).suffix[1:].isalpha():
            raise ArgumentError(f"{text!r} is no file that is there, and no group") from error
        raise
    return False


def nothing_of(file: str, groups: Iterable[str]) -> str:
    """That a file has no packet of these groups, and which groups it has; a pipe is not read again."""
    named = " ".join(groups)
    missing = f"{file} holds no packet to {named or 'a group'}"
    if not named or not Path(file).is_file():
        return f"{missing}; look at `mcast-fast info`"
    try:
        with Reader(file, batch_size=4096) as reader:
            flows = summarise(file, reader).flows
    except MulticastError:
        return missing
    known = list(dict.fromkeys(endpoint_text(flow.group, flow.port) for flow in flows))
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return f"{missing}; it has {', '.join(known[:LISTED])}{more}" if known else f"{missing}, nor to any other"
