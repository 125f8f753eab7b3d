"""Formats: where a packet's number is, how many numbers it covers, and what its flow is named by; their text form.

Rules of this module: no I/O. `_core` reads payloads; it is given a plan of plain numbers.
"""

import re
import struct
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, Self, TypeAlias

from mcast_fast._core.extraction import HIGHEST_OFFSET, KEY_SIZE, MOST_KEYS, MOST_TESTS, Layout, Place, Plan
from mcast_fast.errors import ArgumentError

ByteOrder: TypeAlias = Literal["big", "little"]

_FIELD = r"(?:u(?P<bits>[0-9]{1,2})(?P<order>be|le)?|b(?P<bytes>[0-9]{1,2}))@(?P<rtp>rtp)?(?P<offset>[0-9]{1,5})"
_FIELD_TEXT = re.compile(_FIELD + r"(?:&(?P<mask>0x[0-9a-fA-F]{1,16}|[0-9]{1,20}))?", re.ASCII)
_INTEGER = re.compile(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,20}", re.ASCII)
_GRAMMAR = (
    "give a preset ({presets}), or NUMBER[+COUNT][/KEY…][,OPTION…] of fields such as u64be@10, u32le@4&0xffffff, "
    "u16be@rtp0 or, as a key, b10@0 (docs/sequences.md)"
)
SENDER_PORT = "source_port"


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a payload: `u32be@8` is four bytes at offset 8 as an integer, the highest first.

    Args:
        offset: Bytes before it.
        width: Its bytes: 1 to 8 of an integer, 1 to 16 of a key of bytes.
        order: "big" or "little": which of its bytes comes first.
        mask: The bits of it that count, as an integer; the value is shifted down by the zeros at the mask's end. None =
            all. 0 = it is no integer but bytes, which only a key may be.
        after_rtp: The offset counts from behind the RTP header, with its contributing sources and its extension (RFC
            3550).
    """

    __module__ = "mcast_fast.sequence"

    offset: int
    width: int
    order: ByteOrder = "big"
    mask: int | None = None
    after_rtp: bool = False

    def __post_init__(self) -> None:
        widest = KEY_SIZE if self.mask == 0 else 8
        if not 0 <= self.offset <= HIGHEST_OFFSET:
            raise ArgumentError(f"offset {self.offset} of a field is out of range; use 0 to {HIGHEST_OFFSET:,}")
        if not 1 <= self.width <= widest:
            raise ArgumentError(f"a field of {self.width} bytes is out of range; use 1 to {widest}")
        if self.order not in ("big", "little"):
            raise ArgumentError(f"byte order {self.order!r} is not one of: big, little")
        if self.mask is not None and not 0 <= self.mask < 1 << 8 * self.width:
            raise ArgumentError(f"mask {self.mask:#x} does not fit a field of {self.width} bytes")

    @property
    def bits(self) -> int:
        """Bits of the value: from the lowest to the highest of the mask."""
        place = self.place
        return (place.mask >> place.shift).bit_length()

    @property
    def place(self) -> Place:
        """The field for `_core`."""
        mask = (1 << 8 * self.width) - 1 if self.mask is None else self.mask
        return Place(self.offset, self.width, self.order == "little", self.after_rtp, mask)

    @classmethod
    def parse(cls, text: str) -> Self:
        """A field from its text.

        Args:
            text: Such as "u16be@2", "u32le@4&0xffffff", "u16be@rtp0" or, for bytes, "b10@0".

        Returns:
            The Field.

        Raises:
            ArgumentError: The text is no field.
        """
        match = _FIELD_TEXT.fullmatch(text)
        if match is None or (match["bytes"] and match["mask"]):
            raise ArgumentError(
                f"{text!r} is not a field; write u32be@8 for four bytes at offset 8, or b10@0 for bytes"
            )
        offset, after_rtp = int(match["offset"]), match["rtp"] is not None
        if match["bytes"]:
            return cls(offset, int(match["bytes"]), mask=0, after_rtp=after_rtp)
        bits = int(match["bits"])
        if bits % 8 or (bits > 8 and not match["order"]):
            raise ArgumentError(f"{text!r} is not a field: u8, or u16be, u16le, u24be … u64le")
        mask = _integer(match["mask"], "mask") if match["mask"] else None
        if mask == 0:
            raise ArgumentError(f"{text!r} has no bits: a mask of 0 leaves none")
        return cls(offset, bits // 8, "little" if match["order"] == "le" else "big", mask, after_rtp)

    def __str__(self) -> str:
        at = f"@{'rtp' if self.after_rtp else ''}{self.offset}"
        if self.mask == 0:
            return f"b{self.width}{at}"
        order = "" if self.width == 1 else "le" if self.order == "little" else "be"
        return f"u{8 * self.width}{order}{at}" + (f"&{self.mask:#x}" if self.mask is not None else "")


@dataclass(frozen=True, slots=True)
class Format:
    """Where the numbers of packets are: `Format.parse("u64be@10+u16be@18")`, or a preset, `Format.parse("rtp")`.

    Args:
        number: The field that holds a packet's number, or the lower part of it.
        high: The upper part, where there is one: the number is high * scale + number.
        scale: How many values the lower part has, so that the upper part counts in them.
        count: The field that says how many numbers the packet covers, of at most four bytes; None = one. A packet that
            covers none is a heartbeat: its number is the next one expected.
        heartbeat: A value of `count` that says the same, beside 0.
        end: A value of `count` that says that the flow has ended; the number is the one after the last.
        key: Fields that name the flow, of 16 bytes together; at most four.
        source_port: Whether the sender's port names the flow too. Its address, the group and its port always do for a
            Tracker, which receives from many.
        tests: At most four fields and the values that they have in every packet of this format; packets with other
            values have no number.
        preset: The name of the preset this is, with its parameter; empty for others.

    Raises:
        ArgumentError: A value is out of range, or does not go with another.
    """

    __module__ = "mcast_fast.sequence"

    number: Field
    high: Field | None = None
    scale: int = 1
    count: Field | None = None
    heartbeat: int | None = None
    end: int | None = None
    key: tuple[Field, ...] = ()
    source_port: bool = False
    tests: tuple[tuple[Field, int], ...] = ()
    preset: str = ""

    def __post_init__(self) -> None:
        self._check_numbers()
        if self.count is None and (self.heartbeat, self.end) != (None, None):
            raise ArgumentError("heartbeat and end are values of the count: give count too")
        if len(self.key) > MOST_KEYS or sum(field.width for field in self.key) > KEY_SIZE:
            raise ArgumentError(f"a key has at most {MOST_KEYS} fields, of {KEY_SIZE} bytes together")
        if len(self.tests) > MOST_TESTS:
            raise ArgumentError(f"{len(self.tests)} tests are too many; use at most {MOST_TESTS}")
        for field, value in self.tests:
            _check_integer(field, "a test")
            if not 0 <= value < 1 << field.bits:
                raise ArgumentError(f"{field} never has the value {value:#x}")

    def _check_numbers(self) -> None:
        _check_integer(self.number, "the number")
        if self.high is not None:
            _check_integer(self.high, "the upper part of the number")
            if not 1 <= self.scale < 1 << 64:
                raise ArgumentError(f"scale {self.scale} is out of range; use 1 to 2^64 - 1")
        elif self.scale != 1:
            raise ArgumentError("scale is that of the upper part of the number: give high too")
        if self.count is None:
            return
        _check_integer(self.count, "the count")
        if self.count.width > 4:
            raise ArgumentError(f"the count {self.count} has more than 4 bytes")
        for what, value in (("heartbeat", self.heartbeat), ("end", self.end)):
            if value is not None and not 0 <= value < 1 << self.count.bits:
                raise ArgumentError(f"{what}={value:#x} is no value of {self.count}")

    @property
    def bits(self) -> int:
        """Width of the number, bits: after them it begins anew. 64 where the upper part does not continue the lower."""
        if self._layout is not Layout.FIELDS:
            return _OTHER_LAYOUTS[self._layout]
        if self.high is None:
            return self.number.bits
        joined = self.number.bits + self.high.bits
        return joined if self.scale == 1 << self.number.bits and joined <= 64 else 64

    @property
    def key_size(self) -> int:
        """Bytes of a flow's key."""
        return sum(field.width for field in self.key)

    @property
    def _layout(self) -> Layout:
        name, _, parameter = self.preset.partition(":")
        return Layout.FIELDS if parameter and name in _BODIES else _LAYOUTS.get(name, Layout.FIELDS)

    @property
    def plan(self) -> Plan:
        """The format for `_core`."""
        parameter = self.preset.partition(":")[2]
        return Plan(
            number=self.number.place,
            bits=self.bits,
            high=self.high.place if self.high else None,
            scale=self.scale,
            count_at=self.count.place if self.count else None,
            heartbeat=self.heartbeat,
            end=self.end,
            keys=tuple(field.place for field in self.key),
            tests=tuple((field.place, value) for field, value in self.tests),
            layout=self._layout,
            parameter=int(parameter) if parameter and self._layout is not Layout.FIELDS else 0,
        )

    @classmethod
    def parse(cls, text: "str | Format") -> "Format":
        """A format from its text: a preset's name, or NUMBER[+COUNT][/KEY…][,OPTION…].

        Args:
            text: NUMBER is a field, or FIELD*N:FIELD for (first * N + second); COUNT is a field; a KEY is a field or
                `source_port`; an OPTION is `heartbeat=N`, `end=N`, or FIELD=N for a test. A field is `u16be@2`: u,
                bits, be or le, @, the offset; `@rtp0` counts from behind the RTP header; `&MASK` takes some bits;
                `b10@0` is ten bytes. A Format is returned as it is.

        Returns:
            The Format.

        Raises:
            ArgumentError: The text is no format; the message lists the presets.
        """
        if isinstance(text, Format):
            return text
        if not isinstance(text, str):
            raise ArgumentError(f"{text!r} is not a format; {_grammar()}")
        name, _, parameter = text.partition(":")
        if name in _PRESETS or name in _PARAMETERS:
            return _preset(name, parameter, text)
        if re.fullmatch(r"[\w-]+(:\w*)?", text):
            raise ArgumentError(f"{text!r} is not a format{_nearest(name)}; {_grammar()}")
        return _parsed(text)

    def __str__(self) -> str:
        if self.preset:
            return self.preset
        high = f"{self.high}*{self.scale}:" if self.high else ""
        count = f"+{self.count}" if self.count else ""
        keys = "".join(f"/{field}" for field in self.key) + (f"/{SENDER_PORT}" if self.source_port else "")
        values = (("heartbeat", self.heartbeat), ("end", self.end))
        options = [f",{what}={value}" for what, value in values if value is not None]
        options += [f",{field}={value:#x}" for field, value in self.tests]
        return f"{high}{self.number}{count}{keys}{''.join(options)}"


