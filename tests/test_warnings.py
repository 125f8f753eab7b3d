"""Every warning of the library points at the line of the user's that called it; what nobody closed is named."""

import asyncio
import contextlib
import gc
import inspect
import io
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import mcast_fast as mcast
from mcast_fast import aio, errors, files
from mcast_fast._host import addresses, hardware_clock, igmp_version
from mcast_fast._host import interfaces as listing
from mcast_fast._membership import sockets
from mcast_fast._systems import SYSTEM
from tests.conftest import free_port, loopback, multicast_ipv6
from tests.test_pcapng import NOW, batch_of, record

SOURCE = Path(mcast.__file__).parent


@contextlib.contextmanager
def warned(category, match):
    """One warning comes of the calling line, or of the only statement in the `with`."""
    frame = inspect.currentframe().f_back.f_back
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first = frame.f_lineno
        yield
    (one,) = [warning for warning in caught if issubclass(warning.category, category)]
    assert one.category is category
    assert re.search(match, str(one.message))
    assert one.filename == __file__
    assert 0 < one.lineno - first <= 3, (first, one.lineno)


def a_group():
    return f"239.9.2.1%{loopback()}:{free_port()}"


def test_everything_warns_by_the_one_function():
    """Which finds the user's line, in whatever depth it is called."""
    calling = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.p*")
        if "warnings.warn" in path.read_text(errors="replace")
    }
    assert calling == {"errors.py"}


def test_a_buffer_that_is_clipped(backend):
    with warned(mcast.MulticastWarning, "receive buffer: requested 1073741824"):
        mcast.Receiver(a_group(), buffer_size="1GiB").close()


@pytest.fixture
def clipped(monkeypatch):
    """The system gives less than the default, and no warning was given yet."""
    monkeypatch.setattr(sockets, "DEFAULT_BUFFER", 1 << 30)
    monkeypatch.setattr(sockets, "_has_warned", [])


def test_a_default_buffer_that_is_clipped_warns_once(backend, clipped):
    with warned(mcast.MulticastWarning, "the default receive buffer is .* bytes, the system allows .*buffer_size="):
        mcast.Receiver(a_group()).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mcast.Receiver(a_group()).close()


def test_a_default_buffer_that_is_clipped_in_asyncio(backend, clipped):
    async def main():
        with warned(mcast.MulticastWarning, "the default receive buffer"):
            aio.Receiver(a_group()).close()

    asyncio.run(main())


@pytest.mark.needs("source_filters")
def test_an_old_igmp_version(backend, monkeypatch):
    monkeypatch.setattr(igmp_version, "obstacle", lambda *_: "an old version")
    with warned(errors.SsmWarning, "source-specific joins on .*: an old version"):
        mcast.Receiver(f"10.0.0.5@{a_group()}").close()
    with mcast.Receiver(a_group()) as rx, warned(errors.SsmWarning, "an old version"):
        rx.join(f"10.0.0.5@239.9.2.2%{loopback()}")


def test_a_filter_that_became_coarse(backend, monkeypatch):
    with mcast.Receiver(a_group()) as rx:
        notices = [("eth9", "the filter is coarse")]
        monkeypatch.setattr(rx._joins, "notices", lambda: [notices.pop()] if notices else [])
        with warned(mcast.MulticastWarning, "eth9: the filter is coarse"):
            rx.join("239.9.2.2")


@pytest.mark.needs("hardware_timestamps")
def test_a_card_without_a_clock(backend, monkeypatch):
    monkeypatch.setattr(hardware_clock, "switch_on", lambda *_: "no clock")
    with warned(mcast.MulticastWarning, "takes no hardware times .no clock."):
        mcast.Receiver(a_group(), timestamps="hardware").close()


def test_interfaces_that_are_equally_good(backend, monkeypatch):
    known = [mcast.Interface(name, 900 + number, ("192.0.2.1",), True, True, False) for number, name in enumerate("ab")]
    monkeypatch.setattr(listing, "find_route", lambda *_: listing.Route(0))
    with warned(mcast.MulticastWarning, "a and b are equally good; taking a"):
        listing.default_interface("239.9.2.1", known)


def test_addresses_that_cannot_be_listed(backend, monkeypatch):
    monkeypatch.setitem(sys.modules, "ifaddr", None)
    monkeypatch.setattr(addresses, "SYSTEM", SYSTEM._replace(has_rtnetlink=False))
    with warned(mcast.MulticastWarning, "the addresses of the interfaces are unknown"):
        mcast.interfaces()


@pytest.mark.needs("signals to processes")
def test_a_command_for_a_finished_file_that_fails(backend, tmp_path):
    with mcast.Receiver(a_group()) as rx:
        recorder = files.Recorder(
            rx, tmp_path / "a.pcapng", command="/nowhere/program", rotate=files.Rotation(packets=1)
        )
        recorder.stop()
        with warned(mcast.MulticastWarning, "/nowhere/program .*No such file"):
            recorder.run()


