"""Interfaces as the OS has them: checked against `ip` where it is, and in fresh network namespaces where they can be.

Nothing here sends a packet, and nothing assumes more than a loopback interface.
"""

import contextlib
import errno
import functools
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import ifaddr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcast_fast import _systems
from mcast_fast._host import addresses, dumps, netlink, routes, unlisted
from mcast_fast._host import interfaces as module
from mcast_fast._host.interfaces import (
    Interface,
    default_interface,
    find_interface,
    interface_name,
    interfaces,
    multicast_interfaces,
)
from mcast_fast.errors import GroupError, InterfaceError, MulticastWarning, SocketError, os_text

# A made-up machine ----------------------------------------------------------------------------------------------------


def made(name: str, index: int, *addresses: str, flags: str = "up multicast carrier") -> Interface:
    has = flags.split()
    return Interface(name, index, addresses, "up" in has, "multicast" in has, "loopback" in has, "carrier" in has)


LO = made("lo", 1, "127.0.0.1", "::1", flags="up loopback carrier")
ETH0 = made("eth0", 2, "10.0.0.5", "10.0.0.6", "fd00::5", "fe80::1")
ETH1 = made("eth1", 3, "10.0.1.5", "fe80::1")
DIGITS = made("2", 7, "10.0.7.5")
DOWN = made("wlan0", 4, flags="multicast")
TUNNEL = made("tun0", 5, "10.8.0.1", flags="up carrier")
UNPLUGGED = made("docker0", 6, "172.17.0.1", "fe80::2", flags="up multicast")
MACHINE = [LO, ETH0, ETH1, DOWN, TUNNEL, UNPLUGGED, DIGITS]


def answer(monkeypatch: pytest.MonkeyPatch, route: "routes.Route") -> None:
    monkeypatch.setattr(module, "find_route", lambda address, listed: route)


# This machine ---------------------------------------------------------------------------------------------------------

IP = shutil.which("ip") or shutil.which("ip", path="/usr/sbin:/sbin")
needs_ip = pytest.mark.skipif(IP is None, reason="program ip: it is not installed")
needs_flag_call = pytest.mark.skipif(
    module.SYSTEM.flag_call is None, reason="feature SIOCGIFFLAGS: this system has none"
)


def ip_json(*arguments: str) -> list[dict[str, Any]]:
    assert IP
    done = subprocess.run([IP, "-json", *arguments], capture_output=True, text=True, check=False)
    return list(json.loads(done.stdout)) if done.returncode == 0 and done.stdout.strip() else []


def loopback() -> Interface:
    return next(interface for interface in interfaces() if interface.is_loopback)


def test_listing_is_sorted_and_each_index_is_there_once() -> None:
    indexes = [interface.index for interface in interfaces()]
    assert indexes
    assert indexes == sorted(set(indexes))


def test_loopback_is_listed_with_its_flags() -> None:
    found = loopback()
    assert socket.if_nametoindex(found.name) == found.index
    assert not found.is_up or found.ipv4 == "127.0.0.1" or found.ipv6 == "::1"


@needs_flag_call
def test_interfaces_without_an_address_are_listed_too() -> None:
    assert {(i.index, i.name) for i in interfaces()} == set(socket.if_nameindex())


@needs_ip
def test_listing_agrees_with_the_ip_program() -> None:
    ours = {i.index: i for i in interfaces()}
    theirs = {one["ifindex"]: one for one in ip_json("addr")}
    assert set(ours) == set(theirs)
    for index, one in theirs.items():
        flags = set(one["flags"])
        assert ours[index].name == one["ifname"]
        assert set(ours[index].addresses) == {address["local"] for address in one["addr_info"]}
        assert ours[index].is_up == ("UP" in flags)
        assert ours[index].is_multicast == ("MULTICAST" in flags)
        assert ours[index].is_loopback == ("LOOPBACK" in flags)
        if ours[index].is_up:
            assert ours[index].has_carrier == ("NO-CARRIER" not in flags)


@needs_ip
@pytest.mark.parametrize("group", ["224.0.0.123", "239.1.1.1", "232.1.1.1"])
def test_default_interface_agrees_with_the_ip_program(group: str) -> None:
    routes = ip_json("route", "get", group)
    if not routes:
        pytest.skip("feature route: no IPv4 route for multicast groups here")
    assert default_interface(group).name == routes[0]["dev"]


