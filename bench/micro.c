/*
 * Micro benchmarks: micro [NAMES-AT-MOST]      (1000000)
 *
 * One function at a time, in CPU time of this process (so that other work on the machine costs cache, not minutes), as the
 * median of SAMPLES samples and the distance of their quartiles. Every operation's result is checked: one that went wrong
 * ends the program. Look-ups take QUESTIONS different names in random order, so that with many rules they pay for the
 * memory they touch, as the names of many containers would.
 */
#include "acl/policy.h"
#include "bench/client_hello.h"
#include "gateway/audit.h"
#include "gateway/dns_message.h"
#include "gateway/hello.h"
#include "gateway/http_gate.h"
#include "redirect/monitor/metrics.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SAMPLES 9
#define SAMPLE_NS 20000000
#define QUESTIONS 4096

typedef void operation(void *arg, unsigned turn);

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static double sample(operation *one, void *arg, unsigned times)
{
    uint64_t start = cpu_ns();
    for (unsigned turn = 0; turn < times; turn++)
        one(arg, turn);
    return (double)(cpu_ns() - start) / times;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(const char *what, operation *one, void *arg)
{
    double samples[SAMPLES];
    unsigned times = 64;
    while (sample(one, arg, times) * times < SAMPLE_NS / 2.0)
        times *= 2;
    for (int i = 0; i < SAMPLES; i++)
        samples[i] = sample(one, arg, times);
    qsort(samples, SAMPLES, sizeof(*samples), ascending);
    double median = samples[SAMPLES / 2];
    printf("| %s | %.0f | %.0f %% |\n", what, median,
           100 * (samples[SAMPLES * 3 / 4] - samples[SAMPLES / 4]) / median);
    fflush(stdout);
}

static void must(bool good, const char *what)
{
    if (!good)
        errx(1, "%s: wrong result", what);
}

/* ---- parsers ---- */

static void parse_hello(void *arg, unsigned turn)
{
    struct hello hello;
    struct hello_reader reader;
    (void)turn;
    hello_reader_init(&reader);
    must(hello_feed(&reader, arg, CLIENT_HELLO_SIZE, &hello) == HELLO_DONE && hello.name_length == 19,
         "hello");
}

static const char request[] =
    "GET /api/v1/items?page=3 HTTP/1.1\r\nHost: www.allowed.example\r\nUser-Agent: micro/1\r\n"
    "Accept: application/json, text/plain, */*\r\nAccept-Encoding: gzip, deflate\r\n"
    "Accept-Language: en\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n\r\n";

/* A request of a kept connection: head, end, and that there is no more. */
static void check_head(void *arg, unsigned turn)
{
    size_t head, rest, none;
    (void)turn;
    must(http_gate_feed(arg, (const uint8_t *)request, sizeof(request) - 1, &head) == HTTP_GATE_REQUEST &&
             http_gate_request(arg)->host_length == 19,
         "head");
    must(http_gate_feed(arg, (const uint8_t *)request + head, 0, &rest) == HTTP_GATE_END, "end of request");
    must(http_gate_feed(arg, (const uint8_t *)request + head, 0, &none) == HTTP_GATE_MORE,
         "behind a request");
}

static void measure_parsers(void)
{
    uint8_t hello[CLIENT_HELLO_SIZE];
    client_hello_write("www.allowed.example", hello);
    measure("ClientHello of 517 bytes", parse_hello, hello);
    struct http_gate *gate = http_gate_create(80);
    if (!gate)
        err(1, "http_gate_create");
    measure("HTTP request head with 6 fields", check_head, gate);
    http_gate_destroy(gate);
}

/* ---- policy ---- */

struct lookups {
    const struct acl_policy *policy;
    char names[QUESTIONS][64];
    size_t lengths[QUESTIONS];
    bool allowed;
};

static void judge(void *arg, unsigned turn)
{
    const struct lookups *l = arg;
    unsigned at = turn % QUESTIONS;
    must(acl_policy_judge_name(l->policy, ACL_TLS, l->names[at], l->lengths[at], 443).allowed == l->allowed,
         "verdict");
}

static size_t write_name(char name[64], unsigned long number)
{
    return (size_t)snprintf(name, 64, "host-%lu.zone-%lu.example", number, number % 977);
}

static struct acl_policy *policy_of(unsigned long count)
{
    char name[64];
    struct error error = {0};
    struct acl_policy *policy = acl_policy_create("bench");
    for (unsigned long i = 0; policy && i < count; i++)
        if (acl_policy_add(policy, name, write_name(name, i), false,
                           (struct acl_origin){"names", (unsigned)i}, &error) < 0)
            errx(1, "%s", error.text);
    if (!policy || acl_policy_seal(policy) < 0)
        errx(1, "out of memory");
    return policy;
}

static void ask(struct lookups *l, unsigned long count, bool allowed, const char *how)
{
    char what[96];
    l->allowed = allowed;
    for (int i = 0; i < QUESTIONS; i++) {
        unsigned long number = (unsigned long)random() % count;
        l->lengths[i] = write_name(l->names[i], allowed ? number : number + count);
    }
    snprintf(what, sizeof(what), "policy of %lu names%s: a name that is %s", count, how, allowed ? "in it" : "not");
    measure(what, judge, l);
}

/* As after `sallyport deny` and `allow` for a container. */
static struct acl_policy *layer_over(const struct acl_policy *policy)
{
    static const char *const rules[] = {"denied.example", "*.denied.example.org", "tcp://allowed.example:22"};
    struct acl_policy *layer = acl_policy_create_over(policy, "layer");
    struct error error;
    for (size_t i = 0; layer && i < sizeof(rules) / sizeof(*rules); i++)
        if (acl_policy_add(layer, rules[i], strlen(rules[i]), i < 2, (struct acl_origin){"run time", 0}, &error) < 0)
            errx(1, "%s", error.text);
    if (!layer || acl_policy_seal(layer) < 0)
        errx(1, "out of memory");
    return layer;
}

static void measure_policy(unsigned long count)
{
    static struct lookups lookups;
    uint64_t start = cpu_ns();
    struct acl_policy *policy = policy_of(count);
    double milliseconds = (double)(cpu_ns() - start) / 1e6;
    size_t text, all = acl_policy_memory(policy, &text);
    lookups.policy = policy;
    ask(&lookups, count, true, "");
    ask(&lookups, count, false, "");
    struct acl_policy *layer = layer_over(policy);
    lookups.policy = layer;
    ask(&lookups, count, true, " and run-time changes");
    acl_policy_destroy(layer);
    printf("| … made in %.1f ms; %.0f bytes a name beside %.0f of text | | |\n", milliseconds,
           (double)(all - text) / (double)count, (double)text / (double)count);
    acl_policy_destroy(policy);
}

/* ---- audit ---- */

static const struct audit_event decision = {
    .action = AUDIT_FLOW_DECISION,
    .allowed = true,
    .reason = ACL_RULE_ALLOW,
    .flow_id = "0badcafe-17",
    .source = {.family = AF_INET, .port = 40000, .bytes = {192, 0, 2, 7}},
    .destination = {.family = AF_INET, .port = 443, .bytes = {198, 18, 0, 1}},
    .domain = "www.allowed.example",
    .domain_length = 19,
    .transport = "tcp",
    .protocol = "tls",
    .tls = true,
    .alpn = "h2,http/1.1",
    .policy = "agents",
    .policy_version = "0123456789abcdef",
    .container_id = "0123456789ab",
    .container_name = "build-1",
    .binding = "dns",
};

static void format_event(void *arg, unsigned turn)
{
    static char line[AUDIT_LINE_MAX];
    must(audit_format(arg, turn, (struct timespec){1800000000 + turn % 100, 123456789}, line, sizeof(line)) >
             0,
         "event");
}

/* Both events of a flow into the queue, whose writer throws them away: in the CPU time of both threads. */
static void submit_events(void *arg, unsigned turn)
{
    struct audit_event end = decision;
    (void)turn;
    end.action = AUDIT_FLOW_END;
    end.duration_ns = 1000000;
    end.close_by = AUDIT_CLOSE_ORIGIN;
    end.close_reason = "fin";
    while (!audit_ready(arg)) /* the writer is to catch up */
        nanosleep(&(struct timespec){0, 100000}, NULL);
    must(audit_submit(arg, &decision) == 0 && audit_submit(arg, &end) == 0, "submission");
}

static void measure_audit(void)
{
    struct error error = {0};
    measure("audit event, formatted", format_event, (void *)&decision);
    struct audit *audit = audit_create(-1, false, &error);
    if (!audit)
        errx(1, "%s", error.text);
    measure("two audit events of a flow, submitted and taken", submit_events, audit);
    audit_destroy(audit, 1000);
}

/* ---- metrics ---- */

/* All that one relayed flow of a request and an answer counts. */
static void count_flow(void *arg, unsigned turn)
{
    struct metrics_worker *m = arg;
    metric_add(&m->flows, 1);
    metric_set(&m->flows_active, turn);
    metrics_observe_sniff(m, 200000 + turn);
    metrics_observe_setup(m, 900000 + turn);
    metric_add(&m->audit_events, 1);
    metric_add(&m->decisions[METRICS_TLS][METRICS_ALLOWED][ACL_RULE_ALLOW], 1);
    metric_add(&m->bytes_up, 500);
    metric_add(&m->bytes_down, 4000);
    metric_add(&m->audit_events, 1);
    metric_set(&m->flows_active, turn);
}

static void render_metrics(void *arg, unsigned turn)
{
    size_t length;
    char *text = metrics_render(arg, false, &length);
    (void)turn;
    must(text && length > 4000, "metrics");
    free(text);
}

static void measure_metrics(void)
{
    struct metrics *metrics = metrics_create();
    must(metrics, "page of metrics");
    measure("metrics of a flow, counted", count_flow, &metrics->workers[0]);
    must(metric_get(&metrics->workers[0].flows) * 2 == metric_get(&metrics->workers[0].audit_events), "count");
    measure("metrics, all of them as text", render_metrics, metrics);
    metrics_destroy(metrics);
}

/* ---- DNS ---- */

struct dns {
    uint8_t query[512], kept[512];
    size_t query_length, kept_length;
};

/* A question whose answer is kept: read, answered. */
static void serve_answer(void *arg, unsigned turn)
{
    const struct dns *dns = arg;
    uint8_t answer[DNS_UDP_MAX];
    struct dns_query query;
    must(dns_query_parse(dns->query, dns->query_length, &query) == 0, "query");
    must(dns_answer_serve(dns->kept, dns->kept_length, turn % 100, dns->query, &query, true, answer,
                          sizeof(answer)) > 12,
         "answer");
}

static void refuse_question(void *arg, unsigned turn)
{
    const struct dns *dns = arg;
    uint8_t answer[DNS_UDP_MAX];
    struct dns_query query;
    (void)turn;
    must(dns_query_parse(dns->query, dns->query_length, &query) == 0, "query");
    must(dns_refusal_write(dns->query, &query, DNS_NXDOMAIN, DNS_EDE_BLOCKED, "no rule allows it", answer,
                           sizeof(answer)) > 12,
         "refusal");
}

static void measure_dns(void)
{
    static const char name[] = "www.allowed.example";
    static const struct addr addresses[2] = {{.family = AF_INET, .bytes = {198, 18, 0, 1}},
                                             {.family = AF_INET, .bytes = {198, 18, 0, 2}}};
    struct dns dns;
    ssize_t query = dns_query_write(7, name, DNS_TYPE_A, true, dns.query, sizeof(dns.query));
    ssize_t kept = dns_answer_compose(name, DNS_TYPE_A, addresses, 2, 3600, dns.kept, sizeof(dns.kept));
    must(query > 0 && kept > 0, "DNS message");
    dns.query_length = (size_t)query;
    dns.kept_length = (size_t)kept;
    measure("DNS question read, kept answer with 2 addresses written", serve_answer, &dns);
    measure("DNS question read, refusal written", refuse_question, &dns);
}

int main(int argc, char **argv)
{
    unsigned long most = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000000;
    printf("| | ns | spread |\n|---|--:|--:|\n");
    measure_parsers();
    for (unsigned long count = 10; count <= most; count *= 10)
        measure_policy(count);
    measure_audit();
    measure_metrics();
    measure_dns();
    return 0;
}
