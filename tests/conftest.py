"""The fixture that runs every behaviour on both backends, and a network of the session's own where one can be made.

As root the whole session moves into a fresh network namespace, so that nothing it sends can leave this machine;
elsewhere the tests use the loopback as it is.
"""

import _thread
import contextlib
import ctypes
import faulthandler
import functools
import gc
import importlib
import importlib.util
import itertools
import os
import platform
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from mcast_fast import Sender, _core
from mcast_fast._host.interfaces import Interface, interfaces
from mcast_fast._membership.sockets import set_buffer
from mcast_fast._systems import LINUX, SYSTEM, WINDOWS
from tests import lab, malloc, sandbox

T = TypeVar("T")
IN_CI = os.environ.get("CI") == "true" and SYSTEM is LINUX  # what .ci/run installs is for Linux
WANTED = os.environ.get("MCAST_FAST_BACKEND", "")
# Programs that tests start are tested for what they write; small buffers are the system's, and warned of in each process.
os.environ["PYTHONWARNINGS"] = ",".join(
    filter(None, (os.environ.get("PYTHONWARNINGS"), "ignore:the default receive buffer"))
)
# They would compile all modules anew, each of them: that takes most of the processor's time of a short one.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Whether an example comes in time says something of the machine. A test with `backend` is called with many examples for each of both.
with contextlib.suppress(ImportError):  # a part of the suite runs where only pytest is
    from hypothesis import HealthCheck, settings

    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    settings.register_profile("any machine", deadline=None, suppress_health_check=checks)
    settings.load_profile("any machine")

QUICK = "not (lab or long)"  # the expression in pyproject.toml: another one was given by the user, and is left as it is
ALL_TAKE = "25 minutes, as root with the lab's programs (README.md)"

# A pair of ends for IPv6, which has no multicast route on `lo`; both stay in the session's namespace.
OWN_NETWORK = """
link set lo up
link add mcast0 type veth peer name mcast1
addr add 10.78.0.1/24 dev mcast0
addr add 10.78.0.2/24 dev mcast1
link set mcast0 up
link set mcast1 up
route add 224.0.0.0/4 dev mcast0
"""


def has_fast() -> str:
    """Empty when the compiled backend can be imported, else the reason."""
    try:
        importlib.import_module("mcast_fast._core.fast.slots")
    except ImportError as error:
        return str(error)
    return ""


BACKENDS = [WANTED] if WANTED else ["fast", "pure"]


def own_network() -> None:
    """Move this process, while it has one thread, into a network namespace of its own; a worker of pytest-xdist, whose other
    thread only reads a pipe, into another one."""
    if lab.available() or (threading.active_count() > 1 and "PYTEST_XDIST_WORKER" not in os.environ):
        return
    lab.unshare_network()
    accept_dad = "/proc/sys/net/ipv6/conf/default/accept_dad"
    Path(accept_dad).write_text("0")
    subprocess.run(["ip", "-batch", "-"], input=OWN_NETWORK, text=True, check=True)


class Watchdog:
    """Ends the process, and shows the stacks of its threads, when a test hangs.

    One timer serves the tests of a minute: each is a native thread, whose start and end cost milliseconds on a busy machine,
    with pytest-timeout and pytest's own faulthandler_timeout for every test.
    """

    SPARE = 60.0

    def __init__(self) -> None:
        self.seconds = 0.0
        self._ends = 0.0
        self._stderr = 2

    def begin(self, seconds: float) -> None:
        """Take what a test may need, and keep the standard error, in whose place pytest puts a file."""
        self.seconds = seconds
        self._stderr = os.dup(2)

    def guard(self, seconds: float) -> None:
        """Leave what begins now at least these seconds, and at most SPARE more."""
        left = self._ends - time.monotonic()
        if not seconds <= left <= seconds + self.SPARE:
            self._ends = time.monotonic() + seconds + self.SPARE
            faulthandler.dump_traceback_later(seconds + self.SPARE, exit=True, file=self._stderr)

    def forget(self) -> None:
        """Know that nothing is guarded any more."""
        self._ends = 0.0


watchdog = Watchdog()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("hang_timeout", "seconds after which a test counts as hanging, and ends all", default="120")


def pytest_configure(config: pytest.Config) -> None:
    watchdog.begin(float(config.getini("hang_timeout")))
    if not config.option.collectonly:
        own_network()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    mark = item.get_closest_marker("hang_timeout")
    watchdog.guard(mark.args[0] if mark else watchdog.seconds)


