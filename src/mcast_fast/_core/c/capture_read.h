/* Capture files, read: whole blocks of pcapng, or packets of classic pcap, turned into records and payloads.
 *
 * The caller brings bytes in pieces of any size; what is not a whole block yet stays with it. So memory is bounded by the largest
 * block, and nothing here waits or allocates but the batch. No length is believed before it is held against the bytes that are there.
 * pcapng: draft-ietf-opsawg-pcapng; pcap: draft-ietf-opsawg-pcap. */
#ifndef MCAST_CAPTURE_READ_H
#define MCAST_CAPTURE_READ_H

#include "capture.h"
#include "capture_usual.h"

/* Options ----------------------------------------------------------------------------------------------------------- */

typedef struct mcast_block_option {
    const unsigned char *value;
    uint16_t code;
    uint16_t length;
} mcast_block_option;

/* The option at *at, which moves on; 0 at the end of the options, -1 when one runs past `end` (`failure` says so). */
static inline int
mcast_next_option(mcast_decoder *decoder, const unsigned char **at, const unsigned char *end,
                  mcast_block_option *option)
{
    if (end - *at < 4)
        return 0;
    option->code = mcast_file16(decoder, *at);
    option->length = mcast_file16(decoder, *at + 2);
    option->value = *at + 4;
    size_t padded = ((size_t)option->length + 3) & ~(size_t)3, left = (size_t)(end - option->value);
    if (option->code == 0)
        return 0;
    if (padded > left) {
        mcast_wrong(decoder, MCAST_WRONG_OPTION, option->length, left);
        return -1;
    }
    *at = option->value + padded;
    return 1;
}

/* What a comment of ours says of the headers of an interface's packets, behind mcast_synthetic: what of them is not known. */
static inline void
mcast_interface_comment(mcast_interface *device, const unsigned char *text, size_t length)
{
    const size_t size = sizeof mcast_synthetic - 1;
    if (length < size || memcmp(text, mcast_synthetic, size) != 0)
        return;
    device->synthetic = 1;
    for (size_t i = 0; i < sizeof mcast_unknown_headers / sizeof *mcast_unknown_headers; i++) {
        const char *rest = mcast_unknown_headers[i].text;
        if (length - size == strlen(rest) && memcmp(text + size, rest, length - size) == 0)
            device->unknown = mcast_unknown_headers[i].flags;
    }
}

static inline void
mcast_interface_option(const mcast_decoder *decoder, mcast_interface *device, const mcast_block_option *option)
{
    if (option->code == MCAST_IF_NAME) {
        size_t length = option->length < MCAST_LONGEST_NAME ? option->length : MCAST_LONGEST_NAME;
        memcpy(device->text, option->value, length);
        device->text_length = (uint8_t)length;
    } else if (option->code == MCAST_COMMENT) {
        mcast_interface_comment(device, option->value, option->length);
    } else if (option->code == MCAST_IF_TSRESOL && option->length >= 1) {
        device->resolution = option->value[0];
    } else if (option->code == MCAST_IF_TSOFFSET && option->length >= 8) {
        device->time_offset = (int64_t)mcast_file64(decoder, option->value);
    }
}

static inline int
mcast_decode_interface(mcast_decoder *decoder, const unsigned char *block, const unsigned char *end)
{
    int status, more;
    mcast_interface *device = mcast_decoder_describe(decoder, mcast_file16(decoder, block + 8), &status);
    if (!device)
        return status;
    device->snaplen = mcast_file32(decoder, block + 12);
    mcast_block_option option;
    const unsigned char *at = block + 16;
    while ((more = mcast_next_option(decoder, &at, end, &option)) == 1)
        mcast_interface_option(decoder, device, &option);
    if (more < 0)
        return MCAST_DECODE_WRONG;
    decoder->described++;
    return MCAST_DECODE_INTERFACE;
}

