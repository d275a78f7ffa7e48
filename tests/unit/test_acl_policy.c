/*
 * Unit tests of the policy: verdicts as tables of "rules, question, answer"; the table against a slow model
 * of the grammar's words; a million names.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "acl/policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Adds the rules of a string like "example.com -gist.example.com": separated by spaces, "-" in front denies.
 * The line of each rule is its place, from 1. */
static struct acl_policy *policy_of(const char *rules)
{
    struct acl_policy *policy = acl_policy_create("test");
    assert_non_null(policy);
    unsigned line = 0;
    while (*rules) {
        size_t length = strcspn(rules, " ");
        bool deny = *rules == '-';
        struct error err = {0};
        if (acl_policy_add(policy, rules + deny, length - deny, deny, (struct acl_origin){"rules", ++line},
                           &err) != 0)
            fail_msg("%s", err.text);
        rules += length;
        rules += strspn(rules, " ");
    }
    assert_int_equal(acl_policy_seal(policy), 0);
    return policy;
}

struct question {
    const char *rules;
    enum acl_protocol protocol;
    const char *name;
    unsigned port;
    enum acl_reason reason;
    const char *rule; /* as written; NULL: none */
};

static void check_verdict(const char *what, const struct acl_verdict *v, enum acl_reason reason,
                          const char *rule)
{
    if (v->reason != reason)
        fail_msg("%s: %s, not %s", what, acl_reason_name(v->reason), acl_reason_name(reason));
    assert_int_equal(v->allowed, reason == ACL_RULE_ALLOW);
    assert_int_equal(v->has_rule, rule != NULL);
    if (rule) {
        if (strcmp(v->rule.text, rule) != 0)
            fail_msg("%s: by %s, not by %s", what, v->rule.text, rule);
        assert_int_equal(v->rule.deny, reason == ACL_RULE_DENY);
        assert_string_equal(v->rule.origin.file, "rules");
    }
}

static void ask_all(const struct question *questions, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct question *q = &questions[i];
        struct acl_policy *policy = policy_of(q->rules);
        char what[400];
        snprintf(what, sizeof(what), "[%s] %d %s:%u", q->rules, q->protocol, q->name, q->port);
        struct acl_verdict v =
            acl_policy_judge_name(policy, q->protocol, q->name, strlen(q->name), (uint16_t)q->port);
        check_verdict(what, &v, q->reason, q->rule);
        acl_policy_destroy(policy);
    }
}

#define ASK(questions) ask_all(questions, sizeof(questions) / sizeof(*(questions)))

static void names_match_whole_labels(void **state)
{
    (void)state;
    static const struct question questions[] = {
        {"", ACL_TLS, "example.com", 443, ACL_NO_RULE, NULL},
        {"example.com", ACL_TLS, "example.com", 443, ACL_RULE_ALLOW, "example.com"},
        {"EXAMPLE.com.", ACL_TLS, "example.com", 443, ACL_RULE_ALLOW, "EXAMPLE.com."},
        {"example.com", ACL_TLS, "www.example.com", 443, ACL_NO_RULE, NULL},
        {"example.com", ACL_TLS, "notexample.com", 443, ACL_NO_RULE, NULL},
        {"example.com", ACL_TLS, "com", 443, ACL_NO_RULE, NULL},
        {"example.com", ACL_TLS, "example.com.evil.test", 443, ACL_NO_RULE, NULL},
        {"*.example.com", ACL_TLS, "www.example.com", 443, ACL_RULE_ALLOW, "*.example.com"},
        {"*.example.com", ACL_TLS, "a.b.c.d.example.com", 443, ACL_RULE_ALLOW, "*.example.com"},
        {"*.example.com", ACL_TLS, "example.com", 443, ACL_NO_RULE, NULL},
        {"*.example.com", ACL_TLS, "notexample.com", 443, ACL_NO_RULE, NULL},
        {"**.example.com", ACL_TLS, "www.example.com", 443, ACL_RULE_ALLOW, "**.example.com"},
        {"**.example.com", ACL_TLS, "example.com", 443, ACL_NO_RULE, NULL},
        {"*.com", ACL_TLS, "example.com", 443, ACL_RULE_ALLOW, "*.com"},
        {"*", ACL_TLS, "example.com", 443, ACL_RULE_ALLOW, "*"},
        {"*", ACL_TLS, "localhost", 443, ACL_RULE_ALLOW, "*"},
        {"b.c a.b", ACL_TLS, "a.b.c", 443, ACL_NO_RULE, NULL},
        {"ab.c", ACL_TLS, "a.bc", 443, ACL_NO_RULE, NULL},
    };
    ASK(questions);
}

static void protocols_and_ports_are_kept_apart(void **state)
{
    (void)state;
    static const struct question questions[] = {
        /* a bare name: TLS on 443, HTTP on 80, nothing else */
        {"a.test", ACL_HTTP, "a.test", 80, ACL_RULE_ALLOW, "a.test"},
        {"a.test", ACL_HTTP, "a.test", 443, ACL_NO_RULE, NULL},
        {"a.test", ACL_TLS, "a.test", 80, ACL_NO_RULE, NULL},
        {"a.test", ACL_TLS, "a.test", 8443, ACL_NO_RULE, NULL},
        {"a.test", ACL_TCP, "a.test", 443, ACL_NO_RULE, NULL},
        {"a.test", ACL_TCP, "a.test", 22, ACL_NO_RULE, NULL},
        {"https://a.test", ACL_TLS, "a.test", 443, ACL_RULE_ALLOW, "https://a.test"},
        {"https://a.test", ACL_HTTP, "a.test", 80, ACL_NO_RULE, NULL},
        {"https://a.test:8443", ACL_TLS, "a.test", 8443, ACL_RULE_ALLOW, "https://a.test:8443"},
        {"https://a.test:8443", ACL_TLS, "a.test", 443, ACL_NO_RULE, NULL},
        {"https://a.test:8443", ACL_HTTP, "a.test", 8443, ACL_NO_RULE, NULL},
        {"https://*.a.test:8443", ACL_TLS, "x.a.test", 8443, ACL_RULE_ALLOW, "https://*.a.test:8443"},
        {"http://a.test", ACL_HTTP, "a.test", 80, ACL_RULE_ALLOW, "http://a.test"},
        {"http://a.test", ACL_TLS, "a.test", 443, ACL_NO_RULE, NULL},
        {"http://a.test:8080-8090", ACL_HTTP, "a.test", 8090, ACL_RULE_ALLOW, "http://a.test:8080-8090"},
        {"http://a.test:8080-8090", ACL_HTTP, "a.test", 8091, ACL_NO_RULE, NULL},
        {"tcp://a.test:22", ACL_TCP, "a.test", 22, ACL_RULE_ALLOW, "tcp://a.test:22"},
        {"tcp://a.test:22", ACL_TCP, "a.test", 23, ACL_NO_RULE, NULL},
        {"tcp://a.test:443", ACL_TLS, "a.test", 443, ACL_RULE_ALLOW, "tcp://a.test:443"},
        {"tcp://a.test:80", ACL_HTTP, "a.test", 80, ACL_RULE_ALLOW, "tcp://a.test:80"},
        {"tcp://*:22", ACL_TCP, "a.test", 22, ACL_RULE_ALLOW, "tcp://*:22"},
        {"10.0.0.0/8 :443 *:80", ACL_TLS, "a.test", 443, ACL_NO_RULE, NULL}, /* by address is not by name */
    };
    ASK(questions);
}

