/*
 * Unit tests of `sallyport policy`: what is asked, what is answered, and the exit status.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/run_command.h"

#define CONFIGS TEST_DATA "/../configs"
#define NAMED "complete.yaml", "--policy", "web"

static void run_policy(const char *const *args, struct outcome *ret)
{
    run_command(&command_policy, args, ret);
}

struct expectation {
    const char *args[ARGS_MAX + 1];
    int status;
    const char *out, *err; /* the whole of it; NULL: nothing */
};

static void run_all(const struct expectation *cases, size_t count)
{
    static struct outcome got;
    assert_int_equal(chdir(CONFIGS "/good"), 0);
    for (size_t i = 0; i < count; i++) {
        run_policy(cases[i].args, &got);
        const char *out = cases[i].out ? cases[i].out : "", *err = cases[i].err ? cases[i].err : "";
        if (got.status == cases[i].status && !strcmp(got.out, out) && !strcmp(got.err, err))
            continue;
        for (size_t k = 0; cases[i].args[k]; k++)
            print_error("%s ", cases[i].args[k]);
        fail_msg("\nstatus %d, expected %d\nout %sexpected %s\nerr %sexpected %s", got.status,
                 cases[i].status, got.out, out, got.err, err);
    }
}
#define RUN_ALL(cases) run_all(cases, sizeof(cases) / sizeof(*cases))

/* ---- test ---- */

static void targets_are_judged_as_the_gateway_would(void **state)
{
    (void)state;
    static const struct {
        const char *target;
        int status;
        const char *answer; /* up to the reason's explanation */
    } cases[] = {
        {"https://api.example.com/path?query", EXIT_YES,
         "allow: tls api.example.com:443 by policy web: rule \"api.example.com\" (complete.yaml:28), "
         "rule_allow"},
        {"API.example.com.", EXIT_YES,
         "allow: tls api.example.com:443 by policy web: rule \"api.example.com\" (complete.yaml:28), "
         "rule_allow"},
        {"http://api.example.com", EXIT_YES,
         "allow: http api.example.com:80 by policy web: rule \"api.example.com\" (complete.yaml:28), "
         "rule_allow"},
        {"api.example.com:80", EXIT_YES,
         "allow: http api.example.com:80 by policy web: rule \"api.example.com\" (complete.yaml:28), "
         "rule_allow"},
        {"a.b.example.org", EXIT_YES,
         "allow: tls a.b.example.org:443 by policy web: rule \"*.example.org\" (complete.yaml:29), "
         "rule_allow"},
        {"example.org", EXIT_NO, "deny: tls example.org:443 by policy web: no_rule"},
        {"notexample.org", EXIT_NO, "deny: tls notexample.org:443 by policy web: no_rule"},
        {"tcp://git.example.com:22", EXIT_YES,
         "allow: tcp git.example.com:22 by policy web: rule \"tcp://git.example.com:22\" (complete.yaml:30), "
         "rule_allow"},
        {"git.example.com:22", EXIT_YES,
         "allow: tcp git.example.com:22 by policy web: rule \"tcp://git.example.com:22\" (complete.yaml:30), "
         "rule_allow"},
        {"other.example.com:22", EXIT_NO, "deny: tcp other.example.com:22 by policy web: no_rule"},
        {"git.example.com", EXIT_NO, "deny: tls git.example.com:443 by policy web: no_rule"},
        {"git.example.com:23", EXIT_NO, "deny: tcp git.example.com:23 by policy web: port_denied"},
        {"https://example.net:8443", EXIT_YES,
         "allow: tls example.net:8443 by policy web: rule \"https://example.net:8443\" (complete.yaml:31), "
         "rule_allow"},
        {"example.net:8443", EXIT_YES,
         "allow: tls example.net:8443 by policy web: rule \"https://example.net:8443\" (complete.yaml:31), "
         "rule_allow"},
        {"https://example.net", EXIT_NO, "deny: tls example.net:443 by policy web: no_rule"},
        {"10.20.1.2:5432", EXIT_YES,
         "allow: tcp 10.20.1.2:5432 by policy web: rule \"10.20.0.0/16:5432\" (complete.yaml:32), "
         "rule_allow"},
        {"10.21.1.2:5432", EXIT_NO, "deny: tcp 10.21.1.2:5432 by policy web: no_rule"},
        {"[2001:db8:1::7]:5432", EXIT_YES,
         "allow: tcp [2001:db8:1::7]:5432 by policy web: rule \"[2001:db8:1::]/48:5432\" (complete.yaml:33), "
         "rule_allow"},
        {"https://203.0.113.1", EXIT_NO, "deny: tls 203.0.113.1:443 by policy web: no_rule"},
        {"2001:db8::1", EXIT_NO, "deny: tcp [2001:db8::1]:443 by policy web: no_rule"},
        {"ntp.example.com:123", EXIT_YES,
         "allow: tcp ntp.example.com:123 by policy web: rule \":123\" (complete.yaml:34), rule_allow"},
        {"10.99.0.1:123", EXIT_NO,
         "deny: tcp 10.99.0.1:123 by policy web: destination_guarded (private (RFC 1918))"},
        {"10.20.0.1:123", EXIT_YES,
         "allow: tcp 10.20.0.1:123 by policy web: rule \":123\" (complete.yaml:34), rule_allow"}, /* destinations.allow
                                                                                                   */
        {"127.0.0.1:123", EXIT_NO, "deny: tcp 127.0.0.1:123 by policy web: destination_guarded"},
        {"gist.example.com", EXIT_NO,
         "deny: tls gist.example.com:443 by policy web: rule \"gist.example.com\" (complete.yaml:21), "
         "rule_deny"},
        {"tracker.example.com", EXIT_NO,
         "deny: tls tracker.example.com:443 by policy web: rule \"tracker.example.com\" (names/hosts.txt:9), "
         "rule_deny"},
        {"github.com", EXIT_YES,
         "allow: tls github.com:443 by policy web: rule \"github.com\" (preset git-hosts), rule_allow"},
    };
    static struct outcome got;
    assert_int_equal(chdir(CONFIGS "/good"), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        run_policy((const char *const[]){"test", "-c", NAMED, cases[i].target, NULL}, &got);
        if (got.status != cases[i].status || strncmp(got.out, cases[i].answer, strlen(cases[i].answer)) ||
            got.err[0])
            fail_msg("%s: status %d\n%s%s", cases[i].target, got.status, got.out, got.err);
    }
}

