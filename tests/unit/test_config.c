/*
 * Unit tests of config/: files under tests/configs are refused with the errors they expect, or say what they
 * mean.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "config/presets.h"
#include "config/profiles.h"
#include "config/snapshot.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONFIGS TEST_DATA "/../configs"
#define EXPECT "# expect: "

/* ---- helpers ---- */

static struct config_snapshot *must_load_text(const char *text)
{
    struct config_snapshot *snapshot = NULL;
    struct config_errors errors;
    int r = config_load_text("test.yaml", text, strlen(text), &snapshot, &errors);
    if (r < 0)
        fail_msg("%s", errors.count ? errors.lines[0] : "no error line");
    config_errors_finish(&errors);
    return snapshot;
}

static struct config_snapshot *must_load_file(const char *path)
{
    struct config_snapshot *snapshot = NULL;
    struct config_errors errors;
    int r = config_load_file(path, &snapshot, &errors);
    if (r < 0)
        fail_msg("%s", errors.count ? errors.lines[0] : "no error line");
    config_errors_finish(&errors);
    return snapshot;
}

static struct acl_verdict judge(const struct acl_policy *policy, const char *name)
{
    return acl_policy_judge_name(policy, ACL_TLS, name, strlen(name), 443);
}

static struct acl_verdict judge_tcp(const struct acl_policy *policy, const char *name, uint16_t port)
{
    return acl_policy_judge_name(policy, ACL_TCP, name, strlen(name), port);
}

static struct addr address(const char *text)
{
    struct addr a;
    assert_true(addr_parse_with_port(text, 0, &a));
    return a;
}

static const char *assigned(const struct config_snapshot *snapshot, const char *container, const char *source)
{
    struct addr a = {0};
    if (source)
        a = address(source);
    return acl_policy_name(config_assign(snapshot, container, source ? &a : NULL));
}

/* ---- the files of tests/configs ---- */

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && !strcmp(text + length - end_length, end);
}

static bool is_config(const char *name)
{
    return ends_with(name, ".yaml") || ends_with(name, ".json");
}

/* What a file says it expects, as one text of lines. */
static char *read_expectation(const char *name)
{
    char path[512], *line = NULL, *text = NULL;
    size_t size = 0, text_size = 0;
    snprintf(path, sizeof(path), "%s.expected", name);
    FILE *file = fopen(path, "r");
    bool sibling = file != NULL;
    if (!file)
        file = fopen(name, "r");
    FILE *to = open_memstream(&text, &text_size);
    assert_non_null(file);
    assert_non_null(to);
    while (getline(&line, &size, file) > 0 && (sibling || !strncmp(line, EXPECT, strlen(EXPECT))))
        fputs(sibling ? line : line + strlen(EXPECT), to);
    free(line);
    fclose(file);
    fclose(to);
    return text;
}

static char *join(const char *const *lines, size_t count)
{
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    assert_non_null(to);
    for (size_t i = 0; i < count; i++)
        fprintf(to, "%s\n", lines[i]);
    fclose(to);
    return text;
}

/* Compares and frees. False, with both printed, when they differ. */
static bool same_lines(const char *name, char *got, char *expected)
{
    bool same = !strcmp(got, expected);
    if (!same)
        print_error("%s\n--- expected\n%s--- got\n%s", name, expected, got);
    free(got);
    free(expected);
    return same;
}

static bool check_bad(const char *name)
{
    struct config_snapshot *untouched = (void *)&name, *snapshot = untouched;
    struct config_errors errors;
    int r = config_load_file(name, &snapshot, &errors);
    bool good =
        same_lines(name, join((const char *const *)errors.lines, errors.count), read_expectation(name));
    if (r != -EINVAL || snapshot != untouched || errors.count == 0) {
        print_error("%s: was not refused (%d)\n", name, r);
        good = false;
    }
    config_errors_finish(&errors);
    return good;
}

static bool check_warned(const char *name)
{
    size_t count;
    struct config_snapshot *snapshot = must_load_file(name);
    const char *const *warnings = config_warnings(snapshot, &count);
    bool good = same_lines(name, join(warnings, count), read_expectation(name));
    if (count == 0)
        print_error("%s: no warning\n", name);
    config_unref(snapshot);
    return good && count > 0;
}

/* Everything a snapshot came to, but for file names and lines. */
static bool describe_rule(const struct acl_rule_view *rule, void *to)
{
    fprintf(to, "  %s %s\n", rule->deny ? "deny" : "allow", rule->text);
    return true;
}

