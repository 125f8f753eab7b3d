"""Counts over time, in memory that does not grow with the time: bins become wider.

Rules of this module: no I/O.
"""

from typing import Any, NamedTuple

MOST_BINS = 640
_MS = 1_000_000
# ns of a bin; each is a whole multiple of the one before, so that bins can be added up.
_WIDTHS = tuple(
    one * _MS for one in (1, 5, 10, 50, 100, 500, 1_000, 5_000, 10_000, 60_000, 300_000, 600_000, 3_600_000)
)
_WIDER = 10  # times, beyond those


class Span(NamedTuple):
    """The time that a grid covers: `bins` of `width` ns each; the first begins at `start`, ns since the epoch."""

    start: int = 0
    width: int = _WIDTHS[0]
    bins: int = 0

    @property
    def seconds(self) -> float:
        """Of a bin."""
        return self.width / 1e9


class Grid:
    """Tables of counts, by their names: a row for each thing that is counted, a column for each bin of time.

    Bins begin at whole multiples of their width since the epoch, so that files of one time may come one by one.
    """

    def __init__(self) -> None:
        import numpy

        self._numpy = numpy
        self._tables: dict[str, Any] = {}
        self._width = _WIDTHS[0]
        self._first = self._last = 0  # bins that are used, since the epoch
        self._is_empty = True
        self._rows: dict[str, int] = {}

    def new_row(self, *tables: str) -> int:
        """A row that is unused in these tables, which have the same rows."""
        row = self._rows.get(tables[0], 0)
        self._rows.update(dict.fromkeys(tables, row + 1))
        return row

    def rows(self, table: str) -> int:
        """The rows of a table that are used."""
        return self._rows.get(table, 0)

    @property
    def span(self) -> Span:
        """What it covers."""
        if self._is_empty:
            return Span()
        return Span(self._first * self._width, self._width, self._last - self._first + 1)

    def row(self, table: str, row: int) -> tuple[int, ...]:
        """The counts of a row, one for each bin of `span`."""
        rows = self._tables.get(table)
        count = self.span.bins
        if rows is None or row >= len(rows):
            return (0,) * count
        return tuple(map(int, rows[row, :count]))

    def add(self, tables: dict[str, Any], rows: Any, times: Any) -> None:
        """Count `tables[name][n]` into the row `rows[n]` at `times[n]`, ns since the epoch, more than 0: arrays."""
        if not len(times):
            return
        self.reach(int(times.min()), int(times.max()))
        bins = times // self._width - self._first
        highest = int(rows.max())
        for name, amounts in tables.items():
            self._numpy.add.at(self._table(name, highest), (rows, bins), amounts)

    def add_one(self, table: str, row: int, time: int, amount: int) -> None:
        """Count one amount, which may be less than 0, at a time."""
        self.reach(time, time)
        self._table(table, row)[row, time // self._width - self._first] += amount

    def reach(self, earliest: int, latest: int) -> None:
        """Have the bins cover these times too."""
        if self._is_empty:
            self._first = self._last = earliest // self._width
            self._is_empty = False
        while True:
            first = min(self._first, earliest // self._width)
            last = max(self._last, latest // self._width)
            if last - first < MOST_BINS:
                break
            self._widen()
        if first < self._first:
            self._tables = {name: self._shifted(table, self._first - first) for name, table in self._tables.items()}
        self._first, self._last = first, last

    # ---- tables ----

    def _table(self, name: str, row: int) -> Any:
        """A table that has this row."""
        table = self._tables.get(name)
        rows = 0 if table is None else len(table)
        if row >= rows:
            larger = self._numpy.zeros((max(8, 2 * rows, row + 1), MOST_BINS), self._numpy.int64)
            if table is not None:
                larger[:rows] = table
            self._tables[name] = table = larger
        return table

    def _shifted(self, table: Any, by: int) -> Any:
        moved = self._numpy.zeros_like(table)
        moved[:, by:] = table[:, : MOST_BINS - by]
        return moved

    def _widen(self) -> None:
        """The next width; bins that become one are added up."""
        wider = [one for one in _WIDTHS if one > self._width]
        width = wider[0] if wider else _WIDER * self._width
        factor = width // self._width
        first = self._first // factor
        before = self._first - first * factor  # bins of the first new one that were not there
        for name, table in self._tables.items():
            padded = self._numpy.zeros((len(table), -(-(before + MOST_BINS) // factor) * factor), table.dtype)
            padded[:, before : before + MOST_BINS] = table
            sums = padded.reshape(len(table), -1, factor).sum(axis=2)
            self._tables[name] = self._numpy.zeros_like(table)
            self._tables[name][:, : min(MOST_BINS, sums.shape[1])] = sums[:, :MOST_BINS]
        self._first, self._last, self._width = first, self._last // factor, width
