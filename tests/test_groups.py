"""The grammar of groups, their scopes and flags, and what an address tells by itself."""

import contextlib
import copy
import ipaddress
import itertools
import pickle
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcast_fast.errors import GroupError
from mcast_fast.groups import IPV4_SCOPES, IPV6_SCOPES, Flags, Group, is_multicast

IPV4_GROUPS = ipaddress.IPv4Network("224.0.0.0/4")
IPV6_GROUPS = ipaddress.IPv6Network("ff00::/8")

# What was written -> the group, and its canonical text.
GOOD = {
    "239.1.1.1": (Group("239.1.1.1"), "239.1.1.1"),
    "239.1.1.1:5000": (Group("239.1.1.1", 5000), "239.1.1.1:5000"),
    "239.1.1.1:05000": (Group("239.1.1.1", 5000), "239.1.1.1:5000"),
    "239.1.1.1:65535": (Group("239.1.1.1", 65535), "239.1.1.1:65535"),
    "239.1.1.1%eth0": (Group("239.1.1.1", None, "eth0"), "239.1.1.1%eth0"),
    "239.1.1.1%eth0.100:5000": (Group("239.1.1.1", 5000, "eth0.100"), "239.1.1.1%eth0.100:5000"),
    "239.1.1.1%192.168.0.7:5000": (Group("239.1.1.1", 5000, "192.168.0.7"), "239.1.1.1%192.168.0.7:5000"),
    "239.1.1.1%3": (Group("239.1.1.1", None, "3"), "239.1.1.1%3"),
    "239.1.1.1%all:1": (Group("239.1.1.1", 1, "all"), "239.1.1.1%all:1"),
    "239.1.1.1+10": (Group("239.1.1.1", count=10), "239.1.1.1+10"),
    "239.1.1.1+1": (Group("239.1.1.1"), "239.1.1.1"),
    "239.1.1.1:5000+10": (Group("239.1.1.1", 5000, count=10), "239.1.1.1:5000+10"),
    "10.0.0.5@232.1.1.1%eth0:5000+2": (
        Group("232.1.1.1", 5000, "eth0", "10.0.0.5", 2),
        "10.0.0.5@232.1.1.1%eth0:5000+2",
    ),
    "  239.1.1.1:5000\n": (Group("239.1.1.1", 5000), "239.1.1.1:5000"),
    "ff15::1": (Group("ff15::1"), "ff15::1"),
    "FF15:0:0::0001": (Group("ff15::1"), "ff15::1"),
    "ff15::1:5000": (Group("ff15::1:5000"), "ff15::1:5000"),
    "[ff15::1]": (Group("ff15::1"), "ff15::1"),
    "[ff15::1]:5000": (Group("ff15::1", 5000), "[ff15::1]:5000"),
    "[ff15::1%eth0]:5000+10": (Group("ff15::1", 5000, "eth0", count=10), "[ff15::1%eth0]:5000+10"),
    "[ff15::1]%eth0:5000": (Group("ff15::1", 5000, "eth0"), "[ff15::1%eth0]:5000"),
    "[ff15::1]%eth0": (Group("ff15::1", None, "eth0"), "ff15::1%eth0"),
    "ff15::1%eth0+10": (Group("ff15::1", None, "eth0", count=10), "ff15::1%eth0+10"),
    "fd00::5@ff35::1": (Group("ff35::1", source="fd00::5"), "fd00::5@ff35::1"),
    "fd00::5@[ff35::1%eth0]:5000": (Group("ff35::1", 5000, "eth0", "fd00::5"), "fd00::5@[ff35::1%eth0]:5000"),
    "[FD00::5]@[ff3e::1]:5000": (Group("ff3e::1", 5000, None, "fd00::5"), "fd00::5@[ff3e::1]:5000"),
    "fe80::1@ff32::1%eth0": (Group("ff32::1", None, "eth0", "fe80::1"), "fe80::1@ff32::1%eth0"),
    "::ffff:239.1.1.1": (Group("239.1.1.1"), "239.1.1.1"),
    "[::ffff:10.0.0.5]@[::ffff:232.1.1.1]:5000": (
        Group("232.1.1.1", 5000, None, "10.0.0.5"),
        "10.0.0.5@232.1.1.1:5000",
    ),
    "udp://@239.1.1.1:1234": (Group("239.1.1.1", 1234), "239.1.1.1:1234"),
    "udp://239.1.1.1:1234": (Group("239.1.1.1", 1234), "239.1.1.1:1234"),
    "UDP://239.1.1.1:1234/": (Group("239.1.1.1", 1234), "239.1.1.1:1234"),
    "udp://239.1.1.1:1234/?": (Group("239.1.1.1", 1234), "239.1.1.1:1234"),
    "rtp://10.0.0.5@232.1.1.1%eth0:1234": (
        Group("232.1.1.1", 1234, "eth0", "10.0.0.5"),
        "10.0.0.5@232.1.1.1%eth0:1234",
    ),
    "udp://@[ff15::1]:1234": (Group("ff15::1", 1234), "[ff15::1]:1234"),
    "rtp://fd00::5@[ff35::1]:1234+3": (Group("ff35::1", 1234, None, "fd00::5", 3), "fd00::5@[ff35::1]:1234+3"),
}

