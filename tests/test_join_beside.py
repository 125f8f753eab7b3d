"""A join that names no interface: where the receiver's other groups are."""

import pytest

import mcast_fast as mcast
from tests.conftest import free_port, loopback, multicast_ipv6


@pytest.fixture
def other():
    """An interface beside the loopback, for both families."""
    interface = multicast_ipv6()
    if interface is None or interface.ipv4 is None:
        pytest.skip("feature two interfaces: none beside the loopback is up, multicast-capable and has addresses")
    return interface.name


def there(rx, group):
    return sorted(one.interface for one in rx.memberships if one.group == group)


@pytest.mark.parametrize("which", ["loopback", "other"])
def test_where_the_only_group_is(backend, other, which):
    """Whatever the routing table says: it names one of the two for both."""
    name = loopback() if which == "loopback" else other
    with mcast.Receiver(f"239.9.3.1%{name}:{free_port()}") as rx:
        assert rx.join("239.9.3.2+2")
        assert there(rx, "239.9.3.2") == there(rx, "239.9.3.3") == [name]
        assert not rx.join("239.9.3.2")


def test_on_every_interface_where_groups_are(backend, other):
    port = free_port()
    with mcast.Receiver(f"239.9.3.1%{loopback()}:{port}", f"239.9.3.2%{other}:{port}") as rx:
        assert rx.join("239.9.3.3")
        assert there(rx, "239.9.3.3") == sorted([loopback(), other])
        assert not rx.join("239.9.3.3")
        assert not rx.join("239.9.3.1")  # it is joined already: there
        assert there(rx, "239.9.3.1") == [loopback()]
        assert rx.leave("239.9.3.3")
        assert there(rx, "239.9.3.3") == []


def test_by_the_ip_version(backend, other):
    port = free_port()
    with mcast.Receiver(f"239.9.3.1%{loopback()}:{port}", f"[ff11::1%{other}]:{port}") as rx:
        assert rx.join("239.9.3.2")
        assert rx.join("ff11::2")
        assert there(rx, "239.9.3.2") == [loopback()]
        assert there(rx, "ff11::2") == [other]


def test_where_there_are_groups_of_the_other_version_only(backend, other):
    with mcast.Receiver(f"239.9.3.1%{other}:{free_port()}") as rx:
        assert rx.join("ff11::2")
        assert there(rx, "ff11::2") == [other]


def test_what_is_named_goes_first(backend, other):
    port = free_port()
    with mcast.Receiver(f"239.9.3.1%{loopback()}:{port}") as rx:
        assert rx.join(f"239.9.3.2%{other}")
        assert there(rx, "239.9.3.2") == [other]
    with mcast.Receiver(f"239.9.3.1%{loopback()}:{port}", interface=other) as rx:
        assert rx.join("239.9.3.2")
        assert there(rx, "239.9.3.2") == [other]


def test_without_any_group_the_routing_table_says_it(backend, other):
    port = free_port()
    with mcast.Receiver(f"239.9.3.1%{loopback()}:{port}") as rx:
        rx.leave("239.9.3.1")
        assert rx.join(f"239.9.3.2:{port}")
        with mcast.Receiver(f"239.9.3.2:{port}") as fresh:
            assert there(rx, "239.9.3.2") == there(fresh, "239.9.3.2")


@pytest.mark.needs("blocked sources")  # wine refuses this membership by source (EINVAL), as it refuses to block one
def test_a_source_of_a_group_that_is_joined_nowhere_yet(backend, other):
    with mcast.Receiver(f"239.9.3.1%{other}:{free_port()}") as rx:
        assert rx.join("10.0.0.5@232.1.1.2")
        (one,) = [one for one in rx.memberships if one.group == "232.1.1.2"]
        assert (one.interface, one.mode, one.sources) == (other, "include", ("10.0.0.5",))


def test_an_error_on_one_of_the_interfaces_leaves_all_as_it_was(backend, other, monkeypatch):
    port = free_port()
    with mcast.Receiver(f"239.9.3.1%{loopback()}:{port}", f"239.9.3.1%{other}:{port}") as rx:
        before = rx.memberships
        monkeypatch.setattr(rx._subscriptions, "_look_up", _refusing(rx._subscriptions._look_up, other))
        with pytest.raises(mcast.InterfaceError):
            rx.join("239.9.3.2")
        assert rx.memberships == before


def _refusing(call, name):
    def look_up(group, default):
        if default == name:
            raise mcast.InterfaceError(f"{name} is gone")
        return call(group, default)

    return look_up


@pytest.mark.needs("watch")
def test_beside_groups_that_wait_for_an_interface(backend):
    with mcast.Receiver("239.9.3.1%later0:5000", watch=True) as rx:
        assert rx.join("239.9.3.2:5000")
        (one,) = [one for one in rx.memberships if one.group == "239.9.3.2"]
        assert (one.interface, one.joined, one.reason) == ("later0", False, "the interface is not there yet")
