"""Packets of a batch: what is read of one is built then."""

from libc.string cimport memcmp


@cython.final
@cython.no_gc
cdef class Packets:
    """Iterates over the packets of a batch."""

    cdef Batch batch
    cdef Py_ssize_t position
    cdef const unsigned char *arena  # where it was at the start: for prefetches, and nothing else

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t at = mcast_place_read(&self.position)  # threads that share an iterator may see a packet twice
        if at >= self.batch.count:
            raise StopIteration
        mcast_place_move(&self.position, at + 1)
        mcast_look_ahead(self.arena, self.batch.first, <size_t>at, <size_t>self.batch.count)
        return make_packet(self.batch, at)

    def __length_hint__(self):
        return self.batch.count - mcast_place_read(&self.position)


cdef Packet make_packet(Batch batch, Py_ssize_t index):
    cdef Packet packet = Packet.__new__(Packet)
    packet.batch = batch
    packet.record = batch.first + index
    return packet


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class Packet:
    """One received packet; each property is computed when it is read. What is unknown is None.

    It supports the buffer protocol with its payload: `struct.unpack_from(format, packet)`, `memoryview(packet)`,
    `bytes(packet)`. Packets are equal when their payloads, and all that is known of them, are. A packet keeps the
    memory of its whole batch; `copy()` does not.

    The stub `mcast_fast/_core/fast/views.pyi` documents arguments, results and errors.
    """

    cdef Batch batch
    cdef const mcast_record *record

    _made_by = layout.NO_PACKET

    @property
    def data(self):
        """The payload, as bytes."""
        cdef bytes payload
        if self.batch.reference == NULL:
            return PyBytes_FromStringAndSize(
                <const char *>self.batch.data_memory.bytes + self.record.offset, self.record.length
            )
        payload = PyBytes_FromStringAndSize(NULL, self.record.length)
        mcast_reference_read(self.batch.reference, self.record.offset, <char *>payload, self.record.length)
        return payload

    @property
    def view(self):
        """The payload as a read-only memoryview, without a copy (of a ring's batch: as `Batch.data`)."""
        return memoryview(arena_of(self.batch))[self.record.offset:self.record.offset + self.record.length]

    @property
    def timestamp(self):
        """Time of arrival, ns since the Unix epoch; None when unknown."""
        return self.record.timestamp if self.record.timestamp != 0 else None

    @property
    def datetime(self):
        """Time of arrival as an aware datetime in UTC, truncated to microseconds; None when unknown."""
        return columns.utc(self.record.timestamp) if self.record.timestamp != 0 else None

    @property
    def source(self):
        """Address of the sender; IPv6 link-local addresses have their zone: 'fe80::1%eth0'."""
        return address_text(self._packed_source(), self.record.interface_index, self.batch.names)

    @property
    def source_port(self):
        """UDP port of the sender."""
        return self.record.source_port

    @property
    def source_address(self):
        """The sender as `socket.sendto` takes it."""
        return endpoint(self._packed_source(), self.record.source_port, self.record.interface_index)

    @property
    def group(self):
        """Destination address of the packet, as its IP header has it."""
        return address_text(PyBytes_FromStringAndSize(<const char *>self.record.group, 16), 0, self.batch.names)

    @property
    def port(self):
        """UDP port of the destination."""
        return self.record.port

    @property
    def interface(self):
        """Name of the interface on which the packet arrived; None when unknown."""
        return interface_text(self.record.interface_index, self.batch.names) or None

    @property
    def interface_index(self):
        """Index of the interface on which the packet arrived; None when unknown."""
        return self.record.interface_index or None

    @property
    def dropped(self):
        """Number of buffers that the kernel dropped just before this packet."""
        return self.record.dropped

    @property
    def truncated(self):
        """Whether the payload was longer than `max_packet_size`."""
        return bool(self.record.flags & MCAST_TRUNCATED)

    @property
    def wire_length(self):
        """Bytes of the payload before truncation; None where the system reports only that it was truncated."""
        if self.record.wire_length == 0 and (self.record.length != 0 or self.record.flags & MCAST_TRUNCATED):
            return None
        return self.record.wire_length

    @property
    def flags(self):
        """Bits of `mcast_fast.Flag`."""
        return layout.Flag(self.record.flags)

    @property
    def ttl(self):
        """TTL or hop limit; None unless the receiver was opened with `recv_ttl=True` or with a ring."""
        return self.record.ttl if self.record.flags & MCAST_TTL else None

    @property
    def tos(self):
        """TOS or traffic class; None unless the receiver was opened with `recv_tos=True` or with a ring."""
        return self.record.tos if self.record.flags & MCAST_TOS else None

    def __len__(self):
        return self.record.length

    def __bytes__(self):
        return self.data

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        cdef bytes payload
        if self.batch.reference == NULL:
            PyBuffer_FillInfo(buffer, self, <void *>(self.batch.data_memory.bytes + self.record.offset),
                              self.record.length, 1, flags)
        else:  # a buffer may live for long, and the ring needs its block back
            payload = self.data
            PyBuffer_FillInfo(buffer, payload, <void *><char *>payload, self.record.length, 1, flags)

    def copy(self):
        """Return the same packet with memory of its own, so that its batch can be freed."""
        cdef mcast_memory records
        cdef mcast_memory data
        cdef mcast_record record = self.record[0]
        record.offset = 0
        make_room(&records, sizeof(mcast_record))
        try:
            make_room(&data, record.length)
        except BaseException:
            mcast_pool_give(&mcast_shared_pool, records.bytes, records.capacity)
            raise
        memcpy(records.bytes, &record, sizeof(mcast_record))
        records.used = sizeof(mcast_record)
        read_payload(self, data.bytes)
        data.used = record.length
        return make_packet(take_over(&records, &data, self._names()), 0)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self.copy()

    def __reduce__(self):
        return restore.packet, (self._plain_record(), self.data, self._names())

    def __eq__(self, other):
        if not isinstance(other, Packet):
            return restore.same(self, other)
        return same_packet(self, <Packet>other)

    def __hash__(self):
        return hash((self._plain_record(), self.data, self._name()))

    def __repr__(self):
        return layout.packet_text(self)

    cdef bytes _plain_record(self):
        """The record without its place in the arena."""
        cdef mcast_record record = self.record[0]
        record.offset = 0
        return PyBytes_FromStringAndSize(<const char *>&record, sizeof(mcast_record))

    cdef object _name(self):
        return self.batch.names.get(self.record.interface_index)

    cdef dict _names(self):
        """The name of the packet's own interface."""
        name = self._name()
        return {} if name is None else {self.record.interface_index: name}

    cdef bytes _packed_source(self):
        return PyBytes_FromStringAndSize(<const char *>self.record.source, 16)


cdef void read_payload(Packet packet, unsigned char *to) noexcept nogil:
    if packet.batch.reference == NULL:
        memcpy(to, packet.batch.data_memory.bytes + packet.record.offset, packet.record.length)
    else:
        mcast_reference_read(packet.batch.reference, packet.record.offset, to, packet.record.length)


cdef bint same_record(const mcast_record *left, const mcast_record *right) noexcept nogil:
    """All but where the payloads are."""
    cdef size_t after = AT_OFFSET + sizeof(uint32_t)
    return (memcmp(left, right, AT_OFFSET) == 0 and
            memcmp(<const char *>left + after, <const char *>right + after, sizeof(mcast_record) - after) == 0)


cdef bint same_packet(Packet left, Packet right) except -1:
    return same_record(left.record, right.record) and left._name() == right._name() and left.data == right.data


cdef bint same_batch(Batch left, Batch right) except -1:
    cdef Py_ssize_t i
    if left.count != right.count:
        return False
    for i in range(left.count):
        if not same_record(&left.first[i], &right.first[i]):
            return False
    for i in range(left.count):
        if not same_packet(make_packet(left, i), make_packet(right, i)):
            return False
    return True
