"""One grammar of options: the table, the types, the words of errors, examples, completion and man pages."""

import pickle
import re
import shlex
import shutil
import struct
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import mcast_fast as mcast
from mcast_fast.cli import VERBS, program
from mcast_fast.cli.codes import EXIT_CODES
from mcast_fast.cli.completion import SHELLS
from mcast_fast.cli.examples import EXAMPLES
from mcast_fast.cli.man import page
from mcast_fast.cli.options import DSCP, LONGER, RATE, SHARED, SPEED, TIME
from mcast_fast.cli.output import Clock
from mcast_fast.cli.rtp import Headers, stripped
from mcast_fast.cli.words import in_options, nearest
from mcast_fast.errors import Argument

WITHOUT_JSON = {"help", "completion"}
# Where an option means something else: how packets are written, whether TTLs are shown, a flag, a form.
OTHER = {("receive", "--ttl"), ("send", "--sequence"), ("arbitrate", "--ttl"), ("probe", "--rate"), ("convert", "--to")}


def invoke(*arguments, **options):
    return CliRunner().invoke(program, [str(one) for one in arguments], **options)


# click keeps the help option of a command that it made in the first context, with that context's names.
WHOLE = click.Context(program, info_name="mcast-fast", **program.context_settings)


def command(verb):
    return program.get_command(WHOLE, verb)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (TIME, "0", 0),
        (LONGER, "1s", 1),
        (LONGER, "100ms", 0.1),
        (LONGER, "2", 2),
        (RATE, "50", 50),
        (RATE, "50k", "50k"),
        (RATE, "50pps", "50pps"),
        (RATE, "1Mbps", "1Mbps"),
        (SPEED, "2x", 2),
        (SPEED, "0.5", 0.5),
        (DSCP, "ef", 46),
        (DSCP, "AF41", 34),
        (DSCP, "CS6", 48),
        (DSCP, "63", 63),
    ],
)
def test_a_value_has_a_unit_or_a_name(kind, text, value):
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((LONGER, one) for one in ("0", "-1s", "1x", "", "nan")),
        *((RATE, one) for one in ("0", "-5", "10x", "nan", "inf", "")),
        *((SPEED, one) for one in ("0", "-1x", "x", "inf", "nan")),
        *((DSCP, one) for one in ("64", "-1", "EX", "", "9" * 5000)),
    ],
)
def test_a_value_that_cannot_be_is_a_usage_error(kind, text):
    with pytest.raises(click.BadParameter):
        kind.convert(text, None, None)


@pytest.mark.parametrize("verb", VERBS)
def test_options_of_one_name_are_the_same_everywhere(verb):
    table = {names[0] if len(names) == 1 else max(names, key=len): (names, more) for names, more in SHARED.values()}
    for one in command(verb).params:
        for name in one.opts:
            if name in table and (verb, name) not in OTHER and name != "--group":
                names, more = table[name]
                assert {short for short in names if len(short) == 2} <= set(one.opts)
                if isinstance(more.get("type"), click.ParamType):
                    assert type(one.type) is type(more["type"])
                    assert one.type.name == more["type"].name
    assert verb in WITHOUT_JSON or any("--json" in one.opts for one in command(verb).params)


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_with_examples_that_are_right(verb):
    text = invoke(verb, "--help").stdout
    assert EXAMPLES[verb]
    for line, meaning in EXAMPLES[verb]:
        assert line in text
        assert meaning in text
        assert len(line) <= 76
        words = shlex.split(re.split(r"[|>]", line.removeprefix('eval "$(').removesuffix(')"'))[0])
        assert words[:2] == ["mcast-fast", verb]
        given = [one for one in words[2:] if one != "feed.ts"]
        command(verb).make_context(verb, given, parent=WHOLE, resilient_parsing=True)
        known = {name for one in command(verb).params for name in one.opts}
        assert {one for one in words[2:] if re.match(r"--?[a-z]", one)} <= known | {"-"}
    assert max(map(len, text.splitlines())) <= 80


def test_the_help_has_the_exit_codes():
    text = invoke("--help").stdout
    assert all(meaning in text for meaning in EXIT_CODES.values())
    assert max(map(len, text.splitlines())) <= 80
    assert invoke("help", "receive").stdout.replace("program", "x") == invoke("receive", "--help").stdout.replace(
        "program", "x"
    )


