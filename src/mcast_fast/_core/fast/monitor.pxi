"""Streams as they are seen now: c/monitor.h."""

import os

cimport cython
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from mcast_fast._core import extraction
from mcast_fast.errors import ClosedError

cdef extern from "monitor.h":
    enum:
        MCAST_GAP_BUCKETS
        MCAST_HISTORY
        MCAST_TICK_NS
    ctypedef struct mcast_stream:
        mcast_counted counted
        int64_t begun
        int64_t seen
        int64_t resumed
        uint64_t silences
        uint64_t packets
        uint64_t bytes
        uint64_t gap_sum
        uint64_t gaps[MCAST_GAP_BUCKETS]
    void mcast_monitor_add(mcast_summary *summary, const mcast_record *records, size_t count, int64_t now,
                           int64_t silence) nogil
    size_t mcast_monitor_streams(mcast_summary *summary, int64_t now, mcast_stream *streams, size_t room) nogil
    int mcast_monitor_history(const mcast_summary *summary, const mcast_record *wanted, int64_t now,
                              uint64_t *packets, uint64_t *bytes) nogil

if (MCAST_GAP_BUCKETS, MCAST_HISTORY, MCAST_TICK_NS) != (
        extraction.GAP_BUCKETS, extraction.HISTORY, extraction.TICK_NS):
    raise ImportError("the compiled monitor is not that of extraction.py: rebuild the extension")


cdef tuple stream_row(const mcast_stream *stream):
    """A stream as the values of `extraction.StreamRow`."""
    cdef const mcast_counted *one = &stream.counted
    cdef bint timed = bool(one.is_timed)
    cdef int i
    return (one.group[:16], one.port, one.source[:16], one.interface_index, one.packets, one.wire_bytes, one.smallest,
            one.largest, one.truncated, one.first if timed else None, one.last if timed else None, one.largest_gap,
            one.largest_gap_at, tuple([stream.gaps[i] for i in range(MCAST_GAP_BUCKETS)]), stream.begun, stream.seen,
            stream.resumed, stream.silences, stream.packets, stream.bytes, stream.gap_sum)


@cython.final
cdef class StreamTable:
    """Streams, each on its interface: `most` of them, those with the most packets, and the others together.

    Where more than twice as many are known, those with the fewest packets are added to the others. Threads may share
    it. Times are ns of a clock that does not go back; `silence`: after which a packet ends one."""

    cdef mcast_summary summary
    cdef PyThread_type_lock lock
    cdef int64_t silence
    cdef uint32_t process

    def __cinit__(self, uint32_t most, int64_t silence):
        if not 1 <= most <= 1 << 24 or silence <= 0:
            raise ValueError("a table is of 1 to 2**24 streams, and silences are longer than 0")
        self.lock = new_codec_lock()
        self.silence = silence
        self.process = mcast_process_number
        mcast_summary_open(&self.summary, most, int.from_bytes(os.urandom(8), "little"))
        self.summary.by_interface = 1

    def __dealloc__(self):
        if self.process != mcast_process_number:  # a fork may come in the middle of a call of another thread
            return
        mcast_summary_free(&self.summary)
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    def add(self, packets, int64_t now):
        """Counts the packets of a batch. TypeError, and ClosedError in another process than the one that made it."""
        if not isinstance(packets, Batch):
            raise TypeError(f"a batch is required, not {type(packets).__name__}")
        self._check(now)
        cdef Batch batch = packets
        with nogil:
            PyThread_acquire_lock(self.lock, WAIT_LOCK)
            mcast_monitor_add(&self.summary, batch.first, <size_t>batch.count, now, self.silence)
            PyThread_release_lock(self.lock)

    def rows(self, int64_t now):
        """(a StreamRow for each, in the order they began; that of the others, or None). ClosedError as `add`."""
        self._check(now)
        cdef size_t room = 0, count = 64, i, known = 0
        cdef mcast_stream *streams = NULL
        cdef mcast_stream *larger
        try:
            while count > room:
                larger = <mcast_stream *>realloc(streams, count * sizeof(mcast_stream))
                if larger == NULL:
                    raise MemoryError("no memory for the streams")
                streams, room = larger, count
                with nogil:
                    PyThread_acquire_lock(self.lock, WAIT_LOCK)
                    count = mcast_monitor_streams(&self.summary, now, streams, room)
                    known = self.summary.count
                    PyThread_release_lock(self.lock)
            make = extraction.StreamRow._make
            rows = [make(stream_row(&streams[i])) for i in range(known)]
            return rows, make(stream_row(&streams[known])) if count > known else None
        finally:
            free(streams)

    def history(self, bytes group, uint16_t port, bytes source, uint32_t interface, int64_t now):
        """Packets and bytes of each of the last HISTORY whole seconds, the latest last; zeros of an unknown stream.

        ClosedError as `add`."""
        self._check(now)
        if len(group) != 16 or len(source) != 16:
            raise ValueError("an address has 16 bytes")
        cdef mcast_record wanted
        cdef uint64_t[MCAST_HISTORY] packets
        cdef uint64_t[MCAST_HISTORY] sizes
        cdef int i
        memset(&wanted, 0, sizeof(wanted))
        memset(packets, 0, sizeof(packets))
        memset(sizes, 0, sizeof(sizes))
        memcpy(wanted.group, <const char *>group, 16)
        memcpy(wanted.source, <const char *>source, 16)
        wanted.port, wanted.interface_index = port, interface
        with nogil:
            PyThread_acquire_lock(self.lock, WAIT_LOCK)
            mcast_monitor_history(&self.summary, &wanted, now, packets, sizes)
            PyThread_release_lock(self.lock)
        return [(packets[i], sizes[i]) for i in range(MCAST_HISTORY)]

    cdef int _check(self, int64_t now) except -1:
        if self.process != mcast_process_number:
            raise ClosedError("the monitor was made in another process")
        if not 0 <= now < 1 << 62:
            raise ValueError("a clock shows 0 to 2**62 ns")
        return 0
