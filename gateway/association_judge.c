/*
 * What an association is allowed: by the names of its address, else by the address; then the guard.
 */
#include "gateway/association_internal.h"

#include <errno.h>
#include <string.h>

/* ---- the verdict ---- */

struct bound {
    struct association *a;
    struct acl_verdict verdict;
    bool any;
};

/* Keeps the verdict that counts: a denial before an allowance before nothing. */
static bool judge_bound_name(const char *name, size_t length, void *arg)
{
    struct bound *found = arg;
    struct association *a = found->a;
    struct acl_verdict verdict =
        acl_policy_judge_name(a->policy, a->protocol, name, length, a->destination.port);
    bool denied = verdict.reason == ACL_RULE_DENY;
    if (!found->any || denied || (verdict.allowed && !found->verdict.allowed)) {
        memcpy(a->name, name, length);
        a->name[length] = 0;
        a->name_length = (uint8_t)length;
        found->verdict = verdict;
    }
    found->any = true;
    return !denied;
}

/* By the names of the address, else by the address. */
static struct acl_verdict judge(struct association *a)
{
    struct worker *w = association_worker(a);
    struct bound found = {.a = a};
    a->name[a->name_length = 0] = 0;
    namebook_names(w->names, &a->destination, uv_now(&w->loop), judge_bound_name, &found);
    struct acl_verdict by_address = acl_policy_judge_address_for(a->policy, a->protocol, &a->destination);
    if (by_address.reason == ACL_RULE_DENY || !found.any ||
        (found.verdict.reason == ACL_NO_RULE && by_address.allowed)) {
        a->binding = "address";
        return by_address;
    }
    a->binding = a->searched ? "resolved" : "dns";
    return found.verdict;
}

/* The policy's answer, and why; false also when names are to be found first. In audit mode a denial is only a note. */
static bool allowed_by_policy(struct association *a, enum acl_reason *ret_reason, const char **ret_detail)
{
    *ret_detail = NULL;
    a->verdict = judge(a);
    *ret_reason = a->verdict.reason;
    if (a->verdict.allowed)
        return true;
    if (a->verdict.reason == ACL_NO_RULE && !a->searched) {
        a->searched = true;
        if (association_search(a))
            return false;
    }
    if (!a->name_length && a->verdict.reason == ACL_NO_RULE)
        *ret_detail = "no rule names the address, and no name that was looked up here has it";
    if (!worker_only_records(association_worker(a), a->policy))
        return false;
    a->would_deny = true;
    a->binding = NULL;
    return true;
}

static const char *connect_problem(const struct association *a, int error)
{
    if (a->protocol == ACL_ICMP && error == -EACCES)
        return "net.ipv4.ping_group_range of the gateway's host does not let the gateway's group ping: set "
               "it to \"0 2147483647\"";
    return strerror(-error);
}

/* Is it allowed, and can it be had? Denied otherwise. */
bool association_open(struct association *a)
{
    struct worker *w = association_worker(a);
    char id[ASSOCIATION_ID_SIZE];
    enum acl_reason reason;
    const char *detail, *guarded = worker_guard_for(w, a->policy, a->protocol, &a->destination);
    if (!allowed_by_policy(a, &reason, &detail)) {
        if (!a->search)
            association_deny(a, reason, detail);
        return false;
    }
    if (guarded) {
        a->would_deny = false;
        association_deny(a, ACL_DESTINATION_GUARDED, guarded);
        return false;
    }
    if (config_upstream(w->snapshot)->kind != CONFIG_UPSTREAM_NONE) {
        association_deny(a, ACL_CONNECT_FAILED, "the proxy of gateway.upstream carries TCP alone");
        return false;
    }
    int r = association_connect(a);
    if (r < 0) {
        metrics_upstream_failed(w->metrics, r);
        association_deny(a, ACL_CONNECT_FAILED, connect_problem(a, r));
        return false;
    }
    a->reason = reason;
    a->detail = detail;
    struct audit_event event = association_event(a, AUDIT_FLOW_DECISION, id);
    event.allowed = true;
    if (audit_submit(w->audit, &event) < 0) {
        association_deny(a, ACL_AUDIT_UNAVAILABLE, NULL);
        return false;
    }
    a->told = true;
    if (a->would_deny)
        association_report(a);
    return true;
}

bool association_still_allowed(struct association *a)
{
    struct worker *w = association_worker(a);
    struct acl_verdict by_address = acl_policy_judge_address_for(a->policy, a->protocol, &a->destination);
    a->verdict = by_address;
    if (a->name_length && by_address.reason != ACL_RULE_DENY) {
        struct acl_verdict by_name =
            acl_policy_judge_name(a->policy, a->protocol, a->name, a->name_length, a->destination.port);
        if (by_name.allowed || by_name.reason == ACL_RULE_DENY)
            a->verdict = by_name;
    }
    return a->verdict.allowed && !worker_guard_for(w, a->policy, a->protocol, &a->destination);
}
