"""The command line: in this process on both backends, and as a program where signals, pipes and exits matter."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

import mcast_fast as mcast
from mcast_fast._host import offloads
from mcast_fast._host.interfaces import default_interface
from mcast_fast._host.routes import Route
from mcast_fast._membership import sockets
from mcast_fast.cli import VERBS, demo, output, program, receive
from mcast_fast.cli.interfaces import FLAGS
from mcast_fast.cli.signals import STOP, stop_signals_call
from tests.conftest import BACKENDS, Place, free_port, has_fast, multicast_ipv6

SUMMARY = re.compile(
    r"mcast-fast: received ([\d,]+), bytes ([\d,]+), filtered ([\d,]+), dropped_socket ([\d,]+|n/a), truncated ([\d,]+), in "
)
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"


def invoke(*arguments, input=None):
    """The command line in this process, so that the backend fixture acts on it."""
    return CliRunner().invoke(program, [str(one) for one in arguments], input=input)


def environment(backend):
    return os.environ | {"MCAST_FAST_BACKEND": backend}


def run(*arguments, backend="pure", **options):
    """The command line as a program of its own."""
    command = [sys.executable, "-m", "mcast_fast", *map(str, arguments)]
    return subprocess.run(
        command, env=environment(backend), capture_output=True, text=True, timeout=30, check=False, **options
    )


@pytest.fixture(params=BACKENDS)
def program_backend(request):
    """The name of each backend, for a program of its own."""
    if request.param == "fast" and (missing := has_fast()):
        pytest.skip(f"feature fast: {missing}")
    return request.param


@pytest.fixture
def when_joined(monkeypatch):
    """`when_joined(action)`: the action runs as soon as the verb's receiver stands."""

    def arrange(action):
        class Joined(mcast.Receiver):
            def __init__(self, *groups, **options):
                super().__init__(*groups, **options)
                action()

        monkeypatch.setattr(receive, "Receiver", Joined)

    return arrange


def send(group, *payloads, **options):
    with mcast.Sender(group, **{"ttl": 0} | options) as sender:
        sender.send_batch(list(payloads))


def sent(stdout):
    """How many datagrams the report of `send` says have left."""
    return int(
        re.match(r"sent ([\d,]+)(, bytes [\d,]+, in [\d.]+ s(, .* packets/s, .* Mbit/s)?)?\n", stdout)[1].replace(
            ",", ""
        )
    )


def summary(stderr):
    found = SUMMARY.search(stderr)
    assert found, stderr
    return tuple(text if text == "n/a" else int(text.replace(",", "")) for text in found.groups())


# ---- the program ----


def test_version_names_the_backend(backend):
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"mcast-fast {mcast.__version__}, {backend} backend\n")


@pytest.mark.long
def test_version_as_a_program(program_backend):
    result = run("--version", backend=program_backend)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"mcast-fast {mcast.__version__}, {program_backend} backend\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb):
    result = invoke(verb, "-h")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")


def test_the_verbs_are_listed():
    result = invoke("--help")
    assert all(f"  {verb} " in result.stdout for verb in VERBS)


@pytest.mark.long
@pytest.mark.parametrize(("module", "verb"), [("click", "demo"), ("rich", "replay")])
def test_a_missing_library_is_named_with_its_remedy(module, verb):
    code = f"import sys, runpy; sys.modules[{module!r}] = None; sys.argv[1:] = [{verb!r}]; "
    code += "runpy.run_module('mcast_fast', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"mcast-fast: the command line needs {module}")
    assert line.endswith("pip install 'mcast-fast[cli]'")
    assert "Traceback" not in result.stderr


