"""Payloads of a batch as rows, the packets of a batch that match, and in the order of time."""

from libc.string cimport memcmp


cdef object rows_of(Batch batch, Py_ssize_t size):
    """The first `size` bytes of each payload: a view where they are adjacent, and no ring's; else a copy."""
    cdef bint adjacent = batch.reference == NULL
    cdef Py_ssize_t i
    cdef size_t start
    cdef bytes copied
    for i in range(batch.count):
        if batch.first[i].length < size:
            raise columns.too_short(i, batch.first[i].length, size)
        if i and <size_t>batch.first[i].offset != <size_t>batch.first[i - 1].offset + <size_t>size:
            adjacent = False
    if adjacent and batch.count:
        start = batch.first[0].offset
        return columns.as_rows(memoryview(arena_of(batch))[start:start + <size_t>(batch.count * size)], size)
    copied = PyBytes_FromStringAndSize(NULL, batch.count * size)
    copy_rows(batch, <unsigned char *><char *>copied, <size_t>size)
    return columns.as_rows(memoryview(copied), size)


cdef void copy_rows(Batch batch, unsigned char *to, size_t size):
    cdef Py_ssize_t i
    cdef int pinned
    cdef const unsigned char *arena
    with nogil:
        arena = arena_in_place(batch, &pinned)
        for i in range(batch.count):
            memcpy(to + <size_t>i * size, arena + batch.first[i].offset, size)
        arena_left(batch, pinned)


cdef bint is_match(const mcast_record *record, const unsigned char *group, const unsigned char *source, int port,
                   interfaces) except -1:
    """Whether a record is wanted; NULL, -1 and None: any is."""
    if port >= 0 and record.port != port:
        return False
    if group != NULL and memcmp(record.group, group, 16) != 0:
        return False
    if source != NULL and memcmp(record.source, source, 16) != 0:
        return False
    return interfaces is None or record.interface_index in interfaces


cdef Batch batch_where(Batch batch, bytes group, bytes source, int port, interfaces):
    """The packets that match, with records of their own and the same arena."""
    cdef const unsigned char *wanted_group = NULL
    cdef const unsigned char *wanted_source = NULL
    cdef Batch found = make_part(batch, 0, 0)
    cdef Py_ssize_t i, count = 0
    if group is not None:
        wanted_group = <const unsigned char *><char *>group
    if source is not None:
        wanted_source = <const unsigned char *><char *>source
    for i in range(batch.count):
        count += is_match(&batch.first[i], wanted_group, wanted_source, port, interfaces)
    make_room(&found.records_memory, <size_t>count * sizeof(mcast_record))
    found.first = <mcast_record *>found.records_memory.bytes
    for i in range(batch.count):
        if is_match(&batch.first[i], wanted_group, wanted_source, port, interfaces):
            found.first[found.count] = batch.first[i]
            found.count += 1
    found.records_memory.used = <size_t>count * sizeof(mcast_record)
    return found


cdef void merge_records(const mcast_record *left, const mcast_record *middle, const mcast_record *end,
                        mcast_record *to) noexcept nogil:
    """Two runs, from left and from middle on, each in the order of time, as one; equal times stay in their order."""
    cdef const mcast_record *right = middle
    cdef const mcast_record *left_end = middle
    while left < left_end or right < end:
        if right == end or (left < left_end and left.timestamp <= right.timestamp):
            to[0] = left[0]
            left += 1
        else:
            to[0] = right[0]
            right += 1
        to += 1


cdef const mcast_record *run_end(const mcast_record *at, const mcast_record *end) noexcept nogil:
    """Where the order of time ends that begins at `at`."""
    if at < end:
        at += 1
    while at < end and at[-1].timestamp <= at.timestamp:
        at += 1
    return at


cdef int merge_runs(mcast_record *records, mcast_record *spare, size_t count) noexcept nogil:
    """Merges neighbouring runs from `records` into `spare`; whether one run is left."""
    cdef const mcast_record *at = records
    cdef const mcast_record *middle
    cdef const mcast_record *end = records
    cdef int merges = 0
    while end < records + count:
        middle = run_end(at, records + count)
        end = run_end(middle, records + count)
        merge_records(at, middle, end, spare + (at - records))
        at = end
        merges += 1
    return merges <= 1


def by_time(Batch batch not None):
    """The packets of a batch in the order of their times, those of one time in their order; itself where they are."""
    cdef const mcast_record *end = batch.first + batch.count
    cdef size_t count = <size_t>batch.count, size = count * sizeof(mcast_record)
    cdef Batch found, spare
    cdef int done = 0
    if run_end(batch.first, end) == end:
        return batch
    found, spare = make_part(batch, 0, 0), make_part(batch, 0, 0)
    make_room(&found.records_memory, size)
    found.first = <mcast_record *>found.records_memory.bytes
    make_room(&spare.records_memory, size)
    spare.first = <mcast_record *>spare.records_memory.bytes
    with nogil:
        memcpy(found.first, batch.first, size)
    while not done:
        with nogil:
            done = merge_runs(found.first, spare.first, count)
        found, spare = spare, found
    found.count = batch.count
    found.records_memory.used = size
    return found


def extent(Batch batch not None):
    """(the earliest time, the latest one, the groups) of a batch that is not empty; an unknown time is 0."""
    cdef int64_t earliest = INT64_MAX, latest = INT64_MIN
    cdef const mcast_record *record
    cdef const mcast_record *before = NULL
    cdef set groups = set()
    cdef Py_ssize_t i
    for i in range(batch.count):
        record = &batch.first[i]
        earliest = min(earliest, record.timestamp)
        latest = max(latest, record.timestamp)
        if before == NULL or memcmp(record.group, before.group, 16) != 0:
            groups.add(PyBytes_FromStringAndSize(<const char *>record.group, 16))
        before = record
    return earliest, latest, frozenset(groups)
