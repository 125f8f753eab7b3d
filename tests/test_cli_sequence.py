"""The command line over numbers: send --sequence, check, record, receive and info, on files and live."""

import json
import struct
from dataclasses import replace

import pytest
from click.testing import CliRunner

import mcast_fast as mcast
from mcast_fast import files, sequence
from mcast_fast.cli import program
from tests.conftest import Place, loopback
from tests.test_pcapng import NOW, batch_of, record


def run(*arguments, code=0):
    done = CliRunner().invoke(program, list(map(str, arguments)))
    assert done.exit_code == code, (done.output, done.stderr)
    return done


@pytest.fixture
def capture(tmp_path):
    """Numbers 1 to 9 without 4, 5 and 8."""
    path = tmp_path / "numbers.pcapng"
    payloads = [struct.pack(">Q", number) for number in (1, 2, 3, 6, 7, 9)]
    with files.Writer(path) as writer:
        writer.write(batch_of(*((record(one, NOW + at), one) for at, one in enumerate(payloads))))
    return path


def test_check_of_a_file(capture):
    found = json.loads(run("check", capture, "-f", "u64be@0", "--json", code=3).stdout)
    (flow,) = found["flows"]
    assert (flow["received"], flow["expected"], flow["pending"], found["lost"]) == (6, 9, 3, 0)
    assert (flow["group"], flow["source"], flow["key"], flow["state"]) == ("239.1.1.1", "10.0.0.1", "", "receiving")
    table = run("check", capture, capture, "-f", "u64be@0", "--window", "1ns", code=3).stdout.splitlines()
    assert table[0].split()[:6] == ["group", "source", "key", "state", "received", "expected"]
    assert table[1].split()[:3] == ["239.1.1.1:5000", "10.0.0.1", "-"]


def test_check_without_loss_without_numbers_and_with_wrong_words(capture, tmp_path):
    assert "receiving" in run("check", capture, "-f", "u64be@0", "-c", 3).stdout
    assert "6 packets without a number by the format rtp" in run("check", capture, "-f", "rtp", code=4).stderr
    assert "is not a format" in run("check", capture, "-f", "rtq", code=2).stderr
    assert "not both" in run("check", capture, "239.1.1.1:5000", "-f", "rtp", code=2).stderr
    torn = tmp_path / "torn.pcapng"
    torn.write_bytes(capture.read_bytes()[:-3])
    assert "torn.pcapng" in run("check", torn, "-f", "u64be@0", code=1).stderr


def test_info_shows_sequences(capture):
    assert " 239.1.1.1:5000" in run("info", capture, "--sequence", "u64be@0").stdout.replace("\n", " ")
    found = json.loads(run("info", capture, "--sequence", "u64be@0", "--json").stdout)
    assert [flow["expected"] for flow in found["sequences"]] == [9]
    assert json.loads(run("info", capture, "--json").stdout)["sequences"] == []
    assert "lost" not in run("info", capture).stdout


@pytest.mark.needs("kernel_timestamps")
def test_what_send_numbers_is_followed(backend):
    group = Place(4, loopback()).group()
    with mcast.Receiver(group, sequence="mcast-fast", timeout=5) as rx:
        assert run("send", group, "--sequence", "-c", 50, "--size", 10, "--ttl", 0).stdout.startswith("sent 50, ")
        packets = rx.collect(53)
        (flow,) = rx.stats.flows
    assert (flow.received, flow.expected, flow.first, flow.last, flow.state, flow.packets) == (
        50,
        50,
        0,
        49,
        "ended",
        53,
    )
    assert {len(packet) for packet in packets[:50]} == {42}
    sent = [struct.unpack_from(">q", packet.data, 24)[0] for packet in packets]
    assert sent == sorted(sent)
    assert all(packet.timestamp >= at for packet, at in zip(packets, sent, strict=True))


