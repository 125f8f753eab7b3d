"""Payloads in rows by their numbers: c/placement.h."""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize

from mcast_fast._core.rows import writable_rows

cdef extern from "placement.h":
    enum:
        MCAST_BEHIND_VDIF
        MCAST_STOP_NONE
        MCAST_STOP_MARKED
    ctypedef struct mcast_placer:
        mcast_format format
        mcast_field id
        mcast_field marker
        uint64_t marked
        uint32_t body_offset
        uint8_t body
        uint8_t by_source_port
    ctypedef struct mcast_frame:
        mcast_flow_key flow
        uint64_t base
        uint64_t id
        uint8_t *rows
        uint8_t *present
        size_t capacity
        size_t size
        size_t count
        size_t highest
        uint64_t placed
        uint64_t duplicates
        uint64_t short_bodies
        uint64_t long_bodies
        int64_t first_time
        int64_t last_time
    ctypedef struct mcast_placement:
        uint64_t placed
        uint64_t duplicates
        uint64_t below
        uint64_t above
        uint64_t long_bodies
        uint64_t other
        uint64_t short_bodies
    ctypedef struct mcast_stop:
        size_t at
        size_t frame
        int reason
        uint64_t number
        uint64_t id
        mcast_flow_key flow
        uint64_t other
    void mcast_place(const mcast_placer *placer, const mcast_record *records, size_t count, const unsigned char *arena,
                     mcast_frame *frame, int any_key, mcast_placement *result) nogil
    void mcast_fill(const mcast_placer *placer, const mcast_record *records, size_t start, size_t count,
                    const unsigned char *arena, int64_t until, mcast_frame **frames, size_t frame_count,
                    mcast_stop *stop) nogil
    void mcast_frame_begin_earlier(mcast_frame *frame, size_t rows) nogil
    void mcast_frame_finish(mcast_frame *frame) nogil

if (MCAST_BEHIND_VDIF, MCAST_STOP_MARKED) != (max(extraction.BodyStart), max(extraction.Reason)):
    raise ImportError("the compiled placement is not that of extraction.py: rebuild the extension")


cdef int fill_key(uint64_t *words, bytes key) except -1:
    """A key's bytes as C compares them."""
    if len(key) > MCAST_KEY_SIZE:
        raise ValueError("the key is too long")
    cdef bytes padded = key.ljust(MCAST_KEY_SIZE, b"\0")
    words[0] = int.from_bytes(padded[:8], "big")
    words[1] = int.from_bytes(padded[8:], "big")
    return 0


cdef object flow_name(const mcast_flow_key *key):
    return extraction.FlowName(*key_row(key))


@cython.final
cdef class Frame:
    """Rows of a flow, from the number `base` on. Its memory is its own until `finish` gives it away."""

    cdef mcast_frame frame
    cdef bytearray rows_memory
    cdef bytearray present_memory

    def __cinit__(self, Py_ssize_t rows, Py_ssize_t size, flow, uint64_t base, uint64_t id):
        if not (1 <= rows <= 0x7FFFFFFF and 1 <= size <= 0xFFFF):
            raise ValueError("a frame has rows, of a size, that memory can hold")
        if len(flow.source) != 16 or len(flow.group) != 16:
            raise ValueError("a flow has packed addresses")
        memset(&self.frame, 0, sizeof(self.frame))
        fill_key(self.frame.flow.key, flow.key)
        memcpy(self.frame.flow.source, <const char *><bytes>flow.source, 16)
        memcpy(self.frame.flow.group, <const char *><bytes>flow.group, 16)
        self.frame.flow.ports = mcast_ports_join(flow.source_port, flow.port)
        self.frame.base, self.frame.id = base, id
        self.rows_memory = PyByteArray_FromStringAndSize(NULL, rows * size)
        self.present_memory = bytearray(rows)
        self.frame.rows = <uint8_t *>PyByteArray_AS_STRING(self.rows_memory)
        self.frame.present = <uint8_t *>PyByteArray_AS_STRING(self.present_memory)
        self.frame.capacity = self.frame.count = <size_t>rows
        self.frame.size = <size_t>size

    @property
    def base(self):
        return self.frame.base

    @property
    def id(self):
        return self.frame.id

    @property
    def count(self):
        return self.frame.count

    @property
    def highest(self):
        return self.frame.highest

    @property
    def placed(self):
        return self.frame.placed

    @property
    def duplicates(self):
        return self.frame.duplicates

    @property
    def short_bodies(self):
        return self.frame.short_bodies

    @property
    def long_bodies(self):
        return self.frame.long_bodies

    @property
    def first_time(self):
        return self.frame.first_time

    @property
    def last_time(self):
        return self.frame.last_time

    def end_after(self, size_t rows):
        """Has this number of rows from now on; ValueError where it has not as many, or others are there."""
        if self.rows_memory is None or not self.frame.highest <= rows <= self.frame.capacity:
            raise ValueError("the frame has other rows")
        self.frame.count = rows

    def begin_earlier(self, size_t rows, uint64_t base):
        """The first row becomes that of the number `base`, which is `rows` before."""
        if self.rows_memory is None or rows > self.frame.capacity - self.frame.highest:
            raise ValueError("the frame has no place for these rows")
        with nogil:
            mcast_frame_begin_earlier(&self.frame, rows)
        self.frame.base = base
        self.frame.count = min(self.frame.capacity, self.frame.count + rows)

    def finish(self):
        """(rows, presence) as bytearrays; zeros where nothing is there. It takes in no more."""
        if self.rows_memory is None:
            raise ValueError("the frame is finished")
        with nogil:
            mcast_frame_finish(&self.frame)
        rows, present = self.rows_memory, self.present_memory
        self.rows_memory = self.present_memory = None
        self.frame.count = 0  # no packet is in it any more
        return rows, present


