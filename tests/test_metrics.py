"""Metrics: what an exporter shows, over HTTP and as a collector; its life; what it takes from the network."""

import errno
import gc
import gzip
import http.client
import ipaddress
import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

import pytest

import mcast_fast as mcast
from mcast_fast import _core, errors, monitor
from mcast_fast.monitor import Monitor, Stream, StreamState, _exporter, _families, _server
from mcast_fast.sequence import Arbiter
from mcast_fast.stats import Flow, FlowState, Stats
from tests import legs
from tests.conftest import free_port, loopback, until
from tests.interrupts import interrupt_at_each, needs_tracing
from tests.test_cli import invoke
from tests.test_monitor import MS, SECOND, watched
from tests.test_pcapng import NOW, record
from tests.test_sequence import joined

pytest.importorskip("prometheus_client")
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

ANY = "127.0.0.1:0"
OPEN_METRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


def rows(*packets, port=5000, source="10.0.0.1"):
    """A batch of (time, payload)."""
    made = [(record(payload, time, port=port), payload) for time, payload in packets]
    for values_of_record, _ in made:
        values_of_record[6] = ipaddress.IPv6Address(f"::ffff:{source}").packed
    return joined(_core.views, made)


def batch(*times, size=100, **named):
    return rows(*((time, bytes(size)) for time in times), **named)


def rtp(*numbers, **named):
    payloads = (struct.pack(">BBHII", 0x80, 33, number % 65536, 0, 7) for number in numbers)
    return rows(*((NOW + at * MS, one) for at, one in enumerate(payloads)), **named)