@pytest.mark.long
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="feature /dev/full: this system has none")
@pytest.mark.parametrize("arguments", [("--version",), ("interfaces", "--json"), ("demo", "-c", "10")])
def test_a_full_disk_is_an_error(arguments):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "mcast_fast", *arguments]
        result = subprocess.run(
            command, env=environment("pure"), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "mcast-fast: standard output: No space left on device (28)"
    assert "Traceback" not in result.stderr


def test_warnings_of_ours_are_one_line_each(monkeypatch):
    def warn():
        for _ in range(2):
            warnings.warn("239.9.9.9: something is clipped", mcast.MulticastWarning, stacklevel=1)
        return []

    monkeypatch.setattr(sys.modules["mcast_fast.cli.interfaces"], "interfaces", warn)
    monkeypatch.setattr(sys.modules["mcast_fast.cli.interfaces"], "_default", lambda *_: None)
    result = invoke("interfaces", "--json")
    assert result.stderr == "mcast-fast: warning: 239.9.9.9: something is clipped\n" * 2
    assert (result.exit_code, result.stdout) == (0, "[]\n")


# ---- demo ----


def test_demo_loses_nothing(backend, no_leak):
    result = invoke("demo", "--count", 1_000, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert (told["version"], told["backend"]) == (mcast.__version__, backend)
    wanted = ["IPv4", "IPv6"] if multicast_ipv6() else ["IPv4"]
    assert [one["family"] for one in told["runs"]] == wanted
    for one in told["runs"]:
        assert (one["sent"], one["received"], one["lost"], one["answered"]) == (1_000, 1_000, 0, True)
        assert one["packets_per_second"] > 0
        assert one["ns_per_packet"] > 0
    assert len(told["skipped"]) == 2 - len(wanted)


@pytest.mark.long
def test_demo_as_a_program(program_backend):
    result = run("demo", "--count", 2_000, backend=program_backend)
    assert (result.returncode, result.stderr) == (0, "")
    first, *others = result.stdout.splitlines()
    assert first == f"mcast-fast {mcast.__version__}, {program_backend} backend, 2,000 packets of 256 bytes"
    assert re.match(
        r"IPv4 on lo\w* \(239\.255\.77\.1:\d+\): question and answer, sent 2,000, received 2,000, lost 0, "
        r"[\d,]+ packets/s \([\d,]+ ns per packet\)$",
        others[0],
    )
    assert others[1].startswith("IPv6 ")


UNPRIVILEGED = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.mark.long
def test_demo_needs_no_privilege(program_backend):
    if shutil.which("setpriv") is None or os.geteuid() != 0:
        pytest.skip("feature setpriv: only root can become another user, and by that program")
    command = [*UNPRIVILEGED, sys.executable]
    if subprocess.run([*command, "-c", "import mcast_fast, click"], capture_output=True, check=False).returncode:
        pytest.skip("feature setpriv: this Python cannot be run by another user")
    result = subprocess.run(
        [*command, "-m", "mcast_fast", "demo", "-c", "2000"],
        env=environment(program_backend),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.long
@pytest.mark.parametrize("size", [16, 256, 1_000, 1_600, 9_000, 65_507])
def test_demo_fits_the_buffer_of_an_unprivileged_user(backend, monkeypatch, size):
    monkeypatch.setattr(sockets, "DEFAULT_BUFFER", demo.SMALLEST_BUFFER // 2)  # Linux doubles it
    result = invoke("demo", "--count", 300, "--size", size)
    assert (result.exit_code, result.stderr) == (0, "")


def plant(monkeypatch, change, only_first=True):
    """The demo's sender hands over changed payloads, and says that all have left."""

    class Lossy(mcast.Sender):
        changed = False

        def send_batch(self, payloads, size=None):
            if self.changed and only_first:
                return super().send_batch(payloads)
            self.changed = True
            super().send_batch(change(payloads))
            return len(payloads)

    monkeypatch.setattr(demo, "PATIENCE", 0.1)
    monkeypatch.setattr(demo, "Sender", Lossy)


@pytest.mark.long
@pytest.mark.needs("drop_totals")
@pytest.mark.parametrize(
    "change",
    [
        lambda payloads: payloads[:-1],
        lambda payloads: payloads[1:],
        lambda payloads: [*payloads[:3], payloads[3][:-1], *payloads[4:]],
        lambda payloads: [*payloads[:3], payloads[2], *payloads[4:]],
        lambda payloads: [*payloads[:3], payloads[3][:-1] + b"\0", *payloads[4:]],
    ],
    ids=["last", "first", "cut", "twice", "damaged"],
)
def test_demo_fails_when_one_is_lost(backend, monkeypatch, change):
    plant(monkeypatch, change)
    result = invoke("demo", "--count", 50, "--json")
    assert result.exit_code == 1
    for one in json.loads(result.stdout)["runs"]:
        assert (one["sent"], one["received"], one["lost"]) == (50, 49, 1)
        line = (
            f"mcast-fast: lost 1 of 50 packets over {one['family']} on {one['interface']}; the kernel dropped 0 of them"
        )
        assert line in result.stderr


def test_demo_counts_its_own_packets_only(backend, monkeypatch):
    plant(monkeypatch, lambda payloads: [b"foreign", *payloads[:5], bytes(256), *payloads[5:]], only_first=False)
    assert invoke("demo", "--count", 300).exit_code == 0


def test_demo_says_when_no_answer_comes(backend, monkeypatch):
    class Silent(mcast.Sender):
        def send(self, payload):
            return 1

    monkeypatch.setattr(demo, "PATIENCE", 0.05)
    monkeypatch.setattr(demo, "Sender", Silent)
    result = invoke("demo", "--count", 10)
    assert result.exit_code == 1
    assert "no answer, sent 0, received 0" in result.stdout
    assert "mcast-fast: no answer over IPv4 on lo" in result.stderr


def test_demo_says_what_could_not_be_tried(monkeypatch):
    monkeypatch.setattr(demo, "interfaces", list)
    result = invoke("demo")
    assert result.exit_code == 1
    assert "IPv4 not tried: no loopback interface" in result.stdout
    assert "IPv6 not tried: no interface is up, multicast-capable" in result.stdout
    assert result.stderr == "mcast-fast: nothing could be tried\n"


def test_demo_without_ipv6_is_no_failure(monkeypatch):
    loopback = [one for one in mcast.interfaces() if one.is_loopback]
    monkeypatch.setattr(demo, "interfaces", lambda: loopback)
    result = invoke("demo", "--count", 10, "--json")
    assert result.exit_code == 0
    assert [one["family"] for one in json.loads(result.stdout)["skipped"]] == ["IPv6"]


# ---- receive ----


@pytest.mark.long
@pytest.mark.needs("kernel_timestamps")
def test_receive_prints_a_line_a_packet(backend, place, when_joined, no_leak):
    group = place.group()
    when_joined(lambda: send(group, b"one", b"\x00two\xff", b"x" * 100))
    result = invoke("receive", group, "--timeout", 0.2)
    address, port = mcast.Group.parse(group).address, mcast.Group.parse(group).port
    there = f"{address}:{port}" if place.version == 4 else f"[{address}]:{port}"
    lines = result.stdout.splitlines()
    heading = rf"{TIME} \S+:\d+ > {re.escape(there)} {place.interface} length "
    assert [re.sub(heading, "", line) for line in lines] == ["3: one", "5: .two.", f"100: {'x' * output.SHOWN}"]
    assert result.exit_code == 0
    assert summary(result.stderr) == (3, 108, 0, 0, 0)


def test_receive_ends_after_count(backend, place, when_joined):
    group = place.group()
    when_joined(lambda: send(group, *[b"x"] * 500))
    result = invoke("receive", group, "--count", 300, "--timeout", 5)
    assert (result.exit_code, len(result.stdout.splitlines()), summary(result.stderr)[0]) == (0, 300, 300)


@pytest.mark.needs("kernel_timestamps")
def test_receive_json(backend, place, when_joined):
    group = place.group()
    when_joined(lambda: send(group, b"\x00\xff", b""))
    result = invoke("receive", group, "-c", 2, "-t", 5, "-o", "json", "--ttl")
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["timestamp"] <= second["timestamp"]
    assert re.fullmatch(TIME, first["time"])
    assert first["source"].partition("%")[0] in {a for one in mcast.interfaces() for a in one.addresses}
    parsed = mcast.Group.parse(group)
    assert (first["group"], first["port"], first["interface"]) == (parsed.address, parsed.port, place.interface)
    assert (first["length"], first["payload"], first["ttl"]) == (2, "00ff", 0)
    assert (first["truncated"], first["dropped"]) == (False, 0)
    assert (second["length"], second["payload"]) == (0, "")


def test_receive_raw_is_the_payloads(backend, place, when_joined):
    group = place.group()
    when_joined(lambda: send(group, b"\x00\xff", b"", b"\r\n"))
    result = invoke("receive", group, "-c", 3, "-t", 5, "-o", "raw")
    assert result.stdout_bytes == b"\x00\xff\r\n"


def test_receive_hex_shows_every_byte(backend, place, when_joined):
    group = place.group()
    payload = bytes(range(0x38, 0x38 + 20))
    when_joined(lambda: send(group, payload))
    _, *rows = invoke("receive", group, "-c", 1, "-t", 5, "-o", "hex").stdout.splitlines()
    assert rows == [
        "  0000  38 39 3a 3b 3c 3d 3e 3f 40 41 42 43 44 45 46 47  89:;<=>?@ABCDEFG",
        "  0010  48 49 4a 4b                                      HIJK",
    ]


def test_receive_none_prints_the_ledger_alone(backend, place, when_joined):
    group = place.group()
    when_joined(lambda: send(group, b"one"))
    result = invoke("receive", group, "-c", 1, "-t", 5, "-o", "none", "--stats", "--buffer-size", "64KiB")
    assert result.stdout == ""
    assert "batches 1, largest_batch 1, wakeups " in result.stderr


@pytest.mark.needs("drop_totals")
def test_receive_exits_4_when_nothing_came(backend, place, no_leak):
    group = place.group()
    result = invoke("receive", group, "-t", 0.05)
    assert (result.exit_code, result.stdout) == (4, "")
    assert summary(result.stderr) == (0, 0, 0, 0, 0)
    assert (
        result.stderr.splitlines()[-1]
        == f"mcast-fast: nothing came within 0.05 s; run: mcast-fast doctor {shlex.quote(group)}"
    )


def test_what_to_run_when_nothing_came_has_the_options_of_the_groups(backend, place):
    address, interface, port = re.fullmatch(r"\[?(.+?)%(.+?)\]?:(\d+)", place.group()).groups()
    result = invoke("receive", address, "-i", interface, "-p", port, "-t", 0.05)
    zoned = f"{address}%{interface}"
    whole = f"[{zoned}]:{port}" if ":" in address else f"{zoned}:{port}"
    assert result.stderr.splitlines()[-1].endswith(f"run: mcast-fast doctor {shlex.quote(whole)}")


def test_receive_takes_port_interface_and_source_as_options(backend, when_joined):
    place = Place(4, next(one.name for one in mcast.interfaces() if one.is_loopback))
    port = free_port()
    group = f"232.1.1.1%{place.interface}:{port}"

    def two_sources():
        send(group, b"wanted", source="127.0.0.1")
        send(group, b"other", source="127.0.0.2")

    when_joined(two_sources)
    options = ("-p", port, "-i", place.interface, "--source", "127.0.0.1", "-t", 0.1, "-o", "raw")
    assert invoke("receive", "232.1.1.1", *options).stdout == "wanted"


WRONG = {
    "unicast": (("receive", "10.0.0.1:5000"), "10.0.0.1 is a unicast address"),
    "no port": (("receive", "239.1.1.1"), "has no port"),
    "port": (("receive", "239.1.1.1", "-p", "70000"), "--port: '70000' is no UDP port"),
    "interface": (("receive", "239.1.1.1%nope0:5000"), "interface 'nope0' does not exist"),
    "option": (("receive", "239.1.1.1:5000", "-i", "nope0"), "interface 'nope0' does not exist"),
    "timeout": (("receive", "239.1.1.1%lo:5000", "-t", "-1"), "--timeout: '-1' is negative"),
    "size": (("receive", "239.1.1.1%lo:5000", "--buffer-size", "5"), "--buffer-size: '5' is not a size"),
    "ttl": (("send", "239.1.1.1%lo:5000", "x", "--ttl", "300"), "--ttl: 300 is not in the range"),
    "group": (("send", "nonsense", "x"), "'nonsense': not an IP address"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_wrong_usage_is_one_line_and_exits_2(backend, no_leak, arguments, message):
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("mcast-fast: ")
    assert message in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("receive",),
        ("receive", "239.1.1.1:5000", "-o", "xml"),
        ("receive", "239.1.1.1:5000", "-c", "0"),
        ("send",),
        ("send", "239.1.1.1:5000"),
        ("send", "239.1.1.1:5000", "239.1.1.2:5000"),
        ("demo", "--size", "15"),
        ("demo", "--count", "0"),
        ("record",),
    ],
)
def test_what_click_refuses_exits_2(arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("mcast-fast: ")
    assert result.stderr.endswith(f"; see `program {arguments[0]} --help`\n")
    assert len(result.stderr.splitlines()) == 1


def test_a_refusal_of_the_system_exits_1(backend, place, monkeypatch):
    def refuse(*_arguments, **_options):
        raise mcast.SocketError(105, "join 239.1.1.1 on eth0: No buffer space available (105); remedy", "join")

    monkeypatch.setattr("mcast_fast._membership.joins.open_socket", refuse)
    result = invoke("receive", place.group())
    assert result.exit_code == 1
    assert result.stderr == "mcast-fast: join 239.1.1.1 on eth0: No buffer space available (105); remedy\n"


class Background:
    """`receive` as a program, with packets sent until its first one came out."""

    def __init__(self, backend, place, *options, **pipes):
        self.group = place.group()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mcast_fast", "receive", self.group, *options],
            env=environment(backend),
            bufsize=0,  # communicate() reads the descriptor: what readline() had taken beyond its line would be lost
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | pipes,
        )

    def first_line(self):
        stop = threading.Event()

        def knock():
            with mcast.Sender(self.group, ttl=0) as sender:
                while not stop.wait(0.02):
                    sender.send(b"knock")

        thread = threading.Thread(target=knock)
        thread.start()
        try:
            return self.process.stdout.readline()
        finally:
            stop.set()
            thread.join()

    def end(self):
        out, err = self.process.communicate(timeout=10)
        return self.process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("number", STOP)
def test_a_signal_to_stop_stops_once_and_then_does_what_it_did(number):
    def other(number, frame):
        came.append("other")

    came, before = [], signal.signal(number, other)
    try:
        with stop_signals_call(lambda: came.append("stop")):
            signal.raise_signal(number)
            signal.raise_signal(number)
        assert came == ["stop", "other"]
        assert signal.getsignal(number) is other
    finally:
        signal.signal(number, before)


@pytest.mark.long
@pytest.mark.needs("signals to processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_receive_well(program_backend, place, number):
    background = Background(program_backend, place)
    lines = [background.first_line().decode()]
    assert lines[0].endswith(": knock\n")
    background.process.send_signal(number)
    code, out, err = background.end()
    assert code == 0
    assert summary(err)[0] == len(lines + out.splitlines())
    assert [line.split()[1] for line in err.splitlines()] == ["listening", "received"]


@pytest.mark.long
@pytest.mark.needs("broken pipes")
def test_a_closed_pipe_ends_receive_without_a_traceback(program_backend, place):
    background = Background(program_backend, place)
    background.first_line()
    background.process.stdout.close()
    with mcast.Sender(background.group, ttl=0) as sender:
        while background.process.poll() is None:
            sender.send(b"more")
            threading.Event().wait(0.01)
    err = background.process.stderr.read().decode()
    background.process.stderr.close()
    assert background.process.returncode == 1
    assert [line.split()[1] for line in err.splitlines()] == ["listening", "received"]
    assert summary(err)[0] > 1


@pytest.fixture
def stuck(program_backend, monkeypatch):
    """`receive` with more to write than its pipe holds, and unbuffered, so that a signal cuts its write short."""
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    place = Place(4, next(one.name for one in mcast.interfaces() if one.is_loopback))
    background = Background(program_backend, place)
    background.first_line()
    with mcast.Sender(background.group, ttl=0) as sender:
        for _ in range(40):  # slowly, for what matters here is the pipe: 2,000 lines of 120 bytes
            sender.send_batch([bytes(100)] * 50)
            threading.Event().wait(0.005)
    threading.Event().wait(0.1)
    yield background
    background.process.kill()
    background.end()


@pytest.mark.needs("signals to processes")
@pytest.mark.long
def test_a_signal_cuts_no_line(stuck):
    stuck.process.send_signal(signal.SIGINT)
    code, out, err = stuck.end()
    assert (code, out[-1]) == (0, "\n")
    assert 1 + len(out.splitlines()) == summary(err)[0]


@pytest.mark.needs("signals to processes")
@pytest.mark.long
def test_a_second_signal_aborts(stuck):
    stuck.process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        stuck.process.wait(0.1)
    stuck.process.send_signal(signal.SIGINT)
    assert stuck.process.wait(5) == 130
    assert "Traceback" not in stuck.process.stderr.read().decode()


def test_summary_says_what_is_not_known():
    assert output.ledger_text(mcast.Stats()).endswith("dropped_socket n/a, truncated 0")
    pieces = mcast.Stats(dropped_socket=470, drops_exact=False)
    assert output.ledger_text(pieces).endswith("filtered 0, dropped_socket at least 470, truncated 0")
    assert output.ledger_text(mcast.Stats(dropped_socket=0, drops_exact=False)).endswith(
        "dropped_socket 0, truncated 0"
    )
    assert output.ledger_object(pieces, 0.0, ["dropped_socket"])["drops_exact"] is False


def test_a_packet_without_a_time_shows_none():
    assert output.time_text(0) == "-"
    assert output.time_text(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"


# ---- send ----


@pytest.fixture
def listener(backend, place):
    with mcast.Receiver(place.group(), timeout=2) as receiver:
        receiver.text = place.group(port=int(receiver._joins.sockets()[0].place.port))
        yield receiver


def test_send_a_text(listener):
    result = invoke("send", listener.text, "grüße", "--ttl", 0)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "sent 1\n", "")
    assert listener.recv().data == "grüße".encode()


def test_send_standard_input(listener):
    assert invoke("send", listener.text, "-", input=b"\x00\xff\n").exit_code == 0
    assert listener.recv().data == b"\x00\xff\n"


@pytest.mark.long
@pytest.mark.needs("large buffers")
def test_send_many(listener):
    assert sent(invoke("send", listener.text, "--size", 300, "--count", 600).stdout) == 600
    payloads = listener.collect(601, timeout=0.2).payloads()
    assert payloads == [(bytes(range(256)) * 2)[:300]] * 600


@pytest.mark.long
def test_send_without_segmentation(listener):
    assert sent(invoke("send", listener.text, "x", "--count", 3, "--no-segmentation").stdout) == 3
    assert listener.collect(4, timeout=0.2).payloads() == [b"x"] * 3


def test_send_without_loopback(backend):
    interface = multicast_ipv6()
    if interface is None:
        pytest.skip("feature IPv6 multicast: what leaves by `lo` comes back whatever was asked")
    group = Place(6, interface.name).group()
    with mcast.Receiver(group) as receiver:
        assert sent(invoke("send", group, "x", "--no-loopback").stdout) == 1
        assert sent(invoke("send", group, "y").stdout) == 1
        assert receiver.collect(2, timeout=0.1).payloads() == [b"y"]


def test_send_to_several_groups(backend, place):
    groups = [place.group(number) for number in (1, 2)]
    with mcast.Receiver(*groups, timeout=2) as receiver:
        assert sent(invoke("send", *groups, "both").stdout) == 2
        assert receiver.collect(2).payloads() == [b"both", b"both"]


@pytest.mark.long
def test_send_waits_for_answers(listener):
    def answer():
        question = listener.recv()
        listener.reply(question, b"first")
        listener.reply(question, b"second")

    thread = threading.Thread(target=answer)
    thread.start()
    result = invoke("send", listener.text, "anyone?", "--wait", 0.3)
    thread.join()
    sent, *answers = result.stdout.splitlines()
    assert (result.exit_code, sent) == (0, "sent 1")
    assert [line.rpartition(": ")[2] for line in answers] == ["first", "second"]


def test_send_exits_4_without_an_answer(listener):
    result = invoke("send", listener.text, "anyone?", "--wait", 0.05)
    assert (result.exit_code, result.stdout) == (4, "sent 1\n")
    assert result.stderr == "mcast-fast: no answer came within 0.05 s\n"


def test_send_of_which_nothing_left_shows_the_error_alone(backend):
    group = Place(4, next(one.name for one in mcast.interfaces() if one.is_loopback)).group()
    result = invoke("send", group, "--size", 65_527)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "65,507" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_send_lines(listener):
    result = invoke("send", listener.text, "--stdin-lines", input=b"one\n\ntwo\r\nlast")
    assert (result.exit_code, sent(result.stdout)) == (0, 4)
    assert listener.collect(4).payloads() == [b"one", b"", b"two", b"last"]


@pytest.mark.parametrize(("options", "size"), [((), 1316), (("--size", 1000), 1000)])
def test_send_a_file(listener, tmp_path, options, size):
    content = os.urandom(5000)
    file = tmp_path / "feed.ts"
    file.write_bytes(content)
    pieces = [content[at : at + size] for at in range(0, 5000, size)]
    result = invoke("send", listener.text, "--file", file, "--count", 2, *options)
    assert (result.exit_code, sent(result.stdout)) == (0, 2 * len(pieces))
    assert listener.collect(2 * len(pieces)).payloads() == pieces * 2


def test_send_an_empty_file_for_a_while(listener, tmp_path):
    file = tmp_path / "empty.ts"
    file.write_bytes(b"")
    result = invoke("send", listener.text, "--file", file, "--duration", "1h")  # it ends at once
    assert (result.exit_code, result.stdout) == (0, "sent 0\n")


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "code", "came"), [((), 0, 4), (("--duration", "1h"), 0, 4), (("--count", "2"), 2, 0)]
)
def test_send_what_comes_through_a_pipe_once(place, options, code, came):
    result = run("send", place.group(), "--file", "-", "--size", 1000, *options, input="x" * 4000)
    assert result.returncode == code, result.stderr
    assert (sent(result.stdout) if result.stdout else 0) == came
    assert ("--count sends the file again" in result.stderr) == (code == 2)


@pytest.mark.long
@pytest.mark.needs("kernel_timestamps")
@pytest.mark.parametrize("option", [("--rate", "200/s"), ("--interval", "0.005")])
def test_send_at_a_rate(listener, option):
    assert sent(invoke("send", listener.text, "--size", 10, "--count", 21, *option).stdout) == 21
    times = [packet.timestamp for packet in listener.collect(21)]
    # A start that is late is made good: the first ones follow it closely then.
    assert 0.05 < (times[-1] - times[0]) / 1e9 < 1


def test_send_tells_its_progress(listener, monkeypatch):
    monkeypatch.setattr("mcast_fast.cli.progress.SECONDS", 0.01)
    result = invoke("send", listener.text, "x", "--count", 10, "--rate", "100/s", "--progress")
    assert sent(result.stdout) == 10
    assert re.fullmatch(r"(mcast-fast: sent \d+\n)+", result.stderr)


@pytest.mark.parametrize(
    "options",
    [
        ("x", "--rate", "1/s", "--interval", "1"),
        ("x", "--interval", "0"),
        ("x", "--rate", "5x"),
        ("x", "--dscp", "64"),
        ("--stdin-lines", "--count", "2"),
        ("--stdin-lines", "--file", "/dev/null"),
    ],
)
def test_send_with_options_that_do_not_fit_exits_2(backend, options):
    assert invoke("send", "239.1.1.1%lo:5000", *options).exit_code == 2


@pytest.mark.long
@pytest.mark.needs("signals to processes")
def test_a_signal_ends_send_with_the_true_count(program_backend, place):
    group = place.group()
    command = [sys.executable, "-m", "mcast_fast", "send", group, "--size", "8", "--count", "100000", "--rate", "200/s"]
    with mcast.Receiver(group, timeout=10) as receiver:
        process = subprocess.Popen(
            command, env=environment(program_backend), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        receiver.collect(5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        came = 5 + len(receiver.collect(100_000, timeout=0.2))
    assert (process.returncode, sent(out.decode()), err) == (130, came, b"")


# ---- interfaces ----


@pytest.mark.filterwarnings("ignore::mcast_fast.MulticastWarning")
def test_interfaces_json_is_what_the_library_says():
    rows = json.loads(invoke("interfaces", "--json").stdout)
    assert [(row["index"], row["name"], tuple(row["addresses"]), row["is_up"]) for row in rows] == [
        (one.index, one.name, one.addresses, one.is_up) for one in mcast.interfaces()
    ]
    assert [row["offloads"] for row in rows] == [one.offloads for one in mcast.interfaces()]
    for family, group in (("IPv4", "239.1.1.1"), ("IPv6", "ff15::1")):
        try:
            wanted = [default_interface(group).name]
        except mcast.InterfaceError:
            wanted = []
        assert [row["name"] for row in rows if family in row["default_for"]] == wanted


def test_interfaces_table_names_every_address_in_full():
    table = invoke("interfaces").stdout
    heading, *lines = table.splitlines()
    assert re.split(r"  +", heading) == ["name", "index", *FLAGS, "offloads", "addresses", "default for"]
    for one in mcast.interfaces():
        assert any(line.startswith(f"{one.name} ") for line in lines)
        assert all(address in table for address in one.addresses)


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        ((True, True, False), "gro, rx-udp-gro-forwarding"),
        ((False, False, False), "-"),
        ((None, None, None), "?"),
        ((True, False, None), "?"),
    ],
)
def test_interfaces_table_shows_the_offloads_that_are_on(monkeypatch, states, shown):
    monkeypatch.setattr(offloads, "read", lambda _: dict(zip(offloads.FEATURES, states, strict=True)))
    heading, first, *_ = invoke("interfaces").stdout.splitlines()
    start = heading.index("offloads")
    assert first[start : heading.index("addresses")].strip() == shown


def test_interfaces_without_a_default(monkeypatch):
    loopback = [one for one in mcast.interfaces() if one.is_loopback]
    monkeypatch.setattr(sys.modules["mcast_fast.cli.interfaces"], "interfaces", lambda: loopback)
    monkeypatch.setattr(sys.modules["mcast_fast._host.interfaces"], "find_route", lambda *_: Route(0))
    assert [row["default_for"] for row in json.loads(invoke("interfaces", "--json").stdout)] == [[]]
