"""The receiver's core: sources in, batches out. The loop itself is c/receiver.c, and runs without the GIL."""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from mcast_fast._core import layout
from mcast_fast._core.coalescing import Change, CoalescingEvent, Mode
from mcast_fast._core.layout import Feature
from mcast_fast.errors import ClosedError, os_error, socket_error

SLOTS_FEATURES = features_of("batched_receive", "wire_length", "descriptor", "background", "background_cpu")
SLOTS_FEATURES["ring"] = Feature(bool(MCAST_HAS_RING), "" if MCAST_HAS_RING else "this system maps no ring of packets")
cdef enum:
    SLOTS = 128  # a system call fills at the most
    SLOTS_BYTES = 6 << 20  # all of them together; only what packets reach is ever touched


cdef int64_t deadline_of(int64_t timeout_ns):
    """The moment until which to wait, by the monotonic clock; -1 forever."""
    return -1 if timeout_ns < 0 else mcast_monotonic_ns() + timeout_ns


@cython.final
cdef class Slots(State):
    """Sources that are received from together. Iterates over batches until closed.

    `batch_size` packets per batch, of `max_packet_size` bytes at most; `coalescing`: when the kernel may hand over
    several packets as one (UDP_GRO), and then `coalesced_batch_size` packets per batch. `names` maps interface indexes
    to names, and goes with every batch: a change of names is a new dict. `subject` is what errors call the receiver.
    `timeout_ns` is how long an iteration waits, < 0 forever.

    Every call is made inside (`with slots:`); close() marks the receiver closed and wakes all that wait, and the last
    one out frees everything, and calls `when_idle`. In another process than the one that opened it, every call but
    close() raises ClosedError, and close() closes descriptors alone.

    After `defer()`, the next receive call, waits, or gets the descriptor calls `when_receiving` first, until
    `end_deferral()`."""

    cdef public object when_idle
    cdef public object when_receiving
    cdef str subject
    cdef int64_t timeout
    cdef bint opened

    def __cinit__(self, Py_ssize_t batch_size, Py_ssize_t max_packet_size, dict names, str subject,
                  int coalescing=0, Py_ssize_t coalesced_batch_size=0):
        cdef Py_ssize_t size = layout.MAX_PACKET_SIZE if coalescing == Mode.ALWAYS else max_packet_size
        cdef Py_ssize_t count = max(1, min(batch_size, SLOTS, SLOTS_BYTES // size))
        self.names = names
        self.subject = subject
        self.timeout = -1
        self.unread = []
        cdef int status = mcast_receiver_open(&self.receiver, shared_pool(), count, size)
        if status != 0:
            raise socket_error("open", subject, os_error(-status))
        self.receiver.packet_limit = max_packet_size
        self.receiver.batch_size = batch_size
        self.receiver.coalesced_batch_size = max(batch_size, coalesced_batch_size)
        self.receiver.coalescing.mode = <mcast_coalescing_mode>coalescing
        self.opened = True

    def __dealloc__(self):
        if not self.opened:
            return
        mcast_receiver_close(&self.receiver)
        mcast_receiver_tear_down(&self.receiver)
        mcast_receiver_free(&self.receiver)

    # ---- inside and out ----

    cdef int _enter(self) except -1:
        if not mcast_life_enter(&self.receiver.life):
            self._refuse_closed()
        return 0

    cdef int _leave(self) except -1:
        """Whoever is last out of a closed receiver frees everything."""
        if mcast_life_leave(&self.receiver.life):
            self._end()
        return 0

    cdef int _end(self) except -1:
        with nogil:
            mcast_receiver_tear_down(&self.receiver)
        self.unread.clear()
        idle, self.when_idle = self.when_idle, None
        if idle is None:
            return 0
        try:
            idle()
        except BaseException:
            idle()  # a signal's handler may have raised before its first line; each of its steps can be done again
            raise
        return 0

    def inside(self):
        """What is entered for the time of a use: `try: with slots.inside(): slots.check(); … finally: slots.settle()`.

        The fast backend needs no more than this; the pure one is entered by a lock of C: no signal comes between."""
        return self

    def check(self):
        """ClosedError when the receiver is closed or another process's; to be called inside."""

    def settle(self):
        """The end of a use: the last one out of what was closed frees it."""

    def __enter__(self):
        self._enter()
        return self

    def __exit__(self, *_):
        self._leave()

    cdef int _refuse_closed(self) except -1:
        if mcast_life_is_foreign(&self.receiver.life):
            raise ClosedError(f"{self.subject} was opened in another process")
        raise ClosedError(f"{self.subject} is closed")

    cdef int _refuse(self, str operation, int error) except -1:
        subject = f"by {self.subject}" if operation == "receive" else self.subject
        raise socket_error(operation, subject, os_error(error))

    def close(self):
        """Mark the receiver closed, and wake all that wait: they get ClosedError; the last one out frees everything.

        That is this call when no call is inside. From any thread and from a signal handler. The sockets stay open."""
        cdef int first
        with nogil:
            first = mcast_receiver_close(&self.receiver)
        if not first:
            return
        if mcast_life_is_foreign(&self.receiver.life):
            self._end()  # whoever was inside is in the other process
        else:
            self._leave()

    @property
    def closed(self):
        """Whether close() was called."""
        return bool(mcast_life_is_closed(&self.receiver.life))

    @property
    def foreign(self):
        """Whether another process opened it."""
        return bool(mcast_life_is_foreign(&self.receiver.life))

    # ---- what is received ----

    def run_in_background(self, size_t limit, int cpu):
        """Receive in a thread of its own from now on, of which `limit` bytes may wait for a receive call; before
        anything is received. `cpu`: where it runs, -1 anywhere. SocketError."""
        self._enter()
        try:
            status = mcast_background_open(&self.receiver, limit, cpu)
            if status != 0:
                self._refuse("open", -status)
        finally:
            self._leave()

    def track(self, Tracker tracker not None):
        """Have a tracker see every packet once, as it is received; before anything is."""
        self._enter()
        try:
            mcast_receiver_track(&self.receiver, tracker.tracker)
        finally:
            self._leave()

    def add(self, socket, int port, bytes group, uint32_t interface, decider=None, bint used=False):
        """Receive from this socket too; the key by which it is named from now on.

        Every packet of it has this port; `group` (16 bytes; zeros = reported with each packet) and `interface` (0 =
        reported) are what its binding implies. `decider`: a socket that can be bound alike to decide whether packets
        are coalesced (c/coalescing.h). Both stay their opener's. `used`: the socket may have dropped packets before,
        which are not counted."""
        cdef mcast_record implied
        cdef int64_t key
        cdef int fd = socket.fileno()
        cdef int deciding = -1 if decider is None else decider.fileno()
        if len(group) != 16:
            raise ValueError("the group is a packed address of 16 bytes")
        memset(&implied, 0, sizeof(implied))
        implied.port = port
        implied.interface_index = interface
        memcpy(implied.group, <const char *>group, 16)
        self._enter()
        try:
            with nogil:
                key = mcast_receiver_add_socket(&self.receiver, fd, deciding, used, &implied)
            if key < 0:
                self._refuse("open", <int>-key)
            return key
        finally:
            self._leave()

    def hand_over(self, uint64_t key, uint64_t heir):
        """The decider of a socket that will be removed is that of another one, which is bound alike, from now on.

        After close() there is nothing to hand over."""
        if not mcast_life_enter(&self.receiver.life):
            return
        try:
            with nogil:
                mcast_receiver_hand_over(&self.receiver, key, heir)
        finally:
            self._leave()

    def add_ring(self, socket, uint32_t interface, Py_ssize_t block_size, uint32_t blocks, unsigned latency_ms,
                 bint times, int delivers=0):
        """Map a ring over a packet socket that is not bound yet, and receive from it too; its key.

        Every packet came by `interface`. A block of `block_size` bytes is handed over when it is full, or `latency_ms`
        after its first packet; `times`: whether records have the time of arrival; `delivers`: see
        layout.RING_DELIVERS. Nothing passes before a `listen`."""
        cdef int64_t key
        cdef int fd = socket.fileno()
        self._enter()
        try:
            with nogil:
                key = mcast_receiver_add_ring(&self.receiver, fd, interface, block_size, blocks, latency_ms, times,
                                              delivers)
            if key < 0:
                raise os_error(-key)
            return key
        finally:
            self._leave()

    def listen(self, uint64_t ring, uint16_t port):
        """Receive from the ring of this key what goes to a port; the key by which to `accept` and `remove` it."""
        cdef int64_t key
        self._enter()
        try:
            with nogil:
                key = mcast_receiver_listen(&self.receiver, ring, port)
            if key < 0:
                self._refuse("open", <int>-key)
            return key
        finally:
            self._leave()

    def remove(self, uint64_t key):
        """Receive from this socket no more; what is queued there counts as filtered. The socket stays open.

        After close() there is nothing to remove."""
        if not mcast_life_enter(&self.receiver.life):
            return
        try:
            with nogil:
                mcast_receiver_remove(&self.receiver, key)
            self._filter_unread()
        finally:
            self._leave()

    def accept(self, uint64_t key, entries):
        """What may be delivered from this socket from now on: None = everything, else rows.

        A row is (group, interface, exclude, sources), each group and interface once; addresses have 16 bytes;
        interface 0 = any; `exclude` says that the sources are those not wanted."""
        cdef mcast_filter new
        cdef int status
        open_filter(&new, [(group, interface, bool(exclude), list(sources))
                           for group, interface, exclude, sources in entries or ()])
        new.everything = entries is None
        self._enter_with(&new)
        try:
            with nogil:
                status = mcast_receiver_accept(&self.receiver, key, &new)
            if status != 0:
                raise MemoryError("no memory for a filter")
            self._filter_unread()
        finally:
            self._leave()

    def refuse_own(self, addresses):
        """Deliver nothing from now on that comes from one of these addresses and from the port that it goes to.

        An address is (16 bytes, interface), interface 0 = any; such packets count as filtered. None at all: deliver
        them."""
        cdef mcast_filter new
        cdef list rows = [(address, interface, False, []) for address, interface in addresses]
        if rows:
            open_filter(&new, rows)
        else:
            memset(&new, 0, sizeof(new))
        self._enter_with(&new)
        try:
            with nogil:
                mcast_receiver_refuse_own(&self.receiver, &new)
            self._filter_unread()
        finally:
            self._leave()

    cdef int _enter_with(self, mcast_filter *new) except -1:
        """Enter with a filter, which is freed where that is refused."""
        try:
            return self._enter()
        except BaseException:
            mcast_filter_free(new)
            raise

    # ---- what is deferred ----

    def defer(self):
        """Have `when_receiving` called before the next wait; False when a call may be receiving already."""
        cdef int alone
        self._enter()
        try:
            with nogil:
                alone = mcast_receiver_defer(&self.receiver)
            return alone != 0
        finally:
            self._leave()

    def end_deferral(self):
        """What was deferred is done."""
        self._enter()
        try:
            with nogil:
                mcast_receiver_end_deferral(&self.receiver)
        finally:
            self._leave()

    cdef int _do_deferred(self) except -1:
        if mcast_word_load(&self.receiver.deferred) and self.when_receiving is not None:
            self.when_receiving()
        return 0

    # ---- receiving ----

    def receive(self, Py_ssize_t limit, int64_t timeout_ns):
        """A batch of 1..limit packets; timeout_ns < 0 waits forever.

        Raises TimeoutError when none came in time, ClosedError, SocketError."""
        cdef Batch batch = self._receive(limit, limit, timeout_ns)
        self._deliver(batch)
        return batch

    def receive_one(self, int64_t timeout_ns):
        """One packet; what came with it stays unread for the next call. Errors as `receive`."""
        cdef Batch batch = self._receive(<Py_ssize_t>mcast_receiver_batch_size(&self.receiver), 1, timeout_ns)
        cdef Packet packet = make_packet(batch, 0)
        self._hear_signals(batch)
        return packet

    cdef int _deliver(self, Batch batch) except -1:
        """Counts a batch that is about to be returned, unless a signal's handler raises."""
        mcast_receiver_count_delivered(&self.receiver, <size_t>batch.count)
        return self._hear_signals(batch)

    cdef int _hear_signals(self, Batch batch) except -1:
        """Run the handlers of signals that came meanwhile: when one raises, what was to be returned stays unread."""
        try:
            return PyErr_CheckSignals()
        except BaseException:
            if batch.count > 0:
                self._unread(batch)
            raise

    cdef Batch _receive(self, Py_ssize_t ahead, Py_ssize_t limit, int64_t timeout_ns):
        """As `receive`; up to `ahead` packets are received at once, and what is beyond `limit` stays unread."""
        cdef mcast_batch batch
        cdef mcast_outcome outcome
        cdef int64_t deadline
        cdef Batch whole
        self._enter()
        try:
            self._do_deferred()
            whole = self._take(limit)
            if whole is not None:
                return whole
            deadline = deadline_of(timeout_ns)
            mcast_batch_begin(&self.receiver, &batch, False)
            try:
                while True:
                    outcome = self._fill(&batch, ahead, deadline)
                    if outcome == MCAST_TIMEOUT:
                        raise TimeoutError(f"no packet came within {timeout_ns / 1e9:g} s")
                    if outcome == MCAST_CLOSED:
                        self._refuse_closed()
                    if outcome == MCAST_OK:
                        whole = self._finish(&batch)
                        if whole.count > 0:  # none is left where the filters changed meanwhile
                            return self._cut(whole, limit, batch.epoch)
                    whole = self._take(limit)
                    if whole is not None:
                        return whole
            finally:
                self._return(&batch)
        finally:
            self._leave()

    def collect(self, Py_ssize_t limit, int64_t timeout_ns):
        """A batch of `limit` packets; or of those that came in time or before the close (maybe none).

        It ends early when the 4 GiB of its arena are full. When a signal's handler raises, what was collected stays
        unread for the next call."""
        cdef mcast_batch batch
        cdef mcast_outcome outcome = MCAST_OK
        cdef Batch whole
        cdef int64_t deadline = deadline_of(timeout_ns)
        self._enter()
        try:
            self._do_deferred()
            mcast_batch_begin(&self.receiver, &batch, True)
            try:
                while outcome != MCAST_TIMEOUT and mcast_batch_has_room(&self.receiver, &batch, limit):
                    whole = self._take(limit - <Py_ssize_t>mcast_batch_count(&batch))
                    if whole is not None:
                        if not self._copy(&batch, whole):
                            self._unread(whole)
                            break
                        continue
                    outcome = self._fill(&batch, limit, deadline)
                    if outcome == MCAST_FULL or (outcome == MCAST_CLOSED and mcast_batch_count(&batch) > 0):
                        break
                    if outcome == MCAST_CLOSED:
                        self._refuse_closed()
                whole = self._finish(&batch)
                whole = self._cut(whole, limit, batch.epoch)
                self._deliver(whole)
                return whole
            finally:
                self._return(&batch)
        finally:
            self._leave()

    def wait(self, int64_t timeout_ns):
        """Whether there is something to receive, by then; takes nothing, so that it may turn out to be unwanted.

        Another thread may receive meanwhile."""
        cdef int64_t deadline = deadline_of(timeout_ns)
        cdef mcast_result result
        self._enter()
        try:
            self._watch()
            while True:
                with nogil:
                    result = mcast_receiver_wait(&self.receiver, deadline)
                if result.outcome == MCAST_OK or result.outcome == MCAST_TIMEOUT:
                    return result.outcome == MCAST_OK
                if result.outcome == MCAST_CLOSED:
                    self._refuse_closed()
                if result.outcome == MCAST_FAILED:
                    self._refuse("receive", result.error)
                PyErr_CheckSignals()
        finally:
            self._leave()

    def give_back(self, batches):
        """Batches that were received here come once more, before anything else, as far as they are still wanted."""
        cdef Batch one
        cdef list again = list(batches)
        if not all(isinstance(one, Batch) for one in again):
            raise TypeError("only batches can be given back")
        self._enter()
        try:
            with cython.critical_section(self):
                self.unread[:0] = [one for one in again if one.count > 0]
                self._show_unread()
            self._filter_unread()
        finally:
            self._leave()

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return self.receive(<Py_ssize_t>mcast_receiver_batch_size(&self.receiver), self.timeout_ns)
        except ClosedError:
            if mcast_life_is_foreign(&self.receiver.life):
                raise
            raise StopIteration from None

    cdef mcast_outcome _fill(self, mcast_batch *batch, size_t limit, int64_t deadline) except? MCAST_FAILED:
        """One round of the C loop, and Python's signal handlers."""
        cdef mcast_result result
        with nogil:
            result = mcast_receiver_receive(&self.receiver, batch, limit, deadline)
        if result.outcome == MCAST_FAILED:
            self._refuse("receive", result.error)
        if mcast_flag_is_set(&self.receiver.has_rings) and mcast_flag_is_set(&self.receiver.watched):
            with nogil:
                mcast_receiver_show_rings(&self.receiver)
        PyErr_CheckSignals()
        return result.outcome

    # ---- state ----

    @property
    def timeout_ns(self):
        """How long an iteration waits, < 0 forever."""
        with cython.critical_section(self):
            return self.timeout

    @timeout_ns.setter
    def timeout_ns(self, int64_t value):
        with cython.critical_section(self):
            self.timeout = value

    cdef _watch(self):
        """From now on the descriptor shows what rings hold, too: a system call per batch, which most never need."""
        self._do_deferred()
        if not mcast_flag_is_set(&self.receiver.watched):
            mcast_flag_set(&self.receiver.watched)
            with nogil:
                mcast_receiver_show_rings(&self.receiver)

    @property
    def batch_size(self):
        """Packets per batch at the most, where a receive does not say otherwise."""
        return mcast_receiver_batch_size(&self.receiver)

    @property
    def coalescing_window(self):
        """For how many ns pressure and calm are looked at together (c/coalescing.h); a test makes it short."""
        return self.receiver.coalescing.window

    @coalescing_window.setter
    def coalescing_window(self, int64_t window):
        self.receiver.coalescing.window = max(1, window)

    def coalescing_events(self):
        """What happened to coalescing since the last call, the oldest first. After close() too."""
        cdef mcast_coalescing_event one
        cdef list found = []
        if mcast_life_is_foreign(&self.receiver.life):
            self._refuse_closed()
        while mcast_receiver_take_coalescing_event(&self.receiver, &one):
            found.append(CoalescingEvent(one.time, Change(one.what), one.error, one.key, one.backlog, one.buffer,
                                         one.rate))
        return found

    def counters(self):
        """Totals since the opening, by the names of the loss ledger; `dropped_socket` is None where the system does not
        report it. After close() too."""
        cdef mcast_counters found
        if mcast_life_is_foreign(&self.receiver.life):
            self._refuse_closed()
        with nogil:
            found = mcast_receiver_counters(&self.receiver)
        cdef dict counters = found
        if not MCAST_REPORTS_DROPS:
            counters["dropped_socket"] = None
        return counters

    def fileno(self):
        """One descriptor, readable when a receive would not wait."""
        self._enter()
        try:
            number = mcast_receiver_descriptor(&self.receiver)
            self._watch()
            return number
        finally:
            self._leave()
