/* See arrow.h. One block of memory holds all structures of an export, and counts those that are not released: a consumer may move
 * a column away, and release it later than the batch. */
#include "arrow.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum {
    MCAST_COLUMN_TIMESTAMP,
    MCAST_COLUMN_SOURCE,
    MCAST_COLUMN_SOURCE_PORT,
    MCAST_COLUMN_GROUP,
    MCAST_COLUMN_PORT,
    MCAST_COLUMN_INTERFACE,
    MCAST_COLUMN_DROPPED,
    MCAST_COLUMN_WIRE_LENGTH,
    MCAST_COLUMN_TRUNCATED,
    MCAST_COLUMN_TTL,
    MCAST_COLUMN_TOS,
    MCAST_COLUMN_PAYLOAD,
    MCAST_COLUMNS,
};

enum { MCAST_SOURCES, MCAST_GROUPS, MCAST_INTERFACES, MCAST_DICTIONARIES, MCAST_NO_DICTIONARY = -1 };

/* Column: its name and format, bytes per value (0: bits, or payloads), whether a value may be unknown, and its dictionary. */
typedef struct mcast_column {
    const char *name;
    const char *format;
    size_t size;
    int nullable;
    int dictionary;
} mcast_column;

static const mcast_column mcast_columns[MCAST_COLUMNS] = {
    {"timestamp", "tsn:UTC", 8, 1, MCAST_NO_DICTIONARY},
    {"source", "i", 4, 0, MCAST_SOURCES},
    {"source_port", "S", 2, 0, MCAST_NO_DICTIONARY},
    {"group", "i", 4, 0, MCAST_GROUPS},
    {"port", "S", 2, 0, MCAST_NO_DICTIONARY},
    {"interface", "i", 4, 0, MCAST_INTERFACES},
    {"dropped", "I", 4, 0, MCAST_NO_DICTIONARY},
    {"wire_length", "S", 2, 1, MCAST_NO_DICTIONARY},
    {"truncated", "b", 0, 0, MCAST_NO_DICTIONARY},
    {"ttl", "C", 1, 1, MCAST_NO_DICTIONARY},
    {"tos", "C", 1, 1, MCAST_NO_DICTIONARY},
    {"payload", "Z", 0, 0, MCAST_NO_DICTIONARY},
};

/* Memory ------------------------------------------------------------------------------------------------------------ */

mcast_shared *
mcast_shared_new(unsigned char *bytes, size_t capacity, void (*give)(void *, size_t))
{
    mcast_shared *shared = malloc(sizeof *shared);
    if (shared) {
        shared->references = 1;
        shared->bytes = bytes;
        shared->capacity = capacity;
        shared->give = give;
    }
    return shared;
}

void
mcast_shared_release(mcast_shared *shared)
{
    if (mcast_refcount_down(&shared->references) == 0) {
        shared->give(shared->bytes, shared->capacity);
        free(shared);
    }
}

/* An array with space for `needed` items; 0, or -1 without memory (what is there stays). */
static int
mcast_grow(void **items, size_t *room, size_t needed, size_t size)
{
    if (needed <= *room)
        return 0;
    size_t larger = *room * 2 > needed ? *room * 2 : needed;
    void *moved = larger <= SIZE_MAX / size ? realloc(*items, larger * size) : NULL;
    if (!moved)
        return -1;
    *items = moved;
    *room = larger;
    return 0;
}

/* Dictionaries ------------------------------------------------------------------------------------------------------ */

typedef struct mcast_key {
    uint64_t high, low; /* sixteen bytes of an address as they are in memory; or (interface index, 0) */
} mcast_key;

/* Different values, numbered in the order they came, and their texts. */
typedef struct mcast_dictionary {
    mcast_key *keys;
    size_t count, room;
    int32_t *slots; /* number + 1 of the key that hashes here, or somewhere before; 0: none */
    size_t slot_count;
    mcast_key last; /* of the row before: most rows repeat it */
    int32_t last_number;
    uint64_t seed; /* differs from process to process: a file cannot be made whose addresses collide */
    int32_t *ends; /* of the texts: one more than there are */
    size_t texts, ends_room;
    char *text;
    size_t text_size, text_room;
} mcast_dictionary;