static void deny_beats_allow(void **state)
{
    (void)state;
    static const struct question questions[] = {
        {"a.test -a.test", ACL_TLS, "a.test", 443, ACL_RULE_DENY, "a.test"},
        {"-a.test a.test", ACL_TLS, "a.test", 443, ACL_RULE_DENY, "a.test"},
        {"www.a.test -*.a.test", ACL_TLS, "www.a.test", 443, ACL_RULE_DENY, "*.a.test"},
        {"www.a.test -*", ACL_TLS, "www.a.test", 443, ACL_RULE_DENY, "*"},
        {"*.a.test -gist.a.test", ACL_TLS, "gist.a.test", 443, ACL_RULE_DENY, "gist.a.test"},
        {"*.a.test -gist.a.test", ACL_TLS, "x.gist.a.test", 443, ACL_RULE_ALLOW, "*.a.test"},
        {"* -*.test", ACL_TLS, "a.test", 443, ACL_RULE_DENY, "*.test"},
        /* without a scheme: every protocol, every port */
        {"tcp://a.test:22 -a.test", ACL_TCP, "a.test", 22, ACL_RULE_DENY, "a.test"},
        {"https://a.test:8443 -a.test", ACL_TLS, "a.test", 8443, ACL_RULE_DENY, "a.test"},
        {"-a.test", ACL_TCP, "a.test", 9999, ACL_RULE_DENY, "a.test"},
        /* with a scheme: only that */
        {"a.test -http://a.test", ACL_TLS, "a.test", 443, ACL_RULE_ALLOW, "a.test"},
        {"a.test -http://a.test", ACL_HTTP, "a.test", 80, ACL_RULE_DENY, "http://a.test"},
        {"a.test -https://a.test:8443", ACL_TLS, "a.test", 443, ACL_RULE_ALLOW, "a.test"},
        {"a.test -tcp://a.test:1-65535", ACL_TLS, "a.test", 443, ACL_RULE_DENY, "tcp://a.test:1-65535"},
        {"tcp://a.test:22 -https://a.test:22", ACL_TCP, "a.test", 22, ACL_RULE_ALLOW, "tcp://a.test:22"},
    };
    ASK(questions);
}

static void the_closest_rule_speaks(void **state)
{
    (void)state;
    static const struct question questions[] = {
        {"* *.test *.a.test b.a.test", ACL_TLS, "b.a.test", 443, ACL_RULE_ALLOW, "b.a.test"},
        {"* *.test *.a.test b.a.test", ACL_TLS, "c.a.test", 443, ACL_RULE_ALLOW, "*.a.test"},
        {"* *.test *.a.test b.a.test", ACL_TLS, "x.test", 443, ACL_RULE_ALLOW, "*.test"},
        {"* *.test *.a.test b.a.test", ACL_TLS, "x.example", 443, ACL_RULE_ALLOW, "*"},
        {"-* -*.test -*.a.test", ACL_TLS, "c.a.test", 443, ACL_RULE_DENY, "*.a.test"},
        /* the same chain: the web rule before https:// before tcp:// */
        {"tcp://a.test:443 https://a.test a.test", ACL_TLS, "a.test", 443, ACL_RULE_ALLOW, "a.test"},
    };
    ASK(questions);
}

/* What acl_name_normalise() never lets through is not allowed by any rule either. */
static void what_is_no_name_is_never_allowed(void **state)
{
    (void)state;
    static const struct question questions[] = {
        {"* tcp://*:*", ACL_TLS, "192.0.2.1", 443, ACL_IP_LITERAL, NULL},
        {"* tcp://*:*", ACL_TLS, "0x7f.1", 443, ACL_IP_LITERAL, NULL},
        {"* tcp://*:*", ACL_TLS, "", 443, ACL_NO_RULE, NULL},
        {"* tcp://*:*", ACL_TLS, ".", 443, ACL_NO_RULE, NULL},
        {"* *.test", ACL_TLS, ".test", 443, ACL_NO_RULE, NULL},
        {"* *.test", ACL_TLS, "a..test", 443, ACL_NO_RULE, NULL},
        {"* *.test", ACL_TLS, "a.test.", 443, ACL_NO_RULE, NULL},
    };
    ASK(questions);
    struct acl_policy *policy = policy_of("*");
    char dots[70000];
    memset(dots, '.', sizeof(dots));
    assert_false(acl_policy_judge_name(policy, ACL_TLS, dots, 253, 443).allowed);
    assert_false(acl_policy_judge_name(policy, ACL_TLS, dots, sizeof(dots), 443).allowed);
    memset(dots, 'a', sizeof(dots));
    assert_false(acl_policy_judge_name(policy, ACL_TLS, dots, 254, 443).allowed);
    for (size_t i = 1; i < 253; i += 2) /* as many labels as a name can have */
        dots[i] = '.';
    assert_true(acl_policy_judge_name(policy, ACL_TLS, dots, 253, 443).allowed);
    acl_policy_destroy(policy);
}

