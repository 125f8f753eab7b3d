"""The public face: what wraps another call takes the same arguments, and groups may come in a sequence."""

import ast
import asyncio
import builtins
import contextlib
import enum
import importlib
import inspect
import io
import pickle
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import mcast_fast as mcast
from mcast_fast import _core, aio, cluster, doctor, files, monitor, receiver, sender
from mcast_fast._membership import arguments as receiver_arguments
from mcast_fast._sending import arguments as sender_arguments
from tests.conftest import free_port, loopback
from tests.test_pcapng import NOW, batch_of, record

GROUPS = ("*groups", "groups")


def parameters(call):
    """Every parameter of a call as text, but the `self` of a class: kind, type and default."""
    return {str(one).partition(":")[0].partition("=")[0]: one for one in inspect.signature(call).parameters.values()}


# What wraps another class, and what it has of its own.
WRAPPERS = {
    "aio.Receiver": (aio.Receiver, receiver.Receiver, {"linger"}),
    "aio.Sender": (aio.Sender, sender.Sender, set()),
    "open": (mcast.open, files.Reader, set()),
}


@pytest.mark.parametrize(("wrapper", "wrapped", "own"), WRAPPERS.values(), ids=WRAPPERS.keys())
def test_a_wrapper_has_the_parameters_of_what_it_wraps(wrapper, wrapped, own):
    mine, theirs = parameters(wrapper), parameters(wrapped)
    for name in GROUPS:
        mine.pop(name, None)
        theirs.pop(name, None)
    for name in own:
        assert mine.pop(name).default is not inspect.Parameter.empty
    assert mine == theirs
    assert list(mine) == list(theirs)
    assert not any(one.kind is one.VAR_KEYWORD for one in mine.values())


SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Examples):\n((?:    .*\n|\n)*)", re.MULTILINE)


def sections(text):
    """The sections of a docstring in Google style, by their titles."""
    return {title: inspect.cleandoc(body) for title, body in SECTION.findall(inspect.cleandoc(text) + "\n")}


def arguments(text):
    """The names, and the texts, of the `Args:` of a docstring."""
    return dict(re.findall(r"^\*{0,2}(\w+): ((?:.+\n?)(?:^    .+\n?)*)", sections(text).get("Args", ""), re.MULTILINE))


@pytest.mark.parametrize("call", [receiver.Receiver, sender.Sender, files.Reader, mcast.open])
def test_every_parameter_is_explained(call):
    assert list(arguments(call.__doc__)) == [name.lstrip("*") for name in parameters(call)]


def test_open_explains_its_arguments_as_the_reader_does():
    mine, theirs = arguments(mcast.open.__doc__), arguments(files.Reader.__doc__)
    assert {name: text for name, text in mine.items() if name != "groups"} == {
        name: text for name, text in theirs.items() if name != "groups"
    }


def test_the_choices_of_a_type_are_those_that_are_taken():
    assert (*get_args(receiver_arguments.Timestamps), None) == receiver_arguments.TIMESTAMPS
    assert get_args(sender_arguments.Pacing) == sender_arguments.PACINGS


# ---- several groups in one argument ----


def two_groups():
    port = free_port()
    return [f"239.9.1.{number}%{loopback()}:{port}" for number in (1, 2)]


def groups_of(memberships):
    return [one.group for one in memberships]


@pytest.mark.parametrize("kind", [list, tuple, iter, lambda texts: [mcast.Group.parse(text) for text in texts]])
def test_groups_in_a_sequence(backend, kind):
    texts = two_groups()
    with mcast.Receiver(kind(texts)) as rx:
        assert groups_of(rx.memberships) == ["239.9.1.1", "239.9.1.2"]
    with mcast.Sender(kind(texts), ttl=0) as tx:
        assert [str(group) for group in tx.groups] == texts


def test_groups_in_a_sequence_and_alone(backend):
    first, second = two_groups()
    with mcast.Receiver([first], second) as rx:
        assert groups_of(rx.memberships) == ["239.9.1.1", "239.9.1.2"]


