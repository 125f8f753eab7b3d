#include "send.h"
#include "process.h"
#include <stdlib.h>

/* ---- locks and life cycle ---- */

static void
nothing(void)
{
}

int
mcast_send_import(void)
{
    static mcast_fork_hook hook = {nothing, nothing, NULL};
    return mcast_process_add_hook(&hook);
}

/* Takes send_lock: whether it could, within a nap. */
static int
take_send_lock(mcast_transmitter *transmitter, int at_once)
{
    int64_t end = at_once ? 0 : mcast_monotonic_ns() + MCAST_NAP_NS;
    mcast_lock(&transmitter->state_lock);
    while (transmitter->sending && end && !mcast_flag_is_set(&transmitter->closed)) {
        int64_t left = end - mcast_monotonic_ns();
        if (left <= 0)
            break;
        mcast_condition_wait(&transmitter->send_ended, &transmitter->state_lock, left);
    }
    int taken = !transmitter->sending;
    if (taken)
        transmitter->sending = 1;
    mcast_unlock(&transmitter->state_lock);
    return taken;
}

static void
release_send_lock(mcast_transmitter *transmitter)
{
    mcast_lock(&transmitter->state_lock);
    transmitter->sending = 0;
    mcast_condition_signal_all(&transmitter->send_ended);
    mcast_unlock(&transmitter->state_lock);
}

/* Takes send_lock, however long that lasts: 0, or MCAST_SEND_CLOSED. */
static int
wait_for_send_lock(mcast_transmitter *transmitter)
{
    while (!mcast_flag_is_set(&transmitter->closed))
        if (take_send_lock(transmitter, 0))
            return 0;
    return MCAST_SEND_CLOSED;
}

int
mcast_transmitter_open(mcast_transmitter *transmitter, double ns_per_unit, int by_bits, uint64_t burst)
{
    memset(transmitter, 0, sizeof *transmitter);
    mcast_pace_open(&transmitter->pace, ns_per_unit, by_bits, burst);
    transmitter->process = mcast_process_number;
    mcast_hops_open(transmitter);
    int status = mcast_mutex_open(&transmitter->state_lock);
    if (status != 0)
        return status;
    status = mcast_condition_open(&transmitter->send_ended);
    transmitter->vector = status == 0 ? calloc(1, sizeof *transmitter->vector) : NULL;
    if (transmitter->vector) {
        transmitter->opened = 1;
        return 0;
    }
    if (status == 0)
        mcast_condition_close(&transmitter->send_ended);
    mcast_mutex_close(&transmitter->state_lock);
    return status ? status : -ENOMEM;
}

void
mcast_transmitter_free(mcast_transmitter *transmitter)
{
    /* In a child all is left as it is: threads that are not there may hold the locks, and be in the middle of a change. */
    if (!transmitter->opened || mcast_transmitter_is_foreign(transmitter))
        return;
    mcast_condition_close(&transmitter->send_ended);
    mcast_mutex_close(&transmitter->state_lock);
    free(transmitter->vector);
    free(transmitter->sockets);
}

int
mcast_transmitter_is_closed(const mcast_transmitter *transmitter)
{
    return mcast_flag_is_set(&transmitter->closed);
}

int
mcast_transmitter_is_foreign(const mcast_transmitter *transmitter)
{
    return transmitter->process != mcast_process_number;
}

int
mcast_transmitter_enter(mcast_transmitter *transmitter)
{
    if (mcast_transmitter_is_foreign(transmitter))
        return MCAST_SEND_FOREIGN;
    mcast_lock(&transmitter->state_lock);
    int closed = mcast_flag_is_set(&transmitter->closed);
    transmitter->users += !closed;
    mcast_unlock(&transmitter->state_lock);
    return closed ? MCAST_SEND_CLOSED : 0;
}

/* Whether it is closed and nobody is inside; state_lock is held. */
static int
is_idle(const mcast_transmitter *transmitter)
{
    return transmitter->users == 0 && mcast_flag_is_set(&transmitter->closed);
}

int
mcast_transmitter_leave(mcast_transmitter *transmitter)
{
    if (mcast_transmitter_is_foreign(transmitter)) /* the process forked inside */
        return 0;
    mcast_lock(&transmitter->state_lock);
    transmitter->users--;
    int idle = is_idle(transmitter);
    mcast_unlock(&transmitter->state_lock);
    return idle;
}

