#include "schedule.h"
#include <stdlib.h>

static int
compare_entry(const mcast_route_entry *entry, const unsigned char *group, uint16_t port)
{
    int order = memcmp(entry->group, group, sizeof entry->group);
    return order ? order : (entry->port > port) - (entry->port < port);
}

/* The first entry that does not come before this group and port. */
static size_t
entry_position(const mcast_schedule *schedule, const unsigned char *group, uint16_t port)
{
    size_t low = 0, high = schedule->entry_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_entry(&schedule->entries[middle], group, port) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int
has_entry_at(const mcast_schedule *schedule, size_t at, const unsigned char *group, uint16_t port)
{
    return at < schedule->entry_count && compare_entry(&schedule->entries[at], group, port) == 0;
}

const mcast_target *
mcast_schedule_target(const mcast_schedule *schedule, const mcast_record *record)
{
    size_t at = entry_position(schedule, record->group, record->port);
    return has_entry_at(schedule, at, record->group, record->port) ? &schedule->entries[at].target : NULL;
}

int
mcast_schedule_add(mcast_schedule *schedule, const unsigned char *group, uint16_t port, const mcast_target *target)
{
    size_t at = entry_position(schedule, group, port), count = schedule->entry_count;
    if (!has_entry_at(schedule, at, group, port)) {
        mcast_route_entry *entries = realloc(schedule->entries, (count + 1) * sizeof *entries);
        if (!entries)
            return -ENOMEM;
        schedule->entries = entries;
        memmove(&entries[at + 1], &entries[at], (count - at) * sizeof *entries);
        memcpy(entries[at].group, group, sizeof entries[at].group);
        entries[at].port = port;
        schedule->entry_count++;
    }
    schedule->entries[at].target = *target;
    return 0;
}

void
mcast_schedule_start(mcast_schedule *schedule, int64_t origin, int64_t start, double scale)
{
    schedule->origin = origin;
    schedule->start = start;
    schedule->scale = scale;
    schedule->reached = 0;
}

/* When a record is due whose predecessor was due at `reached`. A file may hold any timestamp. */
static int64_t
record_due(const mcast_schedule *schedule, const mcast_record *record, int64_t reached)
{
    double after = 0;
    if (record->timestamp > schedule->origin)
        after = (double)((uint64_t)record->timestamp - (uint64_t)schedule->origin) * schedule->scale;
    int64_t due = mcast_moment_after(schedule->start, after);
    return due > reached ? due : reached;
}

size_t
mcast_schedule_count(const mcast_schedule *schedule, const mcast_record *records, size_t left, int64_t now,
                     int64_t *due)
{
    size_t count = 0;
    *due = schedule->reached;
    for (; count < left; count++)
        if ((*due = record_due(schedule, &records[count], *due)) > now)
            break;
    return count;
}

void
mcast_schedule_left(mcast_schedule *schedule, const mcast_record *records, size_t count, int64_t now)
{
    for (size_t i = 0; i < count; i++) {
        schedule->reached = record_due(schedule, &records[i], schedule->reached);
        int64_t late = now - schedule->reached;
        schedule->late[mcast_late_bucket(late)]++;
        schedule->latest = late > schedule->latest ? late : schedule->latest;
    }
}

void
mcast_schedule_free(mcast_schedule *schedule)
{
    free(schedule->entries);
    schedule->entries = NULL;
    schedule->entry_count = 0;
}