def test_what_is_nearly_right_is_named():
    assert "did you mean receive?" in invoke("recieve").stderr
    assert "did you mean receive?" in invoke("help", "recieve").stderr
    assert "--timeout" in invoke("receive", "239.1.1.1:5000", "--timout", "1").stderr
    assert nearest("nonsense", VERBS) == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("receive", "239.1.1.1"), "or pass --port 5000"),
        (("receive", "239.1.1.1", "5000"), "5000 was given as a group of its own"),
        (("receive", "239.1.1.1:5000%lo"), "the interface goes before the port: 239.1.1.1%lo:5000"),
        (("receive", "ff15::1:5000"), "or, if 5000 is the port, [ff15::1]:5000"),
        (("receive", "x"), "mcast-fast: group 'x': not an IP address (Expected 4 octets in 'x')"),
        (("replay", "none.pcapng", "--as-recorded"), "No such file or directory (2); check the path"),
        (("send", "239.1.1.1%lo:5000", "--size", "9", "--pattern", "xyz"), "neither hex digits"),
        (("receive", "239.1.1.1:5000", "--strip", "rtp"), "--strip is of -o raw"),
    ],
)
def test_messages_speak_of_options(arguments, said):
    result = invoke(*arguments)
    assert said in result.stderr
    assert result.exit_code in (1, 2)
    assert "port=" not in result.stderr


def test_arguments_become_options():
    options = {"ring": "--ring", "buffer_size": "--buffer-size"}
    error = mcast.ArgumentError(Argument("other", "1"), " or ", Argument("buffer_size", "7"), ", no ", Argument("ring"))
    assert str(error) == "other=1 or buffer_size=7, no ring="
    assert in_options(error, options) == "other=1 or --buffer-size 7, no --ring"
    assert in_options(mcast.ArgumentError("buffer_size=7"), options) == "buffer_size=7"
    assert in_options(mcast.SocketError(1, "bind"), options) == "bind"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("shell", SHELLS)
def test_completion(shell):
    script = invoke("completion", shell).stdout
    assert f"_MCAST_FAST_COMPLETE={shell}_complete" in script
    assert "mcast-fast" in script


LOOPBACK = next(one.name for one in mcast.interfaces() if one.is_loopback)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("mcast-fast rec", ["plain,receive", "plain,record"]),
        ("mcast-fast help rec", ["plain,receive", "plain,record"]),
        ("mcast-fast receive --ti", ["plain,--time", "plain,--timeout"]),
        ("mcast-fast receive --time l", ["plain,local"]),
        (f"mcast-fast receive -i {LOOPBACK[:1]}", [f"plain,{LOOPBACK}"]),
        (f"mcast-fast receive 239.1.1.1%{LOOPBACK[:1]}", [f"plain,239.1.1.1%{LOOPBACK}"]),
        ("mcast-fast receive 239.", []),
        ("mcast-fast check 239.", ["file,239."]),
        (f"mcast-fast check 239.1.1.1%{LOOPBACK[:1]}", [f"file,239.1.1.1%{LOOPBACK[:1]}", f"plain,239.1.1.1%{LOOPBACK}"]),
        *[
            (f"mcast-fast {words} /tmp/f", ["file,/tmp/f"])
            for words in (
                "info", "convert", "convert in.pcap", "merge", "merge a b", "merge a -w", "repair", "repair a -o", "replay",
                "report", "report a -o", "report a --svg", "arbitrate", "arbitrate a -w", "record -w", "record --plan",
                "doctor --bundle", "manifest make", "manifest make --plan", "manifest index -w", "plan check", "send 239.1.1.1 --file",
            )
        ],
    ],
)  # fmt: skip
def test_words_are_completed(words, found):
    environment = {
        "_MCAST_FAST_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))
    }  # fmt: skip
    result = CliRunner().invoke(program, [], prog_name="mcast-fast", env=environment)
    lines = result.stdout.split()
    assert sorted(lines if "%" not in words and "-i" not in words else set(lines) & set(found)) == sorted(found)


@pytest.mark.long
@pytest.mark.parametrize("verb", [None, *VERBS])
def test_man_pages(verb):
    text = page(program, verb)
    named = [line for line in text.splitlines() if line.startswith(".SH")]
    assert named[:4] == [".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH OPTIONS"]
    assert "\b" not in text
    if shutil.which("groff"):
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-z"], input=text, text=True, capture_output=True, check=True
        )
        assert done.stderr == ""
    assert ".B \\-h, \\-\\-help" in text.splitlines()


