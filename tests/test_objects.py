"""Packets and batches as users expect objects to be: pickled, copied, compared, read as buffers, never made by hand."""

import copy
import importlib
import os
import pickle
import struct
import subprocess
import sys

import pytest

import mcast_fast as mcast
from mcast_fast import _core
from mcast_fast._core import layout
from mcast_fast._core.layout import RECORD, V4_MAPPED
from tests.conftest import BACKENDS

NAMES = {1: "eth0", 2: "eth1"}
PAYLOADS = [b"one", b"", bytes(range(256)), b"four"]


def made(views, gap=b"", names=NAMES, **changed):
    """A batch of PAYLOADS; `gap` is in front of each of them in the arena."""
    rows, arena = b"", b""
    for number, payload in enumerate(PAYLOADS):
        arena += gap
        values = {
            "timestamp": 5, "offset": len(arena), "interface": 1 + number % 2, "dropped": 0, "length": len(payload),
            "wire_length": len(payload), "source": V4_MAPPED + bytes([10, 0, 0, 1]), "group": V4_MAPPED + bytes([239, 1, 1, number]),
            "source_port": 1, "port": 5000, "flags": 3, "ttl": 7, "tos": 0,
        } | changed  # fmt: skip
        rows += RECORD.pack(*values.values())
        arena += payload
    return views.Batch.from_bytes(rows, arena, dict(names))


@pytest.fixture
def batch(backend):
    return made(_core.views)


def shown(packet):
    return (
        repr(packet),
        packet.data,
        packet.timestamp,
        packet.interface,
        packet.flags,
        packet.ttl,
        packet.source_address,
    )


# ---- pickles ----


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("part", [slice(None), slice(1, 3), slice(2, 2)])
def test_a_batch_is_pickled_with_its_own_packets(backend, monkeypatch, protocol, part):
    pickled = pickle.dumps(made(_core.views, gap=b"x" * 100_000)[part], protocol)
    assert len(pickled) < 2000  # the arena has 400,000
    for other in BACKENDS:  # where it is loaded
        monkeypatch.setattr(_core, "views", importlib.import_module(f"mcast_fast._core.{other}.views"))
        loaded = pickle.loads(pickled)
        assert type(loaded) is _core.views.Batch
        assert loaded == made(_core.views)[part]
        assert loaded.names == NAMES
        assert [shown(packet) for packet in loaded] == [shown(packet) for packet in made(_core.views)[part]]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_packet_is_pickled_alone(backend, monkeypatch, protocol):
    pickled = [pickle.dumps(packet, protocol) for packet in made(_core.views, gap=b"x" * 100_000)]
    assert max(map(len, pickled)) < 1000
    for other in BACKENDS:
        monkeypatch.setattr(_core, "views", importlib.import_module(f"mcast_fast._core.{other}.views"))
        loaded = [pickle.loads(one) for one in pickled]
        assert loaded == list(made(_core.views))
        assert [shown(packet) for packet in loaded] == [shown(packet) for packet in made(_core.views)]


def test_protocol_5_needs_no_copies(batch):
    buffers = []
    pickled = pickle.dumps(batch, 5, buffer_callback=buffers.append)
    assert [bytes(one) for one in buffers] == [bytes(batch.records), bytes(batch.data)]
    assert pickle.loads(pickled, buffers=buffers) == batch


def test_a_pickle_that_was_changed_is_refused(batch):
    function, arguments = batch.__reduce_ex__(2)
    with pytest.raises(ValueError, match="do not fit"):
        function(arguments[0], arguments[1][:-1], arguments[2])