@cython.final
cdef class Placer:
    """Copies payloads of one format into rows; it has no state, and threads may share it."""

    cdef mcast_placer placer

    def __cinit__(self, plan, frames):
        memset(&self.placer, 0, sizeof(self.placer))
        fill_format(&self.placer.format, plan)
        self.placer.body, self.placer.body_offset = int(frames.body), frames.body_offset
        self.placer.by_source_port = frames.by_source_port
        named_by = [place for place in (frames.id, frames.marker) if place is not None]
        if not all(1 <= place.width <= 8 and place.mask for place in named_by):
            raise ValueError("a frame is named by integers of up to 8 bytes")
        if frames.id is not None:
            self.placer.id = field_of(frames.id)
        if frames.marker is not None:
            self.placer.marker, self.placer.marked = field_of(frames.marker), frames.marked

    def place(self, packets, into, present, uint64_t base, key):
        """Copies the bodies of a batch into rows; the tallies of c/placement.h in its order.

        The first dimension of `into` is the rows, and `present` has a byte for each. A key of bytes, or None: any.
        ArgumentError where a buffer does not fit, TypeError."""
        if not isinstance(packets, Batch):
            raise TypeError(f"a batch is required, not {type(packets).__name__}")
        cdef Batch batch = packets
        cdef Py_buffer rows, mask
        cdef Py_ssize_t count
        row_view, mask_view, count = writable_rows(into, present)
        PyObject_GetBuffer(row_view, &rows, PyBUF_WRITABLE)  # of the views that were checked
        try:
            PyObject_GetBuffer(mask_view, &mask, PyBUF_WRITABLE)
            try:
                return self._place(batch, &rows, &mask, count, base, key)
            finally:
                PyBuffer_Release(&mask)
        finally:
            PyBuffer_Release(&rows)

    cdef tuple _place(self, Batch batch, Py_buffer *rows, Py_buffer *mask, Py_ssize_t count, uint64_t base, key):
        cdef mcast_frame frame
        cdef mcast_placement result
        cdef int pinned, any_key = key is None
        cdef const unsigned char *arena
        memset(&frame, 0, sizeof(frame))
        memset(&result, 0, sizeof(result))
        if key is not None:
            fill_key(frame.flow.key, key)
        frame.base = base
        frame.rows, frame.present = <uint8_t *>rows.buf, <uint8_t *>mask.buf
        frame.count = frame.capacity = <size_t>count
        frame.size = <size_t>(rows.len // count)
        with nogil:
            arena = arena_in_place(batch, &pinned)
            mcast_place(&self.placer, batch.first, <size_t>batch.count, arena, &frame, any_key, &result)
            arena_left(batch, pinned)
        return (result.placed, result.duplicates, result.below, result.above, result.long_bodies, result.other,
                result.short_bodies)

    def fill(self, packets, size_t start, int64_t until, frames):
        """Places packets from `start` on into Frames that they belong to.

        (the Stop, or None after the last packet; packets that have no number or body, or cover several numbers)"""
        if not isinstance(packets, Batch):
            raise TypeError(f"a batch is required, not {type(packets).__name__}")
        cdef Batch batch = packets
        cdef list kept = list(frames)
        cdef size_t count = <size_t>len(kept), i
        cdef mcast_stop stop
        cdef int pinned
        cdef const unsigned char *arena
        cdef mcast_frame **pointers = <mcast_frame **>realloc(NULL, (count + 1) * sizeof(mcast_frame *))
        if pointers == NULL:
            raise MemoryError("no memory for the list of frames")
        try:
            for i in range(count):
                pointers[i] = &(<Frame?>kept[i]).frame
            with nogil:
                arena = arena_in_place(batch, &pinned)
                mcast_fill(&self.placer, batch.first, start, <size_t>batch.count, arena, until, pointers, count, &stop)
                arena_left(batch, pinned)
        finally:
            free(pointers)
        if stop.reason == MCAST_STOP_NONE:
            return None, stop.other
        return extraction.Stop(extraction.Reason(stop.reason), stop.at, stop.frame, stop.number, stop.id,
                               flow_name(&stop.flow)), stop.other
