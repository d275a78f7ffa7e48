/*
 * Plain HTTP: every request of a connection is judged, not the first alone.
 *
 * Client bytes collect in `up`; the gate says what they are. What was judged is `released` and may go to the
 * origin; what was not, stays. Answers are followed so that a refusal of the third request comes behind the
 * answers to the first two, and so that a WebSocket tunnel opens only when the origin answered 101.
 *
 * A later request may name another allowed host on the same connection. It goes to the address this
 * connection has, so that address must belong to that name as well: known from DNS, or looked up; else it is
 * refused.
 */
#include "gateway/flow.h"
#include "gateway/refusal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define READ_ROOM 16384

void http_flow_destroy(struct flow *flow)
{
    if (!flow->http)
        return;
    http_gate_destroy(flow->http->gate);
    http_answers_destroy(flow->http->answers);
    free(flow->http);
    flow->http = NULL;
}

static int http_flow_create(struct flow *flow)
{
    struct http_flow *http = calloc(1, sizeof(*http));
    if (!http)
        return -ENOMEM;
    flow->http = http;
    http->gate = http_gate_create(flow->destination.port);
    http->answers = http_answers_create();
    if (http->gate && http->answers)
        return 0;
    http_flow_destroy(flow);
    return -ENOMEM;
}

static bool take_name(struct flow *flow, const struct http_request *request)
{
    memcpy(flow->method, request->method, sizeof(flow->method));
    return flow_name(flow, request->host, request->host_length, "");
}

void http_flow_sniff(struct flow *flow)
{
    size_t consumed = 0;
    if (!flow->http && http_flow_create(flow) < 0) {
        flow_deny_memory(flow);
        return;
    }
    struct http_flow *http = flow->http;
    enum http_gate_event event =
        http_gate_feed(http->gate, flow->up.bytes + flow->up.start, buffer_length(&flow->up), &consumed);
    if (event == HTTP_GATE_MORE) {
        flow->up.start += consumed; /* blank lines before a request line */
    } else if (event == HTTP_GATE_REQUEST) {
        http->head_length = consumed;
        if (take_name(flow, http_gate_request(http->gate)))
            flow_decide_by_name(flow, ACL_HTTP);
        else
            flow_deny_memory(flow);
    } else {
        flow_decide_unnamed(flow, http_gate_reason(http->gate), http_gate_detail(http->gate));
    }
}

/* The head at `head` was read to its end. */
static struct acl_verdict judge_request(const struct flow *flow, const uint8_t *head)
{
    const struct http_request *request = http_gate_request(flow->http->gate);
    struct acl_request asked = {.name = request->host,
                                .name_length = request->host_length,
                                .port = flow->destination.port,
                                .method = request->method,
                                .target = "/",
                                .target_length = 1};
    if (request->target_length) {
        asked.target = (const char *)head + request->target_at;
        asked.target_length = request->target_length;
    }
    return acl_policy_judge_request(flow->policy, &asked);
}

struct acl_verdict http_flow_judge(const struct flow *flow)
{
    return judge_request(flow, flow->up.bytes + flow->up.start);
}

/* A head was judged and may go, if the list of outstanding answers has room. */
static void release_head(struct flow *flow)
{
    struct http_flow *http = flow->http;
    const struct http_request *request = http_gate_request(http->gate);
    http->head_pending = http_answers_expect(http->answers, request->is_head, request->upgrade) < 0;
    if (!http->head_pending)
        http->released += http->head_length;
}

void http_flow_allowed(struct flow *flow)
{
    release_head(flow);
}

/* ---- refusing a later request ---- */

/* `request` is NULL when it could not be read. */
static void refuse(struct flow *flow, const struct http_request *request, enum acl_reason reason,
                   const char *detail, const struct acl_verdict *verdict)
{
    struct http_flow *http = flow->http;
    char id[FLOW_ID_SIZE];
    struct audit_event event = flow_event(flow, AUDIT_HTTP_REQUEST, id);
    http->refusing = true;
    http->refusal_reason = reason;
    http->refusal_detail = detail;
    http->refusal_verdict = verdict ? *verdict : (struct acl_verdict){.reason = reason};
    http->refusal_head = request && request->is_head;
    strcpy(http->refusal_name, request ? request->host : "");
    event.domain = http->refusal_name;
    event.domain_length = strlen(http->refusal_name);
    event.reason = reason;
    event.detail = detail;
    event.verdict = &http->refusal_verdict;
    event.http_method = request ? request->method : NULL;
    audit_submit(flow->worker->audit, &event);
    flow_report_denied(flow, http->refusal_name, reason);
}

