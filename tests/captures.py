"""Holds the reader against tshark over a directory of capture files: python -m tests.captures DIRECTORY

A file is either read with as many packets as tshark counts (those to multicast addresses, all of UDP, and of these those
that were put together from fragments), or refused with our own error; and both backends deliver the same records,
payloads, statistics, summaries and errors. Exits 1 when a file is neither.

What tshark counts: packets whose *outermost* headers are IP and UDP, which are no fragments, and whose lengths do not
contradict each other. Tunnels (VXLAN, GRE, PPPoE, MPLS, ...) are not descended into by us, so that
`frame.protocols` must go from a link header and VLAN tags over IP and its extension headers to UDP, and of every field
the first occurrence counts. Reassembly is off, for it would turn fragments into datagrams; those are counted by a
second run, with it on.
"""

import importlib
import itertools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mcast_fast import _core
from mcast_fast.errors import CaptureError
from mcast_fast.files._reader import Reader
from mcast_fast.files._summary import summarise
from mcast_fast.groups import is_multicast

FIELDS = (
    "frame.protocols", "ip.dst", "ipv6.dst", "ip.hdr_len", "ip.len", "udp.length", "ip.flags.mf", "ip.frag_offset",
    "ipv6.fraghdr.offset", "ipv6.fraghdr.more", "ip.bogus_header_length", "ip.bogus_ip_length", "udp.length.bad",
    "ipv6.plen_exceeds_framing", "ipv6.plen",
)  # fmt: skip
LINKS = {"eth", "ethertype", "vlan", "ieee8021ad", "sll", "null", "raw", "loop", "sll2"}
EXTENSIONS = {"ipv6.hopopts", "ipv6.dstopts", "ipv6.routing", "ipv6.fraghdr", "ah", "mipv6", "hip", "shim6"}
TSHARK = [
    "tshark", "-n", "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE", "-Y", "udp", "-T", "fields",
    "-E", "occurrence=f", *itertools.chain.from_iterable(("-e", field) for field in FIELDS),
]  # fmt: skip
# Of the last fragment of a datagram, what it is a part of.
WHOLE = ("frame.protocols", "ip.dst", "ipv6.dst", "ip.reassembled.length", "ipv6.reassembled.length", "udp.length")
TSHARK_WHOLE = [
    "tshark", "-n", "-o", "ip.defragment:TRUE", "-o", "ipv6.defragment:TRUE", "-o", "ip.check_checksum:FALSE",
    "-Y", "udp && (ip.fragment.count || ipv6.fragment.count)", "-T", "fields", "-E", "occurrence=f",
    *itertools.chain.from_iterable(("-e", field) for field in WHOLE),
]  # fmt: skip
UNREADABLE = 2  # tshark's exit code
BATCH = 4096


class Counts(NamedTuple):
    """Packets to multicast addresses, and all of UDP; those that came whole, and those put together from fragments."""

    multicast: int = 0
    all: int = 0
    multicast_together: int = 0
    all_together: int = 0


def destination_of(told: dict[str, str]) -> tuple[str, str]:
    """(ip or ipv6, destination) of UDP that no tunnel is around; empty for anything else."""
    rest = list(itertools.dropwhile(LINKS.__contains__, told["frame.protocols"].split(":")))
    if len(rest) < 2 or rest[0] not in ("ip", "ipv6"):
        return "", ""
    above = next(itertools.dropwhile(EXTENSIONS.__contains__, rest[1:]), "")
    return rest[0], (told["ip.dst"] if rest[0] == "ip" else told["ipv6.dst"]) if above == "udp" else ""


def fields_of(line: str) -> dict[str, str]:
    """A line of the first run of tshark."""
    return dict(zip(FIELDS, line.rstrip("\n").split("\t"), strict=False))


def counted(line: str) -> Counts:
    """A line of tshark, as far as a reader delivers it."""
    told = fields_of(line)
    version, destination = destination_of(told)
    if not destination or is_fragment(told) or is_bogus(told, version):
        return Counts()
    return Counts(int(is_multicast(destination)), 1)


def together(line: str) -> Counts:
    """The same of a datagram that was put together."""
    told = dict(zip(WHOLE, line.rstrip("\n").split("\t"), strict=False))
    version, destination = destination_of(told)
    length = told[f"{version}.reassembled.length"] if version else ""
    if not destination or not length or not 8 <= int(told["udp.length"] or 0) <= int(length):
        return Counts()
    return Counts(0, 0, int(is_multicast(destination)), 1)


