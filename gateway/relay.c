/*
 * RELAY: bytes go both ways until both directions have ended.
 *
 * A direction reads into the worker's one scratch buffer and writes at once; only what the receiver's socket
 * does not take is kept, in a buffer that exists for that long, and nothing more is read until it is gone.
 * That is the back-pressure: a slow reader fills its own socket, then ours, then the sender's.
 *
 * Ends are facts of their own: a FIN read on one side is passed on when everything before it is (half-close);
 * a reset is passed on as a reset. Sockets are edge-triggered: `readable` and `writable` stay true until
 * EAGAIN says otherwise.
 */
#include "gateway/flow.h"
#include "gateway/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#define TURN_BUDGET 16 /* reads of one direction before other flows have their turn */

static enum audit_close_by who(const struct flow *flow, const struct flow_side *side)
{
    return side == &flow->client ? AUDIT_CLOSE_CLIENT : AUDIT_CLOSE_ORIGIN;
}

static void side_broke(struct flow *flow, const struct flow_side *side, int error)
{
    flow_end(flow, who(flow, side), error == ECONNRESET || error == EPIPE ? "rst" : "error", true);
}

static void count_moved(const struct flow_side *to, size_t length)
{
    struct flow *flow = to->flow;
    struct metrics_worker *m = flow->worker->metrics;
    metric_add(to == &flow->client ? &m->bytes_down : &m->bytes_up, length);
}

static int flush(struct flow *flow, struct flow_side *to, struct buffer *buffer, size_t limit, uint64_t *count,
                 int flags)
{
    while (limit > 0) {
        if (!to->writable)
            return 0;
        ssize_t sent = send(to->poll.fd, buffer->bytes + buffer->start, limit, MSG_NOSIGNAL | flags);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN) {
            to->writable = false;
            return 0;
        }
        if (sent < 0) {
            side_broke(flow, to, errno);
            return -1;
        }
        buffer->start += (size_t)sent;
        limit -= (size_t)sent;
        *count += (uint64_t)sent;
        count_moved(to, (size_t)sent);
        flow->active = true;
    }
    return 1;
}

int relay_flush(struct flow *flow, struct flow_side *to, struct buffer *buffer, size_t limit, uint64_t *count)
{
    return flush(flow, to, buffer, limit, count, 0);
}

/* Once, when it turns out to move more than a page or two. */
static void bound_memory(struct flow *flow, struct flow_side *from)
{
    struct flow_side *to = from == &flow->client ? &flow->origin : &flow->client;
    uint64_t moved = from == &flow->client ? flow->bytes_up : flow->bytes_down;
    int share = moved < SOCK_BOUND_AFTER ? 0 : sock_share(flow->capture->flows);
    from->bounded = moved >= SOCK_BOUND_AFTER;
    if (share)
        sock_bound(from->poll.fd, to->poll.fd, share);
}

ssize_t relay_read(struct flow *flow, struct flow_side *from, void *bytes, size_t size)
{
    ssize_t got;
    do
        got = recv(from->poll.fd, bytes, size, 0);
    while (got < 0 && errno == EINTR);
    if (got < 0 && errno == EAGAIN) {
        from->readable = false;
        return 0;
    }
    if (got < 0) {
        side_broke(flow, from, errno);
        return -1;
    }
    if (got == 0) {
        from->eof = true;
        from->readable = false;
    } else if ((size_t)got < size && !from->urgent && (from->finished || !from->hangup)) {
        from->readable = false; /* a short read drained it: epoll(7) */
        from->eof = from->finished;
    }
    if (!from->bounded)
        bound_memory(flow, from);
    flow->active = true;
    return got;
}

/* The last FIN of a flow needs no call of its own: close() sends it, as nothing is left to be read there. */
void relay_shut(struct flow_side *to)
{
    const struct flow *flow = to->flow;
    const struct flow_side *from = to == &flow->client ? &flow->origin : &flow->client;
    if (to->shut)
        return;
    to->shut = true;
    if (!(to->eof && from->shut))
        shutdown(to->poll.fd, SHUT_WR);
}

/* Keep what the socket did not take. */
static int keep(struct buffer *buffer, const uint8_t *bytes, size_t length)
{
    if (buffer_reserve(buffer, length) < 0)
        return -1;
    memcpy(buffer->bytes + buffer->end, bytes, length);
    buffer->end += length;
    return 0;
}

/* Send straight from scratch; what does not fit is kept. False when the flow ended. When the sender's FIN is in sight it is read
 * next: with MSG_MORE the last bytes wait for it, and both are one packet. */
static bool pass_on(struct flow *flow, struct flow_side *to, struct buffer *buffer, uint8_t *bytes,
                    size_t length, bool fin_in_sight, uint64_t *count)
{
    struct buffer view = {.bytes = bytes, .end = length, .capacity = length};
    if (flush(flow, to, &view, length, count, fin_in_sight ? MSG_MORE : 0) < 0)
        return false;
    if (buffer_length(&view) && keep(buffer, view.bytes + view.start, buffer_length(&view)) < 0) {
        flow_end(flow, AUDIT_CLOSE_GATEWAY, "out_of_memory", true);
        return false;
    }
    return true;
}

/* ---- bulk: splice(2) ----
 *
 * After a few reads that filled the scratch buffer the bytes are moved through a pipe instead, without being
 * copied. The pipe is filled only when it is empty: so EAGAIN from the socket means that nothing is there,
 * never that the pipe is full. A direction that has nothing to move gives its pipe back; if it had moved a good deal,
 * it has one again as soon as there is something, else it has to show first that it is bulk still.
 */

#define BULK_AFTER 4          /* full reads */
#define BULK_STILL (16 * 1024) /* moved by a pipe before there was nothing more */