/* The interface of this section that a block names; 0, or MCAST_DECODE_WRONG. */
static inline int
mcast_section_interface(mcast_decoder *decoder, uint32_t number, uint32_t *interface_at)
{
    uint32_t described = decoder->described - decoder->section;
    if (number >= described)
        return mcast_wrong(decoder, MCAST_WRONG_INTERFACE, number, described);
    *interface_at = decoder->section + number;
    return 0;
}

static inline int
mcast_decode_statistics(mcast_decoder *decoder, const unsigned char *block, const unsigned char *end)
{
    uint32_t interface_at;
    if (mcast_section_interface(decoder, mcast_file32(decoder, block + 8), &interface_at) != 0)
        return MCAST_DECODE_WRONG;
    mcast_interface *device = &decoder->interfaces[interface_at];
    mcast_block_option option;
    const unsigned char *at = block + 20;
    int more;
    while ((more = mcast_next_option(decoder, &at, end, &option)) == 1) {
        uint64_t *counter = option.code == MCAST_ISB_IFRECV     ? &device->received
                            : option.code == MCAST_ISB_IFDROP   ? &device->dropped
                            : option.code == MCAST_ISB_OSDROP   ? &device->dropped_system
                            : option.code == MCAST_ISB_USRDELIV ? &device->delivered
                                                                : NULL;
        if (counter && option.length >= 8)
            *counter = mcast_file64(decoder, option.value);
    }
    return more < 0 ? MCAST_DECODE_WRONG : MCAST_DECODE_MORE;
}

/* Blocks with a packet ---------------------------------------------------------------------------------------------- */

/* What the options behind a packet's bytes say of it. */
static inline int
mcast_decode_packet_options(mcast_decoder *decoder, const unsigned char *at, const unsigned char *end,
                            mcast_captured *captured)
{
    mcast_block_option option;
    int more;
    while ((more = mcast_next_option(decoder, &at, end, &option)) == 1)
        if (option.code == MCAST_EPB_DROPCOUNT && option.length >= 8)
            captured->dropped = mcast_file64(decoder, option.value);
        else if (option.code == MCAST_COMMENT && option.length == MCAST_SHARED_TIME_SIZE &&
                 memcmp(option.value, mcast_shared_time, MCAST_SHARED_TIME_SIZE) == 0)
            captured->flags |= MCAST_COALESCED;
    return more < 0 ? MCAST_DECODE_WRONG : 0;
}

/* The enhanced packet block, and the obsolete one, which has 16 bits of interface and 16 of drops in the place of 32 of interface. */
static inline int
mcast_decode_packet(mcast_decoder *decoder, const unsigned char *block, const unsigned char *end, int obsolete)
{
    mcast_captured captured = {
        0, 0, 0, block + 28, mcast_file32(decoder, block + 20), mcast_file32(decoder, block + 24), 0};
    uint32_t number = obsolete ? mcast_file16(decoder, block + 8) : mcast_file32(decoder, block + 8);
    if (mcast_section_interface(decoder, number, &captured.interface_at) != 0)
        return MCAST_DECODE_WRONG;
    size_t left = (size_t)(end - captured.frame);
    if (captured.size > left)
        return mcast_wrong(decoder, MCAST_WRONG_CAPTURED, captured.size, left);
    if (obsolete) {
        uint16_t dropped = mcast_file16(decoder, block + 10);
        captured.dropped = dropped == UINT16_MAX ? 0 : dropped; /* all ones: unknown */
    } else if (mcast_decode_packet_options(decoder, captured.frame + ((captured.size + 3) & ~(size_t)3), end,
                                           &captured) != 0) {
        return MCAST_DECODE_WRONG;
    }
    captured.timestamp =
        mcast_interface_time(&decoder->interfaces[captured.interface_at], mcast_file_time(decoder, block + 12));
    return mcast_decoder_take(decoder, &captured);
}

