/*
 * Connecting to the origin: Happy Eyeballs in small (RFC 8305 section 5). The client believed it was
 * connected long ago, so a dead address is ours to survive: the next candidate starts when the one before
 * failed, or after a stagger when it is only slow; the first to connect wins. Addresses that lately failed or lost so
 * are tried last (dead_addresses.h).
 */
#include "gateway/flow.h"
#include "base/fds.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct poll_handle *attempt_poll(struct dial_attempt *attempt)
{
    struct flow *flow = attempt->flow;
    return attempt == &flow->dial->attempts[0] ? &flow->origin.poll : &attempt->own_poll;
}

static void attempt_drop(struct dial_attempt *attempt)
{
    if (!attempt->active)
        return;
    poller_close(&attempt->flow->worker->poller, attempt_poll(attempt));
    attempt->active = false;
}

static void stop(struct dial *dial)
{
    verify_cancel(&dial->verify);
    deadline_stop(&dial->stagger);
    for (int i = 0; i < 2; i++)
        if (dial->attempts[i].active)
            attempt_drop(&dial->attempts[i]);
}

bool dial_begin(struct flow *flow)
{
    if (flow->dial)
        stop(flow->dial);
    else
        flow->dial = slab_take(&flow->worker->dial_slab);
    if (!flow->dial) {
        flow_deny_memory(flow);
        return false;
    }
    *flow->dial = (struct dial){.flow = flow};
    deadline_init(&flow->dial->stagger);
    verify_waiter_init(&flow->dial->verify, NULL);
    return true;
}

void dial_cancel(struct flow *flow)
{
    if (!flow->dial)
        return;
    stop(flow->dial);
    slab_give(&flow->worker->dial_slab, flow->dial);
    flow->dial = NULL;
}

static void attempt_ready(struct dial_attempt *attempt, uint32_t events);

