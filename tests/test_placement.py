"""place: payloads go to the rows of their numbers, nothing is written beside them, and every packet is counted."""

import struct
from dataclasses import astuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcast_fast import _core, errors, sequence
from mcast_fast.sequence import Placement, place
from tests.conftest import has_fast
from tests.test_pcapng import NOW, batch_of, record

NUMBER = "u16be@0"
GUARD = 64


def numbered(*packets):
    """A batch of (number, body): a number of 16 bits, and the rest."""
    payloads = [struct.pack(">H", number & 0xFFFF) + body for number, body in packets]
    return batch_of(*((record(one), one) for one in payloads))


def placed(batch, rows, size, form=NUMBER, base=0, body=2, present=None, key=None):
    """(rows, presence, Placement): between guards, which nothing touches."""
    memory = bytearray(b"\xee" * (rows * size + 2 * GUARD))
    mask = bytearray(b"\xee" * (rows + 2 * GUARD))
    mask[GUARD : GUARD + rows] = present or bytes(rows)
    with memoryview(memory)[GUARD:-GUARD] as into, memoryview(mask)[GUARD:-GUARD] as there:
        shaped = into.cast("B", (rows, size))
        result = place(batch, form, into=shaped, base=base, present=there, body=body, key=key)
        shaped.release()
        found = [bytes(into[at : at + size]) for at in range(0, rows * size, size)], list(there), result
    for guarded in (memory, mask):
        assert guarded[:GUARD] == guarded[-GUARD:] == b"\xee" * GUARD
    return found


def test_reordered_repeated_and_missing_packets(backend):
    batch = numbered((12, b"cc"), (10, b"aa"), (12, b"zz"), (9, b"--"), (14, b"--"))
    rows, there, result = placed(batch, 4, 2, base=10)
    assert rows == [b"aa", b"\xee\xee", b"cc", b"\xee\xee"]
    assert there == [1, 0, 1, 0]
    assert result == Placement(placed=2, duplicates=1, below=1, above=1)


def test_the_mask_goes_on_from_call_to_call(backend):
    rows, there, result = placed(numbered((0, b"aa"), (1, b"bb")), 2, 2, present=b"\1\0")
    assert (rows, there) == ([b"\xee\xee", b"bb"], [1, 1])
    assert result + result == Placement(placed=2, duplicates=2)


def test_numbers_wrap_within_the_rows(backend):
    batch = numbered(*((at, bytes([at & 0xFF])) for at in (1, 65535, 0, 65534, 65533, 2)))
    rows, there, result = placed(batch, 4, 1, base=65534)
    assert (rows, there) == ([b"\xfe", b"\xff", b"\0", b"\1"], [1, 1, 1, 1])
    assert result == Placement(placed=4, below=1, above=1)


def test_short_and_long_bodies(backend):
    rows, there, result = placed(numbered((0, b"a"), (1, b"abc"), (2, b""), (3, b"ab")), 4, 2)
    assert rows == [b"a\0", b"\xee\xee", b"\0\0", b"ab"]
    assert there == [1, 0, 1, 1]
    assert result == Placement(placed=3, too_long=1, short=2)


def test_what_has_no_number_or_several_has_no_row(backend):
    form = "u16be@0+u8@2,end=9"
    payloads = [b"\0\0" + bytes([count]) + b"x" for count in (1, 2, 0, 9)] + [b"\0"]
    batch = batch_of(*((record(one), one) for one in payloads))
    assert placed(batch, 4, 1, form=form, body=3)[2] == Placement(placed=1, other=4)


def test_only_the_flow_of_a_key(backend):
    payloads = [b"\0\0" + bytes([key, 65 + key]) for key in (1, 2)]
    batch = batch_of(*((record(one), one) for one in payloads))
    rows, _, result = placed(batch, 1, 1, form="u16be@0/u8@2", body=3, key=b"\2")
    assert (rows, result) == ([b"C"], Placement(placed=1, other=1))
    assert placed(batch, 1, 1, form="u16be@0/u8@2", body=3)[2] == Placement(placed=1, duplicates=1)


