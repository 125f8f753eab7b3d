"""Which IGMP or MLD version stands in the way of source filters, as Linux tells it."""

import pytest

from mcast_fast._host import igmp_version

TABLE = """Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter
1\tlo        :     1      V3
\t\t\t\t010000E0     1 0:00000000\t\t0
2\teth0      :     2      V2
\t\t\t\t010101EF     1 0:00000000\t\t0
3\teth1      :     1      V1
"""


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Where the module looks: settings that a test writes, and a table of memberships."""
    table = tmp_path / "igmp"
    table.write_text(TABLE)
    monkeypatch.setattr(igmp_version, "MEMBERSHIPS", table)
    monkeypatch.setattr(igmp_version, "SETTINGS", tmp_path)

    def write(setting, value):
        path = tmp_path / setting
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")

    return write


def test_nothing_in_the_way(told):
    assert igmp_version.obstacle(4, "lo") == ""
    assert igmp_version.obstacle(6, "eth0") == ""
    assert igmp_version.obstacle(4, "gone0") == ""


@pytest.mark.parametrize(("interface", "heard"), [("eth0", "IGMPv2"), ("eth1", "IGMPv1")])
def test_an_old_querier(told, interface, heard):
    assert heard in igmp_version.obstacle(4, interface)
    assert interface in igmp_version.obstacle(4, interface)


@pytest.mark.parametrize("scope", ["lo", "all"])
@pytest.mark.parametrize(
    ("version", "setting", "value", "name"),
    [
        (4, "ipv4/conf/{}/force_igmp_version", 1, "IGMPv1"),
        (4, "ipv4/conf/{}/force_igmp_version", 2, "IGMPv2"),
        (6, "ipv6/conf/{}/force_mld_version", 1, "MLDv1"),
    ],
)
def test_an_old_version_that_is_forced(told, scope, version, setting, value, name):
    told(setting.format(scope), value)
    text = igmp_version.obstacle(version, "lo")
    assert f"{name} is forced" in text
    assert "sysctl -w net." + setting.format(scope).replace("/", ".") + "=0" in text


@pytest.mark.parametrize(
    ("version", "setting", "value"),
    [
        (4, "ipv4/conf/lo/force_igmp_version", 3),
        (6, "ipv6/conf/lo/force_mld_version", 2),
        (4, "ipv4/conf/lo/force_igmp_version", 0),
    ],
)
def test_a_version_that_knows_sources(told, version, setting, value):
    told(setting, value)
    assert igmp_version.obstacle(version, "lo") == ""


@pytest.mark.parametrize("value", ["", "many", "-1"])
def test_a_setting_that_is_no_version_is_passed_over(told, value):
    told("ipv4/conf/lo/force_igmp_version", value)
    assert igmp_version.obstacle(4, "lo") == ""


def test_a_table_in_another_form_is_passed_over(told):
    igmp_version.MEMBERSHIPS.write_text("nonsense\n2 eth0\n:::\n")
    assert igmp_version.obstacle(4, "eth0") == ""
    igmp_version.MEMBERSHIPS.unlink()
    assert igmp_version.obstacle(4, "eth0") == ""
