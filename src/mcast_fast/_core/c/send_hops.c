#include "send.h"

/* The row of a socket option; NULL where the system has none. */
static const mcast_option *
option_named(const char *name)
{
    const mcast_option *option = mcast_options;
    while (option->name && strcmp(option->name, name) != 0)
        option++;
    return option->name ? option : NULL;
}

void
mcast_hops_open(mcast_transmitter *transmitter)
{
    transmitter->hop_options[0][0] = option_named("IP_MULTICAST_TTL");
    transmitter->hop_options[0][1] = option_named("IPV6_MULTICAST_HOPS");
    transmitter->hop_options[1][0] = option_named("IP_TOS");
    transmitter->hop_options[1][1] = option_named("IPV6_TCLASS");
}

/* Sets one of both, where it changes: 0, or -errno. */
static int
set_hop_option(const mcast_option *option, int fd, unsigned now, unsigned wanted)
{
    if (now == wanted)
        return 0;
    return option ? mcast_set_option(fd, option->level, option->number, (int)wanted) : -EINVAL;
}

int
mcast_hops_set(mcast_transmitter *transmitter, mcast_sending_socket *socket, const mcast_request *request,
               const mcast_target *target)
{
    const mcast_schedule *schedule = request->schedule;
    int keeps = schedule && schedule->keep;
    if (!keeps && !socket->rewritten)
        return 0;
    unsigned own = keeps ? (unsigned)schedule->ttl << 8 | schedule->tos : socket->own;
    unsigned now = socket->rewritten ? socket->hops : own;
    unsigned wanted = keeps ? mcast_schedule_hops(schedule, &request->payloads.records[request->sent]) : own;
    if (wanted == now)
        return 0;
    int version6 = target->address.ss_family == AF_INET6;
    int status = set_hop_option(transmitter->hop_options[0][version6], socket->fd, now >> 8, wanted >> 8);
    if (status == 0)
        status = set_hop_option(transmitter->hop_options[1][version6], socket->fd, now & 0xff, wanted & 0xff);
    mcast_lock(&transmitter->state_lock);
    socket->own = own;
    socket->hops =
        status == 0 ? wanted : ~wanted; /* after an error neither is known to hold: both are set the next time */
    socket->rewritten = socket->hops != socket->own;
    mcast_unlock(&transmitter->state_lock);
    return status;
}