static void describe_policy(const struct acl_policy *policy, void *to)
{
    const struct acl_limits *limits = acl_policy_limits(policy);
    fprintf(to, "policy %s: mode %d, dns %d, bind %d, ech denied %d, limits %u %u %u\n", acl_policy_name(policy),
            acl_policy_mode(policy), acl_policy_dns(policy), acl_policy_bind(policy),
            acl_policy_ech_denied(policy), limits->flows, limits->flows_per_second, limits->dns_queries_per_second);
    acl_policy_each(policy, describe_rule, to);
}

static char *describe(const struct config_snapshot *snapshot)
{
    char *text = NULL, address_text[ADDR_TEXT_MAX], resolver_text[CONFIG_RESOLVER_TEXT_MAX];
    size_t size = 0, count;
    FILE *to = open_memstream(&text, &size);
    assert_non_null(to);
    const struct config_resolver *resolvers = config_resolvers(snapshot, &count);
    const struct config_limits *l = config_limits(snapshot);
    for (size_t i = 0; i < count; i++)
        fprintf(to, "resolver %s\n", config_resolver_format(&resolvers[i], resolver_text));
    static const char *const hosts[] = {"db", "both.example.com", "example.com"};
    for (size_t h = 0; h < sizeof(hosts) / sizeof(*hosts); h++) {
        const struct addr *of_host = config_host(snapshot, hosts[h], strlen(hosts[h]), &count);
        for (size_t i = 0; i < count; i++)
            fprintf(to, "host %s %s\n", hosts[h], addr_format(&of_host[i], address_text));
    }
    fprintf(to, "audit %s, on full %d\n", config_audit_file(snapshot) ? config_audit_file(snapshot) : "-",
            config_on_full(snapshot));
    fprintf(to, "limits %u %u %u %u %u %u %u %u %u\n", l->hello_timeout_ms, l->connect_timeout_ms,
            l->idle_timeout_ms, l->udp_idle_timeout_ms, l->half_close_timeout_ms, l->flows_per_container, l->flows_total, l->flows_per_second,
            l->dns_queries_per_second);
    config_each_policy(snapshot, describe_policy, to);
    fprintf(to, "ci: %s, default: %s\n", assigned(snapshot, "ci-1", NULL), assigned(snapshot, NULL, NULL));
    fclose(to);
    return text;
}

static bool check_good(const char *name)
{
    char path[512];
    size_t count;
    struct config_snapshot *yaml = must_load_file(name);
    snprintf(path, sizeof(path), "%.*s.json", (int)(strlen(name) - strlen(".yaml")), name);
    config_warnings(yaml, &count);
    bool good = count == 0;
    if (access(path, F_OK) == 0) {
        struct config_snapshot *json = must_load_file(path);
        good &= same_lines(name, describe(yaml), describe(json));
        config_unref(json);
    }
    config_unref(yaml);
    return good;
}

static void limits_are_inherited_one_by_one(void **state)
{
    (void)state;
    struct config_snapshot *s =
        must_load_text("version: 1\npolicies:\n"
                       "  a: {limits: {flows_per_container: 9, flows_per_second: 7, dns_queries_per_second: 3}}\n"
                       "  b: {extends: a, limits: {flows_per_container: 5}}\n"
                       "  c: {}\n");
    const struct acl_limits *b = acl_policy_limits(config_policy(s, "b"));
    assert_int_equal(b->flows, 5);
    assert_int_equal(b->flows_per_second, 7);
    assert_int_equal(b->dns_queries_per_second, 3);
    assert_int_equal(acl_policy_limits(config_policy(s, "c"))->flows, 0);
    config_unref(s);
}

/* Runs `check` on each config of a folder, from inside it, so that errors name files without a path. */
static unsigned check_folder(const char *folder, const char *ending, bool (*check)(const char *name))
{
    unsigned checked = 0, failed = 0;
    assert_int_equal(chdir(folder), 0);
    DIR *dir = opendir(".");
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (!is_config(entry->d_name) || !ends_with(entry->d_name, ending))
            continue;
        failed += !check(entry->d_name);
        checked++;
    }
    closedir(dir);
    assert_int_equal(failed, 0);
    return checked;
}

static void bad_files_explain_themselves(void **state)
{
    (void)state;
    assert_true(check_folder(CONFIGS "/bad", "", check_bad) >= 60);
}

static void odd_files_are_warned_of(void **state)
{
    (void)state;
    assert_true(check_folder(CONFIGS "/warn", "", check_warned) >= 2);
}

static void yaml_and_json_say_the_same(void **state)
{
    (void)state;
    assert_true(check_folder(CONFIGS "/good", ".yaml", check_good) >= 4);
}

/* ---- what a file means ---- */

