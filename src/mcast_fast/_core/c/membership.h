/* Joins, leaves and source filters by setsockopt(2): RFC 3678, by interface index, one call for both families. Where POSIX has them;
 * membership_win32.h has the same names. Part of msghdr.h. */
#ifndef MCAST_MEMBERSHIP_H
#define MCAST_MEMBERSHIP_H

static const int mcast_membership_options[] = {
    [MCAST_JOIN] = MCAST_JOIN_GROUP,
    [MCAST_LEAVE] = MCAST_LEAVE_GROUP,
    [MCAST_JOIN_SOURCE] = MCAST_JOIN_SOURCE_GROUP,
    [MCAST_LEAVE_SOURCE] = MCAST_LEAVE_SOURCE_GROUP,
    [MCAST_BLOCK] = MCAST_BLOCK_SOURCE,
    [MCAST_UNBLOCK] = MCAST_UNBLOCK_SOURCE,
};

/* One step of membership; source is NULL for MCAST_JOIN and MCAST_LEAVE. 0, or -errno. */
static inline int
mcast_membership(int fd, int step, int version, uint32_t interface_index, const uint8_t *group, const uint8_t *source)
{
    int level = version == 4 ? IPPROTO_IP : IPPROTO_IPV6;
    struct group_source_req with_source;
    struct group_req plain;
    const void *request = &plain;
    socklen_t size = sizeof plain;
    memset(&plain, 0, sizeof plain);
    memset(&with_source, 0, sizeof with_source);
    if (source) {
        with_source.gsr_interface = interface_index;
        mcast_sockaddr(&with_source.gsr_group, version, group);
        mcast_sockaddr(&with_source.gsr_source, version, source);
        request = &with_source;
        size = sizeof with_source;
    } else {
        plain.gr_interface = interface_index;
        mcast_sockaddr(&plain.gr_group, version, group);
    }
    int status = -1;
    for (int tries = 0; status != 0 && tries < MCAST_MEMBERSHIP_TRIES; tries++) {
        status = setsockopt(fd, level, mcast_membership_options[step], request, size) == 0 ? 0 : -errno;
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