int
mcast_transmitter_close(mcast_transmitter *transmitter)
{
    mcast_flag_set(&transmitter->closed);
    if (mcast_transmitter_is_foreign(transmitter))
        return 1;
    mcast_lock(&transmitter->state_lock);
    int idle = is_idle(transmitter);
    mcast_condition_signal_all(&transmitter->send_ended);
    mcast_unlock(&transmitter->state_lock);
    return idle;
}

/* ---- what belongs to a sender ---- */

int64_t
mcast_transmitter_add(mcast_transmitter *transmitter, int fd, size_t limit)
{
    if (wait_for_send_lock(transmitter) != 0)
        return MCAST_SEND_CLOSED;
    mcast_lock(&transmitter->state_lock);
    mcast_sending_socket *sockets = realloc(transmitter->sockets, (transmitter->socket_count + 1) * sizeof *sockets);
    int64_t key = sockets ? (int64_t)transmitter->socket_count : -ENOMEM;
    if (sockets) {
        transmitter->sockets = sockets;
        sockets[transmitter->socket_count++] = (mcast_sending_socket){.fd = fd, .limit = limit};
    }
    mcast_unlock(&transmitter->state_lock);
    release_send_lock(transmitter);
    return key;
}

int
mcast_transmitter_replace(mcast_transmitter *transmitter, size_t key, int fd, size_t limit)
{
    int status = wait_for_send_lock(transmitter);
    if (status != 0)
        return status;
    mcast_lock(&transmitter->state_lock);
    if (key < transmitter->socket_count)
        transmitter->sockets[key] = (mcast_sending_socket){.fd = fd, .limit = limit};
    else
        status = -EINVAL;
    mcast_unlock(&transmitter->state_lock);
    release_send_lock(transmitter);
    return status;
}

int
mcast_transmitter_look(mcast_transmitter *transmitter, size_t key, mcast_sending_socket *info)
{
    mcast_lock(&transmitter->state_lock);
    int found = key < transmitter->socket_count;
    if (found)
        *info = transmitter->sockets[key];
    mcast_unlock(&transmitter->state_lock);
    return found;
}

mcast_send_counters
mcast_transmitter_counters(mcast_transmitter *transmitter, double *rate)
{
    mcast_lock(&transmitter->state_lock);
    mcast_send_counters counters = transmitter->counters;
    *rate = mcast_pace_rate(&transmitter->pace);
    mcast_unlock(&transmitter->state_lock);
    return counters;
}

int
mcast_transmitter_route(mcast_transmitter *transmitter, mcast_schedule *schedule, const unsigned char *group,
                        uint16_t port, const mcast_target *target)
{
    int status = wait_for_send_lock(transmitter);
    if (status == 0) {
        status = mcast_schedule_add(schedule, group, port, target);
        release_send_lock(transmitter);
    }
    return status;
}

int
mcast_transmitter_start(mcast_transmitter *transmitter, mcast_schedule *schedule, int64_t origin, int64_t start,
                        double scale)
{
    int status = wait_for_send_lock(transmitter);
    if (status == 0) {
        mcast_schedule_start(schedule, origin, start, scale);
        release_send_lock(transmitter);
    }
    return status;
}

void
mcast_transmitter_lateness(mcast_transmitter *transmitter, const mcast_schedule *schedule, uint64_t *late,
                           int64_t *latest)
{
    mcast_lock(&transmitter->state_lock);
    memcpy(late, schedule->late, sizeof schedule->late);
    *latest = schedule->latest;
    mcast_unlock(&transmitter->state_lock);
}

/* ---- payloads ---- */

/* Payload `i`; offsets and lengths were checked before (mcast_payloads_fit). */
static inline struct iovec
payload_at(const mcast_payloads *payloads, size_t i)
{
    if (payloads->pieces)
        return payloads->pieces[i];
    if (payloads->records)
        return (struct iovec){payloads->bytes + payloads->records[i].offset, payloads->records[i].length};
    size_t at = i * payloads->row, left = payloads->length - at;
    return (struct iovec){payloads->bytes + at, left < payloads->row ? left : payloads->row};
}

int
mcast_payloads_fit(const mcast_payloads *payloads)
{
    for (size_t i = 0; payloads->records && i < payloads->count; i++)
        if ((size_t)payloads->records[i].offset + payloads->records[i].length > payloads->length)
            return 0;
    return 1;
}

/* ---- messages ---- */

/* Where datagram `at` goes; NULL when a schedule does not say it. */
static inline const mcast_target *
target_of(const mcast_request *request, size_t at)
{
    if (request->schedule)
        return mcast_schedule_target(request->schedule, &request->payloads.records[at]);
    return &request->targets[request->target_count == 1 ? 0 : at % request->target_count];
}

