"""What this host lost before any socket: counters beside the ledger of a receiver."""

import socket

import pytest

import mcast_fast as mcast
from mcast_fast._host import stack_counters
from mcast_fast.stats import HostCounters
from tests import frames
from tests.conftest import free_port, loopback, until


def test_counters_that_cannot_be_read_are_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(stack_counters, "NET", tmp_path)
    assert stack_counters.read() == {}
    (tmp_path / "snmp").write_text("Udp: InErrors InCsumErrors\nUdp: 3 x\nIp: A\n")
    (tmp_path / "snmp6").write_text("Udp6InErrors  \t 5\nnonsense\n")
    (tmp_path / "dev").write_text("a\nb\n eth0: 1 2 3 4 5 6 7 8 9\n bad: 1\n")
    (tmp_path / "softnet_stat").write_text("00 0a 00\n00 01 00\n")
    assert stack_counters.read() == {
        "Udp.InErrors": 3,
        "Udp6InErrors": 5,
        "dev.eth0.packets": 2,
        "dev.eth0.dropped": 4,
        "dev.eth0.multicast": 8,
        "softnet.dropped": 11,
    }


def test_a_counter_that_a_system_lacks_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(stack_counters, "NET", tmp_path)
    assert mcast.host_counters() == HostCounters()
    assert mcast.host_counters() - mcast.host_counters() == HostCounters()


def test_counters_are_sums_of_the_host(monkeypatch, tmp_path):
    monkeypatch.setattr(stack_counters, "NET", tmp_path)
    (tmp_path / "snmp").write_text("Ip: ReasmFails\nIp: 3\nUdp: InErrors InCsumErrors\nUdp: 100 5\n")
    (tmp_path / "snmp6").write_text("Ip6ReasmFails 4\nUdp6InCsumErrors 6\nUdp6InErrors 100\n")
    (tmp_path / "dev").write_text("a\nb\n eth0: 1 2 3 4 5 6 7 8 9\n eth1: 1 2 3 40 5 6 7 8 9\n")
    (tmp_path / "softnet_stat").write_text("00 0a 00\n00 01 00\n")
    found = mcast.host_counters()
    assert found == HostCounters(checksum_errors=11, reassembly_failures=7, backlog_drops=11, nic_drops=44)
    (tmp_path / "snmp6").unlink()
    assert mcast.host_counters() - found == HostCounters(-6, -4, 0, 0)


@pytest.mark.needs("raw sockets")
def test_a_packet_with_a_wrong_checksum_is_in_the_counters_of_the_host_alone(backend):
    port = free_port()
    wrong = bytearray(frames.udp(b"wrong", port))
    wrong[6:8] = b"\x12\x34"
    with (
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
        mcast.Receiver(f"239.1.1.1%{loopback()}:{port}", timeout=5) as rx,
    ):
        before, ledger = mcast.host_counters(), rx.stats
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        for body in (bytes(wrong), frames.udp(b"right", port)):
            raw.sendto(frames.ipv4("239.1.1.1", body, source="127.0.0.1", ttl=0), ("239.1.1.1", 0))
        assert rx.recv().data == b"right"
        assert until(lambda: (mcast.host_counters() - before).checksum_errors) == 1
        counted = rx.stats - ledger
        assert (counted.received, counted.filtered, counted.dropped) == (1, 0, 0)
