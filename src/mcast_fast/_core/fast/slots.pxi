"""The receiver's core: sockets in, batches out. The loop itself is `mcast_receive` in c/receive.h, and runs without the
GIL."""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from mcast_fast._core import layout
from mcast_fast._core.layout import Feature
from mcast_fast.errors import ClosedError, os_error, socket_error

cdef extern from "background.h":
    ctypedef struct mcast_counters:
        uint64_t received
        uint64_t bytes
        uint64_t truncated
        uint64_t filtered
        uint64_t fragments
        uint64_t dropped_ring
        uint64_t detached
        uint64_t batches
        uint64_t largest_batch
        uint64_t wakeups
        uint64_t dropped_memory
        uint64_t buffers
    ctypedef struct mcast_batch:
        mcast_memory records
        mcast_memory data
        uint64_t epoch
        mcast_lease *lease
        int copies
    ctypedef int mcast_flag
    ctypedef struct mcast_slots:
        mcast_pool *pool
        mcast_flag ringed
        mcast_flag watched
        mcast_flag closed
    int MCAST_HAS_RING
    int MCAST_BATCH
    int MCAST_TIMEOUT
    int MCAST_CLOSED
    int MCAST_INTERRUPTED
    int MCAST_WOKEN
    void mcast_flag_set(mcast_flag *flag) nogil
    int mcast_flag_is_set(const mcast_flag *flag) nogil
    int64_t mcast_monotonic_ns() nogil
    size_t mcast_batch_count(const mcast_batch *batch) nogil
    void mcast_batch_free(mcast_pool *pool, mcast_batch *batch) nogil
    int mcast_has_room(const mcast_slots *slots, const mcast_batch *batch, size_t limit) nogil
    int mcast_receive(mcast_slots *slots, mcast_batch *batch, size_t limit, int64_t deadline) nogil
    int mcast_wait(mcast_slots *slots, int64_t deadline) nogil
    int mcast_append(mcast_pool *pool, mcast_batch *batch, const mcast_record *record,
                     const unsigned char *payload) nogil
    size_t mcast_refilter(mcast_slots *slots, mcast_record *records, size_t count) nogil
    void mcast_finish_batch(mcast_slots *slots, mcast_batch *batch) nogil
    int mcast_slots_open(mcast_slots *slots, mcast_pool *pool, unsigned count, size_t size, size_t packet_limit) nogil
    void mcast_slots_close(mcast_slots *slots) nogil
    void mcast_slots_free(mcast_slots *slots) nogil
    int64_t mcast_slots_add(mcast_slots *slots, int fd, const mcast_record *implied) nogil
    int64_t mcast_slots_add_ring(mcast_slots *slots, int fd, uint32_t interface_index, size_t block_size,
                                 uint32_t count, unsigned latency_ms, int times) nogil
    int64_t mcast_slots_listen(mcast_slots *slots, uint64_t ring_key, uint16_t port) nogil
    void mcast_slots_leave_over(mcast_slots *slots, int change) nogil
    void mcast_slots_remove(mcast_slots *slots, uint64_t key) nogil
    void mcast_slots_accept(mcast_slots *slots, uint64_t key, mcast_filter *filter) nogil
    uint64_t mcast_slots_epoch(mcast_slots *slots) nogil
    int mcast_slots_descriptor(mcast_slots *slots) nogil
    mcast_counters mcast_slots_counters(mcast_slots *slots) nogil
    ctypedef struct mcast_background:
        mcast_slots *slots
    int mcast_background_open(mcast_background *background, mcast_slots *slots, size_t limit, size_t batch_size,
                              int cpu) nogil
    int mcast_background_receive(mcast_background *background, mcast_batch *batch, int64_t deadline) nogil
    int mcast_background_wait(mcast_background *background, int64_t deadline) nogil
    void mcast_background_leave_over(mcast_background *background, int change) nogil
    int mcast_background_descriptor(mcast_background *background) nogil
    uint64_t mcast_background_dropped(mcast_background *background) nogil
    void mcast_background_close(mcast_background *background) nogil
    void mcast_background_free(mcast_background *background) nogil

