"""Numbers of packets, and their flows: c/sequence.h and c/tracker.h."""

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from mcast_fast._core import extraction
from mcast_fast.errors import ClosedError

cdef extern from "sequence.h":
    enum:
        MCAST_KEY_SIZE
        MCAST_MOST_KEYS
        MCAST_MOST_TESTS
    ctypedef struct mcast_field:
        uint64_t mask
        uint32_t offset
        uint8_t width
        uint8_t shift
        uint8_t little
        uint8_t after_rtp
    ctypedef struct mcast_format:
        mcast_field number
        mcast_field high
        mcast_field count
        mcast_field keys[4]
        mcast_field tests[4]
        uint64_t wanted[4]
        uint64_t scale
        uint64_t heartbeat
        uint64_t end
        uint64_t parameter
        uint32_t key_count
        uint32_t test_count
        uint8_t has_high
        uint8_t has_count
        uint8_t after_rtp
        uint8_t bits
        uint8_t layout
    void mcast_sequence_write_key(const uint64_t *key, uint8_t *bytes) nogil
    void mcast_format_prepare(mcast_format *format) nogil
    void mcast_sequence_columns(const mcast_format *format, const mcast_record *records, size_t count,
                                const unsigned char *arena, uint64_t *numbers, uint32_t *counts,
                                void *keys, uint8_t *kinds) nogil

if (MCAST_KEY_SIZE, MCAST_MOST_KEYS, MCAST_MOST_TESTS) != (
        extraction.KEY_SIZE, extraction.MOST_KEYS, extraction.MOST_TESTS):
    raise ImportError("the compiled plan of a format is not that of extraction.py: rebuild the extension")


cdef mcast_field field_of(place, size_t widest=8) except *:
    """A field as it is read; OverflowError or ValueError where it has integers out of range. `widest`: 8 of an integer,
    MCAST_KEY_SIZE where it may be bytes, which have no mask."""
    cdef mcast_field field
    if not 1 <= place.width <= (8 if place.mask else widest):
        raise ValueError(f"a field of {place.width} bytes cannot be read")
    field.mask = place.mask
    field.offset = place.offset
    field.width = place.width
    field.shift = place.shift
    field.little = place.little
    field.after_rtp = place.after_rtp
    return field


cdef int fill_format(mcast_format *format, plan) except -1:
    """A plan of extraction.py as the C has it."""
    cdef int i
    places = [plan.number, plan.high, plan.count_at, *plan.keys, *(place for place, _ in plan.tests)]
    if len(plan.keys) > MCAST_MOST_KEYS or len(plan.tests) > MCAST_MOST_TESTS:
        raise ValueError("the plan has too many fields")
    if sum(place.width for place in plan.keys) > MCAST_KEY_SIZE or not 1 <= plan.bits <= 64:
        raise ValueError("the plan has a key or a number that is too long")
    memset(format, 0, sizeof(mcast_format))
    format.number = field_of(plan.number)
    format.has_high = plan.high is not None
    if format.has_high:
        format.high = field_of(plan.high)
    format.has_count = plan.count_at is not None
    if format.has_count:
        format.count = field_of(plan.count_at)
    for i, place in enumerate(plan.keys):
        format.keys[i] = field_of(place, MCAST_KEY_SIZE)
    for i, (place, value) in enumerate(plan.tests):
        format.tests[i] = field_of(place)
        format.wanted[i] = value
    format.key_count, format.test_count = len(plan.keys), len(plan.tests)
    format.after_rtp = any(place is not None and place.after_rtp for place in places)
    format.scale = plan.scale
    format.heartbeat = UINT64_MAX if plan.heartbeat is None else plan.heartbeat
    format.end = UINT64_MAX if plan.end is None else plan.end
    format.parameter = plan.parameter
    format.bits, format.layout = plan.bits, int(plan.layout)
    mcast_format_prepare(format)
    return 0


