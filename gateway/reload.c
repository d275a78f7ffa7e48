/*
 * Reading a million names takes a second, so a thread does it; the loop is told (uv_async) and swaps the pointer.
 *
 * At that moment every flow gets the policy that its container now has and a verdict of it, or ends: one that the
 * new policy denies is reset at once (reason policy_changed), one that it still allows never notices. Afterwards
 * nothing points into the old snapshot and it is freed.
 *
 * A flow of plain HTTP is judged by the name that it is connected to; its further requests are judged as they come.
 *
 * Limits: audit.on_full stays what it was at the worker's start.
 */
#include "gateway/reload.h"

#include "base/fds.h"
#include "base/log.h"
#include "gateway/flow.h"

#include <errno.h>
#include <stdlib.h>

struct reload {
    struct worker *worker;
    uv_thread_t thread;
    uv_async_t loaded;
    int bundle;
    uint32_t serial;
    struct config_snapshot *snapshot; /* NULL: it failed */
    struct config_errors errors;
    int status;
};

/* ---- judging anew ---- */

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
    flow->policy = flow->capture->policy;
    flow->verdict.has_rule = false; /* its rule belongs to the old snapshot */
    if (flow->http)
        flow->http->refusal_verdict.has_rule = false;
    if (flow->state == FLOW_SNIFF || flow->state == FLOW_LINGER || flow->state == FLOW_ENDED)
        return; /* not decided yet, or over */
    flow->verdict = judge_again(flow);
    bool allowed = flow->verdict.allowed && dialled_is_allowed(flow);
    if (!allowed && !worker_only_records(flow->worker, flow->policy))
        deny_now(flow);
    else if (!flow->would_deny)
        flow->would_deny = !allowed;
}

static void judge_all(struct worker *w)
{
    for (struct list *link = w->captures.next; link != &w->captures; link = link->next) {
        struct capture *capture = list_entry(link, struct capture, link);
        capture->policy = config_policy_for(w->snapshot, capture->policy_asked, capture->name);
    }
    for (struct list *link = w->flows.next, *next; link != &w->flows; link = next) {
        next = link->next;
        judge_flow(list_entry(link, struct flow, link));
    }
    for (struct list *link = w->ended_flows.next; link != &w->ended_flows; link = link->next)
        judge_flow(list_entry(link, struct flow, link));
}

/* ---- loading ---- */

static void load(void *arg)
{
    struct reload *reload = arg;
    reload->status = config_load_bundle(reload->bundle, &reload->snapshot, &reload->errors);
    uv_async_send(&reload->loaded);
}

static void freed(uv_handle_t *handle)
{
    free(handle->data);
}

/* The thread was joined. */
static void forget(struct reload *reload)
{
    reload->worker->reload = NULL;
    fd_close(&reload->bundle);
    config_errors_finish(&reload->errors);
    uv_close((uv_handle_t *)&reload->loaded, freed);
}

static void put_in_force(struct worker *w, struct config_snapshot *snapshot)
{
    struct config_snapshot *old = w->snapshot;
    w->snapshot = snapshot;
    judge_all(w);
    worker_apply_config(w);
    config_unref(old);
}

static void on_loaded(uv_async_t *async)
{
    struct reload *reload = async->data;
    struct worker *w = reload->worker;
    uv_thread_join(&reload->thread);
    if (reload->status == 0)
        put_in_force(w, reload->snapshot);
    else
        log_error("worker: cannot take the new configuration: %s",
                  reload->errors.count ? reload->errors.lines[0] : "out of memory");
    worker_answer(w, reload->serial, -reload->status);
    forget(reload);
}

int reload_start(struct worker *worker, int bundle, uint32_t serial)
{
    _cleanup_fd_ int fd = bundle;
    struct reload *reload = worker->reload ? NULL : calloc(1, sizeof(*reload));
    if (!reload)
        return worker->reload ? -EBUSY : -ENOMEM;
    *reload = (struct reload){.worker = worker, .bundle = fd, .serial = serial};
    int r = uv_async_init(&worker->loop, &reload->loaded, on_loaded);
    if (r < 0) {
        free(reload);
        return r;
    }
    reload->loaded.data = reload;
    r = uv_thread_create(&reload->thread, load, reload);
    if (r < 0) {
        uv_close((uv_handle_t *)&reload->loaded, freed);
        return r;
    }
    fd_steal(&fd);
    worker->reload = reload;
    return 0;
}

void reload_abandon(struct worker *worker)
{
    struct reload *reload = worker->reload;
    if (!reload)
        return;
    uv_thread_join(&reload->thread);
    config_unref(reload->snapshot);
    forget(reload);
}