static void audit_mode_is_told(void **state)
{
    (void)state;
    static const struct expectation cases[] = {
        {{"test", "-c", "complete.yaml", "--policy", "base", "example.com"},
         EXIT_NO,
         "deny: tls example.com:443 by policy base: no_rule (no rule names it); mode audit lets it through "
         "and logs it\n"
         "  to allow it, write \"example.com\" under allow\n",
         NULL},
    };
    RUN_ALL(cases);
}

static void rules_on_the_command_line_are_a_policy(void **state)
{
    (void)state;
    static const struct expectation cases[] = {
        {{"test", "--allow", "*.example.com", "--allow", "tcp://git.example.com:22", "a.example.com"},
         EXIT_YES,
         "allow: tls a.example.com:443 by policy command-line: rule \"*.example.com\" (--allow), rule_allow "
         "(a rule allows "
         "it)\n"
         "  to deny it, write \"a.example.com\" under deny, or remove the allow rule \"*.example.com\" "
         "(--allow)\n",
         NULL},
        {{"test", "--allow", "*.example.com", "example.com"},
         EXIT_NO,
         "deny: tls example.com:443 by policy command-line: no_rule (no rule names it)\n"
         "  to allow it, write \"example.com\" under allow\n",
         NULL},
        {{"test", "--policy", "agent", "--allow", "example.com", "github.com"},
         EXIT_YES,
         "allow: tls github.com:443 by policy command-line: rule \"github.com\" (preset git-hosts), "
         "rule_allow (a rule "
         "allows it)\n"
         "  to deny it, write \"github.com\" under deny, or remove the allow rule \"github.com\" (preset "
         "git-hosts)\n",
         NULL},
        {{"test", "--allow", "example.com:22", "example.com"},
         EXIT_WRONG,
         NULL,
         "--allow: rule \"example.com:22\": a name with a port needs a scheme; write "
         "https://example.com:PORT, "
         "http://example.com:PORT or tcp://example.com:PORT\n"},
        {{"test", "--json", "--allow", "example.com", "http://example.com"},
         EXIT_YES,
         "{\"target\":\"example.com:80\",\"protocol\":\"http\",\"policy\":\"command-line\",\"mode\":"
         "\"enforce\",\"verdict\":"
         "\"allow\",\"reason\":\"rule_allow\",\"detail\":\"a rule allows "
         "it\",\"change\":\"to deny it, write \\\"example.com\\\" under deny, or remove the allow rule "
         "\\\"example.com\\\" (--allow)\",\"rule\":{\"text\":\"example.com\",\"action\":"
         "\"allow\",\"file\":\"--allow\"}}\n",
         NULL},
    };
    RUN_ALL(cases);
}

static void single_requests_are_judged(void **state)
{
    (void)state;
    static const struct expectation cases[] = {
        {{"test", "--allow", "GET http://a.example/v1/*", "http://a.example/v1/x?y"},
         EXIT_YES,
         "allow: http a.example:80 by policy command-line: rule \"GET http://a.example/v1/*\" (--allow), "
         "rule_allow "
         "(a rule allows it)\n"
         "  to deny it, write \"a.example\" under deny, or remove the allow rule \"GET "
         "http://a.example/v1/*\" "
         "(--allow)\n",
         NULL},
        {{"test", "--allow", "GET http://a.example/v1/*", "--method", "POST", "http://a.example/v1/x"},
         EXIT_NO,
         "deny: http a.example:80 by policy command-line: method_denied (rules allow other methods)\n"
         "  to allow it, write \"POST http://a.example/v1/x\" under allow\n",
         NULL},
        {{"test", "--allow", "GET http://a.example:8080/v1/*", "http://a.example:8080/v1/../v2"},
         EXIT_NO,
         "deny: http a.example:8080 by policy command-line: path_denied (a dot segment in the path)\n"
         "  to allow it, write \"GET http://a.example:8080\" under allow\n",
         NULL},
        {{"test", "--allow", "GET http://a.example/v1/*", "a.example:80"}, /* any request */
         EXIT_YES,
         "allow: http a.example:80 by policy command-line: rule \"GET http://a.example/v1/*\" (--allow), "
         "rule_allow "
         "(a rule allows it)\n"
         "  to deny it, write \"a.example\" under deny, or remove the allow rule \"GET "
         "http://a.example/v1/*\" "
         "(--allow)\n",
         NULL},
        {{"test", "--allow", "a.example", "--method", "GET", "a.example"},
         EXIT_WRONG,
         NULL,
         "sallyport policy: test: methods are seen in plain HTTP only: write http://HOST[:PORT]/PATH\n"},
    };
    RUN_ALL(cases);
}

