"""Many datagrams a system call, without the GIL. The loop itself is `mcast_send_slice` in c/send.h."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from mcast_fast._core import lateness
from mcast_fast._core.layout import Feature
from mcast_fast.errors import ClosedError

cdef extern from "send.h":
    ctypedef unsigned int socklen_t
    struct sockaddr_storage:
        pass
    struct iovec:
        void *iov_base
        size_t iov_len
    socklen_t mcast_destination(sockaddr_storage *address, const uint8_t *packed, int version, int port,
                                uint32_t scope) nogil
    ctypedef struct mcast_payloads:
        const iovec *pieces
        const mcast_record *records
        unsigned char *bytes
        size_t length
        size_t row
        size_t count
    ctypedef struct mcast_outlet:
        size_t limit
        int refusal
    ctypedef struct mcast_target:
        size_t outlet
        sockaddr_storage address
        socklen_t size
    ctypedef struct mcast_leg:
        pass
    ctypedef struct mcast_itinerary:
        mcast_leg *legs
        double scale
        int64_t origin
        int64_t start
        int64_t reached
        uint64_t *late
        int64_t latest
    ctypedef struct mcast_pace:
        double ns_per_unit
        int by_bits
        uint64_t burst
    ctypedef struct mcast_send_counters:
        uint64_t datagrams
        uint64_t bytes
        uint64_t system_calls
        uint64_t would_blocks
        uint64_t retries
    ctypedef struct mcast_transmitter:
        PyThread_type_lock turn
        PyThread_type_lock state
        mcast_pace pace
    ctypedef struct mcast_errand:
        const mcast_target *targets
        size_t target_count
        mcast_itinerary *itinerary
        mcast_payloads payloads
        size_t sent
    enum:
        MCAST_LATE_BUCKETS
    int MCAST_SEND_CLOSED
    int MCAST_SEND_MORE
    int MCAST_SEND_UNKNOWN
    int mcast_itinerary_add(mcast_itinerary *itinerary, const unsigned char *group, int port,
                            const mcast_target *target) nogil
    int mcast_payloads_fit(const mcast_payloads *payloads) nogil
    int mcast_send_slice(mcast_transmitter *transmitter, mcast_errand *errand, size_t total) nogil
    int mcast_transmitter_open(mcast_transmitter *transmitter) nogil
    int64_t mcast_transmitter_add(mcast_transmitter *transmitter, int fd, size_t limit) nogil
    int mcast_transmitter_look(mcast_transmitter *transmitter, size_t key, mcast_outlet *told) nogil
    mcast_send_counters mcast_transmitter_counters(mcast_transmitter *transmitter, double *rate) nogil
    void mcast_transmitter_close(mcast_transmitter *transmitter) nogil
    void mcast_transmitter_free(mcast_transmitter *transmitter) nogil

SEND_FEATURES = features_of("batched_send", "send_segmentation", "pacing")
if SEND_FEATURES["send_segmentation"] and not {"UDP_SEGMENT", "UDP_SEND_MSG_SIZE"} & OPTIONS.keys():
    SEND_FEATURES["send_segmentation"] = Feature(False, f"{SYSTEM} of this version has no UDP_SEND_MSG_SIZE")
cdef enum:
    AT_ONCE = 256  # payloads of a sequence that are held together

if MCAST_LATE_BUCKETS != lateness.BUCKETS:
    raise ImportError("the compiled buckets are not those of lateness.py: rebuild the extension")


@cython.final
cdef class Route:
    """Where every payload of a call goes, in this order; made by `Transmitter.route`."""

    cdef mcast_target *targets
    cdef size_t count

    def __dealloc__(self):
        free(self.targets)


@cython.final
cdef class Itinerary:
    """Where each record of a recording goes, by its group and port, and when, by its timestamp; made by
    `Transmitter.itinerary`."""

    cdef mcast_itinerary itinerary
    cdef Transmitter owner

    def __dealloc__(self):
        free(self.itinerary.legs)

    def add(self, bytes group, int port, Route route not None):
        """Records of this group (16 bytes) and port go to the first target of the route from now on."""
        cdef int status
        cdef mcast_outlet told
        cdef const char *packed = group
        if len(group) != 16 or not 0 <= port <= 0xffff or route.count == 0:
            raise ValueError("a leg has a group of 16 bytes, a port, and a target")
        if not mcast_transmitter_look(&self.owner.transmitter, route.targets[0].outlet, &told):
            raise ValueError("the route is of another sender")
        with nogil:
            PyThread_acquire_lock(self.owner.transmitter.turn, WAIT_LOCK)
            status = mcast_itinerary_add(&self.itinerary, <const unsigned char *>packed, port, &route.targets[0])
            PyThread_release_lock(self.owner.transmitter.turn)
        if status != 0:
            raise MemoryError("no memory for a leg")

    def start(self, int64_t origin, int64_t moment, double scale):
        """From now on a record is due at `moment` (ns, monotonic) + (its timestamp - `origin`) * `scale`, and not
        before the one in front of it; `scale` 0: as the sender's own rate says."""
        if not 0 <= moment < 2**61 or not 0 <= scale <= 1e9:
            raise ValueError("the moment is at least 0, and the scale 0 to 1e9")
        with nogil:
            PyThread_acquire_lock(self.owner.transmitter.turn, WAIT_LOCK)
            self.itinerary.origin, self.itinerary.start, self.itinerary.scale = origin, moment, scale
            self.itinerary.reached = 0
            PyThread_release_lock(self.owner.transmitter.turn)

    def lateness(self):
        """How late records left: (how many by the buckets of lateness.py, ns of the latest)."""
        cdef int i
        cdef uint64_t late[MCAST_LATE_BUCKETS]
        cdef int64_t latest
        with nogil:
            PyThread_acquire_lock(self.owner.transmitter.state, WAIT_LOCK)
            memcpy(late, self.itinerary.late, sizeof(late))
            latest = self.itinerary.latest
            PyThread_release_lock(self.owner.transmitter.state)
        return [late[i] for i in range(MCAST_LATE_BUCKETS)], latest


