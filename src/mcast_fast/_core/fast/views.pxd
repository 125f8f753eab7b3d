"""What the other compiled modules need of a batch: how one is made of filled memory."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

cdef extern from "memory.h":
    ctypedef struct mcast_pool:
        void *lock
    ctypedef struct mcast_memory:
        unsigned char *bytes
        size_t used
        size_t capacity
    void *mcast_pool_take(mcast_pool *pool, size_t size, size_t *capacity) nogil
    void mcast_pool_give(mcast_pool *pool, void *block, size_t capacity) nogil

cdef extern from "platform.h":
    ctypedef struct mcast_lease:
        size_t used
    int mcast_lease_detach(mcast_lease *lease) nogil
    const unsigned char *mcast_lease_pin(mcast_lease *lease, int *in_place) nogil
    void mcast_lease_unpin(mcast_lease *lease) nogil
    void mcast_lease_read(mcast_lease *lease, size_t offset, void *to, size_t size) nogil
    void mcast_lease_end(mcast_lease *lease) nogil
    Py_ssize_t mcast_place_read(const Py_ssize_t *place) nogil
    void mcast_place_move(Py_ssize_t *place, Py_ssize_t to) nogil

cdef extern from "record.h":
    ctypedef struct mcast_record:
        int64_t timestamp
        uint32_t offset
        uint32_t interface_index
        uint32_t dropped
        uint16_t length
        uint16_t wire_length
        uint8_t source[16]
        uint8_t group[16]
        uint16_t source_port
        uint16_t port
        uint16_t flags
        uint8_t ttl
        uint8_t tos
    int MCAST_TRUNCATED
    int MCAST_TTL
    int MCAST_TOS
    int MCAST_COALESCED
    int MCAST_HARDWARE

cdef extern from *:
    """
    /* What numpy.asarray asks for first: https://numpy.org/doc/stable/reference/arrays.interface.html */
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

cdef class Batch:
    cdef mcast_array_interface array
    cdef Py_ssize_t stride
    cdef mcast_memory records_memory
    cdef mcast_memory data_memory
    cdef mcast_lease *lease  # on a ring's block, where the payloads are then; NULL: they are in data_memory
    cdef mcast_record *first
    cdef Py_ssize_t count
    cdef Batch owner
    cdef readonly dict names

cdef class Packet:
    cdef Batch batch
    cdef const mcast_record *record
    cdef bytes _packed_source(self)

cdef mcast_pool *shared_pool() noexcept nogil
cdef Batch take_over(mcast_memory *records, mcast_memory *data, dict names)
cdef Batch take_over_lease(mcast_memory *records, mcast_lease *lease, dict names)
cdef unsigned char *arena_in_place(Batch batch, int *pinned) noexcept nogil
cdef void arena_left(Batch batch, int pinned) noexcept nogil
cdef int arena_for_good(Batch batch, const unsigned char **bytes) except -1
cdef Batch make_part(Batch whole, Py_ssize_t start, Py_ssize_t stop)
cdef Packet make_packet(Batch batch, Py_ssize_t index)
