/* Numbers of payloads that are long enough for their format: no field is looked for an end, and each is one load. */
#ifndef MCAST_QUICK_H
#define MCAST_QUICK_H

#include "sequence.h"

static inline uint64_t
mcast_load_big(const uint8_t *at)
{
    return (uint64_t)at[0] << 56 | (uint64_t)at[1] << 48 | (uint64_t)at[2] << 40 | (uint64_t)at[3] << 32 |
           (uint64_t)at[4] << 24 | (uint64_t)at[5] << 16 | (uint64_t)at[6] << 8 | at[7];
}

static inline uint64_t
mcast_load_little(const uint8_t *at)
{
    return (uint64_t)at[7] << 56 | (uint64_t)at[6] << 48 | (uint64_t)at[5] << 40 | (uint64_t)at[4] << 32 |
           (uint64_t)at[3] << 24 | (uint64_t)at[2] << 16 | (uint64_t)at[1] << 8 | at[0];
}

static inline uint64_t
mcast_quick_value(const mcast_quick *field, const uint8_t *payload)
{
    const uint8_t *at = payload + field->offset;
    return (field->little ? mcast_load_little(at) : mcast_load_big(at)) >> field->down & field->mask;
}

static inline void
mcast_quick_key(const mcast_format *format, const uint8_t *payload, uint64_t key[2])
{
    uint64_t high = 0, low = 0;
    for (uint32_t i = 0; i < format->key_count; i++) {
        const mcast_quick *field = &format->quick_keys[i];
        uint64_t value = mcast_quick_value(field, payload);
        if (!field->word) {
            high |= value << field->up;
            continue;
        }
        low |= value << field->up;
        if (field->across)
            high |= value >> field->across;
    }
    key[0] = high;
    key[1] = low;
}

static inline int
mcast_quick_passes(const mcast_format *format, const uint8_t *payload)
{
    for (uint32_t i = 0; i < format->test_count; i++) {
        const mcast_quick_test *test = &format->quick_tests[i];
        uint64_t bytes;
        memcpy(&bytes, payload + test->offset, sizeof bytes);
        if ((bytes & test->mask) != test->wanted)
            return 0;
    }
    return 1;
}

/* A number, a key of at most eight bytes, and a test, in network order: no loops. Where a format has no key or no test, its mask is 0. */
static inline void
mcast_plain_read(const mcast_format *format, const uint8_t *payload, mcast_numbered *numbered)
{
    const mcast_quick_test *test = &format->quick_tests[0];
    const mcast_quick *number = &format->quick_number, *key = &format->quick_keys[0];
    uint64_t bytes;
    memcpy(&bytes, payload + test->offset, sizeof bytes);
    if ((bytes & test->mask) != test->wanted) {
        *numbered = (mcast_numbered){.kind = MCAST_OTHER};
        return;
    }
    numbered->number = mcast_load_big(payload + number->offset) >> number->down & number->mask;
    numbered->key[0] = (mcast_load_big(payload + key->offset) >> key->down & key->mask) << key->up;
    numbered->key[1] = 0;
    numbered->count = 1;
    numbered->kind = MCAST_DATA;
}

static inline void
mcast_quick_read(const mcast_format *format, const uint8_t *payload, mcast_numbered *numbered)
{
    if (!mcast_quick_passes(format, payload)) {
        *numbered = (mcast_numbered){.kind = MCAST_OTHER};
        return;
    }
    uint64_t count = 1;
    numbered->kind = MCAST_DATA;
    numbered->number = mcast_quick_value(&format->quick_number, payload);
    if (format->has_high)
        numbered->number += mcast_quick_value(&format->quick_high, payload) * format->scale;
    mcast_quick_key(format, payload, numbered->key);
    if (format->has_count) {
        count = mcast_quick_value(&format->quick_count, payload);
        if (count == format->end || count == 0 || count == format->heartbeat) {
            numbered->kind = count == format->end ? MCAST_END : MCAST_HEARTBEAT;
            count = 0;
        }
    }
    numbered->count = (uint32_t)count;
}

/* What a packet is to a sequence. `numbered` is whole in any case: zeros where nothing could be read. */
static inline void
mcast_sequence_read(const mcast_format *format, const uint8_t *payload, size_t length, mcast_numbered *numbered)
{
    if (length >= format->enough_if_plain)
        mcast_plain_read(format, payload, numbered);
    else if (length >= format->enough)
        mcast_quick_read(format, payload, numbered);
    else
        mcast_sequence_read_any(format, payload, length, numbered);
}

#endif
