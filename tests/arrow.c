/* c/arrow.c by itself: without Python, columns that are moved away and released in any order, under the sanitizers. */
#include "arrow.h"
#include <assert.h>
#include <stdlib.h>

static int given;

static void
give(void *bytes, size_t capacity)
{
    (void)capacity;
    free(bytes);
    given++;
}

static void
fill(mcast_record *records, size_t count, unsigned size)
{
    for (size_t i = 0; i < count; i++) {
        records[i].offset = (uint32_t)(i * 10);
        records[i].length = (uint16_t)size;
        records[i].interface_index = (uint32_t)(i % 5);
        records[i].source[3] = (uint8_t)(i * 7);
        records[i].group[15] = (uint8_t)(i * 11);
        records[i].flags = (uint16_t)i;
    }
}

static void
release_in_pieces(mcast_arrow *arrow, mcast_shared *shared, size_t count)
{
    struct ArrowArray whole, payloads, sources;
    mcast_arrow_export(arrow, &whole);
    payloads = *whole.children[11];
    sources = *whole.children[1];
    whole.children[11]->release = NULL;
    whole.children[1]->release = NULL;
    mcast_shared_release(shared);
    whole.release(&whole);
    assert(!whole.release);
    const int64_t *offsets = payloads.buffers[1];
    const unsigned char *bytes = payloads.buffers[2];
    for (size_t i = 0; i < count; i++)
        assert(bytes[offsets[i]] == 0 && offsets[i + 1] > offsets[i]);
    payloads.release(&payloads);
    if (count)
        assert(((const int32_t *)sources.dictionary->buffers[1])[1] > 0);
    sources.release(&sources);
}

static void
schema(void)
{
    struct ArrowSchema whole, column;
    assert(mcast_arrow_schema(&whole) == 0);
    column = *whole.children[1];
    whole.children[1]->release = NULL;
    whole.release(&whole);
    assert(column.dictionary->format[0] == 'u');
    column.release(&column);
}

int
main(void)
{
    for (unsigned turn = 0; turn < 200; turn++) {
        size_t count = (size_t)turn * 7;
        mcast_record *records = calloc(count + 1, sizeof *records);
        unsigned char *arena = calloc(count + 1, 10);
        fill(records, count, turn % 2 ? 10 : 9); /* 9: with gaps */
        mcast_shared *shared = mcast_shared_new(arena, count * 10 + 10, give);
        mcast_arrow *arrow = mcast_arrow_new(records, count, arena, turn % 3 ? shared : NULL);
        for (size_t i = 0; i < mcast_arrow_interfaces(arrow); i++)
            assert(mcast_arrow_add_name(arrow, "eth0", 4) == 0);
        free(records);
        if (turn % 5) {
            release_in_pieces(arrow, shared, count);
        } else {
            mcast_shared_release(shared);
            mcast_arrow_free(arrow);
        }
        schema();
    }
    assert(given == 200);
    return 0;
}
