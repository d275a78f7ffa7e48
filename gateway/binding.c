/*
 * Binding: does the address that was dialled belong to the name that was claimed? (DESIGN section 6.)
 *
 *   dns          our DNS service answered this address for this name                        → dial it
 *   resolved     the gateway looks the name up itself and finds the address                 → dial it
 *   certificate  `verify_origin`: who answers there has a certificate for the name (TLS)    → dial it
 *   redialled    none of these: dial an address that the name does have (`bind: redial`),
 *                or refuse (`bind: strict`)
 *   off          `bind: off`, for labs: believed
 *   address      an address rule allowed the destination, whatever its name
 *
 * Whatever is dialled passes the address guard first; the name's other addresses stand by for when the first
 * is dead. With `verify_origin: always` the address that answered is proven besides (dial.c).
 */
#include "gateway/flow.h"
#include "acl/guard.h"

#include <errno.h>
#include <string.h>

/* May it be dialled? The guard's word holds in every mode; a deny rule's, unless this flow is only recorded.
 * What refused it last is remembered, in case nothing is left. */
static bool may_dial(struct flow *flow, const struct addr *candidate)
{
    struct dial *dial = flow->dial;
    struct acl_verdict verdict = acl_policy_judge_address(flow->policy, candidate);
    const char *guarded = worker_guard(flow->worker, flow->policy, candidate);
    if (guarded) {
        dial->refused = ACL_DESTINATION_GUARDED;
        dial->refused_range = guarded;
        return false;
    }
    if (verdict.reason == ACL_RULE_DENY && !flow->would_deny) {
        dial->refused = ACL_RULE_DENY;
        flow->verdict = verdict;
        return false;
    }
    return true;
}

/* Adds `address` (with the flow's port) unless it is there already or may not be dialled. */
static void add_candidate(struct flow *flow, const struct addr *address)
{
    struct dial *dial = flow->dial;
    struct addr candidate = *address;
    candidate.port = flow->destination.port;
    if (dial->count == DIAL_CANDIDATES_MAX || !may_dial(flow, &candidate))
        return;
    for (size_t i = 0; i < dial->count; i++)
        if (addr_equal(&dial->candidates[i], &candidate))
            return;
    dial->candidates[dial->count++] = candidate;
}

/* RFC 8305 section 4: families alternate, beginning with the one the client chose. */
static void add_alternating(struct flow *flow, const struct addr *addresses, size_t count)
{
    size_t at[2] = {0, 0};
    const int family[2] = {flow->destination.family,
                           flow->destination.family == AF_INET ? AF_INET6 : AF_INET};
    for (size_t turn = 0; at[0] < count || at[1] < count; turn++) {
        size_t *next = &at[turn % 2];
        while (*next < count && addresses[*next].family != family[turn % 2])
            (*next)++;
        if (*next < count)
            add_candidate(flow, &addresses[(*next)++]);
    }
}

static void dial_or_deny(struct flow *flow, const char *binding)
{
    if (flow->dial->count)
        dial_start(flow, binding);
    else if (flow->dial->refused == ACL_RULE_DENY)
        flow_deny(flow, ACL_RULE_DENY, "its address");
    else
        flow_deny(flow, ACL_DESTINATION_GUARDED, flow->dial->refused_range);
}

void flow_bind_destination(struct flow *flow, const char *binding)
{
    if (!dial_begin(flow))
        return;
    add_candidate(flow, &flow->destination);
    dial_or_deny(flow, binding);
}

static void deny_unresolved(struct flow *flow, int status)
{
    metric_add(&flow->worker->metrics->upstream_errors[METRICS_NO_NAME], 1);
    flow_deny(flow, ACL_DNS_FAILED,
              status == -ENOENT ? "the name has no address" : resolver_failure_text(status));
}

/* Neither DNS nor the certificate says that the address is the name's. */
static void bind_unproven(struct flow *flow)
{
    if (flow->dial->last_error < 0)
        deny_unresolved(flow, flow->dial->last_error);
    else if (acl_policy_bind(flow->policy) == ACL_BIND_STRICT)
        flow_deny(flow, ACL_DESTINATION_UNBOUND, "the name does not have the address that was dialled");
    else
        dial_or_deny(flow, "redialled");
}

static void bind_by_certificate(struct flow *flow, const struct proof_result *result)
{
    flow_note_proof(flow, result);
    if (result->proven) {
        flow_bind_destination(flow, "certificate");
        return;
    }
    bind_unproven(flow);
}

static void on_verified(struct verify_waiter *waiter, const struct proof_result *result)
{
    bind_by_certificate(list_entry(waiter, struct dial, verify)->flow, result);
}

/* The candidates are those of the name; the destination is not among them. */
static void bind_otherwise(struct flow *flow)
{
    struct worker *w = flow->worker;
    bool may = acl_policy_verify(flow->policy) != ACL_VERIFY_OFF && flow->kind == FLOW_TLS &&
               worker_may_dial(w, flow->policy, &flow->destination) &&
               acl_policy_judge_address(flow->policy, &flow->destination).reason != ACL_RULE_DENY;
    const struct proof_result *known = may ? verify_find(w->verifier, flow->name, &flow->destination) : NULL;
    verify_waiter_init(&flow->dial->verify, on_verified);
    if (known)
        bind_by_certificate(flow, known);
    else if (!may || verify_start(w->verifier, flow->name, &flow->destination, &flow->dial->verify) < 0)
        bind_unproven(flow);
}

static void on_looked_up(void *arg, int status, const struct lookup_addresses *found)
{
    struct flow *flow = arg;
    struct worker *w = flow->worker;
    bool among = false;
    flow->lookup = NULL;
    flow->dial->last_error = status;
    if (status < 0) {
        bind_otherwise(flow);
        return;
    }
    for (size_t i = 0; i < found->count; i++) {
        among |= addr_equal_ip(&found->addresses[i], &flow->destination);
        if (worker_may_dial(w, flow->policy, &found->addresses[i]))
            namebook_learn(w->names, flow->name, flow->name_length, &found->addresses[i], found->ttl,
                           uv_now(&w->loop));
    }
    if (among)
        add_candidate(flow, &flow->destination);
    add_alternating(flow, found->addresses, found->count);
    if (among)
        dial_or_deny(flow, "resolved");
    else
        bind_otherwise(flow);
}

void flow_bind(struct flow *flow)
{
    struct worker *w = flow->worker;
    uint64_t now = uv_now(&w->loop);
    if (!dial_begin(flow))
        return;
    if (acl_policy_bind(flow->policy) == ACL_BIND_OFF) {
        flow_bind_destination(flow, "off");
        return;
    }
    if (namebook_knows(w->names, flow->name, flow->name_length, &flow->destination, now)) {
        struct addr others[DIAL_CANDIDATES_MAX];
        size_t count =
            namebook_addresses(w->names, flow->name, flow->name_length, now, others, DIAL_CANDIDATES_MAX);
        add_candidate(flow, &flow->destination);
        add_alternating(flow, others, count);
        dial_or_deny(flow, "dns");
        return;
    }
    flow_set_state(flow, FLOW_RESOLVE);
    flow->lookup = lookup_start(w->forwarder, flow->name, on_looked_up, flow);
    if (!flow->lookup)
        deny_unresolved(flow, -ENOBUFS);
}