@needs_flag_call
def test_an_interface_that_vanishes_meanwhile_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    before = interfaces()
    there = socket.if_nameindex()
    monkeypatch.setattr(socket, "if_nameindex", lambda: [*there, (99_999, "gone0")])
    assert interfaces() == before


@pytest.fixture
def by_ifaddr(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a system without rtnetlink."""
    monkeypatch.setattr(addresses, "SYSTEM", module.SYSTEM._replace(has_rtnetlink=False))


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a sandbox refuses netlink sockets, of which the C library makes its lists too."""

    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    for called in (dumps, "asked"), (socket, "if_nameindex"), (ifaddr, "get_adapters"):
        monkeypatch.setattr(*called, refuse)


@pytest.mark.needs("answers of Linux")
def test_ifaddr_and_netlink_know_the_same_addresses(request: pytest.FixtureRequest) -> None:
    by_netlink = interfaces()
    assert loopback().addresses
    request.getfixturevalue("by_ifaddr")
    assert interfaces() == by_netlink


@pytest.mark.needs("answers of Linux")
def test_where_netlink_is_refused_ioctls_know_the_same(request: pytest.FixtureRequest) -> None:
    by_netlink = interfaces()
    request.getfixturevalue("refused")
    assert interfaces() == by_netlink
    assert find_interface("127.0.0.1") == loopback()


@pytest.mark.needs("answers of Linux")
def test_without_proc_too_those_that_have_an_ipv4_address_are_known(
    refused: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(unlisted, "NETWORK", tmp_path)
    assert find_interface("lo").addresses == ("127.0.0.1",)
    assert {one.name for one in interfaces()} == {label.partition(":")[0] for _, _, label in unlisted.addresses()}


@pytest.mark.needs("answers of Linux")
def test_where_no_list_can_be_had_the_answer_of_the_system_is_the_error(
    refused: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unlisted, "names", list)
    with pytest.raises(SocketError, match=r"list interfaces: .*\(97\)"):
        interfaces()


@pytest.mark.needs("answers of Linux")
def test_alias_labels_are_addresses_of_their_interface(by_ifaddr: None, monkeypatch: pytest.MonkeyPatch) -> None:
    index = loopback().index
    labels: list[tuple[str, Any]] = [
        ("lo", ("fe80::1", 0, index)),
        ("lo", "10.0.0.1"),
        ("lo:1", "10.0.0.2"),
        ("lo:1", "10.0.0.1"),
    ]
    adapters = [ifaddr.Adapter(label, label, [ifaddr.IP(ip, 24, label)], index) for label, ip in labels]
    adapters.append(ifaddr.Adapter("gone0", "gone0", [ifaddr.IP("10.0.0.9", 24, "gone0")], None))
    monkeypatch.setattr(ifaddr, "get_adapters", lambda include_unconfigured: adapters)
    assert loopback().addresses == ("10.0.0.1", "10.0.0.2", "fe80::1")
    assert find_interface("lo:1").index == index


@pytest.mark.parametrize(
    ("given_by_ifaddr", "index", "text"),
    [
        ("10.0.0.1", 4, "10.0.0.1"),
        (("fe80::1", 0, 4), 4, "fe80::1"),
        (("fe80:4::1", 0, 0), 4, "fe80::1"),  # KAME's embedded zone
        (("fe80:5::1", 0, 0), 4, "fe80:5::1"),
        (("fd00:4::1", 0, 0), 4, "fd00:4::1"),
        (("fe80::1%en0", 0, 4), 4, "fe80::1"),
    ],
)
def test_addresses_have_no_zone(given_by_ifaddr: Any, index: int, text: str) -> None:
    assert addresses.address_text(given_by_ifaddr, index) == text


@pytest.mark.parametrize(
    "failure",
    [
        AssertionError("no netmask"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ImportError("No module named 'ifaddr'"),
    ],
)
def test_a_failing_ifaddr_costs_only_the_addresses(
    by_ifaddr: None, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(include_unconfigured: bool) -> None:
        raise failure

    monkeypatch.setattr(ifaddr, "get_adapters", fail)
    with pytest.warns(MulticastWarning, match="addresses of the interfaces are unknown"):
        listed = addresses.by_index()
    assert listed == {}


@pytest.mark.needs("own addresses only")
def test_without_a_flag_call_flags_come_from_the_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    if not loopback().addresses:
        pytest.skip("feature loopback: it has no address here")
    monkeypatch.setattr(module, "SYSTEM", _systems.WINDOWS)
    found = loopback()
    assert (found.is_up, found.is_loopback) == (True, True)
    assert found.name == socket.if_indextoname(found.index)
    # 192.0.2.0/24 is for documentation (RFC 5737): no machine's; 169.254.x of an interface that is down is alike.
    assert module._guessed_flags(["192.0.2.77"], found.index).is_up is False


@pytest.mark.needs("answers of Linux")
def test_running_out_of_descriptors_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*arguments: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", exhausted)
    with pytest.raises(SocketError, match=r"list interfaces: .*ulimit -n") as caught:
        interfaces()
    assert caught.value.errno == errno.EMFILE
    with pytest.raises(SocketError, match=r"route for 239\.1\.1\.1: .*ulimit -n"):
        default_interface("239.1.1.1", MACHINE)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc/self/fd to count descriptors")
def test_no_descriptor_is_left_open() -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    interfaces()
    before = count()
    for group in ("239.1.1.1", "ff02::123"):
        with contextlib.suppress(InterfaceError), warnings.catch_warnings():
            warnings.simplefilter("ignore", MulticastWarning)
            default_interface(group)
    interfaces()
    assert count() == before


def test_interface_name_is_the_name_or_the_number() -> None:
    found = loopback()
    assert interface_name(found.index) == found.name
    for index in (0, 99_999, 2**32 - 1, 2**40, -1):
        assert interface_name(index) == str(index)


# Finding --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("eth0", ETH0),
        (3, ETH1),
        ("3", ETH1),
        (2, ETH0),
        ("2", DIGITS),  # a name wins over an index
        ("10.0.0.6", ETH0),
        ("fd00::5", ETH0),
        ("FD00:0::0005", ETH0),
        ("fe80::2", UNPLUGGED),
        ("fe80::1%eth1", ETH1),
        ("fe80::1%3", ETH1),
        ("fd00::5%eth0", ETH0),
        ("127.0.0.1", LO),
        ("wlan0", DOWN),
    ],
)
def test_find_by_name_index_and_address(wanted: str | int, found: Interface) -> None:
    assert find_interface(wanted, MACHINE) is found


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("eth9", "interface 'eth9' does not exist; this machine has: lo, eth0, eth1, wlan0, tun0, docker0, 2; did you"),
        ("wlan", "did you mean 'wlan0'?"),
        ("", "interface '' does not exist"),
        ("eth0\0", "does not exist"),
        (0, "interface index 0 does not exist; this machine has: 1 (lo), 2 (eth0)"),
        (-1, "interface index -1 does not exist"),
        ("9" * 5000, "does not exist"),
        ("10.0.0.9", "no interface has the address 10.0.0.9; this machine has: lo (127.0.0.1, ::1), eth0 (10.0.0.5"),
        ("fe80::9", "no interface has the address fe80::9"),
        ("fe80::1%docker0", "no interface has the address fe80::1%docker0"),
        ("fe80::1%eth7", "no interface has the address fe80::1%eth7"),
        (
            "fe80::1",
            "interface 'fe80::1' is ambiguous: eth0 and eth1 have it; name one, or add the zone as in fe80::1%",
        ),
    ],
)
def test_what_cannot_be_found_is_named_with_what_there_is(wanted: str | int, message: str) -> None:
    with pytest.raises(InterfaceError) as caught:
        find_interface(wanted, MACHINE)
    assert message in str(caught.value)


