#include "coalescing.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- the sockets that share a port and an IP version ---- */

static int
version_of(mcast_descriptor descriptor)
{
#if MCAST_HAS_UDP_GRO
    return mcast_socket_version(descriptor);
#else
    (void)descriptor;
    return 0;
#endif
}

static void
set_on(mcast_coalescing *coalescing, mcast_coalescing_group *group, int is_on)
{
    mcast_word_store(&coalescing->groups_on,
                     mcast_word_load(&coalescing->groups_on) + (uint32_t)(is_on - group->is_on));
    group->is_on = is_on;
}

/* A socket that comes while the others of its group are coalesced is coalesced too. */
static void
enable_beside_others(const mcast_coalescing *coalescing, mcast_coalescing_socket *socket)
{
#if MCAST_HAS_UDP_GRO
    mcast_socket_memory memory = {0};
    if (coalescing->mode != MCAST_COALESCES_NEVER && mcast_read_socket_memory(socket->descriptor, &memory) == 0)
        socket->buffer = memory.buffer;
    if (socket->group->is_on && !socket->is_enabled)
        socket->is_enabled = mcast_set_coalescing(socket->descriptor, 1) == 0;
#else
    (void)coalescing, (void)socket;
#endif
}

int
mcast_coalescing_add(mcast_coalescing *coalescing, mcast_coalescing_socket *socket, uint16_t port)
{
    int version = version_of(socket->descriptor);
    mcast_coalescing_group *group = coalescing->groups;
    while (group && (group->port != port || group->version != version))
        group = group->next;
    if (!group) {
        group = calloc(1, sizeof *group);
        if (!group)
            return -ENOMEM;
        group->port = port;
        group->version = version;
        set_on(coalescing, group, coalescing->mode == MCAST_COALESCES_ALWAYS);
        group->next = coalescing->groups;
        coalescing->groups = group;
    }
    socket->group = group;
    socket->next = group->sockets;
    group->sockets = socket;
    socket->is_enabled = coalescing->mode == MCAST_COALESCES_ALWAYS;
    enable_beside_others(coalescing, socket);
    return 0;
}

void
mcast_coalescing_remove(mcast_coalescing *coalescing, mcast_coalescing_socket *socket)
{
    mcast_coalescing_socket **one = &socket->group->sockets;
    while (*one != socket)
        one = &(*one)->next;
    *one = socket->next;
    if (socket->group->sockets)
        return;
    mcast_coalescing_group **group = &coalescing->groups;
    while (*group != socket->group)
        group = &(*group)->next;
    *group = socket->group->next;
    set_on(coalescing, socket->group, 0);
    free(socket->group);
}

void
mcast_coalescing_hand_over(mcast_coalescing_socket *socket, mcast_coalescing_socket *heir)
{
    if (socket->decider < 0)
        return;
    heir->decider = socket->decider;
    heir->is_decided = socket->is_decided;
    socket->decider = -1;
}

/* The kernel's counter is at `drops` now: the number since the last reading. */
static uint32_t
take_drops(mcast_coalescing_socket *socket, uint32_t drops)
{
    uint32_t more = drops - socket->meminfo_drops; /* modulo 2^32, as the kernel counts */
    socket->meminfo_drops = drops;
    socket->drops += more;
    if (socket->group->is_on || socket->group->is_settling || socket->group->has_coalesced)
        socket->inexact_drops += more;
    return more;
}

void
mcast_coalescing_count_drops(mcast_coalescing_socket *socket)
{
    uint32_t drops;
    if (mcast_read_drops(socket->descriptor, &drops) == 0)
        take_drops(socket, drops);
}

int
mcast_coalescing_take_event(mcast_coalescing *coalescing, mcast_coalescing_event *event)
{
    if (coalescing->events_count == 0)
        return 0;
    *event = coalescing->events[coalescing->events_first];
    coalescing->events_first = (coalescing->events_first + 1) % MCAST_COALESCING_EVENTS;
    coalescing->events_count--;
    return 1;
}

#if MCAST_HAS_UDP_GRO