/* Whether a schedule gives two records of the request the same TTL and TOS: then one system call may send both. */
static inline int
has_same_hops(const mcast_request *request, size_t at, size_t first)
{
    const mcast_schedule *schedule = request->schedule;
    return !schedule || !schedule->keep ||
           mcast_schedule_hops(schedule, &request->payloads.records[at]) ==
               mcast_schedule_hops(schedule, &request->payloads.records[first]);
}

/* The payload of datagram `at`. */
static inline struct iovec
datagram_at(const mcast_request *request, size_t at)
{
    return payload_at(&request->payloads, request->target_count == 1 ? at : at / request->target_count);
}

/* Adds a message of the payloads from `at` on, before `end`, that may leave as one super-packet: of one size, but the last may be
 * shorter (udp(7)); by a schedule, of one target. Returns how many payloads. */
static size_t
add_run(mcast_message_vector *vector, const mcast_request *request, const mcast_target *target, size_t at, size_t end,
        size_t limit)
{
    const mcast_payloads *payloads = &request->payloads;
    struct iovec piece = payload_at(payloads, at);
    size_t size = piece.iov_len, total = size, run = 1;
    mcast_vector_begin(vector, &target->address, target->size);
    mcast_vector_add(vector, piece);
    if (size == 0 || size > limit)
        return 1;
    end = end - at < MCAST_SEGMENTS_MAX ? end : at + MCAST_SEGMENTS_MAX;
    while (at + run < end) {
        if (request->schedule && (target_of(request, at + run) != target || !has_same_hops(request, at + run, at)))
            break;
        piece = payload_at(payloads, at + run);
        if (piece.iov_len == 0 || piece.iov_len > size || total + piece.iov_len > MCAST_SUPER_MAX)
            break;
        mcast_vector_add(vector, piece);
        total += piece.iov_len;
        run++;
        if (piece.iov_len < size)
            break;
    }
    if (run > 1)
        mcast_vector_segment(vector, (uint16_t)size);
    return run;
}

/* The same of rows, which lie one after the other: one piece of memory. */
static size_t
add_rows(mcast_message_vector *vector, const mcast_request *request, const mcast_target *target, size_t at, size_t end,
         size_t limit)
{
    const mcast_payloads *payloads = &request->payloads;
    size_t size = payloads->row, most = MCAST_SUPER_MAX / size, left = payloads->length - at * size;
    most = most < MCAST_SEGMENTS_MAX ? most : MCAST_SEGMENTS_MAX;
    most = most < end - at ? most : end - at;
    if (size > limit || most < 2)
        most = 1;
    mcast_vector_begin(vector, &target->address, target->size);
    mcast_vector_add_several(
        vector, (struct iovec){payloads->bytes + at * size, left < most * size ? left : most * size}, (unsigned)most);
    if (most > 1)
        mcast_vector_segment(vector, (uint16_t)size);
    return most;
}

/* Fills the vector with single datagrams, at most `end`; each to one target after the other. */
static void
load_singles(mcast_message_vector *vector, const mcast_request *request, size_t end, size_t socket)
{
    size_t count = request->target_count, at = request->sent, payload = at / count, number = at % count;
    for (; at < end && mcast_vector_has_room(vector, 1); at++) {
        const mcast_target *target = request->schedule ? target_of(request, at) : &request->targets[number];
        if (!target || target->socket != socket || !has_same_hops(request, at, request->sent))
            return;
        mcast_vector_begin(vector, &target->address, target->size);
        mcast_vector_add(vector, payload_at(&request->payloads, payload));
        if (++number == count) {
            number = 0;
            payload++;
        }
    }
}

/* Fills the vector with super-packets; all go to the same target, or where the schedule says. */
static void
load_runs(mcast_message_vector *vector, const mcast_request *request, size_t end, size_t socket, size_t limit)
{
    int rows = !request->payloads.pieces && !request->payloads.records;
    for (size_t at = request->sent; at < end && mcast_vector_has_room(vector, MCAST_SEGMENTS_MAX);) {
        const mcast_target *target = target_of(request, at);
        if (!target || target->socket != socket || !has_same_hops(request, at, request->sent))
            return;
        at += (rows ? add_rows : add_run)(vector, request, target, at, end, limit);
    }
}

/* Fills the vector with what comes next, at most `allowed` datagrams by one socket; the socket. */
static mcast_sending_socket *
load(mcast_transmitter *transmitter, const mcast_request *request, size_t allowed)
{
    size_t key = target_of(request, request->sent)->socket;
    mcast_sending_socket *socket = &transmitter->sockets[key];
    mcast_vector_clear(transmitter->vector);
    if (request->target_count == 1 && !request->alone && socket->limit > 0)
        load_runs(transmitter->vector, request, request->sent + allowed, key, socket->limit);
    else
        load_singles(transmitter->vector, request, request->sent + (request->alone ? 1 : allowed), key);
    return socket;
}

