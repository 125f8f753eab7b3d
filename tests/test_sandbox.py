"""Where a sandbox refuses something, the library does without it and says so; the suite's core holds there too."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import sandbox
from tests.conftest import BACKENDS, IN_CI, free_port

pytestmark = [pytest.mark.needs("system call filters")]

CORE = ("tests/test_receiver.py", "tests/test_sender.py", "tests/test_gather.py")
QUICK = "not (long or lab)"


def run(*arguments: str, refused: tuple[str, ...], backend: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.sandbox", *refused, "--", sys.executable, *arguments],
        env=os.environ | {"TMPDIR": "/dev/shm"} | ({"MCAST_FAST_BACKEND": backend} if backend else {}),
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def under(*arguments: str, absent: str, backend: str | None = None) -> str:
    """What a program writes where something is absent."""
    done = run(*arguments, refused=(absent,), backend=backend)
    if done.returncode == sandbox.CANNOT and not IN_CI:
        pytest.skip(f"feature mount namespaces: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


# A run of the core takes 10 s and more: without what few programs lack, once per week.
@pytest.mark.long
@pytest.mark.hang_timeout(1200)  # a suite: minutes on a busy machine
@pytest.mark.parametrize(
    "refused",
    [
        "netlink",
        "mmsg:ENOSYS",
        *(pytest.param(one, marks=pytest.mark.weekly) for one in ("mmsg:EPERM", *sandbox.ABSENT)),
    ],
)
def test_the_core_holds(refused: str) -> None:
    under("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", QUICK, *CORE, absent=refused)


ABSENCE = """
import os, json, pathlib, sys
import mcast_fast

def is_read_only():
    try:
        with open("/mcast-fast-writes", "x"):
            os.unlink("/mcast-fast-writes")
    except OSError:
        return True
    return False

status = pathlib.Path("/proc/self/status")
capabilities = [line.split()[1] for line in status.read_text().splitlines() if "CapEff" in line] if status.exists() else []
absent = {
    "proc": not os.path.exists("/proc/self"),
    "sys": not os.path.exists("/sys/class"),
    "writing": is_read_only(),
    "capabilities": capabilities == ["0" * 16],
}
group = f"127.0.0.1@239.7.7.10%lo:{sys.argv[2]}"
with mcast_fast.Receiver(group, timeout=5) as rx, mcast_fast.Sender(group.partition("@")[2], ttl=0) as tx:
    sent = tx.send_batch([b"one", b"two"])
    got = [payload.decode() for payload in rx.collect(2).payloads()]
    dropped = rx.stats.dropped_socket
counted = mcast_fast.host_counters().checksum_errors
names = [one.name for one in mcast_fast.interfaces()]
print(json.dumps([absent[sys.argv[1]], sent, got, dropped, "lo" in names, counted is not None, len(mcast_fast.features()) > 0]))
"""


@pytest.mark.long
@pytest.mark.parametrize("absent", sandbox.ABSENT)
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_absent_is_not_needed(backend: str, absent: str) -> None:
    said = json.loads(under("-c", ABSENCE, absent, str(free_port()), absent=absent, backend=backend))
    assert said == [True, 2, ["one", "two"], 0, True, absent != "proc", True]


EXCHANGE = """
import json, sys
import mcast_fast
from tests import sandbox
from tests.conftest import free_port

if sys.argv[1] == "later":  # than the import
    sandbox.refuse(sys.argv[2])
features = mcast_fast.features()
group = f"239.7.7.10%lo:{free_port()}"
with mcast_fast.Receiver(group, timeout=5) as rx, mcast_fast.Sender(group, ttl=0) as tx:
    sent = tx.send_batch([b"one", b"two"])
    got = [payload.decode() for payload in rx.collect(2).payloads()]
print(json.dumps([sent, got, features["batched_receive"].reason, features["batched_send"].reason]))
"""


@pytest.mark.long
@pytest.mark.parametrize("when", ["at first", "later"])
@pytest.mark.parametrize("answer", ["ENOSYS", "EPERM"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_without_calls_for_many_messages_each_takes_a_call(backend: str, answer: str, when: str) -> None:
    """And features() says why, also where the filter came after the import."""
    refused = f"mmsg:{answer}"
    given = () if when == "later" else (refused,)
    done = run("-c", EXCHANGE, when, refused, refused=given, backend=backend)
    assert done.returncode == 0, done.stderr
    sent, got, receiving, sending = json.loads(done.stdout)
    assert (sent, got) == (2, ["one", "two"])
    if backend == "fast":
        assert "refuses recvmmsg" in receiving
        assert "refuses sendmmsg" in sending
    else:
        assert "pure backend" in receiving


WATCH = """
import mcast_fast
for what, open_it in (
    ("watch", lambda: mcast_fast.Receiver("239.7.7.10%lo:5910", watch=True)),
    ("nowhere", lambda: mcast_fast.Receiver("239.7.7.10%nowhere:5910")),
):
    try:
        open_it()
    except mcast_fast.MulticastError as error:
        print(f"{what}: {type(error).__name__}: {error}")
print(mcast_fast.features()["watch"].reason)
"""


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_without_netlink_errors_name_the_setting(backend: str) -> None:
    done = run("-c", WATCH, refused=("netlink",), backend=backend)
    watch, nowhere, reason = done.stdout.splitlines() or [done.stderr, "", ""]
    assert watch.startswith("watch: FeatureError: watch=True: netlink is refused here")
    assert nowhere.startswith("nowhere: InterfaceError: interface 'nowhere' does not exist; this machine has: lo, ")
    for text in (watch, nowhere, reason):
        assert "RestrictAddressFamilies=" in text
        assert os.strerror(errno.EAFNOSUPPORT) in text


OPTIONS = """
import os, sys
import mcast_fast
from tests import sandbox

