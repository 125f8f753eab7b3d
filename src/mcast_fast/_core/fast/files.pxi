"""Capture files: bytes to batches (c/capture_read.h) and batches to bytes (c/capture_write.h), without the GIL."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
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
        int filtered
        unsigned key_kinds
        mcast_filter filter
        mcast_decode_counters counters
        uint64_t needed
        int failure
        uint64_t told
        uint64_t other
    const uint64_t mcast_unknown
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
        const uint32_t *indexes
        size_t interfaces
        int unfit
    int MCAST_UNFIT_LENGTH
    size_t mcast_encoded_size(const mcast_record *records, size_t count) nogil
    size_t mcast_encode(mcast_encoder *encoder, const mcast_record *records, size_t count, const unsigned char *data,
                        unsigned char *to, size_t *used) nogil

cdef enum:
    NO_NAME_OF_THE_FILTER = 0xffff
    MOST_WRITTEN = 1024  # interfaces in a file of ours

if (MCAST_WRONG_END, MCAST_WRONG_FRAME) != (blocks.WRONG_END, blocks.WRONG_FRAME):
    raise ImportError("the compiled failures are not those of blocks.py: rebuild the extension")
if (MCAST_LARGEST_BLOCK, MCAST_MOST_INTERFACES, MCAST_LONGEST_NAME, MCAST_UNFIT_LENGTH, MOST_WRITTEN) != (
        blocks.LARGEST_BLOCK, blocks.MOST_INTERFACES, blocks.LONGEST_NAME, blocks.UNFIT_LENGTH, blocks.MOST_WRITTEN):
    raise ImportError("the compiled limits are not those of blocks.py: rebuild the extension")


cdef object known_or_none(uint64_t counter):
    return None if counter == mcast_unknown else counter


@cython.final
cdef class Decoder:
    """A capture file, read piece by piece: pcapng and classic pcap.

    `subject` is what errors call the file. `rows` = (group, port, interface, exclude, sources): what may be delivered;
    addresses have 16 bytes, port 0 and interface '' = any; None = everything, or (`multicast_only`) everything to a
    multicast address. `names` (interface index to name) goes with every batch, and grows as the file describes more."""

    cdef mcast_decoder decoder
    cdef str subject
    cdef dict wanted_names
    cdef readonly dict names
    cdef readonly uint64_t offset

    def __cinit__(self, str subject, rows, bint multicast_only):
        memset(&self.decoder, 0, sizeof(self.decoder))
        self.decoder.pool = shared_pool()
        self.decoder.multicast_only = multicast_only
        self.subject = subject
        self.names = {}
        self.wanted_names = {"": 0}
        self.offset = 0
        if rows is not None:
            self._accept(list(rows))

    def __dealloc__(self):
        mcast_decoder_free(&self.decoder)

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

    def decode(self, data, Py_ssize_t limit, bint final=False):
        """Reads whole blocks of `data` until `limit` packets wait for `take`; how many bytes are done with.

        `data` begins where the last call had ended; `final`: nothing follows it. What is left of it and has fewer bytes
        than `needed` goes before more; else `limit` is reached, or what is wrong with the next block waits for `take`.
        CaptureError when no packet waits and the next block cannot be read, MemoryError."""
        cdef Py_buffer view
        cdef size_t used = 0, taken
        cdef int status = MCAST_DECODE_INTERFACE
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            while status == MCAST_DECODE_INTERFACE:
                with nogil:
                    status = mcast_decode(&self.decoder, <const unsigned char *>view.buf + used,
                                          <size_t>view.len - used, limit, &taken)
                used += taken
                if status == MCAST_DECODE_INTERFACE:
                    self._describe()
            left = view.len - <Py_ssize_t>used
        finally:
            PyBuffer_Release(&view)
        self.offset += used
        if status == MCAST_DECODE_MEMORY:
            raise MemoryError("no memory for a batch")
        if status == MCAST_DECODE_WRONG:
            self._refuse(self.decoder.failure, self.decoder.told, self.decoder.other)
        if status == MCAST_DECODE_MORE and final and left and self.decoder.records.used == 0:
            self._refuse(MCAST_WRONG_END, left, self.decoder.needed)
        return used

    def take(self):
        """The packets that were read since the last call, as a batch; it may be empty."""
        mcast_decoder_finish(&self.decoder)
        return take_over(&self.decoder.records, &self.decoder.data, self.names)

    @property
    def count(self):
        """How many packets wait for `take`."""
        return self.decoder.records.used // sizeof(mcast_record)

    cdef int _refuse(self, int failure, uint64_t told, uint64_t other) except -1:
        raise CaptureError(self.subject, self.offset, blocks.failure_text(failure, told, other))

    cdef int _describe(self) except -1:
        """Gives the interface that the file has just described its name, and its number in the filter."""
        cdef mcast_interface *interface = &self.decoder.interfaces[self.decoder.described - 1]
        name = interface.text[:interface.text_length].decode("utf-8", "replace")
        self.names[self.decoder.described] = name
        interface.name = self.wanted_names.get(name, NO_NAME_OF_THE_FILTER) if name else NO_NAME_OF_THE_FILTER
        return 0

    @property
    def needed(self):
        """How many bytes the next block has, as far as that is known; 0 when it is not for want of bytes that it was
        not read."""
        return self.decoder.needed

    @property
    def form(self):
        """'pcapng' or 'pcap'; '' before the first bytes."""
        if not self.decoder.known:
            return ""
        return "pcapng" if self.decoder.pcap == NULL else "pcap"

    @property
    def interfaces(self):
        """Every interface that the file has described so far; the first one has index 1."""
        cdef const mcast_interface *one
        cdef uint32_t i
        found = []
        for i in range(self.decoder.described):
            one = &self.decoder.interfaces[i]
            found.append(blocks.CapturedOn(
                self.names[i + 1], one.link_type, known_or_none(one.received), known_or_none(one.dropped),
                known_or_none(one.dropped_system), known_or_none(one.delivered)))
        return tuple(found)

    def counters(self):
        """Totals since the first byte, by the names of `blocks.COUNTERS`."""
        return self.decoder.counters


@cython.final
cdef class Encoder:
    """Batches as the packets of a capture file, `form` 'pcapng' or 'pcap' (with ns)."""

    cdef mcast_encoder encoder
    cdef uint32_t indexes[MOST_WRITTEN]
    cdef bytearray memory

    def __cinit__(self, str form):
        if form not in ("pcapng", "pcap"):
            raise ValueError(f"form {form!r} is neither 'pcapng' nor 'pcap'")
        memset(&self.encoder, 0, sizeof(self.encoder))
        self.encoder.pcap = form == "pcap"
        self.encoder.indexes = self.indexes
        self.memory = bytearray()

    def add(self, uint32_t index):
        """Packets of this interface index belong to the interface that the file describes next."""
        if self.encoder.interfaces == MOST_WRITTEN:
            raise ArgumentError(f"a file can be written of {MOST_WRITTEN} interfaces at most")
        self.indexes[self.encoder.interfaces] = index
        self.encoder.interfaces += 1

    def encode(self, Batch batch not None, Py_ssize_t start):
        """(packets from `start` on as bytes, where it stopped): the batch's end, or before an interface to `add`.

        The bytes are good until the next call. ArgumentError when the packet at `start` cannot be written; what stands
        before one that cannot is returned first."""
        cdef const unsigned char *data
        cdef const mcast_record *records = batch.first
        cdef int pinned
        cdef size_t count = <size_t>(batch.count - start), used = 0, written, room
        if not 0 <= start <= batch.count:
            raise IndexError(f"packet {start} of a batch of {batch.count}")
        with nogil:
            room = mcast_encoded_size(records + start, count)
        if <size_t>len(self.memory) < room:
            PyByteArray_Resize(self.memory, <Py_ssize_t>room)
        cdef unsigned char *to = <unsigned char *>PyByteArray_AS_STRING(self.memory)
        with nogil:
            data = arena_in_place(batch, &pinned)
            written = mcast_encode(&self.encoder, records + start, count, data, to, &used)
            arena_left(batch, pinned)
        if written == 0 and self.encoder.unfit:
            self._refuse(batch, start)
        return memoryview(self.memory)[:used], start + <Py_ssize_t>written

    cdef int _refuse(self, Batch batch, Py_ssize_t at) except -1:
        cdef size_t length = max(batch.first[at].length, batch.first[at].wire_length)
        reason = blocks.UNFIT[self.encoder.unfit - 1].format(length=length)
        raise ArgumentError(f"packet {at} of the batch cannot be written: {reason}")