RTP = struct.pack(">BBHII", 0x80, 96, 7, 0, 0)
RTP_LONG = struct.pack(">BBHIII", 0x91, 96, 7, 0, 0, 1) + struct.pack(">HHI", 0, 1, 2)
SPEAD = bytes([0x53, 4, 2, 6, 0, 0, 0, 4]) + b"".join(
    struct.pack(">Q", 1 << 63 | item << 48 | value) for item, value in ((1, 7), (2, 3), (3, 0), (4, 3))
)


@pytest.mark.parametrize(
    ("form", "body", "payload", "base"),
    [
        ("rtp", None, RTP + b"abc", 7),
        ("rtp", None, RTP_LONG + b"abc", 7),
        ("rtp", None, bytes([0xA0]) + RTP[1:] + b"abc\0\0\3", 7),
        ("rtp", "rtp2", RTP + b"--abc", 7),
        ("rtp", 12, RTP + b"abc", 7),
        ("st2110", "rtp2", RTP + b"\0\1abc", 65536 + 7),
        ("spead:1024", None, SPEAD + b"abc", 7),
        ("vdif:25000", None, struct.pack("<IIII", 0, 7, 0, 0) + bytes(16) + b"abc", 7),
        ("vdif:25000", None, struct.pack("<IIII", 1 << 30, 7, 0, 0) + b"abc", 7),
        ("mcast-fast", None, sequence.stamp(7, 1, NOW) + b"abc", 7),
        ("u64be@0", None, struct.pack(">Q", 7)[:8] + b"abc", 7),
    ],
)
def test_where_bodies_begin(backend, form, body, payload, base):
    size = len(payload) if form == "u64be@0" else 3
    rows, _, result = placed(batch_of((record(payload), payload)), 1, size, form=form, base=base, body=body)
    assert (rows, result) == ([payload[-size:] if payload[0] != 0xA0 else b"abc"], Placement(placed=1))


def test_a_body_of_nothing_but_padding_is_an_empty_one(backend):
    payload = bytes([0xA0]) + RTP[1:] + b"\0\0\3"
    rows, there, result = placed(batch_of((record(payload), payload)), 1, 3, form="rtp", base=7, body=None)
    assert (rows, there, result) == ([bytes(3)], [1], Placement(placed=1, short=1))


@pytest.mark.parametrize(
    ("form", "payload"),
    [
        ("rtp", RTP_LONG[:14]),
        ("rtp", bytes([0xA0]) + RTP[1:]),
        ("rtp", bytes([0xA0]) + RTP[1:] + b"abc\7"),
        ("rtp", bytes([0xA0]) + RTP[1:] + b"abc\0"),
        ("mcast-fast", sequence.stamp(7, 1, NOW)[:31]),
        ("vdif:25000", struct.pack("<IIII", 0, 7, 0, 0)),
    ],
)
def test_a_payload_that_ends_before_its_body_has_none(backend, form, payload):
    assert placed(batch_of((record(payload), payload)), 8, 3, form=form, base=7, body=None)[2] == Placement(other=1)


def test_arrays_of_numpy(backend):
    np = pytest.importorskip("numpy")
    batch = numbered((1, struct.pack(">2h", 5, -6)), (0, struct.pack(">2h", 7, 8)))
    for kind in (np.zeros((2, 2), ">i2"), np.zeros(2, [("Offset", ">i2"), ("b", ">i2")]), np.zeros((2, 1, 2), ">i2")):
        mask = np.zeros(2, bool)
        assert place(batch, NUMBER, into=kind, base=np.int64(0), present=mask, body=2).placed == 2
        assert kind.tobytes() == struct.pack(">4h", 7, 8, 5, -6)
        assert mask.all()


def refused(match, form=NUMBER, **arguments):
    arguments = {"into": memoryview(bytearray(8)).cast("B", (4, 2)), "present": bytearray(4), "base": 0} | arguments
    with pytest.raises(errors.ArgumentError, match=match):
        place(numbered((0, b"aa")), form, **arguments)


