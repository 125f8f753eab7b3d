/* Joins, leaves and source filters by setsockopt(2): RFC 3678, by interface index, one call for both families. Where POSIX has them;
 * membership_win32.h has the same names. Part of msghdr.h. */
#ifndef MCAST_MEMBERSHIP_H
#define MCAST_MEMBERSHIP_H

#include "membership_request.h"

/* One step of membership; source is NULL for MCAST_JOIN and MCAST_LEAVE. 0, or -errno. */
static inline int
mcast_membership(int fd, int step, int version, uint32_t interface_index, const uint8_t *group, const uint8_t *source)
{
    int level = version == 4 ? IPPROTO_IP : IPPROTO_IPV6;
    mcast_membership_request request;
    socklen_t size = (socklen_t)mcast_fill_request(&request, version, interface_index, group, source);
    int status = -1;
    for (int tries = 0; status != 0 && tries < MCAST_MEMBERSHIP_TRIES; tries++) {
        status = setsockopt(fd, level, mcast_membership_options[step], &request, size) == 0 ? 0 : -errno;
        if (status != -ENOMEM)
            break;
    }
    return status;
}

/* The interface and source address that multicast leaves by (IPv4; an address alone is ambiguous, see ip(7)). */
static inline int
mcast_send_interface(int fd, uint32_t interface_index, const uint8_t *source)
{
    struct ip_mreqn request;
    memset(&request, 0, sizeof request);
    memcpy(&request.imr_address, source, 4);
    request.imr_ifindex = (int)interface_index;
    return setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &request, sizeof request) == 0 ? 0 : -errno;
}

#endif
