/* Packets that pass tests: no read leaves a payload, wherever it ends; it ends where memory does, as in test_sequence.c. */
#include "guarded.h"
#include "match.h"
#include <string.h>

enum { ROUNDS = 100000, LONGEST = 24 };

static mcast_match_test
random_test(void)
{
    mcast_match_test test = {.subject = (uint8_t)below(MCAST_MATCH_CONTENTS + 1), .negated = (uint8_t)below(2)};
    test.field.offset = below(30);
    test.field.width = (uint8_t)(1 + below(8));
    test.field.after_rtp = below(4) == 0;
    test.field.little = (uint8_t)below(2);
    test.field.mask = test.subject == MCAST_MATCH_BYTES ? 0 : UINT64_MAX;
    test.count = below(3);
    for (uint32_t i = 0; i < test.count; i++) {
        mcast_match_range *range = &test.ranges[i];
        range->low = below(100);
        range->high = below(1000);
        range->size = test.subject == MCAST_MATCH_BYTES      ? test.field.width
                      : test.subject == MCAST_MATCH_CONTENTS ? below(6)
                                                             : 16;
        for (size_t at = 0; at < range->size; at++)
            range->first[at] = range->last[at] = (uint8_t)below(3);
    }
    return test;
}

static void
test_no_read_leaves_the_payload(void)
{
    uint8_t *end = guarded_end();
    size_t seen[2] = {0};
    for (int i = 0; i < ROUNDS; i++) {
        mcast_record record = {.length = (uint16_t)below(LONGEST)}, found;
        mcast_match_test tests[2] = {random_test(), random_test()};
        for (size_t at = 0; at < record.length; at++)
            end[-1 - (ptrdiff_t)at] = (uint8_t)below(3);
        size_t passed = mcast_match(tests, 1 + below(2), &record, 1, end - record.length, &found);
        CHECK(passed <= 1);
        seen[passed]++;
    }
    CHECK(seen[0] && seen[1]);
}

static void
test_contents_are_found_where_they_are(void)
{
    static const char PAYLOAD[] = "aab";
    mcast_match_test test = {.subject = MCAST_MATCH_CONTENTS, .count = 1};
    mcast_record record = {.length = 3}, found;
    memcpy(test.ranges[0].first, "ab", 2);
    test.ranges[0].size = 2;
    CHECK(mcast_match(&test, 1, &record, 1, (const uint8_t *)PAYLOAD, &found) == 1);
    record.length = 2; /* "aa" */
    CHECK(mcast_match(&test, 1, &record, 1, (const uint8_t *)PAYLOAD, &found) == 0);
}

int
main(void)
{
    test_no_read_leaves_the_payload();
    test_contents_are_found_where_they_are();
    puts("packets that pass tests: no read leaves the payload");
    return 0;
}