# What was written -> what the error has to say.
BAD = {
    "": "nothing is named",
    "   ": "nothing is named",
    "udp://": "nothing is named",
    "10.0.0.1": "10.0.0.1 is a unicast address; multicast is 224.0.0.0/4 and ff00::/8",
    "fd00::1": "fd00::1 is a unicast address",
    "0.0.0.0": "is the unspecified address",
    "::": "is the unspecified address",
    "255.255.255.255": "is the broadcast address",
    "::ffff:10.0.0.1": "10.0.0.1 is a unicast address",
    "239.1.1": "Expected 4 octets",
    "239.01.1.1": "Leading zeros",
    "239.1.1.256": "Octet 256",
    "239.1.1.٣": "not an IP address",
    "feed.example:5000": "names are not looked up",
    "ff15::xyz": "not an IP address",
    "ff15:0:0:0:0:0:0:1:5000": "a port goes behind brackets: [ff15::1]:5000",
    "ff15::1:50000": "a port goes behind brackets: [ff15::1]:5000",
    "ff15::1%eth0:5000": "brackets when a port follows: [ff15::1%eth0]:5000",
    "239.1.1.1:0": "port 0 means any free port",
    "239.1.1.1:65536": "port 65536 is out of range; use 1 to 65535",
    "239.1.1.1:99999": "port 99999 is out of range; use 1 to 65535",
    "239.1.1.1:": "port '' is not a decimal number",
    "239.1.1.1:-1": "port '-1' is not a decimal number",
    "239.1.1.1:5_0": "port '5_0' is not a decimal number",
    "239.1.1.1:٣": "is not a decimal number",
    "239.1.1.1:²": "is not a decimal number",
    "239.1.1.1: 5": "is not a decimal number",
    "239.1.1.1:" + "9" * 5000: "is not a decimal number",
    "239.1.1.1:5000+": "count '' is not a decimal number",
    "239.1.1.1+3:5000": "count '3:5000' is not a decimal number",
    "239.1.1.1+0": "count 0 is out of range",
    "239.1.1.1+2+2": "count '2+2' is not a decimal number",
    "239.255.255.255+2": "use at most 1 from 239.255.255.255",
    "239.255.255.0+257": "use at most 256",
    "224.0.0.0+268435457": "use at most 268435456",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe+3": "use at most 2",
    "239.1.1.1%": "interface after '%' is empty",
    "239.1.1.1%:5000": "interface after '%' is empty",
    "[ff15::1%]:5000": "interface after '%' is empty",
    "239.1.1.1%eth 0": "holds ' '",
    "239.1.1.1%eth0/24": "holds '/'",
    "239.1.1.1%eth0?ttl=3": "holds '?'",
    "239.1.1.1%a%b": "holds '%'",
    "[ff15::1%a]%b:5000": "holds '%'",
    "239.1.1.1%\x00": "holds",
    "239.1.1.1%\ud800": "holds",  # a surrogate that is no byte of os.fsdecode
    "239.1.1.1%" + "e" * 128: "more than 127 characters; use its index",
    "@239.1.1.1": "the source before '@' is empty",
    "10.0.0.5@": "not an IP address (Address cannot be empty)",
    "host@239.1.1.1": "source 'host' is not an IP address",
    "10.0.0.5:99@239.1.1.1": "the port goes after the group",
    "[10.0.0.5]@239.1.1.1": "brackets are for IPv6",
    "239.1.1.2@239.1.1.1": "source 239.1.1.2 is a multicast address",
    "0.0.0.0@239.1.1.1": "source 0.0.0.0 is the unspecified address",
    "255.255.255.255@239.1.1.1": "source 255.255.255.255 is the broadcast address",
    "::@ff15::1": "source :: is the unspecified address",
    "fd00::5@239.1.1.1": "source fd00::5 is IPv6 and group 239.1.1.1 is IPv4",
    "239.1.1.1@10.0.0.5%eth0:5000": "the source goes before the group: 10.0.0.5@239.1.1.1%eth0:5000",
    "10.0.0.5@ff15::1": "source 10.0.0.5 is IPv4 and group ff15::1 is IPv6",
    "fe80::1%eth0@ff32::1": "the interface goes after the group: fe80::1@ff32::1%eth0",
    "10.0.0.5@232.1.1.1%eth0@if5:5000": "interface 'eth0@if5' holds '@'",
    "[ff15::1": "brackets amiss",
    "[ff15::1]5000": "brackets amiss",
    "ff15::1]:5000": "not an IP address",
    "[239.1.1.1]:5000": "brackets are for IPv6",
    "[]:5000": "brackets are for IPv6",
    "http://239.1.1.1:80": "scheme 'http' is not known; use udp://, rtp://",
    "udp://239.1.1.1:1234/video": "port '1234/video' is not a decimal number",
    "udp://239.1.1.1:1234?localaddr=10.0.0.1": "URL option 'localaddr' is not understood here; name the interface",
    "udp://239.1.1.1:1234/?ttl=4&pkt_size=1316": "URL option 'ttl' is not understood here; pass ttl= to the sender",
    "udp://239.1.1.1:1234?novel": "URL option 'novel' is not understood here; remove it",
    "udp://@@239.1.1.1:1234": "the source before '@' is empty",
    "udp://ff15::1:1234": "an IPv6 group in a URL needs brackets",
    "rtp://fd00::5@ff35::1:1234": "an IPv6 group in a URL needs brackets",
}