def test_errors_stay_one_line_on_a_machine_with_hundreds_of_interfaces() -> None:
    many = [made(f"veth{number}", number) for number in range(1, 501)]
    with pytest.raises(InterfaceError, match=r"veth20 and 480 more$"):
        find_interface("none", many)


@pytest.mark.parametrize("wanted", ["eth0\0", "\ud800", "no such name", "a" * 300, "lo:5000", "", "%", "%lo", "::1%"])
def test_the_live_machine_is_asked_without_other_errors(wanted: str) -> None:
    if wanted == "::1%" and loopback().ipv6 == "::1":
        assert find_interface(wanted).is_loopback
        return
    with pytest.raises(InterfaceError):
        find_interface(wanted)


@given(st.text() | st.integers())
def test_any_value_is_found_or_an_interface_error(wanted: str | int) -> None:
    with contextlib.suppress(InterfaceError):
        assert find_interface(wanted, MACHINE) in MACHINE


def test_all_means_up_and_multicast_capable() -> None:
    taken, skipped = multicast_interfaces(MACHINE)
    assert taken == [ETH0, ETH1, UNPLUGGED, DIGITS]
    assert skipped == [
        (LO, "is loopback, used only when it is named"),
        (DOWN, "is down"),
        (TUNNEL, "has no MULTICAST flag"),
    ]


