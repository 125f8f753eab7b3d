/* Frames of capture files that are no UDP, counted by what they are: a link that cannot be read, another Ethernet type, another protocol.
 * Of few kinds in most files, so that they stand in one short list. */
#ifndef MCAST_SKIPPED_H
#define MCAST_SKIPPED_H

#include "frames.h"

/* The kinds of numbers; _core/blocks.py has the same. */
enum { MCAST_SKIPPED_OTHERS, MCAST_SKIPPED_LINK, MCAST_SKIPPED_ETHERTYPE, MCAST_SKIPPED_PROTOCOL };

enum {
    MCAST_SKIPPED_KINDS = 32,         /* that are counted apart; the first one is of the others */
    MCAST_SMALLEST_ETHERTYPE = 0x600, /* what is less is a length: IEEE 802.3 */
};

typedef struct mcast_skipped {
    uint32_t kind;
    uint32_t number;
    uint64_t frames;
} mcast_skipped;

typedef struct mcast_skipped_list {
    size_t used;
    mcast_skipped kinds[MCAST_SKIPPED_KINDS];
} mcast_skipped_list;

/* The number behind the last IPv6 header that can be stepped over (RFC 8200, 4). */
static inline uint32_t
mcast_last_next_header(mcast_rest *rest)
{
    int next = rest->at[6];
    mcast_rest_limit(rest, 40 + (size_t)mcast_big16(rest->at + 4));
    mcast_rest_skip(rest, 40);
    while (rest->size >= 8) {
        const unsigned char *header = rest->at;
        size_t size = mcast_extension_size(next, header);
        if (size == 0 || !mcast_rest_skip(rest, size))
            break;
        next = header[0];
    }
    return (uint32_t)next;
}

/* What a frame is for which mcast_frame_read_piece answered MCAST_FRAME_OTHER; `frames` of it is 0. */
static inline mcast_skipped
mcast_skipped_kind(const unsigned char *frame, size_t size, size_t wire, int link_type)
{
    mcast_rest rest = {frame, size, wire < size ? size : wire};
    int type = mcast_frame_link(&rest, link_type);
    if (type == MCAST_LINK_UNREADABLE)
        return (mcast_skipped){MCAST_SKIPPED_LINK, (uint32_t)link_type, 0};
    if (type == MCAST_ETHER_IPV4)
        return (mcast_skipped){MCAST_SKIPPED_PROTOCOL, rest.at[9], 0};
    if (type == MCAST_ETHER_IPV6)
        return (mcast_skipped){MCAST_SKIPPED_PROTOCOL, mcast_last_next_header(&rest), 0};
    if (type < 0)
        return (mcast_skipped){MCAST_SKIPPED_OTHERS, 0, 0};
    return (mcast_skipped){MCAST_SKIPPED_ETHERTYPE, type < MCAST_SMALLEST_ETHERTYPE ? 0 : (uint32_t)type, 0};
}

/* Counts such a frame. */
static inline void
mcast_skipped_count(mcast_skipped_list *list, mcast_skipped what)
{
    size_t at = 0;
    if (list->used == 0)
        list->used = 1; /* the others */
    while (at < list->used && (list->kinds[at].kind != what.kind || list->kinds[at].number != what.number))
        at++;
    if (at == list->used && at < MCAST_SKIPPED_KINDS)
        list->kinds[list->used++] = what;
    list->kinds[at < MCAST_SKIPPED_KINDS ? at : 0].frames++;
}

#endif