static bool refusal_due(const struct flow *flow)
{
    const struct http_flow *http = flow->http;
    return http->refusing && http_answers_outstanding(http->answers) == 0 &&
           !http_answers_lost(http->answers) && buffer_length(&flow->down) == 0;
}

void http_flow_after_down(struct flow *flow)
{
    struct http_flow *http = flow->http;
    char text[4096];
    if (!http->refusing)
        return;
    if (!refusal_due(flow)) {
        /* An answer that cannot be followed ends when its origin says so; nothing can be said behind it. */
        if (flow->origin.eof && buffer_length(&flow->down) == 0)
            flow_end(flow, AUDIT_CLOSE_GATEWAY, "request_denied", false);
        return;
    }
    const struct refusal r = {.name = http->refusal_name,
                              .port = flow->destination.port,
                              .reason = http->refusal_reason,
                              .detail = http->refusal_detail,
                              .policy = flow->policy,
                              .verdict = &http->refusal_verdict};
    ssize_t length = refusal_http(&r, http->refusal_head, text, sizeof(text));
    if (length > 0 && send(flow->client.poll.fd, text, (size_t)length, MSG_NOSIGNAL) == length)
        flow_finish_refused(flow);
    else
        flow_end(flow, AUDIT_CLOSE_GATEWAY, "request_denied", true);
}

/* ---- judging a later request ---- */

static void release_or_continue(struct flow *flow)
{
    release_head(flow);
    relay_run(flow);
}

static void on_looked_up(void *arg, int status, const struct lookup_addresses *found)
{
    struct flow *flow = arg;
    struct worker *w = flow->worker;
    const struct http_request *request = http_gate_request(flow->http->gate);
    bool among = false;
    flow->lookup = NULL;
    flow->http->waits_binding = false;
    for (size_t i = 0; status == 0 && i < found->count; i++)
        among |= addr_equal_ip(&found->addresses[i], &flow->dialled);
    if (among) {
        namebook_learn(w->names, request->host, request->host_length, &flow->dialled, found->ttl,
                       uv_now(&w->loop));
        release_or_continue(flow);
        return;
    }
    refuse(flow, request, status == 0 ? ACL_DESTINATION_UNBOUND : ACL_DNS_FAILED,
           "this connection goes to an address that the name does not have", NULL);
    relay_run(flow);
}

/* Does the connection's address belong to the name of this request too? */
static void check_binding(struct flow *flow, const struct http_request *request)
{
    struct worker *w = flow->worker;
    if (acl_policy_bind(flow->policy) == ACL_BIND_OFF || flow->would_deny ||
        namebook_knows(w->names, request->host, request->host_length, &flow->dialled, uv_now(&w->loop))) {
        release_head(flow);
        return;
    }
    flow->lookup = lookup_start(w->forwarder, request->host, on_looked_up, flow);
    if (flow->lookup)
        flow->http->waits_binding = true;
    else
        refuse(flow, request, ACL_DNS_FAILED, "no name server answered", NULL);
}

static bool same_name(const struct flow *flow, const struct http_request *request)
{
    return request->host_length == flow->name_length && !memcmp(request->host, flow->name, flow->name_length);
}

/* Audit mode: it would be denied, and goes. */
static void record_denial(struct flow *flow, const struct http_request *request,
                          const struct acl_verdict *verdict)
{
    char id[FLOW_ID_SIZE];
    struct audit_event event = flow_event(flow, AUDIT_HTTP_REQUEST, id);
    event.allowed = event.would_deny = true;
    event.reason = verdict->reason;
    event.verdict = verdict;
    event.domain = request->host;
    event.domain_length = request->host_length;
    event.http_method = request->method;
    event.detail = verdict->detail;
    audit_submit(flow->worker->audit, &event);
}

/* An address rule lets through whatever is said on the way to the address: the one that was dialled. */
static bool address_allows(const struct flow *flow, const struct acl_verdict *by_name)
{
    return by_name->reason != ACL_RULE_DENY && by_name->reason != ACL_IP_LITERAL &&
           acl_policy_judge_address(flow->policy, &flow->dialled).allowed;
}

