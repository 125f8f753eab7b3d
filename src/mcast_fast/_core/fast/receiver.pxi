"""What c/receiver.h and the headers below it declare of a receiver."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "receiver.h":
    ctypedef struct mcast_life:
        pass
    int mcast_life_enter(mcast_life *life) nogil
    int mcast_life_leave(mcast_life *life) nogil
    int mcast_life_is_closed(const mcast_life *life) nogil
    int mcast_life_is_foreign(const mcast_life *life) nogil
    ctypedef struct mcast_counters:
        uint64_t received
        uint64_t bytes
        uint64_t truncated
        uint64_t filtered
        uint64_t fragments
        uint64_t dropped_socket
        uint64_t dropped_ring
        uint64_t detached
        uint64_t batches
        uint64_t largest_batch
        uint64_t wakeups
        uint64_t dropped_memory
        uint64_t buffers
        uint64_t coalesced
        uint64_t dropped_inexactly
    ctypedef enum mcast_coalescing_mode:
        pass
    ctypedef struct mcast_coalescing:
        mcast_coalescing_mode mode
        int64_t window
    ctypedef struct mcast_coalescing_event:
        int64_t time
        int what
        int error
        uint64_t key
        uint32_t backlog
        uint32_t buffer
        uint64_t rate
    ctypedef struct mcast_batch:
        mcast_memory records
        mcast_memory data
        uint64_t epoch
        uint64_t buffers
        mcast_reference *reference
    ctypedef int mcast_flag
    ctypedef uint32_t mcast_word
    ctypedef struct mcast_background:
        pass
    ctypedef struct mcast_receiver:
        mcast_life life
        mcast_pool *pool
        size_t packet_limit
        size_t batch_size
        size_t coalesced_batch_size
        mcast_coalescing coalescing
        mcast_flag has_rings
        mcast_flag watched
        mcast_word deferred
        mcast_background *background
    void mcast_receiver_track(mcast_receiver *receiver, mcast_tracker *tracker) nogil
    ctypedef enum mcast_outcome:
        MCAST_OK
        MCAST_EMPTY
        MCAST_FULL
        MCAST_TIMEOUT
        MCAST_CLOSED
        MCAST_INTERRUPTED
        MCAST_FAILED
    ctypedef struct mcast_result:
        mcast_outcome outcome
        int error
    int MCAST_HAS_RING
    int MCAST_REPORTS_DROPS
    void mcast_flag_set(mcast_flag *flag) nogil
    int mcast_flag_is_set(const mcast_flag *flag) nogil
    uint32_t mcast_word_load(const mcast_word *word) nogil
    int64_t mcast_monotonic_ns() nogil
    size_t mcast_batch_count(const mcast_batch *batch) nogil
    int mcast_batch_has_room(const mcast_receiver *receiver, const mcast_batch *batch, size_t limit) nogil
    int mcast_batch_append(mcast_pool *pool, mcast_batch *batch, const mcast_record *record,
                           const unsigned char *payload) nogil
    void mcast_batch_begin(mcast_receiver *receiver, mcast_batch *batch, int copies) nogil
    void mcast_batch_return(mcast_receiver *receiver, mcast_batch *batch) nogil
    void mcast_batch_finish(mcast_receiver *receiver, mcast_batch *batch) nogil
    void mcast_batch_drop(mcast_receiver *receiver, mcast_batch *batch) nogil
    int mcast_receiver_open(mcast_receiver *receiver, mcast_pool *pool, unsigned count, size_t size) nogil
    size_t mcast_receiver_batch_size(const mcast_receiver *receiver) nogil
    int mcast_receiver_take_coalescing_event(mcast_receiver *receiver, mcast_coalescing_event *event) nogil
    int mcast_receiver_close(mcast_receiver *receiver) nogil
    void mcast_receiver_tear_down(mcast_receiver *receiver) nogil
    void mcast_receiver_free(mcast_receiver *receiver) nogil
    int64_t mcast_receiver_add_socket(mcast_receiver *receiver, int fd, int decider, int used,
                                      const mcast_record *implied) nogil
    void mcast_receiver_hand_over(mcast_receiver *receiver, uint64_t key, uint64_t heir) nogil
    int64_t mcast_receiver_add_ring(mcast_receiver *receiver, int fd, uint32_t interface_index, size_t block_size,
                                    uint32_t count, unsigned latency_ms, int times, int delivers) nogil
    int64_t mcast_receiver_listen(mcast_receiver *receiver, uint64_t ring_key, uint16_t port) nogil
    void mcast_receiver_remove(mcast_receiver *receiver, uint64_t key) nogil
    int mcast_receiver_accept(mcast_receiver *receiver, uint64_t key, mcast_filter *filter) nogil
    void mcast_receiver_refuse_own(mcast_receiver *receiver, mcast_filter *addresses) nogil
    uint64_t mcast_receiver_epoch(mcast_receiver *receiver) nogil
    mcast_result mcast_receiver_receive(mcast_receiver *receiver, mcast_batch *batch, size_t limit,
                                        int64_t deadline) nogil
    mcast_result mcast_receiver_wait(mcast_receiver *receiver, int64_t deadline) nogil
    size_t mcast_receiver_filter_again(mcast_receiver *receiver, mcast_record *records, size_t count) nogil
    int mcast_receiver_wants_all(mcast_receiver *receiver, const mcast_record *records, size_t count) nogil
    void mcast_receiver_count_delivered(mcast_receiver *receiver, size_t count) nogil
    void mcast_receiver_set_unread(mcast_receiver *receiver, size_t unread) nogil
    void mcast_receiver_show_rings(mcast_receiver *receiver) nogil
    int mcast_receiver_defer(mcast_receiver *receiver) nogil
    void mcast_receiver_end_deferral(mcast_receiver *receiver) nogil
    int mcast_receiver_descriptor(mcast_receiver *receiver) nogil
    mcast_counters mcast_receiver_counters(mcast_receiver *receiver) nogil
    int mcast_background_open(mcast_receiver *receiver, size_t limit, int cpu) nogil