SLOTS_FEATURES = features_of("batched_receive", "wire_length", "descriptor", "background", "background_cpu")
SLOTS_FEATURES["ring"] = Feature(bool(MCAST_HAS_RING), "" if MCAST_HAS_RING else "this system maps no ring of packets")
cdef enum:
    SLOTS = 128  # a system call fills at the most
    SLOTS_BYTES = 6 << 20  # all of them together; only what packets reach is ever touched


cdef int fill_filter(mcast_filter *filter, list rows) except -1:
    """Copies rows, whose lengths are checked, into a filter that has room for them."""
    cdef mcast_entry entry
    cdef bytes group, source
    cdef uint32_t at = 0
    for group, interface, exclude, sources in rows:
        memcpy(entry.group, <const char *>group, 16)
        entry.interface_index = interface
        entry.exclude = exclude
        entry.first_source = at
        entry.sources = len(sources)
        for source in sources:
            memcpy(&filter.sources[at][0], <const char *>source, 16)
            at += 1
        mcast_filter_add(filter, &entry)
    return 0


cdef int64_t deadline_of(int64_t timeout_ns):
    """The moment until which to wait, by the monotonic clock; -1 for ever."""
    return -1 if timeout_ns < 0 else mcast_monotonic_ns() + timeout_ns


