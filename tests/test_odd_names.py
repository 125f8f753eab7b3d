"""Names of interfaces that are no UTF-8, and outputs whose encoding has few characters: no verb ends in a traceback."""

import contextlib
import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import mcast_fast as mcast
from mcast_fast import doctor
from mcast_fast.cli import program
from mcast_fast.doctor import __main__ as plain_doctor
from tests import lab

BYTES = b"f\xe9ed\xff0"  # no text in UTF-8
NAME = BYTES.decode(errors="surrogateescape")  # os.fsdecode(), but on Windows
ALTERNATIVE = b"feed-\xe9\xff-which-is-longer-than-15".decode(errors="surrogateescape")
GROUP = f"239.1.1.1%{NAME}:5000"
AS_SHOWN = (rb"\udce9", b"f?ed?0")  # what Python writes, and what click does where it takes a locale for a wrong one
# Of the locale. Weekly: what is as one of the others.
FORMATS = ["ascii", "utf-8", *(pytest.param(one, marks=pytest.mark.weekly) for one in ("latin-1", "cp1252"))]


@pytest.fixture(scope="module")
def host() -> Iterator[lab.Host]:
    """A host whose interface has that name, and gets packets to the group."""
    with lab.Lab() as made:
        sending, receiving = made.link("a", "b")
        run = receiving.host.run
        run("ip", "link", "set", receiving.interface, "down")
        run("ip", "link", "set", receiving.interface, "name", NAME)
        run("ip", "link", "property", "add", "dev", NAME, "altname", ALTERNATIVE)
        run("ip", "link", "set", NAME, "up")
        is_over = threading.Event()
        with sending.host.enter():
            tx = mcast.Sender(f"239.1.1.1%{sending.interface}:5000")

        def stream() -> None:
            number = 0
            while not is_over.wait(0.005):
                with contextlib.suppress(mcast.SendError):  # until the link is there
                    tx.send(number.to_bytes(8, "big"))
                number += 1

        thread = threading.Thread(target=stream)
        thread.start()
        yield receiving.host
        is_over.set()
        thread.join()
        tx.close()


@pytest.fixture
def files(tmp_path: Path, host: lab.Host) -> Path:
    """A folder with a recording of the interface."""
    with host.enter(), mcast.Receiver(GROUP, timeout=5) as rx, mcast.files.Writer(tmp_path / "feed.pcapng") as writer:
        assert writer.write(rx.collect(3)) == 3
    return tmp_path


MISSING = "receive 239.1.1.1%f\udce9ed:5000"
# What is run, and whether what it writes has the name in it.
VERBS = {
    "interfaces": True,
    "interfaces --json": True,
    "receive GROUP -c 2 -t 5": True,
    "receive GROUP -c 2 -t 5 --json": True,
    "receive ALTERNATIVE -c 1 -t 5": True,
    "send GROUP hello": False,
    "record GROUP -c 2 -t 5 -w FOLDER/more.pcapng": True,
    "record GROUP -c 2 -t 5 -w FOLDER/more.pcapng --json": False,
    "check GROUP -f u64be@0 -c 2": False,
    "arbitrate GROUP GROUP -f u64be@0 -c 2": False,
    "top GROUP --duration 0.3": False,
    "top GROUP --duration 0.3 --json": True,
    "info FOLDER/feed.pcapng": False,
    "info FOLDER/feed.pcapng --json": False,
    "convert FOLDER/feed.pcapng FOLDER/feed.csv": False,
    "replay FOLDER/feed.pcapng --to GROUP": False,
    "merge FOLDER/feed.pcapng FOLDER/feed.pcapng -w FOLDER/both.pcapng": False,
    "repair FOLDER/feed.pcapng": False,
    "doctor GROUP --seconds 0.3": True,
    "doctor GROUP --seconds 0.3 --json --bundle FOLDER/bundle.tar.gz": True,
    MISSING: True,  # no such interface: the error lists those that there are
}


