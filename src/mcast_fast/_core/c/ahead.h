/* Payloads that are read soon, fetched into the cache meanwhile: a ring's memory was written by another processor, and a miss costs
 * more than all the rest of a packet. And what compilers cannot know: what is seldom. */
#ifndef MCAST_AHEAD_H
#define MCAST_AHEAD_H

#include "platform.h"
#include "record.h"
#include <stddef.h>

#if defined(__GNUC__)
#define MCAST_PREFETCH(address) __builtin_prefetch(address)
#define MCAST_SELDOM __attribute__((noinline)) /* kept out of the loop that calls it, and its registers too */
#define MCAST_ALWAYS __attribute__((always_inline)) inline
#else
#define MCAST_ALWAYS inline
#define MCAST_PREFETCH(address) ((void)(address))
#define MCAST_SELDOM
#endif

enum { MCAST_AHEAD = 3, MCAST_AHEAD_LINES = 8 };

/* What comes MCAST_AHEAD packets after `at`. The address may be one where nothing is any more: a prefetch never faults. */
static inline void
mcast_look_ahead(const unsigned char *arena, const mcast_record *records, size_t at, size_t count)
{
    if (at + MCAST_AHEAD >= count)
        return;
    const mcast_record *record = &records[at + MCAST_AHEAD];
    size_t size =
        record->length < MCAST_AHEAD_LINES * MCAST_CACHE_LINE ? record->length : MCAST_AHEAD_LINES * MCAST_CACHE_LINE;
    for (size_t i = 0; i < size; i += MCAST_CACHE_LINE)
        MCAST_PREFETCH(arena + record->offset + i);
}

#endif
