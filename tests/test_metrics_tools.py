"""Metrics against Prometheus' own tools: promtool's checks, a real server that scrapes, the dashboard and the alert rules."""

import json
import re
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

import mcast_fast as mcast
from mcast_fast import monitor
from mcast_fast.monitor import Monitor, StreamState, _families
from mcast_fast.sequence import ArbiterStats, LegState, LegStats
from mcast_fast.stats import Flow, FlowState, Stats
from tests.conftest import free_port, loopback, until
from tests.test_metrics import ANY, batch, get, rtp
from tests.test_monitor import watched
from tests.test_pcapng import NOW

DOCS = Path(__file__).parent.parent / "docs"
DASHBOARD, ALERTS = DOCS / "metrics" / "dashboard.json", DOCS / "metrics" / "alerts.yml"
PATIENCE = 60
SUFFIXES = {"counter": ("_total",), "info": ("_info",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


def rules():
    yaml = pytest.importorskip("yaml", reason="feature yaml: PyYAML is not installed")
    (group,) = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    return group["rules"]


def every_family():
    """With a sample of each."""
    flow = Flow("10.0.0.1", None, "239.1.1.1", 5000, b"", FlowState.RECEIVING)
    stream = monitor.Stream("239.1.1.1", 5000, "10.0.0.1", "eth0", StreamState.RECEIVING, last_time=1)
    stats = Stats(dropped_socket=0, dropped_ring=0, dropped_nic=0, lost=0, flows=(flow,))
    feed = ArbiterStats(legs=(LegStats(LegState.RECEIVING),))
    seen = _families.Seen(stats, (stream,), feed, (monitor.drops(stats),))
    return list(_families.families(seen, True, {"version": "1", "backend": "fast"}))


def every_sample():
    """Names of samples -> their labels."""
    found = {}
    for family in every_family():
        for suffix in SUFFIXES[family.kind]:
            labels = {*family.labels, *(["le"] if suffix == "_bucket" else [])}
            found[family.name + suffix] = labels
    return found


def checked(text):
    """The names in a query of which none is without a sample, and the labels that it selects and groups by."""
    named = set(re.findall(r"\bmcast_\w+", text))
    known = every_sample()
    assert named <= known.keys(), named - known.keys()
    selectors = re.findall(r"(mcast_\w+)\{([^}]*)\}", text)
    for name, inside in selectors:
        labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", inside)) - {"job", "instance"}
        assert labels <= known[name], f"{name} has no label {labels - known[name]}"
    grouped = {one.strip() for inside in re.findall(r"\bby \(([^)]*)\)", text) for one in inside.split(",")}
    assert grouped <= {"job", "instance"}.union(*(known[name] for name in named)), text
    return named


# ---- the page, the dashboard, the rules ----


def test_the_page_names_every_metric_with_its_type_and_labels():
    rows = re.findall(
        r"^\| `(mcast_\w+)` \| (\w+)[^|]*\| ([^|]*)\|", (DOCS / "metrics.md").read_text("utf-8"), re.MULTILINE
    )
    listed = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    wanted = {}
    for family in every_family():
        name = family.name + ("" if family.kind == "histogram" else SUFFIXES[family.kind][0])
        wanted[name] = family.kind, {*family.labels} - {"source"}
    assert listed == wanted


def test_every_query_of_the_page_is_of_metrics_that_exist():
    queries = re.findall(r"^\| [^|]+ \| `(.*)` \|$", (DOCS / "metrics.md").read_text("utf-8"), re.MULTILINE)
    named = [checked(one) for one in queries if "mcast_" in one]
    assert len(named) >= 7


def test_every_query_of_the_dashboard_is_of_metrics_that_exist():
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [one["definition"] for one in dashboard["templating"]["list"] if "definition" in one]
    queries += [one["expr"] for one in dashboard["annotations"]["list"] if "expr" in one]
    named = set().union(*map(checked, queries))
    assert len(named) > 15
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    taken = [
        (x, y)
        for one in places
        for x in range(one["x"], one["x"] + one["w"])
        for y in range(one["y"], one["y"] + one["h"])
    ]
    assert len(taken) == len(set(taken)), "panels lie over each other"
    assert max(x for x, _ in taken) < 24


def test_every_alert_is_of_metrics_that_exist():
    named = [checked(rule["expr"]) for rule in rules() if "up{" not in rule["expr"]]
    assert all(named)
    assert len(named) == len(rules()) - 1
    for rule in rules():
        labels = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        assert labels <= {"job", "instance"}.union(*every_sample().values()), rule["alert"]


# ---- promtool ----


def promtool(*arguments, stdin=""):
    return subprocess.run(["promtool", *arguments], input=stdin, capture_output=True, text=True, check=False)


@pytest.mark.needs("promtool")
def test_promtool_finds_nothing_in_the_metrics(backend):
    watch, clock = watched()
    watch.add(rtp(*range(100)))
    watch.add(batch(NOW, port=5001))
    clock.pass_by(0.25)
    text = f"239.9.4.1%{loopback()}:{free_port()}"
    with mcast.Receiver(text, sequence="rtp") as rx:
        for one in (watch, Monitor(rx), rx):
            with monitor.exporter(one, ANY, per_source=True) as exporter:
                done = promtool("check", "metrics", stdin=get(exporter)[2].decode())
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.needs("promtool")
def test_promtool_accepts_the_alert_rules():
    done = promtool("check", "rules", str(ALERTS))
    assert done.returncode == 0, done.stderr
    assert f"SUCCESS: {len(rules())} rules found" in done.stdout


CASES = """
rule_files: [{alerts}]
evaluation_interval: 5s
tests:
  - interval: 5s
    input_series:
      - series: 'mcast_streams{{job="j", instance="i", group="239.1.1.1", port="5000", interface="eth0", state="stalled"}}'
        values: 0x12 1x12
      - series: 'mcast_packets_dropped_total{{job="j", instance="i", cause="socket"}}'
        values: 0x12 10x12
      - series: 'mcast_packets_dropped_total{{job="j", instance="i", cause="ring"}}'
        values: 7x24
      - series: 'mcast_sequence_lost_total{{job="j", instance="i", group="239.1.1.1", port="5000"}}'
        values: 5x24
    alert_rule_test:
      - {{alertname: MulticastStreamStalled, eval_time: 60s, exp_alerts: []}}
      - alertname: MulticastStreamStalled
        eval_time: 80s
        exp_alerts:
          - exp_labels: {{severity: critical, job: j, instance: i, group: 239.1.1.1, port: "5000", interface: eth0}}
            exp_annotations:
              summary: 239.1.1.1:5000 on eth0 has stopped at i
              description: {stalled}
      - {{alertname: MulticastPacketsDropped, eval_time: 60s, exp_alerts: []}}
      - {{alertname: MulticastNumbersLost, eval_time: 80s, exp_alerts: []}}
    promql_expr_test:
      - expr: count(ALERTS{{alertname="MulticastPacketsDropped", alertstate="firing", cause="socket"}})
        eval_time: 80s
        exp_samples: [{{labels: "{{}}", value: 1}}]
"""


@pytest.mark.needs("promtool")
def test_the_alerts_fire_when_they_should_and_not_before(tmp_path):
    (stalled,) = [one["annotations"]["description"] for one in rules() if one["alert"] == "MulticastStreamStalled"]
    cases = tmp_path / "cases.yml"
    cases.write_text(CASES.format(alerts=ALERTS, stalled=stalled))
    done = promtool("test", "rules", str(cases))
    assert done.returncode == 0, done.stdout + done.stderr


# ---- a real server ----

CONFIGURATION = """
global: {{scrape_interval: 100ms, evaluation_interval: 100ms}}
rule_files: [{alerts}]
scrape_configs:
  - job_name: mcast-fast
    static_configs: [{{targets: ["{host}:{port}"]}}]
"""


class Prometheus:
    """Debian's program, on a port of the loopback, with a directory of its own."""

    def __init__(self, directory, target):
        self.url = f"http://127.0.0.1:{free_tcp_port()}"
        configuration = directory / "prometheus.yml"
        configuration.write_text(CONFIGURATION.format(alerts=ALERTS, host=target[0], port=target[1]))
        command = (
            *("prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={directory / 'data'}"),
            *(f"--web.listen-address={self.url.removeprefix('http://')}", "--log.level=warn"),
        )
        self.log = directory / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def ask(self, query):
        """What a query gives now: values by labels but those of the scrape; nothing while the server starts."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?query={urllib.parse.quote(query)}") as answer:
                result = json.load(answer)["data"]["result"]
        except OSError:
            assert self.process.poll() is None, self.log.read_text()
            return {}
        hidden = ("__name__", "job", "instance")
        return {
            tuple(value for name, value in sorted(one["metric"].items()) if name not in hidden): float(one["value"][1])
            for one in result
        }

    def wait_for(self, query, wanted):
        """Until the query gives that."""
        assert until(lambda: self.ask(query) == wanted, PATIENCE), (query, self.ask(query), self.log.read_text())


def free_tcp_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.long
@pytest.mark.needs("prometheus", "compiled modules")
def test_a_real_prometheus_has_the_expected_values(tmp_path):
    """Of three streams one is cut: it is stalled and 0; its sender begins anew: it has restarted."""
    watch, clock = watched()
    with monitor.exporter(watch, ANY) as exporter, Prometheus(tmp_path, exporter.address) as server:
        for port in (5000, 5001, 5002):
            watch.add(rtp(*range(20_000, 20_040), port=port))
        clock.pass_by(0.25)
        names = ("239.1.1.1", "5000"), ("239.1.1.1", "5001"), ("239.1.1.1", "5002")
        server.wait_for("sum by (group, port) (mcast_stream_packets_total)", dict.fromkeys(names, 40))
        server.wait_for("sum by (group, port) (mcast_stream_bytes_total)", dict.fromkeys(names, 480))
        server.wait_for('count by (group, port) (mcast_streams{state="receiving"} == 1)', dict.fromkeys(names, 1))
        for quarter in range(5):
            for port in (5000, 5002):
                watch.add(rtp(*range(20_040 + 5 * quarter, 20_045 + 5 * quarter), port=port))
            clock.pass_by(0.25)
        server.wait_for('max by (port) (mcast_streams{state="stalled"})', {("5000",): 0, ("5001",): 1, ("5002",): 0})
        server.wait_for("max by (port) (mcast_stream_packets_per_second)", {("5000",): 20, ("5001",): 0, ("5002",): 20})
        watch.add(rtp(*range(20), port=5001))
        clock.pass_by(0.25)
        server.wait_for('max by (port) (mcast_streams{state="restarted"})', {("5000",): 0, ("5001",): 1, ("5002",): 0})
        server.wait_for("max by (port) (mcast_sequence_restarts_total)", {("5000",): 0, ("5001",): 1, ("5002",): 0})
        server.wait_for('mcast_arrival_gap_seconds_bucket{le="+Inf"}', {("+Inf",): 3 * 39})
        assert server.ask("mcast_packets_received_total") == {}  # there is no receiver
        server.wait_for('up{job="mcast-fast"}', {(): 1})
    assert server.process.returncode == 0
