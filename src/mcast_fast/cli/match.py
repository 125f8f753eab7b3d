"""`--match`: which of the packets that come are taken, as tests that `_core` makes of whole batches."""

import math
import re
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import TYPE_CHECKING, TypeAlias

from mcast_fast import _core
from mcast_fast._core.addresses import map_address
from mcast_fast._core.matching import LONGEST, MOST_TESTS, MOST_VALUES, PacketTest, Subject
from mcast_fast.cli.words import nearest
from mcast_fast.errors import ArgumentError, ClosedError
from mcast_fast.sequence._format import Field

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch
    from mcast_fast.receiver import Receiver

ADDRESSES = {"source": Subject.SOURCE, "group": Subject.GROUP}
NUMBERS = {"source_port": Subject.SOURCE_PORT, "port": Subject.PORT, "size": Subject.SIZE}
CONTENTS = ("text", "hex")
NAMES = (*ADDRESSES, *NUMBERS, *CONTENTS)
LARGEST = (1 << 64) - 1
Ranges: TypeAlias = tuple[tuple[int, int], ...] | tuple[tuple[bytes, bytes], ...]

_TEST = re.compile(
    r"\s*([A-Za-z_]+(?:[0-9]+(?:be|le)?@(?:rtp)?[0-9]+(?:&\w+)?)?)\s*(==|!?[=~]|[<>]=?)\s*(.*)", re.DOTALL
)
_PAYLOAD_FIELD = re.compile(r"[a-z]+[0-9]")
_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,20}", re.ASCII)
GRAMMAR = "use FIELD=VALUE, such as source=10.0.0.0/8, port=5000-5010, size>=200, u16be@0=0x1234 or text~hello"


def parsed(text: str) -> PacketTest:
    """A test from its text; ArgumentError.

    >>> parsed("port=5000,5010-5020").ranges
    ((5000, 5000), (5010, 5020))
    """
    match = _TEST.fullmatch(text)
    if match is None:
        raise ArgumentError(f"{text!r} is no test; {GRAMMAR}")
    name, operator, value = match.groups()
    try:
        return _test(name, operator, value)
    except ArgumentError as error:
        raise ArgumentError(f"{text!r}: {error}") from None


def _test(name: str, operator: str, value: str) -> PacketTest:
    negated = operator.startswith("!")
    if (name in CONTENTS) != operator.endswith("~"):
        raise ArgumentError(
            f"~ is of text and hex, and these have no other: text~hello, hex~c0ffee; not {name}{operator}"
        )
    if name in CONTENTS:
        return PacketTest(Subject.CONTENTS, _contents(name, value), negated)
    if name in ADDRESSES:
        return PacketTest(ADDRESSES[name], _each(value, _network, operator), negated)
    if name in NUMBERS:
        return PacketTest(NUMBERS[name], _numbers(value, operator, LARGEST if name == "size" else 65_535), negated)
    if not _PAYLOAD_FIELD.match(name):
        raise ArgumentError(
            f"there is no field {name!r}{nearest(name, NAMES)}; there are {', '.join(NAMES)}, and u16be@0"
        )
    field = Field.parse(name)
    if field.mask == 0:
        return PacketTest(
            Subject.BYTES, _each(value, lambda one: _bytes(one, field.width), operator), negated, field.place
        )
    return PacketTest(Subject.INTEGER, _numbers(value, operator, (1 << field.bits) - 1), negated, field.place)


def _each(value: str, parse: Callable[[str], tuple[bytes, bytes]], operator: str) -> tuple[tuple[bytes, bytes], ...]:
    """The values of a list, of which one is enough."""
    if operator[0] in "<>":
        raise ArgumentError("addresses and bytes are compared by = and != alone")
    return tuple(map(parse, _listed(value)))


def _listed(value: str) -> list[str]:
    values = [one.strip() for one in value.split(",")]
    if len(values) > MOST_VALUES:
        raise ArgumentError(f"{len(values)} values are too many; use at most {MOST_VALUES}")
    return values