static void dns_follows_the_names(void **state)
{
    (void)state;
    static const struct {
        const char *rules;
        enum acl_dns dns;
        const char *name;
        enum acl_reason reason;
        const char *rule;
    } cases[] = {
        {"a.test", ACL_DNS_ALLOWED, "a.test", ACL_RULE_ALLOW, "a.test"},
        {"a.test", ACL_DNS_ALLOWED, "b.test", ACL_NO_RULE, NULL},
        {"*.a.test", ACL_DNS_ALLOWED, "a.test", ACL_NO_RULE, NULL},
        {"tcp://a.test:22", ACL_DNS_ALLOWED, "a.test", ACL_RULE_ALLOW, "tcp://a.test:22"},
        {"https://a.test:8443", ACL_DNS_ALLOWED, "a.test", ACL_RULE_ALLOW, "https://a.test:8443"},
        {"a.test -a.test", ACL_DNS_ALLOWED, "a.test", ACL_RULE_DENY, "a.test"},
        {"a.test -http://a.test", ACL_DNS_ALLOWED, "a.test", ACL_RULE_ALLOW, "a.test"},
        {"-tcp://a.test:22", ACL_DNS_ALLOWED, "a.test", ACL_NO_RULE, NULL},
        {":443 10.0.0.0/8", ACL_DNS_ALLOWED, "a.test", ACL_NO_RULE, NULL},
        {"* -*.test", ACL_DNS_ALLOWED, "a.test", ACL_RULE_DENY, "*.test"},
        {"", ACL_DNS_ANY, "a.test", ACL_RULE_ALLOW, NULL},
        {"a.test", ACL_DNS_ANY, "a.test", ACL_RULE_ALLOW, "a.test"},
        {"-a.test", ACL_DNS_ANY, "a.test", ACL_RULE_DENY, "a.test"},
        {"-tcp://a.test:22", ACL_DNS_ANY, "a.test", ACL_RULE_ALLOW, NULL},
        {"a.test", ACL_DNS_OFF, "a.test", ACL_NO_RULE, NULL},
        {"-a.test", ACL_DNS_OFF, "a.test", ACL_RULE_DENY, "a.test"},
        {"*", ACL_DNS_ANY, "192.0.2.1", ACL_IP_LITERAL, NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct acl_policy *policy = policy_of(cases[i].rules);
        acl_policy_set_dns(policy, cases[i].dns);
        struct acl_verdict v = acl_policy_judge_dns(policy, cases[i].name, strlen(cases[i].name));
        check_verdict(cases[i].rules, &v, cases[i].reason, cases[i].rule);
        acl_policy_destroy(policy);
    }
}

static struct addr address(const char *text)
{
    struct addr a;
    if (!addr_parse_with_port(text, 0, &a))
        fail_msg("%s is no address", text);
    return a;
}

static void addresses_match_networks(void **state)
{
    (void)state;
    static const struct {
        const char *rules, *address;
        enum acl_reason reason;
        const char *rule;
    } cases[] = {
        {"", "192.0.2.1:80", ACL_NO_RULE, NULL},
        {"a.test *", "192.0.2.1:443", ACL_NO_RULE, NULL},
        {"192.0.2.1", "192.0.2.1:1", ACL_RULE_ALLOW, "192.0.2.1"},
        {"192.0.2.1", "192.0.2.1:65535", ACL_RULE_ALLOW, "192.0.2.1"},
        {"192.0.2.1", "192.0.2.1", ACL_NO_RULE, NULL}, /* no port is no flow */
        {"192.0.2.1", "192.0.2.2:80", ACL_NO_RULE, NULL},
        {"10.20.0.0/16:5432", "10.20.255.255:5432", ACL_RULE_ALLOW, "10.20.0.0/16:5432"},
        {"10.20.0.0/16:5432", "10.20.255.255:5433", ACL_NO_RULE, NULL},
        {"10.20.0.0/16:5432", "10.21.0.0:5432", ACL_NO_RULE, NULL},
        {"10.20.0.0/15:5432", "10.21.0.0:5432", ACL_RULE_ALLOW, "10.20.0.0/15:5432"},
        {"10.20.0.0/15:5432", "10.22.0.0:5432", ACL_NO_RULE, NULL},
        {"0.0.0.0/0:80", "203.0.113.7:80", ACL_RULE_ALLOW, "0.0.0.0/0:80"},
        {"0.0.0.0/0:80", "[2001:db8::1]:80", ACL_NO_RULE, NULL},
        {"::/0", "[2001:db8::1]:80", ACL_RULE_ALLOW, "::/0"},
        {"::/0", "203.0.113.7:80", ACL_NO_RULE, NULL},
        {"[2001:db8::]/33:80", "[2001:db8:7fff::1]:80", ACL_RULE_ALLOW, "[2001:db8::]/33:80"},
        {"[2001:db8::]/33:80", "[2001:db8:8000::1]:80", ACL_NO_RULE, NULL},
        {"2001:db8::1", "[2001:db8::1]:9", ACL_RULE_ALLOW, "2001:db8::1"},
        {":22", "192.0.2.1:22", ACL_RULE_ALLOW, ":22"},
        {"*:22", "[2001:db8::1]:22", ACL_RULE_ALLOW, "*:22"},
        {":22", "192.0.2.1:23", ACL_NO_RULE, NULL},
        {"10.0.0.0/8:22", "[::ffff:10.0.0.1]:22", ACL_RULE_ALLOW, "10.0.0.0/8:22"}, /* mapped is IPv4 */
        {"::/0 -10.0.0.0/8", "[::ffff:10.0.0.1]:22", ACL_RULE_DENY, "10.0.0.0/8"},
        /* the closest speaks, deny beats */
        {":22 10.0.0.0/8 10.1.0.0/16 10.1.1.1", "10.1.1.1:22", ACL_RULE_ALLOW, "10.1.1.1"},
        {":22 10.0.0.0/8 10.1.0.0/16 10.1.1.1", "10.1.1.2:22", ACL_RULE_ALLOW, "10.1.0.0/16"},
        {"10.1.1.1 -10.0.0.0/8", "10.1.1.1:22", ACL_RULE_DENY, "10.0.0.0/8"},
        {"10.1.1.1 -:22", "10.1.1.1:22", ACL_RULE_DENY, ":22"},
        {"10.1.1.1 -10.0.0.0/8:22", "10.1.1.1:23", ACL_RULE_ALLOW, "10.1.1.1"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct acl_policy *policy = policy_of(cases[i].rules);
        struct addr a = address(cases[i].address);
        struct acl_verdict v = acl_policy_judge_address(policy, &a);
        check_verdict(cases[i].rules, &v, cases[i].reason, cases[i].rule);
        acl_policy_destroy(policy);
    }
    struct acl_policy *policy = policy_of("*:*");
    const struct addr empty = {.port = 80};
    assert_false(acl_policy_judge_address(policy, &empty).allowed);
    assert_false(acl_policy_names_network(policy, &empty));
    acl_policy_destroy(policy);
}

static void only_named_networks_open_the_guard(void **state)
{
    (void)state;
    static const struct {
        const char *rules, *address;
        bool named;
    } cases[] = {
        {"10.20.0.0/16:5432", "10.20.1.1:5432", true},
        {"10.20.0.0/16:5432", "10.20.1.1", true}, /* without a port: for any */
        {"10.20.0.0/16:5432", "10.20.1.1:443", false},
        {"10.20.0.0/16", "10.21.1.1", false},
        {"10.20.1.1", "10.20.1.1:443", true},
        {":5432 *:*", "10.20.1.1:5432", false},
        {"0.0.0.0/0:5432 ::/0", "10.20.1.1:5432", false}, /* everything is no network */
        {"::/0", "[fc00::1]:80", false},
        {"fc00::/7", "[fd00::1]:80", true},
        {"-10.20.0.0/16", "10.20.1.1", false},
        {"a.test *", "10.20.1.1:443", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct acl_policy *policy = policy_of(cases[i].rules);
        struct addr a = address(cases[i].address);
        if (acl_policy_names_network(policy, &a) != cases[i].named)
            fail_msg("[%s] %s", cases[i].rules, cases[i].address);
        acl_policy_destroy(policy);
    }
}

static void udp_and_icmp_have_their_own_rules(void **state)
{
    (void)state;
    static const struct question questions[] = {
        {"udp://a.test:123", ACL_UDP, "a.test", 123, ACL_RULE_ALLOW, "udp://a.test:123"},
        {"udp://a.test:123", ACL_UDP, "a.test", 124, ACL_NO_RULE, NULL},
        {"udp://a.test:123", ACL_TCP, "a.test", 123, ACL_NO_RULE, NULL},
        {"udp://a.test:443", ACL_TLS, "a.test", 443, ACL_NO_RULE, NULL},
        {"udp://a.test:123", ACL_ICMP, "a.test", 0, ACL_NO_RULE, NULL},
        {"udp://*.test:100-200", ACL_UDP, "b.a.test", 200, ACL_RULE_ALLOW, "udp://*.test:100-200"},
        {"udp://*:123", ACL_UDP, "a.test", 123, ACL_RULE_ALLOW, "udp://*:123"},
        {"a.test * tcp://*:* https://a.test http://a.test icmp://*", ACL_UDP, "a.test", 443, ACL_NO_RULE,
         NULL},
        {"icmp://a.test", ACL_ICMP, "a.test", 0, ACL_RULE_ALLOW, "icmp://a.test"},
        {"icmp://*", ACL_ICMP, "a.test", 0, ACL_RULE_ALLOW, "icmp://*"},
        {"a.test * tcp://*:* udp://*:*", ACL_ICMP, "a.test", 0, ACL_NO_RULE, NULL},
        /* a deny rule without scheme is for every protocol, one with a scheme for that alone */
        {"udp://*:123 -a.test", ACL_UDP, "a.test", 123, ACL_RULE_DENY, "a.test"},
        {"icmp://* -*.test", ACL_ICMP, "a.test", 0, ACL_RULE_DENY, "*.test"},
        {"udp://a.test:* -udp://a.test:443", ACL_UDP, "a.test", 443, ACL_RULE_DENY, "udp://a.test:443"},
        {"udp://a.test:* -udp://a.test:443", ACL_UDP, "a.test", 444, ACL_RULE_ALLOW, "udp://a.test:*"},
        {"udp://a.test:* -tcp://a.test:* -icmp://a.test", ACL_UDP, "a.test", 443, ACL_RULE_ALLOW,
         "udp://a.test:*"},
        {"* -udp://a.test:443 -icmp://a.test", ACL_TLS, "a.test", 443, ACL_RULE_ALLOW, "*"},
    };
    ASK(questions);
    static const struct {
        const char *rules, *address;
        enum acl_protocol protocol;
        enum acl_reason reason;
        const char *rule;
    } cases[] = {
        {"udp://10.0.0.0/8:123", "10.1.1.1:123", ACL_UDP, ACL_RULE_ALLOW, "udp://10.0.0.0/8:123"},
        {"udp://10.0.0.0/8:123", "[::ffff:10.1.1.1]:123", ACL_UDP, ACL_RULE_ALLOW, "udp://10.0.0.0/8:123"},
        {"udp://10.0.0.0/8:123", "10.1.1.1:124", ACL_UDP, ACL_NO_RULE, NULL},
        {"udp://10.0.0.0/8:123", "10.1.1.1:123", ACL_TCP, ACL_NO_RULE, NULL},
        {"udp://10.0.0.0/8:123", "10.1.1.1", ACL_ICMP, ACL_NO_RULE, NULL},
        {"10.0.0.0/8 *:* tcp://10.0.0.0/8:* icmp://10.0.0.0/8", "10.1.1.1:123", ACL_UDP, ACL_NO_RULE, NULL},
        {"icmp://10.0.0.0/8", "10.1.1.1", ACL_ICMP, ACL_RULE_ALLOW, "icmp://10.0.0.0/8"},
        {"icmp://10.0.0.0/8", "10.1.1.1:123", ACL_TCP, ACL_NO_RULE, NULL},
        {"icmp://2001:db8::/32", "2001:db8::1", ACL_ICMP, ACL_RULE_ALLOW, "icmp://2001:db8::/32"},
        {"10.0.0.0/8 *:* udp://10.0.0.0/8:*", "10.1.1.1", ACL_ICMP, ACL_NO_RULE, NULL},
        {"icmp://10.0.0.0/8 -icmp://10.1.0.0/16", "10.1.1.1", ACL_ICMP, ACL_RULE_DENY, "icmp://10.1.0.0/16"},
        /* denied without scheme: whatever goes there, but ICMP has no ports to be named by */
        {"udp://10.0.0.0/8:* -10.1.0.0/16", "10.1.1.1:9", ACL_UDP, ACL_RULE_DENY, "10.1.0.0/16"},
        {"udp://10.0.0.0/8:* -:9", "10.1.1.1:9", ACL_UDP, ACL_RULE_DENY, ":9"},
        {"udp://10.0.0.0/8:* -tcp://10.1.0.0/16:9", "10.1.1.1:9", ACL_UDP, ACL_RULE_ALLOW,
         "udp://10.0.0.0/8:*"},
        {"10.0.0.0/8 -udp://10.1.0.0/16:9", "10.1.1.1:9", ACL_TCP, ACL_RULE_ALLOW, "10.0.0.0/8"},
        {"10.0.0.0/8 -tcp://10.1.0.0/16:9", "10.1.1.1:9", ACL_TCP, ACL_RULE_DENY, "tcp://10.1.0.0/16:9"},
        {"icmp://10.0.0.0/8 -10.1.0.0/16", "10.1.1.1", ACL_ICMP, ACL_RULE_DENY, "10.1.0.0/16"},
        {"icmp://10.0.0.0/8 -10.1.0.0/16:9", "10.1.1.1", ACL_ICMP, ACL_RULE_ALLOW, "icmp://10.0.0.0/8"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct acl_policy *policy = policy_of(cases[i].rules);
        struct addr a = address(cases[i].address);
        struct acl_verdict v = acl_policy_judge_address_for(policy, cases[i].protocol, &a);
        check_verdict(cases[i].rules, &v, cases[i].reason, cases[i].rule);
        acl_policy_destroy(policy);
    }
}

static void networks_are_named_for_a_protocol(void **state)
{
    (void)state;
    struct acl_policy *policy = policy_of("udp://10.1.1.1:123 icmp://10.2.0.0/16 10.3.0.0/16:22 udp://0.0.0.0/0:9");
    struct addr udp = address("10.1.1.1:123"), icmp = address("10.2.1.1"), tcp = address("10.3.1.1:22"),
                none = address("10.4.1.1:9");
    assert_true(acl_policy_names_network_for(policy, ACL_UDP, &udp));
    assert_false(acl_policy_names_network_for(policy, ACL_TCP, &udp));
    assert_false(acl_policy_names_network(policy, &udp));
    assert_true(acl_policy_names_network_for(policy, ACL_ICMP, &icmp));
    assert_false(acl_policy_names_network_for(policy, ACL_UDP, &icmp));
    assert_true(acl_policy_names_network_for(policy, ACL_TCP, &tcp));
    assert_false(acl_policy_names_network_for(policy, ACL_UDP, &tcp));
    assert_false(acl_policy_names_network_for(policy, ACL_UDP, &none));
    udp.port = tcp.port = 0; /* what DNS asks: may the address be told at all? */
    assert_true(acl_policy_names_network(policy, &udp));
    assert_true(acl_policy_names_network(policy, &icmp));
    assert_true(acl_policy_names_network(policy, &tcp));
    acl_policy_destroy(policy);
}

static bool gather_packet_rule(const struct acl_rule *rule, const char *text, void *arg)
{
    char *all = arg;
    sprintf(all + strlen(all), "%s%s ", rule->deny ? "-" : "", text);
    return true;
}

static void rules_for_packets_are_listed(void **state)
{
    (void)state;
    struct acl_policy *policy = policy_of("a.test udp://a.test:123 -b.test 10.0.0.0/8 -10.1.0.0/16 "
                                          "-tcp://10.2.0.0/16:1 udp://10.0.0.0/8:5-7 icmp://c.test -udp://*:6");
    char all[400] = "";
    acl_policy_each_packet_rule(policy, gather_packet_rule, all);
    assert_string_equal(all, "udp://a.test:123 -10.1.0.0/16 udp://10.0.0.0/8:5-7 icmp://c.test -udp://*:6 ");
    assert_true(acl_policy_allows_icmp(policy));
    size_t count;
    const struct acl_port_range *ports = acl_policy_udp_ports(policy, &count);
    assert_int_equal(count, 2);
    assert_true(ports[0].low == 5 && ports[0].high == 7 && ports[1].low == 123 && ports[1].high == 123);
    char names[2][ACL_NAME_MAX + 1];
    assert_int_equal(acl_policy_packet_names(policy, ACL_UDP, 123, names, 2), 1);
    assert_string_equal(names[0], "a.test");
    assert_int_equal(acl_policy_packet_names(policy, ACL_UDP, 6, names, 2), 0); /* by address, and a deny rule */
    assert_int_equal(acl_policy_packet_names(policy, ACL_ICMP, 0, names, 2), 1);
    assert_string_equal(names[0], "c.test");
    assert_int_equal(acl_policy_packet_names(policy, ACL_ICMP, 0, names, 0), 0);
    acl_policy_ports(policy, &count);
    assert_int_equal(count, 1); /* 1-65535, of 10.0.0.0/8: what UDP rules name is not among TCP's */
    acl_policy_destroy(policy);
    policy = policy_of("a.test -udp://a.test:9 -icmp://a.test");
    acl_policy_udp_ports(policy, &count);
    assert_int_equal(count, 0);
    assert_false(acl_policy_allows_icmp(policy));
    assert_false(acl_policy_denies_names(policy)); /* for TCP */
    acl_policy_destroy(policy);
}

static void ports_are_merged(void **state)
{
    (void)state;
    static const struct {
        const char *rules, *ports;
    } cases[] = {
        {"", "80 443"},
        {"a.test https://b.test http://c.test", "80 443"},
        {"tcp://a.test:22", "22 80 443"},
        {"tcp://a.test:79 https://a.test:81 http://a.test:82", "79-82 443"},
        {"tcp://a.test:100-200 tcp://b.test:150-300 :301", "80 100-301 443"},
        {"https://a.test:8443 https://b.test:8443", "80 443 8443"},
        {"192.0.2.1", "1-65535"},
        {":65535 :1", "1 80 443 65535"},
        {"-tcp://a.test:22 -10.0.0.0/8", "80 443"}, /* denied ports are closed, not captured */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct acl_policy *policy = policy_of(cases[i].rules);
        char text[200] = "";
        size_t count, used = 0;
        const struct acl_port_range *ports = acl_policy_ports(policy, &count);
        for (size_t k = 0; k < count; k++) {
            const char *space = k ? " " : "";
            used += (size_t)(ports[k].low == ports[k].high
                                 ? snprintf(text + used, sizeof(text) - used, "%s%u", space, ports[k].low)
                                 : snprintf(text + used, sizeof(text) - used, "%s%u-%u", space, ports[k].low,
                                            ports[k].high));
        }
        assert_string_equal(text, cases[i].ports);
        acl_policy_destroy(policy);
    }
}

static void every_port_has_its_use(void **state)
{
    (void)state;
    struct acl_policy *policy =
        policy_of("a.test https://a.test:8443 http://a.test:8000-8443 tcp://*:22 tcp://b.test:443 "
                  ":22 10.0.0.0/8:9000-65535 -tcp://c.test:7");
    for (unsigned port = 0; port <= 65535; port++) {
        unsigned use = 0;
        use |= port == 443 || port == 8443 ? ACL_PORT_TLS : 0;
        use |= port == 80 || (port >= 8000 && port <= 8443) ? ACL_PORT_HTTP : 0;
        use |= port == 22 || port == 443 ? ACL_PORT_TCP_NAME : 0;
        use |= port == 22 || port >= 9000 ? ACL_PORT_ADDRESS : 0;
        if (acl_policy_port_use(policy, (uint16_t)port) != use)
            fail_msg("port %u is %x, not %x", port, acl_policy_port_use(policy, (uint16_t)port), use);
    }
    acl_policy_destroy(policy);
}

static bool count_and_stop(const struct acl_rule_view *rule, void *arg)
{
    unsigned *count = arg;
    assert_int_equal(rule->origin.line, ++*count);
    static const char *const texts[] = {"A.test", "a.test", "*", "10.0.0.0/8", ":22", "a.test"};
    assert_string_equal(rule->text, texts[*count - 1]);
    assert_int_equal(rule->deny, *count == 2);
    return *count < 5;
}

static void rules_are_listed_as_written(void **state)
{
    (void)state;
    struct acl_policy *policy = policy_of("A.test -a.test * 10.0.0.0/8 :22 a.test");
    unsigned count = 0;
    acl_policy_each(policy, count_and_stop, &count);
    assert_int_equal(count, 5); /* the callback stopped it */
    acl_policy_destroy(policy);
}

static void repeated_rules_answer_with_the_first(void **state)
{
    (void)state;
    struct acl_policy *policy = policy_of("b.test a.test a.test A.TEST https://a.test https://a.test");
    struct acl_verdict v = acl_policy_judge_name(policy, ACL_TLS, "a.test", 6, 443);
    check_verdict("repeated", &v, ACL_RULE_ALLOW, "a.test");
    assert_int_equal(v.rule.origin.line, 2);
    acl_policy_destroy(policy);
}

static void options_are_kept(void **state)
{
    (void)state;
    struct acl_policy *policy = acl_policy_create("options");
    assert_string_equal(acl_policy_name(policy), "options");
    assert_int_equal(acl_policy_mode(policy), ACL_MODE_ENFORCE); /* what is not said is strict */
    assert_int_equal(acl_policy_dns(policy), ACL_DNS_ALLOWED);
    assert_int_equal(acl_policy_bind(policy), ACL_BIND_REDIAL);
    assert_false(acl_policy_ech_denied(policy));
    acl_policy_set_mode(policy, ACL_MODE_AUDIT);
    acl_policy_set_bind(policy, ACL_BIND_STRICT);
    acl_policy_set_ech_denied(policy, true);
    assert_int_equal(acl_policy_mode(policy), ACL_MODE_AUDIT);
    assert_int_equal(acl_policy_bind(policy), ACL_BIND_STRICT);
    assert_true(acl_policy_ech_denied(policy));
    acl_policy_destroy(policy);
    acl_policy_destroy(NULL);

    static const struct {
        const char *rules;
        bool denies;
    } denying[] = {{"a.test", false}, {"-10.0.0.0/8 -:22", false}, {"-a.test", true}, {"-tcp://*:22", true}};
    for (size_t i = 0; i < sizeof(denying) / sizeof(*denying); i++) {
        policy = policy_of(denying[i].rules);
        assert_int_equal(acl_policy_denies_names(policy), denying[i].denies);
        acl_policy_destroy(policy);
    }
}

static struct acl_policy *layer_of(const struct acl_policy *base, const char *rules)
{
    struct acl_policy *layer = acl_policy_create_over(base, "layer");
    struct error err;
    assert_non_null(layer);
    for (unsigned line = 100; *rules; line++) {
        size_t length = strcspn(rules, " ");
        bool deny = *rules == '-';
        assert_int_equal(
            acl_policy_add(layer, rules + deny, length - deny, deny, (struct acl_origin){"rules", line}, &err), 0);
        rules += length;
        rules += strspn(rules, " ");
    }
    assert_int_equal(acl_policy_seal(layer), 0);
    return layer;
}

static bool note_rule_text(const struct acl_rule_view *rule, void *arg)
{
    strcat(arg, rule->text);
    strcat(arg, " ");
    return strcmp(rule->text, "last.example") != 0;
}

/* What the layers say together is what one policy with all their rules says. */
static void layers_add_up(void **state)
{
    static const char *const names[] = {"a.example", "b.example", "x.w.example", "new.example", "other.example", "u.z.example"};
    static const char *const addresses[] = {"10.1.2.3", "10.9.9.9", "192.0.2.1", "198.51.100.7"};
    static const uint16_t ports[] = {22, 80, 443, 5432, 8443};
    static const char first[] = "a.example b.example *.w.example -*.z.example 10.0.0.0/8:5432 tcp://b.example:22";
    static const char second[] = "new.example -b.example u.z.example -10.9.0.0/16 https://a.example:8443 :22";
    static const char third[] = "b.example -x.w.example last.example";
    (void)state;
    char all[512];
    snprintf(all, sizeof(all), "%s %s %s", first, second, third);
    struct acl_policy *base = policy_of(first), *middle = layer_of(base, second), *top = layer_of(middle, third), *model = policy_of(all);
    for (size_t n = 0; n < sizeof(names) / sizeof(*names); n++) {
        for (size_t p = 0; p < sizeof(ports) / sizeof(*ports); p++) {
            for (int protocol = ACL_TLS; protocol <= ACL_TCP; protocol++) {
                struct acl_verdict l = acl_policy_judge_name(top, (enum acl_protocol)protocol, names[n], strlen(names[n]), ports[p]);
                struct acl_verdict m = acl_policy_judge_name(model, (enum acl_protocol)protocol, names[n], strlen(names[n]), ports[p]);
                if (l.allowed != m.allowed || l.reason != m.reason)
                    fail_msg("%s:%u: %s, not %s", names[n], ports[p], acl_reason_name(l.reason), acl_reason_name(m.reason));
            }
        }
        assert_int_equal(acl_policy_judge_dns(top, names[n], strlen(names[n])).reason,
                         acl_policy_judge_dns(model, names[n], strlen(names[n])).reason);
    }
    for (size_t i = 0; i < sizeof(addresses) / sizeof(*addresses); i++) {
        for (size_t p = 0; p < sizeof(ports) / sizeof(*ports); p++) {
            struct addr a;
            assert_true(addr_parse(addresses[i], strlen(addresses[i]), &a));
            a.port = ports[p];
            assert_int_equal(acl_policy_judge_address(top, &a).reason, acl_policy_judge_address(model, &a).reason);
            assert_int_equal(acl_policy_names_network(top, &a), acl_policy_names_network(model, &a));
        }
    }
    for (unsigned port = 0; port <= 65535; port++)
        assert_int_equal(acl_policy_port_use(top, (uint16_t)port), acl_policy_port_use(model, (uint16_t)port));
    size_t l_count, m_count;
    const struct acl_port_range *l = acl_policy_ports(top, &l_count), *m = acl_policy_ports(model, &m_count);
    assert_int_equal(l_count, m_count);
    assert_memory_equal(l, m, l_count * sizeof(*l));
    char listed[512] = "";
    acl_policy_each(top, note_rule_text, listed);
    assert_string_equal(listed, "a.example b.example *.w.example *.z.example 10.0.0.0/8:5432 tcp://b.example:22 "
                                "new.example b.example u.z.example 10.9.0.0/16 https://a.example:8443 :22 "
                                "b.example x.w.example last.example ");
    assert_true(acl_policy_denies_names(top));
    assert_false(acl_policy_judges_requests(top));
    assert_ptr_equal(acl_policy_base(top), middle);
    assert_null(acl_policy_base(base));
    acl_policy_destroy(top);
    acl_policy_destroy(middle);
    acl_policy_destroy(base);
    acl_policy_destroy(model);
}

static void a_layer_over_a_million_names_is_small(void **state)
{
    struct acl_policy *base = acl_policy_create("test");
    size_t text;
    struct error err;
    (void)state;
    for (unsigned i = 0; i < 1000000; i++) {
        char name[32];
        int length = snprintf(name, sizeof(name), "n%u.example", i);
        assert_int_equal(acl_policy_add(base, name, (size_t)length, false, (struct acl_origin){"rules", i + 1}, &err), 0);
    }
    acl_policy_seal(base);
    struct acl_policy *layer = layer_of(base, "-n77.example");
    assert_true(acl_policy_memory(layer, &text) < 4096);
    assert_int_equal(acl_policy_judge_name(layer, ACL_TLS, "n77.example", 11, 443).reason, ACL_RULE_DENY);
    assert_int_equal(acl_policy_judge_name(layer, ACL_TLS, "n78.example", 11, 443).reason, ACL_RULE_ALLOW);
    acl_policy_destroy(layer);
    acl_policy_destroy(base);
}

static void bad_rules_leave_no_trace(void **state)
{
    (void)state;
    struct acl_policy *policy = acl_policy_create("test");
    struct error err = {0};
    unsigned count = 0;
    assert_int_equal(acl_policy_add(policy, "*bad.test", 9, false, (struct acl_origin){"f", 1}, &err),
                     -EINVAL);
    assert_non_null(strstr(err.text, "*.bad.test"));
    acl_policy_each(policy, count_and_stop, &count);
    assert_int_equal(count, 0);
    assert_int_equal(acl_policy_seal(policy), 0);
    assert_int_equal(acl_policy_seal(policy), 0); /* twice is once */
    assert_int_equal(acl_policy_add(policy, "a.test", 6, false, (struct acl_origin){"f", 1}, &err), -EINVAL);
    assert_non_null(strstr(err.text, "takes no more rules"));
    acl_policy_destroy(policy);
}

static void origins_are_copied(void **state)
{
    (void)state;
    struct acl_policy *policy = acl_policy_create("test");
    for (unsigned i = 0; i < 300; i++) {
        char file[20], rule[20];
        snprintf(file, sizeof(file), "file%u", i % 100);
        int length = snprintf(rule, sizeof(rule), "n%u.test", i);
        assert_int_equal(
            acl_policy_add(policy, rule, (size_t)length, false, (struct acl_origin){file, i}, NULL), 0);
    }
    assert_int_equal(acl_policy_add(policy, "none.test", 9, false, (struct acl_origin){NULL, 0}, NULL), 0);
    assert_int_equal(acl_policy_seal(policy), 0);
    struct acl_verdict v = acl_policy_judge_name(policy, ACL_TLS, "n217.test", 9, 443);
    assert_string_equal(v.rule.origin.file, "file17");
    assert_int_equal(v.rule.origin.line, 217);
    v = acl_policy_judge_name(policy, ACL_TLS, "none.test", 9, 443);
    assert_true(v.allowed);
    assert_string_equal(v.rule.origin.file, "");
    acl_policy_destroy(policy);
}

/* ---- against a model: small names over a small alphabet, so that nearly everything meets ---- */

struct model_rule {
    char text[40];
    const char *name; /* in text, behind "*." */
    bool wildcard, deny;
};

static bool model_matches(const struct model_rule *rule, const char *name)
{
    size_t length = strlen(name), tail = strlen(rule->name);
    if (!rule->wildcard)
        return strcmp(rule->name, name) == 0;
    return length > tail + 1 && name[length - tail - 1] == '.' &&
           strcmp(name + length - tail, rule->name) == 0;
}

static void random_name(char ret[20])
{
    int labels = 1 + rand() % 4, at = 0;
    for (int i = 0; i < labels; i++) {
        if (i)
            ret[at++] = '.';
        ret[at++] = (char)('a' + rand() % 3);
        if (rand() % 4 == 0)
            ret[at++] = (char)('a' + rand() % 3);
    }
    ret[at] = 0;
}

static void the_table_agrees_with_a_slow_model(void **state)
{
    (void)state;
    srand(20240607);
    for (int round = 0; round < 200; round++) {
        struct model_rule rules[40];
        size_t count = 1 + (size_t)rand() % 40;
        struct acl_policy *policy = acl_policy_create("model");
        for (size_t i = 0; i < count; i++) {
            char name[20];
            random_name(name);
            rules[i].wildcard = rand() % 2;
            rules[i].deny = rand() % 4 == 0;
            snprintf(rules[i].text, sizeof(rules[i].text), "%s%s", rules[i].wildcard ? "*." : "", name);
            rules[i].name = rules[i].text + (rules[i].wildcard ? 2 : 0);
            assert_int_equal(acl_policy_add(policy, rules[i].text, strlen(rules[i].text), rules[i].deny,
                                            (struct acl_origin){"f", 1}, NULL),
                             0);
        }
        assert_int_equal(acl_policy_seal(policy), 0);
        for (int ask = 0; ask < 100; ask++) {
            char name[20];
            bool allow = false, deny = false;
            random_name(name);
            for (size_t i = 0; i < count; i++) {
                bool matches = model_matches(&rules[i], name);
                deny |= matches && rules[i].deny;
                allow |= matches && !rules[i].deny;
            }
            struct acl_verdict v = acl_policy_judge_name(policy, ACL_TLS, name, strlen(name), 443);
            assert_int_equal(v.reason, deny ? ACL_RULE_DENY : allow ? ACL_RULE_ALLOW : ACL_NO_RULE);
        }
        acl_policy_destroy(policy);
    }
}

/* ---- size ---- */

#define MILLION 1000000

/* Every fourth a wildcard, every third denied. */
static size_t million_rule(unsigned i, char ret[64])
{
    return (size_t)snprintf(ret, 64, "%sh%u.sub%u.example%u.test", i % 4 == 0 ? "*." : "", i, i % 1000,
                            i % 5000);
}

static void check_million(const struct acl_policy *policy, unsigned i)
{
    char rule[64], name[72];
    million_rule(i, rule);
    snprintf(name, sizeof(name), "%s%s", i % 4 == 0 ? "a.b." : "", rule + (i % 4 == 0 ? 2 : 0));
    struct acl_verdict v = acl_policy_judge_name(policy, ACL_TLS, name, strlen(name), 443);
    check_verdict(name, &v, i % 3 == 0 ? ACL_RULE_DENY : ACL_RULE_ALLOW, rule);
    assert_int_equal(v.rule.origin.line, i);
    name[strlen(name) - 1] = 'x'; /* another top level */
    v = acl_policy_judge_name(policy, ACL_TLS, name, strlen(name), 443);
    check_verdict(name, &v, ACL_NO_RULE, NULL);
    if (i % 4 == 0) { /* the apex */
        v = acl_policy_judge_name(policy, ACL_TLS, rule + 2, strlen(rule) - 2, 443);
        check_verdict(rule, &v, ACL_NO_RULE, NULL);
    }
}

static void a_million_names_are_found_in_little_memory(void **state)
{
    (void)state;
    struct acl_policy *policy = acl_policy_create("million");
    size_t text_length = 0, text;
    for (unsigned i = 0; i < MILLION; i++) {
        char rule[64];
        size_t length = million_rule(i, rule);
        text_length += length + 1;
        assert_int_equal(
            acl_policy_add(policy, rule, length, i % 3 == 0, (struct acl_origin){"rules", i}, NULL), 0);
    }
    assert_int_equal(acl_policy_seal(policy), 0);
    size_t bytes = acl_policy_memory(policy, &text);
    assert_int_equal(text, text_length); /* each text is kept once */
    assert_true(bytes - text < (size_t)64 * MILLION);
    for (unsigned i = 0; i < MILLION; i++)
        check_million(policy, i);
    acl_policy_destroy(policy);
}

/* One name again and again, and one name on every port: quadratic work would take minutes here. */
static void crowded_names_build_in_linear_time(void **state)
{
    (void)state;
    struct acl_policy *policy = acl_policy_create("crowded");
    for (unsigned i = 0; i < 200000; i++)
        assert_int_equal(acl_policy_add(policy, "*.a.test", 8, false, (struct acl_origin){"rules", i}, NULL),
                         0);
    for (unsigned port = 1; port <= 65535; port++) {
        char rule[40];
        int length = snprintf(rule, sizeof(rule), "tcp://b.test:%u", port);
        assert_int_equal(
            acl_policy_add(policy, rule, (size_t)length, false, (struct acl_origin){"rules", port}, NULL), 0);
    }
    assert_int_equal(acl_policy_seal(policy), 0);
    for (unsigned i = 0; i < 100000; i++) {
        struct acl_verdict v = acl_policy_judge_name(policy, ACL_TLS, "x.a.test", 8, 443);
        assert_int_equal(v.rule.origin.line, 0); /* the first of them */
        v = acl_policy_judge_name(policy, ACL_TLS, "x.a.test", 8, 444);
        assert_int_equal(v.reason, ACL_NO_RULE); /* walks the whole chain, which is one rule by now */
    }
    struct acl_verdict v = acl_policy_judge_name(policy, ACL_TCP, "b.test", 6, 65535);
    check_verdict("b.test", &v, ACL_RULE_ALLOW, "tcp://b.test:65535");
    size_t count;
    const struct acl_port_range *ports = acl_policy_ports(policy, &count);
    assert_int_equal(count, 1);
    assert_int_equal(ports[0].low, 1);
    assert_int_equal(ports[0].high, 65535);
    acl_policy_destroy(policy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_match_whole_labels),
        cmocka_unit_test(protocols_and_ports_are_kept_apart),
        cmocka_unit_test(deny_beats_allow),
        cmocka_unit_test(the_closest_rule_speaks),
        cmocka_unit_test(what_is_no_name_is_never_allowed),
        cmocka_unit_test(dns_follows_the_names),
        cmocka_unit_test(addresses_match_networks),
        cmocka_unit_test(only_named_networks_open_the_guard),
        cmocka_unit_test(udp_and_icmp_have_their_own_rules),
        cmocka_unit_test(networks_are_named_for_a_protocol),
        cmocka_unit_test(rules_for_packets_are_listed),
        cmocka_unit_test(ports_are_merged),
        cmocka_unit_test(every_port_has_its_use),
        cmocka_unit_test(rules_are_listed_as_written),
        cmocka_unit_test(repeated_rules_answer_with_the_first),
        cmocka_unit_test(options_are_kept),
        cmocka_unit_test(layers_add_up),
        cmocka_unit_test(a_layer_over_a_million_names_is_small),
        cmocka_unit_test(bad_rules_leave_no_trace),
        cmocka_unit_test(origins_are_copied),
        cmocka_unit_test(the_table_agrees_with_a_slow_model),
        cmocka_unit_test(a_million_names_are_found_in_little_memory),
        cmocka_unit_test(crowded_names_build_in_linear_time),
    };
    return cmocka_run_group_tests_name("acl_policy", tests, NULL, NULL);
}
