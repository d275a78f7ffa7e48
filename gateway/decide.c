/*
 * From the first byte to the verdict: who is wanted, and does the policy allow it?
 *
 *   by name      the ClientHello or the request says it (web, https://, http:// rules), or DNS did (tcp://
 * rules) by address   nothing names anybody, or no rule names the name: a CIDR or port rule may still allow
 * the destination
 *
 * Where names are denied, a flow on a port that is read has to show its name: an address rule does not help
 * it out.
 */
#include "gateway/flow.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define READ_ROOM 2048 /* for the next read of a hello that comes in pieces */

/* From here on its bytes are nobody's business but the origin's. */
static void become_raw(struct flow *flow)
{
    flow->kind = FLOW_RAW;
    http_flow_destroy(flow);
}

static bool take_bound_name(const char *name, size_t length, void *arg)
{
    (void)flow_name(arg, name, length, ""); /* without memory it stays unnamed: it is only recorded */
    return false;
}

/* Audit mode lets a flow through that enforce would refuse: to where it was going, whatever it is called.
 * What names nobody itself is recorded under the name that DNS answered its address for: a tcp:// rule would
 * know it by that. */
void flow_pass_unjudged(struct flow *flow)
{
    if (flow->kind != FLOW_TLS && flow->kind != FLOW_HTTP && !flow->name_length)
        namebook_names(flow->worker->names, &flow->destination, uv_now(&flow->worker->loop), take_bound_name,
                       flow);
    if (flow->kind != FLOW_TLS && !(flow->kind == FLOW_HTTP && flow->name_length))
        become_raw(flow);
    flow_bind_destination(flow, NULL);
}

static void allow(struct flow *flow, const struct acl_verdict *verdict)
{
    flow->verdict = *verdict;
    flow->reason = verdict->reason;
}

/* The name is known and well-formed: what does the policy say? */
void flow_decide_by_name(struct flow *flow, enum acl_protocol protocol)
{
    struct acl_verdict verdict = protocol == ACL_HTTP
                                     ? http_flow_judge(flow)
                                     : acl_policy_judge_name(flow->policy, protocol, flow->name,
                                                             flow->name_length, flow->destination.port);
    flow->verdict = verdict;
    if (flow->ech_offered && acl_policy_ech_denied(flow->policy)) {
        flow_deny(flow, ACL_ECH_DENIED, NULL);
        return;
    }
    if (verdict.allowed) {
        allow(flow, &verdict);
        flow_bind(flow);
        return;
    }
    if (verdict.reason != ACL_RULE_DENY && verdict.reason != ACL_IP_LITERAL) {
        struct acl_verdict by_address = acl_policy_judge_address(flow->policy, &flow->destination);
        if (by_address.allowed) {
            allow(flow, &by_address);
            flow_bind_destination(flow, "address");
            return;
        }
    }
    flow_deny(flow, verdict.reason, verdict.detail);
}

/* Nothing names anybody, so only an address rule can allow it. */
static void decide_by_address(struct flow *flow, enum acl_reason reason, const char *detail)
{
    struct acl_verdict verdict = acl_policy_judge_address(flow->policy, &flow->destination);
    become_raw(flow);
    if (verdict.allowed) {
        allow(flow, &verdict);
        flow_bind_destination(flow, "address");
        return;
    }
    flow->verdict = verdict;
    flow_deny(flow, verdict.reason == ACL_RULE_DENY ? ACL_RULE_DENY : reason, detail);
}

/* On a port that is read: where names are denied, what does not show its name cannot be told from what is
 * denied. */
void flow_decide_unnamed(struct flow *flow, enum acl_reason reason, const char *detail)
{
    if (acl_policy_denies_names(flow->policy) ||
        !acl_policy_judge_address(flow->policy, &flow->destination).allowed)
        flow_deny(flow, reason, detail);
    else
        decide_by_address(flow, reason, detail);
}

struct bound_name {
    struct flow *flow;
    struct acl_verdict verdict;
    bool any, no_memory;
};

/* Keeps the verdict that counts: a denial before an allowance before nothing. */
static bool judge_bound_name(const char *name, size_t length, void *arg)
{
    struct bound_name *found = arg;
    struct flow *flow = found->flow;
    struct acl_verdict verdict =
        acl_policy_judge_name(flow->policy, ACL_TCP, name, length, flow->destination.port);
    bool denied = verdict.reason == ACL_RULE_DENY;
    if (!found->any || denied || (verdict.allowed && !found->verdict.allowed)) {
        found->no_memory = !flow_name(flow, name, length, "");
        found->verdict = verdict;
    }
    found->any = true;
    return !denied && !found->no_memory;
}

/* A port that a tcp:// rule opened: nothing is read, the name is what DNS answered this address for. Returns
 * false when that says neither yes nor no. */
static bool decide_by_binding(struct flow *flow)
{
    struct bound_name found = {.flow = flow};
    namebook_names(flow->worker->names, &flow->destination, uv_now(&flow->worker->loop), judge_bound_name,
                   &found);
    if (found.no_memory) {
        flow_deny_memory(flow);
        return true;
    }
    if (!found.any || found.verdict.reason == ACL_NO_RULE)
        return false;
    flow->kind = FLOW_RAW;
    flow->verdict = found.verdict;
    if (found.verdict.allowed) {
        allow(flow, &found.verdict);
        flow_bind(flow);
    } else {
        flow_deny(flow, found.verdict.reason, NULL);
    }
    return true;
}

