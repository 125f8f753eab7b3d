# cython: language_level=3, boundscheck=False, wraparound=False
"""The limit of payloads as Python objects: a loop over a mapped ring makes one bytes object per packet, nothing else.

Compiled on the spot (reference.compiled_extension); the ring is walked as in reference_ring.c, without its records.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef extern from "<poll.h>" nogil:
    enum: POLLIN
    ctypedef unsigned long nfds_t
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, nfds_t count, int timeout)

cdef extern from "reference_ring.c":
    """
    static inline int reference_is_filled(uint8_t *block) {
        struct tpacket_block_desc *at = (struct tpacket_block_desc *)block;
        return __atomic_load_n(&at->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER;
    }
    static inline void reference_give_back(struct ring *r, uint8_t *block) {
        struct tpacket_block_desc *at = (struct tpacket_block_desc *)block;
        __atomic_store_n(&at->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        r->next = (r->next + 1) % r->count;
    }
    static inline uint32_t reference_packets(const uint8_t *block) {
        return ((const struct tpacket_block_desc *)block)->hdr.bh1.num_pkts;
    }
    static inline const uint8_t *reference_first(const uint8_t *block) {
        return block + ((const struct tpacket_block_desc *)block)->hdr.bh1.offset_to_first_pkt;
    }
    static inline const uint8_t *reference_after(const uint8_t *frame) {
        return frame + ((const struct tpacket3_hdr *)frame)->tp_next_offset;
    }
    static inline const uint8_t *reference_payload(const uint8_t *frame, Py_ssize_t *length) {
        const uint8_t *udp = frame + ((const struct tpacket3_hdr *)frame)->tp_mac + 34;
        *length = is_plain((const struct tpacket3_hdr *)frame) ? big16(udp + 4) - 8 : -1;
        return udp + 8;
    }
    static inline uint8_t *reference_block(struct ring *r) {
        return r->blocks + (size_t)BLOCK_BYTES * r->next;
    }
    """
    struct ring:
        int fd
    ring *reference_ring_open(int fd, unsigned megabytes, uint32_t interface)
    void reference_ring_close(ring *r)
    bint reference_is_filled(uint8_t *block) nogil
    void reference_give_back(ring *r, uint8_t *block)
    uint32_t reference_packets(const uint8_t *block)
    const uint8_t *reference_first(const uint8_t *block)
    const uint8_t *reference_after(const uint8_t *frame)
    const uint8_t *reference_payload(const uint8_t *frame, Py_ssize_t *length)
    uint8_t *reference_block(ring *r)


cdef class Ring:
    """A ring over a packet socket that is filtered, and not bound yet."""

    cdef ring *ring
    cdef readonly int64_t batches

    def __cinit__(self, int fd, unsigned megabytes, uint32_t interface):
        self.ring = reference_ring_open(fd, megabytes, interface)
        if self.ring == NULL:
            raise OSError(errno, "the reference gets no ring")

    def __dealloc__(self):
        if self.ring != NULL:
            reference_ring_close(self.ring)

    def receive(self, int64_t limit, int quiet_ms, bint kept):
        """Packets until the limit, or until nothing came for so long, and the last payload.

        `kept`: the payloads of a block stay alive, in a list, until the next block is read."""
        cdef int64_t packets = 0
        cdef uint8_t *block
        cdef const uint8_t *frame
        cdef const uint8_t *at
        cdef Py_ssize_t length
        cdef uint32_t count
        cdef bytes payload = b""
        cdef list payloads = []
        self.batches = 0
        while packets < limit:
            block = reference_block(self.ring)
            if not self.wait(block, quiet_ms):
                break
            frame = reference_first(block)
            count = reference_packets(block)
            if kept:
                payloads = []
            for _ in range(count):
                at = reference_payload(frame, &length)
                if length >= 0:
                    payload = PyBytes_FromStringAndSize(<const char *>at, length)
                    packets += 1
                    if kept:
                        payloads.append(payload)
                frame = reference_after(frame)
            reference_give_back(self.ring, block)
            self.batches += 1
        return packets, payload

    cdef bint wait(self, uint8_t *block, int quiet_ms) except -1:
        cdef pollfd one
        cdef int ready
        while not reference_is_filled(block):
            one.fd, one.events, one.revents = self.ring.fd, POLLIN, 0
            with nogil:
                ready = poll(&one, 1, quiet_ms)
            if ready == 0:
                return False
            if ready < 0 and errno != EINTR:
                raise OSError(errno, "poll")
        return True