enum {
    LOOK_AFTER = 256,           /* slots that were filled without a gap: their packets were queued, and may be many */
    PRESSURE_PERCENT = 37,      /* of the buffer: what the kernel reports may be too much by a quarter of it */
    CALM_WINDOWS = 4,           /* without pressure, after which it is switched off; */
    CALM_WINDOWS_MOST = 120,    /* doubled up to this when that was too early, */
    TOO_EARLY = 10,             /* for it was switched on again within as many times as long */
    UNPRESSED_FACTOR = 5,       /* as many times longer where nearly as much arrives as under pressure */
    SETTLED_NS = 100 * 1000000, /* after which what was on its way when it was switched has come */
    LEAST_TRUESIZE = 512,       /* bytes that the smallest packet takes of a buffer */
    NAP_NS = 200 * 1000,        /* for which packets may pile up at the most, */
    NAP_SHARE = 16,             /* and until they fill this part of the buffer */
};

/* ---- switching ---- */

static void
report(mcast_coalescing *coalescing, mcast_coalescing_event event)
{
    event.time = mcast_realtime_ns();
    if (coalescing->events_count == MCAST_COALESCING_EVENTS) {
        coalescing->events_first = (coalescing->events_first + 1) % MCAST_COALESCING_EVENTS;
        coalescing->events_count--;
    }
    unsigned at = (coalescing->events_first + coalescing->events_count++) % MCAST_COALESCING_EVENTS;
    coalescing->events[at] = event;
}

/* Has the deciders of a group say whether the kernel coalesces: 0, or -errno of the last one that does not decide. */
static int
decide(mcast_coalescing_group *group, int coalesces)
{
    int status = -ENOENT;
    for (mcast_coalescing_socket *one = group->sockets; one; one = one->next) {
        if (one->decider < 0)
            continue;
        int set = one->is_decided ? mcast_renew_decider(one->decider, one->descriptor, coalesces) : -EINVAL;
        if (set != 0) /* not to be had, or not bound yet */
            set = mcast_set_coalescing(one->decider, coalesces);
        if (set == 0 && !one->is_decided)
            set = mcast_bind_alike(one->decider, one->descriptor);
        if (set == -ENODEV)
            set = 0; /* nothing comes by an interface that is gone */
        else
            one->is_decided |= set == 0;
        status = status == -ENOENT || set != 0 ? set : status;
    }
    return status;
}

/* The first socket of the host that is to coalesce has the kernel patch its own code (static_branch_inc of udp_encap_needed_key in
 * net/ipv4/udp.c): 0.1 ms, several on a busy machine. That is done before it is urgent. Nothing comes to the decider, for it is not bound. */
static void
prepare(mcast_coalescing_group *group)
{
    group->is_prepared = 1;
    for (mcast_coalescing_socket *one = group->sockets; one; one = one->next)
        if (one->decider >= 0 && !one->is_decided && mcast_set_coalescing(one->decider, 1) == 0)
            mcast_set_coalescing(one->decider, 0);
}

static void
begin_window(mcast_coalescing_group *group, int64_t now)
{
    group->since = now;
    group->first = group->last;
    group->packets = 0;
}

/* What it is since now. */
static void
begin(mcast_coalescing *coalescing, mcast_coalescing_group *group, int is_on, int64_t now)
{
    set_on(coalescing, group, is_on);
    begin_window(group, now);
    group->changed = now;
    group->slots = 0;
    group->has_coalesced = 0;
    group->calm = group->unpressed = 0;
    group->has_pressure = group->has_reported = 0;
}

static void
switch_on(mcast_coalescing *coalescing, mcast_coalescing_group *group, mcast_coalescing_event event, int64_t now)
{
    int enabled = 0, status = 0;
    for (mcast_coalescing_socket *one = group->sockets; one; one = one->next) {
        mcast_coalescing_count_drops(one);
        status = one->is_enabled ? 0 : mcast_set_coalescing(one->descriptor, 1);
        one->is_enabled |= status == 0;
        enabled |= one->is_enabled;
    }
    if (!enabled) { /* the system refuses the option: it is not tried again */
        coalescing->mode = MCAST_COALESCES_NEVER;
        return;
    }
    decide(group, 1); /* bound later than a socket of another program, it decides instead */
    int too_early = group->calm_needed && now - group->changed < TOO_EARLY * group->calm_needed * coalescing->window;
    int64_t longer = group->calm_needed * 2;
    group->calm_needed = !too_early ? CALM_WINDOWS : longer < CALM_WINDOWS_MOST ? longer : CALM_WINDOWS_MOST;
    begin(coalescing, group, 1, now);
    group->is_settling = 0;
    group->rate = event.rate;
    report(coalescing, event);
}

