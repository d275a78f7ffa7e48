/*
 * Unit tests of `sallyport log` and of the reader of audit logs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/audit_log.h"
#include "tests/unit/run_command.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#define LOGS TEST_DATA "/audit"

static void run_log(const char *const *args, struct outcome *ret)
{
    assert_int_equal(chdir(LOGS), 0);
    run_command(&command_log, args, ret);
}

static void each_event_is_a_line(void **state)
{
    (void)state;
    static struct outcome got;
    run_log((const char *const[]){"mixed.jsonl", NULL}, &got);
    assert_string_equal(
        got.out,
        "2026-11-22T04:00:01  allow       web-1  tls api.example.com:443 at 198.51.100.1  rule_allow  rule "
        "api.example.com in policy.yaml:4\n"
        "2026-11-22T04:00:02  end         web-1  tls api.example.com:443 at 198.51.100.1  517 bytes up, 4096 "
        "down, "
        "1.250 s, client fin\n"
        "2026-11-22T04:01:00  deny        web-1  dns tracker.example.net AAAA  no_rule\n"
        "2026-11-22T04:01:01  deny        web-1  dns tracker.example.net A  no_rule\n"
        "2026-11-22T04:02:00  deny        web-2  tls gist.example.com:443 at 198.51.100.9  rule_deny  rule "
        "gist.example.com in policy.yaml:9\n"
        "2026-11-22T04:03:00  deny        web-2  udp 203.0.113.7:123  port_denied\n"
        "2026-11-22T04:04:00  deny        web-1  http DELETE files.example.com:80 at 198.51.100.2  "
        "method_denied\n"
        "2026-11-22T04:05:00  would-deny  web-1  tls new.example.org:443 at 198.51.100.3  no_rule\n"
        "2026-11-22T04:06:00  deny        web-1  tcp [2001:db8::7]:22  no_rule  (no name that was looked up "
        "here has "
        "this address)\n"
        "2026-11-22T04:07:00  deny        ?bell  tls evil?[2J?name:443 at 198.51.100.3  "
        "malformed_client_hello\n");
    assert_string_equal(got.err, "");
    assert_int_equal(got.status, EXIT_YES);
}

static size_t count_lines(const char *text)
{
    size_t count = 0;
    for (; (text = strchr(text, '\n')); text++)
        count++;
    return count;
}

static void filters_choose(void **state)
{
    (void)state;
    static const struct {
        const char *args[ARGS_MAX + 1];
        size_t lines;
    } cases[] = {
        {{"--denied", "mixed.jsonl"}, 8},
        {{"--container", "web-2", "mixed.jsonl"}, 2},
        {{"--container", "web-2-id", "mixed.jsonl"}, 2},
        {{"--container", "web", "mixed.jsonl"}, 0},
        {{"--since", "2026-11-22T04:03", "mixed.jsonl"}, 5},
        {{"--since", "2026-11-22T04:03:00.000001Z", "mixed.jsonl"}, 4},
        {{"--since", "2026-11-23", "mixed.jsonl"}, 0},
        {{"--since", "9000d", "mixed.jsonl"}, 10},
        {{"--denied", "--container", "web-1", "--since", "2026-11-22T04:05:00Z", "mixed.jsonl"}, 2},
        {{"--json", "--denied", "mixed.jsonl", "mixed.jsonl"}, 16},
    };
    static struct outcome got;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        run_log(cases[i].args, &got);
        if (count_lines(got.out) != cases[i].lines || got.status != EXIT_YES || got.err[0])
            fail_msg("%s %s: %s%s", cases[i].args[0], cases[i].args[1], got.out, got.err);
    }
}

static void json_is_what_was_written(void **state)
{
    (void)state;
    static struct outcome got;
    static char written[65536];
    run_log((const char *const[]){"--json", "mixed.jsonl", NULL}, &got);
    FILE *file = fopen("mixed.jsonl", "r");
    assert_non_null(file);
    written[fread(written, 1, sizeof(written) - 1, file)] = 0;
    fclose(file);
    assert_string_equal(got.out, written);
}

static void denials_are_counted_by_container(void **state)
{
    (void)state;
    static struct outcome got;
    run_log((const char *const[]){"--summary", "mixed.jsonl", NULL}, &got);
    assert_string_equal(got.out,
                        "      2  web-1  tracker.example.net  no_rule  last 2026-11-22T04:01:01\n"
                        "      1  ?bell  evil?[2J?name  malformed_client_hello  last 2026-11-22T04:07:00\n"
                        "      1  web-1  [2001:db8::7]:22  no_rule  last 2026-11-22T04:06:00\n"
                        "      1  web-1  files.example.com  method_denied  last 2026-11-22T04:04:00\n"
                        "      1  web-1  new.example.org  no_rule  last 2026-11-22T04:05:00\n"
                        "      1  web-2  203.0.113.7:123  port_denied  last 2026-11-22T04:03:00\n"
                        "      1  web-2  gist.example.com  rule_deny  last 2026-11-22T04:02:00\n");
    run_log((const char *const[]){"--summary", "--json", "--container", "web-2", "mixed.jsonl", NULL}, &got);
    assert_string_equal(
        got.out,
        "{\"count\":1,\"container\":\"web-2\",\"subject\":\"203.0.113.7:123\",\"reason\":\"port_denied\","
        "\"first\":\"2026-11-22T04:03:00.000000Z\",\"last\":\"2026-11-22T04:03:00.000000Z\"}\n"
        "{\"count\":1,\"container\":\"web-2\",\"subject\":\"gist.example.com\",\"reason\":\"rule_deny\","
        "\"first\":\"2026-11-22T04:02:00.000000Z\",\"last\":\"2026-11-22T04:02:00.000000Z\"}\n");
}

static void broken_lines_are_told_and_passed_over(void **state)
{
    (void)state;
    static struct outcome got;
    run_log((const char *const[]){"broken.jsonl", NULL}, &got);
    assert_int_equal(count_lines(got.out), 2);
    assert_string_equal(got.err,
                        "sallyport log: broken.jsonl:2: no audit event: it has no @timestamp, event.action, "
                        "event.outcome or event.reason\n"
                        "sallyport log: broken.jsonl:3: not JSON at column 3\n"
                        "sallyport log: broken.jsonl:4: a line has to be a JSON object\n"
                        "sallyport log: broken.jsonl:5: not JSON at column 41\n"
                        "sallyport log: broken.jsonl:7: no audit event: it has no @timestamp, event.action, "
                        "event.outcome or event.reason\n"
                        "sallyport log: broken.jsonl:9: not JSON at column 200\n");
    assert_int_equal(got.status, EXIT_YES);
}

static void wrong_use_says_what_to_write(void **state)
{
    (void)state;
    static const struct {
        const char *args[ARGS_MAX + 1], *says;
    } cases[] = {
        {{"--since", "yesterday", "x"}, "--since yesterday: write a time in UTC"},
        {{"--since", "2026-13-01", "x"}, "--since 2026-13-01: write"},
        {{"--since", "2026-11-22T04:00:00+01:00", "x"}, "write a time in UTC"},
        {{"--since"}, "--since needs a value"},
        {{"--what"}, "there is no option \"--what\""},
        {{"-f", "--summary", "x"}, "leave out -f"},
        {{"-f", "x", "y"}, "-f follows one file"},
        {{"-f", "-"}, "-f needs a file"},
        {{"missing.jsonl"}, "missing.jsonl: cannot read it: No such file"},
        {{"/"}, "/: cannot read it: Is a directory"},
    };
    static struct outcome got;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        run_log(cases[i].args, &got);
        if (got.status != EXIT_WRONG || !strstr(got.err, cases[i].says) || got.out[0])
            fail_msg("%s: %d %s", cases[i].args[0], got.status, got.err);
    }
}

/* ---- the reader ---- */