void flow_decide_before_reading(struct flow *flow)
{
    unsigned use = acl_policy_port_use(flow->policy, flow->destination.port);
    if ((use & ACL_PORT_TCP_NAME) && decide_by_binding(flow))
        return;
    if (use & (ACL_PORT_TLS | ACL_PORT_HTTP)) {
        (void)flow_name(flow, "", 0, ""); /* the client will say it itself */
        return;
    }
    if (use & ACL_PORT_ADDRESS)
        decide_by_address(flow, flow->name_length ? ACL_NO_RULE : ACL_PORT_DENIED,
                          "no address rule names it");
    else if (use & ACL_PORT_TCP_NAME)
        flow_deny(flow, flow->name_length ? ACL_NO_RULE : ACL_DESTINATION_UNBOUND,
                  flow->name_length ? NULL : "no name that was looked up here has this address");
    else
        flow_deny(flow, ACL_PORT_DENIED, NULL);
}

static void sniff_tls(struct flow *flow)
{
    struct hello hello;
    switch (hello_feed(&flow->hello, flow->up.bytes, flow->up.end, &hello)) {
    case HELLO_MORE:
        return;
    case HELLO_BAD:
        flow->ech_offered = hello.ech_offered;
        (void)flow_name(flow, "", 0, hello.alpn);
        flow_decide_unnamed(flow, hello.reason, hello.detail);
        return;
    case HELLO_DONE:
        flow->ech_offered = hello.ech_offered;
        flow->client_waits = !flow->client.readable && hello.length == flow->up.end;
        if (flow_name(flow, hello.name, hello.name_length, hello.alpn))
            flow_decide_by_name(flow, ACL_TLS);
        else
            flow_deny_memory(flow);
        return;
    }
}

static void sniff_parse(struct flow *flow)
{
    unsigned use = acl_policy_port_use(flow->policy, flow->destination.port);
    if (flow->kind == FLOW_UNKNOWN) {
        if (flow->up.bytes[0] == 0x16 || flow->up.bytes[0] >= 0x80)
            flow->kind = FLOW_TLS;
        else if (http_gate_looks_like(flow->up.bytes, flow->up.end))
            flow->kind = FLOW_HTTP;
        else {
            flow_decide_unnamed(flow, use & ACL_PORT_TLS ? ACL_NOT_TLS : ACL_MALFORMED_HTTP,
                                "neither TLS nor HTTP");
            return;
        }
        if (flow->kind == FLOW_HTTP && !(use & ACL_PORT_HTTP)) {
            flow_decide_unnamed(flow, ACL_NOT_TLS, "plain HTTP on a port for TLS");
            return;
        }
    }
    if (flow->kind == FLOW_TLS)
        sniff_tls(flow);
    else
        http_flow_sniff(flow);
}

static void sniff_ended_early(struct flow *flow)
{
    if (flow->up.end == 0)
        flow_end(flow, AUDIT_CLOSE_CLIENT, "fin_before_hello", false);
    else
        flow_deny(flow, flow->kind == FLOW_HTTP ? ACL_MALFORMED_HTTP : ACL_MALFORMED_CLIENT_HELLO,
                  "the client closed before it was complete");
}

/* The first read goes into the worker's scratch, where almost every hello is whole and judged at once. Returns what recv() does. */
static ssize_t read_more(struct flow *flow)
{
    struct buffer *up = &flow->up;
    bool first = up->capacity == 0;
    uint8_t *at = first ? flow->worker->scratch : up->bytes + up->end;
    size_t room = first ? SCRATCH_SIZE : up->capacity - up->end;
    ssize_t got;
    do
        got = recv(flow->client.poll.fd, at, room, 0);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        return got;
    if ((size_t)got < room && !flow->client.hangup && !flow->client.urgent)
        flow->client.readable = false; /* a short read drained it: epoll(7) */
    if (first)
        buffer_borrow(up, at, (size_t)got);
    else
        up->end += (size_t)got;
    return got;
}

/* Read, and not refused: the bytes are for the origin, or wait for the rest. */
static void keep_bytes(struct flow *flow)
{
    bool more = flow->state == FLOW_SNIFF;
    bool waits = more || flow->state == FLOW_RESOLVE || flow->state == FLOW_CONNECT;
    if (waits && (more ? buffer_reserve(&flow->up, READ_ROOM) : buffer_keep(&flow->up)) < 0)
        flow_deny_memory(flow);
}

void flow_sniff(struct flow *flow)
{
    while (flow->state == FLOW_SNIFF && flow->client.readable) {
        if (buffer_length(&flow->up) > HELLO_MAX) {
            flow_deny(flow, ACL_HELLO_TOO_LARGE, NULL);
            return;
        }
        ssize_t got = read_more(flow);
        if (got < 0 && errno == EAGAIN) {
            flow->client.readable = false;
        } else if (got < 0) {
            flow_end(flow, AUDIT_CLOSE_CLIENT, "rst_before_hello", true);
        } else if (got == 0) {
            flow->client.eof = true;
            sniff_ended_early(flow);
            return;
        } else {
            sniff_parse(flow);
            keep_bytes(flow);
        }
    }
}
