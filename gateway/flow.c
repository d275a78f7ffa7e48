/*
 * The life of a flow up to its verdict, and its end. What happens between is in binding.c, dial.c, relay.c,
 * http_flow.c.
 */
#include "gateway/flow.h"
#include "gateway/inbound.h"
#include "base/fds.h"
#include "gateway/refusal.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define LINGER_DRAIN_MAX (256u * 1024)

static uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void flow_set_state(struct flow *flow, enum flow_state state)
{
    struct worker *w = flow->worker;
    if (flow->state == FLOW_SNIFF && state != FLOW_SNIFF)
        metrics_observe_sniff(w->metrics, monotonic_ns() - flow->started_ns);
    flow->state = state;
    switch (state) {
    case FLOW_SNIFF:
        deadline_start(&w->hello_timeouts, &flow->timer);
        break;
    case FLOW_RESOLVE:
    case FLOW_CONNECT:
        deadline_start(&w->connect_timeouts, &flow->timer);
        break;
    case FLOW_RELAY:
        metrics_observe_setup(w->metrics, monotonic_ns() - flow->started_ns);
        deadline_start(&w->idle_timeouts, &flow->timer);
        break;
    case FLOW_LINGER:
        deadline_start(&w->linger_timeouts, &flow->timer);
        break;
    case FLOW_ENDED:
        deadline_stop(&flow->timer);
        break;
    }
}

/* "%08x-%u" of prefix and serial, which are unique among all workers as the prefix is random. */
static void write_id(const struct flow *flow, char id[FLOW_ID_SIZE])
{
    char digits[20], *first = digits + sizeof(digits);
    uint64_t serial = flow->serial;
    for (int i = 0; i < 8; i++)
        id[i] = "0123456789abcdef"[flow->worker->id_prefix >> (28 - 4 * i) & 15];
    id[8] = '-';
    do
        *--first = (char)('0' + serial % 10);
    while (serial /= 10);
    size_t length = (size_t)(digits + sizeof(digits) - first);
    memcpy(id + 9, first, length);
    id[9 + length] = 0;
}

struct audit_event flow_event(const struct flow *flow, enum audit_action action, char id[FLOW_ID_SIZE])
{
    struct audit_event event = worker_event(flow->worker, flow->capture, flow->policy);
    write_id(flow, id);
    event.action = action;
    event.flow_id = id;
    event.start = flow->started;
    event.source = flow->source;
    event.destination = flow->destination;
    if (flow->dialled.family && !addr_equal_ip(&flow->dialled, &flow->destination))
        event.nat = flow->dialled;
    event.domain = flow->name;
    event.domain_length = flow->name_length;
    event.transport = "tcp";
    event.protocol = flow->kind == FLOW_TLS ? "tls" : flow->kind == FLOW_HTTP ? "http" : NULL;
    event.tls = flow->kind == FLOW_TLS;
    event.ech_offered = flow->ech_offered;
    event.alpn = flow->alpn;
    event.http_method = flow->method;
    event.reason = flow->reason;
    event.verdict = &flow->verdict;
    event.binding = flow->binding;
    event.inbound = flow->inbound != NULL;
    event.detail = flow->detail;
    event.would_deny = flow->would_deny;
    if (flow->proof) {
        event.certificate = flow->proof->proven ? "valid" : flow->proof->reason;
        event.certificate_issuer = flow->proof->issuer;
        event.certificate_end = flow->proof->not_after;
    }
    return event;
}

void flow_report_denied(struct flow *flow, const char *name, enum acl_reason reason)
{
    char what[ACL_NAME_MAX + ADDR_TEXT_MAX], address[ADDR_TEXT_MAX];
    addr_format_with_port(&flow->destination, address);
    if (*name)
        snprintf(what, sizeof(what), "%s:%u", name, flow->destination.port);
    else
        snprintf(what, sizeof(what), "%s", address);
    report_denied(flow->worker->report, what, reason);
}

