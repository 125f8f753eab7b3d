/* Fuzzes the reader of capture files, and the writer and the summary with what was read: mutations of real files, in pieces of any size;
 * with times from which on and up to which packets are wanted, and with fragments that are put together.
 *
 *     capture SECONDS SEED FILE...
 *
 * Every piece is handed over in memory of exactly its size, so that AddressSanitizer sees the first byte that is read beyond it. What the
 * reader delivers must hold together, and what the writer makes of it must be read back equal. Prints the executions. */
#include "capture_read.h"
#include "capture_write.h"

#include <stdio.h>
#include <time.h>

enum { LARGEST_FILE = 1 << 20, MOST_MUTATIONS = 8, BATCH = 64 };

typedef struct sample {
    unsigned char *bytes;
    size_t size;
} sample;

static uint64_t state;
static mcast_pool pool = {.lock = MCAST_MUTEX_INITIAL};
static uint64_t packets, refused;

/* xorshift64* */
static uint64_t
chance(uint64_t below)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return below ? (state * 0x2545f4914f6cdd1dULL >> 16) % below : 0;
}

static void
require(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "does not hold: %s\n", what);
        abort();
    }
}

/* Values that break readers: around the limits of every width. */
static uint32_t
interesting(void)
{
    static const uint32_t values[] = {0,          1,          3,          4,          7,          8,
                                      12,         16,         28,         32,         0x7f,       0xff,
                                      0xffff,     0x10000,    0x7fffffff, 0x80000000, 0xffff0000, 0xffffffff,
                                      0xfffffffc, 0xfffffff0, 0x01000000, 0x01001000};
    return values[chance(sizeof values / sizeof *values)];
}

static void
mutate(unsigned char *bytes, size_t *size)
{
    size_t at = chance(*size), count = 1 + chance(64);
    switch (chance(6)) {
    case 0:
        bytes[at] ^= (unsigned char)(1u << chance(8));
        break;
    case 1:
        bytes[at] = (unsigned char)chance(256);
        break;
    case 2: { /* a number, in either byte order, mostly where numbers stand */
        uint32_t value = chance(2) ? interesting() : mcast_swapped32(interesting());
        at &= ~(size_t)(chance(4) ? 3 : 0);
        if (at + 4 <= *size)
            memcpy(bytes + at, &value, 4);
        break;
    }
    case 3: /* torn */
        *size = at;
        break;
    case 4: /* a piece cut out */
        count = count < *size - at ? count : *size - at;
        memmove(bytes + at, bytes + at + count, *size - at - count);
        *size -= count;
        break;
    default: { /* a piece copied elsewhere */
        size_t from = chance(*size);
        count = count < *size - at ? count : *size - at;
        count = count < *size - from ? count : *size - from;
        memmove(bytes + at, bytes + from, count);
    }
    }
}

/* What was delivered lies where its record says, and is as long as a datagram can be. */
static void
check_batch(const mcast_decoder *decoder)
{
    const mcast_record *records = (const mcast_record *)decoder->records.bytes;
    volatile unsigned char seen = 0;
    for (size_t i = 0; i < mcast_decoder_count(decoder); i++) {
        require((size_t)records[i].offset + records[i].length <= decoder->data.used, "a payload lies in the arena");
        require(records[i].interface_index >= 1 && records[i].interface_index <= decoder->described,
                "a packet's interface is described");
        require(records[i].length <= records[i].wire_length, "no more was captured than there was");
        if (records[i].length)
            seen ^=
                decoder->data.bytes[records[i].offset] ^ decoder->data.bytes[records[i].offset + records[i].length - 1];
    }
}