/* The second line of an answer: what would turn it around. */
static void each_answer_says_what_would_change_it(void **state)
{
    (void)state;
    static const struct {
        const char *target, *advice;
    } cases[] = {
        {"example.net", "to allow it, write \"example.net\" under allow"},
        {"git.example.com:23", "to allow it, write \"tcp://git.example.com:23\" under allow"},
        {"https://git.example.com:23", "to allow it, write \"https://git.example.com:23\" under allow"},
        {"http://other.example.net", "to allow it, write \"other.example.net\" under allow"},
        {"10.21.1.2:5432", "to allow it, write \"10.21.1.2:5432\" under allow"},
        {"10.99.0.1:123",
         "to allow it, write a network that holds 10.99.0.1 under destinations: allow, or as an "
         "address rule"},
        {"127.0.0.1:123", "nothing opens it: loopback (RFC 1122) addresses are guarded always"},
        {"gist.example.com",
         "to allow it, remove the deny rule \"gist.example.com\" (complete.yaml:21), and write "
         "\"gist.example.com\" under allow"},
        {"api.example.com", "to deny it, write \"api.example.com\" under deny, or remove the allow rule "
                            "\"api.example.com\" (complete.yaml:28)"},
        {"ntp.example.com:123",
         "to deny it, write \"ntp.example.com\" under deny, or remove the allow rule \":123\" "
         "(complete.yaml:34)"},
    };
    static struct outcome got;
    assert_int_equal(chdir(CONFIGS "/good"), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        run_policy((const char *const[]){"test", "-c", NAMED, cases[i].target, NULL}, &got);
        const char *line = strchr(got.out, '\n');
        size_t length = strlen(cases[i].advice);
        if (!line || strncmp(line, "\n  ", 3) || strncmp(line + 3, cases[i].advice, length) ||
            line[3 + length] != '\n')
            fail_msg("%s: %s%s", cases[i].target, got.out, got.err);
    }
}

static void packets_are_asked_about_by_scheme(void **state)
{
    (void)state;
    static const struct expectation cases[] = {
        {{"test", "--allow", "udp://ntp.example.com:123", "udp://ntp.example.com:123"},
         EXIT_YES,
         "allow: udp ntp.example.com:123 by policy command-line: rule \"udp://ntp.example.com:123\" (--allow), "
         "rule_allow (a rule allows it)\n  to deny it, write \"ntp.example.com\" under deny, or remove the "
         "allow rule \"udp://ntp.example.com:123\" (--allow)\n",
         NULL},
        {{"test", "--allow", "example.com", "udp://example.com:443"},
         EXIT_NO,
         "deny: udp example.com:443 by policy command-line: no_rule (no rule names it)\n"
         "  to allow it, write \"udp://example.com:443\" under allow\n",
         NULL},
        {{"test", "--allow", "udp://*:*", "udp://example.com:53"},
         EXIT_NO,
         "deny: udp example.com:53 by policy command-line: port_denied (the gateway answers port 53 itself, as "
         "DNS)\n  no single rule would allow it\n",
         NULL},
        {{"test", "--allow", "2001:db8::/32", "icmp://2001:db8::1"},
         EXIT_NO,
         "deny: icmp 2001:db8::1 by policy command-line: no_rule (no rule names it)\n"
         "  to allow it, write \"icmp://2001:db8::1\" under allow\n",
         NULL},
        {{"test", "--allow", "udp://0.0.0.0/0:9", "udp://10.1.1.1:9"},
         EXIT_NO,
         "deny: udp 10.1.1.1:9 by policy command-line: destination_guarded (private (RFC 1918))\n"
         "  to allow it, write a network that holds 10.1.1.1 under destinations: allow, or as an address rule\n",
         NULL},
        {{"test", "--allow", "udp://10.0.0.0/8:9", "udp://10.1.1.1:9"},
         EXIT_YES,
         "allow: udp 10.1.1.1:9 by policy command-line: rule \"udp://10.0.0.0/8:9\" (--allow), rule_allow (a "
         "rule allows it)\n  to deny it, write \"10.1.1.1\" under deny, or remove the allow rule "
         "\"udp://10.0.0.0/8:9\" (--allow)\n",
         NULL},
        {{"test", "--allow", "icmp://example.com", "icmp://example.com"},
         EXIT_YES,
         "allow: icmp example.com by policy command-line: rule \"icmp://example.com\" (--allow), rule_allow (a "
         "rule allows it)\n  to deny it, write \"example.com\" under deny, or remove the allow rule "
         "\"icmp://example.com\" (--allow)\n",
         NULL},
    };
    RUN_ALL(cases);
}