def is_fragment(told: dict[str, str]) -> bool:
    """A piece of a datagram; a fragment header that says "first and last" is of a whole one."""
    return any(
        told[name] not in ("", "0", "False")
        for name in ("ip.flags.mf", "ip.frag_offset", "ipv6.fraghdr.offset", "ipv6.fraghdr.more")
    )


def is_bogus(told: dict[str, str], version: str) -> bool:
    """Lengths that contradict each other."""
    if any(told[name] for name in ("ip.bogus_header_length", "ip.bogus_ip_length", "ipv6.plen_exceeds_framing")):
        return True
    if told["udp.length.bad"] or not told["udp.length"] or int(told["udp.length"]) < 8:
        return True
    if version == "ip":
        return int(told["udp.length"]) > int(told["ip.len"]) - int(told["ip.hdr_len"])
    return int(told["udp.length"]) > int(told["ipv6.plen"])


def tshark(path: Path) -> tuple[Counts, str]:
    """(packets, what it complained about)."""
    result = subprocess.run([*TSHARK, "-r", str(path)], capture_output=True, text=True, errors="replace", check=False)
    complaint = result.stderr.strip().splitlines()[-1] if result.returncode == UNREADABLE else ""
    lines = [Counts(), *map(counted, result.stdout.splitlines())]
    if any(is_fragment(fields_of(line)) for line in result.stdout.splitlines()):
        whole = subprocess.run(
            [*TSHARK_WHOLE, "-r", str(path)], capture_output=True, text=True, errors="replace", check=False
        )
        lines += map(together, whole.stdout.splitlines())
    return Counts(*map(sum, zip(*lines, strict=True))), complaint


def ours(path: Path, backend: str) -> tuple[Counts, str, object]:
    """(packets, our own error, everything that was delivered)."""
    multicast, error, everything = read(path, backend, multicast_only=True)
    udp, _, more = read(path, backend, multicast_only=False)
    return Counts(multicast[0], udp[0], multicast[1], udp[1]), error, (everything, more)


def read(path: Path, backend: str, multicast_only: bool) -> tuple[tuple[int, int], str, object]:
    """((packets that came whole, that were put together), our own error, everything that was delivered) of one
    reading."""
    _core.files = importlib.import_module(f"mcast_fast._core.{backend}.files")
    seen = []
    error = ""
    try:
        with Reader(path, multicast_only=multicast_only) as reader:
            try:
                while batch := reader.collect(BATCH):
                    seen.append((bytes(batch.records), bytes(batch.data), batch.names.copy()))
            finally:
                state = (reader.stats, reader.interfaces, reader.form, reader.offset, reader.skipped_kinds)
    except CaptureError as wrong:
        error = str(wrong)
    with Reader(path, multicast_only=multicast_only) as reader:
        summary = summarise(str(path), reader)
    assert (summary.total.packets, summary.total.bytes) == (state[0].received, state[0].bytes), path
    counts = state[0].received - state[0].reassembled, state[0].reassembled
    return counts, error, (seen, state, error, summary)


def main() -> int:
    """Compares file by file, and prints what differs and the sums."""
    paths = sorted(path for path in Path(sys.argv[1]).rglob("*") if path.is_file())
    sums = dict.fromkeys(
        ("files", "equal", "multicast", "udp", "together", "refused", "refused by tshark too", "different", "backends"),
        0,
    )
    with ThreadPoolExecutor(2) as pool:
        for path, (wanted, complaint) in zip(paths, pool.map(tshark, paths), strict=True):
            count, error, everything = ours(path, "fast")
            sums["files"] += 1
            sums["multicast"] += count.multicast
            sums["udp"] += count.all
            sums["together"] += count.all_together
            sums["refused"] += bool(error)
            sums["refused by tshark too"] += bool(error and complaint)
            if not error:
                sums["equal" if count == wanted else "different"] += 1
            if error or count != wanted:
                print(
                    f"{path}: {tuple(count)} packets, tshark {tuple(wanted)}; {error or 'read'}; tshark: {complaint or 'read'}"
                )
            if ours(path, "pure") != (count, error, everything):
                sums["backends"] += 1
                print(f"{path}: the backends differ")
    print(json.dumps(sums))
    return 1 if sums["different"] or sums["backends"] or sums["files"] < 200 else 0


if __name__ == "__main__":
    sys.exit(main())
