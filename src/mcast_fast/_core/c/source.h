/* Where packets come from: a socket, or a ring. Whatever gives records and bytes can be one more, and all that is downstream of a batch
 * works with it. */
#ifndef MCAST_SOURCE_H
#define MCAST_SOURCE_H

#include "memory.h"
#include "record.h"
#include "reference.h"

/* How every call that may wait or fail ends. */
typedef enum mcast_outcome {
    MCAST_OK,          /* done; of reading a source: there may be more */
    MCAST_EMPTY,       /* nothing there (any more) */
    MCAST_FULL,        /* the batch has no space for what is there */
    MCAST_TIMEOUT,     /* the deadline has passed */
    MCAST_CLOSED,      /* the object was closed */
    MCAST_INTERRUPTED, /* look at the signals, and call again */
    MCAST_FAILED,      /* the system refused: `error` */
} mcast_outcome;

typedef struct mcast_result {
    mcast_outcome outcome;
    int error; /* errno of MCAST_FAILED */
} mcast_result;

static inline mcast_result
mcast_result_of(mcast_outcome outcome)
{
    return (mcast_result){outcome, 0};
}

static inline mcast_result
mcast_failure(int error)
{
    return (mcast_result){MCAST_FAILED, error};
}

/* A batch under construction. It belongs to the call that fills it, which takes its memory from the receiver and returns it there: no end
 * of a call can lose it. */
typedef struct mcast_batch {
    mcast_memory records;
    mcast_memory data;
    uint64_t epoch;             /* of the filters that its packets have passed */
    uint64_t buffers;           /* in which the kernel handed them over */
    mcast_reference *reference; /* to a ring's blocks, where the payloads are then */
    const unsigned char *base;  /* in those blocks: offset 0 */
    const unsigned char *end;
    int copies;  /* payloads of rings are to be copied: the batch may take many blocks */
    int copying; /* they are, be it because they were to be or because their blocks are nearly empty */
} mcast_batch;

/* A batch and its records hold less than this many bytes: a record's offset has 32 bits. */
#define MCAST_ARENA_LIMIT UINT32_MAX

typedef struct mcast_counters {
    uint64_t received;
    uint64_t bytes;
    uint64_t truncated;
    uint64_t filtered;
    uint64_t fragments;
    uint64_t dropped_socket;
    uint64_t dropped_ring;
    uint64_t detached;
    uint64_t batches;
    uint64_t largest_batch;
    uint64_t wakeups;
    uint64_t dropped_memory;    /* read from the kernel, and no memory to keep them in, or too little */
    uint64_t buffers;           /* what the kernel handed over for `received`: fewer when packets were coalesced */
    uint64_t coalesced;         /* of `received`: those that share a time with others */
    uint64_t dropped_inexactly; /* of `dropped_socket`: buffers that may have held several packets */
} mcast_counters;

struct mcast_receiver;
typedef struct mcast_source mcast_source;

/* What a source can do; each is called with the receiver's state lock held. */
typedef struct mcast_source_ops {
    /* Adds what is there to the batch, up to `limit` packets in all, without waiting: MCAST_OK, MCAST_EMPTY or MCAST_FAILED. */
    mcast_result (*read)(mcast_source *source, struct mcast_receiver *receiver, mcast_batch *batch, size_t limit);
    /* Whether it can be read without waiting, when that can be known without a system call; else 0. */
    int (*has_more)(const mcast_source *source);
    /* For how many ns its packets may pile up before it is read: 0 for one that should wake the receiver. */
    int64_t (*nap)(mcast_source *source);
    /* Adds what it counts itself. */
    void (*count)(mcast_source *source, mcast_counters *counters);
    /* It is read no more: counts what is still queued as filtered, and its own counters for good, and frees it. */
    void (*remove)(mcast_source *source, struct mcast_receiver *receiver);
    /* In a process that did not open it: closes descriptors of its own, and nothing else. */
    void (*abandon)(mcast_source *source);
} mcast_source_ops;

struct mcast_source {
    const mcast_source_ops *ops;
    mcast_source *next; /* among those that are read without a system call */
};

static inline size_t
mcast_batch_count(const mcast_batch *batch)
{
    return batch->records.used / sizeof(mcast_record);
}

/* The record that is written next, behind those in use. There is space. */
static inline mcast_record *
mcast_batch_next(const mcast_batch *batch)
{
    return (mcast_record *)(batch->records.bytes + batch->records.used);
}

/* Copies a packet behind those in use. There is space. */
static inline void
mcast_batch_put(mcast_batch *batch, const mcast_record *record, const unsigned char *payload)
{
    mcast_record *copy = mcast_batch_next(batch);
    *copy = *record;
    copy->offset = (uint32_t)batch->data.used;
    memcpy(batch->data.bytes + batch->data.used, payload, record->length);
    batch->records.used += sizeof *record;
    batch->data.used += record->length;
}

/* Returns all that a batch has; it is empty then. */
void mcast_batch_free(mcast_pool *pool, mcast_batch *batch);

/* Copies one packet of another batch; 1 when it has no space below MCAST_ARENA_LIMIT, 0, or -1 without memory. */
int mcast_batch_append(mcast_pool *pool, mcast_batch *batch, const mcast_record *record, const unsigned char *payload);

/* Copies all packets of another batch: 1 when they have no space, 0, or -1 without memory, with nothing copied. */
int mcast_batch_append_all(mcast_pool *pool, mcast_batch *batch, const mcast_batch *more);

#endif