def test_man_pages_are_written(tmp_path):
    assert invoke("man", "--directory", tmp_path / "man1").exit_code == 0
    assert len(list((tmp_path / "man1").glob("mcast-fast*.1"))) == len(VERBS) + 1
    assert invoke("man", "recieve").exit_code == 2


def test_no_color(monkeypatch):
    for value, color in (("1", False), ("", None)):
        monkeypatch.setenv("NO_COLOR", value)
        with program.make_context("mcast-fast", ["version"]) as ctx:
            ctx.invoke(program.callback)
            assert ctx.color is color


def test_times_of_packets():
    at = 1_700_000_000_000_000_000
    relative, delta = Clock("relative"), Clock("delta")
    assert [relative.text(at + one * 10**9) for one in (0, 1, 3)] == ["0.000000", "1.000000", "3.000000"]
    assert [delta.text(at + one * 10**9) for one in (0, 1, 3)] == ["0.000000", "1.000000", "2.000000"]
    assert re.fullmatch(r"\d\d:\d\d:20\.000000", Clock("local").text(at))
    assert {Clock(form).text(0) for form in ("utc", "local", "relative", "delta")} == {"-"}


def test_rtp_headers_are_put_and_stripped():
    headers = Headers(7, 0xFFFF)
    first, second = headers.put(b"one"), headers.put(b"two")
    assert [struct.unpack_from("!BBH", one) for one in (first, second)] == [(0x80, 33, 0xFFFF), (0x80, 33, 0)]
    assert (stripped(first), stripped(second)) == (b"one", b"two")


@pytest.mark.parametrize(
    ("payload", "rest"),
    [
        (b"", b""),
        (b"\x80" + bytes(11), b""),
        (b"\x81" + bytes(11) + b"SSRC" + b"x", b"x"),
        (b"\x90" + bytes(11) + b"\0\0\0\1" + b"EEEE" + b"x", b"x"),
        (b"\xa0" + bytes(11) + b"x\0\2", b"x"),
        (b"\x90" + bytes(11) + b"\0\0", b"\x90" + bytes(11) + b"\0\0"),
        (b"\x8f" + bytes(11) + b"short", b"\x8f" + bytes(11) + b"short"),
        (b"\xa0" + bytes(11) + b"\xff", b"\xa0" + bytes(11) + b"\xff"),
        (b"G" + bytes(187), b"G" + bytes(187)),
    ],
)
def test_any_payload_is_stripped_or_stays(payload, rest):
    assert stripped(payload) == rest


@pytest.mark.long
@pytest.mark.needs("signals to processes")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_closed_stream_is_an_empty_one(closed):
    command = f"{shlex.quote(sys.executable)} -m mcast_fast send 239.1.1.1%lo:5000 --ttl 0 --stdin-lines {closed}"
    done = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("" if closed == ">&-" else "sent 0\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("239.1.1.1:5000",), "a verb comes before the group, such as: mcast-fast receive 239.1.1.1:5000"),
        (("capture", "239.1.1.1:5000"), "did you mean record?"),
        (("receive",), "GROUP... (such as 239.1.1.1%eth0:5000) is missing"),
        (("record", "239.1.1.1:5000"), "--write is missing"),
        (("check", "239.1.1.1:5000"), "-f/--format is missing"),
        (("merge", "a.pcapng"), "-w/--write is missing"),
        (("plan", "chek", "plan.toml"), "mcast-fast: ACTION: 'chek' is not one of 'check', 'show', 'deal'; see"),
        (("send", "hello"), "name a group before the payload: mcast-fast send 239.1.1.1%eth0:5000 hello"),
        (("check", "none.pcap", "-f", "rtp"), "'none.pcap' is no file that is there, and no group"),
        (("check", "239.1.1.1:5000", "-f", "rpt"), "'rpt' is not a format (did you mean rtp?)"),
        (("receive", "239.1.1.1@10.0.0.5:5000"), "the source goes before the group: 10.0.0.5@239.1.1.1:5000"),
        (("receive", "udp://@239.1.1.1:5000?timeout=3"), "pass --timeout to the receiver"),
        (("receive", "239.1.1.1:5000", "--port", "70000"), "--port: '70000' is no UDP port; use 1 to 65535"),
        (("receive", "239.1.1.1:5000", "--port", "0000000011234"), "--port: '0000000011234' is no UDP port"),
        (("replay", "x.pcap", "--to", "239.1.1.1:1", "--speed", "2", "--max"), "--speed, --rate and --max exclude"),
    ],
)
def test_what_newcomers_type(arguments, said):
    result = invoke(*arguments)
    assert said in result.stderr
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
