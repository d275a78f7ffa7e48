/* Unit tests of acl/request.c, and of what policies say of single requests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "acl/policy.h"

#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static void paths_have_one_form(void **state)
{
    (void)state;
    static const struct {
        const char *target, *path; /* path NULL: ambiguous */
    } cases[] = {
        {"/", "/"},
        {"/a/b", "/a/b"},
        {"/a/b/", "/a/b/"},
        {"/a?b=/../c", "/a"},
        {"/?", "/"},
        {"/%7euser", "/~user"},
        {"/%41%2d%2e%5f", "/A-._"},
        {"/a%20b", "/a%20b"},
        {"/%e9", "/%E9"},
        {"/%3f%23%3b", "/%3F%23%3B"},
        {"/100%25", "/100%25"},
        {"/%40scope", "/@scope"},
        {"/.well-known/x", "/.well-known/x"},
        {"/...", "/..."},
        {"/a..b", "/a..b"},
        {"", NULL},
        {"*", NULL},
        {"a/b", NULL},
        {"?a", NULL},
        /* dot segments, however they are written */
        {"/.", NULL},
        {"/..", NULL},
        {"/a/../b", NULL},
        {"/a/./b", NULL},
        {"/a/..", NULL},
        {"/a/%2e%2E/b", NULL},
        {"/a/.%2e/b", NULL},
        /* what servers disagree about */
        {"//a", NULL},
        {"/a//b", NULL},
        {"/a//", NULL},
        {"/a\\b", NULL},
        {"/a%5cb", NULL},
        {"/a%2fb", NULL},
        {"/a%2F..%2Fb", NULL},
        {"/a;x/b", NULL},
        {"/..;/b", NULL},
        {"/%252e%252e/b", NULL},
        {"/%25%32%66b", NULL}, /* encoded twice, the digits by themselves */
        {"/%252%66b", NULL},
        {"/%25%32fb", NULL},
        {"/%25%7a/%25", "/%25z/%25"},
        {"/a%00", NULL},
        {"/a%0d%0a", NULL},
        {"/a%7f", NULL},
        {"/a\x80", NULL},
        {"/a%", NULL},
        {"/a%4", NULL},
        {"/a%4g", NULL},
        {"/a\x01", NULL},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char path[ACL_PATH_MAX + 1] = "untouched";
        size_t length = strlen(cases[i].target), got = 4711;
        char *exact = malloc(length ? length : 1);
        memcpy(exact, cases[i].target, length);
        const char *why = acl_path_normalise(exact, length, path, &got);
        free(exact);
        if (!cases[i].path != (why != NULL))
            fail_msg("%s: %s", cases[i].target, why ? why : "was taken");
        assert_string_equal(path, cases[i].path ? cases[i].path : "untouched");
        assert_int_equal(got, cases[i].path ? strlen(cases[i].path) : 4711);
    }
}

static void long_paths_are_ambiguous(void **state)
{
    (void)state;
    static char target[70000];
    char path[ACL_PATH_MAX + 1];
    size_t length;
    memset(target, 'a', sizeof(target));
    target[0] = '/';
    assert_null(acl_path_normalise(target, ACL_PATH_MAX - 2, path, &length));
    assert_int_equal(length, ACL_PATH_MAX - 2);
    assert_non_null(acl_path_normalise(target, ACL_PATH_MAX + 1, path, &length));
    assert_non_null(acl_path_normalise(target, sizeof(target), path, &length));
}