# Every block of RFC 5771, RFC 6034 and RFC 2365: first, last, name.
IPV4_BLOCKS = [
    ("224.0.0.0", "224.0.0.255", "local network control"),
    ("224.0.1.0", "224.0.1.255", "internetwork control"),
    ("224.0.2.0", "224.0.255.255", "AD-HOC block I"),
    ("224.1.0.0", "224.1.255.255", "reserved"),
    ("224.2.0.0", "224.2.255.255", "SDP/SAP"),
    ("224.3.0.0", "224.4.255.255", "AD-HOC block II"),
    ("224.5.0.0", "224.255.255.255", "reserved"),
    ("225.0.0.0", "231.255.255.255", "reserved"),
    ("232.0.0.0", "232.255.255.255", "source-specific"),
    ("233.0.0.0", "233.251.255.255", "GLOP"),
    ("233.252.0.0", "233.255.255.255", "AD-HOC block III"),
    ("234.0.0.0", "234.255.255.255", "unicast-prefix-based"),
    ("235.0.0.0", "238.255.255.255", "reserved"),
    ("239.0.0.0", "239.191.255.255", "administratively scoped: organisation-local expansion"),
    ("239.192.0.0", "239.195.255.255", "administratively scoped: organisation-local"),
    ("239.196.0.0", "239.252.255.255", "administratively scoped"),
    ("239.253.0.0", "239.254.255.255", "administratively scoped: local expansion"),
    ("239.255.0.0", "239.255.255.255", "administratively scoped: local"),
]

IPV6_FIELDS = {
    0x0: "reserved",
    0x1: "interface-local",
    0x2: "link-local",
    0x3: "realm-local",
    0x4: "admin-local",
    0x5: "site-local",
    0x6: "unassigned",
    0x7: "unassigned",
    0x8: "organisation-local",
    0x9: "unassigned",
    0xA: "unassigned",
    0xB: "unassigned",
    0xC: "unassigned",
    0xD: "unassigned",
    0xE: "global",
    0xF: "reserved",
}