@cython.final
cdef class Transmitter:
    """What the sockets of one sender have in common: the schedule, the counters, and one turn at a time.

    `ns_per_unit` is the time between two units, 0 for as fast as it goes; a unit is a datagram or (`by_bits`) a bit of
    payload. `burst` datagrams leave together. `subject` is what errors call the sender."""

    cdef mcast_transmitter transmitter
    cdef str subject

    def __cinit__(self, str subject, double ns_per_unit, bint by_bits, uint64_t burst):
        if burst == 0 or not ns_per_unit >= 0:
            raise ValueError("a burst is at least 1, and the time between two units at least 0")
        memset(&self.transmitter, 0, sizeof(self.transmitter))
        self.subject = subject
        if mcast_transmitter_open(&self.transmitter) != 0:
            raise MemoryError("no memory to send from")
        self.transmitter.pace.ns_per_unit = ns_per_unit
        self.transmitter.pace.by_bits = by_bits
        self.transmitter.pace.burst = burst

    def __dealloc__(self):
        mcast_transmitter_free(&self.transmitter)

    def add(self, socket, size_t segment_limit):
        """The key of a socket; segments of at most so many bytes may be cut by the kernel, 0 for none."""
        cdef int64_t key
        cdef int fd = socket.fileno()
        with nogil:
            key = mcast_transmitter_add(&self.transmitter, fd, segment_limit)
        if key < 0:
            raise MemoryError("no memory for a socket")
        return key

    def route(self, list targets):
        """Targets are (key, packed group, port, interface index)."""
        cdef Route route = Route.__new__(Route)
        cdef mcast_target *target
        cdef mcast_outlet told
        cdef bytes group
        cdef size_t key
        route.targets = <mcast_target *>calloc(len(targets) or 1, sizeof(mcast_target))
        if route.targets == NULL:
            raise MemoryError("no memory for the targets")
        for key, group, port, scope in targets:
            if len(group) not in (4, 16):
                raise ValueError("the group is a packed address")
            if not mcast_transmitter_look(&self.transmitter, key, &told):
                raise IndexError(f"no socket has the key {key}")
            target = &route.targets[route.count]
            target.outlet = key
            target.size = mcast_destination(&target.address, <const uint8_t *><const char *>group,
                                            4 if len(group) == 4 else 6, port, scope)
            route.count += 1
        return route

    def itinerary(self):
        """An empty Itinerary of this sender's."""
        cdef Itinerary itinerary = Itinerary.__new__(Itinerary)
        itinerary.owner = self
        return itinerary

    def send(self, Route route not None, payloads):
        """Send bytes-like objects, each to every target of the route: (how many datagrams left, errno that stopped it
        or 0).

        Waits while a send buffer is full or the next is not due. Raises ClosedError, TypeError before anything left,
        and what a handler of signals raises."""
        cdef tuple items = tuple(payloads)
        cdef Py_ssize_t at = 0, sent = 0
        cdef mcast_errand errand
        cdef int status = 0
        for item in items:
            if not PyObject_CheckBuffer(item):
                raise TypeError(f"a bytes-like object is required, not {type(item).__name__!r}")
        memset(&errand, 0, sizeof(errand))
        errand.targets, errand.target_count = route.targets, route.count
        while at < len(items) and status == 0:
            errand.sent = 0
            status = self.send_some(&errand, items, at)
            sent += errand.sent
            at += AT_ONCE
        return sent, -status

    cdef int send_some(self, mcast_errand *errand, tuple items, Py_ssize_t at) except 1:
        """At most AT_ONCE items from `at` on, whose memory is held meanwhile."""
        cdef Py_buffer buffers[AT_ONCE]
        cdef iovec pieces[AT_ONCE]
        cdef Py_ssize_t held = 0, count = min(<Py_ssize_t>AT_ONCE, len(items) - at)
        try:
            while held < count:
                PyObject_GetBuffer(items[at + held], &buffers[held], PyBUF_SIMPLE)
                pieces[held].iov_base = buffers[held].buf
                pieces[held].iov_len = <size_t>buffers[held].len
                held += 1
            errand.payloads.pieces = pieces
            errand.payloads.count = <size_t>count
            return self.run(errand)
        finally:
            while held:
                held -= 1
                PyBuffer_Release(&buffers[held])

    def send_rows(self, Route route not None, buffer, size_t size):
        """As `send`, in rows of `size` bytes of one contiguous buffer, of which the last may be shorter."""
        cdef Py_buffer memory
        cdef mcast_errand errand
        if size == 0:
            raise ValueError("a row is at least one byte")
        memset(&errand, 0, sizeof(errand))
        errand.targets, errand.target_count = route.targets, route.count
        PyObject_GetBuffer(buffer, &memory, PyBUF_SIMPLE)
        try:
            errand.payloads.bytes = <unsigned char *>memory.buf
            errand.payloads.length = <size_t>memory.len
            errand.payloads.row = size
            errand.payloads.count = errand.payloads.length // size + (errand.payloads.length % size != 0)
            status = self.run(&errand)
        finally:
            PyBuffer_Release(&memory)
        return errand.sent, -status

    def send_records(self, Route route not None, records, data):
        """As `send`, the payloads that records describe: each must lie within `data`, else ValueError."""
        cdef mcast_errand errand
        memset(&errand, 0, sizeof(errand))
        errand.targets, errand.target_count = route.targets, route.count
        status = self.send_described(&errand, records, data)
        return errand.sent, -status

    def send_recorded(self, Itinerary itinerary not None, records, data, size_t first):
        """Send the payloads that records describe, from `first` on, each to where and when the itinerary says: (how
        many left, errno that stopped it or 0).

        It stops too before a record of which the itinerary does not say where it goes. Errors as `send_records`."""
        cdef mcast_errand errand
        if itinerary.owner is not self:
            raise ValueError("the itinerary is of another sender")
        memset(&errand, 0, sizeof(errand))
        errand.itinerary, errand.target_count, errand.sent = &itinerary.itinerary, 1, first
        status = self.send_described(&errand, records, data)
        return errand.sent - first, -status

    cdef int send_described(self, mcast_errand *errand, records, data) except 1:
        """The payloads that records describe, whose memory is held meanwhile."""
        cdef Py_buffer rows
        cdef Py_buffer arena
        PyObject_GetBuffer(records, &rows, PyBUF_SIMPLE)
        try:
            PyObject_GetBuffer(data, &arena, PyBUF_SIMPLE)
            try:
                errand.payloads.records = <const mcast_record *>rows.buf
                errand.payloads.count = <size_t>rows.len // sizeof(mcast_record)
                errand.payloads.bytes = <unsigned char *>arena.buf
                errand.payloads.length = <size_t>arena.len
                if rows.len % sizeof(mcast_record) or not mcast_payloads_fit(&errand.payloads):
                    raise ValueError("the records do not fit the data")
                return self.run(errand)
            finally:
                PyBuffer_Release(&arena)
        finally:
            PyBuffer_Release(&rows)

    cdef int run(self, mcast_errand *errand) except 1:
        """Slice by slice, so that signals are seen and other threads have their turn: 0 or -errno."""
        cdef size_t total = errand.payloads.count * errand.target_count
        cdef int status = MCAST_SEND_MORE
        while status == MCAST_SEND_MORE:
            with nogil:
                PyThread_acquire_lock(self.transmitter.turn, WAIT_LOCK)
                status = mcast_send_slice(&self.transmitter, errand, total)
                PyThread_release_lock(self.transmitter.turn)
            if status == MCAST_SEND_MORE:
                PyErr_CheckSignals()
        if status == MCAST_SEND_CLOSED:
            raise ClosedError(f"{self.subject} is closed")
        return 0 if status == MCAST_SEND_UNKNOWN else status

    def counters(self):
        """So far: datagrams, bytes, system calls, would-blocks, retries; and the achieved rate, units a second (0.0:
        not known yet)."""
        cdef mcast_send_counters told
        cdef double rate
        with nogil:
            told = mcast_transmitter_counters(&self.transmitter, &rate)
        return told.datagrams, told.bytes, told.system_calls, told.would_blocks, told.retries, rate

    def refusal(self, size_t key):
        """What a socket's path has refused to cut apart: (largest segment that is still tried, errno or 0)."""
        cdef mcast_outlet told
        if not mcast_transmitter_look(&self.transmitter, key, &told):
            raise IndexError(f"no socket has the key {key}")
        return told.limit, told.refusal

    def close(self):
        """Ends who sends (ClosedError); when it returns, the sockets may be closed."""
        with nogil:
            mcast_transmitter_close(&self.transmitter)