# The interface of a group ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "index"), [("239.1.1.1", 5), ("239.1.1.1", 1), ("ff15::1", 3)])
def test_a_route_decides(monkeypatch: pytest.MonkeyPatch, group: str, index: int) -> None:
    answer(monkeypatch, routes.Route(index))
    assert default_interface(group, MACHINE).index == index


UNREACHABLE = routes.Route(0, errno=errno.ENETUNREACH)


@pytest.mark.parametrize(
    ("group", "route", "known", "chosen"),
    [
        ("239.1.1.1", UNREACHABLE, [LO, DOWN, TUNNEL, ETH0], ETH0),
        ("239.1.1.1", UNREACHABLE, [LO, UNPLUGGED, ETH1], ETH1),  # a carrier ranks first
        ("239.1.1.1", UNREACHABLE, [LO, made("cap0", 2), ETH1], ETH1),  # then an address
        ("239.1.1.1", UNREACHABLE, [LO, UNPLUGGED, made("cap0", 9)], made("cap0", 9)),
        ("239.1.1.1", UNREACHABLE, [LO, UNPLUGGED], UNPLUGGED),
        ("239.1.1.1", UNREACHABLE, [made("cap0", 2)], made("cap0", 2)),  # IPv4 is joined by index
        ("ff02::1", UNREACHABLE, [LO, DIGITS, ETH1], ETH1),  # DIGITS has no IPv6
        ("ff02::1", routes.Route(6, is_automatic=True), [LO, UNPLUGGED, ETH0], ETH0),  # the kernel took a dead one
        ("ff02::1", routes.Route(3, is_automatic=True), [LO, ETH1, DIGITS], ETH1),
        ("ff02::1", routes.Route(7, is_automatic=True), [LO, DIGITS], DIGITS),  # a route, though no address
        ("ff02::1%eth1", UNREACHABLE, [LO, ETH0, ETH1], ETH1),
    ],
)
def test_without_a_chosen_route_the_best_is_taken(
    monkeypatch: pytest.MonkeyPatch, group: str, route: routes.Route, known: list[Interface], chosen: Interface
) -> None:
    answer(monkeypatch, route)
    assert default_interface(group, known) == chosen


@pytest.mark.parametrize(
    ("group", "route", "chosen"),
    [
        ("239.1.1.1", UNREACHABLE, ETH0),  # the lowest index
        ("ff02::1", UNREACHABLE, ETH0),
        ("ff02::1", routes.Route(3, is_automatic=True), ETH1),  # what the kernel takes
    ],
)
def test_several_of_one_rank_warn(
    monkeypatch: pytest.MonkeyPatch, group: str, route: routes.Route, chosen: Interface
) -> None:
    answer(monkeypatch, route)
    with pytest.warns(MulticastWarning, match="eth0 and eth1 are equally good") as caught:
        assert default_interface(group, [ETH1, LO, UNPLUGGED, ETH0]) is chosen
    message = str(caught[0].message)
    assert f"choose with {group}%{chosen.name} or interface='{chosen.name}'" in message
    assert caught[0].filename == __file__


def test_no_interface_is_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, UNREACHABLE)
    with pytest.raises(InterfaceError) as caught:
        default_interface("239.1.1.1", [LO, DOWN, TUNNEL])
    assert str(caught.value) == (
        f"no interface for 239.1.1.1: the routing table answers {os_text(errno.ENETUNREACH)}, "
        "and none is fit (lo is loopback, used only when it is named, wlan0 is down, tun0 has no MULTICAST flag); "
        "bring one up with `ip link set … up`, or name one as in %eth0; "
        "for tests on this machine alone name loopback, 239.1.1.1%lo"
    )
    answer(monkeypatch, routes.Route(0))
    with pytest.raises(InterfaceError) as caught:
        default_interface("ff02::1", [LO, DIGITS])
    assert "no route names one" in str(caught.value)
    assert "2 has no IPv6 address" in str(caught.value)
    assert "%lo" not in str(caught.value)  # IPv6 over lo needs a route that only root can add