def bounds(network: str) -> tuple[str, str]:
    """The first and last address of a block as a Scope writes it."""
    if "-" in network:
        first, last = network.split("-")
        return first, last
    block = ipaddress.IPv4Network(network)
    return str(block[0]), str(block[-1])


interfaces = st.one_of(
    st.sampled_from(["eth0", "eth0.100", "wlp3s0", "7", "all", "10.0.0.1"]),
    st.text(min_size=1, max_size=64).filter(
        lambda text: text.isprintable() and not set(text) & set("+@:%[]/?") and not re.search(r"\s", text)
    ),
)


@st.composite
def groups(draw: st.DrawFn) -> Group:
    """Groups of both families, with every option."""
    network = draw(st.sampled_from([IPV4_GROUPS, IPV6_GROUPS]))
    first = draw(st.ip_addresses(network=network))
    sources = st.ip_addresses(v=network.version).filter(
        lambda source: (
            not (
                source.is_multicast
                or source.is_unspecified
                or str(source) == "255.255.255.255"
                or (source.version == 6 and source.ipv4_mapped)
            )
        )
    )
    return Group(
        str(first),
        draw(st.none() | st.integers(1, 65535)),
        draw(st.none() | interfaces),
        draw(st.none() | sources.map(str)),
        draw(st.integers(1, int(network[-1]) - int(first) + 1)),
    )


@st.composite
def mutated_texts(draw: st.DrawFn) -> str:
    """Texts that are nearly good: pieces of good and bad ones cut, doubled and mixed with the grammar's own signs."""
    texts = st.sampled_from([*GOOD, *BAD]) | groups().map(str)
    left, right = draw(texts), draw(texts)
    cut, rejoin = draw(st.integers(0, len(left))), draw(st.integers(0, len(right)))
    return left[:cut] + draw(st.text("@%:+[]/?.0f ٣\x00", max_size=3)) + right[rejoin:]


@pytest.mark.parametrize("text", GOOD)
def test_good_text_is_parsed_and_formatted_canonically(text):
    group, canonical = GOOD[text]
    assert Group.parse(text) == group
    assert str(group) == canonical


@pytest.mark.parametrize("text", BAD, ids=lambda text: ascii(text[:40]))
def test_bad_text_is_refused_with_its_name_and_the_reason(text):
    with pytest.raises(GroupError) as caught:
        Group.parse(text)
    assert str(caught.value).startswith((f"group {text!r}: ", f"group {text!r} is not "))
    assert BAD[text] in str(caught.value)


@pytest.mark.long
@given(groups())
@example(Group("239.1.1.1", 1, "all", "10.0.0.5", 3))
@example(Group("ff00::", None, "1", "fe80::1", (1 << 120)))
def test_what_is_formatted_parses_back_equal(group):
    assert Group.parse(str(group)) == group
    assert str(Group.parse(str(group))) == str(group)


@pytest.mark.long
@given(groups(), st.sampled_from(["udp://", "rtp://"]), st.sampled_from(["", "/"]))
def test_the_text_of_a_group_with_a_port_is_a_good_url(group, scheme, ending):
    group = Group(group.address, 5000, group.interface, group.source)
    assert Group.parse(f"{scheme}{group}{ending}") == group