static size_t
mcast_key_slot(const mcast_dictionary *dictionary, mcast_key key)
{
    uint64_t mixed = (key.high ^ dictionary->seed) * UINT64_C(0x9e3779b97f4a7c15);
    mixed = (mixed ^ mixed >> 32 ^ key.low) * UINT64_C(0xd6e8feb86659fd93);
    mixed = (mixed ^ mixed >> 32) * UINT64_C(0xd6e8feb86659fd93);
    return (size_t)(mixed ^ mixed >> 32) & (dictionary->slot_count - 1);
}

static void
mcast_dictionary_place(mcast_dictionary *dictionary, size_t number)
{
    size_t slot = mcast_key_slot(dictionary, dictionary->keys[number]);
    while (dictionary->slots[slot])
        slot = (slot + 1) & (dictionary->slot_count - 1);
    dictionary->slots[slot] = (int32_t)number + 1;
}

/* Adds a key that is not there; its number, or -1 without memory. */
static int32_t
mcast_dictionary_add(mcast_dictionary *dictionary, mcast_key key)
{
    if (dictionary->count == INT32_MAX - 1 ||
        mcast_grow((void **)&dictionary->keys, &dictionary->room, dictionary->count + 1, sizeof key) != 0)
        return -1;
    dictionary->keys[dictionary->count] = key;
    if ((dictionary->count + 1) * 2 > dictionary->slot_count) {
        size_t larger = dictionary->slot_count ? dictionary->slot_count * 2 : 16;
        int32_t *slots = calloc(larger, sizeof *slots);
        if (!slots)
            return -1;
        free(dictionary->slots);
        dictionary->slots = slots;
        dictionary->slot_count = larger;
        for (size_t number = 0; number < dictionary->count; number++)
            mcast_dictionary_place(dictionary, number);
    }
    mcast_dictionary_place(dictionary, dictionary->count);
    return (int32_t)dictionary->count++;
}

/* The number of a key; -1 without memory. */
static int32_t
mcast_dictionary_find(mcast_dictionary *dictionary, mcast_key key)
{
    int32_t number = -1;
    if (dictionary->slot_count) {
        size_t slot = mcast_key_slot(dictionary, key);
        for (; dictionary->slots[slot] && number < 0; slot = (slot + 1) & (dictionary->slot_count - 1)) {
            const mcast_key *there = &dictionary->keys[dictionary->slots[slot] - 1];
            if (there->high == key.high && there->low == key.low)
                number = dictionary->slots[slot] - 1;
        }
    }
    if (number < 0)
        number = mcast_dictionary_add(dictionary, key);
    dictionary->last = key;
    dictionary->last_number = number;
    return number;
}

static inline int32_t
mcast_dictionary_number(mcast_dictionary *dictionary, mcast_key key)
{
    if (key.high == dictionary->last.high && key.low == dictionary->last.low && dictionary->count)
        return dictionary->last_number;
    return mcast_dictionary_find(dictionary, key);
}

static int
mcast_dictionary_add_text(mcast_dictionary *dictionary, const char *text, size_t size)
{
    if (size > INT32_MAX - dictionary->text_size)
        return -1; /* the offsets of texts have 32 bits */
    if (mcast_grow((void **)&dictionary->text, &dictionary->text_room, dictionary->text_size + size + 1, 1) != 0 ||
        mcast_grow((void **)&dictionary->ends, &dictionary->ends_room, dictionary->texts + 2, sizeof(int32_t)) != 0)
        return -1;
    memcpy(dictionary->text + dictionary->text_size, text, size);
    dictionary->text_size += size;
    if (dictionary->texts == 0)
        dictionary->ends[0] = 0;
    dictionary->ends[++dictionary->texts] = (int32_t)dictionary->text_size;
    return 0;
}

static void
mcast_dictionary_free(mcast_dictionary *dictionary)
{
    free(dictionary->keys);
    free(dictionary->slots);
    free(dictionary->ends);
    free(dictionary->text);
}

/* Addresses as text ------------------------------------------------------------------------------------------------- */

enum { MCAST_LONGEST_ADDRESS = 40 };

static char *
mcast_write_number(char *to, unsigned number, unsigned base)
{
    unsigned divisor = 1;
    while (number / divisor >= base)
        divisor *= base;
    for (; divisor; divisor /= base)
        *to++ = "0123456789abcdef"[number / divisor % base];
    return to;
}