@pytest.mark.parametrize("group", ["10.0.0.1", "::1", "eth0", "", "239.1.1.1:5000", "224.0.0.256"])
def test_only_multicast_addresses_have_an_interface(group: str) -> None:
    with pytest.raises(GroupError, match="is not an IPv4 or IPv6 multicast address"):
        default_interface(group, MACHINE)


def test_where_netlink_is_forbidden_a_connected_socket_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(address: routes.GroupAddress) -> routes.Route:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(routes, "by_netlink", forbidden)
    listed = interfaces()
    for group in ("239.1.1.1", "ff02::1", "ff15::1"):
        address = module._group_address(group)
        assert routes.find_route(address, listed) == routes.by_connect(address, listed)


# Netlink --------------------------------------------------------------------------------------------------------------


def netlink_message(kind: int, body: bytes, sequence: int = dumps.SEQUENCE) -> bytes:
    padding = b"\0" * (-len(body) % 4)
    return netlink.NLMSGHDR.pack(netlink.NLMSGHDR.size + len(body), kind, 0, sequence, 0) + body + padding


def new_route(index: int, protocol: int = 3, *before: bytes) -> bytes:
    head = netlink.RTMSG.pack(socket.AF_INET, 32, 0, 0, 254, protocol, 0, 1, 0)
    return netlink_message(
        netlink.RTM_NEWROUTE, head + b"".join(before) + attribute(netlink.RTA_OIF, struct.pack("=I", index))
    )


def attribute(kind: int, value: bytes) -> bytes:
    return netlink.RTATTR.pack(netlink.RTATTR.size + len(value), kind) + value + b"\0" * (-len(value) % 4)


@pytest.mark.parametrize(
    ("reply", "route"),
    [
        (b"", routes.Route(0)),
        (new_route(4), routes.Route(4)),
        (new_route(4, netlink.RTPROT_KERNEL), routes.Route(4, is_automatic=True)),
        (new_route(4, 3, attribute(15, b"\1"), attribute(1, b"odd")), routes.Route(4)),
        (new_route(4)[:-1], routes.Route(0)),
        (netlink_message(netlink.NLMSG_ERROR, struct.pack("=i", -errno.ENETUNREACH)), UNREACHABLE),
        (netlink_message(netlink.NLMSG_ERROR, b"\xff\xff"), routes.Route(0)),
        (netlink_message(netlink.NLMSG_ERROR, struct.pack("=i", -(2**31))), routes.Route(0)),
        (netlink_message(3, b"") + new_route(4), routes.Route(4)),
        (netlink_message(netlink.RTM_NEWROUTE, b"", 7) + new_route(4), routes.Route(4)),  # another's answer
        (netlink_message(netlink.RTM_NEWROUTE, b"\0" * 11) + new_route(4), routes.Route(4)),
        (netlink.NLMSGHDR.pack(0, 24, 0, 1, 0) + new_route(4), routes.Route(0)),  # a length of 0 must not loop
        (netlink_message(24, netlink.RTMSG.pack(*[0] * 9) + b"\0\0\4\0" * 4), routes.Route(0)),
        (netlink_message(24, netlink.RTMSG.pack(*[0] * 9) + attribute(netlink.RTA_OIF, b"\1\2\3")), routes.Route(0)),
        (netlink_message(24, netlink.RTMSG.pack(*[0] * 9) + b"\x0c\0\4\0\1\0\0\0"), routes.Route(0)),  # cut short
    ],
)
def test_netlink_answers(reply: bytes, route: "routes.Route") -> None:
    assert routes.parse(reply) == route


def spoiled(reply: bytes, at: int, byte: int) -> bytes:
    """With one byte changed."""
    return reply[: at % len(reply)] + bytes([byte]) + reply[at % len(reply) + 1 :]


spoiled_routes = st.builds(
    spoiled,
    st.builds(lambda index, tail: new_route(index) + tail, st.integers(0, 2**32 - 1), st.binary()),
    st.integers(0, 200),
    st.integers(0, 255),
)


@given(st.binary() | spoiled_routes | st.builds(netlink_message, st.sampled_from([2, 24]), st.binary()))
def test_any_bytes_are_an_answer(reply: bytes) -> None:
    route = routes.parse(reply)
    assert 0 <= route.index < 2**32
    if route.errno:
        assert route.index == 0
        os_text(route.errno)  # any number must be printable