static void
switch_off(mcast_coalescing *coalescing, mcast_coalescing_group *group, mcast_coalescing_event event, int64_t now)
{
    event.error = -decide(group, 0);
    group->is_stuck = event.error != 0;
    event.what = group->is_stuck ? MCAST_COALESCING_STAYS : MCAST_COALESCING_ENDED;
    begin(coalescing, group, group->is_stuck, now);
    group->is_settling = !group->is_stuck;
    report(coalescing, event);
}

/* ---- looking ---- */

static uint64_t
rate_of(uint64_t packets, int64_t elapsed)
{
    return elapsed > 0 ? (uint64_t)((double)packets * 1e9 / (double)elapsed) : 0;
}

/* Packets per second: by the times of arrival where packets have them, else by those of reading. */
static uint64_t
rate_now(const mcast_coalescing_group *group, int64_t now)
{
    int64_t elapsed = group->first && group->last > group->first ? group->last - group->first : now - group->since;
    return rate_of(group->packets, elapsed);
}

/* It is on, and for longer than what was queued before can be nothing has come coalesced: the interface does not, or another socket, which
 * was bound since, decides. */
static void
look_whether_it_works(mcast_coalescing *coalescing, mcast_coalescing_group *group, mcast_coalescing_event event,
                      int64_t now)
{
    int queued_before = group->slots < event.buffer / LEAST_TRUESIZE || now - group->changed < SETTLED_NS;
    if (group->has_reported || queued_before)
        return;
    group->has_reported = 1;
    decide(group, 1);
    event.what = MCAST_COALESCING_DOES_NOT_WORK;
    report(coalescing, event);
}

/* Packets come coalesced though it is off: on their way when it was switched, or by the decision of others. */
static void
look_who_coalesces(mcast_coalescing *coalescing, mcast_coalescing_group *group, mcast_coalescing_event event,
                   int64_t now)
{
    if (group->has_reported || now - group->changed < SETTLED_NS)
        return;
    group->has_reported = 1;
    event.what = MCAST_COALESCING_BY_OTHERS;
    report(coalescing, event);
}

/* How full the buffer is, or was before `taken` bytes of it were read, and what follows from it. */
static void
look(mcast_coalescing *coalescing, mcast_coalescing_socket *socket, uint64_t taken, int has_dropped,
     int (*grow)(void *), void *context)
{
    mcast_coalescing_group *group = socket->group;
    mcast_socket_memory memory = {0};
    if (!group->is_prepared)
        prepare(group);
    if (mcast_read_socket_memory(socket->descriptor, &memory) != 0)
        return;
    int64_t now = mcast_monotonic_ns();
    int dropped = take_drops(socket, memory.drops) || has_dropped;
    uint64_t backlog = memory.backlog > taken ? memory.backlog : taken;
    int is_full = backlog * 100 > (uint64_t)memory.buffer * PRESSURE_PERCENT;
    socket->buffer = memory.buffer;
    mcast_coalescing_event event = {
        .what = dropped ? MCAST_COALESCING_BEGAN_BY_DROPS : MCAST_COALESCING_BEGAN_BY_BACKLOG,
        .key = socket->key,
        .backlog = (uint32_t)(backlog < memory.buffer ? backlog : memory.buffer),
        .buffer = memory.buffer,
        .rate = rate_now(group, now),
    };
    group->has_pressure |= dropped || is_full;
    if (group->is_on && (dropped || is_full))
        look_whether_it_works(coalescing, group, event, now);
    else if (group->is_on)
        return;
    else if (!group->has_pressure)
        begin_window(group, now);
    else if (grow(context) == 0)
        switch_on(coalescing, group, event, now);
}

/* What came coalesced before it was switched off has come. */
static void
settle(mcast_coalescing_group *group)
{
    for (mcast_coalescing_socket *one = group->sockets; one; one = one->next)
        mcast_coalescing_count_drops(one);
    group->is_settling = group->has_coalesced = 0;
}

