"""Imports run downwards only, between the wings and inside them, held against every import, also those in functions."""

import ast
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mcast_fast

SOURCE = Path(__file__).parent.parent / "src" / "mcast_fast"

# The package, from the ground up. A row names what it may import, and all of that stands in rows above it; `errors` may
# be imported by all. Indented: the modules of a wing, and what of the same wing they may import. A new module needs a
# row here.
PACKAGE = """
_systems    :
errors      : _systems
_html       :
_version    :
_units      :
_iteration  : _units
groups      :
stats       : _html
_core       : _systems _html
    process     :
    lifetime    : process
    threads     :
    pairs       :
    layout      :
    coalescing  :
    protocols   :
    refusals    :
    addresses   : layout
    blocks      : layout
    lateness    :
    extraction  :
    matching    : extraction
    arrow       : layout addresses
    restore     :
    columns     : layout addresses
    rows        :
    fast        : rows restore columns blocks layout addresses lateness coalescing extraction matching
    pure        : rows restore columns arrow blocks layout protocols addresses lateness lifetime pairs coalescing extraction matching process
    __init__    : layout refusals fast pure
_guarded    : _core
_delivery   : _units _iteration _core _guarded
_source     : _units stats
sequence    : _html _units _core _delivery _guarded _source groups stats
    _format     :
    _tracker    : _format
    _ledger     :
    _arbiter    : _format _ledger
    _placement  : _format
    _flow_frames    : _format
    _assembler  : _format _placement _flow_frames
    __init__    : _format _tracker _ledger _arbiter _placement _flow_frames _assembler
_host       : _systems _core stats
    __init__        :
    netlink         :
    ifreq           :
    igmp_version    :
    hardware_clock  : ifreq
    privileges      :
    dumps           : netlink
    qdiscs          : netlink dumps
    nic_drops       : netlink
    stack_counters  :
    offloads        : ifreq
    unlisted        : ifreq
    addresses       : netlink dumps unlisted
    routes          : netlink dumps
    interfaces      : ifreq offloads unlisted addresses routes
    links           : netlink dumps
    port_users      : netlink dumps interfaces
    coalescing      : links offloads port_users interfaces
    changes         : netlink
    events          : changes
    news            : netlink changes events
    watch           : ifreq interfaces changes news
_membership : _systems _html _units _core _host groups stats
    __init__        :
    desired         :
    sockets         : desired
    bpf             :
    rings           : bpf sockets
    given           : desired sockets
    plan            : desired sockets given
    joins           : desired sockets given plan
    coalescing      : sockets joins
    memberships     :
    arguments       : rings sockets
    own_addresses   :
    subscriptions   : desired plan joins memberships
_sending    : _systems _units _core _host _membership groups stats
    __init__        :
    destinations    :
    outgoing        : destinations
    sockets         :
    schedule        : destinations
    arguments       : sockets
    answers         : outgoing sockets
    routing         : destinations outgoing sockets answers
    own_sockets     : destinations outgoing sockets
_receiving  : _units _iteration _core
receiver    : _units _receiving _core _host _membership _sending groups stats sequence
sender      : _units _core _membership _sending groups stats
files       : _systems _version _units _core _guarded _delivery _membership _sending groups stats sequence receiver sender
    _optional       :
    _unpacking      :
    _streams        : _unpacking
    _pcapng         :
    _writer         : _streams _pcapng
    _skipped        :
    _input          : _unpacking
    _reader         : _unpacking _input _streams _skipped
    _summary        : _reader
    _repair         : _streams _reader _unpacking
    _convert        : _optional _streams _writer _reader
    _limits         : _streams
    _postrotate     :
    _index          : _streams _reader
    _frames         : _optional
    _scan           : _optional _reader _index _frames
    _blocks         :
    _merge          : _streams _pcapng _blocks _scan
    _recorded       :
    _recorder       : _streams _writer _limits _postrotate _index _recorded _reader
    _spacing        :
    _replay         : _streams _reader _spacing
    __init__        : _writer _reader _limits _recorded _recorder _replay _scan _merge
aio         : _units _iteration _source _core _membership _sending groups stats sequence receiver sender
    _trio           :
    _loops          : _trio
    _waiting        : _loops
    _receiver       : _loops _waiting
    _sender         : _loops _waiting
    _arbiter        : _loops _waiting _receiver
    __init__        : _receiver _sender _arbiter
monitor     : _version _units _core _host _membership _receiving receiver sequence stats files
    _stream         :
    _wire           :
    _monitor        : _stream _wire
    _families       : _stream
    _server         :
    _exporter       : _stream _wire _monitor _families _server
    __init__        : _stream _wire _monitor _exporter
doctor      : _systems _version _units _core _host _membership _sending groups receiver sender
    _finding        :
    _frames         :
    _rules          :
    _readings       : _rules
    _feeds          : _frames
    _wire           : _frames
    _listening      : _frames _feeds _wire
    _context        : _finding _rules _readings _feeds _listening
    _host           : _finding _listening _context
    _interface      : _finding _readings _feeds _listening _context
    _membership     : _finding _readings _feeds _listening _context
    _routing        : _finding _readings _feeds _context
    _firewall       : _finding _rules _readings _feeds _context
    _packets        : _finding _feeds _context
    _buffers        : _finding _readings _feeds _context
    _sender         : _finding _readings _feeds _context
    _switch         : _finding _feeds _context
    _clock          : _finding _context
    _containers     : _finding _context
    _examination    : _finding _readings _feeds _context _host _interface _membership _routing _firewall _packets _buffers _sender _switch _clock _containers
    _text           : _finding _examination
    __main__        : _examination _text
    _probe_counts   :
    _probe_wire     : _probe_counts
    _probe_peer     : _probe_counts _probe_wire
    _probe_state    : _probe_peer _probe_wire
    _probe_report   : _finding _probe_counts
    _probe_faults   : _finding _probe_report
    _probe_verdicts : _probe_report _probe_faults _probe_wire
    _probe_matrix   : _probe_counts _probe_wire _probe_state _probe_report _probe_faults _probe_verdicts
    _probe_ends     : _probe_peer _probe_state
    _probe          : _probe_wire _probe_peer _probe_state _probe_report _probe_faults _probe_matrix _probe_ends
    __init__        : _finding _examination _probe_counts _probe_report _probe
_report     : _version _units _core stats receiver sequence files monitor doctor
    markup          :
    grid            :
    packets         : grid
    losses          : grid
    figures         : grid losses
    collect         : grid packets losses figures
    legs            : collect
    text            : figures
    style           :
    charts          : grid markup text
    pictures        : figures markup text style charts
    table           : figures markup text pictures
    page            : figures markup text style pictures table
    __init__        :
_bench      : _units _core _host groups receiver sender sequence doctor
    trial           :
    search          : trial
    words           : trial
    load            : trial
    counting        : trial
    measure         : trial search load counting
    wire            : trial
    hosts           : trial counting measure wire
    __init__        :
cluster     : _units _core _delivery groups stats sequence receiver sender files
    _schema         :
    _plan           : _schema
    _deal           : _plan
    _heartbeat      : _plan
    _clock          :
    _spans          :
    _runs           : _spans
    _numbers        : _spans _runs
    _survey         : _runs _numbers
    _whole          :
    _manifest       : _schema _plan _clock _runs _survey _whole
    _station        : _plan _deal _heartbeat _clock _manifest
    _table          : _manifest _whole
    _flows          : _spans _runs _survey
    _verify         : _flows _manifest
    _tasks          : _manifest _survey
    _engine         : _tasks
    _catalogue      : _plan _manifest _table _tasks _engine
    _streams        :
    _captures       : _plan _survey _manifest _flows _tasks _engine _catalogue _streams
    __init__        : _plan _deal _clock _manifest _flows _engine _catalogue _captures
cli         : _version _units _core _host _sending groups stats sequence receiver sender files doctor _membership monitor _report _bench cluster
    codes           :
    words           :
    examples        :
    rtp             :
    match           : words
    options         : match
    output          : words
    top_keys        :
    top_view        : output top_keys
    streams         : output top_view
    flows           : output
    signals         : output
    contents        : output
    progress        : output
    metrics         : output
    demo            : output options
    receive         : codes output options signals flows metrics progress rtp match streams
    check           : codes output options signals flows metrics contents progress
    arbitrate       : codes output options signals metrics contents progress
    send            : codes output options progress rtp
    record          : codes output options signals flows metrics progress match streams
    replay          : codes output options contents progress
    info            : codes output options flows contents
    convert         : codes output options
    merge           : codes output options
    repair          : options output
    interfaces      : options output
    doctor          : output options signals
    probe           : codes output options signals
    top             : codes output options signals metrics top_keys top_view
    report          : codes output options signals
    bench           : codes output options signals
    plan            : codes options output
    manifest        : codes options output
    help            : options
    version         : options
    completion      :
    man             : codes examples options
    __init__        : codes examples output words demo receive send record replay check arbitrate info convert merge repair interfaces doctor probe top report bench plan manifest help version completion man
_pyinstaller :
__main__    : _version _core cli
__init__    : _version _core _host _source _membership groups stats sequence receiver sender files aio doctor monitor cluster
"""