static const char event[] =
    "{\"@timestamp\":\"2026-11-22T04:00:01.000000Z\",\"event\":{\"action\":\"flow-denied\","
    "\"outcome\":\"failure\",\"reason\":\"no_rule\"}}";

static void append_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "a");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void long_lines_and_torn_ones(void **state)
{
    (void)state;
    char path[] = "/tmp/sallyport-log-XXXXXX";
    static char line[200001];
    struct audit_record r;
    struct error err;
    close(mkstemp(path));
    memset(line, 'x', sizeof(line) - 1);
    append_text(path, event);
    append_text(path, "\n");
    append_text(path, line);
    append_text(path, "\n");
    append_text(path, event);
    append_text(path, "\n");
    append_text(path, event);
    struct audit_log *log = audit_log_open(path, &err);
    assert_non_null(log);
    assert_int_equal(audit_log_next(log, &r, &err), 1);
    assert_string_equal(r.reason, "no_rule");
    assert_int_equal(audit_log_next(log, &r, &err), -EBADMSG);
    assert_non_null(strstr(err.text, ":2: a line over 64 KiB"));
    assert_int_equal(audit_log_next(log, &r, &err), 1);
    assert_int_equal(audit_log_next(log, &r, &err), 0); /* the newline of the last may still come */
    append_text(path, "\n");
    append_text(path, event);
    append_text(path, "\n");
    assert_int_equal(audit_log_next(log, &r, &err), 1);
    assert_int_equal(audit_log_next(log, &r, &err), 1);
    assert_int_equal(audit_log_next(log, &r, &err), 0);
    assert_int_equal(audit_log_finish(log, &r, &err), 0);
    assert_int_equal(truncate(path, 0), 0);
    audit_log_rewind_if_truncated(log);
    append_text(path, event);
    assert_int_equal(audit_log_next(log, &r, &err), 0);
    assert_int_equal(audit_log_finish(log, &r, &err), 1);
    audit_log_close(log);
    unlink(path);
}