@pytest.mark.long
@given(st.text() | mutated_texts())
def test_any_text_parses_or_raises_our_error(text):
    try:
        group = Group.parse(text)
    except GroupError:
        return
    assert Group.parse(str(group)) == group


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"address": "10.0.0.1"}, "10.0.0.1 is a unicast address"),
        ({"address": "ff15::1%eth0"}, "give it as interface="),
        ({"address": "239.1.1.1:5000"}, "not an IP address"),
        ({"address": 5}, "group 5 is not text"),
        ({"port": 0}, "port 0 means any free port"),
        ({"port": -1}, "port -1 is out of range"),
        ({"port": 65536}, "port 65536 is out of range"),
        ({"port": "5000"}, "port '5000' is not an integer"),
        ({"port": 5000.0}, "port 5000.0 is not an integer"),
        ({"port": True}, "port True is not an integer"),
        ({"interface": 2}, "interface 2 is not text"),
        ({"interface": ""}, "is empty"),
        ({"interface": "fe80::1"}, "holds ':'"),
        ({"source": "ff15::1"}, "source ff15::1 is a multicast address"),
        ({"source": "fd00::5"}, "use one family for both"),
        ({"source": b"\x0a\0\0\5"}, "is not text"),
        ({"count": 0}, "count 0 is out of range"),
        ({"count": 1 << 28}, "runs past 239.255.255.255"),
        ({"count": None}, "count None is not an integer"),
    ],
)
def test_a_group_made_directly_is_checked_as_well(arguments, reason):
    with pytest.raises(GroupError, match=re.escape(reason)):
        Group(**{"address": "239.1.1.1", **arguments})


@pytest.mark.parametrize("character", [*"+@:%[]/?", " ", "\t", "\n", "\u00a0", "\x00", "\ud800"])
def test_an_interface_that_would_break_the_grammar_is_refused_with_the_index_as_remedy(character):
    with pytest.raises(GroupError, match="use its index"):
        Group("239.1.1.1", interface=f"eth0{character}3")


def test_the_longest_interface_is_accepted():
    assert Group("239.1.1.1", interface="e" * 127).interface == "e" * 127


def test_addresses_are_kept_canonical():
    group = Group("FF35:0::1", source="FD00:0:0::5")
    assert (group.address, group.source) == ("ff35::1", "fd00::5")
    assert Group("::ffff:232.1.1.1", source="::ffff:10.0.0.5") == Group("232.1.1.1", source="10.0.0.5")
    assert len({Group("ff35::1"), Group("FF35::0:1")}) == 1


def test_coerce_takes_text_and_passes_groups_through():
    group = Group("239.1.1.1", 5000)
    assert Group.coerce(group) is group
    assert Group.coerce("239.1.1.1:5000") == group
    with pytest.raises(GroupError, match="is not text"):
        Group.coerce(("239.1.1.1", 5000))


def test_a_group_cannot_change_and_can_be_copied_and_pickled():
    group = Group.parse("10.0.0.5@232.1.1.1%eth0:5000+2")
    with pytest.raises(AttributeError):
        group.port = 1
    assert pickle.loads(pickle.dumps(group)) == copy.deepcopy(group) == group


@pytest.mark.long
@given(groups())
def test_expand_yields_count_consecutive_groups_and_is_lazy(group):
    first = ipaddress.ip_address(group.address)
    for offset, single in enumerate(itertools.islice(group.expand(), 5)):
        assert single == Group(str(first + offset), group.port, group.interface, group.source)


def test_expand_counts():
    assert [str(group) for group in Group.parse("239.1.1.254%eth0:5000+3").expand()] == [
        "239.1.1.254%eth0:5000",
        "239.1.1.255%eth0:5000",
        "239.1.2.0%eth0:5000",
    ]
    assert list(Group("ff15::1").expand()) == [Group("ff15::1")]
    assert sum(1 for _ in Group.parse("239.0.0.1:5000+1000").expand()) == 1000
    assert [group.address for group in Group("239.255.255.254", count=2).expand()][-1] == "239.255.255.255"


@pytest.mark.long
@given(groups())
def test_version_and_packed_follow_the_address(group):
    address = ipaddress.ip_address(group.address)
    assert group.version == address.version
    assert group.packed == (address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed)


@pytest.mark.parametrize(
    ("address", "is_ssm"),
    [
        ("231.255.255.255", False),
        ("232.0.0.0", True),
        ("232.255.255.255", True),
        ("233.0.0.0", False),
        ("ff2e::1", False),
        ("ff30::", True),
        ("ff35::1", True),
        ("ff3e::8000:1", True),
        ("ff3f:0:ffff:ffff:ffff:ffff:ffff:ffff", True),
        ("ff35:1::", False),
        ("ff35:30:fd00::1", False),
        ("ff75::1", False),
        ("ffb5::1", False),
        ("ff05::1", False),
    ],
)
def test_is_ssm(address, is_ssm):
    assert Group(address).is_ssm is is_ssm


