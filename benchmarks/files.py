"""CPU per packet of what is done with capture files at rest: read, summed up, converted, scanned, merged.

The files are of 256-byte packets of ten groups, an hour long, in a tmpfs. Each way is a process of its own in each
round, and the order is shuffled. CPU is the user and system time of all threads: of Python ways of a second run in the
process, of programs all of it. Slow ones get the first packets only.
"""

import argparse
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mcast_fast
from benchmarks import machine, reference
from benchmarks.process import ROOT, BenchmarkError
from benchmarks.report import Bar, Direction, Report, Table, ratio, spread

MODULE = "benchmarks.files"
SOURCE = Path(__file__).with_name("reference_files.c")
ROUNDS = 5
SIZE = "1GiB"
PAYLOAD = 256
BLOCK = 332  # bytes of a packet in pcapng
PART = 50_000
GROUPS = 10
HOUR = 3600 * 10**9
START = 1_795_870_800 * 10**9
MERGED = 100  # files
TMPFS = Path("/dev/shm")
MINUTE = {"groups": "239.1.1.3:5000", "start": START + HOUR // 2, "end": START + HOUR // 2 + 60 * 10**9}

# ---- the files ----


def batch_of(first: int, count: int, step: int) -> Any:
    """Packets with these numbers."""
    import numpy as np

    from mcast_fast._core import views
    from mcast_fast._core.layout import Flag, numpy_dtype

    numbers = np.arange(first, first + count)
    rows = np.zeros(count, numpy_dtype())
    rows["timestamp"] = START + numbers * step
    rows["offset"] = np.arange(count) * PAYLOAD
    rows["interface"] = 1
    rows["length"] = rows["wire_length"] = PAYLOAD
    rows["source"] = np.frombuffer(mcast_fast.pack_addresses("10.0.0.5"), np.uint8)
    groups = mcast_fast.pack_addresses([f"239.1.1.{one + 1}" for one in range(GROUPS)])
    rows["group"] = np.frombuffer(groups, np.uint8).reshape(GROUPS, 16)[numbers % GROUPS]
    rows["source_port"], rows["port"] = 4000, 5000
    rows["flags"], rows["ttl"] = int(Flag.TTL | Flag.TOS), 7
    payloads = np.random.default_rng(first).integers(0, 256, count * PAYLOAD, np.uint8)
    return views.Batch.from_bytes(rows.tobytes(), payloads.tobytes(), {1: "eth0"})


def write_files(directory: Path, packets: int) -> None:
    """One file, and the same packets in many that overlap."""
    step = HOUR // packets
    (directory / "parts").mkdir()
    with ExitStack() as stack:
        whole = stack.enter_context(mcast_fast.files.Writer(directory / "whole.pcapng"))
        parts = [
            stack.enter_context(mcast_fast.files.Writer(directory / "parts" / f"{at:03}.pcapng"))
            for at in range(MERGED)
        ]
        for number, first in enumerate(range(0, packets, 1000)):
            batch = batch_of(first, min(1000, packets - first), step)
            whole.write(batch)
            size = len(batch) // 10 or 1
            for at in range(0, len(batch), size):
                parts[(number * 10 + at // size) % MERGED].write(batch[at : at + size])
    with mcast_fast.files.Writer(directory / "empty.pcapng"):
        pass
    with mcast_fast.open(directory / "whole.pcapng") as reader:
        first = reader.collect(PART)
    with mcast_fast.files.Writer(directory / "part.pcapng") as writer:
        writer.write(first)
    for _ in mcast_fast.files.scan(directory / "whole.pcapng", **MINUTE):  # makes the index
        pass


# ---- what a process does: (packets, what else is to be reported) ----

Done = tuple[int, dict[str, float]]


def columns(directory: Path) -> Done:
    import numpy as np

    packets = total = 0
    with mcast_fast.open(directory / "whole.pcapng", batch_size=65536) as reader:
        for batch in reader:
            packets += len(batch)
            total += int(np.asarray(batch)["length"].sum())
    assert total == packets * PAYLOAD
    return packets, {}


def payloads(directory: Path) -> Done:
    packets = 0
    with mcast_fast.open(directory / "whole.pcapng", batch_size=65536) as reader:
        for batch in reader:
            packets += len(batch.payloads())
    return packets, {}


def cypcap(directory: Path) -> Done:
    import cypcap as library

    packets = 0
    with library.open_offline(str(directory / "whole.pcapng")) as pcap:
        for header, _frame in pcap:
            packets += header is not None
    return packets, {}


def pcapy(directory: Path) -> Done:
    import pcapy as library

    packets = 0

    def count(_header: object, _frame: bytes) -> None:
        nonlocal packets
        packets += 1

    library.open_offline(str(directory / "whole.pcapng")).loop(-1, count)
    return packets, {}


def converted(directory: Path, form: str) -> Done:
    from mcast_fast.files._convert import convert_file

    target = directory / f"out.{form}"
    packets = convert_file(directory / "whole.pcapng", target, form).packets
    target.unlink()
    return packets, {}


def csv(directory: Path) -> Done:
    return converted(directory, "csv")


def parquet(directory: Path) -> Done:
    return converted(directory, "parquet")


def polars_parquet(directory: Path) -> Done:
    """What polars itself needs to write the same table, once it is in memory."""
    import polars

    frame = mcast_fast.files.scan(directory / "whole.pcapng").to_polars().collect()
    started = time.process_time()
    frame.write_parquet(directory / "polars.parquet", compression="snappy")
    took = time.process_time() - started
    (directory / "polars.parquet").unlink()
    assert polars
    return len(frame), {"cpu": took * 1e9 / len(frame)}


def of_scan(directory: Path, index: bool) -> Done:
    scan = mcast_fast.files.scan(directory / "whole.pcapng", index=index, **MINUTE)
    found = sum(map(len, scan))
    packets = (directory / "whole.pcapng").stat().st_size // BLOCK
    return packets, {"share": scan.stats.bytes_read / scan.stats.bytes, "found": found}


def scan_indexed(directory: Path) -> Done:
    return of_scan(directory, True)


def scan_whole(directory: Path) -> Done:
    return of_scan(directory, False)


def polars_scan(directory: Path) -> Done:
    """The same choice by polars, of the same packets as Parquet."""
    import polars

    path = directory / "scanned.parquet"
    if not path.exists():
        converted_to(directory, path)
    chosen = (polars.col("timestamp").cast(polars.Int64).is_between(MINUTE["start"], MINUTE["end"], closed="left")) & (
        polars.col("group").cast(polars.String) == "239.1.1.3"
    )
    started = time.process_time()
    found = polars.scan_parquet(path).filter(chosen).collect()
    packets = (directory / "whole.pcapng").stat().st_size // BLOCK
    return packets, {"found": len(found), "cpu": (time.process_time() - started) * 1e9 / packets}


def converted_to(directory: Path, path: Path) -> None:
    from mcast_fast.files._convert import convert_file

    convert_file(directory / "whole.pcapng", path, "parquet")


def merge(directory: Path) -> Done:
    target = directory / "merged.pcapng"
    done = mcast_fast.files.merge(directory / "parts" / "*.pcapng", target)
    target.unlink()
    # Not ru_maxrss, which counts the process that started this one too.
    lines = Path("/proc/self/status").read_text().splitlines()
    kibibytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return done.blocks, {"MiB": kibibytes / 1024}


OURS: dict[str, tuple[str, Callable[[Path], Done]]] = {
    "columns": ("reading: columns, lengths added up", columns),
    "payloads": ("reading: payloads()", payloads),
    "cypcap": ("reading: cypcap, iteration", cypcap),
    "pcapy": ("reading: pcapy-ng, loop", pcapy),
    "csv": ("to CSV", csv),
    "parquet": ("to Parquet", parquet),
    "polars parquet": ("polars: write_parquet of the table in memory", polars_parquet),
    "scan": ("scan of a group and a minute, with index", scan_indexed),
    "scan whole": ("the same without index", scan_whole),
    "polars scan": ("polars: the same, of Parquet", polars_scan),
    "merge": (f"merge of {MERGED} files", merge),
}

# ---- programs: what they are, their arguments, whether they get the first packets only ----

FIELDS = ["frame.time_epoch", "ip.src", "udp.srcport", "ip.dst", "udp.dstport", "ip.ttl", "udp.length", "udp.payload"]


def tshark(directory: Path) -> list[str]:
    fields = [part for name in FIELDS for part in ("-e", name)]
    return ["tshark", "-n", "-r", str(directory / "part.pcapng"), "-T", "fields", "-E", "separator=,", *fields]


def info(directory: Path) -> list[str]:
    return [sys.executable, "-m", "mcast_fast", "info", str(directory / "whole.pcapng")]


def c_info(directory: Path) -> list[str]:
    return [str(directory / SOURCE.stem), str(directory / "whole.pcapng")]


def of_nothing(directory: Path) -> list[str]:
    """What `info` takes of a file without packets: to start."""
    return [sys.executable, "-m", "mcast_fast", "info", str(directory / "empty.pcapng")]


def capinfos(directory: Path) -> list[str]:
    return ["capinfos", str(directory / "whole.pcapng")]


def mergecap(directory: Path) -> list[str]:
    parts = sorted(map(str, (directory / "parts").glob("*.pcapng")))
    return ["mergecap", "-I", "none", "-w", str(directory / "mergecap.pcapng"), *parts]


PROGRAMS: dict[str, tuple[str, Callable[[Path], list[str]], bool]] = {
    "info": ("mcast-fast info, start included", info, False),
    "info start": ("mcast-fast info of a file without packets, over as many", of_nothing, False),
    "c info": ("plain C: read(2), and a count of each flow", c_info, False),
    "tshark": ("tshark -T fields", tshark, True),
    "capinfos": ("capinfos", capinfos, False),
    "mergecap": (f"mergecap of {MERGED} files", mergecap, False),
}
# A way -> what does the same work.
SAME_WORK = {
    "columns": "cypcap",
    "payloads": "cypcap",
    "pcapy": "cypcap",
    "info": "c info",
    "capinfos": "c info",
    "csv": "tshark",
    "parquet": "polars parquet",
    "scan": "polars scan",
    "scan whole": "polars scan",
    "merge": "mergecap",
}
BARS = (
    Bar("cypcap", "columns", Direction.AT_LEAST, 3),
    Bar("cypcap", "payloads", Direction.AT_LEAST, 2),
    Bar("scan: share of the bytes read", None, Direction.BELOW, 0.05),
    Bar("merge: MiB of memory", None, Direction.AT_MOST, 128),
)
NAMES = [*OURS, *PROGRAMS]


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--size", default=SIZE, help="of the file (%(default)s)")
    options.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")


def run(options: argparse.Namespace) -> Report:
    from mcast_fast._units import size_in_bytes

    packets = max(MERGED * 100, size_in_bytes(options.size, "--size") // BLOCK)
    notes: list[str] = []
    names = [name for name in options.only if is_there(name, notes)]
    settings = {"rounds": options.rounds, "size": options.size, "packets": packets, "payload": PAYLOAD}
    report = Report("files", settings, BARS, notes=notes)
    with machine.watched(report.notes), ExitStack() as stack:
        place = TMPFS if TMPFS.is_dir() else None
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mcast-benchmarks-", dir=place)))
        write_files(directory, packets)
        if "c info" in names:
            shutil.copy(stack.enter_context(reference.compiled_program(SOURCE)), directory)
        report.samples = measure(names, directory, packets, options.rounds)
    report.series = {name: [sample["cpu"] for sample in taken] for name, taken in report.samples.items()}
    for name, what, title in (("scan", "share", "share of the bytes read"), ("merge", "MiB", "MiB of memory")):
        if name in report.samples:
            report.counts[f"{name}: {title}"] = max(sample[what] for sample in report.samples[name])
    report.tables = [table(report)]
    return report


def is_there(name: str, notes: list[str]) -> bool:
    """Whether a way can be measured; else a note says why not."""
    needed = {"cypcap": "cypcap", "pcapy": "pcapy", "parquet": "pyarrow"} | dict.fromkeys(
        ("polars parquet", "polars scan"), "polars"
    )
    if name in PROGRAMS:
        needed_program = {"info": sys.executable, "info start": sys.executable, "c info": os.environ.get("CC", "cc")}
        missing = shutil.which(needed_program.get(name, name)) is None
    else:
        missing = name in needed and importlib.util.find_spec(needed[name]) is None
    if missing:
        notes.append(f"left out: {name}: not installed")
    return not missing


def measure(names: list[str], directory: Path, packets: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    shuffled, order = random.Random(1), list(names)
    for number in range(rounds + 1):
        shuffled.shuffle(order)
        for name in order:
            sample = of_program(name, directory, packets) if name in PROGRAMS else of_python(name, directory)
            if number > 0 or rounds == 0:  # the first round fills memory and caches
                samples[name].append(sample)
    return samples


def of_python(name: str, directory: Path) -> dict[str, Any]:
    argv = [sys.executable, "-m", MODULE, name, str(directory)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{name}: {done.stderr.strip().splitlines()[-1:]}")
    sample: dict[str, Any] = json.loads(done.stdout)
    return sample


def of_program(name: str, directory: Path, packets: int) -> dict[str, Any]:
    _, command, of_part = PROGRAMS[name]
    program = subprocess.Popen(command(directory), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(program.pid, 0)
    program.returncode = os.waitstatus_to_exitcode(status)
    (directory / "mergecap.pcapng").unlink(missing_ok=True)
    if program.returncode:
        raise BenchmarkError(f"{name}: exit {program.returncode}")
    return {"cpu": (usage.ru_utime + usage.ru_stime) * 1e9 / (min(PART, packets) if of_part else packets)}


def table(report: Report) -> Table:
    to = report.measured
    titles = {name: row[0] for name, row in [*OURS.items(), *PROGRAMS.items()]}
    rows = []
    for name in report.series:
        other = SAME_WORK.get(name)
        same = f"{ratio(to[name], to.get(other))} of {other}" if other in to else "-"
        rows.append((titles[name], f"{to[name]:,.1f}", spread(report.series[name]), same))
    return Table(
        "capture files at rest (medians)", ("", "CPU ns per packet", "quartiles", "against the same work"), rows
    )


def main() -> None:
    name, directory = sys.argv[1:]
    OURS[name][1](Path(directory))  # imports, and memory that is touched for the first time
    started = time.process_time()
    packets, more = OURS[name][1](Path(directory))
    print(json.dumps({"cpu": (time.process_time() - started) * 1e9 / packets} | more))


if __name__ == "__main__":
    main()
