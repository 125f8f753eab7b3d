/* Joins, leaves and source filters on Windows (ws2ipdef.h), under the names of membership.h. Part of win32.h. */
#ifndef MCAST_MEMBERSHIP_WIN32_H
#define MCAST_MEMBERSHIP_WIN32_H

#include "membership_request.h"

static const int mcast_old_membership_options[] = {
    [MCAST_JOIN] = IP_ADD_MEMBERSHIP,
    [MCAST_LEAVE] = IP_DROP_MEMBERSHIP,
    [MCAST_JOIN_SOURCE] = IP_ADD_SOURCE_MEMBERSHIP,
    [MCAST_LEAVE_SOURCE] = IP_DROP_SOURCE_MEMBERSHIP,
    [MCAST_BLOCK] = IP_BLOCK_SOURCE,
    [MCAST_UNBLOCK] = IP_UNBLOCK_SOURCE,
};

static inline int
mcast_membership_by_index(SOCKET socket, int step, int version, uint32_t interface_index, const uint8_t *group,
                          const uint8_t *source)
{
    mcast_membership_request request;
    int size = (int)mcast_fill_request(&request, version, interface_index, group, source);
    int level = version == 4 ? IPPROTO_IP : IPPROTO_IPV6;
    int answer = setsockopt(socket, level, mcast_membership_options[step], (const void *)&request, size);
    return answer == 0 ? 0 : mcast_winsock_error();
}

/* The first IPv4 address of an interface; 0.0.0.N, which Windows reads as the index, where it has none. */
static inline struct in_addr
mcast_interface_address(uint32_t interface_index)
{
    struct in_addr found = {.s_addr = htonl(interface_index)};
    ULONG size = 0;
    GetIpAddrTable(NULL, &size, FALSE);
    MIB_IPADDRTABLE *table = calloc(1, size + sizeof *table);
    if (table && GetIpAddrTable(table, &size, FALSE) == NO_ERROR)
        for (DWORD i = 0; i < table->dwNumEntries; i++)
            if (table->table[i].dwIndex == interface_index) {
                found.s_addr = table->table[i].dwAddr;
                break;
            }
    free(table);
    return found;
}

/* RFC 3678 section 4, and RFC 3493 section 5.2, for what has no MCAST_* options: Windows before Vista, and wine. */
static inline int
mcast_membership_by_address(SOCKET socket, int step, int version, uint32_t interface_index, const uint8_t *group,
                            const uint8_t *source)
{
    int answer, option = mcast_old_membership_options[step];
    if (version == 6 && source)
        return -WSAENOPROTOOPT;
    if (version == 6) {
        struct ipv6_mreq request = {.ipv6mr_interface = interface_index};
        memcpy(&request.ipv6mr_multiaddr, group, 16);
        answer = setsockopt(socket, IPPROTO_IPV6, option, (const char *)&request, sizeof request);
    } else if (source) {
        struct ip_mreq_source request = {.imr_interface = mcast_interface_address(interface_index)};
        memcpy(&request.imr_multiaddr, group, 4);
        memcpy(&request.imr_sourceaddr, source, 4);
        answer = setsockopt(socket, IPPROTO_IP, option, (const char *)&request, sizeof request);
    } else {
        struct ip_mreq request = {.imr_interface = mcast_interface_address(interface_index)};
        memcpy(&request.imr_multiaddr, group, 4);
        answer = setsockopt(socket, IPPROTO_IP, option, (const char *)&request, sizeof request);
    }
    return answer == 0 ? 0 : mcast_winsock_error();
}

/* One step of membership; source is NULL for MCAST_JOIN and MCAST_LEAVE. 0, or -errno. */
static inline int
mcast_membership(int fd, int step, int version, uint32_t interface_index, const uint8_t *group, const uint8_t *source)
{
    SOCKET socket = (SOCKET)(unsigned)fd;
    int status = mcast_membership_by_index(socket, step, version, interface_index, group, source);
    if (status == -WSAENOPROTOOPT)
        status = mcast_membership_by_address(socket, step, version, interface_index, group, source);
    return status;
}

/* Not offered (MCAST_MSFILTER is no row of mcast_options): sources are changed one by one. */
static inline int
mcast_set_filter(int fd, int version, uint32_t interface_index, const uint8_t *group, int exclude,
                 const uint8_t *sources, size_t count)
{
    (void)fd, (void)version, (void)interface_index, (void)group, (void)exclude, (void)sources, (void)count;
    return -WSAEOPNOTSUPP;
}

static inline int
mcast_get_filter(int fd, int version, uint32_t interface_index, const uint8_t *group, int *exclude, uint8_t *sources,
                 size_t room)
{
    (void)fd, (void)version, (void)interface_index, (void)group, (void)exclude, (void)sources, (void)room;
    return -WSAEOPNOTSUPP;
}

/* The interface that multicast leaves by: its index as 0.0.0.N, and where that is refused (wine), the address. */
static inline int
mcast_send_interface(int fd, uint32_t interface_index, const uint8_t *source)
{
    SOCKET socket = (SOCKET)(unsigned)fd;
    uint32_t index = htonl(interface_index);
    if (setsockopt(socket, IPPROTO_IP, IP_MULTICAST_IF, (const char *)&index, sizeof index) == 0)
        return 0;
    return setsockopt(socket, IPPROTO_IP, IP_MULTICAST_IF, (const char *)source, 4) == 0 ? 0 : mcast_winsock_error();
}

#endif
