"""The bench: the search finds what a receiver holds, whatever that is; two ends count the same; nothing is left behind."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcast_fast import errors, sequence
from mcast_fast._bench import hosts, measure, search, wire, words
from mcast_fast._bench.load import Load, Packets
from mcast_fast._bench.trial import Counted, Result, Sent, Trial
from mcast_fast._core import views
from mcast_fast._core.layout import RECORD
from mcast_fast.groups import Group
from tests import lab
from tests.conftest import free_port, has_fast, loopback
from tests.test_cli import environment, invoke, program_backend  # noqa: F401
from tests.test_pcapng import record


def tried(wanted, capacity, fastest, cpu=0.3, drops=True, seconds=1.0):
    """A trial of a receiver that holds so much, by a sender that sends so much."""
    offered = fastest if wanted is None else min(wanted, fastest)
    sent = int(offered * seconds)
    received = min(sent, int(capacity * seconds))
    lost = sent - received
    return Trial(
        wanted, Sent(sent, seconds, 0.5), Counted(received, 0, lost if drops else 0, None, 0, cpu * seconds, seconds)
    )


def searched(capacity, fastest, allowed=0.0, **named):
    one, steps = search.Search("sockets", 100, allowed), []
    while (step := one.step()) is not None:
        steps.append(step)
        one.take(tried(step[0], capacity, fastest, **named))
    return one.result(), steps


# ---- the search ----


@settings(max_examples=200)
@given(st.integers(100, 5_000_000), st.integers(100, 5_000_000))
def test_what_is_held_is_found(capacity, fastest):
    result, steps = searched(capacity, fastest)
    assert len(steps) <= search.MOST
    assert all(one.loss == 0 for one in result.trials if one.offered == result.rate)
    if fastest <= capacity:
        assert (result.rate, result.limit, result.next) == (fastest, "sender", None)
        assert steps == [(None, 1), (None, 2)]
    else:
        assert result.limit == "kernel buffers"
        assert capacity * (1 - 2 * search.RESOLUTION) - 2 <= result.rate <= capacity + 1
        assert result.next > result.rate
        assert steps[-1][1] == 2  # what is reported held for twice as long


@pytest.mark.parametrize(
    ("named", "limit"),
    [({"cpu": 0.95}, "CPU"), ({"cpu": 0.2}, "kernel buffers"), ({"drops": False}, "elsewhere")],
)
def test_what_held_it_back(named, limit):
    result, _ = searched(100_000, 300_000, **named)
    assert result.limit == limit
    assert "lost at" in words.why(result)


def test_a_receiver_that_holds_nothing():
    result, steps = searched(0, 1000)
    assert result.rate == 0
    assert len(steps) <= search.MOST
    assert words.verdict([result], {}) == "sockets hold no rate of 100 bytes"


def test_a_rate_that_is_not_held_again_gives_way():
    """The receiver holds 100,000 at first, and 60,000 when it is tried for longer."""
    one = search.Search("ring", 64)
    while (step := one.step()) is not None:
        one.take(tried(step[0], 100_000 if step[1] == 1 else 60_000, 400_000))
    assert 50_000 <= one.result().rate <= 60_000


def test_loss_that_is_allowed():
    result, _ = searched(99_950, 100_000, allowed=0.001)
    assert (result.rate, result.limit) == (100_000, "sender")


def test_a_search_that_is_ended_early():
    one = search.Search("sockets", 100)
    assert one.result() == Result("sockets", 100, 0.0, "time", None, (), is_confirmed=False)
    one.take(tried(None, 100, 200))
    one.take(tried(95, 100, 200))
    assert (one.result().rate, one.result().limit, one.result().is_confirmed) == (95, "kernel buffers", False)
    assert "not tried twice" in words.details(one.result())


def test_a_network_that_loses_at_every_rate():
    """No rate is held, and more time would find none."""
    one = search.Search("sockets", 100)
    for wanted in (None, 50_000, 10_000, 5_000):
        sent = wanted or 100_000
        one.take(Trial(wanted, Sent(sent, 1.0, 0.1), Counted(sent - 3, 0, 0, None, 0, 0.1, 1.0)))
        assert one.result().limit == ("elsewhere" if sent <= 10_000 else "time")
    assert one.result().rate == 0
    assert "elsewhere: 3 of 5,000 packets were lost at 5,000/s" in words.details(one.result())


def test_the_verdict():
    sockets, ring = (
        Result("sockets", 1316, 310_400.0, "kernel buffers", 320_000.0, ()),
        Result("ring", 1316, 1_400_000.0, "sender", None, ()),
    )
    assert words.verdict([sockets, ring], {}) == "sockets hold 310,000/s of 1,316 bytes; ring at least 1.40 M/s"
    assert words.verdict([sockets], {"ring": "no"}) == "sockets hold 310,000/s of 1,316 bytes; ring not tried"
    small = Result("ring", 64, 9.0, "time", None, ())
    assert "; ring holds 9/s of 64 bytes" in words.verdict([sockets, small], {})
    assert "unknown" in words.why(ring)


# ---- packets and datagrams ----


def test_packets_are_numbered_one_after_the_other():
    made = Packets(100, 3, key=0xABCD)
    payloads = [
        bytes(buffer[at : at + 100]) for buffer in (bytes(made.next()), bytes(made.next())) for at in (0, 100, 200)
    ]
    rows = [record(one) for one in payloads]
    for at, row in enumerate(rows):
        row[1] = 100 * at
    found = views.Batch.from_bytes(b"".join(RECORD.pack(*row) for row in rows), b"".join(payloads), {})
    columns = sequence.numbers(found, "mcast-fast")
    assert list(columns.number) == list(range(6))
    assert list(columns.count) == [1] * 6
    assert {bytes(key[:8]) for key in columns.key.tolist()} == {(0xABCD).to_bytes(8, "big")}


@given(st.binary(max_size=300), st.booleans())
def test_whatever_arrives_is_an_object_or_nothing(data, is_marked):
    found = wire.parse((wire.MARK if is_marked else b"") + data)
    assert found is None or isinstance(found["run"], str)


@given(
    st.dictionaries(
        st.sampled_from(["received", "cpu", "seconds", "coalesced", "duplicates", "dropped_ring"]),
        st.one_of(st.none(), st.integers(), st.floats(), st.just("7"), st.booleans()),
    )
)
def test_figures_of_another_host_are_checked(found):
    counted = wire.counted_of(found)
    assert counted is None or (counted.received >= 0 and 0 <= counted.seconds < 1e6)


def test_an_answer_is_no_longer_than_its_request():
    whole = Counted(2**62, 2**62, 2**62, 2**62, 2**62, 123456.123456789, 123456.123456789)
    from dataclasses import asdict

    answers = [
        wire.answer("x" * 16, 2**62, **asdict(whole)),
        wire.answer("x" * 16, 1, refused="\0" * 100_000),
        wire.answer('"' * 32, 1, refused="\u202e" * 100_000),
    ]
    assert max(map(len, answers)) <= wire.REQUEST == len(wire.request("count", "x" * 16, 1, key=2**64 - 1, sent=2**62))
    assert wire.counted_of(wire.parse(answers[0])) == whole
    assert wire.parse(b"short" + wire.MARK, wire.REQUEST) is None


# ---- ends ----


def wanted(**named):
    return measure.Wanted(**{"sizes": (200,), "ways": ("sockets",), "seconds": 0.12, "allowed": 0.0} | named)


def is_accounted(one):
    """What was sent came, or did not; the ledger has no more drops than that, and each that is coalesced counts as one."""
    assert 0 < one.counted.received <= one.sent.packets
    assert one.counted.duplicates == 0
    assert one.dropped <= one.lost


def test_over_the_loopback(backend):
    said = []
    outcome = measure.on_loopback(measure.Bench(wanted(), said.append))
    (result,) = outcome.results
    assert outcome.is_whole
    assert outcome.not_tried == {}
    assert len(said) == 1 + len(result.trials) >= 2
    for one in result.trials:
        assert one.sent.packets > 0
        is_accounted(one)


def test_between_two_hosts(backend):
    """Both are this one: requests by unicast, packets to a group of the loopback."""
    group = Group.parse(f"239.255.77.3%{loopback()}:{free_port()}")
    said = []
    with hosts.Listening(group, {}, said.append) as listening:
        thread = threading.Thread(target=listening.serve)
        thread.start()
        try:
            run = measure.Bench(wanted(), said.append)
            remote = hosts.Remote("127.0.0.1", listening.port, run.is_stopped)
            with contextlib.closing(remote):
                outcome = run.run(remote.opened, lambda size: Load(str(group), size, ttl=0))
                (result,) = outcome.results
                assert result.trials
                for one in result.trials:
                    is_accounted(one)
                with remote.opened("sockets"):
                    other = hosts.Remote("127.0.0.1", listening.port, lambda: False)
                    with contextlib.closing(other), pytest.raises(errors.SocketError, match="another run is going on"):
                        other._ask("open", how="sockets")
        finally:
            listening.stop()
            thread.join()
    assert "127.0.0.1 measures sockets" in said


def test_a_host_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(hosts, "_PATIENCE", 0.01)
    remote = hosts.Remote("127.0.0.1", free_port(), lambda: False)
    with contextlib.closing(remote), pytest.raises(errors.SocketError, match="bench --listen GROUP"):
        remote._ask("open", tries=2)


def test_strange_requests_are_refused_or_left_alone(backend):
    group = Group.parse(f"239.255.77.3%{loopback()}:{free_port()}")
    with hosts.Listening(group, {}, lambda _: None) as listening:
        for found in (
            {"do": "count", "run": "a", "number": 1},
            {"do": "begin", "run": "a", "number": 2},
            {"run": "a", "number": 3},
        ):
            assert "refused" in wire.parse(listening._answer(found, "10.0.0.1"))
        opened = wire.parse(listening._answer({"do": "open", "run": "a", "number": 4, "how": "?"}, "h"))
        assert opened["group"].startswith("239.255.77.3")
        strange = ({"do": "count", "key": "x", "sent": 1}, {"do": "count", "key": -1, "sent": 1}, {"do": [1]})
        for number, found in enumerate(strange, 5):
            answer = wire.parse(listening._answer({"run": "a", "number": number} | found, "h"))
            assert "refused" in answer


# ---- the verb ----


def test_the_verb(backend):
    result = invoke("bench", "--for", "120ms", "--size", "64", "--json", "--loss", "99%")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {"method", "resolution", "results", "not_tried", "cpus"} <= found.keys()
    ways = {one["how"] for one in found["results"]} | found["not_tried"].keys()
    assert ways == {"sockets", "ring"}
    first = found["results"][0]["trials"][0]
    assert first["sent"]["packets"] == first["received"]["received"] + first["lost"]


def test_text_says_why_the_ring_was_not_tried(backend, monkeypatch):
    def arguments(how):
        if how == "ring":
            raise errors.FeatureError("ring: it needs CAP_NET_RAW")
        return {}

    monkeypatch.setattr(measure, "ring_arguments", arguments)
    result = invoke("bench", "--for", "60ms", "--loss", "99%")
    assert "ring was not tried: ring: it needs CAP_NET_RAW" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("ring not tried.")
    assert invoke("bench", "--ring", "--for", "60ms").exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--listen"],
        ["239.1.1.1:5000"],
        ["--to", "127.0.0.1"],
        ["--to", "127.0.0.1", "239.1.1.1"],
        ["--to", "127.0.0.1", "239.1.1.1:5000+4"],
        ["--listen", "--to", "127.0.0.1", "239.1.1.1:5000"],
        ["--size", "31"],
        ["--loss", "100%"],
        ["--loss", "few"],
    ],
)
def test_usage(arguments):
    assert invoke("bench", *arguments).exit_code == 2


@pytest.mark.needs("signals to processes")
@pytest.mark.long
def test_ctrl_c_leaves_nothing_running(program_backend):  # noqa: F811
    command = [sys.executable, "-m", "mcast_fast", "bench", "--for", "1h"]
    with subprocess.Popen(
        command, env=environment(program_backend), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        running.stderr.readline()
        running.send_signal(signal.SIGINT)
        _output, complaints = running.communicate()
    assert running.returncode == 130, complaints
    assert "Traceback" not in complaints


@pytest.mark.lab
def test_between_two_namespaces():
    with lab.Lab() as made:
        near, far = made.link("a", "b")
        group, own = (f"239.9.9.9%{end.interface}:5009" for end in (far, near))
        options = {"env": environment("pure" if has_fast() else "fast")}
        bench = [sys.executable, "-m", "mcast_fast", "bench"]
        listening = far.host.spawn([*bench, "--listen", group], **options)
        listening.expect("requests to UDP port 5010")
        sending = near.host.spawn(
            [*bench, "--to", far.ipv4, own, "--for", "600ms", "--size", "200", "--loss", "99%", "--no-ring", "--json"],
            **options,
        )
        found = json.loads(re.search(r"^\{.*^\}", sending.finish(), re.MULTILINE | re.DOTALL)[0])
        assert "measures sockets" in listening.stop()
    (result,) = found["results"]
    assert found["to"] == far.ipv4
    for one in result["trials"]:
        assert one["sent"]["packets"] == one["received"]["received"] + one["lost"]
        assert one["received"]["received"] > 0