def pytest_exception_interact() -> None:
    watchdog.forget()  # pytest ends the timer, for its user may debug now


def pytest_unconfigure() -> None:
    faulthandler.cancel_dump_traceback_later()


def pytest_report_header(config: pytest.Config) -> str | None:
    """Says which tests are left out by default, and how to run all of them."""
    if config.option.markexpr != QUICK:
        return None
    return f"mcast-fast: without the tests marked long or lab, unless named; `pytest -m ''` runs all: {ALL_TAKE}"


def named_tests(config: pytest.Config) -> list[tuple[Path, str]]:
    """The files that the command line names, each with the test in it that is named, or with ""."""
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        return []
    split = [argument.partition("::") for argument in config.args]
    paths = [(config.invocation_params.dir / path, name) for path, _, name in split]
    return [(path.resolve(), name) for path, name in paths if path.is_file()]


def is_named(item: pytest.Item, file: Path, name: str) -> bool:
    """Whether a test is in the file and, where a name is given, has that name, with any parameters."""
    own = item.nodeid.partition("::")[2]
    return item.path == file and (not name or own == name or own.startswith((f"{name}[", f"{name}::")))


def leave_out(config: pytest.Config, items: list[pytest.Item], out: list[pytest.Item]) -> None:
    """Deselect tests, so that the summary counts them."""
    config.hook.pytest_deselected(items=out)
    left_out = set(out)
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose the tests. A file or a test that is named runs whole, whatever its marks, where the default expression would leave it
    out; weekly tests run when they are named one by one or MCAST_FAST_WEEKLY is set. A lab test that cannot run is skipped
    by the feature's name; in CI that is a failure."""
    named = named_tests(config)
    if "MCAST_FAST_WEEKLY" not in os.environ:
        one_by_one = [(file, name) for file, name in named if name]
        weekly = [item for item in items if item.get_closest_marker("weekly")]
        leave_out(config, items, [item for item in weekly if not any(is_named(item, *one) for one in one_by_one)])
    if named and config.option.markexpr == QUICK:
        config.option.markexpr = ""  # pytest itself would leave out what is named, too
        slow = [item for item in items if item.get_closest_marker("long") or item.get_closest_marker("lab")]
        leave_out(config, items, [item for item in slow if not any(is_named(item, *one) for one in named)])
    reason = lab.available()
    if not reason or IN_CI:
        return
    for item in items:
        if item.get_closest_marker("lab"):
            item.add_marker(pytest.mark.skip(reason=f"network namespaces: {reason}"))


def take_out_of_the_collector() -> None:
    """Take what is there by now out of the garbage collector: thousands of tests, which each gc.collect() would go through."""
    if hasattr(gc, "freeze"):
        gc.freeze()


def pytest_collection_finish() -> None:
    gc.collect()
    take_out_of_the_collector()


@pytest.fixture(scope="session", autouse=True)
def interrupts_are_heard() -> None:
    """A shell without job control has what it starts in the background ignore Ctrl-C, and all that starts there."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each backend in turn: all modules use `_core.slots`, so that putting other modules there changes all of them."""
    name: str = request.param
    if name == "fast" and (missing := has_fast()):
        if IN_CI:
            pytest.fail(f"the compiled backend is missing: {missing}")
        pytest.skip(f"feature fast: {missing}")
    for module in _core.MODULES:
        monkeypatch.setattr(_core, module, importlib.import_module(f"mcast_fast._core.{name}.{module}"))
    monkeypatch.setattr(_core, "backend", name)
    return name


@functools.cache
def loopback() -> str:
    """The name of the loopback interface."""
    return next(one.name for one in interfaces() if one.is_loopback)


@functools.cache
def loopback_is_up() -> bool:
    return any(one.is_loopback and one.is_up for one in interfaces())


def can_bind(address: str) -> bool:
    """Whether the system binds an address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.bind((address, 0))
        return True
    return False


def interrupt_main() -> None:
    """Ctrl-C, from another thread: a real signal where a thread can be sent one."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    else:
        _thread.interrupt_main(signal.SIGINT)