group = "239.7.7.10%lo:5910"
opened = mcast_fast.Receiver(group), mcast_fast.Sender(group)
sandbox.refuse("options")
for name, open_it in (
    ("receiver", lambda: mcast_fast.Receiver(group)),
    ("several groups", lambda: mcast_fast.Receiver(group, "239.7.7.11%lo:5910")),
    ("watch", lambda: mcast_fast.Receiver(group, watch=True)),
    ("sender", lambda: mcast_fast.Sender(group)),
    ("sender with a TTL", lambda: mcast_fast.Sender(group, ttl=3)),
    ("join", lambda: opened[0].join("239.7.7.12%lo:5910")),
    ("leave", lambda: opened[0].leave(group)),
):
    before = set(os.listdir("/dev/fd"))
    try:
        open_it()
    except mcast_fast.SocketError as error:
        print(name, error.operation, len(set(os.listdir("/dev/fd")) - before), error, sep="|")
print([one.group for one in opened[0].memberships], sep="|")
"""


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_without_options_of_sockets_errors_name_the_sandbox_and_nothing_stays_open(backend: str) -> None:
    done = run("-c", OPTIONS, refused=(), backend=backend)
    *refused, held = done.stdout.splitlines() or [done.stderr]
    assert [line.split("|")[0] for line in refused] == [
        "receiver", "several groups", "watch", "sender", "sender with a TTL", "join", "leave"
    ], done.stderr  # fmt: skip
    for line in refused:
        _, operation, still_open, text = line.split("|")
        assert (operation in ("open", "bind", "join", "leave"), still_open) == (True, "0"), line
        assert f"{os.strerror(errno.EPERM)} (1); a sandbox (seccomp" in text
    assert held == "['239.7.7.10']"


PATCHED = """
import select, sys, types
sys.modules["gevent.monkey"] = types.ModuleType("gevent.monkey")
for name in ("epoll", "kqueue", "devpoll"):  # as gevent.monkey.patch_select() does
    if hasattr(select, name):
        delattr(select, name)
import mcast_fast
from tests.conftest import free_port

group = f"239.7.7.10%lo:{free_port()}"
with mcast_fast.Receiver(group, timeout=5, watch=True) as rx, mcast_fast.Sender(group, ttl=0) as tx:
    tx.send(b"x")
    print(len(rx.recv_batch()))
    try:
        print(rx.fileno() >= 0)
    except mcast_fast.FeatureError as error:
        print(error)
"""


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_where_epoll_is_patched_away_a_receiver_works_and_says_who_took_it(backend: str) -> None:
    done = run("-c", PATCHED, refused=(), backend=backend)
    received, descriptor = done.stdout.splitlines() or [done.stderr, ""]
    assert received == "1"
    assert descriptor == "True" if backend == "fast" else descriptor.startswith("fileno(): gevent has taken epoll")


GREEN = """
import sys, threading
if sys.argv[1] == "gevent":
    from gevent import monkey, socket
    monkey.patch_all()
    wait = socket.wait_read
else:
    import eventlet
    from eventlet import hubs
    eventlet.monkey_patch()
    wait = lambda descriptor: hubs.trampoline(descriptor, read=True)
import mcast_fast

port = int(sys.argv[2])
group = f"239.7.7.10%lo:{port}"
with mcast_fast.Receiver(group, timeout=60, watch=True) as rx, mcast_fast.Sender(group, ttl=0) as tx:
    threading.Timer(0.1, tx.send, [b"x"]).start()  # by a green thread, which has to come to run
    try:
        wait(rx.fileno())
    except mcast_fast.FeatureError as error:
        print(error)
    else:
        print(sys.argv[1], "waits for a descriptor")
    print(len(rx.recv_batch()))
    tx.send(b"y")
    print(len(rx.recv_batch(timeout=0)))  # there already, on the loopback
    thread = threading.Thread(target=rx.recv_batch)  # waits
    for number in range(100 if mcast_fast.backend == "pure" else 0):
        thread.is_alive() or thread.start()
        rx.join(f"239.7.8.{number}%lo:{port}")
        threading.Event().wait(0)
        rx.leave(f"239.7.8.{number}")
    tx.send(b"z")
    thread.ident and thread.join()

async def receive():
    async with aio.Receiver(group, timeout=60) as rx, aio.Sender(group, ttl=0) as tx:
        await tx.send(b"x")
        return len(await rx.recv_batch())

import asyncio
from mcast_fast import aio
print(asyncio.run(receive()))
"""


@pytest.mark.weekly
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_green_threads_run_while_a_receiver_waits(backend: str, library: str) -> None:
    """As docs/environments.md shows; the libraries are of the extra `green`."""
    pytest.importorskip(library)
    done = run("-c", GREEN, library, str(free_port()), refused=(), backend=backend)
    *_, descriptor, first, at_once, awaited = done.stdout.splitlines() or [done.stderr, *("",) * 3]
    assert (first, at_once, awaited) == ("1", "1", "1"), done.stderr
    assert "Error" not in done.stderr  # of the thread that waited while groups were left
    taken = f"fileno(): {library} has taken epoll"
    assert descriptor.startswith(f"{library} waits" if backend == "fast" else taken)
