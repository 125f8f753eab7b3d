/* What a socket may deliver: (group, interface) pairs, each with a set of sources to include or exclude (RFC 3678).
 *
 * The kernel alone is not enough: an IPv6 membership is not per interface, and what was queued before a leave or block still
 * comes out after it. So every record is checked here. */
#ifndef MCAST_FILTER_H
#define MCAST_FILTER_H

#include "record.h"
#include <stdlib.h>

typedef struct mcast_entry {
    uint8_t group[16];
    uint32_t interface_index; /* 0 = any */
    uint32_t exclude;         /* the sources are those not wanted; else those wanted */
    uint32_t first_source;    /* in the filter's `sources`, sorted */
    uint32_t sources;
} mcast_entry;

typedef struct mcast_filter {
    mcast_entry
        *entries; /* a hash table by group and interface: `mask` + 1 places, exclude == MCAST_UNUSED where empty */
    uint8_t (*sources)[16];
    uint32_t mask;
    uint32_t everything; /* no check at all: a socket for unicast replies */
    const mcast_entry *latest;
} mcast_filter;

enum { MCAST_UNUSED = 2 };

static inline uint32_t
mcast_entry_hash(const uint8_t group[16], uint32_t interface_index)
{
    uint32_t words[4], hash = interface_index * 0x9e3779b1u;
    memcpy(words, group, 16);
    for (int i = 0; i < 4; i++)
        hash = (hash ^ words[i]) * 0x85ebca6bu ^ hash >> 15;
    return hash ^ hash >> 13;
}

static inline int
mcast_entry_is(const mcast_entry *entry, const uint8_t group[16], uint32_t interface_index)
{
    return entry->interface_index == interface_index && mcast_same_address(entry->group, group);
}

/* The place of (group, interface), or the free one where it belongs. The table is never full. */
static inline mcast_entry *
mcast_filter_place(const mcast_filter *filter, const uint8_t group[16], uint32_t interface_index)
{
    uint32_t i = mcast_entry_hash(group, interface_index) & filter->mask;
    while (filter->entries[i].exclude != MCAST_UNUSED && !mcast_entry_is(&filter->entries[i], group, interface_index))
        i = (i + 1) & filter->mask;
    return &filter->entries[i];
}

static inline int
mcast_compare_addresses(const void *left, const void *right)
{
    return memcmp(left, right, 16);
}

static inline void
mcast_filter_free(mcast_filter *filter)
{
    free(filter->entries);
    free(filter->sources);
    memset(filter, 0, sizeof *filter);
}

/* An empty filter, which lets nothing pass, with space for that many entries and sources; 0, or -1 without memory. */
static inline int
mcast_filter_open(mcast_filter *filter, size_t entries, size_t sources)
{
    size_t places = 4;
    while (places < entries * 2)
        places *= 2;
    memset(filter, 0, sizeof *filter);
    filter->mask = (uint32_t)(places - 1);
    filter->entries = malloc(places * sizeof *filter->entries);
    filter->sources = malloc((sources ? sources : 1) * 16);
    if (!filter->entries || !filter->sources) {
        mcast_filter_free(filter);
        return -1;
    }
    for (size_t i = 0; i < places; i++)
        filter->entries[i].exclude = MCAST_UNUSED;
    return 0;
}

/* Add one entry whose sources, unsorted, are already at first_source. */
static inline void
mcast_filter_add(mcast_filter *filter, const mcast_entry *entry)
{
    qsort(filter->sources + entry->first_source, entry->sources, 16, mcast_compare_addresses);
    *mcast_filter_place(filter, entry->group, entry->interface_index) = *entry;
}

/* The entry for an address on an interface, or else on any; NULL without one. */
static inline const mcast_entry *
mcast_filter_look(const mcast_filter *filter, const uint8_t address[16], uint32_t interface_index)
{
    const mcast_entry *entry = mcast_filter_place(filter, address, interface_index);
    if (entry->exclude == MCAST_UNUSED)
        entry = mcast_filter_place(filter, address, 0);
    return entry->exclude == MCAST_UNUSED ? NULL : entry;
}

static inline const mcast_entry *
mcast_filter_find(mcast_filter *filter, const mcast_record *record)
{
    if (filter->latest && mcast_entry_is(filter->latest, record->group, record->interface_index))
        return filter->latest;
    const mcast_entry *entry = mcast_filter_look(filter, record->group, record->interface_index);
    if (!entry)
        return NULL;
    filter->latest = entry->interface_index ? entry : NULL;
    return entry;
}

/* Whether an entry lets this source pass. */
static inline int
mcast_entry_allows(const mcast_filter *filter, const mcast_entry *entry, const uint8_t source[16])
{
    if (entry->sources == 0)
        return (int)entry->exclude;
    int listed =
        bsearch(source, filter->sources + entry->first_source, entry->sources, 16, mcast_compare_addresses) != NULL;
    return listed != (int)entry->exclude;
}

/* Whether the group, interface and source of the record are wanted. */
static inline int
mcast_filter_allows(mcast_filter *filter, const mcast_record *record)
{
    if (filter->everything)
        return 1;
    const mcast_entry *entry = mcast_filter_find(filter, record);
    return entry && mcast_entry_allows(filter, entry, record->source);
}

#endif
