/* Fragments of a capture file put together (RFC 791, 3.2; RFC 8200, 4.5), in bounded memory.
 *
 * MCAST_PIECES datagrams at most are in the making; one more discards the one whose latest piece is the oldest. Pieces that overlap others
 * discard their datagram (RFC 5722), a piece that is there already is ignored. */
#ifndef MCAST_REASSEMBLY_H
#define MCAST_REASSEMBLY_H

#include "frames.h"
#include <stdlib.h>

enum {
    MCAST_PIECES = 64,
    MCAST_LARGEST_DATAGRAM = 65535,
    MCAST_PIECE_UNITS = 8192, /* of eight bytes, in which offsets of fragments count */
};

typedef struct mcast_assembly {
    mcast_record record; /* source and group; of the piece that came last its interface */
    uint32_t id;
    int version;     /* 0: unused */
    uint64_t latest; /* when its latest piece came, counted in pieces */
    uint32_t units;  /* that are there */
    uint32_t size;   /* of the whole; 0: the last piece is not there */
    uint32_t end;    /* of the piece that is the furthest */
    uint8_t here[MCAST_PIECE_UNITS / 8];
    unsigned char bytes[MCAST_PIECE_UNITS * 8];
} mcast_assembly;

typedef struct mcast_reassembly {
    mcast_assembly *made[MCAST_PIECES];
    uint64_t pieces;
} mcast_reassembly;

enum { MCAST_PIECE_KEPT, MCAST_PIECE_KNOWN, MCAST_PIECE_REFUSED, MCAST_PIECE_LAST };

static inline int
mcast_assembly_is(const mcast_assembly *one, const mcast_record *record, const mcast_fragment *fragment)
{
    return one && one->version == fragment->version && one->id == fragment->id &&
           one->record.interface_index == record->interface_index &&
           mcast_same_address(one->record.source, record->source) &&
           mcast_same_address(one->record.group, record->group);
}

/* The datagram that a piece is of: begun, or anew; NULL without memory. */
static inline mcast_assembly *
mcast_assembly_of(mcast_reassembly *reassembly, const mcast_record *record, const mcast_fragment *fragment)
{
    size_t oldest = 0;
    for (size_t i = 0; i < MCAST_PIECES; i++) {
        mcast_assembly *one = reassembly->made[i];
        if (mcast_assembly_is(one, record, fragment))
            return one;
        const mcast_assembly *old = reassembly->made[oldest];
        if (old && old->version && (!one || !one->version || one->latest < old->latest))
            oldest = i;
    }
    mcast_assembly *one = reassembly->made[oldest];
    if (!one && !(one = reassembly->made[oldest] = malloc(sizeof *one)))
        return NULL;
    one->record = *record;
    one->id = fragment->id;
    one->version = fragment->version;
    one->units = one->size = one->end = 0;
    memset(one->here, 0, sizeof one->here);
    return one;
}

/* How many units of a piece are there already. */
static inline uint32_t
mcast_assembly_known(const mcast_assembly *one, uint32_t first, uint32_t units)
{
    uint32_t known = 0;
    for (uint32_t unit = first; unit < first + units; unit++)
        known += one->here[unit / 8] >> unit % 8 & 1;
    return known;
}

/* Adds a piece to its datagram. MCAST_PIECE_LAST: nothing is missing; MCAST_PIECE_KNOWN: it was there already. */
static inline int
mcast_assembly_add(mcast_reassembly *reassembly, mcast_assembly *one, const mcast_fragment *fragment,
                   const unsigned char *bytes)
{
    uint32_t first = fragment->offset / 8, units = (uint32_t)(fragment->size + 7) / 8;
    one->latest = ++reassembly->pieces;
    if (fragment->size == 0 || fragment->size < fragment->wire ||
        fragment->offset + fragment->size > MCAST_LARGEST_DATAGRAM || (fragment->more && fragment->size % 8))
        return MCAST_PIECE_REFUSED;
    uint32_t known = mcast_assembly_known(one, first, units), end = (uint32_t)(fragment->offset + fragment->size);
    if (known == units)
        return MCAST_PIECE_KNOWN;
    if (known || (one->size && (end > one->size || !fragment->more)) || (!fragment->more && one->end > end)) {
        one->version = 0;
        return MCAST_PIECE_REFUSED;
    }
    for (uint32_t unit = first; unit < first + units; unit++)
        one->here[unit / 8] |= (uint8_t)(1 << unit % 8);
    memcpy(one->bytes + fragment->offset, bytes, fragment->size);
    one->units += units;
    one->end = one->end > end ? one->end : end;
    if (!fragment->more)
        one->size = end;
    return one->size && one->units == (one->size + 7) / 8 ? MCAST_PIECE_LAST : MCAST_PIECE_KEPT;
}

static inline void
mcast_reassembly_free(mcast_reassembly *reassembly)
{
    for (size_t i = 0; i < MCAST_PIECES; i++) {
        free(reassembly->made[i]);
        reassembly->made[i] = NULL;
    }
}

#endif
