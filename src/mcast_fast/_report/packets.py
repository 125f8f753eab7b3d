"""The packets of batches over time, and by their sizes: a few operations on whole columns for each batch.

Rules of this module: no I/O.
"""

import secrets
from typing import TYPE_CHECKING, Any

from mcast_fast._core import layout
from mcast_fast._core.addresses import address_text, interface_text, plain_text
from mcast_fast._report.grid import Grid

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

MOST_STREAMS = 1024  # of all sources, with a row of their own; those of a source that come later share one
TOGETHER = 16_384  # packets that are counted at once
PACKETS, BYTES, DROPPED = "packets", "bytes", "dropped"  # tables of the grid

Name = tuple[str, int, str | None, str | None]  # group, port, source, interface: as Stream.name


class Packets:
    """Counts the packets of one source of batches into a grid.

    A stream is found by a hash of what names it, with factors that nobody outside knows: two streams of one hash are
    unlikelier than an error of the memory. The hash spares a sort of 40 bytes per packet.
    """

    def __init__(self, grid: Grid) -> None:
        import numpy

        self._numpy = numpy
        self._grid = grid
        self._words = self._layout()
        self._factors = [secrets.randbits(64) | 1 for _ in range(10)]
        self._rows: dict[int, int] = {}  # by the hash
        self.rows: dict[Name, int] = {}
        self.others: int | None = None  # the row of all other streams
        self.sizes = numpy.zeros(layout.MAX_PACKET_SIZE + 1, numpy.int64)
        self._waiting: list[bytes] = []
        self._waits = 0  # packets
        self._names: dict[int, str] = {}  # of interfaces
        self._latest_names: dict[int, str] | None = None
        self.count = self.untimed = self.dropped = 0
        self.first: int | None = None  # time of arrival, ns since the epoch
        self.last: int | None = None

    def _layout(self) -> Any:
        """The record as what is read here: addresses as words."""
        offsets = layout.offsets()
        fields = {
            **{name: ("=i8" if name == "timestamp" else "=u4", offsets[name]) for name in ("timestamp", "dropped")},
            **{name: ("=u2", offsets[name]) for name in ("length", "wire_length", "port")},
            "interface": ("=u4", offsets["interface"]),
            **{f"source{at}": ("=u4", offsets["source"] + 4 * at) for at in range(4)},
            **{f"group{at}": ("=u4", offsets["group"] + 4 * at) for at in range(4)},
        }
        formats, places = zip(*fields.values(), strict=True)
        return self._numpy.dtype(
            {"names": list(fields), "formats": formats, "offsets": places, "itemsize": layout.RECORD_SIZE}
        )

    def add(self, batch: "Batch") -> None:
        """Take the records of a batch; they are counted when there are enough, for small batches cost as much."""
        self._waiting.append(self._numpy.asarray(batch).tobytes())  # an array of structures is copied field by field
        self.count += len(batch)
        self._waits += len(batch)
        if batch.names is not self._latest_names:
            self._latest_names = batch.names
            self._names = self._names | batch.names
        if self._waits >= TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Count what waits: at the end, too."""
        if not self._waiting:
            return
        numpy = self._numpy
        whole = numpy.frombuffer(b"".join(self._waiting), layout.numpy_dtype())
        self._waiting, self._waits = [], 0
        records = whole.view(self._words)
        rows = self._rows_of(records, whole)
        sizes = numpy.maximum(records["length"], records["wire_length"])
        self.sizes += numpy.bincount(sizes, minlength=len(self.sizes))
        dropped = records["dropped"]
        self.dropped += int(dropped.sum())
        times = records["timestamp"]
        timed = times > 0
        if not timed.all():
            self.untimed += len(records) - int(timed.sum())
            rows, sizes, dropped, times = rows[timed], sizes[timed], dropped[timed], times[timed]
        if not len(times):
            return
        earliest, latest = int(times.min()), int(times.max())
        self.first = earliest if self.first is None else min(self.first, earliest)
        self.last = latest if self.last is None else max(self.last, latest)
        self._grid.add({PACKETS: 1, BYTES: sizes}, rows, times)
        if dropped.any():
            self._grid.add({DROPPED: dropped}, numpy.zeros_like(rows), times)

    def _rows_of(self, records: Any, whole: Any) -> Any:
        """The row of each packet."""
        numpy = self._numpy
        hashes = self._hashes(records)
        if (hashes == hashes[0]).all():
            return numpy.full(len(hashes), self._row(int(hashes[0]), whole, 0))
        found, firsts, inverse = numpy.unique(hashes, return_index=True, return_inverse=True)
        rows = [self._row(one, whole, at) for one, at in zip(found.tolist(), firsts.tolist(), strict=True)]
        return numpy.array(rows)[inverse]

    def _hashes(self, records: Any) -> Any:
        names = (*(f"source{at}" for at in range(4)), *(f"group{at}" for at in range(4)), "port", "interface")
        total = self._numpy.zeros(len(records), self._numpy.uint64)
        for name, factor in zip(names, self._factors, strict=True):
            total += records[name].astype(self._numpy.uint64) * self._numpy.uint64(factor)  # modulo 2^64
        return total

    def _row(self, hashed: int, whole: Any, at: int) -> int:
        row = self._rows.get(hashed)
        if row is not None:
            return row
        if self._grid.rows(PACKETS) >= MOST_STREAMS:
            if self.others is None:
                self.others = self._grid.new_row(PACKETS, BYTES)
            return self.others
        one = whole[at]
        source, index = one["source"].tobytes(), int(one["interface"])
        interface = interface_text(index, self._names) or None
        name = plain_text(one["group"].tobytes()), int(one["port"]), address_text(source, index, self._names), interface
        if name not in self.rows:
            self.rows[name] = self._grid.new_row(PACKETS, BYTES)
        row = self._rows[hashed] = self.rows[name]
        return row
