"""What can be done with counters: differences, and tables for notebooks, in which everything is escaped."""

import dataclasses

import pytest

import mcast_fast as mcast
from mcast_fast import Event, SenderStats, Stats
from mcast_fast._membership.memberships import Membership, Memberships
from mcast_fast.files import ReaderStats, WriterStats
from mcast_fast.stats import What

GONE, BACK = (Event(time, what, "eth0", "<i>") for time, what in ((1, What.GONE), (2, What.BACK)))
KINDS = [Stats, SenderStats, ReaderStats, WriterStats]


def test_a_difference_is_what_was_counted_in_between():
    earlier = Stats(received=10, bytes=100, dropped_socket=1, dropped_nic=5, largest_batch=9, events=(GONE,))
    later = Stats(received=17, bytes=190, dropped_socket=4, dropped_nic=None, largest_batch=7, events=(GONE, BACK))
    assert later - earlier == Stats(
        received=7, bytes=90, dropped_socket=3, dropped_ring=None, dropped_nic=None, largest_batch=7, events=(BACK,)
    )
    assert (later - earlier).dropped == 3


def test_what_is_no_counter_is_of_the_later_one():
    assert (Stats(drops_exact=False) - Stats(drops_exact=True)).drops_exact is False
    later = SenderStats(datagrams=5, rate=10.5, rate_error=0.1, segmentation=True, segmentation_reason="a", reopened=1)
    earlier = SenderStats(datagrams=3, rate=9.5, segmentation_reason="b", reopened=1)
    assert later - earlier == dataclasses.replace(later, datagrams=2, reopened=0)
    assert WriterStats(5, 50, 1, 3) - WriterStats(2, 20, 1, 9) == WriterStats(3, 30, 0, 3)
    assert ReaderStats(frames=5, dropped=2) - ReaderStats(frames=1) == ReaderStats(frames=4, dropped=2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_a_counter_or_named(kind):
    """A new one that counts nothing must not be subtracted."""
    numbers = {one.name for one in dataclasses.fields(kind) if one.type in ("int", int, "int | None", int | None)}
    others = {one.name for one in dataclasses.fields(kind)} - numbers - {"events", "flows"}
    assert others <= kind._STATES
    assert kind() - kind() == kind()


@pytest.mark.parametrize("other", [None, 5, SenderStats(), (), object()])
def test_only_figures_of_one_kind_have_a_difference(other):
    with pytest.raises(TypeError):
        Stats() - other
    with pytest.raises(TypeError):
        other - Stats()


def test_a_difference_of_what_a_receiver_counts(backend, place):
    group = place.group()
    with mcast.Receiver(group) as rx, mcast.Sender(group, ttl=0) as tx:
        tx.send_batch([b"12"] * 3)
        assert len(rx.collect(3, timeout=5)) == 3
        earlier, sent = rx.stats, tx.stats
        tx.send_batch([b"123"] * 2)
        assert len(rx.collect(2, timeout=5)) == 2
        passed = rx.stats - earlier
        assert (passed.received, passed.bytes, passed.batches, passed.largest_batch) == (2, 6, 1, 3)
        assert (tx.stats - sent).datagrams == 2


@pytest.mark.parametrize("kind", KINDS)
def test_counters_are_a_table(kind):
    html = kind()._repr_html_()
    assert html.startswith(f"<table><caption>{kind.__name__}</caption>")
    assert all(
        f"<td>{one.name}</td>" in html for one in dataclasses.fields(kind) if one.name not in ("events", "flows")
    )


def test_what_comes_from_elsewhere_is_escaped():
    html = Stats(received=1_234_567, events=(GONE,))._repr_html_()
    assert "<td>1,234,567</td>" in html
    assert "&lt;i&gt;" in html
    assert "<i>" not in html
    assert "<td>dropped_socket</td><td>-</td>" in html
    assert "a&amp;&lt;b&gt;" in SenderStats(segmentation_reason="a&<b>")._repr_html_()


def test_memberships_are_a_table(backend, place):
    group = place.group()
    with mcast.Receiver(group) as rx:
        memberships = rx.memberships
        assert isinstance(memberships, list)
        html = memberships._repr_html_()
    assert "<caption>1 memberships</caption>" in html
    assert f"<td>{memberships[0].group}</td><td>{memberships[0].port}</td>" in html
    assert memberships == list(memberships)
    one = Membership("239.1.1.1", 5000, "<b>", "include", ("10.0.0.1", "10.0.0.2"), False, reason="a<b")
    html = Memberships([one])._repr_html_()
    assert "<td>&lt;b&gt;</td><td>include</td><td>10.0.0.1, 10.0.0.2</td><td>False</td><td>-</td>" in html
    assert "a&lt;b" in html