def _check_integer(field: Field, what: str) -> None:
    if field.mask == 0:
        raise ArgumentError(f"{what} is an integer, and {field} is bytes")


def _integer(text: str, what: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ArgumentError(f"{what} {text!r} is not a whole number")
    return int(text, 0) if text.startswith("0x") else int(text)


def _parsed(text: str) -> Format:
    """A format that is no preset."""
    try:
        head, *options = text.split(",")
        head, *keys = head.split("/")
        head, plus, count = head.partition("+")
        high, colon, low = head.rpartition(":")
        format = Format(Field.parse(low))
        if colon:
            upper, _, scale = high.partition("*")
            format = replace(format, high=Field.parse(upper), scale=_integer(scale, "scale"))
        format = replace(
            format,
            count=Field.parse(count) if plus else None,
            source_port=SENDER_PORT in keys,
            key=tuple(Field.parse(key) for key in keys if key != SENDER_PORT),
        )
        for option in options:
            format = _with_option(format, option)
        return format
    except ArgumentError as error:
        raise ArgumentError(f"{text!r} is not a format: {error}; {_grammar()}") from None


def _with_option(format: Format, option: str) -> Format:
    what, _, value = option.rpartition("=")
    number = _integer(value, what or "the value of an option")
    if what == "heartbeat":
        return replace(format, heartbeat=number)
    if what == "end":
        return replace(format, end=number)
    return replace(format, tests=(*format.tests, (Field.parse(what), number)))


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, (*_PRESETS, *_PARAMETERS), 1)
    return f" (did you mean {near[0]}?)" if near else ""