static void wrong_use_says_what_to_write(void **state)
{
    (void)state;
    static const struct expectation cases[] = {
        {{NULL},
         EXIT_WRONG,
         NULL,
         "sallyport policy: say what to do: check, test, show, diff, suggest or import\n"},
        {{"chekc"},
         EXIT_WRONG,
         NULL,
         "sallyport policy: there is no \"chekc\": say check, test, show, diff, suggest or import\n"},
        {{"check"}, EXIT_WRONG, NULL, "sallyport policy: check: name at least one policy file\n"},
        {{"check", "--jsn", "x"},
         EXIT_WRONG,
         NULL,
         "sallyport policy: check: there is no option \"--jsn\"\n"},
        {{"show", "-c"}, EXIT_WRONG, NULL, "sallyport policy: show: -c needs a value\n"},
        {{"show", "a", "b"}, EXIT_WRONG, NULL, "sallyport policy: show: one name at a time, not \"b\" too\n"},
        {{"show", "-c", "smallest.yaml", "agnet"},
         EXIT_WRONG,
         NULL,
         "sallyport policy: show: there is no policy, profile or preset \"agnet\": 'sallyport policy show' "
         "lists them\n"},
        {{"test"}, EXIT_WRONG, NULL, "sallyport policy: test: name a URL, HOST:PORT or HOST to test\n"},
        {{"test", "a", "b"}, EXIT_WRONG, NULL, "sallyport policy: test: one target at a time\n"},
        {{"test", "--policy"}, EXIT_WRONG, NULL, "sallyport policy: test: --policy needs a value\n"},
        {{"test", "--allow", "x", "-c", "y.yaml", "z"},
         EXIT_WRONG,
         NULL,
         "sallyport policy: test: --allow stands for a policy file: write the rules into y.yaml, or leave "
         "out -c\n"},
        {{"test", "--allow", "x", "--policy", "web", "z"},
         EXIT_WRONG,
         NULL,
         "--allow: there is no built-in profile \"web\" to add rules to: there are unrestricted, agent, "
         "allowlist and "
         "airgapped\n"},
        {{"test", "-c", "complete.yaml", "x"},
         EXIT_WRONG,
         NULL,
         "sallyport policy: test: say which policy: --policy NAME ('sallyport policy show' lists them)\n"},
        {{"test", "-c", "complete.yaml", "--policy", "wbe", "x"},
         EXIT_WRONG,
         NULL,
         "sallyport policy: test: there is no policy \"wbe\": 'sallyport policy show' lists them\n"},
        {{"test", "-c", "none.yaml", "x"},
         EXIT_WRONG,
         NULL,
         "none.yaml: cannot read it: No such file or directory\n"},
        {{"test", "-c", NAMED, "ftp://example.com"},
         EXIT_WRONG,
         NULL,
         "sallyport policy: test: \"ftp://example.com\" cannot be tested: write https://, http://, tcp://, "
         "udp:// or icmp:// in front of the host, or no scheme\n"},
        {{"test", "-c", NAMED, "udp://example.com"},
         EXIT_WRONG,
         NULL,
         "sallyport policy: test: \"udp://example.com\" cannot be tested: udp:// needs a port: write "
         "udp://HOST:PORT\n"},
        {{"test", "-c", NAMED, "icmp://example.com:7"},
         EXIT_WRONG,
         NULL,
         "sallyport policy: test: \"icmp://example.com:7\" cannot be tested: ICMP has no ports: write "
         "icmp://HOST\n"},
        {{"test", "-c", NAMED, "tcp://example.com"},
         EXIT_WRONG,
         NULL,
         "sallyport policy: test: \"tcp://example.com\" cannot be tested: tcp:// needs a port: write "
         "tcp://HOST:PORT\n"},
        {{"test", "-c", NAMED, "example.com:https"},
         EXIT_WRONG,
         NULL,
         "sallyport policy: test: \"example.com:https\" cannot be tested: the port has to be a number from 1 "
         "to 65535\n"},
        {{"test", "-c", NAMED, "https://user@example.com"},
         EXIT_WRONG,
         NULL,
         "sallyport policy: test: \"https://user@example.com\" cannot be tested: leave out what stands "
         "before the @\n"},
        {{"test", "-c", NAMED, "a..example.com"},
         EXIT_WRONG,
         NULL,
         "sallyport policy: test: \"a..example.com\" cannot be tested: an empty label (two dots together, or "
         "one in "
         "front)\n"},
        {{"test", "-c", NAMED, "0300.0.2.1"},
         EXIT_WRONG,
         NULL,
         "sallyport policy: test: \"0300.0.2.1\" cannot be tested: an IP address where a name belongs\n"},
    };
    RUN_ALL(cases);
}

/* ---- diff ---- */

static char *read_text(const char *path)
{
    char *text = NULL;
    size_t size = 0;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_true(getdelim(&text, &size, 0, file) > 0);
    fclose(file);
    return text;
}

static void differences_are_told_in_words(void **state)
{
    (void)state;
    static struct outcome got;
    assert_int_equal(chdir(CONFIGS "/diff"), 0);
    char *expected = read_text("old_new.expected");
    run_policy((const char *const[]){"diff", "old.yaml", "new.yaml", NULL}, &got);
    assert_string_equal(got.out, expected);
    assert_int_equal(got.status, EXIT_NO);
    free(expected);
}

