"""Imports run downwards only: which room may import which, held against every import, also those inside functions."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "mcast_fast"

# Room -> the rooms it may import; `errors` may be imported by all. A new room needs a row here.
ROOMS = """
systems         :
errors          : systems
_version        :
_process        :
_threads        :
_lifecycle      : _process
units           :
_lifetime       : _process
groups          :
igmp            :
netlink         :
stats           :
nic             : netlink sockets
hardware        :
qdiscs          : netlink
interfaces      : netlink groups systems
watch           : _threads interfaces netlink stats systems
_core.layout    :
_core.addresses : _core.layout
_core.blocks    :
_core.lateness  :
_core.arrow     : _core.layout _core.addresses
_core.restore   :
_core.fast      : _core.restore _core.blocks _core.layout _core.addresses _core.lateness
_core.pure      : _core.restore _core.arrow _core.blocks _core.layout _core.addresses _core.lateness _lifetime systems
_core           : _core.layout _core.fast _core.pure systems
membership      : _core.addresses groups interfaces units
sockets         : _core _core.layout _core.addresses hardware membership systems
bpf             : _core.addresses
rings           : bpf sockets units
plan            : membership sockets
joins           : _core _core.addresses membership plan sockets
subscriptions   : _core _core.addresses groups igmp interfaces joins membership plan stats units watch
streams         :
pcapng          : _lifecycle _version _core _core.blocks stats streams units
reader          : _lifecycle _process _core _core.blocks _core.layout groups membership stats streams units
captures        : _core.blocks reader stats streams units
conversion      : _core _core.addresses _core.layout pcapng reader streams
receiver        : _core _core.layout _core.addresses groups joins membership nic rings sockets stats subscriptions units watch
sending         : _core interfaces qdiscs sockets stats systems
outgoing        : _core groups interfaces units
sender          : _core _core.lateness _core.layout _core.addresses groups interfaces membership outgoing sending sockets stats units
rotation        : streams units
postrotate      : systems
privileges      :
replay          : _threads _core groups reader sender streams units
recorder        : _lifecycle pcapng postrotate receiver rotation stats streams units
waiting         : _process _threads units
aio             : _core groups outgoing receiver sender stats subscriptions units waiting
cli             : _version _core _core.layout captures conversion groups interfaces outgoing pcapng privileges reader receiver recorder replay rotation sender stats streams units
__main__        : cli
__init__        : _version _core _core.layout groups interfaces pcapng reader receiver recorder replay rotation sender stats subscriptions
"""

# For the type checker only: it is told that the backend is `fast`, whose .pyi files are the contract of both.
FOR_TYPES = """
rings           : _core.fast
joins           : _core.fast rings
pcapng          : _core.fast
reader          : _core.fast
captures        : _core.fast
conversion      : _core.fast
receiver        : _core.fast
recorder        : _core.fast
replay          : _core.fast
outgoing        : _core.fast
sender          : _core.fast
aio             : _core.fast
cli             : _core.fast
"""


def table(text):
    return {room.strip(): set(rooms.split()) for room, rooms in (line.split(":") for line in text.strip().splitlines())}


BELOW, ONLY_FOR_TYPES = table(ROOMS), table(FOR_TYPES)
EVERYBODY = {"errors"}
CYTHON_IMPORT = re.compile(
    r"^\s*(?:from\s+(mcast_fast[\w.]*)\s+c?import\s+(.+)|c?import\s+(mcast_fast[\w.]*))", re.MULTILINE
)


def files(*suffixes):
    return sorted(path for path in SOURCE.rglob("*") if path.suffix in suffixes)


def room_of(module):
    """The room of a module's name below the package: '_core.fast.slots' lives in '_core.fast'."""
    parts = module.split(".") if module else ["__init__"]
    if parts[0] == "_core":
        parts = parts[:2] if ".".join(parts[:2]) in BELOW else parts[:1] if len(parts) == 1 else parts[:2]
        return ".".join(parts)
    return parts[0]