@cython.final
cdef class Slots:
    """Sockets that are received from together, and the slots they are read into. Iterates over batches until closed.

    `batch_size` packets a batch, of `max_packet_size` bytes at the most; `coalesced`: the kernel may hand over several
    packets as one (UDP_GRO). `names` maps interface indexes to the names they had at opening, and goes with every
    batch; `subject` is what errors call the receiver. `timeout_ns` is how long an iteration waits, < 0 for ever."""

    cdef mcast_slots slots
    cdef mcast_background background  # its slots are NULL without a thread
    cdef public dict names  # another one is put here on a change: batches keep the one they came with
    cdef str subject
    cdef Py_ssize_t batch_size
    # Batches: what was received beyond what was asked for, the oldest first. Threads change it in critical sections
    # (a GIL is one, where there is one), and tell the C afterwards by how many: whose news comes first is all the same.
    cdef list leftovers
    cdef int64_t timeout

    def __cinit__(self, Py_ssize_t batch_size, Py_ssize_t max_packet_size, dict names, str subject,
                  bint coalesced=False):
        cdef Py_ssize_t size = layout.MAX_PACKET_SIZE if coalesced else max_packet_size
        cdef Py_ssize_t count = max(1, min(batch_size, SLOTS, SLOTS_BYTES // size))
        memset(&self.slots, 0, sizeof(self.slots))
        memset(&self.background, 0, sizeof(self.background))
        self.names = names
        self.subject = subject
        self.batch_size = batch_size
        self.timeout = -1
        self.leftovers = []
        cdef int status = mcast_slots_open(&self.slots, shared_pool(), count, size, max_packet_size)
        if status != 0:
            mcast_flag_set(&self.slots.closed)
            self._refuse("open", status)

    def __dealloc__(self):
        mcast_background_free(&self.background)
        mcast_slots_free(&self.slots)

    def run_in_background(self, size_t limit, int cpu):
        """Receive in a thread of its own from now on, of which `limit` bytes may wait for who receives here; before
        anything is received. `cpu`: where it runs, -1 anywhere. SocketError."""
        self._check_open()
        cdef int status = mcast_background_open(&self.background, &self.slots, limit, self.batch_size, cpu)
        if status != 0:
            self._refuse("open", status)

    def add(self, socket, int port, bytes group, uint32_t interface):
        """Receive from this socket too; the key by which it is named from now on.

        Every packet of it has this port; `group` (16 bytes; zeros = told by each packet) and `interface` (0 = told) are
        what its binding implies."""
        cdef mcast_record implied
        if len(group) != 16:
            raise ValueError("the group is a packed address of 16 bytes")
        memset(&implied, 0, sizeof(implied))
        implied.port = port
        implied.interface_index = interface
        memcpy(implied.group, <const char *>group, 16)
        self._check_open()
        cdef int64_t key = mcast_slots_add(&self.slots, socket.fileno(), &implied)
        if key < 0:
            self._refuse("open", key)
        return key

    def add_ring(self, socket, uint32_t interface, Py_ssize_t block_size, uint32_t blocks, unsigned latency_ms, times):
        """Map a ring over a packet socket that is not bound yet, and receive from it too; its key.

        Every packet came by `interface`. A block of `block_size` bytes is handed over when it is full, or `latency_ms`
        after its first packet; `times`: whether records tell when packets arrived. Nothing passes before a `listen`."""
        self._check_open()
        cdef int64_t key = mcast_slots_add_ring(
            &self.slots, socket.fileno(), interface, block_size, blocks, latency_ms, bool(times)
        )
        if key < 0:
            raise os_error(-key)
        return key

    def listen(self, uint64_t ring, uint16_t port):
        """Receive from the ring of this key what goes to a port; the key by which to `accept` and `remove` it."""
        self._check_open()
        cdef int64_t key = mcast_slots_listen(&self.slots, ring, port)
        if key < 0:
            self._refuse("open", key)
        return key

    def remove(self, uint64_t key):
        """Receive from this socket no more; what is queued there counts as filtered. The socket stays open."""
        with nogil:
            mcast_slots_remove(&self.slots, key)
        self._recheck()

    def accept(self, uint64_t key, entries):
        """What may be delivered from this socket from now on: None = everything, else rows.

        A row is (group, interface, exclude, sources), each group and interface once; addresses have 16 bytes;
        interface 0 = any; `exclude` says that the sources are those not wanted."""
        cdef mcast_filter new
        cdef list rows = [(group, interface, bool(exclude), list(sources))
                          for group, interface, exclude, sources in entries or ()]
        if any(len(address) != 16 for group, _, _, sources in rows for address in (group, *sources)):
            raise ValueError("groups and sources are packed addresses of 16 bytes")
        if mcast_filter_open(&new, len(rows), sum(len(sources) for _, _, _, sources in rows)) != 0:
            raise MemoryError("no memory for a filter")
        new.everything = entries is None
        try:
            fill_filter(&new, rows)
        except BaseException:
            mcast_filter_free(&new)
            raise
        with nogil:
            mcast_slots_accept(&self.slots, key, &new)
        self._recheck()

    def receive(self, Py_ssize_t limit, int64_t timeout_ns):
        """A batch of 1..limit packets; timeout_ns < 0 waits for ever.

        Raises TimeoutError when none came in time, ClosedError, SocketError."""
        return self._receive(limit, limit, timeout_ns)

    cdef Batch _receive(self, Py_ssize_t ahead, Py_ssize_t limit, int64_t timeout_ns):
        """As `receive`; up to `ahead` packets are received at once, and what is beyond `limit` is left over."""
        cdef mcast_batch batch
        cdef int64_t deadline = deadline_of(timeout_ns)
        cdef Batch whole = self._take(limit)
        cdef int status
        memset(&batch, 0, sizeof(batch))
        while whole is None:
            status = self._fill(&batch, ahead, deadline)
            if status == MCAST_TIMEOUT:
                raise TimeoutError(f"no packet came within {timeout_ns / 1e9:g} s")
            if status == MCAST_BATCH:
                whole = self._finish(&batch)
                if whole.count > 0:  # none is left where the filters changed meanwhile
                    return self._cut(whole, limit, batch.epoch)
            whole = self._take(limit)
        return whole

    def receive_one(self, int64_t timeout_ns):
        """One packet; what came with it is left over for the next call. Errors as `receive`."""
        return make_packet(self._receive(self.batch_size, 1, timeout_ns), 0)

    def collect(self, Py_ssize_t limit, int64_t timeout_ns):
        """A batch of `limit` packets; or of those that came in time or before the close (maybe none).

        It ends early when the 4 GiB of its arena are full."""
        cdef mcast_batch batch
        cdef Batch whole
        cdef int status = MCAST_BATCH
        cdef int64_t deadline = deadline_of(timeout_ns)
        memset(&batch, 0, sizeof(batch))
        batch.copies = True
        self._check_open()
        while status != MCAST_TIMEOUT and mcast_has_room(&self.slots, &batch, limit):
            whole = self._take(limit - <Py_ssize_t>mcast_batch_count(&batch))
            if whole is not None:
                self._copy(&batch, whole)
            else:
                status = self._fill(&batch, limit, deadline)
        whole = self._finish(&batch)
        return self._cut(whole, limit, batch.epoch)

    def wait(self, int64_t timeout_ns):
        """Whether there is something to receive, by then; takes nothing, so that it may turn out to be unwanted.

        Another thread may receive meanwhile."""
        cdef int64_t deadline = deadline_of(timeout_ns)
        cdef int status = MCAST_INTERRUPTED
        self._watch()
        while status == MCAST_INTERRUPTED:
            with nogil:
                if self.background.slots != NULL:
                    status = mcast_background_wait(&self.background, deadline)
                else:
                    status = mcast_wait(&self.slots, deadline)
            if status == MCAST_INTERRUPTED:
                PyErr_CheckSignals()
        if status < 0:
            self._refuse("receive", status)
        return status != MCAST_TIMEOUT

    def give_back(self, batches):
        """Batches that were received here come once more, before anything else, as far as they are still wanted."""
        self._check_open()
        cdef Batch again = Batch.concatenate(batches)
        cdef uint64_t epoch = mcast_slots_epoch(&self.slots)
        again.count = <Py_ssize_t>mcast_refilter(&self.slots, again.first, again.count)
        if again.count > 0:
            self._leave_over(again, epoch)

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return self._receive(self.batch_size, self.batch_size, self.timeout_ns)
        except ClosedError:
            raise StopIteration from None

    cdef int _fill(self, mcast_batch *batch, size_t limit, int64_t deadline) except? -1:
        """One round of the C loop, and Python's signal handlers whenever a signal came."""
        cdef int status = MCAST_INTERRUPTED
        while status == MCAST_INTERRUPTED:
            if mcast_flag_is_set(&self.slots.closed):
                status = MCAST_CLOSED
                break
            with nogil:
                if self.background.slots != NULL:
                    status = mcast_background_receive(&self.background, batch, deadline)
                else:
                    status = mcast_receive(&self.slots, batch, limit, deadline)
            if status == MCAST_INTERRUPTED:
                try:
                    PyErr_CheckSignals()
                except BaseException:
                    mcast_batch_free(self.slots.pool, batch)
                    raise
        if status == MCAST_CLOSED and mcast_batch_count(batch) > 0:
            return MCAST_TIMEOUT  # what came before the close is delivered
        if status < 0 and status != MCAST_WOKEN:
            mcast_batch_free(self.slots.pool, batch)
            self._refuse("receive", status)
        if mcast_flag_is_set(&self.slots.ringed) and mcast_flag_is_set(&self.slots.watched):
            self._tell(0)
        return status

    cdef int _copy(self, mcast_batch *batch, Batch first) except -1:
        """Starts a batch with the packets of another."""
        cdef Py_ssize_t i = 0
        cdef int pinned
        cdef const unsigned char *data = arena_in_place(first, &pinned)
        while i < first.count and mcast_append(self.slots.pool, batch, first.first + i,
                                               data + first.first[i].offset) == 0:
            i += 1
        arena_left(first, pinned)
        if i < first.count:
            mcast_batch_free(self.slots.pool, batch)
            raise MemoryError("no memory for a batch")
        return 0

    cdef Batch _finish(self, mcast_batch *batch):
        """What was received, as a batch; of `batch` only the epoch is left."""
        mcast_finish_batch(&self.slots, batch)
        cdef uint64_t epoch = batch.epoch
        cdef Batch whole
        if batch.lease == NULL:
            whole = take_over(&batch.records, &batch.data, self.names)
        else:
            whole = take_over_lease(&batch.records, batch.lease, self.names)
            memset(batch, 0, sizeof(batch[0]))
        batch.epoch = epoch
        return whole

    cdef Batch _take(self, Py_ssize_t limit):
        """At most `limit` packets of what is left over; None where nothing is."""
        cdef Batch taken = None
        cdef int change = 0
        with cython.critical_section(self):
            if self.leftovers and not mcast_flag_is_set(&self.slots.closed):
                taken = self.leftovers[0]
                if taken.count > limit:
                    self.leftovers[0] = make_part(taken, limit, taken.count)
                    taken = make_part(taken, 0, limit)
                else:
                    del self.leftovers[0]
                    change = -1
        if change:
            self._tell(change)
        return taken

    cdef Batch _cut(self, Batch batch, Py_ssize_t limit, uint64_t epoch):
        """The first `limit` packets of a batch that passed the filters of this epoch; what is beyond is left over."""
        if batch.count <= limit:
            return batch
        self._leave_over(make_part(batch, limit, batch.count), epoch)
        return make_part(batch, 0, limit)

    cdef _leave_over(self, Batch batch, uint64_t epoch):
        """A batch of at least one packet that passed the filters of this epoch is left over."""
        with cython.critical_section(self):
            self.leftovers.insert(0, batch)
        self._tell(1)
        if mcast_slots_epoch(&self.slots) != epoch:
            self._recheck()

    cdef _recheck(self):
        """Take out of what is left over what is no longer wanted."""
        cdef Batch left
        cdef list kept = []
        cdef int change = 0
        with cython.critical_section(self):
            for left in self.leftovers:
                left.count = <Py_ssize_t>mcast_refilter(&self.slots, left.first, left.count)
                if left.count:
                    kept.append(left)
            change = <int>(len(kept) - len(self.leftovers))
            self.leftovers[:] = kept
        if change:
            self._tell(change)

    cdef _tell(self, int change):
        """So many batches more (or fewer) are left over: as long as there are any, here or in a ring, the descriptor is
        readable, and who waits is woken."""
        with nogil:
            if self.background.slots != NULL:
                mcast_background_leave_over(&self.background, change)
            else:
                mcast_slots_leave_over(&self.slots, change)

    @property
    def timeout_ns(self):
        """How long an iteration waits, < 0 for ever."""
        with cython.critical_section(self):
            return self.timeout

    @timeout_ns.setter
    def timeout_ns(self, int64_t value):
        with cython.critical_section(self):
            self.timeout = value

    cdef _watch(self):
        """From now on the descriptor tells what rings hold, too: a system call a batch, which most never need."""
        if not mcast_flag_is_set(&self.slots.watched):
            mcast_flag_set(&self.slots.watched)
            self._tell(0)

    def counters(self):
        """Totals since the opening, by the names of the loss ledger."""
        cdef dict counters = mcast_slots_counters(&self.slots)
        if self.background.slots != NULL:
            counters["dropped_memory"] += mcast_background_dropped(&self.background)
        return counters

    def fileno(self):
        """One descriptor, readable when a receive would not wait."""
        cdef int number
        with nogil:
            if self.background.slots != NULL:
                number = mcast_background_descriptor(&self.background)
            else:
                number = mcast_slots_descriptor(&self.slots)
        self._check_open()
        self._watch()
        return number

    def close(self):
        """Wake who receives in another thread, wait until it has left, and give everything back.

        The sockets stay open."""
        with nogil:
            mcast_background_close(&self.background)
            mcast_slots_close(&self.slots)
        self.leftovers.clear()

    @property
    def closed(self):
        """Whether close() was called."""
        return bool(mcast_flag_is_set(&self.slots.closed))

    cdef int _check_open(self) except -1:
        if mcast_flag_is_set(&self.slots.closed):
            raise ClosedError(f"{self.subject} is closed")
        return 0

    cdef int _refuse(self, str operation, int64_t status) except -1:
        """Raises what a C function answered: MCAST_CLOSED or -errno."""
        if status == MCAST_CLOSED:
            raise ClosedError(f"{self.subject} is closed")
        subject = f"by {self.subject}" if operation == "receive" else self.subject
        raise socket_error(operation, subject, os_error(-status))
