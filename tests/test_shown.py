"""Outputs that README and docs show are outputs seen: each is produced again and compared, without times and rates.

The screens of docs/command-line.md have a test of their own (tests/test_screens.py), and so has the first snippet of README
(tests/test_public.py).
"""

import os
import re
import sys
from functools import partial
from importlib.util import find_spec

import pytest

import mcast_fast as mcast
from tests import lab, screens, shown, test_examples
from tests.conftest import free_port, loopback

# Pages whose outputs have tests of their own, with their number; None: that test counts them.
ELSEWHERE = {"README.md": 1, "docs/command-line.md": None, "docs/doctor.md": 1}
RECIPES = {
    "astronomy": "vdif",
    "dis": "dis_pdus",
    "exchange": "moldudp64",
    **{name: name for name in ("lcm", "mdns", "ptp", "rtp", "sap", "ssdp")},
}
NEEDS_POLARS = ("docs/analysis.md",)
# What no test produces: the page and the first words, with the reason. Whoever shows more says so here.
NOT_RUN = {
    "docs/probe.md: hears multicast of": "three hosts, ten seconds: tests/test_probe.py has the words of every finding",
}


def test_every_output_has_a_test_or_a_reason():
    pages = sorted(path.relative_to(shown.ROOT).as_posix() for path in shown.DOCS.rglob("*.md"))
    ran = {*shown.PAGES, *(f"docs/recipes/{name}.md" for name in RECIPES)}
    left = []
    for page in ["README.md", *pages]:
        outputs = shown.outputs_of(page)
        if page in ELSEWHERE:
            assert ELSEWHERE[page] in (None, len(outputs)), page
        elif page not in ran:
            left += [f"{page}: {output}" for output in outputs]
    assert [one for one in left if not one.startswith(tuple(NOT_RUN))] == []
    assert len(left) == len(NOT_RUN)


def test_a_mask_hides_times_alone():
    assert shown.masked("received 3 in 1.25 s") == shown.masked("received 3  in 0.10 s")
    assert shown.masked("received 3 in 1.25 s") != shown.masked("received 4 in 1.25 s")
    assert shown.masked("127.0.0.1:40001 > 239.1.1.1:5000") != shown.masked("127.0.0.1:40001 > 239.1.1.2:5000")
    assert shown.masked("1 recv  1,308 ns per packet, 0 dropped") != shown.masked(
        "1 recv  1,308 ns per packet, 1 dropped"
    )


@pytest.mark.lab  # ports of the page, in a network of the test's own
@pytest.mark.needs("pseudo terminals", "tshark", "ring", "large buffers")
def test_a_reader_sees_what_the_pages_show(tmp_path):
    """Quick start, analysis and tutorial, command by command in one directory."""
    pytest.importorskip("matplotlib")
    pages = [page for page in shown.PAGES if page not in NEEDS_POLARS or find_spec("polars")]
    reader, compared = shown.Reader(tmp_path), 0
    for page in pages:
        for output in reader.read(page):
            assert shown.masked(output.seen) == shown.masked(output.shown), f"{page}: {output.seen}"
            compared += 1
    assert compared == sum(len(shown.outputs_of(page)) for page in pages)
    assert (tmp_path / "gaps.png").stat().st_size > 5_000
    if pages != list(shown.PAGES):
        pytest.skip("feature polars: not installed; the other pages were compared")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_shows_what_its_script_prints(name):
    script = RECIPES[name]
    payloads = [payload for payload, _ in test_examples.PACKETS[script]]
    group = f"239.1.1.1%{loopback()}:{free_port()}"
    if script in test_examples.ASKING:
        arguments = [group, 60] if script == "ssdp" else [group, "_http._tcp.local", 60]
        with test_examples.answering(group, payloads[0]):
            lines = test_examples.Run(script, *arguments, enough=lambda line: True).lines
    else:
        more = [f"239.1.1.1%{loopback()}:{free_port()}"] if script == "ptp" else [10] if script == "vdif" else []
        with mcast.Sender(group, ttl=0, segmentation=False) as tx:
            opened = partial(tx.send_batch, payloads)
            lines = test_examples.Run(script, group, *more, len(payloads), opened=opened).lines
    (output,) = shown.outputs_of(f"docs/recipes/{name}.md")
    port = (r"(?<=127\.0\.0\.1:)\d+", "PORT")
    assert [re.sub(*port, line) for line in lines] == [re.sub(*port, line) for line in output.splitlines()]


@pytest.mark.lab
def test_the_doctor_says_what_its_page_shows():
    """That fault is made: a strict filter, and the route back by another interface."""
    (shown_there,) = shown.outputs_of("docs/doctor.md")
    with lab.Lab() as made:
        a, b = made.link("a", "b", names=("va0", "eth0"))
        made.link("a", "b", names=("va1", "eth1"))
        b.host.sysctl("net.ipv4.conf.eth0.rp_filter", 1)
        b.host.run("ip", "route", "add", "10.9.0.7/32", "dev", "eth1")
        a.host.add_address("va0", "10.9.0.7/24")
        a.blast("239.1.1.1", 5000, count=10_000_000, rate=300, source="10.9.0.7")
        command = [sys.executable, "-m", "mcast_fast.doctor", "239.1.1.1%eth0:5000"]
        printed = b.host.spawn(command, env=os.environ | {"PYTHONPATH": screens.SOURCE}).finish(expected=(1,))
    grew = (r"grew by \d+", "grew by 300")
    assert re.sub(*grew, shown_there) in re.sub(*grew, printed)