static void bulk_end(struct flow *flow, struct relay_bulk *bulk)
{
    pipe_return(&flow->worker->pipes, bulk->pipe);
    bulk->pipe = NULL;
    bulk->full_reads = bulk->moved >= BULK_STILL ? BULK_AFTER : 0;
    bulk->moved = 0;
}

/* HTTP that is still parsed needs its bytes in memory. */
static bool bulk_begin(struct flow *flow, struct relay_bulk *bulk, const struct flow_side *from)
{
    if (bulk->full_reads >= BULK_AFTER && !from->urgent && (!flow->http || flow->http->tunnel))
        bulk->pipe = pipe_borrow(&flow->worker->pipes);
    return bulk->pipe != NULL;
}

/* 1 when the pipe is empty, 0 when the socket is full, -1 when the flow ended. */
static int bulk_drain(struct flow *flow, struct relay_bulk *bulk, struct flow_side *to, uint64_t *count)
{
    struct pipe_pair *pipe = bulk->pipe;
    while (pipe->filled) {
        if (!to->writable)
            return 0;
        ssize_t sent =
            splice(pipe->ends[0], NULL, to->poll.fd, NULL, pipe->filled, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN) {
            to->writable = false;
            return 0;
        }
        if (sent <= 0) {
            side_broke(flow, to, errno);
            return -1;
        }
        pipe->filled -= (size_t)sent;
        *count += (uint64_t)sent;
        count_moved(to, (size_t)sent);
        flow->active = true;
    }
    return 1;
}

/* 0, or -1 when the flow ended. */
static int bulk_fill(struct flow *flow, struct relay_bulk *bulk, struct flow_side *from)
{
    ssize_t got;
    do
        got = splice(from->poll.fd, NULL, bulk->pipe->ends[1], NULL, PIPE_BYTES,
                     SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    while (got < 0 && errno == EINTR);
    if (got < 0 && errno != EAGAIN) {
        side_broke(flow, from, errno);
        return -1;
    }
    if (got > 0) {
        bulk->pipe->filled = (size_t)got;
        bulk->moved += bulk->moved < BULK_STILL ? (uint32_t)got : 0;
    } else {
        from->readable = false;
        from->eof = got == 0;
    }
    return 0;
}

static void run_bulk(struct flow *flow, struct relay_bulk *bulk, struct flow_side *from, struct flow_side *to,
                     uint64_t *count)
{
    for (int turn = 0; turn < TURN_BUDGET; turn++) {
        if (bulk_drain(flow, bulk, to, count) <= 0)
            return;
        if (from->eof || !from->readable || from->urgent) {
            bulk_end(flow, bulk); /* and splice(2) takes the urgent mark for the end */
            if (from->eof)
                relay_shut(to);
            else if (from->urgent)
                break;
            return;
        }
        if (!to->writable || bulk_fill(flow, bulk, from) < 0)
            return;
    }
    poller_again(&flow->worker->poller, &from->poll);
}

static void note_read(struct relay_bulk *bulk, ssize_t got)
{
    bulk->full_reads = got == SCRATCH_SIZE ? bulk->full_reads + 1 : 0;
}

static void run_direction(struct flow *flow, struct flow_side *from, struct flow_side *to,
                          struct buffer *buffer, struct relay_bulk *bulk, uint64_t *count)
{
    if (bulk->pipe || (from->readable && to->writable && buffer_length(buffer) == 0 && bulk_begin(flow, bulk, from))) {
        run_bulk(flow, bulk, from, to, count);
        return;
    }
    uint8_t *scratch = flow->worker->scratch;
    for (int turn = 0; turn < TURN_BUDGET; turn++) {
        size_t waiting = buffer_length(buffer);
        if (waiting) {
            if (relay_flush(flow, to, buffer, waiting, count) <= 0)
                return;
        }
        buffer_free(buffer);
        if (from->eof) {
            relay_shut(to);
            return;
        }
        if (!from->readable || !to->writable)
            return;
        ssize_t got = relay_read(flow, from, scratch, SCRATCH_SIZE);
        if (got < 0)
            return;
        if (got > 0) {
            if (from == &flow->origin && flow->http)
                http_flow_observe(flow, scratch, (size_t)got);
            if (!pass_on(flow, to, buffer, scratch, (size_t)got, from->hangup, count))
                return;
            note_read(bulk, got);
            if (buffer_length(buffer) == 0 && bulk_begin(flow, bulk, from))
                break;
        }
    }
    poller_again(&flow->worker->poller, &from->poll);
}

/* Both directions have ended, or only one: then the other has a shorter patience. */
static void note_ends(struct flow *flow)
{
    bool up_over = flow->client.eof && flow->origin.shut, down_over = flow->origin.eof && flow->client.shut;
    if ((flow->client.eof || flow->origin.eof) && !flow->half_closed) {
        flow->half_closed = true;
        flow->closed_first = flow->client.eof ? AUDIT_CLOSE_CLIENT : AUDIT_CLOSE_ORIGIN;
        deadline_start(&flow->worker->half_close_timeouts, &flow->timer);
    }
    if (up_over && down_over)
        flow_end(flow, flow->closed_first, "fin", false);
}

void relay_run(struct flow *flow)
{
    if (flow->http && !flow->http->tunnel)
        http_flow_up(flow);
    else
        run_direction(flow, &flow->client, &flow->origin, &flow->up, &flow->bulk_up, &flow->bytes_up);
    if (flow->state != FLOW_RELAY)
        return;
    run_direction(flow, &flow->origin, &flow->client, &flow->down, &flow->bulk_down, &flow->bytes_down);
    if (flow->state == FLOW_RELAY && flow->http)
        http_flow_after_down(flow);
    if (flow->state == FLOW_RELAY)
        note_ends(flow);
}