def test_a_missing_extension_in_a_new_process(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nsys.modules['mcast_fast._core.fast.views'] = None\n\nimport mcast_fast  # line 4\nprint(mcast_fast.backend)\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True, env=_environment())
    if sys.implementation.name == "cpython":
        assert f"{program}:4: MulticastWarning: mcast-fast: the compiled backend is missing" in done.stderr
    assert done.stdout == "pure\n"


def test_a_warning_in_a_program_without_a_file():
    code = "import mcast_fast\nmcast_fast.Reader"
    done = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.startswith("<string>:2: DeprecationWarning: mcast_fast.Reader is mcast_fast.files.Reader now")


def _environment():
    return {name: value for name, value in os.environ.items() if name != "MCAST_FAST_BACKEND"} | {
        "PYTHONPATH": os.pathsep.join(sys.path)
    }


def test_names_that_have_moved():
    for name, module in mcast._MOVED.items():
        with warned(DeprecationWarning, f"mcast_fast.{name} is mcast_fast.{module}.{name} now"):
            there = getattr(mcast, name)
        assert there is getattr(getattr(mcast, module), name)
        assert name not in mcast.__all__
        assert name not in dir(mcast)


# ---- what nobody closed ----


def a_file(tmp_path):
    path = tmp_path / "feed.pcapng"
    with files.Writer(path) as writer:
        writer.write(batch_of((record(b"x", NOW), b"x")))
    return path


OPENED = {
    "receiver": (lambda _: mcast.Receiver(a_group()), r"^unclosed <Receiver of 239.9.2.1%\w+:\d+, on 1 socket>$"),
    "sender": (lambda _: mcast.Sender(a_group(), ttl=0), r"^unclosed <Sender to 239.9.2.1%\w+:\d+>$"),
    "reader": (lambda folder: files.Reader(a_file(folder)), r"^unclosed <Reader of .*feed.pcapng"),
    "writer": (lambda folder: files.Writer(folder / "new.pcapng"), r"^unclosed <Writer of .*new.pcapng"),
    "writer into memory": (lambda _: files.Writer(io.BytesIO()), r"^unclosed <Writer of "),
    "receiver of asyncio": (lambda _: aio.Receiver(a_group()), r"^unclosed <Receiver of "),
    "sender of asyncio": (lambda _: aio.Sender(a_group(), ttl=0), r"^unclosed <Sender to "),
}


@pytest.mark.long
@pytest.mark.parametrize("in_a_cycle", [False, True], ids=["", "in a cycle"])
@pytest.mark.parametrize(("make", "match"), OPENED.values(), ids=OPENED.keys())
def test_what_nobody_closed(backend, no_leak, tmp_path, make, match, in_a_cycle):
    one = make(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if in_a_cycle:
            knot = [one]
            knot.append(knot)
            del knot
        one = None
        gc.collect()
    assert one is None
    assert {warning.category for warning in caught} == {ResourceWarning}
    said = [str(warning.message) for warning in caught]
    assert re.search(match, said[0])
    if in_a_cycle:  # in which the sockets and files may be collected first
        assert all(re.match("unclosed (file )?<(socket.socket|_io)", text) for text in said[1:])
    else:
        assert len(said) == 1
        assert caught[0].filename == __file__


@pytest.mark.long
def test_what_was_gathered_is_written_by_a_writer_that_nobody_closed(backend, tmp_path):
    path = tmp_path / "feed.pcapng"

    def write():
        files.Writer(path).write(batch_of((record(b"x", NOW), b"x")))
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed <Writer"):
        write()
    with mcast.open(path) as reader:
        assert len(reader.collect(10)) == 1


@pytest.mark.long
def test_what_was_closed_or_never_opened_says_nothing(backend, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for make, _ in OPENED.values():
            make(tmp_path).close()
        with pytest.raises(mcast.GroupError):
            mcast.Receiver("239.1.1.1")
        with pytest.raises(mcast.InterfaceError):
            mcast.Sender("239.1.1.1%nowhere0:5000")
        with pytest.raises(errors.FileError):
            files.Reader(tmp_path / "nowhere.pcapng")
        files.Reader(io.BytesIO())  # a file that was opened elsewhere
        gc.collect()


@pytest.mark.long
def test_ipv6_is_named_in_brackets(backend):
    interface = multicast_ipv6()
    if interface is None:
        pytest.skip("feature IPv6 multicast: no interface is up, multicast-capable and has an IPv6 address")
    text = f"[ff11::9%{interface.name}]:{free_port()}"

    def forget():
        mcast.Receiver(text)
        gc.collect()

    with pytest.warns(ResourceWarning, match=re.escape(f"unclosed <Receiver of {text}, ")):
        forget()
