"""What of the C more than one file uses by name: memory, references, the record, filters, locks."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

cdef extern from "memory.h":
    ctypedef struct mcast_pool:
        size_t retained
    ctypedef struct mcast_memory:
        unsigned char *bytes
        size_t used
        size_t capacity
    mcast_pool mcast_shared_pool
    int mcast_pool_prepare() nogil
    void *mcast_pool_take(mcast_pool *pool, size_t size, size_t *capacity) nogil
    void mcast_pool_give(mcast_pool *pool, void *block, size_t capacity) nogil

cdef extern from "platform.h":
    Py_ssize_t mcast_place_read(const Py_ssize_t *place) nogil
    void mcast_place_move(Py_ssize_t *place, Py_ssize_t to) nogil

cdef extern from "reference.h":
    ctypedef struct mcast_reference:
        size_t used
    int mcast_reference_detach(mcast_reference *reference) nogil
    const unsigned char *mcast_reference_pin(mcast_reference *reference, int *pinned) nogil
    void mcast_reference_unpin(mcast_reference *reference) nogil
    void mcast_reference_read(mcast_reference *reference, size_t offset, void *to, size_t size) nogil
    void mcast_reference_end(mcast_reference *reference) nogil

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
    int MCAST_FRAME

cdef extern from "ahead.h":
    void mcast_look_ahead(const unsigned char *arena, const mcast_record *records, size_t at, size_t count) nogil

cdef extern from "arrow.h":
    ctypedef struct mcast_shared:
        pass
    ctypedef struct mcast_arrow:
        pass
    struct ArrowSchema:
        void (*release)(ArrowSchema *) noexcept nogil
    struct ArrowArray:
        void (*release)(ArrowArray *) noexcept nogil
    struct ArrowArrayStream:
        int (*get_schema)(ArrowArrayStream *, ArrowSchema *) noexcept nogil
        int (*get_next)(ArrowArrayStream *, ArrowArray *) noexcept nogil
        const char *(*get_last_error)(ArrowArrayStream *) noexcept nogil
        void (*release)(ArrowArrayStream *) noexcept nogil
        void *private_data
    mcast_shared *mcast_shared_new(unsigned char *bytes, size_t capacity,
                                   void (*give)(void *, size_t) noexcept nogil) nogil
    void mcast_shared_release(mcast_shared *shared) nogil
    mcast_arrow *mcast_arrow_new(const mcast_record *records, size_t count, const unsigned char *arena,
                                 mcast_shared *shared) nogil
    size_t mcast_arrow_interfaces(const mcast_arrow *arrow) nogil
    uint32_t mcast_arrow_interface(const mcast_arrow *arrow, size_t at) nogil
    int mcast_arrow_add_name(mcast_arrow *arrow, const char *name, size_t size) nogil
    void mcast_arrow_export(mcast_arrow *arrow, ArrowArray *array) nogil
    void mcast_arrow_free(mcast_arrow *arrow) nogil
    int mcast_arrow_schema(ArrowSchema *schema) nogil

cdef extern from "filter.h":
    ctypedef struct mcast_entry:
        uint8_t group[16]
        uint32_t interface_index
        uint32_t exclude
        uint32_t first_source
        uint32_t sources
    ctypedef struct mcast_filter:
        uint8_t (*sources)[16]
        uint32_t everything
    int mcast_filter_open(mcast_filter *filter, size_t entries, size_t sources) nogil
    void mcast_filter_free(mcast_filter *filter) nogil
    void mcast_filter_add(mcast_filter *filter, const mcast_entry *entry) nogil

cdef extern from "pythread.h":
    ctypedef void *PyThread_type_lock
    int WAIT_LOCK
    int NOWAIT_LOCK
    PyThread_type_lock PyThread_allocate_lock()
    int PyThread_acquire_lock(PyThread_type_lock lock, int wait) nogil
    void PyThread_release_lock(PyThread_type_lock lock) nogil
    void PyThread_free_lock(PyThread_type_lock lock)