def get(exporter, path="/metrics", method="GET", **headers):
    """Status, headers and content of an answer."""
    connection = http.client.HTTPConnection(*exporter.address)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def values(text):
    """Samples of Prometheus' text: {(name, labels): value}."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def shown(watch, **named):
    with monitor.exporter(watch, ANY, **named) as exporter:
        return values(get(exporter)[2].decode())


def of(found, name, **labels):
    """Values of the samples that have these labels, among others."""
    return [value for (one, has), value in found.items() if one == name and labels.items() <= dict(has).items()]


def threads():
    return [one.name for one in threading.enumerate() if one.name == "mcast-fast metrics"]


@contextmanager
def exported(watch=None, **named):
    with monitor.exporter(watch or Monitor(), ANY, **named) as exporter:
        yield exporter


# ---- what is shown ----


def test_the_ledger_of_a_receiver(backend):
    text = f"239.9.3.1%{loopback()}:{free_port()}"
    with mcast.Receiver(text) as rx, mcast.Sender(text, ttl=0) as tx:
        tx.send_batch([bytes(100)] * 7)
        assert len(rx.collect(7, timeout=10)) == 7
        found = shown(rx)
        stats = rx.stats
    assert of(found, "mcast_packets_received_total") == [7]
    assert of(found, "mcast_received_bytes_total") == [700]
    assert of(found, "mcast_batches_total") == [stats.batches]
    wanted = {cause: value for cause, value in monitor.drops(stats).items() if value is not None}
    dropped = {cause: of(found, "mcast_packets_dropped_total", cause=cause) for cause in monitor.drops(stats)}
    assert {cause: value[0] for cause, value in dropped.items() if value} == wanted
    assert of(found, "mcast_drops_exact") == [1]
    assert of(found, "mcast_build_info") == [1]
    assert not of(found, "mcast_streams")


def test_a_ledger_says_nothing_of_what_the_system_does_not_report():
    seen = _families.Seen(Stats(dropped_socket=None, dropped_ring=5), ())
    (dropped,) = [one for one in _families.families(seen, False, {}) if one.name == "mcast_packets_dropped"]
    assert dict(dropped.samples) == {("ring",): 5, ("background",): 0}


def test_streams_are_added_up_by_group_port_and_interface_unless_sources_are_wanted(backend):
    watch, clock = watched()
    watch.add(batch(NOW, NOW + 5 * MS, size=40))
    watch.add(batch(NOW + 2 * MS, size=60, source="10.0.0.2"))
    watch.add(batch(NOW + 3 * MS, size=60, port=5001))
    clock.pass_by(0.25)
    found = shown(watch)
    labels = {"group": "239.1.1.1", "port": "5000", "interface": "eth0"}
    assert of(found, "mcast_stream_packets_total", **labels) == [3]
    assert of(found, "mcast_stream_bytes_total", **labels) == [140]
    assert of(found, "mcast_stream_packets_per_second", **labels) == [3]
    assert of(found, "mcast_stream_bytes_per_second", **labels) == [140]
    assert of(found, "mcast_streams", state="receiving", **labels) == [2]
    assert of(found, "mcast_streams", state="stalled", **labels) == [0]
    assert of(found, "mcast_stream_last_packet_timestamp_seconds", **labels) == [pytest.approx((NOW + 5 * MS) / 1e9)]
    assert sum(of(found, "mcast_stream_packets_total")) == 4
    assert not any("source" in dict(has) for _, has in found)
    apart = shown(watch, per_source=True)
    assert of(apart, "mcast_stream_packets_total", source="10.0.0.2", **labels) == [1]
    assert of(apart, "mcast_streams", state="receiving", source="10.0.0.1", **labels) == [1]


def test_gaps_are_a_histogram_with_their_sum(backend):
    watch, _ = watched()
    watch.add(batch(NOW, NOW + 1000, NOW + 2000, NOW + 100 * MS))
    watch.add(batch(NOW, NOW + SECOND * 100, port=5001))
    found = shown(watch)
    buckets = {dict(has)["le"]: value for (name, has), value in found.items() if name.endswith("seconds_bucket")}
    assert buckets[repr(1024 / 1e9)] == 2
    assert buckets["+Inf"] == 4 == of(found, "mcast_arrival_gap_seconds_count")[0]
    assert of(found, "mcast_arrival_gap_seconds_sum") == [pytest.approx(100.1)]
    assert [float(one) for one in buckets] == sorted(map(float, buckets))
    assert list(buckets.values()) == sorted(buckets.values())


def test_a_stream_of_several_that_is_cut_is_stalled_and_zero_within_2_s_and_restarted_when_its_sender_begins_anew(
    backend,
):
    """By the clock of the streams."""
    watch, clock = watched()

    def sends(*ports, first):
        for port in ports:
            watch.add(rtp(*range(first, first + 20), port=port))

    with exported(watch) as exporter:
        for quarter in range(20):  # after 3 s 5001 is cut, and the others go on for 2 s
            sends(5000, *(() if quarter >= 12 else (5001,)), 5002, first=20 * quarter)
            clock.pass_by(0.25)
        found = values(get(exporter)[2].decode())
        for port, state, rate in (("5000", "receiving", 80), ("5001", "stalled", 0), ("5002", "receiving", 80)):
            assert of(found, "mcast_streams", port=port, state=state) == [1]
            assert of(found, "mcast_stream_packets_per_second", port=port) == [rate]
            assert of(found, "mcast_stream_bytes_per_second", port=port) == [rate * 12]
            assert of(found, "mcast_sequence_lost_total", port=port) == [0]
        sends(5001, first=30_000)  # another sender's first number is any
        clock.pass_by(0.25)
        found = values(get(exporter)[2].decode())
        assert of(found, "mcast_streams", port="5001", state="restarted") == [1]
        assert of(found, "mcast_stream_silences_total", port="5001") == [1]
        assert of(found, "mcast_stream_packets_per_second", port="5001") == [20]


def test_a_sender_that_begins_anew_in_the_middle_of_its_stream_has_restarted(backend):
    watch, clock = watched()
    watch.add(rtp(*range(20_000, 20_100)))
    clock.pass_by(0.1)
    watch.add(rtp(*range(50)))
    found = shown(watch)
    assert of(found, "mcast_sequence_restarts_total") == [1]
    assert of(found, "mcast_streams", state="restarted") == [1]


def flow(**named):
    return Flow("10.0.0.1", None, "239.1.1.1", 5000, b"", FlowState.RECEIVING, **named)


def numbered(seen, per_source=False):
    return {
        one.name: dict(one.samples)
        for one in _families.families(seen, per_source, {})
        if one.name.startswith("mcast_sequence")
    }


def test_what_is_lost_and_comes_late_stays_counted():
    """A counter must not decrease: Prometheus would take that for a restart."""
    before = numbered(_families.Seen(Stats(lost=5, flows=(flow(lost=5),)), ()))
    after = numbered(_families.Seen(Stats(lost=2, flows=(flow(lost=2, late=3),)), ()))
    assert before["mcast_sequence_lost"] == after["mcast_sequence_lost"] == {("239.1.1.1", "5000"): 5}
    assert after["mcast_sequence_late"] == {("239.1.1.1", "5000"): 3}


def test_counters_do_not_decrease_where_flows_give_way_or_a_monitor_begins_anew(backend):
    """Prometheus would take the rest for what a new process has counted: for losses that were none."""
    watch = Monitor(sequence="u64be@0", max_streams=2)

    def look():
        found = values(get(exporter)[2].decode())
        return of(found, "mcast_sequence_lost_total"), of(found, "mcast_stream_packets_total", group="239.1.1.1")

    with exported(watch) as exporter:
        watch.add(rows(*((NOW + at * SECOND, struct.pack(">Q", 100 * at)) for at in range(4))))
        assert look() == ([198], [4])
        for source in ("10.0.0.2", "10.0.0.3"):  # the flow of the first one gives way
            watch.add(rows(*((NOW + 5 * SECOND, bytes(8)) for _ in range(2)), source=source))
        assert watch._tracker.evicted == 1
        assert look() == ([198], [6])
        watch.reset()
        watch.add(rows((NOW + 6 * SECOND, bytes(8))))
        assert look() == ([198], [6])
        watch.add(rows((NOW + 6 * SECOND, bytes(8))))
        assert look() == ([198], [7])


def test_of_series_that_are_gone_few_are_remembered(monkeypatch):
    monkeypatch.setattr(_families, "_FORGOTTEN", 10)
    rising = _families.Rising()
    for number in range(100):
        family = _families.Family("one", "counter", "", "", ("source",), [((str(number),), 5)])
        assert rising.shown(family).samples == [((str(number),), 5)]
    assert len(rising._known["one"]) <= 12


def test_a_handler_that_looks_in_the_middle_of_a_look_is_not_remembered(monkeypatch):
    counts = iter([3, 7, 8])
    pages = _exporter._Pages(Monitor(), False)

    def seen():
        count = next(counts)
        if count == 3:
            assert metric() == 7
        return count

    def metric():
        (family,) = pages.collect()
        return family.samples[0].value

    monkeypatch.setattr(pages, "_seen", seen)
    monkeypatch.setattr(
        _exporter, "families", lambda seen, *_: [_families.Family("one", "counter", "", samples=[((), seen)])]
    )
    assert metric() == 3
    assert metric() == 8


def test_the_ledger_of_an_arbiter(backend, tmp_path):
    path = tmp_path / "b.pcapng"
    with mcast.files.Writer(path) as writer:
        writer.write(
            legs.batch_of([(n, legs.NOW + n * MS, n.to_bytes(8, "big")) for n in (0, 1, 2, 4, 6)], legs.GROUPS[1])
        )
    first = legs.leg([(n, n) for n in (0, 2, 4, 5, 6)])
    with mcast.files.Reader(path) as second, Arbiter([first, second], "u64be@0") as feed:
        for _ in feed:
            pass
        found = shown(feed)
        with exported(feed) as exporter:
            page = json.loads(get(exporter, "/json")[2])
            list(openmetrics_parser.text_string_to_metric_families(get(exporter, **OPEN_METRICS)[2].decode()))
    assert of(found, "mcast_feed_delivered_total") == of(found, "mcast_feed_packets_total") == [6]
    assert (of(found, "mcast_feed_unrecovered_total"), of(found, "mcast_feed_recovered_total")) == ([1], [2])
    assert of(found, "mcast_feed_pending") == [0]
    for at, lost in (("0", 2), ("1", 2)):
        assert of(found, "mcast_leg_lost_total", leg=at) == [lost]
        assert of(found, "mcast_leg_covered_total", leg=at) == [1]
        assert of(found, "mcast_legs", leg=at, state="ended") == [1]
        assert sum(of(found, "mcast_legs", leg=at)) == 1
    assert of(found, "mcast_leg_packets_dropped_total", leg="1", cause="recorded") == [0]
    assert (page["feed"]["unrecovered"], [one["lost"] for one in page["legs"]]) == (1, [2, 2])


def test_numbers_are_the_receivers_own_or_the_monitors_and_never_both():
    stream = Stream("239.1.1.1", 5000, "10.0.0.1", "eth0", StreamState.RECEIVING)._replace(
        lost=7, duplicates=1, reordered=2, restarts=0, late=0
    )
    beside = stream._replace(interface="eth1")  # shows the same numbers
    assert numbered(_families.Seen(None, (stream, beside)))["mcast_sequence_lost"] == {("239.1.1.1", "5000"): 7}
    assert numbered(_families.Seen(Stats(), (stream,)), True)["mcast_sequence_lost"] == {
        ("239.1.1.1", "5000", "10.0.0.1"): 7
    }
    own = _families.Seen(Stats(lost=5, flows=(flow(lost=5),)), (stream,))
    assert numbered(own)["mcast_sequence_lost"] == {("239.1.1.1", "5000"): 5}
    assert numbered(_families.Seen(None, (stream._replace(lost=None),))) == {}


def test_a_membership_that_is_waited_for_is_there_from_the_beginning(backend):
    with mcast.Receiver(f"239.9.3.2%{loopback()}:{free_port()}") as rx:
        found = shown(Monitor(rx))
    assert of(found, "mcast_streams", group="239.9.3.2", state="waiting") == [1]
    assert of(found, "mcast_stream_packets_total", group="239.9.3.2") == [0]
    assert not of(found, "mcast_stream_last_packet_timestamp_seconds")


EVIL = 'x"}\n# TYPE evil counter\nevil 1\\\udcff\x1b'


def test_names_from_elsewhere_are_labels_and_nothing_else(monkeypatch):
    watch, _ = watched()
    stream = Stream("239.1.1.1", 5000, EVIL, EVIL, StreamState.RECEIVING, 1)
    monkeypatch.setattr(watch, "streams", lambda: (stream,))
    with exported(watch, per_source=True) as exporter:
        text = get(exporter)[2].decode()
        open_metrics = get(exporter, **OPEN_METRICS)[2].decode()
        as_json = json.loads(get(exporter, "/json")[2])
    (labels,) = [dict(has) for name, has in values(text) if name == "mcast_stream_packets_total"]
    assert labels["source"] == labels["interface"] == errors.escaped(EVIL)
    assert not any(line.startswith("evil") for line in (text + open_metrics).splitlines())
    assert len(list(openmetrics_parser.text_string_to_metric_families(open_metrics))) == 8
    assert as_json["streams"][0]["source"] == EVIL


# ---- HTTP ----


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("application/openmetrics-text; version=1.0.0", True),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=0.0.1", False),
        # What Prometheus 2.42 sends.
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            True,
        ),
        ("application/openmetrics-text;version=1.0.0;q=0.3,text/plain;version=0.0.4;q=0.5", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=many", False),
        (",;=;q", False),
    ],
)
def test_the_form_is_what_the_client_prefers(accept, wanted):
    assert _exporter.prefers_open_metrics(accept) is wanted


def test_the_two_forms_say_the_same_and_compressed_too(backend):
    watch, clock = watched()
    watch.add(rtp(*range(100)))
    clock.pass_by(0.25)
    with exported(watch) as exporter:
        status, headers, text = get(exporter)
        assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        _, headers, open_metrics = get(exporter, **OPEN_METRICS)
        assert headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        _, headers, packed = get(exporter, **{"Accept-Encoding": "deflate, gzip;q=0.5"})
        assert (headers["Content-Encoding"], gzip.decompress(packed)) == ("gzip", text)
        assert "Content-Encoding" not in get(exporter, **{"Accept-Encoding": "gzip;q=0, br"})[1]
    assert open_metrics.endswith(b"# EOF\n")
    families = list(openmetrics_parser.text_string_to_metric_families(open_metrics.decode()))
    assert {one.name: one.unit for one in families}["mcast_stream_bytes"] == "bytes"
    samples = {
        (one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples
    }
    assert samples == values(text.decode())


def test_json_has_the_ledger_and_every_stream(backend):
    text = f"239.9.3.3%{loopback()}:{free_port()}"
    with mcast.Receiver(text, sequence="rtp") as rx, mcast.Sender(text, ttl=0) as tx:
        watch = Monitor(rx)
        tx.send_batch([b"\x80\x21\x00" + bytes([number]) + bytes(8) for number in range(20)])
        watch.add(rx.collect(20, timeout=10))
        with exported(watch) as exporter:
            status, headers, body = get(exporter, "/json?pretty")
    found = json.loads(body)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert (found["ledger"]["received"], found["backend"], found["drops"].keys()) == (
        20,
        backend,
        {"socket", "ring", "background", "nic"},
    )
    assert [(one["group"], one["packets"], one["state"]) for one in found["streams"]] == [
        ("239.9.3.3", 20, "receiving")
    ]
    assert [(one["group"], one["received"], one["key"]) for one in found["flows"]] == [("239.9.3.3", 20, "00000000")]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 200), ("HEAD", "/metrics", 200), ("GET", "/favicon.ico", 404), ("POST", "/metrics", 405)],
)
def test_other_requests(method, path, status):
    with exported() as exporter:
        got, headers, body = get(exporter, path, method)
        assert got == status
        assert (len(body) == 0) == (method == "HEAD")
        assert int(headers["Content-Length"]) > 0
        assert headers["Connection"] == "close"


def raw(exporter, data):
    """What comes for these bytes, to the end of the connection."""
    with socket.create_connection(exporter.address, timeout=60) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /metrics SPDY/3\r\n\r\n", b"400"),
        (b"\xff\x00 / HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 10_000, b"431"),
        (b"GET /metrics HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /metrics HTTP/1.1\r\nno colon\r\n: \r\nAccept: \xff\r\n\r\n", b"200"),
    ],
)
def test_what_is_no_request(data, status):
    with exported() as exporter:
        assert raw(exporter, data).startswith(b"HTTP/1.1 " + status)
        assert get(exporter)[0] == 200


def test_clients_that_say_nothing_keep_nobody_away(monkeypatch):
    monkeypatch.setattr(_server, "PATIENCE", 3600.0)
    with exported() as exporter:
        silent = [socket.create_connection(exporter.address, timeout=60) for _ in range(2 * _server.MOST_CLIENTS)]
        try:
            assert get(exporter)[0] == 200
            assert silent[0].recv(1) == b""  # the oldest gave way
        finally:
            for one in silent:
                one.close()


def test_a_silent_client_is_dropped_after_a_while(monkeypatch):
    monkeypatch.setattr(_server, "PATIENCE", 0.05)
    with exported() as exporter, socket.create_connection(exporter.address, timeout=60) as silent:
        assert silent.recv(1) == b""


def test_a_request_that_comes_byte_by_byte_is_dropped_after_a_while(monkeypatch):
    monkeypatch.setattr(_server, "PATIENCE", 0.1)
    with exported() as exporter, socket.create_connection(exporter.address, timeout=60) as slow:
        slow.settimeout(0.001)
        answer = None
        with suppress(ConnectionError):
            while answer is None:
                slow.sendall(b"a")
                with suppress(TimeoutError):
                    answer = slow.recv(65_536)
        assert not answer


def test_a_client_that_reads_slowly_gets_all_of_a_long_answer(monkeypatch):
    body = bytes(range(256)) * 65_536  # more than the buffers of a connection hold
    with exported() as exporter:
        monkeypatch.setattr(exporter._pages, "_index", lambda _: _server.Answer("application/octet-stream", body))
        with socket.create_connection(exporter.address, timeout=60) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert get(exporter)[0] == 200  # meanwhile
            got = b"".join(iter(lambda: slow.recv(65_536), b""))
    assert got.partition(b"\r\n\r\n")[2] == body


def test_what_fails_is_answered_and_the_next_one_too(monkeypatch, caplog):
    watch, _ = watched()
    with exported(watch) as exporter:
        monkeypatch.setattr(watch, "streams", lambda: 1 / 0)
        status, _, body = get(exporter)
        assert (status, body) == (500, b"ZeroDivisionError: division by zero\n")
        assert "cannot be answered" in caplog.text
        monkeypatch.undo()
        assert get(exporter)[0] == 200


def test_without_descriptors_it_waits_for_some(monkeypatch, caplog):
    accept = socket.socket.accept
    left = [2]

    def refuse(self):
        if left[0]:
            left[0] -= 1
            raise OSError(24, "Too many open files")
        return accept(self)

    with exported() as exporter:
        monkeypatch.setattr(socket.socket, "accept", refuse)
        assert get(exporter)[0] == 200
    assert left == [0]
    assert "Too many open files" in caplog.text


@pytest.mark.parametrize("refused", ["getaddrinfo", "socket", "socketpair"])
def test_an_exporter_without_descriptors_is_an_error_of_ours(monkeypatch, no_leak, refused):
    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    if refused == "socketpair":
        monkeypatch.setattr(_server.pairs, "connected", refuse)
    else:
        monkeypatch.setattr(socket, refused, refuse)
    with pytest.raises(mcast.SocketError, match=r"\(24\)"):
        monitor.exporter(Monitor(), ANY)


# ---- where it listens ----


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (":9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65_535)),
    ],
)
def test_addresses(text, wanted):
    assert _server.endpoint(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "9464", ":", ":x", ":65536", ":-1", ":1234567", ":0000001234567", "::1:9464", "[::1]", "[a]:1", ":²"]
)
def test_texts_that_are_no_address(text):
    with pytest.raises(errors.ArgumentError, match="use :9464"):
        monitor.exporter(Monitor(), text)


def test_where_it_listens(backend):
    with exported() as exporter:
        assert exporter.address[0] == "127.0.0.1"
        assert exporter.url == f"http://127.0.0.1:{exporter.address[1]}/metrics"
        assert exporter.url in repr(exporter)
    assert repr(exporter).endswith(", closed>")


def test_a_port_that_is_in_use_is_an_error_of_ours(no_leak):
    with exported() as exporter:
        with pytest.raises(errors.SocketError) as caught:
            monitor.exporter(Monitor(), f":{exporter.address[1]}")
        assert caught.value.operation == "metrics"
        text = str(caught.value)
        assert text.startswith(f"metrics 127.0.0.1:{exporter.address[1]}: ")
        assert "name another port, or 0" in text


@pytest.mark.needs("own addresses only")
def test_an_address_of_another_machine_is_an_error_of_ours(no_leak):
    with pytest.raises(errors.SocketError, match=r"metrics 192\.0\.2\.77:0: .*one of this machine's"):
        monitor.exporter(Monitor(), "192.0.2.77:0")


def test_a_host_that_is_not_known_is_an_error_of_ours(monkeypatch):
    def unknown(*_args, **_named):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(errors.ArgumentError, match=r"no\.such\.host:1: no such host: Name or service not known"):
        monitor.exporter(Monitor(), "no.such.host:1")


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    for name in [one for one in sys.modules if one.startswith("prometheus_client.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(errors.FeatureError, match=r"pip install 'mcast-fast\[metrics\]'"):
        monitor.exporter(Monitor(), ANY)


@pytest.mark.parametrize("wrong", [None, "239.1.1.1", 7])
def test_what_cannot_be_exported(wrong):
    with pytest.raises(errors.ArgumentError, match="not a Receiver, a Wire, a Monitor, or an Arbiter"):
        monitor.exporter(wrong, ANY)


def test_as_a_collector_of_a_registry(backend):
    from prometheus_client import CollectorRegistry, generate_latest

    watch, _ = watched()
    watch.add(batch(NOW))
    registry = CollectorRegistry()
    with monitor.exporter(watch, None) as exporter:
        assert (exporter.address, exporter.url, threads()) == (None, "", [])
        registry.register(exporter)
        assert b"mcast_stream_packets_total{" in generate_latest(registry)
    with pytest.raises(errors.ClosedError):
        exporter.collect()


# ---- its life ----


def test_closing_leaves_no_thread_and_no_descriptor(backend, no_leak):
    exporter = monitor.exporter(Monitor(), ANY)
    with socket.create_connection(exporter.address, timeout=60) as client:
        client.sendall(b"GET /met")
        assert until(lambda: exporter._servers[0]._clients)
        assert threads() == ["mcast-fast metrics"]
        exporter.close()
        exporter.close()
        assert until(lambda: not threads())
        assert client.recv(1) == b""
    assert exporter.closed
    with pytest.raises(OSError):  # noqa: PT011 - whichever the system has
        socket.create_connection(exporter.address, timeout=60).close()


def test_it_outlives_its_receiver_and_its_receiver_it(backend):
    text = f"239.9.3.4%{loopback()}:{free_port()}"
    rx = mcast.Receiver(text)
    with exported(Monitor(rx)) as exporter:
        rx.close()
        found = values(get(exporter)[2].decode())
    assert of(found, "mcast_packets_received_total") == [0]
    with mcast.Receiver(text) as other:
        monitor.exporter(other, ANY).close()
        assert not other.closed


def test_one_that_is_forgotten_is_closed_with_a_warning(backend, no_leak):
    kept = [monitor.exporter(Monitor(), ANY)]
    with pytest.warns(ResourceWarning, match="unclosed <Exporter "):
        kept.clear()
    gc.collect()
    assert until(lambda: not threads())


@pytest.mark.needs("timers")
def test_a_handler_closes_it_in_the_middle_of_anything(backend, no_leak):
    for delay in (0.0, 1e-5, 1e-4, 1e-3):
        watch, _ = watched()
        exporter = monitor.exporter(watch, ANY)
        before = signal.signal(signal.SIGALRM, lambda *_, one=exporter: one.close())
        try:
            signal.setitimer(signal.ITIMER_REAL, max(delay, 1e-6))
            while not exporter.closed:
                watch.add(batch(NOW, NOW))
                watch.streams()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        exporter.close()
        assert until(lambda: not threads())


# Python itself prints what a handler raises in __del__.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@needs_tracing
def test_an_opening_that_a_handler_interrupts_leaves_nothing(backend, no_leak):
    files = frozenset((_exporter.__file__, _server.__file__))
    interrupt_at_each(files, lambda: monitor.exporter(Monitor(), ANY).close(), step=3)
    gc.collect()
    assert until(lambda: not threads())


@pytest.mark.needs("signals to processes")
@pytest.mark.parametrize("end", ["close", "collect", "forget"])
def test_a_child_closes_its_descriptors_and_nothing_else(backend, end):
    watch, _ = watched()
    exporter = monitor.exporter(watch, ANY)
    with socket.create_connection(exporter.address, timeout=60) as client:
        client.sendall(b"GET /metrics ")
        assert until(lambda: exporter._servers[0]._clients)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if end == "collect":
                    exporter.collect()
                elif end == "close":
                    exporter.close()
                    code = 7 if exporter.closed else 2
                else:
                    del exporter
                    gc.collect()
                    code = 7
            except errors.ClosedError:
                code = 7
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        client.sendall(b"HTTP/1.1\r\n\r\n")
        assert client.recv(15) == b"HTTP/1.1 200 OK"
    assert get(exporter)[0] == 200
    exporter.close()
    assert until(lambda: not threads())


@pytest.mark.long
@pytest.mark.parametrize("held", ["kept.append(one)", "sys.kept = one", "one.cycle = [one]"])
def test_the_interpreter_ends_with_one_open(backend, held):
    code = (
        "import sys, warnings; warnings.simplefilter('ignore'); kept = []\n"
        "from mcast_fast import monitor\n"
        "one = monitor.exporter(monitor.Monitor(), '127.0.0.1:0')\n"
        f"{held}; print('done')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"MCAST_FAST_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_scrapes_from_many_threads_while_batches_are_added(backend):
    watch, _ = watched()
    one, ended = batch(*[NOW] * 50), threading.Event()

    def adds():
        while not ended.is_set():
            watch.add(one)

    adding = threading.Thread(target=adds)
    adding.start()
    try:
        with exported(watch) as exporter:
            found = [of(values(get(exporter)[2].decode()), "mcast_stream_packets_total") for _ in range(10)]
    finally:
        ended.set()
        adding.join()
    counts = [count for counts in found for count in counts]
    assert counts == sorted(counts)
    assert all(count % 50 == 0 and math.isfinite(count) for count in counts)


# ---- the command line ----


class At:
    """An exporter of another program, as `get` takes it."""

    def __init__(self, port):
        self.address = ("127.0.0.1", port)


def tcp_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def scraped(*arguments, group, count=7, counter="mcast_stream_packets_total"):
    """What a verb serves when that many packets have come, and how it ended: a signal ends it then."""
    port, found = tcp_port(), {}

    def scrape():
        try:
            return values(get(At(port))[2].decode())
        except OSError:  # it does not listen yet
            return {}

    def drive():
        try:
            assert until(scrape, 60)
            with mcast.Sender(group, ttl=0) as tx:
                tx.send_batch([b"\x80\x21\x00" + bytes([number]) + bytes(8) for number in range(count)])
            assert until(lambda: of(scrape(), counter) == [count], 60), scrape()
            found.update(scrape())
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    driver = threading.Thread(target=drive)
    driver.start()
    result = invoke(*arguments, "--metrics", f":{port}")
    driver.join()
    assert f"metrics at http://127.0.0.1:{port}/metrics" in result.stderr
    return found, result


@pytest.mark.needs("signals to processes")
@pytest.mark.parametrize(
    "arguments",
    [
        ("receive", "-o", "none"),
        ("receive", "-o", "none", "--sequence", "rtp", "--metrics-per-source"),
        ("record", "-w", "feed.pcapng"),
        ("check", "-f", "rtp"),
        ("top", "--interval", "50ms"),
    ],
    ids=" ".join,
)
def test_verbs_serve_what_they_receive(backend, no_leak, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    group = f"239.9.3.9%{loopback()}:{free_port()}"
    found, result = scraped(arguments[0], group, *arguments[1:], group=group)
    assert result.exit_code == 0, result.stderr
    assert of(found, "mcast_packets_received_total") == [7]
    assert of(found, "mcast_streams", group="239.9.3.9", state="receiving") == [1]
    own_numbers = "rtp" in arguments
    assert of(found, "mcast_sequence_lost_total") == ([0] if own_numbers else [])  # by itself 16 packets show RTP
    assert any("source" in dict(has) for _, has in found) == ("--metrics-per-source" in arguments)
    assert until(lambda: not threads())


@pytest.mark.needs("signals to processes", "kernel_timestamps")
def test_arbitrate_serves_its_ledger(backend, no_leak):
    groups = [f"239.9.3.{number}%{loopback()}:{free_port()}" for number in (10, 11)]
    options = (*groups, "-f", "rtp", "--hold", "1ms")
    found, result = scraped("arbitrate", *options, group=groups[0], counter="mcast_feed_delivered_total")
    assert result.exit_code == 0, result.stderr
    assert of(found, "mcast_leg_received_total") == [7, 0]
    assert of(found, "mcast_legs", leg="1", state="waiting") == [1]
    assert of(found, "mcast_leg_packets_dropped_total", leg="0", cause="background") == [0]
    assert until(lambda: not threads())


def test_a_port_in_use_names_the_option(backend, no_leak):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = invoke("receive", f"239.9.3.9%{loopback()}:{free_port()}", "--metrics", f":{port}")
    assert result.exit_code == 1
    assert f"mcast-fast: --metrics 127.0.0.1:{port}: " in result.stderr
    assert "name another port, or 0" in result.stderr


@pytest.mark.parametrize("verb", [("receive",), ("record", "-w", "x"), ("check", "-f", "rtp"), ("top",)])
def test_an_address_that_is_none_is_a_usage_error(verb):
    result = invoke(verb[0], "239.1.1.1:5000", *verb[1:], "--metrics", "9464")
    assert result.exit_code == 2
    assert "--metrics: '9464' is not [HOST]:PORT; use :9464" in result.stderr


def test_files_have_no_metrics(tmp_path):
    file = tmp_path / "feed.pcapng"
    file.touch()
    result = invoke("check", str(file), "-f", "rtp", "--metrics", ":0")
    assert result.exit_code == 2
    assert "--metrics is of groups" in result.stderr


# ---- recordings ----


def test_a_recorder_shows_each_batch(backend, tmp_path):
    group = f"239.9.3.9%{loopback()}:{free_port()}"
    with mcast.Receiver(group) as rx, mcast.Sender(group, ttl=0) as tx:
        watch = Monitor(rx)
        recorder = mcast.files.Recorder(
            rx, tmp_path / "feed.pcapng", stop=mcast.files.Autostop(packets=5), on_batch=watch.add
        )
        tx.send_batch([b"x"] * 5)
        assert recorder.run().written == 5
        assert [one.packets for one in watch.streams()] == [5]
        with pytest.raises(errors.ArgumentError, match="on_batch 7 cannot be called"):
            mcast.files.Recorder(rx, tmp_path / "other.pcapng", on_batch=7)


def test_what_a_call_for_batches_raises_ends_the_recording_and_loses_nothing(backend, tmp_path):
    group = f"239.9.3.9%{loopback()}:{free_port()}"
    with mcast.Receiver(group) as rx, mcast.Sender(group, ttl=0) as tx:
        recorder = mcast.files.Recorder(rx, tmp_path / "feed.pcapng", on_batch=lambda _: 1 / 0)
        tx.send_batch([b"x"] * 5)
        with pytest.raises(ZeroDivisionError):
            recorder.run()
        assert recorder.result.reason == "error"
        assert len(rx.collect(5, timeout=10)) == 5