# For the type checker only: it is told that the backend is `fast`, whose .pyi files are the contract of both. One arrow
# runs upwards, and is a type alone.
UPWARDS_FOR_TYPES = {("_membership.joins", "_membership.rings")}

# What users may import. Every other module has an underscore, or is in a wing that has one.
PUBLIC = {
    "__init__",
    "__main__",
    "errors",
    "groups",
    "stats",
    "receiver",
    "sender",
    "files",
    "aio",
    "sequence",
    "monitor",
    "cluster",
    "doctor",
    "cli",
}
NO_API = {"cli"}  # the program


def table(text):
    """Wing -> what it may import, and wing -> module -> what it may import of its own wing, in the order written."""
    between, inside = {}, {}
    for line in text.strip().splitlines():
        name, allowed = (part.strip() for part in line.split(":"))
        rows = inside.setdefault(next(reversed(between)), {}) if line[0] == " " else between
        assert name not in rows, f"two rows of {name}"
        rows[name] = allowed.split()
    return between, inside


BETWEEN, INSIDE = table(PACKAGE)
CYTHON_IMPORT = re.compile(
    r"^\s*(?:from\s+(mcast_fast[\w.]*)\s+c?import\s+(.+)|c?import\s+(mcast_fast[\w.]*))", re.MULTILINE
)