bool flow_name(struct flow *flow, const char *name, size_t length, const char *alpn)
{
    size_t alpn_size = strlen(alpn) + 1;
    free(flow->texts);
    flow->name = flow->alpn = "";
    flow->name_length = 0;
    flow->texts = length || alpn_size > 1 ? malloc(length + 1 + alpn_size) : NULL;
    if (!flow->texts)
        return length == 0 && alpn_size == 1;
    memcpy(flow->texts, name, length);
    flow->texts[length] = 0;
    flow->name = flow->texts;
    flow->alpn = memcpy(flow->texts + length + 1, alpn, alpn_size);
    flow->name_length = (uint8_t)length;
    return true;
}

void flow_deny_memory(struct flow *flow)
{
    metric_add(&flow->worker->metrics->limits[METRICS_LIMIT_MEMORY], 1);
    flow_deny(flow, ACL_LIMIT_CONNECTIONS, "out of memory");
}

/* ---- the end ---- */

static void side_close(struct flow *flow, struct flow_side *side, bool reset)
{
    if (reset && side->poll.fd >= 0) {
        const struct linger now = {.l_onoff = 1, .l_linger = 0};
        setsockopt(side->poll.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    }
    poller_close(&flow->worker->poller, &side->poll);
}

/* Everything a flow holds but its memory, which the sweep at the end of the turn frees. */
static void flow_release(struct flow *flow, bool reset)
{
    flow_set_state(flow, FLOW_ENDED);
    lookup_cancel(flow->lookup);
    flow->lookup = NULL;
    dial_cancel(flow);
    inbound_forget(flow);
    side_close(flow, &flow->client, reset);
    side_close(flow, &flow->origin, reset);
    http_flow_destroy(flow);
    free(flow->texts);
    flow->texts = NULL;
    flow->name = flow->alpn = "";
    flow->name_length = 0;
    free(flow->proof);
    flow->proof = NULL;
    pipe_return(&flow->worker->pipes, flow->bulk_up.pipe);
    pipe_return(&flow->worker->pipes, flow->bulk_down.pipe);
    flow->bulk_up.pipe = flow->bulk_down.pipe = NULL;
    buffer_free(&flow->up);
    buffer_free(&flow->down);
    flow->capture->flows--;
    metric_set(&flow->worker->metrics->flows_active, --flow->worker->flow_count);
    list_remove(&flow->link);
    list_append(&flow->worker->ended_flows, &flow->link);
}

/* ---- refusal ---- */

/* Is this reason the policy's word (which audit-only mode overrides), or a fact that no mode changes? */
static bool reason_is_policy(enum acl_reason reason)
{
    switch (reason) {
    case ACL_DESTINATION_GUARDED:
    case ACL_DNS_FAILED:
    case ACL_CONNECT_FAILED:
    case ACL_LIMIT_CONNECTIONS:
    case ACL_LIMIT_RATE:
    case ACL_LOOP:
    case ACL_AUDIT_UNAVAILABLE:
    case ACL_HELLO_TIMEOUT:
    case ACL_HELLO_TOO_LARGE:
        return false;
    default:
        return true;
    }
}

/* What was said in words the client's protocol knows. Returns false when there are none: then a reset says
 * it. */
static bool refusal_send(struct flow *flow)
{
    char text[4096];
    ssize_t length = 0;
    if (flow->kind == FLOW_TLS) {
        refusal_alert(flow->reason, (uint8_t *)text);
        length = REFUSAL_ALERT_SIZE;
    } else if (flow->kind == FLOW_HTTP) {
        const struct refusal r = {.name = flow->name,
                                  .port = flow->destination.port,
                                  .reason = flow->reason,
                                  .detail = flow->detail,
                                  .policy = flow->policy,
                                  .verdict = &flow->verdict};
        length = refusal_http(&r, strcmp(flow->method, "HEAD") == 0, text, sizeof(text));
    }
    if (length <= 0)
        return false;
    /* A FIN follows at once: MSG_MORE lets them share a packet. */
    return send(flow->client.poll.fd, text, (size_t)length, MSG_NOSIGNAL | MSG_MORE) == length;
}

static void drain(struct flow *flow)
{
    struct flow_side *client = &flow->client;
    while (client->readable) {
        ssize_t got = recv(client->poll.fd, flow->worker->scratch, SCRATCH_SIZE, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN) {
            client->readable = false;
            return;
        }
        if (got <= 0 || (flow->bytes_up += (uint64_t)got) > LINGER_DRAIN_MAX) {
            flow_release(flow, false);
            return;
        }
    }
}

/* The refusal is out: close gently, so that it is not lost to a reset, but not for long. */
static void linger(struct flow *flow)
{
    lookup_cancel(flow->lookup);
    flow->lookup = NULL;
    dial_cancel(flow);
    side_close(flow, &flow->origin, false);
    flow->bytes_up = 0; /* counts what is drained now */
    shutdown(flow->client.poll.fd, SHUT_WR);
    flow_set_state(flow, FLOW_LINGER);
    drain(flow);
}

/* The end event, once for every flow that was let through. */
static void write_end(struct flow *flow, enum audit_close_by by, const char *why)
{
    char id[FLOW_ID_SIZE];
    struct audit_event event = flow_event(flow, AUDIT_FLOW_END, id);
    event.duration_ns = monotonic_ns() - flow->started_ns;
    event.bytes_sent = flow->bytes_up;
    event.bytes_received = flow->bytes_down;
    event.allowed = flow->decided;
    event.close_by = by;
    event.close_reason = why;
    audit_submit(flow->worker->audit, &event);
}

void flow_end(struct flow *flow, enum audit_close_by by, const char *why, bool reset)
{
    if (flow->state == FLOW_ENDED)
        return;
    if (flow->state != FLOW_LINGER) /* a refused flow has had its last event */
        write_end(flow, by, why);
    flow_release(flow, reset);
}

void flow_finish_refused(struct flow *flow)
{
    write_end(flow, AUDIT_CLOSE_GATEWAY, "request_denied");
    linger(flow);
}

void flow_deny(struct flow *flow, enum acl_reason reason, const char *detail)
{
    char id[FLOW_ID_SIZE];
    if (detail)
        flow->detail = detail;
    flow->reason = reason;
    flow_report_denied(flow, flow->name, reason);
    if (worker_only_records(flow->worker, flow->policy) && reason_is_policy(reason) && !flow->would_deny) {
        flow->would_deny = true;
        flow_pass_unjudged(flow);
        return;
    }
    struct audit_event event = flow_event(flow, AUDIT_FLOW_DECISION, id);
    event.would_deny = false;
    audit_submit(flow->worker->audit, &event);
    bool said = refusal_send(flow);
    if (said && !flow->client_waits)
        linger(flow);
    else
        flow_release(flow, !said);
}

/* ---- events ---- */

/* The urgent byte is one of many, in its place: what it means is between the ends. */
static void note_urgent(struct flow_side *side)
{
    static const int on = 1;
    side->urgent = true;
    (void)setsockopt(side->poll.fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on));
}

