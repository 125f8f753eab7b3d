/* The index of what is wanted, against a plain search, over random changes. */
#include "check.h"
#include "index.h"

enum { FILTERS = 40, ROUNDS = 3000, GROUPS = 60, PORTS = 3, INTERFACES = 3, SOURCES = 4 };

static uint32_t random_state = 12345;

static uint32_t
below(uint32_t bound)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % bound;
}

static void
set_group(uint8_t group[16], uint32_t number)
{
    const uint8_t address[4] = {239, 1, (uint8_t)(number / 7), (uint8_t)number};
    mcast_map_v4(group, address);
}

static void
make_filter(mcast_filter *filter)
{
    uint32_t entries = below(6), source = 0;
    CHECK(mcast_filter_open(filter, entries, entries * SOURCES) == 0);
    for (uint32_t i = 0; i < entries; i++) {
        mcast_entry entry = {.interface_index = below(INTERFACES), .exclude = below(2), .first_source = source};
        set_group(entry.group, below(GROUPS));
        entry.sources = below(SOURCES);
        for (uint32_t j = 0; j < entry.sources; j++)
            set_group(filter->sources[source++], 1000 + j);
        mcast_filter_add(filter, &entry);
    }
}

static int
plain_search(mcast_filter *filters, const uint16_t *ports, const mcast_record *record)
{
    for (int i = 0; i < FILTERS; i++)
        for (uint32_t at = 0; filters[i].entries && ports[i] == record->port && at <= filters[i].mask; at++) {
            const mcast_entry *entry = &filters[i].entries[at];
            if (entry->exclude != MCAST_UNUSED && mcast_same_address(entry->group, record->group) &&
                (entry->interface_index == 0 || entry->interface_index == record->interface_index) &&
                mcast_entry_allows(&filters[i], entry, record->source))
                return 1;
        }
    return 0;
}

/* What is reserved moves the index, and may be needed for nothing in the end: looks go on as before. */
static void
test_reserving(void)
{
    mcast_index index = {0};
    mcast_filter filter;
    mcast_entry entry = {.exclude = 1};
    mcast_record record = {.interface_index = 1, .port = 7};
    set_group(entry.group, 1);
    set_group(record.group, 1);
    CHECK(mcast_filter_open(&filter, 1, 0) == 0);
    mcast_filter_add(&filter, &entry);
    CHECK(mcast_index_reserve(&index, 1) == 0);
    mcast_index_add(&index, &filter, 7);
    for (size_t more = 1; more < 1000; more *= 3) {
        CHECK(mcast_index_wants(&index, &record));
        CHECK(mcast_index_reserve(&index, more) == 0);
    }
    CHECK(mcast_index_wants(&index, &record) && index.count == 1);
    mcast_filter_free(&filter);
    mcast_index_free(&index);
}

int
main(void)
{
    test_reserving();
    mcast_index index = {0};
    mcast_filter filters[FILTERS] = {{0}};
    uint16_t ports[FILTERS] = {0};
    uint32_t wanted = 0;
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t i = below(FILTERS);
        mcast_index_remove(&index, &filters[i], ports[i]);
        mcast_filter_free(&filters[i]);
        if (below(4)) {
            make_filter(&filters[i]);
            ports[i] = (uint16_t)below(PORTS);
            CHECK(mcast_index_reserve(&index, filters[i].mask + (size_t)1) == 0);
            mcast_index_add(&index, &filters[i], ports[i]);
        }
        for (int look = 0; look < 20; look++) {
            mcast_record record = {.interface_index = 1 + below(INTERFACES), .port = (uint16_t)below(PORTS)};
            set_group(record.group, below(GROUPS));
            set_group(record.source, 1000 + below(SOURCES + 2));
            int expected = plain_search(filters, ports, &record);
            CHECK(mcast_index_wants(&index, &record) == expected);
            CHECK(mcast_index_wants(&index, &record) == expected); /* by the entry found last */
            wanted += (uint32_t)expected;
        }
    }
    CHECK(wanted > ROUNDS && index.count < FILTERS * 6);
    mcast_filter all = {.everything = 1};
    mcast_record unicast = {.port = 9};
    mcast_map_v4(unicast.group, (const uint8_t[]){10, 1, 1, 1});
    mcast_record group = unicast;
    mcast_map_v4(group.group, (const uint8_t[]){239, 200, 1, 1});
    for (uint16_t port = 0; port < 10; port += 9) { /* at any other port than 0 it wants no group */
        mcast_index_add(&index, &all, port);
        CHECK(mcast_index_wants(&index, &group) == (port == 0) && !mcast_index_wants(&index, &unicast));
        mcast_index_remove(&index, &all, port);
        CHECK(!mcast_index_wants(&index, &group));
    }
    for (int i = 0; i < FILTERS; i++) {
        mcast_index_remove(&index, &filters[i], ports[i]);
        mcast_filter_free(&filters[i]);
    }
    CHECK(index.count == 0);
    mcast_index_free(&index);
    printf("%d changes of an index, and %d looks at it\n", ROUNDS, ROUNDS * 20);
    return 0;
}