def files(*suffixes):
    return sorted(path for path in SOURCE.rglob("*") if path.suffix in suffixes)


SOURCES = files(".py", ".pyi", ".pyx", ".pxi")


def place_of(module):
    """(wing, module of the wing) of a dotted name below the package; a module at the top is a wing of its own."""
    wing, _, below = module.partition(".")
    return (wing, below.partition(".")[0] or "__init__") if wing in INSIDE else (wing or "__init__", "")


def place_of_file(path):
    parts = list(path.relative_to(SOURCE).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return place_of(".".join(parts))


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
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


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


@functools.cache
def imports_of(path):
    text = path.read_text("utf-8")
    return set(imports_of_cython(text) if path.suffix in (".pyx", ".pxi") else imports_of_python(ast.parse(text)))


def may_import(place, other, for_types):
    """Whether what is at one place may import what is at another."""
    (wing, module), (other_wing, other_module) = place, other
    if place == other or other_wing == "errors" != wing:
        return True
    if wing == other_wing:
        dotted = f"{wing}.{module}", f"{wing}.{other_module}"
        return other_module in INSIDE[wing][module] or (for_types and dotted in UPWARDS_FOR_TYPES)
    return other_wing in BETWEEN[wing]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_file_imports_only_what_its_row_names(path):
    place = place_of_file(path)
    wing, module = place
    assert wing in BETWEEN, f"{wing} has no row in PACKAGE; say what it may import"
    assert not module or module in INSIDE[wing], f"{wing}.{module} has no row in PACKAGE; say what it may import"
    for imported, for_types in imports_of(path):
        assert imported, "nothing imports the package root"
        other = place_of(imported)
        if other == ("_core", "fast") and for_types and wing != "_core":
            continue
        assert may_import(place, other, for_types), f"{'.'.join(filter(None, place))} may not import {imported}"


@pytest.mark.parametrize("rows", [BETWEEN, *INSIDE.values()], ids=["wings", *INSIDE])
def test_the_arrows_run_downwards_only(rows):
    above = set()
    for name, allowed in rows.items():
        assert set(allowed) <= above, (
            f"{name} is above {sorted(set(allowed) - above)}: rows name what stands above them"
        )
        above.add(name)


def test_every_row_is_a_module_and_every_arrow_is_needed():
    """A row that is left over, or names what is not imported any more, would hide the next wrong import."""
    used, within = {}, {}
    for path in SOURCES:
        wing, module = place_of_file(path)
        for imported, _ in imports_of(path):
            other_wing, other_module = place_of(imported)
            if other_wing == wing:
                within.setdefault(wing, {}).setdefault(module, set()).add(other_module)
            else:
                used.setdefault(wing, set()).add(other_wing)
    loaded = {("_core", "__init__"), ("cli", "__init__")}  # by importlib: the backends, the verbs
    for wing, allowed in BETWEEN.items():
        assert is_module(wing), wing
        assert set(allowed) <= used.get(wing, set()), f"{wing} imports less than its row names"
        for module, inner in INSIDE.get(wing, {}).items():
            assert is_module(f"{wing}.{module}"), f"{wing}.{module}"
            if (wing, module) not in loaded:
                reached = within.get(wing, {}).get(module, set())
                assert set(inner) <= reached, f"{wing}.{module} imports less than its row names"


def test_what_is_not_public_has_an_underscore():
    for path in SOURCE.rglob("*"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if path not in SOURCES or parts[0] in NO_API or any(part.startswith("_") for part in parts):
            continue
        assert ".".join(parts) in PUBLIC, f"{path} is public by its name; give it an underscore, or a row in PUBLIC"


@pytest.mark.parametrize("wing", ["", "files", "cluster"])
def test_what_is_imported_when_asked_for_is_what_the_type_checker_sees(wing):
    """The table of names, `__all__`, and the imports for the type checker say the same."""
    tree = ast.parse((SOURCE / wing / "__init__.py").read_text("utf-8"))
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id in ("_WHERE", "_MODULES", "__all__")
    }
    (block,) = (node for node in tree.body if is_for_types(node))
    seen = {
        alias.asname or alias.name: node.module.removeprefix(f"mcast_fast.{wing}").removeprefix(".")
        for node in block.body
        for alias in node.names
    }
    modules = dict.fromkeys(values.get("_MODULES", ()), "mcast_fast")
    chosen = dict.fromkeys(("Batch", "Packet"), "_core.fast.views") if not wing else {}  # by the backend
    assert seen == values["_WHERE"] | modules | chosen
    assert set(values["_WHERE"]) <= set(values["__all__"])


@pytest.mark.long
@pytest.mark.parametrize(
    "module", ["mcast_fast", *(f"mcast_fast.{wing}" for wing in ("files", "aio", "sequence", "doctor", "cluster"))]
)
def test_every_exported_name_is_there(module):
    """In an interpreter of its own: each name is asked for first, and `dir()` lists it."""
    code = (
        f"import importlib; module = importlib.import_module({module!r})\n"
        "missing = set(module.__all__) - set(dir(module))\n"
        "assert not missing, missing\n"
        "for name in module.__all__: getattr(module, name)\n"
        "try: module.no_such_name\n"
        "except AttributeError as error: assert 'no_such_name' in str(error)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_root_imports_the_core_alone():
    """What costs time comes when it is first asked for."""
    code = "import sys, mcast_fast; print(*(name for name in sys.modules if name.startswith('mcast_fast.')))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    wings = {name.split(".")[1] for name in done.stdout.split()}
    assert wings == {"_core", "_systems", "_version", "errors"}


# What `import mcast_fast` may load of the standard library with the compiled backend, beside modules with an underscore: each costs
# everybody who imports the package. What comes with another one is behind it. ipaddress is among them for the repr of what is unclosed
# when the interpreter ends, where nothing can be imported any more.
STANDARD_LIBRARY = """
os          genericpath ntpath posixpath stat
errno
importlib   importlib.machinery warnings
enum        types functools collections itertools keyword operator reprlib
socket      select selectors math array
ipaddress
struct
typing      collections.abc contextlib re copyreg annotationlib ast
"""


@pytest.mark.needs("compiled modules")
def test_the_root_loads_no_more_of_the_standard_library():
    code = (
        "import sys; before = set(sys.modules); import mcast_fast\n"
        "print(*(name for name in sys.modules.keys() - before if name.split('.')[0] in sys.stdlib_module_names))"
    )
    environment = os.environ | {"MCAST_FAST_BACKEND": "fast", "PYTHONPATH": str(Path(mcast_fast.__file__).parents[1])}
    command = [sys.executable, "-S", "-c", code]  # what is installed beside it may load more at the start
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    loaded = {name for name in done.stdout.split() if not any(part.startswith("_") for part in name.split("."))}
    extra = loaded - set(STANDARD_LIBRARY.split()) - {"os.path", "typing.io", "typing.re"}
    assert not extra


@pytest.mark.parametrize("other", [("fast", "pure"), ("pure", "fast")])
def test_the_backends_do_not_know_each_other(other):
    mine, theirs = other
    for path in (SOURCE / "_core" / mine).iterdir():
        if path in SOURCES:
            assert all(not module.startswith(f"_core.{theirs}") for module, _ in imports_of(path))


def test_only_the_core_reads_the_choice_of_backend():
    naming = {
        path.relative_to(SOURCE).as_posix() for path in SOURCES if "MCAST_FAST_BACKEND" in path.read_text("utf-8")
    }
    assert naming == {"_core/__init__.py"}


def test_only_the_core_asks_which_backend_runs():
    """Wings above the core name neither backend outside of TYPE_CHECKING."""
    for path in SOURCES:
        if place_of_file(path)[0] == "_core":
            continue
        reached = {module for module, for_types in imports_of(path) if not for_types}
        assert not any(module.startswith(("_core.fast", "_core.pure")) for module in reached), path


def test_numpy_and_ifaddr_are_imported_when_first_needed():
    """NumPy is never required, and ifaddr only to list interfaces: no file imports them at its top."""
    for path in files(".py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]}
            else:
                continue
            assert not names & {"numpy", "ifaddr"}, path


def test_only_the_table_of_systems_asks_which_one_this_is():
    asking = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCES
        if re.search(r"sys\.platform\b(?!`)", path.read_text("utf-8"))
    }
    assert asking == {"_systems.py"}
