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
    uint16_t port;
    bool any_protocol;             /* ASK_NETWORK, whatever the port and the protocol */
    const struct request *request; /* of ACL_HTTP; NULL: is there any that may pass? */
};

/* A request as rules see it. */
struct request {
    uint16_t method; /* its bit; 0: none that a rule names */
    const char *odd; /* why the path cannot be judged; NULL when it can */
    char path[ACL_PATH_MAX + 1];
    size_t path_length;
};

/* What a rule that speaks of the flow's name and port says of the request. */
enum fit { FITS, OTHER_METHOD, OTHER_PATH };

static enum fit fit_request(const struct rule *rule, const struct request *request)
{
    const struct rule_request limits = policy_rule_request(rule);
    if (limits.methods && !(limits.methods & request->method))
        return OTHER_METHOD;
    if (limits.path_length == 0)
        return FITS;
    if (request->odd) /* nobody knows which resource it is: not one to allow, maybe one to deny */
        return rule->deny ? FITS : OTHER_PATH;
    return acl_path_matches(rule->bytes + limits.path_at, limits.path_length, request->path,
                            request->path_length)
               ? FITS
               : OTHER_PATH;
}

/* Without a request: might there be one that it allows? */
static enum fit fit_rule(const struct rule *rule, const struct query *q)
{
    if (!rule->limited || q->question != ASK_FLOW)
        return FITS;
    if (!q->request)
        return rule->deny ? OTHER_PATH : FITS;
    return fit_request(rule, q->request);
}

static bool in_ports(const struct rule *rule, uint16_t port)
{
    return port >= rule->port_low && port <= rule->port_high;
}

static bool is_tcp(const struct query *q)
{
    return q->protocol != ACL_UDP && q->protocol != ACL_ICMP;
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
        return is_tcp(q) && in_ports(rule, q->port);
    case ACL_SCHEME_UDP:
        return q->protocol == ACL_UDP && in_ports(rule, q->port);
    case ACL_SCHEME_ICMP:
        return q->protocol == ACL_ICMP;
    case ACL_SCHEME_ADDRESS:
        break;
    }
    return false;
}

/* Without scheme: an allow rule means TCP, a deny rule whatever may go there. */
static bool speaks_of_address(const struct rule *rule, const struct query *q)
{
    if (rule->scheme != ACL_SCHEME_ADDRESS)
        return speaks_of_flow(rule, q);
    if (q->protocol == ACL_ICMP)
        return rule->deny && rule->port_low == 1 && rule->port_high == 65535;
    return (is_tcp(q) || rule->deny) && in_ports(rule, q->port);
}

static bool speaks_of(const struct rule *rule, const struct query *q)
{
    switch (q->question) {
    case ASK_FLOW:
        return speaks_of_flow(rule, q);
    case ASK_DNS:
        return !rule->deny || rule->scheme == ACL_SCHEME_WEB;
    case ASK_ADDRESS:
        return speaks_of_address(rule, q);
    case ASK_NETWORK:
        return !rule->deny && (q->any_protocol || speaks_of_address(rule, q));
    }
    return false;
}

/* Deny beats allow wherever it stands; among equals the closest chain speaks. `ret_missed` (may be NULL)
 * becomes the closest that an allow rule came to the request, when that is not close enough. */
static const struct rule *decide(const struct acl_policy *policy, const struct chains *chains,
                                 const struct query *q, enum fit *ret_missed)
{
    const struct rule *allow = NULL;
    for (size_t i = 0; i < chains->count; i++) {
        for (rule_ref at = chains->heads[i]; at; at = policy_rule(policy, at)->next) {
            const struct rule *rule = policy_rule(policy, at);
            if ((allow && !rule->deny) || !speaks_of(rule, q))
                continue;
            enum fit fit = fit_rule(rule, q);
            if (fit == FITS && rule->deny)
                return rule;
            if (fit == FITS)
                allow = rule;
            else if (ret_missed && !rule->deny && fit > *ret_missed)
                *ret_missed = fit;
        }
    }
    return allow;
}

/* A rule, and the layer that it is in. */
struct finding {
    const struct acl_policy *layer;
    const struct rule *rule; /* NULL: none */
};

/* Takes what a layer says into account; true when it is final. */
static bool weigh(struct finding *finding, const struct acl_policy *layer, const struct rule *rule)
{
    if (rule && (rule->deny || !finding->rule))
        *finding = (struct finding){layer, rule};
    return rule && rule->deny;
}

static struct finding decide_name(const struct acl_policy *policy, const char *name, size_t length, const struct query *q,
                                  enum fit *ret_missed)
{
    struct finding finding = {0};
    struct chains chains;
    for (const struct acl_policy *layer = policy; layer; layer = layer->base)
        if (policy_table_find_name(layer, name, length, &chains) &&
            weigh(&finding, layer, decide(layer, &chains, q, ret_missed)))
            break;
    return finding;
}

