/*
 * Connecting to the origin: Happy Eyeballs in small (RFC 8305 section 5). The client believed it was
 * connected long ago, so a dead address is ours to survive: the next candidate starts when the one before
 * failed, or after a stagger when it is only slow; the first to connect wins.
 */
#include "gateway/flow.h"
#include "base/fds.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

static struct poll_handle *attempt_poll(struct dial_attempt *attempt)
{
    struct flow *flow = attempt->flow;
    return attempt == &flow->dial.attempts[0] ? &flow->origin.poll : &attempt->own_poll;
}

static void attempt_drop(struct dial_attempt *attempt)
{
    if (!attempt->active)
        return;
    struct poll_handle *poll = attempt_poll(attempt);
    int fd = poll->fd;
    poller_remove(&attempt->flow->worker->poller, poll);
    fd_close(&fd);
    attempt->active = false;
}

void dial_cancel(struct flow *flow)
{
    deadline_stop(&flow->dial.stagger);
    for (int i = 0; i < 2; i++)
        if (flow->dial.attempts[i].active)
            attempt_drop(&flow->dial.attempts[i]);
}

static void attempt_ready(struct dial_attempt *attempt);

static void first_ready(struct poll_handle *handle, uint32_t events)
{
    struct flow_side *side = list_entry(handle, struct flow_side, poll);
    flow_side_note(side, events);
    if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
        attempt_ready(&side->flow->dial.attempts[0]);
}

static void second_ready(struct poll_handle *handle, uint32_t events)
{
    if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
        attempt_ready(list_entry(handle, struct dial_attempt, own_poll));
}

static int attempt_connect(struct flow *flow, struct dial_attempt *attempt, const struct addr *address)
{
    struct sockaddr_storage to;
    socklen_t length = addr_to_sockaddr(address, &to);
    const int on = 1;
    _cleanup_fd_ int fd = socket(address->family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (connect(fd, (struct sockaddr *)&to, length) < 0 && errno != EINPROGRESS)
        return -errno;
    attempt->flow = flow;
    attempt->address = *address;
    struct poll_handle *poll = attempt_poll(attempt);
    poll_handle_init(poll, attempt == &flow->dial.attempts[0] ? first_ready : second_ready);
    int r = poller_add(&flow->worker->poller, poll, fd);
    if (r < 0)
        return r;
    (void)fd_steal(&fd);
    attempt->active = true;
    return 0;
}

/* Start the next candidate that can be started. Fails the flow when nothing is under way any more. */
static void dial_next(struct flow *flow)
{
    struct dial *dial = &flow->dial;
    while (dial->next < dial->count) {
        struct dial_attempt *free_one = !dial->attempts[0].active   ? &dial->attempts[0]
                                        : !dial->attempts[1].active ? &dial->attempts[1]
                                                                    : NULL;
        if (!free_one)
            return;
        int r = attempt_connect(flow, free_one, &dial->candidates[dial->next++]);
        if (r == 0) {
            if (dial->next < dial->count)
                deadline_start(&flow->worker->attempt_staggers, &dial->stagger);
            return;
        }
        dial->last_error = r;
    }
    if (!dial->attempts[0].active && !dial->attempts[1].active)
        flow_deny(flow, ACL_CONNECT_FAILED, strerror(-dial->last_error));
}

/* The winner's socket becomes the origin side; the other attempt goes. */
static void attempt_won(struct dial_attempt *winner)
{
    struct flow *flow = winner->flow;
    struct addr dialled = winner->address;
    struct poller *poller = &flow->worker->poller;
    winner->active = false;
    if (winner == &flow->dial.attempts[1]) {
        int fd = winner->own_poll.fd;
        attempt_drop(&flow->dial.attempts[0]);
        poller_remove(poller, &winner->own_poll);
        poll_handle_init(&flow->origin.poll, flow_origin_ready);
        if (poller_add(poller, &flow->origin.poll, fd) < 0) {
            fd_close(&fd);
            flow_deny(flow, ACL_CONNECT_FAILED, "cannot watch the socket");
            return;
        }
    }
    flow->origin.poll.ready = flow_origin_ready;
    dial_cancel(flow);
    flow_connected(flow, &dialled);
}

static void attempt_ready(struct dial_attempt *attempt)
{
    struct flow *flow = attempt->flow;
    int error = 0;
    socklen_t size = sizeof(error);
    if (getsockopt(attempt_poll(attempt)->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        error = errno;
    if (error == 0) {
        attempt_won(attempt);
        return;
    }
    flow->dial.last_error = -error;
    attempt_drop(attempt);
    flow->origin.readable = flow->origin.writable = flow->origin.hangup = false;
    dial_next(flow);
}

void dial_stagger_expired(struct deadline *deadline)
{
    struct dial *dial = list_entry(deadline, struct dial, stagger);
    dial_next(list_entry(dial, struct flow, dial));
}

void dial_start(struct flow *flow, const char *binding)
{
    if (binding)
        flow->binding = binding;
    flow->dial.next = 0;
    flow_set_state(flow, FLOW_CONNECT);
    dial_next(flow);
}
