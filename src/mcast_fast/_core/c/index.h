/* What a receiver wants, found by (group, port, interface): a hash table over the entries of all its filters, so that a packet costs the
 * same whether one group is joined or thousands. */
#ifndef MCAST_INDEX_H
#define MCAST_INDEX_H

#include "filter.h"

/* An entry of a filter, and the port at which it holds. The filter owns the entry. */
typedef struct mcast_wanted {
    const mcast_filter *filter;
    const mcast_entry *entry;
    uint32_t port;
} mcast_wanted;

typedef struct mcast_index {
    uint64_t *slots; /* by hash: the hash above, the number of the item + 1 below; 0 is empty */
    mcast_wanted *items;
    uint32_t mask; /* of the slots; half of them at most are used */
    uint32_t count;
    uint32_t capacity; /* of the items */
    uint32_t all;      /* filters that want every group at every port */
    const mcast_wanted *latest;
} mcast_index;

void mcast_index_free(mcast_index *index);

/* Space for that many more items, so that adding cannot fail; 0, or -ENOMEM. */
int mcast_index_reserve(mcast_index *index, size_t more);

/* Adds every entry of a filter. There is space. */
void mcast_index_add(mcast_index *index, const mcast_filter *filter, uint16_t port);

/* Takes every entry of a filter out again. */
void mcast_index_remove(mcast_index *index, const mcast_filter *filter, uint16_t port);

/* A filter that lets everything pass, at port 0, wants what goes to any group, at whichever port; at any other port it is none of the index's. */
static inline int
mcast_wants_all_groups(const mcast_filter *filter, uint16_t port)
{
    return filter->everything && port == 0;
}

/* Whether the record is wanted: group, port, interface and source. A whole frame without a port, as a later fragment is, is wanted where its
 * group is, at whichever port. */
int mcast_index_search(mcast_index *index, const mcast_record *record);

static inline int
mcast_wanted_is(const mcast_wanted *wanted, const mcast_record *record)
{
    return wanted->port == record->port && mcast_entry_is(wanted->entry, record->group, record->interface_index);
}

static inline int
mcast_index_wants(mcast_index *index, const mcast_record *record)
{
    const mcast_wanted *latest = index->latest;
    if (latest && mcast_wanted_is(latest, record) && mcast_entry_allows(latest->filter, latest->entry, record->source))
        return 1;
    return mcast_index_search(index, record);
}

#endif
