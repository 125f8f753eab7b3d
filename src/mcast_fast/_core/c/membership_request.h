/* Requests of RFC 3678 for one step of membership, as POSIX and Windows have them; included behind sockaddr.h. */
#ifndef MCAST_MEMBERSHIP_REQUEST_H
#define MCAST_MEMBERSHIP_REQUEST_H

static const int mcast_membership_options[] = {
    [MCAST_JOIN] = MCAST_JOIN_GROUP,
    [MCAST_LEAVE] = MCAST_LEAVE_GROUP,
    [MCAST_JOIN_SOURCE] = MCAST_JOIN_SOURCE_GROUP,
    [MCAST_LEAVE_SOURCE] = MCAST_LEAVE_SOURCE_GROUP,
    [MCAST_BLOCK] = MCAST_BLOCK_SOURCE,
    [MCAST_UNBLOCK] = MCAST_UNBLOCK_SOURCE,
};

typedef union mcast_membership_request {
    struct group_req plain;
    struct group_source_req with_source;
} mcast_membership_request;

/* Fills in a request; source is NULL for MCAST_JOIN and MCAST_LEAVE. Returns its size. */
static inline size_t
mcast_fill_request(mcast_membership_request *request, int version, uint32_t interface_index, const uint8_t *group,
                   const uint8_t *source)
{
    memset(request, 0, sizeof *request);
    if (!source) {
        request->plain.gr_interface = interface_index;
        mcast_sockaddr(&request->plain.gr_group, version, group);
        return sizeof request->plain;
    }
    request->with_source.gsr_interface = interface_index;
    mcast_sockaddr(&request->with_source.gsr_group, version, group);
    mcast_sockaddr(&request->with_source.gsr_source, version, source);
    return sizeof request->with_source;
}

#endif