/* The simple packet block: of the first interface, without a time; the bytes are as many as fit its snaplen. */
static inline int
mcast_decode_simple(mcast_decoder *decoder, const unsigned char *block, const unsigned char *end)
{
    mcast_captured captured = {0, 0, 0, block + 12, 0, mcast_file32(decoder, block + 8), 0};
    if (mcast_section_interface(decoder, 0, &captured.interface_at) != 0)
        return MCAST_DECODE_WRONG;
    uint32_t snaplen = decoder->interfaces[captured.interface_at].snaplen;
    size_t left = (size_t)(end - captured.frame);
    captured.size = snaplen && snaplen < captured.wire ? snaplen : captured.wire;
    if (captured.size > left)
        return mcast_wrong(decoder, MCAST_WRONG_CAPTURED, captured.size, left);
    return mcast_decoder_take(decoder, &captured);
}

/* pcapng ------------------------------------------------------------------------------------------------------------ */

static inline size_t
mcast_smallest_block(uint32_t type)
{
    switch (type) {
    case MCAST_BLOCK_SECTION:
        return 28;
    case MCAST_BLOCK_INTERFACE:
        return 20;
    case MCAST_BLOCK_SIMPLE_PACKET:
        return 16;
    case MCAST_BLOCK_STATISTICS:
        return 24;
    case MCAST_BLOCK_OBSOLETE_PACKET:
    case MCAST_BLOCK_PACKET:
        return 32;
    default:
        return MCAST_SMALLEST_BLOCK;
    }
}

/* A section header brings a byte order of its own, and starts the numbering of interfaces afresh. */
static inline int
mcast_decode_order(mcast_decoder *decoder, const unsigned char *block)
{
    uint32_t magic;
    memcpy(&magic, block + 8, sizeof magic);
    if (magic != MCAST_BYTE_ORDER && mcast_swapped32(magic) != MCAST_BYTE_ORDER)
        return mcast_wrong(decoder, MCAST_WRONG_ORDER, mcast_big32(block + 8), 0);
    decoder->swapped = magic != MCAST_BYTE_ORDER;
    return 0;
}

static inline int
mcast_decode_section(mcast_decoder *decoder, const unsigned char *block)
{
    uint16_t major = mcast_file16(decoder, block + 12);
    if (major != 1)
        return mcast_wrong(decoder, MCAST_WRONG_VERSION, major, 0);
    decoder->section = decoder->described;
    return MCAST_DECODE_MORE;
}

/* A whole block; `end` is where its options end. */
static inline int
mcast_decode_whole(mcast_decoder *decoder, const unsigned char *block, uint32_t type, const unsigned char *end)
{
    switch (type) {
    case MCAST_BLOCK_SECTION:
        return mcast_decode_section(decoder, block);
    case MCAST_BLOCK_INTERFACE:
        return mcast_decode_interface(decoder, block, end);
    case MCAST_BLOCK_STATISTICS:
        return mcast_decode_statistics(decoder, block, end);
    case MCAST_BLOCK_PACKET:
        return mcast_decode_packet(decoder, block, end, 0);
    case MCAST_BLOCK_OBSOLETE_PACKET:
        return mcast_decode_packet(decoder, block, end, 1);
    case MCAST_BLOCK_SIMPLE_PACKET:
        return mcast_decode_simple(decoder, block, end);
    default: /* names, secrets, custom blocks */
        return MCAST_DECODE_MORE;
    }
}

