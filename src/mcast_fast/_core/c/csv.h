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
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++) {
        to[2 * i] = (unsigned char)digits[payload[i] >> 4];
        to[2 * i + 1] = (unsigned char)digits[payload[i] & 15];
    }
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