def test_what_is_sent_for_a_time_leaves_no_number_out(backend):
    group = Place(4, loopback()).group()
    with mcast.Receiver(group, sequence="mcast-fast", timeout=5) as rx:
        run("send", group, "--sequence", "-d", "20ms", "--size", 10, "--ttl", 0, "--rate", "1k")
        while rx.recv() and rx.stats.flows[0].state != "ended":
            pass
        (flow,) = rx.stats.flows
    assert flow.received == flow.expected > 0


def payloads(*numbers):
    return [sequence.stamp(number, 7, NOW) for number in numbers]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("check", "-f", "mcast-fast", "--json"), "stdout"),
        (("receive", "--check", "mcast-fast", "--fail-on-loss", "-o", "none"), "stderr"),
        (("record", "--sequence", "mcast-fast", "--fail-on-loss", "-w"), "stderr"),
    ],
    ids=lambda one: one[0] if isinstance(one, tuple) else one,
)
def test_loss_ends_a_live_verb_with_3(backend, arguments, expected, tmp_path, monkeypatch):
    """The packets come when the verb has opened its receiver."""
    group = Place(4, loopback()).group()
    opened = mcast.Receiver.__init__

    def open_and_send(self, *groups, **options):
        opened(self, *groups, **options)
        with mcast.Sender(group, ttl=0) as tx:
            tx.send_batch(payloads(0, 1, 5, 6))

    monkeypatch.setattr(mcast.Receiver, "__init__", open_and_send)
    verb, *options = arguments
    files = [tmp_path / "recorded.pcapng"] if verb == "record" else []
    done = run(verb, group, "-c", 4, "-t", 5, *options, *files, code=3)
    text = getattr(done, expected)
    if expected == "stdout":
        assert json.loads(text)["flows"][0]["expected"] == 7
    else:
        assert "received 4, expected 7, lost 0, pending 3" in text


@pytest.mark.parametrize("least", ["", "at least "])
@pytest.mark.parametrize(("options", "code"), [((), 0), (("--fail-on-loss",), 3)])
def test_what_was_dropped_here_is_loss_where_that_is_requested(backend, options, code, least, monkeypatch):
    """The numbers that were dropped are before the first that came, so that none is missing."""
    group = Place(4, loopback()).group()
    opened, counted = mcast.Receiver.__init__, mcast.Receiver.stats.fget

    def open_and_send(self, *groups, **options):
        opened(self, *groups, **options)
        with mcast.Sender(group, ttl=0) as tx:
            tx.send_batch(payloads(5, 6))

    monkeypatch.setattr(mcast.Receiver, "__init__", open_and_send)
    monkeypatch.setattr(
        mcast.Receiver, "stats", property(lambda self: replace(counted(self), dropped_socket=3, drops_exact=not least))
    )
    done = run("check", group, "-f", "mcast-fast", "-c", 2, "-t", 5, *options, code=code)
    assert f"mcast-fast: {least}3 packets dropped in this machine" in done.stderr


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--fail-on-loss",), 3)])
def test_info_fails_on_loss_where_that_is_requested(backend, capture, options, code):
    run("info", capture, "--sequence", "u64be@0", *options, code=code)
    run("info", capture, *options)


@pytest.mark.parametrize(
    ("verb", "option", "most"),
    [
        ("check", "--window", "an hour"),
        ("top", "--stalled-after", "an hour"),
        ("arbitrate", "--hold", "a minute"),
        ("report", "--hold", "a minute"),
    ],
)
def test_a_time_that_is_too_long_names_the_option(verb, option, most):
    group = Place(4, loopback()).group()
    done = run(verb, group, "-f", "rtp", option, "61min", code=2)
    assert done.stderr.startswith(f"mcast-fast: {option}: '61min' is too long; use up to {most}; see ")


def test_stamps_are_checked():
    for arguments in ((0, -1, 0), (0, 0, 2**63), (0, 0, 0, 65_536)):
        with pytest.raises(mcast.ArgumentError, match="out of range"):
            sequence.stamp(*arguments)
    assert sequence.stamp(-1, 0, 0) == sequence.stamp(2**64 - 1, 0, 0)