def columns_of(packets, plan):
    """What each packet of a batch is to a sequence, as `extraction.Columns`; of a ring's batch without a copy."""
    if not isinstance(packets, Batch):
        raise TypeError(f"a batch is required, not {type(packets).__name__}")
    cdef Batch batch = packets
    cdef mcast_format format
    fill_format(&format, plan)
    cdef size_t count = <size_t>batch.count
    cdef bytes numbers = PyBytes_FromStringAndSize(NULL, count * 8)
    cdef bytes counts = PyBytes_FromStringAndSize(NULL, count * 4)
    cdef bytes keys = PyBytes_FromStringAndSize(NULL, count * MCAST_KEY_SIZE)
    cdef bytes kinds = PyBytes_FromStringAndSize(NULL, count)
    cdef uint64_t *to_numbers = <uint64_t *><char *>numbers
    cdef uint32_t *to_counts = <uint32_t *><char *>counts
    cdef void *to_keys = <void *><char *>keys
    cdef uint8_t *to_kinds = <uint8_t *><char *>kinds
    cdef int pinned
    cdef const unsigned char *arena
    with nogil:
        arena = arena_in_place(batch, &pinned)
        mcast_sequence_columns(&format, batch.first, count, arena, to_numbers, to_counts, to_keys, to_kinds)
        arena_left(batch, pinned)
    return extraction.as_columns(numbers, counts, keys, kinds)


# ---- flows ----

cdef extern from "tracker.h":
    enum:
        MCAST_MOST_GAPS
        MCAST_NEAR
        MCAST_STARTED
        MCAST_ENDED
    ctypedef struct mcast_flow_key:
        uint64_t source[2]
        uint64_t group[2]
        uint64_t key[2]
        uint64_t ports
    ctypedef struct mcast_tracked:
        mcast_flow_key key
        uint64_t next
        uint64_t first
        int64_t clock
        int64_t last_time
        uint64_t packets
        uint64_t received
        uint64_t duplicates
        uint64_t lost
        uint64_t pending
        uint64_t reordered
        uint64_t depth
        uint64_t late
        uint64_t burst
        uint64_t strays
        uint64_t restarts
        uint64_t ambiguous
        int64_t first_time
        int64_t restarted_at
        int64_t silent
        uint8_t ended
    ctypedef struct mcast_change:
        mcast_flow_key key
        uint64_t first
        uint64_t last
        int64_t time
        uint32_t kind
    ctypedef struct mcast_changes:
        mcast_change *memory
        size_t count
        int failed
        uint32_t left_out
    ctypedef struct mcast_tracker:
        uint64_t evicted
        uint64_t evicted_lost
        uint64_t evicted_expected
        uint64_t short_packets
        uint64_t other_packets
    uint32_t mcast_ports_join(uint16_t source_port, uint16_t port) nogil
    void mcast_ports_split(uint64_t ports, uint16_t *source_port, uint16_t *port) nogil
    int mcast_tracker_open(mcast_tracker **tracker, const mcast_format *format, int by_source_port, int64_t window,
                           uint32_t limit) nogil
    void mcast_tracker_keep(mcast_tracker *tracker) nogil
    void mcast_tracker_release(mcast_tracker *tracker) nogil
    void mcast_tracker_update(mcast_tracker *tracker, const mcast_record *records, size_t count,
                              const unsigned char *arena, mcast_changes *changes) nogil
    size_t mcast_tracker_flows(mcast_tracker *tracker, int64_t now, mcast_tracked *flows, size_t room) nogil
    uint64_t mcast_flow_expected(const mcast_tracked *flow) nogil

cdef extern from "process.h":
    uint32_t mcast_process_number

if (MCAST_MOST_GAPS, MCAST_NEAR, MCAST_STARTED, MCAST_ENDED) != (
        extraction.MOST_GAPS, extraction.NEAR, 0, len(extraction.What) - 1):
    raise ImportError("the compiled tracker is not that of extraction.py: rebuild the extension")


cdef tuple key_row(const mcast_flow_key *key):
    cdef uint8_t bytes[16]
    cdef uint16_t source_port, port
    mcast_sequence_write_key(key.key, bytes)
    mcast_ports_split(key.ports, &source_port, &port)
    return (
        PyBytes_FromStringAndSize(<const char *>key.source, 16), source_port,
        PyBytes_FromStringAndSize(<const char *>key.group, 16), port,
        PyBytes_FromStringAndSize(<const char *>bytes, MCAST_KEY_SIZE),
    )