def _network(text: str) -> tuple[bytes, bytes]:
    """The first and the last address of a prefix, packed."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ArgumentError(f"{text!r} is no address, and no prefix such as 10.0.0.0/8") from None
    return map_address(str(network[0])), map_address(str(network[-1]))


def _numbers(value: str, operator: str, largest: int) -> tuple[tuple[int, int], ...]:
    if operator[0] in "<>":
        limit = _number(value, largest)
        if operator[0] == ">":
            return ((limit + (operator == ">"), LARGEST),)
        return ((0, limit - (operator == "<")),) if limit or operator == "<=" else ((1, 0),)
    found = []
    for one in _listed(value):
        first, _, last = one.partition("-")
        found.append((_number(first, largest), _number(last or first, largest)))
        if found[-1][0] > found[-1][1]:
            raise ArgumentError(f"the range {one} is empty; write the lower number first")
    return tuple(found)


def _number(text: str, largest: int) -> int:
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        raise ArgumentError(f"{text!r} is no number, such as 5000 or 0x1234")
    number = int(text, 0) if text.startswith("0x") else int(text)
    if number > largest:
        raise ArgumentError(f"{text} is never reached; the largest is {largest:,}")
    return number


def _bytes(text: str, size: int) -> tuple[bytes, bytes]:
    found = _hex(text)
    if len(found) != size:
        raise ArgumentError(f"{text!r} has {len(found)} bytes, and the field {size}")
    return found, found


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise ArgumentError(f"{text!r} is not hexadecimal, such as c0ffee") from None


def _contents(name: str, value: str) -> tuple[tuple[bytes, bytes], ...]:
    found = value.encode("utf-8", "surrogateescape") if name == "text" else _hex(value)
    if not 1 <= len(found) <= LONGEST:
        raise ArgumentError(f"{name} has {len(found)} bytes; use 1 to {LONGEST}")
    return ((found, found),)


class Match:
    """Packets that pass all tests of a command line, batch by batch; without a test all do.

    Attributes:
        unmatched: Packets that did not, so far.
    """

    def __init__(self, tests: tuple[PacketTest, ...]) -> None:
        if len(tests) > MOST_TESTS:
            raise ArgumentError(f"--match was given {len(tests)} times; at most {MOST_TESTS} tests are made")
        self._tests = tests
        self.unmatched: int = 0

    def __bool__(self) -> bool:
        return bool(self._tests)

    @property
    def reads_payload(self) -> bool:
        """Whether a test needs payloads, which whole frames are not."""
        return any(test.reads_payload for test in self._tests)

    def counted(self) -> dict[str, int]:
        """The packets that did not pass, for a summary; nothing without a test."""
        return {"unmatched": self.unmatched} if self._tests else {}

    def __call__(self, batch: "Batch") -> "Batch":
        """The packets of a batch that pass; the others are counted."""
        if not self._tests:
            return batch
        found = _core.sequence.matching(batch, self._tests)
        self.unmatched += len(batch) - len(found)
        return found

    def batches(
        self,
        receiver: "Receiver",
        see: "Callable[[Batch], object] | None",
        *,
        timeout: float | None,
        duration: float | None,
        count: int | None,
    ) -> "Iterator[Batch]":
        """Batches of a receiver, of the packets that pass; the limits, as those of `Receiver.batches`, are of these.

        `see` is called with each batch before that."""
        if not self._tests:
            for batch in receiver.batches(timeout=timeout, duration=duration, count=count):
                if see is not None:
                    see(batch)
                yield batch
            return
        now = time.monotonic()
        end, silent = (math.inf if limit is None else now + limit for limit in (duration, timeout))
        while now < min(end, silent) and count != 0:
            try:
                wait = min(end, silent) - now
                batch = receiver.recv_batch(timeout=None if math.isinf(wait) else wait)
            except (TimeoutError, ClosedError):
                return
            if see is not None:
                see(batch)
            found = self(batch)
            found = found if count is None else found[:count]
            now = time.monotonic()
            if len(found):
                count = None if count is None else count - len(found)
                silent = math.inf if timeout is None else now + timeout
                yield found
