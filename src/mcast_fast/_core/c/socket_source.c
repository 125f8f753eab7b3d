/* A socket as a source: recvmmsg(2) or what the system has, into slots or, where packets are coalesced, straight into the arena. */
#include "receiver.h"
#include <errno.h>

typedef struct socket_source {
    mcast_source source;
    mcast_descriptor descriptor;
    uint64_t key;
    mcast_record implied;   /* what every packet has in common: port, and where bound, group and interface */
    uint32_t overflow;      /* the kernel's drop counter, as last reported with a packet */
    uint32_t pending_drops; /* drops reported with packets that were filtered: they belong to the next record */
    mcast_coalescing_socket coalescing;
} socket_source;

enum {
    LEAST_DIRECT = 8192, /* bytes per slot from which on receiving straight into the arena pays */
    GO_SLOTS = 16,       /* slots that are received at once then: more make the arena larger than the cache */
};

/* ---- space ---- */

/* The number of slots that the batch may take: by its limit, the slots there are, the bytes of one go, and the arena's limit. Where packets
 * are coalesced the batch may become larger than its limit. */
static unsigned
room_for(const mcast_receiver *receiver, const mcast_batch *batch, size_t limit)
{
    if (mcast_life_is_closed(&receiver->life) || !mcast_batch_has_room(receiver, batch, limit))
        return 0;
    size_t room = (limit - mcast_batch_count(batch) + receiver->segments - 1) / receiver->segments;
    size_t in_arena = (MCAST_ARENA_LIMIT - batch->data.used) / receiver->slot_size;
    size_t in_one_go = MCAST_GO_BYTES / receiver->filled + 1;
    room = room < in_arena ? room : in_arena;
    room = room < in_one_go ? room : in_one_go;
    return room < receiver->slot_count ? (unsigned)room : receiver->slot_count;
}

/* Space for what `received` slots hold; and when more is likely to follow, for as many packets as the last batch had. What was coalesced
 * last time is expected to be so now. */
static int
reserve(mcast_receiver *receiver, mcast_batch *batch, unsigned received, size_t bytes, size_t limit)
{
    size_t here = (size_t)received * receiver->segments, packets = here;
    int more = received == receiver->slot_count || receiver->segments > 1;
    if (batch->records.used == 0 && more && receiver->expected > here)
        packets = receiver->expected < limit ? receiver->expected : limit;
    size_t records = packets + (receiver->segments > 1 ? receiver->slot_count : 0); /* see split */
    if (mcast_memory_reserve(receiver->pool, &batch->records, records * sizeof(mcast_record)) != 0)
        return -1;
    if (packets > here)
        bytes += bytes / here * (packets - here);
    return mcast_memory_reserve(receiver->pool, &batch->data, bytes);
}

/* ---- one slot ---- */

/* Bytes that a slot had on the wire; where that is not known, those that it holds. */
static size_t
whole_length(const mcast_record *record)
{
    return record->wire_length > record->length ? record->wire_length : record->length;
}

static unsigned
count_of(size_t length, uint32_t segment)
{
    return segment ? (unsigned)((length + segment - 1) / segment) : 1;
}

/* A slot with several packets that the kernel coalesced, each of `segment` bytes but the last: makes a record of each that it holds, out of
 * the one that describes them all, behind those in use. The number, or 0 without memory. */
static unsigned
split(mcast_receiver *receiver, mcast_batch *batch, uint32_t segment)
{
    mcast_record whole = *mcast_batch_next(batch);
    unsigned count = count_of(whole.length, segment);
    size_t room = count + receiver->slot_count; /* for the slots that follow, too */
    if (mcast_memory_reserve(receiver->pool, &batch->records, room * sizeof whole) != 0)
        return 0;
    mcast_record *first = mcast_batch_next(batch);
    const uint32_t offset = whole.offset, dropped = whole.dropped, last = whole.length - (count - 1) * segment;
    const size_t rest = whole_length(&whole) - (count - 1) * segment, sent = rest < segment ? rest : segment;
    whole.flags = (uint16_t)((whole.flags & ~MCAST_TRUNCATED) | MCAST_COALESCED);
    whole.length = whole.wire_length = (uint16_t)segment;
    whole.dropped = 0;
    *first = whole;
    for (unsigned i = 1; i < count;
         i++) { /* from memory: a copy that is changed in registers would wait for its own stores */
        memcpy(&first[i], first, sizeof *first);
        first[i].offset = offset + i * segment;
    }
    first->dropped = dropped;
    first[count - 1].length = (uint16_t)last;
    first[count - 1].wire_length = (uint16_t)sent;
    if (last < sent)
        first[count - 1].flags |= MCAST_TRUNCATED;
    receiver->segments = count > receiver->segments ? count : receiver->segments;
    return count;
}

