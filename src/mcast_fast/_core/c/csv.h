/* Records as rows of CSV: numbers and payloads as text. */
#ifndef MCAST_CSV_H
#define MCAST_CSV_H

#include "record.h"
#include <string.h>

/* Bytes that a row has at most beside the texts of its interface and addresses, and its payload: eight numbers and eleven separators. */
enum { MCAST_CSV_ROW = 20 + 5 + 5 + 3 + 3 + 10 + 5 + 11, MCAST_CSV_ADDRESS = 46 };

static inline unsigned char *
mcast_csv_number(unsigned char *to, uint64_t value)
{
    unsigned char digits[20];
    size_t count = 0;
    do
        digits[count++] = (unsigned char)('0' + value % 10);
    while (value /= 10);
    while (count)
        *to++ = digits[--count];
    return to;
}

static inline unsigned char *
mcast_csv_time(unsigned char *to, int64_t time)
{
    if (time == 0) /* unknown */
        return to;
    if (time < 0)
        *to++ = '-';
    return mcast_csv_number(to, time < 0 ? 0 - (uint64_t)time : (uint64_t)time);
}

static inline unsigned char *
mcast_csv_text(unsigned char *to, const char *text, size_t size)
{
    memcpy(to, text, size);
    return to + size;
}

static inline unsigned char *
mcast_csv_payload(unsigned char *to, const unsigned char *payload, size_t size)
{
    static const char pairs[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a"
                                "2b2c2d2e2f303132333435363738393a3b3c3d3e3f"
                                "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f606162636465666768696a"
                                "6b6c6d6e6f707172737475767778797a7b7c7d7e7f"
                                "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3a4a5a6a7a8a9aa"
                                "abacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf"
                                "c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedfe0e1e2e3e4e5e6e7e8e9ea"
                                "ebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";
    for (size_t i = 0; i < size; i++)
        memcpy(to + 2 * i, pairs + 2 * (size_t)payload[i], 2);
    return to + 2 * size;
}

/* The numbers behind the addresses, and the payload; what is not known is empty. */
static inline unsigned char *
mcast_csv_rest(unsigned char *to, const mcast_record *record, const unsigned char *payload)
{
    int is_truncated = (record->flags & MCAST_TRUNCATED) != 0;
    *to++ = ',';
    to = mcast_csv_number(to, record->port);
    *to++ = ',';
    if (record->flags & MCAST_TTL)
        to = mcast_csv_number(to, record->ttl);
    *to++ = ',';
    if (record->flags & MCAST_TOS)
        to = mcast_csv_number(to, record->tos);
    *to++ = ',';
    to = mcast_csv_number(to, record->dropped);
    *to++ = ',';
    if (record->wire_length || (record->length == 0 && !is_truncated))
        to = mcast_csv_number(to, record->wire_length);
    *to++ = ',';
    to = mcast_csv_payload(to, payload, record->length);
    *to++ = '\n';
    return to;
}

#endif
