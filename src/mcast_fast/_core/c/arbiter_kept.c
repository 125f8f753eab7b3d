/* Packets that wait: their payloads lie in chunks, which are used again when all packets in them are gone. */
#include "arbiter_run.h"

static int
grow_kept(mcast_arbiter *arbiter)
{
    uint32_t capacity = arbiter->kept_capacity ? 2 * arbiter->kept_capacity : 256;
    mcast_kept *kept = realloc(arbiter->kept, capacity * sizeof *kept);
    if (!kept)
        return -1;
    arbiter->kept = kept;
    arbiter->kept_capacity = capacity;
    return 0;
}

static int
next_chunk(mcast_arbiter *arbiter)
{
    if (arbiter->chunk_unused) {
        arbiter->chunk = arbiter->chunk_unused;
        arbiter->chunk_unused = arbiter->chunks[arbiter->chunk - 1].next;
        return 0;
    }
    if (arbiter->chunk_count == arbiter->chunk_capacity) {
        uint32_t capacity = arbiter->chunk_capacity ? 2 * arbiter->chunk_capacity : 16;
        mcast_chunk *chunks = realloc(arbiter->chunks, capacity * sizeof *chunks);
        if (!chunks)
            return -1;
        arbiter->chunks = chunks;
        arbiter->chunk_capacity = capacity;
    }
    unsigned char *bytes = malloc(MCAST_CHUNK);
    if (!bytes)
        return -1;
    arbiter->chunks[arbiter->chunk_count] = (mcast_chunk){.bytes = bytes};
    arbiter->chunk = ++arbiter->chunk_count;
    return 0;
}

/* A chunk of which nothing waits any more. */
static void
recycle(mcast_arbiter *arbiter, uint32_t at)
{
    mcast_chunk *chunk = &arbiter->chunks[at];
    chunk->used = 0;
    if (at + 1 == arbiter->chunk)
        return;
    chunk->next = arbiter->chunk_unused;
    arbiter->chunk_unused = at + 1;
}

int
mcast_kept_reserve(mcast_arbiter *arbiter, size_t length)
{
    if (!arbiter->kept_unused && arbiter->kept_count == arbiter->kept_capacity && grow_kept(arbiter) != 0)
        return -1;
    if (arbiter->chunk && MCAST_CHUNK - arbiter->chunks[arbiter->chunk - 1].used >= length)
        return 0;
    return next_chunk(arbiter);
}

uint32_t
mcast_kept_add(mcast_arbiter *arbiter, const mcast_arrival *packet)
{
    uint32_t at = arbiter->kept_unused ? arbiter->kept_unused - 1 : arbiter->kept_count++;
    mcast_kept *kept = &arbiter->kept[at];
    if (arbiter->kept_unused)
        arbiter->kept_unused = kept->next;
    mcast_chunk *chunk = &arbiter->chunks[arbiter->chunk - 1];
    mcast_record_copy(&kept->record, packet->record);
    kept->record.offset = chunk->used;
    kept->chunk = arbiter->chunk - 1;
    mcast_record_rename(arbiter, packet->leg, &kept->record);
    memcpy(chunk->bytes + chunk->used, packet->payload, packet->record->length);
    chunk->used += packet->record->length;
    chunk->live++;
    arbiter->kept_bytes += sizeof(mcast_record) + packet->record->length;
    return at;
}

void
mcast_kept_remove(mcast_arbiter *arbiter, uint32_t at)
{
    mcast_kept *kept = &arbiter->kept[at];
    arbiter->kept_bytes -= sizeof(mcast_record) + kept->record.length;
    if (--arbiter->chunks[kept->chunk].live == 0)
        recycle(arbiter, kept->chunk);
    kept->next = arbiter->kept_unused;
    arbiter->kept_unused = at + 1;
}

void
mcast_record_rename(const mcast_arbiter *arbiter, uint32_t leg, mcast_record *record)
{
    const mcast_leg *from = &arbiter->legs[leg];
    for (size_t i = 0; i < from->renamed_count; i++)
        if (from->renamed[i].from == record->interface_index) {
            record->interface_index = from->renamed[i].to;
            return;
        }
}
