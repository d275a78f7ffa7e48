/*
 * Unit tests of gateway/audit.c and audit_format.c: lines are JSON whatever is in them, the sequence has no
 * gap, nothing accepted is lost over full disks and stuck pipes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "gateway/audit.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static struct addr address(const char *text)
{
    struct addr a;
    assert_true(addr_parse_with_port(text, 0, &a));
    return a;
}

static struct audit_event decision(bool allowed)
{
    return (struct audit_event){
        .action = AUDIT_FLOW_DECISION,
        .allowed = allowed,
        .reason = allowed ? ACL_RULE_ALLOW : ACL_NO_RULE,
        .flow_id = "0badcafe-17",
        .source = address("192.0.2.7:40000"),
        .destination = address("198.18.0.1:443"),
        .domain = "example.com",
        .domain_length = 11,
        .transport = "tcp",
        .protocol = "tls",
        .tls = true,
        .policy = "agents",
    };
}

static struct audit_event flow_end(void)
{
    struct audit_event event = decision(true);
    event.action = AUDIT_FLOW_END;
    event.duration_ns = 1;
    event.close_by = AUDIT_CLOSE_CLIENT;
    event.close_reason = "fin";
    return event;
}

static json_t *parse(const char *line, size_t length)
{
    json_error_t error;
    json_t *root = json_loadb(line, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!root)
        fail_msg("%s at %d in %.*s", error.text, error.position, (int)length, line);
    return root;
}

static json_t *format(const struct audit_event *event)
{
    static const struct timespec now = {.tv_sec = 1717747750, .tv_nsec = 123456789};
    char line[AUDIT_LINE_MAX];
    ssize_t length = audit_format(event, 42, now, line, sizeof(line));
    assert_true(length > 0 && (size_t)length < sizeof(line));
    assert_null(memchr(line, '\n', (size_t)length));
    return parse(line, (size_t)length);
}

/* "a.b.c": nested objects. */
static json_t *at(json_t *root, const char *path)
{
    char part[64];
    while (root && *path) {
        size_t n = strcspn(path, ".");
        snprintf(part, sizeof(part), "%.*s", (int)n, path);
        root = json_object_get(root, part);
        path += n + (path[n] == '.');
    }
    return root;
}

static void assert_text(json_t *root, const char *path, const char *expected)
{
    const char *text = json_string_value(at(root, path));
    if ((text == NULL) != (expected == NULL) || (text && strcmp(text, expected) != 0))
        fail_msg("%s is %s, not %s", path, text ? text : "absent", expected ? expected : "absent");
}

static void assert_number(json_t *root, const char *path, json_int_t expected)
{
    json_t *value = at(root, path);
    if (!json_is_integer(value) || json_integer_value(value) != expected)
        fail_msg("%s is not %lld", path, (long long)expected);
}

static void every_field_has_its_ecs_name(void **state)
{
    (void)state;
    struct acl_verdict verdict = {.has_rule = true, .rule = {.text = "*.com", .origin = {"policy.yaml", 12}}};
    struct audit_event event = flow_end();
    event.start = (struct timespec){.tv_sec = 951782400, .tv_nsec = 5000}; /* a leap day */
    event.duration_ns = 3000000000000;
    event.nat = address("[2001:db8::7]:443");
    event.ech_offered = true;
    event.alpn = "h2,http/1.1";
    event.http_method = "GET";
    event.dns_name = "q.example";
    event.dns_name_length = 9;
    event.dns_type = "AAAA";
    event.verdict = &verdict;
    event.policy_version = "v3";
    event.container_id = "c0ffee";
    event.container_name = "web";
    event.binding = "redialled";
    event.detail = "a sentence";
    event.bytes_sent = 1;
    event.bytes_received = 1ull << 40;
    event.would_deny = true;
    json_t *root = format(&event);
    static const struct {
        const char *path, *text;
    } texts[] = {
        {"@timestamp", "2024-06-07T08:09:10.123456Z"},
        {"ecs.version", "8.11.0"},
        {"event.kind", "event"},
        {"event.action", "flow-ended"},
        {"event.outcome", "success"},
        {"event.reason", "rule_allow"},
        {"event.id", "0badcafe-17"},
        {"event.start", "2000-02-29T00:00:00.000005Z"},
        {"source.ip", "192.0.2.7"},
        {"destination.ip", "198.18.0.1"},
        {"destination.domain", "example.com"},
        {"destination.nat.ip", "2001:db8::7"},
        {"network.transport", "tcp"},
        {"network.protocol", "tls"},
        {"network.direction", "egress"},
        {"tls.client.server_name", "example.com"},
        {"tls.next_protocol", "h2,http/1.1"},
        {"http.request.method", "GET"},
        {"dns.question.name", "q.example"},
        {"dns.question.type", "AAAA"},
        {"rule.ruleset", "agents"},
        {"rule.name", "*.com"},
        {"rule.version", "v3"},
        {"container.id", "c0ffee"},
        {"container.name", "web"},
        {"observer.name", "sallyport"},
        {"observer.version", SALLYPORT_VERSION},
        {"sallyport.binding", "redialled"},
        {"sallyport.rule_origin", "policy.yaml:12"},
        {"sallyport.detail", "a sentence"},
        {"sallyport.close_by", "client"},
        {"sallyport.close_reason", "fin"},
    };
    for (size_t i = 0; i < COUNT(texts); i++)
        assert_text(root, texts[i].path, texts[i].text);
    assert_number(root, "event.sequence", 42);
    assert_number(root, "event.duration", 3000000000000);
    assert_number(root, "source.port", 40000);
    assert_number(root, "source.bytes", 1);
    assert_number(root, "destination.port", 443);
    assert_number(root, "destination.bytes", 1ll << 40);
    assert_true(json_is_true(at(root, "sallyport.ech_offered")));
    assert_true(json_is_true(at(root, "sallyport.would_deny")));
    assert_null(at(root, "sallyport.truncated"));
    json_decref(root);
}