cdef object flow_row(const mcast_tracked *flow, uint64_t mask):
    return extraction.FlowRow(
        *key_row(&flow.key), flow.received, mcast_flow_expected(flow), flow.lost, flow.pending, flow.duplicates,
        flow.reordered, flow.depth, flow.late, flow.burst, flow.restarts, flow.ambiguous, flow.strays, flow.packets,
        flow.first & mask, (flow.next - 1) & mask, flow.first_time, flow.last_time, bool(flow.ended), flow.silent,
        flow.clock - flow.restarted_at if flow.restarted_at >= 0 else -1,
    )


@cython.final
cdef class Tracker:
    """Follows the flows of packets of one format; at most `limit` of them. `window` in ns."""

    cdef mcast_tracker *tracker
    cdef uint64_t mask
    cdef uint32_t process
    cdef object token  # of the batch that was noted last

    def __cinit__(self, plan, bint source_port, int64_t window, uint32_t limit):
        cdef mcast_format format
        fill_format(&format, plan)
        if window <= 0 or limit == 0:
            raise ValueError("a window and a limit are more than 0")
        self.mask = UINT64_MAX >> (64 - format.bits)
        self.process = mcast_process_number
        if mcast_tracker_open(&self.tracker, &format, source_port, window, limit) != 0:
            raise MemoryError("no memory for a tracker")

    def __dealloc__(self):
        if self.tracker != NULL and self.process == mcast_process_number:  # a fork may come in the middle of a call
            mcast_tracker_release(self.tracker)

    def update(self, packets, uint32_t left_out=0):
        """Takes in a batch; what changed, without kinds whose bit is in `left_out`.

        TypeError, and ClosedError in another process than the one that made it."""
        if not isinstance(packets, Batch):
            raise TypeError(f"a batch is required, not {type(packets).__name__}")
        self._check_process()
        cdef Batch batch = packets
        cdef mcast_changes changes
        cdef mcast_change *one
        cdef size_t i
        cdef int pinned
        cdef const unsigned char *arena
        memset(&changes, 0, sizeof(changes))
        changes.left_out = left_out
        with nogil:
            arena = arena_in_place(batch, &pinned)
            mcast_tracker_update(self.tracker, batch.first, <size_t>batch.count, arena, &changes)
            arena_left(batch, pinned)
        try:
            found = []
            for i in range(changes.count):
                one = &changes.memory[i]
                found.append(extraction.ChangeRow(one.kind, *key_row(&one.key), one.first, one.last, one.time))
            if changes.failed:
                raise MemoryError("no memory for what changed; the flows have it")
            return found
        finally:
            free(changes.memory)

    def note(self, packets, token):
        """Takes in a batch, unless the one before had this token: so that an interrupted call can be repeated.

        Errors as `update`."""
        if not isinstance(packets, Batch):
            raise TypeError(f"a batch is required, not {type(packets).__name__}")
        self._check_process()
        cdef Batch batch = packets
        cdef int pinned
        cdef const unsigned char *arena
        if self.token is token:
            return
        with nogil:
            arena = arena_in_place(batch, &pinned)
            mcast_tracker_update(self.tracker, batch.first, <size_t>batch.count, arena, NULL)
            arena_left(batch, pinned)
        self.token = token

    def flows(self, int64_t now):
        """Each flow as it is at `now` (ns since the epoch; 0: at its last packet), in the order of their places.

        What was pending for longer than the window counts as lost; the flow itself waits for its next packet."""
        self._check_process()
        cdef size_t room = 0, count = 64, i
        cdef mcast_tracked *flows = NULL
        cdef mcast_tracked *larger
        try:
            while count > room:
                larger = <mcast_tracked *>realloc(flows, count * sizeof(mcast_tracked))
                if larger == NULL:
                    raise MemoryError("no memory for the flows")
                flows, room = larger, count
                with nogil:
                    count = mcast_tracker_flows(self.tracker, now, flows, room)
            return [flow_row(&flows[i], self.mask) for i in range(count)]
        finally:
            free(flows)

    def totals(self):
        """Packets that no flow has, and flows that gave way."""
        self._check_process()
        cdef mcast_tracker *one = self.tracker
        return extraction.Totals(one.short_packets, one.other_packets, one.evicted, one.evicted_expected,
                                 one.evicted_lost)

    cdef int _check_process(self) except -1:
        if self.process != mcast_process_number:
            raise ClosedError("the tracker was made in another process")
        return 0
