"""Numbers of packets: c/sequence.h."""

from libc.stdint cimport UINT64_MAX

from mcast_fast._core import extraction

cdef extern from "sequence.h":
    enum:
        MCAST_KEY_SIZE
        MCAST_MOST_KEYS
        MCAST_MOST_TESTS
    ctypedef struct mcast_field:
        uint64_t mask
        uint32_t offset
        uint8_t width
        uint8_t shift
        uint8_t little
        uint8_t after_rtp
    ctypedef struct mcast_format:
        mcast_field number
        mcast_field high
        mcast_field count
        mcast_field keys[4]
        mcast_field tests[4]
        uint64_t wanted[4]
        uint64_t scale
        uint64_t heartbeat
        uint64_t end
        uint64_t parameter
        uint32_t key_count
        uint32_t test_count
        uint8_t has_high
        uint8_t has_count
        uint8_t after_rtp
        uint8_t bits
        uint8_t layout
    void mcast_sequence_columns(const mcast_format *format, const mcast_record *records, size_t count,
                                const unsigned char *arena, uint64_t *numbers, uint32_t *counts,
                                void *keys, uint8_t *kinds) nogil

if (MCAST_KEY_SIZE, MCAST_MOST_KEYS, MCAST_MOST_TESTS) != (
        extraction.KEY_SIZE, extraction.MOST_KEYS, extraction.MOST_TESTS):
    raise ImportError("the compiled plan of a format is not that of extraction.py: rebuild the extension")


cdef mcast_field field_of(place) except *:
    """A field as it is read; its integers are in range, or OverflowError."""
    cdef mcast_field field
    field.mask = place.mask
    field.offset = place.offset
    field.width = place.width
    field.shift = place.shift
    field.little = place.little
    field.after_rtp = place.after_rtp
    return field


cdef int fill_format(mcast_format *format, plan) except -1:
    """A plan of extraction.py as the C has it."""
    cdef int i
    places = [plan.number, plan.high, plan.count, *plan.keys, *(place for place, _ in plan.tests)]
    if len(plan.keys) > MCAST_MOST_KEYS or len(plan.tests) > MCAST_MOST_TESTS:
        raise ValueError("the plan has too many fields")
    if sum(place.width for place in plan.keys) > MCAST_KEY_SIZE or not 1 <= plan.bits <= 64:
        raise ValueError("the plan has a key or a number that is too long")
    if any(place is not None and not 1 <= place.width <= (8 if place.mask else MCAST_KEY_SIZE) for place in places):
        raise ValueError("the plan has a field that is too long")
    memset(format, 0, sizeof(mcast_format))
    format.number = field_of(plan.number)
    format.has_high = plan.high is not None
    if format.has_high:
        format.high = field_of(plan.high)
    format.has_count = plan.count is not None
    if format.has_count:
        format.count = field_of(plan.count)
    for i, place in enumerate(plan.keys):
        format.keys[i] = field_of(place)
    for i, (place, value) in enumerate(plan.tests):
        format.tests[i] = field_of(place)
        format.wanted[i] = value
    format.key_count, format.test_count = len(plan.keys), len(plan.tests)
    format.after_rtp = any(place is not None and place.after_rtp for place in places)
    format.scale = plan.scale
    format.heartbeat = UINT64_MAX if plan.heartbeat is None else plan.heartbeat
    format.end = UINT64_MAX if plan.end is None else plan.end
    format.parameter = plan.parameter
    format.bits, format.layout = plan.bits, int(plan.layout)
    return 0


def columns_of(packets, plan):
    """What each packet of a batch is to a sequence, as `extraction.Columns`; of a ring's batch without a copy."""
    if not isinstance(packets, Batch):
        raise TypeError(f"a batch is required, not {type(packets).__name__}")
    cdef Batch batch = packets
    cdef mcast_format format
    fill_format(&format, plan)
    cdef size_t count = <size_t>batch.count
    cdef bytes numbers = PyBytes_FromStringAndSize(NULL, count * 8)
    cdef bytes counts = PyBytes_FromStringAndSize(NULL, count * 4)
    cdef bytes keys = PyBytes_FromStringAndSize(NULL, count * MCAST_KEY_SIZE)
    cdef bytes kinds = PyBytes_FromStringAndSize(NULL, count)
    cdef uint64_t *to_numbers = <uint64_t *><char *>numbers
    cdef uint32_t *to_counts = <uint32_t *><char *>counts
    cdef void *to_keys = <void *><char *>keys
    cdef uint8_t *to_kinds = <uint8_t *><char *>kinds
    cdef int pinned
    cdef const unsigned char *arena
    with nogil:
        arena = arena_in_place(batch, &pinned)
        mcast_sequence_columns(&format, batch.first, count, arena, to_numbers, to_counts, to_keys, to_kinds)
        arena_left(batch, pinned)
    return extraction.as_columns(numbers, counts, keys, kinds)