def room_of_file(path):
    parts = list(path.relative_to(SOURCE).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return room_of(".".join(parts))


def is_module(dotted):
    path = SOURCE.joinpath(*dotted.split("."))
    return path.is_dir() or any(path.with_suffix(end).exists() for end in (".py", ".pyx", ".pyi"))


def modules_named(origin, names):
    """What `from mcast_fast.ORIGIN import NAMES` reaches: modules among the names, else the origin itself."""
    found = set()
    for name in names:
        dotted = f"{origin}.{name}" if origin else name
        found.add(dotted if is_module(dotted) else origin)
    return found


def is_for_types(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of_python(tree):
    """(module below the package, whether only for the type checker) for every import in a tree."""
    for_types = {
        id(inner) for node in ast.walk(tree) if is_for_types(node) for part in node.body for inner in ast.walk(part)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            if (node.module or "").split(".")[0] == "mcast_fast":
                origin = (node.module or "").partition(".")[2]
                for module in modules_named(origin, [alias.name for alias in node.names]):
                    yield module, id(node) in for_types
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "mcast_fast":
                    yield alias.name.partition(".")[2], id(node) in for_types


def imports_of_cython(text):
    for match in CYTHON_IMPORT.finditer(text):
        origin = (match[1] or match[3]).partition(".")[2]
        names = re.split(r"[,\s()]+", match[2] or "")
        for module in modules_named(origin, [name for name in names if name] or [""]):
            yield module.rstrip("."), False


def imports_of(path):
    text = path.read_text()
    return set(imports_of_cython(text) if path.suffix in (".pyx", ".pxi") else imports_of_python(ast.parse(text)))


SOURCES = files(".py", ".pyi", ".pyx", ".pxi")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_what_its_room_may(path):
    room = room_of_file(path)
    assert room in BELOW, f"the room {room} has no row in BELOW; say what it may import"
    for module, for_types in imports_of(path):
        assert module, "nothing imports the package root"
        allowed = BELOW[room] | EVERYBODY | {room} | (ONLY_FOR_TYPES.get(room, set()) if for_types else set())
        assert room_of(module) in allowed, f"{room} may not import mcast_fast.{module}"


def test_the_arrows_run_downwards_only():
    """No circle, types included: each room comes after all that it imports."""
    placed, order = set(), list(BELOW)
    while order:
        free = [room for room in order if BELOW[room] | ONLY_FOR_TYPES.get(room, set()) <= placed]
        assert free, f"a circle among {order}"
        placed |= set(free)
        order = [room for room in order if room not in placed]


def test_no_arrow_is_left_over_for_types():
    """What is listed apart is really needed."""
    used = {}
    for path in SOURCES:
        for module, for_types in imports_of(path):
            if for_types and room_of(module) not in BELOW[room_of_file(path)] | EVERYBODY:
                used.setdefault(room_of_file(path), set()).add(room_of(module))
    assert {room: rooms - EVERYBODY - {room} for room, rooms in used.items()} == ONLY_FOR_TYPES


@pytest.mark.parametrize("other", [("fast", "pure"), ("pure", "fast")])
def test_the_backends_do_not_know_each_other(other):
    mine, theirs = other
    for path in (SOURCE / "_core" / mine).iterdir():
        if path in SOURCES:
            assert all(not module.startswith(f"_core.{theirs}") for module, _ in imports_of(path))


def test_only_the_core_reads_the_choice_of_backend():
    naming = {path.relative_to(SOURCE).as_posix() for path in SOURCES if "MCAST_FAST_BACKEND" in path.read_text()}
    assert naming == {"_core/__init__.py"}


def test_only_the_core_asks_which_backend_runs():
    """Rooms above the core name neither backend outside of TYPE_CHECKING."""
    for path in SOURCES:
        if room_of_file(path).startswith("_core"):
            continue
        reached = {module for module, for_types in imports_of(path) if not for_types}
        assert not any(module.startswith(("_core.fast", "_core.pure")) for module in reached), path


def test_numpy_and_ifaddr_are_imported_when_first_needed():
    """NumPy is never required, and ifaddr only to list interfaces: no file imports them at its top."""
    for path in files(".py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]}
            else:
                continue
            assert not names & {"numpy", "ifaddr"}, path


def test_only_the_table_of_systems_asks_which_one_this_is():
    asking = {
        path.relative_to(SOURCE).as_posix() for path in SOURCES if re.search(r"sys\.platform\b(?!`)", path.read_text())
    }
    assert asking == {"systems.py"}