ADDRESS = (
    netlink.IFADDRMSG.pack(socket.AF_INET, 24, 0, 0, 7)
    + attribute(netlink.IFA_ADDRESS, b"\x0a\0\0\1")
    + attribute(netlink.IFA_LOCAL, b"\x0a\0\0\2")
    + attribute(netlink.IFA_LABEL, b"eth0:\xff\0")
)


@pytest.mark.needs("answers of Linux")
def test_an_address_with_its_label() -> None:
    assert addresses.parse(memoryview(ADDRESS)) == (7, "10.0.0.2", os.fsdecode(b"eth0:\xff"))


@pytest.mark.needs("answers of Linux")
@given(st.binary() | st.builds(spoiled, st.just(ADDRESS), st.integers(0, 200), st.integers(0, 255)))
def test_any_bytes_are_an_answer_about_addresses(body: bytes) -> None:
    if (found := addresses.parse(memoryview(body))) is not None:
        index, text, _ = found
        assert 0 <= index < 2**32
        assert text
    addresses.alternative_names(memoryview(body))


# Network namespaces ---------------------------------------------------------------------------------------------------

WAIT_FOR_CARRIER = """
import json, time, warnings
from mcast_fast._host.interfaces import *
from mcast_fast._host.interfaces import _group_address
from mcast_fast._host.routes import by_connect
from mcast_fast.errors import *
def ready(*names, carrier=True):
    deadline = time.monotonic() + 10
    while not all(find_interface(name).has_carrier == carrier for name in names):
        assert time.monotonic() < deadline, f"carrier of {names}: not {carrier}"
        time.sleep(0.002)
def chosen(group):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            name = default_interface(group).name
        except MulticastError as error:
            name = str(error)
    return [name, [str(one.message) for one in caught]]
"""

UP = "ip link set va up; ip link set vb up;"
PAIR = "ip link add va type veth peer name vb;" + UP


@functools.cache
def unshare() -> tuple[list[str], str]:
    """The command that runs a program in a fresh network namespace, which ends with it; or why there is none."""
    if not IP or not shutil.which("unshare"):
        return [], "the ip or unshare program is not here"
    command = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    done = subprocess.run([*command, sys.executable, "-c", ""], capture_output=True, text=True, check=False)
    return command, done.stderr.strip()


