"""Capture files: bytes to batches (c/capture_read.h) and batches to bytes (c/capture_write.h), without the GIL."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize, PyByteArray_Resize
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from mcast_fast._core import blocks
from mcast_fast.errors import ArgumentError, CaptureError

cdef extern from "capture_read.h":
    ctypedef struct mcast_interface:
        uint32_t link_type
        uint32_t name
        uint8_t text_length
        char *text
        uint64_t received
        uint64_t dropped
        uint64_t dropped_system
        uint64_t delivered
        uint8_t synthetic
    ctypedef struct mcast_decode_counters:
        uint64_t frames
        uint64_t received
        uint64_t bytes
        uint64_t truncated
        uint64_t filtered
        uint64_t fragments
        uint64_t skipped
        uint64_t broken
        uint64_t dropped
        uint64_t batches
        uint64_t reassembled
    ctypedef struct mcast_skipped:
        uint32_t kind
        uint32_t number
        uint64_t frames
    ctypedef struct mcast_skipped_list:
        size_t used
        mcast_skipped *kinds
    const unsigned MCAST_SKIPPED_KINDS
    const unsigned MCAST_SKIPPED_PROTOCOL
    ctypedef struct mcast_pcap_kind:
        pass
    ctypedef struct mcast_decoder:
        mcast_pool *pool
        mcast_memory records
        mcast_memory data
        mcast_interface *interfaces
        uint32_t described
        const mcast_pcap_kind *pcap
        int known
        int multicast_only
        int64_t start
        int64_t end
        int filtered
        unsigned key_kinds
        mcast_filter filter
        mcast_decode_counters counters
        mcast_skipped_list skipped
        mcast_summary *summary
        uint64_t needed
        int failure
        uint64_t value
        uint64_t other
    const uint64_t mcast_unknown
    const char mcast_synthetic[]
    const char mcast_shared_time[]
    const unsigned MCAST_PIECES
    int MCAST_DECODE_MORE
    int MCAST_DECODE_INTERFACE
    int MCAST_DECODE_WRONG
    int MCAST_DECODE_MEMORY
    int MCAST_WRONG_END
    int MCAST_WRONG_FRAME
    int MCAST_LARGEST_BLOCK
    int MCAST_MOST_INTERFACES
    int MCAST_LONGEST_NAME
    int mcast_decode(mcast_decoder *decoder, const unsigned char *bytes, size_t size, size_t limit,
                     size_t *used) nogil
    void mcast_decoder_finish(mcast_decoder *decoder) nogil
    void mcast_decoder_free(mcast_decoder *decoder) nogil

cdef extern from "capture_write.h":
    ctypedef struct mcast_encoder:
        int pcap
        int raw
        const uint64_t *keys
        size_t interfaces
        int unfit
    int MCAST_UNFIT_LINK
    uint64_t mcast_interface_key(const mcast_record *record) nogil
    size_t mcast_encoded_count(const mcast_record *records, size_t count) nogil
    size_t mcast_encoded_size(const mcast_record *records, size_t count) nogil
    size_t mcast_encode(mcast_encoder *encoder, const mcast_record *records, size_t count, const unsigned char *data,
                        unsigned char *to, size_t *used) nogil

cdef extern from "capture_gather.h":
    ctypedef struct mcast_gather:
        size_t size
        size_t sent
    int MCAST_HAS_WRITEV
    size_t mcast_gather_fill(mcast_gather *gather, mcast_encoder *encoder, const mcast_record *records, size_t count,
                             const unsigned char *data) nogil
    int mcast_gather_write(mcast_gather *gather, int descriptor) nogil
    void mcast_gather_copy(const mcast_gather *gather, unsigned char *to) nogil

cdef enum:
    NO_NAME_OF_THE_FILTER = 0xffff
    MOST_WRITTEN = 1024  # interfaces in a file of ours

if (MCAST_WRONG_END, MCAST_WRONG_FRAME) != (blocks.WRONG_END, blocks.WRONG_FRAME):
    raise ImportError("the compiled failures are not those of blocks.py: rebuild the extension")
if (MCAST_LARGEST_BLOCK, MCAST_MOST_INTERFACES, MCAST_LONGEST_NAME, MCAST_UNFIT_LINK, MOST_WRITTEN) != (
        blocks.LARGEST_BLOCK, blocks.MOST_INTERFACES, blocks.LONGEST_NAME, blocks.UNFIT_LINK, blocks.MOST_WRITTEN):
    raise ImportError("the compiled limits are not those of blocks.py: rebuild the extension")

GATHERS = bool(MCAST_HAS_WRITEV)  # whether `Encoder.write` can be called

if ((<bytes>mcast_synthetic).decode(), (<bytes>mcast_shared_time).decode()) != (
        blocks.SYNTHETIC, blocks.SHARED_TIME) or (MCAST_PIECES, MCAST_SKIPPED_KINDS, MCAST_SKIPPED_PROTOCOL) != (
        blocks.PIECES, blocks.SKIPPED_KINDS, blocks.SKIPPED_PROTOCOL):
    raise ImportError("the compiled comment of interfaces is not that of blocks.py: rebuild the extension")


cdef object known_or_none(uint64_t counter):
    return None if counter == mcast_unknown else counter


cdef void lock_codec(PyThread_type_lock lock) noexcept:
    """Waits without the GIL, which the thread inside may need. Nothing that runs Python is done under the lock."""
    if not PyThread_acquire_lock(lock, NOWAIT_LOCK):
        with nogil:
            PyThread_acquire_lock(lock, WAIT_LOCK)


cdef PyThread_type_lock new_codec_lock() except NULL:
    cdef PyThread_type_lock lock = PyThread_allocate_lock()
    if lock == NULL:
        raise MemoryError("no lock for a codec")
    return lock


@cython.final
cdef class Decoder:
    """A capture file, read piece by piece: pcapng and classic pcap.

    `subject` is what errors call the file. `rows` = (group, port, interface, exclude, sources): what may be delivered;
    addresses have 16 bytes, port 0 and interface '' = any; None = everything, or (`multicast_only`) everything to a
    multicast address. `start`, `end`: only packets from the one time on and before the other one, in ns; those without
    a time have 0. `names` (interface index to name) goes with every batch, and grows as the file describes more: an
    index is never used again. Threads may share a decoder; what an exception of a signal handler interrupts is as if it
    had not been begun."""

    cdef mcast_decoder decoder
    cdef PyThread_type_lock lock  # of `decoder` and `position`
    cdef str subject
    cdef dict wanted_names
    cdef readonly dict names
    cdef uint64_t position
    cdef uint32_t process

    def __cinit__(self, str subject not None, rows, bint multicast_only, int64_t start=INT64_MIN,
                  int64_t end=INT64_MAX):
        self.process = mcast_process_number
        memset(&self.decoder, 0, sizeof(self.decoder))
        self.decoder.pool = shared_pool()
        self.lock = new_codec_lock()
        self.decoder.multicast_only = multicast_only
        self.decoder.start, self.decoder.end = start, end
        self.subject = subject
        self.names = {}
        self.wanted_names = {"": 0}
        self.position = 0
        if rows is not None:
            self._accept(list(rows))

    def __dealloc__(self):
        if self.process != mcast_process_number:  # a fork may come in the middle of a call of another thread
            return
        mcast_decoder_free(&self.decoder)
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    cdef int _accept(self, list rows) except -1:
        cdef mcast_entry entry
        cdef uint32_t at = 0, name
        cdef bytes group, source
        if any(len(address) != 16 for group, _, _, _, sources in rows for address in (group, *sources)):
            raise ValueError("groups and sources are packed addresses of 16 bytes")
        if mcast_filter_open(&self.decoder.filter, len(rows), sum(len(row[4]) for row in rows)) != 0:
            raise MemoryError("no memory for a filter")
        self.decoder.filtered = 1
        for group, port, interface, exclude, sources in rows:
            name = self.wanted_names.setdefault(interface, len(self.wanted_names))
            if name >= NO_NAME_OF_THE_FILTER:
                raise ArgumentError(f"the groups name more than {NO_NAME_OF_THE_FILTER - 1} interfaces")
            memcpy(entry.group, <const char *>group, 16)
            entry.interface_index = <uint32_t><uint16_t>port << 16 | name
            entry.exclude = bool(exclude)
            entry.first_source = at
            entry.sources = len(sources)
            for source in sources:
                memcpy(&self.decoder.filter.sources[at][0], <const char *>source, 16)
                at += 1
            mcast_filter_add(&self.decoder.filter, &entry)
            self.decoder.key_kinds |= 1u << ((0 if interface else 1) | (0 if port else 2))
        return 0

    def decode(self, data, Py_ssize_t limit, bint final=False, Summary summary=None):
        """Reads whole blocks of `data` until `limit` packets wait for `take`; how many bytes are done with.

        `data` begins where the last call had ended; `final`: nothing follows it. What is left of it and has fewer bytes
        than `needed` goes before more; else `limit` is reached, or what is wrong with the next block waits for `take`.
        `summary`: counts the packets, of which none waits then. CaptureError when no packet waits and the next block
        cannot be read, MemoryError."""
        cdef Py_buffer view
        cdef size_t used = 0
        cdef uint64_t wrong[3]
        cdef uint64_t position
        cdef int status = MCAST_DECODE_INTERFACE
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            while status == MCAST_DECODE_INTERFACE:
                status = self._decode(<const unsigned char *>view.buf, <size_t>view.len, limit, &used, summary)
            left = view.len - <Py_ssize_t>used
        finally:
            PyBuffer_Release(&view)
        if status == MCAST_DECODE_MEMORY:
            raise MemoryError("no memory for a batch")
        lock_codec(self.lock)
        if status == MCAST_DECODE_MORE and final and left and self.decoder.records.used == 0:
            status, wrong[:] = MCAST_DECODE_WRONG, [MCAST_WRONG_END, <uint64_t>left, self.decoder.needed]
        else:
            wrong[:] = [<uint64_t>self.decoder.failure, self.decoder.value, self.decoder.other]
        position = self.position
        PyThread_release_lock(self.lock)
        if status == MCAST_DECODE_WRONG:
            raise CaptureError(self.subject, position, blocks.failure_text(wrong[0], wrong[1], wrong[2]))
        return used

    cdef int _decode(self, const unsigned char *bytes, size_t size, size_t limit, size_t *used,
                     Summary summary) except -1:
        """Reads on to the end, or to the next interface that the file describes, which gets its name here."""
        cdef char text[256]
        cdef size_t taken = 0, length = 0
        cdef uint32_t index = 0
        cdef int status
        cdef mcast_summary *counts = NULL
        cdef PyThread_type_lock counts_lock = NULL
        if summary is not None:
            counts, counts_lock = &summary.summary, summary.lock
        with nogil:
            PyThread_acquire_lock(self.lock, WAIT_LOCK)
            if counts_lock != NULL:
                PyThread_acquire_lock(counts_lock, WAIT_LOCK)
            self.decoder.summary = counts
            status = mcast_decode(&self.decoder, bytes + used[0], size - used[0], limit, &taken)
            self.decoder.summary = NULL
            if counts_lock != NULL:
                PyThread_release_lock(counts_lock)
            self.position += taken
            if status == MCAST_DECODE_INTERFACE:
                index = self.decoder.described
                length = self.decoder.interfaces[index - 1].text_length
                memcpy(text, self.decoder.interfaces[index - 1].text, length)
            PyThread_release_lock(self.lock)
        used[0] += taken
        if status == MCAST_DECODE_INTERFACE:
            name = text[:length].decode("utf-8", "replace")
            self.names[index] = name
            number = self.wanted_names.get(name, NO_NAME_OF_THE_FILTER) if name else NO_NAME_OF_THE_FILTER
            self._number(index - 1, number)
        return status

    cdef void _number(self, uint32_t at, uint32_t number) noexcept:
        """Sets the number of an interface in the filter."""
        lock_codec(self.lock)
        self.decoder.interfaces[at].name = number
        PyThread_release_lock(self.lock)

    def take(self):
        """The packets that were read since the last call, as a batch; it may be empty."""
        cdef Batch batch = new_batch(self.names)
        lock_codec(self.lock)
        mcast_decoder_finish(&self.decoder)
        fill_batch(batch, &self.decoder.records, &self.decoder.data)
        PyThread_release_lock(self.lock)
        return batch

    @property
    def count(self):
        """How many packets wait for `take`."""
        lock_codec(self.lock)
        cdef size_t used = self.decoder.records.used
        PyThread_release_lock(self.lock)
        return used // sizeof(mcast_record)

    @property
    def offset(self):
        """How many bytes of the file are decoded."""
        lock_codec(self.lock)
        cdef uint64_t position = self.position
        PyThread_release_lock(self.lock)
        return position

    @property
    def needed(self):
        """How many bytes the next block has, as far as that is known; 0 when it is not for want of bytes that it was
        not read."""
        lock_codec(self.lock)
        cdef uint64_t needed = self.decoder.needed
        PyThread_release_lock(self.lock)
        return needed

    @property
    def form(self):
        """'pcapng' or 'pcap'; '' before the first bytes."""
        lock_codec(self.lock)
        cdef bint known = self.decoder.known, classic = self.decoder.pcap != NULL
        PyThread_release_lock(self.lock)
        if not known:
            return ""
        return "pcap" if classic else "pcapng"

    @property
    def interfaces(self):
        """Every interface that the file has described so far; the first one has index 1."""
        cdef mcast_interface *copies
        cdef const mcast_interface *one
        cdef uint32_t count = 0, i
        with nogil:
            PyThread_acquire_lock(self.lock, WAIT_LOCK)
            copies = <mcast_interface *>malloc((self.decoder.described + 1) * sizeof(mcast_interface))
            if copies != NULL:
                count = self.decoder.described
                if count:  # without any there is no memory to copy from
                    memcpy(copies, self.decoder.interfaces, count * sizeof(mcast_interface))
            PyThread_release_lock(self.lock)
        if copies == NULL:
            raise MemoryError("no memory for the interfaces of a file")
        found = []
        try:
            for i in range(count):
                one = &copies[i]
                found.append(blocks.CapturedOn(
                    one.text[:one.text_length].decode("utf-8", "replace"), one.link_type, known_or_none(one.received),
                    known_or_none(one.dropped), known_or_none(one.dropped_system), known_or_none(one.delivered),
                    bool(one.synthetic)))
        finally:
            free(copies)
        return tuple(found)

    def counters(self):
        """Totals since the first byte, by the names of `blocks.COUNTERS`."""
        lock_codec(self.lock)
        cdef mcast_decode_counters counters = self.decoder.counters
        PyThread_release_lock(self.lock)
        return counters

    def skipped(self):
        """What the frames are that are no UDP: (one of `blocks.SKIPPED_*`, its number, how many frames), in the order
        in which they came; the first are those of kinds beyond `blocks.SKIPPED_KINDS`."""
        lock_codec(self.lock)
        cdef mcast_skipped_list found = self.decoder.skipped
        PyThread_release_lock(self.lock)
        return [(found.kinds[i].kind, found.kinds[i].number, found.kinds[i].frames)
                for i in range(found.used) if found.kinds[i].frames]


@cython.final
cdef class Encoder:
    """Batches as the packets of a capture file. Threads may share an encoder, but for `write` and what belongs to it.

    `rest`: (bytes, how many of them are written, packets) at which the latest `write` ended because the system did not
    take all; whoever goes on with them sets it to None. `written_packets`, `written_bytes`: what `write` has written,
    without `rest`.

    Args:
        form: 'pcapng', or 'pcap' (with ns).
        raw: Packets are raw IP, without a link's header; else Ethernet.

    Raises:
        ValueError: There is no such form.
    """

    cdef mcast_encoder encoder
    cdef PyThread_type_lock lock
    cdef uint64_t keys[MOST_WRITTEN]
    cdef bytearray memory
    cdef mcast_gather *gather  # of `write`
    cdef Py_ssize_t all_packets, all_bytes
    cdef public tuple rest
    cdef uint32_t process

    def __cinit__(self, str form not None, bint raw=False):
        if form not in ("pcapng", "pcap"):
            raise ValueError(f"form {form!r} is neither 'pcapng' nor 'pcap'")
        self.process = mcast_process_number
        memset(&self.encoder, 0, sizeof(self.encoder))
        self.lock = new_codec_lock()
        self.encoder.pcap = form == "pcap"
        self.encoder.raw = raw
        self.encoder.keys = self.keys
        self.memory = bytearray()

    def __dealloc__(self):
        if self.process != mcast_process_number:  # as for a decoder
            return
        free(self.gather)
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    @property
    def written_packets(self):
        """How many `write` has written, without those of `rest`."""
        return mcast_place_read(&self.all_packets)

    @property
    def written_bytes(self):
        """How many bytes those packets have in the file."""
        return mcast_place_read(&self.all_bytes)

    @property
    def pending(self):
        """How many packets are in `rest`."""
        rest = self.rest
        return 0 if rest is None else rest[2]

    @property
    def interfaces(self):
        """How many were added."""
        lock_codec(self.lock)
        cdef size_t count = self.encoder.interfaces
        PyThread_release_lock(self.lock)
        return count

    def key(self, Batch batch not None, Py_ssize_t at):
        """(interface index, known headers) of a packet, of which the file has to describe an interface.

        Args:
            batch: A batch.
            at: The packet's place in it.

        Returns:
            The index, and bits of Flag: FRAME, or those of TTL and TOS that are known.
        """
        if not 0 <= at < batch.count:
            raise IndexError(f"packet {at} of a batch of {batch.count}")
        cdef uint64_t key = mcast_interface_key(&batch.first[at])
        return <uint32_t>key, key >> 32

    def add(self, uint32_t index, uint32_t known):
        """Note that packets of this key belong to the interface that the file describes next.

        Args:
            index: The interface's index.
            known: Bits of Flag, as `key` returns them.

        Raises:
            ArgumentError: A file can have no more interfaces.
        """
        lock_codec(self.lock)
        cdef size_t at = self.encoder.interfaces
        if at < MOST_WRITTEN:
            self.keys[at] = <uint64_t>known << 32 | index
            self.encoder.interfaces = at + 1
        PyThread_release_lock(self.lock)
        if at == MOST_WRITTEN:
            raise ArgumentError(blocks.TOO_MANY_WRITTEN)

    def encode(self, Batch batch not None, Py_ssize_t start):
        """(packets from `start` on as bytes, where it stopped): the batch's end, what a cache holds, or before an
        interface to `add`.

        The bytes are good until the next call. ArgumentError when the packet at `start` cannot be written; what stands
        before one that cannot is returned first."""
        cdef size_t room, written, used = 0, count
        cdef int unfit = 0
        if not 0 <= start <= batch.count:
            raise IndexError(f"packet {start} of a batch of {batch.count}")
        count = <size_t>(batch.count - start)
        with nogil:
            count = mcast_encoded_count(batch.first + start, count)
            room = mcast_encoded_size(batch.first + start, count)
        lock_codec(self.lock)
        try:
            if <size_t>len(self.memory) < room:
                PyByteArray_Resize(self.memory, <Py_ssize_t>room)
            written = self._encode(batch, start, count, <unsigned char *>PyByteArray_AS_STRING(self.memory), &used)
            unfit = self.encoder.unfit
        finally:
            PyThread_release_lock(self.lock)
        if written == 0 and unfit:
            self._refuse(batch, start, unfit)
        return memoryview(self.memory)[:used], start + <Py_ssize_t>written

    def settle(self):
        """Does nothing: `rest` is set by the call that leaves one."""

    def write(self, int descriptor, Batch batch not None, Py_ssize_t start):
        """Write packets from `start` on into a descriptor, large payloads straight from where they are.

        What signal handlers raise is passed on between two system calls; `written_packets` and `written_bytes` count
        what was written.

        Args:
            descriptor: Of a file, or whatever writev(2) takes.
            batch: A batch.
            start: The place of the first packet.

        Returns:
            Where it stopped: the batch's end, before an interface to `add`, or behind what is in `rest`.

        Raises:
            ArgumentError: The packet at `start` cannot be written.
        """
        cdef size_t packets
        cdef int unfit, whole = 1
        cdef Py_ssize_t at = start
        if not 0 <= start <= batch.count:
            raise IndexError(f"packet {start} of a batch of {batch.count}")
        if self.gather == NULL:
            self.gather = <mcast_gather *>malloc(sizeof(mcast_gather))
            if self.gather == NULL:
                raise MemoryError("no memory to gather packets")
        while at < batch.count and whole:
            whole = self._write_piece(descriptor, batch, at, &packets, &unfit)
            if packets == 0:
                if unfit and at == start:
                    self._refuse(batch, start, unfit)
                break
            at += <Py_ssize_t>packets
            PyErr_CheckSignals()
        return at

    cdef int _write_piece(self, int descriptor, Batch batch, Py_ssize_t at, size_t *packets, int *unfit) except -1:
        """One system call; whether it took all. `*packets` of the batch are done with, or else in `rest`."""
        cdef const unsigned char *data
        cdef int pinned, whole
        cdef mcast_gather *gather = self.gather
        with nogil:
            data = arena_in_place(batch, &pinned)
            PyThread_acquire_lock(self.lock, WAIT_LOCK)
            packets[0] = mcast_gather_fill(gather, &self.encoder, batch.first + at, <size_t>(batch.count - at), data)
            unfit[0] = self.encoder.unfit
            PyThread_release_lock(self.lock)
            whole = packets[0] == 0 or mcast_gather_write(gather, descriptor)
        try:
            if not whole:
                copied = PyByteArray_FromStringAndSize(NULL, <Py_ssize_t>gather.size)
                mcast_gather_copy(gather, <unsigned char *>PyByteArray_AS_STRING(copied))
                self.rest = copied, gather.sent, packets[0]
            elif packets[0]:
                mcast_place_move(&self.all_packets, self.all_packets + <Py_ssize_t>packets[0])
                mcast_place_move(&self.all_bytes, self.all_bytes + <Py_ssize_t>gather.size)
        finally:
            arena_left(batch, pinned)
        return whole

    cdef int _refuse(self, Batch batch, Py_ssize_t at, int unfit) except -1:
        length = max(batch.first[at].length, batch.first[at].wire_length)
        reason = blocks.UNFIT[unfit - 1].format(length=length)
        raise ArgumentError(f"packet {at} of the batch cannot be written: {reason}")

    cdef size_t _encode(self, Batch batch, Py_ssize_t start, size_t count, unsigned char *to, size_t *used) noexcept:
        cdef const unsigned char *data
        cdef size_t written
        cdef int pinned
        with nogil:
            data = arena_in_place(batch, &pinned)
            written = mcast_encode(
                &self.encoder, batch.first + start, count, data, to, used)
            arena_left(batch, pinned)
        return written
