"""Whether rules of nftables stop a packet. No privilege is needed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcast_fast.doctor import _rules
from mcast_fast.doctor._rules import INPUT, Rule, Ruleset

PACKET = {
    "version": 4,
    "headers": ("ip", "udp", "th"),
    "ip.saddr": "10.0.0.5",
    "ip.daddr": "239.1.1.1",
    "ip.protocol": 17,
    "ip.frag-off": 0,
    "udp.dport": 5000,
    "th.dport": 5000,
    "meta.l4proto": 17,
    "meta.iifname": "eth0",
    "meta.nfproto": "ipv4",
    "meta.pkttype": "multicast",
}


def match(left, right, op="=="):
    return {"match": {"op": op, "left": left, "right": right}}


def payload(protocol, field):
    return {"payload": {"protocol": protocol, "field": field}}


DADDR, DPORT = payload("ip", "daddr"), payload("udp", "dport")
UNKNOWN = {"limit": {"rate": 1}}


def ruleset(*rules, policy="accept", family="inet", hook="input", extra=(), **chain):
    base = {"family": family, "table": "t", "name": "c", "type": "filter", "hook": hook, "prio": 0, "policy": policy}
    rows = [
        {"rule": {"family": family, "table": "t", "chain": "c", "handle": number, "expr": list(rule)}}
        for number, rule in enumerate(rules, 1)
    ]
    return Ruleset.parse({"nftables": [{"metainfo": {}}, {"chain": base | chain}, *rows, *extra]})


DROP, ACCEPT = {"drop": None}, {"accept": None}


@pytest.mark.parametrize(
    ("condition", "matches"),
    [
        ((), True),
        ((match(DPORT, 5000),), True),
        ((match(DPORT, 5001),), False),
        ((match(DPORT, 5001, "!="),), True),
        ((match(DPORT, 4999, ">"),), True),
        ((match(DPORT, {"range": [4000, 6000]}),), True),
        ((match(DPORT, {"range": [1, 9]}),), False),
        ((match(DPORT, {"set": [1, 5000]}),), True),
        ((match(DPORT, {"set": [1, {"range": [2, 9]}]}),), False),
        ((match(DPORT, {"set": [{"elem": {"val": 5000, "timeout": 9}}]}),), True),
        ((match(DADDR, "239.1.1.1"),), True),
        ((match(DADDR, "239.1.1.2"),), False),
        ((match(DADDR, {"prefix": {"addr": "224.0.0.0", "len": 4}}),), True),
        ((match(DADDR, {"prefix": {"addr": "10.0.0.0", "len": 8}}),), False),
        ((match(DADDR, {"range": ["239.0.0.0", "239.255.255.255"]}),), True),
        ((match({"meta": {"key": "iifname"}}, "eth*"),), True),
        ((match({"meta": {"key": "iifname"}}, "lo"),), False),
        ((match({"meta": {"key": "iifname"}}, "lo", "!="),), True),
        ((match({"meta": {"key": "l4proto"}}, "udp"),), True),
        ((match({"meta": {"key": "l4proto"}}, {"set": ["tcp", "icmp"]}),), False),
        ((match(payload("ip", "protocol"), "igmp"),), False),
        ((match(payload("ip", "protocol"), {"set": ["igmp", "udp"]}),), True),
        ((match(payload("tcp", "dport"), 5000),), False),
        ((match(payload("tcp", "dport"), 5000, "!="),), False),
        ((match(payload("ip6", "daddr"), "ff15::1"),), False),
        ((match({"ct": {"key": "state"}}, ["established", "related"], "in"),), False),
        ((match({"ct": {"key": "state"}}, "new", "in"),), True),
        ((match({"&": [payload("ip", "frag-off"), 0x1FFF]}, 0, "!="),), False),
        ((match({"fib": {"result": "type"}}, "multicast"),), None),
        ((match(payload("ip", "saddr"), "@friends"),), None),
        ((match(payload("ip", "length"), 100, ">"),), None),
        ((UNKNOWN,), None),
        ((match(DPORT, 5001), UNKNOWN), False),
        (({"counter": {"packets": 3, "bytes": 9}},), True),
        (({"log": None},), True),
    ],
)
def test_whether_a_rule_matches(condition, matches):
    found = ruleset((*condition, DROP)).drops(PACKET, INPUT)
    assert [one.is_certain for one in found] == {True: [True], False: [], None: [False]}[matches]


@pytest.mark.parametrize(
    ("rules", "policy", "certain"),
    [
        ([(ACCEPT,), (DROP,)], "drop", None),
        ([(match(DPORT, 1), ACCEPT), (DROP,)], "accept", True),
        ([(UNKNOWN, ACCEPT), (DROP,)], "accept", False),
        ([(UNKNOWN, DROP), (ACCEPT,)], "accept", False),
        ([], "drop", True),
        ([(UNKNOWN, ACCEPT)], "drop", False),
        ([(match(DPORT, 5000), {"reject": {}})], "accept", True),
        ([({"return": None},), (DROP,)], "accept", None),
        ([({"jump": {"target": "deeper"}},)], "accept", True),
        ([({"goto": {"target": "deeper"}},), (ACCEPT,)], "accept", True),
        ([(UNKNOWN, {"jump": {"target": "deeper"}})], "accept", False),
        ([({"jump": {"target": "none"}},), (DROP,)], "accept", True),
        ([({"vmap": {"key": DPORT, "data": {"set": [[5000, DROP], [1, ACCEPT]]}}},)], "accept", False),
        ([({"vmap": {"key": DPORT, "data": {"set": [[1, DROP]]}}},)], "accept", None),
        ([({"vmap": {"key": DPORT, "data": {"set": [[5000, {"jump": {"target": "deeper"}}]]}}},)], "accept", False),
    ],
)
def test_a_chain_is_walked_as_the_kernel_does(rules, policy, certain):
    deeper = {"rule": {"family": "inet", "table": "t", "chain": "deeper", "handle": 9, "expr": [DROP]}}
    found = ruleset(*rules, policy=policy, extra=[deeper]).drops(PACKET, INPUT)
    assert [one.is_certain for one in found[:1]] == ([] if certain is None else [certain])


@pytest.mark.parametrize(
    ("chain", "sees"),
    [
        ({}, True),
        ({"family": "ip6"}, False),
        ({"family": "bridge"}, False),
        ({"hook": "forward"}, False),
        ({"hook": "prerouting"}, True),
        ({"family": "netdev", "hook": "ingress", "dev": "eth0"}, True),
        ({"family": "netdev", "hook": "ingress", "dev": ["eth1", "eth0"]}, True),
        ({"family": "netdev", "hook": "ingress", "dev": "eth1"}, False),
    ],
)
def test_which_chains_see_the_packet(chain, sees):
    assert bool(ruleset((DROP,), **chain).drops(PACKET, INPUT)) is sees


def test_a_named_set_and_a_counter():
    named = {"set": {"family": "inet", "table": "t", "name": "bad", "elem": ["239.1.1.1"]}}
    rules = ruleset(({"counter": {"packets": 7, "bytes": 1}}, match(DADDR, "@bad"), DROP), extra=[named])
    (found,) = rules.drops(PACKET, INPUT)
    assert found == Rule("inet", "t", "c", 1, True, 7)
    assert rules.counter(found) == 7


WORDS = (
    "match",
    "left",
    "right",
    "op",
    "payload",
    "meta",
    "&",
    "set",
    "prefix",
    "range",
    "elem",
    "key",
    "vmap",
    "data",
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 99) | st.sampled_from(["", "==", "@x", "eth*", "239.1.1.1", "udp"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
    max_leaves=12,
)
STATEMENTS = ("match", "vmap", "drop", "accept", "counter", "jump")


@given(
    st.lists(
        st.dictionaries(st.sampled_from(STATEMENTS), json_values, max_size=2),
        max_size=3,
    )
)
def test_rules_that_are_not_understood_raise_nothing(rule):
    ruleset(rule).drops(PACKET, INPUT)


def test_after_a_rule_that_is_not_understood_nothing_is_certain():
    for unknown in ({"match": 5}, match({"&": []}, 1), match(DPORT, {"range": []})):
        (found,) = ruleset((unknown,), (DROP,)).drops(PACKET, INPUT)
        assert not found.is_certain


def test_a_list_of_a_million_networks_is_not_gone_through(monkeypatch):
    monkeypatch.setattr(_rules, "MOST_ELEMENTS", 3)
    for count, certain in ((3, [True]), (4, [False])):
        members = ["239.1.1.1", *(f"10.0.0.{number}" for number in range(1, count))]
        found = ruleset((match(DADDR, {"set": members}), DROP)).drops(PACKET, INPUT)
        assert [one.is_certain for one in found] == certain
