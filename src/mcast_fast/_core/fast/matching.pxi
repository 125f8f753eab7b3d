"""Packets of a batch that pass tests: c/match.h."""

from mcast_fast._core.matching import LONGEST, MOST_TESTS, MOST_VALUES, Subject

cdef extern from "match.h":
    enum:
        MCAST_MATCH_TESTS
        MCAST_MATCH_VALUES
        MCAST_MATCH_LONGEST
        MCAST_MATCH_INTEGER
        MCAST_MATCH_BYTES
        MCAST_MATCH_CONTENTS
    ctypedef struct mcast_match_range:
        uint64_t low
        uint64_t high
        uint8_t first[64]
        uint8_t last[64]
        size_t size
    ctypedef struct mcast_match_test:
        mcast_field field
        uint8_t subject
        uint8_t negated
        uint32_t count
        mcast_match_range ranges[16]
    size_t mcast_match(const mcast_match_test *tests, size_t test_count, const mcast_record *records, size_t count,
                       const unsigned char *arena, mcast_record *to) nogil

if (MCAST_MATCH_TESTS, MCAST_MATCH_VALUES, MCAST_MATCH_LONGEST, MCAST_MATCH_CONTENTS) != (
        MOST_TESTS, MOST_VALUES, LONGEST, Subject.CONTENTS):
    raise ImportError("the compiled tests of packets are not those of matching.py: rebuild the extension")


cdef int fill_range(mcast_match_range *range, first, last, size_t wanted) except -1:
    """Integers, or bytes of which there are as many as `wanted`; 0: any number of them."""
    cdef bytes low, high
    if isinstance(first, int):
        range.low, range.high = first, last
        return 0
    low, high = first, last
    range.size = <size_t>len(low)
    if range.size != <size_t>len(high) or range.size > MCAST_MATCH_LONGEST or wanted not in (0, range.size):
        raise ValueError("a test has bytes of a wrong number")
    memcpy(range.first, <char *>low, range.size)
    memcpy(range.last, <char *>high, range.size)
    return 0


cdef int fill_test(mcast_match_test *test, given) except -1:
    """A test of matching.py as the C has it."""
    cdef int i
    cdef size_t wanted
    subject = int(given.subject)
    if len(given.ranges) > MCAST_MATCH_VALUES or not 0 <= subject <= MCAST_MATCH_CONTENTS:
        raise ValueError("a test has too many values, or no subject")
    memset(test, 0, sizeof(mcast_match_test))
    test.subject, test.negated, test.count = subject, given.negated, len(given.ranges)
    if (given.place is None) == (subject in (MCAST_MATCH_INTEGER, MCAST_MATCH_BYTES)):
        raise ValueError("a test has a place too many, or none")
    wanted = 16 if subject <= Subject.GROUP else 0
    if given.place is not None:
        test.field = field_of(given.place, MCAST_KEY_SIZE if subject == MCAST_MATCH_BYTES else 8)
        wanted = test.field.width if subject == MCAST_MATCH_BYTES else 0
    for i, (first, last) in enumerate(given.ranges):
        if isinstance(first, int) == (subject in (0, 1, MCAST_MATCH_BYTES, MCAST_MATCH_CONTENTS)):
            raise ValueError("a test has values of a wrong type")
        fill_range(&test.ranges[i], first, last, wanted)
    return 0


def matching(batch, tests):
    """The packets of a batch that pass all tests, as a batch in the same order and memory."""
    if not isinstance(batch, Batch):
        raise TypeError(f"a batch is required, not {type(batch).__name__}")
    cdef Batch whole = batch
    cdef Batch found = make_part(whole, 0, 0)
    cdef mcast_match_test filled[MCAST_MATCH_TESTS]
    cdef size_t i, number = <size_t>len(tests), count = <size_t>whole.count, passed
    cdef int pinned
    cdef const unsigned char *arena
    if number > MCAST_MATCH_TESTS:
        raise ValueError("there are too many tests")
    for i in range(number):
        fill_test(&filled[i], tests[i])
    make_room(&found.records_memory, count * sizeof(mcast_record))
    found.first = <mcast_record *>found.records_memory.bytes
    with nogil:
        arena = arena_in_place(whole, &pinned)
        passed = mcast_match(filled, number, whole.first, count, arena, found.first)
        arena_left(whole, pinned)
    found.count = <Py_ssize_t>passed
    found.records_memory.used = passed * sizeof(mcast_record)
    return found