def outputs(monkeypatch: pytest.MonkeyPatch, encoding: str) -> list[io.TextIOWrapper]:
    """Standard output and error of a program whose locale has this encoding, as Python opens them."""
    kinds = {"stdout": "strict", "stderr": "backslashreplace"}
    made = [io.TextIOWrapper(io.BytesIO(), encoding, errors, write_through=True) for errors in kinds.values()]
    for name, stream in zip(kinds, made, strict=True):
        monkeypatch.setattr(sys, name, stream)
    return made


def written(streams: list[io.TextIOWrapper]) -> tuple[bytes, bytes]:
    """What was written to both."""
    out, errors = (one.buffer.getvalue() for one in streams)  # type: ignore[attr-defined]
    return out, errors


@pytest.mark.lab
@pytest.mark.parametrize("encoding", FORMATS)
def test_no_verb_ends_in_a_traceback(
    monkeypatch: pytest.MonkeyPatch, files: Path, host: lab.Host, encoding: str
) -> None:
    words = {"GROUP": GROUP, "ALTERNATIVE": f"239.1.1.1%{ALTERNATIVE}:5000"}
    for verb, is_named in VERBS.items():
        arguments = [words.get(word, word).replace("FOLDER", str(files)) for word in verb.split(" ")]
        with monkeypatch.context() as patch, host.enter():
            streams = outputs(patch, encoding)
            with pytest.raises(SystemExit) as ended:
                program.main(arguments, prog_name="mcast-fast")
        out, errors = written(streams)
        codes = (0, 1) if verb.startswith("doctor") else (2,) if verb == MISSING else (0,)
        assert ended.value.code in codes, (verb, ended.value.code, out, errors)
        assert b"Traceback" not in out + errors, (verb, errors)
        assert any(name in out + errors for name in AS_SHOWN) >= is_named, (verb, out, errors)


@pytest.mark.lab
@pytest.mark.parametrize("encoding", FORMATS)
def test_the_doctor_without_the_command_line_s_libraries(
    monkeypatch: pytest.MonkeyPatch, host: lab.Host, encoding: str
) -> None:
    with monkeypatch.context() as patch, host.enter():
        streams = outputs(patch, encoding)
        assert plain_doctor.main([GROUP, "--seconds", "0.3"]) in (0, 1)
    out, errors = written(streams)
    assert rb"\udce9" in out
    assert errors == b""


@pytest.mark.lab
def test_the_doctor_sees_the_frames_of_such_an_interface(backend: str, host: lab.Host) -> None:
    with host.enter():
        report = doctor.examine(GROUP, seconds=1)
    received = next(one for one in report.findings if one.id == "packets.received")
    assert not report.problems
    assert "packets.unseen" not in {one.id for one in report.findings}
    assert received.evidence


@pytest.mark.lab
def test_a_ring_of_such_an_interface(host: lab.Host) -> None:
    if not (feature := mcast.features()["ring"]):
        pytest.skip(f"feature ring: {feature.reason}")
    with host.enter(), mcast.Receiver(GROUP, ring="1MiB", timeout=5) as rx:
        assert rx.recv().interface == NAME


@pytest.mark.lab
def test_such_a_name_in_arrow_and_in_a_file(backend: str, files: Path, host: lab.Host) -> None:
    """Arrow has UTF-8 alone; a file has the bytes, which a reader may show otherwise."""
    pyarrow = pytest.importorskip("pyarrow", reason="feature pyarrow: not installed")
    with host.enter(), mcast.Receiver(GROUP, timeout=5) as rx:
        table = pyarrow.record_batch(rx.recv_batch())
    assert table.column("interface")[0].as_py() == NAME.encode(errors="backslashreplace").decode()
    assert BYTES in (files / "feed.pcapng").read_bytes()
    with mcast.open(files / "feed.pcapng") as reader:
        assert reader.recv().interface == BYTES.decode(errors="replace")
