/*
 * A policy: rules in, verdicts out. Pure: no sockets, no files, no clock.
 *
 * Built once (create, add…, seal) and immutable afterwards: a sealed policy may be read by any thread.
 * A look-up costs the labels of the name, never the number of rules: names are kept in one hash table keyed by
 * suffix, so "a.b.example.com" asks for itself and for "*." of each of its parents.
 */
#pragma once

#include "acl/reason.h"
#include "acl/rule.h"

enum acl_mode { ACL_MODE_ENFORCE, ACL_MODE_AUDIT };
enum acl_dns { ACL_DNS_ALLOWED, ACL_DNS_ANY, ACL_DNS_OFF };
enum acl_bind { ACL_BIND_REDIAL, ACL_BIND_STRICT, ACL_BIND_OFF };
/* Rung 3 of binding: may, or must, a flow of TLS be proven by the origin's certificate? */
enum acl_verify { ACL_VERIFY_OFF, ACL_VERIFY_FALLBACK, ACL_VERIFY_ALWAYS };
enum acl_protocol { ACL_TLS, ACL_HTTP, ACL_TCP, ACL_UDP, ACL_ICMP }; /* ICMP: echo; its port is 0 */

/* Where a rule was written, for people. `file` may be "--allow", "preset package-managers", …. */
struct acl_origin {
    const char *file;
    unsigned line; /* 0: no line */
};

/* What a verdict points to. Owned by the policy, valid as long as it is. */
struct acl_rule_view {
    const char *text; /* as written */
    struct acl_origin origin;
    bool deny;
};

struct acl_verdict {
    bool allowed;
    enum acl_reason reason; /* ACL_RULE_ALLOW, ACL_RULE_DENY, ACL_NO_RULE, or ACL_IP_LITERAL; of a request also
                               ACL_METHOD_DENIED and ACL_PATH_DENIED: rules allow others to the same name */
    bool has_rule;
    struct acl_rule_view rule; /* meaningful when has_rule */
    const char *detail;        /* a static text, or NULL: why the path could not be judged */
};

/* One plain HTTP request. */
struct acl_request {
    const char *name; /* normal form */
    size_t name_length;
    uint16_t port;
    const char *method; /* as sent */
    const char *target; /* from its path on, with the query */
    size_t target_length;
};

/* Limits of each container that has the policy; 0: as the gateway's. */
struct acl_limits {
    unsigned flows, flows_per_second, dns_queries_per_second;
};

struct acl_policy;

/* NULL when out of memory. `name` is copied. */
struct acl_policy *acl_policy_create(const char *name);
/* A layer over a sealed policy: at first with the same options and rules, to which those that are added come; deny beats
 * allow across both. It costs the same whatever the size of `base`, which must outlive it. NULL when out of memory. */
struct acl_policy *acl_policy_create_over(const struct acl_policy *base, const char *name);
void acl_policy_destroy(struct acl_policy *policy); /* accepts NULL */

void acl_policy_set_mode(struct acl_policy *policy, enum acl_mode mode);
void acl_policy_set_dns(struct acl_policy *policy, enum acl_dns dns);
void acl_policy_set_bind(struct acl_policy *policy, enum acl_bind bind);
void acl_policy_set_verify(struct acl_policy *policy, enum acl_verify verify);
void acl_policy_set_ech_denied(struct acl_policy *policy, bool denied);
void acl_policy_set_limits(struct acl_policy *policy, const struct acl_limits *limits);

/* Parse and add one rule. Text and origin are copied (file names are interned). 0, -EINVAL or -ENOMEM with err. */
int acl_policy_add(struct acl_policy *policy, const char *text, size_t length, bool deny, struct acl_origin origin,
                   struct error *err);
/* Ready for look-ups; nothing may be added afterwards. 0 or -ENOMEM. */
int acl_policy_seal(struct acl_policy *policy);

const char *acl_policy_name(const struct acl_policy *policy);
/* The policy that this is a layer over, or NULL. */
const struct acl_policy *acl_policy_base(const struct acl_policy *policy);
enum acl_mode acl_policy_mode(const struct acl_policy *policy);
enum acl_dns acl_policy_dns(const struct acl_policy *policy);
enum acl_bind acl_policy_bind(const struct acl_policy *policy);
enum acl_verify acl_policy_verify(const struct acl_policy *policy);
bool acl_policy_ech_denied(const struct acl_policy *policy);
const struct acl_limits *acl_policy_limits(const struct acl_policy *policy);
/* Are there rules for methods or paths? Without them judge_name() says of each request what judge_request() says. */
bool acl_policy_judges_requests(const struct acl_policy *policy);

/* Calls back for every rule in the order added; stops when the callback returns false. */
void acl_policy_each(const struct acl_policy *policy, bool (*each)(const struct acl_rule_view *rule, void *arg),
                     void *arg);