static void every_key_is_read(void **state)
{
    (void)state;
    struct config_snapshot *s = must_load_file(CONFIGS "/good/complete.yaml");
    char *got = describe(s);
    char *head = strstr(got, "policy base");
    assert_non_null(head);
    *head = 0;
    assert_string_equal(got, "resolver 192.0.2.53:53\n"
                             "resolver 192.0.2.54:5353\n"
                             "resolver [2001:db8::53]:53\n"
                             "resolver [2001:db8::54]:53\n"
                             "host db 10.20.0.5\n"
                             "host both.example.com 192.0.2.1\n"
                             "host both.example.com 2001:db8::1\n"
                             "audit /var/log/sallyport/audit.jsonl, on full 1\n"
                             "limits 500 20000 7200000 90000 300000 64 1000 50 20\n");
    free(got);
    struct addr inside = address("10.20.255.1:443"), outside = address("10.21.0.1:443"),
                v6 = address("2001:db8:1::9");
    assert_true(config_destination_allowed(s, &inside));
    assert_true(config_destination_allowed(s, &v6));
    assert_false(config_destination_allowed(s, &outside));
    assert_null(config_only_policy(s));
    config_unref(s);
}

static void name_servers_with_tls_are_read(void **state)
{
    (void)state;
    static const char *const expected[] = {
        "tls://192.0.2.53:853#dns.example", "tls://192.0.2.53:8853#dns.example",
        "tls://[2001:db8::53]:853#dns.example", "tls://[2001:db8::53]:8853#dns.example",
        "tls://[2001:db8::53]:853#dns.example"};
    struct config_snapshot *s = must_load_file(CONFIGS "/good/resolvers_tls.yaml");
    char text[CONFIG_RESOLVER_TEXT_MAX];
    size_t count;
    const struct config_resolver *resolvers = config_resolvers(s, &count);
    assert_int_equal(count, sizeof(expected) / sizeof(*expected));
    for (size_t i = 0; i < count; i++)
        assert_string_equal(config_resolver_format(&resolvers[i], text), expected[i]);
    config_unref(s);
}

static void origins_are_reached_and_proven_as_written(void **state)
{
    (void)state;
    static const struct {
        const char *policy;
        enum acl_verify verify;
    } cases[] = {{"base", ACL_VERIFY_ALWAYS}, {"derived", ACL_VERIFY_ALWAYS}, {"other", ACL_VERIFY_FALLBACK}, {"none", ACL_VERIFY_OFF}};
    struct config_snapshot *s = must_load_file(CONFIGS "/good/certificates.yaml");
    char text[ADDR_TEXT_MAX];
    size_t length;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_int_equal(acl_policy_verify(config_policy(s, cases[i].policy)), cases[i].verify);
    assert_int_equal(config_upstream(s)->kind, CONFIG_UPSTREAM_SOCKS5);
    assert_string_equal(addr_format_with_port(&config_upstream(s)->address, text), "[2001:db8::7]:1080");
    assert_int_equal(config_ocsp(s), CONFIG_OCSP_REQUIRE);
    assert_non_null(config_authorities(s, &length));
    assert_true(length > 100);
    config_unref(s);
    s = must_load_text("version: 1\n");
    assert_int_equal(config_upstream(s)->kind, CONFIG_UPSTREAM_NONE);
    assert_int_equal(config_ocsp(s), CONFIG_OCSP_STAPLE);
    assert_null(config_authorities(s, &length));
    config_unref(s);
}

static void defaults_hold_where_nothing_is_written(void **state)
{
    (void)state;
    struct config_snapshot *s = must_load_text("version: 1\npolicies: {web: {allow: [api.example.com]}}\n");
    char *got = describe(s);
    assert_string_equal(got, "audit -, on full 0\n"
                             "limits 10000 15000 3600000 180000 300000 2048 8192 1000 200\n"
                             "policy web: mode 0, dns 0, bind 0, ech denied 0, limits 0 0 0\n"
                             "  allow api.example.com\n"
                             "ci: deny, default: deny\n");
    free(got);
    assert_string_equal(config_only_policy(s), "web");
    assert_null(config_policy(s, "other"));
    config_unref(s);
}

static void the_number_of_workers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        unsigned workers;
    } cases[] = {{"version: 1\n", 1},
                 {"version: 1\ngateway: {workers: 1}\n", 1},
                 {"version: 1\ngateway: {workers: 32}\n", 32},
                 {"version: 1\ngateway: {workers: auto}\n", 0},
                 {"{\"version\": 1, \"gateway\": {\"workers\": \"auto\"}}", 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct config_snapshot *s = must_load_text(cases[i].text);
        assert_int_equal(config_workers(s), cases[i].workers);
        config_unref(s);
    }
}