/* ---- counting ---- */

static void
count(mcast_transmitter *transmitter, uint64_t *counter)
{
    mcast_lock(&transmitter->state_lock);
    ++*counter;
    mcast_unlock(&transmitter->state_lock);
}

/* Records what the path of a socket refuses to segment: segments of more than `limit` bytes. */
static void
limit_segments(mcast_transmitter *transmitter, mcast_sending_socket *socket, size_t limit, int refusal)
{
    mcast_lock(&transmitter->state_lock);
    socket->limit = limit;
    socket->refusal = refusal;
    mcast_unlock(&transmitter->state_lock);
}

/* Counts a system call, and the messages that left by it. */
static void
account(mcast_transmitter *transmitter, mcast_sending_socket *socket, mcast_request *request, unsigned left,
        int64_t now)
{
    size_t datagrams = 0, bytes = 0;
    for (unsigned i = 0; i < left; i++) {
        datagrams += transmitter->vector->datagrams[i];
        bytes += mcast_vector_bytes(transmitter->vector, i);
    }
    if (request->alone) { /* alone it leaves: segmentation is what was refused */
        int too_large = request->alone == MCAST_EMSGSIZE || request->alone == EINVAL;
        limit_segments(transmitter, socket, too_large ? request->refused - 1 : 0, request->alone);
    }
    mcast_lock(&transmitter->state_lock);
    transmitter->counters.system_calls++;
    transmitter->counters.datagrams += datagrams;
    transmitter->counters.bytes += bytes;
    if (request->schedule && request->schedule->scale > 0)
        mcast_schedule_left(request->schedule, &request->payloads.records[request->sent], datagrams, now);
    mcast_pace_left(&transmitter->pace, datagrams, bytes, now);
    mcast_unlock(&transmitter->state_lock);
    request->alone = 0;
    request->retries = 0;
    request->sent += datagrams;
}

/* ---- the clock ---- */

/* How many datagrams of the request are due at `now` by the pace; *due is when the next one after them is. */
static size_t
pace_count(const mcast_pace *pace, const mcast_request *request, size_t left, int64_t now, int64_t *due)
{
    double units = pace->units;
    size_t number = 0;
    for (; number < left && number < MCAST_PACE_LOOKAHEAD; number++) {
        *due = mcast_pace_due(pace, units);
        if (*due > now && (pace->in_burst + number) % pace->burst == 0)
            break;
        units += pace->by_bits ? (double)datagram_at(request, request->sent + number).iov_len * 8 : 1;
    }
    return number;
}

/* The same by the schedule, where there is one. */
static size_t
due_count(const mcast_transmitter *transmitter, const mcast_request *request, size_t left, int64_t now, int64_t *due)
{
    const mcast_schedule *schedule = request->schedule;
    if (!schedule || schedule->scale == 0)
        return pace_count(&transmitter->pace, request, left, now, due);
    left = left < MCAST_PACE_LOOKAHEAD ? left : MCAST_PACE_LOOKAHEAD;
    return mcast_schedule_count(schedule, &request->payloads.records[request->sent], left, now, due);
}

/* Waits for the next departure, until `end` at most: how many datagrams may leave now, 0 when none. */
static size_t
wait_until_due(mcast_transmitter *transmitter, const mcast_request *request, size_t left, int64_t end, int64_t *now,
               long *slack)
{
    int64_t due = 0;
    size_t number;
    while ((number = due_count(transmitter, request, left, *now, &due)) == 0) {
        if (*now >= end || request->at_once || mcast_flag_is_set(&transmitter->closed))
            return 0;
        int64_t wake = due - MCAST_SPIN_NS;
        if (wake - *now > MCAST_NAP_NS)
            wake = *now + MCAST_NAP_NS;
        if (wake > *now) {
            if (*slack < 0)
                *slack = mcast_timer_slack(1);
            mcast_sleep_until(wake);
        }
        *now = mcast_monotonic_ns();
        while (*now < due && due - *now <= MCAST_SPIN_NS)
            *now = mcast_monotonic_ns();
    }
    return number;
}

/* ---- sending ---- */

static int
is_segmentation_refused(int status)
{
    return status == -EIO || status == -EINVAL || status == -MCAST_EMSGSIZE || status == -EOPNOTSUPP;
}