/* One block of `size` bytes that are there; *used says how many it had, 0 when it is not whole. */
static inline int
mcast_decode_block(mcast_decoder *decoder, const unsigned char *bytes, size_t size, size_t *used)
{
    decoder->needed = MCAST_SMALLEST_BLOCK;
    if (size < MCAST_SMALLEST_BLOCK)
        return MCAST_DECODE_MORE;
    uint32_t type = mcast_file32(decoder, bytes);
    if (type == MCAST_BLOCK_SECTION && mcast_decode_order(decoder, bytes) != 0)
        return MCAST_DECODE_WRONG;
    uint32_t length = mcast_file32(decoder, bytes + 4);
    if (length < mcast_smallest_block(type) || length > MCAST_LARGEST_BLOCK)
        return mcast_wrong(decoder, MCAST_WRONG_LENGTH, length, type);
    size_t padded =
        ((size_t)length + 3) & ~(size_t)3; /* some programs do not count the padding of the data, as Wireshark knows */
    decoder->needed = padded;
    if (size < padded)
        return MCAST_DECODE_MORE;
    uint32_t again = mcast_file32(decoder, bytes + padded - 4);
    if (again != length)
        return mcast_wrong(decoder, MCAST_WRONG_TRAILER, length, again);
    int status = mcast_decode_whole(decoder, bytes, type, bytes + padded - 4);
    if (status != MCAST_DECODE_WRONG && status != MCAST_DECODE_MEMORY)
        *used = padded;
    return status;
}

/* Classic pcap ------------------------------------------------------------------------------------------------------ */

/* The header of the file, whose magic is known. */
static inline int
mcast_decode_pcap_header(mcast_decoder *decoder, const unsigned char *bytes, size_t size, size_t *used)
{
    decoder->needed = MCAST_PCAP_HEADER;
    if (size < MCAST_PCAP_HEADER)
        return MCAST_DECODE_MORE;
    uint16_t major = mcast_file16(decoder, bytes + 4), minor = mcast_file16(decoder, bytes + 6);
    if (major != 2 && major != 543) /* 543: DG/UX, whose lengths are swapped too (libpcap, sf-pcap.c) */
        return mcast_wrong(decoder, MCAST_WRONG_VERSION, major, 0);
    decoder->lengths = major == 543 || minor < 3 ? MCAST_LENGTHS_SWAPPED
                       : minor == 3              ? MCAST_LENGTHS_EITHER
                                                 : MCAST_LENGTHS_PLAIN;
    int status;
    /* The upper bits give the length of the frame check sequence, which padding hides as it hides padding. */
    mcast_interface *device = mcast_decoder_describe(decoder, mcast_file32(decoder, bytes + 20) & 0x03ffffff, &status);
    if (!device)
        return status;
    decoder->described++;
    device->resolution = decoder->pcap->resolution;
    decoder->known = 1;
    *used = MCAST_PCAP_HEADER;
    return MCAST_DECODE_INTERFACE;
}

static inline int
mcast_decode_pcap_packet(mcast_decoder *decoder, const unsigned char *bytes, size_t size, size_t *used)
{
    size_t header = decoder->pcap->header;
    decoder->needed = header;
    if (size < header)
        return MCAST_DECODE_MORE;
    uint32_t captured_length = mcast_file32(decoder, bytes + 8), wire = mcast_file32(decoder, bytes + 12);
    if (decoder->lengths == MCAST_LENGTHS_SWAPPED ||
        (decoder->lengths == MCAST_LENGTHS_EITHER && captured_length > wire)) {
        uint32_t other = captured_length;
        captured_length = wire;
        wire = other;
    }
    if (captured_length > MCAST_LARGEST_FRAME)
        return mcast_wrong(decoder, MCAST_WRONG_FRAME, captured_length, 0);
    decoder->needed = header + captured_length;
    if (size < decoder->needed)
        return MCAST_DECODE_MORE;
    mcast_captured captured = {0, 0, 0, bytes + header, captured_length, wire, 0};
    captured.timestamp = (int64_t)mcast_file32(decoder, bytes) * 1000000000 +
                         (int64_t)mcast_file32(decoder, bytes + 4) * (decoder->pcap->resolution == 9 ? 1 : 1000);
    int status = mcast_decoder_take(decoder, &captured);
    if (status != MCAST_DECODE_MEMORY)
        *used = (size_t)decoder->needed;
    return status;
}

/* Either ------------------------------------------------------------------------------------------------------------ */

