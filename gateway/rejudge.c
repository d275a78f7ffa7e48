/*
 * A new snapshot is in force from one moment to the next: for every new flow, every question to the name service and every packet.
 * The flows that are up get the policy that their container now has, and a verdict of it, or end: one that the new policy
 * denies is reset at once (reason policy_changed), one that it still allows never notices.
 *
 * A flow of plain HTTP is judged by the name that it is connected to; its further requests are judged as they come.
 *
 * Thousands of flows would keep the loop from serving, so they are judged in turns of a few milliseconds. The number of the
 * latest judgement is in the worker, that of its own in each flow: those of older ones are at the head of the list of flows,
 * because new flows and judged ones go to its end. Old snapshots are kept until no flow is of them, then freed beside the loop;
 * only then is the monitor answered.
 */
#include "gateway/rejudge.h"

#include "config/overrides.h"
#include "gateway/flow.h"
#include "gateway/tenants.h"

#include <stdlib.h>

#define TURN_NS 2000000
#define FLOWS_BETWEEN_LOOKS 16 /* at the clock */

/* A snapshot that was replaced, and whom to tell when no flow is of it. */
struct replaced {
    struct list link;
    struct config_snapshot *snapshot;
    uint32_t serial;
};

static struct acl_verdict judge_again(const struct flow *flow)
{
    static const enum acl_protocol protocol[] = {
        [FLOW_UNKNOWN] = ACL_TCP, [FLOW_TLS] = ACL_TLS, [FLOW_HTTP] = ACL_HTTP, [FLOW_RAW] = ACL_TCP};
    const struct acl_policy *policy = flow->policy;
    struct acl_verdict verdict = {.reason = ACL_NO_RULE};
    if (flow->ech_offered && acl_policy_ech_denied(policy))
        return verdict;
    if (flow->name_length)
        verdict = acl_policy_judge_name(policy, protocol[flow->kind], flow->name, flow->name_length,
                                        flow->destination.port);
    if (!verdict.allowed && verdict.reason == ACL_NO_RULE)
        verdict = acl_policy_judge_address(policy, &flow->destination);
    return verdict;
}

/* May the address that was really dialled still be used? */
static bool dialled_is_allowed(const struct flow *flow)
{
    return flow->dialled.family == 0 ||
           (worker_may_dial(flow->worker, flow->policy, &flow->dialled) &&
            acl_policy_judge_address(flow->policy, &flow->dialled).reason != ACL_RULE_DENY);
}

static void deny_now(struct flow *flow)
{
    flow->would_deny = false;
    if (flow->state != FLOW_RELAY) {
        flow_deny(flow, ACL_POLICY_CHANGED, NULL);
        return;
    }
    flow->reason = ACL_POLICY_CHANGED;
    flow_report_denied(flow, flow->name, ACL_POLICY_CHANGED);
    flow_end(flow, AUDIT_CLOSE_GATEWAY, "policy_changed", true);
}

static void judge_flow(struct flow *flow)
{
    flow->judged = flow->worker->judgement;
    flow->policy = flow->capture->policy;
    flow->verdict.has_rule = false; /* its rule belongs to the old snapshot */
    if (flow->http)
        flow->http->refusal_verdict.has_rule = false;
    if (flow->state == FLOW_SNIFF || flow->state == FLOW_LINGER || flow->state == FLOW_ENDED || flow->inbound)
        return; /* not decided yet, or over */
    flow->verdict = judge_again(flow);
    bool allowed = flow->verdict.allowed && dialled_is_allowed(flow);
    if (!allowed && !worker_only_records(flow->worker, flow->policy))
        deny_now(flow);
    else if (!flow->would_deny)
        flow->would_deny = !allowed;
}

/* ---- all of them ---- */

static void judge_tenant(struct capture *tenant)
{
    tenant->policy = config_network_policy(tenant->worker->snapshot, tenant->name, &tenant->source);
}

static void judge_network(struct capture *network)
{
    network->policy = config_network_policy(network->worker->snapshot, network->name, NULL);
    tenants_each(network->tenants, judge_tenant);
}

static void judge_captures(struct worker *w)
{
    for (struct list *link = w->captures.next; link != &w->captures; link = link->next) {
        struct capture *capture = list_entry(link, struct capture, link);
        if (capture->tenants)
            judge_network(capture);
        else
            capture->policy =
                config_container_policy(w->snapshot, capture->id, capture->name, capture->policy_asked);
    }
}

/* Until `deadline` (uv_hrtime); false when some are left. */
static bool judge_some(struct worker *w, uint64_t deadline)
{
    unsigned count = 0;
    while (!list_empty(&w->flows)) {
        struct flow *flow = list_entry(w->flows.next, struct flow, link);
        if (flow->judged == w->judgement)
            break;
        if (++count % FLOWS_BETWEEN_LOOKS == 0 && uv_hrtime() > deadline)
            return false;
        list_remove(&flow->link);
        list_append(&w->flows, &flow->link);
        judge_flow(flow); /* may take it to the ended ones */
    }
    return true;
}

static void finish(struct worker *w)
{
    uv_idle_stop(&w->judging);
    while (!list_empty(&w->replaced)) {
        struct replaced *old = list_entry(w->replaced.next, struct replaced, link);
        list_remove(&old->link);
        config_unref_aside(old->snapshot);
        if (old->serial)
            worker_answer(w, old->serial, 0);
        free(old);
    }
}

static void on_turn(uv_idle_t *idle)
{
    struct worker *w = idle->data;
    if (judge_some(w, uv_hrtime() + TURN_NS))
        finish(w);
}

/* Those that have ended are freed soon, but their rules belong to the old snapshot. */
static void judge_ended(struct worker *w)
{
    for (struct list *link = w->ended_flows.next; link != &w->ended_flows; link = link->next)
        judge_flow(list_entry(link, struct flow, link));
}

int rejudge_init(struct worker *w)
{
    list_init(&w->replaced);
    w->judging.data = w;
    return uv_idle_init(&w->loop, &w->judging);
}

void rejudge_by(struct worker *w, struct config_snapshot *snapshot, uint32_t serial)
{
    struct replaced *old = calloc(1, sizeof(*old));
    struct config_snapshot *before = w->snapshot;
    w->snapshot = snapshot;
    w->judgement++;
    judge_captures(w);
    associations_judge(w); /* at one go: a microsecond each */
    judge_ended(w);
    worker_apply_config(w);
    if (!old) { /* then at one go */
        judge_some(w, UINT64_MAX);
        config_unref_aside(before);
        worker_answer(w, serial, 0);
        return;
    }
    *old = (struct replaced){.snapshot = before, .serial = serial};
    list_append(&w->replaced, &old->link);
    uv_idle_start(&w->judging, on_turn);
    on_turn(&w->judging);
}

void rejudge_finish(struct worker *w)
{
    for (struct list *link = w->replaced.next; link != &w->replaced; link = link->next)
        list_entry(link, struct replaced, link)->serial = 0; /* nobody is to be answered */
    finish(w);
    uv_close((uv_handle_t *)&w->judging, NULL);
}
