"""Many datagrams per system call, without the GIL. The loop itself is `mcast_send_slice` in c/send.c.

Every method of a Transmitter brackets its use of the sender by `enter` and `leave`; compiled code runs no handler of a
signal in between, except where it checks for them (PyErr_CheckSignals)."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport PyObject
from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from mcast_fast._core import lateness
from mcast_fast._core.layout import Feature
from mcast_fast.errors import ClosedError, os_error

cdef extern from "Python.h":
    PyObject **PySequence_Fast_ITEMS(object sequence)
    bint PyBytes_CheckExact(PyObject *item)
    char *PyBytes_AS_STRING(PyObject *item)
    Py_ssize_t PyBytes_GET_SIZE(PyObject *item)

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
    ctypedef struct mcast_sending_socket:
        size_t limit
        int refusal
    ctypedef struct mcast_target:
        size_t socket
        sockaddr_storage address
        socklen_t size
    ctypedef struct mcast_schedule:
        uint16_t keep
        uint8_t ttl
        uint8_t tos
    ctypedef struct mcast_send_counters:
        uint64_t datagrams
        uint64_t bytes
        uint64_t system_calls
        uint64_t would_blocks
        uint64_t retries
    ctypedef struct mcast_transmitter:
        pass
    ctypedef struct mcast_request:
        const mcast_target *targets
        size_t target_count
        mcast_schedule *schedule
        mcast_payloads payloads
        size_t sent
        int at_once
    enum:
        MCAST_LATE_BUCKETS
    int MCAST_SEND_CLOSED
    int MCAST_SEND_FOREIGN
    int MCAST_SEND_MORE
    int MCAST_SEND_UNKNOWN
    int mcast_send_import() nogil
    int mcast_payloads_fit(const mcast_payloads *payloads) nogil
    int mcast_send_slice(mcast_transmitter *transmitter, mcast_request *request, size_t total) nogil
    int mcast_transmitter_open(mcast_transmitter *transmitter, double ns_per_unit, int by_bits, uint64_t burst) nogil
    void mcast_transmitter_free(mcast_transmitter *transmitter) nogil
    int mcast_transmitter_enter(mcast_transmitter *transmitter) nogil
    int mcast_transmitter_leave(mcast_transmitter *transmitter) nogil
    int mcast_transmitter_close(mcast_transmitter *transmitter) nogil
    int mcast_transmitter_is_closed(const mcast_transmitter *transmitter) nogil
    int mcast_transmitter_is_foreign(const mcast_transmitter *transmitter) nogil
    int64_t mcast_transmitter_add(mcast_transmitter *transmitter, int fd, size_t limit) nogil
    int mcast_transmitter_replace(mcast_transmitter *transmitter, size_t key, int fd, size_t limit) nogil
    int mcast_transmitter_look(mcast_transmitter *transmitter, size_t key, mcast_sending_socket *info) nogil
    mcast_send_counters mcast_transmitter_counters(mcast_transmitter *transmitter, double *rate) nogil
    int mcast_transmitter_route(mcast_transmitter *transmitter, mcast_schedule *schedule, const unsigned char *group,
                                int port, const mcast_target *target) nogil
    int mcast_transmitter_start(mcast_transmitter *transmitter, mcast_schedule *schedule, int64_t origin,
                                int64_t start, double scale) nogil
    void mcast_transmitter_lateness(mcast_transmitter *transmitter, const mcast_schedule *schedule, uint64_t *late,
                                    int64_t *latest) nogil
    void mcast_schedule_free(mcast_schedule *schedule) nogil

SEND_FEATURES = features_of("batched_send", "send_segmentation", "pacing")
if SEND_FEATURES["send_segmentation"] and not {"UDP_SEGMENT", "UDP_SEND_MSG_SIZE"} & OPTIONS.keys():
    SEND_FEATURES["send_segmentation"] = Feature(False, f"{SYSTEM} of this version has no UDP_SEND_MSG_SIZE")
cdef enum:
    AT_ONCE = 512  # payloads of a sequence that are held together

if MCAST_LATE_BUCKETS != lateness.BUCKETS:
    raise ImportError("the compiled buckets are not those of lateness.py: rebuild the extension")
if (_status := mcast_send_import()) != 0:
    raise os_error(-_status)


@cython.final
cdef class Route:
    """Where every payload of a call goes, in this order; made by `Transmitter.route`."""

    cdef Transmitter owner
    cdef mcast_target *targets
    cdef size_t count

    def __dealloc__(self):
        free(self.targets)


@cython.final
cdef class Schedule:
    """Where each record of a recording goes, by its group and port, and when, by its timestamp; made by
    `Transmitter.schedule`."""

    cdef mcast_schedule schedule
    cdef Transmitter owner
    cdef uint32_t process

    def __cinit__(self):
        self.process = mcast_process_number

    def __dealloc__(self):
        if self.process == mcast_process_number:  # a fork may come in the middle of a call of another thread
            mcast_schedule_free(&self.schedule)

    def add(self, bytes group not None, int port, Route route not None):
        """Records of this group (16 bytes) and port go to the first target of the route from now on."""
        cdef int status
        cdef Transmitter owner = self.owned()
        cdef const char *packed = group
        owner.enter()
        try:
            if len(group) != 16 or not 0 <= port <= 0xffff or route.count == 0:
                raise ValueError("a route entry has a group of 16 bytes, a port, and a target")
            owner.check_route(route)
            with nogil:
                status = mcast_transmitter_route(&owner.transmitter, &self.schedule, <const unsigned char *>packed,
                                                 port, &route.targets[0])
            owner.refuse(status, "a route entry")
        finally:
            owner.leave()

    def start(self, int64_t origin, int64_t moment, double scale):
        """From now on a record is due at `moment` (ns, monotonic) + (its timestamp - `origin`) * `scale`, and not
        before its predecessor; `scale` 0: at the sender's own rate."""
        cdef int status
        cdef Transmitter owner = self.owned()
        owner.enter()
        try:
            if not 0 <= moment < 2**61 or not 0 <= scale <= 1e9:
                raise ValueError("the moment is at least 0, and the scale 0 to 1e9")
            with nogil:
                status = mcast_transmitter_start(&owner.transmitter, &self.schedule, origin, moment, scale)
            owner.refuse(status, "a schedule")
        finally:
            owner.leave()

    def lateness(self):
        """How late records left: (counts by the buckets of lateness.py, ns of the latest)."""
        cdef int i
        cdef uint64_t late[MCAST_LATE_BUCKETS]
        cdef int64_t latest
        cdef Transmitter owner = self.owned()
        owner.check_process()
        with nogil:
            mcast_transmitter_lateness(&owner.transmitter, &self.schedule, late, &latest)
        return [late[i] for i in range(MCAST_LATE_BUCKETS)], latest

    cdef Transmitter owned(self):
        if self.owner is None:
            raise ValueError("the schedule is of no sender")
        return self.owner