def test_groups_in_a_sequence_in_asyncio(backend):
    async def main():
        texts = two_groups()
        async with aio.Receiver(texts) as rx, aio.Sender(texts, ttl=0) as tx:
            return groups_of(rx.memberships), [str(group) for group in tx.groups] == texts

    assert asyncio.run(main()) == (["239.9.1.1", "239.9.1.2"], True)


@pytest.mark.parametrize("call", [files.Reader, mcast.open])
def test_groups_in_a_sequence_of_a_file(backend, call):
    file = io.BytesIO()
    with files.Writer(file) as writer:
        writer.write(batch_of((record(b"x", NOW), b"x")))
    for groups, count in ((["239.9.9.8", "239.9.9.9"], 0), ([], 1)):
        file.seek(0)
        with call(file, groups) as reader:
            assert len(reader.collect(10)) == count


@pytest.mark.parametrize("call", [mcast.Receiver, mcast.Sender, aio.Receiver, aio.Sender])
def test_no_group_in_a_sequence(backend, call):
    with pytest.raises(mcast.ArgumentError, match="no group given"):
        call([])


@pytest.mark.parametrize("wrong", [[b"239.1.1.1:5000"], b"239.1.1.1:5000", [["239.1.1.1:5000"]], [5]])
def test_what_is_no_group_in_a_sequence(backend, wrong):
    with pytest.raises(mcast.GroupError):
        mcast.Receiver(wrong)


# ---- repr ----


def test_a_receiver_names_its_groups(backend):
    name, port = loopback(), free_port()
    with mcast.Receiver(f"239.9.1.1%{name}:{port}") as rx:
        assert repr(rx) == f"<Receiver of 239.9.1.1%{name}:{port}, on 1 socket>"
        rx.join("239.9.1.2+1000")
        shown = ", ".join(f"239.9.1.{number}%{name}:{port}" for number in (1, 2, 3))
        assert repr(rx).startswith(f"<Receiver of {shown} and 998 more, on ")
        rx.leave("239.9.1.2+1000")
        rx.leave("239.9.1.1")
        assert repr(rx).startswith("<Receiver of no group, on ")
    assert repr(rx).endswith(", closed>")


@pytest.mark.needs("watch")
def test_a_receiver_names_groups_that_wait_for_an_interface(backend):
    with mcast.Receiver("239.9.1.1%later0:5000", "[ff15::1%later0]:5000", watch=True) as rx:
        assert repr(rx) == "<Receiver of 239.9.1.1%later0:5000, [ff15::1%later0]:5000, on 0 sockets>"


def test_the_receiver_of_asyncio_names_its_groups(backend):
    text = f"239.9.1.1%{loopback()}:{free_port()}"
    with contextlib.closing(aio.Receiver(text)) as rx:
        assert repr(rx) == f"<aio <Receiver of {text}, on 1 socket>>"


# ---- names ----

ROOT = Path(__file__).parent.parent
MODULES = {
    name: importlib.import_module(name)
    for name in (
        "mcast_fast",
        "mcast_fast.aio",
        "mcast_fast.cluster",
        "mcast_fast.doctor",
        "mcast_fast.errors",
        "mcast_fast.files",
        "mcast_fast.groups",
        "mcast_fast.monitor",
        "mcast_fast.receiver",
        "mcast_fast.sender",
        "mcast_fast.sequence",
        "mcast_fast.stats",
    )
}
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").glob("*.py"))]
NAMES = [(module, name) for module, thing in MODULES.items() for name in thing.__all__]
CLASSES = [(module, name) for module, name in NAMES if inspect.isclass(getattr(MODULES[module], name))]


