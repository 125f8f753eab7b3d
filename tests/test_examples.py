"""The scripts of examples/: short, on real packets, beside the programs that send them, and on whatever a stranger sends."""

import contextlib
import importlib
import io
import json
import runpy
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import mcast_fast as mcast
from tests import lab
from tests.conftest import free_port, loopback
from tests.test_sequence_format import lcm_piece

EXAMPLES = Path(__file__).parents[1] / "examples"

# ---- packets by the words of each standard ----


def mold(session: bytes, number: int, *messages: bytes, count: int | None = None) -> bytes:
    body = b"".join(len(one).to_bytes(2, "big") + one for one in messages)
    return struct.pack(">10sQH", session, number, len(messages) if count is None else count) + body


def rtp(
    number: int, payload: bytes, kind: int = 33, sources: int = 0, extension: bytes = b"", padding: int = 0
) -> bytes:
    first = 0x80 | 0x20 * bool(padding) | 0x10 * bool(extension) | sources
    header = struct.pack(">BBHII", first, kind, number, 90 * number, 0xABCD0001) + bytes(4 * sources)
    if extension:
        header += struct.pack(">HH", 0xBEDE, len(extension) // 4) + extension
    return header + payload + (bytes(padding - 1) + bytes([padding]) if padding else b"")


def ts(pid: int) -> bytes:
    return struct.pack(">BHB", 0x47, pid, 0x10) + bytes(184)


def vdif(number: int, size: int = 1032) -> bytes:
    words = (
        86_400,
        52 << 24 | number,
        1 << 29 | 2 << 24 | size // 8,
        1 << 26 | 3 << 16 | int.from_bytes(b"EF", "little"),
    )
    return struct.pack("<4I", *words) + bytes(size - 16)


ANSWER = (
    b"HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\nUSN: uuid:1::upnp:rootdevice\r\n"
    b"LOCATION: http://10.0.0.7:80/\x1b[2J.xml\r\nEXT:\r\n\r\n"
)


def dns(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def mdns() -> bytes:
    """A PTR whose value points back into its name, and an A (RFC 1035, 4.1.4)."""
    question = dns("_http._tcp.local") + struct.pack(">HH", 12, 1)
    pointer = struct.pack(">HHHIH", 0xC00C, 12, 1, 120, 8) + b"\5print\xc0\x0c"
    address = dns("printer.local") + struct.pack(">HHIH", 1, 0x8001, 120, 4) + bytes([10, 0, 0, 9])
    return struct.pack(">6H", 0, 0x8400, 1, 2, 0, 0) + question + pointer + address


def entity_state(marking: bytes) -> bytes:
    header = struct.pack(">BBBBIHH", 7, 1, 1, 1, 0, 144, 0)
    place = struct.pack(">3f3d3f", 0, 0, 0, 4_429_530.0, 3_094_568.5, 3_320_580.25, 0, 0, 0)
    body = struct.pack(">3HBB8B8B", 17, 23, 42, 1, 0, *bytes(16)) + place
    return header + body + bytes(44) + b"\1" + marking.ljust(11, b"\0") + bytes(4)


def ptp(kind: int, rest: bytes, number: int = 7) -> bytes:
    size = 44 + len(rest)
    clock = bytes.fromhex("001122fffe334455")
    header = struct.pack(">BBHBBHqI8sHHBb", kind, 2, size, 3, 0, 0x0200, 5 << 16, 0, clock, 1, number, 0, 0)
    return header + struct.pack(">HII", 0, 1_700_000_000, 123) + rest


ANNOUNCE = struct.pack(">hBBBBHB8sHB", 37, 0, 128, 6, 0x21, 0x4E5D, 127, bytes(range(8)), 1, 0x20)
SDP = b"v=0\r\no=- 1 1 IN IP4 10.0.0.5\r\ns=News \x1b[31m\r\nc=IN IP4 239.1.1.1/4\r\nm=video 5004 RTP/AVP 33\r\n"


def sap(flags: int = 0, payload: bytes = SDP, words: int = 0, address: bytes = bytes(4)) -> bytes:
    return (
        bytes([0x20 | flags, words, 0, 1])
        + address
        + bytes(4 * words)
        + b"application/sdp\0" * (not flags & 3)
        + payload
    )


# By script: the packets, and what is printed of each.
PACKETS: dict[str, list[tuple[bytes, str]]] = {
    "moldudp64": [
        (mold(b"20261129A ", 5, b"A1", b"E\x1b[", b"X"), "b'20261129A ' 5 to 7: 32 bytes, types b'AEX'"),
        (mold(b"20261129A ", 9, b"A2"), "b'20261129A ' 9 to 9: 24 bytes, types b'A'"),
        (mold(b"20261129A ", 10), "heartbeat, next 10"),
        (mold(b"20261129A ", 10, count=0xFFFF), "end of session, next 10"),
    ],
    "rtp": [
        (rtp(1, ts(0) + ts(256)), "abcd0001 type 33, number 1, time 90, 376 bytes, PIDs [0, 256]"),
        (rtp(2, b"x" * 10, 96, 2, b"\1" * 8, 4), "abcd0001 type 96, number 2, time 180, 10 bytes"),
        (rtp(4, b""), "abcd0001 type 33, number 4, time 360, 0 bytes"),
    ],
    "vdif": [
        (vdif(7), "2026-01-02 00:00:00 frame 7, thread 3, station b'EF': 4 channels of 2 bits, real, 1032 bytes"),
        (vdif(9)[:-8], "1032 bytes, but 1024 bytes came"),
    ],
    "ssdp": [(ANSWER, "'HTTP/1.1 200 OK' ST 'upnp:rootdevice', USN 'uuid:1::upnp:rootdevice', LOCATION 'http://10")],
    "mdns": [(mdns(), "12 '_http._tcp.local.' 'print._http._tcp.local.'; 1 'printer.local.' '10.0.0.9'")],
    "dis_pdus": [
        (
            entity_state(b"TANK \x1b") + struct.pack(">BBBBIHH", 7, 1, 2, 2, 0, 96, 0),
            "entity state, version 7: 17:23:42 b'TANK \\x1b', force 1, at 4429530.0 3094568.5 3320580.2; "
            "exercise 1, fire, version 7, cut off",
        )
    ],
    "ptp": [
        (ptp(0, b""), "Sync 7 of 001122fffe334455-1, domain 3: time 1700000000.000000123, correction 5 ns"),
        (
            ptp(11, ANNOUNCE),
            "Announce 7 of 001122fffe334455-1, domain 3: grandmaster 0001020304050607, priorities 128 and 127, class 6, "
            "accuracy 0x21, UTC offset 37 s, 1 steps away",
        ),
    ],
    "lcm": [
        (b"LC02" + struct.pack(">I", 9) + b"POSE\0" + bytes(24), "message 9 on b'POSE': 24 bytes"),
        (lcm_piece(11, 0, 3) + b"\x1bB\0", "message 11 on b'x\\x1bB': piece 1 of 3, at 0 of 9000 bytes"),
        (lcm_piece(11, 2, 3), "message 11: piece 3 of 3, at 0 of 9000 bytes"),
    ],
    "sap": [
        (sap(), "announced 's=News \\x1b[31m', 'c=IN IP4 239.1.1.1/4', 'm=video 5004 RTP/AVP 33'"),
        (sap(4 | 16, SDP, 2, bytes(16)), "deleted 's=News"),
        (sap(1, zlib.compress(SDP)), "announced 's=News"),
        (sap(2), "announced, encrypted"),
    ],
}
# What a script prints at its end: of the numbers, those that the packets above leave out are missing.
AT_THE_END = {
    "moldudp64": "4 messages, 1 missing",
    "rtp": "abcd0001: 3 packets, 1 missing",
    "vdif": "2 frames, 1 missing",
    "lcm": "2 messages, 1 missing",
}
ASKING = ("ssdp", "mdns")  # these print answers


# ---- how a script is run ----


class Run:
    """A script, run as by `python examples/NAME.py ARGUMENTS`, until it ends, or has printed enough: then Ctrl-C ends it.

    `opened` is called when it has joined its groups."""

    def __init__(
        self,
        name: str,
        *arguments: object,
        opened: Callable[[], object] = lambda: None,
        enough: Callable[[str], bool] = lambda line: False,
    ) -> None:
        self.lines: list[str] = []
        self._enough = enough
        self._opened = opened
        undo = contextlib.ExitStack()
        self._undo = undo
        with undo, pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
            patch.setattr(mcast, "Receiver", partial(self._receiver, mcast.Receiver))
            runpy.run_path(str(EXAMPLES / f"{name}.py"), {"print": self._print}, "__main__")

    def _receiver(self, kind: type[mcast.Receiver], *groups: object, **options: object) -> mcast.Receiver:
        rx = kind(*groups, **options)
        self._undo.callback(rx.close)
        guard = threading.Timer(60, rx.close)  # the script ends where nothing comes, and the test fails
        guard.start()
        self._undo.callback(guard.cancel)
        self._opened()
        return rx

    def _print(self, *values: object, flush: bool = False) -> None:
        self.lines.append(" ".join(map(str, values)))
        if self._enough(self.lines[-1]):
            raise KeyboardInterrupt


@contextlib.contextmanager
def answering(group: str, answer: bytes) -> Iterator[None]:
    """Answers each question to a group by unicast."""
    with mcast.Receiver(group) as rx:

        def answer_all() -> None:
            for question in rx.packets():
                rx.reply(question, answer)

        thread = threading.Thread(target=answer_all)
        thread.start()
        try:
            yield
        finally:
            rx.close()
            thread.join()


@pytest.mark.parametrize("name", [name for name in PACKETS if name not in ASKING])
def test_a_script_prints_what_is_sent(backend, name):
    payloads = [payload for payload, _ in PACKETS[name]]
    group = f"239.1.1.1%{loopback()}:{free_port()}"
    more = [f"239.1.1.1%{loopback()}:{free_port()}"] if name == "ptp" else [10] if name == "vdif" else []
    with mcast.Sender(group, ttl=0, segmentation=False) as tx:
        printed = Run(name, group, *more, len(payloads), opened=partial(tx.send_batch, payloads)).lines
    for line, (_, wanted) in zip(printed, PACKETS[name], strict=False):
        assert wanted in line
    assert len(printed) == len(payloads) + (name in AT_THE_END)
    assert printed[-1].endswith(AT_THE_END.get(name, ""))


@pytest.mark.parametrize("name", ASKING)
def test_a_script_asks_and_prints_the_answers(backend, name):
    group = f"239.1.1.1%{loopback()}:{free_port()}"
    arguments = [group, 60] if name == "ssdp" else [group, "_http._tcp.local", 60]
    (payload, wanted) = PACKETS[name][0]
    with answering(group, payload):
        (line,) = Run(name, *arguments, enough=lambda line: True).lines
    assert wanted in line
    assert "\x1b" not in line


def test_what_is_announced_meanwhile_is_printed_too(backend):
    group = f"239.1.1.1%{loopback()}:{free_port()}"
    with mcast.Sender(group, ttl=0) as tx:
        alive = b"NOTIFY * HTTP/1.1\r\nNTS: ssdp:alive\r\n\r\n"
        printed = Run("ssdp", group, 0.01, opened=partial(tx.send, alive)).lines
    assert printed[0].endswith("sends 'NOTIFY * HTTP/1.1' NTS 'ssdp:alive'")


# ---- beside real programs ----


@pytest.fixture(scope="module")
def ends() -> Iterator[tuple[lab.End, lab.End]]:
    """The host of the program, and that of the script."""
    with lab.Lab() as made:
        a, b = made.link("a", "b")
        for end in (a, b):
            end.host.run("ip", "route", "add", "224.0.0.0/4", "dev", end.interface)
        yield a, b


def beside(ends: tuple[lab.End, lab.End], program: Sequence[object], name: str, *groups: str, **options: object) -> Run:
    """What a script prints on one host while a program runs on the other one."""
    a, b = ends
    started: list[lab.Program] = []

    def opened() -> None:
        with a.host.enter():
            started.append(a.host.spawn([str(word) for word in program]))

    try:
        with b.host.enter():
            return Run(name, *groups, opened=opened, **options)
    finally:
        for one in started:
            one.process.kill()
            one.process.wait()


FFMPEG = (
    *("ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error", "-re", "-f", "lavfi"),
    *("-i", "testsrc=s=64x64:r=25", "-c:v", "mpeg2video", "-f"),
)


@pytest.mark.lab
@pytest.mark.needs("ffmpeg")
def test_rtp_of_ffmpeg(ends) -> None:
    group = f"239.1.1.1%{ends[1].interface}:5004"
    program = (*FFMPEG, "rtp_mpegts", "rtp://239.1.1.1:5004?ttl=1")
    printed = beside(ends, program, "rtp", group, enough=lambda line: ", 256" in line).lines
    assert "type 33, number " in printed[0]
    assert "PIDs [0, " in "".join(printed)
    assert printed[-1].endswith(" 0 missing")


@pytest.mark.lab
@pytest.mark.needs("ffmpeg")
def test_announcements_of_ffmpeg(ends) -> None:
    there = "sap://239.1.1.1:5006?announce_addr=239.1.1.2&announce_port=9875&ttl=1"
    group = f"239.1.1.2%{ends[1].interface}:9875"
    (line,) = beside(ends, (*FFMPEG, "sap", there), "sap", group, enough=lambda line: True).lines
    assert "announced 's=" in line
    assert "'c=IN IP4 239.1.1.1/1'" in line
    assert "'m=video 5006 RTP/AVP 32'" in line


@pytest.mark.lab
@pytest.mark.needs("ptp4l")
def test_the_messages_of_ptp4l(ends, tmp_path: Path) -> None:
    here = (
        "-S",
        "-4",
        "-i",
        ends[0].interface,
        "--uds_address",
        tmp_path / "ptp4l",
    )
    often = ("--logAnnounceInterval", -3, "--logSyncInterval", -3, "--announceReceiptTimeout", 2)
    program = ("ptp4l", "-q", *here, "--masterOnly", 1, "--free_running", 1, *often)
    seen = set[str]()

    def enough(line: str) -> bool:
        seen.add(line.split()[1])
        return seen >= {"Sync", "Follow_Up", "Announce"}

    groups = [f"224.0.1.129%{ends[1].interface}:{port}" for port in (319, 320)]
    printed = beside(ends, program, "ptp", *groups, enough=enough).lines
    announced = {line.partition(": ")[2] for line in printed if "Announce" in line}
    assert len(announced) == 1
    assert "priorities 128 and 128, class 248" in "".join(announced)
    assert {line.split()[0] for line in printed} == {ends[0].ipv4}


@pytest.mark.lab
@pytest.mark.needs("lcm")
def test_messages_of_lcm(ends) -> None:
    code = (
        "import lcm; bus = lcm.LCM('udpm://239.255.76.67:7667?ttl=1'); "
        "bus.publish('POSE', bytes(40)); bus.publish('MAP', bytes(70_000))"
    )
    group = f"239.255.76.67%{ends[1].interface}:7667"
    printed = beside(ends, (sys.executable, "-c", code), "lcm", group, enough=lambda line: "piece 2 of 2" in line).lines
    assert "on b'POSE': 40 bytes" in printed[0]
    assert "on b'MAP': piece 1 of 2, at 0 of 70000 bytes" in printed[1]
    assert printed[-1].endswith("2 messages, 0 missing")


@pytest.mark.needs("opendis")
def test_a_pdu_of_opendis(backend) -> None:
    dis = importlib.import_module("opendis.dis7")
    pdu = dis.EntityStatePdu()
    pdu.entityID.siteID, pdu.entityID.applicationID, pdu.entityID.entityID = 17, 23, 42
    pdu.marking.setString("Igor3d")
    pdu.exerciseID, pdu.protocolVersion = 5, 7
    pdu.pduType = pdu.protocolFamily = 1
    # The defaults of opendis 1.0 are of types that it does not write; the length is left to the caller.
    pdu.pduStatus, pdu.entityAppearance, pdu.capabilities, pdu.length = 0, 0, 0, 144
    pdu.entityLocation.x, pdu.entityLocation.y, pdu.entityLocation.z = 4_429_530.0, 3_094_568.5, 3_320_580.25
    memory = io.BytesIO()
    pdu.serialize(importlib.import_module("opendis.DataOutputStream").DataOutputStream(memory))
    group = f"239.1.1.1%{loopback()}:{free_port()}"
    with mcast.Sender(group, ttl=0) as tx:
        (line,) = Run("dis_pdus", group, 1, opened=partial(tx.send, memory.getvalue())).lines
    assert "exercise 5, entity state, version 7" in line
    assert ": 17:23:42 b'Igor3d', force 0, at 4429530.0 3094568.5 3320580.2" in line


@pytest.mark.lab
@pytest.mark.needs("zeroconf")
def test_a_service_of_zeroconf() -> None:
    zeroconf = importlib.import_module("zeroconf")
    kind = "_http._tcp.local."
    info = zeroconf.ServiceInfo(kind, f"mine.{kind}", 80, addresses=[bytes([10, 0, 0, 9])], server="mine.local.")
    with contextlib.closing(zeroconf.Zeroconf(interfaces=["127.0.0.1"])) as responder:
        responder.registry.async_add(
            info
        )  # without the probes and announcements of a registration, which take a second
        (line,) = Run("mdns", "224.0.0.251%lo:5353", kind.strip("."), 60, enough=lambda line: True).lines
    assert "12 '_http._tcp.local.' 'mine._http._tcp.local.'" in line
    assert "1 'mine.local.' '10.0.0.9'" in line


# ---- what a stranger sends ----


@cache
def described_by(name: str) -> Callable[[bytes], str]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["describe"]


@pytest.mark.long
@pytest.mark.parametrize("name", PACKETS)
@settings(max_examples=60)
@example(data=None, at=0, bits=0)
@given(data=st.none() | st.binary(max_size=300), at=st.integers(0, 200), bits=st.integers(0, 255))
def test_any_bytes_are_one_line_without_control_characters(name, data, at, bits):
    """Bytes of any kind, and real packets that are cut off, with one byte changed."""
    for payload in [data] if data is not None else [payload for payload, _ in PACKETS[name]]:
        changed = bytearray(payload)
        if at < len(changed):
            changed[at] ^= bits
        for size in {len(payload), at % (len(payload) + 1)}:
            line = described_by(name)(bytes(changed[:size]))
            assert line.isascii() or name == "sap"
            assert line.isprintable() or not line


@pytest.mark.parametrize("name", PACKETS)
def test_a_real_packet_may_be_cut_off_anywhere(name):
    for payload, _ in PACKETS[name]:
        for size in range(len(payload)):
            assert described_by(name)(payload[:size]).isprintable()


def test_names_that_point_in_circles_end():
    header = struct.pack(">6H", 0, 0x8400, 0, 0xFFFF, 0, 0)
    for name in (b"\xc0\x0c", b"\1a\xc0\x0c", b"\x3f" + b"a" * 63 + b"\xc0\x0c"):
        row = name + struct.pack(">HHIH", 12, 1, 0, 2) + b"\xc0\x0c"
        assert len(described_by("mdns")(header + row * 400)) < 4_000_000


def test_a_compressed_announcement_has_a_bound():
    bomb = sap(1, zlib.compress(b"s=" + b"x" * (8 << 20)))
    assert len(described_by("sap")(bomb)) < 70_000


@pytest.mark.parametrize("name", PACKETS)
def test_a_script_is_short(name):
    text = (EXAMPLES / f"{name}.py").read_text("utf-8")
    assert len(text.splitlines()) < 40
    assert f"python examples/{name}.py " in text


# ---- the notebook ----

NOTEBOOK = EXAMPLES / "capture_to_plot.ipynb"


@pytest.mark.long
def test_the_notebook_plots_what_it_captured(monkeypatch, tmp_path, capsys):
    """Its cells as a program; the kernel is started weekly."""
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        exec(compile("".join(cell["source"]).replace(":5000", f":{free_port()}"), NOTEBOOK.name, "exec"), names)
    assert capsys.readouterr().out == "".join(cells[0]["outputs"][0]["text"]) == "200 received, 0 dropped\n"
    assert len(names["times"]) == 200
    names["plt"].close("all")


@pytest.mark.weekly
@pytest.mark.long
def test_the_notebook_runs_in_a_kernel(tmp_path):
    """As Jupyter runs it, in a process of its own."""
    pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    code = (
        "import sys, nbclient, nbformat; book = nbformat.read(sys.argv[1], 4); nbclient.NotebookClient(book).execute(); "
        "nbformat.write(book, sys.argv[2])"
    )
    done = tmp_path / "done.ipynb"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, NOTEBOOK, done], check=True, cwd=tmp_path)
    executed = [cell for cell in nbformat.read(done, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in executed] == [1, 2]
    assert any("image/png" in output.get("data", {}) for output in executed[1].outputs)


def test_no_script_hides_a_module_of_python():
    """Its folder is the first place that Python looks in when one of them runs: as dis.py, a script would be in place of `dis`."""
    assert not {path.stem for path in EXAMPLES.glob("*.py")} & sys.stdlib_module_names
