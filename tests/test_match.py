"""`--match`: the grammar of tests, the packets that both backends choose by them, and the verbs that have it."""

import contextlib
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mcast_fast as mcast
from mcast_fast import ArgumentError, _core, files
from mcast_fast._core.extraction import Place
from mcast_fast._core.matching import LONGEST, MOST_TESTS, MOST_VALUES, PacketTest, Subject
from mcast_fast.cli import record
from mcast_fast.cli.match import Match, parsed
from tests.conftest import free_port, loopback
from tests.test_cli import invoke, when_joined  # noqa: F401
from tests.test_columns import batch_of

RTP = struct.pack("!BBHII", 0x90, 33, 7, 1, 2) + b"\0\0\0\1EEEE"  # with an extension of four bytes
PACKETS = (
    (b"", "10.0.0.1", "239.1.1.1", 5000),
    (b"\x12\x34hello", "10.0.0.2", "239.1.1.1", 5001),
    (b"\x12\x35hell", "10.1.0.1", "239.1.1.2", 5002),
    (b"\xff" * 200, "192.0.2.1", "239.1.1.1", 5000),
    (RTP + b"\xc0\xff\xee\x00", "2001:db8::1", "ff15::1", 6000),
)


@pytest.mark.parametrize(
    ("test", "chosen"),
    [
        ("source=10.0.0.1", [0]),
        ("source=10.0.0.0/8", [0, 1, 2]),
        ("source!=10.0.0.0/8", [3, 4]),
        ("source=10.0.0.0/24,192.0.2.1", [0, 1, 3]),
        ("source=2001:db8::/32", [4]),
        ("source=::/0", [0, 1, 2, 3, 4]),
        ("source=0.0.0.0/0", [0, 1, 2, 3]),
        ("group=239.1.1.2", [2]),
        ("group!=239.1.1.1", [2, 4]),
        ("source_port=4000", [0, 1, 2, 3, 4]),
        ("source_port!=0-65535", []),
        ("port=5000", [0, 3]),
        ("port == 5001 - 5002", [1, 2]),
        ("port>5001", [2, 4]),
        ("port<=5000", [0, 3]),
        ("size=0", [0]),
        ("size>=200", [3]),
        ("size<7", [0, 2]),
        ("size<0", []),
        ("size!=0,200", [1, 2, 4]),
        ("u16be@0=0x1234", [1]),
        ("u16le@0=0x3412", [1]),
        ("u16be@0!=0x1234", [2, 3, 4]),  # the empty packet has no such field
        ("u8@0&0xf0=1", [1, 2]),
        ("u8@199=255", [3]),
        ("u8@200=255", []),
        ("u64be@0>0xfffffffffffffffe", [3]),
        ("u24be@rtp0=0xc0ffee", [4]),
        ("b2@0=1234,1235", [1, 2]),
        ("b3@rtp0=c0ffee", [4]),
        ("text~hell", [1, 2]),
        ("text!~hell", [0, 3, 4]),
        ("text~o", [1]),
        ("hex~3468656c", [1]),
        ("hex~c0ffee00", [4]),
    ],
)
def test_packets_are_chosen(backend, test, chosen):
    batch = batch_of(*PACKETS, gap=b"hello")
    found = _core.sequence.matching(batch, (parsed(test),))
    assert [packet.timestamp for packet in found] == [place + 1 for place in chosen]
    assert found.payloads() == [batch.payloads()[place] for place in chosen]
    part = _core.sequence.matching(batch[1:4], (parsed(test),))
    assert [packet.timestamp for packet in part] == [place + 1 for place in chosen if 1 <= place < 4]


def test_all_of_several_tests_pass(backend):
    match = Match((parsed("port=5000"), parsed("size>0")))
    batch = batch_of(*PACKETS)
    assert [packet.timestamp for packet in match(batch)] == [4]
    assert (match.unmatched, match.counted()) == (4, {"unmatched": 4})
    assert match(batch_of()).payloads() == []
    nothing = Match(())
    assert nothing(batch) is batch
    assert nothing.counted() == {}


def test_what_was_cut_off_counts_as_size(backend):
    batch = batch_of((b"abcd",))
    records = bytearray(batch.records)
    records[22:24] = struct.pack("=H", 1400)  # wire_length
    cut = _core.views.Batch.from_bytes(bytes(records), bytes(batch.data), {})
    assert len(_core.sequence.matching(cut, (parsed("size=1400"),))) == 1
    assert len(_core.sequence.matching(cut, (parsed("u8@4=0"),))) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no test"),
        ("size", "no test"),
        ("size>", "'' is no number"),
        ("sorce=1", "did you mean source"),
        ("size=x", "'x' is no number"),
        ("size=9-1", "is empty"),
        ("port=65536", "the largest is 65,535"),
        ("u8@0=256", "the largest is 255"),
        ("u8@0&0xf0=16", "the largest is 15"),
        ("u16@0=1", "not a field"),
        ("u16be@99999=1", "out of range"),
        ("source=10.0.0.0/33", "no address, and no prefix"),
        ("source=eth0", "no address"),
        ("source<10.0.0.1", "by = and != alone"),
        ("b4@0=ff", "'ff' has 1 bytes, and the field 4"),
        ("b1@0=xy", "not hexadecimal"),
        ("hex~c0f", "not hexadecimal"),
        ("text~", "use 1 to 64"),
        ("text~" + "x" * (LONGEST + 1), "use 1 to 64"),
        ("text=hello", "text~hello"),
        ("size~1", "~ is of text and hex"),
        ("port=" + ",".join(map(str, range(MOST_VALUES + 1))), "too many"),
    ],
)
def test_what_is_no_test_is_refused(text, said):
    with pytest.raises(ArgumentError, match=said.replace("'", ".")):
        parsed(text)


