#include "quick.h"

enum { RTP_HEADER = 12, SPEAD_HEADER = 8, SPEAD_ITEM = 8 };
enum { SPEAD_COUNTER = 1, SPEAD_SIZE = 2, SPEAD_OFFSET = 3, SPEAD_LENGTH = 4, SPEAD_CONTROL = 6, SPEAD_STOP = 2 };

static uint64_t
read_big(const uint8_t *at, uint32_t width)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < width; i++)
        value = value << 8 | at[i];
    return value;
}

static uint64_t
read_little(const uint8_t *at, uint32_t width)
{
    uint64_t value = 0;
    for (uint32_t i = width; i > 0; i--)
        value = value << 8 | at[i - 1];
    return value;
}

static inline uint32_t
read_4(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* The usual widths are written out: compilers make one load of them, and none of a loop. */
static inline uint64_t
read_integer(const mcast_field *field, const uint8_t *at)
{
    if (field->little)
        return read_little(at, field->width);
    switch (field->width) {
    case 2:
        return (uint64_t)((uint32_t)at[0] << 8 | at[1]);
    case 4:
        return read_4(at);
    case 8:
        return (uint64_t)read_4(at) << 32 | read_4(at + 4);
    default:
        return read_big(at, field->width);
    }
}

static inline uint64_t
value_of(const mcast_field *field, const uint8_t *at)
{
    return (read_integer(field, at) & field->mask) >> field->shift;
}

static void
write_big(uint8_t *to, uint64_t value, uint32_t width)
{
    for (uint32_t i = width; i > 0; i--, value >>= 8)
        to[i - 1] = (uint8_t)value;
}

/* Where a field begins, or NULL where the payload ends before it does. */
static inline const uint8_t *
place_of(const mcast_field *field, const uint8_t *payload, size_t length, size_t behind_rtp)
{
    size_t start = field->offset + (field->after_rtp ? behind_rtp : 0);
    return start + field->width <= length ? payload + start : NULL;
}

static const size_t CUT_OFF = SIZE_MAX / 2;

size_t
mcast_rtp_size(const uint8_t *payload, size_t length)
{
    if (length < RTP_HEADER)
        return CUT_OFF;
    size_t size = RTP_HEADER + 4 * (size_t)(payload[0] & 0x0f);
    if (!(payload[0] & 0x10))
        return size;
    if (size + 4 > length)
        return CUT_OFF;
    return size + 4 + 4 * (size_t)read_big(payload + size + 2, 2);
}

static int
read_key(const mcast_format *format, const uint8_t *payload, size_t length, size_t behind_rtp, uint8_t *to)
{
    for (uint32_t i = 0; i < format->key_count; i++) {
        const mcast_field *field = &format->keys[i];
        const uint8_t *at = place_of(field, payload, length, behind_rtp);
        if (!at)
            return MCAST_SHORT;
        if (field->mask)
            write_big(to, value_of(field, at), field->width);
        else
            memcpy(to, at, field->width);
        to += field->width;
    }
    return MCAST_DATA;
}

static int
check_tests(const mcast_format *format, const uint8_t *payload, size_t length, size_t behind_rtp)
{
    for (uint32_t i = 0; i < format->test_count; i++) {
        const uint8_t *at = place_of(&format->tests[i], payload, length, behind_rtp);
        if (!at)
            return MCAST_SHORT;
        if (value_of(&format->tests[i], at) != format->wanted[i])
            return MCAST_OTHER;
    }
    return MCAST_DATA;
}

static int
read_fields(const mcast_format *format, const uint8_t *payload, size_t length, mcast_numbered *numbered, uint8_t *key)
{
    size_t behind_rtp = format->after_rtp ? mcast_rtp_size(payload, length) : 0;
    int kind = check_tests(format, payload, length, behind_rtp);
    if (kind != MCAST_DATA)
        return kind;
    const uint8_t *at = place_of(&format->number, payload, length, behind_rtp);
    if (!at)
        return MCAST_SHORT;
    uint64_t number = value_of(&format->number, at), count = 1;
    if (format->has_high) {
        at = place_of(&format->high, payload, length, behind_rtp);
        if (!at)
            return MCAST_SHORT;
        number += value_of(&format->high, at) * format->scale;
    }
    if (format->has_count) {
        at = place_of(&format->count, payload, length, behind_rtp);
        if (!at)
            return MCAST_SHORT;
        count = value_of(&format->count, at);
    }
    kind = read_key(format, payload, length, behind_rtp, key);
    if (kind != MCAST_DATA)
        return kind;
    numbered->number = number;
    if (format->has_count && count == format->end)
        return MCAST_END;
    if (count == 0 || (format->has_count && count == format->heartbeat))
        return MCAST_HEARTBEAT;
    numbered->count = (uint32_t)count;
    return MCAST_DATA;
}

const uint8_t *
mcast_field_find(const mcast_field *field, const uint8_t *payload, size_t length)
{
    return place_of(field, payload, length, field->after_rtp ? mcast_rtp_size(payload, length) : 0);
}

int
mcast_field_read(const mcast_field *field, const uint8_t *payload, size_t length, uint64_t *value)
{
    const uint8_t *at = mcast_field_find(field, payload, length);
    if (at)
        *value = value_of(field, at);
    return at != NULL;
}

static mcast_quick
quick_of(const mcast_field *field)
{
    uint8_t unread = field->little || field->width == 0 ? 0 : (uint8_t)(64 - 8 * field->width);
    return (mcast_quick){.mask = field->mask >> field->shift,
                         .offset = field->offset,
                         .down = (uint8_t)(unread + field->shift),
                         .little = field->little};
}

/* The same of a part of the key that ends `end` bytes behind the key's start. */
static mcast_quick
quick_part_of(const mcast_field *field, uint32_t end)
{
    mcast_quick quick = quick_of(field);
    quick.word = end > 8;
    quick.up = (uint8_t)(8 * ((end > 8 ? 16 : 8) - end));
    quick.across = (uint8_t)(end > 8 && end - field->width < 8 ? 8 * (end - 8) : 0);
    return quick;
}

/* The bytes of a value as the payload has them, and zeros up to eight. */
static uint64_t
bytes_of(const mcast_field *field, uint64_t value)
{
    uint8_t bytes[8] = {0};
    uint64_t word;
    for (uint32_t i = 0; i < field->width; i++)
        bytes[field->little ? i : field->width - 1u - i] = (uint8_t)(value >> 8 * i);
    memcpy(&word, bytes, sizeof word);
    return word;
}

static mcast_quick_test
quick_test_of(const mcast_field *field, uint64_t wanted)
{
    if (wanted > field->mask >> field->shift) /* no payload passes */
        return (mcast_quick_test){0, 1, field->offset};
    return (mcast_quick_test){bytes_of(field, field->mask), bytes_of(field, wanted << field->shift), field->offset};
}

/* Bytes of payload from which on a load of eight bytes at any field stays inside; UINT32_MAX: there is none that says so. */
static uint32_t
enough_of(const mcast_format *format)
{
    const mcast_field *fields[] = {&format->number, &format->high, &format->count};
    uint32_t last = 0;
    if (format->layout != MCAST_BY_FIELDS || format->after_rtp)
        return UINT32_MAX;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        last = fields[i]->offset > last ? fields[i]->offset : last;
    for (uint32_t i = 0; i < format->test_count; i++)
        last = format->tests[i].offset > last ? format->tests[i].offset : last;
    for (uint32_t i = 0; i < format->key_count; i++) {
        last = format->keys[i].offset > last ? format->keys[i].offset : last;
        if (!format->keys[i].mask) /* bytes are copied where they are looked for */
            return UINT32_MAX;
    }
    return last + 8;
}

static int
is_plain(const mcast_format *format)
{
    return !format->has_high && !format->has_count && format->test_count <= 1 && format->key_count <= 1 &&
           !format->quick_keys[0].word && !format->quick_keys[0].little && !format->quick_number.little;
}

void
mcast_format_prepare(mcast_format *format)
{
    format->enough = enough_of(format);
    format->quick_number = quick_of(&format->number);
    format->quick_high = quick_of(&format->high);
    format->quick_count = quick_of(&format->count);
    for (uint32_t i = 0, end = 0; i < format->key_count; i++)
        format->quick_keys[i] = quick_part_of(&format->keys[i], end += format->keys[i].width);
    for (uint32_t i = 0; i < format->test_count; i++)
        format->quick_tests[i] = quick_test_of(&format->tests[i], format->wanted[i]);
    format->enough_if_plain = is_plain(format) ? format->enough : UINT32_MAX;
    format->mask = UINT64_MAX >> (64u - format->bits);
    format->half = 1ull << (format->bits - 1);
}

/* ---- other layouts ---- */

typedef struct spead_items {
    uint64_t counter, size, offset, length, control;
    uint32_t found; /* bits by the number of the item */
} spead_items;

static void
note_item(spead_items *items, uint64_t number, uint64_t value)
{
    uint64_t *const to[] = {NULL, &items->counter, &items->size, &items->offset, &items->length, NULL, &items->control};
    if (number >= sizeof to / sizeof to[0] || !to[number])
        return;
    *to[number] = value;
    items->found |= 1u << number;
}

/* SPEAD: item pointers of 8 bytes, whose upper part is a mode bit and a number, whose lower part is a value. */
static int
read_spead(const mcast_format *format, const uint8_t *payload, size_t length, mcast_numbered *numbered, uint8_t *key)
{
    const uint32_t needed = 1u << SPEAD_COUNTER | 1u << SPEAD_SIZE | 1u << SPEAD_OFFSET | 1u << SPEAD_LENGTH;
    if (length < SPEAD_HEADER)
        return MCAST_SHORT;
    if (payload[0] != 0x53 || payload[1] != 4 || payload[2] == 0 || payload[3] == 0 || payload[2] + payload[3] != 8)
        return MCAST_OTHER;
    size_t count = (size_t)read_big(payload + 6, 2);
    uint32_t address_bits = 8u * payload[3];
    spead_items items = {0};
    if (SPEAD_HEADER + count * SPEAD_ITEM > length)
        return MCAST_SHORT;
    for (size_t i = 0; i < count; i++) {
        uint64_t item = read_big(payload + SPEAD_HEADER + i * SPEAD_ITEM, 8);
        if (item >> 63) /* an immediate value */
            note_item(&items, item << 1 >> 1 >> address_bits, item & ((1ull << address_bits) - 1));
    }
    if (items.found >> SPEAD_CONTROL & 1 && items.control == SPEAD_STOP) {
        numbered->number = items.counter; /* of a heap of its own: the flows that end are those of the sender */
        return MCAST_END;
    }
    if ((items.found & needed) != needed || items.length == 0)
        return MCAST_OTHER;
    write_big(key, items.size, 8);
    if (format->parameter) {
        uint64_t per_heap = items.size / format->parameter + (items.size % format->parameter != 0);
        uint64_t place = items.offset / format->parameter + (items.offset % format->parameter != 0);
        numbered->number = items.counter * per_heap + place;
        numbered->count = 1;
    } else {
        numbered->number = items.counter * items.size + items.offset;
        numbered->count = items.length > UINT32_MAX ? UINT32_MAX : (uint32_t)items.length;
    }
    return MCAST_DATA;
}

/* iperf 2: the lower half of a signed number at 0, the upper half at 12; the last datagram has the negative of its own. */
static int
read_iperf2(const uint8_t *payload, size_t length, mcast_numbered *numbered)
{
    if (length < 16)
        return MCAST_SHORT;
    uint64_t low = read_big(payload, 4);
    if (read_big(payload + 12, 4) == 0xffffffff && low != 0) {
        numbered->number = 0x100000000 - low;
        return MCAST_END;
    }
    numbered->number = low;
    numbered->count = 1;
    return MCAST_DATA;
}

/* LCM (udpm_util.h): "LC02" is a message, "LC03" a piece of one, with its place from 0 on at 16. The first piece has the message's number. */
static int
read_lcm(const uint8_t *payload, size_t length, mcast_numbered *numbered)
{
    enum { HEADER = 8, PIECE_HEADER = 20, WHOLE = 0x4c433032, PIECE = 0x4c433033 };
    uint64_t magic = length < HEADER ? 0 : read_big(payload, 4);
    if (length < HEADER || (magic == PIECE && length < PIECE_HEADER))
        return MCAST_SHORT;
    if (magic != WHOLE && (magic != PIECE || read_big(payload + 16, 2) != 0))
        return MCAST_OTHER;
    numbered->number = read_big(payload + 4, 4);
    numbered->count = 1;
    return MCAST_DATA;
}

/* Behind a text within the payload, or NULL. */
static const uint8_t *
behind(const uint8_t *payload, const uint8_t *end, const char *text, size_t size)
{
    for (const uint8_t *at = payload; (size_t)(end - at) >= size; at++)
        if (memcmp(at, text, size) == 0)
            return at + size;
    return NULL;
}

/* A decimal number of 1 to 19 digits that does not reach the end. */
static int
read_decimal(const uint8_t *at, const uint8_t *end, uint64_t *value)
{
    const uint8_t *start = at;
    *value = 0;
    for (; at < end && *at >= '0' && *at <= '9' && at - start < 19; at++)
        *value = *value * 10 + (uint64_t)(*at - '0');
    return at > start && at < end && !(*at >= '0' && *at <= '9');
}

/* mcjoin: "Sender PID 1234, MC group 225.1.2.3 ... count: 7, freq: 10", and zeros. */
static int
read_mcjoin(const uint8_t *payload, size_t length, mcast_numbered *numbered, uint8_t *key)
{
    static const char PID[] = "Sender PID ", COUNT[] = "count: ";
    enum { TEXT = 256 }; /* two addresses and four numbers are shorter */
    const uint8_t *end = payload + (length < TEXT ? length : TEXT);
    const uint8_t *pid = behind(payload, end, PID, sizeof PID - 1);
    const uint8_t *count = pid ? behind(pid, end, COUNT, sizeof COUNT - 1) : NULL;
    uint64_t process;
    if (!count || !read_decimal(pid, end, &process) || !read_decimal(count, end, &numbered->number)) {
        numbered->number = 0;
        return MCAST_OTHER;
    }
    write_big(key, process, 8);
    numbered->count = 1;
    return MCAST_DATA;
}

void
mcast_sequence_read_any(const mcast_format *format, const uint8_t *payload, size_t length, mcast_numbered *numbered)
{
    int kind;
    memset(numbered, 0, sizeof *numbered);
    uint8_t key[MCAST_KEY_SIZE] = {0};
    switch (format->layout) {
    case MCAST_BY_SPEAD:
        kind = read_spead(format, payload, length, numbered, key);
        break;
    case MCAST_BY_IPERF2:
        kind = read_iperf2(payload, length, numbered);
        break;
    case MCAST_BY_LCM:
        kind = read_lcm(payload, length, numbered);
        break;
    case MCAST_BY_MCJOIN:
        kind = read_mcjoin(payload, length, numbered, key);
        break;
    default:
        kind = read_fields(format, payload, length, numbered, key);
    }
    if (kind == MCAST_SHORT || kind == MCAST_OTHER) {
        memset(numbered, 0, sizeof *numbered);
    } else {
        numbered->key[0] = mcast_load_big(key);
        numbered->key[1] = mcast_load_big(key + 8);
    }
    numbered->kind = (uint8_t)kind;
}

void
mcast_sequence_write_key(const uint64_t key[2], uint8_t bytes[MCAST_KEY_SIZE])
{
    write_big(bytes, key[0], 8);
    write_big(bytes + 8, key[1], 8);
}

void
mcast_sequence_columns(const mcast_format *format, const mcast_record *records, size_t count, const uint8_t *arena,
                       uint64_t *numbers, uint32_t *counts, uint8_t (*keys)[MCAST_KEY_SIZE], uint8_t *kinds)
{
    for (size_t i = 0; i < count; i++) {
        mcast_numbered one;
        mcast_sequence_look_ahead(format, records, i, count, arena);
        mcast_sequence_read(format, arena + records[i].offset, records[i].length, &one);
        numbers[i] = one.number;
        counts[i] = one.count;
        kinds[i] = one.kind;
        mcast_sequence_write_key(one.key, keys[i]);
    }
}