def has_loopback_addresses() -> bool:
    """Whether what is sent from 127.0.0.2 comes from there (wine sends all from 127.0.0.1)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver, contextlib.suppress(OSError):
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind(("127.0.0.2", 0))
            sender.sendto(b"", receiver.getsockname())
            return receiver.recvfrom(1)[1][0] == "127.0.0.2"
    return False


def can_block_sources() -> bool:
    """Whether a source of a joined group can be refused (wine hands IP_BLOCK_SOURCE on with its addresses swapped)."""
    index, group, source = socket.if_nametoindex(loopback()), bytes([239, 1, 1, 1]), bytes([10, 9, 9, 9])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        _core.membership.join(probe, index, group)
        _core.membership.block(probe, index, group, source)
        return True
    return False


def has_large_buffers() -> bool:
    """Whether a receive buffer may hold what tests send at once, up to 1,000 packets (on Linux: root, or net.core.rmem_max)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is warned of once for the process: here, and in no test
        set_buffer(probe, None)
        return probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 2 << 20


def can_open_rings() -> bool:
    """Whether packet sockets may be opened, packet(7): by root, or with CAP_NET_RAW, where no sandbox refuses them."""
    if SYSTEM is not LINUX:
        return True  # where there are none, the feature `ring` is off
    with contextlib.suppress(OSError), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0):
        return True
    return False


def has_setsourcefilter() -> bool:
    """Whether the C library sets source filters (RFC 3678, 5.2); musl has no such function."""
    return SYSTEM is LINUX and hasattr(ctypes.CDLL(None), "setsourcefilter")


def kernel() -> tuple[int, ...]:
    """The version of Linux, (6, 1); (0,) elsewhere."""
    return tuple(map(int, platform.release().split("-")[0].split(".")[:2])) if SYSTEM is LINUX else (0,)


def has_symbolic_links() -> bool:
    """Whether a link is one: wine makes a copy."""
    with tempfile.TemporaryDirectory() as directory:
        link = Path(directory, "link")
        with contextlib.suppress(OSError):
            link.symlink_to(directory)
        return link.is_symlink()


def has_counting_malloc() -> bool:
    try:
        return SYSTEM is LINUX and malloc.allocated() > 0
    except AttributeError:
        return False


# What the tests themselves need of a system, beside the features of the library.
TOOLS = {
    "compiled modules": platform.python_implementation() == "CPython",  # elsewhere ours is not even looked for
    "timers": hasattr(signal, "setitimer"),
    "signals between threads": hasattr(signal, "pthread_kill"),
    "dscp": "IP_TOS" in _core.membership.OPTIONS,
    "signals to processes": hasattr(os, "fork"),
    "broken pipes": hasattr(signal, "SIGPIPE"),
    "reported refusals": hasattr(select, "poll"),  # an ICMP answer is an error of the socket that sent: not on Windows
    "poll": hasattr(select, "poll"),
    "recvmsg": hasattr(socket.socket, "recvmsg"),
    "answers of Linux": SYSTEM is LINUX,
    "events of Windows": SYSTEM is WINDOWS,
    "loopback addresses": has_loopback_addresses(),
    "blocked sources": can_block_sources(),
    "own addresses only": not can_bind("192.0.2.77"),  # RFC 5737: no machine's; wine binds it
    "super packets in rings": kernel() >= (6, 2),  # docs/fast.md
    "a fast machine": "MCAST_FAST_SLOW" not in os.environ,  # emulated ones say so: tests that want a rate
    "fine clock": time.get_clock_info("monotonic").resolution < 1e-3,
    "named threads": hasattr(os, "sched_getaffinity") and Path("/proc/self/task").is_dir(),
    "users": hasattr(os, "geteuid"),
    "modes of files": hasattr(os, "geteuid"),
    "setsourcefilter": has_setsourcefilter(),
    "mallinfo2": has_counting_malloc(),
    "large buffers": has_large_buffers(),
    "ring": can_open_rings(),  # beside the feature of that name
    "raw sockets": SYSTEM is LINUX and can_open_rings(),
    "system call filters": sandbox.NUMBERS is not None,
    "setcap": shutil.which("setcap") is not None,
    "named pipes": hasattr(os, "mkfifo"),
    "pipes that do not block": hasattr(os, "set_blocking"),
    "symbolic links": has_symbolic_links(),
    "cc": shutil.which("cc") is not None,
    "tshark": shutil.which("tshark") is not None,
    "ffmpeg": shutil.which("ffmpeg") is not None,
    "sockperf": shutil.which("sockperf") is not None,
    "ptp4l": shutil.which("ptp4l") is not None,
    "prometheus": shutil.which("prometheus") is not None,
    "promtool": shutil.which("promtool") is not None,
    **{name: importlib.util.find_spec(name) is not None for name in ("lcm", "opendis", "zeroconf")},
    "capinfos": shutil.which("capinfos") is not None,
    "writev": hasattr(os, "writev"),
    "pseudo terminals": importlib.util.find_spec("termios") is not None,
    "process limits": importlib.util.find_spec("resource") is not None,
}