static void what_says_the_same_is_no_difference(void **state)
{
    (void)state;
    static struct outcome got;
    static const char *const files[] = {"old.yaml", "new.yaml", "../good/complete.yaml",
                                        "../good/rule_forms.yaml"};
    assert_int_equal(chdir(CONFIGS "/diff"), 0);
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        run_policy((const char *const[]){"diff", files[i], files[i], NULL}, &got);
        assert_string_equal(got.out, "");
        assert_int_equal(got.status, EXIT_YES);
    }
    for (int backwards = 0; backwards < 2; backwards++) {
        run_policy((const char *const[]){"diff", "--policy", "web", backwards ? "same.yaml" : "old.yaml",
                                         backwards ? "old.yaml" : "same.yaml", NULL},
                   &got);
        assert_string_equal(got.out, "");
        assert_int_equal(got.status, EXIT_YES);
    }
    run_policy((const char *const[]){"diff", "old.yaml", "same.yaml", NULL}, &got);
    assert_null(strstr(got.out, "web: "));
    assert_null(strstr(got.out, "old: "));
    assert_int_equal(got.status, EXIT_NO); /* there is a new policy, base */
}

static void diff_is_used_with_two_files(void **state)
{
    (void)state;
    static const struct expectation cases[] = {
        {{"diff", "smallest.yaml"},
         EXIT_WRONG,
         NULL,
         "sallyport policy: diff: name two policy files, the old one and the new one\n"},
        {{"diff", "--policy", "none", "smallest.yaml", "complete.yaml"},
         EXIT_WRONG,
         NULL,
         "sallyport policy: diff: neither file has a policy \"none\"\n"},
        {{"diff", "smallest.yaml", "none.yaml"},
         EXIT_WRONG,
         NULL,
         "none.yaml: cannot read it: No such file or directory\n"},
        {{"diff", "--json", "--policy", "agent", "smallest.yaml", "complete.yaml"}, EXIT_YES, NULL, NULL},
    };
    RUN_ALL(cases);
}

/* ---- suggest ---- */

static void a_log_becomes_the_smallest_policy(void **state)
{
    (void)state;
    static struct outcome got;
    assert_int_equal(chdir(TEST_DATA "/audit"), 0);
    char *expected = read_text("learn.yaml");
    run_policy((const char *const[]){"suggest", "learn.jsonl", NULL}, &got);
    assert_string_equal(got.out, expected);
    assert_string_equal(got.err, "");
    assert_int_equal(got.status, EXIT_YES);
    free(expected);
}

/* Flows that the log let through pass under what was suggested; others do not. */
static void what_was_seen_passes_and_nothing_else(void **state)
{
    (void)state;
    static const struct {
        const char *target;
        int status;
    } cases[] = {
        {"https://registry.example.com", EXIT_YES},
        {"http://registry.example.com", EXIT_NO},
        {"https://www.example.net", EXIT_YES},
        {"http://www.example.net", EXIT_YES},
        {"http://deb.example.net", EXIT_YES},
        {"https://shard7.cdn.example.org", EXIT_YES},
        {"https://cdn.example.org", EXIT_NO},
        {"https://project1.github.io", EXIT_YES},
        {"https://project9.github.io", EXIT_NO},
        {"https://n9.internal", EXIT_NO},
        {"https://three.pair.example.org", EXIT_NO},
        {"tcp://git.example.com:22", EXIT_YES},
        {"10.20.0.7:5432", EXIT_YES},
        {"[2001:db8::7]:5432", EXIT_YES},
        {"10.30.7.7:443", EXIT_YES},
        {"https://tracker.example.com", EXIT_NO},
        {"https://late.example.com", EXIT_NO},
        {"https://evil.example.com", EXIT_NO},
    };
    static struct outcome got;
    assert_int_equal(chdir(TEST_DATA "/audit"), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        run_policy((const char *const[]){"test", "-c", "learn.yaml", cases[i].target, NULL}, &got);
        if (got.status != cases[i].status)
            fail_msg("%s: %s%s", cases[i].target, got.out, got.err);
    }
}