@pytest.mark.long
@pytest.mark.needs("signals to processes")
def test_packets_go_to_another_process(backend):
    code = (
        "import multiprocessing, mcast_fast as mcast; from tests.test_objects import made; from mcast_fast import _core\n"
        "batch = made(_core.views); queue = multiprocessing.get_context('fork').SimpleQueue()\n"
        "def child(): queue.put((batch, batch[2]))\n"
        "process = multiprocessing.get_context('fork').Process(target=child); process.start()\n"
        "assert queue.get() == (batch, batch[2]); process.join(); print(mcast.backend, process.exitcode)"
    )
    environment = os.environ | {"MCAST_FAST_BACKEND": backend}
    ended = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment, timeout=60
    )
    assert (ended.stdout, ended.stderr) == (f"{backend} 0\n", "")


# ---- copies ----


def test_a_copy_of_what_cannot_change_is_itself(batch):
    assert copy.copy(batch) is batch
    packet = batch[2]
    assert copy.copy(packet) is packet


@pytest.mark.parametrize("how", [lambda packet: packet.copy(), copy.deepcopy])
def test_a_copied_packet_has_memory_of_its_own(backend, how):
    whole = made(_core.views, gap=b"x" * 1000)
    for index, payload in enumerate(PAYLOADS):
        packet = whole[index]
        copied = how(packet)
        assert copied is not packet
        assert (copied, hash(copied), shown(copied)) == (packet, hash(packet), shown(packet))
        assert bytes(copied.view) == payload
        assert len(copied.view.obj if backend == "pure" else memoryview(copied.view.obj)) == len(payload)


def test_a_deep_copy_of_a_batch_has_memory_of_its_own(backend):
    part = made(_core.views, gap=b"x" * 1000)[1:]
    copied = copy.deepcopy(part)
    assert copied == part
    assert bytes(copied.data) == b"".join(PAYLOADS[1:])


@pytest.mark.needs("receive_ttl")
def test_what_was_received_is_copied_and_pickled(backend, place):
    group = place.group()
    with mcast.Receiver(group, recv_ttl=True) as rx, mcast.Sender(group, ttl=0) as tx:
        tx.send_batch(PAYLOADS)
        received = rx.collect(len(PAYLOADS), timeout=5)
    assert pickle.loads(pickle.dumps(received)) == received == copy.deepcopy(received)
    for packet in received:
        assert pickle.loads(pickle.dumps(packet)) == packet == packet.copy()
        assert shown(packet.copy()) == shown(packet)


# ---- equal ----


def test_packets_are_equal_when_all_that_is_known_of_them_is(backend):
    one, other = made(_core.views), made(_core.views, gap=b"elsewhere")
    assert list(one) == list(other)
    assert one == other
    assert (hash(one), list(map(hash, one))) == (hash(other), list(map(hash, other)))
    assert len({*one, *other}) == len(PAYLOADS)
    assert one[0] != one[1]
    assert one[:2] != one
    assert one[:2] != one[1:3]
    assert one[1:1] == other[:0]


@pytest.mark.parametrize("field", [field.name for field in layout.FIELDS if field.name not in ("offset", "length")])
def test_packets_differ_in_any_field(backend, field):
    size = next(one.size for one in layout.FIELDS if one.name == field)
    other = made(_core.views, **{field: 9 if size == 1 else bytes(15) + b"x"})
    assert other[0] != made(_core.views)[0]
    assert other != made(_core.views)


def test_packets_differ_in_payload_and_interface_name(backend):
    one = made(_core.views)
    renamed = made(_core.views, names={1: "lan0", 2: "eth1"})
    assert one[0] != renamed[0]
    assert one[1] == renamed[1]
    changed = type(one).from_bytes(bytes(one.records), b"tow" + bytes(one.data)[3:], NAMES)
    assert (one[0] == changed[0], one[1:] == changed[1:], one == changed) == (False, True, False)


@pytest.mark.parametrize("other", [None, 1, b"one", [], (), "Packet", object()])
def test_nothing_else_is_equal(batch, other):
    assert batch != other
    assert batch[0] != other
    assert batch != batch[0]