static struct finding decide_address(const struct acl_policy *policy, const struct addr *a, unsigned shortest,
                                     const struct query *q)
{
    struct finding finding = {0};
    struct chains chains;
    for (const struct acl_policy *layer = policy; layer; layer = layer->base) {
        policy_table_find_networks(layer, a, shortest, &chains);
        if (layer->any_address && q->question != ASK_NETWORK)
            chains.heads[chains.count++] = layer->any_address;
        if (weigh(&finding, layer, decide(layer, &chains, q, NULL)))
            break;
    }
    return finding;
}

static struct acl_verdict verdict_of(struct finding finding)
{
    struct acl_verdict verdict = {.reason = ACL_NO_RULE};
    if (finding.rule) {
        verdict.allowed = !finding.rule->deny;
        verdict.reason = finding.rule->deny ? ACL_RULE_DENY : ACL_RULE_ALLOW;
        verdict.has_rule = true;
        verdict.rule = policy_view(finding.layer, finding.rule);
    }
    return verdict;
}

static struct acl_verdict judge_name(const struct acl_policy *policy, const char *name, size_t length,
                                     const struct query *q)
{
    struct acl_verdict verdict = {.reason = ACL_IP_LITERAL};
    if (length <= ACL_NAME_MAX && acl_name_ends_in_number(name, length))
        return verdict; /* acl_name_normalise() lets none through; here not even "*" allows it */
    return verdict_of(decide_name(policy, name, length, q, NULL));
}

struct acl_verdict acl_policy_judge_name(const struct acl_policy *policy, enum acl_protocol protocol,
                                         const char *name, size_t length, uint16_t port)
{
    const struct query q = {.question = ASK_FLOW, .protocol = protocol, .port = port};
    return judge_name(policy, name, length, &q);
}

static void read_request(const struct acl_request *from, struct request *ret)
{
    ret->method = acl_method_bit(from->method, strlen(from->method));
    ret->odd = acl_path_normalise(from->target, from->target_length, ret->path, &ret->path_length);
}

/* Names and ports first; a path is worth reading only where a rule speaks of requests. */
struct acl_verdict acl_policy_judge_request(const struct acl_policy *policy,
                                            const struct acl_request *request)
{
    struct query q = {.question = ASK_FLOW, .protocol = ACL_HTTP, .port = request->port};
    struct acl_verdict verdict = judge_name(policy, request->name, request->name_length, &q);
    struct request read;
    enum fit missed = FITS;
    if (!policy->judges_requests || !verdict.allowed)
        return verdict;
    read_request(request, &read);
    q.request = &read;
    verdict = verdict_of(decide_name(policy, request->name, request->name_length, &q, &missed));
    if (verdict.reason == ACL_NO_RULE)
        verdict.reason = missed == OTHER_METHOD ? ACL_METHOD_DENIED : ACL_PATH_DENIED;
    if (verdict.reason == ACL_PATH_DENIED || (verdict.reason == ACL_RULE_DENY && verdict.has_rule))
        verdict.detail = read.odd;
    return verdict;
}

struct acl_verdict acl_policy_judge_dns(const struct acl_policy *policy, const char *name, size_t length)
{
    const struct query q = {.question = ASK_DNS};
    struct acl_verdict verdict = judge_name(policy, name, length, &q);
    if (verdict.reason == ACL_RULE_DENY || verdict.reason == ACL_IP_LITERAL)
        return verdict;
    if (policy->dns == ACL_DNS_OFF)
        return verdict_of((struct finding){0});
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

struct acl_verdict acl_policy_judge_address_for(const struct acl_policy *policy, enum acl_protocol protocol,
                                                const struct addr *destination)
{
    const struct addr a = unmapped(destination);
    const struct query q = {.question = ASK_ADDRESS, .protocol = protocol, .port = a.port};
    if (a.family != AF_INET && a.family != AF_INET6)
        return verdict_of((struct finding){0});
    return verdict_of(decide_address(policy, &a, 0, &q));
}

struct acl_verdict acl_policy_judge_address(const struct acl_policy *policy, const struct addr *destination)
{
    return acl_policy_judge_address_for(policy, ACL_TCP, destination);
}

/* `whole`: only a network of one address counts. */
static bool names_network(const struct acl_policy *policy, const struct addr *destination, bool whole, struct query *q)
{
    const struct addr a = unmapped(destination);
    if (a.family != AF_INET && a.family != AF_INET6)
        return false;
    q->question = ASK_NETWORK;
    q->port = a.port;
    unsigned shortest = !whole ? 1 : a.family == AF_INET ? 32 : 128;
    return decide_address(policy, &a, shortest, q).rule != NULL;
}

bool acl_policy_names_network(const struct acl_policy *policy, const struct addr *destination)
{
    struct query q = {.protocol = ACL_TCP, .any_protocol = destination->port == 0};
    return names_network(policy, destination, false, &q);
}

bool acl_policy_names_network_for(const struct acl_policy *policy, enum acl_protocol protocol,
                                  const struct addr *destination)
{
    struct query q = {.protocol = protocol};
    return names_network(policy, destination, false, &q);
}

bool acl_policy_names_host(const struct acl_policy *policy, enum acl_protocol protocol, const struct addr *destination)
{
    struct query q = {.protocol = protocol, .any_protocol = protocol == ACL_TCP && destination->port == 0};
    return names_network(policy, destination, true, &q);
}