@cython.final
cdef class Transmitter:
    """What the sockets of one sender have in common: pace, counters, and one slice at a time.

    `ns_per_unit` is the time between two units, 0 for as fast as possible; a unit is a datagram or (`by_bits`) a bit of
    payload. `burst` datagrams leave together. `subject` is what errors call the sender. `when_idle` is called
    after close(), when no call is inside any more, so that the sockets may be closed; once more by the next close(),
    where an exception of a signal handler ended it."""

    cdef mcast_transmitter transmitter
    cdef str subject
    cdef object when_idle

    def __cinit__(self, str subject not None, double ns_per_unit, bint by_bits, uint64_t burst, when_idle=None):
        if burst == 0 or not ns_per_unit >= 0:
            raise ValueError("a burst is at least 1, and the time between two units at least 0")
        self.subject = subject
        if mcast_transmitter_open(&self.transmitter, ns_per_unit, by_bits, burst) != 0:
            raise MemoryError("no memory to send from")
        self.when_idle = when_idle

    def __dealloc__(self):
        mcast_transmitter_free(&self.transmitter)

    # ---- life cycle ----

    cdef int enter(self) except -1:
        """From here to `leave` the sockets stay open; ClosedError."""
        return self.refuse(mcast_transmitter_enter(&self.transmitter), "")

    cdef int leave(self) except -1:
        """The last one out of a closed sender has `when_idle` called."""
        return self.report_idle() if mcast_transmitter_leave(&self.transmitter) else 0

    cdef int report_idle(self) except -1:
        if self.when_idle is not None:
            self.when_idle()
            self.when_idle = None
        return 0

    cdef int refuse(self, int64_t status, str what) except -1:
        """Raises what a C function answered."""
        if status == MCAST_SEND_FOREIGN:
            raise ClosedError(f"{self.subject} was opened in another process")
        if status == MCAST_SEND_CLOSED:
            raise ClosedError(f"{self.subject} is closed")
        if status < 0:
            raise MemoryError(f"no memory for {what}")
        return 0

    cdef int check_process(self) except -1:
        return self.refuse(MCAST_SEND_FOREIGN if mcast_transmitter_is_foreign(&self.transmitter) else 0, "")

    def __enter__(self):
        self.enter()
        return self

    def __exit__(self, *_):
        self.leave()

    def inside(self):
        """A context manager for who uses the sockets; ClosedError when the sender is closed, or of another process.

        `settle()` has to follow it, whatever happens."""
        return self

    def settle(self):
        """After `inside()`: the last one out of a closed sender has `when_idle` called."""
        # Leaving does so already.

    def close(self):
        """Ends who sends (ClosedError), from any thread or signal handler; never waits."""
        if mcast_transmitter_close(&self.transmitter):
            self.report_idle()

    @property
    def closed(self):
        """Whether close() was called."""
        return bool(mcast_transmitter_is_closed(&self.transmitter))

    @property
    def foreign(self):
        """Whether another process opened the sender."""
        return bool(mcast_transmitter_is_foreign(&self.transmitter))

    # ---- sockets and routes ----

    def add(self, socket, size_t segment_limit):
        """The key of a socket; the kernel may segment into at most `limit` bytes, 0: not at all. ClosedError."""
        cdef int64_t key
        cdef int fd = socket.fileno()
        self.enter()
        try:
            with nogil:
                key = mcast_transmitter_add(&self.transmitter, fd, segment_limit)
            self.refuse(key, "a socket")
            return key
        finally:
            self.leave()

    def replace(self, size_t key, socket, size_t segment_limit):
        """Send by this socket under a key from now on: when it returns, the former one is unused. ClosedError."""
        cdef int status
        cdef int fd = socket.fileno()
        cdef mcast_sending_socket info
        self.enter()
        try:
            self.look(key, &info)
            with nogil:
                status = mcast_transmitter_replace(&self.transmitter, key, fd, segment_limit)
            self.refuse(status, "a socket")
        finally:
            self.leave()

    def route(self, list targets not None):
        """Targets are (key, packed group, port, interface index). ClosedError."""
        cdef Route route = Route.__new__(Route)
        cdef mcast_target *target
        cdef mcast_sending_socket info
        cdef bytes group
        cdef size_t key
        self.enter()
        try:
            route.owner = self
            route.targets = <mcast_target *>calloc(len(targets) or 1, sizeof(mcast_target))
            if route.targets == NULL:
                raise MemoryError("no memory for the targets")
            for key, group, port, scope in list(targets):
                if len(group) not in (4, 16):
                    raise ValueError("the group is a packed address")
                self.look(key, &info)
                target = &route.targets[route.count]
                target.socket = key
                target.size = mcast_destination(&target.address, <const uint8_t *><const char *>group,
                                                4 if len(group) == 4 else 6, port, scope)
                route.count += 1
            return route
        finally:
            self.leave()

    def schedule(self, uint16_t keep=0, uint8_t ttl=1, uint8_t tos=0):
        """An empty Schedule of this sender's. ClosedError.

        `keep`: bits of Flag, TTL and TOS: what of a record's its datagram has; else it has `ttl` and `tos`, which its
        sockets were opened with."""
        cdef Schedule schedule = Schedule.__new__(Schedule)
        schedule.schedule.keep, schedule.schedule.ttl, schedule.schedule.tos = keep, ttl, tos
        self.enter()
        self.leave()
        schedule.owner = self
        return schedule

    cdef int look(self, size_t key, mcast_sending_socket *info) except -1:
        """What a socket may do; IndexError."""
        if not mcast_transmitter_look(&self.transmitter, key, info):
            raise IndexError(f"no socket has the key {key}")
        return 0

    cdef int check_route(self, Route route) except -1:
        if route.owner is not self:
            raise ValueError("the route is of another sender")
        return 0

    # ---- sending ----

    cdef int begin(self, mcast_request *request, Route route, bint wait) except -1:
        """A request for a route, by someone who is inside."""
        self.check_route(route)
        memset(request, 0, sizeof(request[0]))
        request.targets, request.target_count, request.at_once = route.targets, route.count, not wait
        return 0

    def send(self, Route route not None, payloads, size_t first=0, bint wait=True):
        """Send bytes-like objects, each to every target of the route, without the `first` datagrams: (how many left,
        errno that stopped it or 0).

        Waits while a send buffer is full or the next is not due; without `wait` it answers EAGAIN or ENOBUFS instead,
        also when it has sent for a while. Raises ClosedError, TypeError before anything left, and what a handler of
        signals raises."""
        items = payloads if type(payloads) in (list, tuple) else tuple(payloads)
        cdef Py_ssize_t at = 0, count = len(items)
        cdef size_t sent = 0, skipped
        cdef mcast_request request
        cdef int status = 0
        if count > AT_ONCE:  # else they are looked at before the first leaves
            check_types(items)
        self.enter()
        try:
            self.begin(&request, route, wait)
            if route.count == 0:
                return 0, 0
            at, request.sent = <Py_ssize_t>(first // route.count), first % route.count
            while at < count and status == 0:
                skipped = request.sent
                # Held by a list of our own: another thread may change theirs. A cold line of memory for each is
                # touched once for a part, and not for the whole sequence again and again.
                status = self.send_some(&request, items[at:at + AT_ONCE])
                sent += request.sent - skipped
                request.sent = 0
                at += AT_ONCE
            return sent, -status
        finally:
            self.leave()

    cdef int send_some(self, mcast_request *request, items) except 1:
        """At most AT_ONCE items of a list or tuple that nobody changes, whose memory is held meanwhile."""
        cdef Py_buffer buffers[AT_ONCE]
        cdef iovec pieces[AT_ONCE]
        cdef Py_ssize_t held = 0, i, count = len(items)
        cdef PyObject **item = PySequence_Fast_ITEMS(items)
        try:
            for i in range(count):
                if PyBytes_CheckExact(item[i]):
                    pieces[i].iov_base = PyBytes_AS_STRING(item[i])
                    pieces[i].iov_len = <size_t>PyBytes_GET_SIZE(item[i])
                    continue
                check_type(<object>item[i])
                PyObject_GetBuffer(<object>item[i], &buffers[held], PyBUF_SIMPLE)
                pieces[i].iov_base = buffers[held].buf
                pieces[i].iov_len = <size_t>buffers[held].len
                held += 1
            request.payloads.pieces = pieces
            request.payloads.count = <size_t>count
            return self.run(request)
        finally:
            while held:
                held -= 1
                PyBuffer_Release(&buffers[held])

    def send_rows(self, Route route not None, buffer, size_t size, size_t first=0, bint wait=True):
        """As `send`, in rows of `size` bytes of one contiguous buffer, of which the last may be shorter."""
        cdef Py_buffer memory
        cdef mcast_request request
        if size == 0:
            raise ValueError("a row is at least one byte")
        PyObject_GetBuffer(buffer, &memory, PyBUF_SIMPLE)
        try:
            self.enter()
            try:
                self.begin(&request, route, wait)
                request.sent = first
                request.payloads.bytes = <unsigned char *>memory.buf
                request.payloads.length = <size_t>memory.len
                request.payloads.row = size
                request.payloads.count = request.payloads.length // size + (request.payloads.length % size != 0)
                status = self.run(&request)
                return request.sent - first, -status
            finally:
                self.leave()
        finally:
            PyBuffer_Release(&memory)

    def send_records(self, Route route not None, records, data, size_t first=0, bint wait=True):
        """As `send`, the payloads that records describe: each must lie within `data`, else ValueError."""
        cdef mcast_request request
        self.enter()
        try:
            self.begin(&request, route, wait)
            request.sent = first
            status = self.send_described(&request, records, data)
            return request.sent - first, -status
        finally:
            self.leave()

    def send_recorded(self, Schedule schedule not None, records, data, size_t first):
        """Send the payloads that records describe, from `first` on, each to where and when the schedule says: (how
        many left, errno that stopped it or 0).

        It stops too before a record of which the schedule does not say where it goes. Errors as `send_records`."""
        cdef mcast_request request
        if schedule.owner is not self:
            raise ValueError("the schedule is of another sender")
        self.enter()
        try:
            memset(&request, 0, sizeof(request))
            request.schedule, request.target_count, request.sent = &schedule.schedule, 1, first
            status = self.send_described(&request, records, data)
            return request.sent - first, -status
        finally:
            self.leave()

    cdef int send_described(self, mcast_request *request, records, data) except 1:
        """The payloads that records describe, whose memory is held meanwhile."""
        cdef Py_buffer rows
        cdef Py_buffer arena
        PyObject_GetBuffer(records, &rows, PyBUF_SIMPLE)
        try:
            PyObject_GetBuffer(data, &arena, PyBUF_SIMPLE)
            try:
                request.payloads.records = <const mcast_record *>rows.buf
                request.payloads.count = <size_t>rows.len // sizeof(mcast_record)
                request.payloads.bytes = <unsigned char *>arena.buf
                request.payloads.length = <size_t>arena.len
                if rows.len % sizeof(mcast_record) or not mcast_payloads_fit(&request.payloads):
                    raise ValueError("the records do not fit the data")
                return self.run(request)
            finally:
                PyBuffer_Release(&arena)
        finally:
            PyBuffer_Release(&rows)

    cdef int run(self, mcast_request *request) except 1:
        """Slice by slice, so that signals are seen and other threads have their turn: 0 or -errno."""
        cdef size_t total = request.payloads.count * request.target_count
        cdef int status = MCAST_SEND_MORE
        while status == MCAST_SEND_MORE:
            with nogil:
                status = mcast_send_slice(&self.transmitter, request, total)
            if status == MCAST_SEND_MORE:
                PyErr_CheckSignals()
                self.check_process()  # a handler may have forked
                if request.at_once:
                    return -EAGAIN
        if status == MCAST_SEND_CLOSED:
            self.refuse(status, "")
        return 0 if status == MCAST_SEND_UNKNOWN else status

    # ---- counters ----

    def counters(self):
        """So far: datagrams, bytes, system calls, would-blocks, retries; and the achieved rate, units per second (0.0:
        not known yet). Also after close(); ClosedError in another process."""
        cdef mcast_send_counters info
        cdef double rate
        self.check_process()
        with nogil:
            info = mcast_transmitter_counters(&self.transmitter, &rate)
        return info.datagrams, info.bytes, info.system_calls, info.would_blocks, info.retries, rate

    def refusal(self, size_t key):
        """What a socket's path has refused to segment: (largest segment that is still tried, errno or 0). As
        `counters`."""
        cdef mcast_sending_socket info
        self.check_process()
        self.look(key, &info)
        return info.limit, info.refusal


cdef int check_type(item) except -1:
    if not PyObject_CheckBuffer(item):
        raise TypeError(f"a bytes-like object is required, not {type(item).__name__!r}")
    return 0


cdef int check_types(items) except -1:
    """TypeError for the first that is no bytes-like object."""
    cdef Py_ssize_t i
    with cython.critical_section(items):
        for i in range(len(items)):
            if not PyBytes_CheckExact(PySequence_Fast_ITEMS(items)[i]):
                check_type(<object>PySequence_Fast_ITEMS(items)[i])
    return 0