/* RFC 5952, 4: the longest run of two zero groups or more is left out, the first one of equals. inet_ntop writes some addresses
 * (::1.2.3.4) in another way than Python does. */
static char *
mcast_write_v6(char *to, const uint8_t address[16])
{
    unsigned groups[8], start = 8, longest = 1;
    for (unsigned i = 0; i < 8; i++)
        groups[i] = (unsigned)address[2 * i] << 8 | address[2 * i + 1];
    for (unsigned i = 0; i < 8; i++) {
        unsigned run = 0;
        while (i + run < 8 && groups[i + run] == 0)
            run++;
        if (run > longest) {
            start = i;
            longest = run;
        }
    }
    for (unsigned i = 0; i < 8; i++) {
        if (i == start) {
            *to++ = ':';
            if (i + longest == 8)
                *to++ = ':';
            i += longest - 1;
            continue;
        }
        if (i)
            *to++ = ':';
        to = mcast_write_number(to, groups[i], 16);
    }
    return to;
}

static char *
mcast_write_v4(char *to, const uint8_t address[4])
{
    for (unsigned i = 0; i < 4; i++) {
        if (i)
            *to++ = '.';
        to = mcast_write_number(to, address[i], 10);
    }
    return to;
}

/* Adds the text of an address; 0, or -1 without memory. */
static int
mcast_add_address(mcast_dictionary *dictionary, const mcast_key *key)
{
    char text[MCAST_LONGEST_ADDRESS];
    uint8_t address[16];
    memcpy(address, key, sizeof address);
    int is_v4 = memcmp(address, mcast_v4_prefix, sizeof mcast_v4_prefix) == 0;
    const char *end = is_v4 ? mcast_write_v4(text, address + 12) : mcast_write_v6(text, address);
    return mcast_dictionary_add_text(dictionary, text, (size_t)(end - text));
}

/* Columns ----------------------------------------------------------------------------------------------------------- */

enum { MCAST_ARROW_ARRAYS = 1 + MCAST_COLUMNS + MCAST_DICTIONARIES, MCAST_ALIGNMENT = 64 };

struct mcast_arrow {
    mcast_refcount references; /* structures that are not released */
    size_t count;
    unsigned char *memory; /* of all columns */
    unsigned char *values[MCAST_COLUMNS];
    unsigned char *known[MCAST_COLUMNS]; /* a bit for each value that is known; NULL: the column has no unknown ones */
    int64_t unknown[MCAST_COLUMNS];
    mcast_shared *shared;
    const unsigned char *payloads;
    unsigned char *copy; /* of the payloads */
    mcast_dictionary dictionaries[MCAST_DICTIONARIES];
    struct ArrowArray arrays[MCAST_ARROW_ARRAYS - 1];
    struct ArrowArray *children[MCAST_COLUMNS];
    const void *buffers[MCAST_ARROW_ARRAYS][3];
};

static size_t
mcast_aligned(size_t size)
{
    return (size + MCAST_ALIGNMENT - 1) / MCAST_ALIGNMENT * MCAST_ALIGNMENT;
}

/* Places for the columns in one block of memory; 0, or -1 without. */
static int
mcast_arrow_place(mcast_arrow *arrow)
{
    size_t bits = mcast_aligned(arrow->count / 8 + 1), at = MCAST_ALIGNMENT, sizes[MCAST_COLUMNS];
    for (int i = 0; i < MCAST_COLUMNS; i++) {
        sizes[i] = mcast_columns[i].size ? mcast_aligned(arrow->count * mcast_columns[i].size) : bits;
        if (i == MCAST_COLUMN_PAYLOAD)
            sizes[i] = mcast_aligned((arrow->count + 1) * sizeof(int64_t));
        at += sizes[i] + (mcast_columns[i].nullable ? bits : 0);
    }
    arrow->memory = malloc(at);
    if (!arrow->memory)
        return -1;
    unsigned char *next =
        arrow->memory + (MCAST_ALIGNMENT - (uintptr_t)arrow->memory % MCAST_ALIGNMENT) % MCAST_ALIGNMENT;
    for (int i = 0; i < MCAST_COLUMNS; i++) {
        arrow->values[i] = next;
        next += sizes[i];
        if (mcast_columns[i].nullable) {
            arrow->known[i] = next;
            next += bits;
        }
    }
    return 0;
}