/* Takes the `count` records of one slot, which follow those in use, into the batch. */
static void
take_in(mcast_receiver *receiver, mcast_batch *batch, unsigned count, size_t bytes)
{
    mcast_record *first = mcast_batch_next(batch);
    if (first->length > receiver->packet_limit || first[count - 1].flags & MCAST_TRUNCATED) {
        bytes = 0;
        for (unsigned i = 0; i < count; i++) {
            mcast_truncate(receiver, &first[i]);
            bytes += first[i].length;
            receiver->counters.truncated += (first[i].flags & MCAST_TRUNCATED) != 0;
        }
    }
    receiver->counters.bytes += bytes;
    receiver->counters.received += count;
    receiver->counters.buffers++;
    batch->buffers++;
    batch->records.used += count * sizeof *first;
}

/* What slot `i` holds: describes it in the record behind those in use, and returns its payload; NULL when it is not wanted, and counted. */
static const unsigned char *
describe(mcast_receiver *receiver, socket_source *socket, mcast_batch *batch, unsigned i, uint32_t *segment)
{
    mcast_record *record = mcast_batch_next(batch);
    mcast_ancillary info = {socket->overflow, 0};
    mcast_record_copy(record, &socket->implied);
    const unsigned char *payload = mcast_scratch_read(&receiver->scratch, i, record, &info);
    uint32_t more = info.overflow - socket->overflow; /* modulo 2^32, as the kernel counts */
    if (more > INT32_MAX) /* queued before the socket was added, and what was dropped since then */
        more = 0;
    record->dropped = more + socket->pending_drops;
    socket->overflow += more;
    *segment = info.segment && info.segment < whole_length(record) ? info.segment : 0;
    if (*segment && whole_length(record) > record->length)
        receiver->has_cut = 1;
    if (!mcast_filter_allows(&receiver->members[socket->key]->filter, record) ||
        mcast_is_own(mcast_receiver_own(receiver), record)) {
        receiver->counters.filtered += count_of(whole_length(record), *segment);
        socket->pending_drops = record->dropped;
        return NULL;
    }
    return payload;
}

/* Takes a described slot, whose payload is `offset` bytes into the arena, into the batch. */
static void
take_slot(mcast_receiver *receiver, socket_source *socket, mcast_batch *batch, uint32_t segment, size_t offset)
{
    mcast_record *record = mcast_batch_next(batch);
    size_t size = record->length;
    unsigned sent = count_of(whole_length(record), segment);
    record->offset = (uint32_t)offset;
    unsigned count = segment ? split(receiver, batch, segment) : 1;
    receiver->counters.coalesced += segment ? count : 0;
    if (count == 0) {
        receiver->counters.dropped_memory += sent;
        socket->pending_drops = record->dropped + 1;
        return;
    }
    receiver->counters.dropped_memory += sent - count; /* cut off */
    socket->pending_drops = sent - count;
    take_in(receiver, batch, count, size);
}

/* ---- many slots ---- */