void flow_side_note(struct flow_side *side, uint32_t events)
{
    if ((events & EPOLLPRI) && !side->urgent)
        note_urgent(side);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP))
        side->readable = true;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        side->hangup = true;
    side->finished = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) == EPOLLRDHUP;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        side->writable = true;
}

/* While waiting for DNS or the origin nothing is read, but a client that reset its connection need not be
 * served. */
static void check_client_alive(struct flow *flow, uint32_t events)
{
    if (events & (EPOLLERR | EPOLLHUP))
        flow_end(flow, AUDIT_CLOSE_CLIENT, "rst_before_connect", true);
}

/* A reset shows itself to whoever reads; when nobody can, because the other side is full, it is passed on
 * here. */
static void relay_after(struct flow_side *side, uint32_t events)
{
    struct flow *flow = side->flow;
    relay_run(flow);
    if ((events & EPOLLERR) && flow->state == FLOW_RELAY)
        flow_end(flow, side == &flow->client ? AUDIT_CLOSE_CLIENT : AUDIT_CLOSE_ORIGIN, "rst", true);
}

void flow_client_ready(struct poll_handle *handle, uint32_t events)
{
    struct flow_side *side = list_entry(handle, struct flow_side, poll);
    struct flow *flow = side->flow;
    flow_side_note(side, events);
    switch (flow->state) {
    case FLOW_SNIFF:
        flow_sniff(flow);
        break;
    case FLOW_RESOLVE:
    case FLOW_CONNECT:
        check_client_alive(flow, events);
        break;
    case FLOW_RELAY:
        relay_after(side, events);
        break;
    case FLOW_LINGER:
        drain(flow);
        break;
    case FLOW_ENDED:
        break;
    }
}