/* The format, by the first four bytes. */
static inline int
mcast_decode_start(mcast_decoder *decoder, const unsigned char *bytes, size_t size, size_t *used)
{
    decoder->needed = 4;
    if (size < 4)
        return MCAST_DECODE_MORE;
    uint32_t magic;
    memcpy(&magic, bytes, sizeof magic);
    if (magic == MCAST_BLOCK_SECTION) {
        decoder->known = 1;
        return mcast_decode_block(decoder, bytes, size, used);
    }
    for (size_t i = 0; i < sizeof mcast_pcap_kinds / sizeof *mcast_pcap_kinds; i++) {
        uint32_t known = mcast_pcap_kinds[i].magic;
        if (magic == known || mcast_swapped32(magic) == known) {
            decoder->pcap = &mcast_pcap_kinds[i];
            decoder->swapped = magic != known;
            return mcast_decode_pcap_header(decoder, bytes, size, used);
        }
    }
    return mcast_wrong(decoder, MCAST_WRONG_MAGIC, mcast_big32(bytes), 0);
}

static inline size_t
mcast_decoder_count(const mcast_decoder *decoder)
{
    return decoder->records.used / sizeof(mcast_record);
}

/* Space for a batch as large as the one before; without memory it is tried again packet by packet. */
static inline void
mcast_decoder_expect(mcast_decoder *decoder)
{
    if (decoder->records.bytes || decoder->expected_records == 0)
        return;
    mcast_memory_reserve(decoder->pool, &decoder->records, decoder->expected_records);
    mcast_memory_reserve(decoder->pool, &decoder->data, decoder->expected_data);
}

/* The batch is whole: gives back what it does not need. */
static inline void
mcast_decoder_finish(mcast_decoder *decoder)
{
    if (decoder->records.used == 0)
        return;
    decoder->counters.batches++;
    decoder->expected_records = decoder->records.used;
    decoder->expected_data = decoder->data.used;
    mcast_memory_fit(decoder->pool, &decoder->records);
    mcast_memory_fit(decoder->pool, &decoder->data);
}

/* Reads whole blocks of `bytes` until `limit` packets are in the batch; *used bytes are done with. An error behind packets waits:
 * *used is the position before its block, and the next call finds it again. */
static inline int
mcast_decode(mcast_decoder *decoder, const unsigned char *bytes, size_t size, size_t limit, size_t *used)
{
    mcast_decoder_expect(decoder);
    if (decoder->summary)
        mcast_usual_forget(decoder);
    for (*used = 0;;) {
        if (mcast_decoder_count(decoder) >= limit || decoder->data.used > UINT32_MAX - UINT16_MAX)
            break;
        const unsigned char *at = bytes + *used;
        size_t left = size - *used, taken = 0;
        if (decoder->known && !decoder->pcap && (taken = mcast_decode_usual(decoder, at, left, limit)) > 0) {
            *used += taken;
            continue;
        }
        int status = !decoder->known ? mcast_decode_start(decoder, at, left, &taken)
                     : decoder->pcap ? mcast_decode_pcap_packet(decoder, at, left, &taken)
                                     : mcast_decode_block(decoder, at, left, &taken);
        *used += taken;
        if (status == MCAST_DECODE_WRONG && mcast_decoder_count(decoder) > 0)
            break;
        if (status != MCAST_DECODE_MORE || taken == 0)
            return status;
    }
    decoder->needed = 0;
    return MCAST_DECODE_FULL;
}

static inline void
mcast_decoder_free(mcast_decoder *decoder)
{
    mcast_pool_give(decoder->pool, decoder->records.bytes, decoder->records.capacity);
    mcast_pool_give(decoder->pool, decoder->data.bytes, decoder->data.capacity);
    mcast_filter_free(&decoder->filter);
    mcast_reassembly_free(&decoder->reassembly);
    free(decoder->interfaces);
    decoder->interfaces = NULL;
    decoder->described = decoder->room = 0;
}

#endif