static inline mcast_key
mcast_address_key(const uint8_t address[16])
{
    mcast_key key;
    memcpy(&key, address, sizeof key);
    return key;
}

/* The numbers of what the records name; 0, or -1 without memory. */
static int
mcast_arrow_fill_dictionaries(mcast_arrow *arrow, const mcast_record *records)
{
    int32_t *sources = (int32_t *)arrow->values[MCAST_COLUMN_SOURCE];
    int32_t *groups = (int32_t *)arrow->values[MCAST_COLUMN_GROUP];
    int32_t *interfaces = (int32_t *)arrow->values[MCAST_COLUMN_INTERFACE];
    mcast_dictionary *all = arrow->dictionaries;
    for (size_t i = 0; i < arrow->count; i++) {
        mcast_key index = {records[i].interface_index, 0};
        sources[i] = mcast_dictionary_number(&all[MCAST_SOURCES], mcast_address_key(records[i].source));
        groups[i] = mcast_dictionary_number(&all[MCAST_GROUPS], mcast_address_key(records[i].group));
        interfaces[i] = mcast_dictionary_number(&all[MCAST_INTERFACES], index);
        if ((sources[i] | groups[i] | interfaces[i]) < 0)
            return -1;
    }
    for (int kind = MCAST_SOURCES; kind <= MCAST_GROUPS; kind++)
        for (size_t i = 0; i < all[kind].count; i++)
            if (mcast_add_address(&all[kind], &all[kind].keys[i]) != 0)
                return -1;
    return 0;
}

static void
mcast_arrow_fill_numbers(mcast_arrow *arrow, const mcast_record *records)
{
    int64_t *timestamps = (int64_t *)arrow->values[MCAST_COLUMN_TIMESTAMP];
    uint16_t *source_ports = (uint16_t *)arrow->values[MCAST_COLUMN_SOURCE_PORT];
    uint16_t *ports = (uint16_t *)arrow->values[MCAST_COLUMN_PORT];
    uint32_t *dropped = (uint32_t *)arrow->values[MCAST_COLUMN_DROPPED];
    uint16_t *wire_lengths = (uint16_t *)arrow->values[MCAST_COLUMN_WIRE_LENGTH];
    uint8_t *ttls = arrow->values[MCAST_COLUMN_TTL], *toses = arrow->values[MCAST_COLUMN_TOS];
    for (size_t i = 0; i < arrow->count; i++) {
        timestamps[i] = records[i].timestamp;
        source_ports[i] = records[i].source_port;
        ports[i] = records[i].port;
        dropped[i] = records[i].dropped;
        wire_lengths[i] = records[i].wire_length;
        ttls[i] = records[i].ttl;
        toses[i] = records[i].tos;
    }
}

/* Columns of bits, a byte of each at a time. */
static void
mcast_arrow_fill_bits(mcast_arrow *arrow, const mcast_record *records)
{
    int64_t known[MCAST_COLUMNS] = {0};
    for (size_t byte = 0; byte * 8 < arrow->count; byte++) {
        unsigned times = 0, wires = 0, truncated = 0, ttls = 0, toses = 0;
        for (unsigned bit = 0; bit < 8 && byte * 8 + bit < arrow->count; bit++) {
            const mcast_record *record = &records[byte * 8 + bit];
            unsigned has_time = record->timestamp != 0;
            unsigned has_wire = record->wire_length != 0 || (record->length == 0 && !(record->flags & MCAST_TRUNCATED));
            unsigned has_ttl = (record->flags & MCAST_TTL) != 0, has_tos = (record->flags & MCAST_TOS) != 0;
            times |= has_time << bit;
            wires |= has_wire << bit;
            truncated |= (unsigned)(record->flags & MCAST_TRUNCATED) << bit;
            ttls |= has_ttl << bit;
            toses |= has_tos << bit;
            known[MCAST_COLUMN_TIMESTAMP] += has_time;
            known[MCAST_COLUMN_WIRE_LENGTH] += has_wire;
            known[MCAST_COLUMN_TTL] += has_ttl;
            known[MCAST_COLUMN_TOS] += has_tos;
        }
        arrow->known[MCAST_COLUMN_TIMESTAMP][byte] = (uint8_t)times;
        arrow->known[MCAST_COLUMN_WIRE_LENGTH][byte] = (uint8_t)wires;
        arrow->values[MCAST_COLUMN_TRUNCATED][byte] = (uint8_t)truncated;
        arrow->known[MCAST_COLUMN_TTL][byte] = (uint8_t)ttls;
        arrow->known[MCAST_COLUMN_TOS][byte] = (uint8_t)toses;
    }
    for (int i = 0; i < MCAST_COLUMNS; i++)
        arrow->unknown[i] = mcast_columns[i].nullable ? (int64_t)arrow->count - known[i] : 0;
}

