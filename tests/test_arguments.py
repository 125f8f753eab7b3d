"""Arguments of a wrong type: every parameter of every public call refuses them with an error of ours, and opens nothing.

Parameters are those of the signatures, so that a new one is tried here, or missed.
"""

import asyncio
import contextlib
import functools
import gc
import inspect
import io
import math
import tempfile
import threading
from pathlib import Path

import pytest

import mcast_fast as mcast
from mcast_fast import aio
from tests.conftest import descriptors, free_port, loopback, take_out_of_the_collector, until
from tests.test_pcapng import NOW, batch_of, record

pytestmark = [
    pytest.mark.needs("descriptor"),
    pytest.mark.filterwarnings("ignore::mcast_fast.MulticastWarning"),
]


def function() -> None:
    """Can be called, and is nothing else."""


# What no parameter takes but those in TAKEN; among them what looks like a number, a text or a sequence.
WRONG = {
    "an object": object(),
    "NaN": math.nan,
    "a complex number": 1j,
    "a function": function,
    "a list": [object()],
    "a dict": {"x": object()},
    "a negative number": -(2**70),
    "a text": "\udcff\0",
}
# Only asked whether they are true.
TRUTHS = {
    "exclusive", "fastest", "follow", "index", "follow_links", "frames", "gro", "loopback", "multicast_only", "own_packets", "recv_tos", "recv_ttl", "reuse", "segmentation",
    "spread", "transmit_times", "vlan", "watch",
}  # fmt: skip
# An unused default: the group says it itself, so that the name or index is not looked up.
TAKEN = {("interface", "a negative number"), ("interface", "a text"), ("source", "a text")}
TAKEN |= {(name, "a function") for name in ("action", "on_file", "on_batch", "choose")}
TAKEN |= {(name, "a text") for name in ("filter_text", "application", "hardware")}  # any, as names of interfaces are
# Where a TypeError is right, as for sockets: what is no bytes-like object, and what is no batch or packet (ArgumentError).
NO_BUFFER = {"payload", "payloads", "records", "data"}
NO_BATCH = {"Receiver.give_back", "Receiver.reply", "aio.Receiver.reply", "Batch.concatenate", "Batch.from_bytes"}
# What the library makes; and a number and a tuple of the standard library's.
RESULTS = {
    "Event", "Flag", "HostCounters", "Interface", "Membership", "Merged", "Packet", "ReaderStats", "RecordedFile", "Recording", "Replayed", "Scan", "Scanned", "Scope",
    "SenderStats", "Source", "Stats", "WriterStats",
}  # fmt: skip


def a_batch():
    return batch_of((record(b"x", NOW), b"x"))


def a_file():
    """A capture file in memory with one packet."""
    file = io.BytesIO()
    with mcast.files.Writer(file) as writer:
        writer.write(a_batch())
    file.seek(0)
    return file


def a_group():
    return f"239.9.1.1%{loopback()}:{free_port()}"


@contextlib.contextmanager
def a_recorder(**options):
    with (
        mcast.Receiver(a_group()) as rx,
        mcast.files.Recorder(**{"receiver": rx, "path": io.BytesIO(), **options}) as one,
    ):
        yield one


@contextlib.contextmanager
def a_schedule():
    with mcast.Sender(a_group(), ttl=0) as tx:
        yield tx.schedule(lambda _: a_group())


def replay(**options):
    mcast.files.Replay(**{"file": a_file(), "to": a_group(), "ttl": 0, **options}).run()