/* Receives into slots, and copies what is wanted behind the bytes in use: the number of slots, or -errno. */
static int
receive_slots(mcast_receiver *receiver, socket_source *socket, mcast_batch *batch, unsigned room, size_t limit)
{
    int received = mcast_scratch_receive(&receiver->scratch, socket->descriptor, room);
    if (received <= 0)
        return received;
    size_t bytes = 0, largest = 0;
    for (unsigned i = 0; i < (unsigned)received; i++) {
        size_t length = mcast_scratch_length(&receiver->scratch, i);
        bytes += length;
        largest = length > largest ? length : largest;
    }
    receiver->filled = bytes / (unsigned)received + 1;
    if (reserve(receiver, batch, (unsigned)received, bytes, limit) != 0) {
        receiver->counters.dropped_memory += (unsigned)received;
        socket->pending_drops += (uint32_t)received;
        return -ENOMEM;
    }
    receiver->segments = 1;
    for (unsigned i = 0; i < (unsigned)received; i++) {
        uint32_t segment;
        const unsigned char *payload = describe(receiver, socket, batch, i, &segment);
        if (!payload)
            continue;
        size_t size = mcast_batch_next(batch)->length, offset = batch->data.used;
        memcpy(batch->data.bytes + offset, payload, size);
        batch->data.used += size;
        take_slot(receiver, socket, batch, segment, offset);
    }
    receiver->coalesced = receiver->segments > 1 ? largest : 0;
    return received;
}

/* Space for `more` bytes behind the first `kept`, which stay as they are: 0, or -1 without memory. */
static int
extend(mcast_receiver *receiver, mcast_memory *memory, size_t kept, size_t more)
{
    size_t used = memory->used;
    memory->used = kept;
    int status = MCAST_ARENA_LIMIT - kept < more ? -1 : mcast_memory_reserve(receiver->pool, memory, more);
    memory->used = used;
    return status;
}

/* Slots that are received straight into the arena, from `base` on, `expected` bytes apart. */
typedef struct in_place {
    size_t base;
    size_t expected;
    size_t tail;  /* behind all slots, and behind those that turned out longer */
    size_t spare; /* bytes that may stay unused: cheaper than moving what is behind them */
} in_place;

/* Puts the payload of slot `i` behind the bytes in use: where it is then, or SIZE_MAX without memory. Usually every slot has about the size
 * that was expected, and nothing is moved. One that is longer, of which `rest` is the end, goes behind all slots. */
static size_t
settle(mcast_receiver *receiver, mcast_batch *batch, in_place *slots, unsigned i, const unsigned char *rest)
{
    size_t size = mcast_batch_next(batch)->length, from = slots->base + i * slots->expected, to = batch->data.used;
    if (size <= slots->expected) {
        if (from - to > slots->spare) {
            memmove(batch->data.bytes + to, batch->data.bytes + from, size);
        } else {
            slots->spare -= from - to;
            to = from;
        }
        batch->data.used = to + size;
        return to;
    }
    to = slots->tail;
    if (extend(receiver, &batch->data, to, size) != 0)
        return SIZE_MAX;
    memcpy(batch->data.bytes + to, batch->data.bytes + from, slots->expected);
    memcpy(batch->data.bytes + to + slots->expected, rest, size - slots->expected);
    slots->tail += size;
    return to;
}

/* Receives what is expected to be coalesced straight into the arena, in slots of the size that the last ones had: the number of slots, or
 * -errno. */
static int
receive_in_place(mcast_receiver *receiver, socket_source *socket, mcast_batch *batch, unsigned room, size_t limit)
{
    in_place slots = {batch->data.used, receiver->coalesced, 0, 0};
    size_t largest = 0, bytes = 0;
    if (reserve(receiver, batch, room, room * slots.expected, limit) != 0)
        return receive_slots(receiver, socket, batch, room, limit);
    int received = mcast_scratch_receive_into(&receiver->scratch, socket->descriptor, room,
                                              batch->data.bytes + slots.base, slots.expected);
    if (received <= 0)
        return received;
    size_t end = slots.tail = slots.base + (unsigned)received * slots.expected;
    slots.spare = (unsigned)received * slots.expected / 4;
    receiver->in_place = (unsigned)received;
    receiver->segments = 1;
    for (unsigned i = 0; i < (unsigned)received; i++) {
        uint32_t segment;
        size_t length = mcast_scratch_length(&receiver->scratch, i);
        const unsigned char *rest = describe(receiver, socket, batch, i, &segment);
        size_t offset = rest ? settle(receiver, batch, &slots, i, rest) : 0;
        bytes += length;
        largest = length > largest ? length : largest;
        if (rest && offset == SIZE_MAX) {
            receiver->counters.dropped_memory += segment ? (length + segment - 1) / segment : 1;
            socket->pending_drops = mcast_batch_next(batch)->dropped + 1;
        } else if (rest) {
            take_slot(receiver, socket, batch, segment, offset);
        }
    }
    if (slots.tail > end)
        batch->data.used = slots.tail;
    receiver->filled = bytes / (unsigned)received + 1;
    receiver->coalesced = receiver->segments > 1 ? largest : 0;
    return received;
}