/*
 * May a flow of `protocol` to `name` (normal form of acl_name_normalise) on `port` pass? ACL_TLS looks at web, https://
 * and tcp:// rules, ACL_HTTP at web, http:// and tcp://, ACL_TCP at tcp:// alone, ACL_UDP at udp:// and ACL_ICMP at
 * icmp:// (whose names always come from a binding). Deny beats allow. The mode is *not*
 * applied here: the caller decides what audit mode does with a denial. With ACL_HTTP the question is whether *any*
 * request may pass: rules for methods or paths count when they allow and not when they deny, and every request is to
 * be put to acl_policy_judge_request().
 */
struct acl_verdict acl_policy_judge_name(const struct acl_policy *policy, enum acl_protocol protocol, const char *name,
                                         size_t length, uint16_t port);

/* May this request pass? A path that can be read in several ways (acl/request.h) matches no rule that allows a path, and
 * every one that denies a path. */
struct acl_verdict acl_policy_judge_request(const struct acl_policy *policy, const struct acl_request *request);

/* May a TCP flow to this address and port pass by an address rule? An IPv4-mapped destination is judged as IPv4. A flow
 * allowed by name is still to be refused when this says ACL_RULE_DENY for the address that is really dialled. */
struct acl_verdict acl_policy_judge_address(const struct acl_policy *policy, const struct addr *destination);

/* The same for any protocol: UDP and ICMP look at the rules of their scheme, and at deny rules by address without one
 * (ICMP at those that name no ports). */
struct acl_verdict acl_policy_judge_address_for(const struct acl_policy *policy, enum acl_protocol protocol,
                                                const struct addr *destination);

/* May this name be looked up? Any allow rule for it (any scheme, any port) says yes unless a schemeless deny rule
 * matches; `dns: any` says yes to all but denied names, `dns: off` no to all. */
struct acl_verdict acl_policy_judge_dns(const struct acl_policy *policy, const char *name, size_t length);

/* Does an *allow* address rule name a network (a CIDR or one address) that holds this destination? Such a rule also
 * opens the guard of private ranges for it. A destination with a port asks for rules for TCP that hold the port as
 * well, one without for rules of any protocol. Rules for any address (":port", "*:port", /0) name no network. */
bool acl_policy_names_network(const struct acl_policy *policy, const struct addr *destination);
/* The same, for rules of one protocol and the destination's port. */
bool acl_policy_names_network_for(const struct acl_policy *policy, enum acl_protocol protocol,
                                  const struct addr *destination);
/* The same, by a rule that names this address and no other. */
bool acl_policy_names_host(const struct acl_policy *policy, enum acl_protocol protocol, const struct addr *destination);

/* What is expected on a TCP port: what its *allow* rules promise (a port that only deny rules name is closed anyway).
 * Several bits may be set. 80 is always HTTP, 443 always TLS. Ready after seal. */
enum acl_port_use {
    ACL_PORT_TLS = 1,      /* a web or https:// rule may match: a ClientHello must come */
    ACL_PORT_HTTP = 2,     /* a web or http:// rule may match */
    ACL_PORT_TCP_NAME = 4, /* a tcp:// rule names it: judge by binding, read nothing */
    ACL_PORT_ADDRESS = 8,  /* an address rule names it */
};
unsigned acl_policy_port_use(const struct acl_policy *policy, uint16_t port);

struct acl_port_range {
    uint16_t low, high;
};
/* The TCP ports a ruleset has to redirect to the gateway: 80, 443 and all that allow rules name; sorted, disjoint, not
 * adjacent. Owned by the policy, ready after seal. */
const struct acl_port_range *acl_policy_ports(const struct acl_policy *policy, size_t *ret_count);

/* The UDP ports that allow rules name, in the same way; none when none does. */
const struct acl_port_range *acl_policy_udp_ports(const struct acl_policy *policy, size_t *ret_count);
/* Does some allow rule name ICMP? */
bool acl_policy_allows_icmp(const struct acl_policy *policy);
/* Every rule that speaks of UDP or ICMP by address or by name (udp://, icmp://, deny rules by address without scheme),
 * parsed, in the order added: what rulesets and kernel sets are made of. Deny rules by name without scheme are not
 * among them: names are judged when they are resolved. Stops when the callback returns false. */
void acl_policy_each_packet_rule(const struct acl_policy *policy,
                                 bool (*each)(const struct acl_rule *rule, const char *text, void *arg), void *arg);

/* Names (in normal form) that allow rules for this protocol and port name, at most `size`: of the first 64 such rules without a
 * wildcard. Returns how many. */
size_t acl_policy_packet_names(const struct acl_policy *policy, enum acl_protocol protocol, uint16_t port,
                               char ret[][ACL_NAME_MAX + 1], size_t size);

/* Bytes of memory in use, and how many of them are text (rules as written, names). For metrics and tests. */
size_t acl_policy_memory(const struct acl_policy *policy, size_t *ret_text);

/* Does the policy have deny rules by name, for TCP? (Then a flow allowed by address must still show its name.) */
bool acl_policy_denies_names(const struct acl_policy *policy);