@contextlib.contextmanager
def in_a_directory():
    """The path of a capture file in a directory of its own."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "a.pcapng")
        path.write_bytes(a_file().getvalue())
        yield path


def scan(**options):
    with in_a_directory() as path:
        list(mcast.files.scan(**{"files": path, **options}))


def merge(**options):
    with in_a_directory() as path:
        mcast.files.merge(**{"files": [path], "target": path.with_name("b.pcapng"), **options})


# How each is made for its methods; and how to try an option of its constructor.
OBJECTS = {
    "Receiver": lambda: mcast.Receiver(a_group(), timeout=0),
    "Sender": lambda: mcast.Sender(a_group(), ttl=0, timeout=0),
    "Reader": lambda: mcast.files.Reader(a_file()),
    "Writer": lambda: mcast.files.Writer(io.BytesIO()),
    "Recorder": a_recorder,
    "Replay": lambda: contextlib.nullcontext(mcast.files.Replay(a_file(), to=a_group())),
    "Schedule": a_schedule,
    "Group": lambda: contextlib.nullcontext(mcast.Group("239.1.1.1")),
    "Batch": lambda: contextlib.nullcontext(a_batch()),
    "aio.Receiver": lambda: aio.Receiver(a_group(), timeout=0),
    "aio.Sender": lambda: aio.Sender(a_group(), ttl=0, timeout=0),
}
CONSTRUCTORS = {
    "Receiver": lambda **options: mcast.Receiver(a_group(), **options).close(),
    "Sender": lambda **options: mcast.Sender(a_group(), **options).close(),
    "Reader": lambda **options: mcast.files.Reader(**{"file": a_file(), **options}).close(),
    "Writer": lambda **options: mcast.files.Writer(**{"file": io.BytesIO(), **options}).close(),
    "Recorder": lambda **options: a_recorder(**options).__enter__().close(),
    "Replay": replay,
    "Rotation": lambda **options: mcast.files.Rotation(**{"packets": 1, **options}),
    "Autostop": mcast.files.Autostop,
    "Group": lambda **options: mcast.Group(**{"address": "239.1.1.1", **options}),
    "aio.Receiver": lambda **options: aio.Receiver(a_group(), **options).close(),
    "aio.Sender": lambda **options: aio.Sender(a_group(), **options).close(),
    "open": lambda **options: mcast.open(**{"file": a_file(), **options}).close(),
    "scan": scan,
    "merge": merge,
    "addresses": mcast.addresses,
    "is_multicast": mcast.is_multicast,
    "pack_addresses": mcast.pack_addresses,
}
# The other arguments of a method.
OTHERS = {
    "batch": a_batch, "destination": lambda: lambda _: None, "exclude": lambda: None, "group": lambda: "239.9.1.1", "include": lambda: None, "max_packets": lambda: 1,
    "moment": lambda: 0, "origin": lambda: 0, "packet": lambda: None, "payload": lambda: b"", "schedule": lambda: None,
    "size": lambda: None, "source": lambda: "10.0.0.1", "speed": lambda: None, "stats": mcast.Stats, "data": lambda: b"",
    "names": dict, "records": lambda: b"", "payloads": lambda: b"xx",
}  # fmt: skip


signature = functools.cache(inspect.signature)


def parameters(call):
    """Names of the parameters; an option of `**options` is tried where it is named."""
    return [
        (one.name, one.kind is one.VAR_POSITIONAL)
        for one in signature(call).parameters.values()
        if one.name != "self" and one.kind is not one.VAR_KEYWORD
    ]


def exported():
    """What the root, `files` and `sender` export, by name."""
    return {name: getattr(module, name) for module in (mcast.sender, mcast.files, mcast) for name in module.__all__}


def public():
    """(name, class or function) of what a user calls."""
    for name, thing in exported().items():
        if name in RESULTS or not callable(thing):
            continue
        if not (inspect.isclass(thing) and issubclass(thing, BaseException | Warning)):
            yield name, thing
    yield from [("aio.Receiver", aio.Receiver), ("aio.Sender", aio.Sender)]


PUBLIC = dict(public())


def cases():
    """(call, method or None, parameter, whether it takes several)."""
    for name, thing in PUBLIC.items():
        if name not in ("Batch", "Schedule"):  # which are made by others
            yield from ((name, None, *one) for one in parameters(thing))
        if inspect.isclass(thing):
            for method, call in inspect.getmembers(thing, callable):
                if not method.startswith("_"):
                    yield from ((name, method, *one) for one in parameters(call))


async def awaited(make, method, arguments, options):
    async with make() as one:
        answer = getattr(one, method)(*arguments, **options)
        if inspect.isawaitable(answer):
            await answer


def use(name, method, parameter, several, value):
    """One public call with a wrong argument; all others are right."""
    if method is None:
        if several:
            thing = {"aio.Receiver": aio.Receiver, "aio.Sender": aio.Sender}.get(name) or exported()[name]
            first = (a_file(),) if name in ("Reader", "Replay") else ()
            one = thing(*first, value)
            one.run() if name == "Replay" else [one.close(), name == "Reader" and list(one)]
        else:
            CONSTRUCTORS[name](**{parameter: value})
        return
    call = getattr(PUBLIC[name], method)
    options = {
        one.name: OTHERS[one.name]()
        for one in signature(call).parameters.values()
        if one.name in OTHERS and (one.default is one.empty or one.name in ("include", "exclude"))
    } | {parameter: value}
    if method == "set_sources" and parameter == "group":
        options["include"] = []
    if method == "reply" and parameter == "payload":
        with mcast.Receiver(group := a_group(), timeout=5) as rx, mcast.Sender(group, ttl=0) as tx:
            tx.send(b"x")
            rx.reply(rx.recv(), value)
        return
    if name.startswith("aio."):
        asyncio.run(awaited(OBJECTS[name], method, (), options))
        return
    with OBJECTS[name]() as one:
        if method == "send_recorded" and parameter == "batch":
            options["schedule"] = one.schedule(lambda _: a_group())
        answer = getattr(one, method)(**options)
        if method == "schedule":
            one.send_recorded(a_batch(), answer)


def watches_have_ended():
    """A closed receiver has the thread of its watch close its descriptors, and waits for that a tenth of a second at most."""
    assert until(lambda: all(one.name != "mcast-fast watch" for one in threading.enumerate()))


ALL = list(cases())


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "method", "parameter", "several"),
    ALL,
    ids=[f"{name}{'.' if method else ''}{method or ''}-{parameter}" for name, method, parameter, _ in ALL],
)
def test_a_wrong_argument_is_an_error_of_ours(backend, name, method, parameter, several):
    take_out_of_the_collector()
    allowed = (mcast.MulticastError,)
    if parameter in NO_BUFFER or f"{name}.{method}" in NO_BATCH:
        allowed += (TypeError,)
    if parameter == "timeout" or method in ("collect", "recv", "recv_batch"):
        allowed += (TimeoutError, EOFError)  # a right one among them would be waited for
    with contextlib.suppress(*allowed):  # what is opened once for all
        use(name, method, parameter, several, math.nan)
    watches_have_ended()
    before = descriptors()
    for kind, value in WRONG.items():
        if (parameter, kind) in TAKEN or (parameter == "destination" and kind == "a function"):
            continue
        if parameter in TRUTHS:
            with contextlib.suppress(mcast.MulticastError):
                use(name, method, parameter, several, value)
        else:
            with pytest.raises(allowed):
                use(name, method, parameter, several, value)
                pytest.fail(f"{kind} is taken")
    gc.collect()
    watches_have_ended()
    assert descriptors() == before


def test_every_public_call_with_parameters_is_tried():
    tried = {(name, method) for name, method, _, _ in ALL}
    assert len(ALL) > 150
    assert {name for name, _ in tried} == {
        "Autostop", "Batch", "Group", "Reader", "Receiver", "Recorder", "Replay", "Rotation", "Schedule", "Sender", "Writer",
        "addresses", "aio.Receiver", "aio.Sender", "is_multicast", "merge", "open", "pack_addresses", "scan",
    }  # fmt: skip


MAPPINGS = {
    "of an object": {object(): "239.1.1.1"},
    "to an object": {"239.1.1.1": object()},
    "to a number": {"239.1.1.1": 5},
}


@pytest.mark.parametrize("mapping", MAPPINGS.values(), ids=MAPPINGS.keys())
def test_groups_of_a_mapping(backend, mapping):
    with pytest.raises(mcast.MulticastError):
        mcast.files.Replay(a_file(), to=a_group(), mapping=mapping)


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG.keys())
def test_what_names_the_destination_of_a_recording(backend, value):
    with mcast.Sender(a_group(), ttl=0) as tx, pytest.raises(mcast.MulticastError):
        tx.send_recorded(a_batch(), tx.schedule(lambda _: value))


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG.keys())
def test_one_source_of_several_and_one_payload_of_several(backend, value):
    with mcast.Receiver(a_group()) as rx, pytest.raises(mcast.MulticastError):
        rx.set_sources("239.9.1.1", include=[value])
    with mcast.Sender(a_group(), ttl=0) as tx, pytest.raises(TypeError, match="bytes-like"):
        tx.send_batch([value])