def _grammar() -> str:
    return _GRAMMAR.format(presets=", ".join((*_PRESETS, *(f"{name}:{what}" for name, what in _PARAMETERS.items()))))


# ---- presets ----

_RTP = "u16be@2/u32be@8,u8@0&0xc0=2"
# `send --sequence` writes: magic, count, two bytes of zeros, sender, number, time sent (ns since the epoch).
MCAST_FAST_MAGIC = 0x6D634651  # "mcFQ"
_STAMP = struct.Struct(">IHHQQq")
_PRESETS = {
    # RFC 3550, 5.1: version, sequence number, SSRC.
    "rtp": _RTP,
    # RFC 4175, 4.2, as in ST 2110-20 and -40 (RFC 8331): the upper 16 bits follow the RTP header.
    "st2110": "u16be@rtp0*65536:u16be@2/u32be@8,u8@0&0xc0=2",
    # MoldUDP64 1.00: session, number of the first message, count of messages; 0 = heartbeat, 0xFFFF = end of session.
    "moldudp64": "u64be@10+u16be@18/b10@0,heartbeat=0,end=65535",
    "spead": "u64be@8/b8@0",
    # lcm/udpm_util.h: pieces ("LC03") of a message share its number; the first one counts.
    "lcm": "u32be@4/source_port",
    # sockperf, src/message.h: number, flags (client 1, warm-up 4), length.
    "sockperf": "u64be@0/source_port,u16be@8&0x5=1",
    "iperf2": "u32be@0/source_port",
    "mcjoin": "u64be@0/b8@0",
    "mcast-fast": f"u64be@16+u16be@4/u64be@8,heartbeat=0,end=65535,u32be@0={MCAST_FAST_MAGIC:#x}",
}
# Presets with a parameter: what it is.
_PARAMETERS = {"vdif": "FRAMES_PER_SECOND", "spead": "PAYLOAD_BYTES", "lcm": "PIECES"}
# VDIF 1.1.1, words 0, 1 and 3: seconds and frame number, reference epoch, thread and station.
_VDIF = "u32le@0&0x3fffffff*{}:u32le@4&0xffffff/u32le@4&0x3f000000/u32le@12&0x3ffffff"
# Every piece of messages that all have as many: its place from 0 on, and their number.
_LCM_PIECES = "u32be@4*{0}:u16be@16/source_port,u32be@0=0x4c433033,u16be@18={0}"
_BODIES = {"vdif": _VDIF, "lcm": _LCM_PIECES}  # of presets with a parameter that is a part of their fields
_LAYOUTS = {"spead": Layout.SPEAD, "iperf2": Layout.IPERF2, "mcjoin": Layout.MCJOIN, "lcm": Layout.LCM}
_OTHER_LAYOUTS = {Layout.LCM: 32, Layout.SPEAD: 64, Layout.IPERF2: 32, Layout.MCJOIN: 64}  # width of the number, bits
_LARGEST_PARAMETER = {"vdif": 1 << 24, "spead": 65_535, "lcm": 65_535}