/* Half as many again as came last time: space for many more would be given back by copying what came. */
static unsigned
slots_in_place(const mcast_receiver *receiver, unsigned room)
{
    unsigned likely = receiver->in_place + receiver->in_place / 2 + 1;
    unsigned most = room < GO_SLOTS ? room : GO_SLOTS;
    return likely < most ? likely : most;
}

/* Makes the slots large enough for what is coalesced: fewer, so that they are no more memory. 0, or -errno with those before. */
static int
grow_slots(void *context)
{
    mcast_receiver *receiver = context;
    if (receiver->slot_size >= MCAST_COALESCED_SLOT)
        return 0;
    mcast_scratch larger;
    unsigned count = MCAST_COALESCED_SLOTS < receiver->slot_count ? MCAST_COALESCED_SLOTS : receiver->slot_count;
    int status = mcast_scratch_open(&larger, count, MCAST_COALESCED_SLOT);
    if (status != 0)
        return status;
    mcast_scratch_close(&receiver->scratch);
    receiver->scratch = larger;
    receiver->slot_count = count;
    receiver->slot_size = MCAST_COALESCED_SLOT;
    return 0;
}

/* Receives once, into up to `wanted` slots: the number, or -errno. What came shows whether packets are to be coalesced from now on. */
static int
receive(mcast_receiver *receiver, socket_source *socket, mcast_batch *batch, unsigned wanted, size_t limit, int direct)
{
    const mcast_counters *counters = &receiver->counters;
    uint64_t packets = counters->received + counters->filtered, coalesced = counters->coalesced;
    uint64_t bytes = counters->bytes;
    int received = direct ? receive_in_place(receiver, socket, batch, wanted, limit)
                          : receive_slots(receiver, socket, batch, wanted, limit);
    if (receiver->has_cut) { /* somebody else set the option, at a socket that is shared */
        receiver->has_cut = 0;
        grow_slots(receiver);
    }
    if (receiver->coalescing.mode == MCAST_COALESCES_NEVER)
        return received;
    int has_packets = mcast_batch_count(batch) > 0;
    mcast_coalescing_read read = {
        .slots = received > 0 ? (unsigned)received : 0,
        .bytes = counters->bytes - bytes,
        .packets = counters->received + counters->filtered - packets,
        .coalesced = counters->coalesced - coalesced,
        .is_full = received > 0 && (unsigned)received == wanted,
        .time = has_packets ? mcast_batch_next(batch)[-1].timestamp : 0,
        .reported_drops = socket->overflow,
    };
    mcast_coalescing_note(&receiver->coalescing, &socket->coalescing, &read, grow_slots, receiver);
    return received;
}

static mcast_result
read_socket(mcast_source *source, mcast_receiver *receiver, mcast_batch *batch, size_t limit)
{
    socket_source *socket = (socket_source *)source;
    if (mcast_batch_count(batch) == 0)
        batch->epoch = receiver->epoch;
    size_t enough = batch->data.used + MCAST_GO_BYTES;
    for (unsigned packets = 0; packets < MCAST_ONE_GO || mcast_batch_count(batch) > 0;) {
        unsigned room = room_for(receiver, batch, limit);
        if (room == 0)
            return mcast_result_of(MCAST_OK);
        int direct = MCAST_RECEIVES_INTO && receiver->coalesced >= LEAST_DIRECT;
        unsigned wanted = direct ? slots_in_place(receiver, room) : room;
        int received = receive(receiver, socket, batch, wanted, limit, direct);
        if (received == 0 || received == -EAGAIN || received == -EWOULDBLOCK || received == -EINTR)
            return mcast_result_of(MCAST_EMPTY);
        if (received < 0)
            return mcast_failure(-received);
        if ((unsigned)received < wanted)
            return mcast_result_of(MCAST_EMPTY);
        if (receiver->sockets > 1 || direct || batch->data.used >= enough)
            return mcast_result_of(
                MCAST_OK); /* others have their turn first; the arena would move; whoever waits has enough */
        packets += (unsigned)received;
    }
    return mcast_result_of(MCAST_OK);
}