static void suggestions_are_asked_for_in_ways(void **state)
{
    (void)state;
    static const struct {
        const char *args[ARGS_MAX + 1];
        int status;
        const char *has, *has_not; /* in what it prints */
    } cases[] = {
        {{"suggest", "--siblings", "0", "learn.jsonl"}, EXIT_YES, "- https://shard0.cdn.example.org ", "*."},
        {{"suggest", "--siblings", "2", "learn.jsonl"},
         EXIT_YES,
         "- https://*.pair.example.org ",
         "*.github.io"},
        {{"suggest", "--denied", "learn.jsonl"},
         EXIT_YES,
         "- https://late.example.com ",
         "- https://tracker"},
        {{"suggest", "--container", "job-2", "learn.jsonl"}, EXIT_YES, "allow: []\n", "registry"},
        {{"suggest", "--container", "job-2-id", "--denied", "learn.jsonl"},
         EXIT_YES,
         "- https://late",
         "registry"},
        {{"suggest", "--policy", "ci", "learn.jsonl"}, EXIT_YES, "\n  ci:\n", "suggested:"},
        {{"suggest", "packets.jsonl"}, EXIT_YES, "- udp://ntp.example.com:123 ", "- udp://late"},
        {{"suggest", "packets.jsonl"}, EXIT_YES, "- udp://[2001:db8::9]:5000 ", "- udp://198.51.100.6"},
        {{"suggest", "packets.jsonl"}, EXIT_YES, "- icmp://host.example.com ", "- icmp://198.51.100.8"},
        {{"suggest", "packets.jsonl"}, EXIT_YES, "- icmp://198.51.100.5 ", "tcp://"},
        {{"suggest", "packets.jsonl"}, EXIT_YES, "- icmp://2001:db8::5 ", "https://"},
        {{"suggest", "packets.jsonl"}, EXIT_YES, "#   udp 198.51.100.6:443 ", NULL},
        {{"suggest", "packets.jsonl"}, EXIT_YES, "#   icmp 198.51.100.8 ", NULL},
        {{"suggest", "--denied", "packets.jsonl"}, EXIT_YES, "- udp://late.example.com:123 ", NULL},
        {{"suggest", "--denied", "packets.jsonl"}, EXIT_YES, "- udp://198.51.100.6:443 ", NULL},
        {{"suggest", "--denied", "packets.jsonl"}, EXIT_YES, "- icmp://198.51.100.8 ", NULL},
        {{"suggest", "broken.jsonl"}, EXIT_YES, "# 6 lines of the log could not be read.\n", NULL},
        {{"suggest", "broken.jsonl"},
         EXIT_YES,
         "suggest: broken.jsonl:3: not JSON at column 3; passed over\n",
         NULL},
        {{"suggest", "--policy", "a b", "learn.jsonl"}, EXIT_WRONG, "a policy cannot be named", "version:"},
        {{"suggest"}, EXIT_WRONG, "name at least one audit log", NULL},
        {{"suggest", "missing.jsonl"}, EXIT_WRONG, "missing.jsonl: cannot read it", "version:"},
        {{"suggest", "--siblings", "1", "x"}, EXIT_WRONG, "write a number from 2 to 1000, or 0", NULL},
        {{"suggest", "--siblings", "x", "x"}, EXIT_WRONG, "write a number from 2 to 1000, or 0", NULL},
    };
    static struct outcome got;
    static char both[sizeof(got.out) + sizeof(got.err)];
    assert_int_equal(chdir(TEST_DATA "/audit"), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        run_policy(cases[i].args, &got);
        snprintf(both, sizeof(both), "%s%s", got.out, got.err);
        if (got.status != cases[i].status || !strstr(both, cases[i].has) ||
            (cases[i].has_not && strstr(both, cases[i].has_not)))
            fail_msg("%zu: %d %s", i, got.status, both);
    }
}

/* ---- import ---- */

#define IMPORTS TEST_DATA "/import"

/* Each sample becomes what its .imported file says; that is a policy, and warns of nothing. */
static void formats_become_policies(void **state)
{
    (void)state;
    static const struct {
        const char *args[5], *expected;
        int status;
    } cases[] = {
        {{"import", "network.conf"}, "network.conf.imported", EXIT_NO},
        {{"import", "watched.conf"}, "watched.conf.imported", EXIT_NO},
        {{"import", "network.toml"}, "network.toml.imported", EXIT_NO},
        {{"import", "smokescreen.yaml"}, "smokescreen.yaml.imported", EXIT_NO},
        {{"import", "cilium.yaml"}, "cilium.yaml.imported", EXIT_NO},
        {{"import", "settings.json"}, "settings.json.imported", EXIT_NO},
        {{"import", "domains.txt"}, "domains.txt.imported", EXIT_NO},
        {{"import", "--deny", "hosts"}, "hosts.imported", EXIT_YES},
    };
    static struct outcome got;
    assert_int_equal(chdir(IMPORTS), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char *expected = read_text(cases[i].expected);
        run_policy(cases[i].args, &got);
        if (strcmp(got.out, expected) || got.status != cases[i].status)
            fail_msg("%s: %d %s\nexpected %s", cases[i].expected, got.status, got.out, expected);
        free(expected);
        run_policy((const char *const[]){"check", cases[i].expected, NULL}, &got);
        if (got.status != EXIT_YES)
            fail_msg("%s: %s", cases[i].expected, got.err);
    }
}