static void judge(struct flow *flow, const uint8_t *head)
{
    const struct http_request *request = http_gate_request(flow->http->gate);
    if (http_answers_lost(flow->http->answers)) {
        refuse(flow, request, ACL_MALFORMED_HTTP, "the origin's answer before it could not be followed",
               NULL);
        return;
    }
    bool same = same_name(flow, request);
    if (same && !acl_policy_judges_requests(flow->policy)) {
        release_head(flow);
        return;
    }
    struct acl_verdict verdict = judge_request(flow, head);
    if (verdict.allowed && !same) {
        check_binding(flow, request);
    } else if (verdict.allowed || address_allows(flow, &verdict)) {
        release_head(flow);
    } else if (worker_only_records(flow->worker, flow->policy)) {
        record_denial(flow, request, &verdict);
        release_head(flow);
    } else {
        refuse(flow, request, verdict.reason, verdict.detail, &verdict);
    }
}

/* Judge what has been read, as far as it can be. */
static void judge_buffered(struct flow *flow)
{
    struct http_flow *http = flow->http;
    while (!http->refusing && !http->waits_binding && !http->waits_upgrade) {
        size_t consumed = 0, at = flow->up.start + http->released;
        if (http->head_pending) {
            release_head(flow);
            if (http->head_pending)
                return;
            continue;
        }
        enum http_gate_event event =
            http_gate_feed(http->gate, flow->up.bytes + at, flow->up.end - at, &consumed);
        switch (event) {
        case HTTP_GATE_MORE:
            http->released += consumed;
            return;
        case HTTP_GATE_REQUEST:
            http->head_length = consumed;
            judge(flow, flow->up.bytes + at);
            break;
        case HTTP_GATE_BODY:
            http->released += consumed;
            break;
        case HTTP_GATE_END:
            http->released += consumed;
            http->waits_upgrade = http_gate_request(http->gate)->upgrade;
            break;
        case HTTP_GATE_BAD:
            refuse(flow, NULL, http_gate_reason(http->gate), http_gate_detail(http->gate), NULL);
            break;
        }
    }
}

void http_flow_up(struct flow *flow)
{
    struct http_flow *http = flow->http;
    struct buffer *up = &flow->up;
    for (int turn = 0; turn < 16; turn++) {
        judge_buffered(flow);
        size_t before = up->start;
        int flushed = relay_flush(flow, &flow->origin, up, http->released, &flow->bytes_up);
        if (flushed < 0)
            return;
        http->released -= up->start - before;
        if (flushed == 0 || http->refusing || http->waits_binding || http->waits_upgrade ||
            http->head_pending)
            return;
        if (flow->client.eof) {
            relay_shut(&flow->origin);
            return;
        }
        if (!flow->client.readable)
            return;
        if (buffer_length(up) == 0)
            buffer_free(up);
        if (buffer_reserve(up, READ_ROOM) < 0) {
            flow_end(flow, AUDIT_CLOSE_GATEWAY, "out_of_memory", true);
            return;
        }
        ssize_t got = relay_read(flow, &flow->client, up->bytes + up->end, up->capacity - up->end);
        if (got < 0)
            return;
        up->end += (size_t)got;
    }
    poller_again(&flow->worker->poller, &flow->client.poll);
}

/* ---- answers ---- */

static void open_tunnel(struct flow *flow)
{
    flow->http->tunnel = true;
    flow->http->waits_upgrade = false;
    flow->http->released = 0; /* from here on `up` is relayed as it is */
    poller_again(&flow->worker->poller, &flow->client.poll);
}

void http_flow_observe(struct flow *flow, const uint8_t *bytes, size_t length)
{
    struct http_flow *http = flow->http;
    size_t at = 0;
    while (!http->tunnel && !http_answers_lost(http->answers)) {
        size_t consumed = 0;
        switch (http_answers_feed(http->answers, bytes + at, length - at, &consumed)) {
        case HTTP_ANSWERS_MORE:
            return;
        case HTTP_ANSWERS_END:
            poller_again(&flow->worker->poller,
                         &flow->client.poll); /* room for another request, or a refusal is due */
            break;
        case HTTP_ANSWERS_SWITCHED:
            open_tunnel(flow);
            return;
        case HTTP_ANSWERS_REFUSED:
            http->waits_upgrade = false;
            http_gate_upgrade_refused(http->gate);
            poller_again(&flow->worker->poller, &flow->client.poll);
            break;
        case HTTP_ANSWERS_LOST:
            return;
        }
        at += consumed;
    }
}