@given(st.text(max_size=30) | st.from_regex(r"(size|u16be@0|text|source)[!=<>~]{1,2}[0-9x,./-]{0,8}", fullmatch=True))
def test_any_text_is_a_test_or_refused(text):
    with contextlib.suppress(ArgumentError):
        assert isinstance(parsed(text), PacketTest)


def test_the_core_refuses_what_it_cannot_hold(backend):
    batch = batch_of(*PACKETS)
    one = parsed("port=1")
    with pytest.raises(ValueError, match="too many"):
        _core.sequence.matching(batch, (one,) * (MOST_TESTS + 1))
    with pytest.raises(TypeError, match="batch"):
        _core.sequence.matching(b"", (one,))


@pytest.mark.needs("fast")
@pytest.mark.parametrize(
    "test",
    [
        PacketTest(Subject.SOURCE, ((b"123", b"124"),)),
        PacketTest(Subject.SOURCE, ((1, 2),)),
        PacketTest(Subject.PORT, ((b"1", b"2"),)),
        PacketTest(Subject.BYTES, ((b"1", b"1"),)),
        PacketTest(Subject.INTEGER, ((1, 1),)),
        PacketTest(Subject.BYTES, ((b"12", b"12"),), place=parsed("b4@0=00000000").place),
        PacketTest(Subject.BYTES, ((b"12", b"12"),), place=Place(0, 0)),
        PacketTest(Subject.INTEGER, ((1, 1),), place=Place(0, 9, mask=1)),
        PacketTest(Subject.INTEGER, ((1, 1),), place=Place(0, 16)),
        PacketTest(Subject.CONTENTS, ((b"x" * (LONGEST + 1),) * 2,)),
        PacketTest(Subject.PORT, ((1, 1),) * (MOST_VALUES + 1)),
    ],
)
def test_the_compiled_core_reads_nothing_beyond_a_test(test):
    from mcast_fast._core.fast.sequence import matching
    from mcast_fast._core.fast.views import Batch

    with pytest.raises(ValueError, match=r"test|field"):
        matching(Batch.from_bytes(b"", b"", {}), (test,))


# ---- verbs ----


def send(group, *payloads):
    with mcast.Sender(group, ttl=0) as sender:
        sender.send_batch(list(payloads))


def test_receive_prints_what_matches(backend, place, when_joined):  # noqa: F811
    group = place.group()
    when_joined(lambda: send(group, b"one", b"three", b"two", b"seven", b"never"))
    result = invoke("receive", group, "-o", "raw", "--match", "size=5", "--match", "text!~never", "-c", 2)
    assert (result.exit_code, result.stdout) == (0, "threeseven")
    assert "unmatched " in result.stderr


def test_receive_says_that_nothing_matched(backend, place, when_joined):  # noqa: F811
    group = place.group()
    when_joined(lambda: send(group, b"one", b"two"))
    result = invoke("receive", group, "-o", "none", "--json", "--match", "size>5", "-t", "100ms")
    assert result.exit_code == 4
    assert json.loads(result.stdout)["unmatched"] == 2
    assert "nothing that --match takes came within 0.1 s; 2 other packets did" in result.stderr


def test_record_writes_what_matches(backend, place, tmp_path, monkeypatch):
    group, path = place.group(), tmp_path / "feed.pcapng"

    class Joined(mcast.Receiver):
        def __init__(self, *groups, **options):
            super().__init__(*groups, **options)
            send(group, *(bytes([number]) * (number + 1) for number in range(20)))

    monkeypatch.setattr(record, "Receiver", Joined)
    result = invoke("record", group, "-w", path, "--match", "size<=5", "-c", 5, "--stats", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["written"], report["streams"][0]["packets"]) == (5, 5)
    with files.Reader(path) as reader:
        assert [len(packet) for packet in reader.packets()] == [1, 2, 3, 4, 5]


def test_record_does_not_choose_payloads_of_frames():
    result = invoke("record", "239.1.1.1%lo:5000", "-w", "x.pcapng", "--ring", "--match", "size>5")
    assert result.exit_code == 2
    assert "--ring records whole frames" in result.stderr


def test_a_recorder_writes_what_is_chosen(backend, place, tmp_path):
    group, path = place.group(), tmp_path / "feed.pcapng"
    with mcast.Receiver(group) as receiver:
        send(group, b"one", b"three", b"two")
        stop = files.Autostop(packets=2)
        with files.Recorder(receiver, path, stop=stop, choose=by_size) as recorder:
            assert recorder.run().written == 2
    with pytest.raises(ArgumentError, match="choose"), mcast.Receiver(group) as receiver:
        files.Recorder(receiver, path, choose="all")


def by_size(batch):
    return _core.sequence.matching(batch, (parsed("size=3"),))


@pytest.mark.parametrize("verb", [("receive",), ("record", "-w", "unwritten.pcapng")])
def test_too_many_tests_open_nothing(verb, no_leak):
    result = invoke(*verb, f"239.9.5.9%{loopback()}:{free_port()}", *["--match", "size>1"] * 17)
    assert result.exit_code == 2
    assert result.stderr == "mcast-fast: --match was given 17 times; at most 16 tests are made\n"
