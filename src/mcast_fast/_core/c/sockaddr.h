/* Packed addresses as what the calls of a socket take, and back. Included by the header of each system, which says before how an
 * address knows its length (mcast_set_length). */
#ifndef MCAST_SOCKADDR_H
#define MCAST_SOCKADDR_H

#include "record.h"

static inline void
mcast_sockaddr(struct sockaddr_storage *address, int version, const uint8_t *packed)
{
    memset(address, 0, sizeof *address);
    if (version == 4) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)address;
        v4->sin_family = AF_INET;
        memcpy(&v4->sin_addr, packed, 4);
        mcast_set_length(address, sizeof *v4);
    } else {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
        v6->sin6_family = AF_INET6;
        memcpy(&v6->sin6_addr, packed, 16);
        mcast_set_length(address, sizeof *v6);
    }
}

static inline void
mcast_pack_address(uint8_t *packed, int version, const struct sockaddr_storage *address)
{
    if (version == 4)
        memcpy(packed, &((const struct sockaddr_in *)address)->sin_addr, 4);
    else
        memcpy(packed, &((const struct sockaddr_in6 *)address)->sin6_addr, 16);
}

/* Where a datagram goes; a scope only where the system takes one. Returns the size of the address. */
static inline socklen_t
mcast_destination(struct sockaddr_storage *address, const uint8_t *packed, int version, int port, uint32_t scope)
{
    mcast_sockaddr(address, version, packed);
    if (version == 4) {
        ((struct sockaddr_in *)address)->sin_port = htons((uint16_t)port);
        return sizeof(struct sockaddr_in);
    }
    ((struct sockaddr_in6 *)address)->sin6_port = htons((uint16_t)port);
    ((struct sockaddr_in6 *)address)->sin6_scope_id = scope;
    return sizeof(struct sockaddr_in6);
}

static inline void
mcast_read_source(const struct sockaddr_in6 *name, size_t size, mcast_record *record)
{
    if (name->sin6_family == AF_INET && size >= sizeof(struct sockaddr_in)) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)name;
        mcast_map_v4(record->source, &v4->sin_addr);
        record->source_port = ntohs(v4->sin_port);
    } else if (name->sin6_family == AF_INET6 && size >= sizeof(struct sockaddr_in6)) {
        memcpy(record->source, &name->sin6_addr, 16);
        record->source_port = ntohs(name->sin6_port);
    }
}

#endif