static void first_ready(struct poll_handle *handle, uint32_t events)
{
    struct flow_side *side = list_entry(handle, struct flow_side, poll);
    struct dial_attempt *attempt = &side->flow->dial->attempts[0];
    flow_side_note(side, events);
    if (attempt->outbound.state != OUTBOUND_CONNECTING || events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
        attempt_ready(attempt, events);
}

static void second_ready(struct poll_handle *handle, uint32_t events)
{
    struct dial_attempt *attempt = list_entry(handle, struct dial_attempt, own_poll);
    if (attempt->outbound.state != OUTBOUND_CONNECTING || events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
        attempt_ready(attempt, events);
}

static int attempt_connect(struct flow *flow, struct dial_attempt *attempt, const struct addr *address)
{
    bool speaks_first = buffer_length(&flow->up) > 0; /* and nobody looks at its certificate before */
    if (acl_policy_verify(flow->policy) == ACL_VERIFY_ALWAYS)
        speaks_first = false;
    _cleanup_fd_ int fd =
        outbound_open(&attempt->outbound, config_upstream(flow->worker->snapshot), address, speaks_first);
    if (fd < 0)
        return fd;
    attempt->flow = flow;
    attempt->address = *address;
    struct poll_handle *poll = attempt_poll(attempt);
    poll_handle_init(poll, attempt == &flow->dial->attempts[0] ? first_ready : second_ready);
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
    struct dial *dial = flow->dial;
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
        metrics_upstream_failed(flow->worker->metrics, r);
        dial->last_error = r;
        dial->last_problem = free_one->outbound.problem;
    }
    if (!dial->attempts[0].active && !dial->attempts[1].active)
        flow_deny(flow, ACL_CONNECT_FAILED,
                  dial->last_problem ? dial->last_problem : strerror(-dial->last_error));
}

/* ---- `verify_origin: always` ---- */

static void origin_drop(struct flow *flow)
{
    poller_close(&flow->worker->poller, &flow->origin.poll);
    flow->origin.readable = flow->origin.writable = flow->origin.hangup = flow->origin.finished = false;
}

static void decide_by_proof(struct flow *flow, const struct proof_result *result)
{
    flow_note_proof(flow, result);
    if (result->proven) {
        flow_connected(flow, &flow->dial->won);
        return;
    }
    origin_drop(flow);
    flow_deny(flow, ACL_DESTINATION_UNBOUND, result->reason);
}

static void on_proven(struct verify_waiter *waiter, const struct proof_result *result)
{
    decide_by_proof(list_entry(waiter, struct dial, verify)->flow, result);
}

/* Connected. Is the certificate of whoever answers there to be looked at before a byte goes up? Not where an
 * address rule allowed the flow: then the name proves nothing. */
static void prove_origin(struct flow *flow)
{
    struct worker *w = flow->worker;
    if (acl_policy_verify(flow->policy) != ACL_VERIFY_ALWAYS || flow->kind != FLOW_TLS ||
        !flow->name_length || flow->would_deny || (flow->binding && !strcmp(flow->binding, "address"))) {
        flow_connected(flow, &flow->dial->won);
        return;
    }
    const struct proof_result *known = verify_find(w->verifier, flow->name, &flow->dial->won);
    verify_waiter_init(&flow->dial->verify, on_proven);
    if (known)
        decide_by_proof(flow, known);
    else if (verify_start(w->verifier, flow->name, &flow->dial->won, &flow->dial->verify) < 0)
        decide_by_proof(flow, &(struct proof_result){.reason = "too many origins are being verified"});
}

void flow_note_proof(struct flow *flow, const struct proof_result *result)
{
    if (!flow->proof)
        flow->proof = malloc(sizeof(*flow->proof));
    if (flow->proof)
        *flow->proof = *result;
}

/* It did not connect, and the fault is not that of the site's proxy. */
static void note_dead(const struct dial_attempt *attempt)
{
    struct worker *w = attempt->flow->worker;
    if (config_upstream(w->snapshot)->kind == CONFIG_UPSTREAM_NONE)
        dead_addresses_note(&w->dead_addresses, &attempt->address, uv_now(&w->loop));
}

/* The winner's socket becomes the origin side; the other attempt goes. One that began earlier, and is outrun by the whole
 * stagger, is as good as dead. */
static void attempt_won(struct dial_attempt *winner)
{
    struct flow *flow = winner->flow;
    struct addr dialled = winner->address;
    struct poller *poller = &flow->worker->poller;
    winner->active = false;
    dead_addresses_forget(&flow->worker->dead_addresses, &dialled);
    if (winner == &flow->dial->attempts[1] && flow->dial->attempts[0].active)
        note_dead(&flow->dial->attempts[0]);
    if (winner == &flow->dial->attempts[1]) {
        int fd = winner->own_poll.fd;
        attempt_drop(&flow->dial->attempts[0]);
        poller_remove(poller, &winner->own_poll);
        poll_handle_init(&flow->origin.poll, flow_origin_ready);
        if (poller_add(poller, &flow->origin.poll, fd) < 0) {
            fd_close(&fd);
            flow_deny(flow, ACL_CONNECT_FAILED, "cannot watch the socket");
            return;
        }
    }
    flow->origin.poll.ready = flow_origin_ready;
    stop(flow->dial);
    flow->dial->won = dialled;
    prove_origin(flow);
}

static void attempt_ready(struct dial_attempt *attempt, uint32_t events)
{
    struct flow *flow = attempt->flow;
    int r = outbound_step(&attempt->outbound, attempt_poll(attempt)->fd, events);
    if (r > 0)
        attempt_won(attempt);
    if (r >= 0)
        return;
    metrics_upstream_failed(flow->worker->metrics, r);
    flow->dial->last_error = r;
    flow->dial->last_problem = attempt->outbound.problem;
    note_dead(attempt);
    attempt_drop(attempt);
    flow->origin.readable = flow->origin.writable = flow->origin.hangup = flow->origin.finished = false;
    dial_next(flow);
}

void dial_stagger_expired(struct deadline *deadline)
{
    dial_next(list_entry(deadline, struct dial, stagger)->flow);
}

void dial_start(struct flow *flow, const char *binding)
{
    if (binding)
        flow->binding = binding;
    flow->dial->next = 0;
    flow->dial->last_problem = NULL;
    dead_addresses_last(&flow->worker->dead_addresses, flow->dial->candidates, flow->dial->count,
                        uv_now(&flow->worker->loop));
    flow_set_state(flow, FLOW_CONNECT);
    dial_next(flow);
}