def test_what_cannot_be_written_is_refused(backend):
    np = pytest.importorskip("numpy")
    refused("into is read-only", into=bytes(8))
    refused("into is not contiguous", into=np.zeros((4, 4), np.uint8)[:, ::2])
    refused("holds Python objects", into=np.zeros((4, 2), object))
    refused("into is a list", into=[0, 1])
    refused("into is a ndarray.*cannot", into=np.zeros(4, "M8[ns]"))
    refused("into has no rows", into=bytearray())
    refused("present has 3 bytes and into 4 rows", present=bytearray(3))
    refused("present is read-only", present=bytes(4))
    for body in ("x", -1, "rtp99999", 70_000):
        refused("is not where a row begins", body=body)
    refused("no such type", body=[])
    refused("no such type", base="0")
    refused("counts bytes, not packets", form="spead")
    refused("is not of the 0 bytes", key=b"a")
    with pytest.raises(TypeError, match="a batch is required"):
        place(b"", NUMBER, into=bytearray(4), present=bytearray(4), base=0)


def test_memory_cannot_move_while_it_is_written(backend):
    """A buffer that is exported is not resized: place holds it only as long as it runs."""
    memory, mask = bytearray(4), bytearray(4)
    place(numbered((0, b"a")), NUMBER, into=memory, base=0, present=mask, body=2)
    memory.clear()
    mask.clear()
    assert not memory


# ---- against a model ----

BODY = st.binary(max_size=6)
PACKETS = st.lists(st.tuples(st.integers(-9, 20) | st.integers(0, 65535), BODY), max_size=40)


@given(packets=PACKETS, base=st.integers(-5, 70_000), rows=st.integers(1, 12), size=st.integers(1, 4))
def test_any_packets_are_placed_as_the_model_places_them(backend, packets, base, rows, size):
    packets = [(base + number, body) for number, body in packets]
    expected, counts = {}, dict.fromkeys(("placed", "duplicates", "below", "above", "too_long", "short"), 0)
    for number, body in packets:
        row = (number - base) % 65536
        if row >= rows:
            counts["below" if row >= 32768 else "above"] += 1
        elif len(body) > size:
            counts["too_long"] += 1
        elif row in expected:
            counts["duplicates"] += 1
        else:
            expected[row] = body
            counts["placed"] += 1
            counts["short"] += len(body) < size
    found, there, result = placed(numbered(*packets), rows, size, base=base)
    assert found == [expected[at].ljust(size, b"\0") if at in expected else b"\xee" * size for at in range(rows)]
    assert there == [at in expected for at in range(rows)]
    assert result == Placement(**counts)
    assert sum(astuple(result)[:6]) == len(packets)


PAYLOADS = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.builds(lambda one, rest: one + rest, st.sampled_from([RTP, RTP_LONG, SPEAD]), st.binary(max_size=9)),
        st.builds(lambda one, at, value: one[:at] + bytes([value]) + one[at + 1 :], st.just(SPEAD + b"abc"),
                  st.integers(0, 42), st.integers(0, 255)),
    ),
    max_size=20,
)  # fmt: skip


FORMS = st.sampled_from(["rtp", "st2110", "spead:1", "spead:1024", "vdif:3", "u8@0", "u64le@3", "mcast-fast", "lcm"])
BODIES = st.none() | st.sampled_from(["rtp", "spead", "vdif", "rtp3", "spead9", "vdif2"]) | st.integers(0, 9)
SHAPES = st.tuples(st.integers(1, 300), st.integers(1, 60))


@pytest.mark.long
@settings(max_examples=120)
@given(payloads=PAYLOADS, form=FORMS, base=st.integers(0, 2**64 - 1) | st.integers(0, 300), body=BODIES, shape=SHAPES)
def test_both_backends_place_alike_and_write_nowhere_else(payloads, form, base, body, shape):
    if has_fast():
        pytest.skip(f"feature fast: {has_fast()}")
    found = {}
    for name in ("fast", "pure"):
        module, views = (pytest.importorskip(f"mcast_fast._core.{name}.{one}") for one in ("placement", "views"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_core, "placement", module)
            patch.setattr(_core, "views", views)
            batch = batch_of(*((record(one), one) for one in payloads))
            found[name] = placed(batch, *shape, form=form, base=base, body=body)
    assert found["fast"] == found["pure"]
    assert sum(astuple(found["fast"][2])[:6]) == len(payloads)