/* Where payloads begin and end; without gaps between them they stay where they are. 0, or -1 without memory. */
static int
mcast_arrow_fill_payloads(mcast_arrow *arrow, const mcast_record *records, const unsigned char *arena,
                          mcast_shared *shared)
{
    int64_t *offsets = (int64_t *)arrow->values[MCAST_COLUMN_PAYLOAD];
    size_t size = 0;
    int gaps = 0;
    offsets[0] = arrow->count ? records[0].offset : 0;
    for (size_t i = 0; i < arrow->count; i++) {
        gaps |= offsets[i] != records[i].offset;
        offsets[i + 1] = (int64_t)records[i].offset + records[i].length;
        size += records[i].length;
    }
    arrow->payloads = arena;
    if (shared && !gaps) {
        mcast_refcount_up(&shared->references);
        arrow->shared = shared;
        return 0;
    }
    arrow->payloads = arrow->copy = malloc(size + 1);
    if (!arrow->copy)
        return -1;
    offsets[0] = 0;
    for (size_t i = 0; i < arrow->count; i++) {
        memcpy(arrow->copy + offsets[i], arena + records[i].offset, records[i].length);
        offsets[i + 1] = offsets[i] + records[i].length;
    }
    return 0;
}

mcast_arrow *
mcast_arrow_new(const mcast_record *records, size_t count, const unsigned char *arena, mcast_shared *shared)
{
    mcast_arrow *arrow = calloc(1, sizeof *arrow);
    if (!arrow)
        return NULL;
    arrow->count = count;
    for (int i = 0; i < MCAST_DICTIONARIES; i++)
        arrow->dictionaries[i].seed = (uint64_t)(uintptr_t)arrow * UINT64_C(0x9e3779b97f4a7c15);
    if (mcast_arrow_place(arrow) != 0 || mcast_arrow_fill_dictionaries(arrow, records) != 0 ||
        mcast_arrow_fill_payloads(arrow, records, arena, shared) != 0) {
        mcast_arrow_free(arrow);
        return NULL;
    }
    mcast_arrow_fill_numbers(arrow, records);
    mcast_arrow_fill_bits(arrow, records);
    return arrow;
}

size_t
mcast_arrow_interfaces(const mcast_arrow *arrow)
{
    return arrow->dictionaries[MCAST_INTERFACES].count;
}

uint32_t
mcast_arrow_interface(const mcast_arrow *arrow, size_t at)
{
    return (uint32_t)arrow->dictionaries[MCAST_INTERFACES].keys[at].high;
}

int
mcast_arrow_add_name(mcast_arrow *arrow, const char *name, size_t size)
{
    return mcast_dictionary_add_text(&arrow->dictionaries[MCAST_INTERFACES], name, size);
}

void
mcast_arrow_free(mcast_arrow *arrow)
{
    for (int i = 0; i < MCAST_DICTIONARIES; i++)
        mcast_dictionary_free(&arrow->dictionaries[i]);
    if (arrow->shared)
        mcast_shared_release(arrow->shared);
    free(arrow->copy);
    free(arrow->memory);
    free(arrow);
}

/* Structures -------------------------------------------------------------------------------------------------------- */

static void
mcast_arrow_release(struct ArrowArray *array)
{
    mcast_arrow *arrow = array->private_data;
    for (int64_t i = 0; i < array->n_children; i++)
        if (array->children[i]->release) /* else a consumer moved it away */
            array->children[i]->release(array->children[i]);
    if (array->dictionary && array->dictionary->release)
        array->dictionary->release(array->dictionary);
    array->release = NULL;
    if (mcast_refcount_down(&arrow->references) == 0)
        mcast_arrow_free(arrow);
}

