"""Wire: every multicast stream on an interface, joined or not; `mcast-fast top --interface`."""

import contextlib
import errno
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import mcast_fast as mcast
from mcast_fast import errors
from mcast_fast._membership import rings
from mcast_fast.monitor import Monitor, StreamState, Wire, _wire
from tests import lab
from tests.conftest import free_port, loopback, until
from tests.interrupts import interrupt_at_each, needs_tracing
from tests.test_cli import invoke

RING = "1MiB"
needs_ring = pytest.mark.needs("ring")


def sent(group, count, **named):
    with mcast.Sender(group, ttl=0, **named) as tx:
        return tx.send_batch([bytes(100)] * count)


def taken(wire, count):
    """Batches until there are that many packets."""
    found = []
    while sum(map(len, found)) < count:
        found.append(wire.recv_batch(timeout=60))
    return found


@needs_ring
def test_what_nobody_has_joined_is_delivered(backend, no_leak):
    first, second = (f"239.9.5.{number}%{loopback()}:{free_port()}" for number in (1, 2))
    with Wire(loopback(), ring=RING) as wire:
        watch = Monitor(wire)
        assert sent(first, 10) + sent(second, 20) == 30
        for batch in taken(wire, 30):
            watch.add(batch)
        assert {(one.group, one.packets, one.interface) for one in watch.streams()} == {
            ("239.9.5.1", 10, loopback()),
            ("239.9.5.2", 20, loopback()),
        }
        assert all(one.state is StreamState.RECEIVING for one in watch.streams())
        stats = wire.stats
        assert (stats.received, stats.bytes, stats.dropped_ring, stats.filtered) == (30, 3000, 0, 0)
        assert wire.memberships == []
        assert wire.interfaces == (loopback(),)
        assert repr(wire) == f"<Wire of {loopback()}>"
    assert wire.stats.received == 30
    assert repr(wire).endswith(", closed>")


@needs_ring
def test_what_goes_to_a_host_is_not(backend):
    with Wire(loopback(), ring=RING) as wire, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"unicast", ("127.0.0.1", free_port()))
        sent(f"239.9.5.3%{loopback()}:{free_port()}", 1)
        (batch,) = taken(wire, 1)
        assert [one.group for one in batch] == ["239.9.5.3"]
        assert wire.stats.received == 1


@needs_ring
def test_a_receiver_beside_it_gets_its_own_groups_alone(backend):
    port = free_port()
    joined = f"239.9.5.4%{loopback()}:{port}"
    with Wire(loopback(), ring=RING) as wire, mcast.Receiver(joined, ring=RING) as rx:
        sent(joined, 3)
        sent(f"239.9.5.5%{loopback()}:{port}", 4)
        assert len(taken(rx, 3)[0]) == 3
        assert sum(map(len, taken(wire, 7))) == 7
        assert rx.stats.received == 3


@pytest.mark.lab
@needs_ring
def test_on_a_link_both_families_and_every_interface(backend):
    with lab.Lab(("a", "b")) as made:
        a, b = made.link("a", "b")
        with b.host.enter():
            wires = Wire(b.interface, ring=RING), Wire("all", ring=RING)
        with wires[0], wires[1] as every:
            assert every.interfaces == (b.interface,)
            with a.host.enter():
                sent(f"239.9.5.6%{a.interface}:5000", 5)
                with mcast.Sender(f"[ff15::9%{a.interface}]:5001") as tx:
                    tx.send(b"six")
                with mcast.Sender(f"239.9.5.6%{a.interface}:5000") as tx:
                    tx.send_batch([bytes(100)] * 5)
            for one in wires:
                found = [packet for batch in taken(one, 6) for packet in batch]
                assert {(packet.group, packet.port, packet.interface) for packet in found} >= {
                    ("239.9.5.6", 5000, b.interface),
                    ("ff15::9", 5001, b.interface),
                }
            flags = b.host.run("ip", "-d", "link", "show", b.interface)
            assert "allmulti 2" in flags, flags
        assert "allmulti 0" in b.host.run("ip", "-d", "link", "show", b.interface)


# ---- its life ----


@needs_ring
def test_closing_ends_what_waits(backend, no_leak):
    wire = Wire(loopback(), ring=RING)
    ended = threading.Event()

    def waits():
        with contextlib.suppress(errors.ClosedError):
            while True:
                wire.recv_batch()
        ended.set()

    threading.Thread(target=waits, daemon=True).start()
    time.sleep(0.02)
    wire.close()
    wire.close()
    assert ended.wait(60)
    with pytest.raises(errors.ClosedError):
        wire.recv_batch()


