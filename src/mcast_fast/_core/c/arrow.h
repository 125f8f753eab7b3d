/* Batches through the Arrow C data interface (https://arrow.apache.org/docs/format/CDataInterface.html), so that pyarrow, polars and
 * DuckDB take one without being linked here.
 *
 * An exported array outlives the batch, and the interpreter too: consumers release it in any thread, after Python is finalised as
 * well. So all that it points to is memory of C with a count of references, and its release callbacks are C. Columns are copied out
 * of the records; payloads stay where they are, when they follow one another without gaps, else they are copied too. */
#ifndef MCAST_ARROW_H
#define MCAST_ARROW_H

#include "record.h"
#include "refcount.h"
#include <stddef.h>
#include <stdint.h>

#ifndef ARROW_C_DATA_INTERFACE
#define ARROW_C_DATA_INTERFACE

#define ARROW_FLAG_DICTIONARY_ORDERED 1
#define ARROW_FLAG_NULLABLE 2
#define ARROW_FLAG_MAP_KEYS_SORTED 4

struct ArrowSchema {
    const char *format;
    const char *name;
    const char *metadata;
    int64_t flags;
    int64_t n_children;
    struct ArrowSchema **children;
    struct ArrowSchema *dictionary;
    void (*release)(struct ArrowSchema *);
    void *private_data;
};

struct ArrowArray {
    int64_t length;
    int64_t null_count;
    int64_t offset;
    int64_t n_buffers;
    int64_t n_children;
    const void **buffers;
    struct ArrowArray **children;
    struct ArrowArray *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};
#endif

#ifndef ARROW_C_STREAM_INTERFACE
#define ARROW_C_STREAM_INTERFACE

struct ArrowArrayStream {
    int (*get_schema)(struct ArrowArrayStream *, struct ArrowSchema *);
    int (*get_next)(struct ArrowArrayStream *, struct ArrowArray *);
    const char *(*get_last_error)(struct ArrowArrayStream *);
    void (*release)(struct ArrowArrayStream *);
    void *private_data;
};
#endif

/* Memory that a batch and exported arrays share. `give` frees it, after the last reference; it needs no interpreter. */
typedef struct mcast_shared {
    mcast_refcount references;
    unsigned char *bytes;
    size_t capacity;
    void (*give)(void *bytes, size_t capacity);
} mcast_shared;

/* With one reference; NULL without memory, and then `bytes` still belongs to the caller. */
mcast_shared *mcast_shared_new(unsigned char *bytes, size_t capacity, void (*give)(void *, size_t));
void mcast_shared_release(mcast_shared *shared);

typedef struct mcast_arrow mcast_arrow;

/* The columns of `count` records, whose offsets point into `arena`; NULL without memory. `shared` keeps the arena in place; NULL:
 * payloads are copied. The names of the interfaces are still missing. */
mcast_arrow *mcast_arrow_new(const mcast_record *records, size_t count, const unsigned char *arena,
                             mcast_shared *shared);
/* How many different interfaces there are, and their indexes in the order in which their names are to be added. */
size_t mcast_arrow_interfaces(const mcast_arrow *arrow);
uint32_t mcast_arrow_interface(const mcast_arrow *arrow, size_t at);
/* Adds the name of the next interface, UTF-8; 0, or -1 without memory. */
int mcast_arrow_add_name(mcast_arrow *arrow, const char *name, size_t size);
/* Hands everything over to `array`, whose release frees it; or frees it now. */
void mcast_arrow_export(mcast_arrow *arrow, struct ArrowArray *array);
void mcast_arrow_free(mcast_arrow *arrow);

/* The schema of every batch; 0, or -1 without memory. */
int mcast_arrow_schema(struct ArrowSchema *schema);

#endif