@cache
def _preset(name: str, parameter: str, text: str) -> Format:
    if name not in _PARAMETERS and parameter:
        raise ArgumentError(f"format {text!r}: {name} takes no parameter")
    if name not in _PRESETS and not parameter:
        raise ArgumentError(f"format {text!r}: give {name}:{_PARAMETERS[name]}")
    if parameter:
        what = _PARAMETERS[name]
        value = _integer(parameter, f"format {text!r}: {what}")
        if not 1 <= value <= _LARGEST_PARAMETER[name]:
            raise ArgumentError(f"format {text!r}: {what} is out of range; use 1 to {_LARGEST_PARAMETER[name]:,}")
        parameter = f":{value}"
    body = _BODIES[name].format(parameter[1:]) if parameter and name in _BODIES else _PRESETS[name]
    return replace(_parsed(body), preset=name + parameter)


END = 0xFFFF  # as a count: the flow has ended


def stamp(number: int, sender: int, time: int, count: int = 1) -> bytes:
    """The 32 bytes at the start of a packet in the format "mcast-fast".

    Args:
        number: The packet's number, modulo 2^64; of a heartbeat or the end, the one after the last.
        sender: 64 bits that distinguish this sender, and this start of it, from others.
        time: When it is sent, ns since the epoch.
        count: Numbers that the packet covers, up to 65,534; 0 is a heartbeat, 65,535 the end of the flow.

    Returns:
        The header, which the payload follows.

    Raises:
        ArgumentError: A value is out of range.
    """
    try:
        return _STAMP.pack(MCAST_FAST_MAGIC, count, 0, sender, number & (1 << 64) - 1, time)
    except struct.error:
        raise ArgumentError(f"sender {sender!r}, time {time!r} or count {count!r} is out of range") from None


stamp.__module__ = "mcast_fast.sequence"