@pytest.mark.parametrize(("first", "last", "name"), IPV4_BLOCKS)
def test_ipv4_scope_at_both_ends_of_every_block(first, last, name):
    scope = Group(first).scope
    assert scope.name == name
    assert Group(last).scope is scope
    assert bounds(scope.network) == (first, last)
    assert scope.forwarded is (first != "224.0.0.0")


def test_ipv4_scopes_have_no_gap():
    ends = [bounds(scope.network) for scope in IPV4_SCOPES]
    assert (ends[0][0], ends[-1][1]) == ("224.0.0.0", "239.255.255.255")
    for (_, last), (first, _) in itertools.pairwise(ends):
        assert ipaddress.ip_address(last) + 1 == ipaddress.ip_address(first)


@pytest.mark.parametrize("flags", ["0", "1", "3", "7", "f"])
@pytest.mark.parametrize("field", IPV6_FIELDS)
def test_ipv6_scope_by_its_field_whatever_the_flags(flags, field):
    scope = Group(f"ff{flags}{field:x}::1").scope
    assert scope.name == IPV6_FIELDS[field]
    assert scope.network == f"ffx{field:x}::/16"
    assert scope.forwarded is (field > 2)


def test_every_scope_names_its_rfc():
    assert all(re.match(r"RFC \d+", scope.reference) for scope in (*IPV4_SCOPES, *IPV6_SCOPES))


@pytest.mark.parametrize(
    ("address", "flags", "is_valid"),
    [
        ("239.1.1.1", Flags(0), True),
        ("ff02::123", Flags(0), True),
        ("ff15::1", Flags.T, True),
        ("ff25::1", Flags.P, False),
        ("ff35::1", Flags.P | Flags.T, True),
        ("ff45::1", Flags.R, False),
        ("ff55::1", Flags.R | Flags.T, False),
        ("ff65::1", Flags.R | Flags.P, False),
        ("ff75::1", Flags.R | Flags.P | Flags.T, True),
        ("ff85::1", Flags.X, True),
        ("ff95::1", Flags.X | Flags.T, True),
        ("ffc5::1", Flags.X | Flags.R, False),
    ],
)
def test_flags(address, flags, is_valid):
    assert Group(address).flags == flags
    assert Group(address).flags.is_valid is is_valid


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("223.255.255.255", False),
        ("224.0.0.0", True),
        ("239.255.255.255", True),
        ("240.0.0.0", False),
        ("feff::", False),
        ("ff00::", True),
        ("ff02::123", True),
        ("ff02::123%eth0", True),
        ("fe80::1%eth0", False),
        ("::ffff:239.1.1.1", True),
        ("::ffff:10.0.0.1", False),
        ("::239.1.1.1", False),
        (b"\xe0\0\0\1", True),
        (b"\x0a\0\0\1", False),
        (b"\xff" + bytes(15), True),
        (bytes(16), False),
        (bytes(10) + b"\xff\xff\xe0\0\0\1", True),
        (ipaddress.IPv6Address("ff02::1%eth0"), True),
        (ipaddress.IPv6Address("::ffff:239.1.1.1"), True),
    ],
)
def test_is_multicast(address, expected):
    assert is_multicast(address) is expected


@given(st.ip_addresses() | st.ip_addresses(network="224.0.0.0/3") | st.ip_addresses(network="fe00::/7"))
def test_is_multicast_agrees_with_ipaddress(address):
    mapped = address.version == 6 and address.ipv4_mapped
    expected = (mapped or address).is_multicast
    assert is_multicast(address) is is_multicast(str(address)) is is_multicast(address.packed) is expected


@pytest.mark.parametrize(
    "value", ["", "eth0", "239.1.1", "239.1.1.1:5", "[ff02::1]", "ff02::1%", b"", b"239.1.1.1", 5, None]
)
def test_is_multicast_refuses_what_is_no_address(value):
    with pytest.raises(GroupError):
        is_multicast(value)


@given(st.text() | st.binary())
def test_is_multicast_answers_or_raises_our_error(value):
    with contextlib.suppress(GroupError):
        assert is_multicast(value) in (True, False)
