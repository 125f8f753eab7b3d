"""Records and arena of a batch, seen from Python: packets that build only what is read, payloads, raw views."""

cimport cython
from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE,
    PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_New, PyCapsule_SetContext
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.string cimport memcpy

from contextlib import suppress
from operator import index as as_index

from mcast_fast._core import columns, layout, restore
from mcast_fast._core.addresses import address_text, endpoint, interface_text, plain_text, utf8

cdef extern from *:
    """
    #include "memory.h"
    #include "platform.h"
    #include "record.h"
    #include <stddef.h>
    #define MCAST_OFFSET(field) offsetof(mcast_record, field)
    """
    size_t AT_TIMESTAMP "MCAST_OFFSET(timestamp)"
    size_t AT_OFFSET "MCAST_OFFSET(offset)"
    size_t AT_INTERFACE "MCAST_OFFSET(interface_index)"
    size_t AT_DROPPED "MCAST_OFFSET(dropped)"
    size_t AT_LENGTH "MCAST_OFFSET(length)"
    size_t AT_WIRE_LENGTH "MCAST_OFFSET(wire_length)"
    size_t AT_SOURCE "MCAST_OFFSET(source)"
    size_t AT_GROUP "MCAST_OFFSET(group)"
    size_t AT_SOURCE_PORT "MCAST_OFFSET(source_port)"
    size_t AT_PORT "MCAST_OFFSET(port)"
    size_t AT_FLAGS "MCAST_OFFSET(flags)"
    size_t AT_TTL "MCAST_OFFSET(ttl)"
    size_t AT_TOS "MCAST_OFFSET(tos)"

cdef extern from *:
    """
    /* What numpy.asarray looks for first: https://numpy.org/doc/stable/reference/arrays.interface.html */
    typedef struct {
        int two, nd;
        char typekind;
        int itemsize, flags;
        Py_intptr_t *shape, *strides;
        void *data;
        PyObject *descr;
    } mcast_array_interface;
    """
    ctypedef struct mcast_array_interface:
        int two
        int nd
        char typekind
        int itemsize
        int flags
        Py_ssize_t *shape
        Py_ssize_t *strides
        void *data
        void *descr

cdef dict dtypes = {}  # of NumPy: made when it is first needed
cdef bytes RECORD_FORMAT = layout.buffer_format().encode()
C_LAYOUT = {
    "timestamp": AT_TIMESTAMP, "offset": AT_OFFSET, "interface": AT_INTERFACE, "dropped": AT_DROPPED, "length":
    AT_LENGTH, "wire_length": AT_WIRE_LENGTH, "source": AT_SOURCE, "group": AT_GROUP, "source_port": AT_SOURCE_PORT,
    "port": AT_PORT, "flags": AT_FLAGS, "ttl": AT_TTL, "tos": AT_TOS,
}
C_FLAGS = {"TRUNCATED": MCAST_TRUNCATED, "TTL": MCAST_TTL, "TOS": MCAST_TOS, "COALESCED": MCAST_COALESCED,
           "HARDWARE": MCAST_HARDWARE, "FRAME": MCAST_FRAME}
if C_LAYOUT != layout.offsets() or sizeof(mcast_record) != layout.RECORD_SIZE:
    raise ImportError(f"the compiled record {C_LAYOUT} is not that of layout.py {layout.offsets()}: rebuild it")
if C_FLAGS != {flag.name: flag.value for flag in layout.Flag}:
    raise ImportError("the compiled flags are not those of layout.py: rebuild the extension")

VIEWS_FEATURES = {name: layout.Feature(True, "") for name in ("arrow", "packet_buffer")}

if mcast_pool_prepare() != 0:
    raise MemoryError("no memory to prepare the pool of arenas for a fork")


cdef mcast_pool *shared_pool() noexcept nogil:
    return &mcast_shared_pool


cdef Batch new_batch(dict names):
    """A batch of nothing, to be filled."""
    cdef Batch batch = Batch.__new__(Batch)
    batch.names = names
    return batch