/* ---- following ---- */

static void append(const char *path, const char *name)
{
    char text[512];
    snprintf(text, sizeof(text),
             "{\"@timestamp\":\"2026-11-22T04:00:01.000000Z\",\"event\":{\"action\":\"flow-denied\","
             "\"outcome\":\"failure\","
             "\"reason\":\"no_rule\"},\"destination\":{\"domain\":\"%s\",\"port\":443}}\n",
             name);
    append_text(path, text);
}

/* Waits for a line that has `name` in it. */
static void expect_line(int fd, const char *name)
{
    char text[4096] = "";
    size_t used = 0;
    while (!strchr(text, '\n') && used < sizeof(text) - 1) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        assert_int_equal(poll(&p, 1, 20000), 1);
        ssize_t got = read(fd, text + used, sizeof(text) - 1 - used);
        assert_true(got > 0);
        used += (size_t)got;
        text[used] = 0;
    }
    if (!strstr(text, name))
        fail_msg("expected %s, got %s", name, text);
}

static void following_goes_on_in_the_next_file(void **state)
{
    (void)state;
    char folder[] = "/tmp/sallyport-log-XXXXXX", path[64], rotated[64];
    int out[2];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/audit.jsonl", folder);
    snprintf(rotated, sizeof(rotated), "%s/audit.jsonl.1", folder);
    append(path, "first.example");
    assert_int_equal(pipe(out), 0);
    pid_t child = fork();
    if (child == 0) {
        char *argv[] = {"log", "-f", "--since", "2026-11-22", path, NULL};
        dup2(out[1], STDOUT_FILENO);
        optind = 0;
        _exit(command_log.run(&command_log, 5, argv));
    }
    close(out[1]);
    expect_line(out[0], "first.example:443");
    append(path, "second.example");
    expect_line(out[0], "second.example:443");
    assert_int_equal(rename(path, rotated), 0);
    append(rotated, "late.example"); /* the writer has not been told yet */
    expect_line(out[0], "late.example:443");
    append(path, "third.example");
    expect_line(out[0], "third.example:443");
    assert_int_equal(truncate(path, 0), 0);
    append(path, "4th.example"); /* a shorter line: that the file was cut shows by its size */
    expect_line(out[0], "4th.example:443");
    kill(child, SIGTERM);
    waitpid(child, NULL, 0);
    close(out[0]);
    unlink(path);
    unlink(rotated);
    rmdir(folder);
}

static void times_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *text, *time; /* NULL: refused */
    } cases[] = {
        {"2026-11-22", "2026-11-22T00:00:00.000000Z"},
        {"2026-11-22T04:05", "2026-11-22T04:05:00.000000Z"},
        {"2026-11-22T04:05:06", "2026-11-22T04:05:06.000000Z"},
        {"2026-11-22T04:05:06Z", "2026-11-22T04:05:06.000000Z"},
        {"2026-11-22T04:05:06.5Z", "2026-11-22T04:05:06.500000Z"},
        {"2026-11-22T04:05:06.123456789Z", "2026-11-22T04:05:06.123456Z"},
        {"0s", "2026-11-22T00:00:00.000000Z"},
        {"90s", "2026-11-21T23:58:30.000000Z"},
        {"2h", "2026-11-21T22:00:00.000000Z"},
        {"1d", "2026-11-21T00:00:00.000000Z"},
        {"", NULL},
        {"1w", NULL},
        {"d", NULL},
        {"-1d", NULL},
        {"2026-11-22T04:05:06.Z", NULL},
        {"2026-11-22.5Z", NULL},
        {"2026-11-22T04:05:06Zulu", NULL},
        {"2026-11-22T04:05:06 ", NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char got[AUDIT_TIME_SIZE] = "";
        if (audit_time_parse(cases[i].text, 1795305600, got) != (cases[i].time != NULL) ||
            (cases[i].time && strcmp(got, cases[i].time)))
            fail_msg("\"%s\": %s", cases[i].text, got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_event_is_a_line),
        cmocka_unit_test(filters_choose),
        cmocka_unit_test(json_is_what_was_written),
        cmocka_unit_test(denials_are_counted_by_container),
        cmocka_unit_test(broken_lines_are_told_and_passed_over),
        cmocka_unit_test(wrong_use_says_what_to_write),
        cmocka_unit_test(long_lines_and_torn_ones),
        cmocka_unit_test(following_goes_on_in_the_next_file),
        cmocka_unit_test(times_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