void flow_origin_ready(struct poll_handle *handle, uint32_t events)
{
    struct flow_side *side = list_entry(handle, struct flow_side, poll);
    flow_side_note(side, events);
    if (side->flow->state == FLOW_RELAY)
        relay_after(side, events);
}

void flow_connected(struct flow *flow, const struct addr *dialled)
{
    char id[FLOW_ID_SIZE];
    flow->dialled = *dialled;
    dial_cancel(flow);
    flow->origin.writable = true;
    struct audit_event event = flow_event(flow, AUDIT_FLOW_DECISION, id);
    event.allowed = true;
    if (audit_submit(flow->worker->audit, &event) < 0) {
        flow_deny(flow, ACL_AUDIT_UNAVAILABLE, NULL);
        return;
    }
    flow->decided = true;
    flow_set_state(flow, FLOW_RELAY);
    if (flow->kind == FLOW_HTTP)
        http_flow_allowed(flow);
    relay_run(flow);
}

void flow_hello_expired(struct deadline *deadline)
{
    struct flow *flow = list_entry(deadline, struct flow, timer);
    if (flow->up.end)
        flow_deny(flow, ACL_HELLO_TIMEOUT, "the client did not finish naming its destination");
    else
        flow_decide_unnamed(flow, ACL_HELLO_TIMEOUT, "silence");
}

void flow_connect_expired(struct deadline *deadline)
{
    struct flow *flow = list_entry(deadline, struct flow, timer);
    bool resolving = flow->state == FLOW_RESOLVE;
    metric_add(&flow->worker->metrics->upstream_errors[resolving ? METRICS_NO_NAME : METRICS_TIMEOUT], 1);
    flow_deny(flow, resolving ? ACL_DNS_FAILED : ACL_CONNECT_FAILED, "timed out");
}

/* Fires between one and two durations after the last byte: activity is a flag, not a list operation per read.
 */
static void expire_or_restart(struct flow *flow, struct deadline_queue *queue, const char *why)
{
    if (flow->active) {
        flow->active = false;
        deadline_start(queue, &flow->timer);
        return;
    }
    flow_end(flow, AUDIT_CLOSE_GATEWAY, why, true);
}

void flow_idle_expired(struct deadline *deadline)
{
    struct flow *flow = list_entry(deadline, struct flow, timer);
    expire_or_restart(flow, &flow->worker->idle_timeouts, "idle_timeout");
}

void flow_half_close_expired(struct deadline *deadline)
{
    struct flow *flow = list_entry(deadline, struct flow, timer);
    expire_or_restart(flow, &flow->worker->half_close_timeouts, "half_close_timeout");
}

void flow_linger_expired(struct deadline *deadline)
{
    flow_release(list_entry(deadline, struct flow, timer), false);
}

/* ---- the beginning ---- */

static void side_init(struct flow *flow, struct flow_side *side,
                      void (*ready)(struct poll_handle *handle, uint32_t events))
{
    poll_handle_init(&side->poll, ready);
    side->flow = flow;
}

static struct flow *flow_create(struct capture *capture, const struct addr *source)
{
    struct worker *w = capture->worker;
    struct flow *flow = slab_take(&w->flow_slab);
    if (!flow)
        return NULL;
    flow->worker = w;
    flow->capture = capture;
    flow->policy = capture->policy;
    flow->source = *source;
    flow->name = flow->alpn = "";
    flow->serial = ++w->flow_serial;
    clock_gettime(CLOCK_REALTIME, &flow->started);
    flow->started_ns = monotonic_ns();
    hello_reader_init(&flow->hello);
    deadline_init(&flow->timer);
    side_init(flow, &flow->client, flow_client_ready);
    side_init(flow, &flow->origin, flow_origin_ready);
    flow->judged = w->judgement;
    list_append(&w->flows, &flow->link);
    capture->flows++;
    metric_set(&w->metrics->flows_active, ++w->flow_count);
    metric_add(&w->metrics->flows, 1);
    return flow;
}