static void patterns_match_whole_paths(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *path;
        bool matches;
    } cases[] = {
        {"/", "/", true},
        {"/", "/a", false},
        {"/a", "/a", true},
        {"/a", "/a/", false},
        {"/a", "/ab", false},
        {"/a", "/A", false},
        {"/*", "/", true},
        {"/*", "/a/b", true},
        {"/api/*", "/api/", true},
        {"/api/*", "/api/a/b", true},
        {"/api/*", "/api", false},
        {"/api/*", "/apix/a", false},
        {"/v*", "/v1/a", true},
        {"/v*", "/w", false},
        {"/a/*/c", "/a/b/c", true},
        {"/a/*/c", "/a//c", false},
        {"/a/*/c", "/a/b/b/c", false},
        {"/a/*/c", "/a/b/", false},
        {"/*/c/*", "/a/c/d/e", true},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        if (acl_path_matches(cases[i].pattern, strlen(cases[i].pattern), cases[i].path,
                             strlen(cases[i].path)) != cases[i].matches)
            fail_msg("%s %s", cases[i].pattern, cases[i].path);
}

/* ---- policies ---- */

static struct acl_policy *build(const char *const *allow, const char *const *deny)
{
    struct acl_policy *policy = acl_policy_create("test");
    struct error err;
    assert_non_null(policy);
    for (int i = 0; i < 2; i++) {
        for (const char *const *rule = i ? deny : allow; rule && *rule; rule++)
            if (acl_policy_add(policy, *rule, strlen(*rule), i, (struct acl_origin){"test", 1}, &err) < 0)
                fail_msg("%s", err.text);
    }
    assert_int_equal(acl_policy_seal(policy), 0);
    return policy;
}

static struct acl_verdict judge(const struct acl_policy *policy, const char *method, const char *name,
                                uint16_t port, const char *target)
{
    const struct acl_request request = {.name = name,
                                        .name_length = strlen(name),
                                        .port = port,
                                        .method = method,
                                        .target = target,
                                        .target_length = strlen(target)};
    return acl_policy_judge_request(policy, &request);
}

static void requests_are_judged_by_method_and_path(void **state)
{
    (void)state;
    static const char *const allow[] = {"GET,HEAD http://api.example.com/v1/*",
                                        "POST http://api.example.com/v1/jobs",
                                        "http://open.example.com",
                                        "POST http://open.example.com:8080",
                                        "web.example.com",
                                        "GET http://*.example.com/public/*",
                                        NULL};
    static const char *const deny[] = {"http://open.example.com/admin/*", "DELETE http://web.example.com",
                                       NULL};
    static const struct {
        const char *method, *name;
        unsigned port;
        const char *target;
        enum acl_reason reason;
    } cases[] = {
        {"GET", "api.example.com", 80, "/v1/x?q=1", ACL_RULE_ALLOW},
        {"HEAD", "api.example.com", 80, "/v1/", ACL_RULE_ALLOW},
        {"POST", "api.example.com", 80, "/v1/jobs", ACL_RULE_ALLOW},
        {"POST", "api.example.com", 80, "/v1/x", ACL_PATH_DENIED},
        {"GET", "api.example.com", 80, "/v2/x", ACL_PATH_DENIED},
        {"GET", "api.example.com", 80, "/v1/../v2", ACL_PATH_DENIED},
        {"GET", "api.example.com", 80, "/v1%2fx", ACL_PATH_DENIED},
        {"PUT", "api.example.com", 80, "/v1/x", ACL_METHOD_DENIED},
        {"BREW", "api.example.com", 80, "/v1/x", ACL_METHOD_DENIED},
        {"get", "api.example.com", 80, "/v1/x", ACL_METHOD_DENIED},
        {"GET", "api.example.com", 8080, "/v1/x", ACL_NO_RULE},
        {"GET", "other.test", 80, "/v1/x", ACL_NO_RULE},
        {"GET", "api.example.com", 80, "/public/a", ACL_RULE_ALLOW}, /* by the wildcard */
        {"GET", "open.example.com", 80, "/", ACL_RULE_ALLOW},
        {"BREW", "open.example.com", 80, "/x", ACL_RULE_ALLOW},
        {"GET", "open.example.com", 80, "/admin/x", ACL_RULE_DENY},
        {"GET", "open.example.com", 80, "/x/../admin/x", ACL_RULE_DENY}, /* maybe */
        {"GET", "open.example.com", 80, "//admin/x", ACL_RULE_DENY},
        {"GET", "open.example.com", 8080, "/", ACL_METHOD_DENIED},
        {"POST", "open.example.com", 8080, "/a//b", ACL_RULE_ALLOW}, /* no rule there is about paths */
        {"GET", "web.example.com", 80, "/a;b//c", ACL_RULE_ALLOW},
        {"DELETE", "web.example.com", 80, "/", ACL_RULE_DENY},
        {"GET", "192.0.2.1", 80, "/", ACL_IP_LITERAL},
    };
    struct acl_policy *policy = build(allow, deny);
    assert_true(acl_policy_judges_requests(policy));
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct acl_verdict v =
            judge(policy, cases[i].method, cases[i].name, (uint16_t)cases[i].port, cases[i].target);
        if (v.reason != cases[i].reason || v.allowed != (v.reason == ACL_RULE_ALLOW))
            fail_msg("%s %s%s: %s", cases[i].method, cases[i].name, cases[i].target,
                     acl_reason_name(v.reason));
        assert_int_equal(v.has_rule, v.reason == ACL_RULE_ALLOW || v.reason == ACL_RULE_DENY);
    }
    acl_policy_destroy(policy);
}