/* Writes the batch, and reads it back. */
static void
check_writer(const mcast_decoder *decoder)
{
    const mcast_record *records = (const mcast_record *)decoder->records.bytes;
    size_t count = mcast_decoder_count(decoder), used, taken;
    uint64_t keys[BATCH];
    for (size_t i = 0; i < count; i++)
        keys[i] = mcast_interface_key(&records[i]);
    mcast_encoder encoder = {0};
    encoder.pcap = (int)chance(2);
    encoder.keys = keys;
    encoder.raw = (int)chance(2);
    encoder.interfaces = count;
    unsigned char *to = malloc(mcast_encoded_size(records, count) + 1);
    size_t written = mcast_encode(&encoder, records, count, decoder->data.bytes, to, &used);
    mcast_decoder again = {0};
    again.pool = &pool;
    again.end = INT64_MAX;
    again.known = 1;
    again.pcap = encoder.pcap ? &mcast_pcap_kinds[1] : NULL;
    for (size_t i = 0; i < count; i++) {
        int status;
        mcast_decoder_describe(&again, encoder.raw ? MCAST_LINK_RAW : MCAST_LINK_ETHERNET, &status)->resolution = 9;
        again.described++;
    }
    int status = mcast_decode(&again, to, used, SIZE_MAX, &taken);
    require(status == MCAST_DECODE_MORE && taken == used, "what was written can be read");
    require(mcast_decoder_count(&again) == written, "as many packets are read as were written");
    const mcast_record *copies = (const mcast_record *)again.records.bytes;
    for (size_t i = 0; i < written; i++) {
        require(memcmp(copies[i].source, records[i].source, 36) == 0, "addresses and ports are read back");
        require(copies[i].length == records[i].length && copies[i].wire_length == records[i].wire_length,
                "lengths are read back");
        require(memcmp(again.data.bytes + copies[i].offset, decoder->data.bytes + records[i].offset,
                       records[i].length) == 0,
                "payloads are read back");
    }
    mcast_decoder_free(&again);
    free(to);
}

static void
open_filter(mcast_decoder *decoder)
{
    decoder->multicast_only = (int)chance(2);
    decoder->start = chance(4) ? INT64_MIN : (int64_t)(chance(2) ? chance(UINT64_MAX) : chance(1u << 31) * 1000000000);
    decoder->end = chance(4) ? INT64_MAX : (int64_t)(chance(2) ? chance(UINT64_MAX) : chance(1u << 31) * 1000000000);
    if (chance(4))
        return;
    decoder->filtered = 1;
    decoder->key_kinds = (unsigned)chance(16);
    if (mcast_filter_open(&decoder->filter, 1, 1) != 0)
        abort();
    mcast_entry entry = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 239, 1, 1, 1}, 0, 1, 0, (uint32_t)chance(2)};
    memset(decoder->filter.sources[0], 0, 16);
    mcast_filter_add(&decoder->filter, &entry);
}

/* The sums of a summary are those of the packets that it counted, however few flows it lists. */
static void
check_summary(mcast_summary *summary, uint64_t received, uint64_t bytes)
{
    mcast_summary_fit(summary);
    require(summary->count <= summary->most, "no more flows are listed than are wanted");
    uint64_t found = summary->others.packets, sum = summary->others.bytes;
    for (size_t i = 0; i < summary->count; i++) {
        const mcast_counted *flow = &summary->flows[i];
        require(flow->packets > 0 && flow->smallest <= flow->largest, "a flow has packets");
        require(flow->bytes <= flow->wire_bytes, "no more was captured than there was");
        require(flow->first <= flow->last && flow->largest_gap <= (uint64_t)flow->last - (uint64_t)flow->first,
                "a gap lies between the first and the last packet");
        found += flow->packets;
        sum += flow->bytes;
        for (size_t other = 0; other < i; other++)
            require(memcmp(summary->flows[other].source, flow->source, 32) != 0 ||
                        summary->flows[other].port != flow->port || mcast_is_link_local(flow->source),
                    "a flow is listed once");
    }
    require(found == received && sum == bytes, "every packet is of one flow");
}

static void
take_batch(mcast_decoder *decoder, mcast_summary *summary)
{
    check_batch(decoder);
    packets += mcast_decoder_count(decoder);
    for (size_t i = 0; i < mcast_decoder_count(decoder); i++)
        mcast_summary_add(summary, (const mcast_record *)decoder->records.bytes + i);
    if (mcast_decoder_count(decoder) && chance(4) == 0)
        check_writer(decoder);
    mcast_decoder_finish(decoder);
    mcast_pool_give(&pool, decoder->records.bytes, decoder->records.capacity);
    mcast_pool_give(&pool, decoder->data.bytes, decoder->data.capacity);
    memset(&decoder->records, 0, sizeof decoder->records);
    memset(&decoder->data, 0, sizeof decoder->data);
}

