/* Where the number of a packet is, and reading it: a format as _core/extraction.py describes it. No read leaves the payload. */
#ifndef MCAST_SEQUENCE_H
#define MCAST_SEQUENCE_H

#include "ahead.h"
#include "record.h"
#include <stddef.h>

enum { MCAST_KEY_SIZE = 16, MCAST_MOST_KEYS = 4, MCAST_MOST_TESTS = 4 };
enum { MCAST_DATA, MCAST_HEARTBEAT, MCAST_END, MCAST_SHORT, MCAST_OTHER };                /* kinds of packets */
enum { MCAST_BY_FIELDS, MCAST_BY_SPEAD, MCAST_BY_IPERF2, MCAST_BY_MCJOIN, MCAST_BY_LCM }; /* layouts */

/* A field: `width` bytes at `offset`, from the payload's start or from behind its RTP header. `mask` 0: bytes, no integer. */
typedef struct mcast_field {
    uint64_t mask;
    uint32_t offset;
    uint8_t width;
    uint8_t shift;
    uint8_t little;
    uint8_t after_rtp;
} mcast_field;

/* A field as one load of eight bytes gives it: shifted down, and masked. A part of a key is shifted up to where it is in one of the key's
 * two words; of one that begins in the first and ends in the second, `across` more goes to the first. */
typedef struct mcast_quick {
    uint64_t mask;
    uint32_t offset;
    uint8_t down, little;
    uint8_t word, up, across;
} mcast_quick;

/* A test as one load of eight bytes passes it: those of `mask` are those of `wanted`, in the payload's own order. */
typedef struct mcast_quick_test {
    uint64_t mask, wanted;
    uint32_t offset;
} mcast_quick_test;

typedef struct mcast_format {
    mcast_field number, high, count;
    mcast_field keys[MCAST_MOST_KEYS];
    mcast_field tests[MCAST_MOST_TESTS];
    uint64_t wanted[MCAST_MOST_TESTS]; /* what the tests must find */
    uint64_t scale;                    /* of `high` */
    uint64_t heartbeat, end;           /* values of the count; UINT64_MAX: none */
    uint64_t parameter;                /* SPEAD: bytes of payload per packet; 0: numbers count bytes */
    uint32_t key_count, test_count;
    uint8_t has_high, has_count, after_rtp; /* after_rtp: whether any field is */
    uint8_t bits;                           /* of the number, 1 to 64: it wraps after them */
    uint8_t layout;
    uint32_t enough; /* bytes of payload from which on every field may be read by loads of eight; UINT32_MAX: never */
    uint32_t enough_if_plain; /* the same of a format that mcast_plain_read can read */
    uint64_t mask, half;      /* of the numbers: all bits, and half of the range */
    mcast_quick quick_number, quick_high, quick_count, quick_keys[MCAST_MOST_KEYS];
    mcast_quick_test quick_tests[MCAST_MOST_TESTS];
} mcast_format;

typedef struct mcast_numbered {
    uint64_t number;
    uint64_t key[2]; /* the key's bytes as integers, the first byte highest */
    uint32_t count;  /* numbers that the packet covers */
    uint8_t kind;
} mcast_numbered;

/* To be called once the rest is filled in. */
void mcast_format_prepare(mcast_format *format);

/* What a packet is to a sequence; quick.h has the way in. */
void mcast_sequence_read_any(const mcast_format *format, const uint8_t *payload, size_t length,
                             mcast_numbered *numbered);

/* Where a field of a payload is; NULL where that ends before the field does. */
const uint8_t *mcast_field_find(const mcast_field *field, const uint8_t *payload, size_t length);

/* An integer of a payload; 0 where that ends before the field does. */
int mcast_field_read(const mcast_field *field, const uint8_t *payload, size_t length, uint64_t *value);

/* Bytes of the RTP header with its contributing sources and its extension (RFC 3550, 5.1 and 5.3.1); beyond any payload where it is cut off. */
size_t mcast_rtp_size(const uint8_t *payload, size_t length);

/* The bytes of a key. */
void mcast_sequence_write_key(const uint64_t key[2], uint8_t bytes[MCAST_KEY_SIZE]);

/* The number of a packet that is read soon, fetched into the cache meanwhile; of a payload no more than that. */
static inline void
mcast_sequence_look_ahead(const mcast_format *format, const mcast_record *records, size_t at, size_t count,
                          const uint8_t *arena)
{
    enum { AHEAD = 24 };
    if (at + AHEAD < count)
        MCAST_PREFETCH(arena + records[at + AHEAD].offset + format->number.offset);
}

/* The same for all packets of a batch, as columns. */
void mcast_sequence_columns(const mcast_format *format, const mcast_record *records, size_t count, const uint8_t *arena,
                            uint64_t *numbers, uint32_t *counts, uint8_t (*keys)[MCAST_KEY_SIZE], uint8_t *kinds);

#endif