static void a_policy_inherits_and_overrides(void **state)
{
    (void)state;
    struct config_snapshot *s = must_load_file(CONFIGS "/good/complete.yaml");
    const struct acl_policy *base = config_policy(s, "base"), *web = config_policy(s, "web");
    assert_int_equal(acl_policy_mode(base), ACL_MODE_AUDIT);
    assert_int_equal(acl_policy_mode(web), ACL_MODE_ENFORCE);
    assert_int_equal(acl_policy_bind(web), ACL_BIND_STRICT);
    assert_true(acl_policy_ech_denied(web));
    assert_false(acl_policy_ech_denied(base));
    static const struct {
        const char *name;
        bool base, web;
    } cases[] = {
        {"base.example.com", true, true},   /* inherited */
        {"github.com", true, true},         /* inherited from a preset of the parent */
        {"gist.example.com", false, false}, /* denied by the parent */
        {"api.example.com", false, true},   /* its own */
        {"a.b.example.org", false, true},   /* its own wildcard */
        {"example.org", false, false},      /* whose apex is not meant */
        {"files.example.com", false, true}, /* from allow_files */
        {"a.files.example.com", false, true}, {"tracker.example.com", false, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        if (judge(base, cases[i].name).allowed != cases[i].base ||
            judge(web, cases[i].name).allowed != cases[i].web)
            fail_msg("%s", cases[i].name);
    assert_int_equal(acl_policy_dns(config_policy(s, "offline")), ACL_DNS_OFF);
    assert_int_equal(acl_policy_dns(config_policy(s, "open")), ACL_DNS_ANY);
    assert_true(judge(config_policy(s, "open"), "anything.example").allowed);
    config_unref(s);
}

static void a_verdict_tells_where_its_rule_is_written(void **state)
{
    (void)state;
    assert_int_equal(chdir(CONFIGS "/good"), 0);
    struct config_snapshot *s = must_load_file("complete.yaml");
    const struct acl_policy *web = config_policy(s, "web");
    static const struct {
        const char *name, *file;
        unsigned line;
    } cases[] = {
        {"api.example.com", "complete.yaml", 28},      {"base.example.com", "complete.yaml", 20},
        {"github.com", "preset git-hosts", 0},         {"a.files.example.com", "names/allow.txt", 4},
        {"ads.example.com", "names/hosts.txt", 8},     {"tracker.example.com", "names/hosts.txt", 9},
        {"metrics.example.com", "names/hosts.txt", 9},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct acl_verdict v = judge(web, cases[i].name);
        assert_true(v.has_rule);
        assert_string_equal(v.rule.origin.file, cases[i].file);
        assert_int_equal(v.rule.origin.line, cases[i].line);
    }
    /* The first lines of a hosts file name this machine; they are no rules. */
    assert_false(judge(web, "localhost").has_rule);
    assert_false(judge(web, "broadcasthost").has_rule);
    config_unref(s);
}

static void an_empty_allow_list_allows_nothing(void **state)
{
    (void)state;
    struct config_snapshot *s = must_load_file(CONFIGS "/good/nothing_allowed.yaml");
    static const char *const policies[] = {"empty", "bare", "deny", "airgapped", "strict"};
    struct addr public = address("203.0.113.1:443");
    for (size_t i = 0; i < sizeof(policies) / sizeof(*policies); i++) {
        const struct acl_policy *policy = config_policy(s, policies[i]);
        assert_non_null(policy);
        assert_false(judge(policy, "example.com").allowed);
        assert_false(acl_policy_judge_address(policy, &public).allowed);
        assert_false(acl_policy_judge_dns(policy, "example.com", 11).allowed);
    }
    config_unref(s);
}

static void profiles_are_in_every_snapshot_by_both_names(void **state)
{
    (void)state;
    struct config_snapshot *s = must_load_text("version: 1\n");
    static const char *const names[][2] = {{"unrestricted", "permissive"},
                                           {"agent", "standard"},
                                           {"allowlist", "strict"},
                                           {"airgapped", "airgapped"}};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        assert_non_null(config_policy(s, names[i][0]));
        assert_ptr_equal(config_policy(s, names[i][0]), config_policy(s, names[i][1]));
        assert_string_equal(acl_policy_name(config_policy(s, names[i][1])), names[i][0]);
    }
    const struct acl_policy *all = config_policy(s, "unrestricted");
    struct addr v4 = address("203.0.113.1:22"), v6 = address("[2001:db8::1]:65535");
    assert_true(judge(all, "anything.example").allowed);
    assert_true(acl_policy_judge_name(all, ACL_HTTP, "anything.example", 16, 80).allowed);
    assert_true(acl_policy_judge_address(all, &v4).allowed);
    assert_true(acl_policy_judge_address(all, &v6).allowed);
    assert_false(acl_policy_names_network(all, &v4)); /* "any" opens no private range */
    assert_true(acl_policy_judge_dns(all, "anything.example", 16).allowed);
    config_unref(s);
}

static void the_agent_profile_holds_what_agents_fetch_from(void **state)
{
    (void)state;
    static const char *const hosts[] = {
        "api.anthropic.com",
        "api.openai.com",
        "generativelanguage.googleapis.com",
        "registry.npmjs.org",
        "pypi.org",
        "files.pythonhosted.org",
        "index.crates.io",
        "static.crates.io",
        "crates.io",
        "proxy.golang.org",
        "sum.golang.org",
        "rubygems.org",
        "index.rubygems.org",
        "github.com",
        "gitlab.com",
        "bitbucket.org",
        "objects.githubusercontent.com",
        "raw.githubusercontent.com",
        "codeload.github.com",
        "api.github.com",
        "mise.run",
        "mise.jdx.dev",
        "nodejs.org",
    };
    struct config_snapshot *s = must_load_text("version: 1\n");
    const struct acl_policy *agent = config_policy(s, "agent");
    for (size_t i = 0; i < sizeof(hosts) / sizeof(*hosts); i++)
        if (!judge(agent, hosts[i]).allowed)
            fail_msg("%s", hosts[i]);
    assert_false(judge(agent, "sub.github.com").allowed);
    assert_false(judge(agent, "storage.googleapis.com").allowed);
    assert_false(judge(agent, "example.com").allowed);
    config_unref(s);
}

static int check_host(const struct preset *from, const struct preset_host *host, void *arg)
{
    char name[ACL_NAME_MAX + 1];
    size_t length;
    (void)arg;
    /* Exact names in normal form, each with its reason. */
    if (acl_name_normalise(host->name, strlen(host->name), name, &length) != ACL_NAME_OK ||
        strcmp(name, host->name) || !strchr(name, '.') || strlen(host->why) < 10)
        fail_msg("%s: %s", from->name, host->name);
    return 0;
}

static void presets_are_exact_names_with_reasons(void **state)
{
    (void)state;
    static const char *const names[] = {"package-managers", "git-hosts", "ai-apis", "agent"};
    assert_int_equal(preset_count, sizeof(names) / sizeof(*names));
    for (size_t i = 0; i < preset_count; i++) {
        assert_non_null(preset_find(names[i]));
        preset_each(preset_find(names[i]), check_host, NULL);
    }
    assert_null(preset_find("agents"));
}

static void the_first_assignment_that_matches_wins(void **state)
{
    (void)state;
    struct config_snapshot *s = must_load_file(CONFIGS "/good/complete.yaml");
    static const struct {
        const char *container, *source, *policy;
    } cases[] = {
        {"ci-1", "172.17.0.2", "offline"}, /* container and subnet */
        {"ci-1", "172.16.0.2", "web"},     /* the container alone */
        {"ci-1", NULL, "web"},
        {"ci", NULL, "agent"}, /* the glob asks for the hyphen */
        {"xci-1", NULL, "agent"},
        {"db", "172.18.3.4", "base"},
        {NULL, "172.18.3.4", "base"},
        {"db", "2001:db8::1", "agent"},
        {"quarantine", NULL, "deny"},
        {"lab", NULL, "unrestricted"},
        {NULL, NULL, "agent"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_string_equal(assigned(s, cases[i].container, cases[i].source), cases[i].policy);
    config_unref(s);
}

static void container_globs_match_whole_names(void **state)
{
    (void)state;
    static const struct {
        const char *glob, *name;
        bool match;
    } cases[] = {
        {"*", "", true},
        {"*", "anything", true},
        {"ci-*", "ci-", true},
        {"ci-*", "ci", false},
        {"*-db", "main-db", true},
        {"*-db", "main-db2", false},
        {"a*b*c", "axxbyyc", true},
        {"a*b*c", "axxcyyb", false},
        {"a?c", "abc", true},
        {"a?c", "ac", false},
        {"[ab]", "a", false},
        {"[ab]", "[ab]", true},
        {"*aab", "aaab", true},
        {"Ab", "ab", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char text[256];
        snprintf(text, sizeof(text), "version: 1\nassign: [{container: \"%s\", policy: agent}]\n",
                 cases[i].glob);
        struct config_snapshot *s = must_load_text(text);
        if (strcmp(assigned(s, cases[i].name, NULL), cases[i].match ? "agent" : "deny"))
            fail_msg("%s against %s", cases[i].glob, cases[i].name);
        config_unref(s);
    }
}

/* ---- without a file ---- */

static void rules_alone_make_a_policy(void **state)
{
    (void)state;
    static const char *const rules[] = {"api.example.com", "tcp://git.example.com:22"};
    struct config_snapshot *s = NULL;
    struct config_errors errors;
    assert_int_equal(config_from_rules("command", NULL, rules, 2, &s, &errors), 0);
    config_errors_finish(&errors);
    assert_string_equal(config_only_policy(s), "command");
    const struct acl_policy *policy = config_policy(s, "command");
    struct acl_verdict v = judge(policy, "api.example.com");
    assert_true(v.allowed);
    assert_string_equal(v.rule.origin.file, "--allow");
    assert_int_equal(v.rule.origin.line, 0);
    assert_true(judge_tcp(policy, "git.example.com", 22).allowed);
    assert_false(judge(policy, "github.com").allowed);
    assert_string_equal(assigned(s, "any", NULL), "deny");
    config_unref(s);
}

static void rules_can_start_from_a_profile(void **state)
{
    (void)state;
    static const char *const rules[] = {"api.example.com"};
    struct config_snapshot *s = NULL;
    struct config_errors errors;
    assert_int_equal(config_from_rules("command", "standard", rules, 1, &s, &errors), 0);
    config_errors_finish(&errors);
    assert_true(judge(config_policy(s, "command"), "api.example.com").allowed);
    assert_true(judge(config_policy(s, "command"), "github.com").allowed);
    config_unref(s);
}

static void wrong_rules_are_told_all_at_once(void **state)
{
    (void)state;
    static const char *const rules[] = {"a..b", "api.example.com",
                                        "b\xc3\xbc"
                                        "cher.example"};
    struct config_snapshot *s = NULL;
    struct config_errors errors;
    assert_int_equal(config_from_rules("command", "agnet", rules, 3, &s, &errors), -EINVAL);
    assert_null(s);
    assert_int_equal(errors.count, 3);
    assert_string_equal(
        errors.lines[0],
        "--allow: there is no built-in profile \"agnet\" to add rules to: there are unrestricted, agent, "
        "allowlist and airgapped");
    assert_non_null(strstr(errors.lines[1], "--allow: rule \"a..b\": "));
    assert_non_null(strstr(errors.lines[2], "write \"xn--bcher-kva.example\""));
    config_errors_finish(&errors);
    assert_int_equal(config_from_rules("agent", NULL, rules + 1, 1, &s, &errors), -EINVAL);
    assert_int_equal(errors.count, 1);
    config_errors_finish(&errors);
}

/* ---- files that are no policy files ---- */

static void what_cannot_be_read_is_one_clear_line(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        int r;
        const char *line;
    } cases[] = {
        {"/nonexistent/sallyport.yaml", -ENOENT,
         "/nonexistent/sallyport.yaml: cannot read it: No such file or directory"},
        {"/", -EISDIR, "/: it is a directory, not a file"},
        {"/dev/zero", -EFBIG, "/dev/zero: it is larger than 4 MiB"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct config_snapshot *s = NULL;
        struct config_errors errors;
        assert_int_equal(config_load_file(cases[i].path, &s, &errors), cases[i].r);
        assert_null(s);
        assert_int_equal(errors.count, 1);
        assert_string_equal(errors.lines[0], cases[i].line);
        config_errors_finish(&errors);
    }
}

/* Loads `length` bytes that must be refused with this one line. */
static void assert_refused(const char *text, size_t length, const char *line)
{
    struct config_snapshot *s = NULL;
    struct config_errors errors;
    assert_int_equal(config_load_text("big.yaml", text, length, &s, &errors), -EINVAL);
    assert_null(s);
    assert_int_equal(errors.count, 1);
    assert_string_equal(errors.lines[0], line);
    config_errors_finish(&errors);
}

static void size_depth_and_number_of_values_are_bounded(void **state)
{
    (void)state;
    size_t length = CONFIG_MAX_BYTES + 1;
    char *text = malloc(length);
    assert_non_null(text);
    memset(text, '#', length);
    assert_refused(text, length,
                   "big.yaml: it is larger than 4 MiB: put long lists of names into allow_files and "
                   "deny_files");
    assert_refused(text, length - 1,
                   "big.yaml:1:1: there is nothing in it: a policy file starts with \"version: 1\"");
    memset(text, '[', length);
    assert_refused(text, length - 1, "big.yaml:1:33: nested too deeply");
    text[0] = '[';
    for (size_t i = 1; i < length; i++)
        text[i] = i % 2 ? 'a' : ',';
    assert_refused(text, length - 1,
                   "big.yaml:1:1000000: too many values: put long lists of names into allow_files and "
                   "deny_files");
    free(text);
}

/* Cut anywhere, or with any byte replaced, a file is either whole or refused with a line that says why. */
static void no_damage_goes_unexplained(void **state)
{
    (void)state;
    static const char bytes[] = {0,   '\t', '\n', ' ', '"', '#',        '*',       ':',
                                 '[', '{',  '-',  '&', '!', (char)0x80, (char)0xff};
    char text[4096];
    FILE *file = fopen(CONFIGS "/good/complete.json", "r");
    assert_non_null(file);
    size_t length = fread(text, 1, sizeof(text), file);
    fclose(file);
    assert_true(length > 1000 && length < sizeof(text));
    while (text[length - 1] != '}') /* without its last newline it would still be whole */
        length--;
    for (size_t i = 0; i < length; i++) {
        struct config_snapshot *s = NULL;
        struct config_errors errors;
        int r = config_load_text(CONFIGS "/good/cut", text, i, &s, &errors);
        assert_int_equal(r, -EINVAL);
        assert_true(errors.count >= 1);
        config_errors_finish(&errors);
        char kept = text[i];
        text[i] = bytes[i % sizeof(bytes)];
        r = config_load_text(CONFIGS "/good/bent", text, length, &s, &errors);
        text[i] = kept;
        assert_true(r == 0 ? s != NULL && errors.count == 0 : r == -EINVAL && s == NULL && errors.count >= 1);
        config_errors_finish(&errors);
        config_unref(s);
    }
}

/* ---- long lists ---- */

struct temporary {
    char folder[64], config[96], names[96];
};

static void temporary_create(struct temporary *t, const char *config)
{
    strcpy(t->folder, "/tmp/sallyport-config-XXXXXX");
    assert_non_null(mkdtemp(t->folder));
    snprintf(t->config, sizeof(t->config), "%s/policy.yaml", t->folder);
    snprintf(t->names, sizeof(t->names), "%s/names.txt", t->folder);
    FILE *file = fopen(t->config, "w");
    assert_non_null(file);
    fputs(config, file);
    fclose(file);
}

static void temporary_finish(const struct temporary *t)
{
    unlink(t->config);
    unlink(t->names);
    rmdir(t->folder);
}

static void write_names(const struct temporary *t, const char *format, unsigned count)
{
    FILE *file = fopen(t->names, "w");
    assert_non_null(file);
    for (unsigned i = 0; i < count; i++) {
        fprintf(file, "0.0.0.0 ");
        fprintf(file, strcmp(format, "good") ? "h%u..example.com\n" : "h%u.ads.example.com\n", i);
    }
    fclose(file);
}

static void a_long_list_of_names_is_loaded(void **state)
{
    (void)state;
    struct temporary t;
    temporary_create(&t, "version: 1\npolicies: {web: {allow: [\"*\"], deny_files: [names.txt]}}\n");
    write_names(&t, "good", 300000);
    struct config_snapshot *s = must_load_file(t.config);
    const struct acl_policy *web = config_policy(s, "web");
    assert_true(judge(web, "ads.example.com").allowed);
    assert_false(judge(web, "h0.ads.example.com").allowed);
    struct acl_verdict v = judge(web, "h299999.ads.example.com");
    assert_false(v.allowed);
    assert_string_equal(v.rule.origin.file, t.names);
    assert_int_equal(v.rule.origin.line, 300000);
    config_unref(s);
    temporary_finish(&t);
}

static void a_long_list_of_mistakes_is_counted(void **state)
{
    (void)state;
    struct temporary t;
    struct config_snapshot *s = NULL;
    struct config_errors errors;
    char last[160];
    temporary_create(&t, "version: 1\npolicies: {web: {deny_files: [names.txt]}}\n");
    write_names(&t, "bad", 5000);
    assert_int_equal(config_load_file(t.config, &s, &errors), -EINVAL);
    assert_int_equal(errors.count, 101);
    snprintf(last, sizeof(last), "%s: and 4900 more", t.config);
    assert_string_equal(errors.lines[100], last);
    config_errors_finish(&errors);
    temporary_finish(&t);
}

static void the_version_tells_what_was_loaded_apart(void **state)
{
    (void)state;
    struct temporary t;
    char versions[4][16];
    temporary_create(&t, "version: 1\npolicies: {web: {deny_files: [names.txt]}}\n");
    for (unsigned i = 0; i < 3; i++) {
        write_names(&t, "good", i == 0 ? 1 : 2); /* the same text, another list; then the same again */
        struct config_snapshot *s = must_load_file(t.config);
        snprintf(versions[i], sizeof(versions[i]), "%s", config_version(s));
        config_unref(s);
    }
    temporary_finish(&t);
    assert_int_equal(strspn(versions[0], "0123456789abcdef"), 12);
    assert_int_equal(strlen(versions[0]), 12);
    assert_string_not_equal(versions[0], versions[1]);
    assert_string_equal(versions[1], versions[2]);
}

static void a_snapshot_lives_as_long_as_its_last_user(void **state)
{
    (void)state;
    struct config_snapshot *s = must_load_text("version: 1\npolicies: {web: {allow: [api.example.com]}}\n");
    struct config_snapshot *second = config_ref(s);
    assert_ptr_equal(second, s);
    config_unref(s);
    assert_true(judge(config_policy(second, "web"), "api.example.com").allowed);
    config_unref(second);
    config_unref(NULL);
}

static const char *policy_in(const struct config_snapshot *s, const char *network, const char *source)
{
    struct addr a;
    assert_true(addr_parse(source, strlen(source), &a));
    return acl_policy_name(config_network_policy(s, network, &a));
}

static void networks_are_read_and_give_sources_their_policy(void **state)
{
    (void)state;
    size_t count;
    struct config_snapshot *s = must_load_text("version: 1\n"
                                               "policies: {a: {}, b: {}, c: {}}\n"
                                               "assign:\n"
                                               "  - {container: \"*\", policy: c}\n"
                                               "  - {subnet: 10.0.0.0/8, policy: a}\n"
                                               "default: b\n"
                                               "networks:\n"
                                               "  - {name: docker, interface: [docker0, \"br-*\"]}\n"
                                               "  - {name: lab, interface: eth1, subnets: [10.9.0.0/16, \"2001:db8::/32\"], "
                                               "capture: tproxy, policy: c}\n");
    const struct config_network *networks = config_networks(s, &count);
    assert_int_equal(count, 2);
    assert_string_equal(networks[0].interfaces[1], "br-*");
    assert_int_equal(networks[0].subnet_count, 0);
    assert_ptr_equal(config_network(s, "lab"), &networks[1]);
    assert_false(networks[0].transparent);
    assert_true(networks[1].transparent);
    assert_int_equal(networks[1].subnet_count, 2);
    assert_null(config_network(s, "other"));
    /* By the assign rules, but for those by container, which a network does not tell apart; or by its own policy. */
    assert_string_equal(policy_in(s, "docker", "10.1.2.3"), "a");
    assert_string_equal(policy_in(s, "docker", "2001:db8::1"), "b");
    assert_string_equal(policy_in(s, "lab", "10.1.2.3"), "c");
    assert_string_equal(policy_in(s, "gone", "10.1.2.3"), "deny");
    config_unref(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(networks_are_read_and_give_sources_their_policy),
        cmocka_unit_test(limits_are_inherited_one_by_one),
        cmocka_unit_test(bad_files_explain_themselves),
        cmocka_unit_test(odd_files_are_warned_of),
        cmocka_unit_test(yaml_and_json_say_the_same),
        cmocka_unit_test(every_key_is_read),
        cmocka_unit_test(name_servers_with_tls_are_read),
        cmocka_unit_test(origins_are_reached_and_proven_as_written),
        cmocka_unit_test(defaults_hold_where_nothing_is_written),
        cmocka_unit_test(the_number_of_workers),
        cmocka_unit_test(a_policy_inherits_and_overrides),
        cmocka_unit_test(a_verdict_tells_where_its_rule_is_written),
        cmocka_unit_test(an_empty_allow_list_allows_nothing),
        cmocka_unit_test(profiles_are_in_every_snapshot_by_both_names),
        cmocka_unit_test(the_agent_profile_holds_what_agents_fetch_from),
        cmocka_unit_test(presets_are_exact_names_with_reasons),
        cmocka_unit_test(the_first_assignment_that_matches_wins),
        cmocka_unit_test(container_globs_match_whole_names),
        cmocka_unit_test(rules_alone_make_a_policy),
        cmocka_unit_test(rules_can_start_from_a_profile),
        cmocka_unit_test(wrong_rules_are_told_all_at_once),
        cmocka_unit_test(what_cannot_be_read_is_one_clear_line),
        cmocka_unit_test(size_depth_and_number_of_values_are_bounded),
        cmocka_unit_test(no_damage_goes_unexplained),
        cmocka_unit_test(a_long_list_of_names_is_loaded),
        cmocka_unit_test(a_long_list_of_mistakes_is_counted),
        cmocka_unit_test(the_version_tells_what_was_loaded_apart),
        cmocka_unit_test(a_snapshot_lives_as_long_as_its_last_user),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
