/*
 * Verdicts. The table leads to the chains of rules that name what is asked for; here each of their rules is
 * asked whether it speaks of this flow, and deny beats allow wherever it stands.
 */
#include "acl/policy_internal.h"

#include <string.h>

/* What is asked of each rule of the chains that a name or an address leads to. */
enum question { ASK_FLOW, ASK_DNS, ASK_ADDRESS, ASK_NETWORK };
struct query {
    enum question question;
    enum acl_protocol protocol;
    uint16_t port; /* 0 with ASK_NETWORK: any */
};

static bool in_ports(const struct rule *rule, uint16_t port)
{
    return port >= rule->port_low && port <= rule->port_high;
}

static bool speaks_of_flow(const struct rule *rule, const struct query *q)
{
    switch ((enum acl_scheme)rule->scheme) {
    case ACL_SCHEME_WEB: /* as a deny rule: whatever goes to that name */
        return rule->deny || (q->protocol == ACL_TLS && q->port == 443) ||
               (q->protocol == ACL_HTTP && q->port == 80);
    case ACL_SCHEME_HTTPS:
        return q->protocol == ACL_TLS && in_ports(rule, q->port);
    case ACL_SCHEME_HTTP:
        return q->protocol == ACL_HTTP && in_ports(rule, q->port);
    case ACL_SCHEME_TCP:
        return in_ports(rule, q->port);
    case ACL_SCHEME_ADDRESS:
        break;
    }
    return false;
}

static bool speaks_of(const struct rule *rule, const struct query *q)
{
    switch (q->question) {
    case ASK_FLOW:
        return speaks_of_flow(rule, q);
    case ASK_DNS:
        return !rule->deny || rule->scheme == ACL_SCHEME_WEB;
    case ASK_ADDRESS:
        return in_ports(rule, q->port);
    case ASK_NETWORK:
        return !rule->deny && (q->port == 0 || in_ports(rule, q->port));
    }
    return false;
}

/* Deny beats allow wherever it stands; among equals the closest chain speaks. */
static const struct rule *decide(const struct acl_policy *policy, const struct chains *chains,
                                 const struct query *q)
{
    const struct rule *allow = NULL;
    for (size_t i = 0; i < chains->count; i++) {
        for (rule_ref at = chains->heads[i]; at; at = policy_rule(policy, at)->next) {
            const struct rule *rule = policy_rule(policy, at);
            if ((allow && !rule->deny) || !speaks_of(rule, q))
                continue;
            if (rule->deny)
                return rule;
            allow = rule;
        }
    }
    return allow;
}

static struct acl_verdict verdict_of(const struct acl_policy *policy, const struct rule *rule)
{
    struct acl_verdict verdict = {.reason = ACL_NO_RULE};
    if (rule) {
        verdict.allowed = !rule->deny;
        verdict.reason = rule->deny ? ACL_RULE_DENY : ACL_RULE_ALLOW;
        verdict.has_rule = true;
        verdict.rule = policy_view(policy, rule);
    }
    return verdict;
}

static struct acl_verdict judge_name(const struct acl_policy *policy, const char *name, size_t length,
                                     const struct query *q)
{
    struct chains chains;
    struct acl_verdict verdict = {.reason = ACL_IP_LITERAL};
    if (length <= ACL_NAME_MAX && acl_name_ends_in_number(name, length))
        return verdict; /* acl_name_normalise() lets none through; here not even "*" allows it */
    if (!policy_table_find_name(policy, name, length, &chains))
        return verdict_of(policy, NULL);
    return verdict_of(policy, decide(policy, &chains, q));
}

struct acl_verdict acl_policy_judge_name(const struct acl_policy *policy, enum acl_protocol protocol,
                                         const char *name, size_t length, uint16_t port)
{
    const struct query q = {.question = ASK_FLOW, .protocol = protocol, .port = port};
    return judge_name(policy, name, length, &q);
}

struct acl_verdict acl_policy_judge_dns(const struct acl_policy *policy, const char *name, size_t length)
{
    const struct query q = {.question = ASK_DNS};
    struct acl_verdict verdict = judge_name(policy, name, length, &q);
    if (verdict.reason == ACL_RULE_DENY || verdict.reason == ACL_IP_LITERAL)
        return verdict;
    if (policy->dns == ACL_DNS_OFF)
        return verdict_of(policy, NULL);
    if (policy->dns == ACL_DNS_ANY && !verdict.allowed) {
        verdict.allowed = true;
        verdict.reason = ACL_RULE_ALLOW;
    }
    return verdict;
}

/* Rules are written for IPv4, not for IPv4 in IPv6 clothes. */
static struct addr unmapped(const struct addr *a)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    struct addr plain = *a;
    if (a->family == AF_INET6 && memcmp(a->bytes, mapped, sizeof(mapped)) == 0) {
        plain = (struct addr){.family = AF_INET, .port = a->port};
        memcpy(plain.bytes, a->bytes + 12, 4);
    }
    return plain;
}

struct acl_verdict acl_policy_judge_address(const struct acl_policy *policy, const struct addr *destination)
{
    const struct addr a = unmapped(destination);
    const struct query q = {.question = ASK_ADDRESS, .port = a.port};
    struct chains chains;
    if (a.family != AF_INET && a.family != AF_INET6)
        return verdict_of(policy, NULL);
    policy_table_find_networks(policy, &a, 0, &chains);
    if (policy->any_address)
        chains.heads[chains.count++] = policy->any_address;
    return verdict_of(policy, decide(policy, &chains, &q));
}

bool acl_policy_names_network(const struct acl_policy *policy, const struct addr *destination)
{
    const struct addr a = unmapped(destination);
    const struct query q = {.question = ASK_NETWORK, .port = a.port};
    struct chains chains;
    if (a.family != AF_INET && a.family != AF_INET6)
        return false;
    policy_table_find_networks(policy, &a, 1, &chains);
    return decide(policy, &chains, &q) != NULL;
}