@needs_ring
def test_one_that_is_forgotten_is_closed_with_a_warning(backend, no_leak):
    kept = [Wire(loopback(), ring=RING)]
    with pytest.warns(ResourceWarning, match="unclosed <Wire "):
        kept.clear()
    gc.collect()


@needs_ring
@pytest.mark.needs("signals to processes")
def test_a_child_of_a_fork_has_none(backend, no_leak):
    with Wire(loopback(), ring=RING) as wire:
        child = os.fork()
        if child == 0:
            code = 0
            for call in (lambda: wire.stats, lambda: wire.recv_batch(timeout=0), lambda: list(wire.batches(count=1))):
                try:
                    call()
                except errors.ClosedError:
                    code += 1
            wire.close()
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) >= 2
        sent(f"239.9.5.7%{loopback()}:{free_port()}", 5)
        assert sum(map(len, taken(wire, 5))) == 5


@needs_ring
# Python itself prints what a handler raises in __del__.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@needs_tracing
def test_an_opening_that_a_handler_interrupts_leaves_nothing(backend, no_leak):
    files = frozenset((_wire.__file__, rings.__file__))
    interrupt_at_each(files, lambda: Wire(loopback(), ring=RING).close(), step=7)
    gc.collect()


# ---- errors ----


@needs_ring
@pytest.mark.parametrize(
    ("interfaces", "named", "kind", "text"),
    [
        ((), {}, errors.ArgumentError, "an interface is required"),
        (("no-such",), {}, errors.InterfaceError, "'no-such' does not exist"),
        ((loopback(),), {"ring": "4KiB"}, errors.ArgumentError, "is too small"),
    ],
)
def test_what_cannot_be_opened(backend, no_leak, interfaces, named, kind, text):
    with pytest.raises(kind, match=text):
        Wire(*interfaces, **named)


@needs_ring
def test_without_the_privilege_the_error_says_how_to_get_it(backend, no_leak, monkeypatch):
    plain = socket.socket

    def refuse(family=-1, *others, **named):
        if family == socket.AF_PACKET:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return plain(family, *others, **named)

    monkeypatch.setattr(rings.socket, "socket", refuse)
    with pytest.raises(errors.SocketError, match=rf"ring on {loopback()}: Operation .* CAP_NET_RAW: run as root"):
        Wire(loopback())
    result = invoke("top", "--interface", loopback())
    assert result.exit_code == 1
    assert "--interface without a group: ring on" in result.stderr
    assert "setcap cap_net_raw+ep" in result.stderr


def test_a_backend_without_rings_says_so(monkeypatch):
    from mcast_fast import _core
    from mcast_fast.errors import Feature

    off = Feature(False, "the pure backend has no mapped ring")
    monkeypatch.setattr(_core, "features", lambda: {"ring": off})
    monkeypatch.setattr(_core, "feature", lambda _: off)
    with pytest.raises(errors.FeatureError, match="a Wire: the pure backend has no mapped ring"):
        Wire(loopback())
    result = invoke("top", "-i", loopback())
    assert result.exit_code == 1
    assert (
        "--interface without a group needs a ring: the pure backend has no mapped ring; name the groups"
        in result.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "name a group; or --interface eth0 for every multicast stream on it"),
        (("-i", "eth0", "--port", "5000"), "--port is of groups, and none is named"),
        (("-i", "eth0", "--buffer-size", "4MiB"), "--buffer-size is of groups"),
    ],
)
def test_wrong_options(arguments, text):
    result = invoke("top", *arguments)
    assert result.exit_code == 2
    assert text in result.stderr


# ---- the program ----


@pytest.mark.long
@needs_ring
@pytest.mark.needs("compiled modules", "signals to processes")
def test_top_of_an_interface(tmp_path):
    program = subprocess.Popen(
        [sys.executable, "-m", "mcast_fast", "top", "-i", loopback(), "--json", "--interval", "50ms"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        program.stdout.readline()
        group = f"239.9.5.8%{loopback()}:{free_port()}"
        sent(group, 9)
        lines = []

        def seen():
            lines.append(json.loads(program.stdout.readline()))
            return [one for one in lines[-1]["streams"] if one["group"] == "239.9.5.8"]

        (stream,) = until(seen, 60)
        program.send_signal(signal.SIGTERM)
        program.stdout.read()
    assert (stream["packets"], stream["interface"]) == (9, loopback())
    assert program.returncode == 0


@needs_ring
def test_nothing_on_an_interface():
    result = invoke("top", "-i", loopback(), "--timeout", "0.05")
    assert result.exit_code == 4
    assert f"no multicast packet came by {loopback()} within 0.05 s" in result.stderr
