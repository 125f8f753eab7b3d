#include "index.h"
#include <errno.h>

enum { FEWEST_SLOTS = 16 };

static uint32_t
hash_of(const uint8_t group[16], uint32_t interface_index, uint32_t port)
{
    uint32_t hash = mcast_entry_hash(group, interface_index) ^ port * 0x9e3779b1u;
    hash ^= hash >> 15;
    hash *= 0x2c1b3c6du;
    return hash ^ hash >> 12;
}

static uint32_t
hash_in(uint64_t slot)
{
    return (uint32_t)(slot >> 32);
}

static uint32_t
item_in(uint64_t slot)
{
    return (uint32_t)slot - 1;
}

static void
put(mcast_index *index, uint64_t slot)
{
    uint32_t at = hash_in(slot) & index->mask;
    while (index->slots[at])
        at = (at + 1) & index->mask;
    index->slots[at] = slot;
}

void
mcast_index_free(mcast_index *index)
{
    free(index->slots);
    free(index->items);
    memset(index, 0, sizeof *index);
}

static int
grow_slots(mcast_index *index, size_t count)
{
    size_t size = FEWEST_SLOTS;
    while (size < count * 2)
        size *= 2;
    if (index->slots && size <= (size_t)index->mask + 1)
        return 0;
    uint64_t *before = index->slots, *slots = calloc(size, sizeof *slots);
    size_t old = before ? (size_t)index->mask + 1 : 0;
    if (!slots)
        return -ENOMEM;
    index->slots = slots;
    index->mask = (uint32_t)(size - 1);
    for (size_t at = 0; at < old; at++)
        if (before[at])
            put(index, before[at]);
    free(before);
    return 0;
}

int
mcast_index_reserve(mcast_index *index, size_t more)
{
    size_t count = index->count + more;
    if (count > index->capacity) {
        size_t capacity = count > 2 * (size_t)index->capacity ? count : 2 * (size_t)index->capacity;
        mcast_wanted *items = capacity <= INT32_MAX ? realloc(index->items, capacity * sizeof *items) : NULL;
        if (!items)
            return -ENOMEM;
        index->items = items;
        index->capacity = (uint32_t)capacity;
        index->latest = NULL;
    }
    return grow_slots(index, count);
}

static void
add_entry(mcast_index *index, const mcast_filter *filter, const mcast_entry *entry, uint16_t port)
{
    uint32_t hash = hash_of(entry->group, entry->interface_index, port);
    index->items[index->count] = (mcast_wanted){filter, entry, port};
    put(index, (uint64_t)hash << 32 | ++index->count);
}

/* The slot of an item: it is there. */
static uint32_t
slot_of(const mcast_index *index, uint32_t hash, uint32_t item)
{
    uint32_t at = hash & index->mask;
    while (index->slots[at] != ((uint64_t)hash << 32 | (item + 1)))
        at = (at + 1) & index->mask;
    return at;
}

/* Empties a slot, and closes the gap: what was put behind it because it was taken moves up. */
static void
empty_slot(mcast_index *index, uint32_t gap)
{
    for (uint32_t at = (gap + 1) & index->mask; index->slots[at]; at = (at + 1) & index->mask) {
        uint32_t home = hash_in(index->slots[at]) & index->mask;
        if (((at - home) & index->mask) >= ((at - gap) & index->mask)) {
            index->slots[gap] = index->slots[at];
            gap = at;
        }
    }
    index->slots[gap] = 0;
}

static uint32_t
hash_of_item(const mcast_wanted *item)
{
    return hash_of(item->entry->group, item->entry->interface_index, item->port);
}

static void
remove_entry(mcast_index *index, const mcast_entry *entry, uint16_t port)
{
    uint32_t hash = hash_of(entry->group, entry->interface_index, port), at = hash & index->mask;
    while (index->slots[at] && index->items[item_in(index->slots[at])].entry != entry)
        at = (at + 1) & index->mask;
    if (!index->slots[at])
        return;
    uint32_t item = item_in(index->slots[at]), last = index->count - 1;
    empty_slot(index, at);
    if (item != last) { /* the last one takes its number */
        uint32_t moved = hash_of_item(&index->items[last]);
        index->slots[slot_of(index, moved, last)] = (uint64_t)moved << 32 | (item + 1);
        index->items[item] = index->items[last];
    }
    index->count--;
}

void
mcast_index_add(mcast_index *index, const mcast_filter *filter, uint16_t port)
{
    index->latest = NULL;
    index->all += (uint32_t)mcast_wants_all_groups(filter, port);
    for (size_t i = 0; filter->entries && i <= filter->mask; i++)
        if (filter->entries[i].exclude != MCAST_UNUSED)
            add_entry(index, filter, &filter->entries[i], port);
}

void
mcast_index_remove(mcast_index *index, const mcast_filter *filter, uint16_t port)
{
    index->latest = NULL;
    index->all -= (uint32_t)mcast_wants_all_groups(filter, port);
    for (size_t i = 0; index->slots && filter->entries && i <= filter->mask; i++)
        if (filter->entries[i].exclude != MCAST_UNUSED)
            remove_entry(index, &filter->entries[i], port);
}

/* Whether an entry for exactly this interface index (0: any) wants the record. */
static int
search(mcast_index *index, const mcast_record *record, uint32_t interface_index)
{
    uint32_t hash = hash_of(record->group, interface_index, record->port), at = hash & index->mask;
    for (uint64_t slot; (slot = index->slots[at]) != 0; at = (at + 1) & index->mask) {
        const mcast_wanted *item = &index->items[item_in(slot)];
        if (hash_in(slot) == hash && item->port == record->port &&
            mcast_entry_is(item->entry, record->group, interface_index) &&
            mcast_entry_allows(item->filter, item->entry, record->source)) {
            index->latest = item;
            return 1;
        }
    }
    return 0;
}

static int
wants_piece(const mcast_wanted *item, const mcast_record *record)
{
    const uint32_t interface_index = item->entry->interface_index;
    return (interface_index == 0 || interface_index == record->interface_index) &&
           mcast_same_address(item->entry->group, record->group) &&
           mcast_entry_allows(item->filter, item->entry, record->source);
}

/* Whether an entry wants the record's group at whichever port. Fragments come one behind the other, hence the latest is tried first. */
static int
search_group(mcast_index *index, const mcast_record *record)
{
    if (index->latest && wants_piece(index->latest, record))
        return 1;
    for (uint32_t i = 0; i < index->count; i++)
        if (wants_piece(&index->items[i], record)) {
            index->latest = &index->items[i];
            return 1;
        }
    return 0;
}

int
mcast_index_search(mcast_index *index, const mcast_record *record)
{
    if (index->all && mcast_is_multicast(record->group))
        return 1;
    if (!index->slots)
        return 0;
    return search(index, record, record->interface_index) || search(index, record, 0) ||
           (record->flags & MCAST_FRAME && record->port == 0 && search_group(index, record));
}
