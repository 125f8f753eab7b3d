"""plan.toml: what it may say, how it is dealt, and who is there by heartbeats."""

import itertools
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcast_fast import cluster, errors
from mcast_fast.cluster import _heartbeat
from tests.test_cli import invoke

PLAN = """
name = "market"

[heartbeat]
group = "239.255.77.1%eth0:5077"
interval = "200ms"
silent = "800ms"

[files]
directory = "/captures"
rotate = { interval = "1h", filesize = "1GiB" }

[hosts.alpha]
interface = "eth0"
capacity = "1Gbit/s"
[hosts.beta]
directory = "/data"
[hosts.gamma]
spare = true

[[groups]]
group = "239.1.1.1:5000+4"
legs = ["239.2.1.1:5000+4"]
format = "moldudp64"
rate = "50Mbit/s"
[[groups]]
group = "10.0.0.5@232.1.1.1:6000"
hosts = ["alpha", "gamma"]
[[groups]]
group = "[ff15::1]:7000"
format = "rtp"
copies = 2
"""
SECOND = 1_000_000_000


def test_a_plan(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    plan = cluster.Plan.load(path)
    assert (plan.name, len(plan.groups), list(plan.hosts)) == ("market", 10, ["alpha", "beta", "gamma"])
    assert (plan.heartbeat.interval, plan.heartbeat.silent) == (SECOND // 5, 4 * SECOND // 5)
    assert [host.directory for host in plan.hosts.values()] == ["/captures", "/data", "/captures"]
    assert plan.feeds[0].format == "moldudp64"
    assert cluster.Plan.parse(PLAN).digest == plan.digest
    assert cluster.Plan.parse(PLAN.replace("market", "markets")).digest != plan.digest


# What is changed in PLAN -> what the error names.
WRONG = {
    "no toml": ("[heartbeat]", "[heartbeat", "plan.toml: it is no TOML: "),
    "unknown key": ('name = "market"', 'title = "market"', "plan.toml: 'title' is unknown; the keys are version, name"),
    "version": ('name = "market"', "version = 2", "plan.toml: 'version': 2 is no whole number from 1 to 1"),
    "no heartbeat": ('group = "239.255.77.1%eth0:5077"', "", "plan.toml, [heartbeat]: 'group' is missing"),
    "no port": ("%eth0:5077", "%eth0", "plan.toml, [heartbeat]: 'group': 239.255.77.1%eth0 has no port"),
    "silent": ('"800ms"', '"300ms"', "plan.toml, [heartbeat]: 'silent' is at least two intervals"),
    "time": ('"800ms"', '"800 parsec"', "plan.toml, [heartbeat]: 'silent' '800 parsec' is not a time"),
    "host": ("[hosts.beta]", '[hosts."be ta"]', "plan.toml, [hosts.be ta]: 'be ta' is no name of a host"),
    "rate": ('"1Gbit/s"', '"fast"', "plan.toml, [hosts.alpha]: 'capacity' 'fast' is not a rate"),
    "flag": ("spare = true", 'spare = "yes"', "plan.toml, [hosts.gamma]: 'spare': 'yes' is neither true nor false"),
    "group": ("10.0.0.5@232.1.1.1:6000", "10.0.0.5:6000", "plan.toml, [[groups]] number 2: group '10.0.0.5:6000'"),
    "format": ('"rtp"', '"rpt"', "plan.toml, [[groups]] number 3: 'rpt' is not a format"),
    "unknown host": ('"alpha", "gamma"', '"delta"', "plan.toml, [[groups]] number 2: 'hosts': 'delta' is none of"),
    "copies": ("copies = 2", "copies = 4", "plan.toml, [[groups]] number 3: 'copies': 4 are more than"),
    "legs": ("239.2.1.1:5000+4", "239.2.1.1:5000+3", "plan.toml, [[groups]] number 1: 'legs': each leg has as many"),
    "twice": (
        "239.2.1.1:5000+4",
        "239.1.1.4:5000+4",
        "plan.toml, [[groups]] number 1: 239.1.1.4:5000 is there already",
    ),
    "heartbeats recorded": ("10.0.0.5@232.1.1.1:6000", "239.255.77.1:5077", "plan.toml, [heartbeat]: 'group': "),
    "rotation": ('interval = "1h", filesize = "1GiB"', "files = 3", "plan.toml, [files]: 'rotate': a rotation needs"),
    "rotation's key": ('interval = "1h"', 'intervall = "1h"', "plan.toml, [files]: 'rotate': 'intervall' is unknown"),
}


@pytest.mark.parametrize(("old", "new", "said"), WRONG.values(), ids=WRONG.keys())
def test_an_error_names_file_table_and_key(old, new, said):
    assert old in PLAN
    with pytest.raises(errors.ArgumentError) as caught:
        cluster.Plan.parse(PLAN.replace(old, new))
    assert str(caught.value).startswith(said)


@settings(max_examples=40)
@given(st.data())
def test_no_text_breaks_the_reading_of_a_plan(data):
    lines = PLAN.splitlines()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at] = data.draw(
            st.sampled_from([*lines, "", "[groups]", "hosts = 3", "[[hosts]]", "x = [[[]]]", "\ud800"])
        )
    try:
        cluster.Plan.parse("\n".join(lines))
    except errors.ArgumentError as error:
        assert str(error).startswith("plan.toml")


# ---- dealing ----


def plan_of(hosts, groups, spares=0, copies=1):
    """A plan of hosts and of groups with these rates in Mbit/s."""
    names = [f"h{at}" for at in range(hosts)]
    text = '[heartbeat]\ngroup = "239.255.77.1:5077"\n'
    text += "".join(
        f"[hosts.{name}]\n{'spare = true' if at >= hosts - spares else ''}\n" for at, name in enumerate(names)
    )
    for at, rate in enumerate(groups):
        text += (
            f'[[groups]]\ngroup = "239.1.{at // 250}.{at % 250 + 1}:5000"\nrate = "{rate}Mbit/s"\ncopies = {copies}\n'
        )
    return cluster.Plan.parse(text), names


def owners(shares):
    found = {}
    for share in shares:
        for group in share.groups:
            found.setdefault(str(group), set()).add(share.host)
    return found


PLANS = st.tuples(
    st.integers(2, 6), st.lists(st.integers(1, 100), min_size=1, max_size=40), st.integers(0, 2), st.integers(1, 3)
).filter(lambda made: made[2] < made[0] and made[3] <= made[0])


@settings(max_examples=30)
@given(PLANS, st.randoms())
def test_only_the_groups_of_a_host_that_fails_move(made, chosen):
    plan, names = plan_of(*made)
    deal, copies = cluster.Deal(plan), made[3]
    assert deal.shares() == cluster.Deal(plan).shares()
    there = list(names)
    while there:
        before = owners(deal.shares(there))
        assert all(len(who) == min(copies, len(there)) for who in before.values())
        assert len(before) == len(plan.groups)
        down = chosen.choice(there)
        there.remove(down)
        after = owners(deal.shares(there))
        for group, who in before.items():
            if down in who:
                assert who - {down} <= after.get(group, set())
            else:
                assert after[group] == who


@settings(max_examples=30)
@given(PLANS)
def test_rates_are_dealt_evenly(made):
    """No host has more than another one but by the largest group: what greedy dealing promises."""
    plan, _names = plan_of(made[0], made[1], made[2])
    shares = [share for share in cluster.Deal(plan).shares() if not plan.hosts[share.host].spare]
    rates = [share.rate for share in shares]
    assert max(rates) - min(rates) <= max(made[1]) * 1e6
    assert sum(rates) == sum(made[1]) * 1e6


def test_what_a_host_recorded_is_spread_over_the_others():
    plan, _ = plan_of(4, [10] * 60)
    shares = cluster.Deal(plan).shares(["h0", "h1", "h2"])
    assert [len(share.groups) for share in shares] == [20, 20, 20]


def test_spare_hosts_take_over_first():
    plan, _ = plan_of(4, [10] * 60, spares=1)
    assert [len(share.groups) for share in cluster.Deal(plan).shares()] == [20, 20, 20, 0]
    assert [len(share.groups) for share in cluster.Deal(plan).shares(["h1", "h2", "h3"])] == [20, 20, 20]


def test_a_spare_host_takes_over_first_also_where_others_have_more_capacity():
    text = """
[heartbeat]
group = "239.255.77.1:5077"
[hosts.alpha]
capacity = "10Gbit/s"
[hosts.beta]
capacity = "10Gbit/s"
[hosts.gamma]
spare = true
capacity = "1Gbit/s"
[[groups]]
group = "239.1.1.1:5000+4"
rate = "100Mbit/s"
"""
    shares = cluster.Deal(cluster.Plan.parse(text)).shares(["beta", "gamma"])
    assert [len(share.groups) for share in shares] == [2, 2]


def test_legs_and_copies_are_on_different_hosts():
    deal = cluster.Deal(cluster.Plan.parse(PLAN))
    found = owners(deal.shares())
    for at in range(1, 5):
        assert found[f"239.1.1.{at}:5000"].isdisjoint(found[f"239.2.1.{at}:5000"])
    assert found["10.0.0.5@232.1.1.1:6000"] == {"alpha"}
    assert found["[ff15::1]:7000"] == {"alpha", "beta"}
    assert deal.order("232.1.1.1:6000") == ("alpha", "gamma")


def test_a_capacity_counts():
    text = """
[heartbeat]
group = "239.255.77.1:5077"
[hosts.large]
capacity = "900Mbit/s"
[hosts.small]
capacity = "100Mbit/s"
[[groups]]
group = "239.1.1.1:5000+20"
rate = "10Mbit/s"
"""
    rates = {share.host: share.rate for share in cluster.Deal(cluster.Plan.parse(text)).shares()}
    assert rates == {"large": 180e6, "small": 20e6}


def test_a_host_that_there_is_not():
    deal = cluster.Deal(cluster.Plan.parse(PLAN))
    with pytest.raises(errors.ArgumentError, match="no host 'delta'"):
        deal.shares(["delta"])
    with pytest.raises(errors.ArgumentError, match=r"no group 239\.9\.9\.9:1"):
        deal.order("239.9.9.9:1")


# ---- heartbeats ----


class Network:
    """Presences of the hosts of a plan, that hear each other."""

    def __init__(self, plan):
        self.plan = plan
        self.now = 1000 * SECOND
        self.hosts = {}

    def start(self, name, start=1):
        self.hosts[name] = _heartbeat.Presence(self.plan, name, start, self.now)

    def pass_time(self, ms, leaving=()):
        for _ in range(ms // 100):
            self.now += SECOND // 10
            for name, sender in list(self.hosts.items()):
                state = _heartbeat.State.LEAVING if name in leaving else _heartbeat.State.RECORDING
                data = sender.beat(self.now, state)
                for other in self.hosts.values():
                    other.hear(data, self.now, self.now)

    def there(self, name):
        return sorted(self.hosts[name].there(self.now))


@pytest.fixture
def network():
    made = Network(cluster.Plan.parse(PLAN))
    for name in made.plan.hosts:
        made.start(name)
    return made


def test_a_heartbeat_that_comes_again_keeps_nobody_there(network):
    """A network that repeats datagrams, or a stranger that does."""
    network.pass_time(1000)
    again = network.hosts.pop("beta").beat(network.now)
    for _ in range(10):
        network.hosts["alpha"].hear(again, network.now, network.now)
        network.pass_time(100)
    assert network.there("alpha") == ["alpha", "gamma"]


def test_a_host_that_falls_silent_is_gone_after_the_plan_s_time(network):
    network.pass_time(1000)
    assert network.there("alpha") == ["alpha", "beta", "gamma"]
    del network.hosts["beta"]
    network.pass_time(800)
    assert network.there("alpha") == ["alpha", "beta", "gamma"]
    network.pass_time(100)
    assert network.there("alpha") == network.there("gamma") == ["alpha", "gamma"]


def test_at_the_start_nobody_is_gone(network):
    assert network.there("alpha") == ["alpha", "beta", "gamma"]
    assert network.hosts["alpha"].settled(network.now) == frozenset()
    alone = Network(network.plan)
    alone.start("alpha")
    alone.pass_time(900)
    assert alone.there("alpha") == ["alpha"]


def test_a_host_that_comes_back_is_settled_after_a_while(network):
    network.pass_time(1000)
    assert network.hosts["alpha"].settled(network.now) == {"beta", "gamma"}
    del network.hosts["beta"]
    network.pass_time(1000)
    network.start("beta", start=2)
    network.pass_time(100)
    assert "beta" in network.there("alpha")
    assert network.hosts["alpha"].settled(network.now) == {"gamma"}
    network.pass_time(900)
    assert network.hosts["alpha"].settled(network.now) == {"beta", "gamma"}


def test_a_host_that_leaves_is_gone_at_once(network):
    network.pass_time(1000)
    network.pass_time(100, leaving=["beta"])
    assert network.there("alpha") == ["alpha", "gamma"]
    assert network.there("beta") == ["alpha", "beta", "gamma"]


def test_another_plan_is_nobody(network):
    other = cluster.Plan.parse(PLAN.replace("market", "stocks"))
    network.hosts["beta"] = _heartbeat.Presence(other, "beta", 5, network.now)
    network.pass_time(1000)
    assert network.there("alpha") == ["alpha", "gamma"]
    assert network.hosts["alpha"].other_plans == {"beta"}


def test_another_recorder_of_the_same_name_is_noticed(network):
    twin = _heartbeat.Presence(network.plan, "alpha", 77, network.now)
    network.hosts["alpha"].hear(twin.beat(network.now), network.now, network.now)
    assert network.hosts["alpha"].twins == 1
    network.hosts["alpha"].hear(network.hosts["alpha"].beat(network.now), network.now, network.now)
    assert network.hosts["alpha"].twins == 1


def test_a_clock_that_is_off_is_noticed(network):
    data = network.hosts["beta"].beat(network.now + 5 * SECOND)
    network.hosts["alpha"].hear(data, network.now, network.now)
    assert network.hosts["alpha"].clocks() == {"beta": 5 * SECOND}


@settings(max_examples=50)
@given(st.lists(st.one_of(st.binary(max_size=64), st.tuples(st.integers(0, 39), st.integers(0, 255)))))
def test_hostile_datagrams_neither_stop_nor_grow_it(datagrams):
    plan = cluster.Plan.parse(PLAN)
    presence = _heartbeat.Presence(plan, "alpha", 1, 1000 * SECOND)
    beta = _heartbeat.Presence(plan, "beta", 2, 1000 * SECOND)
    for now, one in zip(itertools.count(1000 * SECOND, SECOND // 10), datagrams, strict=False):
        if isinstance(one, tuple):
            data = bytearray(beta.beat(now))
            data[one[0]] = one[1]
            one = bytes(data)
        presence.hear(one, now, now)
        assert "alpha" in presence.there(now) <= set(plan.hosts)
    assert len(presence._peers) == len(plan.hosts)
    assert presence.other_plans <= set(plan.hosts)


# ---- the command line ----


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return path


def test_the_verb_deals(plan_file):
    done = invoke("plan", "deal", plan_file, "--json")
    assert done.exit_code == 0
    dealt = json.loads(done.output)
    assert dealt["gamma"]["groups"] == []
    down = json.loads(invoke("plan", "deal", plan_file, "--down", "alpha", "--json").output)
    assert set(down) == {"beta", "gamma"}
    text = invoke("plan", "deal", plan_file).output
    assert f"alpha: {len(dealt['alpha']['groups'])} groups" in text


def test_the_verb_counts_one(tmp_path):
    alone = tmp_path / "alone.toml"
    alone.write_text(
        '[heartbeat]\ngroup = "239.255.77.1:5077"\n[files]\ndirectory = "/captures"\n[hosts.a]\n[[groups]]\ngroup = "239.1.1.1:5000"\n'
    )
    assert "1 host, 1 group, digest" in invoke("plan", "check", alone).output
    assert "a: 1 group, 1.0 Mbit/s\n" in invoke("plan", "deal", alone).output


def test_the_verb_checks_and_shows(plan_file):
    assert "3 hosts, 10 groups" in invoke("plan", "check", plan_file).output
    assert (
        "heartbeats on 239.255.77.1%eth0:5077 every 200 ms; silent after 800 ms"
        in invoke("plan", "show", plan_file).output
    )
    plan_file.write_text(PLAN.replace("1Gbit/s", "60Mbit/s"))
    done = invoke("plan", "check", plan_file)
    assert done.exit_code == 1
    assert "alpha records" in done.output
    plan_file.write_text(PLAN.replace("1Gbit/s", "60 bananas"))
    assert invoke("plan", "check", plan_file).exit_code == 2


def test_recording_by_a_plan_takes_no_other_options(plan_file):
    done = invoke("record", "239.1.1.1:5000", "--plan", plan_file, "--host", "alpha")
    assert done.exit_code == 2
    assert "leave out GROUP" in done.output
    assert "--plan and --host go together" in invoke("record", "--plan", plan_file).output
    done = invoke("record", "--plan", plan_file, "--host", "delta")
    assert done.exit_code == 2
    assert "--host delta is none of the plan" in done.output


def test_deals_of_many_groups_and_hosts_end_soon():
    chosen = random.Random(1)
    plan, names = plan_of(20, [chosen.randint(1, 50) for _ in range(600)])
    deal = cluster.Deal(plan)
    assert sum(len(share.groups) for share in deal.shares(names[:3])) == 600