/* Fills in one structure; buffer 0 says which values are known. */
static void
mcast_arrow_describe(mcast_arrow *arrow, struct ArrowArray *array, const void **buffers, size_t length)
{
    memset(array, 0, sizeof *array);
    array->length = (int64_t)length;
    array->n_buffers = 2;
    array->buffers = buffers;
    array->release = mcast_arrow_release;
    array->private_data = arrow;
    arrow->references++; /* nobody else has it yet */
}

void
mcast_arrow_export(mcast_arrow *arrow, struct ArrowArray *array)
{
    static const int32_t no_ends[1] = {0};
    struct ArrowArray *texts = arrow->arrays + MCAST_COLUMNS;
    const void *(*buffers)[3] = arrow->buffers;
    for (int i = 0; i < MCAST_DICTIONARIES; i++, buffers++) {
        const mcast_dictionary *dictionary = &arrow->dictionaries[i];
        (*buffers)[1] = dictionary->ends ? dictionary->ends : no_ends;
        (*buffers)[2] = dictionary->text ? (const void *)dictionary->text : "";
        mcast_arrow_describe(arrow, &texts[i], *buffers, dictionary->texts);
        texts[i].n_buffers = 3;
    }
    for (int i = 0; i < MCAST_COLUMNS; i++, buffers++) {
        struct ArrowArray *column = arrow->children[i] = &arrow->arrays[i];
        (*buffers)[0] = arrow->unknown[i] ? arrow->known[i] : NULL;
        (*buffers)[1] = arrow->values[i];
        mcast_arrow_describe(arrow, column, *buffers, arrow->count);
        column->null_count = arrow->unknown[i];
        if (mcast_columns[i].dictionary != MCAST_NO_DICTIONARY)
            column->dictionary = &texts[mcast_columns[i].dictionary];
    }
    arrow->buffers[MCAST_DICTIONARIES + MCAST_COLUMN_PAYLOAD][2] = arrow->payloads ? (const void *)arrow->payloads : "";
    arrow->arrays[MCAST_COLUMN_PAYLOAD].n_buffers = 3;
    mcast_arrow_describe(arrow, array, *buffers, arrow->count);
    array->n_buffers = 1;
    array->n_children = MCAST_COLUMNS;
    array->children = arrow->children;
}

typedef struct mcast_arrow_schemas {
    mcast_refcount references;
    struct ArrowSchema schemas[MCAST_COLUMNS + MCAST_DICTIONARIES];
    struct ArrowSchema *children[MCAST_COLUMNS];
} mcast_arrow_schemas;

static void
mcast_schema_release(struct ArrowSchema *schema)
{
    mcast_arrow_schemas *all = schema->private_data;
    for (int64_t i = 0; i < schema->n_children; i++)
        if (schema->children[i]->release)
            schema->children[i]->release(schema->children[i]);
    if (schema->dictionary && schema->dictionary->release)
        schema->dictionary->release(schema->dictionary);
    schema->release = NULL;
    if (mcast_refcount_down(&all->references) == 0)
        free(all);
}

static void
mcast_schema_describe(mcast_arrow_schemas *all, struct ArrowSchema *schema, const char *format, const char *name)
{
    memset(schema, 0, sizeof *schema);
    schema->format = format;
    schema->name = name;
    schema->release = mcast_schema_release;
    schema->private_data = all;
    all->references++;
}

int
mcast_arrow_schema(struct ArrowSchema *schema)
{
    mcast_arrow_schemas *all = calloc(1, sizeof *all);
    if (!all)
        return -1;
    struct ArrowSchema *texts = all->schemas + MCAST_COLUMNS;
    for (int i = 0; i < MCAST_DICTIONARIES; i++)
        mcast_schema_describe(all, &texts[i], "u", "");
    for (int i = 0; i < MCAST_COLUMNS; i++) {
        struct ArrowSchema *column = all->children[i] = &all->schemas[i];
        mcast_schema_describe(all, column, mcast_columns[i].format, mcast_columns[i].name);
        column->flags = mcast_columns[i].nullable ? ARROW_FLAG_NULLABLE : 0;
        if (mcast_columns[i].dictionary != MCAST_NO_DICTIONARY)
            column->dictionary = &texts[mcast_columns[i].dictionary];
    }
    mcast_schema_describe(all, schema, "+s", "");
    schema->n_children = MCAST_COLUMNS;
    schema->children = all->children;
    return 0;
}
