"""What a receiver has received and not delivered: the batch under construction, and what is unread.

A base of Slots, because a class of Cython cannot be in two files. pure/state.py is its twin."""

cimport cython
from libc.stdint cimport uint64_t


cdef class State:
    """The packets that Slots has. Whoever calls a method is inside; each is final, so that no table is looked up."""

    cdef mcast_receiver receiver
    cdef public dict names
    # Batches that were received beyond what was requested, the oldest first. Changed in critical sections alone.
    cdef list unread

    # ---- a batch under construction ----

    @cython.final
    cdef int _copy(self, mcast_batch *batch, Batch first) except -1:
        """Adds the packets of another batch; 0 when they have no space in the arena."""
        cdef Py_ssize_t i = 0
        cdef int pinned, status = 0
        cdef size_t records = batch.records.used, data = batch.data.used
        cdef const unsigned char *bytes = arena_in_place(first, &pinned)
        while i < first.count and status == 0:
            status = mcast_batch_append(self.receiver.pool, batch, first.first + i, bytes + first.first[i].offset)
            i += 1
        arena_left(first, pinned)
        if status != 0:
            batch.records.used, batch.data.used = records, data
        if status < 0:
            self._unread(first)
            raise MemoryError("no memory for a batch")
        return status == 0

    @cython.final
    cdef Batch _finish(self, mcast_batch *batch):
        """What was received, as a batch; of `batch` only the epoch is left."""
        cdef Batch whole = Batch.__new__(Batch)  # first: nothing can fail once the memory is its own
        mcast_batch_finish(&self.receiver, batch)
        whole.reference = batch.reference
        batch.reference = NULL
        whole.names = self.names
        fill_batch(whole, &batch.records, &batch.data)
        batch.buffers = 0
        return whole

    @cython.final
    cdef int _return(self, mcast_batch *batch) except -1:
        """The end of a call: what it received and did not deliver stays unread, and the memory goes back."""
        cdef Batch whole
        if mcast_batch_count(batch) > 0:
            try:
                whole = self._finish(batch)
            except MemoryError:
                mcast_batch_drop(&self.receiver, batch)
            else:
                if whole.count > 0:
                    self._unread(whole)
        mcast_batch_return(&self.receiver, batch)
        return 0

    # ---- what is unread ----

    @cython.final
    cdef Batch _take(self, Py_ssize_t limit):
        """At most `limit` packets of what is unread; None where nothing is."""
        cdef Batch taken = None
        if not self.unread:
            return None
        with cython.critical_section(self):
            if self.unread and not mcast_life_is_closed(&self.receiver.life):
                taken = self.unread[0]
                if taken.count > limit:
                    self.unread[0] = make_part(taken, limit, taken.count)
                    taken = make_part(taken, 0, limit)
                else:
                    del self.unread[0]
                    self._show_unread()
        return taken

    @cython.final
    cdef Batch _cut(self, Batch batch, Py_ssize_t limit, uint64_t epoch):
        """The first `limit` packets of a batch that passed the filters of this epoch; what is beyond stays unread."""
        if batch.count <= limit:
            return batch
        cdef Batch first = make_part(batch, 0, limit)
        self._unread(make_part(batch, limit, batch.count))
        if mcast_receiver_epoch(&self.receiver) != epoch:
            self._filter_unread()
        return first

    @cython.final
    cdef _unread(self, Batch batch):
        """A batch of at least one packet comes before everything else that is unread."""
        with cython.critical_section(self):
            self.unread.insert(0, batch)
            self._show_unread()

    @cython.final
    cdef _show_unread(self):
        """Inside a critical section: as long as something is unread the descriptor is readable, and whoever waits is
        woken."""
        mcast_receiver_set_unread(&self.receiver, <size_t>len(self.unread))

    @cython.final
    cdef Batch _still_wanted(self, Batch before):
        """A batch without what is no longer wanted; a copy where it changes, for another batch may have its packets."""
        cdef Batch left
        if mcast_receiver_wants_all(&self.receiver, before.first, before.count):
            return before
        left = Batch.concatenate([before])
        left.count = <Py_ssize_t>mcast_receiver_filter_again(&self.receiver, left.first, left.count)
        return left

    @cython.final
    cdef _filter_unread(self):
        """Takes out of what is unread what is no longer wanted."""
        cdef Batch left
        cdef list kept = []
        if not self.unread:
            return
        with cython.critical_section(self):
            for left in list(self.unread):
                left = self._still_wanted(left)
                if left.count:
                    kept.append(left)
            self.unread[:] = kept
            self._show_unread()
