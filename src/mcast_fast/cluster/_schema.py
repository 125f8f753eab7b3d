"""Tables of keys that plans and manifests are checked by: one row a key, and errors that name where it is.

Rules of this module: no I/O.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mcast_fast.errors import ArgumentError, MulticastError

Check = Callable[[Any, str], Any]  # (value, what it is called) -> value as it is used; ArgumentError, GroupError
MISSING = object()  # the default of a key that has to be there


class Key(NamedTuple):
    """A key of a table: how its value is checked, what it means, and its value where it is left out."""

    check: Check
    meaning: str
    default: Any = MISSING


Table = Mapping[str, Key]


def checked_table(values: Any, table: Table, where: str) -> dict[str, Any]:
    """The values of a table, each as its key's check returns it.

    Args:
        values: What was read.
        table: The keys that may be there.
        where: What the errors name: the file, and the table in it.

    Returns:
        A value for every key of the table.

    Raises:
        ArgumentError: It is no table, a key is unknown or missing, or a value cannot be; the message names file, table
            and key.
    """
    if not isinstance(values, Mapping):
        raise ArgumentError(f"{where} is no table")
    for name in values:
        if name not in table:
            raise ArgumentError(f"{where}: {name!r} is unknown; the keys are {', '.join(table)}")
    found: dict[str, Any] = {}
    for name, key in table.items():
        if name not in values:
            if key.default is MISSING:
                raise ArgumentError(f"{where}: {name!r} is missing: {key.meaning}")
            found[name] = key.default
            continue
        try:
            found[name] = key.check(values[name], f"{name!r}")
        except MulticastError as error:
            raise ArgumentError(f"{where}: {error}") from None
    return found


def text(value: Any, what: str) -> str:
    """A text of at least one character that can be printed."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ArgumentError(f"{what}: {value!r} is no text in one line")
    return value


def flag(value: Any, what: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ArgumentError(f"{what}: {value!r} is neither true nor false")
    return value


def integer(smallest: int, largest: int) -> Check:
    """A whole number in a range."""

    def check(value: Any, what: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
            raise ArgumentError(f"{what}: {value!r} is no whole number from {smallest} to {largest}")
        return value

    return check


def optional(check: Check) -> Check:
    """What another check takes, or null."""
    return lambda value, what: None if value is None else check(value, what)


def several(check: Check, most: int) -> Check:
    """A list of what another check takes."""

    def all_of(value: Any, what: str) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or len(value) > most:
            raise ArgumentError(f"{what}: it is no list of at most {most} values")
        return tuple(check(one, f"{what}, value {at}") for at, one in enumerate(value, 1))

    return all_of


def rows(table: Table, most: int) -> Check:
    """A list of tables."""
    return several(lambda value, what: checked_table(value, table, what), most)
