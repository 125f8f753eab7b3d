"""Flows of a capture file, counted: c/summary.c."""

import os

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "summary.h":
    ctypedef struct mcast_counted:
        uint8_t source[16]
        uint8_t group[16]
        uint32_t interface_index
        uint16_t port
        uint16_t smallest
        uint16_t largest
        uint16_t is_timed
        uint64_t packets
        uint64_t bytes
        uint64_t wire_bytes
        uint64_t dropped
        uint64_t truncated
        int64_t first
        int64_t last
        uint64_t largest_gap
        int64_t largest_gap_at
    ctypedef struct mcast_summary:
        mcast_counted *flows
        size_t count
        mcast_counted others
        int by_interface
    void mcast_summary_open(mcast_summary *summary, size_t most, uint64_t seed) nogil
    void mcast_summary_add(mcast_summary *summary, const mcast_record *record) nogil
    void mcast_summary_fit(mcast_summary *summary) nogil
    void mcast_summary_free(mcast_summary *summary) nogil


cdef tuple counted_row(const mcast_counted *one):
    """A flow as a row of `blocks.Counted`."""
    timed = bool(one.is_timed)
    return (one.group[:16], one.port, one.source[:16], one.interface_index, one.packets, one.bytes, one.wire_bytes,
            one.first if timed else None, one.last if timed else None, one.largest_gap, one.largest_gap_at,
            one.dropped, one.truncated, one.smallest, one.largest)


@cython.final
cdef class Summary:
    """The flows of packets: `most` of them, those with the most packets, and the others together. Threads may share it.

    Where more than twice as many are known, those with the fewest packets are added to the others."""

    cdef mcast_summary summary
    cdef PyThread_type_lock lock
    cdef uint32_t process

    def __cinit__(self, uint32_t most):
        if not 1 <= most <= 1 << 24:
            raise ValueError("a summary is of 1 to 2**24 flows")
        self.lock = new_codec_lock()
        self.process = mcast_process_number
        mcast_summary_open(&self.summary, most, int.from_bytes(os.urandom(8), "little"))

    def __dealloc__(self):
        if self.process != mcast_process_number:  # a fork may come in the middle of a call of another thread
            return
        mcast_summary_free(&self.summary)
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    def add(self, Batch batch not None):
        """Counts the packets of a batch."""
        cdef Py_ssize_t i
        with nogil:
            PyThread_acquire_lock(self.lock, WAIT_LOCK)
            for i in range(batch.count):
                mcast_summary_add(&self.summary, &batch.first[i])
            PyThread_release_lock(self.lock)

    def flows(self):
        """(the flows in the order they began, as rows of `blocks.Counted`; the row of the others, or None)."""
        cdef size_t i
        cdef mcast_counted *copies
        cdef mcast_counted others
        cdef size_t count
        with nogil:
            PyThread_acquire_lock(self.lock, WAIT_LOCK)
            mcast_summary_fit(&self.summary)
            count = self.summary.count
            others = self.summary.others
            copies = <mcast_counted *>malloc((count + 1) * sizeof(mcast_counted))
            if copies != NULL and count:
                memcpy(copies, self.summary.flows, count * sizeof(mcast_counted))
            PyThread_release_lock(self.lock)
        if copies == NULL:
            raise MemoryError("no memory for the flows of a file")
        try:
            return [counted_row(&copies[i]) for i in range(count)], counted_row(&others) if others.packets else None
        finally:
            free(copies)