/* It is on: a window may be over, and with it the time for that. */
static void
end_window(mcast_coalescing *coalescing, mcast_coalescing_socket *socket, int64_t now)
{
    mcast_coalescing_group *group = socket->group;
    int64_t elapsed = now - group->since;
    uint64_t rate = rate_of(group->packets, elapsed);
    int64_t windows = elapsed / coalescing->window;
    group->unpressed = group->has_pressure ? 0 : group->unpressed + windows;
    group->calm = group->has_pressure || rate >= group->rate / 2 ? 0 : group->calm + windows;
    begin_window(group, now);
    group->has_pressure = 0;
    if (group->is_stuck || coalescing->mode != MCAST_COALESCES_UNDER_PRESSURE)
        return;
    if (group->calm >= group->calm_needed || group->unpressed >= group->calm_needed * UNPRESSED_FACTOR)
        switch_off(coalescing, group, (mcast_coalescing_event){.key = socket->key, .rate = rate}, now);
}

/* A stream is dense when two super-packets or more come within the longest nap. */
static void
plan_nap(mcast_coalescing_socket *socket, const mcast_coalescing_read *read, int64_t now)
{
    int64_t elapsed = now - socket->read_at, taken = (int64_t)(read->bytes + read->packets * LEAST_TRUESIZE);
    socket->read_at = now;
    socket->nap = 0;
    if (read->is_full || elapsed * 2 > (int64_t)read->slots * NAP_NS)
        return;
    double filling = (double)elapsed * socket->buffer / NAP_SHARE / (double)taken;
    socket->nap = filling < NAP_NS ? (int64_t)filling : NAP_NS;
}

int64_t
mcast_coalescing_take_nap(mcast_coalescing_socket *socket)
{
    int64_t nap = socket->group->is_on ? socket->nap : 0;
    socket->nap = 0;
    return nap;
}

void
mcast_coalescing_note(mcast_coalescing *coalescing, mcast_coalescing_socket *socket, const mcast_coalescing_read *read,
                      int (*grow)(void *context), void *context)
{
    mcast_coalescing_group *group = socket->group;
    group->packets += read->packets;
    group->has_coalesced |= read->coalesced > 0;
    group->slots = read->coalesced ? 0 : group->slots + read->slots;
    group->last = read->time ? read->time : group->last;
    socket->slots += read->slots;
    int has_dropped = read->reported_drops != socket->reported_drops;
    uint64_t taken = read->bytes + read->slots * (uint64_t)LEAST_TRUESIZE;
    int was_full = !read->is_full && socket->buffer && taken * 100 > (uint64_t)socket->buffer * PRESSURE_PERCENT;
    int64_t now = group->is_on || group->is_settling ? mcast_monotonic_ns() : 0;
    int is_over = group->is_on && now - group->since >= coalescing->window;
    if (group->is_on && read->coalesced && coalescing->mode == MCAST_COALESCES_UNDER_PRESSURE)
        plan_nap(socket, read, now);
    if (has_dropped || was_full || (read->is_full && (is_over || socket->slots >= LOOK_AFTER))) {
        look(coalescing, socket, was_full ? taken : 0, has_dropped, grow, context);
        socket->reported_drops = read->reported_drops;
        socket->slots = 0;
    }
    if (is_over)
        end_window(coalescing, socket, now);
    if (group->is_settling && now - group->changed >= SETTLED_NS)
        settle(group);
    if (!group->is_on && read->coalesced)
        look_who_coalesces(coalescing, group, (mcast_coalescing_event){.key = socket->key}, mcast_monotonic_ns());
    if (read->is_full) {
        if (group->since == 0)
            begin_window(group, mcast_monotonic_ns());
        return;
    }
    socket->slots = 0;
    if (!group->is_on)
        begin_window(group, 0);
}

#else

int64_t
mcast_coalescing_take_nap(mcast_coalescing_socket *socket)
{
    (void)socket;
    return 0;
}

void
mcast_coalescing_note(mcast_coalescing *coalescing, mcast_coalescing_socket *socket, const mcast_coalescing_read *read,
                      int (*grow)(void *context), void *context)
{
    (void)coalescing, (void)socket, (void)read, (void)grow, (void)context;
}

#endif