@pytest.fixture(autouse=True)
def needed(request: pytest.FixtureRequest) -> None:
    """A test marked `needs(name, ...)` is skipped by the name of the feature, or the tool, that is missing."""
    if request.node.get_closest_marker("needs") is None:
        return
    if "backend" in request.fixturenames:
        request.getfixturevalue("backend")
    features = _core.features()
    for mark in request.node.iter_markers("needs"):
        for name in mark.args:
            if name in TOOLS and not TOOLS[name]:
                pytest.skip(f"feature {name}: this system has none")
            if name in features and not features[name]:
                pytest.skip(f"feature {name}: {features[name].reason}")
            assert name in TOOLS or name in features, f"needs({name!r}): no such feature or tool"


@functools.cache
def multicast_ipv6() -> Interface | None:
    """An interface that loops IPv6 multicast back: up, multicast-capable, and with an IPv6 address."""
    fit = [one for one in interfaces() if one.is_up and one.is_multicast and not one.is_loopback and one.ipv6]
    return fit[0] if fit else None


@pytest.fixture(params=[4, 6])
def place(request: pytest.FixtureRequest) -> "Place":
    """Where a test can send to itself, for each family."""
    return place_of(request.param)


@pytest.fixture
def group(place: "Place") -> str:
    """The text of a group there."""
    return place.group()


@pytest.fixture
def tx(backend: str, group: str) -> Iterator[Sender]:
    """What sends to it."""
    with Sender(group, ttl=0) as sender:
        yield sender


def place_of(version: int) -> "Place":
    """Where a test can send to itself by this family; skips the test where there is no such place."""
    if version == 4:
        if not loopback_is_up():
            pytest.skip("feature loopback: no loopback interface is up")
        return Place(4, loopback())
    interface = multicast_ipv6()
    if interface is None:
        pytest.skip("feature IPv6 multicast: no interface is up, multicast-capable and has an IPv6 address")
    return Place(6, interface.name)


class Place:
    """An interface that loops one family's multicast back, with ports nobody uses."""

    def __init__(self, version: int, interface: str) -> None:
        self.version = version
        self.interface = interface

    def group(self, number: int = 1, port: int | None = None) -> str:
        """The text of a group here; interface-local in IPv6, so that it stays on this machine."""
        port = port or free_port()
        return (
            f"239.1.1.{number}%{self.interface}:{port}"
            if self.version == 4
            else f"[ff11::{number:x}%{self.interface}]:{port}"
        )


def _ports() -> Iterator[int]:
    """Ports below those that systems give to sockets without a port of their own, so that no sender takes one in between; for
    each worker of pytest-xdist others."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = 12_000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first, begin = 20_000 + worker * size, os.getpid() % size
    return itertools.cycle([*range(first + begin, first + size), *range(first, first + begin)])


_PORTS = _ports()


def free_port() -> int:
    """A UDP port that nobody is bound to now, and that nobody gets by chance; another one each time."""
    for port in itertools.islice(_PORTS, 12_000):
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.bind(("::", port))
            return port
    raise AssertionError("no port from 20,000 to 32,000 is free")


# Under wine /proc is there, and tells of wine's own descriptors.
COUNTED = (Path("/proc/self/fd"), Path("/dev/fd")) if hasattr(os, "fork") else ()
DESCRIPTORS = next((path for path in COUNTED if path.is_dir()), None)


def descriptors() -> int:
    """How many descriptors this process has open; 0 where they cannot be counted."""
    return sum(1 for _ in DESCRIPTORS.iterdir()) if DESCRIPTORS else 0


def until(condition: Callable[[], T], seconds: float = 5.0) -> T:
    """What a condition answers, as soon as that is true; what it answered last after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < deadline:
        time.sleep(0.002)
    return answer


@pytest.fixture
def no_leak() -> Iterator[None]:
    """The test leaves as many descriptors open as it found."""
    before = descriptors()
    yield
    assert descriptors() == before
