"""Several legs of one feed become one: c/arbiter.h."""

from libc.stdint cimport INT64_MAX

from mcast_fast._core import extraction, lateness

cdef extern from "arbiter.h":
    enum:
        MCAST_MOST_LEGS
        MCAST_MOST_POSITIONS
        MCAST_ALL_POSITIONS
        MCAST_LEAST_POSITIONS
        MCAST_MOST_COVERED
        MCAST_ARBITER_WAITS
        MCAST_ARBITER_ENOUGH
        MCAST_ARBITER_FAILED
        MCAST_ARBITER_UNPAIRED
        MCAST_SKEW_BUCKETS "MCAST_LATE_BUCKETS"
    ctypedef struct mcast_leg_ledger:
        uint64_t packets
        uint64_t received
        uint64_t duplicates
        uint64_t outside
        uint64_t lost
        uint64_t absent
        uint64_t pending
        uint64_t covered
        uint64_t first
        uint64_t late
        uint64_t heartbeats
        uint64_t unnumbered
        uint64_t unpaired
        int64_t last_time
    ctypedef struct mcast_pairing:
        uint8_t group[16]
        uint16_t port
        uint32_t channel
    ctypedef struct mcast_renamed:
        uint32_t from_ "from"
        uint32_t to
    ctypedef struct mcast_leg:
        mcast_leg_ledger ledger
        int64_t last
    ctypedef struct mcast_leg_input:
        const mcast_record *records
        size_t count
        size_t at
        const unsigned char *arena
        int64_t quiet_until
    ctypedef struct mcast_arbiter_batch "mcast_batch":
        mcast_memory records
        mcast_memory data
    ctypedef struct mcast_arbiter:
        mcast_leg legs[8]
        int64_t last_time
        uint32_t count
        mcast_arbiter_batch out
        uint64_t packets
        uint64_t bytes
        uint64_t truncated
        uint64_t expected
        uint64_t delivered
        uint64_t unrecovered
        uint64_t pending
        uint64_t held
        uint64_t duplicates
        uint64_t late
        uint64_t restarts
        uint64_t ambiguous
        uint64_t overflows
        uint64_t evicted
        uint64_t skew[1184]
        int64_t skew_max
    int mcast_arbiter_open(mcast_arbiter **arbiter, const mcast_format *format, uint32_t legs, int64_t hold,
                           int in_order, uint32_t limit, uint64_t kept_limit) nogil
    void mcast_arbiter_free(mcast_arbiter *arbiter) nogil
    int mcast_arbiter_pair(mcast_arbiter *arbiter, uint32_t leg, const mcast_pairing *pairings, size_t count) nogil
    int mcast_arbiter_rename(mcast_arbiter *arbiter, uint32_t leg, const mcast_renamed *renamed, size_t count) nogil
    int mcast_arbiter_turn(mcast_arbiter *arbiter, mcast_leg_input *inputs) nogil
    void mcast_arbiter_flush(mcast_arbiter *arbiter) nogil
    int64_t mcast_arbiter_due(mcast_arbiter *arbiter) nogil
    void mcast_arbiter_counters(mcast_arbiter *arbiter, mcast_arbiter *copy) nogil
    void mcast_arbiter_take(mcast_arbiter *arbiter, mcast_memory *records, mcast_memory *data) nogil

if (MCAST_MOST_LEGS, MCAST_MOST_POSITIONS, MCAST_ALL_POSITIONS, MCAST_LEAST_POSITIONS, MCAST_MOST_COVERED,
        MCAST_SKEW_BUCKETS) != (
        extraction.MOST_LEGS, extraction.MOST_POSITIONS, extraction.ALL_POSITIONS, extraction.LEAST_POSITIONS,
        extraction.MOST_COVERED, lateness.BUCKETS):
    raise ImportError("the compiled arbiter is not that of extraction.py: rebuild the extension")
if [MCAST_ARBITER_WAITS, MCAST_ARBITER_ENOUGH, MCAST_ARBITER_FAILED, MCAST_ARBITER_UNPAIRED] != list(extraction.Turn):
    raise ImportError("the turns of the compiled arbiter are not those of extraction.py: rebuild the extension")


cdef object leg_row(const mcast_leg_ledger *one):
    return extraction.LegRow(
        one.packets, one.received, one.duplicates, one.outside, one.lost, one.absent, one.pending, one.covered,
        one.first, one.late, one.heartbeats, one.unnumbered, one.unpaired, one.last_time,
    )