def test_the_root_has_few_names():
    assert sorted(mcast.__all__) == mcast.__all__
    assert set(mcast.__all__) >= {"Receiver", "Sender", "Source", "open", "features", "backend"}
    assert len(mcast.__all__) <= 32


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda one: one)
def test_an_exported_name_is_documented(module, name):
    """In the list of docs/api.md, and by a docstring of its own."""
    listed_there = (ROOT / "docs" / "api.md").read_text("utf-8").partition(f"## `{module}`\n")[2].partition("\n## ")[0]
    assert f"`{name}`" in listed_there
    thing = getattr(MODULES[module], name)
    if inspect.isclass(thing) or inspect.isroutine(thing):
        assert thing.__doc__


def test_the_list_of_names_has_no_other_ones():
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    sections = re.findall(r"^## `([\w.]+)`\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert [module for module, _ in sections] == list(MODULES)
    for module, section in sections:
        rows = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
        assert sorted(rows) == sorted(MODULES[module].__all__), module


@pytest.mark.filterwarnings("error::DeprecationWarning")
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_name_in_the_documents_exists(path):
    for dotted in re.findall(r"\b(?:mcast|mcast_fast)\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", path.read_text("utf-8")):
        pkgutil.resolve_name(f"mcast_fast.{dotted}")


@pytest.mark.parametrize(("module", "name"), CLASSES, ids=lambda one: one)
def test_a_class_says_where_it_is_exported(module, name):
    thing = getattr(MODULES[module], name)
    assert thing.__module__ in MODULES
    assert getattr(MODULES[thing.__module__], name) is thing


# What can be pickled, and is public.
VALUES = [
    lambda: mcast.interfaces()[0],
    lambda: mcast.Group.parse("10.0.0.5@232.1.1.1%eth0:5000"),
    lambda: mcast.Group.parse("232.1.1.1").scope,
    lambda: mcast.Stats(received=5),
    lambda: mcast.SenderStats(datagrams=5),
    lambda: mcast.Flag.TTL,
    lambda: mcast.Membership("239.1.1.1", 5000, "lo", "exclude", ()),
    lambda: files.ReaderStats(frames=5),
    lambda: files.WriterStats(packets=5),
    lambda: files.Rotation(packets=5),
    lambda: files.RecordedFile("a", 1, 2),
    lambda: mcast.features()["fast"],
    lambda: doctor.ProbeCount(expected=5),
    lambda: doctor.ProbeReport(
        "239.1.1.1%lo:5000", 1.0, (doctor.ProbeHost("12", "a"),), (doctor.ProbeLink("12", "34"),)
    ),
    lambda: doctor.Finding("packets.none", "problem", "nothing came"),
    lambda: doctor.Report((), 1.0),
    lambda: cluster.Problem("missing", "alpha", "a.pcapng", "it is not there"),
    lambda: cluster.Flow("239.1.1.1", 5000, "10.0.0.1", hosts=(cluster.HostFlow("alpha", 5),)),
    lambda: cluster.File("alpha", "a.pcapng", 5),
    lambda: monitor.Stream("239.1.1.1", 5000, None, "lo", monitor.StreamState.WAITING),
]


@pytest.mark.parametrize("make", VALUES)
def test_pickles_name_the_public_place(backend, make):
    """So that they can be read where private modules have moved."""
    value = make()
    data = pickle.dumps(value)
    assert pickle.loads(data) == value
    assert b"mcast_fast._" not in data


def test_pickles_are_read_in_a_process_that_imported_the_root_alone():
    made = [(pickle.dumps(value), repr(value)) for value in (make() for make in VALUES)]
    code = f"import pickle, mcast_fast\nfor data, text in {made!r}: assert repr(pickle.loads(data)) == text, text\n"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.needs("kernel_timestamps")
def test_the_first_snippet_of_the_readme_prints_what_is_shown(backend, capsys):
    """On any machine; times, and the name of the loopback, are its own."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    at = next(at for at, (language, _) in enumerate(blocks) if language == "python")
    code, shown = blocks[at][1], blocks[at + 1][1]
    exec(compile(code.replace(":5000", f":{free_port()}"), "README.md", "exec"), {})
    printed = capsys.readouterr().out.replace(" None dropped", " 0 dropped")
    variable = r" \d{2,5} .+? [\d-]{10} [\d:.]{8,15}\+00:00 "
    assert re.sub(variable, " ", printed) == re.sub(variable, " ", shown)
    assert len(re.findall(variable, shown)) == 3


# ---- docstrings ----

STUB = ROOT / "src" / "mcast_fast" / "_core" / "fast" / "views.pyi"
VIEWS = ("Batch", "Packet")
# Calls that raise nothing of ours, whatever they are given.
NEVER_RAISE = {
    *(
        "features",
        "host_counters",
        "Batch.payloads",
        "Batch.borrow",
        "Packet.copy",
        "Group.expand",
        "Report.as_dict",
        "ProbeReport.as_dict",
        "Monitor.reset",
        "Manifest.as_dict",
        "Captures.flows",
        "Captures.gaps",
        "drops",
    ),
    *(f"{kind}.close" for kind in ("Receiver", "Sender", "Source", "aio.Receiver", "aio.Sender", "aio.Arbiter")),
}


def is_public(name):
    return not name.startswith("_") or name in ("__iter__", "__aiter__", "__sub__")


def documented(module, name):
    """(name, parameters, whether it returns something, docstring) of an exported call, or of each method of a class."""
    thing = getattr(MODULES[module], name)
    short = name if module in ("mcast_fast", thing.__module__) and "aio" not in module else f"aio.{name}"
    if name in VIEWS:
        return
    if not inspect.isclass(thing):
        yield short, *described(thing), thing.__doc__
        return
    for member, call in calls_of(thing):
        yield f"{short}.{member}", *described(getattr(thing, member)), call.__doc__


def calls_of(kind):
    """The public methods of a class, those of its bases that are ours among them."""
    ours = [one for one in reversed(kind.__mro__) if one.__module__.startswith("mcast_fast")]
    for member, value in {name: value for one in ours for name, value in vars(one).items()}.items():
        call = getattr(value, "__func__", value)
        if is_public(member) and inspect.isroutine(call):
            yield member, call


@pytest.mark.parametrize("kind", [receiver.Receiver, sender.Sender])
def test_a_call_names_the_public_class_wherever_it_is_written(kind):
    """So do pickles, and errors of wrong arguments."""
    for member, call in calls_of(kind):
        assert (call.__module__, call.__qualname__) == (kind.__module__, f"{kind.__name__}.{member}")
        assert pickle.loads(pickle.dumps(call)) is call


def described(call):
    signature = inspect.signature(call)
    return [one for one in signature.parameters if one != "self"], signature.return_annotation not in (None, "None")


def of_the_stub():
    """The same of the methods of Batch and Packet, as their stub has them."""
    for kind in ast.parse(STUB.read_text("utf-8")).body:
        if isinstance(kind, ast.ClassDef) and kind.name in VIEWS:
            for member in kind.body:
                if isinstance(member, ast.FunctionDef) and ast.get_docstring(member) and not is_property(member):
                    every = (*member.args.args, *member.args.kwonlyargs)
                    names = [one.arg for one in every if one.arg != "self"]
                    yield f"{kind.name}.{member.name}", names, True, ast.get_docstring(member)


def is_property(member):
    return any(getattr(one, "id", None) == "property" for one in member.decorator_list)


CALLS = [
    *{
        one[0]: one
        for module, name in NAMES
        if callable(getattr(MODULES[module], name))
        for one in documented(module, name)
    }.values(),
    *of_the_stub(),
]


# Arguments that are quantities, and what says their unit: of these words, one.
SECONDS = r"[Ss]econds?|\bs\b|\bns\b|nanoseconds|[Aa]s for"
UNITS = {
    r"timeout|duration|hold|window|linger|interval|latency|max_gap|pause|wait|flush_interval": SECONDS,
    r"\w*size|memory|most_bytes": r"[Bb]ytes|octets|[Pp]ackets|[Ss]ize|text|[Aa]s for",
    r"rate": r"/s|per second|bit/s|packets",
    r"max_packets|count|max_flows|max_streams": r"[Pp]ackets|[Ff]lows|[Ss]treams|[Nn]umber|rows|[Aa]s for",
}


def faults_of_a_docstring(name, names, returns, text):
    """What is missing, in Google style: a line that says what it does, every argument with its unit, the result, the errors."""
    first, _, rest = text.partition("\n")
    found, explained = sections(text), arguments(text)
    faults = ["no line of its own that ends with a full stop"] * (
        not first.endswith(".") or (bool(rest.strip()) and not rest.startswith("\n"))
    )
    faults += [f"no argument {one}" for one in names if one not in explained]
    faults += [f"{one} is no argument" for one in explained if one not in names]
    faults += ["arguments in another order"] * (sorted(explained) == sorted(names) and list(explained) != names)
    for one, said in explained.items():
        units = [unit for pattern, unit in UNITS.items() if re.fullmatch(pattern, one)]
        faults += [f"{one} has no unit"] * any(not re.search(unit, said) for unit in units)
    faults += ["no Returns"] * (returns and not found.keys() & {"Returns", "Yields"})
    faults += ["no Raises"] * ("Raises" not in found and name not in NEVER_RAISE)
    faults += ["Raises of what raises nothing"] * ("Raises" in found and name in NEVER_RAISE)
    for errors in re.findall(r"^([A-Z][\w, ]*): ", found.get("Raises", ""), re.MULTILINE):
        for error in errors.split(", "):
            kind = getattr(builtins, error, None) or getattr(MODULES["mcast_fast.errors"], error, None)
            faults += [f"{error} is no exception"] * (not (inspect.isclass(kind) and issubclass(kind, Exception)))
    return faults


@pytest.mark.parametrize(("name", "names", "returns", "text"), CALLS, ids=[one[0] for one in CALLS])
def test_a_call_is_documented(name, names, returns, text):
    assert faults_of_a_docstring(name, names, returns, text) == []


PLANTED = """Do it.

    Args:
        rate: How fast.
        other: Nothing.

    Raises:
        ArgumentError: It is wrong.
        SomeError: Who knows.
    """


def test_what_a_docstring_lacks_is_found():
    assert faults_of_a_docstring("planted", ["rate", "timeout"], True, PLANTED) == [
        "no argument timeout",
        "other is no argument",
        "rate has no unit",
        "no Returns",
        "SomeError is no exception",
    ]
    assert faults_of_a_docstring("planted", [], False, "Do it") == [
        "no line of its own that ends with a full stop",
        "no Raises",
    ]
    assert faults_of_a_docstring("planted", [], False, PLANTED.replace("SomeError", "OSError")) == [
        "rate is no argument",
        "other is no argument",
        "rate has no unit",
    ]
    assert "Raises of what raises nothing" in faults_of_a_docstring("features", ["rate", "other"], False, PLANTED)


# Classes whose objects the library makes: what their names mean is said where they come from.
MADE_BY_US = {"Scan", "Schedule", "Skew", "Source", "Batch", "Packet"}
WRAP = r"Arguments and errors are those of `(mcast_fast\.[\w.]+)`"


def unexplained(kind):
    """The parameters of a class that its docstring does not name, as an entry or in `code`, and those without a unit."""
    ours = [one for one in kind.__mro__ if one.__module__.startswith(("mcast_fast", "tests")) and one.__doc__]
    texts = [inspect.cleandoc(one.__doc__) for one in ours]
    entries, text = {}, "\n".join(texts)
    for body in (sections(one).get(title, "") for one in texts for title in ("Args", "Attributes")):
        found = re.findall(r"^\*{0,2}(\w+(?:, \w+)*): ((?:.+\n?)(?:^    .+\n?)*)", body, re.MULTILINE)
        entries |= {name: said for names, said in found for name in names.split(", ")}
    wrapped = re.search(WRAP, text)
    given = {name.lstrip("*") for name in parameters(kind)}
    if wrapped:
        given -= {name.lstrip("*") for name in parameters(pkgutil.resolve_name(wrapped[1]))}
    faults = [f"{name} is not explained" for name in given if name not in entries and f"`{name}`" not in text]
    for name, said in entries.items():
        units = [unit for pattern, unit in UNITS.items() if re.fullmatch(pattern, name)]
        faults += [f"{name} has no unit"] * any(not re.search(unit, said) for unit in units)
    return sorted(faults)


@pytest.mark.parametrize(("module", "name"), CLASSES, ids=lambda one: one)
def test_what_a_class_takes_is_explained(module, name):
    kind = getattr(MODULES[module], name)
    if name not in MADE_BY_US and not issubclass(kind, BaseException | enum.Enum):
        assert unexplained(kind) == []


def test_what_a_class_does_not_explain_is_found():
    class Planted:
        """Takes `one`.

        Args:
            timeout: How long.
        """

        def __init__(self, one, timeout, other):
            pass

    assert unexplained(Planted) == ["other is not explained", "timeout has no unit"]


def members_of_the_stub(name):
    kind = next(one for one in ast.parse(STUB.read_text("utf-8")).body if getattr(one, "name", None) == name)
    return ast.get_docstring(kind), {
        one.name: ast.get_docstring(one)
        for one in kind.body
        if isinstance(one, ast.FunctionDef) and ast.get_docstring(one)
    }


@pytest.mark.parametrize("name", VIEWS)
def test_the_stub_has_the_whole_text_of_what_both_backends_say_in_a_line(backend, name):
    kind = getattr(_core.views, name)
    whole, members = members_of_the_stub(name)
    assert inspect.getdoc(kind).startswith(whole)
    assert {one for one in dir(kind) if not one.startswith("_") and one != "names"} <= members.keys()
    for member, text in members.items():
        assert getattr(kind, member).__doc__ == text.partition("\n")[0], member


# ---- Source ----


def test_a_receiver_and_a_reader_are_sources(backend):
    with mcast.Receiver(two_groups()) as rx, files.Reader(io.BytesIO()) as reader, mcast.Sender(two_groups()) as tx:
        assert isinstance(rx, mcast.Source)
        assert isinstance(reader, mcast.Source)
        assert not isinstance(tx, mcast.Source)
        for name in ("recv", "recv_batch", "collect"):
            assert parameters(getattr(mcast.Source, name)).keys() >= parameters(getattr(files.Reader, name)).keys()


@pytest.mark.long
def test_the_type_checker_takes_both_for_sources(tmp_path):
    """And nothing that sends."""
    program = tmp_path / "sources.py"
    program.write_text(
        "import mcast_fast\n"
        "from mcast_fast import aio, files\n"
        "def count(source: mcast_fast.Source) -> int:\n"
        "    return sum(len(batch) for batch in source) + len(source.recv().data) + source.stats.received\n"
        "count(mcast_fast.Receiver('239.1.1.1:5000'))\n"
        "count(files.Reader('feed.pcapng'))\n"
        "count(mcast_fast.open('feed.pcapng', groups=['239.1.1.1', mcast_fast.Group('239.1.1.2')]))\n"
        "mcast_fast.Receiver(['239.1.1.1:5000'], timestamps='hardware')\n"
        "count(mcast_fast.Sender('239.1.1.1:5000'))  # wrong\n"
        "count(aio.Receiver('239.1.1.1:5000'))  # wrong\n"
        "mcast_fast.Receiver('239.1.1.1:5000', timestamps='cernel')  # wrong\n"
        "aio.Sender('239.1.1.1:5000', pacing='none')  # wrong\n"
        "mcast_fast.open('feed.pcapng', batchsize=5)  # wrong\n"
        "mcast_fast.Reader  # wrong\n"
    )
    api = pytest.importorskip("mypy.api")
    said, complaint, _ = api.run(["--strict", "--no-incremental", "--config-file=", str(program)])
    assert not complaint
    wrong = {int(line.split(":")[1]) for line in said.splitlines() if ": error:" in line}
    assert wrong == {
        number for number, line in enumerate(program.read_text("utf-8").splitlines(), 1) if line.endswith("# wrong")
    }, said