/* What the sample allowed in its own program is allowed here, and what it did not is not. */
static void imported_policies_mean_the_same(void **state)
{
    (void)state;
    static const struct {
        const char *file, *policy, *target;
        int status;
    } cases[] = {
        {"network.conf.imported", "imported", "https://pypi.org", EXIT_YES},
        {"network.conf.imported", "imported", "https://a.cdn.example.com", EXIT_YES},
        {"network.conf.imported", "imported", "tcp://db.example.com:5432", EXIT_YES},
        {"network.conf.imported", "imported", "10.20.3.4:22", EXIT_YES},
        {"network.conf.imported", "imported", "https://example.org", EXIT_NO},
        {"watched.conf.imported", "imported", "https://example.org", EXIT_NO},
        {"network.toml.imported", "imported", "https://example.net:8443", EXIT_YES},
        {"network.toml.imported", "imported", "https://not.this.one", EXIT_NO},
        {"smokescreen.yaml.imported", "billing", "https://books.ledger.example.com", EXIT_YES},
        {"smokescreen.yaml.imported", "billing", "https://time.example.com", EXIT_YES},
        {"smokescreen.yaml.imported", "billing", "https://charts.example.org", EXIT_NO},
        {"smokescreen.yaml.imported", "crawler", "https://anything.example", EXIT_YES},
        {"smokescreen.yaml.imported", "crawler", "https://x.paste.example.net", EXIT_NO},
        {"cilium.yaml.imported", "fqdn", "https://api.example.com", EXIT_YES},
        {"cilium.yaml.imported", "fqdn", "http://api.example.com", EXIT_NO},
        {"cilium.yaml.imported", "fqdn", "http://plain.example.com/public/a/b", EXIT_YES},
        {"cilium.yaml.imported", "fqdn", "http://plain.example.com/private", EXIT_NO},
        {"cilium.yaml.imported", "fqdn", "tcp://everything.example.com:22", EXIT_YES},
        {"cilium.yaml.imported", "fqdn", "10.1.2.3:8005", EXIT_YES},
        {"cilium.yaml.imported", "fqdn", "10.96.0.1:5432", EXIT_NO},
        {"cilium.yaml.imported", "world", "8.0.0.1:443", EXIT_YES},
        {"settings.json.imported", "imported", "https://registry.npmjs.org", EXIT_YES},
        {"settings.json.imported", "imported", "https://evil.example.com", EXIT_NO},
        {"domains.txt.imported", "imported", "https://a.example.net", EXIT_YES},
        {"hosts.imported", "imported", "https://ads.example.com", EXIT_NO},
    };
    static struct outcome got;
    assert_int_equal(chdir(IMPORTS), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        run_policy((const char *const[]){"test", "-c", cases[i].file, "--policy", cases[i].policy,
                                         cases[i].target, NULL},
                   &got);
        if (got.status != cases[i].status)
            fail_msg("%s %s: %s%s", cases[i].file, cases[i].target, got.out, got.err);
    }
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void odd_files_are_imported_or_refused(void **state)
{
    (void)state;
    static const struct {
        const char *from, *text; /* from NULL: guessed */
        int status;
        const char *has; /* in what is printed */
    } cases[] = {
        {NULL, "[egress]\ndefault_deny = maybe\n", EXIT_NO,
         "default_deny is neither true nor false: taken for true"},
        {NULL, "[egress]\nallow\n", EXIT_NO, "no key = value: \"allow\""},
        {NULL, "[egress]\n", EXIT_YES, "    mode: audit "},
        {NULL, "[network]\negress = \"open\"\n", EXIT_YES, "    extends: unrestricted\n"},
        {NULL, "[network]\negress = false\n", EXIT_YES, "  imported: {}\n"},
        {NULL, "[network]\negress = \"sometimes\"\n", EXIT_NO, "taken for an allowlist"},
        {NULL, "[network]\nallow = [\"a.example\",\n", EXIT_NO, "an array is still open"},
        {NULL, "[network]\nallow = [1, 2]\n", EXIT_NO, "an array of plain strings was expected"},
        {NULL, "[network]\nallow = \"a.example\"\n", EXIT_NO, "\"allow\" is no array"},
        {NULL, "services: &x [*x]\n", EXIT_WRONG, "anchors are not supported"},
        {NULL, "{\"network\": ", EXIT_WRONG, ":2:1: not valid YAML"},
        {NULL, "{}", EXIT_NO, "there is no network in it: nothing is allowed"},
        {NULL, "{\"network\": {\"allowedDomains\": [[\"a\"], \"*\"]}}", EXIT_NO, "a name was expected"},
        {"smokescreen", "default: {action: shut}\n", EXIT_NO, "taken for enforce"},
        {"cilium", "kind: Pod\n", EXIT_NO, "no network policy of Cilium's"},
        {"list", "'quoted'\nx\ty\n\033[2J\n", EXIT_NO, "line 3: "},
        {"list", "", EXIT_YES, "  imported: {}\n"},
        {"xml", "", EXIT_WRONG, "there is no format \"xml\""},
    };
    static struct outcome got;
    static char both[sizeof(got.out) + sizeof(got.err)];
    char path[] = "/tmp/sallyport-import-XXXXXX";
    close(mkstemp(path));
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        write_file(path, cases[i].text);
        const char *const guessed[] = {"import", path, NULL}, *const told[] = {"import", "--from",
                                                                               cases[i].from, path, NULL};
        run_policy(cases[i].from ? told : guessed, &got);
        snprintf(both, sizeof(both), "%s%s", got.out, got.err);
        if (got.status != cases[i].status || !strstr(both, cases[i].has) || strchr(both, '\033'))
            fail_msg("%zu: %d %s", i, got.status, both);
    }
    unlink(path);
}

/* A list that is longer than a policy should be stays where it is. */
static void long_lists_are_named(void **state)
{
    (void)state;
    static struct outcome got;
    char path[] = "/tmp/sallyport-import-XXXXXX", expected[64];
    FILE *file = fdopen(mkstemp(path), "w");
    assert_non_null(file);
    for (int i = 0; i < 1500; i++)
        fprintf(file, "n%d.example\n", i);
    fclose(file);
    run_policy((const char *const[]){"import", "--deny", path, NULL}, &got);
    snprintf(expected, sizeof(expected), "    deny_files:\n      - %s\n", path);
    assert_non_null(strstr(got.out, expected));
    assert_int_equal(got.status, EXIT_YES);
    unlink(path);
}

/* ---- check, show ---- */

