/* What packets are chosen by: tests over records and payloads, all of which must pass; _core/matching.py describes them. No read leaves
 * the payload. */
#ifndef MCAST_MATCH_H
#define MCAST_MATCH_H

#include "record.h"
#include "sequence.h"

enum { MCAST_MATCH_TESTS = 16, MCAST_MATCH_VALUES = 16, MCAST_MATCH_LONGEST = 64 };
enum {
    MCAST_MATCH_SOURCE,
    MCAST_MATCH_GROUP,
    MCAST_MATCH_SOURCE_PORT,
    MCAST_MATCH_PORT,
    MCAST_MATCH_SIZE,
    MCAST_MATCH_INTEGER,
    MCAST_MATCH_BYTES,
    MCAST_MATCH_CONTENTS
};

/* From the first to the last value: integers, or bytes of which there are `size`. */
typedef struct mcast_match_range {
    uint64_t low, high;
    uint8_t first[MCAST_MATCH_LONGEST], last[MCAST_MATCH_LONGEST];
    size_t size;
} mcast_match_range;

typedef struct mcast_match_test {
    mcast_field field; /* of MCAST_MATCH_INTEGER and MCAST_MATCH_BYTES */
    uint8_t subject, negated;
    uint32_t count;
    mcast_match_range ranges[MCAST_MATCH_VALUES];
} mcast_match_test;

/* Copies the records that pass all tests; how many. `to` has space for all of them. */
size_t mcast_match(const mcast_match_test *tests, size_t test_count, const mcast_record *records, size_t count,
                   const uint8_t *arena, mcast_record *to);

#endif