/* Whether a full queue is to be tried again, after a pause that grows. */
static int
retries_after_pause(mcast_transmitter *transmitter, mcast_request *request)
{
    if (request->retries >= MCAST_RETRIES_MAX)
        return 0;
    count(transmitter, &transmitter->counters.retries);
    if (request->at_once) /* the caller pauses */
        return 0;
    int64_t pause = request->retries < 8 ? (int64_t)MCAST_RETRY_FIRST_NS << request->retries : MCAST_RETRY_LAST_NS;
    request->retries++;
    mcast_sleep_until(mcast_monotonic_ns() + (pause < MCAST_RETRY_LAST_NS ? pause : MCAST_RETRY_LAST_NS));
    return 1;
}

/* What to do about -errno of a system call by which nothing left: 0 to try again, or that status. */
static int
refused(mcast_transmitter *transmitter, mcast_sending_socket *socket, mcast_request *request, int status)
{
    int segmented = transmitter->vector->datagrams[0] > 1;
    count(transmitter, &transmitter->counters.system_calls);
    if (status == -EINTR)
        return 0;
    if (status == -EAGAIN || status == -EWOULDBLOCK) {
        count(transmitter, &transmitter->counters.would_blocks);
        if (request->at_once)
            return -EAGAIN;
        mcast_wait_writable(socket->fd, MCAST_NAP_NS / 1000000);
        return 0;
    }
    if (segmented && is_segmentation_refused(status)) {
        count(transmitter, &transmitter->counters.retries);
        request->alone = -status;
        request->refused = datagram_at(request, request->sent).iov_len;
        return 0;
    }
    if (status == -MCAST_ENOBUFS && segmented) {
        /* A queue that cuts super-packets apart itself (tc-tbf(8)) keeps what fits, drops the rest, and answers success: one that has
         * been full gets single datagrams for good, of which each is answered for. */
        count(transmitter, &transmitter->counters.retries);
        limit_segments(transmitter, socket, 0, MCAST_ENOBUFS);
        return 0;
    }
    return status == -MCAST_ENOBUFS && retries_after_pause(transmitter, request) ? 0 : status;
}

/* mcast_send_slice for the thread that holds send_lock. */
static int
send_until(mcast_transmitter *transmitter, mcast_request *request, size_t total, int64_t now, int64_t end)
{
    int by_schedule = request->schedule && request->schedule->scale > 0;
    int status = 0, paced = by_schedule || transmitter->pace.ns_per_unit > 0;
    long slack = -1;
    if (paced && !by_schedule && !request->begun && mcast_pace_is_over(&transmitter->pace, now)) {
        mcast_lock(&transmitter->state_lock);
        mcast_pace_begin(&transmitter->pace, now);
        mcast_unlock(&transmitter->state_lock);
    }
    request->begun = 1;
    while (status == 0 && request->sent < total) {
        size_t allowed = total - request->sent;
        int closed = mcast_flag_is_set(&transmitter->closed);
        if (closed || !target_of(request, request->sent)) {
            status = closed ? MCAST_SEND_CLOSED : MCAST_SEND_UNKNOWN;
            break;
        }
        if (now >= end)
            break;
        if (paced && (allowed = wait_until_due(transmitter, request, allowed, end, &now, &slack)) == 0) {
            if (request->at_once)
                break;
            continue;
        }
        mcast_sending_socket *socket = load(transmitter, request, allowed);
        status = mcast_hops_set(transmitter, socket, request, target_of(request, request->sent));
        if (status != 0)
            break;
        int left = mcast_vector_send(transmitter->vector, socket->fd);
        if (left > 0)
            account(transmitter, socket, request, (unsigned)left, now);
        else
            status = refused(transmitter, socket, request, left);
        now = mcast_monotonic_ns();
    }
    if (slack >= 0)
        mcast_timer_slack(slack);
    return status == 0 && request->sent < total ? MCAST_SEND_MORE : status;
}

int
mcast_send_slice(mcast_transmitter *transmitter, mcast_request *request, size_t total)
{
    if (mcast_flag_is_set(&transmitter->closed))
        return MCAST_SEND_CLOSED;
    if (!take_send_lock(transmitter, request->at_once))
        return MCAST_SEND_MORE;
    int64_t now = mcast_monotonic_ns(), end = now + MCAST_SLICE_NS;
    if (request->at_once) {
        request->end = request->end ? request->end : now + MCAST_STEP_NS;
        end = request->end;
    }
    int status = send_until(transmitter, request, total, now, end);
    release_send_lock(transmitter);
    return status;
}