def test_objects_of_both_backends_are_equal():
    if len(BACKENDS) < 2:
        pytest.skip("feature fast: one backend is tested")
    views = [importlib.import_module(f"mcast_fast._core.{name}.views") for name in BACKENDS]
    one, other = map(made, views)
    assert one == other
    assert other == one
    assert list(one) == list(other)
    assert one[0] != other[1]
    assert other[:1] != one
    assert (hash(one), list(map(hash, one))) == (hash(other), list(map(hash, other)))


# ---- buffers ----


@pytest.mark.needs("packet_buffer")
def test_a_packet_is_its_payload_as_a_buffer(batch):
    for packet, payload in zip(batch, PAYLOADS, strict=True):
        view = memoryview(packet)
        assert (bytes(view), view.readonly, view.format, view.nbytes) == (payload, True, "B", len(payload))
        assert b"".join([packet]) == payload
        assert bytearray(packet) == payload
    assert struct.unpack_from("<H", batch[2], 3) == (0x0403,)
    assert int.from_bytes(batch[0], "big") == int.from_bytes(b"one", "big")
    with pytest.raises(struct.error):
        struct.unpack_from("<Q", batch[0])
    with pytest.raises((BufferError, TypeError)):
        struct.pack_into("B", batch[0], 0, 1)


@pytest.mark.needs("packet_buffer")
def test_a_buffer_outlives_its_packet(backend):
    view = memoryview(made(_core.views)[2])
    for _ in range(20):
        made(_core.views, gap=b"y" * 100)
    assert bytes(view) == PAYLOADS[2]


def test_bytes_of_a_packet_are_its_payload(batch):
    assert [bytes(packet) for packet in batch] == PAYLOADS


# ---- made by hand ----


@pytest.mark.parametrize(("name", "text"), [("Packet", layout.NO_PACKET), ("Batch", layout.NO_BATCH)])
def test_batches_and_packets_are_not_made_by_hand(backend, name, text):
    kind = getattr(_core.views, name)
    for make in (kind, lambda: kind.__new__(kind)):
        with pytest.raises(TypeError, match=text):
            make()


BARE = """
import copy, faulthandler, pickle
from mcast_fast._core.fast import compiled
faulthandler.enable()
FUNCTIONS = (repr, str, len, iter, next, hash, list, bytes, bool, memoryview, dir, copy.copy, copy.deepcopy, pickle.dumps, int,
             lambda one: one == one, lambda one: one < one, lambda one: one[0], lambda one: one[:], lambda one: one.__enter__(),
             lambda one: one.__exit__(None, None, None), lambda one: one + one, lambda one: one(), type.__call__)
# Batch and Packet say that they are of mcast_fast.
kinds = [one for one in vars(compiled).values() if isinstance(one, type) and one.__module__ in (compiled.__name__, "mcast_fast")]
def attempt(call, *arguments):
    try:
        return call(*arguments)
    except Exception:
        return None
tried = 0
for kind in kinds:
    for make in (lambda: kind.__new__(kind), lambda: kind(), lambda: object.__new__(kind), lambda: kind.__new__(kind, *[None] * 3)):
        one = attempt(make)
        for function in FUNCTIONS:
            attempt(function, one)
        for name in dir(kind):
            value = attempt(getattr, one, name) if one is not None else None
            unbound = attempt(getattr, kind, name)
            for count in range(4):
                for argument in (None, 0, b"", "", one):
                    if callable(value):
                        attempt(value, *[argument] * count)
                    if callable(unbound) and name not in ("__subclasses__", "__class__"):
                        attempt(unbound, *[argument] * count)
            tried += 1
print(sorted(kind.__name__ for kind in kinds), tried > 500)
"""


@pytest.mark.needs("fast")
@pytest.mark.long
def test_no_bare_object_of_the_extension_can_crash():
    ended = subprocess.run([sys.executable, "-c", BARE], check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "'Packet'" in ended.stdout
    assert ended.stdout.endswith("True\n")
