#include "match.h"

static int
is_within(const mcast_match_range *range, const uint8_t *bytes)
{
    return memcmp(bytes, range->first, range->size) >= 0 && memcmp(bytes, range->last, range->size) <= 0;
}

/* memmem(3) is not everywhere. */
static int
is_in(const mcast_match_range *range, const uint8_t *payload, size_t length)
{
    if (range->size == 0 || length < range->size)
        return range->size == 0;
    const uint8_t *end = payload + length - range->size + 1;
    for (const uint8_t *at = payload; (at = memchr(at, range->first[0], (size_t)(end - at))) != NULL; at++)
        if (memcmp(at, range->first, range->size) == 0)
            return 1;
    return 0;
}

static uint64_t
number_of(const mcast_match_test *test, const mcast_record *record)
{
    if (test->subject == MCAST_MATCH_SIZE)
        return record->wire_length ? record->wire_length : record->length;
    return test->subject == MCAST_MATCH_PORT ? record->port : record->source_port;
}

static int
has_range(const mcast_match_test *test, const mcast_record *record, const uint8_t *payload, const uint8_t *bytes,
          uint64_t number)
{
    for (uint32_t i = 0; i < test->count; i++) {
        const mcast_match_range *range = &test->ranges[i];
        if (test->subject == MCAST_MATCH_CONTENTS ? is_in(range, payload, record->length)
            : bytes != NULL                       ? is_within(range, bytes)
                                                  : range->low <= number && number <= range->high)
            return 1;
    }
    return 0;
}

static int
passes(const mcast_match_test *test, const mcast_record *record, const uint8_t *payload)
{
    const uint8_t *bytes = NULL;
    uint64_t number = 0;
    switch (test->subject) {
    case MCAST_MATCH_SOURCE:
        bytes = record->source;
        break;
    case MCAST_MATCH_GROUP:
        bytes = record->group;
        break;
    case MCAST_MATCH_INTEGER:
        if (!mcast_field_read(&test->field, payload, record->length, &number))
            return 0;
        break;
    case MCAST_MATCH_BYTES:
        bytes = mcast_field_find(&test->field, payload, record->length);
        if (bytes == NULL)
            return 0;
        break;
    case MCAST_MATCH_CONTENTS:
        break;
    default:
        number = number_of(test, record);
    }
    return has_range(test, record, payload, bytes, number) != test->negated;
}

size_t
mcast_match(const mcast_match_test *tests, size_t test_count, const mcast_record *records, size_t count,
            const uint8_t *arena, mcast_record *to)
{
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *payload = arena + records[i].offset;
        size_t at = 0;
        while (at < test_count && passes(&tests[at], &records[i], payload))
            at++;
        if (at == test_count)
            to[found++] = records[i];
    }
    return found;
}
