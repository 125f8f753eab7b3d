"""Capture files merged by time (c/merge.h): packets as blocks of one run, and runs as one."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cdef extern from "merge.h":
    ctypedef struct mcast_row:
        int64_t time
        uint32_t offset
        uint32_t size
    ctypedef struct mcast_clock:
        uint64_t factor
        int64_t shift
        uint64_t number
    ctypedef struct mcast_split:
        unsigned char *data
        size_t used
        size_t room
        mcast_row *rows
        size_t count
        size_t most
    ctypedef struct mcast_run:
        const unsigned char *data
        const mcast_row *rows
        size_t at
        size_t end
    size_t mcast_split_blocks(mcast_split *split, const unsigned char *bytes, size_t size,
                              const mcast_clock *clocks, uint32_t known) nogil
    size_t mcast_split_records(mcast_split *split, const unsigned char *bytes, size_t size, uint32_t number,
                               int swapped, int lengths, size_t header, uint32_t units) nogil
    void mcast_split_add(mcast_split *split, int64_t time, size_t size) nogil
    void mcast_sort_rows(mcast_row *rows, size_t count) nogil
    size_t mcast_merge_runs(mcast_run *runs, size_t count, uint32_t *heap, unsigned char *to, size_t room,
                            int64_t *latest, uint64_t *late) nogil


@cython.final
cdef class Run:
    """Blocks of one source that wait to be merged, in the order of time once they are sorted. For one thread.

    `clocks` has for each interface of the section (factor, shift, number), as 64-bit numbers: ticks * factor + shift
    are ns (factor 0: not so, and its packets end a split), and `number` is the interface's in the result."""

    cdef bytearray data
    cdef bytearray rows
    cdef mcast_split split
    cdef size_t at
    cdef size_t end

    def __cinit__(self):
        self.data, self.rows = bytearray(), bytearray()

    cdef int _reserve(self, size_t more_bytes, size_t more_rows) except -1:
        """Memory for so much more."""
        cdef size_t rows = (self.split.count + more_rows) * sizeof(mcast_row), size = self.split.used + more_bytes
        if size > UINT32_MAX:
            raise MemoryError("a run has less than 4 GiB")
        if <size_t>len(self.data) < size:
            PyByteArray_Resize(self.data, <Py_ssize_t>size)
        if <size_t>len(self.rows) < rows:
            PyByteArray_Resize(self.rows, <Py_ssize_t>rows)
        self.split.data = <unsigned char *>PyByteArray_AS_STRING(self.data)
        self.split.room = <size_t>len(self.data)
        self.split.rows = <mcast_row *>PyByteArray_AS_STRING(self.rows)
        self.split.most = <size_t>len(self.rows) // sizeof(mcast_row)
        return 0

    def blocks(self, data, Py_ssize_t start, const uint8_t[::1] clocks):
        """Takes packets of pcapng from `start` on; where it stopped."""
        cdef Py_buffer view
        cdef size_t done = 0, size
        cdef uint32_t known = <uint32_t>(<size_t>clocks.shape[0] // sizeof(mcast_clock))
        if not known:
            return start
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if not 0 <= start <= view.len:
                raise IndexError(f"byte {start} of {view.len}")
            size = <size_t>(view.len - start)
            self._reserve(size, size // 32)
            with nogil:
                done = mcast_split_blocks(&self.split, <const unsigned char *>view.buf + start, size,
                                          <const mcast_clock *>&clocks[0], known)
        finally:
            PyBuffer_Release(&view)
        return start + <Py_ssize_t>done

    def records(self, data, Py_ssize_t start, uint32_t number, bint swapped, int lengths, size_t header,
                uint32_t units):
        """Takes packets of classic pcap from `start` on, as those of interface `number`; where it stopped.

        `lengths`: 0, as they are; 1, the smaller one first; 2, the other way round. `units`: ticks of a second."""
        cdef Py_buffer view
        cdef size_t done = 0, size
        if header < 16 or units not in (1000000, 1000000000):
            raise ValueError("no such kind of classic pcap")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if not 0 <= start <= view.len:
                raise IndexError(f"byte {start} of {view.len}")
            size = <size_t>(view.len - start)
            self._reserve(size + size // header * 20, size // header)
            with nogil:
                done = mcast_split_records(&self.split, <const unsigned char *>view.buf + start, size, number, swapped,
                                           lengths, header, units)
        finally:
            PyBuffer_Release(&view)
        return start + <Py_ssize_t>done

    def add(self, bytes block not None, int64_t time):
        """Takes a block as it is; 0: at the time of the one before."""
        self._reserve(<size_t>len(block), 1)
        memcpy(self.split.data + self.split.used, <const char *>block, <size_t>len(block))
        mcast_split_add(&self.split, time, <size_t>len(block))

    def sort(self, size_t held):
        """Sorts what is there; all but the latest `held` blocks may be merged from now on."""
        mcast_sort_rows(self.split.rows, self.split.count)
        self.at, self.end = 0, self.split.count - held if held < self.split.count else 0
        return self.end

    def forget(self):
        """Keeps what was not merged, in the order in which it is."""
        cdef size_t i, count = 0, used = 0
        cdef mcast_row row
        cdef bytearray data = bytearray()
        for i in range(self.at, self.split.count):
            used += self.split.rows[i].size
        PyByteArray_Resize(data, <Py_ssize_t>used)
        used = 0
        for i in range(self.at, self.split.count):
            row = self.split.rows[i]
            memcpy(PyByteArray_AS_STRING(data) + used, self.split.data + row.offset, row.size)
            row.offset = <uint32_t>used
            used += row.size
            self.split.rows[count] = row
            count += 1
        self.data = data
        self.split.used, self.split.count, self.at, self.end = used, count, 0, 0
        self._reserve(0, 0)

    @property
    def left(self):
        """How many blocks may be merged."""
        return self.end - self.at

    @property
    def count(self):
        """How many blocks wait, those too that are held."""
        return self.split.count - self.at


def merge_by_time(runs, to, latest):
    """Blocks of several runs into the buffer `to`, in the order of time, until one has none left or `to` is full.

    `latest` is the time of the last block before. Returns (bytes, latest, how many were older than that). No run may
    have nothing left."""
    cdef list several = list(runs)
    cdef size_t count = <size_t>len(several), i, used
    cdef mcast_run *found
    cdef uint32_t *heap
    cdef int64_t last = latest
    cdef uint64_t late = 0
    cdef Py_buffer view
    cdef Run run
    if not several or any(not (<Run?>one).left for one in several):
        raise ValueError("a run has no blocks left")
    PyObject_GetBuffer(to, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
    found = <mcast_run *>malloc(count * sizeof(mcast_run))
    heap = <uint32_t *>malloc(count * sizeof(uint32_t))
    try:
        if found == NULL or heap == NULL:
            raise MemoryError("no memory for a merge")
        for i in range(count):
            run = several[i]
            found[i].data, found[i].rows, found[i].at, found[i].end = run.split.data, run.split.rows, run.at, run.end
        with nogil:
            used = mcast_merge_runs(found, count, heap, <unsigned char *>view.buf, <size_t>view.len, &last, &late)
        for i in range(count):
            (<Run>several[i]).at = found[i].at
    finally:
        free(found)
        free(heap)
        PyBuffer_Release(&view)
    return used, last, late