static void what_is_empty_is_left_out(void **state)
{
    (void)state;
    struct audit_event event = {.action = AUDIT_PACKET_DENIED, .reason = ACL_PORT_DENIED};
    json_t *root = format(&event);
    static const char *const absent[] = {"event.id",
                                         "event.start",
                                         "event.duration",
                                         "source.ip",
                                         "source.bytes",
                                         "destination.domain",
                                         "destination.nat",
                                         "tls",
                                         "http",
                                         "dns",
                                         "rule",
                                         "container",
                                         "sallyport.close_by",
                                         "sallyport.dropped_before"};
    for (size_t i = 0; i < COUNT(absent); i++)
        if (at(root, absent[i]))
            fail_msg("%s is there", absent[i]);
    assert_text(root, "event.reason", "port_denied");
    json_decref(root);
}

static void actions_have_types_and_outcomes(void **state)
{
    (void)state;
    static const struct {
        enum audit_action action;
        bool allowed;
        const char *name, *type[2], *outcome;
    } cases[] = {
        {AUDIT_FLOW_DECISION, true, "flow-allowed", {"connection", "allowed"}, "success"},
        {AUDIT_FLOW_DECISION, false, "flow-denied", {"connection", "denied"}, "failure"},
        {AUDIT_FLOW_END, true, "flow-ended", {"connection", "end"}, "success"},
        {AUDIT_HTTP_REQUEST, true, "request-allowed", {"protocol", "allowed"}, "success"},
        {AUDIT_HTTP_REQUEST, false, "request-denied", {"protocol", "denied"}, "failure"},
        {AUDIT_DNS_DENIED, false, "dns-denied", {"protocol", "denied"}, "failure"},
        {AUDIT_PACKET_DENIED, false, "packet-denied", {"connection", "denied"}, "failure"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct audit_event event = {.action = cases[i].action, .allowed = cases[i].allowed};
        json_t *root = format(&event);
        assert_text(root, "event.action", cases[i].name);
        assert_text(root, "event.outcome", cases[i].outcome);
        assert_int_equal(json_array_size(at(root, "event.type")), 2);
        for (size_t k = 0; k < 2; k++)
            assert_string_equal(json_string_value(json_array_get(at(root, "event.type"), k)),
                                cases[i].type[k]);
        assert_string_equal(json_string_value(json_array_get(at(root, "event.category"), 0)), "network");
        json_decref(root);
    }
}

static void hostile_names_stay_inside_their_string(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
        const char *expected; /* as a JSON reader sees it; NUL cut off */
    } cases[] = {
#define NAME(literal) literal, sizeof(literal) - 1
        {NAME("a\",\"event\":{\"outcome\":\"success\"},\"b\":\""),
         "a\",\"event\":{\"outcome\":\"success\"},\"b\":\""},
        {NAME("a\r\n{}\n"), "a\r\n{}\n"},
        {NAME("back\\slash\\"), "back\\slash\\"},
        {NAME("\x1b[31mred\x7f\b"), "\x1b[31mred\x7f\b"},
        {NAME("caf\xc3\xa9"), "caf\xc3\xa9"},
        {NAME("caf\xc3"), "caf\xef\xbf\xbd"},                           /* cut short */
        {NAME("\xff\xfe"), "\xef\xbf\xbd\xef\xbf\xbd"},                 /* never UTF-8 */
        {NAME("\xc0\xaf"), "\xef\xbf\xbd\xef\xbf\xbd"},                 /* overlong '/' */
        {NAME("\xed\xa0\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* a surrogate */
#undef NAME
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct audit_event event = decision(false);
        event.domain = cases[i].bytes;
        event.domain_length = cases[i].length;
        json_t *root = format(&event);
        assert_text(root, "destination.domain", cases[i].expected);
        assert_text(root, "tls.client.server_name", cases[i].expected);
        assert_text(root, "event.outcome", "failure");
        json_decref(root);
    }
    struct audit_event event = decision(false);
    event.domain = "a\0b";
    event.domain_length = 3;
    json_t *root = format(&event);
    assert_int_equal(json_string_length(at(root, "destination.domain")), 3);
    assert_memory_equal(json_string_value(at(root, "destination.domain")), "a\0b", 3);
    json_decref(root);
}

static void a_change_has_who_and_what_and_no_flow(void **state)
{
    (void)state;
    struct audit_event event = {.action = AUDIT_CHANGE,
                                .allowed = true,
                                .change = NOTE_DENY,
                                .user = 1000,
                                .rule = "bad\nname.example",
                                .policy = "agents",
                                .policy_version = "0123456789ab",
                                .container_id = "box"};
    json_t *root = format(&event);
    assert_text(root, "event.action", "deny-added");
    assert_text(root, "event.outcome", "success");
    assert_text(root, "user.id", "1000");
    assert_text(root, "rule.name", "bad\nname.example");
    assert_text(root, "rule.ruleset", "agents");
    assert_text(root, "container.id", "box");
    assert_null(at(root, "event.reason"));
    assert_null(at(root, "source"));
    assert_null(at(root, "network"));
    json_decref(root);
    for (unsigned kind = 0; kind < NOTE_KINDS; kind++) {
        for (int allowed = 0; allowed < 2; allowed++) {
            event = (struct audit_event){.action = AUDIT_CHANGE, .allowed = allowed, .change = kind, .user = NOTE_NOBODY};
            root = format(&event);
            assert_non_null(at(root, "event.action"));
            assert_text(root, "event.outcome", allowed ? "success" : "failure");
            assert_null(at(root, "user"));
            json_decref(root);
        }
    }
}

static void overlong_texts_are_cut_and_say_so(void **state)
{
    (void)state;
    char name[70000];
    struct audit_event event = decision(false);
    memset(name, 'a', sizeof(name));
    event.domain = name;
    event.domain_length = 253;
    json_t *root = format(&event);
    assert_int_equal(json_string_length(at(root, "destination.domain")), 253);
    assert_null(at(root, "sallyport.truncated"));
    json_decref(root);

    event.domain_length = sizeof(name);
    root = format(&event);
    assert_int_equal(json_string_length(at(root, "destination.domain")), 255);
    assert_true(json_is_true(at(root, "sallyport.truncated")));
    json_decref(root);
}

/* Every text full of the bytes that grow most when escaped. */
static void the_worst_event_fits_a_line(void **state)
{
    (void)state;
    char worst[4096];
    memset(worst, 1, sizeof(worst) - 1);
    worst[sizeof(worst) - 1] = 0;
    struct acl_verdict verdict = {.has_rule = true, .rule = {.text = worst, .origin = {worst, UINT32_MAX}}};
    struct audit_event event = flow_end();
    event.flow_id = event.transport = event.protocol = event.alpn = event.http_method = event.dns_type =
        worst;
    event.policy = event.policy_version = event.container_id = event.container_name = worst;
    event.binding = event.detail = event.close_reason = worst;
    event.domain = event.dns_name = worst;
    event.domain_length = event.dns_name_length = sizeof(worst);
    event.verdict = &verdict;
    event.would_deny = event.ech_offered = true;
    event.source = event.destination = event.nat = address("[2001:db8:1111:2222:3333:4444:5555:6666]:65535");
    event.duration_ns = event.bytes_sent = event.bytes_received = INT64_MAX;
    event.start = (struct timespec){.tv_sec = 1717747750};
    json_t *root = format(&event);
    assert_true(json_is_true(at(root, "sallyport.truncated")));
    assert_true(json_string_length(at(root, "destination.domain")) >= 40);
    json_decref(root);

    char small[100];
    assert_int_equal(audit_format(&event, 1, (struct timespec){0}, small, sizeof(small)), -ENOSPC);
}

/* ---- the queue ---- */

struct lines {
    uint64_t count;   /* whole lines seen; sequences go 1..count */
    uint64_t dropped; /* sum of sallyport.dropped_before */
    uint64_t ends, denials;
};

static void note_line(struct lines *lines, const char *line, size_t length)
{
    json_t *root = parse(line, length);
    lines->count++;
    assert_number(root, "event.sequence", (json_int_t)lines->count);
    lines->dropped += (uint64_t)json_integer_value(at(root, "sallyport.dropped_before"));
    const char *action = json_string_value(at(root, "event.action"));
    lines->ends += strcmp(action, "flow-ended") == 0;
    lines->denials += strcmp(action, "flow-denied") == 0;
    json_decref(root);
}

/* Reads whole lines up to the end of the file; what follows the last newline is returned as its length. */
static size_t read_lines(int fd, struct lines *lines)
{
    char text[AUDIT_LINE_MAX * 4];
    size_t used = 0;
    for (;;) {
        ssize_t n = read(fd, text + used, sizeof(text) - used);
        assert_true(n >= 0);
        if (n == 0)
            return used;
        used += (size_t)n;
        char *end, *line = text;
        while ((end = memchr(line, '\n', used - (size_t)(line - text)))) {
            note_line(lines, line, (size_t)(end - line));
            line = end + 1;
        }
        used -= (size_t)(line - text);
        memmove(text, line, used);
    }
}

static size_t read_file(int fd, struct lines *lines)
{
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    return read_lines(fd, lines);
}

static int memory_file(void)
{
    int fd = memfd_create("audit", MFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* A duplicate for the log; an own file description, so that positions do not mix. */
static int reopened(int fd)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int other = open(path, O_RDWR | O_APPEND | O_CLOEXEC);
    assert_true(other >= 0);
    return other;
}

static struct audit *open_audit(int fd, bool drop)
{
    struct error err = {0};
    struct audit *audit = audit_create(fd, drop, &err);
    if (!audit)
        fail_msg("%s", err.text);
    return audit;
}

/* The writer has no event for this; it takes at most one of its retries. */
static void wait_ready(const struct audit *audit, bool ready)
{
    time_t until = time(NULL) + 20;
    while (audit_ready(audit) != ready) {
        assert_true(time(NULL) < until);
        sched_yield();
    }
}

static void lines_come_out_in_order(void **state)
{
    (void)state;
    struct audit_event allowed = decision(true), denied = decision(false), end = flow_end();
    struct lines lines = {0};
    int file = memory_file();
    struct audit *audit = open_audit(reopened(file), false);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(audit_submit(audit, &allowed), 0);
        assert_int_equal(audit_submit(audit, &denied), 0);
        assert_int_equal(audit_submit(audit, &end), 0);
        wait_ready(audit, true);
    }
    assert_int_equal(audit_destroy(audit, 10000), 0);
    assert_int_equal(read_file(file, &lines), 0);
    assert_int_equal(lines.count, 3000);
    assert_int_equal(lines.ends, 1000);
    close(file);
}

static void nowhere_is_a_log_too(void **state)
{
    (void)state;
    struct audit_event event = decision(true);
    struct audit *audit = open_audit(-1, false);
    for (int i = 0; i < 10000; i++) {
        assert_int_equal(audit_submit(audit, &event), 0);
        wait_ready(audit, true);
    }
    assert_int_equal(audit_destroy(audit, 10000), 0);
    assert_int_equal(audit_destroy(NULL, 0), 0);
}

struct crowd {
    struct audit *audit;
    sem_t refused; /* posted at each -ENOBUFS */
};

#define CROWD_THREADS 4
#define CROWD_FLOWS 2000

static void *submit_flows(void *arg)
{
    struct crowd *crowd = arg;
    struct audit_event begin = decision(true), end = flow_end();
    for (int i = 0; i < CROWD_FLOWS; i++) {
        while (audit_submit(crowd->audit, &begin) < 0) {
            sem_post(&crowd->refused);
            sched_yield();
        }
        if (audit_submit(crowd->audit, &end) < 0) /* always finds room */
            abort();
    }
    return NULL;
}

static void *read_pipe(void *arg)
{
    int *fd = arg;
    struct lines *lines = calloc(1, sizeof(*lines));
    if (read_lines(*fd, lines) != 0)
        abort();
    return lines;
}

static void sequence_has_no_gap_under_a_crowd_and_a_full_queue(void **state)
{
    (void)state;
    int fds[2];
    struct crowd crowd;
    pthread_t threads[CROWD_THREADS], reader;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    crowd.audit = open_audit(fds[1], false);
    sem_init(&crowd.refused, 0, 0);
    for (int i = 0; i < CROWD_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, submit_flows, &crowd), 0);
    sem_wait(&crowd.refused); /* only now is the pipe read: the queue was full for certain */
    assert_int_equal(pthread_create(&reader, NULL, read_pipe, &fds[0]), 0);
    for (int i = 0; i < CROWD_THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(audit_dropped(crowd.audit), 0);
    assert_int_equal(audit_destroy(crowd.audit, 60000), 0);
    struct lines *lines;
    pthread_join(reader, (void **)&lines);
    assert_int_equal(lines->count, 2 * CROWD_THREADS * CROWD_FLOWS);
    assert_int_equal(lines->ends, CROWD_THREADS * CROWD_FLOWS);
    assert_int_equal(lines->dropped, 0);
    free(lines);
    close(fds[0]);
    sem_destroy(&crowd.refused);
}

static void the_reserve_holds_what_must_be_told(void **state)
{
    (void)state;
    int fds[2];
    uint64_t flows = 0, denials = 0;
    struct audit_event allowed = decision(true), denied = decision(false), end = flow_end();
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    struct audit *audit = open_audit(fds[1], false); /* nobody reads yet */
    struct metrics_worker *counted = calloc(1, sizeof(*counted));
    audit_count_in(audit, counted);
    while (audit_submit(audit, &allowed) == 0)
        flows++;
    assert_false(audit_ready(audit));
    assert_true(flows > 500);
    while (audit_submit(audit, &denied) == 0)
        denials++;
    assert_true(denials > 100 && denials < 1000); /* a reserve, and a bound */
    assert_int_equal(audit_dropped(audit), 1);
    for (uint64_t i = 0; i < flows; i++)
        assert_int_equal(audit_submit(audit, &end), 0);
    assert_int_equal(audit_submit(audit, &end), -ENOBUFS); /* of no flow that was let through */

    pthread_t reader;
    struct lines *lines;
    assert_int_equal(pthread_create(&reader, NULL, read_pipe, &fds[0]), 0);
    wait_ready(audit, true);
    assert_int_equal(audit_submit(audit, &denied), 0);
    assert_int_equal(audit_destroy(audit, 60000), 0);
    pthread_join(reader, (void **)&lines);
    assert_int_equal(lines->count, 2 * flows + denials + 1);
    assert_int_equal(lines->ends, flows);
    assert_int_equal(lines->denials, denials + 1);
    assert_int_equal(lines->dropped,
                     2); /* one denial, told by the first end; one end, told by the last denial */
    assert_int_equal(metric_get(&counted->audit_events), lines->count);
    assert_int_equal(metric_get(&counted->audit_dropped), 2);
    assert_int_equal(metric_get(&counted->decisions[METRICS_TLS][METRICS_ALLOWED][ACL_RULE_ALLOW]), flows);
    assert_int_equal(metric_get(&counted->decisions[METRICS_TLS][METRICS_DENIED][ACL_NO_RULE]), denials + 2); /* decided all the same */
    assert_int_equal(metric_get(&counted->audit_queued_bytes), 0);
    free(counted);
    free(lines);
    close(fds[0]);
}

static void a_stuck_reader_does_not_hold_the_end(void **state)
{
    (void)state;
    int fds[2];
    struct lines lines = {0};
    struct audit_event denied = decision(false);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    struct audit *audit = open_audit(fds[1], false);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(audit_submit(audit, &denied), 0);
    uint64_t lost = audit_destroy(audit, 50);
    read_lines(fds[0], &lines);
    assert_true(lost > 0);
    assert_int_equal(lines.count + lost, 1000);
    close(fds[0]);
}

static void a_full_disk_holds_lines_back(void **state)
{
    (void)state;
    struct lines lines = {0};
    struct audit_event allowed = decision(true), denied = decision(false), end = flow_end();
    int file = memory_file();
    struct audit *audit = open_audit(open("/dev/full", O_WRONLY | O_CLOEXEC), false);
    assert_int_equal(audit_error(audit), 0);
    assert_int_equal(audit_submit(audit, &allowed), 0);
    wait_ready(audit, false);
    assert_int_equal(audit_error(audit), ENOSPC);
    assert_int_equal(audit_submit(audit, &allowed), -ENOBUFS); /* no unaudited flow */
    assert_int_equal(audit_submit(audit, &denied), 0);
    assert_int_equal(audit_submit(audit, &end), 0);
    audit_reopen(audit, reopened(file));
    wait_ready(audit, true);
    assert_int_equal(audit_error(audit), 0);
    assert_int_equal(audit_submit(audit, &allowed), 0);
    assert_int_equal(audit_destroy(audit, 10000), 0);
    assert_int_equal(read_file(file, &lines), 0);
    assert_int_equal(lines.count, 4);
    assert_int_equal(lines.dropped, 0);
    close(file);
}

static void a_full_disk_at_the_end_is_told(void **state)
{
    (void)state;
    struct audit_event denied = decision(false);
    struct audit *audit = open_audit(open("/dev/full", O_WRONLY | O_CLOEXEC), true);
    for (int i = 0; i < 3; i++)
        assert_int_equal(audit_submit(audit, &denied), 0);
    assert_int_equal(audit_destroy(audit, 20), 3);
}

static void drop_mode_counts_what_it_leaves_out(void **state)
{
    (void)state;
    uint64_t submitted = 0;
    struct lines lines = {0};
    struct audit_event allowed = decision(true), denied = decision(false);
    int file = memory_file();
    struct audit *audit = open_audit(open("/dev/full", O_WRONLY | O_CLOEXEC), true);
    while (audit_dropped(audit) < 1000) {
        assert_int_equal(audit_submit(audit, &allowed), 0);
        submitted++;
        assert_true(audit_ready(audit));
    }
    audit_reopen(audit, reopened(file));
    for (uint64_t left_out = 0; left_out == 0;) { /* until there is room again */
        uint64_t before = audit_dropped(audit);
        assert_int_equal(audit_submit(audit, &allowed), 0);
        submitted++;
        left_out = before == audit_dropped(audit);
    }
    assert_int_equal(audit_submit(audit, &denied), 0);
    submitted++;
    uint64_t dropped = audit_dropped(audit);
    assert_int_equal(audit_destroy(audit, 10000), 0);
    assert_int_equal(read_file(file, &lines), 0);
    assert_true(dropped >= 1000);
    assert_int_equal(lines.dropped, dropped);
    assert_int_equal(lines.count + lines.dropped, submitted);
    close(file);
}

static void reopening_moves_to_the_new_file(void **state)
{
    (void)state;
    struct lines lines = {0};
    struct audit_event denied = decision(false);
    int files[5];
    for (int i = 0; i < 5; i++)
        files[i] = memory_file();
    struct audit *audit = open_audit(reopened(files[0]), false);
    for (int i = 0; i < 3; i++) {
        if (i)
            audit_reopen(audit, reopened(files[i]));
        for (int k = 0; k < 10; k++)
            assert_int_equal(audit_submit(audit, &denied), 0);
    }
    audit_reopen(audit, reopened(files[3])); /* two in a row: the first may never be used */
    audit_reopen(audit, reopened(files[4]));
    assert_int_equal(audit_submit(audit, &denied), 0);
    assert_int_equal(audit_destroy(audit, 10000), 0);
    for (int i = 0; i < 5; i++) {
        uint64_t before = lines.count;
        assert_int_equal(read_file(files[i], &lines), 0);
        if (i == 4)
            assert_true(lines.count - before >= 1); /* submitted after the reopen */
        close(files[i]);
    }
    assert_int_equal(lines.count, 31);
}

static void a_torn_line_of_a_crash_is_ended(void **state)
{
    (void)state;
    static const char torn[] = "{\"@timestamp\":\"2024";
    char text[AUDIT_LINE_MAX];
    struct audit_event denied = decision(false);
    int file = memory_file();
    assert_int_equal(write(file, torn, sizeof(torn) - 1), sizeof(torn) - 1);
    struct audit *audit = open_audit(reopened(file), false);
    assert_int_equal(audit_submit(audit, &denied), 0);
    assert_int_equal(audit_destroy(audit, 10000), 0);
    ssize_t n = pread(file, text, sizeof(text), sizeof(torn) - 1);
    assert_true(n > 2);
    assert_int_equal(text[0], '\n');
    json_decref(parse(text + 1, (size_t)n - 2));
    assert_int_equal(text[n - 1], '\n');
    close(file);
}

/* ---- a real disk that fills: a tmpfs of a few pages in a mount namespace of our own ---- */

#define DISK "/tmp"

static bool write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t n = write(fd, text, strlen(text));
    close(fd);
    return n == (ssize_t)strlen(text);
}

/* Root makes a mount namespace, others a user namespace around it. */
static bool enter_mount_namespace(void)
{
    char uid_map[32], gid_map[32];
    bool root = geteuid() == 0;
    snprintf(uid_map, sizeof(uid_map), "0 %u 1", geteuid());
    snprintf(gid_map, sizeof(gid_map), "0 %u 1", getegid());
    if (unshare(root ? CLONE_NEWNS : CLONE_NEWUSER | CLONE_NEWNS) < 0)
        return false;
    if (!root && (!write_file("/proc/self/uid_map", uid_map) || !write_file("/proc/self/setgroups", "deny") ||
                  !write_file("/proc/self/gid_map", gid_map)))
        return false;
    return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

static int open_on_disk(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    return fd;
}

/* Submits refused flows until the writer has met the end of the disk. Returns how many. */
static uint64_t fill_disk(struct audit *audit)
{
    struct audit_event denied = decision(false);
    uint64_t accepted = 0;
    for (int i = 0; i < 100; i++) /* some 60 KiB */
        accepted += audit_submit(audit, &denied) == 0;
    wait_ready(audit, false);
    assert_int_equal(audit_error(audit), ENOSPC);
    return accepted;
}

static void a_disk_that_fills_and_gets_room_loses_nothing(void **state)
{
    (void)state;
    struct lines lines = {0};
    if (!enter_mount_namespace())
        skip();
    assert_int_equal(mount("audit", DISK, "tmpfs", 0, "size=32k"), 0);
    int file = open_on_disk(DISK "/audit.jsonl");
    struct audit *audit = open_audit(reopened(file), false);
    uint64_t accepted = fill_disk(audit);
    assert_int_equal(mount("audit", DISK, "tmpfs", MS_REMOUNT, "size=8m"), 0);
    wait_ready(audit, true);
    assert_int_equal(audit_destroy(audit, 10000), 0);
    assert_int_equal(read_file(file, &lines), 0);
    assert_int_equal(lines.count, accepted);
    close(file);
    assert_int_equal(umount(DISK), 0);
}

/* A second worker at the same file, in a process of its own: fills the disk, waits for a word, and is done when all is written.
 * Returns how many events it had accepted, through the pipe. */
static void be_another_worker(int file, int word, int answer)
{
    char byte;
    struct audit *audit = audit_create(reopened(file), false, &(struct error){0});
    struct audit_event denied = decision(false);
    uint64_t accepted = 0;
    for (int i = 0; i < 100; i++)
        accepted += audit_submit(audit, &denied) == 0;
    while (audit_ready(audit))
        sched_yield();
    if (write(answer, &accepted, sizeof(accepted)) != sizeof(accepted) || read(word, &byte, 1) != 1)
        _exit(1);
    _exit(audit_destroy(audit, 10000) != 0);
}

static uint64_t count_whole_lines(int file)
{
    char line[AUDIT_LINE_MAX + 1];
    uint64_t count = 0;
    FILE *lines = fdopen(dup(file), "r");
    assert_non_null(lines);
    rewind(lines);
    for (; fgets(line, sizeof(line), lines); count++)
        json_decref(parse(line, strcspn(line, "\n")));
    fclose(lines);
    return count;
}

/* Both meet the end of the disk in the middle of a line, and neither's next line lands behind the other's half. */
static void two_workers_at_a_disk_that_fills_tear_no_line(void **state)
{
    (void)state;
    int word[2], answer[2], status;
    uint64_t theirs;
    if (!enter_mount_namespace())
        skip();
    assert_int_equal(mount("audit", DISK, "tmpfs", 0, "size=32k"), 0);
    int file = open_on_disk(DISK "/audit.jsonl");
    assert_int_equal(pipe(word) | pipe(answer), 0);
    pid_t other = fork();
    assert_true(other >= 0);
    if (other == 0)
        be_another_worker(file, word[0], answer[1]);
    struct audit *audit = open_audit(reopened(file), false);
    uint64_t ours = fill_disk(audit);
    assert_int_equal(read(answer[0], &theirs, sizeof(theirs)), sizeof(theirs));
    assert_int_equal(mount("audit", DISK, "tmpfs", MS_REMOUNT, "size=8m"), 0);
    assert_int_equal(write(word[1], "!", 1), 1);
    assert_int_equal(audit_destroy(audit, 10000), 0);
    assert_int_equal(waitpid(other, &status, 0), other);
    assert_int_equal(status, 0);
    assert_int_equal(count_whole_lines(file), ours + theirs);
    close(file);
    assert_int_equal(umount(DISK), 0);
}

/* A reader that locks the log for good is no more than a delay. */
static void a_log_that_is_locked_by_another_is_written(void **state)
{
    (void)state;
    struct lines lines = {0};
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int file = memory_file(), word[2], status;
    char byte;
    assert_int_equal(pipe(word), 0);
    pid_t locker = fork();
    assert_true(locker >= 0);
    if (locker == 0) {
        bool locked = fcntl(file, F_SETLK, &whole) == 0 && write(word[1], "!", 1) == 1;
        if (locked)
            pause();
        _exit(1);
    }
    assert_int_equal(read(word[0], &byte, 1), 1);
    struct audit *audit = open_audit(reopened(file), false);
    struct audit_event denied = decision(false);
    assert_int_equal(audit_submit(audit, &denied), 0);
    assert_int_equal(audit_destroy(audit, 10000), 0);
    kill(locker, SIGKILL);
    assert_int_equal(waitpid(locker, &status, 0), locker);
    assert_int_equal(read_file(file, &lines), 0);
    assert_int_equal(lines.count, 1);
    close(file);
}

/* The disk is full in the middle of a line, and the log is moved elsewhere: both files hold whole lines. */
static void a_line_torn_by_a_full_disk_moves_as_a_whole(void **state)
{
    (void)state;
    struct lines lines = {0};
    if (!enter_mount_namespace())
        skip();
    assert_int_equal(mount("audit", DISK, "tmpfs", 0, "size=32k"), 0);
    int file = open_on_disk(DISK "/audit.jsonl"), other = memory_file();
    struct audit *audit = open_audit(reopened(file), false);
    uint64_t accepted = fill_disk(audit);
    audit_reopen(audit, reopened(other));
    wait_ready(audit, true);
    assert_int_equal(audit_destroy(audit, 10000), 0);
    assert_int_equal(read_file(file, &lines), 0);
    assert_true(lines.count > 0 && lines.count < accepted);
    assert_int_equal(read_file(other, &lines), 0);
    assert_int_equal(lines.count, accepted);
    close(file);
    close(other);
    assert_int_equal(umount(DISK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_has_its_ecs_name),
        cmocka_unit_test(what_is_empty_is_left_out),
        cmocka_unit_test(actions_have_types_and_outcomes),
        cmocka_unit_test(a_change_has_who_and_what_and_no_flow),
        cmocka_unit_test(hostile_names_stay_inside_their_string),
        cmocka_unit_test(overlong_texts_are_cut_and_say_so),
        cmocka_unit_test(the_worst_event_fits_a_line),
        cmocka_unit_test(lines_come_out_in_order),
        cmocka_unit_test(nowhere_is_a_log_too),
        cmocka_unit_test(sequence_has_no_gap_under_a_crowd_and_a_full_queue),
        cmocka_unit_test(the_reserve_holds_what_must_be_told),
        cmocka_unit_test(a_stuck_reader_does_not_hold_the_end),
        cmocka_unit_test(a_full_disk_holds_lines_back),
        cmocka_unit_test(a_full_disk_at_the_end_is_told),
        cmocka_unit_test(drop_mode_counts_what_it_leaves_out),
        cmocka_unit_test(reopening_moves_to_the_new_file),
        cmocka_unit_test(a_torn_line_of_a_crash_is_ended),
        cmocka_unit_test(a_disk_that_fills_and_gets_room_loses_nothing),
        cmocka_unit_test(two_workers_at_a_disk_that_fills_tear_no_line),
        cmocka_unit_test(a_log_that_is_locked_by_another_is_written),
        cmocka_unit_test(a_line_torn_by_a_full_disk_moves_as_a_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
