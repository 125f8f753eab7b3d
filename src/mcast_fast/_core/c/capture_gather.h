/* Capture files, written from wherever the payloads are (a ring's blocks, an arena) by one system call for many packets.
 *
 * Small packets are copied into a piece that stays in the processor's cache: what a system call takes for each vector is more than such a
 * copy. Large payloads are not copied: the call takes them from where they are, between the bytes that surround them in the file. */
#ifndef MCAST_CAPTURE_GATHER_H
#define MCAST_CAPTURE_GATHER_H

#include "ahead.h"
#include "capture_write.h"
#include "platform.h"

enum {
    MCAST_GATHERED_VECTORS = 1024,   /* IOV_MAX of Linux, macOS and FreeBSD (writev(2)) */
    MCAST_GATHERED_BYTES = 64 << 10, /* beside payloads that are not copied: what the cache holds */
    MCAST_GATHERED_COPIED = 2048,    /* bytes of a payload that is copied, at the most */
};

#if MCAST_HAS_WRITEV

#include <sys/uio.h>

typedef struct mcast_gather {
    struct iovec vectors[MCAST_GATHERED_VECTORS];
    unsigned char aside[MCAST_GATHERED_BYTES + MCAST_PACKET_OVERHEAD + MCAST_GATHERED_COPIED];
    int count;   /* vectors */
    size_t size; /* bytes of all vectors */
    size_t sent; /* of them */
} mcast_gather;

/* Gathers packets until there are enough for one call, or as mcast_encode: how many. Large payloads stay in `data`. */
static inline size_t
mcast_gather_fill(mcast_gather *gather, mcast_encoder *encoder, const mcast_record *records, size_t count,
                  const unsigned char *data)
{
    unsigned char *start = gather->aside, *at = start; /* of what has no vector yet */
    const unsigned char *const enough = start + MCAST_GATHERED_BYTES;
    size_t i = 0;
    gather->count = 0;
    gather->size = gather->sent = 0;
    encoder->unfit = 0;
    for (; i < count && at < enough && gather->count < MCAST_GATHERED_VECTORS - 2; i++) {
        const unsigned char *payload = data + records[i].offset;
        mcast_look_ahead(data, records, i, count);
        if (records[i].length <= MCAST_GATHERED_COPIED) {
            if (!mcast_encode_packet(encoder, &records[i], payload, 0, at, &at))
                break;
            continue;
        }
        unsigned char *before = mcast_encode_packet(encoder, &records[i], payload, 1, at, &at);
        if (!before)
            break;
        gather->vectors[gather->count++] = (struct iovec){start, (size_t)(before - start)};
        gather->vectors[gather->count++] = (struct iovec){(void *)payload, records[i].length};
        gather->size += records[i].length;
        start = before;
    }
    if (at > start)
        gather->vectors[gather->count++] = (struct iovec){start, (size_t)(at - start)};
    gather->size += (size_t)(at - gather->aside);
    return i;
}

/* Writes what is gathered by one call: 1, or 0 when the system has not taken all of it; `sent` says how much. */
static inline int
mcast_gather_write(mcast_gather *gather, int descriptor)
{
    ssize_t sent = writev(descriptor, gather->vectors, gather->count);
    gather->sent = sent > 0 ? (size_t)sent : 0;
    return gather->sent == gather->size;
}

/* Copies what is gathered to one place, which has `size` bytes. */
static inline void
mcast_gather_copy(const mcast_gather *gather, unsigned char *to)
{
    for (int i = 0; i < gather->count; i++) {
        memcpy(to, gather->vectors[i].iov_base, gather->vectors[i].iov_len);
        to += gather->vectors[i].iov_len;
    }
}

#else

typedef struct mcast_gather {
    size_t size, sent;
} mcast_gather;

static inline size_t
mcast_gather_fill(mcast_gather *gather, mcast_encoder *encoder, const mcast_record *records, size_t count,
                  const unsigned char *data)
{
    (void)gather, (void)encoder, (void)records, (void)count, (void)data;
    return 0;
}

static inline int
mcast_gather_write(mcast_gather *gather, int descriptor)
{
    (void)gather, (void)descriptor;
    return 0;
}

static inline void
mcast_gather_copy(const mcast_gather *gather, unsigned char *to)
{
    (void)gather, (void)to;
}

#endif

#endif
