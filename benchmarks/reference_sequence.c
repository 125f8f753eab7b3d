/* What it costs at least to follow the numbers of RTP packets, and to make one feed of two legs: plain loops over records and payloads that are
 * in memory. They touch the same bytes, and keep no more state than they must: nothing is lost, late, aged, reported or bounded, and a
 * flow is found by its SSRC, which is its place. */
#include <stdint.h>
#include <string.h>

enum { AHEAD = 24, LINE = 64, NUMBERS = 1 << 16 };

typedef struct record {
    int64_t timestamp;
    uint32_t offset, interface_index, dropped;
    uint16_t length, wire_length;
    uint64_t source[2], group[2];
    uint16_t source_port, port, flags;
    uint8_t ttl, tos;
} record;

typedef struct batch {
    const record *records;
    const unsigned char *arena;
    uint64_t count;
} batch;

typedef struct flow {
    uint64_t source[2], group[2];
    int64_t last_time;
    uint64_t received;
    uint32_t ssrc;
    uint16_t port, next;
} flow;

static inline uint16_t
number_of(const unsigned char *payload)
{
    return (uint16_t)(payload[2] << 8 | payload[3]);
}

static inline uint32_t
ssrc_of(const unsigned char *payload)
{
    uint32_t value;
    memcpy(&value, payload + 8, sizeof value);
    return __builtin_bswap32(value);
}

static inline int
is_of(const flow *one, const record *packet, uint32_t ssrc)
{
    return ((one->source[0] ^ packet->source[0]) | (one->source[1] ^ packet->source[1]) |
            (one->group[0] ^ packet->group[0]) | (one->group[1] ^ packet->group[1]) | (uint64_t)(one->ssrc ^ ssrc) |
            (uint64_t)(one->port ^ packet->port)) == 0;
}

/* Packets that were the next ones of their flows, of `flows`, which have memory of zeros. */
uint64_t
reference_track(const batch *one, flow *flows, uint64_t count)
{
    uint64_t followed = 0;
    for (uint64_t i = 0; i < one->count; i++) {
        const record *packet = &one->records[i];
        const unsigned char *payload = one->arena + packet->offset;
        if (i + AHEAD < one->count)
            __builtin_prefetch(one->arena + one->records[i + AHEAD].offset);
        uint32_t ssrc = ssrc_of(payload);
        flow *known = &flows[count == 1 ? 0 : ssrc % count];
        uint16_t number = number_of(payload);
        if (is_of(known, packet, ssrc) && number == known->next) {
            followed++;
        } else {
            memcpy(known->source, packet->source, sizeof known->source);
            memcpy(known->group, packet->group, sizeof known->group);
            known->ssrc = ssrc;
            known->port = packet->port;
        }
        known->next = (uint16_t)(number + 1);
        known->last_time = packet->timestamp;
        known->received++;
    }
    return followed;
}

typedef struct merged {
    record *records;
    unsigned char *arena;
    int64_t times[NUMBERS]; /* when each number came first; 0: not yet */
    int64_t skew;           /* the largest */
} merged;

/* Packets of two batches of one feed by their times, each number once: how many are in `to`, which has space for all. */
uint64_t
reference_arbitrate(const batch *legs, merged *to)
{
    uint64_t at[2] = {0, 0}, taken = 0;
    uint32_t used = 0;
    while (at[0] < legs[0].count || at[1] < legs[1].count) {
        int which = at[0] == legs[0].count ||
                    (at[1] < legs[1].count && legs[1].records[at[1]].timestamp < legs[0].records[at[0]].timestamp);
        const batch *leg = &legs[which];
        uint64_t place = at[which]++;
        const record *packet = &leg->records[place];
        const unsigned char *payload = leg->arena + packet->offset;
        if (place + AHEAD < leg->count)
            __builtin_prefetch(leg->arena + leg->records[place + AHEAD].offset);
        int64_t *time = &to->times[number_of(payload)];
        if (*time) {
            int64_t skew = packet->timestamp - *time;
            to->skew = skew > to->skew ? skew : to->skew;
            *time = 0;
            continue;
        }
        *time = packet->timestamp;
        if (place + 3 < leg->count)
            for (uint32_t i = 0; i < packet->length; i += LINE)
                __builtin_prefetch(leg->arena + leg->records[place + 3].offset + i);
        to->records[taken] = *packet;
        to->records[taken++].offset = used;
        memcpy(to->arena + used, payload, packet->length);
        used += packet->length;
    }
    return taken;
}
