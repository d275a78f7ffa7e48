/* Unit tests of gateway/refusal.c and report.c: what a denied client, and the person behind it, is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "gateway/refusal.h"
#include "gateway/report.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct acl_policy *policy_of(const char *rule, bool deny)
{
    struct acl_policy *policy = acl_policy_create("agents");
    struct acl_origin origin = {.file = "sallyport.yaml", .line = 12};
    assert_int_equal(acl_policy_add(policy, rule, strlen(rule), deny, origin, NULL), 0);
    assert_int_equal(acl_policy_seal(policy), 0);
    return policy;
}

static void http_names_host_policy_and_rule_needed(void **state)
{
    (void)state;
    char text[4096];
    struct acl_policy *policy = policy_of("good.example", false);
    struct refusal r = {.name = "evil.example", .port = 80, .reason = ACL_NO_RULE, .policy = policy};
    ssize_t length = refusal_http(&r, false, text, sizeof(text));
    assert_true(length > 0);
    assert_memory_equal(text, "HTTP/1.1 403 Forbidden\r\n", 24);
    assert_non_null(strstr(text, "Connection: close\r\n"));
    assert_non_null(strstr(text, "sallyport refused http://evil.example\n"));
    assert_non_null(strstr(text, "reason: no_rule\n"));
    assert_non_null(strstr(text, "policy: agents\n"));
    assert_non_null(strstr(text, "allow: [evil.example]"));
    const char *body = strstr(text, "\r\n\r\n") + 4;
    assert_int_equal(strtol(strstr(text, "Content-Length: ") + 16, NULL, 10), strlen(body));
    assert_int_equal(length, strlen(text));
    r.port = 8080;
    assert_true(refusal_http(&r, false, text, sizeof(text)) > 0);
    assert_non_null(strstr(text, "allow: [\"http://evil.example:8080\"]"));
    acl_policy_destroy(policy);
}

static void http_points_at_the_denying_rule(void **state)
{
    (void)state;
    char text[4096];
    struct acl_policy *policy = policy_of("*.evil.example", true);
    struct acl_verdict verdict = acl_policy_judge_name(policy, ACL_HTTP, "x.evil.example", 14, 80);
    struct refusal r = {
        .name = "x.evil.example", .port = 80, .reason = ACL_RULE_DENY, .policy = policy, .verdict = &verdict};
    assert_true(refusal_http(&r, false, text, sizeof(text)) > 0);
    assert_non_null(strstr(text, "\"*.evil.example\" (sallyport.yaml:12)"));
    acl_policy_destroy(policy);
}

static void head_gets_no_body(void **state)
{
    (void)state;
    char text[4096];
    struct acl_policy *policy = policy_of("good.example", false);
    struct refusal r = {.name = "evil.example", .port = 80, .reason = ACL_NO_RULE, .policy = policy};
    ssize_t length = refusal_http(&r, true, text, sizeof(text));
    assert_memory_equal(text + length - 4, "\r\n\r\n", 4);
    assert_int_equal(refusal_http(&r, false, text, 50), -ENOSPC);
    acl_policy_destroy(policy);
}

static void alerts_are_what_tls_calls_it(void **state)
{
    (void)state;
    static const struct {
        enum acl_reason reason;
        uint8_t description;
    } cases[] = {{ACL_NO_RULE, 49},    {ACL_RULE_DENY, 49},
                 {ACL_NO_SNI, 112},    {ACL_MALFORMED_CLIENT_HELLO, 50},
                 {ACL_DNS_FAILED, 80}, {ACL_DESTINATION_GUARDED, 49}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        uint8_t alert[REFUSAL_ALERT_SIZE];
        const uint8_t expected[] = {21, 3, 3, 0, 2, 2, cases[i].description};
        refusal_alert(cases[i].reason, alert);
        assert_memory_equal(alert, expected, sizeof(expected));
    }
}

static void summary_counts_most_frequent_first(void **state)
{
    (void)state;
    char line[512];
    struct report *report = report_create();
    assert_string_equal(report_line(report, 0, line, sizeof(line)), "");
    report_denied(report, "once.example:443", ACL_NO_RULE);
    report_denied(report, "twice.example:80", ACL_RULE_DENY);
    report_denied(report, "twice.example:80", ACL_RULE_DENY);
    assert_string_equal(report_line(report, 0, line, sizeof(line)),
                        "sallyport: 3 denied: twice.example:80 x2 (rule_deny), once.example:443 (no_rule)");
    report_destroy(report);
}

static void summary_is_bounded_and_printable(void **state)
{
    (void)state;
    char line[4096], what[64];
    struct report *report = report_create();
    report_denied(report, "\x1b[31mred\n", ACL_NO_RULE);
    for (int i = 0; i < 2 * REPORT_MAX; i++) {
        snprintf(what, sizeof(what), "n%d.example", i);
        report_denied(report, what, ACL_NO_RULE);
    }
    report_line(report, 1, line, sizeof(line));
    assert_null(strchr(line, '\n'));
    assert_null(strchr(line, '\x1b'));
    assert_non_null(strstr(line, "513 would have been denied: ?[31mred? (no_rule)"));
    assert_non_null(strstr(line, "and at least 251 more"));
    assert_null(strstr(line, "n5.example"));
    char small[16];
    report_line(report, 0, small, sizeof(small));
    assert_int_equal(strlen(small), 15);
    report_destroy(report);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(http_names_host_policy_and_rule_needed),
        cmocka_unit_test(http_points_at_the_denying_rule),
        cmocka_unit_test(head_gets_no_body),
        cmocka_unit_test(alerts_are_what_tls_calls_it),
        cmocka_unit_test(summary_counts_most_frequent_first),
        cmocka_unit_test(summary_is_bounded_and_printable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