cdef void fill_batch(Batch batch, mcast_memory *records, mcast_memory *data) noexcept nogil:
    """Has a new batch own this memory from now on."""
    batch.records_memory = records[0]
    batch.data_memory = data[0]
    records.bytes = data.bytes = NULL
    records.used = records.capacity = data.used = data.capacity = 0
    batch.first = <mcast_record *>batch.records_memory.bytes
    batch.count = <Py_ssize_t>(batch.records_memory.used // sizeof(mcast_record))


cdef Batch take_over(mcast_memory *records, mcast_memory *data, dict names):
    """A batch that owns this memory from now on."""
    cdef Batch batch = new_batch(names)
    fill_batch(batch, records, data)
    return batch


cdef unsigned char *arena_in_place(Batch batch, int *pinned) noexcept nogil:
    """The arena, wherever it is now, until `arena_left` is called with the same `pinned`."""
    pinned[0] = 0
    if batch.reference == NULL:
        return batch.data_memory.bytes
    return <unsigned char *>mcast_reference_pin(batch.reference, pinned)


cdef void arena_left(Batch batch, int pinned) noexcept nogil:
    if pinned:
        mcast_reference_unpin(batch.reference)


cdef int arena_for_good(Batch batch, const unsigned char **bytes) except -1:
    """The arena as it stays for the life of the batch: of a ring's, it is copied and the ring gets its block back."""
    cdef int pinned
    if batch.reference != NULL and mcast_reference_detach(batch.reference) != 0:
        raise MemoryError("no memory for a batch")
    bytes[0] = arena_in_place(batch, &pinned)  # detached: it pins nothing
    return 0


cdef size_t arena_size(Batch batch) noexcept nogil:
    return batch.data_memory.used if batch.reference == NULL else batch.reference.used


@cython.final
@cython.no_gc
@cython.freelist(16)
cdef class Batch:
    """Packets received together: immutable, and valid as long as anything that was taken from it.

    A sequence of packets: `len(batch)`, `batch[0]`, `batch[-1]`, `batch[10:20]`, `for packet in batch`. For columns,
    `np.asarray(batch)` gives one structured array of 64-byte records without a copy. Threads may read a batch together.
    Batches are equal when their packets are. Pickling takes their own packets only.

    The stub `mcast_fast/_core/fast/views.pyi` documents arguments, results and errors.
    """

    cdef mcast_array_interface array
    cdef Py_ssize_t stride
    cdef mcast_memory records_memory
    cdef mcast_memory data_memory
    cdef mcast_reference *reference  # on a ring's block, where the payloads are then; NULL: they are in data_memory
    cdef mcast_record *first
    cdef Py_ssize_t count
    cdef Batch owner  # whose arena it is, and whose records where this has none of its own; None: its own
    cdef mcast_shared *shared  # NULL, or who frees data_memory: Arrow arrays may need it longer than this batch
    cdef readonly dict names

    def __cinit__(self):
        self.count = 0

    _made_by = layout.NO_BATCH

    @staticmethod
    def from_bytes(records, data, names):
        """Copy records and the arena that they point into to a new batch."""
        layout.check_names(names)
        cdef mcast_memory to_records
        cdef mcast_memory to_data
        copy_in(&to_records, records)
        try:
            copy_in(&to_data, data)
        except BaseException:
            mcast_pool_give(&mcast_shared_pool, to_records.bytes, to_records.capacity)
            raise
        cdef Batch batch = take_over(&to_records, &to_data, names)
        if not is_whole(batch):
            raise ValueError("the records do not fit the data")
        return batch

    @staticmethod
    def concatenate(batches):
        """Copy the packets of several batches to one batch, in their order."""
        cdef Batch part
        cdef list parts = list(batches)
        if not all(isinstance(one, Batch) for one in parts):
            raise TypeError("only batches can be put together")
        cdef mcast_memory records
        cdef mcast_memory data
        cdef size_t count = 0, size = 0
        cdef dict names = {}
        for part in parts:
            count += <size_t>part.count
            size += payload_bytes(part)
            names |= part.names
        if size > layout.ARENA_LIMIT:
            raise ValueError(f"{size} bytes of payload are more than an arena of {layout.ARENA_LIMIT} bytes can hold")
        make_room(&records, count * sizeof(mcast_record))
        try:
            make_room(&data, size)
        except BaseException:
            mcast_pool_give(&mcast_shared_pool, records.bytes, records.capacity)
            raise
        for part in parts:
            copy_packets(&records, &data, part)
        return take_over(&records, &data, names)

    def __dealloc__(self):
        if self.records_memory.bytes != NULL:
            mcast_pool_give(&mcast_shared_pool, self.records_memory.bytes, self.records_memory.capacity)
        if self.owner is None:
            if self.shared != NULL:
                mcast_shared_release(self.shared)
            else:
                mcast_pool_give(&mcast_shared_pool, self.data_memory.bytes, self.data_memory.capacity)
            if self.reference != NULL:
                mcast_reference_end(self.reference)

    def __len__(self):
        return self.count

    def __iter__(self):
        cdef Packets packets = Packets.__new__(Packets)
        cdef int pinned
        packets.batch = self
        packets.position = 0
        packets.arena = arena_in_place(self, &pinned)
        arena_left(self, pinned)
        return packets

    def __getitem__(self, index):
        if isinstance(index, slice):
            start, stop, step = index.indices(self.count)
            if step != 1:
                raise ValueError("a batch is sliced with step 1 only; for others there is np.asarray(batch)[...]")
            return make_part(self, start, max(start, stop))
        index = as_index(index)
        if not -self.count <= index < self.count:
            raise IndexError(f"packet {index} of a batch of {self.count}")
        return make_packet(self, index + self.count if index < 0 else index)

    @property
    def payload_bytes(self):
        """The number of bytes of all payloads together."""
        return payload_bytes(self)

    def payloads(self):
        """Return every payload as bytes, in the order of arrival."""
        cdef list found = PyList_New(self.count)
        cdef Py_ssize_t i
        cdef bytes payload
        cdef int pinned
        cdef const char *data = <const char *>arena_in_place(self, &pinned)
        try:
            for i in range(self.count):
                mcast_look_ahead(<const unsigned char *>data, self.first, <size_t>i, <size_t>self.count)
                payload = PyBytes_FromStringAndSize(data + self.first[i].offset, self.first[i].length)
                Py_INCREF(payload)
                PyList_SET_ITEM(found, i, payload)
        finally:
            arena_left(self, pinned)
        return found

    def rows(self, size):
        """Return the first `size` bytes of each payload as a read-only memoryview of the shape (len(batch), size)."""
        return rows_of(self, columns.checked_size(size))

    def view_as(self, dtype):
        """Return the payloads as a read-only array of a NumPy type, one element per packet."""
        return columns.structured(self.rows, dtype)

    def where(self, *, group=None, source=None, port=None):
        """Return the packets that match all given conditions, as a batch in the same order."""
        packed_group, packed_source, number, interfaces = columns.wanted(group, source, port, self.names)
        return batch_where(self, packed_group, packed_source, -1 if number is None else number, interfaces)

    @property
    def records(self):
        """The records as a read-only structured memoryview, without a copy (PEP 3118)."""
        return memoryview(records_of(self))

    @property
    def data(self):
        """The arena as a read-only memoryview, into which `offset` and `length` of a record point."""
        return memoryview(arena_of(self))

    def borrow(self):
        """Lend the arena for the duration of a `with`, as `data` but without copying it out of a ring."""
        cdef Loan loan = Loan.__new__(Loan)
        loan.batch = self
        return loan

    @property
    def __array_struct__(self):
        dtype = record_dtype()
        with cython.critical_section(self):
            if self.array.two == 0:  # else it may be being read
                describe(self, <void *>dtype)
        capsule = PyCapsule_New(&self.array, NULL, release_array)
        Py_INCREF(self)
        PyCapsule_SetContext(capsule, <void *>self)
        return capsule

    def __arrow_c_array__(self, requested_schema=None):
        """Export the batch through the Arrow C data interface, which pyarrow, polars and DuckDB read."""
        return export_arrow(self)

    def __copy__(self):
        return self  # it never changes

    def __deepcopy__(self, memo):
        return Batch.concatenate([self])

    def __reduce_ex__(self, int protocol):
        """Pickle the packets of this batch and no others; protocol 5 can do so without a copy."""
        cdef Batch whole = self
        if self.reference != NULL or self.data_memory.used > payload_bytes(self):
            whole = Batch.concatenate([self])
        if protocol >= 5:
            from pickle import PickleBuffer  # of some milliseconds

            parts = PickleBuffer(records_of(whole)), PickleBuffer(arena_of(whole))
        else:
            parts = bytes(records_of(whole)), bytes(arena_of(whole))
        return restore.batch, (*parts, self.names)

    def __eq__(self, other):
        if not isinstance(other, Batch):
            return restore.same(self, other)
        return self is other or same_batch(self, <Batch>other)

    def __hash__(self):
        ends = (self[0], self[self.count - 1]) if self.count else ()
        return hash((self.count, ends))

    def __repr__(self):
        return f"<Batch of {self.count} packets>"

    def _repr_html_(self):
        """Return the first packets as a table, for notebooks."""
        return columns.batch_html(self)


cdef enum:  # of numpy/ndarraytypes.h
    CONTIGUOUS = 0x1
    ALIGNED = 0x100
    NOT_SWAPPED = 0x200
    HAS_DESCRIPTOR = 0x800


cdef void release_array(object capsule) noexcept:
    Py_DECREF(<object>PyCapsule_GetContext(capsule))


cdef void describe(Batch batch, void *dtype) noexcept:
    batch.stride = sizeof(mcast_record)
    batch.array.two = 2
    batch.array.nd = 1
    batch.array.typekind = b"V"
    batch.array.itemsize = sizeof(mcast_record)
    batch.array.flags = CONTIGUOUS | ALIGNED | NOT_SWAPPED | HAS_DESCRIPTOR  # and not writeable
    batch.array.shape = &batch.count
    batch.array.strides = &batch.stride
    batch.array.data = batch.first if batch.count else <void *>batch
    batch.array.descr = dtype


cdef object record_dtype():
    """One for all, forever: arrays borrow it."""
    dtype = dtypes.get("record")
    return dtype if dtype is not None else dtypes.setdefault("record", layout.numpy_dtype())


cdef Batch make_part(Batch whole, Py_ssize_t start, Py_ssize_t stop):
    """The packets from start to stop, in the same memory; 0 <= start <= stop <= count."""
    cdef Batch part = Batch.__new__(Batch)
    part.owner = whole if whole.owner is None or whole.records_memory.bytes != NULL else whole.owner
    part.data_memory = whole.data_memory
    part.reference = whole.reference
    part.first = whole.first + start
    part.count = stop - start
    part.names = whole.names
    return part


cdef int make_room(mcast_memory *memory, size_t size) except -1:
    """Empty memory of the pool, with space for `size` bytes."""
    memory.used = 0
    memory.bytes = <unsigned char *>mcast_pool_take(&mcast_shared_pool, size, &memory.capacity)
    if memory.bytes == NULL:
        raise MemoryError("no memory for a batch")
    return 0


cdef int copy_in(mcast_memory *memory, source) except -1:
    """Copies a contiguous buffer into memory of the pool."""
    cdef Py_buffer view
    PyObject_GetBuffer(source, &view, PyBUF_SIMPLE)
    try:
        make_room(memory, <size_t>view.len)
        memcpy(memory.bytes, view.buf, <size_t>view.len)
        memory.used = <size_t>view.len
    finally:
        PyBuffer_Release(&view)
    return 0


cdef size_t payload_bytes(Batch batch):
    cdef size_t size = 0
    cdef Py_ssize_t i
    for i in range(batch.count):
        size += batch.first[i].length
    return size


cdef void copy_packets(mcast_memory *records, mcast_memory *data, Batch batch):
    """Adds the packets of a batch to memory that has space for them."""
    cdef Py_ssize_t i
    cdef int pinned
    cdef mcast_record *record = <mcast_record *>(records.bytes + records.used)
    cdef const unsigned char *arena = arena_in_place(batch, &pinned)
    for i in range(batch.count):
        record[i] = batch.first[i]
        record[i].offset = <uint32_t>data.used
        memcpy(data.bytes + data.used, arena + batch.first[i].offset, record[i].length)
        data.used += record[i].length
    arena_left(batch, pinned)
    records.used += <size_t>batch.count * sizeof(mcast_record)


cdef bint is_whole(Batch batch):
    """Whether there are no odd bytes, and every payload lies inside the arena."""
    cdef Py_ssize_t i
    for i in range(batch.count):
        if <size_t>batch.first[i].offset + batch.first[i].length > batch.data_memory.used:
            return False
    return batch.records_memory.used % sizeof(mcast_record) == 0


@cython.final
@cython.no_gc
cdef class Records:
    """Exports a batch's records through the buffer protocol."""

    cdef Batch batch
    cdef Py_ssize_t shape
    cdef Py_ssize_t stride

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if flags & PyBUF_WRITABLE:
            raise BufferError("a batch is read-only")
        buffer.obj = self
        buffer.buf = self.batch.first
        buffer.len = self.shape * self.stride
        buffer.itemsize = self.stride
        buffer.readonly = 1
        buffer.ndim = 1
        buffer.format = <char *>PyBytes_AsString(RECORD_FORMAT) if flags & PyBUF_FORMAT else NULL
        buffer.shape = &self.shape if flags & PyBUF_ND else NULL
        buffer.strides = &self.stride if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        buffer.suboffsets = NULL
        buffer.internal = NULL


@cython.final
@cython.no_gc
cdef class Arena:
    """Exports a batch's arena through the buffer protocol."""

    cdef Batch batch

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        cdef const unsigned char *bytes
        arena_for_good(self.batch, &bytes)
        PyBuffer_FillInfo(buffer, self, <void *>bytes, <Py_ssize_t>arena_size(self.batch), 1, flags)


@cython.final
@cython.no_gc
cdef class Borrowed:
    """Exports a batch's arena where it is, and keeps it there until the buffer is released."""

    cdef Batch batch

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        cdef int pinned
        cdef unsigned char *bytes = arena_in_place(self.batch, &pinned)
        try:
            PyBuffer_FillInfo(buffer, self, <void *>bytes, <Py_ssize_t>arena_size(self.batch), 1, flags)
        except BaseException:
            arena_left(self.batch, pinned)
            raise
        buffer.internal = <void *><size_t>pinned

    def __releasebuffer__(self, Py_buffer *buffer):
        arena_left(self.batch, <int><size_t>buffer.internal)


@cython.final
cdef class Loan:
    """What `Batch.borrow` returns: memory for the time of a `with`."""

    cdef Batch batch
    cdef object memory

    def __enter__(self):
        cdef Borrowed borrowed = Borrowed.__new__(Borrowed)
        borrowed.batch = self.batch
        memory = memoryview(borrowed)
        with cython.critical_section(self):
            if self.memory is not None:
                raise ValueError("this loan is in use already; call borrow() again")
            self.memory = memory
        return memory

    def __exit__(self, *_):
        with cython.critical_section(self):
            memory, self.memory = self.memory, None
        if memory is not None:
            with suppress(BufferError):  # it was exported: it stays valid
                memory.release()


cdef Records records_of(Batch batch):
    cdef Records records = Records.__new__(Records)
    records.batch = batch
    records.shape = batch.count
    records.stride = sizeof(mcast_record)
    return records


cdef Arena arena_of(Batch batch):
    cdef Arena arena = Arena.__new__(Arena)
    arena.batch = batch
    return arena