@cython.final
cdef class Arbiter:
    """Decides for each number which leg's packet is delivered. `hold` in ns; `kept_limit` in bytes."""

    cdef mcast_arbiter *arbiter
    cdef mcast_leg_input inputs[8]
    cdef list batches  # of the legs, that are not taken whole yet
    cdef uint32_t legs
    cdef uint32_t process

    def __cinit__(self, plan, uint32_t legs, int64_t hold, bint in_order, uint32_t limit, uint64_t kept_limit):
        cdef mcast_format format
        fill_format(&format, plan)
        if not 0 < legs <= MCAST_MOST_LEGS or hold < 0 or limit == 0:
            raise ValueError("legs, hold and limit are more than 0")
        memset(&self.inputs, 0, sizeof(self.inputs))
        self.batches = [None] * legs
        self.legs = legs
        self.process = mcast_process_number
        if mcast_arbiter_open(&self.arbiter, &format, legs, hold, in_order, limit, kept_limit) != 0:
            raise MemoryError("no memory for an arbiter")

    def __dealloc__(self):
        if self.arbiter != NULL and self.process == mcast_process_number:  # a fork may come in the middle of a turn
            mcast_arbiter_free(self.arbiter)

    def pair(self, uint32_t leg, rows):
        """Give a leg its groups: (address, port or 0 for any, channel)."""
        self._check_leg(leg)
        cdef size_t count = len(rows), i = 0
        cdef bytes memory = bytes(count * sizeof(mcast_pairing))
        cdef mcast_pairing *pairings = <mcast_pairing *><char *>memory
        for group, port, channel in sorted(rows):
            if len(group) != 16:
                raise ValueError("an address has 16 bytes")
            memcpy(pairings[i].group, <const char *>group, 16)
            pairings[i].port = port
            pairings[i].channel = channel
            i += 1
        if mcast_arbiter_pair(self.arbiter, leg, pairings, count) != 0:
            raise MemoryError("no memory for the groups of a leg")

    def wants(self, uint32_t leg):
        """Whether the leg has no packets left."""
        self._check_leg(leg)
        return self.inputs[leg].at == self.inputs[leg].count

    def feed(self, uint32_t leg, packets, dict renamed):
        """Give the packets of a leg that has none left; `renamed`: its interfaces that have another number here."""
        self._check_leg(leg)
        if not isinstance(packets, Batch):
            raise TypeError(f"a batch is required, not {type(packets).__name__}")
        cdef Batch batch = packets
        cdef mcast_leg_input *one = &self.inputs[leg]
        cdef size_t count = len(renamed), i = 0
        cdef bytes memory = bytes(count * sizeof(mcast_renamed))
        cdef mcast_renamed *rows = <mcast_renamed *><char *>memory
        for old, new in renamed.items():
            rows[i].from_, rows[i].to = old, new
            i += 1
        if mcast_arbiter_rename(self.arbiter, leg, rows, count) != 0:
            raise MemoryError("no memory for the interfaces of a leg")
        self.batches[leg] = batch
        one.records, one.count, one.at = batch.first, <size_t>batch.count, 0
        one.quiet_until = self.arbiter.legs[leg].last
        if batch.count > 0 and batch.first[batch.count - 1].timestamp != 0:
            one.quiet_until = batch.first[batch.count - 1].timestamp

    def quiet(self, uint32_t leg, until):
        """Nothing comes from the leg that arrived before `until` (ns since the epoch; None: ever)."""
        self._check_leg(leg)
        cdef int64_t moment = INT64_MAX if until is None else until
        if moment > self.inputs[leg].quiet_until:
            self.inputs[leg].quiet_until = moment

    def next_group(self, uint32_t leg):
        """Where the leg's next packet was sent to."""
        self._check_leg(leg)
        cdef mcast_leg_input *one = &self.inputs[leg]
        if one.at == one.count:
            raise ValueError("the leg has no packet left")
        return PyBytes_FromStringAndSize(<const char *>one.records[one.at].group, 16), one.records[one.at].port

    def turn(self):
        """Take packets in the order of arrival until a leg has none left whose next one might be earlier: a Turn."""
        self._check_process()
        cdef int pinned[8]
        cdef uint32_t i
        cdef int status
        cdef Batch batch
        for i in range(self.legs):
            pinned[i] = 0
            if self.batches[i] is not None:
                batch = self.batches[i]
                self.inputs[i].arena = arena_in_place(batch, &pinned[i])
        with nogil:
            status = mcast_arbiter_turn(self.arbiter, self.inputs)
        for i in range(self.legs):
            if self.batches[i] is not None:
                batch = self.batches[i]
                arena_left(batch, pinned[i])
                if self.inputs[i].at == self.inputs[i].count:
                    self.batches[i] = None
                    self.inputs[i].count = self.inputs[i].at = 0
        if status == MCAST_ARBITER_FAILED:
            raise MemoryError("no memory for what the legs deliver")
        return status

    def flush(self):
        """Charge and deliver everything now."""
        self._check_process()
        with nogil:
            mcast_arbiter_flush(self.arbiter)

    @property
    def count(self):
        """Packets that are decided, and not taken."""
        return self.arbiter.out.records.used // sizeof(mcast_record)

    def take(self, dict names, list into):
        """Move what is decided to a list, as a batch."""
        self._check_process()
        cdef mcast_memory records
        cdef mcast_memory data
        cdef Batch batch = new_batch(names)
        into.append(batch)
        mcast_arbiter_take(self.arbiter, &records, &data)
        fill_batch(batch, &records, &data)

    def due(self):
        """ns until something is due by the clock, when no packet comes; -1: nothing is."""
        cdef int64_t due
        with nogil:
            due = mcast_arbiter_due(self.arbiter)
        return due

    def counters(self):
        """The ledger of the feed, those of the legs, and the skew in the buckets of lateness.py."""
        self._check_process()
        cdef bytes memory = bytes(sizeof(mcast_arbiter))
        cdef mcast_arbiter *one = <mcast_arbiter *><char *>memory
        with nogil:
            mcast_arbiter_counters(self.arbiter, one)
        feed = extraction.FeedRow(
            one.packets, one.bytes, one.truncated, one.expected, one.delivered, one.unrecovered, one.pending, one.held,
            one.duplicates, one.late, one.restarts, one.ambiguous, one.overflows, one.evicted, one.skew_max, one.count,
            one.last_time,
        )
        legs = [leg_row(&one.legs[i].ledger) for i in range(self.legs)]
        return feed, legs, [one.skew[i] for i in range(MCAST_SKEW_BUCKETS)]

    cdef int _check_leg(self, uint32_t leg) except -1:
        if leg >= self.legs:
            raise ValueError("there is no such leg")
        return 0

    cdef int _check_process(self) except -1:
        if self.process != mcast_process_number:
            raise ClosedError("the arbiter was made in another process")
        return 0