@pytest.fixture
def in_namespace() -> Callable[[str, str], Any]:
    command, reason = unshare()
    if reason:
        pytest.skip(f"network namespaces: {reason}")

    def run(setup: str, code: str) -> Any:
        """What `code` prints as JSON, run in a fresh namespace after the shell commands `setup`."""
        shell = f'set -e; {setup} exec "$0" -W error -c "$1"'
        done = subprocess.run(
            [*command, "sh", "-c", shell, sys.executable, WAIT_FOR_CARRIER + code],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={
                **os.environ,
                "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.lab
def test_fresh_namespace_has_only_a_loopback_that_is_down(in_namespace: Any) -> None:
    listed, v4, v6 = in_namespace(
        "", "print(json.dumps([[(i.name, i.is_up) for i in interfaces()], chosen('239.1.1.1'), chosen('ff02::1')]))"
    )
    assert listed == [["lo", False]]
    assert "no interface for 239.1.1.1: the routing table answers Network is unreachable" in v4[0]
    assert "no interface for ff02::1" in v6[0]


@pytest.mark.lab
def test_loopback_alone_is_not_chosen_but_advised(in_namespace: Any) -> None:
    message, _ = in_namespace("ip link set lo up;", "print(json.dumps(chosen('239.1.1.1')))")
    assert "name loopback, 239.1.1.1%lo" in message


@pytest.mark.lab
def test_the_only_link_is_taken_without_a_route_or_an_address(in_namespace: Any) -> None:
    v4 = in_namespace(
        "ip link set lo up; ip link add va type veth peer name vb; ip link set va up;",
        "print(json.dumps(chosen('239.1.1.1')))",
    )
    assert v4 == ["va", []]


@pytest.mark.lab
def test_two_alike_links_warn_and_a_route_settles_it(in_namespace: Any) -> None:
    code = "ready('va', 'vb'); print(json.dumps(chosen('239.1.1.1')))"
    name, warned = in_namespace("ip link add va index 11 type veth peer name vb index 12;" + UP, code)
    assert (name, len(warned)) == ("va", 1)
    assert "va and vb are equally good; taking va" in warned[0]
    assert in_namespace(PAIR + "ip route add 239.0.0.0/8 dev vb;", code) == ["vb", []]
    assert in_namespace(PAIR + "ip route add default dev va;", code) == ["va", []]
    assert in_namespace(PAIR + "ip addr add 10.9.0.1/24 dev vb;", code) == ["vb", []]


@pytest.mark.lab
def test_ipv6_alike_links_warn_and_a_chosen_route_settles_it(in_namespace: Any) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("feature IPv6: it is switched off here")
    code = "ready('va', 'vb'); print(json.dumps([chosen('ff02::1'), chosen('ff15::1')]))"
    addresses = "ip addr add fe80::a/64 dev va nodad; ip addr add fe80::b/64 dev vb nodad;"
    for name, warned in in_namespace(PAIR + addresses, code):
        assert name in ("va", "vb")
        assert len(warned) == 1
        assert "va and vb are equally good" in warned[0] or "vb and va are equally good" in warned[0]
    route = "ip -6 route add multicast ff15::/16 dev va table local;"
    assert in_namespace(PAIR + addresses + route, code)[1] == ["va", []]
    route = "ip -6 route add multicast ff15::/16 dev vb table local;"
    assert in_namespace(PAIR + addresses + route, code)[1] == ["vb", []]


@pytest.mark.lab
def test_route_by_connected_socket_in_a_namespace(in_namespace: Any) -> None:
    setup = PAIR + "ip addr add 10.9.0.1/24 dev va; ip addr add 10.9.1.1/24 dev vb; ip route add 239.0.0.0/8 dev vb;"
    code = """
route = by_connect(_group_address("239.1.1.1"), interfaces())
print(json.dumps([find_interface(route.index).name, by_connect(_group_address("238.1.1.1"), []).errno]))
"""
    assert in_namespace(setup, code) == ["vb", errno.ENETUNREACH]


@pytest.mark.lab
def test_flags_addresses_aliases_and_alternative_names(in_namespace: Any) -> None:
    setup = (
        "ip link add va type veth peer name vb; ip link set va up; ip link set vb multicast off;"
        "ip addr add 10.9.0.1/24 dev va; ip addr add 10.9.0.2/24 dev va label va:1;"
        "ip link property add dev vb altname cap altname feed-north-primary-0;"
    )
    code = """
ready("va", carrier=False)  # that there is none, the kernel finds out a moment after it is up
va, vb = find_interface("va"), find_interface("vb")
print(json.dumps([va.addresses, va.is_up, va.is_multicast, va.has_carrier, vb.is_up, vb.is_multicast, len(interfaces()),
    find_interface("va:1") == va, find_interface("10.9.0.2") == va, find_interface("cap") == vb, find_interface("feed-north-primary-0") == vb,
    [i.name for i in multicast_interfaces()[0]]]))
"""
    assert in_namespace(setup, code) == [
        ["10.9.0.1", "10.9.0.2"], True, True, False, False, False, 3, True, True, True, True, ["va"],
    ]  # fmt: skip


@pytest.mark.lab
def test_an_interface_name_need_not_be_utf8(in_namespace: Any) -> None:
    setup = "ip link add \"$(printf 'v\\377')\" type veth peer name vb;"
    code = """
listed = interfaces()
print(json.dumps(["vb" in [i.name for i in listed], len(listed), [i.addresses for i in listed if i.is_loopback]]))
"""
    setup += "ip link set lo up;"
    assert in_namespace(setup, code) == [True, 3, [["127.0.0.1", "::1"]]]


def test_a_point_to_point_address_is_this_end(in_namespace: Any) -> None:
    setup = "ip link add va type veth peer name vb; ip addr add 10.9.0.1 peer 10.9.0.2/32 dev va;"
    code = "print(json.dumps([i.addresses for i in interfaces() if i.name == 'va']))"
    assert in_namespace(setup, code) == [["10.9.0.1"]]


def test_more_addresses_than_one_answer_holds(in_namespace: Any) -> None:
    setup = "ip link add va type veth peer name vb; "
    setup += "for i in $(seq 1 4); do for j in $(seq 1 250); do echo addr add 10.9.$i.$j/16 dev va; done; done | ip -batch -;"
    code = "print(json.dumps([len(i.addresses) for i in interfaces() if i.name == 'va']))"
    assert in_namespace(setup, code) == [1000]