static void check_answers_for_each_file(void **state)
{
    (void)state;
    static const struct expectation cases[] = {
        {{"check", "smallest.yaml", "bom_and_crlf.json"},
         EXIT_YES,
         "smallest.yaml: ok: 0 policies, 0 rules\nbom_and_crlf.json: ok: 1 policy, 1 rule\n",
         NULL},
        {{"check", "../bad/circle.yaml", "smallest.yaml"},
         EXIT_WRONG,
         "smallest.yaml: ok: 0 policies, 0 rules\n",
         "../bad/circle.yaml:8:14: extends goes in a circle: one -> two -> three -> one\n"
         "../bad/circle.yaml:10:14: extends goes in a circle: two -> three -> one -> two\n"
         "../bad/circle.yaml:12:14: extends goes in a circle: three -> one -> two -> three\n"
         "../bad/circle.yaml:14:14: extends goes in a circle: self -> self\n"},
        {{"check", "none.yaml"}, EXIT_WRONG, NULL, "none.yaml: cannot read it: No such file or directory\n"},
        {{"check", "--json", "../bad/version_unknown.yaml"},
         EXIT_WRONG,
         "{\"file\":\"../bad/version_unknown.yaml\",\"ok\":false,\"errors\":[\"../bad/"
         "version_unknown.yaml:2:10: version 2 is "
         "not known to this program: write version: 1\"]}\n",
         NULL},
    };
    RUN_ALL(cases);
}

static void warnings_do_not_make_check_fail(void **state)
{
    (void)state;
    static struct outcome got;
    run_policy((const char *const[]){"check", CONFIGS "/warn/repeated_rules.yaml", NULL}, &got);
    assert_int_equal(got.status, EXIT_YES);
    assert_non_null(strstr(got.out, "repeated_rules.yaml: ok: 1 policy, "));
    assert_non_null(strstr(got.err, ": warning: rule \"API.example.com.\" says the same as"));
}

static void show_tells_rules_and_where_they_come_from(void **state)
{
    (void)state;
    static const struct expectation cases[] = {
        {{"show", "-c", "nothing_allowed.yaml", "empty"},
         EXIT_YES,
         "policy empty: mode enforce, dns allowed, bind redial, ech record\n",
         NULL},
        {{"show", "-c", "bom_and_crlf.yaml", "web"},
         EXIT_YES,
         "policy web: mode enforce, dns allowed, bind redial, ech record\n"
         "allow  api.example.com                                bom_and_crlf.yaml:6\n",
         NULL},
        {{"show", "-c", "bom_and_crlf.yaml", "--json", "web"},
         EXIT_YES,
         "{\"name\":\"web\",\"mode\":\"enforce\",\"dns\":\"allowed\",\"bind\":\"redial\",\"ech\":\"record\","
         "\"rules\":[\n"
         "{\"rule\":\"api.example.com\",\"action\":\"allow\",\"file\":\"bom_and_crlf.yaml\",\"line\":6}]}\n",
         NULL},
        {{"show", "-c", "smallest.yaml", "permissive"},
         EXIT_YES,
         "policy unrestricted: mode enforce, dns allowed, bind redial, ech record\n"
         "allow  *                                              profile unrestricted\n"
         "allow  *:*                                            profile unrestricted\n",
         NULL},
    };
    RUN_ALL(cases);
}

static void show_lists_what_there_is(void **state)
{
    (void)state;
    static const char *const parts[] = {"policy   web ",
                                        "policy   base ",
                                        "profile  unrestricted, permissive ",
                                        "profile  airgapped ",
                                        "preset   package-managers ",
                                        "preset   agent "};
    static struct outcome got;
    assert_int_equal(chdir(CONFIGS "/good"), 0);
    run_policy((const char *const[]){"show", "-c", "complete.yaml", NULL}, &got);
    assert_int_equal(got.status, EXIT_YES);
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
        if (!strstr(got.out, parts[i]))
            fail_msg("%s", parts[i]);
    run_policy((const char *const[]){"show", "-c", "complete.yaml", "ai-apis", NULL}, &got);
    assert_int_equal(got.status, EXIT_YES);
    assert_non_null(strstr(got.out, "api.anthropic.com "));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(targets_are_judged_as_the_gateway_would),
        cmocka_unit_test(audit_mode_is_told),
        cmocka_unit_test(rules_on_the_command_line_are_a_policy),
        cmocka_unit_test(single_requests_are_judged),
        cmocka_unit_test(each_answer_says_what_would_change_it),
        cmocka_unit_test(packets_are_asked_about_by_scheme),
        cmocka_unit_test(wrong_use_says_what_to_write),
        cmocka_unit_test(differences_are_told_in_words),
        cmocka_unit_test(what_says_the_same_is_no_difference),
        cmocka_unit_test(diff_is_used_with_two_files),
        cmocka_unit_test(a_log_becomes_the_smallest_policy),
        cmocka_unit_test(what_was_seen_passes_and_nothing_else),
        cmocka_unit_test(suggestions_are_asked_for_in_ways),
        cmocka_unit_test(formats_become_policies),
        cmocka_unit_test(imported_policies_mean_the_same),
        cmocka_unit_test(odd_files_are_imported_or_refused),
        cmocka_unit_test(long_lists_are_named),
        cmocka_unit_test(check_answers_for_each_file),
        cmocka_unit_test(warnings_do_not_make_check_fail),
        cmocka_unit_test(show_tells_rules_and_where_they_come_from),
        cmocka_unit_test(show_lists_what_there_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