/* Reads a whole file, piece by piece as a pipe would bring it. */
static void
read_file(const unsigned char *bytes, size_t size)
{
    mcast_decoder decoder = {0};
    size_t at = 0, piece = 1 + (chance(3) ? size : chance(600)), limit = 1 + chance(BATCH);
    mcast_summary summary;
    int counts_alone = chance(2) == 0; /* no packets are made: as `mcast-fast info` reads */
    mcast_summary_open(&summary, 1 + chance(6), chance(UINT64_MAX));
    decoder.pool = &pool;
    open_filter(&decoder);
    decoder.summary = counts_alone ? &summary : NULL;
    for (size_t rounds = 0;; rounds++) {
        size_t have = piece < size - at ? piece : size - at, used;
        unsigned char *exact = malloc(have ? have : 1);
        memcpy(exact, bytes + at, have);
        int status = mcast_decode(&decoder, exact, have, limit, &used);
        free(exact);
        require(used <= have, "no more is done with than there was");
        require(rounds <= 4 * size + 64, "the reader gets on");
        at += used;
        if (mcast_decoder_count(&decoder))
            take_batch(&decoder, &summary);
        refused += status == MCAST_DECODE_WRONG;
        if (status == MCAST_DECODE_WRONG || status == MCAST_DECODE_MEMORY)
            break;
        if (status == MCAST_DECODE_MORE && used == 0) {
            require(decoder.needed > have, "what is wanted is more than there is");
            if (have == size - at)
                break;
            piece += piece < decoder.needed ? decoder.needed - piece : 1;
        }
    }
    require(decoder.counters.received + decoder.counters.filtered + decoder.counters.fragments +
                    decoder.counters.skipped + decoder.counters.broken <=
                decoder.counters.frames,
            "the ledger adds up");
    check_summary(&summary, decoder.counters.received, decoder.counters.bytes);
    uint64_t skipped = 0;
    for (size_t i = 0; i < decoder.skipped.used; i++)
        skipped += decoder.skipped.kinds[i].frames;
    require(skipped == decoder.counters.skipped, "every skipped frame is of one kind");
    packets += counts_alone ? decoder.counters.received : 0;
    mcast_summary_free(&summary);
    mcast_decoder_free(&decoder);
}

static size_t
load(sample *samples, int count, char **paths)
{
    size_t loaded = 0;
    for (int i = 0; i < count; i++) {
        FILE *file = fopen(paths[i], "rb");
        sample *one = &samples[loaded];
        if (!file)
            continue;
        one->bytes = malloc(LARGEST_FILE);
        one->size = fread(one->bytes, 1, LARGEST_FILE, file);
        fclose(file);
        unsigned char *fitted = realloc(one->bytes, one->size ? one->size : 1);
        one->bytes = fitted ? fitted : one->bytes;
        if (one->size >= 4)
            loaded++;
        else
            free(one->bytes);
    }
    return loaded;
}

/* One of the samples; pcapng, whose blocks are many, as often as classic pcap, of which there are many files. */
static const sample *
choose(const sample *samples, size_t count)
{
    const sample *one = &samples[chance(count)];
    for (int tries = 0; tries < 8 && mcast_big32(one->bytes) != MCAST_BLOCK_SECTION; tries++)
        one = &samples[chance(count)];
    return one;
}

int
main(int count, char **arguments)
{
    if (count < 4) {
        fprintf(stderr, "usage: capture SECONDS SEED FILE...\n");
        return 2;
    }
    time_t end = time(NULL) + atol(arguments[1]);
    state = strtoull(arguments[2], NULL, 10) * 2 + 1;
    sample *samples = calloc((size_t)count, sizeof *samples);
    size_t loaded = load(samples, count - 3, arguments + 3), executions = 0;
    unsigned char *work = malloc(LARGEST_FILE);
    for (; loaded && time(NULL) < end; executions++) {
        /* Small files are read more often: the interesting is in the first blocks. */
        const sample *one = choose(samples, loaded);
        size_t size = chance(4) && one->size > 4096 ? 4096 : one->size;
        memcpy(work, one->bytes, size);
        for (uint64_t left = chance(MOST_MUTATIONS + 1); left > 0 && size > 0; left--)
            mutate(work, &size);
        read_file(work, size);
    }
    printf("%zu executions over %zu files: %llu packets delivered, %llu files refused\n", executions, loaded,
           (unsigned long long)packets, (unsigned long long)refused);
    for (size_t i = 0; i < loaded; i++)
        free(samples[i].bytes);
    free(samples);
    free(work);
    return loaded == 0;
}