static void an_odd_path_says_why(void **state)
{
    (void)state;
    static const char *const allow[] = {"http://example.com/a/*", NULL};
    struct acl_policy *policy = build(allow, NULL);
    assert_string_equal(judge(policy, "GET", "example.com", 80, "/a/../b").detail,
                        "a dot segment in the path");
    assert_null(judge(policy, "GET", "example.com", 80, "/b").detail);
    assert_null(judge(policy, "GET", "example.com", 80, "/a/b").detail);
    acl_policy_destroy(policy);
}

/* Without a request the question is whether there is any that may pass. */
static void hosts_are_judged_by_their_best_request(void **state)
{
    (void)state;
    static const char *const allow[] = {"GET http://a.example/x", "http://b.example", NULL};
    static const char *const deny[] = {"POST http://b.example", "http://a.example/x/y", NULL};
    struct acl_policy *policy = build(allow, deny);
    assert_true(acl_policy_judge_name(policy, ACL_HTTP, "a.example", 9, 80).allowed);
    assert_true(acl_policy_judge_name(policy, ACL_HTTP, "b.example", 9, 80).allowed);
    assert_false(acl_policy_judge_name(policy, ACL_TLS, "a.example", 9, 443).allowed);
    assert_true(acl_policy_judge_dns(policy, "a.example", 9).allowed);
    acl_policy_destroy(policy);
}

/* Rules that differ only in what they say of requests stay apart, those that do not are kept once. */
static void chains_keep_every_request(void **state)
{
    (void)state;
    static const char *const allow[] = {"GET http://a.example/1",  "GET http://a.example/2",
                                        "HEAD http://a.example/1", "GET http://A.example/1",
                                        "GET http://a.example/22", NULL};
    static const struct {
        const char *method, *target;
        bool allowed;
    } cases[] = {{"GET", "/1", true},  {"GET", "/2", true},   {"GET", "/22", true},
                 {"HEAD", "/1", true}, {"HEAD", "/2", false}, {"GET", "/3", false}};
    struct acl_policy *policy = build(allow, NULL);
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_int_equal(judge(policy, cases[i].method, "a.example", 80, cases[i].target).allowed,
                         cases[i].allowed);
    acl_policy_destroy(policy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_have_one_form),
        cmocka_unit_test(long_paths_are_ambiguous),
        cmocka_unit_test(patterns_match_whole_paths),
        cmocka_unit_test(requests_are_judged_by_method_and_path),
        cmocka_unit_test(an_odd_path_says_why),
        cmocka_unit_test(hosts_are_judged_by_their_best_request),
        cmocka_unit_test(chains_keep_every_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