static bool within_limits(struct flow *flow)
{
    const struct worker *w = flow->worker;
    const struct acl_limits *own = acl_policy_limits(flow->policy);
    unsigned flows = own->flows ? own->flows : w->limits->flows_per_container;
    if (flow->capture->flows > flows) {
        metric_add(&w->metrics->limits[METRICS_LIMIT_CONTAINER_FLOWS], 1);
        flow_deny(flow, ACL_LIMIT_CONNECTIONS, "flows of this container");
    } else if (!rate_take(&flow->capture->flow_rate, own->flows_per_second ? own->flows_per_second : w->limits->flows_per_second,
                          uv_now(&w->loop))) {
        flow->capture->flows_over_rate++;
        metric_add(&w->metrics->limits[METRICS_LIMIT_FLOW_RATE], 1);
        metric_add(&w->metrics->limits[METRICS_LIMIT_NEW_FLOWS], 1);
        flow_deny(flow, ACL_LIMIT_RATE, "new flows of this container, in this second");
    } else if (worker_is_full(w)) {
        metric_add(&w->metrics->limits[METRICS_LIMIT_TOTAL_FLOWS], 1);
        flow_deny(flow, ACL_LIMIT_CONNECTIONS, "flows in total");
    } else if (!audit_ready(w->audit)) {
        flow_deny(flow, ACL_AUDIT_UNAVAILABLE, NULL);
    } else {
        flow->capture->flows_over_rate = 0;
        return true;
    }
    return false;
}

/* What is checked before the first byte. Returns false when the flow was refused. */
static bool admit(struct flow *flow, const struct capture_listener *listener)
{
    int r = capture_destination(listener, flow->client.poll.fd, &flow->destination);
    if (r < 0) {
        flow->destination = listener->local;
        flow_deny(flow, ACL_LOOP, r == -ELOOP ? "the gateway itself was dialled" : "no original destination");
        return false;
    }
    return within_limits(flow);
}

struct flow *flow_start_inbound(struct capture *capture, int fd, const struct addr *source, const struct addr *destination,
                                struct inbound *inbound)
{
    struct flow *flow = flow_create(capture, source);
    if (!flow) {
        free(inbound);
        close(fd);
        return NULL;
    }
    flow->inbound = inbound;
    flow->destination = *destination;
    flow->kind = FLOW_RAW;
    flow->binding = "published";
    flow->verdict = (struct acl_verdict){.allowed = true, .reason = ACL_RULE_ALLOW};
    flow->reason = ACL_RULE_ALLOW;
    flow_set_state(flow, FLOW_CONNECT);
    if (poller_add(&capture->worker->poller, &flow->client.poll, fd) < 0) {
        flow->client.poll.fd = fd;
        flow_end(flow, AUDIT_CLOSE_GATEWAY, "no_poll", true);
        return NULL;
    }
    flow->client.writable = true;
    return within_limits(flow) ? flow : NULL;
}

void flow_start(struct capture *capture, const struct capture_listener *listener, int fd,
                const struct addr *source)
{
    struct flow *flow = flow_create(capture, source);
    if (!flow) {
        close(fd);
        return;
    }
    flow_set_state(flow, FLOW_SNIFF);
    if (poller_add(&capture->worker->poller, &flow->client.poll, fd) < 0) {
        flow->client.poll.fd = fd;
        flow_end(flow, AUDIT_CLOSE_GATEWAY, "no_poll_before_a_verdict", true);
        return;
    }
    if (!admit(flow, listener))
        return;
    flow->client.writable = true; /* `readable` epoll says at once, if it is */
    flow_decide_before_reading(flow);
}
