"""Formats: text and back, what is refused, and what the presets read of payloads that other programs would send."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcast_fast import _core, errors, sequence
from mcast_fast._core.extraction import KEY_SIZE, Place, Plan
from mcast_fast.sequence import Field, Format, Kind
from tests.test_pcapng import batch_of, record

PRESETS = [
    "rtp",
    "st2110",
    "moldudp64",
    "vdif:25000",
    "spead",
    "spead:1024",
    "lcm",
    "lcm:3",
    "sockperf",
    "iperf2",
    "mcjoin",
]
PRESETS.append("mcast-fast")


def columns(text, *payloads):
    """[(kind, number, count, key)] of payloads by a format."""
    batch = batch_of(*((record(one), one) for one in payloads))
    found = _core.sequence.columns_of(batch, Format.parse(text).plan)
    keys = bytes(found.key)
    rows = [keys[start : start + KEY_SIZE] for start in range(0, len(keys), KEY_SIZE)]
    return list(zip(map(Kind, found.kind), found.number, found.count, rows, strict=True))


def columns_in(found):
    return found.number, found.count, found.key, found.kind


def key(value):
    return value.ljust(KEY_SIZE, b"\0")


NONE = (0, 0, bytes(KEY_SIZE))


# ---- the text ----


@pytest.mark.parametrize(
    "text",
    [
        "u64be@10",
        "u8@0",
        "u24le@3&0xfff0",
        "u16be@2/u32be@8",
        "u64be@10+u16be@18",
        "u64be@10+u16be@18/b10@0,heartbeat=0,end=65535",
        "u16be@rtp0*65536:u16be@2/u32be@8,u8@0&0xc0=0x2",
        "u32be@4/source_port,u32be@0=0x4c433032",
        "u64le@0/u8@9/b7@10/u64be@20",
    ],
)
def test_a_format_is_written_as_it_is_read(text):
    assert str(Format.parse(text)) == text
    assert Format.parse(Format.parse(text)) == Format.parse(text)


@pytest.mark.parametrize("text", PRESETS)
def test_a_preset_is_written_by_its_name(text):
    assert str(Format.parse(text)) == text
    assert Format.parse(text) is Format.parse(text)


def test_widths():
    widths = {text: Format.parse(text).bits for text in ("rtp", "st2110", "moldudp64", "vdif:7", "spead", "iperf2")}
    assert widths == {"rtp": 16, "st2110": 32, "moldudp64": 64, "vdif:7": 64, "spead": 64, "iperf2": 32}
    assert Format.parse("u32le@0&0x00fffff0").bits == 20


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a field"),
        ("rtq", "rtp, st2110, moldudp64"),
        ("rtp:3", "rtp takes no parameter"),
        ("vdif", "give vdif:FRAMES_PER_SECOND"),
        ("vdif:0", "out of range"),
        ("vdif:x", "not a whole number"),
        ("spead:65536", "out of range"),
        ("u12be@0", "u16be"),
        ("u16@0", "u16be"),
        ("u72be@0", "1 to 8"),
        ("u0@0", "1 to 8"),
        ("u16be@65001", "out of range"),
        ("u16be@0&0x10000", "does not fit"),
        ("b4@0", "is an integer"),
        ("u8@0/b17@0", "1 to 16"),
        ("u8@0/b16@0/u8@0", "16 bytes together"),
        ("u8@0" + "/u8@0" * 5, "at most 4 fields"),
        ("u8@0+u64be@0", "more than 4 bytes"),
        ("u8@0,end=3", "give count too"),
        ("u8@0+u8@1,end=256", "no value of u8@1"),
        ("u8@0,u8@1=256", "never has the value"),
        ("u8@0,u8@1=z", "not a whole number"),
        ("u8@0" + ",u8@0=1" * 5, "too many"),
        ("u8@1*0:u8@0", "scale 0 is out of range"),
        ("u8@1:u8@0", "not a whole number"),
        ("u8@0&0&0", "is not a field"),
        ("u32be@0&0", "a mask of 0 leaves none"),
        ("u32be@0&0x0", "a mask of 0 leaves none"),
        (b"rtp", "is not a format"),
    ],
)
def test_what_is_no_format_is_refused(text, reason):
    with pytest.raises(errors.ArgumentError) as caught:
        Format.parse(text)
    assert reason in str(caught.value)
    assert repr(text) in str(caught.value)


@given(st.text(alphabet="u8132640belt@rp+/,*:&x=fb_", max_size=30))
def test_any_text_is_a_format_or_an_argument_error(text):
    try:
        format = Format.parse(text)
    except errors.ArgumentError:
        return
    assert Format.parse(str(format)) == format


def test_a_format_from_its_parts():
    format = Format(Field(10, 8), count=Field(18, 2), key=(Field(0, 10, mask=0),), heartbeat=0, end=0xFFFF)
    assert str(format) == "u64be@10+u16be@18/b10@0,heartbeat=0,end=65535"
    with pytest.raises(errors.ArgumentError, match="give high too"):
        Format(Field(0, 2), scale=3)
    with pytest.raises(errors.ArgumentError, match="not one of: big, little"):
        Field(0, 2, "middle")
    assert sequence.Field.__module__ == "mcast_fast.sequence"


# ---- presets ----


def rtp(number, ssrc=7, first=0x80, extra=b""):
    return struct.pack(">BBHII", first, 96, number, 1000, ssrc) + extra


def test_rtp(backend):
    assert columns("rtp", rtp(65_535), rtp(0, 0xFFFFFFFF), rtp(1)[:11], b"", rtp(3, first=0x40)) == [
        (Kind.DATA, 65_535, 1, key(struct.pack(">I", 7))),
        (Kind.DATA, 0, 1, key(b"\xff" * 4)),
        (Kind.SHORT, *NONE),
        (Kind.SHORT, *NONE),
        (Kind.OTHER, *NONE),
    ]


@pytest.mark.parametrize("first", range(1, 9))
@pytest.mark.parametrize("second", range(1, 9))
def test_a_key_of_two_parts_wherever_the_second_begins(backend, first, second):
    fields = f"u{8 * first}{'be' if first > 1 else ''}@0/u{8 * second}{'be' if second > 1 else ''}@{first}"
    payload = bytes(range(0x81, 0xA1))
    assert columns(f"u8@0/{fields}", payload) == [(Kind.DATA, 0x81, 1, key(payload[: first + second]))]


def test_st2110_takes_its_upper_half_from_behind_sources_and_extension(backend):
    upper = struct.pack(">H", 0x1234)
    extension = struct.pack(">HH", 0xBEDE, 2) + bytes(8)
    found = columns(
        "st2110",
        rtp(0x5678, extra=upper),
        rtp(0x5678, first=0x82, extra=bytes(8) + upper),
        rtp(0x5678, first=0x91, extra=bytes(4) + extension + upper),
        rtp(0x5678, extra=upper[:1]),
        rtp(0x5678, first=0x90, extra=extension[:2]),
        rtp(0x5678, first=0x90, extra=extension + upper[:1]),
    )
    assert found[:3] == [(Kind.DATA, 0x12345678, 1, key(struct.pack(">I", 7)))] * 3
    assert found[3:] == [(Kind.SHORT, *NONE)] * 3


def test_moldudp64(backend):
    session = b"SESSION001"

    def packet(number, count):
        return session + struct.pack(">QH", number, count)

    assert columns("moldudp64", packet(5, 3), packet(8, 0), packet(8, 0xFFFF), packet(8, 1)[:-1]) == [
        (Kind.DATA, 5, 3, key(session)),
        (Kind.HEARTBEAT, 8, 0, key(session)),
        (Kind.END, 8, 0, key(session)),
        (Kind.SHORT, *NONE),
    ]


def test_vdif(backend):
    def frame(second, number, epoch=44, thread=3, station=0x4142):
        words = second | 1 << 31, number | epoch << 24, 1 << 29 | 4, thread << 16 | station | 1 << 26
        return struct.pack("<4I", *words)

    (first, second, other) = columns("vdif:25000", frame(10, 24_999), frame(11, 0), frame(11, 0, thread=4))
    assert [one[:3] for one in (first, second, other)] == [
        (Kind.DATA, 274_999, 1),
        (Kind.DATA, 275_000, 1),
        (Kind.DATA, 275_000, 1),
    ]
    assert first[3] == second[3] == key(struct.pack(">II", 44, 3 << 16 | 0x4142)) != other[3]


def spead(heap, offset, size=3_000, length=1_000, width=6, extra=()):
    items = [(1, heap), (2, size), (3, offset), (4, length), *extra]
    pointers = b"".join(struct.pack(">Q", 1 << 63 | number << 8 * width | value) for number, value in items)
    return struct.pack(">BBBBHH", 0x53, 4, 8 - width, width, 0, len(items)) + pointers


@pytest.mark.parametrize("width", [5, 6])
def test_spead(backend, width):
    packets = spead(7, 2_000, width=width), spead(8, 0, width=width)
    named = key(struct.pack(">Q", 3_000))
    assert columns("spead", *packets) == [(Kind.DATA, 23_000, 1_000, named), (Kind.DATA, 24_000, 1_000, named)]
    assert columns("spead:1024", *packets) == [(Kind.DATA, 23, 1, named), (Kind.DATA, 24, 1, named)]


def test_the_first_packet_of_a_spead_heap_may_have_less_than_the_others(backend):
    """As spead2 sends them: it has more item pointers."""
    packets = [spead(7, offset, size=4_096) for offset in (0, 1_048, 2_104, 3_160)]
    assert [one[1] for one in columns("spead:1056", *packets)] == [28, 29, 30, 31]


def test_what_is_no_part_of_a_spead_heap(backend):
    whole = spead(7, 0)
    found = columns("spead", whole[:-1], whole[:7], b"\x52" + whole[1:], spead(7, 0, length=0))
    assert [one[0] for one in found] == [Kind.SHORT, Kind.SHORT, Kind.OTHER, Kind.OTHER]
    unaddressed = whole[:8] + struct.pack(">Q", 1 << 48) * 4
    assert columns("spead", unaddressed) == [(Kind.OTHER, *NONE)]


def test_the_end_of_a_spead_stream(backend):
    """As spead2 4.5.1 sends it; its number is that of its heap."""
    end = struct.pack(">BBBBHH", 0x53, 4, 3, 5, 0, 6) + b"".join(
        struct.pack(">Q", flag << 63 | item << 40 | value)
        for flag, item, value in ((1, 1, 4), (1, 2, 1), (1, 3, 0), (1, 4, 1), (1, 6, 2), (0, 0, 0))
    )
    assert columns("spead", end + b"\0") == [(Kind.END, 4, 0, key(b""))]
    assert columns("spead", spead(4, 0, size=1, extra=[(6, 1)])) == [(Kind.DATA, 4, 1_000, key(struct.pack(">Q", 1)))]


def lcm_piece(number, place, pieces):
    return b"LC03" + struct.pack(">IIIHH", number, 9_000, 0, place, pieces) + b"x"


def test_lcm_counts_messages_by_their_first_piece(backend):
    whole = b"LC02" + struct.pack(">I", 9) + b"channel\0x"
    payloads = whole, lcm_piece(10, 0, 3), lcm_piece(10, 1, 3), lcm_piece(11, 0, 3)[:19], whole[:7], b"LC04" + whole[4:]
    assert [one[:3] for one in columns("lcm", *payloads)] == [
        (Kind.DATA, 9, 1),
        (Kind.DATA, 10, 1),
        (Kind.OTHER, 0, 0),
        (Kind.SHORT, 0, 0),
        (Kind.SHORT, 0, 0),
        (Kind.OTHER, 0, 0),
    ]
    assert Format.parse("lcm").source_port
    assert Format.parse("lcm").bits == 32


def test_lcm_follows_every_piece_of_messages_that_all_have_as_many(backend):
    whole = b"LC02" + struct.pack(">I", 9) + b"channel\0x" + bytes(9)
    payloads = lcm_piece(10, 0, 3), lcm_piece(10, 2, 3), lcm_piece(11, 0, 3), lcm_piece(12, 0, 2), whole
    found = columns("lcm:3", *payloads)
    assert [one[:2] for one in found[:3]] == [(Kind.DATA, 30), (Kind.DATA, 32), (Kind.DATA, 33)]
    assert [one[0] for one in found[3:]] == [Kind.OTHER, Kind.OTHER]


def test_sockperf_leaves_warm_up_and_answers_out(backend):
    def message(number, flags):
        return struct.pack(">QHI", number, flags, 14)

    found = columns("sockperf", message(5, 1), message(6, 3), message(7, 5), message(8, 0))
    assert [one[:2] for one in found] == [(Kind.DATA, 5), (Kind.DATA, 6), (Kind.OTHER, 0), (Kind.OTHER, 0)]


def test_iperf2(backend):
    """As iperf 2.1.8 sends them: seven datagrams, and the end as the negative of the eighth number."""
    data, end = "00000007 6b0b4cf3 000ad4ab 00000000", "fffffff8 6b0b4cf3 000ae7e7 ffffffff"
    found = columns("iperf2", bytes.fromhex(data), bytes.fromhex(end), bytes.fromhex(data)[:15])
    assert found == [(Kind.DATA, 7, 1, key(b"")), (Kind.END, 8, 0, key(b"")), (Kind.SHORT, *NONE)]


def test_mcjoin(backend):
    text = b"Sender PID 4711, MC group 225.1.2.3 ... count: 123, freq: 10"
    named = key(struct.pack(">Q", 4711))
    assert columns(
        "mcjoin", text + bytes(40), text[:-9], text[:-10], b"count: 7, ", text.replace(b"4711", b"9" * 20)
    ) == [
        (Kind.DATA, 123, 1, named),
        (Kind.DATA, 123, 1, named),
        (Kind.OTHER, *NONE),
        (Kind.OTHER, *NONE),
        (Kind.OTHER, *NONE),
    ]


def test_mcast_fast(backend):
    def packet(number, count=1):
        return b"mcFQ" + struct.pack(">HHQQq", count, 0, 11, number, 123)

    named = key(struct.pack(">Q", 11))
    assert columns("mcast-fast", packet(5), packet(6, 0), packet(6, 0xFFFF), b"mcFR" + packet(5)[4:]) == [
        (Kind.DATA, 5, 1, named),
        (Kind.HEARTBEAT, 6, 0, named),
        (Kind.END, 6, 0, named),
        (Kind.OTHER, *NONE),
    ]


# ---- both backends ----

KEYS = ["u16be@0/u24be@1/u64le@2&0xff0000ff0/u32be@0", "u8@0/u64be@3/u64le@1"]  # a part lies in both words of the key
FORMATS = st.sampled_from(
    [*PRESETS, "u8@0", "u24le@1&0xfffff0/b3@0", "u64le@rtp3+u8@2/u56be@1", "u40be@2*999:u16le@0", *KEYS]
)
PIECES = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from(
            [rtp(1), spead(1, 0), b"LC02", b"mcFQ", b"Sender PID 1,", b"count: 5,", b"\x90", b"\x53\x04\x02\x06"]
        ),
    ),
    max_size=5,
).map(b"".join)


@given(FORMATS, st.lists(PIECES, max_size=8))
def test_any_payload_is_the_same_to_both_backends(text, payloads):
    found = {}
    for name in ("fast", "pure"):
        views, reads = (pytest.importorskip(f"mcast_fast._core.{name}.{module}") for module in ("views", "sequence"))
        records = [record(one) for one in payloads]
        for at, values in enumerate(records):
            values[1] = sum(map(len, payloads[:at]))
        batch = views.Batch.from_bytes(
            b"".join(_core.layout.RECORD.pack(*one) for one in records), b"".join(payloads), {}
        )
        found[name] = [bytes(column) for column in columns_in(reads.columns_of(batch, Format.parse(text).plan))]
    assert found["fast"] == found["pure"]


def test_columns_are_arrays(backend):
    np = pytest.importorskip("numpy")
    batch = batch_of(*((record(rtp(number)), rtp(number)) for number in range(5)))
    found = _core.sequence.columns_of(batch, Format.parse("rtp").plan)
    assert np.asarray(found.number).tolist() == [0, 1, 2, 3, 4]
    assert (np.asarray(found.key).shape, np.asarray(found.count).dtype, np.asarray(found.kind).dtype) == (
        (5, 16),
        "u4",
        "u1",
    )
    part = _core.sequence.columns_of(batch[2:4], Format.parse("rtp").plan)
    assert part.number.tolist() == [2, 3]
    none = _core.sequence.columns_of(batch[:0], Format.parse("rtp").plan)
    assert [len(column) for column in columns_in(none)] == [0, 0, 0, 0]
    with pytest.raises(TypeError, match="a batch is required, not list"):
        _core.sequence.columns_of([batch], Format.parse("rtp").plan)


@pytest.mark.needs("fast")
@pytest.mark.parametrize(
    "plan",
    [
        Plan(Place(0, 16), 64),
        Plan(Place(0, 1, mask=255), 8, high=Place(0, 9, mask=1)),
        Plan(Place(0, 1, mask=255), 8, count_at=Place(0, 0)),
        Plan(Place(0, 1, mask=255), 8, keys=(Place(0, 9, mask=1),)),
        Plan(Place(0, 1, mask=255), 8, tests=((Place(0, 16), 0),)),
    ],
)
def test_the_compiled_core_reads_no_integer_of_more_than_eight_bytes(plan):
    from mcast_fast._core.fast.sequence import Tracker

    with pytest.raises(ValueError, match="cannot be read"):
        Tracker(plan, False, 1, 1)