/* ---- the rest of a source ---- */

static int
socket_has_more(const mcast_source *source)
{
    (void)source;
    return 0;
}

static int64_t
socket_nap(mcast_source *source)
{
    return mcast_coalescing_take_nap(&((socket_source *)source)->coalescing);
}

static void
count_socket(mcast_source *source, mcast_counters *counters)
{
    socket_source *socket = (socket_source *)source;
    mcast_coalescing_count_drops(&socket->coalescing);
    counters->dropped_socket += socket->coalescing.drops;
    counters->dropped_inexactly += socket->coalescing.inexact_drops;
}

/* How many packets a slot holds. */
static unsigned
packets_in(const mcast_receiver *receiver, unsigned i)
{
    mcast_record record;
    mcast_ancillary info = {0, 0};
    mcast_scratch_read(&receiver->scratch, i, &record, &info);
    return count_of(whole_length(&record), info.segment && info.segment < whole_length(&record) ? info.segment : 0);
}

/* What is still queued is not wanted any more. Bounded, for its port may be talked to. */
static void
remove_socket(mcast_source *source, mcast_receiver *receiver)
{
    socket_source *socket = (socket_source *)source;
    mcast_poller_remove(&receiver->poller, socket->descriptor);
    for (int rounds = 0; rounds < 100000 && !mcast_life_is_closed(&receiver->life); rounds++) {
        int received = mcast_scratch_receive(&receiver->scratch, socket->descriptor, receiver->slot_count);
        if (received <= 0)
            break;
        for (unsigned i = 0; i < (unsigned)received; i++)
            receiver->counters.filtered += packets_in(receiver, i);
    }
    count_socket(source, &receiver->counters);
    mcast_coalescing_remove(&receiver->coalescing, &socket->coalescing);
    receiver->sockets--;
    free(socket);
}

static void
abandon_socket(mcast_source *source)
{
    (void)source; /* the descriptor is its opener's */
}

static const mcast_source_ops socket_ops = {read_socket,  socket_has_more, socket_nap,
                                            count_socket, remove_socket,   abandon_socket};

void
mcast_socket_source_hand_over(mcast_source *source, mcast_source *heir)
{
    if (source->ops == &socket_ops && heir->ops == &socket_ops)
        mcast_coalescing_hand_over(&((socket_source *)source)->coalescing, &((socket_source *)heir)->coalescing);
}

int
mcast_socket_source_open(mcast_source **source, mcast_receiver *receiver, int fd, int decider, int used,
                         const mcast_record *implied, uint64_t key)
{
    socket_source *socket = calloc(1, sizeof *socket);
    if (!socket)
        return -ENOMEM;
    socket->source.ops = &socket_ops;
    socket->key = key;
    socket->implied = *implied;
    int status = mcast_descriptor_open(&socket->descriptor, fd);
    if (status == 0)
        status = mcast_poller_add(&receiver->poller, socket->descriptor, key);
    if (status == 0) {
        socket->coalescing.descriptor = socket->descriptor;
        socket->coalescing.decider = decider;
        socket->coalescing.key = key;
        uint32_t drops;
        if (used && mcast_read_drops(socket->descriptor, &drops) == 0)
            socket->overflow = socket->coalescing.reported_drops = socket->coalescing.meminfo_drops = drops;
        status = mcast_coalescing_add(&receiver->coalescing, &socket->coalescing, implied->port);
        if (status != 0)
            mcast_poller_remove(&receiver->poller, socket->descriptor);
    }
    if (status != 0) {
        free(socket);
        return status;
    }
    receiver->sockets++;
    *source = &socket->source;
    return 0;
}
